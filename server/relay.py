"""What passes between one edge and the workers: requests and answers go on as they came, and nothing is decoded.

An edge has a connection of its own to each worker that it was routed to, opened when it is needed. So a worker serves
edges in turns, keeps the codecs' data of each, and forgets what an edge asked for that has left, as a cloud does that
has no gateway. A request belongs to one connection at a time, which takes it out before it answers or hands it on:
nothing is answered twice, and what comes late from a worker that was given up finds nobody.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from edgecloud.engine.worker import BusyError
from edgecloud.net.connection import Connection, Frame
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Error, Hello, Infer, Ready, Result, from_header
from edgecloud.net.sides import Sent, Side
from edgecloud.net.tensors import Passing
from edgecloud.server.fleet import Fleet, Layers, Member
from edgecloud.server.requests import RequestError
from edgecloud.server.session import Session
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError, ProtocolError
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

LOOK_S = 0.25  # how often who waits for READY looks whether its edge is still there
IDLE_S = 1e6  # a worker may be silent for as long as it likes while nothing is asked
TRIES = 3  # workers that get a request, one after the other
DEATHS = 2  # workers that may end while they have a request, before it counts as what ended them
AGAIN_S = 1.0
FAULTS = frozenset({"PROTOCOL", "TOO_LARGE", "CLOSED"})
"""What a worker says of a payload that is none: it is the edge's, and ends its conversation, as without a gateway."""
TOLD = frozenset({"UNKNOWN_MODEL", "MISMATCH", "BUSY", "BAD_REQUEST", "DEADLINE", *FAULTS})
"""Refusals of a worker that an edge hears; all others are between the worker and the gateway."""


class RefusedError(RequestError):
    """A worker refused, for a reason that the edge is to hear."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.text)
        self.code, self.retry_after_s = error.code, error.retry_after_s


class LostError(AppError):
    """A worker could not be used; another one may."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """The answer of a worker."""

    result: Result
    arrays: Passing


class Promise:
    """What a request will be answered with, or why not. A Future without a lock: who gives the answer has taken the
    request out before, and who wants to be told says so before the request is anybody's."""

    def __init__(self) -> None:
        self._tell: Callable[[Promise], object] | None = None
        self._answer: tuple[Relayed, float] | None = None
        self._error: AppError | None = None

    def add_done_callback(self, tell: "Callable[[Promise], object]") -> None:
        """Have this called with it when there is an answer."""
        self._tell = tell

    def result(self) -> tuple[Relayed, float]:
        """The answer, and the seconds that it waited. Raises why there is none."""
        if self._answer is None:
            raise self._error or BusyError("the request is not answered yet")
        return self._answer

    def set_result(self, answer: tuple[Relayed, float]) -> None:
        """Give the answer."""
        self._answer = answer
        self._done()

    def set_exception(self, error: AppError) -> None:
        """Say why there is none."""
        self._error = error
        self._done()

    def _done(self) -> None:
        tell, self._tell = self._tell, None  # which holds the request, and that its tensors: they are freed now
        if tell is not None:
            tell(self)


@dataclass(eq=False)
class Pending:
    """A request that is not answered."""

    hello: Hello
    request: Infer
    layers: Layers
    tensors: Passing
    sides: Sequence[Side]
    """What their codecs need."""
    deadline: Deadline
    promise: Promise = field(default_factory=Promise)
    came_at: float = field(default_factory=time.perf_counter)
    tries: int = 0
    deaths: int = 0
    failed_on: set[str] = field(default_factory=set)
    cost_s: float = 0.0
    is_answered: bool = False
    """Whether a worker did, in the thread that reads there for this edge alone: it may wait for it, others may not."""
    trial: "threading.Lock | None" = None
    """What it holds while a worker has it, once another one died of it perhaps."""

    def end_trial(self) -> None:
        """The worker has it no more."""
        trial, self.trial = self.trial, None
        if trial is not None:
            trial.release()

    def fail(self, error: AppError) -> None:
        """Refuse it."""
        is_told = isinstance(error, RequestError | BusyError | DeadlineError | ProtocolError)
        self.promise.set_exception(error if is_told else RequestError(str(error)))

    def answer(self, result: Result, arrays: Passing) -> float:
        """Answer it; returns how long it waited, which is all that was neither computing nor unpacking."""
        waited_s = time.perf_counter() - self.came_at - result.cloud_s - result.decode_s
        waited_s = max(result.queue_s, waited_s)
        self.is_answered = True
        self.promise.set_result((Relayed(result, arrays), waited_s))
        return waited_s


class Link:
    """The connection of one edge to one worker."""

    def __init__(self, member: Member, relay: "Relay") -> None:
        self.member = member
        self._relay = relay
        self._lock = threading.Lock()
        self._greeting, self._sending = threading.Lock(), threading.Lock()
        self._outstanding: dict[int, Pending] = {}
        self._ids = itertools.count(1)
        self._agreed: dict[str, Hello] = {}
        self._sent = Sent()
        self._heard: queue.SimpleQueue[Ready | Error | None] = queue.SimpleQueue()
        self._is_greeting = self._is_abandoned = self._is_over = False
        self._connection: Connection | None = None
        self._ends = member.ends

    @property
    def has_ended(self) -> bool:
        """Whether the worker has ended since, also where this connection has not noticed it."""
        return self._is_over or self.member.ends != self._ends

    # --- of a thread that has something to send

    def agree(self, hello: Hello, deadline: Deadline, is_wanted: Callable[[], bool]) -> Ready | None:
        """Have the worker agree on a network; None where it has. Raises RefusedError, LostError, DeadlineError, and
        BusyError where nobody waits any more."""
        if not self._greeting.acquire(timeout=deadline.remaining()):  # another network is being loaded
            raise deadline.passed()
        try:
            agreed = self._agreed.get(hello.model)
            if agreed is hello or agreed == hello:  # the first is the rule, and quicker
                return None
            connection = self._open()
            self._heard = queue.SimpleQueue()
            self._is_greeting = True
            try:
                connection.send(replace(hello, token=self.member.address.token), deadline)
                ready = self._await_ready(deadline, is_wanted)
            except (RefusedError, LostError, DeadlineError, BusyError):
                self.abandon()
                raise
            except AppError as error:
                self.abandon()
                raise LostError(str(error)) from None
            finally:
                self._is_greeting = False
            self._agreed[hello.model] = hello
            return ready
        finally:
            self._greeting.release()

    def disagree(self, model: str) -> None:
        """The next HELLO for this network is to be answered by the worker itself."""
        with self._greeting:
            self._agreed.pop(model, None)

    def _open(self) -> Connection:
        if self._is_over:
            raise LostError("the connection to the worker is closed")
        if self._connection is None:
            try:
                self._connection = self.member.connect(self._relay.fleet.limits)
                self._connection.allow_duplex()
            except AppError as error:
                self._is_over = True
                self._relay.forget(self)
                raise LostError(str(error)) from None
            if self._is_abandoned:  # the edge has left meanwhile
                self._connection.close()
                raise LostError("the connection to the worker is closed")
            self._relay.fleet.add(self.member, self)
            name = f"answers of {self.member.name}"
            threading.Thread(target=self._read, name=name, daemon=True).start()
        return self._connection

    def _await_ready(self, deadline: Deadline, is_wanted: Callable[[], bool]) -> Ready:
        while True:
            try:
                heard = self._heard.get(timeout=min(LOOK_S, deadline.remaining()))
            except queue.Empty:
                if not is_wanted():
                    raise BusyError("the client that requested the network has disconnected") from None
                if self._is_over or self._relay.fleet.is_lost(self.member):
                    raise LostError("the worker is lost") from None
                continue
            if isinstance(heard, Ready):
                return heard
            if heard is not None and heard.code in TOLD:
                raise RefusedError(heard)
            raise LostError("the worker refused" if heard is None else f"{heard.code}: {heard.text}")

    def send(self, pending: Pending, cost_s: float) -> bool:
        """Send a request there. False where the worker is lost and the request still the caller's; what was sent is
        the link's."""
        connection, fleet = self._connection, self._relay.fleet
        fleet.begin(self.member, cost_s)
        with self._lock:
            is_over, number = self._is_over or connection is None, next(self._ids)
            if not is_over:
                self._outstanding[number] = pending
                pending.cost_s = cost_s
        if is_over or connection is None:
            fleet.end(self.member, cost_s)
            pending.end_trial()
            return False
        try:
            with self._sending:
                self._send(number, pending, connection)
        except AppError:  # a frame may be cut: nothing more can be sent here
            self.abandon()
            return self._take(number) is None
        return True

    def _send(self, number: int, pending: Pending, connection: Connection) -> None:
        missing = self._sent.missing(pending.sides)
        names = " ".join(f"{side.kind}:{side.digest}" for side in missing)
        layers, left_s = pending.request.layers, pending.deadline.remaining()
        request = Infer(number, layers, left_s, pending.hello.model, names)
        tensors = pending.tensors.followed_by([side.data for side in missing]) if missing else pending.tensors
        connection.send(request, pending.deadline, tensors)

    def abandon(self) -> None:
        """Close it: who reads here wakes up, and hands on what is in hand."""
        self._is_abandoned = True
        if self._connection is not None:
            self._connection.close()

    def expire(self, now: float) -> None:
        """Refuse what is late."""
        with self._lock:
            late = [number for number, each in self._outstanding.items() if each.deadline.at <= now]
        for number in late:
            pending = self._take(number)
            if pending is not None:
                pending.fail(pending.deadline.passed())

    def _take(self, number: int) -> Pending | None:
        """Take a request out, so that it is the caller's alone; None where it is somebody else's already."""
        with self._lock:
            pending = self._outstanding.pop(number, None)
        if pending is not None:
            self._relay.fleet.end(self.member, pending.cost_s)
            pending.end_trial()
        return pending

    # --- of the thread that reads

    def _read(self) -> None:
        assert self._connection is not None  # it was opened
        try:
            while True:
                self._hear(self._connection.receive(Deadline.after(IDLE_S, "a worker")))
        except AppError as error:
            log.debug("worker %s: %s", self.member.name, error)
        except Exception:
            log.exception("! what worker %s said", self.member.name)
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            numbers = list(self._outstanding)
        self._relay.forget(self)
        self._relay.fleet.remove(self.member, self)
        if self._connection is not None:
            self._connection.close()
        self._heard.put(None)
        has_died = not (self._is_abandoned or self.member.is_leaving)
        self.member.ends += has_died  # before the next trial there begins
        taken = [pending for number in numbers if (pending := self._take(number)) is not None]
        for pending in taken:
            self._relay.repeat(pending, self.member, has_died=has_died)

    def _hear(self, frame: Frame) -> None:
        if frame.kind is FrameType.RESULT:
            self._hear_result(frame)
        elif frame.kind is FrameType.ERROR:
            self._hear_error(from_header(Error, frame.header))
        else:
            self._heard.put(frame.read(Ready))

    def _hear_result(self, frame: Frame) -> None:
        result = frame.read(Result)
        pending = self._take(result.id)
        if pending is not None:
            self._relay.answered(pending, result, frame.passing())  # the edge reads what they are

    def _hear_error(self, error: Error) -> None:
        if error.id:
            pending = self._take(error.id)
            if pending is not None:
                self._relay.refused(pending, self.member, error)
        elif self._is_greeting:
            self._heard.put(error)
        elif error.code in FAULTS:
            self._relay.blame(RefusedError(error))
        else:
            log.info("worker %s: %s: %s", self.member.name, error.code, printable(error.text, 200))


class Relay:
    """The links of one edge. Its own thread and those of the links may use it at once."""

    def __init__(self, fleet: Fleet, session: Session) -> None:
        self.fleet = fleet
        self._session = session
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        self._latest = ""
        self._is_closed = False
        self.networks: dict[str, Hello] = {}
        """What was agreed on with workers, by name, without tokens."""

    def close(self) -> None:
        """The edge has left: workers drop what it asked for."""
        with self._lock:
            self._is_closed = True
            links, self._links = list(self._links.values()), {}
        for link in links:
            link.abandon()

    def forget(self, link: Link) -> None:
        """It is over."""
        with self._lock:
            if self._links.get(link.member.name) is link:
                del self._links[link.member.name]

    def _link(self, member: Member) -> Link:
        with self._lock:
            if self._is_closed:
                raise BusyError("the client has disconnected")
            link = self._links.get(member.name)
            if link is None:
                link = self._links[member.name] = Link(member, self)
            return link

    def _is_wanted(self) -> bool:
        return not self._is_closed

    # --- HELLO

    def greet(self, hello: Hello, deadline: Deadline, is_wanted: Callable[[], bool]) -> Ready:
        """Agree on a network with the worker that is to have it.

        Raises RefusedError with what the worker says, BusyError where there is none, and DeadlineError.
        """
        hello = replace(hello, token="", moves=False)  # edges move, and gateways do not
        failed_on: set[str] = set()
        while True:
            member, _ = self.fleet.route(hello, None, failed_on, self._latest)
            try:
                ready = self._agree(member, hello, deadline, is_wanted, is_fresh=True)[1]
            except LostError as error:
                log.info("worker %s: %s", member.name, error)
                failed_on.add(member.name)
                continue
            assert ready is not None  # it was asked
            self.networks[hello.model] = hello
            return ready

    def _agree(
        self, member: Member, hello: Hello, deadline: Deadline, is_wanted: Callable[[], bool], *, is_fresh: bool = False
    ) -> tuple[Link, Ready | None]:
        link = self._link(member)
        if is_fresh:
            link.disagree(hello.model)
        ready = link.agree(hello, deadline, is_wanted)
        if ready is not None:
            self.fleet.holds(member, hello, ready)
        self._latest = member.name
        return link, ready

    # --- INFER

    def submit(self, pending: Pending) -> None:
        """Send a request to the worker that will have answered first; its promise has the answer, or why not."""
        while True:
            try:
                if self._try(pending):
                    return
            except LostError:
                continue
            except AppError as error:
                pending.fail(error)
                return

    def _try(self, pending: Pending) -> bool:
        """Whether it is a link's now."""
        member, cost_s = self.fleet.route(pending.hello, pending.layers, pending.failed_on, self._latest)
        try:
            link, _ = self._agree(member, pending.hello, pending.deadline, self._is_wanted)
            self._begin_trial(pending, link)
            if link.send(pending, cost_s):
                return True
        except LostError:
            pass
        pending.failed_on.add(member.name)
        pending.deadline.remaining()
        return False

    def _begin_trial(self, pending: Pending, link: Link) -> None:
        """One that may have ended a worker is alone of its kind where it goes, so that the next death tells who it was.
        Raises DeadlineError, and LostError where the one before has ended this worker: it would be blamed for that."""
        if pending.deaths:
            if not link.member.trial.acquire(timeout=pending.deadline.remaining()):
                raise pending.deadline.passed()
            pending.trial = link.member.trial
            if link.has_ended:
                pending.end_trial()
                raise LostError("the worker has ended")

    def repeat(self, pending: Pending, member: Member, *, has_died: bool) -> None:
        """A worker was lost that had this request: another one gets it."""
        if self._is_closed:
            return
        pending.tries += 1
        pending.deaths += has_died
        pending.failed_on.add(member.name)
        if pending.deaths >= DEATHS:
            pending.fail(RequestError(f"{DEATHS} workers ended while they had this request"))
        elif pending.tries >= TRIES:
            pending.fail(BusyError("the workers that had this request were lost, try again later", AGAIN_S))
        else:
            self.fleet.repeated()
            self.submit(pending)

    def answered(self, pending: Pending, result: Result, arrays: Passing) -> None:
        """An answer has come."""
        self.fleet.keep_size(pending.hello.model, pending.layers, arrays.nbytes)
        self.fleet.waited(pending.answer(result, arrays))

    def refused(self, pending: Pending, member: Member, error: Error) -> None:
        """A worker refuses one request. Where it only has too much to do another one may have less."""
        pending.failed_on.add(member.name)
        pending.tries += 1
        if error.code == "BUSY" and pending.tries < TRIES and self.fleet.has_another(pending.failed_on):
            threading.Thread(target=self.submit, args=(pending,), name="asks another worker", daemon=True).start()
        else:
            pending.fail(_told(error))

    def blame(self, error: AppError) -> None:
        """What the edge sent was no request."""
        self._is_closed = True
        self._session.fail(error)


def _told(error: Error) -> AppError:
    if error.code == "BUSY":
        return BusyError(error.text, error.retry_after_s)
    if error.code == "DEADLINE":
        return DeadlineError(error.text)
    return RefusedError(error) if error.code in TOLD else RequestError("the worker failed on this request")
