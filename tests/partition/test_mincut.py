"""Minimum cuts, decision maps and fronts: equal to brute force over all closed cuts."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition import chain
from edgecloud.partition.cost import (
    LATENCY,
    CloudTimes,
    Link,
    Power,
    Problem,
    StageTimes,
    StageWeights,
    parts_of,
    predict,
)
from edgecloud.partition.decision_map import DecisionMap, follow, keep_download
from edgecloud.partition.envelope import Line, envelope
from edgecloud.partition.mincut import CutSolver
from edgecloud.partition.pareto import front
from tests.conftest import many
from tests.models.test_graph import all_cuts, random_graph
from tests.models.test_graph import chain as make_chain
from tests.partition.test_chain import random_problem

GRAPHS = many(600, 5000)
POWER = Power(6.4, 2.7, 5.5, 1.2)


def adversarial(rng: random.Random, graph: LayerGraph) -> Problem:
    """Times of nothing, free tensors, one cloud slower than the edge, links without a round trip, several outputs."""
    layers = [replace(layer, out_bytes=rng.choice([0, 1, 7, 1000])) for layer in graph.layers]
    last = len(layers) - 1
    outputs = tuple(sorted({last, rng.randrange(last + 1)} - {0})) or (last,)
    graph = replace(graph, layers=tuple(layers), outputs=outputs)
    edge_s = [0.0, *(rng.choice([0.0, 0.5, 1.0, 10.0]) for _ in range(last))]
    cloud_s = [0.0, *(rng.choice([0.0, 0.5, 1.0, 20.0]) for _ in range(last))]
    start_s = [rng.choice([0.0, 0.5]) for _ in layers]
    link = Link(rng.choice([0.5, 10.0, 1e9]), rng.choice([0.5, 1e9]), rng.choice([0.0, 0.3]))
    return Problem(graph, edge_s, CloudTimes(cloud_s, start_s, rng.choice([1.0, 0.1, 5.0])), link)


def with_dead_ends(rng: random.Random, count: int, inputs: int = 1) -> LayerGraph:
    """Any layer may be one that nobody reads and no output needs."""
    layers = [Layer(f"in{number}", "input", (), 5) for number in range(inputs)]
    for number in range(inputs, count):
        reads = {rng.randrange(number) for _ in range(rng.randrange(1, 4))}
        layers.append(Layer(f"l{number}", "k", tuple(sorted(reads)), rng.randrange(1, 9)))
    return LayerGraph("dead ends", tuple(layers), (count - 1,))


def problems(seed: int, count: int, most: int = 10) -> list[Problem]:
    """Random ones and adversarial ones, in turns."""
    rng, found = random.Random(seed), []
    for number in range(count):
        size = rng.randrange(3, most + 1) if number % 4 else rng.randrange(2, 7)
        inputs = rng.choice([1, 1, 2, 3]) if size > 3 else 1
        graph = with_dead_ends(rng, size, inputs) if number % 3 == 0 else random_graph(rng, size, inputs)
        found.append(adversarial(rng, graph) if number % 2 else random_problem(rng, graph))
    return found


def predictions(problem: Problem) -> list[StageTimes]:
    """Of every closed cut."""
    return [predict(problem, parts_of(problem.graph, cut)) for cut in all_cuts(problem.graph)]


def radio(link: Link) -> StageWeights:
    """Watts that grow with the rate, as those of a radio do."""
    return Power(6.4, 2.7, 0.3 * link.up_bytes_per_s + 1, 0.1 * link.down_bytes_per_s + 1).weights


def test_the_minimum_cut_is_the_best_of_all_cuts() -> None:
    """For latency, energy and both weighted, on as many graphs as the issue asks for."""
    objectives = (LATENCY, POWER.weights, LATENCY.plus(POWER.weights, 0.2))
    for number, problem in enumerate(problems(1, GRAPHS)):
        solver, found = CutSolver(problem.graph), predictions(problem)
        for weights in objectives:
            head = solver.best(solver.terms(problem, weights))
            mine = weights.value(predict(problem, parts_of(problem.graph, head)))
            assert mine == pytest.approx(min(map(weights.value, found)), rel=1e-7, abs=1e-12), number


def test_the_terms_of_a_cut_add_up_to_its_value() -> None:
    for problem in problems(2, 200, 8):
        terms = CutSolver(problem.graph).terms(problem, POWER.weights)
        for cut in all_cuts(problem.graph):
            expected = POWER.weights.value(predict(problem, parts_of(problem.graph, cut)))
            assert terms.value(problem.graph, cut) == pytest.approx(expected)


def chained(rng: random.Random, blocks: int) -> LayerGraph:
    """Blocks one after the other, now and then with layers that nobody reads in the last one."""
    layers = [Layer("in", "input", (), 9)]
    for number in range(blocks):
        size, last = rng.randrange(2, 12), number == blocks - 1
        block, before = (with_dead_ends if last and rng.random() < 0.5 else random_graph)(rng, size), len(layers) - 1
        for layer in block.layers[1:]:
            reads = tuple(before + source for source in layer.inputs)
            layers.append(replace(layer, id=f"{number}.{layer.id}", inputs=reads))
    return LayerGraph("chained", tuple(layers), (len(layers) - 1,))


def test_blocks_give_the_cut_of_the_whole_flow_network() -> None:
    """That of DADS with what it leaves out (docs/decisions/0008), solved by somebody else's solver."""
    nx = pytest.importorskip("networkx")
    rng = random.Random(6)
    for _ in range(many(12, 200)):
        graph = chained(rng, rng.randrange(2, 12))
        problem = (adversarial if rng.random() < 0.3 else random_problem)(rng, graph)
        graph, network = problem.graph, nx.DiGraph()
        solver = CutSolver(graph)
        terms = solver.terms(problem)
        network.add_edge("edge", 0)
        for number, readers in enumerate(graph.readers):
            network.add_edge("edge", number, **({"capacity": terms.cloud[number]} if number else {}))
            network.add_edge(number, "cloud", capacity=terms.edge[number])
            network.add_edge(number, f"sent {number}", capacity=terms.tensor[number])
            network.add_edges_from((f"sent {number}", reader) for reader in readers)
            network.add_edges_from((reader, number) for reader in readers)
            network.add_edges_from(("all", number) for _ in range(not readers))
        entries = [*(point.layer for point in graph.points[:-1]), "all"]
        for (begin, end), seconds in zip(itertools.pairwise(entries), terms.entry, strict=True):
            arc = ("entry", begin), ("entry", end)
            network.add_edge(*arc, capacity=seconds)
        for layer in entries:  # vertices of their own, each on the side of its layer: two points may be neighbours
            network.add_edge(("entry", layer), layer)
            network.add_edge(layer, ("entry", layer))
        value, _ = nx.minimum_cut(network, "edge", "cloud")
        assert terms.value(graph, solver.best(terms)) == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_a_cut_has_the_value_that_networkx_finds() -> None:
    """On graphs that are too large for brute force, with a solver and a flow network that are somebody else's."""
    nx = pytest.importorskip("networkx")
    rng = random.Random(3)
    for _ in range(5):
        problem = random_problem(rng, random_graph(rng, 120))
        problem = replace(problem, cloud=replace(problem.cloud, start_s=[0.0] * 120, queue_s=0.0))
        problem = replace(problem, link=replace(problem.link, rtt_s=0.0), answer_bytes=0)
        graph, network = problem.graph, nx.DiGraph()
        network.add_edge("edge", 0)
        for number in range(1, 120):
            network.add_edge("edge", number, capacity=problem.cloud.load * problem.cloud.seconds[number])
        for number, layer in enumerate(graph.layers):
            network.add_edge(number, "cloud", capacity=problem.edge_s[number])
            network.add_edge(number, f"sent {number}", capacity=layer.out_bytes / problem.link.up_bytes_per_s)
            for reader in graph.readers[number]:
                network.add_edge(f"sent {number}", reader)
                network.add_edge(reader, number)
        value, _ = nx.minimum_cut(network, "edge", "cloud")
        solver = CutSolver(graph)
        head = solver.best(solver.terms(problem))
        assert predict(problem, parts_of(graph, head)).total_s == pytest.approx(value)


def test_a_solver_serves_one_link_after_the_other() -> None:
    rng = random.Random(4)
    problem = random_problem(rng, random_graph(rng, 9))
    solver = CutSolver(problem.graph)
    for _ in range(50):
        changed = replace(problem, link=Link(rng.uniform(0.1, 100), rng.uniform(1, 100), rng.random()))
        head = solver.best(solver.terms(changed))
        expected = min(found.total_s for found in predictions(changed))
        assert predict(changed, parts_of(problem.graph, head)).total_s == pytest.approx(expected)


def test_times_of_very_different_size_are_no_problem() -> None:
    """A layer of ten hours beside one of a nanosecond: nothing overflows and the nanosecond still counts."""
    graph = LayerGraph(
        "g",
        (
            Layer("in", "input", (), 10**12),
            Layer("a", "k", (0,), 4),
            Layer("b", "k", (0,), 10**15),
            Layer("c", "k", (1, 2), 1),
        ),
        (3,),
    )
    problem = Problem(graph, [0, 1e-9, 1e-6, 36_000.0], CloudTimes([0, 2e-9, 1e-3, 0.5], [0] * 4), Link(1e9, 1e9, 0))
    solver = CutSolver(graph)
    head = solver.best(solver.terms(problem))
    assert predict(problem, parts_of(graph, head)).total_s == min(found.total_s for found in predictions(problem))


def test_costs_that_are_no_costs_are_refused() -> None:
    problem = random_problem(random.Random(5), make_chain([1, 1, 1]))
    solver = CutSolver(problem.graph)
    for wrong in (-1.0, float("nan")):
        terms = solver.terms(replace(problem, edge_s=[0.0, wrong, 1.0]))
        with pytest.raises(ValueError, match="at least 0"):
            solver.best(terms)


def test_all_that_costs_nothing_stays_on_the_edge() -> None:
    problem = Problem(make_chain([1, 1]), [0, 0], CloudTimes([0, 0], [0, 0]), Link(1, 1, 0))
    solver = CutSolver(problem.graph)
    assert solver.best(solver.terms(problem)) == {0, 1}


def test_scan_minimum_cut_and_map_agree_on_chains() -> None:
    rng = random.Random(6)
    for _ in range(many(100, 300)):
        problem = random_problem(rng, make_chain([rng.randrange(1, 60) for _ in range(rng.randrange(2, 25))]))
        solver, graph = CutSolver(problem.graph), problem.graph
        best = chain.best(chain.scan(problem)).predicted.total_s
        by_cut = solver.best(solver.terms(problem))
        by_map = DecisionMap.of(problem, between=(1e-3, 1e6)).lookup(problem.link.up_bytes_per_s)
        assert predict(problem, parts_of(graph, by_cut)).total_s == pytest.approx(best, rel=1e-7)
        assert predict(problem, parts_of(graph, by_map)).total_s == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("is_fixed", [False, True], ids=["download follows", "download stays"])
@pytest.mark.parametrize("weights_at", [lambda _: LATENCY, radio], ids=["latency", "energy"])
def test_the_map_finds_the_best_cut_at_every_rate(
    weights_at: Callable[[Link], StageWeights], *, is_fixed: bool
) -> None:
    rng = random.Random(7)
    for problem in problems(8, 60, 8):
        link_at = (keep_download if is_fixed else follow)(problem.link)
        found = DecisionMap.of(problem, link_at, weights_at, (1e-3, 1e9))
        for rate in (10 ** rng.uniform(-3, 9) for _ in range(12)):
            there = replace(problem, link=link_at(rate))
            weights = weights_at(there.link)
            mine = weights.value(predict(there, parts_of(problem.graph, found.lookup(rate))))
            assert mine == pytest.approx(min(map(weights.value, predictions(there))), rel=1e-6, abs=1e-9)


def test_the_regions_of_a_map_meet_where_both_cuts_are_equally_good() -> None:
    for problem in problems(9, 60, 8):
        found = DecisionMap.of(problem, between=(1e-3, 1e9))
        assert list(found.begins) == sorted(found.begins)
        for before, after in itertools.pairwise(found.regions):
            x = 1 / after.from_bytes_per_s
            assert before.head != after.head
            assert before.line.at(x) == pytest.approx(after.line.at(x), rel=1e-6)


def test_outside_of_a_map_its_ends_hold() -> None:
    problem = random_problem(random.Random(10), make_chain([50, 20, 4]))
    found = DecisionMap.of(problem, between=(1.0, 1e6))
    assert found.lookup(1e-9) == found.regions[0].head
    assert found.lookup(1e12) == found.regions[-1].head


def test_more_bandwidth_never_hurts_the_best_cut() -> None:
    for problem in problems(11, 100, 9):
        solver, totals = CutSolver(problem.graph), []
        for rate in (0.1, 1, 10, 100, 1e4, 1e8):
            there = replace(problem, link=Link(rate, rate, problem.link.rtt_s))
            head = solver.best(solver.terms(there))
            totals.append(predict(there, parts_of(problem.graph, head)).total_s)
        assert all(slow >= fast * (1 - 1e-7) for slow, fast in itertools.pairwise(totals))


def lowest_of(lines: list[Line], x: float) -> Line:
    """The line with the least value there."""
    return min(lines, key=lambda line: line.at(x))


def test_the_envelope_of_random_lines_is_their_minimum() -> None:
    rng = np.random.default_rng(12)
    for _ in range(200):
        lines = [Line(*rng.uniform(0, 10, 2)) for _ in range(rng.integers(1, 30))]
        pieces = envelope(partial(lowest_of, lines), lambda line: line, 0.0, 50.0)
        for x in rng.uniform(0, 50, 20):
            piece = next(piece for piece in reversed(pieces) if piece.begin <= x)
            assert piece.line.at(x) == pytest.approx(min(line.at(x) for line in lines))


def test_the_front_holds_the_fastest_and_the_thriftiest_cut_and_nothing_that_is_beaten() -> None:
    for problem in problems(13, 150, 8):
        found, every = front(problem, POWER), predictions(problem)
        totals, joules = [t.predicted.total_s for t in found], [t.energy_j for t in found]
        assert totals[0] == pytest.approx(min(p.total_s for p in every), rel=1e-6, abs=1e-9)
        assert joules[-1] == pytest.approx(min(map(POWER.weights.value, every)), rel=1e-6, abs=1e-9)
        assert totals == sorted(totals)
        assert joules == sorted(joules, reverse=True)
        for each in found:  # on the front of points; cuts inside its convex hull may beat some of them
            cut = predict(problem, parts_of(problem.graph, each.head))
            assert (cut.total_s, POWER.weights.value(cut)) == (each.predicted.total_s, each.energy_j)


def test_the_front_of_a_chain_is_every_point_that_no_other_beats() -> None:
    rng = random.Random(14)
    for _ in range(100):
        problem = random_problem(rng, make_chain([rng.randrange(1, 60) for _ in range(rng.randrange(2, 12))]))
        pairs = {(p.total_s, POWER.weights.value(p)) for p in predictions(problem)}
        expected = {(t, e) for t, e in pairs if not any(a <= t and b <= e and (a, b) != (t, e) for a, b in pairs)}
        assert {(t.predicted.total_s, t.energy_j) for t in front(problem, POWER)} == expected


def test_two_lines_that_meet_where_the_envelope_begins_are_one_piece() -> None:
    """A search may return either of two that are equally good."""
    lines = {"steep": Line(0.0, 2.0), "flat": Line(1.0, 1.0)}
    found = envelope(lambda x: "steep" if x <= 1.0 else "flat", lines.__getitem__, 1.0, 3.0)
    assert [(piece.begin, piece.item) for piece in found] == [(1.0, "flat")]
