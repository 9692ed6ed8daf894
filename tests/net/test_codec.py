"""Codecs: what comes back is within the promised error, and what a stranger sends is a tensor or a typed error."""

import contextlib
import math
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.hostile.attacks import encode as to_frame
from edgecloud.net import codec, tensors
from edgecloud.net.affine import Affine
from edgecloud.net.codec import CODECS, OPTIONAL, STANDARD, CodecError, Encoded
from edgecloud.net.connection import Connection
from edgecloud.net.frames import Limits
from edgecloud.net.messages import Infer
from edgecloud.utils.dtypes import TRAVELLING, dtype_of
from edgecloud.utils.errors import ProtocolError
from tests.conftest import ROOT, many
from tests.net.test_connection import soon, tcp_pair
from tests.net.test_frames import SPECIFICATION

LIMITS = Limits(more_codecs=frozenset(OPTIONAL))
GENERAL = [name for name in STANDARD if not name.startswith("pixels")]
"""Those that carry any float32; test_calibration.py has the pixels of pictures, test_jpeg.py pictures as JPEG."""
LOSSLESS = [name for name in GENERAL if CODECS[name].is_lossless]
LOSSY = [name for name in GENERAL if not CODECS[name].is_lossless]
INTS = [name for name in LOSSY if name.startswith("int")]
HALVES = ["fp16", "fp16+zstd"]
COMPRESSED = [name for name, one in CODECS.items() if one.compressor is not None]

relaxed = settings(deadline=None, max_examples=many(30, 300))
shapes = hnp.array_shapes(min_dims=0, max_dims=8, max_side=3)
activations = st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
finite = st.floats(-(2.0**127), 2.0**127, width=32)
half_range, tiny = st.floats(-65504, 65504, width=32), st.floats(-(2.0**-13), 2.0**-13, width=32)
numbers = hnp.arrays(np.float32, shapes | activations, elements=finite | st.floats(-4, 4, width=32) | st.just(0.0))


def there_and_back(array: tensors.Array | Encoded) -> tensors.Array:
    """Over the wire."""
    described, buffers = tensors.describe([array])
    return tensors.view(described, memoryview(b"".join(buffers)), LIMITS)[0]


def described(name: str, dtype: str, shape: tuple[int, ...], buffer: bytes, limits: Limits = LIMITS) -> tensors.Array:
    """What a buffer is read as."""
    return tensors.view({"tensors": [(dtype, shape, name, 0)], "buffers": [len(buffer)]}, memoryview(buffer), limits)[0]


def joined(encoded: Encoded) -> bytes:
    """What of a tensor lies in the payload."""
    return b"".join(encoded.parts)


# --- what comes back


@pytest.mark.parametrize("name", LOSSLESS)
@relaxed
@given(st.data())
def test_lossless_codecs_give_every_bit_back(name: str, data: st.DataObject) -> None:
    dtype = dtype_of(data.draw(st.sampled_from(TRAVELLING)))
    shape = data.draw(shapes)
    content = np.random.default_rng(data.draw(st.integers(0, 1 << 32))).bytes(16 * math.prod(shape))
    array = np.frombuffer(content, dtype, math.prod(shape)).reshape(shape)
    if dtype == np.bool_:
        array = array.view(np.uint8) % 2 == 1
    back = there_and_back(codec.encode(array, name))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("name", LOSSLESS)
def test_nan_payloads_and_negative_zero_survive_lossless_codecs(name: str) -> None:
    bits = np.array([0x7FC00001, 0x7F800001, 0xFFC12345, 0x80000000, 0x7F800000, 1], np.uint32)
    back = there_and_back(codec.encode(bits.view(np.float32), name))
    np.testing.assert_array_equal(back.view(np.uint32), bits)


def steps(name: str, encoded: Encoded) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The scale of every row, from the buffer."""
    form = CODECS[name].form
    assert isinstance(form, Affine)
    return (
        np.frombuffer(joined(encoded)[: form.parameter_bytes(encoded.shape)], "<f4").reshape(-1, 2)[:, 1].astype(float)
    )


@pytest.mark.parametrize("name", INTS)
@relaxed
@given(numbers)
def test_whole_numbers_are_off_by_half_a_scale_at_most_and_zero_stays_zero(name: str, array: tensors.Array) -> None:
    encoded = codec.encode(array, name)
    back = there_and_back(encoded)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    scale = steps(name, encoded)
    rows, decoded = array.reshape(scale.size, -1).astype(float), back.reshape(scale.size, -1).astype(float)
    ulps = np.spacing(np.abs(rows).max(axis=1).astype(np.float32)).astype(float)
    assert (np.abs(rows - decoded).max(axis=1) <= scale * (0.5 + 1e-4) + ulps).all()
    # ... and the scale is what the range asks for, a little more at most
    span = rows.max(axis=1) - rows.min(axis=1)
    assert (scale <= np.maximum(span / ((1 << int(name[3])) - 1) * (1 + 1e-4), 2.0**-126)).all()
    held = (rows.min(axis=1) <= 0) & (rows.max(axis=1) >= 0)
    assert (decoded[held][rows[held] == 0] == 0).all()
    constant = span == 0
    np.testing.assert_array_equal(decoded[constant], rows[constant])


@pytest.mark.parametrize("name", ["int8c", "int6c", "int4c"])
def test_a_zero_half_way_between_two_codes_leads_to_none_beyond_the_ends(name: str) -> None:
    """Where lo / scale is nearly k + 1/2, rounding errors decide: the lowest number must not become code -1, or 255."""
    levels, rows = (1 << int(name[3])) - 1, 60_000
    rng = np.random.default_rng(8)
    span = rng.uniform(0.5, 2, rows).astype(np.float32)
    scale = steps(name, codec.encode(np.linspace(0, span, 16, dtype=np.float32).T.reshape(1, rows, 16).copy(), name))
    lo = -(rng.integers(0, levels, rows) + 0.5) * scale * (1 + rng.integers(-4, 5, rows) * 2.0**-25)
    array = np.linspace(lo, lo + span, 16, dtype=np.float32).T.reshape(1, rows, 16).copy()
    error = np.abs(there_and_back(codec.encode(array, name)) - array)[0].max(axis=1)
    assert (error <= scale * (0.5 + 1e-3)).all()


def test_what_fills_the_last_byte_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never what was in the memory before."""
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 0xFF, dtype))
    for name, last in (("int4", 0x0F), ("int6", 0x3F)):
        assert joined(codec.encode(np.array([0, 1, 0, 0, 1], np.float32), name))[8:].rstrip(b"\0")[-1] == last


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize(
    "ends", [(-3e38, 3e38), (0, 3e38), (-3e38, -2.9e38), (-1e-45, 1e-45), (0, 1e-40), (1000, 1000.0001), (-5, 1e-30)]
)
def test_extreme_ranges_neither_overflow_nor_lose_zero(name: str, ends: tuple[float, float]) -> None:
    array = np.linspace(*ends, 320, dtype=np.float32).reshape(1, 4, 80)
    array[0, :, 7] = 0 if ends[0] <= 0 <= ends[1] else ends[0]
    back = there_and_back(codec.encode(array, name))
    levels = (1 << int(name[3])) - 1
    bound = (float(ends[1]) - ends[0]) / levels * 0.51 + float(np.spacing(np.float32(max(map(abs, ends))))) + 2.0**-126
    assert np.isfinite(back).all()
    assert np.abs(array.astype(float) - back).max() <= bound
    if ends[0] <= 0 <= ends[1]:
        assert not back[0, :, 7].any()


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -7e37, 3.4028235e38, -3.4028235e38, 1e-45])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (1, 2, 4, 4)])
def test_constants_are_exact(name: str, value: float, shape: tuple[int, ...]) -> None:
    array = np.full(shape, value, np.float32)
    np.testing.assert_array_equal(there_and_back(codec.encode(array, name)), array)


def test_a_channel_has_parameters_of_its_own_where_it_is_large_enough() -> None:
    array = np.stack([np.linspace(0, 1, 49), np.linspace(-1000, 0, 49), np.full(49, 5)]).astype(np.float32)
    array = array.reshape(1, 3, 7, 7)
    encoded = codec.encode(array, "int8c")
    back = there_and_back(encoded)
    assert encoded.nbytes == 3 * 8 + array.size
    assert np.abs(back - array)[0, 0].max() <= 0.51 / 255
    assert np.abs(back - array)[0, 1].max() <= 510 / 255
    assert not np.abs(back - array)[0, 2].any()
    assert codec.encode(array.reshape(1, 147), "int8c").nbytes == 8 + array.size
    assert codec.encode(array[..., :2, :], "int8c").nbytes == 8 + array.size * 2 // 7


@pytest.mark.parametrize("name", HALVES)
@relaxed
@given(
    hnp.arrays(
        np.float32, shapes, elements=st.floats(-65504, 65504, width=32) | st.floats(-(2.0**-13), 2.0**-13, width=32)
    )
)
def test_halves_are_the_nearest(name: str, array: tensors.Array) -> None:
    back = there_and_back(codec.encode(array, name))
    nearest = array.astype(np.float16).astype(np.float32)
    assert (back.dtype, back.shape) == (nearest.dtype, nearest.shape)
    normal = np.abs(array) >= 2.0**-14
    np.testing.assert_array_equal(back[normal], nearest[normal])
    # below, a tie may be broken the other way: it is rounded twice, first to what float32 has left there
    assert (np.abs(back - array)[~normal] <= 2.0**-25 * (1 + 2.0**-12)).all()


def test_every_half_is_read_as_what_it_is_and_written_again() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    halves = halves[(halves & 0x7C00) != 0x7C00]
    back = described("fp16", "float32", halves.shape, halves.tobytes())
    np.testing.assert_array_equal(back.view(np.uint32), halves.view(np.float16).astype(np.float32).view(np.uint32))
    assert joined(codec.encode(back, "fp16")) == halves.tobytes()


@pytest.mark.parametrize("name", GENERAL)
def test_large_tensors_and_views_survive_too(name: str) -> None:
    """More than one piece, and not in C order."""
    whole = np.random.default_rng(0).normal(0, 1, (1, 70, 65, 30)).astype(np.float32)
    for array in (whole, whole[:, ::2, :, ::3], whole.transpose(0, 3, 1, 2), whole.astype(">f4")):
        back = there_and_back(codec.encode(array, name))
        assert np.abs(back - array).max() <= (0 if CODECS[name].is_lossless else 0.4)
        assert name == "raw" or back.flags.writeable


def test_raw_is_not_copied() -> None:
    array = np.zeros(8, np.float32)
    _, (buffer,) = tensors.describe([codec.encode(array, "raw")])
    array[0] = 1
    assert bytes(buffer[:4]) == np.float32(1).tobytes()


@pytest.mark.parametrize("name", [name for name in GENERAL if name not in COMPRESSED])
@relaxed
@given(shape=shapes | activations)
def test_the_size_without_zstd_is_known_beforehand(name: str, shape: tuple[int, ...]) -> None:
    encoded = codec.encode(np.ones(shape, np.float32), name)
    assert encoded.nbytes == codec.exact_bytes("float32", shape, name)


def test_with_zstd_the_size_is_not_known_beforehand() -> None:
    assert {codec.exact_bytes("float32", (1,), name) for name in COMPRESSED} == {None}


def test_eighteen_codecs_are_known_by_their_names_and_one_more_where_it_is_wanted() -> None:
    ints = [f"int{bits}{c}{z}" for z in ("", "+zstd") for bits in (8, 6, 4) for c in ("", "c")]
    assert set(STANDARD) == {"raw", "zstd", "pixels", "pixels+zstd", "fp16", "fp16+zstd", *ints}
    assert set(CODECS) - set(STANDARD) == set(OPTIONAL) == {"jpeg"}
    assert all(name == one.name for name, one in CODECS.items())


def test_mixed_tensors_share_a_frame() -> None:
    arrays: list[tensors.Array] = [np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(5), np.eye(2, dtype="f4")]
    header, buffers = tensors.describe(
        [codec.encode(arrays[0], "int8+zstd"), arrays[1], codec.encode(arrays[2], "int4")]
    )
    back = tensors.view(header, memoryview(b"".join(buffers)), LIMITS)
    for one, other in zip(arrays, back, strict=True):
        np.testing.assert_allclose(one, other, atol=0.03)


def test_coded_tensors_travel_over_a_socket() -> None:
    array = np.maximum(np.random.default_rng(5).normal(0, 1, (1, 4, 9, 9)), 0).astype(np.float32)
    sent = [codec.encode(array, name) for name in GENERAL]
    with tcp_pair() as (raw, near):
        assert near.send(Infer(1, [[0, 1]], 1.0), soon(), sent) == sum(one.nbytes for one in sent)
        for got in Connection(raw).receive(soon()).arrays():
            assert np.abs(got - array).max() <= np.ptp(array) / 29


def test_a_coded_tensor_is_byte_exact() -> None:
    """The second example in the specification is these bytes, no others."""
    _, example, _ = re.findall(r"```hex\n(.*?)```", SPECIFICATION.read_text(), re.DOTALL)
    golden = bytes.fromhex(re.sub(r"#.*", "", example))
    array = np.array([[-1.0, 0.0, 0.5, 2.0, 1.0]], np.float32)
    assert to_frame(Infer(1, [[2, 4]], 1.5), [codec.encode(array, "int4")]) == golden


# --- what cannot be carried


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 40, 99])
def test_lossy_codecs_refuse_what_is_not_finite(name: str, value: float, place: int) -> None:
    array = np.ones((1, 2, 50), np.float32)
    array.reshape(-1)[place] = value
    with pytest.raises(CodecError, match="finite"):
        codec.encode(array, name)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("array", [np.ones(3), np.ones(3, np.float16), np.ones(3, int), np.ones(0, np.float32)])
def test_lossy_codecs_refuse_other_types(name: str, array: tensors.Array) -> None:
    with pytest.raises(CodecError, match="float32"):
        codec.encode(array, name)


@pytest.mark.parametrize("name", HALVES)
def test_halves_end_below_65520(name: str) -> None:
    assert there_and_back(codec.encode(np.array([65519.996, -65519.996], np.float32), name)).tolist() == [65504, -65504]
    for value in (65520.0, -65520.0, 1e38):
        with pytest.raises(CodecError, match="65520"):
            codec.encode(np.array([value], np.float32), name)


@pytest.mark.parametrize("ends", [(-3.4e38, 3.4e38), (0, 3.4028235e38), (-3.4028235e38, 1.7014117e38)])
def test_a_range_whose_ends_no_scale_reaches_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(CodecError, match="finite"):
        codec.encode(np.array(ends, np.float32), "int4")


def test_unknown_codecs_and_types_are_refused() -> None:
    with pytest.raises(CodecError, match="unknown codec 'zip'"):
        codec.encode(np.ones(3), "zip")
    with pytest.raises(CodecError, match="is not supported"):
        tensors.describe([np.array([1], np.uint64)])


# --- what strangers send


@pytest.mark.parametrize("name", list(CODECS))
@settings(deadline=None, max_examples=many(40, 400))
@given(st.data())
def test_any_buffer_is_a_tensor_or_a_protocol_error(name: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(("float32", "float32", "float16", "bool")))
    shape = data.draw(shapes | activations)
    known = codec.exact_bytes(dtype, shape, name)
    size = data.draw(st.just(known) | st.integers(0, 200)) if known is not None and known < 8192 else 100
    buffer = data.draw(st.binary(min_size=size, max_size=size))
    with contextlib.suppress(ProtocolError):
        array = described(name, dtype, shape, buffer)
        assert (array.dtype, array.shape) == (np.dtype(dtype), shape)
        assert CODECS[name].is_lossless or np.isfinite(array).all()


@pytest.mark.parametrize("name", list(CODECS))
@settings(deadline=None, max_examples=many(40, 400))
@given(st.data())
def test_every_change_of_a_buffer_gives_a_tensor_or_a_protocol_error(name: str, data: st.DataObject) -> None:
    numbers = np.maximum(np.random.default_rng(3).normal(0, 1, (1, 3, 10, 10)), 0)
    array = numbers.astype(np.float32) if name in GENERAL else (numbers * 50).astype(np.uint8) / np.float32(255)
    good = joined(codec.encode(array, name))
    flipped = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        front = data.draw(st.booleans())  # where the parameters and the frame's header are
        flipped[data.draw(st.integers(0, min(40, len(good)) - 1 if front else len(good) - 1))] = data.draw(
            st.integers(0, 255)
        )
    with contextlib.suppress(ProtocolError):
        got = described(name, "float32", array.shape, bytes(flipped))
        assert got.shape == array.shape
        assert CODECS[name].is_lossless or np.isfinite(got).all()
    for wrong in (
        good[: data.draw(st.integers(0, len(good) - 1))],
        good + data.draw(st.binary(min_size=1, max_size=9)),
    ):
        with pytest.raises(ProtocolError):
            described(name, "float32", array.shape, wrong)


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize(
    ("lo", "scale"),
    [(0, np.nan), (0, np.inf), (0, -1), (np.nan, 1), (-np.inf, 1), (np.inf, np.inf), (-3e38, 1e38), (3.4e38, 1e36)],
)
def test_parameters_that_are_no_range_are_refused(name: str, lo: float, scale: float) -> None:
    good = joined(codec.encode(np.arange(48, dtype=np.float32).reshape(1, 2, 24), name))
    bits = np.array([lo, scale], "<f4")
    signalling = bits.view("<u4") ^ np.where(np.isnan(bits), 0x400000 ^ 1, 0).astype("<u4")
    for pair in (bits.tobytes(), signalling.tobytes()):
        with pytest.raises(ProtocolError, match="lo, scale and the range"):
            described(name, "float32", (1, 2, 24), pair + good[8:])


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("half", [0x7C00, 0xFC00, 0x7C01, 0xFE00])
def test_halves_that_are_not_finite_are_refused(name: str, half: int) -> None:
    buffer = half.to_bytes(2, "little") * 4
    with pytest.raises(ProtocolError, match="finite"):
        described(name, "float32", (4,), buffer if name == "fp16" else zstandard.compress(buffer))


@pytest.mark.parametrize("name", ["int6+zstd", "int6c+zstd"])
def test_a_code_beyond_its_bits_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="6 bits"):
        described(name, "float32", (4,), np.array([0, 1], "<f4").tobytes() + zstandard.compress(b"\0\1\2\100"))


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_codecs_come_with_float32_only(name: str) -> None:
    with pytest.raises(ProtocolError, match="float32"):
        described(name, "float64", (4,), joined(codec.encode(np.ones(4, np.float32), name)))


def test_a_bool_that_is_neither_is_refused() -> None:
    with pytest.raises(ProtocolError, match="bool"):
        described("raw", "bool", (2,), b"\1\2")


@pytest.mark.parametrize("module", ["edgecloud.net.codec", "edgecloud.net.tensors"])
def test_codecs_load_neither_torch_nor_sockets(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'socket'}} & sys.modules.keys()))"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # which loads more
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare).returncode == 0
