"""How large what an ONNX operator makes is, for those operators that are taken. Pure.

Every operator that is on the list has a rule: how many inputs and outputs, which attributes, and from the shapes of its
inputs the shapes of its outputs. Where a shape depends on numbers (Reshape, Expand, Tile, Range, ...) they have to be
constants; where it depends on the values of the network's input (NonZero, ...) the largest that is possible is given
and `is_exact` is False. To take another operator, add a rule.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.onnx_model import DTYPES, Constant, Limits, OnnxError, Op, check_shape

Shape = tuple[int, ...]
MANY = 1 << 30


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a tensor."""

    dtype: str
    shape: Shape
    value: NDArray[Any] | None = None
    """Its numbers, where they do not depend on the input of the network, and are few."""
    is_exact: bool = True
    """Whether it always has this shape; otherwise it is never larger."""

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes they take."""
        return self.elements * np.dtype(self.dtype).itemsize


class Call:
    """A node, and what its inputs are."""

    def __init__(self, op: Op, inputs: Sequence[Info | None], opset: int, limits: Limits) -> None:
        self.op, self.inputs, self.opset, self.limits = op, inputs, opset, limits
        self.operations = 0.0
        """What it computes besides one operation for each number that it reads or makes."""
        self.scratch = 0
        """Bytes that runtimes take for it besides its outputs, while it runs."""

    def refused(self, reason: str) -> OnnxError:
        """The error that says why this node is refused."""
        return OnnxError(f"{self.op.label}: {reason}")

    def __getitem__(self, place: int) -> Info:
        """An input. Raises OnnxError where it is missing."""
        found = self.get(place)
        if found is None:
            raise self.refused(f"its input {place} is missing")
        return found

    def get(self, place: int) -> Info | None:
        """An input, None where it is missing."""
        return self.inputs[place] if place < len(self.inputs) else None

    def whole(self, name: str, default: int | None = None) -> int:
        """An attribute that is a whole number."""
        value = self.op.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.refused(f"its attribute {name} is missing, or no whole number")
        return value

    def text(self, name: str, default: str) -> str:
        """An attribute that is a text."""
        value = self.op.attributes.get(name, default)
        if not isinstance(value, str):
            raise self.refused(f"its attribute {name} is no text")
        return value

    def numbers(self, name: str) -> tuple[Any, ...] | None:
        """An attribute that is a list; None where it is missing."""
        value = self.op.attributes.get(name)
        if value is not None and not isinstance(value, tuple):
            raise self.refused(f"its attribute {name} is no list")
        return value

    def wholes(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of whole numbers; None where it is missing."""
        values = self.numbers(name)
        if values is not None and not all(isinstance(each, int) for each in values):
            raise self.refused(f"its attribute {name} is no list of whole numbers")
        return values

    def constant(self, place: int) -> tuple[int, ...]:
        """The whole numbers of an input. Raises OnnxError where they are not known."""
        value = self[place].value
        if value is None or value.dtype.kind not in "iu":
            raise self.unknown()
        return tuple(int(each) for each in value.reshape(-1))

    def unknown(self) -> OnnxError:
        """The error for a size that is not known."""
        return self.refused("the size of what it makes depends on the values of its inputs, and cannot be told before")

    def listed(self, name: str, place: int) -> tuple[int, ...] | None:
        """A list that newer operators take as an input, and older ones as an attribute."""
        return self.constant(place) if self.get(place) is not None else self.wholes(name)

    def axis(self, axis: int, rank: int) -> int:
        """An axis, counted from the front. Raises OnnxError where there is none."""
        if not -rank <= axis < max(rank, 1):
            raise self.refused(f"it has no axis {axis}")
        return axis % max(rank, 1)

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes, each once."""
        found = tuple(self.axis(axis, rank) for axis in axes)
        if len(set(found)) != len(found):
            raise self.refused("it names an axis twice")
        return found

    def exactly(self) -> None:
        """Raise OnnxError unless the sizes of all inputs are known."""
        if not all(each is None or each.is_exact for each in self.inputs):
            raise self.unknown()

    def like(self, shape: Sequence[int], place: int = 0) -> list[Info]:
        """One output of the type of an input."""
        return [Info(self[place].dtype, tuple(shape))]


Infer = Callable[[Call], list[Info]]


@dataclass(frozen=True, slots=True)
class Rule:
    """What an operator takes, and what it makes."""

    infer: Infer
    inputs: tuple[int, int] = (1, 1)
    outputs: tuple[int, int] = (1, 1)
    attributes: frozenset[str] = frozenset()
    takes_bounds: bool = False
    """Whether it may read tensors of which only the largest size is known."""


def infer(call: Call) -> list[Info]:
    """What a node makes, in the order of its outputs. Raises OnnxError."""
    rule = RULES.get(call.op.kind)
    if rule is None:
        raise call.refused(why_not(call.op.kind))
    for what, found, (least, most) in (
        ("inputs", len(call.inputs), rule.inputs),
        ("outputs", len(call.op.outputs), rule.outputs),
    ):
        if not least <= found <= most:
            raise call.refused(f"it has {found} {what}")
    if strange := sorted(set(call.op.attributes) - rule.attributes):
        raise call.refused(f"it has an attribute {strange[0][:40]!r}, which is not known")
    if not rule.takes_bounds:
        call.exactly()
    made = rule.infer(call)
    for info in made:
        try:
            check_shape(list(info.shape), call.limits)
        except OnnxError as error:
            raise call.refused(str(error)) from None
    return made


def why_not(kind: str) -> str:
    """Why an operator is refused."""
    for reason, kinds in _REFUSED.items():
        if kind in kinds:
            return reason
    return "it is an operator that is not taken"


_REFUSED = {
    "it holds graphs of its own: export the network without control flow": ("If", "Loop", "Scan", "SequenceMap"),
    "it draws random numbers, which differ on the two sides": (
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"),
    ),
    "it makes lists of tensors or optional ones, which cannot travel": (
        *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
        *("SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement"),
    ),
    "it works on text or files, and only numbers are taken": (
        *("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder"),
    ),
}


# --- shapes


def broadcast(call: Call, shapes: Sequence[Shape]) -> Shape:
    """numpy's rule. Raises OnnxError for shapes that do not fit."""
    rank = max(len(shape) for shape in shapes)
    joined = []
    for place in range(rank):
        sides = {shape[place - rank] for shape in shapes if len(shape) >= rank - place}
        larger = sides - {1}
        if len(larger) > 1:
            raise call.refused(f"its inputs do not fit: {', '.join(map(str, shapes))[:120]}")
        joined.append(larger.pop() if larger else 1)
    return tuple(joined)


def _known(call: Call) -> list[Info]:
    return [each for each in call.inputs if each is not None]


def _same(call: Call) -> list[Info]:
    return [Info(call[0].dtype, call[0].shape, None, call[0].is_exact)]


def _as_bool(call: Call) -> list[Info]:
    return [replace(_same(call)[0], dtype="bool")]


def _elementwise(call: Call) -> list[Info]:
    known = _known(call)
    is_exact = all(each.is_exact for each in known)
    if not is_exact and len({each.shape for each in known if each.elements > 1}) > 1:
        raise call.unknown()
    return [Info(call[0].dtype, broadcast(call, [each.shape for each in known]), None, is_exact)]


def _comparison(call: Call) -> list[Info]:
    return [replace(_elementwise(call)[0], dtype="bool")]


def _where(call: Call) -> list[Info]:
    return [replace(_elementwise(call)[0], dtype=call[1].dtype)]


def _dtype(call: Call, name: str, default: str = "") -> str:
    code = call.op.attributes.get(name)
    if code is None and default:
        return default
    if not isinstance(code, int) or code not in DTYPES:
        raise call.refused(f"its attribute {name} names a type that is not taken")
    return DTYPES[code]


def _cast(call: Call) -> list[Info]:
    return [replace(_same(call)[0], dtype=_dtype(call, "to"))]


def _cast_like(call: Call) -> list[Info]:
    return [replace(_same(call)[0], dtype=call[1].dtype)]


def _normalised(call: Call) -> list[Info]:
    """The first output is as the input; others are statistics, never larger than it."""
    return [*_same(call), *(Info("float32", call[0].shape) for _ in call.op.outputs[1:])]


def _batch_norm(call: Call) -> list[Info]:
    if call.whole("training_mode", 0) or len(call.op.outputs) > 1:
        raise call.refused("it is exported for training: export with model.eval()")
    return _same(call)


def _dropout(call: Call) -> list[Info]:
    training = call.get(2)
    if training is not None and (training.value is None or training.value.any()):
        raise call.refused("it is exported for training: export with model.eval()")
    return [*_same(call), *(replace(_same(call)[0], dtype="bool") for _ in call.op.outputs[1:])]


def _identity(call: Call) -> list[Info]:
    return [call[0]]


def _constant(call: Call) -> list[Info]:
    given = [(name, value) for name, value in call.op.attributes.items() if name.startswith("value")]
    if len(given) != 1:
        raise call.refused("it is no single constant")
    name, value = given[0]
    if isinstance(value, Constant):
        if value.numbers is None:
            raise call.refused("its numbers are elsewhere")
        return [known(value, call.limits)]
    array = np.asarray(value, np.int64 if name in ("value_int", "value_ints") else np.float32)
    return [Info(str(array.dtype), array.shape, array)]


def known(constant: Constant, limits: Limits) -> Info:
    """A constant, with its numbers where they are few."""
    is_small = constant.numbers is not None and constant.elements <= limits.value_elements
    value = np.asarray(constant.numbers, constant.dtype) if is_small else None
    return Info(constant.dtype, constant.shape, value)


def _constant_of_shape(call: Call) -> list[Info]:
    value = call.op.attributes.get("value")
    if value is not None and not (isinstance(value, Constant) and value.elements == 1):
        raise call.refused("its value is no single number")
    return [Info("float32" if value is None else value.dtype, _positive(call, call.constant(0)))]


def _positive(call: Call, shape: Sequence[int]) -> Shape:
    if any(side < 0 for side in shape):
        raise call.refused(f"it makes a side below 0: {tuple(shape)[:8]}")
    return tuple(shape)


def _shape(call: Call) -> list[Info]:
    call.exactly()
    shape = call[0].shape
    rank = len(shape)
    start, end = (_clamped(call.whole(name, default), rank) for name, default in (("start", 0), ("end", rank)))
    value = np.array(shape[start:end], np.int64)
    return [Info("int64", value.shape, value)]


def _clamped(place: int, rank: int) -> int:
    return min(max(place + rank if place < 0 else place, 0), rank)


def _size(call: Call) -> list[Info]:
    return [Info("int64", (), np.array(call[0].elements, np.int64))]


def _reshape(call: Call) -> list[Info]:
    wanted = call.listed("shape", 1)
    if wanted is None:
        raise call.refused("it has no shape")
    shape = list(wanted)
    for place, side in enumerate(shape):
        if side == 0 and not call.whole("allowzero", 0):
            if place >= len(call[0].shape):
                raise call.refused("it takes a side that its input has not")
            shape[place] = call[0].shape[place]
    return call.like(_filled(call, shape, call[0].elements))


def _filled(call: Call, shape: list[int], elements: int) -> Shape:
    if shape.count(-1) == 1:
        rest = math.prod(side for side in shape if side != -1)
        if rest <= 0 or elements % rest:
            raise call.refused(f"{elements} numbers do not fit the shape {tuple(shape)[:8]}")
        shape[shape.index(-1)] = elements // rest
    if math.prod(_positive(call, shape)) != elements:
        raise call.refused(f"{elements} numbers do not fit the shape {tuple(shape)[:8]}")
    return tuple(shape)


def _flatten(call: Call) -> list[Info]:
    shape, axis = call[0].shape, call.whole("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise call.refused(f"it has no axis {axis}")
    axis += len(shape) if axis < 0 else 0
    return call.like((math.prod(shape[:axis]), math.prod(shape[axis:])))


def _transpose(call: Call) -> list[Info]:
    rank = len(call[0].shape)
    perm = call.wholes("perm") or tuple(reversed(range(rank)))
    if sorted(perm) != list(range(rank)):
        raise call.refused("it does not name every axis once")
    return [replace(_same(call)[0], shape=tuple(call[0].shape[axis] for axis in perm))]


def _squeeze(call: Call) -> list[Info]:
    shape, axes = call[0].shape, call.listed("axes", 1)
    if axes is None:
        call.exactly()
        axes = tuple(place for place, side in enumerate(shape) if side == 1)
    axes = call.axes(axes, len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise call.refused("it takes an axis out that is longer than 1")
    return [replace(_same(call)[0], shape=tuple(side for place, side in enumerate(shape) if place not in axes))]


def _unsqueeze(call: Call) -> list[Info]:
    axes = call.listed("axes", 1)
    if axes is None:
        raise call.refused("it has no axes")
    axes = call.axes(axes, len(call[0].shape) + len(axes))
    sides = iter(call[0].shape)
    rank = len(call[0].shape) + len(axes)
    shape = tuple(1 if place in axes else next(sides) for place in range(rank))
    return [replace(_same(call)[0], shape=shape)]


def _concat(call: Call) -> list[Info]:
    known_inputs = _known(call)
    first = known_inputs[0].shape
    axis = call.axis(call.whole("axis"), len(first))
    for each in known_inputs:
        if len(each.shape) != len(first) or any(
            a != b for place, (a, b) in enumerate(zip(each.shape, first, strict=True)) if place != axis
        ):
            raise call.refused("what it joins does not fit")
    total = sum(each.shape[axis] for each in known_inputs)
    shape = (*first[:axis], total, *first[axis + 1 :])
    return [Info(call[0].dtype, shape, None, all(each.is_exact for each in known_inputs))]


def _split(call: Call) -> list[Info]:
    shape, count = call[0].shape, len(call.op.outputs)
    axis = call.axis(call.whole("axis", 0), len(shape))
    sides = call.listed("split", 1)
    if sides is None:
        part = -(-shape[axis] // count)
        sides = tuple(min(part, max(0, shape[axis] - place * part)) for place in range(count))
    if len(sides) != count or sum(sides) != shape[axis] or call.whole("num_outputs", count) != count:
        raise call.refused("its parts do not fit what it takes apart")
    return [*(Info(call[0].dtype, (*shape[:axis], side, *shape[axis + 1 :])) for side in _positive(call, sides))]


def _slice(call: Call) -> list[Info]:
    shape = list(call[0].shape)
    places = [place for place in range(1, 5) if call.get(place) is not None]
    if any(call[place].value is None for place in places):
        return [replace(_same(call)[0], is_exact=False)]
    starts, ends = call.listed("starts", 1), call.listed("ends", 2)
    if starts is None or ends is None:
        raise call.refused("it does not say what it takes")
    axes = call.axes(call.listed("axes", 3) or range(len(starts)), len(shape))
    steps = call.listed("steps", 4) or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.refused("its starts, ends, axes and steps do not fit")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        shape[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
    return [replace(_same(call)[0], shape=tuple(shape))]


def _gather(call: Call) -> list[Info]:
    shape, indices = call[0].shape, call[1]
    axis = call.axis(call.whole("axis", 0), len(shape))
    _check_indices(call, indices, shape[axis])
    made = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
    return [Info(call[0].dtype, made, None, call[0].is_exact and indices.is_exact)]


def _check_indices(call: Call, indices: Info, side: int) -> None:
    value = indices.value
    if value is not None and value.size and (value.dtype.kind not in "iu" or not _within(value, side)):
        raise call.refused(f"it takes a place outside of the {side} that are there")


def _within(value: NDArray[Any], side: int) -> bool:
    return bool(value.min() >= -side and value.max() < side)


def _gather_elements(call: Call) -> list[Info]:
    if len(call[0].shape) != len(call[1].shape):
        raise call.refused("its inputs do not fit")
    axis = call.axis(call.whole("axis", 0), len(call[0].shape))
    _check_indices(call, call[1], call[0].shape[axis])
    return call.like(call[1].shape)


def _gather_nd(call: Call) -> list[Info]:
    shape, indices, batch = call[0].shape, call[1].shape, call.whole("batch_dims", 0)
    if not indices or not 0 <= batch < min(len(shape), len(indices)) or not 1 <= indices[-1] <= len(shape) - batch:
        raise call.refused("its indices do not fit")
    if shape[:batch] != indices[:batch]:
        raise call.refused("its inputs do not fit")
    return call.like((*indices[:-1], *shape[batch + indices[-1] :]))


def _scatter_elements(call: Call) -> list[Info]:
    if not len(call[0].shape) == len(call[1].shape) == len(call[2].shape) or call[1].shape != call[2].shape:
        raise call.refused("its inputs do not fit")
    axis = call.axis(call.whole("axis", 0), len(call[0].shape))
    _check_indices(call, call[1], call[0].shape[axis])
    if any(a > b for place, (a, b) in enumerate(zip(call[1].shape, call[0].shape, strict=True)) if place != axis):
        raise call.refused("its inputs do not fit")
    return _same(call)


def _scatter_nd(call: Call) -> list[Info]:
    shape, indices = call[0].shape, call[1].shape
    if not indices or not 1 <= indices[-1] <= len(shape) or call[2].shape != (*indices[:-1], *shape[indices[-1] :]):
        raise call.refused("its indices do not fit")
    return _same(call)


def _expand(call: Call) -> list[Info]:
    return call.like(broadcast(call, [call[0].shape, _positive(call, call.constant(1))]))


def _tile(call: Call) -> list[Info]:
    repeats = _positive(call, call.constant(1))
    if len(repeats) != len(call[0].shape):
        raise call.refused("its repeats do not fit its input")
    return call.like(tuple(side * times for side, times in zip(call[0].shape, repeats, strict=True)))


def _range(call: Call) -> list[Info]:
    values = [call[place].value for place in range(3)]
    if any(value is None or value.size != 1 for value in values):
        raise call.unknown()
    start, limit, delta = (value.reshape(()).item() for value in values if value is not None)
    if not all(math.isfinite(each) for each in (start, limit, delta)) or delta == 0:
        raise call.refused("it counts for ever")
    return [Info(call[0].dtype, (max(0, math.ceil((limit - start) / delta)),))]


def _pad(call: Call) -> list[Info]:
    shape = list(call[0].shape)
    pads = call.listed("pads", 1)
    if pads is None:
        raise call.refused("it has no pads")
    axes = call.axes(call.constant(3) if call.get(3) is not None else range(len(shape)), len(shape))
    if len(pads) != 2 * len(axes):
        raise call.refused("its pads do not fit its input")
    for place, axis in enumerate(axes):
        before, after = pads[place], pads[len(axes) + place]
        if call.text("mode", "constant") != "constant" and max(before, after) > max(0, shape[axis] - 1):
            raise call.refused("it repeats more than there is")
        shape[axis] += before + after
    return call.like(_positive(call, shape))


def _resize(call: Call) -> list[Info]:
    if call.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise call.refused("it cuts and resizes at once (tf_crop_and_resize), which is not taken")
    shape, is_old = list(call[0].shape), call.opset < _RESIZE_WITH_ROI
    axes = call.axes(call.wholes("axes") or range(len(shape)), len(shape))
    scales = call.get(1 if is_old else 2)
    if scales is not None and scales.elements:
        return call.like(_scaled(call, shape, axes, _factors(call, scales)))
    sizes = call.constant(3)
    if len(sizes) != len(axes):
        raise call.refused("its sizes do not fit its input")
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratios = [size / max(1, shape[axis]) for size, axis in zip(sizes, axes, strict=True)]
        ratio = max(ratios) if policy == "not_smaller" else min(ratios)
        sizes = tuple(round(ratio * shape[axis]) for axis in axes)
    for size, axis in zip(sizes, axes, strict=True):
        shape[axis] = size
    return call.like(_positive(call, shape))


_RESIZE_WITH_ROI = 11


def _factors(call: Call, scales: Info) -> tuple[float, ...]:
    if scales.value is None:
        raise call.unknown()
    return tuple(float(each) for each in scales.value.reshape(-1))


def _scaled(call: Call, shape: list[int], axes: Sequence[int], scales: Sequence[float]) -> Shape:
    if len(scales) != len(axes) or not all(0 < each < MANY for each in scales):
        raise call.refused("its scales do not fit its input")
    for scale, axis in zip(scales, axes, strict=True):
        shape[axis] = math.floor(shape[axis] * scale)
    return tuple(shape)


def _upsample(call: Call) -> list[Info]:
    scales = call.get(1)
    given = call.numbers("scales") if scales is None else _factors(call, scales)
    shape = list(call[0].shape)
    return call.like(_scaled(call, shape, range(len(shape)), [float(each) for each in given or ()]))


def _one_hot(call: Call) -> list[Info]:
    depth = call[1].value
    if depth is None or depth.size != 1 or not 0 < depth.reshape(()).item() < MANY:
        raise call.unknown()
    axis = call.axis(call.whole("axis", -1), len(call[0].shape) + 1)
    shape = call[0].shape
    return [Info(call[2].dtype, (*shape[:axis], int(depth.reshape(()).item()), *shape[axis:]))]


def _eye_like(call: Call) -> list[Info]:
    if len(call[0].shape) != _MATRIX:
        raise call.refused("its input is no matrix")
    return [Info(_dtype(call, "dtype", call[0].dtype), call[0].shape)]


_MATRIX = 2


def _reduce(call: Call) -> list[Info]:
    shape, axes = call[0].shape, call.listed("axes", 1)
    if not axes:
        if call.whole("noop_with_empty_axes", 0):
            return _same(call)
        axes = tuple(range(len(shape)))
    return call.like(_without(call, shape, call.axes(axes, len(shape))))


def _without(call: Call, shape: Shape, axes: Sequence[int]) -> Shape:
    if call.whole("keepdims", 1):
        return tuple(1 if place in axes else side for place, side in enumerate(shape))
    return tuple(side for place, side in enumerate(shape) if place not in axes)


def _arg(call: Call) -> list[Info]:
    shape = call[0].shape
    return [Info("int64", _without(call, shape, (call.axis(call.whole("axis", 0), len(shape)),)))]


def _top_k(call: Call) -> list[Info]:
    shape = call[0].shape
    axis = call.axis(call.whole("axis", -1), len(shape))
    counts = call.constant(1) if call.get(1) is not None else (call.whole("k"),)
    if len(counts) != 1 or not 0 <= counts[0] <= shape[axis]:
        raise call.refused("it takes more than there are")
    made = (*shape[:axis], counts[0], *shape[axis + 1 :])
    return [Info(call[0].dtype, made), Info("int64", made)]


def _non_zero(call: Call) -> list[Info]:
    return [Info("int64", (len(call[0].shape), call[0].elements), None, False)]


def _non_max_suppression(call: Call) -> list[Info]:
    if len(call[0].shape) != _BOXES or len(call[1].shape) != _BOXES:
        raise call.refused("its inputs are no boxes and scores")
    batch, classes, boxes = call[1].shape
    most = boxes
    if call.get(2) is None:
        most = 0
    elif call[2].value is not None:
        most = min(boxes, max(0, *call.constant(2)))
    call.operations = float(batch * classes * boxes * (most + 1))
    return [Info("int64", (batch * classes * most, 3), None, False)]


_BOXES = 3


def _unique(call: Call) -> list[Info]:
    count = call[0].elements
    shape: Shape = (count,) if "axis" not in call.op.attributes else call[0].shape
    rows = [Info(call[0].dtype, shape, None, False), *(Info("int64", (count,), None, False) for _ in range(3))]
    return rows[: len(call.op.outputs)]


def _compress(call: Call) -> list[Info]:
    if "axis" in call.op.attributes:
        return [replace(_same(call)[0], is_exact=False)]
    return [Info(call[0].dtype, (call[0].elements,), None, False)]


# --- what counts


def _mat_mul(call: Call) -> list[Info]:
    a, b = call[0].shape, call[1].shape
    if not a or not b:
        raise call.refused("its inputs are no matrices")
    left, right = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    if left[-1] != right[-2]:
        raise call.refused(f"its inputs do not fit: {a} and {b}")
    batch = broadcast(call, [left[:-2], right[:-2]])
    call.operations = 2.0 * math.prod(batch) * left[-2] * left[-1] * right[-1]
    return call.like((*batch, *left[-2:-1][: len(a) > 1], *right[-1:][: len(b) > 1]))


def _mat_mul_integer(call: Call) -> list[Info]:
    return [replace(_mat_mul(call)[0], dtype="int32")]


def _q_linear_mat_mul(call: Call) -> list[Info]:
    inner = Call(call.op, (call[0], call[3]), call.opset, call.limits)
    made = _mat_mul(inner)
    call.operations = inner.operations
    return [replace(made[0], dtype=call[7].dtype)]


def _gemm(call: Call) -> list[Info]:
    if len(call[0].shape) != _MATRIX or len(call[1].shape) != _MATRIX:
        raise call.refused("its inputs are no matrices")
    a = call[0].shape[:: -1 if call.whole("transA", 0) else 1]
    b = call[1].shape[:: -1 if call.whole("transB", 0) else 1]
    if a[1] != b[0]:
        raise call.refused(f"its inputs do not fit: {a} and {b}")
    call.operations = 2.0 * a[0] * a[1] * b[1]
    bias = call.get(2)
    if bias is not None and broadcast(call, [bias.shape, (a[0], b[1])]) != (a[0], b[1]):
        raise call.refused("its inputs do not fit")
    return call.like((a[0], b[1]))


def _einsum(call: Call) -> list[Info]:
    equation = call.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "..." in equation or len(terms) != len(call.inputs):
        raise call.refused("its equation is not one that is taken: it has to name every axis, and what it makes")
    sides: dict[str, int] = {}
    for place, term in enumerate(terms):
        if len(term) != len(call[place].shape):
            raise call.refused("its equation does not fit its inputs")
        for letter, side in zip(term, call[place].shape, strict=True):
            if sides.setdefault(letter, side) != side:
                raise call.refused("its equation does not fit its inputs")
    if set(right) - set(sides) or len(set(right)) != len(right) or not set(left) - {","} <= _LETTERS:
        raise call.refused("its equation is not one that is taken")
    call.operations = 2.0 * math.prod(sides.values()) * len(terms)
    call.scratch = math.prod(sides.values()) * _WIDEST if len(terms) > _PAIR else 0
    return call.like(tuple(sides[letter] for letter in right))


_PAIR, _WIDEST = 2, 8
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True, slots=True)
class _Window:
    """How a convolution or a pooling moves, by axis."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape

    def reach(self, place: int) -> int:
        """From the first to behind the last that it sees at once."""
        return (self.kernel[place] - 1) * self.dilations[place] + 1


def _window(call: Call, spatial: Shape, kernel: Shape) -> _Window:
    count = len(spatial)
    strides = call.wholes("strides") or (1,) * count
    dilations = call.wholes("dilations") or (1,) * count
    pads = call.wholes("pads") or (0,) * (2 * count)
    if not len(kernel) == len(strides) == len(dilations) == count or len(pads) != 2 * count or count == 0:
        raise call.refused("its kernel, strides, dilations or pads do not fit its input")
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        raise call.refused("its kernel, strides, dilations or pads are too small")
    return _Window(kernel, strides, dilations, pads)


def _moved(call: Call, spatial: Shape, window: _Window) -> Shape:
    """How many places a window has, by axis."""
    auto, made = call.text("auto_pad", "NOTSET"), []
    for place, side in enumerate(spatial):
        stride, reach = window.strides[place], window.reach(place)
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            made.append(-(-side // stride))
            continue
        pads = 0 if auto == "VALID" else window.pads[place] + window.pads[place + len(spatial)]
        room = side + pads - reach
        if room < 0:
            raise call.refused("its kernel is larger than what it sees")
        count = room // stride + 1
        if call.whole("ceil_mode", 0) and room % stride and (count * stride < side + window.pads[place]):
            count += 1
        made.append(count)
    return tuple(made)


def _convolved(call: Call, x: Info, weights: Info) -> Shape:
    if len(x.shape) < _BOXES or len(weights.shape) != len(x.shape):
        raise call.refused(f"its inputs do not fit: {x.shape} and {weights.shape}")
    group, kernel = call.whole("group", 1), weights.shape[2:]
    if group < 1 or x.shape[1] != weights.shape[1] * group or weights.shape[0] % group:
        raise call.refused(f"its inputs do not fit: {x.shape} and {weights.shape}")
    if (call.wholes("kernel_shape") or kernel) != kernel:
        raise call.refused("its kernel is not as large as its weights")
    spatial = _moved(call, x.shape[2:], _window(call, x.shape[2:], kernel))
    made = (x.shape[0], weights.shape[0], *spatial)
    call.operations = 2.0 * math.prod(made) * math.prod(weights.shape[1:])
    return made


def _conv(call: Call) -> list[Info]:
    bias = call.get(2)
    if bias is not None and bias.shape != call[1].shape[:1]:
        raise call.refused("its bias does not fit")
    return call.like(_convolved(call, call[0], call[1]))


def _conv_integer(call: Call) -> list[Info]:
    made = _convolved(call, call[0], call[1])
    call.scratch = math.prod(call[1].shape[1:]) * math.prod(made[2:])
    return [Info("int32", made)]


def _q_linear_conv(call: Call) -> list[Info]:
    made = _convolved(call, call[0], call[3])
    call.scratch = math.prod(call[3].shape[1:]) * math.prod(made[2:])
    return [Info(call[7].dtype, made)]


def _conv_transpose(call: Call) -> list[Info]:
    x, weights, group = call[0].shape, call[1].shape, call.whole("group", 1)
    if len(x) < _BOXES or len(weights) != len(x) or group < 1 or x[1] != weights[0]:
        raise call.refused(f"its inputs do not fit: {x} and {weights}")
    if (call.wholes("kernel_shape") or weights[2:]) != weights[2:]:
        raise call.refused("its kernel is not as large as its weights")
    window, count = _window(call, x[2:], weights[2:]), len(x) - 2
    extra = call.wholes("output_padding") or (0,) * count
    wanted = call.wholes("output_shape")
    if len(extra) != count or min(extra) < 0 or any(each >= MANY for each in extra):
        raise call.refused("its output padding does not fit")
    if wanted is not None:
        spatial = _positive(call, wanted[-count:])
    else:
        same = call.text("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
        spatial = tuple(
            side * window.strides[place]
            if same
            else window.strides[place] * (side - 1)
            + extra[place]
            + window.reach(place)
            - (window.pads[place] + window.pads[place + count])
            for place, side in enumerate(x[2:])
        )
    call.operations = 2.0 * math.prod(x) * math.prod(weights[1:])
    call.scratch = math.prod(x[2:]) * math.prod(weights[1:]) * _WIDEST
    return call.like(_positive(call, (x[0], weights[1] * group, *spatial)))


def _pool(call: Call) -> list[Info]:
    shape, kernel = call[0].shape, call.wholes("kernel_shape")
    if kernel is None or len(shape) < _BOXES:
        raise call.refused("it has no kernel, or its input is too small")
    spatial = _moved(call, shape[2:], _window(call, shape[2:], kernel))
    made = (*shape[:2], *spatial)
    call.operations = float(math.prod(made) * math.prod(kernel))
    return [Info(call[0].dtype, made), *(Info("int64", made) for _ in call.op.outputs[1:])]


def _global_pool(call: Call) -> list[Info]:
    if len(call[0].shape) < _MATRIX:
        raise call.refused("its input is too small")
    return call.like((*call[0].shape[:2], *(1 for _ in call[0].shape[2:])))


def _depth_to_space(call: Call) -> list[Info]:
    block = call.whole("blocksize")
    if len(call[0].shape) != _PICTURES or block < 1 or call[0].shape[1] % (block * block):
        raise call.refused("its blocks do not fit its input")
    batch, channels, height, width = call[0].shape
    return call.like((batch, channels // (block * block), height * block, width * block))


def _space_to_depth(call: Call) -> list[Info]:
    block = call.whole("blocksize")
    if len(call[0].shape) != _PICTURES or block < 1 or any(side % block for side in call[0].shape[2:]):
        raise call.refused("its blocks do not fit its input")
    batch, channels, height, width = call[0].shape
    return call.like((batch, channels * block * block, height // block, width // block))


_PICTURES = 4


def _grid_sample(call: Call) -> list[Info]:
    x, grid = call[0].shape, call[1].shape
    if len(x) < _BOXES or len(grid) != len(x) or grid[-1] != len(x) - 2 or grid[0] != x[0]:
        raise call.refused("its inputs do not fit")
    call.operations = 64.0 * x[1] * math.prod(grid)
    return call.like((*x[:2], *grid[1:-1]))


def _recurrent(gates: int) -> Infer:
    def rule(call: Call) -> list[Info]:
        x, weights, hidden = call[0].shape, call[1].shape, call.whole("hidden_size")
        directions = 2 if call.text("direction", "forward") == "bidirectional" else 1
        if call.whole("layout", 0) or len(x) != _BOXES or len(weights) != _BOXES or hidden < 1:
            raise call.refused("its inputs do not fit, or its batch is the first axis")
        if weights != (directions, gates * hidden, x[2]) or call[2].shape != (directions, gates * hidden, hidden):
            raise call.refused("its weights do not fit")
        _check_states(call, directions, hidden)
        call.operations = 2.0 * x[0] * x[1] * directions * gates * hidden * (x[2] + hidden)
        call.scratch = x[0] * x[1] * directions * gates * hidden * _WIDEST
        state = (directions, x[1], hidden)
        made = [(x[0], directions, x[1], hidden), state, state]
        return [Info(call[0].dtype, shape) for shape in made[: max(1, len(call.op.outputs))]]

    return rule


def _check_states(call: Call, directions: int, hidden: int) -> None:
    state = (directions, call[0].shape[1], hidden)
    if any((given := call.get(place)) is not None and given.shape != state for place in (5, 6)):
        raise call.refused("its states do not fit")


def _layer_norm(call: Call) -> list[Info]:
    axis = call.axis(call.whole("axis", -1), len(call[0].shape))
    shape = tuple(side if place < axis else 1 for place, side in enumerate(call[0].shape))
    return [*_same(call), *(Info("float32", shape) for _ in call.op.outputs[1:])]


def _quantised(call: Call) -> list[Info]:
    zero = call.get(2)
    return [Info(_dtype(call, "output_dtype", "uint8" if zero is None else zero.dtype), call[0].shape)]


def _dequantised(call: Call) -> list[Info]:
    return [Info(call[1].dtype, call[0].shape)]


def _dynamic(call: Call) -> list[Info]:
    return [Info("uint8", call[0].shape), Info("float32", ()), Info("uint8", ())]


def _boxed(call: Call) -> list[Info]:
    height, width = call.whole("output_height", 1), call.whole("output_width", 1)
    if len(call[0].shape) != _PICTURES or len(call[1].shape) != _MATRIX or min(height, width) < 1:
        raise call.refused("its inputs do not fit")
    ratio = call.whole("sampling_ratio", 0)
    if not 1 <= ratio <= _MOST_SAMPLES:
        raise call.refused("what it computes depends on the values of its inputs: its sampling ratio has to be 1 to 16")
    made = (call[1].shape[0], call[0].shape[1], height, width)
    call.operations = 16.0 * math.prod(made) * ratio * ratio
    return call.like(made)


_MOST_SAMPLES = 16


def _attention(call: Call) -> list[Info]:
    """Of four axes alone, as exporters write it, and without a state."""
    q, k, v = call[0].shape, call[1].shape, call[2].shape
    if not len(q) == len(k) == len(v) == _PICTURES or len(call.op.outputs) > 1 or len(call.inputs) > _PICTURES:
        raise call.refused("its inputs are not of four axes, or it keeps a state, which is not taken")
    if q[0] != k[0] or q[3] != k[3] or k[:3] != v[:3] or k[1] < 1 or q[1] % k[1]:
        raise call.refused("its inputs do not fit")
    call.operations = 4.0 * math.prod(q[:3]) * k[2] * max(q[3], v[3])
    call.scratch = math.prod(q[:3]) * k[2] * _WIDEST
    return call.like((*q[:3], v[3]))


def _rule(infer: Infer, inputs: tuple[int, int] = (1, 1), attributes: str = "", outputs: int = 1) -> Rule:
    return Rule(infer, inputs, (1, outputs), frozenset(attributes.split()))


def _all(kinds: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(kinds.split(), rule)


_CONV = "auto_pad dilations group kernel_shape pads strides"
_POOL = "auto_pad ceil_mode count_include_pad dilations kernel_shape p pads storage_order strides"
_RNN = (
    "activation_alpha activation_beta activations clip direction hidden_size input_forget layout linear_before_reset "
    "output_sequence"
)
_UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor HardSwish Log Neg Reciprocal Relu Round Sigmoid "
    "Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh Mish BitwiseNot Not"
)
_REDUCE = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)

_BOUNDED: dict[str, Rule] = {
    **_all(_UNARY, _rule(_same)),
    **_all("Add Sub Mul Div Pow PRelu BitwiseAnd BitwiseOr BitwiseXor", _rule(_elementwise, (2, 2))),
    **_all("And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual", _rule(_comparison, (2, 2))),
    **_all("Max Min Mean Sum", _rule(_elementwise, (1, MANY))),
    "Mod": _rule(_elementwise, (2, 2), "fmod"),
    "Clip": _rule(_same, (1, 3), "min max"),
    "Cast": _rule(_cast, attributes="to saturate round_mode"),
    "CastLike": _rule(_cast_like, (2, 2), "saturate round_mode"),
    "Concat": _rule(_concat, (1, MANY), "axis"),
    "Gather": _rule(_gather, (2, 2), "axis"),
    "Identity": _rule(_identity),
    "Slice": _rule(_slice, (1, 5), "axes ends starts"),
    "Squeeze": _rule(_squeeze, (1, 2), "axes"),
    "Transpose": _rule(_transpose, attributes="perm"),
    "Unsqueeze": _rule(_unsqueeze, (1, 2), "axes"),
    "Where": _rule(_where, (3, 3)),
}
"""Those which may read tensors of which only the largest size is known."""

RULES: dict[str, Rule] = {
    **{kind: replace(rule, takes_bounds=True) for kind, rule in _BOUNDED.items()},
    **_all("Elu Celu LeakyRelu ThresholdedRelu Swish", _rule(_same, attributes="alpha")),
    **_all(_REDUCE, _rule(_reduce, (1, 2), "axes keepdims noop_with_empty_axes")),
    **_all("Softmax LogSoftmax Hardmax", _rule(_same, attributes="axis")),
    **_all("ArgMax ArgMin", _rule(_arg, attributes="axis keepdims select_last_index")),
    **_all("GlobalAveragePool GlobalMaxPool GlobalLpPool", _rule(_global_pool, attributes="p")),
    **_all("AveragePool LpPool", _rule(_pool, attributes=_POOL)),
    **_all("CumSum CumProd", _rule(_same, (2, 2), "exclusive reverse")),
    "Attention": _rule(_attention, (3, 4), "is_causal scale softcap softmax_precision q_num_heads kv_num_heads"),
    "BatchNormalization": _rule(_batch_norm, (5, 5), "epsilon momentum spatial training_mode", 5),
    "BitShift": _rule(_elementwise, (2, 2), "direction"),
    "Compress": _rule(_compress, (2, 2), "axis"),
    "Constant": _rule(_constant, (0, 0), "value value_float value_floats value_int value_ints"),
    "ConstantOfShape": _rule(_constant_of_shape, attributes="value"),
    "Conv": _rule(_conv, (2, 3), _CONV),
    "ConvInteger": _rule(_conv_integer, (2, 4), _CONV),
    "ConvTranspose": _rule(_conv_transpose, (2, 3), _CONV + " output_padding output_shape"),
    "DepthToSpace": _rule(_depth_to_space, attributes="blocksize mode"),
    "DequantizeLinear": _rule(_dequantised, (2, 3), "axis"),
    "Dropout": _rule(_dropout, (1, 3), "ratio seed", 2),
    "DynamicQuantizeLinear": _rule(_dynamic, outputs=3),
    "Einsum": _rule(_einsum, (1, 8), "equation"),
    "Expand": _rule(_expand, (2, 2)),
    "EyeLike": _rule(_eye_like, attributes="dtype k"),
    "Flatten": _rule(_flatten, attributes="axis"),
    "GRU": _rule(_recurrent(3), (3, 6), _RNN, 2),
    "GatherElements": _rule(_gather_elements, (2, 2), "axis"),
    "GatherND": _rule(_gather_nd, (2, 2), "batch_dims"),
    "Gelu": _rule(_same, attributes="approximate"),
    "Gemm": _rule(_gemm, (2, 3), "alpha beta transA transB"),
    "GridSample": _rule(_grid_sample, (2, 2), "align_corners mode padding_mode"),
    "GroupNormalization": _rule(_same, (3, 3), "epsilon num_groups stash_type"),
    "HardSigmoid": _rule(_same, attributes="alpha beta"),
    "InstanceNormalization": _rule(_same, (3, 3), "epsilon"),
    "IsInf": _rule(_as_bool, attributes="detect_negative detect_positive"),
    "IsNaN": _rule(_as_bool),
    "LRN": _rule(_same, attributes="alpha beta bias size"),
    "LSTM": _rule(_recurrent(4), (3, 8), _RNN, 3),
    "LayerNormalization": _rule(_layer_norm, (2, 3), "axis epsilon stash_type", 3),
    "LpNormalization": _rule(_same, attributes="axis p"),
    "MatMul": _rule(_mat_mul, (2, 2)),
    "MatMulInteger": _rule(_mat_mul_integer, (2, 4)),
    "MaxPool": _rule(_pool, attributes=_POOL, outputs=2),
    "MeanVarianceNormalization": _rule(_same, attributes="axes"),
    "NonMaxSuppression": _rule(_non_max_suppression, (2, 5), "center_point_box"),
    "NonZero": _rule(_non_zero),
    "OneHot": _rule(_one_hot, (3, 3), "axis"),
    "Pad": _rule(_pad, (1, 4), "mode pads value"),
    "QLinearConv": _rule(_q_linear_conv, (8, 9), _CONV),
    "QLinearMatMul": _rule(_q_linear_mat_mul, (8, 8)),
    "QuantizeLinear": _rule(_quantised, (2, 3), "axis output_dtype saturate"),
    "RNN": _rule(_recurrent(1), (3, 6), _RNN, 2),
    "RMSNormalization": _rule(_same, (2, 2), "axis epsilon stash_type"),
    "Range": _rule(_range, (3, 3)),
    "Reshape": _rule(_reshape, (1, 2), "allowzero shape"),
    "Resize": _rule(
        _resize,
        (1, 4),
        "antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside extrapolation_value "
        "keep_aspect_ratio_policy mode nearest_mode",
    ),
    "ReverseSequence": _rule(_same, (2, 2), "batch_axis time_axis"),
    "RoiAlign": _rule(
        _boxed, (3, 3), "coordinate_transformation_mode mode output_height output_width sampling_ratio spatial_scale"
    ),
    "ScatterElements": _rule(_scatter_elements, (3, 3), "axis reduction"),
    "ScatterND": _rule(_scatter_nd, (3, 3), "reduction"),
    "Selu": _rule(_same, attributes="alpha gamma"),
    "Shape": _rule(_shape, attributes="start end"),
    "Shrink": _rule(_same, attributes="bias lambd"),
    "Size": _rule(_size),
    "SpaceToDepth": _rule(_space_to_depth, attributes="blocksize mode"),
    "Split": _rule(_split, (1, 2), "axis num_outputs split", MANY),
    "Tile": _rule(_tile, (2, 2)),
    "TopK": _rule(_top_k, (1, 2), "axis k largest sorted", 2),
    "Trilu": _rule(_same, (1, 2), "upper"),
    "Unique": _rule(_unique, attributes="axis sorted", outputs=4),
    "Upsample": _rule(_upsample, (1, 2), "mode scales"),
}
"""The operators that are taken, by name."""
