"""How much slower a cloud computes than when idle: what it did lately beside what its profile says."""

import time
from collections.abc import Callable

SMOOTHING = 0.2
HALF_LIFE_S = 10.0  # so that edges which have left because of a load come back and look
MOST = 100.0
LEAST_S = 1e-4  # shorter pieces of work say nothing


class LoadMeter:
    """A smoothed ratio, at least 1. One thread tells it, others may read."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._extra, self._at = 0.0, clock()

    @property
    def load(self) -> float:
        """Seconds now over seconds when idle; falls back to 1 when nothing is computed."""
        return 1.0 + self._extra * float(0.5 ** ((self._clock() - self._at) / HALF_LIFE_S))

    def saw(self, seconds: float, idle_s: float) -> None:
        """A piece of work took `seconds`; an idle cloud would have needed `idle_s`."""
        if idle_s < LEAST_S:
            return
        ratio = min(max(seconds / idle_s, 1.0), MOST)
        now, before = self._clock(), self.load
        weight = 1.0 - (1.0 - SMOOTHING) * float(0.5 ** ((now - self._at) / HALF_LIFE_S))  # the past counts less
        self._extra = before - 1.0 + weight * (ratio - before)
        self._at = now
