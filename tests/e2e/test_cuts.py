"""Any cut of any graph, in parts, packed or not, over a real socket: the answer of the whole network."""

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecloud import deployment, edge_api
from edgecloud.client.edge import Edge
from edgecloud.client.planning import problem_of
from edgecloud.engine.times import measured
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import registry
from edgecloud.models.graph import LayerGraph
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.zoo.digits import digit_pictures, split_digits
from edgecloud.net.link import LinkEstimate
from edgecloud.partition.cost import Part
from edgecloud.partition.decide import Goal, decide
from tests.conftest import (
    THREADS,
    CallEdge,
    CloudProcess,
    at,
    call,
    many,
)
from tests.models.test_split_equals_whole import random_cut, whole


@pytest.fixture
def connected(cloud: CloudProcess, network: Callable[[str], TorchNetwork]) -> Iterator[Callable[[str], Edge]]:
    """Edges in this process, connected to the real cloud."""
    made: list[Edge] = []

    def build(name: str) -> Edge:
        subject = network(name)
        edge = Edge(registry.lookup(name), subject, TorchExecutor(subject, torch.device("cpu")))
        edge.connect("127.0.0.1", cloud.port, "", 120.0)
        made.append(edge)
        return edge

    yield build
    for edge in made:
        edge.close()


@pytest.mark.parametrize("name", ["cifar_alexnet", "mobile_net", "torchvision:shufflenet_v2_x0_5"])
def test_split_equals_whole_over_a_real_socket(
    name: str, connected: Callable[[str], Edge], network: Callable[[str], TorchNetwork]
) -> None:
    edge = connected(name)
    graph: LayerGraph = edge.graph
    expected = whole(network(name))
    rng = random.Random(6)
    for head in [random_cut(graph, rng) for _ in range(6)]:
        answered = edge.infer(np.asarray(edge.network.example.tensor), head, 60.0)
        np.testing.assert_allclose(answered.outputs[0], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert answered.outputs[0].argmax() == expected.argmax()
        assert answered.measured.payload_bytes == graph.bytes_of(graph.boundary(head))


@pytest.mark.parametrize("name", ["cifar_alexnet", "torchvision:shufflenet_v2_x0_5"])
def test_parts_that_go_back_and_forth_give_the_whole_networks_answer(
    name: str, connected: Callable[[str], Edge], network: Callable[[str], TorchNetwork]
) -> None:
    """The edge goes on from what comes back, and the cloud from what comes again."""
    edge = connected(name)
    x, expected, rng = np.asarray(edge.network.example.tensor), whole(network(name)), random.Random(8)
    for _ in range(5):
        parts = random_parts(edge.graph, rng)
        answered = edge.infer_parts(x, parts, 60.0)
        np.testing.assert_allclose(answered.outputs[0], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        sent = sum(edge.graph.bytes_of(edge.graph.inputs_of(p.layers)) for p in parts if p.place == "cloud")
        assert answered.measured.payload_bytes == sent
        assert (x == np.asarray(edge.network.example.tensor)).all()


def random_parts(graph: LayerGraph, rng: random.Random) -> list[Part]:
    """Four parts or more, cut at points."""
    inner = sorted(rng.sample([point.layer for point in graph.points[:-1]], 4))
    ends = [*inner, len(graph.layers) - 1]
    parts = [Part("edge", frozenset(range(ends[0] + 1)))]
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        parts.append(Part("edge" if number % 2 else "cloud", frozenset(range(begin + 1, end + 1))))
    return parts


@pytest.mark.parametrize(
    ("flags", "objective", "method"),
    [
        (("--objective", "energy"), "energy", "chain"),
        (("--objective", "weighted", "--seconds-per-joule", "0.5", "--method", "mincut"), "weighted", "mincut"),
        (("--objective", "throughput"), "throughput", "chain"),
        (("--objective", "auto", "--rate", "0.01"), "latency", "chain"),
        (("--max-cost", "1e-5", "--cloud-price", "1", "--overlap", "off"), "latency", "placement"),
    ],
)
def test_every_objective_runs_and_gives_the_same_answer(
    flags: tuple[str, ...], objective: str, method: str, cloud: CloudProcess, edge: CallEdge
) -> None:
    run = edge(*at(cloud), "-t", "le_net", *flags, "--verify", "--json")
    assert run.code == 0, run.stderr
    plan = run.document["plan"]
    assert run.document["verify"]["matches"]
    assert (plan["objective"], plan["method"], plan["optimal"]) == (objective, method, True)
    layers = [layer for part in plan["segments"] for layer in part["layers"]]
    assert len(layers) == len(set(layers)) == 13
    if method == "placement":
        assert plan["cost"] <= 1e-5


SLOW = ("--emulate-link", "100kbit,1ms", "--bandwidth", "100kbit")
"""So slow that the codec with the fewest bytes is the fastest, however long this machine takes for packing."""


def test_what_travels_is_packed_and_the_answer_is_the_same(cloud: CloudProcess, edge: CallEdge) -> None:
    slow = (*at(cloud), "-t", "le_net", "--point", "0", *SLOW, "--verify", "--json")
    raw = edge(*slow, "--codec", "raw").document
    auto = edge(*slow).document
    assert (raw["plan"]["codec"], auto["plan"]["codec"]) == ("raw", "pixels+zstd")
    assert raw["measured"]["payload_bytes"] == raw["measured"]["raw_bytes"] == auto["measured"]["raw_bytes"] == 3136
    assert auto["measured"]["payload_bytes"] < 3136 / 4
    assert auto["verify"] == {"matches": True, "max_abs_diff": 0.0}
    assert auto["plan"]["predicted"]["encode_s"] > 0
    assert auto["candidates"][0]["boundary_bytes"] == auto["measured"]["payload_bytes"]


@pytest.mark.parametrize("name", ["fp16", "int8", "int8+zstd", "int4c+zstd"])
def test_a_lossy_codec_that_is_asked_for_gives_the_same_top_1(name: str, cloud: CloudProcess, edge: CallEdge) -> None:
    got = edge(*at(cloud), "-t", "le_net", "--point", "6", "--codec", name, "--verify", "--json").document
    assert got["plan"]["codec"] == name
    assert got["measured"]["payload_bytes"] < got["measured"]["raw_bytes"]
    assert got["verify"]["matches"]
    assert got["verify"]["max_abs_diff"] > 0


def test_lossy_codecs_are_chosen_only_where_they_were_calibrated(
    cloud: CloudProcess,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours comes along; the user's own replaces it."""
    if (cache / "profiles").is_dir():
        shutil.copytree(cache / "profiles", tmp_path / "profiles")  # layers that were measured need not be again
    command = ["--cache-dir", str(tmp_path), "--threads", THREADS, *at(cloud), "-t", "le_net", "--point", "6", "--json"]
    slow = [*command, *SLOW, "--verify", "--accuracy-budget", "1%"]
    at_once = call(edge_api.main, slow, capsys)
    assert at_once.document["plan"]["codec"].startswith("ec")
    assert at_once.document["verify"]["matches"]
    assert "calibrate" not in caplog.text
    (digits, _), (_, held_out) = digit_pictures(), split_digits()
    (tmp_path / "digits").mkdir()
    for number in held_out[: many(40, 450)]:
        digits[number].save(tmp_path / "digits" / f"{number}.png")
    pictures = ["--image-dir", str(tmp_path / "digits"), "--cache-dir", str(tmp_path), "--threads", THREADS]
    assert deployment.main(["calibrate", "-t", "le_net", *pictures]) == 0
    capsys.readouterr()
    found = call(edge_api.main, slow, capsys).document
    assert found["plan"]["codec"].startswith(("int", "ec"))
    assert found["verify"]["matches"]
    assert found["measured"]["payload_bytes"] < found["measured"]["raw_bytes"] / 4
    strict = call(edge_api.main, [*command, *SLOW], capsys).document
    assert strict["plan"]["codec"] in ("raw", "zstd")


def test_one_connection_carries_many_inferences(connected: Callable[[str], Edge], cloud: CloudProcess) -> None:
    edge = connected("le_net")
    x, head = np.asarray(edge.network.example.tensor), edge.graph.head_at(3)
    edge.infer(x, head, 30.0)  # with the first answer comes the thread that sends answers
    threads, descriptors = cloud.threads, cloud.descriptors
    answers = [edge.infer(x, head, 30.0).outputs[0] for _ in range(200)]
    assert all((answer == answers[0]).all() for answer in answers)
    assert (cloud.threads, cloud.descriptors) == (threads, descriptors)


def test_a_decision_runs_nothing(
    connected: Callable[[str], Edge], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = connected("le_net")
    edge_s = measured(edge.executor, cache).seconds

    def run(*_: object) -> None:
        raise AssertionError("a decision ran the network")

    monkeypatch.setattr(TorchExecutor, "run", run)
    monkeypatch.setattr(torch.fx.GraphModule, "__call__", run)
    link = LinkEstimate(1e6, 1e6, 0.01, "given")
    assert len(decide(problem_of(edge, edge_s, link, edge.status(10.0)), Goal()).candidates) == 13
