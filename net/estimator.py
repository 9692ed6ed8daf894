"""The running estimate of a link: quick to fall, slow to rise, with hysteresis.

A probe holds tasks up, so between probes the tasks themselves are the samples. They are rough: a task that met a stall
looks like a slow link, and one that came out of a buffer like a fast one. The two errors do not cost the same. Who
believes in too fast a link sends much and waits for long; who believes in too slow a one computes a little more. So one
sample that is clearly below the estimate lowers it, and two in a row that are clearly above raise it, to the lower one.
"Clearly" is outside a dead band; inside it samples are smoothed.

Nothing here reads a clock or locks: moments (`at`, seconds of one clock) are passed in, and callers in several threads
hold a lock of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from edgecloud.net.connection import BURST_BYTES
from edgecloud.net.link import LinkEstimate

BAND = 0.15  # of the estimate, to both sides: a sample in it confirms the estimate
WEIGHT = 0.3  # of a sample in the band
SURE_BYTES = 8 * BURST_BYTES  # from here on a burst changes a sample by less than the dead band
LEAST_S = 0.002  # of shorter transfers only this is known: they took no longer. They may raise the estimate
PARTIAL_S = 0.3  # before this a frame under way says nothing: acknowledgements come in grains
FLOOR_BYTES_PER_S = 1000.0  # the lowest reading: a stuck link may go on, and a rate of 0 has no transfer time
RTT_WEIGHT = 0.5  # of a round trip below the estimate
RTT_GROWTH_PER_S = 0.03  # a minimum doubles in 23 s at most, so that a few pings behind a long upload change little
RTT_GAP_S = 5.0  # a longer pause between two pings counts as this
RTT_LEAST_S = 0.001  # what growth starts from
MOST_BYTES = 1 << 62  # past these a sample is a mistake, or a lie of the other side
MOST_S = 1e9


OnSample = Callable[[float, float], None]
"""Is told the upload in bytes per second at a moment: `on_sample(at, up_bytes_per_s)`."""


@dataclass(slots=True)
class Estimator:
    """A link in bytes per second and seconds, kept up to date by what travels over it: its upload and its round trip.

    The download stays what it was measured or given to be: most answers are of a few kilobytes and say nothing of it.
    `source` is probe or given until the first sample of a rate counts, and traffic from then on; `updated_at` is when
    the last one did. ValueError where a rate is not above zero, or anything is not finite.

    Samples that cannot be right (zero, negative, NaN, beyond all measure) are ignored: they come from the other side.
    """

    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float
    source: str
    updated_at: float
    on_sample: OnSample | None = field(default=None, repr=False)
    """Is told the first estimate, and that after each sample that counted."""
    _up_waiting: float | None = field(default=None, init=False, repr=False)
    """The last sample, if it was above the band: the next one has to agree."""
    _rtt_at: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        rates_fit = all(0 < rate < float("inf") for rate in (self.up_bytes_per_s, self.down_bytes_per_s))
        if not (rates_fit and 0 <= self.rtt_s < MOST_S):
            raise ValueError("both rates must be above zero and the round trip at least zero, all finite")
        self._rtt_at = self.updated_at
        if self.on_sample is not None:
            self.on_sample(self.updated_at, self.up_bytes_per_s)

    @classmethod
    def of(cls, link: LinkEstimate, at: float, on_sample: OnSample | None = None) -> Self:
        """Start from a probe that was made, or a link that was given, at `at` seconds."""
        return cls(link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s, link.source, at, on_sample)

    def estimate(self) -> LinkEstimate:
        """What the link is like now."""
        return LinkEstimate(self.up_bytes_per_s, self.down_bytes_per_s, self.rtt_s, self.source)

    def sample_up(self, size_bytes: int, seconds: float, at: float, skipped_bytes: int = 0) -> None:
        """One upload that is complete at `at` seconds: the receiver saw `size_bytes` in `seconds` of its clock.

        `skipped_bytes` had arrived before that clock was started and are not in `size_bytes`. A receiver that starts
        its clock after BURST_BYTES leaves a burst out, and its samples are exact from 16 KiB on. Otherwise samples
        below SURE_BYTES have two readings, with and without a burst, and count only where both are to one side of the
        dead band: they are safe, but a rise may end as low as (1 - BURST_BYTES / size_bytes) of the rate.
        """
        readings = _readings(size_bytes, seconds, skipped_bytes)
        if readings is not None:
            self.up_bytes_per_s, self._up_waiting = _follow(self.up_bytes_per_s, self._up_waiting, *readings)
            self._count(at)

    def partial_up(self, size_bytes: int, seconds: float, at: float) -> None:
        """An upload under way: `size_bytes` (perhaps none) are acknowledged, `seconds` after its first byte was sent.

        Only lowers the estimate. An acknowledgement is a round trip late and may be short of what has arrived by up to
        BURST_BYTES: the receiver has to acknowledge at least that often, or a good link looks slow.
        """
        travelled_s = seconds - self.rtt_s
        if not (0 <= size_bytes < MOST_BYTES and PARTIAL_S <= travelled_s < MOST_S):
            return
        bound = max((size_bytes + BURST_BYTES) / travelled_s, FLOOR_BYTES_PER_S)
        if bound < (1 - BAND) * self.up_bytes_per_s:
            self.up_bytes_per_s, self._up_waiting = bound, None
            self._count(at)

    def sample_rtt(self, seconds: float, at: float) -> None:
        """One ping. The estimate follows the smallest ones, and forgets them slowly: most of the rest is queues."""
        if not 0 <= seconds < MOST_S:
            return
        gap_s = min(max(at - self._rtt_at, 0.0), RTT_GAP_S)
        self._rtt_at = max(at, self._rtt_at)
        if seconds < self.rtt_s:
            self.rtt_s += RTT_WEIGHT * (seconds - self.rtt_s)
        else:
            self.rtt_s = min(seconds, max(self.rtt_s, RTT_LEAST_S) * (1 + RTT_GROWTH_PER_S * gap_s))

    def _count(self, at: float) -> None:
        self.source = "traffic"
        self.updated_at = max(at, self.updated_at)  # threads may come out of order
        if self.on_sample is not None:
            self.on_sample(self.updated_at, self.up_bytes_per_s)


def should_move(current_total_s: float, best_total_s: float, margin: float = 0.10) -> bool:
    """Whether the best cut is so much better than the one in use, by predicted seconds, that moving is worth it.

    Both totals are for the link as it is now. A cut that cannot be used takes infinite seconds. `margin` is a share of
    the current total.
    """
    return best_total_s < (1 - margin) * current_total_s


def _readings(size_bytes: int, seconds: float, skipped_bytes: int) -> tuple[float, float] | None:
    """The rate in bytes per second if a burst was among the bytes, and if not; None where the sample says nothing."""
    if not (BURST_BYTES <= size_bytes < MOST_BYTES and 0 < seconds < MOST_S):
        return None
    burst = max(BURST_BYTES - max(skipped_bytes, 0), 0) if size_bytes < SURE_BYTES else 0
    low, high = ((size_bytes - among) / max(seconds, LEAST_S) for among in (burst, 0))
    if seconds < LEAST_S:
        high = float("inf")
    return max(low, FLOOR_BYTES_PER_S), max(high, FLOOR_BYTES_PER_S)


def _follow(rate: float, waiting: float | None, low: float, high: float) -> tuple[float, float | None]:
    """The rate after a sample with these two readings, and what the next sample has to agree with."""
    if high < (1 - BAND) * rate:
        # First to where the sample would be in the band, then as there: a little more than the sample itself. A jump
        # to the sample would be 15 % at the edge of the band; that drifts twice as low where noise is large.
        return _smoothed(high / (1 - BAND), high), None
    if low > (1 + BAND) * rate:
        return rate if waiting is None else min(waiting, low), low
    if low == high:
        return _smoothed(rate, high), None
    return rate, waiting


def _smoothed(rate: float, sample: float) -> float:
    return rate + WEIGHT * (sample - rate)
