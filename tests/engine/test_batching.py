"""The cloud's lines: turns, room, batches; and the worker that serves them."""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.engine.batching import FairQueue
from edgecloud.engine.load import LoadMeter
from edgecloud.engine.worker import BusyError, Job, Worker
from edgecloud.utils.deadline import Deadline
from tests.conftest import LONG_S, until


@dataclass(frozen=True)
class Item:
    edge: str
    key: str | None
    number: int


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline.after(seconds, "the test")


ITEMS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["x", "y", None])), max_size=40)


@given(ITEMS, st.integers(1, 8), st.integers(1, 6))
def test_everybody_is_served_once_in_turns_and_in_order(pairs: list[tuple[str, str]], room: int, batch: int) -> None:
    queue: FairQueue[Item] = FairQueue(room)
    accepted = []
    for number, (edge, key) in enumerate(pairs):
        item = Item(edge, key, number)
        taken, gone = queue.put(item)
        accepted += [item] if taken else []
        if gone is not None:
            accepted.remove(gone)
        assert len(queue) == len(accepted) <= room
    served = []
    while found := queue.take(batch):
        assert len(found) <= batch
        assert len({item.key for item in found}) == 1
        assert len(found) == 1 or found[0].key is not None
        served += found
    assert sorted(served, key=lambda item: item.number) == accepted
    for edge in "abcd":
        numbers = [item.number for item in served if item.edge == edge]
        assert numbers == sorted(numbers)


def test_a_greedy_client_starves_nobody() -> None:
    queue: FairQueue[Item] = FairQueue(8)
    for number in range(8):
        assert queue.put(Item("greedy", None, number)) == (True, None)
    assert queue.put(Item("greedy", None, 8)) == (False, None)
    for number in range(4):
        taken, gone = queue.put(Item("modest", None, number))
        assert taken
        assert gone == Item("greedy", None, 7 - number)
    assert queue.put(Item("modest", None, 4)) == (False, None)  # by now it has as much as the other
    order = [queue.take(1)[0].edge for _ in range(8)]
    assert Counter(order[:2]) == Counter(order[2:4]) == {"greedy": 1, "modest": 1}


def test_a_client_that_left_is_dropped() -> None:
    queue: FairQueue[Item] = FairQueue(8)
    for number in range(3):
        queue.put(Item("a", "x", number))
        queue.put(Item("b", "x", number))
    assert [item.number for item in queue.drop("a")] == [0, 1, 2]
    assert queue.drop("a") == []
    assert [item.edge for item in queue.take(8)] == ["b", "b", "b"]


def test_requests_that_go_together_are_computed_together() -> None:
    worker = Worker(32, max_batch=4)
    sizes: list[int] = []
    blocked = threading.Event()

    def work(items: Any) -> list[int]:
        sizes.append(len(items))
        return [10 * item for item in items]

    other = Job(lambda _: [blocked.wait(LONG_S)], None, soon(), edge="other")
    worker.submit(other)
    until(lambda: not worker.waiting)  # it runs, and the others have to wait in line
    jobs = [Job(work, number, soon(), edge=number % 3, key="k") for number in range(9)]
    for job in jobs:
        worker.submit(job)
    blocked.set()
    assert [job.future.result(LONG_S)[0] for job in jobs] == [10 * number for number in range(9)]
    assert sizes == [4, 4, 1]
    worker.close(LONG_S)


def test_an_idle_worker_waits_for_more_and_a_busy_one_does_not() -> None:
    worker = Worker(32, max_batch=2, max_wait_s=LONG_S)
    sizes: list[int] = []

    def work(items: Any) -> list[None]:
        sizes.append(len(items))
        return [None] * len(items)

    first, second = (Job(work, None, soon(3 * LONG_S), edge=name, key="k") for name in "ab")
    worker.submit(first)
    until(lambda: not worker.waiting)
    worker.submit(second)
    first.future.result(LONG_S)
    assert sizes == [2]
    other = Job(lambda _: [None], None, soon(3 * LONG_S), edge="c")
    alone = Job(work, None, soon(3 * LONG_S), edge="a", key="k")
    worker.submit(alone)
    until(lambda: not worker.waiting)
    worker.submit(other)
    alone.future.result(LONG_S / 2)
    assert sizes == [2, 1]
    worker.close(LONG_S)


def test_waiting_for_more_costs_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecloud.engine.worker.SPARE_S", 10.0)  # of which a loaded machine needs less than this
    worker = Worker(32, max_batch=8, max_wait_s=LONG_S)
    job = Job(lambda items: [None] * len(items), None, soon(10.2), edge="a", key="k")
    worker.submit(job)
    assert job.future.result(LONG_S) is not None
    worker.close(LONG_S)


def test_a_busy_worker_says_when_to_come_back() -> None:
    worker = Worker(1)
    blocked = threading.Event()
    running = Job(lambda _: [blocked.wait(LONG_S)], None, soon(), edge="a")
    worker.submit(running)
    until(lambda: not worker.waiting)
    waiting, refused = (Job(lambda _: [None], None, soon(), edge="a") for _ in range(2))
    worker.submit(waiting)
    worker.submit(refused)
    error = refused.future.exception(LONG_S)
    assert isinstance(error, BusyError)
    assert error.retry_after_s > 0
    blocked.set()
    waiting.future.result(LONG_S)
    worker.close(LONG_S)


def test_load_is_what_work_takes_beyond_an_idle_cloud_and_is_forgotten() -> None:
    now = 0.0
    meter = LoadMeter(lambda: now)
    assert meter.load == pytest.approx(1, abs=1e-3)
    for _ in range(30):
        meter.record(0.3, 0.1)
    assert meter.load == pytest.approx(3, rel=0.01)
    meter.record(1.0, 1e-6)  # too short to say anything
    assert meter.load == pytest.approx(3, rel=0.01)
    for _ in range(3):
        meter.record(10.0, 0.1)  # a hiccup
    assert meter.load == pytest.approx(3, rel=0.01)
    now = 100.0
    assert meter.load == pytest.approx(1, abs=0.01)
    for _ in range(30):
        meter.record(0.05, 0.1)  # faster than when it was measured is not negative load
    assert meter.load == pytest.approx(1, abs=1e-3)


def test_short_pieces_of_work_do_not_look_like_load() -> None:
    """Every run costs something that no layer does; of a tail of a tenth of a millisecond that is most."""
    meter = LoadMeter(lambda: 0.0)
    for _ in range(30):
        meter.record(0.00075, 0.0001)
    assert meter.load == pytest.approx(1, abs=0.05)
    for _ in range(30):
        meter.record(5.8, 0.1)
    assert meter.load == 20  # and there is an end to it


def test_what_computes_most_says_most_about_the_load() -> None:
    meter = LoadMeter(lambda: 0.0)
    for _ in range(7):
        meter.record(0.02, 0.0001)
        meter.record(0.2, 0.1)
    assert meter.load == pytest.approx(2, rel=0.05)
