"""Without the libraries of the extras: what needs one names it with the extra, and an edge needs none."""

import json
import sys
from pathlib import Path

import pytest

from edgecloud.utils import extras, names
from tests.conftest import THREADS, run_script

CALLS = """
import contextlib, importlib, io, json, sys
blocked, calls = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(blocked))
found = []
for name, arguments in calls:
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        try:
            code = importlib.import_module(f"edgecloud.{name}").main(arguments)
        except SystemExit as end:
            code = end.code
    found.append([code, told.getvalue()])
print(json.dumps(found))
"""


def called(*calls: tuple[str, list[str]]) -> list[tuple[int, str]]:
    """Exit codes of programs that cannot import what the extras bring, with all that they say to stderr."""
    done = run_script("-c", CALLS, json.dumps([list(extras.EXTRAS), calls]))
    assert done.code == 0, done.stderr
    return [(code, told) for code, told in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the calls need to come so far."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "tasks.xlsx").write_bytes(b"PK\x03\x04")
    (folder / "tasks.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    layer = {"id": "a", "inputs": [0], "bytes": 10, "edge_s": 0.1, "cloud_s": 0.01}
    (folder / "graph.json").write_text(json.dumps({"name": "x", "layers": [layer]}))
    (folder / "records").mkdir()
    return folder


def test_each_use_of_a_missing_library_names_it_in_one_line(files: Path) -> None:
    cache = ["--cache-dir", str(files)]
    plan = ["plan", "--bandwidth", "5mbit", "--graph", str(files / "graph.json")]
    uses: list[tuple[str, str, list[str]]] = [
        ("matplotlib", "deployment", [*plan, "--plots", str(files)]),
        ("matplotlib", "deployment", [*plan, "--map", str(files / "x.png")]),
        ("matplotlib", "tasks_edge_api", ["--plot", str(files / "x.png")]),
        ("openpyxl", "tasks_edge_api", ["--excel", str(files / "x.xlsx")]),
        ("openpyxl", "deployment", ["profile", "-t", "le_net", "--excel", str(files / "x.xlsx")]),
        ("openpyxl", "tasks_edge_api", [*cache, "--tasks-file", str(files / "tasks.xlsx")]),
        ("xlrd", "tasks_edge_api", [*cache, "--tasks-file", str(files / "tasks.xls")]),
        ("prometheus_client", "cloud_api", [*cache, "-p", "0", "--metrics-port", "0"]),
        ("jinja2", "lab.__main__", ["report", str(files / "records")]),
        ("sklearn", "deployment", ["fit", *cache]),
        ("sklearn", "deployment", ["profile", "--budget", "1s", *cache]),
        ("sklearn", "deployment", ["calibrate", "-t", "le_net", *cache]),
        ("sklearn", "lab.__main__", ["run", "--model", "le_net", "--link", "5mbit", "--baselines", "neurosurgeon",
                                     "--out", str(files / "grid")]),
    ]  # fmt: skip
    found = called(*((program, arguments) for _, program, arguments in uses))
    for (library, program, arguments), (code, told) in zip(uses, found, strict=True):
        assert code == 1, (arguments, told)
        line = f": needs {extras.package_of(library)}: {extras.IN_CHECKOUT}\n"
        assert told.endswith(line), (program, arguments, told)
        assert told.count("\n") == 1, told
    assert not (files / "grid").exists(), "it was said before anything was made"


def test_an_edge_needs_no_library_of_an_extra(tmp_path: Path) -> None:
    """Also the photograph that is the default input of most networks comes with the program."""
    flags = ["--cache-dir", str(tmp_path), "--threads", THREADS, "--verify"]
    [(code, told), (of_tasks, told_of_tasks)] = called(
        ("edge_api", ["-t", "mobile_net", "--point", "3", *flags]),
        ("tasks_edge_api", ["-t", "le_net", "--tasks", "3", *flags]),
    )
    assert (code, told) == (0, "")
    assert of_tasks == 0, told_of_tasks


def test_predictors_that_cannot_be_read_here_are_no_reason_to_fail(tmp_path: Path) -> None:
    """`--times auto` measures, and says why; `--times predicted` has no other way."""
    for name in ("edge", f"edge-{THREADS}t"):
        (tmp_path / "predictors").mkdir(exist_ok=True)
        (tmp_path / "predictors" / f"{name}.skops").write_bytes(b"x")
    flags = ["--cache-dir", str(tmp_path), "--threads", THREADS, "-t", "le_net", "--bandwidth", "5mbit"]
    [(code, told), (predicted, told_of_it)] = called(
        ("edge_api", flags), ("edge_api", [*flags, "--times", "predicted"])
    )
    assert code == 0, told
    assert "needs scikit-learn: " in told
    assert "the network is measured instead" in told
    assert predicted == 1
    assert "needs scikit-learn: " in told_of_it


@pytest.mark.parametrize("library", extras.EXTRAS)
def test_an_installation_is_told_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(names, "is_checkout", lambda: False)
    with pytest.raises(extras.MissingLibraryError) as found:
        extras.require("json", library)
    package, extra = extras.package_of(library), extras.EXTRAS[library]
    assert str(found.value) == f"needs {package}: pip install 'edge-cloud-inference[{extra}]'"
    assert (found.value.library, found.value.extra, found.value.exit_code) == (library, extra, 1)


def test_what_is_there_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.require("matplotlib", "openpyxl")
    monkeypatch.setattr(names, "is_checkout", lambda: False)
    assert extras.installs("no_such_library") == "pip install --force-reinstall 'no_such_library'"
    known = [
        "torch<2.14,>=2.11",
        "torchvision<0.29,>=0.26",
        "pyyaml<7,>=6",
        "skops<1; extra == 'predictors'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: known)
    assert extras.installs("torch") == "pip install --force-reinstall 'torch<2.14,>=2.11'"
    assert extras.installs("yaml") == "pip install --force-reinstall 'pyyaml<7,>=6'"
