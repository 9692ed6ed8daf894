"""Executor, profiles and worker."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecloud.engine.executor import CpuShare, make_executor
from edgecloud.engine.times import measured
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.engine.worker import BusyError, Worker
from edgecloud.models.graph import INPUT
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.predictor import store
from edgecloud.predictor.profile import Profile, ProfileKey
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import DeadlineError, UsageError
from edgecloud.utils.files import write_atomically
from edgecloud.utils.inference_utils import find_device, prepare_device
from tests.conftest import LONG_S, until
from tests.models.test_graph import chain

CPU = torch.device("cpu")
KEY = ProfileKey("m", "g", "w", "cpu x", 1, "torch", "wall", "2")
GRAPH = chain([8, 4, 4])
PROFILE = Profile(KEY, ((0.0, 1.0, 2.0), (0.0, 3.0, 2.0), (0.0, 1.5, 4.0)), {1: (2.5, 2.6, 9.0)})


def test_a_segment_that_was_loaded_is_not_built_again(network: Callable[[str], TorchNetwork]) -> None:
    executor = TorchExecutor(network("le_net"), CPU)
    assert executor.load(frozenset({0, 1})) is executor.load(frozenset({1, 0}))
    assert type(make_executor(network("le_net"), "cpu", backend=executor.backend)) is TorchExecutor


def test_running_does_not_change_the_input(network: Callable[[str], TorchNetwork]) -> None:
    subject = network("alex_net")
    executor = TorchExecutor(subject, CPU)
    x = np.asarray(subject.example.tensor)
    before = x.copy()
    executor.run(executor.load(subject.traced.graph.everything), [x])
    np.testing.assert_array_equal(x, before)


def test_a_slower_processor_takes_longer_in_proportion(network: Callable[[str], TorchNetwork]) -> None:
    subject = network("alex_net")
    torch.set_num_threads(1)
    try:
        executor = TorchExecutor(subject, CPU, CpuShare(0.2))
        part = executor.load(subject.traced.graph.everything)
        x = [np.asarray(subject.example.tensor)]
        executor.run(part, x)
        work_began = time.thread_time()
        ran = executor.run(part, x)
        work = time.thread_time() - work_began
    finally:
        torch.set_num_threads(2)
    assert work / ran.seconds <= 0.25  # of the processor time: what others take from this one only makes it less


def test_a_profile_is_measured_once_and_then_read(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    subject = network("le_net")
    told: list[float] = []
    first = TorchExecutor(subject, CPU).profile(tmp_path, told.append, tails=True)
    assert told
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    layers = len(subject.traced.graph.layers)
    assert len(first.seconds) == len(first.start_s) == layers
    assert first.seconds[INPUT] == first.start_s[INPUT] == 0
    assert all(s > 0 for s in first.seconds[1:])
    assert len(first.passes) >= 5
    again = TorchExecutor(subject, CPU).profile(tmp_path, tails=True)
    assert again.seconds == pytest.approx(first.seconds, abs=1e-8)
    assert set(again.tails) == set(first.tails)


def test_an_emulated_share_divides_the_work(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    subject = network("le_net")
    slow, slower = (measured(TorchExecutor(subject, CPU, CpuShare(share)), tmp_path).seconds for share in (0.1, 0.05))
    assert [2 * s for s in slow] == pytest.approx(slower)


# --- profiles on disk


def test_medians_and_what_a_tail_costs_to_start() -> None:
    assert PROFILE.seconds == (0.0, 1.5, 2.0)
    assert PROFILE.start_s == pytest.approx((0.0, 0.6, 0.0))


def test_the_start_of_a_tail_is_interpolated() -> None:
    profile = Profile(KEY, ((0.0,) + (1.0,) * 8,), {2: (6.4,), 6: (2.0,)})
    assert profile.start_s == pytest.approx((0, 0.2, 0.4, 0.3, 0.2, 0.1, 0, 0, 0))


def test_a_profile_survives_the_disk(tmp_path: Path) -> None:
    store.save(tmp_path, PROFILE, GRAPH)
    assert store.load(tmp_path, KEY, 3) == PROFILE
    assert store.load(tmp_path, replace(KEY, threads=2), 3) is None
    assert [path.suffix for path in (tmp_path / "profiles").iterdir()] == [".json"]


def damaged(text: str) -> dict[str, str]:
    document = json.loads(text)

    def but(**change: Any) -> str:
        return json.dumps(document | change)

    return {
        "empty": "",
        "not json": "{",
        "nesting": "[" * 100_000,
        "a list": "[]",
        "another key": but(key=document["key"] | {"threads": 9}),
        "no passes": but(passes=[]),
        "a layer short": but(passes=[[0.0, 1.0]]),
        "text": but(passes=[[0.0, "1", 2.0]]),
        "negative": but(passes=[[0.0, -1.0, 2.0]]),
        "infinite": but(passes=[[0.0, math.inf, 2.0]]),
        "no tails": but(tails=None),
        "a tail of nothing": but(tails={"1": []}),
        "a tail of no layer": but(tails={"7": [1.0]}),
        "a tail with a name": but(tails={"x": [1.0]}),
    }


def test_a_damaged_profile_is_moved_aside_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.save(tmp_path, PROFILE, GRAPH)
    path = store.path_of(tmp_path, KEY)
    text = path.read_text()
    contents = damaged(text) | {f"cut at {n}": text[:n] for n in range(0, len(text), 7)}
    for name, content in contents.items():
        path.write_text(content)
        caplog.clear()
        assert store.load(tmp_path, KEY, 3) is None, name
        assert "damaged" in caplog.text, name
        assert not path.exists(), name
        assert path.with_suffix(".bad").read_text() == content, name


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profiles").write_text("a file where the folder should be")
    store.save(tmp_path, PROFILE, GRAPH)
    assert "cannot save" in caplog.text


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    write_atomically(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgecloud.utils.files.os.fsync", full)
    with pytest.raises(OSError, match="space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- the worker


def soon(seconds: float = LONG_S) -> Deadline:
    return Deadline.after(seconds, "the test")


@contextmanager
def held(worker: Worker) -> Iterator[None]:
    """Let everything that comes meanwhile wait in line."""
    started, release = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        release.wait(LONG_S)

    holder = threading.Thread(target=worker.run, args=(hold, soon()))
    holder.start()
    assert started.wait(LONG_S)
    try:
        yield
    finally:
        release.set()
        holder.join()


def test_jobs_run_one_after_the_other_and_report_their_wait() -> None:
    worker = Worker(8)
    running = threading.Semaphore(1)

    def job() -> bool:
        alone = running.acquire(blocking=False)
        time.sleep(0.05)
        running.release()
        return alone

    results: list[tuple[bool, float]] = []
    threads = [threading.Thread(target=lambda: results.append(worker.run(job, soon()))) for _ in range(4)]
    with held(worker):
        for thread in threads:
            thread.start()
        until(lambda: worker.waiting == len(threads))
    for thread in threads:
        thread.join()
    assert all(alone for alone, _ in results)
    assert max(waited for _, waited in results) > 0.1
    assert worker.queue_s > 0
    worker.close(LONG_S)


def test_a_wait_that_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecloud.engine.worker.HALF_LIFE_S", 0.05)
    worker = Worker(8)
    jobs = [threading.Thread(target=worker.run, args=(lambda: time.sleep(0.1), soon())) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    until(lambda: worker.queue_s < 1e-3)
    worker.close(LONG_S)


def test_closing_does_not_wait_for_the_line() -> None:
    worker = Worker(4)
    refused: list[BusyError] = []

    def wait_in_line() -> None:
        try:
            worker.run(lambda: 1, soon())
        except BusyError as error:
            refused.append(error)

    waiting = [threading.Thread(target=wait_in_line) for _ in range(3)]
    with held(worker):
        for thread in waiting:
            thread.start()
        until(lambda: worker.waiting == len(waiting))
        worker.close(0.1)  # what runs goes on
        for thread in waiting:
            thread.join(LONG_S)
            assert not thread.is_alive()
    assert len(refused) == 3


def test_a_full_queue_is_busy_and_a_late_turn_is_a_deadline() -> None:
    worker = Worker(1)
    with held(worker):
        with pytest.raises(DeadlineError):
            worker.run(lambda: 1, soon(0.2))
        with pytest.raises(BusyError, match="--max-queue"):
            worker.run(lambda: 1, soon())
    assert worker.run(lambda: 1, soon())[0] == 1
    worker.close(LONG_S)


def test_an_error_comes_back_to_whoever_asked() -> None:
    worker = Worker(1)
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0, soon())
    assert worker.run(lambda: 2, soon())[0] == 2
    worker.close(LONG_S)


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps", "tpu", "", "xpu", "gpu0"])
def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UsageError):
        find_device(name)


def test_a_cuda_device_computes_float32_as_float32() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        prepare_device(torch.device("cuda"))  # needs no such device: these are settings of the process
        assert not matmul.allow_tf32
        assert not cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
