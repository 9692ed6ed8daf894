"""The examples run, and say what they should; so do the cells of the notebook, and the program in docs/library.md."""

import json
import re
import runpy
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "examples"
SAYS = {
    "choose_codec.py": r"raw +\d+ bytes.*\n(.*\n)*chosen: \S+\+zstd\n",
    "many_tasks.py": r"plan  point 3: 3 layers on the edge.*\n(.*\n)*40 of 40 answers are the same",
    "split_network.py": r"66 layers.*\n(.*\n)*completed by \w+, .*\nlargest difference .*: (\d\.\de-0[5-9]|0\.0e)",
    "trace.py": r"( +\d+ s .* mbit  point \d.*\n){6}recorded \d+ estimates.*\nseconds,mbit\n",
}
NOTEBOOK = "walkthrough.ipynb"


def test_every_example_has_its_test() -> None:
    """plan_from_table.py is run without torch, by test_planning.py."""
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == {*SAYS, "plan_from_table.py", NOTEBOOK}


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert re.search(SAYS[name], capsys.readouterr().out), name


def cells(path: Path) -> list[str]:
    """The code of a notebook. Raises KeyError where something is missing that the format asks for."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["metadata"]["kernelspec"]["language"]) == (4, "python")
    found = []
    for cell in document["cells"]:
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        assert {"metadata", "source"} <= cell.keys()
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # what it prints is another machine's
            found.append("".join(cell["source"]))
    return found


def test_the_cells_of_the_notebook_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    for cell in cells(FOLDER / NOTEBOOK):
        exec(compile(cell, "<cell>", "exec"), scope)
    assert "split\nfallback since" in capsys.readouterr().out


def test_the_program_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """What the page says that it prints it prints, but for figures."""
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    program, said = re.search(r"```python\n(.*?)```\n.*?```\n(.*?)```", page, re.DOTALL).groups()  # type: ignore[union-attr]
    exec(compile(program, "docs/library.md", "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()] == [line.split()[:2] for line in said.splitlines()]
