"""Sending a network to a cloud that does not have it: how fast, what after a break, and who notices.

    python -m benchmarks.shipping [--small FILE.bundle] [--large FILE.bundle] [--rounds 3]

The link is emulated (lab.relay), 20 mbit with 20 ms. `goodput` is told by turns: the small network, and as many bytes
over a plain TCP connection through the same link. The large network (alex_net, 244 MB) is sent by one edge that answers
meanwhile, while another edge, in a process of its own and not behind that link, asks the same cloud for inferences; the
first one is stopped and goes on by turns.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from benchmarks.clouds import CloudProcess, running_cloud
from benchmarks.fingerprint import write_table
from benchmarks.noise import Versus
from edgecloud.client.parcels import Parcel
from edgecloud.client.shipping import Shipping
from edgecloud.client.subprocesses import Child
from edgecloud.models import bundle, bundle_network
from edgecloud.utils.errors import AppError

LINK, LINK_BYTES_PER_S = "20mbit,20ms", 2.5e6
PAUSE_S = 0.01
BLOCK_S = 4.0
EDGE = """
import json, sys, time
import edgecloud as ec
net = ec.load(sys.argv[1])
began = time.perf_counter()
with ec.Edge(net, cloud=sys.argv[2], cache_dir=sys.argv[3], timeout="30s", point=0) as edge:
    while True:
        answer = edge(net.sample)
        print(json.dumps([time.perf_counter() - began, answer.completed_by]), flush=True)
        if answer.completed_by in ("cloud", "split"):
            break
        time.sleep(0.1 if time.perf_counter() - began < 5 else 2.0)
"""

WARM = """
import sys
import edgecloud as ec
ec.Edge(ec.load(sys.argv[1]), cloud=None, cache_dir=sys.argv[2]).close()
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/shipping.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shipping", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", type=Path)
    parser.add_argument("--large", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = options.small or _exported("mobile_net", folder)
        rows += _speeds(small, folder, options.rounds)
        rows += _breaks(small, folder)
        if options.large or not options.small:
            rows += _beside(options.large or _exported("alex_net", folder), folder)
    write_table("shipping", "Sending a network", ["", "", "bar"], rows, NOTES)
    return 0


NOTES = [
    "`p95` is that of an edge that asks all the time for all layers of le_net, by turns of "
    f"{BLOCK_S:.0f} s while the other edge sends and while it is stopped. The one that sends asks every 2 s after the "
    "first 5 s: it runs on the same machine, and what it computes itself would be measured too."
]


def _exported(name: str, folder: Path) -> Path:
    path = folder / f"{name}.bundle"
    subprocess.run([sys.executable, "deployment.py", "export", "-t", name, "-o", str(path)], check=True)
    return path


def _parcel(path: Path) -> Parcel:
    network = bundle_network.read(path)
    found = bundle.outline_of(path)
    return Parcel(path, found.digest, found.head_bytes, found.bytes, tuple(network.whole(network.example.fed)))


@contextmanager
def _cloud(folder: Path, store: str) -> Iterator[CloudProcess]:
    flags = (
        "--accept-networks",
        "--network-store",
        str(folder / store),
        "--models",
        "le_net",
        "--log-level",
        "error",
        "--threads",
        "1",
    )
    with running_cloud(folder / "cache", *flags) as cloud:
        yield cloud


@contextmanager
def _link(port: int) -> Iterator[tuple[str, int]]:
    child = Child(["-m", "edgecloud.lab.relay", "--to", "127.0.0.1", str(port), "--link", LINK, "--exit-on-stdin-eof"])
    try:
        yield child.address()
    finally:
        child.stop()


def _ship(address: tuple[str, int], parcel: Parcel, until_share: float = 2.0) -> tuple[Shipping, float]:
    """Send a network, up to a share of it; returns the seconds until the last byte had an answer."""
    shipping = Shipping(address, "", None, {"it": lambda _: parcel})
    asked = AppError("refused")
    asked.accepts = 1 << 40
    shipping.takes(asked, "it")
    while shipping.is_busy:
        progress = shipping.progress
        if progress is not None and progress.bytes and progress.have > until_share * progress.bytes:
            shipping.leave()
        time.sleep(0.005)
    return shipping, 0.0 if shipping.progress is None else shipping.progress.seconds


def _speeds(path: Path, folder: Path, rounds: int) -> list[list[str]]:
    parcel = _parcel(path)
    ours: list[float] = []
    plain: list[float] = []
    for number in range(rounds):
        with _cloud(folder, f"speed{number}") as cloud, _link(cloud.port) as address:
            shipping, seconds = _ship(address, parcel)
            assert shipping.progress is not None
            ours.append(shipping.progress.sent / seconds)
        plain.append(_plain(parcel.bytes))
    share = float(np.median(ours) / np.median(plain))
    told = f"{np.median(ours) * 8 / 1e6:.2f} of {np.median(plain) * 8 / 1e6:.2f} Mb/s: {share:.3f}"
    every = ", ".join(f"{one / other:.3f}" for one, other in zip(ours, plain, strict=True))
    return [[f"goodput, {parcel.bytes / 1e6:.1f} MB, {rounds} rounds", f"{told} ({every})", ">= 0.9"]]


def _plain(size: int) -> float:
    """Bytes per second of one TCP connection over the same link, until the last one has arrived."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drain() -> None:
            sock, _ = server.accept()
            with sock:
                left = size
                while left > 0 and (data := sock.recv(1 << 16)):
                    left -= len(data)
                sock.sendall(b"x")

        thread = threading.Thread(target=drain, daemon=True)
        thread.start()
        with _link(server.getsockname()[1]) as address, socket.create_connection(address) as sock:
            began = time.perf_counter()
            sock.sendall(bytes(size))
            sock.recv(1)
            return size / (time.perf_counter() - began)


def _breaks(path: Path, folder: Path) -> list[list[str]]:
    parcel = _parcel(path)
    with _cloud(folder, "breaks") as cloud, _link(cloud.port) as address:
        first, _ = _ship(address, parcel, 0.5)
        second, _ = _ship(address, parcel)
        third, _ = _ship(address, parcel)
    assert first.progress is not None
    assert second.progress is not None
    assert third.progress is not None
    share = 100 / parcel.bytes
    told = f"{first.progress.sent * share:.1f} % + {second.progress.sent * share:.1f} %, {second.progress.state}"
    return [
        ["broken off at 50 %, then again: sent", told, "100 %"],
        ["another start: sent", f"{third.progress.sent} B, {third.progress.state}", "0 B"],
    ]


def _beside(path: Path, folder: Path) -> list[list[str]]:
    size = path.stat().st_size
    _warm(path, folder)
    with _cloud(folder, "beside") as cloud, _link(cloud.port) as (host, port):
        command = [sys.executable, "-c", EDGE, str(path), f"{host}:{port}", str(folder / "edge")]
        edge = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        times: dict[bool, list[list[float]]] = {True: [], False: []}
        answers: list[tuple[float, str]] = []
        reader = threading.Thread(target=_read, args=(edge, answers), daemon=True)
        reader.start()
        good = _Good(cloud.port)
        end = time.monotonic() + 420
        while edge.poll() is None and time.monotonic() < end and not _is_sent(folder, size):
            for sends in (True, False):
                edge.send_signal(signal.SIGCONT if sends else signal.SIGSTOP)
                time.sleep(0.3)
                times[sends].append(good.ask(BLOCK_S))
        edge.send_signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            edge.wait(120)
        edge.kill()
        reader.join(5)
    blocks = {sends: [float(np.percentile(block, 95)) for block in each] for sends, each in times.items()}
    p95 = {sends: float(np.median(each)) for sends, each in blocks.items()}
    alone = [moment for moment, by in answers if by == "fallback"]
    told = f"{alone[0]:.2f} s after it connects, {len(alone)} answers meanwhile, the last by `{answers[-1][1]}`"
    ratio = f"{p95[True] * 1e3:.2f} against {p95[False] * 1e3:.2f} ms: {Versus.of(blocks[True], blocks[False])} x"
    return [
        [f"p95 of another edge beside, {len(times[True])} blocks each", ratio, "<= 1.15 x"],
        [f"first answer of the edge that sends {size / 1e6:.0f} MB", told, "first second"],
    ]


def _warm(path: Path, folder: Path) -> None:
    """Measure the layers on this side before, as every start but the first finds it."""
    code = (
        "import sys\nimport edgecloud as ec\nec.Edge(ec.load(sys.argv[1]), cloud=None, cache_dir=sys.argv[2]).close()"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(folder / "edge")], check=True)


def _is_sent(folder: Path, size: int) -> bool:
    return any(one.stat().st_size == size for one in (folder / "beside").glob("*.bundle"))


def _read(edge: "subprocess.Popen[str]", answers: list[tuple[float, str]]) -> None:
    assert edge.stdout is not None
    for line in edge.stdout:
        moment, by = json.loads(line)
        answers.append((moment, by))


class _Good:
    """An edge that asks for all layers of le_net over and over, in this process, which does nothing else meanwhile."""

    def __init__(self, port: int) -> None:
        import edgecloud as ec

        os.environ.pop("EDGE_CLOUD_TOKEN", None)
        self._net = ec.load("le_net")
        self._edge = ec.Edge(self._net, cloud=f"127.0.0.1:{port}", point=0, threads=1)
        self.ask(1.0)

    def ask(self, seconds: float) -> list[float]:
        """How long every answer took."""
        took, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            self._edge(self._net.sample)
            took.append(time.perf_counter() - began)
            time.sleep(PAUSE_S)
        return took


if __name__ == "__main__":
    sys.exit(main())
