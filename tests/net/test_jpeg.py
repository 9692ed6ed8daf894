"""Pictures as JPEG: close to what they were, only where a cloud is told to take them, and no file of a stranger's does
more than be refused."""

import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecloud import tasks_edge_api
from edgecloud.client.subprocesses import codec_flags
from edgecloud.engine import calibration
from edgecloud.engine.calibration import Calibration, Tried
from edgecloud.engine.packing import codec_policy_of, packing_of
from edgecloud.models import inputs, registry
from edgecloud.models.graph import INPUT
from edgecloud.net import codec, tensors
from edgecloud.net.codec import CODECS, NAMES, STANDARD, CodecError
from edgecloud.net.encodings import Array
from edgecloud.net.frames import Limits, TooLargeError
from edgecloud.net.jpeg import MAX_HEAD_BYTES, MAX_PIXELS, QUALITY, Jpeg
from edgecloud.net.messages import Infer
from edgecloud.net.pixels import NORMALISATIONS
from edgecloud.utils.errors import AppError, ProtocolError
from tests.conftest import ROOT, CallEdge, CloudProcess, at, call, many, running_cloud
from tests.server.test_hostile import greet, hello_of, soon

TAKING = Limits(more_codecs=frozenset({"jpeg"}))
SIDE = 48
SHAPE = (1, 3, SIDE, SIDE)
PARAMETERS = b"".join(np.resize(np.array(each, "<f4"), 3).tobytes() for each in NORMALISATIONS[1])


def picture_of(pixels: Array) -> Array:
    """As a network gets it, from shape (C, H, W)."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    means, stds = NORMALISATIONS[1 if len(pixels) == 3 else 0]
    picture: Array = ((scaled - np.array(means, "f4")[:, None, None]) / np.array(stds, "f4")[:, None, None])[None]
    return picture


def sample(name: str) -> Array:
    entry = registry.lookup(name)
    return np.asarray(inputs.sample(entry.sample, entry.preprocess).tensor)


def read(file: bytes, shape: tuple[int, ...] = SHAPE, limits: Limits = TAKING) -> Array:
    """What a cloud makes of a file."""
    buffer = PARAMETERS[: 8 * shape[1]] + file
    header = {"tensors": [("float32", shape, "jpeg", 0)], "buffers": [len(buffer)]}
    return tensors.view(header, memoryview(buffer), limits)[0]


def file_of(side: int = SIDE, mode: str = "RGB", **options: Any) -> bytes:
    """A file as Pillow writes it, of a ramp with some noise in it."""
    rows, columns = np.mgrid[0:side, 0:side]
    noise = np.random.default_rng(1).integers(0, 40, (side, side))
    pixels = np.stack([4 * rows, 4 * columns, noise + rows], axis=-1).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(
        written, "JPEG", **{"quality": QUALITY, "subsampling": "4:2:0"} | options
    )
    return written.getvalue()


GOOD = file_of()


def segments(file: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, beginning and end of everything before the scan's data."""
    position = 2
    while file[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(file[position + 2 : position + 4], "big")
        yield file[position + 1], position, end
        position = end
    yield 0xDA, position, position + 2 + int.from_bytes(file[position + 2 : position + 4], "big")


def place_of(marker: int, file: bytes = GOOD) -> tuple[int, int]:
    return next((start, end) for kind, start, end in segments(file) if kind == marker)


def changed(at_byte: int, new: bytes, file: bytes = GOOD) -> bytes:
    return file[:at_byte] + new + file[at_byte + len(new) :]


# --- what comes back


@pytest.mark.parametrize(("name", "worst_mean"), [("alex_net", 4.0), ("le_net", 2.0)])
def test_a_picture_comes_back_close_and_small(name: str, worst_mean: float) -> None:
    picture = sample(name)
    packed = codec.encode(picture, "jpeg")
    back = codec.decode(packed)
    assert (back.dtype, back.shape) == (picture.dtype, picture.shape)
    scale = np.resize(np.array(NORMALISATIONS[1 if picture.shape[1] == 3 else 0][1]), picture.shape[1])
    levels = np.abs(back - picture) * scale[:, None, None] * 255
    assert 0 < levels.mean() < worst_mean  # of 255
    if name == "alex_net":
        assert 20 * packed.nbytes < picture.nbytes
        assert 3 * packed.nbytes < codec.encode(picture, "pixels+zstd").nbytes


@pytest.mark.parametrize("sides", [(1, 1), (1, 33), (7, 5), (8, 8), (17, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_sides_need_no_be_multiples_of_a_block(channels: int, sides: tuple[int, int]) -> None:
    flat = np.full((channels, *sides), 77, np.uint8)
    picture = picture_of(flat)
    header, buffers = tensors.describe([codec.encode(picture, "jpeg")])
    (back,) = tensors.view(header, memoryview(b"".join(buffers)), TAKING)
    np.testing.assert_allclose(back, picture, atol=3 / 255 / 0.22)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 2, 8, 8), np.float32),
        np.zeros((1, 4, 8, 8), np.float32),
        np.zeros((2, 3, 8, 8), np.float32),
        np.zeros((3, 8), np.float32),
        np.zeros((1, 1, 1, 65_501), np.float32),
        np.full((1, 3, 8, 8), 0.123, np.float32),
        np.zeros((1, 3, 8, 8)),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_what_is_no_picture_is_not_carried(array: Array) -> None:
    with pytest.raises(CodecError):
        codec.encode(array, "jpeg")


def test_pillow_is_loaded_when_it_is_needed() -> None:
    code = "import sys, edgecloud.net.tensors, edgecloud.net.codec; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- what strangers send


def test_without_being_told_to_nobody_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jpeg, "check", None)  # it is not even looked at
    monkeypatch.setattr(Jpeg, "decompress", None)
    with pytest.raises(ProtocolError, match="unknown codec 'jpeg'"):
        read(GOOD, limits=Limits())
    assert "jpeg" not in STANDARD


def test_the_good_file_is_good() -> None:
    assert read(GOOD).shape == SHAPE
    assert sum(end - start for _, start, end in segments(GOOD)) < MAX_HEAD_BYTES


FRAME, SCAN, TABLE = place_of(0xC0)[0], place_of(0xDA)[0], place_of(0xDB)[0]
DATA = place_of(0xDA)[1]
COMMENT = b"\xff\xfe\x00\x06abcd"
HOSTILE = {
    "empty": b"",
    "only its ends": b"\xff\xd8\xff\xd9",
    "an end alone": b"\xff\xd8",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(90),
    "another size": file_of(SIDE + 1),
    "height 65535": changed(FRAME + 5, b"\xff\xff"),
    "65535 x 65535": changed(FRAME + 5, b"\xff\xff\xff\xff"),
    "height 0": changed(FRAME + 5, b"\0\0"),
    "12 bits": changed(FRAME + 4, b"\x0c"),
    "grey": file_of(mode="L"),
    "CMYK": file_of(mode="CMYK"),
    "4:4:4": file_of(subsampling="4:4:4"),
    "huge sampling": changed(FRAME + 11, b"\x44"),
    "components R G B": changed(FRAME + 10, b"R"),
    "progressive": file_of(progressive=True),
    "progressive by name": changed(FRAME + 1, b"\xc2"),
    "arithmetic by name": changed(FRAME + 1, b"\xc9"),
    "lossless by name": changed(FRAME + 1, b"\xc3"),
    "restarts": file_of(restart_marker_blocks=1),
    "a comment": GOOD[:TABLE] + COMMENT + GOOD[TABLE:],
    "EXIF": file_of(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "a profile": file_of(icc_profile=bytes(300)),
    "an Adobe segment": GOOD[:TABLE] + b"\xff\xee\x00\x0eAdobe\0d\0\0\0\0\0" + GOOD[TABLE:],
    "two frames": GOOD[:FRAME] + 2 * GOOD[slice(*place_of(0xC0))] + GOOD[place_of(0xC0)[1] :],
    "no frame": GOOD[:FRAME] + GOOD[place_of(0xC0)[1] :],
    "two JFIF": GOOD[:TABLE] + GOOD[slice(*place_of(0xE0))] + GOOD[TABLE:],
    "many tables": GOOD[:TABLE] + 50 * GOOD[slice(*place_of(0xDB))] + GOOD[TABLE:],
    "a length of 0": changed(TABLE + 2, b"\0\0"),
    "a length of 1": changed(TABLE + 2, b"\0\1"),
    "a length of 65535": changed(TABLE + 2, b"\xff\xff"),
    "fill bytes": GOOD[:TABLE] + b"\xff" + GOOD[TABLE:],
    "a scan of one": GOOD[:SCAN] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + GOOD[DATA:],
    "a scan of the first twice": changed(SCAN + 7, b"\x01"),
    "a scan of half the coefficients": changed(DATA - 2, b"\x1f"),
    "two scans": GOOD[:-2] + GOOD[SCAN:],
    "a marker in the scan": GOOD[: DATA + 9] + b"\xff\xd0" + GOOD[DATA + 9 :],
    "cut off in the head": GOOD[: FRAME + 7],
    "cut off in the scan": GOOD[: len(GOOD) // 2 + DATA // 2],
    "without its end": GOOD[:-2],
    "garbage behind": GOOD + b"garbage",
    "another file behind": GOOD + GOOD,
    "garbage and an end behind": GOOD + b"garbage\xff\xd9",
    "garbage in front": b"x" + GOOD,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_decoder_sees_what_is_not_baseline_of_the_right_size(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ProtocolError, match="JPEG"):
        read(HOSTILE[what])


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 2, SIDE, SIDE), "one or three"),
        ((1, 4, SIDE, SIDE), "one or three"),
        ((2, 3, SIDE, SIDE), "one or three"),
        ((1, 3), "one or three"),
        ((1, 1, 65_535, 2), "sides are limited to"),
        ((1, 1, 4097, 4097), "sides are limited to"),
    ],
)
def test_shapes_that_are_none_are_refused(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        read(GOOD, shape, Limits(payload_bytes=1 << 40, more_codecs=TAKING.more_codecs))
    assert MAX_PIXELS < 4097 * 4097


def test_what_it_unfolds_to_counts_against_the_limit() -> None:
    with pytest.raises(TooLargeError, match="max-payload"):
        read(GOOD, limits=Limits(payload_bytes=4 * 3 * SIDE * SIDE - 1, more_codecs=TAKING.more_codecs))


def test_a_scan_that_ends_early_and_one_of_noise_give_the_right_shape_or_are_refused() -> None:
    for data in (b"", bytes(50), b"\x55" * 5000, random.Random(1).randbytes(3000).replace(b"\xff", b"")):
        with suppress(ProtocolError):
            assert read(GOOD[:DATA] + data + b"\xff\xd9").shape == SHAPE


CHILD = """
import json, random, re, sys, warnings
from pathlib import Path
from edgecloud.net import tensors
from tests.net.test_jpeg import GOOD, SHAPE, read
from edgecloud.utils.errors import ProtocolError

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

rng, counts = random.Random(7), {"taken": 0, "refused": 0}
read(GOOD)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
before = peak()
for number in range(int(sys.argv[1])):
    flipped = bytearray(GOOD)
    for _ in range(rng.randrange(1, 4)):
        bit = rng.randrange(8 * (len(GOOD) if number % 2 else 640))  # every other time in the head
        flipped[bit // 8] ^= 1 << bit % 8
    try:
        found = read(bytes(flipped))
        assert found.shape == SHAPE and found.dtype == "float32"
        counts["taken"] += 1
    except ProtocolError:
        counts["refused"] += 1
print(json.dumps(counts | {"grown": peak() - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
def test_flipped_bits_give_an_array_or_a_refusal_in_little_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(many(1000, 20_000))], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["taken"] > 100
    assert found["refused"] > 100
    assert found["grown"] < 8 << 20


# --- through the real programs


@pytest.fixture(scope="module")
def taking(cache: Path) -> Iterator[CloudProcess]:
    with running_cloud(cache, "--allow-jpeg") as process:
        yield process


@pytest.mark.parametrize("name", ["le_net", "cifar_alexnet"])  # grey, and in colour
def test_a_cloud_that_is_told_to_answers(name: str, edge: CallEdge, taking: CloudProcess) -> None:
    arguments = ("-t", name, *at(taking), "--point", "0", "--repeat", "1", "--warm-up", "0", "--verify", "--json")
    done = edge(*arguments, "--codec", "jpeg")
    assert done.code == 0, done.stderr
    found = done.document
    assert found["plan"]["codec"] == "jpeg"
    assert found["verify"]["matches"]
    assert found["measured"]["repeats"][0]["payload_bytes"] == codec.encode(sample(name), "jpeg").nbytes


def test_a_cloud_that_is_not_told_to_refuses(
    cache: Path, edge: CallEdge, cloud: CloudProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    done = edge("-t", "le_net", *at(cloud), "--point", "0", "--codec", "jpeg")
    assert done.code == 4
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith("the cloud does not accept the codec jpeg: start it with --allow-jpeg")
    )
    tasks = ("-t", "le_net", "--tasks", "2", *at(cloud), "--codec", "jpeg", "--cache-dir", str(cache))
    done = call(tasks_edge_api.main, [*tasks, "--threads", "2"], capsys)
    assert done.code == 4
    assert "start it with --allow-jpeg" in done.stderr


@contextmanager
def asking(cloud: CloudProcess, network: Any) -> Iterator[Any]:
    connection = greet(cloud, hello_of(network))
    try:
        yield connection
    finally:
        connection.close()


def test_a_stranger_who_sends_it_all_the_same_is_told_an_unknown_codec(
    cloud: CloudProcess, taking: CloudProcess, network: Any
) -> None:
    le_net = network("le_net")
    packed = codec.encode(sample("le_net"), "jpeg")
    request = Infer(1, [[1, len(le_net.traced.graph.layers)]], 30.0)
    with asking(cloud, le_net) as connection:
        connection.send(request, soon(), [packed])
        with pytest.raises(AppError, match=r"PROTOCOL\): unknown codec 'jpeg'"):
            connection.receive(soon()).read(Infer)
    with asking(taking, le_net) as connection:
        connection.send(request, soon(), [packed])
        assert connection.receive(soon()).arrays()[0].shape == (1, 10)


def test_many_tasks_go_as_jpeg(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a cloud of its own, which is told by itself."""
    tasks = ("-t", "le_net", "--tasks", "4", "--codec", "jpeg", "--cache-dir", str(cache), "--json", "--verify")
    done = call(tasks_edge_api.main, [*tasks, "--emulate-cpu", "0.02"], capsys)
    assert done.code == 0, done.stderr
    assert set(done.document["summary"]["codecs"]["le_net"]) <= {"jpeg", "raw"}


def test_our_own_cloud_is_told_where_the_codec_is_named() -> None:
    assert codec_flags("jpeg") == codec_flags("auto", "8:raw,0:jpeg") == ("--allow-jpeg",)
    assert codec_flags("auto", None) == codec_flags("pixels", "0-22,auto") == ()


def test_auto_takes_it_where_it_was_tried_and_the_cloud_announces_it(tmp_path: Path, network: Any) -> None:
    le_net = network("le_net")
    graph = le_net.traced.graph
    tried = Tried("input", "jpeg", pictures=100, changed=1, wrong=None, wrong_whole=None, max_error=0.1)
    calibration.keep(tmp_path, Calibration(graph.name, graph.digest, le_net.loaded.digest, "these", (tried,)))
    for budget, known, lossy in (
        (0.01, CODECS, ("jpeg",)),
        (0.01, STANDARD, ()),
        (0.009, CODECS, ()),
        (0.0, CODECS, ()),
    ):
        wanted = replace(codec_policy_of(le_net, "picture", "auto", budget, tmp_path), known=frozenset(known))
        assert wanted.lossy(graph, INPUT) == lossy
        allowed = wanted.allowed(graph, packing_of(le_net, wanted, tmp_path), 1.0)
        assert {one.codec for one in allowed.lossy.get(INPUT, ())} == set(lossy)


# --- what is written


def test_the_documents_say_what_is_so() -> None:
    text = (ROOT / "docs/codecs.md").read_text()
    wire = (ROOT / "docs/wire.md").read_text()
    assert all(f"`{name}`" in wire for name in NAMES)
    assert f"quality {QUALITY}" in text
    found = re.search(r"photograph of `alex_net`: (\d+) kB as JPEG, (\d+) kB as `pixels\+zstd`", text)
    assert found is not None
    sizes = [codec.encode(sample("alex_net"), name).nbytes for name in ("jpeg", "pixels+zstd")]
    assert [int(number) for number in found.groups()] == [round(size / 1000) for size in sizes]
    assert f"{MAX_HEAD_BYTES} bytes" in wire
