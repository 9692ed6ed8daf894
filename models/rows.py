"""Which layers can be computed from the first rows of what they read, and which rows they need for it. Pure.

A convolution, a pooling or a sum makes one row of its output from a few rows of its input. So while a tensor arrives
row by row, the layers behind it can begin; and a head can send the first rows of its last tensor before the others are
made. Nothing is computed twice: what is read again later is kept, and rows of padding are added at real borders alone.

*Rows* are slices along one axis, for feature maps (batch, channels, rows, columns) axis 2; every `Window` says which
axis it is, since a permutation may move it. A plan has one step for each chunk of the boundary; the back-ends follow it
(docs/decisions/0040-rows.md).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TypeAlias

from edgecloud.models.graph import LayerGraph

ROWS = 2
LEAST = 0.25
"""A layer is computed by rows where at least so much of it is made before the last step, or of a head after the first
one: each call costs something."""
KNOWN = 512
"""Counts of rows that are remembered: a graph has many layers alike, and its points have most of their tails in common.
More gain little, and clients of a cloud choose the ends of chunks: each may be some kilobytes."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows [start, stop) of what a layer reads, and the rows of padding that belong before and behind them."""

    start: int
    stop: int
    before: int = 0
    behind: int = 0
    axis: int | None = ROWS
    """None: the whole tensor."""


@dataclass(frozen=True, slots=True)
class Window:
    """How the rows of an input are looked at: row o of the output reads `reach` rows from o * stride - before on.

    Rows of the output that are made of padding alone, as those of a pad are, belong to the nearest one that is not.
    """

    size: int
    """Rows of the input."""
    reach: int = 1
    """From the first to the last row of a window: (kernel - 1) * dilation + 1."""
    stride: int = 1
    before: int = 0
    """Rows of padding in front of the first."""
    axis: int = ROWS
    """Of the input."""
    is_aligned: bool = False
    """Whether blocks begin at a multiple of the stride and get the padding of the whole tensor at both ends; rows that
    were computed from padding where none belongs are dropped."""
    reads_all: bool = False
    """Whether it needs the whole input for any row; then only `size` counts."""

    def ready(self, rows: int, made: int) -> int:
        """How many of `made` rows of the output can be computed from the first `rows` of the input."""
        if rows >= self.size:
            return made
        if self.reads_all or rows <= 0:
            return 0
        return self.with_padding(max(0, min(made, (rows - self.reach + self.before) // self.stride + 1)), made)

    def with_padding(self, rows: int, made: int) -> int:
        """So many of `made` rows of the output, and those made of padding alone that belong to them."""
        if rows <= 0 or self.reads_all:
            return rows
        first = (self.before - self.reach) // self.stride + 1
        last = (self.size + self.before - 1) // self.stride
        return made if rows > last else min(made, max(rows, first + 1))

    def needs(self, rows: int) -> int:
        """How many rows of the input the first `rows` of the output are computed from."""
        if rows <= 0:
            return 0
        return self.size if self.reads_all else max(1, self.read(0, rows).stop)

    def read(self, start: int, stop: int) -> Rows:
        """What is read for rows [start, stop) of the output."""
        if self.reads_all:
            return Rows(0, self.size, axis=None)
        first, end = start * self.stride - self.before, (stop - 1) * self.stride - self.before + self.reach
        if self.is_aligned:
            blocks = start - -(-self.before // self.stride)
            return Rows(max(0, blocks * self.stride), min(self.size, end), axis=self.axis)
        return Rows(max(0, first), min(self.size, end), max(0, -first), max(0, end - self.size), self.axis)


@dataclass(frozen=True, slots=True)
class RowOp:
    """A layer that can be computed by rows."""

    windows: tuple[Window, ...]
    """How it looks at each of its inputs, in the graph's order."""
    rows: int
    """Of its output."""
    axis: int = ROWS
    """Where they are in its output."""
    least: int = 1
    """Rows that are worth a call: what would make less waits for more, unless it is the end."""

    def after(self, made: int, ready: int) -> int:
        """How many rows there are after a step, of which so many were made before it and so many could be."""
        return ready if ready >= min(self.rows, made + self.least) else made

    def wanted(self, made: int, rows: int) -> int:
        """The same of a step in which so many have to be there."""
        if rows <= made:
            return made
        least = min(self.rows, max(rows, made + self.least))
        return max(window.with_padding(least, self.rows) for window in self.windows)


Ops: TypeAlias = Mapping[int, RowOp]
"""By the number of the layer; what is not in it is not computed by rows."""


@dataclass(frozen=True)
class RowOps:
    """What a back-end can compute by rows."""

    backend: str
    ops: Ops


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a boundary tensor: [start, stop) along an axis."""

    layer: int
    start: int
    stop: int
    axis: int = ROWS


@dataclass(frozen=True, slots=True)
class Made:
    """Rows [start, stop) of a layer's output, and what they are computed from, for each of its inputs."""

    layer: int
    start: int
    stop: int
    reads: tuple[Rows, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows [start, stop) of a tensor that are read again in a later step."""

    layer: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class RowStep:
    """What is done when a chunk has come, or so that it can leave."""

    piece: Piece
    made: tuple[Made, ...]
    """In an order in which they can be computed."""
    kept: tuple[Kept, ...] = ()
    """Of tensors that are not put together anyway (`RowPlan.full`)."""
    whole: frozenset[int] = frozenset()
    """Layers outside the region that can be computed now, behind those of `made` and in one piece."""


Counts: TypeAlias = tuple[int, ...]
"""Rows of a tensor that are there after each step."""


@dataclass(frozen=True)
class RowSchedule:
    """How far each layer of a segment is after each step: what a plan begins with, and all that its times depend on."""

    layers: frozenset[int]
    pieces: tuple[Piece, ...]
    """The chunks: a step for each."""
    rows: Mapping[int, Counts]
    """Of each layer that is computed by rows, in order."""
    whole: Mapping[int, frozenset[int]]
    """By step, other layers that are computed behind it in one piece: those of a tail whose inputs are whole then."""

    @property
    def region(self) -> frozenset[int]:
        """The layers that are computed by rows."""
        return frozenset(self.rows)


@dataclass(frozen=True)
class RowPlan:
    """How a segment runs by rows."""

    layers: frozenset[int]
    region: tuple[int, ...]
    """The layers that are computed by rows, in order."""
    steps: tuple[RowStep, ...]
    rows: Mapping[int, int] = field(hash=False)
    """How many rows each layer of the region has."""
    axes: Mapping[int, int] = field(hash=False)
    """Where they are."""
    first: frozenset[int] = frozenset()
    """Layers of a head that run in one piece before the first step."""
    rest: frozenset[int] = frozenset()
    """Layers of a tail that run in one piece after the last step."""
    full: frozenset[int] = frozenset()
    """Of the tensors that are made or come by rows, those that are put together: somebody reads them whole."""
    backend: str = ""
    """What looks at its inputs so, and can follow it."""

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The chunks, in order."""
        return tuple(step.piece for step in self.steps)


@dataclass(frozen=True, slots=True)
class RowSeconds:
    """Where the seconds of a segment go when it runs by rows."""

    before: float
    """Until the first step can begin: of a head what runs whole."""
    steps: tuple[float, ...]
    after: float
    """Once the last step is done: of a tail what runs whole."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.before + sum(self.steps) + self.after


def seconds_of(plan: RowPlan, seconds: Sequence[float], step_s: float = 0.0, call_s: float = 0.0) -> RowSeconds:
    """What each step takes, by the `seconds` of every layer of the graph: of a layer it takes the share of its rows.

    `step_s` is added for each step, `call_s` for each block that it computes. What a tail takes to start is not in it.
    """
    steps = []
    for step in plan.steps:
        shares = sum(seconds[each.layer] * (each.stop - each.start) / plan.rows[each.layer] for each in step.made)
        steps.append(step_s + call_s * len(step.made) + shares + sum(seconds[layer] for layer in step.whole))
    before, after = (sum(seconds[layer] for layer in layers) for layers in (plan.first, plan.rest))
    return RowSeconds(before, tuple(steps), after)


# --- a tail, whose inputs come in chunks


def tail_schedule(
    graph: LayerGraph,
    ops: Ops,
    layers: Collection[int],
    pieces: Sequence[Piece],
    least: float = LEAST,
    until: int | None = None,
) -> RowSchedule | None:
    """How far each layer of a segment can be while its inputs come in chunks, in the order of `pieces`; None where
    nothing is gained.

    Layers behind `until` are not computed by rows. One that is not runs once all that it reads is whole: behind a step
    where that is before the last one (`whole`), else with the rest. Raises ValueError where the chunks are not all of
    the inputs.
    """
    inside = frozenset(layers)
    _check(graph, graph.inputs_of(inside), pieces)
    if until is not None:
        ops = {number: op for number, op in ops.items() if number <= until}
    arriving = _Arriving(graph, ops, pieces)
    for number in sorted(inside):
        arriving.follow(number, least)
    early: dict[int, set[int]] = {}
    for number in inside.difference(arriving.rows):
        if arriving.whole_at[number] < len(pieces) - 1:
            early.setdefault(arriving.whole_at[number], set()).add(number)
    if not arriving.rows and not early:
        return None
    whole = {step: frozenset(numbers) for step, numbers in early.items()}
    return RowSchedule(inside, tuple(pieces), arriving.rows, whole)


def tail_plan(
    graph: LayerGraph,
    ops: Ops,
    layers: Collection[int],
    pieces: Sequence[Piece],
    least: float = LEAST,
    until: int | None = None,
) -> RowPlan | None:
    """What a segment computes while its inputs come in chunks, as `tail_schedule` has it."""
    schedule = tail_schedule(graph, ops, layers, pieces, least, until)
    if schedule is None:
        return None
    inside, region = schedule.layers, schedule.region
    given = _given(pieces)
    axes = {piece.layer: piece.axis for piece in pieces} | {number: ops[number].axis for number in region}
    full = {n for n, axis in axes.items() if _is_read_whole(graph, ops, n, inside, region, axis)}
    full |= region.intersection(graph.outputs_of(inside))
    steps = _steps(graph, ops, schedule, given, full)
    return _planned(ops, schedule, steps, full, rest=inside.difference(region, *schedule.whole.values()))


def _given(pieces: Sequence[Piece]) -> dict[int, Counts]:
    """Of what comes in chunks, rows after each step."""
    given: dict[int, Counts] = {}
    for step, piece in enumerate(pieces):
        before = given.get(piece.layer, (0,) * len(pieces))
        given[piece.layer] = before[:step] + (piece.stop,) * (len(pieces) - step)
    return given


class _Arriving:
    """How much of every tensor is there after each step."""

    def __init__(self, graph: LayerGraph, ops: Ops, pieces: Sequence[Piece]) -> None:
        self._graph, self._ops, self._count = graph, ops, len(pieces)
        self._axes = {piece.layer: piece.axis for piece in pieces}
        self._given = _given(pieces)
        self.rows: dict[int, Counts] = {}
        """Of every layer of the region, rows after each step."""
        self.whole_at = {piece.layer: step for step, piece in enumerate(pieces)}
        """The step with which a tensor is whole, of a layer that runs in one piece that behind which it runs."""

    def follow(self, number: int, least: float) -> None:
        """Look at a layer behind all that it reads."""
        op, inputs = self._ops.get(number), self._graph.layers[number].inputs
        self.whole_at[number] = max(self.whole_at[source] for source in inputs)
        if op is None or self._count < 2:
            return
        rows = _made_of(op, tuple(map(self._there, inputs, op.windows)))
        if rows[-1] == op.rows and rows[-2] >= max(1, least * op.rows):
            self.rows[number] = rows
            self.whole_at[number] = rows.index(op.rows)

    def _there(self, source: int, window: Window) -> Counts:
        """Rows of a tensor that a layer of the region can read after each step."""
        rows, whole_at = self._given.get(source) or self.rows.get(source), self.whole_at[source]
        if rows is None:  # it runs behind a step
            return tuple(window.size if whole_at < step else 0 for step in range(self._count))
        if not window.reads_all and window.axis == self._axis_of(source):
            return rows
        return tuple(window.size if whole_at <= step else 0 for step in range(self._count))

    def _axis_of(self, number: int) -> int:
        """Along which the rows of a tensor come."""
        return self._axes[number] if number in self._axes else self._ops[number].axis


@lru_cache(maxsize=KNOWN)
def _made_of(op: RowOp, there: tuple[Counts, ...]) -> Counts:
    """Rows of a layer after each step, where of each of its inputs so many are there."""
    rows, made = [], 0
    for counts in zip(*there, strict=True):
        ready = min(window.ready(count, op.rows) for window, count in zip(op.windows, counts, strict=True))
        made = op.after(made, ready)
        rows.append(made)
    return tuple(rows)


# --- a head, whose outputs leave in chunks


def head_schedule(
    graph: LayerGraph, ops: Ops, layers: Collection[int], pieces: Sequence[Piece], least: float = LEAST
) -> RowSchedule | None:
    """How far each layer of a segment has to be such that its outputs can leave in chunks, in the order of `pieces`;
    None where nothing is gained. Raises ValueError where the chunks are not all of tensors that leave it."""
    inside = frozenset(layers)
    _check(graph, _leaving(graph, inside), pieces)
    leaving = _Leaving(graph, ops, inside, pieces)
    for number in sorted(inside, reverse=True):
        leaving.follow(number, least)
    rows = dict(sorted(leaving.rows.items()))
    return RowSchedule(inside, tuple(pieces), rows, {}) if rows else None


def head_plan(
    graph: LayerGraph, ops: Ops, layers: Collection[int], pieces: Sequence[Piece], least: float = LEAST
) -> RowPlan | None:
    """What a segment computes such that its outputs can leave in chunks, as `head_schedule` has it."""
    schedule = head_schedule(graph, ops, layers, pieces, least)
    if schedule is None:
        return None
    inside, region = schedule.layers, schedule.region
    kept = {*_leaving(graph, inside), *graph.outputs}
    full = {n for n in region if n in kept or _is_read_whole(graph, ops, n, inside, region, ops[n].axis)}
    return _planned(ops, schedule, _steps(graph, ops, schedule, {}, full), full, first=inside - region)


def _leaving(graph: LayerGraph, inside: frozenset[int]) -> tuple[int, ...]:
    return tuple(n for n in sorted(inside) if any(reader not in inside for reader in graph.readers[n]))


class _Leaving:
    """How much of every tensor has to be there in each step."""

    def __init__(self, graph: LayerGraph, ops: Ops, inside: frozenset[int], pieces: Sequence[Piece]) -> None:
        self._graph, self._ops, self._inside, self._pieces = graph, ops, inside, pieces
        self._leaves = frozenset(piece.layer for piece in pieces)
        self.rows: dict[int, Counts] = {}

    def follow(self, number: int, least: float) -> None:
        """Look at a layer behind all that read it."""
        op, readers = self._ops.get(number), [n for n in self._graph.readers[number] if n in self._inside]
        if op is None or any(n not in self.rows for n in readers) or not (readers or number in self._leaves):
            return
        rows = _made_for(op, tuple(self._wanted(number, op, readers)))
        if len(rows) > 1 and rows[0] <= (1 - least) * op.rows:
            self.rows[number] = rows

    def _wanted(self, number: int, op: RowOp, readers: Iterable[int]) -> Iterable[Counts]:
        """Rows of a layer that have to be there in each step: by itself, and for each that reads it."""
        is_kept = number in self._leaves or number in self._graph.outputs
        if is_kept:
            yield self._own(number, op)
        for reader in readers:
            theirs = self._ops[reader]
            for source, window in zip(self._graph.layers[reader].inputs, theirs.windows, strict=True):
                if source == number:
                    is_same = window.axis == op.axis and not window.reads_all
                    yield _needed(window if is_same else None, op.rows, self.rows[reader])

    def _own(self, number: int, op: RowOp) -> Counts:
        rows, own = 0, []
        for piece in self._pieces:
            if piece.layer == number:
                rows = piece.stop if piece.axis == op.axis else op.rows
            own.append(rows)
        if number in self._graph.outputs:
            own[-1] = op.rows
        return tuple(own)


@lru_cache(maxsize=KNOWN)
def _needed(window: Window | None, size: int, rows: Counts) -> Counts:
    """Rows of a tensor, which has `size`, that a layer reads to make so many in each step; all without a window."""
    if window is None:
        return tuple(size if each else 0 for each in rows)
    return tuple(map(window.needs, rows))


@lru_cache(maxsize=KNOWN)
def _made_for(op: RowOp, wanted: tuple[Counts, ...]) -> Counts:
    """Rows of a layer after each step, where so many have to be there."""
    rows, made = [], 0
    for counts in zip(*wanted, strict=True):
        made = op.wanted(made, max(counts))
        rows.append(made)
    return tuple(rows)


# --- what both have


def _check(graph: LayerGraph, tensors: Sequence[int], pieces: Sequence[Piece]) -> None:
    ends = dict.fromkeys(tensors, 0)
    axes: dict[int, int] = {}
    for piece in pieces:
        if piece.layer not in ends or piece.start != ends[piece.layer] or piece.stop <= piece.start:
            raise ValueError(f"{graph.name}: {piece} does not follow the chunks before it")
        if axes.setdefault(piece.layer, piece.axis) != piece.axis:
            raise ValueError(f"{graph.name}: {piece} is along another axis than the chunks before it")
        ends[piece.layer] = piece.stop
    for number, end in ends.items():
        shape = graph.layers[number].out_shape
        axis = axes.get(number, 0)
        if number not in axes or axis >= len(shape) or end != shape[axis]:
            raise ValueError(f"{graph.name}: the chunks are not all of layer {graph.layers[number].id}")


def _is_read_whole(
    graph: LayerGraph, ops: Ops, number: int, inside: frozenset[int], region: frozenset[int], axis: int
) -> bool:
    """Whether anybody in a segment reads a tensor in another way than by rows along that axis."""
    for reader in graph.readers[number]:
        if reader not in inside:
            continue
        if reader not in region:
            return True
        for source, window in zip(graph.layers[reader].inputs, ops[reader].windows, strict=True):
            if source == number and (window.reads_all or window.axis != axis):
                return True
    return False


def _steps(
    graph: LayerGraph, ops: Ops, schedule: RowSchedule, given: Mapping[int, Counts], full: Collection[int]
) -> tuple[RowStep, ...]:
    """`given` are the rows of what comes that are there after each step."""
    rows, done = schedule.rows, dict.fromkeys(schedule.rows, 0)
    steps = []
    for step, piece in enumerate(schedule.pieces):
        made = []
        for number, counts in rows.items():
            start, stop = done[number], counts[step]
            if stop > start:
                reads = tuple(window.read(start, stop) for window in ops[number].windows)
                made.append(Made(number, start, stop, reads))
                done[number] = stop
        there = {n: each[step] for n, each in (*given.items(), *rows.items()) if n not in full}
        kept = tuple(_kept(graph, ops, rows, done, there))
        steps.append(RowStep(piece, tuple(made), kept, schedule.whole.get(step, frozenset())))
    return tuple(steps)


def _kept(
    graph: LayerGraph, ops: Ops, rows: Mapping[int, Counts], done: Mapping[int, int], there: Mapping[int, int]
) -> Iterable[Kept]:
    """What the layers that are not finished will read again."""
    for number, stop in there.items():
        starts = [
            window.read(done[reader], done[reader] + 1).start
            for reader in graph.readers[number]
            if reader in done and done[reader] < rows[reader][-1]
            for source, window in zip(graph.layers[reader].inputs, ops[reader].windows, strict=True)
            if source == number
        ]
        if starts and min(starts) < stop:
            yield Kept(number, min(starts), stop)


def _planned(
    ops: Ops,
    schedule: RowSchedule,
    steps: tuple[RowStep, ...],
    full: Collection[int],
    first: frozenset[int] = frozenset(),
    rest: frozenset[int] = frozenset(),
) -> RowPlan:
    region = tuple(schedule.rows)
    sizes, axes = {n: ops[n].rows for n in region}, {n: ops[n].axis for n in region}
    return RowPlan(schedule.layers, region, steps, sizes, axes, first, rest, frozenset(full))
