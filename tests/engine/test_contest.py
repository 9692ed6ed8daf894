"""Trying back-ends while they run: what is better is found, and little is lost over what is not."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.engine.contest import FEW, HOPELESS, LOSS, WORTH, Contest

SETUP = {"other": 0.05}


def _run(contest: Contest, base_s: float, ratio: float, runs: int, noise: float = 0.0, seed: int = 0) -> Contest:
    """As an executor does it: what a rival runs first is paid for."""
    chance, is_loaded = random.Random(seed), False
    for _ in range(runs):
        name = contest.next({} if is_loaded else SETUP)
        seconds = base_s * (1.0 if name == "base" else ratio) * chance.uniform(1 - noise, 1 + noise)
        if name == "other" and not is_loaded:
            contest, is_loaded = contest.paid(SETUP["other"] + seconds - contest.typical_s), True
        else:
            contest = contest.ran(name, seconds)
    return contest


@settings(max_examples=20)
@given(base_s=st.floats(0.1, 0.5), ratio=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_what_is_better_is_taken_in_the_end(base_s: float, ratio: float, seed: int) -> None:
    contest = _run(Contest("base", ("other",)), base_s, ratio, 400, 0.03, seed)
    assert not contest.open
    assert contest.winner == "other"


@settings(max_examples=40)
@given(
    base_s=st.floats(0.002, 0.5),
    ratio=st.floats(0.2, 40.0),
    guess=st.floats(0.5, 5.0),
    runs=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_no_more_than_the_budget_is_lost_but_for_the_turns_that_were_guessed_wrong(
    base_s: float, ratio: float, guess: float, runs: int, seed: int
) -> None:
    contest = _run(Contest("base", ("other",), {"other": guess}), base_s, ratio, runs, 0.05, seed)
    surprise_s = base_s * 1.1 * ratio  # its first run, of which nothing was known
    surprise_s += FEW * 2 * base_s * 1.1 * min(ratio, HOPELESS)
    surprise_s += base_s * 1.1 * ratio if ratio >= HOPELESS else 0.0
    assert contest.lost_s <= LOSS * contest.spent_s + surprise_s
    if ratio > 1.2:
        assert contest.winner == "base"


def test_before_there_is_a_budget_nothing_is_tried() -> None:
    contest = Contest("base", ("other",))
    for _ in range(10):
        assert contest.next(SETUP) == "base"
        contest = contest.ran("base", 0.01)


def test_a_little_better_is_not_worth_a_change() -> None:
    contest = _run(Contest("base", ("other",)), 0.1, (1 + WORTH) / 2, 400)
    assert not contest.open
    assert contest.winner == "base"


def test_a_rival_that_cannot_run_it_is_not_asked_again() -> None:
    contest = _run(Contest("base", ("other",)), 0.1, 0.5, 60).without("other")
    assert contest.open == ()
    assert contest.next({}) == contest.winner == "base"


def test_a_machine_that_becomes_slower_deceives_nobody() -> None:
    """Fails where plain times are compared: what runs later would look worse."""
    contest = Contest("base", ("other",), {"other": 0.9})
    for count in range(60):
        contest = contest.ran(name := contest.next({}), (1 + count / 50) * (1.0 if name == "base" else 0.85))
    assert contest.winner == "other"
    assert contest.seconds()["other"] < contest.seconds()["base"]
