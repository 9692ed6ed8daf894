"""Figures with their noise: no winner where two things are as good as each other."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.noise import Figure, Versus, interval


def test_a_figure_is_a_median_with_its_noise() -> None:
    assert Figure.of([2.0]) == Figure(2.0, 0.0)
    assert Figure.of([1.0, 2.0, 3.0]) == Figure(2.0, 0.5)
    assert str(Figure.of([9.0, 10.0, 10.0, 10.0, 11.0, 50.0, 10.0, 10.0])) == "10 ± 0%"  # one outlier is none
    assert Figure.of([0.0, 0.0]).noise == 0


def test_who_is_better_is_said_only_where_it_is_no_chance() -> None:
    assert Versus.of([3.0, 2.7, 3.2, 3.1], [2.0, 2.0, 2.1, 2.0]).is_sure
    assert str(Versus.of([1.0, 1.2, 0.9, 1.1], [1.1, 1.0, 1.0, 1.05])).endswith("no difference within the noise")
    assert not Versus.of([2.0], [1.0]).is_sure  # one pair says nothing


def test_fine_figures_have_another_digit() -> None:
    assert str(Figure(1.0031, 0.002)) == "1.003 ± 0.2%"
    assert str(Figure(1.0031, 0.02)) == "1 ± 2%"


def test_many_values_vary_from_fifth_to_fifth() -> None:
    assert Figure.of_blocks([1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0]) == Figure(2.0, 0.0)
    assert Figure.of_blocks([float(n) for n in range(50)], max) == Figure(49.0, 10 / 29)
    assert Figure.of_blocks([1.0, 3.0]) == Figure.of([1.0, 3.0])


def test_what_did_not_take_turns_is_told_apart_by_the_noise_of_both() -> None:
    assert Versus.of_figures(Figure(2.0, 0.1), Figure(1.0, 0.1)).is_sure
    assert not Versus.of_figures(Figure(1.1, 0.1), Figure(1.0, 0.1)).is_sure
    assert not Versus.of_figures(Figure(2.0, 0.0), Figure(1.0, 0.0)).is_sure  # single values: nobody knows
    assert Versus.of_figures(Figure(2.0, 0.3), Figure(1.0, 0.4)).ratio.noise == pytest.approx(0.5)


@given(st.randoms(use_true_random=False), st.floats(1.3, 3.0))
def test_a_drifting_machine_slows_both_down(chance: random.Random, better: float) -> None:
    drift = [chance.uniform(1, 3) for _ in range(12)]
    ours = [better * each * chance.uniform(0.95, 1.05) for each in drift]
    theirs = [each * chance.uniform(0.95, 1.05) for each in drift]
    found = Versus.of(ours, theirs)
    assert found.is_sure
    assert found.ratio.value == pytest.approx(better, rel=0.11)
    assert not Versus.of(theirs, theirs).is_sure


def test_the_interval_of_a_median_holds_it_as_often_as_is_said() -> None:
    draw, held = random.Random(1), 0
    for _ in range(1000):
        low, high = interval([draw.gauss(5.0, 1.0) for _ in range(20)])
        held += low <= 5.0 <= high
    assert 940 <= held <= 985
    assert interval([2.0]) == (2.0, 2.0)
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)  # too few to leave any out
    assert interval([float(n) for n in range(50)]) == (17.0, 32.0)
