"""Nothing but the answer on stdout: what a library in C prints goes nowhere, what Python prints stays."""

import ctypes
import io
import random
import sys
from typing import Any

import pytest
import scipy.optimize
from rich.console import Console

from edgecloud.partition import bottleneck
from edgecloud.partition.cost import Packed, StageTimes
from edgecloud.partition.decide import Goal, decide
from edgecloud.partition.packing import Allowed
from edgecloud.tools.plan_table import BAR, STAGES, candidates_table
from edgecloud.utils.quiet import silent_stdout
from tests.models.test_graph import chain
from tests.partition.test_bottleneck import hard_problem
from tests.partition.test_chain import random_problem

LIBC = ctypes.CDLL(None)


def test_only_what_is_printed_meanwhile_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write("before\n")
    with silent_stdout():
        LIBC.printf(b"from C\n")
    sys.stdout.write("after\n")
    sys.stdout.flush()
    LIBC.printf(b"from C again\n")
    LIBC.fflush(None)
    sys.stdout.flush()
    assert capfd.readouterr().out == "before\nafter\nfrom C again\n"


def test_the_solver_prints_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS 1.12 does on one graph in hundreds; here on every one."""
    asked = []
    milp = scipy.optimize.milp

    def talks(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        LIBC.printf(b"HighsMipSolverData\n")
        return milp(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "milp", talks)
    monkeypatch.setattr(bottleneck, "STEPS", 0)
    found = bottleneck.exact(hard_problem(1))
    LIBC.fflush(None)
    assert asked
    assert found.method == bottleneck.PROGRAM
    assert capfd.readouterr().out == ""


def test_the_bars_of_a_table_are_the_whole_total() -> None:
    """Packing and the queue are in them."""
    seconds = StageTimes(0.1, 0.2, 0.05, 0.25, 0.1, 0.02, 0.2, 0.08)
    assert sum(seconds.to_json()[name] for name, _, _ in STAGES) == pytest.approx(seconds.total_s)
    problem = random_problem(random.Random(4), chain([1000, 1000, 4]))
    decision = decide(problem, Goal(), allowed=Allowed([[Packed("zstd", 10, 0.25, 0.125)]] * 3, {}))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(candidates_table(problem.graph, decision))
    lines = console.export_text().splitlines()[1:]
    assert len(lines) == 3
    assert ["▚" in line for line in lines] == [True, True, False]
    assert max(sum(line.count(block) for _, _, block in STAGES) for line in lines) in range(BAR - 2, BAR + 3)
