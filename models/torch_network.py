"""A network whose layers torch computes: the module as its own code built it, and the graph that was captured of it."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgecloud.models.example import Example, take_apart
from edgecloud.models.form import ONE, Call, Form
from edgecloud.models.graph import LayerGraph
from edgecloud.models.inputs import Input
from edgecloud.models.network import Array, Fed, Take, arrays_of
from edgecloud.models.specs import LayerSpec, describe, weight_bytes
from edgecloud.models.split import device_of
from edgecloud.models.torch_arrays import to_array, to_tensor
from edgecloud.models.trace import Traced, trace
from edgecloud.models.weights import Loaded


@dataclass(frozen=True)
class TorchNetwork:
    """One `models.network.Network`."""

    loaded: Loaded
    traced: Traced
    example: Input
    call: Call = ONE
    """How it is given its inputs."""

    @property
    def graph(self) -> LayerGraph:
        """Its layers, the inputs first."""
        return self.traced.graph

    @property
    def answer(self) -> Form:
        """The structure of its answer."""
        return self.traced.answer

    @property
    def weights(self) -> Loaded:
        """Which parameters it has, and the module that holds them."""
        return self.loaded

    @property
    def numbers(self) -> str:
        """Of a custom model, a digest of the numbers in its graph that are no parameters."""
        return self.traced.numbers

    @property
    def made_with(self) -> str:
        """The version of torch."""
        return str(torch.__version__)

    @property
    def bound(self) -> frozenset[int]:
        """Layers that hold something which could not cross a cut."""
        return self.traced.bound

    @property
    def kept(self) -> Mapping[str, str]:
        """Modules that could not be captured inside and are one layer each, with the reason."""
        return self.traced.kept

    def specs(self) -> tuple[LayerSpec, ...]:
        """Every layer but the input as predictors see it. Raises UnknownLayerError."""
        return describe(self.traced)

    def weight_bytes(self) -> tuple[int, ...]:
        """Of every layer, the inputs among them, the bytes of its parameters."""
        return weight_bytes(self.traced)

    def whole(self, x: Fed) -> list[Array]:
        """The tensors of the answer of the user's own module."""
        return whole_answer(self.loaded.model, *map(to_tensor, arrays_of(x)), call=self.call)

    def in_float64(self, x: Fed) -> list[Array] | None:
        """The same of a copy that computes in float64, as near to the exact answer as can be told; None of a module
        that insists on another type."""
        given = (array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays_of(x))
        try:
            return whole_answer(copy.deepcopy(self.loaded.model).double(), *map(to_tensor, given), call=self.call)
        except RuntimeError:  # two types that do not go together
            return None

    def each_output(self, x: Fed, take: Take) -> None:
        """Run the graph once on `x` and hand over the output of every layer."""
        numbers = {group[-1]: number for number, group in enumerate(self.traced.nodes)}
        with torch.inference_mode():
            device = device_of(self.traced.module)
            _Watch(self.traced.module, numbers, take).run(*(to_tensor(each).to(device) for each in arrays_of(x)))

    def copied(self) -> "TorchNetwork":
        """The same over parameters of its own, so that it may move to another device."""
        loaded = replace(self.loaded, model=copy.deepcopy(self.loaded.model))
        return prepare(loaded, self.example, self.graph.name, self.call)


def prepare(loaded: Loaded, example: Input, name: str, call: Call = ONE) -> TorchNetwork:
    """Capture the graph of a network."""
    given = Example(call, example.tensors)
    return TorchNetwork(loaded, trace(loaded.model, given, name, is_own=bool(loaded.code)), example, call)


def whole_answer(model: nn.Module, *tensors: torch.Tensor, call: Call = ONE) -> list[Array]:
    """The tensors of what a module answers that is run locally, and not slowed down."""
    device = device_of(model)
    model = model.to(device)  # what the captured graph does not share may still be elsewhere
    with torch.inference_mode():
        given = Example(call, tuple(each.to(device) for each in tensors))
        _, answer = take_apart(given.answer(model))
    return [to_array(each) for each in answer]


class _Watch(fx.Interpreter):
    """Runs a graph and hands over the output of each layer before anything else can change it."""

    def __init__(self, module: fx.GraphModule, numbers: Mapping[fx.Node, int], take: Take) -> None:
        super().__init__(module)
        self._numbers, self._take = numbers, take

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, once it was seen."""
        value = super().run_node(n)
        number = self._numbers.get(n)
        if number is not None and isinstance(value, torch.Tensor):
            self._take(number, np.asarray(to_array(value), order="C"))
        return value
