"""Workers that somebody else starts: at addresses that were written down, or behind a name that is looked up again and
again, such as that of a headless Service in Kubernetes. Nothing is started or ended here.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence

from edgecloud.server.placement import Setup, WorkerAddress
from edgecloud.utils import addresses
from edgecloud.utils.errors import UsageError

log = logging.getLogger(__name__)

WAKING_S = 10.0
EVERY_S = 1.0
"""Between two look-ups of a name."""
PATIENCE_S = 5.0
"""How long a look-up may take, and a name may be without addresses, before that is believed: servers of names forget
for a moment, and requests would be taken from workers that answer them."""
NOBODY = frozenset({socket.EAI_NONAME, *(getattr(socket, name) for name in ("EAI_NODATA",) if hasattr(socket, name))})
"""What says that a name has no address; all else says that nobody knows."""

Resolve = Callable[[str], Sequence[str]]
"""All addresses of a name, in numbers. Raises OSError, or socket.gaierror with one of NOBODY."""


def resolve(name: str) -> list[str]:
    """By the system, each address once. Raises OSError."""
    rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


class AddressPlacement:
    """Workers at `HOST:PORT,HOST:PORT`, whether they answer or not: the gateway finds that out. All take one token."""

    waking_s = WAKING_S

    def __init__(self, text: str, setup: Setup) -> None:
        check_token(setup)
        places = dict.fromkeys(addresses.parse(part) for part in text.split(","))
        self._workers = tuple(worker_at(place.host, port_of(place, text), setup.token) for place in places)
        self.wanted = len(self._workers)

    def start(self) -> None:
        """Nothing: somebody else does."""

    def addresses(self) -> Sequence[WorkerAddress]:
        """All of them."""
        return self._workers

    def lost(self, name: str) -> None:
        """Nothing: who started it has to replace it, at the same address, where the gateway looks again."""

    def close(self, seconds: float) -> None:
        """Nothing."""


class DnsPlacement:
    """Workers at every address that a name has, `NAME:PORT`; `wanted` is how many there are."""

    waking_s = WAKING_S

    def __init__(
        self,
        text: str,
        setup: Setup,
        look_up: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        check_token(setup)
        place = addresses.parse(text)
        self._name, self._port, self._token = place.host, port_of(place, f"dns:{text}"), setup.token
        self._look_up, self._clock = look_up, clock
        self._every_s, self._patience_s = every_s, patience_s
        self._workers: tuple[WorkerAddress, ...] = ()
        self._heard_at = clock()
        """When there was an answer last that is believed at once."""
        self._first, self._closing = threading.Event(), threading.Event()
        self._is_failing = False

    def start(self) -> None:
        """Begin to look up, in a thread; waits a moment for the first answer."""
        threading.Thread(target=self._keep_looking, name=f"looks up {self._name}", daemon=True).start()
        self._first.wait(self._patience_s)

    @property
    def wanted(self) -> int:
        """As many as there are: who starts them decides how many that should be."""
        return len(self._workers)

    def addresses(self) -> Sequence[WorkerAddress]:
        """As it was found last; waits for nothing."""
        return self._workers

    def lost(self, name: str) -> None:
        """Nothing: it is there for as long as the name has its address."""

    def close(self, seconds: float) -> None:
        """Look up no more."""
        self._closing.set()

    def _keep_looking(self) -> None:
        while not self._closing.is_set():
            self.look()
            self._first.set()
            self._closing.wait(self._every_s)

    def look(self) -> None:
        """Look up once, and keep what is there. An answer without addresses, or none, changes nothing at first."""
        try:
            found, is_known = self._look_up(self._name), True
        except OSError as error:
            found, is_known = (), isinstance(error, socket.gaierror) and error.errno in NOBODY
            if not (is_known or self._is_failing):
                log.warning("! the workers' name %s cannot be looked up: %s", self._name, error)
        self._is_failing = not (found or is_known)
        now = self._clock()
        is_over = now - self._heard_at >= self._patience_s
        if found or (is_known and is_over):
            before = self._workers
            self._workers = tuple(worker_at(one, self._port, self._token) for one in sorted(found))
            if before != self._workers:
                log.info("= workers at %s: %s", self._name, ", ".join(one.name for one in self._workers) or "none")
        if found:
            self._heard_at = now


def worker_at(host: str, port: int, token: str) -> WorkerAddress:
    """One that is known by its address."""
    return WorkerAddress(addresses.show(host, port), host, port, token)


def port_of(place: addresses.Place, text: str) -> int:
    """Raises UsageError where none was written: gateways and workers are seldom at the same one."""
    if not place.port:
        raise UsageError(
            f"--workers {text}: give the port of the workers too, such as {addresses.show(place.host, 9999)}"
        )
    return place.port


def check_token(setup: Setup) -> None:
    """Raises UsageError where there is nothing to say to workers that ask who comes."""
    if not setup.token:
        raise UsageError("workers that run already ask for a token: give it with --worker-token-file")
