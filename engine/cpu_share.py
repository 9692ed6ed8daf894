"""A slower processor, emulated (docs/decisions/0003-emulated-cpu.md)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Until: TypeAlias = Callable[[], float]
"""The moment, in seconds of time.perf_counter, at which what was computed so far is done."""


class CpuShare:
    """Work that takes t seconds of one core lasts t / share.

    What is stretched is the processor time of the calling thread, so one thread must do all the work. Like a cgroup
    quota it slows computing alone; unlike one it does not run in bursts, and does not slow the network stack.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._ahead: int | None = None
        """The thread that does not wait, if there is one ..."""
        self._until = 0.0
        """... and when the slower processor is done with what that one computed."""

    def stretch(self, started: float, work_s: float) -> float:
        """Wait until `work_s` seconds of work, begun at `started`, have lasted as long as on the slower processor, and
        return how long that was."""
        if self._ahead == threading.get_ident():
            lasts_s = max(work_s / self.share, time.perf_counter() - started)
            self._until = max(self._until, started) + lasts_s
            return lasts_s
        remaining = max(self._until, started) + work_s / self.share - time.perf_counter()
        if remaining > 0:
            time.sleep(remaining)
        return time.perf_counter() - started

    @contextmanager
    def ahead(self) -> Iterator[Until]:
        """Inside, this thread does not wait; gives what says when the slower processor is done with its work.

        A slower processor does not pause between the chunks of a boundary. One that slept after each of them would find
        its caches cold every time, and that would be stretched too. Only one thread at a time runs ahead. Work that
        follows begins when the slower processor is done.
        """
        self._ahead = threading.get_ident()
        try:
            yield lambda: self._until
        finally:
            self._ahead = None
