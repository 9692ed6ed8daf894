"""One TCP connection that carries frames: whole frames or an error, with a deadline on every wait."""

import contextlib
import fcntl
import math
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecloud.net import plain_pickle, tensors
from edgecloud.net.endpoints import dial
from edgecloud.net.frames import PREFIX_BYTES, FrameType, Limits, Prefix, pack_prefix, parse_start
from edgecloud.net.messages import Error, M, Message, Move, from_header, to_header
from edgecloud.net.refusals import refusal
from edgecloud.net.transport import Plain, Transport
from edgecloud.utils import addresses, defaults
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, HandshakeLostError, PeerClosedError, ProtocolError
from edgecloud.utils.extras import require

if TYPE_CHECKING:  # else imported where TLS is used
    import ssl

    from edgecloud.net.tls import ClientTls

BURST_BYTES = 16 * 1024  # what a shaped link lets through at once; it says nothing about the rate
CHECKED_S = 1.0  # how long who has asked for our health may take to leave
CONNECT_S = 5.0  # how long an edge waits for a cloud to take its connection
DROPPED_BYTES, REFUSED_READS = 64 << 10, 16  # of a read that is dropped; how many when a peer is refused
PATIENCE_S = 5.0  # how long a frame may be slower than the minimum rate


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has arrived: its header is plain data, its payload a buffer of its own."""

    kind: FrameType
    header: Any
    payload: memoryview
    limits: Limits
    header_bytes: int = 0
    received_s: float = 0.0
    """From its first byte to its last ..."""
    timed_bytes: int = 0
    """... and without the burst that a shaped link lets through at once: how many bytes came behind it ..."""
    timed_s: float = 0.0
    """... in how many seconds."""
    at: float = 0.0
    """When its last byte was read, by time.monotonic."""
    is_awaited: bool = False
    """Whether its first byte was waited for, so that it came when it was read ..."""
    is_followed: bool = False
    """... and whether its last one was."""

    def read(self, message: type[M]) -> M:
        """The message, where it is of this kind.

        Raises ProtocolError where it is of another or has other fields, and an ERROR as what it means here.
        """
        if self.kind is FrameType.ERROR:
            raise refusal(from_header(Error, self.header))
        if self.kind is not message.TYPE:
            raise ProtocolError(f"expected {message.TYPE.name}, got {self.kind.name}")
        return from_header(message, self.header)

    def passing(self) -> tensors.Passing:
        """The tensors as they came, to be sent on."""
        return tensors.Passing.of(self.header, self.payload)

    def described(self) -> list[tensors.Described]:
        """The tensors as they are described; nothing is decoded. Raises ProtocolError."""
        return tensors.read(self.header, self.payload, self.limits)

    def arrays(self) -> list[tensors.Array]:
        """The tensors, each of its described shape: raw ones as views of the payload. Raises ProtocolError."""
        return tensors.view(self.header, self.payload, self.limits)


@dataclass
class Connection:
    """A connected socket, and how much has come over it, without what TLS adds."""

    sock: socket.socket
    limits: Limits = field(default_factory=Limits)
    min_bytes_per_s: float = 1000.0
    min_taken_per_s: float = 0.0
    """How fast the other side has to take what is sent; 0: as it likes, until the deadline."""
    received_bytes: int = 0
    sent_bytes: int = 0
    """What the kernel has taken."""
    place: str = ""
    """What it was opened to, as that was given; empty on the side that listens."""
    on_move: Callable[[Move], None] | None = None
    """Is told of a MOVE, which may come between any two frames; None: it is a frame like all others."""
    is_grpc: bool = False
    """Whether the other side has to begin with a call of gRPC; so it is refused in those words."""

    def __post_init__(self) -> None:
        self._plain = Plain(self.sock)
        self._transport: Transport = self._plain
        self._sending = threading.Lock()
        self._is_cut = False

    def secure(self, context: "ssl.SSLContext", deadline: Deadline, server_hostname: str | None = None) -> None:
        """From now on everything travels in TLS: agree on that, as a cloud or, given its name, with one.

        Raises ClosedAtBoundaryError where the other side came to say nothing, PlainPeerError where it speaks without.
        """
        from edgecloud.net.tls import PlainPeerError, Secure

        secure = Secure(self._plain, context, server_hostname)
        self._is_cut = True  # no frame may leave before
        try:
            secure.shake(deadline)
        except PlainPeerError as error:
            self._is_cut = False  # it understands what we say without
            self.is_grpc = self.is_grpc and error.is_http2
            raise
        except PeerClosedError as error:
            raise error if secure.has_heard else ClosedAtBoundaryError(str(error)) from None
        except OSError as error:
            raise _lost(error, deadline) from None
        self._transport, self._is_cut = secure, False

    def call(self, authority: str) -> None:
        """From now on everything travels in a stream of gRPC: call the cloud of this name, HOST:PORT. The call leaves
        with the first message, and what becomes of it is said when something is received."""
        from edgecloud.net.calls import Caller
        from edgecloud.net.streams import Stream

        is_secure = self._transport is not self._plain
        self._transport = Stream(self._transport, Caller(authority, is_secure=is_secure))

    def take_call(self, deadline: Deadline, *, is_serving: bool = True) -> None:
        """The same for a cloud: wait for the call. `is_serving` is what a health check of gRPC is told.

        Raises ClosedAtBoundaryError where the other side left, or wanted no more than that, and ProtocolError.
        """
        from edgecloud.net.calls import Service, TransportError
        from edgecloud.net.streams import Stream

        stream = Stream(self._transport, Service(is_serving=is_serving))
        try:
            stream.shake(deadline)
        except TransportError:
            self.is_grpc = False  # so it understands
            raise
        except PeerClosedError as error:
            if stream.is_called:  # a health check
                self._transport, self.is_grpc = stream, False
                self.end(CHECKED_S)
            raise ClosedAtBoundaryError(str(error)) from None
        except OSError as error:
            raise _lost(error, deadline) from None
        except ProtocolError:
            if stream.is_called:  # of another method, say, and that was answered
                self._transport, self.is_grpc = stream, False
            raise
        self._transport, self.is_grpc = stream, False

    @property
    def peer(self) -> tuple[str, int] | None:
        """The address of the other side, which needs no name server; None where it is gone."""
        try:
            host, port = self.sock.getpeername()[:2]
        except (OSError, ValueError):
            return None
        return str(host), int(port)

    def allow_duplex(self) -> None:
        """From now on one thread may send while another receives. The receiving thread learns why the other side has
        closed; the sending one does not ask. Raises AppError where there are no more file descriptors."""
        if not self._plain.is_duplex:
            try:
                self._plain.allow_duplex()
            except OSError as error:  # out of file descriptors
                raise AppError(f"cannot answer while receiving: {error.strerror or error}") from None

    def send(
        self,
        message: Message,
        deadline: Deadline,
        arrays: Sequence[tensors.Array | tensors.Encoded] | tensors.Passing = (),
    ) -> int:
        """Send a message with tensors of any shape; returns the bytes of its payload.

        Raises DeadlineError; SlowError where it is taken more slowly than `min_taken_per_s`; PeerClosedError, or what
        the other side says why it has closed; ProtocolError for more than the limits, of which nothing is sent.
        """
        description, buffers = tensors.describe(arrays) if arrays else ({}, [])
        return self._send_frame(message, description, buffers, deadline)

    def send_bytes(self, message: Message, payload: memoryview, deadline: Deadline) -> int:
        """Send a message whose payload has no meaning, only a size; returns that, and raises what `send` does."""
        return self._send_frame(message, {}, [payload], deadline)

    def _send_frame(
        self, message: Message, description: dict[str, Any], buffers: list[memoryview], deadline: Deadline
    ) -> int:
        header = plain_pickle.dumps(to_header(message) | description)
        most = self.limits.header_of(message.TYPE)
        if len(header) > most:
            raise ProtocolError(f"cannot send a header of {len(header)} bytes, the limit is {most}")
        payload_bytes = sum(buffer.nbytes for buffer in buffers)
        if payload_bytes > self.limits.payload_bytes:
            raise ProtocolError(f"cannot send {payload_bytes} bytes, the limit is {self.limits.payload_bytes}")
        prefix = pack_prefix(message.TYPE, len(header), payload_bytes)
        if not self._sending.acquire(timeout=deadline.remaining()):
            raise deadline.passed()
        try:
            self._send_all([memoryview(prefix + header), *buffers], deadline)
        finally:
            self._sending.release()
        return payload_bytes

    def _send_all(self, parts: list[memoryview], deadline: Deadline) -> None:
        """At once, as far as the kernel takes it; the rest in further calls."""
        parts = [part for part in parts if part.nbytes]
        if self._is_cut:
            raise PeerClosedError("a frame was sent only partially; the connection is unusable")
        self._is_cut = True  # until all of it is sent
        began, before = time.monotonic(), self.delivered_bytes if self.min_taken_per_s else 0
        while parts:
            left = deadline.remaining()
            try:
                sent = self._transport.send(parts, min(left, PATIENCE_S) if self.min_taken_per_s else left)
            except OSError as error:
                if not self._is_only_slow(error, deadline):
                    failure = _lost(error, deadline)
                    raise (failure if self._plain.is_duplex else self._refusal_or(failure)) from None
                sent = 0
            self.sent_bytes += sent
            self._check_taken(time.monotonic() - began, before)
            while parts and sent >= parts[0].nbytes:
                sent -= parts.pop(0).nbytes
            if sent:
                parts[0] = parts[0][sent:]
        self._is_cut = False

    def _is_only_slow(self, error: OSError, deadline: Deadline) -> bool:
        """Whether nothing was taken for a moment, and there is time left."""
        is_ours = isinstance(error, TimeoutError) and error.errno is None
        return bool(self.min_taken_per_s) and is_ours and time.monotonic() < deadline.at

    def _check_taken(self, elapsed_s: float, before: int) -> None:
        """Whether the other side takes what is sent; what counts is what it has acknowledged, not what waits here."""
        if elapsed_s > PATIENCE_S and self.min_taken_per_s:
            taken = self.delivered_bytes - before
            if taken < self.min_taken_per_s * (elapsed_s - PATIENCE_S):
                raise SlowError(f"the peer reads slower than {self.min_taken_per_s:.0f} bytes/s")

    def _refusal_or(self, failure: AppError) -> AppError:
        """Why the other side has closed while we were sending: it may have said so."""
        if isinstance(failure, PeerClosedError):
            try:
                frame = self.receive(Deadline.after(1.0, "a refusal"))
                if frame.kind is FrameType.ERROR:
                    return refusal(from_header(Error, frame.header))
            except ConnectError as error:  # so has TLS
                return error
            except AppError:
                pass
        return failure

    def receive(self, deadline: Deadline, frame_s: float | None = None, *, is_unauthenticated: bool = False) -> Frame:
        """Wait for the next frame until the deadline; once it has begun it may be given another `frame_s` seconds.

        From an unauthenticated client only the short frames that open a conversation are read: no memory is for the
        others. Raises PeerClosedError, as ClosedAtBoundaryError where the end came between frames; DeadlineError;
        ProtocolError for bytes that are no frame within the limits, before memory is taken for them, and as SlowError
        for a frame that comes more slowly than `min_bytes_per_s`.
        """
        frame = self._receive(deadline, frame_s, is_unauthenticated=is_unauthenticated)
        while frame.kind is FrameType.MOVE and self.on_move is not None:
            self.on_move(frame.read(Move))
            frame = self._receive(deadline, frame_s)
        return frame

    def hear(self, deadline: Deadline) -> Frame | None:
        """The next frame, if one has come that nobody has read; of a MOVE `on_move` is told instead. Raises what
        `receive` does."""
        start = memoryview(bytearray(PREFIX_BYTES))
        while self.has_news():
            got = self._receive_some(start, deadline)
            if got is None:  # what TLS or HTTP/2 say to each other
                continue
            if not got:  # the next request meets it
                break
            frame = self._receive_rest(start, got, deadline)
            if frame.kind is not FrameType.MOVE or self.on_move is None:
                return frame
            self.on_move(frame.read(Move))
        return None

    def has_news(self) -> bool:
        """Whether bytes have come that nobody has read; not: the end."""
        try:
            self.sock.settimeout(0)
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:  # also: nothing has come
            return False

    def _receive(self, deadline: Deadline, frame_s: float | None, *, is_unauthenticated: bool = False) -> Frame:
        start = memoryview(bytearray(PREFIX_BYTES))
        is_awaited = not self._has_come()
        while (got := self._receive_some(start, deadline)) is None:
            pass
        if not got:
            raise ClosedAtBoundaryError("the other side closed the connection")
        inside = deadline if frame_s is None else Deadline.after(frame_s, "no complete frame received")
        return self._receive_rest(start, got, inside, is_unauthenticated=is_unauthenticated, is_awaited=is_awaited)

    def _receive_rest(
        self,
        start: memoryview,
        got: int,
        inside: Deadline,
        *,
        is_unauthenticated: bool = False,
        is_awaited: bool = False,
    ) -> Frame:
        """A frame of whose start so many bytes have come; whether somebody had waited for it."""
        progress = _Progress(time.monotonic(), self.received_bytes, is_followed=is_awaited)
        while True:  # whoever speaks something else need not say all of it
            prefix = parse_start(start[:got], self.limits)
            if is_unauthenticated:
                _check_opening(prefix)
            if got == PREFIX_BYTES:
                break
            got += self._receive_part(start[got:], inside, progress)
        header = memoryview(bytearray(prefix.header_bytes))
        self._receive_all(header, inside, progress)
        fields = plain_pickle.loads(bytes(header))
        try:
            payload = np.empty(prefix.payload_bytes, np.uint8).data
        except MemoryError:  # within the limit of a frame, but others have theirs
            raise NoMemoryError(f"not enough memory for {prefix.payload_bytes} bytes, try again later") from None
        self._receive_all(payload, inside, progress)
        now = time.monotonic()
        burst = (self.received_bytes - progress.burst_bytes, now - progress.burst_at) if progress.burst_at else (0, 0.0)
        times = (now - progress.at, *burst, now, is_awaited, progress.is_followed)
        return Frame(prefix.kind, fields, payload, self.limits, prefix.header_bytes, *times)

    def _has_come(self) -> bool:
        """Whether something can be received without waiting."""
        waiting = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # the latter where it is closed
            fcntl.ioctl(self.sock, termios.FIONREAD, waiting)
        return any(waiting)

    def _receive_all(self, into: memoryview, deadline: Deadline, since: "_Progress") -> None:
        received = 0
        while received < into.nbytes:
            received += self._receive_part(into[received:], deadline, since)

    def _receive_part(self, into: memoryview, deadline: Deadline, since: "_Progress") -> int:
        """Receive some bytes inside a frame; returns how many."""
        got = self._receive_some(into, deadline)
        if got == 0:
            raise PeerClosedError("the other side closed the connection inside a frame")
        since.is_followed |= got is None or got < into.nbytes  # nothing was left to be read
        elapsed = time.monotonic() - since.at
        arrived = self.received_bytes - since.received_bytes
        if arrived >= BURST_BYTES and not since.burst_at:
            since.burst_at, since.burst_bytes = since.at + elapsed, self.received_bytes
        if elapsed > PATIENCE_S and arrived < self.min_bytes_per_s * (elapsed - PATIENCE_S):
            raise SlowError(f"slower than {self.min_bytes_per_s:.0f} bytes/s")
        return got or 0

    def _receive_some(self, into: memoryview, deadline: Deadline) -> int | None:
        left = deadline.remaining()
        try:
            got = self._transport.receive(into, left)
        except OSError as error:
            raise _lost(error, deadline) from None
        self.received_bytes += got or 0
        return got

    @property
    def delivered_bytes(self) -> int:
        """What the other side's kernel has acknowledged, where this system tells; else what ours has taken."""
        waiting = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # the latter where it is closed
            fcntl.ioctl(self._plain.out, termios.TIOCOUTQ, waiting)
        return self.sent_bytes - int.from_bytes(waiting, sys.byteorder)

    def peer_has_left(self) -> bool:
        """Whether the other side has closed; what it has sent stays unread."""
        return self._transport.has_left()

    def refuse(self, error: Error, seconds: float) -> None:
        """Send a refusal and close in good order, in at most `seconds` and a megabyte of what the peer still sends."""
        deadline = Deadline.after(seconds, "a refusal")
        with contextlib.suppress(AppError, OSError):
            if self.is_grpc and not self._is_cut:
                self._transport.send([memoryview(refusal_of(error, is_grpc=True))], deadline.remaining())
            elif not self._transport.is_over:
                self.send(error, deadline)
        with contextlib.suppress(AppError, OSError):
            self._drop_rest(deadline, REFUSED_READS, error)
        self.close()

    def leave(self) -> None:
        """The other side sends no more: say, where the transport has words for it, that this side does not either."""
        if self._transport.has_own_end:
            self.end(CHECKED_S)

    def end(self, seconds: float) -> None:
        """Close in good order: what was sent arrives, what the other side still sends is dropped for `seconds`."""
        with contextlib.suppress(AppError, OSError):
            self._drop_rest(Deadline.after(seconds, "the end"), math.inf)
        self.close()

    def _drop_rest(self, deadline: Deadline, most_reads: float, why: Error | None = None) -> None:
        """Send no more, and drop what the other side still sends, until it closes or the deadline. Closing with unread
        bytes would reset the connection, and lose what is on its way."""
        if not self._is_cut:
            self._transport.farewell(deadline.remaining(), why)
        self.sock.shutdown(socket.SHUT_WR)
        scratch = memoryview(bytearray(DROPPED_BYTES))
        reads = 0
        while reads < most_reads and self._plain.receive(scratch, deadline.remaining()):
            reads += 1

    def close(self) -> None:
        """Close both directions; a thread that waits on the socket wakes up."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self._plain.out.close()  # the same one, or its twin


def refusal_of(error: Error, *, is_grpc: bool) -> bytes:
    """The bytes of a refusal for a client that has not been heard yet."""
    if is_grpc:
        from edgecloud.net import calls

        return calls.refusal(error)
    header = plain_pickle.dumps(to_header(error))
    return pack_prefix(Error.TYPE, len(header), 0) + header


@dataclass(slots=True)
class _Progress:
    """When a frame began, and what the connection had received by then; the same for the end of a burst."""

    at: float
    received_bytes: int
    burst_at: float = 0.0
    burst_bytes: int = 0
    is_followed: bool = False
    """Whether all that had come was read at some moment, so that the rest was read as it came."""


def _check_opening(prefix: Prefix) -> None:
    if prefix.kind not in (FrameType.HELLO, FrameType.STATUS, FrameType.OFFER):
        raise ProtocolError("the first message must be HELLO, STATUS or OFFER")


class ClosedAtBoundaryError(PeerClosedError):
    """The other side closed between two frames, which is how a connection ends in good order."""


class NoMemoryError(AppError):
    """This machine has no memory for a frame now."""

    code = "BUSY"
    retry_after_s = 1.0


class SlowError(ProtocolError):
    """A frame comes too slowly."""

    code = "DEADLINE"


def _lost(error: OSError, deadline: Deadline) -> AppError:
    """What an error of the socket means. A time-out of ours has no number, one of TCP has."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return deadline.passed()
    ssl = sys.modules.get("ssl")  # nobody else imports it
    if ssl is not None and isinstance(error, ssl.SSLError):
        from edgecloud.net.tls import explain

        return explain(error)
    return PeerClosedError(f"connection failed: {error.strerror or error}")


def connect(
    host: str,
    port: int,
    timeout_s: float,
    limits: Limits | None = None,
    tls: "ClientTls | None" = None,
    transport: str = defaults.Cloud.TRANSPORT,
) -> Connection:
    """Open a connection, with TLS where that is given, as a stream of gRPC where the transport is `grpc`. Raises
    ConnectError that says what to do, as HandshakeLostError where a connection was taken and came to nothing."""
    place = addresses.show(host, port)
    deadline = Deadline.after(
        timeout_s, f"the cloud at {place} did not complete the TLS handshake within {timeout_s:g} s"
    )
    is_grpc = transport == "grpc"
    if is_grpc:
        require("h2")
    connection = Connection(dial(host, port, timeout_s), limits or Limits(), place=place)
    called = addresses.show(host.partition("%")[0] if tls is None else tls.hostname, port)
    if tls is not None:
        try:
            _secure(connection, tls, deadline, called if is_grpc else "")
        except AppError as error:
            connection.close()
            is_told = isinstance(error, ConnectError)
            raise (
                error if is_told else HandshakeLostError(f"TLS handshake with the cloud at {place} failed: {error}")
            ) from None
    if is_grpc:
        connection.call(called)
    return connection


def _secure(connection: Connection, tls: "ClientTls", deadline: Deadline, called: str) -> None:
    """Agree on TLS with a cloud, or learn why it does not: what refuses at the door says so without TLS. `called` is
    its name where it will be called, and "" where frames follow."""
    from edgecloud.net.tls import ALPN, PlainPeerError

    if called:
        tls.context.set_alpn_protocols(ALPN)
    try:
        connection.secure(tls.context, deadline, tls.hostname)
    except PlainPeerError:
        if called:
            connection.call(called)
        frame = connection.receive(deadline)
        error = from_header(Error, frame.header) if frame.kind is FrameType.ERROR else None
        if error is None or error.code == "BAD_MAGIC":
            raise ConnectError(
                "the cloud does not use TLS: start it with --tls-cert and --tls-key, or remove --tls-ca"
            ) from None
        raise refusal(error) from None
