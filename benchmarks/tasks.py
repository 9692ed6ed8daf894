"""Many tasks on one edge: the pipeline relative to its bound, compressed tensors, a link that changes, a loaded cloud,
probes, one command again and again.

    python -m benchmarks.tasks [pipeline] [packed] [step] [hog] [probe] [drift [--pairs 10] [--seconds 560]]

Real programs as processes, over an emulated link. Compared runs take turns. `drift` keeps each pair of runs, and goes
on where it stopped, so that it fits into pieces of time.
"""

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import mean
from typing import Any

from benchmarks import forty
from benchmarks.fingerprint import write_table
from benchmarks.noise import Figure, Versus
from edgecloud.client.subprocesses import Child, own_cloud
from edgecloud.utils.commands import ROOT

ROUNDS = 3
STEPS = ((0.0, 20.0), (20.0, 2.0), (45.0, 20.0))
"""Seconds after the first connection, and mbit."""
STEP_S = 70.0
CLOSE = 0.25
HOGS_PER_CORE = 8


def run(script: str, *arguments: object) -> dict[str, Any]:
    """A program's document. Raises SystemExit where it fails."""
    command = [sys.executable, script, "--json", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@contextmanager
def relayed(to: tuple[str, int], *arguments: str) -> Iterator[tuple[str, int]]:
    """An emulated link in front of a cloud."""
    child = Child(["-m", "edgecloud.lab.relay", "--to", to[0], str(to[1]), "--exit-on-stdin-eof", *arguments])
    try:
        yield child.address()
    finally:
        child.stop()


def pipeline() -> None:
    """Forty tasks pipelined and one after the other, in turns."""
    rows, ratios = [], []
    flags = ("--tasks", 40, "--seed", 1, "--emulate-cpu", 0.2, "--verify")
    with (
        own_cloud(["--threads", "2"], "tasks_cloud_api.py") as child,
        relayed(child.address(), "--link", "20mbit,10ms") as at,
    ):
        place = ("-i", at[0], "-p", at[1])
        run("tasks_edge_api.py", *place, "--tasks", 8, "--emulate-cpu", 0.2)
        for number in range(ROUNDS):
            found = {name: run("tasks_edge_api.py", *place, *flags, *more)["summary"] for name, more in MODES.items()}
            ratios.append(found["pipelined"]["throughput_per_s"] / found["serial"]["throughput_per_s"])
            for name, summary in found.items():
                stages = summary["stages"]
                rows.append(
                    [
                        f"{number + 1} {name}",
                        f"{summary['completed']} of 40, {summary['wrong']} wrong",
                        f"{summary['throughput_per_s']:.1f}/s",
                        f"{summary['bound_fraction']:.0%}",
                        f"{summary['balance']:.2f}",
                        " ".join(f"{stages[stage]:.2f}" for stage in ("edge_s", "link_s", "cloud_s")),
                        f"{summary['planned_s']:.2f} / {summary['planned_bound_s']:.2f} s",
                        f"{summary['wall_s']:.2f} s",
                    ]
                )
    head = ["run", "answers", "throughput", "of the bound", "balance (3 = even)"]
    head += ["edge link cloud, s", "planned / lower bound", "took"]
    notes = [f"Pipelined over serial, median of {ROUNDS} turns: {Versus.of_ratios(ratios)}."]
    notes += ["Link 20 mbit, 10 ms; edge 0.2 of a core."]
    write_table("tasks_pipeline", "Forty tasks of four networks", head, rows, notes)


MODES: dict[str, tuple[str, ...]] = {"pipelined": (), "serial": ("--serial",)}


MIX = ("alex_net", "vgg_net", "mobile_net", "torchvision:resnet18")


def packed() -> None:
    """Forty tasks raw and packed, in turns."""
    rows, ratios = [], []
    flags = ("-t", ",".join(MIX), "--tasks", 40, "--seed", 1, "--emulate-cpu", 0.05, "--verify")
    with (
        own_cloud(["--threads", "2"], "tasks_cloud_api.py") as child,
        relayed(child.address(), "--link", "5mbit,20ms") as at,
    ):
        place = ("-i", at[0], "-p", at[1])
        run("tasks_edge_api.py", *place, "-t", ",".join(MIX), "--tasks", 8, "--emulate-cpu", 0.05)
        for number in range(ROUNDS):
            found = {
                name: run("tasks_edge_api.py", *place, *flags, "--codec", name)["summary"] for name in ("raw", "auto")
            }
            ratios.append(found["auto"]["throughput_per_s"] / found["raw"]["throughput_per_s"])
            for name, summary in found.items():
                rows.append([f"{number + 1} {name}", *_packed_row(summary)])
    head = ["run", "answers", "throughput", "sent", "codecs (tasks)", "of the bound"]
    head += ["edge link cloud, s", "planned / lower bound", "took"]
    notes = [f"Packed over raw, median of {ROUNDS} turns: {Versus.of_ratios(ratios)}; lossless codecs only."]
    notes += [f"Link 5 mbit, 20 ms; edge 0.05 of a core; {', '.join(MIX)}."]
    write_table("tasks_packed", "Forty tasks, raw and packed", head, rows, notes)


def _packed_row(summary: dict[str, Any]) -> list[str]:
    codecs: Counter[str] = Counter()
    for found in summary["codecs"].values():
        codecs.update(found)
    return [
        f"{summary['completed']} of 40, {summary['wrong']} wrong",
        f"{summary['throughput_per_s']:.1f}/s",
        f"{summary['bytes_sent'] / 1e6:.2f} MB of {summary['raw_bytes'] / 1e6:.2f}",
        ", ".join(f"{name} {count}" for name, count in codecs.most_common()),
        f"{summary['bound_fraction']:.0%}",
        " ".join(f"{summary['stages'][stage]:.2f}" for stage in ("edge_s", "link_s", "cloud_s")),
        f"{summary['planned_s']:.2f} / {summary['planned_bound_s']:.2f} s",
        f"{summary['wall_s']:.2f} s",
    ]


def step() -> None:
    """The link's rate changes: how soon is that noticed, how often do cuts change, and at what cost?"""
    text = ",".join(f"{at:g}s:{mbit:g}mbit" for at, mbit in STEPS)
    with own_cloud(["--threads", "2"]) as child:
        address = child.address()
        totals = {}
        for mbit in {mbit for _, mbit in STEPS}:
            with relayed(address, "--link", f"{mbit:g}mbit,10ms") as at:
                found = run("edge_api.py", "-i", at[0], "-p", at[1], "-t", "alex_net", "--emulate-cpu", 0.2)
                totals[mbit] = {c["point"]: c["total_s"] for c in found["candidates"]}
        with relayed(address, "--link", "20mbit,10ms", "--steps", text) as at:
            flags = ("-i", at[0], "-p", at[1], "-t", "alex_net", "--emulate-cpu", 0.2, "--rate", "2/s")
            document = run("tasks_edge_api.py", *flags, "--tasks", int(2 * STEP_S))
    report_step(document, totals)


def report_step(document: dict[str, Any], totals: dict[float, dict[int, float]]) -> None:
    """A line for each rate of the link; `totals` are predicted seconds by rate and point."""
    history = [(at, rate * 8 / 1e6) for at, rate in document["link"]["history"]]
    rows = []
    shift = steps_shift(document["tasks"])
    for number, (at, mbit) in enumerate(STEPS):
        begin = at - shift if number else 0.0
        end = STEPS[number + 1][0] - shift if number + 1 < len(STEPS) else float("inf")
        inside = [(when, rate) for when, rate in history if begin <= when < end]
        off = [when for when, rate in inside if abs(rate / mbit - 1) > CLOSE]
        settled = next((when for when, rate in inside if not off or when > max(off)), float("nan")) - begin
        moves = [move for move in document["summary"]["moves"] if begin <= move["at_s"] < end]
        tasks = [task for task in document["tasks"] if begin <= task["started_s"] < end and task["point"] is not None]
        best = min(totals[mbit].values())
        regret = [totals[mbit][task["point"]] / best for task in tasks]
        rows.append(
            [
                f"{mbit:g} mbit",
                "-" if not number else f"{settled:.1f} s",
                f"{mean(rate for _, rate in inside):.1f} mbit",
                ", ".join(f"{move['before']} to {move['after']} after {move['at_s'] - begin:.1f} s" for move in moves)
                or "-",
                str(len(tasks)),
                f"{mean(regret):.3f}",
                f"{max(regret):.2f}",
            ]
        )
    head = ["link", "estimate within 25 % after", "mean estimate", "cut changes", "tasks", "mean regret", "worst"]
    notes = [
        "alex_net, 2 tasks/s, edge 0.2 of a core, interval 1 s. Regret: predicted total of the cut in use over the"
    ]
    notes += ["lowest predicted total on the true link; tasks that started before the change was noticed are in it."]
    write_table("tasks_step", "A link that changes", head, rows, notes)


def steps_shift(tasks: Sequence[dict[str, Any]]) -> float:
    """Seconds from the first connection, the relay's zero, to the start of the tasks.

    Only the relay knows its clock: the first frame that the cloud saw arrive slowly gives it away.
    """
    limit = mean(mbit for _, mbit in STEPS[:2]) * 1e6 / 8
    slow: list[dict[str, Any]] = [
        task for task in tasks if task["link_s"] and task["payload_bytes"] / task["link_s"] < limit
    ]
    first: float = min(task["done_s"] - task["cloud_s"] - task["queue_s"] - task["link_s"] for task in slow)
    return STEPS[1][0] - first


def burn() -> None:
    """Keep a core busy, in a session of its own: Linux shares a core between sessions first (autogroup)."""
    os.setsid()
    while True:
        pass


@contextmanager
def hogs(cores: Sequence[int]) -> Iterator[None]:
    """Other work on the cores of the cloud."""
    found = [multiprocessing.Process(target=burn, daemon=True) for _ in range(HOGS_PER_CORE * len(cores))]
    for number, process in enumerate(found):
        process.start()
        os.sched_setaffinity(process.pid or 0, {cores[number % len(cores)]})
    try:
        yield
    finally:
        for process in found:
            process.kill()


def hog() -> None:
    """A cloud under load: cloud-only compared with an edge that changes its cut."""
    everywhere = sorted(os.sched_getaffinity(0))
    mine, others = everywhere[: len(everywhere) // 2], everywhere[len(everywhere) // 2 :]
    rows = []
    with ExitStack() as stack:
        os.sched_setaffinity(0, set(mine))
        child = stack.enter_context(own_cloud(["--threads", str(len(mine))]))
        address = child.address()
        os.sched_setaffinity(0, set(others))
        stack.callback(os.sched_setaffinity, 0, set(everywhere))
        at = stack.enter_context(relayed(address, "--link", "100mbit,5ms"))
        flags = ("-i", at[0], "-p", at[1], "-t", "vgg_net", "--threads", 1)
        run("edge_api.py", *flags)
        for name, context in (("idle", ExitStack()), ("8 hogs on each core", hogs(mine))):
            with context:
                alone = run("edge_api.py", *flags, "--point", 0, "--repeat", 10)["measured"]["repeats"]
                found = run("tasks_edge_api.py", *flags, "--tasks", 40, "--rate", "1/s", "--timeout", "30s")
            tasks = found["tasks"][10:]
            cuts = found["summary"]["cuts"]["vgg_net"]
            only, adapts = (Figure.of_blocks([one["total_s"] for one in each]) for each in (alone, tasks))
            times = [f"{1e3 * figure.value:.0f} ms ± {figure.noise:.0%}" for figure in (only, adapts)]
            rows.append([name, *times, str(Versus.of_figures(adapts, only)), str(cuts)])
    head = ["cloud", "cloud only", "adaptive cut", "ratio", "points used (tasks)"]
    notes = ["vgg_net over 100 mbit, 5 ms; edge 1 core, cloud 2. Medians; the first ten tasks (warm-up) are excluded."]
    write_table("tasks_hog", "A cloud under load", head, rows, notes)


def probe() -> None:
    """The cost of probing: with five probes per second and with none, in turns."""
    rows, ratios = [], []
    with own_cloud(["--threads", "2"]) as child, relayed(child.address(), "--link", "5mbit,20ms") as at:
        flags = ("-i", at[0], "-p", at[1], "-t", "alex_net", "--emulate-cpu", 0.2, "--rate", "1/s", "--tasks", 25)
        run("tasks_edge_api.py", *flags[:-1], 3)
        for number in range(ROUNDS):
            for name, interval in (("probing", "1s"), ("not probing", "1000s")):
                found = run("tasks_edge_api.py", *flags, "--seed", number, "--interval", interval)
                times = [task["total_s"] for task in found["tasks"]]
                rows.append([f"{number + 1} {name}", str(found["summary"]["probes"]), f"{1e3 * mean(times):.1f} ms"])
                ratios.append(mean(times))
    gains = [ratios[n] / ratios[n + 1] for n in range(0, len(ratios), 2)]
    notes = [f"Probing over not probing, median of {ROUNDS} turns: {Versus.of_ratios(gains)}."]
    notes += ["alex_net, 1 task/s, 5 mbit, 20 ms."]
    write_table("tasks_probe", "Cost of probing", ["run", "probes", "mean total"], rows, notes)


def drift(pairs: int, seconds: float) -> None:
    """The same forty tasks again and again, beside the machine's speed; see benchmarks.forty."""
    forty.report(forty.measure(run, pairs, seconds))


PARTS: dict[str, Callable[[], None]] = {part.__name__: part for part in (pipeline, packed, step, hog, probe)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/tasks_*.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=(__doc__ or "").split("\n")[0])
    names = ", ".join((*PARTS, "drift"))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{names} (default: all)")
    parser.add_argument("--pairs", type=int, default=10, help="of runs of drift, pipelined and one after the other")
    parser.add_argument("--seconds", type=float, default=math.inf, help="drift begins no pair that would end later")
    options = parser.parse_args(argv)
    parts: dict[str, Callable[[], None]] = {**PARTS, "drift": partial(drift, options.pairs, options.seconds)}
    for name in options.parts or parts:
        parts[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
