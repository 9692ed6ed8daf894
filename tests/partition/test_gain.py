"""The gain of a plan is that of trying both ends and every cut with every codec, and a cut pays where that says so."""

import random
from dataclasses import replace

import pytest

from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.partition.chain import scan
from edgecloud.partition.cost import LATENCY, CloudTimes, Link, Packed, Problem, StageWeights, parts_of, predict
from edgecloud.partition.decide import FrameLimits, Goal, decide, with_gain
from edgecloud.partition.decision_map import DecisionMap, follow
from edgecloud.partition.gain import PAYS, Gain, Prospects, Setting, Window, prospects
from edgecloud.partition.packing import Allowed
from tests.models.test_graph import chain, random_graph
from tests.partition.test_packing import POWER, random_ways
from tests.partition.test_placement import lively_problem

LINK, QUICK = Link(10.0, 10.0, 0.01), CloudTimes([0, 0.1, 0.1], [0.0] * 3)
SUMS = {"latency": Goal(), "energy": Goal("energy"), "weighted": Goal("weighted", seconds_per_joule=0.3)}


def random_case(rng: random.Random, count: int) -> tuple[Problem, Allowed]:
    """A graph with times on which cuts win now and then, and codecs of which some are only for points."""
    graph = random_graph(rng, rng.randrange(4, 9)) if count % 2 else chain([rng.randrange(1, 60) for _ in range(5)])
    problem = lively_problem(rng, graph)
    ways = random_ways(rng, graph, 2)
    quick = [[replace(way, encode_s=way.encode_s / 20, decode_s=way.decode_s / 20) for way in each] for each in ways]
    lossy = {
        point.layer: [Packed("lossy", rng.randrange(1 + graph.layers[point.layer].out_bytes), 0.01, 0.01)]
        for point in graph.points[:-1]
        if rng.random() < 0.7
    }
    return problem, Allowed(quick, lossy)


def by_trying(problem: Problem, allowed: Allowed, weights: StageWeights, number: int) -> float:
    """What the best codec makes of a point."""
    graph, layer = problem.graph, problem.graph.points[number].layer
    parts, found = parts_of(graph, graph.head_at(number)), []
    for way in (*allowed.lossless[layer], *allowed.lossy.get(layer, ())):
        packed = [Packed("raw", each.out_bytes) for each in graph.layers]
        packed[layer] = way
        found.append(weights.value(predict(replace(problem, packed=packed), parts)))
    return min(found)


@pytest.mark.parametrize("objective", SUMS)
def test_the_gain_is_that_over_both_ends_each_with_its_best_codec(objective: str) -> None:
    rng, goal = random.Random(1), SUMS[objective]
    weights, cuts_that_win = goal.weights(POWER), 0
    for count in range(50):
        problem, allowed = random_case(rng, count)
        last = len(problem.graph.points) - 1
        found = decide(problem, goal, POWER, allowed=allowed)
        assert found.gain is not None
        values = {number: by_trying(problem, allowed, weights, number) for number in range(last + 1)}
        assert {end.place: end.value for end in found.gain.ends} == {
            "cloud": pytest.approx(values[0]),
            "edge": pytest.approx(values[last]),
        }
        assert found.gain.over == pytest.approx(min(values[0], values[last]) / weights.value(found.predicted))
        assert found.gain.over >= 1 - 1e-9
        point = found.point(problem.graph)
        if point is not None:
            assert values[point] == pytest.approx(min(values.values()))
            assert found.gain.over == pytest.approx(min(values[0], values[last]) / min(values.values()))
        cuts_that_win += found.gain.over > PAYS
    assert cuts_that_win > 3


def test_the_codec_of_an_end_is_its_own_and_not_that_of_the_plan() -> None:
    """All on the cloud as a JPEG within the budget: what no lossless plan may use, it may."""
    problem = Problem(
        chain([100, 30, 4]), [0, 1.0, 1.0], lively_problem(random.Random(1), chain([1, 1, 1])).cloud, LINK
    )
    ways = [[Packed("raw", layer.out_bytes)] for layer in problem.graph.layers]
    without, with_jpeg = (Allowed(ways, each) for each in ({}, {INPUT: [Packed("jpeg", 10)]}))
    ends = [decide(problem, Goal(), allowed=each).gain for each in (without, with_jpeg)]
    assert [gain and gain.ends[0].codec for gain in ends] == ["raw", "jpeg"]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].ends[0].value - ends[1].ends[0].value == pytest.approx(90 / LINK.up_bytes_per_s)


def test_throughput_is_compared_by_the_bottleneck_stage() -> None:
    rng = random.Random(2)
    for count in range(30):
        problem, allowed = random_case(rng, count)
        found = decide(problem, Goal("throughput"), allowed=allowed)
        assert found.gain is not None
        assert found.gain.value == found.predicted.longest_s
        assert found.gain.ends[-1].value == pytest.approx(sum(problem.edge_s))
        assert found.gain.over >= 1 - 1e-9


def test_an_end_that_cannot_be_is_none() -> None:
    """All on the cloud costs more than the goal allows, or no frame carries the input."""
    problem = lively_problem(random.Random(3), chain([50, 9, 9, 4]))
    too_dear = decide(problem, Goal(max_cost=1e-9, price_per_s=1.0))
    too_large = decide(problem, Goal(), room=FrameLimits(49, 64))
    for found in (too_dear, too_large):
        assert found.gain is not None
        assert [end.place for end in found.gain.ends] == ["edge"]
    assert len(decide(problem, Goal(max_cost=1e9, price_per_s=1.0)).gain.ends) == 2  # type: ignore[union-attr]


def test_a_cut_that_was_forced_may_lose() -> None:
    problem = lively_problem(random.Random(4), chain([50, 9, 9, 4]))
    best = decide(problem, Goal())
    for number in range(4):
        parts = parts_of(problem.graph, problem.graph.head_at(number))
        given = replace(best, parts=parts, predicted=predict(problem, parts))
        forced = with_gain(given, [(problem, scan(problem))], Goal())
        assert forced.gain is not None
        assert forced.gain.over <= best.gain.over + 1e-12  # type: ignore[union-attr]
        assert forced.gain.over == pytest.approx(forced.gain.better.value / forced.predicted.total_s)


def test_what_takes_nothing_gains_nothing_over_what_takes_nothing() -> None:
    graph = chain([1, 1])
    problem = replace(lively_problem(random.Random(5), graph), edge_s=[0.0, 0.0])
    assert decide(problem, Goal()).gain.over == 1.0  # type: ignore[union-attr]
    assert Gain(0.0, decide(replace(problem, edge_s=[0.0, 1.0]), Goal()).gain.ends).over > 1e300  # type: ignore[union-attr]


# --- where a cut pays


def setting_of(problem: Problem, allowed: Allowed, goal: Goal = SUMS["latency"]) -> Setting:
    weights = goal.weights(POWER)
    return Setting(problem, allowed, lambda _: weights, follow(problem.link))


def pays(setting: Setting) -> float:
    """What the best point between the ends gains over the better end, by trying all of them."""
    problem, weights = setting.problem, setting.weights_at(setting.problem.link)
    last = len(problem.graph.points) - 1
    values = [by_trying(problem, setting.allowed, weights, number) for number in range(last + 1)]
    return min(values[0], values[last]) / min(values[1:-1])


def is_in(windows: tuple[Window, ...], place: float) -> bool:
    return any(window.low <= place <= window.high for window in windows)


def is_near_an_end(windows: tuple[Window, ...], place: float) -> bool:
    return any(abs(place / end - 1) < 1e-6 for window in windows for end in (window.low, window.high))


@pytest.mark.parametrize("objective", SUMS)
def test_a_cut_pays_exactly_where_trying_says_so(objective: str) -> None:
    rng, seen = random.Random(6), {"rates": [0, 0], "speeds": [0, 0]}
    for count in range(24):
        setting = setting_of(*random_case(rng, count), SUMS[objective])
        if len(setting.graph.points) < 3:
            continue
        rate, between = setting.problem.link.up_bytes_per_s, (1e-3, 1e6)
        found = prospects(setting, between)
        places = {
            "rates": (found.rates, setting.at_rate, [rate * 2.0 ** rng.uniform(-9, 9) for _ in range(12)]),
            "speeds": (found.speeds, setting.at_speed, [2.0 ** rng.uniform(-9, 9) for _ in range(12)]),
        }
        for name, (windows, at, tried) in places.items():
            assert list(windows) == sorted(windows, key=lambda window: window.low)
            for place in tried:
                gain = pays(at(place))
                if abs(gain / PAYS - 1) > 1e-6 and not is_near_an_end(windows, place):
                    assert is_in(windows, place) == (gain > PAYS), (name, place, gain, windows)
                    seen[name][is_in(windows, place)] += 1
            for window in windows:
                assert window.low <= window.best <= window.high
                assert pays(at(window.best)) == pytest.approx(window.gain)
                inside = [place for place in tried if window.low < place < window.high]
                assert all(pays(at(place)) <= window.gain * (1 + 1e-9) for place in inside)
    assert all(min(counts) > 3 for counts in seen.values()), seen


def test_the_best_cut_between_the_ends_is_told_with_its_codec() -> None:
    rng = random.Random(7)
    for count in range(30):
        problem, allowed = random_case(rng, count)
        setting = setting_of(problem, allowed)
        found = prospects(setting, (1.0, 100.0))
        rival = found.rival
        last = len(problem.graph.points) - 1
        if last < 2:
            assert rival is None
            continue
        assert rival is not None
        values = {number: by_trying(problem, allowed, LATENCY, number) for number in range(1, last)}
        assert rival.value == pytest.approx(min(values.values())) == pytest.approx(values[rival.point.number])
        assert rival.predicted.total_s == pytest.approx(rival.value)
        better = min(by_trying(problem, allowed, LATENCY, number) for number in (0, last))
        assert found.on_edge + found.elsewhere == pytest.approx(rival.value - better)


def test_the_least_budget_that_is_enough_is_told() -> None:
    """The input shrinks a lot after the first layer, but only a lossy codec makes that small enough."""
    graph: LayerGraph = chain([100, 100, 4])
    problem = Problem(graph, [0, 1.0, 9.0], QUICK, LINK)
    ways = [[Packed("raw", layer.out_bytes)] for layer in graph.layers]
    wider = [
        (share, Allowed(ways, {1: [Packed(f"c{size}", size)]})) for share, size in ((0.01, 90), (0.02, 20), (0.05, 2))
    ]
    found = prospects(setting_of(problem, Allowed(ways, {})), (1.0, 100.0), wider)
    assert found.budget is not None
    assert (found.budget.share, found.budget.rival.codec) == (0.02, "c20")
    assert found.budget.gain == pytest.approx(pays(setting_of(problem, wider[1][1])))
    assert prospects(setting_of(problem, Allowed(ways, {})), (1.0, 100.0), wider[:1]).budget is None


def test_points_that_no_frame_carries_are_not_told() -> None:
    problem, allowed = random_case(random.Random(8), 0)
    setting = replace(setting_of(problem, allowed), fits=lambda point: point.number == 0)
    assert prospects(setting, (1.0, 100.0)) == Prospects(None)
    assert len(replace(setting, fits=lambda _: False).ends()) == 1


# --- the map of upload rates


def test_the_map_has_lossy_codecs_and_the_gain_of_the_plan_at_every_rate() -> None:
    rng, is_lossy = random.Random(9), set()
    for count in range(12):
        problem, allowed = random_case(rng, count)
        found = DecisionMap.of(problem, between=(1e-2, 1e5), allowed=allowed)
        at = follow(problem.link)
        for rate in [problem.link.up_bytes_per_s * 2.0 ** rng.uniform(-6, 6) for _ in range(8)]:
            there = decide(replace(problem, link=at(rate)), Goal(), allowed=allowed)
            assert there.gain is not None
            assert found.gain_at(rate) == pytest.approx(there.gain.over, rel=1e-6)
            is_lossy.add("lossy" in found.region_at(rate).codec)
        for region, (gain, rate) in zip(found.regions, found.gains(), strict=True):
            assert region.from_bytes_per_s * (1 - 1e-9) <= rate
            assert gain >= found.gain_at(max(rate, found.begins[0])) * (1 - 1e-6)
    assert is_lossy == {True, False}
