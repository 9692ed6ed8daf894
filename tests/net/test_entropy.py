"""Entropy-coded codecs: the bytes, what comes back, and hostile tables and data."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.engine import tables
from edgecloud.net import ans, codec, entropy, tensors
from edgecloud.net.codec import KINDS, CodecError
from edgecloud.net.encodings import Array
from edgecloud.net.entropy import EntropyCodec, Tables
from edgecloud.net.sides import MAX_BYTES, Side
from edgecloud.utils.errors import ProtocolError

SHAPE = (1, 6, 8, 8)


def features(count: int = 8, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> list[Array]:
    """Tensors whose channels differ in width and place; half of them are rectified."""
    rng = np.random.default_rng(seed)
    size = (1, shape[1], *[1] * (len(shape) - 2))
    width, place = rng.uniform(0.1, 9, size), rng.normal(0, 3, size)
    made = [(rng.laplace(0, 1, shape) * width + place).astype(np.float32) for _ in range(count)]
    for each in made:
        each[:, ::2] = np.maximum(each[:, ::2], 0)
    return made


def held_out(shape: tuple[int, ...] = SHAPE) -> Array:
    """A tensor like those that the tables were found for, but none of them."""
    return features(41, shape)[40]


def found(bits: int, shape: tuple[int, ...] = SHAPE) -> EntropyCodec:
    return entropy.parse(tables.find(features(40, shape), bits).side)


def drawn_model(rng: np.random.Generator) -> ans.Model:
    count = int(rng.integers(2, 257))
    shares = rng.dirichlet(np.full(count, rng.choice([0.02, 0.3, 5.0])))
    whole = 1 + np.floor(shares * (ans.TOTAL - count)).astype(np.int64)
    whole[whole.argmax()] += ans.TOTAL - whole.sum()
    return ans.Model(whole)


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_library_and_integers_make_the_same_bytes(seed: int) -> None:
    assert ans.IS_NATIVE
    rng = np.random.default_rng(seed)
    runs = []
    for model in [drawn_model(rng) for _ in range(rng.integers(1, 4))]:
        shares = model.frequencies / ans.TOTAL
        runs.append((model, rng.choice(len(shares), rng.integers(1, 90), p=shares).astype(np.int32)))
    wanted = [(model, len(codes)) for model, codes in runs]
    data = ans.encode(runs)
    native = ans.decode(memoryview(data), wanted)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ans, "IS_NATIVE", False)
        assert ans.encode(runs) == data
        plain = ans.decode(memoryview(data), wanted)
    for decoded in (native, plain):
        assert all((got == codes).all() for got, (_, codes) in zip(decoded, runs, strict=True))
    ideal = sum(float(np.log2(ans.TOTAL / model.frequencies[codes]).sum()) for model, codes in runs) / 8
    assert ideal - 1 <= len(data) <= ideal + 4  # 24 bits that are not coded


def test_bytes_are_those_of_the_specification() -> None:
    """The example of docs/wire.md: what any other implementation makes of these numbers."""
    model = ans.Model(np.array([1 << 15, 1 << 14, 1 << 14]))
    data = ans.encode([(model, np.array([0, 1, 2, 0, 0, 1, 2, 1, 0, 2] * 3, np.int32))])
    assert data.hex() == "928121c72dc725"


@pytest.mark.parametrize("bits", entropy.BITS)
def test_error_is_at_most_half_a_step_inside_the_range(bits: int) -> None:
    one = found(bits)
    array = held_out()
    packed = codec.encode(array, f"ec{bits}", one)
    back = codec.decode(packed)
    assert back.shape == array.shape
    assert back.dtype == np.float32
    lo, scale = (each[None, :, None, None] for each in (one.tables.lo, one.tables.scale))
    clipped = np.clip(array, lo, lo + scale * ((1 << bits) - 1))
    assert (np.abs(back - clipped) <= scale * 0.5001).all()
    assert (back[array == 0] == 0).all()  # zero stays zero
    again = codec.decode(codec.encode(back, f"ec{bits}", one))
    assert again.tobytes() == back.tobytes()


def test_fewer_bits_take_fewer_bytes_and_less_than_the_plain_codes() -> None:
    array = held_out()
    sizes = [codec.encode(array, f"ec{bits}", found(bits)).nbytes for bits in entropy.BITS]
    assert sizes == sorted(sizes)
    assert all(size < array.size * bits / 8 for size, bits in zip(sizes, entropy.BITS, strict=True))


def test_models_are_near_the_entropy_of_each_channel() -> None:
    """Within 5 % of the order-0 entropy per channel of tensors that the tables did not see."""
    made = features(40)
    one = entropy.parse(tables.find(made[::2], 4).side)
    sent = sum(len(one.encode(each)) for each in made[1::2])
    assert sent < 1.05 * entropy.order_0_bytes(one, made[1::2])


def test_small_channels_share_a_range() -> None:
    made = [each.reshape(1, -1) for each in features()]
    one = entropy.parse(tables.find(made, 4).side)
    assert one.channels == 1
    assert codec.decode(codec.encode(made[0], "ec4", one)).shape == made[0].shape


@pytest.mark.parametrize("ends", [(1, 2, 8), (3, 4, 5, 8), (7, 8)])
def test_slices_of_rows_come_back_as_in_the_whole(ends: tuple[int, ...]) -> None:
    coder, whole = found(5), held_out()
    parts = [whole[:, :, start:end] for start, end in pairwise((0, *ends))]
    assert codec.splits("ec5", SHAPE, [part.shape for part in parts], coder)
    assert codec.splits("ec5", SHAPE, [part.shape for part in parts])
    together = np.concatenate([codec.decode(codec.encode(part, "ec5", coder)) for part in parts], axis=2)
    np.testing.assert_array_equal(together, codec.decode(codec.encode(whole, "ec5", coder)))


def test_slices_of_channels_are_none() -> None:
    part = (1, 3, *SHAPE[2:])
    assert not codec.splits("ec5", SHAPE, [part])
    assert not codec.splits("ec5", SHAPE, [part], found(5))
    assert not codec.splits("ec5", (1, 12, 8, 8), [(1, 12, 4, 8)], found(5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_only_finite_float32_of_the_channels(value: float) -> None:
    one, array = found(4), features(1)[0]
    for wrong in (array.astype(np.float64), array[:, :5], array.reshape(-1)):
        with pytest.raises(CodecError):
            codec.encode(wrong, "ec4", one)
    array[0, 0, 0, 0] = value
    with pytest.raises(CodecError, match="finite"):
        codec.encode(array, "ec4", one)
    array[0, :, 0, 0] = 3e38  # far outside is at the end of the range
    assert np.isfinite(codec.decode(codec.encode(array, "ec4", one))).all()
    with pytest.raises(CodecError, match="not calibrated"):
        codec.encode(array, "ec4")


def test_channels_without_a_range_and_extreme_ones() -> None:
    made = features()
    for each in made:
        each[:, 0], each[:, 1] = 0, 7.5
        each[:, 2] = np.linspace(-1e38, 1e38, 64).reshape(8, 8)
    one = entropy.parse(tables.find(made, 5).side)
    back = codec.decode(codec.encode(made[0], "ec5", one))
    assert (back[:, 0] == 0).all()
    assert (back[:, 1] == np.float32(7.5)).all()
    assert np.isfinite(back).all()


# --- tables and data from nobody knows whom


def changed(side: Side, at: int, what: bytes) -> Side:
    return Side(side.kind, side.data[:at] + what + side.data[at + len(what) :])


def test_tables_are_checked_in_every_count_and_sum() -> None:
    side = found(4).side
    frequencies = len(side.data) - 2 * (6 << 4)
    nan = np.float32(np.nan).tobytes()
    wrong = [
        Side("ec5", side.data),
        Side("ec4", side.data[:-1]),
        Side("ec4", side.data + b"\0"),
        Side("ec4", b""),
        Side("ec4", bytes(MAX_BYTES + 1)),
        changed(side, 0, b"\2"),
        changed(side, 1, b"\5"),
        changed(side, 1, b"\0"),
        changed(side, 2, b"\0\0"),  # no models
        changed(side, 2, b"\xff\xff"),
        changed(side, 4, b"\0\0\0\0"),  # no channels
        changed(side, 4, b"\xff\xff\xff\xff"),
        changed(side, 8, nan),
        changed(side, 8 + 24, np.float32(3e38).tobytes()),  # with so many steps infinite
        changed(side, 8 + 24, np.float32(-1).tobytes()),  # a scale below zero
        changed(side, 8 + 24, nan),
        changed(side, 8 + 48, b"\6"),  # a model that there is not
        changed(side, frequencies, b"\0\0"),
        changed(side, frequencies, b"\xff\xff"),
    ]
    for each in wrong:
        with pytest.raises(ProtocolError):
            KINDS[each.kind](each)
    assert isinstance(KINDS["ec4"](side), EntropyCodec)


@given(st.integers(0, 1 << 32))
@settings(max_examples=150, deadline=None)
def test_mutated_tables_are_refused_or_decode_to_finite_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = FOUND.side
    data = bytearray(side.data)
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] = rng.integers(256)
    try:
        one = entropy.parse(Side(side.kind, bytes(data)))
    except ProtocolError:
        return
    check_bounded(one, memoryview(PACKED))


@given(st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_mutated_data_are_refused_or_decode_to_numbers_in_the_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(PACKED[: rng.integers(1, len(PACKED) + 1)] if seed % 3 == 0 else PACKED)
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] = rng.integers(256)
    check_bounded(FOUND, memoryview(bytes(data)))


def check_bounded(one: EntropyCodec, buffer: memoryview) -> None:
    try:
        one.check("float32", SHAPE, buffer)
        array = one.decode("float32", SHAPE, buffer)
    except ProtocolError:
        return
    assert array.shape == SHAPE
    assert np.isfinite(array).all()


def test_truncated_at_every_byte() -> None:
    taken = 0
    for end in range(len(PACKED)):
        try:
            FOUND.check("float32", SHAPE, memoryview(PACKED[:end]))
            FOUND.decode("float32", SHAPE, memoryview(PACKED[:end]))
            taken += 1
        except ProtocolError:
            pass
    assert taken <= len(PACKED) // 64  # the mark is one byte: other data seldom end with it by chance


def test_lying_sizes_are_refused_before_a_decoder_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ans, "decode", None)
    good = memoryview(PACKED)
    for dtype, shape, buffer in [
        ("float64", SHAPE, good),
        ("float32", (1, 5, 8, 8), good),
        ("float32", (2, 6, 8, 8), good),
        ("float32", (6, 64), good),
        ("float32", SHAPE, good[:0]),
        ("float32", SHAPE, memoryview(bytes(math.prod(SHAPE) * 2 + 9))),
    ]:
        with pytest.raises(ProtocolError):
            FOUND.check(dtype, shape, buffer)


def test_nothing_is_as_small_as_a_constant() -> None:
    """A few bytes may be many numbers: time and memory are those of the tensor that the network expects."""
    shape = (1, 1, 1024, 1024)
    constant = np.full((1, 256), ans.TOTAL - 255)
    constant[0, 1:] = 1
    side = Tables(8, np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(1, np.uint8), constant).side
    one = entropy.parse(side)
    packed = one.encode(np.zeros(shape, np.float32))
    assert len(packed) < 1000
    assert (one.decode("float32", shape, memoryview(packed)) == 0).all()


FOUND = found(4)
PACKED = codec.encode(held_out(), "ec4", FOUND).parts[0].tobytes()


def test_described_on_the_wire_by_kind_and_digest() -> None:
    packed = codec.encode(features(1)[0], "ec4", FOUND)
    header, buffers = tensors.describe([packed])
    assert header["tensors"] == [("float32", SHAPE, f"ec4@{FOUND.side.digest[:16]}", 0)]
    assert sum(each.nbytes for each in buffers) == packed.nbytes
    json.dumps(header)
