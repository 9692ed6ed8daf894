"""A gateway and its workers: throughput, what the gateway adds, and workers that come and go.

    python -m benchmarks.workers [throughput|throughput-1|throughput-8] [gateway] [scale [10]] [warm]

Throughput: edges keep a gateway busy whose workers have a share of a core each, emulated with SIGSTOP and SIGCONT
in turns, so that two cores can show four of them; throughput-1 and throughput-8 are its halves, by the size of a batch.
Gateway: the same request, of about 200 KB and with little to compute, in turns over a gateway with one worker, to a
cloud without, and to that over a relay that reads nothing but lengths (benchmarks.bare_relay), which no gateway in
Python can be quicker than; then as many answers as each gives. Scale: from one worker to four and back, again and
again, under 16 edges that ask up to twenty times a second each; every answer is compared with the network's. With
`warm` programs start as in the tests, without loading torch. Workers that are lost: benchmarks.losses.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import torch

from benchmarks.clouds import CloudProcess, running_cloud
from benchmarks.fingerprint import write_table
from benchmarks.losses import Counts, network_of
from benchmarks.noise import Versus
from edgecloud.engine.device_config import DeviceConfig
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Hello, Infer, Ready, Result
from edgecloud.net.tensors import Array
from edgecloud.server import health
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.gateway import Gateway
from edgecloud.server.local_placement import LocalPlacement
from edgecloud.server.placement import Setup
from edgecloud.server.worker_flags import arguments_of
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import format_seconds
from tests import warm

LOCAL = "127.0.0.1"
MODEL, SMALL = "alex_net", "le_net"
BOUNDARY, SMALL_BYTES = range(100_000, 250_000), 50_000
SHARE, PERIOD_S = 0.2, 0.02
WARM_S, MEASURE_S = 5.0, 8.0
TURNS = 400
EDGES, PAUSE_S = 16, 0.05
BATCHES = {"throughput": (1, 8), "throughput-1": (1,), "throughput-8": (8,)}
WARM = "warm"
"""Programs start without loading torch, as in the tests."""
EACH = 4


def soon(seconds: float = 120.0) -> Deadline:
    return Deadline.after(seconds, "the benchmark")


@dataclass(frozen=True)
class Request:
    """What is asked again and again."""

    network: TorchNetwork
    layers: list[list[int]]
    array: Array

    @property
    def hello(self) -> Hello:
        loaded, graph = self.network.loaded, self.network.traced.graph
        return Hello(graph.name, loaded.digest, graph.digest, ["raw"], "")


def tail_of(network: TorchNetwork) -> Request:
    """From the first point at which one tensor of about 200 KB crosses."""
    graph = network.graph
    point = next(each for each in graph.points if graph.layers[each.layer].out_bytes in BOUNDARY)
    shape = graph.layers[point.layer].out_shape
    array = np.random.default_rng(1).standard_normal(shape, np.float32)
    return Request(network, [[point.layer + 1, len(graph.layers)]], array)


def cheapest_of(network: TorchNetwork, seconds: Sequence[float]) -> Request:
    """The layer that computes least of those that read a tensor of about 200 KB and make a small one."""
    graph = network.graph
    fitting = [
        number
        for number, layer in enumerate(graph.layers)
        if len(layer.inputs) == 1
        and graph.layers[layer.inputs[0]].out_bytes in BOUNDARY
        and layer.out_bytes < SMALL_BYTES
    ]
    number = min(fitting, key=lambda each: seconds[each])
    shape = graph.layers[graph.layers[number].inputs[0]].out_shape
    return Request(network, [[number, number + 1]], np.random.default_rng(1).standard_normal(shape, np.float32))


@contextmanager
def greeted(port: int, request: Request) -> Iterator[tuple[Connection, Ready]]:
    """A connection that has said HELLO; a cloud that has no worker yet is asked again."""
    while True:
        connection = connect(LOCAL, port, 10.0)
        try:
            connection.send(request.hello, soon())
            ready = connection.receive(soon(600)).read(Ready)
            break
        except AppError as error:
            connection.close()
            if error.refusal != "BUSY":
                raise
            time.sleep(0.2)
    with closing(connection):
        yield connection, ready


def ask(connection: Connection, request: Request, number: int) -> None:
    connection.send(Infer(number, request.layers, 60.0), soon(), [request.array])


def answer(connection: Connection) -> tuple[Result, Array]:
    frame = connection.receive(soon())
    return frame.read(Result), frame.arrays()[0]


# --- throughput


class Running:
    """Threads that run within a block, until it is over."""

    def __init__(self, runs: Sequence[Callable[[], None]]) -> None:
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=run) for run in runs]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


class Governor(Running):
    """Lets processes run for a share of every period each, in turns."""

    def __init__(self, pids: Sequence[int], share: float) -> None:
        super().__init__([partial(self._run, number, pid) for number, pid in enumerate(pids)])
        self._pids, self._share = pids, share

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)

    def _run(self, number: int, pid: int) -> None:
        """At moments that are fixed, or what is late would add up."""
        at = time.perf_counter() + number * PERIOD_S / len(self._pids)
        while not self._is_over.is_set():
            os.kill(pid, signal.SIGCONT)
            time.sleep(max(0.0, at + self._share * PERIOD_S - time.perf_counter()))
            os.kill(pid, signal.SIGSTOP)
            at += PERIOD_S
            time.sleep(max(0.0, at - time.perf_counter()))


class Load(Running):
    """Edges that keep a cloud busy."""

    def __init__(self, port: int, request: Request, edges: int, window: int) -> None:
        super().__init__([self._run] * edges)
        self.port, self.request, self.window = port, request, window
        self.count = self.refused = 0
        self._lock = threading.Lock()

    def _run(self) -> None:
        with greeted(self.port, self.request) as (connection, _):
            for number in range(1, self.window + 1):
                ask(connection, self.request, number)
            while True:
                try:
                    answer(connection)
                    with self._lock:
                        self.count += 1
                except AppError as error:
                    if error.refusal != "BUSY":
                        raise
                    with self._lock:
                        self.refused += 1
                    time.sleep(0.05)
                if self._is_over.is_set():
                    return
                ask(connection, self.request, 1)

    def rate(self, seconds: float) -> float:
        """Answers per second from now on."""
        before, began = self.count, time.perf_counter()
        time.sleep(seconds)
        return (self.count - before) / (time.perf_counter() - began)


def workers_of(cloud: CloudProcess) -> list[int]:
    """Its child processes, once they are there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == cloud.process.pid:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(found)


def seconds_of(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def await_workers(cloud: CloudProcess, count: int, lost: int = 0) -> int:
    """Wait until so many answer, and so many were lost by then; returns how many were."""
    while True:
        state = health.ask(LOCAL, cloud.port, "", None).state
        if state is not None and state.workers >= count and state.lost >= lost:
            return state.lost
        time.sleep(0.2)


def throughput(cache: Path, request: Request, count: int, batch: int) -> tuple[float, list[float]]:
    """Answers a second of so many workers, and the share of a core that each has used."""
    flags = [
        "--workers",
        str(count),
        "--threads",
        "1",
        "--models",
        MODEL,
        "--max-batch",
        str(batch),
        "--max-queue",
        "64",
    ]
    with running_cloud(cache, *flags, "--quiet") as cloud:
        await_workers(cloud, count)
        with Load(cloud.port, request, 4 * count, max(2, batch // 2)) as load:
            until = time.perf_counter() + 60
            pids = workers_of(cloud)
            before = [seconds_of(pid) for pid in pids]
            while load.count < 8 * count:  # it is loaded and measured, the first time
                time.sleep(0.2)
            while time.perf_counter() < until:  # until each holds the network: it is busy then
                time.sleep(1.0)
                now = [seconds_of(pid) for pid in pids]
                if all(b - a > 0.5 * (max(now) - max(before)) > 0.1 for a, b in zip(before, now, strict=True)):
                    break
                before = now
            with Governor(pids, SHARE):
                load.rate(WARM_S)
                before = [seconds_of(pid) for pid in pids]
                rate = load.rate(MEASURE_S)
                used = [(seconds_of(pid) - each) / MEASURE_S for pid, each in zip(pids, before, strict=True)]
    return rate, used


def throughput_rows(cache: Path, batches: Sequence[int]) -> list[list[str]]:
    request = tail_of(network_of(MODEL))
    rows = []
    for batch in batches:
        one = one_s = 0.0
        for count in (1, 2, 4):
            rate, used = throughput(cache, request, count, batch)
            one, one_s = one or rate, one_s or rate / sum(used)
            cells = [f"{rate:.1f}", f"{rate / one / count:.2f}", f"{rate / sum(used) / one_s:.2f}"]
            cells.append(", ".join(f"{each:.2f}" for each in used))
            rows.append([f"{MODEL} tail, batch {batch}", str(count), *cells])
            print(rows[-1], file=sys.stderr)
    return rows


# --- the gateway


@contextmanager
def running_relay(port: int) -> Iterator[CloudProcess]:
    """A relay to a port that reads nothing but lengths."""
    command = [sys.executable, "-m", "benchmarks.bare_relay", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield CloudProcess(process, int(process.stdout.readline()))
        finally:
            process.kill()


def used_s(cloud: CloudProcess) -> float:
    """Processor time that all threads of a process have used, to the nanosecond."""
    tasks = Path(f"/proc/{cloud.process.pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


def latency_rows(clouds: "dict[str, CloudProcess]", tail: Request) -> list[list[str]]:
    """The same request of each in turns; the first is without a gateway."""
    took: dict[str, list[float]] = {name: [] for name in clouds}
    with ExitStack() as stack:
        connections = {name: stack.enter_context(greeted(each.port, tail)) for name, each in clouds.items()}
        _, ready = next(iter(connections.values()))
        request = cheapest_of(tail.network, ready.seconds)
        for turn in range(TURNS + 20):
            if turn == 20:
                before = {name: used_s(cloud) for name, cloud in clouds.items()}
            names = list(clouds)
            for name in names if turn % 2 else names[::-1]:
                began = time.perf_counter()
                ask(connections[name][0], request, turn + 1)
                answer(connections[name][0])
                if turn >= 20:
                    took[name].append(time.perf_counter() - began)
        spent = {name: (used_s(cloud) - before[name]) / TURNS for name, cloud in clouds.items()}
    (plain, alone), *others = took.items()
    size = f"{request.array.nbytes / 1e3:.0f} KB"
    rows = []
    for name, each in others:
        added = f"+{(median(each) - median(alone)) * 1e3:.2f} ms, {Versus.of(each, alone)}"
        cells = [format_seconds(median(alone)), format_seconds(median(each)), added]
        rows.append([f"p50 of {size}, little to compute: {name} against {plain}", *cells])
        rows.append([f"processor time of a request in {name}", "", format_seconds(spent[name]), ""])
    return rows


def gateway_rows(cache: Path) -> list[list[str]]:
    network = network_of(MODEL)
    flags = ("--models", MODEL, "--quiet", "--threads", "1")  # a core is left for the gateway
    with (
        running_cloud(cache, *flags) as plain,
        running_cloud(cache, *flags, "--workers", "1") as gateway,
        running_relay(plain.port) as relay,
    ):
        await_workers(gateway, 1)
        tail = tail_of(network)
        rows = latency_rows({"no workers": plain, "--workers 1": gateway, "a bare relay": relay}, tail)
        rates: dict[str, list[float]] = {"no workers": [], "--workers 1": []}
        for _ in range(3):
            for name, cloud in zip(rates, (plain, gateway), strict=True):
                with Load(cloud.port, tail, 4, 2) as load:
                    load.rate(1.0)
                    rates[name].append(load.rate(4.0))
        best = {name: median(each) for name, each in rates.items()}
        rows.append(
            [
                f"answers a second, {MODEL} tail",
                *(f"{each:.1f}" for each in best.values()),
                f"x {Versus.of(rates['--workers 1'], rates['no workers'])}",
            ]
        )
        rows.append(["resident memory", *(f"{each.rss_bytes / 1e6:.0f} MB" for each in (plain, gateway)), ""])
    return rows


# --- edges that look


@dataclass
class Watched(Counts):
    """Edges that look at every answer."""

    seconds: list[float] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, port: int, request: Request, expected: Array) -> None:
        try:
            with greeted(port, request) as (connection, _):
                while not self._is_over.wait(PAUSE_S):
                    self.ask(connection, request, expected)
        except AppError as error:
            self.lost.append(str(error))

    def ask(self, connection: Connection, request: Request, expected: Array) -> None:
        began = time.perf_counter()
        ask(connection, request, 1)
        try:
            _, got = answer(connection)
        except AppError as error:
            if not error.refusal:
                raise
            with self._lock:
                self.refused += 1
            return
        is_right = np.allclose(got, expected, rtol=1e-3, atol=1e-3)
        with self._lock:
            self.right += is_right
            self.wrong += not is_right
        self.seconds.append(time.perf_counter() - began)

    def finish(self, threads: Sequence[threading.Thread]) -> None:
        self._is_over.set()
        for thread in threads:
            thread.join()


# --- scaling


def scale_rows(cache: Path, times: int) -> list[list[str]]:
    """From one worker to four and back, again and again; every time all edges get answers."""
    network = network_of(SMALL)
    request = Request(network, [[1, len(network.graph.layers)]], np.asarray(network.example.tensor))
    with torch.no_grad():
        expected = np.asarray(network.loaded.model(torch.from_numpy(request.array)))
    config = CloudConfig(port=0, models=(SMALL,), device=DeviceConfig(cache_dir=cache, threads=1))
    placement = LocalPlacement(1, Setup(arguments_of(config), threads=1))
    gateway = Gateway(config, placement=placement)
    _, port = gateway.server.open()
    gateway.begin()
    serving = threading.Thread(target=gateway.server.serve)
    serving.start()
    watched = Watched()
    threads = [threading.Thread(target=watched.run, args=(port, request, expected)) for _ in range(EDGES)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(times):
            for wanted in (4, 1):
                placement.wanted = wanted
                deadline = soon()
                while gateway.fleet.well != wanted:
                    deadline.remaining()
                    time.sleep(0.1)
                until = watched.right + 5 * EDGES
                while watched.right < until:
                    deadline.remaining()
                    time.sleep(0.1)
                print(wanted, watched.right, watched.lost, file=sys.stderr)
    finally:
        watched.finish(threads)
        gateway.server.stop()
        serving.join()
        gateway.close()
    now = gateway.fleet.load_now()
    counts = (watched.right, watched.wrong, len(watched.lost), watched.refused, now.repeats)
    return [[f"1-4-1, {times} times, {EDGES} edges", *map(str, counts)]]


def throughput_table(name: str, cache: Path, batches: Sequence[int]) -> None:
    """Measure and write it."""
    write_table(
        f"workers_{name}",
        "Workers: throughput",
        ["what", "workers", "answers a second", "of linear", "by core used", "core of each"],
        throughput_rows(cache, batches),
        [f"Each worker has {SHARE:.0%} of a core, emulated; edges, gateway and workers share the machine."],
    )


def main(argv: list[str]) -> int:
    """Measure what is asked for, and write benchmarks/results/workers_*.md."""
    wanted = [each for each in argv if not each.isdecimal() and each != WARM] or ["throughput", "gateway", "scale"]
    times = next((int(each) for each in argv if each.isdecimal()), EACH)
    with TemporaryDirectory() as folder:
        cache = Path(folder)
        made: dict[str, Callable[[], None]] = {
            name: partial(throughput_table, name, cache, batches) for name, batches in BATCHES.items()
        } | {
            "gateway": lambda: write_table(
                "workers_gateway",
                "Workers: what the gateway adds",
                ["what", "no workers", "with it", "difference"],
                gateway_rows(cache),
                ["All run at once and are asked in turns."],
            ),
            "scale": lambda: write_table(
                "workers_scale",
                "Workers that come and go",
                ["what", "answered", "wrong", "lost", "refused", "repeated"],
                scale_rows(cache, times),
                ["Workers that are not wanted any more finish what they have."],
            ),
        }
        with warm.Starter().at_work() if WARM in argv else nullcontext():
            for name in wanted:
                made[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
