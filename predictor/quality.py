"""Accuracy limits of predictors, and the format of errors. Pure.

Every error here is of networks that a regression had not seen: whole networks are held out at a time.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

LEVEL = 0.9  # of the errors: P90
MOST_WHOLE = 2.0
"""The largest P90 error of full networks, as a factor, with which predictors are usable."""
MOST_KIND = 1.5
"""The same for the layers of one kind in a network: where a worse kind matters, the network is measured."""
FEWEST_NETWORKS = 5
"""With fewer nobody knows how far off predictions are."""
FEWEST_ROWS = 12
"""Of a kind, for a regression."""
MARGIN = 1.25
"""On the budget that would do: chance draws the networks."""
STEP_S = 10


def factor_of(pairs: Iterable[tuple[float, float]]) -> float:
    """The P90 error of predicted and measured seconds, as a factor in either direction; at least 1."""
    return float(np.quantile([math.exp(abs(math.log(guess / truth))) for guess, truth in pairs], LEVEL))


def p90(factor: float) -> str:
    """Such a factor as an error: 1.5 is 50 %."""
    return f"{100 * (factor - 1):.0f} %"


@dataclass(frozen=True)
class Fitness:
    """Whether predictors are fit for use: how far off they were for whole networks that they had not seen."""

    networks: int
    factor: float
    """The P90 error of full networks, as a factor."""

    @property
    def why_not(self) -> str:
        """Why they are not fit for use; "" where they are."""
        if self.networks < FEWEST_NETWORKS:
            return f"layers of only {self.networks} networks were measured, at least {FEWEST_NETWORKS} are required"
        if not self.factor <= MOST_WHOLE:
            return f"the P90 error for held-out networks is {p90(self.factor)}, the limit is {p90(MOST_WHOLE)}"
        return ""


def enough_s(rows: Mapping[str, int], kinds: Iterable[str], fewest: int, spent_s: float) -> float | None:
    """The budget in seconds after which every wanted kind should have `fewest` rows, if they come as they did so far.

    None where all have. Of a kind without any row the next one is taken to come at once.
    """
    counts = [rows.get(kind, 0) for kind in kinds]
    if all(count >= fewest for count in counts):
        return None
    least = max(1, min(counts))
    return math.ceil(MARGIN * spent_s * fewest / least / STEP_S) * STEP_S
