"""Inputs as callers have them, and answers of the same kind: numpy arrays or torch tensors."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from edgecloud.models.form import FormError
from edgecloud.models.inputs import Array as Array
from edgecloud.models.inputs import Fed, InputSpec, fitted, is_resized
from edgecloud.models.registry import Entry
from edgecloud.utils.dtypes import widened
from edgecloud.utils.errors import UsageError

if TYPE_CHECKING:
    import torch

Arrays: TypeAlias = Iterable[Array]
Tensors: TypeAlias = "tuple[Array, ...] | tuple[torch.Tensor, ...]"
"""Arrays or tensors: those that were given."""


@dataclass(frozen=True)
class Given:
    """What a caller gave: `fed` as a network takes it, and what it was."""

    fed: Fed
    tensors: tuple[Any, ...]

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any], entry: Entry) -> Self:
        """Arrays or tensors, by position or by name as the network takes them. Raises UsageError for what does not fit.

        What is fed may be the caller's memory, which nothing here writes into.
        """
        tensors = _tensors_of(args, kwargs, entry)
        arrays = tuple(_fitted(*each, entry) for each in zip(tensors, entry.input_specs, strict=True))
        return cls(arrays if len(arrays) > 1 else arrays[0], tuple(tensors))


def _tensors_of(args: Sequence[Any], kwargs: Mapping[str, Any], entry: Entry) -> list[Any]:
    try:
        return entry.call.tensors_of(args, kwargs, lambda x: isinstance(x, np.ndarray) or is_tensor(x))
    except FormError as error:
        raise UsageError(f"an input for {entry.name}: {error}") from None


def resized_specs(args: Sequence[Any], kwargs: Mapping[str, Any], entry: Entry) -> tuple[InputSpec, ...] | None:
    """What a network would have to take for these inputs; None where it takes them, or where something else than the
    lengths of axes is another. Raises UsageError for inputs that are no call of it."""
    tensors, specs = _tensors_of(args, kwargs, entry), entry.input_specs
    shapes = [tuple(np.shape(each)) for each in tensors]
    is_other = [is_resized(shape, spec.shape) for shape, spec in zip(shapes, specs, strict=True)]
    if not any(is_other):
        return None
    return tuple(
        replace(spec, shape=shape) if changed else spec
        for shape, spec, changed in zip(shapes, specs, is_other, strict=True)
    )


def _fitted(x: Any, spec: InputSpec, entry: Entry) -> Array:
    array = _numbers(x)
    if not (len(entry.input_specs) == 1 and spec.dtype == "float32"):
        return fitted(array, spec, f"{spec.name} for {entry.name}")
    if spec.shape not in (array.shape, (1, *array.shape)):
        raise UsageError(f"{entry.name} takes an input of shape {spec.shape}, not {np.shape(x)}")
    if array.dtype.kind != "f":
        raise UsageError(
            f"{entry.name} takes float32, not {array.dtype}: scale and convert the numbers as it was trained"
        )
    return fitted(array, spec, f"the input for {entry.name}")


def _numbers(x: Any) -> Array:
    if isinstance(x, np.ndarray):
        return x
    from edgecloud.models.torch_arrays import to_array

    return to_array(x)


def is_tensor(x: Any) -> bool:
    """Whether this is torch's. Loads nothing: who has a tensor has torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def as_given(arrays: Arrays, given: Given) -> Tensors:
    """Outputs of the kind that the inputs are of: tensors, on the device of the first one, where any is one. numpy has
    no bfloat16, and gets float32 of the same numbers."""
    device = next((x.device for x in given.tensors if is_tensor(x)), None)
    if device is None:
        return tuple(map(widened, arrays))
    from edgecloud.models.torch_arrays import to_tensor

    return tuple(to_tensor(np.asarray(each, order="C")).to(device) for each in arrays)
