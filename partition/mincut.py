"""The best cut of any graph, exactly, as a minimum cut (DADS, Hu et al., INFOCOM 2019, section III: DSL).

The flow network has a vertex for each layer, between a source, which is the edge, and a sink, which is the cloud. A
layer that ends on the source's side runs on the edge. Three things that the paper leaves out are needed for the cut of
least value to be the cut of least cost:

* the inputs are pinned to the edge, or the upload of everything would come free,
* each arc between layers has an infinite arc back, or a cut could go from the cloud back to the edge at no cost,
* what does not depend on single layers, the round trip and the start of a tail after each point, is an arc between
  consecutive points, of which every cut but all-on-the-edge cuts exactly one.

A graph falls into blocks at its points. A cut goes through one block at most, so each block has a flow network of its
own, and most of them need not be solved: what their layers cost at least is more than the best cut known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.partition.cost import LATENCY, Problem, StageWeights
from edgecloud.partition.flow import NEVER, Network

NOTHING = 1e-100  # seconds or joules: nothing is better
ALMOST, TINY = 1 - 1e-12, 1e-14
"""Cuts are equal where they differ by less than rounding does; an arc is full where less than that is left."""
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
    """The blocks of one graph, listed once; a decision only fills in the costs."""

    def __init__(self, graph: LayerGraph) -> None:
        self._graph = graph
        self._points = np.array([point.layer for point in graph.points[:-1]] or [graph.inputs[-1]])
        self._out_bytes = np.array([layer.out_bytes for layer in graph.layers], dtype=np.float64)
        self._barriers = np.array(_barriers(graph))
        ends = [*self._barriers[1:].tolist(), len(graph.layers) - 1]
        spans = enumerate(zip(self._barriers.tolist(), ends, strict=True))
        self._blocks = [_Block(graph, number, begin, end) for number, (begin, end) in spans if end > begin + 1]

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
        if not all((values >= 0).all() for values in (terms.edge, terms.cloud, terms.tensor, terms.entry)):
            raise ValueError("costs are numbers of at least 0")
        head, least = self._between_blocks(terms)
        edge_s, cloud_s = np.cumsum(terms.edge), np.cumsum(terms.cloud[::-1])[::-1]
        costs = np.minimum(terms.edge, terms.cloud), terms.tensor
        rest = [(self._least(block, terms, edge_s, cloud_s, *costs), block) for block in self._blocks]
        values = {each.name: np.minimum(getattr(terms, each.name), NEVER).tolist() for each in fields(Terms)}
        for bound, block in sorted(rest, key=lambda each: each[0]):
            if bound >= least * ALMOST or least < NOTHING:
                break  # nor can any other block have a better one
            before, after = float(edge_s[block.begin]), float(cloud_s[block.end]) if block.is_closed else 0.0
            cut = block.cut(values, least * ALMOST - before - after, least * TINY)
            if cut is not None:
                least, head = before + after + cut[0], cut[1]
        return head

    def _between_blocks(self, terms: Terms) -> tuple[frozenset[int], float]:
        """The best cut through no block, and its value; of equal ones that with the fewest layers on the edge."""
        last = len(self._graph.layers) - 1
        barriers = self._barriers[self._barriers < last]
        edge_s = np.cumsum(terms.edge)
        cloud_s = np.append(np.cumsum(terms.cloud[::-1])[::-1], 0.0)
        crossing, ends = terms.tensor[barriers], barriers.copy()
        crossing[:1] = terms.tensor[list(self._graph.crossing_at(0))].sum()
        ends[:1] = self._graph.inputs[-1]
        values = edge_s[ends] + cloud_s[ends + 1] + crossing + terms.entry[: len(barriers)]
        values = np.append(values, edge_s[last])
        number = int(np.argmax(values * ALMOST <= values.min()))
        layer = int(barriers[number]) if number < len(barriers) else last
        return self._graph.only_inputs | set(range(layer + 1)), float(values[number])

    def _least(
        self, block: "_Block", terms: Terms, edge_s: Values, cloud_s: Values, least: Values, tensor: Values
    ) -> float:
        """What no cut through a block is below: two tensors at least cross it, or it would be a point."""
        if not block.is_closed:
            return 0.0
        begin, end = block.begin, block.end
        inside = float(edge_s[begin] + least[begin + 1 : end].sum() + cloud_s[end])
        return inside + float(terms.entry[block.number] + 2 * tensor[begin:end].min())


def _barriers(graph: LayerGraph) -> list[int]:
    """Layers that all layers before them lead to: where one runs on the edge, all before it do.

    Every point is one, up to the first layer that nobody reads; the first one begins at the first input.
    """
    behind = graph.inputs[-1]
    dead_end = next((n for n, readers in enumerate(graph.readers) if n > behind and not readers), behind)
    return [INPUT, *(point.layer for point in graph.points[1:] if point.layer <= dead_end)]


class _Block:
    """The layers between two barriers, as a flow network: the first one is on the edge, the last one on the cloud.

    The last block of a graph has no such end where some layer in it is read by nobody. Then it may run on the edge
    altogether, and its points have terms of their own.
    """

    def __init__(self, graph: LayerGraph, number: int, begin: int, end: int) -> None:
        self.number, self.begin, self.end = number, begin, end
        self.is_closed = all(graph.readers[layer] or layer in graph.only_inputs for layer in range(begin, end))
        inside = range(begin, end if self.is_closed else end + 1)
        self._layers = list(inside)
        size = len(inside)
        sink, whole = size, size + 1
        several = [layer for layer in inside if len(graph.readers[layer]) > 1]
        self._spares = {layer: size + 2 + place for place, layer in enumerate(several)}
        self._network = Network(size + 2 + len(several), sink)
        self._costs: list[tuple[str, int]] = []
        """What each arc and its opposite one cost: a term and its place in it."""
        for layer in inside:
            if layer != begin:
                self._join(0, layer - begin, _NEVER_CUT if layer in graph.only_inputs else ("cloud", layer))
                self._join(layer - begin, sink, ("edge", layer))
            self._join_readers(graph, layer)
            if not graph.readers[layer]:  # `whole` is on the edge's side only if all layers are
                self._join(whole, layer - begin, _NEVER_CUT)
        points = [point for point in graph.points[:-1] if point.layer >= begin]
        if not self.is_closed:
            entries = [*(point.layer - begin for point in points), whole]
            for point, (a, b) in zip(points, pairwise(entries), strict=True):
                self._join(a, b, ("entry", point.number))

    def _join(self, begin: int, end: int, there: tuple[str, int], back: tuple[str, int] = ("", 0)) -> None:
        self._network.join(begin, end)
        self._costs += [there, back]

    def _join_readers(self, graph: LayerGraph, layer: int) -> None:
        """However many layers read a tensor, it is sent once. No layer is on the edge without what it reads."""
        readers = [min(reader - self.begin, len(self._layers)) for reader in graph.readers[layer]]
        tensor = ("tensor", layer)
        if len(readers) == 1:
            self._join(layer - self.begin, readers[0], tensor, _NEVER_CUT)
        elif readers:
            spare = self._spares[layer]
            self._join(layer - self.begin, spare, tensor)
            for reader in readers:
                self._join(spare, reader, _NEVER_CUT)
                self._join(reader, layer - self.begin, _NEVER_CUT)

    def cut(
        self, terms: Mapping[str, Sequence[float]], most: float, tiny: float
    ) -> tuple[float, frozenset[int]] | None:
        """The value of the best cut through this block, without what is outside, and its head; None where it is at
        least `most`."""
        edge, cloud = list(terms["edge"]), list(terms["cloud"])
        fixed = terms["entry"][self.number] if self.is_closed else 0.0
        for layer in self._layers[1:]:  # whichever side it runs on, that much it costs
            least = min(edge[layer], cloud[layer])
            edge[layer] -= least
            cloud[layer] -= least
            fixed += least
        values = {**terms, "edge": edge, "cloud": cloud, "": [0.0], "never": [NEVER]}
        cut = self._network.cut([values[name][place] for name, place in self._costs], most - fixed, tiny)
        if cut is None:
            return None
        value, side = cut
        inside = (self._layers[vertex] for vertex in side if vertex < len(self._layers))
        return fixed + value, frozenset((*range(self.begin), *inside))


_NEVER_CUT = ("never", 0)
