"""Comparison of an answer with that of the full model, and the classes that it names.

An answer is the arrays of a network's outputs. One of shape (1, rows, classes) has several rows, any other is one row.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgecloud.net.tensors import Array
from edgecloud.utils.dtypes import widened

NOT_FINITE = "the cloud returned NaN or infinity, but the local full model does not"
NETWORK_NOT_FINITE = (
    "the answer contains NaN or infinity, and so does the local full model: check the weights and the input"
)
NO_NUMBER = "NaN, infinity or another shape than the full model's"
RTOL, ATOL = 1e-4, 1e-5  # the latter relative to the largest value
TOP = 5
LEAST_CLASSES = 2
MAX_ROWS = 1000


@dataclass(frozen=True)
class Ranked:
    """One class of the answer."""

    index: int
    label: str
    probability: float


def is_close(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Of the same shapes, and equal within rtol 1e-4 (atol 1e-5 of the largest finite value); NaN equals NaN."""
    with np.errstate(over="ignore"):  # a difference that float32 does not hold is one
        return len(answer) == len(expected) and all(
            a.shape == b.shape and np.allclose(_wide(a), _wide(b), rtol=RTOL, atol=ATOL * _largest(b), equal_nan=True)
            for a, b in zip(answer, expected, strict=True)
        )


def _wide(array: Array) -> Array:
    """The numbers in a type that has room for their differences."""
    array = widened(array)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _largest(array: Array) -> float:
    """The largest finite size of a number."""
    sizes = np.abs(_wide(array))
    return float(sizes.max(initial=0.0, where=np.isfinite(sizes)))


def matches(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Close, with the same top-1."""
    return is_close(answer, expected) and is_same_top(answer, expected)


def is_same_top(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    """The same top-1 in every row: what is left to compare where tensors were rounded on their way."""
    pairs = zip(answer, expected, strict=True)
    return all(a.shape == b.shape and np.array_equal(_rows(a).argmax(1), _rows(b).argmax(1)) for a, b in pairs)


def is_finite(arrays: Iterable[Array]) -> bool:
    """Whether no number is NaN or infinite."""
    return all(bool(np.isfinite(widened(array)).all()) for array in arrays)


def is_finite_alike(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether both have NaN or infinity in the same places, so that it is the network that makes them."""
    return all(
        np.array_equal(np.isfinite(widened(a)), np.isfinite(widened(b))) for a, b in zip(answer, expected, strict=True)
    )


def max_abs_diff(answer: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference of two numbers that belong together; infinite where one is NaN or infinite and the other
    is not that, and where shapes differ."""
    if [array.shape for array in answer] != [array.shape for array in expected]:
        return math.inf
    return max((_difference(a, b) for a, b in zip(answer, expected, strict=True)), default=0.0)


def _difference(a: Array, b: Array) -> float:
    ours, others = _wide(a), _wide(b)
    is_same = (ours == others) | (np.isnan(ours) & np.isnan(others))
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.where(is_same, 0.0, np.abs(ours - others))
    return float(np.where(np.isnan(sizes), math.inf, sizes).max(initial=0.0))


def told_difference(difference: float) -> tuple[float | None, str]:
    """What `max_abs_diff` becomes in JSON, which has no infinity: a number, or none and the reason."""
    return (difference, "") if math.isfinite(difference) else (None, NO_NUMBER)


def _rows(answer: Array) -> Array:
    """The rows of an answer of shape (1, rows, classes), or (rows, classes) where there are several inputs at once; any
    other is one row."""
    answer = widened(answer)
    if answer.ndim == 2 and answer.size:
        return answer
    return answer[0] if answer.ndim == 3 and answer.shape[0] == 1 else answer.reshape(1, -1)


def names_classes(answer: Sequence[Array], labels: tuple[str, ...], rows: tuple[str, ...]) -> bool:
    """Whether it is that of a classifier: one output of real numbers, a row of classes. With labels, or with names of
    rows, it may have several rows of them; without, that may be anything."""
    if len(answer) != 1 or widened(answer[0]).dtype.kind != "f" or _rows(answer[0]).shape[-1] < LEAST_CLASSES:
        return False
    is_row = answer[0].ndim == 2 and len(answer[0]) == 1
    return is_row or (answer[0].ndim in (2, 3) and bool(labels or rows))


def top_of(answer: Array) -> int:
    """The class with the largest number, of the first row where there are several."""
    return int(_rows(answer)[0].argmax())


def rank(logits: Array, labels: tuple[str, ...]) -> tuple[Ranked, ...]:
    """The five classes with the largest softmax, of the first row where there are several."""
    return _ranked(_rows(logits)[0], labels, TOP)


def rank_rows(logits: Array, labels: tuple[str, ...], names: tuple[str, ...]) -> tuple[tuple[str, Ranked], ...]:
    """The best class of each row and what the row is called; nothing where there is one row.

    Rows without a name are padding where others have one, else they are counted from 1. At most 1,000 are looked at.
    """
    rows = _rows(logits)
    if len(rows) == 1:
        return ()
    called = names or tuple(str(number) for number in range(1, min(len(rows), MAX_ROWS) + 1))
    return tuple((name, _ranked(row, labels, 1)[0]) for name, row in zip(called, rows, strict=False))


def _ranked(row: Array, labels: tuple[str, ...], count: int) -> tuple[Ranked, ...]:
    scores = row.astype(np.float64)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:count]
    return tuple(Ranked(int(i), labels[i] if i < len(labels) else str(i), float(shares[i])) for i in best)
