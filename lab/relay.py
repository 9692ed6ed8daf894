"""An emulated link: a TCP relay with a rate, a delay, a freeze and a cut, for any system and without root.

    python -m lab.relay --to HOST PORT --link 5mbit,20ms
    python -m lab.relay --to HOST PORT --link 20mbit,20ms --steps 5s:2mbit,12s:20mbit
    python -m lab.relay --to HOST PORT --link 20mbit,20ms --trace lab/links/walk_4g.csv

Each direction is a pipe with a virtual clock: bytes leave it at the rate, one after the other, and arrive half a round
trip later. What it does not model: loss and retransmission, congestion control and slow start (both halves are
loopback connections), jitter, and several connections sharing the rate (each gets it whole).
"""

import argparse
import contextlib
import heapq
import itertools
import math
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecloud.cli.script import exit_at_end_of_stdin
from edgecloud.lab import traces
from edgecloud.lab.link_shape import LinkShape, parse_steps
from edgecloud.lab.traces import Trace
from edgecloud.net.endpoints import listen
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.resources import or_shipped
from edgecloud.utils.units import parse_duration, parse_link, parse_size

CHUNK = 4096  # bytes that travel together: what the clock counts in
QUEUE_S = 0.05  # a link's queue, in seconds of its rate: past it the sender has to wait
MIN_QUEUE = 4 * CHUNK
SEGMENT = 1460  # bytes, Ethernet's
CONNECT_S = 5.0
BACKLOG = 128
MOST_WAIT_S = 3600.0  # at once, which every system can
SOCKET_BUFFER = 64 * 1024  # small, so that bytes wait in the modelled queue and not in the kernel


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    rates: Trace
    delay_s: float
    is_up: bool
    free_s: float = -math.inf
    """When the link has sent all that it holds, in seconds of the relay."""
    bytes_per_s: float = 0.0
    """Of its last bytes."""
    in_flight_bytes: int = 0
    """Bytes on the link."""
    ready: bytearray = field(default_factory=bytearray)
    """Bytes that have arrived and that the sink has not taken."""
    passed: int = 0
    used_at: float = field(default_factory=time.monotonic)
    """When the last bytes entered it, or its twin."""
    is_ended: bool = False

    @property
    def has_room(self) -> bool:
        room = max(MIN_QUEUE, int(self.bytes_per_s * (QUEUE_S + self.delay_s)))
        return self.in_flight_bytes + len(self.ready) < room


class Relay:
    """Accepts connections and passes them on through the emulated link. One thread, in `serve`."""

    def __init__(self, to: tuple[str, int], shape: LinkShape, host: str = "127.0.0.1", port: int = 0) -> None:
        self._to = to
        self._shape = shape
        self._listener = _like_a_link(listen(host, port, BACKLOG)[0])
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._pipes: dict[socket.socket, tuple[_Pipe, _Pipe]] = {}
        """Under each socket: the pipe that it feeds, and the pipe that feeds it."""
        self._frozen_until = 0.0
        self._rates = {is_up: shape.rates(is_up=is_up) for is_up in (True, False)}
        self._started_at = math.inf
        """When the first connection was accepted: the relay's second 0, which steps and traces count from."""
        self._wake, self._wakeup = socket.socketpair()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._is_stopping = False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        name = self._listener.getsockname()
        return str(name[0]), int(name[1])

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self._is_stopping = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def freeze(self, seconds: float) -> None:
        """Let nothing through for a while, as when a device leaves coverage: no reset, no end, just silence."""
        self._frozen_until = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def serve(self) -> None:
        """Relay until stopped."""
        while not self._is_stopping:
            for key, mask in self._selector.select(self._wait_s()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wakeup:
                    self._wakeup.recv(4096)
                else:
                    self._serve_socket(key.fileobj, mask)  # type: ignore[arg-type]  # only sockets are registered
            self._run_due_events()
        for sock in [*self._pipes, self._listener, self._wake, self._wakeup]:
            sock.close()
        self._selector.close()

    def _wait_s(self) -> float | None:
        now = time.monotonic()
        if now < self._frozen_until:
            return min(self._frozen_until - now, 1.0)
        return min(max(0.0, self._events[0][0] - now), MOST_WAIT_S) if self._events else None

    def _run_due_events(self) -> None:
        now = time.monotonic()
        if now < self._frozen_until:
            return
        while self._events and self._events[0][0] <= now:
            heapq.heappop(self._events)[2]()

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), action))

    def _accept(self) -> None:
        try:
            edge, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        if math.isinf(self._started_at):
            self._started_at = time.monotonic()
        try:
            cloud = _connect(self._to)
        except OSError:
            edge.close()  # nobody there: the edge sees the connection end
            return
        half = self._shape.rtt_s / 2
        up = _Pipe(edge, cloud, self._rates[True], half, is_up=True)
        down = _Pipe(cloud, edge, self._rates[False], half, is_up=False)
        self._pipes[edge], self._pipes[cloud] = (up, down), (down, up)
        for sock in (edge, cloud):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def _serve_socket(self, sock: socket.socket, mask: int) -> None:
        if sock not in self._pipes:
            return  # closed by an earlier event of this round
        feeds, fed_by = self._pipes[sock]
        try:
            if mask & selectors.EVENT_WRITE:
                self._flush(fed_by)
            if mask & selectors.EVENT_READ:
                self._take(feeds)
        except OSError:
            self._abort(feeds)

    def _take(self, pipe: _Pipe) -> None:
        """Read a chunk and put it on the link."""
        if time.monotonic() < self._frozen_until:
            self._watch(pipe.source, reading=False)
            self._at(self._frozen_until, lambda: self._rewatch(pipe))
            return
        data = pipe.source.recv(CHUNK)
        now = time.monotonic()
        if data and self._meets_fault(pipe, len(data), now):
            return
        pipe.passed += len(data)
        self._enter(pipe, len(data), now - self._started_at)
        pipe.in_flight_bytes += len(data)
        leaves_at = self._started_at + pipe.free_s
        self._at(max(now, leaves_at) + pipe.delay_s, lambda: self._arrive(pipe, data))
        if not data or not pipe.has_room:
            self._watch(pipe.source, reading=False)

    def _enter(self, pipe: _Pipe, count: int, now_s: float) -> None:
        """Put bytes on the link behind those that it holds; the end of a connection counts as one."""
        pipe.bytes_per_s = pipe.rates.rate_at(now_s)
        credit_s = self._shape.burst_bytes / pipe.bytes_per_s if pipe.bytes_per_s else 0.0
        pipe.free_s = pipe.rates.leaves_at(max(now_s - credit_s, pipe.free_s), max(1, count))

    def _meets_fault(self, pipe: _Pipe, count: int, now: float) -> bool:
        """Whether these bytes are lost, or reach the place where the link is cut; a freeze lets them pass and starts
        after them."""
        shape, after = self._shape, pipe.passed + count
        if now - pipe.used_at > shape.forget_s:
            return True
        for each in self._pipes[pipe.source]:
            each.used_at = now
        cut_at = shape.cut_at if pipe.is_up else shape.cut_down_at
        if cut_at is not None and after >= cut_at:
            self._abort(pipe)
            return True
        if pipe.is_up and shape.freeze_at is not None and pipe.passed < shape.freeze_at <= after:
            self._frozen_until = now + min(shape.freeze_s, 1e9)
        return False

    def _arrive(self, pipe: _Pipe, data: bytes) -> None:
        if pipe.source not in self._pipes:
            return
        pipe.in_flight_bytes -= len(data)
        pipe.ready += data
        pipe.is_ended = not data
        try:
            self._flush(pipe)
        except OSError:
            self._abort(pipe)

    def _flush(self, pipe: _Pipe) -> None:
        """Give the sink what has arrived, then read more if there is room again."""
        if pipe.ready:
            with contextlib.suppress(BlockingIOError):
                del pipe.ready[: pipe.sink.send(pipe.ready)]
        self._watch(pipe.sink, writing=bool(pipe.ready))
        if pipe.is_ended and not pipe.ready:
            self._end(pipe)
        elif not pipe.is_ended and pipe.has_room:
            self._watch(pipe.source, reading=True)

    def _rewatch(self, pipe: _Pipe) -> None:
        if pipe.source in self._pipes:
            self._watch(pipe.source, reading=True)

    def _watch(self, sock: socket.socket, *, reading: bool | None = None, writing: bool | None = None) -> None:
        registration = self._selector.get_map().get(sock)
        before = registration.events if registration else 0
        after = before
        for is_on, bit in ((reading, selectors.EVENT_READ), (writing, selectors.EVENT_WRITE)):
            if is_on is not None:
                after = after | bit if is_on else after & ~bit
        if after == before:
            return
        if not after:
            self._selector.unregister(sock)
        elif not before:
            self._selector.register(sock, after)
        else:
            self._selector.modify(sock, after)

    def _end(self, pipe: _Pipe) -> None:
        """The source has ended and all its bytes are through: pass the end on; close when both ways have ended."""
        with contextlib.suppress(OSError):
            pipe.sink.shutdown(socket.SHUT_WR)
        if self._pipes[pipe.source][1].is_ended:
            self._close(pipe)

    def _abort(self, pipe: _Pipe) -> None:
        """Reset both connections."""
        for sock in (pipe.source, pipe.sink):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close(pipe)

    def _close(self, pipe: _Pipe) -> None:
        for sock in (pipe.source, pipe.sink):
            if self._pipes.pop(sock, None) is not None:
                self._watch(sock, reading=False, writing=False)
                sock.close()


def _connect(to: tuple[str, int]) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(*to, type=socket.SOCK_STREAM)[0]
    sock = _like_a_link(socket.socket(family, kind, protocol))
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _like_a_link(sock: socket.socket) -> socket.socket:
    """Accepted sockets inherit these from the listener.

    With the segments of loopback, which are as large as the buffers, a slow link's receive window would open only when
    the buffer is empty: at 130 kbit the sender took the link for dead.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    return sock


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgecloud.lab.relay", description="An emulated link in front of a server."
    )
    parser.add_argument("--to", nargs=2, metavar=("HOST", "PORT"), required=True, help="the server behind the link")
    parser.add_argument("--link", default="5mbit,20ms", metavar="UP[,RTT[,DOWN]]", help="default: %(default)s")
    parser.add_argument("--steps", metavar="TIME:RATE[,...]", help="change the rate in both directions at these times")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.csv", help="bandwidth trace for both directions (docs/traces.md)"
    )
    parser.add_argument("-p", "--port", type=int, default=0, help="port on 127.0.0.1; 0 lets the system choose")
    parser.add_argument("--cut-at", type=int, metavar="BYTE", help="reset the connection at this byte of the upload")
    parser.add_argument("--cut-down-at", type=int, metavar="BYTE", help="... of the download")
    parser.add_argument("--forget-after", metavar="TIME", help="drop data after an idle period of this length")
    parser.add_argument("--freeze-at", type=int, metavar="BYTE", help="stop forwarding at this byte of the upload")
    parser.add_argument("--freeze-for", default="1e9s", metavar="TIME", help="... for this long; default: forever")
    parser.add_argument("--burst", default="0B", metavar="SIZE", help="burst size; default: %(default)s")
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="exit at end of standard input")
    parser.add_argument("--until-stdin-closes", dest="exit_on_stdin_eof", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Relay until interrupted."""
    options = _parser().parse_args(argv)
    if options.exit_on_stdin_eof:
        exit_at_end_of_stdin()
    try:
        freeze_s = parse_duration(options.freeze_for)
        burst = parse_size(options.burst)
        steps = () if options.steps is None else parse_steps(options.steps)
        forget_s = math.inf if options.forget_after is None else parse_duration(options.forget_after)
        shape = LinkShape(
            *parse_link(options.link),
            cut_at=options.cut_at,
            freeze_at=options.freeze_at,
            freeze_s=freeze_s,
            burst_bytes=burst,
            steps=steps,
            cut_down_at=options.cut_down_at,
            forget_s=forget_s,
            trace=_trace(options),
        )
        relay = Relay((options.to[0], int(options.to[1])), shape, port=options.port)
    except (AppError, ValueError) as error:
        print(f"relay: {error}", file=sys.stderr)  # noqa: T201
        return getattr(error, "exit_code", 2)
    with contextlib.suppress(KeyboardInterrupt):  # whoever has read the line may send one
        print(f"listening on {relay.address[0]}:{relay.address[1]}", flush=True)  # noqa: T201  a program of its own
        relay.serve()
    return 0


def _trace(options: argparse.Namespace) -> Trace | None:
    """The one that was given. Raises UsageError."""
    if options.trace is None:
        return None
    if options.steps is not None:
        raise UsageError("--steps cannot be combined with --trace")
    return traces.read(or_shipped(options.trace))


if __name__ == "__main__":
    sys.exit(main())
