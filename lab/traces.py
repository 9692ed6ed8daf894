"""Traces: a rate for every moment, read from a CSV file, and replayed by the relay or by `tc`.

    # anything
    seconds,mbit
    0,12.5
    1,0
    2.5,8

From each of these seconds on the link has this rate, 0 being an outage. Seconds are strictly rising and begin at 0.
After its end a trace begins again: its last rate holds as long as the one before it did. One line alone holds for ever.
"""

import math
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol

from edgecloud.net.recorder import BYTES_PER_MBIT, HEADER, LEAST_MBIT, MOST_MBIT, MOST_ROWS
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file, write_atomically

MOST_S = 1e9
MOST_FILE_BYTES = 64 << 20
JUST_S = 1e-6  # after a change: its moment may be rounded to either side
MOST_CELL = 40  # characters of a cell that an error shows


@dataclass(frozen=True)
class Trace:
    """From `seconds[k]` on a link carries `bytes_per_s[k]`, 0 being an outage; every `period_s` it begins again."""

    seconds: Sequence[float]
    bytes_per_s: Sequence[float]
    period_s: float = math.inf

    def __post_init__(self) -> None:
        times, rates = self.seconds, self.bytes_per_s
        if not times or len(times) != len(rates) or times[0] != 0:
            raise ValueError("a trace must have one rate per time, starting at 0")
        if any(b <= a for a, b in pairwise(times)) or not times[-1] < self.period_s:
            raise ValueError("the times of a trace must be strictly increasing, up to its period")
        if not all(0 <= rate < math.inf for rate in rates):
            raise ValueError("the rates of a trace must be finite and at least 0")
        if not (rates[-1] if math.isinf(self.period_s) else max(rates)) > 0:
            raise ValueError("all rates are 0")

    def rate_at(self, seconds: float) -> float:
        """Bytes per second at a moment; before the first one as at the first."""
        return self.bytes_per_s[self._step(self._turns(seconds)[1])]

    def leaves_at(self, start_s: float, size: float) -> float:
        """When the last of `size` bytes has left a link that has been free for them since `start_s`.

        Bytes that are on the link when its rate changes leave at the new one; in an outage nothing leaves.
        """
        target = self._capacity(start_s) + size
        turns = 0.0
        if math.isfinite(self.period_s):
            # of a target that is just the end of a turn the bytes have left in that turn
            turns = max(0.0, math.ceil(target / self._turn_bytes) - 1)
            target = min(target - turns * self._turn_bytes, self._turn_bytes)  # rounding
        step = max(0, bisect_left(self._passed, target) - 1)
        while self.bytes_per_s[step] == 0:  # only where nothing is wanted
            step += 1
        inside_s = self.seconds[step] + (target - self._passed[step]) / self.bytes_per_s[step]
        whole_s = turns * self.period_s if turns else 0.0
        return max(start_s, whole_s + inside_s)

    def next_change(self, seconds: float) -> float:
        """The first moment after this one at which another line of the trace holds; infinite where there is none."""
        turns, inside_s = self._turns(seconds)
        moment, step = seconds, self._step(inside_s)
        while moment <= seconds:  # more than once where the moment is one of a change, and rounded
            step += 1
            moment = self._begins(turns, step)
        return moment

    def _begins(self, turns: float, step: int) -> float:
        more, place = divmod(step, len(self.seconds))
        return (turns + more) * self.period_s + self.seconds[place] if turns + more else self.seconds[place]

    def _turns(self, seconds: float) -> tuple[float, float]:
        """How often the trace has begun again by then, and the seconds since it last did."""
        if math.isinf(self.period_s):
            return 0.0, seconds
        turns, inside_s = divmod(max(seconds, 0.0), self.period_s)
        return turns, inside_s

    def _step(self, inside_s: float) -> int:
        return max(0, bisect_right(self.seconds, inside_s) - 1)

    @cached_property
    def _passed(self) -> list[float]:
        """Bytes that could have left by each of `seconds`."""
        lasts = (end - begin for begin, end in pairwise(self.seconds))
        return [0.0, *accumulate(rate * last for rate, last in zip(self.bytes_per_s, lasts, strict=False))]

    @cached_property
    def _turn_bytes(self) -> float:
        """Bytes that can leave in one period."""
        return self._passed[-1] + self.bytes_per_s[-1] * (self.period_s - self.seconds[-1])

    def _capacity(self, seconds: float) -> float:
        """Bytes that could have left by a moment; below zero before the first one."""
        turns, inside_s = self._turns(seconds)
        if seconds < 0:
            return seconds * self.bytes_per_s[0]
        step = self._step(inside_s)
        passed = self._passed[step] + self.bytes_per_s[step] * (inside_s - self.seconds[step])
        return passed + (turns * self._turn_bytes if turns else 0.0)


# --- files


def read(path: Path) -> Trace:
    """Read a trace. Raises UsageError with the number of the line where it is none."""
    require_file(path)
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise UsageError(f"{path} is too large for a trace: the limit is {MOST_FILE_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line.strip() and line.lstrip()[0] != "#"]
    if not rows:
        raise UsageError(f"{path} is empty: expected the header {HEADER!r} and rows of numbers")
    number, head = rows[0]
    if "".join(head.lower().split()) != HEADER:
        raise UsageError(f"{path}, line {number}: the header is {head[:MOST_CELL]!r}, expected {HEADER!r}")
    if len(rows) - 1 > MOST_ROWS:
        raise UsageError(f"{path}, line {rows[MOST_ROWS + 1][0]}: the limit is {MOST_ROWS} rows")
    return _trace(path, rows[1:])


def _trace(path: Path, rows: Sequence[tuple[int, str]]) -> Trace:
    if not rows:
        raise UsageError(f"{path} has no rates: expected rows of numbers below {HEADER!r}")
    seconds: list[float] = []
    rates: list[float] = []
    for number, line in rows:
        where = f"{path}, line {number}"
        at, mbit = _numbers(where, line)
        if not seconds and at != 0:
            raise UsageError(f"{where}: a trace must start at 0 seconds, not at {at:g}")
        if seconds and not seconds[-1] < at < MOST_S:
            raise UsageError(f"{where}: {at:g} seconds do not come after {seconds[-1]:g} (and before {MOST_S:g})")
        if mbit != 0 and not LEAST_MBIT <= mbit <= MOST_MBIT:
            raise UsageError(f"{where}: {mbit:g} mbit is not a rate: 0, or {LEAST_MBIT:g} to {MOST_MBIT:g}")
        seconds.append(at)
        rates.append(mbit * BYTES_PER_MBIT)
    if not max(rates):
        raise UsageError(f"{path}: all rates are 0")
    period_s = 2 * seconds[-1] - seconds[-2] if len(seconds) > 1 else math.inf
    return Trace(tuple(seconds), tuple(rates), period_s)


def _numbers(where: str, line: str) -> tuple[float, float]:
    cells = line.split(",")
    if len(cells) != 2:
        raise UsageError(f"{where}: {len(cells)} numbers, expected two: {HEADER}")
    return _number(where, cells[0]), _number(where, cells[1])


def _number(where: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{where}: {cell.strip()[:MOST_CELL]!r} is not a number")
    return value


def write(path: Path, seconds: Sequence[float], mbit: Sequence[float], notes: Sequence[str] = ()) -> None:
    """Write a file that `read` reads. Raises OSError."""
    rows = (f"{at:g},{rate:g}" for at, rate in zip(seconds, mbit, strict=True))
    write_atomically(path, "\n".join([*(f"# {note}" for note in notes), HEADER, *rows, ""]))


# --- playing one on an interface


class Stop(Protocol):
    """What `replay` waits on: a threading.Event is one."""

    def wait(self, timeout: float | None = None) -> bool:
        """Whether to stop, after `timeout` seconds at most."""


def replay(
    trace: Trace,
    change: Callable[[float], None],
    stop: Stop | threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call `change` with the bytes per second of every moment, now being second 0, until `stop` is set.

    Moments are counted from the start, so that slow changes do not add up; of several that have passed meanwhile the
    latest counts. What `change` raises ends it.
    """
    start_s = clock()
    due_s, rate = 0.0, -1.0
    while True:
        now_s = max(clock() - start_s, due_s) + JUST_S
        latest = trace.rate_at(now_s)
        if latest != rate:
            change(latest)
            rate = latest
        due_s = trace.next_change(now_s)
        left_s = due_s - (clock() - start_s)
        if stop.wait(None if math.isinf(left_s) else max(0.0, min(left_s, threading.TIMEOUT_MAX))):
            return
