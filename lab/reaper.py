"""A small process that outlives the lab and cleans up after it.

Namespaces, control groups and the programs on them are made by the reaper, or told to it. It reads orders from its
standard input, one JSON line each, and answers each with one; when its input ends, because the lab is done, crashed or
was killed, it ends the programs, removes the groups and the namespaces, and ends itself. Since it makes them itself,
one after the other, there is no moment in which something is made that nobody would remove.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgecloud.utils.commands import command_of
from edgecloud.utils.errors import AppError

MARK = "ecci"
"""What the names of all namespaces and groups begin with; the number of the process that owns them follows."""
GONE_S = 5.0  # for a process to end after it was killed, and for a group to be empty
ORDER_S = 20.0
STOP_S = 30.0
LEFT_ORDER = ("process", "cgroup", "netns")


# --- in the process that cleans


def serve() -> None:
    """Serve orders until standard input ends, then take everything back."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its work only begins when the lab has gone
    resources: list[tuple[str, str]] = []
    for line in sys.stdin:
        try:
            answer = _obey(json.loads(line), resources)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            answer = str(error)
        try:
            print(json.dumps(answer), flush=True)  # noqa: T201  a program of its own
        except OSError:
            break  # nobody listens any more
    for kind in LEFT_ORDER:
        for what, name in reversed(resources):
            if what == kind:
                UNDO[kind](name)


def _obey(order: Any, resources: list[tuple[str, str]]) -> str:
    """Do one thing; returns what went wrong, or "". What has to be taken back is noted first."""
    if "undo" in order:
        resources.append((str(order["undo"][0]), str(order["undo"][1])))
    if "forget" in order:
        resources.remove((str(order["forget"][0]), str(order["forget"][1])))
    if "run" in order:
        process = subprocess.run(
            order["run"], check=False, capture_output=True, text=True, timeout=ORDER_S, stdin=subprocess.DEVNULL
        )
        if process.returncode:
            return f"{' '.join(order['run'])}: {process.stderr.strip() or process.returncode}"
    if "mkdir" in order:
        Path(order["mkdir"]).mkdir()
    if "write" in order:
        Path(order["write"][0]).write_text(order["write"][1], encoding="ascii")
    return ""


def end_process(name: str) -> None:
    """Kill a process, named NUMBER or NUMBER@START, unless another one has its number by now; wait until it is gone."""
    number, _, start = name.partition("@")
    pid = int(number)
    if start and started_at(pid) != start:
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + GONE_S
    while is_alive(pid) and started_at(pid) == start and time.monotonic() < until:
        time.sleep(0.01)


def remove_group(path: str) -> None:
    """Kill what is left in a control group, and remove it."""
    until = time.monotonic() + GONE_S
    while Path(path).exists() and time.monotonic() < until:
        with contextlib.suppress(OSError):
            for pid in (Path(path) / "cgroup.procs").read_text().split():
                end_process(pid)
        with contextlib.suppress(OSError):
            Path(path).rmdir()
            return
        time.sleep(0.02)


def remove_namespace(name: str) -> None:
    """Kill what is left in a network namespace, and remove it; its end of a cable goes with it."""
    listing = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True, text=True)
    for pid in listing.stdout.split():
        end_process(pid)
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


UNDO: dict[str, Callable[[str], None]] = {
    "process": end_process,
    "cgroup": remove_group,
    "netns": remove_namespace,
}


def is_alive(pid: int) -> bool:
    """Whether there is such a process, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _state(pid).startswith("Z")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].strip()
    except OSError:
        return ""


def started_at(pid: int) -> str:
    """When a process began, as the kernel counts it; "" where that cannot be told."""
    fields = _state(pid).split()
    return fields[19] if len(fields) > 19 else ""


# --- in the lab


class Reaper:
    """The lab's end of it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._turn = threading.Lock()

    def order(self, **order: Any) -> None:
        """Have something done, see `_obey`. Raises AppError where that fails."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # asked for below
        assert stdout is not None
        try:
            with self._turn:
                stdin.write(json.dumps(order) + "\n")
                stdin.flush()
                answer = stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise AppError("the lab's cleanup process has died: run `python -m lab doctor --clean`")
        if problem := json.loads(answer):
            raise AppError(str(problem))

    def note_process(self, pid: int) -> tuple[str, str]:
        """Have a program ended with the lab."""
        what = ("process", f"{pid}@{started_at(pid)}")
        self.order(undo=what)
        return what


@contextmanager
def open_reaper() -> Iterator[Reaper]:
    """Start one; at the end everything that it made is taken back before this returns."""
    process = subprocess.Popen(
        command_of(["-m", "edgecloud.lab.reaper"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in a terminal does not reach it
    )
    try:
        yield Reaper(process)
    finally:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(timeout=STOP_S)
        if process.poll() is None:
            process.kill()
            process.communicate()


# --- what earlier runs left


def owner_of(name: str) -> int | None:
    """The number of the process that a namespace or group belongs to, None where it is none of the lab's."""
    digits = name.removeprefix(MARK).partition("-")[0]
    return int(digits) if name.startswith(MARK) and digits.isdecimal() else None


def leftovers(groups: tuple[Path, ...]) -> list[tuple[str, str]]:
    """Namespaces and control groups whose owner is gone; `groups` is where groups are made."""
    entries = [("cgroup", path) for top in groups for path in map(str, top.glob(f"{MARK}*"))]
    if sys.platform == "linux":
        entries += [("netns", path.name) for path in Path("/run/netns").glob(f"{MARK}*")]
    owners = [(owner_of(Path(name).name), kind, name) for kind, name in entries]
    return [(kind, name) for pid, kind, name in owners if pid is not None and not is_alive(pid)]


def sweep(groups: tuple[Path, ...]) -> list[str]:
    """Remove them; returns their names."""
    orphans = sorted(leftovers(groups), key=lambda pair: LEFT_ORDER.index(pair[0]))
    for kind, name in orphans:
        UNDO[kind](name)
    return [name for _, name in orphans]


if __name__ == "__main__":
    serve()
