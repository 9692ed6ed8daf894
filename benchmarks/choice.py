"""How good is the chosen point? Measures the points around it and compares: the regret of the choice.

    python -m benchmarks.choice [--models le_net,alex_net] [--cpu 0.02,0.05] [--link 1mbit,20mbit]

Real cloud and relay processes; the edge runs in this process, slowed to a share of one core. In every cell (network x
share x link) the plan is made as edge_api.py makes it, from cached profiles and a fresh probe of the link. Then points
are measured: all of them where there are at most 25, else both ends, the five with the best prediction and ten evenly
spaced ones. Every point is run once; those within 1.25 x of the best are run again, up to five times, and their medians
count. A point whose bytes alone need more than three times the best total on that link cannot be the best and is left
out.

With --times predicted both sides decide from predictors alone, of the roles edge (1 thread) and cloud (2 threads):
deployment.py profile and fit have to be run for both first. No network's layers are measured then.

The best measured point is the minimum of noisy numbers, so the regret is overstated rather than understated: it counts
only where the runs of the two points, which took turns, tell them apart (benchmarks.noise). The noise of a cell is how
far a second measurement of the chosen point, later, is from the first. Beside each decision is where 80 % of the totals
of the chosen point were expected, and how many of them were.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np

from benchmarks.fingerprint import RESULTS, fingerprint, write_table
from benchmarks.noise import Versus
from edgecloud.client.adapting import MEASURED_SD, P90_SDS, PREDICTED_SD
from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import Edge, read_input
from edgecloud.client.planning import problem_of
from edgecloud.client.subprocesses import emulated_link, own_cloud
from edgecloud.engine.executor import CpuShare
from edgecloud.engine.times import Times, predictors_path
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import registry
from edgecloud.partition.adaptive import first_interval
from edgecloud.partition.decide import Decision, Goal, decide
from edgecloud.predictor.pace import apart
from edgecloud.predictor.store import default_folder
from edgecloud.utils.inference_utils import find_device
from edgecloud.utils.units import format_seconds, parse_rate

ALL_POINTS = 25
BEST, SPREAD = 5, 10
CLOSE = 1.25
REPEATS = 5
HOPELESS = 3.0
TIMEOUT_S = 300.0
RTT = "20ms"


@dataclass
class Cell:
    """One network, share and link: totals in seconds by point."""

    model: str
    cpu: float
    link: str
    chosen: int
    measured: dict[int, list[float]]
    left_out: list[int]
    decision_s: float
    expected: tuple[float, float]
    """Seconds between which 80 % of the totals of the chosen point were expected."""
    said_s: float
    """Its predicted total."""

    def total_s(self, point: int) -> float:
        """Median of the measured totals."""
        return median(self.measured[point])

    @property
    def best(self) -> int:
        """The point with the lowest measured total."""
        return min(self.measured, key=self.total_s)

    @property
    def regret(self) -> float:
        """Chosen total over the best measured one; 1 is perfect."""
        return self.total_s(self.chosen) / self.total_s(self.best)

    @property
    def versus(self) -> Versus:
        """The same with its noise: both points were run in turns, but for the first time."""
        chosen, best = self.measured[self.chosen], self.measured[self.best]
        count = min(len(chosen), len(best))
        return Versus.of(chosen[-count:], best[-count:])

    @property
    def noise(self) -> float:
        """How far the later half of the chosen point's totals is from the earlier one, as a share."""
        totals = self.measured[self.chosen]
        half = len(totals) // 2
        return apart(median(totals[:half]), median(totals[half:])) if half else 0.0

    @property
    def inside(self) -> int:
        """How many of those totals were where they were expected."""
        return sum(self.expected[0] <= total <= self.expected[1] for total in self.measured[self.chosen])


@contextmanager
def connected_edge(model: str, address: tuple[str, int], link: str) -> Iterator[Edge]:
    """An edge behind an emulated link."""
    with emulated_link(*address, f"{link},{RTT}") as relay:
        config, entry = EdgeConfig(model=model, cpu_share=1.0), registry.lookup(model)
        edge = Edge.build(config, entry, read_input(config, entry))
        edge.connect(*relay.address(), "", TIMEOUT_S)
        try:
            yield edge
        finally:
            edge.close()


def chosen_of(plan: Decision) -> int:
    """The point that was chosen."""
    return next(n for n, c in enumerate(plan.candidates) if max(plan.head) == c.point.layer)


def points_to_measure(plan: Decision) -> list[int]:
    """All points; of many, the ends, the best predicted and evenly spaced ones."""
    last = len(plan.candidates) - 1
    if last < ALL_POINTS:
        return list(range(last + 1))
    best = sorted(plan.candidates, key=lambda c: c.predicted.total_s)[:BEST]
    spread = np.linspace(0, last, SPREAD + 2).round().astype(int)[1:-1]
    return sorted({0, last, chosen_of(plan), *(c.point.number for c in best), *spread.tolist()})


def measure_cell(edge: Edge, cpu: float, link: str, times: str) -> Cell:
    """Decide, then measure."""
    assert edge.cloud is not None
    edge.executor = TorchExecutor(edge.network, find_device("cpu"), CpuShare(cpu))
    estimate = edge.cloud.measure()
    folder = default_folder()
    found = Times(times, predictors_path(folder, "edge"), folder).find(edge.executor, print, tails=False)
    problem = problem_of(edge, found.look().seconds, estimate, edge.status(TIMEOUT_S))
    started = time.perf_counter()
    plan = decide(problem, Goal(method="chain"))
    decision_s = time.perf_counter() - started
    x = np.asarray(edge.network.example.tensor)
    sds = (
        max(MEASURED_SD, math.log(found.times.factor) / P90_SDS),
        PREDICTED_SD if times == "predicted" else MEASURED_SD,
    )
    said = plan.predicted
    cell = Cell(
        edge.graph.name, cpu, link, chosen_of(plan), {}, [], decision_s, first_interval(said, *sds), said.total_s
    )

    def run(point: int) -> None:
        answered = edge.infer(x, edge.graph.head_at(point), TIMEOUT_S)
        cell.measured.setdefault(point, []).append(answered.measured.total_s)

    order = sorted(points_to_measure(plan), key=lambda p: plan.candidates[p].predicted.total_s)
    edge.infer(x, edge.graph.head_at(order[0]), TIMEOUT_S)  # wakes both sides up
    for point in order:
        floor_s = plan.candidates[point].boundary_bytes / parse_rate(link)
        if cell.measured and floor_s > HOPELESS * min(map(min, cell.measured.values())):
            cell.left_out.append(point)
        else:
            run(point)
    for _ in range(REPEATS - 1):
        limit = CLOSE * cell.total_s(cell.best)
        for point in [p for p in cell.measured if p == cell.chosen or cell.total_s(p) <= limit]:
            run(point)
    return cell


def warm_segments(edge: Edge) -> None:
    """Build every segment on both sides once, so that no measured run builds one."""
    x = np.asarray(edge.network.example.tensor)
    for point in range(len(edge.graph.points)):
        edge.infer(x, edge.graph.head_at(point), TIMEOUT_S)


def read(records: Path) -> list[Cell]:
    """The cells that were measured before."""
    documents = map(json.loads, records.read_text().splitlines() if records.exists() else [])
    cells = []
    for found in documents:
        found["measured"] = {int(point): totals for point, totals in found["measured"].items()}
        found["expected"] = tuple(found["expected"])
        cells.append(Cell(**{key: value for key, value in found.items() if key != "machine"}))
    return cells


def measure_model(
    model: str, cpus: list[float], links: list[str], records: Path, times: str, until: float
) -> list[Cell]:
    """All cells of one network that are not recorded; one record a line as soon as it is there.

    After `until`, a moment of time.monotonic, none is begun.
    """
    name = registry.lookup(model).name
    done = {(cell.cpu, cell.link) for cell in read(records) if cell.model == name}
    missing = {link: [cpu for cpu in cpus if (cpu, link) not in done] for link in links}
    if not any(missing.values()) or time.monotonic() > until:
        return []
    cells = []
    with ExitStack() as stack:
        cloud = stack.enter_context(
            own_cloud(["--threads", "2", "--cache-dir", str(default_folder()), "--times", times])
        )
        address = cloud.address()
        with connected_edge(model, address, "1gbit") as edge:
            warm_segments(edge)
        for link, shares in missing.items():
            if not shares or time.monotonic() > until:
                continue
            with connected_edge(model, address, link) as edge:
                for cpu in shares:
                    cell = measure_cell(edge, cpu, link, times)
                    cells.append(cell)
                    with records.open("a") as file:
                        file.write(json.dumps(vars(cell) | {"machine": fingerprint()}) + "\n")
                    print(
                        f"{model} cpu {cpu} {link}: chosen {cell.chosen} {format_seconds(cell.total_s(cell.chosen))}, "
                        f"best {cell.best} {format_seconds(cell.total_s(cell.best))}, regret {cell.regret:.3f}",
                        file=sys.stderr,
                        flush=True,
                    )
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/choice.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="le_net,alex_net,mobile_net,vgg_net")
    parser.add_argument("--cpu", default="0.02,0.05,0.2")
    parser.add_argument("--link", default="1mbit,5mbit,20mbit,100mbit")
    parser.add_argument("--name", default="choice", help="file name of the table under benchmarks/results")
    parser.add_argument("--times", choices=("measured", "predicted"), default="measured", help="of both sides")
    parser.add_argument("--more", action="store_true", help="measure the cells that are not recorded yet")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no link of a network after that")
    options = parser.parse_args(argv)
    RESULTS.mkdir(exist_ok=True)
    records = RESULTS / f"{options.name}.jsonl"
    if not options.more:
        records.unlink(missing_ok=True)
    cpus, until = [float(share) for share in options.cpu.split(",")], time.monotonic() + options.seconds
    for model in options.models.split(","):
        measure_model(model, cpus, options.link.split(","), records, options.times, until)
    report(read(records), options.name)
    return 0


def report(cells: list[Cell], name: str) -> None:
    """The table and its summary."""
    rows = [
        [
            cell.model,
            f"{cell.cpu:g}",
            cell.link,
            str(cell.chosen),
            format_seconds(cell.total_s(cell.chosen)),
            str(cell.best),
            format_seconds(cell.total_s(cell.best)),
            str(cell.versus),
            f"{cell.noise:.1%}",
            f"{format_seconds(cell.expected[0])} .. {format_seconds(cell.expected[1])}",
            f"{cell.inside} of {len(cell.measured[cell.chosen])}",
            str(len(cell.measured)),
        ]
        for cell in cells
    ]
    regrets = [cell.regret for cell in cells]
    good = sum(regret <= 1.05 for regret in regrets)
    lost = sum(cell.versus.is_sure and cell.regret > 1.05 for cell in cells)
    inside, totals = sum(cell.inside for cell in cells), sum(len(cell.measured[cell.chosen]) for cell in cells)
    off = [apart(cell.said_s, cell.total_s(cell.chosen)) for cell in cells]
    notes = [
        f"Chosen total <= 1.05 x the best measured in {good} of {len(cells)} cells ({good / len(cells):.0%}); "
        f"worst {max(regrets):.3f}, mean {mean(regrets):.3f}. Round trip {RTT} in every cell.",
        f"More than 1.05 x beyond the noise in {lost}. A second measurement of the chosen point, later, is within "
        f"{median(cell.noise for cell in cells):.1%} of the first in half of the cells; most "
        f"{max(cell.noise for cell in cells):.1%}.",
        f"80 % intervals held for {inside} of {totals} totals ({inside / totals:.0%}); predicted totals of the chosen "
        f"points are off by {median(off):.1%} (median); {sum(each <= 0.1 for each in off)} are within 10 %.",
        f"Median decision {format_seconds(median(cell.decision_s for cell in cells))}.",
    ]
    head = ["network", "cpu", "link", "chosen", "total", "best", "best total", "regret"]
    head += ["noise", "80 % of totals expected", "were there", "points measured"]
    write_table(name, "Regret of the chosen point", head, rows, notes)


if __name__ == "__main__":
    sys.exit(main())
