"""A network as data, in one file: its graph, an ONNX graph whose layers have known tensors, and its weights. No torch.

    8 bytes   ECBUNDLE
    4 bytes   version
    4 bytes   0
    8 bytes   length of the header
    32 bytes  SHA-256 of the header
    8 bytes   0
    header    JSON, in UTF-8
    the rest  blobs, each at the next multiple of 64, in the order of the header

All numbers are little-endian. Nothing in it is code, and nothing is taken on trust: lengths are checked against the
file before memory is taken, the header against its digest when it is opened, each blob against its own when it is used.
The weights stay in the file, which is mapped: a segment holds only its own. What the header says: docs/bundle.md.
"""

import hashlib
import json
import math
import mmap
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models import form, graph_json, onnx_graph
from edgecloud.models.form import ALONE, ONE, Call, Form
from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.models.inputs import Fed, InputSpec, arrays_of
from edgecloud.models.onnx_graph import OnnxGraph, Part, Value
from edgecloud.models.protobuf import WireError
from edgecloud.models.specs import LayerSpec
from edgecloud.utils.dtypes import TRAVELLING, dtype_of, name_of
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced, require_file, writing
from edgecloud.utils.units import printable

SUFFIX = ".bundle"
MAGIC, FIRST, VERSION = b"ECBUNDLE", 1, 2
READABLE = (FIRST, VERSION)
"""A network of several inputs needs the second version; others are written in the first."""
_PREFIX = struct.Struct("<8sI4xQ32s8x")
PREFIX_BYTES = _PREFIX.size
_HEXADECIMAL = re.compile("[0-9a-f]{64}")
_ALIGN = 64
MAX_HEADER_BYTES, MAX_GRAPH_BYTES, MAX_EXAMPLE_BYTES = 64 << 20, 256 << 20, 256 << 20
MAX_TEXT, MAX_TEXTS = 1 << 20, 200_000
MAX_RANK = 32


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in the file."""

    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Weight:
    """An array in the file. Arrays of the same numbers share a blob."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blob: Blob


@dataclass(frozen=True, slots=True)
class Certificate:
    """A comparison of a cut with the whole network, run by torch: what both halves in ONNX Runtime gave instead."""

    point: int
    batch: int
    largest_difference: float
    """Of two numbers of the answer that belong together."""
    largest: float
    """Of the numbers of the answer, without their signs."""
    is_same_top: bool


@dataclass(frozen=True)
class Identity:
    """Which network this is: the same as HELLO says, so that both sides can compare it."""

    name: str
    weights: str
    """Digest of the weights, as torch's network has it."""
    origin: str
    is_trained: bool
    code: str = ""
    marks: str = ""
    numbers: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputForm:
    """What an input of the network is."""

    shape: tuple[int, ...]
    """Without the batch axis."""
    takes: str
    """One of models.inputs.KINDS, or `tensor`."""
    source: str
    """Where the example comes from."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """How what it takes becomes an array, as data."""
    labels: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    """What the rows of the answer to the example stand for."""
    sample: str = ""
    """Name of the default input among those of the program."""
    call: Call = ONE
    """How the network is given its inputs."""


@dataclass(frozen=True)
class Content:
    """All that a bundle says, but for the arrays."""

    identity: Identity
    input: InputForm
    graph: LayerGraph
    tensors: tuple[str, ...]
    """For every layer the name of its tensor in the ONNX graph."""
    is_batched: bool
    """Whether any number of inputs fits in the first axis."""
    bound: frozenset[int] = frozenset()
    """Layers that hold something which depends on the values of the input."""
    specs: tuple[LayerSpec, ...] | None = None
    """The layers as predictors see them; None where a kind of layer is unknown to them."""
    why_no_specs: str = ""
    certificates: tuple[Certificate, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)
    answer: Form = ALONE
    """The structure of its answer, of which the outputs of the graph are the tensors."""


class Bundle:
    """A bundle that was opened. Its arrays are read-only views of the file."""

    def __init__(
        self,
        path: Path,
        content: Content,
        model: memoryview,
        onnx: OnnxGraph,
        weights: Mapping[str, Weight],
        file: mmap.mmap,
    ):
        self.path, self.content, self.model, self.onnx = path, content, model, onnx
        self._weights, self._file, self._data = weights, file, memoryview(file)
        self._checked: set[str] = set()
        self._examples = [weights[name] for name in _examples_of(content.graph)]

    @property
    def graph(self) -> LayerGraph:
        """The layers."""
        return self.content.graph

    @cached_property
    def fed(self) -> Fed:
        """An example of what it is run on, in memory of its own. Raises UsageError where it is damaged."""
        arrays = tuple(np.array(self._array(each)) for each in self._examples)
        return arrays if len(arrays) > 1 else arrays[0]

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What it takes."""
        layers = [self.graph.layers[number] for number in self.graph.inputs]
        named = zip(self.content.input.call.names, layers, strict=True)
        return tuple(InputSpec(name, layer.out_shape, layer.out_dtype) for name, layer in named)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its header, which holds that of everything else."""
        return hashlib.sha256(self._data[_PREFIX.size : head_bytes(bytes(self._data[: _PREFIX.size]))]).hexdigest()

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all weights, each counted once."""
        blobs = {
            weight.blob.sha256: weight.blob.bytes
            for weight in self._weights.values()
            if not weight.name.startswith(_EXAMPLE)
        }
        return sum(blobs.values())

    @property
    def weight_forms(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of every weight by its name in the ONNX graph."""
        return {name: (each.dtype, each.shape) for name, each in self._weights.items() if name != _EXAMPLE}

    def weight(self, name: str) -> NDArray[Any]:
        """A weight by the name that the ONNX graph knows it by. Raises UsageError where it is damaged."""
        return self._array(self._weights[name])

    def bytes_of(self, names: Iterable[str]) -> int:
        """Of some weights, as the header says: none is read."""
        return sum(self._weights[name].blob.bytes for name in names)

    def rest(self) -> None:
        """Let the system take back the memory of what was read: it is read again from the file where it is needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._file.madvise(mmap.MADV_DONTNEED)

    def _array(self, weight: Weight) -> NDArray[Any]:
        blob = weight.blob
        raw = self._data[blob.offset : blob.offset + blob.bytes]
        if blob.sha256 not in self._checked:
            if hashlib.sha256(raw).hexdigest() != blob.sha256:
                raise UsageError(f"{self.path} is damaged: the numbers of {printable(weight.name, 80)} have changed")
            self._checked.add(blob.sha256)
        return np.frombuffer(raw, dtype=dtype_of(weight.dtype).newbyteorder("<")).reshape(weight.shape)

    def part(self, layers: Collection[int], outputs: Sequence[int] | None = None, *, has_weights: bool = False) -> Part:
        """The ONNX model of a segment: its inputs, and its outputs if no others are named, are those of `io_of`.

        Where it `has_weights` they are copied into it. Raises UsageError where the segment cannot be taken out.
        """
        inputs, usual = self.io_of(layers)
        outputs = usual if outputs is None else outputs
        passed = {self.content.tensors[number] for number in inputs}
        made = [number for number in outputs if self.content.tensors[number] not in passed]
        try:
            numbers_of = self._numbers_of if has_weights else None
            return onnx_graph.take(self.onnx, self._values(inputs), self._values(made), numbers_of)
        except WireError as error:
            raise UsageError(f"{self.path}: {error}") from None

    def _numbers_of(self, name: str) -> bytes:
        return self.weight(name).tobytes()

    def io_of(self, layers: Collection[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The layers whose tensors a segment takes, and those whose tensors it gives."""
        inside = frozenset(layers)
        own = tuple(number for number in self.graph.inputs if number in inside)
        return own + self.graph.inputs_of(inside), self.graph.outputs_of(inside)

    def _values(self, numbers: Sequence[int]) -> list[Value]:
        """Each tensor once, though several layers may have it."""
        values = {}
        for number in numbers:
            layer, name = self.graph.layers[number], self.content.tensors[number]
            is_batched = self.content.is_batched and layer.out_shape[:1] == (1,)
            values[name] = Value(name, layer.out_dtype, layer.out_shape, is_batched)
        return list(values.values())


_EXAMPLE = "example input"
"""Name of the array that is no weight; of several inputs the others have a number behind it."""


def _examples_of(graph: LayerGraph) -> list[str]:
    return [_EXAMPLE if number == INPUT else f"{_EXAMPLE} {number}" for number in graph.inputs]


# --- writing


def write(path: Path, content: Content, model: bytes, weights: Mapping[str, NDArray[Any]], example: Fed) -> None:
    """Write a bundle under a temporary name, then rename it. Raises UsageError where it cannot be written."""
    arrays = {**dict(zip(_examples_of(content.graph), arrays_of(example), strict=True)), **weights}
    blobs, places, end = _laid_out(model, arrays)
    rows = [
        {"name": name, "dtype": name_of(array.dtype), "shape": list(array.shape), **asdict(places[name])}
        for name, array in arrays.items()
    ]
    document = _to_document(content) | {"onnx": asdict(places[""]), "arrays": rows, "bytes": end}
    header = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    prefix = _PREFIX.pack(MAGIC, _version_of(content), len(header), hashlib.sha256(header).digest())
    start = _aligned(_PREFIX.size + len(header))
    with writing(path), replaced(path) as temporary, temporary.open("wb") as file:
        file.write(prefix + header)
        for offset, raw in blobs:
            file.seek(start + offset)
            file.write(raw)
        file.truncate(start + end)
    read(path)


def _version_of(content: Content) -> int:
    """The oldest that reads it: one input needs nothing new."""
    return VERSION if len(content.graph.inputs) > 1 else FIRST


def _laid_out(
    model: bytes, arrays: Mapping[str, NDArray[Any]]
) -> tuple[list[tuple[int, memoryview]], dict[str, Blob], int]:
    """Where every blob goes, those of the same bytes once; offsets count from the first."""
    blobs: list[tuple[int, memoryview]] = []
    places: dict[str, Blob] = {}
    known: dict[str, Blob] = {}
    end = 0
    for name, raw in (("", memoryview(model)), *((name, _raw(array)) for name, array in arrays.items())):
        digest = hashlib.sha256(raw).hexdigest()
        if digest not in known:
            known[digest] = Blob(_aligned(end), len(raw), digest)
            blobs.append((known[digest].offset, raw))
            end = known[digest].offset + len(raw)
        places[name] = known[digest]
    return blobs, places, end


def _raw(array: NDArray[Any]) -> memoryview:
    little = np.asarray(array, order="C").astype(array.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view(np.uint8).data


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _to_document(content: Content) -> dict[str, Any]:
    return {
        "made_by": dict(content.made_by),
        "network": asdict(content.identity) | {"graph": content.graph.digest},
        "input": {each.name: getattr(content.input, each.name) for each in fields(InputForm) if each.name != "call"},
        "graph": graph_json.to_document(content.graph),
        "tensors": list(content.tensors),
        "is_batched": content.is_batched,
        "bound": sorted(content.bound),
        "specs": None if content.specs is None else [asdict(spec) for spec in content.specs],
        "why_no_specs": content.why_no_specs,
        "certificates": [asdict(certificate) for certificate in content.certificates],
        "form": {"call": form.call_document(content.input.call), "answer": form.form_document(content.answer)},
    }


# --- reading


class _DamagedError(Exception):
    """What a file says of itself is not true."""


def is_bundle(name: str) -> bool:
    """Whether a name is that of a bundle's file."""
    return name.lower().endswith(SUFFIX)


def read(path: Path) -> Bundle:
    """Open a bundle. Raises UsageError, in one line, for a file that is none, is damaged, or of a newer version."""
    require_file(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header, start = _header(file.read(_PREFIX.size), size, lambda count: file.read(count))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _bundle(path, header, data, start)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (_DamagedError, WireError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path} is not a bundle that can be used: {_said(error)}") from None


@dataclass(frozen=True)
class Outline:
    """What the head of a bundle, all before its blobs, says of the rest, which need not be there."""

    digest: str
    """SHA-256 of the header, which holds that of everything else: equal digests mean equal networks."""
    content: Content
    head_bytes: int
    """Up to the end of the header."""
    bytes: int
    """Of the whole file."""
    blobs: tuple[Blob, ...]
    """Each once, in the order of the file, by its place in that; none overlaps another."""
    parameter_bytes: int
    examples: tuple[Weight, ...]
    """One for each input."""


def head_bytes(prefix: bytes) -> int:
    """How long a head is, by its first `PREFIX_BYTES` bytes. Raises UsageError where no bundle begins so."""
    try:
        _check_prefix(prefix, MAX_HEADER_BYTES + _PREFIX.size)
    except _DamagedError as error:
        raise UsageError(f"this is not a bundle that can be used: {_said(error)}") from None
    return _PREFIX.size + int(_PREFIX.unpack(prefix)[2])


def outline(head: bytes, size: int) -> Outline:
    """Read the head of a bundle of `size` bytes. Raises UsageError for one that lies, is damaged, or newer."""
    try:
        document, start = _header(head[: _PREFIX.size], size, lambda count: _exactly(head[_PREFIX.size :], count))
        rows = _list(document["arrays"])
        digest = hashlib.sha256(head[_PREFIX.size :])
        version = _PREFIX.unpack(head[: _PREFIX.size])[1]
        if head[: _PREFIX.size] != _PREFIX.pack(MAGIC, version, len(head) - _PREFIX.size, digest.digest()):
            raise _DamagedError("its first bytes hold something else where zeros belong")
        if start + _whole(document["bytes"]) != size:
            raise _DamagedError(f"it has {size} bytes, and should have {start + document['bytes']}")
        weights = _weights(rows, start, size)
        model = _blob(document["onnx"], start, size)
        content = _content(document)
        examples = tuple(weights[name] for name in _examples_of(content.graph))
        if model.bytes > MAX_GRAPH_BYTES or any(each.blob.bytes > MAX_EXAMPLE_BYTES for each in examples):
            raise _DamagedError("its ONNX graph or its example is too large")
        blobs = {model, *(weight.blob for weight in weights.values())}
        in_order = tuple(sorted(blobs, key=lambda blob: (blob.offset, blob.bytes)))
        if any(one.offset + one.bytes > other.offset for one, other in pairwise(in_order)):
            raise _DamagedError("its parts overlap")
        if not all(_HEXADECIMAL.fullmatch(blob.sha256) for blob in blobs):
            raise _DamagedError("a part has no SHA-256")
        parameters = {weight.blob for name, weight in weights.items() if not name.startswith(_EXAMPLE)}
        total = sum(blob.bytes for blob in parameters)
        return Outline(digest.hexdigest(), content, len(head), size, in_order, total, examples)
    except (_DamagedError, UsageError, WireError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"this is not a bundle that can be used: {_said(error)}") from None


def outline_of(path: Path) -> Outline:
    """The same of a file. Raises UsageError."""
    require_file(path)
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            return outline(prefix + file.read(head_bytes(prefix) - _PREFIX.size), path.stat().st_size)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _exactly(raw: bytes, count: int) -> bytes:
    if len(raw) != count:
        raise _DamagedError("its header is of another length than it says")
    return raw


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {printable(str(error.args[0]), 60)}"
    if isinstance(error, RecursionError):
        return "its header is nested too deeply"
    return printable(str(error), 200)


_OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\x7fELF": "a program",
}


def _check_prefix(prefix: bytes, size: int) -> None:
    """Whether a file of so many bytes may begin so."""
    if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
        what = next((what for magic, what in _OTHERS.items() if prefix.startswith(magic)), "")
        if not what and prefix[:1] == b"\x08" and len(prefix) > 2:
            what = "an ONNX model: export the network that it was made from with deployment.py export"
        kind = f"it is {what}" if what else "it does not begin as one (deployment.py export makes bundles)"
        raise _DamagedError(kind)
    _, version, length, _ = _PREFIX.unpack(prefix)
    if version not in READABLE:
        is_newer = version > VERSION
        raise _DamagedError(
            f"it is of version {version}, and this program reads version {VERSION}: "
            + ("update this program, or export again with it" if is_newer else "export it again")
        )
    if length > min(MAX_HEADER_BYTES, size - _PREFIX.size):
        raise _DamagedError("it is cut off: its header is longer than the file")


def _header(prefix: bytes, size: int, more: Any) -> tuple[Any, int]:
    """The document, and where the blobs begin."""
    _check_prefix(prefix, size)
    _, _, length, digest = _PREFIX.unpack(prefix)
    raw = more(length)
    if hashlib.sha256(raw).digest() != digest:
        raise _DamagedError("its header is damaged")
    document = json.loads(raw.decode(), parse_constant=_no_constant)
    if not isinstance(document, dict):
        raise _DamagedError("its header is no document")
    return document, _aligned(_PREFIX.size + length)


def _no_constant(name: str) -> Any:
    raise _DamagedError(f"its header holds {name}")


def _bundle(path: Path, document: Any, data: mmap.mmap, start: int) -> Bundle:
    if start + _whole(document["bytes"]) != len(data):
        raise _DamagedError(f"it has {len(data)} bytes, and should have {start + document['bytes']}")
    content = _content(document)
    model = _blob(document["onnx"], start, len(data))
    weights = _weights(document["arrays"], start, len(data))
    if model.bytes > MAX_GRAPH_BYTES or any(
        weights[name].blob.bytes > MAX_EXAMPLE_BYTES for name in _examples_of(content.graph)
    ):
        raise _DamagedError("its ONNX graph or its example is too large")
    raw = memoryview(data)[model.offset : model.offset + model.bytes]
    if hashlib.sha256(raw).hexdigest() != model.sha256:
        raise _DamagedError("its ONNX graph is damaged")
    onnx = onnx_graph.parse(raw)
    _check_together(content, onnx, weights)
    return Bundle(path, content, raw, onnx, weights, data)


def _check_together(content: Content, onnx: OnnxGraph, weights: Mapping[str, Weight]) -> None:
    """What the parts of a file say of each other."""
    given = {content.tensors[number] for number in content.graph.inputs}
    for name in content.tensors:
        if name not in onnx.made_by and name not in given:
            raise _DamagedError(f"its ONNX graph does not make {name[:80]!r}")
    for name, tensor in onnx.weights.items():
        weight = weights.get(name)
        if weight is None or (weight.dtype, weight.shape) != (tensor.dtype, tensor.shape):
            raise _DamagedError(f"it has no weights {name[:80]!r} of the shape in its ONNX graph")
    for name, number in zip(_examples_of(content.graph), content.graph.inputs, strict=True):
        example, layer = weights[name], content.graph.layers[number]
        if (example.shape, example.dtype) != (layer.out_shape, layer.out_dtype):
            raise _DamagedError("its example is of another shape than its input")
    if content.graph.layers[INPUT].out_shape[1:] != content.input.shape:
        raise _DamagedError("its input is of another shape than it says")


def _content(document: Any) -> Content:
    graph, _ = graph_json.parse(document["graph"], _text(document["network"]["name"]))
    if graph.digest != document["network"]["graph"]:
        raise _DamagedError("its graph is not the one that it names")
    if strange := {layer.out_dtype for layer in graph.layers} - set(TRAVELLING):
        raise _DamagedError(f"a layer makes numbers of the type {min(strange)[:40]!r}")
    tensors = _texts(document["tensors"])
    bound = frozenset(_whole(number) for number in _list(document["bound"]))
    if len(tensors) != len(graph.layers) or not bound <= graph.everything:
        raise _DamagedError("its graph and the tensors of its layers do not fit")
    call, answer = _forms(document.get("form"), len(graph.inputs), len(graph.outputs))
    specs = document["specs"]
    if specs is not None and len(_list(specs)) != len(graph.layers) - 1:
        raise _DamagedError("it does not describe every layer")
    return Content(
        identity=_identity(document["network"]),
        input=_input(document["input"], call),
        graph=graph,
        tensors=tensors,
        is_batched=_flag(document["is_batched"]),
        bound=bound,
        specs=None if specs is None else tuple(_spec(row) for row in specs),
        why_no_specs=_text(document["why_no_specs"]),
        certificates=tuple(_certificate(row, len(graph.points)) for row in _list(document["certificates"])),
        made_by={_text(key): _text(value) for key, value in _object(document["made_by"]).items()},
        answer=answer,
    )


def _identity(row: Any) -> Identity:
    texts = {key: _text(row[key]) for key in ("name", "weights", "origin", "code", "marks", "numbers")}
    return Identity(**texts, is_trained=_flag(row["is_trained"]), names=_texts(row["names"]))


def _forms(document: Any, inputs: int, outputs: int) -> tuple[Call, Form]:
    """How it is called, and how its answer is built; a file without that has one input, and tensors for its answer."""
    if document is None:
        if inputs != 1:
            raise _DamagedError("it has several inputs, and does not say how they are given")
        return ONE, ALONE if outputs == 1 else Form({"tuple": list(range(outputs))})
    return form.read_call(document["call"], inputs), form.read(document["answer"], outputs)


def _input(row: Any, call: Call) -> InputForm:
    texts = {key: _text(row[key]) for key in ("takes", "source", "sample")}
    labels, rows = _texts(row["labels"]), _texts(row["rows"])
    preprocess = _object(row["preprocess"])
    return InputForm(_shape(row["shape"]), **texts, preprocess=preprocess, labels=labels, rows=rows, call=call)


_SHAPES, _PAIRS = ("in_shape", "out_shape"), ("kernel", "stride")


def _spec(row: Any) -> LayerSpec:
    values: dict[str, Any] = {}
    for each in fields(LayerSpec):
        value = row[each.name]
        if each.name in _SHAPES or each.name in _PAIRS:
            values[each.name] = _shape(value)
        elif each.name == "is_in_place":
            values[each.name] = _flag(value)
        elif each.name in ("kind", "variant"):
            values[each.name] = _text(value)
        else:
            values[each.name] = _whole(value)
    if any(len(values[name]) != 2 for name in _PAIRS):
        raise _DamagedError("a layer's kernel is no pair of numbers")
    return LayerSpec(**values)


def _certificate(row: Any, points: int) -> Certificate:
    numbers = [row["largest_difference"], row["largest"]]
    if not all(isinstance(each, int | float) and math.isfinite(each) and each >= 0 for each in numbers):
        raise _DamagedError("a certificate holds no numbers")
    point, batch = _whole(row["point"]), _whole(row["batch"])
    if point >= points:
        raise _DamagedError(f"it has no point {point}, for which there is a certificate")
    return Certificate(point, batch, float(numbers[0]), float(numbers[1]), _flag(row["is_same_top"]))


def _weights(rows: Any, start: int, size: int) -> dict[str, Weight]:
    weights: dict[str, Weight] = {}
    for row in _list(rows):
        name, dtype, shape = _text(row["name"]), _text(row["dtype"]), _shape(row["shape"])
        blob = _blob(row, start, size)
        if dtype not in TRAVELLING or name in weights:
            raise _DamagedError(f"{name[:80]!r} is of the type {dtype[:40]!r}, or there twice")
        if math.prod(shape) * dtype_of(dtype).itemsize != blob.bytes:
            raise _DamagedError(f"{name[:80]!r} has {blob.bytes} bytes, which does not fit its shape")
        weights[name] = Weight(name, dtype, shape, blob)
    return weights


def _blob(row: Any, start: int, size: int) -> Blob:
    """Raises _DamagedError where it does not lie in the file."""
    offset, length, digest = _whole(row["offset"]), _whole(row["bytes"]), _text(row["sha256"])
    if offset % _ALIGN or start + offset + length > size:
        raise _DamagedError("a part of it lies outside of the file")
    return Blob(start + offset, length, digest)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise _DamagedError("its header holds something else where a whole number belongs")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise _DamagedError("its header holds something else where a text belongs")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _DamagedError("its header holds something else where true or false belongs")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_TEXTS:
        raise _DamagedError("its header holds something else where a list belongs")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MAX_TEXTS:
        raise _DamagedError("its header holds something else where an object belongs")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(each) for each in _list(value))


def _shape(value: Any) -> tuple[int, ...]:
    sizes = tuple(_whole(each) for each in _list(value))
    if len(sizes) > MAX_RANK:
        raise _DamagedError("a shape has too many axes")
    return sizes
