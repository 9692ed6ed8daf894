"""From a network of torch to a bundle of it, every cut of which is compared with the network."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgecloud.engine import certificates
from edgecloud.engine.executor import make_executor
from edgecloud.models import bundle, bundle_network
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


def write(entry: Entry, network: Network, path: Path, progress: Show) -> Written:
    """Write a bundle of a network. Nothing is left of one whose cuts give other answers than the network.

    Raises UsageError for a network that cannot be exported, NotCertifiedError where a cut is not the same.
    """
    from edgecloud.models import export as exporting
    from edgecloud.models.torch_network import TorchNetwork

    if not isinstance(network, TorchNetwork):
        raise UsageError(f"{network.graph.name} is no network of torch")
    began = time.perf_counter()
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
            exact=network.in_float64,
        )
        content = replace(content, certificates=certified)
        bundle.write(temporary, content, *arrays)
    return Written(path, content, path.stat().st_size, time.perf_counter() - began)


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
