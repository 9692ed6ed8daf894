"""A TCP server: one thread for each connection, limits on their number, and an end that waits for work in hand."""

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from net import plain_pickle
from net.connection import ClosedAtBoundaryError, Connection
from net.frames import Limits, pack_prefix
from net.messages import Error, to_header
from net.metrics import Metrics, NoMetrics
from net.penalties import Denial, Door, Policy, fault_of
from utils.errors import AppError, ConnectError
from utils.units import printable

log = logging.getLogger(__name__)

BACKLOG = 128
STOP_NOTICED_S, DRAINED_NOTICED_S = 0.2, 0.05  # how soon
REFUSERS = 8  # refusals under way at once
REFUSAL_S = 1.0  # how long a refused peer has to take the refusal
STAY_S, EVICTION_S = 0.02, 0.05  # how long a stranger keeps its place at least, and how long it has to take the refusal
LINES_A_SECOND = 10  # of the log, about refusals; a flood's further ones are counted


@dataclass(eq=False)
class Peer:
    """A connected edge."""

    connection: Connection
    name: str
    address: str = ""
    is_working: bool = False
    """Whether a request is in hand; an idle peer is closed at once when the server stops."""
    is_known: bool = False
    """Whether it has said who it is, and that was right."""
    has_agreed: bool = False
    """Whether a HELLO of it was answered: from then on it keeps its place."""
    since: float = 0.0
    is_evicted: bool = False
    """Whether its place was given to another."""

    @property
    def may_be_evicted(self) -> bool:
        """Whether it only takes a place: no HELLO, and nothing in hand."""
        return not self.has_agreed and not self.is_working


class EvictedError(AppError):
    """Somebody else got the place of a connection that said no HELLO."""

    code = "BUSY"
    retry_after_s = 1.0


Handler = Callable[[Peer], None]


class RefusalLog:
    """A line for each refusal, but not for each one of a flood."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._second, self._lines, self._left_out = float("-inf"), 0, 0

    def tell(self, text: str, *values: object) -> None:
        """Write it, or count it."""
        with self._lock:
            left_out, now = 0, self._clock()
            if now - self._second >= 1.0:
                left_out, self._left_out = self._left_out, 0
                self._second, self._lines = now, 0
            self._lines += 1
            is_flood = self._lines > LINES_A_SECOND
            self._left_out += is_flood
        if left_out:
            log.warning("! %d further refusals were not written", left_out)
        log.log(logging.DEBUG if is_flood else logging.WARNING, text, *values)


@dataclass
class Server:
    """Listens from `open` until all is drained; `serve` blocks until `stop` is called, also by a signal handler."""

    host: str
    port: int
    handler: Handler
    limits: Limits = field(default_factory=Limits)
    max_connections: int = 64
    drain_s: float = 30.0
    min_bytes_per_s: float = 1000.0
    policy: Policy = field(default_factory=Policy)
    metrics: Metrics = field(default_factory=NoMetrics)

    def open(self) -> tuple[str, int]:
        """Bind and listen; returns the address, with the chosen port where 0 was asked for. Raises ConnectError."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            self._listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConnectError(f"cannot listen on {self.host}:{self.port}: {reason}") from None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._refusers = threading.Semaphore(REFUSERS)
        self._peers: dict[Peer, threading.Thread] = {}
        self._door = Door(self.policy)
        self._refusals = RefusalLog()
        name = self._listener.getsockname()
        return str(name[0]), int(name[1])

    def serve(self) -> None:
        """Accept until stopped, then let requests in hand finish for at most `drain_s` seconds."""
        self._listener.settimeout(STOP_NOTICED_S)
        while not self._stopping.is_set():
            self._accept()
        self._drain()
        self._listener.close()

    def _accept(self) -> None:
        """Wait a moment for one connection."""
        try:
            sock, address = self._listener.accept()
        except TimeoutError:
            return
        except OSError as error:  # out of file descriptors, say: the next one may fit again
            log.warning("accept failed: %s", error)
            self._stopping.wait(0.1)
            return
        try:
            self._admit(sock, str(address[0]), f"{address[0]}:{address[1]}")
        except OSError as error:  # it has gone again
            log.info("! %s: %s", address, error)
            sock.close()

    @property
    def count(self) -> int:
        """Open connections."""
        return len(self._peers)

    def stop(self) -> None:
        """Ask `serve` to end. Safe in a signal handler."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for: finish what is in hand and take nothing new."""
        return self._stopping.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, but not for longer than until a stop."""
        if seconds > 0:
            self._stopping.wait(seconds)

    def _admit(self, sock: socket.socket, address: str, name: str) -> None:
        with self._lock:
            denial = self._door.admit(address, time.monotonic())
            if denial is None and len(self._peers) >= self.max_connections and not self._evict():
                self._door.leave(address)
                denial = Denial("BUSY", self._full)
            if denial is None:
                peer = self._meet(sock, address, name)
                thread = threading.Thread(target=self._run, args=(peer,), name=f"peer {name}", daemon=True)
                self._peers[peer] = thread
        if denial is not None:
            self._turn_away(sock, name, denial)
            return
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            log.warning("! %s refused: %s", name, error)
            self._forget(peer)

    @property
    def _full(self) -> str:
        return f"all {self.max_connections} connections are taken (--max-connections)"

    def _evict(self) -> bool:
        """Make room: of those who have not said HELLO, one of the address that has most of them, the oldest, leaves."""
        end = time.monotonic() - STAY_S
        strangers = [peer for peer in self._peers if peer.may_be_evicted and peer.since < end]
        if not strangers:
            return False
        counts = Counter(peer.address for peer in strangers)
        peer = max(strangers, key=lambda peer: (counts[peer.address], -peer.since))
        peer.is_evicted = True
        del self._peers[peer]
        self._door.leave(peer.address)
        with contextlib.suppress(OSError):
            peer.connection.sock.shutdown(socket.SHUT_RD)  # its thread wakes up, and says why
        return True

    def _meet(self, sock: socket.socket, address: str, name: str) -> Peer:
        try:
            return Peer(
                Connection(sock, self.limits, self.min_bytes_per_s, self.min_bytes_per_s),
                name,
                address,
                since=time.monotonic(),
            )
        except OSError:  # it has gone again
            self._door.leave(address)
            raise

    def _forget(self, peer: Peer) -> None:
        peer.connection.close()
        with self._lock:
            if self._peers.pop(peer, None) is not None:
                self._door.leave(peer.address)

    def _turn_away(self, sock: socket.socket, name: str, denial: Denial) -> None:
        self._refusals.tell("! %s refused, %s: %s", name, denial.code, denial.text)
        self.metrics.refused(denial.code)
        error = Error(denial.code, denial.text, retry_after_s=denial.retry_after_s)
        is_patient = denial.code == "BUSY" and self._refusers.acquire(blocking=False)
        if not is_patient:  # a flood, or who is penalised: what the kernel takes at once, and no more manners
            with contextlib.suppress(OSError):
                sock.setblocking(False)
                header = plain_pickle.dumps(to_header(error))
                sock.send(pack_prefix(Error.TYPE, len(header), 0) + header)
            sock.close()
            return

        def refuse() -> None:
            try:
                Connection(sock, self.limits).refuse(error, REFUSAL_S)
            except OSError:
                sock.close()
            finally:
                self._refusers.release()

        threading.Thread(target=refuse, daemon=True).start()

    def _fail(self, peer: Peer, error: AppError) -> None:
        """Say why a conversation ends here, and remember it where it was the other side's fault."""
        if peer.is_evicted:
            error = EvictedError(self._full)
        self._refusals.tell("! %s refused, %s: %s", peer.name, error.code, printable(str(error), 300))
        self.metrics.refused(error.code)
        fault = fault_of(error.code, is_known=peer.is_known)
        if fault is not None:
            with self._lock:
                seconds = self._door.penalise(peer.address, fault, time.monotonic())
            if seconds:
                self._refusals.tell("! %s is turned away for %.0f s: %s", peer.address, seconds, fault.value)
        peer.connection.refuse(Error.of(error), EVICTION_S if peer.is_evicted else REFUSAL_S)

    def _run(self, peer: Peer) -> None:
        log.info("< %s connected", peer.name)
        self.metrics.connected()
        try:
            self.handler(peer)
        except ClosedAtBoundaryError as error:
            if peer.is_evicted:
                self._fail(peer, error)
        except AppError as error:
            if self.is_stopping and not peer.is_working:
                return  # it is us who closed it
            self._fail(peer, error)
        except Exception:
            log.exception("! %s: a bug; the connection is closed, the others go on", peer.name)
            self.metrics.refused("INTERNAL")
            peer.connection.refuse(Error("INTERNAL", "the cloud failed on this request"), REFUSAL_S)
        finally:
            self._forget(peer)
            log.info("> %s gone", peer.name)

    def _drain(self) -> None:
        """Who has something in hand may finish; who comes now is still told that we are stopping."""
        end = time.monotonic() + self.drain_s
        self._listener.settimeout(DRAINED_NOTICED_S)
        with self._lock:
            peers = dict(self._peers)
        for peer in peers:
            if not peer.is_working:
                peer.connection.close()
        while time.monotonic() < end and any(thread.is_alive() for thread in peers.values()):
            self._accept()
        with self._lock:
            left = list(self._peers)
        for peer in left:
            if peer in peers:
                log.warning("! %s: still working after %.0f s, closed", peer.name, self.drain_s)
            peer.connection.close()
