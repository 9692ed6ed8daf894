"""One TCP connection that carries frames: whole frames or an error, never a part, never a wait without an end."""

import contextlib
import fcntl
import math
import socket
import sys
import termios
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from net import plain_pickle, tensors
from net.frames import PREFIX_BYTES, FrameType, Limits, pack_prefix, parse_prefix
from net.messages import Error, M, Message, from_header, to_header
from utils.deadline import Deadline
from utils.errors import (
    AppError,
    ConnectError,
    DeadlineError,
    MismatchError,
    PeerClosedError,
    ProtocolError,
    UsageError,
)
from utils.units import printable

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 10, 5, 3
USER_TIMEOUT_S = 10
UNSENT_BYTES = 128 << 10  # what the kernel holds, where both directions are in use, beyond what is under way
BURST_BYTES = 16 * 1024  # what a shaped link lets through at once; it says nothing about the rate
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
    received_s: float = 0.0
    """From its first byte to its last ..."""
    timed_bytes: int = 0
    """... and without the burst that a shaped link lets through at once: how many bytes came behind it ..."""
    timed_s: float = 0.0
    """... in how many seconds."""

    def read(self, message: type[M]) -> M:
        """The message, where it is of this kind; an ERROR is raised as what it means here."""
        if self.kind is FrameType.ERROR:
            raise refusal(from_header(Error, self.header))
        if self.kind is not message.TYPE:
            raise ProtocolError(f"{message.TYPE.name} was expected, {self.kind.name} came")
        return from_header(message, self.header)

    def arrays(self) -> list[tensors.Array]:
        """The tensors: raw ones as views of the payload."""
        return tensors.view(self.header, self.payload, self.limits)


@dataclass
class Connection:
    """A connected socket, and how much has come over it."""

    sock: socket.socket
    limits: Limits = field(default_factory=Limits)
    min_bytes_per_s: float = 1000.0
    received_bytes: int = 0
    sent_bytes: int = 0
    """What the kernel has taken."""

    def __post_init__(self) -> None:
        set_options(self.sock)
        self._out = self.sock
        self._sending = threading.Lock()
        self._is_cut = False

    def allow_duplex(self) -> None:
        """From now on one thread may send while another receives. A time-out belongs to a socket object, so each
        direction gets one. Whoever receives learns why the other side has closed; whoever sends does not ask."""
        if not self.is_duplex:
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # so that `sent_bytes` is not far ahead of the link
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            try:
                self._out = self.sock.dup()
            except OSError as error:  # out of file descriptors
                raise AppError(f"cannot answer while receiving: {error.strerror or error}") from None

    @property
    def is_duplex(self) -> bool:
        """Whether both directions may be in use at once."""
        return self._out is not self.sock

    def send(self, message: Message, deadline: Deadline, arrays: Sequence[tensors.Array | tensors.Encoded] = ()) -> int:
        """Send a message with tensors; returns the bytes of its payload."""
        described, buffers = tensors.describe(arrays) if arrays else ({}, [])
        return self._send_frame(message, described, buffers, deadline)

    def send_bytes(self, message: Message, payload: memoryview, deadline: Deadline) -> int:
        """Send a message whose payload has no meaning, only a size."""
        return self._send_frame(message, {}, [payload], deadline)

    def _send_frame(
        self, message: Message, described: dict[str, Any], buffers: list[memoryview], deadline: Deadline
    ) -> int:
        header = plain_pickle.dumps(to_header(message) | described)
        if len(header) > self.limits.header_bytes:
            raise ProtocolError(
                f"a header of {len(header)} bytes is to be sent, the limit is {self.limits.header_bytes}"
            )
        payload_bytes = sum(buffer.nbytes for buffer in buffers)
        if payload_bytes > self.limits.payload_bytes:
            raise ProtocolError(f"{payload_bytes} bytes are to be sent, the limit is {self.limits.payload_bytes}")
        prefix = pack_prefix(message.TYPE, len(header), payload_bytes)
        if not self._sending.acquire(timeout=deadline.remaining()):
            raise deadline.passed()
        try:
            self._send_all([memoryview(prefix + header), *buffers], deadline)
        finally:
            self._sending.release()
        return payload_bytes

    def _send_all(self, parts: list[memoryview], deadline: Deadline) -> None:
        """One sendmsg for everything; what the kernel does not take at once goes in further ones."""
        parts = [part for part in parts if part.nbytes]
        if self._is_cut:
            raise PeerClosedError("a part of a frame was sent here, and nothing can follow it")
        self._is_cut = True  # until all of it is sent
        while parts:
            left = deadline.remaining()
            try:
                self._out.settimeout(left)
                sent = self._out.sendmsg(parts)
            except OSError as error:
                lost = _lost(error, deadline)
                raise (lost if self.is_duplex else self._refusal_or(lost)) from None
            self.sent_bytes += sent
            while parts and sent >= parts[0].nbytes:
                sent -= parts.pop(0).nbytes
            if sent:
                parts[0] = parts[0][sent:]
        self._is_cut = False

    def _refusal_or(self, lost: AppError) -> AppError:
        """Why the other side has closed while we were sending: it may have said so."""
        if isinstance(lost, PeerClosedError):
            with contextlib.suppress(AppError):
                frame = self.receive(Deadline.after(1.0, "a refusal"))
                if frame.kind is FrameType.ERROR:
                    return refusal(from_header(Error, frame.header))
        return lost

    def receive(self, deadline: Deadline, frame_s: float | None = None) -> Frame:
        """Wait for the next frame until the deadline; once it has begun it may be given another `frame_s` seconds.

        Raises PeerClosedError, as ClosedAtBoundaryError where the end came between frames; DeadlineError; ProtocolError
        for bytes that are no frame within the limits, before memory is taken for them.
        """
        prefix_bytes = memoryview(bytearray(PREFIX_BYTES))
        got = self._receive_some(prefix_bytes, deadline)
        if not got:
            raise ClosedAtBoundaryError("the other side closed the connection")
        inside = deadline if frame_s is None else Deadline.after(frame_s, "a frame did not arrive")
        progress = _Progress(time.monotonic(), self.received_bytes)
        self._receive_all(prefix_bytes[got:], inside, progress)
        prefix = parse_prefix(prefix_bytes, self.limits)
        header = memoryview(bytearray(prefix.header_bytes))
        self._receive_all(header, inside, progress)
        fields = plain_pickle.loads(bytes(header))
        payload = np.empty(prefix.payload_bytes, np.uint8).data
        self._receive_all(payload, inside, progress)
        now = time.monotonic()
        timed = (self.received_bytes - progress.burst_bytes, now - progress.burst_at) if progress.burst_at else (0, 0.0)
        return Frame(prefix.kind, fields, payload, self.limits, now - progress.at, *timed)

    def _receive_all(self, into: memoryview, deadline: Deadline, since: "_Progress") -> None:
        received = 0
        while received < into.nbytes:
            got = self._receive_some(into[received:], deadline)
            if not got:
                raise PeerClosedError("the other side closed the connection inside a frame")
            received += got
            elapsed = time.monotonic() - since.at
            arrived = self.received_bytes - since.received_bytes
            if arrived >= BURST_BYTES and not since.burst_at:
                since.burst_at, since.burst_bytes = since.at + elapsed, self.received_bytes
            if elapsed > PATIENCE_S and arrived < self.min_bytes_per_s * (elapsed - PATIENCE_S):
                raise ProtocolError(f"slower than {self.min_bytes_per_s:.0f} bytes/s")

    def _receive_some(self, into: memoryview, deadline: Deadline) -> int:
        left = deadline.remaining()
        try:
            self.sock.settimeout(left)
            got = self.sock.recv_into(into)
        except OSError as error:
            raise _lost(error, deadline) from None
        self.received_bytes += got
        return got

    @property
    def delivered_bytes(self) -> int:
        """What the other side's kernel has acknowledged, where this system tells; else what ours has taken."""
        waiting = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # the latter where it is closed
            fcntl.ioctl(self._out, termios.TIOCOUTQ, waiting)
        return self.sent_bytes - int.from_bytes(waiting, sys.byteorder)

    def peer_has_left(self) -> bool:
        """Whether the other side has closed; what it has sent stays unread."""
        self.sock.settimeout(0)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def refuse(self, error: Error, seconds: float) -> None:
        """Send a refusal and close in good order, in at most `seconds` and a megabyte of what the peer still sends."""
        deadline = Deadline.after(seconds, "a refusal")
        with contextlib.suppress(AppError, OSError):
            self.send(error, deadline)
            self._drop_rest(deadline, REFUSED_READS)
        self.close()

    def end(self, seconds: float) -> None:
        """Close in good order: what was sent arrives, what the other side still sends is dropped for `seconds`."""
        with contextlib.suppress(AppError, OSError):
            self._drop_rest(Deadline.after(seconds, "the end"), math.inf)
        self.close()

    def _drop_rest(self, deadline: Deadline, most_reads: float) -> None:
        """Send no more, and drop what the other side still sends, until it closes or the deadline. Closing with unread
        bytes would reset the connection, and lose what is on its way."""
        self.sock.shutdown(socket.SHUT_WR)
        dropped = memoryview(bytearray(DROPPED_BYTES))
        reads = 0
        while reads < most_reads and self._receive_some(dropped, deadline):
            reads += 1

    def close(self) -> None:
        """Close both directions; a thread that waits on the socket wakes up."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self._out.close()  # the same one, or its twin


@dataclass(slots=True)
class _Progress:
    """When a frame began, and what the connection had received by then; the same for the end of a burst."""

    at: float
    received_bytes: int
    burst_at: float = 0.0
    burst_bytes: int = 0


class ClosedAtBoundaryError(PeerClosedError):
    """The other side closed between two frames, which is how a connection ends in good order."""


def _lost(error: OSError, deadline: Deadline) -> AppError:
    """What an error of the socket means. A time-out of ours has no number, one of TCP has."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return deadline.passed()
    return PeerClosedError(f"the connection broke: {error.strerror or error}")


def set_options(sock: socket.socket) -> None:
    """No Nagle delay, and notice a peer that is gone, idle or not."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_S * 1000),
    ):
        if hasattr(socket, name):  # not every system has every one
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connect(host: str, port: int, timeout_s: float, limits: Limits | None = None) -> Connection:
    """Open a connection. Raises ConnectError that says what to do."""
    try:
        sock = socket.create_connection((host, port), timeout=timeout_s)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
        raise ConnectError(
            f"no cloud at {host}:{port} ({reason}): start cloud_api.py there, or check -i and -p"
        ) from None
    return Connection(sock, limits or Limits())


_REFUSALS: dict[str, type[AppError]] = {
    "MISMATCH": MismatchError,
    "VERSION": MismatchError,
    "UNKNOWN_MODEL": MismatchError,
    "TOKEN": ConnectError,
    "BUSY": ConnectError,
    "DEADLINE": DeadlineError,
    "USAGE": UsageError,
}


def refusal(error: Error) -> AppError:
    """What an ERROR of the cloud means on the edge."""
    kind = _REFUSALS.get(error.code, AppError)
    return kind(f"the cloud refused ({printable(error.code, 32)}): {printable(error.text, 300)}")
