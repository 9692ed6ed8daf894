"""Features of a layer: one table of numbers, the same for training and for prediction. Pure.

A layer alone and a layer in its network cost different times: what ran before it decides what is left in the caches,
for its data as for its code. So the table has columns for the layer, for the one that ran before it, and for the
whole pass.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.specs import KINDS, LayerSpec, base_kind

Table = NDArray[np.float64]
VARIANTS = (
    *("relu", "relu6", "hardtanh", "silu", "gelu", "tanh", "sigmoid", "hardswish", "hardsigmoid", "leakyrelu", "elu"),
    *("softmax", "add", "mul", "sub", "div", "adaptiveavgpool2d", "adaptive_avg_pool2d", "mean", "dropout", "flatten"),
    *("view", "reshape", "permute", "transpose", "chunk", "getitem", "contiguous", "identity", "unsqueeze"),
    *("stochastic_depth", "multiheadattention", "shifted_window_attention"),
)
CHANNELS_LAST = ("linear", "layernorm", "attention")
BLOCKS = (8, 16)  # channels are worked on in blocks as wide as a vector register


@dataclass(frozen=True, slots=True)
class Context:
    """Where a layer stands in its network."""

    pass_macs: int = 0
    pass_weight_bytes: int = 0
    pass_out_bytes: int = 0
    peak_bytes: int = 0
    """The largest output in the network."""
    reuse_bytes: int = 0
    """Weights and outputs that were moved between the making of the oldest input and this layer."""
    before_kind: str = "input"
    """Of the layer that ran just before."""
    before_macs: int = 0
    before_bytes: int = 0
    before_weight_bytes: int = 0
    before_kernel: int = 1


@dataclass(frozen=True, slots=True)
class Described:
    """A layer in its place."""

    spec: LayerSpec
    context: Context


def in_context(specs: Sequence[LayerSpec], inputs: Sequence[Sequence[int]]) -> tuple[Described, ...]:
    """Put the layers of a network, the input left out, in their places.

    `inputs` are for each what it reads, by numbers as in LayerGraph, 0 being the input.
    """
    moved = [0, *accumulate(spec.weight_bytes + spec.out_bytes for spec in specs)]
    whole = (
        sum(spec.macs for spec in specs),
        sum(spec.weight_bytes for spec in specs),
        sum(spec.out_bytes for spec in specs),
        max(spec.out_bytes for spec in specs),
    )
    layers = []
    for number, (spec, reads) in enumerate(zip(specs, inputs, strict=True)):
        reuse = moved[number] - moved[min(reads, default=number)]
        before = _before(specs[number - 1]) if number else ()
        layers.append(Described(spec, Context(*whole, reuse, *before)))
    return tuple(layers)


def _before(spec: LayerSpec) -> tuple[str, int, int, int, int]:
    moved = spec.in_bytes + spec.out_bytes + spec.weight_bytes
    return base_kind(spec.kind), spec.macs, moved, spec.weight_bytes, spec.kernel[0] * spec.kernel[1]


_LINEAR = ("macs", "in_bytes", "out_bytes", "weight_bytes", "macs_by_8", "macs_by_16", "in_channels", "out_channels")
_LOGS = (
    *("macs", "in_bytes", "out_bytes", "weight_bytes", "macs_by_8", "macs_by_16", "bytes", "intensity"),
    *("in_channels", "out_channels", "in_side", "out_pixels", "groups", "in_group", "out_group", "strided_bytes"),
    *("pass_macs", "pass_weight_bytes", "pass_out_bytes", "peak_bytes", "reuse_bytes"),
    *("before_macs", "before_bytes", "before_weight_bytes"),
)
_PLAIN = (
    *("out_width", "out_width_rest", "out_pixels_rest", "in_group_rest", "out_group_rest", "kernel_height"),
    *("kernel_width", "stride", "inputs", "is_in_place", "before_kernel"),
)
_BEFORE = ("input", *KINDS)
FEATURES = (
    *(f"log_{name}" for name in _LOGS),
    *_PLAIN,
    *(f"is_{variant}" for variant in VARIANTS),
    *(f"after_{kind}" for kind in _BEFORE),
)
FEATURE_HASH = "sha256:" + hashlib.sha256(json.dumps(FEATURES).encode()).hexdigest()[:16]
"""Predictors that were trained on other columns are refused."""


def table(layers: Sequence[Described]) -> Table:
    """One row for each layer, shape (layers, len(FEATURES))."""
    if not layers:
        return np.zeros((0, len(FEATURES)))
    raw = _raw(layers)
    logs = [np.log2(1.0 + raw[name]) for name in _LOGS]
    names = [layer.spec.variant.split("+") for layer in layers]
    befores = [[layer.context.before_kind] for layer in layers]
    return np.column_stack(
        [*logs, *(raw[name] for name in _PLAIN), _one_hot(names, VARIANTS), _one_hot(befores, _BEFORE)]
    )


def _one_hot(values: Sequence[Sequence[str]], names: Sequence[str]) -> Table:
    """A one for each that a row has; a piece of several layers has several."""
    place = {name: column for column, name in enumerate(names)}
    matrix = np.zeros((len(values), len(names)))
    ones = [(row, place[value]) for row, many in enumerate(values) for value in many if value in place]
    if ones:
        rows, columns = zip(*ones, strict=True)
        matrix[rows, columns] = 1.0
    return matrix


_SPEC_NUMBERS = ("inputs", "macs", "in_bytes", "out_bytes", "weight_bytes", "groups", "is_in_place", "strided_bytes")
_CONTEXT_NUMBERS = tuple(field.name for field in fields(Context) if field.name != "before_kind")


def _columns(names: Sequence[str], objects: Sequence[object]) -> dict[str, Table]:
    rows = np.array(list(map(attrgetter(*names), objects)), float)
    return dict(zip(names, rows.T, strict=True))


def _raw(layers: Sequence[Described]) -> dict[str, Table]:
    """Every number as a column; what the logarithms and remainders are taken of."""
    specs = [layer.spec for layer in layers]
    raw = _columns(_SPEC_NUMBERS, specs) | _columns(_CONTEXT_NUMBERS, [layer.context for layer in layers])
    shapes = np.array([(*_shape(s.in_shape, s.kind), *_shape(s.out_shape, s.kind)) for s in specs], float)
    raw["in_channels"], raw["in_side"], _, raw["out_channels"], height, raw["out_width"] = shapes.T
    raw["kernel_height"], raw["kernel_width"], raw["stride"] = np.array(
        [(*spec.kernel, spec.stride[0]) for spec in specs], float
    ).T
    raw["out_pixels"] = height * raw["out_width"]
    raw["in_group"], raw["out_group"] = raw["in_channels"] / raw["groups"], raw["out_channels"] / raw["groups"]
    raw["bytes"] = raw["in_bytes"] + raw["out_bytes"] + raw["weight_bytes"]
    raw["intensity"] = raw["macs"] / np.maximum(1.0, raw["bytes"])
    for name in ("out_width", "out_pixels", "in_group", "out_group"):
        raw[f"{name}_rest"] = raw[name] % 16
    for block in BLOCKS:
        raw[f"macs_by_{block}"] = raw["macs"] * _padding(raw, block)
    return raw


def _padding(raw: dict[str, Table], block: int) -> Table:
    """How much larger the work gets where channels, or groups of one channel each, are filled up to whole blocks."""
    is_depthwise = (raw["groups"] > 1) & (raw["in_group"] <= 1)
    channels = np.where(is_depthwise, raw["groups"], raw["out_group"])
    ratio: Table = np.ceil(channels / block) * block / np.maximum(1.0, channels)
    return ratio


def _shape(shape: tuple[int, ...], kind: str) -> tuple[int, int, int]:
    """Channels, height and width; where channels come last, as in tokens (1, L, D), the rest is the height."""
    if len(shape) == 4 and base_kind(kind) not in CHANNELS_LAST:
        return shape[1], shape[2], shape[3]
    return shape[-1], math.prod(shape[:-1]), 1


def linear_part(features: Table) -> Table:
    """The columns that a time is proportional to, not logarithms, and a constant: what a roofline is fitted on.

    From (layers, len(FEATURES)) to (layers, 9): work, bytes, work filled up to blocks, channels (Williams et al., CACM
    2009, bound a time by work and by bytes; here they add up).
    """
    columns = [FEATURES.index(f"log_{name}") for name in _LINEAR]
    return np.column_stack([np.exp2(features[:, columns]) - 1.0, np.ones(len(features))])
