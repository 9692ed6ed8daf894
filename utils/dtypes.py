"""The element types that may be sent: those of torch, numpy and the wire.

numpy has no bfloat16: an array of those is one of pairs of bytes, with a type that says so.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""Of arrays that hold numbers of bfloat16, bit by bit."""
COMPLEX = ("complex128", "complex64")
TRAVELLING = (
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *COMPLEX,
    "bfloat16",
)


def name_of(dtype: np.dtype[Any]) -> str:
    """What torch and the wire call an element type."""
    return "bfloat16" if dtype == BFLOAT16 else dtype.name


def dtype_of(name: str) -> np.dtype[Any]:
    """The other way round."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def as_type(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers of an array in another type, in the order of their indices; the same memory where it is of that type
    already. Those of bfloat16 are cut to its precision as torch does: the nearest, of two the even one."""
    if dtype != BFLOAT16 or array.dtype == BFLOAT16:
        return np.asarray(array, dtype=dtype, order="C")
    bits = np.asarray(array, dtype=np.float32, order="C").view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return rounded.astype(np.uint16).view(BFLOAT16).reshape(array.shape)


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in a type that numpy computes with: those of bfloat16 as float32, which holds each of them."""
    if array.dtype != BFLOAT16:
        return array
    halves = np.asarray(array, order="C").view(np.uint16).reshape(array.shape)
    return (halves.astype(np.uint32) << 16).view(np.float32)
