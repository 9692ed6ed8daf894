"""Which of several clouds an edge takes, and when a cloud may move it. Pure: moments come from the caller."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgecloud.net.messages import State
from edgecloud.utils import addresses
from edgecloud.utils.addresses import Place
from edgecloud.utils.errors import UsageError

SAME_S, SAME_SHARE = 0.01, 0.25
"""Queues that differ by less than so many seconds and that share of the lesser one are the same."""
MANY = 4
"""Of more than so many clouds two at random are asked: the lesser of two random queues is nearly the least of all, and
edges that choose at the same moment do not all choose the same."""
MOVES, MOVE_PAUSE_S = 3, 1.0
"""How many MOVEs are followed at once, and how long the next one takes to be allowed."""
FLOOD, FLOOD_S = 32, 10.0
"""So many MOVEs of one connection in so many seconds are no advice any more."""

T = TypeVar("T")
Shuffle = Callable[[list[T]], None]


@dataclass(frozen=True)
class Said:
    """What a cloud has answered to STATUS."""

    state: State
    is_current: bool = False
    """Whether it is the cloud that the edge is connected to: one of its connections is ours."""

    @property
    def others(self) -> float:
        """Connections of others, for each worker of a gateway."""
        return max(0, self.state.connections - self.is_current) / max(1, self.state.workers)

    @property
    def takes_new(self) -> bool:
        """Whether it can be expected to answer a HELLO and to compute: it goes on, and a gateway has workers."""
        return not self.state.draining and (self.state.workers > 0 or not self.state.gateway)


def ranked(said: Sequence[Said], uniform: Callable[[], float] = random.random) -> list[int]:
    """The numbers of all clouds that have answered, the best first.

    Those that take nothing new come last. Of the others the least queued seconds win; where queues are the same, the
    fewest connections of others, then the cloud that the edge is connected to, then any.
    """
    left = sorted(range(len(said)), key=lambda number: (not said[number].is_current, uniform()))
    order: list[int] = []
    while left:
        some = [number for number in left if said[number].takes_new] or left
        most_s = (1 + SAME_SHARE) * min(said[number].state.queue_s for number in some) + SAME_S
        alike = [number for number in some if said[number].state.queue_s <= most_s]
        best = min(alike, key=lambda number: said[number].others)  # the first of those that are equal
        left.remove(best)
        order.append(best)
    return order


def to_ask(all_of_them: Sequence[T], current: T | None, shuffle: Shuffle[T] = random.shuffle) -> list[list[T]]:
    """Whom to ask, and whom to ask after that where none of those will do: two at random where there are many.

    The cloud that the edge is connected to, where it is one of them, is asked at first, beside the two.
    """
    others = [one for one in all_of_them if one != current]
    ours = [one for one in all_of_them if one == current]
    shuffle(others)
    if len(all_of_them) <= MANY:
        return [ours + others]
    return [ours + others[:2], others[2:]]


def named_by(text: str, named: Sequence[Place]) -> list[Place]:
    """The places among those that the user named, each with its port, that the address in a MOVE may mean.

    With a name the place is that one; an address in numbers may belong to each name with this port, which has to be
    looked up. Raises UsageError for what no place can mean: a cloud leads an edge nowhere that its user did not name.
    """
    place = addresses.parse(text)
    if not place.port:
        raise UsageError(f"{text[:80]!r} names no port")
    same = [one for one in named if one.port == place.port and is_same(one.host, place.host)]
    if same:
        return same
    alike = [one for one in named if one.port == place.port and not addresses.is_number(one.host)]
    if not alike or not addresses.is_number(place.host):
        raise UsageError(f"{text[:80]!r} is none of the clouds that were named")
    return alike


def is_same(host: str, other: str) -> bool:
    """Whether two texts are one host: a name in other letters, or an address in another notation."""
    if addresses.is_number(host) and addresses.is_number(other):
        return addresses.ip_of(host) == addresses.ip_of(other)
    return host.lower() == other.lower()


class MoveLimit:
    """How often clouds may move an edge, whatever they send."""

    def __init__(self) -> None:
        self._tokens, self._at = float(MOVES), 0.0
        self._seen: list[float] = []

    def told(self, now: float) -> bool:
        """One has come. False for a flood."""
        self._seen = [moment for moment in self._seen if moment > now - FLOOD_S] + [now]
        return len(self._seen) <= FLOOD

    def pause_s(self, now: float) -> float:
        """Take a turn; returns how long it has to be waited for."""
        self._tokens = min(float(MOVES), self._tokens + (now - self._at) / MOVE_PAUSE_S) - 1.0
        self._at = now
        return max(0.0, -self._tokens) * MOVE_PAUSE_S
