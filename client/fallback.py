"""Rules for waiting, retries and the circuit breaker. Pure: moments come from the caller.

The rule of one inference. The edge keeps the boundary, so it can compute the rest itself, in a predicted
`here_s`. Of the `left_s` until the deadline so much is kept back for that (`reserve_s`), and the cloud is waited for
until then. Where not even the rest alone fits, the cloud is the only hope to be in time: it is waited for until the
deadline, and only a certain fault ends that (a connection that breaks, a refusal). Either way the rest is then computed
here, late if it must be: an answer that is late is worth more than none.
"""

import random
from collections.abc import Callable
from typing import Literal

from edgecloud.utils.errors import AppError, ConnectError, HandshakeLostError, MismatchError, UsageError

RETRIES = 3  # of a request whose connection broke, or that met a busy cloud
FIRST_WAIT_S = 1.0
SAFETY, SPARE_S = 1.5, 0.05  # predictions are not exact, and what runs for the first time has to be made ready
REFUSALS = 5  # in a row, after which a cloud is left alone
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
JITTER = 0.2
LEAST_BUSY_S, MOST_BUSY_S = 0.01, 5.0
RETRY_S, LONGEST_RETRY_S = 0.05, 1.0
TOKENS, TOKENS_PER_SUCCESS = 10.0, 0.1

Mode = Literal["on", "off", "always"]
"""Of `--fallback`: whether what the cloud does not do is done here; `always`: also where none was ever there."""
OURS_TO_MEND = frozenset({"MISMATCH", "VERSION", "UNKNOWN_MODEL", "TOKEN", "TLS", "TRANSPORT"})
"""Refusals in the first handshake that waiting does not change: another network, or a wrong token."""

BreakerState = Literal["closed", "open", "half-open"]
Uniform = Callable[[float, float], float]
"""A random number between two."""


def is_covered(error: AppError, mode: Mode) -> bool:
    """Whether the edge continues alone after this end of its first handshake, or of the probe that follows it.

    With `on` it does once a connection was taken, whatever became of it: silence, an end, nonsense, a refusal. What is
    wrong with the address, the token, the certificates or the network stays an error, which somebody has to mend.
    """
    if isinstance(error, UsageError) and not error.refusal:
        return False
    if error.accepts:  # it is sent, and meanwhile the edge answers
        return mode != "off"
    if mode != "on":
        return mode == "always"  # an address, a token, a network that are wrong may be right when the cloud comes
    if error.refusal:
        return error.refusal not in OURS_TO_MEND
    if isinstance(error, ConnectError):  # nobody there, or no trust
        return isinstance(error, HandshakeLostError)
    return error.exit_code != MismatchError.exit_code


def first_wait_s(here_s: float, timeout_s: float) -> float:
    """With `always`: how long the first answer waits for a cloud that may not be there, where `here_s` is what it takes
    here. About as long as it takes here, so that it comes at most twice as late; and a moment, in which most clouds do.
    """
    return min(max(here_s, FIRST_WAIT_S), timeout_s)


def reserve_s(here_s: float) -> float:
    """What is kept of the time for computing the rest here, which is predicted to take `here_s` seconds."""
    return SAFETY * here_s + SPARE_S


def patience_s(left_s: float, here_s: float) -> float:
    """How long to wait for the cloud, `left_s` seconds before the deadline."""
    reserve = reserve_s(here_s)
    return max(0.0, left_s - reserve if reserve < left_s else left_s)


def fits(left_s: float, here_s: float, there_s: float) -> bool:
    """Whether an answer that is expected in `there_s` seconds comes while it is waited for."""
    return there_s <= patience_s(left_s, here_s)


def is_worth_asking(left_s: float, here_s: float, there_s: float) -> bool:
    """Whether to ask at all: not where only the edge can be in time. Where neither can, by the predictions, it is."""
    return left_s > 0 and (fits(left_s, here_s, there_s) or reserve_s(here_s) >= left_s)


def busy_pause_s(retry_after_s: float) -> float:
    """When to ask a busy cloud again, which says that it may be worth it after `retry_after_s` seconds."""
    return min(max(retry_after_s, LEAST_BUSY_S), MOST_BUSY_S)


def retry_pause_s(tries: int, uniform: Uniform = random.uniform) -> float:
    """A random pause in seconds before the next connection, after so many tries: gRPC's for retries (proposal A6).

    It is longer after every try, and random, so that edges do not come back as one.
    """
    return uniform(0.0, min(RETRY_S * 2.0 ** (tries - 1), LONGEST_RETRY_S))


class Backoff:
    """Pauses that double, each a little off, so that edges that lost the same cloud do not come back as one.

    Up to a fifth off, as gRPC's between connections (doc/connection-backoff.md).
    """

    def __init__(
        self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S, uniform: Uniform = random.uniform
    ) -> None:
        self._first_s, self._longest_s, self._uniform = first_s, longest_s, uniform
        self._pause_s = first_s

    def next_s(self) -> float:
        """The next pause in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        return pause_s * self._uniform(1 - JITTER, 1 + JITTER)

    def reset(self) -> None:
        """Begin with the first one again."""
        self._pause_s = self._first_s


class RetryBudget:
    """gRPC's (proposal A6): a failure costs a token, a success earns a tenth, and below half of them none is repeated.

    A cloud in trouble then gets little more than each request once, however many it fails.
    """

    def __init__(self) -> None:
        self._tokens = TOKENS

    @property
    def allows(self) -> bool:
        """Whether something may be tried again."""
        return self._tokens > TOKENS / 2

    def failed(self) -> None:
        """A request failed."""
        self._tokens = max(0.0, self._tokens - 1.0)

    def succeeded(self) -> None:
        """A request was answered."""
        self._tokens = min(TOKENS, self._tokens + TOKENS_PER_SUCCESS)


class Breaker:
    """Whether the cloud is asked: closed, it is; open, it is not; half-open, the next inference is a trial.

        closed --failed, lost, or refused 5 times in a row--> open --reconnected--> half-open --succeeded--> closed
                                                                ^----------- failed, lost, refused ----'

    Pauses begin anew only with an answer: a cloud that completes the handshake and fails at every request is left alone
    longer and longer too. Moments are seconds of any clock that does not go back.
    """

    def __init__(self, backoff: Backoff | None = None) -> None:
        self.state: BreakerState = "closed"
        self._backoff = backoff or Backoff()
        self._refusals = 0
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the cloud is left alone."""
        return self.state == "open"

    def succeeded(self) -> None:
        """The cloud answered a request."""
        self.state, self._refusals = "closed", 0
        self._backoff.reset()

    def refused(self, now: float) -> None:
        """The cloud answered that it will not; the connection is well."""
        self._refusals += 1
        if self._refusals >= REFUSALS or self.state == "half-open":
            self.failed(now)

    def failed(self, now: float) -> None:
        """The cloud or the link to it is lost, or reconnecting failed."""
        self.state, self._refusals = "open", 0
        self._probe_at = now + self._backoff.next_s()

    def lost(self, now: float) -> None:
        """The connection broke while nobody waited for an answer. Where the last request was answered it is replaced at
        once, else after a pause."""
        if self.state != "closed":
            self.failed(now)
        else:
            self.state, self._refusals, self._probe_at = "open", 0, now

    def forgive(self) -> None:
        """What was wrong is mended: there is no reason to wait any longer."""
        self._backoff.reset()
        self._probe_at = float("-inf")

    def may_probe(self, now: float) -> bool:
        """Whether it is time to reconnect."""
        return self.is_open and now >= self._probe_at

    def reconnected(self) -> None:
        """The cloud says that it runs the network."""
        self.state = "half-open"
