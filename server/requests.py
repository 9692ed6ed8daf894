"""Validation of requests against the network, before anything is decoded or computed. Pure."""

from collections.abc import Sequence
from itertools import pairwise, product

from edgecloud.models.graph import LayerGraph
from edgecloud.models.marks import first_other
from edgecloud.net.messages import Hello, Infer
from edgecloud.net.tensors import Described
from edgecloud.utils.errors import AppError, MismatchError


class RequestError(AppError):
    """A request that cannot be carried out; the connection goes on."""

    code = "BAD_REQUEST"


def check_same(hello: Hello, mine: Hello, names: Sequence[str] = ()) -> None:
    """Raises MismatchError where an edge has other weights or another graph; it says what differs, the cure last.

    `names` are those of the tensors in our weights' digest.
    """
    if (hello.weights, hello.graph) == (mine.weights, mine.graph):
        return
    own, same_code = bool(mine.code), hello.code in (mine.code, "")
    parts = (
        "" if same_code else "the code differs",
        _other_weights(hello, mine, names),
        "" if hello.graph == mine.graph else "the graph differs",
        _other_torch(hello.torch, mine.torch),
    )
    cure = _CURES[own, same_code, hello.weights != mine.weights]
    raise MismatchError(f"{mine.model[:40]}: {'; '.join(filter(None, parts))[:MOST_DIFFERENCES]}: {cure}")


_SAME = "use the same --weights and the same versions of this program and torchvision on both sides"
_CURES = dict.fromkeys(product((False, True), repeat=3), _SAME) | {
    (True, False, True): "use the same file on both sides",
    (True, True, True): "save its weights once, and use --weights FILE on both sides (docs/networks.md)",
    (True, True, False): "everything that its file imports or reads must be the same on both sides, including torch",
}
"""By whether it is a custom model, of the same code, and whether the weights differ."""


MOST_DIFFERENCES = 165  # characters, so that name, differences and cure fit into an ERROR


def _other_torch(theirs: str, ours: str) -> str:
    return f"torch differs (cloud {ours[:16]}, edge {_shown(theirs)})" if theirs and ours and theirs != ours else ""


def _shown(text: str) -> str:
    """Untrusted text."""
    return f"{text[:19]!a}"[:21]


def _other_weights(hello: Hello, mine: Hello, names: Sequence[str]) -> str:
    """Weights whose digests differ for the code alone are the same."""
    first = first_other(hello.tensors, mine.tensors, names) if hello.tensors and mine.tensors else ""
    if hello.weights == mine.weights or (not first and hello.code != mine.code):
        return ""
    where = f", first in {first[:60]}" if first else f" (cloud {mine.weights[:19]}, edge {_shown(hello.weights)})"
    return f"the weights differ{where}"


def check_layers(request: Infer, graph: LayerGraph, max_bytes: int) -> frozenset[int]:
    """The layers of a request. Raises RequestError where they are none of the graph, or their outputs are too large."""
    bounds = [bound for pair in request.layers for bound in pair]
    if not bounds or bounds[-1] > len(graph.layers) or any(a >= b for a, b in pairwise(bounds)):
        raise RequestError(f"layer ranges must be ascending, and {graph.name} has layers 1 to {len(graph.layers) - 1}")
    layers = frozenset(number for start, stop in request.layers for number in range(start, stop))
    if layers & graph.only_inputs:
        raise RequestError("the input cannot be an output")
    if graph.bytes_of(graph.outputs_of(layers)) > max_bytes:
        raise RequestError(f"the outputs of these layers exceed {max_bytes} bytes (--max-payload)")
    return layers


MAX_CHUNKS = 64
"""In how many chunks the tensors of one request may come."""


def check_cuts(request: Infer, layers: frozenset[int], graph: LayerGraph, max_bytes: int, *, is_bare: bool) -> None:
    """Raises RequestError where the tensors that the layers read are not cut into slices, too many, or too large.
    `is_bare` says that the INFER has none of them in its payload."""
    expected = [graph.layers[number] for number in graph.inputs_of(layers)]
    if len(request.cuts) != len(expected) or not is_bare:
        raise RequestError(f"these layers read {len(expected)} tensors, and all of them come in chunks or none")
    for (axis, *ends), layer in zip(request.cuts, expected, strict=True):
        if axis >= len(layer.out_shape) or ends[-1] != layer.out_shape[axis]:
            raise RequestError(f"layer {layer.id} makes {layer.out_shape}: no slices along axis {axis} to {ends[-1]}")
    if request.rows and sorted(request.rows) != [n for n, cut in enumerate(request.cuts) for _ in cut[1:]]:
        raise RequestError("the order of chunks must name each tensor as often as it has chunks")
    if (chunks := chunks_of(request)) > MAX_CHUNKS:
        raise RequestError(f"{chunks} chunks, the limit is {MAX_CHUNKS}")
    if (size := graph.bytes_of(graph.inputs_of(layers))) > max_bytes:
        raise RequestError(f"tensors of {size} bytes, the limit is {max_bytes} (--max-payload)")


def chunks_of(request: Infer) -> int:
    """In how many chunks its tensors come."""
    return sum(len(cut) - 1 for cut in request.cuts)


def point_of(graph: LayerGraph, layers: frozenset[int]) -> int | None:
    """The number of the cut whose tail these layers are; None where they are a part, or several tensors cross."""
    first = min(layers)
    if len(layers) != len(graph.layers) - first:
        return None
    return next((point.number for point in graph.points if point.layer == first - 1), None)


def check_tensors(described: Sequence[Described], layers: frozenset[int], graph: LayerGraph) -> None:
    """Raises RequestError where these are not the tensors that the layers read."""
    expected = [graph.layers[number] for number in graph.inputs_of(layers)]
    if len(described) != len(expected):
        raise RequestError(f"these layers read {len(expected)} tensors, got {len(described)}")
    for one, layer in zip(described, expected, strict=True):
        if one.shape != layer.out_shape or one.dtype != layer.out_dtype:
            raise RequestError(
                f"layer {layer.id} makes {layer.out_dtype} {layer.out_shape}, got {one.dtype} {one.shape}"
            )
