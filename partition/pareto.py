"""The Pareto front of latency and energy.

A cut belongs to the front where no other is at least as good in both and better in one. Those on the front's convex
hull are the best cuts for some price of a joule in seconds, and are found by trying all prices that matter
(partition.envelope); for points, which are few, the whole front is told.
"""

from dataclasses import dataclass, replace

from edgecloud.partition.chunking import overlapped
from edgecloud.partition.cost import LATENCY, Power, Problem, StageTimes, StageWeights, parts_of, predict
from edgecloud.partition.decision_map import best_cut
from edgecloud.partition.envelope import Line, envelope
from edgecloud.partition.mincut import CutSolver

DEAREST_S = 1e9  # seconds for a joule: as good as energy alone
NO_WEIGHTS = StageWeights(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """A cut with its predicted stages and the edge's joules."""

    head: frozenset[int]
    predicted: StageTimes
    energy_j: float


def front(problem: Problem, power: Power, points: Problem | None = None) -> tuple[Tradeoff, ...]:
    """Cuts that no other beats in latency and energy both, the fastest first. `points` is the problem with the packing
    that cuts of one tensor may have, where that is another.

    Of a graph: all points of the front that are cuts of one tensor, and those of its convex hull. Cuts are found as if
    nothing overlapped, and then predicted with the chunks that take least time. Raises ValueError as
    `best_cut` does.
    """
    graph, joules = problem.graph, power.weights
    whole, problem = problem, replace(problem, chunking=None)  # lines, as the search for cuts has them
    solver = None if graph.is_chain else CutSolver(graph)

    def line_of(head: frozenset[int]) -> Line:
        predicted = predict(problem, parts_of(graph, head))
        return Line(predicted.total_s, joules.value(predicted))

    def lowest(seconds_per_joule: float) -> frozenset[int]:
        return best_cut(problem, LATENCY.plus(joules, seconds_per_joule), solver)

    heads = {piece.item for piece in envelope(lowest, line_of, 0.0, DEAREST_S)}
    heads.add(best_cut(problem, NO_WEIGHTS.plus(joules, 1.0), solver))
    found = [(head, whole) for head in heads]
    found += [(graph.head_at(point.number), points or whole) for point in graph.points]
    tradeoffs = []
    for head, packed in found:
        predicted = overlapped(packed, parts_of(graph, head)).predicted
        tradeoffs.append(Tradeoff(head, predicted, joules.value(predicted)))
    return _not_beaten(tradeoffs)


def _not_beaten(tradeoffs: list[Tradeoff]) -> tuple[Tradeoff, ...]:
    survivors: list[Tradeoff] = []
    for each in sorted(tradeoffs, key=lambda t: (t.predicted.total_s, t.energy_j, len(t.head))):
        if not survivors or each.energy_j < survivors[-1].energy_j:
            survivors.append(each)
    return tuple(survivors)
