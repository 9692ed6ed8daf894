"""Which worker gets a request: the one that is through with it first. Pure.

Work is counted in seconds that are predicted from what a worker says of its layers, not in requests: one request for a
large network is as much as a hundred for a small one. A network stays where it is held while that is soon enough, since
loading it takes seconds; where its workers are more than a batch behind, one more of them loads it in the background.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

UNKNOWN_S = 0.05
"""Of a request for a network of which no times are known yet."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker, as a gateway sees it."""

    name: str
    in_flight_s: float
    """Predicted seconds of what was sent there and is not answered."""
    cost_s: float | None
    """Predicted seconds of the request there; None where it does not hold the network."""
    networks: int = 0
    """How many it holds."""
    is_well: bool = True
    """Whether it answers, and takes something new."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    to: str
    load_on: str = ""
    """A worker that is to load the network too, in the background."""


def choose(candidates: Sequence[Candidate], batch: int, avoid: Collection[str] = (), likes: str = "") -> Route | None:
    """The worker that will have answered first; None where none may be asked.

    `batch` is how many requests may be computed at once, `avoid` names those that had it and failed. Among equals the
    one that it `likes` gets it.
    """
    well = [each for each in candidates if each.is_well and each.name not in avoid]
    if not well:
        return None
    holders = [each for each in well if each.cost_s is not None]
    if not holders:
        return Route(min(well, key=lambda each: (each.networks, each.in_flight_s, each.name)).name)
    best = min(holders, key=lambda each: (_ready_s(each), each.name != likes, each.networks, each.name))
    others = [each for each in well if each.cost_s is None]
    if not others:
        return Route(best.name)
    spare = min(others, key=lambda each: (each.in_flight_s, each.networks, each.name))
    behind_s = best.in_flight_s - spare.in_flight_s
    is_behind = behind_s > (max(batch, 1) + 1) * (best.cost_s or 0.0)
    return Route(best.name, spare.name if is_behind else "")


def _ready_s(candidate: Candidate) -> float:
    return candidate.in_flight_s + (candidate.cost_s or 0.0)


@dataclass(frozen=True, slots=True)
class Times:
    """What a worker said in READY of one network's layers, summed up."""

    before_s: tuple[float, ...]
    """Of all layers in front of each, and of all of them: one more than there are layers."""
    start_s: tuple[float, ...]
    """What a tail after each layer takes beside its layers."""

    @classmethod
    def of(cls, seconds: Sequence[float], start_s: Sequence[float]) -> "Times":
        """From the two lists of a READY."""
        sums = [0.0]
        for each in seconds:
            sums.append(sums[-1] + each)
        return cls(tuple(sums), tuple(start_s))

    def of_layers(self, ranges: Sequence[Sequence[int]]) -> float:
        """Seconds of half-open ranges of layer numbers, whatever is asked for: what is none of its layers is none."""
        last = len(self.before_s) - 1
        total = 0.0
        for start, stop in ranges:
            first, end = min(start, last), min(stop, last)
            total += max(0.0, self.before_s[end] - self.before_s[first])
        total = min(total, self.before_s[-1])
        first = min((start for start, _ in ranges), default=0)
        return total + (self.start_s[first - 1] if 0 < first <= len(self.start_s) else 0.0)
