"""Learned codecs: an encoder and a decoder that were trained around one tensor of one network. Pure.

The encoder makes a few whole numbers of the tensor, the decoder a tensor again; both are small convolutional networks
(net.convolutions) whose weights come from a file (net.learned_file). They carry tensors of one shape only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecloud.net.convolutions import Convolution, run
from edgecloud.net.encodings import Array, Bytes, CodecError, Floats, Shape, as_float32
from edgecloud.utils.errors import ProtocolError

KIND = "learned"
"""Such codecs are called `learned:NAME`, and on the wire `learned@DIGEST`."""
_NO_BYTES = np.empty(0, np.uint8)


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
    """One `net.encodings.Form`: float32 of one shape as whole numbers of at most `limit`, each a byte: the number and
    `limit` more."""

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
    is_lossless: bool = False

    def parameter_bytes(self, shape: Shape) -> int:
        """None."""
        return 0

    def code_bytes(self, dtype: str, shape: Shape) -> int:
        """One for each whole number. Raises ProtocolError for another shape."""
        if shape != self.shape:
            raise ProtocolError(f"this learned codec carries {self.shape}, not {shape}"[:200])
        return math.prod(self.latent)

    def encode(self, array: Array) -> tuple[Bytes, Bytes]:
        """The whole numbers, channel after channel. Raises CodecError for another shape or dtype, NaN and infinity."""
        if array.shape != self.shape:
            raise CodecError(f"this learned codec carries {self.shape}, not {array.shape}")
        x = as_float32(array).reshape(as_map(self.shape, is_flat=self.is_flat))
        with np.errstate(all="ignore"):  # what overflows is looked for
            made = run(self.encoder, (x - self.mean) / self.scale)
        if not np.isfinite(made).all():
            raise CodecError("lossy codecs only encode finite numbers")
        limit = np.float32(self.limit)
        whole = np.clip(np.rint(made), -limit, limit)
        return _NO_BYTES, (whole + limit).astype(np.uint8).reshape(-1)

    def decode(self, parameters: memoryview, codes: memoryview, dtype: str, shape: Shape) -> Array:
        """A new float32 array of `shape`. Raises ProtocolError for a code that no encoder makes."""
        whole = np.frombuffer(codes, np.uint8)
        if whole.max() > 2 * self.limit:
            raise ProtocolError("a code of a learned codec is too large")
        latent = whole.astype(np.float32).reshape(self.latent) - np.float32(self.limit)
        _, height, width = as_map(self.shape, is_flat=self.is_flat)
        with np.errstate(all="ignore"):  # what overflows is looked for
            made = run(self.decoder, latent)[:, :height, :width] * self.scale + self.mean
        if not np.isfinite(made).all():
            raise ProtocolError("a learned codec has made numbers that are not finite")
        return np.ascontiguousarray(made, np.float32).reshape(shape)
