"""Frames of HTTP/2, right and wrong, byte by byte."""

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

import hpack
from h2.errors import ErrorCodes

from edgecloud.net.calls import CONTENT_TYPE, PATH
from edgecloud.net.http2 import PREFACE, Headers

MOST_WINDOW = (1 << 31) - 1
WORD = struct.Struct(">I")
_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")


class Kind(IntEnum):
    """Of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Of frames; one bit has two meanings."""

    NONE = 0
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Setting(IntEnum):
    """What a side says of itself."""

    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Head(NamedTuple):
    """The first bytes of a frame."""

    length: int
    kind: int
    flags: int
    stream: int


def pack(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def parse_head(data: bytes | bytearray) -> Head:
    """The nine bytes that a frame begins with."""
    high, low, kind, flags, stream = _HEAD.unpack(data)
    return Head(high << 8 | low, kind, flags, stream & MOST_WINDOW)


def said(values: Sequence[tuple[int, int]]) -> bytes:
    """A frame of settings."""
    return pack(Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def go_away(reason: ErrorCodes, words: bytes = b"", last: int = 0) -> bytes:
    """The end of a connection."""
    return pack(Kind.GOAWAY, 0, 0, WORD.pack(last) + WORD.pack(reason) + words)


def listed(headers: Headers) -> bytes:
    """A block of headers."""
    return bytes(hpack.Encoder().encode(headers))


def called(
    path: str = PATH,
    kind: bytes = CONTENT_TYPE,
    method: bytes = b"POST",
    settings: Sequence[tuple[int, int]] = (),
) -> bytes:
    """The first bytes of a client."""
    headers = [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"cloud"),
        (b"content-type", kind),
    ]
    return PREFACE + said(settings) + pack(Kind.HEADERS, Flag.END_HEADERS, 1, listed(headers))


def data_of(message: bytes, flags: int = 0, stream: int = 1) -> bytes:
    """A message in one frame."""
    return pack(Kind.DATA, flags, stream, struct.pack(">BI", 0, len(message)) + message)


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and payload of each frame; of headers what they say."""
    found, decoder = [], hpack.Decoder()
    while data:
        head = parse_head(data[:9])
        payload, data = data[9 : 9 + head.length], data[9 + head.length :]
        if head.kind == Kind.HEADERS:
            payload = b", ".join(b": ".join(pair) for pair in decoder.decode(payload, raw=True))
        found.append((head.kind, payload))
    return found
