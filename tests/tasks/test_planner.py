"""Which task is next and where it is cut, against the formula written out; graphs and times are made up, no network."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from edgecloud.client.conditions import CHANGED_LOAD, CHANGED_RATE, Conditions
from edgecloud.models.graph import LayerGraph
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import Ready
from edgecloud.partition.cost import CloudTimes, Link, Packed, Problem, StageTimes, parts_of, predict
from edgecloud.partition.packing import Allowed
from edgecloud.partition.throughput import Stages, stages_of
from edgecloud.tasks.planner import (
    ALL,
    HORIZON,
    ClosedQueue,
    Line,
    OpenQueue,
    Option,
    Profiled,
    best_of,
    options_of,
)
from edgecloud.tasks.tasks import Task
from tests.models.test_graph import chain, random_graph

LINK = LinkEstimate(100.0, 50.0, 0.01, "given")
ROOM = 1 << 20
FULL = Line(has_room=False, may_grow=False)


def named(graph: LayerGraph, name: str) -> LayerGraph:
    return replace(graph, name=name)


def ready_of(rng: random.Random, graph: LayerGraph, *codecs: str) -> Ready:
    seconds = [0.0, *(rng.random() * 0.05 for _ in graph.layers[1:])]
    starts = [rng.random() * 0.01 for _ in graph.layers]
    return Ready(seconds, starts, 0.0, "cpu", ["raw", *codecs], ROOM, "measured")


def made(rng: random.Random, name: str, *codecs: str) -> tuple[Profiled, Ready]:
    """A chain whose middle is small, and a cloud about ten times as fast."""
    graph = named(chain([30, 20, 4, 3, rng.randrange(1, 9)]), name)
    return Profiled(graph, [0.0, *(rng.random() * 0.5 for _ in graph.layers[1:])]), ready_of(rng, graph, *codecs)


def world(rng: random.Random, *names: str) -> tuple[dict[str, Profiled], Conditions]:
    both = {name: made(rng, name) for name in names}
    ready = {name: there for name, (_, there) in both.items()}
    return {name: here for name, (here, _) in both.items()}, Conditions(LINK, ready, max_payload=ROOM)


def taken(queue: ClosedQueue | OpenQueue, now_s: float = 0.0, line: Line = ALL) -> list[Task]:
    found = []
    while (pair := queue.take(now_s, line)) is not None:
        found.append(pair[0])
    return found


# --- what can be chosen


def test_options_are_every_point_with_every_codec_that_both_sides_allow_by_the_formula() -> None:
    rng = random.Random(1)
    for _ in range(60):
        graph = named(random_graph(rng, rng.randrange(3, 8)), "g")
        ways = [
            [Packed("raw", layer.out_bytes), Packed("zstd", layer.out_bytes // 2, 0.1, 0.2)] for layer in graph.layers
        ]
        lossy = {layer: [Packed("int8", 1, 0.3, 0.1)] for layer in range(len(graph.layers)) if rng.random() < 0.5}
        codecs = [name for name in ("zstd", "int8") if rng.random() < 0.7]
        ready, seconds = ready_of(rng, graph, *codecs), [0.0, *(rng.random() for _ in graph.layers[1:])]
        room, load = rng.randrange(2, 10), rng.uniform(1, 3)
        found = options_of(
            Profiled(graph, seconds, Allowed(ways, lossy)), Conditions(LINK, {"g": ready}, load, 0.03, room)
        )
        link = Link(LINK.up_bytes_per_s, LINK.down_bytes_per_s, LINK.rtt_s)
        problem = Problem(graph, seconds, CloudTimes(ready.seconds, ready.start_s, load, 0.03), link)
        expected: dict[tuple[int, str], StageTimes] = {}
        for point in graph.points[:-1]:
            if graph.layers[point.layer].out_bytes > room:
                continue
            for packed in (*ways[point.layer], *lossy.get(point.layer, ())):
                if packed.codec in ready.codecs:
                    each = [packed if number == point.layer else one[0] for number, one in enumerate(ways)]
                    cut = parts_of(graph, graph.head_at(point.number))
                    expected[point.number, packed.codec] = predict(replace(problem, packed=each), cut)
        assert {(option.point, option.codec) for option in found[:-1]} == expected.keys()
        for option in found[:-1]:
            by_formula = stages_of(expected[option.point, option.codec])
            assert stages_values(option.stages) == pytest.approx(stages_values(by_formula))
        assert found[-1] == Option(len(graph.points) - 1, graph.points[-1].layer, "raw", found[-1].stages)
        assert stages_values(found[-1].stages) == pytest.approx((sum(seconds), 0, 0, 0))


def stages_values(stages: Stages) -> tuple[float, ...]:
    return stages.edge_s, stages.link_s, stages.cloud_s, stages.delay_s


def test_without_a_cloud_there_is_one_option() -> None:
    known, _ = made(random.Random(2), "a")
    for nobody in (Conditions(), Conditions(link=LINK), Conditions(ready={})):
        (option,) = options_of(known, nobody)
        assert option.point == len(known.graph.points) - 1
        assert stages_values(option.stages) == pytest.approx((sum(known.seconds), 0, 0, 0))


def test_conditions_differ_where_a_rate_or_the_load_has_really_changed_either_way() -> None:
    _, here = world(random.Random(3), "a")
    assert not here.differs(here)
    assert not Conditions().differs(Conditions(load=9))
    assert here.differs(Conditions())
    assert Conditions().differs(here)
    for change, share in (("up_bytes_per_s", CHANGED_RATE), ("down_bytes_per_s", CHANGED_RATE), ("load", CHANGED_LOAD)):
        for factor, expected in ((1 + 0.9 * share, False), (1 + 1.1 * share, True)):
            if change == "load":
                other = replace(here, load=here.load * factor)
            else:
                other = replace(here, link=replace(LINK, **{change: getattr(LINK, change) * factor}))
            assert here.differs(other) == other.differs(here) == expected


# --- all tasks are there


@pytest.mark.parametrize("is_serial", [False, True])
def test_a_queue_too_long_to_be_planned_at_once_is_given_out_whole_and_by_priority(is_serial: bool) -> None:
    rng = random.Random(4)
    known, conditions = world(rng, "a", "b")
    tasks = [
        Task(n, rng.choice("ab"), priority=rng.randrange(3), deadline_s=rng.choice([None, 1.0, 2.0]))
        for n in range(2 * HORIZON + 30)
    ]
    queue = ClosedQueue(tasks, known, is_serial=is_serial)
    found = []
    for second in range(len(tasks)):
        queue.refresh(float(second), conditions)
        pair = queue.take(float(second))
        assert pair is not None
        found.append(pair[0])
        assert queue.left == len(tasks) - len(found)
        assert queue.next_arrival_s() is None
    queue.refresh(1e6, conditions)
    assert queue.take(1e6) is None
    assert Counter(task.id for task in found) == Counter(task.id for task in tasks)
    assert [task.urgency for task in found] == sorted(task.urgency for task in tasks)
    assert queue.bound_s is None, "nobody knows what the best plan of all of them takes"


def test_one_after_the_other_each_task_has_the_cut_of_least_latency_and_the_sum_is_the_bound() -> None:
    rng = random.Random(5)
    for _ in range(20):
        known, conditions = world(rng, "a", "b")
        tasks = [Task(n, rng.choice("ab")) for n in range(9)]
        queue = ClosedQueue(tasks, known, is_serial=True)
        queue.refresh(0.0, conditions)
        least_s = {
            name: min(option.stages.total_s for option in options_of(each, conditions)) for name, each in known.items()
        }
        total_s = sum(least_s[task.model] for task in tasks)
        assert queue.bound_s == queue.makespan_s == pytest.approx(total_s)
        for _ in tasks:
            pair = queue.take(0.0)
            assert pair is not None
            assert pair[1].stages.total_s == pytest.approx(least_s[pair[0].model])
            assert pair[1].objective == "latency"


def test_a_plan_is_kept_for_half_a_second_even_where_the_link_changes_unless_the_cloud_goes() -> None:
    known, conditions = world(random.Random(6), "a")
    slow = replace(conditions, link=replace(LINK, up_bytes_per_s=1e-3))
    queue = ClosedQueue([Task(n, "a") for n in range(30)], known)

    def point() -> int:
        pair = queue.take(0.0)
        assert pair is not None
        return pair[1].point

    last = len(known["a"].graph.points) - 1
    queue.refresh(0.0, conditions)
    assert point() < last
    queue.refresh(0.4, slow)
    assert point() < last
    queue.refresh(0.5, slow)
    assert point() == last
    queue.refresh(1.0, conditions)
    assert point() < last
    queue.refresh(1.1, Conditions())
    assert point() == last


# --- tasks arrive


def test_nothing_is_given_out_before_it_has_arrived_and_then_the_most_urgent_one() -> None:
    rng = random.Random(7)
    known, conditions = world(rng, "a", "b")
    tasks = [
        Task(n, rng.choice("ab"), priority=rng.randrange(2), deadline_s=rng.choice([None, 5.0]), arrival_s=n // 4)
        for n in range(40)
    ]
    queue = OpenQueue(random.Random(8).sample(tasks, len(tasks)), known, 1.0)
    queue.refresh(0.0, conditions)
    there: list[Task] = []
    found = []
    for second in range(15):
        there += [task for task in tasks if task.arrival_s == second]
        for _ in range(3):
            pair = queue.take(float(second))
            assert (pair is None) == (not there)
            if pair is not None:
                assert pair[0] == min(there, key=lambda task: (task.urgency, task.arrival_s, task.id))
                there.remove(pair[0])
                found.append(pair[0])
        following = next((task.arrival_s for task in tasks if task.arrival_s > second), None)
        assert queue.next_arrival_s() == following
        assert queue.left == len(tasks) - len(found)
    assert len(found) == len(tasks)


def test_while_nothing_can_be_sent_only_what_needs_no_cloud_is_given_out() -> None:
    rng = random.Random(9)
    known, conditions = world(rng, "a", "b")
    assert conditions.ready is not None
    slow_here = replace(known["a"], seconds=[s * 100 for s in known["a"].seconds])
    slow_there = replace(conditions.ready["b"], seconds=[100.0] * len(conditions.ready["b"].seconds))
    known["a"] = slow_here
    conditions = replace(conditions, ready={**conditions.ready, "b": slow_there})
    tasks = [Task(n, "ab"[n % 2]) for n in range(10)]
    queue = OpenQueue(tasks, known, 0.001)
    queue.refresh(0.0, conditions)
    assert {task.model for task in taken(queue, line=FULL)} == {"b"}
    assert {task.model for task in taken(queue)} == {"a"}
    assert queue.left == 0


@pytest.mark.parametrize(("rate_per_s", "objective"), [(1e-3, "latency"), (1e3, "throughput")])
def test_a_cut_in_use_is_left_only_for_one_that_is_clearly_better(rate_per_s: float, objective: str) -> None:
    """Around a rate at which two cuts are worth the same; under heavy load what is judged is the longest stage."""
    known, conditions = world(random.Random(10), "a")

    def at(bytes_per_s: float) -> Conditions:
        return replace(conditions, link=replace(LINK, up_bytes_per_s=bytes_per_s))

    def best(bytes_per_s: float) -> int:
        return best_of(options_of(known["a"], at(bytes_per_s)), objective).point

    rates = [LINK.up_bytes_per_s * 1.02**step for step in range(-300, 300)]
    pairs = [(low, high) for low, high in itertools.pairwise(rates) if best(low) != best(high)]
    assert pairs
    for low, high in pairs:
        queue = OpenQueue([Task(n, "a") for n in range(9)], known, rate_per_s)
        for second in range(40):
            queue.refresh(float(second), at((low, high)[second % 2]))
        assert queue.objective == objective
        assert queue.moves == []
    points = []
    queue = OpenQueue([Task(n, "a") for n in range(9)], known, rate_per_s)
    for second, rate in enumerate((rates[0], rates[-1], rates[0])):
        queue.refresh(float(second), at(rate))
        pair = queue.take(float(second))
        assert pair is not None
        assert pair[1].point == best(rate)
        points.append(pair[1].point)
    queue.refresh(9.0, at(rates[0]))
    assert points[0] != points[1]
    moves = [(move.at_s, move.model, move.before, move.after) for move in queue.moves]
    assert moves == [(1.0, "a", points[0], points[1]), (2.0, "a", points[1], points[2])]


@pytest.mark.parametrize("rate_per_s", [1e-3, 1e3])
def test_a_cut_that_cannot_be_used_any_more_is_left_at_once(rate_per_s: float) -> None:
    known, conditions = world(random.Random(10), "a")
    queue = OpenQueue([Task(n, "a") for n in range(9)], known, rate_per_s)
    queue.refresh(0.0, conditions)
    first = queue.take(0.0)
    queue.refresh(50.0, Conditions())
    away = queue.take(50.0, FULL)
    assert first is not None
    assert away is not None
    assert away[1].is_local
    assert [(move.at_s, move.before, move.after) for move in queue.moves] == [(50.0, first[1].point, away[1].point)]
