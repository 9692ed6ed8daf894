"""One thread that computes, fed by a bounded queue: requests wait in line instead of slowing each other down."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from utils.deadline import Deadline
from utils.errors import AppError, DeadlineError

T = TypeVar("T")
SMOOTHING = 0.2  # weight of the newest wait in the average
HALF_LIFE_S = 2.0


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
        self._waited_s, self._waited_at = 0.0, time.perf_counter()
        self._thread = threading.Thread(target=self._loop, name="worker", daemon=True)
        self._thread.start()

    @property
    def queue_s(self) -> float:
        """Smoothed seconds that jobs waited lately, soon forgotten: or one jam would keep edges away for ever."""
        age = time.perf_counter() - self._waited_at
        return float(self._waited_s * 0.5 ** (age / HALF_LIFE_S))

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
        except CancelledError:
            raise BusyError("the worker is stopping") from None
        return result

    def close(self, seconds: float) -> None:
        """Cancel the jobs in the queue and end the thread; a job that runs has `seconds` to finish."""
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job.future.cancel()
        self._jobs.put(None)
        self._thread.join(seconds)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            waited = time.perf_counter() - job.submitted
            self._waited_s = self.queue_s + SMOOTHING * (waited - self.queue_s)
            self._waited_at = time.perf_counter()
            try:
                job.deadline.remaining()
                job.future.set_result((job.work(), waited))
            except DeadlineError as error:
                job.future.set_exception(error)
            except BaseException as error:  # noqa: BLE001  it is raised again in the thread that waits
                job.future.set_exception(error)
            del job  # and with it the tensors that it holds, which would stay while nothing comes
