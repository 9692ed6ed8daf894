"""Placements that go back and forth under a limit of cost, checked against trying every one."""

import itertools
import math
import random
from dataclasses import replace

import pytest

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition import chain as points
from edgecloud.partition import constrained_path
from edgecloud.partition.cost import LATENCY, CloudTimes, Link, Part, Place, Problem, StageWeights, cost_of, predict
from edgecloud.partition.placement import InfeasibleError, Placement, best, placed, steps
from edgecloud.utils.errors import UsageError
from tests.conftest import many
from tests.models.test_graph import chain, random_graph
from tests.partition.test_chain import random_problem

PLACES: tuple[Place, Place] = ("edge", "cloud")
Tried = list[tuple[float, float, tuple[Part, ...]]]


def every(problem: Problem, weights: StageWeights, price: float) -> Tried:
    """Value, cost and parts of every placement."""
    tried = []
    for places in itertools.product(PLACES, repeat=len(problem.graph.points) - 1):
        parts = by_hand(problem.graph, places)
        tried.append((weights.value(predict(problem, parts)), cost_of(problem, parts, price), parts))
    return tried


def by_hand(graph: LayerGraph, places: tuple[Place, ...]) -> tuple[Part, ...]:
    """What `placed` does, from the heads of the points."""
    heads = [graph.head_at(point.number) for point in graph.points]
    parts = [Part("edge", heads[0])]
    for number, place in enumerate(places, 1):
        step = heads[number] - heads[number - 1]
        joined = Part(place, parts[-1].layers | step)
        parts = [*parts[:-1], joined] if parts[-1].place == place else [*parts, Part(place, step)]
    return tuple(parts)


def check(problem: Problem, weights: StageWeights, price: float, tried: Tried, cap: float) -> Placement:
    """The best placement, as good as the best of all and within the cap."""
    found = best(problem, weights, price, cap)
    assert found.is_optimal
    assert found.cost == cost_of(problem, found.parts, price) <= cap
    assert found.predicted == predict(problem, found.parts)
    assert found.parts in {parts for _, _, parts in tried}
    least = min(value for value, cost, _ in tried if cost <= cap)
    assert weights.value(found.predicted) == pytest.approx(least, rel=1e-12, abs=1e-15)
    return found


def check_caps(rng: random.Random, problem: Problem) -> None:
    """No cap, none at all, caps that some placement meets exactly, and any."""
    weights = StageWeights(*(rng.random() for _ in range(6))) if rng.random() < 0.3 else LATENCY
    price = rng.choice([0, 1, 0.3, 7, rng.random() * 1e-4])
    tried = every(problem, weights, price)
    costs = [cost for _, cost, _ in tried]
    for cap in (math.inf, 0, rng.choice(costs), rng.choice(costs), rng.uniform(0, max(costs))):
        check(problem, weights, price, tried, cap)


def lively_problem(rng: random.Random, graph: LayerGraph) -> Problem:
    """Any times, and a link over which it pays to go back and forth."""
    problem = random_problem(rng, graph)
    cloud = replace(problem.cloud, load=rng.uniform(0.2, 1.2), queue_s=0.01)
    return replace(problem, cloud=cloud, link=Link(rng.uniform(50, 500), rng.uniform(50, 500), rng.random() * 0.1))


def tied_problem(rng: random.Random, graph: LayerGraph) -> Problem:
    """Round times, some 0, that many placements share, and a link that may be all but free."""
    size = len(graph.layers)
    seconds = rng.choice([(0, 0.1, 0.2, 0.3), (0, 0.125, 0.25), (0.1,), (0,)])
    edge_s = [0, *(rng.choice(seconds) * rng.choice([1, 3]) for _ in range(size - 1))]
    cloud_s = [0, *(rng.choice(seconds) for _ in range(size - 1))]
    start_s = [rng.choice([0, 0, 0.1]) for _ in range(size)]
    link = Link(rng.choice([10, 100, 1e30]), rng.choice([10, 100, 1e30]), rng.choice([0, 0.1]))
    return Problem(graph, edge_s, CloudTimes(cloud_s, start_s, rng.choice([0.5, 1, 2])), link, rng.choice([None, 0, 5]))


def any_graph(rng: random.Random, count: int) -> LayerGraph:
    """Dead ends, and several outputs anywhere."""
    layers = [Layer("l0", "k", (), rng.randrange(9))]
    for n in range(1, count):
        reads = {n - 1 if rng.random() < 0.8 else rng.randrange(n)}
        reads |= {rng.randrange(n)} if rng.random() < 0.2 else set()
        layers.append(Layer(f"l{n}", "k", tuple(sorted(reads)), rng.randrange(9)))
    return LayerGraph("any", tuple(layers), tuple(rng.randrange(count) for _ in range(rng.randrange(1, 4))))


def test_it_equals_brute_force_on_chains() -> None:
    rng = random.Random(1)
    for _ in range(many(120, 500)):
        make = rng.choice([random_problem, lively_problem])
        check_caps(rng, make(rng, chain([rng.choice([0, 1, 5, 20]) for _ in range(rng.randrange(1, 9))])))


def test_it_equals_brute_force_where_many_placements_are_equal() -> None:
    rng = random.Random(2)
    for _ in range(many(120, 500)):
        check_caps(rng, tied_problem(rng, chain([rng.choice([0, 0, 1, 5]) for _ in range(rng.randrange(1, 9))])))


def test_it_equals_brute_force_on_the_steps_of_any_graph() -> None:
    rng = random.Random(3)
    for make in (random_graph, any_graph):
        for problem in (random_problem, lively_problem, tied_problem):
            for _ in range(many(40, 200)):
                check_caps(rng, problem(rng, make(rng, rng.randrange(2, 11))))


def test_it_equals_brute_force_on_many_steps() -> None:
    rng = random.Random(4)
    for problem in (lively_problem, tied_problem):
        check_caps(rng, problem(rng, chain([rng.randrange(20) for _ in range(many(13, 15))])))


def test_equal_layers_under_a_cap_that_rounding_decides_on() -> None:
    for seconds in (0.1, 0.3, 0.7):
        cloud = CloudTimes([0, *[seconds] * 10], [0] * 11)
        problem = Problem(chain([0] * 11), [0, *[1] * 10], cloud, Link(1, 1, 0))
        tried = every(problem, LATENCY, 1)
        costs = sorted({cost for _, cost, _ in tried})
        assert len(costs) > 11  # the same seconds in another order
        for cap in costs:
            check(problem, LATENCY, 1, tried, cap)


def test_a_long_chain_equals_a_table_of_whole_seconds() -> None:
    rng = random.Random(5)
    size = 151
    edge_s, cloud_s = ([0, *(rng.randrange(1, most) for _ in range(size - 1))] for most in (40, 9))
    start_s = [rng.randrange(3) for _ in range(size)]
    graph = chain([rng.randrange(1, 9) for _ in range(size)])
    problem = Problem(graph, edge_s, CloudTimes(cloud_s, start_s, 2, 1), Link(1, 2, 1))
    free = best(problem, price_per_s=1)
    for share in (0.05, 0.3, 0.5, 0.9):
        cap = math.floor(share * free.cost)
        found = best(problem, price_per_s=1, max_cost=cap)
        assert found.is_optimal
        assert found.cost <= cap
        assert len(found.parts) > 2
        assert found.predicted.total_s == table(problem, cap)


def table(problem: Problem, cap: int) -> float:
    """The least latency on a chain by what has been paid so far: every whole number of seconds up to the cap."""
    graph, cloud, link = problem.graph, problem.cloud, problem.link
    here, away = [0.0, *[math.inf] * cap], [math.inf] * (cap + 1)
    for layer in range(1, len(graph.layers)):
        sent = graph.layers[layer - 1].out_bytes
        seconds, start = int(cloud.seconds[layer]), int(cloud.start_s[layer - 1])
        go = link.rtt_s + cloud.queue_s + sent / link.up_bytes_per_s + cloud.load * start
        stays = [
            min(a, b + sent / link.down_bytes_per_s) + problem.edge_s[layer] for a, b in zip(here, away, strict=True)
        ]
        leaves = later([go + value for value in here], start)
        away = later([min(a, b) + cloud.load * seconds for a, b in zip(leaves, away, strict=True)], seconds)
        here = stays
    return min(*here, min(away) + graph.result_bytes / link.down_bytes_per_s)


def later(values: list[float], paid: int) -> list[float]:
    """The same values when `paid` more has been paid."""
    return ([math.inf] * paid + values)[: len(values)]


def test_it_goes_back_and_forth_where_that_pays() -> None:
    graph = chain([1, 1, 1, 1, 1])
    cloud = CloudTimes([0, 0.1, 50, 0.1, 50], [0] * 5)
    problem = Problem(graph, [0, 9, 1, 9, 1], cloud, Link(10, 10, 0.1))
    found = best(problem)
    assert [part.place for part in found.parts] == ["edge", "cloud", "edge", "cloud", "edge"]
    assert [sorted(part.layers) for part in found.parts] == [[0], [1], [2], [3], [4]]
    assert found.predicted.total_s == pytest.approx(2 + 2 * (0.1 + 0.1 + 0.1 + 0.1))
    half = best(problem, price_per_s=3, max_cost=0.5)
    assert [part.place for part in half.parts].count("cloud") == 1
    assert half.cost == pytest.approx(0.3)
    assert half.predicted.total_s == pytest.approx(11 + 0.4)


def test_a_block_stays_in_one_place() -> None:
    layers = (
        Layer("in", "input", (), 8),
        Layer("a", "k", (0,), 4),
        Layer("b", "k", (1,), 4),
        Layer("add", "add", (1, 2), 4),
        Layer("out", "k", (3,), 1),
    )
    graph = LayerGraph("block", layers, (4,))
    assert [sorted(step) for step in steps(graph)] == [[1], [2, 3], [4]]
    parts = placed(graph, ["cloud", "edge", "edge"])
    assert parts == (Part("edge", frozenset({0})), Part("cloud", frozenset({1})), Part("edge", frozenset({2, 3, 4})))
    with pytest.raises(ValueError, match="argument 2"):
        placed(graph, ["cloud"])


def test_an_answer_on_the_way_is_sent_with_the_result_or_at_once() -> None:
    layers = (Layer("in", "input", (), 1), Layer("a", "k", (0,), 100), Layer("b", "k", (1,), 1))
    graph = LayerGraph("two answers", layers, (1, 2))
    problem = Problem(graph, [0, 100, 9], CloudTimes([0, 1, 1], [0] * 3), Link(1, 1, 0), 5)
    assert best(problem).predicted.download_s == 5
    problem = Problem(graph, [0, 200, 1], CloudTimes([0, 1, 90], [0] * 3), Link(1, 1, 0), 5)
    assert best(problem).predicted.total_s == 1 + (1 + 90) + 5
    problem = Problem(graph, [0, 200, 1], CloudTimes([0, 1, 99], [0] * 3), Link(1, 1, 0), 5)
    found = best(problem)
    assert found.predicted.total_s == 1 + 1 + 100 + 1
    assert [part.place for part in found.parts] == ["edge", "cloud", "edge"]


def test_without_a_cap_it_is_never_worse_than_the_best_point() -> None:
    rng = random.Random(6)
    is_better = 0
    for _ in range(300):
        problem = lively_problem(rng, rng.choice([any_graph, random_graph])(rng, rng.randrange(2, 20)))
        found, point = best(problem).predicted.total_s, points.best(points.scan(problem)).predicted.total_s
        assert found <= point * (1 + 1e-12)
        is_better += found < point * 0.999
    assert is_better > 30


def test_a_larger_cap_is_never_slower() -> None:
    rng = random.Random(7)
    for _ in range(many(10, 30)):
        problem = lively_problem(rng, chain([rng.randrange(1, 20) for _ in range(25)]))
        caps = [0.25 * step for step in range(30)]
        found = [best(problem, price_per_s=0.7, max_cost=cap) for cap in caps]
        assert all(placement.cost <= cap for placement, cap in zip(found, caps, strict=True))
        for tighter, looser in itertools.pairwise(found):
            assert looser.predicted.total_s <= tighter.predicted.total_s * (1 + 1e-12)


def test_a_cap_that_is_met_exactly_is_met() -> None:
    rng = random.Random(8)
    for _ in range(100):
        problem = lively_problem(rng, chain([rng.randrange(1, 20) for _ in range(20)]))
        found = best(problem, price_per_s=0.3, max_cost=rng.random())
        again = best(problem, price_per_s=0.3, max_cost=found.cost)
        assert again.cost == found.cost
        assert again.predicted.total_s == pytest.approx(found.predicted.total_s)
        if found.cost > 0:
            tighter = best(problem, price_per_s=0.3, max_cost=math.nextafter(found.cost, 0))
            assert tighter.cost < found.cost
            assert tighter.predicted.total_s > found.predicted.total_s


def test_what_costs_nothing_is_allowed_under_a_cap_of_nothing() -> None:
    cloud = CloudTimes([0, 0, 5, 0], [0] * 4)
    problem = Problem(chain([1, 1, 1, 1]), [0, 9, 9, 9], cloud, Link(10, 10, 0.1))
    found = best(problem, price_per_s=2, max_cost=0)
    assert [sorted(part.layers) for part in found.parts if part.place == "cloud"] == [[1], [3]]
    assert found.cost == 0
    assert best(problem, price_per_s=0, max_cost=0).parts == best(problem).parts


def test_of_equal_placements_without_a_cap_the_cheaper_one_wins() -> None:
    problem = Problem(chain([0, 0, 0]), [0, 1, 2], CloudTimes([0, 1, 1], [0] * 3), Link(1, 1, 0))
    found = best(problem, price_per_s=1)
    assert (found.predicted.total_s, found.cost) == (2, 1)


def test_a_network_without_layers_stays_on_the_edge() -> None:
    problem = Problem(chain([5]), [0], CloudTimes([0], [0]), Link(1, 1, 0))
    assert best(problem, price_per_s=1, max_cost=0).parts == (Part("edge", frozenset({0})),)


def problem_of_one() -> Problem:
    return Problem(chain([1, 1]), [0, 1], CloudTimes([0, 1], [0] * 2), Link(1, 1, 0))


@pytest.mark.parametrize("cap", [-0.25, -math.inf, -5e-324])
def test_a_cap_below_nothing_is_infeasible_and_says_what_the_least_is(cap: float) -> None:
    with pytest.raises(InfeasibleError, match=f"^no placement costs at most {cap:g}: the minimum is 0[^\n]*$"):
        best(problem_of_one(), price_per_s=1, max_cost=cap)


@pytest.mark.parametrize(
    ("price", "cap", "message"),
    [
        (math.nan, 1, "price .*not nan"),
        (math.inf, 1, "price .*not inf"),
        (-1, 1, "price .*not -1"),
        (1, math.nan, "the cost limit must be a number, not nan"),
    ],
)
def test_prices_and_caps_that_are_none_are_refused(price: float, cap: float, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        best(problem_of_one(), price_per_s=price, max_cost=cap)
    assert not isinstance(caught.value, InfeasibleError)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_cloud_that_takes_no_number_of_seconds_is_refused(seconds: float) -> None:
    for cloud in (CloudTimes([0, seconds], [0] * 2), CloudTimes([0, 1], [seconds] * 2)):
        with pytest.raises(ValueError, match="finite"):
            best(Problem(chain([1, 1]), [0, 1], cloud, Link(1, 1, 0)))


def hard_problem(rng: random.Random, size: int) -> Problem:
    """A knapsack whose value is its weight, which no bound tells apart: the subset sum problem."""
    cloud_s = [0, *(rng.random() for _ in range(size))]
    return Problem(
        chain([0] * (size + 1)), [2 * s for s in cloud_s], CloudTimes(cloud_s, [0] * (size + 1)), Link(1, 1, 0)
    )


def test_a_search_that_is_cut_short_says_so_and_keeps_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(9)
    problems = [hard_problem(rng, 12) for _ in range(20)]
    exact = [best(problem, price_per_s=1, max_cost=2.5) for problem in problems]
    monkeypatch.setattr(constrained_path, "_MOST_LABELS", 4)
    found = [best(problem, price_per_s=1, max_cost=2.5) for problem in problems]
    assert not all(one.is_optimal for one in found)
    for problem, rough, fine in zip(problems, found, exact, strict=True):
        assert fine.is_optimal
        assert cost_of(problem, rough.parts, 1) <= 2.5
        assert fine.predicted.total_s <= rough.predicted.total_s * (1 + 1e-12) <= 1.2 * fine.predicted.total_s
        assert not rough.is_optimal or rough.predicted.total_s == pytest.approx(fine.predicted.total_s, rel=1e-12)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_a_price_that_does_not_bound_best_finds_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the price, it bounds: another one only drops fewer labels."""
    monkeypatch.setattr(constrained_path, "_MOST_SECANTS", most)
    rng = random.Random(11)
    for problem in (random_problem, lively_problem, tied_problem):
        for _ in range(20):
            check_caps(rng, problem(rng, chain([rng.choice([0, 1, 5, 20]) for _ in range(rng.randrange(2, 8))])))


def test_rounding_in_the_sums_of_thousands_of_layers_is_told_from_a_better_placement() -> None:
    """A price at which every placement is worth the same, as far as thousands of additions can tell."""
    size, fits = 5000, 50
    problem = Problem(
        chain([0] * (size + 1)), [0, *[0.1] * size], CloudTimes([0, *[0.05] * size], [0] * (size + 1)), Link(1, 1, 0)
    )
    found = best(problem, price_per_s=1, max_cost=fits * 0.05)
    assert found.is_optimal
    assert sum(len(part.layers) for part in found.parts if part.place == "cloud") == fits
    assert found.cost <= fits * 0.05
    assert found.predicted.total_s == pytest.approx((size - fits) * 0.1 + fits * 0.05)


def test_a_long_hard_chain_ends_within_its_cap() -> None:
    problem = hard_problem(random.Random(10), 150)
    found = best(problem, price_per_s=1, max_cost=20.0)
    assert found.cost <= 20
    assert found.cost == pytest.approx(20, rel=1e-3)
