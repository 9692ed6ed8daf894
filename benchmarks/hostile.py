"""What strangers can do to a cloud: is everything refused, how soon, at what cost in memory, and who else notices?

    python -m benchmarks.hostile [--rows A1,A2,A3,A4,A6,A7,A8,A9,A11,A13,A14,A15] [--turns 3]

Every row has a real cloud_api.py with le_net on loopback and, where there are so many, on core 1; the strangers are
on core 0, the slow ones of A8 on core 2. After every row (and more often in some) a good edge asks for an inference
and compares the answer. Memory is the growth of the peak of the cloud (VmHWM, reset before each row).
"""

import argparse
import contextlib
import json
import os
import pickle
import random
import select
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from models import inputs, registry, weights
from net import plain_pickle
from net.connection import Connection, connect
from net.frames import FrameType, Limits, pack_prefix
from net.messages import Error, Hello, Infer, Probe, Probed, Ready, Result, from_header
from runtime.children import ROOT
from runtime.executor import Network, prepare
from tests.conftest import CloudProcess, running_cloud
from tests.test_codec_bombs import BOMBS
from tests.test_frames import encode
from tests.test_plain_pickle import gadgets
from utils.deadline import Deadline
from utils.errors import AppError, PeerClosedError

HOST, STRANGER = "127.0.0.1", "127.0.0.2"
CAP, SMALL_CAP = Limits().payload_bytes, 1 << 20
QUICK = ("--hello-timeout", "2s")
NO_SERVICE_S = 60.0
LORISES, INFERENCES, PACE_S, SETTLE_S = 500, 200, 0.02, 3.0
RST = struct.pack("ii", 1, 0)
TOKEN = "a good secret, 24 bytes!"
HEAD = ["", "attempts", "as they should", "good inferences", "worst time", "peak RSS", ""]


@dataclass
class Row:
    """What was seen of one kind of attempt."""

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
        """Note one attempt: how it ended, and how it should."""
        self.attempts += 1
        self.right += found in expected
        self.worst_s = max(self.worst_s, seconds)
        if found not in expected:
            self.wrong[found] += 1

    def cells(self) -> list[str]:
        """The line of the table."""
        wrong = ", ".join(f"{number} x {found}" for found, number in self.wrong.most_common(4))
        note = "; ".join(text for text in (self.note, wrong and f"NOT AS IT SHOULD: {wrong}") if text)
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


def build(name: str) -> Network:
    """A network as an edge has it."""
    entry = registry.find(name)
    return prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)


@dataclass
class Site:
    """A cloud under attack, and a good edge."""

    cloud: CloudProcess
    network: Network
    token: str = ""

    @property
    def address(self) -> tuple[str, int]:
        """Of the cloud."""
        return HOST, self.cloud.port

    @property
    def hello(self) -> Hello:
        """A good greeting."""
        loaded, graph = self.network.loaded, self.network.traced.graph
        return Hello(graph.name, loaded.digest, graph.digest, ["raw"], self.token)

    @property
    def x(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """A good input."""
        return np.asarray(self.network.example.tensor)

    @property
    def infer(self) -> Infer:
        """A good request."""
        return Infer(1, [[1, len(self.network.traced.graph.layers)]], 30.0)

    def greet(self) -> Connection:
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
        """A good edge that comes now; returns the seconds until it was answered, more than one try being allowed."""
        row.checks += 1
        began = time.monotonic()
        while time.monotonic() - began < NO_SERVICE_S:
            try:
                with closing(self.greet()) as connection:
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
        """Wait until it holds no more than before; returns the seconds, and what is held beyond."""
        began = time.monotonic()
        while any(now > then for now, then in zip(self.held(), base, strict=True)):
            if time.monotonic() - began > seconds:
                break
            time.sleep(0.002)
        now = self.held()
        return time.monotonic() - began, (max(0, now[0] - base[0]), max(0, now[1] - base[1]))


@contextmanager
def site(cache: Path, *flags: str, name: str = "le_net", token: str = "") -> Iterator[Site]:
    """A cloud of its own, on a core of its own."""
    pin(1)
    cloud = running_cloud(cache, "--threads", "1", "--log-level", "error", *flags, EDGE_CLOUD_TOKEN=token)
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
    """A row whose memory is watched, and after which a good edge comes."""
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
    """A stranger's connection."""
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


def provoke(site: Site, row: Row, data: bytes, *expected: str, is_greeted: bool = False) -> None:
    """Send bytes on a connection of their own; it must be ended with one of these codes."""
    try:
        connection = site.greet() if is_greeted else Connection(raw(site))
    except AppError as error:
        row.count(f"no greeting: {error.code}", expected)
        return
    with closing(connection):
        with contextlib.suppress(OSError):  # it closed at once, and says why
            connection.sock.sendall(data)
        row.count(*_expected(end_of(connection), expected))


def _expected(end: tuple[str, float], expected: Sequence[str]) -> tuple[str, Sequence[str], float]:
    return end[0], expected, end[1]


def lengths(cache: Path) -> list[Row]:
    """A1: lengths that are over the cap, and nothing behind them."""
    rows = []
    over = (CAP + 1, 1 << 40, 1 << 63, (1 << 64) - 1)
    headers = (Limits().header_bytes + 1, 1 << 31, (1 << 32) - 1)
    with site(cache) as there:
        for name, is_greeted in (("before HELLO", False), ("after HELLO", True)):
            with watched(there, f"A1 payload lengths 2^26+1, 2^40, 2^63, 2^64-1, {name}") as row:
                for kind in (FrameType.INFER, FrameType.PROBE):
                    for size in over * 25:
                        provoke(there, row, pack_prefix(kind, 10, size), "TOO_LARGE", is_greeted=is_greeted)
            rows.append(row)
        with watched(there, "A1 header lengths 2^16+1, 2^31, 2^32-1") as row:
            for kind in FrameType:
                for size in headers * 10:
                    provoke(there, row, pack_prefix(kind, size, 0), "TOO_LARGE")
        rows.append(row)
    return rows


def caps(cache: Path) -> list[Row]:
    """A2: exactly the cap and one more; and frames of the cap by who has not said HELLO."""
    rows = []
    with site(cache, "--max-payload", f"{SMALL_CAP >> 10}KiB", *QUICK) as there:
        with watched(there, "A2 probes of the cap - 1 and the cap (1 MiB): answered") as row:
            for size in (SMALL_CAP - 1, SMALL_CAP) * 20:
                with closing(there.greet()) as connection:
                    began = time.monotonic()
                    connection.send_bytes(Probe(7, 10), memoryview(bytes(size)), soon())
                    answer = connection.receive(soon())
                    row.count(str(answer.read(Probed).id), ["7"], time.monotonic() - began)
        rows.append(row)
        header = plain_pickle.dumps({"id": 7, "reply_bytes": 10})
        data = pack_prefix(FrameType.PROBE, len(header), SMALL_CAP + 1) + header + bytes(SMALL_CAP + 1)
        with watched(there, "A2 probes of the cap + 1, all of it sent") as row:
            for _ in range(20):
                provoke(there, row, data, "TOO_LARGE", is_greeted=True)
        rows.append(row)
    with site(cache, token=TOKEN) as there:
        rows.append(_held_before_hello(there))
    return rows


def _held_before_hello(there: Site) -> Row:
    """How much memory those take who have not shown the token: 16 is what one address may have."""
    header = plain_pickle.dumps({"id": 7, "reply_bytes": 10})
    data = pack_prefix(FrameType.PROBE, len(header), CAP) + header
    with (
        watched(there, "A2 16 at once: 64 MiB less 1 byte of a PROBE, no HELLO, no token") as row,
        ExitStack() as stack,
    ):
        strangers = [stack.enter_context(closing(Connection(raw(there)))) for _ in range(16)]
        for stranger in strangers:
            with contextlib.suppress(OSError):
                stranger.sock.sendall(data + bytes(CAP - 1))
        for stranger in strangers:
            row.count(*_expected(end_of(stranger), ("DEADLINE", "PROTOCOL", "TOO_LARGE")))
        row.note = "cloud with a token; --hello-timeout is 10 s"
    return row


def truncated(cache: Path) -> list[Row]:
    """A3: frames that end early, in good order or not."""
    rows = []
    with site(cache, *QUICK) as there:
        frames = (("HELLO", encode(there.hello, []), False), ("INFER", encode(there.infer, [there.x]), True))
        for kind, data, is_greeted in frames:
            offsets = _offsets(len(data))
            for ending in ("FIN", "RST"):
                name = f"A3 {kind} of {len(data)} bytes cut at {_how_many(offsets, data)} offsets, then {ending}"
                with watched(there, name) as row:
                    base = there.held()
                    for offset in offsets:
                        _cut(there, row, data[:offset], ending, is_greeted=is_greeted)
                    seconds, left = there.until_held(base)
                    used = there.cpu_s()
                    time.sleep(2.0)
                    used = there.cpu_s() - used
                    row.note = f"descriptors and threads left over: {left}, CPU then {used / 2:.1%}"
                    if ending == "RST":  # nobody is told of these: what counts is that nothing is left of them
                        row.right, row.worst_s = row.attempts - max(left), seconds
                        row.note += "; the time is until nothing was left"
                rows.append(row)
    return rows


def _offsets(size: int) -> list[int]:
    if size <= 5000:
        return list(range(size))
    return sorted({*range(400), *random.Random(3).sample(range(400, size), 200)})


def _how_many(offsets: Sequence[int], data: bytes) -> str:
    return "all" if len(offsets) == len(data) else str(len(offsets))


def _cut(there: Site, row: Row, data: bytes, ending: str, *, is_greeted: bool) -> None:
    try:
        connection = there.greet() if is_greeted else Connection(raw(there))
    except AppError as error:
        row.count(f"no greeting: {error.code}", ())
        return
    with closing(connection):
        connection.sock.sendall(data)
        if ending == "RST":
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            connection.sock.close()
            row.count("", [""])
        else:
            connection.sock.shutdown(socket.SHUT_WR)
            row.count(*_expected(end_of(connection), ("CLOSED", "PROTOCOL")))


def odd_sends(cache: Path) -> list[Row]:
    """A4: good frames in odd pieces have the right answers."""
    with site(cache) as there:
        data = encode(there.infer, [there.x])
        with watched(there, f"A4 HELLO and INFER ({len(data)} bytes) one byte at a time") as single:
            for _ in range(5):
                with closing(Connection(raw(there))) as connection:
                    began = time.monotonic()
                    _dribble(connection, encode(there.hello, []))
                    connection.receive(soon()).read(Ready)
                    _dribble(connection, data)
                    single.count(str(there.is_right(connection)), ["True"], time.monotonic() - began)
        with watched(there, "A4 INFER in two sends, split everywhere") as split, closing(there.greet()) as connection:
            for offset in range(1, len(data), 3):
                connection.sock.sendall(data[:offset])
                time.sleep(0.0005)
                connection.sock.sendall(data[offset:])
                began = time.monotonic()
                split.count(str(there.is_right(connection)), ["True"], time.monotonic() - began)
            split.note = "every third boundary"
        with watched(there, "A4 50 INFERs in one send") as many, closing(there.greet()) as connection:
            for _ in range(10):
                connection.sock.sendall(data * 50)
                for _ in range(50):
                    began = time.monotonic()
                    many.count(str(there.is_right(connection)), ["True"], time.monotonic() - began)
    return [single, split, many]


def _dribble(connection: Connection, data: bytes) -> None:
    for place in range(len(data)):
        connection.sock.sendall(data[place : place + 1])
        time.sleep(0.0001)


def protocols(cache: Path) -> list[Row]:
    """A6: those who speak something else."""
    greetings = {
        "HTTP GET": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "TLS ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "SSH banner": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        "the seed's pickle protocol": struct.pack(">I", 28) + pickle.dumps("get_bandwidth"),
        "the seed's without a length": pickle.dumps("get_bandwidth"),
    }
    short = {"HTTP/0.9": b"GET /\r\n", "short SSH banner": b"SSH-2.0-Go\r\n"}
    with site(cache, *QUICK) as there:
        with watched(there, f"A6 {', '.join(greetings)}") as long_row:
            for data in list(greetings.values()) * 40:
                provoke(there, long_row, data, "BAD_MAGIC")
        with watched(there, f"A6 {', '.join(short)}: under the 20 bytes of a prefix") as short_row:
            for data in list(short.values()) * 3:
                provoke(there, short_row, data, "BAD_MAGIC", "DEADLINE")
            short_row.note = "--hello-timeout 2s, which is what ends them"
    return [long_row, short_row]


def pickles(cache: Path) -> list[Row]:
    """A7: pickles that run something in an ordinary unpickler."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, site(cache) as there:
        canary = Path(folder, "canary")
        traps = gadgets(canary)
        for is_greeted in (False, True):
            when = "after HELLO, behind a good start" if is_greeted else "before HELLO"
            name = f"A7 {len(traps)} gadgets, protocols 0 to 5, header of every message, {when}"
            with watched(there, name) as row:
                for trap in traps:
                    for protocol in range(6):
                        data = pickle.dumps(trap, protocol)
                        if is_greeted:
                            data = plain_pickle._START + data.removeprefix(b"\x80" + bytes([protocol]))
                        for kind in FrameType:
                            frame = pack_prefix(kind, len(data), 0) + data
                            provoke(there, row, frame, "MALFORMED", is_greeted=is_greeted)
                row.note = f"canary {'CREATED' if canary.exists() else 'absent'}"
                row.right *= not canary.exists()
            rows.append(row)
    return rows


class Loris:
    """Connections that each send a byte a second, and come again when they are closed. In a process of its own."""

    def __init__(self, port: int, source: str, data: bytes) -> None:
        self._address, self._source, self._data = (HOST, port), source, data
        self._selector = selectors.DefaultSelector()
        self._open: dict[int, tuple[socket.socket, int, float]] = {}
        self.connects = self.closed = 0
        self.held_s = 0.0
        self.most = 0

    def run(self) -> None:
        """Until standard input closes."""
        turn, began = 0, time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            for key, _ in self._selector.select(max(0.0, began + turn / LORISES - time.monotonic())):
                self._hear(key.data)
            if time.monotonic() >= began + turn / LORISES:
                self._step(turn % LORISES)
                turn += 1
        self.most = max(self.most, len(self._open))
        print(json.dumps([self.connects, self.closed, self.most, self.held_s]), flush=True)

    def _step(self, place: int) -> None:
        if place not in self._open:
            sock = socket.socket()
            sock.bind((self._source, 0))
            sock.setblocking(False)
            sock.connect_ex(self._address)
            self._open[place] = sock, 0, time.monotonic()
            self._selector.register(sock, selectors.EVENT_READ, place)
            self.connects += 1
            self.most = max(self.most, len(self._open))
            return
        sock, sent, since = self._open[place]
        with contextlib.suppress(OSError):
            sock.send(self._data[sent : sent + 1])
            self._open[place] = sock, sent + 1, since

    def _hear(self, place: int) -> None:
        sock, _, since = self._open[place]
        try:
            if sock.recv(4096):
                return
        except OSError:
            pass
        self.closed += 1
        self.held_s = max(self.held_s, time.monotonic() - since)
        self._selector.unregister(sock)
        sock.close()
        del self._open[place]


@contextmanager
def lorises(there: Site, source: str, found: list[list[float]]) -> Iterator[None]:
    """500 slow ones, for as long as the context lasts."""
    pin(2)
    command = [sys.executable, "-m", "benchmarks.hostile", "--loris", str(there.cloud.port), source]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pin(0)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(SETTLE_S)
        yield
    finally:
        out, _ = process.communicate(timeout=30)
        found.append(json.loads(out))


def slow(cache: Path, turns: int) -> list[Row]:
    """A8: slow ones, and a good edge that was there before."""
    cases = (
        ("--max-connections 600, so that all are let in", ("--max-connections", "600"), HOST),
        ("as delivered, loopback being spared", (), HOST),
        ("from another address that is not spared", ("--penalise-loopback",), STRANGER),
    )
    rows = []
    for name, flags, source in cases:
        with site(cache, *flags, name="alex_net") as there:
            rows.append(_slow(there, f"A8 500 of a byte a second: {name}", source, turns))
    with site(cache) as there:
        rows.append(_slow_bodies(there))
    return rows


def _slow(there: Site, name: str, source: str, turns: int) -> Row:
    graph = there.network.traced.graph
    first = len(graph.layers) - 6
    (shape,) = [graph.layers[number].out_shape for number in graph.inputs_of(frozenset(range(first, first + 6)))]
    request = Infer(1, [[first, first + 6]], 30.0)
    x = np.ones(shape, np.float32)
    found: list[list[float]] = []
    times: list[tuple[list[float], list[float]]] = []
    new_ones = [0, 0]
    with watched(there, name) as row, closing(there.greet()) as edge:
        _timed(edge, request, x, row)
        for _ in range(turns):
            without = _timed(edge, request, x, row)
            with lorises(there, source, found):
                times.append((without, _timed(edge, request, x, row)))
                new_ones[0] += 5
                new_ones[1] += sum(_gets_in(there) for _ in range(5))
            there.until_held((there.held()[0] - LORISES, 0), 3.0)
        _tell_slow(row, times, found, new_ones)
    return row


def _tell_slow(
    row: Row, times: list[tuple[list[float], list[float]]], found: list[list[float]], new_ones: list[int]
) -> None:
    ratios = [float(np.percentile(b, 95) / np.percentile(a, 95)) for a, b in times]
    p95 = [np.percentile([t for turn in times for t in turn[n]], 95) * 1e3 for n in (0, 1)]
    row.count("p95 is good" if p95[1] / p95[0] < 1.2 else "p95 over the bar", ["p95 is good"])
    row.worst_s = max(one[3] for one in found)
    closed, connects = (int(sum(one[n] for one in found)) for n in (1, 0))
    row.note = (
        f"p95 of the good edge {p95[0]:.1f} ms without, {p95[1]:.1f} ms with, ratio {p95[1] / p95[0]:.2f} "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)} by turns); {connects} connections, {closed} of them "
        f"closed by the cloud meanwhile; the time is the longest that one was held; {new_ones[1]}/{new_ones[0]} "
        "good edges that came then were let in"
    )


def _timed(
    edge: Connection, request: Infer, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]], row: Row
) -> list[float]:
    times = []
    for _ in range(INFERENCES):
        began = time.monotonic()
        edge.send(request, soon(), [x])
        row.count(edge.receive(soon()).kind.name, ["RESULT"])
        times.append(time.monotonic() - began)
        time.sleep(PACE_S)
    return times


def _gets_in(there: Site) -> bool:
    try:
        there.greet().close()
    except AppError:
        return False
    return True


def _slow_bodies(there: Site) -> Row:
    data = encode(there.infer, [there.x])
    with watched(there, "A8 20 known ones that send a byte a second of an INFER") as row, ExitStack() as stack:
        slow_ones = [stack.enter_context(closing(there.greet())) for _ in range(20)]
        began = time.monotonic()
        for second in range(20):
            for one in slow_ones:
                with contextlib.suppress(OSError):
                    one.sock.sendall(data[second : second + 1])
            ready, _, _ = select.select([one.sock for one in slow_ones], [], [], 1.0)
            for one in [one for one in slow_ones if one.sock in ready]:
                row.count(end_of(one)[0], ["DEADLINE"], time.monotonic() - began)
                slow_ones.remove(one)
            if not slow_ones:
                break
            time.sleep(max(0.0, began + second + 1 - time.monotonic()))
        for _ in slow_ones:
            row.count("still open after 20 s", ["DEADLINE"])
    return row


def never_read(cache: Path) -> list[Row]:
    """A9: answers that nobody takes."""
    rows = []
    with site(cache) as there:
        layer = [[1, 3]]
        answers = {
            "200 probes with answers of 1 MiB": encode(Probe(1, 1 << 20), []),
            "2,000 INFERs with answers of an inner layer": encode(Infer(1, layer, 30.0), [there.x]),
        }
        for (name, data), times in zip(answers.items(), (200, 2000), strict=True):
            with watched(there, f"A9 4 that ask and never read: {name}") as row:
                base = there.held()
                with ExitStack() as stack:
                    for _ in range(4):
                        _ask_and_never_read(there, stack, data * times)
                    there.check(row)
                    seconds, left = there.until_held(base, 140.0)
                for _ in range(4):
                    row.count(f"left over: {left}", ["left over: (0, 0)"], seconds)
                row.note = "until the cloud has let go of them; a good edge was answered meanwhile too"
            rows.append(row)
    return rows


def _ask_and_never_read(there: Site, stack: ExitStack, data: bytes) -> None:
    sock = stack.enter_context(closing(socket.socket()))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(15)
    sock.connect(there.address)
    connection = Connection(sock)
    connection.send(there.hello, soon())
    connection.receive(soon()).read(Ready)
    sock.settimeout(1.0)
    with contextlib.suppress(OSError):  # it takes no more
        sock.sendall(data)


def shapes(cache: Path) -> list[Row]:
    """A11: tensors that are not those of the cut, or no tensors."""
    fit = "A11 requests that do not fit: the connection goes on"
    with site(cache) as there:
        with watched(there, fit) as row, closing(there.greet()) as connection:
            for layers, sizes in UNFIT * 20:
                began = time.monotonic()
                connection.send(Infer(1, layers, 30.0), soon(), [np.zeros(size, np.float32) for size in sizes])
                frame = connection.receive(soon())
                code = from_header(Error, frame.header).code if frame.kind is FrameType.ERROR else frame.kind.name
                row.count(code, ["BAD_REQUEST"], time.monotonic() - began)
            row.survived, row.checks = row.survived + there.ask(connection), row.checks + 1
        with watched(there, f"A11 {len(LIES)} descriptions that lie: refused and closed, or refused") as lying:
            for tensors, buffers, payload in LIES * 20:
                fields = {"id": 1, "layers": [[1, 13]], "deadline_s": 30.0, "tensors": tensors, "buffers": buffers}
                header = plain_pickle.dumps(fields)
                data = pack_prefix(FrameType.INFER, len(header), len(payload)) + header + payload
                provoke(there, lying, data, *REFUSALS, is_greeted=True)
    return [row, lying]


REFUSALS = ("PROTOCOL", "TOO_LARGE", "MALFORMED", "BAD_REQUEST", "BAD_REQUEST OPEN")
PICTURE = (1, 1, 28, 28)
UNFIT: list[tuple[list[list[int]], list[tuple[int, ...]]]] = [
    ([[1, 99]], [PICTURE]),
    ([[0, 3]], [PICTURE]),
    ([[1, 13]], []),
    ([[1, 13]], [PICTURE] * 2),
    ([[1, 13]], [(1, 1, 28, 29)]),
    ([[1, 13]], [(2, 1, 28, 28)]),
    ([[1, 13]], [(1, 1, 14, 56)]),
    ([[3, 13]], [PICTURE]),
    ([], []),
    ([[1, 13]] * 5000, [PICTURE]),
    ([[5, 8], [1, 3]], [PICTURE]),
    ([[1, 13]], [PICTURE] * 60),
]
BYTES = bytes(4 * 784)


def _lie(shape: object, dtype: object = "float32", codec: object = "raw", buffer: object = 0) -> list[object]:
    return [(dtype, shape, codec, buffer)]


LIES: list[tuple[list[object], list[int], bytes]] = [
    *((_lie(shape), [len(BYTES)], BYTES) for shape in ((), (0,), (-1,), (1,) * 9, (1 << 32, 1 << 32), (784, -1, -1))),
    *((_lie(shape), [len(BYTES)], BYTES) for shape in ((1, 1, 28, 29), (1 << 62, 4), [1, 1, 28, 28], (1.0, 784), "x")),
    *((_lie(PICTURE, dtype), [len(BYTES)], BYTES) for dtype in ("float16", "int32", "object", "O", "V8", 7)),
    *((_lie(PICTURE, codec=codec), [len(BYTES)], BYTES) for codec in ("", "gzip", "zstd", "int8", "fp16", 1)),
    *((_lie(PICTURE, buffer=buffer), [len(BYTES)], BYTES) for buffer in (1, -1, 1 << 62, "0")),
    *((_lie(PICTURE), sizes, BYTES) for sizes in ([len(BYTES) - 1], [-1], [1 << 62], [], [len(BYTES), 0])),
    (_lie((1,)) * 65, [0] * 65, b""),
    (_lie((1,)) * 4000, [4], bytes(4)),
    ([None], [len(BYTES)], BYTES),
    ([("float32",)], [len(BYTES)], BYTES),
]


def bombs(cache: Path) -> list[Row]:
    """A13: zstd that unfolds to more than it should, or says so."""
    rows = []
    with site(cache) as there:
        for name, is_fit in (
            ("described as the 3 KB that le_net reads", True),
            ("described by sizes of their own", False),
        ):
            with watched(there, f"A13 {len(BOMBS)} zstd frames in INFERs, {name}") as row:
                for _, size, buffer, _ in BOMBS * 5:
                    tensors = [("float32", PICTURE, "zstd", 0)] if is_fit else [("uint8", (size,), "zstd", 0)]
                    fields = {"id": 1, "layers": [[1, 13]], "deadline_s": 30.0}
                    header = plain_pickle.dumps(fields | {"tensors": tensors, "buffers": [len(buffer)]})
                    data = pack_prefix(FrameType.INFER, len(header), len(buffer)) + header + buffer
                    provoke(there, row, data, *REFUSALS, is_greeted=True)
                largest = max(len(buffer) for _, _, buffer, _ in BOMBS) / 1e6
                row.note = f"payloads of at most {largest:.1f} MB" + (
                    "" if is_fit else "; honest ones unfold to 16.8 MB"
                )
            rows.append(row)
    return rows


def idle(cache: Path) -> list[Row]:
    """A14: a thousand that come and stay."""
    rows = []
    with site(cache, *QUICK) as there, closing(there.greet()) as edge:
        for name, data in (("say nothing", b""), ("send half a HELLO", encode(there.hello, [])[:100])):
            with watched(there, f"A14 1,000 connect and {name}") as row:
                base = there.held()
                codes = _crowd(there, row, data, edge)
                codes_seen = ", ".join(f"{number} {code}" for code, number in codes.most_common())
                recovery_s = there.check(row)
                _, left = there.until_held(base)
                row.note = (
                    f"{codes_seen}; the time is {' '.join(QUICK)}; a new edge was answered {recovery_s * 1e3:.0f} ms "
                    f"after the last was refused; left over {left}"
                )
            rows.append(row)
    return rows


def _crowd(there: Site, row: Row, data: bytes, edge: Connection) -> Counter[str]:
    codes: Counter[str] = Counter()
    with ExitStack() as stack:
        crowd = []
        for _ in range(1000):
            connection = stack.enter_context(closing(Connection(raw(there))))
            with contextlib.suppress(OSError):
                connection.sock.sendall(data)
            crowd.append((connection, time.monotonic()))
        row.checks += 1
        row.survived += there.ask(edge)
        for connection, began in crowd:
            code, _ = end_of(connection)
            codes[code] += 1
            expected = ("BUSY", "DEADLINE", "CLOSED") if data else ("BUSY", "DEADLINE")
            row.count(code, expected, time.monotonic() - began if code == "DEADLINE" else 0.0)
    return codes


def tokens(cache: Path) -> list[Row]:
    """A15: who guesses tokens, and what the time of a refusal tells."""
    guesses = {"first": "b" + TOKEN[1:], "last": TOKEN[:-1] + "?"}
    with site(cache, token=TOKEN) as there, watched(there, "A15 1,000 wrong tokens, loopback being spared") as row:
        times: dict[str, list[float]] = {place: [] for place in guesses}
        for number in range(500):
            for place in sorted(guesses, reverse=bool(number % 2)):
                with closing(Connection(raw(there))) as connection:
                    sent = encode(Hello("le_net", "", "", [], guesses[place]), [])
                    began = time.perf_counter()
                    connection.sock.sendall(sent)
                    code = connection.receive(soon()).header["code"]
                    times[place].append(time.perf_counter() - began)
                    row.count(code, ["TOKEN"], times[place][-1])
        first, last = (np.array(times[place]) * 1e6 for place in ("first", "last"))
        same = abs(median(first[::2]) - median(first[1::2]))
        row.note = (
            f"median {median(first):.0f} µs with a wrong first character, {median(last):.0f} µs with a wrong last, "
            f"{median(last) - median(first):+.1f} µs; the halves of the first differ by {same:.1f} µs"
        )
    with site(cache, "--penalise-loopback", token=TOKEN) as there:
        rows = [row, _guesses_of_another(there, guesses["last"])]
    return rows


def _guesses_of_another(there: Site, guess: str) -> Row:
    with watched(there, "A15 1,000 wrong tokens from an address that is not spared") as row:
        codes: Counter[str] = Counter()
        for _ in range(1000):
            with closing(Connection(raw(there, STRANGER))) as connection:
                with contextlib.suppress(OSError):
                    connection.sock.sendall(encode(Hello("le_net", "", "", [], guess), []))
                code, seconds = end_of(connection)
                codes[code] += 1
                row.count(code, ("TOKEN", "PENALTY", "CLOSED"), seconds)
        row.note = ", ".join(f"{number} {code}" for code, number in codes.most_common())
        if codes["CLOSED"]:
            row.note += "; CLOSED: what was sent met a closed socket, and the reset took the refusal with it"
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/hostile.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", default="A1,A2,A3,A4,A6,A7,A8,A9,A11,A13,A14,A15")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--loris", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.loris:
        print(flush=True)
        Loris(int(options.loris[0]), options.loris[1], encode(Hello("le_net", "", "", [], ""), [])).run()
        return 0
    torch.set_num_threads(1)
    known: dict[str, Callable[[Path], list[Row]]] = {
        "A1": lengths,
        "A2": caps,
        "A3": truncated,
        "A4": odd_sends,
        "A6": protocols,
        "A7": pickles,
        "A8": lambda cache: slow(cache, options.turns),
        "A9": never_read,
        "A11": shapes,
        "A13": bombs,
        "A14": idle,
        "A15": tokens,
    }
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in options.rows.split(","):
                rows += known[name](Path(folder))
    finally:
        os.sched_setaffinity(0, ALL_CORES)  # for the table to tell
        write_table("hostile", "What strangers can do", HEAD, [row.cells() for row in rows], NOTES)
    return int(not all(row.is_good for row in rows))


NOTES = [
    "`as they should`: refused with the code that fits and closed, or answered where the row says so. "
    "`good inferences`: asked by a good edge after the row, some also in it, and right. `worst time`: from the last "
    "byte sent until the refusal or the end, or as the row says. `peak RSS`: growth of the peak of the cloud over what "
    "it had when the row began, with what the good edge needs.",
    "",
    f"A8: the good edge was connected before; it asks {INFERENCES} times in each turn, with and without in turns, for "
    f"the last six layers of alex_net, and pauses {PACE_S * 1e3:.0f} ms between two. The bar is a ratio of p95 under "
    "1.2. Whoever is closed comes again in its next second. Other programs ran on the machine at the same time.",
]

if __name__ == "__main__":
    sys.exit(main())
