"""Codecs by name: encode tensors, and decode untrusted input safely. Pure.

A codec is a form (net.encodings) and perhaps a compressor: zstd, where its name ends in `+zstd`, or JPEG for
pixels (net.jpeg); the parameters lie in front as they are. Byte planes before zstd are left out: on real activations
they make float32 larger and float16 2 % smaller (benchmarks/results/codecs.md).
The bytes of a codec without a compressor are known from dtype and shape alone; of a zstd frame the declared size, the
window and the length of every block are checked before the decoder runs, and the decoder writes into memory of the
expected size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import zstandard

from edgecloud.net import entropy
from edgecloud.net.affine import Affine
from edgecloud.net.encodings import DTYPES, Array, Bytes, CodecError, Compressor, Form, Half, Raw, Shape
from edgecloud.net.jpeg import Jpeg
from edgecloud.net.pixels import Pixels
from edgecloud.net.sides import Parse, SidedCodec, kind_of
from edgecloud.utils.dtypes import name_of
from edgecloud.utils.errors import ProtocolError

__all__ = [
    "CODECS",
    "DTYPES",
    "KINDS",
    "LEARNED",
    "NAMES",
    "OPTIONAL",
    "RAW",
    "STANDARD",
    "ZSTD",
    "Array",
    "Codec",
    "CodecError",
    "Encoded",
    "decode",
    "encode",
    "exact_bytes",
    "is_lossless",
    "is_name",
    "kind_of",
    "splits",
]

RAW = "raw"
LEVEL = 1  # of zstd: higher ones are three times as slow and gain a few percent
MAX_WINDOW_BYTES = 8 << 20  # what RFC 8878 asks every decoder for
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_RUN = 1  # the type of a block that is one byte repeated
_BLOCKS, _BLOCK_BYTES = 16, 1024  # so many blocks, and one more for each KiB: no writer makes them smaller


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor ready to travel. dtype and shape are those of the original."""

    dtype: str
    shape: Shape
    codec: str
    parts: tuple[memoryview, ...]
    """The bytes, one part behind the other."""
    sided: SidedCodec | None = None
    """What encoded it, where that is a codec with a side."""

    @property
    def nbytes(self) -> int:
        """What travels."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to carry a tensor."""

    name: str
    form: Form
    compressor: Compressor | None = None

    @property
    def is_lossless(self) -> bool:
        """Whether every bit comes back."""
        return self.form.is_lossless and (self.compressor is None or self.compressor.is_lossless)

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Whether slices of shape `part` of a tensor of `shape` can be carried each on its own, with no larger loss."""
        return self.form.splits(shape, part) and (self.compressor is None or self.compressor.is_splitting)

    def encode(self, array: Array) -> Encoded:
        """An array of any shape, ready to travel; without a compressor and a lossy form its bytes may be a view of it.

        Raises CodecError for an array that this codec cannot carry: lossy ones carry finite float32 only.
        """
        name = name_of(array.dtype)
        if name not in DTYPES:
            raise CodecError(f"dtype {name} is not supported")
        parameters, codes = self.form.encode(array)
        compressed = codes.data if self.compressor is None else memoryview(self.compressor.compress(codes, array.shape))
        parts = (parameters.data, compressed)
        return Encoded(name, tuple(array.shape), self.name, tuple(part for part in parts if part.nbytes))

    def exact_bytes(self, dtype: str, shape: Shape) -> int | None:
        """What such a tensor takes; None where that depends on its numbers, which is with a compressor."""
        return (
            None
            if self.compressor is not None
            else self.form.parameter_bytes(shape) + self.form.code_bytes(dtype, shape)
        )

    def check(self, dtype: str, shape: Shape, buffer: memoryview) -> None:
        """Check the sizes before anything is decoded. Raises ProtocolError where the buffer is not exactly one of such
        a tensor, or decompresses to more or less."""
        if not self.is_lossless and dtype != "float32":
            raise ProtocolError(f"{self.name} encodes float32, not {dtype}")
        parameter_bytes, code_bytes = self.form.parameter_bytes(shape), self.form.code_bytes(dtype, shape)
        if self.compressor is not None:
            self.compressor.check(buffer[parameter_bytes:], code_bytes, shape)
        elif buffer.nbytes != parameter_bytes + code_bytes:
            raise ProtocolError(f"the shape of {dtype} does not match its buffer size")

    def decode(self, dtype: str, shape: Shape, buffer: memoryview) -> Array:
        """The tensor of a buffer that was checked: new memory, or a view of the buffer if raw. Raises ProtocolError."""
        parameter_bytes = self.form.parameter_bytes(shape)
        parameters, codes = buffer[:parameter_bytes], buffer[parameter_bytes:]
        if self.compressor is not None:
            codes = self.compressor.decompress(codes, self.form.code_bytes(dtype, shape), shape)
        return self.form.decode(parameters, codes, dtype, shape)


def _check_frame(frame: memoryview, expected: int) -> None:
    """Whether this is one whole zstd frame that declares `expected` bytes: block by block, without decompressing it, so
    that nothing is behind the frame and the decoder has all of it at hand, in which case it needs no window."""
    if frame[:4] != _ZSTD_MAGIC:
        raise ProtocolError("not a zstd frame")
    try:
        header = zstandard.get_frame_parameters(frame)
        position = zstandard.frame_header_size(frame)
    except zstandard.ZstdError:
        raise ProtocolError("not a zstd frame") from None
    if header.content_size != expected:
        raise ProtocolError(f"zstd frame must declare the tensor's {expected} bytes")
    if header.window_size > MAX_WINDOW_BYTES or header.dict_id:
        raise ProtocolError(f"zstd frame with a dictionary or a window of more than {MAX_WINDOW_BYTES} bytes")
    left, is_last = _BLOCKS + expected // _BLOCK_BYTES, 0
    while not is_last:
        block = int.from_bytes(frame[position : position + 3], "little")
        is_last = block & 1
        position += 3 + (1 if block >> 1 & 3 == _RUN else block >> 3)
        left -= 1
        if position > frame.nbytes or left < 0:
            raise ProtocolError("truncated zstd frame, or too many blocks")
    if position + 4 * header.has_checksum != frame.nbytes:
        raise ProtocolError("zstd frame must fill its buffer")


def _decompressed(frame: memoryview, expected: int) -> memoryview:
    """The content of a frame that was checked, in memory of just that size."""
    content = np.empty(expected, np.uint8)
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(frame)
        got = reader.readinto(content.data)
    except zstandard.ZstdError:
        raise ProtocolError("damaged zstd frame") from None
    if got != expected or reader.read(1):
        raise ProtocolError(f"zstd frame does not decompress to the declared {expected} bytes")
    return content.data


@dataclass(frozen=True, slots=True)
class Zstd:
    """One zstd frame in place of the codes."""

    is_lossless: bool = True
    is_splitting: bool = True

    def compress(self, codes: Bytes, shape: Shape) -> bytes:
        """The codes, one frame. A compressor is not for two threads at once, and a new one takes 10 us."""
        return zstandard.ZstdCompressor(level=LEVEL).compress(codes.data)

    def check(self, compressed: memoryview, expected_bytes: int, shape: Shape) -> None:
        """Raises ProtocolError unless this is one whole frame that declares so many bytes."""
        _check_frame(compressed, expected_bytes)

    def decompress(self, compressed: memoryview, expected_bytes: int, shape: Shape) -> memoryview:
        """In memory of just that size. Raises ProtocolError."""
        return _decompressed(compressed, expected_bytes)


ZSTD = Zstd()
_FORMS: dict[str, tuple[Form, Form]] = {  # alone, and under zstd
    "pixels": (Pixels(), Pixels(is_foretold=True)),
    "fp16": (Half(), Half()),
    **{f"int{n}{c}": (Affine(n, bool(c)), Affine(n, bool(c), is_packed=n != 6)) for n in (8, 6, 4) for c in ("", "c")},
}
_PLAIN = {RAW: Raw()} | {name: alone for name, (alone, _) in _FORMS.items()}
_ZSTD = {"zstd": Raw()} | {f"{name}+zstd": under for name, (_, under) in _FORMS.items()}
CODECS: dict[str, Codec] = {
    **{name: Codec(name, form) for name, form in _PLAIN.items()},
    **{name: Codec(name, form, ZSTD) for name, form in _ZSTD.items()},
    "jpeg": Codec("jpeg", Pixels(), Jpeg()),
}
"""Every codec by its name, which is also its name on the wire."""
OPTIONAL = {"jpeg": "--allow-jpeg"}
"""Those that a reader refuses unless its user wants them, and the flag of a cloud that says so."""
STANDARD = tuple(name for name in CODECS if name not in OPTIONAL)
"""Those that every reader takes."""
KINDS: dict[str, Parse] = dict.fromkeys(entropy.NAMES, entropy.parse)
"""Codecs with a side (net.sides), by what both sides announce, and what reads their data."""
DECODED = tuple(kind for kind in KINDS if entropy.CAN_DECODE or kind not in entropy.NAMES)
"""Those of them that this machine decodes."""
NAMES = (*CODECS, *KINDS)
"""What a plan may name; a kind may be followed by a colon and a name."""
LEARNED = "learned"
"""The kind of codecs that come from files (net.learned_file): a plan calls them `learned:NAME`."""


def is_name(name: str) -> bool:
    """Whether a plan may name such a codec."""
    return name in CODECS or kind_of(name) in KINDS or name.startswith(f"{LEARNED}:")


def is_lossless(name: str) -> bool:
    """Whether every bit comes back, with the codec of a plan."""
    return name in CODECS and CODECS[name].is_lossless


def splits(codec: str, shape: Shape, parts: Iterable[Shape], sided: SidedCodec | None = None) -> bool:
    """Whether slices of these shapes can be carried each on its own, with the codec of that name and no larger loss.

    An entropy-coded one whose side is not told is taken to have been calibrated for such tensors.
    """
    one = sided or CODECS.get(codec)
    if one is None and codec in entropy.NAMES:
        return all(entropy.splits(shape, part) for part in set(parts))
    return one is not None and all(one.splits(shape, part) for part in set(parts))


def encode(array: Array, codec: str, sided: SidedCodec | None = None) -> Encoded:
    """Encode with the codec of that name, which is `sided` where it has a side.

    Raises CodecError where there is none or it cannot carry this array.
    """
    if sided is not None:
        return Encoded(name_of(array.dtype), tuple(array.shape), codec, (memoryview(sided.encode(array)),), sided)
    if kind_of(codec) in (*KINDS, LEARNED):
        raise CodecError(f"{codec[:40]} was not calibrated for this tensor")
    if codec not in CODECS:
        raise CodecError(f"unknown codec {codec[:40]!r}: choose one of {', '.join(CODECS)}")
    return CODECS[codec].encode(array)


def decode(encoded: Encoded) -> Array:
    """The tensor again, of the shape and dtype that it had, as the other side gets it. Raises ProtocolError."""
    buffer = memoryview(b"".join(encoded.parts))
    if encoded.sided is not None:
        return encoded.sided.decode(encoded.dtype, encoded.shape, buffer)
    return CODECS[encoded.codec].decode(encoded.dtype, encoded.shape, buffer)


def exact_bytes(dtype: str, shape: Shape, codec: str) -> int | None:
    """What a tensor of this dtype and shape takes with the codec of that name; None where that depends on its numbers,
    which is with zstd, JPEG and entropy coding."""
    return CODECS[codec].exact_bytes(dtype, shape) if codec in CODECS else None
