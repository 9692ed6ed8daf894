"""The clouds that an edge may connect to: several addresses, or a name that has several.

Where there is a choice the edge asks how busy they are, all at once, and goes on with the one that is best: on the
connection on which it was asked, since behind one address there may be many. `client.choosing` has the rules.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecloud.client.choosing import Said, is_same, named_by, ranked, to_ask
from edgecloud.net.connection import CONNECT_S, Connection, connect
from edgecloud.net.endpoints import resolve
from edgecloud.net.messages import State, Status
from edgecloud.utils import addresses, defaults
from edgecloud.utils.addresses import Place
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, HandshakeLostError, UsageError
from edgecloud.utils.units import format_seconds, printable

if TYPE_CHECKING:
    from edgecloud.client.shipping import Shipping
    from edgecloud.net.tls import ClientTls

log = logging.getLogger(__name__)

ASK_S = CONNECT_S
"""How long a cloud has to take a connection and to say how busy it is ..."""
PATIENCE_S = 0.1
"""... and how long the others have once one has: so long, or as long as that one took, whichever is more."""
RESOLVE_S, RESOLVE_PATIENCE_S = 2.0, 0.25
"""The same for name servers."""
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class CloudAddress:
    """Where a cloud is, and what its user calls it."""

    host: str
    port: int
    name: str = ""
    """Whom TLS has to find there; empty: the host."""

    def __str__(self) -> str:
        return addresses.show(self.host, self.port)


@dataclass
class _Asked:
    """A cloud that is being asked, and what came of it."""

    address: CloudAddress
    connection: Connection | None = None
    said: Said | None = None
    took_s: float = 0.0
    error: AppError | None = None
    is_taken: bool = False
    """Whether something took the connection."""

    @property
    def is_over(self) -> bool:
        """Whether it has answered, or will not."""
        return self.said is not None or self.error is not None

    @property
    def takes_new(self) -> bool:
        """Whether it has answered that it goes on."""
        return self.said is not None and self.said.takes_new


class Clouds:
    """Those that the user named. `dial` and `elsewhere` open a connection to the best; from any thread."""

    def __init__(
        self,
        named: Sequence[CloudAddress],
        token: str,
        tls: "ClientTls | None",
        transport: str = defaults.Cloud.TRANSPORT,
    ) -> None:
        self._named, self._token, self._tls, self._transport = tuple(named), token, tls, transport
        self._known: dict[CloudAddress, list[CloudAddress]] = {}
        """Addresses of names, as they were looked up last."""
        self._refused: set[CloudAddress] = set()
        self.used: CloudAddress | None = None
        """The one that a connection was opened to last."""
        self.rtt_s: float | None = None
        """How long it took to say how busy it is, where it was asked."""

    @property
    def is_one(self) -> bool:
        """Whether there is no choice, as far as is known: one was named, and it has one address."""
        return len(self._named) == 1 and len(self._known.get(self._named[0], ())) <= 1

    @property
    def is_fixed(self) -> bool:
        """Whether there can be no other one: no list, and no name that may get another address."""
        return len(self._named) == 1 and addresses.is_number(self._named[0].host)

    # --- connecting

    def dial(self, seconds: float) -> Connection:
        """Connect to the best, or to the one that there is. Raises ConnectError and what `connect` raises."""
        candidates = self._candidates(seconds)
        if len(candidates) == 1 and len(self._named) == 1:
            return self._dial_one(self._named[0], seconds)
        deadline = Deadline.after(seconds, NO_ANSWER)
        left = [one for one in candidates if one not in self._refused] or candidates
        everyone: list[_Asked] = []
        groups = to_ask(left, self.used)
        for some in groups:
            asked = self._ask(some, None, deadline)
            everyone += asked
            there = [one for one in asked if one.takes_new] or (asked if some is groups[-1] else [])
            best = self._best(there, asked)
            if best is not None:
                return best
        self._refused.update(one.address for one in everyone if one.error is not None and one.error.refusal)
        raise _nobody(everyone)

    def again(self, seconds: float) -> Connection:
        """Connect to the one that was used last. Raises what `connect` raises."""
        return self._dial_one(self.used or self._named[0], seconds)

    def give_another(self) -> bool:
        """The cloud that was used last does not do, whatever it says of itself: whether another one is left to try.

        Where none is, all of them may be tried again.
        """
        self.pass_over()
        if self.is_one or all(one in self._refused for one in self._all_known):
            self._refused.clear()
            return False
        return True

    def pass_over(self) -> None:
        """The cloud that was used last does not do: it is not chosen again until another one has agreed."""
        if self.used is not None:
            self._refused.add(self.used)

    def forgive(self) -> None:
        """One has agreed: all others may be tried again."""
        self._refused.clear()

    def elsewhere(self, text: str, current: tuple[str, int] | None, seconds: float) -> Connection | None:
        """Connect anew because `current` asks for it: to the address in numbers or by name that `text` says, or else to
        the best; None where that is `current` itself.

        Raises UsageError for an address that no named cloud has, ConnectError where nobody takes the connection.
        """
        candidates = self._candidates(seconds)
        if text:
            candidates = self._allowed(text)
        host, port = current or ("", 0)
        ours = next((one for one in candidates if one.port == port and is_same(one.host, host)), None)
        candidates = [one for one in candidates if one == ours or one not in self._refused]
        deadline = Deadline.after(seconds, NO_ANSWER)
        everyone: list[_Asked] = []
        for some in to_ask(candidates, ours):
            asked = self._ask(some, ours if len(candidates) > 1 else None, deadline)
            everyone += asked
            used = self.used
            best = self._best([one for one in asked if one.takes_new], asked)
            if best is None:
                continue
            if len(candidates) > 1 and self.used == ours:
                best.close()
                self.used = used
                return None
            return best
        raise _nobody(everyone)

    def _dial_one(self, address: CloudAddress, seconds: float) -> Connection:
        self.used = address
        return self._connect(address, seconds)

    def _connect(self, address: CloudAddress, seconds: float) -> Connection:
        return connect(address.host, address.port, seconds, tls=self._tls_of(address), transport=self._transport)

    def _tls_of(self, address: CloudAddress) -> "ClientTls | None":
        return self._tls if self._tls is None or not address.name else self._tls.of(address.name)

    def lead(self, shipping: "Shipping") -> None:
        """Networks are sent to the cloud that was used last."""
        used = self.used or self._named[0]
        shipping.send_to((used.host, used.port), self._tls_of(used))

    # --- names

    @property
    def _all_known(self) -> list[CloudAddress]:
        return list(dict.fromkeys(one for named in self._named for one in self._known.get(named, [named])))

    def _candidates(self, seconds: float) -> list[CloudAddress]:
        """Every address once. A name that cannot be looked up in time has those that it had, or is left as it is."""
        names = [one for one in self._named if not addresses.is_number(one.host) and not addresses.is_here(one.host)]
        changed, looked_up = threading.Condition(), set[CloudAddress]()

        def look_up(one: CloudAddress) -> None:
            found: list[CloudAddress] = []
            with contextlib.suppress(OSError, UnicodeError):  # whoever connects says so
                found = [CloudAddress(ip, port, one.name or one.host) for ip, port in resolve(one.host, one.port)]
            with changed:
                if found:
                    self._known[one] = found
                looked_up.add(one)
                changed.notify()

        for one in names:
            threading.Thread(target=look_up, args=(one,), name=f"looks up {one.host}", daemon=True).start()
        if names:
            with changed:
                changed.wait_for(lambda: looked_up, min(seconds, RESOLVE_S))
                changed.wait_for(lambda: len(looked_up) == len(names), RESOLVE_PATIENCE_S)
        return self._all_known

    def _allowed(self, text: str) -> list[CloudAddress]:
        """What the address in a MOVE may mean. Raises UsageError."""
        of_place = {Place(one.name or one.host, one.port): one for one in self._named}
        named = [of_place[place] for place in named_by(text, list(of_place))]
        known = list(dict.fromkeys(each for one in named for each in self._known.get(one, [one])))
        wanted = addresses.parse(text)
        same = [one for one in known if is_same(one.host, wanted.host)]
        if addresses.is_number(wanted.host) and not same:
            raise UsageError(f"{text[:80]!r} is none of the addresses of {', '.join(one.host for one in named)}")
        return same or known

    # --- asking

    def _ask(self, some: Sequence[CloudAddress], ours: CloudAddress | None, deadline: Deadline) -> list[_Asked]:
        """Ask all of them at once how busy they are. Those that are silent hold nobody up."""
        asked, changed = [_Asked(address) for address in some], threading.Condition()
        is_decided = threading.Event()
        began = time.monotonic()

        def ask(one: _Asked) -> None:
            connection, found, error = self._state_of(one, deadline)
            with changed:
                if is_decided.is_set():
                    if connection is not None:
                        connection.close()
                    return
                one.connection, one.error = connection, error
                if found is not None:
                    state, one.took_s = found
                    one.said = Said(state, one.address == ours)
                changed.notify()

        for one in asked:
            threading.Thread(target=ask, args=(one,), name=f"asks {one.address}", daemon=True).start()

        def is_anyone_there() -> bool:
            return any(one.takes_new for one in asked) or all(one.is_over for one in asked)

        with changed:
            if changed.wait_for(is_anyone_there, min(ASK_S, _left(deadline))):
                patience_s = max(PATIENCE_S, time.monotonic() - began)
                changed.wait_for(lambda: all(one.is_over for one in asked), min(patience_s, _left(deadline)))
            is_decided.set()
        return asked

    def _state_of(
        self, asked: _Asked, deadline: Deadline
    ) -> tuple[Connection | None, tuple[State, float] | None, AppError | None]:
        connection, address = None, asked.address
        try:
            seconds = min(ASK_S, CONNECT_S, deadline.remaining())
            connection = self._connect(address, seconds)
            asked.is_taken = True
            until, began = Deadline.after(seconds, "no STATUS answer"), time.perf_counter()
            connection.send(Status(self._token), until)
            state = connection.receive(until).read(State)
        except AppError as error:
            if connection is not None:
                connection.close()
            log.info("%s was asked how busy it is: %s", address, printable(str(error), 200))
            return None, None, error
        return connection, (state, time.perf_counter() - began), None

    def _best(self, of: Sequence[_Asked], asked: Sequence[_Asked]) -> Connection | None:
        """The connection to the best of those that have answered; all others are closed."""
        there = [(one, one.said) for one in of if one.said is not None]
        best = there[ranked([said for _, said in there])[0]] if there else None
        for one in asked:
            if one.connection is not None and (best is None or one is not best[0]):
                one.connection.close()
        if best is None:
            return None
        one, said = best
        self.used, self.rtt_s = one.address, one.took_s
        told = (len(asked), one.address, format_seconds(said.state.queue_s), said.state.connections)
        log.info("of %d clouds that were asked %s: %s queued, %d connections", *told)
        return one.connection


def _left(deadline: Deadline) -> float:
    return max(0.0, deadline.at - time.monotonic())


def _nobody(asked: Sequence[_Asked]) -> AppError:
    """Why none of several clouds is of use. A refusal says most, then what became of a connection that was taken."""
    errors = [one.error for one in asked if one.error is not None]
    refused = [error for error in errors if error.refusal]
    if refused:
        return refused[0]
    places = ", ".join(str(one.address) for one in asked)
    told = [printable(str(error), 120) for error in errors]
    told += ["stopping, or without workers" for one in asked if one.said is not None]
    reasons = "; ".join(dict.fromkeys(told)) or NO_ANSWER
    text = f"no cloud at any of {places} ({reasons}): start cloud_api.py there, or check -i and -p"
    is_taken = any(one.is_taken for one in asked) or any(isinstance(error, HandshakeLostError) for error in errors)
    return (HandshakeLostError if is_taken else ConnectError)(text)
