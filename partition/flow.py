"""Minimum cuts of small networks of arcs (Dinic 1970). Pure.

A decision needs a cut within one block of a graph, a few dozen vertices, and needs it in a process that has just
started: importing a solver would take longer than everything else that the decision does.
"""

from collections.abc import Sequence

NEVER = 1e300
"""Capacity of what must not be cut. Not infinite: what is left of an infinite arc would be no number."""


class Network:
    """Vertices 0 to `size` - 1, and arcs whose capacities are told later. The first vertex is the source."""

    def __init__(self, size: int, sink: int) -> None:
        self._sink = sink
        self._ends: list[int] = []
        self._of: list[list[int]] = [[] for _ in range(size)]

    def join(self, begin: int, end: int) -> None:
        """Add an arc and its opposite one, whose capacities are told one after the other."""
        place = len(self._ends)
        self._ends += [end, begin]
        self._of[begin].append(place)
        self._of[end].append(place + 1)

    def cut(self, capacities: Sequence[float], most: float, tiny: float = 0.0) -> tuple[float, frozenset[int]] | None:
        """The value of a minimum cut, and the fewest vertices that can be on the source's side of one.

        Capacities are at least 0 and at most NEVER; up to `tiny` an arc counts as full. None as soon as it is known
        that the value is at least `most`.
        """
        left, value = list(capacities), 0.0
        while True:
            levels = self._levels(left, tiny)
            if levels[self._sink] < 0:
                return value, frozenset(vertex for vertex, level in enumerate(levels) if level >= 0)
            nexts = [0] * len(self._of)
            while path := self._path(left, levels, nexts, tiny):
                flow = min(left[place] for place in path)
                for place in path:
                    left[place] -= flow
                    left[place ^ 1] += flow
                value += flow
                if value >= most:
                    return None

    def _levels(self, left: Sequence[float], tiny: float) -> list[int]:
        """The arcs between the source and each vertex, -1 where no arc leads there."""
        levels = [-1] * len(self._of)
        levels[0] = 0
        reached = [0]
        for vertex in reached:
            for place in self._of[vertex]:
                end = self._ends[place]
                if levels[end] < 0 and left[place] > tiny:
                    levels[end] = levels[vertex] + 1
                    reached.append(end)
        return levels

    def _path(self, left: Sequence[float], levels: Sequence[int], nexts: list[int], tiny: float) -> list[int]:
        """Arcs from the source to the sink, each one level further; none where there is no such path any more."""
        ends, path, vertex = self._ends, list[int](), 0
        while vertex != self._sink:
            arcs = self._of[vertex]
            while nexts[vertex] < len(arcs):
                place = arcs[nexts[vertex]]
                if left[place] > tiny and levels[ends[place]] == levels[vertex] + 1:
                    path.append(place)
                    vertex = ends[place]
                    break
                nexts[vertex] += 1
            else:
                if not path:
                    return []
                vertex = ends[path.pop() ^ 1]  # back, and on from there with the next arc
                nexts[vertex] += 1
        return path
