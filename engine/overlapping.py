"""What chunks of a boundary cost, for plans: on both sides, and on the link.

Measured between two processes of one machine (python -m benchmarks.overlap --costs; docs/overlap.md).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgecloud.models.graph import LayerGraph
from edgecloud.models.rows import Ops, Piece, RowOps, RowSchedule, head_schedule, tail_schedule
from edgecloud.partition.chunking import axis_of
from edgecloud.partition.cost import Chunking, Crossing, Packed
from edgecloud.partition.overlap import RowShares

if TYPE_CHECKING:
    from edgecloud.engine.executor import Executor
    from edgecloud.models.network import Network

SEND_S, TAKE_S = 0.2e-3, 0.25e-3
"""Of the frame of every further chunk: on the edge, and on the cloud with putting its slice in its place."""
HEADER_BYTES = 160
"""Of a frame with one slice, above its first bytes."""
FORMS = {"raw": (0.1e-3, 0.09e-3, 0), "zstd": (0.1e-3, 0.09e-3, 0), "fp16": (0.12e-3, 0.15e-3, 0)}
FORMS["pixels"] = (0.15e-3, 0.35e-3, 24)
FORMS |= {f"ec{bits}": (0.15e-3, 0.3e-3, 2) for bits in range(2, 9)}
INTEGERS = (0.22e-3, 0.3e-3, 8)
ZSTD = (0.08e-3, 0.18e-3, 150)
"""Seconds of cutting out and packing a slice and of unpacking it, and bytes, however little is in it: of forms, of all
forms of small integers, and of the compressor in addition. Packed one after the other; unpacked after a pause of 20 ms,
as there is until the next chunk has come, which takes three times as long."""
BLOCKS = {"torch": (0.07e-3, 1e9), "onnxruntime": (0.02e-3, 6e9)}
"""Seconds of each further block of rows, and bytes of weights in a second that it reads again and lays out for the
processor, by back-end (python -m benchmarks.rows)."""
REST_S = 1.2e-3
"""Of computing by rows on the cloud, for every further chunk: it waited for that, and its caches have gone cold. Of
alex_net, mobile_net and efficientnet_lite0 1.3 to 2 ms after 20 ms of rest, 1 to 1.4 ms after 20 ms of other work."""
PIECES = tuple(n / 32 for n in (1, 2, 4, 8, 12, 16, 20, 24, 28, 30, 31, 32))
"""Where the chunks end in which a boundary is thought to come, to learn what can be computed after which rows; in
between it grows evenly. What first rows need and last rows leave to do is what cannot be hidden, so these are short."""
MOST = 16
"""Chunks of one request: more of them gain nothing that can be measured."""
CROSSINGS_KEPT = 32
"""Of several tensors, beside those of the points: each may be a megabyte."""
NO_ROWS: Mapping[Crossing, RowShares] = {}


def chunking_of(
    most: int,
    share: float = 1.0,
    cloud_share: float = 1.0,
    head_rows: Mapping[Crossing, RowShares] = NO_ROWS,
    tail_rows: Mapping[Crossing, RowShares] = NO_ROWS,
) -> Chunking | None:
    """What chunks cost an edge and a cloud that have a share of a core, where the cloud takes `most` of a request; None
    where that is none."""
    if most < 2:
        return None
    return Chunking(
        edge_s=SEND_S,
        cloud_s=TAKE_S,
        edge_blocks=1 / share,
        cloud_blocks=1 / cloud_share,
        rest_s=REST_S / cloud_share,
        most=min(MOST, most),
        more=lambda codec, shape: further_chunk(codec, shape, share),
        head_rows=head_rows,
        tail_rows=tail_rows,
    )


@dataclass(frozen=True)
class Schedule:
    """How far the layers of a head or of a tail are after each chunk, and what computes them."""

    by_rows: RowSchedule
    known: RowOps


ScheduleOf: TypeAlias = Callable[[Crossing, Sequence[Piece]], Schedule | None]


class RowsOf(Mapping[Crossing, RowShares]):
    """By the tensors that cross, what of the head or of the tail runs by rows; found out when it is asked for.

    Iterating goes over points with one tensor alone: of others there are too many.
    """

    def __init__(self, network: "Network", schedule_of: ScheduleOf, most: int) -> None:
        """`most` is of tensors that may cross."""
        graph = network.graph
        self._network, self._graph, self._schedule_of, self._most = network, graph, schedule_of, most
        self._points = {point.layer for point in graph.points[:-1] if len(graph.crossing_at(point.number)) == 1}
        self._known: dict[Crossing, RowShares | None] = {}

    @classmethod
    def of_heads(cls, executor: "Executor") -> "RowsOf":
        """What an executor can run by rows at the end of heads that one tensor leaves; of several each leaves when it
        is made."""
        graph = executor.network.graph
        inputs = graph.only_inputs

        def schedule_of(made: Crossing, pieces: Sequence[Piece]) -> Schedule | None:
            return _schedule(head_schedule, executor, inputs | graph.needed_by(*made), pieces)

        return cls(executor.network, schedule_of, 1)

    @classmethod
    def of_tails(cls, executor: "Executor") -> "RowsOf":
        """What an executor like that of the cloud can run by rows at the beginning of tails, and of branches whose
        tensors are there."""
        graph = executor.network.graph

        def schedule_of(crossing: Crossing, pieces: Sequence[Piece]) -> Schedule | None:
            tail = graph.everything - graph.only_inputs - graph.needed_by(*crossing)
            is_cut = set(graph.inputs_of(tail)) == set(crossing)
            return _schedule(tail_schedule, executor, tail, pieces) if is_cut else None

        return cls(executor.network, schedule_of, MOST)

    def __getitem__(self, crossing: Crossing) -> RowShares:
        if crossing not in self._known:
            if len(self._known) > len(self._points) + CROSSINGS_KEPT:
                self._known.clear()
            is_one = len(crossing) == 1 and crossing[0] in self._points
            is_asked = is_one or 1 < len(crossing) <= self._most
            self._known[crossing] = self._found(crossing) if is_asked else None
        known = self._known[crossing]
        if known is None:
            raise KeyError(crossing)
        return known

    def __iter__(self) -> Iterator[Crossing]:
        return ((layer,) for layer in sorted(self._points) if (layer,) in self)

    def __contains__(self, crossing: object) -> bool:
        return isinstance(crossing, tuple) and self.get(crossing) is not None

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _found(self, crossing: Crossing) -> RowShares | None:
        pieces: list[Piece] = []
        places, passed = [], 0
        for layer in crossing:
            shape = self._graph.layers[layer].out_shape
            axis = axis_of(shape)
            if axis is None:
                return None
            ends = sorted({round(shape[axis] * part) for part in PIECES} - {0})
            pieces += [Piece(layer, start, stop, axis) for start, stop in pairwise((0, *ends))]
            places += [passed + end for end in ends]
            passed += shape[axis]
        schedule = self._schedule_of(crossing, pieces)
        return None if schedule is None else shares_of(schedule, places, self._weight_bytes)

    @cached_property
    def _weight_bytes(self) -> tuple[int, ...]:
        return self._network.weight_bytes()


Scheduler: TypeAlias = Callable[[LayerGraph, Ops, frozenset[int], Sequence[Piece]], RowSchedule | None]


def _schedule(
    scheduler: Scheduler, executor: "Executor", layers: frozenset[int], pieces: Sequence[Piece]
) -> Schedule | None:
    known = executor.row_ops(layers)
    schedule = None if known is None else scheduler(executor.network.graph, known.ops, layers, pieces)
    return None if known is None or schedule is None else Schedule(schedule, known)


def shares_of(schedule: Schedule, ends: Sequence[int], weight_bytes: Sequence[int]) -> RowShares:
    """What of each layer that runs in time belongs to the first rows: of layers by rows in proportion between the ends
    of its chunks, of layers that run in one piece nothing or all. `weight_bytes` are those of every layer."""
    counts, ops = schedule.by_rows.rows, schedule.known.ops
    early = [(step, layer) for step, layers in schedule.by_rows.whole.items() for layer in sorted(layers)]
    rows, places = np.arange(ends[-1] + 1), np.array([0, *ends])
    begun = np.searchsorted(places, rows, side="right") - 1
    next_ = np.minimum(begun + 1, len(ends))
    along = (rows - places[begun]) / np.maximum(1, places[next_] - places[begun])

    made = np.array([(0, *counts[layer]) for layer in counts], dtype=np.int64).reshape(len(counts), len(places))
    parts = np.minimum(1.0, made / np.array([[ops[layer].rows] for layer in counts]).reshape(-1, 1))
    parts[:, -1:] = 1.0
    between = parts[:, begun] + (parts[:, next_] - parts[:, begun]) * along
    whole = np.array([begun > step for step, _ in early], dtype=np.float64).reshape(len(early), len(rows))
    shares = np.concatenate((np.minimum(between, parts[:, next_]), whole)).T

    call_s, bytes_per_s = BLOCKS.get(schedule.known.backend, BLOCKS["torch"])
    layers = (*counts, *(layer for _, layer in early))
    return RowShares(
        layers,
        tuple(map(tuple, shares.tolist())),
        (*np.maximum(1, np.count_nonzero(np.diff(made), axis=1)).tolist(), *(1 for _ in early)),
        tuple(call_s + weight_bytes[layer] / bytes_per_s for layer in layers),
    )


@lru_cache(maxsize=4096)
def further_chunk(codec: str, shape: tuple[int, ...], share: float = 1.0) -> Packed | None:
    """What every further chunk of a tensor takes in addition, from an edge that has a share of a core; None where this
    codec takes it in one piece only."""
    from edgecloud.net.codec import splits  # plans are made without the network, but for this
    from edgecloud.net.frames import PREFIX_BYTES

    axis = axis_of(shape)
    if axis is None:
        return None
    size = shape[axis]
    parts = [(*shape[:axis], rows, *shape[axis + 1 :]) for rows in {1, size // 2, size - size // 2} if rows]
    if not splits(codec, shape, parts):
        return None
    form = FORMS.get(codec.partition("+")[0], INTEGERS)
    compressor = ZSTD if codec.endswith("zstd") else (0.0, 0.0, 0)
    encode_s, decode_s, more_bytes = (a + b for a, b in zip(form, compressor, strict=True))
    return Packed(codec, int(PREFIX_BYTES + HEADER_BYTES + more_bytes), encode_s / share, decode_s)
