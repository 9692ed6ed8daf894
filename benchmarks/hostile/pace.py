"""A8, A9, A14: clients that are slow, that never read, that only connect."""

import contextlib
import select
import socket
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from benchmarks.hostile.attacks import encode
from benchmarks.hostile.loris import LORISES, lorises
from benchmarks.hostile.site import (
    ATTACKER,
    HOST,
    QUICK,
    Row,
    Site,
    end_of,
    raw,
    site,
    soon,
    watched,
)
from benchmarks.noise import Versus
from edgecloud.net.connection import Connection
from edgecloud.net.messages import Infer, Probe, Ready
from edgecloud.utils.errors import AppError

INFERENCES, PACE_S = 200, 0.02
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def slow(cache: Path, turns: int) -> list[Row]:
    """A8: slow clients, and a legitimate edge that was connected before."""
    cases = (
        ("--max-connections 600, so that all are admitted", ("--max-connections", "600"), HOST),
        ("default settings, loopback being exempt", (), HOST),
        ("from another address that is not exempt", ("--penalise-loopback",), ATTACKER),
    )
    rows = []
    for name, flags, source in cases:
        with site(cache, *flags, name="alex_net") as there:
            rows.append(_slow(there, f"A8 500 of a byte a second: {name}", source, turns))
    with site(cache) as there:
        rows.append(_slow_bodies(there))
    return rows


def good_request(there: Site) -> tuple[Infer, Floats]:
    """What the legitimate edge requests repeatedly: the last six layers; and their input."""
    graph = there.network.traced.graph
    first = len(graph.layers) - 6
    (shape,) = [graph.layers[number].out_shape for number in graph.inputs_of(frozenset(range(first, first + 6)))]
    return Infer(1, [[first, first + 6]], 30.0), np.ones(shape, np.float32)


def _slow(there: Site, name: str, source: str, turns: int) -> Row:
    request, x = good_request(there)
    found: list[list[float]] = []
    times: list[tuple[list[float], list[float]]] = []
    new_ones = [0, 0]
    with watched(there, name) as row, closing(there.handshake()) as edge:
        timed(edge, request, x, row)
        for _ in range(turns):
            without = timed(edge, request, x, row)
            with lorises(there, source, found):
                times.append((without, timed(edge, request, x, row)))
                new_ones[0] += 5
                let_in = sum(_gets_in(there) for _ in range(5))
                row.count(f"{let_in} of 5 new edges let in", ["5 of 5 new edges let in"])
                new_ones[1] += let_in
            there.until_held((there.held()[0] - LORISES, 0), 3.0)
        _tell_slow(row, times, found, new_ones)
    return row


def _tell_slow(
    row: Row, times: list[tuple[list[float], list[float]]], found: list[list[float]], new_ones: list[int]
) -> None:
    ratios = [float(np.percentile(b, 95) / np.percentile(a, 95)) for a, b in times]
    p95 = [np.percentile([t for turn in times for t in turn[n]], 95) * 1e3 for n in (0, 1)]
    row.count("p95 is good" if p95[1] / p95[0] < 1.2 else "p95 over the target", ["p95 is good"])
    row.worst_s = max(one[3] for one in found)
    closed, connects = (int(sum(one[n] for one in found)) for n in (1, 0))
    row.note = (
        f"p95 of the legitimate edge {p95[0]:.1f} ms without, {p95[1]:.1f} ms with, ratio {p95[1] / p95[0]:.2f} "
        f"(by turns {Versus.of_ratios(ratios)}); {connects} connections, {closed} of them "
        f"closed by the cloud meanwhile; the time is the longest that one was held; {new_ones[1]}/{new_ones[0]} "
        "new legitimate edges were admitted"
    )


def timed(edge: Connection, request: Infer, x: Floats, row: Row) -> list[float]:
    """Seconds of each of some good requests."""
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
        there.handshake().close()
    except AppError:
        return False
    return True


def _slow_bodies(there: Site) -> Row:
    data = encode(there.infer, [there.x])
    with watched(there, "A8 20 known ones that send a byte a second of an INFER") as row, ExitStack() as stack:
        slow_ones = [stack.enter_context(closing(there.handshake())) for _ in range(20)]
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
                row.note = "until the cloud has released them; a legitimate edge was answered meanwhile"
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


def idle(cache: Path) -> list[Row]:
    """A14: a thousand that come and stay."""
    rows = []
    with site(cache, *QUICK) as there, closing(there.handshake()) as edge:
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
