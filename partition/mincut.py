"""The best cut of any graph, exactly, as a minimum cut (DADS, Hu et al., INFOCOM 2019, section III: DSL).

The flow network has a vertex for each layer, between a source, which is the edge, and a sink, which is the cloud. A
layer that ends on the source's side runs on the edge. Three things that the paper leaves out are needed for the cut of
least value to be the cut of least cost:

* the input is pinned to the edge, or the upload of everything would come free,
* each arc between layers has an infinite arc back, or a cut could go from the cloud back to the edge at no cost,
* what does not depend on single layers, the round trip and the start of a tail after each point, is an arc between
  consecutive points, of which every cut but all-on-the-edge cuts exactly one.

Values are whole numbers in the solver. The unit is chosen for each problem so that the better of the two ends has
about 2^29 of them, half a nanosecond where that end takes 0.3 s; an arc that costs more is never cut.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.partition.cost import LATENCY, Problem, StageWeights

FINEST = 1 << 29
NOTHING = 1e-100  # seconds or joules; less cannot be scaled
INFINITE = 1 << 30  # with a flow of FINEST backwards it is still an int32
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Terms:
    """The cost formula of cuts, term by term: what is minimised is the sum of those that a cut picks.

    Seconds or joules, by the weights.
    """

    edge: Values
    """Of each layer, if it runs on the edge."""
    cloud: Values
    """Of each layer, if it runs on the cloud."""
    tensor: Values
    """Of each layer, if its output crosses."""
    entry: Values
    """Of each point but the last, if what runs on the cloud begins there: start, round trip, queue, and the result."""

    def value(self, graph: LayerGraph, head: frozenset[int]) -> float:
        """The sum that a cut picks, in the unit of the terms."""
        tail = graph.everything - head
        total = self.edge[sorted(head)].sum()
        if tail:
            total += self.cloud[sorted(tail)].sum() + self.tensor[list(graph.boundary(head))].sum()
            total += self.entry[graph.entry(head)]
        return float(total)


class CutSolver:
    """The flow network of one graph, built once; a decision only fills in the capacities."""

    def __init__(self, graph: LayerGraph) -> None:
        self._graph = graph
        self._points = np.array([point.layer for point in graph.points[:-1]] or [INPUT])
        self._out_bytes = np.array([layer.out_bytes for layer in graph.layers], dtype=np.float64)
        begin, end, self._term = _arcs(graph)
        size = 1 + int(max(begin.max(), end.max()))
        flat, slots = np.unique(np.concatenate([begin * size + end, end * size + begin]), return_inverse=True)
        self._slots = slots[: len(begin)]
        self._columns = (flat % size).astype(np.int32)
        self._rows = np.concatenate([[0], np.cumsum(np.bincount(flat // size, minlength=size))]).astype(np.int32)
        self._owner = flat // size
        self._size = size
        self._source, self._sink = len(graph.layers), len(graph.layers) + 1

    def terms(self, problem: Problem, weights: StageWeights = LATENCY) -> Terms:
        """The terms of a problem for this graph."""
        cloud, link = problem.cloud, problem.link
        start_s = np.asarray(cloud.start_s, dtype=np.float64)[self._points]
        fixed = weights.rtt * link.rtt_s + weights.queue * cloud.queue_s
        fixed += weights.download * problem.result_bytes / link.down_bytes_per_s
        return Terms(
            edge=weights.edge * np.asarray(problem.edge_s, dtype=np.float64),
            cloud=weights.cloud * cloud.load * np.asarray(cloud.seconds, dtype=np.float64),
            tensor=self._crossing(problem, weights),
            entry=weights.cloud * cloud.load * start_s + fixed,
        )

    def _crossing(self, problem: Problem, weights: StageWeights) -> Values:
        rate = problem.link.up_bytes_per_s
        if problem.packed is None:
            return np.asarray(weights.upload / rate * self._out_bytes)
        return np.array([weights.crossing(packed, rate) for packed in problem.packed])

    def best(self, terms: Terms) -> frozenset[int]:
        """The cut whose terms add up to the least. Terms are not negative; raises ValueError where one is, or NaN."""
        everything, nothing = self._graph.everything, frozenset({INPUT})
        values = _joined(terms)
        if not (values >= 0).all():
            raise ValueError("costs are numbers of at least 0")
        ends = {head: terms.value(self._graph, head) for head in (everything, nothing)}
        better = min(ends, key=ends.__getitem__)
        if ends[better] < NOTHING:
            return better
        head = self._cut(values * (FINEST / ends[better]))
        return min((head, better), key=lambda cut: terms.value(self._graph, cut))  # rounding may have lost a hair

    def _cut(self, values: Values) -> frozenset[int]:
        sums = np.bincount(self._slots, weights=values[self._term], minlength=len(self._columns))
        capacities = np.rint(np.minimum(sums, INFINITE)).astype(np.int32)
        shape = (self._size, self._size)
        network = csr_array((capacities, self._columns, self._rows), shape=shape)
        flow = maximum_flow(network, self._source, self._sink, method="dinic").flow
        left = capacities > flow.data  # arcs that could carry more
        rows = np.concatenate([[0], np.cumsum(np.bincount(self._owner[left], minlength=self._size))]).astype(np.int32)
        residual = csr_array((np.ones(rows[-1], np.int32), self._columns[left], rows), shape=shape)
        vertices = breadth_first_order(residual, self._source, return_predecessors=False)
        return frozenset(vertices[vertices < len(self._graph.layers)].tolist())


def _arcs(graph: LayerGraph) -> NDArray[np.int64]:
    """The arcs of the flow network, shape (3, arcs): begin, end, and the place of what it costs in `_joined`.

    An arc costs where it leads from the edge's side to the cloud's.
    """
    size = len(graph.layers)
    source, sink, whole = size, size + 1, size + 2
    edge, cloud, tensor, entry = 0, size, 2 * size, 3 * size
    never = entry + max(1, len(graph.points) - 1)
    arcs = [(source, INPUT, never), (INPUT, sink, edge)]
    spare = whole + 1
    for number, readers in enumerate(graph.readers):
        if number != INPUT:
            arcs += [(source, number, cloud + number), (number, sink, edge + number)]
        arcs += [(reader, number, never) for reader in readers]
        if len(readers) > 1:  # however many layers read a tensor, it is sent once
            arcs += [(number, spare, tensor + number), *((spare, reader, never) for reader in readers)]
            spare += 1
        elif readers:
            arcs.append((number, readers[0], tensor + number))
        else:
            arcs.append((whole, number, never))  # `whole` is on the edge's side only if all layers are
    entries = [*(point.layer for point in graph.points[:-1]), whole]
    arcs += [(a, b, entry + n) for n, (a, b) in enumerate(pairwise(entries))]
    return np.array(arcs).T


def _joined(terms: Terms) -> Values:
    """All terms in one array, and last the cost of what must never be cut."""
    return np.concatenate([terms.edge, terms.cloud, terms.tensor, terms.entry, [np.inf]])
