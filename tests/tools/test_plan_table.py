"""A decision as people read it: every way of deciding has its words, and every number in them is the decision's."""

import io
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from rich.console import Console

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.cost import Packed, Power, parts_of, predict
from edgecloud.partition.decide import Decision, Goal, decide
from edgecloud.partition.packing import Allowed
from edgecloud.tools.plan_table import (
    BEST_SHOWN,
    SHOWN,
    STAGES,
    candidates_table,
    cut_line,
    legend,
    part_json,
    part_line,
    short_name,
    why_line,
)
from edgecloud.utils.units import format_bytes, format_seconds
from tests.models.test_graph import chain, random_graph
from tests.partition.test_chain import random_problem
from tests.partition.test_placement import lively_problem

GOALS = (
    Goal(),
    Goal(method="chain"),
    Goal(method="mincut"),
    Goal("energy"),
    Goal("weighted", seconds_per_joule=0.1),
    Goal("throughput"),
    Goal("throughput", method="dsh"),
    Goal("auto", rate_per_s=1.0),
    Goal(max_cost=0.2, price_per_s=0.5),
)


def printed(graph: LayerGraph, decision: Decision, up_bytes_per_s: float | None = None) -> list[str]:
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(candidates_table(graph, decision, up_bytes_per_s))
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


@pytest.mark.parametrize("make", [random_graph, lambda rng, count: chain([rng.randrange(1, 9) for _ in range(count)])])
@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.objective}-{goal.method}-{goal.max_cost}")
def test_the_words_of_a_decision_are_about_it(goal: Goal, make: type) -> None:
    rng, seen = random.Random(1), Counter[str]()
    for _ in range(2 if goal.method == "dsh" else 40):  # DADS's grid takes a second
        graph = make(rng, rng.randrange(3, 9))
        problem = lively_problem(rng, graph)
        found = decide(problem, goal, Power(6.4, 2.7, 5.5, 1.2))
        assert found.objective in ("latency", "energy", "weighted", "throughput")
        assert ("at most" in why_line(found)) == (not found.is_optimal and found.method in ("mincut", "walk", "milp"))
        line, crossing = cut_line(graph, found), found.boundary(graph)
        seen["crosses" if crossing else "nothing is sent"] += 1
        if not crossing:
            assert line == "all layers on the edge, nothing is sent"
            assert short_name(graph, found) == "all on the edge"
            continue
        sides = re.search(r"(\d+) layers on the edge, (\d+) on the cloud", line)
        assert sides is not None
        assert [int(side) for side in sides.groups()] == [len(found.head) - 1, len(graph.layers) - len(found.head)]
        assert format_bytes(graph.bytes_of(crossing)) in line
        if not found.is_cut:
            assert line.startswith(f"{len(found.parts)} parts: ")
            assert short_name(graph, found) == f"{len(found.parts)} alternating parts"
        elif found.point(graph) is None:
            assert line.startswith(f"{len(crossing)} tensors, the last l{max(crossing)}: ")
            assert short_name(graph, found) == f"{len(crossing)} tensors, the last l{max(crossing)}"
        else:
            assert line.startswith(f"point {found.point(graph)} of {len(graph.points) - 1}, after l{crossing[0]}: ")
            assert short_name(graph, found) == f"l{crossing[0]}"
    assert seen["crosses"] > 1


def test_a_search_that_was_cut_short_says_how_far_it_may_be_from_the_best() -> None:
    found = decide(random_problem(random.Random(5), chain([3, 2, 1])), Goal())
    short = replace(found, objective="throughput", method="walk", is_optimal=False, gap=0.0312)
    assert why_line(short) == "minimum bottleneck stage of all cuts, at most 3.1% above the optimum"
    assert why_line(replace(short, is_optimal=True)) == "minimum bottleneck stage of all cuts"
    assert why_line(replace(short, method="dsh")) == "minimum bottleneck stage of the cuts of DADS's grid search"


def test_the_table_marks_one_row_and_shows_the_ends_the_best_and_the_chosen_of_many() -> None:
    rng = random.Random(2)
    for count in (3, SHOWN, SHOWN + 1, 120):
        graph = chain([rng.randrange(1, 900) for _ in range(count)])
        found = decide(random_problem(rng, graph), Goal("throughput"))
        lines = printed(graph, found)
        rows = [line for line in lines if re.search(r"\bl\d+\b", line)]
        numbers = [int(re.split(r"\s+", line.replace("→", " ").strip())[0]) for line in rows]
        assert [number for number, line in zip(numbers, rows, strict=True) if "→" in line] == [found.point(graph)]
        assert (lines[0] == f"both ends and the best of {count} points (all: --json)") == (count > SHOWN)
        best = sorted(found.candidates, key=lambda c: c.predicted.total_s)[:BEST_SHOWN]
        chosen = found.point(graph)
        assert chosen is not None
        wanted = {0, count - 1, chosen, *(c.point.number for c in best)}
        assert numbers == (sorted(wanted) if count > SHOWN else list(range(count)))
        for number, row in zip(numbers, rows, strict=True):
            assert format_seconds(found.candidates[number].predicted.total_s) in row


def test_every_point_has_its_gain_over_the_better_end_where_time_is_wanted() -> None:
    rng = random.Random(4)
    graph = chain([rng.randrange(1, 9) for _ in range(6)])
    problem = lively_problem(rng, graph)
    found = decide(problem, Goal())
    assert found.gain is not None
    better = min(found.candidates[0].predicted.total_s, found.candidates[-1].predicted.total_s)
    rows = [line for line in printed(graph, found) if re.search(r"\d\.\d\d x", line)]
    assert len(rows) == len(found.candidates)
    for row, candidate in zip(rows, found.candidates, strict=True):
        assert f"{min(better / candidate.predicted.total_s, 999):.2f} x" in row
    assert not any(" x" in line for line in printed(graph, decide(problem, Goal("throughput"))))
    assert not any(" x" in line for line in printed(graph, replace(found, gain=None)))


def test_a_cut_that_is_no_point_has_a_row_of_its_own_with_what_it_sends() -> None:
    rng, seen = random.Random(3), 0
    for _ in range(100):
        graph = random_graph(rng, 8)
        problem = lively_problem(rng, graph)
        ways = [[Packed("zstd", layer.out_bytes * 3, 0.0, 0.0)] for layer in graph.layers]
        found = decide(problem, Goal(method="mincut"), allowed=Allowed(ways, {}))
        if found.point(graph) is not None:
            continue
        seen += 1
        crossing = graph.bytes_of(found.boundary(graph))
        (plain,), (packed,) = (
            [line for line in printed(graph, found, rate) if "→" in line]
            for rate in (None, problem.link.up_bytes_per_s)
        )
        assert f" {format_bytes(crossing)} " in plain
        assert f" {format_bytes(3 * crossing)} " in packed
        assert f"as {format_bytes(3 * crossing)} of zstd" in cut_line(graph, found, problem.link.up_bytes_per_s)
        assert "zstd" not in cut_line(graph, found)
    assert seen > 5


def test_parts_are_told_by_their_ends_to_people_and_by_all_layers_to_programs() -> None:
    graph = chain([1, 2, 3, 4])
    here, there = parts_of(graph, frozenset({0, 1, 2}))
    assert part_line(graph, here) == "edge   l0 to l2"
    assert part_line(graph, there) == "cloud  l3"
    assert part_json(graph, here) == {"place": "edge", "layers": ["l0", "l1", "l2"]}
    names = [name for name, _, _ in STAGES]
    assert legend().plain.split()[3::2] == [name.removesuffix("_s") for name in names]
    assert set(names) <= predict(random_problem(random.Random(4), graph), (here, there)).to_json().keys()
