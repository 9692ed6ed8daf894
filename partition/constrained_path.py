"""Constrained shortest path: the best side for each step of a network under a cost limit. Pure: seconds, no network.

Least value under a limit on the seconds that are paid for is a shortest path with one constraint in a graph of (step,
place), as JointDNN states it (Eshratifar et al., arXiv 1801.08618, section 2.3). That is NP-complete, for a knapsack
can be written so, but most knapsacks of the size of a network are easy.

The search sets labels (value, seconds that are paid for) from the input on and drops a label

* where another one at the same step and place is neither slower nor more expensive,
* where even the best way onward cannot beat what is found already. The bound on that way is Lagrange's: what is paid
  for is added to the value at some price, and without a limit the least sum is found step by step, from the end.

The price that bounds best is found first, by secants (LARAC, Jüttner et al., INFOCOM 2001). The ways onward at that
price also complete the labels, so that a good way is known long before the last step.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# Values that differ by less than this, relatively, differ by rounding only.
_ROUNDING = 1e-13
# Labels that are kept at one step and place: all that 14 steps can have. Knapsacks made to be hard have more.
_MOST_LABELS = 1 << 13
# Ways whose seconds and the limit differ by rounding only, and that are asked about one by one.
_MOST_TRIES = 1 << 10
# Secants converge in a handful of steps; rounding must not make them go on for ever.
_MOST_SECANTS = 40
EDGE, CLOUD, _LAST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class StepTerms:
    """What a way picks from the cost formula, in order of steps: step k leads from point k to point k + 1.

    All but the `_s`, which are seconds of an idle cloud, are weighted. A request that is the last one sends the result
    alone, and any other also the answers among its layers: so staying on the cloud until the end is a separate move,
    `last`, and never comes back.
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
    """The download at point k of a request that began before it."""
    last: list[float]
    """All after point k in the last request."""
    last_s: list[float]
    """What is paid for in it."""


def least(terms: StepTerms) -> list[int]:
    """The way of the least value, whatever is paid for it: EDGE or CLOUD for each step."""
    return _onward(terms, 0.0).places(0, EDGE)


def candidates(terms: StepTerms, low_s: float, high_s: float) -> Iterator[tuple[list[int], bool]]:
    """Ways, the best first, and whether each is the best of all if those before it may not be paid for.

    A way that is paid `low_s` seconds for is surely allowed, one above `high_s` surely not. Sums of the same seconds in
    another order differ by rounding, so between the two only who asks knows what is allowed. Mostly that is the best
    one below the higher limit. Where times are round numbers it may not be: then all that lie between the limits and
    are better than the best one below the lower limit have to be asked about. That one comes last, and is surely
    allowed.
    """
    free = _onward(terms, 0.0)
    places, is_optimal, _, price = _solved(terms, free, high_s)
    yield places, is_optimal
    places, is_optimal, value, _ = _solved(terms, free, low_s)
    search = _Search(terms, _Bounds(terms, [0.0, price], high_s), high_s, value, high_s - low_s)
    search.run()
    for path in search.paths:
        yield search.places(path), path.value <= search.dropped
    yield places, is_optimal and value <= search.dropped and len(search.paths) < _MOST_TRIES


# --- without a limit, from the end


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
        places: list[int] = []
        for moves in self.move[point:]:
            place = moves[place]
            if place == _LAST:
                return places + [CLOUD] * (len(self.move) - point - len(places))
            places.append(place)
        return places


# A way onward: value + price * seconds paid, seconds paid, value, move. The least is the best, then the cheapest.
_Way = tuple[float, float, float, int]
_NOWHERE: _Way = (math.inf, 0.0, math.inf, EDGE)


def _onward(terms: StepTerms, price: float) -> _Onward:
    """The best ways onward where a second that is paid for counts `price` on top of its value."""

    def way(value: float, paid_s: float, move: int, then: _Way = (0.0, 0.0, 0.0, EDGE)) -> _Way:
        return value + price * paid_s + then[0], paid_s + then[1], value + then[2], move

    here: _Way = (0.0, 0.0, 0.0, EDGE)
    away = _NOWHERE  # a request that comes back has ended before the last point
    ways = [(here, away)]
    for k in reversed(range(len(terms.edge))):
        stays, returns = way(terms.edge[k], 0.0, EDGE, here), way(terms.back[k] + terms.edge[k], 0.0, EDGE, here)
        leaves = way(terms.there[k] + terms.cloud[k], terms.there_s[k] + terms.cloud_s[k], CLOUD, away)
        goes_on = way(terms.cloud[k], terms.cloud_s[k], CLOUD, away)
        here, away = min(stays, leaves, way(terms.last[k], terms.last_s[k], _LAST)), min(returns, goes_on)
        ways.append((here, away))
    ways.reverse()
    return _Onward(
        price,
        [(a[0], b[0]) for a, b in ways],
        [(a[2], b[2]) for a, b in ways],
        [(a[1], b[1]) for a, b in ways],
        [(a[3], b[3]) for a, b in ways[:-1]],
    )


# --- under a limit, from the input


def _solved(terms: StepTerms, free: _Onward, limit_s: float) -> tuple[list[int], bool, float, float]:
    """The best places within a limit, whether they are sure to be the best, their value, and the price that bounds."""
    price, places, value = _secants(terms, free, limit_s)
    search = _Search(terms, _Bounds(terms, [0.0, price], limit_s), limit_s, value)
    search.run()
    if search.paths:
        places = search.places(search.paths[-1])
    return places, search.best <= search.dropped, search.best, price


def _secants(terms: StepTerms, free: _Onward, limit_s: float) -> tuple[float, list[int], float]:
    """The price that bounds best, and the best way within the limit met while looking for it, with its value.

    LARAC: of two ways, one too dear and one that fits, the line between their values says at which price they are
    worth the same; a way that is better at that price replaces one of the two, until there is none.
    """
    dear, fits = (free.value[0][EDGE], free.paid_s[0][EDGE]), (math.fsum(terms.edge), 0.0)
    places, price = [EDGE] * len(terms.edge), 0.0
    for _ in range(_MOST_SECANTS):
        price = (fits[0] - dear[0]) / (dear[1] - fits[1])
        onward = _onward(terms, price)
        at_par = fits[0] + price * fits[1]
        if onward.total[0][EDGE] >= at_par - _ROUNDING * abs(at_par):
            break
        sums = onward.value[0][EDGE], onward.paid_s[0][EDGE]
        if sums in (dear, fits):
            break
        if sums[1] > limit_s:
            dear = sums
        else:
            fits, places = sums, onward.places(0, EDGE)
    return price, places, fits[0]


class _Bounds:
    """The ways onward at several prices, as arrays: [price, point, place].

    After those comes one more way: to go to the cloud until the end at once, or at the last point to do nothing.
    """

    def __init__(self, terms: StepTerms, prices: Sequence[float], limit_s: float) -> None:
        size = len(terms.edge)
        self._ways = [_onward(terms, price) for price in prices]
        self.prices = np.array(prices)[:, np.newaxis]
        total = np.array([way.total for way in self._ways])
        self.least = total - self.prices[:, :, np.newaxis] * limit_s
        """What a label adds its value + price * seconds paid to, to be a bound on all ways from there."""
        for_good = np.full((2, 1, size + 1, 2), np.inf)
        for_good[0, 0, :, EDGE], for_good[1, 0, :, EDGE] = [*terms.last, 0.0], [*terms.last_s, 0.0]
        self.value = np.concatenate([np.array([way.value for way in self._ways]), for_good[0]])
        self.paid_s = np.concatenate([np.array([way.paid_s for way in self._ways]), for_good[1]])
        self._size = size

    def places(self, row: int, point: int, place: int) -> list[int]:
        """The places of the steps from a point on, on way number `row`."""
        if row == len(self._ways):
            return [CLOUD] * (self._size - point)
        return self._ways[row].places(point, place)


@dataclass(frozen=True, slots=True)
class _Labels:
    """Ways through the steps before a point, the last of them in one place, by what is paid for."""

    value: Floats
    paid_s: Floats
    origin: Ints
    """Which label of the point before it continues; those on the edge are counted first."""


_START = _Labels(np.zeros(1), np.zeros(1), np.zeros(1, np.int32))
_NONE = _Labels(np.empty(0), np.empty(0), np.empty(0, np.int32))


class _Path(NamedTuple):
    """A whole way: a label, and the way onward from there."""

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

    terms: StepTerms
    bounds: _Bounds
    limit_s: float
    best: float
    slack_s: float = 0.0
    dropped: float = math.inf
    """The least bound of a label that was dropped for want of room."""
    paths: list[_Path] = field(default_factory=list)
    _origins: list[tuple[Ints, Ints]] = field(default_factory=list)

    def run(self) -> None:
        """Go through the steps."""
        here, away = _START, _NONE
        for point in range(len(self.terms.edge) + 1):
            if point:
                here, away = self._step(point, here, away)
            if not len(here.value) and not len(away.value):
                return
            self._origins.append((here.origin, away.origin))
            self._complete(point, EDGE, here)
            self._complete(point, CLOUD, away)

    def _step(self, point: int, here: _Labels, away: _Labels) -> tuple[_Labels, _Labels]:
        terms, k = self.terms, point - 1
        paid_s = np.concatenate([here.paid_s, away.paid_s])
        value = np.concatenate([here.value + terms.edge[k], away.value + (terms.back[k] + terms.edge[k])])
        on_edge = self._prune(point, EDGE, value, paid_s)
        if point == len(terms.edge):
            return on_edge, _NONE
        value = np.concatenate([here.value + (terms.there[k] + terms.cloud[k]), away.value + terms.cloud[k]])
        paid_s = np.concatenate([here.paid_s + (terms.there_s[k] + terms.cloud_s[k]), away.paid_s + terms.cloud_s[k]])
        return on_edge, self._prune(point, CLOUD, value, paid_s)

    def _prune(self, point: int, place: int, value: Floats, paid_s: Floats) -> _Labels:
        """What is left of some labels, numbered by their place in the list."""
        bounds = self.bounds
        bound = (bounds.prices * paid_s + bounds.least[:, point, place, np.newaxis]).max(axis=0) + value
        may = np.flatnonzero((paid_s <= self.limit_s) & (bound < self.best - _ROUNDING * abs(self.best)))
        if not len(may):
            return _NONE
        order = may[np.lexsort((value[may], paid_s[may]))]
        order = order[_is_not_dominated(value[order], paid_s[order], self.slack_s)]
        if len(order) > _MOST_LABELS:
            ranking = np.argsort(bound[order], kind="stable")
            self.dropped = min(self.dropped, float(bound[order[ranking[_MOST_LABELS]]]))
            order = order[np.sort(ranking[:_MOST_LABELS])]
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
            paths = [_Path(float(value[0, label]), point, place, int(label), row) for label in better]
            self.paths = sorted(self.paths + paths)[:_MOST_TRIES]
            return
        row, label = np.unravel_index(value.argmin(), value.shape)
        if value[row, label] < self.best:
            self.best = float(value[row, label])
            self.paths.append(_Path(self.best, point, place, int(label), int(row)))

    def places(self, path: _Path) -> list[int]:
        """The places of all steps."""
        place, label, places = path.place, path.label, []
        for point in range(path.point, 0, -1):
            places.append(place)
            label, on_edge = int(self._origins[point][place][label]), len(self._origins[point - 1][EDGE])
            place, label = (EDGE, label) if label < on_edge else (CLOUD, label - on_edge)
        return places[::-1] + self.bounds.places(path.row, path.point, path.place)


def _is_not_dominated(value: Floats, paid_s: Floats, slack_s: float) -> NDArray[np.bool_]:
    """Which labels, in order of what is paid for and then of value, no other one drops."""
    least = np.concatenate([[np.inf], np.minimum.accumulate(value)])
    cheaper = np.searchsorted(paid_s, paid_s - 2 * slack_s) if slack_s else np.arange(len(value))
    mask: NDArray[np.bool_] = value < least[cheaper]
    return mask
