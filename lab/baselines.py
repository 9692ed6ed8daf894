"""Published partitioning methods, implemented from the papers, on this project's numbers.

all-edge, all-cloud, all-cloud-8bit, all-cloud-jpeg    one place for everything; the cloud gets float32, or the
                picture's 8-bit pixels, as they are or as a JPEG
neurosurgeon    Kang et al., ASPLOS 2017, Algorithm 1: the point with the least sum of the mobile's seconds before it,
                the cloud's after it at its load, and the tensor's bytes over the bandwidth, times from regressions for
                each kind of layer (linear or logarithmic, on the paper's variables); float32
dads            Hu et al., INFOCOM 2019, DSL: the cut of the graph with the least sum of measured edge seconds, measured
                cloud seconds, and the bytes of every tensor that crosses over the bandwidth; float32

None of them knows a round trip, the way back, what starting a tail costs, or codecs. Neurosurgeon cuts chains; on a
graph it is given, as in DADS's comparison, the layers in topological order, here those places where one tensor crosses,
since it sends one. DADS's heavy mode is `--objective throughput --method dsh` of edge_api.py.
Pure: plain numbers in, a cut out, which `edge_api.py --points` runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from edgecloud.lab.choices import FIXED, RAW
from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.partition.mincut import CutSolver, Terms
from edgecloud.utils.errors import UsageError


@dataclass(frozen=True)
class Sides:
    """Seconds of every layer, the input (0) included, on the edge and on an idle cloud."""

    edge_s: Sequence[float]
    cloud_s: Sequence[float]


@dataclass(frozen=True)
class BaselineInputs:
    """What a baseline may know of a cell."""

    graph: LayerGraph
    up_bytes_per_s: float
    measured: Sides | None = None
    """Measured layer by layer: what DADS has."""
    regressed: Sides | None = None
    """From regressions of a survey of other networks: what Neurosurgeon has."""
    load: float = 1.0
    """How many times slower than idle the cloud is: Neurosurgeon's K. The paper has a regression for each level of
    load; here the one of the idle cloud is multiplied."""


@dataclass(frozen=True)
class Choice:
    """A cut, what it sends as, and the seconds that its chooser expects, where it expects any."""

    who: str
    head: frozenset[int]
    point: int | None
    """None where several tensors cross."""
    codec: str = RAW
    expected_s: float | None = None

    def points_text(self, graph: LayerGraph) -> str:
        """The cut as `edge_api.py --points` takes it."""
        if self.point is not None:
            return f"{self.point}:{self.codec}"
        names = "+".join(graph.layers[number].id for number in sorted(self.head - {INPUT}))
        return f"head={names}:{self.codec}"


Baseline = Callable[[BaselineInputs], Choice]


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
        entry=np.zeros(max(1, len(graph.points) - 1)),  # no round trip, no way back, no start of a tail
    )
    head = CutSolver(graph).best(terms)
    return Choice("dads", head, point_of(graph, head), RAW, terms.value(graph, head))


def point_of(graph: LayerGraph, head: frozenset[int]) -> int | None:
    """The number of a cut, if it is a point."""
    number = next((point.number for point in graph.points if point.layer == max(head)), None)
    return number if number is not None and graph.head_at(number) == head else None


def _at(who: str, point: int, codec: str) -> Baseline:
    """Always the same point; -1 is the last one."""

    def choose(inputs: BaselineInputs) -> Choice:
        number = point % len(inputs.graph.points)
        return Choice(who, inputs.graph.head_at(number), number, codec)

    return choose


BASELINES: dict[str, Baseline] = {
    **{who: _at(who, point, codec) for who, (point, codec) in FIXED.items()},
    "neurosurgeon": neurosurgeon,
    "dads": dads,
}
"""By the name that stands in the lab's records."""


def choose(name: str, inputs: BaselineInputs) -> Choice:
    """What one of them would do. Raises UsageError for a name that there is not, or times that it needs."""
    if name not in BASELINES:
        raise UsageError(f"no baseline {name[:40]!r}: choose {', '.join(BASELINES)}")
    return BASELINES[name](inputs)
