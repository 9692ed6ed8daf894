"""The rules of what is done when the cloud does not answer, as pure functions."""

import ast
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.client.fallback import (
    LONGEST_PAUSE_S,
    OURS_TO_MEND,
    REFUSALS,
    RETRIES,
    SPARE_S,
    TOKENS,
    Backoff,
    Breaker,
    RetryBudget,
    busy_pause_s,
    first_wait_s,
    fits,
    is_covered,
    is_worth_asking,
    patience_s,
    reserve_s,
    retry_pause_s,
)
from edgecloud.net.frames import VersionError
from edgecloud.net.messages import Error
from edgecloud.net.refusals import refusal
from edgecloud.utils.errors import (
    AppError,
    ConnectError,
    DeadlineError,
    HandshakeLostError,
    MismatchError,
    PeerClosedError,
    ProtocolError,
    UsageError,
)
from tests.conftest import (
    ROOT,
)


@given(st.floats(0, 100), st.floats(0, 50), st.floats(0, 50))
def test_waiting_leaves_room_for_the_rest_wherever_there_is_any(left_s: float, here_s: float, there_s: float) -> None:
    wait_s = patience_s(left_s, here_s)
    assert 0 <= wait_s <= left_s
    if reserve_s(here_s) < left_s:
        assert wait_s + here_s + SPARE_S <= left_s + 1e-9
    else:
        assert wait_s == left_s  # nothing but the cloud can be in time
    assert fits(left_s, here_s, there_s) == (there_s <= wait_s)
    if left_s > 0 and fits(left_s, here_s, there_s):
        assert is_worth_asking(left_s, here_s, there_s)


def test_the_cloud_is_not_asked_where_only_the_edge_can_be_in_time() -> None:
    assert is_worth_asking(1.0, here_s=0.3, there_s=0.5)
    assert not is_worth_asking(1.0, here_s=0.3, there_s=0.6)
    assert is_worth_asking(1.0, here_s=3.0, there_s=0.9)
    assert is_worth_asking(1.0, here_s=3.0, there_s=1.1)  # neither can, as far as is known
    assert not fits(1.0, here_s=3.0, there_s=1.1)  # but nothing is asked a second time
    assert not is_worth_asking(0.0, here_s=3.0, there_s=0.0)


def refused_with(code: str) -> AppError:
    return refusal(Error(code, "no"))


@pytest.mark.parametrize(
    ("error", "is_there_an_answer"),
    [
        (ConnectError("nobody there"), False),
        (HandshakeLostError("closed in the handshake"), True),
        (PeerClosedError("closed"), True),
        (DeadlineError("silent"), True),
        (ProtocolError("nonsense"), True),
        (AppError("anything else"), True),
        (MismatchError("another codec"), False),
        (VersionError("another version"), False),
        *((refused_with(code), False) for code in sorted(OURS_TO_MEND)),
        *((refused_with(code), True) for code in ("INTERNAL", "BUSY", "DEADLINE", "PENALTY", "TOO_LARGE", "x")),
    ],
    ids=repr,
)
def test_what_a_first_greeting_may_end_in(error: AppError, is_there_an_answer: bool) -> None:
    assert is_covered(error, "on") == is_there_an_answer
    assert is_covered(error, "always")
    assert not is_covered(error, "off")
    assert not is_covered(UsageError("a flag of ours"), "always")


def test_the_first_answer_waits_for_a_cloud_as_long_as_it_takes_here() -> None:
    assert first_wait_s(0.01, 60.0) == 1.0
    assert first_wait_s(7.0, 60.0) == 7.0
    assert first_wait_s(7.0, 0.5) == 0.5


def steady_jitter(low: float, high: float) -> float:
    return (low + high) / 2


def test_pauses_double_up_to_a_minute_and_begin_anew_after_an_answer() -> None:
    backoff = Backoff(uniform=steady_jitter)
    assert [backoff.next_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.reset()
    assert backoff.next_s() == 1


@given(st.integers(0, 1 << 30))
def test_pauses_are_random_within_a_fifth(seed: int) -> None:
    backoff = Backoff(uniform=random.Random(seed).uniform)
    for expected in (1, 2, 4, 8, 16, 32, 60, 60):
        assert 0.8 * expected <= backoff.next_s() <= 1.2 * expected
    assert 0 <= retry_pause_s(RETRIES, random.Random(seed).uniform) <= 0.2


def is_open(breaker: Breaker) -> bool:
    return breaker.is_open


def test_the_breaker_opens_tries_and_closes() -> None:
    breaker = Breaker(Backoff(uniform=steady_jitter))
    breaker.failed(100.0)
    assert is_open(breaker)
    assert not breaker.may_probe(100.9)
    assert breaker.may_probe(101.0)
    breaker.failed(101.0)  # the probe
    assert not breaker.may_probe(102.9)
    assert breaker.may_probe(103.0)
    breaker.reconnected()
    assert not is_open(breaker)
    assert not breaker.may_probe(200.0)
    breaker.failed(103.5)  # greets well, and fails at the request: it is left alone for longer
    assert (breaker.may_probe(107.4), breaker.may_probe(107.5)) == (False, True)
    breaker.reconnected()
    breaker.succeeded()
    breaker.failed(200.0)
    assert breaker.may_probe(201.0)


def test_the_breaker_opens_after_refusals_in_a_row() -> None:
    breaker = Breaker(Backoff(uniform=steady_jitter))
    for _ in range(3):
        for _ in range(REFUSALS - 1):
            breaker.refused(0.0)
        assert not is_open(breaker)
        breaker.succeeded()
    for _ in range(REFUSALS):
        breaker.refused(0.0)
    assert is_open(breaker)
    breaker.reconnected()
    breaker.refused(5.0)  # one is enough for a cloud on trial
    assert is_open(breaker)
    assert not breaker.may_probe(5.0)


@given(st.lists(st.sampled_from(["ok", "failed", "refused", "probe"]), max_size=60))
def test_a_breaker_that_is_open_can_always_be_probed_in_the_end(events: list[str]) -> None:
    breaker, now = Breaker(), 0.0
    for event in events:
        now += 0.5
        if event == "ok":
            breaker.succeeded()
        elif event == "probe":
            if breaker.may_probe(now):
                breaker.reconnected()
        else:
            getattr(breaker, event)(now)
        assert not is_open(breaker) or breaker.may_probe(now + 1.2 * LONGEST_PAUSE_S)


def test_retries_are_worth_tokens() -> None:
    budget = RetryBudget()
    allowed = 0
    while budget.allows:
        budget.failed()
        allowed += 1
    assert allowed == TOKENS / 2
    for _ in range(100):
        budget.failed()
    for _ in range(50):
        assert not budget.allows
        budget.succeeded()
    budget.succeeded()
    assert budget.allows


def test_in_an_outage_of_every_other_request_few_are_repeated() -> None:
    budget, attempts, requests = RetryBudget(), 0, 1000
    for number in range(requests):
        attempts += 1
        if number % 2:
            budget.failed()
            attempts += budget.allows
        else:
            budget.succeeded()
    assert attempts <= 1.1 * requests


def test_a_busy_cloud_is_asked_again_when_it_says_so_within_reason() -> None:
    assert [busy_pause_s(s) for s in (0.0, 0.3, 1e8)] == [0.01, 0.3, 5.0]


def test_nothing_that_waits_or_measures_looks_at_the_wall_clock() -> None:
    """A clock that is set changes no duration and no deadline; only how old a file is can be told by no other clock."""
    for package in ("engine", "client", "server", "tasks", "tools", "cli", "net", "partition", "utils"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
                assert name not in ("time.time", "datetime.now", "datetime.utcnow", "time.time_ns") or (
                    path == ROOT / "client" / "frames.py"
                ), path


def test_a_connection_that_breaks_is_replaced_at_once_where_the_last_request_was_answered() -> None:
    breaker = Breaker(Backoff(uniform=steady_jitter))
    breaker.succeeded()
    breaker.lost(10.0)
    assert is_open(breaker)
    assert breaker.may_probe(10.0)
    breaker.reconnected()
    breaker.lost(11.0)  # it greets well, and breaks before it has answered anything
    assert (breaker.may_probe(11.9), breaker.may_probe(12.0)) == (False, True)
