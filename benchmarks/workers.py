"""A gateway and its workers: throughput, what the gateway adds, and workers that are killed or stopped.

    python -m benchmarks.workers [throughput] [gateway] [lost] [scale]

Throughput: edges keep a gateway busy whose workers have a share of a core each, emulated with SIGSTOP and SIGCONT
in turns, so that two cores can show four of them. Gateway: the same request, of about 200 KB and with little to
compute, in turns over a gateway with one worker, to a cloud without, and to that over a relay that reads nothing but
lengths (benchmarks.bare_relay), which no gateway in Python can be quicker than; then as many answers as each gives.
Lost: a worker is killed, or stopped, at five stages of a request, while other edges go on; every answer is compared
with the network's.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
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
from benchmarks.noise import Versus
from edgecloud.engine.device_config import DeviceConfig
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork, prepare
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

LOCAL = "127.0.0.1"
MODEL, SMALL = "alex_net", "le_net"
BOUNDARY, SMALL_BYTES = range(100_000, 250_000), 50_000
SHARE, PERIOD_S = 0.2, 0.02
WARM_S, MEASURE_S = 5.0, 8.0
TURNS = 400
STAGES = ("loading", "sending", "computing", "answering", "idle")
EACH = 4


def soon(seconds: float = 120.0) -> Deadline:
    return Deadline.after(seconds, "the benchmark")


def network_of(name: str) -> TorchNetwork:
    entry = registry.lookup(name)
    return prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)


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


def throughput_rows(cache: Path) -> list[list[str]]:
    request = tail_of(network_of(MODEL))
    rows = []
    for batch in (1, 8):
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


# --- workers that are lost


@dataclass
class Watched:
    """Edges that look at every answer."""

    right: int = 0
    wrong: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self, port: int, request: Request, expected: Array) -> None:
        try:
            with greeted(port, request) as (connection, _):
                while not self._is_over.is_set():
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
            self.refused += 1
            return
        is_right = np.allclose(got, expected, rtol=1e-3, atol=1e-3)
        self.right += is_right
        self.wrong += not is_right
        self.seconds.append(time.perf_counter() - began)

    def finish(self, threads: Sequence[threading.Thread]) -> None:
        self._is_over.set()
        for thread in threads:
            thread.join()


def lost_row(cloud: CloudProcess, request: Request, stage: str, number: signal.Signals, times: int) -> list[str]:
    """Lose a worker so many times at a stage of one request, beside edges that go on."""
    with torch.no_grad():
        expected = np.asarray(request.network.loaded.model(torch.from_numpy(request.array)))
    others, mine = Watched(), Watched()
    threads = [threading.Thread(target=others.run, args=(cloud.port, request, expected)) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = random.Random(stage)
    for _ in range(times):
        lost_before = await_workers(cloud, 2)
        time.sleep(3.0)  # both hold the network again
        victim = rng.choice(workers_of(cloud))
        with greeted(cloud.port, request) as (connection, _):
            typical_s = median(others.seconds[-50:] or [0.1])
            delays = {
                "loading": 0.0,
                "sending": 0.0005,
                "computing": typical_s / 2,
                "answering": typical_s,
                "idle": 0.0,
            }
            timer = threading.Timer(delays[stage], _send, (victim, number))
            if stage == "loading":
                _send(victim, number)
            elif stage == "idle":
                _send(victim, number)
                time.sleep(0.5)
            else:
                timer.start()
            mine.ask(connection, request, expected)
        await_workers(cloud, 2, lost_before + 1)
    others.finish(threads)
    lost = len(mine.lost) + len(others.lost)
    ordered = sorted(others.seconds)
    p99 = ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0
    answers = f"{mine.right} of {times}", str(others.right), str(mine.wrong + others.wrong), str(lost)
    return [number.name, stage, *answers, str(mine.refused + others.refused), format_seconds(p99)]


def _send(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)


def lost_rows(cache: Path, times: int) -> list[list[str]]:
    network = network_of(SMALL)
    graph = network.graph
    request = Request(network, [[1, len(graph.layers)]], np.asarray(network.example.tensor))
    rows = []
    with running_cloud(cache, "--workers", "2", "--threads", "1", "--models", SMALL, "--quiet") as cloud:
        await_workers(cloud, 2)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            for stage in STAGES:
                rows.append(lost_row(cloud, request, stage, number, times))
                print(rows[-1], file=sys.stderr)
    return rows


# --- scaling


def scale_rows(cache: Path, times: int) -> list[list[str]]:
    """From one worker to four and back, with edges that never pause."""
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
    threads = [threading.Thread(target=watched.run, args=(port, request, expected)) for _ in range(16)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(times):
            for wanted in (4, 1):
                placement.wanted = wanted
                while gateway.fleet.well != wanted:
                    time.sleep(0.1)
                time.sleep(1.0)
    finally:
        watched.finish(threads)
        gateway.server.stop()
        serving.join()
        gateway.close()
    now = gateway.fleet.load_now()
    counts = (watched.right, watched.wrong, len(watched.lost), watched.refused, now.repeats)
    return [[f"1-4-1, {times} times, 16 edges", *map(str, counts)]]


def main(argv: list[str]) -> int:
    """Measure what is asked for, and write benchmarks/results/workers_*.md."""
    wanted = [each for each in argv if not each.isdecimal()] or ["throughput", "gateway", "lost", "scale"]
    times = next((int(each) for each in argv if each.isdecimal()), EACH)
    with TemporaryDirectory() as folder:
        cache = Path(folder)
        made: dict[str, Callable[[], None]] = {
            "throughput": lambda: write_table(
                "workers_throughput",
                "Workers: throughput",
                ["what", "workers", "answers a second", "of linear", "by core used", "core of each"],
                throughput_rows(cache),
                [f"Each worker has {SHARE:.0%} of a core, emulated; edges, gateway and workers share the machine."],
            ),
            "gateway": lambda: write_table(
                "workers_gateway",
                "Workers: what the gateway adds",
                ["what", "no workers", "with it", "difference"],
                gateway_rows(cache),
                ["All run at once and are asked in turns."],
            ),
            "lost": lambda: write_table(
                "workers_lost",
                "Workers that are lost",
                ["signal", "stage", "answered", "by others", "wrong", "lost", "refused", "p99 of others"],
                lost_rows(cache, times),
                ["Two workers; refused: the edge answers by itself."],
            ),
            "scale": lambda: write_table(
                "workers_scale",
                "Workers that come and go",
                ["what", "answered", "wrong", "lost", "refused", "repeated"],
                scale_rows(cache, times),
                ["Workers that are not wanted any more finish what they have."],
            ),
        }
        for name in wanted:
            made[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
