"""Minimum cuts of small networks: equal to scipy's, and to trying every set of vertices."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.partition.flow import NEVER, Network

Arcs = list[tuple[int, int, float, float]]


def networks(size: int) -> st.SearchStrategy[Arcs]:
    """Arcs between so many vertices, with the capacities of both ways; the last vertex is the sink."""
    vertex, capacity = st.integers(0, size - 1), st.sampled_from([0.0, 0.1, 1.0, 2.5, 7.0, 1e6])
    arc = st.tuples(vertex, vertex, capacity, capacity).filter(lambda each: each[0] != each[1])
    return st.lists(arc, max_size=3 * size)


def cut(size: int, arcs: Arcs, most: float = NEVER) -> tuple[float, frozenset[int]] | None:
    network = Network(size, size - 1)
    for begin, end, _, _ in arcs:
        network.join(begin, end)
    return network.cut([capacity for arc in arcs for capacity in arc[2:]], most, 1e-9)


def value(arcs: Arcs, side: frozenset[int]) -> float:
    """What is cut between a side and the rest."""
    there = sum(forth for a, b, forth, _ in arcs if a in side and b not in side)
    return there + sum(back for a, b, _, back in arcs if b in side and a not in side)


@given(networks(6))
def test_no_set_of_vertices_is_cut_off_for_less(arcs: Arcs) -> None:
    sides = [frozenset((0, *inside)) for count in range(5) for inside in itertools.combinations(range(1, 5), count)]
    found = cut(6, arcs)
    assert found is not None
    least, side = found
    assert least == pytest.approx(min(value(arcs, other) for other in sides), abs=1e-9)
    assert value(arcs, side) == pytest.approx(least, abs=1e-9)
    assert len(side) == min(len(other) for other in sides if value(arcs, other) <= least + 1e-9)


@given(networks(30))
def test_the_value_is_that_of_another_solver(arcs: Arcs) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    arcs = [(a, b, float(round(forth)), float(round(back))) for a, b, forth, back in arcs]
    both = [(a, b, forth) for a, b, forth, _ in arcs] + [(b, a, back) for a, b, _, back in arcs]
    rows, columns, capacities = zip(*both, strict=True) if both else ((), (), ())
    expected = maximum_flow(coo_array((capacities, (rows, columns)), shape=(30, 30)).astype("int32").tocsr(), 0, 29)
    found = cut(30, arcs)
    assert found is not None
    assert found[0] == expected.flow_value
    assert value(arcs, found[1]) == found[0]


def test_a_search_ends_where_the_value_is_too_much() -> None:
    arcs = [(0, 1, 2.0, 0.0), (1, 2, 3.0, 0.0)]
    assert cut(3, arcs, most=2.0) is None
    assert cut(3, arcs, most=2.1) == (2.0, frozenset({0}))
    assert cut(3, [], most=1.0) == (0.0, frozenset({0}))
