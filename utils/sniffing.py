"""Detects the format of a file from its first bytes, so that a refusal can name it and the fix."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 4096


@dataclass(frozen=True)
class Known:
    """A kind of file that nothing here reads, or that was given in the wrong place."""

    name: str
    """With its article: `an HTML page`."""
    cure: str

    def __str__(self) -> str:
        return f"{self.name}: {self.cure}"


_PNG = "convert it, for example with: magick FILE FILE.png"
_WAV = "convert it, for example with: ffmpeg -i FILE FILE.wav"
LFS = Known("a git-lfs pointer, not the file itself", "run: git lfs pull")
HTML = Known("an HTML page, not the file itself", "the download failed: download the file itself")
_BRANDS = {
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"hevc": "a HEIC image",
    b"msf1": "a HEIC image",
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"M4A ": "an M4A recording",
}
_STARTS: tuple[tuple[bytes, Known], ...] = (
    (b"version https://git-lfs", LFS),
    (b"\x93NUMPY", Known("a .npy array", "use --input FILE.npy")),
    (b"%!PS", Known("an EPS or PostScript drawing, which would have to be executed", _PNG)),
    (b"\xc5\xd0\xd3\xc6", Known("an EPS drawing, which would have to be executed", _PNG)),
    (b"%PDF", Known("a PDF document", "convert the page to an image, for example with: pdftoppm -png FILE page")),
    (b"\x00\x00\x00\x0cjP  ", Known("a JPEG 2000 image", _PNG)),
    (b"\xff\x4f\xff\x51", Known("a JPEG 2000 image", _PNG)),
    (b"\xff\x0a", Known("a JPEG XL image", _PNG)),
    (b"\x00\x00\x00\x0cJXL ", Known("a JPEG XL image", _PNG)),
    (b"8BPS", Known("a Photoshop file", _PNG)),
    (b"\x00\x00\x01\x00", Known("a Windows icon", _PNG)),
    (b"SIMPLE  =", Known("a FITS file", "save its array with numpy.save, and use --input FILE.npy")),
    (b"\xff\xd8\xff", Known("a JPEG image", "use --image FILE")),
    (b"\x89PNG\r\n\x1a\n", Known("a PNG image", "use --image FILE")),
    (b"GIF8", Known("a GIF image", "use --image FILE")),
    (
        b"\x89HDF\r\n",
        Known("an HDF5 file, as Keras writes", "PyTorch's torch.save(model.state_dict(), FILE.pt) is read"),
    ),
    (b"GGUF", Known("a GGUF file of llama.cpp", "use the .safetensors file that it was converted from")),
    (b"fLaC", Known("a FLAC recording", _WAV)),
    (b"OggS", Known("an Ogg recording", _WAV)),
    (b"ID3\x02", Known("an MP3 recording", _WAV)),
    (b"ID3\x03", Known("an MP3 recording", _WAV)),
    (b"ID3\x04", Known("an MP3 recording", _WAV)),
    (b"\xff\xfb", Known("an MP3 recording", _WAV)),
    (b"\xff\xf3", Known("an MP3 recording", _WAV)),
    (b".snd", Known("an AU recording", _WAV)),
    (b"caff", Known("a CAF recording", _WAV)),
    (b"#!AMR", Known("an AMR recording", _WAV)),
    (b"\x1a\x45\xdf\xa3", Known("a Matroska or WebM file", _WAV)),
    (b"\xd0\xcf\x11\xe0", Known("an old Excel workbook, or another Office file", "rename it to end in .xls")),
    (b"\x1f\x8b", Known("a gzip archive", "unpack it first: gunzip FILE")),
    (b"7z\xbc\xaf", Known("a 7z archive", "unpack it first")),
    (b"Rar!", Known("a RAR archive", "unpack it first")),
    (b"BZh", Known("a bzip2 archive", "unpack it first: bunzip2 FILE")),
    (b"\xfd7zXZ", Known("an xz archive", "unpack it first: unxz FILE")),
    (b"SQLite format 3", Known("an SQLite database", "export the table as .csv")),
)


def what_is(path: Path) -> Known | None:
    """Look at the beginning of a file; None where it says nothing. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return next((kind for start, kind in _STARTS if head.startswith(start)), None) or _by_content(path, head)


def _by_content(path: Path, head: bytes) -> Known | None:
    if head[4:8] == b"ftyp":
        marks = (head[8:12], *(head[start : start + 4] for start in range(16, 32, 4)))  # its own, and what else it is
        brand = next((_BRANDS[mark] for mark in marks if mark in _BRANDS), "an MPEG-4 video or recording")
        return Known(brand, _WAV if "recording" in brand else _PNG)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Known("an AIFF recording", _WAV)
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        return _RIFF[head[8:12]]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<") and b"<html" in text):
        return HTML
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text):
        return Known("an SVG drawing", "convert it to an image, for example with: rsvg-convert FILE -o FILE.png")
    return _zip(path) if head[:4] == b"PK\x03\x04" else None


_RIFF = {
    b"WEBP": Known("a WebP image", "use --image FILE"),
    b"WAVE": Known("a WAV recording", "use --audio FILE.wav"),
    b"AVI ": Known("an AVI video", _WAV),
}


_MEMBERS: tuple[tuple[Callable[[str], bool], Known], ...] = (
    (lambda name: name == "xl/workbook.xml", Known("an Excel workbook", "rename it to end in .xlsx")),
    (lambda name: name == "word/document.xml", Known("a Word document", "save its contents as .csv")),
    (lambda name: name == "content.xml", Known("an OpenDocument file", "save it as .xlsx or .csv")),
    (lambda name: name == "index.xml", Known("a Numbers file", "export it as .xlsx or .csv")),
    (
        lambda name: name.endswith("/constants.pkl"),
        Known("a TorchScript program", "save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"),
    ),
    (
        lambda name: "serialized_exported_program" in name or name.endswith("models/model.json"),
        Known("a torch.export program", "save its weights: torch.save(program.state_dict, 'weights.pt')"),
    ),
    (
        lambda name: name.endswith("data.pkl"),
        Known("a torch.save file", "use --weights FILE for weights; save an array with numpy.save"),
    ),
    (
        lambda name: name.endswith(".npy"),
        Known("an .npz archive of arrays", "save one array: numpy.save(FILE.npy, numpy.load(FILE)[NAME])"),
    ),
)


def _zip(path: Path) -> Known | None:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return None
    kinds = (kind for fits, kind in _MEMBERS for name in names if fits(name))
    return next(kinds, Known("a zip archive", "unpack it first"))
