"""Tables of the entropy-coded codecs (net.entropy), from the tensors that a layer made of many pictures.

Every channel has its own range. It is clipped where that lets all of its numbers be nearer to their steps: a few far
ones cost steps that the many others need. Channels whose steps are distributed alike share a model, because a table for
each would be more than what it saves, and small tensors give too few numbers for one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecloud.net import ans
from edgecloud.net.encodings import Array, Floats
from edgecloud.net.entropy import Tables, channels_of

Counts = npt.NDArray[np.float64]

CLIPPED = (0.0, 1e-4, 5e-4, 2e-3)
"""Shares of a channel's numbers that may lie outside of its range, half of them on each side."""
MAX_NUMBERS = 4096
"""Of a channel, for choosing its range."""
MODELS = 16
EVENED = 0.95  # share of the channels whose steps grow until they are, beside the root of their deviation, as wide as
# those of all others; the few that vary most keep their own
ROUNDS = 6  # of joining channels to models
_SPARE_BITS = 8  # the scale has 16 significant bits, so that codes of 8 bits times it are exact
_PRIOR = 4.0  # numbers that a model is taken to have seen, distributed smoothly


def find(tensors: Sequence[Array], bits: int, models: int = MODELS) -> Tables:
    """Tables for tensors like these, all of one shape, of finite float32."""
    numbers = np.concatenate([each.reshape(channels_of(each.shape), -1) for each in tensors], axis=1)
    levels = (1 << bits) - 1
    lo, scale = _evened(numbers, *_ranges(numbers, levels), levels)
    counts = _counts(_steps(numbers, lo, scale, levels), levels)
    model_of, joined = _joined(counts, models)
    frequencies = np.stack([_frequencies(each) for each in joined])
    return Tables(bits, lo, scale, model_of.astype(np.uint8), frequencies.astype(np.uint16))


def _ranges(numbers: Floats, levels: int) -> tuple[Floats, Floats]:
    """lo and scale of every channel: of some ranges the one that leaves the least squared error."""
    step = max(1, numbers.shape[1] // MAX_NUMBERS)
    some = np.sort(numbers[:, ::step], axis=1)
    best_lo, best_scale = _range(some[:, 0], some[:, -1], levels)
    least = _error(some, best_lo, best_scale, levels)
    for share in CLIPPED[1:]:
        cut = round(share / 2 * some.shape[1])
        if not cut:
            continue
        # A range that ends at zero keeps that end: most of such numbers are zero, and stay so.
        low = np.where(some[:, 0] == 0, np.float32(0), some[:, cut])
        lo, scale = _range(low, some[:, -1 - cut], levels)
        error = _error(some, lo, scale, levels)
        is_better = error < least
        best_lo, best_scale = np.where(is_better, lo, best_lo), np.where(is_better, scale, best_scale)
        least = np.minimum(error, least)
    return best_lo, best_scale


def _evened(numbers: Floats, lo: Floats, scale: Floats, levels: int) -> tuple[Floats, Floats]:
    """The same with wider steps for channels that vary little: what is spent on fine ones there helps least.

    Steps of one width are best where the rest of the network feels every error alike, steps as wide as the deviation
    where it feels them by what a channel says. The root lies between (docs/decisions/0029).
    """
    deviation = np.sqrt(numbers.std(axis=1, dtype=np.float64)).astype(np.float32)
    is_varied = (scale > 0) & (deviation > 0)
    if not is_varied.any():
        return lo, scale
    wide = np.quantile(scale[is_varied] / deviation[is_varied], EVENED)
    wider = np.where(is_varied, np.maximum(scale, (wide * deviation).astype(np.float32)), scale)
    room = np.where(lo == 0, 0, levels * (wider - scale)).astype(np.float32)  # half of it below the old range
    low = (lo - room / 2).astype(np.float32)
    return _range(low, (low + levels * wider).astype(np.float32), levels)


def _range(low: Floats, high: Floats, levels: int) -> tuple[Floats, Floats]:
    """lo and scale for numbers from `low` to `high`; zero stays exactly zero where it lies between."""
    ideal = ((high.astype(np.float64) - low) / levels).astype(np.float32)
    raised = ((ideal.view(np.uint32) >> _SPARE_BITS) + np.uint32(2)) << _SPARE_BITS
    scale = np.where(high > low, np.maximum(raised.view(np.float32), np.float32(2.0**-126)), np.float32(0))
    holds_zero = (low <= 0) & (high >= 0)
    below = np.rint(np.divide(low, scale, where=scale > 0, out=np.zeros_like(scale)))
    return np.where(holds_zero, below * scale, low).astype(np.float32), scale


def _steps(numbers: Floats, lo: Floats, scale: Floats, levels: int) -> Any:
    inverse = np.divide(1.0, scale, where=scale > 0, out=np.zeros(scale.shape))
    return np.clip(np.rint((numbers.astype(np.float64) - lo[:, None]) * inverse[:, None]), 0, levels)


def _error(numbers: Floats, lo: Floats, scale: Floats, levels: int) -> Any:
    back = _steps(numbers, lo, scale, levels) * scale[:, None] + lo[:, None]
    return ((numbers - back) ** 2).sum(axis=1)


def _counts(steps: Any, levels: int) -> Counts:
    """How often each channel has each step."""
    channels = len(steps)
    places = steps.astype(np.int64) + (np.arange(channels) * (levels + 1))[:, None]
    found = np.bincount(places.reshape(-1), minlength=channels * (levels + 1))
    return found.reshape(channels, levels + 1).astype(np.float64)


def _joined(counts: Counts, models: int) -> tuple[npt.NDArray[np.intp], Counts]:
    """The model of each channel, and the counts of each model: channels go where they take the fewest bits."""
    shares = _shares(counts)
    if len(counts) <= models:
        return np.arange(len(counts)), counts
    # The first ones lie evenly along the entropy, which is what channels differ in most.
    order = np.argsort((shares * -np.log2(shares)).sum(axis=1))
    seeds = order[np.linspace(0, len(order) - 1, models).round().astype(int)]
    centres = shares[seeds]
    for _ in range(ROUNDS):
        model_of = (counts @ -np.log2(centres).T).argmin(axis=1)
        used, model_of = np.unique(model_of, return_inverse=True)
        joined = np.zeros((len(used), counts.shape[1]))
        np.add.at(joined, model_of, counts)
        centres = _shares(joined)
    return model_of, joined


def _shares(counts: Counts) -> Counts:
    """The share of each step, of what was seen and a little that is spread smoothly."""
    total = counts.sum(axis=1, keepdims=True)
    width = counts.shape[1]
    near = counts.copy()
    for _ in range(max(1, width // 64)):  # a step that was not seen is likely where its neighbours are
        padded = np.pad(near, ((0, 0), (1, 1)), mode="edge")
        near = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    prior = (near + total / width / 50) / (total * 1.02)
    shares: Counts = (counts + _PRIOR * np.sqrt(width) * prior) / (total + _PRIOR * np.sqrt(width))
    return shares


def _frequencies(counts: Counts) -> npt.NDArray[np.int64]:
    """Whole numbers of at least 1 that sum to what the coder wants."""
    shares = _shares(counts[None])[0]
    whole: npt.NDArray[np.int64] = 1 + np.floor(shares / shares.sum() * (ans.TOTAL - len(shares))).astype(np.int64)
    whole[whole.argmax()] += ans.TOTAL - whole.sum()
    return whole
