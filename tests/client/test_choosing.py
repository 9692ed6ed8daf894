"""Which cloud is taken, whom a MOVE may lead to, and how often: what is decided without a socket."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.client.choosing import (
    FLOOD,
    FLOOD_S,
    MANY,
    MOVES,
    SAME_S,
    SAME_SHARE,
    MoveLimit,
    Said,
    named_by,
    ranked,
    to_ask,
)
from edgecloud.net.messages import State
from edgecloud.utils.addresses import Place
from edgecloud.utils.errors import UsageError

IDLE = State(1.0, 0.0, 0, 32, 1)


def said(queue_s: float = 0.0, connections: int = 1, *, draining: bool = False, is_current: bool = False) -> Said:
    return Said(replace(IDLE, queue_s=queue_s, connections=connections, draining=draining), is_current)


def test_the_least_queued_seconds_win() -> None:
    assert ranked([said(0.3), said(0.1), said(0.2)]) == [1, 2, 0]
    assert ranked([said(0.3, connections=1), said(0.1, connections=60)])[0] == 1


def test_one_that_drains_is_the_last_whatever_its_queue() -> None:
    assert ranked([said(0.0, draining=True), said(5.0), said(9.0)]) == [1, 2, 0]
    assert ranked([said(0.2, draining=True), said(0.1, draining=True)]) == [1, 0]


def test_a_gateway_without_workers_comes_after_those_that_compute() -> None:
    waking = Said(replace(IDLE, gateway=True, workers=0, wanted=2))
    assert ranked([waking, said(9.0)]) == [1, 0]
    assert ranked([waking, Said(replace(IDLE, gateway=True, workers=1))]) == [1, 0]


def test_connections_count_for_each_worker() -> None:
    large = Said(replace(IDLE, gateway=True, workers=4, connections=8))
    assert ranked([large, said(connections=3)]) == [0, 1]
    assert ranked([large, said(connections=1)]) == [1, 0]


def test_where_queues_are_the_same_connections_decide() -> None:
    assert ranked([said(SAME_S / 2, 5), said(0.0, 9), said(0.0, 2)]) == [2, 0, 1]


def test_an_edge_moves_only_where_that_makes_things_more_even() -> None:
    """One of the connections of its own cloud is its own: at 5 to 4 it stays, at 5 to 3 it goes."""
    assert ranked([said(connections=4), said(connections=5, is_current=True)])[0] == 1
    assert ranked([said(connections=3), said(connections=5, is_current=True)])[0] == 0


def test_edges_that_all_come_to_one_cloud_spread_over_two() -> None:
    counts = [8, 0]
    for _ in range(3):
        for edge in range(8):
            ours = 0 if edge < counts[0] else 1
            best = ranked([said(connections=count + 1, is_current=n == ours) for n, count in enumerate(counts)])[0]
            counts[ours] -= 1
            counts[best] += 1
    assert counts == [4, 4]


@given(st.lists(st.builds(said, st.floats(0, 10), st.integers(1, 99), draining=st.booleans()), max_size=9))
def test_everyone_that_has_answered_has_a_rank(answers: list[Said]) -> None:
    order = ranked(answers)
    assert sorted(order) == list(range(len(answers)))
    drains = [answers[number].state.draining for number in order]
    assert drains == sorted(drains)
    if answers and answers[order[0]].takes_new:
        least = min(one.state.queue_s for one in answers if one.takes_new)
        assert answers[order[0]].state.queue_s <= least * (1 + SAME_SHARE) + SAME_S


def test_of_many_two_are_asked_and_the_others_where_those_do_not_do() -> None:
    few, many = list(range(MANY)), list(range(MANY + 3))
    assert sorted(to_ask(few, None)[0]) == few
    first, rest = to_ask(many, None)
    assert (len(first), sorted(first + rest)) == (2, many)
    first, rest = to_ask(many, 5)
    assert (first[0], len(first), sorted(first + rest)) == (5, 3, many)
    drawn = {tuple(sorted(to_ask(many, None)[0])) for _ in range(200)}
    assert len(drawn) > 10


NAMED = [Place("Cloud.Example", 9999), Place("10.0.0.1", 9999), Place("::1", 7000)]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("cloud.example:9999", NAMED[:1]),
        ("10.0.0.1:9999", NAMED[1:2]),
        ("[::1]:7000", NAMED[2:]),
        ("[0:0::0:1]:7000", NAMED[2:]),
        ("10.9.9.9:9999", NAMED[:1]),  # if the name server says that it is one of that name's
    ],
)
def test_a_move_may_lead_to_what_the_user_named(text: str, places: list[Place]) -> None:
    assert named_by(text, NAMED) == places


@pytest.mark.parametrize(
    "text",
    [
        *("evil.example:9999", "10.0.0.1:22", "cloud.example:22", "cloud.example", "10.0.0.1", "10.9.9.9:7000"),
        *("", ":9999", "cloud.example.evil.example:9999", "cloud.example:0", "a b:1", "[::2]:7000", "x" * 2000, "\0:1"),
    ],
)
def test_a_move_leads_nowhere_else(text: str) -> None:
    with pytest.raises(UsageError) as found:
        named_by(text, NAMED)
    assert len(str(found.value)) < 300


def test_moves_are_limited_and_a_flood_is_told() -> None:
    limit = MoveLimit()
    assert [limit.pause_s(100.0) for _ in range(MOVES)] == [0.0] * MOVES
    assert limit.pause_s(100.0) == pytest.approx(1.0)
    assert limit.pause_s(200.0) == 0.0
    limit = MoveLimit()
    assert all(limit.told(0.0) for _ in range(FLOOD))
    assert not limit.told(FLOOD_S / 2)
    assert limit.told(2 * FLOOD_S + 1)
