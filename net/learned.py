"""Learned codecs: an encoder and a decoder that were trained around one tensor of one network. Pure.

The encoder makes a few whole numbers of the tensor, the decoder a tensor again; both are small convolutional networks
(net.convolutions) whose weights come from a file (net.learned_file). They carry tensors of one shape only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecloud.net.ans import Codes
from edgecloud.net.convolutions import Convolution, run
from edgecloud.net.encodings import Array, CodecError, Floats, Shape, as_float32
from edgecloud.utils.errors import ProtocolError


def as_map(shape: Shape, *, is_flat: bool) -> Shape:
    """How the networks see a tensor of shape (1, ...): as one column of features, or as it is, without the first axis.

    Raises ValueError for a shape that they cannot see.
    """
    if len(shape) > 1 and shape[0] == 1:
        if is_flat:
            return (math.prod(shape), 1, 1)
        if len(shape) == 4:
            return shape[1:]
    raise ValueError(f"learned codecs carry (1, channels, height, width), or few numbers, not {shape}")


@dataclass(frozen=True, slots=True)
class Learned:
    """float32 of one shape as codes: whole numbers of at most `limit`, and `limit` more, so that none is below zero."""

    shape: Shape
    latent: Shape
    """Of the whole numbers: (channels, height, width)."""
    limit: int
    is_flat: bool
    """Whether the networks see one column of features."""
    mean: Floats
    """Of every channel of the tensor ..."""
    scale: Floats
    """... and how far it goes from there: the networks see (tensor - mean) / scale."""
    encoder: Sequence[Convolution]
    decoder: Sequence[Convolution]

    def encode(self, array: Array) -> Codes:
        """Of an array, one row for each channel. Raises CodecError for another shape or dtype, NaN and infinity."""
        if array.shape != self.shape:
            raise CodecError(f"this learned codec carries {self.shape}, not {array.shape}")
        x = as_float32(array).reshape(as_map(self.shape, is_flat=self.is_flat))
        with np.errstate(all="ignore"):  # what overflows is looked for
            made = run(self.encoder, (x - self.mean) / self.scale)
        if not np.isfinite(made).all():
            raise CodecError("lossy codecs only encode finite numbers")
        limit = np.float32(self.limit)
        whole = np.clip(np.rint(made), -limit, limit)
        return (whole + limit).astype(np.int32).reshape(self.latent[0], -1)

    def decode(self, codes: Codes) -> Array:
        """A new float32 array. Raises ProtocolError for codes that weights make infinite numbers of."""
        latent = codes.astype(np.float32).reshape(self.latent) - np.float32(self.limit)
        _, height, width = as_map(self.shape, is_flat=self.is_flat)
        with np.errstate(all="ignore"):  # what overflows is looked for
            made = run(self.decoder, latent)[:, :height, :width] * self.scale + self.mean
        if not np.isfinite(made).all():
            raise ProtocolError("a learned codec has made numbers that are not finite")
        return np.ascontiguousarray(made, np.float32).reshape(self.shape)
