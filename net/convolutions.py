"""Small convolutional networks on numpy: what encodes and decodes a learned boundary. Pure.

One input at a time, float32, shape (channels, height, width). Products are made in pieces so small that numpy's library
uses no threads of its own: the caller's thread does all the work, as an emulated share of a core needs, and beside a
busy torch that is faster too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgecloud.net.encodings import Floats, Shape

_PIECE = 1 << 18  # multiplications of one product; OpenBLAS takes threads from more on


@dataclass(frozen=True, slots=True)
class Geometry:
    """What one convolution does to a shape, beside its weights."""

    kernel: int
    stride: int = 1
    grows: int = 1
    """Every pixel becomes so many times so many, made of that square of its channels."""
    is_relu: bool = False
    """Whether what is below zero becomes zero, at the end."""

    def padding(self, size: int) -> tuple[int, int]:
        """Zeros before and behind one axis, so that it gets ceil(size / stride) outputs."""
        total = max((self._outputs(size) - 1) * self.stride + self.kernel - size, 0)
        before = min(total, max(self.kernel - self.stride, 0) // 2)
        return before, total - before

    def _outputs(self, size: int) -> int:
        return -(-size // self.stride)

    def shape_after(self, shape: Shape, filters: int) -> Shape:
        """Of `filters` filters over an input of `shape` (channels, height, width)."""
        _, height, width = shape
        square = self.grows**2
        return (filters // square, self._outputs(height) * self.grows, self._outputs(width) * self.grows)

    def work(self, shape: Shape, filters: int) -> int:
        """Multiplications."""
        channels, height, width = shape
        return self._outputs(height) * self._outputs(width) * filters * channels * self.kernel**2

    def columns(self, shape: Shape) -> int:
        """Numbers that are laid out in memory for the product."""
        return self.work(shape, 1)


@dataclass(frozen=True, slots=True)
class Convolution:
    """A geometry with its weights (filters, channels, kernel, kernel) and one bias for each filter."""

    geometry: Geometry
    weight: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        """Of an input of shape (channels, height, width)."""
        geometry, filters = self.geometry, len(self.weight)
        kernel, stride = geometry.kernel, geometry.stride
        pads = [geometry.padding(size) for size in x.shape[1:]]
        if any(map(any, pads)):
            x = np.pad(x, [(0, 0), *pads])
        windows = sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
        _, height, width = windows.shape[:3]
        columns = windows.transpose(1, 2, 0, 3, 4).reshape(height * width, -1)
        made = _product(columns, self.weight.reshape(filters, -1).T)
        made += self.bias
        if geometry.is_relu:
            np.maximum(made, np.float32(0), out=made)
        return _grown(made.T.reshape(filters, height, width), geometry.grows)


def _product(columns: Floats, weights: Floats) -> Floats:
    rows = max(1, _PIECE // weights.size)
    made = np.empty((len(columns), weights.shape[1]), np.float32)
    for start in range(0, len(columns), rows):
        np.matmul(columns[start : start + rows], weights, out=made[start : start + rows])
    return made


def _grown(x: Floats, times: int) -> Floats:
    if times == 1:
        return x
    filters, height, width = x.shape
    parts = x.reshape(filters // times**2, times, times, height, width).transpose(0, 3, 1, 4, 2)
    return parts.reshape(filters // times**2, height * times, width * times)


def run(steps: Sequence[Convolution], x: Floats) -> Floats:
    """One after the other."""
    for step in steps:
        x = step(x)
    return x
