"""Ways whose stages overlap: what is learnt of stages corrects their totals, and hidden time is counted once."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from edgecloud.partition import chain
from edgecloud.partition.adaptive import Believed
from edgecloud.partition.cost import Problem
from edgecloud.partition.drift import SideFactors
from edgecloud.partition.ways import Table, first_belief, table_of
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
            assert (np.abs(longer - slope * math.log(more)) <= 0.6 * (more - 1) * shown + 1e-12).all()  # at a corner
            np.testing.assert_allclose(after.stages[:, side] - totals.stages[:, side], shown * (more - 1), atol=1e-9)
            hidden += int((slope < 0.5 * shown).sum())
    assert hidden > 0


def test_a_problem_without_chunks_has_ways_as_ever() -> None:
    problem, _ = ways_of(1)
    plain = replace(problem, chunking=None)
    table = table_of(plain, plain)
    assert table.shares is None
    totals = first_belief(table, 0.2, 0.2).totals(table.at(plain))
    assert totals.slopes is totals.shown
    np.testing.assert_allclose(totals.seconds, totals.stages.sum(axis=1))
