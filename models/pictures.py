"""Images: the only place where an image file is opened. It is decoded as data, without starting a program.

Pillow hands an EPS to Ghostscript, a program, whatever its file is called. So only plain decoders are asked.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.later import later
from edgecloud.utils.sniffing import what_is

if TYPE_CHECKING:
    import PIL
    from PIL import Image, ImageFilter, ImageOps
else:
    PIL, Image, ImageFilter, ImageOps = (later(f"PIL{name}") for name in ("", ".Image", ".ImageFilter", ".ImageOps"))

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    {*(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"), *(".ppm", ".pgm", ".pbm", ".pnm")}
)
MAX_PIXELS = 64_000_000
"""A picture that is larger is refused before it is decoded."""
DEPTHS = (8, 10, 12, 14)
"""Bits that cameras and scanners put into files of 16."""
SCALED = -1
"""In place of bits: a .pgm says what its brightest is, and Pillow has scaled that to 16 bits."""
LEAST_CONTRAST = 16
"""Of 255: what differs by less from its paper is no ink, or lost on it."""
SPARE_PIXELS = 64
"""Of the shorter side: from so many on a stroke is wider than a speck."""
Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """Eight bits a channel, upright, without transparency."""

    image: "Image.Image"
    note: str = ""
    """What had to be done for that, where a user should know."""


def read(path: Path) -> Picture:
    """Read a picture's file: turned as its EXIF data says, on paper where it is transparent.

    Raises UsageError where it is missing, damaged, too large, or no plain picture.
    """
    require_file(path)
    try:
        with opened(path) as file:
            bits = _bits_of(file)  # before it is decoded, after which nothing tells
            return prepared(ImageOps.exif_transpose(file), bits)
    except UsageError as error:
        raise UsageError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise a dozen kinds on damaged files
        raise UsageError(f"cannot read the image {path}: {_reason(error)}") from None


@contextmanager
def opened(path: Path) -> "Iterator[Image.Image]":
    """Open a picture, by none but the decoders of FORMATS, and check its size; nothing is decoded yet.

    Raises UsageError for what is none of them, or too large; OSError and others for damaged ones.
    """
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        try:
            file = Image.open(path, formats=FORMATS)
        except PIL.UnidentifiedImageError:
            raise UsageError(_no_picture(path)) from None
        except Image.DecompressionBombError:
            raise UsageError(f"{path}: more than {MAX_PIXELS} pixels") from None
        with file as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UsageError(f"{path}: {picture.width}x{picture.height} is more than {MAX_PIXELS} pixels")
            yield picture


def _no_picture(path: Path) -> str:
    known = what_is(path)
    named = "damaged, or another format" if known is None or "--image" in known.cure else str(known)
    return f"{path} is not an image ({', '.join(FORMATS)}): it is {named}"


# --- eight bits a channel


def prepared(picture: "Image.Image", bits: int = 0) -> Picture:
    """A picture of any mode that Pillow reads, with eight bits a channel.

    `bits` are those that its file declares, 0 where it says nothing, SCALED where Pillow used them.
    Raises UsageError where nothing says how bright
    its numbers are.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and bits == SCALED):
        return _from_sixteen(np.asarray(picture).astype(np.int64), bits)
    if picture.mode in ("I", "F"):
        raise UsageError(f"images with {picture.mode!r} pixels are not supported: save it with 8 or 16 bits")
    if bits == 16:
        _check_sixteen(picture)
    return _on_paper(picture) if picture.has_transparency_data else Picture(picture)


def _bits_of(file: "Image.Image") -> int:
    """Bits a channel in the file, where Pillow tells: 16 for colours of 16 bits, of which it drops the lower eight."""
    if file.format == "PPM":
        return SCALED
    tiles: list[Any] = getattr(file, "tile", [])
    if any(";16" in str(tile[-1]) for tile in tiles) and not file.mode.startswith("I"):
        return 16
    declared = getattr(file, "tag_v2", {}).get(258)  # BitsPerSample of a TIFF
    return int(declared[0]) if isinstance(declared, tuple) and declared else 0


def _from_sixteen(values: NDArray[np.int64], declared: int) -> Picture:
    """Greys of 16 bits, or of the fewer that are used of them: what is scaled by too many would be nearly black."""
    brightest = int(values.max(initial=0))
    used = next((bits for bits in DEPTHS if brightest < 1 << bits), 16)
    bits = declared if declared in DEPTHS else used
    if brightest == 0 or bits == 16 or declared == SCALED:
        return Picture(Image.fromarray((values >> 8).astype(np.uint8)))
    scaled = np.round(np.clip(values / ((1 << bits) - 1), 0, 1) * 255).astype(np.uint8)
    return Picture(Image.fromarray(scaled), f"16-bit gray with {bits} significant bits, scaled accordingly")


def _check_sixteen(picture: "Image.Image") -> None:
    """Of colours of 16 bits only the upper eight are left here; where those are nearly empty, so is the picture."""
    colours = np.asarray(picture.convert("RGB"))
    if 0 < colours.max(initial=0) < 1 << (DEPTHS[-1] - 8) or (not colours.any() and picture.width * picture.height > 1):
        raise UsageError("its 16-bit colors use only the lower bits and would be nearly black: save it with 8 bits")


def _on_paper(picture: "Image.Image") -> Picture:
    """What is transparent shows white, as on paper, or black where what is drawn would be lost on white."""
    drawn = picture.convert("RGBA")
    white, black = (
        Image.alpha_composite(Image.new("RGBA", drawn.size, paper), drawn).convert("RGB")
        for paper in ("white", "black")
    )
    lost_on_white, lost_on_black = (
        bool(np.abs(np.asarray(one.convert("L"), dtype=np.int16) - paper).max(initial=0) < 2 * LEAST_CONTRAST)
        for one, paper in ((white, 255), (black, 0))
    )
    if lost_on_white and not lost_on_black:
        return Picture(black, "transparent areas shown as black, because the image is light")
    return Picture(white)


# --- digits


def digit(picture: "Image.Image", side: int = 28) -> "Image.Image":
    """A picture of one digit as grey `side` x `side`, white ink on black, the digit as high as the picture.

    The paper is what most of the border shows, the ink what differs from it most, lighter or darker; both are stretched
    to black and white. A digit that does not fill the height is cut out with as much room as its longer side, as those
    are that the networks were trained on. Without ink all is black.
    """
    ink = _ink(np.asarray(_quiet(picture.convert("L")), dtype=np.float32))
    image = Image.fromarray(np.round(ink * 255).astype(np.uint8))
    return _framed(image, ink).resize((side, side), Image.Resampling.BILINEAR)


def _quiet(grey: "Image.Image") -> "Image.Image":
    """Without the specks and the noise of a camera, where there are pixels to spare."""
    if min(grey.size) < SPARE_PIXELS:
        return grey
    factor = min(grey.size) // (3 * SPARE_PIXELS)
    return (grey.reduce(factor) if factor > 1 else grey).filter(ImageFilter.MedianFilter(3))


def _ink(grey: Grey) -> Grey:
    """How much ink each place has, 0 to 1."""
    paper = float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    darker, lighter = np.clip(paper - grey, 0, None), np.clip(grey - paper, 0, None)
    most = max(float(darker.max()), float(lighter.max()))
    if most < LEAST_CONTRAST:
        return np.zeros_like(grey)
    dark, light = (float(one[one > most / 4].sum()) for one in (darker, lighter))
    ink = darker if dark > light else lighter
    amounts: Grey = (ink / ink.max()).astype(np.float32)
    return amounts


def _framed(picture: "Image.Image", ink: Grey) -> "Image.Image":
    """The square around the ink; the whole picture where the ink fills its height."""
    rows, columns = _extent(ink, 1), _extent(ink, 0)
    if rows is None or columns is None:
        return picture
    height, width = ink.shape
    edge = height / 16
    if rows[0] <= edge and rows[1] >= height - edge and height <= width <= 1.25 * height:
        return picture
    middle = [(first + last) / 2 for first, last in (columns, rows)]
    half = max(last - first for first, last in (columns, rows)) / 2
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    left, top, right, bottom = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
    return picture.crop((left, top, right, bottom))  # black where it reaches beyond the picture


def _extent(ink: Grey, axis: int) -> tuple[int, int] | None:
    """From the first to behind the last row or column with ink in it; single specks are none."""
    is_large = min(ink.shape) >= SPARE_PIXELS
    smooth = Image.fromarray(np.round(ink * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(int(is_large)))
    lines = np.flatnonzero((np.asarray(smooth) > 127).sum(axis=axis) > int(is_large))
    return (int(lines[0]), int(lines[-1]) + 1) if len(lines) else None


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
