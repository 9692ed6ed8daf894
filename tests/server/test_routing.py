"""Which worker gets a request: drawn fleets, and the cases that have a name."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgecloud.server.routing import Candidate, Route, Times, choose

SECONDS = st.floats(0.0, 10.0, allow_nan=False)


@st.composite
def fleets(draw: st.DrawFn) -> list[Candidate]:
    count = draw(st.integers(0, 6))
    return [
        Candidate(
            f"w{number}",
            draw(SECONDS),
            draw(st.none() | st.floats(1e-4, 5.0)),
            draw(st.integers(0, 5)),
            draw(st.booleans()),
        )
        for number in range(count)
    ]


@given(fleets(), st.integers(1, 8), st.sets(st.sampled_from([f"w{n}" for n in range(6)])))
def test_it_is_a_worker_that_may_be_asked_and_no_other_is_through_sooner(
    fleet: list[Candidate], batch: int, avoid: set[str]
) -> None:
    able = {each.name: each for each in fleet if each.is_well and each.name not in avoid}
    route = choose(fleet, batch, avoid)
    assert (route is None) == (not able)
    if route is None:
        return
    chosen = able[route.to]
    holders = [each for each in able.values() if each.cost_s is not None]
    if holders:
        assert chosen.cost_s is not None
        assert chosen.in_flight_s + chosen.cost_s == min(each.in_flight_s + (each.cost_s or 0.0) for each in holders)
    else:
        assert chosen.networks == min(each.networks for each in able.values())
    if route.load_on:
        assert able[route.load_on].cost_s is None
        assert holders


@given(fleets(), st.integers(1, 8))
def test_it_does_not_depend_on_the_order(fleet: list[Candidate], batch: int) -> None:
    assert choose(fleet, batch) == choose(fleet[::-1], batch)


@given(st.lists(st.floats(1e-3, 2.0), min_size=1, max_size=60), st.integers(2, 4))
def test_work_is_shared_to_within_one_request(costs: list[float], count: int) -> None:
    """Each request goes where least is in flight, so no worker is behind another by more than the largest one."""
    in_flight = dict.fromkeys((f"w{n}" for n in range(count)), 0.0)
    for cost_s in costs:
        route = choose([Candidate(name, busy_s, cost_s) for name, busy_s in in_flight.items()], 1)
        assert route is not None
        in_flight[route.to] += cost_s
    assert max(in_flight.values()) - min(in_flight.values()) <= max(costs) + 1e-9


def test_one_is_loaded_on_when_the_others_are_more_than_a_batch_behind() -> None:
    holder, spare = Candidate("a", 0.3, 0.1), Candidate("b", 0.0, None)
    assert choose([holder, spare], 4) == Route("a")
    assert choose([replace(holder, in_flight_s=0.51), spare], 4) == Route("a", "b")
    assert choose([replace(holder, in_flight_s=0.21), spare], 1) == Route("a", "b")
    assert choose([replace(holder, in_flight_s=0.51), replace(spare, in_flight_s=0.4)], 4) == Route("a")
    assert choose([replace(holder, in_flight_s=0.51), replace(spare, is_well=False)], 4) == Route("a")


def test_a_slow_worker_gets_less() -> None:
    assert choose([Candidate("fast", 0.2, 0.1), Candidate("slow", 0.0, 1.0)], 1) == Route("fast")
    assert choose([Candidate("fast", 1.2, 0.1), Candidate("slow", 0.0, 1.0)], 1) == Route("slow")


def test_among_equals_it_stays_where_it_was() -> None:
    equal = [Candidate("a", 0.0, 0.1), Candidate("b", 0.0, 0.1)]
    assert choose(equal, 1, likes="b") == Route("b")
    assert choose(equal, 1, avoid={"b"}, likes="b") == Route("a")


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.data())
def test_times_of_ranges_are_sums_of_their_layers(seconds: list[float], data: st.DataObject) -> None:
    times = Times.of(seconds, [0.5] * len(seconds))
    first = data.draw(st.integers(1, len(seconds) - 1))
    expected = sum(seconds[first:]) + 0.5
    assert abs(times.of_layers([(first, len(seconds))]) - expected) < 1e-9
    assert abs(times.of_layers([(0, len(seconds))]) - sum(seconds)) < 1e-9


@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.integers(0, 1 << 62)), max_size=4))
def test_ranges_of_nobody_cost_something_finite(ranges: list[tuple[int, int]]) -> None:
    assert 0.0 <= Times.of([0.1, 0.2, 0.3], [0.0, 0.1, 0.0]).of_layers(ranges) <= 0.6 * len(ranges) + 0.1
