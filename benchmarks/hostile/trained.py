"""A18: learned codecs: payloads that are not theirs, sent to a cloud that has one, and files that are not right."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.hostile.site import UNPACED, Row, Site, build, provoke, site, watched
from edgecloud.net import learned_file, plain_pickle
from edgecloud.net.codec import CodecError
from edgecloud.net.frames import FrameType, pack_prefix
from edgecloud.net.learned_file import About, BadFileError, LearnedCodec
from edgecloud.tools.autoencoder import Autoencoder, Design
from edgecloud.tools.bottleneck import Cut
from edgecloud.utils.errors import ProtocolError

POINT = 3
MUTATED = 100_000
SENT = 300
REFUSALS = ("PROTOCOL", "TOO_LARGE", "MALFORMED", "BAD_REQUEST", "BAD_REQUEST OPEN")


def learned(cache: Path) -> list[Row]:
    """Through sockets, and in this process as many more as there is time for."""
    content, tensor = made()
    path = cache / "hostile.codec"
    path.write_bytes(content)
    codec = learned_file.read(content)
    payload = codec.encode(tensor)
    what = f"A18 {SENT} payloads of a learned codec: truncated, changed, of other shapes"
    with site(cache, *UNPACED, "--codec-file", str(path)) as there, watched(there, what) as row:
        for shape, damaged in sent(codec, payload):
            provoke(there, row, frame(there, codec.side.wire_name, shape, damaged), *REFUSALS, is_connected=True)
    return [row, decoded(codec, payload), files(content)]


def made() -> tuple[bytes, np.ndarray]:
    """The file of a codec of le_net that was not trained, and a tensor for it."""
    network = build("le_net")
    cut = Cut.of(network, network.graph.points[POINT])
    x = network.example.array
    tensors = torch.cat([cut.before(np.roll(x, n, 3)) for n in range(8)])
    design = Design.of(cut.shape)
    codec = Autoencoder(design, tensors, torch.ones_like(tensors[:1]))
    encoder, decoder = ((each[0],) for each in (design.encoder, design.decoder))
    layer, graph = network.graph.layers[cut.point.layer].id, network.graph
    texts = ("hostile", graph.name, graph.digest, network.weights.digest, layer, POINT)
    about = About(*texts, design.shape, design.is_flat, design.limit, encoder, decoder, 100, 0, 9, 8, "here")
    return learned_file.write(about, codec.arrays(tensors)), tensors[:1].numpy()


def frame(there: Site, name: str, shape: tuple[int, ...], payload: bytes) -> bytes:
    """A request for what is behind the cut."""
    layers = len(there.network.graph.layers)
    tensors = [("float32", shape, name, 0)]
    fields = {"id": 1, "layers": [[POINT + 1, layers]], "deadline_s": 30.0}
    header = plain_pickle.dumps(fields | {"tensors": tensors, "buffers": [len(payload)]})
    return pack_prefix(FrameType.INFER, len(header), len(payload)) + header + payload


def sent(codec: LearnedCodec, payload: bytes) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Payloads that are not right, with the shape that is said to be theirs: others get an answer."""
    shape, rng, count = codec.about.shape, np.random.default_rng(0), 4
    yield from (((1, 6, 14, 15), payload), ((2, *shape[1:]), payload), ((1, 1), payload), (shape, bytes(1 << 20)))
    while count < SENT:
        damaged = payload[: count % len(payload)] if count % 2 else mutated(payload, rng)
        if not is_decoded(codec, damaged):
            yield shape, damaged
            count += 1
        elif count % 2:
            count += 1


def is_decoded(codec: LearnedCodec, payload: bytes) -> bool:
    """Whether a tensor of finite numbers comes of it; else it is refused."""
    shape, buffer = codec.about.shape, memoryview(payload)
    try:
        codec.check("float32", shape, buffer)
        made = codec.decode("float32", shape, buffer)
    except ProtocolError:
        return False
    if made.shape != shape or not np.isfinite(made).all():
        raise ValueError("a payload was decoded to what is no tensor of the codec")
    return True


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, taken out or put in."""
    made = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(made)))
        what = rng.integers(4)
        if what == 0 and len(made) > 1:
            del made[place]
        elif what == 1:
            made.insert(place, int(rng.integers(256)))
        else:
            made[place] ^= int(rng.integers(1, 256))
    return bytes(made)


def decoded(codec: LearnedCodec, payload: bytes) -> Row:
    """Payloads in this process."""
    row, rng = Row(f"A18 {MUTATED} mutated payloads, in one process"), np.random.default_rng(1)
    for _ in range(MUTATED):
        damaged, began = mutated(payload, rng), time.monotonic()
        end = "tensor" if is_decoded(codec, damaged) else "refused"
        row.count(end, ["tensor", "refused"], time.monotonic() - began)
    return row


def files(content: bytes) -> Row:
    """Files in this process, most of them changed in their header: refused, or a codec that works."""
    row, rng = Row(f"A18 {MUTATED // 10} mutated files, in one process"), np.random.default_rng(2)
    header = 8 + int.from_bytes(content[:8], "little")
    for number in range(MUTATED // 10):
        place = header if number % 10 else len(content)
        damaged, began = mutated(content[:place], rng) + content[place:], time.monotonic()
        row.count(end_of(damaged), ["codec", "refused"], time.monotonic() - began)
    return row


def end_of(content: bytes) -> str:
    """What becomes of a file."""
    try:
        codec = learned_file.read(content)
        shape = codec.about.shape
        buffer = memoryview(codec.encode(np.ones(shape, np.float32)))
        codec.check("float32", shape, buffer)
        return "codec" if np.isfinite(codec.decode("float32", shape, buffer)).all() else "wrong"
    except (BadFileError, CodecError, ProtocolError):
        return "refused"
