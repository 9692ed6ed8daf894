"""The 8-bit pixels of an image as a baseline JPEG: optional, because a library decodes untrusted input.

Before it does, the file is walked here, marker by marker: it has to be as `compress` writes it, of just the size that
the tensor's shape says. One scan of all components; no progressive or arithmetic coding, no restarts, thumbnails,
profiles or comments, nothing before and nothing behind. What is left to libjpeg are tables and one scan for a known
number of pixels, which it decodes row by row. Pillow is loaded when it is needed.

Pure.
"""

import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgecloud.net.encodings import Bytes, CodecError, Shape
from edgecloud.utils.errors import ProtocolError

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 90
SUBSAMPLING = "4:2:0"
MODES = {1: "L", 3: "RGB"}
"""What Pillow calls a picture of so many channels."""
MAX_PIXELS = 1 << 24
MAX_SIDE = 65_500  # of libjpeg; the format has two bytes
MAX_HEAD_BYTES = 1024  # markers and tables: 623 bytes for three channels

_START, _END = b"\xff\xd8", b"\xff\xd9"
_JFIF, _TABLE, _FRAME, _HUFFMAN, _SCAN = 0xE0, 0xDB, 0xC0, 0xC4, 0xDA
_MARKER = re.compile(rb"\xff[^\x00]")  # within a scan: 0xff of the data is followed by 0
_BITS, _LUMA_SAMPLING, _CHROMA_SAMPLING = 8, 0x22, 0x11
_FIRST_TO_LAST = b"\x00\x3f\x00"  # every coefficient, all of its bits


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG in place of pixels of shape (C, H, W), a byte each; one channel is grey, three are red, green, blue."""

    is_lossless: bool = False
    is_splitting: bool = False
    """Colours are averaged over blocks, which a slice may cut."""

    def compress(self, codes: Bytes, shape: Shape) -> bytes:
        """The file, of pixels of shape (1, C, H, W). Raises CodecError for other channels, or too many pixels."""
        try:
            pixels = codes.reshape(_picture(shape))
        except ProtocolError as error:
            raise CodecError(str(error)) from None
        from PIL import Image

        file = io.BytesIO()
        if len(pixels) == 1:
            Image.fromarray(pixels[0]).save(file, "JPEG", quality=QUALITY)
        else:
            rows = np.ascontiguousarray(pixels.transpose(1, 2, 0))
            Image.fromarray(rows).save(file, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
        return file.getvalue()

    def check(self, compressed: memoryview, expected_bytes: int, shape: Shape) -> None:
        """Raises ProtocolError for anything but one whole JPEG of this shape, as `compress` writes it."""
        channels, height, width = _picture(shape)
        if compressed[:2] != _START or compressed[-2:] != _END:
            raise ProtocolError("incomplete JPEG")
        position, seen = 2, set()
        while _SCAN not in seen:
            kind, body = _segment(compressed, position)
            if kind == _FRAME and kind not in seen:
                _check_frame(body, channels, height, width)
            elif kind == _SCAN and _FRAME in seen:
                _check_scan(body, channels)
            elif kind not in (_TABLE, _HUFFMAN) and not (kind == _JFIF and position == 2):
                raise ProtocolError(f"JPEG marker {kind:#04x} is not allowed in baseline")
            seen.add(kind)
            position += 4 + len(body)
        match = _MARKER.search(compressed, position)
        if match is None or match.start() != len(compressed) - len(_END):
            raise ProtocolError("truncated JPEG, or more than one scan")

    def decompress(self, compressed: memoryview, expected_bytes: int, shape: Shape) -> memoryview:
        """The pixels of a file that was checked. Raises ProtocolError where it cannot be decoded."""
        from PIL import Image

        channels, height, width = _picture(shape)
        try:
            with Image.open(io.BytesIO(compressed), formats=("JPEG",)) as picture:
                pixels = _pixels(picture, MODES[channels], (width, height))
        except Exception:  # noqa: BLE001  Pillow raises all kinds, of untrusted bytes
            raise ProtocolError("damaged JPEG") from None
        return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1)).reshape(-1).data


def _pixels(picture: "Image", mode: str, size: tuple[int, int]) -> Bytes:
    """Decode; what Pillow has read of the head has to be the same as what was checked."""
    if picture.mode != mode or picture.size != size:
        raise ValueError("the decoded image differs from the checked one")
    return np.asarray(picture, np.uint8)


def _picture(shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width. Raises ProtocolError where JPEG has no such picture."""
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in MODES:
        raise ProtocolError("a JPEG must be one image of one or three channels")
    if max(shape[2:]) > MAX_SIDE or math.prod(shape[2:]) > MAX_PIXELS:
        raise ProtocolError(f"JPEG sides are limited to {MAX_SIDE} and {MAX_PIXELS} pixels")
    return shape[1], shape[2], shape[3]


def _segment(file: memoryview, position: int) -> tuple[int, bytes]:
    """The kind of a marker, and what follows its length. All of them, up to the scan, are within a few bytes."""
    head = bytes(file[position : position + 4])
    end = position + 2 + int.from_bytes(head[2:], "big")
    if len(head) < 4 or head[0] != 0xFF or not position + 4 <= end <= min(len(file), MAX_HEAD_BYTES):
        raise ProtocolError("truncated or overlong JPEG markers")
    return head[1], bytes(file[position + 4 : end])


def _check_frame(body: bytes, channels: int, height: int, width: int) -> None:
    """SOF0: size and components, of which all but the first have half the rows and columns."""
    size = bytes([_BITS, *height.to_bytes(2, "big"), *width.to_bytes(2, "big"), channels])
    sampling = [_CHROMA_SAMPLING] if channels == 1 else [_LUMA_SAMPLING, _CHROMA_SAMPLING, _CHROMA_SAMPLING]
    parts = [bytes([number, each]) for number, each in enumerate(sampling, start=1)]
    if body[:6] != size:
        raise ProtocolError(f"JPEG must declare the tensor's {width} x {height} pixels and {channels} channels")
    if [body[at : at + 2] for at in range(6, len(body), 3)] != parts or len(body) != 6 + 3 * channels:
        raise ProtocolError(f"JPEG must have components 1 to {channels}, subsampled as {SUBSAMPLING}")


def _check_scan(body: bytes, channels: int) -> None:
    """SOS: all components at once, from the first coefficient to the last."""
    if len(body) != 4 + 2 * channels or body[0] != channels or body[-3:] != _FIRST_TO_LAST:
        raise ProtocolError("JPEG must have one full scan")
    if list(body[1:-3:2]) != list(range(1, channels + 1)):
        raise ProtocolError("JPEG must have one scan with all components")
