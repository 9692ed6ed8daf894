"""Encodings of a tensor's numbers: unchanged, half precision, or a few bits each. Pure.

A form makes parameters and codes, both bytes, of an array, and an array of them again. numpy only. The few bits are in
net.affine. All work on pieces that stay in the cache, and in place: fresh memory costs more than the arithmetic.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgecloud.utils.dtypes import TRAVELLING, dtype_of, name_of
from edgecloud.utils.errors import AppError, ProtocolError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Shape = tuple[int, ...]

DTYPES: dict[str, np.dtype[Any]] = {name: dtype_of(name).newbyteorder("<") for name in TRAVELLING}
"""The element types of the wire, by name; little-endian."""

PIECE = 1 << 14  # numbers worked on at once: 64 KiB of float32
_NO_BYTES = np.empty(0, np.uint8)


class CodecError(AppError):
    """This codec cannot carry this array; a lossless one can carry every array that travels."""

    code = "CODEC"


class Form(Protocol):
    """How arrays become parameters and codes. Sizes depend on dtype and shape alone."""

    @property
    def is_lossless(self) -> bool:
        """Whether every bit comes back. If not, only finite float32 numbers can be carried."""

    def parameter_bytes(self, shape: Shape) -> int:
        """Size of the parameters, which lie in front of the codes."""

    def code_bytes(self, dtype: str, shape: Shape) -> int:
        """Size of the codes."""

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Whether slices of shape `part` of a tensor of `shape` can be carried each on its own, with no larger loss."""

    def encode(self, array: Array) -> tuple[Bytes, Bytes]:
        """Parameters and codes of an array of any shape. Raises CodecError for one that the form cannot carry."""

    def decode(self, parameters: memoryview, codes: memoryview, dtype: str, shape: Shape) -> Array:
        """The array of `shape` again, of buffers of the right sizes. Raises ProtocolError for what nobody encodes."""


class Compressor(Protocol):
    """What makes the codes smaller, to a size that depends on them."""

    @property
    def is_lossless(self) -> bool:
        """Whether every code comes back."""

    @property
    def is_splitting(self) -> bool:
        """Whether the codes of slices can be compressed each on its own, with no larger loss."""

    def compress(self, codes: Bytes, shape: Shape) -> bytes:
        """The codes of a tensor of this shape, smaller. Raises CodecError for what cannot be carried."""

    def check(self, compressed: memoryview, expected_bytes: int, shape: Shape) -> None:
        """Raises ProtocolError unless this declares just so many bytes, for this shape; decompresses nothing."""

    def decompress(self, compressed: memoryview, expected_bytes: int, shape: Shape) -> memoryview:
        """Just so many codes again, of what was checked. Raises ProtocolError."""


@dataclass(frozen=True, slots=True)
class Raw:
    """The numbers as they are: C order, little-endian. Neither direction copies what lies so already."""

    is_lossless: bool = True

    def parameter_bytes(self, shape: Shape) -> int:
        """None."""
        return 0

    def code_bytes(self, dtype: str, shape: Shape) -> int:
        """Those of the tensor."""
        return math.prod(shape) * DTYPES[dtype].itemsize

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Any way."""
        return True

    def encode(self, array: Array) -> tuple[Bytes, Bytes]:
        """A view of a contiguous array, else of a copy."""
        return _NO_BYTES, np.asarray(array, dtype=DTYPES[name_of(array.dtype)], order="C").reshape(-1).view(np.uint8)

    def decode(self, parameters: memoryview, codes: memoryview, dtype: str, shape: Shape) -> Array:
        """A view of the codes. Raises ProtocolError for a bool that is neither 0 nor 1."""
        if dtype == "bool" and np.frombuffer(codes, np.uint8).max() > 1:
            raise ProtocolError("a bool must be 0 or 1")
        return np.frombuffer(codes, dtype=DTYPES[dtype]).reshape(shape)


def as_float32(array: Array) -> Floats:
    """What a lossy form starts from: the same shape, in C order. Raises CodecError for all but float32."""
    if array.dtype.name != "float32" or not array.size:
        raise CodecError(f"lossy codecs encode float32, not {array.dtype.name} of {array.size} numbers")
    return np.ascontiguousarray(array, dtype=np.float32)


def pieces(count: int) -> Iterator[slice]:
    """So many numbers in turns that stay in the cache."""
    return (slice(start, start + PIECE) for start in range(0, count, PIECE))


# float16 has the exponents of float32 less 112: times 2^-112 the bits of a float32 are those of the float16 with 13
# more behind. This is ten times as fast as numpy's own conversion, and right for subnormal numbers too.
_SHRINK, _GROW = np.float32(2.0**-112), np.float32(2.0**112)
_HALF_END = 65520.0  # what would be rounded to infinity
_HALF_INFINITY = 0x7C00


@dataclass(frozen=True, slots=True)
class Half:
    """float32 as float16, to the nearest, ties to even: 11 significant bits, steps of 6e-8 near zero."""

    is_lossless: bool = False

    def parameter_bytes(self, shape: Shape) -> int:
        """None."""
        return 0

    def code_bytes(self, dtype: str, shape: Shape) -> int:
        """Two for each number."""
        return 2 * math.prod(shape)

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Any way."""
        return True

    def encode(self, array: Array) -> tuple[Bytes, Bytes]:
        """No parameters, and two bytes for each number. Raises CodecError for all but finite float32 below 65520."""
        numbers = as_float32(array).reshape(-1)
        if not (numbers.min() > -_HALF_END and numbers.max() < _HALF_END):  # false for NaN
            raise CodecError("fp16 only encodes finite numbers below 65520")
        halves = np.empty(numbers.size, "<u2")
        for part in pieces(numbers.size):
            bits = (numbers[part] * _SHRINK).view(np.uint32)
            rounded = bits >> 13
            rounded &= 1
            rounded += 0xFFF
            rounded += bits
            sign = rounded >> 16
            sign &= 0x8000
            rounded >>= 13
            rounded |= sign
            halves[part] = rounded  # the low 16 bits
        return _NO_BYTES, halves.view(np.uint8)

    def decode(self, parameters: memoryview, codes: memoryview, dtype: str, shape: Shape) -> Array:
        """A new float32 array of `shape`. Raises ProtocolError for NaN and infinity."""
        halves = np.frombuffer(codes, "<i2")
        if (halves & 0x7FFF).max() >= _HALF_INFINITY:
            raise ProtocolError("fp16 only encodes finite numbers")
        numbers = np.empty(halves.size, np.float32)
        bits = numbers.view(np.int32)
        for part in pieces(halves.size):
            here = bits[part]
            here[...] = halves[part]  # the sign goes on in all the high bits ...
            here <<= 13
            here &= ~0x70000000  # ... of which one stays
            numbers[part] *= _GROW
        return numbers.reshape(shape)
