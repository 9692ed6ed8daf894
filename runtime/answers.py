"""Whether an answer is that of the whole network, what the whole network answers, and the classes that it names."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from net.tensors import Array

RTOL, ATOL = 1e-4, 1e-5  # the latter relative to the largest value
TOP = 5


@dataclass(frozen=True)
class Ranked:
    """One class of the answer."""

    index: int
    label: str
    probability: float


def is_close(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Of the same shapes, and equal within rtol 1e-4 (atol 1e-5 of the largest value)."""
    return len(answer) == len(expected) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=RTOL, atol=ATOL * float(np.abs(b).max()))
        for a, b in zip(answer, expected, strict=True)
    )


def matches(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Close, with the same top-1."""
    return is_close(answer, expected) and all(
        int(a.argmax()) == int(b.argmax()) for a, b in zip(answer, expected, strict=True)
    )


def is_same_top(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    """The same top-1: what is left to compare where tensors were rounded on their way."""
    pairs = zip(answer, expected, strict=True)
    return all(a.shape == b.shape and int(a.argmax()) == int(b.argmax()) for a, b in pairs)


def max_abs_diff(answer: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference of two numbers that belong together."""
    return max(float(np.abs(a - b).max()) for a, b in zip(answer, expected, strict=True))


def whole_answer(model: torch.nn.Module, x: torch.Tensor) -> list[Array]:
    """What a network answers that is run here in one piece, unsplit and not slowed down."""
    device = next(model.parameters()).device
    model = model.to(device)  # what the captured graph does not share may still be elsewhere
    with torch.inference_mode():
        found = model(x.to(device))
    return [t.cpu().numpy() for t in (found if isinstance(found, tuple | list) else (found,))]


def rank(logits: Array, labels: tuple[str, ...]) -> tuple[Ranked, ...]:
    """The five classes with the largest softmax of `logits`, shape (1, classes)."""
    scores = logits.reshape(-1).astype(np.float64)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:TOP]
    return tuple(Ranked(int(i), labels[i] if i < len(labels) else str(i), float(shares[i])) for i in best)
