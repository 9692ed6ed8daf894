"""A noisy neighbour: other work on the same cores, in random bursts that a seed gives, switched on and off.

    python -m benchmarks.neighbour [--seed 1] [--seconds 60] [--cores 0,1]

Each burst takes 30 to 50 % of every core for 5 to 40 s, then it is quiet for as long. What it takes is counted in its
own processor time, so a core that is busy gives it no less. Half of its work computes, the other half reads memory.
"""

import argparse
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np

from edgecloud.utils.commands import ROOT

LEAST_SHARE, MOST_SHARE = 0.3, 0.5
LEAST_S, MOST_S = 5.0, 40.0
CHUNK_S = 0.002
WINDOW_S = 0.1
"""What it has fallen behind by longer ago than that it does not catch up on."""


@dataclass(frozen=True)
class Burst:
    """Seconds after the start, and the share of each core that is taken until the end."""

    begin_s: float
    end_s: float
    share: float


def bursts(seed: int, shortest_s: float = LEAST_S, longest_s: float = MOST_S) -> Iterator[Burst]:
    """What a neighbour with this seed does, for ever."""
    chance = random.Random(seed)
    at_s = 0.0
    while True:
        end_s = at_s + chance.uniform(shortest_s, longest_s)
        yield Burst(at_s, end_s, chance.uniform(LEAST_SHARE, MOST_SHARE))
        at_s = end_s + chance.uniform(shortest_s, longest_s)


def share_at(schedule: Sequence[Burst], at_s: float) -> float:
    """The share of each core that is taken at a moment; 0 between bursts."""
    return next((burst.share for burst in schedule if burst.begin_s <= at_s < burst.end_s), 0.0)


class Neighbour:
    """Processes that take the cores. At first it is off."""

    def __init__(self, seed: int = 1, cores: Sequence[int] | None = None) -> None:
        """On these cores; None: all that this process may use."""
        self._cores = sorted(os.sched_getaffinity(0)) if cores is None else list(cores)
        self._seed = seed
        self._processes: list[subprocess.Popen[str]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.share = 0.0
        """What it takes of each core now."""

    def __enter__(self) -> "Neighbour":
        """Start the processes, which rest."""
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        for core in self._cores:
            command = [sys.executable, "-m", "benchmarks.neighbour", "--take", str(core)]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, text=True)
            self._processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self.off()
        for process in self._processes:
            process.kill()
            process.wait()

    def take(self, share: float) -> None:
        """Take that much, whatever the schedule says."""
        self.share = share
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write(f"{share}\n")
                process.stdin.flush()

    def on(self, seed: int | None = None) -> None:
        """Begin with its schedule."""
        self.off()
        self._stop = threading.Event()
        schedule = bursts(self._seed if seed is None else seed)
        self._thread = threading.Thread(target=self._follow, args=(schedule, self._stop), daemon=True)
        self._thread.start()

    def off(self) -> None:
        """Rest."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.take(0.0)

    @contextmanager
    def busy(self, seed: int | None = None) -> Iterator[None]:
        """On within, off before and after."""
        self.on(seed)
        try:
            yield
        finally:
            self.off()

    def _follow(self, schedule: Iterator[Burst], stop: threading.Event) -> None:
        began = time.monotonic()
        for burst in schedule:
            for at_s, share in ((burst.begin_s, burst.share), (burst.end_s, 0.0)):
                if stop.wait(max(0.0, began + at_s - time.monotonic())):
                    return
                self.take(share)


def take_core(core: int, shares: Iterable[str]) -> None:
    """Be the neighbour on one core: take the share that was read last, until there is nothing more to read."""
    os.sched_setaffinity(0, {core})
    share = 0.0
    is_over = threading.Event()

    def read() -> None:
        nonlocal share
        for line in shares:
            share = float(line)
        is_over.set()

    threading.Thread(target=read, daemon=True).start()
    matrix, many = np.ones((64, 64), np.float32), np.ones(1 << 20, np.float32)
    before, owed_s, is_odd = time.monotonic(), 0.0, False
    while not is_over.is_set():
        now = time.monotonic()
        owed_s = min(owed_s + (now - before) * share, WINDOW_S) if share else 0.0
        before = now
        if owed_s < CHUNK_S:
            time.sleep(CHUNK_S)
            continue
        began, is_odd = time.thread_time(), not is_odd
        while time.thread_time() - began < CHUNK_S:
            _ = matrix @ matrix if is_odd else many.sum()
        owed_s -= time.thread_time() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Be a neighbour for a while."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbour", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cores", help="comma-separated numbers (default: all)")
    parser.add_argument("--take", type=int, metavar="CORE", help="be one core's part, told the share by stdin")
    options = parser.parse_args(argv)
    if options.take is not None:
        take_core(options.take, sys.stdin)
        return 0
    cores = None if options.cores is None else [int(core) for core in options.cores.split(",")]
    for burst in islice(bursts(options.seed), 100):
        if burst.begin_s >= options.seconds:
            break
        print(f"{burst.begin_s:.0f} to {burst.end_s:.0f} s: {burst.share:.0%} of every core")
    with Neighbour(options.seed, cores) as neighbour, neighbour.busy():
        time.sleep(options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
