"""HTTP/2 and its headers, without a socket: what may come, however it is cut, and what may not."""

import contextlib
import struct

import pytest
from h2.errors import ErrorCodes as Reason
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.http2_frames import (
    Flag,
    Kind,
    called,
    data_of,
    frames_in,
    go_away,
    listed,
    pack,
    parse_head,
    said,
)
from edgecloud.net.calls import HEALTH_PATH, Caller, Service, TransportError, refusal
from edgecloud.net.frames import MAGIC, BadMagicError
from edgecloud.net.http2 import (
    BLOCKS,
    DEBUG_BYTES,
    FIRST_WINDOW,
    FRAME_BYTES,
    FRAMES_PER_S,
    MESSAGE_BYTES,
    PIECE_BYTES,
    WINDOW,
    Exchange,
    Headers,
    Http2Error,
)
from edgecloud.net.messages import Error
from edgecloud.utils.errors import ConnectError, PeerClosedError, ProtocolError
from tests.conftest import many

SPACE = 8 << 20


def feed(end: Exchange, data: bytes, size: int = 1 << 20, now: float = 0.0) -> bytes:
    """Have an end read bytes, so many at once, and take what they carry."""
    found = bytearray()
    for place in range(0, len(data), size):
        end.feed(memoryview(data)[place : place + size], now)
        into = memoryview(bytearray(SPACE))
        while end.has_bytes:
            found += into[: end.read(into)]
    return bytes(found)


def owed(end: Exchange) -> bytes:
    """What an end has to send."""
    data = bytes(end.owed)
    end.owed.clear()
    return data


def sent(end: Exchange, data: bytes) -> bytes:
    """All that leaves for these bytes, where there is room."""
    parts, found = [memoryview(data)], bytearray()
    while parts:
        pieces = end.pack(parts)
        assert pieces, "there is no room"
        found += b"".join(bytes(piece) for piece, _ in pieces)
        done = sum(piece.nbytes for piece, is_theirs in pieces if is_theirs)
        parts = [parts[0][done:]] if done < parts[0].nbytes else []
    return bytes(found)


def met() -> tuple[Caller, Service]:
    """Both ends of a call that was taken."""
    caller, service = Caller("cloud:50051", is_secure=False), Service()
    feed(service, owed(caller))
    feed(caller, owed(service))
    feed(service, owed(caller))
    assert service.is_open
    return caller, service


# --- bytes of messages


@settings(max_examples=many(30, 1000))
@given(st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=6), st.integers(1, 5000))
def test_bytes_arrive_however_they_are_cut(parts: list[bytes], size: int) -> None:
    caller, service = met()
    for one, other in ((caller, service), (service, caller)):
        got = b""
        for part in parts:
            got += feed(other, sent(one, part), size)
            feed(one, owed(other))
        assert got == b"".join(parts)


def test_a_long_transfer_goes_on_as_room_is_given_and_in_messages_that_everybody_takes() -> None:
    caller, service = met()
    data = bytes(range(256)) * (12 << 10)
    got = b""
    while len(got) < len(data):
        pieces = caller.pack([memoryview(data)[len(got) :]])
        assert pieces
        wire = b"".join(bytes(piece) for piece, _ in pieces)
        assert parse_head(wire[:9]).length <= FIRST_WINDOW if not got else True
        got += feed(service, wire)
        feed(caller, owed(service))
    assert got == data
    assert caller.room > WINDOW // 2
    assert max(PIECE_BYTES, FIRST_WINDOW) <= MESSAGE_BYTES


def test_nothing_is_sent_without_room() -> None:
    caller, _ = met()
    feed(caller, said([(4, 0)]))
    assert not caller.pack([memoryview(b"data")])
    feed(caller, pack(Kind.WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)))
    assert sum(piece.nbytes for piece, is_theirs in caller.pack([memoryview(bytes(500))]) if is_theirs) == 95


def test_padding_counts_and_is_no_data() -> None:
    _, service = met()
    body = b"\x03" + struct.pack(">BI", 0, 4) + b"data" + bytes(3)
    assert feed(service, pack(Kind.DATA, Flag.PADDED, 1, body), 1) == b"data"
    assert feed(service, pack(Kind.DATA, Flag.PADDED, 1, b"\x05" + bytes(5))) == b""


def test_nobody_keeps_more_than_it_gave_room_for() -> None:
    """What is not taken gets no new room."""
    _, service = met()
    owed(service)
    service.feed(memoryview(b"".join(data_of(bytes(16_000)) for _ in range(4))), 0.0)
    assert b"".join(service._messages.parts) == bytes(64_000)
    with pytest.raises(Http2Error) as caught:
        service.feed(memoryview(data_of(bytes(16_000))), 0.0)
    assert caught.value.reason is Reason.FLOW_CONTROL_ERROR


def test_a_ping_is_answered_and_an_answer_is_not() -> None:
    _, service = met()
    owed(service)
    feed(service, pack(Kind.PING, 0, 0, b"12345678") + pack(Kind.PING, Flag.ACK, 0, b"12345678"))
    assert owed(service) == pack(Kind.PING, Flag.ACK, 0, b"12345678")


WRONG: dict[str, bytes] = {
    "data on another stream": data_of(b"x", stream=3),
    "a compressed message": pack(Kind.DATA, 0, 1, b"\x01\x00\x00\x00\x01x"),
    "a message of 4 GiB": pack(Kind.DATA, 0, 1, b"\x00\xff\xff\xff\xff"),
    "a message that is too long": pack(Kind.DATA, 0, 1, struct.pack(">BI", 0, MESSAGE_BYTES + 1)),
    "a frame of 16 MiB": b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "a frame that is longer than was said": pack(Kind.DATA, 0, 1, bytes(FRAME_BYTES + 1)),
    "a frame of an unknown kind, of 16 MiB": b"\xff\xff\xff\x63\x00\x00\x00\x00\x01",
    "more padding than data": pack(Kind.DATA, Flag.PADDED, 1, b"\x05abc"),
    "settings cut off": pack(Kind.SETTINGS, 0, 0, b"\x00\x04\x00"),
    "settings on a stream": pack(Kind.SETTINGS, 0, 1),
    "a window of 4 GiB": said([(4, (1 << 32) - 1)]),
    "frames of a byte": said([(5, 1)]),
    "a window that grows by nothing": pack(Kind.WINDOW_UPDATE, 0, 0, bytes(4)),
    "a window cut off": pack(Kind.WINDOW_UPDATE, 0, 1, b"\x00\x01"),
    "a ping of four bytes": pack(Kind.PING, 0, 0, bytes(4)),
    "a reset of two bytes": pack(Kind.RST_STREAM, 0, 1, bytes(2)),
    "a push": pack(Kind.PUSH_PROMISE, Flag.END_HEADERS, 1, bytes(8)),
    "a GOAWAY cut off": pack(Kind.GOAWAY, 0, 0, bytes(7)),
    "headers of no stream": pack(Kind.HEADERS, Flag.END_HEADERS, 0, b"\x82"),
    "headers of an even stream": pack(Kind.HEADERS, Flag.END_HEADERS, 2, b"\x82"),
    "headers in the middle": pack(Kind.HEADERS, Flag.END_HEADERS, 1, b"\x82"),
    "headers that are none": pack(Kind.HEADERS, Flag.END_HEADERS, 3, b"\x80"),
    "headers with more padding than there is": pack(Kind.HEADERS, Flag.END_HEADERS | Flag.PADDED, 3, b"\x09\x82"),
    "headers cut by another frame": pack(Kind.HEADERS, 0, 3, b"\x82") + pack(Kind.PING, 0, 0, bytes(8)),
    "a continuation of nothing": pack(Kind.CONTINUATION, Flag.END_HEADERS, 3, b"\x82"),
    "a continuation of another stream": pack(Kind.HEADERS, 0, 3, b"\x82") + pack(Kind.CONTINUATION, 0, 5, b"\x82"),
    "endless headers": pack(Kind.HEADERS, 0, 3) + pack(Kind.CONTINUATION, 0, 3, bytes(3000)) * 4,
    "endless pings": pack(Kind.PING, 0, 0, bytes(8)) * 2000,
    "endless settings": said([]) * 3000,
    "endless empty frames": pack(Kind.DATA, 0, 1) * int(3 * FRAMES_PER_S),
    "endless frames that are ignored": pack(Kind.PRIORITY, 0, 1, bytes(5)) * int(3 * FRAMES_PER_S),
    "much in headers": pack(Kind.HEADERS, Flag.END_HEADERS, 3, listed([(b"a", bytes(5000))])) * 4,
    "endless streams": b"".join(
        pack(Kind.HEADERS, Flag.END_HEADERS, 3 + 2 * n, b"\x82") + pack(Kind.RST_STREAM, 0, 3 + 2 * n, bytes(4))
        for n in range(BLOCKS)
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_http2_does_not_allow_ends_the_connection_with_a_reason(name: str) -> None:
    service = Service()
    feed(service, called())
    owed(service)
    with pytest.raises(Http2Error) as caught:
        feed(service, WRONG[name])
    service.go_away(caught.value)
    kind, payload = frames_in(owed(service))[-1]
    assert kind == Kind.GOAWAY
    assert payload[4:8] == caught.value.reason.to_bytes(4, "big")


def test_small_frames_between_large_ones_are_none_that_flood() -> None:
    """As a proxy may cut a long message."""
    _, service = met()
    for _ in range(5000):
        assert len(feed(service, data_of(bytes(2000)) + data_of(b"x"))) == 2001
        owed(service)


def test_a_connection_that_is_kept_alive_for_a_day_is_none_that_floods() -> None:
    _, service = met()
    for second in range(0, 86_400, 60):
        feed(service, pack(Kind.PING, 0, 0, bytes(8)), now=float(second))
        owed(service)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_first_bytes_tell(size: int) -> None:
    for first, kind in ((MAGIC, TransportError), (b"\x16\x03\x01", BadMagicError), (b"GET / HTTP/1.1\r\n", Http2Error)):
        with pytest.raises(kind):
            feed(Service(), first, size)
    with pytest.raises(Http2Error):
        feed(Service(), b"PRI * HTTP/2.1\r\n", size)
    for first, words in ((MAGIC, "--transport tcp"), (b"\x15\x03\x03", "--tls-ca"), (b"HTTP/1.1 400", "HTTP/2")):
        with pytest.raises(ConnectError, match=words):
            feed(Caller("cloud:1", is_secure=False), first, size)


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (called("/edgecloud.Frames/Other"), b"grpc-status: 12"),
        (called("/"), b"grpc-status: 12"),
        (called(kind=b"application/json"), b"415"),
        (called(method=b"GET"), b"415"),
        (called(HEALTH_PATH), b"\x00\x00\x00\x00\x02\x08\x01"),
    ],
)
def test_other_calls_are_answered_and_end_the_connection(first: bytes, answer: bytes) -> None:
    service = Service()
    feed(service, first)
    assert not service.is_open
    assert service.is_over
    assert any(answer in payload for _, payload in frames_in(owed(service)))


@pytest.mark.parametrize(
    "behind",
    [pack(Kind.RST_STREAM, 0, 1, bytes(4)), go_away(Reason.NO_ERROR)],
    ids=["reset", "gone"],
)
def test_a_call_that_ends_where_it_begins_is_a_client_that_has_left(behind: bytes) -> None:
    with pytest.raises(PeerClosedError):
        feed(Service(), called() + behind)
    with pytest.raises(PeerClosedError):
        feed(Service(), called("/other") + behind)


def test_a_second_stream_is_refused_so_that_it_is_tried_elsewhere() -> None:
    _, service = met()
    owed(service)
    block = listed([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"cloud")])
    wire = pack(Kind.HEADERS, Flag.END_HEADERS, 3, block) + data_of(b"of nobody", stream=3) + data_of(b"ours")
    assert feed(service, wire) == b"ours"
    assert pack(Kind.RST_STREAM, 0, 3, struct.pack(">I", Reason.REFUSED_STREAM)) in owed(service)


# --- what a caller learns


def answered(headers: Headers, *, is_end: bool = False) -> bytes:
    flags = Flag.END_HEADERS | (Flag.END_STREAM if is_end else 0)
    return pack(Kind.HEADERS, flags, 1, listed(headers))


TAKEN = [(b":status", b"200"), (b"content-type", b"application/grpc+proto")]


@pytest.mark.parametrize(
    ("wire", "kind", "words"),
    [
        (answered([(b":status", b"502")]) + data_of(b"<html>"), ConnectError, "HTTP 502"),
        (answered([(b":status", b"404")]), ConnectError, "no gRPC"),
        (answered([(b":status", b"200"), (b"content-type", b"text/html")]), ConnectError, "text/html"),
        (answered([(b":status", b"403")]), ConnectError, "does not let this edge in"),
        (answered([*TAKEN, (b"grpc-status", b"12")], is_end=True), ConnectError, "--grpc-port"),
        (answered([*TAKEN, (b"grpc-status", b"14"), (b"grpc-message", b"a%20b")], is_end=True), ConnectError, "a b"),
        (answered(TAKEN) + answered([(b"grpc-status", b"16")], is_end=True), ConnectError, "UNAUTHENTICATED"),
        (answered(TAKEN) + data_of(b"x") + answered([(b"grpc-status", b"14")], is_end=True), PeerClosedError, "UNAV"),
        (answered(TAKEN) + data_of(b"x") + pack(Kind.RST_STREAM, 0, 1, b"\0\0\0\2"), PeerClosedError, "INTERNAL_ERROR"),
        (go_away(Reason.ENHANCE_YOUR_CALM, b"later\x1b[31m"), ConnectError, "ENHANCE_YOUR_CALM: 'later"),
        (go_away(Reason.ENHANCE_YOUR_CALM, bytes(DEBUG_BYTES)), ConnectError, "ENHANCE_YOUR_CALM"),
        (go_away(Reason.NO_ERROR, b"", last=1), PeerClosedError, "ended the connection (NO_ERROR)"),
    ],
)  # fmt: skip
def test_why_a_call_was_not_taken_is_said_in_a_line(wire: bytes, kind: type[Exception], words: str) -> None:
    caller = Caller("cloud:1", is_secure=False)
    feed(caller, said([]) + wire)
    assert isinstance(caller.failure, kind)
    assert words in str(caller.failure)
    assert str(caller.failure).isprintable()


def test_an_end_in_good_order_is_no_failure_whatever_a_proxy_adds() -> None:
    caller = Caller("cloud:1", is_secure=False)
    wire = answered(TAKEN) + data_of(b"x") + answered([(b"grpc-status", b"0")], is_end=True)
    assert feed(caller, said([]) + wire + pack(Kind.RST_STREAM, 0, 1, bytes(4))) == b"x"
    assert (caller.is_ended, caller.failure) == (True, None)


def test_a_refusal_at_the_door_is_the_error_of_frames() -> None:
    caller = Caller("cloud:1", is_secure=False)
    feed(caller, refusal(Error("BUSY", "all 64 connections are in use", retry_after_s=1.5)))
    assert caller.last_words.startswith(MAGIC)
    assert (caller.failure, caller.is_ended) == (None, True)


@settings(max_examples=many(100, 3000))
@given(st.binary(max_size=200), st.booleans(), st.integers(1, 50))
def test_any_bytes_are_read_or_refused(data: bytes, is_cloud: bool, size: int) -> None:
    caller, service = met()
    with contextlib.suppress(ProtocolError, ConnectError):
        feed(service if is_cloud else caller, data, size)
