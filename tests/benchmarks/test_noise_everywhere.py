"""Who runs two things in turns says the noise of what is told of them, with the one helper that there is."""

import ast
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
IN_TURNS = ("in turns", "by turns", "take turns", "Interleaved")
EXCEPT = {
    "cells.py": "the cut that runs is told beside how far even and odd turns of the best one differ",
    "codecs.py": "the photographs take turns, and sizes have no noise",
    "decision.py": "every link is told, from the lowest ratio to the highest",
    "noise.py": "the helper itself",
    "prediction_onnxruntime.py": "every error is told beside that of a second measurement",
}


def compares(path: Path) -> bool:
    """Whether its texts say that things take turns."""
    return any(words in path.read_text(encoding="utf-8") for words in IN_TURNS)


def modules_of(path: Path) -> set[str]:
    """What it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return names | {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}


COMPARING = sorted(path for path in FOLDER.rglob("*.py") if compares(path) and path.name not in EXCEPT)


@pytest.mark.parametrize("path", COMPARING, ids=lambda path: path.stem)
def test_what_takes_turns_is_compared_with_its_noise(path: Path) -> None:
    assert "benchmarks.noise" in modules_of(path)


def test_there_are_some() -> None:
    assert len(COMPARING) > 10
