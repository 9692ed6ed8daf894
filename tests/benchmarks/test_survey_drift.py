"""A survey beside a neighbour: what its parts say, and where it stops."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.survey_drift import Part, in_time, noise_of, read, shares

PART = Part("alex_net", "head 4", (1.05, 1.2, 1.02), (0.8, 0.85, 0.99), (1.0, 1.08, 1.0, 1.08))


def test_parts_are_judged_by_their_medians() -> None:
    assert noise_of(PART) == pytest.approx(0.08)
    far = Part("le_net", "whole", (1.3,), (1.0,), (1.0, 1.5))
    assert shares([PART, far]) == (0.5, 0.5, 0.5)


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    assert read(path) == []
    path.write_text(json.dumps(asdict(PART)) + "\n")
    assert read(path) == [PART]


def test_nothing_is_begun_that_would_end_too_late() -> None:
    now = time.monotonic()
    assert list(in_time(["a", "b"], now + 60)) == ["a", "b"]
    assert list(in_time(["a", "b"], now - 1)) == []
