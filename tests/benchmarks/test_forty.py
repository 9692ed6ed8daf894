"""Forty tasks again and again: what the pairs say, and a measurement that stops and goes on."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import forty
from benchmarks.forty import Pair, Ran, Told
from edgecloud.predictor.pace import Pace

CUTS = {"le_net": {"0": 3, "12": 37}}


def pair(pipelined: float, serial: float, slower: float = 1.0) -> Pair:
    """Runs of a machine that is so much slower than when it is quiet."""
    pace = Pace(1e-3 * slower, 1e-3 * slower)
    return {
        name: Ran(rate / slower, 0.9, 40, CUTS, pace, pace)
        for name, rate in (("pipelined", pipelined), ("serial", serial))
    }


def test_runs_of_a_slow_hour_are_as_good_as_those_of_a_quiet_one() -> None:
    told = Told.of([pair(10, 6, slower) for slower in (1.0, 1.5, 1.2, 1.0)])
    assert told.slowest == pytest.approx(1.0)
    assert told.slowest_as_measured == pytest.approx(1 / 1.5)
    assert told.gain.ratio.value == pytest.approx(10 / 6)
    assert told.gain.is_sure
    assert told.rows[2][2:5] == ["6.67/s", "67%", "10.00/s"]
    assert not any("NOT met" in note for note in told.notes)


def test_a_run_that_is_slow_in_a_quiet_hour_is_told() -> None:
    told = Told.of([pair(10, 9), pair(8, 9), pair(10, 9)])
    assert told.slowest == pytest.approx(0.8)
    assert "0.80" in told.notes[0]
    assert "NOT met" in told.notes[0]
    assert "no difference within the noise" in told.notes[1]


def test_it_goes_on_where_it_stopped_and_begins_anew_after_a_full_set(tmp_path: Path) -> None:
    calls: list[tuple[object, ...]] = []

    def program(*words: object) -> dict[str, Any]:
        calls.append(words)
        rate = 4.0 if "--serial" in words else 8.0
        return {"summary": {"throughput_per_s": rate, "bound_fraction": 0.9, "completed": 40, "cuts": CUTS}}

    path = tmp_path / "pairs.jsonl"
    assert forty.measure(program, 1, 60.0, path) == forty.read(path)
    found = forty.measure(program, 2, 60.0, path)
    assert len(found) == 2
    assert sum("--serial" in words for words in calls) == 2
    assert forty.read(path) == found
    assert len(forty.measure(program, 2, 0.0, path)) == 0  # all had been there, so it began anew; and had no time
    with pytest.raises(ValueError, match="no pair"):
        forty.report([])
