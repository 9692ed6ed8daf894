"""One thread that computes, fed by a bounded queue: requests wait in line instead of slowing each other down."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from utils.deadline import Deadline
from utils.errors import AppError, DeadlineError

log = logging.getLogger(__name__)

T = TypeVar("T")
SMOOTHING = 0.2  # weight of the newest wait in the average


class BusyError(AppError):
    """The queue is full."""

    code = "BUSY"


@dataclass(frozen=True)
class _Job:
    work: Callable[[], Any]
    deadline: Deadline
    submitted: float
    future: "Future[tuple[Any, float]]"


class Worker:
    """Runs jobs one after the other in a thread of its own."""

    def __init__(self, max_queue: int) -> None:
        self._jobs: queue.Queue[_Job | None] = queue.Queue(max_queue)
        self._max_queue = max_queue
        self.queue_s = 0.0
        """Smoothed seconds that jobs waited lately."""
        self._thread = threading.Thread(target=self._loop, name="worker", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], T], deadline: Deadline) -> tuple[T, float]:
        """Wait for a turn and run `work`; returns its result and the seconds that it waited.

        Raises BusyError when the queue is full, DeadlineError when the turn does not come in time, and what `work`
        raises.
        """
        job = _Job(work, deadline, time.perf_counter(), Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise BusyError(f"{self._max_queue} requests are waiting (--max-queue), try again later") from None
        try:
            result: tuple[T, float] = job.future.result(deadline.remaining())
        except TimeoutError:
            job.future.cancel()
            raise deadline.passed() from None
        return result

    def close(self) -> None:
        """End the thread after the jobs that are in the queue."""
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            waited = time.perf_counter() - job.submitted
            self.queue_s += SMOOTHING * (waited - self.queue_s)
            try:
                job.deadline.remaining()
                job.future.set_result((job.work(), waited))
            except DeadlineError as error:
                job.future.set_exception(error)
            except BaseException as error:  # noqa: BLE001  it is raised again in the thread that waits
                job.future.set_exception(error)
