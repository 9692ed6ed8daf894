"""The features of a layer that determine its time: work, bytes, and shape.

A layer's `kind` in the graph is torch's name for it. Here it gets the name that predictors are kept under: `conv` for
what torch calls Conv2d or conv2d. To teach the program another layer, add a row to `_DESCRIBE`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgecloud.models.graph import INPUT
from edgecloud.utils.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from edgecloud.models.trace import Traced

Shape = tuple[int, ...]
Pair = tuple[int, int]
VIEW = "view"
KINDS = (
    *("conv", "dw_conv", "linear", "maxpool", "avgpool", "batchnorm", "layernorm", "activation", "elementwise"),
    *("concat", "matmul", "attention", "copy", VIEW, "local", "lrn"),
)
"""Every kind for which there can be a predictor."""
JOINED_KINDS = ("conv+bn+act", "dw_conv+bn+act", "batchnorm+act", "linear+act")
"""The same where a runtime computes several layers in one piece, named after what may be in it; a sum may be too."""


def base_kind(kind: str) -> str:
    """Of a piece the kind of the layer that does the work: `conv` of `conv+bn+act`."""
    return kind.partition("+")[0]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer for a batch of one. `macs` are multiply-adds, or elementary steps where nothing is multiplied."""

    kind: str
    variant: str
    """Which of the operations of this kind: torch's own name in lower case."""
    in_shape: Shape
    """Of the first input."""
    out_shape: Shape
    inputs: int
    macs: int
    in_bytes: int
    out_bytes: int
    weight_bytes: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    groups: int = 1
    is_in_place: bool = False
    strided_bytes: int = 0
    """Bytes of inputs that do not lie in memory in the order of their indices."""


class UnknownLayerError(UsageError):
    """A layer of a kind for which there is no description, and so no predictor."""


def describe(traced: "Traced") -> tuple[LayerSpec, ...]:
    """The layers of a network without its input. Raises UnknownLayerError for a layer that nobody described, and for a
    network of several inputs: predictors know those of one."""
    if len(traced.graph.inputs) > 1:
        raise UnknownLayerError(f"{traced.graph.name} has several inputs: no predictor knows such layers")
    return tuple(_describe(traced, number) for number in range(INPUT + 1, len(traced.graph.layers)))


def weight_bytes(traced: "Traced") -> tuple[int, ...]:
    """Of every layer, the inputs among them, the bytes of its parameters, whether anybody described it or not."""
    layers = enumerate(traced.graph.layers)
    return tuple(_parameter_bytes(_call_of(traced, number)) if layer.inputs else 0 for number, layer in layers)


def _call_of(traced: "Traced", number: int) -> "_Call":
    layer, layers = traced.graph.layers[number], traced.graph.layers
    node = traced.nodes[number][0]
    return _Call(
        node=node,
        module=traced.module.get_submodule(str(node.target)) if node.op == "call_module" else None,
        root=traced.module,
        in_shape=layers[layer.inputs[0]].out_shape,
        out_shape=layer.out_shape,
    )


def _describe(traced: "Traced", number: int) -> LayerSpec:
    layer, call = traced.graph.layers[number], _call_of(traced, number)
    work = _VIEW_WORK if number in traced.views else _described(call, layer.kind, layer.id, traced.graph.name)
    return LayerSpec(
        kind=work.kind,
        variant=layer.kind.lower().strip("_"),
        in_shape=call.in_shape,
        out_shape=layer.out_shape,
        inputs=len(layer.inputs),
        macs=work.macs,
        in_bytes=traced.graph.bytes_of(layer.inputs),
        out_bytes=layer.out_bytes,
        weight_bytes=_parameter_bytes(call),
        kernel=work.kernel,
        stride=work.stride,
        groups=work.groups,
        is_in_place=call.is_in_place,
        strided_bytes=traced.graph.bytes_of(n for n in layer.inputs if n in traced.strided),
    )


@dataclass(frozen=True)
class _Call:
    """How the network calls one operation."""

    node: "fx.Node"
    module: "nn.Module | None"
    root: "nn.Module"
    in_shape: Shape
    out_shape: Shape

    @property
    def elements(self) -> int:
        return math.prod(self.out_shape)

    @property
    def is_in_place(self) -> bool:
        return bool(self.setting("inplace", None, False)) or str(self.node.target).endswith("_")

    def setting(self, name: str, position: int | None, default: Any) -> Any:
        """A setting of the module, or an argument of the function."""
        if self.module is not None:
            return getattr(self.module, name, default)
        if name in self.node.kwargs:
            return self.node.kwargs[name]
        return self.node.args[position] if position is not None and position < len(self.node.args) else default

    def parameters(self) -> "list[torch.Tensor]":
        if self.module is not None:
            return [*self.module.parameters(), *self.module.buffers()]
        return [_attribute(self.root, str(n.target)) for n in self.node.all_input_nodes if n.op == "get_attr"]


def _attribute(root: "nn.Module", dotted: str) -> "torch.Tensor":
    owner, _, name = dotted.rpartition(".")
    tensor: torch.Tensor = getattr(root.get_submodule(owner), name)
    return tensor


def _parameter_bytes(call: _Call) -> int:
    return sum(t.numel() * t.element_size() for t in call.parameters())


@dataclass(frozen=True)
class _Work:
    kind: str
    macs: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    groups: int = 1


_VIEW_WORK = _Work(VIEW, 0)


def _described(call: _Call, kind: str, layer_id: str, network: str) -> _Work:
    describe_call = _DESCRIBE.get(kind.lower().strip("_"))
    if describe_call is None:
        raise UnknownLayerError(f"{network}: no predictor for layers of kind {kind} ({layer_id})")
    return describe_call(call)


def _pair(value: Any) -> Pair:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return (int(pair[0]), int(pair[-1])) if pair else (1, 1)


def _conv(call: _Call) -> _Work:
    weight = next(p for p in call.parameters() if p.dim() == 4)
    groups = int(call.setting("groups", 6, 1))
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    macs = call.elements * int(weight.shape[1]) * math.prod(kernel)
    is_depthwise = groups > 1 and groups == call.in_shape[1]
    return _Work("dw_conv" if is_depthwise else "conv", macs, kernel, _pair(call.setting("stride", 3, 1)), groups)


def _local(call: _Call) -> _Work:
    """As a convolution, but every number of the output has weights of its own."""
    kernel = _pair(call.setting("kernel_size", None, 1))
    macs = call.elements * call.in_shape[1] * math.prod(kernel)
    return _Work("local", macs, kernel, _pair(call.setting("stride", None, 1)))


def _across_channels(call: _Call) -> _Work:
    """Local response normalisation: a window over the channels for every number."""
    return _Work("lrn", call.elements * int(call.setting("size", 1, 1)))


def _linear(call: _Call) -> _Work:
    return _Work("linear", call.elements * call.in_shape[-1])


def _pool(kind: str, call: _Call) -> _Work:
    kernel = _pair(call.setting("kernel_size", 1, 1))
    stride = call.setting("stride", 2, None)
    return _Work(kind, call.elements * math.prod(kernel), kernel, _pair(stride or kernel))


def _adaptive_pool(kind: str, call: _Call) -> _Work:
    height, width = (-(-i // o) for i, o in zip(call.in_shape[-2:], (*call.out_shape, 1, 1)[2:4], strict=True))
    return _Work(kind, math.prod(call.in_shape), (height, width), (height, width))


def _per_element(kind: str, call: _Call) -> _Work:
    return _Work(kind, call.elements)


def _attention(call: _Call) -> _Work:
    """Four projections, and twice every query against every key (of its window, where there are windows)."""
    length, width = math.prod(call.in_shape[:-1]), call.in_shape[-1]
    window = call.setting("window_size", 4, None)
    keys = length if window is None else min(length, math.prod(_pair(window)))
    return _Work("attention", 4 * length * width**2 + 2 * length * keys * width)


def _scaled_dot_product(call: _Call) -> _Work:
    return _Work("attention", 2 * call.elements * call.in_shape[-2])


def _einsum(call: _Call) -> _Work:
    equation = str(call.node.args[0]).replace(" ", "")
    left, _, right = equation.partition("->")
    first = dict(zip(left.split(",")[0], call.in_shape, strict=False))
    summed = math.prod(size for letter, size in first.items() if letter not in right)
    return _Work("matmul", call.elements * summed)


def _matmul(call: _Call) -> _Work:
    return _Work("matmul", call.elements * call.in_shape[-1])


_ACTIVATIONS = "relu relu6 hardtanh silu gelu tanh sigmoid hardswish hardsigmoid leaky_relu leakyrelu elu softmax"
_ELEMENTWISE = "add mul sub div iadd imul"
_COPIES = (
    "contiguous reshape permute transpose swapaxes flatten clone patch_merging_pad getitem chunk split select "
    "dropout identity zeropad2d pad"
)

_DESCRIBE: dict[str, Callable[[_Call], _Work]] = {
    "conv2d": _conv,
    "locallyconnected2d": _local,
    "localresponsenorm": _across_channels,
    "local_response_norm": _across_channels,
    "linear": _linear,
    "maxpool2d": partial(_pool, "maxpool"),
    "max_pool2d": partial(_pool, "maxpool"),
    "avgpool2d": partial(_pool, "avgpool"),
    "avg_pool2d": partial(_pool, "avgpool"),
    "adaptivemaxpool2d": partial(_adaptive_pool, "maxpool"),
    "adaptiveavgpool2d": partial(_adaptive_pool, "avgpool"),
    "adaptive_avg_pool2d": partial(_adaptive_pool, "avgpool"),
    "mean": partial(_adaptive_pool, "avgpool"),
    "batchnorm2d": partial(_per_element, "batchnorm"),
    "native_batch_norm_legit_no_training": partial(_per_element, "batchnorm"),
    "batch_norm": partial(_per_element, "batchnorm"),
    "layernorm": partial(_per_element, "layernorm"),
    "layer_norm": partial(_per_element, "layernorm"),
    "cat": partial(_per_element, "concat"),
    "multiheadattention": _attention,
    "shifted_window_attention": _attention,
    "scaled_dot_product_attention": _scaled_dot_product,
    "einsum": _einsum,
    "matmul": _matmul,
    **dict.fromkeys(_ACTIVATIONS.split(), partial(_per_element, "activation")),
    **dict.fromkeys(_ELEMENTWISE.split(), partial(_per_element, "elementwise")),
    **dict.fromkeys(_COPIES.split(), partial(_per_element, "copy")),
}
