"""The edge's end of a connection for many requests: each comes back exactly once, whatever the other side does."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest

from edgecloud.client.handshake import RefusedError
from edgecloud.client.multiplexed import MultiplexedClient, Request
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.messages import Error, Hello, Infer, Ready, Result, State
from edgecloud.net.plain_pickle import dumps
from edgecloud.net.tensors import Array
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, ProtocolError
from tests.conftest import LONG_S, until

LAYERS = 13


def soon(seconds: float = LONG_S) -> Deadline:
    return Deadline.after(seconds, "the test")


class Ear:
    """Hears what became of requests."""

    def __init__(self) -> None:
        self.answers: list[Request] = []
        self.refusals: list[Error] = []
        self.losses: list[Request] = []
        self.left = 0
        self.heard = threading.Event()

    def departed(self, request: Request) -> None:
        del request
        self.left += 1

    def answered(self, request: Request, result: Result, arrays: list[Array]) -> None:
        del result, arrays
        self.answers.append(request)
        self.heard.set()

    def refused(self, request: Request, error: Error) -> None:
        del request
        self.refusals.append(error)
        self.heard.set()

    def lost(self, requests: object, error: AppError) -> None:
        del error
        self.losses += list(requests)  # type: ignore[call-overload]
        self.heard.set()


Script = Callable[[Connection, int], None]


class FakeCloud:
    """Agrees to every HELLO, and does with a request what `script` says."""

    def __init__(self, script: Script, layers: int = LAYERS) -> None:
        self._script, self._layers = script, layers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        connection = Connection(sock)
        try:
            while True:
                frame = connection.receive(soon())
                if frame.kind is FrameType.HELLO:
                    times = [0.0] * self._layers
                    connection.send(Ready(times, times, 0.0, "cpu", ["raw"], 1 << 20, "measured"), soon())
                elif frame.kind is FrameType.STATUS:
                    connection.send(State(2.0, 0.5, 1, 32, 1), soon())
                elif frame.kind is FrameType.INFER:
                    self._script(connection, frame.read(Infer).id)
        except (AppError, OSError):
            connection.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def request_for(network: Callable[[str], TorchNetwork]) -> Callable[[], Request]:
    graph = network("le_net").traced.graph
    assert len(graph.layers) == LAYERS
    return lambda: Request(0, "le_net", graph, graph.everything - {0}, [np.zeros((1, 1, 28, 28), np.float32)])


def connected(cloud: FakeCloud, ear: Ear) -> MultiplexedClient:
    hello = Hello("le_net", "w", "g", ["raw"], "")
    return MultiplexedClient.open(
        cloud.address, [hello], {"le_net": LAYERS}, ear, lambda _: None, ready_s=LONG_S, window=4, timeout_s=LONG_S
    )


def right(connection: Connection, number: int) -> None:
    connection.send(Result(number, 0.0, 0.0), soon(), [np.zeros((1, 10), np.float32)])


def hang_up(connection: Connection, _number: int) -> None:
    connection.close()


def bytes_without_description(connection: Connection, number: int) -> None:
    header = dumps({"id": number, "queue_s": 0.0, "cloud_s": 0.0})
    connection.sock.sendall(pack_prefix(FrameType.RESULT, len(header), 3) + header + b"abc")


def another_shape(connection: Connection, number: int) -> None:
    connection.send(Result(number, 0.0, 0.0), soon(), [np.zeros((1, 9), np.float32)])


def another_number(connection: Connection, number: int) -> None:
    right(connection, number + 1)


def twice(connection: Connection, number: int) -> None:
    right(connection, number)
    right(connection, number)


def an_error_of_the_connection(connection: Connection, _number: int) -> None:
    connection.send(Error("INTERNAL", "a bug"), soon())


def test_an_answer_comes_back_and_the_cloud_tells_its_load(request_for: Callable[[], Request]) -> None:
    ear = Ear()
    with closing(FakeCloud(right)) as cloud, closing(connected(cloud, ear)) as client:
        request = request_for()
        client.submit(request)
        assert ear.heard.wait(LONG_S)
        assert (ear.answers, ear.losses, ear.left) == ([request], [], 1)
        told = client.ask_state(LONG_S)
        assert told is not None
        assert told[0].load == 2.0
        assert 0 < told[1] < LONG_S


def test_a_refusal_comes_back_with_its_reason(request_for: Callable[[], Request]) -> None:
    def busy(connection: Connection, number: int) -> None:
        connection.send(Error("BUSY", "later", number, 0.25), soon())

    ear = Ear()
    with closing(FakeCloud(busy)) as cloud, closing(connected(cloud, ear)) as client:
        client.submit(request_for())
        assert ear.heard.wait(LONG_S)
        assert [(error.code, error.retry_after_s) for error in ear.refusals] == [("BUSY", 0.25)]
        assert client.is_alive


@pytest.mark.parametrize(
    "script", [hang_up, bytes_without_description, another_shape, another_number, twice, an_error_of_the_connection]
)
def test_whatever_goes_wrong_every_request_comes_back_once(script: Script, request_for: Callable[[], Request]) -> None:
    ear = Ear()
    with closing(FakeCloud(script)) as cloud, closing(connected(cloud, ear)) as client:
        requests = [request_for() for _ in range(3)]
        for request in requests:
            client.submit(request)
        until(lambda: len(ear.answers) + len(ear.losses) >= len(requests))
        assert not client.is_alive
        assert {id(request) for request in ear.answers + ear.losses} == {id(request) for request in requests}
        late = request_for()
        client.submit(late)
        assert ear.losses[-1] is late
        assert len(ear.answers) + len(ear.losses) == 4


def test_who_asks_alone_sends_and_receives_without_threads(request_for: Callable[[], Request]) -> None:
    with closing(FakeCloud(right)) as cloud, closing(connected(cloud, Ear())) as client:
        for _ in range(3):
            result, arrays = client.ask(request_for(), soon())
            assert (result.cloud_s, arrays[0].shape) == (0.0, (1, 10))
        told = client.ask_state(LONG_S)
        assert told is not None
        assert told[0].load == 2.0
        assert not any(thread.name.startswith("requests ") for thread in threading.enumerate())


def busy_first(connection: Connection, number: int) -> None:
    if number > 1:
        right(connection, number)
    else:
        connection.send(Error("BUSY", "later", number, 0.25), soon())


def deaf(_connection: Connection, _number: int) -> None:
    """Says nothing."""


@pytest.mark.parametrize("has_threads", [False, True])
def test_asking_ends_in_an_answer_a_refusal_or_the_deadline(
    has_threads: bool, request_for: Callable[[], Request]
) -> None:
    ear = Ear()
    with closing(FakeCloud(busy_first)) as cloud, closing(connected(cloud, ear)) as client:
        if has_threads:
            client.start()
        with pytest.raises(RefusedError) as caught:
            client.ask(request_for(), soon())
        assert (caught.value.error.code, caught.value.retry_after_s) == ("BUSY", 0.25)
        assert client.ask(request_for(), soon())[0].id == 2  # on the same connection
    with closing(FakeCloud(deaf)) as cloud, closing(connected(cloud, ear)) as client:
        if has_threads:
            client.start()
        with pytest.raises(DeadlineError, match="the test"):
            client.ask(request_for(), soon(0.2))
        assert not client.is_alive  # what is still on its way would be taken for another answer
        with pytest.raises(DeadlineError):
            client.ask(request_for(), soon())
    assert (ear.answers, ear.refusals, ear.losses) == ([], [], [])  # whoever asks is told


def test_times_of_another_network_are_refused() -> None:
    with (
        closing(FakeCloud(right, layers=LAYERS - 1)) as cloud,
        pytest.raises(ProtocolError, match="do not match le_net"),
    ):
        connected(cloud, Ear())


def test_a_connection_that_is_being_opened_can_be_given_up() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        opened: list[Connection] = []

        def close_soon(connection: Connection) -> None:
            opened.append(connection)
            threading.Timer(0.3, connection.close).start()

        began = time.monotonic()
        with pytest.raises((ConnectError, ProtocolError)):
            MultiplexedClient.open(
                deaf.getsockname(),
                [Hello("le_net", "w", "g", ["raw"], "")],
                {"le_net": LAYERS},
                Ear(),
                close_soon,
                ready_s=2 * LONG_S,
                window=4,
                timeout_s=5.0,
            )
        assert time.monotonic() - began < LONG_S  # half of what it would wait


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: not any(thread.name.startswith("requests ") for thread in threading.enumerate()))
