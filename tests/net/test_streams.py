"""Frames in a stream of gRPC between real sockets: as good as without, and a clear line for whoever expects else."""

import contextlib
import http.server
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.hostile.attacks import encode
from benchmarks.hostile.http2_frames import Flag, Kind, called, data_of, frames_in, listed, pack, said
from edgecloud.net.calls import PATH
from edgecloud.net.connection import ClosedAtBoundaryError, Connection, connect
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.http2 import FIRST_WINDOW
from edgecloud.net.messages import Error, Infer, Probe, Probed
from edgecloud.net.penalties import Policy
from edgecloud.net.server import Peer, Server
from edgecloud.net.tls import ClientTls, client_tls, server_context
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, PeerClosedError
from tests import certificates
from tests.certificates import Identity
from tests.conftest import LONG_S, until
from tests.serving import running

HOST = "127.0.0.1"
STRICT = Policy(garbage_s=300, silence_s=500, least_s=500, spares_loopback=False)


def soon(seconds: float = LONG_S) -> Deadline:
    return Deadline.after(seconds, "the test")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return certificates.make(tmp_path_factory.mktemp("certificates"), "cloud")


@dataclass
class Echo:
    """A server that sends back what it gets, and remembers why conversations ended."""

    server: Server
    ends: list[AppError]

    @property
    def port(self) -> int:
        return self.server.addresses[0][1]

    @property
    def grpc_port(self) -> int:
        return self.server.grpc_addresses[0][1]


@contextmanager
def echo(
    own: Identity | None = None, ca: Path | None = None, hello_s: float = LONG_S, **more: object
) -> Iterator[Echo]:
    """One that listens with and without gRPC, with TLS where an identity is given."""
    context = None if own is None else server_context(own.cert, own.key, ca)
    ends: list[AppError] = []

    def talk(peer: Peer) -> None:
        connection, hello = peer.connection, soon(hello_s)
        try:
            if context is not None:
                connection.secure(context, hello)
            if connection.is_grpc:
                connection.take_call(hello)
            frame = connection.receive(hello, is_unauthenticated=bool(more))
            while True:
                peer.is_known = True
                connection.send(frame.read(Infer), soon(), list(frame.arrays()))
                frame = connection.receive(soon())
        except AppError as error:
            ends.append(error)
            raise

    server = Server(HOST, 0, talk, grpc_port=0, **more)  # type: ignore[arg-type]
    with running(server):
        yield Echo(server, ends)


@pytest.fixture(scope="module", params=["plain", "tls"])
def place(request: pytest.FixtureRequest, own: Identity) -> Iterator[tuple[Echo, ClientTls | None]]:
    tls = own if request.param == "tls" else None
    with echo(tls) as there:
        yield there, None if tls is None else client_tls(own.cert, None, None, HOST)


def ask(connection: Connection, size: int) -> None:
    """Send a tensor, and compare what comes back."""
    array = np.frombuffer(os.urandom(size), np.uint8)
    connection.send(Infer(size, [[1, 2]], 1.0), soon(), [array])
    frame = connection.receive(soon())
    assert frame.read(Infer).id == size
    np.testing.assert_array_equal(frame.arrays()[0], array)


def test_tensors_of_all_sizes_come_back(place: tuple[Echo, ClientTls | None]) -> None:
    there, tls = place
    with closing(connect(HOST, there.grpc_port, LONG_S, tls=tls, transport="grpc")) as edge:
        for size in (1, 100, 16_384, 65_535, 65_536, 200_000, 3_000_000, 7):
            ask(edge, size)
        assert edge.received_bytes == edge.sent_bytes  # what gRPC adds is not counted
        until(lambda: edge.delivered_bytes == edge.sent_bytes)


def test_both_directions_are_full_at_once(place: tuple[Echo, ClientTls | None]) -> None:
    """The server answers in one thread: it sends while it does not receive, and nobody waits for the other."""
    there, tls = place
    arrays = [np.frombuffer(os.urandom(size), np.uint8) for size in (1, 70_000, 3_000_000, 6_000_000)] * 2
    with closing(connect(HOST, there.grpc_port, LONG_S, tls=tls, transport="grpc")) as edge:
        edge.allow_duplex()

        def send() -> None:
            for number, array in enumerate(arrays):
                edge.send(Infer(number, [[1, 2]], 1.0), soon(), [array])

        thread = threading.Thread(target=send)
        thread.start()
        for number, array in enumerate(arrays):
            frame = edge.receive(soon())
            assert frame.read(Infer).id == number
            np.testing.assert_array_equal(frame.arrays()[0], array)
        thread.join()


def test_an_edge_that_ends_its_sending_still_gets_its_answer() -> None:
    with echo() as there, closing(connect(HOST, there.grpc_port, LONG_S, transport="grpc")) as edge:
        edge.send(Infer(1, [[1, 2]], 1.0), soon(), [np.zeros(5, np.uint8)])
        edge._transport.farewell(LONG_S)
        assert edge.receive(soon()).read(Infer).id == 1
        with pytest.raises(ClosedAtBoundaryError):
            edge.receive(soon())
        until(lambda: there.ends)
        assert isinstance(there.ends[0], ClosedAtBoundaryError)


def test_a_refusal_says_the_same_in_the_frame_and_in_the_end_of_the_stream() -> None:
    with echo() as there, closing(connect(HOST, there.grpc_port, LONG_S, transport="grpc")) as edge:
        edge.send(Probe(1, 0), soon(), [np.zeros(100_000, np.uint8)])  # not what is expected
        with pytest.raises(AppError, match="expected INFER, got PROBE"):
            edge.receive(soon()).read(Probed)
        with pytest.raises(PeerClosedError, match=r"INVALID_ARGUMENT: PROTOCOL: expected INFER"):
            edge.receive(soon())


def test_that_an_edge_has_left_is_noticed_also_where_its_last_bytes_are_unread() -> None:
    left = threading.Event()

    def talk(peer: Peer) -> None:
        peer.connection.take_call(soon())
        peer.connection.receive(soon())
        assert not peer.connection.peer_has_left()
        peer.connection.send(Probed(1), soon())
        until(peer.connection.peer_has_left)
        left.set()

    server = Server(HOST, 0, talk, grpc_port=0)
    with running(server):
        edge = connect(HOST, server.grpc_addresses[0][1], LONG_S, transport="grpc")
        edge.send(Probe(1, 0), soon())
        edge.receive(soon())
        edge.sock.sendall(pack(Kind.PING, 0, 0, bytes(8)) + pack(Kind.RST_STREAM, 0, 1, b"\0\0\0\x08"))
        assert left.wait(LONG_S)
        edge.close()


# --- who expects something else


def test_each_side_says_in_one_line_that_the_other_speaks_without_grpc(own: Identity) -> None:
    with echo() as there:
        for port, transport, words in (
            (there.port, "grpc", "use --transport tcp, or the port of --grpc-port"),
            (there.grpc_port, "tcp", "use --transport grpc, or the port of -p"),
        ):
            with closing(connect(HOST, port, LONG_S, transport=transport)) as edge:
                edge.send(Infer(1, [], 1.0), soon())
                with pytest.raises(ConnectError, match=words):
                    edge.receive(soon()).read(Infer)
        assert {error.code for error in there.ends} == {"BAD_MAGIC", "TRANSPORT"}
    trust = client_tls(own.cert, None, None, HOST)
    with echo(own) as there, closing(connect(HOST, there.grpc_port, LONG_S, tls=trust)) as edge:
        edge.send(Infer(1, [], 1.0), soon())
        with pytest.raises(ConnectError, match="use --transport grpc"):
            edge.receive(soon()).read(Infer)


def test_each_side_says_in_one_line_that_the_other_speaks_without_tls(own: Identity, tmp_path: Path) -> None:
    with echo(own) as there, closing(connect(HOST, there.grpc_port, LONG_S, transport="grpc")) as edge:
        edge.send(Infer(1, [], 1.0), soon())
        with pytest.raises(ConnectError, match="this cloud requires TLS: use --tls-ca FILE"):
            edge.receive(soon()).read(Infer)
    trust = client_tls(own.cert, None, None, HOST)
    with echo() as there, pytest.raises(ConnectError, match="the cloud does not use TLS"):
        connect(HOST, there.grpc_port, LONG_S, tls=trust, transport="grpc")
    other = certificates.make(tmp_path, "other")
    with echo(own) as there, pytest.raises(ConnectError, match="certificate is not trusted"):
        connect(HOST, there.grpc_port, LONG_S, tls=client_tls(other.cert, None, None, HOST), transport="grpc")
    with echo(own, other.cert) as there:
        good = client_tls(own.cert, other.cert, other.key, HOST)
        with closing(connect(HOST, there.grpc_port, LONG_S, tls=good, transport="grpc")) as edge:
            ask(edge, 10)
        with closing(connect(HOST, there.grpc_port, LONG_S, tls=trust, transport="grpc")) as edge:
            edge.send(Infer(1, [], 1.0), soon())
            with pytest.raises(ConnectError, match="--tls-cert FILE --tls-key FILE"):
                edge.receive(soon())


def test_only_tls_1_3_and_only_for_http2(own: Identity) -> None:
    with echo(own) as there:
        for newest, protocols in ((ssl.TLSVersion.TLSv1_2, ["h2"]), (ssl.TLSVersion.TLSv1_3, ["h2", "http/1.1"])):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(own.cert)
            context.maximum_version = newest
            context.set_alpn_protocols(protocols)
            with socket.create_connection((HOST, there.grpc_port)) as raw:
                if newest == ssl.TLSVersion.TLSv1_2:
                    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                        context.wrap_socket(raw, server_hostname=HOST)
                    continue
                with context.wrap_socket(raw, server_hostname=HOST) as secure:
                    assert secure.selected_alpn_protocol() == "h2"


class Quiet(http.server.BaseHTTPRequestHandler):
    """Of a web server, without a log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args


def test_a_web_server_and_nobody_are_told_apart() -> None:
    with http.server.ThreadingHTTPServer((HOST, 0), Quiet) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        port = web.server_address[1]
        with closing(connect(HOST, port, LONG_S, transport="grpc")) as edge:
            edge.send(Infer(1, [], 1.0), soon())
            with pytest.raises(ConnectError, match="does not speak HTTP/2"):
                edge.receive(soon())
        web.shutdown()
        thread.join()
    with pytest.raises(ConnectError, match=f"no cloud at {HOST}:{port}"):
        connect(HOST, port, LONG_S, transport="grpc")


# --- the door


def end_of(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    found = b""
    sock.settimeout(LONG_S)
    with contextlib.suppress(ConnectionResetError):
        while got := sock.recv(1 << 16):
            found += got
    return found


def test_who_is_turned_away_is_told_so_in_words_of_http2() -> None:
    with echo(max_connections=1) as there, closing(connect(HOST, there.port, LONG_S)) as first:
        first.send(Infer(1, [], 1.0), soon())
        until(lambda: there.server.count == 1)
        next(iter(there.server._peers)).has_agreed = True
        with closing(connect(HOST, there.grpc_port, LONG_S, transport="grpc")) as edge:
            edge.send(Infer(1, [], 1.0), soon())
            with pytest.raises(ConnectError, match=r"is busy \(BUSY\): all 1 connections are in use") as caught:
                edge.receive(soon()).read(Infer)
            assert caught.value.refusal == "BUSY"
        with socket.create_connection((HOST, there.grpc_port)) as stranger:
            assert b"BUSY: all 1 connections" in end_of(stranger)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"not gRPC"),
        (bytes(range(100, 200)), b"not gRPC"),
        (bytes(500), b"not gRPC"),
        (b"SSH-2.0-x\r\n", b"not gRPC"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"TLS handshake on a plaintext port"),
        (b"ECCI" + bytes(16), b"use --transport grpc"),
        (called()[:24] + b"\xff" * 100, b"PROTOCOL"),
        (called("/x.Y/Z"), b"no such method"),
        (called(kind=b"text/html"), b"415"),
        (called() + data_of(b"garbage"), b"BAD_MAGIC"),
        (called() + data_of(pack_prefix(FrameType.HELLO, 1 << 31, 0)), b"TOO_LARGE"),
        (called() + pack(Kind.DATA, 0, 1, b"\0" + struct.pack(">I", 1 << 31)), b"the limit is"),
        (called() + pack(Kind.PING, 0, 0, bytes(8)) * 20_000, b"too m"),
        (called() + pack(Kind.HEADERS, 0, 3) + pack(Kind.CONTINUATION, 0, 3, bytes(4000)) * 9, b"headers of more than"),
    ],
)
def test_what_is_no_call_is_refused_at_once_and_counts_against_its_source(data: bytes, words: bytes) -> None:
    with echo(policy=STRICT) as there:
        with socket.create_connection((HOST, there.grpc_port)) as stranger:
            stranger.settimeout(LONG_S)
            with contextlib.suppress(OSError):  # it has been closed before all was said
                stranger.sendall(data)
            found = end_of(stranger)
            told = b"".join(payload for _, payload in frames_in(found)) if found[3:4] == b"\x04" else found
            assert words in told
        until(lambda: there.server.count == 0)
        until(lambda: there.server._door._penalties)
        assert isinstance(there.ends[0], AppError)


def test_who_says_nothing_in_any_place_is_sent_away_and_holds_nobody_up() -> None:
    starts = (
        b"",
        b"PRI * HT",
        called()[:24],
        called()[:40],
        called(),
        called() + data_of(b"ECC"),
        called() + data_of(b"")[:3],
    )
    with echo(hello_s=1.0) as there:
        silent = [socket.create_connection((HOST, there.grpc_port)) for _ in starts]
        for sock, start in zip(silent, starts, strict=True):
            sock.sendall(start)
        with closing(connect(HOST, there.grpc_port, LONG_S, transport="grpc")) as edge:
            ask(edge, 1000)
        for sock, start in zip(silent, starts, strict=True):
            assert (b"DEADLINE" in end_of(sock)) or not start
            sock.close()


def test_a_stranger_who_gives_no_room_is_no_reader_and_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for answers that it leaves no window for, and goes on sending."""
    monkeypatch.setattr("edgecloud.net.connection.PATIENCE_S", 0.3)
    header = listed([(b":method", b"POST"), (b":path", PATH.encode()), (b"content-type", b"application/grpc")])
    start = called()[:24] + said([(4, 0)]) + pack(Kind.HEADERS, Flag.END_HEADERS, 1, header)
    with echo(max_connections=4) as there, socket.create_connection((HOST, there.grpc_port)) as sock:
        one = encode(Infer(1, [], 1.0), [])
        sock.sendall(start + data_of(one * (30_000 // len(one))))
        end = end_of(sock)
        assert end
        until(lambda: there.ends)
        assert "slower than" in str(there.ends[0]) or there.ends[0].code == "PROTOCOL"
        assert there.ends[0].code != "INTERNAL"


def test_a_deadline_holds_where_there_is_no_room() -> None:
    with socket.create_server((HOST, 0)) as listener:
        edge = connect(HOST, listener.getsockname()[1], LONG_S, transport="grpc")
        accepted, _ = listener.accept()
        with closing(edge), accepted, pytest.raises(DeadlineError):
            edge.send(Probe(1, 0), soon(0.3), [np.zeros(FIRST_WINDOW + 1, np.uint8)])


def test_the_words_of_a_refusal_before_any_call_reach_an_edge_with_tls(own: Identity) -> None:
    def talk(peer: Peer) -> None:
        peer.connection.refuse(Error("BUSY", "all taken"), 1.0)

    server = Server(HOST, 0, talk, grpc_port=0)
    with running(server), pytest.raises(ConnectError, match="all taken"):
        connect(HOST, server.grpc_addresses[0][1], LONG_S, tls=client_tls(own.cert, None, None, HOST), transport="grpc")
