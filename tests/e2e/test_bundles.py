"""Networks as bundles, run by the real programs. See docs/bundle.md."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import edgecloud as ec
from edgecloud import deployment, tasks_edge_api
from edgecloud.models import bundle, registry, weights
from edgecloud.models.graph import LayerGraph
from edgecloud.models.registry import Entry
from edgecloud.tools import export
from tests import warm
from tests.conftest import THREADS, CallEdge, CloudProcess, Finished, at, call, running_cloud
from tests.missing import EDGE, call_without_torch, run_without


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_OWN", {})


def _exported(name: str, path: Path, *arguments: str) -> Path:
    """In this process: a program of its own would load for some seconds first what exports."""
    told, before = io.StringIO(), warm.read_once(os.environ)
    with contextlib.redirect_stdout(told):
        code = deployment.main(["export", "-t", name, "-o", str(path), *arguments])
    torch.set_num_threads(int(THREADS))  # a script sets them for its whole process
    assert code == 0, told.getvalue()
    assert "match the full model in torch" in told.getvalue()
    assert warm.read_once(os.environ) == before, "no program could start as a copy any more"
    return path


@pytest.fixture(scope="session")
def le_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported("le_net", tmp_path_factory.mktemp("exported") / "digits.bundle")


@pytest.fixture(scope="session")
def mobile_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported("mobile_net", tmp_path_factory.mktemp("exported") / "mobile.bundle")


def _documents(run: Finished) -> Iterator[dict[str, Any]]:
    assert run.code == 0, run.stderr
    for line in run.stdout.splitlines():
        yield json.loads(line)


def _oracle(entry: Entry, document: dict[str, Any]) -> None:
    """The answer is that of the module in plain torch."""
    network = entry.network()
    (expected,) = network.whole(network.example.array)
    scores = np.exp(expected[0] - expected[0].max())
    top = document["result"]["top"][0]
    assert top["index"] == int(expected[0].argmax())
    assert top["probability"] == pytest.approx(float(scores.max() / scores.sum()), abs=1e-4)


@pytest.mark.parametrize("name", ["le_net", "mobile_net"])
def test_cuts_of_an_edge_without_torch_against_a_cloud_with_it(
    name: str, request: pytest.FixtureRequest, cloud: CloudProcess, tmp_path: Path
) -> None:
    """A cut after each kind of layer, and both ends: every cut was compared with torch when the bundle was made, and
    `python -m benchmarks.torch_free` runs them all. Kinds that le_net has not are in `MANY_KINDS` below."""
    _assert_cuts_are_right(request.getfixturevalue(name), registry.built_in(name), cloud, tmp_path)


def _assert_cuts_are_right(path: Path, entry: Entry, cloud: CloudProcess, cache: Path) -> None:
    content = bundle.read(path).content
    assert {each.point for each in content.certificates} == set(range(len(content.graph.points)))
    points = _one_of_each_kind(content.graph)
    numbers = ",".join(map(str, points))
    what = ("--points", numbers, "--verify", "--json", "--warm-up", "0", "--cache-dir", str(cache))
    run = call_without_torch("edge_api", "-t", str(path), *at(cloud), *what, nor=("scipy", "rich", "PIL", "ssl"))
    documents = list(_documents(run))
    assert [document["plan"]["point"] for document in documents] == points
    for document in documents:
        assert document["verify"]["matches"]
        assert document["verify"]["max_abs_diff"] <= 1e-4
        assert document["plan"]["backend"]["edge"] == "onnxruntime"
        _same_answer(document, documents[0])
    assert documents[0]["plan"]["backend"]["cloud"] == "torch"
    assert documents[0]["completed_by"] == "cloud"
    _oracle(entry, documents[0])


def _one_of_each_kind(graph: LayerGraph) -> list[int]:
    """Points after layers of different kinds, in the middle of the network where there are several, and both ends."""
    of_kind: dict[str, list[int]] = {}
    for point in graph.points:
        of_kind.setdefault(graph.layers[point.layer].kind, []).append(point.number)
    return sorted({0, len(graph.points) - 1, *(numbers[len(numbers) // 2] for numbers in of_kind.values())})


def _same_answer(document: dict[str, Any], other: dict[str, Any]) -> None:
    top, expected = document["result"]["top"][0], other["result"]["top"][0]
    assert top["index"] == expected["index"]
    assert top["probability"] == pytest.approx(expected["probability"], abs=1e-4)


def test_a_cloud_runs_a_bundle_for_an_edge_with_torch(le_net: Path, cache: Path, edge: CallEdge) -> None:
    with running_cloud(cache, "-t", str(le_net), "--backend", "onnxruntime") as there:
        (document,) = _documents(edge("-t", "le_net", *at(there), "--point", "4", "--verify", "--json"))
    assert document["plan"]["backend"] == {"edge": "torch", "cloud": "onnxruntime"}
    assert document["verify"]["matches"]
    _oracle(registry.built_in("le_net"), document)


def test_both_ends_run_a_bundle_and_plan_with_its_times(le_net: Path, tmp_path: Path, edge: CallEdge) -> None:
    """With whatever is fastest on either side, which is measured, since nothing was before; and it is said why."""
    where = ("--emulate-link", "5mbit,20ms", "--cache-dir", str(tmp_path))
    (document,) = _documents(edge("-t", str(le_net), *where, "--verify", "--json"))
    for side in ("edge", "cloud"):
        assert document["plan"]["backend"][side] in ("torch", "onnxruntime", "openvino")
        assert "measured" in document["plan"]["backend_reason"][side]
        assert "onnxruntime " in document["plan"]["backend_reason"][side]
    assert document["verify"]["matches"]
    assert document["weights_origin"] == "shipped"
    assert document["input"] == "sample:digit.png"


def test_a_cloud_without_torch_serves_an_edge_without_it(le_net: Path, tmp_path: Path) -> None:
    code = (
        "import sys, edgecloud as ec\n"
        "net = ec.load(sys.argv[1])\n"
        "with ec.Cloud(networks=[net], cache_dir=sys.argv[2]) as cloud:\n"
        "    with ec.Edge(net, cloud=cloud.address, point=4, cache_dir=sys.argv[2]) as edge:\n"
        "        answer = edge(net.sample)\n"
        "print(answer.completed_by, answer.outputs[0].argmax(), 'torch' in sys.modules)\n"
    )
    run = run_without(EDGE, code, str(le_net), str(tmp_path))
    assert run.code == 0, run.stderr
    assert run.stdout.split() == ["split", str(_top_of("le_net")), "False"]


def _top_of(name: str) -> int:
    network = registry.built_in(name).network()
    return int(network.whole(network.example.array)[0].argmax())


def test_a_bundle_in_the_cache_is_compared_with_torch(le_net: Path, tmp_path: Path, edge: CallEdge) -> None:
    kept = export.kept_path("le_net", tmp_path)
    shutil.copy(le_net, kept)
    flags = ("-t", "le_net", "--point", "12", "--verify", "--json", "--cache-dir", str(tmp_path))
    for backend in ("auto", "onnxruntime"):
        (document,) = _documents(edge(*flags, "--backend", backend))
        reason = document["plan"]["backend_reason"]["edge"]
        assert ("torch " in reason and "onnxruntime " in reason) == (backend == "auto")
        assert document["verify"]["matches"]
    assert document["plan"]["backend"]["edge"] == "onnxruntime"


def test_torch_can_run_what_a_bundle_was_made_of(le_net: Path, cloud: CloudProcess, edge: CallEdge) -> None:
    run = edge("-t", str(le_net), *at(cloud), "--backend", "torch", "--point", "5", "--verify", "--json")
    (document,) = _documents(run)
    assert document["plan"]["backend"] == {"edge": "torch", "cloud": "torch"}
    assert document["verify"]["matches"]
    (document,) = _documents(edge("-t", str(le_net), "--backend", "torch", "--point", "5", "--json"))
    assert document["plan"]["backend"] == {"edge": "torch", "cloud": "torch"}  # as the cloud that it has started


def test_a_slow_edge_is_emulated(le_net: Path, cloud: CloudProcess, edge: CallEdge) -> None:
    flags = ("-t", str(le_net), *at(cloud), "--point", "12", "--json", "--threads", "1")
    (slow,) = _documents(edge(*flags, "--repeat", "3", "--emulate-cpu", "0.01"))
    (fast,) = _documents(edge(*flags, "--repeat", "20"))
    quickest_s = [min(each["edge_s"] for each in one["measured"]["repeats"]) for one in (slow, fast)]
    assert quickest_s[0] > 5 * quickest_s[1]  # of 20 one at least was not held up


def test_the_edge_answers_alone_without_a_cloud(le_net: Path, edge: CallEdge) -> None:
    run = edge("-t", str(le_net), "-i", "127.0.0.1:1", "--fallback", "always", "--json")
    (document,) = _documents(run)
    assert document["completed_by"] == "fallback"
    _oracle(registry.built_in("le_net"), document)


def test_other_weights_of_the_same_network_are_refused(tmp_path: Path, cloud: CloudProcess, edge: CallEdge) -> None:
    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file(weights.seeded(registry.built_in("le_net"), 7).state_dict(), file)
    path = _exported("le_net", tmp_path / "other.bundle", "--weights", str(file))
    run = edge("-t", str(path), *at(cloud))
    assert run.code == 4
    assert "differ" in run.stderr


MANY_KINDS = """
from torch import nn

INPUT_SHAPE = (3, 16, 16)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish(inplace=True))
        self.thin = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return x + self.thin(self.deep(self.wide(x)))

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.SiLU(inplace=True), Block(), nn.MaxPool2d(2), Block(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5),
    )
"""
"""What mobile_net has, in little."""


def test_a_bundle_of_a_custom_model(tmp_path: Path, cache: Path, edge: CallEdge) -> None:
    """An edge without torch, and one with it."""
    file = tmp_path / "small.py"
    file.write_text(MANY_KINDS)
    path = _exported(str(file), tmp_path / "small.bundle")
    registry._OWN.clear()
    with running_cloud(cache, "--network", str(file)) as there:
        _assert_cuts_are_right(path, registry.resolve_trusted(str(file)), there, tmp_path)
        registry._OWN.clear()
        documents = list(_documents(edge("-t", str(path), *at(there), "--points", "all", "--verify", "--json")))
    assert len(documents) == len(bundle.read(path).content.graph.points)
    assert all(document["verify"]["matches"] for document in documents)


def test_the_library_loads_and_runs_bundles(le_net: Path, cache: Path) -> None:
    net = ec.load(le_net)
    assert net.labels == tuple("0123456789")
    assert net.is_trained
    assert np.allclose(net.sample, registry.built_in("le_net").network().example.array, atol=1e-6)
    with ec.Edge(net, cloud=None, backend="onnxruntime", cache_dir=cache) as alone:
        answer = alone(net.sample)
    expected = registry.built_in("le_net").network().whole(net.sample)
    assert np.allclose(answer.outputs[0], expected[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ec.UsageError, match="backend is one of auto, torch, onnxruntime"):
        ec.Edge(net, cloud=None, backend="tvm")


def test_tasks_run_on_bundles(le_net: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--cache-dir", str(cache), "-t", str(le_net), "--tasks", "6", "--verify", "--json"]
    run = call(tasks_edge_api.main, arguments, capsys)
    assert run.code == 0, run.stderr


def test_layers_of_a_bundle_are_profiled_and_planned(
    le_net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-t", str(le_net), "--cache-dir", str(tmp_path), "--json"]
    run = call(deployment.main, ["profile", *flags, "--threads", "1"], capsys)
    assert run.code == 0, run.stderr
    assert run.document["measured_on"]["backend"] == "onnxruntime"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--weights", "imagenet"), "holds its weights"),
        (("-d", "cuda", "--backend", "onnxruntime"), "CUDA"),
    ],
)
def test_flags_that_do_not_go_with_a_bundle(
    le_net: Path, cloud: CloudProcess, edge: CallEdge, arguments: tuple[str, ...], expected: str
) -> None:
    run = edge("-t", str(le_net), *at(cloud), *arguments)
    assert run.code == 2
    assert expected in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_files_that_are_no_bundles(tmp_path: Path, le_net: Path, cloud: CloudProcess, edge: CallEdge) -> None:
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes(le_net.read_bytes()[:-100])
    onnx = tmp_path / "net.bundle"
    onnx.write_bytes(b"\x08\x0a\x12\x07pytorch")
    for name, expected in [
        (damaged, "is not a bundle that can be used"),
        (onnx, "ONNX model"),
        (tmp_path / "none.bundle", "no file"),
        (tmp_path / "net.onnx", "no file"),
    ]:
        run = edge("-t", str(name), *at(cloud))
        assert run.code == 2
        assert expected in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1
    run = edge("-t", "le_net", *at(cloud), "--backend", "onnxruntime")
    assert run.code == 2
    assert "deployment.py export -t le_net" in run.stderr


def test_an_export_that_fails_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in [
        (["-t", "le_net", "-o", str(tmp_path / "x.onnx")], "ends in .bundle"),
        (["-t", "no_net", "-o", str(tmp_path / "x.bundle")], "unknown network"),
        (["-t", "le_net", "-o", str(tmp_path / "no" / "x.bundle")], "cannot write"),
    ]:
        run = call(deployment.main, ["export", *arguments], capsys)
        assert run.code == 2
        assert expected in run.stderr
    assert list(tmp_path.iterdir()) == []
