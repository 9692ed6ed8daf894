"""A20: the port of gRPC."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from hpack.exceptions import HPACKError

from benchmarks.hostile.attacks import encode
from benchmarks.hostile.http2_frames import Flag, Kind, Setting, called, frames_in, listed, pack, said
from benchmarks.hostile.http2_frames import data_of as message
from benchmarks.hostile.site import QUICK, UNPACED, Row, Site, raw, site, soon, watched
from edgecloud.net.calls import PATH
from edgecloud.net.connection import connect
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.http2 import MESSAGE_BYTES, PREFACE
from edgecloud.net.messages import Probe, Ready
from edgecloud.utils.errors import AppError

REPEATS = 20
CLIENTS = 16
MOST_S = 15.0
REFUSED_STREAM = b"\0\0\0\7"
HEADERS = listed([(b":method", b"POST"), (b":scheme", b"http"), (b":path", PATH.encode()), (b":authority", b"x")])

START = called()
REFUSED: dict[str, tuple[bytes, bytes]] = {
    "GET / HTTP/1.1": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"not gRPC"),
    "random bytes": (b"\xaa" + os.urandom(2000), b"not gRPC"),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(500), b"TLS handshake"),
    "frames without gRPC": (b"ECCI\x01\x01" + bytes(14), b"--transport grpc"),
    "garbage behind the preface": (PREFACE + b"\xff" * 2000, b"PROTOCOL"),
    "another method": (called(PATH[:-1] + "x"), b"no such method"),
    "garbage in the stream": (START + message(os.urandom(500)), b"BAD_MAGIC"),
    "a HELLO header of 2 GiB": (START + message(pack_prefix(FrameType.HELLO, 1 << 31, 0)), b"TOO_LARGE"),
    "a PROBE of 64 MiB before HELLO": (START + message(pack_prefix(FrameType.PROBE, 10, 64 << 20)), b"PROTOCOL"),
    "a message of 2 GiB": (START + pack(Kind.DATA, 0, 1, struct.pack(">BI", 0, 1 << 31)), b"the limit is"),
    "a message over 4 MiB": (START + pack(Kind.DATA, 0, 1, struct.pack(">BI", 0, MESSAGE_BYTES + 1)), b"the limit is"),
    "a compressed message": (START + pack(Kind.DATA, 0, 1, b"\1\0\0\0\1x"), b"compressed"),
    "a frame of 16 MiB": (START + b"\xff\xff\xff\0\0\0\0\0\1", b"an HTTP/2 frame"),
    "headers without end": (
        START + pack(Kind.HEADERS, 0, 3) + pack(Kind.CONTINUATION, 0, 3, bytes(4000)) * 50,
        b"headers of more than",
    ),
    "headers of 21 KB in 2 KB": (
        START + pack(Kind.HEADERS, Flag.END_HEADERS, 3, b"\x40\x01a\x7f\x80\x10" + bytes(2175) + b"\xbe" * 10),
        b"PROTOCOL",
    ),
    "50,000 pings": (START + pack(Kind.PING, 0, 0, bytes(8)) * 50_000, b"too m"),
    "50,000 settings": (START + said([(Setting.INITIAL_WINDOW_SIZE, 0)]) * 50_000, b"too m"),
    "50,000 empty frames": (START + pack(Kind.DATA, 0, 1) * 50_000, b"too many HTTP/2 frames"),
    "50,000 streams, each reset": (
        START
        + b"".join(
            pack(Kind.HEADERS, Flag.END_HEADERS, number, HEADERS) + pack(Kind.RST_STREAM, 0, number, bytes(4))
            for number in range(3, 100_003, 2)
        ),
        b"too many streams",
    ),
    "a window of 4 GiB": (called(settings=[(Setting.INITIAL_WINDOW_SIZE, (1 << 32) - 1)]), b"PROTOCOL"),
}  # fmt: skip
"""What is sent, and what the answer holds."""


def end_of(sock: socket.socket) -> bytes:
    """All that comes until the end, or b"OPEN"."""
    found = b""
    sock.settimeout(MOST_S)
    try:
        while got := sock.recv(1 << 16):
            found += got
    except TimeoutError:
        return b"OPEN"
    except OSError:
        pass
    return found


@contextmanager
def grpc_site(cache: Path, *flags: str) -> Iterator[tuple[Site, Site]]:
    """A cloud that also takes gRPC: its ordinary port, where the legitimate edge is, and a place of the other one."""
    with site(cache, "--grpc-port", "0", *flags) as there:
        assert there.cloud.process.stdout is not None
        line = there.cloud.process.stdout.readline()
        assert line.startswith("gRPC on "), line
        near = Site(there.cloud, there.network, there.token, int(line.rpartition(":")[2]))
        yield there, near


def streams(cache: Path) -> list[Row]:
    """A20: refused, or held no longer than others are, and no memory taken."""
    rows = []
    with grpc_site(cache, *UNPACED, *QUICK) as (there, near):
        for name, (data, words) in REFUSED.items():
            with watched(there, f"A20 gRPC: {name}") as row:
                for _ in range(REPEATS):
                    _provoke(near, row, data, words)
            rows.append(row)
        rows += [_silent(there, near), _half(there, near), _many(there, near), _unread(there, near)]
    return rows


def _provoke(near: Site, row: Row, data: bytes, words: bytes) -> None:
    with closing(raw(near)) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        began = time.monotonic()
        found = _read(end_of(sock))
        row.count("as expected" if words in found else repr(found[-60:]), ["as expected"], time.monotonic() - began)


def _read(found: bytes) -> bytes:
    """What was said, with what its headers say, which are packed."""
    with contextlib.suppress(ValueError, struct.error, HPACKError):  # it may be another protocol
        return b" ".join([found, *(payload for kind, payload in frames_in(found) if kind == Kind.HEADERS)])
    return found


def _silent(there: Site, near: Site) -> Row:
    """In every place where something is waited for; all at once, while legitimate edges of gRPC come and go."""
    starts = [b"", PREFACE[:9], PREFACE, START[:40], START, START + message(b"ECC"), START + message(b"ECCI")[:7]]
    with watched(there, "A20 gRPC: silence in seven places, 35 at once") as row, ExitStack() as stack:
        socks = [stack.enter_context(closing(raw(near))) for _ in starts * 5]
        for sock, start in zip(socks, starts * 5, strict=True):
            sock.sendall(start)
        began = time.monotonic()
        for _ in range(5):
            row.checks += 1
            row.survived += _good(near)
        for sock in socks:
            found = end_of(sock)
            row.count("closed" if found != b"OPEN" else "OPEN", ["closed"], time.monotonic() - began)
        row.note = "--hello-timeout is 2 s; the time is that until all were closed"
    return row


def _good(near: Site) -> bool:
    """A legitimate edge of gRPC."""
    try:
        with closing(connect(*near.address, 5.0, transport="grpc")) as connection:
            connection.send(near.hello, soon())
            connection.receive(soon()).read(Ready)
            return near.ask(connection)
    except AppError as error:
        print(f"gRPC: {error}")
        return False


def _half(there: Site, near: Site) -> Row:
    """A HELLO, cut at every byte of what travels."""
    data = START + message(encode(near.hello, []))
    with watched(there, f"A20 gRPC: a HELLO cut at {len(data) // 7} offsets, then FIN") as row:
        base = there.held()
        for place in range(0, len(data), 7):
            with closing(raw(near)) as sock:
                sock.sendall(data[:place])
                sock.shutdown(socket.SHUT_WR)
                began = time.monotonic()
                found = end_of(sock)
                row.count("closed" if found != b"OPEN" else "OPEN", ["closed"], time.monotonic() - began)
        _, left = there.until_held(base)
        row.note = f"descriptors and threads left over: {left}"
    return row


def _many(there: Site, near: Site) -> Row:
    """Hundreds of streams on one connection, of which one is taken."""
    wire = START + b"".join(pack(Kind.HEADERS, Flag.END_HEADERS, 3 + 2 * number, HEADERS) for number in range(50))
    with watched(there, "A20 gRPC: 51 streams on each of 16 connections") as row, ExitStack() as stack:
        socks = [stack.enter_context(closing(raw(near))) for _ in range(CLIENTS)]
        for sock in socks:
            sock.sendall(wire + message(encode(near.hello, [])))
        row.checks += 1
        row.survived += _good(near)
        base = there.cloud.threads
        for sock in socks:
            sock.settimeout(MOST_S)
            found, began = b"", time.monotonic()
            while b"seconds" not in found and (got := sock.recv(1 << 16)):  # a field of READY
                found += got
            refused = sum(pack(Kind.RST_STREAM, 0, 3 + 2 * number, REFUSED_STREAM) in found for number in range(50))
            taken = b"seconds" in found
            row.count(f"{taken:d} taken, {refused} refused", ["1 taken, 50 refused"], time.monotonic() - began)
        row.note = f"{there.cloud.threads - base:+d} threads"
    return row


def _unread(there: Site, near: Site) -> Row:
    """Answers are asked for, and there is no window for them, or nobody reads."""
    probes = b"".join(encode(Probe(number, 1 << 20), []) for number in range(200))
    name = "A20 gRPC: 200 probes of 1 MiB, a window of 3 kB for the answers, 16 at once"
    with watched(there, name) as row, ExitStack() as stack:
        socks = [stack.enter_context(closing(raw(near))) for _ in range(CLIENTS)]
        for sock in socks:
            sock.sendall(
                called(settings=[(Setting.INITIAL_WINDOW_SIZE, 3_000)])
                + message(encode(near.hello, []))
                + message(probes)
            )
        row.checks += 1
        row.survived += _good(near)
        began = time.monotonic()
        for sock in socks:
            row.count("closed" if end_of(sock) != b"OPEN" else "OPEN", ["closed"], time.monotonic() - began)
        row.note = "--min-rate is 1 kB/s, after 5 s"
    return row
