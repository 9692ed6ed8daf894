"""What a process that was confined can still do; what it cannot is tried in tests/server/test_accepting.py."""

import platform
import subprocess
import sys

import pytest

from tests.conftest import LONG_S, ROOT

CONFINED = """
import ctypes, threading
from edgecloud.engine import confine
kept = confine.confine()
assert "system calls" not in kept, kept
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(0x40000002, b"/etc/hostname", 0, 0), ctypes.get_errno())
thread = threading.Thread(target=lambda: print("computes"))
thread.start()
thread.join()
"""
"""It opens a file by the other number that x86-64 has for that, and starts a thread."""


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
def test_a_thread_starts_and_no_call_passes_by_another_number() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED], cwd=ROOT, capture_output=True, text=True, timeout=LONG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["-1 38", "computes"]  # ENOSYS
