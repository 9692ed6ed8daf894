"""`--output`: what is read back is the answer, number for number, and what cannot be written is said in a line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn

from edgecloud import edge_api, tasks_edge_api
from edgecloud.cli import answer_file
from edgecloud.engine.answers import names_classes
from edgecloud.net.tensors import Array
from edgecloud.utils.dtypes import BFLOAT16, as_type
from edgecloud.utils.errors import UsageError
from tests.conftest import Finished, call

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda name: drawn.arrays(name, drawn.array_shapes(min_dims=0, max_dims=4)))
ABOUT = {"model": "m", "input": "i"}
WORDS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}

TWO_OUTPUTS = """
import torch
from torch import nn

INPUT_SHAPE = (3, 8, 8)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = torch.relu(self.body(x))
        return self.head(y), y.mean((2, 3))

def build():
    torch.manual_seed(7)
    return Net()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


def from_json(output: dict[str, object]) -> Array:
    """What a reader makes of one output."""

    def number(value: object) -> object:
        return [number(each) for each in value] if isinstance(value, list) else WORDS.get(str(value), value)

    return np.array(number(output["values"]), output["dtype"]).reshape(output["shape"])  # type: ignore[call-overload,no-any-return]


def test_outputs_have_the_names_that_they_have_in_the_answer(tmp_path: Path) -> None:
    assert answer_file.names_of(1, ("",)) == ("output",)
    assert answer_file.names_of(2, ("0", "1")) == ("output_0", "output_1")
    names = ("logits", "out.hidden", "0.1", "a/../b", "logits")
    called = ("logits", "out.hidden", "output_0.1", "a_.._b", "logits:2")
    assert answer_file.names_of(5, names) == called
    outputs = [np.full((1, 2), number, np.float32) for number in range(5)]
    answer_file.write(tmp_path / "a.npz", ABOUT, outputs, names)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert tuple(read.files) == called
        assert read["logits:2"].tolist() == [[4, 4]]
    assert [each["name"] for each in answer_file.describe(outputs, names)] == list(called)


def test_complex_numbers_and_bfloat16_are_written(tmp_path: Path) -> None:
    halves = as_type(np.array([1.5, -2.0]), BFLOAT16)
    answer_file.write(tmp_path / "a.json", ABOUT, [np.array([1 + 2j, np.inf]), halves])
    document = json.loads((tmp_path / "a.json").read_text())
    told = [(each["dtype"], each["values"]) for each in document["outputs"]]
    assert told == [("complex128", [[1.0, 2.0], ["Infinity", 0.0]]), ("bfloat16", [1.5, -2.0])]
    answer_file.write(tmp_path / "a.npy", ABOUT, [halves])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.array([1.5, -2.0], np.float32), strict=True)


@given(st.lists(ARRAYS, min_size=1, max_size=3))
def test_every_number_comes_back(folder: Path, outputs: list[Array]) -> None:
    names = answer_file.names_of(len(outputs))
    answer_file.write(folder / "a.npz", ABOUT, outputs)
    with np.load(folder / "a.npz", allow_pickle=False) as read:
        assert tuple(read.files) == names
        for name, array in zip(names, outputs, strict=True):
            np.testing.assert_array_equal(read[name], array, strict=True)
    answer_file.write(folder / "a.json", ABOUT, outputs)
    document = json.loads((folder / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert {"model": document["model"], "input": document["input"]} == ABOUT
    assert [output["name"] for output in document["outputs"]] == list(names)
    for output, array in zip(document["outputs"], outputs, strict=True):
        np.testing.assert_array_equal(from_json(output), array, strict=True)


@given(ARRAYS)
def test_one_array_is_saved_as_numpy_saves_it(folder: Path, array: Array) -> None:
    answer_file.write(folder / "a.npy", ABOUT, [array])
    np.testing.assert_array_equal(np.load(folder / "a.npy", allow_pickle=False), array, strict=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", r"suffix must be \.npz, \.npy or \.json"),
        ("a", "suffix must be"),
        ("none/a.npz", "no directory"),
        ("here.npz", "is a directory"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_at_once(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "here.npz").mkdir()
    with pytest.raises(UsageError, match=message):
        answer_file.check_name(tmp_path / name)


def test_npy_is_for_one_output_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 2 outputs: use "):
        answer_file.write(tmp_path / "a.npy", ABOUT, [np.zeros(1), np.zeros(1)])
    with pytest.raises(UsageError, match=r"must be \.npz or \.json"):
        answer_file.answers_to(tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", answer_file.SEVERAL)
def test_answers_of_many_tasks_go_into_one_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"all{suffix}"
    path.write_text("earlier")
    expected: dict[int, list[Array]] = {
        number: [np.full((1, number), number, np.float32), np.arange(number)] for number in (3, 1, 12)
    }
    with answer_file.answers_to(path) as answers:
        for number, outputs in expected.items():
            answers.add(number, ABOUT, outputs)
            assert path.read_text() == "earlier"
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as read:
            found = {n: [read[f"{n}/output_0"], read[f"{n}/output_1"]] for n in expected}
            assert len(read.files) == 2 * len(expected)
    else:
        tasks = json.loads(path.read_text())["tasks"]
        found = {task["id"]: [from_json(output) for output in task["outputs"]] for task in tasks}
    for number, outputs in expected.items():
        for ours, right in zip(found[number], outputs, strict=True):
            np.testing.assert_array_equal(ours, right, strict=True)


def test_what_ends_early_leaves_the_earlier_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    path.write_text("earlier")

    def interrupted() -> None:
        with answer_file.answers_to(path) as answers:
            answers.add(1, ABOUT, [np.zeros(2)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [each.read_text() for each in tmp_path.iterdir()] == ["earlier"]


class _Full:
    """A format whose disk is full after the first answer."""

    def __init__(self, file: object) -> None:
        self.count = 0

    def add(self, *about: object) -> None:
        self.count += 1
        if self.count > 1:
            raise OSError(28, "No space left on device")

    def end(self) -> None:
        raise OSError(28, "No space left on device")


def test_tasks_go_on_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(answer_file._FORMATS, ".npz", _Full)

    def all_added() -> None:
        with answer_file.answers_to(tmp_path / "all.npz") as answers:
            for number in range(3):
                answers.add(number, ABOUT, [np.zeros(2)])
            assert answers.count == 1

    with pytest.raises(UsageError, match=r"cannot write .*all\.npz: No space left"):
        all_added()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shapes", "dtype", "labels", "is_one"),
    [
        ([(1, 10)], "float32", (), True),
        ([(1, 1)], "float32", (), False),
        ([(1,)], "float32", (), False),
        ([()], "float32", (), False),
        ([(1, 10)], "int64", (), False),
        ([(1, 10), (1, 10)], "float32", ("a",), False),
        ([(1, 28, 45)], "float32", ("a",), True),
        ([(1, 16, 768)], "float32", (), False),
        ([(4, 10)], "float32", ("a",), True),
        ([(300, 6)], "float32", (), False),
        ([(1, 21, 8, 8)], "float32", ("a",), False),
    ],
)
def test_only_a_row_of_numbers_names_classes(
    shapes: list[tuple[int, ...]], dtype: str, labels: tuple[str, ...], is_one: bool
) -> None:
    assert names_classes([np.zeros(shape, dtype) for shape in shapes], labels, ()) is is_one


# --- the two programs


@pytest.fixture
def alone(cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """edge_api.py in this process, with all on the edge."""
    return lambda *flags: call(edge_api.main, ["--cache-dir", str(cache), "--threads", "1", *flags], capsys)


def test_the_file_holds_what_the_network_answers(alone: Callable[..., Finished], tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "two.py").write_text(TWO_OUTPUTS)
    scope: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(TWO_OUTPUTS, scope)
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in scope["build"]().eval()(torch.from_numpy(x))]
    flags = ("-t", str(tmp_path / "two.py"), "--input", str(tmp_path / "x.npy"), "--point", "3")
    done = alone(*flags, "--output", str(tmp_path / "y.npz"), "--json")
    assert done.code == 0, done.stderr
    described = [{"name": f"output_{n}", "shape": list(a.shape), "dtype": "float32"} for n, a in enumerate(expected)]
    assert done.document["result"] == {"top": [], "shape": [1, 2, 8, 8], "outputs": described}
    with np.load(tmp_path / "y.npz") as read:
        for number, array in enumerate(expected):
            np.testing.assert_allclose(read[f"output_{number}"], array, atol=1e-6, strict=True)
    said = alone(*flags)
    assert "output_1: float32, shape 1 x 4" in said.stdout
    assert "%  " not in said.stdout.split("answer")[1]
    refused = alone(*flags, "--output", str(tmp_path / "y.npy"))
    assert (refused.code, "has 2 outputs: use .npz" in refused.stderr) == (2, True)


def test_of_several_points_there_is_no_one_answer(alone: Callable[..., Finished], tmp_path: Path) -> None:
    done = alone("-t", "le_net", "--points", "all", "--output", str(tmp_path / "y.npz"))
    assert (done.code, "--points cannot be combined with --output" in done.stderr) == (2, True)


def test_every_task_leaves_its_answer(cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--cache-dir", str(cache), "--threads", "1", "-i", "127.0.0.1", "-p", "1", "--fallback", "always"]
    flags += ["-t", "le_net", "--tasks", "3", "--output", str(tmp_path / "all.npz"), "--json"]
    done = call(tasks_edge_api.main, flags, capsys)
    assert done.code == 0, done.stderr
    with np.load(tmp_path / "all.npz") as read:
        assert sorted(read.files) == [f"{number}/output" for number in (1, 2, 3)]
        tops = {str(task["id"]): task["top"] for task in done.document["tasks"]}
        assert {name.split("/")[0]: int(read[name].argmax()) for name in read.files} == tops
