"""Loads networks in a separate process with a lower priority than inference.

To build a network, draw or read its parameters, capture its graph and measure its layers takes seconds to minutes and
all processors. No piece of that is short enough to come between two requests, and capturing changes torch's own classes
while it lasts. So a small process is split off when the cloud starts, before torch has threads; it forks for each
network, and what it has loaded comes back as parameters in shared memory and a captured graph (models.parcel). A load
begins at the usual priority where nobody is being served, and gets a low one as soon as somebody is.
"""

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecloud.utils.errors import AppError, MismatchError, UsageError
from edgecloud.utils.niceness import STEPS_BACK, put_behind

log = logging.getLogger(__name__)

MESSAGE_BYTES = 1 << 16
END_S, NOTICED_S = 5.0, 0.01
KILLED_FIRST = b"1000"  # where memory runs out
OTHER_ERRORS: dict[str, type[AppError]] = {"UsageError": UsageError, "MismatchError": MismatchError}


class CannotLoadThereError(Exception):
    """Another process cannot load this network, or not hand it over; this one may."""


class NoRoomError(AppError):
    """The system has no memory, or no process, for that now."""

    code = "BUSY"
    retry_after_s = 5.0


@dataclass(frozen=True)
class Wish:
    """What is to be loaded."""

    name: str
    threads: int


@dataclass(frozen=True)
class Handed:
    """What came back: the contents of two files."""

    packed: bytes
    parameters: int
    """The descriptor of the file that holds them."""


Work = Callable[[Wish], tuple[bytes, int]]
"""Loads a network: what models.parcel packs, and the descriptor of the file with its parameters."""


def is_possible() -> bool:
    """Whether this system has what that needs."""
    return hasattr(os, "fork") and hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()


class Loader:
    """The process that loads, best made before this one has run anything of torch. One thread at a time may `load`."""

    def __init__(self, work: Work) -> None:
        self._sock, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = _split_off(there, work)
        there.close()
        self._end = weakref.finalize(self, _end, self._sock, self._pid)  # also where nobody closes it
        self._lock = threading.Lock()
        self._running: int | None = None
        self._is_behind = self._is_closed = False

    def load(self, wish: Wish, seconds: float, *, is_behind: bool) -> Handed:
        """Load a network, behind everything else from the start or from `step_back` on.

        Raises CannotLoadThereError where another process cannot do that for this one, NoRoomError, and what the load
        itself raises.
        """
        try:
            self._sock.settimeout(seconds)
            with self._lock:
                self._is_behind = is_behind
            self._sock.send(json.dumps([wish.name, wish.threads, STEPS_BACK if is_behind else 0]).encode())
            started = self._receive()[0]
            with self._lock:
                self._running = started["pid"]
            try:
                answer, files = self._receive()
            except TimeoutError:
                if started["pid"]:
                    os.kill(started["pid"], signal.SIGKILL)
                self._sock.settimeout(END_S)
                self._receive()  # that it was ended, which nobody needs to know
                raise NoRoomError(f"{wish.name} was not loaded within {seconds:.0f} s") from None
            finally:
                with self._lock:
                    self._running = None
        except (OSError, ValueError) as error:
            if self._is_closed:
                raise NoRoomError("the cloud is stopping") from None
            raise CannotLoadThereError(f"the loader process has died: {error}") from None
        if "error" in answer:
            raise _raised(answer)
        with os.fdopen(files[0], "rb") as file:
            file.seek(0)
            return Handed(file.read(), files[1])

    def step_back(self) -> None:
        """Somebody is served: what is being loaded has to wait from now on."""
        if self._running is None or self._is_behind:
            return
        with self._lock:
            if self._running is not None and not self._is_behind:
                self._is_behind = True
                _put_behind(self._running)

    def close(self) -> None:
        """End the process, and what it is loading."""
        self._is_closed = True
        self._end()

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        data, files, _, _ = socket.recv_fds(self._sock, MESSAGE_BYTES, 2)
        if not data:
            raise ConnectionResetError("it ended without an answer")
        return json.loads(data), files


def _end(sock: socket.socket, pid: int) -> None:
    """Close our end of the socket, at which the process ends, with what it is loading; wait for that."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # also where a thread waits on it
    sock.close()
    end = time.monotonic() + END_S
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(NOTICED_S)


def _raised(answer: dict[str, Any]) -> Exception:
    text = answer["text"]
    if answer["error"] in OTHER_ERRORS:
        return OTHER_ERRORS[answer["error"]](text)
    return NoRoomError(text) if answer["error"] == "NoRoomError" else CannotLoadThereError(text)


def _put_behind(pid: int) -> None:
    """Every thread of a process; the system keeps a priority for each."""
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            put_behind(int(task.name))


# --- the other process


def _split_off(sock: socket.socket, work: Work) -> int:
    """Fork, in a thread that has never used the pool of threads that torch computes with; returns the process."""
    pids: list[int] = []

    def fork() -> None:
        gc.freeze()  # what is there now is not looked at again, and so stays shared
        pid = os.fork()
        if pid:
            gc.unfreeze()
            pids.append(pid)
            return
        try:
            _serve(_keep_only(sock), work)
        except Exception:
            log.exception("the loader process is stopping")
        finally:
            os._exit(0)

    thread = threading.Thread(target=fork, name="splits off")
    thread.start()
    thread.join()
    return pids[0]


def _keep_only(sock: socket.socket) -> socket.socket:
    """Close every file but the log and the socket. The numbers stay taken, since objects here still close them."""
    mine = sock.fileno()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in (2, mine, nothing):
            with contextlib.suppress(OSError):  # the one that listed them
                os.dup2(nothing, number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; the cloud ends in its own time, and this one after
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return sock


def _serve(sock: socket.socket, work: Work) -> None:
    """Fork for each wish; end, with what is being loaded, when the cloud does."""
    while data := _received(sock, MESSAGE_BYTES):
        name, threads, priority = json.loads(data)
        ended, ends = os.pipe()  # the second is the child's, and so closes with it
        try:
            pid = os.fork()
        except OSError as error:
            sock.send(json.dumps({"pid": 0}).encode())
            sock.send(
                json.dumps(
                    {"error": "NoRoomError", "text": f"cannot start a loader process: {error.strerror}"}
                ).encode()
            )
            os.close(ended)
            os.close(ends)
            continue
        if not pid:
            try:
                _work(sock, Wish(name, threads), priority, work)
            finally:
                os._exit(0)
        os.close(ends)
        if not _wait(sock, pid, ended):
            return


def _received(sock: socket.socket, count: int, flags: int = 0) -> bytes:
    """What the cloud says; nothing where it has ended, also where it was killed before it had read what we said."""
    try:
        return sock.recv(count, flags)
    except ConnectionResetError:
        return b""


def _wait(sock: socket.socket, pid: int, ended: int) -> bool:
    """Wait for a load to end; False where the cloud has ended before."""
    either: list[Any] = [ended, sock]
    ready = select.select(either, [], [])[0]
    is_gone = ended not in ready and not _received(sock, 1, socket.MSG_PEEK)  # else it is the next wish
    if is_gone:
        os.kill(pid, signal.SIGKILL)
    os.close(ended)
    _, status = os.waitpid(pid, 0)
    if status and not is_gone:
        text = "the loader process was killed, possibly because memory ran out"
        sock.send(json.dumps({"error": "NoRoomError", "text": text}).encode())
    return not is_gone


def _work(sock: socket.socket, wish: Wish, priority: int, work: Work) -> None:
    if priority:
        os.nice(priority)
    sock.send(json.dumps({"pid": os.getpid()}).encode())
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(KILLED_FIRST)
    try:
        packed, parameters = work(wish)
        file = os.memfd_create("packed")
        with os.fdopen(os.dup(file), "wb") as into:
            into.write(packed)
    except (MemoryError, OSError) as error:
        answer = {"error": "NoRoomError", "text": f"not enough memory to load {wish.name}: {error}"[:300]}
    except Exception as error:  # noqa: BLE001  told to the process that can log it
        answer = {"error": type(error).__name__, "text": str(error)[:2000]}
    else:
        socket.send_fds(sock, [b"{}"], [file, parameters])
        return
    sock.send(json.dumps(answer).encode())
