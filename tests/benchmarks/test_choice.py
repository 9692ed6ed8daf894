"""The regret of a chosen point counts where the runs of two points tell them apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.choice import Cell, read, report

CELL = Cell(
    "alex_net",
    0.2,
    "5mbit",
    3,
    {3: [1.5, 1.1, 1.0, 1.2, 1.1], 4: [0.9, 1.0, 1.15, 1.1, 1.0]},
    [0],
    1e-3,
    (1.0, 1.15),
    1.1,
)


def test_a_point_that_is_as_good_within_the_noise_is_no_worse() -> None:
    assert CELL.best == 4
    assert CELL.regret == 1.1
    assert not CELL.versus.is_sure
    assert str(CELL.versus).endswith("no difference within the noise")


def test_a_point_that_is_always_worse_is_told() -> None:
    slow = replace(CELL, measured={3: [1.5, 1.4, 1.5, 1.45, 1.5], 4: [1.0, 0.98, 1.02, 1.0]})
    assert slow.versus.is_sure
    assert 1.4 < slow.versus.ratio.value < 1.55


def test_totals_are_counted_where_they_were_expected() -> None:
    assert CELL.inside == 3
    assert CELL.noise == 1.3 / 1.1 - 1


def test_cells_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    assert read(path) == []
    path.write_text(json.dumps(vars(CELL) | {"machine": {"cores": "2"}}) + "\n")
    assert read(path) == [CELL]


def test_the_table_says_what_is_beyond_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fingerprint.RESULTS", tmp_path)
    slow = replace(CELL, measured={3: [1.5, 1.4, 1.5, 1.45, 1.5], 4: [1.0, 0.98, 1.02, 1.0]})
    report([CELL, slow], "cells")
    text = (tmp_path / "cells.md").read_text()
    assert "in 0 of 2 cells (0%)" in text
    assert "More than 1.05 x beyond the noise in 1." in text
    assert "80 % intervals held for 3 of 10 totals (30%)" in text
