"""A real cloud process, for tests and benchmarks that look at it from outside."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecloud.client.subprocesses import LISTENING
from edgecloud.utils.commands import ROOT

THREADS = "2"
SCRAPE_S = 60.0
END_S = 300.0
"""How long a cloud may take to end that is told to, also on a machine that is busy with other things."""


def rss_of(pid: int) -> int:
    """Resident bytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class CloudProcess:
    """A running cloud_api.py."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, metrics_url: str = "") -> None:
        self.process = process
        self.port = port
        self.metrics_url = metrics_url
        self.was_told_to_stop = False
        self.was_killed = False

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        self.was_told_to_stop = self.was_killed = True
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """Send SIGTERM."""
        self.was_told_to_stop = True
        self.process.terminate()

    def figures(self) -> dict[str, float]:
        """What a scrape says now, of a cloud with --metrics-port."""
        with urllib.request.urlopen(self.metrics_url, timeout=SCRAPE_S) as reply:
            lines = [line.rpartition(" ") for line in reply.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    @property
    def rss_bytes(self) -> int:
        """Resident memory."""
        return rss_of(self.process.pid)

    @property
    def threads(self) -> int:
        """Number of threads."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    @property
    def descriptors(self) -> int:
        """Number of open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@contextmanager
def running_cloud(
    cache: Path, *arguments: str, script: str = "cloud_api.py", ends_with: int = 0, **environment: str
) -> Iterator[CloudProcess]:
    """Start a cloud on a free port, and check at the end that nothing but a signal had ended it."""
    command = [sys.executable, script, "-p", "0", "--threads", THREADS, "--cache-dir", str(cache), *arguments]
    stderr = subprocess.PIPE if "--metrics-port" in arguments else None
    command += ["--quiet"] if stderr is not None else []  # nobody reads on there
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | environment
    )
    assert process.stdout is not None
    try:
        metrics_url = process.stderr.readline().split()[-1] if process.stderr is not None else ""
        line = process.stdout.readline()
        assert line.startswith(LISTENING), line
        cloud = CloudProcess(process, int(line.rpartition(":")[2]), metrics_url)
        yield cloud
        assert cloud.was_told_to_stop or process.poll() is None, "the cloud died"
    finally:
        process.terminate()
        process.communicate(timeout=END_S)
    assert process.returncode == (-signal.SIGKILL if cloud.was_killed else ends_with)
