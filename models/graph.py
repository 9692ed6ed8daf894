"""The graph of layers, as the rest of the program sees it. Pure: no torch.

A *cut* is the set of layers that run on the edge; it holds the inputs and is closed under what layers read. A *point*
is the number of a cut with one boundary tensor, in program order: 0 runs everything on the cloud, and sends every input
that is read; the last one runs everything on the edge and sends nothing.

Layers are numbered in program order, which is a topological one: every layer reads only layers with smaller numbers.
The first ones are the inputs, which read nothing; most networks have one.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from edgecloud.utils.errors import UsageError

INPUT = 0
"""The first input, of most networks the only one: all are `LayerGraph.inputs`."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation and the tensor that it makes."""

    id: str
    kind: str
    inputs: tuple[int, ...]
    out_bytes: int
    out_shape: tuple[int, ...] = ()
    out_dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Point:
    """A cut with one boundary tensor: the head is layers[: layer + 1], and the boundary is the output of `layer`; at
    point 0 the boundary is all inputs, the last of which is `layer`."""

    number: int
    layer: int


@dataclass(frozen=True)
class LayerGraph:
    """The directed acyclic graph of the layers of one network.

    Raises ValueError where the first layer is no input, a later one reads nothing, a layer reads one that does not come
    before it, or an output is no layer.
    """

    name: str
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError(f"graph {self.name}: the first layer must be the input")
        for number, layer in enumerate(self.layers):
            if number >= len(self.inputs) and not layer.inputs:
                raise ValueError(f"graph {self.name}: layer {layer.id} has no inputs, only the first layers may")
            if any(not 0 <= source < number for source in layer.inputs):
                raise ValueError(f"graph {self.name}: layer {layer.id} reads a layer that does not precede it")
        if not self.outputs or any(not 0 <= out < len(self.layers) for out in self.outputs):
            raise ValueError(f"graph {self.name}: outputs must name layers of the graph")

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """The inputs of the network: the leading layers that read nothing."""
        return tuple(number for number, _ in takewhile(lambda each: not each[1].inputs, enumerate(self.layers)))

    @cached_property
    def only_inputs(self) -> frozenset[int]:
        """The cut that leaves everything to the cloud."""
        return frozenset(self.inputs)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For every layer, the layers that read its output."""
        readers: list[list[int]] = [[] for _ in self.layers]
        for number, layer in enumerate(self.layers):
            for source in dict.fromkeys(layer.inputs):
                readers[source].append(number)
        return tuple(tuple(numbers) for numbers in readers)

    @cached_property
    def everything(self) -> frozenset[int]:
        """The cut that leaves nothing to the cloud."""
        return frozenset(range(len(self.layers)))

    @property
    def result_bytes(self) -> int:
        """Bytes of the answer."""
        return sum(self.layers[out].out_bytes for out in self.outputs)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Every cut that a single tensor crosses, in program order; the last one is crossed by nothing.

        A cut crossed by one tensor t alone is t's layer and all that it needs, so it is a prefix of program order. The
        first one is crossed by all inputs that are read, however many there are.
        """
        last_reader = [max(readers, default=number) for number, readers in enumerate(self.readers)]
        points: list[Point] = []
        still_read: set[int] = set()
        for number in range(len(self.layers)):
            still_read = {source for source in (*still_read, number) if last_reader[source] > number}
            is_first, is_last = number == self.inputs[-1], number == len(self.layers) - 1
            if is_first or is_last or (still_read == {number} and number > self.inputs[-1]):
                points.append(Point(len(points), number))
        return tuple(points)

    @cached_property
    def is_chain(self) -> bool:
        """Whether every layer reads the one before it and nothing else: then every cut is a point."""
        return all(layer.inputs == (number - 1,) for number, layer in enumerate(self.layers) if number)

    def crossing_at(self, point: int) -> tuple[int, ...]:
        """The layers whose outputs cross at a point: one, at point 0 every input that is read, at the last one none."""
        if point == 0:
            return self.boundary(self.only_inputs)
        return (self.points[point].layer,) if point < len(self.points) - 1 else ()

    def name_at(self, point: int) -> str:
        """The layer after which a point cuts, by its id; `inputs` where the network has several and nothing has run."""
        return "inputs" if point == 0 and len(self.inputs) > 1 else self.layers[self.points[point].layer].id

    def entry(self, done: Collection[int]) -> int:
        """Number of the last point, all on the edge left out, whose layer has run: where what is left begins."""
        return next(p.number for p in reversed(self.points[: max(1, len(self.points) - 1)]) if p.layer in done)

    def head_at(self, point: int) -> frozenset[int]:
        """The cut of a point. Raises UsageError where there is no such point."""
        if not 0 <= point < len(self.points):
            raise UsageError(
                f"{self.name} has no point {point}: use 0 (all on the cloud) "
                f"to {len(self.points) - 1} (all on the edge)"
            )
        return frozenset(range(self.points[point].layer + 1))

    def needed_by(self, *layers: int) -> frozenset[int]:
        """Layers, and all that they read, directly or not."""
        needed, left = set(layers), list(layers)
        while left:
            new = set(self.layers[left.pop()].inputs) - needed
            needed |= new
            left += new
        return frozenset(needed)

    def check_cut(self, head: Collection[int]) -> frozenset[int]:
        """Return `head` as a set if it is a cut of this graph; raise ValueError if it is not."""
        cut = frozenset(head)
        if not self.only_inputs <= cut <= self.everything:
            raise ValueError(f"{self.name}: a cut must contain the input and only layers of the graph")
        for number in cut:
            if any(source not in cut for source in self.layers[number].inputs):
                raise ValueError(f"{self.name}: layer {self.layers[number].id} is on the edge, but not what it reads")
        return cut

    def inputs_of(self, segment: Collection[int]) -> tuple[int, ...]:
        """Layers outside a segment whose outputs it reads, in order."""
        inside = frozenset(segment)
        return tuple(sorted({source for number in inside for source in self.layers[number].inputs} - inside))

    def outputs_of(self, segment: Collection[int]) -> tuple[int, ...]:
        """Layers of a segment whose outputs others read or that are the answer, in order."""
        inside = frozenset(segment)
        return tuple(
            number
            for number in sorted(inside)
            if number in self.outputs or any(reader not in inside for reader in self.readers[number])
        )

    def boundary(self, head: Collection[int]) -> tuple[int, ...]:
        """Layers of the head whose outputs the tail reads: the tensors that cross, each once."""
        return self.inputs_of(self.everything - frozenset(head))

    def bytes_of(self, layers: Iterable[int]) -> int:
        """Bytes of the outputs of some layers."""
        return sum(self.layers[number].out_bytes for number in layers)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what both sides must agree on: the layers, how they are joined, and the tensors between them."""
        rows = [[la.id, la.kind, la.inputs, la.out_shape, la.out_dtype] for la in self.layers]
        text = json.dumps([rows, self.outputs], separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def to_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Write a set of layer numbers as sorted half-open ranges: {0, 1, 2, 5} -> [[0, 3], [5, 6]]."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] = number + 1
        else:
            ranges.append([number, number + 1])
    return ranges
