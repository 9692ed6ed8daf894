"""The overhead of the protocol beyond the bytes.

    python -m benchmarks.wire

First, over loopback: a tensor of 12.8 MB (the largest activation of VGG16) is sent in a frame and acknowledged by one,
compared with a bare sendall and recv_into of as many bytes with a one-byte acknowledgement, in turns, and with the
baseline implementation (pickle.dumps of a torch tensor, the length as a message of its own, acknowledgements, and
b"".join of all parts after every packet). The sender and the receiver are two processes.

Second, over a link of 20 mbit: the time of a 600 KB boundary against bytes / goodput + round trip, through the relay,
and as root on Linux between two network namespaces shaped by `tc tbf` as well. Goodput and round trip are what the
same link gives to bare sockets.
"""

import contextlib
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from benchmarks.noise import Versus
from edgecloud.client.subprocesses import emulated_link
from edgecloud.lab.hosts import missing, shaped_hosts
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import Limits
from edgecloud.net.messages import Infer, Probed
from edgecloud.utils.commands import ROOT
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import format_bytes, format_seconds

LARGE = (1, 64, 224, 224)  # float32: 12.8 MB
BOUNDARY = (1, 3, 224, 224)  # float32: 602 KB
REPEATS = 40
SHAPED_REPEATS = 7
LINK = "20mbit,20ms"
TIMEOUT_S = 60.0


def soon() -> Deadline:
    """Nothing here takes longer."""
    return Deadline.after(TIMEOUT_S, "the benchmark")


# --- the receivers, each in a process of its own


def receive_frames(sock: socket.socket) -> None:
    """Ours: take a frame, look at its tensor, answer with a frame."""
    connection = Connection(sock, Limits())
    while True:
        frame = connection.receive(soon())
        request = frame.read(Infer)
        assert frame.arrays()[0].flags["C_CONTIGUOUS"]
        connection.send(Probed(request.id), soon())


def receive_bare(sock: socket.socket) -> None:
    """The floor: a size, that many bytes into a buffer, one byte back."""
    buffer = memoryview(bytearray(64 << 20))
    while size := int.from_bytes(sock.recv(8, socket.MSG_WAITALL), "big"):
        received = 0
        while received < size:
            received += sock.recv_into(buffer[received:size])
        sock.sendall(b"x")


def receive_published(sock: socket.socket) -> None:
    """The baseline implementation: pickled length, "yes", then parts that are joined after every packet, then "yes"."""
    while head := sock.recv(1024):
        size = pickle.loads(head)
        sock.sendall(b"yes len")
        parts: list[bytes] = []
        data = b""
        while len(data) < size:
            parts.append(sock.recv(40960))
            data = b"".join(parts)
            parts = [data]
        pickle.loads(data)
        sock.sendall(b"yes")


RECEIVERS: dict[str, Callable[[socket.socket], None]] = {
    "frames": receive_frames,
    "bare": receive_bare,
    "published": receive_published,
}


def serve(kind: str, host: str) -> None:
    """Take one connection and receive until it ends."""
    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(Exception):  # the sender has gone, which ends the measurement
        RECEIVERS[kind](sock)


@contextmanager
def receiver(kind: str, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> Iterator[int]:
    """A receiver's process; gives its port."""
    command = [*prefix, sys.executable, "-m", "benchmarks.wire", "--serve", kind, host]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


# --- the senders; each returns seconds from the first byte to the acknowledgement


def send_frame(connection: Connection, array: np.ndarray) -> float:
    """One INFER, answered by one frame."""
    started = time.perf_counter()
    connection.send(Infer(1, [[1, 2]], 1.0), soon(), [array])
    connection.receive(soon()).read(Probed)
    return time.perf_counter() - started


def send_bare(sock: socket.socket, array: np.ndarray) -> float:
    """The same bytes, nothing around them."""
    data = array.reshape(-1).view(np.uint8).data
    started = time.perf_counter()
    sock.sendall(data.nbytes.to_bytes(8, "big"))
    sock.sendall(data)
    sock.recv(1)
    return time.perf_counter() - started


def send_published(sock: socket.socket, array: np.ndarray) -> float:
    """As the baseline implementation does."""
    tensor = torch.from_numpy(array)
    started = time.perf_counter()
    data = pickle.dumps(tensor)
    sock.sendall(pickle.dumps(len(data)))
    sock.recv(1024)
    sock.sendall(data)
    sock.recv(1024)
    return time.perf_counter() - started


def plain_socket(host: str, port: int) -> socket.socket:
    """A socket without Nagle's delay."""
    sock = socket.create_connection((host, port), timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def loopback_rows() -> list[list[str]]:
    """The three ways in turns, so that a machine that gets slower gets slower for all of them."""
    array = np.random.default_rng(0).random(LARGE, dtype=np.float32)
    times: dict[str, list[float]] = {kind: [] for kind in RECEIVERS}
    with receiver("frames") as frames_port, receiver("bare") as bare_port, receiver("published") as published_port:
        connection = connect("127.0.0.1", frames_port, TIMEOUT_S)
        bare, published = plain_socket("127.0.0.1", bare_port), plain_socket("127.0.0.1", published_port)
        for _ in range(REPEATS + 3):
            times["frames"].append(send_frame(connection, array))
            times["bare"].append(send_bare(bare, array))
            times["published"].append(send_published(published, array))
    kept = {kind: values[3:] for kind, values in times.items()}
    rows = []
    for kind, values in kept.items():
        ratio = "1" if kind == "bare" else str(Versus.of(values, kept["bare"]))
        spread = f"{format_seconds(min(values))} .. {format_seconds(max(values))}"
        rows.append([f"loopback, {format_bytes(array.nbytes)}, {kind}", format_seconds(median(values)), spread, ratio])
    return rows


def shaped_row(name: str, host: str, frames_port: int, bare_port: int) -> list[str]:
    """A 600 KB boundary in a frame against bytes / goodput + round trip of bare sockets on the same link."""
    array = np.random.default_rng(0).random(BOUNDARY, dtype=np.float32)
    twice, tiny = np.concatenate([array, array]), np.zeros(1, np.uint8)
    connection, bare = connect(host, frames_port, TIMEOUT_S), plain_socket(host, bare_port)
    frames, once_s, twice_s, tiny_s = [], [], [], []
    for _ in range(SHAPED_REPEATS + 1):
        frames.append(send_frame(connection, array))
        once_s.append(send_bare(bare, array))
        twice_s.append(send_bare(bare, twice))
        tiny_s.append(send_bare(bare, tiny))
    goodput = array.nbytes / (median(twice_s[1:]) - median(once_s[1:]))
    ideal = array.nbytes / goodput + median(tiny_s[1:])
    got = frames[1:]
    spread = f"{format_seconds(min(got))} .. {format_seconds(max(got))}"
    what = f"{name}, {format_bytes(array.nbytes)} (ideal {format_seconds(ideal)}, goodput {goodput * 8e-6:.2f} mbit)"
    return [what, format_seconds(median(got)), spread, str(Versus.of_ratios([s / ideal for s in got]))]


def relay_row() -> list[str]:
    """Through the emulated link."""
    with (
        receiver("frames") as frames_port,
        receiver("bare") as bare_port,
        emulated_link("127.0.0.1", frames_port, LINK) as one,
        emulated_link("127.0.0.1", bare_port, LINK) as two,
    ):
        return shaped_row(f"relay {LINK}", "127.0.0.1", one.address()[1], two.address()[1])


# --- two namespaces and tc, as root


def tbf_row() -> list[str] | None:
    """Between two namespaces; None where this machine cannot."""
    if missing():
        return None
    try:
        return measure_between_hosts()
    except AppError as error:
        print(f"no shaped hosts here: {error}", file=sys.stderr)
        return None


def measure_between_hosts() -> list[str]:
    """The sender on one host, both receivers on the other."""
    with shaped_hosts("20mbit") as hosts:
        where = hosts.cloud_address
        with (
            receiver("frames", where, hosts.on_cloud) as frames_port,
            receiver("bare", where, hosts.on_cloud) as bare_port,
        ):
            shaped = [sys.executable, "-m", "benchmarks.wire", "--shaped", where, str(frames_port), str(bare_port)]
            run = subprocess.run([*hosts.on_edge, *shaped], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip().split("|")


def main(argv: list[str]) -> int:
    """Measure and write benchmarks/results/wire.md."""
    if argv[:1] == ["--serve"]:
        serve(argv[1], argv[2])
        return 0
    if argv[:1] == ["--shaped"]:
        print("|".join(shaped_row("tc tbf 20mbit", argv[1], int(argv[2]), int(argv[3]))))
        return 0
    tbf = tbf_row()
    rows = [*loopback_rows(), relay_row(), *([tbf] if tbf else [])]
    notes = [
        "Loopback: the ratio is the median of the ratios to the bare transfer of the same turn.",
        "Shaped: the ratio is to bytes / goodput + round trip of bare sockets on the same link in the same run.",
    ]
    if tbf is None:
        notes.append("The rows between network namespaces require root, tc and Linux, and were omitted.")
    write_table("wire", "Protocol overhead", ["transfer", "median", "spread", "ratio"], rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
