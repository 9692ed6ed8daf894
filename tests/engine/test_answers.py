"""How answers are compared: NaN, infinity and other shapes are differences, and never hidden behind a number."""

import math
from typing import Any

import numpy as np
import pytest

from edgecloud.cli.task_report import summary
from edgecloud.engine.answers import is_finite_alike, matches, max_abs_diff, told_difference
from edgecloud.tasks.pipeline import TaskRecord
from edgecloud.tasks.task_runner import TasksOutcome
from edgecloud.tasks.tasks import Task

NAN, INF = math.nan, math.inf


def row(*numbers: float) -> list[np.ndarray[Any, Any]]:
    return [np.array([numbers], np.float32)]


@pytest.mark.parametrize(
    ("answer", "expected", "difference"),
    [
        (row(1, 2), row(1, 2), 0.0),
        (row(1, 2), row(1, 2.5), 0.5),
        (row(1, NAN), row(1, 2), INF),
        (row(1, 2), row(1, NAN), INF),
        (row(1, NAN), row(1, NAN), 0.0),
        (row(1, INF), row(1, INF), 0.0),
        (row(1, INF), row(1, -INF), INF),
        (row(3e38, 0), row(-3e38, 0), 6e38),
        (row(1, 2, 3), row(1, 2), INF),
        ([np.array([[True, False]])], [np.array([[True, True]])], 1.0),
        (row(1, 2) + row(NAN), row(1, 2) + row(0), INF),
    ],
)
def test_the_difference_says_what_matches_says(answer: list[Any], expected: list[Any], difference: float) -> None:
    found = max_abs_diff(answer, expected)
    assert found == pytest.approx(difference, rel=1e-6)
    assert matches(answer, expected) == (difference == 0)
    assert told_difference(found)[0] == (None if math.isinf(difference) else found)


def test_what_is_finite_in_one_has_to_be_in_the_other() -> None:
    assert is_finite_alike(row(NAN, 1), row(INF, 2))
    assert not is_finite_alike(row(NAN, 1), row(1, 2))


def test_a_wrong_answer_without_a_number_is_told_in_the_summary() -> None:
    good, bad = TaskRecord(Task(1, "le_net")), TaskRecord(Task(2, "le_net"))
    for record, matched in ((good, True), (bad, False)):
        record.completed_by, record.matches = "cloud", matched
    good.max_abs_diff = 0.0
    bad.max_abs_diff, bad.difference = told_difference(INF)
    found = summary(TasksOutcome((), 0, records=(good, bad), wall_s=1.0))
    assert (found["wrong"], found["max_abs_diff"]) == (1, None)
    assert found["max_abs_diff_reason"].startswith("task 2: NaN, infinity or another shape")
