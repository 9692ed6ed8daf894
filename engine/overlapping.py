"""What chunks of a boundary cost, for plans: on both sides, and on the link.

Measured between two processes of one machine (python -m benchmarks.overlap --costs; docs/overlap.md).
"""

from collections.abc import Mapping
from functools import lru_cache

from edgecloud.net.codec import splits
from edgecloud.net.frames import PREFIX_BYTES
from edgecloud.net.sides import SidedCodec
from edgecloud.partition.chunking import axis_of
from edgecloud.partition.cost import Chunking
from edgecloud.partition.overlap import RowShares

EDGE_S = 0.25e-3
"""Of every further chunk: it is cut out, packed, and handed to the thread that sends ..."""
CLOUD_S = 0.25e-3
"""... and it is checked, unpacked and put where it belongs."""
HEADER_BYTES = 160
"""Of a frame with one slice, above its first bytes."""
MOST = 16
"""Chunks of one request: more of them gain nothing that can be measured."""
NO_ROWS: Mapping[int, RowShares] = {}


def chunking_of(
    most: int,
    share: float = 1.0,
    head_rows: Mapping[int, RowShares] = NO_ROWS,
    tail_rows: Mapping[int, RowShares] = NO_ROWS,
) -> Chunking | None:
    """What chunks cost an edge that has a share of a core, with a cloud that takes `most` of a request; None where that
    is none."""
    if most < 2:
        return None
    return Chunking(
        edge_s=EDGE_S / share,
        cloud_s=CLOUD_S,
        most=min(MOST, most),
        chunk_bytes=chunk_bytes,
        head_rows=head_rows,
        tail_rows=tail_rows,
    )


@lru_cache(maxsize=4096)
def chunk_bytes(codec: str, shape: tuple[int, ...], sided: SidedCodec | None = None) -> int | None:
    """What every further chunk of a tensor adds on the link; None where this codec takes it in one piece only."""
    axis = axis_of(shape)
    if axis is None:
        return None
    size = shape[axis]
    parts = [(*shape[:axis], rows, *shape[axis + 1 :]) for rows in {1, size // 2, size - size // 2} if rows]
    if not splits(codec, shape, parts, sided):
        return None
    return PREFIX_BYTES + HEADER_BYTES
