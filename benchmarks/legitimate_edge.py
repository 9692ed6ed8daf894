"""A legitimate edge in a separate process: how long its requests take while other clients load the cloud.

python -m benchmarks.legitimate_edge PORT MODEL POINT SECONDS DEADLINE_S

It prints one JSON document when it has ended: the seconds of every request and when it ended, and how many were not
answered in time.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.noise import Figure

PAUSE_S = 0.01


@dataclass(frozen=True)
class Figures:
    """The measurements of a legitimate edge."""

    p50_s: float
    p95_s: float
    p99_s: float
    most_s: float
    count: int
    late: int
    p95_noise: float
    p99_noise: float
    """By how much those vary from fifth to fifth, as a share."""

    @property
    def p95(self) -> Figure:
        """With its noise."""
        return Figure(self.p95_s, self.p95_noise)

    @property
    def p99(self) -> Figure:
        """With its noise."""
        return Figure(self.p99_s, self.p99_noise)


def start(port: int, model: str, point: int, seconds: float, deadline_s: float) -> "subprocess.Popen[str]":
    """Start one; it says HELLO first, and its requests begin when it has been answered."""
    command = [sys.executable, "-m", "benchmarks.legitimate_edge", *map(str, (port, model, point, seconds, deadline_s))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def figures(process: "subprocess.Popen[str]") -> Figures:
    """Wait for its end."""
    text, _ = process.communicate(timeout=300)
    found = json.loads(text)
    seconds = found["seconds"]
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    noise = [Figure.of_blocks(seconds, partial(percentile, at)).noise for at in (95, 99)]
    return Figures(p50, p95, p99, max(seconds), len(seconds), found["late"], *noise)


def percentile(at: float, values: Sequence[float]) -> float:
    """Of some seconds."""
    return float(np.percentile(values, at))


def main() -> None:
    """Be that edge."""
    from edgecloud.client.config import DeviceConfig, EdgeConfig
    from edgecloud.client.edge import Edge
    from edgecloud.engine.packing import pack
    from edgecloud.models import inputs, registry
    from edgecloud.models.graph import INPUT
    from edgecloud.net.tensors import RAW
    from edgecloud.utils.deadline import Deadline
    from edgecloud.utils.errors import AppError

    port, model, point, seconds, deadline_s = sys.argv[1:]
    entry = registry.lookup(model)
    edge = Edge.build(
        EdgeConfig(model, device=DeviceConfig(threads=1)), entry, inputs.sample(entry.sample, entry.preprocess)
    )
    head = edge.graph.head_at(int(point))
    segment = edge.executor.load(head)
    ran = edge.executor.run(segment, [edge.network.example.tensor.numpy()])
    made = dict(zip(segment.outputs, ran.arrays, strict=True))
    crossing = [made[number] for number in edge.graph.boundary(head)]
    boundary, _ = pack(edge.executor, crossing, [RAW] * len(crossing), (RAW,))
    tail = edge.graph.everything - head - {INPUT}
    edge.connect("127.0.0.1", int(port), "", 120.0)
    for _ in range(20):
        edge.ask(tail, boundary, Deadline.after(30.0, "warming up"))
    print("ready", flush=True)
    took, late, end = [], 0, time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        began = time.perf_counter()
        try:
            edge.ask(tail, boundary, Deadline.after(float(deadline_s), "the legitimate edge"))
        except AppError:
            late += 1
            edge.connect("127.0.0.1", int(port), "", 30.0)
        took.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)
    print(json.dumps({"seconds": took, "late": late}))


if __name__ == "__main__":
    main()
