"""The cost formula and the scan of every point, checked against brute force."""

import random

import pytest

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition.chain import best, scan
from edgecloud.partition.cost import (
    CloudTimes,
    Link,
    Packed,
    Part,
    Power,
    Problem,
    all_on_edge,
    cost_of,
    energy,
    latency,
    parts_of,
    predict,
)
from tests.models.test_graph import all_cuts, chain, random_graph


def random_problem(rng: random.Random, graph: LayerGraph) -> Problem:
    """Any times, a cloud that may be slower than the edge, any link."""
    size = len(graph.layers)
    times = [[0.0, *(rng.random() for _ in range(size - 1))] for _ in range(2)]
    cloud = CloudTimes(times[1], [rng.random() * 0.2 for _ in range(size)], rng.uniform(0.2, 3), rng.random() * 0.2)
    return Problem(graph, times[0], cloud, Link(rng.uniform(1, 100), rng.uniform(1, 100), rng.random()))


def brute_force(graph: LayerGraph, point: int, edge_s: list[float], cloud: CloudTimes, link: Link) -> float:
    """The formula of docs/architecture.md, written out."""
    head = graph.head_at(point)
    tail = graph.everything - head
    total = sum(edge_s[n] for n in head)
    if tail:
        total += link.rtt_s
        total += sum(graph.layers[n].out_bytes for n in graph.boundary(head)) / link.up_bytes_per_s
        total += graph.result_bytes / link.down_bytes_per_s
        total += cloud.queue_s + cloud.load * (sum(cloud.seconds[n] for n in tail) + cloud.start_s[max(head)])
    return total


def test_the_scan_equals_brute_force_on_random_graphs() -> None:
    rng = random.Random(2)
    for _ in range(500):
        graph = random_graph(rng, rng.randrange(2, 10))
        size = len(graph.layers)
        edge_s = [0.0, *(rng.random() for _ in range(size - 1))]
        cloud = CloudTimes(
            [0.0, *(rng.random() for _ in range(size - 1))],
            [rng.random() for _ in range(size)],
            rng.random(),
            rng.random(),
        )
        link = Link(rng.uniform(1, 100), rng.uniform(1, 100), rng.random())
        candidates = scan(Problem(graph, edge_s, cloud, link))
        expected = [brute_force(graph, p.number, edge_s, cloud, link) for p in graph.points]
        assert [c.predicted.total_s for c in candidates] == pytest.approx(expected)
        assert best(candidates).predicted.total_s == pytest.approx(min(expected))


def test_all_on_the_edge_pays_no_link_and_needs_no_cloud() -> None:
    predicted = all_on_edge(3.0)
    assert (predicted.transfer_s, predicted.cloud_s, predicted.queue_s, predicted.total_s) == (0, 0, 0, 3.0)


def test_the_formula_by_hand() -> None:
    predicted = latency(1.0, Packed("raw", 600), 0.5, 40, Link(100, 20, 0.1), load=2.0, queue_s=0.25)
    assert predicted.transfer_s == pytest.approx(0.1 + 6 + 2)
    assert predicted.cloud_s == 1.0
    assert predicted.total_s == pytest.approx(1 + 8.1 + 0.25 + 1)


def test_more_bandwidth_never_hurts() -> None:
    graph, edge_s = chain([50, 80, 20, 4]), [0, 1.0, 2.0, 1.0]
    cloud = CloudTimes([0, 0.1, 0.2, 0.1], [0] * 4)
    links = [Link(r, r, 0.1) for r in (1, 5, 20, 100, 1000)]
    totals = [best(scan(Problem(graph, edge_s, cloud, link))).predicted.total_s for link in links]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("rate", "edge", "point"),
    [(1e9, 1.0, 0), (1.0, 0.001, 3), (10.0, 1.0, 2)],
    ids=["fast link: all on the cloud", "fast edge: all on the edge", "in between: where little crosses"],
)
def test_the_best_point_is_where_it_should_be(rate: float, edge: float, point: int) -> None:
    graph = chain([500, 800, 2, 4])
    cloud = CloudTimes([0, 0.01, 0.01, 0.01], [0] * 4)
    problem = Problem(graph, [0, edge, edge, 9 * edge], cloud, Link(rate, rate, 0.01))
    assert best(scan(problem)).point.number == point


def test_of_equal_totals_the_one_with_fewer_bytes_wins() -> None:
    graph = LayerGraph("g", (Layer("i", "input", (), 8), Layer("a", "k", (0,), 4), Layer("b", "k", (1,), 4)), (2,))
    candidates = scan(Problem(graph, [0, 0, 0], CloudTimes([0] * 3, [0] * 3), Link(1e30, 1e30, 0)))
    assert best(candidates).boundary_bytes == 0


def test_a_cut_costs_the_same_as_a_point_and_as_parts() -> None:
    rng = random.Random(3)
    for _ in range(200):
        problem = random_problem(rng, random_graph(rng, rng.randrange(2, 10)))
        for candidate in scan(problem):
            parts = parts_of(problem.graph, problem.graph.head_at(candidate.point.number))
            assert predict(problem, parts).to_json() == pytest.approx(candidate.predicted.to_json())


def test_parts_that_go_back_and_forth_by_hand() -> None:
    graph = chain([100, 50, 20, 10])
    problem = Problem(graph, [0, 1, 2, 4], CloudTimes([0, 0.1, 0.2, 0.4], [0.01] * 4, 2.0, 0.5), Link(10, 5, 0.1), 30)
    there, here = Part("cloud", frozenset({1})), Part("edge", frozenset({2}))
    found = predict(problem, (there, here, Part("cloud", frozenset({3}))))
    assert found.edge_s == 2
    assert found.upload_s == pytest.approx((100 + 20) / 10)
    assert found.download_s == pytest.approx((50 + 30) / 5)
    assert (found.rtt_s, found.queue_s) == pytest.approx((0.2, 1.0))
    assert found.cloud_s == pytest.approx(2 * (0.1 + 0.4 + 0.02))
    assert cost_of(problem, (there, here, Part("cloud", frozenset({3}))), 3) == pytest.approx(3 * 0.52)
    assert predict(problem, (there, here, Part("edge", frozenset({3})))).download_s == 10


@pytest.mark.parametrize(
    "parts",
    [
        [Part("edge", frozenset({0, 1}))],
        [Part("edge", frozenset({0, 2})), Part("cloud", frozenset({1}))],
        [Part("edge", frozenset({0, 1, 2})), Part("cloud", frozenset({2}))],
        [Part("cloud", frozenset({0, 1, 2}))],
    ],
    ids=["layers missing", "reads what is not there", "twice", "the input on the cloud"],
)
def test_parts_that_cannot_run_are_refused(parts: list[Part]) -> None:
    problem = Problem(chain([1, 1, 1]), [0, 1, 1], CloudTimes([0, 1, 1], [0] * 3), Link(1, 1, 0))
    with pytest.raises(ValueError, match="chain: "):
        predict(problem, parts)


def test_the_watts_of_every_stage_add_up_to_the_joules() -> None:
    rng = random.Random(4)
    for _ in range(100):
        problem = random_problem(rng, random_graph(rng, rng.randrange(2, 8)))
        power = Power(*(rng.random() for _ in range(4)))
        for cut in all_cuts(problem.graph):
            found, tail = predict(problem, parts_of(problem.graph, cut)), problem.graph.everything - cut
            sent, received = problem.graph.bytes_of(problem.graph.boundary(cut)), problem.result_bytes if tail else 0
            joules = energy(found.edge_s, found.waiting_s if tail else 0, sent, received, problem.link, power)
            assert power.weights.value(found) == pytest.approx(joules.total_j)
