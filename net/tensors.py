"""Tensors on the wire: plain descriptions in the header, raw bytes in the payload. Knows numpy, not torch.

A tensor travels as `(dtype, shape, codec, buffer index)`; the header's list of buffer sizes says where in the payload
each buffer lies. Everything is checked against the limits, and the sizes against each other, before a view is made.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from net.frames import Limits, TooLargeError
from utils.dtypes import TRAVELLING
from utils.errors import ProtocolError

Array = npt.NDArray[Any]
RAW = "raw"
_DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name).newbyteorder("<") for name in TRAVELLING}


def describe(arrays: Sequence[Array]) -> tuple[dict[str, Any], list[memoryview]]:
    """The header's fields for these arrays, and their bytes: views of the memory of contiguous arrays, else copies."""
    tensors, buffers = [], []
    for index, array in enumerate(arrays):
        name = array.dtype.name
        if name not in _DTYPES:
            raise TypeError(f"dtype {name} does not travel")
        tensors.append((name, tuple(array.shape), RAW, index))
        plain = np.asarray(array, dtype=_DTYPES[name], order="C")
        buffers.append(plain.reshape(-1).view(np.uint8).data)
    return {"tensors": tensors, "buffers": [buffer.nbytes for buffer in buffers]}, buffers


def view(header: dict[str, Any], payload: memoryview, limits: Limits) -> list[Array]:
    """The arrays that a header describes, as views of the payload. Raises ProtocolError if they do not fit exactly."""
    tensors, sizes = header.get("tensors", []), header.get("buffers", [])
    if not isinstance(tensors, list) or not isinstance(sizes, list) or len(tensors) != len(sizes):
        raise ProtocolError("the header must list tensors and as many buffers")
    if len(tensors) > limits.tensors:
        raise TooLargeError(f"{len(tensors)} tensors, the limit is {limits.tensors}")
    if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) != payload.nbytes:
        raise ProtocolError("the sizes of the buffers do not add up to the payload")
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [_view_one(row, index, payload, starts, sizes, limits) for index, row in enumerate(tensors)]


def _view_one(row: Any, index: int, payload: memoryview, starts: list[int], sizes: list[int], limits: Limits) -> Array:
    if type(row) is not tuple or len(row) != 4:
        raise ProtocolError("a tensor is described by dtype, shape, codec and buffer index")
    name, shape, codec, buffer = row
    if type(name) is not str or name not in _DTYPES:
        raise ProtocolError(f"unknown dtype {_short(name)}")
    if codec != RAW:
        raise ProtocolError(f"unknown codec {_short(codec)}")
    if type(buffer) is not int or buffer != index:
        raise ProtocolError("every tensor has the buffer of its own place")
    if type(shape) is not tuple or any(type(size) is not int or size < 1 for size in shape):
        raise ProtocolError("a shape is a tuple of sizes of at least 1")
    if len(shape) > limits.dimensions:
        raise TooLargeError(f"{len(shape)} dimensions, the limit is {limits.dimensions}")
    if math.prod(shape) * _DTYPES[name].itemsize != sizes[index]:
        raise ProtocolError(f"a shape of {name} does not have the size of its buffer")
    part = payload[starts[index] : starts[index] + sizes[index]]
    return np.frombuffer(part, dtype=_DTYPES[name]).reshape(shape)


def _short(value: Any) -> str:
    """A stranger's value for a message: nothing but text is written out, and never more than a little."""
    return ascii(value[:40]) if type(value) is str else type(value).__name__
