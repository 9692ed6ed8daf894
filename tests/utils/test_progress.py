"""What a terminal shows while something goes on: what it is, how far, how long still; and lines of 80 columns."""

import io
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgecloud.cli import script
from edgecloud.cli.task_report import line
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition.cost import StageTimes
from edgecloud.partition.decide import Goal, decide
from edgecloud.partition.throughput import Stages
from edgecloud.tasks.pipeline import TaskRecord
from edgecloud.tasks.planner import TaskPlan
from edgecloud.tasks.tasks import Task
from edgecloud.tools.plan_table import candidates_table
from edgecloud.utils import progress
from edgecloud.utils.output import only_answers
from edgecloud.utils.progress import DETAIL, FILE, LOADING, Steps, on_terminal
from edgecloud.utils.units import middle_cut
from tests.conftest import until
from tests.partition.test_chain import random_problem

MODELS = ("le_net", "mobile_net", "torchvision:mobilenet_v3_large", "a_very_long_name_of_a_network_of_ones_own.py")


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_the_bar_tells_what_is_done_and_the_time_left(tmp_path: Path) -> None:
    console = terminal()
    with on_terminal(console, tmp_path) as show:
        until(lambda: LOADING in text_of(console))
        show("waiting for the cloud", 0.0)
        until(lambda: re.search(r"waiting for the cloud .* so far", text_of(console)))
        for done in range(1, 10):
            show(f"running{DETAIL}{done}", done / 10)
        until(lambda: re.search(r"running .* left", text_of(console)))
    kept = json.loads((tmp_path / FILE).read_text())
    assert set(kept) == {LOADING, "waiting for the cloud"}, "what tells its share itself need not be remembered"
    (tmp_path / FILE).write_text(json.dumps({"waiting for the cloud": 1000.0}))
    again = terminal()
    with on_terminal(again, tmp_path) as show:
        show("waiting for the cloud", 0.0)
        until(lambda: re.search(r"waiting for the cloud .* left", text_of(again)))


def test_imports_move_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MODULES", 10**6)
    console = terminal()
    with on_terminal(console, tmp_path):
        until(lambda: re.search(f"{LOADING} .* left", text_of(console)))


def test_answers_stand_above_the_bar_on_a_terminal_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = terminal()
    with only_answers(), on_terminal(console, tmp_path):
        script.say("to a file")
    assert capsys.readouterr().out == "to a file\n"
    assert "to a file" not in text_of(console)


@given(
    content=st.binary()
    | st.text().map(str.encode)
    | st.just(b'{"a": NaN, "b": 1e999, "c": "x"}')
    | st.just(b'{"a": []}')
)
def test_a_damaged_memory_of_steps_is_none(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("steps") / FILE
    path.write_bytes(content)
    assert Steps(path).share("a", 1.0) <= 0.99


def test_without_a_place_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    steps = Steps(tmp_path / "file" / FILE)
    steps.record("a", 1.0)
    steps.keep()
    assert steps.share("a", 1.0) == 0.0


def record(model: str, *, failed: str = "", number: int = 9999) -> TaskRecord:
    if failed:
        return TaskRecord(Task(number, model), done_s=1234.5, error=failed)
    stages = Stages(0.1, 0.2, 0.1, 0.02)
    choice = TaskPlan(12, 3, "shuffle+zstd", stages, "makespan")
    times = StageTimes(payload_bytes=1_380_000)
    about = {"times": times, "codec": "shuffle+zstd", "completed_by": "fallback"}
    return TaskRecord(Task(number, model, deadline_s=0.1), choice, done_s=1234.5, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize("model", MODELS)
def test_the_line_of_a_task_fits(model: str, columns: int) -> None:
    shown = line(record(model), columns)
    assert len(shown) < columns
    assert all(word in shown for word in ("1234.50 s 9999", "point 12", "1.38 MB shuffle+zstd", "fallback late"))
    assert middle_cut(model, 24) in shown or columns < 100
    failed = line(record(model, failed="the connection " + "broke " * 20), columns).splitlines()
    assert max(map(len, failed)) < columns
    assert " ".join(" ".join(failed).split()).endswith("broke broke"), "no word is broken"


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_of_points_fits(width: int) -> None:
    rng = random.Random(7)
    names = [f"features.denseblock{n}.denselayer{n}.with.a.long.name.conv{n}" for n in range(12)]
    layers = [Layer(name, "k", (n - 1,) if n else (), 1000 * n + 4) for n, name in enumerate(names)]
    graph = LayerGraph("chain", tuple(layers), (len(layers) - 1,))
    problem = random_problem(rng, graph)
    console = terminal(width)
    console.print(candidates_table(graph, decide(problem, Goal()), width=width))
    lines = text_of(console).rstrip("\n").splitlines()
    assert len(lines) == len(layers) + 1
    assert max(map(len, lines)) <= width
    assert all(re.search(r"(us|ms| s) ", text) for text in lines[1:]), "no number is cut"
    assert all(text.rstrip()[-1] in "█▚▒░▓x" for text in lines[1:]), "no bar is cut"


@given(st.text(max_size=60), st.integers(3, 60))
def test_a_middle_is_cut_to_a_length(text: str, length: int) -> None:
    assert len(middle_cut(text, length)) == min(len(text), length)
