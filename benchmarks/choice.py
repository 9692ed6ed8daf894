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

The best measured point is the minimum of noisy numbers, so the regret is overstated rather than understated.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np

from benchmarks.fingerprint import RESULTS, fingerprint, write_table
from edgecloud.client.edge import Edge, EdgeConfig, read_input
from edgecloud.client.planning import problem_of
from edgecloud.client.subprocesses import emulated_link, own_cloud
from edgecloud.engine.executor import CpuShare, TorchExecutor
from edgecloud.engine.times import Times, predictors_path
from edgecloud.models import registry
from edgecloud.partition.decide import Decision, Goal, decide
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
    edge_s = Times(times, predictors_path(folder, "edge"), folder).find(edge.executor, print, tails=False).times.seconds
    problem = problem_of(edge, edge_s, estimate, edge.status(TIMEOUT_S))
    started = time.perf_counter()
    plan = decide(problem, Goal(method="chain"))
    decision_s = time.perf_counter() - started
    x = np.asarray(edge.network.example.tensor)
    cell = Cell(edge.graph.name, cpu, link, chosen_of(plan), {}, [], decision_s)

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


def measure_model(model: str, cpus: list[float], links: list[str], records: Path, times: str) -> list[Cell]:
    """All cells of one network; one record a line as soon as it is there."""
    cells = []
    with ExitStack() as stack:
        cloud = stack.enter_context(
            own_cloud(["--threads", "2", "--cache-dir", str(default_folder()), "--times", times])
        )
        address = cloud.address()
        with connected_edge(model, address, "1gbit") as edge:
            warm_segments(edge)
        for link in links:
            with connected_edge(model, address, link) as edge:
                for cpu in cpus:
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
    options = parser.parse_args(argv)
    RESULTS.mkdir(exist_ok=True)
    records = RESULTS / f"{options.name}.jsonl"
    records.unlink(missing_ok=True)
    cpus = [float(share) for share in options.cpu.split(",")]
    cells = [
        cell
        for model in options.models.split(",")
        for cell in measure_model(model, cpus, options.link.split(","), records, options.times)
    ]
    report(cells, options.name)
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
            f"{cell.regret:.3f}",
            str(len(cell.measured)),
        ]
        for cell in cells
    ]
    regrets = [cell.regret for cell in cells]
    good = sum(regret <= 1.05 for regret in regrets)
    notes = [
        f"Chosen total <= 1.05 x the best measured in {good} of {len(cells)} cells ({good / len(cells):.0%}); "
        f"worst {max(regrets):.3f}, mean {mean(regrets):.3f}. Round trip {RTT} in every cell.",
        f"Median decision {format_seconds(median(cell.decision_s for cell in cells))}.",
    ]
    head = ["network", "cpu", "link", "chosen", "total", "best", "best total", "regret", "points measured"]
    write_table(name, "Regret of the chosen point", head, rows, notes)


if __name__ == "__main__":
    sys.exit(main())
