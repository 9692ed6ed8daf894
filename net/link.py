"""The link: upload and download rate, and round-trip time.

A transfer of n bytes takes rtt + n / rate, so one transfer cannot tell the two apart: bytes / elapsed is wrong by a
factor of up to 60 for small ones. Several sizes are sent, and the line through them gives both.

Small transfers say nothing about the rate. A shaped link lets a burst through at once (16 KB is usual with tc's token
bucket), so that the smaller sizes arrive as if there were no limit. The line is therefore laid through the largest
three sizes only, and the sizes grow until two of them took long; pings give the round trip.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from edgecloud.net.connection import Connection
from edgecloud.net.messages import Probe, Probed
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ProtocolError

PING_BYTES = 256  # about the size of the header of a real request, so that its time is in the intercept
PINGS = 8
SIZES = tuple(1 << power for power in range(12, 23))  # 4 KiB to 4 MiB
REPEATS = 3
LONG_S = 0.15  # a transfer that takes this long over a ping says something about the rate
LONG_ONES = 2
FITTED = 3  # sizes
MOST = 10  # times the rate that was seen
QUICK_S = 0.05  # transfers up to here are repeated


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """A link in bytes per second and seconds. `source` is probe, traffic or given."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float
    source: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer that was timed, from the first byte to the answer of the other side."""

    bytes: int
    seconds: float


def fit(transfers: Sequence[Transfer]) -> tuple[float, float]:
    """Fit seconds = rtt + bytes / rate; returns (rtt in seconds, rate in bytes per second).

    Least squares of the relative errors. Transfers of one size give no slope (ValueError). Where noise is larger than
    the slope, as on loopback, the rate stays between that of the largest transfer and ten times that.
    """
    sizes = np.array([t.bytes for t in transfers], dtype=float)
    seconds = np.array([t.seconds for t in transfers])
    if len(set(sizes.tolist())) < 2 or (seconds <= 0).any():
        raise ValueError("estimating a rate requires transfers of two sizes, each with a time above zero")
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    (rtt_s, slope), *_ = np.linalg.lstsq(design, np.ones_like(seconds), rcond=None)
    largest = int(sizes.argmax())
    floor = sizes[largest] / seconds[largest]
    rate = 1 / slope if slope > 0 else floor
    return float(max(rtt_s, 0.0)), float(min(max(rate, floor), MOST * floor))


@dataclass
class Prober:
    """Measures a link over an open connection on which nothing else is under way."""

    connection: Connection
    deadline: Deadline
    pings: list[Transfer] = field(default_factory=list)
    _payload: memoryview = field(default_factory=lambda: np.zeros(SIZES[-1], np.uint8).data)
    _count: int = 0

    def round_trip(self) -> float:
        """Median seconds of a round trip of small messages, measured once. Raises AppError where the cloud is lost."""
        if not self.pings:
            self._exchange(PING_BYTES, PING_BYTES)  # wakes both sides up
            self.pings = [self._exchange(PING_BYTES, PING_BYTES) for _ in range(PINGS)]
        return median(ping.seconds for ping in self.pings)

    def estimate(self, given_bytes_per_s: float | None = None) -> LinkEstimate:
        """Probe both directions, which takes a second or two on a slow link; of a given rate only the round trip.

        Raises AppError where the cloud is lost.
        """
        ping_s = self.round_trip()
        if given_bytes_per_s is not None:
            return LinkEstimate(given_bytes_per_s, given_bytes_per_s, ping_s, "given")
        up_rtt_s, up = self._direction(ping_s, upward=True)
        down_rtt_s, down = self._direction(ping_s, upward=False)
        return LinkEstimate(up, down, max(ping_s, min(up_rtt_s, down_rtt_s)), "probe")

    def _direction(self, ping_s: float, *, upward: bool) -> tuple[float, float]:
        """Round trip and rate of one direction."""
        transfers: list[Transfer] = []
        limit = self.connection.limits.payload_bytes
        long_ones = 0
        for size in (size for size in SIZES if size <= limit):
            repeats = [self._one_way(size, upward=upward)]
            while len(repeats) < REPEATS and repeats[0].seconds < QUICK_S:
                repeats.append(self._one_way(size, upward=upward))
            transfers += repeats
            long_ones += repeats[0].seconds - ping_s > LONG_S
            if long_ones == LONG_ONES:
                break
        sizes = sorted({transfer.bytes for transfer in transfers})[-FITTED:]
        if len(sizes) < 2:
            raise ProtocolError(f"the cloud accepts at most {limit} bytes: not enough to measure the link")
        return fit([transfer for transfer in transfers if transfer.bytes in sizes])

    def _one_way(self, size: int, *, upward: bool) -> Transfer:
        exchange = self._exchange(size, PING_BYTES) if upward else self._exchange(PING_BYTES, size)
        return Transfer(size - PING_BYTES, exchange.seconds)  # a ping's worth of bytes is in the intercept

    def _exchange(self, up_bytes: int, down_bytes: int) -> Transfer:
        self._count += 1
        started = time.perf_counter()
        self.connection.send_bytes(Probe(self._count, down_bytes), self._payload[:up_bytes], self.deadline)
        frame = self.connection.receive(self.deadline)
        seconds = time.perf_counter() - started
        if frame.read(Probed).id != self._count or frame.payload.nbytes != down_bytes:
            raise ProtocolError("the cloud answered a different probe")
        return Transfer(up_bytes + down_bytes, seconds)
