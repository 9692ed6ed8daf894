"""How long choosing a cut takes once the times are known.

    taskset -c 2 python -m benchmarks.decision

Four tables. Points: every decision tries all points of a network, compared with the baseline implementation, which at
every decision runs the head of every point to learn its layers and the sizes of its tensors. Then, for graphs with
branches and a random one of 500 layers: the minimum cut, for the first time and for another link, compared with
networkx on the same cost; the map of all bandwidths; and the cut with the minimum bottleneck stage, exactly and by
DADS's own search.

Layer times are those of this machine, cached or measured now, the edge 20 times slower. Use an otherwise idle core.
"""

import importlib
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.fingerprint import write_table
from edgecloud.engine.executor import TorchExecutor, prepare
from edgecloud.models import inputs, registry, weights
from edgecloud.models.graph import INPUT, Layer, LayerGraph
from edgecloud.models.split import segment
from edgecloud.partition import bottleneck
from edgecloud.partition.chain import best, scan
from edgecloud.partition.cost import CloudTimes, Link, Problem
from edgecloud.partition.decide import Goal, decide
from edgecloud.partition.decision_map import SLOWEST, DecisionMap
from edgecloud.partition.mincut import CutSolver, Terms
from edgecloud.predictor.store import default_folder
from edgecloud.utils.units import format_seconds

MODELS = ("le_net", "alex_net", "mobile_net", "vgg_net", "torchvision:googlenet", "torchvision:densenet121")
GRAPHS = (
    *("torchvision:resnet18", "torchvision:googlenet", "torchvision:inception_v3"),
    *("torchvision:densenet121", "torchvision:vit_b_16"),
)
RANDOM = "random, 500 layers"
BARRED = ("torchvision:googlenet", "torchvision:densenet121", RANDOM)
SLOWER = 20
LINK = Link(625_000, 625_000, 0.02)
REPEATS = 200
PROCESSES, SWEEPS, LINKS, COMPARED, MAPS, LOOKUPS, STAGES = 7, 7, 100, 9, 9, 10_000, 12
FIRST_S, UPDATE_S, LOOKUP_S, EXACT_S = 20e-3, 3e-3, 20e-6, 1.0
SAME_VALUE = 1e-6

Rows = list[list[str]]
Seconds = Mapping[str, Sequence[float]]
"""By the name of a graph."""


def prepared(name: str) -> TorchExecutor:
    """A network that can be profiled."""
    entry = registry.lookup(name)
    network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
    return TorchExecutor(network, torch.device("cpu"))


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- the points of a network


def points_row(name: str) -> list[str]:
    """Median, worst and first decision, and the baseline implementation's."""
    executor = prepared(name)
    network, problem = executor.traced, problem_of(executor)
    times = [timed(lambda: best(scan(problem))) for _ in range(REPEATS)]
    heads = [segment(network, network.graph.head_at(point.number)).module for point in network.graph.points]
    x = inputs.sample(registry.lookup(name).sample, registry.lookup(name).preprocess).tensor
    with torch.inference_mode():
        published = timed(lambda: [head(x) for head in heads])
    shown = [median(times), max(times), times[0], published]
    return [name, str(len(heads)), *map(format_seconds, shown), f"{published / median(times):.0f}"]


def problem_of(executor: TorchExecutor) -> Problem:
    """The times of this machine, cached or measured, for both sides."""
    profile = executor.profile(default_folder(), tails=True)
    cloud = CloudTimes(profile.seconds, profile.start_s)
    return Problem(replace(executor.traced.graph), [SLOWER * s for s in profile.seconds], cloud, LINK)


# --- any graph


def random_problem(count: int = 500, seed: int = 0) -> Problem:
    """A made-up network that gets narrower: every layer reads one to three layers, most of them just before it."""
    rng = random.Random(seed)
    reads: list[set[int]] = [set()]
    for number in range(1, count):
        reads.append({max(INPUT, number - 1 - int(rng.expovariate(0.7))) for _ in range(rng.choice((1, 1, 1, 2, 3)))})
    for number in range(1, count - 1):  # what nobody would read is read by the next layer
        if not any(number in found for found in reads[number + 1 :]):
            reads[number + 1].add(number)
    sizes = [int(600e3 * 0.01 ** (number / count) * rng.lognormvariate(0, 0.8)) for number in range(count)]
    sizes[INPUT], sizes[-1] = 602_112, 4000
    layers = [Layer(f"l{n}", "layer", tuple(sorted(reads[n])), sizes[n]) for n in range(count)]
    cloud_s = [0.0, *(rng.lognormvariate(math.log(200e-6), 1.0) for _ in range(count - 1))]
    edge_s = [SLOWER * rng.lognormvariate(0, 0.2) * seconds for seconds in cloud_s]
    cloud = CloudTimes(cloud_s, [rng.uniform(0, 1e-3) for _ in range(count)])
    return Problem(LayerGraph(RANDOM, tuple(layers), (count - 1,)), edge_s, cloud, LINK)


def links(count: int, slowest: float = 0.1, fastest: float = 1000.0) -> list[Link]:
    """Links of different rates, in mbit, evenly spread on a logarithmic scale."""
    rates = [slowest * (fastest / slowest) ** (step / (count - 1)) for step in range(count)]
    return [Link(125_000 * rate, 125_000 * rate, LINK.rtt_s) for rate in rates]


def unknown(problem: Problem, link: Link | None = None) -> Problem:
    """The same with a graph of which nothing is known yet: no points, no readers."""
    return replace(problem, graph=replace(problem.graph), link=link or problem.link)


def first_decision(problem: Problem) -> float:
    """Seconds of a decision; for a process that has made none."""
    return timed(lambda: decide(problem, Goal()))


def first_program(problem: Problem) -> float:
    """The same for the integer program, which imports its solver first."""
    return program_s(problem)[0]


def in_new_processes(work: Callable[[Problem], float], problem: Problem) -> list[float]:
    """What `work` returns in processes that do nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(work, [unknown(problem) for _ in range(PROCESSES)]))


@dataclass(frozen=True)
class Cuts:
    """Seconds of minimum cuts of one graph; what is by link is a median of some sweeps over the links."""

    first: list[float]
    """Decisions that are the first of their process."""
    fresh: list[float]
    """By link: decisions about a graph that is new to a process that has made some."""
    update: list[float]
    """By link: a cut of a graph that is known."""
    networkx: list[float]
    """By link."""

    @classmethod
    def of(cls, problem: Problem) -> "Cuts":
        """Measure, in one run."""
        solver = CutSolver(problem.graph)
        others = [replace(problem, link=link) for link in links(LINKS)]
        update, fresh, theirs = [], [], []
        for _ in range(SWEEPS):
            update.append([update_s(solver, other) for other in others])
            new = [unknown(problem, link) for link in links(COMPARED)]
            fresh.append([first_decision(each) for each in new])
            theirs.append([networkx_s(each, solver) for each in new])
        first = in_new_processes(first_decision, problem)
        return cls(first, *(list(map(median, zip(*sweeps, strict=True))) for sweeps in (fresh, update, theirs)))

    @property
    def ratios(self) -> list[float]:
        """How many times longer networkx takes, by link."""
        return [theirs / ours for theirs, ours in zip(self.networkx, self.fresh, strict=True)]


def update_s(solver: CutSolver, problem: Problem) -> float:
    """Seconds of the cut for another link."""
    started = time.perf_counter()
    solver.best(solver.terms(problem))
    return time.perf_counter() - started


def networkx_s(problem: Problem, solver: CutSolver) -> float:
    """Seconds that networkx needs for the same minimum. Raises ArithmeticError where it finds another one."""
    nx, flow = importlib.import_module("networkx"), importlib.import_module("networkx.algorithms.flow")
    terms = solver.terms(problem)
    mine = terms.value(problem.graph, solver.best(terms))
    started = time.perf_counter()
    network = flow_network(nx, problem.graph, terms)
    value, _ = nx.minimum_cut(network, "edge", "cloud", flow_func=flow.boykov_kolmogorov)
    seconds = time.perf_counter() - started
    if not math.isclose(value, mine, rel_tol=SAME_VALUE):
        raise ArithmeticError(f"{problem.graph.name}: networkx finds {value}, edgecloud.partition.mincut {mine}")
    return seconds


def flow_network(nx: Any, graph: LayerGraph, terms: Terms) -> Any:
    """A network whose cuts cost what `terms` says; all on the edge leaves `rest` on the edge's side."""
    network = nx.DiGraph()
    network.add_edge("edge", INPUT)
    network.add_edge(INPUT, "cloud", capacity=float(terms.edge[INPUT]))
    for number, readers in enumerate(graph.readers):
        if number != INPUT:
            network.add_edge("edge", number, capacity=float(terms.cloud[number]))
            network.add_edge(number, "cloud", capacity=float(terms.edge[number]))
        for reader in readers:
            network.add_edge(reader, number)
            network.add_edge(("sent", number), reader)
        if readers:
            network.add_edge(number, ("sent", number), capacity=float(terms.tensor[number]))
        else:
            network.add_edge("rest", number)
    begins = [point.layer for point in graph.points[:-1]]
    for number, (begin, after) in enumerate(pairwise([*begins, "rest"])):
        network.add_edge(begin, ("begin", number))
        network.add_edge(("begin", number), after, capacity=float(terms.entry[number]))
    return network


@dataclass(frozen=True)
class Maps:
    """Seconds of maps of one graph, and of looking a rate up."""

    build: list[float]
    regions: int
    lookup: list[float]

    @classmethod
    def of(cls, problem: Problem) -> "Maps":
        """Measure."""
        build, lookup, rng = [], [], random.Random(0)
        rates = [SLOWEST * 1e8 ** rng.random() for _ in range(LOOKUPS)]
        for _ in range(MAPS):
            started = time.perf_counter()
            found = DecisionMap.of(problem)
            build.append(time.perf_counter() - started)
            started = time.perf_counter()
            for rate in rates:
                found.lookup(rate)
            lookup.append((time.perf_counter() - started) / LOOKUPS)
        return cls(build, len(found.regions), lookup)


def program_s(problem: Problem) -> tuple[float, bottleneck.Bottleneck]:
    """The integer program without the walk that makes it needless for most graphs: its seconds, and what it found."""
    with patch.object(bottleneck, "STEPS", 0):
        started = time.perf_counter()
        found = bottleneck.exact(problem)
        return time.perf_counter() - started, found


@dataclass(frozen=True)
class Stages:
    """Seconds to find the minimum bottleneck stage of one graph, by link, and the results."""

    exact: list[float]
    found: list[bottleneck.Bottleneck]
    program: list[float]
    programmed: list[bottleneck.Bottleneck]
    dsh: list[float]
    ratios: list[float]
    """Bottleneck stages that DADS's search finds, relative to those of `exact`."""

    @classmethod
    def of(cls, problem: Problem) -> "Stages":
        """Measure. Raises ArithmeticError where two that are proven differ."""
        stages = cls([], [], [], [], [], [])
        program_s(problem)  # imports the solver
        for link in links(STAGES, 0.5, 500.0):
            stages.add(unknown(problem, link))
        return stages

    def add(self, problem: Problem) -> None:
        """Measure one link. Raises ArithmeticError where two that are proven differ."""
        found = bottleneck.exact(unknown(problem))
        self.found.append(found)
        self.exact.append(median(timed(partial(bottleneck.exact, unknown(problem))) for _ in range(SWEEPS)))
        programs = [program_s(unknown(problem)) for _ in range(SWEEPS)]
        self.program.append(median(seconds for seconds, _ in programs))
        self.programmed.append(programs[0][1])
        started = time.perf_counter()
        approximate = bottleneck.dsh(unknown(problem))
        self.dsh.append(time.perf_counter() - started)
        mine_s, program_said = found.predicted.longest_s, programs[0][1]
        self.ratios.append(approximate.predicted.longest_s / mine_s)
        if program_said.is_optimal and not math.isclose(mine_s, program_said.predicted.longest_s, rel_tol=2e-6):
            raise ArithmeticError(f"{problem.graph.name}: {found.method} {mine_s}, program {program_said.predicted}")


# --- tables


def spread(times: Sequence[float]) -> str:
    """Median, and from what to what."""
    return f"{format_seconds(median(times))} ({format_seconds(min(times))} .. {format_seconds(max(times))})"


def bar(what: str, limit_s: float, times: Seconds) -> str:
    """A line that says whether medians meet a target."""
    told = ", ".join(f"{short(name)} {format_seconds(median(found))}" for name, found in times.items())
    is_met = all(median(found) <= limit_s for found in times.values())
    return f"{what}, median: {told}; at most {format_seconds(limit_s)} is the target: {'met' if is_met else 'NOT met'}."


def within(times: Sequence[float]) -> str:
    """For how many links an update meets the target, and for which ones it does not."""
    rates = [link.up_bytes_per_s / 125_000 for link in links(LINKS)]
    over = [rate for rate, seconds in zip(rates, times, strict=True) if seconds > UPDATE_S]
    told = f"{LINKS - len(over)} of {LINKS}"
    return f"{told}, over it between {min(over):.2g} and {max(over):.2g} mbit" if over else told


def short(name: str) -> str:
    """Without where it is from."""
    return name.removeprefix(registry.TORCHVISION)


def table(title: str, head: Sequence[str], rows: Rows, notes: Sequence[str]) -> list[str]:
    """The lines of one more table of a document."""
    lines = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return ["", *lines, *("| " + " | ".join(row) + " |" for row in rows), "", *notes]


def cuts_table(problems: Mapping[str, Problem], found: Mapping[str, Cuts]) -> list[str]:
    """The minimum cut."""
    head = ["graph", "layers", "points", "first of a process", "new graph", "new link", "networkx", "ratio"]
    rows = []
    for name, cuts in found.items():
        graph, ratios = problems[name].graph, cuts.ratios
        times = map(spread, (cuts.first, cuts.fresh, cuts.update, cuts.networkx))
        ratio = f"{median(ratios):.0f} ({min(ratios):.0f} .. {max(ratios):.0f})"
        rows.append([short(name), str(len(graph.layers)), str(len(graph.points)), *times, ratio])
    notes = [
        f"Median (least .. most). First of a process: a whole decision in {PROCESSES} fresh processes each, with all "
        "modules imported: points, flow network, terms, cut, prediction of all points and of the cut. New graph: the "
        f"same in a process that has decided before, for {COMPARED} links of 0.1 mbit to 1 gbit. New link: terms and "
        f"cut with an existing flow network, {LINKS} of these links. networkx: boykov_kolmogorov, building its "
        "network and solving it, for the links of the new graph in turns with it; the value of the cut is the same to "
        f"{SAME_VALUE:g} in all. The ratio is networkx over new graph, link by link. By link: medians of {SWEEPS}.",
        "",
        bar("First decision", FIRST_S, {name: found[name].first for name in BARRED}),
        bar("New link", UPDATE_S, {name: found[name].update for name in BARRED}),
        "Links that meet that target: "
        + "; ".join(f"{short(name)} {within(found[name].update)}" for name in BARRED)
        + ".",
    ]
    return table("The minimum cut of any graph", head, rows, notes)


def maps_table(found: Mapping[str, Maps]) -> list[str]:
    """All bandwidths."""
    rows = [
        [
            *(short(name), str(maps.regions), spread(maps.build), format_seconds(median(maps.build) / maps.regions)),
            f"{1e6 * median(maps.lookup):.2f} us",
        ]
        for name, maps in found.items()
    ]
    notes = [
        f"1 kbit to 100 gbit, {MAPS} maps each; a lookup is the mean of {LOOKUPS:,} random rates in a loop.",
        "",
        bar("Lookup", LOOKUP_S, {name: maps.lookup for name, maps in found.items()}),
    ]
    return table("The map of all bandwidths", ["graph", "regions", "build", "a region", "lookup"], rows, notes)


def stages_table(found: Mapping[str, Stages], first: Sequence[float]) -> list[str]:
    """The minimum bottleneck stage."""
    head = ["graph", "exact", "proven", "no MILP", "MILP alone", "proven", "widest gap", "DSH", "DSH / exact"]
    rows = []
    for name, stages in found.items():
        walked = sum(each.method == bottleneck.WALK for each in stages.found)
        proven = [sum(each.is_optimal for each in those) for those in (stages.found, stages.programmed)]
        ratios = stages.ratios
        row = [short(name), spread(stages.exact), f"{proven[0]} of {STAGES}", f"{walked} of {STAGES}"]
        gap = max(each.gap for each in stages.programmed)
        is_solved = any(each.method == bottleneck.PROGRAM for each in stages.programmed)
        row += [spread(stages.program), f"{proven[1]} of {STAGES}", f"{gap:.2%}"] if is_solved else ["-"] * 3
        rows.append([*row, spread(stages.dsh), f"{median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"])
    resnet = GRAPHS[0]
    notes = [
        f"{STAGES} links of 0.5 to 500 mbit each, the graph new to every search, medians of {SWEEPS} by link. Exact: "
        "branch and bound, and where that is too long the mixed-integer program (MILP). MILP alone: without branch and "
        "bound; where every layer reads the one before it neither is needed. Both agree wherever both have a proof; "
        "the gap is how much better any cut could be when the MILP's time limit, 1 s, was reached. DSH is "
        "DADS's own search (Hu et al., Algorithm 2), and its bottleneck stage relative to the exact one.",
        "",
        bar("MILP alone", EXACT_S, {resnet: found[resnet].program}),
        f"The slowest link of {short(resnet)} takes it {format_seconds(max(found[resnet].program))}; where it is the "
        f"first of a process it imports the solver too: {spread(first)} in {PROCESSES} processes.",
    ]
    return table("The minimum bottleneck stage", head, rows, notes)


def main() -> int:
    """Measure and write benchmarks/results/decision.md."""
    rows = [points_row(name) for name in MODELS]
    problems = {name: problem_of(prepared(name)) for name in GRAPHS} | {RANDOM: random_problem()}
    cuts = {name: Cuts.of(problem) for name, problem in problems.items()}
    maps = {name: Maps.of(problem) for name, problem in problems.items()}
    stages = {name: Stages.of(problem) for name, problem in problems.items()}
    first = in_new_processes(first_program, problems[GRAPHS[0]])
    head = ["network", "points", "median", "worst", "first", "a forward pass at every point", "ratio"]
    notes = [f"All points tried, {REPEATS} decisions each. The first one also numbers the points of the graph."]
    notes += cuts_table(problems, cuts) + maps_table(maps) + stages_table(stages, first)
    write_table("decision", "Time of a decision", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
