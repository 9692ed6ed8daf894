"""Comparison of the cuts of a network, as a back-end runs them, with the network itself. No torch.

A cut is certified for a number of inputs at once, 1 unless the network takes more. The other side of the comparison is
whatever `whole` answers: at export the user's own module in torch. Some deep networks round so much in float32 that
torch differs from itself, with other kernels, by more than what counts as close. What float64 answers tells: such a cut
has to be about as near to that as the network is.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np

from edgecloud.engine.answers import is_close, is_same_top, max_abs_diff
from edgecloud.engine.executor import Executor
from edgecloud.models.bundle import Certificate
from edgecloud.models.network import Fed, arrays_of, fed_layers
from edgecloud.net.tensors import Array
from edgecloud.predictor.profile import Progress
from edgecloud.utils.errors import AppError

BATCH = 3
ROUNDING, MOST, SENSITIVE = 10.0, 1e-4, 2.5e-5
"""A cut that is not close to the network may be so many times as far from what float64 answers as the network itself
is, and differ from the network by this share of its largest number; unless the network itself is so far from float64
that nothing can be told."""
Answer: TypeAlias = Callable[[Fed], Sequence[Array]]
Exact: TypeAlias = Callable[[Fed], Sequence[Array] | None]


class NotCertifiedError(AppError):
    """A cut gives another answer than the network."""


def certify(
    executor: Executor, whole: Answer, *, is_batched: bool, progress: Progress, exact: Exact = lambda _: None
) -> tuple[Certificate, ...]:
    """A certificate for every point, and for several inputs at once at the first.

    `exact` is what the network answers in float64, None where it does not, and is asked only where a cut is not close
    to the network. Raises NotCertifiedError where a cut gives another answer.
    """
    graph, x = executor.network.graph, executor.network.example.fed
    expected = whole(x)
    in_float64 = cache(lambda: exact(x))
    certificates = []
    for point in graph.points:
        answer = run(executor, graph.head_at(point.number), x)
        certificates.append(_compared(graph.name, point.number, 1, answer, expected, in_float64))
        progress((point.number + 1) / len(graph.points))
    if is_batched:
        several = [tuple(_other(array, number) for array in arrays_of(x)) for number in range(BATCH)]
        together = run(executor, graph.head_at(0), tuple(map(np.concatenate, zip(*several, strict=True))))
        each = _joined([whole(one) for one in several])
        certificates.append(
            _compared(graph.name, 0, BATCH, together, each, lambda: _joined_if_all(map(exact, several)))
        )
    return tuple(certificates)


def _joined(answers: Iterable[Sequence[Array]]) -> list[Array]:
    return [np.concatenate(arrays) for arrays in zip(*answers, strict=True)]


def _joined_if_all(answers: Iterable[Sequence[Array] | None]) -> list[Array] | None:
    found = list(answers)
    there = [each for each in found if each is not None]
    return _joined(there) if len(there) == len(found) else None


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


def _compared(
    name: str,
    point: int,
    batch: int,
    answer: Sequence[Array],
    expected: Sequence[Array],
    in_float64: Callable[[], Sequence[Array] | None],
) -> Certificate:
    difference = max_abs_diff(answer, expected)
    largest = max(float(np.abs(array).max(initial=0.0)) for array in expected)
    if not is_close(answer, expected):
        told = f"{name}, cut at point {point}, differs from the network in torch by {difference:.3g} of {largest:.3g}"
        exact = in_float64()
        own = 0.0 if exact is None else max_abs_diff(expected, exact)
        if own > SENSITIVE * largest:
            raise NotCertifiedError(
                f"{told}, and torch by {own:.3g} from what it answers in float64: float32 is not precise enough with "
                "these weights. Use trained ones (--weights FILE)"
            )
        is_rounding = exact is not None and max_abs_diff(answer, exact) <= ROUNDING * own
        if not is_rounding or difference > MOST * largest:
            raise NotCertifiedError(told)
    return Certificate(point, batch, difference, largest, is_same_top(answer, expected))
