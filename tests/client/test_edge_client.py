"""The class for programs: planned once, then asked again and again, also many at once, whatever the cloud does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.frame_proxy import FrameProxy, Place, close
from edgecloud.client.config import CloudConfig, CodecConfig, DeviceConfig, EdgeConfig, LinkConfig
from edgecloud.client.edge import Answered, Edge
from edgecloud.client.edge_client import EdgeClient
from edgecloud.client.fallback import Mode
from edgecloud.engine.answers import matches
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork, whole_answer
from edgecloud.net.frames import FrameType
from edgecloud.net.tensors import Array
from edgecloud.utils.errors import ConnectError
from tests.conftest import LONG_S, CloudProcess

HOST = "127.0.0.1"
COUNT = 20

Inputs = list[Array]


@pytest.fixture
def edge(network: Callable[[str], TorchNetwork]) -> Edge:
    found = network("le_net")
    return Edge(registry.lookup("le_net"), found, TorchExecutor(found, torch.device("cpu")))


@pytest.fixture
def config(cache: Path) -> EdgeConfig:
    return EdgeConfig(
        "le_net",
        point=3,
        device=DeviceConfig(cache_dir=cache),
        cloud=CloudConfig(timeout_s=LONG_S, ready_s=LONG_S),
        link=LinkConfig(up_bytes_per_s=5e6),
        codec=CodecConfig(name="raw"),
    )


def at(config: EdgeConfig, port: int, fallback: Mode | None = None) -> EdgeConfig:
    fallback = fallback or config.cloud.fallback
    return replace(config, cloud=replace(config.cloud, port=port, fallback=fallback))


@contextmanager
def opened(edge: Edge, config: EdgeConfig, port: int) -> Iterator[EdgeClient]:
    with EdgeClient(at(config, port), edge) as client:
        yield client


def inputs_of(edge: Edge) -> Inputs:
    x = edge.network.example.tensor.numpy()
    return [np.ascontiguousarray(np.roll(x, number, axis=-1)) for number in range(COUNT)]


def are_right(edge: Edge, xs: Inputs, answers: list[Answered]) -> bool:
    assert isinstance(edge.network, TorchNetwork)
    model = edge.network.loaded.model
    return all(
        matches(answer.outputs, whole_answer(model, torch.from_numpy(x))) for x, answer in zip(xs, answers, strict=True)
    )


def test_one_after_the_other_needs_no_threads(cloud: CloudProcess, edge: Edge, config: EdgeConfig) -> None:
    xs = inputs_of(edge)
    with opened(edge, config, cloud.port) as client:
        before = threading.active_count()
        answers = [client.infer(x) for x in xs]
        assert threading.active_count() == before
        assert client.plan.decision.point(edge.graph) == 3
        assert client.link is not None
    assert are_right(edge, xs, answers)
    assert {answer.completed_by for answer in answers} == {"split"}


def test_many_at_once_each_get_their_own_answer(cloud: CloudProcess, edge: Edge, config: EdgeConfig) -> None:
    xs = inputs_of(edge)
    with opened(edge, config, cloud.port) as client:
        first = client.infer(xs[0])
        futures = [client.submit(x) for x in xs]
        answers = [future.result(LONG_S) for future in futures]
        last = client.infer(xs[0])
        assert edge.cloud is not None
        assert edge.cloud.connects == 1
    assert are_right(edge, [xs[0], *xs, xs[0]], [first, *answers, last])
    assert {answer.completed_by for answer in answers} == {"split"}


def test_a_connection_that_breaks_under_many_costs_no_answer(
    cloud: CloudProcess, edge: Edge, config: EdgeConfig
) -> None:
    xs = inputs_of(edge)
    with (
        closing(FrameProxy((HOST, cloud.port), [(Place(FrameType.INFER, 4), close)])) as link,
        opened(edge, config, link.port) as client,
    ):
        answers = [future.result(LONG_S) for future in [client.submit(x) for x in xs]]
        assert link.is_over
    assert are_right(edge, xs, answers)
    assert {answer.completed_by for answer in answers} <= {"split", "fallback"}


def test_without_a_cloud_it_raises_or_answers_alone(edge: Edge, config: EdgeConfig) -> None:
    client = EdgeClient(at(config, 1), edge)
    with pytest.raises(ConnectError, match="--point 12 runs all of le_net on the edge without a cloud"):
        client.open()
    with pytest.raises(ValueError, match="not open"):
        client.infer(inputs_of(edge)[0])
    xs = inputs_of(edge)[:2]
    with opened(edge, at(config, 1, fallback="always"), 1) as alone:
        answers = [alone.infer(xs[0]), alone.submit(xs[1]).result(LONG_S)]
    assert are_right(edge, xs, answers)
    assert [answer.completed_by for answer in answers] == ["fallback"] * 2
