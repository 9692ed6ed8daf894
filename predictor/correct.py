"""Corrections from real inferences: a factor per layer kind for the predictions.

What is measured is a whole stage, many layers of several kinds. The step is that of normalised least mean squares
(Widrow and Hoff, 1960): every kind moves in proportion to its share of the stage, so that the next prediction of the
same stage is off by `1 - DAMPING` of what it was. Factors are bounded: no single bad moment can turn a plan round.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgecloud.utils.files import write_atomically

log = logging.getLogger(__name__)

DAMPING = 0.3
LEAST, MOST = 0.5, 2.0
SCHEMA = 1


@dataclass(frozen=True)
class Corrections:
    """Factors by kind, and from how many inferences they were learnt."""

    factors: Mapping[str, float] = field(default_factory=dict)
    seen: int = 0

    def learn(self, uncorrected: Mapping[str, float], fixed_s: float, measured_s: float) -> "Corrections":
        """One stage: seconds predicted for each kind without factors, and `fixed_s` that no kind answers for.

        A time that is none changes nothing.
        """
        now = {kind: seconds * self.factors.get(kind, 1.0) for kind, seconds in uncorrected.items()}
        power = sum(seconds**2 for seconds in uncorrected.values())
        if power <= 0 or not math.isfinite(measured_s) or measured_s <= 0:
            return self
        step = DAMPING * (measured_s - fixed_s - sum(now.values())) / power
        factors = {kind: self.factors.get(kind, 1.0) + step * seconds for kind, seconds in uncorrected.items()}
        return Corrections(
            {**self.factors, **{kind: min(MOST, max(LEAST, factor)) for kind, factor in factors.items()}}, self.seen + 1
        )


def load(path: Path) -> Corrections:
    """Stored corrections, or none. A file that is damaged or cannot be read counts as none, and that is logged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError("it has another version")
        factors = {str(kind): float(factor) for kind, factor in document["factors"].items()}
        if not all(LEAST <= factor <= MOST for factor in factors.values()):
            raise ValueError("a factor is out of bounds")
        return Corrections(factors, int(document["seen"]))
    except FileNotFoundError:
        return Corrections()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("ignoring the corrections %s (%s)", path, error)
        return Corrections()


def save(path: Path, corrections: Corrections) -> None:
    """Written under a temporary name and renamed. A full disk costs what was learnt, not the run."""
    factors = {kind: round(factor, 6) for kind, factor in corrections.factors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"schema": SCHEMA, "factors": factors, "seen": corrections.seen}))
    except OSError as error:
        log.warning("cannot save the corrections %s (%s)", path, error.strerror)
