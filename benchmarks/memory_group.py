"""A control group that runs out of memory when told to, in version 1 or 2 of Linux's control groups. Needs root.

The kernel kills the largest process of a group that needs more than its limit. So a small process is put in beside the
one that is to be killed, and takes what is left and more: that is what happens on a machine where something else grows.
"""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from edgecloud.lab import cgroup
from edgecloud.utils.errors import AppError

LEFT_BYTES, TAKEN_BYTES = 1 << 20, 4 << 20
HOG = f"""
import mmap, sys
print(flush=True)
if sys.stdin.readline():
    taken = mmap.mmap(-1, {TAKEN_BYTES})
    for at in range(0, {TAKEN_BYTES}, mmap.PAGESIZE):
        taken[at] = 1
"""
REMOVE_S = 5.0


@dataclass(frozen=True)
class Files:
    """How a version calls what is needed."""

    limit: str
    usage: str
    events: str


VERSIONS = {
    1: Files("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
    2: Files("memory.max", "memory.current", "memory.events"),
}


def find() -> cgroup.Controller | None:
    """Where groups with a memory limit can be made; None where there is no such place."""
    found = cgroup.find(name="memory")
    if found is not None and found.version == 2:
        return found if "memory" in (found.top / "cgroup.subtree_control").read_text().split() else None
    return found


class MemoryGroup:
    """One process, and a small one beside it that waits for its turn."""

    def __init__(self, pid: int) -> None:
        """Put a process in. Raises AppError where the system has no such groups."""
        found = find()
        if found is None:
            raise AppError("no control group with a memory limit can be made here (root is needed)")
        self.pid, self._files = pid, VERSIONS[found.version]
        self._path = found.top / f"ecci{os.getpid()}-oom-{pid}"
        self._path.mkdir()
        self._hog = subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._hog.stdout is not None
        self._hog.stdout.readline()
        for each in (pid, self._hog.pid):
            self._write("cgroup.procs", str(each))

    @property
    def killed(self) -> int:
        """Processes that the kernel has killed here, for want of memory."""
        lines = (self._path / self._files.events).read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def run_out(self) -> None:
        """Take what is left; returns before the kernel has done anything about it."""
        usage = int((self._path / self._files.usage).read_text())
        self._write(self._files.limit, str(usage + LEFT_BYTES))
        assert self._hog.stdin is not None
        self._hog.stdin.write(b"now\n")
        self._hog.stdin.flush()

    def close(self) -> None:
        """End the small process, and remove the group once the other one has ended as well."""
        self._hog.kill()
        self._hog.communicate()
        until = time.monotonic() + REMOVE_S
        while self._path.exists() and time.monotonic() < until:
            with contextlib.suppress(OSError):
                self._path.rmdir()
                return
            time.sleep(0.05)

    def _write(self, name: str, text: str) -> None:
        (self._path / name).write_text(text)
