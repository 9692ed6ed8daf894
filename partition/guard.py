"""Whether the running way loses to an end for longer than chance allows: a sequential test of measured totals. Pure.

No prediction has a part in it, so it holds where all of them are wrong. The totals (logarithms) that a way and an end
really took since the last change are compared as they come in. A test that looks after every inference would be
deceived sooner or later by a fixed threshold; the boundary of Robbins' normal mixture (1970) holds for all looks
together: of ways that are no slower than the end, ALPHA are given up, ever.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

ALPHA = 0.02
LEAST_SD = 0.03
FIRST_SD, FIRST_COUNT = 0.1, 3
KEPT = 40
TOLERATED = 0.01
LEAST_RUNS, LEAST_OF_END = 3, 2


@dataclass(frozen=True)
class Measured:
    """Logarithms of the totals of one way."""

    logs: tuple[float, ...] = ()

    def after(self, seconds: float) -> "Measured":
        """With one more."""
        return Measured((*self.logs, math.log(seconds))[-KEPT:])

    @property
    def mean(self) -> float:
        """Of the logarithms, with the most extreme ones drawn in: one stall is no loss."""
        middle = sorted(self.logs)[(len(self.logs) - 1) // 2]  # of two the lower one: the other may be the stall
        drawn = [min(max(value, middle - 0.25), middle + 0.25) for value in self.logs]
        return sum(drawn) / len(drawn)

    @property
    def squares(self) -> float:
        """Sum of squared distances from the mean, drawn in likewise."""
        mean = self.mean
        return sum(min(abs(value - mean), 0.25) ** 2 for value in self.logs)


@dataclass(frozen=True)
class Lost:
    """An end that a way has lost to, and by how much: 1.2 is 20 % slower."""

    end: str
    ratio: float


def boundary(count: float) -> float:
    """Standard deviations of a mean of so many that chance passes, at any time, with probability ALPHA."""
    return math.sqrt((1 + 1 / count) * math.log((count + 1) / ALPHA**2) / count)


def loses(way: Measured, end: Measured) -> float | None:
    """By which ratio a way is slower than an end, where that is no chance; else None."""
    counts = len(way.logs), len(end.logs)
    if counts[0] < LEAST_RUNS or counts[1] < LEAST_OF_END:
        return None
    prior = FIRST_SD**2 * FIRST_COUNT
    sd = math.sqrt((prior + way.squares + end.squares) / (FIRST_COUNT + sum(counts) - 2))
    count = counts[0] * counts[1] / sum(counts)
    lost = way.mean - end.mean
    if lost <= TOLERATED or lost <= boundary(count) * max(sd, LEAST_SD):
        return None
    return math.exp(lost)


@dataclass(frozen=True)
class Guard:
    """Totals of every way, by its name, since the last change."""

    totals: Mapping[str, Measured] = field(default_factory=dict)

    def after(self, way: str, seconds: float) -> "Guard":
        """One more inference."""
        return Guard({**self.totals, way: self.totals.get(way, Measured()).after(seconds)})

    def without(self, way: str) -> "Guard":
        """The same, but for what a way took: that was of another time, where it is only now run again."""
        return Guard({name: totals for name, totals in self.totals.items() if name != way})

    def renamed(self, way: str, name: str) -> "Guard":
        """The same, with another name of a way; what had that name before is forgotten."""
        return Guard({name if each == way else each: totals for each, totals in self.without(name).totals.items()})

    def typical_s(self, way: str) -> float:
        """What it took in the middle since then, in seconds; 0 where it did not run."""
        ours = self.totals.get(way)
        return 0.0 if ours is None else math.exp(ours.mean)

    def lost(self, way: str, ends: tuple[str, ...]) -> Lost | None:
        """The end that a way has lost most to, if any."""
        ours = self.totals.get(way)
        if ours is None:
            return None
        ratios = {end: loses(ours, self.totals[end]) for end in ends if end != way and end in self.totals}
        found = {end: ratio for end, ratio in ratios.items() if ratio is not None}
        if not found:
            return None
        end = max(found, key=lambda name: found[name])
        return Lost(end, found[end])
