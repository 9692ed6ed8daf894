"""Small buffers that would decompress to large tensors: refused, in little memory and time."""

import contextlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import zstandard

from benchmarks.hostile.bombs import BOMBS, GOOD, MB, frame, run, squeezed
from edgecloud.net import codec, tensors
from edgecloud.net.codec import CODECS, STANDARD
from edgecloud.net.frames import Limits, TooLargeError
from edgecloud.utils.errors import ProtocolError
from tests.conftest import ROOT
from tests.net.test_codec import LIMITS, described, joined

CHILD = """
import json, pickle, re, sys, time
from pathlib import Path
from edgecloud.net import tensors
from edgecloud.net.frames import Limits
from edgecloud.utils.errors import ProtocolError

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

bombs = pickle.load(sys.stdin.buffer)
rows = []
for name, size, buffer, _ in [bombs[0], *bombs]:
    header = {"tensors": [("uint8", (size,), "zstd", 0)], "buffers": [len(buffer)]}
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before, started = peak(), time.process_time()
    try:
        taken = tensors.view(header, memoryview(buffer), Limits())[0].nbytes == size
    except ProtocolError:
        taken = False
    rows.append([name, taken, peak() - before, time.process_time() - started])
print(json.dumps(rows[1:]))
"""


@pytest.fixture(scope="module")
def exploded() -> dict[str, tuple[bool, int, float]]:
    """For every bomb whether it was taken, the memory that the process took for it, and the processor's seconds."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        input=pickle.dumps(BOMBS),
        stdout=subprocess.PIPE,
        check=True,
        # what is freed goes back, so that no bomb hides in the memory of the one before
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    return {name: (taken, peak, seconds) for name, taken, peak, seconds in json.loads(done.stdout)}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[0])
def test_bombs_are_refused_in_the_memory_of_what_was_described(
    bomb: tuple[str, int, bytes, bool], exploded: dict[str, tuple[bool, int, float]]
) -> None:
    name, size, _, is_good = bomb
    taken, peak, seconds = exploded[name]
    assert taken == is_good
    assert peak <= (size + MB if size <= LIMITS.payload_bytes else MB)
    assert seconds < 5  # of the processor: 0.1 where nothing else runs


def test_a_small_bomb_is_small() -> None:
    assert len(squeezed(300 * MB)) < 10_000


def test_a_nested_bomb_is_unfolded_once() -> None:
    inner = squeezed(300 * MB)
    back = described("zstd", "uint8", (len(inner),), zstandard.compress(inner))
    assert back.tobytes() == inner


def test_small_buffers_cannot_unfold_to_more_than_the_limit_together() -> None:
    limits = Limits(payload_bytes=64 * MB)
    for size, is_taken in ((MB, True), (MB + 1, False)):
        one = frame(run(size), size)
        header = {"tensors": [("uint8", (size,), "zstd", n) for n in range(64)], "buffers": [len(one)] * 64}
        with contextlib.nullcontext() if is_taken else pytest.raises(TooLargeError, match="max-payload"):
            assert len(tensors.view(header, memoryview(one * 64), limits)) == 64


@pytest.mark.parametrize("name", [name for name in STANDARD if name != "raw"])
def test_decoded_bytes_count_against_the_limit(name: str) -> None:
    array = np.zeros((1, 4, 16, 16), np.float32)
    buffer = joined(codec.encode(array, name))
    assert described(name, "float32", array.shape, buffer, Limits(payload_bytes=4096)).nbytes == 4096
    with pytest.raises(TooLargeError):
        described(name, "float32", array.shape, buffer, Limits(payload_bytes=4095))


def test_sizes_are_checked_before_any_decoder_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tensors the second does not fit; nothing of the first is unfolded."""
    monkeypatch.setattr(zstandard, "ZstdDecompressor", None)
    header = {"tensors": [("uint8", (4 * MB,), "zstd", 0), ("uint8", (3,), "raw", 1)], "buffers": [len(GOOD), 2]}
    with pytest.raises(ProtocolError, match="does not match its buffer size"):
        tensors.view(header, memoryview(GOOD + b"xx"), LIMITS)


def test_a_decoder_makes_the_size_that_it_is_told_or_nothing_even_of_what_nobody_checked() -> None:
    """The check comes first; should it ever let something through, the decoder still keeps to its memory."""
    undeclared = memoryview(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(20)))
    for size in (1, 19, 21, MB):
        with pytest.raises(ProtocolError, match="does not decompress to the"):
            CODECS["zstd"].decode("uint8", (size,), undeclared)
    assert CODECS["zstd"].decode("uint8", (20,), undeclared).tobytes() == bytes(20)
    colours, greys = ((1, channels, 16, 24) for channels in (3, 1))
    for shape in (colours, greys):
        picture = memoryview(joined(codec.encode(np.zeros(shape, np.float32), "jpeg")))
        file = bytes(picture[8 * shape[1] :])
        assert CODECS["jpeg"].decode("float32", shape, picture).shape == shape
        for other in (colours, greys, (1, shape[1], 24, 16), (1, shape[1], 8, 8)):
            if other != shape:
                with pytest.raises(ProtocolError, match="damaged JPEG"):
                    CODECS["jpeg"].decode("float32", other, memoryview(bytes(8 * other[1]) + file))
