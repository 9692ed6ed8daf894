"""Without the libraries of the extras: what needs one names it with the extra, and an edge needs none."""

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from edgecloud.models import inputs
from edgecloud.utils import extras, names
from tests.conftest import LONG_S, ROOT, THREADS, CloudProcess, at, run_script

CALLS = """
import contextlib, importlib, io, json, logging, sys
blocked, calls = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(blocked))
found = []
for name, arguments in calls:
    told = io.StringIO()
    logging.root.handlers.clear()  # that of the call before
    with contextlib.redirect_stderr(told):
        try:
            code = importlib.import_module(f"edgecloud.{name}").main(arguments)
        except SystemExit as end:
            code = end.code
    found.append([code, told.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the calls need to come so far, and predictors that would be read."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "tasks.xlsx").write_bytes(b"PK\x03\x04")
    (folder / "tasks.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    layer = {"id": "a", "inputs": [0], "bytes": 10, "edge_s": 0.1, "cloud_s": 0.01}
    (folder / "graph.json").write_text(json.dumps({"name": "x", "layers": [layer]}))
    (folder / "records").mkdir()
    (folder / "fitted" / "predictors").mkdir(parents=True)
    (folder / "fitted" / "predictors" / "edge.skops").write_bytes(b"x")
    return folder


def uses(files: Path) -> list[tuple[str, str, list[str]]]:
    """A library, and a call that cannot do without it."""
    cache = ["--cache-dir", str(files / "cache")]
    plan = ["plan", "--bandwidth", "5mbit", "--graph", str(files / "graph.json")]
    baselines = ["--link", "5mbit", "--baselines", "neurosurgeon", "--out", str(files / "grid")]
    return [
        ("matplotlib", "deployment", [*plan, "--plots", str(files)]),
        ("matplotlib", "deployment", [*plan, "--map", str(files / "x.png")]),
        ("matplotlib", "tasks_edge_api", ["--plot", str(files / "x.png")]),
        ("openpyxl", "tasks_edge_api", ["--excel", str(files / "x.xlsx")]),
        ("openpyxl", "deployment", ["profile", "-t", "le_net", "--excel", str(files / "x.xlsx")]),
        ("openpyxl", "tasks_edge_api", [*cache, "--tasks-file", str(files / "tasks.xlsx")]),
        ("xlrd", "tasks_edge_api", [*cache, "--tasks-file", str(files / "tasks.xls")]),
        ("prometheus_client", "cloud_api", [*cache, "-p", "0", "--metrics-port", "0"]),
        ("h2", "cloud_api", [*cache, "-p", "0", "--grpc-port", "0"]),
        ("jinja2", "lab.__main__", ["report", str(files / "records")]),
        ("ray", "cloud_api", [*cache, "-p", "0", "--workers", "ray"]),
        ("sklearn", "deployment", ["fit", *cache]),
        ("sklearn", "deployment", ["calibrate", "-t", "le_net", *cache]),
        ("sklearn", "edge_api", ["-t", "le_net", "--times", "predicted", "--cache-dir", str(files / "fitted")]),
        ("sklearn", "lab.__main__", ["run", "--model", "le_net", *baselines]),
    ]


@pytest.fixture(scope="module")
def found(files: Path, cloud: CloudProcess) -> dict[str, tuple[int, str]]:
    """By their calls: exit codes of programs that cannot import what the extras bring, and what they say to stderr.

    All in one process: torch is loaded once.
    """
    edge = ["-t", "le_net", "--verify", "--threads", THREADS, *at(cloud)]
    calls: dict[str, tuple[str, list[str]]] = {
        str(number): (program, arguments) for number, (_, program, arguments) in enumerate(uses(files))
    }
    calls["edge"] = "edge_api", [*edge, "--point", "3", "--cache-dir", str(files / "cache")]
    calls["tasks"] = "tasks_edge_api", [*edge, "--tasks", "2", "--cache-dir", str(files / "cache")]
    calls["auto"] = "edge_api", [*edge, "--cache-dir", str(files / "fitted")]
    done = run_script("-c", CALLS, json.dumps([list(extras.EXTRAS), list(calls.values())]), timeout_s=LONG_S)
    assert done.code == 0, done.stderr
    return dict(zip(calls, map(tuple, json.loads(done.stdout.splitlines()[-1])), strict=True))


def test_each_use_of_a_missing_library_names_it_in_one_line(found: dict[str, tuple[int, str]], files: Path) -> None:
    for number, (library, program, arguments) in enumerate(uses(files)):
        code, told = found[str(number)]
        assert code == 1, (program, arguments, told)
        assert told.endswith(f": needs {extras.package_of(library)}: {extras.IN_CHECKOUT}\n"), (
            program,
            arguments,
            told,
        )
        assert told.count("\n") == 1, told
    assert not (files / "grid").exists(), "it was said before anything was made"


@pytest.mark.parametrize("program", ["edge", "tasks"])
def test_an_edge_needs_no_library_of_an_extra(program: str, found: dict[str, tuple[int, str]]) -> None:
    assert found[program] == (0, "")


def test_predictors_that_cannot_be_read_here_are_no_reason_to_fail(found: dict[str, tuple[int, str]]) -> None:
    """`--times auto` measures, and says why."""
    code, told = found["auto"]
    assert code == 0, told
    assert "needs scikit-learn: " in told
    assert "instead" in told


def test_the_photograph_that_most_networks_take_comes_with_the_program() -> None:
    for path in inputs.samples("photo"):
        assert path.parent == ROOT / "models" / "zoo"
        assert f"| {path.name} |" in (ROOT / "models" / "zoo" / "PICTURES.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("library", extras.EXTRAS)
def test_an_installation_is_told_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(names, "is_checkout", lambda: False)
    with pytest.raises(extras.MissingLibraryError) as found:
        extras.require("json", library)
    package, extra = extras.package_of(library), extras.EXTRAS[library]
    assert str(found.value) == f"needs {package}: pip install 'edge-cloud-inference[{extra}]'"
    with pytest.raises(extras.MissingLibraryError, match=r"\[lab\]'$"):
        extras.require(library, extra="lab")
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


@pytest.mark.parametrize("package", ["torch", "onnxruntime", "numpy", "pytest", "a_package_that_there_is_not"])
def test_the_version_of_a_package_is_that_which_python_says(package: str) -> None:
    try:
        expected = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        expected = ""
    assert extras.version_of(package) == expected
