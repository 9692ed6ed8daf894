"""Forty mixed tasks again and again, pipelined and one after the other in turns, with the speed of the machine.

A machine of this kind drifts: two runs of one command differ by more than any change of a program makes. So the
reference work of the profiles (predictor.reference) is timed before and after each run, on as many threads as there
are cores, and what is compared is tasks per second divided by the speed of that time. `python -m benchmarks.tasks
drift` runs it.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fingerprint import RESULTS, write_table
from benchmarks.noise import Figure, Versus
from edgecloud.predictor.pace import HEAVY, Pace, between, quiet_of
from edgecloud.predictor.reference import Reference

FLAGS = ("--tasks", 40, "--seed", 3, "--emulate-link", "20mbit,10ms", "--emulate-cpu", 0.2)
MODES: dict[str, tuple[str, ...]] = {"pipelined": (), "serial": ("--serial",)}
RECORDS = RESULTS / "tasks_drift.jsonl"
READ_S = 0.5
"""Of reference work before and after each run."""
LEAST_OF_FASTEST, FASTER = 0.85, 1.35
"""What is asked for: the slowest run beside the fastest at one speed, and pipelined runs beside one after the other."""

Program = Callable[..., dict[str, Any]]
"""Runs a script with flags, and gives its document."""


@dataclass(frozen=True)
class Ran:
    """One run, and what the reference work took around it."""

    throughput_per_s: float
    bound_fraction: float
    completed: int
    cuts: dict[str, dict[str, int]]
    before: Pace
    after: Pace

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Ran":
        """What `asdict` of one gives."""
        paces = {name: Pace.read(document[name]) for name in ("before", "after")}
        return cls(**{**document, **paces})

    @property
    def pace(self) -> Pace:
        """Of the machine while it ran."""
        return between(self.before, self.after)


Pair = dict[str, Ran]
"""By mode."""


@dataclass(frozen=True)
class Told:
    """What the pairs say."""

    rows: list[list[str]]
    slowest: float
    """Of the pipelined runs, as a share of the fastest one; at the speed of each."""
    slowest_as_measured: float
    gain: Versus
    """Pipelined over one after the other."""
    bound: Figure

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Told":
        """Of one pair at least."""
        quiet = quiet_of([ran.pace for pair in pairs for ran in pair.values()])
        rows, at_speed, ratios = [], [], []
        for number, pair in enumerate(pairs, 1):
            for name, ran in pair.items():
                speed = 1 / HEAVY.slowdown(ran.pace, quiet)
                steady = ran.throughput_per_s / speed
                at_speed += [steady] * (name == "pipelined")
                numbers = [f"{ran.throughput_per_s:.2f}/s", f"{speed:.0%}", f"{steady:.2f}/s"]
                cuts = ", ".join(f"{model} {_cuts(found)}" for model, found in ran.cuts.items())
                rows.append([f"{number} {name}", str(ran.completed), *numbers, f"{ran.bound_fraction:.0%}", cuts])
            ratios.append(pair["pipelined"].throughput_per_s / pair["serial"].throughput_per_s)
        plain = [pair["pipelined"].throughput_per_s for pair in pairs]
        bound = Figure.of([pair["pipelined"].bound_fraction for pair in pairs])
        slowest = [min(found) / max(found) for found in (at_speed, plain)]
        return cls(rows, slowest[0], slowest[1], Versus.of_ratios(ratios), bound)

    @property
    def notes(self) -> list[str]:
        """What was asked for, and what is."""
        is_steady, is_faster = self.slowest >= LEAST_OF_FASTEST, self.gain.ratio.value >= FASTER
        return [
            f"Slowest over fastest pipelined run, both at the speed of their time: {self.slowest:.2f} (as measured "
            f"{self.slowest_as_measured:.2f}); at least {LEAST_OF_FASTEST} is the target: {_met(is_steady)}.",
            f"Pipelined over one after the other, median of {len(self.rows) // 2} pairs: {self.gain}; at least "
            f"{FASTER} is the target: {_met(is_faster)}.",
            f"Of the bound: {self.bound}.",
        ]


def _met(is_met: bool) -> str:
    return "met" if is_met else "NOT met"


def _cuts(found: dict[str, int]) -> str:
    return "+".join(f"{count} at {point}" for point, count in found.items())


def read(path: Path) -> list[Pair]:
    """The pairs that were measured so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [{name: Ran.read(ran) for name, ran in json.loads(line).items()} for line in lines]


def measure(run: Program, pairs: int, seconds: float, path: Path = RECORDS) -> list[Pair]:
    """Go on until so many pairs are recorded, or no more fits into the seconds; a full set is measured anew."""
    began, found = time.monotonic(), read(path)
    if len(found) >= pairs:
        path.unlink()
        found = []
    reference = Reference(len(os.sched_getaffinity(0)), time.perf_counter)
    run("tasks_edge_api.py", *FLAGS)  # profiles what was not yet
    took_s = 0.0
    while len(found) < pairs and time.monotonic() - began + took_s < seconds:
        start = time.monotonic()
        found.append({name: ran_once(run, reference, more) for name, more in MODES.items()})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: asdict(ran) for name, ran in found[-1].items()}) + "\n")
        took_s = max(took_s, time.monotonic() - start)
    reference.close()
    return found


def ran_once(run: Program, reference: Reference, more: Sequence[str]) -> Ran:
    """The program, between readings."""
    before = middle(reference.read_for(READ_S))
    summary = run("tasks_edge_api.py", *FLAGS, *more)["summary"]
    names = ("throughput_per_s", "bound_fraction", "completed", "cuts")
    after = middle(reference.read_for(READ_S))
    return Ran(**{name: summary[name] for name in names}, before=before, after=after)


def middle(readings: Sequence[Pace]) -> Pace:
    """The medians of both pieces."""
    return Pace(median(one.compute_s for one in readings), median(one.memory_s for one in readings))


def report(pairs: Sequence[Pair]) -> None:
    """Write benchmarks/results/tasks_drift.md. Raises ValueError where nothing was measured."""
    if not pairs:
        raise ValueError("no pair fitted into the time")
    told = Told.of(pairs)
    head = ["run", "answers", "as measured", "speed", "at that speed", "of the bound", "tasks at points"]
    write_table("tasks_drift", "Forty tasks, again and again", head, told.rows, told.notes)
