"""How the programs end: interrupted, killed, without anybody who listens; and that asking for help costs nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgecloud.cli import script
from edgecloud.client.subprocesses import Child
from tests.conftest import (
    COLD,
    LONG_S,
    ROOT,
    THOROUGH,
    THREADS,
    CloudProcess,
    children_of,
    is_running,
    processes_with,
    run_script,
    until,
)


def test_without_a_stderr_stdout_is_still_one_document(cache: Path) -> None:
    command = f"{sys.executable} edge_api.py --cache-dir {cache} --json"
    for wrong, words, redirect in (
        ("-t nope", "unknown network", "2>&-"),
        ("-t le_net --point x", "--point", "2>/dev/full"),
        ("-t le_net --point x", "--point", "2>&-"),
    ):
        run = subprocess.run(["bash", "-c", f"{command} {wrong} {redirect}"], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 2
        assert words in json.loads(run.stdout)["error"]["message"]


def maps_torch(pid: int) -> bool:
    """Whether a process is loading torch, or has."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("moment", ["while it loads torch", "once its cloud and its link run"])
def test_ctrl_c_ends_with_130_and_leaves_no_process(moment: str, tmp_path: Path) -> None:
    command = [sys.executable, "edge_api.py", "--cache-dir", str(tmp_path), "--threads", THREADS, "-t", "le_net"]
    process = subprocess.Popen(
        [*command, "--repeat", "100000", "--emulate-link", "10mbit"],
        cwd=ROOT, env=os.environ | COLD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if moment == "while it loads torch":
        until(lambda: maps_torch(process.pid))
    else:
        until(lambda: len(children_of(process.pid)) == 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    until(lambda: not processes_with(tmp_path))


MOMENTS = ["_json", "numpy", "libtorch_cpu", "zstd"]
"""Libraries that are loaded one after the other: the first within a tenth of a second, by the script itself."""


@pytest.mark.parametrize("library", MOMENTS if THOROUGH else MOMENTS[:3])
def test_ctrl_c_at_any_moment_of_the_start_ends_with_130(library: str, cache: Path) -> None:
    command = [sys.executable, "edge_api.py", "--cache-dir", str(cache), "-t", "le_net", "--point", "12"]
    process = subprocess.Popen(
        [*command, "--repeat", "1000000"],
        cwd=ROOT, env=os.environ | COLD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    until(lambda: process.poll() is not None or {library, "numpy"} & set(re.split(r"[/.\s-]", maps.read_text())))
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=LONG_S)
    assert (process.returncode, stdout, stderr) == (130, "", "")


@pytest.mark.parametrize("within", ["contextlib.nullcontext()", "script.interrupt_stops(lambda: False, '')"])
def test_ctrl_c_while_something_is_imported_ends_at_once(within: str, tmp_path: Path) -> None:
    """No exception is raised there: a module may take it for something else, and C++ in it abort."""
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\n"
        "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\nfinally: print('imported')\n"
    )
    code = (
        "import argparse, contextlib, sys, time; from edgecloud.cli import script\n"
        f"def main():\n  with {within}:\n    import slow\n    time.sleep(60)\n"
        "sys.exit(script.run('x', main, argparse.Namespace(log_level='warning')))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "")


def test_the_first_ctrl_c_stops_and_the_second_ends(capsys: pytest.CaptureFixture[str]) -> None:
    before, answers = signal.getsignal(signal.SIGINT), iter([True, False])
    with script.interrupt_stops(lambda: next(answers), "finishing"):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err == "finishing\n"


def test_a_child_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecloud.client.subprocesses.STOP_S", 0.3)
    code = "import sys, time; print('listening on 127.0.0.1:1', flush=True); time.sleep(60)"
    child = Child(["-c", code])
    assert child.address() == ("127.0.0.1", 1)
    child.stop()
    assert child._process.returncode is not None


ENDS = """
import argparse, sys
from edgecloud.cli import script, start
start.begin()
start.end(script.run("x.py", lambda: script.say("the answer") or 0, argparse.Namespace(log_level="debug")))
"""


WORKS = """
import atexit, ctypes, sys, threading
from edgecloud.cli import start

start.begin()
main = threading.main_thread()
threading.Thread(target=lambda: (main.join(), sys.stdout.write("thread "))).start()
atexit.register(sys.stdout.write, "atexit ")
ctypes.CDLL(None).printf(b"C ")
sys.stdout.write("first ")
class Module:
    def __del__(self):
        sys.stdout.write("dismantled ")
left = Module()
"""


@pytest.mark.parametrize(("end", "code"), [("start.end(0)", 0), ("start.end(5)", 5), ("sys.exit(3)", 3), ("1 / 0", 1)])
def test_what_belongs_to_an_end_happens_and_no_more(end: str, code: int) -> None:
    run = run_script("-c", f"{WORKS}\n{end}")
    is_ours = end.startswith("start.")
    assert run.code == code
    words = {"first", "thread", "atexit", "C"} | (set() if is_ours else {"dismantled"})
    assert sorted(run.stdout.split()) == sorted(words)
    assert ("Traceback" in run.stderr) == (end == "1 / 0")


@pytest.mark.parametrize(
    ("redirect", "code", "told"),
    [
        (">&-", 1, "x.py: cannot write to standard output: it is closed\n"),
        (">/dev/full", 1, "x.py: cannot write to standard output: No space left on device\n"),
        ("<&- >&-", 1, "x.py: cannot write to standard output: it is closed\n"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("<&- >&- 2>&-", 1, ""),
        ("| true; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_output_that_nobody_takes_is_no_traceback(redirect: str, code: int, told: str, tmp_path: Path) -> None:
    script = tmp_path / "x.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}){ENDS}")
    run = subprocess.run(["bash", "-c", f"{sys.executable} {script} {redirect}"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (code, told)


def test_an_answer_into_a_full_disk_is_an_error(cloud: CloudProcess, cache: Path) -> None:
    command = [sys.executable, "edge_api.py", "--cache-dir", str(cache), "-p", str(cloud.port), "-t", "le_net"]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [*command, "--point", "3", "--json"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (run.returncode, "Traceback" in run.stderr) == (1, False), run.stderr


def test_children_end_with_an_edge_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "edge_api.py", "--cache-dir", str(tmp_path), "-t", "le_net"]
    process = subprocess.Popen(
        [*command, "--repeat", "100000", "--emulate-link", "10mbit"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: len(children_of(process.pid)) == 2)
    children = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(map(is_running, children)))


@pytest.mark.parametrize("script", ["edge_api.py", "cloud_api.py", "tasks_edge_api.py", "tasks_cloud_api.py"])
def test_help_and_version_load_no_torch(script: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = [{script!r}, sys.argv[1]]\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end: print('torch' in sys.modules, end.code)"
    )
    for flag, words in (("--help", "--port"), ("--version", "0.1.0")):
        run = run_script("-c", code, flag)
        assert words in run.stdout
        assert run.stdout.splitlines()[-1] == "False 0"
