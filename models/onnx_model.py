"""An ONNX model read strictly: what is not known, there twice, or of another size than it says is refused. Pure.

`onnx_graph` keeps the nodes of a graph as they are; this reads all of them, so that `onnx_rules` can say what they do
before any runtime sees them. A runtime that reads protobuf takes the last of two values, skips what it does not know
and cuts numbers to their width: nothing that could be read in two ways passes here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models import protobuf
from edgecloud.models.protobuf import chunk, fields, number, text
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import printable

Array = NDArray[np.generic]


class OnnxError(UsageError):
    """An ONNX model that is refused: one line that names the node and the reason."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may hold and need. Sizes are in bytes, of one run on the inputs that are given."""

    model_bytes: int = 2 << 30
    nodes: int = 20_000
    initialisers: int = 20_000
    edges: int = 200_000
    """Inputs and outputs of all nodes."""
    attributes: int = 32
    """Of one node."""
    attribute_values: int = 4096
    """Of one list in an attribute."""
    rank: int = 8
    side: int = 1 << 31
    weight_bytes: int = 2 << 30
    tensor_bytes: int = 1 << 30
    """Of one output of a node, or of what it needs besides while it runs."""
    total_bytes: int = 8 << 30
    """Of all outputs of all nodes: what a runtime could need that gives nothing back while it runs."""
    operations: float = 5e12
    """Multiplications and additions."""
    value_elements: int = 65_536
    """Of one constant that is worked out here to know a shape."""
    all_value_elements: int = 5_000_000
    opsets: tuple[int, int] = (7, 26)
    ir_versions: tuple[int, int] = (3, 13)


DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
"""By ONNX's numbers. Text, complex numbers and what is smaller than a byte are missing on purpose."""
_STRANGE = {
    8: "text",
    14: "complex64",
    15: "complex128",
    16: "bfloat16 (convert it to float32)",
    21: "uint4",
    22: "int4",
}


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor of a model; `numbers` is None where they are handed in beside the model."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    numbers: Array | None
    """A view of the file where it holds them as they are in memory."""

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes they take."""
        return self.elements * np.dtype(self.dtype).itemsize


Attribute = int | float | str | Constant | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One node."""

    label: str
    """What it is called where it is named to a user."""
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    message: memoryview
    """As it is written in the model."""


@dataclass(frozen=True, slots=True)
class Declared:
    """An input or an output, as the graph says; a side without a number is the name of its symbol, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass
class Model:
    """All that a model says."""

    ir_version: int = 0
    opset: int = 0
    ops: list[Op] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    inputs: list[Declared] = field(default_factory=list)
    """Without those that only repeat a constant."""
    outputs: list[Declared] = field(default_factory=list)


def read(message: memoryview, limits: Limits) -> Model:
    """Read a model. Raises OnnxError."""
    if len(message) > limits.model_bytes:
        raise OnnxError(f"it has {len(message)} bytes; at most {limits.model_bytes} are taken")
    try:
        return _Reader(limits).model(message)
    except protobuf.WireError as error:
        raise OnnxError(f"it is no ONNX model, or is damaged: {error}") from None


def _quoted(name: str) -> str:
    return repr(printable(name, 80))


Value = int | memoryview


class _Message:
    """The fields of a message by their names: those of `single` at most once, those of `repeated` in order."""

    def __init__(self, what: str, message: memoryview, single: dict[int, str], skipped: frozenset[int]) -> None:
        self._what, self._single, self._skipped = what, single, skipped
        self._message = message

    def __call__(self, repeated: Mapping[int, Callable[[Value], None]]) -> dict[str, Value]:
        """Hand over each value of a repeated field, and return the single ones. Raises OnnxError."""
        found: dict[str, Value] = {}
        for key, value in fields(self._message):
            if key in repeated:
                repeated[key](value)
            elif key in self._single:
                if self._single[key] in found:
                    raise OnnxError(f"{self._what} says its {self._single[key]} twice")
                found[self._single[key]] = value
            elif key not in self._skipped:
                raise OnnxError(f"{self._what} holds {_REFUSED.get((self._what, key), f'an unknown field {key}')}")
        return found


_REFUSED = {
    ("the model", 20): "training information",
    ("the model", 25): "functions of its own: inline them (onnx.inliner.inline_local_functions)",
    ("the model", 26): "settings for several devices",
    ("the graph", 15): "sparse tensors: store them densely",
    ("a node", 8): "an overload of a function",
    ("a node", 10): "settings for several devices",
    ("an attribute", 6): "a graph: export the network without control flow (If, Loop, Scan)",
    ("an attribute", 11): "graphs: export the network without control flow",
    ("an attribute", 14): "a type",
    ("an attribute", 15): "types",
    ("an attribute", 21): "a reference to a function's attribute",
    ("an attribute", 22): "a sparse tensor",
    ("an attribute", 23): "sparse tensors",
    ("a tensor", 3): "a segment of a tensor",
    ("a tensor", 6): "text",
    ("a tensor", 13): "numbers in another file: write it as one file with onnx.save_model(onnx.load(FILE), NEW_FILE)",
}
"""Why a field is refused, where it is known."""

_MODEL = {1: "ir_version", 2: "producer", 3: "producer version", 4: "domain", 5: "version", 7: "graph"}
_GRAPH = {2: "name", 10: "description"}
_NODE = {3: "name", 4: "operator", 6: "description", 7: "domain"}
_ATTRIBUTE = {1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 13: "description", 20: "type"}
_TENSOR = {2: "type", 8: "name", 9: "raw", 12: "description", 14: "place"}
_NOTHING: frozenset[int] = frozenset()
_ATTRIBUTE_TYPES = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
_BELOW_ZERO = 1 << 63


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= _BELOW_ZERO else value


class _Reader:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._edges = self._weight_bytes = 0

    def model(self, message: memoryview) -> Model:
        model = Model()
        versions: dict[str, int] = {}
        single = _Message("the model", message, _MODEL, frozenset({6, 14}))
        found = single({8: lambda value: self._opset(chunk(value), versions)})
        if "graph" not in found:
            raise OnnxError("it holds no graph")
        model.ir_version = number(found.get("ir_version", 0))
        model.opset = versions.get("", 0)
        for what, version, (least, most) in (
            ("IR version", model.ir_version, self._limits.ir_versions),
            ("opset", model.opset, self._limits.opsets),
        ):
            if not least <= version <= most:
                cure = " (onnx.version_converter converts it)" if what == "opset" else ""
                raise OnnxError(f"its {what} is {version}; {least} to {most} are taken{cure}")
        self._graph(model, chunk(found["graph"]))
        return model

    def _opset(self, message: memoryview, versions: dict[str, int]) -> None:
        found = _Message("an opset", message, {1: "domain", 2: "version"}, _NOTHING)({})
        domain = self._domain(found.get("domain", memoryview(b"")))
        if domain in versions:
            raise OnnxError("it names an opset twice")
        if domain == "":
            versions[domain] = number(found.get("version", 0))

    def _domain(self, value: Value) -> str:
        """ "" for ONNX's own. An opset of another domain may be named, as exporters do, but no node may use it."""
        name = self._name(value)
        return "" if name == "ai.onnx" else name

    def _name(self, value: Value) -> str:
        name = text(value)
        if len(name) > _LONGEST_NAME or "\0" in name:
            raise OnnxError("a name is too long, or no text")
        return name

    def _graph(self, model: Model, message: memoryview) -> None:
        inputs: list[Declared] = []
        self._count(message)

        def node(value: Value) -> None:
            model.ops.append(self._node(chunk(value), len(model.ops)))

        def initialiser(value: Value) -> None:
            constant = self._tensor(chunk(value))
            if not constant.name or constant.name in model.constants:
                raise OnnxError(f"the initialiser {_quoted(constant.name)} has no name, or is there twice")
            self._weight_bytes += constant.bytes
            if self._weight_bytes > self._limits.weight_bytes:
                raise OnnxError(f"its weights have more than {self._limits.weight_bytes} bytes")
            model.constants[constant.name] = constant

        def declared(into: list[Declared]) -> Callable[[Value], None]:
            return lambda value: into.append(self._declared(chunk(value)))

        rows = {1: node, 5: initialiser, 11: declared(inputs), 12: declared(model.outputs)}
        _Message("the graph", message, _GRAPH, frozenset({13, 14, 16}))(rows)
        for kind, names in (
            ("input", [each.name for each in inputs]),
            ("output", [each.name for each in model.outputs]),
        ):
            if len(set(names)) != len(names):
                raise OnnxError(f"it has two {kind}s of one name")
        model.inputs = [each for each in inputs if each.name not in model.constants]

    def _count(self, message: memoryview) -> None:
        """Raise OnnxError for a graph of too many parts, before any of them is read."""
        most = {
            1: (self._limits.nodes, "nodes"),
            5: (self._limits.initialisers, "initialisers"),
            11: (self._limits.initialisers, "inputs"),
            12: (self._limits.initialisers, "outputs"),
        }
        counts = dict.fromkeys(most, 0)
        for key, _ in fields(message):
            if key in counts:
                counts[key] += 1
                if counts[key] > most[key][0]:
                    raise OnnxError("it has more than {} {}".format(*most[key]))

    def _node(self, message: memoryview, place: int) -> Op:
        inputs: list[str] = []
        outputs: list[str] = []
        parts: list[memoryview] = []

        def edge(into: list[str]) -> Callable[[Value], None]:
            def add(value: Value) -> None:
                self._edges += 1
                if self._edges > self._limits.edges:
                    raise OnnxError(f"its nodes have more than {self._limits.edges} inputs and outputs")
                into.append(self._name(value))

            return add

        rows: dict[int, Callable[[Value], None]] = {1: edge(inputs), 2: edge(outputs)}
        rows[5] = lambda value: parts.append(chunk(value))
        found = _Message("a node", message, _NODE, frozenset({9}))(rows)
        kind = self._name(found.get("operator", memoryview(b"")))
        name = self._name(found["name"]) if "name" in found else ""
        label = f"node {_quoted(name or str(place))} ({printable(kind, 40)})"
        domain = self._domain(found.get("domain", memoryview(b"")))
        if domain:
            raise OnnxError(
                f"{label} is an operator of {_quoted(domain)}; only those of ONNX itself are taken: "
                "export the network without a runtime's own optimisation"
            )
        attributes = self._attributes(label, kind, parts)
        return Op(label, kind, tuple(inputs), tuple(outputs), attributes, message)

    def _attributes(self, label: str, kind: str, parts: list[memoryview]) -> dict[str, Attribute]:
        attributes: dict[str, Attribute] = {}
        if len(parts) > self._limits.attributes:
            raise OnnxError(f"{label}: it has more than {self._limits.attributes} attributes")
        for part in parts:
            try:
                name, content = self._attribute(part)
            except OnnxError as error:
                raise OnnxError(f"{label}: {error}") from None
            if name in attributes:
                raise OnnxError(f"{label}: it has the attribute {_quoted(name)} twice")
            if not _is_sane(content, is_constant=kind == "Constant"):
                raise OnnxError(f"{label}: its attribute {_quoted(name)} is not finite")
            attributes[name] = content
        return attributes

    def _attribute(self, message: memoryview) -> tuple[str, Attribute]:
        floats: list[float] = []
        ints: list[int] = []
        texts: list[str] = []
        rows = {7: self._floats(floats), 8: self._ints(ints), 9: self._texts(texts), 10: _no_tensors}
        found = _Message("an attribute", message, _ATTRIBUTE, _NOTHING)(rows)
        name = self._name(found.get("name", memoryview(b"")))
        given: set[str] = {key for key in ("f", "i", "s", "t") if key in found}
        lists: dict[str, list[Any]] = {"floats": floats, "ints": ints, "strings": texts}
        given |= {key for key, values in lists.items() if values}
        declared = _ATTRIBUTE_TYPES.get(number(found.get("type", 0)), "")
        if not declared or given - {declared}:
            raise OnnxError(f"its attribute {_quoted(name)} is of another type than it says, or of one that is refused")
        if declared in lists:
            return name, tuple(lists[declared])
        return name, self._single(name, declared, found.get(declared))

    def _single(self, name: str, kind: str, value: Value | None) -> Attribute:
        if kind == "t":
            if value is None:
                raise OnnxError(f"its attribute {_quoted(name)} holds no tensor")
            return self._tensor(chunk(value))
        if kind == "i":
            return 0 if value is None else _signed(number(value))
        if kind == "s":
            return "" if value is None else self._name(value)
        return 0.0 if value is None else _floats_of(chunk(value), 4)[0]

    def _floats(self, into: list[float]) -> Callable[[Value], None]:
        def add(value: Value) -> None:
            into.extend(_floats_of(chunk(value), 0))
            if len(into) > self._limits.attribute_values:
                raise OnnxError("an attribute holds too many numbers")

        return add

    def _ints(self, into: list[int]) -> Callable[[Value], None]:
        def add(value: Value) -> None:
            room = self._limits.attribute_values - len(into)
            into.extend([_signed(value)] if isinstance(value, int) else _packed(value, room))
            if len(into) > self._limits.attribute_values:
                raise OnnxError("an attribute holds too many numbers")

        return add

    def _texts(self, into: list[str]) -> Callable[[Value], None]:
        def add(value: Value) -> None:
            into.append(self._name(value))
            if len(into) > self._limits.attributes:
                raise OnnxError("an attribute holds too many texts")

        return add

    def _tensor(self, message: memoryview) -> Constant:
        """Raises OnnxError unless its numbers are exactly as many as its shape says."""
        shape: list[int] = []
        typed: dict[int, list[memoryview | int]] = {}

        def data(kind: int) -> Callable[[Value], None]:
            return typed.setdefault(kind, []).append

        rows: dict[int, Callable[[Value], None]] = {1: self._dims(shape)}
        rows |= {kind: data(kind) for kind in _TYPED}
        found = _Message("a tensor", message, _TENSOR, frozenset({16}))(rows)
        name, code = self._name(found.get("name", memoryview(b""))), number(found.get("type", 0))
        if code not in DTYPES:
            raise OnnxError(f"the tensor {_quoted(name)} is of the type {_STRANGE.get(code, code)}, which is refused")
        constant = Constant(name, DTYPES[code], tuple(shape), None)
        if constant.bytes > self._limits.weight_bytes:
            raise OnnxError(f"the tensor {_quoted(name)} has more than {self._limits.weight_bytes} bytes")
        kinds = [kind for kind, values in typed.items() if values]
        if number(found.get("place", 0)):
            if "raw" in found or kinds:
                raise OnnxError(f"the tensor {_quoted(name)} is here and elsewhere")
            return constant
        return Constant(name, constant.dtype, constant.shape, _numbers(constant, found.get("raw"), typed, kinds))

    def _dims(self, into: list[int]) -> Callable[[Value], None]:
        def add(value: Value) -> None:
            sides = [_signed(value)] if isinstance(value, int) else _packed(value, self._limits.rank)
            into.extend(sides)
            check_shape(into, self._limits)

        return add

    def _declared(self, message: memoryview) -> Declared:
        found = _Message("an input or output", message, {1: "name", 2: "type", 3: "description"}, frozenset({4}))({})
        name = self._name(found.get("name", memoryview(b"")))
        if not name:
            raise OnnxError("an input or output has no name")
        if "type" not in found:  # an output needs none
            return Declared(name, "", None)
        kind = _Message("a type", chunk(found["type"]), {1: "tensor", 6: "description"}, _NOTHING)
        tensor_message = kind({})
        if "tensor" not in tensor_message:
            raise OnnxError(f"{_quoted(name)} is no tensor")
        tensor = _Message("a type", chunk(tensor_message["tensor"]), {1: "type", 2: "shape"}, _NOTHING)({})
        code = number(tensor.get("type", 0))
        if code not in DTYPES:
            raise OnnxError(f"{_quoted(name)} is of the type {_STRANGE.get(code, code)}, which is refused")
        return Declared(name, DTYPES[code], self._sides(chunk(tensor["shape"])) if "shape" in tensor else None)

    def _sides(self, message: memoryview) -> tuple[int | str, ...]:
        sides: list[int | str] = []

        def side(value: Value) -> None:
            found = _Message("a side", chunk(value), {1: "value", 2: "symbol", 3: "denotation"}, _NOTHING)({})
            symbol = self._name(found.get("symbol", memoryview(b"")))
            length = _signed(number(found["value"])) if "value" in found else 0
            sides.append(length if length > 0 and not symbol else symbol or "?")
            check_shape([each for each in sides if isinstance(each, int)], self._limits)
            if len(sides) > self._limits.rank:
                raise OnnxError("a shape has too many axes")

        _Message("a shape", message, {}, _NOTHING)({1: side})
        return tuple(sides)


_LONGEST_NAME = 4096
_TYPED = (4, 5, 7, 10, 11)


def _is_sane(content: Attribute, *, is_constant: bool) -> bool:
    """Whether an attribute's numbers are finite: a constant may be infinite, as masks are."""
    numbers = content if isinstance(content, tuple) else (content,)
    real = [each for each in numbers if isinstance(each, float)]
    return not any(math.isnan(each) or (math.isinf(each) and not is_constant) for each in real)


def _no_tensors(_: Value) -> None:
    raise OnnxError("an attribute holds several tensors")


def check_shape(shape: list[int], limits: Limits) -> None:
    """Raise OnnxError for a shape with too many axes, or sides below 0 or too long."""
    if len(shape) > limits.rank:
        raise OnnxError(f"a shape has {len(shape)} axes; at most {limits.rank} are taken")
    if any(not 0 <= side <= limits.side for side in shape) or math.prod(shape) > limits.side * limits.side:
        raise OnnxError(f"a shape has a side below 0, or too long: {tuple(shape)}")


def _packed(message: memoryview, most: int) -> list[int]:
    if len(message) > protobuf.MAX_VARINT_BYTES * max(0, most):
        raise OnnxError("a list is too long")
    numbers, at = [], 0
    while at < len(message):
        value, at = protobuf.varint(message, at)
        numbers.append(_signed(value))
    return numbers


def _floats_of(message: memoryview, size: int) -> list[float]:
    if len(message) % 4 or (size and len(message) != size):
        raise OnnxError("an attribute does not hold 32 bits")
    return [float(each) for each in np.frombuffer(message, "<f4")]


def _numbers(constant: Constant, raw: Value | None, typed: Mapping[int, list[Value]], kinds: list[int]) -> Array:
    """The array of a tensor. Raises OnnxError where it does not fit."""
    dtype = np.dtype(constant.dtype).newbyteorder("<")
    if raw is not None:
        if kinds:
            raise OnnxError(f"the tensor {_quoted(constant.name)} says its numbers twice")
        if len(chunk(raw)) != constant.bytes:
            raise OnnxError(_sizes(constant, len(chunk(raw))))
        array: Array = np.frombuffer(chunk(raw), dtype)
        if constant.dtype == "bool":
            array = array.view(np.uint8) != 0
        return array.reshape(constant.shape)
    if not kinds and constant.elements == 0:
        return np.zeros(constant.shape, dtype)
    if kinds != [_FIELD_OF[constant.dtype]]:
        raise OnnxError(f"the tensor {_quoted(constant.name)} of {constant.elements} numbers holds none of its type")
    values = _typed(constant, kinds[0], typed[kinds[0]])
    if len(values) != constant.elements:
        raise OnnxError(_sizes(constant, len(values) * dtype.itemsize))
    return values.reshape(constant.shape)


_FIELD_OF = {
    "float32": 4,
    **dict.fromkeys(("int32", "int16", "int8", "uint16", "uint8", "bool", "float16"), 5),
    "int64": 7,
    "float64": 10,
    **dict.fromkeys(("uint32", "uint64"), 11),
}
"""The field in which a tensor's numbers are, where they are not raw."""


def _sizes(constant: Constant, found: int) -> str:
    return (
        f"the tensor {_quoted(constant.name)} has {found} bytes, and its shape {constant.shape} of {constant.dtype} "
        f"needs {constant.bytes}"
    )


def _typed(constant: Constant, kind: int, parts: list[Value]) -> Array:
    if kind in (4, 10):
        raw = b"".join(bytes(chunk(part)) for part in parts)
        if len(raw) != constant.bytes:
            raise OnnxError(_sizes(constant, len(raw)))
        array: Array = np.frombuffer(raw, "<f4" if kind == 4 else "<f8")
        return array
    numbers: list[int] = []
    for part in parts:
        room = constant.elements - len(numbers)
        if room <= 0:
            raise OnnxError(_sizes(constant, (len(numbers) + 1) * np.dtype(constant.dtype).itemsize))
        numbers += [_signed(part)] if isinstance(part, int) else _packed(part, room)
    return _narrowed(constant, numbers)


def _narrowed(constant: Constant, numbers: list[int]) -> Array:
    """Whole numbers as an array of a type. Raises OnnxError for those that it cannot hold."""
    if constant.dtype == "float16":
        if any(not 0 <= each < 1 << 16 for each in numbers):
            raise OnnxError(f"the tensor {_quoted(constant.name)} holds numbers that its type cannot hold")
        return np.array(numbers, np.uint16).view(np.float16)
    if constant.dtype == "uint64":
        return np.array([each & (1 << 64) - 1 for each in numbers], np.uint64)
    least, most = (0, 1) if constant.dtype == "bool" else _range_of(constant.dtype)
    if any(not least <= each <= most for each in numbers):
        raise OnnxError(f"the tensor {_quoted(constant.name)} holds numbers that its type cannot hold")
    return np.array(numbers, constant.dtype)


def _range_of(dtype: str) -> tuple[int, int]:
    about = np.iinfo(dtype)
    return int(about.min), int(about.max)
