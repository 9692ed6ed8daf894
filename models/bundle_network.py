"""A network that is a bundle: what the other packages need to know of it, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgecloud.models import bundle
from edgecloud.models.bundle import Bundle
from edgecloud.models.form import Call, Form
from edgecloud.models.graph import LayerGraph
from edgecloud.models.inputs import Input
from edgecloud.models.network import DEFAULT, Array, Fed, Network, Take, Weights, arrays_of
from edgecloud.models.onnx_session import OnnxPart
from edgecloud.models.specs import LayerSpec, UnknownLayerError
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import TORCH, is_there, require_torch


@dataclass(frozen=True, eq=False)
class BundleNetwork:
    """One `models.network.Network`. ONNX Runtime computes its layers."""

    bundle: Bundle
    example: Input

    @property
    def graph(self) -> LayerGraph:
        """Its layers, the inputs first."""
        return self.bundle.graph

    @property
    def call(self) -> Call:
        """How it is given its inputs."""
        return self.bundle.content.input.call

    @property
    def answer(self) -> Form:
        """The structure of its answer."""
        return self.bundle.content.answer

    @cached_property
    def weights(self) -> Weights:
        """Which parameters it has: the same as the torch network that it was made of."""
        about = self.bundle.content.identity
        return Weights(about.weights, about.origin, about.is_trained, about.code, about.names, about.marks)

    @property
    def numbers(self) -> str:
        """Of a custom model, a digest of the numbers in its graph that are no parameters."""
        return self.bundle.content.identity.numbers

    @property
    def made_with(self) -> str:
        """The version of torch that it was captured with."""
        return self.bundle.content.made_by.get("torch", "")

    @property
    def bound(self) -> frozenset[int]:
        """Layers that hold something which could not cross a cut."""
        return self.bundle.content.bound

    @property
    def kept(self) -> Mapping[str, str]:
        """None: what could not be captured inside cannot be exported."""
        return {}

    def specs(self) -> tuple[LayerSpec, ...]:
        """Every layer but the input as predictors see it. Raises UnknownLayerError."""
        content = self.bundle.content
        if content.specs is None:
            raise UnknownLayerError(content.why_no_specs or f"{self.graph.name}: no predictor for some of its layers")
        return content.specs

    def weight_bytes(self) -> tuple[int, ...]:
        """Of every layer, the inputs among them, the bytes of its parameters."""
        bundle, layers = self.bundle, enumerate(self.graph.layers)
        if bundle.content.specs is not None:
            return (0,) * len(self.graph.inputs) + tuple(spec.weight_bytes for spec in bundle.content.specs)
        return tuple(bundle.bytes_of(bundle.part({n}).weights) if layer.inputs else 0 for n, layer in layers)

    def whole(self, x: Fed) -> list[Array]:
        """The tensors of the answer, run in one piece."""
        part = self._whole_part
        answers = dict(zip(part.outputs, part(arrays_of(x)), strict=True))
        return [answers[number] for number in self.graph.outputs]

    @cached_property
    def _whole_part(self) -> OnnxPart:
        return OnnxPart(self.bundle, self.graph.everything, 1)

    def copied(self) -> "BundleNetwork":
        """Itself: nothing of it moves to another device."""
        return self

    def each_output(self, x: Fed, take: Take) -> None:
        """Run it once on `x` and hand over the output of every layer."""
        numbers = range(len(self.graph.layers))
        part = OnnxPart(self.bundle, self.graph.everything, 1, outputs=numbers)
        for number, array in zip(numbers, part(arrays_of(x)), strict=True):
            take(number, np.asarray(array, order="C"))


def is_in_torch(network: BundleNetwork) -> bool:
    """Whether torch is installed and knows the network of a bundle by its name. Loads nothing."""
    from edgecloud.models import registry

    return is_there(*TORCH) and registry.is_built_in(network.graph.name)


def in_torch(network: BundleNetwork) -> Network:
    """The network of torch that a bundle was made of. Raises UsageError where it is none of ours, or has other weights,
    and MissingTorchError without torch."""
    from edgecloud.models import registry

    name = network.graph.name
    require_torch(f"--backend torch for {network.bundle.path}")
    try:
        twin = registry.built_in(name).network(DEFAULT, network.example)
    except UsageError as error:
        raise UsageError(f"{network.bundle.path} cannot be run by torch ({error}): use --backend onnxruntime") from None
    if (twin.weights.digest, twin.graph.digest) != (network.weights.digest, network.graph.digest):
        raise UsageError(
            f"{network.bundle.path} has other weights than torch's {name}: use --backend onnxruntime, "
            f"or -t {name} --weights SOURCE"
        )
    return twin


def read(path: Path, example: Input | None = None) -> BundleNetwork:
    """Open a bundle as a network, with the example in it unless another is given. Raises UsageError."""
    opened = bundle.read(path)
    if example is None:
        form = opened.content.input
        example = Input(opened.fed, form.source, form.rows)
    return BundleNetwork(opened, example)
