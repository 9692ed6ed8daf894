"""Times relative to the machine's speed: simulated machines that drift, and what is kept of them."""

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.predictor.pace import (
    FEWEST_READINGS,
    HEAVY,
    LIGHT,
    Mix,
    Pace,
    Run,
    apart,
    between,
    blend,
    mix_of,
    moved,
    noise_by_kind,
    noise_of,
    quiet_of,
    steadied,
    within,
)
from edgecloud.predictor.profile import Profile, ProfileKey
from edgecloud.predictor.reference import Quiet, Reference, cores_at_work, cores_from

QUIET = Pace(5e-4, 4e-4)
MIXES = (LIGHT, HEAVY, LIGHT, HEAVY)
SECONDS = (0.0, 4e-3, 1e-4, 2e-2)
MACHINE = {"device": "cpu x", "threads": 1, "torch": "2", "backend": "torch"}
slow = st.floats(1.0, 3.0)


def slower(compute: float, memory: float) -> Pace:
    """What the reference work takes on a machine that is slower by these factors."""
    return Pace(QUIET.compute_s * compute, QUIET.memory_s * memory)


def run_at(now: Pace, noise: random.Random | None = None, share: float = 0.0) -> Run:
    """A pass on a machine like that, and the readings around it, each off by up to a share."""

    def off(s: float) -> float:
        return s if noise is None else s * noise.uniform(1 - share, 1 + share)

    seconds = tuple(off(s * mix.slowdown(now, QUIET)) for s, mix in zip(SECONDS, MIXES, strict=True))
    around = [Pace(off(now.compute_s), off(now.memory_s)) for _ in range(2)]
    return Run(seconds, *around)


@given(slow, slow)
def test_what_is_kept_is_what_the_quiet_machine_takes(compute: float, memory: float) -> None:
    assert run_at(slower(compute, memory)).quietly(QUIET, MIXES) == pytest.approx(SECONDS)


@given(st.lists(st.tuples(slow, slow), min_size=9, max_size=15), st.randoms(use_true_random=False))
def test_a_machine_that_drifts_gives_the_times_of_the_quiet_one(
    drift: list[tuple[float, float]], chance: random.Random
) -> None:
    """As if every pass met it at another speed: the medians are within a few percent, as are two measurements."""
    passes = [run_at(slower(*factors), chance, 0.04).quietly(QUIET, MIXES) for factors in drift]
    kept = Profile(ProfileKey("m", "g", "w", "cpu", 1, "b", "work", "t"), tuple(passes), {}, QUIET, len(passes) // 2)
    assert kept.seconds == pytest.approx(SECONDS, rel=0.08)
    assert kept.noise is not None
    assert kept.noise.whole < 0.16
    assert kept.noise.layers_p90 < 0.16


@given(slow, slow)
def test_elapsed_time_that_others_take_is_everybodys(compute: float, memory: float) -> None:
    """A program on the same core stretches all alike, so a mix for elapsed time follows that and no more."""
    for mix in (HEAVY, LIGHT):
        assert mix.in_all.slowdown(slower(compute, compute), QUIET) == pytest.approx(compute)
        assert mix.in_all.slowdown(slower(1, memory), QUIET) <= mix.slowdown(slower(1, memory), QUIET) + 1e-9


@given(st.lists(st.tuples(slow, slow), min_size=1, max_size=30))
def test_the_quiet_machine_is_among_the_readings_but_not_the_luckiest_of_many(paces: list[tuple[float, float]]) -> None:
    readings = [slower(*each) for each in paces]
    found = quiet_of(readings)
    computes = sorted(reading.compute_s for reading in readings)
    assert found.compute_s in computes
    assert found.compute_s <= median(computes)
    if len(readings) > 10:
        assert found.compute_s >= computes[1]


@given(st.randoms(use_true_random=False), slow)
def test_one_reading_that_is_off_moves_nothing(chance: random.Random, slower: float) -> None:
    """A network's passes while the machine is steadily slower, and readings of which one in five met a burst."""
    true = Pace(QUIET.compute_s * slower, QUIET.memory_s * slower)

    def read() -> Pace:
        burst = chance.uniform(1.5, 2.5) if chance.random() < 0.2 else 1.0
        return Pace(true.compute_s * burst, true.memory_s * burst)

    seconds = tuple(s * mix.slowdown(true, QUIET) for s, mix in zip(SECONDS, MIXES, strict=True))
    runs = [Run(seconds, read(), read()) for _ in range(9)]
    kept = [run.quietly(QUIET, MIXES) for run in steadied(runs)]
    assert all(row == kept[0] for row in kept)
    plain = [run.quietly(QUIET, MIXES) for run in runs]
    off = [max(apart(row[2], SECONDS[2]) for row in rows) for rows in (kept, plain)]
    assert off[0] <= off[1] + 1e-9
    assert steadied([]) == []


def test_helpers() -> None:
    assert mix_of(0) == LIGHT
    assert mix_of(8 << 20) == HEAVY
    assert between(Pace(1.0, 4.0), Pace(4.0, 1.0)) == Pace(2.0, 2.0)
    assert moved(QUIET, QUIET) == 0
    assert moved(QUIET, slower(1.5, 1.5)) == pytest.approx(0.5)
    assert moved(slower(1.5, 1.5), QUIET) == pytest.approx(0.5)
    assert blend([0.0, 1.0, 1.0], [LIGHT, HEAVY, LIGHT]) == Mix(0.8, 0.45)
    assert blend([0.0], [LIGHT]) == HEAVY
    assert apart(2.0, 1.0) == apart(1.0, 2.0) == 1.0
    assert apart(0.0, 1.0) == 0.0
    assert within([(1.0, 1.05), (1.0, 1.5)], 0.1) == 0.5
    assert within([], 0.1) == 1.0
    noise = noise_of([1.0, 1.0, 1e-9], [1.0, 1.2, 1.0])
    assert noise.whole == pytest.approx(0.6)
    assert noise.layers_p90 == pytest.approx(0.2)
    assert noise_by_kind([("conv", 1.0, 1.5), ("conv", 1.0, 1.0), ("linear", 2.0, 1.0)]) == {"conv": 0.5, "linear": 1.0}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"compute_s": 1.0},
        {"compute_s": 1.0, "memory_s": 0.0},
        {"compute_s": 1.0, "memory_s": "1"},
        {"compute_s": 1.0, "memory_s": math.inf},
        {"compute_s": True, "memory_s": 1.0},
        {"compute_s": 1.0, "memory_s": -1.0},
        {"compute_s": 1.0, "memory_s": 1.0, "more": 1},
    ],
)
def test_seconds_of_the_reference_that_are_none(document: object) -> None:
    with pytest.raises(ValueError, match="reference work"):
        Pace.read(document)


def test_a_profile_follows_when_the_machine_is_seen_faster() -> None:
    profile = Profile(ProfileKey("m", "g", "w", "cpu", 1, "b", "work", "t"), ((0.0, 2.0),), {1: (1.0,)}, QUIET)
    faster = profile.at(Pace(QUIET.compute_s / 2, QUIET.memory_s / 2))
    assert faster.seconds == pytest.approx((0.0, 1.0))
    assert faster.tails[1] == pytest.approx((0.5,))
    assert profile.at(None) is profile
    assert profile.noise is None


# --- the reference work, and the quiet machine on disk


def test_the_reference_work_is_timed_with_the_clock_that_it_is_given() -> None:
    ticks = iter(range(1000))
    reference = Reference(1, lambda: float(next(ticks)))
    assert reference.read() == Pace(1.0, 1.0)
    assert len(reference.read_for(0.0)) == 1
    assert len(reference.read_for(60.0, lambda: True)) == 1  # somebody waits
    several = Reference(2, lambda: float(next(ticks)))
    assert several.read(3) == Pace(1.0, 1.0)
    several.close()


def test_processors_that_share_a_core_count_as_one() -> None:
    assert cores_from(2, 1.0, 1.0) == 2
    assert cores_from(2, 1.0, 0.9) == 2  # noise
    assert cores_from(2, 1.0, 1.6) == pytest.approx(1.25)
    assert cores_from(8, 1.0, 2.1) == 4
    assert cores_at_work(1) == 1
    assert 1 <= cores_at_work(2) <= 2


def test_the_quiet_machine_only_becomes_faster(tmp_path: Path) -> None:
    quiet = Quiet(tmp_path, MACHINE)
    assert quiet.pace() is None
    few, many = [slower(2, 2)] * (FEWEST_READINGS - 1), [slower(2, 2)] * FEWEST_READINGS
    assert quiet.record(few) == slower(2, 2)
    assert quiet.pace() is None  # of so few nobody knows
    assert quiet.record(many) == slower(2, 2)
    assert quiet.record([slower(1, 3)] * FEWEST_READINGS) == slower(1, 2)
    assert quiet.record([slower(3, 1)] * (FEWEST_READINGS - 1)) == slower(1, 2)
    assert Quiet(tmp_path, MACHINE).pace() == slower(1, 2)
    assert Quiet(tmp_path, {**MACHINE, "threads": 2}).pace() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 4000, "x" * 5000, json.dumps({"schema": 1, "key": {}})])
def test_a_damaged_unit_is_ignored_and_measured_again(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = Quiet(tmp_path, MACHINE)
    quiet.record([QUIET] * FEWEST_READINGS)
    good = json.loads(quiet.path.read_text())
    quiet.path.write_text(text)
    assert quiet.pace() is None
    assert "ignoring the kept speed" in caplog.text
    quiet.path.write_text(json.dumps(good | {"quiet": {"compute_s": 0, "memory_s": 1}}))
    assert quiet.pace() is None
    assert quiet.record([QUIET] * FEWEST_READINGS) == QUIET
    assert json.loads(quiet.path.read_text())["quiet"] == asdict(QUIET)


def test_a_full_disk_costs_the_unit_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "speed").write_text("a file where the folder should be")
    assert Quiet(tmp_path, MACHINE).record([QUIET] * FEWEST_READINGS) == QUIET
    assert "cannot save the speed" in caplog.text
