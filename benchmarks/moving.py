"""How soon a cloud that comes later has its share of the edges, and what moving costs them.

    python -m benchmarks.moving [--edges 8] [--age 10s] [--seconds 60]

Edges of one process ask a real cloud for LeNet, ten times a second each, without a fallback. A second cloud comes after
a fifth of the time, and the first one stops after four fifths. Every answer is compared with the network's own.
"""

import argparse
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.clouds import CloudProcess, running_cloud
from edgecloud.cli import arguments
from edgecloud.client.clouds import CloudAddress
from edgecloud.client.connection_manager import ConnectionConfig, ConnectionManager
from edgecloud.client.multiplexed import Request
from edgecloud.engine.answers import matches
from edgecloud.engine.identity import hello_of
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork, prepare, whole_answer
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import format_seconds

HOST = "127.0.0.1"
PAUSE_S, TIMEOUT_S = 0.1, 30.0
SHARE = 0.3


class Client(threading.Thread):
    """An edge that asks again and again."""

    def __init__(self, network: TorchNetwork, places: list[tuple[str, int]], is_over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._graph, self._is_over = network.traced.graph, is_over
        first, *more = places
        config = ConnectionConfig(first, tuple(CloudAddress(*place) for place in more), timeout_s=TIMEOUT_S)
        self.manager = ConnectionManager(config, [hello_of(network)], {self._graph.name: len(self._graph.layers)})
        self.manager.connect()
        self._x = np.asarray(network.example.tensor)
        self._expected = whole_answer(network.loaded.model, network.example.tensor)
        self.took_s: list[tuple[float, float]] = []
        self.wrong, self.failures = 0, list[str]()

    def run(self) -> None:
        """Until it is over."""
        while not self._is_over.wait(PAUSE_S):
            began, deadline = time.perf_counter(), Deadline.after(TIMEOUT_S, "an answer")
            graph = self._graph
            request = Request(0, graph.name, graph, graph.everything - {0}, [self._x])
            try:
                _, arrays = self.manager.ready_client(deadline).ask(request, deadline)
            except AppError as error:
                self.failures.append(str(error))
                continue
            self.wrong += not matches(arrays, self._expected)
            self.took_s.append((began, time.perf_counter() - began))

    def close(self) -> None:
        """Close the connection."""
        self.manager.close()


def le_net() -> TorchNetwork:
    """The network that is asked for."""
    entry = registry.lookup("le_net")
    return prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)


def percentile(clients: list[Client], since: float, until: float) -> str:
    """Median and 99 % of the times of requests that began within a time."""
    took = [seconds for client in clients for began, seconds in client.took_s if since <= began < until]
    return f"p50 {format_seconds(float(np.median(took)))}, p99 {format_seconds(float(np.percentile(took, 99)))}"


def shares(clients: list[Client], later: CloudProcess) -> int:
    """Edges at the later cloud."""
    return sum(client.manager.place == f"{HOST}:{later.port}" for client in clients)


def total(clients: list[Client], of: Callable[[Client], int]) -> int:
    """Of all of them."""
    return sum(map(of, clients))


def show(clients: list[Client], began: float, came: float, end: float) -> None:
    """What came of all requests."""
    moved, again = total(clients, lambda one: one.manager.moved), total(clients, lambda one: one.manager.reconnects)
    lost, wrong = total(clients, lambda one: len(one.failures)), total(clients, lambda one: one.wrong)
    print(f"{len(clients)} edges, {total(clients, lambda one: len(one.took_s))} answers")
    print(f"lost: {lost}, wrong: {wrong}, moved: {moved}, reconnects: {again}")
    print(f"before: {percentile(clients, began, came)}; while moving: {percentile(clients, came, end)}")
    for failure in sorted({failure for client in clients for failure in client.failures}):
        print(f"  {failure}")


def end_of(cloud: CloudProcess) -> float:
    """Stop a cloud; returns how long that took."""
    began = time.perf_counter()
    cloud.stop()
    cloud.process.wait(60)
    return time.perf_counter() - began


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=8)
    parser.add_argument("--age", type=arguments.duration, default="10s")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    network = le_net()
    flags = ("--models", "le_net", "--max-connection-age", f"{options.age:g}s", "--quiet")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        first = stack.enter_context(running_cloud(folder, *flags))
        later = stack.enter_context(running_cloud(folder, *flags))
        later.stop()  # its port is known by now
        later.process.wait()
        is_over = threading.Event()
        places = [(HOST, first.port), (HOST, later.port)]
        clients = [stack.enter_context(closing(Client(network, places, is_over))) for _ in range(options.edges)]
        began = time.perf_counter()
        for client in clients:
            client.start()
        time.sleep(options.seconds / 5)
        later = stack.enter_context(running_cloud(folder, "-p", str(later.port), *flags))
        came = time.perf_counter()
        shared_s, stop_at = None, came + options.seconds * 3 / 5
        while time.perf_counter() < stop_at:
            time.sleep(0.05)
            if shared_s is None and shares(clients, later) >= SHARE * options.edges:
                shared_s = time.perf_counter() - came
        share = shares(clients, later)
        ended_s = end_of(first)
        time.sleep(options.seconds / 10)
        left = options.edges - shares(clients, later)
        is_over.set()
        for client in clients:
            client.join()
        end = time.perf_counter()
    show(clients, began, came, end)
    said = "never" if shared_s is None else format_seconds(shared_s)
    print(f"the later cloud had {SHARE:.0%} of them after: {said}; when the first one was stopped: {share}")
    print(f"the first one ended in {format_seconds(ended_s)}, {left} edges were left behind")


if __name__ == "__main__":
    main()
