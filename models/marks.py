"""Short marks of many tensors that locate the first difference. Pure.

A mark is six hexadecimal digits of a digest of everything up to the end of a run of tensors; there are at most 128
runs, so that HELLO stays small however many tensors there are.
"""

from collections.abc import Sequence
from itertools import zip_longest

MOST = 128
CHARS = 6


def spread(digests: Sequence[str]) -> str:
    """The marks of digests in hexadecimal, of everything up to the end of each tensor."""
    run = _run(len(digests))
    return "".join(digests[min(end, len(digests)) - 1][:CHARS] for end in range(run, len(digests) + run, run))


def first_other(theirs: str, ours: str, names: Sequence[str]) -> str:
    """The first tensor, or the run of them, where marks differ; "" where none does. `names` are those of ours."""
    run = _run(len(names))
    for number, (one, other) in enumerate(zip_longest(_cut(theirs), _cut(ours))):
        if one != other:
            group = names[number * run : (number + 1) * run]
            return (
                " .. ".join(dict.fromkeys((group[0], group[-1]))) if group else "tensors that only the other side has"
            )
    return ""


def _run(count: int) -> int:
    return max(1, -(-count // MOST))


def _cut(marks: str) -> list[str]:
    return [marks[at : at + CHARS] for at in range(0, len(marks), CHARS)]
