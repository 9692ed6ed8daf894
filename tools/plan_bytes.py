"""The transfer sizes of a plan: as measured by the edge, from a file, or unpacked. Torch only to measure."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecloud.engine import packing_store
from edgecloud.engine.packing_store import AUTO, CodecCosts, lossless
from edgecloud.models import bundle, custom_model, graph_json
from edgecloud.models.graph import LayerGraph
from edgecloud.partition.cost import Packed
from edgecloud.partition.packing import RAW, Allowed
from edgecloud.predictor.profile import ProfileKey
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.progress import Show
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

FIELD = "packed"
MAX_WAYS = 32


@dataclass(frozen=True)
class Counted:
    """How the tensors of a plan travel, and where that is from."""

    packing: str = RAW
    """`measured`, `given` or `raw`."""
    source: str = ""
    """The file that it is from, or why they are counted as they are."""
    allowed: Allowed | None = None
    """None: as they are."""


def of_file(graph: LayerGraph, rows: Sequence[Mapping[str, Any]], name: str, codec: str, share: float) -> Counted:
    """What a --graph file says of each layer: `packed`, a list of ways. Raises UsageError for what is wrong with it."""
    ways_by_layer = [_given(row, graph_json.where_of(name, row), share) for row in rows]
    codecs = {way.codec for ways in ways_by_layer for way in ways}
    if codec not in {AUTO, RAW, *codecs}:
        names = ", ".join(sorted({AUTO, RAW, *codecs}))
        raise UsageError(f"no codec {codec[:40]!r} in {name}: choose {names}")
    if codec == RAW:
        return Counted(source="--codec raw")
    if not codecs:
        return Counted(source=f"{name} has no {FIELD} sizes")
    ways = []
    for layer, layer_ways in zip(graph.layers, ways_by_layer, strict=True):
        raw = Packed(RAW, layer.out_bytes)
        ways.append([raw, *layer_ways] if codec == AUTO else [way for way in layer_ways if way.codec == codec] or [raw])
    return Counted("given", name, Allowed(ways, {}))


def _given(row: Mapping[str, Any], where: str, share: float) -> list[Packed]:
    entries = row.get(FIELD, [])
    if not isinstance(entries, list) or len(entries) > MAX_WAYS or not all(isinstance(each, dict) for each in entries):
        raise UsageError(
            f'{where}: {FIELD} must be a list of at most {MAX_WAYS} {{"bytes", "codec", "encode_s", "decode_s"}}'
        )
    return [_way(each, f"{where}: {FIELD}", share) for each in entries]


def _way(entry: Mapping[str, Any], where: str, share: float) -> Packed:
    size, codec = graph_json.number_of(entry, "bytes", where), entry.get("codec", "packed")
    if size != int(size):
        raise UsageError(f"{where}: bytes must be a whole number, not {size!r}")
    if not isinstance(codec, str) or not 0 < len(codec) <= graph_json.MAX_NAME or codec in (AUTO, RAW):
        raise UsageError(f"{where}: codec must be a name other than {AUTO} and {RAW}")
    seconds = [graph_json.number_of(entry, name, where) if name in entry else 0.0 for name in ("encode_s", "decode_s")]
    return Packed(printable(codec, graph_json.MAX_NAME), int(size), seconds[0] / share, seconds[1])


def to_rows(allowed: Allowed) -> list[list[dict[str, Any]]]:
    """For every layer what `of_file` reads; `raw` is not told."""
    return [
        [
            {"codec": way.codec, "bytes": way.bytes, "encode_s": way.encode_s, "decode_s": way.decode_s}
            for way in ways
            if way.codec != RAW
        ]
        for ways in allowed.lossless
    ]


def of_edge(
    graph: LayerGraph, model: str, key: ProfileKey, folder: Path, codec: str, share: float, progress: Show
) -> Counted:
    """What the edge measured of a network, by the key of its profile; where it did not, that is measured now.

    Where it cannot be, tensors are counted as they are, and a warning says why. Raises UsageError for an unknown codec.
    """
    from edgecloud.net.codec import CODECS

    if codec not in (AUTO, *CODECS):
        raise UsageError(f"no codec {codec[:40]!r}: choose {AUTO}, {', '.join(CODECS)}")
    if codec == RAW:
        return Counted(source="--codec raw")
    needed = {(n, name) for n in range(len(graph.layers)) for name in lossless(codec, n) if name != RAW}
    path = packing_store.path_of(folder, key.model, key.graph, key.weights)
    cache = packing_store.read(path)
    if not cache.knows(needed):
        try:
            _measure(model, key, folder, codec, progress)
        except (AppError, ImportError) as error:
            why = printable(str(error), 200)
            log.warning("using unpacked sizes: packing costs are unknown (%s)", why)
            return Counted(source=f"packing costs are unknown: {why}")
        cache = packing_store.read(path)
        if not cache.knows(needed):
            log.warning("using unpacked sizes: cannot write %s", path)
            return Counted(source=f"cannot write {path}")
    return Counted("measured", str(path), Allowed(_ways(graph, cache.joined, codec, share), {}))


def _ways(graph: LayerGraph, packing: CodecCosts, codec: str, share: float) -> list[list[Packed]]:
    """Those of every layer; what a codec does not take travels raw."""
    numbers = range(len(graph.layers))
    return [
        packing.ways(graph, n, lossless(codec, n), share) or [Packed(RAW, graph.layers[n].out_bytes)] for n in numbers
    ]


def _measure(model: str, key: ProfileKey, folder: Path, codec: str, progress: Show) -> None:
    """Run the network once on its sample and keep what packing costs. Raises AppError, ImportError without torch."""
    from edgecloud.engine.packing import CodecPolicy, packing_of
    from edgecloud.models import registry

    progress("measuring the codecs", 0.0)
    is_file = custom_model.where(model) is not None or bundle.is_bundle(model)
    entry = registry.resolve_trusted(model if is_file else key.model)
    network = entry.network()
    if network.weights.digest != key.weights:
        raise UsageError(f"the profile of {key.model} is for other weights: run edge_api.py with these weights first")
    if network.graph.digest != key.graph:
        raise UsageError(f"the profile is for another {key.model}: run deployment.py profile -t {model}")
    packing_of(network, CodecPolicy.of(codec, None, 0.0), folder, lambda done: progress("measuring the codecs", done))
