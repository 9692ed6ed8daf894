"""Rate limits of a source: token buckets. Pure: the caller passes the time.

What is answered at once (STATUS, PROBE, HELLO, a refusal) holds the interpreter, which everybody needs; what is
computed waits in a fair queue. So the first kind is paid for, and who has no tokens left waits before the
next frame is answered: nothing is lost, and an honest edge that asks much is only slower.

The tokens are a source's (net.penalties), not a connection's, or reconnecting would give new ones. Each kind of
spending has its own, so that a client that asks for STATUS without pause does not delay the HELLO of another.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from edgecloud.net.frames import FrameType

BURST_S = 2.0  # so many seconds' worth may be spent at once
HEADER_BYTES = 4096  # of a header for which a token is paid, whatever the message
TINY_BYTES = 4096  # a smaller chunk of a request is paid for, or its bytes would cost more than they carry
MOST_SOURCES = 4096  # that are remembered: the one that was not heard of for longest is forgotten for a new one


class Spending(Enum):
    """What tokens are for."""

    CONNECTION = "connection"
    HANDSHAKE = "handshake"
    """Of TLS."""
    HELLO = "HELLO"
    PROBE = "PROBE"
    SMALL = "small"
    """STATUS, and requests that are refused because they are wrong."""
    PIECE = "piece"
    """Of a network that an edge sends."""
    COMPUTED = "computed"
    """Requests that are computed: only long headers, and refusals because the cloud is busy."""


@dataclass(frozen=True)
class Budget:
    """Of one source: how many times --max-control-rate it has a second, and for how many seconds it may save them."""

    times: float
    burst_s: float


BUDGETS: dict[Spending, Budget] = {
    Spending.CONNECTION: Budget(5, 4.0),  # a thread each: a thousand at once, as a fleet may come, then 250
    Spending.HANDSHAKE: Budget(1, BURST_S),
    Spending.HELLO: Budget(1, BURST_S),
    Spending.PROBE: Budget(4, 8.0),  # the 84 transfers of net.link at once from 16 edges behind one address
    Spending.SMALL: Budget(1, BURST_S),
    Spending.PIECE: Budget(8, BURST_S),  # 25 MB/s of 64 KiB each
    Spending.COMPUTED: Budget(16, BURST_S),
}
_SPENDINGS = {
    FrameType.HELLO: Spending.HELLO,
    FrameType.PROBE: Spending.PROBE,
    FrameType.INFER: Spending.COMPUTED,
    FrameType.CHUNK: Spending.COMPUTED,
}


@dataclass(slots=True)
class Bucket:
    """Tokens: `per_s` come every second, up to those of `burst_s`."""

    per_s: float
    burst_s: float = BURST_S
    _tokens: float = 0.0
    _at: float | None = None

    def pay(self, tokens: float, now: float) -> float:
        """Take tokens that were used, at the moment `now` in seconds; returns the seconds until none are owed.

        Negative ones are given back.
        """
        most = self.per_s * self.burst_s
        had = most if self._at is None else min(most, self._tokens + (now - self._at) * self.per_s)
        self._tokens, self._at = min(most, had - tokens), now
        return max(0.0, -self._tokens / self.per_s)


def spending_of(kind: FrameType) -> Spending:
    """What a frame is paid from."""
    return _SPENDINGS.get(kind, Spending.SMALL)


def price(header_bytes: int, *, is_computed: bool) -> int:
    """What a frame costs; a request that is computed only where its header is long."""
    return header_bytes // HEADER_BYTES + (not is_computed)


@dataclass
class Purses:
    """The buckets of all sources. Not for two threads at once."""

    small_per_s: float
    most_sources: int = MOST_SOURCES
    _purses: "OrderedDict[str, dict[Spending, Bucket]]" = field(default_factory=OrderedDict)

    def pay(self, source: str, spending: Spending, tokens: float, now: float) -> float:
        """Take tokens of a source at a moment in seconds; returns the seconds until it owes none."""
        purse = self._purses.get(source)
        if purse is None:
            if len(self._purses) >= self.most_sources:
                self._purses.popitem(last=False)
            purse = self._purses[source] = {}
        self._purses.move_to_end(source)
        if spending not in purse:
            budget = BUDGETS[spending]
            purse[spending] = Bucket(budget.times * self.small_per_s, budget.burst_s)
        return purse[spending].pay(tokens, now)
