"""The edge's end of one connection, over which one request travels, or many at once.

A request that is handed over comes back exactly once, through `Listener`: with an answer, refused, or lost with the
connection. Its boundary stays with the request, not packed, so that the listener can complete it another way.

A boundary that leaves in chunks (client.chunks) is asked for with threads: they send while the caller packs.

Many are handed over with `submit`: one thread sends, another one receives. `ask` waits for the answer to one. As long
as nobody else uses the connection it needs no threads: the caller sends, and receives what comes (a window of one).
"""

import logging
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgecloud.client.chunks import Departure, Slice
from edgecloud.client.fallback import patience_s
from edgecloud.client.handshake import NOT_ASKED, Dial, OnConnection, RefusedError, are_outputs, handshake
from edgecloud.models.graph import LayerGraph, to_ranges
from edgecloud.net.codec import encode
from edgecloud.net.connection import Connection, Frame
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Chunk, Error, Hello, Infer, Probe, Probed, Ready, Result, State, Status, from_header
from edgecloud.net.refusals import refusal
from edgecloud.net.sides import Sent, Side, UnknownSideError
from edgecloud.net.tensors import Array, Encoded
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, PeerClosedError, ProtocolError
from edgecloud.utils.units import printable

if TYPE_CHECKING:
    from edgecloud.net.tls import ClientTls

log = logging.getLogger(__name__)

SILENT_S = 3600.0  # how long nothing may come while nothing is asked; a dead link is noticed by TCP long before
END_S = 2.0
TRAIN_BYTES = 8192  # a frame of a probe: what a task may have to wait for
ZSTD = "zstd"
TRAIN_SKIPPED = 3  # frames at its start, which a token bucket lets through at once


@dataclass(eq=False)
class Request:
    """A tail for the cloud. Times are moments of this host's clock, `time.perf_counter`."""

    id: int
    model: str
    graph: LayerGraph
    tail: frozenset[int]
    """The layers that the cloud runs."""
    boundary: list[Array]
    packed: Sequence[Encoded] = ()
    """The boundary as it travels; where there is none it goes as it is."""
    tries: int = 0
    sent_at: float = 0.0
    """When its first byte left."""
    here_s: float = 0.0
    """Predicted seconds of the tail if it has to be computed here."""
    timeout_s: float | None = None
    """How long its answer is waited for; None: as long as the connection allows."""
    listener: "Listener | None" = None
    """Who is told what becomes of it; None: the listener of the connection."""
    departure: Departure | None = None
    """The boundary where it leaves in chunks; only for who asks."""

    @property
    def payload_bytes(self) -> int:
        """Bytes that travel."""
        return sum(one.nbytes for one in self.travelling)

    @property
    def travelling(self) -> Sequence[Array | Encoded]:
        """What is sent: the packed boundary, or else the arrays of the boundary."""
        return self.packed or self.boundary

    @property
    def sides(self) -> Sequence[Side]:
        """What the codecs of the boundary need."""
        if self.departure is not None:
            return self.departure.sides
        return [one.sided.side for one in self.packed if one.sided is not None]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A slice of the boundary of a request, which follows it."""

    request: Request
    slice: Slice


class Listener(Protocol):
    """Is told what became of requests, in the thread that received it."""

    def departed(self, request: Request) -> None:
        """It has begun to travel: there is room in the line."""

    def answered(self, request: Request, result: Result, arrays: list[Array]) -> None:
        """The cloud answered."""

    def refused(self, request: Request, error: Error) -> None:
        """The cloud did not carry it out."""

    def lost(self, requests: Sequence[Request], error: AppError) -> None:
        """The connection is gone, and with it these requests."""


class Reply:
    """What became of one request, for the thread that waits for it."""

    def __init__(self) -> None:
        self._answer: tuple[Result, list[Array]] | None = None
        self._error: AppError | None = None
        self.is_there = False
        """Whether it has come back."""
        self._event: threading.Event | None = None

    def expect(self) -> threading.Event:
        """From now on another thread brings it: what is set then. To be called before the request is handed over."""
        self._event = threading.Event()
        return self._event

    def _come_back(self) -> None:
        self.is_there = True
        if self._event is not None:
            self._event.set()

    def departed(self, request: Request) -> None:
        """Nothing waits for that."""

    def answered(self, request: Request, result: Result, arrays: list[Array]) -> None:
        """The cloud answered."""
        del request
        self._answer = (result, arrays)
        self._come_back()

    def refused(self, request: Request, error: Error) -> None:
        """The cloud did not carry it out."""
        del request
        self._error = RefusedError(error)
        self._come_back()

    def lost(self, requests: Sequence[Request], error: AppError) -> None:
        """The connection is gone."""
        del requests
        self._error = error
        self._come_back()

    def answer(self) -> tuple[Result, list[Array]]:
        """The answer. Raises AppError, as RefusedError where the cloud refused."""
        if self._error is not None:
            raise self._error
        assert self._answer is not None  # it is there
        return self._answer


class MovedError(PeerClosedError):
    """The connection was left for another one before this request was sent: it belongs there."""


class _Silent:
    """Listens where every request is asked by somebody who waits for it."""

    def departed(self, request: Request) -> None: ...
    def answered(self, request: Request, result: Result, arrays: list[Array]) -> None: ...
    def refused(self, request: Request, error: Error) -> None: ...
    def lost(self, requests: Sequence[Request], error: AppError) -> None: ...


SILENT: Listener = _Silent()


@dataclass
class Train:
    """A probe: frames back to back, and when the answer to each came."""

    first: int
    arrived: list[float] = field(default_factory=list)

    def rate(self) -> tuple[int, float] | None:
        """Bytes and seconds of the frames behind the first ones; None where too few came back."""
        counted = self.arrived[TRAIN_SKIPPED - 1 :]
        if len(counted) < 2:
            return None
        return (len(counted) - 1) * TRAIN_BYTES, counted[-1] - counted[0]


class MultiplexedClient:
    """A connection on which a cloud has agreed to run some networks."""

    def __init__(
        self, connection: Connection, ready: dict[str, Ready], listener: Listener, window: int, timeout_s: float
    ) -> None:
        self.ready = ready
        self._state: State | None = None
        self._has_state = threading.Event()
        self.connection, self._listener = connection, listener
        self._line: queue.Queue[Request | _Chunk | None] = queue.Queue()
        self._lock = threading.Lock()
        self._came_back = threading.Condition(self._lock)
        self._outstanding: dict[int, Request] = {}
        self._window = window
        self._timeout_s = timeout_s
        self._sending: tuple[float, int] | None = None
        self._sent_until: int | None = None
        self._train: Train | None = None
        self._ids = 0
        self._error: AppError | None = None
        self.last_used = time.perf_counter()
        self.sent_bytes = 0
        self._sides = Sent()
        self._turn = threading.Lock()
        """Who holds it may send and receive, as long as there are no threads for that."""
        self._departing = threading.Lock()
        """Held while a boundary leaves in chunks."""
        self._threads: list[threading.Thread] = []
        _CLIENTS.add(self)

    def start(self) -> None:
        """Start the threads that send and receive, once nobody does without. Raises AppError where that cannot be."""
        with self._turn:
            if self._threads or not self.is_alive:
                return
            self.connection.allow_duplex()
            self._threads = [
                threading.Thread(target=self._send_all, name="requests leave", daemon=True),
                threading.Thread(target=self._receive_all, name="requests come back", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    @property
    def has_threads(self) -> bool:
        """Whether threads send and receive: nobody else may then."""
        return bool(self._threads)

    def _is_alone(self) -> bool:
        """Whether this thread may send and receive by itself: there are no threads for it, and nobody else does. It
        then has `_turn`, and releases it."""
        if self._threads or not self._turn.acquire(blocking=False):
            return False
        if self._threads:  # just started
            self._turn.release()
        return not self._threads

    @classmethod
    def open(
        cls,
        address: tuple[str, int],
        hellos: Sequence[Hello],
        layers: Mapping[str, int],
        listener: Listener,
        on_connection: OnConnection,
        *,
        ready_s: float,
        window: int,
        timeout_s: float,
        tls: "ClientTls | None" = None,
        is_given_up: Callable[[], bool] = lambda: False,
        dial: Dial | None = None,
        patience_s: float = math.inf,
    ) -> "MultiplexedClient":
        """Connect and agree on the networks.

        At most `window` requests are under way at once, and each has `timeout_s` seconds. Raises what `handshake` does.
        """
        connection, ready = handshake(
            address, hellos, layers, ready_s, on_connection, tls, is_given_up, dial, patience_s
        )
        return cls(connection, ready, listener, window, timeout_s)

    def hear(self, seconds: float) -> None:
        """Take what the cloud has said unasked, where no thread waits for that and nothing is asked. Raises nothing:
        a connection on which something else has come is lost."""
        if self.is_alive and self._is_alone():  # then nothing is out either
            try:
                deadline = Deadline.after(seconds, "a frame that nobody asked for")
                while (frame := self.connection.hear(deadline)) is not None:
                    self._take(frame)
            except AppError as error:
                self._lose(error)
            finally:
                self._turn.release()

    @property
    def is_alive(self) -> bool:
        """Whether requests can be handed over."""
        return self._error is None

    @property
    def max_payload(self) -> int:
        """The largest boundary that may be sent."""
        return self.connection.limits.payload_bytes

    @property
    def outstanding(self) -> int:
        """Requests that have not come back."""
        return len(self._outstanding)

    @property
    def waiting(self) -> int:
        """Requests that have not begun to travel."""
        return self._line.qsize()

    def has_room(self, waiting: int, outstanding: int | None = None) -> bool:
        """Whether a request could be handed over now, so that no more than `waiting` wait for the link.

        No more than `outstanding`, or else the window, are then out. More than the window wait here, not on the link.
        """
        most = self._window if outstanding is None else outstanding
        return self.is_alive and self.waiting < waiting and self.outstanding < most

    def submit(self, request: Request) -> None:
        """Hand a request over. It comes back through the listener, even where the connection is gone by now."""
        try:
            self.start()
        except AppError as error:
            self._lose(error)
        loss = self._register(request, is_queued=True)
        if loss is not None:
            self._listener_of(request).lost([request], loss)

    def _register(self, request: Request, *, is_queued: bool) -> AppError | None:
        """From now on the request is under way; returns why it is not, where the connection is gone."""
        with self._lock:
            if self._error is None:
                self._ids += 1
                request.tries += 1
                request.sent_at = 0.0
                self._outstanding[self._ids] = request
                request.id = self._ids
                if is_queued:
                    self._line.put(request)
            return self._error

    def _listener_of(self, request: Request) -> Listener:
        return request.listener or self._listener

    def ask(self, request: Request, deadline: Deadline) -> tuple[Result, list[Array]]:
        """Hand a request over and wait for its answer: the result and the arrays of its outputs.

        Raises AppError: RefusedError where the cloud refuses, which leaves the connection as it was; after every other
        one the connection is gone, since what is still on its way would be taken for the next answer.
        """
        request.listener = reply = Reply()
        request.timeout_s = deadline.remaining()
        if request.departure is not None:
            self._ask_in_chunks(request, request.departure, reply, deadline)
        elif self._is_alone():
            try:
                self._ask_alone(request, reply, deadline)
            finally:
                self._turn.release()
        else:
            event = reply.expect()
            self.submit(request)
            if not event.wait(deadline.at - time.monotonic()):
                self._lose(deadline.passed())
        return reply.answer()

    def _ask_alone(self, request: Request, reply: Reply, deadline: Deadline) -> None:
        loss = self._register(request, is_queued=False)
        if loss is not None:
            raise loss
        try:
            self._send(request, deadline)
            while not reply.is_there:
                self._take(self.connection.receive(deadline))
        except AppError as error:
            self._lose(error)
        except BaseException:  # an interrupt leaves half a frame
            self._lose(PeerClosedError("it was interrupted here"))
            raise

    def _ask_in_chunks(self, request: Request, departure: Departure, reply: Reply, deadline: Deadline) -> None:
        event = reply.expect()
        try:
            self._depart(request, departure, reply, deadline)
            if not event.wait(deadline.at - time.monotonic()):
                raise deadline.passed()
        except AppError as error:
            self._lose(error)
            if not reply.is_there:  # it was never under way
                reply.lost([request], error)
        except BaseException:  # an interrupt: the rest of the boundary will not come
            self._lose(PeerClosedError("it was interrupted here"))
            raise

    def _depart(self, request: Request, departure: Departure, reply: Reply, deadline: Deadline) -> None:
        """Slices are made here, while the threads send those before and receive; no more of them once it has come back,
        as where it is refused. One boundary after the other: a cloud takes only a few at once."""
        if not self._departing.acquire(timeout=deadline.remaining()):
            raise deadline.passed()
        try:
            self.submit(request)
            for each in departure:
                if reply.is_there:
                    break
                deadline.remaining()
                self._line.put(_Chunk(request, each))
        finally:
            self._departing.release()

    def sending(self) -> tuple[int, float] | None:
        """Of the frame under way: bytes that the other side has acknowledged, and seconds since its first byte left."""
        frame_start, delivered = self._sending, self.connection.delivered_bytes
        if frame_start is None or (self._sent_until is not None and delivered >= self._sent_until):
            return None
        return max(0, delivered - frame_start[1]), time.perf_counter() - frame_start[0]

    @property
    def is_overdue(self) -> bool:
        """Whether some request has been under way for longer than it may: what is left of its time is what all tails
        that are out would take here, one after the other."""
        with self._lock:
            outstanding = list(self._outstanding.values())
        wait_s = patience_s(self._timeout_s, sum(request.here_s for request in outstanding))
        limit = time.perf_counter() - wait_s
        return any(0 < request.sent_at < limit for request in outstanding)

    def probe(self, frames: int, timeout_s: float) -> tuple[int, float] | None:
        """Measure the upload with frames back to back, given up as soon as a request wants to leave.

        Returns bytes and seconds between the first and the last of them, or None. Raises AppError where one cannot be
        sent, in which case nothing else can be.
        """
        self.start()
        with self._lock:
            self._ids += frames
            train = self._train = Train(self._ids - frames + 1)
        deadline = Deadline.after(timeout_s, "probe")
        payload = memoryview(bytes(TRAIN_BYTES))
        sent = 0
        while sent < frames and not self._outstanding and self.is_alive:
            self.connection.send_bytes(Probe(train.first + sent, 0), payload, deadline)
            sent += 1
        end = time.monotonic() + timeout_s
        while len(train.arrived) < sent and time.monotonic() < end and self.is_alive and not self._outstanding:
            time.sleep(0.001)
        self._train = None
        self.last_used = time.perf_counter()
        return train.rate()

    def ask_state(self, timeout_s: float, *, stays: bool = False) -> tuple[State, float] | None:
        """Ask the cloud how busy it is; returns that and the round trip in seconds, or None where no answer came.
        With `stays` it is told that this edge found no other one.

        Raises AppError where the question cannot be sent; without threads also where no answer comes, and then the
        connection is gone.
        """
        self._state = None
        self._has_state.clear()
        began = time.perf_counter()
        late = f"no STATUS answer from the cloud within {timeout_s:g} s (--timeout)"
        deadline = Deadline.after(timeout_s, late)
        if self._is_alone():
            try:
                self._ask_state_alone(deadline, Status(stays=stays))
            finally:
                self._turn.release()
        else:
            self.connection.send(Status(stays=stays), deadline)
            self._has_state.wait(timeout_s)
        return None if self._state is None else (self._state, time.perf_counter() - began)

    def _ask_state_alone(self, deadline: Deadline, status: Status) -> None:
        try:
            self.connection.send(status, deadline)
            while not self._has_state.is_set():
                self._take(self.connection.receive(deadline))
        except AppError as error:
            self._lose(error)
            raise
        self.last_used = time.perf_counter()

    def retire(self) -> bool:
        """Close the connection unless requests are under way; what is handed over from now on is MovedError's."""
        with self._lock:
            if self._outstanding:
                return False
            self._error = self._error or MovedError("this edge has moved to another connection")
            self._came_back.notify()
        self._end()
        return True

    def close(self, error: AppError | None = None) -> None:
        """Close the connection; requests without an answer are lost."""
        self._lose(error or PeerClosedError("the connection was closed locally"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(END_S)

    # --- threads

    def _send_all(self) -> None:
        while (item := self._line.get()) is not None:
            if isinstance(item, Request):
                self._await_window()
            if not self.is_alive:
                continue  # it was lost with the others
            try:
                self._leave(item, Deadline.after(SILENT_S, "a request"))
            except AppError as error:
                self._lose(error)
                return
            except Exception as error:  # or nothing would ever be sent again, without an error
                log.exception("internal error in the sender")
                self._lose(AppError(f"cannot send a request: {type(error).__name__}"))
                return

    def _await_window(self) -> None:
        """A cloud takes so many requests at once; another one would stop on the link, whose rate could not be told."""
        with self._came_back:
            self._came_back.wait_for(lambda: self._error is not None or self._travelled < self._window)

    @property
    def _travelled(self) -> int:
        return sum(request.sent_at > 0 for request in self._outstanding.values())

    def _leave(self, item: Request | _Chunk, deadline: Deadline) -> None:
        if isinstance(item, Request):
            self._send(item, deadline)
            return
        request, one = item.request, item.slice
        if request.id in self._outstanding:  # or it was refused
            message = Chunk(request.id, one.tensor, one.start)
            self.sent_bytes += self.connection.send(message, deadline, [one.packed])

    def _send(self, request: Request, deadline: Deadline) -> None:
        self.last_used = request.sent_at = time.perf_counter()
        if self._threads:  # or nobody looks at it meanwhile
            self._sending, self._sent_until = (request.sent_at, self.connection.delivered_bytes), None
        self._listener_of(request).departed(request)
        timeout_s = self._timeout_s if request.timeout_s is None else request.timeout_s
        sides = self._sides.missing(request.sides)
        names = " ".join(f"{side.kind}:{side.digest}" for side in sides)
        message = Infer(request.id, to_ranges(request.tail), timeout_s, request.model, names)
        if (departure := request.departure) is not None:
            message = replace(message, cuts=departure.cuts, rows=departure.rows, until=departure.until)
        data = [encode(np.frombuffer(side.data, np.uint8), ZSTD) for side in sides]
        self.sent_bytes += self.connection.send(message, deadline, [*request.travelling, *data])
        self._sent_until = self.connection.sent_bytes

    def _receive_all(self) -> None:
        try:
            while True:
                self._take(self.connection.receive(Deadline.after(SILENT_S, "no answer from the cloud")))
        except AppError as error:
            self._lose(error)
        except Exception as error:
            log.exception("internal error in the receiver")
            self._lose(AppError(f"cannot process the answer: {type(error).__name__}"))

    def _take(self, frame: Frame) -> None:
        _HANDLERS.get(frame.kind, MultiplexedClient._take_result)(self, frame)

    def _take_result(self, frame: Frame) -> None:
        result, arrays = frame.read(Result), frame.arrays()
        request = self._back(result.id)
        if not are_outputs(arrays, request.graph, request.tail):
            self._listener_of(request).lost([request], ProtocolError(NOT_ASKED))
            raise ProtocolError(NOT_ASKED)
        self._listener_of(request).answered(request, result, [np.asarray(array) for array in arrays])

    def _take_error(self, frame: Frame) -> None:
        error = from_header(Error, frame.header)
        if not error.id:
            raise refusal(error)  # it is about the connection
        if error.code == UnknownSideError.code:
            self._sides = Sent()  # whatever was wrong, the next request brings its own
        request = self._back(error.id)
        self._listener_of(request).refused(request, error)

    def _take_state(self, frame: Frame) -> None:
        self._state = frame.read(State)
        self.last_used = time.perf_counter()
        self._has_state.set()

    def _take_probed(self, frame: Frame) -> None:
        train, probe_id = self._train, frame.read(Probed).id
        if train is not None and probe_id >= train.first:
            train.arrived.append(time.perf_counter())

    def _back(self, request_id: int) -> Request:
        with self._lock:
            request = self._outstanding.pop(request_id, None)
            self._came_back.notify()
        if request is None:
            raise ProtocolError(f"the cloud answered request {request_id}, which is not pending")
        self.last_used = time.perf_counter()
        return request

    def _lose(self, error: AppError) -> None:
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            pending, self._outstanding = list(self._outstanding.values()), {}
            self._came_back.notify()
        self._end()
        log.info("connection lost: %s", printable(str(error), 300))
        for request in pending:
            if request.listener is not None:
                request.listener.lost([request], error)
        self._listener.lost([request for request in pending if request.listener is None], error)

    def _end(self) -> None:
        self.connection.close()
        self._line.put(None)


_CLIENTS: "weakref.WeakSet[MultiplexedClient]" = weakref.WeakSet()


def is_any_under_way() -> bool:
    """Whether a request of this process has no answer yet: what can wait then waits."""
    return any(client.outstanding for client in list(_CLIENTS))


_HANDLERS: dict[FrameType, Callable[[MultiplexedClient, Frame], None]] = {
    FrameType.ERROR: MultiplexedClient._take_error,
    FrameType.STATE: MultiplexedClient._take_state,
    FrameType.PROBED: MultiplexedClient._take_probed,
}
"""Every other frame has to be a RESULT."""
