"""The speed of now: known from traffic and from probes, with how sure that is."""

import math
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.engine.executor import Ran
from edgecloud.engine.speed import (
    KNOWN,
    MOST_PROBE_S,
    PROBE_SHARE,
    UNKNOWN,
    ReferenceProber,
    Speed,
    SpeedMeter,
    Track,
)
from edgecloud.engine.times import FoundTimes, LayerTimes
from edgecloud.predictor.reference import MEMORY_BYTES, Quiet

speeds = st.floats(0.2, 1.2)


class Machine:
    """One whose speed is known: a clock, stages that take as long as they should, and probes."""

    def __init__(self, speed: float, chance: random.Random, share: float = 0.06) -> None:
        self.speed, self.now_s, self.probed_s = speed, 0.0, 0.0
        self._chance, self._share = chance, share
        self.meter = SpeedMeter(self, lambda: self.now_s)

    def _off(self) -> float:
        return self._chance.uniform(1 - self._share, 1 + self._share)

    def stage(self, quiet_s: float) -> None:
        seconds = quiet_s / self.speed * self._off()
        self.now_s += seconds
        self.meter.record(seconds, quiet_s)

    def probe(self, seconds: float, is_over: Callable[[], bool]) -> Speed:
        assert not is_over()
        assert seconds <= MOST_PROBE_S
        self.now_s += seconds
        self.probed_s += seconds
        return Speed(self.speed * self._off(), 0.04 * self.speed)


def test_at_first_nothing_is_known() -> None:
    assert SpeedMeter().now() == Speed(1.0, UNKNOWN)
    assert SpeedMeter().look(1.0) == Speed(1.0, UNKNOWN)  # nothing that could look
    assert not SpeedMeter().is_due


@settings(max_examples=50)
@given(speeds, st.floats(0.02, 0.2), st.randoms(use_true_random=False))
def test_it_is_known_within_a_few_percent_from_traffic(speed: float, quiet_s: float, chance: random.Random) -> None:
    machine = Machine(speed, chance)
    for _ in range(12):
        machine.stage(quiet_s)
    assert machine.meter.now().value == pytest.approx(speed, rel=0.1)
    assert machine.meter.now().sd <= 0.12 * machine.meter.now().value


@settings(max_examples=50)
@given(speeds, st.randoms(use_true_random=False))
def test_it_is_known_within_a_few_percent_from_one_probe(speed: float, chance: random.Random) -> None:
    machine = Machine(speed, chance, 0.03)
    machine.now_s = 1.0
    found = machine.meter.look(0.5)
    assert found.value == pytest.approx(speed, rel=0.08)
    assert found.sd <= KNOWN * found.value
    assert not machine.meter.is_due


@settings(max_examples=50)
@given(speeds, speeds, st.randoms(use_true_random=False))
def test_a_change_is_known_after_a_few_stages(before: float, after: float, chance: random.Random) -> None:
    machine = Machine(before, chance, 0.05)
    for _ in range(20):
        machine.stage(0.03)
    machine.speed = after
    for _ in range(5):
        machine.stage(0.03)
    assert machine.meter.now().value == pytest.approx(after, rel=0.2)


def test_one_stage_that_was_held_up_changes_nothing_much() -> None:
    machine = Machine(0.8, random.Random(1), 0.02)
    for _ in range(20):
        machine.stage(0.05)
    machine.meter.record(0.6, 0.05)
    assert machine.meter.now().value == pytest.approx(0.8, rel=0.05)
    assert machine.meter.now().sd > 0.1  # but nobody is as sure as before
    machine.meter.record(0.6, 0.05)
    assert machine.meter.now().value < 0.2


@given(st.floats(0.001, 3.0), st.integers(10, 200))
@settings(max_examples=30)
def test_probes_take_no_more_than_three_percent_and_fifty_milliseconds(inference_s: float, seconds: int) -> None:
    """Of a session that never has any traffic, and looks all the time."""
    machine = Machine(0.7, random.Random(2), 0.5)  # so noisy that it is hardly ever known
    while machine.now_s < seconds:
        machine.now_s += 0.1
        before = machine.probed_s
        machine.meter.look(inference_s)
        assert machine.probed_s - before <= MOST_PROBE_S + 1e-9
    assert machine.probed_s <= PROBE_SHARE * machine.now_s + MOST_PROBE_S


def test_what_is_known_is_forgotten() -> None:
    track = Track().plus(0.5, 0.05, 0.0)
    assert track.speed(0.0).value == pytest.approx(0.5, rel=0.05)
    sds = [track.speed(at).sd for at in (0.0, 1.0, 10.0, 100.0, 1e9)]
    assert sds == sorted(sds)
    assert sds[-1] == pytest.approx(UNKNOWN * track.speed(0).value)


@pytest.mark.parametrize("pair", [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf), (-1.0, 1.0)])
def test_seconds_that_are_none_say_nothing(pair: tuple[float, float]) -> None:
    meter = SpeedMeter()
    meter.record(*pair)
    assert meter.now() == Speed()


def test_short_stages_say_little() -> None:
    meter = SpeedMeter(clock=lambda: 0.0)
    for _ in range(20):
        meter.record(1e-3, 5e-4)  # half of it was handing over the arrays
    assert meter.now().value > 0.6
    assert meter.now().sd > KNOWN


def test_times_follow_the_speed() -> None:
    """Fails where the scaling is taken out: the times of a busy machine are twice those of the quiet one."""
    meter = SpeedMeter(clock=lambda: 0.0)
    found = FoundTimes(LayerTimes((0.0, 0.1, 0.3), (0.0, 0.01, 0.0), "measured"), meter=meter)
    assert found.current.seconds == found.quiet.seconds
    for _ in range(50):
        found.ran(frozenset({0, 1, 2}), Ran([], 0.8))
    assert found.current.seconds == pytest.approx((0.0, 0.2, 0.6), rel=0.02)
    assert found.current.start_s == pytest.approx((0.0, 0.02, 0.0), rel=0.02)
    assert found.quiet.seconds == (0.0, 0.1, 0.3)
    found.ran(frozenset({2}), Ran([], 0.62))  # which begins behind others
    assert found.current.seconds == pytest.approx((0.0, 0.2, 0.6), rel=0.02)


def test_a_look_gives_its_memory_back_and_two_looks_keep_it(tmp_path: Path) -> None:
    prober = ReferenceProber(1, time.perf_counter, Quiet(tmp_path, {}))
    prober.probe(0.001, lambda: True)  # what is imported and made once
    tracemalloc.start()
    try:
        once = ReferenceProber(1, time.perf_counter, Quiet(tmp_path, {}))
        assert once.probe(0.001, lambda: True).value > 0
        assert tracemalloc.get_traced_memory()[0] < MEMORY_BYTES / 4
        assert once.probe(0.001, lambda: True).value > 0
        assert tracemalloc.get_traced_memory()[0] > MEMORY_BYTES / 2
    finally:
        tracemalloc.stop()
