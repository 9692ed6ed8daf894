"""Overlap inside one inference: on and off in turns, in cells whose stages are comparable; predicted against measured.

    python -m benchmarks.overlap                       all cells that are not there yet
    python -m benchmarks.overlap --cells readme        alex_net and efficientnet_lite0, 0.05 of a core, 5 mbit, 20 ms
    python -m benchmarks.overlap --cells grid --model resnet18 --cloud 0.3
    python -m benchmarks.overlap --picture docs/overlap.png --seconds 0
    python -m benchmarks.overlap --costs               what one more chunk costs either side, in time of its processor

Real cloud and relay processes, the cloud's layers slowed to a stated share of a core (cloud_api.py --emulate-cpu); the
edge runs in this process, slowed to its share. In every cell two plans are made as edge_api.py makes them, with
--overlap auto and with --overlap off, and run in turns, so that what slows the machine slows both. Where they are the
same it is run once, and the ratio is 1. Every answer is compared with the whole network's.

`longest` is the slowest stage of the plan with overlap as it was measured, its round trip left out; a cell is balanced
where the two slowest stages without overlap are within a factor of two of each other. Each cell is written down as soon
as it is measured, and is not measured again.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.choice import TIMEOUT_S, connected_edge
from benchmarks.clouds import CloudProcess, running_cloud
from benchmarks.fingerprint import RESULTS, fingerprint, write_table
from benchmarks.noise import Versus
from edgecloud.client.adapting import MEASURED_SD, Turn, measurement_of
from edgecloud.client.config import CodecConfig, DeviceConfig, EdgeConfig, Overlapping
from edgecloud.client.edge import Answered, Edge
from edgecloud.client.outcome import Plan
from edgecloud.client.planning import plan_of, problem_of
from edgecloud.client.power import PowerChoice
from edgecloud.engine.answers import matches
from edgecloud.engine.executor import CpuShare
from edgecloud.engine.times import Times, predictors_path
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.partition.adaptive import IN_ONE_PIECE, Pick
from edgecloud.partition.chunking import axis_of
from edgecloud.partition.cost import StageTimes, parts_of
from edgecloud.partition.overlap import Overlap, Slices
from edgecloud.partition.steering import Steering
from edgecloud.partition.timeline import spans
from edgecloud.partition.ways import first_belief, table_of
from edgecloud.predictor.store import default_folder
from edgecloud.utils.inference_utils import find_device, set_threads
from edgecloud.utils.units import format_seconds

ROUNDS = 7
EDGE, RTT_S = 0.05, 0.02
README = tuple((model, EDGE, "5mbit", 1.0) for model in ("alex_net", "efficientnet_lite0"))
GRID = tuple(
    (model, EDGE, link, cloud)
    for cloud in (0.1, 0.3)
    for link in ("5mbit", "20mbit")
    for model in ("alex_net", "vgg_net", "resnet18", "mobile_net", "googlenet")
)
CELLS = {"readme": README, "grid": GRID}
BALANCED = 2.0
STAGES = ("edge_s", "encode_s", "transfer_s", "queue_s", "cloud_s", "hidden_s", "total_s")
WORST, NEAR = 1.02, 0.08
"""Of the total without overlap, and how far a prediction may be from what was measured."""
Key = tuple[str, float, str, float]


@dataclass
class Side:
    """One plan: what it is, what it is predicted to take, and the stages of every run in seconds."""

    point: int | None
    codec: str
    chunks: int
    rows: str
    predicted: dict[str, float]
    runs: list[dict[str, float]]
    learnt: list[float] = field(default_factory=list)
    """What each run was predicted to take by then, corrected by those before it, the first one among them."""

    @property
    def totals(self) -> list[float]:
        """Of every run."""
        return [run["total_s"] for run in self.runs]

    def stage(self, name: str) -> float:
        """The median of one stage."""
        return median(run[name] for run in self.runs)

    @property
    def stages(self) -> list[float]:
        """The medians of those that may hide each other, the round trip left out, the longest first."""
        each = [self.stage("edge_s"), self.stage("encode_s"), self.stage("cloud_s")]
        return sorted([*each, max(0.0, self.stage("transfer_s") - RTT_S)], reverse=True)


@dataclass
class Cell:
    """One network, edge, link and cloud."""

    model: str
    cpu: float
    link: str
    cloud: float
    same: bool
    """Whether every answer was the whole network's."""
    on: Side
    off: Side

    @property
    def key(self) -> Key:
        """What it was asked for."""
        return self.model, self.cpu, self.link, self.cloud

    @property
    def is_one(self) -> bool:
        """Whether nothing overlaps in either."""
        return not self.on.chunks and (self.on.point, self.on.codec) == (self.off.point, self.off.codec)

    @property
    def faster(self) -> Versus:
        """How many times what it takes with overlap it takes without."""
        return Versus.of(self.off.totals, self.on.totals)

    @property
    def is_balanced(self) -> bool:
        """Whether the two slowest stages without overlap are comparable."""
        first, second, *_ = self.off.stages
        return second * BALANCED >= first

    @property
    def over_longest(self) -> float:
        """The total with overlap, over its slowest stage and the round trip."""
        return median(self.on.totals) / (self.on.stages[0] + RTT_S)

    @property
    def off_by(self) -> float:
        """How far the prediction of the plan with overlap is from what was measured."""
        return abs(self.on.predicted["total_s"] / median(self.on.totals) - 1)

    @property
    def learnt_off_by(self) -> float:
        """The same of what is predicted while it runs."""
        return median(abs(told / took - 1) for told, took in zip(self.on.learnt, self.on.totals, strict=True))


def read(records: Path) -> dict[Key, Cell]:
    """The cells that were measured."""
    cells = {}
    for line in records.read_text().splitlines() if records.exists() else ():
        row = json.loads(line)
        del row["machine"]
        cell = Cell(**row | {name: Side(**row[name]) for name in ("on", "off")})
        cells[cell.key] = cell
    return cells


# --- one cell


def planned(edge: Edge, cpu: float, overlap: Overlapping) -> Plan:
    """As edge_api.py plans, with the link and the cloud as they are now."""
    assert edge.cloud is not None
    folder = default_folder()
    config = EdgeConfig(
        model=edge.graph.name,
        cpu_share=cpu,
        codec=CodecConfig(),
        device=DeviceConfig(cache_dir=folder),
        overlap=overlap,
    )
    timing = Times("measured", predictors_path(folder, "edge"), folder).find(edge.executor, lambda _: None, tails=False)
    problem = problem_of(edge, timing.look().seconds, edge.cloud.measure(), edge.status(TIMEOUT_S))
    return plan_of(edge, problem, config, PowerChoice.of(config.power, config.radio))


def measure_cell(edge: Edge, key: Key, rounds: int) -> Cell:
    """Plan both, and run them in turns."""
    model, cpu, link, cloud = key
    edge.executor = TorchExecutor(edge.network, find_device("cpu"), CpuShare(cpu))
    plans = [planned(edge, cpu, "auto"), planned(edge, cpu, "off")]
    x = np.asarray(edge.network.example.array)
    whole, same = edge.network.whole(x), True
    is_one = plans[0].decision.overlap is None and plans[0].decision.parts == plans[1].decision.parts
    runs: list[list[Answered]] = [[], []]
    for _ in range(rounds + 1):
        for plan, answers in list(zip(plans, runs, strict=True))[: 1 if is_one else 2]:
            edge.executor.rest()
            decision = plan.decision
            answers.append(edge.infer_parts(x, decision.parts, TIMEOUT_S, dict(plan.codecs), decision.overlap))
            same &= matches(answers[-1].outputs, whole)
    if is_one:
        runs[1] = runs[0]
    sides = [_side(edge, plan, answers) for plan, answers in zip(plans, runs, strict=True)]
    return Cell(model, cpu, link, cloud, same, *sides)


def _side(edge: Edge, plan: Plan, answers: Sequence[Answered]) -> Side:
    decision, overlap = plan.decision, plan.decision.overlap
    names = [name for name in ("head", "tail") if overlap is not None and getattr(overlap, f"{name}_rows")]
    chunks = 0 if overlap is None else overlap.count
    predicted, runs = _stages(decision.predicted), [_stages(answer.measured) for answer in answers[1:]]  # all awake
    about = decision.point(edge.graph), decision.codec, chunks, "+".join(names)
    return Side(*about, predicted, runs, _learnt(plan, answers))


def _learnt(plan: Plan, answers: Sequence[Answered]) -> list[float]:
    """What is predicted before each run but the first, as a program that goes on corrects it."""
    problem, parts = plan.problem, plan.decision.parts
    assert problem is not None
    table = table_of(problem, problem, [parts[0].layers])
    ways, names = table.at(problem), table.names
    plain = table.name_of(parts)
    assert plain is not None
    whole = f"{plain}{IN_ONE_PIECE}"
    name = whole if plan.decision.overlap is None and whole in names else plain
    turn = Turn(parts, {}, 0.0, name, table, ways)
    steering, told = Steering(first_belief(table, MEASURED_SD, MEASURED_SD), name, table.ends), []
    for answer in answers:
        told.append(steering.interval(names, ways, name)[1])
        measured = measurement_of(turn, answer.measured, answer.measured.total_s, is_whole=True)
        steering.record(names, ways, Pick(names.index(name)), measured)
    return told[1:]


def _stages(times: StageTimes) -> dict[str, float]:
    told = times.to_json()
    return {name: told[name] for name in STAGES}


def measure(wanted: Sequence[Key], rounds: int, until: float, records: Path) -> None:
    """The cells that are not there yet, one record a line as soon as it is there."""
    todo = [key for key in wanted if key not in read(records)]
    set_threads(1)
    for cloud in dict.fromkeys(key[3] for key in todo):
        with ExitStack() as stack:
            flags = ("--threads", "1", "--models", "all", "--emulate-cpu", f"{cloud:g}")
            address = "127.0.0.1", stack.enter_context(running_cloud(default_folder(), *flags)).port
            for key in (key for key in todo if key[3] == cloud):
                if time.monotonic() > until:
                    return
                with connected_edge(key[0], address, f"{key[2]}") as edge:
                    cell = measure_cell(edge, key, rounds)
                with records.open("a") as file:
                    file.write(json.dumps(asdict(cell) | {"machine": fingerprint()}) + "\n")
                print(_line(cell), file=sys.stderr)


def _line(cell: Cell) -> str:
    return f"{cell.model} {cell.cpu:g} {cell.link} {cell.cloud:g}: {' | '.join(_row(cell)[4:])}"


# --- the table


def report(cells: Sequence[Cell], name: str) -> None:
    """The table and its summary."""
    head = ["network", "edge", "link", "cloud", "plan: point, codec", "chunks", "off", "on", "off / on", "longest"]
    head += ["on / (longest + RTT)", "hidden", "predicted", "off by", "learnt", "balanced", "same answers"]
    about = (
        "Medians of interleaved runs; predicted, and off by: of the plan with overlap; learnt: how far the prediction "
    )
    about += "of each run is off that was corrected by the runs before it, the median."
    notes = [*_summary(cells), about]
    write_table(name, "Overlap inside one inference", head, [_row(cell) for cell in cells], notes)


def _row(cell: Cell) -> list[str]:
    on, off = cell.on, cell.off
    where = f"{'-' if on.point is None else on.point}, {on.codec}"
    if (on.point, on.codec) != (off.point, off.codec):
        where += f" (off: {'-' if off.point is None else off.point}, {off.codec})"
    return [
        *(cell.model, f"{cell.cpu:g}", cell.link, f"{cell.cloud:g}", where),
        f"{on.chunks}{' ' + on.rows if on.rows else ''}",
        format_seconds(median(off.totals)),
        format_seconds(median(on.totals)),
        "1 (the same)" if cell.is_one else str(cell.faster.ratio),
        format_seconds(on.stages[0]),
        f"{cell.over_longest:.2f}",
        format_seconds(on.stage("hidden_s")),
        format_seconds(on.predicted["total_s"]),
        f"{cell.off_by:.0%}",
        f"{cell.learnt_off_by:.0%}",
        "yes" if cell.is_balanced else "no",
        "yes" if cell.same else "NO",
    ]


def _summary(cells: Sequence[Cell]) -> Iterator[str]:
    for name, keys in CELLS.items():
        found = [cell for cell in cells if cell.key in keys]
        if not found:
            continue
        ratios = [1.0 if cell.is_one else cell.faster.ratio.value for cell in found]
        balanced = [r for r, cell in zip(ratios, found, strict=True) if cell.is_balanced]
        near = sum(cell.off_by <= NEAR for cell in found), sum(cell.learnt_off_by <= NEAR for cell in found)
        yield (
            f"{name}: off / on {median(ratios):.2f} in the median, {min(ratios):.2f} to {max(ratios):.2f}; balanced "
            f"{len(balanced)} of {len(found)}, there {median(balanced) if balanced else math.nan:.2f}; more than "
            f"{WORST - 1:.0%} slower than off: {sum(r < 1 / WORST for r in ratios)}; predicted within {NEAR:.0%}: "
            f"{near[0]} of {len(found)}, {near[1]} once learnt; on / (longest + RTT) at most "
            f"{max(each.over_longest for each in found):.2f}; "
            f"same answers in {sum(cell.same for cell in found)}."
        )


# --- the picture


PLACES = {"edge": "edge", "encode": "edge", "transfer": "link", "queue": "cloud", "cloud": "cloud"}


def picture(cells: Sequence[Cell], path: Path) -> None:
    """A row for each place of each plan, with the stages of its run of median total, as long as they were measured."""
    from edgecloud.utils.plots import Bar, Strip, waterfall

    strips = []
    for cell in cells:
        for name, side in (("off", cell.off), ("on", cell.on)):
            totals = sorted(side.totals)
            run = next(each for each in side.runs if each["total_s"] == totals[(len(totals) - 1) // 2])
            drawn = spans(_times(run))
            for place in ("edge", "link", "cloud"):
                bars = [Bar(place, span.begin_s, span.seconds) for span in drawn if PLACES[span.name] == place]
                note = f"{format_seconds(run['total_s'])}" if place == "cloud" else ""
                strips.append(Strip(f"{cell.model}, overlap {name}: {place}", bars, note))
    about = f"edge {cells[0].cpu:g} of a core, {cells[0].link}, {1e3 * RTT_S:g} ms"
    waterfall(path, strips, f"Stages of one inference ({about})")


def _times(run: Mapping[str, float]) -> StageTimes:
    return StageTimes(
        edge_s=run["edge_s"],
        encode_s=run["encode_s"],
        queue_s=run["queue_s"],
        cloud_s=run["cloud_s"],
        link_s=run["transfer_s"],
        hidden_s=run["hidden_s"],
    )


# --- what one more chunk costs


def costs(sizes: Sequence[tuple[str, str]], repeats: int = 30) -> None:
    """Processor time of both sides for one request, by its chunks. Says little of the elapsed time of a busy machine,
    and so may be measured on one."""
    set_threads(1)
    with ExitStack() as stack:
        cloud = stack.enter_context(running_cloud(default_folder(), "--threads", "1"))
        for model, codec in sizes:
            with connected_edge(model, ("127.0.0.1", cloud.port), "1000mbit") as edge:
                _costs_of(edge, cloud, codec, repeats)


def cpu_s(cloud: CloudProcess) -> float:
    """Seconds of processor time that it has had."""
    fields = Path(f"/proc/{cloud.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _costs_of(edge: Edge, cloud: CloudProcess, codec: str, repeats: int) -> None:
    graph, x = edge.graph, np.asarray(edge.network.example.array)
    number = graph.inputs[0]
    axis = axis_of(graph.layers[number].out_shape)
    assert axis is not None
    size = graph.layers[number].out_shape[axis]
    parts, found = parts_of(graph, graph.only_inputs), []
    for count in (1, 2, 4, 8, 16):
        ends = tuple(round(size * (part + 1) / count) for part in range(count))
        overlap = None if count == 1 else Overlap((Slices(number, axis, ends),))
        edge.infer_parts(x, parts, TIMEOUT_S, {number: codec}, overlap)
        before = time.process_time(), cpu_s(cloud)
        runs = [edge.infer_parts(x, parts, TIMEOUT_S, {number: codec}, overlap).measured for _ in range(repeats)]
        after = time.process_time(), cpu_s(cloud)
        spent = [(now - then) / repeats for now, then in zip(after, before, strict=True)]
        packing, unpacking = (median(getattr(run, name) for run in runs) for name in ("encode_s", "decode_s"))
        found.append((count, *spent, packing, unpacking))
        print(f"{graph.name} {codec} {count:>2} chunks: " + ", ".join(format_seconds(s) for s in found[-1][1:]))
    (few, *first), (many, *last) = found[0], found[-1]
    each = [(b - a) / (many - few) for a, b in zip(first, last, strict=True)]
    names = ("edge", "cloud", "packing", "unpacking")
    print("  one more chunk: " + ", ".join(f"{n} {format_seconds(s)}" for n, s in zip(names, each, strict=True)))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write benchmarks/results/overlap.md from all that is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cells", choices=("all", *CELLS), default="all")
    parser.add_argument("--model", help="only these networks, with commas between them")
    parser.add_argument("--link", help="only these links")
    parser.add_argument("--cloud", help="only these shares of a core on the cloud")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no cell after so long")
    parser.add_argument("--name", default="overlap", help="file name of the table under benchmarks/results")
    parser.add_argument("--anew", action="store_true", help="measure all cells again")
    parser.add_argument("--costs", action="store_true", help="measure what one more chunk costs")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the cells of --cells readme")
    options = parser.parse_args(argv)
    if options.costs:
        costs([("alex_net", "raw"), ("alex_net", "zstd"), ("alex_net", "pixels+zstd")])
        return 0
    RESULTS.mkdir(exist_ok=True)
    records = RESULTS / f"{options.name}.jsonl"
    if options.anew:
        records.unlink(missing_ok=True)
    measure(wanted_of(vars(options)), options.rounds, time.monotonic() + options.seconds, records)
    every = [*README, *GRID]
    cells = sorted(read(records).values(), key=lambda cell: every.index(cell.key) if cell.key in every else len(every))
    report(cells, options.name)
    if options.picture is not None:
        picture([cell for cell in cells if cell.key in README], options.picture)
    return 0


def wanted_of(options: Mapping[str, Any]) -> list[Key]:
    """The cells that were asked for."""
    cells = [*README, *GRID] if options["cells"] == "all" else list(CELLS[options["cells"]])
    for place, name in ((0, "model"), (2, "link"), (3, "cloud")):
        if options[name]:
            chosen = options[name].split(",")
            cells = [cell for cell in cells if str(cell[place]) in chosen]
    return cells


if __name__ == "__main__":
    sys.exit(main())
