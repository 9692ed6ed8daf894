"""Messages between a process and a child of its own that computes: plain data and arrays, checked on both sides.

header_len u32   payload_len u64   header (a pickle of plain data, net.plain_pickle)   payload (the arrays)
"""

import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecloud.net import plain_pickle, tensors
from edgecloud.net.frames import Limits
from edgecloud.net.tensors import Array
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import PeerClosedError, ProtocolError

_PREFIX = struct.Struct(">IQ")
HEADER_BYTES = 1 << 20
MOST_TENSORS = 4096


def send(
    sock: socket.socket, header: dict[str, Any], arrays: Sequence[Array] = (), deadline: Deadline | None = None
) -> None:
    """Send one message. Raises OSError, and DeadlineError where that comes before."""
    described, buffers = tensors.describe(arrays) if arrays else ({}, [])
    raw = plain_pickle.dumps(header | described)
    prefix = _PREFIX.pack(len(raw), sum(buffer.nbytes for buffer in buffers))
    for part in (memoryview(prefix + raw), *buffers):
        _limit(sock, deadline)
        sock.sendall(part)


def receive(
    sock: socket.socket, most_bytes: int, deadline: Deadline | None = None
) -> tuple[dict[str, Any], list[Array]]:
    """Wait for one message with at most so many bytes of arrays. Raises OSError, DeadlineError, PeerClosedError and
    ProtocolError."""
    header_bytes, payload_bytes = _PREFIX.unpack(_exactly(sock, _PREFIX.size, deadline))
    if header_bytes > HEADER_BYTES or payload_bytes > most_bytes:
        raise ProtocolError("a message of a process that computes is too large")
    header = plain_pickle.loads(bytes(_exactly(sock, header_bytes, deadline)))
    payload = _exactly(sock, payload_bytes, deadline)
    if not isinstance(header, dict):
        raise ProtocolError("a header must be a dictionary")
    limits = Limits(payload_bytes=max(1, most_bytes), tensors=MOST_TENSORS)
    return header, tensors.view(header, payload, limits) if "tensors" in header else []


def _limit(sock: socket.socket, deadline: Deadline | None) -> None:
    sock.settimeout(None if deadline is None else deadline.remaining())


def _exactly(sock: socket.socket, count: int, deadline: Deadline | None) -> memoryview:
    data = np.empty(count, np.uint8).data
    done = 0
    while done < count:
        _limit(sock, deadline)
        got = sock.recv_into(data[done:])
        if not got:
            raise PeerClosedError("the process that computes has ended")
        done += got
    return data
