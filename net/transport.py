"""The transport of a connection: a TCP socket, or one of this machine that is a file; TLS over it (net.tls), or a
stream of gRPC over either (net.streams)."""

import socket
from typing import Protocol

from edgecloud.net.messages import Error

UNSENT_BYTES = 128 << 10  # what the kernel holds, where both directions are in use, beyond what is under way
FILE_BYTES = 1 << 20  # what the kernel may hold between two processes of one machine
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 10, 5, 3
USER_TIMEOUT_S = 10


class Transport(Protocol):
    """One thread may send while another receives; what fails is raised as OSError, time-outs as TimeoutError."""

    has_own_end: bool
    """Whether it has an end of its own, which has to be said before that of TCP."""

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more, as far as it knows without trying."""

    def has_left(self) -> bool:
        """Whether the other side has closed; what it has sent stays unread."""

    def send(self, parts: list[memoryview], seconds: float) -> int:
        """Send some of these bytes; returns how many the kernel has taken."""

    def receive(self, into: memoryview, seconds: float) -> int | None:
        """Receive some bytes; returns how many, 0 at the end, None where what came makes no byte yet."""

    def farewell(self, seconds: float, why: Error | None = None) -> None:
        """Tell the other side that nothing more will be sent, and why, as far as the transport has words for it."""


class Plain:
    """A TCP socket. A time-out belongs to a socket object, so each direction gets one when both are in use at once."""

    has_own_end = is_over = False

    def __init__(self, sock: socket.socket) -> None:
        set_options(sock)
        self.sock = self.out = sock

    @property
    def is_duplex(self) -> bool:
        """Whether both directions may be in use at once."""
        return self.out is not self.sock

    def allow_duplex(self) -> None:
        """From now on one thread may send while another receives. Raises OSError without file descriptors."""
        if hasattr(socket, "TCP_NOTSENT_LOWAT") and not _is_file(self.sock):
            # so that what the kernel holds is not far ahead of the link
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.out = self.sock.dup()

    def send(self, parts: list[memoryview], seconds: float) -> int:
        """One sendmsg."""
        self.out.settimeout(seconds)
        return self.out.sendmsg(parts)

    def receive(self, into: memoryview, seconds: float) -> int:
        """One recv_into."""
        self.sock.settimeout(seconds)
        return self.sock.recv_into(into)

    def peek(self, seconds: float) -> bytes:
        """The first byte that came and was not received; none at the end."""
        self.sock.settimeout(seconds)
        return self.sock.recv(1, socket.MSG_PEEK)

    def has_left(self) -> bool:
        """Look, and wait for nothing."""
        self.sock.settimeout(0)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def farewell(self, seconds: float, why: Error | None = None) -> None:
        """TCP's own end says it."""


def _is_file(sock: socket.socket) -> bool:
    return sock.family == getattr(socket, "AF_UNIX", None)


def set_options(sock: socket.socket) -> None:
    """No Nagle delay, and notice a peer that is gone, idle or not. A socket that is a file has neither."""
    if _is_file(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FILE_BYTES)
        return
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
