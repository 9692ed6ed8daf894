"""The emulated processor: who waits, and until when."""

import threading
import time

from edgecloud.engine.cpu_share import CpuShare

WORK_S, SHARE = 0.002, 0.1


def test_work_lasts_as_long_as_on_the_slower_processor() -> None:
    share, began = CpuShare(SHARE), time.perf_counter()
    told = share.stretch(began, WORK_S)
    assert time.perf_counter() - began >= told >= WORK_S / SHARE


def test_work_ahead_is_not_waited_for_and_adds_up() -> None:
    share, began = CpuShare(1e-4), time.perf_counter()
    lasts_s = WORK_S / share.share  # 20 s
    with share.ahead() as until:
        assert share.stretch(began, WORK_S) == lasts_s
        assert until() == began + lasts_s
        later = time.perf_counter()
        assert share.stretch(later, WORK_S) == lasts_s
        assert until() == began + 2 * lasts_s
    assert time.perf_counter() - began < lasts_s


def test_what_follows_begins_when_the_slower_processor_is_done() -> None:
    share, began = CpuShare(SHARE), time.perf_counter()
    with share.ahead():
        share.stretch(began, WORK_S)
    share.stretch(time.perf_counter(), WORK_S)
    assert time.perf_counter() - began >= 2 * WORK_S / SHARE


def test_only_the_thread_that_asked_runs_ahead() -> None:
    share = CpuShare(SHARE)
    lasted = []

    def work() -> None:
        began = time.perf_counter()
        share.stretch(began, WORK_S)
        lasted.append(time.perf_counter() - began)

    with share.ahead():
        other = threading.Thread(target=work)
        other.start()
        other.join(10)
    assert lasted[0] >= WORK_S / SHARE


def test_work_that_took_longer_than_its_share_lasts_as_it_took() -> None:
    share, began = CpuShare(1.0), time.perf_counter() - 1
    with share.ahead() as until:
        assert share.stretch(began, WORK_S) >= 1
        assert until() >= began + 1
