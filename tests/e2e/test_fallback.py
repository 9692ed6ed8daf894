"""Clouds that die, hang, refuse and come back: every inference is answered, rightly, and by its deadline."""

import itertools
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgecloud.client.edge import Answered, Edge
from edgecloud.client.fallback import RETRIES, reserve_s
from edgecloud.client.resilient import ResilientClient
from edgecloud.engine.answers import matches
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.lab.link_shape import LinkShape
from edgecloud.lab.relay import Relay
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork, whole_answer
from edgecloud.models.zoo.le_net import LeNet
from edgecloud.net.connection import Connection
from edgecloud.net.frames import FrameType, Limits
from edgecloud.net.messages import Error, Infer, Ready, Result, State
from edgecloud.net.server import Peer, Server
from edgecloud.net.tensors import Array
from edgecloud.partition.cost import parts_of
from edgecloud.utils.deadline import Deadline
from tests.conftest import LONG_S, CallEdge, CloudProcess, at, run_edge, running_cloud, until

MBIT = 1e6 / 8
LATE_S = 15.0  # what a loaded machine may add to anything; less than TIMEOUT_S
TIMEOUT_S = 30.0  # where a test is not about it

# --- an edge, and clouds that are real processes


@contextmanager
def relay(port: int, shape: LinkShape) -> Iterator[Relay]:
    link = Relay(("127.0.0.1", port), shape)
    thread = threading.Thread(target=link.serve)
    thread.start()
    try:
        yield link
    finally:
        link.stop()
        thread.join(10)


class Subject:
    """A steady edge with le_net, and what its answers should be."""

    def __init__(
        self, network: TorchNetwork, port: int, timeout_s: float, point: int, edge_s: float, waiting_s: float
    ) -> None:
        self.edge = Edge(registry.lookup("le_net"), network, TorchExecutor(network, torch.device("cpu")))
        self.edge.connect("127.0.0.1", port, "", 60.0)
        assert self.edge.cloud is not None
        self.cloud = self.edge.cloud
        self.parts = parts_of(self.edge.graph, self.edge.graph.head_at(point))
        self.timeout_s = timeout_s
        count = len(self.edge.graph.layers)
        self.steady = ResilientClient(self.edge, self.cloud, timeout_s, [edge_s] * count, {self.parts: waiting_s})
        self.x = np.asarray(network.example.tensor)
        self.expected = whole_answer(network.loaded.model, network.example.tensor)

    def infer(self) -> Answered:
        """One inference, which has to be right and in time."""
        answered = self.steady.infer(self.x, self.parts)
        assert matches(answered.outputs, self.expected)
        assert answered.measured.total_s <= self.timeout_s + LATE_S
        assert (answered.fallback is None) == (answered.completed_by != "fallback")
        return answered

    def until_split(self, seconds: float) -> float:
        """Go on until the cloud takes part again; returns how long that took. No inference waits for it."""
        began = time.monotonic()
        while (answered := self.infer()).completed_by == "fallback":
            assert time.monotonic() - began < seconds
            assert answered.measured.total_s < LATE_S
            time.sleep(0.02)
        return time.monotonic() - began


Make = Callable[..., Subject]


@pytest.fixture
def subject(network: Callable[[str], TorchNetwork], monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Subject] = []
    monkeypatch.setattr(
        "edgecloud.client.connection_manager.AGAIN_S", 20.0
    )  # a new connection is there in time on any machine

    def make(
        port: int, timeout_s: float = TIMEOUT_S, point: int = 3, edge_s: float = 0.001, waiting_s: float = 0.01
    ) -> Subject:
        made.append(Subject(network("le_net"), port, timeout_s, point, edge_s, waiting_s))
        return made[-1]

    yield make
    for each in made:
        each.edge.close()


def test_a_killed_cloud_costs_no_answer_and_is_used_again_when_it_is_back(cache: Path, subject: Make) -> None:
    """Killed in the middle of an upload, then while it computes; between them there is another one on its port."""
    with ExitStack() as stack:
        with running_cloud(cache) as cloud:
            link = stack.enter_context(relay(cloud.port, LinkShape(0.03 * MBIT, 50 * MBIT)))
            found = subject(link.address[1])
            assert found.infer().completed_by == "split"  # its 4.7 kB take 1.3 s
            os.kill(cloud.process.pid, signal.SIGSTOP)  # so that it does not answer, should the timer be late
            timer = threading.Timer(0.3, cloud.kill)
            timer.start()
            answered = found.infer()
            timer.join()
            assert answered.fallback is not None
            assert answered.fallback.after_s < TIMEOUT_S / 2  # noticed, not waited for
            assert found.infer().requests == 0  # it is away: nothing is tried
        with running_cloud(cache, "-p", str(cloud.port)) as cloud:
            found.until_split(LONG_S)
            assert found.cloud.reconnects == 1
            os.kill(cloud.process.pid, signal.SIGSTOP)  # what is sent now is taken, and not answered
            timer = threading.Timer(1.8, cloud.kill)
            timer.start()
            answered = found.infer()
            timer.join()
            assert answered.fallback is not None
            assert answered.fallback.after_s < TIMEOUT_S / 2


def test_a_cloud_with_other_weights_is_not_gone_back_to(cache: Path, subject: Make, tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_file(LeNet().state_dict(), tmp_path / "w.safetensors")
    with running_cloud(cache) as cloud:
        found = subject(cloud.port)
        assert found.infer().completed_by == "split"
        cloud.kill()
        answered = found.infer()
        assert answered.fallback is not None
        assert "no cloud at" in answered.fallback.reason
        assert answered.fallback.after_s < TIMEOUT_S / 2
    with running_cloud(cache, "-p", str(cloud.port), "--weights", f"le_net={tmp_path / 'w.safetensors'}"):
        reasons: list[str] = []

        def is_refused() -> bool:
            answered = found.infer()
            assert answered.fallback is not None
            reasons.append(answered.fallback.reason)
            return "weights differ" in reasons[-1]

        until(is_refused, 2 * LONG_S)  # it measures them first
        assert found.cloud.reconnects == 0


def test_sigterm_under_load_costs_no_answer(cache: Path, subject: Make) -> None:
    with running_cloud(cache) as cloud:
        found = subject(cloud.port)
        ways = [found.infer().completed_by]
        threading.Timer(0.2, cloud.stop).start()
        ways += [found.infer().completed_by for _ in range(300)]
        cloud.process.wait(LONG_S)
        ways.append(found.infer().completed_by)
        assert {"split", "fallback"} == set(ways)


@pytest.mark.parametrize("cut_at", [900, 1500, 2500, 3400])
def test_a_link_that_is_cut_on_the_way_up(cut_at: int, cloud: CloudProcess, subject: Make) -> None:
    """Each connection breaks at this byte: the request is repeated on new ones, then the edge does it."""
    with relay(cloud.port, LinkShape(5 * MBIT, 5 * MBIT, 0.002, cut_at=cut_at)) as link:
        found = subject(link.address[1], point=0)
        answered = found.infer()
        assert answered.completed_by == "fallback"
        assert answered.requests == 1 + RETRIES
        assert found.infer().requests == 0


@pytest.mark.parametrize("further", [1, 60, 200])
def test_a_link_that_is_cut_on_the_way_down(further: int, cloud: CloudProcess, subject: Make) -> None:
    with relay(cloud.port, LinkShape(5 * MBIT, 5 * MBIT)) as link:
        greeting = subject(link.address[1]).cloud.client
        assert greeting is not None
    cut_at = greeting.connection.received_bytes + further
    with relay(cloud.port, LinkShape(5 * MBIT, 5 * MBIT, cut_down_at=cut_at)) as link:
        found = subject(link.address[1])
        answered = found.infer()
        assert answered.completed_by == "fallback"
        assert 1 <= answered.requests <= 1 + RETRIES  # some break in the greeting


def test_a_connection_that_breaks_once_is_repeated_and_nobody_notices(cloud: CloudProcess, subject: Make) -> None:
    with relay(cloud.port, LinkShape(50 * MBIT, 50 * MBIT, cut_at=9000)) as link:
        found = subject(link.address[1])
        before = [found.infer() for _ in range(6)]  # of some 4.9 kB each: the second one of every connection breaks
        assert {answered.completed_by for answered in before} == {"split"}
        assert sum(answered.requests for answered in before) > len(before)
        assert found.cloud.reconnects > 0


def test_a_frozen_link_is_answered_by_the_deadline_and_left_alone(cloud: CloudProcess, subject: Make) -> None:
    with relay(cloud.port, LinkShape(50 * MBIT, 50 * MBIT)) as link:
        found = subject(link.address[1], timeout_s=1.0)
        found.until_split(LONG_S)
        link.freeze(4.0)
        answered = found.infer()
        assert answered.fallback is not None  # had it waited for longer, the cloud's answer would have come
        assert answered.fallback.after_s > 0.8
        assert [found.infer().requests for _ in range(5)] == [0] * 5
        found.until_split(LONG_S)


def test_the_wait_ends_so_early_that_the_rest_still_fits(cloud: CloudProcess, subject: Make) -> None:
    with relay(cloud.port, LinkShape(50 * MBIT, 50 * MBIT)) as link:
        found = subject(link.address[1], timeout_s=6.0, edge_s=0.35)  # nine layers of the tail: 3.15 s
        link.freeze(1000.0)
        answered = found.infer()
        assert answered.fallback is not None
        wait_s = 6.0 - reserve_s(9 * 0.35)
        assert wait_s - 0.05 < answered.fallback.after_s < 6.0
        tight = subject(cloud.port, timeout_s=8.0, edge_s=0.3, waiting_s=7.0)  # only the tail can be in time
        answered = tight.infer()
        assert answered.requests == 0
        assert answered.fallback is not None
        assert "not enough time left" in answered.fallback.reason
        assert tight.cloud.is_connected  # which has done nothing wrong
        hopeless = subject(cloud.port, edge_s=TIMEOUT_S)
        assert hopeless.infer().completed_by == "split"


def test_a_connection_that_was_forgotten_while_idle_is_made_anew(
    cloud: CloudProcess, subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an address translator does it: no end, no reset, just silence."""
    monkeypatch.setattr("edgecloud.client.connection_manager.IDLE_S", 2.0)
    monkeypatch.setattr("edgecloud.client.connection_manager.IDLE_ANSWER_S", 3.0)  # one that is there has answered
    with relay(cloud.port, LinkShape(50 * MBIT, 50 * MBIT, forget_s=2.0)) as link:
        found = subject(link.address[1])
        assert found.infer().completed_by == "split"
        before = found.cloud.reconnects
        time.sleep(2.5)
        answered = found.infer()
        assert (answered.completed_by, found.cloud.reconnects > before) == ("split", True)
        assert answered.measured.total_s < TIMEOUT_S / 2


# --- clouds that refuse, in this process


class FakeCloud:
    """Greets, and does with the n-th request what `script` says: answers it, or sends an error."""

    def __init__(self, network: TorchNetwork, script: Callable[[int], Error | None]) -> None:
        self._executor = TorchExecutor(network, torch.device("cpu"))
        self._script = script
        self.asked: list[float] = []
        self.greeted = 0
        self._server = Server("127.0.0.1", 0, self._converse, Limits(), drain_s=0.1)
        self.port = self._server.open()[1]
        self._thread = threading.Thread(target=self._server.serve)
        self._thread.start()

    def _converse(self, peer: Peer) -> None:
        times = [0.0] * len(self._executor.traced.graph.layers)
        while True:
            frame = peer.connection.receive(Deadline.after(30, "the test"))
            soon = Deadline.after(10, "the test")
            if frame.kind is FrameType.HELLO:
                self.greeted += 1
                peer.connection.send(Ready(times, times, 0.0, "cpu", ["raw"], 1 << 20, "measured"), soon)
            elif frame.kind is FrameType.STATUS:
                peer.connection.send(State(1.0, 0.0, 0, 32, 1), soon)
            else:
                self._answer(peer.connection, frame.read(Infer), frame.arrays(), soon)

    def _answer(self, connection: Connection, request: Infer, arrays: list[Array], soon: Deadline) -> None:
        self.asked.append(time.monotonic())
        error = self._script(len(self.asked))
        if error is None:
            layers = frozenset(n for start, stop in request.layers for n in range(start, stop))
            ran = self._executor.run(self._executor.load(layers), arrays)
            connection.send(Result(request.id, 0.0, ran.seconds), soon, ran.arrays)
        elif error.id:
            connection.send(Error(error.code, error.text, request.id, error.retry_after_s), soon)
        else:
            connection.refuse(error, 1.0)

    def close(self) -> None:
        self._server.stop()
        self._thread.join(10)


@pytest.fixture
def fake(network: Callable[[str], TorchNetwork]) -> Iterator[Callable[[Callable[[int], Error | None]], FakeCloud]]:
    with ExitStack() as stack:

        def make(script: Callable[[int], Error | None]) -> FakeCloud:
            made = FakeCloud(network("le_net"), script)
            stack.callback(made.close)
            return made

        yield make


MakeFake = Callable[[Callable[[int], Error | None]], FakeCloud]
BUSY = Error("BUSY", "the queue is full", 1, 0.2)
INTERNAL = Error("INTERNAL", "the cloud failed on this request")


def test_a_busy_cloud_is_asked_again_when_it_said(fake: MakeFake, subject: Make) -> None:
    cloud = fake(lambda number: BUSY if number <= 2 else None)
    found = subject(cloud.port)
    answered = found.infer()
    assert (answered.completed_by, answered.requests) == ("split", 3)
    assert all(b - a >= 0.2 for a, b in zip(cloud.asked, cloud.asked[1:], strict=False))
    assert cloud.greeted == 1  # on the same connection


def test_a_cloud_that_is_always_busy_is_left_alone_after_five_refusals(fake: MakeFake, subject: Make) -> None:
    cloud = fake(lambda number: Error("BUSY", "full", 1, 0.01) if number <= 5 else None)
    found = subject(cloud.port)
    first, second, third = (found.infer() for _ in range(3))
    assert [a.completed_by for a in (first, second, third)] == ["fallback"] * 3
    assert [a.requests for a in (first, second, third)] == [1 + RETRIES, 1, 0]
    found.until_split(LONG_S)


def test_no_retry_is_begun_that_would_not_fit(fake: MakeFake, subject: Make) -> None:
    found = subject(fake(lambda _: Error("BUSY", "full", 1, 5.0)).port, timeout_s=4.5)
    answered = found.infer()
    assert (answered.completed_by, answered.requests) == ("fallback", 1)
    assert answered.measured.total_s < 4.0


def test_a_cloud_that_fails_inside_is_not_asked_the_same_again(fake: MakeFake, subject: Make) -> None:
    cloud = fake(lambda _: INTERNAL)
    found = subject(cloud.port)
    answered = found.infer()
    assert (answered.completed_by, answered.requests) == ("fallback", 1)
    assert answered.fallback is not None
    assert "INTERNAL" in answered.fallback.reason
    until(lambda: found.infer() and len(cloud.asked) == 3)
    pauses = [later - earlier for earlier, later in itertools.pairwise(cloud.asked)]
    assert pauses[0] > 0.8  # the first trial after a second, give or take a fifth
    assert pauses[1] > 1.6  # and the next one after twice that


def test_parts_that_go_back_and_forth_are_finished_from_where_they_were(fake: MakeFake, subject: Make) -> None:
    from tests.e2e.test_cuts import random_parts

    found = subject(fake(lambda number: INTERNAL if number == 2 else None).port)
    found.parts = tuple(random_parts(found.edge.graph, random.Random(3)))
    assert sum(part.place == "cloud" for part in found.parts) > 1
    answered = found.infer()
    assert (answered.completed_by, answered.requests) == ("fallback", 2)


# --- edge_api.py


LE_NET = ("-t", "le_net", "--point", "0", "--codec", "raw", "--bandwidth", "10mbit", "--verify", "--json")


TEN = LinkShape(10 * MBIT, 10 * MBIT)
FAULTS = [replace(TEN, cut_at=3300), replace(TEN, cut_at=2000), replace(TEN, freeze_at=5000)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("fallback", ["on", "off"])
def test_the_answer_is_there_and_marked_or_there_is_an_error(
    fault: LinkShape, fallback: str, cloud: CloudProcess, edge: CallEdge
) -> None:
    timeout_s = TIMEOUT_S if fault.freeze_at is None else 2.0
    with relay(cloud.port, fault) as link:
        flags = ("--timeout", f"{timeout_s}s", "--repeat", "3", "--warm-up", "0", "--fallback", fallback)
        run = edge("-p", str(link.address[1]), *LE_NET, *flags)
    if fallback == "off":
        assert run.code == (1 if fault.cut_at else 5)
        return
    assert run.code == 0, run.stderr
    got = run.document
    assert got["completed_by"] == "fallback"
    assert got["verify"]["matches"]
    for each in got["measured"]["repeats"]:
        assert each["total_s"] <= timeout_s + LATE_S
        assert (each["fallback"] is None) == (each["completed_by"] == "cloud")
    assert any(each["fallback"] and each["fallback"]["reason"] for each in got["measured"]["repeats"])


def test_a_cloud_that_is_lost_while_its_link_is_measured_leaves_it_all_to_the_edge(
    cloud: CloudProcess, edge: CallEdge
) -> None:
    with relay(cloud.port, replace(TEN, cut_at=2000)) as link:
        run = edge("-p", str(link.address[1]), "-t", "le_net", "--compare", "--verify", "--json", "--repeat", "2")
    assert run.code == 0, run.stderr
    got = run.document
    assert (got["completed_by"], got["verify"]["matches"], got["plan"]["tail"]) == ("fallback", True, 0)
    assert all(each["fallback"]["reason"] for each in got["measured"]["repeats"])
    assert "compare" not in got


def test_the_text_and_one_line_in_the_log_say_why(cloud: CloudProcess, cache: Path) -> None:
    with relay(cloud.port, LinkShape(10 * MBIT, 10 * MBIT, freeze_at=5000)) as link:
        flags = [flag for flag in LE_NET if flag != "--json"]
        more = ("--timeout", "2s", "--repeat", "4", "--warm-up", "0")
        run = run_edge(cache, "-p", str(link.address[1]), *flags, *more)
    assert run.code == 0, run.stderr
    assert "4 of 4 inferences were completed on the edge" in run.stdout
    assert re.search(r"1: after [12]\.?\d* s", run.stdout), run.stdout
    assert "2 to 4: from the start, cloud unreachable" in run.stdout
    assert len(run.stderr.splitlines()) == 1
    assert "completed on the edge after " in run.stderr


def test_a_cloud_that_was_never_there_is_an_error_with_a_hint(edge: CallEdge) -> None:
    run = edge("-p", "1", "-t", "le_net")
    assert run.code == 3
    assert "--point 12 runs all of le_net on the edge without a cloud" in run.stderr


def test_a_cloud_without_a_fault_is_no_fallback(cloud: CloudProcess, edge: CallEdge) -> None:
    got = edge(*at(cloud), "-t", "le_net", "--point", "3", "--repeat", "2", "--compare", "--json").document
    assert [each["completed_by"] for each in got["measured"]["repeats"]] == ["split", "split"]
    assert got["reconnects"] == 0
    assert {name: found["completed_by"] for name, found in got["compare"].items()} == {"cloud": "cloud", "edge": "edge"}
