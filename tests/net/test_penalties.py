"""Penalties by a clock that the test holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.net.penalties import AdmissionControl, Fault, Policy, fault_of, source_of

HERE = "192.0.2.7"


def test_one_mistake_costs_nothing_and_the_third_wrong_token_costs_a_quarter_of_a_minute() -> None:
    door = AdmissionControl()
    for _ in range(2):
        assert door.penalise(HERE, Fault.TOKEN, 100.0) == 0
        assert door.admit(HERE, 100.0) is None
    assert door.penalise(HERE, Fault.TOKEN, 100.0) == 15.0
    denial = door.admit(HERE, 101.0)
    assert denial is not None
    assert (denial.code, denial.retry_after_s) == ("PENALTY", 14.0)


def test_who_is_turned_away_is_told_with_the_seconds_that_are_left() -> None:
    door = AdmissionControl()
    door.penalise("192.0.2.8", Fault.TOKEN, 0.0)  # once is not enough
    for _ in range(3):
        door.penalise(HERE, Fault.TOKEN, 0.0)
    assert door.blocked(5.0) == {HERE: 10.0}
    assert door.blocked(15.0) == {}


def test_a_penalty_ends_by_itself_and_then_nothing_is_left_of_it() -> None:
    door = AdmissionControl()
    for _ in range(3):
        door.penalise(HERE, Fault.TOKEN, 0.0)
    assert door.admit(HERE, 14.9) is not None
    assert door.admit(HERE, 15.0) is None
    assert door.penalise(HERE, Fault.TOKEN, 15.0) == 0


def test_time_takes_mistakes_back() -> None:
    door = AdmissionControl()
    for n in range(50):
        assert door.penalise(HERE, Fault.TOKEN, n * 5.0) == 0


def test_once_it_is_turned_away_it_stays_so_until_the_end_of_the_penalty() -> None:
    door = AdmissionControl()
    for _ in range(3):
        door.penalise(HERE, Fault.TOKEN, 0.0)
    assert door.admit(HERE, 14.0) is not None  # though that is below the least by now
    assert door.penalise(HERE, Fault.GARBAGE, 14.0) == 6.0  # of a connection that was open before


def test_no_penalty_is_longer_than_ten_minutes() -> None:
    door = AdmissionControl()
    for _ in range(10_000):
        door.penalise(HERE, Fault.SILENCE, 0.0)
    denial = door.admit(HERE, 0.0)
    assert denial is not None
    assert denial.retry_after_s == 600.0
    assert door.admit(HERE, 600.0) is None


def test_ten_thousand_guesses_take_half_a_day() -> None:
    """An honest attacker from one address, who is turned away at no cost in between."""
    door, now, guesses = AdmissionControl(), 0.0, 0
    while guesses < 10_000:
        denial = door.admit(HERE, now)
        if denial is None:
            door.leave(HERE)
            door.penalise(HERE, Fault.TOKEN, now)
            guesses += 1
        else:
            now += denial.retry_after_s
    assert now > 12 * 3600


def test_others_are_not_concerned() -> None:
    door = AdmissionControl()
    for _ in range(9):
        door.penalise(HERE, Fault.TOKEN, 0.0)
    assert door.admit("192.0.2.8", 0.0) is None


def test_an_ipv6_customer_is_one_source_and_a_mapped_address_is_its_ipv4_one() -> None:
    def source(address: str) -> str | None:
        return source_of(address, spares_loopback=True)

    assert source("2001:db8:1:2:3::4") == source("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert source("2001:db8:1:3::4") != source("2001:db8:1:2::4")
    assert source("::ffff:192.0.2.7") == source("192.0.2.7") == "192.0.2.7"
    assert source("fe80::1%eth0") == "fe80::/64"


def test_loopback_is_spared_unless_it_is_wanted() -> None:
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        for spares, turned_away in ((True, False), (False, True)):
            door = AdmissionControl(Policy(spares_loopback=spares, most_connections=1))
            for _ in range(5):
                door.penalise(address, Fault.GARBAGE, 0.0)
            assert (door.admit(address, 1.0) is not None) == turned_away


def test_one_source_has_so_many_connections_and_no_more() -> None:
    door = AdmissionControl(Policy(most_connections=3))
    assert [door.admit(HERE, 0.0) is None for _ in range(5)] == [True, True, True, False, False]
    denial = door.admit(HERE, 0.0)
    assert denial is not None
    assert denial.code == "BUSY"
    door.leave(HERE)
    assert door.admit(HERE, 0.0) is None
    for _ in range(3):
        door.leave(HERE)
    assert not door._open


def test_memory_is_bounded_and_who_has_the_shortest_penalty_is_forgotten_first() -> None:
    door = AdmissionControl(Policy(most_sources=100))
    for _ in range(10):
        door.penalise(HERE, Fault.TOKEN, 0.0)
    for n in range(50_000):
        door.penalise(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", Fault.TOKEN, 0.0)
        assert len(door._penalties) <= 100
    assert door.admit(HERE, 1.0) is not None


@given(st.lists(st.tuples(st.sampled_from(Fault), st.floats(0, 1e4)), max_size=60))
def test_a_penalty_is_never_below_zero_nor_above_the_most(events: list[tuple[Fault, float]]) -> None:
    door, now = AdmissionControl(), 0.0
    for fault, pause in events:
        now += pause
        left = door.penalise(HERE, fault, now)
        assert 0 <= left <= 600 + 1e-6
        denial = door.admit(HERE, now)
        assert (denial is not None) == (left > 0)
        if denial is None:
            door.leave(HERE)
        assert denial is None or denial.retry_after_s == pytest.approx(left)


@pytest.mark.parametrize(
    ("code", "is_known", "fault"),
    [
        ("TOKEN", False, Fault.TOKEN),
        ("BAD_MAGIC", True, Fault.GARBAGE),
        ("TLS", False, Fault.GARBAGE),
        ("TRANSPORT", False, Fault.GARBAGE),
        ("DEADLINE", False, Fault.SILENCE),
        ("DEADLINE", True, None),
        ("CLOSED", False, None),
        ("VERSION", False, None),
    ],
)
def test_only_some_endings_are_faults(code: str, is_known: bool, fault: Fault | None) -> None:
    assert fault_of(code, is_known=is_known) is fault


def test_penalties_that_are_over_make_room_first() -> None:
    door = AdmissionControl(Policy(most_sources=2))
    for source, faults in (("192.0.2.1", 1), ("192.0.2.2", 4)):
        for _ in range(faults):
            door.penalise(source, Fault.TOKEN, 0.0)
    door.penalise("192.0.2.3", Fault.TOKEN, 10.0)  # the first one's five seconds are over
    assert door.admit("192.0.2.2", 10.0) is not None


def test_a_place_that_is_left_is_free_and_others_of_the_source_stay() -> None:
    door = AdmissionControl(Policy(most_connections=2))
    assert [door.admit(HERE, 0.0) for _ in range(2)] == [None, None]
    door.leave(HERE)
    assert door.admit(HERE, 0.0) is None
    assert door.admit(HERE, 0.0) is not None
    door.leave("127.0.0.1")  # is spared, and was never counted
