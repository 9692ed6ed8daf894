"""Whether an answer is that of the whole network, and what the whole network answers."""

from collections.abc import Sequence

import numpy as np
import torch

from net.tensors import Array

RTOL, ATOL = 1e-4, 1e-5  # the latter relative to the largest value


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


def whole_answer(model: torch.nn.Module, x: torch.Tensor) -> list[Array]:
    """What a network answers that is run here in one piece, unsplit and not slowed down."""
    device = next(model.parameters()).device
    model = model.to(device)  # what the captured graph does not share may still be elsewhere
    with torch.inference_mode():
        found = model(x.to(device))
    return [t.cpu().numpy() for t in (found if isinstance(found, tuple | list) else (found,))]
