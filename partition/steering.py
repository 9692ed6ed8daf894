"""The running way of a network, from one inference to the next: what is believed, tried, and given up. Pure.

`Steering` is told the ways that there are and what each inference took, and says which way is next. It holds what
partition.adaptive and partition.guard decide from; moments and durations are passed in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecloud.partition.adaptive import Believed, Budget, Pick, Totals, Ways, Width, leaning, steady, worth_trying
from edgecloud.partition.drift import Stage
from edgecloud.partition.guard import Guard

AUDIT_FIRST, AUDIT_FACTOR, AUDIT_MOST = 5, 2, 160  # inferences between looks at an end
AUDIT_WORST = 1.15  # times the running way's seconds, as predicted or as they really were
BARRED = 100  # inferences for which a way that has lost is given up, unless something changes


@dataclass(frozen=True)
class Move:
    """The running way was left for another one, at the so many-th inference."""

    at: int
    before: str
    after: str
    why: str
    """`prediction`, or `guard` where the measured totals alone decided."""
    ratio: float = 1.0
    """How much slower the way that was left had been, or is predicted to be."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one inference took: the stages of each side that say something, and the total in seconds."""

    edge: tuple[Stage, ...] = ()
    link: tuple[Stage, ...] = ()
    cloud: tuple[Stage, ...] = ()
    total_s: float = 0.0
    elapsed_s: float = 0.0
    """Since the last one ended, this one included."""
    is_whole: bool = True
    """Whether the total is that of an inference alone, and not of one that waited for others or ran something new."""


class Steering:
    """Which way is next. `ends` name all on the cloud and all on the edge, where they are among the ways."""

    def __init__(self, believed: Believed, running: str, ends: Sequence[str]) -> None:
        self.believed, self.running = believed, running
        self.moves: list[Move] = []
        self.count = 0
        self.tries = 0
        self.width = Width()
        self._ends, self._guard, self._budget = tuple(ends), Guard(), Budget()
        self._barred: dict[str, int] = {}
        self._audit_at, self._audit_gap = AUDIT_FIRST, AUDIT_FIRST
        self._audited = 0

    def pick(self, names: Sequence[str], ways: Ways, left: int, most_s: float = math.inf) -> Pick:
        """The way of the next inference, of which `left` are left, this one included. `running` is one of `names`.

        Nothing is tried that is expected to take longer than `most_s`.
        """
        totals = self.believed.totals(ways)
        running = names.index(self.running)
        allowed = [self._barred.get(name, 0) <= self.count for name in names]
        best = steady(totals, running, allowed)
        if best != running:
            self._move(names[best], "prediction", float(totals.seconds[running] / totals.seconds[best]))
            return Pick(best)
        if left > 1:
            way = self._audit(names, totals, running, most_s)
            if way is None:
                way = leaning(totals, running, allowed, most_s)
            if way is None:
                way = worth_trying(totals, running, left, self._budget, most_s)
            if way is not None and way != running and allowed[way]:
                self.tries += 1
                return Pick(way, is_try=True)
        return Pick(running)

    def _audit(self, names: Sequence[str], totals: Totals, running: int, most_s: float) -> int | None:
        """The better end, where it is time to see what it really takes."""
        if self.count < self._audit_at:
            return None
        self._audit_gap = min(AUDIT_MOST, AUDIT_FACTOR * self._audit_gap)
        self._audit_at = self.count + self._audit_gap
        ends = [names.index(end) for end in self._ends if end in names and names.index(end) != running]
        took_s = max(float(totals.seconds[running]), self._guard.typical_s(self.running))
        ends = [way for way in ends if totals.seconds[way] < min(AUDIT_WORST * took_s, most_s)]
        return min(ends, key=lambda way: float(totals.seconds[way]), default=None)

    def record(self, names: Sequence[str], ways: Ways, pick: Pick, measured: Measurement) -> None:
        """What an inference took that ran as it was picked."""
        totals = self.believed.totals(ways)
        way, running = pick.way, names.index(self.running)
        if measured.is_whole and measured.total_s > 0:
            score = float(np.log(measured.total_s / totals.seconds[way])) / totals.sd_of_total(way)
            self.width = self.width.after(score)
            running_s = float(totals.seconds[running])
            self._budget = self._budget.after(measured.total_s / running_s - 1.0 if pick.is_try else 0.0)
        self._learn(measured)
        self.count += 1
        if measured.is_whole and measured.total_s > 0:
            self._guard = self._guard.after(names[way], measured.total_s)
            self._give_up(names)

    def _learn(self, measured: Measurement) -> None:
        before = self.believed.changes
        sides = []
        later = self.believed.later(measured.elapsed_s)
        for side, stages in zip(later.sides, (measured.edge, measured.link, measured.cloud), strict=True):
            sides.append(side.after(*stages))
        self.believed = Believed(*sides)
        if self.believed.changes != before:  # what was measured before is of another machine
            self._guard, self._barred = Guard(), {}
            self._audit_at, self._audit_gap = self.count + AUDIT_FIRST, AUDIT_FIRST

    def _give_up(self, names: Sequence[str]) -> None:
        """Go to an end that the running way has lost to."""
        lost = self._guard.lost(self.running, tuple(end for end in self._ends if end in names))
        if lost is not None:
            self._barred[self.running] = self.count + BARRED
            self._move(lost.end, "guard", lost.ratio)

    def _move(self, to: str, why: str, ratio: float) -> None:
        self.moves.append(Move(self.count, self.running, to, why, ratio))
        self.running = to

    def interval(self, names: Sequence[str], ways: Ways, name: str) -> tuple[float, float, float]:
        """Seconds of a way with an 80 % interval: low, what is expected, high."""
        totals, way = self.believed.totals(ways), names.index(name)
        seconds = float(totals.seconds[way])
        low, high = self.width.around(seconds, totals.sd_of_total(way))
        return low, seconds, high
