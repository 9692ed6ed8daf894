"""Does prediction choose the right cut? Neurosurgeon's evaluation (Kang et al., ASPLOS 2017), as a simulation.

    python -m benchmarks.configurations
    python -m benchmarks.configurations --others     # eight networks with branches among them, in place of the paper's

8 networks x 3 radio links x 2 edges are 48 configurations, evaluated for latency and for the edge's energy. In
each the decision is made from predicted times alone, by the predictors of the roles edge (1 thread) and cloud (2
threads), which were fitted to layers of random networks: deployment.py profile and fit have to be run for both first
(--threads 1 --role edge, --threads 2 --role cloud). Then the networks are measured layer by layer, in some rounds of
which the quietest counts, since other work on the machine only adds time. Every cut is evaluated with these times:
the chosen one, the best one (of all points and the minimum cut), all on the cloud, all on the edge. Nothing is sent:
the real link and the time of the decision are not included; benchmarks.choice measures them.

Two threads wait for each other after every operation: if the machine does other work, do not pin this to two cores.

The summary comes first, then what other rounds say, the times, and both tables.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median

from benchmarks.decision import short, table
from benchmarks.fingerprint import write_table
from edgecloud.client.power import PowerChoice
from edgecloud.engine.executor import CpuShare, TorchExecutor, prepare
from edgecloud.engine.times import for_threads, layers_of, predictors_path
from edgecloud.models import inputs, registry, weights
from edgecloud.models.graph import LayerGraph
from edgecloud.partition.cost import CloudTimes, Link, Problem, parts_of, predict
from edgecloud.partition.decide import Goal, decide
from edgecloud.partition.mincut import CutSolver
from edgecloud.predictor import latency
from edgecloud.predictor.store import default_folder
from edgecloud.utils.inference_utils import find_device, set_threads
from edgecloud.utils.units import format_seconds

NETWORKS = ("alex_net", "vgg_net", "deepface", "mnist", "kaldi", "senna_pos", "senna_ner", "senna_chk")
"""The paper's (Table 3)."""
OTHERS = (
    *("alex_net", "vgg_net", "mobile_net", "le_net", "torchvision:resnet18", "torchvision:googlenet"),
    *("torchvision:squeezenet1_1", "torchvision:densenet121"),
)
MBIT = 125_000.0
LINKS = {
    "3g": Link(1.1 * MBIT, 2.0275 * MBIT, 0.06),
    "4g": Link(5.85 * MBIT, 13.76 * MBIT, 0.04),
    "wifi": Link(18.88 * MBIT, 54.97 * MBIT, 0.01),
}
"""Rates of JointDNN (arXiv 1801.08618), Table 3, by the names of the radios; the round trips are ours."""
SHARES = {"slow": 0.05, "fast": 0.3}
THREADS = {"edge": 1, "cloud": 2}
POWER = "raspberry_pi_4"
GOALS = ("latency", "energy")
ROUNDS = 5
CLOSE = 1.05
SAME = 1 + 1e-9


@dataclass(frozen=True)
class Seconds:
    """Of every layer on one side, and of starting a tail after each."""

    layers: Sequence[float]
    start: Sequence[float]

    @property
    def total(self) -> float:
        """By this, rounds are compared: all layers, and a start in the mean."""
        return sum(self.layers) + mean(self.start)


@dataclass(frozen=True)
class Times:
    """One network on both sides, on all of one core on the edge."""

    graph: LayerGraph
    edge: Seconds
    cloud: Seconds

    def problem(self, link: Link, share: float) -> Problem:
        """On an edge with a share of a core."""
        cloud = CloudTimes(self.cloud.layers, self.cloud.start)
        return Problem(self.graph, [seconds / share for seconds in self.edge.layers], cloud, link)


@dataclass(frozen=True)
class Known:
    """One network's times from every source."""

    predicted: Times
    rounds: tuple[Times, ...]
    """Measured; of either side the quietest first."""


@dataclass(frozen=True)
class Cell:
    """One configuration and one goal: seconds or joules of four cuts, with measured times."""

    network: str
    radio: str
    edge: str
    chosen: str
    best: str
    chosen_value: float
    best_value: float
    cloud_value: float
    edge_value: float

    @property
    def ratio(self) -> float:
        """Chosen over best; 1 is perfect."""
        return self.chosen_value / self.best_value

    @property
    def over_cloud(self) -> float:
        """How many times better than all on the cloud."""
        return self.cloud_value / self.chosen_value

    @property
    def over_edge(self) -> float:
        """How many times better than all on the edge."""
        return self.edge_value / self.chosen_value


# --- times


def times_of(name: str, folder: Path) -> Known:
    """Predict a network on both sides, then measure it, round by round."""
    print(name, file=sys.stderr, flush=True)
    entry = registry.lookup(name)
    network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
    graph, cpu = network.traced.graph, find_device("cpu")
    # With a share the edge's clock counts work only, as an emulated edge's does: what others do on a core is not in it.
    executors = {"edge": TorchExecutor(network, cpu, CpuShare(1.0)), "cloud": TorchExecutor(network, cpu)}
    predicted = {role: predict_side(executor, role) for role, executor in executors.items()}
    measured: dict[str, list[Seconds]] = {role: [] for role in executors}
    for _ in range(ROUNDS):
        for role, executor in executors.items():
            set_threads(THREADS[role])
            profile = executor.profile(folder, tails=role == "cloud", is_fresh=True)
            measured[role].append(Seconds(profile.seconds, profile.start_s))
    quietest = [sorted(found, key=lambda seconds: seconds.total) for found in measured.values()]
    rounds = tuple(Times(graph, edge, cloud) for edge, cloud in zip(*quietest, strict=True))
    return Known(Times(graph, predicted["edge"], predicted["cloud"]), rounds)


def predict_side(executor: TorchExecutor, role: str) -> Seconds:
    """What the predictors of this machine say, without anything that they have learnt since."""
    set_threads(THREADS[role])
    usual = predictors_path(default_folder(), role)
    own = for_threads(usual, executor.machine.threads)
    predictors = latency.load(own if own.is_file() else usual, executor.machine)
    predicted = predictors.network(layers_of(executor))
    return Seconds(predicted.seconds, predicted.start_s)


# --- cuts


def cells_of(predicted: Times, measured: Times, goal: Goal) -> Iterator[Cell]:
    """All links and edges of one network."""
    for radio, edge in product(LINKS, SHARES):
        yield cell_of(predicted, measured, goal, radio, edge)


def cell_of(predicted: Times, measured: Times, goal: Goal, radio: str, edge: str) -> Cell:
    """Decide from predicted times; evaluate with measured ones."""
    graph, link, share = measured.graph, LINKS[radio], SHARES[edge]
    power = PowerChoice.of(POWER, radio).at(link)
    joined = goal.weights(power)
    real = measured.problem(link, share)

    def value(head: frozenset[int]) -> float:
        return joined.value(predict(real, parts_of(graph, head)))

    chosen = decide(predicted.problem(link, share), goal, power).head
    heads = [graph.head_at(point.number) for point in graph.points]
    solver = CutSolver(graph)
    best = min([*heads, solver.best(solver.terms(real, joined))], key=value)
    labels = (cut_label(graph, chosen), cut_label(graph, best))
    return Cell(graph.name, radio, edge, *labels, *map(value, (chosen, best, heads[0], heads[-1])))


def cut_label(graph: LayerGraph, head: frozenset[int]) -> str:
    """`point/last point`, or for several tensors the number of layers in the head and of boundary tensors."""
    last = len(graph.points) - 1
    number = next((p.number for p in graph.points if graph.head_at(p.number) == head), None)
    if number is None:
        return f"{len(head) - 1} layers, {len(graph.boundary(head))} tensors"
    return {0: "cloud", last: "edge"}.get(number, f"{number}/{last}")


# --- tables


HEAD = ("goal", "best", "within 5 %", "share of the optimum", "worst", "over cloud only", "over edge only", "saved")
CELLS = (
    *("network", "link", "edge", "chosen cut", "best cut", "chosen", "best", "cloud only", "edge only"),
    *("chosen/best", "x cloud", "x edge"),
)


def summary(goal: str, cells: Sequence[Cell]) -> list[str]:
    """The summary of the configurations."""
    saved = [1 - 1 / cell.over_cloud for cell in cells]
    return [
        goal,
        *(f"{count} of {len(cells)}" for count in counts(cells).split(" and ")),
        f"{mean(1 / cell.ratio for cell in cells):.2%}",
        f"{1 / max(cell.ratio for cell in cells):.1%}",
        times_better([cell.over_cloud for cell in cells]),
        times_better([cell.over_edge for cell in cells]),
        f"mean {mean(saved):.1%}, most {max(saved):.1%}",
    ]


def times_better(ratios: Sequence[float]) -> str:
    """Mean, median and most."""
    return f"mean {mean(ratios):.2f} x, median {median(ratios):.2f} x, most {max(ratios):.1f} x"


def amount(goal: str, value: float) -> str:
    """Seconds or joules."""
    if goal == "latency":
        return format_seconds(value)
    return f"{value:.3g} J" if value >= 1 else f"{1e3 * value:.3g} mJ"


def row_of(goal: str, cell: Cell) -> list[str]:
    """One configuration."""
    values = (cell.chosen_value, cell.best_value, cell.cloud_value, cell.edge_value)
    ratio = "1" if cell.ratio <= SAME else f"{cell.ratio:.3f}"
    names = (short(cell.network), cell.radio, cell.edge, cell.chosen, cell.best)
    shown = [*names, *(amount(goal, value) for value in values), ratio]
    return [*shown, f"{cell.over_cloud:.2f}", f"{cell.over_edge:.2f}"]


def counts(cells: Sequence[Cell]) -> str:
    """How many are the best, and how many are within 5 %."""
    return f"{sum(cell.ratio <= SAME for cell in cells)} and {sum(cell.ratio <= CLOSE for cell in cells)}"


def rounds_line(goal: str, known: Sequence[Known]) -> str:
    """The counts of every round, and those of a choice from measured times, which can hardly be beaten."""
    wanted = Goal(goal)
    rounds = [[c for n in known for c in cells_of(n.predicted, n.rounds[k], wanted)] for k in range(ROUNDS)]
    again = [cell for network in known for cell in cells_of(network.rounds[1], network.rounds[0], wanted)]
    return (
        f"{goal.capitalize()}, best and within 5 % in every round, quietest first: {'; '.join(map(counts, rounds))}. "
        f"Chosen from the times measured in the second quietest round, evaluated in the quietest: {counts(again)}.  "
    )


def ends_line(goal: str, cells: Sequence[Cell]) -> str:
    """How much an end alone would achieve."""
    inside = sum(cell.best not in ("cloud", "edge") for cell in cells)
    close = sum(min(cell.cloud_value, cell.edge_value) <= CLOSE * cell.best_value for cell in cells)
    return (
        f"{goal.capitalize()}: the best cut is inside the network in {inside} of {len(cells)}; the better one of both "
        f"ends would be within 5 % in {close}, if it were known which.  "
    )


def times_table(known: Iterable[Known]) -> list[str]:
    """Whole networks, predicted and measured."""
    rows = []
    for network in known:
        row = [short(network.predicted.graph.name)]
        for told_s, all_s in (
            (sum(network.predicted.edge.layers), [sum(times.edge.layers) for times in network.rounds]),
            (sum(network.predicted.cloud.layers), [sum(times.cloud.layers) for times in network.rounds]),
        ):
            row += [format_seconds(told_s), ", ".join(map(format_seconds, all_s)), f"{told_s / all_s[0] - 1:+.1%}"]
        rows.append(row)
    head = ["network", "edge predicted", "measured", "error", "cloud predicted", "measured", "error"]
    notes = [
        "Sums of all layers in every round, by how quiet it was with starts of tails counted too. The error is of the "
        "first. The edge's are seconds of work on all of one core, the cloud's are wall-clock times."
    ]
    return table("Underlying times", head, rows, notes)


def notes_of(known: Sequence[Known], cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    """How to read the summary."""
    link = "; ".join(
        f"{radio} {at.up_bytes_per_s / MBIT:g} up, {at.down_bytes_per_s / MBIT:g} down, {1e3 * at.rtt_s:g} ms"
        for radio, at in LINKS.items()
    )
    return [
        "Share of the optimum: best over chosen, the mean of all configurations and the worst of them. Over cloud "
        "only, over edge only: how many times less time or energy the chosen cut takes. Saved: of what cloud only "
        "takes.",
        "",
        f"Simulated: nothing is sent. Links in mbit and round trip: {link} (rates of JointDNN, Table 3; round trips "
        f"ours). Edges: {SHARES['slow']:g} and {SHARES['fast']:g} of one core; cloud: {THREADS['cloud']} threads. "
        f"Energy of the edge: {POWER} with the radio of the link. Chosen from predicted times alone, best of all "
        f"points and the minimum cut with times measured in the quietest of {ROUNDS} rounds.",
        "",
        "Neurosurgeon reports the best cut in 44 of 48, latency 3.1 x better than cloud only in the mean and 40.7 x at "
        "most, energy 59.5 % less in the mean and 94.7 % at most. Its devices differ (a Jetson TK1 and a server "
        "with a GPU), so only the kind of result is comparable.",
        "",
        *(ends_line(goal, found) for goal, found in cells.items()),
        "",
        *(rounds_line(goal, known) for goal in GOALS),
        *times_table(known),
    ]


def main() -> int:
    """Predict, measure, evaluate, and write benchmarks/results/configurations.md, or configurations_others.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", action="store_true", help="eight networks with branches among them")
    is_others = parser.parse_args().others
    with tempfile.TemporaryDirectory() as folder:
        known = [times_of(name, Path(folder)) for name in (OTHERS if is_others else NETWORKS)]
    cells = {goal: [c for n in known for c in cells_of(n.predicted, n.rounds[0], Goal(goal))] for goal in GOALS}
    notes = notes_of(known, cells)
    for goal, found in cells.items():
        notes += table(goal.capitalize(), CELLS, [row_of(goal, cell) for cell in found], [])
    notes += ["Cuts: point/last point, or the number of layers in the head and of boundary tensors."]
    rows = [summary(goal, found) for goal, found in cells.items()]
    name = "configurations_others" if is_others else "configurations"
    write_table(name, "Choosing from predictions, 48 configurations", list(HEAD), rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
