"""Measured times of one network on one device: every pass, layer by layer, and some tails. Pure.

How it is measured, and why so, stands in predictor.timing. Times are those of the quiet machine (predictor.pace).
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from edgecloud.predictor.pace import HEAVY, Noise, Pace, medians, noise_of

SCHEMA = 3

Progress = Callable[[float], None]
"""Is told the share of the work that is done, 0 to 1."""


@dataclass(frozen=True)
class Machine:
    """What measured times depend on beside the layer."""

    device: str
    threads: int
    torch: str
    backend: str = "torch"

    def __str__(self) -> str:
        return f"{self.device}, {self.threads} threads, {self.backend} {self.torch}"


@dataclass(frozen=True)
class ProfileKey:
    """What a measured time depends on. Times with different keys are never mixed."""

    model: str
    graph: str
    weights: str
    device: str
    threads: int
    backend: str
    clock: str
    torch: str
    schema: int = SCHEMA


@dataclass(frozen=True)
class Profile:
    """What was measured of one network on one device: seconds of its layers, the input first.

    `seconds` are the medians, `passes` every pass as it was measured, `start_s` what starting a tail after each layer
    takes beyond its layers. `key` says what all of that depends on: model, device, threads, back-end, digests.
    All of it is what the quiet machine takes. `noise` is how well a second measurement, later, predicts the first.

    >>> import edgecloud as ec
    >>> net = ec.load("le_net")
    >>> measured = ec.profile(net)
    >>> slow = [10 * seconds for seconds in measured.seconds]
    >>> ec.plan(net, slow, measured, ec.Link("1gbit")).network
    'le_net'
    """

    key: ProfileKey
    passes: tuple[tuple[float, ...], ...]
    tails: dict[int, tuple[float, ...]]
    pace: Pace | None = None
    """What the reference work takes on the machine whose times these are: this one when it is quiet. None where there
    is no such work, on an accelerator."""
    first: int = 0
    """How many of the passes were measured first, the others later; 0 where nobody knows."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Median seconds of every layer; the input, layer 0, costs nothing."""
        return medians(self.passes)

    @property
    def noise(self) -> Noise | None:
        """How well the second half of the passes, later, predicts the first; None where there is only one half."""
        if not 0 < self.first < len(self.passes):
            return None
        return noise_of(medians(self.passes[: self.first]), medians(self.passes[self.first :]))

    def at(self, quiet: Pace | None) -> "Profile":
        """The same once this machine has been seen faster than it was known to be: what is quiet is another thing then.

        `quiet` is what the reference work takes by now; None where nobody knows.
        """
        if self.pace is None or quiet is None or self.pace == quiet:
            return self
        by = HEAVY.slowdown(quiet, self.pace)
        passes = tuple(tuple(s * by for s in row) for row in self.passes)
        tails = {layer: tuple(s * by for s in times) for layer, times in self.tails.items()}
        return replace(self, passes=passes, tails=tails, pace=quiet)

    @property
    def start_s(self) -> tuple[float, ...]:
        """For every layer, seconds that a tail that begins after it takes beyond the sum of its layers, at least 0."""
        seconds = self.seconds
        extra = {layer: max(0.0, median(times) - sum(seconds[layer + 1 :])) for layer, times in self.tails.items()}
        pairs = sorted(({0: 0.0, len(seconds) - 1: 0.0} | extra).items())
        return tuple(_between(pairs, layer) for layer in range(len(seconds)))


def _between(pairs: list[tuple[int, float]], layer: int) -> float:
    """Linear interpolation in sorted (layer, seconds) pairs whose ends enclose `layer`."""
    after = bisect_left(pairs, (layer, 0.0))
    right, right_s = pairs[after]
    if right == layer or after == 0:
        return right_s
    left, left_s = pairs[after - 1]
    return left_s + (right_s - left_s) * (layer - left) / (right - left)
