"""What an experiment measures, when it measures again, and what its records say: pure, against oracles."""

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pytest

from edgecloud.client import points
from edgecloud.lab import spec
from edgecloud.lab.baselines.registry import AUTO, AUTO_RAW, POINT
from edgecloud.lab.grid import (
    MOST_ATTEMPTS,
    SUPERSEDED,
    UNSTABLE,
    Best,
    Want,
    agreement,
    flags_for,
    groups,
    key_of,
    next_attempt,
    summary,
    wants,
)
from edgecloud.lab.pruning import heads_of
from edgecloud.lab.records import Cell, CellRecord
from edgecloud.lab.regret import Verdict
from tests.lab.test_pruning import World, experiment, run
from tests.lab.test_pruning import points as measured_points
from tests.made_records import LAYERS, cell_of, record, stages
from tests.models.test_graph import chain

LAST = len(LAYERS) - 1
CELL, OTHER = (cell_of(0.5, link) for link in ("5mbit,5ms", "20mbit,5ms"))


def asked_for(text: str, codec: str = "raw", points: int = LAST + 1) -> list[Want]:
    values = {"models": ["le_net"], "links": ["5mbit"], "points": text, "codec": codec, "baselines": []}
    return wants(spec.of(values), points, "latency")


def best_point(cell: Cell) -> int:
    return min(range(LAST + 1), key=lambda point: stages(cell, point)["total_s"])


def measured(
    cell: Cell, who: str = POINT, points: Sequence[int] = range(LAST + 1), codec: str = "raw"
) -> list[CellRecord]:
    """Three repeats each, asked for as the lab asks."""
    return [
        record(cell, point, n, who=who, codec=codec, plan={"asked": f"{point}:{codec}"})
        for point in points
        for n in range(3)
    ]


def only(records: Sequence[CellRecord]) -> Best:
    (found,) = summary(records)
    return found


# --- what is wanted


@pytest.mark.parametrize("text", ["all", "0-3", "4", "all:zstd", "0-2:int8,5", "1:raw,3-3", "0,1,1,0-2", " 2 , 3 "])
@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_points_that_are_written_out_are_those_that_the_edge_reads(text: str, codec: str) -> None:
    graph = chain([1] * (LAST + 1))

    def cuts(asked: str) -> set[tuple[int | None, str]]:
        return {(each.point, each.codec or codec) for each in points.parse(asked, graph)}

    found = asked_for(text, codec)
    assert {want.who for want in found} == {POINT}
    assert len(found) == len(cuts(text))
    assert set().union(*(cuts(want.asked) for want in found)) == cuts(text)
    assert all(len(cuts(want.asked)) == 1 for want in found), "each is a group of its own"


@pytest.mark.parametrize("codec", ["raw", "auto", "int8+zstd", "learned:tiny"])
@pytest.mark.parametrize("cut", ["2", f"head={chain([1, 1]).layers[1].id}"])
def test_the_name_of_a_codec_may_hold_a_colon(cut: str, codec: str) -> None:
    (found,) = points.parse(f"{cut}:{codec}", chain([1] * (LAST + 1)))
    assert found.codec == codec
    assert found.head == (frozenset({0, 1}) if cut.startswith("head") else None)


@pytest.mark.parametrize("text", ["9", "3-1", "0-99", "0-6", "two", "head=conv1+pool1", "-1", "1-"])
def test_what_is_no_point_is_left_to_the_edge_to_refuse(text: str) -> None:
    assert asked_for(text) == [Want(POINT, f"{text}:raw")]


# --- when it is measured again


def test_groups_are_the_records_of_the_last_attempt_whatever_their_order() -> None:
    rng = random.Random(1)
    for _ in range(50):
        made = [
            record(
                rng.choice([CELL, OTHER]),
                rng.randrange(3),
                who=rng.choice([POINT, "dads"]),
                attempt=rng.randrange(3),
                plan=rng.choice([{}, {"asked": "0:raw"}, {"asked": "1:raw"}]),
            )
            for _ in range(30)
        ]
        keys = {key_of(each.cell, each.who, each.plan.get("asked", "")) for each in made}
        found = groups(made)
        assert found.keys() == keys
        for key, kept in found.items():
            same = [each for each in made if key_of(each.cell, each.who, each.plan.get("asked", "")) == key]
            last = max(each.attempt for each in same)
            assert kept == [each for each in same if each.attempt == last]


def test_a_baseline_is_one_group_whatever_it_chose() -> None:
    assert len({key_of(CELL, "dads", asked) for asked in ("3:raw", "head=conv1:raw")}) == 1
    assert len({key_of(CELL, POINT, asked) for asked in ("3:raw", "3:zstd")}) == 2


def test_what_is_whole_is_not_measured_again_and_what_is_torn_or_superseded_is() -> None:
    whole = measured(CELL, points=[2])
    assert next_attempt([], 3) == 0
    assert next_attempt(whole, 3) is None
    assert next_attempt(whole[:2], 3) == 1
    assert next_attempt(whole, 5) == 1
    again = [replace(each, attempt=1, flags=(SUPERSEDED,)) for each in whole]
    assert next_attempt(again, 3) == 2
    assert next_attempt([replace(each, flags=(UNSTABLE,)) for each in again], 3) is None


def test_times_that_never_settle_end_after_a_few_attempts() -> None:
    attempt, tries, found = 0, 0, list[CellRecord]()
    while (following := next_attempt(found, 3)) is not None:
        attempt, tries = following, tries + 1
        assert tries <= MOST_ATTEMPTS
        flags = flags_for([1.0, 2.0, 1.0], tries, is_fallback=False)
        found = [replace(each, attempt=attempt, flags=flags) for each in measured(CELL, points=[0])]
    assert (attempt, tries, found[0].flags) == (MOST_ATTEMPTS - 1, MOST_ATTEMPTS, (UNSTABLE,))


# --- what it says


def test_the_best_point_and_what_the_own_choice_takes_longer() -> None:
    for cell in (CELL, OTHER):
        for auto in range(LAST + 1):
            found = only([*measured(cell, AUTO, [auto]), *measured(cell)])
            assert found.point == best_point(cell)
            assert found.layer == LAYERS[best_point(cell)][0]
            assert found.auto_point == auto
            least_s, auto_s = (stages(cell, point)["total_s"] for point in (best_point(cell), auto))
            assert found.regret is not None
            assert found.regret.share == pytest.approx(auto_s / least_s - 1)


def test_regret_is_of_the_choice_as_it_was_measured_and_two_runs_of_one_cut_are_noise() -> None:
    points, best = measured(CELL), best_point(CELL)
    slow = [replace(each, measured={**each.measured, "total_s": 9.0}) for each in measured(CELL, AUTO, [best])]
    found = only([*points, *slow])
    assert found.auto_s == 9.0
    assert found.regret is not None
    assert found.regret.share == pytest.approx(9.0 / found.total_s - 1)
    assert found.regret.noise == pytest.approx(found.regret.share)
    assert found.regret.verdict is Verdict.EQUAL
    several = [replace(each, point=None) for each in slow]
    for other in ([replace(each, codec="zstd") for each in slow], several):
        judged = only([*points, *other]).regret
        assert judged is not None
        assert judged.share == pytest.approx(9.0 / found.total_s - 1)
        assert judged.verdict is Verdict.WORSE
    assert only([*points, *several]).auto_point is None


def test_a_wrong_answer_is_not_the_best_point() -> None:
    best = best_point(CELL)
    wrong = [replace(each, matches=False) if each.point == best else each for each in measured(CELL)]
    assert only(wrong).point != best


def test_the_choice_that_may_not_pack_is_judged_where_only_that_was_run() -> None:
    packs = [replace(each, measured={**each.measured, "total_s": 0.01}) for each in measured(CELL, AUTO, [0], "zstd")]
    found = only([*measured(CELL), *packs, *measured(CELL, AUTO_RAW, [2])])
    assert (found.auto_point, found.auto_s) == (0, 0.01)
    assert found.regret is not None
    assert found.regret.verdict == "better"
    alone = only([*measured(CELL), *measured(CELL, AUTO_RAW, [2])])
    assert alone.auto_point == 2
    assert alone.regret is not None
    assert alone.regret.share == pytest.approx(stages(CELL, 2)["total_s"] / alone.total_s - 1, abs=1e-9)


def test_without_points_there_is_no_best_and_without_a_choice_no_regret() -> None:
    assert summary(measured(CELL, AUTO, [1])) == []
    found = only([*measured(CELL), *measured(CELL, "dads", [0])])
    assert (found.point, found.auto_s, found.regret) == (best_point(CELL), None, None)


def test_any_unstable_group_makes_its_cell_unstable_but_no_other() -> None:
    shaky = [replace(each, flags=(UNSTABLE,)) if each.who == AUTO else each for each in measured(CELL, AUTO, [1])]
    found = {best.cell: best.is_unstable for best in summary([*measured(CELL), *shaky, *measured(OTHER)])}
    assert found == {CELL: True, OTHER: False}


def test_medians_count_and_only_of_the_last_attempt() -> None:
    first = [replace(each, measured={**each.measured, "total_s": 0.001}) for each in measured(CELL, points=[0])]
    again = [replace(each, attempt=1) for each in measured(CELL, points=[0])]
    totals_s = [each.total_s for each in again]
    assert only([*first, *again]).total_s == median(totals_s)


# --- two runs


def test_two_runs_agree_on_the_point_or_on_its_time() -> None:
    mine = summary([*measured(CELL), *measured(OTHER)])
    a, b = mine
    assert [same for *_, same in agreement(mine, mine).values()] == [True, True]
    cases = [
        (replace(a, total_s=a.total_s * 3), True),
        (replace(a, point=0 if a.point else 1, total_s=a.total_s * 1.09), True),
        (replace(a, point=0 if a.point else 1, total_s=a.total_s * 0.91), True),
        (replace(a, point=0 if a.point else 1, total_s=a.total_s * 1.11), False),
        (replace(a, point=0 if a.point else 1, total_s=a.total_s * 0.89), False),
    ]
    for theirs, expected in cases:
        assert agreement([a, b], [theirs]) == {CELL.key: (a, theirs, expected)}
    assert agreement([a], [b]) == {}


# --- points that cannot be the best


class Unpowered(World):
    """Nobody models its joules."""

    def record(self, cell: Cell, want: Want, point: int) -> CellRecord:
        return replace(super().record(cell, want, point), energy=None)


class Branching(World):
    """Its edge chooses a cut that several tensors cross, after everything else."""

    def record(self, cell: Cell, want: Want, point: int) -> CellRecord:
        made = super().record(cell, want, point)
        return replace(made, point=None) if want.who == AUTO else made


SLOW = ((0.0, 0.1, 0.1, 0.1, 0.1), (0.0,) * 5, (600_000, 600_000, 1_000, 600_000, 0))


def test_without_joules_no_point_is_ruled_out_by_joules() -> None:
    assert sorted(measured_points(run(Unpowered(*SLOW), experiment("energy"), 4))) == [0, 1, 2, 3, 4]
    assert measured_points(run(World(*SLOW), experiment("energy"), 4)) == [4, 2]


def test_a_head_that_is_no_point_says_nothing_about_those_of_the_points() -> None:
    assert measured_points(run(World(*SLOW), experiment("latency"), 4)) == [4, 2]
    assert measured_points(run(Branching(*SLOW), experiment("latency"), 4)) == [0, 1, 2, 4]
    assert heads_of([(None, 9.0), (1, 2.0), (1, 1.0), (3, 4.0)]) == {1: 1.0, 3: 4.0}
