"""Measuring a real network on a machine whose speed changes, beside the same machine when it does not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import LIGHT
from edgecloud.predictor.profile import Profile, ProfileKey
from edgecloud.predictor.reference import Quiet, Reference
from edgecloud.predictor.timing import measure, mixes_of
from edgecloud.utils.inference_utils import work_clock

KEY = ProfileKey("m", "g", "w", "cpu x", 1, "torch", "work", "2")
PERIOD_S, SLOWER = 0.25, 3.0


class Throttled:
    """A clock of a processor that is three times slower in every other quarter of a second: work takes longer then."""

    def __init__(self) -> None:
        self._last, self._time = work_clock(), 0.0
        self.__name__ = "throttled"  # torch.fx names nodes by it

    def __call__(self) -> float:
        now = work_clock()
        is_slow = int(time.perf_counter() / PERIOD_S) % 2 == 0
        self._time += (now - self._last) * (SLOWER if is_slow else 1.0)
        self._last = now
        return self._time


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def profile_of(network: TorchNetwork, clock: Callable[[], float], quiet: Quiet, *, tails: bool = False) -> Profile:
    gauge = Gauge(clock, is_elapsed=True, reference=Reference(1, clock), quiet=quiet)
    with one_thread():
        return measure(network.traced, network.example.tensors, gauge, KEY, lambda _: None, tails=tails)


def test_what_is_kept_is_relative_to_the_speed_of_that_moment(
    network: Callable[[str], TorchNetwork], tmp_path: Path
) -> None:
    """Without the scaling the throttled machine gives two to three times as much."""
    quiet = Quiet(tmp_path, {})
    plain = profile_of(network("alex_net"), work_clock, quiet)
    assert quiet.pace() is not None
    throttled = profile_of(network("alex_net"), Throttled(), quiet)
    assert sum(throttled.seconds) == pytest.approx(sum(plain.seconds), rel=0.4)
    assert throttled.noise is not None
    assert throttled.noise.whole < 0.6


def test_tails_are_relative_to_it_as_well(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    told: list[float] = []
    gauge = Gauge.of(work_clock, 1, tmp_path, {"device": "x"}, is_work=True)
    subject = network("le_net")
    with one_thread():
        found = measure(subject.traced, subject.example.tensors, gauge, KEY, told.append, tails=True)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert found.pace is not None
    assert 0 < found.first < len(found.passes)
    assert found.noise is not None
    assert len(found.tails) >= 3
    assert all(0 < s < 10 * sum(found.seconds) + 0.05 for times in found.tails.values() for s in times)


def test_a_layer_without_weights_is_a_light_one(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    gauge = Gauge.of(work_clock, 1, tmp_path, {}, is_work=True)
    mixes = mixes_of(gauge, network("alex_net").traced)
    assert len(mixes) == len(network("alex_net").traced.graph.layers)
    assert mixes[0] == LIGHT
    assert len(set(mixes)) == 2
