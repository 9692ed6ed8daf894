"""A network whose layers torch computes: the module as its own code built it, and the graph that was captured of it."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgecloud.models.graph import LayerGraph
from edgecloud.models.inputs import Input
from edgecloud.models.network import Array, Take
from edgecloud.models.specs import LayerSpec, describe
from edgecloud.models.split import device_of
from edgecloud.models.trace import Traced, trace
from edgecloud.models.weights import Loaded


@dataclass(frozen=True)
class TorchNetwork:
    """One `models.network.Network`."""

    loaded: Loaded
    traced: Traced
    example: Input

    @property
    def graph(self) -> LayerGraph:
        """Its layers, the input first."""
        return self.traced.graph

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

    def whole(self, x: Array) -> list[Array]:
        """The answer of the user's own module to an input of shape (1, ...)."""
        return whole_answer(self.loaded.model, torch.from_numpy(x))

    def each_output(self, x: Array, take: Take) -> None:
        """Run the graph once on `x` and hand over the output of every layer."""
        numbers = {group[-1]: number for number, group in enumerate(self.traced.nodes)}
        with torch.inference_mode():
            _Watch(self.traced.module, numbers, take).run(torch.from_numpy(x).to(device_of(self.traced.module)))

    def copied(self) -> "TorchNetwork":
        """The same over parameters of its own, so that it may move to another device."""
        loaded = replace(self.loaded, model=copy.deepcopy(self.loaded.model))
        return prepare(loaded, self.example, self.graph.name)


def prepare(loaded: Loaded, example: Input, name: str) -> TorchNetwork:
    """Capture the graph of a network."""
    return TorchNetwork(loaded, trace(loaded.model, example.tensor, name, is_own=bool(loaded.code)), example)


def whole_answer(model: nn.Module, x: torch.Tensor) -> list[Array]:
    """What a module answers to an input of shape (1, ...) that is run locally, and not slowed down."""
    device = device_of(model)
    model = model.to(device)  # what the captured graph does not share may still be elsewhere
    with torch.inference_mode():
        output = model(x.clone().to(device))  # which may work in place
    return [t.cpu().numpy() for t in (output if isinstance(output, tuple | list) else (output,))]


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
            self._take(number, np.asarray(value.cpu(), order="C"))
        return value
