"""HTTP/2 (RFC 9113), as far as one stream of gRPC needs it. Pure: bytes in, bytes and what they mean out.

Through the one stream of an `Exchange` the bytes of a connection travel in both directions, cut into messages of gRPC.
What comes is never kept here: the bytes of messages are written where the caller says, and what else there is, is read,
limited, and forgotten. net.calls has the two ends.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from edgecloud.net import hpack
from edgecloud.net.messages import Error
from edgecloud.net.pacing import Bucket
from edgecloud.utils.errors import AppError, ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

PIECE_BYTES = 256 << 10  # of a message that we send ...
MESSAGE_BYTES = 4 << 20  # ... and that we take
FRAME_BYTES, LEAST_FRAME_BYTES = 1 << 20, 16 << 10  # that we take, and that everybody does
FIRST_WINDOW, WINDOW = 65_535, 4 << 20  # until the other side has sent something of worth, and from then on
WORTH_BYTES = 32 << 10
MOST_WINDOW = (1 << 31) - 1
OWED_BYTES = 16 << 10  # that the other side may have us owe as answers
BLOCK_BYTES = 8 << 10  # of headers, as they travel
DEBUG_BYTES = 4 << 10
BLOCKS, BLOCKS_BYTES = 64, 16 << 10  # of headers on one connection, which take longest to read
FRAMES_AHEAD = 64  # that are packed at once
FRAMES_PER_S = 2000.0
"""That carry next to nothing, which cost more to read than to send. Those that go with larger ones are not counted."""
SMALL_BYTES = 1024
CREDIT = 10_000

_HEAD = struct.Struct(">HBBBI")
HEAD_BYTES = _HEAD.size
_SETTING = struct.Struct(">HI")
WORD = struct.Struct(">I")
PREFIX = struct.Struct(">BI")


class Kind(IntEnum):
    """Of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Of frames; one bit has two meanings."""

    NONE = 0
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Reason(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """What a side says of itself."""

    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Http2Error(ProtocolError):
    """What HTTP/2, or gRPC on it, does not allow."""

    def __init__(self, text: str, reason: Reason = Reason.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.reason = reason


class Head(NamedTuple):
    """The first bytes of a frame."""

    length: int
    kind: int
    flags: int
    stream: int


def pack(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return pack_head(len(payload), kind, flags, stream) + payload


def pack_head(length: int, kind: Kind, flags: int, stream: int) -> bytes:
    """What a frame begins with."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def parse_head(data: bytes | bytearray) -> Head:
    """The nine bytes that a frame begins with."""
    high, low, kind, flags, stream = _HEAD.unpack(data)
    return Head(high << 8 | low, kind, flags, stream & MOST_WINDOW)


def settings(values: Sequence[tuple[Setting, int]]) -> bytes:
    """What this side says of itself."""
    return pack(Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def go_away(reason: Reason, words: bytes = b"", last: int = 0) -> bytes:
    """The end of a connection."""
    return pack(Kind.GOAWAY, 0, 0, WORD.pack(last) + WORD.pack(reason) + words)


class Exchange(ABC):
    """One end of a connection with one stream. Not for two threads at once.

    `owed` are bytes that have to be sent before anything else. After an error nothing can be read.
    """

    def __init__(self) -> None:
        self.owed = bytearray()
        self.stream = 0
        self.is_open = False
        """Whether messages may be sent."""
        self.is_ended = False
        """Whether the other side sends no more."""
        self.is_over = False
        """Whether it does not read any more either."""
        self.failure: AppError | None = None
        """Why the stream has ended, where that was not in good order."""
        self.last_words = b""
        """An ERROR that came in place of a stream."""
        self.frame_bytes = LEAST_FRAME_BYTES
        self._decoder = hpack.Decoder()
        self._windows = {0: FIRST_WINDOW, 1: FIRST_WINDOW}  # of the connection, and of the stream: what may be sent
        self._first_window = FIRST_WINDOW
        self._granted, self._held, self._worth = FIRST_WINDOW, 0, 0
        self._head, self._body = bytearray(), bytearray()
        self._frame: Head | None = None
        self._padding: int | None = None
        self._block: bytearray | None = None
        self._block_head = Head(0, 0, 0, 0)
        self._blocks = self._blocks_bytes = self._credit = 0
        self._bucket = Bucket(FRAMES_PER_S)
        self._prefix = bytearray()
        self._message_left = self._sending_left = 0
        self._is_heard = False

    # --- what is sent

    @property
    def room(self) -> int:
        """How many bytes the other side takes now."""
        return min(self._windows.values())

    @property
    def has_room(self) -> bool:
        """Whether it takes anything: what a message begins with, and a byte of it."""
        return self.room > PREFIX.size

    def pack(self, parts: Sequence[memoryview]) -> list[tuple[memoryview, bool]]:
        """Frames with the first bytes of `parts`, as far as there is room: pieces of frames, and whether each is of
        `parts`. Those who call have to go on with what was not packed, until all of it is.
        """
        found: list[tuple[memoryview, bool]] = []
        total = sum(part.nbytes for part in parts)
        rest = iter(parts)
        part = next(rest, memoryview(b""))
        for _ in range(FRAMES_AHEAD):
            room = min(self.room, self.frame_bytes)
            if not total or not self.has_room:
                break
            prefix = b""
            if not self._sending_left:
                self._sending_left = min(total, PIECE_BYTES)
                prefix = PREFIX.pack(0, self._sending_left)
            size = min(self._sending_left, room - len(prefix), total)
            head = pack_head(size + len(prefix), Kind.DATA, 0, self.stream)
            found.append((memoryview(head + prefix), False))
            self._take_room(size + len(prefix))
            self._sending_left -= size
            total -= size
            while size:
                piece = part[:size]
                found.append((piece, True))
                size -= piece.nbytes
                part = part[piece.nbytes :] if piece.nbytes < part.nbytes else next(rest, memoryview(b""))
        return found

    def _take_room(self, size: int) -> None:
        for key in self._windows:
            self._windows[key] -= size
        if size >= SMALL_BYTES:
            self._credit = min(CREDIT, self._credit + 2)

    def go_away(self, error: Http2Error) -> None:
        """Owe the other side the reason why this connection ends."""
        self.is_over = True
        self.owed += go_away(error.reason, str(error).encode()[:DEBUG_BYTES], self.stream)

    @abstractmethod
    def farewell(self, why: Error | None) -> None:
        """Owe the other side the end of the stream."""

    # --- what comes

    def feed(self, data: memoryview, into: memoryview, now: float) -> tuple[int, int]:
        """Read what came, at the moment `now` in seconds, and write the bytes of messages; returns how many bytes were
        read and written. Stops where `into` is full. Raises ProtocolError, mostly as Http2Error, and ConnectError.
        """
        used = put = 0
        while used < data.nbytes:
            if self.failure is not None:  # what else comes of it is nobody's
                return data.nbytes, put
            rest = data[used:]
            if self._frame is None:
                used += self._read_head(rest, now)
            elif self._frame.kind == Kind.DATA and self._frame.length:
                took, gave = self._read_data(rest, into[put:])
                if not took:
                    break
                used, put = used + took, put + gave
            else:
                used += self._read_body(rest)
        return used, put

    @property
    def ahead(self) -> int:
        """How many bytes of a message come next, with nothing in between."""
        frame = self._frame
        if frame is None or frame.kind != Kind.DATA or frame.stream != self.stream or self._padding is None:
            return 0
        return min(frame.length - self._padding, self._message_left)

    def came(self, size: int) -> None:
        """So many of the bytes `ahead` have come, and were not read here."""
        assert self._frame is not None  # or none were ahead
        self._message_left -= size
        self._done(self._frame, size, is_message=True)

    def consumed(self, size: int) -> None:
        """Bytes of messages have found their place: so many more may come."""
        self._held -= size
        self._worth += size
        most = WINDOW if self._worth > WORTH_BYTES else FIRST_WINDOW
        missing = most - self._granted - self._held
        if missing >= most // 4 and not self.is_ended:
            self._granted += missing
            for stream in (0, self.stream):
                self.owed += pack(Kind.WINDOW_UPDATE, 0, stream, WORD.pack(missing))

    def _begin(self, data: memoryview) -> int:
        """Look at the first bytes that came; returns how many are done with."""
        del data
        self._is_heard = True
        return 0

    def _read_head(self, data: memoryview, now: float) -> int:
        if not self._is_heard and (used := self._begin(data)):
            return used
        part = data[: HEAD_BYTES - len(self._head)]
        self._head += part
        if len(self._head) == HEAD_BYTES:
            frame = parse_head(self._head)
            self._head.clear()
            self._check_frame(frame, now)
            self._frame = frame
            self._body.clear()
            if frame.kind == Kind.DATA:
                self._begin_data(frame)
            if not frame.length:
                self._end_frame()
        return part.nbytes

    def _check_frame(self, frame: Head, now: float) -> None:
        if frame.length > _LONGEST.get(frame.kind, FRAME_BYTES):
            raise Http2Error(f"an HTTP/2 frame of {frame.length} bytes", Reason.FRAME_SIZE_ERROR)
        if (self._block is None) == (frame.kind == Kind.CONTINUATION):
            raise Http2Error("headers that are not in one piece")
        if frame.kind == Kind.DATA and frame.length >= SMALL_BYTES:
            self._credit = min(CREDIT, self._credit + 1)  # a proxy may send the rest of a piece apart
            return
        if self._credit:
            self._credit -= 1
        elif self._bucket.pay(1, now):
            raise Http2Error("too many HTTP/2 frames", Reason.ENHANCE_YOUR_CALM)

    def _begin_data(self, frame: Head) -> None:
        is_ours = frame.stream == self.stream and self.stream > 0
        if not is_ours and not self._is_refused(frame.stream):
            raise Http2Error("data on a stream that is not open")
        if is_ours and self.is_ended:
            raise Http2Error("data behind the end of a stream", Reason.STREAM_CLOSED)
        if frame.length > self._granted:
            raise Http2Error("more data than there is room for", Reason.FLOW_CONTROL_ERROR)
        self._padding = None if frame.flags & Flag.PADDED else 0
        if is_ours:
            self._granted -= frame.length
            self._held += frame.length
        elif frame.length:
            self.owed += pack(Kind.WINDOW_UPDATE, 0, 0, WORD.pack(frame.length))

    def _read_data(self, data: memoryview, into: memoryview) -> tuple[int, int]:
        """Some bytes of a frame of DATA; returns how many were read and written, 0 where there is no place for one."""
        frame = self._frame
        assert frame is not None  # as who calls has seen
        took = gave = 0
        if self._padding is None:
            self._padding, took = data[0] + 1, 1  # with itself
            if self._padding > frame.length:
                raise Http2Error("more padding than data")
            self._padding -= 1
            self._done(frame, 1, is_message=False)
        elif frame.length <= self._padding or frame.stream != self.stream:
            took = min(data.nbytes, frame.length)
            self._padding = max(0, self._padding - took)
            self._done(frame, took, is_message=False)
        elif not self._message_left:
            took = self._read_prefix(data[: frame.length - self._padding])
            self._done(frame, took, is_message=False)
        else:
            took = gave = min(data.nbytes, into.nbytes, frame.length - self._padding, self._message_left)
            into[:gave] = data[:gave]
            self._message_left -= gave
            if gave:
                self._done(frame, gave, is_message=True)
        return took, gave

    def _done(self, frame: Head, size: int, *, is_message: bool) -> None:
        """So many bytes of a frame of DATA were read."""
        self._frame = frame._replace(length=frame.length - size)
        if frame.stream == self.stream and not is_message:
            self._worth -= size
            self.consumed(size)
        if not self._frame.length:
            self._end_frame()

    def _read_prefix(self, data: memoryview) -> int:
        part = data[: PREFIX.size - len(self._prefix)]
        self._prefix += part
        if len(self._prefix) == PREFIX.size:
            is_packed, self._message_left = PREFIX.unpack(self._prefix)
            self._prefix.clear()
            if is_packed:
                raise Http2Error("a compressed message: send without grpc-encoding")
            if self._message_left > MESSAGE_BYTES:
                words = f"a message of {self._message_left} bytes, the limit is {MESSAGE_BYTES}: send pieces"
                raise Http2Error(words, Reason.ENHANCE_YOUR_CALM)
        return part.nbytes

    def _read_body(self, data: memoryview) -> int:
        """Some bytes of a frame that is not DATA."""
        frame = self._frame
        assert frame is not None  # as who calls has seen
        part = data[: frame.length - len(self._body)] if frame.kind in _READ else data[: frame.length]
        if frame.kind in _READ:
            self._body += part
        else:
            self._frame = frame = frame._replace(length=frame.length - part.nbytes)
        if len(self._body) == frame.length:
            self._end_frame()
        return part.nbytes

    def _end_frame(self) -> None:
        frame, body = self._frame, bytes(self._body)
        assert frame is not None  # as who calls has seen
        self._frame = None
        self._body.clear()
        _READ.get(frame.kind, Exchange._ignore)(self, frame, body)
        if len(self.owed) > OWED_BYTES:
            raise Http2Error("too much to answer", Reason.ENHANCE_YOUR_CALM)

    def _ignore(self, frame: Head, body: bytes) -> None:  # noqa: B027
        """Whatever else there is."""

    def _on_data(self, frame: Head, body: bytes) -> None:
        del body
        if frame.flags & Flag.END_STREAM and frame.stream == self.stream:
            self._end()

    def _end(self) -> None:
        """The other side sends no more on the stream. In the middle of a message that is for those to notice who
        read it."""
        self.is_ended = True

    def _on_settings(self, frame: Head, body: bytes) -> None:
        if frame.flags & Flag.ACK:
            return
        if len(body) % _SETTING.size or frame.stream:
            raise Http2Error("settings that are none", Reason.FRAME_SIZE_ERROR)
        for key, value in _SETTING.iter_unpack(body):
            if key == Setting.INITIAL_WINDOW_SIZE:
                self._grow(1, value - self._first_window)
                self._first_window = value
            elif key == Setting.MAX_FRAME_SIZE:
                if not LEAST_FRAME_BYTES <= value < 1 << 24:
                    raise Http2Error("frames of a size that is none")
                self.frame_bytes = min(value, FRAME_BYTES)
        self.owed += pack(Kind.SETTINGS, Flag.ACK, 0)

    def _grow(self, key: int, size: int) -> None:
        self._windows[key] += size
        if self._windows[key] > MOST_WINDOW:
            raise Http2Error("a window that is too large", Reason.FLOW_CONTROL_ERROR)

    def _on_window(self, frame: Head, body: bytes) -> None:
        (size,) = _word(body)
        size &= MOST_WINDOW
        if frame.stream not in (0, self.stream):
            return
        if not size:
            raise Http2Error("a window that does not grow")
        self._grow(int(frame.stream > 0), size)

    def _on_ping(self, frame: Head, body: bytes) -> None:
        if len(body) != 8 or frame.stream:
            raise Http2Error("a ping that is none", Reason.FRAME_SIZE_ERROR)
        if not frame.flags & Flag.ACK:
            self.owed += pack(Kind.PING, Flag.ACK, 0, body)

    def _on_reset(self, frame: Head, body: bytes) -> None:
        (reason,) = _word(body)
        if frame.stream == self.stream and self.stream and not self.is_over:
            self.is_over = self.is_ended = True
            self._reset_by(reason)

    def _reset_by(self, reason: int) -> None:  # noqa: B027
        """The other side has ended the stream at once."""

    def _on_push(self, frame: Head, body: bytes) -> None:
        raise Http2Error("a push of what nobody asked for")

    def _on_headers(self, frame: Head, body: bytes) -> None:
        if not frame.stream:
            raise Http2Error("headers of no stream")
        if frame.flags & Flag.PADDED:
            if not body or body[0] >= len(body):
                raise Http2Error("more padding than headers")
            body = body[1 : len(body) - body[0]]
        if frame.flags & Flag.PRIORITY:
            body = body[5:]
        self._block, self._block_head = bytearray(body), frame
        self._end_block(frame)

    def _on_continuation(self, frame: Head, body: bytes) -> None:
        if frame.stream != self._block_head.stream or self._block is None:
            raise Http2Error("headers that are not in one piece")
        self._block += body
        if len(self._block) > BLOCK_BYTES:
            raise Http2Error(f"headers of more than {BLOCK_BYTES} bytes", Reason.ENHANCE_YOUR_CALM)
        self._end_block(frame)

    def _end_block(self, frame: Head) -> None:
        if not frame.flags & Flag.END_HEADERS or self._block is None:
            return
        block, self._block = bytes(self._block), None
        self._blocks, self._blocks_bytes = self._blocks + 1, self._blocks_bytes + len(block)
        if self._blocks > BLOCKS or self._blocks_bytes > BLOCKS_BYTES:
            raise Http2Error("too many streams", Reason.ENHANCE_YOUR_CALM)
        try:
            headers = self._decoder.decode(block)
        except hpack.HeadersError as error:
            raise Http2Error(str(error), Reason.COMPRESSION_ERROR) from None
        is_end = bool(self._block_head.flags & Flag.END_STREAM)
        self._take_headers(self._block_head.stream, headers, is_end=is_end)

    def _on_go_away(self, frame: Head, body: bytes) -> None:
        if len(body) < 8:
            raise Http2Error("a GOAWAY that is none", Reason.FRAME_SIZE_ERROR)
        last, reason = WORD.unpack(body[:4])[0] & MOST_WINDOW, WORD.unpack(body[4:8])[0]
        if last < self.stream:  # or else ours goes on
            self._left_by(reason, body[8:])

    def _left_by(self, reason: int, words: bytes) -> None:  # noqa: B027
        """The other side has ended the connection before it looked at the stream."""

    @abstractmethod
    def _take_headers(self, stream: int, headers: list[hpack.Header], *, is_end: bool) -> None:
        """A list of headers is whole."""

    def _is_refused(self, stream: int) -> bool:
        """Whether what comes on another stream than ours is expected, and nothing."""
        del stream
        return False


def _word(body: bytes) -> tuple[int]:
    if len(body) != WORD.size:
        raise Http2Error("a frame of another size than its kind has", Reason.FRAME_SIZE_ERROR)
    return WORD.unpack(body)


_READ: dict[int, Callable[[Exchange, Head, bytes], None]] = {
    Kind.DATA: Exchange._on_data,
    Kind.HEADERS: Exchange._on_headers,
    Kind.RST_STREAM: Exchange._on_reset,
    Kind.SETTINGS: Exchange._on_settings,
    Kind.PUSH_PROMISE: Exchange._on_push,
    Kind.PING: Exchange._on_ping,
    Kind.GOAWAY: Exchange._on_go_away,
    Kind.WINDOW_UPDATE: Exchange._on_window,
    Kind.CONTINUATION: Exchange._on_continuation,
}
_LONGEST: dict[int, int] = {
    Kind.HEADERS: BLOCK_BYTES,
    Kind.CONTINUATION: BLOCK_BYTES,
    Kind.PRIORITY: 5,
    Kind.RST_STREAM: 4,
    Kind.SETTINGS: 64 * _SETTING.size,
    Kind.PUSH_PROMISE: BLOCK_BYTES,
    Kind.PING: 8,
    Kind.GOAWAY: 8 + DEBUG_BYTES,
    Kind.WINDOW_UPDATE: 4,
}
"""The most bytes of a frame that is read as a whole; others pass by."""
