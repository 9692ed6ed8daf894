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
from functools import cached_property
from typing import TypeAlias

from edgecloud.models.graph import LayerGraph

ROWS = 2
LEAST = 0.25
"""A layer is computed by rows where at least so much of it is made before the last step, or of a head after the first
one: each call costs something."""


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


def tail_plan(
    graph: LayerGraph,
    ops: Ops,
    layers: Collection[int],
    pieces: Sequence[Piece],
    least: float = LEAST,
    until: int | None = None,
) -> RowPlan | None:
    """How a segment runs while its inputs come in chunks, in the order of `pieces`; None where nothing is gained.

    Layers behind `until` are not computed by rows. One that is not runs once all that it reads is whole: behind a step
    where that is before the last one (`RowStep.whole`), else with the rest. Raises ValueError where the chunks are not
    all of the inputs.
    """
    inside = frozenset(layers)
    _check(graph, graph.inputs_of(inside), pieces)
    if until is not None:
        ops = {number: op for number, op in ops.items() if number <= until}
    arriving = _Arriving(graph, ops, pieces)
    for number in sorted(inside):
        arriving.follow(number, least)
    region = frozenset(arriving.rows)
    early: dict[int, set[int]] = {}
    for number in inside - region:
        if arriving.whole_at[number] < len(pieces) - 1:
            early.setdefault(arriving.whole_at[number], set()).add(number)
    if not region and not early:
        return None
    given = dict.fromkeys(piece.layer for piece in pieces)
    full = {n for n in (*given, *region) if _is_read_whole(graph, ops, n, inside, region, arriving.axis_of(n))}
    full |= region.intersection(graph.outputs_of(inside))
    steps = _steps(graph, ops, arriving.rows, pieces, arriving.given, full, early)
    rest = inside.difference(region, *early.values())
    return _planned(ops, inside, arriving.rows, steps, full, rest=rest)


class _Arriving:
    """How much of every tensor is there after each step."""

    def __init__(self, graph: LayerGraph, ops: Ops, pieces: Sequence[Piece]) -> None:
        self._graph, self._ops, self._pieces = graph, ops, pieces
        self._axes: dict[int, int] = {}
        self.rows: dict[int, list[int]] = {}
        """Of every layer of the region, rows after each step."""
        self.given: dict[int, list[int]] = {}
        """The same of what comes in chunks."""
        self.whole_at: dict[int, int] = {}
        """The step with which a tensor is whole, of a layer that runs in one piece that behind which it runs."""
        for step, piece in enumerate(pieces):
            self._axes[piece.layer] = piece.axis
            rows = self.given.setdefault(piece.layer, [0] * len(pieces))
            rows[step:] = [piece.stop] * (len(pieces) - step)
            self.whole_at[piece.layer] = step

    def axis_of(self, number: int) -> int:
        """Along which the rows of a tensor come."""
        return self._axes[number] if number in self._axes else self._ops[number].axis

    def follow(self, number: int, least: float) -> None:
        """Look at a layer behind all that it reads."""
        op, inputs = self._ops.get(number), self._graph.layers[number].inputs
        self.whole_at[number] = max(self.whole_at[source] for source in inputs)
        if op is None or len(self._pieces) < 2:
            return
        pairs = list(zip(op.windows, inputs, strict=True))
        rows, made = [], 0
        for step in range(len(self._pieces)):
            ready = min(window.ready(self._there(source, window, step), op.rows) for window, source in pairs)
            made = op.after(made, ready)
            rows.append(made)
        if rows[-1] == op.rows and rows[-2] >= max(1, least * op.rows):
            self.rows[number] = rows
            self.whole_at[number] = rows.index(op.rows)

    def _there(self, source: int, window: Window, step: int) -> int:
        """Rows of a tensor that a layer of the region can read in a step."""
        rows = self.given.get(source) or self.rows.get(source)
        if rows is None:  # it runs behind a step
            return window.size if self.whole_at[source] < step else 0
        if self.axis_of(source) == window.axis and not window.reads_all:
            return rows[step]
        return window.size if self.whole_at[source] <= step else 0


# --- a head, whose outputs leave in chunks


def head_plan(
    graph: LayerGraph, ops: Ops, layers: Collection[int], pieces: Sequence[Piece], least: float = LEAST
) -> RowPlan | None:
    """How a segment runs such that its outputs can leave in chunks, in the order of `pieces`; None where nothing is
    gained. Raises ValueError where the chunks are not all of tensors that leave it."""
    inside = frozenset(layers)
    boundary = tuple(n for n in sorted(inside) if any(reader not in inside for reader in graph.readers[n]))
    _check(graph, boundary, pieces)
    leaving = _Leaving(graph, ops, inside, pieces)
    for number in sorted(inside, reverse=True):
        leaving.follow(number, least)
    region = frozenset(leaving.rows)
    if not region:
        return None
    full = {n for n in region if n in boundary or n in graph.outputs}
    full |= {n for n in region if _is_read_whole(graph, ops, n, inside, region, ops[n].axis)}
    steps = _steps(graph, ops, leaving.rows, pieces, {}, full, {})
    return _planned(ops, inside, leaving.rows, steps, full, first=inside - region)


class _Leaving:
    """How much of every tensor has to be there in each step."""

    def __init__(self, graph: LayerGraph, ops: Ops, inside: frozenset[int], pieces: Sequence[Piece]) -> None:
        self._graph, self._ops, self._inside, self._pieces = graph, ops, inside, pieces
        self._leaves = frozenset(piece.layer for piece in pieces)
        self.rows: dict[int, list[int]] = {}

    def follow(self, number: int, least: float) -> None:
        """Look at a layer behind all that read it."""
        op, readers = self._ops.get(number), [n for n in self._graph.readers[number] if n in self._inside]
        if op is None or any(n not in self.rows for n in readers) or not (readers or number in self._leaves):
            return
        rows, made = [], 0
        for wanted in zip(*self._wanted(number, op, readers), strict=True):
            made = op.wanted(made, max(wanted))
            rows.append(made)
        if len(rows) > 1 and rows[0] <= (1 - least) * op.rows:
            self.rows[number] = rows

    def _wanted(self, number: int, op: RowOp, readers: Iterable[int]) -> Iterable[list[int]]:
        count, rows = len(self._pieces), 0
        own = []
        for piece in self._pieces:
            if piece.layer == number:
                rows = piece.stop if piece.axis == op.axis else op.rows
            own.append(rows)
        if number in self._graph.outputs:
            own[-1] = op.rows
        yield own
        for reader in readers:
            theirs = self._ops[reader]
            for source, window in zip(self._graph.layers[reader].inputs, theirs.windows, strict=True):
                if source == number:
                    is_same = window.axis == op.axis and not window.reads_all
                    needed = [window.needs(each) for each in self.rows[reader][:count]]
                    yield needed if is_same else [op.rows if each else 0 for each in needed]


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
    graph: LayerGraph,
    ops: Ops,
    rows: Mapping[int, Sequence[int]],
    pieces: Sequence[Piece],
    given: Mapping[int, Sequence[int]],
    full: Collection[int],
    early: Mapping[int, Collection[int]],
) -> tuple[RowStep, ...]:
    """`rows` are those of each layer of the region that are there after each step, `given` those of what comes."""
    order, done = sorted(rows), dict.fromkeys(rows, 0)
    steps = []
    for step, piece in enumerate(pieces):
        made = []
        for number in order:
            start, stop = done[number], rows[number][step]
            if stop > start:
                reads = tuple(window.read(start, stop) for window in ops[number].windows)
                made.append(Made(number, start, stop, reads))
                done[number] = stop
        there = {n: each[step] for n, each in (*given.items(), *rows.items()) if n not in full}
        kept = tuple(_kept(graph, ops, rows, done, there))
        steps.append(RowStep(piece, tuple(made), kept, frozenset(early.get(step, ()))))
    return tuple(steps)


def _kept(
    graph: LayerGraph,
    ops: Ops,
    rows: Mapping[int, Sequence[int]],
    done: Mapping[int, int],
    there: Mapping[int, int],
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
    inside: frozenset[int],
    rows: Mapping[int, Sequence[int]],
    steps: tuple[RowStep, ...],
    full: Collection[int],
    first: frozenset[int] = frozenset(),
    rest: frozenset[int] = frozenset(),
) -> RowPlan:
    region = tuple(sorted(rows))
    sizes, axes = {n: ops[n].rows for n in region}, {n: ops[n].axis for n in region}
    return RowPlan(inside, region, steps, sizes, axes, first, rest, frozenset(full))
