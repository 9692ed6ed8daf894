"""Predicted seconds of tasks' networks, corrected by what their stages took."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.cli.task_report import to_json
from edgecloud.client.conditions import Conditions
from edgecloud.engine.speed import Speed
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.net.messages import Ready
from edgecloud.tasks.correcting import Corrections, MeasuredStage, differ
from edgecloud.tasks.planner import ClosedQueue, OpenQueue, Profiled, options_of
from edgecloud.tasks.task_runner import TasksOutcome
from edgecloud.tasks.tasks import Task
from tests.tasks.test_planner import LINK, ROOM, world

KINDS = ("conv", "relu", "linear")


def graph() -> LayerGraph:
    layers = [Layer("input", "input", (), 40)]
    layers += [Layer(f"l{n}", KINDS[(n - 1) % 3], (n - 1,), 20 - n) for n in range(1, 7)]
    return LayerGraph("a", tuple(layers), (6,))


SECONDS = [0.0, 0.1, 0.02, 0.05, 0.2, 0.03, 0.1]


@settings(max_examples=25)
@given(st.lists(st.floats(0.3, 3.0), min_size=3, max_size=3), st.floats(1.0, 4.0))
def test_every_kind_of_layer_is_corrected_whatever_the_speed_of_the_machine(
    wrong: list[float], slowdown: float
) -> None:
    known = Corrections()
    true = np.array([s * (wrong[KINDS.index(layer.kind)] if n else 1) for n, (s, layer) in truth()])
    for number in range(60):
        head = range(1 + number % 6 + 1)
        ran = MeasuredStage(head, slowdown * float(true[list(head)].sum()), 0.1 * number, slowdown)
        known.note("a", "edge", graph(), SECONDS, ran)
    found = np.array(known.of("a", "edge", SECONDS))
    for last in range(1, 7):
        assert found[: last + 1].sum() == pytest.approx(true[: last + 1].sum(), rel=0.1)
    assert known.of("a", "cloud", SECONDS) == SECONDS, "nothing ran there"
    assert known.of("b", "edge", SECONDS) == SECONDS


def truth() -> list[tuple[int, tuple[float, Layer]]]:
    return list(enumerate(zip(SECONDS, graph().layers, strict=True)))


def test_a_plan_is_due_where_a_factor_has_moved() -> None:
    one, other = {("a", "edge"): np.array([1.0, 2.0])}, {("a", "edge"): np.array([1.0, 2.2])}
    assert not differ(one, other)
    assert differ(one, {("a", "edge"): np.array([1.0, 1.4])})
    assert differ(one, {})


def conditions() -> Conditions:
    there = Ready([s / 10 for s in SECONDS], [0.0] * 7, 0.0, "cpu", ["raw"], ROOM, "measured")
    return Conditions(LINK, {"a": there}, max_payload=ROOM)


@pytest.mark.parametrize("rate_per_s", [None, 0.01])
def test_cuts_follow_what_tasks_took_and_the_bound_stays_with_what_was_predicted(rate_per_s: float | None) -> None:
    profile, now, last = Profiled(graph(), SECONDS), conditions(), 6
    tasks = [Task(n, "a") for n in range(30)]
    queue = ClosedQueue(tasks, {"a": profile}) if rate_per_s is None else OpenQueue(tasks, {"a": profile}, rate_per_s)
    queue.refresh(0.0, now)
    before = {option.point: option.stages for option in options_of(profile, now)}
    for number in range(12):
        queue.ran("a", "edge", MeasuredStage(range(7), 4 * sum(SECONDS), 0.1 * number))
    queue.refresh(2.0, now)
    pair = queue.take(100.0)
    assert pair is not None
    plan = pair[1]
    assert plan.point < last
    assert plan.predicted == before[plan.point]
    assert plan.stages.edge_s == pytest.approx(4 * before[plan.point].edge_s, rel=0.15)
    assert queue.options.of["a"][plan.point, "raw"] == before[plan.point]


def test_a_cloud_that_is_predicted_wrong_is_left() -> None:
    known, now = world(random.Random(6), "a")
    assert now.ready is not None
    queue = ClosedQueue([Task(n, "a") for n in range(30)], known, is_serial=True)
    queue.refresh(0.0, now)
    pair = queue.take(0.0)
    assert pair is not None
    graph, ready = known["a"].graph, now.ready["a"]
    assert pair[1].point < len(graph.points) - 1
    for number in range(12):
        queue.ran("a", "cloud", MeasuredStage(range(1, len(graph.layers)), 60 * sum(ready.seconds), 0.1 * number))
    queue.refresh(2.0, now)
    pair = queue.take(2.0)
    assert pair is not None
    assert pair[1].point == len(graph.points) - 1


def test_what_ran_before_anything_was_planned_teaches_nothing() -> None:
    profile = Profiled(graph(), SECONDS)
    queue = ClosedQueue([Task(1, "a")], {"a": profile})
    queue.ran("a", "edge", MeasuredStage(range(7), 9.0, 0.0))
    queue.refresh(0.0, replace(Conditions(), edge_speed=1.0))
    queue.ran("a", "cloud", MeasuredStage(range(1, 7), 9.0, 0.0))
    pair = queue.take(0.0)
    assert pair is not None
    assert pair[1].stages.edge_s == pytest.approx(sum(SECONDS))


def test_the_document_tells_how_fast_both_sides_were() -> None:
    found = to_json(TasksOutcome((), 0, edge_speed=Speed(0.5, 0.02), cloud_speed=0.9))
    assert found["times"] == {"speed": {"edge": 0.5, "cloud": 0.9}, "speed_sd": {"edge": 0.02}}
    assert to_json(TasksOutcome((), 0))["times"]["speed"]["cloud"] is None
