"""The real programs of one cell: their output line by line, their logs in files."""

import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgecloud.lab.reaper import Reaper
from edgecloud.utils.commands import command_of
from edgecloud.utils.environment import without_settings
from edgecloud.utils.errors import AppError, DeadlineError

STOP_S = 5.0
LISTENING = "listening on "
LOG_TAIL = 4096
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Program:
    """A running program that ends when its standard input does."""

    def __init__(self, command: Sequence[str], log: Path, cores: frozenset[int], reaper: Reaper, threads: int) -> None:
        self._log = log
        few = ONE_THREAD if threads == 1 else {}
        try:
            with log.open("ab") as file:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                    start_new_session=True,  # Ctrl-C in a terminal reaches only the lab, which ends it
                    env=without_settings(os.environ) | few,  # what is set for the lab is not set for them
                )
        except OSError as error:
            raise AppError(f"cannot start {command[0]}: {error.strerror or error}") from None
        if cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # it has ended already, which its first line will tell
                os.sched_setaffinity(self._process.pid, cores)
        self._reaper, self._entry = reaper, reaper.note_process(self._process.pid)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="reads a program", daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None  # asked for above
        with contextlib.suppress(OSError, ValueError), self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def say(self, line: str) -> None:
        """Give it a line. What is wrong with it shows when its answer is read."""
        assert self._process.stdin is not None  # asked for above
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def line(self, wait_s: float) -> str:
        """Its next line. Raises ProgramError where it ends instead, DeadlineError where nothing comes in time."""
        try:
            line = self._lines.get(timeout=wait_s)
        except queue.Empty:
            raise DeadlineError(f"no output within {wait_s:g} s; see {self._log}") from None
        if line is None:
            raise self.failure()
        return line

    def failure(self) -> "ProgramError":
        """Why it ended, in its own words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        return ProgramError(self._last_words(), self._process.returncode or 0)

    def _last_words(self) -> str:
        try:
            text = self._log.read_bytes()[-LOG_TAIL:].decode(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("$ ")]
        return lines[-1].strip() if lines else f"exited with code {self._process.returncode}; see {self._log}"

    def stop(self) -> None:
        """Close its standard input and wait; kill it if it does not go."""
        assert self._process.stdin is not None  # asked for above
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(AppError):  # the reaper is gone, as after a crash
            self._reaper.order(forget=self._entry)


class ProgramError(AppError):
    """A program ended that should not have; `code` is its exit code."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.exit_code = code if 0 < code < 6 else AppError.exit_code


@contextmanager
def program(
    arguments: Sequence[str],
    log: Path,
    reaper: Reaper,
    *,
    prefix: Sequence[str] = (),
    cores: frozenset[int] = frozenset(),
    threads: int = 0,
) -> Iterator[Program]:
    """Run a script or module of this project for as long as the context lasts; `prefix` says on which host."""
    command = [*prefix, *command_of(arguments)]
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
    process = Program(command, log, cores, reaper, threads)
    try:
        yield process
    finally:
        process.stop()


def address_of(process: Program, wait_s: float) -> tuple[str, int]:
    """Where a program listens that says so in its first line. Raises AppError where it does not."""
    line = process.line(wait_s).strip()
    if not line.startswith(LISTENING):
        raise AppError(f"a program printed {line[:80]!r} instead of its address")
    host, _, port = line.removeprefix(LISTENING).rpartition(":")
    return host.strip("[]"), int(port)
