"""Gateways and workers of one process, over real sockets: workers that compute, and such that misbehave by a script."""

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgecloud.engine.device_config import DeviceConfig
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, Frame, connect
from edgecloud.net.endpoints import listen
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Hello, Infer, Ready, Result, State
from edgecloud.net.tensors import Array
from edgecloud.server.cloud import Cloud
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.fleet import Fleet
from edgecloud.server.gateway import Gateway
from edgecloud.server.placement import WorkerAddress
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError
from tests.conftest import LONG_S, until

SECRET = "what workers are told"
LOCAL = "127.0.0.1"


def soon(seconds: float = LONG_S) -> Deadline:
    return Deadline.after(seconds, "the test")


@dataclass
class Fixed:
    """A placement of workers that are there already; a test changes the list."""

    at: list[WorkerAddress] = field(default_factory=list)
    waking_s: float = 7.0
    given_up: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        return len(self.at)

    def start(self) -> None:
        """They run."""

    def addresses(self) -> Sequence[WorkerAddress]:
        return tuple(self.at)

    def lost(self, name: str) -> None:
        self.given_up.append(name)

    def close(self, seconds: float) -> None:
        """They are the test's."""


@contextmanager
def serving(cloud: Cloud) -> Iterator[Cloud]:
    """Serve in a thread."""
    cloud.server.open()
    cloud.begin()
    thread = threading.Thread(target=cloud.server.serve)
    thread.start()
    try:
        yield cloud
    finally:
        cloud.server.stop()
        thread.join()
        cloud.close()


@dataclass
class Fleetlet:
    """A gateway, and what is behind it."""

    folder: Path
    cache: Path
    stack: ExitStack
    placement: Fixed = field(default_factory=Fixed)
    port: int = 0
    gateway: Gateway | None = None

    def config(self, **settings: object) -> CloudConfig:
        device = DeviceConfig(cache_dir=self.cache, threads=1)
        return replace(CloudConfig(port=0, device=device, drain_s=1.0), **settings)  # type: ignore[arg-type]

    def worker(self, name: str, *networks: TorchNetwork, is_known: bool = True, **settings: object) -> Cloud:
        """One that computes."""
        about = {"host": f"unix:{self.folder}/{name}", "token": SECRET, "is_worker": True} | settings
        loaded = [(registry.lookup(network.graph.name), network) for network in networks]
        cloud = self.stack.enter_context(serving(Cloud(self.config(**about), loaded=loaded)))
        if is_known:
            self.know(name, *cloud.server.addresses[0])
        return cloud

    def scripted(self, name: str, act: "Act", ready: Ready | None = None) -> "Scripted":
        """One that answers STATUS and HELLO, and a request with `act`."""
        worker = Scripted(f"unix:{self.folder}/{name}", act, ready)
        self.stack.callback(worker.close)
        self.know(name, worker.host, 0)
        return worker

    def know(self, name: str, host: str, port: int) -> None:
        self.placement.at.append(WorkerAddress(name, host, port, SECRET))

    def forget(self, name: str) -> None:
        self.placement.at[:] = [each for each in self.placement.at if each.name != name]

    def once_well(self, count: int) -> Fleet:
        """The workers as the gateway knows them, once so many answer."""
        assert self.gateway is not None
        fleet = self.gateway.fleet
        until(lambda: fleet.well == count)
        return fleet

    def open(self, well: int | None = None, **settings: object) -> int:
        """The gateway, once so many workers answer; gives its port."""
        self.gateway = Gateway(self.config(**settings), placement=self.placement)
        self.stack.enter_context(serving(self.gateway))
        self.once_well(self.placement.wanted if well is None else well)
        self.port = self.gateway.server.addresses[0][1]
        return self.port


@contextmanager
def fleetlet(cache: Path) -> Iterator[Fleetlet]:
    with tempfile.TemporaryDirectory(prefix="edge-cloud-test-") as folder, ExitStack() as stack:
        yield Fleetlet(Path(folder), cache, stack)


def hello_of(network: TorchNetwork, token: str = "") -> Hello:
    return Hello(network.traced.graph.name, network.loaded.digest, network.traced.graph.digest, ["raw"], token)


@dataclass
class Caller:
    """An edge that says what a test wants, frame by frame."""

    connection: Connection
    network: TorchNetwork
    number: int = 0
    ready: Ready | None = None

    def greet(self, token: str = "") -> Ready:
        self.connection.send(hello_of(self.network, token), soon())
        self.ready = self.connection.receive(soon()).read(Ready)
        return self.ready

    def ask(self, x: Array | None = None, deadline_s: float = 60.0) -> int:
        """Send the whole network's input; returns the request's number."""
        self.number += 1
        layers = [[1, len(self.network.graph.layers)]]
        self.connection.send(Infer(self.number, layers, deadline_s), soon(), [self.x if x is None else x])
        return self.number

    @property
    def x(self) -> Array:
        return np.asarray(self.network.example.tensor)

    def hear(self) -> tuple[Result, Array]:
        """The next answer. Raises what a refusal means."""
        frame = self.connection.receive(soon())
        return frame.read(Result), frame.arrays()[0]

    def expected(self, x: Array | None = None) -> Array:
        """What the user's own module gives."""
        import torch

        given = self.x if x is None else x
        with torch.no_grad():
            return np.asarray(self.network.loaded.model(torch.from_numpy(given)))

    def answered(self) -> Result:
        """One request, answered as the network itself would."""
        self.ask()
        result, got = self.hear()
        np.testing.assert_allclose(got, self.expected(), rtol=1e-4, atol=1e-4)
        return result


@contextmanager
def caller(port: int, network: TorchNetwork, *, greets: bool = True) -> Iterator[Caller]:
    with closing(connect(LOCAL, port, 5.0)) as connection:
        edge = Caller(connection, network)
        if greets:
            edge.greet()
        yield edge


Act = Callable[["Scripted", Connection, Frame], bool]
"""What a scripted worker does with a request; returns whether it goes on reading."""


class Scripted:
    """A worker that speaks the protocol, and does what a test says with requests."""

    def __init__(self, host: str, act: Act, ready: Ready | None) -> None:
        self.host, self.act, self.ready = host, act, ready
        self.heard: list[Frame] = []
        self.is_silent = False
        self.is_busy = False
        """Whether it leaves STATUS unanswered."""
        self._listener = listen(host, 0, 16)[0]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """As a process that ends."""
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        Path(self.host.removeprefix("unix:")).unlink(missing_ok=True)

    def requests(self) -> list[Infer]:
        return [frame.read(Infer) for frame in self.heard if frame.kind is FrameType.INFER]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket) -> None:
        with suppress(AppError, OSError):  # the latter where it is closed meanwhile
            connection = Connection(sock)
            with suppress(AppError):
                while self._answer(connection, connection.receive(soon())):
                    pass
            connection.close()

    def _answer(self, connection: Connection, frame: Frame) -> bool:
        self.heard.append(frame)
        while self.is_silent:
            time.sleep(0.05)
        if frame.kind is FrameType.STATUS:
            while self.is_busy:
                time.sleep(0.05)
            connection.send(State(1.0, 0.0, 0, 32, 1), soon())
        elif frame.kind is FrameType.HELLO:
            assert self.ready is not None
            connection.send(self.ready, soon())
        else:
            return self.act(self, connection, frame)
        return True
