"""The commands of an installation, from a folder of the user's that has the same names as our packages.

The wheel is built, and installed by pip into a virtual environment of its own, which sees the libraries of this one.
"""

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecloud import __version__
from edgecloud.utils import names
from tests.conftest import LONG_S, ROOT, Finished, until
from tests.e2e.test_custom_model import write_neighbours

HOSTILE = ("models/__init__.py", "net/__init__.py", "utils.py", "cli.py", "lab/__init__.py", "edgecloud/__init__.py")
COMMANDS = tuple(names.COMMANDS.values())
HEAVY = {"torch", "numpy", "scipy", "rich", "yaml", "sklearn", "matplotlib", "openpyxl", "logging", "dataclasses"}
"""What --help has no time for."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed: make test does")
    folder = tmp_path_factory.mktemp("installed")
    [wheel] = builders.WheelBuilder(str(ROOT)).build(directory=str(folder))
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, "--disable-pip-version-check", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python.parent


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose modules end the program that imports them."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in HOSTILE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"print('imported {name}')\nraise SystemExit('imported {name}')\n")
    return folder


def settings(where: Path) -> dict[str, str]:
    """An environment without this process's own settings of Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE_"))}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(where / "cache")}


def run(where: Path, *command: object, **environment: str) -> Finished:
    """In that folder."""
    words, env = list(map(str, command)), settings(where) | environment
    return Finished(subprocess.run(words, cwd=where, env=env, capture_output=True, text=True, timeout=LONG_S))


def package(installed: Path) -> Path:
    """Where it was installed."""
    [found] = installed.parent.glob("lib/python*/site-packages/edgecloud")
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_of_the_users_and_nothing_heavy(command: str, installed: Path, hostile: Path) -> None:
    done = run(hostile, installed / command, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command} [")
    assert "imported" not in done.stdout
    assert not any(name in done.stdout for name in names.COMMANDS), "names of a checkout"
    assert "docs/" not in done.stdout, "there is no such folder"
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded, "or this says nothing"
    assert not loaded & HEAVY
    version = run(hostile, installed / command, "--version")
    assert (version.code, version.stdout) == (0, f"{command} {__version__}\n")


def test_errors_and_hints_have_the_names_that_are_typed(installed: Path, hostile: Path) -> None:
    done = run(hostile, installed / "edgecloud-deployment", "plan", "-t", "le_net", "--bandwidth", "5mbit", "--json")
    assert done.code == 2
    assert done.stderr.startswith("edgecloud-deployment: no ")
    assert "run edgecloud-deployment profile -t le_net first" in done.stderr
    assert "run edgecloud-deployment profile -t le_net first" in done.document["error"]["message"]
    done = run(hostile, installed / "edgecloud-lab", "docter")
    assert (done.code, done.stderr.startswith("edgecloud-lab: "), "did you mean doctor?" in done.stderr) == (
        2,
        True,
        True,
    )
    (hostile / "one.toml").write_text("[edge_api]\ntype = 'le_net'\npiont = 3\n")
    done = run(hostile, installed / "edgecloud-edge", "--config", "one.toml")
    assert done.code == 2
    assert done.stderr.startswith("edgecloud-edge: one.toml: piont")
    assert "did you mean point?" in done.stderr


def test_an_edge_starts_its_own_programs_and_writes_nothing_into_the_installation(
    installed: Path, hostile: Path
) -> None:
    """A cloud, its loader and a link, each a process of its own, isolated as the edge is."""
    before = {path: path.stat().st_mtime_ns for path in package(installed).rglob("*")}
    flags = ("-t", "le_net", "--emulate-link", "20mbit,5ms", "--point", "3", "--threads", "1", "--verify", "--json")
    done = run(hostile, installed / "python", "-I", "-B", installed / "edgecloud-edge", *flags)
    assert done.code == 0, done.stderr
    assert done.document["verify"]["matches"]
    assert done.document["completed_by"] == "split"
    assert done.document["result"]["top"][0]["label"] == "2"
    assert {path: path.stat().st_mtime_ns for path in package(installed).rglob("*")} == before


def test_a_file_of_the_users_gets_what_lies_beside_it(installed: Path, tmp_path: Path) -> None:
    flags = ("--point", "3", "--threads", "1", "--verify", "--json")
    done = run(tmp_path, installed / "edgecloud-edge", "-t", write_neighbours(tmp_path / "own"), *flags)
    assert done.code == 0, done.stderr
    assert done.document["verify"]["matches"]


def test_a_safe_path_and_an_ascii_locale_will_do(installed: Path, hostile: Path) -> None:
    values = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = run(hostile, installed / "edgecloud-lab", "--language", "zh", "--help", **values)
    assert done.code == 0, done.stderr
    assert "用法：edgecloud-lab" in done.stdout


def test_nobody_who_listens_is_no_traceback(installed: Path, hostile: Path) -> None:
    for redirect, code, told in (
        ("> /dev/full", 1, "edgecloud-edge: cannot write to standard output: No space left on device\n"),
        (">&-", 1, "edgecloud-edge: cannot write to standard output: it is closed\n"),
        ("| true; exit ${PIPESTATUS[0]}", 0, ""),
    ):
        done = run(hostile, "bash", "-c", f"{installed}/edgecloud-edge --help {redirect}")
        assert (done.code, done.stderr) == (code, told)


@pytest.mark.parametrize("library", ["_json", "numpy"])
def test_ctrl_c_at_the_start_ends_with_130(library: str, installed: Path, hostile: Path) -> None:
    command = [installed / "edgecloud-edge", "-t", "le_net", "--point", "12", "--repeat", "1000000"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, command)), cwd=hostile, env=settings(hostile), **pipes) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        until(lambda: process.poll() is not None or {library, "numpy"} & set(re.split(r"[/.\s-]", maps.read_text())))
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=LONG_S)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_bash_completes_the_commands(installed: Path, hostile: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash is installed")
    lines = {"edgecloud-edge --ob": "--objective", "edgecloud-lab rep": "report", "edgecloud-deployment pl": "plan"}
    asked = "".join(
        f"COMP_LINE='{line}' COMP_POINT={len(line)}; COMPREPLY=(); _edge_cloud; echo \"${{COMPREPLY[*]}}\"\n"
        for line in lines
    )
    script = f'eval "$(_EDGE_CLOUD_COMPLETE=bash edgecloud-edge)"\n{asked}'
    done = run(hostile, bash, "-c", script, PATH=f"{installed}{os.pathsep}{os.environ['PATH']}")
    assert done.stdout.splitlines() == list(lines.values()), done.stderr


def test_a_library_that_is_broken_is_named_with_what_mends_it(installed: Path, hostile: Path) -> None:
    (hostile / "broken" / "torch").mkdir(parents=True)
    (hostile / "broken" / "torch" / "__init__.py").write_text("raise ImportError('libx.so: no such file')")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edgecloud.cli.commands import edge; sys.exit(edge())"
    done = run(hostile, installed / "python", "-I", "-c", code, hostile / "broken", "-t", "le_net")
    assert done.code == 1
    assert done.stderr.startswith("edgecloud-edge: cannot import torch (ImportError: libx.so")
    assert "pip install --force-reinstall 'torch<" in done.stderr
    assert "edgecloud-lab doctor" in done.stderr.partition("pip install")[2]


def test_where_torch_is_missing_a_line_says_how_to_do_without(installed: Path, hostile: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from edgecloud.cli.commands import edge; sys.exit(edge())"
    done = run(hostile, installed / "python", "-I", "-c", code, "-t", "le_net")
    assert done.code == 1
    assert done.stderr.startswith("edgecloud-edge: needs torch, which is not installed: use -t FILE.bundle")
    assert "pip install" in done.stderr


@pytest.mark.slow
def test_the_lab_measures_and_reports(installed: Path, hostile: Path) -> None:
    """Its relay, its edges, its cloud and what cleans up after it are processes as well."""
    flags = ("--model", "le_net", "--link", "20mbit,5ms", "--cpu", "1", "--points", "0,12", "--mode", "emulated")
    done = run(hostile, installed / "edgecloud-lab", "run", *flags, "--repeat", "2", "--out", "grid")
    assert done.code == 0, done.stderr
    done = run(hostile, installed / "edgecloud-lab", "report", "grid")
    assert done.code == 0, done.stderr
    assert "edgecloud-lab report" in (hostile / "grid" / "report.html").read_text(encoding="utf-8")
    records = [json.loads(line) for line in (hostile / "grid" / "records.jsonl").read_text().splitlines()]
    assert {record["point"] for record in records} >= {0, 12}
