"""The noisy neighbour of benchmarks: the same bursts for the same seed, and it really takes the time."""

import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.neighbour import LEAST_S, LEAST_SHARE, MOST_S, MOST_SHARE, bursts, share_at, take_core
from tests.conftest import LONG_S, until


@given(st.integers(0, 1 << 30))
def test_bursts_are_those_of_the_seed(seed: int) -> None:
    found = list(islice(bursts(seed), 20))
    assert found == list(islice(bursts(seed), 20))
    assert all(LEAST_S <= burst.end_s - burst.begin_s <= MOST_S for burst in found)
    assert all(LEAST_SHARE <= burst.share <= MOST_SHARE for burst in found)
    for before, after in pairwise(found):
        assert LEAST_S <= after.begin_s - before.end_s <= MOST_S
        assert share_at(found, (before.end_s + after.begin_s) / 2) == 0
        assert share_at(found, (before.begin_s + before.end_s) / 2) == before.share


def test_a_core_is_taken_until_nothing_more_is_said() -> None:
    over = threading.Event()
    worked_s: list[float] = []

    def has_worked() -> bool:
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0)) > 0.01

    def shares() -> Iterator[str]:
        yield "0.9\n"
        over.wait(LONG_S)

    def take() -> None:
        began = time.thread_time()
        take_core(0, shares())
        worked_s.append(time.thread_time() - began)

    thread = threading.Thread(target=take)
    thread.start()
    until(has_worked)
    over.set()
    until(lambda: not thread.is_alive())
    assert worked_s[0] > 0.005
