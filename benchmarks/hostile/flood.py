"""A16: a client with a correct HELLO that then asks without pause."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile.pace import good_request, timed
from benchmarks.hostile.site import HOST, Row, Site, pin, site, soon, watched
from benchmarks.noise import Versus
from edgecloud.net import plain_pickle
from edgecloud.net.connection import connect
from edgecloud.net.frames import FrameType, Limits, pack_prefix
from edgecloud.net.messages import Hello, Infer, Message, Probe, Ready, Status, to_header
from edgecloud.utils.commands import ROOT

BLOCK = 16  # frames in one send
KINDS: dict[str, tuple[Message, bool]] = {
    "STATUS": (Status(), False),
    "STATUS with the largest header": (Status(), True),
    "refused INFERs with the largest header": (Infer(1, [[1, 9999]], 30.0), True),
    "PROBEs": (Probe(1, 0), False),
}
BAR = 2.0


def frame(message: Message, *, is_padded: bool) -> bytes:
    """A frame without a payload; padded with a field that nobody knows, of what is slow to read, to the limit."""
    fields: dict[str, Any] = to_header(message)
    if is_padded:
        room = Limits().header_of(message.TYPE)
        rest = room - len(plain_pickle.dumps(fields | {"x": [None] * 1001})) + 1001
        fields["x"] = [None] * rest
        while len(plain_pickle.dumps(fields)) > room:
            fields["x"].pop()
    header = plain_pickle.dumps(fields)
    return pack_prefix(FrameType(message.TYPE), len(header), 0) + header


def flood(port: int, message: Message, hello: Hello, *, is_padded: bool) -> list[int]:
    """Ask until standard input closes; returns how many frames were sent, and how many bytes came back."""
    connection = connect(HOST, port, 5.0)
    connection.send(hello, soon(120))
    connection.receive(soon(120)).read(Ready)
    received = [0]

    def drop() -> None:
        with contextlib.suppress(OSError):
            connection.sock.settimeout(None)
            while got := len(connection.sock.recv(1 << 16)):
                received[0] += got

    one, sent = frame(message, is_padded=is_padded), 0
    threading.Thread(target=drop, daemon=True).start()
    ended = threading.Event()
    print(flush=True)
    connection.sock.settimeout(None)

    def end() -> None:
        sys.stdin.read()
        ended.set()
        connection.close()

    threading.Thread(target=end, daemon=True).start()
    with contextlib.suppress(OSError):
        while not ended.is_set():
            connection.sock.sendall(one * BLOCK)
            sent += BLOCK
    return [sent, received[0]]


@contextmanager
def flooding(there: Site, kind: str, found: list[list[int]]) -> Iterator[None]:
    """One attacker, for as long as the context lasts."""
    pin(2)
    said = [there.hello.model, there.hello.weights, there.hello.graph]
    command = [sys.executable, "-m", "benchmarks.hostile.flood", str(there.cloud.port), kind, *said]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pin(0)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1.0)
        yield
    finally:
        out, _ = process.communicate(timeout=30)
        found.append(json.loads(out))


def floods(cache: Path, turns: int) -> list[Row]:
    """The latency of a legitimate edge under each kind of flood."""
    with site(cache) as there:
        return [_flooded(there, kind, turns) for kind in KINDS]


def _flooded(there: Site, kind: str, turns: int) -> Row:
    request, x = good_request(there)
    found: list[list[int]] = []
    times: list[list[list[float]]] = [[], []]
    with watched(there, f"A16 one that floods: {kind}") as row, closing(there.handshake()) as edge:
        timed(edge, request, x, row)
        for _ in range(turns):
            times[0].append(timed(edge, request, x, row))
            began = time.monotonic()
            with flooding(there, kind, found):
                times[1].append(timed(edge, request, x, row))
            found[-1].append(round(time.monotonic() - began))
    _tell(row, times, found)
    return row


def _tell(row: Row, times: Sequence[Sequence[Sequence[float]]], found: Sequence[Sequence[int]]) -> None:
    p95 = [float(np.percentile([t for turn in turns for t in turn], 95)) * 1e3 for turns in times]
    ratios = [float(np.percentile(b, 95) / np.percentile(a, 95)) for a, b in zip(*times, strict=True)]
    row.count("p95 is good" if p95[1] / p95[0] < BAR else "p95 over the target", ["p95 is good"])
    row.worst_s = max(t for turn in times[1] for t in turn)
    sent, seconds = (sum(one[n] for one in found) for n in (0, 2))
    row.note = (
        f"p95 of the legitimate edge {p95[0]:.1f} ms without, {p95[1]:.1f} ms with, ratio {p95[1] / p95[0]:.2f} "
        f"(by turns {Versus.of_ratios(ratios)}); {sent / max(1, seconds):.0f} frames/s left the "
        "attacker, some of them for buffers; the time is the legitimate edge's worst"
    )


if __name__ == "__main__":
    port, kind, model, digest, graph = sys.argv[1:]
    message, is_padded = KINDS[kind]
    hello = Hello(model, digest, graph, ["raw"], "")
    print(json.dumps(flood(int(port), message, hello, is_padded=is_padded)), flush=True)
