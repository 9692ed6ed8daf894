"""The cost of ever new sets of layers, for a cloud and for a legitimate edge.

python -m benchmarks.layer_sets [--requests 20000] [--model mobile_net]

Each request names layers that were never requested together. The targets are 20 MB of memory and twice the legitimate
edge's quiet 99th percentile.
"""

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import legitimate_edge
from benchmarks.clouds import CloudProcess, running_cloud
from benchmarks.noise import Versus
from edgecloud.client.config import DeviceConfig, EdgeConfig
from edgecloud.client.edge import Edge
from edgecloud.models import inputs, registry
from edgecloud.models.graph import INPUT, LayerGraph, to_ranges
from edgecloud.net.messages import Infer
from edgecloud.utils.deadline import Deadline

GOOD, POINT = "le_net", 8
QUIET_S, DEADLINE_S = 15.0, 3.0
IN_FLIGHT = 4
MEMORY_BAR, TIME_BAR = 20e6, 2.0


def layer_sets(graph: LayerGraph) -> Iterator[frozenset[int]]:
    """Ever new ones, of the last layers: those are the quickest to compute."""
    last = sorted(graph.everything - {INPUT})[-20:]
    masks = list(range(1, 1 << len(last)))
    random.Random(0).shuffle(masks)
    for mask in masks:
        yield frozenset(layer for bit, layer in enumerate(last) if mask >> bit & 1)


def attack(cloud: CloudProcess, model: str, count: int, seconds: float) -> tuple[int, float]:
    """Ask for so many sets, or for so long; returns how many were answered, and the seconds."""
    entry = registry.lookup(model)
    edge = Edge.build(
        EdgeConfig(model, device=DeviceConfig(threads=1)), entry, inputs.sample(entry.sample, entry.preprocess)
    )
    edge.connect("127.0.0.1", cloud.port, "", 120.0)
    assert edge.cloud is not None
    assert edge.cloud.client is not None
    connection, graph = edge.cloud.client.connection, edge.graph
    began = time.monotonic()
    sent = answered = 0
    for layers in itertools.islice(layer_sets(graph), count):
        if time.monotonic() - began > seconds:
            break
        deadline = Deadline.after(60.0, "an answer")
        crossing = [graph.layers[number] for number in graph.inputs_of(layers)]
        arrays = [np.zeros(layer.out_shape, layer.out_dtype) for layer in crossing]
        sent += 1
        connection.send(Infer(sent, to_ranges(layers), 30.0), deadline, arrays)
        if sent - answered >= IN_FLIGHT:
            connection.receive(deadline)
            answered += 1
    while answered < sent:
        connection.receive(Deadline.after(60.0, "an answer"))
        answered += 1
    return answered, time.monotonic() - began


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--model", default="le_net")
    parser.add_argument("--seconds", type=float, default=75.0, help="at most so long")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cloud(Path(folder)) as cloud:
        edge = (cloud.port, GOOD, POINT)
        quiet = legitimate_edge.figures(legitimate_edge.start(*edge, QUIET_S, DEADLINE_S))
        attack(cloud, options.model, 300, 10.0)
        before = cloud.rss_bytes
        process = legitimate_edge.start(*edge, options.seconds / 2, DEADLINE_S)
        count, took_s = attack(cloud, options.model, options.requests, options.seconds)
        after = cloud.rss_bytes
        beside = legitimate_edge.figures(process)
    print("| | requests | p50 ms | p95 ms | p99 ms | most ms | too late |\n|---|---|---|---|---|---|---|")
    for name, found in (("quiet", quiet), ("with new sets", beside)):
        times = (found.p50_s, found.p95_s, found.p99_s, found.most_s)
        print(f"| {name} | {found.count} | {' | '.join(f'{1e3 * one:.2f}' for one in times)} | {found.late} |")
    print(f"{count} requests with new layer sets of {options.model} in {took_s:.1f} s ({count / took_s:.0f}/s)")
    print(f"p99 x {Versus.of_figures(beside.p99, quiet.p99)} (target {TIME_BAR:g})")
    grown = (after - before) / 1e6
    print(f"memory {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB, {grown:+.1f} MB (target {MEMORY_BAR / 1e6:g})")


if __name__ == "__main__":
    main()
