"""`deployment.py export`: a network of torch becomes a bundle, and every cut of it is compared with the network."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecloud.engine import certificates
from edgecloud.engine.executor import make_executor
from edgecloud.models import bundle, bundle_cache, bundle_network, registry
from edgecloud.models.bundle import Content, Identity, InputForm
from edgecloud.models.network import Network
from edgecloud.models.preprocessing import to_document
from edgecloud.models.registry import Entry
from edgecloud.models.specs import UnknownLayerError
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced, writing
from edgecloud.utils.inference_utils import CPU

Show = Callable[[str, float], None]


@dataclass(frozen=True)
class Written:
    """A bundle that was written."""

    path: Path
    content: Content
    bytes: int
    seconds: float

    @property
    def worst(self) -> bundle.Certificate:
        """The cut that differs most from the network, by the size of its answer."""
        return max(self.content.certificates, key=lambda each: each.largest_difference / max(each.largest, 1e-30))


def export(name: str, weights: str, path: Path, progress: Show) -> Written:
    """Write a bundle of a network. Nothing is left of one whose cuts give other answers than the network.

    Raises UsageError for a network that cannot be exported, NotCertifiedError where a cut is not the same.
    """
    from edgecloud.models import export as exporting
    from edgecloud.models.torch_network import TorchNetwork

    if not bundle.is_bundle(path.name):
        raise UsageError(f"{path}: the name of a bundle ends in {bundle.SUFFIX}")
    if registry.file_of_data(name):
        raise UsageError(f"{name} is data already: use it as it is, with -t")
    began = time.perf_counter()
    progress("loading the network", 0.0)
    entry = registry.resolve_trusted(name)
    network = entry.network(weights)
    if not isinstance(network, TorchNetwork):
        raise UsageError(f"{name} is no network of torch")
    progress("exporting the network", 0.0)
    exported = exporting.export(network.traced, network.example.tensors)
    content = content_of(entry, network, exported.tensors, is_batched=exported.is_batched)
    arrays = (exported.model, exported.weights, network.example.fed)
    with writing(path), replaced(path) as temporary:
        bundle.write(temporary, content, *arrays)
        executor = make_executor(bundle_network.read(temporary), CPU, backend="onnxruntime")
        certified = certificates.certify(
            executor,
            network.whole,
            is_batched=content.is_batched,
            progress=lambda done: progress("comparing every cut with the network", done),
        )
        content = replace(content, certificates=certified)
        bundle.write(temporary, content, *arrays)
    return Written(path, content, path.stat().st_size, time.perf_counter() - began)


def kept_path(name: str, folder: Path) -> Path:
    """Where the bundle of a network is kept for `--backend auto`, whose folder is made. Raises UsageError."""
    path = bundle_cache.path_of(folder, registry.resolve_trusted(name).name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def content_of(entry: Entry, network: Network, tensors: tuple[str, ...], *, is_batched: bool) -> Content:
    """What a bundle says of a network."""
    about = network.weights
    identity = Identity(
        name=network.graph.name,
        weights=about.digest,
        origin=about.origin,
        is_trained=about.trained,
        code=about.code,
        marks=about.marks,
        numbers=network.numbers,
        names=about.names,
    )
    try:
        specs, why_not = network.specs(), ""
    except UnknownLayerError as error:
        specs, why_not = None, str(error)
    return Content(
        identity=identity,
        input=form_of(entry, network),
        graph=network.graph,
        tensors=tensors,
        is_batched=is_batched,
        bound=network.bound,
        specs=specs,
        why_no_specs=why_not,
        made_by={"torch": network.made_with},
        answer=network.answer,
    )


def form_of(entry: Entry, network: Network) -> InputForm:
    """What an input of the network is."""
    return InputForm(
        shape=entry.input_shape,
        takes=entry.takes,
        source=network.example.source,
        preprocess=to_document(entry.preprocess) or {},
        labels=entry.labels,
        rows=network.example.rows,
        sample=entry.sample,
        call=network.call,
    )


def to_json(written: Written) -> dict[str, Any]:
    """What `--json` prints."""
    content = written.content
    return {
        "bundle": str(written.path),
        "bytes": written.bytes,
        "seconds": round(written.seconds, 3),
        "network": content.identity.name,
        "weights": content.identity.weights,
        "graph": content.graph.digest,
        "layers": len(content.graph.layers) - 1,
        "points": len(content.graph.points),
        "is_batched": content.is_batched,
        "certificates": [
            {
                "point": each.point,
                "batch": each.batch,
                "largest_difference": each.largest_difference,
                "same_top": each.is_same_top,
            }
            for each in content.certificates
        ],
    }


def to_lines(written: Written) -> list[str]:
    """What is printed otherwise."""
    content, worst = written.content, written.worst
    cuts = len({each.point for each in content.certificates})
    layers, megabytes = len(content.graph.layers) - 1, written.bytes / 1e6
    return [
        f"{written.path}: {content.identity.name}, {layers} layers, {megabytes:.3g} MB, {written.seconds:.1f} s",
        f"weights: {content.identity.origin}",
        f"verify: {cuts} cuts match the full model in torch "
        f"(largest difference {worst.largest_difference:.3g} of {worst.largest:.3g})",
        f"use: edge_api.py -t {written.path}, with or without torch",
    ]
