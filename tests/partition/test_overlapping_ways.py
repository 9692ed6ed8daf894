"""Ways whose stages overlap: what is learnt of stages corrects their totals, and hidden time is counted once."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from edgecloud.partition import chain
from edgecloud.partition.adaptive import IN_ONE_PIECE, Believed
from edgecloud.partition.cost import Problem, predict
from edgecloud.partition.drift import SideFactors, Stage
from edgecloud.partition.guard import Guard
from edgecloud.partition.steering import Measurement, Steering
from edgecloud.partition.ways import Table, corrected, first_belief, point_of, stages_of, table_of
from tests.partition.test_chunking import drawn


def ways_of(seed: int) -> tuple[Problem, Table]:
    rng = random.Random(seed)
    while True:
        problem = drawn(rng, 14)
        problem = replace(problem, cloud=replace(problem.cloud, queue_s=0.0), edge_s=[4 * s for s in problem.edge_s])
        table = table_of(problem, problem)
        if sum(overlap is not None for overlap in table.overlaps) > 1:
            return problem, table


def with_factor(believed: Believed, side: int, kind: int, factor: float) -> Believed:
    """Where one kind of work on one side takes so many times as long."""
    sides = list(believed.sides)
    mean = sides[side].estimate.mean.copy()
    mean[kind] += math.log(factor)
    sides[side] = SideFactors(replace(sides[side].estimate, mean=mean), sides[side].noise)
    return Believed(*sides)


@pytest.mark.parametrize("seed", range(6))
def test_the_totals_of_ways_are_those_of_the_formula(seed: int) -> None:
    problem, table = ways_of(seed)
    totals = first_belief(table, 0.2, 0.2).totals(table.at(problem))
    for number, candidate in enumerate(chain.scan(problem)):
        predicted = candidate.predicted
        assert totals.seconds[number] == pytest.approx(predicted.total_s, rel=1e-6)
        assert totals.stages[number].sum() == pytest.approx(predicted.stages_s, rel=1e-6)
        assert (table.overlaps[number] is None) == (predicted.hidden_s == 0)
    assert (table.shares is None) == (not any(table.overlaps))


@pytest.mark.parametrize("seed", range(12))
def test_a_tail_by_rows_waits_for_its_turn_while_chunks_come(seed: int) -> None:
    problem, _ = ways_of(seed)
    problem = replace(problem, cloud=replace(problem.cloud, queue_s=random.Random(seed).choice([1e-3, 0.02, 0.3])))
    table = table_of(problem, problem)
    totals = first_belief(table, 0.2, 0.2).totals(table.at(problem))
    for number, candidate in enumerate(chain.scan(problem)):
        assert totals.seconds[number] == pytest.approx(candidate.predicted.total_s, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_slopes_say_what_the_total_of_a_way_does_where_a_stage_is_longer(seed: int) -> None:
    """Of a stage that is hidden nothing, of one that is not all of it; the stages themselves grow all the same."""
    problem, table = ways_of(seed)
    ways, believed, more = table.at(problem), first_belief(table, 0.2, 0.2), 1.01
    totals, hidden = believed.totals(ways), 0
    for side in range(3):
        for kind in range(totals.slopes[side].shape[1] - 1):
            after = with_factor(believed, side, kind, more).totals(ways)
            slope, shown = totals.slopes[side][:, kind], totals.shown[side][:, kind]
            longer = after.seconds - totals.seconds
            assert (np.abs(longer - slope * math.log(more)) <= 0.5 * (more - 1) * shown + 1e-12).all()  # at a corner
            np.testing.assert_allclose(after.stages[:, side] - totals.stages[:, side], shown * (more - 1), atol=1e-9)
            hidden += int((slope < 0.5 * shown).sum())
    assert hidden > 0


def test_every_way_that_overlaps_is_there_in_one_piece_too() -> None:
    problem, table = ways_of(2)
    names, ways = list(table.names), table.at(problem)
    totals = first_belief(table, 0.2, 0.2).totals(ways)
    overlapping = [number for number, overlap in enumerate(table.overlaps) if overlap is not None]
    assert overlapping
    for number in overlapping:
        other = names.index(f"{names[number]}{IN_ONE_PIECE}")
        assert table.parts[other] == table.parts[number]
        assert point_of(names[other]) == point_of(names[number]) == int(names[number])
        assert table.overlaps[other] is None
        in_turn_s = predict(problem, table.parts[other]).total_s
        assert totals.seconds[other] == pytest.approx(in_turn_s)
        assert ways.edge[other, -2] == ways.cloud[other, -2] == 0
    assert len(names) == len(problem.graph.points) + len(overlapping)
    assert set(table.ends) <= set(names)


def costly(seed: int, factor: float) -> tuple[Problem, Table, Believed]:
    """A problem whose best way computes by rows, and what is true of it: each further block takes so many times as long
    as is predicted, and the best way is another one."""
    rng = random.Random(seed)
    while True:
        problem = drawn(rng, 14)
        problem = replace(problem, cloud=replace(problem.cloud, queue_s=0.0))
        table = table_of(problem, problem)
        ways, believed = table.at(problem), first_belief(table, 0.2, 0.2)
        best = int(np.argmin(believed.totals(ways).seconds))
        truth = with_factor(believed, 2, ways.cloud.shape[1] - 2, factor)
        true_s = truth.totals(ways).seconds
        if table.overlaps[best] is not None and true_s[best] > 1.05 * true_s.min():
            return problem, table, truth


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_take_longer_than_predicted_are_left(seed: int) -> None:
    problem, table, truth = costly(seed, 6.0)
    names, ways, believed = table.names, table.at(problem), first_belief(table, 0.2, 0.2)
    best = int(np.argmin(believed.totals(ways).seconds))
    steering, rng = Steering(believed, names[best], table.ends), random.Random(seed)
    totals = truth.totals(ways)
    edge, link, cloud = (
        [side * factors for side in sides]
        for sides, factors in zip(
            (ways.edge, ways.link, ways.cloud), (side.factors for side in truth.sides), strict=True
        )
    )
    for _ in range(40):
        pick = steering.pick(names, ways, 100)
        noise = [math.exp(rng.gauss(0, 0.02)) for _ in range(4)]
        here, there = edge[pick.way], cloud[pick.way]
        measured = Measurement(
            stages_of(ways.edge[pick.way], noise[0] * here[:-1].sum(), noise[0] * here[-1], 0.0),
            (Stage(ways.link[pick.way], noise[1] * link[pick.way].sum()),) if ways.link[pick.way].any() else (),
            stages_of(ways.cloud[pick.way], noise[2] * there[:-1].sum(), noise[2] * there[-1], 0.0),
            noise[3] * float(totals.seconds[pick.way]),
            1.0,
        )
        steering.record(names, ways, pick, measured)
    assert totals.seconds[names.index(steering.running)] <= 1.03 * totals.seconds.min()


def test_what_runs_in_one_piece_keeps_its_totals_under_another_name() -> None:
    _, table = ways_of(2)
    steering = Steering(first_belief(table, 0.2, 0.2), f"0{IN_ONE_PIECE}", table.ends)
    steering.rename("0")
    assert steering.running == "0"
    guard = Guard().after(f"0{IN_ONE_PIECE}", 0.2).renamed(f"0{IN_ONE_PIECE}", "0")
    assert guard.typical_s("0") == pytest.approx(0.2)
    of_both = Guard().after(f"0{IN_ONE_PIECE}", 0.2).after("0", 3.0).renamed(f"0{IN_ONE_PIECE}", "0")
    assert of_both.typical_s("0") == pytest.approx(0.2)


def test_factors_of_further_blocks_go_into_the_next_plan() -> None:
    problem, table = ways_of(2)
    ways, believed = table.at(problem), first_belief(table, 0.2, 0.2)
    after = corrected(problem, table, with_factor(believed, 2, ways.cloud.shape[1] - 2, 3.0))
    assert problem.chunking is not None
    assert after.chunking is not None
    assert after.chunking.cloud_blocks == pytest.approx(3 * problem.chunking.cloud_blocks)
    assert after.chunking.edge_blocks == problem.chunking.edge_blocks
    assert list(after.cloud.seconds) == list(problem.cloud.seconds)


def test_a_problem_without_chunks_has_ways_as_ever() -> None:
    problem, _ = ways_of(1)
    plain = replace(problem, chunking=None)
    table = table_of(plain, plain)
    assert table.shares is None
    totals = first_belief(table, 0.2, 0.2).totals(table.at(plain))
    assert totals.slopes is totals.shown
    np.testing.assert_allclose(totals.seconds, totals.stages.sum(axis=1))
