"""A cloud under attack, a legitimate edge, and a row of the table."""

import contextlib
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.clouds import CloudProcess, running_cloud
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork, prepare
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Error, Hello, Infer, Ready, Result, from_header
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, PeerClosedError

HOST, ATTACKER = "127.0.0.1", "127.0.0.2"
QUICK = ("--hello-timeout", "2s")
UNPACED = ("--max-control-rate", "100000")  # for thousands of attempts, each with a connection and a HELLO of its own
NO_SERVICE_S = 60.0
STEADY_S = 0.2
TOKEN = "a good secret, 24 bytes!"
HEAD = ["", "attempts", "as expected", "correct inferences", "worst time", "peak RSS", ""]


@dataclass
class Row:
    """The outcome of one kind of attempt."""

    name: str
    attempts: int = 0
    right: int = 0
    checks: int = 0
    survived: int = 0
    worst_s: float = 0.0
    grown_bytes: int = 0
    note: str = ""
    wrong: Counter[str] = field(default_factory=Counter)

    def count(self, found: str, expected: Sequence[str], seconds: float = 0.0) -> None:
        """Note one attempt: how it ended, and how it should have."""
        self.attempts += 1
        self.right += found in expected
        self.worst_s = max(self.worst_s, seconds)
        if found not in expected:
            self.wrong[found] += 1

    def cells(self) -> list[str]:
        """The row of the table."""
        wrong = ", ".join(f"{number} x {found}" for found, number in self.wrong.most_common(4))
        note = "; ".join(text for text in (self.note, wrong and f"UNEXPECTED: {wrong}") if text)
        worst = f"{self.worst_s * 1e3:.1f} ms" if self.worst_s else "-"
        survived = f"{self.survived}/{self.checks}"
        return [
            self.name,
            str(self.attempts),
            str(self.right),
            survived,
            worst,
            f"+{self.grown_bytes / 1e6:.1f} MB",
            note,
        ]

    @property
    def is_good(self) -> bool:
        """Whether all went as it should."""
        return self.right == self.attempts and self.survived == self.checks


def soon(seconds: float = 30.0) -> Deadline:
    """A deadline."""
    return Deadline.after(seconds, "the benchmark")


def pin(core: int) -> None:
    """This process, and what it starts, on one core, where there are so many."""
    if core in ALL_CORES and len(ALL_CORES) > 2:
        os.sched_setaffinity(0, {core})


ALL_CORES = os.sched_getaffinity(0)


def build(name: str) -> TorchNetwork:
    """A network as an edge has it."""
    entry = registry.lookup(name)
    return prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)


@dataclass
class Site:
    """A cloud under attack, and a legitimate edge."""

    cloud: CloudProcess
    network: TorchNetwork
    token: str = ""
    port: int = 0
    """Another one of its ports."""

    @property
    def address(self) -> tuple[str, int]:
        """Of the cloud."""
        return HOST, self.port or self.cloud.port

    @property
    def hello(self) -> Hello:
        """A correct HELLO."""
        loaded, graph = self.network.loaded, self.network.traced.graph
        return Hello(graph.name, loaded.digest, graph.digest, ["raw"], self.token)

    @property
    def x(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """A correct input."""
        return np.asarray(self.network.example.tensor)

    @property
    def infer(self) -> Infer:
        """A correct request."""
        return Infer(1, [[1, len(self.network.traced.graph.layers)]], 30.0)

    def handshake(self) -> Connection:
        """A connection on which the cloud is ready."""
        connection = connect(*self.address, 5.0)
        try:
            connection.send(self.hello, soon(120))
            connection.receive(soon(120)).read(Ready)
        except AppError:
            connection.close()
            raise
        return connection

    def ask(self, connection: Connection) -> bool:
        """One good inference: whether the answer is right."""
        connection.send(self.infer, soon(), [self.x])
        return self.is_right(connection)

    def is_right(self, connection: Connection) -> bool:
        """Whether the right answer comes."""
        frame = connection.receive(soon())
        frame.read(Result)
        expected = self.network.loaded.model(self.network.example.tensor).detach().numpy()
        return np.allclose(frame.arrays()[0], expected, rtol=1e-4, atol=1e-4)

    def check(self, row: Row) -> float:
        """A legitimate edge that connects now; returns the seconds until it was answered, more than one try being
        allowed."""
        row.checks += 1
        began = time.monotonic()
        while time.monotonic() - began < NO_SERVICE_S:
            try:
                with closing(self.handshake()) as connection:
                    row.survived += self.ask(connection)
                break
            except AppError as error:
                print(f"{row.name}: {error}", file=sys.stderr)
                time.sleep(0.05)
        return time.monotonic() - began

    def peak_bytes(self) -> int:
        """The most memory since the last `reset`."""
        status = Path(f"/proc/{self.cloud.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def reset(self) -> None:
        """The peak starts again."""
        Path(f"/proc/{self.cloud.process.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        """Seconds of processor time that the cloud has used."""
        stat = Path(f"/proc/{self.cloud.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def held(self) -> tuple[int, int]:
        """Its descriptors and threads."""
        return self.cloud.descriptors, self.cloud.threads

    def until_held(self, base: tuple[int, int], seconds: float = 20.0) -> tuple[float, tuple[int, int]]:
        """Wait until it holds no more than before, and goes on so: others may still wait to be accepted.

        Returns the seconds, and what is held beyond.
        """
        began = since = time.monotonic()
        while True:
            now, at = self.held(), time.monotonic()
            left = (max(0, now[0] - base[0]), max(0, now[1] - base[1]))
            if any(left):
                since = at
            if at - since > STEADY_S or at - began > seconds:
                return since - began, left
            time.sleep(0.002)


@contextmanager
def site(cache: Path, *flags: str, name: str = "le_net", token: str = "", optimize: str = "") -> Iterator[Site]:
    """A cloud of its own, on a core of its own."""
    pin(1)
    how = ("--threads", "1", "--log-level", "error", *flags)
    cloud = running_cloud(cache, *how, EDGE_CLOUD_TOKEN=token, PYTHONOPTIMIZE=optimize)
    with ExitStack() as stack:
        try:
            started = stack.enter_context(cloud)
        finally:
            pin(0)
        found = Site(started, build(name), token)
        warm = Row("warm-up")
        for _ in range(5):
            found.check(warm)
        yield found


@contextmanager
def watched(site: Site, name: str) -> Iterator[Row]:
    """A row with its peak memory, and a legitimate edge after it."""
    row = Row(name)
    site.check(row)
    row.checks = row.survived = 0
    time.sleep(0.05)
    site.reset()
    before = site.peak_bytes()
    yield row
    site.check(row)
    row.grown_bytes = max(0, site.peak_bytes() - before)
    print(" | ".join(row.cells()), file=sys.stderr, flush=True)


def raw(site: Site, source: str = "") -> socket.socket:
    """An attacker's connection."""
    sock = socket.create_connection(site.address, timeout=15, source_address=(source, 0) if source else None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def end_of(connection: Connection) -> tuple[str, float]:
    """How the cloud ends this connection: the code of its refusal or CLOSED; and the seconds until that is told. OPEN
    follows a refusal after which it does not close."""
    began = time.monotonic()
    try:
        frame = connection.receive(soon(15))
        code = from_header(Error, frame.header).code if frame.kind is FrameType.ERROR else frame.kind.name
    except PeerClosedError:
        return "CLOSED", time.monotonic() - began
    except AppError as error:
        return f"nothing ({error.code})", time.monotonic() - began
    seconds = time.monotonic() - began
    try:
        connection.receive(soon(5))
    except PeerClosedError:
        return code, seconds
    except AppError:
        pass
    return f"{code} OPEN", seconds


def provoke(site: Site, row: Row, data: bytes, *expected: str, is_connected: bool = False) -> None:
    """Send bytes on a connection of their own; it must be ended with one of these codes."""
    try:
        connection = site.handshake() if is_connected else Connection(raw(site))
    except AppError as error:
        row.count(f"no HELLO: {error.code}", expected)
        return
    with closing(connection):
        with contextlib.suppress(OSError):  # it closed at once, and says why
            connection.sock.sendall(data)
        row.count(*expected_end(end_of(connection), expected))


def expected_end(end: tuple[str, float], expected: Sequence[str]) -> tuple[str, Sequence[str], float]:
    """What `Row.count` takes, of how a connection ended and the seconds until then."""
    return end[0], expected, end[1]
