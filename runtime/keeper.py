"""The cloud as an edge sees it that keeps going: its connection, its load, and what the link is like by now.

`tick` runs every interval (net.monitor). It learns from the frame under way, probes where the link was idle, hangs up
on a cloud that has gone silent, and connects again, a little later after every failure.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from net.connection import BURST_BYTES, connect
from net.estimator import Estimator
from net.link import LinkEstimate, Prober
from net.messages import Hello, Ready, Result
from runtime.planner import Conditions
from runtime.uplink import CONNECT_S, TRAIN_BYTES, TRAIN_SKIPPED, Listener, Uplink
from utils.deadline import Deadline
from utils.errors import AppError, DeadlineError

log = logging.getLogger(__name__)

PROBE_S = 0.1  # of a link that is idle
LEAST_FRAMES, MOST_FRAMES = TRAIN_SKIPPED + 4, 48
PROBE_TIMEOUT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LOAD_FORGET_S, LONGEST_FORGET_S = 10.0, 160.0
STILL_LOADED = 1.25


@dataclass(frozen=True)
class KeeperConfig:
    """Where the cloud is, and how long things may take."""

    address: tuple[str, int]
    interval_s: float = 1.0
    ready_s: float = 300.0
    timeout_s: float = 60.0
    window: int = 6
    """Requests under way at once."""
    bandwidth: float | None = None
    """Bytes per second to believe instead of a probe, at the start."""


class Keeper:
    """Keeps the connection and the estimates. Its methods may be called from several threads."""

    listener: Listener
    """Is told what becomes of requests; to be set before `open`."""

    def __init__(self, config: KeeperConfig, hellos: Sequence[Hello]) -> None:
        self._config, self._hellos = config, hellos
        self._lock = threading.Lock()
        self._uplink: Uplink | None = None
        self._estimator: Estimator | None = None
        self._load, self._queue_s, self._told_at = 1.0, 0.0, time.perf_counter()
        self._forget_s = LOAD_FORGET_S
        self._pause_s, self._retry_at = FIRST_PAUSE_S, 0.0
        self._sent_bytes = 0
        self.history: list[tuple[float, float]] = []
        """Moments of time.perf_counter, and the upload in bytes per second as estimated then."""
        self.probes = 0
        self.connects = 0

    def open(self) -> LinkEstimate:
        """Measure the link, then connect and agree on the networks. Raises AppError."""
        link = self._measure()
        self._estimator = Estimator.of(link, time.perf_counter())
        self._connect()
        self._note()
        return link

    def _measure(self) -> LinkEstimate:
        """On a connection of its own, on which a network is named first, as the protocol wants."""
        connection = connect(*self._config.address, CONNECT_S)
        try:
            late = Deadline.after(self._config.ready_s, "the cloud was not ready (--ready-timeout)")
            connection.send(self._hellos[0], late)
            connection.receive(late).read(Ready)
            prober = Prober(connection, Deadline.after(self._config.timeout_s, "the probe of the link (--timeout)"))
            if self._config.bandwidth is not None:
                return LinkEstimate(self._config.bandwidth, self._config.bandwidth, prober.round_trip(), "given")
            return prober.estimate()
        finally:
            connection.close()

    def _connect(self) -> None:
        config = self._config
        uplink = Uplink.open(
            config.address,
            self._hellos,
            self.listener,
            ready_s=config.ready_s,
            window=config.window,
            timeout_s=config.timeout_s,
        )
        with self._lock:
            self._uplink = uplink
            self._load = max(ready.load for ready in uplink.ready.values())
            self._queue_s = max(ready.queue_s for ready in uplink.ready.values())
            self._told_at = time.perf_counter()
            self.connects += 1

    @property
    def uplink(self) -> Uplink | None:
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
        left = 0.5 ** ((now - self._told_at) / self._forget_s)
        return round(1.0 + (self._load - 1.0) * left, 2), round(self._queue_s * left, 3)

    def _told(self, load: float, queue_s: float, now: float) -> None:
        """A load that was forgotten too early is remembered for twice as long: each look at it costs a slow task."""
        if load > STILL_LOADED * self._remembered(now)[0]:
            self._forget_s = min(2 * self._forget_s, LONGEST_FORGET_S)
        elif load < STILL_LOADED:
            self._forget_s = LOAD_FORGET_S
        self._load, self._queue_s, self._told_at = load, queue_s, now

    def saw(self, result: Result) -> None:
        """Learn from an answer."""
        now = time.perf_counter()
        with self._lock:
            self._told(result.load, result.queue_s, now)
            if self._estimator is not None:
                self._estimator.sample_up(result.timed_bytes, result.timed_s, now, BURST_BYTES)
        self._note()

    def tick(self) -> None:
        """Every interval."""
        try:
            uplink = self.uplink
            if uplink is None:
                self._reconnect()
            elif uplink.is_overdue:
                uplink.close(DeadlineError(f"no answer within {self._config.timeout_s:g} s (--timeout)"))
            else:
                self._learn(uplink)
        except AppError as error:
            log.info("the link monitor: %s", error)

    def _learn(self, uplink: Uplink) -> None:
        sending = uplink.sending()
        if sending is not None and self._estimator is not None:
            with self._lock:
                self._estimator.partial_up(*sending, time.perf_counter())
        elif not uplink.outstanding and time.perf_counter() - uplink.last_used >= self._config.interval_s / 2:
            self._probe(uplink)
        self._note()

    def _probe(self, uplink: Uplink) -> None:
        """A few frames back to back, and a question about the load."""
        assert self._estimator is not None  # there is a connection
        told = uplink.ask_state(PROBE_TIMEOUT_S)
        frames = int(PROBE_S * self._estimator.up_bytes_per_s / TRAIN_BYTES) + TRAIN_SKIPPED
        rate = uplink.probe(max(LEAST_FRAMES, min(MOST_FRAMES, frames)), PROBE_TIMEOUT_S)
        now = time.perf_counter()
        with self._lock:
            self.probes += 1
            if told is not None:
                state, rtt_s = told
                self._queue_s = state.queue_s  # its load is that of when it last computed, which we were told then
                self._estimator.sample_rtt(rtt_s, now)
            if rate is not None:
                self._estimator.sample_up(*rate, now, TRAIN_SKIPPED * TRAIN_BYTES)

    def _note(self) -> None:
        if self._estimator is not None:
            self.history.append((time.perf_counter(), self._estimator.up_bytes_per_s))

    def _reconnect(self) -> None:
        if time.perf_counter() < self._retry_at:
            return
        if self._uplink is not None:
            self._sent_bytes += self._uplink.sent_bytes
            self._uplink = None
        try:
            link = self._measure()  # it may be another link by now
            self._connect()
        except AppError:
            self._retry_at = time.perf_counter() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            raise
        with self._lock:
            self._estimator = Estimator.of(link, time.perf_counter())
        self._pause_s = FIRST_PAUSE_S

    def close(self) -> None:
        """Hang up."""
        if self._uplink is not None:
            self._uplink.close()
