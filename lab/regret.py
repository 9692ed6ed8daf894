"""Regret: the extra cost of the automatic choice over the best of its cell, and its noise. Pure.

    regret = max(0, chosen / best - 1)

`chosen` is the median of the automatic choice as it was measured, in a run of its own; `best` is the least median of
the fixed cuts of the cell. What is compared is what the cell's objective minimizes: seconds, joules, or the bottleneck
stage. Wrong answers are never the best.

    noise = the largest of: (most - least) / median of the repeats of either of the two; most / least - 1 of the medians
            of one cut, packed one way, that was measured several times in the cell

Where chosen and best differ by no more than the noise they are equal. There is no other definition: `lab run`, the
tables and the sentences of the report all ask this module.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median


class Verdict(StrEnum):
    """What comes of comparing the choice with the best fixed cut."""

    BETTER = "better"
    EQUAL = "equal"
    WORSE = "worse"


@dataclass(frozen=True)
class MeasuredCut:
    """One cut, measured in one go: median, least and most of its repeats, in seconds or joules."""

    cut: tuple[int | None, str]
    """Its point, None where several tensors cross, and its codec."""
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, cut: tuple[int | None, str], values: Sequence[float]) -> "MeasuredCut":
        """Of at least one repeat."""
        return cls(cut, median(values), min(values), max(values))

    @property
    def spread(self) -> float:
        """How far apart the repeats are, as a share."""
        return (self.high - self.low) / self.value if self.value > 0 else 0.0


@dataclass(frozen=True)
class Regret:
    """The automatic choice of one cell against the best fixed cut of it."""

    difference: float
    """Of the two, as a share of the best: below 0 where the choice is better, as when it packs."""
    noise: float
    """How far apart two measurements of the same thing lie in this cell, as a share."""

    @property
    def share(self) -> float:
        """How much more the choice costs than the best of the cell, itself included: 0 or more."""
        return max(0.0, self.difference)

    @property
    def verdict(self) -> Verdict:
        """Equal where the difference is no larger than the noise."""
        if abs(self.difference) <= self.noise:
            return Verdict.EQUAL
        return Verdict.BETTER if self.difference < 0 else Verdict.WORSE


def regret(chosen: MeasuredCut, fixed: Iterable[MeasuredCut], others: Iterable[MeasuredCut] = ()) -> Regret | None:
    """The regret of a choice; None where no fixed cut costs anything.

    `fixed` are the fixed cuts of the cell with the right answer. `others` are more runs in it, such as those of
    baselines: they only tell how far apart two runs of the same cut lie.
    """
    fixed = tuple(fixed)
    best = min(fixed, key=lambda run: run.value, default=None)
    if best is None or best.value <= 0:
        return None
    runs = (chosen, *fixed, *others)
    return Regret(chosen.value / best.value - 1, max(noise_of(chosen, runs), noise_of(best, runs)))


def noise_of(run: MeasuredCut, runs: Iterable[MeasuredCut]) -> float:
    """How far apart the repeats of a run are, or several runs of the same cut; the larger share."""
    same = [each.value for each in runs if each.cut == run.cut and run.cut[0] is not None and each.value > 0]
    return max(run.spread, max(same) / min(same) - 1 if same else 0.0)


@dataclass(frozen=True)
class Summary:
    """The regret of several cells."""

    cells: int
    mean: float
    worst: float
    worst_noise: float
    """Of the cell with the worst one."""
    noise: float
    """The median of all cells."""
    better: int
    equal: int
    worse: int

    @classmethod
    def of(cls, regrets: Sequence[Regret]) -> "Summary | None":
        """None where there is nothing to sum up."""
        if not regrets:
            return None
        worst, verdicts = max(regrets, key=lambda each: each.share), [each.verdict for each in regrets]
        return cls(
            cells=len(regrets),
            mean=sum(each.share for each in regrets) / len(regrets),
            worst=worst.share,
            worst_noise=worst.noise,
            noise=median(each.noise for each in regrets),
            better=verdicts.count(Verdict.BETTER),
            equal=verdicts.count(Verdict.EQUAL),
            worse=verdicts.count(Verdict.WORSE),
        )

    @property
    def not_worse(self) -> int:
        """Cells where the choice is as good as the best fixed cut, within the noise, or better."""
        return self.better + self.equal
