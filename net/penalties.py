"""Admission control: failures of a source add up to a time in which it is blocked, as in OpenSSH.

Pure, no clock and no socket: every method is told the moment. A source is an IPv4 address or an IPv6 /64, which one
customer has. Each failure adds seconds to the moment until which the source is penalised. Below `least_s` from now
nothing follows from that, so one mistake costs nothing; from there on the source is turned away until that moment, at
most `most_s` away. Time is what takes penalties back.
"""

import ipaddress
from dataclasses import dataclass, field
from enum import Enum

from edgecloud.utils import addresses, defaults

IPV6_BITS = 64
LOOPBACK = "loopback"


class Fault(Enum):
    """What a source did."""

    TOKEN = "token"
    """A wrong token."""
    GARBAGE = "garbage"
    """What is no frame, no TLS, or no conversation."""
    SILENCE = "silence"
    """No HELLO in time."""


@dataclass(frozen=True)
class Policy:
    """How much is too much. Times in seconds."""

    token_s: float = 5.0
    garbage_s: float = 5.0
    silence_s: float = 10.0
    least_s: float = 15.0
    most_s: float = defaults.Server.PENALTY_S
    most_sources: int = 4096
    """That are remembered: the one whose penalty ends first is forgotten for a new one."""
    most_connections: int = defaults.Server.CONNECTIONS_PER_SOURCE
    """Of one source."""
    spares_loopback: bool = True

    def seconds(self, fault: Fault) -> float:
        """What a failure adds."""
        return {Fault.TOKEN: self.token_s, Fault.GARBAGE: self.garbage_s, Fault.SILENCE: self.silence_s}[fault]


@dataclass(frozen=True)
class Denial:
    """Why a source is not let in."""

    code: str
    text: str
    retry_after_s: float = 0.0


_GARBAGE = ("BAD_MAGIC", "TOO_LARGE", "MALFORMED", "PROTOCOL", "TLS", "TRANSPORT")
_FAULTS: dict[str, Fault] = {"TOKEN": Fault.TOKEN, **dict.fromkeys(_GARBAGE, Fault.GARBAGE)}
_FAULTS_OF_STRANGERS: dict[str, Fault] = _FAULTS | {"DEADLINE": Fault.SILENCE}
"""By the code of an error. Who has said a good HELLO may be idle or slow."""


def fault_of(code: str, *, is_known: bool) -> Fault | None:
    """What an error that ended a connection says of the other side; `is_known` from its first good HELLO on.

    To leave inside a frame, to differ in version or weights, or to be idle or slow later, is no fault.
    """
    return (_FAULTS if is_known else _FAULTS_OF_STRANGERS).get(code)


@dataclass
class _Penalty:
    until: float
    is_active: bool = False


@dataclass
class AdmissionControl:
    """Remembers sources: their penalties, and how many connections they have. Not for two threads at once."""

    policy: Policy = field(default_factory=Policy)
    _penalties: dict[str, _Penalty] = field(default_factory=dict)
    _open: dict[str, int] = field(default_factory=dict)

    def admit(self, address: str, now: float) -> Denial | None:
        """Count a new connection of this address, or say why there may be none. What is counted has to `leave`.

        `now` is a moment in seconds, of a clock that does not go back.
        """
        source = self._source(address)
        if source is None:
            return None
        left = self._penalised_s(source, now)
        if left > 0:
            return Denial("PENALTY", "too many failures from your address, try again later", left)
        if self._open.get(source, 0) >= self.policy.most_connections:
            return Denial("BUSY", f"your address has {self.policy.most_connections} connections (--max-per-source)")
        self._open[source] = self._open.get(source, 0) + 1
        return None

    def leave(self, address: str) -> None:
        """A connection that was admitted has ended."""
        source = self._source(address)
        if source is not None:
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]

    def penalise(self, address: str, fault: Fault, now: float) -> float:
        """Remember a failure; returns for how many seconds the source is turned away now, 0 for not at all."""
        source, policy = self._source(address), self.policy
        if source is None:
            return 0.0
        penalty = self._penalties.get(source)
        if penalty is None or penalty.until <= now:
            self._make_room(now)
            penalty = self._penalties[source] = _Penalty(now)
        penalty.until = min(penalty.until + policy.seconds(fault), now + policy.most_s)
        penalty.is_active = penalty.is_active or penalty.until - now >= policy.least_s
        return self._penalised_s(source, now)

    def blocked(self, now: float) -> dict[str, float]:
        """The sources that are turned away at a moment, and for how many seconds more."""
        left = {source: self._penalised_s(source, now) for source in self._penalties}
        return {source: seconds for source, seconds in left.items() if seconds > 0}

    def _penalised_s(self, source: str, now: float) -> float:
        penalty = self._penalties.get(source)
        return max(0.0, penalty.until - now) if penalty is not None and penalty.is_active else 0.0

    def _make_room(self, now: float) -> None:
        penalties = self._penalties
        if len(penalties) < self.policy.most_sources:
            return
        for source in [source for source, penalty in penalties.items() if penalty.until <= now]:
            del penalties[source]
        if len(penalties) >= self.policy.most_sources:
            del penalties[min(penalties, key=lambda source: penalties[source].until)]

    def _source(self, address: str) -> str | None:
        """Whom an address belongs to; None for one that is exempt."""
        return source_of(address, spares_loopback=self.policy.spares_loopback)


def source_of(address: str, *, spares_loopback: bool) -> str | None:
    """An IPv4 address as it is, written as IPv6 or not, and the /64 of an IPv6 one; None for loopback, if exempt."""
    ip = addresses.ip_of(address)
    if spares_loopback and ip.is_loopback:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ipaddress.ip_network((ip, IPV6_BITS), strict=False))


def payer_of(address: str) -> str:
    """Who pays for what an address asks for (net.pacing): its source, where all of loopback is one."""
    return source_of(address, spares_loopback=True) or LOOPBACK
