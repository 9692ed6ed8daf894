"""What runs in a process of Ray's: an actor that starts a worker on its node, says where it listens, and ends with it.

The worker is a child process, the same program as everywhere: it has an interpreter and threads of its own, so that
Ray's threads never hold up a layer. What dies with what: an actor's process ends -> its worker's standard input closes,
and the worker ends; a worker ends -> `ended` returns, and the gateway has it started again; a node dies -> Ray starts
the actor on another one. Nothing of this passes through Ray but these few calls: requests go straight to the worker.
"""

import contextlib
import os
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgecloud.utils.commands import command_of
from edgecloud.utils.environment import SECRET, without_settings

START_S = 300.0
LISTENING = "listening on "
LINES_KEPT = 20
RAYS = "RAY_"


@dataclass(frozen=True)
class Started:
    """A worker that listens; or, where `reason` is not empty, one that did not come to that."""

    host: str = ""
    port: int = 0
    pid: int = 0
    reason: str = ""


class WorkerActor:
    """One worker, on the node where Ray has put this actor. Its methods run in threads."""

    def __init__(self, arguments: Sequence[str], token: str, host: str) -> None:
        """`host` is where it listens; "" for the node's address."""
        self._arguments, self._token, self._host = tuple(arguments), token, host
        self._process: subprocess.Popen[str] | None = None
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self._reader: threading.Thread | None = None

    def start(self) -> Started:
        """Start the worker, or find that it runs; returns where it listens once it does."""
        host = self._host or address_of_node()
        self._forget()
        command = command_of(
            ["cloud_api.py", "--worker", "-i", host, "-p", "0", "--exit-on-stdin-eof", *self._arguments]
        )
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=environment_of(os.environ, self._token),
        )
        self._process = process
        self._last.clear()
        self._reader = threading.Thread(target=self._read, args=(process,), name="stderr of the worker", daemon=True)
        self._reader.start()
        assert process.stdout is not None  # asked for above
        timer = threading.Timer(START_S, process.kill)  # ends the wait for a line that never comes
        timer.daemon = True
        timer.start()
        line = next((line for line in process.stdout if line.startswith(LISTENING)), None)
        timer.cancel()
        if line is None:
            reason = self.ended()
            self._forget()
            return Started(reason=reason)
        place, _, port = line.strip().removeprefix(LISTENING).rpartition(":")
        return Started(place.strip("[]"), int(port), process.pid)

    def ended(self) -> str:
        """Wait until the worker has ended; returns why, in its own words where it said something."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return "it was not started"
        code = process.wait()
        reader.join(1.0)
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        said = next((line for line in reversed(self._last) if line.strip()), "")
        return f"{said} ({how})" if said else how

    def stop(self, seconds: float) -> None:
        """Let it answer what is in hand, for so long; then it ends."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None  # asked for above
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """End it at once, also where it does not answer any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _forget(self) -> None:
        """One of before that has ended, or was given up. Of the thread that starts the next one alone, which has read
        what it said."""
        self.kill()
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]  # both were asked for

    def _read(self, process: "subprocess.Popen[str]") -> None:
        """What it says goes to Ray's log of this actor, and the end of it is kept."""
        import sys

        assert process.stderr is not None  # asked for above
        with contextlib.suppress(OSError, ValueError), process.stderr as lines:
            for line in lines:
                self._last.append(line.rstrip())
                sys.stderr.write(line)


def address_of_node() -> str:
    """As Ray's other nodes know it: the one that `ray start --node-ip-address` was given, where it was."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return next(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == own)


def environment_of(given: "os._Environ[str] | dict[str, str]", token: str) -> dict[str, str]:
    """Of the worker: without the settings of another program and without what is between Ray and its processes."""
    kept = {name: text for name, text in without_settings(given).items() if not name.startswith(RAYS)}
    return kept | {SECRET: token}
