"""How little has to come until what cannot be a frame is refused, and how much of a header is read of which message."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.net import plain_pickle
from edgecloud.net.connection import Connection
from edgecloud.net.frames import PREFIX_BYTES, FrameType, Limits, TooLargeError, pack_prefix, parse_prefix, parse_start
from edgecloud.net.messages import Hello, Infer, Ready, Status, to_header
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ProtocolError

LIMITS = Limits()
PATIENCE_S = 20.0  # of whoever waits here: nothing in this file takes so long


@contextmanager
def a_pair() -> Iterator[tuple[socket.socket, Connection]]:
    """A stranger's socket, and the cloud's end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stranger = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    connection = Connection(accepted)
    with stranger:
        yield stranger, connection
    connection.close()


def refusal_of(data: bytes, *, is_unauthenticated: bool = True) -> str:
    """The code with which these bytes are refused, nothing coming behind them, and the other side staying."""
    with a_pair() as (stranger, connection):
        stranger.sendall(data)
        with pytest.raises(AppError) as caught:
            connection.receive(Deadline.after(PATIENCE_S, "the test"), is_unauthenticated=is_unauthenticated)
    return caught.value.code  # DEADLINE, had it waited for more


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"G", "BAD_MAGIC"),
        (b"GET /\r\n", "BAD_MAGIC"),
        (b"SSH-2.0-Go\r\n", "BAD_MAGIC"),
        (b"\x16", "BAD_MAGIC"),
        (b"ECCX", "BAD_MAGIC"),
        (b"ECCI\x02", "VERSION"),
        (b"ECCI\x01\x63", "PROTOCOL"),
        (pack_prefix(FrameType.INFER, 0, 0)[:6], "PROTOCOL"),  # not of a stranger
        (b"ECCI\x01\x01\x80", "PROTOCOL"),
        (b"ECCI\x01\x01\0\0\x01", "TOO_LARGE"),
        (pack_prefix(FrameType.HELLO, 10, 1 << 60)[:13], "PROTOCOL"),
    ],
)
def test_a_stranger_who_cannot_be_one_of_ours_is_refused_at_the_byte_that_shows_it(data: bytes, code: str) -> None:
    assert refusal_of(data) == code


def test_another_protocol_is_named_by_what_came_and_nothing_else() -> None:
    with pytest.raises(ProtocolError, match=r"first bytes are b'GE'$"):
        parse_start(b"GE", LIMITS)
    with pytest.raises(ProtocolError, match="TLS handshake on a plaintext port"):
        parse_start(b"\x16", LIMITS)


@pytest.mark.parametrize("kind", FrameType)
def test_no_start_of_a_good_prefix_is_refused(kind: FrameType) -> None:
    whole = pack_prefix(kind, LIMITS.header_of(kind), LIMITS.payload_bytes if kind is FrameType.INFER else 0)
    for end in range(PREFIX_BYTES + 1):
        parse_start(whole[:end], LIMITS)
    assert parse_start(whole, LIMITS) == parse_prefix(whole, LIMITS)


@given(st.binary(min_size=PREFIX_BYTES, max_size=PREFIX_BYTES) | st.integers(0, 8 * PREFIX_BYTES - 1), st.data())
def test_a_start_is_refused_only_where_every_whole_that_begins_so_is(what: bytes | int, data: st.DataObject) -> None:
    whole = what if isinstance(what, bytes) else _flipped(what)
    try:
        parse_prefix(whole, LIMITS)
    except ProtocolError:
        return
    parse_start(whole[: data.draw(st.integers(0, PREFIX_BYTES))], LIMITS)


def _flipped(bit: int) -> bytes:
    good = bytearray(pack_prefix(FrameType.INFER, 100, 100))
    good[bit // 8] ^= 1 << bit % 8
    return bytes(good)


def test_a_cloud_with_tls_refuses_what_no_record_begins_with() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with a_pair() as (stranger, connection):
        stranger.sendall(b"GET")  # OpenSSL would wait for five bytes
        with pytest.raises(ProtocolError, match="not a TLS handshake") as caught:
            connection.secure(context, Deadline.after(PATIENCE_S, "the test"))
        assert caught.value.code == "TLS"


@pytest.mark.parametrize("kind", [FrameType.STATUS, FrameType.PROBE, FrameType.STATE, FrameType.ERROR])
def test_a_small_message_has_no_large_header(kind: FrameType) -> None:
    parse_prefix(pack_prefix(kind, 2048, 0), LIMITS)
    with pytest.raises(TooLargeError, match=f"{kind.name} header of 2049 bytes, the limit is 2048"):
        parse_prefix(pack_prefix(kind, 2049, 0), LIMITS)


def test_the_largest_messages_that_there_can_be_have_room() -> None:
    """Names and tokens of 1 KiB; ranges and times of 1,000 and 3,000 layers; 64 tensors of 8 dimensions."""
    alternating = [[number, number + 1] for number in range(1, 1001, 2)]
    tensor = ("float32", (70_000,) * 8, "int6c+zstd", 1)
    infer = to_header(Infer(1 << 60, alternating, 60.0, "m" * 100))
    infer |= {"tensors": [tensor] * LIMITS.tensors, "buffers": [1 << 30] * LIMITS.tensors}
    ready = Ready([1 / 3] * 3000, [1 / 7] * 3000, 0.0, "cpu", ["int6c+zstd"] * 40, 1 << 26, "measured")
    hello = Hello(
        "m" * 100, "sha256:" + "0" * 64, "sha256:" + "0" * 64, [f"int6c+zstd{n}" for n in range(60)], "t" * 1024
    )
    for kind, header in (
        (FrameType.INFER, infer),
        (FrameType.READY, to_header(ready)),
        (FrameType.HELLO, to_header(hello)),
        (FrameType.STATUS, to_header(Status("t" * 1024))),
    ):
        assert len(plain_pickle.dumps(header)) <= LIMITS.header_of(kind), kind


def test_more_tensors_have_longer_headers_and_a_lower_limit_is_kept() -> None:
    assert Limits(tensors=128).header_of(FrameType.INFER) == LIMITS.header_of(FrameType.INFER) + 64 * 128
    assert Limits(header_bytes=1000).header_of(FrameType.INFER) == 1000
    assert LIMITS.header_of(FrameType.READY) == LIMITS.header_bytes


def test_a_header_over_its_limit_is_not_sent_either() -> None:
    with a_pair() as (_, connection), pytest.raises(ProtocolError, match="bytes, the limit is 2048"):
        connection.send(Status("x" * 3000), Deadline.after(PATIENCE_S, "the test"))
