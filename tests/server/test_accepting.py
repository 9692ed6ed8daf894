"""A network that an edge sends: used where it is what it says, and nobody's trouble but its own where it is not."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.hostile import sent
from edgecloud.client.handshake import handshake
from edgecloud.client.parcels import Parcel
from edgecloud.client.shipping import Shipping
from edgecloud.engine.child_executor import ChildExecutor
from edgecloud.engine.child_process import ChildError, ChildProcess
from edgecloud.engine.device_config import DeviceConfig
from edgecloud.engine.identity import hello_of
from edgecloud.models import bundle
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.graph import LayerGraph
from edgecloud.models.sent_network import SentNetwork, check_graph
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Error, Hello, Infer, Offer, Piece, Result, State, Status, Want, from_header
from edgecloud.net.server import Peer
from edgecloud.net.tensors import Array
from edgecloud.server import receiving
from edgecloud.server.cloud import Cloud
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, MismatchError, UsageError
from tests import bundles, hostile_onnx
from tests.conftest import LONG_S, ROOT, until
from tests.serving import running

TOKEN = "a good secret, 24 bytes!"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[BundleNetwork, TorchNetwork]:
    return bundles.pair(tmp_path_factory.mktemp("bundles") / "chain.bundle", bundles.Chain(), (1, 3, 16, 16))


@pytest.fixture(autouse=True)
def _measured_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long layers take is no matter here."""
    monkeypatch.setattr("edgecloud.engine.child_executor.MEASURE_S", 0.1)
    monkeypatch.setattr("edgecloud.engine.segment_profile.REST_S", 0.0)
    monkeypatch.setattr("edgecloud.engine.segment_profile.MIN_POINTS", 1)


@contextmanager
def cloud(folder: Path, **more: Any) -> Iterator[tuple[Cloud, int]]:
    """A cloud in this process that takes networks."""
    device = DeviceConfig(cache_dir=folder / "cache", threads=1)
    config = CloudConfig(
        port=0, device=device, accepts_networks=True, network_store=folder / "store", models=("mnist",)
    )
    made = Cloud(replace(config, **more), loaded=())
    try:
        with running(made.server) as port:
            yield made, port
    finally:
        made.close()


def parcel_of(network: BundleNetwork, proof: tuple[Array, ...] | None = None) -> Parcel:
    found = bundle.outline_of(network.bundle.path)
    answer = tuple(network.whole(network.example.array)) if proof is None else proof
    return Parcel(network.bundle.path, found.digest, found.head_bytes, found.bytes, answer)


def ship(port: int, parcel: Parcel, token: str = "") -> Shipping:
    """Send a network as an edge does, and wait until that has come to an end."""
    shipping = Shipping(("127.0.0.1", port), token, None, {"it": lambda _: parcel})
    asked = AppError("the cloud refused")
    asked.accepts = 1 << 40
    assert shipping.takes(asked, "it")
    shipping.wait(LONG_S)
    assert not shipping.is_busy
    return shipping


def soon() -> Deadline:
    return Deadline.after(LONG_S, "no answer")


def greet(port: int, hello: Hello, layers: int) -> Connection:
    return handshake(("127.0.0.1", port), [hello], {hello.model: layers}, LONG_S)[0]


def ask(connection: Connection, graph: LayerGraph, tail: frozenset[int], arrays: list[Array]) -> list[Array]:
    """The answer of a tail. Raises AppError for a refusal."""
    connection.send(Infer(1, [[min(tail), max(tail) + 1]], 60.0), soon(), arrays)
    frame = connection.receive(soon())
    frame.read(Result)
    return frame.arrays()


def refused(port: int, hello: Hello) -> Error:
    connection = connect("127.0.0.1", port, LONG_S)
    try:
        connection.send(hello, soon())
        return from_header(Error, connection.receive(soon()).header)
    finally:
        connection.close()


def test_a_network_that_was_sent_answers_as_the_users_module_at_every_cut(
    pair: tuple[BundleNetwork, TorchNetwork], tmp_path: Path
) -> None:
    network, own = pair
    graph, x = network.graph, network.example.array
    hello, expected = hello_of(network), own.whole(network.example.array)[0]
    assert hello.bundle == network.bundle.digest
    with cloud(tmp_path) as (made, port):
        error = refused(port, hello)
        assert (error.code, error.accepts) == ("UNKNOWN_MODEL", CloudConfig.max_store_bytes)
        shipping = ship(port, parcel_of(network))
        assert shipping.progress is not None
        assert shipping.progress.state == "ready", shipping.progress.text()
        size = network.bundle.path.stat().st_size
        assert 0.9 * size < shipping.progress.sent <= size
        connection = greet(port, hello, len(graph.layers))
        values: dict[int, Array] = {0: x}
        own.each_output(x, lambda number, array: values.update({number: np.array(array)}))
        for point in graph.points[:-1]:
            head = graph.head_at(point.number)
            tail = graph.everything - head - {0}
            answer = ask(connection, graph, tail, [values[number] for number in graph.inputs_of(tail)])
            np.testing.assert_allclose(answer[0], expected, rtol=1e-3, atol=1e-4)
        connection.send(Status(), soon())
        state = connection.receive(soon()).read(State)
        assert state.sent == f"Chain@{network.bundle.digest[:12]}"
        assert state.store_bytes >= size
        connection.close()
        again = ship(port, parcel_of(network))
        assert again.progress is not None
        assert (again.progress.state, again.progress.sent) == ("ready", 0)
    with cloud(tmp_path) as (made, port):  # it was kept, and is proved again
        greet(port, hello, len(graph.layers)).close()
        other = replace(hello, graph="sha256:other")
        with pytest.raises(MismatchError, match="graph differs"):
            greet(port, other, len(graph.layers))
        assert made._accepting is not None
        (held,) = made._accepting._held.values()
        assert "system calls" not in held.child.kept
    until(lambda: not Path(f"/proc/{held.child.pid}").exists())


def test_a_connection_that_is_lost_half_way_costs_only_what_was_on_its_way(
    pair: tuple[BundleNetwork, TorchNetwork], tmp_path: Path
) -> None:
    network, _ = pair
    parcel = parcel_of(network)
    raw = parcel.path.read_bytes()
    with cloud(tmp_path) as (_, port):
        connection = connect("127.0.0.1", port, LONG_S)
        connection.send(Offer("", "it", parcel.digest, parcel.head_bytes, parcel.bytes), soon())
        want, sent_bytes = connection.receive(soon()).read(Want), 0
        ranges = want.ranges
        while sent_bytes < 0.5 * parcel.bytes:
            start, stop = ranges.pop(0)
            end = min(stop, start + 2000)
            ranges[:0] = [[end, stop]] if end < stop else []
            sent_bytes += connection.send_bytes(Piece(start), memoryview(raw[start:end]), soon())
            ranges += connection.receive(soon()).read(Want).ranges
        connection.close()
        shipping = ship(port, parcel)
        assert shipping.progress is not None
        assert shipping.progress.state == "ready"
        assert shipping.progress.sent <= parcel.bytes - sent_bytes


def test_a_cloud_without_the_flag_takes_nothing_and_the_edge_is_told_what_to_do(
    pair: tuple[BundleNetwork, TorchNetwork], tmp_path: Path
) -> None:
    network, _ = pair
    with cloud(tmp_path, accepts_networks=False) as (_, port):
        assert refused(port, hello_of(network)).accepts == 0
        with pytest.raises(AppError, match="start the cloud with --accept-networks"):
            greet(port, hello_of(network), 1)
        connection = connect("127.0.0.1", port, LONG_S)
        connection.send(Offer("", "it", "0" * 64, 100, 200), soon())
        with pytest.raises(AppError, match="--accept-networks"):
            connection.receive(soon()).read(Want)
        connection.close()
    assert not (tmp_path / "store").exists()


def test_only_clients_that_authenticated_may_send(pair: tuple[BundleNetwork, TorchNetwork], tmp_path: Path) -> None:
    network, _ = pair
    with cloud(tmp_path, token=TOKEN) as (_, port):
        connection = connect("127.0.0.1", port, LONG_S)
        connection.send(Offer("a wrong one, 20 bytes", "it", network.bundle.digest, 100, 200), soon())
        with pytest.raises(ConnectError, match="TOKEN"):
            connection.receive(soon()).read(Want)
        connection.close()
    open_to_all = CloudConfig()
    with socket.socket() as sock:
        for address, config, may in (
            ("127.0.0.1", open_to_all, True),
            ("::1", open_to_all, True),
            ("10.0.0.3", open_to_all, False),
            ("10.0.0.3", replace(open_to_all, token=TOKEN), True),
            ("10.0.0.3", replace(open_to_all, authenticates=True), True),
            ("127.0.0.1", replace(open_to_all, policy=replace(open_to_all.policy, spares_loopback=False)), False),
        ):
            assert receiving.may_send(config, Peer(Connection(sock), "peer", address)) is may


def test_a_network_that_gives_another_answer_than_its_edge_says_is_never_used(
    pair: tuple[BundleNetwork, TorchNetwork], tmp_path: Path
) -> None:
    network, _ = pair
    right = network.whole(network.example.array)[0]
    with cloud(tmp_path) as (made, port):
        shipping = ship(port, parcel_of(network, (right * np.float32(1.01),)))
        assert "another answer here" in shipping.why("it")
        assert refused(port, hello_of(network)).accepts > 0
        assert made._accepting is not None
        assert made._accepting.names == ()
        again = ship(port, parcel_of(network))  # of another edge, which says what it gives
        assert again.why("it") == ""
        assert again.progress is not None
        assert again.progress.sent == 0, "the same bytes are here"
        assert len(made._accepting.names) == 1


@pytest.mark.parametrize("name", list(hostile_onnx.HOSTILE)[::20])
def test_graphs_that_mean_harm_are_refused_before_a_runtime_sees_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.bundle"
    path.write_bytes(sent.packed(hostile_onnx.written(name)))
    with pytest.raises(ChildError):
        ChildProcess(path, 1, 1 << 30)


def test_headers_that_lie_are_refused() -> None:
    graph = sent.content_of().graph
    layer = graph.layers[1]
    for change in ({"out_bytes": 5}, {"out_shape": (1, 0)}, {"out_shape": (True, 3)}, {"out_dtype": "object"}):
        with pytest.raises(UsageError):
            check_graph(replace(graph, layers=(graph.layers[0], replace(layer, **change))))
    with pytest.raises(UsageError, match="layers"):
        check_graph(replace(graph, layers=(graph.layers[0], *[layer] * 6000)))


def test_a_network_whose_process_dies_costs_its_own_edge_an_answer_and_comes_back(
    pair: tuple[BundleNetwork, TorchNetwork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecloud.server.accepting.AGAIN_S", 0.1)
    network, _ = pair
    graph, x = network.graph, network.example.array
    tail = graph.everything - {0}
    with cloud(tmp_path) as (made, port):
        assert ship(port, parcel_of(network)).why("it") == ""
        connection = greet(port, hello_of(network), len(graph.layers))
        before = ask(connection, graph, tail, [x])
        assert made._accepting is not None
        (held,) = made._accepting._held.values()
        os.kill(held.child.pid, signal.SIGKILL)
        with pytest.raises(AppError, match=r"BAD_REQUEST.*SIGKILL"):
            ask(connection, graph, tail, [x])

        def answers() -> bool:  # the connection goes on
            try:
                return bool(np.array_equal(ask(connection, graph, tail, [x])[0], before[0]))
            except AppError:
                return False

        until(answers)
        connection.close()


def test_what_takes_too_long_or_sends_back_too_much_ends_its_process_only(
    pair: tuple[BundleNetwork, TorchNetwork],
) -> None:
    path = pair[0].bundle.path
    outline = bundle.outline_of(path)
    network = SentNetwork(path, outline)
    child = ChildProcess(path, 1, 1 << 30)
    executor = ChildExecutor(network, child, 60.0, outline.parameter_bytes)
    whole = executor.load(network.graph.everything)
    assert executor.run(whole, [network.example.array]).arrays[0].shape == (1, 5)
    with pytest.raises(ChildError, match="invalid dimensions"):
        executor.run(whole, [network.example.array[:, :, :8]])
    assert child.is_alive  # that was a wrong input
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(ChildError, match="longer than"):
        child.run(1, [network.example.array], 20, 0.2)
    until(lambda: not child.is_alive and not Path(f"/proc/{child.pid}").exists())
    other = ChildProcess(path, 1, 1 << 30)
    number, _ = other.load(network.graph.everything)
    with pytest.raises(ChildError, match="too large"):
        other.run(number, [network.example.array], 4, 60.0)
    assert not other.is_alive


def test_a_network_that_needs_more_memory_than_it_may_have_is_refused(
    pair: tuple[BundleNetwork, TorchNetwork],
) -> None:
    with pytest.raises(ChildError):
        ChildProcess(pair[0].bundle.path, 1, 1 << 12)


GIVEN_UP = """
import os, socket, sys
from edgecloud.engine import confine
kept = confine.confine()
def fails(what):
    try:
        what()
    except OSError:
        return True
    return False
tries = (
    lambda: open("/etc/passwd"),
    lambda: open(sys.argv[1], "w"),
    lambda: os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY),
    socket.socket,
    lambda: socket.socket(socket.AF_UNIX),
    os.fork,
    lambda: os.execv("/bin/true", ["true"]),
    lambda: os.kill(os.getppid(), 0),
    lambda: os.mkdir(sys.argv[1]),
    lambda: os.unlink(sys.argv[2]),
    lambda: os.rename(sys.argv[2], sys.argv[1]),
    lambda: os.listdir("/"),
    lambda: os.nice(-1),
)
sys.stdout.write(f"{[fails(each) for each in tries].count(False)} {'system calls' in kept}")
"""


def test_a_process_that_gave_everything_up_reaches_no_file_no_network_and_no_process(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    tmp_path.chmod(0o777)
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-O", "-c", GIVEN_UP, str(tmp_path / "canary"), str(victim)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=LONG_S,
        check=False,
    )
    assert done.stdout == "0 False", (done.stdout, done.stderr)
    assert not (tmp_path / "canary").exists()
    assert victim.exists()
