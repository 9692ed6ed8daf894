"""DADS's comparison (Hu et al., INFOCOM 2019, section V), measured: edge-only, cloud-only, best point, minimum cut.

    python -m benchmarks.dads [--models torchvision:resnet18] [--cpu 0.02] [--repeats 3]

Real cloud and relay processes; the edge runs in this process, slowed to a share of one core. Links are those of DADS's
Table I, the same both ways, with a round trip of 20 ms. On every link the four ways run in turns, once to warm up, and
their medians count; a way that is predicted to take longer than 20 s runs once.
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.choice import RTT, TIMEOUT_S, connected_edge
from benchmarks.fingerprint import write_table
from benchmarks.noise import Versus
from edgecloud.client.edge import Edge
from edgecloud.client.planning import problem_of
from edgecloud.client.subprocesses import own_cloud
from edgecloud.engine.executor import CpuShare
from edgecloud.engine.times import measured
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.partition.cost import Part, predict
from edgecloud.partition.decide import Decision, Goal, decide
from edgecloud.predictor.store import default_folder
from edgecloud.utils.inference_utils import find_device
from edgecloud.utils.units import format_seconds

MODELS = ("torchvision:resnet18", "torchvision:googlenet")
LINKS = {"CAT1": "0.13mbit", "3G": "1.1mbit", "4G": "5.85mbit", "Wi-Fi": "18.88mbit"}
SHARE = 0.02
LONG_S = 20.0
WAYS = ("edge-only", "cloud-only", "best point", "minimum cut")


@dataclass(frozen=True)
class Way:
    """One way to run the network, with its predicted seconds and the measured ones."""

    parts: tuple[Part, ...]
    predicted_s: float
    measured_s: list[float]

    @property
    def total_s(self) -> float:
        """Median of the measured totals."""
        return median(self.measured_s)


def ways_of(edge: Edge, point: Decision, cut: Decision) -> list[tuple[Part, ...]]:
    """In the order of WAYS."""
    graph = edge.graph
    return [(Part("edge", graph.everything),), cloud_only(edge), point.parts, cut.parts]


def cloud_only(edge: Edge) -> tuple[Part, ...]:
    """All but the input on the cloud."""
    return Part("edge", frozenset({0})), Part("cloud", edge.graph.everything - {0})


def row_of(edge: Edge, link: str, repeats: int) -> list[str]:
    """One link: decide twice, run all four."""
    assert edge.cloud is not None
    estimate = edge.cloud.measure()
    edge_s = measured(edge.executor, default_folder()).seconds
    problem = problem_of(edge, edge_s, estimate, edge.status(TIMEOUT_S))
    point, cut = (decide(problem, Goal(method=method)) for method in ("chain", "mincut"))
    ways = [Way(parts, predict(problem, parts).total_s, []) for parts in ways_of(edge, point, cut)]
    x = np.asarray(edge.network.example.tensor)
    for turn in range(repeats + 1):
        for way in ways:
            is_long = way.predicted_s > LONG_S
            if not (is_long and way.measured_s):
                total_s = edge.infer_parts(x, way.parts, TIMEOUT_S).measured.total_s
                way.measured_s.extend([total_s] if turn or is_long else [])  # the first round warms both sides up
    whole, cloud, _, best = ways
    crossing = cut.boundary(edge.graph)
    named = f"{len(crossing)} after {edge.graph.layers[max(crossing)].id}" if crossing else "none"
    numbers = [format_seconds(way.total_s) for way in ways]
    ratios = [against(whole, best), against(cloud, best), f"{best.predicted_s / best.total_s:.2f}"]
    return [edge.graph.name.removeprefix("torchvision:"), link, *numbers, str(point.point(edge.graph)), named, *ratios]


def against(way: Way, best: Way) -> str:
    """How much longer it takes, with the noise of that; of one run nobody knows the noise."""
    if min(len(way.measured_s), len(best.measured_s)) < 2:
        return f"{way.total_s / best.total_s:.2f} (one run)"
    return str(Versus.of(way.measured_s, best.measured_s))


def rows_of(model: str, share: float, repeats: int) -> list[list[str]]:
    """All links of one network."""
    rows = []
    with ExitStack() as stack:
        address = stack.enter_context(own_cloud(["--threads", "2", "--cache-dir", str(default_folder())])).address()
        for name, rate in LINKS.items():
            with connected_edge(model, address, rate) as edge:
                edge.executor = TorchExecutor(edge.network, find_device("cpu"), CpuShare(share))
                rows.append(row_of(edge, f"{name} {rate}", repeats))
                print(" | ".join(rows[-1]), flush=True)
    return rows


def main() -> int:
    """Measure and write benchmarks/results/dads.md."""
    parser = argparse.ArgumentParser(description="edge-only, cloud-only, best point and minimum cut, measured")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--cpu", type=float, default=SHARE)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = [row for model in options.models.split(",") for row in rows_of(model, options.cpu, options.repeats)]
    head = ["network", "link", *WAYS, "point", "boundary tensors of the minimum cut"]
    head += ["x edge-only", "x cloud-only", "predicted / measured"]
    notes = [
        f"The edge has {options.cpu} of a core, the cloud 2 threads; round trip {RTT}. DADS reports for ResNet18 on a",
        "Raspberry Pi 3B, against edge-only: 1.46 x CAT1, 4.14 x 3G, 7.23 x 4G, 8.32 x Wi-Fi; against cloud-only 2.8,",
        "1.35, 1.08 and 1 x (section V-C).",
    ]
    write_table("dads", "DADS's four links", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
