"""A child process that runs one network that somebody sent (engine.child), as the process sees it that started it.

Nothing that comes from it is trusted: sizes and shapes are compared with what the network's layers make. Whatever takes
too long, or ends the child, is a ChildError; the child is gone then.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecloud.engine import child_frames, confine
from edgecloud.models.graph import to_ranges
from edgecloud.net.tensors import Array
from edgecloud.utils.commands import command_of
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import printable

START_S = 60.0
LOAD_S = 30.0
END_S = 2.0
TEXT = 200
KEPT = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONOPTIMIZE", "VIRTUAL_ENV"),
)
"""What it has of our environment: no secret, and no setting."""
ALSO = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONDONTWRITEBYTECODE": "1"}


class ChildError(AppError):
    """A network that somebody sent cannot be run, or its process has ended or was ended."""

    code = "BAD_REQUEST"


class ChildProcess:
    """One network in a process of its own. Any thread may use it; they take turns."""

    def __init__(self, path: Path, threads: int, more_bytes: int) -> None:
        """Start it, and wait until it has checked the network. Raises ChildError where that cannot be used."""
        self._path = str(path.resolve())
        self._sock, there = socket.socketpair()
        self._lock = threading.Lock()
        self._numbers, self._forgotten = 0, deque[int]()
        try:
            self._process = subprocess.Popen(
                command_of(["-m", "edgecloud.engine.child", self._path, str(threads), str(more_bytes)]),
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in KEPT if name in os.environ} | ALSO,
                start_new_session=True,
            )
        except OSError as error:
            self._sock.close()
            raise ChildError(f"no process could be started for the network: {error.strerror}") from None
        finally:
            there.close()
        self._end = weakref.finalize(self, _end, self._sock, self._process)
        confine.step_back(self._process.pid)
        self.kept = tuple(map(str, self._heard(0, Deadline.after(START_S, "the network was not checked"))[0]["kept"]))
        """What the system did not allow it to give up."""

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return bool(self._end.alive)

    def close(self) -> None:
        """End it."""
        self._end()

    def load(self, layers: frozenset[int]) -> tuple[int, int]:
        """Make a segment ready; returns its number, and the bytes of its weights. Raises ChildError."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            deadline = Deadline.after(LOAD_S, "a part of the network was not ready")
            answer, _ = self._ask({"op": "load", "id": number, "layers": to_ranges(layers)}, [], 0, deadline)
        weight_bytes = answer.get("weight_bytes")
        if type(weight_bytes) is not int or weight_bytes < 0:
            raise self._lost("it answered something else")
        return number, weight_bytes

    def run(self, number: int, arrays: Sequence[Array], most_bytes: int, seconds: float) -> list[Array]:
        """Run a segment, within so many seconds; the answer has at most so many bytes. Raises ChildError, and
        MemoryError where that network has used up its memory."""
        with self._lock:
            deadline = Deadline.after(seconds, f"the network took longer than {seconds:.3g} s")
            return self._ask({"op": "run", "id": number}, arrays, most_bytes, deadline)[1]

    def forget(self, number: int) -> None:
        """A segment is not wanted any more. Waits for nobody."""
        self._forgotten.append(number)

    def _ask(
        self, header: dict[str, Any], arrays: Sequence[Array], most_bytes: int, deadline: Deadline
    ) -> tuple[dict[str, Any], list[Array]]:
        forgotten = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        try:
            child_frames.send(self._sock, header | ({"forget": forgotten} if forgotten else {}), arrays, deadline)
        except (OSError, AppError) as error:
            raise self._lost(_said(error)) from None
        return self._heard(most_bytes, deadline)

    def _heard(self, most_bytes: int, deadline: Deadline) -> tuple[dict[str, Any], list[Array]]:
        try:
            answer, arrays = child_frames.receive(self._sock, most_bytes, deadline)
        except TimeoutError:
            raise self._lost(str(deadline.passed())) from None
        except (OSError, AppError, MemoryError) as error:
            raise self._lost(_said(error)) from None
        if "error" not in answer:
            return answer, arrays
        if answer["error"] == "memory":
            raise MemoryError(answer.get("text"))
        text = str(answer.get("text", "")).replace(self._path, "it")  # no client learns where it is kept
        raise ChildError(printable(text, TEXT))

    def _lost(self, why: str) -> ChildError:
        """End it, and say how it ended by itself, if it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        code = self._process.poll()
        self.close()
        if code is not None and code < 0:
            why = f"ended by {_name_of(-code)}"
        return ChildError(f"the process of this network is gone: {printable(why, TEXT)}")


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(sock: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    sock.close()
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
