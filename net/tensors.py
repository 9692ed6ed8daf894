"""Tensors on the wire: descriptions in the header, bytes in the payload. Uses numpy, not torch. Pure.

A tensor travels as `(dtype, shape, codec, buffer index)`, dtype and shape those of the original; the header's list of
buffer sizes says where in the payload each buffer lies. Everything is checked against the limits, and the sizes against
each other, before a view is made or a decoder runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from edgecloud.net.codec import CODECS, DECODED, DTYPES, RAW, STANDARD, Array, Codec, Encoded, encode
from edgecloud.net.frames import Limits, TooLargeError
from edgecloud.net.sides import Held, Pending, SidedCodec, pending
from edgecloud.utils.errors import ProtocolError

__all__ = ["RAW", "Array", "Described", "Encoded", "Passing", "describe", "read", "view"]


@dataclass(frozen=True, slots=True)
class Passing:
    """Tensors that travel on as they came, described by the same words: nothing of them is decoded or copied."""

    rows: Sequence[Any]
    sizes: Sequence[int]
    parts: tuple[memoryview, ...]

    @classmethod
    def of(cls, header: dict[str, Any], payload: memoryview) -> "Passing":
        """All of a frame."""
        return cls(header.get("tensors", []), header.get("buffers", []), (payload,))

    @property
    def nbytes(self) -> int:
        """What travels."""
        return sum(part.nbytes for part in self.parts)

    def first(self, count: int) -> "Passing":
        """Without those behind the first ones, of a frame that was read."""
        sizes = self.sizes[:count]
        return Passing(self.rows[:count], sizes, (self.parts[0][: sum(sizes)],))

    def followed_by(self, data: Sequence[bytes]) -> "Passing":
        """With bytes behind them."""
        more = [("uint8", (len(each),), RAW, number) for number, each in enumerate(data, len(self.rows))]
        sizes = [*self.sizes, *(len(each) for each in data)]
        return Passing([*self.rows, *more], sizes, (*self.parts, *(memoryview(each) for each in data)))


def describe(arrays: Sequence[Array | Encoded] | Passing) -> tuple[dict[str, Any], list[memoryview]]:
    """The header's fields for these tensors, and their bytes: of arrays views of the memory of contiguous ones, else
    copies; of encoded ones their parts. Raises CodecError for an array whose dtype does not travel."""
    if isinstance(arrays, Passing):
        return {"tensors": arrays.rows, "buffers": arrays.sizes}, list(arrays.parts)
    encoded = [one if isinstance(one, Encoded) else encode(one, RAW) for one in arrays]
    tensors = [(one.dtype, one.shape, _wire_name(one), index) for index, one in enumerate(encoded)]
    return {"tensors": tensors, "buffers": [one.nbytes for one in encoded]}, [p for one in encoded for p in one.parts]


def _wire_name(one: Encoded) -> str:
    return one.codec if one.sided is None else one.sided.side.wire_name


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor as it was described and checked; nothing of it is decoded."""

    dtype: str
    shape: tuple[int, ...]
    codec: Codec | SidedCodec | Pending
    buffer: memoryview

    @property
    def nbytes(self) -> int:
        """What it has when it is decoded."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def bound(self, held: Held) -> "Described":
        """The same with the codec of the side that it names, its size checked. Raises UnknownSideError where that is
        not held, and ProtocolError."""
        if not isinstance(self.codec, Pending):
            return self
        codec = held.find(self.codec)
        codec.check(self.dtype, self.shape, self.buffer)
        return replace(self, codec=codec)

    def decode(self) -> Array:
        """The array: raw as a view of the payload, else new memory of `nbytes`. Raises ProtocolError."""
        if isinstance(self.codec, Pending):
            raise ProtocolError(f"no data for codec {self.codec.name}")
        return self.codec.decode(self.dtype, self.shape, self.buffer)


def view(header: dict[str, Any], payload: memoryview, limits: Limits) -> list[Array]:
    """The arrays that a header describes, as `read` checks them: raw ones as views of the payload, others decoded."""
    return [one.decode() for one in read(header, payload, limits)]


def read(header: dict[str, Any], payload: memoryview, limits: Limits) -> list[Described]:
    """What a header describes, so that a reader can refuse it before memory is taken. Raises ProtocolError if it does
    not fit exactly, or if it were decoded more than `limits.payload_bytes` in all."""
    tensors, sizes = header.get("tensors", []), header.get("buffers", [])
    if not isinstance(tensors, list) or not isinstance(sizes, list) or len(tensors) != len(sizes):
        raise ProtocolError("the header must list tensors and the same number of buffers")
    if len(tensors) > limits.tensors:
        raise TooLargeError(f"{len(tensors)} tensors, the limit is {limits.tensors}")
    if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) != payload.nbytes:
        raise ProtocolError("the buffer sizes do not add up to the payload")
    ends = list(accumulate(sizes))
    buffers = [payload[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    rows = [_read_row(row, *place, limits) for row, place in zip(tensors, enumerate(buffers), strict=True)]
    decoded = sum(row.nbytes for row in rows)
    if decoded > limits.payload_bytes:
        raise TooLargeError(f"tensors of {decoded} bytes, the limit is {limits.payload_bytes} (--max-payload)")
    for row in rows:
        if not isinstance(row.codec, Pending):
            row.codec.check(row.dtype, row.shape, row.buffer)
    return rows


def _read_row(row: Any, index: int, bytes_: memoryview, limits: Limits) -> Described:
    if type(row) is not tuple or len(row) != 4:
        raise ProtocolError("a tensor must have dtype, shape, codec and buffer index")
    name, shape, codec, buffer = row
    if type(name) is not str or name not in DTYPES:
        raise ProtocolError(f"unknown dtype {_short(name)}")
    found = _codec(codec, limits) if type(codec) is str else None
    if found is None:
        raise ProtocolError(f"unknown codec {_short(codec)}")
    if type(buffer) is not int or buffer != index:
        raise ProtocolError("tensor and buffer indices must match")
    if type(shape) is not tuple or any(type(size) is not int or size < 1 for size in shape):
        raise ProtocolError("a shape must be a tuple of sizes of at least 1")
    if len(shape) > limits.dimensions:
        raise TooLargeError(f"{len(shape)} dimensions, the limit is {limits.dimensions}")
    return Described(name, shape, found, bytes_)


def _codec(name: str, limits: Limits) -> Codec | SidedCodec | Pending | None:
    if name in limits.learned:
        return limits.learned[name]
    if name in STANDARD or name in limits.more_codecs:
        return CODECS[name]
    return pending(name, DECODED)


def _short(value: Any) -> str:
    """An untrusted value for a message: nothing but text is written out, and never more than a little."""
    return ascii(value[:40]) if type(value) is str else type(value).__name__
