"""Does reconnecting give an advantage? Many clients that connect, ask for STATUS and leave without pause, and a
legitimate edge.

    python -m benchmarks.reconnecting [--clients 1000] [--seconds 8]

A cloud with default settings and le_net on loopback, which is one source. First one client asks on one connection
without pause: it gets the budget of a source. Then many clients open a new connection for every request. Reported are
the answers per second of both; the times of a legitimate edge that was connected before, with and without them; and how
long a new edge takes to be admitted and answered. With enough cores the clients and the cloud have one each.
"""

import argparse
import contextlib
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from benchmarks.hostile.attacks import encode
from benchmarks.hostile.site import HOST, Row, Site, pin, site
from benchmarks.noise import Figure, Versus
from edgecloud.net.connection import Connection
from edgecloud.net.frames import PREFIX_BYTES, FrameType
from edgecloud.net.messages import Status
from edgecloud.utils.commands import ROOT

PAUSE_S = 0.02
BAR, BAR_EDGE = 1.1, 1.5
ASK = encode(Status(), [])


class Clients:
    """Clients of one process: each asks, reads a frame or an end, and reconnects, or asks again if it is persistent."""

    def __init__(self, port: int, *, stay: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._port, self._stay = port, stay
        self._selector = selectors.DefaultSelector()

    def run(self, clients: int, seconds: float) -> None:
        """For so long."""
        for _ in range(clients):
            self._come()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in self._selector.select(0.1):
                self._serve(key.fileobj, key.data)  # type: ignore[arg-type]  # only sockets are registered
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _come(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((HOST, self._port))
        self._selector.register(sock, selectors.EVENT_WRITE, bytearray())

    def _again(self, sock: socket.socket, what: str) -> None:
        self.counts[what] += 1
        self._selector.unregister(sock)
        sock.close()
        self._come()

    def _serve(self, sock: socket.socket, got: bytearray) -> None:
        try:
            if self._selector.get_key(sock).events == selectors.EVENT_WRITE:
                sock.send(ASK)
                self._selector.modify(sock, selectors.EVENT_READ, got)
                return
            part = sock.recv(4096)
        except OSError:
            return self._again(sock, "lost")
        got += part
        if not part:
            return self._again(sock, "closed")
        whole = PREFIX_BYTES + int.from_bytes(got[8:12], "big") if len(got) >= PREFIX_BYTES else PREFIX_BYTES + 1
        if len(got) < whole:
            return None
        kind = FrameType(got[5]).name
        if not self._stay or kind != "STATE":
            return self._again(sock, kind)
        self.counts[kind] += 1
        del got[:whole]
        return self._selector.modify(sock, selectors.EVENT_WRITE, got) and None


@contextmanager
def coming(there: Site, clients: int, seconds: float, found: list[Counter[str]], *, stay: bool) -> Iterator[None]:
    """Clients in a separate process; the counts are in `found` once the context has ended."""
    pin(2)
    words = [str(there.cloud.port), str(clients), str(seconds), str(int(stay))]
    command = [sys.executable, "-m", "benchmarks.reconnecting", "--as-clients", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pin(0)
    assert process.stdout is not None
    process.stdout.readline()
    yield
    out, _ = process.communicate(timeout=seconds + 30)
    found.append(Counter(json.loads(out)))


def asked(there: Site, edge: Connection, seconds: float) -> list[float]:
    """Seconds of each inference of a legitimate edge."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        assert there.ask(edge), "a wrong answer"
        times.append(time.monotonic() - began)
        time.sleep(PAUSE_S)
    return times


def measure(there: Site, clients: int, seconds: float) -> tuple[list[list[str]], bool]:
    """The rows of the table, and whether all targets are met."""
    found: list[Counter[str]] = []
    with closing(there.handshake()) as edge:
        asked(there, edge, 1.0)
        quiet = asked(there, edge, seconds)
        with coming(there, 1, seconds, found, stay=True):
            beside_one = asked(there, edge, seconds - 1)
        time.sleep(3.0)  # until the budget is whole again
        news = Row("a new edge")
        with coming(there, clients, seconds, found, stay=False):
            before_s = there.cpu_s()
            beside_all = asked(there, edge, seconds - 3)
            share = (there.cpu_s() - before_s) / (seconds - 3)
            new_s = there.check(news)
    rates = [one["STATE"] / seconds for one in found]
    medians = [float(np.median(times)) for times in (quiet, beside_one, beside_all)]
    p95 = [float(np.percentile(times, 95)) for times in (quiet, beside_one, beside_all)]
    names = ("none", "1 persistent", f"{clients} reconnecting")
    notes = (
        "",
        "",
        f"a new edge was answered in {new_s * 1e3:.0f} ms; {share:.0%} of a core; "
        + ", ".join(f"{n} {k}" for k, n in found[1].items()),
    )
    rows = [
        [name, rate, f"{median * 1e3:.1f} ms", f"{late * 1e3:.1f} ms", note]
        for name, rate, median, late, note in zip(
            names, ("-", *(f"{rate:.1f}/s" for rate in rates)), medians, p95, notes, strict=True
        )
    ]
    beside = Versus.of_figures(*(Figure.of_blocks(times) for times in (beside_all, quiet)))
    rows[-1][-1] += f"; the edge's median relative to none: {beside}"
    is_good = rates[1] <= BAR * rates[0] and medians[2] <= BAR_EDGE * medians[0] and news.survived == news.checks
    return rows, is_good


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/reconnecting.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reconnecting", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--as-clients", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.as_clients:
        port, clients, seconds, stay = options.as_clients
        print(flush=True)
        crowd = Clients(int(port), stay=stay == "1")
        crowd.run(int(clients), float(seconds))
        print(json.dumps(crowd.counts), flush=True)
        return 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, site(Path(folder)) as there:
        rows, is_good = measure(there, options.clients, options.seconds)
    for row in rows:
        print(" | ".join(row), file=sys.stderr)
    head = ["clients", "STATUS answered", "legitimate edge, median", "p95", ""]
    write_table(
        "reconnecting", "Reconnecting gives no advantage", head, rows, [f"Targets met: {'yes' if is_good else 'NO'}."]
    )
    return int(not is_good)


if __name__ == "__main__":
    sys.exit(main())
