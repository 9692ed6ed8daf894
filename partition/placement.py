"""The best placement of alternating parts on edge and cloud under a limit on the cloud cost. Pure.

A graph is contracted to the chain of its points: step i holds the layers after point i - 1 up to and including point i,
so that a block of a residual network stays in one place. Which steps run where is then a shortest path with one
constraint (JointDNN, Eshratifar et al., arXiv 1801.08618, section 2.3), found by partition.constrained_path.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from edgecloud.models.graph import LayerGraph
from edgecloud.partition import constrained_path
from edgecloud.partition.cost import LATENCY, Part, Place, Problem, StageTimes, StageWeights, cost_of, predict
from edgecloud.utils.errors import UsageError

_PLACES: dict[int, Place] = {constrained_path.EDGE: "edge", constrained_path.CLOUD: "cloud"}
_TINIEST = math.ulp(0.0)


class InfeasibleError(UsageError):
    """No placement costs as little as was asked for: `max_cost`."""

    def __init__(self, max_cost: float) -> None:
        super().__init__(f"no placement costs at most {max_cost:g}: the minimum is 0, with all layers on the edge")
        self.max_cost = max_cost


@dataclass(frozen=True, slots=True)
class Placement:
    """Where to run what, one part after the other, with the predicted seconds and what the cloud's work costs."""

    parts: tuple[Part, ...]
    predicted: StageTimes
    cost: float
    is_optimal: bool = True
    """False where the search was cut short: a better placement may exist."""


def steps(graph: LayerGraph) -> tuple[frozenset[int], ...]:
    """The layers between consecutive points: what is placed as a whole. The inputs are in none of them."""
    ends = [point.layer for point in graph.points]
    return tuple(frozenset(range(a + 1, b + 1)) for a, b in pairwise(ends))


def placed(graph: LayerGraph, places: Iterable[Place]) -> tuple[Part, ...]:
    """The parts that run if every step has its place, the first one on the edge with the input.

    Raises ValueError unless there is one place for each step.
    """
    groups: list[tuple[Place, set[int]]] = [("edge", set(graph.inputs))]
    for place, step in zip(places, steps(graph), strict=True):
        if place != groups[-1][0]:
            groups.append((place, set()))
        groups[-1][1].update(step)
    return tuple(Part(place, frozenset(layers)) for place, layers in groups)


def best(
    problem: Problem, weights: StageWeights = LATENCY, price_per_s: float = 0.0, max_cost: float = math.inf
) -> Placement:
    """The placement with the least weighted sum of stages among those whose `cost_of` is at most `max_cost`.

    It is exact up to rounding unless `is_optimal` is False: then labels or tries ran out, and it is the best one found,
    still within the limit. Raises InfeasibleError for a limit below 0, since all on the edge costs nothing, UsageError
    for a limit or a price that is none, and ValueError for terms that are not finite or a cloud that takes less than no
    time.
    """
    _check(price_per_s, max_cost)
    terms = _terms_of(problem, weights)
    free = _placement(problem, constrained_path.least(terms), price_per_s)
    if free.cost <= max_cost:
        return free
    placements = (
        _placement(problem, places, price_per_s, is_optimal)
        for places, is_optimal in constrained_path.candidates(terms, *_limits(problem, price_per_s, max_cost))
    )
    return next(placement for placement in placements if placement.cost <= max_cost)


def _limits(problem: Problem, price_per_s: float, max_cost: float) -> tuple[float, float]:
    """Seconds that may be paid for: up to the first they surely cost `max_cost` at most, above the second more."""
    rounding = 4 * (len(problem.graph.layers) + 4) * math.ulp(1.0)
    low_s = (max_cost - _TINIEST) / price_per_s * (1 - rounding)
    return max(0.0, low_s), (max_cost + _TINIEST) / price_per_s * (1 + rounding)


def _check(price_per_s: float, max_cost: float) -> None:
    if not (price_per_s >= 0 and math.isfinite(price_per_s)):
        raise UsageError(f"the cloud price must be at least 0, not {price_per_s:g}")
    if math.isnan(max_cost):
        raise UsageError("the cost limit must be a number, not nan")
    if max_cost < 0:
        raise InfeasibleError(max_cost)


def _placement(problem: Problem, places: Sequence[int], price_per_s: float, is_optimal: bool = True) -> Placement:
    parts = placed(problem.graph, [_PLACES[place] for place in places])
    return Placement(parts, predict(problem, parts), cost_of(problem, parts, price_per_s), is_optimal)


# --- the formula, step by step


def _terms_of(problem: Problem, weights: StageWeights) -> constrained_path.StepTerms:
    """The terms of a problem. Raises ValueError where they cannot be added up or the cloud takes less than no time."""
    graph, cloud, link = problem.graph, problem.cloud, problem.link
    points, inner = [point.layer for point in graph.points[:-1]], steps(graph)
    answers = frozenset(graph.outputs)

    def down(tensors: Iterable[int]) -> float:
        return weights.download * graph.bytes_of(tensors) / link.down_bytes_per_s

    busy, waits = weights.cloud * cloud.load, weights.rtt * link.rtt_s + weights.queue * cloud.queue_s
    ups = [
        weights.crossing(problem.crossing(graph.crossing_at(number)), link.up_bytes_per_s)
        for number in range(len(points))
    ]
    cloud_s = [math.fsum(cloud.seconds[layer] for layer in step) for step in inner]
    there_s = [cloud.start_s[layer] for layer in points]
    there = [waits + up + busy * start_s for up, start_s in zip(ups, there_s, strict=True)]
    left_s = list(accumulate(reversed(cloud_s)))[::-1]
    result = weights.download * problem.result_bytes / link.down_bytes_per_s
    terms = constrained_path.StepTerms(
        edge=[weights.edge * math.fsum(problem.edge_s[layer] for layer in step) for step in inner],
        cloud=[busy * s + down(step & answers) for s, step in zip(cloud_s, inner, strict=True)],
        cloud_s=cloud_s,
        there=there,
        there_s=there_s,
        back=[0.0 if layer in answers else down((layer,)) for layer in points],  # an answer is sent back in any case
        last=[go + busy * s + result for go, s in zip(there, left_s, strict=True)],
        last_s=[start_s + s for start_s, s in zip(there_s, left_s, strict=True)],
    )
    _check_terms(terms)
    return terms


def _check_terms(terms: constrained_path.StepTerms) -> None:
    values = (*terms.edge, *terms.cloud, *terms.there, *terms.back, *terms.last)
    if not all(map(math.isfinite, values)) or not all(0 <= s < math.inf for s in (*terms.cloud_s, *terms.there_s)):
        raise ValueError("what a placement takes has to be finite, and what the cloud takes at least 0")
