"""Frames over real sockets: whole, broken at every byte, slow, oversized, and silent."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks.hostile.attacks import encode
from edgecloud.net.connection import ClosedAtBoundaryError, Connection, connect
from edgecloud.net.frames import Limits, TooLargeError, pack_prefix
from edgecloud.net.messages import Error, Hello, Infer, Probe, Probed, Result
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ConnectError, DeadlineError, MismatchError, PeerClosedError, ProtocolError


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds, "the test")


@contextmanager
def tcp_pair(
    limits: Limits | None = None, min_bytes_per_s: float = 1000.0
) -> Iterator[tuple[socket.socket, Connection]]:
    """A raw socket, and a Connection at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        raw = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    connection = Connection(accepted, limits or Limits(), min_bytes_per_s)
    try:
        yield raw, connection
    finally:
        raw.close()
        connection.close()


ARRAY = np.arange(6, dtype=np.float32).reshape(1, 6)
FRAME = encode(Infer(7, [[1, 2]], 1.0), [ARRAY])


def test_a_message_arrives_with_its_tensors() -> None:
    with tcp_pair() as (raw, connection):
        raw.sendall(FRAME)
        frame = connection.receive(soon())
        assert frame.read(Infer) == Infer(7, [[1, 2]], 1.0)
        np.testing.assert_array_equal(frame.arrays()[0], ARRAY)
        assert connection.received_bytes == len(FRAME)


def test_what_is_sent_is_the_specified_bytes() -> None:
    with tcp_pair() as (raw, connection):
        assert connection.send(Infer(7, [[1, 2]], 1.0), soon(), [ARRAY]) == ARRAY.nbytes
        assert raw.recv(65536) == FRAME


def test_a_stream_cut_inside_a_frame_is_an_error_not_a_clean_end() -> None:
    for end in range(len(FRAME)):
        with tcp_pair() as (raw, connection):
            raw.sendall(FRAME[:end])
            raw.shutdown(socket.SHUT_WR)
            with pytest.raises(PeerClosedError) as caught:
                connection.receive(soon())
            assert isinstance(caught.value, ClosedAtBoundaryError) == (end == 0), end


def test_a_reset_at_any_place_is_the_same_error() -> None:
    for end in range(0, len(FRAME), 7):
        with tcp_pair() as (raw, connection):
            raw.sendall(FRAME[:end])
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
            with pytest.raises(PeerClosedError):
                connection.receive(soon())


def test_a_frame_may_come_byte_by_byte_and_many_at_once() -> None:
    with tcp_pair() as (raw, connection):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def drip() -> None:
            for n in range(len(FRAME)):
                raw.sendall(FRAME[n : n + 1])

        sender = threading.Thread(target=drip)
        sender.start()
        assert connection.receive(soon()).read(Infer).id == 7
        sender.join()
        raw.sendall(FRAME * 50)
        assert [connection.receive(soon()).read(Infer).id for _ in range(50)] == [7] * 50


def test_a_large_message_goes_through_small_buffers() -> None:
    big = np.random.default_rng(0).random((1 << 20,)).astype(np.float32)
    with tcp_pair() as (raw, connection):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        other = Connection(raw)
        sender = threading.Thread(target=other.send, args=(Infer(1, [[1, 2]], 1.0), soon(60), [big, ARRAY]))
        sender.start()
        got = connection.receive(soon(60)).arrays()
        sender.join()
        np.testing.assert_array_equal(got[0], big)
        np.testing.assert_array_equal(got[1], ARRAY)


def test_nothing_follows_a_frame_that_was_cut() -> None:
    with tcp_pair() as (_raw, connection):
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with pytest.raises(DeadlineError):
            connection.send(Infer(1, [[1, 2]], 1.0), soon(0.3), [np.zeros(60 << 20, np.uint8)])
        with pytest.raises(PeerClosedError, match="was sent only partially"):
            connection.send(Infer(2, [[1, 2]], 1.0), soon())


def test_an_oversized_frame_is_refused_before_its_payload_arrives() -> None:
    for header, payload in ((1 << 31, 0), (0, 1 << 40), (0, (1 << 64) - 1)):
        with tcp_pair() as (raw, connection):
            raw.sendall(pack_prefix(Probe.TYPE, header, payload))
            with pytest.raises(TooLargeError):  # and not DeadlineError: nothing more comes
                connection.receive(soon())


def test_exactly_the_limit_is_accepted_and_one_more_is_not() -> None:
    limits = Limits(payload_bytes=100)
    for size, fits in ((99, True), (100, True), (101, False)):
        with tcp_pair(limits) as (raw, connection):
            raw.sendall(encode(Result(1, 0.0, 0.0), [np.zeros(size, np.uint8)]))
            if fits:
                assert connection.receive(soon()).arrays()[0].nbytes == size
            else:
                with pytest.raises(TooLargeError, match="limit is 100"):
                    connection.receive(soon())


def test_silence_ends_at_the_deadline() -> None:
    with tcp_pair() as (raw, connection):
        raw.sendall(FRAME[:30])
        started = time.monotonic()
        with pytest.raises(DeadlineError, match="the test"):
            connection.receive(soon(0.3))
        assert time.monotonic() - started > 0.25


def test_a_begun_frame_has_a_deadline_of_its_own() -> None:
    with tcp_pair() as (raw, connection):
        raw.sendall(FRAME[:30])
        with pytest.raises(DeadlineError, match="frame"):
            connection.receive(soon(60), frame_s=0.3)


def test_dripping_below_the_minimum_rate_ends_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecloud.net.connection.PATIENCE_S", 0.2)
    with tcp_pair(min_bytes_per_s=1000) as (raw, connection):
        stop = threading.Event()

        def drip() -> None:
            raw.sendall(pack_prefix(Probe.TYPE, 2_000, 0))
            while not stop.wait(0.05):
                raw.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(ProtocolError, match="slower than 1000"):
            connection.receive(soon(60))
        stop.set()
        thread.join()


def test_a_peer_that_never_reads_does_not_hold_a_sender_for_ever() -> None:
    with tcp_pair() as (_, connection), pytest.raises(DeadlineError):
        connection.send(Infer(1, [[1, 2]], 1.0), soon(0.5), [np.zeros(60 << 20, np.uint8)])


def test_another_message_than_the_expected_one_is_named() -> None:
    with tcp_pair() as (raw, connection):
        raw.sendall(encode(Probed(1), []))
        with pytest.raises(ProtocolError, match="expected RESULT, got PROBED"):
            connection.receive(soon()).read(Result)


def test_a_refusal_is_raised_as_what_it_means() -> None:
    with tcp_pair() as (raw, connection):
        raw.sendall(encode(Error("MISMATCH", "weights differ"), []) + encode(Error("BUSY", "x\x1b[2J"), []))
        with pytest.raises(MismatchError, match="weights differ"):
            connection.receive(soon()).read(Result)
        with pytest.raises(ConnectError) as caught:
            connection.receive(soon()).read(Result)
        assert "\x1b" not in str(caught.value)


def test_a_refusal_reaches_a_peer_that_is_still_sending() -> None:
    with tcp_pair() as (raw, connection):
        peer = Connection(raw)
        sender = threading.Thread(target=lambda: peer.send(Hello("m", "w", "g", [], ""), soon(), []))
        sender.start()
        connection.refuse(Error("BUSY", "full"), 1.0)
        sender.join()
        with pytest.raises(ConnectError, match="full"):
            peer.receive(soon()).read(Result)


def test_nobody_there_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectError, match=f"no cloud at 127.0.0.1:{port}"):
        connect("127.0.0.1", port, 1.0)
    with pytest.raises(ConnectError, match=r"no cloud at no\.such\.host\.invalid"):
        connect("no.such.host.invalid", 1, 1.0)
