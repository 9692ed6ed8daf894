"""Measured times of one network on one device: every pass, layer by layer, and some tails. Pure.

How it is measured, and why so, stands in predictor.timing.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

SCHEMA = 2

Progress = Callable[[float], None]
"""Is told the share of the work that is done, 0 to 1."""


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

    @property
    def seconds(self) -> tuple[float, ...]:
        """Median seconds of every layer; the input, layer 0, costs nothing."""
        return tuple(median(times) for times in zip(*self.passes, strict=True))

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
