"""How fast a machine is, told by fixed pieces of work: what measured times are relative to. Pure.

A machine drifts: its clock goes down when it is warm, neighbours take caches and memory from it, its host gives the
core to others. Two pieces of reference work are timed beside whatever is measured (predictor.reference), one that
computes and one that reads memory. What is kept is the time divided by how much slower they were than on the quiet
machine. How much a layer feels of each was measured (docs/decisions/0026-the-speed-of-now.md): layers with many
weights follow both and no more than that; small ones follow more than both, since what is called between them has
left the caches as well.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

QUIET = 0.1
"""The quantile of some readings that stands for the quiet machine: a single one may have met a turbo clock."""
FEWEST_READINGS = 8
"""With fewer nobody knows what the machine is like when it is quiet."""
MOVED = 0.15
"""Relative change of the readings before and after a run from which the run is repeated."""
READ_TIMES = 3
"""Readings of which one is made."""
AT_START_S = 0.015
"""Of readings before anything is measured: enough to know the quiet machine by."""
MANY_WEIGHTS = 1 << 20
"""Bytes of weights from which a layer is a heavy one."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of the two pieces of reference work, both above 0."""

    compute_s: float
    memory_s: float

    @classmethod
    def read(cls, document: Any) -> "Pace":
        """What `asdict` of one gives. Raises ValueError where it is none."""
        names = ("compute_s", "memory_s")
        if not isinstance(document, dict) or set(document) != set(names):
            raise ValueError("it has no seconds of the reference work")
        values = [document[name] for name in names]
        if not all(type(s) in (int, float) and math.isfinite(s) and 0 < s < 1e3 for s in values):
            raise ValueError("seconds of the reference work are not above 0")
        return cls(float(values[0]), float(values[1]))

    def faster(self, other: "Pace") -> "Pace":
        """Of both pieces the shorter time."""
        return Pace(min(self.compute_s, other.compute_s), min(self.memory_s, other.memory_s))


NO_PACE = Pace(1.0, 1.0)
"""Where there is no reference work."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How much of a slowdown of each piece a layer feels: exponents."""

    compute: float
    memory: float

    @property
    def in_all(self) -> "Mix":
        """The same for elapsed time, which another program on the same core stretches for everybody alike."""
        both = self.compute + self.memory
        return Mix(self.compute / both, self.memory / both)

    def slowdown(self, now: Pace, quiet: Pace) -> float:
        """How much longer it takes than on the quiet machine, where the reference takes what it takes now."""
        compute, memory = now.compute_s / quiet.compute_s, now.memory_s / quiet.memory_s
        return float(compute**self.compute * memory**self.memory)


HEAVY = Mix(0.6, 0.4)
LIGHT = Mix(1.0, 0.5)


def mix_of(weight_bytes: int) -> Mix:
    """What a layer with such weights feels, in time of the processor."""
    return HEAVY if weight_bytes >= MANY_WEIGHTS else LIGHT


def between(before: Pace, after: Pace) -> Pace:
    """What the machine was like between two readings."""
    return Pace(math.sqrt(before.compute_s * after.compute_s), math.sqrt(before.memory_s * after.memory_s))


def moved(before: Pace, after: Pace) -> float:
    """By how much the speed has changed from one reading to another, as a share, either way."""
    return math.expm1(abs(math.log(HEAVY.slowdown(after, before))))


def quiet_of(readings: Sequence[Pace]) -> Pace:
    """What some readings say of the quiet machine. Raises ValueError where there are none."""
    if not readings:
        raise ValueError("nothing was read")
    at = int(QUIET * (len(readings) - 1) + 0.5)
    return Pace(sorted(r.compute_s for r in readings)[at], sorted(r.memory_s for r in readings)[at])


@dataclass(frozen=True, slots=True)
class Run:
    """The layers of one pass, or one tail as a whole, with the readings around it."""

    seconds: tuple[float, ...]
    before: Pace
    after: Pace

    def quietly(self, quiet: Pace, mixes: Sequence[Mix]) -> tuple[float, ...]:
        """What it takes on the quiet machine; `mixes` of the layers, in the order of `seconds`."""
        now = between(self.before, self.after)
        slow = {mix: mix.slowdown(now, quiet) for mix in dict.fromkeys(mixes)}
        return tuple(s / slow[mix] for s, mix in zip(self.seconds, mixes, strict=True))


def steadied(runs: Sequence[Run]) -> list[Run]:
    """Runs that came one right after the other, all with the median of their readings.

    While the speed stays, one reading is further off than the speed is, and what small layers feel makes that more.
    """
    paces = [pace for run in runs for pace in (run.before, run.after)]
    if not paces:
        return []
    now = Pace(median(pace.compute_s for pace in paces), median(pace.memory_s for pace in paces))
    return [Run(run.seconds, now, now) for run in runs]


def blend(seconds: Sequence[float], mixes: Sequence[Mix]) -> Mix:
    """What several layers feel together, by their shares of the time; HEAVY where they take none."""
    whole = math.fsum(seconds)
    if whole <= 0:
        return HEAVY
    pairs = list(zip(seconds, mixes, strict=True))
    return Mix(sum(s * mix.compute for s, mix in pairs) / whole, sum(s * mix.memory for s, mix in pairs) / whole)


# --- noise


@dataclass(frozen=True, slots=True)
class Noise:
    """How well a second measurement, later, predicts the first: relative differences, 0.1 is 10 %."""

    whole: float
    """Of the sum."""
    layers_p90: float
    """P90 of the differences of layers that take a hundredth of the time or more."""

    def __str__(self) -> str:
        return f"{self.whole:.1%} for the whole, P90 {self.layers_p90:.0%} for its layers"


MATTERS = 0.01
LEVEL = 0.9


def apart(first_s: float, second_s: float) -> float:
    """The relative difference of two times, either way: 0.25 where one is 25 % longer. 0 where one is not there."""
    if min(first_s, second_s) <= 0:
        return 0.0
    return max(first_s, second_s) / min(first_s, second_s) - 1


def noise_of(first: Sequence[float], second: Sequence[float]) -> Noise:
    """Of two measurements of the same layers."""
    whole = sum(first)
    matter = [apart(a, b) for a, b in zip(first, second, strict=True) if a >= MATTERS * whole]
    return Noise(apart(whole, sum(second)), p90_of(matter))


def p90_of(values: Iterable[float]) -> float:
    """The 90th percentile; 0 where there are none."""
    found = sorted(values)
    return found[min(len(found) - 1, int(LEVEL * len(found)))] if found else 0.0


def within(pairs: Iterable[tuple[float, float]], share: float) -> float:
    """Which share of pairs of times differ by no more than that; 1 where there are none."""
    found = [apart(*pair) <= share for pair in pairs]
    return sum(found) / len(found) if found else 1.0


def medians(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Of every column."""
    return tuple(median(column) for column in zip(*rows, strict=True))


def noise_by_kind(pairs: Iterable[tuple[str, float, float]]) -> Mapping[str, float]:
    """Of layers that were measured twice, by kind: the P90 of their differences."""
    kinds: dict[str, list[float]] = {}
    for kind, first_s, second_s in pairs:
        kinds.setdefault(kind, []).append(apart(first_s, second_s))
    return {kind: p90_of(found) for kind, found in sorted(kinds.items())}
