"""State shared by all connections of one source: its tokens, and its outstanding requests. Thread-safe."""

import threading
import time
from dataclasses import dataclass, field

from edgecloud.net.pacing import Purses, Spending

REQUESTS = 64  # of one source that are not answered yet; further ones stay on the link
HELD_BYTES = 128 << 20  # of these and their answers, if it has more than one


class Account:
    """What one source has outstanding, over all of its connections."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """To be held to read or change what follows, and notified when something was given back."""
        self.connections = 0
        self._requests, self._bytes = 0, 0

    def has_room(self, held_bytes: int) -> bool:
        """Whether another request may be outstanding; where there is none yet, it may be of any size."""
        is_few = self._requests < REQUESTS and self._bytes + held_bytes <= HELD_BYTES
        return is_few or not self._requests

    def take(self, held_bytes: int) -> None:
        """A request is outstanding."""
        self._requests += 1
        self._bytes += held_bytes

    def give_back(self, requests: int, held_bytes: int) -> None:
        """Some are answered, or nobody waits for them any more."""
        self._requests -= requests
        self._bytes -= held_bytes
        self.changed.notify_all()


@dataclass
class Sources:
    """Tokens of every source that was heard of lately, and the accounts of those that are connected."""

    small_per_s: float
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _accounts: dict[str, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._purses = Purses(self.small_per_s)

    def pay(self, source: str, spending: Spending, tokens: float) -> float:
        """Take tokens, or give negative ones back; returns the seconds until the source owes none."""
        with self._lock:
            return self._purses.pay(source, spending, tokens, time.monotonic())

    def enter(self, source: str) -> Account:
        """Another connection of a source; it has to `leave`."""
        with self._lock:
            account = self._accounts.setdefault(source, Account())
            account.connections += 1
            return account

    def leave(self, source: str) -> None:
        """One of its connections has ended."""
        with self._lock:
            account = self._accounts[source]
            account.connections -= 1
            if not account.connections:
                del self._accounts[source]
