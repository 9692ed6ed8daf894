"""The running way of a network, from one inference to the next: what is believed, tried, and given up. Pure.

`Steering` is told the ways that there are and what each inference took, and says which way is next. It holds what
partition.adaptive and partition.guard decide from; moments and durations are passed in.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from edgecloud.partition.adaptive import (
    AGAIN,
    FRESH,
    IN_ONE_PIECE,
    SURE,
    Believed,
    Budget,
    Pick,
    Totals,
    Ways,
    Width,
    detour,
    leaning,
    steady,
    worth_trying,
)
from edgecloud.partition.drift import LITTLE, MOST_SKIPPED, Stage
from edgecloud.partition.guard import Guard

AUDIT_FIRST, AUDIT_FACTOR, AUDIT_MOST = 5, 2, 160  # inferences between looks at an end
AUDIT_WORST = 0.15  # more than the running way's seconds, as predicted or as they really were
WINDOW, MOST_EXCESS = 20, 0.3  # inferences, and those of the better end that they may take longer altogether: 1.5 %
MOST_DETOUR = 0.35  # that one inference may take longer, where it may turn out to have been for nothing
EARLY = 30  # inferences in which that does not count yet
FRESH_FOR = 3  # inferences after a change
LEANT = 3  # tries in a row, after which the way that is likely to be better is taken for it
BARRED = 100  # inferences for which a way that has lost is given up, twice as many each time, unless something changes


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
        self._losses = 0
        self._detours = 0
        self._excess: deque[float] = deque(maxlen=WINDOW - 1)
        """Of the last inferences: by how much longer each took than the better end, as is believed now."""
        self._computed: tuple[Believed, Ways, Totals] | None = None
        self._changed_at = -FRESH_FOR - 1
        self._leant_to: int | None = None
        self._leant = 0
        self._left: set[str] = set()
        """Ways that ran and were left, since something changed."""
        self._audit_at, self._audit_gap = AUDIT_FIRST, AUDIT_FIRST
        self._audited = 0

    def pick(self, names: Sequence[str], ways: Ways, left: int, most_s: float = math.inf) -> Pick:
        """The way of the next inference, of which `left` are left, this one included. `running` is one of `names`.

        Nothing is tried that is expected to take longer than `most_s`.
        """
        running = names.index(self.running)
        allowed = [self._barred.get(name, 0) <= self.count for name in names]
        if self.believed.suspicion > 0:  # it is a change, or it is over, before long
            return self._meanwhile(names, ways, allowed, left, most_s)
        totals = self._totals(ways)
        best = steady(totals, running, allowed, [self._sure_of(name) for name in names])
        if best != running:
            self._move(names[best], "prediction", float(totals.seconds[running] / totals.seconds[best]))
            return Pick(best)
        if left > 1:
            way = self._audit(names, totals, running, most_s)
            if way is None:
                way = leaning(totals, running, allowed, most_s)
                if self._is_leant_to(way):
                    self._move(names[way], "prediction", float(totals.seconds[running] / totals.seconds[way]))
                    return Pick(way)
            if way is None:
                way = worth_trying(totals, running, left, self._allowance, most_s)
            if way is not None and way != running and allowed[way]:
                self.tries += 1
                return Pick(way, is_try=True)
        return Pick(running)

    def _totals(self, ways: Ways) -> Totals:
        """As they are believed to be; they are asked for more than once for each inference."""
        if self._computed is None or self._computed[0] is not self.believed or self._computed[1] is not ways:
            self._computed = self.believed, ways, self.believed.totals(ways)
        return self._computed[2]

    def _sure_of(self, name: str) -> float:
        """By how many standard deviations a way has to be better than the running one to become it."""
        if name in self._left:
            return AGAIN
        return FRESH if not self._left and self.count - self._changed_at <= FRESH_FOR else SURE

    def _is_leant_to(self, way: int | None) -> TypeGuard[int]:
        """Whether it has been tried so often in a row that it may as well be the plan: it is the other one that is not
        known well."""
        again = way is not None and way == self._leant_to
        self._leant_to, self._leant = way, self._leant + 1 if again else 0
        return way is not None and self._leant >= LEANT

    @property
    def _allowance(self) -> Budget:
        """What a try may cost: at first what is needed to find out where predictions are wrong, then what keeps any
        window of inferences within what the better end would have taken."""
        return self._budget if self.count < EARLY else Budget(min(self._budget.tries, self._room))

    @property
    def _room(self) -> float:
        """How much longer than the better end the next inference may take, counted in inferences; 0 at least."""
        return max(0.0, MOST_EXCESS - sum(self._excess))

    def _meanwhile(self, names: Sequence[str], ways: Ways, allowed: Sequence[bool], left: int, most_s: float) -> Pick:
        """What to run while something may have changed, or be slow by chance: the plan stays, unless another way is
        better whichever it is."""
        believed, running = self.believed, names.index(self.running)
        unchanged, changed = believed.if_unchanged.totals(ways), believed.if_changed.totals(ways)
        sure = [self._sure_of(name) for name in names]
        best = steady(unchanged, running, allowed, sure)
        if best != running and best == steady(changed, running, allowed, sure):
            self._move(names[best], "prediction", float(changed.seconds[running] / changed.seconds[best]))
            return Pick(best)
        stages, suspect = unchanged.stages[:, believed.suspect], believed.sides[believed.suspect]
        is_enough = suspect.missing <= 0 or self._detours >= MOST_SKIPPED  # one more look says what it is ...
        is_seen_here = stages[running] > LITTLE * stages.max()  # ... of the running way, if it shows that
        way = None
        if left > 1 and not (is_enough and is_seen_here):
            way = detour(unchanged, changed, believed.suspicion, running, allowed, most_s)
            cost = 0.0 if way is None else float(unchanged.seconds[way] / unchanged.seconds[running]) - 1.0
            way = way if cost <= MOST_DETOUR and (1 - believed.suspicion) * cost <= self._room else None
        self._detours = 0 if way is None else self._detours + 1
        self.tries += way is not None
        return Pick(running) if way is None else Pick(way, is_try=True)

    def _audit(self, names: Sequence[str], totals: Totals, running: int, most_s: float) -> int | None:
        """The better end, where it is time to see what it really takes."""
        if self.count < self._audit_at:
            return None
        self._audit_gap = min(AUDIT_MOST, AUDIT_FACTOR * self._audit_gap)
        self._audit_at = self.count + self._audit_gap
        ends = [names.index(end) for end in self._rivals if end in names and names.index(end) != running]
        took_s = max(float(totals.seconds[running]), self._guard.typical_s(self.running))
        worst_s = (1 + min(AUDIT_WORST, max(0.0, self._allowance.tries))) * took_s
        ends = [way for way in ends if totals.seconds[way] < min(worst_s, most_s)]
        return min(ends, key=lambda way: float(totals.seconds[way]), default=None)

    def record(self, names: Sequence[str], ways: Ways, pick: Pick, measured: Measurement) -> None:
        """What an inference took that ran as it was picked."""
        totals = self._totals(ways)
        way, running = pick.way, names.index(self.running)
        if measured.is_whole and measured.total_s > 0:
            score = float(np.log(measured.total_s / totals.seconds[way])) / totals.sd_of_total(way)
            self.width = self.width.after(score)
            running_s = float(totals.seconds[running])
            self._budget = self._budget.after(measured.total_s / running_s - 1.0 if pick.is_try else 0.0)
        self._learn(measured)
        self._note_excess(names, ways, way)
        self.count += 1
        if measured.is_whole and measured.total_s > 0:
            self._guard = self._guard.after(names[way], measured.total_s)
            self._give_up(names)

    def tell_cloud(self, ratio: float) -> None:
        """The cloud says that it is so much slower than when it ran last; a try shows whether that is so."""
        self.believed = Believed(self.believed.edge, self.believed.link, self.believed.cloud.told(ratio))

    def _note_excess(self, names: Sequence[str], ways: Ways, way: int) -> None:
        seconds = self._totals(ways).seconds
        end_s = min((float(seconds[names.index(end)]) for end in self._ends if end in names), default=0.0)
        self._excess.append(float(seconds[way]) / end_s - 1.0 if end_s > 0 else 0.0)

    def _learn(self, measured: Measurement) -> None:
        before = self.believed.changes
        sides = []
        later = self.believed.later(measured.elapsed_s)
        for side, stages in zip(later.sides, (measured.edge, measured.link, measured.cloud), strict=True):
            sides.append(side.after(*stages))
        if any(side.changes != old.changes for side, old in zip(sides, later.sides, strict=True)):
            sides = [
                side.doubted() if side.changes == old.changes else side
                for side, old in zip(sides, later.sides, strict=True)
            ]
        self.believed = Believed(*sides)
        if self.believed.changes != before:  # what was measured before is of another machine
            self._guard, self._barred, self._left, self._changed_at = Guard(), {}, set(), self.count
            self._losses = 0
            self._excess.clear()  # what is best now has to be found out
            self._audit_at, self._audit_gap = self.count + AUDIT_FIRST, AUDIT_FIRST

    def _give_up(self, names: Sequence[str]) -> None:
        """Go to what the running way has lost to."""
        lost = self._guard.lost(self.running, tuple(end for end in self._rivals if end in names))
        if lost is not None:
            self._losses += 1
            self._barred[self.running] = self.count + BARRED * 2 ** (self._losses - 1)
            if self._losses > 1:  # what is predicted of cuts is wrong in a way that no factor mends
                self._barred |= {name: self._barred[self.running] for name in names if name not in self._ends}
            self._move(lost.end, "guard", lost.ratio)

    @property
    def _rivals(self) -> tuple[str, ...]:
        """What the running way must not be slower than: both ends, and the same without overlap."""
        return (*self._ends, f"{self.running}{IN_ONE_PIECE}")

    def rename(self, running: str) -> None:
        """The running way has another name from now on."""
        self._guard, self.running = self._guard.renamed(self.running, running), running

    def _move(self, to: str, why: str, ratio: float) -> None:
        self.moves.append(Move(self.count, self.running, to, why, ratio))
        self._left.add(self.running)
        self.running, self._guard = to, self._guard.without(to)

    def interval(self, names: Sequence[str], ways: Ways, name: str) -> tuple[float, float, float]:
        """Seconds of a way with an 80 % interval: low, what is expected, high."""
        totals, way = self._totals(ways), names.index(name)
        seconds = float(totals.seconds[way])
        low, high = self.width.around(seconds, totals.sd_of_total(way))
        return low, seconds, high
