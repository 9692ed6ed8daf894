"""Published partitioning methods, implemented from the papers, on this project's numbers.

neurosurgeon    Kang et al., ASPLOS 2017, Algorithm 1: the point with the least sum of the mobile's seconds before it,
                the cloud's after it at its load, and the tensor's bytes over the bandwidth, times from regressions for
                each kind of layer (linear or logarithmic, on the paper's variables); float32
dads            Hu et al., INFOCOM 2019, DSL: the cut of the graph with the least sum of measured edge seconds, measured
                cloud seconds, and the bytes of every boundary tensor over the bandwidth; float32

Neither models the round trip, the download, the start of a tail, or codecs. Neurosurgeon cuts chains; on a graph it
gets, as in DADS's comparison, the layers in topological order, restricted to places with one boundary tensor, since it
sends one. DADS's heavy mode is `--objective throughput --method dsh` of edge_api.py.
Pure: plain numbers in, a cut out, which `edge_api.py --points` runs.
"""

from itertools import accumulate

import numpy as np

from edgecloud.lab.baselines.inputs import RAW, BaselineInputs, Choice
from edgecloud.models.graph import LayerGraph
from edgecloud.partition.mincut import CutSolver, Terms
from edgecloud.utils.errors import UsageError


def neurosurgeon(inputs: BaselineInputs) -> Choice:
    """Algorithm 1 for latency; of equal points the first. Raises UsageError without regressed times."""
    graph, sides = inputs.graph, inputs.regressed
    if sides is None:
        raise UsageError("neurosurgeon requires fitted regressions: run deployment.py profile")
    mobile, cloud = list(accumulate(sides.edge_s)), list(accumulate(sides.cloud_s))
    totals_s = []
    for point in graph.points:
        is_last = point is graph.points[-1]
        upload_s = 0.0 if is_last else graph.layers[point.layer].out_bytes / inputs.up_bytes_per_s
        totals_s.append(mobile[point.layer] + inputs.load * (cloud[-1] - cloud[point.layer]) + upload_s)
    best = min(range(len(totals_s)), key=totals_s.__getitem__)
    return Choice("neurosurgeon", graph.head_at(best), best, RAW, totals_s[best])


def dads(inputs: BaselineInputs) -> Choice:
    """DSL: the minimum cut of Eq. 4. Raises UsageError without measured times."""
    graph, sides = inputs.graph, inputs.measured
    if sides is None:
        raise UsageError("dads requires measured times of both sides: run deployment.py profile -t MODEL")
    terms = Terms(
        edge=np.asarray(sides.edge_s, dtype=np.float64),
        cloud=np.asarray(sides.cloud_s, dtype=np.float64),
        tensor=np.array([layer.out_bytes for layer in graph.layers]) / inputs.up_bytes_per_s,
        entry=np.zeros(max(1, len(graph.points) - 1)),  # no round trip, no download, no start of a tail
    )
    head = CutSolver(graph).best(terms)
    return Choice("dads", head, point_of(graph, head), RAW, terms.value(graph, head))


def point_of(graph: LayerGraph, head: frozenset[int]) -> int | None:
    """The number of a cut, if it is a point."""
    number = next((point.number for point in graph.points if point.layer == max(head)), None)
    return number if number is not None and graph.head_at(number) == head else None
