"""Branch and bound over cuts: those that may have the minimum bottleneck stage, or all by their sums. Pure."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.mincut import Terms

Flags = NDArray[np.bool_]

# Longest stages that differ by less than this, relatively, are equal, and the latency decides between them.
TIE = 2e-7


class _State(NamedTuple):
    """Some layers have a side: bit v of `head` is set if layer v is on the edge, of `tail` if it is on the cloud."""

    head: int
    tail: int
    edge_s: float
    upload_s: float
    cloud_s: float
    """Without the start."""


class Walk:
    """A walk over the cuts, all on the edge left out, that may be as good as the best one known.

    Layers are put on a side in program order; one on the cloud takes all that needs it along. The seconds of a stage
    only grow on the way, so a branch ends where one is longer than in the best cut.
    """

    def __init__(self, graph: LayerGraph, terms: Terms, best_s: float) -> None:
        self._edge_s, self._cloud_s, self._tensor_s = terms.edge.tolist(), terms.cloud.tolist(), terms.tensor.tolist()
        self._starts = [(1 << p.layer, s) for p, s in zip(graph.points, terms.entry.tolist(), strict=False)]
        self._start_s = float(terms.entry.min())
        self._after_s = (needs_of(graph).T @ terms.cloud).tolist()  # of what goes to the cloud with each layer
        self._sources = [_mask(layer.inputs) for layer in graph.layers]
        self._readers = [_mask(readers) for readers in graph.readers]
        self._followers = [1 << number for number in range(len(graph.layers))]
        for number in reversed(range(len(graph.layers))):
            for reader in graph.readers[number]:
                self._followers[number] |= self._followers[reader]
        self._everything, self._inputs = _mask(graph.everything), graph.inputs
        self._best_s = best_s

    def best(self, steps: int) -> list[frozenset[int]] | None:
        """The best cut, if there is one that is as good as the one known; None if it takes more steps than that."""
        cuts: list[tuple[float, float, int]] = []
        stack = [self.start]
        while stack and steps:
            steps -= 1
            state = stack.pop()
            undecided = self._everything & ~(state.head | state.tail)
            if undecided:
                layer = undecided & -undecided
                stack += [s for s in self._sides(state, layer) if self._longest_s(s, self._start_s) <= self._most_s]
            elif state.tail:
                start_s = next(start_s for point, start_s in reversed(self._starts) if point & state.head)
                cuts.append((self._longest_s(state, start_s), self.sum_of(state), state.head))
                self._best_s = min(self._best_s, cuts[-1][0])
        equal = [(sum_s, head) for longest_s, sum_s, head in cuts if longest_s <= self._most_s]
        return None if stack else [frozenset(_bits(head)) for _, head in sorted(equal)[:1]]

    @property
    def start(self) -> _State:
        """Nothing but the inputs has a side."""
        return _State(_mask(self._inputs), 0, sum(self._edge_s[number] for number in self._inputs), 0.0, 0.0)

    def further(self, state: _State) -> Iterator[tuple[_State, bool]]:
        """With one more layer on either side, and whether it is a cut by then; none that has no tail."""
        undecided = self._everything & ~(state.head | state.tail)
        if not undecided:
            if state.tail:
                yield state, True
            return
        for side in self._sides(state, undecided & -undecided):
            yield side, bool(side.tail) and not self._everything & ~(side.head | side.tail)

    def bound_of(self, state: _State) -> float:
        """What any cut adds up to at least that comes of it."""
        return state.edge_s + state.upload_s + state.cloud_s + self._start_s

    def sum_of(self, state: _State) -> float:
        """What a cut adds up to."""
        start_s = float(next(start_s for point, start_s in reversed(self._starts) if point & state.head))
        return state.edge_s + state.upload_s + state.cloud_s + start_s

    @property
    def _most_s(self) -> float:
        return (1 + TIE) * self._best_s

    @staticmethod
    def _longest_s(state: _State, start_s: float) -> float:
        return max(state.edge_s, state.upload_s, state.cloud_s + start_s)

    def _sides(self, state: _State, layer: int) -> Iterator[_State]:
        yield self._to_edge(state, layer)
        if self._after_s[layer.bit_length() - 1] + self._start_s <= self._most_s:
            yield self._to_cloud(state, layer)

    def _to_edge(self, state: _State, layer: int) -> _State:
        head, tail, edge_s, upload_s, cloud_s = state
        number = layer.bit_length() - 1
        crossing_s = self._tensor_s[number] if self._readers[number] & tail else 0.0
        return _State(head | layer, tail, edge_s + self._edge_s[number], upload_s + crossing_s, cloud_s)

    def _to_cloud(self, state: _State, layer: int) -> _State:
        head, tail, edge_s, upload_s, cloud_s = state
        sources = 0
        for number in _bits(self._followers[layer.bit_length() - 1] & ~tail):
            cloud_s += self._cloud_s[number]
            sources |= self._sources[number]
            tail |= 1 << number
        for number in _bits(sources & head):
            if not self._readers[number] & state.tail:
                upload_s += self._tensor_s[number]
        return _State(head, tail, edge_s, upload_s, cloud_s)


def by_sum(graph: LayerGraph, terms: Terms, steps: int) -> Iterator[tuple[float, frozenset[int] | None]]:
    """Cuts with a tail, from the least sum of terms on, each with its sum; terms may be of less than a cut takes.

    Ends with the sum that all further ones have at least, and None, where it takes more than so many steps.
    """
    least = np.minimum(terms.edge, terms.cloud)  # of every layer, wherever it runs
    walk = Walk(graph, replace(terms, edge=terms.edge - least, cloud=terms.cloud - least), math.inf)
    base_s, ticket = float(least.sum()), count()
    waiting: list[tuple[float, int, _State, bool]] = [(walk.bound_of(walk.start), next(ticket), walk.start, False)]
    while waiting:
        sum_s, _, state, is_whole = heappop(waiting)
        if is_whole:
            yield base_s + sum_s, frozenset(_bits(state.head))
        elif steps <= 0:
            yield base_s + sum_s, None
            return
        else:
            steps -= 1
            for further, is_done in walk.further(state):
                bound_s = walk.sum_of(further) if is_done else walk.bound_of(further)
                heappush(waiting, (bound_s, next(ticket), further, is_done))


def needs_of(graph: LayerGraph) -> Flags:
    """For every layer, which run on the edge if it does: itself, and whatever it needs. Shape (layers, layers)."""
    needs = np.eye(len(graph.layers), dtype=np.bool_)
    for number, layer in enumerate(graph.layers):
        for source in layer.inputs:
            needs[number] |= needs[source]
    return needs


def _mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1
