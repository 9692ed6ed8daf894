"""Which layers to measure: random small networks whose blocks are those of real families, with shapes of their own.

A layer is measured inside a network, since there it costs what it costs: its input has just been made, its weights
were pushed out of the cache by those of the others, its output lands in memory that was just let go. The blocks are
the field's (plain, residual, inverted residual, fire, dense, shuffle, squeeze-excite, transformer), the sizes random.

Pure: plans are lists of steps, torch builds them in `predictor.synthetic`.
"""

import math
from collections.abc import Callable, Mapping
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
class NetworkPlan:
    """A network to build: value 0 is an input of `input_shape`, value k the output of step k - 1."""

    input_shape: Shape
    steps: tuple[Step, ...]
    macs: int
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
SIDES = 3 * (112, 56, 28, 14, 7) + (224, 192, 160, 96, 80, 64, 48, 40, 32, 24, 20, 16, 8)
"""Sides of feature maps; halves of 224, the usual input, are the most frequent."""
MAX_ELEMENTS = 3_500_000
FEWEST_STEPS = 2


class _Draft:
    """A plan in the making. Methods append one operation and return the number of its value."""

    def __init__(self, rng: Random, bounds: Bounds, shape: Shape) -> None:
        self.rng, self.bounds = rng, bounds
        self.shapes: list[Shape] = [shape]
        self.steps: list[Step] = []
        self.macs = self.weight_bytes = 0
        self.is_in_place = rng.random() < 0.75

    @property
    def top(self) -> int:
        return len(self.shapes) - 1

    @property
    def shape(self) -> Shape:
        return self.shapes[-1]

    def add(self, op: str, shape: Shape, *sources: int, **settings: Any) -> int:
        self.steps.append(Step(op, sources or (self.top,), tuple(settings.items())))
        self.shapes.append(shape)
        return self.top

    def fits(self, macs: int, weight_bytes: int = 0) -> bool:
        return (
            self.macs + macs <= self.bounds.macs
            and self.weight_bytes + weight_bytes <= self.bounds.weight_bytes
            and len(self.steps) < self.bounds.steps
        )

    def conv(
        self, out: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, groups: int = 1, source: int | None = None
    ) -> int:
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
        return self.add("BatchNorm2d", self.shape, num_features=self.shape[1])

    def act(self, name: str | None = None) -> int:
        name = name or self.rng.choice(ACTIVATIONS)
        settings = {"inplace": self.is_in_place} if name in ("ReLU", "ReLU6", "SiLU", "Hardswish") else {}
        return self.add(name, self.shape, **settings)

    def conv_norm_act(self, out: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, groups: int = 1) -> int:
        self.conv(out, kernel, stride, groups)
        self.norm()
        return self.act("ReLU")

    def linear(self, out: int) -> int:
        last = self.shape[-1]
        self.macs += math.prod(self.shape) * out
        self.weight_bytes += 4 * last * out
        return self.add("Linear", (*self.shape[:-1], out), in_features=last, out_features=out)

    def pool(self, name: str, kernel: int, stride: int, padding: int = 0) -> int:
        _, c, h, w = self.shape
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (h, w))
        return self.add(name, (1, c, height, width), kernel_size=kernel, stride=stride, padding=padding)


def draw(rng: Random, bounds: Bounds, start: Shape | None = None) -> NetworkPlan:
    """A random network within the bounds, which its first convolution alone may exceed.

    `start`, if given, is its input shape: (1, C, H, W), (1, L, D) or (1, N).
    """
    while True:
        plan = _draw(rng, bounds, start or _start(rng, bounds))
        if len(plan.steps) >= FEWEST_STEPS:
            return plan
        start = None  # nothing that is worth building fits there


def _draw(rng: Random, bounds: Bounds, shape: Shape) -> NetworkPlan:
    draft = _Draft(rng, bounds, shape)
    if len(shape) == 4:
        _pictures(draft)
    elif len(shape) == 3:
        _tokens(draft)
    else:
        _classifier(draft)
    return NetworkPlan(shape, tuple(draft.steps), draft.macs, draft.weight_bytes)


def _start(rng: Random, bounds: Bounds) -> Shape:
    families = {"stem": 0.12, "pictures": 0.7, "tokens": 0.12, "vector": 0.12}
    weights = [share * bounds.weights.get(family, 1.0) for family, share in families.items()]
    family = rng.choices(list(families), weights)[0]
    if family == "vector":
        return (1, round(math.exp(rng.uniform(math.log(128), math.log(26_000)))))
    if family == "tokens":
        length = rng.choice((16, 49, 64, 100, 144, 197, 256))
        widest = math.isqrt(min(bounds.macs // (12 * length), bounds.weight_bytes // 48))
        return (1, length, 32 * rng.randint(2, max(2, min(26, widest // 32))))
    if family == "stem":
        side = rng.choice((224, 224, 192, 160, 128, 256, 96))
        return (1, rng.choice((3, 3, 3, 1)), side, side)
    side = rng.choice(SIDES) if rng.random() < 0.88 else rng.randint(5, 230)
    return (1, _channels(rng, 8, min(2048, MAX_ELEMENTS // side**2)), side, side)


def _channels(rng: Random, low: int, high: int) -> int:
    """Log-uniform, mostly multiples of 16 or 8 as in real networks."""
    value = math.exp(rng.uniform(math.log(low), math.log(max(low + 1, high))))
    step = rng.choices((32, 16, 8, 4, 1), (0.28, 0.38, 0.2, 0.06, 0.08))[0]
    return max(low, round(value / step) * step)


def _wider(draft: _Draft, low: float = 0.25, high: float = 3.0) -> int:
    """Output channels for a convolution that fit the memory and the work."""
    _, c, h, w = draft.shape
    wanted = c * math.exp(draft.rng.uniform(math.log(low), math.log(high)))
    most = min(2048, MAX_ELEMENTS // (h * w))
    return _channels(draft.rng, max(4, min(most, round(wanted * 0.9))), max(5, min(most, round(wanted * 1.1))))


# --- blocks: each returns False where it does not fit, having done nothing


def _affords_conv(draft: _Draft, out: int, kernel: int, stride: int = 1) -> bool:
    _, c, h, w = draft.shape
    weights = c * out * kernel * kernel
    return draft.fits(weights * h * w // stride**2, 4 * weights)


def _kernel(rng: Random, side: int) -> tuple[int, int]:
    kernels = ((1, 1), (3, 3), (5, 5), (7, 7), (1, 7), (7, 1), (1, 3), (3, 1))
    kernel = rng.choices(kernels, (36, 46, 8, 3, 1, 1, 1, 1))[0]
    return kernel if max(kernel) <= side else (1, 1)


def _plain(draft: _Draft) -> bool:
    _, c, h, _ = draft.shape
    kernel = _kernel(draft.rng, h)
    stride = draft.rng.choices((1, 2), (0.8, 0.2))[0]
    out, groups = _wider(draft), 1
    if draft.rng.random() < 0.08 and c % 32 == 0:  # ResNeXt, RegNet
        kernel, groups = (3, 3), c // draft.rng.choice([width for width in (4, 8, 16, 24, 32, 64) if c % width == 0])
        out = c
    if not _affords_conv(draft, out, max(kernel), stride):
        return False
    draft.conv(out, kernel, stride, groups)
    if draft.rng.random() < 0.55:
        draft.norm()
    if draft.rng.random() < 0.85:
        draft.act()
    return True


def _residual(draft: _Draft) -> bool:
    """ResNet: two 3x3, or 1x1 - 3x3 - 1x1, and the sum."""
    _, c, _, _ = draft.shape
    before = draft.top
    if not _affords_conv(draft, 2 * c, 3):
        return False
    if draft.rng.random() < 0.5:
        draft.conv_norm_act(c, (3, 3))
        draft.conv(c, (3, 3))
    else:
        middle = max(4, c // draft.rng.choice((2, 4)))
        draft.conv_norm_act(middle)
        draft.conv_norm_act(middle, (3, 3))
        draft.conv(c)
    draft.norm()
    draft.add("add", draft.shape, draft.top, before)
    draft.act("ReLU")
    return True


def _inverted(draft: _Draft) -> bool:
    """MobileNet: 1x1 wider, depthwise, 1x1 narrower, perhaps squeeze-excite and the sum."""
    _, c, h, w = draft.shape
    before, ratio = draft.top, draft.rng.choice((1, 2, 3, 4, 6))
    wide = c * ratio
    if wide * h * w > MAX_ELEMENTS or not _affords_conv(draft, 2 * wide, 1):
        return False
    act = draft.rng.choice(("ReLU6", "ReLU", "SiLU", "Hardswish"))
    if ratio > 1:
        draft.conv(wide)
        draft.norm()
        draft.act(act)
    kernel = draft.rng.choice((3, 3, 3, 5, 7)) if h >= 7 else 3
    stride = draft.rng.choice((1, 1, 1, 2))
    draft.conv(wide, (kernel, kernel), stride, wide)
    draft.norm()
    draft.act(act)
    if draft.rng.random() < 0.3:
        _squeeze(draft)
    draft.conv(c if stride == 1 else _wider(draft, 0.1, 0.5))
    draft.norm()
    if draft.shape == draft.shapes[before]:
        draft.add("add", draft.shape, draft.top, before)
    return True


def _squeeze(draft: _Draft) -> bool:
    """Squeeze-and-excitation: every channel is scaled by what a tiny network says of all of them."""
    whole, shape = draft.top, draft.shape
    c = shape[1]
    if not draft.fits(2 * c * c, 2 * c * c):
        return False
    draft.add("AdaptiveAvgPool2d", (1, c, 1, 1), output_size=1)
    draft.conv(max(4, c // draft.rng.choice((4, 8, 16, 24))))
    draft.act(draft.rng.choice(("ReLU", "SiLU")))
    draft.conv(c)
    draft.act(draft.rng.choice(("Sigmoid", "Hardsigmoid")))
    draft.add("mul", shape, draft.top, whole)
    return True


def _branches(draft: _Draft) -> bool:
    """SqueezeNet, GoogLeNet: a narrow 1x1, then branches side by side, joined by channel."""
    c = draft.shape[1]
    if not _affords_conv(draft, c, 5):
        return False
    draft.conv(max(4, c // draft.rng.choice((2, 4, 8))))
    source = draft.act("ReLU")
    ends = []
    for _ in range(draft.rng.randint(2, 4)):
        kernel = draft.rng.choice((1, 3, 3, 5))
        draft.conv(_channels(draft.rng, 8, max(9, c // 2)), (kernel, kernel), source=source)
        if draft.rng.random() < 0.4:
            draft.norm()
        ends.append(draft.act("ReLU"))
    _join(draft, ends)
    return True


def _join(draft: _Draft, values: list[int]) -> None:
    channels = sum(draft.shapes[value][1] for value in values)
    draft.add("cat", (1, channels, *draft.shapes[values[0]][2:]), *values)


def _dense(draft: _Draft) -> bool:
    """DenseNet: norm, relu, 1x1, norm, relu, 3x3, and the result beside all that came before."""
    _, c, h, w = draft.shape
    growth = draft.rng.choice((12, 24, 32, 48))
    if (c + growth) * h * w > MAX_ELEMENTS or not _affords_conv(draft, 4 * growth + 36 * growth**2 // c, 1):
        return False
    before = draft.top
    draft.norm()
    draft.act("ReLU")
    draft.conv_norm_act(4 * growth)
    draft.conv(growth, (3, 3))
    _join(draft, [before, draft.top])
    if draft.rng.random() < 0.5:
        _join(draft, [before, draft.top])
    return True


def _shuffle(draft: _Draft) -> bool:
    """ShuffleNet: half of the channels through a branch, and all of them shuffled."""
    _, c, h, w = draft.shape
    half = (1, c // 2, h, w)
    if c % 4 or not _affords_conv(draft, c, 1):
        return False
    source = draft.top
    left = draft.add("half", half, source, which=0)
    draft.add("half", half, source, which=1)
    draft.conv_norm_act(c // 2)
    draft.conv(c // 2, (3, 3), 1, c // 2)
    draft.norm()
    draft.conv_norm_act(c // 2)
    _join(draft, [left, draft.top])
    draft.add("view", (1, 2, c // 2, h, w), size=(1, 2, c // 2, h, w))
    draft.add("swap_channels", (1, c // 2, 2, h, w))
    draft.add("contiguous", (1, c // 2, 2, h, w))
    draft.add("view", (1, c, h, w), size=(1, c, h, w))
    return True


def _pooled(draft: _Draft) -> bool:
    if draft.shape[2] < 4 or len(draft.steps) >= draft.bounds.steps:
        return False
    if draft.steps and draft.steps[-1].op not in ACTIVATIONS:
        draft.act("ReLU")  # the largest of positive numbers is found sooner, and that is what networks look for
    name = draft.rng.choices(("MaxPool2d", "AvgPool2d"), (0.65, 0.35))[0]
    kernel, stride, padding = draft.rng.choice(((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (3, 2, 1)))
    draft.pool(name, kernel, stride, padding)
    return True


def _unshared(draft: _Draft) -> bool:
    """DeepFace: locally connected, every place of the output with weights of its own."""
    _, c, h, w = draft.shape
    kernel = draft.rng.choice([k for k in (3, 5, 7, 9) if k <= h] or [1])
    stride = draft.rng.choice((1, 1, 2))
    height, width = ((side - kernel) // stride + 1 for side in (h, w))
    places = height * width * c * kernel**2
    room = min(draft.bounds.weight_bytes - draft.weight_bytes, 4 * (draft.bounds.macs - draft.macs)) // (4 * places)
    if room < 1 or len(draft.steps) + 2 > draft.bounds.steps:
        return False
    out = _channels(draft.rng, 1, min(room, 64))
    out = min(out, room)
    draft.macs += places * out
    draft.weight_bytes += 4 * places * out
    settings = {"in_shape": (c, h, w), "out_channels": out, "kernel_size": kernel, "stride": stride}
    draft.add("LocallyConnected2d", (1, out, height, width), **settings)
    draft.act()
    return True


def _lrn(draft: _Draft) -> bool:
    """AlexNet: normalised over neighbouring channels."""
    if not draft.steps or len(draft.steps) + 2 > draft.bounds.steps:
        return False
    if draft.steps[-1].op not in ACTIVATIONS:
        draft.act("ReLU")
    draft.add("LocalResponseNorm", draft.shape, size=draft.rng.choice((2, 5, 5)))
    return True


def _bare(draft: _Draft) -> bool:
    """Norms, activations and sums by themselves, which cost little and are everywhere."""
    before = draft.top
    draft.norm()
    draft.act()
    draft.add(draft.rng.choice(("add", "mul")), draft.shape, before, draft.top)
    return True


BLOCKS: dict[str, tuple[float, Callable[[_Draft], bool]]] = {
    "plain": (4.0, _plain),
    "residual": (1.2, _residual),
    "inverted": (3.0, _inverted),
    "squeeze": (0.5, _squeeze),
    "branches": (1.2, _branches),
    "dense": (0.9, _dense),
    "shuffle": (0.9, _shuffle),
    "pooled": (1.2, _pooled),
    "bare": (0.5, _bare),
}
RARE_BLOCKS: dict[str, tuple[float, Callable[[_Draft], bool]]] = {"unshared": (3.0, _unshared), "lrn": (1.5, _lrn)}
"""What few networks have; drawn beside the others where the bounds say so, and then often."""


def _pictures(draft: _Draft) -> None:
    if draft.shape[1] <= 3:
        kernel = draft.rng.choice((3, 7, 11, 5))
        draft.conv(_channels(draft.rng, 8, 96), (kernel, kernel), draft.rng.choice((1, 2, 2, 4)))
        if draft.rng.random() < 0.6:
            draft.norm()
        draft.act()
    blocks = BLOCKS | RARE_BLOCKS if draft.bounds.has_rare else BLOCKS
    names = list(blocks)
    weights = [blocks[name][0] * draft.bounds.weights.get(name, 1.0) for name in names]
    misses = 0
    while misses < 6 and len(draft.steps) < draft.bounds.steps - 4:
        _, c, h, _ = draft.shape
        if c * h * h < 2000 and draft.rng.random() < 0.3:
            break
        misses += not blocks[draft.rng.choices(names, weights)[0]][1](draft)
    if draft.shape[2] <= 32 and draft.rng.random() < 0.5:
        _head(draft)


def _head(draft: _Draft) -> None:
    c = draft.shape[1]
    side = draft.rng.choice((1, 1, 1, min(6, draft.shape[2])))
    draft.add("AdaptiveAvgPool2d", (1, c, side, side), output_size=side)
    draft.add("flatten", (1, c * side * side))
    _classifier(draft)


def _classifier(draft: _Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        width = draft.shape[-1]
        room = (draft.bounds.weight_bytes - draft.weight_bytes) // (4 * width)
        if room < 10:
            return
        draft.linear(min(room, draft.rng.choice((10, 100, 256, 512, 1000, 1024, 2048, 4096))))
        draft.act(draft.rng.choice(("ReLU", "ReLU", "Tanh", "Hardswish")))
        if draft.rng.random() < 0.5:
            draft.add("Dropout", draft.shape)


def _tokens(draft: _Draft) -> None:
    length, width = draft.shape[1:]
    heads = next(h for h in (12, 8, 6, 4, 3, 2, 1) if width % h == 0)
    for _ in range(draft.rng.randint(1, 4)):
        ratio = draft.rng.choice((2, 3, 4))
        if not draft.fits(length * width**2 * (4 + 2 * ratio), 4 * width**2 * (4 + 2 * ratio)):
            return
        draft.weight_bytes += 16 * width**2
        draft.macs += 4 * length * width**2 + 2 * length**2 * width
        before = draft.top
        draft.add("LayerNorm", draft.shape, normalized_shape=width)
        draft.add("MultiheadAttention", draft.shape, embed_dim=width, num_heads=heads)
        draft.add("Dropout", draft.shape)
        after = draft.add("add", draft.shape, draft.top, before)
        draft.add("LayerNorm", draft.shape, normalized_shape=width)
        draft.linear(ratio * width)
        draft.act("GELU")
        draft.linear(width)
        draft.add("add", draft.shape, draft.top, after)
