"""A periodic background job, with APScheduler, that keeps the link estimate current."""

import logging
from collections.abc import Callable

from apscheduler.schedulers.background import BackgroundScheduler


class Monitor:
    """Calls `tick` every `interval_s` seconds from `start` to `stop`, never twice at once, in one thread of its own.

    A run that takes longer than the interval is followed by one, not by all that were missed.
    """

    def __init__(self, tick: Callable[[], None], interval_s: float) -> None:
        # one line for each run and each one that was late is of no use to anybody
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            executors={"default": {"type": "threadpool", "max_workers": 1}},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._scheduler.add_job(tick, "interval", seconds=interval_s)

    def start(self) -> None:
        """Begin; the first run is one interval from now."""
        self._scheduler.start()

    def stop(self) -> None:
        """End, after the run that is under way."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
