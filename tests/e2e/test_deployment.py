"""deployment.py: the layer table of a measured network, printed and exported."""

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from openpyxl import load_workbook

from edgecloud import deployment
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.predictor.layer_table import COLUMNS, layer_table, to_csv
from edgecloud.predictor.profile import Profile
from tests.engine.test_executor import KEY


@pytest.fixture
def profile(cache: Path) -> Callable[..., int]:
    """deployment.py profile on le_net."""

    def run(*arguments: str) -> int:
        return deployment.main(["profile", "-t", "le_net", "--cache-dir", str(cache), "--threads", "2", *arguments])

    return run


def test_the_table_adds_up() -> None:
    layers = (
        Layer("input", "input", (), 8, (1, 2)),
        Layer("a", "ReLU", (0,), 12, (1, 3)),
        Layer("b", "Tanh", (1,), 4, (1, 1)),
    )
    passes = ((0.0, 1.0, 3.0), (0.0, 2.0, 5.0), (0.0, 9.0, 4.0))
    rows = layer_table(LayerGraph("g", layers, (2,)), Profile(KEY, passes, {}))
    assert [(row.seconds, row.accumulated_s) for row in rows] == [(0.0, 0.0), (2.0, 2.0), (4.0, 6.0)]
    assert (rows[1].fastest_s, rows[1].slowest_s, rows[1].count) == (1.0, 9.0, 3)
    assert to_csv(rows).splitlines()[2] == "1,a,ReLU,2.0,1.0,9.0,1x3,3,12,2.0"


def test_json_csv_and_workbook_say_the_same(
    profile: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, book = tmp_path / "t.csv", tmp_path / "t.xlsx"
    assert profile("--json", "--csv", str(table), "--excel", str(book)) == 0
    document = json.loads(capsys.readouterr().out)
    layers = document["layers"]
    assert [layer["layer"] for layer in layers[:3]] == ["input", "features.0", "features.1"]
    assert document["total_s"] == pytest.approx(sum(layer["seconds"] for layer in layers))
    assert document["measured_on"]["threads"] == str(torch.get_num_threads())
    assert len(document["passes"][0]) == len(layers) == 13
    with table.open() as file:
        assert [float(row["seconds"]) for row in csv.DictReader(file)] == [layer["seconds"] for layer in layers]
    workbook = load_workbook(book)
    assert workbook.sheetnames == ["le_net", "about"]
    rows = list(workbook["le_net"].values)
    assert rows[0] == COLUMNS
    assert [row[3] for row in rows[1:]] == pytest.approx([layer["seconds"] for layer in layers])
    with zipfile.ZipFile(book) as parts:
        assert "xl/charts/chart1.xml" in parts.namelist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.xlsx"]


def test_times_are_measured_once_unless_fresh_ones_are_wanted(
    profile: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def passes(*arguments: str) -> object:
        assert profile("--json", *arguments) == 0
        return json.loads(capsys.readouterr().out)["passes"]

    first = passes()
    assert passes() == first
    assert passes("--fresh") != first


def test_people_get_a_table(profile: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert profile() == 0
    shown = capsys.readouterr().out
    for words in ("features.0", "Conv2d", "1x6x28x28", "accumulated", "2 threads"):
        assert words in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--csv", "/no/such/folder/t.csv"), "cannot write"),
        (("--excel", "/no/such/folder/t.xlsx"), "cannot write"),
        (("--excel", "t.xls"), ".xlsx"),
        (("-d", "abacus"), "abacus"),
        (("--weights", "none.pt"), "none.pt"),
        (("-t", "nope"), "unknown network"),
    ],
)
def test_bad_arguments(
    arguments: tuple[str, ...], words: str, profile: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert profile(*arguments) == 2
    assert words in capsys.readouterr().err
