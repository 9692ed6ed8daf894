"""Where benchmarks.faults happens: clouds that can be killed, links that can be frozen, an observed edge."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from edgecloud.client.edge import Answered, Edge
from edgecloud.client.resilient import ResilientClient
from edgecloud.client.subprocesses import LISTENING, Child
from edgecloud.engine.answers import matches, whole_answer
from edgecloud.engine.executor import TorchExecutor, prepare
from edgecloud.engine.times import measured
from edgecloud.lab.hosts import BURST, LATENCY
from edgecloud.models import inputs, registry, weights
from edgecloud.partition.cost import Part, parts_of
from edgecloud.predictor.store import default_folder
from edgecloud.utils.commands import ROOT
from edgecloud.utils.errors import AppError
from edgecloud.utils.inference_utils import find_device, set_threads

RATE, POINT, THREADS = "20mbit", 3, "2"
TIMEOUT_S, LATE_S = 2.0, 0.5
BACK_S = 150.0


@dataclass
class Row:
    """The measurements of one fault."""

    name: str
    faults: int = 0
    answers: list[Answered] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    detected_s: list[float] = field(default_factory=list)
    """From the fault until the edge gave the cloud up."""
    back_s: list[float] = field(default_factory=list)
    """From when the cloud can be reached again until it takes part again."""
    note: str = ""
    timeout_s: float = TIMEOUT_S

    def cells(self) -> list[str]:
        """The row of the table."""
        ways = [answer.completed_by for answer in self.answers]
        totals = [answer.measured.total_s for answer in self.answers]
        late = sum(total > self.timeout_s + LATE_S for total in totals)
        counted = ", ".join(f"{ways.count(way)} {way}" for way in sorted(set(ways)))
        return [
            *(self.name, str(self.faults), f"{len(totals)} ({counted})" if totals else "-"),
            *(str(self.wrong), str(self.lost), str(late) if totals else "-"),
            *(_spread(self.detected_s), _spread(totals), _spread(self.back_s), self.note),
        ]


HEAD = ["fault", "times", "inferences", "wrong", "lost", "late", "to detect", "to answer", "back on split", ""]


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f}, most {max(seconds):.2f} s" if seconds else "-"


class Clouds:
    """One cloud at a time, always on the same port."""

    def __init__(self, host: str = "127.0.0.1", before: Sequence[str] = ()) -> None:
        self._host, self._before, self.port = host, before, 0
        self.process: subprocess.Popen[str] | None = None

    def start(self, program: Sequence[str] = ("cloud_api.py",)) -> None:
        """Start one, and wait until it listens."""
        arguments = ["-i", self._host, "-p", str(self.port), "--threads", THREADS, "--insecure", "--log-level", "error"]
        command = [*self._before, sys.executable, *program, *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line.startswith(LISTENING), line
        self.port = int(line.rpartition(":")[2])

    def tell(self, number: int) -> None:
        """Send a signal; the process is the cloud itself, `ip netns exec` has become it."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, wait, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)


@dataclass
class Site:
    """A cloud, and a link to it that can be frozen."""

    clouds: Clouds
    address: tuple[str, int]
    freeze: Callable[[], None]
    thaw: Callable[[], None]


@contextmanager
def on_loopback(*faults: str) -> Iterator[Site]:
    """A cloud behind an emulated link, which a stopped process freezes."""
    clouds = Clouds()
    clouds.start()
    to = ("127.0.0.1", str(clouds.port))
    link = ("--link", f"{RATE},10ms", *faults)
    relay = Child(["-m", "edgecloud.lab.relay", "--to", *to, "--exit-on-stdin-eof", *link])
    try:
        address = relay.address()
        yield Site(
            *(clouds, address), lambda: os.kill(relay.pid, signal.SIGSTOP), lambda: os.kill(relay.pid, signal.SIGCONT)
        )
    finally:
        os.kill(relay.pid, signal.SIGCONT)
        relay.stop()
        clouds.end()


@contextmanager
def on_a_cable(host: str, before: Sequence[str]) -> Iterator[Site]:
    """This process runs on one host, the cloud on the other; a frozen link loses every packet of the edge."""
    clouds = Clouds(host, before)
    clouds.start()
    both_ways = ("tc", "qdisc", "replace", "dev", "ecci1", "root", "tbf", "rate", RATE, "burst", BURST)
    subprocess.run([*before, *both_ways, "latency", LATENCY], check=True)

    def shape(*discipline: str) -> None:
        subprocess.run(["tc", "qdisc", "replace", "dev", "ecci0", "root", *discipline], check=True)

    try:
        yield Site(
            clouds,
            (host, clouds.port),
            lambda: shape("bfifo", "limit", "1"),
            lambda: shape("tbf", "rate", RATE, "burst", BURST, "latency", LATENCY),
        )
    finally:
        clouds.end()


class Subject:
    """An edge with alex_net, connected to a cloud."""

    def __init__(self, address: tuple[str, int], timeout_s: float = TIMEOUT_S) -> None:
        set_threads(int(THREADS))
        entry = registry.lookup("alex_net")
        network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
        self.edge = Edge(entry, network, TorchExecutor(network, find_device("cpu")))
        self.edge.connect(*address, "", 120.0)
        self.parts = parts_of(self.edge.graph, self.edge.graph.head_at(POINT))
        self.x = np.asarray(network.example.tensor)
        self.expected = whole_answer(network.loaded.model, network.example.tensor)
        edge_s = measured(self.edge.executor, default_folder()).seconds
        took = [self.edge.infer_parts(self.x, self.parts, 30.0).measured for _ in range(3)]
        self.edge.executor.run(self.edge.executor.load(self.edge.graph.everything), [self.x])
        waiting_s = median(run.total_s - run.edge_s for run in took)
        assert self.edge.cloud is not None
        self.cloud = self.edge.cloud
        self.cloud.measure()
        self.steady = ResilientClient(self.edge, self.cloud, timeout_s, edge_s, {self.parts: waiting_s})

    def infer(self, row: Row, parts: tuple[Part, ...] | None = None) -> Answered | None:
        """One inference, noted in `row`."""
        try:
            answered = self.steady.infer(self.x, parts or self.parts)
        except AppError as error:
            print(f"lost: {error}", file=sys.stderr)
            row.lost += 1
            return None
        row.answers.append(answered)
        row.wrong += not matches(answered.outputs, self.expected)
        return answered

    def until_split(self, row: Row, since: float) -> None:
        """Go on until the cloud takes part again."""
        while time.monotonic() - since < BACK_S:
            answered = self.infer(row)
            if answered is not None and answered.completed_by == "split":
                row.back_s.append(time.monotonic() - since)
                return
            time.sleep(0.02)
        row.note = f"not back within {BACK_S:.0f} s"

    def close(self) -> None:
        """Close the connection."""
        self.edge.close()
