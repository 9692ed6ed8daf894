"""A1 to A4: lengths that lie, frames that end early, frames in odd pieces."""

import contextlib
import random
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.hostile.attacks import encode
from benchmarks.hostile.site import (
    QUICK,
    TOKEN,
    UNPACED,
    Row,
    Site,
    end_of,
    expected_end,
    provoke,
    raw,
    site,
    soon,
    watched,
)
from edgecloud.net import plain_pickle
from edgecloud.net.connection import Connection
from edgecloud.net.frames import FrameType, Limits, pack_prefix
from edgecloud.net.messages import Probe, Probed, Ready
from edgecloud.utils.errors import AppError

CAP, SMALL_CAP = Limits().payload_bytes, 1 << 20
RST = struct.pack("ii", 1, 0)


def lengths(cache: Path) -> list[Row]:
    """A1: lengths that are over the cap, and nothing behind them."""
    rows = []
    over = (CAP + 1, 1 << 40, 1 << 63, (1 << 64) - 1)
    headers = (Limits().header_bytes + 1, 1 << 31, (1 << 32) - 1)
    with site(cache, *UNPACED) as there:
        for name, is_connected in (("before HELLO", False), ("after HELLO", True)):
            with watched(there, f"A1 payload lengths 2^26+1, 2^40, 2^63, 2^64-1, {name}") as row:
                for kind in (FrameType.INFER, FrameType.PROBE):
                    for size in over * 25:
                        provoke(there, row, pack_prefix(kind, 10, size), "TOO_LARGE", is_connected=is_connected)
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
    with site(cache, *UNPACED, "--max-payload", f"{SMALL_CAP >> 10}KiB", *QUICK) as there:
        with watched(there, "A2 probes of the cap - 1 and the cap (1 MiB): answered") as row:
            for size in (SMALL_CAP - 1, SMALL_CAP) * 20:
                with closing(there.handshake()) as connection:
                    began = time.monotonic()
                    connection.send_bytes(Probe(7, 10), memoryview(bytes(size)), soon())
                    answer = connection.receive(soon())
                    row.count(str(answer.read(Probed).id), ["7"], time.monotonic() - began)
        rows.append(row)
        header = plain_pickle.dumps({"id": 7, "reply_bytes": 10})
        data = pack_prefix(FrameType.PROBE, len(header), SMALL_CAP + 1) + header + bytes(SMALL_CAP + 1)
        with watched(there, "A2 probes of the cap + 1, all of it sent") as row:
            for _ in range(20):
                provoke(there, row, data, "TOO_LARGE", is_connected=True)
        rows.append(row)
    with site(cache, *UNPACED, token=TOKEN) as there:
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
        clients = [stack.enter_context(closing(Connection(raw(there)))) for _ in range(16)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sock.sendall(data + bytes(CAP - 1))
        for client in clients:
            row.count(*expected_end(end_of(client), ("DEADLINE", "PROTOCOL", "TOO_LARGE")))
        row.note = "cloud with a token; --hello-timeout is 10 s"
    return row


def truncated(cache: Path) -> list[Row]:
    """A3: frames that end early, in good order or not."""
    rows = []
    with site(cache, *UNPACED, *QUICK) as there:
        frames = (("HELLO", encode(there.hello, []), False), ("INFER", encode(there.infer, [there.x]), True))
        for kind, data, is_connected in frames:
            offsets = _offsets(len(data))
            for ending in ("FIN", "RST"):
                name = f"A3 {kind} of {len(data)} bytes cut at {_how_many(offsets, data)} offsets, then {ending}"
                with watched(there, name) as row:
                    base = there.held()
                    for offset in offsets:
                        _cut(there, row, data[:offset], ending, is_connected=is_connected)
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


def _cut(there: Site, row: Row, data: bytes, ending: str, *, is_connected: bool) -> None:
    try:
        connection = there.handshake() if is_connected else Connection(raw(there))
    except AppError as error:
        row.count(f"no HELLO: {error.code}", ())
        return
    with closing(connection):
        connection.sock.sendall(data)
        if ending == "RST":
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            connection.sock.close()
            row.count("", [""])
        else:
            connection.sock.shutdown(socket.SHUT_WR)
            row.count(*expected_end(end_of(connection), ("CLOSED", "PROTOCOL")))


def odd_sends(cache: Path) -> list[Row]:
    """A4: good frames in odd pieces have the right answers."""
    with site(cache, *UNPACED) as there:
        data = encode(there.infer, [there.x])
        with watched(there, f"A4 HELLO and INFER ({len(data)} bytes) one byte at a time") as single:
            for _ in range(5):
                with closing(Connection(raw(there))) as connection:
                    began = time.monotonic()
                    _dribble(connection, encode(there.hello, []))
                    connection.receive(soon()).read(Ready)
                    _dribble(connection, data)
                    single.count(str(there.is_right(connection)), ["True"], time.monotonic() - began)
        with (
            watched(there, "A4 INFER in two sends, split everywhere") as split,
            closing(there.handshake()) as connection,
        ):
            for offset in range(1, len(data), 3):
                connection.sock.sendall(data[:offset])
                time.sleep(0.0005)
                connection.sock.sendall(data[offset:])
                began = time.monotonic()
                split.count(str(there.is_right(connection)), ["True"], time.monotonic() - began)
            split.note = "every third boundary"
        with watched(there, "A4 50 INFERs in one send") as many, closing(there.handshake()) as connection:
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
