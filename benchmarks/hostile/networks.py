"""A19: networks that mean harm, sent to a cloud that takes networks, and 10,000 broken offers, heads and pieces."""

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import legitimate_edge
from benchmarks.hostile import sent
from benchmarks.hostile.attacks import encode
from benchmarks.hostile.site import HOST, UNPACED, Row, Site, site, soon, watched
from benchmarks.noise import Versus
from edgecloud.client.shipping import Shipping
from edgecloud.models import bundle
from edgecloud.net import plain_pickle
from edgecloud.net.connection import connect
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.messages import Offer, Piece, Want, from_header, to_header
from edgecloud.utils.errors import AppError
from tests.fuzz.targets import mutate
from tests.hostile_onnx import hostile

MUTATED, MUTATED_GRAPHS = 10_000, 40
BLOCK_S, BLOCKS = 8.0, 3
MOST_RATIO = 1.2
DEADLINE_S = 30.0


def networks(cache: Path) -> list[Row]:
    """A19, with Python as it is and with -O."""
    canary, rows = cache / "canary", list[Row]()
    for optimize in ("", "1"):
        store = str(cache / f"store{optimize}")
        flags = ("--accept-networks", "--network-store", store, "--load-budget", "60min", *UNPACED)
        name = "A19 networks by hand" + (", python -O" if optimize else "")
        with site(cache, *flags, optimize=optimize) as there:
            with watched(there, name) as row:
                _by_hand(there, row, cache, canary, every=3 if optimize else 1)
                row.count("canary there" if canary.exists() else "no canary", ["no canary"])
                rows.append(row)
            with watched(there, name.replace("by hand", "mutated")) as row:
                _mutated(there, row, cache, MUTATED // 2)
                rows.append(row)
            if not optimize:
                with watched(there, "A19 p95 of another edge beside them") as row:
                    _beside(there, row, cache)
                    rows.append(row)
    return rows


def _refusal(there: Site, path: Path, raw: bytes) -> str:
    """How the cloud ends an attempt to send a bundle."""
    shipping = Shipping(there.address, there.token, None, {"it": lambda _: sent.parcel_of(path, raw)})
    asked = AppError("refused")
    asked.accepts = 1 << 40
    shipping.takes(asked, "it")
    shipping.wait(300)
    progress = shipping.progress
    return "nothing" if progress is None else progress.state


def by_hand(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Graphs written by hand, and headers that lie."""
    for name, (model, _) in hostile().items():
        yield name, sent.packed(model)
    good = next(iter(hostile().values()))[0]
    for name, change in _headers(canary).items():
        yield name, sent.packed(good, change=change)
    yield "no ONNX at all", sent.packed(b"")
    yield "random ONNX", sent.packed(random.Random(1).randbytes(5000))
    yield "an answer of a terabyte", sent.packed(good, sent.content_of(shape=(1, 1 << 20, 1 << 18)))


def _headers(canary: Path) -> dict[str, dict[str, Any]]:
    layer = {"id": "y", "kind": "layer", "inputs": ["x"], "out_bytes": 192, "out_shape": [1, 3, 4, 4]}
    first = {"id": "x", "kind": "input", "inputs": [], "out_bytes": 192, "out_shape": [1, 3, 4, 4]}
    graph = {"layers": [first, layer], "outputs": ["y"]}
    array = {"name": "example input", "dtype": "float32", "shape": [1, 3, 4, 4], "offset": 0, "bytes": 192}
    return {
        "negative shape": {"graph": graph | {"layers": [first, layer | {"out_shape": [-1, 3]}]}},
        "cycle": {"graph": {"layers": [first, layer | {"inputs": ["y"]}], "outputs": ["y"]}},
        "duplicate layers": {"graph": {"layers": [first, layer, layer], "outputs": ["y"]}},
        "100,000 layers": {"graph": {"layers": [first, *[layer] * 100_000], "outputs": ["y"]}},
        "path as a tensor": {"tensors": ["x", str(canary)]},
        "overlapping blobs": {"arrays": [array | {"sha256": "0" * 64}]},
        "blob outside": {"arrays": [array | {"offset": 1 << 60, "sha256": "0" * 64}]},
        "blob of 2^62": {"onnx": {"offset": 0, "bytes": 1 << 62, "sha256": "0" * 64}},
        "no digest": {"onnx": {"offset": 0, "bytes": 64, "sha256": "../../etc/passwd"}},
        "lists all the way down": {"input": json.loads("[" * 200 + "]" * 200)},
        "name with escapes": {"network": {"name": "\u001b[2J../../x", "weights": "", "graph": ""}},
    }


def _by_hand(there: Site, row: Row, folder: Path, canary: Path, every: int) -> None:
    for name, raw in list(by_hand(canary))[::every]:
        began = time.monotonic()
        found = _refusal(there, folder / "hostile.bundle", raw)
        row.count(f"{name}: {found}" if found != "refused" else found, ["refused"], time.monotonic() - began)


def _mutated(there: Site, row: Row, folder: Path, count: int) -> None:
    """Offers, heads with a right digest, and pieces, broken; and some graphs, which a child looks at."""
    rng, good = random.Random(count), sent.packed(next(iter(hostile().values()))[0])
    parcel = sent.parcel_of(folder / "good.bundle", good)
    offer = Offer(there.token, "it", parcel.digest, parcel.head_bytes, parcel.bytes)
    frames = [encode(offer, []), _piece(0, good[: parcel.head_bytes])]
    ends: Counter[str] = Counter()
    for number in range(count):
        began = time.monotonic()
        if number % 2:
            data = mutate(rng, frames) + mutate(rng, frames)
        else:
            broken = _broken_head(rng, good, parcel.head_bytes)
            other = sent.parcel_of(folder / "broken.bundle", broken)
            data = encode(Offer(there.token, "it", other.digest, other.head_bytes, other.bytes), [])
            data += _piece(0, broken[: other.head_bytes])
        found = _end_of(there, data)
        ends[found] += 1
        row.count(found, EXPECTED, time.monotonic() - began)
    made = [model for model, _ in hostile().values() if len(model) < 5000]
    for _ in range(MUTATED_GRAPHS // 2):
        row.count(_refusal(there, folder / "hostile.bundle", sent.packed(mutate(rng, made))), ["refused", "ready"])
    row.note = ", ".join(f"{number} x {end}" for end, number in ends.most_common(5))


REFUSED = ("PROTOCOL", "MALFORMED", "TOO_LARGE", "BAD_MAGIC", "VERSION", "BAD_REQUEST", "BUSY", "CLOSED")
EXPECTED = (*REFUSED, "closed", "WANT")


def _piece(offset: int, data: bytes) -> bytes:
    header = plain_pickle.dumps(to_header(Piece(offset)))
    return pack_prefix(FrameType.PIECE, len(header), len(data)) + header + data


def _broken_head(rng: random.Random, good: bytes, head_bytes: int) -> bytes:
    """A header with another text in it, and the digest of that."""
    text = mutate(rng, [good[bundle.PREFIX_BYTES : head_bytes]])
    digest = hashlib.sha256(text).digest()
    return bundle._PREFIX.pack(bundle.MAGIC, bundle.VERSION, len(text), digest) + text + good[head_bytes:]


def _end_of(there: Site, data: bytes) -> str:
    """What the cloud says last to some bytes."""
    last = "closed"
    with closing(connect(HOST, there.address[1], 5.0)) as connection:
        try:
            connection.sock.sendall(data)
            connection.sock.shutdown(1)
            while True:
                frame = connection.receive(soon())
                if frame.kind is FrameType.ERROR:
                    return str(frame.header.get("code"))
                from_header(Want, frame.header)
                last = "WANT"
        except (AppError, OSError):
            return last


def _beside(there: Site, row: Row, folder: Path) -> None:
    """A legitimate edge, by turns alone and beside hostile networks that are sent without pause."""
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(BLOCKS):
        alone.append(_p95(there))
        with _attacking(there, folder):
            beside.append(_p95(there))
    ratio = float(np.median(beside) / np.median(alone))
    row.count("p95 in time" if ratio <= MOST_RATIO else f"p95 {ratio:.2f} x", ["p95 in time"])
    told = f"p95 {np.median(alone) * 1e3:.2f} ms alone, {np.median(beside) * 1e3:.2f} ms beside"
    row.note = f"{told}: {Versus.of(beside, alone)} x"
    there.check(row)


def _p95(there: Site) -> float:
    figures = legitimate_edge.figures(legitimate_edge.start(there.cloud.port, "le_net", 0, BLOCK_S, DEADLINE_S))
    return figures.p95_s


@contextmanager
def _attacking(there: Site, folder: Path) -> Iterator[None]:
    over = threading.Event()

    def attack(send: Callable[[], object]) -> None:
        while not over.is_set():
            send()

    models = [model for model, _ in hostile().values() if len(model) < 5000]
    rng = random.Random(5)
    path = folder / "attack.bundle"
    thread = threading.Thread(
        target=attack, args=(lambda: _refusal(there, path, sent.packed(mutate(rng, models))),), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
