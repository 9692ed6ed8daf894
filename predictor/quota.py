"""Elapsed time of work under a CPU quota. Pure.

A group that may have `quota = share * period` seconds of each period runs at full speed until they are used up, then
stands still until the next period. Work of w seconds that begins after a rest, anywhere in a period with t seconds of
it left, first gets min(quota, t), then `quota` each period:

    elapsed = w                                           where w <= first + o, first = min(quota, t)
            = t + period * n + (w - first - quota * n)    else, n = ceil((w - first - o) / quota) - 1

where o is what it overdraws at its end, for the kernel looks at the budget only now and then
(docs/decisions/0011-cpu-quota.md).

Where it begins is chance, and so is o, so the mean over both is taken. Work far below the quota is not slowed down at
all; work far above it takes w / share, less half a period. The time of a head is therefore not the sum of its layers'
own times: each layer is given what the head becomes longer by when it is added, so that sums from the first layer on
are right.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

CLOCK = "work, "
STEPS = 32  # places in the period where work may begin
OVERDRAFTS_S = (-0.0004, 0.0002, 0.0006, 0.001)
"""Below zero is a debt. These fit work of 0.5 to 75 ms under quotas of 1 to 30 ms, Linux 6.18, 250 ticks a second."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A share of one core, above 0 and below 1, given out every `period_s` seconds."""

    share: float
    period_s: float

    @property
    def clock(self) -> str:
        """What profiles call times of work under it. Bursts with pauses between them find cold caches, so work under
        one quota is not work under another."""
        return f"{CLOCK}{self.share:.3g} of {self.period_s * 1e3:g} ms"

    @classmethod
    def of_clock(cls, name: str) -> "Quota | None":
        """The quota of a profile's clock; None where it had none."""
        match = re.fullmatch(rf"{CLOCK}([0-9.e+-]+) of ([0-9.e+-]+) ms", name)
        try:
            return None if match is None else cls(float(match[1]), float(match[2]) / 1e3)
        except ValueError:
            return None

    def elapsed_s(self, work_s: float) -> float:
        """Mean seconds that `work_s` seconds of work of one thread take after a rest."""
        starts = [(step + 0.5) / STEPS * self.period_s for step in range(STEPS)]
        times_s = [self.from_s(work_s, left_s, over_s) for left_s in starts for over_s in OVERDRAFTS_S]
        return math.fsum(times_s) / len(times_s)

    def from_s(self, work_s: float, left_s: float, over_s: float = 0.0) -> float:
        """The same where the period in which it begins has `left_s` left, and `over_s` can be overdrawn at the end."""
        quota_s = self.share * self.period_s
        rest_s = work_s - min(quota_s, left_s)
        if rest_s <= max(0.0, over_s):
            return work_s
        periods = max(0, math.ceil((rest_s - over_s) / quota_s) - 1)
        return left_s + periods * self.period_s + rest_s - periods * quota_s

    def layers_s(self, work_s: Sequence[float]) -> tuple[float, ...]:
        """Seconds of work of each layer as what it adds to the time of a head, in order."""
        done = [self.elapsed_s(head_s) if head_s > 0 else 0.0 for head_s in accumulate(work_s, initial=0.0)]
        return tuple(after - before for before, after in pairwise(done))
