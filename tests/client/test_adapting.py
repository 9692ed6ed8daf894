"""The plan of a real edge with a real cloud while the edge becomes slow: it moves once, in time, and says so."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecloud.client.adapting import MEASURED_SD, interval_of, is_adaptable
from edgecloud.client.conditions import slowdown
from edgecloud.client.config import CloudConfig, CodecConfig, DeviceConfig, EdgeConfig, LinkConfig
from edgecloud.client.connection_manager import NEWS_S
from edgecloud.client.edge import Edge
from edgecloud.client.edge_client import EdgeClient
from edgecloud.client.outcome import PlanMove, Way
from edgecloud.client.runner import Runner
from edgecloud.engine.answers import matches
from edgecloud.engine.executor import Ran, Segment
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork, whole_answer
from edgecloud.net.messages import State
from edgecloud.net.tensors import Array
from edgecloud.partition.cost import Link
from edgecloud.partition.decide import Goal
from tests.conftest import LONG_S, CloudProcess

FAST = Link(1e8, 1e8, 0.02)
SLOW_S = 0.4
"""Of one inference on an edge that has become slow: far more than a cloud takes on any machine that tests run on."""


class SlowedExecutor(TorchExecutor):
    """Takes longer from some moment on, as if something else had begun to run beside it."""

    each_s = 0.0
    """More, for each layer of a chain."""

    def run(self, segment: Segment, arrays: Sequence[Array]) -> Ran:
        """The same answer, later."""
        ran = super().run(segment, arrays)
        more_s = self.each_s * (segment.outputs[-1] - segment.inputs[0])
        time.sleep(more_s)
        return replace(ran, seconds=ran.seconds + more_s)


@pytest.fixture
def executor(network: Callable[[str], TorchNetwork]) -> SlowedExecutor:
    return SlowedExecutor(network("le_net"), torch.device("cpu"))


@pytest.fixture
def edge(network: Callable[[str], TorchNetwork], executor: SlowedExecutor) -> Edge:
    return Edge(registry.lookup("le_net"), network("le_net"), executor)


@pytest.fixture
def config(cache: Path, cloud: CloudProcess) -> EdgeConfig:
    return EdgeConfig(
        "le_net",
        device=DeviceConfig(cache_dir=cache),
        cloud=CloudConfig(port=cloud.port, timeout_s=LONG_S, ready_s=LONG_S),
        link=LinkConfig(given=FAST),
        codec=CodecConfig(name="raw"),
    )


def model_of(edge: Edge) -> torch.nn.Module:
    assert isinstance(edge.network, TorchNetwork)
    return edge.network.loaded.model


def runner_of(client: EdgeClient) -> Runner:
    assert client._runner is not None
    return client._runner


def test_a_plan_leaves_an_edge_that_becomes_slow_once_and_soon(
    edge: Edge, executor: SlowedExecutor, config: EdgeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    x = edge.network.example.tensor.numpy()
    whole = whole_answer(model_of(edge), torch.from_numpy(x))
    with EdgeClient(config, edge) as client:
        before = [client.infer(x) for _ in range(6)]
        first = client.plan
        assert first.decision.head == edge.graph.everything
        executor.each_s = SLOW_S / (len(edge.graph.layers) - 1)
        with caplog.at_level("INFO", "edgecloud.client.adapting"):
            after = [client.infer(x) for _ in range(14)]
        plan = client.plan
    assert all(matches(answer.outputs, whole) for answer in (*before, *after))
    assert {answer.completed_by for answer in after[8:]} == {"cloud"}, "it is not left within 8 inferences"
    assert len(plan.moves) == 1
    move = plan.moves[0]
    assert (move.before, move.after) == (len(edge.graph.points) - 1, 0)
    assert move.ratio > 1.5
    assert plan.decision.parts == after[-1].parts
    assert plan.interval is not None
    assert plan.interval.low_s < plan.decision.predicted.total_s < plan.interval.high_s
    assert sum("all on the edge to all on the cloud" in record.message for record in caplog.records) == 1


def test_a_point_that_is_forced_stays(edge: Edge, executor: SlowedExecutor, config: EdgeConfig) -> None:
    x = edge.network.example.tensor.numpy()
    executor.each_s = SLOW_S / 8 / (len(edge.graph.layers) - 1)
    with EdgeClient(replace(config, point=10), edge) as client:
        answers = [client.infer(x) for _ in range(8)]
        assert client.plan.moves == ()
        assert client.plan.tries == 0
        assert client.plan.interval is not None
    assert {answer.completed_by for answer in answers} == {"split"}


def test_many_at_once_try_nothing_and_are_all_right(edge: Edge, config: EdgeConfig) -> None:
    x = edge.network.example.tensor.numpy()
    xs = [np.ascontiguousarray(np.roll(x, number, axis=-1)) for number in range(12)]
    with EdgeClient(config, edge) as client:
        futures = [client.submit(one) for one in xs]
        answers = [future.result(LONG_S) for future in futures]
    model = model_of(edge)
    for one, answer in zip(xs, answers, strict=True):
        assert matches(answer.outputs, whole_answer(model, torch.from_numpy(one)))


def test_a_cut_that_is_asked_for_runs_as_it_is_and_teaches(edge: Edge, config: EdgeConfig) -> None:
    x = edge.network.example.tensor.numpy()
    with EdgeClient(config, edge) as client:
        runner = runner_of(client)
        parts = tuple(runner.plan.decision.parts)
        assert runner._adapter is not None
        cloud_alone = runner._adapter._table.parts[0]
        answers = [runner.infer(x, Way(cloud_alone)) for _ in range(3)]
        assert [answer.completed_by for answer in answers] == ["cloud"] * 3
        assert {answer.parts for answer in answers} == {cloud_alone}
        assert runner.plan.decision.parts == parts


def test_cuts_are_searched_anew_with_what_was_learnt(edge: Edge, executor: SlowedExecutor, config: EdgeConfig) -> None:
    """The search sees the corrected times, and what is running stays one of the ways."""
    x = edge.network.example.tensor.numpy()
    executor.each_s = SLOW_S / (len(edge.graph.layers) - 1)
    with EdgeClient(config, edge) as client:
        adapter = runner_of(client)._adapter
        assert adapter is not None
        for _ in range(3):
            client.infer(x)
        adapter._search()
        assert adapter._steering.running in adapter._table.names
        seconds = adapter._steering.believed.totals(adapter._ways).seconds
        assert seconds[-1] > SLOW_S / 4, "what the edge took is forgotten"
        answers = [client.infer(x) for _ in range(10)]
    assert answers[-1].completed_by == "cloud"


def test_what_is_adapted_and_how_sure_it_is_at_first(edge: Edge, config: EdgeConfig) -> None:
    with EdgeClient(config, edge) as client:
        runner = runner_of(client)
        plan, prepared = runner.plan, runner._prepared
        assert is_adaptable(plan, config)
        assert not is_adaptable(plan, replace(config, goal=Goal("energy")))
        assert not is_adaptable(plan, replace(config, goal=Goal("latency", max_cost=1.0, price_per_s=1.0)))
        assert not is_adaptable(replace(plan, problem=None), config)
        predicted = replace(prepared, timing=replace(prepared.timing, times=replace(prepared.timing.times, factor=2.0)))
        narrow, wide = interval_of(prepared, plan), interval_of(predicted, plan)
    assert MEASURED_SD < 0.42
    assert wide.low_s < narrow.low_s < plan.decision.predicted.total_s < narrow.high_s < wide.high_s


@pytest.mark.parametrize(
    ("move", "text"),
    [
        (
            PlanMove(7, 12, 0, 12, "prediction", 1.5),
            "changed from all on the edge to all on the cloud after 7 inferences: "
            "the first is expected to take 1.50 x as long",
        ),
        (
            PlanMove(9, 4, 12, 12, "guard", 1.23),
            "changed from point 4 to all on the edge after 9 inferences: the first took 1.23 x as long",
        ),
        (
            PlanMove(1, None, 4, 12, "guard", 1.2),
            "changed from a cut of several tensors to point 4 after 1 inferences: the first took 1.20 x as long",
        ),
        (
            PlanMove(8, 0, 0, 12, "guard", 1.1, in_one_piece=True),
            "changed from chunks to one piece after 8 inferences: the first took 1.10 x as long",
        ),
        (
            PlanMove(8, 4, 4, 12, "prediction", 1.1, in_one_piece=False),
            "changed from one piece to chunks after 8 inferences: the first is expected to take 1.10 x as long",
        ),
    ],
)
def test_a_move_is_told_in_a_line(move: PlanMove, text: str) -> None:
    assert str(move) == text


def test_a_cloud_that_is_not_used_is_asked_how_busy_it_is_now_and_then(edge: Edge, config: EdgeConfig) -> None:
    """It was loaded, so all runs here; that it is not any more is found without trying it, and costs no inference."""
    x = edge.network.example.tensor.numpy()
    with EdgeClient(config, edge) as client:
        assert client.plan.decision.head == edge.graph.everything
        manager = edge.cloud
        assert manager is not None
        began = time.monotonic()
        manager._note_state(State(9.0, 0.0, 0, 32, 1))
        manager._forget_s = 1e9
        heard, told = manager.state, [began]
        while len(told) < 3 and time.monotonic() < began + LONG_S:
            answer = client.infer(x)
            if manager.state is not heard:
                heard = manager.state
                told.append(time.monotonic())
        tries, load = client.plan.tries, manager.conditions().load
    assert len(told) == 3
    assert told[2] - began > 0.9 * NEWS_S, "it is asked too often"  # the first time may be at once
    assert heard is not None
    assert load == pytest.approx(slowdown(heard), abs=0.01), "it is as loaded as it was believed to be"
    assert answer.requests <= 1
    assert tries <= len(told)


def test_a_cloud_that_is_gone_is_not_tried(edge: Edge, executor: SlowedExecutor, config: EdgeConfig) -> None:
    """The plan is for the edge; a cloud that went away meanwhile costs no inference anything."""
    x = edge.network.example.tensor.numpy()
    with closing(edge), EdgeClient(config, edge) as client:
        client.infer(x)
        manager = edge.cloud
        assert manager is not None
        manager.leave()
        manager._drop()
        client_now = manager._client
        if client_now is not None:
            client_now.close()
        manager.give_up("it is gone")
        assert manager.is_left_alone
        answers = [client.infer(x) for _ in range(12)]
    assert {answer.completed_by for answer in answers} == {"edge"}
    assert all(answer.fallback is None for answer in answers)
