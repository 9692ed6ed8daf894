"""A FILE.onnx that somebody else has made becomes a bundle: its nodes are the layers. No torch, no ONNX package.

What does not depend on the input of the network is no layer: it belongs to each segment that reads it, where a runtime
works it out once. So do shapes, which are known here. A node that makes several tensors is as many layers, which share
the node where they are together. Where all shapes follow the first axis, any number of inputs fits in it.
"""

import hashlib
import mmap
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models import onnx_graph, onnx_model, onnx_rules
from edgecloud.models.bundle import Content, Identity, InputForm
from edgecloud.models.form import Call, Form
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.models.graph_json import MAX_NAME
from edgecloud.models.onnx_graph import TYPES, Value
from edgecloud.models.onnx_model import Constant, Declared, Model, OnnxError, Op
from edgecloud.models.onnx_rules import Checked, Info, Limits
from edgecloud.models.onnx_specs import Described, spec_of
from edgecloud.models.protobuf import WireError, bytes_field, chunk, fields, varint_field
from edgecloud.models.specs import LayerSpec, UnknownLayerError
from edgecloud.utils.dtypes import TRAVELLING
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.units import printable

SUFFIX = ".onnx"
VERSION = 1
"""Of how files are read: what was made of them by another one is made again."""
LIMITS = Limits(
    nodes=200_000,
    initialisers=200_000,
    edges=2_000_000,
    tensor_bytes=8 << 30,
    total_bytes=1 << 42,
    operations=1e16,
)
"""For a file of the user's own, which is to be understood and not to be feared."""
INLINE_BYTES = 256
IR_VERSION = 8
"""The least that is written: before 4, weights had to be inputs too."""
_NAME = re.compile(r"(?P<file>.*\.onnx)(:(?P<sizes>[^:]+))?", re.DOTALL | re.IGNORECASE)
_SIZES = re.compile(r"((?P<name>.+)=)?(?P<sides>[0-9]{1,9}(x[0-9]{1,9})*)", re.DOTALL)
BATCHES = (2, 3)
SEED = 0
_SEVERAL = "{} has several inputs: no predictor knows such layers"

Array = NDArray[Any]
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Where:
    """A file, and what the user says of the sizes of its inputs."""

    path: Path
    sizes: str = ""

    @property
    def name(self) -> str:
        """What both sides call the network, wherever its file lies: FILE.onnx, or FILE.onnx:SIZES."""
        return f"{self.path.name}:{self.sizes}" if self.sizes else self.path.name

    @property
    def flag(self) -> str:
        """The same with its whole path, for another program on this machine."""
        return f"{self.path.resolve()}:{self.sizes}" if self.sizes else str(self.path.resolve())

    def given(self) -> dict[str, Sizes]:
        """The sizes by the name of the input, "" where there is no name. Raises UsageError."""
        found: dict[str, Sizes] = {}
        for part in self.sizes.split(",") if self.sizes else ():
            match = _SIZES.fullmatch(part)
            if match is None:
                raise UsageError(
                    f"{printable(self.sizes, 80)!r} are no sizes: {self.path.name}:1x3x224x224 gives those of the "
                    f"input, {self.path.name}:NAME=1x3x224x224,OTHER=1x8 those of several"
                )
            found[match["name"] or ""] = tuple(int(side) for side in match["sides"].split("x"))
        return found


def where(name: str) -> Where | None:
    """Split FILE.onnx[:SIZES]; None for every other name. Opens nothing."""
    match = _NAME.fullmatch(name)
    return None if match is None else Where(Path(match["file"]), match["sizes"] or "")


def contents(path: Path) -> memoryview:
    """The bytes of a file, mapped. Raises UsageError."""
    require_file(path)
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise UsageError(f"{path} is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class Converted:
    """What a bundle is written of."""

    content: Content
    model: bytes
    weights: Mapping[str, Array]
    fed: tuple[Array, ...]
    """An example of each input."""


def convert(raw: memoryview, place: Where, *, may_batch: bool = True) -> Converted:
    """Make a bundle of the bytes of a file. Raises UsageError, in one line, for one that cannot be run or cut."""
    try:
        model = onnx_model.read(raw, LIMITS)
        given = _inputs(model, place)
        checked = onnx_rules.walk(model, given, LIMITS)
        plan = _batched(model, given, checked) if may_batch else None
        plan = plan or _Plan(checked, ())
        return _converted(plan, place, "sha256:" + hashlib.sha256(raw).hexdigest())
    except (OnnxError, WireError) as error:
        raise UsageError(f"{place.path}: {error}") from None


# --- the input


def _inputs(model: Model, place: Where) -> dict[str, Info]:
    sizes = place.given()
    names = [each.name for each in model.inputs]
    if not names:
        raise OnnxError("it has no input")
    if unknown := sorted(set(sizes) - {"", *names}):
        raise OnnxError(f"it has no input {printable(unknown[0], 80)!r}: it has {_listed(names)}")
    if "" in sizes and len(names) > 1:
        raise OnnxError(f"it has {len(names)} inputs ({_listed(names)}): say which the sizes are of, NAME=1x3x224x224")
    return {each.name: _input(each, sizes.get(each.name, sizes.get("")), place) for each in model.inputs}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name, 40) for name in names[:8])


def _input(declared: Declared, sizes: Sizes | None, place: Where) -> Info:
    if declared.dtype not in TYPES:
        raise OnnxError(f"its input {declared.name!r} is {declared.dtype}, which cannot travel")
    if declared.shape is None and sizes is None:
        raise OnnxError(f"it does not say the shape of its input {declared.name!r}: {_cure(place, declared)}")
    shape = declared.shape or ()
    if sizes is None:
        known = [1 if number == 0 and isinstance(side, str) else side for number, side in enumerate(shape)]
        if any(isinstance(side, str) for side in known):
            raise OnnxError(f"its input {declared.name!r} is {_told(shape)}: {_cure(place, declared)}")
        sizes = tuple(side for side in known if isinstance(side, int))
    return Info(declared.dtype, sizes)


def _told(shape: Sequence[int | str]) -> str:
    return " x ".join(printable(str(side), 40) for side in shape)


def _cure(place: Where, declared: Declared) -> str:
    shape = declared.shape or (1, 3, 224, 224)
    known = [side if isinstance(side, int) else 1 if number == 0 else 224 for number, side in enumerate(shape)]
    return f"say its sizes on both sides, for example {place.path.name}:{declared.name}={'x'.join(map(str, known))}"


# --- what is a layer


@dataclass
class _Plan:
    """What becomes of each tensor. `others` are the same network with other numbers of inputs at once."""

    checked: Checked
    others: Sequence[Checked]
    inner: frozenset[str] = frozenset()
    """Tensors that are no layers, though they could be: their nodes belong to those that read them."""
    fixed: set[str] = field(default_factory=set)
    """What does not depend on the input."""
    folded: dict[str, Array] = field(default_factory=dict)
    """Of these, what is written as a constant."""
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each other tensor that is no layer the layers behind it: it goes by another name, or is a shape."""
    renamed: dict[str, dict[int, str]] = field(default_factory=dict)
    """Inputs of the node that makes a tensor that are read from a constant instead, by their places."""
    makers: dict[str, Op] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = self.checked.model
        self.fixed |= set(model.constants)
        read = {name for op in model.ops for name in op.inputs} | {each.name for each in model.outputs}
        for op in model.ops:
            made = [name for name in op.outputs if name in read]
            self.makers.update(dict.fromkeys(made, op))
            self._place(op, made)

    @property
    def inputs(self) -> list[str]:
        """The names of the network's inputs."""
        return [each.name for each in self.checked.model.inputs]

    def _place(self, op: Op, made: list[str]) -> None:
        if all(name in self.fixed for name in op.inputs if name):
            self.fixed |= set(made)
            if op.kind == "Constant":
                self.folded.update((name, _numbers(op, self.checked.infos[name])) for name in made)
            return
        if len(made) == 1 and (value := self.checked.infos[made[0]].value) is not None:
            if all(_equal(value, other.infos[made[0]].value) for other in self.others):
                self.fixed.add(made[0])
                self.folded[made[0]] = value
            else:
                self.sources[made[0]] = self.behind(op.inputs)
            return
        if op.kind in _NOTHING and made == [op.outputs[0]]:
            self.sources[made[0]] = self.behind(op.inputs[:1])
            return
        for name in made:
            self._free(op, name)
            if name in self.inner:
                self.sources[name] = self.reads(name)
            else:
                self.layers.append(name)

    def behind(self, names: Iterable[str]) -> tuple[str, ...]:
        """The layers, and the input, that some tensors are made of."""
        found: dict[str, None] = {}
        for name in names:
            if name and name not in self.fixed:
                found.update(dict.fromkeys(self.sources.get(name, (name,))))
        return tuple(found)

    def _free(self, op: Op, name: str) -> None:
        """Let a shape that only repeats the number of inputs be a constant."""
        if op.kind not in ("Reshape", "Expand") or op.inputs[1] not in self.sources:
            return
        free = _free_shape(op, [self.checked, *self.others])
        if free is not None:
            constant = f"{op.inputs[1]}:{name}"
            self.renamed[name] = {1: constant}
            self.folded[constant] = np.array(free, np.int64)
            self.fixed.add(constant)

    def reads(self, name: str) -> tuple[str, ...]:
        """The layers that a layer reads, the input among them."""
        renamed = self.renamed.get(name, {})
        return self.behind(renamed.get(place, each) for place, each in enumerate(self.makers[name].inputs))


_NOTHING = ("Identity", "Dropout")
"""Nodes that give what they take."""
_MOVES = ("Transpose", "Reshape", "Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Flatten")
"""Nodes that only move numbers: it costs little to do that again where they are read."""


def _numbers(op: Op, info: Info) -> Array:
    value = op.attributes.get("value")
    numbers = value.numbers if isinstance(value, Constant) else info.value
    if numbers is None:
        raise OnnxError(f"{op.label}: its numbers are elsewhere")
    return np.asarray(numbers)


def _equal(a: Array, b: Array | None) -> bool:
    return b is not None and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _free_shape(op: Op, walks: Sequence[Checked]) -> list[int] | None:
    """A shape that serves any number of inputs, where only one side of it follows that; None where there is none."""
    values = [walk.infos[op.inputs[1]].value for walk in walks]
    shapes = [walk.infos[op.inputs[0]].shape for walk in walks]
    rows = [[int(side) for side in value.reshape(-1)] for value in values if value is not None]
    if len(rows) < len(walks) or len({len(row) for row in rows}) != 1:
        return None
    differing = [place for place in range(len(rows[0])) if len({row[place] for row in rows}) > 1]
    if len(differing) != 1:
        return None
    place = differing[0]
    if op.kind == "Expand":
        back = place - len(rows[0])
        follows = all(
            len(shape) >= -back and shape[back] == row[place] for shape, row in zip(shapes, rows, strict=True)
        )
        return [*rows[0][:place], 1, *rows[0][place + 1 :]] if follows else None
    if -1 not in rows[0] and (0 not in rows[0] or not op.attributes.get("allowzero")):
        return [*rows[0][:place], -1, *rows[0][place + 1 :]]
    follows = all(len(shape) > place and shape[place] == row[place] for shape, row in zip(shapes, rows, strict=True))
    return [*rows[0][:place], 0, *rows[0][place + 1 :]] if follows and not op.attributes.get("allowzero") else None


def _batched(model: Model, given: Mapping[str, Info], one: Checked) -> _Plan | None:
    """The plan for any number of inputs in the first axis; None where the network is written for the number it has.

    What follows in another axis, such as queries, keys and values that were stacked before, is no layer where that only
    takes moving numbers: nobody could tell one input from the next at such a cut.
    """
    walks = []
    if any(info.shape[:1] != (1,) for info in given.values()):
        return None
    free = Model(model.ir_version, model.opset, model.ops, model.constants, _any_batch(model.inputs), model.outputs)
    for count in BATCHES:
        try:
            several = {name: Info(info.dtype, (count, *info.shape[1:])) for name, info in given.items()}
            walks.append(onnx_rules.walk(free, several, LIMITS))
        except OnnxError:  # a shape that is fixed, say
            return None
    plan = _Plan(one, walks)
    strange = {name for name in _needed(plan) if not _follows(name, one, walks)}
    plan = _Plan(one, walks, frozenset(name for name in strange if plan.makers[name].kind in _MOVES))
    is_told = all(one.infos[name].shape[:1] != (1,) for name in strange.intersection(_needed(plan)))
    return plan if is_told and all(_follows(each.name, one, walks) for each in model.outputs) else None


def _follows(name: str, one: Checked, walks: Sequence[Checked]) -> bool:
    """Whether the first axis of a tensor counts inputs."""
    shape = one.infos[name].shape
    return shape[:1] == (1,) and all(
        walk.infos[name].shape == (count, *shape[1:]) for count, walk in zip(BATCHES, walks, strict=True)
    )


def _any_batch(inputs: Sequence[Declared]) -> list[Declared]:
    return [
        Declared(each.name, each.dtype, None if each.shape is None else ("batch", *each.shape[1:])) for each in inputs
    ]


def _needed(plan: _Plan) -> list[str]:
    """The layers that the answer needs, in order. Raises OnnxError for an answer that does not depend on the input."""
    waiting: list[str] = []
    needed: set[str] = set()
    inputs = set(plan.inputs)
    for each in plan.checked.model.outputs:
        behind = plan.behind([each.name])
        if not behind:
            raise OnnxError(f"its output {printable(each.name, 80)!r} does not depend on its input")
        waiting += behind
    while waiting:
        name = waiting.pop()
        if name not in inputs and name not in needed:
            needed.add(name)
            waiting += plan.reads(name)
    return [name for name in plan.layers if name in needed]


# --- writing


def _converted(plan: _Plan, place: Where, digest: str) -> Converted:
    inputs, made = plan.inputs, _needed(plan)
    names, infos = [*inputs, *made], plan.checked.infos
    for name in made:
        _check_layer(plan.makers[name], infos[name])
    numbers = {name: number for number, name in enumerate(names)}
    ids = _ids(names)
    layers = [_layer(ids[name], infos[name], "input", ()) for name in inputs]
    for name in made:
        reads = tuple(sorted(numbers[each] for each in plan.reads(name)))
        layers.append(_layer(ids[name], infos[name], plan.makers[name].kind, reads))
    outputs = tuple(numbers[_answer(plan, each.name)] for each in plan.checked.model.outputs)
    graph = LayerGraph(place.name, tuple(layers), outputs)
    model, weights = _written(plan, names)
    _check_cuts(graph, names, model)
    specs, why_not = (None, _SEVERAL.format(place.name)) if len(inputs) > 1 else _specs(plan, made, place.name)
    call = Call(Form({"dict": [[name, number] for number, name in enumerate(inputs)]}), len(inputs), len(inputs))
    content = Content(
        identity=Identity(place.name, digest, f"file {place.path.name}", is_trained=True),
        input=InputForm(infos[inputs[0]].shape[1:], "tensor", "random numbers (seed 0)", sample="example", call=call),
        graph=graph,
        tensors=tuple(names),
        is_batched=bool(plan.others),
        specs=specs,
        why_no_specs=why_not,
        made_by={"onnx file": str(VERSION)},
        answer=Form({"dict": [[each.name, number] for number, each in enumerate(plan.checked.model.outputs)]}),
    )
    return Converted(
        content, model, weights, tuple(example_of(infos[name].shape, infos[name].dtype) for name in inputs)
    )


def example_of(shape: Sizes, dtype: str = "float32", seed: int = SEED) -> Array:
    """An input that is always the same. Whole numbers are 0 and 1, which any table and any mask takes."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _answer(plan: _Plan, name: str) -> str:
    behind = plan.behind([name])
    if len(behind) != 1 or (name in plan.sources and plan.makers[name].kind not in _NOTHING):
        raise OnnxError(f"its output {printable(name, 80)!r} is a shape, and no answer")
    return behind[0]


def _check_layer(op: Op, info: Info) -> None:
    if not info.is_exact:
        raise OnnxError(
            f"{op.label}: the size of what it makes depends on the values of the input; cut the file before it, and do "
            "the rest with the answer"
        )
    if info.dtype not in TRAVELLING:
        raise OnnxError(f"{op.label}: it makes {info.dtype}, which cannot travel: cast it to a signed type")


def _layer(identifier: str, info: Info, kind: str, inputs: tuple[int, ...]) -> Layer:
    return Layer(identifier, kind, inputs, info.bytes, info.shape, info.dtype)


def _ids(names: Sequence[str]) -> dict[str, str]:
    """What layers are called: as their tensors, the longest shortened."""
    short = {
        name: name if 0 < len(name) <= MAX_NAME else f"{name[: MAX_NAME - 12]}~{n}" for n, name in enumerate(names)
    }
    if len(set(short.values())) != len(short):
        short = {name: f"{name[: MAX_NAME - 12]}~{number}" for number, name in enumerate(names)}
    return short


def _written(plan: _Plan, names: Sequence[str]) -> tuple[bytes, dict[str, Array]]:
    """The nodes and constants that the layers need, and their weights, which are kept apart."""
    nodes, constants = _parts(plan, names)
    weights: dict[str, Array] = {}
    messages = []
    for name, array in constants.items():
        if array.nbytes > INLINE_BYTES and str(array.dtype) in TYPES:
            weights[name] = array
            messages.append(onnx_graph.weight_message(name, str(array.dtype), array.shape))
        else:
            messages.append(_tensor(name, array))
    body = [
        *(bytes_field(1, node) for node in nodes),
        bytes_field(2, "network"),
        *(bytes_field(5, each) for each in messages),
    ]
    model = plan.checked.model
    return onnx_graph.model_message(max(model.ir_version, IR_VERSION), model.opset, b"".join(body)), weights


def _parts(plan: _Plan, names: Sequence[str]) -> tuple[list[bytes], dict[str, Array]]:
    """The nodes in the order of the file, and the constants, that it takes to make some tensors."""
    wanted, seen, inputs = list(names), set(), set(plan.inputs)
    ops: dict[int, Op] = {}
    constants: dict[str, Array] = {}
    while wanted:
        name = wanted.pop()
        if not name or name in seen or name in inputs:
            continue
        seen.add(name)
        if name in plan.folded:
            constants[name] = plan.folded[name]
        elif name in plan.checked.model.constants:
            constants[name] = _held(plan.checked.model.constants[name])
        else:
            op = plan.makers[name]
            ops[id(op)] = op
            wanted += _renamed(plan, op)
    order = [op for op in plan.checked.model.ops if id(op) in ops]
    return [_message(op, _renamed(plan, op)) for op in order], dict(sorted(constants.items()))


def _renamed(plan: _Plan, op: Op) -> list[str]:
    """The inputs of a node as they are written."""
    changes = plan.renamed.get(op.outputs[0], {})
    return [changes.get(place, name) for place, name in enumerate(op.inputs)]


def _held(constant: Constant) -> Array:
    if constant.numbers is None:
        raise OnnxError(f"the numbers of {printable(constant.name, 80)!r} are elsewhere")
    return np.asarray(constant.numbers)


def _message(op: Op, inputs: Sequence[str]) -> bytes:
    """A node without its history, which names the exporting user's files."""
    kept = [bytes_field(1, name) for name in inputs]
    kept += [bytes_field(key, chunk(value)) for key, value in fields(op.message) if key in _KEPT]
    return b"".join(kept)


_KEPT = (2, 4, 5)
"""Outputs, operator, attributes."""


def _tensor(name: str, array: Array) -> bytes:
    code = {dtype: code for code, dtype in onnx_model.DTYPES.items()}[str(array.dtype.newbyteorder("="))]
    little = np.asarray(array, order="C").astype(array.dtype.newbyteorder("<"), copy=False)
    sides = b"".join(varint_field(1, side) for side in array.shape)
    return sides + varint_field(2, code) + bytes_field(8, name) + bytes_field(9, little.tobytes())


def _check_cuts(graph: LayerGraph, names: Sequence[str], model: bytes) -> None:
    """Raise WireError unless every layer can be taken out of the graph by itself."""
    parsed = onnx_graph.parse(memoryview(model))
    for number, layer in enumerate(graph.layers):
        if layer.inputs:
            given = [Value(names[source], "float32", (), False) for source in layer.inputs]
            onnx_graph.take(parsed, given, [Value(names[number], "float32", (), False)])


def _specs(plan: _Plan, names: Sequence[str], network: str) -> tuple[tuple[LayerSpec, ...] | None, str]:
    infos = plan.checked.infos
    rows = []
    for name in names:
        op = plan.makers[name]
        weights = [infos[each] for each in op.inputs if each in plan.fixed and each in infos]
        layer = Described(op, infos[name], [infos[each] for each in plan.reads(name)], weights)
        try:
            rows.append(spec_of(layer, network))
        except UnknownLayerError as error:
            return None, str(error)
    return tuple(rows), ""
