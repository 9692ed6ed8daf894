"""The transfer sizes of a plan: as measured by the edge, from a file, or unpacked. Torch only to measure.

Lossy encodings are open to points within an accuracy budget, as a calibration says, or the file.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecloud.engine import packing_store
from edgecloud.engine.packing_store import AUTO
from edgecloud.models import custom_model, graph_json
from edgecloud.models.graph import LayerGraph
from edgecloud.partition.cost import Packed
from edgecloud.partition.gain import BUDGETS
from edgecloud.partition.packing import RAW, Allowed
from edgecloud.predictor.profile import ProfileKey
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.progress import Show
from edgecloud.utils.units import printable

if TYPE_CHECKING:
    from edgecloud.engine.packing import CodecPolicy

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
    wider: tuple[tuple[float, Allowed], ...] = ()
    """What larger accuracy budgets would allow, where the sizes of that are known."""


@dataclass(frozen=True)
class Packing:
    """What a plan is told of codecs: one by name, raw or auto, the share of answers that lossy ones may change, and
    whether the cloud takes JPEG."""

    codec: str = AUTO
    budget: float = 0.0
    has_jpeg: bool = False


def of_file(graph: LayerGraph, rows: Sequence[Mapping[str, Any]], name: str, wanted: Packing, share: float) -> Counted:
    """What a --graph file says of each layer: `packed`, a list of ways. Raises UsageError for what is wrong with it."""
    codec = wanted.codec
    ways_by_layer = [_given(row, graph_json.where_of(name, row), share) for row in rows]
    codecs = {way.codec for ways in ways_by_layer for way, _ in ways}
    if codec not in {AUTO, RAW, *codecs}:
        names = ", ".join(sorted({AUTO, RAW, *codecs}))
        raise UsageError(f"no codec {codec[:40]!r} in {name}: choose {names}")
    if codec == RAW:
        return Counted(source="--codec raw")
    if not codecs:
        return Counted(source=f"{name} has no {FIELD} sizes")
    if codec != AUTO:
        chosen = [[way for way, _ in ways if way.codec == codec] for ways in ways_by_layer]
        raw = [[Packed(RAW, layer.out_bytes)] for layer in graph.layers]
        return Counted("given", name, Allowed([ways or each for ways, each in zip(chosen, raw, strict=True)], {}))
    wider = tuple((budget, _within(graph, ways_by_layer, budget)) for budget in BUDGETS if budget > wanted.budget)
    return Counted("given", name, _within(graph, ways_by_layer, wanted.budget), wider)


def _within(graph: LayerGraph, ways_by_layer: Sequence[Sequence[tuple[Packed, float]]], budget: float) -> Allowed:
    """What a budget allows."""
    lossless = [
        [Packed(RAW, layer.out_bytes), *(way for way, loss in ways if not loss)]
        for layer, ways in zip(graph.layers, ways_by_layer, strict=True)
    ]
    lossy = {n: [way for way, loss in ways if 0 < loss <= budget] for n, ways in enumerate(ways_by_layer)}
    return Allowed(lossless, {n: ways for n, ways in lossy.items() if ways})


def _given(row: Mapping[str, Any], where: str, share: float) -> list[tuple[Packed, float]]:
    """Ways, each with the accuracy that it costs."""
    entries = row.get(FIELD, [])
    if not isinstance(entries, list) or len(entries) > MAX_WAYS or not all(isinstance(each, dict) for each in entries):
        raise UsageError(
            f'{where}: {FIELD} must be a list of at most {MAX_WAYS} {{"bytes", "codec", "encode_s", "decode_s"}}'
        )
    return [_way(each, f"{where}: {FIELD}", share) for each in entries]


def _way(entry: Mapping[str, Any], where: str, share: float) -> tuple[Packed, float]:
    size, codec = graph_json.number_of(entry, "bytes", where), entry.get("codec", "packed")
    if size != int(size):
        raise UsageError(f"{where}: bytes must be a whole number, not {size!r}")
    if not isinstance(codec, str) or not 0 < len(codec) <= graph_json.MAX_NAME or codec in (AUTO, RAW):
        raise UsageError(f"{where}: codec must be a name other than {AUTO} and {RAW}")
    names = ("encode_s", "decode_s", "loss")
    encode_s, decode_s, loss = (graph_json.number_of(entry, name, where) if name in entry else 0.0 for name in names)
    if loss > 1:
        raise UsageError(f"{where}: loss must be a share of answers, from 0 to 1, not {loss!r}")
    return Packed(printable(codec, graph_json.MAX_NAME), int(size), encode_s / share, decode_s), loss


def to_rows(allowed: Allowed, budget: float = 0.0) -> list[list[dict[str, Any]]]:
    """For every layer what `of_file` reads; `raw` is not told, and lossy ways cost what the budget allows."""
    return [
        [_row(way, 0.0) for way in ways if way.codec != RAW]
        + [_row(way, budget) for way in allowed.lossy.get(number, ())]
        for number, ways in enumerate(allowed.lossless)
    ]


def _row(way: Packed, loss: float) -> dict[str, Any]:
    row = {"codec": way.codec, "bytes": way.bytes, "encode_s": way.encode_s, "decode_s": way.decode_s}
    return row | ({"loss": loss} if loss else {})


def of_edge(
    graph: LayerGraph, model: str, key: ProfileKey, folder: Path, wanted: Packing, share: float, progress: Show
) -> Counted:
    """What the edge measured of a network, by the key of its profile; where it did not, that is measured now.

    Where it cannot be, tensors are counted as they are, and a warning says why. Raises UsageError for an unknown codec.
    """
    from edgecloud.engine.packing import check_codec, kept_costs

    check_codec(wanted.codec)
    if wanted.codec == RAW:
        return Counted(source="--codec raw")
    policy = _policy(key, folder, wanted)
    path = packing_store.path_of(folder, key.model, key.graph, key.weights)
    costs = kept_costs(graph, policy, packing_store.read(path))
    if costs is None:
        try:
            _measure(model, key, folder, policy, progress)
        except (AppError, ImportError) as error:
            why = printable(str(error), 200)
            log.warning("using unpacked sizes: packing costs are unknown (%s)", why)
            return Counted(source=f"packing costs are unknown: {why}")
        costs = kept_costs(graph, policy, packing_store.read(path))
        if costs is None:
            log.warning("using unpacked sizes: cannot write %s", path)
            return Counted(source=f"cannot write {path}")
    wider = tuple(_wider(graph, key, folder, wanted, share))
    return Counted("measured", str(path), policy.allowed(graph, costs, share), wider)


def _wider(
    graph: LayerGraph, key: ProfileKey, folder: Path, wanted: Packing, share: float
) -> Iterator[tuple[float, Allowed]]:
    """What larger budgets allow, where a calibration is kept and the sizes are known."""
    from edgecloud.engine import calibration
    from edgecloud.engine.packing import kept_costs

    if wanted.codec != AUTO or calibration.find_of(folder, key.model, key.graph, key.weights) is None:
        return
    kept = packing_store.read(packing_store.path_of(folder, key.model, key.graph, key.weights))
    for budget in BUDGETS:
        if budget > wanted.budget:
            policy = _policy(key, folder, replace(wanted, budget=budget))
            costs = kept_costs(graph, policy, kept)
            if costs is not None:
                yield budget, policy.allowed(graph, costs, share)


def _policy(key: ProfileKey, folder: Path, wanted: Packing) -> "CodecPolicy":
    return policy_for(key.model, key.graph, key.weights, folder, wanted)


def policy_for(name: str, graph: str, weights: str, folder: Path, wanted: Packing) -> "CodecPolicy":
    """What codecs are allowed for a network that is known by its digests. A cloud takes JPEG only if that is said."""
    from edgecloud.engine.packing import policy_of
    from edgecloud.net.codec import CODECS, KINDS, STANDARD

    policy = policy_of(name, graph, weights, wanted.codec, wanted.budget, folder)
    taken = CODECS if wanted.has_jpeg or wanted.codec != AUTO else STANDARD
    return replace(policy, known=frozenset((*taken, *KINDS)))


def _measure(model: str, key: ProfileKey, folder: Path, policy: "CodecPolicy", progress: Show) -> None:
    """Run the network once on its sample and keep what packing costs. Raises AppError, ImportError without torch."""
    from edgecloud.engine.packing import packing_of
    from edgecloud.models import registry

    progress("measuring the codecs", 0.0)
    is_file = custom_model.where(model) is not None or bool(registry.file_of_data(model))
    entry = registry.resolve_trusted(model if is_file else key.model)
    network = entry.network()
    if network.weights.digest != key.weights:
        raise UsageError(f"the profile of {key.model} is for other weights: run edge_api.py with these weights first")
    if network.graph.digest != key.graph:
        raise UsageError(f"the profile is for another {key.model}: run deployment.py profile -t {model}")
    packing_of(network, policy, folder, lambda done: progress("measuring the codecs", done))
