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
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_files.write(tmp_path_factory.mktemp("edge") / "words.onnx", onnx_files.words())


@pytest.fixture(scope="module")
def there(words: Path, cache: Path) -> Iterator[CloudProcess]:
    """A cloud that was started with its own copy of the file."""
    folder = cache / "of the cloud"
    folder.mkdir(exist_ok=True)
    with running_cloud(cache, "--network", str(shutil.copy(words, folder))) as cloud:
        yield cloud


def _documents(run: Finished) -> list[dict[str, Any]]:
    assert run.code == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_point_of_an_edge_without_torch_gives_what_the_file_gives(
    words: Path, there: CloudProcess, tmp_path: Path
) -> None:
    flags = ("--points", "all", "--verify", "--json", "--warm-up", "0", "--cache-dir", str(tmp_path))
    run = call_without_torch("edge_api", "-t", str(words), *at(there), *flags, nor=("scipy", "rich", "PIL", "ssl"))
    documents = _documents(run)
    assert len(documents) == len(registry.resolve_trusted(str(words), tmp_path).network().graph.points) > 4
    for document in documents:
        assert document["network"] == "words.onnx"
        assert document["verify"]["matches"]
        assert document["verify"]["max_abs_diff"] <= 1e-5
        assert document["weights_origin"] == "file words.onnx"
        assert document["plan"]["backend"]["edge"] == "onnxruntime"


def test_a_tensor_of_the_users_own_gets_the_answer_of_the_file(
    words: Path, there: CloudProcess, edge: CallEdge, tmp_path: Path
) -> None:
    x = np.random.default_rng(8).standard_normal((1, 5, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    answer = tmp_path / "answer.npz"
    flags = ("--input", str(tmp_path / "x.npy"), "--output", str(answer), "--point", "3", "--json")
    _documents(edge("-t", str(words), *at(there), *flags))
    session = onnxruntime.InferenceSession(str(words), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})
    with np.load(answer) as found:
        for array, name in zip(expected, found.files, strict=True):
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6)


def test_a_cloud_without_torch_serves_an_edge_without_it(words: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, edgecloud as ec\n"
        "net = ec.load(sys.argv[1])\n"
        "with ec.Cloud(networks=[net], cache_dir=sys.argv[2]) as cloud:\n"
        "    with ec.Edge(net, cloud=cloud.address, point=4, cache_dir=sys.argv[2]) as edge:\n"
        "        answer = edge(net.sample)\n"
        "same = [np.allclose(a, b, 1e-4, 1e-6) for a, b in zip(answer.outputs, net(net.sample))]\n"
        "print(answer.completed_by, all(same), len(same), 'torch' in sys.modules)\n"
    )
    run = run_without(EDGE, code, str(words), str(tmp_path))
    assert run.code == 0, run.stderr
    assert run.stdout.split() == ["split", "True", "2", "False"]


def test_the_edge_answers_alone_without_a_cloud(words: Path, edge: CallEdge) -> None:
    (document,) = _documents(edge("-t", str(words), "-i", "127.0.0.1:1", "--fallback", "always", "--json", "--verify"))
    assert document["completed_by"] == "fallback"
    assert document["verify"]["matches"]


def test_tasks_and_profiles_take_it(words: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--cache-dir", str(cache), "-t", str(words), "--json"]
    run = call(tasks_edge_api.main, [*flags, "--tasks", "6", "--verify"], capsys)
    assert run.code == 0, run.stderr
    run = call(deployment.main, ["profile", *flags, "--threads", "1"], capsys)
    assert run.code == 0, run.stderr
    assert run.document["measured_on"]["backend"] == "onnxruntime"


def test_what_does_not_go_with_it_is_said_in_one_line(
    words: Path, there: CloudProcess, edge: CallEdge, tmp_path: Path
) -> None:
    changed = onnx.load_model(str(words))
    changed.producer_name = "another exporter"
    other = onnx_files.write(tmp_path / "words.onnx", changed)
    unknown = onnx_files.write(tmp_path / "unknown.onnx", onnx_files.pictures())
    picture = tmp_path / "p.png"
    picture.write_bytes(b"")
    for arguments, code, expected in (
        (("-t", str(words), "--weights", "imagenet"), 2, "holds its weights"),
        (("-t", str(words), "--image", str(picture)), 2, "does not take an image: it takes a tensor"),
        (("-t", str(words), "--backend", "torch"), 2, "onnxruntime"),
        (("-t", str(tmp_path / "none.onnx")), 2, "no file"),
        (("-t", str(other)), 4, "differ"),
        (("-t", str(unknown)), 4, "unknown.onnx"),
    ):
        run = edge(*arguments, *at(there))
        assert (run.code, expected in run.stderr) == (code, True), run.stderr
        assert len(run.stderr.strip().splitlines()) == 1
