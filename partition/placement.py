"""The best placement that may go back and forth between edge and cloud, where the cloud's work may cost no more than a
cap. Pure.

A graph is contracted to the chain of its points: step i holds the layers after point i - 1 up to and including point i,
so that a block of a residual network stays in one place. Least latency under a cap on money is a shortest path with one
constraint in a graph of (step, place), as JointDNN states it (Eshratifar et al., arXiv 1801.08618, section 2.3). That
is NP-complete, for a knapsack can be written so, but most knapsacks of the size of a network are easy.

The search sets labels (value, seconds that are paid for) from the input on and drops a label

* where another one at the same step and place is neither slower nor dearer,
* where even the best way onward cannot beat what is found already. The bound on that way is Lagrange's: what is paid
  for is added to the value at some price, and without a cap the least sum is found step by step, from the end.

The price that bounds best is found first, by secants (LARAC, Jüttner et al., INFOCOM 2001). The ways onward at that
price also complete the labels, so that a good placement is known long before the last step.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.graph import INPUT, LayerGraph
from partition.cost import LATENCY, Part, Place, Prediction, Problem, StageWeights, money, predict
from utils.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# Values that differ by less than this, relatively, differ by rounding only.
_ROUNDING = 1e-13
# Labels that are kept at one step and place: all that 14 steps can have. Knapsacks made to be hard have more.
_MOST_LABELS = 1 << 13
# Placements whose cost and the cap differ by rounding only, and that are asked for their cost one by one.
_MOST_TRIES = 1 << 10
# Secants converge in a handful of steps; rounding must not make them go on for ever.
_MOST_SECANTS = 40
_EDGE, _CLOUD, _LAST = 0, 1, 2
_PLACES: tuple[Place, Place] = ("edge", "cloud")
_TINIEST = math.ulp(0.0)


class InfeasibleError(UsageError):
    """No placement costs as little as was asked for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where to run what, one part after the other, with the predicted seconds and what the cloud's work costs."""

    parts: tuple[Part, ...]
    predicted: Prediction
    cost: float
    is_optimal: bool = True
    """False where the search was cut short: a better placement may exist."""


def steps(graph: LayerGraph) -> tuple[frozenset[int], ...]:
    """The layers between consecutive points: what is placed as a whole. The input is in none of them."""
    ends = [point.layer for point in graph.points]
    return tuple(frozenset(range(a + 1, b + 1)) for a, b in pairwise(ends))


def placed(graph: LayerGraph, places: Iterable[Place]) -> tuple[Part, ...]:
    """The parts that run if every step has its place, the first one on the edge with the input.

    Raises ValueError unless there is one place for each step.
    """
    found: list[tuple[Place, set[int]]] = [("edge", {INPUT})]
    for place, step in zip(places, steps(graph), strict=True):
        if place != found[-1][0]:
            found.append((place, set()))
        found[-1][1].update(step)
    return tuple(Part(place, frozenset(layers)) for place, layers in found)


def best(
    problem: Problem, weights: StageWeights = LATENCY, price_per_s: float = 0.0, max_cost: float = math.inf
) -> Placement:
    """The placement with the least weighted sum of stages among those whose `money` is at most `max_cost`.

    It is exact up to rounding unless `is_optimal` is False: then labels or tries ran out, and it is the best one found,
    still within the cap. Raises InfeasibleError for a cap below 0, since all on the edge costs nothing, UsageError for
    a cap or a price that is none, and ValueError for terms that are not finite or a cloud that takes less than no time.
    """
    _check(price_per_s, max_cost)
    chain = _chain_of(problem, weights)
    onward = _onward(chain, 0.0)
    free = _placement(problem, onward.places(0, _EDGE), price_per_s)
    if free.cost <= max_cost:
        return free
    found = (
        _placement(problem, places, price_per_s, is_optimal)
        for places, is_optimal in _candidates(chain, onward, *_limits(problem, price_per_s, max_cost))
    )
    return next(placement for placement in found if placement.cost <= max_cost)


def _limits(problem: Problem, price_per_s: float, max_cost: float) -> tuple[float, float]:
    """Seconds that may be paid for: below the first `money` is surely within the cap, above the second surely not."""
    rounding = 4 * (len(problem.graph.layers) + 4) * math.ulp(1.0)
    low_s = (max_cost - _TINIEST) / price_per_s * (1 - rounding)
    return max(0.0, low_s), (max_cost + _TINIEST) / price_per_s * (1 + rounding)


def _check(price_per_s: float, max_cost: float) -> None:
    if not (price_per_s >= 0 and math.isfinite(price_per_s)):
        raise UsageError(f"the price of a second on the cloud is a number of at least 0, not {price_per_s:g}")
    if math.isnan(max_cost):
        raise UsageError("the most that an inference may cost is a number, not nan")
    if max_cost < 0:
        raise InfeasibleError(f"no placement costs at most {max_cost:g}: the least is 0, with everything on the edge")


def _placement(problem: Problem, places: Sequence[int], price_per_s: float, is_optimal: bool = True) -> Placement:
    parts = placed(problem.graph, [_PLACES[place] for place in places])
    return Placement(parts, predict(problem, parts), money(problem, parts, price_per_s), is_optimal)


# --- the formula, step by step


@dataclass(frozen=True, slots=True)
class _Chain:
    """What a placement picks from the cost formula, in order of steps: step k leads from point k to point k + 1.

    All but the `_s` are weighted. A request that is the last one sends the result alone, and any other also the answers
    among its layers: so to stay on the cloud for good is a move of its own, `last`, and never comes back.
    """

    edge: list[float]
    """Step k on the edge."""
    cloud: list[float]
    """Step k on the cloud in a request that comes back."""
    cloud_s: list[float]
    """What is paid for in it."""
    there: list[float]
    """A request that begins at point k: its start, the way there and the wait."""
    there_s: list[float]
    """What is paid for in it."""
    back: list[float]
    """The way back at point k of a request that began before it."""
    last: list[float]
    """All after point k in the last request."""
    last_s: list[float]
    """What is paid for in it."""


def _chain_of(problem: Problem, weights: StageWeights) -> _Chain:
    """The terms of a problem. Raises ValueError where they cannot be added up or the cloud takes less than no time."""
    graph, cloud, link = problem.graph, problem.cloud, problem.link
    points, inner = [point.layer for point in graph.points[:-1]], steps(graph)
    answers = frozenset(graph.outputs)

    def down(tensors: Iterable[int]) -> float:
        return weights.download * graph.bytes_of(tensors) / link.down_bytes_per_s

    busy, waits = weights.cloud * cloud.load, weights.rtt * link.rtt_s + weights.queue * cloud.queue_s
    ups = [weights.crossing(problem.crossing((layer,)), link.up_bytes_per_s) for layer in points]
    cloud_s = [math.fsum(cloud.seconds[layer] for layer in step) for step in inner]
    there_s = [cloud.start_s[layer] for layer in points]
    there = [waits + up + busy * start_s for up, start_s in zip(ups, there_s, strict=True)]
    left_s = list(accumulate(reversed(cloud_s)))[::-1]
    result = weights.download * problem.result_bytes / link.down_bytes_per_s
    chain = _Chain(
        edge=[weights.edge * math.fsum(problem.edge_s[layer] for layer in step) for step in inner],
        cloud=[busy * s + down(step & answers) for s, step in zip(cloud_s, inner, strict=True)],
        cloud_s=cloud_s,
        there=there,
        there_s=there_s,
        back=[0.0 if layer in answers else down((layer,)) for layer in points],  # an answer is sent back in any case
        last=[go + busy * s + result for go, s in zip(there, left_s, strict=True)],
        last_s=[start_s + s for start_s, s in zip(there_s, left_s, strict=True)],
    )
    _check_terms(chain)
    return chain


def _check_terms(chain: _Chain) -> None:
    values = (*chain.edge, *chain.cloud, *chain.there, *chain.back, *chain.last)
    if not all(map(math.isfinite, values)) or not all(0 <= s < math.inf for s in (*chain.cloud_s, *chain.there_s)):
        raise ValueError("what a placement takes has to be finite, and what the cloud takes at least 0")


# --- without a cap, from the end


@dataclass(frozen=True, slots=True)
class _Onward:
    """The least value + price * seconds paid from every point to the end, with the step before it in either place.

    Every pair is (on the edge, on the cloud) before the point; on the cloud means in a request that comes back.
    """

    price: float
    total: list[tuple[float, float]]
    value: list[tuple[float, float]]
    paid_s: list[tuple[float, float]]
    move: list[tuple[int, int]]
    """Where the next step goes, or _LAST."""

    def places(self, point: int, place: int) -> list[int]:
        """The places of the steps from a point on."""
        found: list[int] = []
        for moves in self.move[point:]:
            place = moves[place]
            if place == _LAST:
                return found + [_CLOUD] * (len(self.move) - point - len(found))
            found.append(place)
        return found


# A way onward: value + price * seconds paid, seconds paid, value, move. The least is the best, then the cheapest.
_Way = tuple[float, float, float, int]
_NOWHERE: _Way = (math.inf, 0.0, math.inf, _EDGE)


def _onward(chain: _Chain, price: float) -> _Onward:
    """The best ways onward where a second that is paid for counts `price` on top of its value."""

    def way(value: float, paid_s: float, move: int, then: _Way = (0.0, 0.0, 0.0, _EDGE)) -> _Way:
        return value + price * paid_s + then[0], paid_s + then[1], value + then[2], move

    here: _Way = (0.0, 0.0, 0.0, _EDGE)
    away = _NOWHERE  # a request that comes back has ended before the last point
    ways = [(here, away)]
    for k in reversed(range(len(chain.edge))):
        stays, returns = way(chain.edge[k], 0.0, _EDGE, here), way(chain.back[k] + chain.edge[k], 0.0, _EDGE, here)
        leaves = way(chain.there[k] + chain.cloud[k], chain.there_s[k] + chain.cloud_s[k], _CLOUD, away)
        goes_on = way(chain.cloud[k], chain.cloud_s[k], _CLOUD, away)
        here, away = min(stays, leaves, way(chain.last[k], chain.last_s[k], _LAST)), min(returns, goes_on)
        ways.append((here, away))
    ways.reverse()
    return _Onward(
        price,
        [(a[0], b[0]) for a, b in ways],
        [(a[2], b[2]) for a, b in ways],
        [(a[1], b[1]) for a, b in ways],
        [(a[3], b[3]) for a, b in ways[:-1]],
    )


# --- under a cap, from the input


def _secants(chain: _Chain, free: _Onward, limit_s: float) -> tuple[float, list[int], float]:
    """The price that bounds best, and the best placement within the limit met on the way to it, with its value.

    LARAC: of two placements, one too dear and one that fits, the line between their values says at which price they
    are worth the same; a placement that is better at that price replaces one of the two, until there is none.
    """
    dear, fits = (free.value[0][_EDGE], free.paid_s[0][_EDGE]), (math.fsum(chain.edge), 0.0)
    places, price = [_EDGE] * len(chain.edge), 0.0
    for _ in range(_MOST_SECANTS):
        price = (fits[0] - dear[0]) / (dear[1] - fits[1])
        onward = _onward(chain, price)
        at_par = fits[0] + price * fits[1]
        if onward.total[0][_EDGE] >= at_par - _ROUNDING * abs(at_par):
            break
        found = onward.value[0][_EDGE], onward.paid_s[0][_EDGE]
        if found in (dear, fits):
            break
        if found[1] > limit_s:
            dear = found
        else:
            fits, places = found, onward.places(0, _EDGE)
    return price, places, fits[0]


class _Bounds:
    """The ways onward at several prices, as arrays: [price, point, place].

    After those comes one more way: to go to the cloud for good at once, or at the last point to do nothing.
    """

    def __init__(self, chain: _Chain, prices: Sequence[float], limit_s: float) -> None:
        size = len(chain.edge)
        self._ways = [_onward(chain, price) for price in prices]
        self.prices = np.array(prices)[:, np.newaxis]
        total = np.array([way.total for way in self._ways])
        self.least = total - self.prices[:, :, np.newaxis] * limit_s
        """What a label adds its value + price * seconds paid to, to be a bound on all ways from there."""
        for_good = np.full((2, 1, size + 1, 2), np.inf)
        for_good[0, 0, :, _EDGE], for_good[1, 0, :, _EDGE] = [*chain.last, 0.0], [*chain.last_s, 0.0]
        self.value = np.concatenate([np.array([way.value for way in self._ways]), for_good[0]])
        self.paid_s = np.concatenate([np.array([way.paid_s for way in self._ways]), for_good[1]])
        self._size = size

    def places(self, row: int, point: int, place: int) -> list[int]:
        """The places of the steps from a point on, on way number `row`."""
        if row == len(self._ways):
            return [_CLOUD] * (self._size - point)
        return self._ways[row].places(point, place)


@dataclass(frozen=True, slots=True)
class _Labels:
    """Placements of the steps before a point, the last of them in one place, by what is paid for."""

    value: Floats
    paid_s: Floats
    origin: Ints
    """Which label of the point before it continues; those on the edge are counted first."""


_START = _Labels(np.zeros(1), np.zeros(1), np.zeros(1, np.int32))
_NONE = _Labels(np.empty(0), np.empty(0), np.empty(0, np.int32))


class _Found(NamedTuple):
    """A whole placement: a label, and the way onward from there."""

    value: float
    point: int
    place: int
    label: int
    row: int


@dataclass
class _Search:
    """The labels of every point and place, as far as they may lead to less than `best` within the limit.

    With no `slack_s` what is found is better every time. With some, a label has to be cheaper by more than that to
    drop another one, and all that is found goes into the list, the best first, as far as there is room.
    """

    chain: _Chain
    bounds: _Bounds
    limit_s: float
    best: float
    slack_s: float = 0.0
    dropped: float = math.inf
    """The least bound of a label that was dropped for want of room."""
    found: list[_Found] = field(default_factory=list)
    _origins: list[tuple[Ints, Ints]] = field(default_factory=list)

    def run(self) -> None:
        """Go through the steps."""
        here, away = _START, _NONE
        for point in range(len(self.chain.edge) + 1):
            if point:
                here, away = self._step(point, here, away)
            if not len(here.value) and not len(away.value):
                return
            self._origins.append((here.origin, away.origin))
            self._complete(point, _EDGE, here)
            self._complete(point, _CLOUD, away)

    def _step(self, point: int, here: _Labels, away: _Labels) -> tuple[_Labels, _Labels]:
        chain, k = self.chain, point - 1
        paid_s = np.concatenate([here.paid_s, away.paid_s])
        value = np.concatenate([here.value + chain.edge[k], away.value + (chain.back[k] + chain.edge[k])])
        on_edge = self._kept(point, _EDGE, value, paid_s)
        if point == len(chain.edge):
            return on_edge, _NONE
        value = np.concatenate([here.value + (chain.there[k] + chain.cloud[k]), away.value + chain.cloud[k]])
        paid_s = np.concatenate([here.paid_s + (chain.there_s[k] + chain.cloud_s[k]), away.paid_s + chain.cloud_s[k]])
        return on_edge, self._kept(point, _CLOUD, value, paid_s)

    def _kept(self, point: int, place: int, value: Floats, paid_s: Floats) -> _Labels:
        """What is left of some labels, numbered by their place in the list."""
        bounds = self.bounds
        bound = (bounds.prices * paid_s + bounds.least[:, point, place, np.newaxis]).max(axis=0) + value
        may = np.flatnonzero((paid_s <= self.limit_s) & (bound < self.best - _ROUNDING * abs(self.best)))
        if not len(may):
            return _NONE
        order = may[np.lexsort((value[may], paid_s[may]))]
        order = order[_is_not_dominated(value[order], paid_s[order], self.slack_s)]
        if len(order) > _MOST_LABELS:
            ranked = np.argsort(bound[order], kind="stable")
            self.dropped = min(self.dropped, float(bound[order[ranked[_MOST_LABELS]]]))
            order = order[np.sort(ranked[:_MOST_LABELS])]
        return _Labels(value[order], paid_s[order], order.astype(np.int32))

    def _complete(self, point: int, place: int, labels: _Labels) -> None:
        """Follow the ways onward from some labels to the end, and note what is better than the best."""
        if not len(labels.value):
            return
        bounds, first = self.bounds, -1 if self.slack_s else 0
        value = labels.value + bounds.value[first:, point, place, np.newaxis]
        paid_s = labels.paid_s + bounds.paid_s[first:, point, place, np.newaxis]
        value[paid_s > self.limit_s] = np.inf
        if self.slack_s:
            better = np.flatnonzero(value[0] < self.best)
            better = better[np.argsort(value[0, better], kind="stable")[:_MOST_TRIES]]
            row = len(bounds.prices)
            found = [_Found(float(value[0, label]), point, place, int(label), row) for label in better]
            self.found = sorted(self.found + found)[:_MOST_TRIES]
            return
        row, label = np.unravel_index(value.argmin(), value.shape)
        if value[row, label] < self.best:
            self.best = float(value[row, label])
            self.found.append(_Found(self.best, point, place, int(label), int(row)))

    def places(self, found: _Found) -> list[int]:
        """The places of all steps."""
        place, label, places = found.place, found.label, []
        for point in range(found.point, 0, -1):
            places.append(place)
            label, on_edge = int(self._origins[point][place][label]), len(self._origins[point - 1][_EDGE])
            place, label = (_EDGE, label) if label < on_edge else (_CLOUD, label - on_edge)
        return places[::-1] + self.bounds.places(found.row, found.point, found.place)


def _is_not_dominated(value: Floats, paid_s: Floats, slack_s: float) -> NDArray[np.bool_]:
    """Which labels, in order of what is paid for and then of value, no other one drops."""
    least = np.concatenate([[np.inf], np.minimum.accumulate(value)])
    cheaper = np.searchsorted(paid_s, paid_s - 2 * slack_s) if slack_s else np.arange(len(value))
    kept: NDArray[np.bool_] = value < least[cheaper]
    return kept


def _candidates(chain: _Chain, free: _Onward, low_s: float, high_s: float) -> Iterator[tuple[list[int], bool]]:
    """Placements, the best first, and whether each is the best of all if those before it cost too much.

    Sums of the same seconds in another order differ by rounding, so between the limits only `money` knows what it lets
    through. Mostly it lets the best one below the higher limit through. Where times are round numbers it may not: then
    all that lie between the limits and are better than the best one below the lower limit have to be asked about. That
    one comes last, and is surely within the cap.
    """
    places, is_optimal, _, price = _solved(chain, free, high_s)
    yield places, is_optimal
    places, is_optimal, value, _ = _solved(chain, free, low_s)
    search = _Search(chain, _Bounds(chain, [0.0, price], high_s), high_s, value, high_s - low_s)
    search.run()
    for found in search.found:
        yield search.places(found), found.value <= search.dropped
    yield places, is_optimal and value <= search.dropped and len(search.found) < _MOST_TRIES


def _solved(chain: _Chain, free: _Onward, limit_s: float) -> tuple[list[int], bool, float, float]:
    """The best places within a limit, whether they are sure to be the best, their value, and the price that bounds."""
    price, places, value = _secants(chain, free, limit_s)
    search = _Search(chain, _Bounds(chain, [0.0, price], limit_s), limit_s, value)
    search.run()
    if search.found:
        places = search.places(search.found[-1])
    return places, search.best <= search.dropped, search.best, price
