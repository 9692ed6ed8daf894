"""Segments that run by rows: a tail while its inputs come in chunks, a head whose outputs leave in chunks.

A stream is one run of a `models.rows.RowPlan`. Like an executor it is used by one thread at a time, and stretches its
work where a slower processor is emulated. Its back-end keeps the rows that are read again; layers that are computed
whole are ordinary segments of the executor.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from edgecloud.engine.segment import Ran, Segment
from edgecloud.models.network import Network
from edgecloud.models.rows import Ops, Piece, RowPlan
from edgecloud.net.tensors import Array
from edgecloud.partition.overlap import Overlap

Result = TypeVar("Result")


class RowRun(Protocol):
    """One run of a plan in a back-end: the rows that are there now."""

    def give(self, number: int, array: Array) -> None:
        """A whole tensor, which stays as it is."""

    def run(self, place: int, array: Array | None = None) -> None:
        """A step; `array` is its chunk where that comes, and stays as it is until the end."""

    def whole(self, number: int) -> Array:
        """A tensor of `RowPlan.full`, or one that was given; where it is made by rows, those that are there count."""


class RowBackend(Protocol):
    """What makes a back-end able to run by rows."""

    @property
    def ops(self) -> Ops:
        """The layers that it can compute by rows."""

    def takes(self, plan: RowPlan) -> bool:
        """Whether it has the memory that a plan needs to be ready."""

    def start(self, plan: RowPlan) -> tuple[RowRun, bool]:
        """A run of a plan, and whether it is the first one: then kernels are chosen and memory is fetched."""


def pieces_of(overlap: Overlap) -> tuple[Piece, ...]:
    """The chunks of a boundary, in the order in which they leave."""
    pieces = []
    for tensor, index in overlap.chunks():
        slices = overlap.slices[tensor]
        pieces.append(Piece(slices.layer, *slices.bounds(index), slices.axis))
    return tuple(pieces)


class Host(Protocol):
    """What a stream needs of its executor."""

    @property
    def network(self) -> Network:
        """Whose segments it runs."""

    @property
    def backend(self) -> str:
        """What computes."""

    def load(self, layers: frozenset[int]) -> Segment:
        """Make the segment of these layers ready."""

    def timed(self, call: Callable[[], Result]) -> tuple[Result, float]:
        """What a call returns, and the seconds that it took."""


class _Stream:
    """What heads and tails share."""

    def __init__(self, host: Host, backend: RowBackend, plan: RowPlan) -> None:
        self.plan = plan
        self.seconds = 0.0
        """Of all that has been computed so far."""
        self._host, self._graph = host, host.network.graph
        self._run, self._is_first = backend.start(plan)
        self._done = 0
        self._made: dict[int, Array] = {}
        """What was given or computed whole."""
        for layers in (plan.first, plan.rest, *(step.whole for step in plan.steps)):
            if layers:
                host.load(layers)

    def _timed(self, call: Callable[[], Result]) -> tuple[Result, float]:
        result, seconds = self._host.timed(call)
        self.seconds += seconds
        return result, seconds

    def _compute(self, layers: frozenset[int], given: Mapping[int, Array]) -> None:
        """Some layers in one piece."""
        if layers:
            segment = self._host.load(layers)
            self._is_first |= segment.runs == 0
            made = segment([given[n] if n in given else self._whole(n) for n in segment.inputs])
            for number, array in zip(segment.outputs, made, strict=True):
                self._made[number] = array
                self._run.give(number, array)

    def _whole(self, number: int) -> Array:
        return self._made[number] if number in self._made else self._run.whole(number)

    def _finished(self) -> Ran:
        if self._done != len(self.plan.steps):
            raise ValueError(f"{self._done} of {len(self.plan.steps)} chunks were computed")
        outputs = self._graph.outputs_of(self.plan.layers)
        arrays = [self._whole(number) for number in outputs]
        return Ran(arrays, self.seconds, is_first=self._is_first, backend=self._host.backend)


class TailStream(_Stream):
    """A tail that runs while its inputs come: `feed` every chunk in order, then `finish`."""

    def feed(self, array: Array) -> float:
        """Compute what the next chunk makes possible, and return the seconds that took.

        The array stays as it is, and is not changed by the caller, until `finish`. Raises ValueError for one of another
        shape than its chunk.
        """
        plan, place = self.plan, self._done
        if place == len(plan.steps):
            raise ValueError("there are no more chunks")
        piece = plan.steps[place].piece
        if array.shape[1:] != self._shape_of(piece):
            raise ValueError(f"a chunk of shape {array.shape} is none of {piece}")
        self._done += 1

        def compute() -> None:
            self._run.run(place, array)
            self._compute(plan.steps[place].whole, {})

        return self._timed(compute)[1]

    def _shape_of(self, piece: Piece) -> tuple[int, ...]:
        shape = list(self._graph.layers[piece.layer].out_shape)
        shape[piece.axis] = piece.stop - piece.start
        return tuple(shape[1:])

    def finish(self) -> Ran:
        """Run the rest, and return the outputs of the tail as `Executor.run` does; the seconds are those of all."""
        self._timed(lambda: self._compute(self.plan.rest, {}))
        return self._finished()


class HeadStream(_Stream):
    """A head whose outputs leave in chunks: `begin`, then `next` as often as there are chunks, then `finish`."""

    def begin(self, arrays: Sequence[Array]) -> float:
        """Run what is computed whole, on the arrays of the segment's inputs, and return the seconds that took."""
        graph, layers = self._graph, self.plan.layers
        own = tuple(number for number in graph.inputs if number in layers)
        given = dict(zip(own + graph.inputs_of(layers), arrays, strict=True))
        for number in set(given) - self.plan.first:
            self._made[number] = given[number]
            self._run.give(number, given[number])
        return self._timed(lambda: self._compute(self.plan.first, given))[1]

    def next(self) -> tuple[Array, float]:
        """The next chunk, and the seconds that it took to compute what was missing of it."""
        place = self._done
        if place == len(self.plan.steps):
            raise ValueError("there are no more chunks")
        self._done += 1
        seconds = self._timed(lambda: self._run.run(place))[1]
        piece = self.plan.steps[place].piece
        whole = self._whole(piece.layer)
        return whole[(slice(None),) * piece.axis + (slice(piece.start, piece.stop),)], seconds

    def finish(self) -> Ran:
        """The outputs of the head, whole, as `Executor.run` returns them; the seconds are those of all."""
        return self._finished()
