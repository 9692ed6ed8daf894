"""Segments by rows compared with the same segments whole."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgecloud.engine.answers import is_close
from edgecloud.engine.executor import Executor
from edgecloud.models.graph import LayerGraph
from edgecloud.models.network import Fed, Network
from edgecloud.models.rows import ROWS, Piece, RowPlan
from edgecloud.net.tensors import Array


def values_of(network: Network, fed: Fed) -> dict[int, Array]:
    """What every layer makes."""
    values: dict[int, Array] = {}
    network.each_output(fed, lambda number, array: values.__setitem__(number, np.array(array)))
    return values


def pieces_of(graph: LayerGraph, tensors: Sequence[int], rng: random.Random, most: int = 5) -> list[Piece]:
    """The tensors in chunks with drawn ends, one after the other or by turns."""
    pieces = []
    for number in tensors:
        shape = graph.layers[number].out_shape
        axis = min(ROWS, len(shape) - 1)
        size = shape[axis]
        ends = sorted({0, size, *(rng.randint(1, size) for _ in range(rng.randint(1, most)))})
        pieces += [Piece(number, start, stop, axis) for start, stop in pairwise(ends)]
    if rng.random() < 0.5:
        pieces.sort(key=lambda each: each.stop / graph.layers[each.layer].out_shape[each.axis])
    return pieces


def chunk_of(piece: Piece, values: Mapping[int, Array]) -> Array:
    """A view of the whole tensor."""
    return values[piece.layer][(slice(None),) * piece.axis + (slice(piece.start, piece.stop),)]


@dataclass
class Compared:
    """Runs cuts of a network by rows and compares."""

    executor: Executor
    values: Mapping[int, Array]

    @property
    def graph(self) -> LayerGraph:
        return self.executor.network.graph

    def tail(self, head: frozenset[int], pieces: Sequence[Piece] | None = None, seed: int = 0) -> RowPlan | None:
        """What runs it; None where it stays whole. The chunks must stay as they are. Every other seed draws how far."""
        tail, rng = self.graph.everything - head, random.Random(seed)
        pieces = pieces or pieces_of(self.graph, self.graph.inputs_of(tail), rng)
        until = rng.choice(sorted(tail)) if tail and seed % 2 else None
        plan = self.executor.tail_rows(tail, pieces, until)
        if plan is not None:
            assert until is None or max(plan.region, default=0) <= until
            before = {piece.layer: self.values[piece.layer].copy() for piece in pieces}
            stream = self.executor.tail_by_rows(plan)
            seconds = sum(stream.feed(chunk_of(piece, self.values)) for piece in pieces)
            ran = stream.finish()
            assert is_close(ran.arrays, [self.values[number] for number in self.graph.outputs_of(tail)])
            assert seconds <= ran.seconds
            assert all(np.array_equal(array, self.values[n], equal_nan=True) for n, array in before.items())
        return plan

    def head(self, head: frozenset[int], pieces: Sequence[Piece] | None = None, seed: int = 0) -> RowPlan | None:
        """What runs it; None where it stays whole."""
        pieces = pieces or pieces_of(self.graph, self.graph.boundary(head), random.Random(seed))
        plan = self.executor.head_rows(head, pieces)
        if plan is not None:
            stream = self.executor.head_by_rows(plan)
            stream.begin([self.values[number] for number in self.graph.inputs if number in head])
            for piece in pieces:
                assert is_close([stream.next()[0]], [chunk_of(piece, self.values)])
            assert is_close(stream.finish().arrays, [self.values[number] for number in self.graph.outputs_of(head)])
        return plan
