"""The layers of an ONNX file as predictors see them. Pure.

To teach the program another operator, add a row to `_WORK`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgecloud.models.onnx_model import Op
from edgecloud.models.onnx_shapes import Info
from edgecloud.models.specs import LayerSpec, UnknownLayerError

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Described:
    """A layer: its node, what it makes, and what it reads."""

    op: Op
    out: Info
    inputs: Sequence[Info]
    """Of other layers alone."""
    weights: Sequence[Info]
    """What does not depend on the network's input."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its first input."""
        return self.inputs[0].shape

    def pair(self, name: str, default: Pair = (1, 1)) -> Pair:
        """An attribute that has a number for each axis of a picture."""
        value = self.op.attributes.get(name)
        numbers = [int(each) for each in value] if isinstance(value, tuple) and value else list(default)
        return numbers[0], numbers[-1]


_Work = tuple[str, int, Pair, Pair, int]


def spec_of(layer: Described, network: str) -> LayerSpec:
    """A layer for a batch of one. Raises UnknownLayerError for an operator that nobody described."""
    work = _WORK.get(layer.op.kind)
    if work is None:
        raise UnknownLayerError(f"{network}: no predictor for layers of kind {layer.op.kind}")
    kind, macs, kernel, stride, groups = work(layer)
    return LayerSpec(
        kind=kind,
        variant=layer.op.kind.lower(),
        in_shape=layer.shape,
        out_shape=layer.out.shape,
        inputs=len(layer.inputs),
        macs=macs,
        in_bytes=sum(each.bytes for each in layer.inputs),
        out_bytes=layer.out.bytes,
        weight_bytes=sum(each.bytes for each in layer.weights),
        kernel=kernel,
        stride=stride,
        groups=groups,
    )


def _plain(kind: str, layer: Described) -> _Work:
    return kind, layer.out.elements, (1, 1), (1, 1), 1


def _conv(layer: Described) -> _Work:
    shape = next((each.shape for each in layer.weights if len(each.shape) == len(layer.shape)), None)
    if shape is None or len(shape) != _PICTURES:
        raise UnknownLayerError(f"no predictor for {layer.op.label}")
    groups = layer.op.attributes.get("group", 1)
    groups = groups if isinstance(groups, int) else 1
    kind = "dw_conv" if 1 < groups == layer.shape[1] else "conv"
    macs = layer.out.elements * math.prod(shape[1:])
    return kind, macs, (shape[2], shape[3]), layer.pair("strides"), groups


_PICTURES = 4


def _pool(kind: str, layer: Described) -> _Work:
    kernel = layer.pair("kernel_shape")
    return kind, layer.out.elements * math.prod(kernel), kernel, layer.pair("strides"), 1


def _whole_pool(kind: str, layer: Described) -> _Work:
    sides = layer.shape[-2:]
    kernel = (sides[0], sides[-1])
    return kind, math.prod(layer.shape), kernel, kernel, 1


def _product(layer: Described) -> _Work:
    """A matrix of weights is a linear layer, two layers are multiplied as attention does."""
    return "linear" if layer.weights else "matmul", layer.out.elements * layer.shape[-1], (1, 1), (1, 1), 1


def _lrn(layer: Described) -> _Work:
    size = layer.op.attributes.get("size", 1)
    return "lrn", layer.out.elements * (size if isinstance(size, int) else 1), (1, 1), (1, 1), 1


def _all(kinds: str, work: Callable[[Described], _Work]) -> dict[str, Callable[[Described], _Work]]:
    return dict.fromkeys(kinds.split(), work)


_WORK: Mapping[str, Callable[[Described], Any]] = {
    **_all(
        "Relu Clip Sigmoid Tanh HardSwish HardSigmoid LeakyRelu Elu Softmax Gelu Erf PRelu",
        partial(_plain, "activation"),
    ),
    **_all("Add Mul Sub Div Sum Pow Sqrt", partial(_plain, "elementwise")),
    **_all(
        "Reshape Transpose Flatten Split Slice Pad Gather Squeeze Unsqueeze Expand Tile Cast", partial(_plain, "copy")
    ),
    **_all("GlobalAveragePool ReduceMean", partial(_whole_pool, "avgpool")),
    **_all("Gemm MatMul", _product),
    "AveragePool": partial(_pool, "avgpool"),
    "BatchNormalization": partial(_plain, "batchnorm"),
    "Concat": partial(_plain, "concat"),
    "Conv": _conv,
    "GlobalMaxPool": partial(_whole_pool, "maxpool"),
    "LRN": _lrn,
    "LayerNormalization": partial(_plain, "layernorm"),
    "MaxPool": partial(_pool, "maxpool"),
}
