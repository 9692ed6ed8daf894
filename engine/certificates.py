"""Comparison of the cuts of a network, as a back-end runs them, with the network itself. No torch.

A cut is certified for a number of inputs at once, 1 unless the network takes more. The other side of the comparison is
whatever `whole` answers: at export the user's own module in torch.
"""

from collections.abc import Callable, Sequence

import numpy as np

from edgecloud.engine.answers import is_close, is_same_top, max_abs_diff
from edgecloud.engine.executor import Executor
from edgecloud.models.bundle import Certificate
from edgecloud.models.network import Fed, arrays_of, fed_layers
from edgecloud.net.tensors import Array
from edgecloud.predictor.profile import Progress
from edgecloud.utils.errors import AppError

BATCH = 3


class NotCertifiedError(AppError):
    """A cut gives another answer than the network."""


def certify(
    executor: Executor, whole: Callable[[Fed], Sequence[Array]], *, is_batched: bool, progress: Progress
) -> tuple[Certificate, ...]:
    """A certificate for every point, and for several inputs at once at the first.

    Raises NotCertifiedError where a cut gives another answer.
    """
    graph, x = executor.network.graph, executor.network.example.fed
    expected = whole(x)
    certificates = []
    for point in graph.points:
        answer = run(executor, graph.head_at(point.number), x)
        certificates.append(_compared(graph.name, point.number, 1, answer, expected))
        progress((point.number + 1) / len(graph.points))
    if is_batched:
        several = [tuple(_other(array, number) for array in arrays_of(x)) for number in range(BATCH)]
        together = run(executor, graph.head_at(0), tuple(map(np.concatenate, zip(*several, strict=True))))
        each = [np.concatenate(arrays) for arrays in zip(*map(whole, several), strict=True)]
        certificates.append(_compared(graph.name, 0, BATCH, together, each))
    return tuple(certificates)


def _other(array: Array, number: int) -> Array:
    """Another input than the example: whole numbers may be tokens, and are put in another order."""
    return array * array.dtype.type(1 - 0.25 * number) if array.dtype.kind == "f" else np.roll(array, number, axis=-1)


def run(executor: Executor, head: frozenset[int], x: Fed) -> list[Array]:
    """The answer of a network that is cut, head and tail run on this device, one after the other."""
    graph = executor.network.graph
    values = fed_layers(graph, x)
    for layers in (head, graph.everything - head):
        if layers:
            segment = executor.load(frozenset(layers))
            results = executor.run(segment, [values[number] for number in segment.inputs]).arrays
            values |= dict(zip(segment.outputs, results, strict=True))
    return [values[number] for number in graph.outputs]


def _compared(name: str, point: int, batch: int, answer: Sequence[Array], expected: Sequence[Array]) -> Certificate:
    difference = max_abs_diff(answer, expected)
    if not is_close(answer, expected):
        raise NotCertifiedError(f"{name}, cut at point {point}, differs from the network in torch by {difference:.3g}")
    largest = max(float(np.abs(array).max(initial=0.0)) for array in expected)
    return Certificate(point, batch, difference, largest, is_same_top(answer, expected))
