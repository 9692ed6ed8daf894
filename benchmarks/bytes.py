"""Compressed tensors end to end: lossless and calibrated lossy codecs, and the baseline implementation at its best
point.

    python -m benchmarks.bytes [--models alex_net] [--link 5mbit,20ms]

Real cloud and relay processes, each implementation with its own, equal link; the edge at 0.05 of a core. The baseline
(benchmarks/published.py) runs at the point that is best without compression, which it would choose if its times were
right. This project chooses cut and codec together: once among lossless codecs, once with those that change at most 0.5
% of the answers on at least 100 pictures, for which the network is calibrated first. All run in turns.

The floor is the sum of head, packing, bytes / rate, round trip, unpacking, tail and download of the same inference,
from its own measurements and the probed link: the lower bound of any protocol.
"""

import argparse
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.fingerprint import write_table
from benchmarks.published import CLOUD_THREADS, SHARE, TIMEOUT_S, published_cloud, published_inference
from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import Answered, Edge, read_input
from edgecloud.client.planning import problem_of
from edgecloud.client.subprocesses import emulated_link, own_cloud
from edgecloud.engine import calibration
from edgecloud.engine.packing import AUTO, CodecPolicy, packing_of
from edgecloud.engine.times import measured
from edgecloud.models import registry
from edgecloud.net.tensors import Array
from edgecloud.partition import chain
from edgecloud.partition.cost import Part, Problem
from edgecloud.partition.decide import Decision, Goal, decide
from edgecloud.predictor.store import default_folder
from edgecloud.utils.inference_utils import set_threads
from edgecloud.utils.units import format_bytes, format_seconds

MODELS = ("alex_net", "vgg_net", "mobile_net", "torchvision:resnet18", "torchvision:googlenet")
LINK = "5mbit,20ms"
REPEATS = 7
BUDGET = 0.005


@dataclass
class Way:
    """One way to run the network, and what it took."""

    parts: tuple[Part, ...]
    codecs: Mapping[int, str]
    name: str
    answers: list[Answered] = field(default_factory=list)

    @property
    def total_s(self) -> float:
        """Median of the measured totals."""
        return median(answer.measured.total_s for answer in self.answers)

    def run(self, edge: Edge, x: Array) -> Array:
        """One inference; returns its answer."""
        self.answers.append(edge.infer_parts(x, self.parts, TIMEOUT_S, self.codecs))
        return self.answers[-1].outputs[0]

    def over_floor(self, problem: Problem) -> float:
        """Median of measured totals over what their stages and their bytes need at least."""
        link = problem.link

        def floor_s(answer: Answered) -> float:
            took = answer.measured
            if not took.payload_bytes:
                return took.edge_s
            bytes_s = took.payload_bytes / link.up_bytes_per_s + took.received_bytes / link.down_bytes_per_s
            return took.edge_s + took.encode_s + bytes_s + link.rtt_s + took.queue_s + took.tail_s

        return median(answer.measured.total_s / floor_s(answer) for answer in self.answers)


def ways_of(edge: Edge, problem: Problem, kept: calibration.Calibration) -> list[Way]:
    """Uncompressed, lossless, and lossy within the budget."""
    found = [("raw", 0.0), (AUTO, 0.0), (AUTO, BUDGET)]
    ways = []
    for codec, budget in found:
        wanted = CodecPolicy.of(codec, kept, budget)
        edge.sided = wanted.sided_by_number(edge.graph)
        packing = packing_of(edge.network, wanted, default_folder())
        decision: Decision = decide(problem, Goal(), allowed=wanted.allowed(edge.graph, packing, edge.executor.share))
        point = decision.point(edge.graph)
        where = f"{len(decision.boundary(edge.graph))} tensors" if point is None else str(point)
        ways.append(Way(decision.parts, decision.codecs, f"{where}, {decision.codec}"))
    return ways


def row_of(
    edge: Edge, ours: tuple[str, int], published_port: int, link: str, kept: calibration.Calibration
) -> list[str]:
    """All in turns."""
    x = np.asarray(edge.network.example.tensor)
    with ExitStack() as stack:
        relay = stack.enter_context(emulated_link(*ours, link))
        other = stack.enter_context(emulated_link("127.0.0.1", published_port, link))
        edge.connect(*relay.address(), "", TIMEOUT_S)
        stack.callback(edge.close)
        sock = stack.enter_context(socket.create_connection(other.address(), timeout=TIMEOUT_S))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert edge.cloud is not None
        estimate = edge.cloud.measure()
        edge_s = measured(edge.executor, default_folder()).seconds
        problem = problem_of(edge, edge_s, estimate, edge.status(TIMEOUT_S))
        best = chain.best(chain.scan(problem)).point.number
        ways, theirs, same = ways_of(edge, problem, kept), [], 0
        for _ in range(REPEATS + 1):
            seconds, answer = published_inference(edge, sock, best)
            theirs.append(seconds)
            same += all(int(way.run(edge, x).argmax()) == int(answer.argmax()) for way in ways)
    for way in ways:
        del way.answers[0]  # wakes both sides up
    return _row(edge, problem, best, ways, median(theirs[1:]), same)


def _row(edge: Edge, problem: Problem, best: int, ways: list[Way], theirs_s: float, same: int) -> list[str]:
    raw, lossless, lossy = ways
    sent = lossy.answers[0].measured
    fewer = f"{sent.raw_bytes / sent.payload_bytes:.1f}" if sent.payload_bytes else "-"
    totals = [format_seconds(way.total_s) for way in (raw, lossless, lossy)]
    gains = [f"{theirs_s / way.total_s:.2f}" for way in (raw, lossless, lossy)]
    floor = max(way.over_floor(problem) for way in ways)
    names = [lossless.name, lossy.name, format_bytes(sent.payload_bytes), fewer]
    about = edge.graph.name.removeprefix("torchvision:"), f"{best}, {format_seconds(theirs_s)}"
    return [*about, *totals, *names, *gains, f"{floor:.3f}", f"{same} of {REPEATS + 1}"]


def calibrated(name: str) -> calibration.Calibration:
    """The accuracy loss of lossy codecs, on at least 100 pictures."""
    found = calibration.calibrate(name, "default", "cpu", None, None, lambda _what, _done: None)
    calibration.keep(default_folder(), found)
    return found


def rows_of(name: str, link: str) -> list[list[str]]:
    """One network."""
    config, entry = EdgeConfig(model=name, cpu_share=SHARE), registry.lookup(name)
    set_threads(1)
    edge = Edge.build(config, entry, read_input(config, entry))
    kept = calibration.find(default_folder(), edge.network) or calibrated(name)
    with (
        own_cloud(["--threads", str(CLOUD_THREADS), "--cache-dir", str(default_folder())]) as cloud,
        published_cloud(name) as port,
    ):
        rows = [row_of(edge, cloud.address(), port, link, kept)]
    print(" | ".join(rows[0]), flush=True)
    return rows


def main() -> int:
    """Measure and write benchmarks/results/bytes.md."""
    parser = argparse.ArgumentParser(
        description="compressed tensors end to end, compared with the baseline implementation"
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--link", default=LINK)
    options = parser.parse_args()
    rows = [row for name in options.models.split(",") for row in rows_of(name, options.link)]
    head = ["network", "baseline: point, total", "raw", "lossless", "lossy"]
    head += ["lossless: point, codec", "lossy: point, codec", "sent", "byte ratio"]
    head += ["speedup, raw", "speedup, lossless", "speedup, lossy", "total / floor, worst", "same top-1"]
    notes = [
        f"{options.link}, the edge at {SHARE} of a core, the cloud {CLOUD_THREADS} threads, {REPEATS} inferences each,",
        f"in turns, medians. Lossy: codecs that changed at most {BUDGET:.1%} of answers on 100 crops of photographs.",
        "The networks have seeded weights: classes are meaningless, but every answer is compared with the baseline's.",
    ]
    write_table("bytes", "Fewer bytes, end to end", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
