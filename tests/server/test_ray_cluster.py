"""What Ray's nodes have room for, what a worker is given, and what --workers ray takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.server.ray_cluster import Share, count_of, pause_s, room, share_of, surplus
from edgecloud.server.ray_placement import address_of
from edgecloud.utils.errors import UsageError


def node(*, is_alive: bool = True, **resources: float) -> dict[str, object]:
    return {"Alive": is_alive, "Resources": resources}


@pytest.mark.parametrize(
    ("share", "nodes", "workers"),
    [
        (Share(1), [node(CPU=4.0), node(CPU=2.0)], 6),
        (Share(2), [node(CPU=3.0), node(CPU=3.0)], 2),  # a worker is on one node
        (Share(0.5), [node(CPU=1.0)], 2),
        (Share(0.1), [node(CPU=0.3)], 3),
        (Share(1, 1), [node(CPU=8.0, GPU=2.0), node(CPU=8.0)], 2),
        (Share(0, 0.5), [node(GPU=1.0)], 2),
        (Share(1), [node(CPU=4.0), node(is_alive=False, CPU=4.0)], 4),
        (Share(1), [node(CPU=0.0)], 1),  # Ray starts a node for it, if it can
        (Share(1), [], 1),
    ],
)
def test_room(share: Share, nodes: list[dict[str, object]], workers: int) -> None:
    assert room(nodes, share) == workers


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "on_gpu", "expected"),
    [
        ("", "", None, False, Share(1.0, 0.0)),
        ("", "", 4, False, Share(4.0, 0.0)),
        ("2", "", 4, False, Share(2.0, 0.0)),
        ("0.5", "", None, False, Share(0.5, 0.0)),
        ("", "", None, True, Share(1.0, 1.0)),
        ("0", "0.25", None, True, Share(0.0, 0.25)),
    ],
)
def test_share(cpus: str, gpus: str, threads: int | None, on_gpu: bool, expected: Share) -> None:
    assert share_of(cpus, gpus, threads=threads, is_on_gpu=on_gpu) == expected


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "nan", "inf", "1e9", "1/2"])
def test_a_share_is_a_whole_number_or_a_part_of_one(text: str) -> None:
    with pytest.raises(UsageError, match="give a whole number, or a part of 1"):
        share_of(text, "", threads=None, is_on_gpu=False)
    with pytest.raises(UsageError, match="--ray-gpus"):
        share_of("", text, threads=None, is_on_gpu=False)


def test_a_worker_is_given_something() -> None:
    with pytest.raises(UsageError, match="needs a share"):
        share_of("0", "", threads=None, is_on_gpu=False)


def test_threads_are_the_cores() -> None:
    assert [Share(cpus).threads for cpus in (0.0, 0.5, 1.0, 4.0)] == [1, 1, 1, 4]


@pytest.mark.parametrize(("text", "count"), [("", None), ("1", 1), ("16", 16)])
def test_count(text: str, count: int | None) -> None:
    assert count_of(text) == count


@pytest.mark.parametrize("text", ["0", "-2", "x", "1.5", "99999999999999999999", "²"])
def test_a_count_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="give a number of workers"):
        count_of(text)


@pytest.mark.parametrize("text", ["", "auto", "local", "10.0.0.1:6379", "head:6379", "[fd00::1]:6379"])
def test_address(text: str) -> None:
    assert address_of(text) == text


@pytest.mark.parametrize("text", ["head", "ray://head:10001", "10.0.0.1:x", "10.0.0.1:0"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        address_of(text)


def test_pauses_grow_and_end() -> None:
    assert [pause_s(failures) for failures in (0, 1, 2, 3, 6, 1000)] == [0.0, 1.0, 2.0, 4.0, 30.0, 30.0]


@given(st.sets(st.integers(0, 50)), st.integers(1, 60), st.data())
def test_those_that_serve_are_the_last_to_go(numbers: set[int], wanted: int, data: st.DataObject) -> None:
    serving = data.draw(st.sets(st.sampled_from(sorted(numbers)))) if numbers else set()
    waiting = numbers - serving
    gone = surplus(waiting, serving, wanted)
    assert len(gone) == max(0, len(numbers) - wanted) == len(set(gone))
    assert set(gone) <= numbers
    assert not (set(gone) & serving) or waiting <= set(gone)
