"""Layers of a bundle that can be computed by rows, and an ONNX model for each step. Pure.

A layer is made by nodes of the ONNX graph. It can be computed by rows where it is one convolution or pooling, or where
each of its nodes computes every row alone; whatever depends on constants alone goes with it. A step's model has the
same nodes, on rows: with padding at real borders only, and with shapes that say how many rows there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from edgecloud.models import onnx_graph
from edgecloud.models.graph import LayerGraph
from edgecloud.models.onnx_graph import OnnxGraph, Part, Tensor, Value
from edgecloud.models.onnx_model import Op
from edgecloud.models.onnx_rules import Checked
from edgecloud.models.rows import ROWS, Made, RowOp, RowPlan, Rows, RowStep, Window

LEAST_OPSET = 13
"""Older operators have other meanings for some settings."""
LEAST_PLACES = 48
"""Of the output of a convolution, in one block: each call reads all weights, and rows are copied around it."""
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OnnxRow:
    """A layer that can be computed by rows."""

    op: RowOp
    nodes: tuple[int, ...]
    """Their places in the graph, in order."""
    pads: Shape = ()
    """Of the convolution, pooling or pad, where it is one ..."""
    pads_at: int = 0
    """... and the place of those before the first row."""
    shapes: Mapping[int, tuple[Shape, int]] | None = None
    """Of each node that gives its input another shape: what it makes, and which axis of that the rows are."""


class _WholeError(Exception):
    """A layer is computed whole: it looks further than a window, or not all of it is understood."""


def row_layers(graph: LayerGraph, tensors: Sequence[str], onnx: OnnxGraph, checked: Checked) -> dict[int, OnnxRow]:
    """Those of a network, by number; `tensors` are the names of what the layers make."""
    found: dict[int, OnnxRow] = {}
    if onnx.opset < LEAST_OPSET:
        return found
    axes: dict[int, int] = {}
    for number, layer in enumerate(graph.layers):
        axes[number] = ROWS if len(layer.out_shape) > ROWS else -1
        if layer.inputs:
            sources = {tensors[source]: axes[source] for source in layer.inputs}
            try:
                found[number] = _Layer(onnx, checked, sources, tensors[number]).row(len(layer.inputs))
            except _WholeError:
                continue
            axes[number] = found[number].op.axis
    return found


# --- one layer


@dataclass(frozen=True, slots=True)
class _Call:
    """A node, as a rule sees it."""

    op: Op
    axes: tuple[int | None, ...]
    """Of the rows of its inputs; None where it has none: a constant, or what is the same for all rows."""
    shapes: tuple[Shape, ...]
    out_shape: Shape
    wholes: tuple[tuple[int, ...] | None, ...]
    """The numbers of inputs that are small constants of whole numbers."""

    @property
    def axis(self) -> int:
        """Of its first input, which is the only one that has rows."""
        axis = self.axes[0] if self.axes else None
        if axis is None or any(each is not None for each in self.axes[1:]):
            raise _WholeError
        return axis

    def whole(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        value = self.op.attributes.get(name, default)
        if not isinstance(value, int):
            raise _WholeError
        return value

    def sides(self, name: str, default: Shape) -> Shape:
        """An attribute that is a list of whole numbers."""
        value = self.op.attributes.get(name) or default
        if not isinstance(value, tuple):
            raise _WholeError
        return tuple(int(each) for each in value)


Rule: TypeAlias = Callable[[_Call], int]
"""Where the rows are in what a node makes. Raises _WholeError where it does not make every row alone."""


class _Layer:
    """Finds out how the nodes of a layer look at what it reads."""

    def __init__(self, onnx: OnnxGraph, checked: Checked, sources: Mapping[str, int], wanted: str) -> None:
        self._onnx, self._infos, self._ops = onnx, checked.infos, checked.model.ops
        self._sources, self._wanted = sources, wanted
        self._depends: dict[str, bool] = dict.fromkeys(sources, True)
        self._nodes: list[int] = []

    def row(self, inputs: int) -> OnnxRow:
        """Raises _WholeError."""
        if len(self._sources) != inputs or any(axis < 0 for axis in self._sources.values()):
            raise _WholeError
        if self._wanted in self._sources and inputs > 1:
            raise _WholeError
        self._visit(self._wanted)
        computing = [place for place in sorted(self._nodes) if self._is_fed(place)]
        if len(computing) == 1 and self._ops[computing[0]].kind in _WINDOWS:
            return self._window(computing[0])
        if len(computing) == 1 and self._ops[computing[0]].kind == "Pad":
            return self._padded(computing[0])
        return self._alone(computing)

    def _visit(self, name: str) -> bool:
        """Find the nodes that make a tensor; whether it depends on what the layer reads."""
        if name not in self._depends:
            place = self._onnx.made_by.get(name)
            if place is None:
                self._depends[name] = False
            else:
                op = self._ops[place]
                read = op.inputs[:1] if op.kind in _RESHAPES else op.inputs
                depends = [self._visit(each) for each in read if each]
                if place not in self._nodes:
                    self._nodes.append(place)
                self._depends[name] = any(depends)
        return self._depends[name]

    def _is_fed(self, place: int) -> bool:
        return any(self._depends.get(name, False) for name in self._ops[place].inputs)

    def _shape(self, name: str) -> Shape:
        info = self._infos.get(name)
        if info is None or not info.is_exact:
            raise _WholeError
        return info.shape

    def _call(self, place: int, axes: Mapping[str, int | None]) -> _Call:
        op = self._ops[place]
        return _Call(
            op=op,
            axes=tuple(axes.get(name) for name in op.inputs),
            shapes=tuple(self._shape(name) if name else () for name in op.inputs),
            out_shape=self._shape(next(name for name in op.outputs if name)),
            wholes=tuple(self._wholes(name) for name in op.inputs),
        )

    def _wholes(self, name: str) -> tuple[int, ...] | None:
        info = self._infos.get(name)
        if info is None or info.value is None or info.value.dtype.kind not in "iu":
            return None
        return tuple(int(each) for each in info.value.reshape(-1))

    def _alone(self, computing: Sequence[int]) -> OnnxRow:
        """Every node makes each row alone. An input with one row, where others have more, is the same for all."""
        sizes = {name: self._shape(name)[axis] for name, axis in self._sources.items()}
        rows = max(sizes.values())
        axes: dict[str, int | None] = {n: axis for n, axis in self._sources.items() if sizes[n] == rows}
        if any(size not in (1, rows) for size in sizes.values()):
            raise _WholeError
        shapes = {}
        for place in computing:
            op = self._ops[place]
            call = self._call(place, axes)
            if all(axis is None for axis in call.axes):
                continue  # of what is the same for all rows
            if op.kind not in _RULES:
                raise _WholeError
            axis = _RULES[op.kind](call)
            if axis < 1 or any(self._shape(name)[axis] != rows for name in op.outputs[:1] if name):
                raise _WholeError
            axes |= dict.fromkeys(op.outputs, axis)
            if op.kind in _RESHAPES:
                shapes[place] = call.out_shape, axis
        to = axes.get(self._wanted)
        if to is None:
            raise _WholeError
        windows = tuple(
            Window(rows, axis=axis) if name in axes else Window(sizes[name], reads_all=True)
            for name, axis in self._sources.items()
        )
        return OnnxRow(RowOp(windows, rows, to), tuple(sorted(self._nodes)), shapes=shapes)

    def _window(self, place: int) -> OnnxRow:
        op = self._ops[place]
        call = self._call(place, {**self._sources})
        kernel = call.shapes[1][2:] if op.kind == "Conv" else call.sides("kernel_shape", ())
        dims, at = len(kernel), call.axis - 2
        if len(call.shapes[0]) != dims + 2 or at < 0 or sum(map(bool, op.outputs)) != 1:
            raise _WholeError
        strides, dilations = call.sides("strides", (1,) * dims), call.sides("dilations", (1,) * dims)
        pads = _pads(call, kernel, strides, dilations)
        if call.whole("ceil_mode", 0) and not _is_inferred(call, kernel, strides, dilations, pads):
            raise _WholeError
        reach, rows = (kernel[at] - 1) * dilations[at] + 1, call.out_shape[call.axis]
        window = Window(call.shapes[0][call.axis], reach, strides[at], pads[at], call.axis)
        first, last = window.read(0, 1), window.read(rows - 1, rows)
        if pads[at] >= reach or first.stop <= first.start or last.stop <= last.start:
            raise _WholeError
        least = -(-LEAST_PLACES * rows // prod(call.out_shape[2:])) if op.kind == "Conv" else 1
        return OnnxRow(RowOp((window,), rows, call.axis, least), tuple(sorted(self._nodes)), pads, at)

    def _padded(self, place: int) -> OnnxRow:
        call = self._call(place, {**self._sources})
        pads, axis, rank = call.wholes[1], call.axis, len(call.out_shape)
        axes = call.wholes[3] if len(call.op.inputs) > 3 and call.op.inputs[3] else tuple(range(rank))
        if pads is None or axes is None or call.op.attributes.get("mode", "constant") != "constant":
            raise _WholeError
        if axis not in (axes := tuple(each % rank for each in axes)):
            raise _WholeError
        at = axes.index(axis)
        if min(pads[at], pads[at + len(axes)]) < 0:
            raise _WholeError
        window = Window(call.shapes[0][axis], before=pads[at], axis=axis)
        return OnnxRow(RowOp((window,), call.out_shape[axis], axis), tuple(sorted(self._nodes)), pads, at)


def _pads(call: _Call, kernel: Shape, strides: Shape, dilations: Shape) -> Shape:
    """Before each axis, then behind each."""
    auto = call.op.attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return call.sides("pads", (0,) * (2 * len(kernel)))
    if auto == "VALID":
        return (0,) * (2 * len(kernel))
    totals = [
        max(0, (out - 1) * stride + (side - 1) * dilation + 1 - size)
        for size, out, side, stride, dilation in zip(
            call.shapes[0][2:], call.out_shape[2:], kernel, strides, dilations, strict=True
        )
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*more, *less) if auto == "SAME_LOWER" else (*less, *more)


def _is_inferred(call: _Call, kernel: Shape, strides: Shape, dilations: Shape, pads: Shape) -> bool:
    """Whether a pooling that rounds up makes what the runtime says of its shape: its kernel leaves out a last window
    that begins in the padding."""
    sizes = zip(call.shapes[0][2:], kernel, strides, dilations, pads[: len(kernel)], pads[len(kernel) :], strict=True)
    inferred = (
        -(-(size + before + behind - (side - 1) * dilation - 1) // stride) + 1
        for size, side, stride, dilation, before, behind in sizes
    )
    return tuple(inferred) == call.out_shape[2:]


# --- what makes every row alone


def _elementwise(call: _Call) -> int:
    rank = len(call.out_shape)
    from_end = {axis - len(shape) for axis, shape in zip(call.axes, call.shapes, strict=True) if axis is not None}
    if len(from_end) != 1:
        raise _WholeError
    (end,) = from_end
    for axis, shape in zip(call.axes, call.shapes, strict=True):
        if axis is None and len(shape) >= -end and shape[end] != 1:
            raise _WholeError
    return rank + end


def _first_elementwise(call: _Call) -> int:
    """The others are settings."""
    return call.axis


def _by_channel(call: _Call) -> int:
    if call.axis == 1:
        raise _WholeError
    return call.axis


def _along(call: _Call) -> int:
    """One axis, which is not that of the rows."""
    if call.whole("axis", -1) % len(call.shapes[0]) == call.axis:
        raise _WholeError
    return call.axis


def _from(call: _Call) -> int:
    """One axis and those behind it."""
    if call.axis >= call.whole("axis", -1) % len(call.shapes[0]):
        raise _WholeError
    return call.axis


def _times(call: _Call) -> int:
    """A matrix that is a constant."""
    if call.axis >= len(call.shapes[0]) - 1 or len(call.shapes[1]) != 2 or len(call.shapes[0]) < ROWS + 1:
        raise _WholeError
    return call.axis


def _transposed(call: _Call) -> int:
    order = call.sides("perm", tuple(reversed(range(len(call.out_shape)))))
    return order.index(call.axis)


def _joined(call: _Call) -> int:
    axes = set(call.axes)
    axis = axes.pop()
    if axes or axis is None or call.whole("axis", 0) % len(call.out_shape) == axis:
        raise _WholeError
    return axis


def _parted(call: _Call) -> int:
    if call.whole("axis", 0) % len(call.shapes[0]) == call.axis:
        raise _WholeError
    return call.axis


def _gathered(call: _Call) -> int:
    along = call.whole("axis", 0) % len(call.shapes[0])
    if along == call.axis or along == 0:
        raise _WholeError
    return call.axis + (len(call.shapes[1]) - 1 if along < call.axis else 0)


def _sliced(call: _Call) -> int:
    axes = call.wholes[3] if len(call.wholes) > 3 else None
    if axes is None or call.axis in [axis % len(call.shapes[0]) for axis in axes]:
        raise _WholeError
    return call.axis


def _reshaped(call: _Call) -> int:
    """The axis of the rows stays one; those before and behind it are split or joined."""
    axis, shape = call.axes[0], call.shapes[0]
    if axis is None or shape[:1] != call.out_shape[:1]:
        raise _WholeError
    before, out = prod(shape[:axis]), call.out_shape
    places = [place for place, side in enumerate(out) if side == shape[axis] and prod(out[:place]) == before]
    if not places or places[0] == 0:
        raise _WholeError
    return places[0]


_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_WINDOWS = ("Conv", "MaxPool", "AveragePool")
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        (
            *(
                "Relu",
                "Sigmoid",
                "Tanh",
                "HardSwish",
                "HardSigmoid",
                "LeakyRelu",
                "Elu",
                "Selu",
                "Celu",
                "Gelu",
                "Mish",
            ),
            *("Softplus", "Softsign", "ThresholdedRelu", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal"),
            *("Floor", "Ceil", "Round", "Sign", "Identity", "Cast", "PRelu", "Add", "Sub", "Mul", "Div", "Pow", "Sum"),
            *("Max", "Min", "Where", "Clip"),
        ),
        _elementwise,
    ),
    "Dropout": _first_elementwise,
    "BatchNormalization": _by_channel,
    "LRN": _by_channel,
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along),
    "LayerNormalization": _from,
    "MatMul": _times,
    "Transpose": _transposed,
    "Concat": _joined,
    "Split": _parted,
    "Gather": _gathered,
    "Slice": _sliced,
    **dict.fromkeys(_RESHAPES, _reshaped),
}


# --- the model of a step


@dataclass(frozen=True, slots=True)
class Feed:
    """An input of a step's model: rows [start, stop) of a layer's tensor, None for all of it."""

    name: str
    layer: int
    rows: tuple[int, int] | None
    axis: int = ROWS
    is_chunk: bool = False
    """Whether it is what comes in this step."""


@dataclass(frozen=True, slots=True)
class Result:
    """An output of a step's model: rows [start, stop) of a layer's tensor."""

    name: str
    layer: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class StepModel:
    """What a step runs. Steps of the same geometry have the same model."""

    part: Part
    feeds: tuple[Feed, ...]
    results: tuple[Result, ...]


class StepWriter:
    """Writes the models of a plan's steps."""

    def __init__(
        self,
        graph: LayerGraph,
        tensors: Sequence[str],
        onnx: OnnxGraph,
        rows: Mapping[int, OnnxRow],
        plan: RowPlan,
        *,
        is_batched: bool,
    ) -> None:
        self._graph, self._tensors, self._onnx, self._rows, self._plan = graph, tensors, onnx, rows, plan
        self._is_batched = is_batched

    def models(self) -> tuple[StepModel | None, ...]:
        """One for each step, None where nothing is computed that anybody reads."""
        return tuple(self._model(place) for place in range(len(self._plan.steps)))

    def _model(self, place: int) -> StepModel | None:
        step = self._plan.steps[place]
        writing = _Writing(self._graph, self._is_batched)
        self._read(writing, place)
        kept = {each.layer: each for each in step.kept}
        for made in step.made:
            self._write(writing, step, made)
            self._give(writing, made, max(made.start, kept[made.layer].start) if made.layer in kept else None)
        if not writing.results:
            return None
        part = onnx_graph.part_of(
            self._onnx, writing.nodes, sorted(writing.constants), writing.inputs, writing.outputs, writing.tensors
        )
        return StepModel(part, tuple(writing.feeds), tuple(writing.results))

    def _read(self, writing: "_Writing", place: int) -> None:
        """The inputs of a step: its chunk, and rows that were there before."""
        step = self._plan.steps[place]
        reads: dict[int, list[Rows]] = {}
        for made in step.made:
            for source, each in self._reads(step, made):
                if each.axis is not None:
                    reads.setdefault(source, []).append(each)
        piece, first = step.piece, {made.layer: made.start for made in step.made}
        is_read = any(each.axis == piece.axis and each.stop > piece.start for each in reads.get(piece.layer, ()))
        if is_read and piece.layer not in self._plan.layers:
            feed = Feed(f"{piece.layer}:new", piece.layer, (piece.start, piece.stop), piece.axis, is_chunk=True)
            writing.new[piece.layer] = writing.feed(feed), piece.start, piece.stop
            first[piece.layer] = piece.start
        for source, rows in reads.items():
            before, end = min(each.start for each in rows), max(each.stop for each in rows)
            end = min(end, first.get(source, end))
            if before < end:
                feed = Feed(f"{source}:old", source, (before, end), rows[0].axis or ROWS)
                writing.old[source] = writing.feed(feed), before, end

    def _reads(self, step: RowStep, made: Made) -> Iterator[tuple[int, Rows]]:
        """What a layer reads. A whole tensor is put together here where its last rows are made in the same step."""
        here = {each.layer for each in step.made}
        for source, rows in zip(self._graph.layers[made.layer].inputs, made.reads, strict=True):
            if rows.axis is None and source in here:
                rows = Rows(0, self._plan.rows[source], axis=self._plan.axes[source])
            yield source, rows

    def _write(self, writing: "_Writing", step: RowStep, made: Made) -> None:
        """The nodes that make rows of a layer."""
        row, wanted = self._rows[made.layer], self._tensors[made.layer]
        names: dict[str, str] = {}
        for source, rows in self._reads(step, made):
            names[self._tensors[source]] = writing.block(source, rows)
        if wanted in names:
            writing.new[made.layer] = names[wanted], made.start, made.stop
            return
        for place in row.nodes:
            node = self._onnx.nodes[place]
            names |= {name: f"{made.layer}/{name}" for name in node.outputs if name and name not in names}
            if row.shapes and place in row.shapes:
                shape, axis = row.shapes[place]
                sides = (-1, *shape[1:axis], made.stop - made.start, *shape[axis + 1 :])
                out = next(name for name in node.outputs if name)
                to = writing.numbers(sides)
                writing.nodes.append(onnx_graph.node_message("Reshape", (names[node.inputs[0]], to), (names[out],)))
                continue
            writing.constants |= {
                name for name in node.inputs if name and name not in names and self._is_constant(name)
            }
            pads = self._pads_of(row, made) if row.pads and node.op in (*_WINDOWS, "Pad") else None
            if pads is not None and node.op == "Pad":  # an input, where windows have an attribute
                names[node.inputs[1]], pads = writing.numbers(pads), None
            writing.nodes.append(onnx_graph.renamed(node, names, pads))
        writing.new[made.layer] = names[wanted], made.start, made.stop

    def _is_constant(self, name: str) -> bool:
        return name in self._onnx.constants or name in self._onnx.weights

    def _pads_of(self, row: OnnxRow, made: Made) -> Shape:
        """At real borders those of the whole, else none."""
        (rows,), pads = made.reads, list(row.pads)
        behind = row.pads_at + len(pads) // 2
        pads[row.pads_at], pads[behind] = rows.before, min(rows.behind, pads[behind])
        return tuple(pads)

    def _give(self, writing: "_Writing", made: Made, kept: int | None) -> None:
        """Hand out the rows of a layer that are needed outside of the step."""
        name, start, stop = writing.new[made.layer]
        if made.layer in self._plan.full:
            kept = start
        if kept is None or kept >= stop:
            return
        axis = self._plan.axes[made.layer]
        if kept > start:
            name = writing.sliced(name, kept - start, stop - start, axis)
        elif not name.startswith(f"{made.layer}/"):
            name = writing.node("Identity", (name,))
        writing.give(Result(name, made.layer, kept, stop), axis)


class _Writing:
    """A model that is being written."""

    def __init__(self, graph: LayerGraph, is_batched: bool) -> None:
        self._graph, self._is_batched = graph, is_batched
        self.nodes: list[bytes] = []
        self.tensors: list[bytes] = []
        self.constants: set[str] = set()
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.feeds: list[Feed] = []
        self.results: list[Result] = []
        self.new: dict[int, tuple[str, int, int]] = {}
        """Of tensors that get rows in this step: name, first row, end."""
        self.old: dict[int, tuple[str, int, int]] = {}
        """The same of rows that were there before."""
        self._known: dict[tuple[object, ...], str] = {}

    def _value(self, name: str, layer: int, rows: int | None, axis: int) -> Value:
        each = self._graph.layers[layer]
        shape = each.out_shape if rows is None else (*each.out_shape[:axis], rows, *each.out_shape[axis + 1 :])
        return Value(name, each.out_dtype, shape, self._is_batched and shape[:1] == (1,))

    def feed(self, feed: Feed) -> str:
        self.feeds.append(feed)
        rows = None if feed.rows is None else feed.rows[1] - feed.rows[0]
        self.inputs.append(self._value(feed.name, feed.layer, rows, feed.axis))
        return feed.name

    def give(self, result: Result, axis: int) -> None:
        self.results.append(result)
        self.outputs.append(self._value(result.name, result.layer, result.stop - result.start, axis))

    def numbers(self, sides: Sequence[int]) -> str:
        """A constant of whole numbers."""
        key = ("numbers", *sides)
        if key not in self._known:
            self._known[key] = name = f"numbers:{len(self._known)}"
            tensor = Tensor(name, "int64", (len(sides),), 8 * len(sides))
            self.tensors.append(onnx_graph.held_message(tensor, np.array(sides, "<i8").tobytes()))
        return self._known[key]

    def node(self, op: str, inputs: Sequence[str], **attributes: int) -> str:
        """One more node, whose output has a name of its own."""
        key = (op, *inputs, *attributes.items())
        if key not in self._known:
            self._known[key] = name = f"rows:{len(self._known)}"
            self.nodes.append(onnx_graph.node_message(op, inputs, (name,), **attributes))
        return self._known[key]

    def sliced(self, name: str, start: int, stop: int, axis: int) -> str:
        """Some rows of a tensor."""
        return self.node("Slice", (name, self.numbers((start,)), self.numbers((stop,)), self.numbers((axis,))))

    def block(self, source: int, rows: Rows) -> str:
        """What a layer reads of a tensor."""
        if rows.axis is None:
            key = ("all", source)
            if key not in self._known:
                self._known[key] = self.feed(Feed(f"{source}:all", source, None))
            return self._known[key]
        parts = [each for each in (self.old.get(source), self.new.get(source)) if each is not None]
        parts = [each for each in parts if each[1] < rows.stop and rows.start < each[2]]
        name = parts[0][0] if len(parts) == 1 else self.node("Concat", [each[0] for each in parts], axis=rows.axis)
        start, stop = parts[0][1], parts[-1][2]
        if (start, stop) == (rows.start, rows.stop):
            return name
        return self.sliced(name, rows.start - start, rows.stop - start, rows.axis)
