"""Building blocks of random networks, from real families. Pure: no torch.

A block appends its operations to a draft, behind a picture of shape (1, C, H, W), and returns True; where it does not
fit it returns False, having done nothing. To have another kind of layer measured, add a block to BLOCKS, or, where few
real networks have such a layer, to RARE_BLOCKS.
"""

import math
from collections.abc import Callable
from random import Random

from edgecloud.predictor.draft import ACTIVATIONS, MAX_ELEMENTS, Draft, channels


def _wider(draft: Draft, low: float = 0.25, high: float = 3.0) -> int:
    """Output channels for a convolution that fit the memory and the work."""
    _, c, h, w = draft.shape
    target = c * math.exp(draft.rng.uniform(math.log(low), math.log(high)))
    most = min(2048, MAX_ELEMENTS // (h * w))
    return channels(draft.rng, max(4, min(most, round(target * 0.9))), max(5, min(most, round(target * 1.1))))


def _affords_conv(draft: Draft, out: int, kernel: int, stride: int = 1) -> bool:
    _, c, h, w = draft.shape
    weights = c * out * kernel * kernel
    return draft.fits(weights * h * w // stride**2, 4 * weights)


def _kernel(rng: Random, side: int) -> tuple[int, int]:
    kernels = ((1, 1), (3, 3), (5, 5), (7, 7), (1, 7), (7, 1), (1, 3), (3, 1))
    kernel = rng.choices(kernels, (36, 46, 8, 3, 1, 1, 1, 1))[0]
    return kernel if max(kernel) <= side else (1, 1)


def _plain(draft: Draft) -> bool:
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


def _residual(draft: Draft) -> bool:
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


def _inverted(draft: Draft) -> bool:
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


def _squeeze(draft: Draft) -> bool:
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


def _branches(draft: Draft) -> bool:
    """SqueezeNet, GoogLeNet: a narrow 1x1, then branches side by side, joined by channel."""
    c = draft.shape[1]
    if not _affords_conv(draft, c, 5):
        return False
    draft.conv(max(4, c // draft.rng.choice((2, 4, 8))))
    source = draft.act("ReLU")
    ends = []
    for _ in range(draft.rng.randint(2, 4)):
        kernel = draft.rng.choice((1, 3, 3, 5))
        draft.conv(channels(draft.rng, 8, max(9, c // 2)), (kernel, kernel), source=source)
        if draft.rng.random() < 0.4:
            draft.norm()
        ends.append(draft.act("ReLU"))
    _join(draft, ends)
    return True


def _join(draft: Draft, values: list[int]) -> None:
    channels = sum(draft.shapes[value][1] for value in values)
    draft.add("cat", (1, channels, *draft.shapes[values[0]][2:]), *values)


def _dense(draft: Draft) -> bool:
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


def _shuffle(draft: Draft) -> bool:
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


def _pooled(draft: Draft) -> bool:
    if draft.shape[2] < 4 or len(draft.steps) >= draft.bounds.steps:
        return False
    if draft.steps and draft.steps[-1].op not in ACTIVATIONS:
        draft.act("ReLU")  # the largest of positive numbers is found sooner, and that is what networks look for
    name = draft.rng.choices(("MaxPool2d", "AvgPool2d"), (0.65, 0.35))[0]
    kernel, stride, padding = draft.rng.choice(((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (3, 2, 1)))
    draft.pool(name, kernel, stride, padding)
    return True


def _unshared(draft: Draft) -> bool:
    """DeepFace: locally connected, every place of the output with weights of its own."""
    _, c, h, w = draft.shape
    kernel = draft.rng.choice([k for k in (3, 5, 7, 9) if k <= h] or [1])
    stride = draft.rng.choice((1, 1, 2))
    height, width = ((side - kernel) // stride + 1 for side in (h, w))
    each = height * width * c * kernel**2  # weights of one output channel
    room = min(draft.bounds.weight_bytes - draft.weight_bytes, 4 * (draft.bounds.macs - draft.macs)) // (4 * each)
    if room < 1 or len(draft.steps) + 2 > draft.bounds.steps:
        return False
    most = min(room, 64)
    least = most // 4 if draft.rng.random() < 0.5 else 1  # many small ones, and some as large as there is room for
    out = min(most, channels(draft.rng, max(1, least), most))
    draft.macs += each * out
    draft.weight_bytes += 4 * each * out
    settings = {"in_shape": (c, h, w), "out_channels": out, "kernel_size": kernel, "stride": stride}
    draft.add("LocallyConnected2d", (1, out, height, width), **settings)
    draft.act()
    return True


def _lrn(draft: Draft) -> bool:
    """AlexNet: normalised over neighbouring channels."""
    if not draft.steps or len(draft.steps) + 2 > draft.bounds.steps:
        return False
    if draft.steps[-1].op not in ACTIVATIONS:
        draft.act("ReLU")
    draft.add("LocalResponseNorm", draft.shape, size=draft.rng.choice((2, 5, 5)))
    return True


def _bare(draft: Draft) -> bool:
    """Norms, activations and sums by themselves, which cost little and are everywhere."""
    before = draft.top
    draft.norm()
    draft.act()
    draft.add(draft.rng.choice(("add", "mul")), draft.shape, before, draft.top)
    return True


BLOCKS: dict[str, tuple[float, Callable[[Draft], bool]]] = {
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
RARE_BLOCKS: dict[str, tuple[float, Callable[[Draft], bool]]] = {"unshared": (3.0, _unshared), "lrn": (3.0, _lrn)}
"""What few networks have; drawn beside the others where the bounds say so, and then often."""
BLOCKS_WITH = {
    "conv": ("plain", "residual", "branches", "dense"),
    "dw_conv": ("inverted", "shuffle"),
    "linear": ("vector", "frames"),
    "maxpool": ("pooled",),
    "avgpool": ("pooled", "squeeze"),
    "elementwise": ("residual", "squeeze"),
    "concat": ("branches", "dense"),
    "copy": ("shuffle",),
    "view": ("shuffle",),
    "attention": ("tokens",),
    "layernorm": ("tokens",),
    "local": ("unshared",),
    "lrn": ("lrn",),
}
"""For each kind the blocks and families of random networks that hold it."""
DRAWN = frozenset({*BLOCKS_WITH, "activation", "batchnorm"})
"""Kinds that random networks have: the last two are nearly everywhere."""
