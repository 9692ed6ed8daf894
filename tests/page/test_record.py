"""What is kept of what happened: so much and no more, with numbers, from several threads."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from edgecloud.page.record import Record


@given(st.integers(0, 30), st.integers(1, 8), st.integers(0, 40), st.integers(1, 12))
def test_what_is_asked_for_is_the_end_of_all_that_was_added(added: int, size: int, after: int, most: int) -> None:
    record: Record[int] = Record(size)
    for number in range(1, added + 1):
        record.add(number)
    expected = [number for number in range(1, added + 1) if number > after][-min(size, most) :]
    assert record.since(after, most) == [(number, number) for number in expected]
    assert record.count == added


def test_several_threads_add_and_none_is_lost() -> None:
    record: Record[int] = Record(5000)

    def add() -> None:
        for _ in range(1000):
            record.add(1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [number for number, _ in record.since(0, 5000)]
    assert numbers == list(range(1, 4001))
