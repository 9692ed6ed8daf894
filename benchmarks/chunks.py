"""Tensors that leave in chunks: what a chunk costs, and what clients can do with them.

    python -m benchmarks.chunks            all of it, written to benchmarks/results/chunks.md
    python -m benchmarks.chunks overhead   one part of it, printed

overhead  a tensor of 64 KiB, as it is, over an emulated link of 100 mbit and 1 ms: whole, in 2, 4 and 8 chunks, and as
          --overlap auto plans it, in turns: there is nothing to hide, so all that is longer is what chunks cost
cuts      a request in three chunks, cut after every single byte; then a good one
memory    clients that begin as many requests of 16 MiB as they may and stop: without any chunk, and after half of them

The cloud is a process of its own. What random and broken chunks do:
`python -m tests.fuzz.long chunk --executions 100000`.
"""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edgecloud as ec
from benchmarks.fingerprint import write_table
from benchmarks.hostile.attacks import encode
from benchmarks.noise import Figure, Versus
from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import Edge
from edgecloud.client.subprocesses import emulated_link
from edgecloud.engine.identity import hello_of
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Chunk, Error, Infer, Ready, from_header
from edgecloud.partition.cost import parts_of
from edgecloud.partition.overlap import Overlap, Slices
from edgecloud.server.arriving import MAX_ARRIVING
from edgecloud.utils.commands import ROOT
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.units import format_seconds

HOST, LINK = "127.0.0.1", "100mbit,1ms"
COUNTS = (1, 2, 4, 8)
REPEATS, WARM_UP = 150, 10
TIMEOUT_S = 60.0
LARGE = (1, 16, 512, 512)
"""16 MiB."""
CLIENTS = 8
STOPPED_S = 3.0


class Small(nn.Module):
    """Reads a tensor, and computes hardly anything."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.last = nn.Linear(channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(x.amax(3).amax(2))
        return answer


def loaded(shape: tuple[int, ...]) -> ec.Network:
    """A network for such a tensor, the same in both processes."""
    numbers = np.random.default_rng(1).standard_normal(shape, np.float32)
    return ec.load(Small(shape[1]).eval(), torch.from_numpy(numbers))


SHAPES = {"overhead": (1, 16, 32, 32), "cuts": (1, 2, 6, 3), "memory": LARGE}


def serve(part: str) -> None:
    """A cloud, until standard input ends."""
    with ec.Cloud(networks=[loaded(SHAPES[part])]) as cloud:
        print(cloud.address.rpartition(":")[2], flush=True)
        sys.stdin.read()


@contextmanager
def cloud(part: str) -> Iterator[tuple[int, Callable[[], float]]]:
    """Its port, and what tells its memory in MB."""
    command = [sys.executable, "-m", "benchmarks.chunks", "--serve", part]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield int(child.stdout.readline()), lambda: rss_mb(child.pid)
        finally:
            child.kill()


def rss_mb(pid: int) -> float:
    """The most memory that a process had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def overhead() -> list[list[str]]:
    """Whole and in chunks, in turns."""
    net = loaded(SHAPES["overhead"])
    head, x = net.graph.head_at(0), net.sample
    with ExitStack() as stack:
        port, _ = stack.enter_context(cloud("overhead"))
        address = stack.enter_context(emulated_link(HOST, port, LINK)).address()
        edges: dict[str, tuple[Edge, Overlap | None]] = {}
        for count in COUNTS:  # who never sends in chunks needs no threads
            edge = stack.enter_context(closing(Edge.around(EdgeConfig(net.name), net.entry, net.made_for("cpu"))))
            edge.connect(*address, "", TIMEOUT_S)
            ends = tuple(32 * (n + 1) // count for n in range(count))
            overlap = Overlap((Slices(net.graph.boundary(head)[0], 2, ends),)) if count > 1 else None
            edges[f"in {count}"] = (edge, overlap)
        planning = stack.enter_context(ec.Edge(net, cloud="{}:{}".format(*address), point=0, codec="raw"))
        planned = planning.client.plan.decision.overlap
        edges[f"as planned: in {1 if planned is None else planned.count}"] = planning.client.prepared.edge, planned
        totals: dict[str, list[float]] = {name: [] for name in edges}
        for turn in range(WARM_UP + REPEATS):
            for name, (edge, overlap) in edges.items():
                answered = edge.infer_parts(x, parts_of(net.graph, head), TIMEOUT_S, {}, overlap)
                if turn >= WARM_UP:
                    totals[name].append(answered.measured.total_s)
    rows = []
    for name, seconds in totals.items():
        against = Versus.of(seconds, totals["in 1"])
        figure = Figure.of(seconds)
        rows.append([f"64 KiB {name}", f"{format_seconds(figure.value)} ± {figure.noise:.0%}", str(against.ratio)])
    return rows


def frames(net: ec.Network, number: int, count: int) -> list[bytes]:
    """A good request in so many chunks."""
    x, size = net.sample, net.sample.shape[2]
    ends = [size * (n + 1) // count for n in range(count)]
    tail = [[1, len(net.graph.layers)]]
    chunks = [
        encode(Chunk(number, 0, start), [x[:, :, start:end]]) for start, end in zip([0, *ends], ends, strict=False)
    ]
    return [encode(Infer(number, tail, STOPPED_S, cuts=((2, *ends),)), []), *chunks]


def greeted(net: ec.Network, port: int) -> Connection:
    """A connection that has agreed on the network."""
    connection = connect(HOST, port, TIMEOUT_S)
    connection.send(hello_of(net.made_for("cpu"), ""), soon())
    connection.receive(soon()).read(Ready)
    return connection


def soon() -> Deadline:
    """Long enough."""
    return Deadline.after(TIMEOUT_S, "the benchmark")


def answers(net: ec.Network, port: int) -> str:
    """Whether a good client is served."""
    with closing(greeted(net, port)) as connection:
        connection.sock.sendall(b"".join(frames(net, 1, 3)))
        return connection.receive(soon()).kind.name


def cuts() -> list[list[str]]:
    """After every byte."""
    net = loaded(SHAPES["cuts"])
    data = b"".join(frames(net, 1, 3))
    with cloud("cuts") as (port, memory):
        answers(net, port)
        before = memory()
        for end in range(len(data)):
            with closing(greeted(net, port)) as connection:
                connection.sock.sendall(data[:end])
        return [[f"cut after each of {len(data)} bytes", f"{before:.0f} -> {memory():.0f} MB", answers(net, port)]]


def memory() -> list[list[str]]:
    """Clients that stop, each with as many requests as it may begin; more memory than a source may hold."""
    net, rows = loaded(SHAPES["memory"]), []
    for sent, name in ((1, "no chunk"), (3, "half of the chunks")):
        with cloud("memory") as (port, peak):
            answers(net, port)
            before, codes = peak(), Counter[str]()
            clients = [threading.Thread(target=stop, args=(net, port, sent, codes)) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            told = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
            wanted = CLIENTS * MAX_ARRIVING * 16
            what = f"{CLIENTS} clients, {wanted} MiB, stop after {name}: {told}"
            rows.append([what, f"{before:.0f} -> {peak():.0f} MB", answers(net, port)])
    return rows


def stop(net: ec.Network, port: int, sent: int, codes: Counter[str]) -> None:
    """Begin requests, and hear that they are refused."""
    with closing(greeted(net, port)) as connection:
        for number in range(1, MAX_ARRIVING + 1):
            connection.sock.settimeout(TIMEOUT_S)
            connection.sock.sendall(b"".join(frames(net, number, 4)[:sent]))
        for _ in range(MAX_ARRIVING):
            codes[from_header(Error, connection.receive(soon()).header).code] += 1


PARTS: dict[str, Callable[[], list[list[str]]]] = {"overhead": overhead, "cuts": cuts, "memory": memory}


def main(argv: list[str]) -> int:
    """Measure and write benchmarks/results/chunks.md, or print one part."""
    if argv[:1] == ["--serve"]:
        serve(argv[1])
        return 0
    torch.set_num_threads(1)
    if argv:
        for row in PARTS[argv[0]]():
            print(" | ".join(row))
        return 0
    rows = [row for part in PARTS.values() for row in part()]
    notes = [
        f"First rows: medians of {REPEATS} turns over {LINK}, and the ratio to the whole tensor. Others: the peak of "
        "the cloud's memory before and after, and what a good client gets then.",
    ]
    write_table("chunks", "Tensors in chunks", ["", "", ""], rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
