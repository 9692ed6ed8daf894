"""Workers that are lost at a stage of a request: does an answer get lost, is one wrong, and do other edges notice?

    python -m benchmarks.losses [--kinds kill,stop,oom] [--stages waiting,...] [--times 20] [--minutes 5] [--warm]

A real gateway with four workers. One of them is killed with SIGKILL, stopped with SIGSTOP, or killed by the kernel for
want of memory in its control group (root is needed), at a stage of one request: while nobody waits for it, in the
middle of the request's body, while it computes, in the middle of the answer, or while it loads a network with its
weights. Taps in the workers' sockets hold a frame until the signal has had its effect (benchmarks.taps). What came too
late, or to a worker that no tap was in yet, is not counted and done again.

Meanwhile three other edges ask for LeNet, five times a second each. Every fourth loss is followed by the same request
without one, when all workers are well, for as long as the loss took but at most 5 s; the other edges' p99 is compared
between the two. Every answer is compared with the network's own. Each trial is written down at once and not done again:
a table may be made in several runs. With --warm programs start as in the tests (tests/warm.py), without loading torch
for three seconds of a processor each time: that counts answers sooner, and spares the other edges what a start costs.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch

from benchmarks.clouds import CloudProcess, running_cloud
from benchmarks.fingerprint import RESULTS, write_table
from benchmarks.memory_group import MemoryGroup
from benchmarks.taps import ANSWERING, COMPUTING, LOADING, SENDING, Taps, Trap, Worker, await_state, state_of
from edgecloud.engine.identity import hello_of
from edgecloud.models import inputs, registry, weights
from edgecloud.models.network import DEFAULT
from edgecloud.models.torch_network import TorchNetwork, prepare
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Infer, Ready, Result
from edgecloud.net.tensors import Array
from edgecloud.server import health
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import format_seconds
from tests import warm

HOST = "127.0.0.1"
KINDS = ("kill", "stop", "oom")
WAITING = "waiting"
STAGES = (WAITING, SENDING, COMPUTING, ANSWERING, LOADING)
OTHERS, PAUSE_S = 3, 0.2
LARGE_BYTES = 1_000_000
"""Payloads of our request and answer are larger, those of the other edges smaller."""
WORKERS, LEAST = 4, 3
"""How many there are, and how many have to be well for the next one to be lost."""
CALM_S, CALM_EVERY, WINDOW_S = 5.0, 4, 3.0
BURST = 8
EFFECT_S, REPLACED_S, ANSWER_S, READY_S = 10.0, 200.0, 60.0, 300.0
SETTLED_S = 0.5
LARGE = ("senna_pos", "cifar_alexnet", "mnist", "senna_ner", "mobile_net", "senna_chk", "cifar_vgg16", "kaldi")
"""Networks that are each loaded once, until the gateway is started anew."""
KEPT = 0.1
"""The slowest tenth of each trial's times is written down: more than a p99 needs."""
FACTOR = 2.0
FILE = "losses_net.py"
SLOW = """
from torch import nn

INPUT_SHAPE = (3, 96, 96)


def build():
    layers = [nn.Conv2d(3, 64, 3, padding=1)]
    for _ in range(5):
        layers += [nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


# --- what is asked for


@dataclass(frozen=True)
class Question:
    """A request, and its answer."""

    network: TorchNetwork
    layers: list[list[int]]
    array: Array
    expected: Array


def slow_in(folder: Path) -> tuple[list[str], TorchNetwork]:
    """A network of a fifth of a second, with weights in a file: the flags of a cloud, and what an edge has."""
    path, file = folder / FILE, folder / "weights.pt"
    path.write_text(SLOW)
    torch.manual_seed(1)
    torch.save(registry.resolve_trusted(str(path)).build().state_dict(), file)
    return ["--network", str(path), "--weights", f"{FILE}={file}"], network_of(str(path), str(file))


def network_of(name: str, file: str = DEFAULT) -> TorchNetwork:
    """As an edge has it."""
    entry = registry.resolve_trusted(name)
    return prepare(weights.load(entry, file), inputs.sample(entry.sample, entry.preprocess), entry.name)


def asked(network: TorchNetwork, start: int, stop: int) -> Question:
    """Some layers of a chain, of the sample."""
    layers = list(network.loaded.model.children())
    x = network.example.tensor
    with torch.no_grad():
        for layer in layers[: start - 1]:
            x = layer(x)
        array = np.asarray(x)
        for layer in layers[start - 1 : stop - 1]:
            x = layer(x)
    return Question(network, [[start, stop]], array, np.asarray(x))


def whole(network: TorchNetwork) -> Question:
    """All layers."""
    x = network.example.tensor
    with torch.no_grad():
        return Question(network, [[1, len(network.graph.layers)]], np.asarray(x), np.asarray(network.loaded.model(x)))


# --- edges


@dataclass
class Counts:
    """What came of requests."""

    right: int = 0
    wrong: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)


def soon(seconds: float = ANSWER_S) -> Deadline:
    """A deadline."""
    return Deadline.after(seconds, "the benchmark")


@contextmanager
def greeted(port: int, question: Question) -> Iterator[Connection]:
    """A connection that has heard READY. Raises AppError."""
    with closing(connect(HOST, port, 10.0)) as connection:
        connection.send(hello_of(question.network, codecs=["raw"]), soon())
        connection.receive(soon(READY_S)).read(Ready)
        yield connection


def ask(connection: Connection, question: Question, counts: Counts) -> None:
    """Ask and compare. Raises AppError where no answer came."""
    connection.send(Infer(1, question.layers, ANSWER_S, question.network.graph.name), soon(), [question.array])
    try:
        frame = connection.receive(soon())
        frame.read(Result)
        got = frame.arrays()[0]
    except AppError as error:
        if not error.refusal:
            raise
        counts.refused += 1
        return
    is_right = got.shape == question.expected.shape and np.allclose(got, question.expected, rtol=1e-3, atol=1e-3)
    counts.right += is_right
    counts.wrong += not is_right


class Others:
    """Edges that go on, whatever happens to workers."""

    def __init__(self, port: int, question: Question) -> None:
        self._port, self._question = port, question
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self.counts, self._took = Counts(), list[tuple[float, float]]()
        self._threads = [threading.Thread(target=self._run) for _ in range(OTHERS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                with greeted(self._port, self._question) as connection:
                    while not self._is_over.wait(PAUSE_S):
                        began = time.perf_counter()
                        ask(connection, self._question, self.counts)
                        with self._lock:
                            self._took.append((began, time.perf_counter() - began))
            except AppError as error:
                with self._lock:
                    self.counts.lost.append(str(error))
                self._is_over.wait(1.0)

    def take(self) -> tuple[Counts, list[float]]:
        """What came since the last time."""
        with self._lock:
            counts, self.counts = self.counts, Counts()
            took, self._took = self._took, []
        return counts, [seconds for _, seconds in took]

    def close(self) -> None:
        """End them."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()


# --- what happens to a worker


def _kill(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    await_state(worker.pid, "ZX", EFFECT_S)


def _stop(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    await_state(worker.pid, "T", EFFECT_S)


def _run_out(worker: Worker) -> None:
    (group,) = (each for each in worker.kept if isinstance(each, MemoryGroup))
    group.run_out()
    if not (await_state(worker.pid, "ZX", EFFECT_S) and group.killed):
        raise RuntimeError("the kernel has not killed it")


ACTS: Mapping[str, Callable[[Worker], None]] = {"kill": _kill, "stop": _stop, "oom": _run_out}


def nothing(_: Worker) -> None:
    """For the trials without a loss."""


# --- trials


@dataclass(frozen=True)
class Trial:
    """One of them, as it is written down."""

    kind: str
    stage: str
    is_loss: bool
    seconds: float
    right: int
    wrong: int
    refused: int
    lost: list[str]
    took_s: float
    """Of our request, with its HELLO where that is what is disturbed."""
    others: Counts
    count: int
    """Of the other edges' times ..."""
    slowest: list[float]
    """... and the slowest tenth of them."""


class MissedError(Exception):
    """The stage was over before, or the request went past the taps."""


class Site:
    """A gateway, its workers, and other edges."""

    def __init__(self, folder: Path, stack: ExitStack, *, has_groups: bool) -> None:
        flags, slow = slow_in(folder)
        count = len(slow.graph.layers)
        self.questions = {
            SENDING: asked(slow, 2, count),
            COMPUTING: asked(slow, 2, count),
            ANSWERING: asked(slow, 1, 2),
            WAITING: asked(slow, 1, count),
        }
        self._large = iter(LARGE)
        self._groups: list[MemoryGroup] = []
        models = ",".join(("le_net", *LARGE))
        self.cloud: CloudProcess = stack.enter_context(
            running_cloud(folder, "--workers", str(WORKERS), "--threads", "1", "--models", models, *flags, "--quiet")
        )
        stack.callback(self._remove_groups)
        self.taps = stack.enter_context(closing(Taps(self.cloud.process.pid, self._met if has_groups else nothing)))
        self.small = whole(network_of("le_net"))
        self.await_workers()
        self.others = stack.enter_context(closing(Others(self.cloud.port, self.small)))
        with greeted(self.cloud.port, self.questions[WAITING]):  # it is loaded and measured, the first time
            deadline = soon(READY_S)
            while self.others.counts.right < OTHERS and deadline.remaining():
                time.sleep(SETTLED_S)

    def _met(self, worker: Worker) -> None:
        group = MemoryGroup(worker.pid)
        worker.kept.append(group)
        self._groups.append(group)

    def _remove_groups(self, *, only_ended: bool = False) -> None:
        for group in [each for each in self._groups if not only_ended or state_of(each.pid) in "ZX"]:
            group.close()
            self._groups.remove(group)

    def await_workers(self, least: int = WORKERS) -> None:
        """Wait until so many are well and have taps, and have what is asked for."""
        self._remove_groups(only_ended=True)
        deadline = soon(REPLACED_S)
        while deadline.remaining():
            with suppress(AppError):
                state = health.ask(HOST, self.cloud.port, "", None).state
                if state is not None and state.workers >= least and len(self.taps.running()) >= least:
                    break
            time.sleep(0.2)
        for question in (self.small, self.questions[WAITING]):  # one that is behind has another one load it too
            with suppress(AppError), greeted(self.cloud.port, question) as connection:
                model = question.network.graph.name
                for number in range(BURST):
                    connection.send(Infer(number + 1, question.layers, ANSWER_S, model), soon(), [question.array])
                for _ in range(BURST):
                    connection.receive(soon())
        time.sleep(SETTLED_S)

    def question(self, stage: str) -> Question:
        """What is asked at a stage. Raises StopIteration where there is no network left to be loaded."""
        if stage != LOADING:
            return self.questions[stage]
        return whole(network_of(next(self._large)))

    def run(self, kind: str, stage: str, rng: random.Random, calm_s: float | None) -> Trial:
        """One trial, without a loss for `calm_s`. Raises MissedError, and StopIteration."""
        question = self.question(stage)
        self.await_workers(LEAST if calm_s is None else WORKERS)
        act = ACTS[kind] if calm_s is None else nothing
        counts = Counts()
        self.others.take()
        began = time.perf_counter()
        try:
            took_s = self._disturbed(stage, act, question, counts, rng)
        except AppError as error:
            counts.lost.append(str(error))
            took_s = time.perf_counter() - began
        finally:
            self.taps.arm(None)
        time.sleep(max(0.0, (calm_s or WINDOW_S) - (time.perf_counter() - began)))
        seconds = time.perf_counter() - began
        others, took = self.others.take()
        slowest = [round(each, 5) for each in sorted(took)[-max(1, round(KEPT * len(took))) :]]
        mine = (counts.right, counts.wrong, counts.refused, counts.lost)
        return Trial(
            kind, stage, calm_s is None, round(seconds, 2), *mine, round(took_s, 4), others, len(took), slowest
        )

    def _disturbed(
        self, stage: str, act: Callable[[Worker], None], question: Question, counts: Counts, rng: random.Random
    ) -> float:
        if stage == WAITING:
            with greeted(self.cloud.port, question) as connection:
                act(rng.choice([worker for worker in self.taps.running() if state_of(worker.pid) != "T"]))
                time.sleep(rng.uniform(0.0, 0.05))
                began = time.perf_counter()
                ask(connection, question, counts)
            return time.perf_counter() - began
        model = question.network.graph.name if stage == LOADING else ""
        size = 0 if stage == LOADING else LARGE_BYTES
        trap = Trap(stage, act, size, model, rng.uniform(0.0, 0.1))
        with ExitStack() as stack:
            if stage == LOADING:
                self.taps.arm(trap)
            began = time.perf_counter()
            connection = stack.enter_context(greeted(self.cloud.port, question))
            if stage != LOADING:
                self.taps.arm(trap)
                began = time.perf_counter()
            ask(connection, question, counts)
            took_s = time.perf_counter() - began
        if not trap.is_over.wait(0.0 if trap.worker is None else EFFECT_S) or (trap.is_late and act is not nothing):
            raise MissedError
        return took_s


# --- the table


def measure(path: Path, wanted: Sequence[tuple[str, str]], times: int, until: float) -> int:
    """Do what is not done yet, as long as there is time; returns how many trials missed their stage."""
    missed, folder = 0, Path(gettempdir()) / "edge-cloud-losses"  # layers are measured once
    folder.mkdir(exist_ok=True)
    while time.monotonic() < until and (left := _left(read(path), wanted, times)):
        with ExitStack() as stack:
            site = Site(folder, stack, has_groups=any(kind == "oom" for kind, _ in wanted))
            with suppress(StopIteration):
                while time.monotonic() < until and (left := _left(read(path), wanted, times)):
                    kind, stage, number = left
                    rng = random.Random(f"{kind} {stage} {number} {missed}")
                    try:
                        loss = site.run(kind, stage, rng, None)
                        calm = [] if number % CALM_EVERY else [site.run(kind, stage, rng, min(CALM_S, loss.seconds))]
                    except MissedError:
                        missed += 1
                        continue
                    with path.open("a") as file:
                        file.writelines(json.dumps(asdict(each)) + "\n" for each in (loss, *calm))
                    print(kind, stage, number + 1, f"{loss.took_s:.2f} s", asdict(loss.others), file=sys.stderr)
    return missed


def read(path: Path) -> list[Trial]:
    """What is written down."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Trial(**{**row, "others": Counts(**row["others"])}) for row in rows]


def _left(trials: Sequence[Trial], wanted: Sequence[tuple[str, str]], times: int) -> tuple[str, str, int] | None:
    """The next one, and how many there are of its kind: the fewest."""
    counts = {pair: sum(each.is_loss and (each.kind, each.stage) == pair for each in trials) for pair in wanted}
    (kind, stage), count = min(counts.items(), key=lambda item: item[1])
    return (kind, stage, count) if count < times else None


def p99(trials: Sequence[Trial]) -> float:
    """Of the other edges' requests in these trials."""
    slowest = sorted((each for trial in trials for each in trial.slowest), reverse=True)
    return slowest[int(0.01 * sum(trial.count for trial in trials))]


def row_of(kind: str, stage: str, trials: Sequence[Trial]) -> list[str]:
    """Of one kind of loss at one stage."""
    losses, calm = ([each for each in trials if each.is_loss is is_loss] for is_loss in (True, False))
    with_s, without_s = p99(losses), p99(calm)
    longest = [max(max(each.slowest) for each in side) for side in (losses, calm)]
    mine = [each.took_s for each in losses]
    return [
        kind,
        stage,
        f"{sum(each.right for each in losses)} of {len(losses)}",
        str(sum(each.others.right for each in losses)),
        str(sum(each.wrong + each.others.wrong for each in losses)),
        str(sum(len(each.lost) + len(each.others.lost) for each in losses)),
        str(sum(each.refused + each.others.refused for each in losses)),
        f"{format_seconds(float(np.median(mine)))}, {format_seconds(max(mine))}",
        f"{format_seconds(with_s)} / {format_seconds(without_s)} = {with_s / without_s:.2f}",
        " / ".join(map(format_seconds, longest)),
    ]


HEAD = [
    *("loss", "stage", "answered", "by other edges", "wrong", "lost", "refused", "ours: median, longest"),
    *("p99 of others, with / without", "longest of others, with / without"),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write benchmarks/results/NAME.md; 1 where an answer was wrong or lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.losses", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--trials", type=Path, default=RESULTS / "losses.jsonl", help="where trials are written down")
    parser.add_argument("--warm", action="store_true", help="workers are copies of a process that has loaded torch")
    parser.add_argument("--results", default="losses")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    wanted = [(kind, stage) for kind in options.kinds.split(",") for stage in options.stages.split(",")]
    with warm.Starter().at_work() if options.warm else nullcontext():
        missed = measure(options.trials, wanted, options.times, time.monotonic() + 60 * options.minutes)
    trials = read(options.trials)
    pairs = dict.fromkeys((each.kind, each.stage) for each in trials)
    rows = [row_of(*pair, [each for each in trials if (each.kind, each.stage) == pair]) for pair in pairs]
    for kind in dict.fromkeys(each.kind for each in trials):
        rows.append(row_of(kind, "all", [each for each in trials if each.kind == kind]))
    write_table(options.results, "Workers that are lost", HEAD, rows, NOTES)
    print(f"{missed} trials of this run missed their stage", file=sys.stderr)
    return int(any(each.wrong or each.lost or each.others.wrong or each.others.lost for each in trials))


NOTES = [
    f"{WORKERS} workers, of which {LEAST} or more are well when one is lost; {OTHERS} other edges ask for LeNet, "
    f"{1 / PAUSE_S:.0f} times a second each. `refused`: the gateway says BUSY, and an edge answers by itself. `ours`: "
    "the request that was disturbed, with loading where that is the stage. Trials with and without a loss are "
    f"interleaved. The bar is 0 wrong, 0 lost, and a p99 of at most {FACTOR:g} times that without.",
]

if __name__ == "__main__":
    sys.exit(main())
