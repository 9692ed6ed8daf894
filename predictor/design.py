"""Which layers to measure: small random networks with blocks of real families.

A layer is measured inside a network, since there it costs what it costs: its input has just been made, its weights
were pushed out of the cache by those of the others, its output lands in memory that was just let go. The blocks are
the field's (predictor.blocks), the sizes random.

Pure: designs are lists of steps, torch builds them in `predictor.synthetic`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from edgecloud.predictor.blocks import BLOCKS, RARE_BLOCKS
from edgecloud.predictor.draft import MAX_ELEMENTS, Bounds, Design, Draft, Shape, channels

SIDES = 3 * (112, 56, 28, 14, 7) + (224, 192, 160, 96, 80, 64, 48, 40, 32, 24, 20, 16, 8)
"""Sides of feature maps; halves of 224, the usual input, are the most frequent."""
FEWEST_STEPS = 2


def draw(rng: Random, bounds: Bounds, start: Shape | None = None) -> Design:
    """A random network within the bounds, which its first convolution alone may exceed.

    `start`, if given, is its input shape: (1, C, H, W), (1, L, D) or (1, N).
    """
    while True:
        design = _draw(rng, bounds, start)
        if len(design.steps) >= FEWEST_STEPS:
            return design
        start = None  # nothing that is worth building fits there


def _draw(rng: Random, bounds: Bounds, start: Shape | None) -> Design:
    names = [name for name, family in FAMILIES.items() if start is None or family.axes == len(start)]
    weights = [FAMILIES[name].share * bounds.weights.get(name, 1.0) for name in names]
    family = FAMILIES[rng.choices(names, weights)[0]]
    start = start or family.start(rng, bounds)
    draft = Draft(rng, bounds, start)
    family.grow(draft)
    return Design(start, tuple(draft.steps), draft.macs, draft.weight_bytes)


# --- where networks start


def _stem_start(rng: Random, _bounds: Bounds) -> Shape:
    side = rng.choice((224, 224, 192, 160, 128, 256, 96, 64, 32, 28))
    return (1, rng.choice((3, 3, 3, 1)), side, side)


def _pictures_start(rng: Random, _bounds: Bounds) -> Shape:
    side = rng.choice(SIDES) if rng.random() < 0.88 else rng.randint(5, 230)
    return (1, channels(rng, 8, min(2048, MAX_ELEMENTS // side**2)), side, side)


def _tokens_start(rng: Random, bounds: Bounds) -> Shape:
    length = rng.choice((16, 49, 64, 100, 144, 197, 256))
    widest = math.isqrt(min(bounds.macs // (12 * length), bounds.weight_bytes // 48))
    return (1, length, 32 * rng.randint(2, max(2, min(26, widest // 32))))


def _frames_start(rng: Random, _bounds: Bounds) -> Shape:
    return (1, channels(rng, 8, 400), channels(rng, 40, 4096))


def _vector_start(rng: Random, _bounds: Bounds) -> Shape:
    return (1, round(math.exp(rng.uniform(math.log(128), math.log(26_000)))))


# --- what grows from there


def _pictures(draft: Draft) -> None:
    if draft.shape[1] <= 3:
        kernel = draft.rng.choice((3, 7, 11, 5))
        draft.conv(channels(draft.rng, 8, 96), (kernel, kernel), draft.rng.choice((1, 2, 2, 4)))
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


def _head(draft: Draft) -> None:
    c = draft.shape[1]
    side = draft.rng.choice((1, 1, 1, min(6, draft.shape[2])))
    draft.add("AdaptiveAvgPool2d", (1, c, side, side), output_size=side)
    draft.add("flatten", (1, c * side * side))
    _classifier(draft)


def _classifier(draft: Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        width = draft.shape[-1]
        room = (draft.bounds.weight_bytes - draft.weight_bytes) // (4 * width)
        if room < 10:
            return
        draft.linear(min(room, draft.rng.choice((10, 100, 256, 512, 1000, 1024, 2048, 4096))))
        draft.act(draft.rng.choice(("ReLU", "ReLU", "Tanh", "Hardswish")))
        if draft.rng.random() < 0.5:
            draft.add("Dropout", draft.shape)


def _tokens(draft: Draft) -> None:
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


def _frames(draft: Draft) -> None:
    """Kaldi, SENNA: the same fully connected layers for every frame of a sound, or window of a sentence."""
    rng, bounds, length = draft.rng, draft.bounds, draft.shape[1]
    hidden, act = channels(rng, 32, 4096), rng.choice(("Sigmoid", "Tanh", "ReLU", "Hardtanh"))
    for _ in range(rng.randint(1, 7)):
        width = draft.shape[-1]
        left_macs, left_bytes = bounds.macs - draft.macs, bounds.weight_bytes - draft.weight_bytes
        room = min(left_macs // (length * width), left_bytes // (4 * width))
        if room < 10 or len(draft.steps) + 2 > bounds.steps:
            return
        draft.linear(min(room, hidden if rng.random() < 0.8 else channels(rng, 10, 4096)))
        draft.act(act)


@dataclass(frozen=True)
class Family:
    """Networks of one sort: how often they are drawn, the axes of their input, its shape, and what grows from it."""

    share: float
    axes: int
    start: Callable[[Random, Bounds], Shape]
    grow: Callable[[Draft], None]


FAMILIES = {
    "stem": Family(0.12, 4, _stem_start, _pictures),
    "pictures": Family(0.7, 4, _pictures_start, _pictures),
    "tokens": Family(0.12, 3, _tokens_start, _tokens),
    "frames": Family(0.08, 3, _frames_start, _frames),
    "vector": Family(0.12, 2, _vector_start, _classifier),
}
