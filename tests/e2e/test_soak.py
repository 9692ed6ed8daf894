"""Nothing grows and nothing goes wrong while three edges keep one cloud busy for minutes."""

import pytest

from tests.conftest import run_script


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_minutes_of_tasks() -> None:
    command = ["-m", "benchmarks.soak", "--minutes", "5", "--results", ""]
    done = run_script(*command, timeout_s=540)
    assert done.code == 0, done.stdout + done.stderr
