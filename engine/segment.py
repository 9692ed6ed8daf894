"""Some layers of a network, ready to run, and what a run of them gives. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgecloud.net.tensors import Array


class Segment(Protocol):
    """Some layers of a network, ready to run on a device.

    The numbers are layer numbers of the graph. The input layer belongs to the segment that holds it, which then takes
    the network's input and passes it on if others read it.
    """

    @property
    def inputs(self) -> tuple[int, ...]:
        """The layers whose outputs it takes, in order."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """The layers whose outputs it returns, in order."""

    @property
    def runs(self) -> int:
        """How often it has run."""

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run all of it, at full speed; the outputs may share memory with the inputs, which stay as they are."""


@dataclass(frozen=True)
class Ran:
    """The outputs of a segment and the seconds that it took, alone or in a batch of several requests."""

    arrays: list[Array]
    seconds: float
    batch: int = 1
    is_first: bool = False
    """Whether the segment had not run before: memory was fetched and kernels were chosen, which says nothing of later
    runs."""
    backend: str = ""
    """What ran it."""
