"""The public names: what importing them costs, that each explains itself, and that every example in them runs."""

import doctest
import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

import edgecloud as ec
from tests.conftest import ROOT

HEAVY = ("torch", "torchvision", "numpy", "scipy", "sklearn", "socket", "rich", "PIL")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ERRORS = [name for name in ec.__all__ if name.endswith("Error")]
RECORDS = ["Answer", "Network", "Plan", "Profile", "StageTimes"]
"""What is given out: callers do not make it, so it raises nothing."""
WORDS = {
    "Answer": ("shape", "seconds"),
    "Cloud": ("port", "characters"),
    "Edge": ("net.inputs", "dtype", "seconds"),
    "Frames": ("seconds",),
    "Goal": ("seconds", "joule"),
    "Link": ("bits", "bytes a second", "seconds"),
    "Network": ("input_shape",),
    "Plan": ("seconds", "ids"),
    "Profile": ("seconds",),
    "StageTimes": ("seconds", "bytes"),
    "load": ("shapes", "dtypes", "by position", "by name"),
    "plan": ("seconds", "bytes"),
    "profile": ("seconds",),
}
"""Units and shapes that have to be told of each."""


def test_importing_it_loads_nothing_heavy_and_takes_no_time() -> None:
    code = (
        "import sys, time; began = time.process_time(); import edgecloud; took_s = time.process_time() - began\n"
        f"print(took_s, sorted(set({HEAVY}) & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    took_s, loaded = done.stdout.split(" ", 1)
    assert loaded.strip() == "[]"
    assert float(took_s) < 0.1


def test_there_are_few_names_and_all_of_them_are_there() -> None:
    assert len(ec.__all__) <= 20
    assert list(ec.__all__) == sorted(ec.__all__)
    assert set(ec.__all__) <= set(dir(ec))
    for name in ec.__all__:
        assert getattr(ec, name) is getattr(ec, name)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        ec.lod  # noqa: B018


def test_it_is_typed() -> None:
    assert (ROOT / "edgecloud" / "py.typed").is_file()


@pytest.mark.parametrize("name", ec.__all__)
def test_every_public_name_tells_shapes_units_and_errors(name: str) -> None:
    text = inspect.getdoc(getattr(ec, name)) or ""
    assert ">>> import edgecloud as ec" in text
    for word in WORDS.get(name, ()):
        assert word.lower() in text.lower(), word
    assert name in ERRORS or name in WORDS
    assert name in ERRORS or name in RECORDS or "Raises" in text


@pytest.mark.parametrize("name", ec.__all__)
def test_every_public_method_has_a_docstring(name: str) -> None:
    made = getattr(ec, name)
    for attribute, value in vars(made).items() if inspect.isclass(made) else ():
        if not attribute.startswith("_") and (callable(value) or isinstance(value, property | classmethod)):
            assert inspect.getdoc(getattr(made, attribute)), f"{name}.{attribute}"


def examples() -> Iterator[doctest.DocTest]:
    """Of every public name, and of the package itself."""
    finder = doctest.DocTestFinder(recurse=False)
    for name, made in (("edgecloud", ec), *((name, getattr(ec, name)) for name in ec.__all__)):
        yield from finder.find(made, name, module=False, globs={})


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: str(example.name))
def test_every_example_gives_what_it_says(example: doctest.DocTest) -> None:
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=told.append)
    assert result.attempted
    assert not result.failed, "".join(told)
