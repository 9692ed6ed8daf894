"""The connection of an edge to its cloud, for one inference and for many tasks: the only place that keeps one.

It connects (client.handshake says hello), probes the link and learns from every answer what the link and the load are
like, says when a request may be repeated (a budget of retries) and when the cloud is left alone (a breaker), and
connects again in the background, a little later after every failure.

Where `interval_s` is given `tick` runs every interval (net.monitor): it learns from the frame under way, probes where
the link was idle, disconnects from a silent cloud, and connects again. Without, `look` begins with that
whenever an inference needs the cloud.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from edgecloud.client.clouds import CloudAddress, Clouds
from edgecloud.client.conditions import Conditions, slowdown
from edgecloud.client.config import ClientConfig, CloudConfig
from edgecloud.client.fallback import (
    MOST_BUSY_S,
    OURS_TO_MEND,
    RETRIES,
    Backoff,
    Breaker,
    RetryBudget,
    busy_pause_s,
    retry_pause_s,
)
from edgecloud.client.handshake import Dial, RefusedError, blaming, handshake, is_nobody
from edgecloud.client.moving import TRIES, Mover
from edgecloud.client.multiplexed import SILENT, TRAIN_BYTES, TRAIN_SKIPPED, Listener, MultiplexedClient
from edgecloud.net.connection import BURST_BYTES, Connection, connect
from edgecloud.net.estimator import Estimator, OnSample
from edgecloud.net.frames import Limits
from edgecloud.net.link import LinkEstimate, Prober
from edgecloud.net.messages import Hello, Move, Ready, Result, State
from edgecloud.net.recorder import Recorder
from edgecloud.partition.cost import Link
from edgecloud.utils import addresses
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError, PeerClosedError, UsageError
from edgecloud.utils.units import format_seconds, printable

if TYPE_CHECKING:
    from edgecloud.client.progress import Progress
    from edgecloud.client.shipping import Shipping
    from edgecloud.net.tls import ClientTls

T = TypeVar("T")
log = logging.getLogger(__name__)

PROBE_S = 0.1  # of a link that is idle
LEAST_FRAMES, MOST_FRAMES = TRAIN_SKIPPED + 4, 48
PROBE_TIMEOUT_S = 3.0
RECONNECT_S = 30.0  # for a cloud that has known the networks before, where nobody waits for the connection ...
AGAIN_S = 0.5  # ... and where an inference does
ROUND_TRIPS = 4  # of the link, on top of what follows
IDLE_S = 10.0  # after so long a connection may have been forgotten by something on its way: ask before sending
IDLE_ANSWER_S = 0.25
LONGEST_PAUSE_S = 30.0
LOAD_FORGET_S, LONGEST_FORGET_S = 10.0, 160.0
STILL_LOADED = 1.25
NEWS_S = 1.0  # without any news of a cloud that is not used, after which it is asked how busy it is ...
NEWS_SHARE = 0.03  # ... but no longer than for this share of the time
SEEN_OFF_S, SEEN_OFF_NAP_S = 1.0, 0.05  # a connection that was left for another one is closed when unused for so long
LEAST_S = 0.1  # for the second handshake, where the first one took all the time
END_S = 0.5
AWAY = "cloud unreachable: "
NOTED, NOTED_S = 0.01, 1.0  # changes of the rate that are written down, and how often it is where there is none


@dataclass(frozen=True)
class ConnectionConfig:
    """Where the cloud is, and how long things may take."""

    address: tuple[str, int]
    more: tuple[CloudAddress, ...] = ()
    """Further clouds: each time the best of all is taken."""
    interval_s: float | None = None
    """How often `tick` is called; None: never."""
    ready_s: float = CloudConfig.ready_s
    timeout_s: float = CloudConfig.timeout_s
    window: int = 6
    """Requests under way at once."""
    tls: "ClientTls | None" = None
    transport: str = CloudConfig.transport
    up_bytes_per_s: float | None = None
    """Believed of both ways, whenever the link would be measured."""
    link: Link | None = None
    """Believed altogether: nothing is measured, not even the round trip."""
    on_sample: OnSample | None = None
    """Is told the upload over time, in seconds of time.perf_counter; 0 where the connection is lost."""
    shipping: "Shipping | None" = None
    """Sends networks that the cloud does not have, where it takes them ..."""
    is_shipping_awaited: bool = False
    """... and whether that is waited for, or everything runs on the edge meanwhile."""
    first_s: float | None = None
    """How long the first handshake may take in all; None: `ready_s`."""


def connection_of(
    config: ClientConfig,
    address: tuple[str, int],
    recorder: Recorder | None = None,
    interval_s: float | None = None,
    shipping: "Shipping | None" = None,
    more: tuple[CloudAddress, ...] = (),
) -> ConnectionConfig:
    """How the connection to the cloud at an address is kept, as an edge is told; what is seen of the link is noted."""
    return ConnectionConfig(
        address,
        more,
        interval_s,
        config.cloud.ready_s,
        config.cloud.timeout_s,
        tls=config.cloud.tls,
        transport=config.cloud.transport,
        up_bytes_per_s=config.link.up_bytes_per_s,
        link=config.link.given,
        on_sample=None if recorder is None else recorder.note,
        first_s=config.cloud.first_s,
        shipping=shipping,
        is_shipping_awaited=config.cloud.is_shipping_awaited,
    )


class Meanwhile:
    """Does one thing in a thread of its own, such as opening a connection; its result is read later."""

    def __init__(self, do: Callable[[], None], name: str) -> None:
        self._do, self._name = do, name
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether it is at it."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._do, name=self._name, daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for its end, so long at most; None: as long as it takes."""
        if self._thread is not None:
            self._thread.join(seconds)


class _Asker:
    """Asks a cloud that is not used how busy it is, in a thread of its own; a cloud that does not answer is gone."""

    def __init__(self, client: Callable[[], MultiplexedClient | None], note: Callable[[State], None]) -> None:
        self._client, self._note = client, note
        self._meanwhile = Meanwhile(self._ask, "asks how busy it is")
        self._at, self._took_s, self._timeout_s = 0.0, 0.0, 0.0

    def ask_if_due(self, timeout_s: float) -> None:
        """Begin, where nobody has heard of the cloud for long enough and there is time for a question."""
        client, now = self._client(), time.perf_counter()
        pause_s = max(NEWS_S, self._took_s / NEWS_SHARE)
        if client is None or client.outstanding or now - max(client.last_used, self._at) < pause_s:
            return
        if not self._meanwhile.is_busy:
            self._at, self._timeout_s = now, timeout_s
            self._meanwhile.start()

    def _ask(self) -> None:
        client = self._client()
        if client is None:
            return
        try:
            reply = client.ask_state(self._timeout_s)
            if reply is None:
                client.close(DeadlineError("no STATUS answer from a cloud that was not used"))
            else:
                self._note(reply[0])
        except AppError as error:
            log.info("a cloud that is not used did not answer: %s", error)
            client.close(error)
        except Exception:  # nobody would hear of it
            log.exception("internal error while asking how busy the cloud is")
        self._took_s = time.perf_counter() - self._at


class ConnectionManager:
    """Keeps the connection and the estimates. Its methods may be called from several threads."""

    listener: Listener = SILENT
    """Is told what becomes of requests that are not asked; to be set before the connection is opened."""
    link: LinkEstimate | None = None
    """As it was measured last ..."""
    first_link: LinkEstimate | None = None
    """... and first."""
    state: State | None = None
    """How busy the cloud said that it is when it was asked last."""
    has_connected = False
    """Whether a cloud has ever been there."""
    why = ""
    """Why there was no cloud when it was looked for last ..."""
    error: AppError | None = None
    """... as the error in which the last try in the background ended."""
    moved = 0
    """How often a cloud had this edge connect anew."""

    def __init__(self, config: ConnectionConfig, hellos: Sequence[Hello], layers: Mapping[str, int]) -> None:
        self._config, self._layers = config, layers
        self._hellos = [replace(hello, moves=True) for hello in hellos]
        token = hellos[0].token if hellos else ""
        self._clouds = Clouds([CloudAddress(*config.address), *config.more], token, config.tls, config.transport)
        self._seen_off: list[MultiplexedClient] = []
        """Connections that were left for others, while requests come back over them."""
        if config.shipping is not None:
            config.shipping.on_shipped = self._on_shipped
        self._opening: Connection | None = None
        self._peer: tuple[str, int] | None = None
        self._is_leaving = False
        is_over = lambda: self._is_leaving or self._alive is None  # noqa: E731
        self._mover = Mover(self._move, self._stay, is_over, 1 if self._clouds.is_fixed else TRIES)
        self._lock, self._replacing = threading.Lock(), threading.Lock()
        """One held for moments only, and never while anything else of this project is called; the other while a
        connection is replaced that an inference needs."""
        self._client: MultiplexedClient | None = None
        self._estimator: Estimator | None = None
        self._load, self._load_at = 1.0, time.perf_counter()
        self._queue_s, self._queue_at = 0.0, self._load_at
        self._speed: float | None = None
        self._forget_s = LOAD_FORGET_S
        self._breaker, self._budget = Breaker(Backoff(longest_s=LONGEST_PAUSE_S)), RetryBudget()
        self._reconnector, self._asker = (
            Meanwhile(self._open_for_later, "reconnects"),
            _Asker(lambda: self.client, self._note_state),
        )
        self._lost_at: float | None = None
        self._is_surveying = False
        """Whether a plan is made from what the link is measured to be."""
        self._is_gap = False
        """Whether the last sample said that the connection is lost."""
        self._sent_bytes = 0
        self.history: list[tuple[float, float]] = []
        """Moments of time.perf_counter, and the upload in bytes per second as estimated then."""
        self.probes, self.probe_bytes, self.connects = 0, 0, 0
        self.ready: Mapping[str, Ready] = {}
        """What the cloud said last of every network; it stays where the connection does not."""

    # --- what there is

    @property
    def _alive(self) -> MultiplexedClient | None:
        """The connection, also to a cloud that is left alone."""
        client = self._client
        return client if client is not None and client.is_alive else None

    @property
    def client(self) -> MultiplexedClient | None:
        """The connection, where there is one and the cloud is not left alone."""
        return None if self._breaker.is_open else self._alive

    @property
    def is_left_alone(self) -> bool:
        """Whether everything runs on the edge for a while."""
        return self._breaker.is_open

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._alive is not None

    @property
    def sent_bytes(self) -> int:
        """Bytes of all boundaries that have left."""
        with self._lock:
            open_ones = [*self._seen_off, *([] if self._client is None else [self._client])]
            return self._sent_bytes + sum(client.sent_bytes for client in open_ones)

    @property
    def speed(self) -> float | None:
        """How fast the cloud said last that it is, beside itself when it is quiet; None where it said nothing."""
        return self._speed

    @property
    def reconnects(self) -> int:
        """Connections after the first one that nobody had asked for."""
        return max(0, self.connects - self.moved - 1)

    @property
    def place(self) -> str:
        """Where the cloud is that is connected, or was last: its address in numbers and the port; "" for none."""
        return "" if self._peer is None else addresses.show(*self._peer)

    @property
    def limits(self) -> Limits:
        """Of the frames that the cloud takes; the default ones if it is unreachable."""
        client = self._alive
        return Limits() if client is None else client.connection.limits

    @property
    def link_and_state(self) -> tuple[LinkEstimate, State]:
        """As they were measured last. Raises PeerClosedError where they never were."""
        if self.link is None or self.state is None:
            raise PeerClosedError(self.why or "the link was not measured")
        return self.link, self.state

    def conditions(self) -> Conditions:
        """What a decision should take into account now."""
        client = self.client
        with self._lock:
            if client is None or self._estimator is None:
                return Conditions()
            load, queue_s = self._remembered(time.perf_counter())
            return Conditions(self._estimator.estimate(), client.ready, load, queue_s, client.max_payload)

    # --- connecting

    def open(self) -> None:
        """Connect and measure the link. Raises AppError."""
        config = self._config
        if config.first_s is None or config.first_s >= config.ready_s:
            self._open(config.ready_s)
            return
        try:
            self._open(config.first_s)
        except AppError as error:
            cause = blaming(error, "--timeout")
            self.why = printable(str(cause), 200)
            raise cause from None

    def open_in_background(self, wait_s: float = 0.0) -> None:
        """The same in a thread of its own, which is waited for so long; where it fails it is tried again later."""
        self._reconnector.start()
        self.wait(wait_s)

    def wait(self, seconds: float) -> None:
        """Give what is done in the background a moment to end."""
        self._reconnector.wait(seconds)

    def connect(self, ready_s: float | None = None) -> MultiplexedClient:
        """Connect and agree on the networks, within `ready_s` seconds; the link is not measured. Raises AppError."""
        client = self._connected(self._clouds.dial, self._config.ready_s if ready_s is None else ready_s)
        self._use(client)
        return client

    def connect_if_due(self, ready_s: float) -> None:
        """The same where there is no connection, unless the cloud is left alone for a while yet. Raises AppError."""
        if self.client is not None:
            return
        if self._reconnector.is_busy:
            self.wait(ready_s)
            if self.is_connected:
                return
        if self._breaker.is_open and not self._breaker.may_probe(time.monotonic()):
            raise AppError(self.why)
        self._drop()
        try:
            self.connect(ready_s)
        except AppError as error:
            self._failed(error)
            raise

    def measure(self) -> LinkEstimate:
        """Measure the link: over the connection that there is, or where that belongs to threads that send and receive,
        since something has left in chunks, over one of its own. Raises AppError."""
        self._is_surveying = True
        client, is_given = self._needed(), self._config.link is not None
        is_apart = client.has_threads and not is_given
        if is_apart:
            link = self._measure_apart(self._config.ready_s, self._clouds.again)
        else:
            link = self._measure_link(client.connection)
        self._estimate_from(link)
        return link

    def ask_state(self, timeout_s: float) -> State:
        """Ask the cloud how busy it is. Raises AppError where it is lost."""
        return self._state_from(self._needed(), timeout_s)

    def ask_meanwhile(self) -> None:
        """Have a cloud that is not used asked how busy it is, where nobody has heard of it for a while.

        No inference waits for that. A question lasts as long as a round trip, hardly computes, and is asked again only
        after so long that all of them take 3 % of the time.
        """
        if not self._is_leaving:
            self._asker.ask_if_due(IDLE_ANSWER_S + ROUND_TRIPS * self._rtt_s)

    def _state_from(self, client: MultiplexedClient, timeout_s: float) -> State:
        reply = client.ask_state(timeout_s)
        if reply is None:
            raise DeadlineError(f"no STATUS answer from the cloud within {timeout_s:g} s (--timeout)")
        self._note_state(reply[0])
        return reply[0]

    def _needed(self) -> MultiplexedClient:
        client = self._alive
        if client is None:
            raise PeerClosedError(self.why or "there is no connection to a cloud")
        return client

    def _open(self, ready_s: float) -> None:
        """Connect and measure. Raises AppError; the next try is a little later each time, until a request was answered.

        With a monitor the link is measured first, over a connection of its own on which one network is named, as the
        protocol wants: the other one belongs to the threads that send and receive.
        """
        end = time.monotonic() + ready_s
        try:
            if self._config.interval_s is not None:
                self._estimate_from(self._measure_apart(ready_s))  # it may be another link by now
                client = self._connected(self._clouds.again, max(end - time.monotonic(), LEAST_S))
            else:
                client = self._connected(self._clouds.dial, ready_s)
                self._survey(client)
        except AppError as error:
            self._failed(error)
            raise
        self._use(client)

    def _open_for_later(self) -> None:
        """What the reconnector does."""
        ready_s = self._config.ready_s if not self.connects else min(RECONNECT_S, self._config.ready_s)
        is_first, self.error = not self.why and not self.connects, None
        try:
            self._open(ready_s)
        except AppError as error:
            self.error = error
            if is_first:
                log.warning("running everything on the edge: %s", self.why)
            else:
                log.info("%s", self.absence)
        except Exception as error:  # nobody would hear of it
            log.exception("internal error while reconnecting")
            self.error = AppError(f"handshake failed: {type(error).__name__}")
            self._failed(self.error)

    def _connected(self, dial: Dial, ready_s: float) -> MultiplexedClient:
        """Raises AppError."""
        return self._with_networks(lambda: self._of_any(self._greeted, dial, ready_s))

    def _of_any(self, greet: Callable[[Dial, float], T], dial: Dial, ready_s: float) -> T:
        """Do what says hello, to one cloud after the other where there are several. Raises AppError: what the first one
        has refused with, or rather the one that takes networks."""
        end, left_s = time.monotonic() + ready_s, ready_s
        refusals: list[tuple[AppError, CloudAddress | None]] = []
        while True:
            try:
                done = greet(dial, left_s)
            except AppError as error:
                refusals.append((error, self._clouds.used))
                left_s = end - time.monotonic()
                if is_nobody(error) or self._is_leaving or not self._clouds.give_another() or left_s <= 0:
                    break
                dial = self._clouds.dial
            else:
                self._clouds.forgive()
                return done
        why, self._clouds.used = max(refusals, key=lambda refusal: refusal[0].accepts > 0)  # the first one of them
        raise why

    def _with_networks(self, greet: Callable[[], T]) -> T:
        """Do what says hello. A network that the cloud does not have and takes is sent; where that is waited for, what
        follows is as if it had been there. Raises AppError."""
        for _ in self._hellos:
            try:
                return greet()
            except AppError as error:
                if not self._is_sent_for(error) or not self._waits_for_shipping:
                    raise
        return greet()

    @property
    def shipped(self) -> "Progress | None":
        """How far the network is that is sent, or was last; None where none was."""
        return None if self._shipping is None else self._shipping.progress

    @property
    def _shipping(self) -> "Shipping | None":
        return self._config.shipping

    def _is_sent_for(self, error: AppError) -> bool:
        """Whether a refusal is mended by sending a network, which is under way then, or done where it is awaited."""
        shipping = self._shipping
        if shipping is None or not error.accepts:
            error.accepts = 0  # nothing is sent
            return False
        self._clouds.lead(shipping)
        if not shipping.takes(error, error.model):
            if reason := shipping.why(error.model):
                error.accepts, error.args = 0, (f"{error}; the network was not taken: {reason}",)
            return False
        if self._waits_for_shipping:
            shipping.wait()
            return not shipping.why(error.model) and not self._is_leaving
        name = printable(error.model, 64)
        error.args = (f"the cloud does not have {name} yet: it is sent there (--ship wait waits for that)",)
        return True

    @property
    def _waits_for_shipping(self) -> bool:
        """At first only: no inference waits for it later."""
        return self._config.is_shipping_awaited and not self.connects

    def _on_shipped(self, model: str, digest: str) -> None:
        """The cloud has a network by now: connect again at once, whether anybody asks or not."""
        with self._lock:
            self._hellos = [replace(one, bundle=digest) if one.model == model else one for one in self._hellos]
            self._breaker.forgive()
            is_open = self._breaker.is_open
        if is_open and not self._is_leaving and not self._waits_for_shipping and not self._reconnector.is_busy:
            self._reconnector.start()

    @property
    def _patience_s(self) -> float:
        """How long a cloud may say that it is busy, and be waited for all the same: where this edge can answer by
        itself, it does so meanwhile, and comes back."""
        config = self._config
        return MOST_BUSY_S if config.first_s is not None and config.first_s < config.ready_s else math.inf

    def _greeted(self, dial: Dial, ready_s: float) -> MultiplexedClient:
        config = self._config
        client = MultiplexedClient.open(
            config.address,
            self._hellos,
            self._layers,
            self.listener,
            self._on_connection,
            ready_s=ready_s,
            window=config.window,
            timeout_s=config.timeout_s,
            tls=config.tls,
            is_given_up=lambda: self._is_leaving,
            dial=dial,
            patience_s=self._patience_s,
        )
        self.has_connected = True
        if config.interval_s is not None:
            client.start()
        return client

    def _measure_apart(self, ready_s: float, dial: Dial | None = None) -> LinkEstimate:
        config = self._config

        def greet(dial: Dial, left_s: float) -> Connection:
            hello = replace(self._hellos[0], moves=False)  # it ends soon
            more = (self._on_connection, config.tls, lambda: self._is_leaving, dial, self._patience_s)
            return handshake(config.address, [hello], self._layers, left_s, *more)[0]

        connection = self._with_networks(lambda: self._of_any(greet, dial or self._clouds.dial, ready_s))
        self.has_connected = True
        try:
            return self._measure_link(connection)
        finally:
            connection.close()

    def _survey(self, client: MultiplexedClient) -> None:
        """Measure the link over a connection that nobody uses yet, and ask how busy the cloud is, for a first plan."""
        if self.connects and (not self._is_surveying or (self.link is not None and self.state is not None)):
            return
        try:
            if self.link is None:
                self._estimate_from(self._measure_link(client.connection))
            self._state_from(client, self._config.timeout_s)
        except BaseException:
            client.close()
            raise

    def _measure_link(self, connection: Connection) -> LinkEstimate:
        """The one place that probes a link over a connection on which nothing else is under way."""
        config_link = self._config.link
        if config_link is not None:
            return LinkEstimate(config_link.up_bytes_per_s, config_link.down_bytes_per_s, config_link.rtt_s, "given")
        prober = Prober(connection, Deadline.after(self._config.timeout_s, "link probe (--timeout)"))
        return prober.estimate(self._config.up_bytes_per_s)

    def _estimate_from(self, link: LinkEstimate) -> None:
        with self._lock:
            if self._estimator is None or link is not self.link:
                self._estimator = Estimator.of(link, time.perf_counter(), self._config.on_sample)
                self._is_gap = False
            self.link, self.first_link = link, self.first_link or link
        self._note_rate()

    def _use(self, client: MultiplexedClient, instead_of: MultiplexedClient | None = None) -> bool:
        """From now on requests go over this connection; False where another is there by now than it was to replace."""
        now = time.perf_counter()
        with self._lock:
            alive = self._alive
            if instead_of is not None and alive is not None and alive is not instead_of:
                return False
            old, self._client, self._opening = self._client, client, None
            if alive is not None:
                self._seen_off.append(alive)
            self.moved += instead_of is not None
            self._peer = client.connection.peer or self._peer
            self.ready = client.ready
            self._load = max(slowdown(ready) for ready in client.ready.values())
            self._speed = min(ready.speed for ready in client.ready.values())
            self._queue_s = max(ready.queue_s for ready in client.ready.values())
            self._load_at = self._queue_at = now
            self.connects += 1
            lost_at, self._lost_at = self._lost_at, None
            if self._breaker.is_open:
                self._breaker.reconnected()
        if self._is_gap and self._estimator is not None and self._config.on_sample is not None:
            self._is_gap = False
            self._config.on_sample(now, self._estimator.up_bytes_per_s)
        if lost_at is not None:
            log.warning("cloud reachable again after %s", format_seconds(time.monotonic() - lost_at))
        if alive is not None:
            Meanwhile(lambda: self._see_off(alive), "sees a connection off").start()
        else:
            self._leave_behind(old)
        return True

    def _leave_behind(self, old: MultiplexedClient | None) -> None:
        if old is not None:
            self._sent_bytes += old.sent_bytes
            old.close()

    # --- moving, because a cloud asks for it

    def _move(self, move: Move) -> bool:
        """Open a connection to another cloud, and use that one once it is ready. Until then, and where none is found,
        the old one goes on; what is under way on it is finished. Returns whether that is all."""
        old = self._alive
        if old is None or self._is_leaving:
            return True
        try:
            client = self._elsewhere(old, move.address)
        except UsageError as error:
            log.warning("a MOVE was not followed: %s", printable(str(error), 200))
            return True
        except AppError as error:
            log.info("this edge stays with its cloud: %s", printable(str(error), 200))
            if error.refusal in OURS_TO_MEND:  # another network, say
                self._clouds.pass_over()
            return False
        if client is None:
            log.info("this edge stays with its cloud, which is the best")
            return True
        rtt_s = self._clouds.rtt_s
        if self._is_leaving or not self._use(client, instead_of=old):  # lost, and replaced by another meanwhile
            client.close()
            return True
        if self._estimator is not None and rtt_s is not None:
            with self._lock:
                self._estimator.sample_rtt(rtt_s, time.perf_counter())
        log.info("moved to the cloud at %s", self.place)
        return True

    def _stay(self) -> None:
        """No other cloud was found: one that is stopping need not wait for this edge any longer."""
        client = self._alive
        if client is not None:
            with contextlib.suppress(AppError):
                client.ask_state(IDLE_ANSWER_S + ROUND_TRIPS * self._rtt_s, stays=True)

    def _elsewhere(self, old: MultiplexedClient, text: str) -> MultiplexedClient | None:
        """A connection that is ready for requests; None where the old one is the best. Raises AppError."""
        current, ready_s = old.connection.peer, min(RECONNECT_S, self._config.ready_s)
        first = self._clouds.elsewhere(text, current, ready_s)
        if first is None:
            return None
        opened = [first]

        def dial(seconds: float) -> Connection:
            connection = opened.pop() if opened else self._clouds.elsewhere(text, current, seconds)
            if connection is None:
                raise AppError("it is the best by now")
            return connection

        return self._greeted(dial, ready_s)

    def _see_off(self, old: MultiplexedClient) -> None:
        """Close a connection once its last answer has come; who took it just before the move may still use it."""
        while old.is_alive and not self._is_leaving:
            if old.is_overdue:
                old.close(DeadlineError(f"no answer within {self._config.timeout_s:g} s (--timeout)"))
            if time.perf_counter() - old.last_used > SEEN_OFF_S and old.retire():
                break
            time.sleep(SEEN_OFF_NAP_S)
        with self._lock:
            self._seen_off.remove(old)
        self._leave_behind(old)

    def _on_connection(self, connection: Connection) -> None:
        """Remember what is being opened, so that `leave` can end it."""
        self._opening, connection.on_move = connection, self._mover.told
        if self._is_leaving:
            connection.close()

    # --- what becomes of requests

    def ready_client(self, deadline: Deadline) -> MultiplexedClient:
        """A connection for an inference: one that was idle for long is asked first whether it still is one, and where
        there is none a new one is made. Raises AppError."""
        with self._replacing:
            client, slack_s = self._alive, ROUND_TRIPS * self._rtt_s
            if client is not None:
                client.hear(IDLE_ANSWER_S + slack_s)
                client = self._alive
            if client is not None and time.perf_counter() - client.last_used > IDLE_S:
                try:
                    if client.ask_state(min(IDLE_ANSWER_S + slack_s, deadline.remaining())) is None:
                        raise DeadlineError("no answer")
                except AppError as error:
                    log.info("the idle connection was lost: %s", error)
                    client.close()
                    client = None
            return client or self._replaced(deadline, slack_s)

    def _replaced(self, deadline: Deadline, slack_s: float) -> MultiplexedClient:
        wait_s = min(AGAIN_S + slack_s, deadline.remaining())
        self._mover.wait(wait_s)
        if (moved := self._alive) is not None:
            return moved
        self._drop()
        try:
            client = self._connected(self._peer_again if self._clouds.is_one else self._clouds.dial, wait_s)
        except DeadlineError:  # its text speaks of the first handshake
            raise DeadlineError(f"a new connection was not ready within {wait_s:.3g} s") from None
        self._use(client)
        return client

    def _peer_again(self, seconds: float) -> Connection:
        """The one cloud that there is, by its address in numbers: no name server is asked."""
        config = self._config
        return connect(*(self._peer or config.address), seconds, tls=config.tls, transport=config.transport)

    @property
    def _rtt_s(self) -> float:
        return 0.0 if self._estimator is None else self._estimator.rtt_s

    @property
    def reconnect_s(self) -> float:
        """What a request takes longer now because the connection would have to be made first."""
        return 0.0 if self.is_connected else ROUND_TRIPS * self._rtt_s

    def on_result(self, result: Result) -> None:
        """Learn from an answer what the link and the cloud are like."""
        now = time.perf_counter()
        with self._lock:
            self._on_load(slowdown(result), now)
            self._speed = result.speed
            self._queue_s, self._queue_at = result.queue_s, now
            if self._estimator is not None:
                self._estimator.sample_up(result.timed_bytes, result.timed_s, now, BURST_BYTES)
        self._note_rate()

    def on_success(self) -> None:
        """An inference that the cloud took part in has an answer."""
        with self._lock:
            self._breaker.succeeded()
            self._budget.succeeded()

    def on_failure(self, error: AppError, tries: int) -> float | None:
        """Take note that a request was refused or lost at its so many-th try.

        Returns in how many seconds it may be repeated, or None where that is of no use: the one rule of retries.
        """
        refusal = error.error if isinstance(error, RefusedError) and error.error.id else None
        with self._lock:
            self._budget.failed()
            if refusal is not None:
                self._breaker.refused(time.monotonic())
            if tries > RETRIES or not self._budget.allows or self._breaker.is_open:
                return None
        if refusal is not None:
            is_soon = refusal.code == "BUSY" and refusal.retry_after_s <= MOST_BUSY_S  # else it has nobody who computes
            return busy_pause_s(refusal.retry_after_s) if is_soon else None
        return retry_pause_s(tries) if isinstance(error, PeerClosedError) else None

    def give_up(self, why: str) -> None:
        """An inference has given the cloud up: one that is gone, or that only refuses, is left alone for a while."""
        with self._lock:
            if self._alive is None and not self._breaker.is_open:
                self._breaker.failed(time.monotonic())
            is_open = self._breaker.is_open
            if is_open:
                self.why, self._lost_at = why, time.monotonic()
        if is_open:
            self._drop()

    def blame(self, error: AppError) -> None:
        """Disconnect from a cloud with unusable answers, and do not use it for a while."""
        self.hang_up(error)
        self.give_up(printable(str(error), 200))

    def hang_up(self, error: AppError) -> None:
        """End the connection that there is; requests that are out are lost with this error."""
        client = self._alive
        if client is not None:
            client.close(error)

    def look(self) -> None:
        """Begin a handshake with a cloud that is not used, if it is time for that."""
        if self._shipping is not None and self._shipping.is_busy:
            self._say_how_far()
            return
        if self._breaker.may_probe(time.monotonic()) and not self._reconnector.is_busy and not self._is_leaving:
            self._reconnector.start()

    @property
    def absence(self) -> str:
        """Why no cloud is asked: it is unreachable, or does not have the network yet."""
        is_sending = self._shipping is not None and self._shipping.is_busy
        return self.why if is_sending else f"{AWAY}{self.why}"

    def _say_how_far(self) -> None:
        if self._shipping is not None and self._shipping.progress is not None:
            self.why = self._shipping.progress.text()

    def _failed(self, error: AppError) -> None:
        """The handshake with the cloud failed."""
        self.why = printable(str(error), 200)
        with self._lock:
            self._breaker.failed(time.monotonic())

    def _drop(self) -> None:
        """Forget a connection that is gone, or to a cloud that is left alone; requests under way may still end."""
        with self._lock:
            client = self._client
            if client is None or (client.is_alive and (client.outstanding or not self._breaker.is_open)):
                return
            self._client = None
        self._leave_behind(client)
        if self._config.on_sample is not None:
            self._is_gap = True
            self._config.on_sample(time.perf_counter(), 0.0)

    def hang_up_if_overdue(self) -> None:
        """Give up on a cloud that has not answered in time."""
        client = self._alive
        if client is not None and client.is_overdue:
            client.close(DeadlineError(f"no answer within {self._config.timeout_s:g} s (--timeout)"))

    # --- how busy the cloud is, and what the link is like

    def _remembered(self, now: float) -> tuple[float, float]:
        """The cloud's load and queue, the less of it the longer ago that was told."""
        load_share, queue_share = (0.5 ** ((now - at) / self._forget_s) for at in (self._load_at, self._queue_at))
        return round(1.0 + (self._load - 1.0) * load_share, 2), round(self._queue_s * queue_share, 3)

    def _on_load(self, load: float, now: float) -> None:
        """A load that was forgotten too early is remembered for twice as long: each look at it costs a slow task."""
        if load > STILL_LOADED * self._remembered(now)[0]:
            self._forget_s = min(2 * self._forget_s, LONGEST_FORGET_S)
        elif load < STILL_LOADED:
            self._forget_s = LOAD_FORGET_S
        self._load, self._load_at = load, now

    def _note_state(self, state: State) -> None:
        now = time.perf_counter()
        with self._lock:
            self.state, self._speed = state, state.speed
            self._queue_s, self._queue_at = state.queue_s, now
            self._load, self._load_at = slowdown(state), now

    def tick(self) -> None:
        """Every interval."""
        try:
            client = self.client
            if client is None:
                self._reconnect()
            else:
                self._learn(client)
        except AppError as error:
            log.info("the link monitor: %s", error)
        except Exception:  # the next one may do better
            log.exception("internal error in the link monitor")

    def _learn(self, client: MultiplexedClient) -> None:
        assert self._config.interval_s is not None  # or nothing ticks
        sending = client.sending()
        if sending is not None and self._estimator is not None:
            with self._lock:
                self._estimator.partial_up(*sending, time.perf_counter())
        elif not client.outstanding and time.perf_counter() - client.last_used >= self._config.interval_s / 2:
            self._probe_or_hang_up(client)
        self._note_rate()

    def _probe_or_hang_up(self, client: MultiplexedClient) -> None:
        """A probe that could not be sent may have ended within a frame, which nothing can follow: connect anew.

        A request that is on its way by now may only have held the probe up, and its own sender sees what becomes of it.
        """
        try:
            self._probe(client)
        except AppError as error:
            if not client.outstanding:
                client.close(error)
            raise

    def _probe(self, client: MultiplexedClient) -> None:
        """A few frames back to back, and a question about the load."""
        assert self._estimator is not None  # there is a connection
        reply = client.ask_state(PROBE_TIMEOUT_S)
        if reply is None:
            client.close(DeadlineError(f"no answer from the cloud for {PROBE_TIMEOUT_S:g} s"))
            return
        frames = int(PROBE_S * self._estimator.up_bytes_per_s / TRAIN_BYTES) + TRAIN_SKIPPED
        rate = client.probe(max(LEAST_FRAMES, min(MOST_FRAMES, frames)), PROBE_TIMEOUT_S)
        now = time.perf_counter()
        with self._lock:
            self.probes += 1
            self.probe_bytes += 0 if rate is None else rate[0] + TRAIN_SKIPPED * TRAIN_BYTES
            state, rtt_s = reply
            self._queue_s, self._queue_at = state.queue_s, now
            if slowdown(state) > self._remembered(now)[0]:  # others load it; what it has forgotten we need not forget
                self._on_load(slowdown(state), now)
            self._estimator.sample_rtt(rtt_s, now)
            if rate is not None:
                self._estimator.sample_up(*rate, now, TRAIN_SKIPPED * TRAIN_BYTES)

    def _note_rate(self) -> None:
        if self._estimator is None:
            return
        now, rate = time.perf_counter(), self._estimator.up_bytes_per_s
        before = self.history[-1] if self.history else (float("-inf"), 0.0)
        if abs(rate - before[1]) > NOTED * before[1] or now - before[0] > NOTED_S:
            self.history.append((now, rate))

    def _reconnect(self) -> None:
        """For the monitor: connect again where it is time for that."""
        if self._is_leaving or self._reconnector.is_busy:
            return
        if self._shipping is not None and self._shipping.is_busy:
            self._say_how_far()
            return
        with self._lock:
            if self._client is not None and not self._breaker.is_open:
                self._breaker.lost(time.monotonic())
        self._drop()
        if self._client is None and self._breaker.may_probe(time.monotonic()):
            self._reconnector.start()
            self._reconnector.wait()

    # --- leaving

    def leave(self) -> None:
        """Connect no more, and do not wait for a connection that is being opened."""
        self._is_leaving = True
        if self._shipping is not None:
            self._shipping.leave()
        if self._opening is not None:
            self._opening.close()

    def close(self) -> None:
        """Close the connection, and do not reconnect."""
        self.leave()
        self.wait(END_S)
        self._mover.wait(END_S)
        with self._lock:
            open_ones = [*self._seen_off, *([] if self._client is None else [self._client])]
        for client in open_ones:
            client.close()
