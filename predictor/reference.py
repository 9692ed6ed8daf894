"""Fixed pieces of work that tell how fast this machine is just now, and what they take when it is quiet.

They need numpy alone, so that an edge without torch measures too. Products of 64 x 64 matrices stay in the caches of
a core and are below the size from which OpenBLAS uses threads of its own; sums over parts of 16 MiB, each time the
next part, do not stay there. Both take about a millisecond together. For several threads each runs its own copy at
the same time, and the slowest counts, as in an operation of a network.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.predictor.pace import FEWEST_READINGS, Pace, quiet_of
from edgecloud.utils.files import write_atomically
from edgecloud.utils.inference_utils import Clock

log = logging.getLogger(__name__)

SIDE, STACK, PRODUCTS = 64, 16, 4
MEMORY_BYTES, PART_BYTES, PARTS = 16 << 20, 1 << 20, 4
FINE_S = 1e-6
"""A clock that is coarser than this cannot tell layers apart."""
BETTER = 0.99  # what is written to disk again
LOOKS = 9
SCHEMA = 1
MAX_FILE_BYTES = 4096


def has_fine_work_clock() -> bool:
    """Whether the processor time of a thread is told finely enough to time layers by it; Windows counts ticks."""
    return time.get_clock_info("thread_time").resolution <= FINE_S


class _Work:
    """The pieces, for one thread."""

    def __init__(self, numbers: NDArray[np.float32], at: int) -> None:
        """All threads read the same memory, which takes long to fetch, each from a place of its own on."""
        self._one = np.full((SIDE, SIDE), 0.5, np.float32)  # what the numbers are takes no time, but random ones do
        self._many = np.broadcast_to(self._one, (STACK, SIDE, SIDE))
        self._products = np.empty((STACK, SIDE, SIDE), np.float32)
        self._numbers, self._at = numbers, at

    def compute(self) -> None:
        for _ in range(PRODUCTS):
            np.matmul(self._many, self._one, out=self._products)

    def memory(self) -> None:
        step = PART_BYTES // 4
        for _ in range(PARTS):
            self._numbers[self._at : self._at + step].sum()
            self._at = (self._at + step) % self._numbers.size


class Reference:
    """Times the reference work, on as many threads as what is measured. One thread at a time may use it."""

    def __init__(self, threads: int, clock: Clock) -> None:
        """`clock` is the one that layers are measured with; it counts for one thread alone where that is its work."""
        self._clock = clock
        numbers, count, parts = np.full(MEMORY_BYTES // 4, 0.5, np.float32), max(1, threads), MEMORY_BYTES // PART_BYTES
        self._works = [_Work(numbers, parts * number // count * PART_BYTES // 4) for number in range(count)]
        self._pool = ThreadPoolExecutor(threads - 1, "reference") if threads > 1 else None
        self.read()  # what is done for the first time takes longer

    def read(self, times: int = 1) -> Pace:
        """What the pieces take now, the median of so many times each, in turns."""
        pairs = [(self._time(_Work.compute), self._time(_Work.memory)) for _ in range(times)]
        return Pace(median(pair[0] for pair in pairs), median(pair[1] for pair in pairs))

    def _time(self, piece: Callable[[_Work], None]) -> float:
        mine, *others = self._works
        began = self._clock()
        there = [self._pool.submit(piece, work) for work in others] if self._pool is not None else []
        piece(mine)
        for each in there:
            each.result()
        return max(self._clock() - began, 1e-9)

    def read_for(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> list[Pace]:
        """Readings one after the other until so many seconds have passed, or it is over; one at least."""
        until = time.perf_counter() + seconds
        readings = [self.read()]
        while time.perf_counter() < until and not is_over():
            readings.append(self.read())
        return readings

    def close(self) -> None:
        """End its threads."""
        if self._pool is not None:
            self._pool.shutdown()


@cache
def cores_at_work(cores: int) -> float:
    """How many of so many processors there are for work that computes: two that are threads of one core share what it
    computes. Two threads at once tell, beside one; it takes some 30 ms, once in a process."""
    if cores < 2:
        return float(cores)
    one, two = Reference(1, time.perf_counter), Reference(2, time.perf_counter)
    try:
        pairs = [(one.read().compute_s, two.read().compute_s) for _ in range(LOOKS)]
    finally:
        one.close()
        two.close()
    return cores_from(cores, min(pair[0] for pair in pairs), min(pair[1] for pair in pairs))


def cores_from(cores: int, one_s: float, two_s: float) -> float:
    """The same from what the work takes on one thread, and on two at once: half as many at least, `cores` at most."""
    return cores * min(1.0, max(0.5, one_s / two_s))


class Quiet:
    """What the reference work takes on this machine when it is quiet: the fastest that it has shown, kept on disk.

    It only ever becomes faster. Other hardware, threads, back-ends and versions have a file of their own.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        """`folder` is that of the cache, `machine` what the times depend on."""
        self._key = {**machine, "numpy": np.__version__}
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / "speed" / f"{digest}.json"

    def pace(self) -> Pace | None:
        """As it is kept; None where nothing is. A damaged file counts as nothing, and that is logged."""
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("it is too large")
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(document, dict) or document.get("schema") != SCHEMA or document.get("key") != self._key:
                raise ValueError("it is of another machine or version")
            return Pace.read(document.get("quiet"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning("ignoring the kept speed of this machine %s (%s)", self.path, error)
            return None

    def record(self, readings: list[Pace]) -> Pace:
        """Take note of some readings; returns what the quiet machine takes from now on.

        Too few of them change nothing that is kept. Raises ValueError where there are none at all.
        """
        kept, seen = self.pace(), quiet_of(readings)
        if kept is not None and len(readings) < FEWEST_READINGS:
            return kept
        best = seen if kept is None else kept.faster(seen)
        is_better = kept is None or min(best.compute_s / kept.compute_s, best.memory_s / kept.memory_s) < BETTER
        if not is_better and kept is not None:
            return kept
        if len(readings) >= FEWEST_READINGS:
            self._keep(best)
        return best

    def _keep(self, pace: Pace) -> None:
        document = {"schema": SCHEMA, "key": self._key, "quiet": asdict(pace)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(document))
        except OSError as error:
            log.warning("cannot save the speed of this machine %s (%s)", self.path, error.strerror)
