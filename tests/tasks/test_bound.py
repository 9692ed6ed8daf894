"""The bound of a run: no order and no choice of the same tasks, with the times as they really were, ends earlier."""

import itertools
import random
from collections.abc import Sequence

import pytest

from edgecloud.partition.schedule import Sharing, makespan
from edgecloud.partition.throughput import Stages
from edgecloud.tasks.bound import Options, Way, least_s
from edgecloud.tasks.tasks import Task


def made(rng: random.Random) -> dict[Way, Stages]:
    heads, tails = sorted(rng.random() for _ in range(3)), sorted(rng.random() for _ in range(3))
    ways = {
        (n, "raw"): Stages(head, rng.random(), tail, 0.05)
        for n, (head, tail) in enumerate(zip(heads, tails[::-1], strict=True))
    }
    return ways | {(3, "raw"): Stages(heads[-1] + 0.2, 0, 0)}


def really(stages: Stages, slower: tuple[float, float, float]) -> Stages:
    edge, link, cloud = slower
    return Stages(stages.edge_s * edge, stages.link_s * link, stages.cloud_s * cloud, stages.delay_s)


def fastest(tasks: Sequence[Task], world: dict[str, dict[Way, Stages]], slower: tuple[float, float, float]) -> float:
    """The least makespan of all choices and orders, by trying them."""
    choices = itertools.product(*(list(world[task.model].values()) for task in tasks))
    return min(
        makespan([really(stages, slower) for stages in order])
        for chosen in choices
        for order in itertools.permutations(chosen)
    )


def test_no_plan_of_the_same_tasks_could_have_ended_before_the_bound() -> None:
    rng = random.Random(1)
    for _ in range(20):
        world = {"a": made(rng), "b": made(rng)}
        tasks = [Task(n, rng.choice("ab")) for n in range(3)]
        slower = (rng.uniform(0.4, 3), rng.uniform(0.4, 3), rng.uniform(0.4, 3))
        options = Options()
        for model, ways in world.items():
            options.note(model, ways.items())
        ran = [(stages, really(stages, slower)) for task in tasks for stages in world[task.model].values()]
        found = least_s(tasks, options, ran)
        best = fastest(tasks, world, slower)
        assert found is not None
        assert 0.5 * best <= found <= best * (1 + 1e-9)


def test_the_best_conditions_count_and_what_was_slower_than_predicted_moves_the_bound() -> None:
    tasks = [Task(n, "a") for n in range(50)]
    options = Options()
    options.note("a", [((0, "raw"), Stages(0.1, 1.0, 0.2))])
    options.note("a", [((0, "raw"), Stages(0.1, 0.5, 0.3))])  # a better link, a cloud with more load
    as_predicted = [(Stages(0.1, 0.5, 0.2), Stages(0.1, 0.5, 0.2))]
    assert least_s(tasks, options, as_predicted) == pytest.approx(0.1 + 50 * 0.5 + 0.2)
    slow_link = [(Stages(0.1, 0.5, 0.2), Stages(0.1, 1.0, 0.2))]
    assert least_s(tasks, options, slow_link) == pytest.approx(0.1 + 50 * 1.0 + 0.2)
    slow_edge = [(Stages(0.1, 0.5, 0.2), Stages(0.9, 0.5, 0.2))]
    assert least_s(tasks, options, slow_edge) == pytest.approx(50 * 0.9 + 0.5 + 0.2)


def test_one_after_the_other_arrivals_and_shared_cores_bound_it_too() -> None:
    options = Options()
    options.note("a", [((0, "raw"), Stages(0.1, 0.5, 0.2)), ((1, "raw"), Stages(0.7, 0.0, 0.0))])
    tasks, ran = [Task(n, "a") for n in range(10)], [(Stages(0.1, 0.5, 0.2), Stages(0.1, 0.5, 0.2))]
    assert least_s(tasks, options, ran, is_serial=True) == pytest.approx(10 * 0.7)
    late = [*tasks, Task(10, "a", arrival_s=100.0)]
    assert least_s(late, options, ran) == pytest.approx(100.7)
    alone = Options()
    alone.note("a", [((0, "raw"), Stages(0.1, 0.05, 0.2))])
    assert least_s(tasks, alone, ran) == pytest.approx(0.15 + 10 * 0.2)
    assert least_s(tasks, alone, ran, sharing=Sharing(1)) == pytest.approx(10 * 0.3), "one core does all of it"


def test_there_is_no_bound_where_nothing_ran_or_nothing_is_known() -> None:
    options = Options()
    options.note("a", [((0, "raw"), Stages(1, 1, 1))])
    assert least_s([Task(1, "a")], options, []) is None
    assert least_s([Task(1, "b")], options, [(Stages(1, 1, 1), Stages(1, 1, 1))]) is None
