"""How long choosing a cut takes once the times are known.

    python -m benchmarks.decision

Beside it, what the published scripts do at every decision: run the edge's part of the network again for every point,
to learn the sizes of the tensors and the layers of the part.
"""

import sys
import time
from statistics import median

import torch

from benchmarks.fingerprint import write_table
from models import inputs, registry, weights
from models.split import segment
from partition.chain import best, scan
from partition.cost import CloudTimes, Link, Problem
from predictor.store import default_folder
from runtime.executor import TorchExecutor, prepare
from utils.units import format_seconds

MODELS = ("le_net", "alex_net", "mobile_net", "vgg_net", "torchvision:googlenet", "torchvision:densenet121")
REPEATS = 200


def row_of(name: str) -> list[str]:
    """Median, worst and first decision, and that of the published way."""
    entry = registry.find(name)
    network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
    profile = TorchExecutor(network, torch.device("cpu")).profile(default_folder(), tails=True)
    graph, link = network.traced.graph, Link(625_000, 625_000, 0.02)
    cloud = CloudTimes(profile.seconds, profile.start_s)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        best(scan(Problem(graph, [20 * s for s in profile.seconds], cloud, link)))
        times.append(time.perf_counter() - started)
    heads = [segment(network.traced, graph.head_at(point.number)).module for point in graph.points]
    started = time.perf_counter()
    with torch.inference_mode():
        for head in heads:
            head(network.example.tensor)
    published = time.perf_counter() - started
    shown = [median(times), max(times), times[0], published]
    return [entry.name, str(len(graph.points)), *map(format_seconds, shown), f"{published / median(times):.0f}"]


def main() -> int:
    """Measure and write benchmarks/results/decision.md."""
    head = ["network", "points", "median", "worst", "first", "a forward pass at every point", "ratio"]
    notes = [f"{REPEATS} decisions each, profiles cached. The first one also numbers the points of the graph."]
    write_table("decision", "Time of a decision", head, [row_of(name) for name in MODELS], notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
