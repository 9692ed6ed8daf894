"""Whether anything grows while a live page stays open: memory of the program, and the heap of a real browser.

    python -m benchmarks.page_events [--of cloud|edge] [--events 1000000] [--model senna_chk] [--edges 8]

One program and one page of headless Chromium, both open all the time. Every event is a real answer: of a cloud, that
so many edges ask as fast as answers come, each answer checked; or of an edge that computes all of it. The smallest
network comes to a million soonest. The heap is what is used after a collection.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import edgecloud as ec
from benchmarks.clouds import free_port, rss_of, running_cloud
from benchmarks.load import Edge, Subject
from edgecloud.page.app import Page
from edgecloud.page.edge import EdgeView
from edgecloud.predictor.store import default_folder
from tests.browser import Tab, find_browser, running_browser

LOOKS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Of all events: when memory is looked at."""
EACH_S = 50.0
"""Edges are replaced by other ones after so long."""
LOOK_S = 1.0
WIDTH = 1400


@dataclass(frozen=True)
class Seen:
    """Memory after so many events."""

    count: int
    after_s: float
    rss: int
    heap: int
    nodes: int

    @property
    def cells(self) -> str:
        """One row of the table."""
        sizes = f"{self.rss / 1e6:.1f} MB | {self.heap / 1e6:.2f} MB | {self.nodes}"
        return f"| {self.count} | {self.after_s:.0f} s | {sizes} |"


def end_of_input() -> threading.Event:
    """Is set once there is no more."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


def be_edge(model: str, cache: Path) -> None:
    """Serve a page on a free port, which is told, and answer until standard input ends."""
    with ec.Edge(model, cloud=None, cache_dir=cache, threads=1) as edge:
        page = Page(EdgeView(edge.client), "127.0.0.1")
        print(page.open(0), flush=True)
        ended = end_of_input()
        x = edge.client.prepared.edge.network.example.array
        while not ended.is_set():
            edge.client.infer(x)
        page.close()


def ask(model: str, port: int, edges: int) -> None:
    """Ask a cloud until standard input ends; 1 where an answer was wrong."""
    subject = Subject(model, 0)
    ended = end_of_input()
    while not ended.is_set():
        found = [Edge(subject, ("127.0.0.1", port), seed) for seed in range(edges)]
        threads = [threading.Thread(target=edge.run, args=(EACH_S, None)) for edge in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wrong, lost = (sum(getattr(edge.counted, name) for edge in found) for name in ("wrong", "lost"))
        print(f"{sum(edge.counted.right for edge in found)} right, {wrong} wrong, {lost} lost", file=sys.stderr)


@contextmanager
def child(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process of this benchmark, which ends when its standard input does."""
    command = [sys.executable, "-m", "benchmarks.page_events", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate()


@contextmanager
def running(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """A program with a page: its address, and the process."""
    model = options.model
    if options.of == "edge":
        with child("--be-edge", "--model", model, "--cache-dir", str(options.cache_dir)) as process:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process.pid
        return
    port = free_port()
    flags = ("--models", model, "--page", f"127.0.0.1:{port}")
    with (
        running_cloud(options.cache_dir, *flags, "--threads", "1") as cloud,
        child("--ask", str(cloud.port), "--model", model, "--edges", str(options.edges)),
    ):
        yield f"http://127.0.0.1:{port}/", cloud.process.pid


def look(tab: Tab, process: int, count: int, after_s: float) -> Seen:
    """Now."""
    tab.call("HeapProfiler.collectGarbage")
    figures = {each["name"]: each["value"] for each in tab.call("Performance.getMetrics")["metrics"]}
    return Seen(count, after_s, rss_of(process), int(figures["JSHeapUsedSize"]), int(figures["Nodes"]))


def measure(options: argparse.Namespace) -> None:
    """Open the page, and look until all events have come."""
    browser = find_browser()
    if browser is None:
        sys.exit("no Chromium is installed")
    print("| events | after | memory of the program | heap of the page | nodes of its document |")
    print("|---|---|---|---|---|", flush=True)
    with ExitStack() as stack:
        url, process = stack.enter_context(running(options))
        profile = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        tab = stack.enter_context(running_browser(browser, profile))
        tab.open(url, WIDTH)
        tab.call("Performance.enable")
        began, due = time.monotonic(), [round(share * options.events) for share in LOOKS]
        while due:
            time.sleep(LOOK_S)
            count = tab.ask("state === null ? 0 : state.count")
            if count >= due[0]:
                print(look(tab, process, count, time.monotonic() - began).cells, flush=True)
                due = [each for each in due if each > count]
            tab.requests.clear()
        print(f"{len(tab.complaints)} complaints of the browser", *tab.complaints[:3])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--of", choices=("cloud", "edge"), default="cloud")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--model", default="senna_chk")
    parser.add_argument("--edges", type=int, default=8)
    parser.add_argument("--cache-dir", type=Path, default=default_folder())
    parser.add_argument("--be-edge", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ask", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_edge:
        be_edge(options.model, options.cache_dir)
    elif options.ask is not None:
        ask(options.model, options.ask, options.edges)
    else:
        measure(options)


if __name__ == "__main__":
    main()
