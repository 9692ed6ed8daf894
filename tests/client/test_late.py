"""Clouds that are not there at the start: the edge answers, and shares the work once they come."""

import re
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.frame_proxy import FrameProxy, Place, close
from edgecloud.client.config import CloudConfig, EdgeConfig, LinkConfig
from edgecloud.client.connection_manager import connection_of
from edgecloud.client.edge import Answered, Edge
from edgecloud.client.late import LateEdge
from edgecloud.client.resilient import ResilientClient
from edgecloud.engine.answers import matches
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork, whole_answer
from edgecloud.net.frames import FrameType
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import State
from edgecloud.partition.cost import Part, parts_of
from edgecloud.utils.errors import ProtocolError
from tests.conftest import LONG_S, CallEdge, CloudProcess, read_until, started_tasks, until

HOST = "127.0.0.1"


@pytest.fixture
def port() -> int:
    """Where nobody listens yet."""
    with socket.create_server((HOST, 0)) as found:
        return int(found.getsockname()[1])


def test_a_cloud_that_comes_later_takes_part_from_then_on(
    network: Callable[[str], TorchNetwork], cloud: CloudProcess, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one that comes is of no use; it is looked for again after a while."""
    monkeypatch.setattr("edgecloud.client.fallback.FIRST_PAUSE_S", 0.1)
    found = network("le_net")
    edge = Edge(registry.lookup("le_net"), found, TorchExecutor(found, torch.device("cpu")))
    x, expected = np.asarray(found.example.tensor), whole_answer(found.loaded.model, found.example.tensor)
    config = EdgeConfig(
        "le_net",
        cloud=CloudConfig(port=port, fallback="always", timeout_s=LONG_S),
        link=LinkConfig(up_bytes_per_s=1e6),
    )
    parts = parts_of(edge.graph, edge.graph.head_at(3))
    met: list[tuple[LinkEstimate, State]] = []
    manager = edge.use(connection_of(config, (HOST, port)))
    manager.give_up("nobody is there")

    def begin() -> tuple[tuple[Part, ...], ResilientClient]:
        met.append(manager.link_and_state)
        if len(met) == 1:
            raise ProtocolError("it takes nothing")
        return parts, ResilientClient(edge, manager, LONG_S, [0.001] * 13, {parts: 0.01})

    late = LateEdge(edge, manager, begin)

    def infer() -> Answered:
        answered = late.infer(x, parts)
        assert matches(answered.outputs, expected)
        return answered

    try:
        first = infer()
        assert (first.completed_by, first.requests) == ("fallback", 0)
        assert first.fallback is not None
        assert first.fallback.reason == "cloud unreachable: nobody is there"
        with closing(FrameProxy((HOST, cloud.port), [], port=port)):
            until(lambda: infer().completed_by == "split")
        assert len(met) == 2
        assert all(value is not None for value in met[1])
    finally:
        edge.close()


def test_a_call_is_planned_anew_when_its_cloud_comes(cloud: CloudProcess, edge: CallEdge) -> None:
    """It hangs up on the first handshake; the document is that of the plan with it."""
    flags = ("-t", "le_net", "--point", "3", "--bandwidth", "50mbit", "--codec", "raw", "--emulate-cpu", "0.005")
    more = ("--verify", "--json", "--threads", "1")
    for count in ("40", "400"):  # on a busy machine the cloud may come later
        with closing(FrameProxy((HOST, cloud.port), [(Place(FrameType.HELLO), close)])) as link:
            done = edge("-i", HOST, "-p", str(link.port), *flags, "--repeat", count, *more)
        assert done.code == 0, done.stderr
        got = done.document
        by = [each["completed_by"] for each in got["measured"]["repeats"]]
        if by[-1] == "split":
            break
    assert (by[0], by[-1], got["verify"]["matches"]) == ("fallback", "split", True)
    assert (got["plan"]["point"], got["link"]["source"], got["times"]["cloud"]) == (3, "given", "measured")


def test_tasks_begin_without_a_cloud_and_are_shared_once_it_comes(cloud: CloudProcess, cache: Path, port: int) -> None:
    flags = ("-t", "le_net", "--verify", "--emulate-cpu", "0.002", "--rate", "5/s", "--tasks", 10_000)
    more = ("--fallback", "always", "--interval", "200ms")
    with started_tasks(cache, "-p", port, *flags, *more) as process:
        read_until(process, " edge$", 2)
        with closing(FrameProxy((HOST, cloud.port), [], port=port)):
            read_until(process, " cloud$", 2)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=2 * LONG_S)
    assert process.returncode == 130, err
    assert re.search(r"^tasks +\d+ done, 0 failed, 0 wrong", out, re.MULTILINE), out
    assert re.search(r"^cloud +unreachable: no cloud at", out, re.MULTILINE), out
