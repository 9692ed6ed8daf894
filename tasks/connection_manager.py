"""The connection to the cloud: reconnecting, the cloud's load, and the current link.

`tick` runs every interval (net.monitor). It learns from the frame under way, probes where the link was idle, hangs up
on a cloud that has gone silent, and connects again, a little later after every failure.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecloud.client.fallback import Backoff
from edgecloud.client.multiplexed import TRAIN_BYTES, TRAIN_SKIPPED, Listener, MultiplexedClient
from edgecloud.client.reconnector import blaming, greet_when_free
from edgecloud.net.connection import BURST_BYTES, Connection
from edgecloud.net.estimator import Estimator, Told
from edgecloud.net.link import LinkEstimate, Prober
from edgecloud.net.messages import Hello, Result
from edgecloud.net.tls import ClientTls
from edgecloud.tasks.planner import Conditions
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

PROBE_S = 0.1  # of a link that is idle
LEAST_FRAMES, MOST_FRAMES = TRAIN_SKIPPED + 4, 48
PROBE_TIMEOUT_S = 3.0
RECONNECT_S = 30.0  # for a cloud that has known the networks before
LONGEST_PAUSE_S = 30.0
LOAD_FORGET_S, LONGEST_FORGET_S = 10.0, 160.0
STILL_LOADED = 1.25
LEAST_S = 0.1  # for the second greeting, where the first one took all the time
NOTED, NOTED_S = 0.01, 1.0  # changes of the rate that are written down, and how often it is where there is none


@dataclass(frozen=True)
class KeeperConfig:
    """Where the cloud is, and how long things may take."""

    address: tuple[str, int]
    interval_s: float = 1.0
    ready_s: float = 300.0
    timeout_s: float = 60.0
    window: int = 6
    """Requests under way at once."""
    tls: ClientTls | None = None
    up_bytes_per_s: float | None = None
    """Believed of both ways, whenever a connection is made, instead of a probe."""
    told: Told | None = None
    """Is told the upload over time, in seconds of time.perf_counter; 0 where the connection is lost."""
    first_s: float | None = None
    """How long the first greeting may take in all; None: `ready_s`."""


class ConnectionManager:
    """Keeps the connection and the estimates. Its methods may be called from several threads."""

    listener: Listener
    """Is told what becomes of requests; to be set before `open`."""

    def __init__(self, config: KeeperConfig, hellos: Sequence[Hello], layers: Mapping[str, int]) -> None:
        self._config, self._hellos, self._layers = config, hellos, layers
        self._opening: Connection | None = None
        self._is_leaving = False
        self._lock = threading.Lock()
        self._uplink: MultiplexedClient | None = None
        self._estimator: Estimator | None = None
        self._load, self._load_at = 1.0, time.perf_counter()
        self._queue_s, self._queue_at = 0.0, self._load_at
        self._forget_s = LOAD_FORGET_S
        self._backoff, self._retry_at = Backoff(longest_s=LONGEST_PAUSE_S), 0.0
        self._sent_bytes = 0
        self.history: list[tuple[float, float]] = []
        """Moments of time.perf_counter, and the upload in bytes per second as estimated then."""
        self.probes, self.probe_bytes = 0, 0
        self.connects = 0
        self.first_link: LinkEstimate | None = None
        """As it was measured first."""
        self._opener: threading.Thread | None = None
        self.has_greeted = False
        """Whether a cloud has ever been there."""
        self.why = ""
        """Why there was no cloud when it was looked for last."""

    def open(self) -> LinkEstimate:
        """Measure the link, then connect and agree on the networks. Raises AppError."""
        config = self._config
        if config.first_s is None or config.first_s >= config.ready_s:
            return self._open(config.ready_s)
        try:
            return self._open(config.first_s)
        except AppError as error:
            told = blaming(error, "--timeout")
            self.why = printable(str(told), 200)
            raise told from None

    def open_meanwhile(self, wait_s: float) -> None:
        """The same in a thread of its own, which is waited for so long; `tick` goes on trying where it fails."""
        self._opener = threading.Thread(target=self._try_to_open, name="connects", daemon=True)
        self._opener.start()
        self._opener.join(wait_s)

    def _try_to_open(self) -> None:
        try:
            self._open(self._config.ready_s)
        except AppError as error:
            log.warning("running everything on the edge: %s", printable(str(error), 200))
        except Exception:  # nobody would hear of it
            log.exception("internal error while connecting")

    def _open(self, ready_s: float) -> LinkEstimate:
        """Raises AppError; the next try is a little later each time, until a request was answered."""
        try:
            return self._greet(ready_s)
        except AppError as error:
            self.why = printable(str(error), 200)
            raise

    def _greet(self, ready_s: float) -> LinkEstimate:
        self._retry_at = time.perf_counter() + self._backoff.next_s()
        end = time.monotonic() + ready_s
        link = self._measure(ready_s)  # it may be another link by now
        self._connect(max(end - time.monotonic(), LEAST_S))
        with self._lock:
            self._estimator = Estimator.of(link, time.perf_counter(), self._config.told)
            self.first_link = self.first_link or link
        if self.connects == 1:
            self._retry_at = 0.0
        self._note()
        return link

    def _measure(self, ready_s: float) -> LinkEstimate:
        """On a connection of its own, on which a network is named first, as the protocol wants."""
        hello, config = self._hellos[0], self._config
        connection, _ = greet_when_free(
            config.address, [hello], self._layers, ready_s, self._opened, config.tls, lambda: self._is_leaving
        )
        self.has_greeted = True
        try:
            prober = Prober(connection, Deadline.after(self._config.timeout_s, "link probe (--timeout)"))
            return prober.estimate(self._config.up_bytes_per_s)
        finally:
            connection.close()

    def _opened(self, connection: Connection) -> None:
        """Remember what is being opened, so that `leave` can end it."""
        self._opening = connection
        if self._is_leaving:
            connection.close()

    def leave(self) -> None:
        """Connect no more, and do not wait for a connection that is being opened."""
        self._is_leaving = True
        if self._opening is not None:
            self._opening.close()

    def _connect(self, ready_s: float) -> None:
        config = self._config
        uplink = MultiplexedClient.open(
            config.address,
            self._hellos,
            self._layers,
            self.listener,
            self._opened,
            ready_s=ready_s,
            window=config.window,
            timeout_s=config.timeout_s,
            tls=config.tls,
            is_given_up=lambda: self._is_leaving,
        )
        with self._lock:
            self._uplink, self._opening = uplink, None
            self._load = max(ready.load for ready in uplink.ready.values())
            self._queue_s = max(ready.queue_s for ready in uplink.ready.values())
            self._load_at = self._queue_at = time.perf_counter()
            self.connects += 1

    @property
    def uplink(self) -> MultiplexedClient | None:
        """The connection, where there is one."""
        uplink = self._uplink
        return uplink if uplink is not None and uplink.is_alive else None

    @property
    def sent_bytes(self) -> int:
        """Bytes of all boundaries that have left."""
        return self._sent_bytes + (0 if self._uplink is None else self._uplink.sent_bytes)

    def conditions(self) -> Conditions:
        """What a decision should take into account now."""
        uplink = self.uplink
        with self._lock:
            if uplink is None or self._estimator is None:
                return Conditions()
            load, queue_s = self._remembered(time.perf_counter())
            return Conditions(self._estimator.estimate(), uplink.ready, load, queue_s, uplink.max_payload)

    def _remembered(self, now: float) -> tuple[float, float]:
        """The cloud's load and queue, the less of it the longer ago that was told."""
        loaded, queued = (0.5 ** ((now - at) / self._forget_s) for at in (self._load_at, self._queue_at))
        return round(1.0 + (self._load - 1.0) * loaded, 2), round(self._queue_s * queued, 3)

    def _load_told(self, load: float, now: float) -> None:
        """A load that was forgotten too early is remembered for twice as long: each look at it costs a slow task."""
        if load > STILL_LOADED * self._remembered(now)[0]:
            self._forget_s = min(2 * self._forget_s, LONGEST_FORGET_S)
        elif load < STILL_LOADED:
            self._forget_s = LOAD_FORGET_S
        self._load, self._load_at = load, now

    def saw(self, result: Result) -> None:
        """Learn from an answer."""
        now = time.perf_counter()
        self._backoff.reset()
        self._retry_at = 0.0
        with self._lock:
            self._load_told(result.load, now)
            self._queue_s, self._queue_at = result.queue_s, now
            if self._estimator is not None:
                self._estimator.sample_up(result.timed_bytes, result.timed_s, now, BURST_BYTES)
        self._note()

    def hang_up_if_overdue(self) -> None:
        """Give up on a cloud that has not answered in time."""
        uplink = self.uplink
        if uplink is not None and uplink.is_overdue:
            uplink.close(DeadlineError(f"no answer within {self._config.timeout_s:g} s (--timeout)"))

    def blame(self, error: AppError) -> None:
        """Hang up on a cloud whose answers are of no use, and leave it alone for a while."""
        uplink = self.uplink
        if uplink is not None:
            self._retry_at, self.why = time.perf_counter() + self._backoff.next_s(), str(error)
            uplink.close(error)

    def tick(self) -> None:
        """Every interval."""
        try:
            uplink = self.uplink
            if uplink is None:
                self._reconnect()
            else:
                self._learn(uplink)
        except AppError as error:
            log.info("the link monitor: %s", error)
        except Exception:  # the next one may do better
            log.exception("internal error in the link monitor")

    def _learn(self, uplink: MultiplexedClient) -> None:
        sending = uplink.sending()
        if sending is not None and self._estimator is not None:
            with self._lock:
                self._estimator.partial_up(*sending, time.perf_counter())
        elif not uplink.outstanding and time.perf_counter() - uplink.last_used >= self._config.interval_s / 2:
            self._probe_or_hang_up(uplink)
        self._note()

    def _probe_or_hang_up(self, uplink: MultiplexedClient) -> None:
        """A probe that could not be sent may have ended within a frame, which nothing can follow: connect anew.

        A request that is on its way by now may only have held the probe up, and its own sender sees what becomes of it.
        """
        try:
            self._probe(uplink)
        except AppError as error:
            if not uplink.outstanding:
                uplink.close(error)
            raise

    def _probe(self, uplink: MultiplexedClient) -> None:
        """A few frames back to back, and a question about the load."""
        assert self._estimator is not None  # there is a connection
        told = uplink.ask_state(PROBE_TIMEOUT_S)
        if told is None:
            uplink.close(DeadlineError(f"no answer from the cloud for {PROBE_TIMEOUT_S:g} s"))
            return
        frames = int(PROBE_S * self._estimator.up_bytes_per_s / TRAIN_BYTES) + TRAIN_SKIPPED
        rate = uplink.probe(max(LEAST_FRAMES, min(MOST_FRAMES, frames)), PROBE_TIMEOUT_S)
        now = time.perf_counter()
        with self._lock:
            self.probes += 1
            self.probe_bytes += 0 if rate is None else rate[0] + TRAIN_SKIPPED * TRAIN_BYTES
            state, rtt_s = told
            self._queue_s, self._queue_at = state.queue_s, now
            if state.load > self._remembered(now)[0]:  # others load it; what it has forgotten we need not forget
                self._load_told(state.load, now)
            self._estimator.sample_rtt(rtt_s, now)
            if rate is not None:
                self._estimator.sample_up(*rate, now, TRAIN_SKIPPED * TRAIN_BYTES)

    def _note(self) -> None:
        if self._estimator is None:
            return
        now, rate = time.perf_counter(), self._estimator.up_bytes_per_s
        before = self.history[-1] if self.history else (float("-inf"), 0.0)
        if abs(rate - before[1]) > NOTED * before[1] or now - before[0] > NOTED_S:
            self.history.append((now, rate))

    def _reconnect(self) -> None:
        is_opening = self._opener is not None and self._opener.is_alive()
        if time.perf_counter() < self._retry_at or self._is_leaving or is_opening:
            return
        if self._uplink is not None:
            self._sent_bytes += self._uplink.sent_bytes
            self._uplink = None
            if self._config.told is not None:
                self._config.told(time.perf_counter(), 0.0)
        self._open(min(RECONNECT_S, self._config.ready_s))

    def close(self) -> None:
        """Hang up."""
        if self._uplink is not None:
            self._uplink.close()
