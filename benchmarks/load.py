"""A load generator: E edges send one network's tails to one cloud, at a rate each; every answer is checked.

    python -m benchmarks.load [--edges 16] [--model alex_net] [--point 13] [--rates 0.25,0.5,1,1.5,2,3] [--seconds 8]

Rates are multiples of the cloud's throughput in batches when all edges ask as fast as answers come, which the first
rows measure, one at a time and in batches. Reported are the goodput (correct answers per second), their latency, how
many were refused (BUSY; a client that asks as fast as it can retries when it was told to), and how equal the edges'
shares of answered requests are (Jain's index).
"""

import argparse
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.fingerprint import write_table
from edgecloud.client.subprocesses import own_cloud
from edgecloud.engine.answers import matches
from edgecloud.engine.executor import Network, TorchExecutor, prepare
from edgecloud.models import inputs, registry, weights
from edgecloud.models.graph import to_ranges
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Error, Hello, Infer, Ready, Result, from_header
from edgecloud.net.tensors import Array
from edgecloud.predictor.store import default_folder
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from edgecloud.utils.inference_utils import find_device

LONG_S = 60.0
WINDOW = 4


@dataclass
class Counted:
    """What one edge has seen."""

    asked: int = 0
    right: int = 0
    wrong: int = 0
    busy: int = 0
    lost: int = 0
    latencies: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


class Subject:
    """A network cut at a point: what is sent, and what has to come back."""

    def __init__(self, model: str, point: int) -> None:
        entry = registry.lookup(model)
        self.network: Network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
        executor = TorchExecutor(self.network, find_device("cpu"))
        graph = self.network.traced.graph
        head = graph.head_at(point)
        self.tail = graph.everything - head
        x = np.asarray(self.network.example.tensor)
        self.boundary: list[Array] = [np.asarray(a, order="C") for a in executor.run(executor.load(head), [x]).arrays]
        self.expected = executor.run(executor.load(self.tail), self.boundary).arrays

    def handshake(self, address: tuple[str, int]) -> Connection:
        """A connection on which a cloud has agreed."""
        connection = connect(*address, 5.0)
        graph, digest = self.network.traced.graph, self.network.loaded.digest
        late = Deadline.after(300.0, "READY")
        connection.send(Hello(graph.name, digest, graph.digest, ["raw"], ""), late)
        connection.receive(late).read(Ready)
        connection.allow_duplex()
        return connection


class Edge:
    """Sends at random moments, or as soon as an answer is there, and checks what comes back."""

    def __init__(self, subject: Subject, address: tuple[str, int], seed: int) -> None:
        self.counted = Counted()
        self._subject, self._rng = subject, random.Random(seed)
        self._connection = subject.handshake(address)
        self._sent: dict[int, float] = {}
        self._window = threading.Semaphore(WINDOW)
        self._deadline = Deadline.after(LONG_S + 60, "the benchmark")

    def run(self, seconds: float, rate_per_s: float | None) -> None:
        """For so long, at this rate; None is as fast as answers come."""
        receiver = threading.Thread(target=self._receive, daemon=True)
        receiver.start()
        end = time.perf_counter() + seconds
        due = time.perf_counter()
        number = 0
        while True:
            if rate_per_s is None:
                self._window.acquire()
            else:
                due += self._rng.expovariate(rate_per_s)
                time.sleep(max(0.0, due - time.perf_counter()))
            if time.perf_counter() > end:
                break
            number += 1
            self.counted.asked += 1
            self._sent[number] = time.perf_counter() if rate_per_s is None else due
            request = Infer(number, to_ranges(self._subject.tail), 30.0)
            try:
                self._connection.send(request, self._deadline, self._subject.boundary)
            except AppError:
                self.counted.lost += 1
                break
        grace = time.perf_counter() + 10
        while self._sent and time.perf_counter() < grace:
            time.sleep(0.01)
        self.counted.lost += len(self._sent)
        self._connection.close()
        receiver.join(5)

    def _receive(self) -> None:
        try:
            while True:
                frame = self._connection.receive(self._deadline)
                if frame.kind is FrameType.ERROR:
                    error = from_header(Error, frame.header)
                    self._sent.pop(error.id)
                    self.counted.busy += error.code == "BUSY"
                    self.counted.lost += error.code != "BUSY"
                    threading.Timer(error.retry_after_s, self._window.release).start()
                else:
                    result = frame.read(Result)
                    is_right = matches(frame.arrays(), self._subject.expected)
                    self.counted.right += is_right
                    self.counted.wrong += not is_right
                    self.counted.latencies.append(time.perf_counter() - self._sent.pop(result.id))
                    self.counted.batches.append(result.batch)
                    self._window.release()
        except AppError:
            return


@contextmanager
def cloud(cache: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """A cloud of its own."""
    with own_cloud(["--cache-dir", str(cache), *arguments], "tasks_cloud_api.py") as child:
        yield child.address()


@dataclass(frozen=True)
class Measured:
    """All edges together."""

    goodput_per_s: float
    p50_s: float
    p99_s: float
    jain: float
    busy: int
    wrong: int
    lost: int
    batch: float


def measure(subject: Subject, address: tuple[str, int], edges: int, seconds: float, rate: float | None) -> Measured:
    """`rate` requests per second and edge."""
    found = [Edge(subject, address, seed) for seed in range(edges)]
    threads = [threading.Thread(target=edge.run, args=(seconds, rate)) for edge in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = [edge.counted for edge in found]
    shares = [one.right / max(1, one.asked) for one in counted]
    latencies = [latency for one in counted for latency in one.latencies] or [float("nan")]
    batches = [batch for one in counted for batch in one.batches] or [0]
    return Measured(
        goodput_per_s=sum(one.right for one in counted) / seconds,
        p50_s=float(np.quantile(latencies, 0.5)),
        p99_s=float(np.quantile(latencies, 0.99)),
        jain=sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) if any(shares) else 0.0,
        busy=sum(one.busy for one in counted),
        wrong=sum(one.wrong for one in counted),
        lost=sum(one.lost for one in counted),
        batch=float(np.mean(batches)),
    )


def row(name: str, offered: float | None, found: Measured) -> list[str]:
    """A line of the table."""
    return [
        name,
        "as fast as possible" if offered is None else f"{offered:.0f}/s",
        f"{found.goodput_per_s:.1f}/s",
        f"{1e3 * found.p50_s:.0f} ms",
        f"{1e3 * found.p99_s:.0f} ms",
        f"{found.jain:.3f}",
        f"{found.batch:.1f}",
        *(str(count) for count in (found.busy, found.wrong, found.lost)),
    ]


HEAD = ["cloud", "offered", "goodput", "p50", "p99", "Jain", "mean batch", "BUSY", "wrong", "lost"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/load.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--edges", type=int, default=16)
    parser.add_argument("--model", default="alex_net")
    parser.add_argument("--point", type=int, default=13)
    parser.add_argument("--rates", default="0.25,0.5,1,1.5,2,3")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--max-batch", default="8")
    parser.add_argument("--threads", default="2", help="of the cloud")
    options = parser.parse_args(argv)
    subject = Subject(options.model, options.point)
    rows, alone = [], 0.0
    for batch in ("1", options.max_batch):
        with cloud(default_folder(), "--max-batch", batch, "--threads", options.threads) as address:
            measure(subject, address, options.edges, 2.0, None)
            found = measure(subject, address, options.edges, options.seconds, None)
            rows.append(row(f"--max-batch {batch}", None, found))
            print(rows[-1], file=sys.stderr)
            if batch == "1":
                alone = found.goodput_per_s
                continue
            gain = found.goodput_per_s / alone
            together = found.goodput_per_s
            for share in map(float, options.rates.split(",")):
                offered = share * together
                found = measure(subject, address, options.edges, options.seconds, offered / options.edges)
                rows.append(row(f"--max-batch {batch}", offered, found))
                print(rows[-1], file=sys.stderr)
    notes = [
        f"{options.edges} edges, {options.model} cut at point {options.point}, {options.threads} threads on the cloud.",
        f"In batches {gain:.2f} x the throughput of one at a time.",
    ]
    write_table("load", "Many edges on one cloud", HEAD, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
