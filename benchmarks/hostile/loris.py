"""500 slow ones, in a process of their own:  python -m benchmarks.hostile.loris PORT SOURCE"""

import contextlib
import json
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.hostile.attacks import encode
from benchmarks.hostile.site import (
    HOST,
    Site,
    pin,
)
from edgecloud.net.messages import Hello
from edgecloud.utils.commands import ROOT

LORISES, SETTLE_S = 500, 3.0


class Loris:
    """Connections that each send a byte per second, and reconnect when they are closed. In a separate process."""

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
    command = [sys.executable, "-m", "benchmarks.hostile.loris", str(there.cloud.port), source]
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


if __name__ == "__main__":
    print(flush=True)
    Loris(int(sys.argv[1]), sys.argv[2], encode(Hello("le_net", "", "", [], ""), [])).run()
