"""Affine quantization to 8, 6 or 4 bits: the codecs int8, int6 and int4. Pure.

Each is a whole number of steps from the smallest to the largest, as in Choi and Bajic, "Deep feature compression for
collaborative object detection" (arXiv 1802.03931); but zero stays exactly zero wherever the range holds it, because
zeros are what compresses and what networks care about.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgecloud.net.encodings import PIECE, Array, Bytes, CodecError, Floats, Shape, as_float32, pieces
from edgecloud.utils.errors import AppError, ProtocolError

_PAIR = np.dtype("<f4")
# The scale has 16 significant bits, so that whole numbers of up to 8 bits times it are exact in float32; it is a little
# above the range divided by the levels, so that rounding errors never lead to a code beyond the last.
_SPARE_BITS = 8
_SMALLEST_SCALE = np.float32(2.0**-126)  # a smaller one would have an infinite inverse
_LARGEST = float(np.finfo(np.float32).max)
CHANNEL_NUMBERS = 16  # of smaller channels the parameters would outweigh the codes: one pair serves the whole tensor


@dataclass(frozen=True, slots=True)
class Affine:
    """float32 as whole numbers of a few bits: `lo + scale * code`, with one pair (lo, scale) for the tensor or for
    every channel. The error is at most half a scale; a range that holds zero holds it exactly, and so does a constant.
    """

    bits: int
    """8, 6 or 4."""
    is_per_channel: bool = False
    is_packed: bool = True
    """Whether codes of less than 8 bits share bytes: two of 4 bits in a byte, four of 6 bits in three."""
    is_lossless: bool = False

    def rows(self, shape: Shape) -> int:
        """How many pairs of parameters there are: one for each index of the first two axes where they are wanted and
        what is behind these has at least 16 numbers, else one."""
        return math.prod(shape[:2]) if self.is_per_channel and math.prod(shape[2:]) >= CHANNEL_NUMBERS else 1

    def parameter_bytes(self, shape: Shape) -> int:
        """Two float32 for each row."""
        return 2 * _PAIR.itemsize * self.rows(shape)

    def code_bytes(self, dtype: str, shape: Shape) -> int:
        """One byte for each number, or the packed ones, whose last group is filled up."""
        padded = self._padded(math.prod(shape))
        return padded * self.bits // 8 if self.is_packed else padded

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Where no pair serves several channels that had one each: the range of a slice is no larger."""
        return self.rows(shape) == 1 or math.prod(part[2:]) >= CHANNEL_NUMBERS

    def encode(self, array: Array) -> tuple[Bytes, Bytes]:
        """The pairs (lo, scale), then the codes, of an array of any shape.

        Raises CodecError for all but finite float32, and for ranges whose ends no scale reaches in float32.
        """
        numbers = as_float32(array).reshape(self.rows(array.shape), -1)
        pairs, steps = _choose(numbers, self._levels)
        _check_pairs(pairs, self._levels, CodecError)
        codes = np.empty(self._padded(numbers.size), np.uint8)
        codes[numbers.size :] = 0
        _quantise(numbers, steps, codes[: numbers.size].reshape(numbers.shape))
        if self.is_packed and self.bits < 8:
            codes = _pack4(codes) if self.bits == 4 else _pack6(codes)
        return pairs.reshape(-1).view(np.uint8), codes

    def decode(self, parameters: memoryview, codes: memoryview, dtype: str, shape: Shape) -> Array:
        """A new float32 array of `shape`. Raises ProtocolError for an infinite range, or too large a code."""
        pairs = np.frombuffer(parameters, _PAIR).reshape(-1, 2).astype(np.float32)
        _check_pairs(pairs, self._levels, ProtocolError)
        whole = np.frombuffer(codes, np.uint8)
        if self.is_packed and self.bits < 8:
            whole = _unpack4(whole) if self.bits == 4 else _unpack6(whole)
        elif self.bits < 8 and whole.max() > self._levels:
            raise ProtocolError(f"a code has more than {self.bits} bits")
        numbers = np.empty((len(pairs), math.prod(shape) // len(pairs)), np.float32)
        _expand(whole[: numbers.size].reshape(numbers.shape), pairs[:, :1], pairs[:, 1:], numbers)
        return numbers.reshape(shape)

    @property
    def _levels(self) -> int:
        return (1 << self.bits) - 1

    def _padded(self, count: int) -> int:
        group = {8: 1, 6: 4, 4: 2}[self.bits] if self.is_packed else 1
        return -(-count // group) * group


def _blocks(shape: Shape) -> Iterator[tuple[slice, slice]]:
    """Pieces of rows: whole rows where they are short, else parts of one."""
    rows, columns = shape
    step = max(1, PIECE // columns)
    return ((slice(row, row + step), part) for row in range(0, rows, step) for part in pieces(columns))


@dataclass(frozen=True, slots=True)
class _Steps:
    """How numbers become codes: `(number - base) * inverse + zero`, rounded. Columns, one entry for each row."""

    base: Floats
    inverse: Floats
    zero: Floats
    """The code of 0, where the base is 0."""


def _choose(numbers: Floats, levels: int) -> tuple[Floats, _Steps]:
    """The parameters (lo, scale) of every row, and the steps. Raises CodecError for NaN and infinity."""
    lo, hi = numbers.min(axis=1, keepdims=True), numbers.max(axis=1, keepdims=True)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise CodecError("lossy codecs only encode finite numbers")
    ideal = ((hi.astype(np.float64) - lo) / levels).astype(np.float32)  # in float32 the difference may be infinite
    raised = ((ideal.view(np.uint32) >> _SPARE_BITS) + np.uint32(2)) << _SPARE_BITS
    scale = np.where(hi > lo, np.maximum(raised.view(np.float32), _SMALLEST_SCALE), np.float32(0))
    inverse = np.divide(np.float32(1), scale, where=scale > 0, out=np.zeros_like(scale))
    base = np.where((lo <= 0) & (hi >= 0), np.float32(0), lo)
    # by the same operations as every number, so that the lowest becomes code 0 and not one below
    zero = np.rint(-((lo - base) * inverse))
    with np.errstate(over="ignore"):  # to infinity, which the caller looks for
        return np.concatenate([base - zero * scale, scale], axis=1).astype(_PAIR), _Steps(base, inverse, zero)


def _quantise(numbers: Floats, steps: _Steps, codes: Bytes) -> None:
    has_base = bool(steps.base.any())
    for rows, columns in _blocks(numbers.shape):
        part = numbers[rows, columns]
        scaled = (part - steps.base[rows] if has_base else part) * steps.inverse[rows]
        scaled += steps.zero[rows]
        codes[rows, columns] = np.rint(scaled, out=scaled)


def _expand(codes: Bytes, lo: Floats, scale: Floats, numbers: Floats) -> None:
    is_wide = float(scale.max()) * 255 > _LARGEST / 4  # then code * scale may leave float32 on its way back into it
    for rows, columns in _blocks(numbers.shape):
        part = numbers[rows, columns]
        if is_wide:
            part[...] = codes[rows, columns].astype(np.float64) * scale[rows] + lo[rows]
            continue
        part[...] = codes[rows, columns]
        part *= scale[rows]
        part += lo[rows]


def _check_pairs(pairs: Floats, levels: int, error: type[AppError]) -> None:
    """Both ends must be finite in float32, so that whatever the codes are the numbers are."""
    if np.isfinite(pairs).all():
        lo, scale = pairs.astype(np.float64).T
        if (scale >= 0).all() and (lo + levels * scale <= _LARGEST).all():
            return
    raise error("lo, scale and the range they span must be finite")


def _pack4(codes: Bytes) -> Bytes:
    pairs = codes.view("<u2")
    packed: Bytes = ((pairs | pairs >> 4) & 0xFF).astype(np.uint8)
    return packed


def _unpack4(packed: Bytes) -> Bytes:
    pairs = packed.astype("<u2")
    pairs |= pairs << 4
    pairs &= 0x0F0F
    return pairs.view(np.uint8)


def _pack6(codes: Bytes) -> Bytes:
    fours = codes.view("<u4")
    pairs = fours & 0x003F003F | fours >> 2 & 0x0FC00FC0
    joined = pairs & 0x00000FFF | pairs >> 4 & 0x00FFF000
    packed = np.empty((joined.size, 3), np.uint8)
    for place in range(3):  # three strided copies are four times as fast as one of rows of three
        packed[:, place] = joined.astype("<u4", copy=False).view(np.uint8)[place::4]
    return packed.reshape(-1)


def _unpack6(packed: Bytes) -> Bytes:
    wide = np.zeros((packed.size // 3, 4), np.uint8)
    for place in range(3):
        wide[:, place] = packed[place::3]
    joined = wide.view("<u4").reshape(-1)
    pairs = joined & 0x00000FFF | joined << 4 & 0x0FFF0000
    fours = pairs & 0x003F003F | pairs << 2 & 0x3F003F00
    return fours.astype("<u4", copy=False).view(np.uint8)
