"""Reading and writing protobuf's wire format, as much of it as ONNX needs. Pure.

A message is a list of fields: a number, and a varint, 4 or 8 bytes, or bytes with their length. An edge takes segments
out of an ONNX graph with this, and needs no ONNX package for it.
"""

import struct
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
MAX_VARINT_BYTES = 10


class WireError(ValueError):
    """These bytes are no protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field, in order: a varint as int, anything else as its bytes, which are not copied.

    Raises WireError.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has no number")
        if kind == _VARINT:
            value, at = varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = varint(message, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise WireError(f"a field is of the unknown kind {kind}")
        if length > end - at:
            raise WireError("a field is longer than its message")
        yield number, message[at : at + length]
        at += length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The whole number that begins at `at`, and where it ends. Raises WireError."""
    value = 0
    for count in range(MAX_VARINT_BYTES):
        if at >= len(message):
            raise WireError("a number ends too early")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise WireError("a number is too long")


def text(value: int | memoryview) -> str:
    """A field that is text. Raises WireError."""
    try:
        return bytes(chunk(value)).decode()
    except UnicodeDecodeError:
        raise WireError("a text is not UTF-8") from None


def chunk(value: int | memoryview) -> memoryview:
    """A field that is bytes, text or another message. Raises WireError."""
    if isinstance(value, int):
        raise WireError("a field is a number where bytes belong")
    return value


def number(value: int | memoryview) -> int:
    """A field that is a whole number of at least 0. Raises WireError."""
    if not isinstance(value, int):
        raise WireError("a field is bytes where a number belongs")
    return value


def varint_field(field: int, value: int) -> bytes:
    """A field that holds a whole number; one below 0 as protobuf's int64."""
    return _written(field << 3 | _VARINT) + _written(value & 0xFFFFFFFFFFFFFFFF)


def bytes_field(field: int, value: bytes | memoryview | str) -> bytes:
    """A field that holds bytes, text or another message."""
    value = value.encode() if isinstance(value, str) else value
    return b"".join((_written(field << 3 | _BYTES), _written(len(value)), value))


def float_field(field: int, value: float) -> bytes:
    """A field that holds a number of 32 bits."""
    return _written(field << 3 | _FIXED32) + struct.pack("<f", value)


def _written(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
