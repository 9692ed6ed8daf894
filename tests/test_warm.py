"""A program that starts as a copy is to the test what a program is that is started as usual."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecloud.utils.commands import command_of
from tests import warm
from tests.conftest import COLD, LONG_S, ROOT, until

pytestmark = pytest.mark.skipif(not warm.is_wanted(), reason="programs are started as usual")

LIBRARIES_OWN = 1 << 31
"""The first signal that the C library keeps for itself, once something has had threads."""
RELAY = ["-m", "edgecloud.lab.relay", "--to", "127.0.0.1", "1", "--link", "5mbit"]
BOTH = pytest.mark.parametrize("more", [{}, COLD], ids=["copied", "as usual"])


def started(command: list[str], more: dict[str, str], *, session: bool = False) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT, env=os.environ | more, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=session,
    )  # fmt: skip


def about(pid: int) -> dict[str, Any]:
    """What Linux knows of a process."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    return {
        "command": [word for word in (folder / "cmdline").read_bytes().split(b"\0") if word],
        "environment": {word for word in (folder / "environ").read_bytes().split(b"\0") if word},
        "folder": (folder / "cwd").readlink(),
        "program": (folder / "exe").readlink(),
        "files": sorted(int(path.name) for path in (folder / "fd").iterdir() if int(path.name) < warm.ASIDE),
        "parent": int(status["PPid"]),
        "signals": [int(status[name], 16) % LIBRARIES_OWN for name in ("SigBlk", "SigIgn", "SigCgt")],
        "mask": status["Umask"],
        "name": status["Name"],
        "is_leader": os.getsid(pid) == pid,
        "is_in_our_group": os.getpgid(pid) == os.getpgid(0),
    }


@pytest.mark.parametrize("session", [False, True])
def test_linux_knows_the_same_of_both(session: bool) -> None:
    found = []
    for more in ({"WHO": "tested"}, {"WHO": "tested", **COLD}):
        with started([*RELAY, "-p", "0"], more, session=session) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening on ")
            found.append(about(process.pid))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    copied, usual = found
    assert copied["parent"] == os.getpid()
    assert copied["is_leader"] is session
    assert b"WHO=tested" in copied["environment"]
    assert usual["environment"] - copied["environment"] == {f"{name}={value}".encode() for name, value in COLD.items()}
    assert copied["environment"] <= usual["environment"]
    assert copied | {"environment": usual["environment"]} == usual


@pytest.mark.parametrize("arguments", [("--link", "5mbit,x"), ("--help",), ("--nonsense",)])
def test_both_say_the_same_and_end_with_the_same_code(arguments: tuple[str, ...]) -> None:
    said = []
    for more in ({}, COLD):
        with started([*RELAY, *arguments], more) as process:
            said.append((*process.communicate(timeout=LONG_S), process.returncode))
    assert said[0] == said[1]


@BOTH
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGSTOP, -9)]
)
def test_signals_reach_both(more: dict[str, str], number: signal.Signals, code: int) -> None:
    with started([*RELAY, "-p", "0"], more) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        if number == signal.SIGSTOP:
            until(lambda: "T (stopped)" in Path(f"/proc/{process.pid}/status").read_text())
            assert process.poll() is None
            process.kill()
        process.communicate(timeout=LONG_S)
    assert process.returncode == code


def test_what_a_copy_could_not_be_is_started_as_usual(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starter = warm.Starter()

    def is_copied(*command: str, **flags: Any) -> bool:
        usual: dict[str, Any] = dict.fromkeys((*warm.UNUSUAL, "env", "cwd"))
        usual |= {"close_fds": True, "umask": -1, "start_new_session": False, "process_group": -1}
        return starter.request({"args": list(command), **usual, **flags}) is not None

    monkeypatch.chdir(ROOT)
    python = sys.executable
    assert is_copied(python, "edge_api.py")
    assert is_copied(python, "-m", "lab", "run")
    assert is_copied(*command_of(["cloud_api.py", "-p", "0"]), cwd=tmp_path)
    assert is_copied(python, str(ROOT / "cloud_api.py"), cwd=tmp_path)
    assert not is_copied(python, "edge_api.py", cwd=tmp_path)
    assert not is_copied("python3", "edge_api.py")
    assert not is_copied(python, "-I", "edge_api.py")
    assert not is_copied(python, "-c", "import edgecloud")
    assert not is_copied(python, "-m", "venv")
    assert not is_copied(python, str(tmp_path / "edge_api.py"))
    assert not is_copied(python, "edge_api.py", "x" * warm.ROOM)
    assert not is_copied(python, "edge_api.py", uid=1)
    assert not is_copied(python, "edge_api.py", preexec_fn=print)
    assert not is_copied(python, "edge_api.py", env={})
    for name in warm.SET_LATER:
        monkeypatch.setenv(name, "as libraries do")
    assert is_copied(python, "edge_api.py")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not is_copied(python, "edge_api.py")
