"""What is wanted becomes what runs where: the objectives, the methods, and what one frame can carry."""

import argparse
import random
from dataclasses import replace

import pytest

from edgecloud.cli import flags
from edgecloud.cli.goals import WORDS, goal_of
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition.cost import CloudTimes, Link, Packed, Part, Power, Problem, parts_of, predict
from edgecloud.partition.decide import Clash, Decision, FrameLimits, Goal, GoalError, decide
from edgecloud.partition.objectives import OBJECTIVES, Search
from edgecloud.utils.errors import UsageError
from tests.models.test_graph import all_cuts, random_graph
from tests.models.test_graph import chain as make_chain
from tests.partition.test_chain import random_problem

POWER = Power(6.4, 2.7, 5.5, 1.2)


def branches() -> Problem:
    """Two branches whose heads shrink what they read: the best cut is crossed by two tensors."""
    layers = (
        Layer("in", "input", (), 1000),
        Layer("left", "k", (0,), 10),
        Layer("right", "k", (0,), 10),
        Layer("left2", "k", (1,), 900),
        Layer("right2", "k", (2,), 900),
        Layer("joined", "k", (3, 4), 4),
    )
    cloud = CloudTimes([0, 0.1, 0.1, 0.1, 0.1, 0.1], [0.0] * 6)
    return Problem(LayerGraph("branches", layers, (5,)), [0, 1, 1, 20, 20, 20], cloud, Link(10, 10, 0.1))


def test_a_cut_of_several_tensors_is_found_where_it_is_best() -> None:
    problem = branches()
    found = decide(problem, Goal())
    assert (found.method, found.is_optimal, found.head) == ("mincut", True, frozenset({0, 1, 2}))
    assert found.boundary(problem.graph) == (1, 2)
    assert found.point(problem.graph) is None
    assert decide(problem, Goal(method="chain")).predicted.total_s > 2 * found.predicted.total_s
    assert not decide(problem, Goal(method="chain")).is_optimal


@pytest.mark.parametrize("objective", [name for name, one in OBJECTIVES.items() if one.search is not Search.RATE])
def test_every_objective_is_least_of_all_cuts(objective: str) -> None:
    rng = random.Random(1)
    goal = Goal(objective, seconds_per_joule=0.3 if objective == "weighted" else None)
    for count in range(60):
        graph = random_graph(rng, rng.randrange(3, 9), 1 + count // 2 % 2) if count % 2 else make_chain([5, 9, 2, 4])
        problem = random_problem(rng, graph)
        found = decide(problem, goal, POWER)
        every = [predict(problem, parts_of(graph, cut)) for cut in all_cuts(graph)]
        if objective == "throughput":
            assert found.predicted.longest_s == pytest.approx(min(p.longest_s for p in every))
        else:
            weights = goal.weights(POWER)
            assert weights.value(found.predicted) == pytest.approx(min(map(weights.value, every)))
        assert found.is_optimal
        assert found.method in (("chain",) if graph.is_chain else ("mincut", "walk", "milp"))


def test_light_load_asks_for_latency_and_heavy_load_for_throughput() -> None:
    problem = branches()
    fast = decide(problem, Goal())
    slow_rate = 0.9 / fast.predicted.longest_s
    light = decide(problem, Goal("auto", rate_per_s=slow_rate))
    assert (light.objective, light.head, light.keeps_up) == ("latency", fast.head, True)
    heavy = decide(problem, Goal("auto", rate_per_s=1.1 / fast.predicted.longest_s))
    assert heavy.objective == "throughput"
    assert heavy.predicted.longest_s <= fast.predicted.longest_s
    assert decide(problem, Goal("auto", rate_per_s=1e9)).keeps_up is False


def test_the_published_search_for_throughput_is_there_to_compare_with() -> None:
    problem = branches()
    found = decide(problem, Goal("throughput", "dsh"))
    assert (found.method, found.is_optimal) == ("dsh", False)
    assert found.predicted.longest_s >= decide(problem, Goal("throughput")).predicted.longest_s


def test_a_limit_of_cost_is_kept_by_going_back_and_forth() -> None:
    """The first and the last layer are cheap on the cloud, the one in between is not."""
    graph = make_chain([1, 1, 1, 1])
    problem = Problem(graph, [0, 9, 3, 9], CloudTimes([0, 0.1, 2, 0.1], [0] * 4), Link(1e6, 1e6, 0.0))
    found = decide(problem, Goal(max_cost=1.0, price_per_s=1.0))
    assert [part.place for part in found.parts] == ["edge", "cloud", "edge", "cloud"]
    assert found.cost == pytest.approx(0.2)
    assert not found.is_cut
    assert found.head == {0, 2}
    assert found.point(graph) is None
    assert decide(problem, Goal(max_cost=0.0, price_per_s=1.0)).head == graph.everything
    assert decide(problem, Goal(max_cost=9.0, price_per_s=1.0)).predicted.total_s <= found.predicted.total_s


def test_a_limit_below_zero_cannot_be_kept() -> None:
    with pytest.raises(UsageError, match="cost"):
        decide(branches(), Goal(max_cost=-0.1, price_per_s=1.0))


def test_a_rate_is_kept_up_with_by_a_point_where_no_frame_carries_the_minimum_cut() -> None:
    rng, narrow = random.Random(3), FrameLimits(40, 1)
    for _ in range(60):
        problem = random_problem(rng, random_graph(rng, 6))
        found = decide(problem, Goal("auto", method="mincut", rate_per_s=1e9), POWER, narrow)
        assert all(narrow.fits(problem.graph, part) for part in found.parts)


@pytest.mark.parametrize(
    "room", [FrameLimits(19, 64), FrameLimits(1 << 20, 1)], ids=["too many bytes", "too many tensors"]
)
@pytest.mark.parametrize("goal", [Goal(), Goal("throughput"), Goal("auto", rate_per_s=1e-3)], ids=str)
def test_what_no_frame_can_carry_is_not_chosen(room: FrameLimits, goal: Goal) -> None:
    problem = branches()
    assert len(decide(problem, goal).boundary(problem.graph)) == 2
    found = decide(problem, goal, room=room)
    assert all(room.fits(problem.graph, part) for part in found.parts)
    assert not found.is_optimal
    assert found.objective in ("latency", "throughput")


def test_what_no_frame_can_carry_is_not_chosen_under_a_limit_of_cost() -> None:
    graph = make_chain([100, 100, 100, 100])
    problem = Problem(graph, [0, 9, 3, 9], CloudTimes([0, 0.1, 2, 0.1], [0] * 4), Link(1e6, 1e6, 0.0))
    found = decide(problem, Goal(max_cost=1.0, price_per_s=1.0), room=FrameLimits(99, 64))
    assert found.parts == (Part("edge", graph.everything),)


@pytest.mark.parametrize(
    ("wishes", "word"),
    [
        ({"objective": "weighted"}, "--seconds-per-joule"),
        ({"objective": "auto"}, "--rate"),
        ({"seconds_per_joule": 1.0}, "weighted"),
        ({"max_cost": 1.0}, "--cloud-price"),
        ({"max_cost": 1.0, "price_per_s": 1.0, "objective": "throughput"}, "--max-cost"),
        ({"max_cost": 1.0, "price_per_s": 1.0, "method": "mincut"}, "--max-cost"),
        ({"method": "dsh"}, "throughput"),
        ({"method": "mincut", "objective": "throughput"}, "--method"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(wishes: dict[str, object], word: str) -> None:
    """Here with the names of the fields; a command line says it with its flags."""
    with pytest.raises(GoalError) as caught:
        replace(Goal(), **wishes)  # type: ignore[arg-type]
    assert "--" not in str(caught.value)
    assert word in WORDS[caught.value.clash]
    assert [getattr(caught.value.goal, name) for name in wishes] == list(wishes.values())


def test_a_command_line_has_words_for_all_that_may_be_wrong_with_a_goal() -> None:
    assert set(WORDS) == set(Clash)
    parser = argparse.ArgumentParser()
    flags.add_goal_flags(parser.add_argument_group("goal"), OBJECTIVES)
    with pytest.raises(UsageError, match="--objective weighted requires --seconds-per-joule"):
        goal_of(parser.parse_args(["--objective", "weighted"]))


def test_the_point_of_a_cut_has_its_number() -> None:
    problem = branches()
    for point in problem.graph.points:
        parts = parts_of(problem.graph, problem.graph.head_at(point.number))
        decision = Decision("latency", "given", parts, predict(problem, parts), ())
        assert decision.point(problem.graph) == point.number


def test_packed_tensors_count_with_what_is_sent_in_every_objective() -> None:
    rng = random.Random(4)
    for number in range(40):
        graph = random_graph(rng, 6) if number % 2 else make_chain([5, 9, 2, 4])
        packed = [Packed("zstd", rng.randrange(1, 1 + layer.out_bytes)) for layer in graph.layers]
        problem = replace(random_problem(rng, graph), packed=packed)
        every = [predict(problem, parts_of(graph, cut)) for cut in all_cuts(graph)]
        most = decide(problem, Goal("throughput")).predicted.longest_s
        assert most == pytest.approx(min(found.longest_s for found in every))
        assert decide(problem, Goal()).predicted.total_s == pytest.approx(min(found.total_s for found in every))


def test_a_goal_is_read_from_the_flags_of_a_command_line() -> None:
    parser = argparse.ArgumentParser()
    flags.add_goal_flags(parser.add_argument_group("goal"), OBJECTIVES)
    given = "--objective weighted --seconds-per-joule 0.5 --method mincut"
    assert goal_of(parser.parse_args(given.split())) == Goal("weighted", "mincut", 0.5)
