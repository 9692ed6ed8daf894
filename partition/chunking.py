"""The chunks in which a boundary is best sent, from the costs. Pure.

A chunk that is small leaves early and is unpacked soon after it has come; but each one costs something on both sides.
Where the link is the slowest stage, say, only the packing of the first chunk and the unpacking of the last are not
hidden behind it: good chunks grow at the beginning and shrink towards the end. So chunks of equal sizes, and of sizes
that grow and shrink by several factors, are tried for every count, and ends of the best one are then moved, taken away
and added while that helps. What comes of it is near the best of all ends (docs/overlap.md says how near), and is never
worse than one chunk, which is what `cost.predict` gives: where less is gained than predictions can tell, nothing
overlaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgecloud.partition.cost import (
    LATENCY,
    Chunking,
    Packed,
    Part,
    Problem,
    StageTimes,
    StageWeights,
    pipelined,
    predict,
)
from edgecloud.partition.overlap import ROWS, Overlap, RowShares, Slices

LEAST_SHARE, LEAST_S = 0.05, 0.5e-3
"""What overlapping has to gain: a share of what is minimized, and seconds. Predictions are not closer than that."""
COUNTS = (2, 3, 4, 6, 8, 12, 16)
FACTORS = (1.0, 1.5, 2.5, 4.0)
"""Of neighbouring chunks' sizes that are tried."""
LEAST_ROWS, LONG = 4, 8
"""An axis is cut where it is as long as that: of rows, and any other."""
MOVES = 24
"""How often ends are moved, at most ..."""
STEPS = (1, 2, 4, 8)
"""... and by how much."""
FEW = 9
"""Places at which a boundary may be cut, up to which all ends are tried."""
DEPTHS, FEW_LAYERS = (0.25, 0.5, 0.75), 4
"""Of the seconds of the layers that a tail can run by rows, where it may end to do so; of few ones anywhere."""
NO_MORE = Packed("", 0)
Shares = tuple[tuple[float, ...], ...]
Values = NDArray[np.float64]
Ends = NDArray[np.intp]
"""Shape (cases, chunks): where every chunk of every case ends, the last place again where there are fewer."""


@dataclass(frozen=True, slots=True)
class Overlapped:
    """What a cut takes, and how its boundary leaves; None: in one piece."""

    predicted: StageTimes
    overlap: Overlap | None = None
    shares: Shares = ()
    """Of every chunk, in the order in which they leave: of all computing on the edge, packing, sending, unpacking and
    computing on the cloud its own share; for who reckons with other seconds."""


def axis_of(shape: Sequence[int]) -> int | None:
    """The axis along which a tensor is cut: the rows of pictures and feature maps, else the first one that is long
    enough; None where there is none. The batch is never cut."""
    if len(shape) == ROWS + 2 and shape[ROWS] >= LEAST_ROWS:
        return ROWS
    return next((axis for axis, size in enumerate(shape) if axis > 0 and size >= LONG), None)


def overlapped(
    problem: Problem, parts: Sequence[Part], weights: StageWeights = LATENCY, *, is_rough: bool = False
) -> Overlapped:
    """What parts are predicted to take with the chunks that are best for what is minimized.

    A head and a tail alone overlap, and only where the problem says what chunks cost. Rough chunks take less to find.
    Raises ValueError for parts that `predict` refuses.
    """
    in_turn = predict(problem, parts)
    is_cut = len(parts) == 2 and parts[0].place == "edge"
    if problem.chunking is None or not is_cut:
        return Overlapped(in_turn)
    return best_chunks(problem, parts[0].layers, in_turn, weights, is_rough=is_rough)


def best_chunks(
    problem: Problem,
    head: frozenset[int],
    in_turn: StageTimes,
    weights: StageWeights = LATENCY,
    *,
    is_rough: bool = False,
) -> Overlapped:
    """The same for a cut whose stages are known, as they are one after the other. Rough ones take less to find."""
    found, chunking = Overlapped(in_turn), problem.chunking
    if chunking is None or chunking.most < 2:
        return found
    by_rows = _rows_of(problem, head, is_rough=is_rough)
    if _hidden(problem, by_rows, in_turn) * weights.hidden <= _needed(in_turn, weights):
        return found
    tensors = _tensors(problem, chunking, head)
    if not tensors:
        return found
    least = weights.value(in_turn) - _needed(in_turn, weights)
    for case in _cases(problem, chunking, head, tensors, in_turn, by_rows):
        ends, value = case.search(weights, is_rough=is_rough)
        if value < least:
            least, found = value, case.result(ends)
    return found


def _needed(in_turn: StageTimes, weights: StageWeights) -> float:
    """What has to be gained."""
    return max(LEAST_SHARE * weights.value(in_turn), LEAST_S * weights.hidden)


ByRows: TypeAlias = tuple[RowShares | None, RowShares | None]
"""What of a head and of a tail runs by rows."""


def most_hidden(problem: Problem, head: frozenset[int], in_turn: StageTimes) -> float:
    """What overlapping can save at most: all but the longest of the stages that may overlap."""
    return _hidden(problem, _rows_of(problem, head, is_rough=False), in_turn)


def _hidden(problem: Problem, by_rows: ByRows, in_turn: StageTimes) -> float:
    packing, link, unpacking = in_turn.encode_s, in_turn.upload_s, in_turn.decode_s
    made, fed = by_rows
    edge_s = sum(problem.edge_s[layer] for layer in made.layers) if made else 0.0
    cloud_s = sum(problem.cloud.load * problem.cloud.seconds[layer] for layer in fed.layers) if fed else 0.0
    stages = (edge_s + packing, link, unpacking, cloud_s + (in_turn.queue_s if fed else 0.0))
    return sum(stages) - max(stages)


def _rows_of(problem: Problem, head: frozenset[int], *, is_rough: bool) -> ByRows:
    """What of the head runs by rows, where one tensor crosses, and what of the tail; where several do that takes a
    while to find out."""
    crossing, chunking = problem.graph.boundary(head), problem.chunking
    if chunking is None or (is_rough and len(crossing) > 1):
        return None, None
    made, fed = chunking.head_rows.get(crossing), chunking.tail_rows.get(crossing)
    return made, None if fed is None or head.intersection(fed.layers) else fed


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One boundary tensor: along which axis it is cut, in how many steps at most, and what a chunk of it costs."""

    layer: int
    axis: int
    size: int
    """Of the axis."""
    steps: int
    """1 where it is not cut."""
    more: Packed
    """What a further chunk of it takes, however small."""
    seconds: tuple[float, float, float]
    """To pack, to send and to unpack it."""


def _tensors(problem: Problem, chunking: Chunking, head: frozenset[int]) -> list[_Tensor]:
    """The boundary; nothing where a tensor has no axis but the batch."""
    found, link = [], problem.link
    for number in problem.graph.boundary(head):
        shape, packed = problem.graph.layers[number].out_shape, problem.crossing((number,))
        if len(shape) < 2:
            return []
        axis, more = axis_of(shape), chunking.more(packed.codec, shape)
        is_cut = axis is not None and more is not None
        axis = axis or 1
        seconds = (packed.encode_s, packed.bytes / link.up_bytes_per_s, packed.decode_s)
        found.append(_Tensor(number, axis, shape[axis], shape[axis] if is_cut else 1, more or NO_MORE, seconds))
    return found if sum(tensor.steps for tensor in found) > 1 and len(found) <= chunking.most else []


@dataclass(frozen=True, eq=False)
class _Case:
    """A boundary as a line of places at which it may be cut, all tensors one after the other."""

    tensors: Sequence[_Tensor]
    through: Values
    """Seconds of everything up to each place, shape (5, places): computing, packing, sending, unpacking, computing."""
    further: Values
    """Seconds that 0, 1, 2, ... further chunks take in addition, shape (5, counts)."""
    in_turn: StageTimes
    rest_s: float
    """After the last chunk: what is left of the tail, and the way of the answer."""
    most: int
    head_rows: bool = False
    tail_rows: bool = False
    until: int | None = None
    last_s: float = 0.0
    """Of computing by rows in the cloud, however few rows the last chunk has."""

    def passages(self, ends: Ends) -> tuple[Values, Ends]:
        """Seconds of every chunk of some cases, shape (5, cases, chunks), and how many further chunks these have."""
        begins = np.concatenate([np.zeros((len(ends), 1), dtype=np.intp), ends[:, :-1]], axis=1)
        is_there = ends > begins
        more = is_there.sum(axis=1) - 1
        seconds = self.through[:, ends] - self.through[:, begins]
        each = self.further[:, more] / np.maximum(1, more)
        seconds[:4, :, 1:] += each[:4, :, None] * is_there[:, 1:]
        # Every layer of a tail has its last block with the last chunk; the others are spread over those before.
        seconds[4] += np.where(ends == self.places, self.last_s, each[4][:, None]) * is_there
        seconds[:, :, 0] += self.through[:, :1]  # before anything has come or gone
        return seconds, more

    def finished(self, ends: Ends) -> tuple[Values, Ends]:
        """The totals of some cases, and how many further chunks they have."""
        seconds, more = self.passages(ends)
        chunks = ((s[0], s[1], s[2], s[3], s[4]) for s in np.moveaxis(seconds, 2, 0))
        done = pipelined(chunks, np.maximum, self.in_turn.queue_s, is_by_rows=self.tail_rows)
        return np.asarray(done + self.rest_s), more

    def values(self, ends: Ends, weights: StageWeights) -> Values:
        """What is minimized."""
        totals, more = self.finished(ends)
        head, packing, link, unpacking, rows = self.further
        added = weights.edge * (head + packing) + weights.upload * link + weights.cloud * (unpacking + rows)
        sums = self.in_turn.stages_s + self.further.sum(axis=0)
        return np.asarray(weights.value(self.in_turn) + added[more] - weights.hidden * (sums[more] - totals))

    def search(self, weights: StageWeights, *, is_rough: bool) -> tuple[tuple[int, ...], float]:
        """The best ends that are found, and their value. Rough ones are of the sizes that are tried first."""
        if self.places <= FEW:
            return self._best_of(self._all(), weights)
        shapes = self._shapes()
        first = self._best_of(shapes, weights)
        if is_rough:
            return first
        counts = (shapes[:, 1:] > shapes[:, :-1]).sum(axis=1)
        many = self._best_of(shapes[counts == counts.max()], weights)
        return min((self._moved(*each, weights) for each in (first, many)), key=lambda found: found[1])

    def _moved(self, ends: tuple[int, ...], value: float, weights: StageWeights) -> tuple[tuple[int, ...], float]:
        """With ends moved, taken away and added while that helps."""
        for _ in range(MOVES):
            moved, less = self._best_of(self._near(ends), weights)
            if less >= value * (1 - 1e-9):
                break
            ends, value = moved, less
        return ends, value

    def _best_of(self, cases: Ends, weights: StageWeights) -> tuple[tuple[int, ...], float]:
        values = self.values(cases, weights)
        best = int(np.argmin(values))
        return tuple(dict.fromkeys(cases[best].tolist())), float(values[best])

    @property
    def places(self) -> int:
        """At how many places the line may end."""
        return int(self.through.shape[1]) - 1

    @property
    def _bounds(self) -> tuple[int, ...]:
        """Where each tensor ends: no chunk is of two."""
        return tuple(accumulate(tensor.steps for tensor in self.tensors))

    def _all(self) -> Ends:
        """All ends that there are."""
        table = _subsets(self.places)
        counts = (table[:, 1:] > table[:, :-1]).sum(axis=1) + 1
        return self._with_bounds(table[counts <= max(1, self.most)])

    def _shapes(self) -> Ends:
        """Chunks of many counts and sizes, which are shares of what is sent."""
        sent = self.through[2] + np.arange(self.places + 1) * 1e-12
        ends = np.searchsorted(sent, fractions(self.most - len(self.tensors) + 1) * sent[-1] * (1 - 1e-9))
        return self._with_bounds(np.maximum(ends, 1))

    def _near(self, ends: Sequence[int]) -> Ends:
        """With one end moved, taken away, or added."""
        now, bounds = np.array(ends, dtype=np.intp), set(self._bounds)
        movable = [number for number, end in enumerate(ends) if end not in bounds]
        cases = [now[None, :]]
        if movable:
            steps = np.array([step for size in STEPS for step in (size, -size)], dtype=np.intp)
            moved = np.tile(now, (len(movable), len(steps), 1))
            for row, number in enumerate(movable):
                moved[row, :, number] += steps
            away = np.tile(now, (len(movable), 1))
            away[np.arange(len(movable)), movable] = now[np.array(movable) + 1]
            cases += [np.clip(moved.reshape(-1, len(now)), 1, self.places), away]
        same = [np.concatenate([case, case[:, -1:]], axis=1) for case in cases]
        if len(ends) < self.most:
            middles = (now + np.concatenate([[0], now[:-1]])) // 2
            more = np.concatenate([np.tile(now, (len(now), 1)), np.maximum(middles, 1)[:, None]], axis=1)
            same.append(more)
        return np.sort(np.concatenate(same), axis=1)

    def _with_bounds(self, cases: Ends) -> Ends:
        """With an end where each tensor has one."""
        inner = np.array(self._bounds[:-1], dtype=np.intp)
        if not len(inner):
            return cases
        return np.sort(np.concatenate([cases, np.tile(inner, (len(cases), 1))], axis=1), axis=1)

    def result(self, ends: tuple[int, ...]) -> Overlapped:
        """What these ends take, and what leaves."""
        totals, more = self.finished(np.array([ends], dtype=np.intp))
        head, packing, link, unpacking, rows = self.further[:, more[0]].tolist()
        times = replace(
            self.in_turn,
            edge_s=self.in_turn.edge_s + head,
            encode_s=self.in_turn.encode_s + packing,
            upload_s=self.in_turn.upload_s + link,
            decode_s=self.in_turn.decode_s + unpacking,
            cloud_s=self.in_turn.cloud_s + rows,
        )
        times = replace(times, hidden_s=max(0.0, times.stages_s - float(totals[0])))
        slices, begin = [], 0
        for tensor, bound in zip(self.tensors, self._bounds, strict=True):
            inside = [end - begin for end in ends if begin < end <= bound]
            slices.append(Slices(tensor.layer, tensor.axis, tuple(inside) if tensor.steps > 1 else (tensor.size,)))
            begin = bound
        wholes = (times.edge_s, times.encode_s, times.upload_s, times.decode_s, times.cloud_s)
        chunks = self.passages(np.array([ends], dtype=np.intp))[0][:, 0, :].T.tolist()
        shares = [
            tuple(seconds / whole if whole > 0 else 0.0 for seconds, whole in zip(chunk, wholes, strict=True))
            for chunk in chunks
        ]
        return Overlapped(times, Overlap(tuple(slices), self.head_rows, self.tail_rows, self.until), tuple(shares))


def _cases(
    problem: Problem,
    chunking: Chunking,
    head: frozenset[int],
    tensors: Sequence[_Tensor],
    in_turn: StageTimes,
    by_rows: ByRows,
) -> Iterator[_Case]:
    """With the head and the tail in one piece, and by rows where they may."""
    link, load = problem.link, problem.cloud.load
    places = sum(tensor.steps for tensor in tensors) + 1
    through = np.zeros((5, places))
    at = 0
    for tensor in tensors:
        grown = np.arange(1, tensor.steps + 1)[None, :] / tensor.steps * np.array(tensor.seconds)[:, None]
        through[1:4, at + 1 : at + tensor.steps + 1] = through[1:4, at : at + 1] + grown
        at += tensor.steps
    through[0] = _staged(problem, head, tensors, in_turn.edge_s)
    after_s = in_turn.rtt_s + in_turn.download_s
    most = [max(getattr(tensor.more, name) for tensor in tensors) for name in ("encode_s", "bytes", "decode_s")]
    each_s = np.array([0.0, chunking.edge_s + most[0], most[1] / link.up_bytes_per_s, chunking.cloud_s + most[2], 0.0])
    further = np.outer(each_s, np.arange(chunking.most + len(tensors) + 1, dtype=np.float64))
    lines = _lines(tensors)
    made, fed = (each if each is not None and each.size == lines[-1] else None for each in by_rows)
    counts = further.shape[1]
    heads = [None, *_by_rows(made, problem.edge_s, chunking.edge_blocks, 0.0, counts, ())]
    cloud_s = [load * s for s in problem.cloud.seconds]
    slower = load * chunking.cloud_blocks, load * chunking.rest_s
    tails = [None, *_by_rows(fed, cloud_s, *slower, counts, DEPTHS)]
    for head_rows, tail_rows in product(heads, tails):
        passed, more, left_s, last_s = through.copy(), further.copy(), in_turn.cloud_s, 0.0
        if head_rows is not None:
            grown = head_rows.seconds[lines]
            passed[0], more[0] = in_turn.edge_s - grown[-1] + grown, head_rows.further_s
        if tail_rows is not None:
            grown = tail_rows.seconds[lines]
            passed[4], more[4], last_s = grown, tail_rows.further_s, tail_rows.fixed_s
            left_s = max(0.0, left_s - last_s - float(grown[-1]))
        is_by_rows = head_rows is not None, tail_rows is not None
        until = None if tail_rows is None else tail_rows.until
        yield _Case(tensors, passed, more, in_turn, after_s + left_s, chunking.most, *is_by_rows, until, last_s)


@dataclass(frozen=True, slots=True)
class _UpTo:
    """Layers that run by rows, up to one of them; None: all that can."""

    until: int | None
    seconds: Values
    """That they take for 0, 1, 2, ... rows ..."""
    fixed_s: float
    """... and for one block of each, however small."""
    further_s: Values
    """That 0, 1, 2, ... further chunks take in addition."""


def _by_rows(
    rows: RowShares | None,
    seconds: Sequence[float],
    slower: float,
    rest_s: float,
    counts: int,
    depths: Sequence[float],
) -> Iterator[_UpTo]:
    """All layers that can, and those behind which such shares of their seconds are over: layers far behind take little
    for long, and cost as much for every chunk."""
    if rows is None:
        return
    layers, table = np.array(rows.layers), np.asarray(rows.shares, dtype=np.float64)
    taken = np.array([seconds[layer] for layer in rows.layers])
    blocks = np.arange(counts)[:, None] * np.ones(len(layers))
    if rows.blocks:
        blocks = np.minimum(blocks, np.array(rows.blocks) - 1)
    block_s = slower * np.array(rows.block_s or np.zeros(len(layers)))
    fixed, further, rests_s = np.minimum(taken, block_s), blocks * block_s, rest_s * np.arange(counts)
    yield _UpTo(None, table @ (taken - fixed), float(fixed.sum()), further.sum(axis=1) + rests_s)
    order = np.argsort(layers)
    done = np.cumsum(taken[order])
    ends = {int(layers[order[np.searchsorted(done, depth * done[-1])]]) for depth in depths}
    if depths and len(layers) <= FEW_LAYERS:
        ends = set(rows.layers)
    for until in sorted(ends - {int(layers.max(initial=-1))}):
        is_in = layers <= until
        yield _UpTo(until, table @ ((taken - fixed) * is_in), float(fixed @ is_in), further @ is_in + rests_s)


def _lines(tensors: Sequence[_Tensor]) -> list[int]:
    """At each place, how many rows there are of all tensors behind each other: a tensor that is not cut is all there or
    not at all."""
    found, passed = [0], 0
    for tensor in tensors:
        found += range(passed + 1, passed + tensor.size) if tensor.steps > 1 else ()
        passed += tensor.size
        found.append(passed)
    return found


def _staged(problem: Problem, head: frozenset[int], tensors: Sequence[_Tensor], whole_s: float) -> Values:
    """Seconds of the head up to each place: of several tensors each leaves when it is made, while the head goes on."""
    done: frozenset[int] = problem.graph.only_inputs & head
    passed_s, line = sum(problem.edge_s[layer] for layer in done), []
    for number, tensor in enumerate(tensors):
        stage = problem.graph.needed_by(tensor.layer) - done
        passed_s += sum(problem.edge_s[layer] for layer in stage)
        done |= stage
        made_s = whole_s if number == len(tensors) - 1 else passed_s
        line += [made_s] * (tensor.steps + (number == 0))
    return np.array(line)


@cache
def fractions(most: int) -> Values:
    """Where chunks end, as shares of all: of every count and every factor by which sizes grow and shrink."""
    counts = [count for count in COUNTS if count <= most]
    table = np.ones((len(counts) * len(FACTORS) ** 2, max(counts, default=1)))
    row = 0
    for count in counts:
        at = np.arange(count)
        for grows in FACTORS:
            for shrinks in FACTORS:
                sizes = np.minimum(grows**at, shrinks ** (count - 1 - at))
                table[row, :count] = np.cumsum(sizes) / sizes.sum()
                row += 1
    return table


@cache
def _subsets(places: int) -> Ends:
    """All ends of a line of so many places, one case a row."""
    inner = (np.arange(1 << (places - 1))[:, None] >> np.arange(places - 1)) & 1
    ends = np.where(inner == 1, np.arange(1, places), places)
    return np.sort(np.concatenate([ends, np.full((len(ends), 1), places)], axis=1), axis=1).astype(np.intp)
