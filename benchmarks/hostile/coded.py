"""A17: entropy-coded tensors and tables that lie, are cut off or were changed at random."""

import math
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.hostile.site import UNPACED, Row, site, soon, watched
from edgecloud.engine import tables
from edgecloud.net import codec, entropy
from edgecloud.net.codec import Encoded
from edgecloud.net.encodings import Array
from edgecloud.net.entropy import EntropyCodec
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Error, Infer, from_header
from edgecloud.net.sides import Side
from edgecloud.utils.errors import ProtocolError

SHAPE = (1, 16, 5, 5)  # of what le_net's layers from the first linear one on read
LAYERS = [[7, 13]]
ON_THE_WIRE, MUTATED, MUTATED_TABLES = 400, 100_000, 20_000
REFUSED = ("PROTOCOL", "BAD_REQUEST")


def features(count: int) -> list[Array]:
    """Tensors of that shape."""
    rng = np.random.default_rng(0)
    return [np.maximum(rng.normal(0, 2, SHAPE), 0).astype(np.float32) for _ in range(count)]


def changed(data: bytes, rng: np.random.Generator) -> bytes:
    """A third of them cut off; some bytes of all are others."""
    end = int(rng.integers(1, len(data) + 1)) if rng.random() < 0.33 else len(data)
    other = bytearray(data[:end])
    for _ in range(rng.integers(1, 6)):
        other[rng.integers(len(other))] = rng.integers(256)
    return bytes(other)


def coded(cache: Path) -> list[Row]:
    """A17: on the wire, and 10^5 in this process, where every one is decoded."""
    made = features(20)
    good = entropy.parse(tables.find(made, 6).side)
    packed = good.encode(made[0])
    return [_on_the_wire(cache, good, packed), *_here(good, packed)]


def _on_the_wire(cache: Path, good: EntropyCodec, packed: bytes) -> Row:
    rng = np.random.default_rng(1)
    name = f"A17 {ON_THE_WIRE} INFERs with changed tables or entropy-coded tensors: refused, or answered"
    with site(cache, *UNPACED) as there, watched(there, name) as row:
        for number in range(ON_THE_WIRE):
            is_table = number % 2 == 0
            side = Side("ec6", changed(good.side.data, rng)) if is_table else good.side
            data = memoryview(packed if is_table else changed(packed, rng))
            one = Encoded("float32", SHAPE, "ec6", (data,), EntropyCodec(side, good.tables))
            request = Infer(1, LAYERS, 30.0, sides=f"ec6:{side.digest}")
            with closing(there.handshake()) as connection:
                began = time.monotonic()
                connection.send(request, soon(), [one, np.frombuffer(side.data, np.uint8)])
                frame = connection.receive(soon())
                code = from_header(Error, frame.header).code if frame.kind is FrameType.ERROR else frame.kind.name
                row.count(code, (*REFUSED, "RESULT"), time.monotonic() - began)
    return row


def _here(good: EntropyCodec, packed: bytes) -> list[Row]:
    rng = np.random.default_rng(2)
    data = Row(f"A17 {MUTATED} changed entropy-coded tensors, in this process")
    ends = Row(f"A17 an entropy-coded tensor cut off at every of its {len(packed)} bytes, in this process")
    changes = Row(f"A17 {MUTATED_TABLES} changed tables, in this process")
    for _ in range(MUTATED):
        _decode(good, changed(packed, rng), data)
    for end in range(len(packed)):
        _decode(good, packed[:end], ends)
    for _ in range(MUTATED_TABLES):
        side = Side("ec6", changed(good.side.data, rng))
        try:
            parsed = codec.KINDS["ec6"](side)
        except ProtocolError:
            changes.count("refused", ("refused",))
            continue
        assert isinstance(parsed, EntropyCodec)
        _decode(parsed, packed, changes)
    for row in (data, ends, changes):
        row.survived, row.checks = 1, 1
    return [data, ends, changes]


def _decode(one: EntropyCodec, data: bytes, row: Row) -> None:
    began = time.perf_counter()
    try:
        one.check("float32", SHAPE, memoryview(data))
        array = one.decode("float32", SHAPE, memoryview(data))
    except ProtocolError:
        found = "refused"
    else:
        is_bounded = array.shape == SHAPE and array.size == math.prod(SHAPE) and bool(np.isfinite(array).all())
        found = "finite numbers of the shape" if is_bounded else "other numbers"
    row.count(found, ("refused", "finite numbers of the shape"), time.perf_counter() - began)
