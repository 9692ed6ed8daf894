"""The cut with the minimum bottleneck stage of any graph, for tasks that arrive faster than they finish. Pure.

    longest(cut) = max(edge seconds of the head, boundary bytes / upload, load * (cloud seconds of the tail + start))

DADS (Hu et al., INFOCOM 2019, sections II and III) minimises this under heavy load, for stages of different tasks
overlap and 1 / longest tasks a second are the most that a cut sustains. The problem is NP-hard in general, so DADS
approximates it by minimum cuts with scaled stages (DSH), here `dsh`. But networks are nearly chains, and few of their
cuts come near the best one: `exact` walks through these (partition/branch_and_bound.py). For any other graph it solves
a mixed-integer program (partition/milp.py).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from edgecloud.partition.branch_and_bound import TIE, Walk
from edgecloud.partition.cost import Problem, StageTimes, StageWeights, parts_of, predict
from edgecloud.partition.milp import Program
from edgecloud.partition.mincut import NOTHING, CutSolver, Terms, Values

# A cut is optimal if its bottleneck stage is within this of the lower bound, relatively: the solver's own tolerances.
PROVEN = 1e-6
# How many minimum cuts are tried before the program is solved, each a few milliseconds.
MIN_CUTS = 8
# How many steps a walk over all cuts that could be better may take, each some microseconds. It is counted and not
# measured, so that the same problem gives the same cut on every machine; only what needs more is left to the solver.
STEPS = 30_000
# Of the time limit, what the search for the minimum bottleneck stage may take; the rest is for the least latency.
SHARE = 0.75
WALK, PROGRAM, DSH = "walk", "milp", "dsh"  # methods

# Points on each axis of DSH's first grid at most, the factor between two grids, and the gain that is worth another one.
GRID = 33
FINER = 4
GAIN = 1e-3


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A cut chosen for its bottleneck stage."""

    head: frozenset[int]
    predicted: StageTimes
    is_optimal: bool
    """Whether no cut has a bottleneck stage that is shorter by more than a millionth."""
    gap: float
    """How much shorter the bottleneck stage of the best cut may be at most, as a share of this one's; 0 if optimal."""
    method: str


def exact(problem: Problem, time_limit_s: float = 1.0) -> Bottleneck:
    """The cut with the minimum bottleneck stage (DADS, section II, heavy load), with a proof where there is time for
    one.

    First all cuts that could be the best are tried, by a walk that ends early in what cannot be; a network takes some
    hundred steps, Inception v3 thousands. Where STEPS are not enough, a mixed-integer program is solved, within
    `time_limit_s` seconds, not counting what it takes to build it and to ask the solver again where it fails.

    What is optimal is within a millionth of the best of all cuts; and of the cuts whose bottleneck stages are equal to
    TIE it has the least latency if it comes from branch and bound, or if the program's second search, with a quarter of
    the limit, ends in time. What is not optimal is the best of what was found: at least as good as every cut of
    consecutive layers, all points among them, and as a few minimum cuts; its gap is true.
    Raises ValueError for seconds that are negative, infinite or not numbers.
    """
    solver = CutSolver(problem.graph)
    terms = _terms(solver, problem)
    cuts = [_cut(problem, _best_prefix(problem, terms))]
    first = len(problem.graph.inputs)
    if all(number - 1 in layer.inputs for number, layer in enumerate(problem.graph.layers) if number > first):
        return _proven(cuts[0], WALK)  # a chain, or one with shortcuts: it has no other cuts
    heads = Walk(problem.graph, terms, cuts[0].predicted.longest_s).best(STEPS)
    if heads is not None:
        return _proven(_least([*cuts, *(_cut(problem, head) for head in heads)]), WALK)
    cuts += [_cut(problem, head) for head in _min_cuts(solver, problem)]
    cuts, bound_s = _shorter(problem, terms, cuts, SHARE * time_limit_s)
    best = _least(cuts)
    gap = max(0.0, 1 - bound_s / best.predicted.longest_s) if best.predicted.longest_s > NOTHING else 0.0
    if gap > PROVEN:
        return Bottleneck(best.head, best.predicted, False, gap, PROGRAM)
    return _proven(_sooner(problem, terms, cuts, (1 - SHARE) * time_limit_s), PROGRAM)


def _proven(cut: "_Cut", method: str) -> Bottleneck:
    return Bottleneck(cut.head, cut.predicted, True, 0.0, method)


# --- cuts that are known before the search


@dataclass(frozen=True, slots=True)
class _Cut:
    head: frozenset[int]
    predicted: StageTimes


def _cut(problem: Problem, head: frozenset[int]) -> _Cut:
    return _Cut(head, predict(problem, parts_of(problem.graph, head)))


def _least(cuts: Sequence[_Cut]) -> _Cut:
    """The cut with the minimum bottleneck stage; of equal ones the one with the least latency."""
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
    longest_s[: graph.inputs[-1]] = np.inf  # every cut holds all inputs
    equal = np.flatnonzero(longest_s <= (1 + TIE) * longest_s.min())
    return frozenset(range(int(equal[np.argmin(total_s[equal])]) + 1))


def _min_cuts(solver: CutSolver, problem: Problem) -> Iterator[frozenset[int]]:
    """The cut of least latency, and some in which the bottleneck stage gets an ever higher weight."""
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


def _stages(predicted: StageTimes) -> Values:
    return np.array([predicted.edge_s, predicted.upload_s, predicted.cloud_s])


# --- what the mixed-integer program adds


def _shorter(problem: Problem, terms: Terms, cuts: list[_Cut], limit_s: float) -> tuple[list[_Cut], float]:
    """Search for a cut with a shorter bottleneck stage: what is known then, and the lower bound of all, in seconds."""
    best_s = min(cut.predicted.longest_s for cut in cuts)
    if best_s <= NOTHING:
        return cuts, best_s
    program = Program.of(problem.graph, terms, best_s)
    head, bound = program.solve(program.longest, limit_s)
    return [*cuts, *([] if head is None else [_cut(problem, head)])], min(1.0, bound) * best_s


def _sooner(problem: Problem, terms: Terms, cuts: list[_Cut], limit_s: float) -> _Cut:
    """Search for a cut of less latency among those with the minimum bottleneck stage, which `cuts` holds one of."""
    best, soonest_s = _least(cuts), min(cut.predicted.total_s for cut in cuts)
    if best.predicted.total_s <= soonest_s or best.predicted.longest_s <= NOTHING:
        return best  # `cuts` holds the cut of least latency of all
    program = Program.of(problem.graph, terms, min(cut.predicted.longest_s for cut in cuts))
    head, _ = program.solve(program.total, limit_s)
    return best if head is None else _least([*cuts, _cut(problem, head)])


# --- DADS's own heuristic


def dsh(problem: Problem) -> Bottleneck:
    """DADS's approximation (Algorithm 2, DSH): minimum cuts with scaled stages. A baseline; `exact` is better.

    The cut of least alpha * edge + beta * upload + gamma * cloud is found for beta = 1, alpha from 0 to the edge's
    seconds of all layers over those of sending the smallest tensor, and gamma likewise; of these cuts the one with the
    minimum bottleneck stage is kept. Then finer grids are laid around its alpha and gamma, until one gains nothing.

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
    winner, even = cut(*at), cut(1.0, 1.0)
    third_s = _stages(even.predicted).sum() / 3
    gap = 1 - third_s / winner.predicted.longest_s if winner.predicted.longest_s > NOTHING else 0.0
    return Bottleneck(winner.head, winner.predicted, gap <= PROVEN, gap if gap > PROVEN else 0.0, DSH)


def _first_axis(whole_s: float, sending_s: Values) -> list[float]:
    """From 0 to the seconds of a side's layers over those of sending the smallest tensor, in steps of 1 or more."""
    most = whole_s / sending_s[sending_s > NOTHING].min(initial=math.inf)
    step = max(1.0, most / (GRID - 1))
    return [number * step for number in range(max(2, int(most / step) + 1))]


def _axis_around(middle: float, step: float) -> list[float]:
    """From a step below to a step above, in finer ones, without what is negative."""
    points = (middle + step * number / FINER for number in range(-FINER, FINER + 1))
    return [point for point in points if point >= 0]
