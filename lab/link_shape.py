"""The shape of an emulated link: rates over time, a round trip, and faults. Pure."""

from dataclasses import dataclass

from edgecloud.lab.traces import Trace
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import parse_duration, parse_rate


@dataclass(frozen=True, slots=True)
class LinkShape:
    """What is emulated: bytes per second each way, the round trip in seconds, and faults in the upload."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float = 0.0
    cut_at: int | None = None
    """Reset both connections when this many bytes have come from the edge."""
    freeze_at: int | None = None
    """Let nothing through any more when this many bytes have come from the edge ..."""
    freeze_s: float = float("inf")
    """... for this long."""
    burst_bytes: int = 0
    """What a link that was idle lets through at once, as the token bucket of `tc tbf` does."""
    steps: tuple[tuple[float, float], ...] = ()
    """From each of these seconds after the first connection on, this many bytes per second, both ways."""
    cut_down_at: int | None = None
    """As `cut_at`, of the bytes that have come from the cloud."""
    forget_s: float = float("inf")
    """A connection that was idle for this long is forgotten, as by an address translator: what comes later is lost."""
    trace: Trace | None = None
    """The rates of both ways over time instead, from the first connection on."""

    def rates(self, *, is_up: bool) -> Trace:
        """Bytes per second of one direction over time, second 0 being when the first connection was accepted."""
        if self.trace is not None:
            return self.trace
        first = (0.0, self.up_bytes_per_s if is_up else self.down_bytes_per_s)
        rows = [first, *self.steps] if not self.steps or self.steps[0][0] > 0 else self.steps
        return Trace([since_s for since_s, _ in rows], [rate for _, rate in rows])

    def rate_at(self, seconds: float, *, is_up: bool) -> float:
        """Bytes per second of one direction, so long after the first connection was accepted."""
        return self.rates(is_up=is_up).rate_at(seconds)


def parse_steps(text: str) -> tuple[tuple[float, float], ...]:
    """Read TIME:RATE[,TIME:RATE ...], such as `5s:2mbit,12s:20mbit`, as seconds and bytes per second, in order.

    UsageError where it is none, or where a time is not later than the one before.
    """
    steps: list[tuple[float, float]] = []
    for part in text.split(","):
        time_text, colon, rate_text = part.partition(":")
        if not colon:
            raise UsageError(f"{text!r} is not a list of steps: use TIME:RATE[,...], for example 5s:2mbit,12s:20mbit")
        step = parse_duration(time_text), parse_rate(rate_text)
        if steps and step[0] <= steps[-1][0]:
            raise UsageError(f"{part.strip()!r}: each step must be later than the previous one")
        steps.append(step)
    return tuple(steps)
