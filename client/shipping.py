"""Sending a network to a cloud that does not have it, in the background, while this edge answers by itself.

It has a connection of its own. Pieces leave one after the other, as many at once as the link takes without a queue:
where an answer takes much longer than the shortest one, there are fewer. While an inference of this process is on
its way, none leaves. What the cloud has got stays there when the connection is lost, and the next one goes on there.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecloud.client.config import ClientConfig
from edgecloud.client.fallback import Backoff, busy_pause_s
from edgecloud.client.multiplexed import is_any_under_way
from edgecloud.client.parcels import MakeParcel, Parcel, maker_of
from edgecloud.client.progress import Progress
from edgecloud.models.network import Network
from edgecloud.models.registry import Entry
from edgecloud.net.connection import CONNECT_S, Connection, connect
from edgecloud.net.messages import Offer, Piece, Proof, Want
from edgecloud.utils import defaults
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ProtocolError
from edgecloud.utils.units import format_seconds, printable

if TYPE_CHECKING:
    from edgecloud.net.tls import ClientTls

log = logging.getLogger(__name__)

PIECE_BYTES, LARGE_PIECE_BYTES, NEAR_S = 64 << 10, 256 << 10, 0.005
"""Large where a piece has its answer so soon."""
LEAST_BYTES, FAST_BYTES, MOST_BYTES = 2 * PIECE_BYTES, 2 << 20, 32 << 20
"""On their way at once: at least, where pieces are large, and at most."""
SLOWER_S = 0.08
"""An answer that takes so much longer than the shortest one says that pieces queue."""
ANSWER_S = 120.0
READY_S = 900.0
"""How long the cloud may take to check, start and measure a network that is there."""
NAP_S, LONGEST_NAP_S = 0.005, 1.0
TRIES = 20
"""In a row in which nothing arrived."""
TELL_S = 10.0
LAST_S = 2.0
MEANT = frozenset({"BAD_REQUEST", "TOKEN", "UNKNOWN_MODEL", "MISMATCH", "TOO_LARGE", "PROTOCOL", "VERSION"})
"""Refusals that another try does not change."""


Held = AbstractContextManager[object]
FREE: Held = nullcontext()


def shipping_of(
    config: ClientConfig, address: tuple[str, int], networks: Sequence[tuple[Entry, Network]], computing: Held = FREE
) -> "Shipping | None":
    """What sends some networks to the cloud at an address; None where that is not wanted. `computing` is held while
    one of them runs."""
    if config.cloud.ship == "off" or config.cloud.own is not None:
        return None
    folder, weights = config.device.cache_dir, config.weights
    makers = {network.graph.name: maker_of(entry, network, computing, folder, weights) for entry, network in networks}
    return Shipping(address, config.cloud.token, config.cloud.tls, makers, config.cloud.transport)


OnShipped = Callable[[str, str], None]
"""Is told the network and its digest once the cloud has it."""


class Shipping:
    """Sends networks, one after the other, each as soon as a cloud has said that it takes it."""

    def __init__(
        self,
        address: tuple[str, int],
        token: str,
        tls: "ClientTls | None",
        makers: Mapping[str, MakeParcel],
        transport: str = defaults.Cloud.TRANSPORT,
    ) -> None:
        """`address` is that of the cloud; `makers` make what is sent, by the names of the networks."""
        self._address, self._token, self._tls, self._makers = address, token, tls, makers
        self._transport = transport
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._is_leaving = False
        self._told_at = float("-inf")
        self.progress: Progress | None = None
        """Of the network that is sent now, or was last."""
        self.on_shipped: OnShipped = lambda *_: None
        self._refused: dict[str, str] = {}

    def send_to(self, address: tuple[str, int], tls: "ClientTls | None") -> None:
        """From now on networks are sent to this cloud."""
        self._address, self._tls = address, tls

    @property
    def is_busy(self) -> bool:
        """Whether something is being sent."""
        return self._thread is not None and self._thread.is_alive()

    def takes(self, error: AppError, model: str) -> bool:
        """Whether a refusal of a network is one that sending it mends; then it is sent, in the background."""
        if not error.accepts or model not in self._makers or model in self._refused or self._is_leaving:
            return False
        with self._lock:
            if not self.is_busy:
                self._thread = threading.Thread(
                    target=self._ship, args=(model, error.accepts), name="sends a network", daemon=True
                )
                self._thread.start()
        return True

    def wait(self, seconds: float | None = None) -> None:
        """Wait until what is being sent is there, so long at most; None: as long as it takes."""
        if self._thread is not None:
            self._thread.join(seconds)

    def why(self, model: str) -> str:
        """Why a network cannot be sent; "" where that is not known."""
        return self._refused.get(model, "")

    def leave(self) -> None:
        """Send no more; what is there stays on the cloud for a while."""
        self._is_leaving = True
        connection, progress = self._connection, self.progress
        if self.is_busy and progress is not None and progress.state == "sending":
            log.warning("%s; the next start goes on from there", progress.text())
        if connection is not None:
            connection.close()
        self.wait(LAST_S)

    # --- its thread

    def _ship(self, model: str, most_bytes: int) -> None:
        try:
            self._now(Progress(model))
            parcel = self._makers[model](lambda: self._is_leaving)
            if parcel.bytes > most_bytes:
                raise AppError(f"it has {parcel.bytes} bytes, over the cloud's --max-store ({most_bytes})")
            self._try(model, parcel)
        except AppError as error:
            if not self._is_leaving:
                self._refuse(model, printable(str(error), 200))
        except Exception as error:  # nobody would hear of it
            log.exception("internal error while sending a network")
            self._refuse(model, f"internal error: {type(error).__name__}")

    def _refuse(self, model: str, why: str) -> None:
        self._refused[model] = why
        self._now(replace(self.progress or Progress(model), state="refused", why=why))
        log.warning("%s: it runs on the edge alone", Progress(model, state="refused", why=why).text())

    def _try(self, model: str, parcel: Parcel) -> None:
        """Again where the connection is lost, as long as some of it arrives each time. Raises AppError."""
        backoff, tries = Backoff(longest_s=30.0), 0
        while True:
            before = 0 if self.progress is None else self.progress.sent
            try:
                self._send(model, parcel)
                break
            except AppError as error:
                sent = 0 if self.progress is None else self.progress.sent
                tries = 0 if sent > before else tries + 1
                if self._is_leaving or error.refusal in MEANT or tries >= TRIES:
                    raise
                if sent > before:
                    backoff.reset()
                pause_s = busy_pause_s(error.retry_after_s) if error.refusal == "BUSY" else backoff.next_s()
                log.info("sending %s again in %s: %s", model, format_seconds(pause_s), error)
                self._nap(pause_s)
        self._now(replace(self.progress or Progress(model), state="ready"))
        self.on_shipped(model, parcel.digest)

    def _nap(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._is_leaving:
            time.sleep(min(0.1, seconds))

    def _send(self, model: str, parcel: Parcel) -> None:
        connection = self._connection = connect(*self._address, CONNECT_S, tls=self._tls, transport=self._transport)
        try:
            if self._is_leaving:
                return
            offer = Offer(self._token, model, parcel.digest, parcel.head_bytes, parcel.bytes)
            connection.send(offer, _soon())
            want = connection.receive(_soon()).read(Want)
            if not want.is_whole:
                want = self._send_pieces(connection, parcel, want)
            if want.is_ready:
                return
            self._now(replace(self.progress or Progress(model), state="starting", have=parcel.bytes))
            connection.send(Proof(parcel.digest), _soon(), parcel.proof)
            late = f"the cloud did not start the network within {READY_S:.0f} s"
            if not connection.receive(Deadline.after(READY_S, late)).read(Want).is_ready:
                raise ProtocolError("the cloud did not say that the network is ready")
        finally:
            connection.close()

    def _send_pieces(self, connection: Connection, parcel: Parcel, want: Want) -> Want:
        """Send the missing pieces until all are there; returns the last answer. Raises AppError."""
        pieces, flow = _Pieces(want.ranges, parcel.bytes), _Flow()
        progress = replace(self.progress or Progress(""), bytes=parcel.bytes, have=want.have, state="sending")
        begun, sent = time.monotonic(), progress.sent
        before_s = progress.seconds
        try:
            file = parcel.path.open("rb")
        except OSError as error:
            raise AppError(f"cannot read {parcel.path}: {error.strerror}") from None
        with file:
            while not want.is_whole:
                while flow.has_room and (piece := pieces.next(flow.piece_bytes)) is not None:
                    self._give_way()
                    start, stop = piece
                    file.seek(start)
                    data = file.read(stop - start)
                    if len(data) != stop - start:
                        raise AppError(f"{parcel.path} was changed while it was sent")
                    flow.sent(len(data), time.monotonic())
                    sent += connection.send_bytes(Piece(start), memoryview(data), _soon())
                if flow.is_idle:
                    raise ProtocolError("the cloud wants nothing more, and has not got all")
                want = connection.receive(_soon()).read(Want)
                flow.answered(time.monotonic())
                pieces.add(want.ranges)
                spent_s = before_s + time.monotonic() - begun
                self._now(replace(progress, have=min(want.have, parcel.bytes), sent=sent, seconds=spent_s))
                if self._is_leaving:
                    raise AppError("this program is ending")
        return want

    def _give_way(self) -> None:
        """Wait while an inference of this process is on its way, but not for ever."""
        end = time.monotonic() + LONGEST_NAP_S
        while is_any_under_way() and time.monotonic() < end and not self._is_leaving:
            time.sleep(NAP_S)

    def _now(self, progress: Progress) -> None:
        self.progress = progress
        now = time.monotonic()
        if progress.state == "sending" and now - self._told_at > TELL_S:
            self._told_at = now
            log.warning("%s", progress.text())


def _soon() -> Deadline:
    return Deadline.after(ANSWER_S, f"the cloud did not go on taking the network for {ANSWER_S:.0f} s")


class _Pieces:
    """The ranges asked for, cut into pieces. Raises ProtocolError for a range that no cloud may ask for."""

    def __init__(self, ranges: list[list[int]], size: int) -> None:
        self._size = size
        self._wanted: deque[tuple[int, int]] = deque()
        self.add(ranges)

    def add(self, ranges: list[list[int]]) -> None:
        """More is wanted."""
        for start, stop in ranges:
            if stop > self._size:
                raise ProtocolError("the cloud wants more than there is")
            self._wanted.append((start, stop))

    def next(self, most: int) -> tuple[int, int] | None:
        """The next piece, of so many bytes at most; None where nothing is wanted."""
        if not self._wanted:
            return None
        start, stop = self._wanted.popleft()
        end = min(stop, start + most)
        if end < stop:
            self._wanted.appendleft((end, stop))
        return start, end


class _Flow:
    """How much is on its way: as much as the link takes, by how long the answers take. Pure; moments are seconds of any
    clock."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, int]] = deque()
        self._shortest_s = float("inf")
        self._under_way, self._most = 0, float(LEAST_BYTES)
        self._was_late, self._changed_at = False, float("-inf")

    @property
    def is_idle(self) -> bool:
        """Whether every piece has its answer."""
        return not self._sent

    @property
    def piece_bytes(self) -> int:
        """How large the next one should be."""
        is_fast = self._shortest_s < NEAR_S or self._most >= FAST_BYTES
        return LARGE_PIECE_BYTES if is_fast else PIECE_BYTES

    @property
    def has_room(self) -> bool:
        """Whether another one may leave."""
        return self._under_way < self._most

    def sent(self, size: int, now: float) -> None:
        """A piece of so many bytes leaves."""
        self._sent.append((now, size))
        self._under_way += size

    def answered(self, now: float) -> None:
        """The oldest one has its answer. As long as no answer was late twice as much leaves with each round trip; from
        then on one piece more, and one less where an answer is late, of those that left after the last change."""
        sent_at, size = self._sent.popleft()
        self._under_way -= size
        self._shortest_s = min(self._shortest_s, now - sent_at)
        if now - sent_at > self._shortest_s + SLOWER_S:
            self._was_late = True
            if sent_at >= self._changed_at:
                self._most, self._changed_at = max(LEAST_BYTES, self._most - self.piece_bytes), now
        else:
            more = self.piece_bytes * size / self._most if self._was_late else size
            self._most = min(MOST_BYTES, self._most + more)
