"""Layout of a graph plot: rows by depth, a lane for each branch, columns side by side."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, islice, pairwise

import numpy as np
from matplotlib.path import Path as Outline

from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.tools.pictures.style import MOST_NAMED, Place, layer_name, width_points
from edgecloud.utils.units import format_bytes

MOST_LANES = 1000
NARROWEST, WIDEST_NAMED = 6.5, 12.0  # inches; the narrowest holds the words above and below
CURVE = (Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4)


def depths_of(graph: LayerGraph) -> list[int]:
    """Longest way from the input to every layer: the row that it is drawn in."""
    depths: list[int] = []
    for layer in graph.layers:
        depths.append(max((depths[source] + 1 for source in layer.inputs), default=0))
    return depths


def lanes_of(graph: LayerGraph, depths: Sequence[int]) -> list[int]:
    """Where every layer stands in its row, 0 in the middle: a branch stays in its lane until it ends."""
    points = {point.layer for point in graph.points}
    until = [max((depths[reader] for reader in readers), default=0) for readers in graph.readers]
    lanes = [0] * len(graph.layers)
    tails: dict[int, int] = {}
    free_from: dict[int, int] = defaultdict(int)
    for number in sorted(range(len(graph.layers)), key=lambda each: (depths[each], each)):
        inputs = graph.layers[number].inputs
        mine = [source for source in inputs if tails[lanes[source]] == source]
        if number in points and depths[tails.get(0, INPUT)] < depths[number]:
            lane = 0
        elif mine:
            lane = lanes[max(mine, key=lambda source: (depths[source], -abs(lanes[source])))]
        else:
            begin = lanes[inputs[0]] if inputs else 0
            nearest_lanes = islice(_outwards(begin), MOST_LANES)
            lane = next((each for each in nearest_lanes if free_from[each] <= depths[number]), begin)
        lanes[number] = lane
        tails[lane] = number
        free_from[lane] = max(until[number], depths[number] + 1)
    return lanes


def _outwards(middle: int) -> Iterator[int]:
    yield middle
    for step in count(1):
        yield middle + step
        yield middle - step


def column_begins(graph: LayerGraph, depths: Sequence[int], columns: int) -> list[int]:
    """The rows that columns begin with: about as many rows each, and few tensors from one column to the next."""
    rows = max(depths) + 1
    crossing = np.zeros(rows + 1, dtype=np.int64)
    for number, readers in enumerate(graph.readers):
        if readers:
            crossing[depths[number] + 1] += 1
            crossing[max(depths[reader] for reader in readers) + 1] -= 1
    crossing = crossing.cumsum()
    begins = [0]
    for column in range(1, columns):
        ideal, around = column * rows / columns, 0.22 * rows / columns
        candidates = range(max(begins[-1] + 1, int(ideal - around)), min(rows, int(ideal + around) + 2))
        begins.append(min(candidates, key=lambda row: (crossing[row], abs(row - ideal))))
    return begins


class Layout:
    """Places in inches; downwards is negative."""

    def __init__(self, graph: LayerGraph, crossing: frozenset[int]) -> None:
        self._graph = graph
        self._rows = depths_of(graph)
        self._lanes = lanes_of(graph, self._rows)
        wide = 0.16 + max(width_points(layer_name(graph, number)) for number in range(len(graph.layers))) / 72
        is_narrow = (max(self._lanes) - min(self._lanes)) * wide < WIDEST_NAMED
        self.is_named = is_narrow and len(graph.layers) <= MOST_NAMED
        """Whether layers are boxes that hold their names, or dots."""
        self.box = wide if self.is_named else 0.07
        self._dx, self._dy = (wide + 0.16, 0.36) if self.is_named else (0.24, 0.13)
        self._taken: dict[int, list[int]] = defaultdict(list)
        for row, lane in sorted(zip(self._rows, self._lanes, strict=True)):
            self._taken[lane].append(row)
        begins = column_begins(graph, self._rows, self._columns_wanted())
        self._columns = [bisect_right(begins, row) - 1 for row in self._rows]
        self._begins = [*begins, max(self._rows) + 1]
        self.labels = self._label_texts(crossing)
        """What is written beside layers."""
        self._set_columns()

    @property
    def columns(self) -> int:
        """How many there are, side by side."""
        return len(self._begins) - 1

    def _columns_wanted(self) -> int:
        """As many as make the picture somewhat wider than high."""
        rows = max(self._rows) + 1
        height, width = rows * self._dy, (max(self._lanes) - min(self._lanes) + 1) * self._dx + 0.7
        return max(1, min(round(float(np.sqrt(1.5 * height / width))), rows // 7))

    def _label_texts(self, crossing: frozenset[int]) -> dict[int, str]:
        """The boundary and its size, and where dots have no names, both ends."""
        ends = set() if self.is_named else {*self._graph.inputs, *self._graph.outputs}
        sizes = {number: "  " + format_bytes(self._graph.layers[number].out_bytes) for number in crossing}
        return {number: layer_name(self._graph, number) + sizes.get(number, "") for number in ends | crossing}

    def _set_columns(self) -> None:
        """From left to right: lines that pass by layers, layers, labels, and the way to the next column."""
        left, self._middles, self.label_xs, self._gutters = 0.0, [], [], []
        for column in range(self.columns):
            members = [number for number, its_column in enumerate(self._columns) if its_column == column]
            lanes = [self._lanes[number] for number in members]
            edges = ((source, number) for number in members for source in self._graph.layers[number].inputs)
            left += max((self._reach(*each) for each in edges if self._passes_by(*each)), default=0.0)
            self._middles.append(left - min(lanes) * self._dx + self.box / 2)
            left += (max(lanes) - min(lanes)) * self._dx + self.box + 0.12
            self.label_xs.append(left)
            texts = [self.labels[number] for number in members if number in self.labels]
            left += max((width_points(text) / 72 for text in texts), default=0.0) + 0.1
            self._gutters.append(left)
            left += 0.2
        rows = max(end - begin for begin, end in pairwise(self._begins))
        beside = max(0.1, (NARROWEST - left) / 2)
        self.extent = (-beside, left + beside, -rows * self._dy - 0.1, 0.3)
        """Left, right, bottom and top."""

    def labels_of(self, column: int) -> list[int]:
        """The layers of a column that have labels, from top to bottom."""
        numbers = (number for number in self.labels if self._columns[number] == column)
        return sorted(numbers, key=lambda number: (self._rows[number], self._lanes[number]))

    def is_within_column(self, source: int, target: int) -> bool:
        """Whether two layers stand in the same one."""
        return self._columns[source] == self._columns[target]

    def place(self, number: int) -> Place:
        """The middle of a layer."""
        column = self._columns[number]
        x = self._middles[column] + self._lanes[number] * self._dx
        return x, -(self._rows[number] - self._begins[column]) * self._dy

    def line(self, source: int, target: int) -> Outline:
        """From a layer to one that reads it."""
        if not self.is_within_column(source, target):
            return self._line_across(source, target)
        (x0, y0), (x1, y1) = self.place(source), self.place(target)
        if self._passes_by(source, target):
            x0, x1 = x0 - self.box / 2, x1 - self.box / 2
            out = 4 / 3 * self._reach(source, target)  # a Bézier curve goes three quarters of the way
            return _curve((x0, y0), (x0 - out, y0), (x1 - out, y1), (x1, y1))
        if self._rows[target] == self._rows[source] + 1:
            return Outline([(x0, y0), (x1, y1)])
        if self._is_clear(source, self._rows[source], self._rows[target]):
            return Outline([(x0, y0), (x0, y1 + self._dy), (x1, y1)])
        return Outline([(x0, y0), (x1, y0 - self._dy), (x1, y1)])

    def _line_across(self, source: int, target: int) -> Outline:
        """To another column: around the end of this one where that way is free, else straight through."""
        (x0, y0), (x1, y1) = self.place(source), self.place(target)
        column = self._columns[source]
        begin = self._begins[column + 1]
        is_next = self._columns[target] == column + 1
        below_is_clear = self._is_clear(source, self._rows[source], begin)
        if not (is_next and below_is_clear and self._is_clear(target, begin - 1, self._rows[target])):
            out = (x1 - x0) / 2
            return _curve((x0, y0), (x0 + out, y0), (x1 - out, y1), (x1, y1))
        below, above, gutter = -(begin - self._begins[column] - 0.4) * self._dy, 0.6 * self._dy, self._gutters[column]
        return Outline([(x0, y0), (x0, below), (gutter, below), (gutter, above), (x1, above), (x1, y1)])

    def _is_clear(self, number: int, after: int, before: int) -> bool:
        """Whether nothing stands in a layer's lane between two rows."""
        rows = self._taken[self._lanes[number]]
        place = bisect_right(rows, after)
        return place == len(rows) or rows[place] >= before

    def _passes_by(self, source: int, target: int) -> bool:
        """Whether the line between two layers of a column has to go around those between them."""
        after, before = self._rows[source], self._rows[target]
        is_far = self.is_within_column(source, target) and before > after + 1
        return is_far and not any(self._is_clear(each, after, before) for each in (source, target))

    def _reach(self, source: int, target: int) -> float:
        """How far to the left such a line goes."""
        rows = self._rows[target] - self._rows[source]
        return float(min(0.1 + 0.25 * rows * self._dy, 0.2 + 0.1 * np.sqrt(rows)))


def _curve(*places: Place) -> Outline:
    """A cubic Bézier curve."""
    return Outline(list(places), CURVE)
