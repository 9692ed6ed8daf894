"""A connection's bytes in one stream of gRPC, over TCP or TLS (docs/decisions/0038).

net.http2 says what the bytes of HTTP/2 mean, under a lock that is held for microseconds. They are read and written
outside it, by the threads that receive and send, as they are without gRPC; there are no others. Who receives answers
what HTTP/2 itself asks (a ping, say), as far as that needs no waiting; the rest leaves with what is sent next. Who
sends and has to wait for room reads what comes meanwhile, as far as it was given room: nobody waits for ever.
"""

import contextlib
import errno
import threading
import time
from collections import deque

from edgecloud.net.calls import Service
from edgecloud.net.http2 import Exchange, Http2Error
from edgecloud.net.messages import Error
from edgecloud.net.transport import Transport
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, PeerClosedError

INBOX_BYTES = 256 << 10
TURN_S = 0.05  # how soon a thread that waits for room notices that the other one does not read any more


class Stream:
    """A transport that is a stream of gRPC in another one. Sending and receiving are for one thread each."""

    has_own_end = True

    def __init__(self, raw: Transport, exchange: Exchange) -> None:
        self._raw, self._exchange = raw, exchange
        self._moved = threading.Condition()  # the exchange is not for two threads at once
        self._sends, self._receives = threading.Lock(), threading.Lock()
        self._inbox = memoryview(bytearray(INBOX_BYTES))
        self._is_at_end = False
        self._pending: deque[tuple[memoryview, bool]] = deque()  # with whether it is of those that are sent for others
        self._pending_bytes = 0  # of those

    # --- of the cloud, before anything else

    def shake(self, deadline: Deadline) -> None:
        """Wait for the call. Raises what is wrong with it; PeerClosedError also where it was a health check, which has
        been answered; OSError and DeadlineError."""
        exchange = self._exchange
        assert isinstance(exchange, Service)  # those who call do not wait
        while not exchange.is_open:
            if exchange.is_health_check:
                raise PeerClosedError("a health check")
            if exchange.failure is not None:
                raise exchange.failure
            if self._is_at_end:
                raise PeerClosedError("the other side closed the connection before it called")
            self._fill(deadline.remaining())
            self._answer()

    @property
    def is_called(self) -> bool:
        """Whether there is a stream."""
        return self._exchange.stream > 0

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._exchange.is_over

    # --- of the thread that sends

    def send(self, parts: list[memoryview], seconds: float) -> int:
        """Send some of these bytes; returns how many. Who calls goes on with those that were not counted."""
        end = time.monotonic() + seconds
        with self._sends:
            if not self._pending_bytes:
                self._pack(parts, end)
            taken = self._push(max(0.0, end - time.monotonic()))
            self._flush()
        self._answer()
        return taken

    def _pack(self, parts: list[memoryview], end: float) -> None:
        while True:
            with self._moved:
                if self._exchange.is_over or not self._exchange.is_open:
                    raise BrokenPipeError(errno.EPIPE, "the stream has ended")
                packed = self._exchange.pack(parts)
                if packed:
                    self._take_owed()
                    self._pending += packed
                    self._pending_bytes = sum(piece.nbytes for piece, is_theirs in packed if is_theirs)
                    return
            self._flush()
            self._await_room(end)

    def _await_room(self, end: float) -> None:
        left = min(TURN_S, end - time.monotonic())
        if left <= 0:
            raise TimeoutError
        if not self._receives.acquire(blocking=False):  # somebody reads
            with self._moved:
                self._moved.wait_for(lambda: self._exchange.has_room or self._exchange.is_over, left)
            return
        try:
            self._keep(left)
        finally:
            self._receives.release()

    def _keep(self, seconds: float) -> None:
        """Read what comes, in the place of the thread that receives. There is never more than was given room."""
        with contextlib.suppress(TimeoutError, BlockingIOError):
            self._fill(seconds)
        if self._is_at_end:
            raise BrokenPipeError(errno.EPIPE, "the other side closed the connection")

    def _push(self, seconds: float) -> int:
        """Send some of what waits; returns how many bytes of others."""
        sent = self._raw.send([piece for piece, _ in self._pending], seconds) if self._pending else 0
        theirs = 0
        while sent:
            piece, is_theirs = self._pending.popleft()
            size = min(sent, piece.nbytes)
            theirs += size if is_theirs else 0
            sent -= size
            if size < piece.nbytes:
                self._pending.appendleft((piece[size:], is_theirs))
        self._pending_bytes -= theirs
        return theirs

    def _take_owed(self) -> None:
        if self._exchange.owed:
            self._pending.append((memoryview(bytes(self._exchange.owed)), False))
            self._exchange.owed.clear()

    def _flush(self) -> bool:
        """Send what is owed, as far as that needs no waiting, and nothing of others', which would not be counted.
        Returns whether all is sent."""
        if self._pending_bytes:
            return False
        try:
            self._push_all()
            with self._moved:
                self._take_owed()
            self._push_all()
        except OSError:  # whoever sends or receives next learns of it
            return False
        return True

    def _push_all(self) -> None:
        while self._pending:
            self._push(0)

    def _answer(self) -> None:
        """Have what is owed sent: here, or by who sends now."""
        is_sent = True
        while is_sent and self._exchange.owed and self._sends.acquire(blocking=False):
            try:
                is_sent = self._flush()
            finally:
                self._sends.release()

    def farewell(self, seconds: float, why: Error | None = None) -> None:
        """End this direction; the other one goes on."""
        end = time.monotonic() + seconds
        with self._sends:
            with self._moved:
                self._exchange.farewell(why)
                self._take_owed()
            while self._pending:
                self._push(max(0.0, end - time.monotonic()))
        if self._exchange.is_over:  # else the other side goes on, and would take the end of TLS for that of everything
            self._raw.farewell(max(0.0, end - time.monotonic()))

    # --- of the thread that receives

    def receive(self, into: memoryview, seconds: float) -> int | None:
        """Receive some bytes; 0 at the end of the stream, None where what came makes none. Raises OSError, and why the
        stream has ended where that was not in good order."""
        if not self._receives.acquire(timeout=seconds):
            raise TimeoutError
        try:
            got = self._take(into)
            if got is None:
                self._fill(seconds)
                got = self._take(into)
        finally:
            self._receives.release()
        self._answer()
        return got

    def _take(self, into: memoryview) -> int | None:
        """Bytes that are there; None where there are none yet."""
        exchange = self._exchange
        with self._moved:
            got = exchange.read(into) if exchange.has_bytes else 0
            if got:
                return got
        if exchange.last_words:
            got = min(len(exchange.last_words), into.nbytes)
            into[:got] = exchange.last_words[:got]
            exchange.last_words = exchange.last_words[got:]
            return got
        if exchange.failure is not None:
            raise exchange.failure
        return 0 if exchange.is_ended or self._is_at_end else None

    def _fill(self, seconds: float) -> None:
        """Read some bytes, and have them taken. Raises OSError, and what they mean where they are not right."""
        if self._is_at_end:
            return
        got = self._raw.receive(self._inbox, seconds)
        self._is_at_end = got == 0
        if not got:
            return
        with self._moved:
            try:
                self._exchange.feed(self._inbox[:got], time.monotonic())
            except Http2Error as error:
                self._exchange.go_away(error)
                self._is_at_end = True
                raise
            finally:
                self._moved.notify_all()

    def has_left(self) -> bool:
        """Whether the other side has closed, or given the stream up; what it has sent stays unread."""
        if self._receives.acquire(blocking=False):
            try:
                self._keep(0)
            except (AppError, OSError):
                return True
            finally:
                self._receives.release()
            self._answer()
        exchange = self._exchange
        return exchange.is_over or ((exchange.is_ended or self._is_at_end) and not exchange.has_bytes)
