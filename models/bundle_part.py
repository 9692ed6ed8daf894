"""Some layers of a bundle as any runtime runs them: what goes in, what comes out, and what only passes through."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.bundle import Bundle
from edgecloud.models.onnx_graph import Part

Array = NDArray[Any]
Compiled = tuple[tuple[str, ...], Callable[[dict[str, Array]], list[Array]]]
"""The names of the tensors that a runtime reads, and what runs it on them."""


class BundlePart(ABC):
    """Some layers of a network. The numbers of its inputs and outputs are layer numbers of the graph."""

    def __init__(self, bundle: Bundle, layers: Collection[int], threads: int, outputs: Sequence[int] | None = None):
        """Raises UsageError where the weights are damaged or the layers cannot be taken out of the graph.

        `outputs` are the layers' own where no others of them are wanted.
        """
        self.layers = frozenset(layers)
        self.inputs, usual = bundle.io_of(layers)
        self.outputs = usual if outputs is None else tuple(outputs)
        self.runs = 0
        tensors = bundle.content.tensors
        self._inputs = tuple(tensors[number] for number in self.inputs)
        self._outputs = tuple(tensors[number] for number in self.outputs)
        self.made = tuple(name for name in dict.fromkeys(self._outputs) if name not in self._inputs)
        """The names of the tensors that have to be computed, in the order in which they come."""
        part = bundle.part(layers, self.outputs) if self.made else None
        self.weight_bytes = 0 if part is None else bundle.bytes_of(part.weights)
        """Of its own layers: what it may hold a copy of."""
        self._compiled = None if part is None else self._prepare(bundle, part, threads)

    @abstractmethod
    def _prepare(self, bundle: Bundle, part: Part, threads: int) -> Compiled:
        """Let the runtime compile a model. Raises UsageError where it cannot."""

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it on the arrays of its inputs, which stay as they are. An output that is an input is that array.

        Raises MemoryError where there is none left.
        """
        self.runs += 1
        values: dict[str, Array] = {
            name: np.asarray(array, order="C") for name, array in zip(self._inputs, arrays, strict=True)
        }
        if self._compiled is not None:
            read, run = self._compiled
            values |= zip(self.made, run({name: values[name] for name in read}), strict=True)
        return [values[name] for name in self._outputs]
