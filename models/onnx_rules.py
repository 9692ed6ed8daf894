"""Whether an ONNX model may be run: everything that is checked before any runtime sees it. Pure.

    checked = check(memoryview(raw), {"input": Info("float32", (1, 3, 224, 224))}, Limits())

A model passes where all its operators are ONNX's own and on a list; where nothing in it is a function, a graph in a
node, text, sparse, or in another file; where every name is made once and before it is read; where every tensor has
exactly the bytes that its shape needs; and where the size of all that every node makes, and the work of it, is known
before and within the limits. What is left to a runtime is what it computes. docs/bundle.md lists the operators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecloud.models import onnx_model, onnx_shapes, onnx_values
from edgecloud.models.onnx_model import Constant, Limits, Model, OnnxError, Op, check_shape
from edgecloud.models.onnx_shapes import Call, Info
from edgecloud.utils.units import printable

__all__ = ["Checked", "Info", "Limits", "OnnxError", "check", "walk"]


@dataclass(frozen=True)
class Checked:
    """A model that passed, and what it will need."""

    model: Model
    infos: Mapping[str, Info]
    """Every tensor by name: the inputs, the constants and what the nodes make."""
    total_bytes: int
    """Of all that all nodes make, and need besides."""
    largest_bytes: int
    """The most that one node makes at once, or needs besides."""
    operations: float
    """Multiplications and additions of one run."""


def check(
    message: memoryview,
    inputs: Mapping[str, Info],
    limits: Limits | None = None,
    elsewhere: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
) -> Checked:
    """Check a model that is to be run on `inputs`. Raises OnnxError, in one line that names the node and the reason.

    `elsewhere` are the type and shape of the weights that are handed in beside the model; no others may be missing.
    """
    limits = limits or Limits()
    return walk(onnx_model.read(message, limits), inputs, limits, elsewhere)


def walk(
    model: Model,
    inputs: Mapping[str, Info],
    limits: Limits,
    elsewhere: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
) -> Checked:
    """`check` for a model that was read, which may be asked for several sizes of its inputs. Raises OnnxError."""
    infos = _given(model, inputs, limits)
    for constant in model.constants.values():
        _check_name(constant.name, infos)
        _check_elsewhere(constant, elsewhere or {})
        infos[constant.name] = onnx_shapes.known(constant, limits)
    budget = _Budget(limits)
    for op in model.ops:
        for name, info in zip(op.outputs, _made(op, model.opset, infos, budget), strict=False):
            if name:
                _check_name(name, infos, op)
                infos[name] = info
    for each in model.outputs:
        if each.name not in infos:
            raise OnnxError(f"nothing makes its output {_quoted(each.name)}")
    return Checked(model, infos, budget.total_bytes, budget.largest_bytes, budget.operations)


def _quoted(name: str) -> str:
    return repr(printable(name, 80))


def _given(model: Model, inputs: Mapping[str, Info], limits: Limits) -> dict[str, Info]:
    for each in model.inputs:
        given = inputs.get(each.name)
        if given is None:
            raise OnnxError(f"nothing is said of its input {_quoted(each.name)}")
        if given.dtype != each.dtype:
            raise OnnxError(f"its input {_quoted(each.name)} is {each.dtype}, not {given.dtype}")
        if each.shape is not None and not _fits(given.shape, each.shape):
            shape = f"{_told(each.shape)}, which {_told(given.shape)} does not fit"
            raise OnnxError(f"its input {_quoted(each.name)} is {shape}")
    for name, info in inputs.items():
        check_shape(list(info.shape), limits)
        if not name:
            raise OnnxError("an input has no name")
    return dict(inputs)


def _told(shape: Sequence[int | str]) -> str:
    return " x ".join(printable(str(side), 40) for side in shape)


def _fits(shape: tuple[int, ...], declared: tuple[int | str, ...]) -> bool:
    return len(shape) == len(declared) and all(
        isinstance(wanted, str) or side == wanted for side, wanted in zip(shape, declared, strict=True)
    )


def _check_name(name: str, infos: Mapping[str, Info], op: Op | None = None) -> None:
    if name in infos:
        raise OnnxError(f"{op.label + ' makes' if op else 'it holds'} {_quoted(name)}, which is there already")


def _check_elsewhere(constant: Constant, elsewhere: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    if constant.numbers is None and elsewhere.get(constant.name) != (constant.dtype, constant.shape):
        raise OnnxError(f"the numbers of {_quoted(constant.name)} are elsewhere, or of another shape than it says")


class _Budget:
    """What may still be made, worked out and computed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.total_bytes = self.largest_bytes = 0
        self.operations = 0.0
        self._elements = 0

    def charge(self, call: Call, made: list[Info]) -> None:
        """Raises OnnxError where a node makes or computes too much."""
        limits = self.limits
        for info in made:
            if info.bytes > limits.tensor_bytes:
                raise call.refused(f"it makes {info.bytes} bytes at once; at most {limits.tensor_bytes} are allowed")
            self.largest_bytes = max(self.largest_bytes, info.bytes)
            self.total_bytes += info.bytes
        if call.scratch > limits.tensor_bytes:
            raise call.refused(
                f"it needs {call.scratch} bytes while it runs; at most {limits.tensor_bytes} are allowed"
            )
        self.largest_bytes = max(self.largest_bytes, call.scratch)
        self.total_bytes += call.scratch
        if self.total_bytes > limits.total_bytes:
            raise call.refused(f"with it the nodes make more than {limits.total_bytes} bytes")
        touched = sum(info.elements for info in (*made, *call.inputs) if info is not None)
        self.operations += touched + call.operations
        if self.operations > limits.operations:
            raise call.refused(f"with it the nodes need more than {limits.operations:.0e} operations")

    def may_work_out(self, elements: int) -> bool:
        """Whether a constant of so many numbers is worked out here."""
        if elements > self.limits.value_elements or self._elements + elements > self.limits.all_value_elements:
            return False
        self._elements += elements + 1
        return True


def _made(op: Op, opset: int, infos: Mapping[str, Info], budget: _Budget) -> list[Info]:
    call = Call(op, _read(op, infos), opset, budget.limits)
    try:
        made = onnx_shapes.infer(call)[: len(op.outputs)]
    except (ArithmeticError, ValueError, TypeError, IndexError) as error:  # numbers that no rule has thought of
        raise call.refused(f"it cannot be understood ({type(error).__name__})") from None
    if len(made) < len([name for name in op.outputs if name]):
        raise call.refused("it makes fewer tensors than it names")
    budget.charge(call, made)
    if len(made) == 1 and made[0].value is None and made[0].is_exact:
        return [_worked_out(call, made[0], budget)]
    return made


def _read(op: Op, infos: Mapping[str, Info]) -> list[Info | None]:
    try:
        return [infos[name] if name else None for name in op.inputs]
    except KeyError as error:
        name = _quoted(str(error.args[0]))
        raise OnnxError(
            f"{op.label} reads {name}, which nothing makes before it: its nodes are not in order, or go in a circle"
        ) from None


def _worked_out(call: Call, info: Info, budget: _Budget) -> Info:
    """With its numbers, where all that it reads is known and it is small."""
    known: list[Any] = [None if each is None else each.value for each in call.inputs]
    if any(each is not None and each.value is None for each in call.inputs) or not known:
        return info
    if not budget.may_work_out(info.elements):
        return info
    value = onnx_values.value_of(call.op, known, info.shape, info.dtype)
    return info if value is None else Info(info.dtype, info.shape, np.asarray(value))
