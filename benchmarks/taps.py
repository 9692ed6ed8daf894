"""Taps in the sockets of a gateway's workers: something happens to a worker at a stage of one request, neither
earlier nor later.

The gateway is a real one and is not changed. The file on which a worker listens is renamed, and ours takes its place;
frames pass through it as they are. At the stage of a `Trap` they are held until its act is over.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgecloud.net import plain_pickle
from edgecloud.net.frames import PREFIX_BYTES, FrameType, Limits, Prefix, parse_prefix

CHUNK = 1 << 16
LOOK_S, ACCEPT_S = 0.02, 0.5
SENDING, COMPUTING, ANSWERING, LOADING = "sending", "computing", "answering", "loading"


@dataclass(eq=False)
class Trap:
    """What is to happen once, and when."""

    stage: str
    act: Callable[["Worker"], None]
    least_bytes: int = 0
    """Of the payload of the request or the answer that is meant: those of others are smaller."""
    model: str = ""
    """The network whose loading is meant."""
    after_s: float = 0.0
    """Into computing or loading."""
    worker: "Worker | None" = None
    """To which it has happened."""
    is_over: threading.Event = field(default_factory=threading.Event)
    is_late: bool = False
    """Whether the answer, or READY, came before the act was over."""


@dataclass(eq=False)
class Worker:
    """A process that a gateway has started."""

    pid: int
    path: Path
    listener: socket.socket
    kept: list[object] = field(default_factory=list)
    """What belongs to it and ends with it."""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended; one that is stopped has not."""
        return state_of(self.pid) not in "ZX"

    def refuse(self) -> None:
        """Nobody listens there any more."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # who waits there for a connection wakes up
        self.listener.close()


def state_of(pid: int) -> str:
    """The letter of the kernel; X where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


class Taps:
    """Watches for workers of a gateway, and sits in the socket of each. Close it."""

    def __init__(self, gateway_pid: int, on_worker: Callable[[Worker], None] = lambda _: None) -> None:
        self._gateway_pid, self._on_worker = gateway_pid, on_worker
        self._workers: dict[int, Worker] = {}
        self._lock, self._is_closed = threading.Lock(), threading.Event()
        self._trap: Trap | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def running(self) -> list[Worker]:
        """Those in whose sockets we are."""
        with self._lock:
            return [worker for worker in self._workers.values() if worker.is_running]

    def arm(self, trap: Trap | None) -> None:
        """Have it happen at the next request that is meant; None: let everything pass."""
        self._trap = trap

    def close(self) -> None:
        """Let go; the gateway has ended."""
        self._is_closed.set()
        self._thread.join()
        for worker in self._workers.values():
            worker.refuse()

    # --- workers

    def _watch(self) -> None:
        while not self._is_closed.wait(LOOK_S):
            for pid, path in _listening(self._gateway_pid):
                if pid not in self._workers and path.is_socket():
                    worker = Worker(pid, path, _take_place(path))
                    self._on_worker(worker)
                    with self._lock:
                        self._workers[pid] = worker
                    threading.Thread(target=self._accept, args=(worker,), daemon=True).start()
            for worker in self._workers.values():
                if not worker.is_running:
                    worker.refuse()

    def _accept(self, worker: Worker) -> None:
        worker.listener.settimeout(ACCEPT_S)
        while not self._is_closed.is_set():
            try:
                near, _ = worker.listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(_real(worker.path))
            except OSError:
                near.close()
                continue
            line = _Line(self, worker, near, far)
            for is_up in (True, False):
                threading.Thread(target=line.run, args=(is_up,), daemon=True).start()

    # --- the trap

    def due(self, stage: str, *, size: int = 0, model: str = "") -> Trap | None:
        """The trap, where it is meant; nobody else gets it."""
        with self._lock:
            trap = self._trap
            if trap is None or trap.stage != stage or size < trap.least_bytes or model != trap.model:
                return None
            self._trap = None
            return trap


def _listening(parent: int) -> list[tuple[int, Path]]:
    """Children that listen on a file, and on which."""
    found = []
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            found += _named(int(pid))
    for task in _tasks(parent):
        with contextlib.suppress(OSError):
            for pid in (task / "children").read_text().split():
                found += _named(int(pid))
    return list(dict.fromkeys(found))


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _named(pid: int) -> list[tuple[int, Path]]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
    return [(pid, Path(word.removeprefix("unix:"))) for word in words if word.startswith("unix:")]


def _real(path: Path) -> str:
    return f"{path}.real"


def _take_place(path: Path) -> socket.socket:
    """Listen there in place of who does; at no moment is there nobody."""
    os.link(path, _real(path))
    ours = path.with_name(f"{path.name}.tap")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(ours))
    listener.listen(64)
    ours.rename(path)
    return listener


@dataclass(eq=False)
class _Line:
    """One connection of a gateway, and ours to its worker."""

    taps: Taps
    worker: Worker
    near: socket.socket
    far: socket.socket
    sprung: Trap | None = None
    """A trap that has waited for something on this connection."""

    def run(self, is_up: bool) -> None:
        """Pass on what comes from one side until either has closed."""
        source, sink = (self.near, self.far) if is_up else (self.far, self.near)
        with contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                self._pass(source, sink, is_up=is_up)
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _pass(self, source: socket.socket, sink: socket.socket, *, is_up: bool) -> None:
        start = _exactly(source, PREFIX_BYTES)
        prefix = parse_prefix(start, Limits())
        header = _exactly(source, prefix.header_bytes)
        if not is_up and prefix.kind in (FrameType.RESULT, FrameType.READY) and self.sprung is not None:
            trap, self.sprung = self.sprung, None
            trap.is_late = not trap.is_over.is_set()
        sink.sendall(start + header)
        held = self._held(prefix, is_up=is_up)
        left = prefix.payload_bytes
        while left:
            if held is not None and left <= prefix.payload_bytes // 2:
                self._spring(held)
                held = None
            data = source.recv(min(CHUNK, left))
            if not data:
                raise EOFError
            sink.sendall(data)
            left -= len(data)
        if is_up:
            self._passed(prefix, header)

    def _held(self, prefix: Prefix, *, is_up: bool) -> Trap | None:
        """A trap in the middle of this frame."""
        if is_up and prefix.kind is FrameType.INFER:
            return self.taps.due(SENDING, size=prefix.payload_bytes)
        if not is_up and prefix.kind is FrameType.RESULT:
            return self.taps.due(ANSWERING, size=prefix.payload_bytes)
        return None

    def _passed(self, prefix: Prefix, header: bytes) -> None:
        """A trap behind this frame."""
        trap = None
        if prefix.kind is FrameType.INFER:
            trap = self.taps.due(COMPUTING, size=prefix.payload_bytes)
        elif prefix.kind is FrameType.HELLO:
            trap = self.taps.due(LOADING, model=str(plain_pickle.loads(header)["model"]))
        if trap is not None:
            self.sprung = trap
            threading.Timer(trap.after_s, self._spring, (trap,)).start()

    def _spring(self, trap: Trap) -> None:
        trap.worker = self.worker
        trap.act(self.worker)
        trap.is_over.set()


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def await_state(pid: int, letters: str, seconds: float) -> bool:
    """Wait until a process is in one of these states."""
    until = time.monotonic() + seconds
    while state_of(pid) not in letters:
        if time.monotonic() > until:
            return False
        time.sleep(0.0005)
    return True
