"""What the programs print: one line for what went wrong, nothing but answers on stdout, in every locale."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud import deployment, edge_api, tasks_edge_api
from edgecloud.cli import cloud_flags, script
from edgecloud.client.subprocesses import Child
from edgecloud.lab import __main__ as lab
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.output import LONGEST_LINE, one_line, only_answers
from edgecloud.utils.units import readable
from tests.conftest import LONG_S, ROOT, CallEdge, CloudProcess, at, call, run_script

OPTIONS = argparse.Namespace(log_level="warning", json=False)
PRINTS = """
import os
from torch import nn

print("at the top")
INPUT_SHAPE = (3, 8, 8)


class Talks(nn.Flatten):
    def forward(self, x):
        os.write(1, b"from below\\n")
        return super().forward(x)


def build():
    print("listening on nothing")
    os.system("echo from a program")
    return nn.Sequential(Talks(), nn.Linear(192, 4))
"""
READS = """
import pathlib
from torch import nn

INPUT_SHAPE = (3, 8, 8)
WIDTH = int(pathlib.Path("width.txt").read_text())


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, WIDTH))
"""


def raises(error: Exception) -> Any:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.pt"),
            "x.py: a.pt: No such file or directory\n",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "x.py: Too many open files\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "x.py: Broken pipe\n"),
        (MemoryError(), "x.py: not enough free memory"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "x.py: needs torch, which is not installed: use -t FILE.bundle",
        ),
        (UsageError("two\nlines\x1b[31m"), "x.py: two lines\\x1b[31m\n"),
    ],
)
def test_what_the_system_refuses_is_told_as_what_it_is(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = script.run("x.py", raises(error), OPTIONS)
    assert code == (error.exit_code if isinstance(error, AppError) else 1)
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), ImportError("cannot import name 'x'", name="edgecloud.cli.script")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        script.run("x.py", raises(error), OPTIONS)


@pytest.mark.parametrize("raised", ["ImportError('libx.so: no such file')", "OSError('libcudart')", "NameError('_C')"])
@pytest.mark.parametrize(
    "command", [("edge_api.py", "-t", "le_net"), ("cloud_api.py", "-p", "0"), ("-m", "lab", "doctor")]
)
def test_a_torch_that_cannot_be_imported_is_one_line(raised: str, command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"raise {raised}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    if "doctor" in command:
        assert "missing  torch" in run.stdout
        assert run.stderr == ""
    else:
        assert run.stderr.startswith(f"{command[0]}: cannot import torch ({raised.partition('(')[0]}: ")
        assert "make .venv/.ready" in run.stderr
        assert len(run.stderr.splitlines()) == 1


@given(st.text())
def test_an_error_is_one_line_that_a_terminal_can_show(text: str) -> None:
    assert one_line(text).isprintable()
    assert readable(text, 40).isprintable()


def test_long_values_lose_their_middle() -> None:
    line = one_line("start " + "x" * 4000 + " end")
    assert line.startswith("start xx")
    assert line.endswith("xx end")
    assert len(line) < 300
    assert len(one_line("word " * 2000)) < LONGEST_LINE + 40


def test_only_answers_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with only_answers():
        print("not an answer")  # noqa: T201
        script.say("the answer")
        with only_answers():
            script.say("and another")
    print("afterwards")  # noqa: T201
    assert capsys.readouterr() == ("the answer\nand another\nafterwards\n", "not an answer\n")


def write_own(folder: Path) -> None:
    (folder / "prints.py").write_text(PRINTS)
    (folder / "reads.py").write_text(READS)
    (folder / "width.txt").write_text("5")


@pytest.mark.parametrize(("name", "before"), [("prints", ()), ("reads", ("-I",))])
def test_a_network_that_prints_or_reads_runs_beside_a_cloud_of_its_own(
    name: str, before: tuple[str, ...], tmp_path: Path
) -> None:
    """From the folder where the user is, with the answer alone on stdout."""
    write_own(tmp_path)
    command = [sys.executable, *before, str(ROOT / "edge_api.py"), "--cache-dir", str(tmp_path), "-t", f"{name}.py"]
    command += ["--point", "1", "--verify", "--json", "--emulate-link", "100mbit"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=4 * LONG_S)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1
    assert '"matches": true' in run.stdout
    assert ("from a program" in run.stderr, "from below" in run.stderr) == (name == "prints", name == "prints")


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        ("sys.exit('cloud_api.py: no such thing')", AppError, "did not start: cloud_api.py: no such thing"),
        ("sys.exit(2)", UsageError, "did not start: exit code 2"),
        ("os.kill(os.getpid(), 9)", AppError, "did not start: ended by signal 9"),
        ("print('x', file=sys.stderr); print('last', file=sys.stderr); sys.exit(4)", AppError, "did not start: last"),
    ],
)
def test_why_a_child_did_not_start_is_told(
    code: str, error: type[AppError], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    child = Child(["-c", f"import os, sys; print('something else'); {code}"])
    try:
        with pytest.raises(error, match=told):
            child.address()
    finally:
        child.stop()
    assert capsys.readouterr().err == ("x\n" if "last" in code else "")


def test_what_a_child_says_is_told_once_it_listens(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('early', file=sys.stderr, flush=True); print('noise')"
    code += "; print('listening on [::1]:7', flush=True)"
    child = Child(["-c", f"{code}; sys.stdin.read(); print('late', file=sys.stderr)"])
    assert child.address() == ("::1", 7)
    child.stop()
    assert capsys.readouterr().err == "early\nlate\n"


def test_every_environment_of_python_will_do(tmp_path: Path) -> None:
    """No folder of the script in the path, and an ASCII locale that Python is told to keep."""
    values = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "edge_api.py", "--cache-dir", str(tmp_path), "-t", "senna_pos", "--text", "你好 world"]
    run = subprocess.run(
        [*command, "--point", "1"], cwd=ROOT, env=os.environ | values, capture_output=True, timeout=4 * LONG_S
    )
    assert run.returncode == 0, run.stderr
    assert "你好" in run.stdout.decode()


def test_what_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run = call(edge_api.main, ["-t", "senna_pos", "--text", "\udcff"], capsys)
    assert run.code == 2
    assert "is not UTF-8 text" in run.stderr


def test_help_that_nobody_takes_is_no_traceback() -> None:
    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} edge_api.py --help > /dev/full"], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (
        1,
        "edge_api.py: cannot write to standard output: No space left on device\n",
    )


def test_the_lab_runs_as_a_folder_too() -> None:
    run = run_script("-I", "lab", "--version")
    assert (run.code, run.stdout) == (0, "python -m lab 0.1.0\n")


@pytest.mark.parametrize(
    ("main", "arguments", "told"),
    [
        (edge_api.main, ["-t", "le_net", "--bandwith", "5mbit"], "--bandwith; did you mean --bandwidth?"),
        (edge_api.main, ["-t", "le_net", "--bandwith=5mbit"], "--bandwith=5mbit; did you mean --bandwidth?"),
        (edge_api.main, ["-t", "le_net", "-timeout", "5s"], "-timeout; did you mean --timeout?"),
        (edge_api.main, ["-t", "le_net", "\u2013repeat", "5"], "\u2013repeat; did you mean --repeat?"),
        (edge_api.main, ["-t", "le_net", "--method", "mincutt"], "did you mean mincut?"),
        (edge_api.main, ["-t", "le_net", "--rtt", "5"], "unrecognized arguments: --rtt (--help"),
        (tasks_edge_api.main, ["--taks", "5"], "--taks; did you mean --tasks?"),
        (deployment.main, ["plan", "--bandwith", "5mbit"], "--bandwith; did you mean --bandwidth?"),
        (deployment.main, ["profil"], "did you mean profile?"),
        (lab.main, ["docter"], "did you mean doctor?"),
        (lab.main, ["doctor", "--jsn"], "--jsn; did you mean --json?"),
    ],
)
def test_what_looks_like_a_flag_or_a_choice_is_suggested(
    main: Any, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = call(main, arguments, capsys)
    assert run.code == 2
    assert told in run.stderr
    assert len(run.stderr.splitlines()) == 1


@given(st.data())
def test_every_flag_with_a_letter_left_out_is_suggested(data: st.DataObject) -> None:
    parser = cloud_flags.build_parser("cloud_api.py", "", 1)
    known = parser._option_string_actions
    flag = data.draw(st.sampled_from(sorted(name for name in known if name.startswith("--") and len(name) > 6)))
    place = data.draw(st.integers(3, len(flag) - 1))
    wrong = flag[:place] + flag[place + 1 :]
    if wrong not in known:
        assert "; did you mean --" in script._suggestion(wrong, known)


def test_a_text_that_begins_with_a_dash_of_a_document_is_a_text(cloud: CloudProcess, edge: CallEdge) -> None:
    assert edge(*at(cloud), "-t", "senna_pos", "--text", "\u2013 no flag", "--point", "1").code == 0
