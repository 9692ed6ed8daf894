"""A FILE.onnx as a network of the real programs: what anybody gets of it in ONNX Runtime, wherever it is cut."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgecloud import deployment, tasks_edge_api
from edgecloud.models import registry
from tests import onnx_files
from tests.conftest import CallEdge, CloudProcess, Finished, at, call, running_cloud
from tests.missing import EDGE, call_without_torch, run_without


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_OWN", {})


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_files.write(tmp_path_factory.mktemp("edge") / "net.onnx", onnx_files.pictures())


@pytest.fixture(scope="module")
def tokens(net: Path) -> Path:
    return onnx_files.write(net.with_name("tokens.onnx"), onnx_files.tokens())


@pytest.fixture(scope="module")
def there(net: Path, tokens: Path, cache: Path) -> Iterator[CloudProcess]:
    """A cloud that was started with its own copies of the files."""
    folder = cache / "of the cloud"
    folder.mkdir(exist_ok=True)
    copies = [str(shutil.copy(path, folder)) for path in (net, tokens)]
    with running_cloud(cache, "--network", copies[0], "--network", copies[1]) as cloud:
        yield cloud


def _documents(run: Finished) -> list[dict[str, Any]]:
    assert run.code == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_point_of_an_edge_without_torch_gives_what_the_file_gives(
    net: Path, there: CloudProcess, tmp_path: Path
) -> None:
    flags = ("--points", "all", "--verify", "--json", "--warm-up", "0", "--cache-dir", str(tmp_path))
    run = call_without_torch("edge_api", "-t", str(net), *at(there), *flags, nor=("scipy", "rich", "PIL", "ssl"))
    documents = _documents(run)
    assert len(documents) == len(registry.resolve_trusted(str(net), tmp_path).network().graph.points) > 4
    for document in documents:
        assert document["model"] == "net.onnx"
        assert document["verify"]["matches"]
        assert document["verify"]["max_abs_diff"] <= 1e-5
        assert document["weights_origin"] == "file net.onnx"
        assert document["plan"]["backend"]["edge"] == "onnxruntime"


def test_inputs_of_the_users_own_get_the_answer_of_the_file_under_its_names(
    tokens: Path, there: CloudProcess, edge: CallEdge, tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)
    fed: dict[str, Any] = {
        "ids": rng.integers(0, 4, (1, 6)),
        "mask": rng.integers(0, 2, (1, 6)),
        "flag": np.array([[True]]),
    }
    np.savez(tmp_path / "x.npz", **fed)
    answer = tmp_path / "answer.npz"
    flags = ("--input", str(tmp_path / "x.npz"), "--output", str(answer), "--point", "1", "--json")
    _documents(edge("-t", str(tokens), *at(there), *flags))
    expected = onnxruntime.InferenceSession(str(tokens), providers=["CPUExecutionProvider"]).run(None, fed)
    with np.load(answer) as found:
        assert found.files == ["y", "z"]
        for array, name in zip(expected, found.files, strict=True):
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6)


def test_a_cloud_without_torch_serves_an_edge_without_it(net: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, edgecloud as ec\n"
        "net = ec.load(sys.argv[1])\n"
        "with ec.Cloud(networks=[net], cache_dir=sys.argv[2]) as cloud:\n"
        "    with ec.Edge(net, cloud=cloud.address, point=4, cache_dir=sys.argv[2]) as edge:\n"
        "        answer = edge(net.sample)\n"
        "same = [np.allclose(a, b, 1e-4, 1e-6) for a, b in zip(answer.outputs, net(net.sample))]\n"
        "print(answer.completed_by, all(same), list(answer.value), 'torch' in sys.modules)\n"
    )
    run = run_without(EDGE, code, str(net), str(tmp_path))
    assert run.code == 0, run.stderr
    assert run.stdout.split() == ["split", "True", "['y']", "False"]


def test_the_edge_answers_alone_without_a_cloud(net: Path, edge: CallEdge) -> None:
    (document,) = _documents(edge("-t", str(net), "-i", "127.0.0.1:1", "--fallback", "always", "--json", "--verify"))
    assert document["completed_by"] == "fallback"
    assert document["verify"]["matches"]


def test_tasks_and_profiles_take_it(net: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--cache-dir", str(cache), "-t", str(net), "--json"]
    run = call(tasks_edge_api.main, [*flags, "--tasks", "6", "--verify"], capsys)
    assert run.code == 0, run.stderr
    run = call(deployment.main, ["profile", *flags, "--threads", "1"], capsys)
    assert run.code == 0, run.stderr
    assert run.document["measured_on"]["backend"] == "onnxruntime"


def test_what_does_not_go_with_it_is_said_in_one_line(
    net: Path, there: CloudProcess, edge: CallEdge, tmp_path: Path
) -> None:
    changed = onnx.load_model(str(net))
    changed.producer_name = "another exporter"
    other = onnx_files.write(tmp_path / "net.onnx", changed)
    unknown = onnx_files.write(tmp_path / "unknown.onnx", onnx_files.pictures())
    picture = tmp_path / "p.png"
    picture.write_bytes(b"")
    for arguments, code, expected in (
        (("-t", str(net), "--weights", "imagenet"), 2, "holds its weights"),
        (("-t", str(net), "--image", str(picture)), 2, "does not take an image: it takes a tensor"),
        (("-t", str(net), "--backend", "torch"), 2, "onnxruntime"),
        (("-t", str(tmp_path / "none.onnx")), 2, "no file"),
        (("-t", str(other)), 4, "differ"),
        (("-t", str(unknown)), 4, "unknown.onnx"),
    ):
        registry._OWN.clear()
        run = edge(*arguments, *at(there))
        assert (run.code, expected in run.stderr) == (code, True), run.stderr
        assert len(run.stderr.strip().splitlines()) == 1
