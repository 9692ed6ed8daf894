"""The bytes of the wire, compared with docs/wire.md, and what is no frame."""

import contextlib
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.attacks import encode
from edgecloud.net import plain_pickle, tensors
from edgecloud.net.frames import (
    PREFIX_BYTES,
    BadMagicError,
    FrameType,
    Limits,
    TooLargeError,
    VersionError,
    pack_prefix,
    parse_prefix,
)
from edgecloud.net.messages import (
    MAX_ERROR_TEXT,
    Chunk,
    Error,
    Hello,
    Infer,
    Message,
    Move,
    Offer,
    Piece,
    Probe,
    Probed,
    Proof,
    Ready,
    Result,
    State,
    Status,
    Want,
    from_header,
    to_header,
)
from edgecloud.utils.errors import AppError, ProtocolError
from tests.conftest import ROOT, many

LIMITS = Limits()
SPECIFICATION = ROOT / "docs" / "wire.md"

MESSAGES: list[Message] = [
    Hello("alex_net", "sha256:ab", "sha256:cd", ["raw"], ""),
    Ready([0.0, 0.5], [0.0, 0.0], 0.0, "cpu", ["raw"], 1, "measured"),
    Infer(1, [[1, 3], [5, 6]], 60.0),
    Result(1, 0.0, 0.25),
    Probe(1, 256),
    Probed(1),
    Error("BUSY", "later"),
    Error("BUSY", "later", 3, 0.25),
    Infer(2, [[1, 3]], 60.0, "le_net"),
    Result(2, 0.0, 0.25, 1.5, 0.125, 4096, 0.0625, 4),
    Status(),
    State(1.5, 0.25, 3, 32, 2),
    State(1.5, 0.25, 3, 32, 2, speed=0.5),
    Result(3, 0.0, 0.25, speed=0.25),
    Ready([0.0], [0.0], 0.0, "cpu", ["raw"], 1, "measured", speed=1.5),
    Hello("alex_net", "sha256:ab", "sha256:cd", ["raw"], "", bundle="ab" * 32),
    Error("UNKNOWN_MODEL", "send it", accepts=1 << 31),
    Offer("secret", "alex_net", "ab" * 32, 5000, 244_000_000),
    Want([[0, 5000], [5056, 244_000_000]], 0),
    Want([], 244_000_000, is_whole=True, is_ready=True),
    Piece(5056),
    Proof("ab" * 32),
    Hello("alex_net", "sha256:ab", "sha256:cd", ["raw"], "", moves=True),
    Status(stays=True),
    Move("", "the cloud is stopping"),
    Move("[::1]:9999", ""),
    Ready([0.0], [0.0], 0.0, "cpu", ["raw"], 1, "measured", chunks=64),
    Infer(4, [[1, 3]], 60.0, cuts=((2, 5, 10), (1, 64)), rows=(0, 1, 0)),
    Chunk(4, 0, 5),
    Result(4, 0.0, 0.25, 1.5, 0.125, 4096, 0.0625, idle_s=0.03125, rest_s=0.5),
]


def test_encode_is_byte_exact() -> None:
    """The example in the specification is these bytes, no others."""
    example = re.search(r"```hex\n(.*?)```", SPECIFICATION.read_text(), re.DOTALL)
    assert example is not None
    golden = bytes.fromhex(re.sub(r"#.*", "", example[1]))
    assert encode(Infer(1, [[2, 4]], 1.5), [np.array([[1, -2]], np.float32)]) == golden


def test_a_tensor_in_chunks_is_byte_exact() -> None:
    """The third example."""
    *_, example = re.findall(r"```hex\n(.*?)```", SPECIFICATION.read_text(), re.DOTALL)
    infer = encode(Infer(1, [[2, 4]], 1.5, cuts=((1, 1, 2),)), [])
    chunk = encode(Chunk(1, 0, 1), [np.array([[-2]], np.float32)])
    assert infer + chunk == bytes.fromhex(re.sub(r"#.*", "", example))


@pytest.mark.parametrize(
    "wrong",
    [((0, 1, 2),), ((1,),), ((1, 0),), ((1, 2, 2),), ((1, 3, 2),), ((1, -1),), ((1, 2.0),), ((1, True),), (1, 2)],
)
def test_cuts_are_an_axis_behind_the_batch_and_ends_that_ascend(wrong: Any) -> None:
    header = to_header(Infer(1, [[2, 4]], 1.5))
    with pytest.raises(ProtocolError, match="'cuts' is missing or not a tuple with an axis and ascending ends"):
        from_header(Infer, header | {"cuts": wrong})


def test_a_prefix_is_read_as_it_was_written() -> None:
    prefix = parse_prefix(pack_prefix(FrameType.RESULT, 10, 20), LIMITS)
    assert (prefix.kind, prefix.header_bytes, prefix.payload_bytes) == (FrameType.RESULT, 10, 20)


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: x",
        b"SSH-2.0-OpenSSH_9.2p1 D",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 20,
    ],
)
def test_other_protocols_are_told_by_the_magic(start: bytes) -> None:
    with pytest.raises(BadMagicError):
        parse_prefix(start[:PREFIX_BYTES], LIMITS)


@pytest.mark.parametrize(
    ("header", "payload"), [(1 << 16 | 1, 0), (0, (64 << 20) + 1), (0, 1 << 40), (0, 1 << 63), (0, (1 << 64) - 1)]
)
def test_an_oversized_length_is_refused_and_names_the_limit(header: int, payload: int) -> None:
    with pytest.raises(TooLargeError, match="limit is"):
        parse_prefix(pack_prefix(FrameType.INFER, header, payload), LIMITS)


@pytest.mark.parametrize("kind", [FrameType.HELLO, FrameType.READY, FrameType.ERROR])
def test_a_message_without_tensors_has_no_payload(kind: FrameType) -> None:
    with pytest.raises(ProtocolError, match="must not have a payload"):
        parse_prefix(pack_prefix(kind, 0, 1), LIMITS)


def test_lengths_up_to_the_limit_are_accepted() -> None:
    parse_prefix(pack_prefix(FrameType.INFER, LIMITS.header_of(FrameType.INFER), LIMITS.payload_bytes), LIMITS)


@pytest.mark.parametrize(
    ("offset", "value", "error"), [(4, 0, VersionError), (4, 2, VersionError), (4, 255, VersionError)]
)
def test_other_versions_are_refused(offset: int, value: int, error: type[ProtocolError]) -> None:
    prefix = bytearray(pack_prefix(FrameType.HELLO, 0, 0))
    prefix[offset] = value
    with pytest.raises(error, match="version"):
        parse_prefix(prefix, LIMITS)


@pytest.mark.parametrize(("offset", "value"), [(5, 0), (5, 16), (5, 255), (6, 1), (7, 1)])
def test_unknown_types_and_flags_are_refused(offset: int, value: int) -> None:
    prefix = bytearray(pack_prefix(FrameType.HELLO, 0, 0))
    prefix[offset] = value
    with pytest.raises(ProtocolError, match="unknown"):
        parse_prefix(prefix, LIMITS)


@given(st.binary(min_size=PREFIX_BYTES, max_size=PREFIX_BYTES))
def test_garbage_gives_a_prefix_within_the_limits_or_a_protocol_error(data: bytes) -> None:
    try:
        prefix = parse_prefix(data, LIMITS)
    except ProtocolError:
        return
    assert prefix.header_bytes <= LIMITS.header_bytes
    assert prefix.payload_bytes <= LIMITS.payload_bytes


# --- messages


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_survive_the_way(message: Message) -> None:
    header = plain_pickle.loads(plain_pickle.dumps(to_header(message) | {"a later version's field": 1}))
    assert from_header(type(message), header) == message  # type: ignore[type-var]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("wrong", [None, -1, float("nan"), float("inf"), {}, [None], [[1]], [[2, 1]], 1 << 80, b"x"])
def test_a_field_of_another_type_is_refused(message: Message, wrong: Any) -> None:
    for name in to_header(message):
        with pytest.raises(ProtocolError, match=name):
            from_header(type(message), to_header(message) | {name: wrong})  # type: ignore[type-var]


SPEAK_OF_SPEED = [message for message in MESSAGES if isinstance(message, Ready | Result | State)]


@pytest.mark.parametrize("message", SPEAK_OF_SPEED, ids=lambda m: type(m).__name__)
def test_a_speed_need_not_be_told_and_divides_nothing_by_zero(message: Ready | Result | State) -> None:
    header = to_header(message)
    header.pop("speed", None)
    kind: Any = type(message)
    assert from_header(kind, header).speed == 1.0  # an older cloud
    assert from_header(kind, header | {"speed": 0.01}).speed == 0.01
    for wrong in (0, 0.0, -0.5, 1e-9, 10.1, 1e8, True, "1", [1.0]):
        with pytest.raises(ProtocolError, match=r"'speed' is missing or not a speed from 0\.01 to 10"):
            from_header(kind, header | {"speed": wrong})


@pytest.mark.parametrize("header", [None, [], "HELLO", 3, {}])
def test_a_header_without_fields_is_refused(header: Any) -> None:
    with pytest.raises(ProtocolError):
        from_header(Hello, header)


# --- tensors


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int8", "uint8", "bool"])
def test_tensors_survive_the_way(dtype: str) -> None:
    arrays = [np.arange(24).reshape(2, 3, 4).astype(dtype), np.ones((1,), dtype)]
    described, buffers = tensors.describe(arrays)
    back = tensors.view(described, memoryview(b"".join(buffers)), LIMITS)
    for one, other in zip(arrays, back, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_view_ships_its_own_bytes_and_no_others() -> None:
    whole = np.arange(1000, dtype=np.float32).reshape(10, 100)
    described, buffers = tensors.describe([whole[:, ::2]])
    assert sum(b.nbytes for b in buffers) == 10 * 50 * 4
    np.testing.assert_array_equal(tensors.view(described, buffers[0], LIMITS)[0], whole[:, ::2])


def test_a_contiguous_array_is_not_copied() -> None:
    array = np.zeros(8, np.float32)
    _, (buffer,) = tensors.describe([array])
    array[0] = 1.0
    assert bytes(buffer[:4]) == np.float32(1).tobytes()


GOOD = {"tensors": [("float32", (2, 3), "raw", 0)], "buffers": [24]}


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": None},
        {"tensors": []},
        {"tensors": [("float32", (2, 3), "raw", 0)] * 2},
        {"buffers": None},
        {"buffers": [23]},
        {"buffers": [-24]},
        {"buffers": ["24"]},
        {"buffers": [True]},
        {"tensors": [("float32", (2, 4), "raw", 0)]},
        {"tensors": [("float32", (-2, -3), "raw", 0)]},
        {"tensors": [("float32", (0, 3), "raw", 0)]},
        {"tensors": [("float32", (6.0,), "raw", 0)]},
        {"tensors": [("float32", [2, 3], "raw", 0)]},
        {"tensors": [("float32", (1 << 32, 1 << 32), "raw", 0)]},
        {"tensors": [("float32", (1,) * 9, "raw", 0)]},
        {"tensors": [("object", (6,), "raw", 0)]},
        {"tensors": [("O", (6,), "raw", 0)]},
        {"tensors": [(["float32"], (6,), "raw", 0)]},
        {"tensors": [("float32", (2, 3), "zip", 0)]},
        {"tensors": [("float32", (2, 3), "raw", 1)]},
        {"tensors": [("float32", (2, 3), "raw")]},
        {"tensors": ["float32"]},
    ],
)
def test_tensors_that_do_not_fit_exactly_are_refused(change: dict[str, Any]) -> None:
    assert len(tensors.view(GOOD, memoryview(bytes(24)), LIMITS)) == 1
    with pytest.raises(ProtocolError):
        tensors.view(GOOD | change, memoryview(bytes(24)), LIMITS)


def test_too_many_tensors_are_refused() -> None:
    header = {"tensors": [("uint8", (1,), "raw", n) for n in range(65)], "buffers": [1] * 65}
    with pytest.raises(TooLargeError, match="64"):
        tensors.view(header, memoryview(bytes(65)), LIMITS)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=many(100, 300))
@given(plain, st.binary(max_size=64))
def test_any_plain_header_describes_tensors_or_is_refused(header: Any, payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        tensors.view(
            header if isinstance(header, dict) else {"tensors": header, "buffers": header}, memoryview(payload), LIMITS
        )


def test_the_other_side_is_told_of_an_error_with_its_code_and_not_too_much_text() -> None:
    told = Error.of(AppError("x" * 10_000), 7)
    assert (told.code, told.id, told.text, told.retry_after_s) == (AppError.code, 7, "x" * MAX_ERROR_TEXT, 0.0)
