"""Working out small constants of an ONNX graph, such as shapes: what a runtime would get, or nothing. Pure.

Only what every runtime works out alike is here, and only for numbers that the types hold: where a runtime could get
another number (an overflow, a division by 0) the value is not known, and what needs it is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.onnx_model import DTYPES, Constant, Op

Array = NDArray[Any]
Evaluate = Callable[[Op, Sequence[Array | None]], "Array | None"]
EXACT = 1 << 53


def value_of(op: Op, inputs: Sequence[Array | None], shape: tuple[int, ...], dtype: str) -> Array | None:
    """The numbers that a node makes, of a shape and a type that are known to be small; None where they are not known.
    The numbers of missing inputs are None; all others are known."""
    rule = _RULES.get(op.kind)
    if rule is None:
        return None
    try:
        with np.errstate(all="raise"):
            value = rule(op, inputs)
    except (ArithmeticError, ValueError, TypeError, IndexError, KeyError, AttributeError):
        return None
    if value is None or value.shape != shape or str(value.dtype) != dtype:
        return None
    return value


def _given(array: Array | None) -> Array:
    if array is None:
        raise ValueError("an input is missing")
    return array


def _arithmetic(compute: Callable[[Any, Any], Any]) -> Evaluate:
    def rule(_: Op, inputs: Sequence[Array | None]) -> Array | None:
        a, b = _given(inputs[0]), _given(inputs[1])
        return _fitting(compute(a, b), compute(a.astype(np.float64), b.astype(np.float64)), a.dtype)

    return rule


def _fitting(value: Any, wide: Any, dtype: Any) -> Array | None:
    """None for whole numbers that did not fit their type."""
    array = np.asarray(value)
    if dtype.kind in "iu" and (np.abs(np.asarray(wide)) >= min(EXACT, np.iinfo(dtype).max)).any():
        return None
    return array.astype(dtype, copy=False)


def _divide(a: Any, b: Any) -> Any:
    """Whole numbers of at least 0 alone: below it runtimes round in two ways."""
    if a.dtype.kind == "f":
        return a / b
    if (a < 0).any() or (b <= 0).any():
        raise ValueError("not divided")
    return a // b


def _mod(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f" or (a < 0).any() or (b <= 0).any():
        raise ValueError("not divided")
    return a % b


def _single(compute: Callable[[Any], Any]) -> Evaluate:
    def rule(_: Op, inputs: Sequence[Array | None]) -> Array | None:
        array = _given(inputs[0])
        return np.asarray(compute(array)).astype(array.dtype, copy=False)

    return rule


def _compare(compute: Callable[[Any, Any], Any]) -> Evaluate:
    def rule(_: Op, inputs: Sequence[Array | None]) -> Array | None:
        return np.asarray(compute(_given(inputs[0]), _given(inputs[1])), dtype=bool)

    return rule


def _joined(compute: Callable[[Any, Any], Any]) -> Evaluate:
    def rule(_: Op, inputs: Sequence[Array | None]) -> Array | None:
        value = _given(inputs[0])
        for each in inputs[1:]:
            value = compute(value, _given(each))
        return value

    return rule


def cast(array: Array, dtype: str) -> Array:
    """Raises ValueError for numbers that the type cannot hold, where runtimes differ."""
    kind = np.dtype(dtype)
    if kind.kind in "iu" and array.dtype.kind == "f":
        if not np.isfinite(array).all() or (np.abs(array) >= min(EXACT, np.iinfo(kind).max)).any():
            raise ValueError("not held")
        array = np.trunc(array)
    if kind.kind in "iu" and array.size and array.dtype.kind in "iuf":
        about = np.iinfo(kind)
        if array.min() < about.min or array.max() > about.max:
            raise ValueError("not held")
    return array.astype(kind)


def _cast(op: Op, inputs: Sequence[Array | None]) -> Array:
    return cast(_given(inputs[0]), DTYPES[_whole(op, "to", 1)])


def _whole(op: Op, name: str, default: int) -> int:
    value = op.attributes.get(name, default)
    if not isinstance(value, int):
        raise TypeError(name)
    return value


def _list(op: Op, name: str, inputs: Sequence[Array | None], place: int) -> list[int] | None:
    """A list that newer operators take as an input, and older ones as an attribute; None where it is not given."""
    if len(inputs) > place and inputs[place] is not None:
        return [int(each) for each in _given(inputs[place]).reshape(-1)]
    value = op.attributes.get(name)
    return [int(each) for each in value] if isinstance(value, tuple) else None


def _gather(op: Op, inputs: Sequence[Array | None]) -> Array:
    taken: Array = np.take(_given(inputs[0]), _given(inputs[1]), axis=_whole(op, "axis", 0))
    return taken


def _concat(op: Op, inputs: Sequence[Array | None]) -> Array:
    return np.concatenate([_given(each) for each in inputs], axis=_whole(op, "axis", 0))


def _unsqueeze(op: Op, inputs: Sequence[Array | None]) -> Array:
    axes = _list(op, "axes", inputs, 1) or []
    array = _given(inputs[0])
    rank = array.ndim + len(axes)
    return np.expand_dims(array, tuple(axis % rank for axis in axes))


def _squeeze(op: Op, inputs: Sequence[Array | None]) -> Array:
    axes = _list(op, "axes", inputs, 1)
    return np.squeeze(_given(inputs[0]), None if axes is None else tuple(axes))


def _reshape(op: Op, inputs: Sequence[Array | None]) -> Array:
    array = _given(inputs[0])
    shape = _list(op, "shape", inputs, 1) or []
    if _whole(op, "allowzero", 0) == 0:
        shape = [array.shape[place] if side == 0 else side for place, side in enumerate(shape)]
    return array.reshape(shape)


def _slice(op: Op, inputs: Sequence[Array | None]) -> Array:
    array = _given(inputs[0])
    starts, ends = _list(op, "starts", inputs, 1) or [], _list(op, "ends", inputs, 2) or []
    axes = _list(op, "axes", inputs, 3) or list(range(len(starts)))
    steps = _list(op, "steps", inputs, 4) or [1] * len(starts)
    index: list[slice] = [slice(None)] * array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step <= 0:
            raise ValueError("backwards")
        index[axis] = slice(start, end, step)
    part: Array = array[tuple(index)]
    return part


def _constant_of_shape(op: Op, inputs: Sequence[Array | None]) -> Array:
    value = op.attributes.get("value")
    filled = value.numbers if isinstance(value, Constant) else np.zeros(1, np.float32)
    if filled is None:
        raise ValueError("elsewhere")
    return np.full([int(each) for each in _given(inputs[0])], filled.reshape(-1)[0], filled.dtype.newbyteorder("="))


def _range(_: Op, inputs: Sequence[Array | None]) -> Array | None:
    start, limit, delta = (_given(each).reshape(()) for each in inputs)
    if start.dtype.kind not in "iu":
        return None
    return np.arange(int(start), int(limit), int(delta), dtype=start.dtype)


def _expand(_: Op, inputs: Sequence[Array | None]) -> Array:
    array, shape = _given(inputs[0]), tuple(int(each) for each in _given(inputs[1]))
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, shape)).copy()


def _tile(_: Op, inputs: Sequence[Array | None]) -> Array:
    return np.tile(_given(inputs[0]), [int(each) for each in _given(inputs[1])])


def _transpose(op: Op, inputs: Sequence[Array | None]) -> Array:
    perm = op.attributes.get("perm")
    return np.transpose(_given(inputs[0]), [int(axis) for axis in perm] if isinstance(perm, tuple) else None)


def _reduced(compute: Callable[..., Any]) -> Evaluate:
    def rule(op: Op, inputs: Sequence[Array | None]) -> Array | None:
        array, axes = _given(inputs[0]), _list(op, "axes", inputs, 1)
        if array.dtype.kind == "f" or (not axes and _whole(op, "noop_with_empty_axes", 0)):
            return None
        keep = bool(_whole(op, "keepdims", 1))
        axis = tuple(axes) if axes else None
        wide = compute(array.astype(np.float64), axis=axis, keepdims=keep)
        return _fitting(compute(array, axis=axis, keepdims=keep), wide, array.dtype)

    return rule


def _where(_: Op, inputs: Sequence[Array | None]) -> Array:
    return np.where(*(_given(each) for each in inputs[:3]))


_RULES: dict[str, Evaluate] = {
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divide),
    "Mod": _arithmetic(_mod),
    "Max": _joined(np.maximum),
    "Min": _joined(np.minimum),
    "Floor": _single(np.floor),
    "Ceil": _single(np.ceil),
    "Neg": _single(np.negative),
    "Abs": _single(np.abs),
    "Not": _single(np.logical_not),
    "Identity": _single(lambda array: array),
    "Equal": _compare(np.equal),
    "Greater": _compare(np.greater),
    "GreaterOrEqual": _compare(np.greater_equal),
    "Less": _compare(np.less),
    "LessOrEqual": _compare(np.less_equal),
    "And": _compare(np.logical_and),
    "Or": _compare(np.logical_or),
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Expand": _expand,
    "Tile": _tile,
    "Transpose": _transpose,
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "Where": _where,
}
