"""The load of a cloud: its recent slowdown relative to its profile."""

import threading
import time
from collections import deque
from collections.abc import Callable

HALF_LIFE_S = 10.0  # so that edges which have left because of a load come back and look
RECENT_S = 10.0  # runs that are looked at ...
RUNS = 15  # ... and at most how many
MOST = 20.0  # slower than that, no plan would be another one
ALWAYS_S = 1e-3  # of every run, whatever its layers: taking arrays over, waking threads; no profile has it


class LoadMeter:
    """The median of recent runs, at least 1, where a run counts for as much as it computes. For several threads."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._runs: deque[tuple[float, float, float]] = deque(maxlen=RUNS)
        """When a run ended, how much slower it was than when idle, and the idle seconds."""

    @property
    def load(self) -> float:
        """Seconds now over seconds when idle; falls back to 1 when nothing is computed."""
        with self._lock:
            runs, now = list(self._runs), self._clock()
        if not runs:
            return 1.0
        age_s = now - runs[-1][0]
        recent = sorted((ratio, idle_s) for at, ratio, idle_s in runs if runs[-1][0] - at <= RECENT_S)
        half, passed = sum(idle_s for _, idle_s in recent) / 2, 0.0
        for ratio, idle_s in recent:
            passed += idle_s
            if passed >= half:
                return 1.0 + (ratio - 1.0) * float(0.5 ** (age_s / HALF_LIFE_S))
        return 1.0

    def record(self, seconds: float, idle_s: float) -> None:
        """A piece of work took `seconds`; an idle cloud would have needed `idle_s`.

        What runs for the first time, when memory is fetched and kernels are chosen, is not to be told.
        """
        if idle_s <= 0:
            return
        ratio = min(max(seconds / (idle_s + ALWAYS_S), 1.0), MOST)
        with self._lock:
            self._runs.append((self._clock(), ratio, idle_s))
