"""Between numpy and torch: arrays of every element type that travels, in the same memory where that is possible."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgecloud.utils.dtypes import BFLOAT16

Array = NDArray[Any]


def to_tensor(array: Array) -> torch.Tensor:
    """The same memory as torch sees it."""
    if array.dtype != BFLOAT16:
        return torch.from_numpy(array)
    halves = np.asarray(array, order="C").view(np.int16).reshape(array.shape)
    return torch.from_numpy(halves).view(torch.bfloat16)


def to_array(tensor: torch.Tensor) -> Array:
    """The same memory as numpy sees it; a copy of what is on another device."""
    here = tensor.detach().cpu().resolve_conj().resolve_neg()
    if here.dtype is not torch.bfloat16:
        array: Array = here.numpy()  # np.asarray failed while another thread captured a module
        return array
    halves: Array = here.contiguous().view(torch.int16).numpy()
    return halves.view(BFLOAT16).reshape(tuple(here.shape))
