"""Inputs as callers have them, and answers of the same kind: numpy arrays or torch tensors."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgecloud.utils.errors import UsageError

if TYPE_CHECKING:
    import torch

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Iterable[Array]
Tensors: TypeAlias = "tuple[Array, ...] | tuple[torch.Tensor, ...]"
"""Arrays or tensors: those that were given."""


def as_input(x: Any, shape: tuple[int, ...], name: str) -> Array:
    """An input as float32 of `shape`, (1, ...), whose first axis may be left out. Raises UsageError for another one.

    What is returned may be the caller's memory, which nothing here writes into.
    """
    array = _numbers(x, name)
    if array.shape == shape[1:]:
        array = array[None]
    if array.shape != shape:
        raise UsageError(f"{name} takes an input of shape {shape}, not {np.shape(x)}")
    if array.dtype.kind != "f":
        raise UsageError(f"{name} takes float32, not {array.dtype}: scale and convert the numbers as it was trained")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        array = np.asarray(array, dtype=np.float32, order="C")
    if not np.isfinite(array).all():
        raise UsageError(f"the input for {name} holds NaN or infinity")
    return array


def _numbers(x: Any, name: str) -> Array:
    if isinstance(x, np.ndarray):
        return x
    if is_tensor(x):
        array: Array = x.detach().cpu().numpy()
        return array
    raise UsageError(f"an input for {name} is a numpy array or a torch tensor, not {type(x).__name__}")


def is_tensor(x: Any) -> bool:
    """Whether this is torch's. Loads nothing: who has a tensor has torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def as_given(arrays: Arrays, x: Any) -> Tensors:
    """Outputs of the kind that the input `x` is of, on its device."""
    if not is_tensor(x):
        return tuple(arrays)
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(each)).to(x.device) for each in arrays)
