"""The lab is killed at random moments: what is left of it, and whether it resumes where it stopped.

    python -m benchmarks.lab_kills [--kills 20] [--mode hosts]

A small experiment is started again and again and gets SIGKILL after a random time. After each kill there may be no
process of it, no namespace and no control group, and no line of its records may be half. At the end it runs once more,
undisturbed, and has to have measured everything exactly once.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from edgecloud.lab import cgroup, hosts
from edgecloud.lab.grid import groups, next_attempt
from edgecloud.lab.reaper import MARK, leftovers
from edgecloud.lab.records import RECORDS, read

ROOT = Path(__file__).resolve().parent.parent
NAME = "LAB_KILLS"
CLEAN_S = 15.0  # for everything to be gone
LONGEST_S = 25.0
REPEAT = 2
FLAGS = ("--model", "le_net", "--cpu", "0.5,none", "--link", "20mbit", "--points", "0,4,12", "--repeat", str(REPEAT))


def start(folder: Path, mode: str, mark: str, flags: Sequence[str] = FLAGS) -> "subprocess.Popen[str]":
    """The experiment, with a mark in the environment that everything it starts inherits."""
    command = [sys.executable, "-m", "lab", "run", *flags, "--out", str(folder), "--mode", mode]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {NAME: mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes(mark: str) -> list[str]:
    """Commands of the processes that bear the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{NAME}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended meanwhile
    return found


def left_of(pid: int, mark: str) -> list[str]:
    """What a run has left behind on this machine."""
    controller = cgroup.find()
    tops = () if controller is None else (controller.top,)
    mine = f"{MARK}{pid}-"
    return [*processes(mark), *(name for _, name in leftovers(tops) if Path(name).name.startswith(mine))]


def killed(folder: Path, mode: str, after_s: float, mark: str) -> list[str]:
    """Start it, kill it after a while, and return what is left when it has had time to be cleaned up."""
    run = start(folder, mode, mark)
    try:
        run.wait(after_s)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
    run.wait()
    until = time.monotonic() + CLEAN_S
    while (left := left_of(run.pid, mark)) and time.monotonic() < until:
        time.sleep(0.1)
    for stream in (run.stdout, run.stderr):
        if stream is not None:
            stream.close()
    return left


def half_lines(folder: Path) -> int:
    """Lines before the last that are none: only the last one may be torn."""
    path = folder / RECORDS
    broken = 0
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            json.loads(line)
        except ValueError:
            broken += 1
    return broken


def is_complete(folder: Path) -> bool:
    """Whether every group has its repeats, each once."""
    found = groups(read(folder)[1])
    repeats = [[record.repeat for record in kept] for kept in found.values()]
    right = list(range(REPEAT))
    return (
        all(each == right for each in repeats)
        and all(next_attempt(kept, REPEAT) is None for kept in found.values())
        and len(found) == 2 * 4
    )  # two shares; the edge's choice and three points


def main() -> int:
    """0 where nothing was ever left and it was complete in the end."""
    parser = argparse.ArgumentParser(description="Kill the lab at random moments.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--mode", default="emulated" if hosts.cannot() else "hosts")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw, bad = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        for number in range(options.kills):
            after_s = draw.uniform(0.05, LONGEST_S)
            left = killed(folder, options.mode, after_s, f"{os.getpid()}-{number}")
            broken = half_lines(folder)
            bad += bool(left or broken)
            lines = (folder / RECORDS).read_bytes().count(b"\n") if (folder / RECORDS).exists() else 0
            print(
                f"{number + 1:>3} killed after {after_s:5.1f} s: left {left or 'nothing'}, "
                f"{lines} records, {broken} broken"
            )
        run = start(folder, options.mode, f"{os.getpid()}-last")
        _, errors = run.communicate(timeout=600)
        complete = run.returncode == 0 and is_complete(folder)
        print(f"{options.mode}: {options.kills} kills, {bad} left something; then {'complete' if complete else errors}")
    return 1 if bad or not complete else 0


if __name__ == "__main__":
    sys.exit(main())
