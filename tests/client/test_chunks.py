"""Boundaries that leave in chunks: real sockets and a real cloud, and the caller's own module in torch as the oracle."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import nn

import edgecloud as ec
from edgecloud.client.chunks import fitted, stages_of
from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import Answered, Edge
from edgecloud.engine import tables
from edgecloud.net import entropy
from edgecloud.net.codec import CODECS
from edgecloud.partition.cost import Part, parts_of
from edgecloud.partition.overlap import Overlap, Slices
from tests.conftest import LONG_S


class Branches(nn.Module):
    """A picture, a stem, and branches that are put together again, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.end, self.last = nn.Conv2d(10, 4, 3, stride=2), nn.Linear(4 * 11 * 9, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        return self.last(self.end(x).relu().flatten(1))  # type: ignore[no-any-return]


NET = Branches().eval()
PIXELS = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (1, 3, 24, 20)).astype(np.float32))
X = PIXELS / 255


@pytest.fixture(scope="module")
def net() -> ec.Network:
    return ec.load(NET, X)


@pytest.fixture(scope="module")
def served(net: ec.Network) -> Iterator[ec.Cloud]:
    with ec.Cloud(networks=[net]) as cloud:
        yield cloud


@pytest.fixture
def edge(net: ec.Network, served: ec.Cloud) -> Iterator[Edge]:
    host, _, port = served.address.rpartition(":")
    with closing(Edge.around(EdgeConfig(net.name), net.entry, net.made_for("cpu"))) as edge:
        edge.connect(host, int(port), "", LONG_S)
        yield edge


def heads(edge: Edge) -> list[frozenset[int]]:
    """Cuts at points, and through the branches: two tensors cross."""
    graph = edge.graph
    at = [graph.head_at(point.number) for point in graph.points[:-1]]
    (joined,) = [number for number, layer in enumerate(graph.layers) if len(layer.inputs) > 1]
    return [*at, frozenset(range(joined))]


def overlap_of(edge: Edge, head: frozenset[int], count: int, axis: int | None = None) -> Overlap:
    """About `count` slices of every tensor, which interleave."""
    slices = []
    for layer in edge.graph.boundary(head):
        shape = edge.graph.layers[layer].out_shape
        along = min(2, len(shape) - 1) if axis is None else min(axis, len(shape) - 1)
        ends = sorted({max(1, shape[along] * (n + 1) // count) for n in range(count)})
        slices.append(Slices(layer, along, tuple(ends)))
    most = max(len(each) for each in slices)
    order = tuple((t, n) for n in range(most) for t, each in enumerate(slices) if n < len(each))
    return Overlap(tuple(slices), order=order)


def expected() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with torch.inference_mode():
        return NET(X).numpy()  # type: ignore[no-any-return]


def ask(edge: Edge, head: frozenset[int], overlap: Overlap | None, codec: str = "raw") -> Answered:
    codecs = dict.fromkeys(edge.graph.boundary(head), codec)
    return edge.infer_parts(
        {"x": X.numpy()} if False else X.numpy(), parts_of(edge.graph, head), LONG_S, codecs, overlap
    )


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_every_cut_in_chunks_gives_the_answer_of_the_module(edge: Edge, count: int, axis: int) -> None:
    for head in heads(edge):
        answered = ask(edge, head, overlap_of(edge, head, count, axis))
        np.testing.assert_allclose(answered.outputs[0], expected(), rtol=1e-4, atol=1e-5)
        whole = ask(edge, head, None)
        assert answered.measured.payload_bytes == whole.measured.payload_bytes
        assert answered.completed_by == whole.completed_by
        assert answered.measured.hidden_s >= 0 == whole.measured.hidden_s
        print(answered.measured, answered.measured.hidden_s, whole.measured)
