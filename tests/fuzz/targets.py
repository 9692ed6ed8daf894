"""Garbage gives what the specification allows or a protocol error, and nothing else: the pure parts of the wire.

A target takes any bytes. It returns whether they were accepted, and raises where the invariant does not hold.
"""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from edgecloud.models.graph import Layer
from edgecloud.net import calls, entropy, http2, learned_file, plain_pickle, tensors
from edgecloud.net.connection import Frame
from edgecloud.net.frames import PREFIX_BYTES, FrameType, Limits, parse_prefix
from edgecloud.net.messages import (
    Chunk,
    Error,
    Hello,
    Infer,
    Message,
    Move,
    Offer,
    Piece,
    Probe,
    Probed,
    Proof,
    Ready,
    Result,
    State,
    Status,
    Want,
    from_header,
    to_header,
)
from edgecloud.net.sides import Held, Side, SidedCodec
from edgecloud.net.tensors import Array
from edgecloud.server.arriving import Arrivals, Arriving, Whole
from edgecloud.server.requests import RequestError
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ConnectError, ProtocolError

LIMITS = Limits(payload_bytes=1 << 20)
PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict)
KINDS: tuple[type[Any], ...] = (
    Hello,
    Ready,
    Infer,
    Result,
    Probe,
    Probed,
    Error,
    Status,
    State,
    Offer,
    Want,
    Piece,
    Proof,
    Move,
    Chunk,
)

Target = Callable[[bytes], bool]


def prefix(data: bytes) -> bool:
    """20 bytes are a prefix within the limits, or refused."""
    try:
        found = parse_prefix(data[:PREFIX_BYTES].ljust(PREFIX_BYTES, b"\0"), LIMITS)
    except ProtocolError:
        return False
    assert isinstance(found.kind, FrameType)
    assert 0 <= found.header_bytes <= LIMITS.header_bytes
    assert 0 <= found.payload_bytes <= LIMITS.payload_bytes
    return True


def header(data: bytes) -> bool:
    """Bytes are a tree of plain data that is no larger than they are, or refused."""
    try:
        value = plain_pickle.loads(data)
    except ProtocolError:
        return False
    assert count_plain(value) <= len(data)
    return True


def count_plain(value: Any) -> int:
    """Nodes of a tree; fails for anything that is not plain data."""
    assert type(value) in PLAIN, type(value)
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        return 1 + sum(map(count_plain, value.values()))
    return 1 + sum(map(count_plain, value)) if isinstance(value, list | tuple) else 1


def messages(data: bytes) -> bool:
    """A header is a message that can be written and read again, or refused, whatever kind it is taken for."""
    try:
        value = plain_pickle.loads(data)
    except ProtocolError:
        return False
    accepted = False
    for kind in KINDS:
        try:
            found: Message = from_header(kind, value)
        except ProtocolError:
            continue
        assert from_header(kind, to_header(found)) == found
        accepted = True
    return accepted


def payload(data: bytes) -> bool:
    """A header and a payload are arrays that lie within the payload, or refused."""
    length = data[0] * 4 if data else 0
    try:
        value = plain_pickle.loads(data[1 + length :])
        arrays = tensors.view(value if isinstance(value, dict) else {}, memoryview(data[1 : 1 + length]), LIMITS)
    except ProtocolError:
        return False
    assert sum(array.nbytes for array in arrays) <= max(length, 0)
    return bool(arrays)


CODED_SHAPE, LEARNED_SHAPE = (1, 3, 6, 8), (1, 2, 5, 7)


def coded(data: bytes) -> bool:
    """Tables and a payload are the tensor that was described, or refused."""
    side, packed = _two(data)
    try:
        array = _decoded(entropy.parse(Side("ec4", side)), CODED_SHAPE, packed)
    except ProtocolError:
        return False
    assert array.dtype == np.float32
    assert array.shape == CODED_SHAPE
    return True


def learned(data: bytes) -> bool:
    """The file of a learned codec and a payload are the tensor that was described, or refused."""
    file, packed = _two(data)
    try:
        array = _decoded(learned_file.read(file), LEARNED_SHAPE, packed)
    except (ProtocolError, learned_file.BadFileError):
        return False
    assert array.dtype == np.float32
    assert array.shape == LEARNED_SHAPE
    return True


def _exchange(end: http2.Exchange, data: bytes) -> bool:
    """What one end of a stream reads, in two pieces; it owes, keeps and takes no more than it may."""
    into = memoryview(bytearray(len(data)))
    half = len(data) // 2
    try:
        for part in (data[:half], data[half:]):
            end.feed(memoryview(part), 0.0)
            assert end.read(into) <= len(part)
            assert not end.has_bytes
    except (ProtocolError, ConnectError):
        return False
    finally:
        assert len(end.owed) <= http2.OWED_BYTES + http2.FRAME_BYTES // 16
        assert end.room < 1 << 31
    return end.failure is None


def service(data: bytes) -> bool:
    """What a client sends on the port of gRPC."""
    return _exchange(calls.Service(), data)


def caller(data: bytes) -> bool:
    """What a server answers to a call."""
    return _exchange(calls.Caller("cloud:1", is_secure=False), data)


def _decoded(codec: SidedCodec, shape: tuple[int, ...], packed: bytes) -> Array:
    codec.check("float32", shape, memoryview(packed))
    return codec.decode("float32", shape, memoryview(packed))


CHUNKED = (Layer("a", "k", (), 192, (1, 2, 6, 4)), Layer("b", "k", (), 40, (1, 10)))
CUTS = ((2, 2, 4, 6), (1, 10))


def chunk(data: bytes) -> bool:
    """A frame is the next chunk of a request of which one has come, or it is refused, with the request or without."""
    start = data[:PREFIX_BYTES]
    try:
        found = parse_prefix(start.ljust(PREFIX_BYTES, b"\0"), LIMITS)
        header_end = PREFIX_BYTES + found.header_bytes
        fields = plain_pickle.loads(data[PREFIX_BYTES:header_end])
    except ProtocolError:
        return False
    payload = memoryview(data[header_end : header_end + found.payload_bytes])
    if found.kind is not FrameType.CHUNK or payload.nbytes < found.payload_bytes:
        return False
    arrivals, whole, arriving = _arriving()
    frame = Frame(found.kind, fields, payload, LIMITS)
    try:
        arrivals.take(frame.read(Chunk), frame, Held({}))
    except (ProtocolError, RequestError):
        assert arriving.missing >= 2
        return False
    is_abandoned = arriving.future.done()
    assert arriving.missing == 2
    assert len(arrivals) == (not is_abandoned)
    assert not whole
    return not is_abandoned


def _arriving() -> tuple[Arrivals, list[Array], Arriving]:
    """A request of which one of four chunks has come; the list gets its tensors, once they are whole."""
    whole: list[Array] = []
    sink, deadline = Whole(CHUNKED, CUTS, whole.extend), Deadline.after(60.0, "the test")
    arrivals, arriving = Arrivals(), Arriving(1, "net", CHUNKED, CUTS, deadline, sink, Future())
    arrivals.begin(arriving)
    described, (buffer,) = tensors.describe([np.zeros((1, 2, 2, 4), np.float32)])
    first = to_header(Chunk(1, 0, 0)) | described
    frame = Frame(FrameType.CHUNK, plain_pickle.loads(plain_pickle.dumps(first)), buffer, LIMITS)
    arrivals.take(frame.read(Chunk), frame, Held({}))
    return arrivals, whole, arriving


def _two(data: bytes) -> tuple[bytes, bytes]:
    """What follows two bytes that tell the length of the first, as far as there is so much."""
    end = 2 + int.from_bytes(data[:2], "little")
    return data[2:end], data[end:]


TARGETS: dict[str, Target] = {
    "prefix": prefix,
    "header": header,
    "messages": messages,
    "payload": payload,
    "coded": coded,
    "learned": learned,
    "chunk": chunk,
    "service": service,
    "caller": caller,
}


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Random bytes, or a good example with bits flipped, bytes cut out, doubled or replaced."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        where = rng.randrange(len(data)) if data else 0
        end = min(len(data), where + rng.randrange(1, 9))
        choice = rng.randrange(4)
        if choice == 0 and data:
            data[where] ^= 1 << rng.randrange(8)
        elif choice == 1:
            del data[where:end]
        elif choice == 2:
            data[where:where] = data[where:end]
        else:
            data[where:end] = rng.randbytes(end - where)
    return bytes(data)
