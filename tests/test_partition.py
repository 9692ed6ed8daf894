"""The cost formula and the scan of every point, checked against brute force."""

import random

import pytest

from models.graph import Layer, LayerGraph
from partition.chain import best, scan
from partition.cost import CloudTimes, Link, all_on_edge, latency
from tests.test_graph import chain, random_graph


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
        candidates = scan(graph, edge_s, cloud, link)
        expected = [brute_force(graph, p.number, edge_s, cloud, link) for p in graph.points]
        assert [c.predicted.total_s for c in candidates] == pytest.approx(expected)
        assert best(candidates).predicted.total_s == pytest.approx(min(expected))


def test_all_on_the_edge_pays_no_link_and_needs_no_cloud() -> None:
    predicted = all_on_edge(3.0)
    assert (predicted.transfer_s, predicted.cloud_s, predicted.queue_s, predicted.total_s) == (0, 0, 0, 3.0)


def test_the_formula_by_hand() -> None:
    predicted = latency(1.0, 600, 0.5, 40, Link(100, 20, 0.1), load=2.0, queue_s=0.25)
    assert predicted.transfer_s == pytest.approx(0.1 + 6 + 2)
    assert predicted.cloud_s == 1.0
    assert predicted.total_s == pytest.approx(1 + 8.1 + 0.25 + 1)


def test_more_bandwidth_never_hurts() -> None:
    graph, edge_s = chain([50, 80, 20, 4]), [0, 1.0, 2.0, 1.0]
    cloud = CloudTimes([0, 0.1, 0.2, 0.1], [0] * 4)
    totals = [best(scan(graph, edge_s, cloud, Link(r, r, 0.1))).predicted.total_s for r in (1, 5, 20, 100, 1000)]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("rate", "edge", "point"),
    [(1e9, 1.0, 0), (1.0, 0.001, 3), (10.0, 1.0, 2)],
    ids=["fast link: all on the cloud", "fast edge: all on the edge", "in between: where little crosses"],
)
def test_the_best_point_is_where_it_should_be(rate: float, edge: float, point: int) -> None:
    graph = chain([500, 800, 2, 4])
    cloud = CloudTimes([0, 0.01, 0.01, 0.01], [0] * 4)
    assert best(scan(graph, [0, edge, edge, 9 * edge], cloud, Link(rate, rate, 0.01))).point.number == point


def test_of_equal_totals_the_one_with_fewer_bytes_wins() -> None:
    graph = LayerGraph("g", (Layer("i", "input", (), 8), Layer("a", "k", (0,), 4), Layer("b", "k", (1,), 4)), (2,))
    candidates = scan(graph, [0, 0, 0], CloudTimes([0] * 3, [0] * 3), Link(1e30, 1e30, 0))
    assert best(candidates).boundary_bytes == 0
