"""Good examples are accepted by their target: what fuzzers start from."""

import numpy as np

from benchmarks.hostile.attacks import encode
from benchmarks.hostile.http2_frames import Flag, Kind, Setting, called, data_of, listed, pack, said
from edgecloud.engine import tables
from edgecloud.net import codec as codecs
from edgecloud.net import entropy, learned_file, plain_pickle, tensors
from edgecloud.net.calls import HEALTH_PATH
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.messages import Chunk, to_header
from tests import learned
from tests.fuzz.targets import CODED_SHAPE, LEARNED_SHAPE
from tests.net.test_frames import MESSAGES
from tests.net.test_http2 import TAKEN

_HEADERS = [plain_pickle.dumps(to_header(message)) for message in MESSAGES]
_ARRAYS: list[list[tensors.Array]] = [
    [np.arange(6, dtype=np.float32).reshape(1, 6)],
    [np.zeros(4, np.uint8), np.ones((2, 2))],
]


def _with_payload(arrays: list[tensors.Array]) -> bytes:
    """A byte that says how long the payload is, the payload, the header."""
    described, buffers = tensors.describe(arrays)
    data = b"".join(buffers)
    return bytes([len(data) // 4]) + data + plain_pickle.dumps(described)


def _with_side(side: bytes, packed: bytes) -> bytes:
    """Two bytes that say how long the side of a codec is, the side, what it packed."""
    return len(side).to_bytes(2, "little") + side + packed


def _coded() -> bytes:
    array = np.random.default_rng(1).normal(size=CODED_SHAPE).astype(np.float32)
    found = tables.find([array], 4)
    return _with_side(found.to_bytes(), entropy.parse(found.side).encode(array))


def _learned() -> bytes:
    array = np.random.default_rng(2).normal(size=LEARNED_SHAPE).astype(np.float32)
    file = learned.map_file()
    return _with_side(file, learned_file.read(file).encode(array))


def _chunk(codec: str) -> bytes:
    array = np.arange(16, dtype=np.float32).reshape(1, 2, 2, 4)
    return encode(Chunk(1, 0, 2), [codecs.encode(array, codec)])


_CALLED = called()
_DATA, _PING = data_of(b"a piece of a frame"), pack(Kind.PING, 0, 0, bytes(8))
_HEADERS_OF = {Flag.END_HEADERS: TAKEN, Flag.END_HEADERS | Flag.END_STREAM: [(b"grpc-status", b"0")]}
_ANSWER, _OVER = (pack(Kind.HEADERS, flags, 1, listed(headers)) for flags, headers in _HEADERS_OF.items())
_TAKEN = said([(Setting.MAX_FRAME_SIZE, 1 << 20)]) + _ANSWER

SEEDS: dict[str, list[bytes]] = {
    "prefix": [pack_prefix(kind, 120, 8 if kind is FrameType.INFER else 0) for kind in FrameType],
    "header": [*_HEADERS, plain_pickle.dumps({"a": [1, 2.5, None, True, "x", b"y", (1, 2)], "b": {"a": -1}})],
    "messages": _HEADERS,
    "payload": [_with_payload(arrays) for arrays in _ARRAYS],
    "coded": [_coded()],
    "learned": [_learned()],
    "chunk": [
        *map(_chunk, ("raw", "zstd", "fp16", "int8c+zstd")),
        encode(Chunk(1, 1, 0), [np.zeros((1, 10), np.float32)]),
    ],
    "service": [_CALLED, _CALLED + _DATA + _PING, called(HEALTH_PATH)],
    "caller": [_TAKEN, _TAKEN + _DATA + _PING + pack(Kind.WINDOW_UPDATE, 0, 1, bytes([0, 0, 1, 0])) + _OVER],
}
