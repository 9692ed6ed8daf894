"""A small network with branches, as GoogLeNet has them: several tensors can cross a cut, and its tail works on rows."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from edgecloud.models import torch_rows
from edgecloud.models.graph import LayerGraph
from edgecloud.partition.overlap import Overlap, Slices


class Branches(nn.Module):
    """A stem, two branches that are put together, and an answer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.end, self.last = nn.Conv2d(10, 4, 3, stride=2), nn.Linear(4 * 11 * 9, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        x = self.last(self.end(x).relu().flatten(1))
        return x


@contextmanager
def small_blocks() -> Iterator[None]:
    """Within, this network is computed by rows, though it is too small for that to pay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_rows, "LEAST_PLACES", 1)
        yield


def module() -> nn.Module:
    """The network, the same each time."""
    return Branches().eval()


def picture() -> torch.Tensor:
    """Eight-bit pixels from 0 to 1, shape (1, 3, 24, 20)."""
    pixels = np.random.default_rng(2).integers(0, 256, (1, 3, 24, 20))
    return torch.from_numpy(pixels.astype(np.float32)) / 255


def heads(graph: LayerGraph) -> list[frozenset[int]]:
    """Cuts at every point but the last, and one through the branches: two tensors cross."""
    at = [graph.head_at(point.number) for point in graph.points[:-1]]
    (joined,) = [number for number, layer in enumerate(graph.layers) if len(layer.inputs) > 1]
    return [*at, frozenset(range(joined))]


def overlap_of(
    graph: LayerGraph,
    head: frozenset[int],
    count: int,
    axis: int = 2,
    *,
    head_rows: bool = False,
    tail_rows: bool = False,
) -> Overlap:
    """About `count` slices of every boundary tensor, those of one between those of the other."""
    slices = []
    for layer in graph.boundary(head):
        shape = graph.layers[layer].out_shape
        along = min(axis, len(shape) - 1)
        ends = sorted({max(1, shape[along] * (n + 1) // count) for n in range(count)})
        slices.append(Slices(layer, along, tuple(ends)))
    most = max(map(len, slices))
    order = tuple((tensor, n) for n in range(most) for tensor, each in enumerate(slices) if n < len(each))
    return Overlap(tuple(slices), head_rows=head_rows, tail_rows=tail_rows, order=order)
