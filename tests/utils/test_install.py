"""What make does before anything is there: packages are installed, and something is told all the while."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgecloud.utils import install
from tests.conftest import ROOT


def test_what_is_silent_is_told_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Again and again: it is silent until it was told of five times."""
    code = (
        "import sys, time; from pathlib import Path; print('Collecting torch', flush=True)\n"
        "while not Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
        "print('x' * 200); raise SystemExit(3)"
    )
    told: list[str] = []

    def so_far() -> str:
        told.append("so far")
        if len(told) == 5:
            (tmp_path / "enough").touch()
        return told[-1]

    assert install.shown([sys.executable, "-c", code, str(tmp_path / "enough")], so_far, quiet_s=0.1) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("Collecting torch") == 1
    assert lines.count("... so far") >= 5
    assert max(map(len, lines)) < 80


def test_what_pip_refuses_ends_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')  # a link would be that of no environment
    python.chmod(0o755)
    assert install.main([str(tmp_path), str(tmp_path / "none.txt")]) != 0
    assert "none.txt" in capsys.readouterr().out


def test_make_installs_nothing_where_all_is_there() -> None:
    """The one of the project is not touched: only what would be done is asked for."""
    done = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "-m pytest" in done.stdout


@pytest.mark.slow
def test_a_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("# nothing\n")
    command = [sys.executable, "utils/install.py", str(tmp_path / "venv"), str(tmp_path / "none.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("ready after")
