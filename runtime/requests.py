"""Whether what an edge asks for fits the network: checked before anything is decoded or computed."""

from collections.abc import Sequence
from itertools import pairwise

from models.graph import INPUT, LayerGraph
from net.messages import Hello, Infer
from net.tensors import Described
from runtime.session import RequestError
from utils.errors import MismatchError


def check_same(hello: Hello, mine: Hello) -> None:
    """Raises MismatchError where an edge has other weights or another graph."""
    for what in ("weights", "graph"):
        theirs, ours = getattr(hello, what), getattr(mine, what)
        if theirs != ours:
            raise MismatchError(
                f"{mine.model}: the {what} differ (cloud {ours[:19]}, edge {theirs[:19]!a}): give both sides the same "
                "--weights, the same version of this program and of torchvision, and the same file of an own network"
            )


def check_layers(request: Infer, graph: LayerGraph, max_bytes: int) -> frozenset[int]:
    """The layers of a request. Raises RequestError where they are none of the graph, or their outputs are too large."""
    bounds = [bound for pair in request.layers for bound in pair]
    if not bounds or bounds[-1] > len(graph.layers) or any(a >= b for a, b in pairwise(bounds)):
        raise RequestError(f"ranges of layers rise, and {graph.name} has layers 1 to {len(graph.layers) - 1}")
    layers = frozenset(number for start, stop in request.layers for number in range(start, stop))
    if INPUT in layers:
        raise RequestError("the input stays on the edge")
    if graph.bytes_of(graph.outputs_of(layers)) > max_bytes:
        raise RequestError(f"the outputs of these layers are more than {max_bytes} bytes (--max-payload)")
    return layers


def check_tensors(described: Sequence[Described], layers: frozenset[int], graph: LayerGraph) -> None:
    """Raises RequestError where these are not the tensors that the layers read."""
    expected = [graph.layers[number] for number in graph.inputs_of(layers)]
    if len(described) != len(expected):
        raise RequestError(f"these layers read {len(expected)} tensors, {len(described)} came")
    for one, layer in zip(described, expected, strict=True):
        if one.shape != layer.out_shape or one.dtype != layer.out_dtype:
            raise RequestError(
                f"layer {layer.id} makes {layer.out_dtype} {layer.out_shape}, {one.dtype} {one.shape} came"
            )
