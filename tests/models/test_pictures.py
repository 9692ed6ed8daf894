"""Pictures and arrays: what is read of them is right, what cannot be is named, and nothing is run for them."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from edgecloud.engine.calibration import read_samples
from edgecloud.models import inputs, pictures, registry
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.zoo.digits import digit_pictures, split_digits
from edgecloud.tasks.fleet import pictures_in
from edgecloud.utils.errors import UsageError
from tests.conftest import CallEdge

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
0 0 64 64 rectfill
%%EOF
"""


@contextmanager
def one_line() -> Iterator[None]:
    """What is done may be refused, in one line of our own words."""
    told = ""
    try:
        yield
    except UsageError as error:
        told = str(error)
    assert "\n" not in told
    assert "allow_pickle" not in told


@pytest.fixture
def ghost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called `gs`, first in PATH; where the file that is returned appears it was run."""
    ran, folder = tmp_path / "ran", tmp_path / "bin"
    folder.mkdir()
    for name in ("gs", "gswin64c", "gswin32c"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return ran


def named(folder: Path, content: bytes) -> list[Path]:
    """The same bytes under every name that a picture may have, in a folder of their own."""
    (folder / "pictures").mkdir()
    found = [folder / "pictures" / f"a{suffix}" for suffix in sorted(pictures.SUFFIXES | {".eps"})]
    for path in found:
        path.write_bytes(content)
    return found


def test_no_picture_starts_a_program_wherever_it_comes_in(ghost: Path, tmp_path: Path, edge: CallEdge) -> None:
    entry = registry.lookup("le_net")
    paths = named(tmp_path, EPS)
    readers: list[Callable[[Path], object]] = [
        lambda path: inputs.from_image(path, entry.preprocess),
        lambda path: inputs.crops(path, 1),
        lambda path: inputs.read(entry.name, entry.takes, inputs.PICTURE, path, entry.preprocess),
        lambda path: read_samples(entry, path.parent),
        lambda path: pictures_in(path.parent),
    ]
    for path in paths:
        for read in readers:
            with pytest.raises(UsageError, match="EPS or PostScript drawing"):
                read(path)
    run = edge("-t", "le_net", "--point", "12", "--image", str(paths[2]), "--json")
    assert run.code == 2
    assert not ghost.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a HEIC image: convert it"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1avif", "an AVIF image: convert it"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1", "an AVIF image: convert it"),
        (b"\xc5\xd0\xd3\xc6" + bytes(28), "an EPS drawing"),
        (b"%PDF-1.7\n", "a PDF document: convert the page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"<svg/>", "an SVG drawing"),
        (b"8BPS\x00\x01", "a Photoshop file"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"<!DOCTYPE html><p>404", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "a WAV recording: use --audio"),
        (b"\x93NUMPY\x01\x00", "array: use --input"),
        (b"hello", "damaged, or another format"),
        (b"", "damaged, or another format"),
    ],
)
def test_what_is_no_picture_is_named_with_the_cure(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=told) as caught:
        pictures.read(path)
    assert "a.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "gif", "tiff", "webp", "ppm"])
def test_plain_pictures_are_read_and_cut_off_ones_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / "a.img"  # its name says nothing
    Image.fromarray(noise).filter(ImageFilter.BoxBlur(4)).save(path, kind)
    assert pictures.read(path).image.size == (50, 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UsageError) as caught:
        pictures.read(path)
    assert "a.img" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"GIF89a", b"II*\x00", b"P6\n"]),
    st.binary(),
)
def test_any_bytes_are_a_picture_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(head + rest)
    with one_line():
        pictures.read(path)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose head promises so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("sides", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (8001, 8001)])
def test_too_many_pixels_are_refused_before_any_is_decoded(sides: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*sides))
    with pytest.raises(UsageError, match="pixels"):
        pictures.read(path)


def test_a_photograph_is_turned_as_its_exif_data_says(tmp_path: Path) -> None:
    upright = Image.new("RGB", (40, 20), "red")
    upright.paste("blue", (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(pictures.read(tmp_path / "turned.png").image), np.asarray(upright))


# --- how bright


def shades() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A ramp from black to white."""
    return np.linspace(0, 1, 64 * 48).reshape(48, 64)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_greys_of_fewer_bits_in_files_of_sixteen_are_as_bright_as_they_were(
    bits: int, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    values = np.round(shades() * ((1 << bits) - 1)).astype(np.uint16)
    if suffix == ".pgm":
        path.write_bytes(b"P5 64 48 %d\n" % max(256, (1 << bits) - 1) + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    picture = pictures.read(path)
    expected = np.round(shades() * 255)
    if suffix == ".pgm" and bits == 8:
        expected = np.round(shades() * 255 * 255 / 256)
    np.testing.assert_allclose(np.asarray(picture.image, dtype=float), expected, atol=1)
    is_scaled = bits < 16 and suffix != ".pgm"  # a .pgm says how bright its brightest is
    assert picture.note == (f"16-bit gray with {bits} significant bits, scaled accordingly" if is_scaled else "")


def test_what_was_scaled_stands_in_the_source(tmp_path: Path) -> None:
    Image.fromarray(np.round(shades() * 4095).astype(np.uint16)).save(tmp_path / "a.png")
    entry = registry.lookup("cifar_alexnet")
    found = inputs.from_image(tmp_path / "a.png", entry.preprocess)
    assert found.source == f"image:{tmp_path / 'a.png'} (16-bit gray with 12 significant bits, scaled accordingly)"
    Image.fromarray(np.round(shades() * 255).astype(np.uint8)).save(tmp_path / "b.png")
    torch.testing.assert_close(
        found.tensor, inputs.from_image(tmp_path / "b.png", entry.preprocess).tensor, atol=1 / 255, rtol=0
    )


def colours_of_sixteen(bits: int) -> bytes:
    """A PNG with 16 bits a channel, of which so many are used."""
    values = np.round(shades() * ((1 << bits) - 1)).astype(">u2")[:, :, None].repeat(3, 2)
    rows = b"".join(b"\x00" + row.tobytes() for row in values)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_colours_of_sixteen_bits_that_would_be_black_are_refused(bits: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colours_of_sixteen(bits))
    with pytest.raises(UsageError, match=r"a\.png: its 16-bit colors use only the lower bits"):
        pictures.read(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(colours_of_sixteen(16))
    ramp = np.asarray(pictures.read(tmp_path / "b.png").image.convert("L"), dtype=float)
    np.testing.assert_allclose(ramp, shades() * 255, atol=1)


def transparent(colour: tuple[int, int, int]) -> Image.Image:
    """A bar of one colour on nothing."""
    drawn = Image.new("RGBA", (60, 60), (*colour, 0))
    drawn.paste((*colour, 255), (26, 8, 34, 52))
    return drawn


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (90, 90, 90), (255, 255, 255), (250, 250, 240), (255, 255, 0), (200, 0, 0)]
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_drawn_on_nothing_is_seen(colour: tuple[int, int, int], mode: str, tmp_path: Path) -> None:
    transparent(colour).convert(mode).save(tmp_path / "a.png")
    found = np.asarray(inputs.from_image(tmp_path / "a.png", inputs.digit_array).tensor)[0, 0]
    assert found[14, 14] > 0.9
    assert found[:, :6].max() < 0.1


def test_on_black_is_told(tmp_path: Path) -> None:
    transparent((255, 255, 255)).save(tmp_path / "a.png")
    assert "transparent areas shown as black" in inputs.from_image(tmp_path / "a.png", inputs.digit_array).source
    transparent((0, 0, 0)).save(tmp_path / "a.png")
    assert inputs.from_image(tmp_path / "a.png", inputs.digit_array).source == f"image:{tmp_path / 'a.png'}"


# --- digits


def answers(network: TorchNetwork, drawn: list[Image.Image]) -> list[int]:
    batch = torch.from_numpy(np.concatenate([inputs.digit_array(one) for one in drawn]))
    with torch.inference_mode():
        found: list[int] = network.loaded.model(batch).argmax(1).tolist()
    return found


def placed(digit: Image.Image, paper: int, ink: int, noise: float, left: int, top: int) -> Image.Image:
    """A digit as somebody draws or photographs it: in other greys, with room around it, not in the middle."""
    mask = np.zeros((120, 120))
    mask[top : top + 70, left : left + 70] = np.asarray(digit.resize((70, 70), Image.Resampling.BICUBIC)) / 255
    grey = paper + (ink - paper) * mask + np.random.default_rng(left).normal(0, noise, mask.shape)
    return Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("paper", "ink", "noise", "left", "top"),
    [
        (255, 0, 0, 25, 25),
        (0, 255, 0, 25, 25),
        (110, 10, 0, 25, 25),
        (30, 120, 0, 25, 25),
        (140, 250, 0, 2, 48),
        (128, 90, 3, 25, 25),
        (200, 60, 8, 48, 3),
        (110, 10, 20, 20, 30),
        (115, 5, 12, 50, 50),
    ],
)
def test_held_out_digits_are_read_in_any_ink_on_any_paper_anywhere(
    paper: int, ink: int, noise: float, left: int, top: int, network: Callable[[str], TorchNetwork]
) -> None:
    every, classes = digit_pictures()
    held_out = split_digits()[1][::5]
    drawn = [placed(every[n], paper, ink, noise, left, top) for n in held_out]
    for name in ("le_net", "mnist"):
        right = [found == classes[n] for found, n in zip(answers(network(name), drawn), held_out, strict=True)]
        assert sum(right) / len(right) >= 0.96, name


@pytest.mark.parametrize(("name", "share"), [("le_net", 0.991), ("mnist", 0.997)])
def test_held_out_digits_as_they_were_trained_on_are_read_as_well_as_ever(
    name: str, share: float, network: Callable[[str], TorchNetwork]
) -> None:
    every, classes = digit_pictures()
    _, held_out = split_digits()
    right = [
        a == classes[n] for a, n in zip(answers(network(name), [every[n] for n in held_out]), held_out, strict=True)
    ]
    assert sum(right) / len(right) >= share
    whole = Image.new("L", (8, 8))
    whole.paste(255, (2, 0, 5, 8))
    expected = np.asarray(whole.resize((28, 28), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    np.testing.assert_array_equal(np.asarray(inputs.digit_array(whole))[0, 0], expected)  # as it always was


@settings(max_examples=25, deadline=None)
@given(
    paper=st.integers(0, 255),
    ink=st.integers(0, 255),
    width=st.integers(6, 28),
    left=st.integers(4, 100),
    side=st.sampled_from([28, 60, 140, 600]),
)
def test_a_drawn_one_is_a_one(
    network: Callable[[str], TorchNetwork], paper: int, ink: int, width: int, left: int, side: int
) -> None:
    if abs(paper - ink) < 2 * pictures.LEAST_CONTRAST:
        ink = (paper + 128) % 256
    picture = Image.new("L", (140, 140), paper)
    ImageDraw.Draw(picture).rounded_rectangle((left, 20, left + width, 124), 3, fill=ink)
    picture = picture.resize((side, side), Image.Resampling.BOX if side < 140 else Image.Resampling.NEAREST)
    assert answers(network("le_net"), [picture]) == [1]
    assert answers(network("mnist"), [picture]) == [1]


def test_an_empty_page_is_black() -> None:
    for grey in (0, 120, 255):
        assert not inputs.digit_array(Image.new("L", (100, 80), grey)).any()


# --- arrays


def wanted(name: str) -> inputs.InputSources:
    return registry.lookup(name).input_sources


def saved(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Path:
    np.save(path, array)
    return path


def test_floats_are_the_tensor_with_and_without_the_batch_axis(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64, ">f4"):
        for shape in ((1, 28, 28), (1, 1, 28, 28)):
            found = inputs.from_array(saved(tmp_path / "x.npy", np.full(shape, 0.5, dtype)), wanted("le_net"))
            torch.testing.assert_close(found.tensor, torch.full((1, 1, 28, 28), 0.5))
            assert found.source == f"array:{tmp_path / 'x.npy'}"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("layout", ["HWC", "CHW", "NHWC", "NCHW"])
def test_whole_numbers_of_a_picture_are_that_picture(dtype: type, layout: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    entry = registry.lookup("cifar_alexnet")
    array = pixels.transpose(2, 0, 1) if "CHW" in layout else pixels
    path = saved(tmp_path / "x.npy", (array[None] if "N" in layout else array).astype(dtype))
    found = inputs.from_array(path, entry.input_sources)
    torch.testing.assert_close(found.tensor, inputs.from_image(tmp_path / "a.png", entry.preprocess).tensor)
    assert found.source == f"array:{path} ({np.dtype(dtype)} read as an image of 80x60)"


def test_whole_numbers_of_the_networks_own_shape_are_a_picture_as_well(tmp_path: Path) -> None:
    digit = np.zeros((28, 28), np.uint8)
    digit[:, 12:16] = 255
    for array in (digit, digit[None], digit[None, None], digit[:, :, None]):
        found = inputs.from_array(saved(tmp_path / "x.npy", array), wanted("le_net"))
        np.testing.assert_array_equal(found.tensor[0, 0], digit / np.float32(255))


@pytest.mark.parametrize(
    ("array", "told", "name"),
    [
        (np.ones((28, 28)), "does not match", "le_net"),
        (np.ones((30, 280, 280)), "too large", "le_net"),
        (np.full((1, 28, 28), np.nan), "NaN", "le_net"),
        (np.full((1, 28, 28), 200.0), "up to 200, and le_net takes normalized pixels from 0 to 1", "le_net"),
        (np.full((3, 224, 224), -120, np.float32), "up to 120", "alex_net"),
        (np.full((1, 28, 28), 300), "0 to 255 are", "le_net"),
        (np.full((1, 28, 28), -1, np.int8), "from -1 to -1 are no pixels", "le_net"),
        (np.full((5, 28, 28), 3), "are not an image", "le_net"),
        (np.full((100, 440), 3), r"whole numbers \(int64\), and kaldi takes floats", "kaldi"),
        (np.full((28, 300), 3, np.uint8), "senna_pos takes floats", "senna_pos"),
        (np.full((1, 28, 28), "a"), "not <U1", "le_net"),
        (np.full((1, 28, 28), 1j), "not complex128", "le_net"),
        (np.full((1, 28, 28), True), "not bool", "le_net"),
        (np.zeros((1, 28), dtype=[("a", "f4")]), "expected an array of numbers", "le_net"),
        (np.array([{}], dtype=object), r"contains Python objects.*never loaded.*numpy\.save", "le_net"),
    ],
)
def test_arrays_that_cannot_be_meant_are_refused(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], told: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        inputs.from_array(saved(tmp_path / "x.npy", array), wanted(name))
    assert "allow_pickle" not in str(caught.value)
    assert "\n" not in str(caught.value)


def npz() -> bytes:
    written = io.BytesIO()
    np.savez(written, x=np.ones(3))
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"1 2 3", "it is text"),
        ("温度,1\n".encode(), "it is text"),
        (b"\x93NUMPY", "damaged or truncated"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (1, 99999999999)}", "damaged or truncated"),
        (b"\x80\x04\x95\x10", "pickled Python object"),
        (npz(), r"\.npz archive"),
        (b"PK\x03\x04aaaa", "it is"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"<html>", "an HTML page"),
        (bytes(range(40)), "something else"),
    ],
)
def test_what_is_no_array_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UsageError, match=f"cannot read the array .*{told}") as caught:
        inputs.from_array(tmp_path / "x.npy", wanted("le_net"))
    assert "allow_pickle" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_body_that_is_cut_off_is_told_and_a_missing_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", np.ones((1, 28, 28)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="damaged or truncated"):
        inputs.from_array(path, wanted("le_net"))
    with pytest.raises(UsageError, match="no file"):
        inputs.from_array(tmp_path / "none.npy", wanted("le_net"))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"]), st.binary(max_size=300))
def test_any_bytes_are_an_array_or_one_line(tmp_path_factory: pytest.TempPathFactory, head: bytes, rest: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(head + rest)
    with one_line():
        inputs.from_array(path, wanted("le_net"))
