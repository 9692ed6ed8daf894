"""Regret: one definition, what of it is noise, and sums that the single cells bear out."""

from hypothesis import given
from hypothesis import strategies as st

from edgecloud.lab.regret import MeasuredCut, Regret, Summary, Verdict, noise_of, regret

seconds = st.floats(min_value=1e-4, max_value=100.0)
cuts = st.tuples(st.integers(0, 4), st.sampled_from(["raw", "zstd"]))
runs = st.builds(MeasuredCut.of, cuts, st.lists(seconds, min_size=1, max_size=5))


@given(chosen=runs, fixed=st.lists(runs, min_size=1, max_size=6), others=st.lists(runs, max_size=3))
def test_regret_is_over_the_best_fixed_cut_and_equal_within_the_noise(
    chosen: MeasuredCut, fixed: list[MeasuredCut], others: list[MeasuredCut]
) -> None:
    found = regret(chosen, fixed, others)
    assert found is not None
    best = min(fixed, key=lambda run: run.value)
    assert found.share == max(0.0, chosen.value / best.value - 1)
    assert found.noise >= max(chosen.spread, best.spread)
    assert (found.verdict is Verdict.EQUAL) == (abs(found.difference) <= found.noise)
    if chosen.cut == best.cut:
        assert found.share <= found.noise * (1 + 1e-9), "two runs of the same cut differ by noise alone"


@given(st.lists(st.builds(Regret, st.floats(-0.99, 9.0), st.floats(0.0, 1.0)), min_size=1, max_size=20))
def test_no_cell_beats_what_is_said_of_all(found: list[Regret]) -> None:
    summary = Summary.of(found)
    assert summary is not None
    assert summary.worst == max(each.share for each in found)
    assert 0 <= summary.mean <= summary.worst * (1 + 1e-9)
    assert min(each.noise for each in found) <= summary.noise <= max(each.noise for each in found)
    assert summary.better + summary.equal + summary.worse == summary.cells == len(found)
    assert summary.not_worse == sum(each.verdict is not Verdict.WORSE for each in found)


def test_repeats_and_runs_of_the_same_cut_are_the_noise() -> None:
    one, again = MeasuredCut.of((3, "raw"), [1.0, 1.1, 0.9]), MeasuredCut.of((3, "raw"), [1.3, 1.3, 1.3])
    other, several = MeasuredCut.of((3, "zstd"), [5.0]), MeasuredCut.of((None, "raw"), [7.0])
    assert round(noise_of(one, [other]), 9) == 0.2
    assert round(noise_of(one, [again, one, other]), 9) == 0.3
    assert noise_of(several, [several, MeasuredCut.of((None, "raw"), [9.0])]) == 0, (
        "two cuts of several tensors may differ"
    )
    assert MeasuredCut.of((0, "raw"), [0.0, 0.0]).spread == 0


def test_without_fixed_cuts_there_is_no_regret() -> None:
    assert regret(MeasuredCut.of((0, "raw"), [1.0]), []) is None
    assert regret(MeasuredCut.of((0, "raw"), [1.0]), [MeasuredCut.of((0, "raw"), [0.0])]) is None
    assert Summary.of([]) is None


def test_a_packed_choice_may_be_better_than_every_fixed_cut() -> None:
    found = regret(MeasuredCut.of((0, "pixels"), [0.5]), [MeasuredCut.of((3, "raw"), [1.0])])
    assert found == Regret(-0.5, 0.0)
    assert found is not None
    assert (found.share, found.verdict) == (0, Verdict.BETTER)
