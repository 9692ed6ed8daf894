"""What is promised of a gateway beside its speed: no worker, many requests, and a network that is loaded for the first
time.

    python -m benchmarks.gateways waking
    python -m benchmarks.gateways memory [--requests 100000] [--minutes 5] [--state FILE]
    python -m benchmarks.gateways first [--rounds 5]

Waking: real edges, as they are by default, ask a gateway whose worker is not there, or has left; it comes, and they use
it again. Memory: four connections ask one gateway for LeNet, each for a thousand times, then anew; resident memory is
read on the way. That may take several runs of the same command: the gateway stays. First: p95 of an edge with LeNet
while another one has VGG16 loaded and measured by the second worker, and just before.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import torch

import edgecloud as ec
from benchmarks.clouds import free_port, rss_of, running_cloud
from benchmarks.fingerprint import write_table
from benchmarks.losses import HOST, Counts, Question, ask, greeted, network_of, whole
from benchmarks.noise import Figure
from edgecloud.client.subprocesses import LISTENING
from edgecloud.engine.answers import matches
from edgecloud.net.connection import Connection
from edgecloud.server import health
from edgecloud.utils.commands import ROOT
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import format_seconds

ASKED, EDGES = 100, 2
WAIT_S = 300.0
CONNECTIONS, EACH = 4, 1000
MARKS = (1_000, 10_000, 50_000, 100_000)
FLAT = 1.1
"""Resident memory at the end, as a share of that after a tenth of the requests."""
CALM_S, PAUSE_S = 10.0, 0.02
FACTOR = 1.5


# --- no worker


def await_count(port: int, count: int) -> None:
    """Wait until so many workers may be asked."""
    deadline = Deadline.after(WAIT_S, f"{count} workers")
    while deadline.remaining():
        with suppress(AppError):
            state = health.ask(HOST, port, "", None).state
            if state is not None and state.workers == count:
                return
        time.sleep(0.1)


class Edges:
    """Real edges that ask again and again, each in its turn."""

    def __init__(self, port: int, folder: Path, stack: ExitStack) -> None:
        self._net = ec.load("le_net")
        self._expected = whole(network_of("le_net")).expected
        place = f"{HOST}:{port}"
        self._edges = [stack.enter_context(ec.Edge(self._net, place, point=0, cache_dir=folder)) for _ in range(EDGES)]

    def ask(self, count: int) -> tuple[dict[str, int], float]:
        """So many inferences: how often each side has completed them, with wrong answers, and the longest time."""
        ways: dict[str, int] = {}
        longest_s = 0.0
        for number in range(count):
            began = time.perf_counter()
            answer = self._edges[number % EDGES](self._net.sample)
            longest_s = max(longest_s, time.perf_counter() - began)
            is_right = matches([np.asarray(each) for each in answer.outputs], [self._expected])
            way = answer.completed_by if is_right else "wrong"
            ways[way] = ways.get(way, 0) + 1
        return ways, longest_s

    def until_split(self) -> float:
        """Seconds until the cloud takes part in an inference of each edge."""
        began, deadline = time.perf_counter(), Deadline.after(WAIT_S, "the cloud takes part again")
        for edge in self._edges:
            while edge(self._net.sample).completed_by not in ("split", "cloud"):
                deadline.remaining()
                time.sleep(0.1)
        return time.perf_counter() - began


def waking_rows() -> list[list[str]]:
    """Edges that come before any worker, and edges whose worker has left."""
    rows = []
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        secret = folder / "secret"
        secret.write_text("that of the workers of this benchmark\n")
        secret.chmod(0o600)
        flags = ("--workers", f"{HOST}:{port}", "--worker-token-file", str(secret), "--models", "le_net", "--quiet")
        gateway = stack.enter_context(running_cloud(folder, *flags))
        worker_flags = ("--worker", "-i", HOST, "-p", str(port), "--token-file", str(secret), "--models", "le_net")
        edges = Edges(gateway.port, folder, stack)
        for what in ("no worker yet", "the worker has left"):
            ways, longest_s = edges.ask(ASKED)
            with running_cloud(folder, *worker_flags, "--quiet"):
                await_count(gateway.port, 1)
                back_s = edges.until_split()
                again, _ = edges.ask(ASKED)
            await_count(gateway.port, 0)
            answered = sum(count for way, count in ways.items() if way != "wrong")
            rows.append(
                [what, f"{answered} of {ASKED}", str(ways.get("wrong", 0)), _said(ways), format_seconds(longest_s)]
            )
            rows[-1] += [format_seconds(back_s), _said(again)]
    return rows


def _said(ways: dict[str, int]) -> str:
    return ", ".join(f"{count} {way}" for way, count in sorted(ways.items()))


# --- memory


def open_files(pid: int) -> int:
    """File descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Asking:
    """Connections that ask until there were so many requests, or there is no more time."""

    def __init__(self, port: int, question: Question, done: int, most: int, until: float) -> None:
        self.counts, self.done, self._most, self._until = Counts(), done, most, until
        self._port, self._question, self._lock = port, question, threading.Lock()
        self.threads = [threading.Thread(target=self._run) for _ in range(CONNECTIONS)]
        for thread in self.threads:
            thread.start()

    def is_over(self) -> bool:
        """Whether nothing more is asked."""
        return self.done >= self._most or time.monotonic() > self._until

    def _run(self) -> None:
        while not self.is_over():
            try:
                with greeted(self._port, self._question) as connection:
                    for _ in range(EACH):
                        self._ask(connection)
                        if self.is_over():
                            break
            except AppError as error:
                with self._lock:
                    self.counts.lost.append(str(error))

    def _ask(self, connection: Connection) -> None:
        counts = Counts()
        ask(connection, self._question, counts)
        with self._lock:
            self.done += 1
            self.counts.right += counts.right
            self.counts.wrong += counts.wrong
            self.counts.refused += counts.refused


def started_gateway() -> dict[str, Any]:
    """One that outlives this process."""
    folder = mkdtemp()
    flags = ["--workers", "1", "--threads", "1", "--models", "le_net", "--quiet", "--cache-dir", folder]
    process = subprocess.Popen(
        [sys.executable, "cloud_api.py", "-p", "0", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(LISTENING), line
    port = int(line.rpartition(":")[2])
    await_count(port, 1)
    return {"pid": process.pid, "port": port, "done": 0, "seen": [], "counts": [0, 0, 0, 0]}


def memory(path: Path, most: int, minutes: float) -> list[list[str]]:
    """Ask as often as there is time for; rows once all is done."""
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else started_gateway()
    pid, port = int(state["pid"]), int(state["port"])
    asking = Asking(port, whole(network_of("le_net")), int(state["done"]), most, time.monotonic() + 60 * minutes)
    marks = [mark for mark in MARKS if mark > int(state["done"])]
    before = state["counts"]
    while any(thread.is_alive() for thread in asking.threads):
        time.sleep(0.05)
        if marks and asking.done >= marks[0]:
            state["seen"].append([marks.pop(0), rss_of(pid), open_files(pid)])
        counts = asking.counts
        now = (counts.right, counts.wrong, counts.refused, len(counts.lost))
        state["done"], state["counts"] = asking.done, [a + b for a, b in zip(before, now, strict=True)]
        path.write_text(json.dumps(state))
    print(state, file=sys.stderr)
    if asking.done < most:
        return []
    os.kill(pid, signal.SIGTERM)
    path.unlink()
    right, wrong, refused, lost = map(str, state["counts"])
    rows = [[f"{mark:,}", f"{rss / 1e6:.1f} MB", str(files), "", "", "", ""] for mark, rss, files in state["seen"]]
    rows[-1][3:] = [right, wrong, refused, lost]
    return rows


# --- a network for the first time


@contextmanager
def asking_on(port: int, question: Question, took: list[tuple[float, float]], counts: Counts) -> Iterator[None]:
    """An edge that asks in the background."""
    is_over = threading.Event()

    def run() -> None:
        try:
            with greeted(port, question) as connection:
                while not is_over.wait(PAUSE_S):
                    began = time.perf_counter()
                    ask(connection, question, counts)
                    took.append((began, time.perf_counter() - began))
        except AppError as error:
            counts.lost.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def first_round(small: Question, large: Question) -> tuple[list[float], list[float], float, Counts]:
    """Times of the small network without and with the loading, seconds of the loading, and what came of them."""
    took: list[tuple[float, float]] = []
    counts = Counts()
    flags = ("--workers", "2", "--threads", "1", "--models", "le_net,vgg_net", "--quiet")
    with TemporaryDirectory() as folder, running_cloud(Path(folder), *flags) as cloud:
        await_count(cloud.port, 2)
        with asking_on(cloud.port, small, took, counts):
            deadline = Deadline.after(WAIT_S, "the first answers")
            while len(took) < 50:
                deadline.remaining()
                time.sleep(0.05)
            calm = time.perf_counter()
            time.sleep(CALM_S)
            began = time.perf_counter()
            with greeted(cloud.port, large):
                ended = time.perf_counter()
    without = [seconds for at, seconds in took if calm <= at < began]
    beside = [seconds for at, seconds in took if began <= at < ended]
    return without, beside, ended - began, counts


def first_rows(rounds: int) -> list[list[str]]:
    """p95 in turns, each time on a new gateway with new workers."""
    small, large = whole(network_of("le_net")), whole(network_of("vgg_net"))
    rows: list[list[str]] = []
    ratios = []
    for number in range(rounds):
        without, beside, loading_s, counts = first_round(small, large)
        before_s, during_s = (float(np.percentile(side, 95)) for side in (without, beside))
        ratios.append(during_s / before_s)
        cells = [format_seconds(before_s), format_seconds(during_s), f"{ratios[-1]:.2f}", f"{loading_s:.1f} s"]
        rows.append([str(number + 1), *cells, str(len(beside)), str(counts.wrong + len(counts.lost))])
        print(rows[-1], file=sys.stderr)
    rows.append(["all", "", "", str(Figure.of(ratios)), "", "", f"median {median(ratios):.2f}, bar {FACTOR:g}"])
    return rows


# --- tables


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one of them, and write benchmarks/results/gateways_*.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateways", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("waking", "memory", "first"))
    parser.add_argument("--requests", type=int, default=MARKS[-1])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--state", type=Path, default=Path("gateways_memory.json"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.what == "waking":
        head = ["", "answered", "wrong", "by", "longest", "cloud back after", "then"]
        notes = [f"{ASKED} inferences of {EDGES} edges, in turns, as they are by default; the gateway has no worker."]
        write_table("gateways_waking", "A gateway without workers", head, waking_rows(), notes)
    elif options.what == "first":
        head = ["round", "p95 before", "p95 beside", "ratio", "loading", "requests beside it", "wrong or lost"]
        notes = ["Two workers of one thread, LeNet on one; VGG16 is loaded and measured by the other one."]
        write_table("gateways_first", "A network for the first time", head, first_rows(options.rounds), notes)
    else:
        rows = memory(options.state, options.requests, options.minutes)
        if not rows:
            return 1
        head = ["requests", "gateway RSS", "open files", "answered", "wrong", "refused", "lost"]
        notes = [f"{CONNECTIONS} connections at once, a new one for every {EACH:,} requests."]
        write_table("gateways_memory", "Does a gateway grow?", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
