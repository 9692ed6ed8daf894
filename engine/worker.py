"""The compute thread and its bounded queue: requests are queued instead of slowing each other down."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgecloud.engine.batching import FairQueue
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError

T = TypeVar("T")
SMOOTHING = 0.2  # weight of the newest wait in the average
HALF_LIFE_S = 2.0
MIN_RETRY_S = 0.01
SPARE_S = 0.01  # of a deadline, that waiting for a batch leaves


class BusyError(AppError):
    """The queue is full."""

    code = "BUSY"

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, eq=False)
class Job:
    """Something to compute. Jobs with equal keys have the same `work`, which takes the items of all of them."""

    work: Callable[[Sequence[Any]], Sequence[Any]]
    item: Any
    deadline: Deadline
    edge: Hashable = None
    """Whose it is, for turns; None is the cloud's own."""
    key: Hashable | None = None
    submitted: float = field(default_factory=time.perf_counter)
    future: "Future[tuple[Any, float]]" = field(default_factory=Future)
    """The result and the seconds that the job waited."""


class Worker:
    """Runs jobs one after the other, or those that go together at once, in a thread of its own."""

    def __init__(self, max_queue: int, max_batch: int = 1, max_wait_s: float = 0.0) -> None:
        self._max_queue, self._max_batch, self._max_wait_s = max_queue, max_batch, max_wait_s
        self._waiting: FairQueue[Job] = FairQueue(max_queue)
        self._changed = threading.Condition()
        self._is_closed = False
        self._waited_s, self._waited_at = 0.0, time.perf_counter()
        self._job_s = 0.0  # smoothed time of one job
        self._thread = threading.Thread(target=self._loop, name="worker", daemon=True)
        self._thread.start()

    @property
    def queue_s(self) -> float:
        """Smoothed seconds that jobs waited lately, soon forgotten: or one jam would keep edges away for ever."""
        age = time.perf_counter() - self._waited_at
        return float(self._waited_s * 0.5 ** (age / HALF_LIFE_S))

    @property
    def waiting(self) -> int:
        """Queued jobs."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a job; its future has the result, or BusyError if the queue is full."""
        with self._changed:
            is_taken, evicted = (False, None) if self._is_closed else self._waiting.put(job)
            self._changed.notify()
        for refused in (evicted, None if is_taken else job):
            if refused is not None and refused.future.set_running_or_notify_cancel():
                refused.future.set_exception(self._busy())

    def run(self, work: Callable[[], T], deadline: Deadline) -> tuple[T, float]:
        """Wait for a turn and run `work`; returns its result and the seconds that it waited.

        Raises BusyError when the queue is full, DeadlineError when the turn does not come in time, and what `work`
        raises.
        """
        job = Job(lambda _: [work()], None, deadline)
        self.submit(job)
        try:
            result: tuple[T, float] = job.future.result(deadline.remaining())
        except TimeoutError:
            job.future.cancel()
            raise deadline.passed() from None
        except CancelledError:
            raise BusyError("the worker is stopping") from None
        return result

    def drop(self, edge: Hashable) -> None:
        """Remove the queued jobs of an edge that has left."""
        with self._changed:
            dropped = self._waiting.drop(edge)
        for job in dropped:
            job.future.cancel()

    def close(self, seconds: float) -> None:
        """Cancel the jobs in the queue and end the thread; a job that runs has `seconds` to finish."""
        with self._changed:
            self._is_closed = True
            dropped = [job for _ in range(len(self._waiting)) for job in self._waiting.take(1)]
            self._changed.notify()
        for job in dropped:
            job.future.cancel()
        self._thread.join(seconds)

    def _busy(self) -> BusyError:
        retry_s = max(MIN_RETRY_S, len(self._waiting) * self._job_s / 2)
        return BusyError(f"{self._max_queue} requests are queued (--max-queue), try again later", retry_s)

    def _next(self) -> list[Job]:
        """Wait for jobs that go together; none when closed."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            jobs = self._waiting.take(self._max_batch)
            if jobs and jobs[0].key is not None:
                self._gather(jobs, jobs[0].key)
            return jobs

    def _gather(self, jobs: list[Job], key: Hashable) -> None:
        """Wait a little for more of the same; not while others wait, nor at the cost of a deadline."""
        until = time.monotonic() + self._max_wait_s
        while len(jobs) < self._max_batch and not self._waiting and not self._is_closed:
            spare = min(job.deadline.at for job in jobs) - 2 * self._job_s - SPARE_S
            remaining = min(until, spare) - time.monotonic()
            if remaining <= 0 or not self._changed.wait(remaining):
                return
            jobs += self._waiting.more(key, self._max_batch - len(jobs))

    def _loop(self) -> None:
        while jobs := self._next():
            running = [job for job in jobs if self._starts(job)]
            if running:
                self._run(running)
            del jobs, running  # and with them the tensors that they hold, which would stay while nothing comes

    def _starts(self, job: Job) -> bool:
        """Whether somebody still waits for it."""
        if not job.future.set_running_or_notify_cancel():
            return False
        try:
            job.deadline.remaining()
        except DeadlineError as error:
            job.future.set_exception(error)
            return False
        return True

    def _run(self, jobs: Sequence[Job]) -> None:
        began = time.perf_counter()
        for job in jobs:
            waited = began - job.submitted
            self._waited_s = self.queue_s + SMOOTHING * (waited - self.queue_s)
            self._waited_at = began
        try:
            results = jobs[0].work([job.item for job in jobs])
        except BaseException as error:  # noqa: BLE001  it is raised again in the thread that waits
            for job in jobs:
                job.future.set_exception(error)
            return
        each_s = (time.perf_counter() - began) / len(jobs)
        self._job_s += SMOOTHING * (each_s - self._job_s)
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result((result, began - job.submitted))
