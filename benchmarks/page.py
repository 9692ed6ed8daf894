"""What the live page costs: inferences with no page, with one that is watched, and with twenty, in turns.

python -m benchmarks.page [--model mobile_net] [--rounds 12] [--count 40]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import edgecloud as ec
from benchmarks.clouds import running_cloud
from benchmarks.noise import Versus
from edgecloud.page.app import Page
from edgecloud.page.edge import EdgeView
from edgecloud.predictor.store import default_folder

MOST = 20
READER = """
import http.client, sys, threading
port, count = int(sys.argv[1]), int(sys.argv[2])
def read():
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/events")
    reply = connection.getresponse()
    while reply.readline():
        pass
for _ in range(count):
    threading.Thread(target=read, daemon=True).start()
sys.stdin.read()
"""
"""Opens so many pages until its standard input ends."""


def block(edge: ec.Edge, count: int) -> list[float]:
    """Seconds of so many inferences."""
    x = edge.client.prepared.edge.network.example.array
    return [edge.client.infer(x).measured.total_s for _ in range(count)]


def ratio(on: list[list[float]], off: list[list[float]], share: float) -> Versus:
    """Of a quantile, over the rounds."""
    return Versus.of([float(np.quantile(a, share)) for a in on], [float(np.quantile(b, share)) for b in off])


def processor_s(page: Page) -> float:
    """Seconds of a processor that the page's thread has had."""
    fields = Path(f"/proc/self/task/{page.thread_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(
    model: str, rounds: int, count: int, cache: Path
) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """By what is open: the seconds of every inference by rounds, and what the page's thread had of a core."""
    shares: dict[str, list[float]] = {"none": [], "one": [], "twenty": []}
    found: dict[str, list[list[float]]] = {"none": [], "one": [], "twenty": []}
    pages = {"none": 0, "one": 1, "twenty": MOST}
    with running_cloud(cache, "--models", model) as cloud:
        place = f"127.0.0.1:{cloud.port}"
        with ec.Edge(model, place, cache_dir=cache, threads=1, link=ec.Link("1gbit", rtt="1ms")) as edge:
            view = EdgeView(edge.client)
            watcher = edge.client.runner.watcher
            page = Page(view, "127.0.0.1")
            port = page.open(0).split(":")[2].partition("/")[0]
            edge.client.runner.pin(len(edge.net.graph.points) // 2)
            block(edge, count)
            for number in range(rounds):
                order = [*found][number % 3 :] + [*found][: number % 3]
                for name in order:
                    edge.client.runner.watcher = watcher if pages[name] else None
                    command = [sys.executable, "-c", READER, port, str(pages[name])]
                    with subprocess.Popen(command, stdin=subprocess.PIPE) as reader:
                        time.sleep(1.0)  # the pages have all by then
                        used_s, began = processor_s(page), time.monotonic()
                        found[name].append(block(edge, count))
                        shares[name].append((processor_s(page) - used_s) / (time.monotonic() - began))
                        assert reader.stdin is not None
                        reader.stdin.close()
            page.close()
    return found, shares


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mobile_net")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--cache-dir", type=Path, default=default_folder())
    options = parser.parse_args()
    options.cache_dir.mkdir(parents=True, exist_ok=True)
    found, shares = measure(options.model, options.rounds, options.count, options.cache_dir)
    middle = statistics.median(s for seconds in found["none"] for s in seconds)
    print(f"{options.model}: {options.rounds} rounds of {options.count} inferences, {os.cpu_count()} cores")
    print(f"no page: median {middle * 1e3:.2f} ms")
    print("| pages open | median, times | p95, times | page's thread, of a core |")
    print("|---|---|---|---|")
    for name in ("one", "twenty"):
        cells = [str(ratio(found[name], found["none"], share)) for share in (0.5, 0.95)]
        print(f"| {name} | {' | '.join(cells)} | {statistics.mean(shares[name]):.2%} |")


if __name__ == "__main__":
    main()
