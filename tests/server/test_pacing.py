"""Who asks much for what costs no computing waits, and holds nobody up; requests that are computed are not paid for."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.hostile.attacks import encode
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.messages import Infer, Result, State, Status
from edgecloud.net.pacing import BURST_S, HEADER_BYTES, Bucket, price
from edgecloud.utils.deadline import Deadline
from tests.conftest import LONG_S, CloudProcess, running_cloud
from tests.server.test_hostile import assert_serves, greet, hello_of, soon


def test_a_burst_is_free_and_then_tokens_come_at_the_rate() -> None:
    bucket = Bucket(10.0)
    assert [bucket.pay(1, 5.0) for _ in range(20)] == [0.0] * 20
    assert bucket.pay(1, 5.0) == pytest.approx(0.1)
    assert bucket.pay(1, 5.1) == pytest.approx(0.1)  # who waits as told owes one again
    assert bucket.pay(1, 5.4) == 0.0


def test_no_more_is_saved_than_a_burst() -> None:
    bucket = Bucket(10.0)
    bucket.pay(0, 0.0)
    assert bucket.pay(10 * BURST_S + 1, 1e6) == pytest.approx(0.1)


def test_what_is_computed_costs_nothing_unless_its_header_is_long() -> None:
    assert price(500, is_computed=True) == 0
    assert price(500, is_computed=False) == 1
    assert price(4 * HEADER_BYTES, is_computed=True) == 4


@pytest.fixture(scope="module")
def slow(cache: Path) -> Iterator[CloudProcess]:
    """One small request a second, and two at once."""
    with running_cloud(cache, "--max-control-rate", "1") as process:
        yield process


def test_who_asks_too_often_waits_and_still_gets_every_answer(
    slow: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    with closing(greet(slow, hello_of(network("le_net")))) as edge:
        began = time.monotonic()
        edge.sock.sendall(encode(Status(), []) * 4)
        assert [type(edge.receive(soon()).read(State)) for _ in range(2)] == [State] * 2
        assert_serves(slow, network("le_net"))  # nobody else waits
        assert [type(edge.receive(soon()).read(State)) for _ in range(2)] == [State] * 2
        assert time.monotonic() - began > 1.5


def test_a_refused_request_is_paid_for_too(slow: CloudProcess, network: Callable[[str], TorchNetwork]) -> None:
    with closing(greet(slow, hello_of(network("le_net")))) as edge:
        began = time.monotonic()
        edge.sock.sendall(encode(Infer(1, [[1, 99]], 9.0), []) * 5)
        assert [edge.receive(soon()).header["code"] for _ in range(5)] == ["BAD_REQUEST"] * 5
        assert time.monotonic() - began > 1.5


def test_requests_that_are_computed_are_not_paid_for(
    slow: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    x, late = np.asarray(network("le_net").example.tensor), Deadline.after(110, "the test")
    with closing(greet(slow, hello_of(network("le_net")))) as edge:
        for _ in range(120):  # two minutes, if they were: the deadline is before that
            edge.send(Infer(1, [[1, 13]], 30.0), late, [x])
            edge.receive(late).read(Result)


def test_who_waits_for_tokens_does_not_hold_up_a_stop(cache: Path, network: Callable[[str], TorchNetwork]) -> None:
    with running_cloud(cache, "--max-control-rate", "1", "--max-queue", "4", "--drain-timeout", "300s") as cloud:
        edge = greet(cloud, hello_of(network("le_net")))
        edge.sock.sendall(encode(Infer(1, [[1, 99]], 9.0), []) * 60)
        edge.receive(soon())
        cloud.stop()
        assert cloud.process.wait(LONG_S) == 0  # long before --drain-timeout
        edge.close()
