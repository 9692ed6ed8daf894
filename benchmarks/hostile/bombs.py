"""zstd frames that decompress to more than they should, or say so, for tests and benchmarks of what a cloud refuses."""

from functools import cache

import numpy as np
import zstandard

MB = 1 << 20
RAW_BLOCK, RUN_BLOCK = 0, 1


def block(kind: int, size: int, content: bytes, *, is_last: bool = False) -> bytes:
    """A block of a zstd frame."""
    return (size << 3 | kind << 1 | is_last).to_bytes(3, "little") + content


def run(size: int, *, is_last: bool = True) -> bytes:
    """Blocks of four bytes that decompress to `size` zeros."""
    whole, rest = divmod(size, 1 << 17)
    blocks = block(RUN_BLOCK, 1 << 17, b"\0") * whole
    return blocks + block(RUN_BLOCK, rest, b"\0", is_last=is_last)


def frame(blocks: bytes, declared: int | None, window_log: int = 17) -> bytes:
    """A zstd frame with any header."""
    size = b"" if declared is None else declared.to_bytes(8, "little")
    return b"\x28\xb5\x2f\xfd" + bytes([3 << 6 if size else 0, window_log - 10 << 3]) + size + blocks


@cache  # three of the bombs hold the same
def squeezed(size: int) -> bytes:
    """Zeros, compressed by the library, in a frame that declares them."""
    compressor = zstandard.ZstdCompressor(level=19).compressobj(size=size)
    return b"".join([*(compressor.compress(bytes(MB)) for _ in range(size // MB)), compressor.flush()])


def skippable(size: int) -> bytes:
    """A frame of no content."""
    return b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)


HEAD = 4 + 1 + 1 + 8
GOOD = frame(run(4 * MB), 4 * MB)
NOISE = np.random.default_rng(0).bytes(4 * MB)
WINDOWED = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=23, compression_level=1)
).compress(NOISE * 4)

# what, bytes that the shape has (uint8), the buffer, whether it is taken
BOMBS: list[tuple[str, int, bytes, bool]] = [
    ("the good one", 4 * MB, GOOD, True),
    ("a good one with a window of 8 MiB", 16 * MB, WINDOWED, True),
    ("9 kB that declare and are 300 MB", 4 * MB, squeezed(300 * MB), False),
    ("a shape of 300 MB as well", 300 * MB, squeezed(300 * MB), False),
    ("undeclared", 4 * MB, frame(run(300 * MB), None), False),
    ("undeclared, but right", 4 * MB, frame(run(4 * MB), None), False),
    ("1 TB declared", 4 * MB, frame(run(4 * MB), 1 << 40), False),
    ("1 TB declared and described", 1 << 40, frame(run(4 * MB), 1 << 40), False),
    ("declared less than there is", 4 * MB, frame(run(300 * MB), 4 * MB), False),
    ("declared less by one", 4 * MB, frame(run(4 * MB + 1), 4 * MB), False),
    ("declared less, and compressed", 4 * MB, frame(squeezed(300 * MB)[HEAD - 4 :], 4 * MB), False),
    ("declared more than there is", 4 * MB, frame(run(2 * MB), 4 * MB), False),
    ("declared more by one", 4 * MB, frame(run(4 * MB - 1), 4 * MB), False),
    ("a window of 2 GiB", 4 * MB, frame(run(4 * MB), 4 * MB, window_log=31), False),
    ("a window of 16 MiB", 4 * MB, frame(run(4 * MB), 4 * MB, window_log=24), False),
    ("two frames", 4 * MB, GOOD + GOOD, False),
    ("two frames that make the size", 8 * MB, GOOD + GOOD, False),
    ("an empty frame behind", 4 * MB, GOOD + frame(block(RAW_BLOCK, 0, b"", is_last=True), 0), False),
    ("a skippable frame behind", 4 * MB, GOOD + skippable(9), False),
    ("a skippable frame in front", 4 * MB, skippable(9) + GOOD, False),
    ("a skippable frame of that size", 4 * MB, skippable(4 * MB), False),
    ("a byte behind", 4 * MB, GOOD + b"\0", False),
    ("no last block", 4 * MB, frame(run(4 * MB, is_last=False), 4 * MB), False),
    ("cut off", 16 * MB, WINDOWED[:-1], False),
    ("damaged at the end", 16 * MB, WINDOWED[:-60] + frame(b"", 0) * 4 + WINDOWED[-4:], False),
    ("half a million empty blocks", 4 * MB, frame(block(RAW_BLOCK, 0, b"") * (1 << 19) + run(4 * MB), 4 * MB), False),
    ("a block of the reserved type", 4 * MB, frame(block(3, 4, bytes(4), is_last=True), 4 * MB), False),
    ("with a checksum", 4 * MB, zstandard.ZstdCompressor(write_checksum=True).compress(bytes(4 * MB)), True),
    ("of another format", 4 * MB, b"\x1f\x8b\x08" + bytes(100), False),
    ("nothing", 4 * MB, b"", False),
    ("a magic number alone", 4 * MB, GOOD[:4], False),
]
