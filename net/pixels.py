"""Normalized images as their 8-bit pixels: a quarter of the size, without loss.

What normalises is `(pixel / 255 - mean) / std` for each channel, in float32. The receiver does it again, so the
preprocessing of a picture ends on the cloud; the picture's file is not sent, since no server should decode untrusted
files.

Under zstandard the pixels become what their neighbours do not foretell: red and blue less green, then every pixel less
left + above - above left, modulo 256 (the colours as in lossless WebP, the plane as predictor 4 of lossless JPEG, ITU-T
T.81). Photographs shrink to 60 % of what zstandard alone makes of them, near lossless WebP; decoding is two running
sums, which numpy does as fast as it copies.

Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from edgecloud.net.encodings import Array, Bytes, CodecError, Floats, Shape
from edgecloud.utils.errors import ProtocolError

NORMALISATIONS = (
    ((0.0,), (1.0,)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's, of ImageNet
    ((0.5,), (0.5,)),
    ((127 / 255,), (128 / 255,)),  # EfficientNet-Lite's
)
"""Mean and standard deviation of the channels, one for all or one for each."""
LEVELS = 256
_BRIGHTEST, _ENDS = np.float32(LEVELS - 1), np.array([0, LEVELS - 1], np.uint8)
MAX_CHANNELS = 4  # each has a table of all levels, which is more than its pixels where these are few


@dataclass(frozen=True, slots=True)
class Pixels:
    """Parameters: mean and std of every channel (axis 1), float32. Codes: a byte for each number."""

    is_foretold: bool = False
    """Whether codes are differences from what the neighbours foretell, which compress better."""
    is_lossless: bool = True

    def parameter_bytes(self, shape: Shape) -> int:
        """Eight for each channel."""
        return 8 * _channels(shape)

    def code_bytes(self, dtype: str, shape: Shape) -> int:
        """One for each number."""
        return math.prod(shape)

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Rows or columns: which channel has which mean is told by all of them."""
        return shape[:2] == part[:2]

    def encode(self, array: Array) -> tuple[Bytes, Bytes]:
        """Raises CodecError for what is not exactly a normalised 8-bit picture of shape (1, C, H, W)."""
        if array.dtype.name != "float32" or not _is_picture(array.shape) or not array.size:
            raise CodecError("pixels only encodes one float32 image")
        numbers = np.ascontiguousarray(array[0]).reshape(array.shape[1], -1)
        for each in _normalisations(len(numbers)):
            codes = _codes(numbers, each) if each.makes(numbers[:, 0].tolist()) else None
            if codes is not None:
                pixels = codes.reshape(array.shape[1:])
                return each.parameters, (_differences(pixels) if self.is_foretold else pixels).reshape(-1)
        raise CodecError("not a normalized 8-bit image")

    def decode(self, parameters: memoryview, codes: memoryview, dtype: str, shape: Shape) -> Array:
        """A new float32 array of shape (1, C, H, W). Raises ProtocolError for another, or infinite parameters."""
        channels = _channels(shape)
        if dtype != "float32" or not _is_picture(shape):
            raise ProtocolError("pixels only encodes one float32 image")
        numbers = np.frombuffer(parameters, "<f4").astype(np.float32)
        if not np.isfinite(numbers).all() or not (numbers[channels:] > 0).all():
            raise ProtocolError("the parameters of pixels must be finite")
        mean, std = numbers[:channels, None, None], numbers[channels:, None, None]
        with np.errstate(over="ignore"):
            ends = _numbers(np.broadcast_to(_ENDS, (channels, 1, 2)), mean, std)
            if not np.isfinite(ends).all():  # what lies between them is, where they are
                raise ProtocolError("decoded pixels must be finite")
        array = np.frombuffer(codes, np.uint8).reshape(shape[1:])
        return _numbers(_sums(array) if self.is_foretold else array, mean, std).reshape(shape)


_GREEN, _OTHERS = 1, slice(None, None, 2)


def _differences(pixels: Bytes) -> Bytes:
    """What neighbours do not foretell, of shape (C, H, W), in place. Modulo 256, so that nothing is lost."""
    if len(pixels) == 3:
        pixels[_OTHERS] -= pixels[_GREEN]
    pixels[:, :, 1:] -= pixels[:, :, :-1].copy()
    pixels[:, 1:] -= pixels[:, :-1].copy()
    return pixels


def _sums(differences: Bytes) -> Bytes:
    """The pixels again."""
    pixels: Bytes = np.cumsum(differences, axis=1, dtype=np.uint8)
    np.cumsum(pixels, axis=2, dtype=np.uint8, out=pixels)
    if len(pixels) == 3:
        pixels[_OTHERS] += pixels[_GREEN]
    return pixels


def _is_picture(shape: Shape) -> bool:
    return len(shape) == 4 and shape[0] == 1 and shape[1] <= MAX_CHANNELS


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else 1


def _numbers(pixels: Bytes, mean: Floats, std: Floats) -> Floats:
    """What pixels of shape (C, ...) become, by the same steps as torchvision: every bit is the same."""
    numbers = np.divide(pixels, _BRIGHTEST, dtype=np.float32)
    numbers -= mean
    numbers /= std
    return numbers


class _Normalisation(NamedTuple):
    """Of so many channels; all of it is made once, since slices of a picture are small."""

    mean: Floats
    """Shape (C, 1), like `std`."""
    std: Floats
    parameters: Bytes
    table: tuple[frozenset[float], ...]
    """Of every channel, what its pixels become."""

    def makes(self, numbers: Sequence[float]) -> bool:
        """Whether pixels become these, one number of each channel: a few of a tensor tell most of those that do not."""
        return all(number in known for number, known in zip(numbers, self.table, strict=True))


@lru_cache
def _normalisations(channels: int) -> tuple[_Normalisation, ...]:
    """Those that there may be."""
    found = []
    for means, stds in NORMALISATIONS:
        if len(means) in (1, channels):
            mean, std = (np.resize(np.array(each, np.float32), (channels, 1)) for each in (means, stds))
            parameters = np.concatenate([mean, std]).astype("<f4").reshape(-1).view(np.uint8)
            parameters.flags.writeable = False
            levels = np.arange(LEVELS, dtype=np.uint8)[None].repeat(channels, axis=0)
            table = tuple(frozenset(row) for row in _numbers(levels, mean, std).tolist())
            found.append(_Normalisation(mean, std, parameters, table))
    return tuple(found)


def _codes(numbers: Floats, of: _Normalisation) -> Bytes | None:
    """The pixels of numbers in shape (C, N); None unless they give exactly these numbers back."""
    with np.errstate(all="ignore"):  # other numbers may give anything here, and are found out below
        near = numbers * of.std
        near += of.mean
        near *= _BRIGHTEST
        np.rint(near, out=near)
        if not (near.min() >= 0 and near.max() < LEVELS):
            return None
    codes: Bytes = near.astype(np.uint8)
    decoded = _numbers(codes, of.mean, of.std)
    return codes if np.array_equal(decoded.view(np.uint32), numbers.view(np.uint32)) else None  # -0.0 is not 0.0
