"""The cost of gRPC.

    python -m benchmarks.transports [--quick]

Tensors over TCP and in a stream of gRPC, in turns, each from its first byte to the acknowledgement: over loopback,
where no link hides the cost, and over an emulated link of 20 mbit; the time until a connection has its first answer;
what both take the emulated link to be. The sender and the receiver are two processes. Where grpcio is installed, the
same with its client and its server between two ordinary connections (docs/decisions/0038).
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import numpy as np

from benchmarks.fingerprint import write_table
from benchmarks.noise import Versus
from benchmarks.wire import BOUNDARY, LARGE, LINK, TIMEOUT_S, send_frame, soon
from edgecloud.client.subprocesses import emulated_link
from edgecloud.net.calls import PATH
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import FrameType
from edgecloud.net.link import Prober
from edgecloud.net.messages import Infer, Probe, Probed
from edgecloud.net.server import Peer, Server
from edgecloud.utils.commands import ROOT
from edgecloud.utils.extras import is_there
from edgecloud.utils.units import format_bytes, format_rate, format_seconds

HOST = "127.0.0.1"
SMALL = (1, 50_000)  # float32: 200 KB
PIECE_BYTES = 256 << 10
REPEATS = {"link": 9, "loopback": 300, "large": 20, "connect": 100}
QUICK = {"link": 2, "loopback": 20, "large": 3, "connect": 5}


# --- the receiver


def answer(connection: Connection) -> None:
    """Acknowledge frames, and take part in a probe of the link."""
    while True:
        frame = connection.receive(soon())
        if frame.kind is FrameType.PROBE:
            probe = frame.read(Probe)
            connection.send(Probed(probe.id), soon(), [np.zeros(probe.reply_bytes, np.uint8)] * bool(probe.reply_bytes))
            continue
        frame.arrays()
        connection.send(Probed(frame.read(Infer).id), soon())


def serve() -> None:
    """Listen with and without gRPC, and for grpcio where that is there; says the ports."""

    def talk(peer: Peer) -> None:
        if peer.connection.is_grpc:
            peer.connection.take_call(soon())
        answer(peer.connection)

    server = Server(HOST, 0, talk, grpc_port=0)
    server.open()
    foreign = serve_grpcio() if is_there("grpc") else 0
    print(server.addresses[0][1], server.grpc_addresses[0][1], foreign, flush=True)
    server.serve()


def serve_grpcio() -> int:
    """A server of grpcio, each of its streams between it and an ordinary connection; gives its port."""
    import grpc

    def exchange(messages: Iterator[bytes], _: Any) -> Iterator[bytes]:
        near, far = pair()
        threading.Thread(target=lambda: answer(Connection(far)), daemon=True).start()
        threading.Thread(target=pour, args=(messages, near), daemon=True).start()
        return drained(near)

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        """For one method."""

        def service(self, details: Any) -> Any:
            """Of that name."""
            return grpc.stream_stream_rpc_method_handler(exchange) if details.method == PATH else None

    server = grpc.server(futures.ThreadPoolExecutor(8), (Handler(),), options=[("grpc.so_reuseport", 0)])
    port: int = server.add_insecure_port(f"{HOST}:0")
    server.start()
    return port


def pair() -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected to each other, as `Connection` takes them."""
    with socket.create_server((HOST, 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def pour(messages: Iterator[bytes], sock: socket.socket) -> None:
    """From a stream into a socket."""
    with contextlib.suppress(Exception):
        for message in messages:
            sock.sendall(message)


def drained(sock: socket.socket) -> Iterator[bytes]:
    """What comes out of a socket, in pieces."""
    while data := sock.recv(PIECE_BYTES):
        yield data


def through_grpcio(port: int, stack: ExitStack) -> Connection:
    """A connection whose bytes travel through a client of grpcio."""
    import grpc

    near, far = pair()
    channel = stack.enter_context(grpc.insecure_channel(f"{HOST}:{port}"))
    call = channel.stream_stream(PATH)(drained(far))
    threading.Thread(target=pour, args=(call, far), daemon=True).start()
    stack.callback(call.cancel)
    connection = Connection(near)
    stack.callback(connection.close)
    return connection


@contextmanager
def receiver() -> Iterator[list[int]]:
    """The receiver's process; gives its ports."""
    command = [sys.executable, "-m", "benchmarks.transports", "--serve"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield [int(port) for port in process.stdout.readline().split()]
    finally:
        process.kill()
        process.communicate()


# --- what is measured


def compare(repeats: int, tcp: Callable[[], float], grpc: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns, after some that are not counted."""
    turns = [(tcp(), grpc()) for _ in range(repeats + 2)][2:]
    return [turn[0] for turn in turns], [turn[1] for turn in turns]


def row(what: str, times: tuple[list[float], list[float]]) -> list[str]:
    """Medians, what the second takes more, and the ratio with its noise."""
    tcp, grpc = times
    more = median(b - a for a, b in zip(tcp, grpc, strict=True))
    p90 = sorted(grpc)[int(len(grpc) * 0.9)]
    cells = (format_seconds(median(tcp)), format_seconds(median(grpc)), format_seconds(p90), f"{more * 1e3:+.3f} ms")
    return [what, *cells, str(Versus.of(grpc, tcp))]


def transfer(name: str, shape: tuple[int, ...], repeats: int, tcp: Connection, grpc: Connection) -> list[str]:
    """One tensor over both connections."""
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    times = compare(repeats, lambda: send_frame(tcp, array), lambda: send_frame(grpc, array))
    return row(f"{name}, {format_bytes(array.nbytes)}", times)


def opening(port: int, transport: str) -> float:
    """Seconds until a connection has its first answer."""
    started = time.perf_counter()
    connection = connect(HOST, port, TIMEOUT_S, transport=transport)
    connection.send(Infer(1, [[1, 2]], 1.0), soon())
    connection.receive(soon()).read(Probed)
    took = time.perf_counter() - started
    connection.close()
    return took


def estimate(connection: Connection) -> str:
    """What a link is taken to be."""
    link = Prober(connection, soon()).estimate()
    rates = (format_rate(link.up_bytes_per_s), format_rate(link.down_bytes_per_s), format_seconds(link.rtt_s))
    return "{} up, {} down, {}".format(*rates)


def measure(repeats: dict[str, int]) -> tuple[list[list[str]], list[str]]:
    """Every row, and what both take the link to be."""
    with ExitStack() as stack:
        tcp_port, grpc_port, foreign = stack.enter_context(receiver())

        def both(tcp: int, grpc: int) -> tuple[Connection, Connection]:
            ends = connect(HOST, tcp, TIMEOUT_S), connect(HOST, grpc, TIMEOUT_S, transport="grpc")
            for end in ends:
                stack.callback(end.close)
            return ends

        near = both(tcp_port, grpc_port)
        links = [stack.enter_context(emulated_link(HOST, port, LINK)) for port in (tcp_port, grpc_port)]
        far = both(*(link.address()[1] for link in links))
        bridged = []
        if foreign:
            bridge = through_grpcio(foreign, stack)
            bridged = [transfer("loopback, grpcio at both ends", SMALL, repeats["loopback"], near[0], bridge)]
        opened = compare(repeats["connect"], lambda: opening(tcp_port, "tcp"), lambda: opening(grpc_port, "grpc"))
        rows = [
            transfer("loopback", SMALL, repeats["loopback"], *near),
            transfer("loopback", BOUNDARY, repeats["loopback"], *near),
            transfer("loopback", LARGE, repeats["large"], *near),
            row("loopback, connect and be answered", opened),
            transfer(f"relay {LINK}", SMALL, repeats["link"], *far),
            transfer(f"relay {LINK}", BOUNDARY, repeats["link"], *far),
            *bridged,
        ]
        found = [f"Probed, {LINK}: {name} {estimate(end)}." for name, end in zip(("TCP", "gRPC"), far, strict=True)]
    return rows, found


def main(argv: list[str]) -> int:
    """Measure and write benchmarks/results/transports.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transports")
    parser.add_argument("--serve", action="store_true", help="be the receiver")
    parser.add_argument("--quick", action="store_true", help="few repeats, and no table is written")
    options = parser.parse_args(argv)
    if options.serve:
        with contextlib.suppress(KeyboardInterrupt):
            serve()
        return 0
    rows, found = measure(QUICK if options.quick else REPEATS)
    if options.quick:
        print("\n".join(" | ".join(cells) for cells in rows), *found, sep="\n")
        return 0
    notes = [
        "`more` is the median of the differences of a turn, the ratio that of their ratios. `grpcio at both ends`: the "
        "bytes of an ordinary connection through grpcio's client and server.",
        "",
        *found,
    ]
    head = ["what", "TCP", "gRPC", "p90", "more", "ratio"]
    write_table("transports", "Cost of gRPC", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
