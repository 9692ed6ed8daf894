"""A boundary that leaves in chunks, so that the stages of one inference overlap. Pure.

Each boundary tensor is cut along one axis into slices; a slice is packed, sent and unpacked on its own, while others
are on their way. With `head_rows` a slice leaves as soon as the head has made its rows, with `tail_rows` the tail
begins with the rows that are there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import le

ROWS = 2
"""The axis of the rows of a picture or of a feature map: batch, channels, rows, columns."""


@dataclass(frozen=True, slots=True)
class Slices:
    """One boundary tensor, cut along one axis.

    Raises ValueError for an axis below 1, the batch's, and for ends that do not ascend from above 0.
    """

    layer: int
    """Whose output it is."""
    axis: int
    """1 at least: rows are 2 of NCHW; of others the first axis after the batch that is long enough."""
    ends: tuple[int, ...]
    """Ascending, the last is the size of that axis: slice i is [ends[i - 1], ends[i]), the first one begins at 0."""

    def __post_init__(self) -> None:
        if self.axis < 1:
            raise ValueError(f"a tensor is cut along an axis from 1 on, not {self.axis}: the batch stays together")
        if not self.ends or any(end <= start for start, end in pairwise((0, *self.ends))):
            raise ValueError(f"ends of slices ascend from above 0: {self.ends}")

    @property
    def size(self) -> int:
        """Of the axis."""
        return self.ends[-1]

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self.ends)

    def bounds(self, index: int) -> tuple[int, int]:
        """Where a slice begins, and where it ends."""
        return (self.ends[index - 1] if index else 0), self.ends[index]

    def shares(self) -> tuple[float, ...]:
        """Of the tensor, of every slice; they add up to 1."""
        return tuple((end - start) / self.size for start, end in pairwise((0, *self.ends)))


@dataclass(frozen=True, slots=True)
class Overlap:
    """How a boundary leaves in chunks: a chunk is a slice of one of its tensors.

    Raises ValueError where it is nothing that could leave: no tensor, one twice, or an order that does not have every
    slice once, those of a tensor from the first to the last.
    """

    slices: tuple[Slices, ...]
    """One for each boundary tensor, in the order in which they leave."""
    head_rows: bool = False
    """Whether the head's last layers run by rows, and a slice leaves when its rows are made; models/rows.py says which
    layers those are."""
    tail_rows: bool = False
    """Whether the tail's first layers run on rows as they come."""
    until: int | None = None
    """The last of these layers; None: as many as can."""
    order: tuple[tuple[int, int], ...] = ()
    """Chunks, each by the index of its tensor in `slices` and of its slice, in the order in which they leave, where
    several tensors interleave; () is one tensor after the other."""

    def __post_init__(self) -> None:
        layers = [each.layer for each in self.slices]
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(f"chunks are of one tensor or more, each once: layers {layers}")
        if not self.order:
            return
        of_each: list[list[int]] = [[] for _ in layers]
        for tensor, index in self.order:
            if not 0 <= tensor < len(layers):
                raise ValueError(f"the order of chunks names tensor {tensor} of {len(layers)}")
            of_each[tensor].append(index)
        if any(indexes != list(range(len(each))) for indexes, each in zip(of_each, self.slices, strict=True)):
            raise ValueError("the order of chunks has every slice once, those of a tensor from the first to the last")

    @property
    def count(self) -> int:
        """How many chunks there are, of all tensors."""
        return sum(map(len, self.slices))

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Tensor and slice of every chunk, in the order in which they leave."""
        if self.order:
            yield from self.order
        else:
            yield from ((tensor, index) for tensor, each in enumerate(self.slices) for index in range(len(each)))

    def to_json(self, name_of: Callable[[int], str]) -> dict[str, object]:
        """As every JSON document has it, with layers by their names."""
        slices = [{"layer": name_of(each.layer), "axis": each.axis, "ends": list(each.ends)} for each in self.slices]
        shown: dict[str, object] = {"slices": slices, "head_rows": self.head_rows, "tail_rows": self.tail_rows}
        if self.until is not None:
            shown["until"] = name_of(self.until)
        return shown | ({"order": [list(chunk) for chunk in self.order]} if self.order else {})


@dataclass(frozen=True, slots=True)
class RowShares:
    """What of the work of some layers belongs to the first rows of a boundary: of one tensor, or of several behind each
    other.

    Of a head: what has to be computed to make them. Of a tail: what can be computed once they are there. Layers that do
    not run by rows are not named. Raises ValueError for shares that are none.
    """

    layers: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    """For 0, 1, 2, ... rows, up to all of them, the share of each layer, from 0 to 1: none falls, the last are 1."""
    blocks: tuple[int, ...] = ()
    """In how many blocks each layer is computed at most; () says nothing: as many as there are chunks."""
    block_s: tuple[float, ...] = ()
    """Seconds that each further block of a layer takes on an idle core, however small; () is nothing."""

    def __post_init__(self) -> None:
        if len(self.shares) < 2 or any(len(row) != len(self.layers) for row in self.shares):
            raise ValueError("shares are of every layer, for no row and for every further one")
        if not all(all(map(le, row, more)) for row, more in pairwise(((0.0,) * len(self.layers), *self.shares))):
            raise ValueError("shares are between 0 and 1 and do not fall")
        if any(share != 1 for share in self.shares[-1]):
            raise ValueError("all rows are all of the work")
        if any(each and len(each) != len(self.layers) for each in (self.blocks, self.block_s)):
            raise ValueError("blocks are of every layer")

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.shares) - 1
