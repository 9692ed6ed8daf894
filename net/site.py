"""A few pages over HTTP: one thread, limits on everything that comes, and streams that no slow reader holds up.

A visitor has a few seconds to ask and to take the answer. A stream of events gets at most one frame at a time: a reader
that has not taken the last one gets no other until it has, and one that takes nothing for a while is left.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from edgecloud.net.http import HEAD_BYTES, METHODS, BadRequestError, Reply, Request, parse, to_bytes
from edgecloud.net.pacing import Bucket

log = logging.getLogger(__name__)

BACKLOG = 128
STAY_S = 5.0  # from coming to having asked, and from then on without taking anything of the answer
MOST_S = 120.0  # for all of it
LEAVE_S, DROPPED_BYTES = 1.0, 64 << 10  # for what a visitor still sends after that
TICK_S = 0.5  # between two looks at what is new, for streams
SLOW_S = 20.0  # in which a stream's frame has to be taken
BEAT_S = 10.0  # an empty line, so that a stream that nobody reads any more is noticed
ACCEPTS_PER_S = 200.0
READ_BYTES = 4 << 10
NO_DESCRIPTORS_S = 0.1
SENT_AHEAD_BYTES = 128 << 10  # that the system keeps of one answer
BEAT = b":\n\n"

Frames = Callable[[], bytes | None]
"""What a stream sends next; None: nothing is new."""


@dataclass(frozen=True)
class Rules:
    """What a site takes."""

    name: str
    """As its log says."""
    methods: tuple[str, ...] = METHODS
    places: int = 64
    """Visitors at once, those of streams not counted; one that has not asked makes room for the next."""
    streams: int = 32
    requests_per_s: float = 50.0
    """Of all visitors together; further ones are told to come later."""


@dataclass(eq=False)
class _Visitor:
    sock: socket.socket
    until: float
    request: bytearray = field(default_factory=bytearray)
    rest: memoryview = field(default_factory=lambda: memoryview(b""))
    """What is still to be sent."""
    has_asked: bool = False
    leaves_at: float = float("inf")
    """Whatever it takes until then; a stream stays."""
    is_leaving: bool = False
    dropped: int = 0
    frames: Frames | None = None
    """Of a stream."""
    beat_at: float = 0.0


class Site:
    """Serves `answer`, which is called by one thread and must not wait; a stream where its reply has `frames`."""

    def __init__(self, listeners: Sequence[socket.socket], answer: Callable[[Request], Reply], rules: Rules) -> None:
        self._listeners, self._answer_to, self._rules = listeners, answer, rules
        self._visitors: dict[_Visitor, None] = {}  # in the order of their coming
        self._selector = selectors.DefaultSelector()
        self._wake, self._wakeup = socket.socketpair()
        self._is_stopping = False
        self._accepts, self._requests = Bucket(ACCEPTS_PER_S), Bucket(rules.requests_per_s)
        self._accept_at = self._tick_at = 0.0
        self._thread: threading.Thread | None = None
        for sock in (*listeners, self._wakeup):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def start(self) -> None:
        """Serve in a thread of its own, which does not keep the process alive."""
        self._thread = threading.Thread(target=self.serve, name=self._rules.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End serving, and wait for that."""
        self._is_stopping = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread is not None:
            self._thread.join()

    @property
    def thread_id(self) -> int | None:
        """Of the thread, as the system counts them; None before `start`."""
        return None if self._thread is None else self._thread.native_id

    @property
    def streams(self) -> int:
        """Open streams."""
        return sum(visitor.frames is not None for visitor in list(self._visitors))

    def serve(self) -> None:
        """Answer until stopped."""
        while not self._is_stopping:
            for key, events in self._selector.select(self._wait_s()):
                if key.fileobj in self._listeners:
                    self._accept(key.fileobj)  # type: ignore[arg-type]  # a socket of ours
                elif isinstance(key.data, _Visitor) and key.data in self._visitors:
                    self._guarded(key.data, partial(self._serve_visitor, events=events))
            self._look_after_all(time.monotonic())
        for visitor in list(self._visitors):
            self._close(visitor)
        self._selector.close()
        for sock in (*self._listeners, self._wake, self._wakeup):
            sock.close()

    def _wait_s(self) -> float | None:
        if not self._visitors:
            return None
        now = time.monotonic()
        ends = [min(visitor.until for visitor in self._visitors)]
        if self.streams:
            ends.append(self._tick_at)
        return max(0.0, min(ends) - now)

    def _look_after_all(self, now: float) -> None:
        """Send what is new, and leave those whose time is over."""
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            for visitor in [one for one in self._visitors if one.frames is not None]:
                self._guarded(visitor, self._send_next)
        for visitor in [one for one in self._visitors if one.until <= now]:
            if not visitor.has_asked:
                with contextlib.suppress(OSError):
                    visitor.sock.send(to_bytes(Reply(408)))
            self._close(visitor)

    def _guarded(self, visitor: _Visitor, serve: Callable[[_Visitor], None]) -> None:
        try:
            serve(visitor)
        except BlockingIOError:
            return
        except OSError:
            self._close(visitor)
        except Exception:
            log.exception("! %s: internal error", self._rules.name)
            self._close(visitor)

    def _accept(self, listener: socket.socket) -> None:
        now = time.monotonic()
        if now < self._accept_at:
            time.sleep(self._accept_at - now)  # the others wait to be accepted
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("cannot accept a connection for the %s: %s", self._rules.name, error)
            time.sleep(NO_DESCRIPTORS_S)
            return
        others = [one for one in self._visitors if one.frames is None]
        if len(others) >= self._rules.places:
            self._close(next((one for one in others if not one.has_asked), others[0]))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD_BYTES)
        visitor = _Visitor(sock, now + STAY_S)
        self._visitors[visitor] = None
        self._selector.register(sock, selectors.EVENT_READ, visitor)
        self._accept_at = now + self._accepts.pay(1, now)

    def _serve_visitor(self, visitor: _Visitor, events: int) -> None:
        if visitor.frames is not None:
            if events & selectors.EVENT_READ:
                self._drop(visitor)
            if events & selectors.EVENT_WRITE and visitor in self._visitors:
                self._send(visitor)
        elif visitor.is_leaving:
            self._drop(visitor)
        elif visitor.has_asked:
            self._send(visitor)
        else:
            self._listen_to(visitor)

    def _listen_to(self, visitor: _Visitor) -> None:
        got = visitor.sock.recv(READ_BYTES)
        visitor.request += got
        if not got:
            self._close(visitor)
            return
        try:
            request = parse(bytes(visitor.request), self._rules.methods)
        except BadRequestError as error:
            self._reply(visitor, error.reply)
            return
        if request is not None:
            self._answer(visitor, request)
        elif len(visitor.request) > 2 * HEAD_BYTES:
            self._reply(visitor, Reply(431))

    def _answer(self, visitor: _Visitor, request: Request) -> None:
        now = time.monotonic()
        if self._requests.pay(1, now):
            self._requests.pay(-1, now)
            self._reply(visitor, Reply(429), has_body=request.method != "HEAD")
            return
        try:
            reply = self._answer_to(request)
        except Exception:
            log.exception("! %s: internal error", self._rules.name)
            reply = Reply(500)
        if reply.frames is not None and self.streams >= self._rules.streams:
            reply = Reply(503)
        if reply.frames is not None and request.method == "GET":
            visitor.frames, visitor.beat_at = reply.frames, now + BEAT_S
            self._tick_at = now
        self._reply(visitor, reply, has_body=request.method != "HEAD")

    def _reply(self, visitor: _Visitor, reply: Reply, *, has_body: bool = True) -> None:
        visitor.has_asked = True
        if visitor.frames is None:
            visitor.leaves_at = time.monotonic() + MOST_S
        self._put(visitor, to_bytes(reply, has_body=has_body), STAY_S)

    def _put(self, visitor: _Visitor, data: bytes, seconds: float) -> None:
        visitor.until = time.monotonic() + seconds
        visitor.rest = memoryview(data)
        self._send(visitor)

    def _send_next(self, visitor: _Visitor) -> None:
        """A stream's next frame, if it has taken the last one and there is another."""
        if visitor.rest or visitor.frames is None:
            return
        data, now = visitor.frames(), time.monotonic()
        if data is None and now < visitor.beat_at:
            return
        visitor.beat_at = now + BEAT_S
        self._put(visitor, data or BEAT, SLOW_S)

    def _send(self, visitor: _Visitor) -> None:
        is_stream = visitor.frames is not None
        with contextlib.suppress(BlockingIOError):
            visitor.rest = visitor.rest[visitor.sock.send(visitor.rest) :] if visitor.rest else visitor.rest
            visitor.until = min(visitor.leaves_at, time.monotonic() + (SLOW_S if is_stream else STAY_S))
        reads = selectors.EVENT_READ if is_stream else 0
        if visitor.rest:
            self._selector.modify(visitor.sock, reads | selectors.EVENT_WRITE, visitor)
        elif is_stream:
            visitor.until = time.monotonic() + SLOW_S + BEAT_S
            self._selector.modify(visitor.sock, reads, visitor)
        else:  # closing with unread bytes would reset the connection, and lose what is on its way
            visitor.sock.shutdown(socket.SHUT_WR)
            visitor.is_leaving, visitor.until = True, time.monotonic() + LEAVE_S
            self._selector.modify(visitor.sock, selectors.EVENT_READ, visitor)

    def _drop(self, visitor: _Visitor) -> None:
        """What comes after the request is read and forgotten."""
        got = len(visitor.sock.recv(READ_BYTES))
        visitor.dropped += got
        if not got or visitor.dropped > DROPPED_BYTES:
            self._close(visitor)

    def _close(self, visitor: _Visitor) -> None:
        if visitor in self._visitors:
            del self._visitors[visitor]
            self._selector.unregister(visitor.sock)
            visitor.sock.close()
