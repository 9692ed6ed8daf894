"""The workers of a gateway: which there are, how each is, what it holds and what it has in hand.

Every worker is asked for its STATUS once a second, on a connection for that alone. One that does not answer for a
moment gets nothing new, and what it has in hand is repeated elsewhere; one that stays silent is given up, and its
placement replaces it. An inference changes nothing, so a wrong guess costs no more than work that is done twice.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgecloud.engine.worker import BusyError
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import Limits
from edgecloud.net.messages import Hello, Ready, State, Status
from edgecloud.net.metrics import FleetLoad
from edgecloud.server.placement import Placement, WorkerAddress
from edgecloud.server.routing import UNKNOWN_S, Candidate, Times, choose
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError
from edgecloud.utils.flood_log import FloodLog

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often it is looked which workers there should be, and which requests are late."""
ASK_S = 1.0
QUIET_S, HANG_S = 1.5, 15.0
"""How long a worker may leave STATUS unanswered before it gets nothing new, and before it is given up."""
CONNECT_S, AGAIN_S, MOST_AGAIN_S = 2.0, 0.1, 2.0
START_S = 300.0
LOAD_S, LOAD_AGAIN_S = 600.0, 5.0
DEMAND_S = 60.0
"""How long it counts that somebody has asked while there was no worker."""
IN_USE_S = 120.0
HALF_LIFE_S, SMOOTHING = 2.0, 0.2
MOST_NETWORKS, MOST_SIZES = 64, 1024

Layers = tuple[tuple[int, int], ...]


class Way(Protocol):
    """A connection to a worker that has requests in hand."""

    def abandon(self) -> None:
        """Close it: what is in hand there goes elsewhere."""

    def expire(self, now: float) -> None:
        """Give up what is late."""


@dataclass(eq=False)
class Member:
    """One worker. What changes does so with the lock of its fleet."""

    address: WorkerAddress
    is_up: bool = False
    """Whether it has answered, and was not given up since."""
    is_quiet: bool = False
    is_leaving: bool = False
    """Whether it finishes what it has, and takes nothing new."""
    state: State | None = None
    in_flight_s: float = 0.0
    in_flight: int = 0
    networks: dict[str, Times] = field(default_factory=dict)
    loading: set[str] = field(default_factory=set)
    load_again_at: float = 0.0
    """When it may be asked again, after it did not load one."""
    ways: set[Way] = field(default_factory=set)
    ends: int = 0
    """How often one of its links found that it had ended."""
    trial: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one request there that another worker may have died of."""

    @property
    def name(self) -> str:
        """What the placement calls it."""
        return self.address.name

    @property
    def is_well(self) -> bool:
        """Whether it may get something new."""
        return self.is_up and not self.is_quiet and not self.is_leaving

    def cost_s(self, model: str, layers: Layers | None) -> float | None:
        """Predicted seconds of a request; None where it does not hold the network."""
        times = self.networks.get(model)
        if times is None:
            return None
        if layers is None:
            return UNKNOWN_S
        slowdown = self.state.load / self.state.speed if self.state is not None else 1.0
        return times.of_layers(layers) * slowdown

    def connect(self, limits: Limits) -> Connection:
        """Raises ConnectError."""
        return connect(self.address.host, self.address.port, CONNECT_S, limits)


class Fleet:
    """All workers. May be used by any thread."""

    def __init__(self, placement: Placement, limits: Limits, batch: int) -> None:
        self.placement, self.limits = placement, limits
        self._batch = batch
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        self._stopping = threading.Event()
        self._waited_s, self._waited_at = 0.0, time.monotonic()
        self._wanted_at = float("-inf")
        self._in_use: OrderedDict[str, tuple[Hello, float]] = OrderedDict()
        self._sizes: OrderedDict[tuple[str, Layers], int] = OrderedDict()
        self._lost, self._repeats = 0, 0
        self._log = FloodLog(log, logging.WARNING, "! %d further events of workers not logged")

    # --- beginning and end

    def start(self) -> None:
        """Start the placement, and look after it in a thread. Raises AppError."""
        self.placement.start()
        threading.Thread(target=self._look_after, name="fleet", daemon=True).start()

    def close(self, seconds: float) -> None:
        """End the workers."""
        self._stopping.set()
        self.placement.close(seconds)

    def _look_after(self) -> None:
        asked_at = float("-inf")
        while not self._stopping.wait(LOOK_S):
            try:
                now = time.monotonic()
                if now - asked_at >= min(ASK_S, LOOK_S if self.well < self.placement.wanted else ASK_S):
                    asked_at = now
                    self._meet(self.placement.addresses())
                for way in self._ways():
                    way.expire(now)
            except Exception:
                log.exception("! looking after the workers")

    def _meet(self, addresses: Sequence[WorkerAddress]) -> None:
        named = {address.name: address for address in addresses}
        with self._lock:
            for name, member in self._members.items():
                is_draining = member.state is not None and member.state.draining
                member.is_leaving = is_draining or member.address != named.get(name)  # one may be named again
            new = [address for name, address in named.items() if name not in self._members]
            for address in new:
                self._members[address.name] = Member(address)
            met = [self._members[address.name] for address in new]
        for member in met:
            threading.Thread(target=self._watch, args=(member,), name=f"watches {member.name}", daemon=True).start()

    # --- one worker

    def _watch(self, member: Member) -> None:
        """Of a thread of its own, until the worker is gone."""
        since, pause_s = time.monotonic(), AGAIN_S
        while not self._stopping.is_set():
            try:
                connection = member.connect(self.limits)
            except ConnectError:
                if member.is_up:
                    self._give_up(member, "it has ended")
                if member.is_leaving:
                    break
                if time.monotonic() - since > START_S:
                    since = time.monotonic()
                    self._tell_lost(member, f"it did not answer within {START_S:.0f} s")
                self._stopping.wait(pause_s)
                pause_s = min(MOST_AGAIN_S, 1.5 * pause_s)
                continue
            pause_s = AGAIN_S
            with closing(connection):
                self._ask(member, connection)
            self._stopping.wait(AGAIN_S)
        with self._lock:
            if self._members.get(member.name) is member:
                del self._members[member.name]
        self._abandon(member)

    def _ask(self, member: Member, connection: Connection) -> None:
        """Ask how it is until the connection ends, or until it hangs."""
        while not self._stopping.is_set():
            try:
                connection.send(Status(member.address.token), Deadline.after(QUIET_S, "STATUS"))
                self._heard(member, self._answer(member, connection))
            except DeadlineError as error:
                self._give_up(member, f"it hangs: {error}")
                return
            except AppError as error:
                if not member.is_up:
                    self._log.tell("! worker %s: %s", member.name, error)
                    self._stopping.wait(MOST_AGAIN_S)
                return
            self._stopping.wait(ASK_S)

    def _answer(self, member: Member, connection: Connection) -> State:
        """Its answer; while that is late it counts as quiet. Raises DeadlineError where it hangs."""
        end = Deadline.after(HANG_S, f"no answer within {HANG_S:g} s")
        while True:
            try:
                return connection.receive(Deadline.after(min(QUIET_S, end.remaining()), "STATE")).read(State)
            except DeadlineError:
                end.remaining()
                with self._lock:
                    was_quiet, member.is_quiet = member.is_quiet, True
                    is_another = any(each.is_well for each in self._members.values())
                if not was_quiet:
                    self._log.tell("! worker %s does not answer", member.name)
                if is_another:
                    self._abandon(member)

    def _heard(self, member: Member, state: State) -> None:
        with self._lock:
            was_up, member.is_up = member.is_up, True
            member.state, member.is_quiet = state, False
            member.is_leaving = member.is_leaving or state.draining
        if not was_up:
            log.info("= worker %s answers", member.name)
            self._have_loaded(member)

    def _give_up(self, member: Member, why: str) -> None:
        with self._lock:
            was_up, member.is_up = member.is_up, False
            member.networks, member.state = {}, None
            was_expected = member.is_leaving
        if was_up:
            self._tell_lost(member, why, was_expected=was_expected)
        self._abandon(member)

    def _tell_lost(self, member: Member, why: str, *, was_expected: bool = False) -> None:
        if not was_expected:
            self._log.tell("! worker %s is given up: %s", member.name, why)
            with self._lock:
                self._lost += 1
        self.placement.lost(member.name)

    def _abandon(self, member: Member) -> None:
        with self._lock:
            ways = list(member.ways)
        for way in ways:
            way.abandon()

    def _ways(self) -> list[Way]:
        with self._lock:
            return [way for member in self._members.values() for way in member.ways]

    # --- networks

    def _have_loaded(self, member: Member) -> None:
        """What edges use and no worker holds is loaded by one that has come: it may replace another."""
        now = time.monotonic()
        with self._lock:
            held = {name for each in self._members.values() if each.is_well for name in (*each.networks, *each.loading)}
            missing = [hello for hello, at in self._in_use.values() if now - at < IN_USE_S and hello.model not in held]
        for hello in missing:
            self.load(member, hello)

    def load(self, member: Member, hello: Hello) -> None:
        """Have a worker load a network, in a thread."""
        with self._lock:
            is_soon = time.monotonic() < member.load_again_at
            if hello.model in member.networks or member.loading or is_soon:
                return  # one at a time
            member.loading.add(hello.model)
        name = f"has {hello.model} loaded"
        threading.Thread(target=self._load, args=(member, hello), name=name, daemon=True).start()

    def _load(self, member: Member, hello: Hello) -> None:
        try:
            with closing(member.connect(self.limits)) as connection:
                deadline = Deadline.after(LOAD_S, "the network was not ready")
                connection.send(replace(hello, token=member.address.token), deadline)
                self.holds(member, hello, connection.receive(deadline).read(Ready))
        except AppError as error:
            member.load_again_at = time.monotonic() + LOAD_AGAIN_S
            self._log.tell("! worker %s does not load %s: %s", member.name, hello.model, error)
        finally:
            with self._lock:
                member.loading.discard(hello.model)

    def holds(self, member: Member, hello: Hello, ready: Ready) -> None:
        """A worker has said READY to a HELLO without a token."""
        model, times = hello.model, Times.of(ready.seconds, ready.start_s)
        with self._lock:
            self._in_use[model] = (hello, time.monotonic())
            member.networks.pop(model, None)
            member.networks[model] = times
            if len(member.networks) > MOST_NETWORKS:
                del member.networks[next(iter(member.networks))]

    def is_held(self, model: str) -> bool:
        """Whether a worker holds a network."""
        with self._lock:
            return any(model in member.networks for member in self._askable())

    # --- requests

    def route(self, hello: Hello, layers: Layers | None, avoid: Collection[str], likes: str) -> tuple[Member, float]:
        """The worker for a HELLO, or for a request for some layers, and its predicted seconds there.

        Raises BusyError where no worker may be asked.
        """
        now = time.monotonic()
        with self._lock:
            self._use(hello, now)
            askable = self._askable()
            seen = [_seen(each, hello.model, layers, is_well=each in askable) for each in self._members.values()]
            route = choose(seen, self._batch, avoid, likes)
            if route is None:
                self._wanted_at = now
                raise self._waking()
            member = self._members[route.to]
            spare = self._members.get(route.load_on)
            cost_s = next(each.cost_s for each in seen if each.name == route.to) or UNKNOWN_S
        if spare is not None and layers is not None:
            self.load(spare, hello)
        return member, cost_s

    def is_lost(self, member: Member) -> bool:
        """Whether what a worker has in hand should be asked of another one."""
        with self._lock:
            return not member.is_up or (member.is_quiet and any(each.is_well for each in self._members.values()))

    def has_another(self, avoid: Collection[str]) -> bool:
        """Whether there is a worker that may be asked and is none of these, which may have left by now."""
        with self._lock:
            return any(member.name not in avoid for member in self._askable())

    def _askable(self) -> list[Member]:
        """Those that are well, else those that are only late: where all are, it is the machine. The lock is held."""
        well = [member for member in self._members.values() if member.is_well]
        return well or [member for member in self._members.values() if member.is_up and not member.is_leaving]

    def _use(self, hello: Hello, now: float) -> None:
        """What was agreed on is used; a HELLO that no worker has answered is none of these. The lock is held."""
        if hello.model in self._in_use:
            self._in_use[hello.model] = (self._in_use[hello.model][0], now)
            self._in_use.move_to_end(hello.model)
        while len(self._in_use) > MOST_NETWORKS:
            self._in_use.popitem(last=False)

    def _waking(self) -> BusyError:
        """The lock is held."""
        if any(member.is_up for member in self._members.values()):
            return BusyError("no worker could take this, try again later", ASK_S)
        return BusyError("no worker is running yet, try again later", self.placement.waking_s)

    def begin(self, member: Member, cost_s: float) -> None:
        """A request was sent there."""
        with self._lock:
            member.in_flight_s += cost_s
            member.in_flight += 1

    def end(self, member: Member, cost_s: float) -> None:
        """It is answered, or taken back."""
        with self._lock:
            member.in_flight -= 1
            member.in_flight_s = max(0.0, member.in_flight_s - cost_s) if member.in_flight else 0.0

    def add(self, member: Member, way: Way) -> None:
        """A connection to a worker was opened."""
        with self._lock:
            member.ways.add(way)

    def remove(self, member: Member, way: Way) -> None:
        """It is closed."""
        with self._lock:
            member.ways.discard(way)

    def repeated(self) -> None:
        """A request is sent once more, since a worker did not answer it."""
        with self._lock:
            self._repeats += 1

    def waited(self, seconds: float) -> None:
        """A request has waited so long."""
        with self._lock:
            now_s = self._queue_s()
            self._waited_s, self._waited_at = now_s + SMOOTHING * (seconds - now_s), time.monotonic()

    def size_of(self, model: str, layers: Layers) -> int:
        """The bytes of the last answer of some layers; 0 where there was none."""
        with self._lock:
            return self._sizes.get((model, layers), 0)

    def keep_size(self, model: str, layers: Layers, count: int) -> None:
        """An answer had so many bytes."""
        with self._lock:
            self._sizes[model, layers] = count
            if len(self._sizes) > MOST_SIZES:
                self._sizes.popitem(last=False)

    # --- from outside

    @property
    def well(self) -> int:
        """Workers that may be asked."""
        with self._lock:
            return len(self._askable())

    def load_now(self) -> FleetLoad:
        """How all are together. Seconds that are queued are those of all requests that are not answered; while there is
        no worker, a request that was refused counts as one second or more of it, so that somebody starts one."""
        now = time.monotonic()
        with self._lock:
            well = self._askable()
            states = [member.state for member in well if member.state is not None]
            queued_s = sum(member.in_flight_s for member in self._members.values())
            if not well and now - self._wanted_at < DEMAND_S:
                queued_s = max(1.0, queued_s)
            return FleetLoad(
                workers=len(well),
                wanted=self.placement.wanted,
                load=min((state.load for state in states), default=1.0),
                speed=max((state.speed for state in states), default=1.0),
                waiting=sum(max(0, member.in_flight - 1) for member in well),
                queue_s=self._queue_s() if well else self.placement.waking_s,
                queued_s=queued_s,
                lost=self._lost,
                repeats=self._repeats,
            )

    def rows(self) -> "list[dict[str, object]]":
        """One for each worker, for people."""
        with self._lock:
            return [_row(member) for member in self._members.values()]

    def _queue_s(self) -> float:
        return float(self._waited_s * 0.5 ** ((time.monotonic() - self._waited_at) / HALF_LIFE_S))


def _seen(member: Member, model: str, layers: Layers | None, *, is_well: bool) -> Candidate:
    return Candidate(member.name, member.in_flight_s, member.cost_s(model, layers), len(member.networks), is_well)


def _row(member: Member) -> "dict[str, object]":
    words: Iterable[tuple[bool, str]] = (
        (not member.is_up, "starting"),
        (member.is_quiet, "silent"),
        (member.is_leaving, "leaving"),
        (True, "up"),
    )
    return {
        "name": member.name,
        "state": next(word for holds, word in words if holds),
        "in_flight": member.in_flight,
        "in_flight_s": round(member.in_flight_s, 6),
        "load": member.state.load if member.state is not None else 1.0,
        "networks": sorted(member.networks),
    }
