"""Frames. Pure, no socket; docs/wire.md is the specification.

magic(4) version(1) type(1) flags(2) header_len(u32) payload_len(u64)   all big-endian
header    a pickle of plain data, see net.plain_pickle
payload   the buffers of the tensors, one after the other
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from edgecloud.utils import defaults
from edgecloud.utils.errors import ProtocolError

if TYPE_CHECKING:
    from edgecloud.net.sides import SidedCodec

MAGIC = b"ECCI"
VERSION = 1
_PREFIX = struct.Struct(">4sBBHIQ")
PREFIX_BYTES = _PREFIX.size
_TLS_HANDSHAKE = b"\x16"  # of any version
TLS_FIRST = (_TLS_HANDSHAKE, b"\x15")  # or of the alert that ends one
_HTTP2_FIRST = b"PRI "

SMALL_HEADER_BYTES = 2 << 10  # a token has at most 1 KiB, the text of an ERROR at most 300 characters
HELLO_HEADER_BYTES = 8 << 10
TENSORS_HEADER_BYTES, TENSOR_HEADER_BYTES = 8 << 10, 128  # without the tensors, and for each that may be described


class FrameType(IntEnum):
    """What a frame says."""

    HELLO = 1
    READY = 2
    INFER = 3
    RESULT = 4
    PROBE = 5
    PROBED = 6
    ERROR = 7
    STATUS = 8
    STATE = 9
    OFFER = 10
    WANT = 11
    PIECE = 12
    PROOF = 13
    MOVE = 14
    CHUNK = 15


_WITH_TENSORS = frozenset({FrameType.INFER, FrameType.RESULT, FrameType.PROOF})
_WITH_PAYLOAD = _WITH_TENSORS | {FrameType.PROBE, FrameType.PROBED, FrameType.PIECE, FrameType.CHUNK}
_KINDS = {kind.value: kind for kind in FrameType}


@dataclass(frozen=True, slots=True)
class Limits:
    """What this side accepts from the other, checked before any memory is taken."""

    header_bytes: int = defaults.Server.HEADER_BYTES
    payload_bytes: int = defaults.Server.PAYLOAD_BYTES
    tensors: int = defaults.Server.TENSORS
    dimensions: int = 8
    more_codecs: frozenset[str] = frozenset()
    """Of the optional ones (net.codec) those that are taken; all others are unknown to this side."""
    learned: "Mapping[str, SidedCodec]" = field(default_factory=dict, hash=False)
    """Learned codecs of this side's own files, by their names on the wire."""

    def header_of(self, kind: FrameType) -> int:
        """The most bytes of a header: as many as such a message can need, since reading takes time too. Only READY,
        which has numbers for every layer, may need all that there may be."""
        if kind is FrameType.READY:
            return self.header_bytes
        most = HELLO_HEADER_BYTES if kind is FrameType.HELLO else SMALL_HEADER_BYTES
        if kind in _WITH_TENSORS:
            most = TENSORS_HEADER_BYTES + TENSOR_HEADER_BYTES * self.tensors
        return min(most, self.header_bytes)


class TooLargeError(ProtocolError):
    """A declared length is over a limit."""

    code = "TOO_LARGE"


class BadMagicError(ProtocolError):
    """The other side speaks another protocol."""

    code = "BAD_MAGIC"


class VersionError(ProtocolError):
    """The other side speaks another version of this protocol."""

    code = "VERSION"
    exit_code = 4


@dataclass(frozen=True, slots=True)
class Prefix:
    """The fixed first bytes of a frame."""

    kind: FrameType
    header_bytes: int
    payload_bytes: int


def pack_prefix(frame_type: FrameType, header_bytes: int, payload_bytes: int) -> bytes:
    """The 20 bytes that start a frame."""
    return _PREFIX.pack(MAGIC, VERSION, frame_type, 0, header_bytes, payload_bytes)


def parse_prefix(data: bytes | bytearray | memoryview, limits: Limits) -> Prefix:
    """Read the 20 bytes that start a frame.

    Raises ProtocolError for anything but a frame within the limits: as BadMagicError for another protocol, VersionError
    for another version of this one, TooLargeError for a length over a limit.
    """
    magic, version, number, flags, header_bytes, payload_bytes = _PREFIX.unpack(data)
    if magic != MAGIC:
        raise _not_ours(magic)
    if version != VERSION:
        raise VersionError(f"protocol version {version}, expected {VERSION}: run the same release on both sides")
    kind = _KINDS.get(number)
    if kind is None:
        raise ProtocolError(f"unknown frame type {number}")
    if flags:
        raise ProtocolError(f"unknown flags {flags:#06x}")
    if payload_bytes and number not in _WITH_PAYLOAD:
        raise ProtocolError(f"a {kind.name} frame must not have a payload")
    most = limits.header_of(kind)
    if header_bytes > most:
        raise TooLargeError(f"{kind.name} header of {header_bytes} bytes, the limit is {most}")
    if payload_bytes > limits.payload_bytes:
        raise TooLargeError(f"payload of {payload_bytes} bytes, the limit is {limits.payload_bytes} (--max-payload)")
    return Prefix(kind, header_bytes, payload_bytes)


_SMALLEST = pack_prefix(FrameType.HELLO, 0, 0)


def parse_start(data: bytes | bytearray | memoryview, limits: Limits) -> Prefix:
    """Read what has come of a prefix; what has not is taken to be the least that could come. Raises ProtocolError as
    soon as these bytes cannot begin a frame within the limits."""
    if len(data) == PREFIX_BYTES:
        return parse_prefix(data, limits)
    if data[:4] != MAGIC[: len(data)]:
        raise _not_ours(bytes(data[:4]))
    return parse_prefix(bytes(data) + _SMALLEST[len(data) :], limits)


def unexpected_tls() -> BadMagicError:
    """What an edge with TLS means to a port without, whatever it carries."""
    return BadMagicError("TLS handshake on a plaintext port: start the cloud with --tls-cert and --tls-key")


def _not_ours(first: bytes) -> BadMagicError:
    if first.startswith(_TLS_HANDSHAKE):
        return unexpected_tls()
    if first == _HTTP2_FIRST:
        return BadMagicError("HTTP/2 on a port without gRPC: use the port of --grpc-port")
    return BadMagicError(f"not this protocol: the first bytes are {first!r}")
