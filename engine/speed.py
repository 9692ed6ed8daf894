"""The speed of now: how fast this machine computes at present, beside itself when it is quiet, and how sure that is.

Plans multiply: seconds = quiet seconds / speed * what residuals say. The quiet seconds are the profile's, the speed is
of the whole machine, whatever slows it down, and the residuals are of one network's predictions.

Told from traffic where there is some: a stage's quiet seconds over what it took. Else from a short probe, the reference
work of the profile (predictor.reference), never longer than one inference and never more than 3 % of the time. Between
two samples the speed wanders, so the uncertainty grows. The filter is Kalman's, of a random walk of the logarithm; two
samples in a row that are far off on the same side are a change, and what was known before is forgotten.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Protocol

from edgecloud.predictor.pace import HEAVY, Pace
from edgecloud.predictor.profile import Machine
from edgecloud.predictor.reference import Quiet, Reference
from edgecloud.utils.inference_utils import work_clock

KNOWN = 0.05
"""A speed that is known this well is not looked for."""
UNKNOWN = 0.3
"""The uncertainty where nothing was seen yet: machines drift by 30 to 50 %."""
WANDER = 0.1
"""By how much a speed wanders in a second; four times as long, twice as much."""
FAR = 3.0
TRAFFIC_SD, ALWAYS_S = 0.08, 1e-3
"""What one stage is off by, as a share, and in seconds that no profile has: handing over arrays, waking threads."""
PROBE_SD = 0.04
LEAST_PROBE_S, MOST_PROBE_S = 0.003, 0.05
PROBE_SHARE = 0.03
SLOWEST, FASTEST = 0.01, 10.0


@dataclass(frozen=True, slots=True)
class Speed:
    """1.0 is the quiet machine, 0.5 takes twice as long; `sd` is the standard deviation of the value."""

    value: float = 1.0
    sd: float = UNKNOWN


QUIET = Speed(1.0, 0.0)


def clamped(value: float) -> float:
    """A speed within what any machine may have: 0.01 to 10."""
    return min(FASTEST, max(SLOWEST, value))


@dataclass(frozen=True, slots=True)
class Track:
    """What some samples say. Pure; moments are seconds of any clock."""

    log: float = 0.0
    variance: float = UNKNOWN**2
    at: float = -math.inf
    """When the last sample came."""
    far: int = 0
    """1 or -1 where the last sample was far above or below what was known."""

    def variance_at(self, now: float) -> float:
        """The longer ago, the less is known."""
        return min(UNKNOWN**2, self.variance + WANDER**2 * max(0.0, now - self.at))

    @property
    def is_empty(self) -> bool:
        """Whether there was no sample yet."""
        return self.at == -math.inf

    def plus(self, value: float, sd: float, now: float) -> "Track":
        """With a sample: the speed, and its standard deviation as a share. One far sample alone is chance."""
        seen, noise, known = math.log(clamped(value)), sd**2, self.variance_at(now)
        off = seen - self.log
        if self.is_empty:
            known = 1.0  # the first sample says it all
        elif off**2 > FAR**2 * (known + noise):
            side = 1 if off > 0 else -1
            if self.far != side:
                return Track(self.log, max(known, (UNKNOWN / 2) ** 2), now, side)
            known = 1.0  # it was no chance
        gain = known / (known + noise)
        return Track(self.log + gain * off, known * (1 - gain), now)

    def speed(self, now: float) -> Speed:
        """As it is known at a moment."""
        value = math.exp(self.log)
        return Speed(value, value * math.sqrt(self.variance_at(now)))


class Prober(Protocol):
    """Looks how fast the machine is."""

    def probe(self, seconds: float, is_over: Callable[[], bool]) -> Speed:
        """Take about that long, or until it is over; the uncertainty is that of this look alone."""


class ReferenceProber:
    """By the reference work, which is made ready when it is first wanted, and kept from the second time on: a call that
    answers once needs that memory, 16 MiB for each thread, for its network."""

    def __init__(self, threads: int, clock: Callable[[], float], quiet: Quiet) -> None:
        self._threads, self._clock, self._quiet = threads, clock, quiet
        self._reference: Reference | None = None
        self._probes = 0

    def probe(self, seconds: float, is_over: Callable[[], bool]) -> Speed:
        """Readings for about that long, one at least. What the quiet machine takes may be learnt here as well."""
        reference = self._reference or Reference(self._threads, self._clock)
        readings = reference.read_for(seconds, is_over)
        self._probes += 1
        if self._probes > 1:
            self._reference = reference
        else:
            reference.close()
        quiet = self._quiet.record(readings)
        slow = [HEAVY.slowdown(reading, quiet) for reading in readings]
        value = 1 / mean(slow)
        spread = stdev(slow) / mean(slow) / math.sqrt(len(slow)) if len(slow) > 1 else UNKNOWN / 2
        return Speed(clamped(value), clamped(value) * math.hypot(PROBE_SD, spread))


class SpeedMeter:
    """The present speed of one side. For several threads, but only one may `look` at a time."""

    def __init__(self, prober: Prober | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        """Without a prober only traffic tells it."""
        self._prober, self._clock, self._lock = prober, clock, threading.Lock()
        self._began, self._probed_s = clock(), 0.0
        self._track = Track()

    def now(self) -> Speed:
        """As far as it is known; nothing is run."""
        with self._lock:
            return self._track.speed(self._clock())

    def record(self, seconds: float, quiet_s: float) -> None:
        """A stage took `seconds`; the quiet machine takes `quiet_s`.

        What runs for the first time, when memory is fetched and kernels are chosen, is not to be told. Short stages say
        little, since some of what they take is in no profile.
        """
        if not (quiet_s > 0 and seconds > 0 and math.isfinite(seconds + quiet_s)):
            return
        with self._lock:
            sd = math.hypot(TRAFFIC_SD, ALWAYS_S / quiet_s)
            self._track = self._track.plus(quiet_s / seconds, sd, self._clock())

    @property
    def is_due(self) -> bool:
        """Whether it should be looked for: it is not known well, and there is time for that."""
        if self._prober is None or self._is_known():
            return False
        return self._probed_s <= PROBE_SHARE * (self._clock() - self._began)

    def _is_known(self) -> bool:
        speed = self.now()
        return speed.sd <= KNOWN * speed.value

    def look(self, inference_s: float, is_over: Callable[[], bool] = lambda: False) -> Speed:
        """The present speed, probed for where it is due: for no longer than one inference takes, nor than 50 ms, nor
        than until it is over, within a millisecond or two."""
        if self._prober is None or not self.is_due:
            return self.now()
        began = self._clock()
        probed = self._prober.probe(min(MOST_PROBE_S, max(LEAST_PROBE_S, inference_s)), is_over)
        with self._lock:
            self._probed_s += self._clock() - began
            self._track = self._track.plus(probed.value, probed.sd / probed.value, self._clock())
            return self._track.speed(self._clock())


def kept_quiet(folder: Path, machine: Machine) -> Quiet:
    """Where it is kept what the reference work takes here when nothing else runs."""
    return Quiet(folder, asdict(machine))


def meter_of(folder: Path, machine: Machine, share: float) -> SpeedMeter:
    """Of a machine of which such a share of a core is there, 1 where nothing limits it.

    An emulated or limited processor is told by the time of its work, as its profiles are. An accelerator has no probe.
    """
    if not machine.device.startswith("cpu"):
        return SpeedMeter()
    threads, clock = (1, work_clock) if share < 1 else (machine.threads, time.perf_counter)
    return SpeedMeter(ReferenceProber(threads, clock, kept_quiet(folder, machine)))


def pace_of(folder: Path, machine: Machine) -> Pace | None:
    """What the reference work takes on the quiet machine; None where that was never measured."""
    return kept_quiet(folder, machine).pace()
