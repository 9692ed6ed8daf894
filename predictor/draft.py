"""A random network in the making, within a cost limit. Pure: no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation; `sources` are numbers of values, 0 being the network's input."""

    op: str
    sources: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Design:
    """A network to build: value 0 is an input of `input_shape`, value k the output of step k - 1."""

    input_shape: Shape
    steps: tuple[Step, ...]
    macs: int
    """Multiply-adds of one pass."""
    weight_bytes: int


@dataclass(frozen=True)
class Bounds:
    """What one network may cost, and how often each block is drawn."""

    macs: int
    weight_bytes: int
    steps: int = 26
    weights: Mapping[str, float] = field(default_factory=dict)
    has_rare: bool = False
    """Whether it may hold RARE_BLOCKS."""


ACTIVATIONS = ("ReLU", "ReLU", "ReLU", "ReLU6", "SiLU", "Hardswish", "GELU", "Tanh", "Sigmoid", "Hardsigmoid")
MAX_ELEMENTS = 3_500_000
"""Of one tensor."""


class Draft:
    """A network in the making.

    Where nothing else is said, a method appends one operation, which reads the newest value, and returns the number of
    the value that it makes. What does not fit the bounds is appended all the same: ask `fits` before.
    """

    def __init__(self, rng: Random, bounds: Bounds, shape: Shape) -> None:
        self.rng, self.bounds = rng, bounds
        self.shapes: list[Shape] = [shape]
        self.steps: list[Step] = []
        self.macs = self.weight_bytes = 0
        self.is_in_place = rng.random() < 0.75

    @property
    def top(self) -> int:
        """Number of the newest value."""
        return len(self.shapes) - 1

    @property
    def shape(self) -> Shape:
        """Of the newest value, with the batch of one."""
        return self.shapes[-1]

    def add(self, op: str, shape: Shape, *sources: int, **settings: Any) -> int:
        """An operation that makes `shape`; `op` and `settings` are those of torch.nn or of `predictor.synthetic`."""
        self.steps.append(Step(op, sources or (self.top,), tuple(settings.items())))
        self.shapes.append(shape)
        return self.top

    def fits(self, macs: int, weight_bytes: int = 0) -> bool:
        """Whether so many multiply-adds and bytes of weights may be added, in one more operation."""
        return (
            self.macs + macs <= self.bounds.macs
            and self.weight_bytes + weight_bytes <= self.bounds.weight_bytes
            and len(self.steps) < self.bounds.steps
        )

    def conv(
        self, out: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, groups: int = 1, source: int | None = None
    ) -> int:
        """A convolution to `out` channels, padded by half of the kernel (height, width), of another value if given."""
        _, c, h, w = self.shapes[self.top if source is None else source]
        padding = (kernel[0] // 2, kernel[1] // 2)
        height, width = ((side + 2 * p - k) // stride + 1 for side, p, k in zip((h, w), padding, kernel, strict=True))
        weights = out * (c // groups) * math.prod(kernel)
        self.macs += weights * height * width
        self.weight_bytes += 4 * weights
        return self.add(
            "Conv2d",
            (1, out, height, width),
            *(() if source is None else (source,)),
            in_channels=c,
            out_channels=out,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            groups=groups,
            bias=self.rng.random() < 0.4,
        )

    def norm(self) -> int:
        """A batch normalisation."""
        return self.add("BatchNorm2d", self.shape, num_features=self.shape[1])

    def act(self, name: str | None = None) -> int:
        """An activation, any one if no name is given."""
        name = name or self.rng.choice(ACTIVATIONS)
        settings = {"inplace": self.is_in_place} if name in ("ReLU", "ReLU6", "SiLU", "Hardswish") else {}
        return self.add(name, self.shape, **settings)

    def conv_norm_act(self, out: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, groups: int = 1) -> int:
        """Three operations: a convolution, a batch normalisation, a ReLU."""
        self.conv(out, kernel, stride, groups)
        self.norm()
        return self.act("ReLU")

    def linear(self, out: int) -> int:
        """A fully connected layer from the last axis to `out` numbers."""
        last = self.shape[-1]
        self.macs += math.prod(self.shape) * out
        self.weight_bytes += 4 * last * out
        return self.add("Linear", (*self.shape[:-1], out), in_features=last, out_features=out)

    def pool(self, name: str, kernel: int, stride: int, padding: int = 0) -> int:
        """A pool by torch's name for it."""
        _, c, h, w = self.shape
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (h, w))
        return self.add(name, (1, c, height, width), kernel_size=kernel, stride=stride, padding=padding)


def channels(rng: Random, low: int, high: int) -> int:
    """A number of channels from `low` on, log-uniform, mostly a multiple of 16 or 8 as in real networks."""
    value = math.exp(rng.uniform(math.log(low), math.log(max(low + 1, high))))
    step = rng.choices((32, 16, 8, 4, 1), (0.28, 0.38, 0.2, 0.06, 0.08))[0]
    return max(low, round(value / step) * step)
