"""Records the link while an edge runs, as a trace for the lab.

The file is a CSV with the columns of HEADER: seconds since the first estimate, strictly rising from 0, and the
estimated upload in mbit, 0 while there is no connection. Each line is written when it is known, so that a program that
is killed loses nothing.
"""

import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from edgecloud.utils.errors import UsageError

log = logging.getLogger(__name__)

HEADER = "seconds,mbit"
BYTES_PER_MBIT = 1e6 / 8
LEAST_MBIT, MOST_MBIT = 1e-3, 1e6
MOST_ROWS = 1_000_000


class Recorder:
    """A trace that grows. `note` may be called from several threads, with moments of one clock."""

    def __init__(self, path: Path) -> None:
        """Make the file. Raises UsageError where there is one already, or it cannot be made."""
        self._path = path
        self._lock = threading.Lock()
        self._rows = 0
        self._is_broken = False
        self._began = self._last_s = 0.0
        try:
            self._file = path.open("x", encoding="ascii", newline="\n")
        except FileExistsError:
            raise UsageError(f"--record {path}: the file exists and is not overwritten") from None
        except OSError as error:
            raise UsageError(f"--record {path}: cannot write: {error.strerror or error}") from None

    def note(self, at: float, up_bytes_per_s: float) -> None:
        """The upload as estimated at the moment `at`, in seconds. A second one in the same millisecond is left out.

        Raises nothing: a file that cannot be written is warned of, once.
        """
        with self._lock:
            if not self._rows:
                self._began = at
            seconds = round(at - self._began, 3)
            if self._is_broken or (self._rows and seconds <= self._last_s):
                return
            mbit = up_bytes_per_s / BYTES_PER_MBIT
            mbit = min(max(mbit, LEAST_MBIT), MOST_MBIT) if mbit > 0 else 0.0
            self._write(f"{'' if self._rows else HEADER + chr(10)}{seconds:.3f},{mbit:.6g}\n")
            self._last_s = seconds

    def _write(self, line: str) -> None:
        """The session is worth more than its trace: where it cannot be written that is said once."""
        try:
            if self._rows == MOST_ROWS:
                raise OSError(f"reached the limit of {MOST_ROWS} rows")
            self._file.write(line)
            self._file.flush()
            self._rows += 1
        except OSError as error:
            self._is_broken = True
            log.warning("--record %s stopped: %s", self._path, error.strerror or error)

    def close(self) -> None:
        """End the file; one in which nothing was written is taken away."""
        with self._lock:
            self._is_broken = True
            try:
                self._file.close()
            except OSError as error:  # what could not be flushed
                log.warning("--record %s: %s", self._path, error.strerror or error)
            if not self._rows:
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
