"""A TCP server: one thread per connection, connection limits, and draining. One of its ports may be that of gRPC."""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from edgecloud.net.connection import ClosedAtBoundaryError, Connection, refusal_of
from edgecloud.net.endpoints import listen, name_of
from edgecloud.net.frames import Limits
from edgecloud.net.messages import Error
from edgecloud.net.metrics import Metrics, NoMetrics
from edgecloud.net.pacing import Bucket, Spending
from edgecloud.net.penalties import AdmissionControl, Denial, Policy, fault_of, payer_of
from edgecloud.net.sources import Account, Sources
from edgecloud.utils import addresses, defaults
from edgecloud.utils.errors import AppError, ConnectError, PeerClosedError
from edgecloud.utils.extras import require
from edgecloud.utils.flood_log import FloodLog
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

BACKLOG = 128
STOP_NOTICED_S, DRAINED_NOTICED_S = 0.2, 0.05  # how soon
REFUSERS = 8  # refusals under way at once
REFUSAL_S = 1.0  # how long a refused peer has to take the refusal
SPEAK_S = 0.5  # how long an unauthenticated client may say nothing before it is the first to leave
STAY_S, EVICTION_S = 0.02, 0.05  # how long an unauthenticated client keeps its place at least; to take the refusal
UNUSED_S = 1.0  # how long after a stop a client that was asked to leave, and asks for nothing, keeps its connection
TURNED_AWAY_PER_S, TURNED_AWAY_S = 500.0, 0.5
"""How many of a flood are refused a second, and for how many seconds' worth at once: the rest wait to be accepted, or
saying no would hold the interpreter all the time."""


@dataclass(eq=False)
class Peer:
    """A connected edge."""

    connection: Connection
    name: str
    address: str = ""
    payer: str = ""
    """Whose tokens it spends."""
    account: Account = field(default_factory=Account)
    """What its source has outstanding."""
    is_working: bool = False
    """Whether a request is in hand; an idle peer is closed at once when the server stops."""
    is_known: bool = False
    """Whether it has said who it is, and that was right."""
    has_agreed: bool = False
    """Whether a HELLO of it was answered: from then on it keeps its place."""
    is_trusted: bool = False
    """Whether it proved to be a gateway, which is strict with those for whom it speaks: nothing is done twice."""
    moves: bool = False
    """Whether it leaves by itself when it is asked to: a stop leaves it the time for that."""
    used_at: float = 0.0
    """When something was computed for it last."""
    since: float = 0.0
    turn_at: float = 0.0
    """When its source has paid for what it asks, while it waits for that."""
    evicted: threading.Event = field(default_factory=threading.Event)
    """Its place was given to another."""

    @property
    def is_evicted(self) -> bool:
        """Whether evicted to admit another connection."""
        return self.evicted.is_set()

    @property
    def may_be_evicted(self) -> bool:
        """Whether it only takes a place: no HELLO, and nothing in hand."""
        return not self.has_agreed and not self.is_working


class EvictedError(AppError):
    """Somebody else got the place of a connection that said no HELLO."""

    code = "BUSY"
    retry_after_s = 1.0


Handler = Callable[[Peer], None]


@dataclass
class Server:
    """Listens from `open` until all is drained; `serve` blocks until `stop` is called, also by a signal handler."""

    host: str
    port: int
    handler: Handler
    limits: Limits = field(default_factory=Limits)
    max_connections: int = defaults.Server.CONNECTIONS
    drain_s: float = defaults.Server.DRAIN_S
    min_bytes_per_s: float = defaults.Server.MIN_BYTES_PER_S
    policy: Policy = field(default_factory=Policy)
    metrics: Metrics = field(default_factory=NoMetrics)
    small_per_s: float = defaults.Server.SMALL_PER_S
    """Of one source; see net.pacing."""
    grpc_port: int | None = None
    """Where connections are those of gRPC (`Connection.is_grpc`); None: nowhere."""

    def open(self) -> tuple[str, int]:
        """Listen on every address of the host; returns the first, with the chosen port where 0 was asked for.

        Raises ConnectError, and MissingLibraryError where gRPC is wanted without h2.
        """
        if self.grpc_port is not None:
            require("h2")
        self._listeners = listen(self.host, self.port, BACKLOG)
        self._grpc_listeners: list[socket.socket] = []
        if self.grpc_port is not None:
            try:
                self._grpc_listeners = listen(self.host, self.grpc_port, BACKLOG, "--grpc-port")
            except ConnectError:
                self._close_listeners()
                raise
        self._ready = selectors.DefaultSelector()
        for listener in (*self._listeners, *self._grpc_listeners):
            listener.setblocking(False)
            self._ready.register(listener, selectors.EVENT_READ, data=listener in self._grpc_listeners)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._refusers = threading.Semaphore(REFUSERS)
        self._peers: dict[Peer, threading.Thread] = {}
        self._door = AdmissionControl(self.policy)
        self._refusals = FloodLog(log, logging.WARNING, "! %d further refusals not logged")
        self._sources = Sources(self.small_per_s)
        self._turned_away = Bucket(TURNED_AWAY_PER_S, TURNED_AWAY_S)
        return self.addresses[0]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """All that it listens on, without gRPC."""
        return [name_of(listener) for listener in self._listeners]

    @property
    def grpc_addresses(self) -> list[tuple[str, int]]:
        """All that it listens on for gRPC."""
        return [name_of(listener) for listener in self._grpc_listeners]

    def _close_listeners(self) -> None:
        for listener in (*self._listeners, *self._grpc_listeners):
            listener.close()

    def serve(self) -> None:
        """Accept until stopped, then let requests in hand finish for at most `drain_s` seconds."""
        while not self._stopping.is_set():
            self._accept(STOP_NOTICED_S)
        self._drain()
        self._ready.close()
        self._close_listeners()

    def _accept(self, seconds: float) -> None:
        """Wait a moment for a connection, of each address at most one."""
        for key, _ in self._ready.select(seconds):
            self._accept_from(key.fileobj, is_grpc=key.data)  # type: ignore[arg-type]  # only listeners are registered

    def _accept_from(self, listener: socket.socket, *, is_grpc: bool) -> None:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return  # it has gone again
        except OSError as error:  # out of file descriptors, say: the next one may fit again
            log.warning("accept failed: %s", error)
            self._stopping.wait(0.1)
            return
        try:
            self._admit(sock, *_named(sock, address), is_grpc=is_grpc)
        except OSError as error:  # it has gone again
            log.info("! %s: %s", address, error)
            sock.close()

    @property
    def count(self) -> int:
        """Open connections."""
        return len(self._peers)

    @property
    def peers(self) -> tuple[str, ...]:
        """The names of those who have said a HELLO that was answered."""
        with self._lock:
            return tuple(peer.name for peer in self._peers if peer.has_agreed)

    @property
    def blocked(self) -> dict[str, float]:
        """Sources that are turned away, and for how many seconds more."""
        with self._lock:
            return self._door.blocked(time.monotonic())

    def stop(self) -> None:
        """Ask `serve` to end. Safe in a signal handler."""
        self._stopping.set()

    def wait_for_stop(self, seconds: float) -> bool:
        """Wait until a stop is asked for, so long at most; returns whether it was."""
        return self._stopping.wait(seconds)

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for: finish what is in hand and take nothing new."""
        return self._stopping.is_set()

    def pay(self, peer: Peer, spending: Spending, tokens: float) -> float:
        """Take tokens of a peer's source; returns the seconds until it owes none."""
        return self._sources.pay(peer.payer, spending, tokens) if tokens and not peer.is_trusted else 0.0

    def take_turn(self, peer: Peer, spending: Spending, tokens: float, owed_s: float = 0.0) -> None:
        """Pay for what a peer asks, and wait until its source, and itself for `owed_s`, owe nothing, or until a stop
        that it does not outlive.

        Raises PeerClosedError where its place is given to another meanwhile, whose tokens are given back.
        """
        wait_s = max(owed_s, self.pay(peer, spending, tokens))
        if wait_s <= 0:
            return
        end = peer.turn_at = time.monotonic() + wait_s
        while (peer.moves or not self.is_stopping) and (left := end - time.monotonic()) > 0:
            if peer.evicted.wait(min(left, STOP_NOTICED_S)):
                self.pay(peer, spending, -tokens)
                raise PeerClosedError("evicted to admit another connection")
        peer.turn_at = 0.0

    def _admit(self, sock: socket.socket, address: str, name: str, *, is_grpc: bool) -> None:
        flood = self._flood_of(payer_of(address))
        if flood is not None:
            self._turn_away(sock, name, flood, is_flood=True, is_grpc=is_grpc)
            return
        with self._lock:
            denial = self._door.admit(address, time.monotonic())
            if denial is None and len(self._peers) >= self.max_connections and not self._evict():
                self._door.leave(address)
                denial = Denial("BUSY", self._full)
            if denial is None:
                peer = self._meet(sock, address, name, is_grpc=is_grpc)
                thread = threading.Thread(target=self._run, args=(peer,), name=f"peer {name}", daemon=True)
                self._peers[peer] = thread
        if denial is not None:
            self._turn_away(sock, name, denial, is_grpc=is_grpc)
            return
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            log.warning("! %s refused: %s", name, error)
            self._forget(peer)

    def _flood_of(self, payer: str) -> Denial | None:
        """Pay for a connection, or say that there are too many."""
        owed_s = self._sources.pay(payer, Spending.CONNECTION, 1)
        if not owed_s:
            return None
        self._sources.pay(payer, Spending.CONNECTION, -1)
        return Denial("BUSY", "too many connections per second from your address (--max-control-rate)", owed_s)

    @property
    def _full(self) -> str:
        return f"all {self.max_connections} connections are in use (--max-connections)"

    def _evict(self) -> bool:
        """Make room: of those who have not said HELLO, one of the source that has most of them leaves: the oldest of
        those who had time to speak and did not, then the last of those who wait until they have paid, then the oldest.
        """
        end = time.monotonic() - STAY_S
        silent = [peer for peer in self._peers if peer.may_be_evicted and peer.since < end]
        if not silent:
            return False
        connections_of = Counter(peer.payer for peer in silent) + Counter(peer.address for peer in silent)

        def leaves_first(peer: Peer) -> tuple[int, int, int, float]:
            has_had_time = 2 * (peer.since < end - SPEAK_S)
            rank = 1 if peer.turn_at else has_had_time
            return connections_of[peer.payer], connections_of[peer.address], rank, peer.turn_at or -peer.since

        peer = max(silent, key=leaves_first)
        del self._peers[peer]
        self._leave(peer)
        peer.evicted.set()
        with contextlib.suppress(OSError):
            peer.connection.sock.shutdown(socket.SHUT_RD)  # its thread wakes up, and says why
        return True

    def _meet(self, sock: socket.socket, address: str, name: str, *, is_grpc: bool) -> Peer:
        try:
            connection = Connection(sock, self.limits, self.min_bytes_per_s, self.min_bytes_per_s, is_grpc=is_grpc)
        except OSError:  # it has gone again
            self._door.leave(address)
            raise
        payer = payer_of(address)
        return Peer(connection, name, address, payer, self._sources.enter(payer), since=time.monotonic())

    def _leave(self, peer: Peer) -> None:
        self._door.leave(peer.address)
        self._sources.leave(peer.payer)

    def _forget(self, peer: Peer) -> None:
        peer.connection.close()
        with self._lock:
            if self._peers.pop(peer, None) is not None:
                self._leave(peer)

    def _turn_away(
        self, sock: socket.socket, name: str, denial: Denial, *, is_flood: bool = False, is_grpc: bool
    ) -> None:
        self._refusals.tell("! %s refused, %s: %s", name, denial.code, denial.text)
        self.metrics.refused(denial.code, name)
        error = Error(denial.code, denial.text, retry_after_s=denial.retry_after_s)
        is_patient = denial.code == "BUSY" and not is_flood and self._refusers.acquire(blocking=False)
        if not is_patient:  # a flood, or who is penalised: what the kernel takes at once, and no more manners
            with contextlib.suppress(OSError):
                sock.setblocking(False)
                sock.send(refusal_of(error, is_grpc=is_grpc))
            sock.close()
            self._stopping.wait(self._turned_away.pay(1, time.monotonic()))
            return

        def refuse() -> None:
            try:
                Connection(sock, self.limits, is_grpc=is_grpc).refuse(error, REFUSAL_S)
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
        self.metrics.refused(error.code, peer.name)
        fault = None if peer.is_trusted else fault_of(error.code, is_known=peer.is_known)
        if fault is not None:
            with self._lock:
                seconds = self._door.penalise(peer.address, fault, time.monotonic())
            if seconds:
                self._refusals.tell("! %s is blocked for %.0f s: %s", peer.address, seconds, fault.value)
        peer.connection.refuse(Error.of(error), EVICTION_S if peer.is_evicted else REFUSAL_S)

    def _run(self, peer: Peer) -> None:
        log.info("< %s connected", peer.name)
        self.metrics.connected()
        try:
            self.handler(peer)
        except ClosedAtBoundaryError as error:
            if peer.is_evicted:
                self._fail(peer, error)
            peer.connection.leave()
        except AppError as error:
            if self.is_stopping and not peer.is_working:
                return  # it is us who closed it
            self._fail(peer, error)
        except Exception:
            log.exception("! %s: internal error, connection closed", peer.name)
            self.metrics.refused("INTERNAL", peer.name)
            peer.connection.refuse(Error("INTERNAL", "the cloud failed on this request"), REFUSAL_S)
        finally:
            self._forget(peer)
            log.info("> %s disconnected", peer.name)

    def _drain(self) -> None:
        """Who has something in hand may finish, and who was asked to leave may go on until it does, or asks for nothing
        any more; who comes now is still told that we are stopping."""
        end = time.monotonic() + self.drain_s
        with self._lock:
            peers = dict(self._peers)
        began = time.monotonic()
        received = {peer: peer.connection.received_bytes for peer in peers}
        for peer in peers:
            if not peer.is_working and not peer.moves:
                peer.connection.close()
        while time.monotonic() < end and any(thread.is_alive() for thread in peers.values()):
            self._accept(DRAINED_NOTICED_S)
            now = time.monotonic()
            for peer in peers:
                if peer.connection.received_bytes != received.get(peer):  # a request is on its way, say
                    received[peer], peer.used_at = peer.connection.received_bytes, now
                if peer.moves and not peer.is_working and max(peer.used_at, began) < now - UNUSED_S:
                    peer.connection.close()
        with self._lock:
            left = list(self._peers)
        for peer in left:
            if peer in peers:
                log.warning("! %s: still working after %.0f s, closed", peer.name, self.drain_s)
            peer.connection.close()


def _named(sock: socket.socket, address: tuple[str, int] | str) -> tuple[str, str]:
    """The address of who has connected, and a name for logs."""
    if sock.family == socket.AF_UNIX:
        return addresses.UNIX, f"{addresses.UNIX}{sock.fileno()}"
    ip = str(address[0])
    return ip, addresses.show(str(addresses.ip_of(ip)), int(address[1]))
