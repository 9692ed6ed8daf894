"""Building a planned network in torch."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models.zoo.local import LocallyConnected2d
from predictor.design import NetworkPlan


class Parameters:
    """Numbers for the weights of networks that nobody will ask for an answer: one block of memory, used in turn.

    Drawing hundreds of megabytes of fresh random numbers would take longer than the measuring.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        few = torch.rand(1 << 18, generator=torch.Generator().manual_seed(0)) - 0.5
        self._pool = few.repeat(-(-size // (4 * len(few)))).to(device)
        self._next = 0

    @property
    def bytes(self) -> int:
        """Size of the block."""
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
        taken = self._pool[self._next : self._next + count].view(shape)
        self._next += count
        return taken


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
    """The network of a plan; its parameters have no memory yet."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self._steps = plan.steps
        self.layers = nn.ModuleDict()
        with torch.device("meta"):
            for number, step in enumerate(plan.steps):
                if step.op not in _FUNCTIONS:
                    self.layers[str(number)] = _module(step.op, dict(step.settings))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the steps one after the other; the last one gives the answer."""
        values: list[Any] = [x]
        for number, step in enumerate(self._steps):
            read = [values[source] for source in step.sources]
            if step.op in _FUNCTIONS:
                values.append(_FUNCTIONS[step.op](*read, **dict(step.settings)))
            elif step.op == "MultiheadAttention":
                values.append(self.layers[str(number)](*(read * 3), need_weights=False)[0])
            else:
                values.append(self.layers[str(number)](*read))
        answer: torch.Tensor = values[-1]
        return answer


def _module(op: str, settings: dict[str, Any]) -> nn.Module:
    if op == "MultiheadAttention":
        settings["batch_first"] = True
    made: nn.Module = LocallyConnected2d(**settings) if op == "LocallyConnected2d" else getattr(nn, op)(**settings)
    return made


def build(plan: NetworkPlan, parameters: Parameters) -> nn.Module:
    """A network in eval mode that computes as a real one does, on meaningless numbers."""
    network = Synthetic(plan)
    parameters.fill(network)
    return network.eval()
