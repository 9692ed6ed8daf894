"""The cut of any graph with the shortest longest stage: what counts when tasks come faster than they are done. Pure.

    longest(cut) = max(edge seconds of the head, boundary bytes / upload, load * (cloud seconds of the tail + start))

DADS (Hu et al., INFOCOM 2019, sections II and III) minimises this under heavy load, for stages of different tasks
overlap and 1 / longest tasks a second are the most that a cut sustains. The problem is NP-hard in general, so DADS
approximates it by minimum cuts with scaled stages (DSH), here `dsh`. But networks are nearly chains, and few of their
cuts come near the best one: `exact` walks through these. For any other graph it solves a mixed-integer program:

    minimise T   subject to   every stage <= T
    x[v] in {0, 1}            1 where layer v runs on the edge; 1 for the input
    x[v] <= x[u]              for every layer v that reads u: a cut is closed under inputs
    x[u] - x[v] <= y[u]       the same: y[u] is 1 if the output of u crosses, once however many layers read it

A tail that begins after point k adds start[k] * (x[k] - x[k + 1]), for a layer of a point needs those of all points
before it. Only all on the edge pays no start; it is looked at apart.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from models.graph import INPUT, LayerGraph
from partition.cost import Prediction, Problem, StageWeights, parts_of, predict
from partition.mincut import NOTHING, CutSolver, Terms
from utils.quiet import silent_stdout

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Longest stages that differ by less than this, relatively, are equal, and the latency decides between them.
TIE = 2e-7
# A cut is optimal if its longest stage is within this of the lower bound, relatively: the solver's own tolerances.
PROVEN = 1e-6
# The best longest stage known is this many units in the program, which makes the solver's absolute tolerances, 1e-6
# and 1e-7, finer than TIE; with 100 it fails more often.
UNITS = 10.0
# How many minimum cuts are tried before the program is solved, each a few milliseconds.
MIN_CUTS = 8
# How many steps a walk over all cuts that could be better may take, each some microseconds. It is counted and not
# measured, so that the same problem gives the same cut on every machine; only what needs more is left to the solver.
STEPS = 30_000
# Of the time limit, what the search for the shortest longest stage may take; the rest is for the least latency.
SHARE = 0.75
INFEASIBLE, FAILED = 2, 4  # statuses of scipy.optimize.milp
WALK, PROGRAM, DSH = "walk", "milp", "dsh"  # methods

# Points on each axis of DSH's first grid at most, the factor between two grids, and the gain that is worth another one.
GRID = 33
FINER = 4
GAIN = 1e-3


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A cut chosen for its longest stage."""

    head: frozenset[int]
    predicted: Prediction
    is_optimal: bool
    """Whether no cut has a longest stage that is shorter by more than a millionth."""
    gap: float
    """How much shorter the longest stage of the best cut may be at most, as a share of this one's; 0 if optimal."""
    method: str


def is_heavy(predicted: Prediction, rate_per_s: float) -> bool:
    """Whether `rate_per_s` tasks a second are more than a cut sustains: its longest stage >= 1 / rate.

    DADS, Algorithm 3: take the cut of least latency unless it is heavy, else the one with the shortest longest stage.
    """
    return predicted.longest_s * rate_per_s >= 1


def exact(problem: Problem, time_limit_s: float = 1.0) -> Bottleneck:
    """The cut with the shortest longest stage (DADS, section II, heavy load), with a proof where there is time for one.

    First all cuts that could be the best are tried, by a walk that ends early in what cannot be; a network takes some
    hundred steps, Inception v3 thousands. Where STEPS are not enough, a mixed-integer program is solved, within
    `time_limit_s` seconds, not counting what it takes to build it and to ask the solver again where it fails.

    What is optimal is within a millionth of the best of all cuts; and of the cuts whose longest stages are equal to
    TIE it has the least latency if it comes from the walk, or if the program's second search, with a quarter of the
    limit, ends in time. What is not optimal is the best of what was found: at least as good as every cut of
    consecutive layers, all points among them, and as a few minimum cuts; its gap is true.
    Raises ValueError for seconds that are negative, infinite or not numbers.
    """
    solver = CutSolver(problem.graph)
    terms = _terms(solver, problem)
    known = [_cut(problem, _best_prefix(problem, terms))]
    if all(number - 1 in layer.inputs for number, layer in enumerate(problem.graph.layers) if number):
        return _proven(known[0], WALK)  # a chain, or one with shortcuts: it has no other cuts
    walked = _Walk(problem.graph, terms, known[0].predicted.longest_s).best(STEPS)
    if walked is not None:
        return _proven(_least([*known, *(_cut(problem, head) for head in walked)]), WALK)
    known += [_cut(problem, head) for head in _min_cuts(solver, problem)]
    known, bound_s = _shorter(problem, terms, known, SHARE * time_limit_s)
    found = _least(known)
    gap = max(0.0, 1 - bound_s / found.predicted.longest_s) if found.predicted.longest_s > NOTHING else 0.0
    if gap > PROVEN:
        return Bottleneck(found.head, found.predicted, False, gap, PROGRAM)
    return _proven(_sooner(problem, terms, known, (1 - SHARE) * time_limit_s), PROGRAM)


def _proven(cut: "_Cut", method: str) -> Bottleneck:
    return Bottleneck(cut.head, cut.predicted, True, 0.0, method)


# --- cuts that are known before the search


@dataclass(frozen=True, slots=True)
class _Cut:
    head: frozenset[int]
    predicted: Prediction


def _cut(problem: Problem, head: frozenset[int]) -> _Cut:
    return _Cut(head, predict(problem, parts_of(problem.graph, head)))


def _least(cuts: Sequence[_Cut]) -> _Cut:
    """The cut with the shortest longest stage; of equal ones the one with the least latency."""
    most_s = (1 + TIE) * min(cut.predicted.longest_s for cut in cuts)
    equal = [cut for cut in cuts if cut.predicted.longest_s <= most_s]
    return min(equal, key=lambda cut: (cut.predicted.total_s, cut.predicted.longest_s))


def _terms(solver: CutSolver, problem: Problem, edge: float = 1.0, upload: float = 1.0, cloud: float = 1.0) -> Terms:
    """The seconds of the three stages, each with its factor, and nothing of what only delays."""
    terms = solver.terms(problem, StageWeights(edge, upload, 0.0, 0.0, cloud, 0.0))
    values = np.concatenate([terms.edge, terms.cloud, terms.tensor, terms.entry])
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("seconds are finite numbers of at least 0")
    return terms


def _best_prefix(problem: Problem, terms: Terms) -> frozenset[int]:
    """The best cut that the first layers of program order make; all points are among these cuts."""
    graph, link = problem.graph, problem.link
    crossing = np.zeros(len(graph.layers), dtype=np.int64)  # bytes: whole numbers, for the sum goes up and down
    for number, readers in enumerate(graph.readers):
        crossing[number] += graph.layers[number].out_bytes
        crossing[max(readers, default=number)] -= graph.layers[number].out_bytes
    points = [point.layer for point in graph.points[: max(1, len(graph.points) - 1)]]
    entry = np.searchsorted(points, np.arange(len(graph.layers)), side="right") - 1
    edge_s, upload_s = np.cumsum(terms.edge), np.cumsum(crossing) / link.up_bytes_per_s
    cloud_s = np.append(np.cumsum(terms.cloud[::-1])[-2::-1], 0.0) + terms.entry[entry]
    total_s = edge_s + upload_s + cloud_s
    total_s += link.rtt_s + problem.cloud.queue_s + problem.result_bytes / link.down_bytes_per_s
    longest_s = np.maximum(edge_s, np.maximum(upload_s, cloud_s))
    longest_s[-1] = total_s[-1] = edge_s[-1]  # nothing is left for the cloud
    equal = np.flatnonzero(longest_s <= (1 + TIE) * longest_s.min())
    return frozenset(range(int(equal[np.argmin(total_s[equal])]) + 1))


def _min_cuts(solver: CutSolver, problem: Problem) -> Iterator[frozenset[int]]:
    """The cut of least latency, and some whose longest stage is ever dearer than the others."""
    yield solver.best(solver.terms(problem))
    factors = np.ones(3)
    for _ in range(MIN_CUTS):
        head = solver.best(_terms(solver, problem, *factors.tolist()))
        yield head
        stages = _stages(predict(problem, parts_of(problem.graph, head)))
        if stages.max() <= NOTHING:
            return
        factors = factors * np.exp(stages / stages.max())
        factors /= factors.max()


def _stages(predicted: Prediction) -> Values:
    return np.array([predicted.edge_s, predicted.upload_s, predicted.cloud_s])


# --- every cut that could be better


class _State(NamedTuple):
    """Some layers have a side: bit v of `head` is set if layer v is on the edge, of `tail` if it is on the cloud."""

    head: int
    tail: int
    edge_s: float
    upload_s: float
    cloud_s: float
    """Without the start."""


class _Walk:
    """A walk over the cuts, all on the edge left out, that may be as good as the best one known.

    Layers are put on a side in program order; one on the cloud takes all that needs it along. The seconds of a stage
    only grow on the way, so a branch ends where one is longer than in the best cut.
    """

    def __init__(self, graph: LayerGraph, terms: Terms, best_s: float) -> None:
        self._edge_s, self._cloud_s, self._tensor_s = terms.edge.tolist(), terms.cloud.tolist(), terms.tensor.tolist()
        self._starts = [(1 << p.layer, s) for p, s in zip(graph.points, terms.entry.tolist(), strict=False)]
        self._start_s = float(terms.entry.min())
        self._after_s = (_needs(graph).T @ terms.cloud).tolist()  # of what goes to the cloud with each layer
        self._sources = [_mask(layer.inputs) for layer in graph.layers]
        self._readers = [_mask(readers) for readers in graph.readers]
        self._followers = [1 << number for number in range(len(graph.layers))]
        for number in reversed(range(len(graph.layers))):
            for reader in graph.readers[number]:
                self._followers[number] |= self._followers[reader]
        self._everything = _mask(graph.everything)
        self._best_s = best_s

    def best(self, steps: int) -> list[frozenset[int]] | None:
        """The best cut, if there is one that is as good as the one known; None if it takes more steps than that."""
        found: list[tuple[float, float, int]] = []
        stack = [_State(1 << INPUT, 0, self._edge_s[INPUT], 0.0, 0.0)]
        while stack and steps:
            steps -= 1
            state = stack.pop()
            undecided = self._everything & ~(state.head | state.tail)
            if undecided:
                layer = undecided & -undecided
                stack += [s for s in self._sides(state, layer) if self._longest_s(s, self._start_s) <= self._most_s]
            elif state.tail:
                start_s = next(start_s for point, start_s in reversed(self._starts) if point & state.head)
                sum_s = state.edge_s + state.upload_s + state.cloud_s + start_s
                found.append((self._longest_s(state, start_s), sum_s, state.head))
                self._best_s = min(self._best_s, found[-1][0])
        equal = [(sum_s, head) for longest_s, sum_s, head in found if longest_s <= self._most_s]
        return None if stack else [frozenset(_bits(head)) for _, head in sorted(equal)[:1]]

    @property
    def _most_s(self) -> float:
        return (1 + TIE) * self._best_s

    @staticmethod
    def _longest_s(state: _State, start_s: float) -> float:
        return max(state.edge_s, state.upload_s, state.cloud_s + start_s)

    def _sides(self, state: _State, layer: int) -> Iterator[_State]:
        yield self._to_edge(state, layer)
        if self._after_s[layer.bit_length() - 1] + self._start_s <= self._most_s:
            yield self._to_cloud(state, layer)

    def _to_edge(self, state: _State, layer: int) -> _State:
        head, tail, edge_s, upload_s, cloud_s = state
        number = layer.bit_length() - 1
        crossing_s = self._tensor_s[number] if self._readers[number] & tail else 0.0
        return _State(head | layer, tail, edge_s + self._edge_s[number], upload_s + crossing_s, cloud_s)

    def _to_cloud(self, state: _State, layer: int) -> _State:
        head, tail, edge_s, upload_s, cloud_s = state
        read = 0
        for number in _bits(self._followers[layer.bit_length() - 1] & ~tail):
            cloud_s += self._cloud_s[number]
            read |= self._sources[number]
            tail |= 1 << number
        for number in _bits(read & head):
            if not self._readers[number] & state.tail:
                upload_s += self._tensor_s[number]
        return _State(head, tail, edge_s, upload_s, cloud_s)


def _needs(graph: LayerGraph) -> Flags:
    """For every layer, which layers run on the edge if it does: itself, and whatever it needs."""
    needs = np.eye(len(graph.layers), dtype=np.bool_)
    for number, layer in enumerate(graph.layers):
        for source in layer.inputs:
            needs[number] |= needs[source]
    return needs


def _mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


# --- the mixed-integer program


def _shorter(problem: Problem, terms: Terms, known: list[_Cut], limit_s: float) -> tuple[list[_Cut], float]:
    """Search for a cut with a shorter longest stage: what is known then, and the lower bound of all, in seconds."""
    best_s = min(cut.predicted.longest_s for cut in known)
    if best_s <= NOTHING:
        return known, best_s
    program = _Program.of(problem.graph, terms, best_s)
    head, bound = program.solve(program.longest, limit_s)
    return [*known, *([] if head is None else [_cut(problem, head)])], min(1.0, bound) * best_s


def _sooner(problem: Problem, terms: Terms, known: list[_Cut], limit_s: float) -> _Cut:
    """Search for a cut of less latency among those with the shortest longest stage, which `known` holds one of."""
    best, soonest_s = _least(known), min(cut.predicted.total_s for cut in known)
    if best.predicted.total_s <= soonest_s or best.predicted.longest_s <= NOTHING:
        return best  # `known` holds the cut of least latency of all
    program = _Program.of(problem.graph, terms, min(cut.predicted.longest_s for cut in known))
    head, _ = program.solve(program.total, limit_s)
    return best if head is None else _least([*known, _cut(problem, head)])


@dataclass(frozen=True, slots=True)
class _Program:
    """The cuts but all on the edge whose longest stage is at most `best_s`, as a mixed-integer program.

    Its variables are x and y of every layer and T. T and all costs are in shares of `best_s`, times UNITS.
    """

    graph: LayerGraph
    rows: csr_array
    most: Values
    """What the rows may add up to."""
    lower: Values
    upper: Values
    longest: Values
    """The objective: T."""
    total: Values
    """The other one: seconds of all stages together."""

    @classmethod
    def of(cls, graph: LayerGraph, terms: Terms, best_s: float) -> "_Program":
        """The program. `best_s` is that of some cut, so no layer is forced to both sides."""
        limit = 1 + TIE / 2
        shares = [np.minimum(part / best_s, 2.0) for part in (terms.edge, terms.cloud, terms.tensor, terms.entry)]
        on_edge, on_cloud = _forced(graph, shares[0], shares[1], float(shares[3].min()), limit)
        size = len(graph.layers)
        may_cross = shares[2] <= limit
        lower = np.concatenate([on_edge, np.zeros(size + 1)])
        upper = np.concatenate([~on_cloud, may_cross, [UNITS * limit]]).astype(np.float64)
        stages, paid = _stage_rows(graph, *(UNITS * part for part in shares))
        joins = _join_rows(graph, on_edge, on_cloud)
        rows = vstack([joins, np.hstack([stages, -np.ones((3, 1))])], format="csr")
        most = np.concatenate([np.zeros(joins.shape[0]), -paid])
        return cls(graph, rows, most, lower, upper, np.eye(2 * size + 1)[-1], np.append(stages.sum(axis=0), 0.0))

    def solve(self, objective: Values, limit_s: float) -> tuple[frozenset[int] | None, float]:
        """The best cut found in some seconds, if one was, and a lower bound of T, in shares, if T is the objective."""
        found = self._solved(objective, limit_s)
        if found is None or found.status == INFEASIBLE:
            return None, 0.0 if found is None else 1.0
        on_edge = None if found.x is None else np.flatnonzero(found.x[: len(self.graph.layers)] > 0.5)
        bound = found.mip_dual_bound
        head = None if on_edge is None else _closed(self.graph, on_edge.tolist())
        return head, 0.0 if bound is None or not bound > 0 else bound / UNITS

    def _solved(self, objective: Values, limit_s: float) -> Any:
        """What the solver answers, or None where it fails.

        HiGHS 1.12 does on one problem in thousands: what presolve made of it is not quite a solution ("solve error",
        github.com/ERGO-Code/HiGHS/issues/2782), or it reserves memory of a negative size (a ValueError). As often it
        prints a line to stdout, also when told to be quiet.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp  # 0.6 s, for those who need it

        problem = {
            "integrality": np.arange(len(objective)) < len(self.graph.layers),
            "bounds": Bounds(self.lower, self.upper),
            "constraints": LinearConstraint(self.rows, -np.inf, self.most),
        }
        for presolve in (True, False):
            options = {"time_limit": limit_s, "mip_rel_gap": 0.0, "presolve": presolve}
            with suppress(ValueError), silent_stdout():
                found = milp(objective, **problem, options=options)
                if found.status != FAILED:
                    return found
        return None


def _forced(graph: LayerGraph, edge: Values, cloud: Values, start: float, limit: float) -> tuple[Flags, Flags]:
    """Layers that are on the edge, or on the cloud, in all cuts whose stages are within limit but all on the edge.

    A layer on the edge takes all that it needs with it, and one on the cloud all that needs it.
    """
    needs = _needs(graph)
    on_edge = np.arange(len(graph.layers)) == INPUT
    on_cloud, count = np.zeros_like(on_edge), 0
    while count < on_edge.sum() + on_cloud.sum():
        count = on_edge.sum() + on_cloud.sum()
        on_cloud = on_cloud | ((needs | on_edge) @ edge > limit)
        on_edge = on_edge | ((needs.T | on_cloud) @ cloud + start > limit)
    return on_edge, on_cloud


def _join_rows(graph: LayerGraph, on_edge: Flags, on_cloud: Flags) -> csr_array:
    """x[v] - x[u] <= 0 and x[u] - x[v] - y[u] <= 0 wherever v reads u and that is not known anyway."""
    arcs = np.array([(u, v) for u, readers in enumerate(graph.readers) for v in readers]).reshape(-1, 2)
    closed = arcs[~on_edge[arcs[:, 0]] & ~on_cloud[arcs[:, 1]]]
    crossed = arcs[~on_cloud[arcs[:, 0]] & ~on_edge[arcs[:, 1]]]
    size, first, second = len(graph.layers), np.arange(len(closed)), len(closed) + np.arange(len(crossed))
    rows = np.concatenate([first, first, second, second, second])
    columns = np.concatenate([closed[:, 1], closed[:, 0], crossed[:, 0], crossed[:, 1], size + crossed[:, 0]])
    signs = np.repeat([1.0, -1.0, 1.0, -1.0, -1.0], [len(first)] * 2 + [len(second)] * 3)
    return csr_array((signs, (rows, columns)), shape=(len(first) + len(second), 2 * size + 1))


def _stage_rows(graph: LayerGraph, edge: Values, cloud: Values, tensor: Values, entry: Values) -> tuple[Values, Values]:
    """The three stages as rows over x and y, and what is added to each."""
    size = len(graph.layers)
    rows = np.zeros((3, 2 * size))
    rows[0, :size], rows[1, size:], rows[2, :size] = edge, tensor, -cloud
    points = [point.layer for point in graph.points[:-1]]
    rows[2, points] += entry
    rows[2, points[1:]] -= entry[:-1]
    return rows, np.array([0.0, 0.0, cloud.sum()])


def _closed(graph: LayerGraph, chosen: Iterable[int]) -> frozenset[int]:
    """The layers among the chosen ones whose inputs are too: a cut."""
    head = {INPUT}
    for number in sorted(chosen):
        if head.issuperset(graph.layers[number].inputs):
            head.add(number)
    return frozenset(head)


# --- DADS's own heuristic


def dsh(problem: Problem) -> Bottleneck:
    """DADS's approximation (Algorithm 2, DSH): minimum cuts with scaled stages. A baseline; `exact` is better.

    The cut of least alpha * edge + beta * upload + gamma * cloud is found for beta = 1, alpha from 0 to the edge's
    seconds of all layers over those of sending the smallest tensor, and gamma likewise; of these cuts the one with the
    shortest longest stage is kept. Then finer grids are laid around its alpha and gamma, until one gains nothing.

    Unlike in the paper a grid has at most GRID points on each axis, so its first step is 1 or more: the range is
    millions where a tensor is tiny. Tensors of 0 bytes, which would make it infinite, are passed over. And
    (1, 1) is always tried, for the ratio of 3 rests on it: the sum of the stages of that cut is at most the sum of
    those of any other, which is at most 3 times the longest. The gap given is what that proves.
    Raises ValueError for seconds that are negative, infinite or not numbers.
    """
    solver = CutSolver(problem.graph)
    terms = _terms(solver, problem)

    @cache
    def cut(alpha: float, gamma: float) -> _Cut:
        return _cut(problem, solver.best(_terms(solver, problem, alpha, 1.0, gamma)))

    def best(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
        return min(pairs, key=lambda pair: (cut(*pair).predicted.longest_s, cut(*pair).predicted.total_s))

    sending_s = terms.tensor[[bool(readers) for readers in problem.graph.readers]]
    axes = [_first_axis(float(part.sum()), sending_s) for part in (terms.edge, terms.cloud)]
    at, steps, gain = best([(1.0, 1.0), *product(axes[0], axes[1])]), [axis[1] for axis in axes], math.inf
    while gain > GAIN:
        finer = [_axis_around(middle, step) for middle, step in zip(at, steps, strict=True)]
        steps, last_s = [step / FINER for step in steps], cut(*at).predicted.longest_s
        at = best([at, *product(finer[0], finer[1])])
        gain = 1 - cut(*at).predicted.longest_s / last_s if last_s > NOTHING else 0.0
    found, even = cut(*at), cut(1.0, 1.0)
    third_s = _stages(even.predicted).sum() / 3
    gap = 1 - third_s / found.predicted.longest_s if found.predicted.longest_s > NOTHING else 0.0
    return Bottleneck(found.head, found.predicted, gap <= PROVEN, gap if gap > PROVEN else 0.0, DSH)


def _first_axis(whole_s: float, sending_s: Values) -> list[float]:
    """From 0 to the seconds of a side's layers over those of sending the smallest tensor, in steps of 1 or more."""
    most = whole_s / sending_s[sending_s > NOTHING].min(initial=math.inf)
    step = max(1.0, most / (GRID - 1))
    return [number * step for number in range(max(2, int(most / step) + 1))]


def _axis_around(middle: float, step: float) -> list[float]:
    """From a step below to a step above, in finer ones, without what is negative."""
    points = (middle + step * number / FINER for number in range(-FINER, FINER + 1))
    return [point for point in points if point >= 0]
