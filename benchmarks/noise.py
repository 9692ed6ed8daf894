"""The noise of a benchmark's figures, and who is better where the noise allows to say so. Pure.

A figure is the median of interleaved runs; its noise is half of what the middle half of them spans, as a share of it.
Two figures are told apart by the ratios of their pairs, which drift together: only where nine of ten ratios lie on one
side of 1, and their median is further from 1 than their own noise, is one better. What could not run in turns, such as
an edge beside attackers and the same edge before, is told apart by the noise of both figures.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

SURE = 0.9
BLOCKS = 5
FINE = 0.01
"""A noise below this is worth another digit."""
LIKELY = 0.95


@dataclass(frozen=True)
class Figure:
    """Of at least one run."""

    value: float
    noise: float
    """As a share of the value."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """The median of some runs, and how far apart they are."""
        ordered, middle = sorted(values), median(values)
        quarter = len(ordered) // 4
        span = ordered[-1 - quarter] - ordered[quarter]
        return cls(middle, span / 2 / abs(middle) if middle else 0.0)

    @classmethod
    def of_blocks(cls, values: Sequence[float], statistic: Callable[[Sequence[float]], float] = median) -> "Figure":
        """A statistic of many values in the order of their measurement, and how far it varies from fifth to fifth."""
        if len(values) < BLOCKS:
            return cls.of(values)
        ends = [round(len(values) * block / BLOCKS) for block in range(BLOCKS + 1)]
        blocks = [values[begin:end] for begin, end in itertools.pairwise(ends)]
        return cls(statistic(values), cls.of([statistic(block) for block in blocks]).noise)

    def __str__(self) -> str:
        is_fine = 0 < self.noise < FINE
        return f"{self.value:.4g} ± {self.noise:.1%}" if is_fine else f"{self.value:.3g} ± {self.noise:.0%}"


@dataclass(frozen=True)
class Versus:
    """One thing against another, run in turns: ratios of their figures, pair by pair."""

    ratio: Figure
    is_sure: bool
    """Whether one of them is better, and not by chance."""

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Versus":
        """Of pairs that were measured one after the other; all above 0."""
        return cls.of_ratios([a / b for a, b in zip(ours, theirs, strict=True)])

    @classmethod
    def of_ratios(cls, ratios: Sequence[float]) -> "Versus":
        """The same from the ratios."""
        figure = Figure.of(ratios)
        above = sum(ratio > 1 for ratio in ratios) / len(ratios)
        is_sure = max(above, 1 - above) >= SURE and abs(figure.value - 1) > figure.noise
        return cls(figure, is_sure and len(ratios) > 1)

    @classmethod
    def of_figures(cls, ours: Figure, theirs: Figure) -> "Versus":
        """Of two that were measured one after the other, and not in turns: what drifted between them is not known."""
        figure = Figure(ours.value / theirs.value, math.hypot(ours.noise, theirs.noise))
        return cls(figure, figure.noise > 0 and abs(figure.value - 1) > figure.noise)

    def __str__(self) -> str:
        return f"{self.ratio}" + ("" if self.is_sure else ", no difference within the noise")


def interval(values: Sequence[float], share: float = LIKELY) -> tuple[float, float]:
    """Where the median is of what these were drawn from, with this certainty; all of them where there are too few.

    So many of them lie below it as heads fall when a coin is tossed for each: which ranks it is between.
    """
    ordered, count = sorted(values), len(values)
    outside, left = 0.0, 0
    while left < (count - 1) // 2:
        outside += 2 * math.comb(count, left) / 2**count
        if outside > 1 - share:
            break
        left += 1
    first = max(0, left - 1)
    return ordered[first], ordered[count - 1 - first]
