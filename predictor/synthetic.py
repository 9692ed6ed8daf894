"""Builds a designed network in torch."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from edgecloud.models.zoo.local import LocallyConnected2d
from edgecloud.predictor.draft import Design


class Parameters:
    """Numbers for the weights of networks that nobody will ask for an answer: one block of `size` bytes, used in turn.

    Drawing hundreds of megabytes of fresh random numbers would take longer than the measuring.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        few = torch.rand(1 << 18, generator=torch.Generator().manual_seed(0)) - 0.5
        self._pool = few.repeat(-(-size // (4 * len(few)))).to(device)
        self._next = 0

    @property
    def bytes(self) -> int:
        """Size of the block; a module may have more, for then numbers are used twice."""
        return 4 * len(self._pool)

    def fill(self, module: nn.Module) -> None:
        """Give the module's parameters, which have a shape but no memory, the next numbers of the pool."""
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                part.register_parameter(name, nn.Parameter(self._take(parameter.shape), requires_grad=False))
            for name, buffer in list(part.named_buffers(recurse=False)):
                value = torch.ones if name == "running_var" else torch.zeros
                part.register_buffer(name, value(buffer.shape, dtype=buffer.dtype))

    def _take(self, shape: torch.Size) -> torch.Tensor:
        count = shape.numel()
        if self._next + count > len(self._pool):
            self._next = 0
        tensor = self._pool[self._next : self._next + count].view(shape)
        self._next += count
        return tensor


def _half(x: torch.Tensor, which: int) -> torch.Tensor:
    return x.chunk(2, dim=1)[which]


_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "add": operator.add,
    "mul": operator.mul,
    "cat": lambda *values: torch.cat(values, 1),
    "half": _half,
    "view": lambda x, size: x.view(size),
    "swap_channels": lambda x: torch.transpose(x, 1, 2),
    "contiguous": lambda x: x.contiguous(),
    "flatten": lambda x: torch.flatten(x, 1),
}


class Synthetic(nn.Module):
    """The network of a design; its parameters have no memory yet."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self._steps = design.steps
        self.layers = nn.ModuleDict()
        with torch.device("meta"):
            for number, step in enumerate(design.steps):
                if step.op not in _FUNCTIONS:
                    self.layers[str(number)] = _module(step.op, dict(step.settings))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the steps one after the other on x of the design's input shape; the last one gives the answer."""
        values: list[Any] = [x]
        for number, step in enumerate(self._steps):
            read = [values[source] for source in step.sources]
            if step.op in _FUNCTIONS:
                values.append(_FUNCTIONS[step.op](*read, **dict(step.settings)))
            else:
                call = _CALLS.get(step.op, _call)
                values.append(call(self.layers[str(number)], *read))
        answer: torch.Tensor = values[-1]
        return answer


def _module(op: str, settings: dict[str, Any]) -> nn.Module:
    make: Callable[..., nn.Module] = _MODULES.get(op) or getattr(nn, op)
    return make(**settings)


def _call(module: nn.Module, *read: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = module(*read)
    return output


def _attend(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = module(x, x, x, need_weights=False)[0]
    return output


_MODULES: dict[str, Callable[..., nn.Module]] = {
    "LocallyConnected2d": LocallyConnected2d,
    "MultiheadAttention": partial(nn.MultiheadAttention, batch_first=True),
}
"""What is made otherwise than torch.nn's module of that name without further settings."""
_CALLS: dict[str, Callable[..., torch.Tensor]] = {"MultiheadAttention": _attend}
"""What is called otherwise than with the values that it reads."""


def build(design: Design, parameters: Parameters) -> nn.Module:
    """A network in eval mode that computes as a real one does, on meaningless numbers."""
    network = Synthetic(design)
    parameters.fill(network)
    return network.eval()
