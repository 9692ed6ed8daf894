"""A long run: three edges with mixed tasks against one cloud, to see whether anything grows.

    python -m benchmarks.soak [--minutes 30]

Reported are resident memory, threads and open files of the cloud over time, and wrong answers. Ends with 1 where an
answer was wrong or lost, or where memory in the last third is more than a tenth above that of the middle third.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from benchmarks.clouds import rss_of
from benchmarks.fingerprint import write_table
from benchmarks.load import Subject
from benchmarks.tasks import run
from edgecloud.client.subprocesses import own_cloud

EDGES = ((), ("--emulate-cpu", "0.5"), ("--emulate-cpu", "0.2", "--emulate-link", "20mbit,10ms"))
RATES = ("4/s", "3/s", "2/s")
EVERY_S = 5.0
GROWTH = 1.1


def watch(pid: int) -> tuple[int, int, int]:
    """Resident bytes, threads and open files of a process."""
    return rss_of(pid), len(list(Path(f"/proc/{pid}/task").iterdir())), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def edge(place: Sequence[object], number: int, minutes: float, found: list[dict[str, Any]]) -> None:
    """One edge that keeps sending tasks."""
    rate = RATES[number]
    tasks = max(10, int(60 * minutes * float(rate.removesuffix("/s"))))
    flags = ("-t", "alex_net,mobile_net,le_net", "--tasks", tasks, "--rate", rate, "--seed", number, "--verify")
    found.append(run("tasks_edge_api.py", *place, *EDGES[number], *flags)["summary"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/soak.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--results", default="soak", metavar="NAME", help="of the table; empty: none is written")
    options = parser.parse_args(argv)
    for model in ("alex_net", "mobile_net", "le_net"):
        Subject(model, 0)  # everything that is made once is made
    with own_cloud(["--threads", "2"], "tasks_cloud_api.py") as child:
        host, port = child.address()
        summaries: list[dict[str, Any]] = []
        place = ("-i", host, "-p", port)
        threads = [
            Thread(target=edge, args=(place, number, options.minutes, summaries)) for number in range(len(EDGES))
        ]
        for thread in threads:
            thread.start()
        seen = []
        began = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            seen.append((time.monotonic() - began, *watch(child.pid)))
            time.sleep(EVERY_S)
    return report(seen, summaries, options.results)


def report(seen: list[tuple[float, int, int, int]], summaries: list[dict[str, Any]], name: str) -> int:
    """Write what was seen; 1 where something grew or went wrong."""
    third = len(seen) // 3
    parts = [seen[:third], seen[third : 2 * third], seen[2 * third :]]
    rows = [
        [
            f"{part[0][0] / 60:.1f} to {part[-1][0] / 60:.1f} min",
            f"{median(rss for _, rss, _, _ in part) / 1e6:.0f} MB",
            f"{max(rss for _, rss, _, _ in part) / 1e6:.0f} MB",
            *(f"{min(values)} to {max(values)}" for values in list(zip(*part, strict=True))[2:]),
        ]
        for part in parts
    ]
    wrong, failed = (sum(summary[name] for summary in summaries) for name in ("wrong", "failed"))
    done = sum(summary["completed"] for summary in summaries)
    memory = [median(rss for _, rss, _, _ in part) for part in parts[1:]]
    notes = [f"{done} tasks of {len(summaries)} edges answered, {wrong} wrong, {failed} failed."]
    head = ["time", "cloud RSS, median", "most", "threads", "open files"]
    if name:
        write_table(name, "Does anything grow?", head, rows, notes)
    return int(bool(wrong or failed or len(summaries) < len(EDGES) or memory[1] > GROWTH * memory[0]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
