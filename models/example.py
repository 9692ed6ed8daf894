"""An example of what a network takes, in torch: how it is given, and the tensors in it. And what a network answers."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecloud.models import form
from edgecloud.models.form import Call, Form, FormError
from edgecloud.models.inputs import Fed, InputSpec
from edgecloud.models.torch_arrays import to_array
from edgecloud.utils.dtypes import TRAVELLING
from edgecloud.utils.errors import UsageError

Tensors = tuple[torch.Tensor, ...]


def is_tensor(value: Any) -> bool:
    """Whether a place in a form is one tensor."""
    return isinstance(value, torch.Tensor)


@dataclass(frozen=True)
class Example:
    """What a network is given: the tensors, and how they are given."""

    call: Call
    tensors: Tensors

    @classmethod
    def of(cls, given: Any, parameters: Sequence[str] = ("input",)) -> "Example":
        """Of a tensor, a tuple of what is given by position, or a dict of what is given by name; `parameters` are the
        names of the network's. Raises FormError for anything else."""
        call, tensors = form.call_of(given, parameters, is_tensor)
        return cls(call, tuple(tensors))

    @property
    def fed(self) -> Fed:
        """The same memory as numpy sees it."""
        arrays = tuple(map(to_array, self.tensors))
        return arrays if len(arrays) > 1 else arrays[0]

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What each of them is."""
        pairs = zip(self.call.names, self.tensors, strict=True)
        return tuple(InputSpec(name, tuple(tensor.shape), dtype_name(tensor)) for name, tensor in pairs)

    def answer(self, model: nn.Module, tensors: Sequence[torch.Tensor] | None = None) -> Any:
        """What a module answers to these tensors, or to others in their place; it gets copies, and may change those."""
        args, kwargs = self.call.arguments([each.clone() for each in (self.tensors if tensors is None else tensors)])
        return model(*args, **kwargs)

    @property
    def told(self) -> str:
        """For messages: the shape, or of several tensors the name and the shape of each."""
        if self.call.is_one:
            return f"input of shape {tuple(self.tensors[0].shape)}"
        pairs = zip(self.call.names, self.tensors, strict=True)
        return "inputs " + ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in pairs)


def dtype_name(tensor: torch.Tensor) -> str:
    """What the wire calls its element type."""
    return str(tensor.dtype).removeprefix("torch.")


def example_of(given: Any, parameters: Sequence[str]) -> Example:
    """What a user gives as an example, on the processor and in memory of its own; arrays become tensors.

    Raises UsageError for what holds no tensor, tensors of types that do not travel or without any elements, and NaN
    or infinity.
    """
    call, found = form.call_of(given, parameters, lambda value: isinstance(value, torch.Tensor | np.ndarray))
    return Example(call, tuple(_checked(*each) for each in zip(call.names, found, strict=True)))


def _checked(name: str, given: Any) -> torch.Tensor:
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "fiubc" or given.dtype.name not in TRAVELLING:
            raise FormError(f"{name} is an array of {given.dtype}, which does not travel")
        given = torch.from_numpy(np.ascontiguousarray(given).reshape(given.shape))
    tensor: torch.Tensor = given.detach().cpu().clone().contiguous().resolve_conj().resolve_neg()
    if dtype_name(tensor) not in TRAVELLING or tensor.layout is not torch.strided:
        raise FormError(f"{name} is a tensor of {dtype_name(tensor)}, {tensor.layout}, which does not travel")
    if not tensor.numel():
        raise FormError(f"{name} of shape {tuple(tensor.shape)} has no elements")
    if not torch.isfinite(tensor).all():
        raise FormError(f"{name} holds NaN or infinity")
    return tensor


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Say of what it is that something is wrong with its form."""
    try:
        yield
    except FormError as error:
        raise UsageError(f"{what}: {error}") from None


def parameters_of(model: nn.Module) -> tuple[str, ...]:
    """The names of what a module can be given by position, in order."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # one that is not written in Python
        return ("input",)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return tuple(each.name for each in parameters if each.kind in kinds)


def take_apart(answer: Any) -> tuple[Form, Tensors]:
    """The structure of an answer, and the tensors in it. Raises FormError where it has none."""
    found, tensors = form.take_apart(answer, is_tensor)
    return found, tuple(tensors)
