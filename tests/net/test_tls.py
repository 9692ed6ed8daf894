"""TLS between two connections: as good as without, and a clear line for whoever expects something else."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgecloud.net.connection import ClosedAtBoundaryError, Connection, connect
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.messages import Error, Hello, Infer, Probe, Probed, Result
from edgecloud.net.security import check_binding
from edgecloud.net.server import Server
from edgecloud.net.tls import PlainPeerError, TlsError, client_tls, server_context
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, PeerClosedError, ProtocolError, UsageError
from tests import certificates
from tests.certificates import Identity
from tests.conftest import LONG_S, until
from tests.net.test_connection import ARRAY
from tests.serving import running

Handler = Callable[[Connection], None]


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline.after(seconds, "the test")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The cloud's."""
    return certificates.make(tmp_path_factory.mktemp("certificates"), "cloud")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """An edge's."""
    return certificates.make(tmp_path_factory.mktemp("certificates"), "edge", "DNS:edge")


@contextmanager
def listening(handler: Handler) -> Iterator[int]:
    """A server on loopback, its handler in a thread for each connection; gives the port."""
    server = Server("127.0.0.1", 0, lambda peer: handler(peer.connection))
    with running(server) as port:
        yield port


@contextmanager
def secure_pair(own: Identity) -> Iterator[tuple[Connection, Connection]]:
    """Two ends of one TLS connection: the cloud's, then the edge's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        raw = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    cloud, edge = Connection(accepted), Connection(raw)
    context, client = server_context(own.cert, own.key, None), client_tls(own.cert, None, None, "127.0.0.1")
    assert context is not None
    assert client is not None
    thread = threading.Thread(target=cloud.secure, args=(context, soon()))
    thread.start()
    edge.secure(client.context, soon(), client.hostname)
    thread.join()
    try:
        yield cloud, edge
    finally:
        cloud.close()
        edge.close()


def test_a_message_arrives_with_its_tensors_and_so_does_the_answer(own: Identity) -> None:
    with secure_pair(own) as (cloud, edge):
        edge.send(Infer(7, [[1, 2]], 1.0), soon(), [ARRAY])
        frame = cloud.receive(soon())
        assert frame.read(Infer) == Infer(7, [[1, 2]], 1.0)
        np.testing.assert_array_equal(frame.arrays()[0], ARRAY)
        cloud.send(Result(7, 0.0, 0.0), soon(), [ARRAY])
        np.testing.assert_array_equal(edge.receive(soon()).arrays()[0], ARRAY)
        assert cloud.received_bytes == edge.sent_bytes  # what TLS adds is not counted


def test_nothing_of_a_message_can_be_read_on_the_way(own: Identity) -> None:
    with secure_pair(own) as (cloud, edge):
        edge.send(Hello("a network", "w", "g", [], "a good secret"), soon())
        seen = cloud.sock.recv(65536)
        assert len(seen) > 100
        assert b"secret" not in seen
        assert b"ECCI" not in seen


def test_one_thread_sends_while_another_receives_on_both_sides(own: Identity) -> None:
    """Both directions full of frames of all sizes at once: nothing is mixed up, and nobody waits for ever."""
    arrays = [np.frombuffer(os.urandom(size), np.uint8) for size in (1, 100, 16_384, 16_385, 70_000, 3_000_000)] * 8
    failures: list[BaseException] = []

    def send(connection: Connection) -> None:
        try:
            for number, array in enumerate(arrays):
                connection.send(Infer(number, [[1, 2]], 1.0), soon(90), [array])
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    def receive(connection: Connection) -> None:
        try:
            for number, array in enumerate(arrays):
                frame = connection.receive(soon(90))
                assert frame.read(Infer).id == number
                np.testing.assert_array_equal(frame.arrays()[0], array)
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    with secure_pair(own) as ends:
        for end in ends:
            end.allow_duplex()
        threads = [threading.Thread(target=work, args=(end,)) for end in ends for work in (send, receive)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert ends[0].sent_bytes == ends[1].received_bytes
        until(lambda: ends[0].delivered_bytes == ends[0].sent_bytes)  # the last acknowledgement may be on its way


def test_what_is_under_way_is_not_told_as_delivered(own: Identity) -> None:
    with secure_pair(own) as (cloud, edge):
        edge.allow_duplex()
        with pytest.raises(DeadlineError):
            edge.send(Probe(1, 0), soon(0.3), [np.zeros(32 << 20, np.uint8)])
        assert 0 < edge.delivered_bytes <= edge.sent_bytes < 32 << 20
        with pytest.raises(PeerClosedError, match="was sent only partially"):
            edge.send(Probe(2, 0), soon())
        assert not cloud.peer_has_left()


def test_an_end_between_frames_is_clean_and_one_inside_is_not(own: Identity) -> None:
    for end in (0, 10, 30):
        with secure_pair(own) as (cloud, edge):
            edge._transport.send([memoryview(pack_prefix(FrameType.PROBE, 60, 0) + bytes(60))[:end]], 1.0) if end else 0
            edge.close()
            with pytest.raises(PeerClosedError) as caught:
                cloud.receive(soon())
            assert isinstance(caught.value, ClosedAtBoundaryError) == (end == 0)
            assert cloud.peer_has_left()


def test_an_edge_that_ends_its_sending_still_gets_its_answer(own: Identity) -> None:
    with secure_pair(own) as (cloud, edge):
        edge.send(Probe(1, 0), soon())
        edge.sock.shutdown(socket.SHUT_WR)
        assert cloud.receive(soon()).read(Probe).id == 1
        with pytest.raises(ClosedAtBoundaryError):
            cloud.receive(soon())
        cloud.send(Probed(1), soon())
        assert edge.receive(soon()).read(Probed).id == 1


def test_a_refusal_arrives_and_the_end_is_said_as_tls_says_it(own: Identity) -> None:
    with secure_pair(own) as (cloud, edge):
        edge.send(Probe(1, 0), soon(), [np.zeros(100_000, np.uint8)])  # stays unread
        cloud.refuse(Error("BUSY", "full"), 1.0)
        with pytest.raises(ConnectError, match="full"):
            edge.receive(soon()).read(Result)
        with pytest.raises(ClosedAtBoundaryError):
            edge.receive(soon())


def test_dripping_within_a_record_is_noticed_too(own: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecloud.net.connection.PATIENCE_S", 0.2)
    with secure_pair(own) as (cloud, edge):
        edge._transport.send([memoryview(pack_prefix(FrameType.PROBE, 2_000, 0))], 1.0)
        secure = edge._transport
        secure._seal([memoryview(bytes(16_000))])  # type: ignore[attr-defined]
        record, stop = bytes(secure._sealed), threading.Event()  # type: ignore[attr-defined]

        def drip() -> None:
            for n in range(len(record)):
                if stop.wait(0.05):
                    return
                edge.sock.send(record[n : n + 1])

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(ProtocolError, match="slower than"):
            cloud.receive(soon())
        stop.set()
        thread.join()


def test_garbage_within_tls_is_an_error_and_not_a_crash(own: Identity) -> None:
    with secure_pair(own) as (cloud, edge):
        edge.sock.sendall(os.urandom(500))
        with pytest.raises(AppError):
            cloud.receive(soon())


def serve_one(own: Identity, client_ca: Path | None = None, hello_s: float = 60.0) -> Handler:
    """Agree on TLS and answer one probe."""
    context = server_context(own.cert, own.key, client_ca)
    assert context is not None

    def handle(connection: Connection) -> None:
        connection.secure(context, Deadline.after(hello_s, "no HELLO received"))
        connection.send(Probed(connection.receive(soon()).read(Probe).id), soon())

    return handle


def hear_one(connection: Connection) -> None:
    """A cloud without TLS."""
    connection.receive(soon()).read(Probe)


def ask(port: int, ca: Path, identity: Identity | None = None, host: str = "127.0.0.1") -> int:
    """What an edge does first."""
    cert, key = (identity.cert, identity.key) if identity else (None, None)
    connection = connect(host, port, 60.0, tls=client_tls(ca, cert, key, host))
    try:
        connection.send(Probe(5, 0), soon())
        return connection.receive(soon()).read(Probed).id
    finally:
        connection.close()


def test_the_cloud_is_known_by_its_address_and_by_its_name(own: Identity) -> None:
    with listening(serve_one(own)) as port:
        assert ask(port, own.cert) == 5
        assert ask(port, own.cert, host="localhost") == 5


def test_a_certificate_of_another_name_or_another_signer_is_refused(own: Identity, edge: Identity) -> None:
    with listening(serve_one(own)) as port, pytest.raises(ConnectError, match="certificate is not trusted"):
        ask(port, edge.cert)
    with listening(serve_one(edge)) as port, pytest.raises(ConnectError, match=r"not valid for '127\.0\.0\.1'"):
        ask(port, edge.cert)


def test_where_client_certificates_are_wanted_only_the_right_one_is_let_in(own: Identity, edge: Identity) -> None:
    with listening(serve_one(own, edge.cert)) as port:
        assert ask(port, own.cert, edge) == 5
        with pytest.raises(ConnectError, match="--tls-cert FILE --tls-key FILE"):
            ask(port, own.cert)
        with pytest.raises(ConnectError, match="ended the TLS session"):
            ask(port, own.cert, own)


def test_each_side_says_in_one_line_that_the_other_speaks_without_tls(own: Identity) -> None:
    seen: list[AppError] = []

    def handle(connection: Connection) -> None:
        try:
            serve_one(own)(connection)
        except AppError as error:
            seen.append(error)
            raise

    with listening(handle) as port:
        plain = connect("127.0.0.1", port, 60.0)
        plain.send(Probe(1, 0), soon())
        with pytest.raises(ConnectError, match="this cloud requires TLS: use --tls-ca FILE"):
            plain.receive(soon()).read(Probed)
        plain.close()
    assert isinstance(seen[0], PlainPeerError)
    with (
        listening(hear_one) as port,
        pytest.raises(ConnectError, match="the cloud does not use TLS"),
    ):
        ask(port, own.cert)


def test_a_refusal_at_the_door_reaches_an_edge_that_begins_with_tls(own: Identity) -> None:
    """Whoever is refused before the handshake is told so without TLS, at no cost."""
    with (
        listening(lambda connection: connection.refuse(Error("BUSY", "all taken"), 1.0)) as port,
        pytest.raises(ConnectError, match="all taken"),
    ):
        ask(port, own.cert)


def test_older_tls_is_refused(own: Identity) -> None:
    with listening(serve_one(own)) as port, socket.create_connection(("127.0.0.1", port)) as raw:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(own.cert)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_whoever_says_nothing_in_the_handshake_keeps_nobody_waiting(own: Identity) -> None:
    with listening(serve_one(own)) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        assert ask(port, own.cert) == 5
        for sock in silent:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still waited for
                sock.recv(1)
            sock.close()


def test_whoever_says_nothing_in_the_handshake_is_sent_away(own: Identity) -> None:
    with (
        listening(serve_one(own, hello_s=0.3)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as silent,
    ):
        while silent.recv(4096):
            pass


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x05hello", bytes(99)]
)
def test_what_is_no_handshake_ends_the_connection_alone(first: bytes, own: Identity) -> None:
    seen: list[AppError] = []

    def handle(connection: Connection) -> None:
        try:
            serve_one(own)(connection)
        except AppError as error:
            seen.append(error)
            raise

    with listening(handle) as port:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(first)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
        assert ask(port, own.cert) == 5
    assert isinstance(seen[0], TlsError | PeerClosedError)


def test_files_that_do_not_serve_are_named(own: Identity, edge: Identity, tmp_path: Path) -> None:
    empty, nowhere = tmp_path / "empty.pem", tmp_path / "nowhere.pem"
    empty.write_text("")
    for cert, key in ((nowhere, own.key), (empty, own.key), (own.cert, edge.key), (own.cert, None), (None, own.key)):
        with pytest.raises(UsageError):
            server_context(cert, key, None)
    for ca in (nowhere, empty):
        with pytest.raises(UsageError, match=ca.name):
            client_tls(ca, None, None, "host")
    with pytest.raises(UsageError, match="--tls-ca"):
        client_tls(None, own.cert, own.key, "host")
    with pytest.raises(UsageError, match="--tls-client-ca"):
        server_context(None, None, own.cert)


def test_another_address_than_loopback_wants_a_token_or_tls() -> None:
    with pytest.raises(UsageError, match="--token-file"):
        check_binding("0.0.0.0", "", has_tls=False, insecure=False)
    check_binding("127.0.0.1", "", has_tls=False, insecure=False)
    for token, has_tls, insecure in (("secret!!", False, False), ("", True, False), ("", False, True)):
        check_binding("0.0.0.0", token, has_tls=has_tls, insecure=insecure)
