"""Choosing a point: every single-tensor cut is predicted, and the lowest total wins.

The scan adds one layer at a time, so it costs one evaluation of the formula for each point and no forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from edgecloud.models.graph import LayerGraph, Point
from edgecloud.partition.chunking import Overlapped, Shares, best_chunks, most_hidden
from edgecloud.partition.cost import LATENCY, Problem, StageTimes, StageWeights, all_on_edge, latency
from edgecloud.partition.overlap import Overlap


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point with what it is predicted to cost."""

    point: Point
    boundary_bytes: int
    predicted: StageTimes
    overlap: Overlap | None = None
    """How its boundary leaves in chunks; None: in one piece."""
    shares: Shares = field(default=(), repr=False, compare=False)
    """What of its stages belongs to each chunk."""

    @property
    def sent(self) -> Overlapped:
        """The same without the point."""
        return Overlapped(self.predicted, self.overlap, self.shares)


CLOSE = 1.1
"""How many times what the best point takes, as roughly known, another one may take to have the best chunks too."""


def scan(problem: Problem, weights: StageWeights = LATENCY) -> tuple[Candidate, ...]:
    """Predict every point of a graph, each with chunks that are good for what is minimized.

    Those of points that are nearly the best one are searched for to the end, and those that cannot come near it not at
    all: they are predicted in one piece. All on the cloud, which plans are compared with, has chunks in any case.
    """
    in_turn = _in_turn(problem)
    if problem.chunking is None:
        return in_turn
    found, least = list(in_turn), min(weights.value(each.predicted) for each in in_turn)
    cheap = [each for each in in_turn[:-1] if _loose_bound(each, weights) <= CLOSE * least]
    bounds = {each.point.number: _bound(problem, each, weights) for each in cheap}
    hopeful = sorted((number for number, bound in bounds.items() if bound <= CLOSE * least), key=bounds.__getitem__)
    for number in dict.fromkeys((0, *hopeful) if len(in_turn) > 1 else ()):
        if number == 0 or bounds[number] <= CLOSE * least:
            found[number] = _with_chunks(problem, in_turn[number], weights, is_rough=True)
            least = min(least, weights.value(found[number].predicted))
    for number in hopeful:
        if weights.value(found[number].predicted) <= CLOSE * least:
            found[number] = _with_chunks(problem, in_turn[number], weights, is_rough=False)
    return tuple(found)


def _loose_bound(each: Candidate, weights: StageWeights) -> float:
    """What a point takes at least, whatever of its layers may run by rows."""
    times = each.predicted
    stages = (times.edge_s + times.encode_s, times.upload_s, times.decode_s, times.queue_s + times.cloud_s)
    return weights.value(times) - weights.hidden * (sum(stages) - max(stages))


def _bound(problem: Problem, each: Candidate, weights: StageWeights) -> float:
    """The same, for the layers that do."""
    hidden_s = most_hidden(problem, problem.graph.head_at(each.point.number), each.predicted)
    return weights.value(each.predicted) - weights.hidden * hidden_s


def _with_chunks(problem: Problem, each: Candidate, weights: StageWeights, *, is_rough: bool) -> Candidate:
    head = problem.graph.head_at(each.point.number)
    sent = best_chunks(problem, head, each.predicted, weights, is_rough=is_rough)
    return Candidate(each.point, each.boundary_bytes, sent.predicted, sent.overlap, sent.shares)


def _in_turn(problem: Problem) -> tuple[Candidate, ...]:
    """One stage after the other."""
    graph, cloud, link = problem.graph, problem.cloud, problem.link
    head_s, head_cloud_s = list(accumulate(problem.edge_s)), list(accumulate(cloud.seconds))
    candidates = []
    for point in graph.points[:-1]:
        crossing = problem.crossing(graph.crossing_at(point.number))
        tail_s = max(0.0, head_cloud_s[-1] - head_cloud_s[point.layer]) + cloud.start_s[point.layer]
        predicted = latency(
            head_s[point.layer], crossing, tail_s, problem.result_bytes, link, cloud.load, cloud.queue_s
        )
        candidates.append(Candidate(point, crossing.bytes, predicted))
    return (*candidates, all_edge(graph, problem.edge_s))


def all_edge(graph: LayerGraph, edge_s: Sequence[float]) -> Candidate:
    """The last point, which needs neither link nor cloud."""
    return Candidate(graph.points[-1], 0, all_on_edge(sum(edge_s)))


def best(candidates: Sequence[Candidate], weights: StageWeights = LATENCY) -> Candidate:
    """The candidate with the least weighted sum of stages; of equal ones the one with fewer bytes on the link."""
    return min(candidates, key=lambda c: (weights.value(c.predicted), c.boundary_bytes))
