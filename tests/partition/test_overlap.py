"""Boundaries in chunks: what they may be."""

import pytest

from edgecloud.partition.overlap import Overlap, Slices


def test_slices_follow_each_other_and_add_up() -> None:
    slices = Slices(3, 2, (2, 5, 8))
    assert [slices.bounds(index) for index in range(len(slices))] == [(0, 2), (2, 5), (5, 8)]
    assert slices.size == 8
    assert slices.shares() == (0.25, 0.375, 0.375)


@pytest.mark.parametrize(("axis", "ends"), [(0, (1,)), (-1, (1,)), (2, ()), (2, (0, 1)), (2, (2, 2)), (2, (3, 1))])
def test_slices_that_are_none(axis: int, ends: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"axis|ends"):
        Slices(0, axis, ends)


def test_chunks_leave_one_tensor_after_the_other_unless_told_otherwise() -> None:
    slices = (Slices(1, 2, (1, 4)), Slices(7, 1, (3,)))
    assert list(Overlap(slices).chunks()) == [(0, 0), (0, 1), (1, 0)]
    order = ((0, 0), (1, 0), (0, 1))
    assert list(Overlap(slices, order=order).chunks()) == list(order)
    assert Overlap(slices).count == 3


@pytest.mark.parametrize(
    "order", [((0, 0),), ((0, 1), (0, 0), (1, 0)), ((0, 0), (0, 1), (1, 0), (1, 0)), ((0, 0), (0, 1), (2, 0))]
)
def test_an_order_has_every_chunk_once_and_no_tensor_backwards(order: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="order of chunks"):
        Overlap((Slices(1, 2, (1, 4)), Slices(7, 1, (3,))), order=order)


def test_a_tensor_leaves_once() -> None:
    with pytest.raises(ValueError, match="each once"):
        Overlap((Slices(1, 2, (4,)), Slices(1, 2, (4,))))
    with pytest.raises(ValueError, match="one tensor or more"):
        Overlap(())


def test_as_json() -> None:
    assert Overlap((Slices(4, 2, (3, 6)),), tail_rows=True).to_json("conv{}".format) == {
        "slices": [{"layer": "conv4", "axis": 2, "ends": [3, 6]}],
        "head_rows": False,
        "tail_rows": True,
    }
