import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.predictor import segments
from edgecloud.predictor.segments import CutTimes


def chain(layers: int) -> LayerGraph:
    kinds = [Layer("input", "input", (), 4), *(Layer(f"l{n}", "conv", (n - 1,), 4 * n) for n in range(1, layers))]
    return LayerGraph("chain", tuple(kinds), (layers - 1,))


times = st.floats(1e-6, 1.0)


@given(data=st.data())
def test_heads_and_tails_come_out_as_they_were_measured(data: st.DataObject) -> None:
    graph = chain(data.draw(st.integers(3, 30)))
    last = len(graph.points) - 1
    work = (0.0, *data.draw(st.lists(st.floats(0, 1e6), min_size=last, max_size=last)))
    inner = sorted(data.draw(st.sets(st.integers(1, last - 1)))) if last > 1 else []
    heads = sorted(data.draw(st.lists(times, min_size=len(inner) + 1, max_size=len(inner) + 1)))
    measured = dict(zip([*inner, last], heads, strict=True))
    lasting = sorted(data.draw(st.lists(st.floats(0, 0.5), min_size=len(inner), max_size=len(inner))), reverse=True)
    left = {0: heads[-1]} | {n: min(heads[-1], s) for n, s in zip(inner, lasting, strict=True)}
    cuts = CutTimes({n: (s,) for n, s in measured.items()}, {n: (s,) for n, s in left.items()})
    seconds, tails = segments.fitted(graph, work, cuts)
    assert all(s >= 0 for s in seconds)
    done = list(accumulate(seconds))
    for number, s in measured.items():
        assert math.isclose(done[graph.points[number].layer], s, rel_tol=1e-6, abs_tol=1e-12)
    for number in inner:
        assert math.isclose(tails[graph.points[number].layer], left[number], rel_tol=1e-6, abs_tol=1e-9)


def test_between_two_cuts_the_work_decides() -> None:
    graph = chain(5)
    seconds, _ = segments.fitted(graph, (0.0, 1.0, 3.0, 2.0, 2.0), CutTimes({2: (4.0,), 4: (6.0,)}, {}))
    assert seconds == pytest.approx((0, 1, 3, 1, 1))


def test_a_head_that_is_shorter_than_one_before_it_adds_nothing() -> None:
    graph = chain(4)
    seconds, _ = segments.fitted(graph, (0.0, 1.0, 1.0, 1.0), CutTimes({1: (2.0,), 2: (1.5,), 3: (3.0,)}, {}))
    assert seconds == pytest.approx((0, 2, 0, 1))


def test_points_are_spread_over_the_work() -> None:
    graph = chain(11)
    work = (0.0, *[1.0] * 5, *[100.0] * 5)
    points = segments.chosen(graph, work, 4)
    assert len(points) == 4
    assert all(number > 4 for number in points)
    assert segments.chosen(graph, work, 50) == list(range(1, 10))
    assert segments.chosen(chain(2), (0.0, 1.0), 4) == []


def test_any_part_of_the_points_is_spread_over_them() -> None:
    assert segments.spread(range(8)) == [0, 4, 2, 6, 1, 3, 5, 7]
    assert sorted(segments.spread(range(15))) == list(range(15))
    assert segments.spread([]) == []


def test_the_check_finds_what_the_others_cannot_tell() -> None:
    graph = chain(5)
    work = (0.0, 1.0, 1.0, 1.0, 1.0)
    even = CutTimes({1: (1.0,), 2: (2.0,), 3: (3.0,), 4: (4.0,)}, {})
    assert segments.checked(graph, work, even) == pytest.approx(0)
    odd = CutTimes({1: (0.1,), 2: (2.0,), 3: (2.1,), 4: (4.0,)}, {})
    assert segments.checked(graph, work, odd) > 0.3


Rows = st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=1, max_size=3)


@given(seconds=Rows, starts=st.lists(st.floats(0, 1), min_size=6, max_size=6), tails=st.booleans())
def test_the_best_of_several_profiles_has_the_best_head_or_tail_of_every_cut(
    seconds: list[list[float]], starts: list[float], tails: bool
) -> None:
    times = [([0.0, *row[1:]], starts) for row in seconds]
    best, left = segments.best_of(times, range(1, 5), tails=tails)
    assert min(best) >= 0
    for layer in range(1, 5):
        if tails:
            told = min(sum(row[layer + 1 :]) + starts[layer] for row, _ in times)
            assert left[layer] == pytest.approx(told)
            assert sum(best[layer + 1 :]) <= told + 1e-9
        else:
            assert sum(best[: layer + 1]) == pytest.approx(min(sum(row[: layer + 1]) for row, _ in times))
