"""A real cloud process and everything a stranger may send it. It has to refuse, and to go on serving."""

import pickle
import random
import select
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks.hostile.attacks import encode, gadgets
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork, prepare
from edgecloud.net import plain_pickle
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.messages import Error, Hello, Infer, Probe, Probed, Ready, Result, from_header
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, MismatchError, PeerClosedError, ProtocolError
from tests.conftest import LONG_S, CloudProcess, running_cloud, until

TOKEN = "a good secret"


def soon(seconds: float = LONG_S) -> Deadline:
    return Deadline.after(seconds, "the test")


def hello_of(network: TorchNetwork, token: str = "") -> Hello:
    return Hello(network.traced.graph.name, network.loaded.digest, network.traced.graph.digest, ["raw"], token)


def greet(cloud: CloudProcess, hello: Hello) -> Connection:
    connection = connect("127.0.0.1", cloud.port, 5.0)
    try:
        connection.send(hello, soon())
        connection.receive(soon()).read(Ready)
    except AppError:
        connection.close()
        raise
    return connection


def raw_socket(cloud: CloudProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", cloud.port), timeout=LONG_S)


def answer(sock: socket.socket) -> str:
    """The code of the refusal, or "" where the cloud just closed."""
    connection = Connection(sock)
    try:
        return from_header(Error, connection.receive(soon()).header).code
    except PeerClosedError:
        return ""


def assert_serves(cloud: CloudProcess, network: TorchNetwork) -> None:
    """A good edge gets the right answer."""
    graph = network.traced.graph
    x = np.asarray(network.example.tensor)
    connection = greet(cloud, hello_of(network))
    connection.send(Infer(1, [[1, len(graph.layers)]], 30.0), soon(), [x])
    (got,) = [frame.arrays()[0] for frame in [connection.receive(soon())] if frame.read(Result)]
    np.testing.assert_allclose(got, network.loaded.model(network.example.tensor), rtol=1e-4, atol=1e-4)
    connection.close()


@pytest.fixture
def le_net(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network("le_net")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "BAD_MAGIC"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "BAD_MAGIC"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "BAD_MAGIC"),
        (pickle.dumps("get_bandwidth") + bytes(30), "BAD_MAGIC"),
        (b"ECCI\x02" + bytes(15), "VERSION"),
        (b"ECCI\x01\x63" + bytes(14), "PROTOCOL"),
        (pack_prefix(FrameType.HELLO, 1 << 31, 0), "TOO_LARGE"),
        (pack_prefix(FrameType.HELLO, 0, 1 << 40), "PROTOCOL"),
        (pack_prefix(FrameType.INFER, 0, (1 << 64) - 1), "TOO_LARGE"),
        (pack_prefix(FrameType.HELLO, 0, 0), "MALFORMED"),
        (pack_prefix(FrameType.HELLO, 10, 0) + b"x" * 10, "MALFORMED"),
        (encode(Probe(1, 1), []), "PROTOCOL"),
        (encode(Result(1, 0.0, 0.0), []), "PROTOCOL"),
        (encode(Hello("nope", "", "", [], ""), []), "UNKNOWN_MODEL"),
        (encode(Hello("../../etc/passwd", "", "", [], ""), []), "UNKNOWN_MODEL"),
        (encode(Hello("le_net", "sha256:0", "sha256:0", [], ""), []), "MISMATCH"),
    ],
)
def test_what_is_no_greeting_is_refused_by_name(
    data: bytes, code: str, cloud: CloudProcess, le_net: TorchNetwork
) -> None:
    assert_serves(cloud, le_net)  # the network is loaded
    with raw_socket(cloud) as sock:
        sock.sendall(data)
        assert answer(sock) == code  # and not DEADLINE
    assert_serves(cloud, le_net)


def test_random_bytes_and_flipped_bits_leave_it_standing(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    rng = random.Random(4)
    good = encode(hello_of(le_net), [])
    for _ in range(150):
        flipped = bytearray(good)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        for data in (rng.randbytes(rng.randrange(200)), bytes(flipped)):
            with raw_socket(cloud) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
    assert_serves(cloud, le_net)


def test_a_frame_truncated_at_every_byte_leaves_it_standing(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    good = encode(hello_of(le_net), [])
    before = cloud.descriptors
    for end in range(len(good)):
        sock = raw_socket(cloud)
        sock.sendall(good[:end])
        if end % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    assert_serves(cloud, le_net)
    until(lambda: cloud.descriptors <= before + 2)


def test_an_oversized_length_takes_no_memory(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    assert_serves(cloud, le_net)
    before = cloud.rss_bytes
    for _ in range(50):
        with raw_socket(cloud) as sock:
            sock.sendall(pack_prefix(FrameType.PROBE, 2048, 64 << 20))  # the limits exactly, and then nothing
            sock.sendall(pack_prefix(FrameType.INFER, 0, 1 << 62))
    assert cloud.rss_bytes - before < 20 << 20


def test_a_gadget_in_any_message_runs_nothing(cloud: CloudProcess, le_net: TorchNetwork, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    sent = 0
    for kind in FrameType:
        for gadget in gadgets(canary)[::4]:
            for header in (pickle.dumps(gadget, 5), pickle.dumps({"model": gadget, "id": gadget}, 5)):
                with raw_socket(cloud) as sock:
                    sock.sendall(pack_prefix(kind, len(header), 0) + header)
                    # others are refused before their header is read
                    opens = kind in (FrameType.HELLO, FrameType.STATUS, FrameType.OFFER)
                    assert answer(sock) == ("MALFORMED" if opens else "PROTOCOL")
                sent += 1
    assert sent >= 100
    assert not canary.exists()
    assert_serves(cloud, le_net)


def test_a_program_that_hashes_for_years_stops_nobody(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    doubling = b"})\x94" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(60)) + b"Ns."
    header = plain_pickle._START + doubling
    with raw_socket(cloud) as sock:
        sock.sendall(pack_prefix(FrameType.HELLO, len(header), 0) + header)
        assert answer(sock) == "MALFORMED"
    assert_serves(cloud, le_net)


def test_a_description_that_would_be_long_to_print_is_refused_in_short(
    cloud: CloudProcess, le_net: TorchNetwork
) -> None:
    connection = greet(cloud, hello_of(le_net))
    text = "s" * 10_000
    description = ("float32", (1,), [text] * 3, 0)
    fields = {"id": 1, "layers": [[1, 13]], "deadline_s": 1.0, "tensors": [description], "buffers": [4]}
    data = plain_pickle.dumps(fields)
    before = cloud.rss_bytes
    connection.sock.sendall(pack_prefix(FrameType.INFER, len(data), 4) + data + bytes(4))
    with pytest.raises(AppError, match="unknown codec list"):
        connection.receive(soon()).read(Result)
    connection.close()
    assert cloud.rss_bytes - before < 10 << 20


def test_a_refusal_is_short_and_cannot_forge_a_log(cloud: CloudProcess) -> None:
    for name in ("\0" * 60_000, "x\x1b[2J\nFAKE"):
        with raw_socket(cloud) as sock:
            sock.sendall(encode(Hello(name, "", "", [], ""), []))
            text = from_header(Error, Connection(sock).receive(soon()).header).text
        assert len(text) <= 300
        assert "\x1b" not in text


@pytest.fixture(scope="module")
def strict(cache: Path) -> Iterator[CloudProcess]:
    """A cloud with a token, for two networks, of which it has room for one."""
    limits = ("--models", "le_net,mobilenet", "--max-network-bytes", "1MiB")
    with running_cloud(cache, *limits, EDGE_CLOUD_TOKEN=TOKEN) as process:
        yield process


def test_only_the_named_networks_are_served(strict: CloudProcess, le_net: TorchNetwork) -> None:
    greet(strict, hello_of(le_net, TOKEN)).close()
    with pytest.raises(MismatchError, match="serves only le_net, mobile_net"):
        greet(strict, Hello("alex_net", "", "", [], TOKEN))


def test_loading_a_network_does_not_disturb_requests_for_another(cache: Path, le_net: TorchNetwork) -> None:
    """Capturing a graph changes torch's own classes while it lasts."""
    x = np.asarray(le_net.example.tensor)
    expected = le_net.loaded.model(le_net.example.tensor)
    shutil.rmtree(cache / "digests", ignore_errors=True)  # or it would be known that what follows is a mismatch
    with running_cloud(cache) as cloud, closing(greet(cloud, hello_of(le_net))) as edge, ExitStack() as stack:
        loaders = [stack.enter_context(raw_socket(cloud)) for _ in range(2)]
        for sock, name in zip(loaders, ("mnist", "senna_pos"), strict=True):
            sock.sendall(encode(Hello(name, "", "", [], ""), []))
        end = time.monotonic() + 5 * LONG_S  # who is served goes first, and here somebody always is
        while len(select.select(loaders, [], [], 0)[0]) < len(loaders):
            assert time.monotonic() < end
            edge.send(Infer(1, [[1, 13]], 30.0), soon(), [x])
            np.testing.assert_allclose(edge.receive(soon()).arrays()[0], expected, rtol=1e-4, atol=1e-4)
            time.sleep(0.01)  # a little for those who load, or it takes minutes
        assert [answer(sock) for sock in loaders] == ["MISMATCH"] * 2


def test_a_network_that_comes_back_with_other_weights_is_not_used(
    cache: Path, tmp_path: Path, network: Callable[[str], TorchNetwork]
) -> None:
    path = tmp_path / "secret-place.safetensors"
    entry = registry.lookup("le_net")

    def write(seed: int) -> TorchNetwork:
        save_file(weights.seeded(entry, seed).state_dict(), path)
        return prepare(weights.load(entry, str(path)), inputs.sample(entry.sample, entry.preprocess), entry.name)

    def evict(cloud: CloudProcess) -> None:
        greet(cloud, hello_of(network("cifar_alexnet"))).close()

    first = write(1)
    limits = ("--weights", f"le_net={path}", "--max-network-bytes", "3100kB")  # room for one of the two
    with running_cloud(cache, *limits) as cloud, closing(greet(cloud, hello_of(first))) as edge:
        write(2)
        evict(cloud)
        edge.send(Infer(1, [[1, 13]], LONG_S), soon(), [np.asarray(first.example.tensor)])  # it is loaded first
        with pytest.raises(MismatchError, match="weights differ"):
            edge.receive(soon()).read(Result)
        path.unlink()
        evict(cloud)
        with pytest.raises(AppError, match="cannot load le_net; see its log") as caught:
            greet(cloud, hello_of(first))
        assert "secret-place" not in str(caught.value)


def test_a_memo_bomb_takes_no_memory(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    assert_serves(cloud, le_net)
    before = cloud.rss_bytes
    bomb = plain_pickle._START + b"Nr" + struct.pack("<I", 1 << 26) + b"."
    with raw_socket(cloud) as sock:
        sock.sendall(pack_prefix(FrameType.HELLO, len(bomb), 0) + bomb)
        assert answer(sock) == "MALFORMED"
    assert cloud.rss_bytes - before < 10 << 20


def test_a_peer_that_says_nothing_is_sent_away(cloud: CloudProcess) -> None:
    started = time.monotonic()
    with raw_socket(cloud) as sock:
        assert answer(sock) == "DEADLINE"
    assert time.monotonic() - started > 1.5  # the fixture's --hello-timeout is 2 s


@pytest.mark.parametrize(
    ("layers", "shapes", "reason"),
    [
        ([[1, 99]], [(1, 1, 28, 28)], "layers 1 to"),
        ([[0, 3]], [(1, 1, 28, 28)], "input cannot be an output"),
        ([[1, 13]], [], "read 1 tensors"),
        ([[1, 13]], [(1, 1, 28, 28)] * 2, "read 1 tensors"),
        ([[1, 13]], [(1, 1, 28, 29)], "makes float32"),
        ([[1, 13]], [(2, 1, 28, 28)], "makes float32"),
        ([[3, 13]], [(1, 1, 28, 28)], "makes float32"),
        ([], [], "layers 1 to"),
        ([[1, 13]] * 1500, [(1, 1, 28, 28)], "layer ranges must be ascending"),
        ([[5, 8], [1, 3]], [(1, 1, 28, 28)], "layer ranges must be ascending"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_and_the_connection_goes_on(
    layers: list[list[int]], shapes: list[tuple[int, ...]], reason: str, cloud: CloudProcess, le_net: TorchNetwork
) -> None:
    connection = greet(cloud, hello_of(le_net))
    connection.send(Infer(1, layers, 30.0), soon(), [np.zeros(shape, np.float32) for shape in shapes])
    with pytest.raises(AppError, match=reason):
        connection.receive(soon()).read(Result)
    connection.send(Probe(1, 10), soon())
    assert connection.receive(soon()).read(Probed) == Probed(1)
    connection.close()


def test_a_request_whose_deadline_has_passed_is_told_so(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    connection = greet(cloud, hello_of(le_net))
    connection.send(Infer(1, [[1, 13]], 0.0), soon(), [np.asarray(le_net.example.tensor)])
    with pytest.raises(DeadlineError, match="deadline"):
        connection.receive(soon()).read(Result)
    connection.close()


def test_a_huge_answer_to_a_probe_is_refused(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    connection = greet(cloud, hello_of(le_net))
    connection.send(Probe(1, 1 << 40), soon())
    with pytest.raises(AppError, match="is limited to"):
        connection.receive(soon()).read(Probed)
    connection.close()


def test_many_edges_at_once_all_get_the_right_answer(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    failures: list[BaseException] = []

    def edge() -> None:
        try:
            for _ in range(3):
                assert_serves(cloud, le_net)
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    threads = [threading.Thread(target=edge) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_connection_may_change_its_network(cloud: CloudProcess, network: Callable[[str], TorchNetwork]) -> None:
    connection = greet(cloud, hello_of(network("le_net")))
    connection.send(hello_of(network("mnist")), soon())
    assert len(connection.receive(soon()).read(Ready).seconds) == len(network("mnist").traced.graph.layers)
    connection.close()


def test_connections_over_the_limit_are_told_busy(cache: Path, le_net: TorchNetwork) -> None:
    with running_cloud(cache, "--max-connections", "2") as cloud:
        held = [greet(cloud, hello_of(le_net)) for _ in range(2)]
        for _ in range(20):
            with raw_socket(cloud) as sock:
                assert answer(sock) == "BUSY"
        held.pop().close()
        until(lambda: cloud.threads < 64)

        def has_room() -> bool:
            try:
                held.append(greet(cloud, hello_of(le_net)))
            except ConnectError:
                return False
            return True

        until(has_room)
        for connection in held:
            connection.close()


def test_a_token_is_needed_where_one_is_set(strict: CloudProcess, le_net: TorchNetwork) -> None:
    greet(strict, hello_of(le_net, TOKEN)).close()
    for wrong in ("", "another secret", TOKEN[:-1], f"{TOKEN} ", "ü" * 20):
        with pytest.raises(ConnectError, match="wrong token"):
            greet(strict, hello_of(le_net, wrong))


def test_a_network_over_the_memory_limit_is_refused(
    strict: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    greet(strict, hello_of(network("le_net"), TOKEN)).close()
    with pytest.raises(AppError, match="--max-network-bytes"):
        greet(strict, hello_of(network("mobile_net"), TOKEN))


def test_a_stop_lets_requests_in_hand_finish(cache: Path, network: Callable[[str], TorchNetwork]) -> None:
    subject = network("mobile_net")
    x = np.asarray(subject.example.tensor)
    with running_cloud(cache, "--metrics-port", "0") as cloud, ExitStack() as stack:
        idle, *busy = [stack.enter_context(closing(greet(cloud, hello_of(subject)))) for _ in range(13)]
        for connection in busy:
            connection.send(Infer(1, [[1, len(subject.traced.graph.layers)]], 30.0), soon(), [x])
        requests = 'edgecloud_requests_total{model="mobile_net"}'
        until(lambda: cloud.figures().get(requests) == len(busy))  # they are there, most of them in the queue
        cloud.stop()
        for connection in busy:
            assert connection.receive(soon()).arrays()[0].shape == (1, 1000)
        with pytest.raises(ProtocolError):
            idle.receive(soon())  # had nothing in hand, so it was closed at once
        assert cloud.process.wait(timeout=LONG_S) == 0
        with pytest.raises(ConnectError):
            connect("127.0.0.1", cloud.port, 1.0)


def test_a_stranger_gets_no_memory_for_what_may_not_come_first(cloud: CloudProcess) -> None:
    """16 of them with 64 MiB each would be a gigabyte, before a token was asked for."""
    for kind, header, payload in ((FrameType.PROBE, 10, 64 << 20), (FrameType.HELLO, 60_000, 0)):
        with socket.create_connection(("127.0.0.1", cloud.port), timeout=LONG_S) as sock:
            sock.sendall(pack_prefix(kind, header, payload))
            assert answer(sock) in ("PROTOCOL", "TOO_LARGE")  # at the prefix; waiting for more would end in DEADLINE
