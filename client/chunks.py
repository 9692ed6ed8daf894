"""A boundary that leaves in chunks: in which slices, and each packed when it is its turn.

The thread that asks makes and packs slices while another one sends those before. What is made stays with the inference:
after a lost connection the boundary leaves again from its first slice, and nothing of the head is computed twice. On
an emulated processor slices are made ahead of their time, and leave when that processor would have made them.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from edgecloud.engine.cpu_share import Until
from edgecloud.models.graph import LayerGraph
from edgecloud.net.codec import Encoded, splits
from edgecloud.net.sides import Side, SidedCodec
from edgecloud.net.tensors import RAW, Array
from edgecloud.partition.overlap import Overlap, Slices

Sided = Mapping[tuple[int, str], SidedCodec]


@dataclass(frozen=True, slots=True)
class Slice:
    """What leaves in one chunk."""

    tensor: int
    """The number of the tensor, among those that the tail reads ..."""
    start: int
    """... and where the slice begins."""
    packed: Encoded


@dataclass
class Departure:
    """A boundary on its way to a cloud. To be iterated over once, in the thread that computes."""

    crossing: Sequence[int]
    """The layers whose outputs the tail reads, in its order."""
    overlap: Overlap
    tensor: Callable[[int, int], Array]
    """Gives the output of a layer, made at least up to an end of its slices."""
    pack: Callable[[int, Array], tuple[Encoded, float]]
    """Packs a slice of a layer's output; gives also the seconds that it took."""
    after: Callable[[], None]
    """What is to be done here while the last slices travel."""
    ahead: Callable[[], AbstractContextManager[Until]]
    """Where the work of this thread need not be waited for (engine.cpu_share)."""
    sides: Sequence[Side] = ()
    """What its codecs need on the other side."""
    encode_s: float = 0.0
    payload_bytes: int = 0

    @property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """Of every tensor the axis, and where its slices end."""
        of_layer = {each.layer: (each.axis, *each.ends) for each in self.overlap.slices}
        return tuple(of_layer[layer] for layer in self.crossing)

    @property
    def rows(self) -> tuple[int, ...]:
        """Of every chunk its tensor, where the tail may begin with the rows that have come."""
        if not self.overlap.tail_rows:
            return ()
        return tuple(self._number(self.overlap.slices[tensor]) for tensor, _ in self.overlap.chunks())

    @property
    def until(self) -> int:
        """The last layer that does; 0: any that can."""
        return self.overlap.until or 0

    def _number(self, slices: Slices) -> int:
        return list(self.crossing).index(slices.layer)

    def __iter__(self) -> Iterator[Slice]:
        waiting: deque[tuple[Slice, float]] = deque()
        with self.ahead() as until:
            for tensor, index in self.overlap.chunks():
                waiting.append((self._made(tensor, index), until()))
                while waiting and waiting[0][1] <= time.perf_counter():
                    yield waiting.popleft()[0]
            for each, moment in waiting:
                time.sleep(max(0.0, moment - time.perf_counter()))
                yield each
        self.after()

    def _made(self, tensor: int, index: int) -> Slice:
        slices = self.overlap.slices[tensor]
        start, end = slices.bounds(index)
        array = self.tensor(slices.layer, end)[(slice(None),) * slices.axis + (slice(start, end),)]
        packed, seconds = self.pack(slices.layer, array)
        self.encode_s += seconds
        self.payload_bytes += packed.nbytes
        return Slice(self._number(slices), start, packed)


def fitted(
    overlap: Overlap | None,
    graph: LayerGraph,
    crossing: Sequence[int],
    codecs: Mapping[int, str],
    sided: Sided,
    most: int,
) -> Overlap | None:
    """How these tensors can leave for a cloud that takes `most` chunks; None: in one frame.

    A tensor whose codec cannot carry slices (net.codec.splits) leaves in one piece.
    """
    if overlap is None or {each.layer for each in overlap.slices} != set(crossing):
        return None
    if any(not _has_axis(each, graph.layers[each.layer].out_shape) for each in overlap.slices):
        return None
    made = tuple(
        each if _splits(each, graph, codecs.get(each.layer, RAW), sided) else replace(each, ends=(each.size,))
        for each in overlap.slices
    )
    if made != overlap.slices:
        overlap = Overlap(made, tail_rows=overlap.tail_rows, until=overlap.until)
    return overlap if 1 < overlap.count <= most else None


def _has_axis(slices: Slices, shape: tuple[int, ...]) -> bool:
    return slices.axis < len(shape) and slices.size == shape[slices.axis]


def _splits(slices: Slices, graph: LayerGraph, codec: str, sided: Sided) -> bool:
    shape, axis = graph.layers[slices.layer].out_shape, slices.axis
    sizes = (end - start for start, end in map(slices.bounds, range(len(slices))))
    parts = ((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)
    return splits(codec, shape, parts, sided.get((slices.layer, codec)))


def stages_of(graph: LayerGraph, head: frozenset[int], overlap: Overlap | None) -> tuple[frozenset[int], ...]:
    """The head in pieces, of which each makes one more of the tensors that leave, in their order."""
    if overlap is None or len(overlap.slices) < 2 or not {each.layer for each in overlap.slices} <= head:
        return (head,)
    inputs = frozenset(graph.inputs)
    done, stages = set(inputs & head), []
    first = dict.fromkeys(overlap.slices[tensor].layer for tensor, _ in overlap.chunks())
    for wanted in (*((layer,) for layer in first), head):
        stage = graph.needed_by(*wanted) & head - done
        if stage:
            stages.append(stage)
            done |= stage
    return (stages[0] | (inputs & head), *stages[1:]) if stages else (head,)
