"""A rate-limited log: further lines are counted."""

import logging
import threading
import time
from collections.abc import Callable

LINES_A_SECOND = 10


class FloodLog:
    """Lines of one level, from any thread; those of a flood are on the debug level."""

    def __init__(
        self, log: logging.Logger, level: int, left_out: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`left_out` says in words how many were not written; it has one `%d`."""
        self._log, self._level, self._summary = log, level, left_out
        self._clock, self._lock = clock, threading.Lock()
        self._second, self._lines, self._left_out = float("-inf"), 0, 0

    def tell(self, text: str, *values: object) -> None:
        """Write it, or count it."""
        with self._lock:
            left_out, now = 0, self._clock()
            if now - self._second >= 1.0:
                left_out, self._left_out = self._left_out, 0
                self._second, self._lines = now, 0
            self._lines += 1
            is_flood = self._lines > LINES_A_SECOND
            self._left_out += is_flood
        if left_out:
            self._log.log(self._level, self._summary, left_out)
        self._log.log(logging.DEBUG if is_flood else self._level, text, *values)
