"""A designed network as an ONNX graph, as torch's exporter writes such layers. Pure: no torch, no ONNX package.

Only what `OPERATIONS` lists can be written. Every node bears the name of the tensor that it makes, `t3` for layer 3 and
`t3.1` within it, by which a runtime's own profile tells whose time it was.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models import onnx_graph
from edgecloud.models.graph import INPUT
from edgecloud.models.onnx_graph import TYPES, OnnxGraph, Value
from edgecloud.models.protobuf import bytes_field, float_field, varint_field
from edgecloud.models.specs import LayerSpec
from edgecloud.predictor.draft import Design, Shape

IR_VERSION, OPSET = 10, 20
Array = NDArray[Any]
_ATTRIBUTE_TYPES = {"f": 1, "i": 2, "ints": 7}


class Pool:
    """Numbers for weights, one block of so many bytes, used in turn: nobody will ask such a network for an answer."""

    def __init__(self, size: int) -> None:
        few = np.random.default_rng(0).random(1 << 18, dtype=np.float32) - np.float32(0.5)
        self._numbers = np.tile(few, -(-size // few.nbytes))
        self._next = 0

    @property
    def bytes(self) -> int:
        """Size of the block."""
        return self._numbers.nbytes

    def take(self, shape: Shape) -> Array:
        """The next numbers, in such a shape."""
        count = math.prod(shape)
        if self._next + count > len(self._numbers):
            self._next = 0
        array = self._numbers[self._next : self._next + count].reshape(shape)
        self._next += count
        return array


@dataclass(frozen=True)
class Written:
    """A network: its graph with the weights beside it, and its layers as predictors see them."""

    graph: OnnxGraph
    weights: Mapping[str, Array]
    specs: tuple[LayerSpec, ...]
    """Without the input."""
    inputs: tuple[tuple[int, ...], ...]
    """For each of those the layers that it reads; 0 is the input."""
    x: Value
    y: Value


@dataclass
class _Writer:
    """A graph in the making. `names` and `shapes` are those of the values, the input first."""

    pool: Pool
    names: list[str]
    shapes: list[Shape]
    nodes: list[bytes] = field(default_factory=list)
    constants: list[bytes] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    halves: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the tensor of the layer that is written now."""
        return f"t{len(self.names)}"

    def inner(self) -> str:
        """A name for a tensor within that layer."""
        return f"{self.name}.{len(self.nodes)}"

    def node(self, op: str, reads: Sequence[str], *makes: str, **attributes: Any) -> str:
        """Write one; returns the first of what it makes, which is the layer's tensor if nothing is said."""
        makes = makes or (self.name,)
        self.nodes.append(
            b"".join(
                (
                    *(bytes_field(1, name) for name in reads),
                    *(bytes_field(2, name) for name in makes),
                    bytes_field(3, makes[0]),
                    bytes_field(4, op),
                    *(bytes_field(5, _attribute(key, value)) for key, value in attributes.items()),
                )
            )
        )
        return makes[0]

    def weight(self, *shape: int, is_positive: bool = False) -> str:
        """Numbers of the pool under a new name."""
        name = f"{self.name}.w{len(self.weights)}"
        self.weights[name] = np.ones(shape, np.float32) if is_positive else self.pool.take(shape)
        self.constants.append(onnx_graph.weight_message(name, "float32", shape))
        return name

    def constant(self, array: Array) -> str:
        """A small array in the graph itself."""
        name = f"{self.name}.c{len(self.constants)}"
        dims = b"".join(varint_field(1, side) for side in array.shape)
        code = varint_field(2, TYPES[str(array.dtype)])
        self.constants.append(dims + code + bytes_field(8, name) + bytes_field(9, array.tobytes()))
        return name


def _attribute(name: str, value: Any) -> bytes:
    if isinstance(value, float):
        kind, body = "f", float_field(2, value)
    elif isinstance(value, int):
        kind, body = "i", varint_field(3, value)
    else:
        kind, body = "ints", b"".join(varint_field(8, number) for number in value)
    return bytes_field(1, name) + body + varint_field(20, _ATTRIBUTE_TYPES[kind])


@dataclass(frozen=True)
class _Made:
    """What a layer was written as: the name of its tensor, and what it does."""

    name: str
    shape: Shape
    kind: str
    variant: str
    macs: int = 0
    weight_bytes: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1


_Write = Callable[[_Writer, tuple[str, ...], tuple[Shape, ...], Mapping[str, Any]], _Made]


def write(design: Design, pool: Pool) -> Written:
    """A graph of a design. Raises KeyError for an operation that is not in OPERATIONS."""
    writer = _Writer(pool, ["input"], [design.input_shape])
    specs, inputs = [], []
    for step in design.steps:
        reads = tuple(writer.names[source] for source in step.sources)
        shapes = tuple(writer.shapes[source] for source in step.sources)
        made = OPERATIONS[step.op](writer, reads, shapes, dict(step.settings))
        sources = tuple(dict.fromkeys(step.sources))
        in_bytes = sum(4 * math.prod(writer.shapes[source]) for source in sources)
        specs.append(_spec(made, shapes[0], len(sources), in_bytes))
        inputs.append(sources)
        writer.names.append(made.name)
        writer.shapes.append(made.shape)
    body = b"".join(
        (
            *(bytes_field(1, node) for node in writer.nodes),
            bytes_field(2, "network"),
            *(bytes_field(5, constant) for constant in writer.constants),
        )
    )
    model = onnx_graph.model_message(IR_VERSION, OPSET, body)
    x, y = (Value(writer.names[at], "float32", writer.shapes[at], False) for at in (INPUT, -1))
    return Written(onnx_graph.parse(memoryview(model)), writer.weights, tuple(specs), tuple(inputs), x, y)


def _spec(made: _Made, in_shape: Shape, inputs: int, in_bytes: int) -> LayerSpec:
    return LayerSpec(
        kind=made.kind,
        variant=made.variant,
        in_shape=in_shape,
        out_shape=made.shape,
        inputs=inputs,
        macs=made.macs,
        in_bytes=in_bytes,
        out_bytes=4 * math.prod(made.shape),
        weight_bytes=made.weight_bytes,
        kernel=made.kernel,
        stride=made.stride,
        groups=made.groups,
    )


# --- operations by their names in designs


def _conv(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], sizes: Mapping[str, Any]) -> _Made:
    (_, cin, *sides), cout, groups = shapes[0], sizes["out_channels"], sizes["groups"]
    kernel, padding, step = sizes["kernel_size"], sizes["padding"], sizes["stride"]
    weights = [writer.weight(cout, cin // groups, *kernel)]
    weights += [writer.weight(cout)] if sizes["bias"] else []
    pads = [*padding, *padding]
    more = {"kernel_shape": kernel, "strides": [step, step], "pads": pads, "group": groups}
    name = writer.node("Conv", (*reads, *weights), **more)
    out = tuple((side + 2 * p - k) // step + 1 for side, p, k in zip(sides, padding, kernel, strict=True))
    each = cin // groups * math.prod(kernel)
    kind = "dw_conv" if groups > 1 and groups == cin else "conv"
    weight_bytes = 4 * cout * (each + bool(sizes["bias"]))
    macs = cout * math.prod(out) * each
    return _Made(name, (1, cout, *out), kind, "conv2d", macs, weight_bytes, kernel, (step, step), groups)


def _norm(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _sizes: Mapping[str, Any]) -> _Made:
    c = shapes[0][1]
    weights = [writer.weight(c), writer.weight(c), writer.weight(c), writer.weight(c, is_positive=True)]
    name = writer.node("BatchNormalization", (*reads, *weights), epsilon=1e-5)
    return _Made(name, shapes[0], "batchnorm", "batchnorm2d", math.prod(shapes[0]), 16 * c + 8)


def _layer_norm(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
    width = shapes[0][-1]
    weights = writer.weight(width), writer.weight(width)
    name = writer.node("LayerNormalization", (*reads, *weights), axis=-1, epsilon=1e-5)
    return _Made(name, shapes[0], "layernorm", "layernorm", math.prod(shapes[0]), 8 * width)


def _linear(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], sizes: Mapping[str, Any]) -> _Made:
    last, out = sizes["in_features"], sizes["out_features"]
    if len(shapes[0]) == 2:
        name = writer.node("Gemm", (*reads, writer.weight(out, last), writer.weight(out)), transB=1)
    else:
        product = writer.node("MatMul", (*reads, writer.weight(last, out)), writer.inner())
        name = writer.node("Add", (product, writer.weight(out)))
    shape = (*shapes[0][:-1], out)
    return _Made(name, shape, "linear", "linear", math.prod(shape) * last, 4 * out * (last + 1))


def _activation(op: str, **attributes: float) -> _Write:
    def written(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
        name = writer.node(op, reads, **attributes)
        return _Made(name, shapes[0], "activation", op.lower(), math.prod(shapes[0]))

    return written


def _clip(variant: str, low: float, high: float) -> _Write:
    def written(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
        bounds = (writer.constant(np.array(bound, np.float32)) for bound in (low, high))
        return _Made(writer.node("Clip", (*reads, *bounds)), shapes[0], "activation", variant, math.prod(shapes[0]))

    return written


def _silu(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
    name = writer.node("Mul", (*reads, writer.node("Sigmoid", reads, writer.inner())))
    return _Made(name, shapes[0], "activation", "silu", math.prod(shapes[0]))


def _hardswish(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
    """As the runtime takes HardSwish apart."""
    name = writer.node("Mul", (*reads, writer.node("HardSigmoid", reads, writer.inner(), alpha=1 / 6, beta=0.5)))
    return _Made(name, shapes[0], "activation", "hardswish", math.prod(shapes[0]))


def _binary(op: str) -> _Write:
    def written(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
        shape = max(shapes, key=math.prod)
        return _Made(writer.node(op, reads), shape, "elementwise", op.lower(), math.prod(shape))

    return written


def _pool(op: str, kind: str, variant: str) -> _Write:
    def written(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], sizes: Mapping[str, Any]) -> _Made:
        (_, c, *sides), kernel, step = shapes[0], sizes["kernel_size"], sizes["stride"]
        p = sizes["padding"]
        more: dict[str, Any] = {} if kind == "maxpool" else {"count_include_pad": 1}
        square = {"kernel_shape": [kernel, kernel], "strides": [step, step], "pads": [p, p, p, p]}
        name = writer.node(op, reads, **square, **more)
        shape = (1, c, *((side + 2 * p - kernel) // step + 1 for side in sides))
        return _Made(name, shape, kind, variant, math.prod(shape) * kernel**2, 0, (kernel, kernel), (step, step))

    return written


def _adaptive(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], sizes: Mapping[str, Any]) -> _Made:
    (_, c, *sides), out = shapes[0], sizes["output_size"]
    window = tuple(-(-side // out) for side in sides)
    if out == 1:
        name = writer.node("ReduceMean", (*reads, writer.constant(np.array([-1, -2]))), keepdims=1)
    else:  # the exporter refuses what does not divide; nearly the same windows
        steps = [side // out for side in sides]
        kernel = [side - (out - 1) * step for side, step in zip(sides, steps, strict=True)]
        name = writer.node("AveragePool", reads, kernel_shape=kernel, strides=steps, pads=[0, 0, 0, 0])
    kind = ("avgpool", "adaptiveavgpool2d")
    return _Made(name, (1, c, out, out), *kind, math.prod(shapes[0]), 0, window, window)


def _cat(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
    shape = (1, sum(each[1] for each in shapes), *shapes[0][2:])
    return _Made(writer.node("Concat", reads, axis=1), shape, "concat", "cat", math.prod(shape))


def _half(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], sizes: Mapping[str, Any]) -> _Made:
    """Two of them are made by one node, which counts for the first."""
    (_, c, *sides), which = shapes[0], sizes["which"]
    if reads[0] not in writer.halves:
        names = writer.name, writer.inner()
        writer.node("Split", reads, *names, axis=1, num_outputs=2)
        writer.halves[reads[0]] = (names[1], names[0]) if which else names
    shape = (1, c // 2, *sides)
    return _Made(writer.halves[reads[0]][which], shape, "view", "chunk")


def _reshape(variant: str) -> _Write:
    def written(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], sizes: Mapping[str, Any]) -> _Made:
        shape = tuple(sizes.get("size", (1, math.prod(shapes[0]))))
        name = writer.node("Reshape", (*reads, writer.constant(np.array(shape))))
        return _Made(name, shape, "view", variant)

    return written


def _swap(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
    order = [0, 2, 1, *range(3, len(shapes[0]))]
    return _Made(writer.node("Transpose", reads, perm=order), tuple(shapes[0][at] for at in order), "view", "transpose")


def _nothing(variant: str) -> _Write:
    def written(_writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], _: Mapping[str, Any]) -> _Made:
        return _Made(reads[0], shapes[0], "view", variant)

    return written


def _attention(writer: _Writer, reads: tuple[str, ...], shapes: tuple[Shape, ...], sizes: Mapping[str, Any]) -> _Made:
    """Of one sequence with itself, in the order of the exporter, whose detours the runtime does not take out."""
    (_, length, width), heads = shapes[0], sizes["num_heads"]
    each = width // heads

    def then(op: str, *reads: str, **attributes: Any) -> str:
        return writer.node(op, reads, writer.inner(), **attributes)

    def shaped(name: str, *shape: int) -> str:
        return then("Reshape", name, writer.constant(np.array(shape)))

    first = then("Transpose", *reads, perm=[1, 0, 2])
    projected = then("Add", then("MatMul", first, writer.weight(width, 3 * width)), writer.weight(3 * width))
    apart = then("Unsqueeze", shaped(projected, length, 1, 3, width), writer.constant(np.array([0])))
    three = then("Squeeze", then("Transpose", apart, perm=[3, 1, 2, 0, 4]), writer.constant(np.array([-2])))
    parts = [then("Gather", three, writer.constant(np.array(place)), axis=0) for place in range(3)]
    turned = [then("Transpose", shaped(part, length, heads, each), perm=[1, 0, 2]) for part in parts]
    query, key, value = (shaped(part, 1, heads, length, each) for part in turned)
    key = shaped(then("Transpose", shaped(key, heads, length, each), perm=[0, 2, 1]), 1, heads, each, length)
    scale = writer.constant(np.array(each**-0.25, np.float32))
    products = then("MatMul", then("Mul", query, scale), then("Mul", key, scale))
    mixed = then("MatMul", then("Softmax", products, axis=-1), value)
    rows = shaped(then("Transpose", mixed, perm=[2, 0, 1, 3]), length, width)
    out = shaped(then("Gemm", rows, writer.weight(width, width), writer.weight(width), transB=1), length, 1, width)
    macs = 4 * length * width**2 + 2 * length**2 * width
    name = writer.node("Transpose", (out,), perm=[1, 0, 2])
    return _Made(name, shapes[0], "attention", "multiheadattention", macs, 16 * (width**2 + width))


OPERATIONS: dict[str, _Write] = {
    "Conv2d": _conv,
    "BatchNorm2d": _norm,
    "LayerNorm": _layer_norm,
    "MultiheadAttention": _attention,
    "Linear": _linear,
    "ReLU": _activation("Relu"),
    "Tanh": _activation("Tanh"),
    "Sigmoid": _activation("Sigmoid"),
    "GELU": _activation("Gelu"),
    "Hardswish": _hardswish,
    "Hardsigmoid": _activation("HardSigmoid", alpha=1 / 6, beta=0.5),
    "ReLU6": _clip("relu6", 0.0, 6.0),
    "Hardtanh": _clip("hardtanh", -1.0, 1.0),
    "SiLU": _silu,
    "add": _binary("Add"),
    "mul": _binary("Mul"),
    "MaxPool2d": _pool("MaxPool", "maxpool", "maxpool2d"),
    "AvgPool2d": _pool("AveragePool", "avgpool", "avgpool2d"),
    "AdaptiveAvgPool2d": _adaptive,
    "cat": _cat,
    "half": _half,
    "view": _reshape("view"),
    "flatten": _reshape("flatten"),
    "swap_channels": _swap,
    "contiguous": _nothing("contiguous"),
    "Dropout": _nothing("dropout"),
}
