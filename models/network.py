"""What the other packages need to know of a network, whatever computes it. No torch.

A network made of a torch module is `models.torch_network.TorchNetwork`; another kind is a class with the same members.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol, TypeAlias

from edgecloud.models.form import Call, Form
from edgecloud.models.graph import LayerGraph
from edgecloud.models.inputs import Array, Fed, Input, arrays_of
from edgecloud.models.specs import LayerSpec
from edgecloud.utils import defaults

__all__ = ["DEFAULT", "IMAGENET", "Array", "Fed", "Network", "Take", "Weights", "arrays_of", "fed_layers"]

Take: TypeAlias = Callable[[int, Array], None]
"""Is given the number of a layer and its output, which may change afterwards."""
DEFAULT = defaults.Edge.WEIGHTS
"""Weights that a network has where none are named: trained ones where the project ships such, else seeded ones."""
GIVEN = "module:"
"""How the names of networks begin that were given as modules: no other program knows one."""
IMAGENET = "imagenet"
"""Those that torchvision publishes."""


@dataclass(frozen=True)
class Weights:
    """What is known of the parameters of a network, beside the numbers themselves."""

    digest: str
    origin: str
    """`file NAME`, in brackets what was taken off it; `imagenet`, `shipped`, `seed 0 (untrained)`, or of a custom model
    `as built`."""
    trained: bool
    code: str = ""
    """Of a custom model, the digest of its file, which is part of `digest`."""
    names: tuple[str, ...] = ()
    """Of the tensors in the digest, in its order."""
    marks: str = field(default="", repr=False)
    """What leads to the first tensor that differs (`models.marks`)."""

    def alone(self) -> "Weights":
        """The same without what a subclass adds."""
        return Weights(*(getattr(self, each.name) for each in fields(Weights)))


def fed_layers(graph: LayerGraph, x: Fed) -> dict[int, Array]:
    """What a network is run on, by the number of the input's layer. Raises ValueError for another number of arrays."""
    return dict(zip(graph.inputs, arrays_of(x), strict=True))


class Network(Protocol):
    """A network that is ready to be cut: its parameters, its graph, and a real input to measure it with."""

    @property
    def graph(self) -> LayerGraph:
        """Its layers, the inputs first."""

    @property
    def example(self) -> Input:
        """An input, and how it was made."""

    @property
    def call(self) -> Call:
        """How it is given its inputs."""

    @property
    def answer(self) -> Form:
        """The structure of its answer, of which the outputs of the graph are the tensors."""

    @property
    def weights(self) -> Weights:
        """Which parameters it has."""

    @property
    def numbers(self) -> str:
        """Of a custom model, a digest of the numbers in its graph that are no parameters; else nothing."""

    @property
    def made_with(self) -> str:
        """The version of torch that it was captured with."""

    @property
    def bound(self) -> frozenset[int]:
        """Layers that hold something which depends on the values of the input and could not cross a cut."""

    @property
    def kept(self) -> Mapping[str, str]:
        """Modules that could not be captured inside and are one layer each, with the reason."""

    def specs(self) -> tuple[LayerSpec, ...]:
        """Every layer but the input as predictors see it. Raises UnknownLayerError for one that nobody described."""

    def weight_bytes(self) -> tuple[int, ...]:
        """Of every layer, the inputs among them, the bytes of its parameters."""

    def whole(self, x: Fed) -> list[Array]:
        """The tensors of the answer, run on this device in one piece, and not slowed down."""

    def copied(self) -> "Network":
        """The same over memory of its own, so that it may move to another device."""

    def each_output(self, x: Fed, take: Take) -> None:
        """Run it once on `x` and hand over the output of every layer, before anything else can change it."""
