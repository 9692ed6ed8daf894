"""Edges that choose among several clouds, and that move when a cloud asks for it: no answer is lost or wrong."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgecloud as ec
from benchmarks.hostile.attacks import encode
from edgecloud.client.choosing import FLOOD
from edgecloud.client.clouds import CloudAddress
from edgecloud.client.connection_manager import ConnectionConfig, ConnectionManager
from edgecloud.client.edge import Edge, Inference
from edgecloud.client.multiplexed import MovedError, Request
from edgecloud.engine.answers import matches
from edgecloud.engine.device_config import DeviceConfig
from edgecloud.engine.identity import hello_of
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import registry
from edgecloud.models.network import fed_layers
from edgecloud.models.torch_network import TorchNetwork, whole_answer
from edgecloud.net import endpoints
from edgecloud.net.connection import ClosedAtBoundaryError, connect
from edgecloud.net.frames import FrameType, Limits
from edgecloud.net.messages import Hello, Infer, Move, Probe, Probed, Ready, Result, State, Status, to_header
from edgecloud.net.server import Peer, Server
from edgecloud.net.tensors import Array
from edgecloud.net.tls import client_tls, server_context
from edgecloud.server.cloud import Cloud
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, HandshakeLostError, MismatchError, PeerClosedError
from tests import certificates
from tests.client.test_multiplexed import Ear
from tests.conftest import LONG_S, until
from tests.serving import running

HOST = "127.0.0.1"
IDLE = State(1.0, 0.0, 0, 32, 1)


def soon() -> Deadline:
    return Deadline.after(LONG_S, "the test")


class Site:
    """A cloud that answers rightly, says that it is as busy as it is told to, and can say MOVE whenever it likes."""

    def __init__(
        self, network: TorchNetwork, state: State = IDLE, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self._executor = TorchExecutor(network, torch.device("cpu"))
        self.state, self.hellos, self.answered = state, list[Hello](), 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.refuses = self.chats = False
        self.peers: list[Peer] = []
        self._server = Server(HOST, port, self._converse, Limits(), drain_s=0.1)
        self.port = self._server.open()[1]
        self._thread = threading.Thread(target=self._server.serve)
        self._thread.start()

    @property
    def place(self) -> str:
        return f"{HOST}:{self.port}"

    def _converse(self, peer: Peer) -> None:
        times = [0.0] * len(self._executor.traced.graph.layers)
        if self._tls is not None:
            peer.connection.secure(self._tls, soon())
        seen: set[FrameType] = set()
        while True:
            frame = peer.connection.receive(soon())
            if self.chats and frame.kind not in seen and (seen or frame.kind is FrameType.HELLO):
                peer.connection.send(Move("", f"before the answer to {frame.kind.name}"), soon())
                seen.add(frame.kind)
            if frame.kind is FrameType.HELLO:
                if self.refuses:
                    raise MismatchError("this cloud has another network")
                self.hellos.append(frame.read(Hello))
                self.peers.append(peer)
                peer.connection.send(Ready(times, times, 0.0, "cpu", ["raw"], 1 << 20, "measured"), soon())
            elif frame.kind is FrameType.STATUS:
                peer.connection.send(self.state, soon())
            elif frame.kind is FrameType.PROBE:
                probe = frame.read(Probe)
                peer.connection.send_bytes(Probed(probe.id), memoryview(bytes(probe.reply_bytes)), soon())
            else:
                self._answer(peer, frame.read(Infer), frame.arrays())

    def _answer(self, peer: Peer, request: Infer, arrays: list[Array]) -> None:
        layers = frozenset(n for start, stop in request.layers for n in range(start, stop))
        ran = self._executor.run(self._executor.load(layers), arrays)
        assert self.may_answer.wait(LONG_S)
        self.answered += 1
        peer.connection.send(Result(request.id, 0.0, ran.seconds), soon(), ran.arrays)

    def move(self, address: str = "", reason: str = "a test", times: int = 1) -> None:
        for _ in range(times):
            self.peers[-1].connection.send(Move(address, reason), soon())

    def close(self) -> None:
        self.may_answer.set()
        self._server.stop()
        self._thread.join(10)


class Subject:
    """An edge with le_net all of which the cloud runs, and what the answer is."""

    def __init__(self, network: TorchNetwork, first: tuple[str, int], *more: tuple[str, int], **settings: Any) -> None:
        self.graph = graph = network.traced.graph
        others = tuple(CloudAddress(*place, place[0]) for place in more)
        config = ConnectionConfig(first, more=others, timeout_s=LONG_S, **settings)
        self.manager = ConnectionManager(config, [hello_of(network)], {graph.name: len(graph.layers)})
        self.x = np.asarray(network.example.tensor)
        self.expected = whole_answer(network.loaded.model, network.example.tensor)

    def ask(self) -> None:
        deadline = soon()
        request = Request(0, self.graph.name, self.graph, self.graph.everything - {0}, [self.x])
        _, arrays = self.manager.ready_client(deadline).ask(request, deadline)
        assert matches(arrays, self.expected)

    def close(self) -> None:
        self.manager.close()


@pytest.fixture
def le_net(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network("le_net")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def sites(stack: ExitStack, network: TorchNetwork, *states: State) -> list[Site]:
    return [stack.enter_context(closing(Site(network, state))) for state in states]


def at(*some: Site) -> list[tuple[str, int]]:
    return [(HOST, site.port) for site in some]


def nobody() -> tuple[str, int]:
    """A port at which nobody listens."""
    with socket.create_server((HOST, 0)) as listener:
        return HOST, listener.getsockname()[1]


# --- choosing


def test_the_cloud_with_the_least_queued_seconds_is_taken_and_others_are_left(
    stack: ExitStack, le_net: TorchNetwork
) -> None:
    states = replace(IDLE, queue_s=0.9), replace(IDLE, queue_s=0.1), replace(IDLE, draining=True)
    busy, free, draining = sites(stack, le_net, *states)
    subject = stack.enter_context(closing(Subject(le_net, *at(busy, free, draining), nobody())))
    subject.manager.connect()
    subject.ask()
    assert [len(site.hellos) for site in (busy, free, draining)] == [0, 1, 0]
    assert subject.manager.place == free.place
    assert free.hellos[0].moves


def test_one_that_is_silent_holds_nobody_up(stack: ExitStack, le_net: TorchNetwork) -> None:
    """It takes connections and says nothing: it would be waited for for as long as a HELLO may take."""
    silent = stack.enter_context(socket.create_server((HOST, 0)))
    [free] = sites(stack, le_net, IDLE)
    subject = stack.enter_context(closing(Subject(le_net, (HOST, silent.getsockname()[1]), *at(free))))
    began = time.monotonic()
    subject.manager.connect()
    assert time.monotonic() - began < 1.5
    assert subject.manager.place == free.place


def test_one_that_does_not_have_the_network_is_passed_over(stack: ExitStack, le_net: TorchNetwork) -> None:
    other, right = sites(stack, le_net, IDLE, replace(IDLE, queue_s=1.0))
    other.refuses = True
    subject = stack.enter_context(closing(Subject(le_net, *at(other, right))))
    subject.manager.connect()
    assert subject.manager.place == right.place
    right.refuses = True
    with pytest.raises(MismatchError, match="another network"):
        subject.manager.connect()


def test_a_token_that_is_wrong_everywhere_is_said_once_and_not_tried_again(
    stack: ExitStack, le_net: TorchNetwork, cache: Path
) -> None:
    clouds = []
    for _ in range(2):
        config = CloudConfig(port=0, token="the right one, of them", device=DeviceConfig(cache_dir=cache))
        cloud = Cloud(config, loaded=[(registry.lookup("le_net"), le_net)])
        stack.callback(cloud.close)
        stack.enter_context(running(cloud.server))
        clouds.append((HOST, cloud.server.addresses[0][1]))
    subject = stack.enter_context(closing(Subject(le_net, *clouds)))
    began = time.monotonic()
    with pytest.raises(AppError, match="token"):
        subject.manager.connect(LONG_S)
    assert time.monotonic() - began < LONG_S / 2


def test_where_none_of_them_is_there_all_are_named(le_net: TorchNetwork) -> None:
    one, two = nobody(), nobody()
    with closing(Subject(le_net, one, two)) as subject, pytest.raises(ConnectError) as found:
        subject.manager.connect()
    assert f"{HOST}:{one[1]}" in str(found.value)
    assert f"{HOST}:{two[1]}" in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_clouds_that_take_connections_and_say_nothing_are_not_nobody(stack: ExitStack, le_net: TorchNetwork) -> None:
    """So an edge with a fallback goes on by itself, as with one such cloud."""
    silent = [stack.enter_context(socket.create_server((HOST, 0))).getsockname() for _ in range(2)]
    with closing(Subject(le_net, *silent)) as subject, pytest.raises(HandshakeLostError):
        subject.manager.connect(0.3)


def test_a_name_with_several_addresses_is_several_clouds(
    stack: ExitStack, le_net: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is looked up again for the next connection, where one that is gone is not tried first."""
    busy, free = sites(stack, le_net, replace(IDLE, queue_s=1.0), IDLE)
    there = [(HOST, busy.port), (HOST, free.port), nobody()]
    monkeypatch.setattr("edgecloud.client.clouds.resolve", lambda host, port: there)
    subject = stack.enter_context(closing(Subject(le_net, ("clouds.example", 9999))))
    subject.manager.connect()
    assert subject.manager.place == free.place
    free.close()
    with pytest.raises(PeerClosedError):
        subject.ask()
    subject.ask()
    assert subject.manager.place == busy.place


def test_names_are_looked_up_with_their_interfaces() -> None:
    assert endpoints.resolve(HOST, 80) == [(HOST, 80)]
    assert (HOST, 80) in endpoints.resolve("localhost", 80)


def test_a_name_server_that_is_slow_for_one_name_holds_nobody_up(
    stack: ExitStack, le_net: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    [free] = sites(stack, le_net, IDLE)
    is_over = threading.Event()
    stack.callback(is_over.set)

    def resolve(host: str, port: int) -> list[tuple[str, int]]:
        if host == "slow.example":
            is_over.wait(LONG_S)
        return at(free)

    monkeypatch.setattr("edgecloud.client.clouds.resolve", resolve)
    subject = stack.enter_context(closing(Subject(le_net, ("slow.example", 9999), ("quick.example", 9999))))
    subject.manager.connect()
    assert subject.manager.place == free.place


# --- moving


def test_an_edge_moves_while_a_request_is_out_and_that_one_is_answered_where_it_is(
    stack: ExitStack, le_net: TorchNetwork
) -> None:
    old, new = sites(stack, le_net, IDLE, replace(IDLE, queue_s=1.0))
    subject = stack.enter_context(closing(Subject(le_net, *at(old, new))))
    subject.manager.listener = ear = Ear()
    old_client = subject.manager.connect()
    old.may_answer.clear()
    request = Request(0, subject.graph.name, subject.graph, subject.graph.everything - {0}, [subject.x])
    old_client.submit(request)
    old.state = replace(IDLE, draining=True)
    old.move()
    until(lambda: subject.manager.moved)
    subject.ask()  # over the new one, while the old one still owes an answer
    assert (subject.manager.place, new.answered, old.answered) == (new.place, 1, 0)
    assert old_client.is_alive
    old.may_answer.set()
    assert ear.heard.wait(LONG_S)
    assert (ear.answers, ear.losses, old.answered, new.answered) == ([request], [], 1, 1)
    until(lambda: not old_client.is_alive)  # closed once it is of no use
    assert (subject.manager.reconnects, subject.manager.connects) == (0, 2)
    with pytest.raises(MovedError):  # who held on to it is told so, and nothing was sent
        old_client.ask(request, soon())


def test_an_edge_that_asks_nothing_sees_a_move_before_its_next_request(stack: ExitStack, le_net: TorchNetwork) -> None:
    old, new = sites(stack, le_net, IDLE, replace(IDLE, queue_s=1.0))
    subject = stack.enter_context(closing(Subject(le_net, *at(old, new))))
    subject.manager.connect()
    subject.ask()
    old.state = replace(IDLE, draining=True)
    old.move()
    client = subject.manager.client
    assert client is not None
    until(client.connection.has_news)
    assert subject.manager.moved == 0
    subject.ask()
    until(lambda: subject.manager.moved == 1)
    subject.ask()
    assert new.answered >= 1


def test_a_move_may_come_before_any_answer(stack: ExitStack, le_net: TorchNetwork) -> None:
    """To HELLO, to probes of the link, to a question, to a request; the edge stays as long as it is best off."""
    old, new = sites(stack, le_net, IDLE, replace(IDLE, queue_s=1.0))
    old.chats = True
    subject = stack.enter_context(closing(Subject(le_net, *at(old, new))))
    client = subject.manager.connect()
    assert subject.manager.measure().source == "probe"
    subject.manager.ask_state(LONG_S)
    subject.ask()
    until(lambda: not subject.manager._mover.is_busy)
    assert (client.is_alive, subject.manager.moved, subject.manager.connects) == (True, 0, 1)
    old.state = replace(IDLE, draining=True)
    subject.manager.ask_state(LONG_S)
    old.move()
    until(client.connection.has_news)
    subject.ask()
    until(lambda: subject.manager.moved == 1)


def test_where_no_other_cloud_is_there_the_edge_stays(stack: ExitStack, le_net: TorchNetwork) -> None:
    """And it goes on looking: the one that comes later is used."""
    [old] = sites(stack, le_net, IDLE)
    later = nobody()
    subject = stack.enter_context(closing(Subject(le_net, *at(old), later)))
    subject.manager.connect()
    old.state = replace(IDLE, draining=True)
    old.move()
    for _ in range(3):
        subject.ask()
    assert (subject.manager.moved, subject.manager.connects, old.answered) == (0, 1, 3)
    stack.enter_context(closing(Site(le_net, port=later[1])))
    until(lambda: subject.manager.moved == 1)
    subject.ask()


def test_an_edge_whose_cloud_is_the_best_stays(stack: ExitStack, le_net: TorchNetwork) -> None:
    old, other = sites(stack, le_net, IDLE, replace(IDLE, queue_s=1.0))
    subject = stack.enter_context(closing(Subject(le_net, *at(old, other))))
    client = subject.manager.connect()
    client.start()
    old.move()
    until(lambda: not subject.manager._mover.is_busy)
    assert (subject.manager.moved, subject.manager.client, other.hellos) == (0, client, [])


def test_an_edge_does_not_move_to_a_cloud_that_has_another_network(stack: ExitStack, le_net: TorchNetwork) -> None:
    """The better one refuses it: it takes the next best."""
    old, other, third = sites(stack, le_net, IDLE, replace(IDLE, queue_s=1.0), replace(IDLE, queue_s=2.0))
    subject = stack.enter_context(closing(Subject(le_net, *at(old, other, third))))
    subject.manager.connect().start()
    other.refuses = True
    old.state = replace(IDLE, draining=True)
    old.move()
    until(lambda: subject.manager.moved == 1)
    subject.ask()
    assert (subject.manager.place, third.answered) == (third.place, 1)


@pytest.mark.parametrize(
    "where", ["evil.example:9999", "127.0.0.1:22", "nonsense", "127.0.0.1", "[::1]:1", "\x1b[2J:1"]
)
def test_a_move_leads_to_nobody_whom_the_user_did_not_name(stack: ExitStack, le_net: TorchNetwork, where: str) -> None:
    old, other = sites(stack, le_net, IDLE, IDLE)
    trap = stack.enter_context(closing(Site(le_net)))
    subject = stack.enter_context(closing(Subject(le_net, *at(old, other))))
    subject.manager.connect()
    first, second = (old, other) if old.hellos else (other, old)
    subject.ask()
    client = subject.manager.client
    assert client is not None
    client.start()
    for address in (where, trap.place):
        first.move(address, "\x1b[31m" + "x" * 900)
    until(lambda: not subject.manager._mover.is_busy)
    assert (subject.manager.moved, trap.hellos) == (0, [])
    first.move(second.place)  # but to one that was named
    until(lambda: subject.manager.moved == 1)
    subject.ask()
    assert (second.answered, client.is_alive or first.answered) == (1, True)


def test_a_flood_of_moves_ends_the_connection(stack: ExitStack, le_net: TorchNetwork) -> None:
    [old] = sites(stack, le_net, IDLE)
    subject = stack.enter_context(closing(Subject(le_net, *at(old), nobody())))
    client = subject.manager.connect()
    client.start()
    old.move("nowhere", times=FLOOD + 1)
    until(lambda: not client.is_alive)
    subject.ask()  # over a new one
    assert subject.manager.reconnects == 1


def test_an_edge_that_does_not_move_says_nothing_of_it() -> None:
    """So for an older cloud nothing has changed, and a newer one sends such an edge no MOVE."""
    assert "moves" not in to_header(Hello("le_net", "w", "g", ["raw"], ""))


def test_with_tls_each_cloud_has_to_be_the_one_that_was_named(
    stack: ExitStack, le_net: TorchNetwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever address leads to it: that of another cloud whose certificate is right for that address is none."""
    named, numbered = (
        certificates.make(tmp_path, "named", "DNS:clouds.example"),
        certificates.make(tmp_path, "numbered", f"IP:{HOST}"),
    )
    trusted = tmp_path / "both.pem"
    trusted.write_text(named.cert.read_text() + numbered.cert.read_text())
    old, new, trap = (
        stack.enter_context(closing(Site(le_net, state, tls=server_context(one.cert, one.key, None))))
        for one, state in ((named, IDLE), (named, replace(IDLE, queue_s=1.0)), (numbered, IDLE))
    )
    monkeypatch.setattr("edgecloud.client.clouds.resolve", lambda host, port: at(old, new, trap))
    tls = client_tls(trusted, None, None, "clouds.example")
    subject = stack.enter_context(closing(Subject(le_net, ("clouds.example", 9999), tls=tls)))
    client = subject.manager.connect()
    client.start()
    subject.ask()
    assert subject.manager.place == old.place
    old.state = replace(IDLE, draining=True)
    old.move()
    until(lambda: subject.manager.moved)
    subject.ask()
    assert (new.answered, trap.hellos) == (1, [])
    other = stack.enter_context(
        closing(Subject(le_net, at(trap)[0], *at(new), tls=client_tls(trusted, None, None, HOST)))
    )
    other.manager.connect()  # by its address the third is right, and the second is not
    assert other.manager.place == trap.place


def test_an_inference_that_holds_a_connection_that_was_left_is_sent_over_the_other_one(
    stack: ExitStack, le_net: TorchNetwork
) -> None:
    """It had packed its boundary meanwhile; nothing was sent, so nothing is lost, with a fallback or without."""
    [site] = sites(stack, le_net, IDLE)
    edge = Edge(registry.lookup("le_net"), le_net, TorchExecutor(le_net, torch.device("cpu")))
    stack.callback(edge.close)
    manager = edge.use(ConnectionConfig((HOST, site.port)))
    left = manager.connect()
    manager.connect()
    until(lambda: not left.is_alive)
    inference = Inference(edge, fed_layers(edge.graph, np.asarray(le_net.example.tensor)))
    inference.run_there(edge.graph.everything - {0}, left, soon())
    expected = whole_answer(le_net.loaded.model, le_net.example.tensor)
    assert matches(inference.answered("cloud").outputs, expected)
    assert (site.answered, inference.requests) == (1, 1)


# --- real clouds in this process


def test_a_cloud_says_move_to_those_that_understand_it_and_to_no_other(
    stack: ExitStack, le_net: TorchNetwork, cache: Path
) -> None:
    cloud = real(le_net, cache, age_s=0.2)
    stack.callback(cloud.close)
    port = stack.enter_context(running(cloud.server))
    new, old = (stack.enter_context(closing(connect(HOST, port, LONG_S))) for _ in range(2))
    for connection, moves in ((new, True), (old, False)):
        connection.send(replace(hello_of(le_net), moves=moves), soon())
        connection.receive(soon()).read(Ready)
    assert [new.receive(soon()).read(Move).address for _ in range(2)] == ["", ""]  # it may stay, and is asked again
    new.send(Status(), soon())
    kinds = [new.receive(soon()).kind]
    while kinds[-1] is FrameType.MOVE:
        kinds.append(new.receive(soon()).kind)
    assert kinds[-1] is FrameType.STATE  # it is answered as ever
    cloud.server.stop()
    with pytest.raises(ClosedAtBoundaryError):  # an older edge: at once, and nothing came that it does not know
        old.receive(soon())
    while new.receive(soon()).read(Move).reason != "the cloud is stopping":
        pass
    new.send(replace(hello_of(le_net), moves=True), soon())  # a further network, say
    new.receive(soon()).read(Ready)
    new.send(Status(stays=True), soon())
    assert new.receive(soon()).read(State).draining
    with pytest.raises(ClosedAtBoundaryError):
        new.receive(soon())


def test_a_request_that_arrives_slowly_while_a_cloud_stops_is_answered(
    stack: ExitStack, le_net: TorchNetwork, cache: Path
) -> None:
    """Longer than an idle edge keeps its connection then."""
    cloud = real(le_net, cache)
    stack.callback(cloud.close)
    port = stack.enter_context(running(cloud.server))
    edge = stack.enter_context(closing(connect(HOST, port, LONG_S)))
    edge.on_move = lambda _: None
    edge.send(replace(hello_of(le_net), moves=True), soon())
    edge.receive(soon()).read(Ready)
    layers = [[1, len(le_net.traced.graph.layers)]]
    data = encode(Infer(1, layers, LONG_S), [np.asarray(le_net.example.tensor)])
    cloud.server.stop()
    for number in range(8):
        edge.sock.sendall(data[number * len(data) // 8 : (number + 1) * len(data) // 8])
        time.sleep(0.25)
    frame = edge.receive(soon())
    assert frame.read(Result).id == 1
    assert matches(frame.arrays(), whole_answer(le_net.loaded.model, le_net.example.tensor))


def test_a_cloud_takes_no_move(stack: ExitStack, le_net: TorchNetwork, cache: Path) -> None:
    cloud = real(le_net, cache)
    stack.callback(cloud.close)
    port = stack.enter_context(running(cloud.server))
    edge = stack.enter_context(closing(connect(HOST, port, LONG_S)))
    edge.send(Move("", ""), soon())
    with pytest.raises(AppError, match="first message"):
        edge.receive(soon()).read(Ready)
    other = stack.enter_context(closing(connect(HOST, port, LONG_S)))
    other.send(hello_of(le_net), soon())
    other.receive(soon()).read(Ready)
    other.send(Move("", ""), soon())
    with pytest.raises(AppError, match="unexpected MOVE"):
        other.receive(soon()).read(Ready)


def real(network: TorchNetwork, cache: Path, age_s: float = 0.0, port: int = 0, grpc_port: int | None = None) -> Cloud:
    device = DeviceConfig(cache_dir=cache)
    config = CloudConfig(port=port, device=device, connection_age_s=age_s, drain_s=LONG_S, grpc_port=grpc_port)
    return Cloud(config, loaded=[(registry.lookup("le_net"), network)])


def test_a_later_cloud_gets_its_share_of_edges_that_are_connected(
    stack: ExitStack, le_net: TorchNetwork, cache: Path
) -> None:
    first = real(le_net, cache, age_s=0.5)
    stack.callback(first.close)
    port = stack.enter_context(running(first.server))
    later = nobody()
    edges = [stack.enter_context(closing(Subject(le_net, (HOST, port), later))) for _ in range(8)]
    for edge in edges:
        edge.manager.connect()
    second = real(le_net, cache, age_s=0.5, port=later[1])
    stack.callback(second.close)
    is_over, failures = threading.Event(), list[Exception]()

    def go_on(edge: Subject) -> None:
        try:
            while not is_over.wait(0.02):
                edge.ask()
        except (AppError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=go_on, args=(edge,)) for edge in edges]
    for thread in threads:
        thread.start()
    try:
        stack.enter_context(running(second.server))
        there = f"{HOST}:{later[1]}"
        until(lambda: sum(edge.manager.place == there for edge in edges) >= 3 or failures)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(LONG_S)
    assert not failures
    assert sum(edge.manager.reconnects for edge in edges) == 0


@pytest.mark.parametrize("way", ["one", "map"])
def test_a_cloud_that_stops_hands_its_edge_over(stack: ExitStack, le_net: TorchNetwork, cache: Path, way: str) -> None:
    """Without a fallback, so that any request that is lost is an error."""
    net = ec.load("le_net")
    clouds = [real(le_net, cache), real(le_net, cache)]
    for cloud in clouds:
        stack.callback(cloud.close)
        stack.enter_context(running(cloud.server))
    places = [cloud.server.addresses[0] for cloud in clouds]
    text = ",".join(f"{host}:{port}" for host, port in places)
    link = ec.Link("100mbit", rtt="1ms")
    edge = stack.enter_context(ec.Edge(net, cloud=text, point=3, fallback="off", link=link))
    manager = edge.client.entered.edge.cloud
    assert manager is not None
    used = next(cloud for cloud, (host, port) in zip(clouds, places, strict=True) if manager.place == f"{host}:{port}")
    expected = net(net.sample)[0]

    def inputs() -> Iterator[np.ndarray]:
        for number in range(10_000):
            if number == 10:
                used.server.stop()
            if manager.moved and not used.server.peers and number > 20:
                return
            yield net.sample
            time.sleep(0.005)

    answers = edge.map(inputs()) if way == "map" else map(edge, inputs())
    count = 0
    for answer in answers:
        count += 1
        assert answer.completed_by == "split"
        assert np.allclose(answer.outputs[0], expected, atol=1e-5)
    assert count > 20
    assert (manager.moved, manager.reconnects) == (1, 0)


def test_an_edge_moves_over_grpc_too(stack: ExitStack, le_net: TorchNetwork, cache: Path) -> None:
    """Where more comes between two requests than frames."""
    clouds = [real(le_net, cache, grpc_port=0) for _ in range(2)]
    for cloud in clouds:
        stack.callback(cloud.close)
        stack.enter_context(running(cloud.server))
    places = [cloud.server.grpc_addresses[0] for cloud in clouds]
    subject = stack.enter_context(closing(Subject(le_net, *places, transport="grpc")))
    subject.manager.connect()
    used = next(cloud for cloud, (_, port) in zip(clouds, places, strict=True) if str(port) in subject.manager.place)
    for _ in range(5):
        subject.ask()
        time.sleep(0.01)
    used.server.stop()

    def has_moved() -> bool:
        subject.ask()
        return subject.manager.moved == 1

    until(has_moved)
    subject.ask()
    assert (subject.manager.reconnects, subject.manager.connects) == (0, 2)


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_cloud_that_stops_does_not_wait_for_edges_that_cannot_leave(
    stack: ExitStack, le_net: TorchNetwork, cache: Path, is_busy: bool
) -> None:
    """Its drain would last as long as the test may."""
    cloud = real(le_net, cache)
    stack.callback(cloud.close)
    _, port = cloud.server.open()
    serving = threading.Thread(target=cloud.server.serve)
    serving.start()
    subject = stack.enter_context(closing(Subject(le_net, (HOST, port))))
    subject.manager.connect()
    subject.ask()
    began = time.monotonic()
    cloud.server.stop()
    with contextlib.suppress(AppError):
        while is_busy and time.monotonic() - began < LONG_S / 2:
            subject.ask()
    serving.join(LONG_S)
    assert not serving.is_alive()
    assert time.monotonic() - began < LONG_S / 4
