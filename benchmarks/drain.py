"""How a cloud ends that has requests in hand: at SIGTERM it answers them first, at a second one it ends at once.

Rows of benchmarks.faults (B12); `to detect` is from the signal until the cloud has ended.
"""

import signal
import sys
import time
from contextlib import ExitStack, closing

import numpy as np

from benchmarks.fault_sites import Clouds, Row
from edgecloud.engine.executor import Network, prepare
from edgecloud.models import inputs, registry, weights
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Hello, Infer, Ready, Result, State, Status
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError

EDGES, EACH = 4, 8  # as many as one connection may have in hand
AGAIN_S = 0.05


def soon(seconds: float = 60.0) -> Deadline:
    """A deadline."""
    return Deadline.after(seconds, "the benchmark")


def handshake(port: int, network: Network) -> Connection:
    """A connection on which the cloud is ready."""
    connection = connect("127.0.0.1", port, 5.0)
    loaded, graph = network.loaded, network.traced.graph
    connection.send(Hello(graph.name, loaded.digest, graph.digest, ["raw"], ""), soon(120))
    connection.receive(soon(120)).read(Ready)
    return connection


def fill(port: int, network: Network, stack: ExitStack) -> list[Connection]:
    """Edges that have asked for whole inferences, all of which are in hand; another edge has seen it."""
    x = np.asarray(network.example.tensor)
    edges = [stack.enter_context(closing(handshake(port, network))) for _ in range(EDGES)]
    watcher = stack.enter_context(closing(handshake(port, network)))
    request = [[1, len(network.traced.graph.layers)]]
    for number in range(EACH):
        for edge in edges:
            edge.send(Infer(number + 1, request, 60.0), soon(), [x])
    deadline = soon(10)
    while deadline.remaining():
        watcher.send(Status(), soon())
        if watcher.receive(soon()).read(State).waiting >= (EDGES - 1) * EACH // 2:
            break
        time.sleep(0.02)
    return edges


def answered(edges: list[Connection], row: Row) -> int:
    """How many answers come until the cloud disconnects."""
    count = 0
    for edge in edges:
        try:
            for _ in range(EACH):
                edge.receive(soon()).read(Result)
                count += 1
        except AppError as error:
            print(f"{row.name}: {error}", file=sys.stderr)
    return count


def drained(repeats: int) -> list[Row]:
    """B12 with many requests in hand: how long it takes to answer them, and to leave them."""
    entry = registry.lookup("alex_net")
    network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
    once = Row(f"B12 SIGTERM, {EDGES * EACH} requests in hand")
    twice = Row(f"B12 SIGTERM, {EDGES * EACH} requests in hand, SIGTERM again after {AGAIN_S * 1e3:.0f} ms")
    counts: dict[str, list[int]] = {once.name: [], twice.name: []}
    for _ in range(repeats):
        for row in (once, twice):
            clouds = Clouds()
            clouds.start()
            assert clouds.process is not None
            with ExitStack() as stack:
                edges = fill(clouds.port, network, stack)
                began = time.monotonic()
                clouds.tell(signal.SIGTERM)
                if row is twice:
                    time.sleep(AGAIN_S)
                    clouds.tell(signal.SIGTERM)
                counts[row.name].append(answered(edges, row))
                code = clouds.process.wait(60)
                row.detected_s.append(time.monotonic() - began)
            row.faults += 1
            if row is once:
                row.lost += EDGES * EACH - counts[row.name][-1]
            row.note = f"answered {sorted(set(counts[row.name]))} of {EDGES * EACH}; exit code {code}"
    once.note += "; lost would be requests without an answer"
    twice.note += "; the others were given up, as asked"
    return [once, twice]
