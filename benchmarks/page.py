"""What the live page costs the program that it shows: nobody looking, one page open, and twenty, in turns.

    python -m benchmarks.page [--model mobile_net] [--rounds 50] [--count 40]
    python -m benchmarks.page --cloud [--bare] [--edges 16] [--rate 2] [--seconds 5] [--rounds 20] [--model mobile_net]

The first is an edge with its page. The second is a cloud, `cloud_api.py --page`, which so many edges ask at this rate
each, or as fast as answers come with `--rate 0`; with `--bare` a second cloud has no page. What is measured has core 0.
The readers, and what else is another machine in reality, have core 1: with `--cloud` the edges, else the cloud.

Times drift by more than a page can cost, so the processor time of the program and of the page's own thread is told
beside them. Every ratio is that of two blocks of the same round; the interval of their median is that of 95 %.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

import edgecloud as ec
from benchmarks.clouds import free_port, running_cloud
from benchmarks.noise import Versus, interval
from edgecloud.page.app import Page
from edgecloud.page.edge import EdgeView
from edgecloud.predictor.store import default_folder

MOST = 20
NONE, ONE, TWENTY = "none", "one", "twenty"
PAGES = {NONE: 0, ONE: 1, TWENTY: MOST}
MEASURED, OTHERS = {0}, {1}
"""Cores."""
SETTLE_S = 2.0
PER_S = 1e9
READER = """
import selectors, socket, sys
port, streams, fresh = int(sys.argv[1]), [], {}
selector = selectors.DefaultSelector()
selector.register(sys.stdin, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is sys.stdin:
            line = sys.stdin.readline()
            if not line:
                sys.exit()
            while len(streams) > int(line):
                selector.unregister(streams[-1])
                fresh.pop(streams[-1], None)
                streams.pop().close()
            while len(streams) < int(line):
                sock = socket.create_connection(("127.0.0.1", port))
                sock.sendall(b"GET /events HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
                selector.register(sock, selectors.EVENT_READ)
                streams.append(sock)
                fresh[sock] = b""
            if not fresh:
                print("ready", flush=True)
            continue
        if key.fileobj.fileno() < 0:
            continue  # closed since it was selected
        data = key.fileobj.recv(1 << 16)
        if not data:
            sys.exit("a stream has ended")
        if key.fileobj in fresh:
            fresh[key.fileobj] += data
            if b"\\n\\n" in fresh[key.fileobj]:
                del fresh[key.fileobj]
                if not fresh:
                    print("ready", flush=True)
"""
"""Keeps as many streams open as the last line of its standard input says, and drops what they send."""


class Readers:
    """A process of its own, on the core of the others."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-c", READER, str(port)]
        with on_cores(OTHERS):
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def open(self, count: int) -> None:
        """So many from now on; all of them have had their first frame."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End them."""
        self._process.communicate()


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What this thread starts meanwhile runs there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def threads_s(process: int | str) -> dict[int, float]:
    """Seconds of a processor that each thread has had, to the nanosecond."""
    found = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / PER_S
        except FileNotFoundError:  # it has ended
            continue
    return found


@dataclass(frozen=True)
class Block:
    """Inferences one after the other, and what they cost."""

    seconds: list[float]
    away: list[float]
    """Of each the seconds that neither the edge's layers nor packing took."""
    processor_s: float
    """Of the measured program, for each inference."""
    page: float
    """What the page's thread had of a core."""


@dataclass(frozen=True)
class Used:
    """Processor time of a program until now."""

    at: float
    all_s: float
    page_s: float

    @classmethod
    def of(cls, process: int | str, page_thread: int) -> Self:
        """As Linux tells it."""
        found = threads_s(process)
        return cls(time.monotonic(), sum(found.values()), found.get(page_thread, 0.0))

    def block(self, since: Self, seconds: Sequence[float], away: Sequence[float]) -> Block:
        """What these inferences cost."""
        each_s = (self.all_s - since.all_s) / len(seconds)
        return Block(list(seconds), list(away), each_s, (self.page_s - since.page_s) / (self.at - since.at))


def in_rounds(rounds: int, ways: Mapping[str, Callable[[], Block]]) -> dict[str, list[Block]]:
    """Each way once in a round, and another one first every time."""
    found: dict[str, list[Block]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ways[name]())
    return found


def versus(on: Sequence[Block], off: Sequence[Block], value: Callable[[Block], float]) -> str:
    """The ratio of a figure of the blocks, round by round."""
    ratios = [value(a) / value(b) for a, b in zip(on, off, strict=True)]
    low, high = interval(ratios)
    return f"{Versus.of_ratios(ratios).ratio} ({low:.3f} to {high:.3f})"


def quantile_of(share: float, *, is_away: bool = False) -> Callable[[Block], float]:
    """Of the seconds of a block."""
    return lambda block: float(np.quantile(block.away if is_away else block.seconds, share))


def show(found: Mapping[str, list[Block]], base: str, *, is_away: bool = False) -> None:
    """Print a table."""
    print("| pages open | processor time, times | median, times | p95, times | page's thread, of a core |")
    print("|---|---|---|---|---|")
    for name, blocks in found.items():
        if name != base:
            figures: list[Callable[[Block], float]] = [lambda block: block.processor_s]
            figures += [quantile_of(share, is_away=is_away) for share in (0.5, 0.95)]
            cells = [versus(blocks, found[base], figure) for figure in figures]
            print(f"| {name} | {' | '.join(cells)} | {statistics.mean(each.page for each in blocks):.2%} |")


# --- an edge


def measure_edge(options: argparse.Namespace) -> None:
    """An edge and its page, cut in the middle."""
    with ExitStack() as stack:
        with on_cores(OTHERS):
            cloud = stack.enter_context(running_cloud(options.cache_dir, "--models", options.model))
        os.sched_setaffinity(0, MEASURED)
        place = f"127.0.0.1:{cloud.port}"
        link = ec.Link("1gbit", rtt="1ms")
        edge = stack.enter_context(ec.Edge(options.model, place, cache_dir=options.cache_dir, threads=1, link=link))
        page = Page(EdgeView(edge.client), "127.0.0.1")
        readers = Readers(int(page.open(0).split(":")[2].partition("/")[0]))
        stack.callback(page.close)
        stack.callback(readers.close)
        watcher, x = edge.client.runner.watcher, edge.client.prepared.edge.network.example.array
        edge.client.runner.pin(len(edge.net.graph.points) // 2)

        def block(count: int) -> Block:
            edge.client.runner.watcher = watcher if count else None
            readers.open(count)
            before = Used.of("self", page.thread_id or 0)
            answers = [edge.client.infer(x).measured for _ in range(options.count)]
            seconds = [answer.total_s for answer in answers]
            return Used.of("self", page.thread_id or 0).block(before, seconds, seconds)

        block(MOST)
        found = in_rounds(options.rounds, {name: partial(block, n) for name, n in PAGES.items()})
    seconds = [each for block in found[NONE] for each in block.seconds]
    processor_s = statistics.median(block.processor_s for block in found[NONE])
    print(f"{options.model}, edge, cut in the middle: {options.rounds} rounds of {options.count} inferences each way")
    print(f"no page: median {statistics.median(seconds) * 1e3:.2f} ms, processor {processor_s * 1e3:.2f} ms")
    show(found, NONE)


# --- a cloud


@dataclass
class Asking:
    """So many edges of this process, and what their inferences took."""

    edges: list[ec.Edge]
    rate_per_s: float
    """Of each of them; 0: as fast as answers come."""
    seconds: list[float] = field(default_factory=list)
    away: list[float] = field(default_factory=list)

    def ask(self, for_s: float) -> None:
        """All of them at once; the moments of each are spread over its period."""
        self.seconds, self.away = [], []
        began = time.perf_counter()
        threads = [threading.Thread(target=self._one, args=(n, began, began + for_s)) for n in range(len(self.edges))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one(self, number: int, began: float, ends: float) -> None:
        edge = self.edges[number]
        x = edge.client.prepared.edge.network.example.array
        due = began + (number / len(self.edges) / self.rate_per_s if self.rate_per_s else 0.0)
        while due < ends and time.perf_counter() < ends:
            time.sleep(max(0.0, due - time.perf_counter()))
            measured = edge.client.infer(x).measured
            self.seconds.append(measured.total_s)
            self.away.append(measured.total_s - measured.edge_s - measured.encode_s)
            due = due + 1 / self.rate_per_s if self.rate_per_s else time.perf_counter()


def page_thread(process: int, readers: Readers) -> int:
    """The one that is busy while pages are open and nobody asks."""
    readers.open(MOST)
    before = threads_s(process)
    time.sleep(SETTLE_S)
    after = threads_s(process)
    return max(after, key=lambda number: after[number] - before.get(number, 0.0))


def measure_cloud(options: argparse.Namespace) -> None:
    """A cloud with a page, which twenty look at or nobody, and perhaps one without; each has edges of its own."""
    flags = ("--models", options.model, "--max-connections", "64", "--threads", "1")
    port = free_port()
    with ExitStack() as stack:
        with on_cores(MEASURED):
            shown = stack.enter_context(running_cloud(options.cache_dir, *flags, "--page", f"127.0.0.1:{port}"))
            bare = stack.enter_context(running_cloud(options.cache_dir, *flags)) if options.bare else None
        os.sched_setaffinity(0, OTHERS)
        readers = Readers(port)
        stack.callback(readers.close)
        thread = page_thread(shown.process.pid, readers)
        net = ec.load(options.model)
        point = options.point if options.point is not None else len(net.graph.points) // 2
        asking = {}
        for cloud in filter(None, (shown, bare)):
            place = f"127.0.0.1:{cloud.port}"
            settings = {"cache_dir": options.cache_dir, "threads": 1, "point": point, "timeout": "60s"}
            edges = [
                stack.enter_context(ec.Edge(net, place, link=ec.Link("1gbit", rtt="1ms"), **settings))
                for _ in range(options.edges)
            ]
            asking[cloud.process.pid] = Asking(edges, options.rate)

        def block(process: int, count: int) -> Block:
            readers.open(count)
            before, some = Used.of(process, thread), asking[process]
            some.ask(options.seconds)
            return Used.of(process, thread).block(before, some.seconds, some.away)

        pid = shown.process.pid
        ways: dict[str, Callable[[], Block]] = {NONE: partial(block, pid, 0), TWENTY: partial(block, pid, MOST)}
        if bare is not None:
            ways["none, a cloud without"] = partial(block, bare.process.pid, 0)
        for way in ways.values():
            way()
        found = in_rounds(options.rounds, ways)
    count = sum(len(block.seconds) for block in found[NONE])
    rate = count / options.rounds / options.seconds
    seconds = [each for block in found[NONE] for each in block.seconds]
    processor_s = statistics.median(block.processor_s for block in found[NONE])
    print(f"{options.model}, a cloud, {options.edges} edges, cut at point {point}: {options.rounds} rounds of", end=" ")
    print(f"{options.seconds:g} s each way, {rate:.0f} inferences a second together, {count} each way")
    print(f"no page open: median {statistics.median(seconds) * 1e3:.2f} ms, p95 {np.quantile(seconds, 0.95) * 1e3:.2f}")
    print(f"ms, the cloud's processor {processor_s * 1e3:.2f} ms an inference")
    show(found, NONE)
    print("The same without the time of the edges' own layers and codecs:")
    show(found, NONE, is_away=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mobile_net")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--cloud", action="store_true", help="the page of a cloud")
    parser.add_argument("--bare", action="store_true", help="with --cloud also one that has no page")
    parser.add_argument("--edges", type=int, default=16)
    parser.add_argument(
        "--rate", type=float, default=2.0, help="inferences of each edge a second, 0: as many as it can"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of a block, with --cloud")
    parser.add_argument("--point", type=int, help="where to cut, with --cloud")
    parser.add_argument("--cache-dir", type=Path, default=default_folder())
    options = parser.parse_args()
    options.cache_dir.mkdir(parents=True, exist_ok=True)
    if options.cloud:
        measure_cloud(options)
    else:
        measure_edge(options)


if __name__ == "__main__":
    main()
