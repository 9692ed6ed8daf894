"""What a plan gains, in words and as JSON: every number is the plan's, and what is promised elsewhere is true."""

import json
import random
import re
from dataclasses import replace

import pytest

from edgecloud.partition.cost import CloudTimes, Link, Packed, Problem
from edgecloud.partition.decide import Decision, Goal, decide
from edgecloud.partition.decision_map import FASTEST, SLOWEST, follow
from edgecloud.partition.gain import PAYS, Prospects, Setting, prospects
from edgecloud.partition.packing import Allowed
from edgecloud.tools.plan_gain import Now, gain_json, gain_lines
from edgecloud.utils.units import format_rate, format_seconds, parse_rate
from tests.models.test_graph import chain
from tests.partition.test_packing import POWER

MBIT = 125_000.0
GRAPH = chain([200_000, 40_000, 30_000, 4_000])
RAW = [[Packed("raw", layer.out_bytes)] for layer in GRAPH.layers]
LOSSY = {2: [Packed("ec4", 3_000)]}


def planned(
    rate: float, speed: float = 1.0, goal: Goal | None = None, allowed: Allowed | None = None
) -> tuple[Decision, Prospects]:
    """A cut after the first layer wins at a few mbit; the input is too large, and the rest slow here."""
    goal, ways = goal or Goal(), allowed or Allowed(RAW, {})
    link = Link(rate * MBIT, rate * MBIT, 0.01)
    edge_s = [each / speed for each in (0, 0.1, 0.2, 0.5)]
    problem = Problem(GRAPH, edge_s, CloudTimes([0, 0.01, 0.02, 0.05], [0.0] * 4), link)
    weights = goal.weights(POWER)
    found = decide(problem, goal, POWER, allowed=ways)
    setting = Setting(problem, ways, lambda _: weights, follow(link))
    return found, prospects(setting, (SLOWEST, FASTEST), [(0.01, Allowed(RAW, LOSSY))])


def test_a_cut_that_wins_is_told_with_both_ends() -> None:
    found, where = planned(2.0)
    (line,) = gain_lines(GRAPH, found, where, Now(2.0 * MBIT))
    assert found.gain is not None
    cloud, edge = found.gain.ends
    assert line == (
        f"gain:   {found.gain.over:.2f} x over the better end, all on the edge ({format_seconds(edge.value)}); "
        f"all on the cloud ({format_seconds(cloud.value)}, raw)"
    )
    assert found.gain.over > PAYS


@pytest.mark.parametrize(("rate", "end"), [(100.0, "cloud"), (0.2, "edge")])
def test_an_end_that_wins_is_told_with_the_reason_and_with_what_would_change_it(rate: float, end: str) -> None:
    found, where = planned(rate)
    first, second = gain_lines(GRAPH, found, where, Now(rate * MBIT, 0.07))
    assert first.startswith("gain:   none: splitting does not pay here, because the best cut, after l")
    assert f"than all on the {end}" in first
    assert where.rival is not None
    assert ("and saves only" in first) == (min(where.on_edge, where.elsewhere) < 0)
    for value in (where.on_edge, where.elsewhere):
        assert format_seconds(abs(value)) in first
    low, high = re.findall(r"on a link between ([\d.]+ \w+) and ([\d.]+ \w+)", second)[0]
    (window,) = where.rates
    assert (low, high) == (format_rate(window.low), format_rate(window.high))
    for inside in (1.02 * parse_rate(low.replace(" ", "")), 0.98 * parse_rate(high.replace(" ", ""))):
        there, _ = planned(inside / MBIT)
        assert there.gain is not None
        assert there.gain.over >= PAYS
    for outside in (0.9 * window.low, 1.1 * window.high):
        assert planned(outside / MBIT)[0].gain.over < PAYS  # type: ignore[union-attr]


def test_the_edge_that_is_needed_is_a_share_of_a_core_where_its_share_is_known() -> None:
    found, where = planned(100.0)
    (window,) = where.speeds
    second = gain_lines(GRAPH, found, where, Now(100 * MBIT, 0.01))[1]
    assert f"with an edge share between {window.low * 0.01:.2g} and {window.high * 0.01:.2g}" in second
    assert "times as fast" in gain_lines(GRAPH, found, where, Now(100 * MBIT))[1]
    for speed in (window.low * 1.01, window.high * 0.99):
        assert planned(100.0, speed)[0].gain.over >= PAYS  # type: ignore[union-attr]


def test_the_budget_that_is_needed_is_told_and_pays() -> None:
    found, where = planned(0.2)
    assert where.budget is not None
    assert (
        f"with --accuracy-budget 1% ({where.budget.gain:.2f} x)" in gain_lines(GRAPH, found, where, Now(0.2 * MBIT))[1]
    )
    with_budget, _ = planned(0.2, allowed=Allowed(RAW, LOSSY))
    assert with_budget.gain is not None
    assert with_budget.gain.over == pytest.approx(where.budget.gain)
    assert with_budget.codec == "ec4"


def test_where_nothing_helps_that_is_said() -> None:
    """Every tensor between the ends is larger than the input, and nothing is faster here."""
    graph = chain([10, 50_000, 4_000])
    problem = Problem(graph, [0, 9.0, 0.1], CloudTimes([0, 0.01, 0.02], [0.0] * 3), Link(MBIT, MBIT, 0.01))
    ways = Allowed([[Packed("raw", layer.out_bytes)] for layer in graph.layers], {})
    found = decide(problem, Goal(), allowed=ways)
    where = prospects(Setting(problem, ways, lambda _: Goal().weights(POWER), follow(problem.link)), (1.0, 1e9))
    lines = gain_lines(graph, found, where, Now(MBIT))
    assert lines[1].strip() == "no other link or edge would change that"
    tried = gain_lines(graph, found, replace(where, tried=(0.01, 0.05)), Now(MBIT))[1].strip()
    assert tried == "no other link or edge, and no accuracy budget up to 5%, would change that"
    lonely = chain([10, 20])
    alone = decide(replace(problem, graph=lonely, edge_s=[0, 1.0], cloud=CloudTimes([0, 1.0], [0.0] * 2)), Goal())
    assert gain_lines(lonely, alone, Prospects(None), Now(MBIT)) == [
        "gain:   none: splitting does not pay here, because there is no cut between the ends that can be sent"
    ]


def test_joules_are_told_as_joules_and_the_bottleneck_stage_without_prospects() -> None:
    found, where = planned(2.0, goal=Goal("energy"))
    assert " J" in gain_lines(GRAPH, found, where, Now(2 * MBIT))[0]
    stage, _ = planned(100.0, goal=Goal("throughput"))
    lines = gain_lines(GRAPH, stage, None, Now(100 * MBIT))
    assert len(lines) == 1


def test_a_plan_without_a_cloud_says_nothing() -> None:
    found, _ = planned(2.0)
    alone = replace(found, gain=None)
    assert gain_lines(GRAPH, alone, None, Now(1.0)) == []
    assert gain_json(GRAPH, alone, None) == {"gain": None, "ends": None, "pays": None}


def test_the_document_has_finite_numbers_and_the_same_as_the_words() -> None:
    rng = random.Random(1)
    for _ in range(20):
        found, where = planned(2.0 ** rng.uniform(-4, 9))
        document = json.loads(json.dumps(gain_json(GRAPH, found, where), allow_nan=False))
        assert found.gain is not None
        assert document["gain"] == found.gain.over
        assert document["ends"]["edge"] == {"codec": None, "value": pytest.approx(0.8), "total_s": pytest.approx(0.8)}
        assert document["ends"]["cloud"]["codec"] == "raw"
        pays = document["pays"]
        assert [each["from_bytes_per_s"] for each in pays["rates"]] == [window.low for window in where.rates]
        assert all({"from", "to", "best", "gain"} == set(each) for each in pays["speeds"])
        assert pays["cut"]["point"] in (1, 2)
        assert pays["accuracy"] is None or pays["accuracy"]["budget"] == 0.01
