"""Clients and servers that are not ours: grpcio against our two ends."""

import os
import queue
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest

from benchmarks.hostile.attacks import encode
from edgecloud.net.calls import HEALTH_PATH, PATH
from edgecloud.net.connection import ClosedAtBoundaryError, Connection, connect
from edgecloud.net.messages import Infer, Probe
from edgecloud.utils.errors import ConnectError, PeerClosedError
from tests.certificates import Identity
from tests.conftest import LONG_S
from tests.net.test_streams import HOST, ask, echo, own, soon

grpc = pytest.importorskip("grpc", reason="grpcio is not installed (requirements-dev.txt)")
__all__ = ["own"]


class Call:
    """A call of grpcio's that sends what it is given."""

    def __init__(self, channel: Any) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.call = channel.stream_stream(PATH)(iter(self._queue.get, None), timeout=LONG_S)
        self._rest = b""

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self._queue.put(part)

    def end(self) -> None:
        self._queue.put(None)

    def take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += next(self.call)
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


@contextmanager
def channel(port: int, identity: Identity | None = None, *options: tuple[str, int]) -> Iterator[Any]:
    """One of its own, to which nothing else is connected."""
    settings = [("grpc.use_local_subchannel_pool", 1), *options]
    if identity is None:
        opened = grpc.insecure_channel(f"{HOST}:{port}", settings)
    else:
        trust = grpc.ssl_channel_credentials(identity.cert.read_bytes())
        opened = grpc.secure_channel(f"{HOST}:{port}", trust, settings)
    with opened:
        yield opened


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_a_client_of_grpcio_sends_and_receives_frames_however_it_cuts_them(own: Identity, has_tls: bool) -> None:
    identity = own if has_tls else None
    with echo(identity) as there, channel(there.grpc_port, identity) as opened:
        call = Call(opened)
        for size in (1, 200_000, 3_000_000):
            data = encode(Infer(size, [[1, 2]], 1.0), [np.frombuffer(os.urandom(size), np.uint8)])
            pieces = [data[place : place + (1 << 20)] for place in range(0, len(data), 1 << 20)]
            call.send(data[:3], data[3:50], *([data[50:]] if size == 200_000 else [pieces[0][50:], *pieces[1:]]))
            assert call.take(len(data)) == data
        call.end()
        assert (list(call.call), call.call.code()) == ([], grpc.StatusCode.OK)


def test_a_client_that_sends_much_before_it_reads_is_not_held_up_for_ever() -> None:
    """What it sends is stopped by our window, not by its own, which we need for the answers."""
    data = encode(Infer(1, [[1, 2]], 1.0), [np.zeros(1_000_000, np.uint8)])
    with echo() as there, channel(there.grpc_port) as opened:
        call = Call(opened)
        call.send(*[data] * 20)
        for _ in range(20):
            assert call.take(len(data)) == data


def test_it_may_keep_an_idle_connection_alive() -> None:
    eager = (
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.http2.max_pings_without_data", 0),
    )
    data = encode(Infer(1, [[1, 2]], 1.0), [np.zeros(10, np.uint8)])
    with echo() as there, channel(there.grpc_port, None, *eager) as opened:
        call = Call(opened)
        for _ in range(3):
            call.send(data)
            assert call.take(len(data)) == data
            threading.Event().wait(0.3)
        assert there.server.count == 1


def test_a_refusal_is_an_error_frame_and_a_status() -> None:
    with echo() as there, channel(there.grpc_port) as opened:
        call = Call(opened)
        call.send(encode(Probe(1, 0), []))
        assert b"ECCI" in next(call.call)
        with pytest.raises(grpc.RpcError):
            next(call.call)
        assert call.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert call.call.details() == "PROTOCOL: expected INFER, got PROBE"


def test_other_methods_are_refused_and_the_health_check_of_grpc_is_answered() -> None:
    with echo() as there, channel(there.grpc_port) as opened:
        for path in ("/edgecloud.Frames/Other", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
            with pytest.raises(grpc.RpcError) as caught:
                opened.unary_unary(path)(b"", timeout=LONG_S)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        for _ in range(3):
            assert opened.unary_unary(HEALTH_PATH)(b"", timeout=LONG_S) == b"\x08\x01"


def test_two_streams_of_one_channel_take_turns_and_two_channels_do_not_wait() -> None:
    data = encode(Infer(1, [[1, 2]], 1.0), [np.zeros(10, np.uint8)])
    with echo() as there, channel(there.grpc_port) as one, channel(there.grpc_port) as two:
        first, other = Call(one), Call(two)
        for call in (first, other):
            call.send(data)
            assert call.take(len(data)) == data
        waiting = Call(one)
        first.end()
        waiting.send(data)
        assert waiting.take(len(data)) == data


# --- our edge, a server of grpcio


class Service:
    """Sends back what it gets, until it is told otherwise."""

    def service(self, details: Any) -> Any:
        """For one method."""
        return grpc.stream_stream_rpc_method_handler(self.echo) if details.method == PATH else None

    def echo(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for message in messages:
            if b"please leave" in message:
                context.abort(grpc.StatusCode.UNAVAILABLE, "as you like")
            yield message


@contextmanager
def serving(*handlers: Any, identity: Identity | None = None) -> Iterator[int]:
    """A server of grpcio; gives its port."""
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers, options=[("grpc.so_reuseport", 0)])
    if identity is None:
        port = server.add_insecure_port(f"{HOST}:0")
    else:
        pair = (identity.key.read_bytes(), identity.cert.read_bytes())
        port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def edge_of(port: int, identity: Identity | None = None) -> Connection:
    from edgecloud.net.tls import client_tls

    tls = None if identity is None else client_tls(identity.cert, None, None, HOST)
    return connect(HOST, port, LONG_S, tls=tls, transport="grpc")


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_our_edge_is_a_client_that_a_server_of_grpcio_understands(own: Identity, has_tls: bool) -> None:
    identity = own if has_tls else None
    with serving(Service(), identity=identity) as port, closing(edge_of(port, identity)) as edge:
        for size in (1, 16_384, 65_536, 200_000, 3_000_000):
            ask(edge, size)
        edge._transport.farewell(LONG_S)
        with pytest.raises(ClosedAtBoundaryError):
            edge.receive(soon())


def test_what_ends_a_call_of_ours_is_said() -> None:
    with serving(Service()) as port, closing(edge_of(port)) as edge:
        ask(edge, 10)
        edge.send(Infer(1, [], 1.0, "please leave"), soon())
        with pytest.raises(PeerClosedError, match="UNAVAILABLE: as you like"):
            edge.receive(soon())
    with serving() as port, closing(edge_of(port)) as edge:
        edge.send(Infer(1, [], 1.0), soon())
        with pytest.raises(ConnectError, match=f"no service {PATH} there"):
            edge.receive(soon())
