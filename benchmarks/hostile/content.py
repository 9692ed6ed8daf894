"""A6, A7, A11, A13: other protocols, pickles that run something, tensors that do not fit, bombs."""

import pickle
import struct
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.hostile.attacks import gadgets
from benchmarks.hostile.bombs import BOMBS
from benchmarks.hostile.site import QUICK, UNPACED, Row, provoke, site, soon, watched
from edgecloud.net import plain_pickle
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.messages import Error, Infer, from_header


def protocols(cache: Path) -> list[Row]:
    """A6: other protocols."""
    openings = {
        "HTTP GET": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "TLS ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "SSH banner": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        "plain pickle": struct.pack(">I", 28) + pickle.dumps("get_bandwidth"),
        "plain pickle without a length": pickle.dumps("get_bandwidth"),
    }
    short = {"HTTP/0.9": b"GET /\r\n", "short SSH banner": b"SSH-2.0-Go\r\n"}
    with site(cache, *UNPACED, *QUICK) as there:
        with watched(there, f"A6 {', '.join(openings)}") as long_row:
            for data in list(openings.values()) * 40:
                provoke(there, long_row, data, "BAD_MAGIC")
        with watched(there, f"A6 {', '.join(short)}: under the 20 bytes of a prefix") as short_row:
            for data in list(short.values()) * 3:
                provoke(there, short_row, data, "BAD_MAGIC")
    return [long_row, short_row]


def pickles(cache: Path) -> list[Row]:
    """A7: pickles that run something in an ordinary unpickler."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, site(cache, *UNPACED) as there:
        canary = Path(folder, "canary")
        traps = gadgets(canary)
        for is_connected in (False, True):
            when = "after HELLO, behind a good start" if is_connected else "before HELLO"
            name = f"A7 {len(traps)} gadgets, protocols 0 to 5, header of every message, {when}"
            with watched(there, name) as row:
                for trap in traps:
                    for protocol in range(6):
                        data = pickle.dumps(trap, protocol)
                        if is_connected:
                            data = plain_pickle._START + data.removeprefix(b"\x80" + bytes([protocol]))
                        for kind in FrameType:
                            frame = pack_prefix(kind, len(data), 0) + data
                            is_read = is_connected or kind in (FrameType.HELLO, FrameType.STATUS)
                            # what may not come before HELLO is refused before its header is read
                            provoke(
                                there, row, frame, "MALFORMED" if is_read else "PROTOCOL", is_connected=is_connected
                            )
                row.note = f"canary {'CREATED' if canary.exists() else 'absent'}"
                row.right *= not canary.exists()
            rows.append(row)
    return rows


def shapes(cache: Path) -> list[Row]:
    """A11: tensors that are not those of the cut, or no tensors."""
    fit = "A11 requests that do not fit: the connection goes on"
    with site(cache, *UNPACED) as there:
        with watched(there, fit) as row, closing(there.handshake()) as connection:
            for layers, sizes in UNFIT * 20:
                began = time.monotonic()
                connection.send(Infer(1, layers, 30.0), soon(), [np.zeros(size, np.float32) for size in sizes])
                frame = connection.receive(soon())
                code = from_header(Error, frame.header).code if frame.kind is FrameType.ERROR else frame.kind.name
                row.count(code, ["BAD_REQUEST"], time.monotonic() - began)
            row.survived, row.checks = row.survived + there.ask(connection), row.checks + 1
        with watched(there, f"A11 {len(LIES)} descriptions that lie: refused and closed, or refused") as lying:
            for tensors, buffers, payload in LIES * 20:
                fields = {"id": 1, "layers": [[1, 13]], "deadline_s": 30.0, "tensors": tensors, "buffers": buffers}
                header = plain_pickle.dumps(fields)
                data = pack_prefix(FrameType.INFER, len(header), len(payload)) + header + payload
                provoke(there, lying, data, *REFUSALS, is_connected=True)
    return [row, lying]


REFUSALS = ("PROTOCOL", "TOO_LARGE", "MALFORMED", "BAD_REQUEST", "BAD_REQUEST OPEN")
PICTURE = (1, 1, 28, 28)
UNFIT: list[tuple[list[list[int]], list[tuple[int, ...]]]] = [
    ([[1, 99]], [PICTURE]),
    ([[0, 3]], [PICTURE]),
    ([[1, 13]], []),
    ([[1, 13]], [PICTURE] * 2),
    ([[1, 13]], [(1, 1, 28, 29)]),
    ([[1, 13]], [(2, 1, 28, 28)]),
    ([[1, 13]], [(1, 1, 14, 56)]),
    ([[3, 13]], [PICTURE]),
    ([], []),
    ([[1, 13]] * 500, [PICTURE]),
    ([[5, 8], [1, 3]], [PICTURE]),
    ([[1, 13]], [PICTURE] * 60),
]
BYTES = bytes(4 * 784)


def _lie(shape: object, dtype: object = "float32", codec: object = "raw", buffer: object = 0) -> list[object]:
    return [(dtype, shape, codec, buffer)]


LIES: list[tuple[list[object], list[int], bytes]] = [
    *((_lie(shape), [len(BYTES)], BYTES) for shape in ((), (0,), (-1,), (1,) * 9, (1 << 32, 1 << 32), (784, -1, -1))),
    *((_lie(shape), [len(BYTES)], BYTES) for shape in ((1, 1, 28, 29), (1 << 62, 4), [1, 1, 28, 28], (1.0, 784), "x")),
    *((_lie(PICTURE, dtype), [len(BYTES)], BYTES) for dtype in ("float16", "int32", "object", "O", "V8", 7)),
    *((_lie(PICTURE, codec=codec), [len(BYTES)], BYTES) for codec in ("", "gzip", "zstd", "int8", "fp16", 1)),
    *((_lie(PICTURE, buffer=buffer), [len(BYTES)], BYTES) for buffer in (1, -1, 1 << 62, "0")),
    *((_lie(PICTURE), sizes, BYTES) for sizes in ([len(BYTES) - 1], [-1], [1 << 62], [], [len(BYTES), 0])),
    (_lie((1,)) * 65, [0] * 65, b""),
    (_lie((1,)) * 4000, [4], bytes(4)),
    ([None], [len(BYTES)], BYTES),
    ([("float32",)], [len(BYTES)], BYTES),
]


def bombs(cache: Path) -> list[Row]:
    """A13: zstd that decompresses to more than it should, or says so."""
    rows = []
    with site(cache, *UNPACED) as there:
        for name, is_fit in (
            ("described as the 3 KB that le_net reads", True),
            ("described by sizes of their own", False),
        ):
            with watched(there, f"A13 {len(BOMBS)} zstd frames in INFERs, {name}") as row:
                for _, size, buffer, _ in BOMBS * 5:
                    tensors = [("float32", PICTURE, "zstd", 0)] if is_fit else [("uint8", (size,), "zstd", 0)]
                    fields = {"id": 1, "layers": [[1, 13]], "deadline_s": 30.0}
                    header = plain_pickle.dumps(fields | {"tensors": tensors, "buffers": [len(buffer)]})
                    data = pack_prefix(FrameType.INFER, len(header), len(buffer)) + header + buffer
                    provoke(there, row, data, *REFUSALS, is_connected=True)
                largest = max(len(buffer) for _, _, buffer, _ in BOMBS) / 1e6
                row.note = f"payloads of at most {largest:.1f} MB" + (
                    "" if is_fit else "; honest ones decompress to 16.8 MB"
                )
            rows.append(row)
    return rows
