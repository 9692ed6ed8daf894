"""Learned codecs: what numpy computes is what torch computes, and a file or a payload that is not right is refused."""

import json
import re
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch.nn import functional

from edgecloud.net import learned_file
from edgecloud.net.codec import CodecError
from edgecloud.net.convolutions import Convolution, Geometry
from edgecloud.net.learned_file import FREQUENCIES, BadFileError, LearnedCodec
from edgecloud.utils.errors import ProtocolError
from tests import learned

FILES = {(1, 6, 2, 2): learned.flat_file, (1, 2, 5, 7): learned.map_file}


def decoded(codec: LearnedCodec, packed: bytes) -> np.ndarray:
    """As the other side does it."""
    codec.check("float32", codec.about.shape, memoryview(packed))
    return codec.decode("float32", codec.about.shape, memoryview(packed))


GEOMETRIES = [Geometry(1), Geometry(3, 2), Geometry(4, 4), Geometry(2), Geometry(7, 2, 2, True)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(5, 9), (8, 8), (1, 1)])
def test_a_convolution_is_that_of_torch(geometry: Geometry, size: tuple[int, int]) -> None:
    """With the same zeros around it, and the same order of what grows."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, *size)).astype(np.float32)
    weight = rng.normal(size=(8, 3, geometry.kernel, geometry.kernel)).astype(np.float32)
    bias = rng.normal(size=8).astype(np.float32)
    (top, bottom), (left, right) = (geometry.padding(each) for each in size)
    padded = functional.pad(torch.from_numpy(x)[None], (left, right, top, bottom))
    expected = functional.conv2d(padded, torch.from_numpy(weight), torch.from_numpy(bias), geometry.stride)
    expected = functional.relu(expected) if geometry.is_relu else expected
    expected = functional.pixel_shuffle(expected, geometry.grows)
    made = Convolution(geometry, weight, bias)(x)
    assert made.shape == geometry.shape_after(x.shape, 8)
    np.testing.assert_allclose(made, expected[0].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "file"), FILES.items())
def test_a_tensor_goes_there_and_back(shape: tuple[int, ...], file: learned_file.Tensors) -> None:
    """What comes back is the same for the same codes, has the shape, and is few bytes."""
    codec = learned_file.read(file())  # type: ignore[operator]
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    packed = codec.encode(x)
    once, again = decoded(codec, packed), decoded(codec, codec.encode(x))
    assert once.shape == shape
    assert once.dtype == np.float32
    np.testing.assert_array_equal(once, again)
    assert len(packed) < x.nbytes / 3
    assert np.abs(once - x).max() > 0


def test_a_file_is_safetensors_and_its_name_is_its_digest() -> None:
    """Another program reads it, and one bit more is another codec."""
    content = learned.map_file()
    codec = learned_file.read(content)
    assert set(load(content)) == set(learned_file.names_of(codec.about))
    assert codec.name == "learned:tiny"
    assert codec.side.wire_name == f"learned@{codec.side.digest[:16]}"
    other = replace(codec.about, changed=2)
    tensors = {name: np.asarray(each) for name, each in load(content).items()}
    assert learned_file.read(learned_file.write(other, tensors)).side.digest != codec.side.digest
    assert learned_file.write(codec.about, tensors) == content


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_not_encoded(wrong: float) -> None:
    """So that it travels as it is, and the other side sees it."""
    codec = learned_file.read(learned.flat_file())
    x = np.zeros((1, 6, 2, 2), np.float32)
    x[0, 3, 1, 1] = wrong
    with pytest.raises(CodecError, match="finite"):
        codec.encode(x)


@pytest.mark.parametrize("array", [np.zeros((1, 6, 2, 3), np.float32), np.zeros((1, 6, 2, 2), np.int64)])
def test_another_tensor_is_not_encoded(array: np.ndarray) -> None:
    """Shape and dtype are those that it was trained on."""
    with pytest.raises(CodecError):
        learned_file.read(learned.flat_file()).encode(array)


def test_a_payload_for_another_shape_is_refused() -> None:
    """Before anything of it is decoded."""
    codec = learned_file.read(learned.flat_file())
    packed = codec.encode(np.zeros((1, 6, 2, 2), np.float32))
    buffer = memoryview(packed)
    for dtype, shape in (("float32", (1, 6, 2, 3)), ("float32", (6, 2, 2)), ("int64", (1, 6, 2, 2))):
        with pytest.raises(ProtocolError):
            codec.check(dtype, shape, buffer)


def test_damaged_payloads_are_refused_or_decode_to_finite_numbers() -> None:
    """Truncated at every byte, and with every byte changed."""
    codec = learned_file.read(learned.map_file())
    shape = (1, 2, 5, 7)
    payload = codec.encode(np.random.default_rng(3).normal(size=shape).astype(np.float32))
    damaged = [payload[:end] for end in range(len(payload))] + [payload + b"\0"]
    rng = np.random.default_rng(4)
    for place in range(len(payload)):
        for value in rng.integers(1, 256, 4).tolist():
            damaged.append(payload[:place] + bytes([payload[place] ^ value]) + payload[place + 1 :])
    refused = 0
    for each in damaged:
        try:
            codec.check("float32", shape, memoryview(each))
            made = codec.decode("float32", shape, memoryview(each))
        except ProtocolError:
            refused += 1
        else:
            assert made.shape == shape
            assert np.isfinite(made).all()
    assert refused >= len(payload) // 2


def test_damaged_files_are_refused_in_one_line() -> None:
    """Every byte of the header changed, truncated anywhere, bits flipped in the numbers: a BadFileError or a codec."""
    content = learned.flat_file()
    header = int.from_bytes(content[:8], "little") + 8
    rng = np.random.default_rng(5)
    damaged = [content[:end] for end in (*range(0, header, 7), *range(header, len(content), 11))] + [content + b"\0"]
    for place in [*range(header), *rng.integers(header, len(content), 200).tolist()]:
        value = int(rng.integers(1, 256))
        damaged.append(content[:place] + bytes([content[place] ^ value]) + content[place + 1 :])
    refused = sum(not is_read(each) for each in damaged)
    assert refused > header // 2


def is_read(content: bytes) -> bool:
    """Whether it is a codec, which then works."""
    try:
        codec = learned_file.read(content)
    except BadFileError as error:
        return not re.fullmatch(r"[^\n]{1,300}", str(error))
    x = np.zeros(codec.about.shape, np.float32)
    with suppress(CodecError, ProtocolError):  # weights that overflow
        assert np.isfinite(decoded(codec, codec.encode(x))).all()
    return True


def changed(**values: object) -> bytes:
    """The file with other values in its description."""
    content = learned.map_file()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["about"]) | values
    header["__metadata__"]["about"] = json.dumps(about)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


STEP = {"kernel": 3, "stride": 2, "grows": 1, "is_relu": True}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"name": "../x"}, "name"),
        ({"name": "a" * 41}, "name"),
        ({"shape": [1, 2, 5, 1 << 40]}, "shape"),
        ({"shape": [1, 2, 1 << 12, 1 << 12]}, "shape"),
        ({"shape": [2, 2, 5, 7]}, "carry"),
        ({"shape": [1, 2, True, 7]}, "shape"),
        ({"limit": 0}, "counts"),
        ({"limit": 128}, "limit"),
        ({"pictures": 0, "changed": 0}, "counts"),
        ({"changed": 201}, "counts"),
        ({"changed": -1}, "changed"),
        ({"changed": 1.0}, "changed"),
        ({"bytes": 1 << 80}, "bytes"),
        ({"is_flat": 1}, "is_flat"),
        ({"layer": "a\nb"}, "layer"),
        ({"more": 1}, "description"),
        ({"encoder": []}, "encoder"),
        ({"encoder": [STEP] * 9}, "encoder"),
        ({"encoder": [STEP | {"kernel": 8}]}, "step"),
        ({"encoder": [STEP | {"stride": 0}]}, "step"),
        ({"encoder": [STEP | {"grows": True}]}, "step"),
        ({"encoder": [STEP]}, "tensors"),
        ({"encoder": [STEP | {"kernel": 5}, STEP | {"kernel": 1}]}, "weights of shape"),
        ({"decoder": [STEP | {"stride": 1, "grows": 4}, STEP | {"stride": 1}]}, "weights of shape"),
        ({"decoder": [STEP | {"stride": 1, "grows": 2}, STEP]}, "decoder makes"),
    ],
)
def test_a_description_that_is_not_right_is_refused(values: dict[str, object], why: str) -> None:
    """Each in words that say what it is."""
    with pytest.raises(BadFileError, match=why):
        learned_file.read(changed(**values))


def test_a_file_that_asks_for_too_much_work_is_refused() -> None:
    """Before it runs: a map that grows and grows."""
    steps = (((Geometry(1), 16),), (*((Geometry(7, grows=4), 256) for _ in range(6)), (Geometry(1), 1)))
    about = learned.about_of((1, 1, 64, 64), steps, is_flat=False)
    with pytest.raises(BadFileError, match="work or memory"):
        learned_file.read(learned_file.write(about, learned.weights_of(about, steps)))


NO_FILES = [
    b"",
    b"\0" * 8,
    b"\xff" * 8 + b"{}",
    (2).to_bytes(8, "little") + b"{}",
    (9).to_bytes(8, "little") + b"[" * 9,
]


@pytest.mark.parametrize("content", NO_FILES)
def test_what_is_no_such_file_is_refused(content: bytes) -> None:
    """Whatever its first bytes promise."""
    with pytest.raises(BadFileError):
        learned_file.read(content)


def test_names_that_come_twice_are_refused() -> None:
    """Readers differ in which one they take."""
    content = learned.flat_file()
    size = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + size].rstrip()[:-1] + b',"mean":{}}'
    with pytest.raises(BadFileError, match="twice"):
        learned_file.read(len(text).to_bytes(8, "little") + text + content[8 + size :])


@pytest.mark.parametrize("wrong", ["a zero", "another sum", "another shape"])
def test_frequencies_that_do_not_add_up_are_refused(wrong: str) -> None:
    """A coder would loop, or write codes that there are not."""
    about = learned.about_of((1, 6, 2, 2), learned.FLAT, is_flat=True)
    tensors = dict(learned.weights_of(about, learned.FLAT))
    rows = tensors[FREQUENCIES].copy()
    if wrong == "a zero":
        rows[1, 0], rows[1, 1] = 0, rows[1, 1] + rows[1, 0]
    rows[2, 3] += wrong == "another sum"
    tensors[FREQUENCIES] = rows[:, 1:] if wrong == "another shape" else rows
    with pytest.raises(BadFileError, match=FREQUENCIES):
        learned_file.read(learned_file.write(about, tensors))
