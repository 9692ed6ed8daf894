"""HPACK (RFC 7541): the headers of HTTP/2. Pure.

What is read is limited: the bytes of a list, its numbers, and the table that the other side may have us keep. What
is written refers to nothing and is not compressed, so that nothing has to be kept for it.
"""

from collections import deque
from collections.abc import Sequence

from edgecloud.utils.errors import ProtocolError

Header = tuple[bytes, bytes]

TABLE_BYTES = 4096  # of what is kept for the other side, as long as nobody says otherwise
LIST_BYTES = 8 << 10  # of a list, decoded, where each entry counts for 32 bytes more, as it does in the table
ENTRY_BYTES = 32
LONGEST = 4  # bytes of a number behind its first one

STATIC: tuple[Header, ...] = (
    *((b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html")),
    *((b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206")),
    *((b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b"")),
    *((b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b"")),
    *((b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b"")),
    *((b"cache-control", b""), (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b"")),
    *((b"content-length", b""), (b"content-location", b""), (b"content-range", b""), (b"content-type", b"")),
    *((b"cookie", b""), (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b"")),
    *((b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b"")),
    *((b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b"")),
    *((b"max-forwards", b""), (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b"")),
    *((b"referer", b""), (b"refresh", b""), (b"retry-after", b""), (b"server", b""), (b"set-cookie", b"")),
    *((b"strict-transport-security", b""), (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b"")),
    *((b"via", b""), (b"www-authenticate", b"")),
)
"""Appendix A; the first has the number 1."""

_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505050606060606"
    "060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605060506060605070706060605"
    "06070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617161717181615141616171715"
    "1716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
    "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""Appendix B: the bits of the code of each byte, and of the end. The code is canonical, so these say all of it."""
_END = 256
_SHORTEST, _LONGEST = min(_LENGTHS), max(_LENGTHS)


def _canonical() -> tuple[list[int], list[list[int]]]:
    """For each number of bits the first code, and the symbols in the order of their codes."""
    symbols: list[list[int]] = [[] for _ in range(_LONGEST + 1)]
    for symbol, bits in enumerate(_LENGTHS):
        symbols[bits].append(symbol)
    first, code = [0] * (_LONGEST + 1), 0
    for bits in range(1, _LONGEST + 1):
        code = (code + len(symbols[bits - 1])) << 1
        first[bits] = code
    return first, symbols


_FIRST, _SYMBOLS = _canonical()


def _short() -> list[tuple[int, int] | None]:
    """By the next eight bits: how many of them are a code, and of what; None where it has more."""
    found: list[tuple[int, int] | None] = []
    for byte in range(256):
        sizes = ((size, (byte >> (8 - size)) - _FIRST[size]) for size in range(_SHORTEST, 9))
        found.append(next(((size, _SYMBOLS[size][at]) for size, at in sizes if 0 <= at < len(_SYMBOLS[size])), None))
    return found


_SHORT = _short()


class HeadersError(ProtocolError):
    """Headers that are none, or more than may be."""


def decode_text(data: bytes | memoryview) -> bytes:
    """Undo the Huffman code. Raises HeadersError."""
    found = bytearray()
    value = bits = 0
    for byte in data:
        value, bits = value << 8 | byte, bits + 8
        while (symbol := _symbol(value, bits)) is not None:
            size, byte_found = symbol
            if byte_found == _END:
                raise HeadersError("a header whose text has no end")
            found.append(byte_found)
            bits -= size
            value &= (1 << bits) - 1
    if bits > 7 or value != (1 << bits) - 1:  # what fills the last byte begins the code of the end
        raise HeadersError("a header whose text ends inside a character")
    return bytes(found)


def _symbol(value: int, bits: int) -> tuple[int, int] | None:
    """The first code in these bits: how many it has, and what it stands for; None where it is not whole."""
    if bits >= 8 and (short := _SHORT[value >> (bits - 8)]) is not None:
        return short
    for size in range(_SHORTEST, min(bits, _LONGEST) + 1):
        place = (value >> (bits - size)) - _FIRST[size]
        if 0 <= place < len(_SYMBOLS[size]):
            return size, _SYMBOLS[size][place]
    return None


class Decoder:
    """Reads the lists that one side sends, in order, and keeps for it what it refers to later."""

    def __init__(self) -> None:
        self._kept: deque[Header] = deque()
        self._kept_bytes, self._most_bytes = 0, TABLE_BYTES

    def decode(self, block: bytes) -> list[Header]:
        """One list. Raises HeadersError, after which nothing more can be read."""
        reader, found, total = _Reader(block), list[Header](), 0
        while not reader.is_at_end:
            header = self._next(reader, is_first=not found)
            if header is None:
                continue
            total += _size(header)
            if total > LIST_BYTES:
                raise HeadersError(f"headers of more than {LIST_BYTES} bytes")
            found.append(header)
        return found

    def _next(self, reader: "_Reader", *, is_first: bool) -> Header | None:
        first = reader.first
        if first & 0x80:
            return self._at(reader.number(7))
        if first & 0xE0 == 0x20:
            most = reader.number(5)
            if most > TABLE_BYTES or not is_first:
                raise HeadersError("a table of headers that is larger than agreed on")
            self._most_bytes = most
            self._make_room(0)
            return None
        is_to_keep = first & 0xC0 == 0x40
        place = reader.number(6 if is_to_keep else 4)
        name = self._at(place)[0] if place else reader.text()
        header = (name, reader.text())
        if is_to_keep:
            self._keep(header)
        return header

    def _at(self, place: int) -> Header:
        if 0 < place <= len(STATIC):
            return STATIC[place - 1]
        if not 0 < place - len(STATIC) <= len(self._kept):
            raise HeadersError("a header that refers to nothing")
        return self._kept[place - len(STATIC) - 1]

    def _keep(self, header: Header) -> None:
        self._make_room(_size(header))
        if _size(header) <= self._most_bytes:
            self._kept.appendleft(header)
            self._kept_bytes += _size(header)

    def _make_room(self, size: int) -> None:
        while self._kept and self._kept_bytes + size > self._most_bytes:
            self._kept_bytes -= _size(self._kept.pop())


def _size(header: Header) -> int:
    return len(header[0]) + len(header[1]) + ENTRY_BYTES


class _Reader:
    """The bytes of a block, from the first to the last."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    @property
    def is_at_end(self) -> bool:
        return self._place >= len(self._data)

    @property
    def first(self) -> int:
        """The next byte, which stays."""
        if self.is_at_end:
            raise HeadersError("headers that end early")
        return self._data[self._place]

    def number(self, bits: int) -> int:
        """One whose first byte has so many bits of it."""
        most = (1 << bits) - 1
        value = self.first & most
        self._place += 1
        if value < most:
            return value
        for shift in range(0, 7 * LONGEST, 7):
            byte = self.first
            self._place += 1
            value += (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise HeadersError("a number in headers that is too large")

    def text(self) -> bytes:
        is_coded = bool(self.first & 0x80)
        size = self.number(7)
        if size > len(self._data) - self._place:
            raise HeadersError("a header that is longer than its frame")
        data = self._data[self._place : self._place + size]
        self._place += size
        return decode_text(data) if is_coded else data


def encode(headers: Sequence[Header]) -> bytes:
    """A list, each header as it is."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


def _text(data: bytes) -> bytes:
    return _number(len(data)) + data


def _number(value: int) -> bytes:
    if value < 0x7F:
        return bytes([value])
    rest, more = value - 0x7F, bytearray([0x7F])
    while rest >= 0x80:
        more.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*more, rest])
