"""Does a cut pay? The measured gain of the plan over the better end, in cells of edges and links.

    python -m benchmarks.gain [--model efficientnet_lite0] [--cpu 0.03,0.05] [--link 1mbit,2mbit] [--budget 1%] [--anew]

Real cloud and relay processes; the edge runs in this process, slowed to a share of one core. In every cell the plan is
made as edge_api.py makes it with the accuracy budget, and run in turns with both ends: all on the edge, and all on the
cloud with the codec that it would use itself. That is done twice: with a cloud that does not take JPEG, as is the
default, and with one that does, so that the plan and all on the cloud may use JPEG, where a calibration finds that
within the budget. What is the same is run once, so that a plan that is an end gains exactly 1.

Each cell is written down as soon as it is measured, and is not measured again: what was stopped goes on where it was.
`--seconds` stops before a cell after so long; with 0 only the table is written anew.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.choice import RTT, TIMEOUT_S, connected_edge
from benchmarks.fingerprint import RESULTS, fingerprint, write_table
from benchmarks.noise import Figure, Versus
from edgecloud.cli.arguments import percent
from edgecloud.client.config import CodecConfig, DeviceConfig, EdgeConfig
from edgecloud.client.edge import Edge
from edgecloud.client.outcome import Way
from edgecloud.client.planning import allowed_of, problem_of
from edgecloud.client.subprocesses import own_cloud
from edgecloud.engine.executor import CpuShare
from edgecloud.engine.times import Times, predictors_path
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models.graph import INPUT
from edgecloud.partition.cost import Problem, parts_of
from edgecloud.partition.decide import Decision, Goal, decide
from edgecloud.partition.packing import Allowed
from edgecloud.predictor.store import default_folder
from edgecloud.utils.inference_utils import find_device, set_threads
from edgecloud.utils.units import format_seconds

MODEL = "efficientnet_lite0"
CPUS, LINKS = "0.03,0.05,0.07,0.1,0.2", "0.5mbit,1mbit,2mbit,5mbit,10mbit,20mbit"
ROUNDS = 5
CLOUD_THREADS = 1
GOOD = 1.2
JPEG = "jpeg"


@dataclass
class Side:
    """The plan compared with both ends, with one kind of cloud: seconds in turns."""

    point: int | None
    codec: str
    predicted: float
    """The gain, as it was predicted."""
    plan_s: list[float]
    cloud_s: list[float]
    edge_s: list[float]
    cloud_codec: str

    @property
    def better_s(self) -> list[float]:
        """What the better end took."""
        return min((self.cloud_s, self.edge_s), key=median)

    @property
    def gain(self) -> Versus:
        """How many times what the plan took the better end took."""
        return Versus.of(self.better_s, self.plan_s)


@dataclass
class Cell:
    """One edge and link, without JPEG and with it."""

    model: str
    cpu: float
    link: str
    budget: float
    same: bool
    """Whether every answer had the whole network's top-1."""
    plain: Side
    with_jpeg: Side

    @property
    def key(self) -> tuple[str, float, str, float]:
        """What it was asked for."""
        return self.model, self.cpu, self.link, self.budget


def read(records: Path) -> dict[tuple[str, float, str, float], Cell]:
    """The cells that were measured."""
    cells = {}
    for line in records.read_text().splitlines() if records.exists() else ():
        row = json.loads(line)
        del row["machine"]
        row |= {name: Side(**row[name]) for name in ("plain", "with_jpeg")}
        cell = Cell(**row)
        cells[cell.key] = cell
    return cells


def without_jpeg(allowed: Allowed) -> Allowed:
    """The same with a cloud that does not take it."""
    lossy = {n: [way for way in ways if way.codec != JPEG] for n, ways in allowed.lossy.items()}
    return replace(allowed, lossy={n: ways for n, ways in lossy.items() if ways})


def ways_of(problem: Problem, allowed: Allowed) -> tuple[Decision, tuple[Way, Way, Way]]:
    """The plan, and how it and both ends run."""
    graph, decision = problem.graph, decide(problem, Goal(), allowed=allowed)
    assert decision.gain is not None  # there is a cloud
    codecs = {INPUT: decision.gain.ends[0].codec}
    ends = [parts_of(graph, head) for head in (frozenset({INPUT}), graph.everything)]
    plan = Way.of(graph, decision.parts, decision.codecs, decision.overlap)
    cloud = Way.of(graph, ends[0], codecs, decision.candidates[0].overlap)
    return decision, (plan, cloud, Way.of(graph, ends[1], {}))


def measure_cell(edge: Edge, cpu: float, link: str, budget: float, rounds: int) -> Cell:
    """Decide, and run everything in turns."""
    assert edge.cloud is not None
    edge.executor = TorchExecutor(edge.network, find_device("cpu"), CpuShare(cpu))
    folder, codec = default_folder(), CodecConfig(accuracy_budget=budget)
    config = EdgeConfig(model=edge.graph.name, cpu_share=cpu, codec=codec, device=DeviceConfig(cache_dir=folder))
    timing = Times("measured", predictors_path(folder, "edge"), folder).find(edge.executor, lambda _: None, tails=False)
    estimate = edge.cloud.measure()
    problem = problem_of(edge, timing.look().seconds, estimate, edge.status(TIMEOUT_S))
    allowed = allowed_of(edge, config)
    found = [ways_of(problem, each) for each in (without_jpeg(allowed), allowed)]
    x = np.asarray(edge.network.example.array)
    top = int(edge.network.whole(x)[0].argmax())
    seconds: dict[Way, list[float]] = {way: [] for _, ways in found for way in ways}
    same = True
    for _ in range(rounds + 1):
        for way, totals in seconds.items():
            edge.executor.rest()
            answered = edge.infer_parts(x, way.parts, TIMEOUT_S, dict(way.codecs), way.overlap)
            totals.append(answered.measured.total_s)
            same &= int(answered.outputs[0].argmax()) == top
    ran: Mapping[Way, list[float]] = {way: totals[1:] for way, totals in seconds.items()}  # the first wakes both up
    sides = [_side(edge, decision, ways, ran) for decision, ways in found]
    return Cell(edge.graph.name, cpu, link, budget, same, *sides)


def _side(edge: Edge, decision: Decision, ways: tuple[Way, Way, Way], ran: Mapping[Way, list[float]]) -> Side:
    assert decision.gain is not None
    plan, cloud, here = ways
    where = decision.point(edge.graph), decision.codec
    return Side(*where, decision.gain.over, ran[plan], ran[cloud], ran[here], cloud.codec)


def measure(options: argparse.Namespace, records: Path) -> None:
    """All cells that are not there yet, one record a line as soon as it is there."""
    known, budget, until = read(records), options.budget, time.monotonic() + options.seconds
    cpus = [float(share) for share in options.cpu.split(",")]
    todo = {
        link: [cpu for cpu in cpus if (options.model, cpu, link, budget) not in known]
        for link in options.link.split(",")
    }
    if not any(todo.values()) or options.seconds <= 0:
        return
    set_threads(1)
    flags = ["--threads", str(CLOUD_THREADS), "--cache-dir", str(default_folder()), "--allow-jpeg"]
    with ExitStack() as stack:
        address = stack.enter_context(own_cloud(flags)).address()
        for link, missing in ((link, missing) for link, missing in todo.items() if missing):
            with connected_edge(options.model, address, link) as edge:
                for cpu in missing:
                    if time.monotonic() > until:
                        return
                    cell = measure_cell(edge, cpu, link, budget, options.rounds)
                    with records.open("a") as file:
                        file.write(json.dumps(asdict(cell) | {"machine": fingerprint()}) + "\n")
                    print(f"{cpu:g} {link}: {_text(cell.plain)}; JPEG: {_text(cell.with_jpeg)}", file=sys.stderr)


def _text(side: Side) -> str:
    return f"{side.gain} with {_cut(side)} ({side.predicted:.2f} predicted)"


def _cut(side: Side) -> str:
    return f"{'-' if side.point is None else side.point}, {side.codec}"


def report(cells: Sequence[Cell], name: str) -> None:
    """The table and its summary."""
    head = ["edge", "link", "all on the edge", "all on the cloud", "plan: point, codec", "plan", "gain"]
    head += ["predicted", "JPEG: all on the cloud", "JPEG: plan", "JPEG: gain", "same top-1"]
    rows = [
        [
            f"{cell.cpu:g}",
            cell.link,
            *(_seconds(each) for each in (cell.plain.edge_s, cell.plain.cloud_s)),
            _cut(cell.plain),
            _seconds(cell.plain.plan_s),
            str(cell.plain.gain.ratio),
            f"{cell.plain.predicted:.2f}",
            f"{_seconds(cell.with_jpeg.cloud_s)}, {cell.with_jpeg.cloud_codec}",
            _cut(cell.with_jpeg),
            str(cell.with_jpeg.gain.ratio),
            "yes" if cell.same else "no",
        ]
        for cell in cells
    ]
    sides = {"The plan": [c.plain for c in cells], "With JPEG within the budget": [c.with_jpeg for c in cells]}
    notes = [f"{who}: {_summary(each)}" for who, each in sides.items()]
    notes.append(f"Round trip {RTT}; medians of interleaved runs, and half of what the middle half of them spans.")
    write_table(name, "The gain of the plan over the better end", head, rows, notes)


def _seconds(values: Sequence[float]) -> str:
    figure = Figure.of(values)
    return f"{format_seconds(figure.value)} ± {figure.noise:.0%}"


def _summary(sides: Sequence[Side]) -> str:
    gains = [side.gain.ratio.value for side in sides]
    good = sum(gain >= GOOD for gain in gains)
    middle = math.exp(sum(map(math.log, gains)) / len(gains))
    return (
        f"gain of at least {GOOD:g} x in {good} of {len(gains)} cells ({good / len(gains):.0%}), geometric mean "
        f"{middle:.2f} x, least {min(gains):.2f} x, most {max(gains):.2f} x."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write benchmarks/results/gain.md from all that is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--cpu", default=CPUS)
    parser.add_argument("--link", default=LINKS)
    parser.add_argument("--budget", type=percent, default="1%", help="share of answers that lossy codecs may change")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no cell after so long")
    parser.add_argument("--name", default="gain", help="file name of the table under benchmarks/results")
    parser.add_argument("--anew", action="store_true", help="measure all cells again")
    options = parser.parse_args(argv)
    RESULTS.mkdir(exist_ok=True)
    records = RESULTS / f"{options.name}.jsonl"
    if options.anew:
        records.unlink(missing_ok=True)
    measure(options, records)
    cells = sorted(read(records).values(), key=lambda cell: (cell.model, cell.cpu, _rate(cell.link)))
    report(cells, options.name)
    return 0


def _rate(link: str) -> float:
    return float(link.removesuffix("mbit"))


if __name__ == "__main__":
    sys.exit(main())
