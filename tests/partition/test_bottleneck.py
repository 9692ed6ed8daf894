"""Cuts with the shortest longest stage, checked against every cut of random and of awkward graphs."""

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import scipy.optimize

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition import bottleneck, milp
from edgecloud.partition.bottleneck import PROGRAM, WALK, Bottleneck, dsh, exact
from edgecloud.partition.branch_and_bound import TIE
from edgecloud.partition.cost import CloudTimes, Link, Problem, StageTimes, is_heavy, parts_of, predict
from edgecloud.partition.mincut import CutSolver, Terms
from tests.conftest import ROOT, many
from tests.models.test_graph import all_cuts, chain, random_graph
from tests.partition.test_chain import random_problem

PATIENT_S = 600.0  # a time limit of the solver that no machine reaches
SAME = 1e-9  # seconds that differ by less than this, relatively, differ by rounding only


def awkward_graph(rng: random.Random, count: int) -> LayerGraph:
    """Tensors of no bytes, huge ones, shared ones, layers that read one twice, layers that nobody reads, outputs."""
    layers = [Layer("l0", "input", (), rng.choice([0, 1, 8, 100]))]
    for n in range(1, count):
        reads = tuple(rng.randrange(n) if rng.random() < 0.5 else n - 1 for _ in range(rng.choice([1, 1, 1, 2, 3])))
        layers.append(Layer(f"l{n}", "k", reads, rng.choice([0, 0, 1, 2, 4, 4, 1000, rng.randrange(1, 9)])))
    return LayerGraph("awkward", tuple(layers), tuple(rng.randrange(count) for _ in range(rng.randrange(1, 4))))


def awkward_times(rng: random.Random, count: int) -> list[float]:
    draws: tuple[Callable[[], float], ...] = (
        lambda: rng.choice([0.0, rng.random()]),
        lambda: float(rng.choice([0, 1, 1, 2])),
        lambda: rng.random() ** 20,
        lambda: 10 ** rng.uniform(-6, 4),
    )
    draw = rng.choice(draws)
    return [draw() for _ in range(count)]


def awkward_problem(rng: random.Random, count: int) -> Problem:
    """Times of 0, equal ones and some that differ by ten orders, a cloud that may be slower than the edge, any link."""
    starts = [rng.choice([0.0, rng.random()]) for _ in range(count)]
    cloud = CloudTimes(awkward_times(rng, count), starts, rng.uniform(0.2, 3), rng.random() * 0.2)
    link = Link(10 ** rng.uniform(-1, 3), 10 ** rng.uniform(-1, 3), rng.random())
    return Problem(awkward_graph(rng, count), awkward_times(rng, count), cloud, link)


def any_problem(rng: random.Random, most: int) -> Problem:
    count = rng.randrange(1, most + 1)
    if rng.random() < 0.5 or count < 2:
        return awkward_problem(rng, count)
    return random_problem(rng, random_graph(rng, count, 1 + count % 2 if count > 4 else 1))


def every_prediction(problem: Problem) -> list[StageTimes]:
    return [predict(problem, parts_of(problem.graph, cut)) for cut in all_cuts(problem.graph)]


def check_the_best(problem: Problem, found: Bottleneck) -> None:
    """Nothing beats it, and of what equals it nothing is sooner."""
    every = every_prediction(problem)
    best_s = min(predicted.longest_s for predicted in every)
    assert found.predicted == predict(problem, parts_of(problem.graph, found.head))
    assert found.is_optimal
    assert found.gap == 0
    assert found.predicted.longest_s == pytest.approx(best_s, rel=1e-6, abs=0)
    soonest_s = min(predicted.total_s for predicted in every if predicted.longest_s <= best_s * (1 + SAME))
    assert found.predicted.total_s <= soonest_s * (1 + SAME)


def hard_problem(seed: int, count: int = 60) -> Problem:
    """Many branches: more cuts than can be tried."""
    rng = random.Random(seed)
    reads = [(0,), *((rng.randrange(max(0, n - 12), n),) for n in range(2, count - 1)), tuple(range(count - 1))]
    sizes = [rng.randrange(1, 9) for _ in range(count)]
    layers = [Layer("l0", "input", (), 40), *(Layer(f"l{n}", "k", r, sizes[n]) for n, r in enumerate(reads, 1))]
    times = [[rng.random() for _ in range(count)] for _ in range(2)]
    return Problem(
        LayerGraph("hard", tuple(layers), (count - 1,)), times[0], CloudTimes(times[1], [0.1] * count), Link(5, 5, 0.1)
    )


# --- the best cut


def test_no_cut_of_any_graph_has_a_shorter_longest_stage() -> None:
    rng = random.Random(1)
    for _ in range(many(800, 6000)):
        problem = any_problem(rng, 9)
        found = exact(problem)
        assert found.method == WALK
        check_the_best(problem, found)


def test_the_program_alone_finds_the_best_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "STEPS", 0)
    rng, solved = random.Random(2), 0
    for _ in range(many(150, 1200)):
        problem = any_problem(rng, 9)
        found = exact(problem, PATIENT_S)
        solved += found.method == PROGRAM
        check_the_best(problem, found)
    assert solved > many(50, 500)


def test_walk_and_program_agree_where_there_are_too_many_cuts_to_try_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    for _ in range(many(12, 40)):
        problem = random_problem(rng, random_graph(rng, rng.randrange(12, 25)))
        monkeypatch.setattr(bottleneck, "STEPS", 300_000)
        walked = exact(problem)
        monkeypatch.setattr(bottleneck, "STEPS", 0)
        solved = exact(problem, PATIENT_S)
        assert walked.method == WALK
        assert solved.is_optimal
        assert solved.predicted.longest_s == pytest.approx(walked.predicted.longest_s, rel=1e-6)
        assert solved.predicted.total_s == pytest.approx(walked.predicted.total_s, rel=1e-6)


def test_the_cut_through_two_branches_by_hand() -> None:
    layers = (
        Layer("in", "input", (), 80),
        Layer("a", "k", (0,), 1),
        Layer("b", "k", (0,), 70),
        Layer("c", "k", (2,), 2),
        Layer("out", "k", (1, 3), 1),
    )
    problem = Problem(
        LayerGraph("fork", layers, (4,)), [0, 9, 1, 3, 4], CloudTimes([0, 4, 9, 4, 1], [1] * 5, 0.5), Link(10, 10, 1)
    )
    found = exact(problem)
    assert found.head == {0, 2, 3}  # 4 s on the edge, 80 + 2 bytes on the link
    assert (found.predicted.edge_s, found.predicted.upload_s, found.predicted.cloud_s) == (4, 8.2, 3)


def test_all_on_the_edge_occupies_neither_link_nor_cloud() -> None:
    graph = chain([1000, 1000, 1000])
    found = exact(Problem(graph, [0, 1, 2], CloudTimes([0, 0, 0], [9, 9, 9]), Link(1, 1, 9)))
    assert found.head == graph.everything
    assert found.predicted == StageTimes(3)


def test_chains_need_no_solver_and_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "STEPS", 0)
    rng = random.Random(4)
    for _ in range(100):
        graph = chain([rng.randrange(9) for _ in range(rng.randrange(1, 10))])
        with_shortcuts = tuple(
            replace(layer, inputs=(*layer.inputs, rng.randrange(n))) if n else layer
            for n, layer in enumerate(graph.layers)
        )
        for kind in (graph, LayerGraph("shortcuts", with_shortcuts, graph.outputs)):
            problem = random_problem(rng, kind)
            found = exact(problem, 0)
            assert found.method == WALK
            check_the_best(problem, found)


def test_where_no_time_passes_every_cut_is_best_and_the_soonest_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = replace(random_graph(random.Random(5), 8), outputs=(7,))
    free = LayerGraph("free", tuple(replace(layer, out_bytes=0) for layer in graph.layers), graph.outputs)
    for steps in (0, 30_000):
        monkeypatch.setattr(bottleneck, "STEPS", steps)
        found = exact(Problem(free, [0] * 8, CloudTimes([0] * 8, [0] * 8), Link(1, 1, 0.5)))
        assert found.is_optimal
        assert found.head == graph.everything  # for it waits for no round trip
        assert dsh(Problem(free, [0] * 8, CloudTimes([0] * 8, [0] * 8), Link(1, 1, 0.5))).predicted.longest_s == 0


@pytest.mark.parametrize("steps", [0, 30_000], ids=["the program", "the walk"])
def test_of_equal_longest_stages_the_least_latency_wins(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The link takes longest wherever tensors cross, and these are of one size or free, so many cuts are equal."""
    monkeypatch.setattr(bottleneck, "STEPS", steps)
    rng, ties = random.Random(6), 0
    for _ in range(many(40, 100)):
        graph = random_graph(rng, rng.randrange(5, 9))
        layers = tuple(replace(layer, out_bytes=rng.choice([0, 9, 9]) if layer.inputs else 9) for layer in graph.layers)
        same = LayerGraph("same", layers, graph.outputs)
        size = len(same.layers)
        cloud = CloudTimes([rng.random() * 0.3 for _ in range(size)], [0.0] * size)
        edge_s = [*(rng.random() * 0.3 for _ in range(size - 1)), 3.0]
        problem = Problem(same, edge_s, cloud, Link(9 / 2.5, 9, 0.1))
        check_the_best(problem, exact(problem, PATIENT_S))
        every = sorted(predicted.longest_s for predicted in every_prediction(problem))
        ties += every[1] <= every[0] * (1 + TIE)
    assert ties > many(8, 20)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_seconds_that_are_none_are_refused(wrong: float) -> None:
    problem = Problem(chain([1, 1, 1]), [0, wrong, 1], CloudTimes([0, 1, 1], [0] * 3), Link(1, 1, 0))
    for search in (exact, dsh):
        with pytest.raises(ValueError, match="at least 0"):
            search(problem)


# --- the solver


def test_out_of_time_the_best_cut_known_comes_with_a_true_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "STEPS", 0)
    for seed in range(3):
        problem = hard_problem(seed)
        hurried, patient = exact(problem, 0), exact(problem, PATIENT_S)
        points = [parts_of(problem.graph, problem.graph.head_at(p.number)) for p in problem.graph.points]
        assert patient.is_optimal
        assert not hurried.is_optimal
        assert 0 < hurried.gap <= 1
        assert hurried.predicted.longest_s * (1 - hurried.gap) <= patient.predicted.longest_s * (1 + 1e-6)
        assert hurried.predicted.longest_s >= patient.predicted.longest_s * (1 - 1e-6)
        assert hurried.predicted.longest_s <= min(predict(problem, parts).longest_s for parts in points)


def test_a_solver_that_fails_is_asked_again_without_presolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "STEPS", 0)
    milp, asked = scipy.optimize.milp, []

    def fails_with_presolve(*args: object, **kwargs: dict[str, object]) -> object:
        asked.append(kwargs["options"]["presolve"])
        if asked[-1]:
            return SimpleNamespace(status=4, x=None, mip_dual_bound=None)
        return milp(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "milp", fails_with_presolve)
    assert exact(hard_problem(0, 20), PATIENT_S).is_optimal
    assert asked[:2] == [True, False]


def test_a_solver_that_always_fails_leaves_the_best_cut_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_kwargs: object) -> object:
        raise ValueError("vector::reserve")

    problem = hard_problem(0, 20)
    monkeypatch.setattr(bottleneck, "STEPS", 0)
    monkeypatch.setattr(scipy.optimize, "milp", fails)
    found = exact(problem)
    assert (found.is_optimal, found.gap, found.method) == (False, 1.0, PROGRAM)
    assert problem.graph.check_cut(found.head) == found.head


def test_nearly_whole_numbers_become_a_cut() -> None:
    graph = LayerGraph(
        "v", tuple(Layer(f"l{n}", "k", reads, 1) for n, reads in enumerate([(), (0,), (1,), (0,)])), (2,)
    )
    assert milp._closed(graph, [0, 2, 3]) == {0, 3}


def test_the_solver_is_loaded_only_where_it_is_needed() -> None:
    code = """
import sys
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition.bottleneck import exact
from edgecloud.partition.cost import CloudTimes, Link, Problem
layers = tuple(Layer(str(n), "k", reads, 8) for n, reads in enumerate([(), (0,), (0,), (1, 2)]))
graph = LayerGraph("fork", layers, (3,))
assert exact(Problem(graph, [1] * 4, CloudTimes([1] * 4, [0] * 4), Link(1, 1, 0))).is_optimal
sys.exit(bool({"scipy.optimize", "torch"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- DADS's heuristic, and its test for a heavy load


def test_dads_heuristic_is_within_three_times_the_best_and_never_better_than_exact() -> None:
    rng, worse = random.Random(7), 0
    for _ in range(many(8, 30)):
        problem = any_problem(rng, 9)
        found, best_s = dsh(problem), min(predicted.longest_s for predicted in every_prediction(problem))
        assert found.predicted == predict(problem, parts_of(problem.graph, found.head))
        assert best_s * (1 - 1e-9) <= found.predicted.longest_s <= 3 * best_s * (1 + 1e-9)
        assert found.predicted.longest_s * (1 - found.gap) <= best_s * (1 + 1e-5)
        assert exact(problem).predicted.longest_s <= found.predicted.longest_s * (1 + 1e-6)
        worse += found.predicted.longest_s > best_s * (1 + 1e-6)
    assert worse  # a heuristic after all: scaled minimum cuts miss some cuts


def test_dads_heuristic_tries_few_cuts_however_small_a_tensor_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts, best = [], CutSolver.best

    def counted(solver: CutSolver, terms: Terms) -> frozenset[int]:
        cuts.append(best(solver, terms))
        return cuts[-1]

    monkeypatch.setattr(CutSolver, "best", counted)
    problem = Problem(
        chain([10**9, 1, 10**9, 5]), [0, 9, 9, 9], CloudTimes([0, 9, 9, 9], [0] * 4, 3.0), Link(1e9, 1e9, 0)
    )
    found = dsh(problem)
    assert (found.predicted.longest_s, found.method) == (27, "dsh")
    assert 33 * 33 <= len(cuts) <= 33 * 33 + 1 + 20 * 81


@pytest.mark.parametrize(("rate", "heavy"), [(0, False), (0.49, False), (0.5, True), (3, True)])
def test_a_load_is_heavy_once_a_task_comes_before_the_longest_stage_of_the_last_is_done(
    rate: float, heavy: bool
) -> None:
    assert is_heavy(StageTimes(1.0, 2.0, 9.0, 9.0, 1.5, 9.0), rate) is heavy
