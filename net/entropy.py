"""Entropy-coded codecs ec2 to ec8: a few bits for each number, then as few as its channel's distribution allows. Pure.

Range and distribution of every channel are found by calibration, once for a cut (engine.tables), and are the side of
the codec (net.sides). A number becomes the nearest of 2^bits steps of its channel, clipped to its range; the steps are
coded with a static model (net.ans). Channels whose steps are distributed alike share a model.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgecloud.net import ans
from edgecloud.net.affine import CHANNEL_NUMBERS
from edgecloud.net.encodings import Array, Bytes, CodecError, Floats, Shape, as_float32
from edgecloud.net.sides import MAX_BYTES as MAX_SIDE_BYTES
from edgecloud.net.sides import Side
from edgecloud.utils.errors import ProtocolError

BITS = tuple(range(2, 9))
BITS_OF = {f"ec{bits}": bits for bits in BITS}
NAMES = tuple(BITS_OF)
CAN_DECODE = ans.IS_NATIVE
"""Elsewhere decoding would take too much of a cloud's time."""
MAX_MODELS = 256
MAX_CHANNELS = 1 << 14
_VERSION = 1
_HEAD = struct.Struct("<BBHI")  # version, bits, models, channels
_LARGEST = float(np.finfo(np.float32).max)
_MOST_BITS = 16  # of a number: what the rarest one takes


def name_of(bits: int) -> str:
    """Of the codec."""
    return f"ec{bits}"


def channels_of(shape: Shape) -> int:
    """How many channels a tensor is taken to have: the sizes of the first two axes, where what is behind these has at
    least 16 numbers; else one, as smaller ones would not be worth their tables."""
    return math.prod(shape[:2]) if math.prod(shape[2:]) >= CHANNEL_NUMBERS else 1


def splits(shape: Shape, part: Shape) -> bool:
    """Whether a slice has all channels of its tensor: then each keeps its range and its model, and no number is coded
    another way than in the whole."""
    return channels_of(shape) in (channels_of(part), math.prod(part[:2]))


@dataclass(frozen=True, eq=False)
class Tables:
    """What a codec knows of the tensors after one layer."""

    bits: int
    lo: Floats
    """What code 0 means, for each channel ..."""
    scale: Floats
    """... and how far the codes are apart: a number is lo + scale * code, product and sum rounded to float32."""
    model_of: Bytes
    """The number of the model of each channel."""
    frequencies: npt.NDArray[np.uint16]
    """A row of 2^bits for each model: at least 1, they sum to 2^16."""

    def to_bytes(self) -> bytes:
        """As they travel: little-endian."""
        head = _HEAD.pack(_VERSION, self.bits, len(self.frequencies), len(self.lo))
        parts = (self.lo.astype("<f4"), self.scale.astype("<f4"), self.model_of, self.frequencies.astype("<u2"))
        return head + b"".join(part.tobytes() for part in parts)

    @property
    def side(self) -> Side:
        """For net.sides."""
        return Side(name_of(self.bits), self.to_bytes())


def parse(side: Side) -> "EntropyCodec":
    """The codec of untrusted tables. Raises ProtocolError unless every count, size, number and sum is right."""
    return EntropyCodec(side, _read(side))


def _read(side: Side) -> Tables:
    data = side.data
    if not _HEAD.size <= len(data) <= MAX_SIDE_BYTES:
        raise ProtocolError("tables of a wrong size")
    version, bits, models, channels = _HEAD.unpack_from(data)
    if version != _VERSION or bits not in BITS or name_of(bits) != side.kind:
        raise ProtocolError("tables of another version or codec")
    if not (1 <= models <= MAX_MODELS and 1 <= channels <= MAX_CHANNELS):
        raise ProtocolError("tables with too many models or channels")
    sizes = (4 * channels, 4 * channels, channels, 2 * models << bits)
    if len(data) != _HEAD.size + sum(sizes):
        raise ProtocolError("tables of a wrong size")
    ends = np.cumsum((_HEAD.size, *sizes)).tolist()
    lo, scale, model_of, frequencies = (
        np.frombuffer(data[start:end], kind)
        for start, end, kind in zip(ends, ends[1:], ("<f4", "<f4", "u1", "<u2"), strict=False)
    )
    rows = frequencies.reshape(models, 1 << bits)
    if model_of.max() >= models or rows.min() < 1 or (rows.sum(axis=1, dtype=np.int64) != ans.TOTAL).any():
        raise ProtocolError("tables whose models do not add up")
    _check_ranges(lo, scale, (1 << bits) - 1)
    return Tables(bits, lo.astype(np.float32), scale.astype(np.float32), model_of, rows)


def _check_ranges(lo: Floats, scale: Floats, levels: int) -> None:
    """Both ends must be finite in float32, so that whatever the codes are the numbers are."""
    if np.isfinite(lo).all() and np.isfinite(scale).all() and (scale >= 0).all():
        ends = lo.astype(np.float64) + levels * scale.astype(np.float64)
        if (np.abs(ends) <= _LARGEST).all() and (levels * scale.astype(np.float64) <= _LARGEST).all():
            return
    raise ProtocolError("tables with a range that is not finite")


@dataclass(frozen=True, eq=False)
class EntropyCodec:
    """Tables, ready to code with."""

    side: Side
    tables: Tables

    @cached_property
    def _order(self) -> npt.NDArray[np.intp]:
        """The channels, those of one model beside each other."""
        return np.argsort(self.tables.model_of, kind="stable")

    @cached_property
    def _runs(self) -> list[tuple[ans.Model, slice]]:
        """The models, and where the channels of each are in that order."""
        tables = self.tables
        ends = np.cumsum(np.bincount(tables.model_of, minlength=len(tables.frequencies))).tolist()
        rows = zip([0, *ends], ends, tables.frequencies, strict=False)
        return [(ans.Model(row.astype(np.int64)), slice(start, end)) for start, end, row in rows if end > start]

    @property
    def channels(self) -> int:
        """How many a tensor must have."""
        return len(self.tables.lo)

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Where a slice has all channels."""
        return self._fits(shape) and splits(shape, part)

    def encode(self, array: Array) -> bytes:
        """The bytes of a float32 array of so many channels, clipped to the range of each.

        Raises CodecError for another one, and for NaN and infinity.
        """
        codes = self.codes(array)
        return ans.encode([(model, codes[part].reshape(-1)) for model, part in self._runs])

    def codes(self, array: Array) -> ans.Codes:
        """The step of every number, a row for each channel, those of one model beside each other."""
        numbers = as_float32(array)
        if not self._fits(numbers.shape):
            raise CodecError(f"{self.side.kind} was calibrated for {self.channels} channels")
        return self._quantised(numbers.reshape(self.channels, -1))

    def check(self, dtype: str, shape: Shape, buffer: memoryview) -> None:
        """Raises ProtocolError for another shape, and for more bytes than its numbers can take."""
        if dtype != "float32" or not self._fits(shape):
            raise ProtocolError(f"{self.side.kind} with tables of {self.channels} channels for another shape")
        if not 0 < buffer.nbytes <= math.prod(shape) * _MOST_BITS // 8 + 8:
            raise ProtocolError("entropy-coded data of a size that these numbers cannot have")

    def decode(self, dtype: str, shape: Shape, buffer: memoryview) -> Array:
        """A new float32 array. Raises ProtocolError where the buffer does not hold just so many numbers."""
        width = math.prod(shape) // self.channels
        wanted = [(model, (part.stop - part.start) * width) for model, part in self._runs]
        codes = np.concatenate(ans.decode(buffer, wanted)).reshape(self.channels, width)
        numbers = np.empty(codes.shape, np.float32)
        lo, scale = self._ranges
        sorted_numbers = codes.astype(np.float32)
        sorted_numbers *= scale
        sorted_numbers += lo
        numbers[self._order] = sorted_numbers
        return numbers.reshape(shape)

    def _fits(self, shape: Shape) -> bool:
        """Of a slice there may be fewer numbers than what would be a channel of a whole tensor."""
        return self.channels in (channels_of(shape), math.prod(shape[:2]))

    @cached_property
    def _ranges(self) -> tuple[Floats, Floats]:
        """lo and scale as columns, in the order of the runs."""
        return self.tables.lo[self._order][:, None], self.tables.scale[self._order][:, None]

    def _quantised(self, numbers: Floats) -> ans.Codes:
        lo, scale = self._ranges
        inverse = np.divide(np.float32(1), scale, where=scale > 0, out=np.zeros_like(scale))
        if not np.isfinite(numbers).all():
            raise CodecError("lossy codecs only encode finite numbers")
        scaled = numbers[self._order]
        with np.errstate(over="ignore", invalid="ignore"):  # far outside of the range
            scaled -= lo
            scaled *= inverse
        np.rint(scaled, out=scaled)
        np.fmax(scaled, 0, out=scaled)  # not a number: infinitely far in a channel without a range
        np.fmin(scaled, (1 << self.tables.bits) - 1, out=scaled)
        return scaled.astype(np.int32)


def order_0_bytes(codec: EntropyCodec, arrays: Sequence[Array]) -> float:
    """What the codes of all these take together at the entropy of each channel: the least without a context."""
    codes = np.concatenate([codec.codes(each) for each in arrays], axis=1)
    counts = np.stack([np.bincount(row, minlength=1 << codec.tables.bits) for row in codes])
    shares = counts / codes.shape[1]
    return float(-(counts * np.log2(shares, where=counts > 0, out=np.zeros_like(shares))).sum() / 8)
