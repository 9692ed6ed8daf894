"""A TCP server: one thread for each connection, a limit on their number, and an end that waits for work in hand."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from net.connection import ClosedAtBoundaryError, Connection
from net.frames import Limits
from net.messages import Error
from utils.errors import AppError, ConnectError
from utils.units import printable

log = logging.getLogger(__name__)

BACKLOG = 128
REFUSERS = 8  # refusals under way at once
REFUSAL_S = 1.0  # how long a refused peer has to take the refusal


@dataclass(eq=False)
class Peer:
    """A connected edge."""

    connection: Connection
    name: str
    is_working: bool = False
    """Whether a request is in hand; an idle peer is closed at once when the server stops."""


Handler = Callable[[Peer], None]


@dataclass
class Server:
    """Listens from `open` on; `serve` blocks until `stop` is called in another thread or a signal handler."""

    host: str
    port: int
    handler: Handler
    limits: Limits = field(default_factory=Limits)
    max_connections: int = 64
    drain_s: float = 30.0

    def open(self) -> tuple[str, int]:
        """Bind and listen; returns the address, with the chosen port where 0 was asked for."""
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
        name = self._listener.getsockname()
        return str(name[0]), int(name[1])

    def serve(self) -> None:
        """Accept until stopped, then let requests in hand finish for at most `drain_s` seconds."""
        self._listener.settimeout(0.2)  # how soon a stop is noticed
        while not self._stopping.is_set():
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:  # out of file descriptors, say: the next one may fit again
                log.warning("accept failed: %s", error)
                self._stopping.wait(0.1)
                continue
            try:
                self._admit(sock, f"{address[0]}:{address[1]}")
            except OSError as error:  # it has gone again
                log.info("! %s: %s", address, error)
                sock.close()
        self._listener.close()
        self._drain()

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

    def _admit(self, sock: socket.socket, name: str) -> None:
        peer = Peer(Connection(sock, self.limits), name)
        thread = threading.Thread(target=self._run, args=(peer,), name=f"peer {name}", daemon=True)
        with self._lock:
            full = len(self._peers) >= self.max_connections
            if not full:
                self._peers[peer] = thread
        if full:
            log.warning("! %s refused: %d connections are open (--max-connections)", name, self.max_connections)
            self._refuse(peer)
            return
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            log.warning("! %s refused: %s", name, error)
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        peer.connection.close()
        with self._lock:
            self._peers.pop(peer, None)

    def _refuse(self, peer: Peer) -> None:
        if not self._refusers.acquire(blocking=False):  # a flood: no more manners
            peer.connection.close()
            return

        def refuse() -> None:
            busy = Error("BUSY", f"all {self.max_connections} connections are taken, try again later")
            peer.connection.refuse(busy, REFUSAL_S)
            self._refusers.release()

        threading.Thread(target=refuse, daemon=True).start()

    def _run(self, peer: Peer) -> None:
        log.info("< %s connected", peer.name)
        try:
            self.handler(peer)
        except ClosedAtBoundaryError:
            pass
        except AppError as error:
            if self.is_stopping and not peer.is_working:
                return  # it is us who closed it
            log.warning("! %s refused, %s: %s", peer.name, error.code, printable(str(error), 300))
            peer.connection.refuse(Error.of(error), REFUSAL_S)
        except Exception:
            log.exception("! %s: a bug; the connection is closed, the others go on", peer.name)
            peer.connection.refuse(Error("INTERNAL", "the cloud failed on this request"), REFUSAL_S)
        finally:
            self._forget(peer)
            log.info("> %s gone", peer.name)

    def _drain(self) -> None:
        end = time.monotonic() + self.drain_s
        with self._lock:
            peers = dict(self._peers)
        for peer in peers:
            if not peer.is_working:
                peer.connection.close()
        for peer, thread in peers.items():
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.warning("! %s: still working after %.0f s, closed", peer.name, self.drain_s)
                peer.connection.close()
