"""The lower envelope of lines, from evaluations at a few places (Eisner and Severance, 1976).

What a cut costs is a line in one over the bandwidth, or in the weight of energy against latency. Nobody can list the
lines of all cuts of a graph; but a search finds the lowest one anywhere, and where two neighbours of the envelope
cross, either a lower line is found or there is none between them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
CLOSE = 1e-9
MAX_SEARCHES = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """value(x) = intercept + slope * x"""

    intercept: float
    slope: float

    def at(self, x: float) -> float:
        """The value at x."""
        return self.intercept + self.slope * x


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """From `begin` on, up to where the next piece begins, `item` is lowest."""

    begin: float
    item: T
    line: Line


def envelope(lowest: Callable[[float], T], line_of: Callable[[T], Line], begin: float, end: float) -> list[Piece[T]]:
    """The lowest item everywhere between `begin` and `end`, where `lowest` finds the one that is lowest at x.

    Takes about two searches for each piece. Lines that lie within 1e-9 of the envelope may be left out.
    """
    first, last = lowest(begin), lowest(end)
    pieces = [Piece(begin, first, line_of(first))]
    waiting = [(last, line_of(last))]
    searches = 2
    while waiting:
        piece, (item, line) = pieces[-1], waiting[-1]
        x = _crossing(piece.line, line)
        if x is None or not piece.begin < x < end:
            waiting.pop()  # the two are equally good as far as can be told
            if line.at(end) < piece.line.at(end) * (1 - CLOSE):
                pieces[-1] = Piece(piece.begin, item, line)
            continue
        candidate = lowest(x)
        between = line_of(candidate)
        searches += 1
        if between.at(x) < line.at(x) * (1 - CLOSE) and searches < MAX_SEARCHES:
            waiting.append((candidate, between))
        else:
            pieces.append(Piece(x, item, line))
            waiting.pop()
    return pieces


def _crossing(one: Line, other: Line) -> float | None:
    """Where the second line comes below the first; None where it does not."""
    if one.slope <= other.slope:
        return None
    return (other.intercept - one.intercept) / (one.slope - other.slope)
