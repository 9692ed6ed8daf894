"""What work takes under a quota of processor time.

A group that may have `quota = share * period` seconds of each period runs at full speed until they are used up, then
stands still until the next period. Work of w seconds that begins after a rest, anywhere in a period with t seconds of
it left, first gets min(quota, t), then `quota` each period:

    elapsed = w                                           where w <= first = min(quota, t)
            = t + period * n + (w - first - quota * n)    else, n = ceil((w - first) / quota) - 1

Where it begins is chance, so the mean over t is taken. Work far below the quota is not slowed down at all; work far
above it takes w / share, less half a period. The time of a head is therefore not the sum of its layers' own times:
each layer is given what the head becomes longer by when it is added, so that sums from the first layer on are right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

STEPS = 64  # places in the period where work may begin


@dataclass(frozen=True, slots=True)
class Quota:
    """A share of one core, above 0 and below 1, given out every `period_s` seconds."""

    share: float
    period_s: float

    def elapsed_s(self, work_s: float) -> float:
        """Mean seconds that `work_s` seconds of work of one thread take after a rest."""
        starts = ((step + 0.5) / STEPS * self.period_s for step in range(STEPS))
        return math.fsum(self._elapsed_s(work_s, left_s) for left_s in starts) / STEPS

    def _elapsed_s(self, work_s: float, left_s: float) -> float:
        """The same where the period in which it begins has `left_s` left."""
        quota_s = self.share * self.period_s
        rest_s = work_s - min(quota_s, left_s)
        if rest_s <= 0:
            return work_s
        periods = math.ceil(rest_s / quota_s) - 1
        return left_s + periods * self.period_s + rest_s - periods * quota_s

    def layers_s(self, work_s: Sequence[float]) -> tuple[float, ...]:
        """Seconds of work of each layer as what it adds to the time of a head, in order."""
        done = [self.elapsed_s(head_s) if head_s > 0 else 0.0 for head_s in accumulate(work_s, initial=0.0)]
        return tuple(after - before for before, after in pairwise(done))
