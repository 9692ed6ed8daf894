"""Cut and codec are chosen together: equal to trying every cut with every codec for each tensor that crosses."""

import itertools
import random
from dataclasses import replace

import pytest

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.cost import LATENCY, Packed, Power, Problem, StageTimes, StageWeights, parts_of, predict
from edgecloud.partition.decide import Goal, decide
from edgecloud.partition.packing import Allowed, best
from tests.models.test_graph import all_cuts, random_graph
from tests.models.test_graph import chain as make_chain
from tests.partition.test_chain import random_problem

POWER = Power(6.4, 2.7, 5.5, 1.2)


def random_ways(rng: random.Random, graph: LayerGraph, count: int) -> list[list[Packed]]:
    """Raw, and some others that are smaller and take time."""
    return [
        [
            Packed("raw", layer.out_bytes),
            *(Packed(f"c{n}", rng.randrange(layer.out_bytes + 1), rng.random(), rng.random()) for n in range(count)),
        ]
        for layer in graph.layers
    ]


def every_way(problem: Problem, ways: list[list[Packed]]) -> list[StageTimes]:
    """Of every cut and every codec for each tensor that crosses it."""
    found = []
    for cut in all_cuts(problem.graph):
        crossing = problem.graph.boundary(cut)
        for chosen in itertools.product(*(ways[layer] for layer in crossing)):
            packed = [Packed("raw", 0)] * len(ways)
            for layer, how in zip(crossing, chosen, strict=True):
                packed[layer] = how
            found.append(predict(replace(problem, packed=packed), parts_of(problem.graph, cut)))
    return found


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_cut_and_codecs_are_the_best_of_all(objective: str) -> None:
    rng, goal = random.Random(1), Goal(objective)
    weights = goal.weights(POWER)
    for count in range(60):
        graph = random_graph(rng, rng.randrange(3, 8)) if count % 2 else make_chain([9, 40, 30, 6])
        problem, ways = random_problem(rng, graph), random_ways(rng, graph, 2)
        found = decide(problem, goal, POWER, allowed=Allowed(ways, {}))
        assert weights.value(found.predicted) == pytest.approx(min(map(weights.value, every_way(problem, ways))))
        assert set(found.codecs) == set(found.boundary(graph))
        assert found.is_optimal


def test_a_lossy_codec_is_taken_only_where_one_tensor_crosses() -> None:
    rng = random.Random(2)
    seen = set()
    for _ in range(120):
        graph = random_graph(rng, rng.randrange(3, 9))
        problem, ways = random_problem(rng, graph), random_ways(rng, graph, 1)
        lossy = {point.layer: [Packed("lossy", 1, 0.01, 0.01)] for point in graph.points[:-1]}
        found, exact = (decide(problem, Goal(), allowed=Allowed(ways, each)) for each in (lossy, {}))
        assert found.predicted.total_s <= exact.predicted.total_s + 1e-12
        assert "lossy" not in found.codecs.values() or len(found.codecs) == 1
        assert "lossy" not in exact.codecs.values()
        seen.add(found.codec)
    assert "lossy" in seen


def test_what_keeps_up_is_cut_for_latency_though_a_lossy_codec_may_have_a_shorter_stage() -> None:
    rng, seen = random.Random(5), 0
    for _ in range(200):
        graph = make_chain([rng.randrange(1, 40) for _ in range(5)])
        problem, ways = random_problem(rng, graph), random_ways(rng, graph, 1)
        lossy = {point.layer: [Packed("lossy", 1, 0.3, 0.3)] for point in graph.points[:-1]}
        goal = Goal("auto", rate_per_s=rng.uniform(0.2, 2))
        exact, found = (decide(problem, goal, allowed=Allowed(ways, each)) for each in ({}, lossy))
        if exact.objective == "latency":
            seen += 1
            assert (found.objective, found.keeps_up) == ("latency", True)
            assert found.predicted.total_s <= exact.predicted.total_s
    assert seen > 20


def test_a_tensor_that_crosses_alone_may_travel_in_every_way_that_the_cloud_knows() -> None:
    """Lossless ones first; what was checked for another layer says nothing about this one."""
    rng = random.Random(6)
    for _ in range(50):
        graph = random_graph(rng, rng.randrange(3, 9))
        ways = random_ways(rng, graph, 3)
        lossy = {layer: [Packed("lossy", layer)] for layer in range(len(graph.layers)) if rng.random() < 0.5}
        known = {name for name in ("raw", "c0", "c1", "c2", "lossy") if rng.random() < 0.5}
        for layer, lossless in enumerate(ways):
            found = Allowed(ways, lossy).alone(layer, known)
            assert {packed.codec for packed in found} <= known
            assert [packed for packed in found if packed.codec != "lossy"] == [p for p in lossless if p.codec in known]
            expected = [Packed("lossy", layer)] if layer in lossy and "lossy" in known else []
            assert found[len(found) - len(expected) :] == expected
            assert [packed.codec for packed in found].count("lossy") == len(expected)


def test_packing_that_takes_longer_than_it_saves_is_left_out() -> None:
    ways = [[Packed("raw", 1000), Packed("small", 100, 0.5, 0.5)]]
    link = random_problem(random.Random(3), make_chain([1, 1])).link
    assert best(ways, replace(link, up_bytes_per_s=10_000.0), LATENCY)[0].codec == "raw"
    assert best(ways, replace(link, up_bytes_per_s=100.0), LATENCY)[0].codec == "small"


def test_throughput_counts_packing_in_the_stages_of_both_sides() -> None:
    problem = random_problem(random.Random(4), make_chain([1000, 1000, 1000, 4]))
    packed = [Packed("c", 10, 0.25, 0.125)] * 4
    found = predict(replace(problem, packed=packed), parts_of(problem.graph, frozenset({0, 1})))
    edge_s, cloud_s = found.edge_s + 0.25, found.cloud_s + 0.125
    assert found.longest_s == max(edge_s, found.upload_s, cloud_s)
    goal = Goal("throughput")
    chosen = decide(problem, goal, allowed=Allowed([[each] for each in packed], {}))
    every = every_way(problem, [[each] for each in packed])
    assert chosen.predicted.longest_s == pytest.approx(min(p.longest_s for p in every))


def test_encoding_is_the_edges_work_and_decoding_the_clouds() -> None:
    weights = StageWeights(edge=2.0, upload=3.0, cloud=5.0)
    assert weights.crossing(Packed("c", 40, 0.1, 0.01), 10.0) == pytest.approx(2 * 0.1 + 3 * 4 + 5 * 0.01)
