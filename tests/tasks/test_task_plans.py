"""Many tasks before any cloud is asked: files, arrivals, and where each task is cut."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.client.conditions import Conditions
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import Ready
from edgecloud.tasks.planner import ClosedQueue, Line, OpenQueue, Profiled, TaskPlan
from edgecloud.tasks.tasks import RejectedLine, Task, arriving, draw, read_file
from edgecloud.utils.errors import UsageError

MBIT = 1e6 / 8


def test_a_mix_is_reproducible_and_uses_everything() -> None:
    inputs = {"a": ["1", "2"], "b": ["3"]}
    first = draw(60, 7, ("a", "b"), lambda model: inputs[model])
    assert first == draw(60, 7, ("a", "b"), lambda model: inputs[model])
    assert first != draw(60, 8, ("a", "b"), lambda model: inputs[model])
    assert {(task.model, task.input) for task in first} == {("a", "1"), ("a", "2"), ("b", "3")}
    assert [task.id for task in first] == list(range(1, 61))


def test_arrivals_are_a_poisson_process() -> None:
    tasks = arriving([Task(n, "a") for n in range(4000)], 5.0, 1)
    gaps = np.diff([task.arrival_s for task in tasks])
    assert gaps.min() >= 0
    assert mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert gaps.std() == pytest.approx(0.2, rel=0.1)  # an exponential distribution is as wide as its mean


def test_a_file_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text("\ufeffModel, input,priority,deadline_ms\nle_net,,,\nalex_net,a.png,2,1500\n", encoding="utf-8")
    expected = [Task(2, "le_net"), Task(3, "alex_net", "a.png", 2, 1.5)]
    assert read_file(path) == (expected, [])
    lines = tmp_path / "tasks.jsonl"
    lines.write_text(
        '\n{"model": "le_net"}\n{"model": "alex_net", "input": "a.png", "priority": 2, "deadline_ms": 1500}\n'
    )
    assert read_file(lines) == (expected, [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("le_net,,x,", "priority 'x' is not a number"),
        ("le_net,,1.5,", "is not a whole number"),
        ("le_net,,,nan", "deadline_ms 'nan' is not a number"),
        ("le_net,,,1e300", "is not a number"),
        (",a.png,,", "name of a network"),
        ("le_net,,,,more", "no column ''"),
    ],
)
def test_a_wrong_line_is_told_by_number_and_the_others_stay(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text(f"model,input,priority,deadline_ms\n{line}\nle_net,,,\n")
    tasks, (problem,) = read_file(path)
    assert tasks == [Task(3, "le_net")]
    assert problem.line == 2
    assert words in problem.text


@pytest.mark.parametrize("line", ["[1]", "{", '{"model": 3}', '{"model": "a", "colour": 1}', "NaN", "[" * 100000])
def test_a_wrong_line_of_json(line: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(line)
    tasks, problems = read_file(path)
    assert (tasks, [problem.line for problem in problems]) == ([], [1])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "contains no tasks"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"a,b\n1,2\n", "expected a header with the columns"),
    ],
)
def test_a_file_without_tasks(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words):
        read_file(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_tasks_problems_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for name in ("t.csv", "t.jsonl"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        try:
            tasks, problems = read_file(path)
        except UsageError:
            continue
        assert all(isinstance(task, Task) for task in tasks)
        assert all(isinstance(problem, RejectedLine) for problem in problems)


# --- plans


def ready(seconds: list[float]) -> Ready:
    return Ready(seconds, [0.0] * len(seconds), 0.0, "cpu", ["raw"], 64 << 20, "measured")


@pytest.fixture
def conditions(network: Callable[[str], TorchNetwork]) -> Callable[[float], Conditions]:
    """A link of so many mbit, and a cloud ten times as fast as the edge of `known`."""
    count = len(network("alex_net").traced.graph.layers)
    return lambda mbit: Conditions(
        LinkEstimate(mbit * MBIT, mbit * MBIT, 0.01, "given"),
        {"alex_net": ready([0.002] * count)},
        max_payload=64 << 20,
    )


@pytest.fixture
def known(network: Callable[[str], TorchNetwork]) -> dict[str, Profiled]:
    graph = network("alex_net").traced.graph
    return {"alex_net": Profiled(graph, [0.0] + [0.02] * (len(graph.layers) - 1))}


def test_a_closed_queue_gives_out_every_task_the_urgent_ones_first(
    known: dict[str, Profiled], conditions: Callable[[float], Conditions]
) -> None:
    tasks = [Task(1, "alex_net"), Task(2, "alex_net", priority=2), Task(3, "alex_net", priority=2, deadline_s=1.0)]
    queue = ClosedQueue([*tasks, *(Task(n, "alex_net") for n in range(4, 20))], known)
    queue.refresh(0.0, conditions(20))
    order = []
    while (found := queue.take(0.0)) is not None:
        order.append(found[0].id)
    assert order[:2] == [3, 2]
    assert sorted(order) == list(range(1, 20))
    assert queue.bound_s is not None
    assert queue.makespan_s is not None
    assert 0 < queue.bound_s <= queue.makespan_s <= 1.05 * queue.bound_s


def test_a_plan_is_made_anew_when_the_link_changes_and_without_a_cloud(
    known: dict[str, Profiled], conditions: Callable[[float], Conditions]
) -> None:
    queue = ClosedQueue([Task(n, "alex_net") for n in range(40)], known)
    queue.refresh(0.0, conditions(100))
    fast = [queue.take(0.0) for _ in range(10)]
    queue.refresh(10.0, conditions(104))  # not really another link
    assert queue.take(0.0) is not None
    queue.refresh(20.0, conditions(0.2))
    slow = [queue.take(0.0) for _ in range(10)]

    def mean_point(found: list[tuple[Task, TaskPlan] | None]) -> float:
        return mean(pair[1].point for pair in found if pair is not None)

    assert mean_point(fast) < mean_point(slow)
    queue.refresh(20.0, Conditions())
    while (found := queue.take(0.0)) is not None:
        assert found[1].is_local
    assert queue.left == 0


def test_an_idle_edge_takes_what_needs_no_link(
    known: dict[str, Profiled], conditions: Callable[[float], Conditions]
) -> None:
    queue = ClosedQueue([Task(n, "alex_net") for n in range(40)], known)
    queue.refresh(0.0, conditions(0.5))
    found = queue.take(0.0, Line(has_room=False, may_grow=False))
    assert found is not None
    assert found[1].is_local


def test_arrivals_are_cut_for_latency_while_the_stages_keep_up(
    known: dict[str, Profiled], conditions: Callable[[float], Conditions]
) -> None:
    def first(rate_per_s: float) -> tuple[str, float, float]:
        queue = OpenQueue([Task(n, "alex_net") for n in range(5)], known, rate_per_s)
        queue.refresh(0.0, conditions(20))
        found = queue.take(0.0)
        assert found is not None
        return found[1].objective, found[1].stages.longest_s, found[1].stages.total_s

    light, heavy = first(0.1), first(50.0)
    assert (light[0], heavy[0]) == ("latency", "throughput")
    assert light[1] >= heavy[1]
    assert light[2] <= heavy[2]


def test_cuts_do_not_flap(known: dict[str, Profiled], conditions: Callable[[float], Conditions]) -> None:
    queue = OpenQueue([Task(n, "alex_net") for n in range(5)], known, 0.1)
    rng = np.random.default_rng(0)
    for second, mbit in enumerate([20.0] * 30 + [0.3] * 30 + [20.0] * 30):
        queue.refresh(float(second), conditions(mbit * rng.uniform(0.95, 1.05)))
    assert len(queue.moves) == 2
    assert queue.moves[0].before == queue.moves[1].after
