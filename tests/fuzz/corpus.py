"""Good examples are accepted by their target: what fuzzers start from."""

import numpy as np

from edgecloud.net import plain_pickle, tensors
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.messages import to_header
from tests.net.test_frames import MESSAGES

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


SEEDS: dict[str, list[bytes]] = {
    "prefix": [pack_prefix(kind, 120, 8 if kind is FrameType.INFER else 0) for kind in FrameType],
    "header": [*_HEADERS, plain_pickle.dumps({"a": [1, 2.5, None, True, "x", b"y", (1, 2)], "b": {"a": -1}})],
    "messages": _HEADERS,
    "payload": [_with_payload(arrays) for arrays in _ARRAYS],
}
