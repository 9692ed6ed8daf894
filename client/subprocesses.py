"""Programs that an edge starts for itself: a cloud on loopback, and an emulated link in front of a cloud.

Each is a process of its own, unmodified, that ends when this one does, however this one ends: it watches a pipe that
the system closes for us.
"""

import argparse
import contextlib
import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from edgecloud.client.clouds import CloudAddress
from edgecloud.client.config import ClientConfig
from edgecloud.models import custom_model, registry
from edgecloud.net.codec import OPTIONAL
from edgecloud.net.connection import CONNECT_S, connect
from edgecloud.utils.commands import command_of
from edgecloud.utils.environment import without_settings
from edgecloud.utils.errors import AppError, ConnectError, MismatchError, UsageError
from edgecloud.utils.inference_utils import available_cores
from edgecloud.utils.output import complain

START_S = 300.0
STOP_S = 5.0
LISTENING, LISTENING_GRPC = "listening on ", "gRPC on "
MOST_KEPT = 200
"""Lines of a child that starts."""


class Child:
    """A program of ours that says `listening on HOST:PORT` on its stdout, and stops when its standard input closes.

    It runs in the folder where we run, and what it says on stderr is told on ours: once it listens, or, where it does
    not come to that, in the error that tells of it.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._name = arguments[0] if arguments[0] != "-m" else arguments[1].removeprefix("edgecloud.")
        self._process = subprocess.Popen(
            command_of(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=without_settings(os.environ),  # what is set for this program is not set for that one
            start_new_session=True,  # Ctrl-C in a terminal reaches only us; the child ends in good order after us
        )
        self._words = _Words(self._process.stderr, self._name)

    def address(self, listening: str = LISTENING) -> tuple[str, int]:
        """Wait until it says that it listens, in a line that begins so. Raises AppError, with what it says itself,
        where it ends or says nothing."""
        assert self._process.stdout is not None  # asked for above
        timer = threading.Timer(START_S, self._process.kill)  # ends the wait for a line that never comes
        timer.daemon = True  # Ctrl-C may come before it can be cancelled
        timer.start()
        try:
            line = next((line for line in self._process.stdout if line.startswith(listening)), None)
        finally:
            timer.cancel()
        if line is None:
            raise self._failure()
        self._words.let_through()
        host, _, port = line.strip().removeprefix(listening).rpartition(":")
        return host.strip("[]"), int(port)

    def _failure(self) -> AppError:
        """Why it did not start, in its own words, with what its exit code means."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        code = self._process.poll()
        how = "no output" if code is None else f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        reason = self._words.last() or how
        kind = {kind.exit_code: kind for kind in (UsageError, ConnectError, MismatchError)}.get(code or 0, AppError)
        return kind(f"{self._name} did not start: {reason}")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def stop(self) -> None:
        """Close its standard input and wait; kill it if it does not go."""
        assert self._process.stdin is not None  # asked for above
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.end()
        assert self._process.stdout is not None  # asked for above
        self._process.stdout.close()


class _Words:
    """What a child says on its stderr: kept while it starts, then told on ours as it comes, above a bar if there is
    one."""

    def __init__(self, stream: IO[str] | None, name: str) -> None:
        assert stream is not None  # asked for
        self._stream, self._name, self._lock = stream, name, threading.Lock()
        self._backlog: deque[str] | None = deque(maxlen=MOST_KEPT)
        self._thread = threading.Thread(target=self._read, name=f"stderr of {name}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._stream as lines:
            for line in lines:
                with self._lock:
                    if self._backlog is not None:
                        self._backlog.append(line.rstrip())
                        continue
                complain(line.rstrip())

    def let_through(self) -> None:
        """Tell what was held back, and from now on all."""
        with self._lock:
            backlog, self._backlog = self._backlog or (), None
            for line in backlog:
                complain(line)

    def last(self) -> str:
        """Its last line, once it has ended, without its name; what came before is told."""
        self._thread.join(STOP_S)
        with self._lock:
            lines = [line for line in self._backlog or () if line.strip()]
            self._backlog = None
        for line in lines[:-1]:
            complain(line)
        return lines[-1].removeprefix(f"{self._name}: ") if lines else ""

    def end(self) -> None:
        """It has ended: what it has said is told."""
        self.let_through()
        self._thread.join(STOP_S)


def own_cloud_flags(
    options: argparse.Namespace, cache_dir: Path, weights: str, models: Iterable[str], codecs: Iterable[str | None]
) -> tuple[str, ...] | None:
    """The command line of the cloud that an edge starts for itself; None where the address of another one was given.

    `models` and `codecs` are what the user named. Raises UsageError for flags that are for a cloud elsewhere.
    """
    if options.ip is not None or options.port is not None:
        return None
    if any(value is not None for value in (options.tls_ca, options.tls_cert, options.tls_key)):
        raise UsageError("TLS requires a remote cloud: use -i and -p")
    flags = ["--cache-dir", str(cache_dir.resolve()), "--log-level", options.log_level, "--quiet"]
    if options.backend != "auto":
        flags += ["--backend", options.backend]
    if weights != "default":
        flags += ["--weights", weights]
    for path in options.codec_file:
        flags += ["--codec-file", str(path.resolve())]
    if options.token_file:
        flags += ["--token-file", str(options.token_file.resolve())]
    if options.transport == "grpc":
        flags += ["--grpc-port", "0"]
    return (*flags, *network_flags(models), *codec_flags(*codecs))


def network_flags(models: Iterable[str]) -> tuple[str, ...]:
    """What a cloud of ours has to be told so that it serves the networks of files that the user named."""
    files = [file for model in models if (file := _file_of(model))]
    return tuple(word for file in files for word in ("--network", file))


def _file_of(model: str) -> str:
    """The file that holds a network, for another program on this machine; "" where it has a name."""
    place = custom_model.where(model)
    return registry.file_of_data(model) if place is None else place.flag


def codec_flags(*named: str | None) -> tuple[str, ...]:
    """What it has to be told so that it takes the codecs that the user named: each text is one, or a list of points
    such as `0:jpeg,8`."""
    words = {part.rpartition(":")[2].strip() for text in named for part in (text or "").split(",")}
    return tuple(flag for name, flag in OPTIONAL.items() if name in words)


@contextlib.contextmanager
def own_cloud(arguments: Sequence[str], script: str = "cloud_api.py") -> Iterator[Child]:
    """A cloud on loopback on a free port, for as long as the context lasts; it serves whatever there is."""
    child = Child([script, "-i", "127.0.0.1", "-p", "0", "--exit-on-stdin-eof", "--models", "all", *arguments])
    try:
        yield child
    finally:
        child.stop()


@contextlib.contextmanager
def emulated_link(host: str, port: int, link: str, *more: str) -> Iterator[Child]:
    """A relay to `host:port` that is as slow as `link`, written UP[,RTT[,DOWN]]; `more` are flags of lab.relay."""
    child = Child(["-m", "edgecloud.lab.relay", "--to", host, str(port), "--link", link, "--exit-on-stdin-eof", *more])
    try:
        yield child
    finally:
        child.stop()


def own_cloud_threads() -> int:
    """It shares this machine with us: were every core its own, each of our steps would hold one thread up."""
    return max(1, available_cores() - 1)


@dataclass
class CloudAccess:
    """The cloud of one call: given by its address, or our own; perhaps behind an emulated link."""

    stack: ExitStack
    """Ends what was started."""
    remote: tuple[str, int]
    own: tuple[str, ...] | None
    """Start a cloud on loopback with these arguments, and use that one."""
    script: str
    link_shape: str | None
    child: Child | None = None
    others: tuple[tuple[str, int], ...] = ()
    """Further clouds, where several were named."""

    @classmethod
    def of(cls, stack: ExitStack, config: ClientConfig, script: str) -> Self:
        """As an edge is told; `script` is started where the cloud is to be our own."""
        cloud = config.cloud
        return cls(
            stack,
            (cloud.host, cloud.port),
            cloud.own,
            script,
            config.link.shape,
            others=() if cloud.own else cloud.more,
        )

    def start(self) -> None:
        """Start our own one, if it is to be one: it loads while we do."""
        if self.own is not None and self.child is None:
            threads = str(own_cloud_threads())
            self.child = self.stack.enter_context(own_cloud([*self.own, "--threads", threads], self.script))

    def address(self, *, is_checked: bool = True) -> tuple[str, int]:
        """Where to connect to, once our own cloud and the emulated link listen. To be called once.

        Raises ConnectError where nobody is behind an emulated link, unless that is not to be checked.
        """
        self.start()
        listening = LISTENING_GRPC if self.own is not None and "--grpc-port" in self.own else LISTENING
        address = self.remote if self.child is None else self.child.address(listening)
        if self.link_shape is None:
            return address
        if is_checked:  # the relay could not say that nobody is there
            self._check(address)
        return self.stack.enter_context(emulated_link(*address, self.link_shape)).address()

    def more(self) -> tuple[CloudAddress, ...]:
        """The further clouds, each behind an emulated link of its own where there is one. To be called once."""
        if self.link_shape is None:
            return tuple(CloudAddress(host, port, host) for host, port in self.others)
        links = [self.stack.enter_context(emulated_link(*place, self.link_shape)) for place in self.others]
        named = zip(links, self.others, strict=True)
        return tuple(CloudAddress(*link.address(), name=host) for link, (host, _) in named)

    def _check(self, address: tuple[str, int]) -> None:
        """Raises ConnectError, the first one, where nobody is at any of the addresses."""
        try:
            connect(*address, CONNECT_S).close()
        except ConnectError:
            for other in self.others:
                with contextlib.suppress(ConnectError):
                    connect(*other, CONNECT_S).close()
                    return
            raise
