"""An ONNX graph whose layers have known tensors, and the model of any segment of it. Pure: no torch, no ONNX package.

The graph comes as the bytes of an ONNX model. Its nodes are kept as they are; a segment's model is those of them that
its outputs need, in the same order. A node that reads a whole sub-graph (If, Loop, Scan), a function of the model and
numbers in other files are refused: nothing here needs them, and what they read could not be told.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgecloud.models import protobuf
from edgecloud.models.protobuf import WireError, bytes_field, chunk, fields, number, text, varint_field

BATCH = "batch"
MAX_NODES, MAX_EDGES = 200_000, 2_000_000
MAX_RANK, MAX_SIZE = 32, 1 << 40

# numbers of the fields of onnx.proto, of which none has ever changed
_IR_VERSION, _OPSET, _GRAPH, _FUNCTIONS = 1, 8, 7, 25
_NODE, _NAME, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 2, 5, 11, 12, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_TENSOR = 6, 11, 5
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2

TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
}
"""ONNX's numbers of the element types that may be sent."""
_DTYPES = {code: dtype for dtype, code in TYPES.items()}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the graph, as ONNX's bytes, with what it reads and makes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    message: memoryview


@dataclass(frozen=True, slots=True)
class Tensor:
    """What an ONNX tensor says of itself; `size` is the bytes in it, -1 where its numbers are elsewhere."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class OnnxGraph:
    """The nodes in order, and the constants that have names: small ones as messages, weights by name alone."""

    ir_version: int
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, memoryview]
    """Tensors with their numbers in them, as ONNX's messages."""
    weights: Mapping[str, Tensor]
    """Tensors whose numbers are elsewhere."""
    made_by: Mapping[str, int]
    """The node that makes each tensor."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that crosses the edge of a segment. The first axis is any batch where `is_batched`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_batched: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A segment: its model, and the weights that it needs besides."""

    model: bytes
    weights: tuple[str, ...]
    nodes: int


def parse(model: memoryview) -> OnnxGraph:
    """Read a model. Raises WireError for what is none, or uses what is refused."""
    ir_version, opset, graph = 0, 0, None
    for field, value in fields(model):
        if field == _IR_VERSION:
            ir_version = number(value)
        elif field == _OPSET:
            opset = max(opset, _opset(chunk(value)))
        elif field == _GRAPH:
            if graph is not None:
                raise WireError("it holds two graphs")
            graph = chunk(value)
        elif field == _FUNCTIONS:
            raise WireError("it defines functions")
    if graph is None or not ir_version or not opset:
        raise WireError("it holds no ONNX graph")
    return _graph(graph, ir_version, opset)


def _opset(message: memoryview) -> int:
    version = 0
    for field, value in fields(message):
        if field == _OPSET_DOMAIN and text(value) not in ("", "ai.onnx"):
            raise WireError(f"it uses operators of {text(value)[:40]!r}")
        if field == _OPSET_VERSION:
            version = number(value)
    return version


def _graph(graph: memoryview, ir_version: int, opset: int) -> OnnxGraph:
    nodes: list[Node] = []
    constants: dict[str, memoryview] = {}
    weights: dict[str, Tensor] = {}
    for field, value in fields(graph):
        if field == _NODE:
            nodes.append(_node(chunk(value)))
        elif field == _INITIALIZER:
            tensor = tensor_of(chunk(value))
            if tensor.name in constants or tensor.name in weights:
                raise WireError(f"it holds {tensor.name[:80]!r} twice")
            if tensor.size < 0:
                weights[tensor.name] = tensor
            else:
                constants[tensor.name] = chunk(value)
        elif field == _SPARSE:
            raise WireError("it holds sparse tensors")
        if len(nodes) > MAX_NODES or len(constants) + len(weights) > MAX_NODES:
            raise WireError("it is too large")
    made_by = _makers(nodes, {*constants, *weights})
    return OnnxGraph(ir_version, opset, tuple(nodes), constants, weights, made_by)


def _makers(nodes: Sequence[Node], constants: set[str]) -> dict[str, int]:
    makers: dict[str, int] = {}
    edges = 0
    for place, node in enumerate(nodes):
        edges += len(node.inputs) + len(node.outputs)
        if edges > MAX_EDGES:
            raise WireError("it is too large")
        for name in node.outputs:
            if name in makers or name in constants:
                raise WireError(f"it makes {name[:80]!r} twice")
            if name:
                makers[name] = place
    for place, node in enumerate(nodes):
        if any(makers.get(name, -1) >= place for name in node.inputs):
            raise WireError("its nodes are not in order")
    return makers


def _node(message: memoryview) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    op = ""
    for field, value in fields(message):
        if field == _NODE_INPUT:
            inputs.append(text(value))
        elif field == _NODE_OUTPUT:
            outputs.append(text(value))
        elif field == _NODE_OP:
            op = text(value)
        elif field == _NODE_DOMAIN and text(value) not in ("", "ai.onnx"):
            raise WireError(f"it uses operators of {text(value)[:40]!r}")
        elif field == _NODE_ATTRIBUTE:
            _check_attribute(chunk(value))
    return Node(op, tuple(inputs), tuple(outputs), message)


def _check_attribute(message: memoryview) -> None:
    for field, value in fields(message):
        if field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            raise WireError("a node of it holds a graph of its own")
        if field == _ATTRIBUTE_TENSOR and tensor_of(chunk(value)).size < 0:
            raise WireError("a node of it reads numbers from another file")


def tensor_of(message: memoryview) -> Tensor:
    """What an ONNX tensor says of itself. Raises WireError."""
    name, code, size, is_elsewhere = "", 0, 0, False
    shape: list[int] = []
    for field, value in fields(message):
        if field == _DIMS:
            shape += [number(value)] if isinstance(value, int) else _packed(value)
        elif field == _DATA_TYPE:
            code = number(value)
        elif field == _TENSOR_NAME:
            name = text(value)
        elif field == _RAW_DATA:
            size = len(chunk(value))
        elif field == _LOCATION:
            is_elsewhere = number(value) != 0
        elif field == _EXTERNAL:
            raise WireError(f"the numbers of {name[:80]!r} are in another file")
    if len(shape) > MAX_RANK or any(side > MAX_SIZE for side in shape):
        raise WireError(f"the shape of {name[:80]!r} is too large")
    return Tensor(name, _DTYPES.get(code, ""), tuple(shape), -1 if is_elsewhere else size)


def _packed(message: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(message):
        value, at = protobuf.varint(message, at)
        numbers.append(value)
    return numbers


def weight_message(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    """An ONNX tensor whose numbers are elsewhere: the caller passes them when it runs the model."""
    return b"".join(
        (
            *(varint_field(_DIMS, side) for side in shape),
            varint_field(_DATA_TYPE, TYPES[dtype]),
            bytes_field(_TENSOR_NAME, name),
            varint_field(_LOCATION, 1),
        )
    )


def take(
    graph: OnnxGraph,
    inputs: Iterable[Value],
    outputs: Iterable[Value],
    numbers_of: Callable[[str], bytes] | None = None,
) -> Part:
    """The model of a segment: what makes `outputs` out of `inputs`. With `numbers_of` a weight, it holds its weights.

    Raises WireError where that needs anything that is neither an input nor a constant.
    """
    inputs, outputs = list(inputs), list(outputs)
    given = {value.name for value in inputs}
    places, names = _needed(graph, given, [value.name for value in outputs])
    nodes = [_without(graph.nodes[place], given) for place in places]
    return part_of(graph, nodes, names, inputs, outputs, numbers_of=numbers_of)


def part_of(
    graph: OnnxGraph,
    nodes: Sequence[bytes | memoryview],
    names: Iterable[str],
    inputs: Iterable[Value],
    outputs: Iterable[Value],
    tensors: Iterable[bytes | memoryview] = (),
    numbers_of: Callable[[str], bytes] | None = None,
) -> Part:
    """The model of some nodes, with those of the graph's constants that have these `names`, and with more `tensors`."""
    names, held = list(names), list(tensors)
    weights = tuple(name for name in names if name in graph.weights)
    held += [graph.constants[name] for name in names if name in graph.constants]
    for name in weights:
        weight = graph.weights[name]
        held.append(_declared(weight) if numbers_of is None else held_message(weight, numbers_of(name)))
    body = b"".join(
        (
            *(bytes_field(_NODE, node) for node in nodes),
            bytes_field(_NAME, "segment"),
            *(bytes_field(_INITIALIZER, tensor) for tensor in held),
            *(bytes_field(_INPUT, _value_message(value)) for value in inputs),
            *(bytes_field(_OUTPUT, _value_message(value)) for value in outputs),
        )
    )
    return Part(model_message(graph.ir_version, graph.opset, body), weights, len(nodes))


def model_message(ir_version: int, opset: int, graph: bytes) -> bytes:
    """An ONNX model around a graph."""
    opsets = bytes_field(_OPSET_DOMAIN, "") + varint_field(_OPSET_VERSION, opset)
    return varint_field(_IR_VERSION, ir_version) + bytes_field(_OPSET, opsets) + bytes_field(_GRAPH, graph)


def _needed(graph: OnnxGraph, given: set[str], wanted: Sequence[str]) -> tuple[list[int], list[str]]:
    """The nodes and the constants that it takes to make some tensors, in order."""
    places: set[int] = set()
    constants: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if not name or name in given or name in seen:
            continue
        seen.add(name)
        if name in graph.made_by:
            place = graph.made_by[name]
            if place not in places:
                places.add(place)
                waiting += graph.nodes[place].inputs
        elif name in graph.constants or name in graph.weights:
            constants[name] = None
        else:
            raise WireError(f"the segment needs {name[:80]!r}, which nothing makes")
    return sorted(places), sorted(constants)


def _without(node: Node, given: set[str]) -> bytes | memoryview:
    """A node that makes nothing that is given: of a node of several outputs, one may be."""
    if not given.intersection(node.outputs):
        return node.message
    changed = []
    for field, value in fields(node.message):
        is_given = field == _NODE_OUTPUT and text(value) in given
        changed.append(bytes_field(field, f"unread:{text(value)}" if is_given else chunk(value)))
    return b"".join(changed)


def held_message(tensor: Tensor, numbers: bytes) -> bytes:
    """An ONNX tensor with its numbers in it."""
    return b"".join(
        (
            *(varint_field(_DIMS, side) for side in tensor.shape),
            varint_field(_DATA_TYPE, TYPES[tensor.dtype]),
            bytes_field(_TENSOR_NAME, tensor.name),
            bytes_field(_RAW_DATA, numbers),
        )
    )


def node_message(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int) -> bytes:
    """A node with attributes that are whole numbers."""
    return b"".join(
        (
            *(bytes_field(_NODE_INPUT, name) for name in inputs),
            *(bytes_field(_NODE_OUTPUT, name) for name in outputs),
            bytes_field(_NODE_OP, op),
            *(
                bytes_field(_NODE_ATTRIBUTE, bytes_field(1, name) + varint_field(3, value) + varint_field(20, 2))
                for name, value in attributes.items()
            ),
        )
    )


def renamed(node: Node, names: Mapping[str, str], pads: Sequence[int] | None = None) -> bytes:
    """A node that reads and makes tensors of other names, and with other `pads` if any are given."""
    changed = []
    for field, value in fields(node.message):
        content = chunk(value)
        if field in (_NODE_INPUT, _NODE_OUTPUT):
            name = text(value)
            changed.append(bytes_field(field, names.get(name, name)))
        elif field != _NODE_NAME and not (pads is not None and field == _NODE_ATTRIBUTE and _pads(content)):
            changed.append(bytes_field(field, content))
    if pads is not None:
        sides = b"".join(varint_field(8, side) for side in pads)
        changed.append(bytes_field(_NODE_ATTRIBUTE, bytes_field(1, "pads") + sides + varint_field(20, 7)))
    return b"".join(changed)


def _pads(attribute: memoryview) -> bool:
    return any(field == 1 and text(value) in ("pads", "auto_pad") for field, value in fields(attribute))


def _declared(tensor: Tensor) -> bytes:
    """As ONNX wants it: with the place of a file, which is never opened, since the numbers are handed in."""
    entries = [("location", "_"), ("offset", "0"), ("length", "0")]
    place = (bytes_field(_EXTERNAL, bytes_field(1, key) + bytes_field(2, value)) for key, value in entries)
    return weight_message(tensor.name, tensor.dtype, tensor.shape) + b"".join(place)


def _value_message(value: Value) -> bytes:
    """onnx.ValueInfoProto: a name, and a tensor type with its shape."""
    sides = [varint_field(1, side) for side in value.shape]
    if value.is_batched and sides:
        sides[0] = bytes_field(2, BATCH)
    shape = b"".join(bytes_field(1, side) for side in sides)
    tensor = varint_field(1, TYPES[value.dtype]) + bytes_field(2, shape)
    return bytes_field(1, value.name) + bytes_field(2, bytes_field(1, tensor))
