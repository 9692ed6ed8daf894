"""What a cut gains over the better of both ends, and what would have to change for one to pay. Pure.

    gain = what the better end takes / what the plan takes

An end is all on the cloud or all on the edge, with the codec that it would itself use: all on the cloud sends the input
alone, so that lossy codecs within the budget are open to it as to every point. What something takes is what is
minimized: seconds, joules, both weighted, or the bottleneck stage.

What a cut with one codec takes is a straight line in one over the upload rate, and in how slow the edge is. So for each
cut and codec the places where it takes at most 1 / PAYS of what either end takes are an interval, which is computed and
not searched for; all of them together are where a cut pays.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from edgecloud.models.graph import LayerGraph, Point
from edgecloud.partition import chain
from edgecloud.partition.chain import Candidate
from edgecloud.partition.cost import Link, Place, Problem, StageTimes, StageWeights
from edgecloud.partition.envelope import Line
from edgecloud.partition.packing import Allowed

PAYS = 1.05
"""The least gain that is worth a cut: predictions are not closer than that."""
SLOWER, FASTER = 1e-3, 1e3
"""How many times as fast as it is the edge is thought to be, at least and at most."""
BUDGETS = (0.005, 0.01, 0.02, 0.05)
"""Accuracy budgets that are looked at, as shares."""
Value = Callable[[StageTimes], float]
"""What is minimized, of the predicted stages of an inference."""
Packing = tuple[Problem, Sequence[Candidate]]
"""A problem with a packing, and its points as `chain.scan` predicts them."""


@dataclass(frozen=True, slots=True)
class End:
    """All on one side, and what that takes."""

    place: Place
    codec: str
    """Of the input; "" on the edge, which sends nothing."""
    predicted: StageTimes
    value: float


@dataclass(frozen=True, slots=True)
class Gain:
    """A plan compared with both ends."""

    value: float
    """What the plan takes, of what is minimized ..."""
    ends: tuple[End, ...]
    """... and each end that is possible: the cloud's first, and the edge's, which always is."""

    @property
    def better(self) -> End:
        """The end that takes less."""
        return min(self.ends, key=lambda end: end.value)

    @property
    def over(self) -> float:
        """How many times what the plan takes the better end takes: 1.5 is half as much again."""
        return self.of(self.value)

    def of(self, value: float) -> float:
        """The same for something else that takes `value`."""
        return self.better.value / value if value > 0 else 1.0 if self.better.value <= 0 else math.inf


def ends_of(packings: Sequence[Packing], value: Value, *, has_cloud: bool = True) -> tuple[End, ...]:
    """Both ends, the cloud's packed as where that takes least; without it where it is not possible."""
    here = packings[0][1][-1].predicted
    ends = [End("edge", "", here, value(here))]
    if has_cloud:
        problem, candidates = min(packings, key=lambda packing: value(packing[1][0].predicted))
        there = candidates[0].predicted
        ends.insert(0, End("cloud", problem.crossing(problem.graph.crossing_at(0)).codec, there, value(there)))
    return tuple(ends)


# --- where a cut pays


@dataclass(frozen=True, slots=True)
class Rival:
    """A cut between the ends, with one codec."""

    point: Point
    codec: str
    predicted: StageTimes
    value: float


@dataclass(frozen=True, slots=True)
class Window:
    """Where a cut pays, in what is varied: from `low` to `high`, most at `best`, where it gains `gain`."""

    low: float
    high: float
    best: float
    gain: float


@dataclass(frozen=True, slots=True)
class Budget:
    """The least accuracy budget, as a share, with which a cut pays, what it gains then, and where it is."""

    share: float
    gain: float
    rival: Rival


@dataclass(frozen=True, slots=True)
class Prospects:
    """What a cut between the ends would take, and what would have to change for it to pay."""

    rival: Rival | None
    """The best one now; None where there is none, or no frame carries it."""
    on_edge: float = 0.0
    """How much more it takes on the edge than the better end does, packing included; below 0 it is less ..."""
    elsewhere: float = 0.0
    """... and how much more on the link and on the cloud."""
    rates: tuple[Window, ...] = ()
    """Upload rates in bytes per second, with everything else as it is ..."""
    speeds: tuple[Window, ...] = ()
    """... how many times as fast as it is the edge would be ..."""
    budget: Budget | None = None
    """... and the budget; None where none that was tried is enough."""
    tried: tuple[float, ...] = ()
    """Budgets that were looked at."""


@dataclass(frozen=True)
class Setting:
    """What a cut is judged by: a problem, how its tensors may travel, and what is minimized at each link."""

    problem: Problem
    allowed: Allowed
    weights_at: Callable[[Link], StageWeights]
    """As `DecisionMap.of` takes them."""
    link_at: Callable[[float], Link]
    fits: Callable[[Point], bool] = lambda _: True
    """Whether a frame can carry the boundary of a point."""

    @property
    def graph(self) -> LayerGraph:
        """The layers."""
        return self.problem.graph

    def points(self) -> list[Point]:
        """Those between the ends that can be run."""
        return [point for point in self.graph.points[1:-1] if self.fits(point)]

    def at_rate(self, rate: float) -> "Setting":
        """The same with another link."""
        return replace(self, problem=replace(self.problem, link=self.link_at(rate)))

    def at_speed(self, speed: float) -> "Setting":
        """The same on an edge that is so many times as fast; packing is its work too."""
        edge_s = [seconds / speed for seconds in self.problem.edge_s]
        return replace(self, problem=replace(self.problem, edge_s=edge_s), allowed=self.allowed.at_speed(speed))

    def rivals(self, points: Iterable[Point]) -> Iterator[Rival]:
        """What each point takes with each codec, always in the same order."""
        link = self.problem.link
        weights, scanned = self.weights_at(link), chain.scan(self.problem)
        for point in points:
            base = scanned[point.number].predicted
            for way in self.allowed.alone(point.layer):
                predicted = base.sent_as(way, link)
                yield Rival(point, way.codec, predicted, weights.value(predicted))

    def ends(self) -> list[Rival]:
        """What all on the edge takes, and all on the cloud with each codec."""
        here, first = chain.scan(self.problem)[-1], self.graph.points[0]
        value = self.weights_at(self.problem.link).value(here.predicted)
        return [Rival(here.point, "", here.predicted, value), *self.rivals([first] if self.fits(first) else [])]


def prospects(setting: Setting, between: tuple[float, float], wider: Iterable[tuple[float, Allowed]] = ()) -> Prospects:
    """The best cut between the ends, and where a cut pays, as if no stages overlapped: then all of it is lines.

    Upload rates are looked at between two, in bytes per second. `wider` are accuracy budgets, as shares from small to
    large, with the ways that they allow; the first that is enough is told.
    """
    setting = replace(setting, problem=replace(setting.problem, chunking=None))
    points = setting.points()
    if not points:
        return Prospects(None)
    rival, end = _least(setting.rivals(points)), _least(setting.ends())
    weights = setting.weights_at(setting.problem.link)
    on_edge = weights.edge * (_computing_s(rival) - _computing_s(end))
    low, high = between
    rates = _windows(setting.at_rate, (1 / high, 1 / low), points)
    speeds = _windows(setting.at_speed, (1 / FASTER, 1 / SLOWER), points)
    tried: list[float] = []
    budget = _least_budget(setting, points, wider, tried)
    return Prospects(rival, on_edge, rival.value - end.value - on_edge, rates, speeds, budget, tuple(tried))


def _least(rivals: Iterable[Rival]) -> Rival:
    return min(rivals, key=lambda rival: rival.value)


def _computing_s(rival: Rival) -> float:
    return rival.predicted.edge_s + rival.predicted.encode_s


def _least_budget(
    setting: Setting, points: Sequence[Point], wider: Iterable[tuple[float, Allowed]], tried: list[float]
) -> Budget | None:
    for share, allowed in wider:
        tried.append(share)
        there = replace(setting, allowed=allowed)
        rival, end = _least(there.rivals(points)), _least(there.ends())
        if PAYS * rival.value <= end.value:
            return Budget(share, end.value / rival.value if rival.value > 0 else math.inf, rival)
    return None


def _windows(
    at: Callable[[float], Setting], between: tuple[float, float], points: Sequence[Point]
) -> tuple[Window, ...]:
    """Where a cut pays, in one over `x`, in which all that anything takes are lines."""
    settings = [at(1 / x) for x in between]
    cuts = _lines(between, [[rival.value for rival in setting.rivals(points)] for setting in settings])
    ends = _lines(between, [[end.value for end in setting.ends()] for setting in settings])
    found = []
    for cut in cuts:
        span = _span(cut, ends, between)
        if span is not None:
            gain, best = most_gained(cut, ends, *span)
            found.append(Window(1 / span[1], 1 / span[0], 1 / best, gain))
    return _joined(found)


def most_gained(cut: Line, ends: Sequence[Line], low: float, high: float) -> tuple[float, float]:
    """The most that a cut gains over the ends between two places, and where: between corners it rises or falls."""
    corners = [x for one, other in combinations(ends, 2) if (x := _crossing(one, other)) is not None]
    places = [low, high, *(x for x in corners if low < x < high)]
    return max((gain_at(x, cut, ends), x) for x in places)


def gain_at(x: float, cut: Line, ends: Sequence[Line]) -> float:
    """What a cut gains over the ends at a place."""
    value = cut.at(x)
    return min(end.at(x) for end in ends) / value if value > 0 else math.inf


def _lines(xs: tuple[float, float], values: Sequence[Sequence[float]]) -> list[Line]:
    """Lines through two values each."""
    width = xs[1] - xs[0]
    slopes = [(second - first) / width for first, second in zip(*values, strict=True)]
    return [Line(first - slope * xs[0], slope) for first, slope in zip(values[0], slopes, strict=True)]


def _span(cut: Line, ends: Sequence[Line], between: tuple[float, float]) -> tuple[float, float] | None:
    """Where PAYS times one line is at most every one of others."""
    low, high = between
    for end in ends:
        at_zero, slope = PAYS * cut.intercept - end.intercept, PAYS * cut.slope - end.slope
        if slope > 0:
            high = min(high, -at_zero / slope)
        elif slope < 0:
            low = max(low, -at_zero / slope)
        elif at_zero > 0:
            return None
    return (low, high) if low < high else None


def _crossing(one: Line, other: Line) -> float | None:
    return None if one.slope == other.slope else (other.intercept - one.intercept) / (one.slope - other.slope)


def _joined(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Those that overlap as one, from low to high."""
    joined: list[Window] = []
    for window in sorted(windows, key=lambda each: each.low):
        last = joined[-1] if joined else None
        if last is None or window.low > last.high:
            joined.append(window)
            continue
        most = max(last, window, key=lambda each: each.gain)
        joined[-1] = Window(last.low, max(last.high, window.high), most.best, most.gain)
    return tuple(joined)
