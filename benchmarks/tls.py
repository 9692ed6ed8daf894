"""The cost of TLS.

    python -m benchmarks.tls

A 600 KB boundary over an emulated link of 20 mbit with and without TLS, in turns, each transfer from the first byte to
the acknowledgement. Also the same and the largest activation of VGG16 over loopback, where no link hides the cost, and
the time to open a connection. The sender and the receiver are two processes.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.fingerprint import write_table
from benchmarks.noise import Versus
from benchmarks.wire import BOUNDARY, LARGE, LINK, send_frame, soon
from edgecloud.client.subprocesses import emulated_link
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Infer, Probed
from edgecloud.net.server import Peer, Server
from edgecloud.net.tls import ClientTls, client_tls, server_context
from edgecloud.utils.commands import ROOT
from edgecloud.utils.units import format_bytes, format_seconds

HOST = "127.0.0.1"
REPEATS = {"link": 15, "loopback": 40, "connect": 40}
RECIPE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=benchmark"
TIMEOUT_S = 60.0


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """As SECURITY.md does it."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    files = ["-keyout", str(key), "-out", str(cert), "-addext", f"subjectAltName=IP:{HOST}"]
    subprocess.run([*RECIPE.split(), *files], check=True, capture_output=True)
    return cert, key


def serve(cert: str, key: str) -> None:
    """Acknowledge frames, with TLS where a certificate is given."""
    context = server_context(Path(cert), Path(key), None) if cert else None

    def answer(peer: Peer) -> None:
        if context is not None:
            peer.connection.secure(context, soon())
        while True:
            frame = peer.connection.receive(soon())
            frame.arrays()
            peer.connection.send(Probed(frame.read(Infer).id), soon())

    server = Server(HOST, 0, answer)
    print(server.open()[1], flush=True)
    server.serve()


@contextmanager
def receiver(cert: str = "", key: str = "") -> Iterator[int]:
    """A receiver's process; gives its port."""
    command = [sys.executable, "-m", "benchmarks.tls", "--serve", cert, key]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def compare(repeats: int, plain: Callable[[], float], tls: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns, after two turns that are not counted."""
    turns = [(plain(), tls()) for _ in range(repeats + 2)][2:]
    return [turn[0] for turn in turns], [turn[1] for turn in turns]


def row(what: str, times: tuple[list[float], list[float]]) -> list[str]:
    """Medians, and the ratio with its noise."""
    plain, tls = times
    spread = f"{format_seconds(min(tls))} .. {format_seconds(max(tls))}"
    return [what, format_seconds(median(plain)), format_seconds(median(tls)), spread, str(Versus.of(tls, plain))]


def transfer(name: str, shape: tuple[int, ...], repeats: int, plain: Connection, tls: Connection) -> list[str]:
    """One tensor over both connections."""
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    times = compare(repeats, lambda: send_frame(plain, array), lambda: send_frame(tls, array))
    return row(f"{name}, {format_bytes(array.nbytes)}", times)


def opening(port: int, tls: ClientTls | None) -> float:
    """Seconds until a connection is open."""
    started = time.perf_counter()
    connection = connect(HOST, port, TIMEOUT_S, tls=tls)
    took = time.perf_counter() - started
    connection.close()
    return took


def measure(folder: Path) -> list[list[str]]:
    """Every row."""
    cert, key = make_certificate(folder)
    trusted = client_tls(cert, None, None, HOST)
    with ExitStack() as stack:
        plain_port = stack.enter_context(receiver())
        tls_port = stack.enter_context(receiver(str(cert), str(key)))

        def both(plain: int, tls: int) -> tuple[Connection, Connection]:
            ends = connect(HOST, plain, TIMEOUT_S), connect(HOST, tls, TIMEOUT_S, tls=trusted)
            for end in ends:
                stack.callback(end.close)
            return ends

        near = both(plain_port, tls_port)
        links = [stack.enter_context(emulated_link(HOST, port, LINK)) for port in (plain_port, tls_port)]
        far = both(*(link.address()[1] for link in links))
        opened = compare(REPEATS["connect"], lambda: opening(plain_port, None), lambda: opening(tls_port, trusted))
        return [
            transfer(f"relay {LINK}", BOUNDARY, REPEATS["link"], *far),
            transfer("loopback", BOUNDARY, REPEATS["loopback"], *near),
            transfer("loopback", LARGE, REPEATS["loopback"], *near),
            row("loopback, open a connection", opened),
        ]


def main(argv: list[str]) -> int:
    """Measure and write benchmarks/results/tls.md."""
    if argv[:1] == ["--serve"]:
        with contextlib.suppress(KeyboardInterrupt):
            serve(argv[1], argv[2])
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    notes = [
        "The ratio is the median of the ratios of TLS to none of the same turn; the spread is that of TLS.",
        "TLS 1.3 with an EC P-256 certificate. A connection lives for many requests and is opened once.",
    ]
    write_table("tls", "Cost of TLS", ["what", "without", "with TLS", "spread", "ratio"], rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
