"""How often one connection may ask for what costs no computing: a bucket of tokens. Pure: it is told the moment.

What is answered at once (STATUS, PROBE, HELLO, a refusal) holds the interpreter, which everybody needs; what is
computed waits in line, where turns are fair. So the first kind is paid for, and who has no tokens left waits before its
next frame is read: nothing is lost, and an honest edge that asks much is only slower.
"""

from dataclasses import dataclass

BURST_S = 2.0  # so many seconds' worth may be spent at once: the 84 transfers of net.link, for one
HEADER_BYTES = 4096  # of a header for which a token is paid, whatever the message


@dataclass
class Bucket:
    """Tokens of one connection: `per_s` come every second, up to those of `BURST_S`."""

    per_s: float
    _tokens: float = 0.0
    _at: float | None = None

    def pay(self, tokens: float, now: float) -> float:
        """Take tokens that were used, at the moment `now` in seconds; returns the seconds until none are owed."""
        most = self.per_s * BURST_S
        had = most if self._at is None else min(most, self._tokens + (now - self._at) * self.per_s)
        self._tokens, self._at = had - tokens, now
        return max(0.0, -self._tokens / self.per_s)


def price(header_bytes: int, *, is_computed: bool) -> int:
    """What a frame costs; a request that is computed only where its header is long."""
    return header_bytes // HEADER_BYTES + (not is_computed)
