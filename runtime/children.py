"""Programs that an edge starts for itself: a cloud on loopback, and an emulated link in front of a cloud.

Each is a process of its own, unmodified, that ends when this one does, however this one ends: it watches a pipe that
the system closes for us.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from models import own
from net.codec import OPTIONAL
from net.connection import CONNECT_S, connect
from utils.errors import AppError, UsageError
from utils.inference_utils import available_cores
from utils.settings import without_settings

ROOT = Path(__file__).resolve().parent.parent
START_S = 300.0
STOP_S = 5.0
LISTENING = "listening on "


class Child:
    """A program that says `listening on HOST:PORT` in its first line, and stops when its standard input closes."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._name = arguments[0] if arguments[0] != "-m" else arguments[1]
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=without_settings(os.environ),  # what is set for this program is not set for that one
            start_new_session=True,  # Ctrl-C in a terminal reaches only us; the child ends in good order after us
        )

    def address(self) -> tuple[str, int]:
        """Wait until it listens. Raises AppError where it ends or says nothing."""
        assert self._process.stdout is not None  # asked for above
        timer = threading.Timer(START_S, self._process.kill)  # ends the wait for a line that never comes
        timer.start()
        try:
            line = self._process.stdout.readline().strip()
        finally:
            timer.cancel()
        if not line.startswith(LISTENING):
            raise AppError(f"{self._name} did not start; its own message is above")
        host, _, port = line.removeprefix(LISTENING).rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def stop(self) -> None:
        """Close its standard input and wait; kill it if it does not go."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=STOP_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def own_cloud_flags(
    options: argparse.Namespace, cache_dir: Path, weights: str, models: Iterable[str], codecs: Iterable[str | None]
) -> tuple[str, ...] | None:
    """The command line of the cloud that an edge starts for itself; None where the address of another one was given.

    `models` and `codecs` are what the user named. Raises UsageError for flags that are for a cloud elsewhere.
    """
    if options.ip is not None or options.port is not None:
        return None
    if any(value is not None for value in (options.tls_ca, options.tls_cert, options.tls_key)):
        raise UsageError("TLS is for a cloud elsewhere: give its address with -i and -p")
    flags = ["--cache-dir", str(cache_dir.resolve()), "--log-level", options.log_level]
    if weights != "default":
        flags += ["--weights", weights]
    if options.token_file:
        flags += ["--token-file", str(options.token_file.resolve())]
    return (*flags, *network_flags(models), *codec_flags(*codecs))


def network_flags(models: Iterable[str]) -> tuple[str, ...]:
    """What a cloud of ours has to be told so that it serves the networks of files that the user named."""
    places = [own.where(model) for model in models]
    return tuple(word for place in places if place is not None for word in ("--network", place.flag))


def codec_flags(*named: str | None) -> tuple[str, ...]:
    """What it has to be told so that it takes the codecs that the user named: each text is one, or a list of points
    such as `0:jpeg,8`."""
    words = {part.rpartition(":")[2].strip() for text in named for part in (text or "").split(",")}
    return tuple(flag for name, flag in OPTIONAL.items() if name in words)


@contextlib.contextmanager
def own_cloud(arguments: Sequence[str], script: str = "cloud_api.py") -> Iterator[Child]:
    """A cloud on loopback on a free port, for as long as the context lasts; it serves whatever there is."""
    child = Child([script, "-i", "127.0.0.1", "-p", "0", "--until-stdin-closes", "--models", "all", *arguments])
    try:
        yield child
    finally:
        child.stop()


@contextlib.contextmanager
def emulated_link(host: str, port: int, link: str, *more: str) -> Iterator[Child]:
    """A relay to `host:port` that is as slow as `link`, written UP[,RTT[,DOWN]]; `more` are flags of lab.relay."""
    child = Child(["-m", "lab.relay", "--to", host, str(port), "--link", link, "--until-stdin-closes", *more])
    try:
        yield child
    finally:
        child.stop()


@dataclass
class CloudAccess:
    """The cloud of one call: given by its address, or our own; perhaps behind an emulated link."""

    stack: ExitStack
    """Ends what was started."""
    given: tuple[str, int]
    own: tuple[str, ...] | None
    """Start a cloud on loopback with these arguments, and use that one."""
    script: str
    link_shape: str | None
    child: Child | None = None

    def start(self) -> None:
        """Start our own one, if it is to be one: it loads while we do."""
        if self.own is not None and self.child is None:
            # it shares this machine with us: were every core its own, each of our steps would hold one thread up
            threads = str(max(1, available_cores() - 1))
            self.child = self.stack.enter_context(own_cloud([*self.own, "--threads", threads], self.script))

    def address(self, *, is_checked: bool = True) -> tuple[str, int]:
        """Where to connect to, once our own cloud and the emulated link listen. To be called once.

        Raises ConnectError where nobody is behind an emulated link, unless that is not to be checked.
        """
        self.start()
        address = self.given if self.child is None else self.child.address()
        if self.link_shape is None:
            return address
        if is_checked:  # the relay could not say that nobody is there
            connect(*address, CONNECT_S).close()
        return self.stack.enter_context(emulated_link(*address, self.link_shape)).address()
