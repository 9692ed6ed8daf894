"""Running what is measured between readings of the reference work, and again what was held up. Without torch.

A run around which the speed of the machine moved, or in which others had the processor, tells little. It is run again,
as long as there is patience; of several runs the one with the least of both is kept. Every measuring of layers, heads
and tails goes through here, whatever back-end computes them.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from edgecloud.predictor.gauge import Gauge, Readings
from edgecloud.predictor.pace import MOVED as MOVED_SHARE
from edgecloud.predictor.pace import Run, moved
from edgecloud.utils.inference_utils import waited_s

R = TypeVar("R")
HELD_UP, TRIES = 0.05, 4  # how much of its time a run may have waited for a processor; how often it is run
PATIENCE_S, LONG_PATIENCE_S = 1.0, 5.0  # for runs that are repeated


class Watch:
    """For one profile: its patience is for all of it."""

    def __init__(self, gauge: Gauge, *, is_behind: bool) -> None:
        """One that `is_behind` others, who take the processor away, has more patience."""
        self.gauge, self._left_s = gauge, LONG_PATIENCE_S if is_behind else PATIENCE_S
        self.readings = Readings(gauge)

    def run(self, run: Callable[[], R], seconds_of: Callable[[R], tuple[float, ...]], rest_s: float) -> Run:
        """The first run that hardly waited and around which the speed stayed; of some the one with least of that.

        `run` begins with a rest of `rest_s` seconds.
        """
        runs: list[tuple[float, Run]] = []
        while True:
            before = self.readings.last
            waited, began = waited_s(), time.perf_counter()
            result = run()
            took_s = time.perf_counter() - began
            held_up = (waited_s() - waited) / max(took_s - rest_s, took_s / 10)
            after = self.readings.read()
            blame = max(held_up / HELD_UP if self.gauge.is_elapsed else 0.0, moved(before, after) / MOVED_SHARE)
            runs.append((blame, Run(seconds_of(result), before, after)))
            self._left_s -= took_s if len(runs) > 1 else 0.0
            if blame <= 1 or len(runs) >= TRIES or self._left_s < took_s:
                return min(runs, key=lambda pair: pair[0])[1]
