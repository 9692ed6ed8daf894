"""One stream of gRPC in HTTP/2, which the library h2 reads and writes. No socket: bytes in, and what they mean out.

Through the one stream of an `Exchange` the bytes of a connection travel in both directions, cut into messages of gRPC.
What is here is what gRPC adds, and limits, which are checked on the heads of frames before h2 has them: how long frames
and lists of headers may be, and how many may come that carry next to nothing. net.calls has the two ends.
"""

import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError as H2ProtocolError
from h2.settings import SettingCodes, Settings

from edgecloud.net.messages import Error
from edgecloud.net.pacing import Bucket
from edgecloud.utils.errors import AppError, PeerClosedError, ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PIECE_BYTES = 256 << 10  # of a message that we send ...
MESSAGE_BYTES = 4 << 20  # ... and that we take
FRAME_BYTES = 256 << 10  # that we take
FIRST_WINDOW, WINDOW = 65_535, 4 << 20  # until the other side has sent something of worth, and from then on
WORTH_BYTES = 32 << 10
OWED_BYTES = 16 << 10  # that the other side may have us owe as answers
BLOCK_BYTES = 8 << 10  # of headers, as they travel
LIST_BYTES = 16 << 10  # of headers, as they are meant
CONTROL_BYTES = 5 << 10  # of any other frame
DEBUG_BYTES = 4 << 10
BLOCKS, BLOCKS_BYTES = 64, 16 << 10  # of headers on one connection, which take longest to read
STREAMS, EARLY_STREAMS = 1, BLOCKS  # that may be open, and before the other side has heard that; one is taken
FRAMES_AHEAD = 64  # that are packed at once
FRAMES_PER_S = 2000.0
"""That carry next to nothing, which cost more to read than to send. Those that go with larger ones are not counted."""
SMALL_BYTES = 1024
CREDIT = 10_000

PREFIX = struct.Struct(">BI")
_HEAD = struct.Struct(">HBBBI")
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_MOST_BYTES = {_DATA: FRAME_BYTES, _HEADERS: BLOCK_BYTES, _CONTINUATION: BLOCK_BYTES}
_END_HEADERS = 4
_MOST_STREAMS = SettingCodes.MAX_CONCURRENT_STREAMS

Headers = list[tuple[bytes, bytes]]


class Http2Error(ProtocolError):
    """What HTTP/2, or gRPC on it, does not allow."""

    def __init__(self, text: str, reason: ErrorCodes = ErrorCodes.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.reason = reason


class _Heads:
    """Looks at the heads of frames as they pass by. Raises Http2Error for what is beyond the limits."""

    def __init__(self, preface_bytes: int) -> None:
        self._left = preface_bytes
        self._head = bytearray()
        self._block_bytes = self._blocks = self._blocks_bytes = 0
        self._credit = 0
        self._bucket = Bucket(FRAMES_PER_S)

    def sent_one(self) -> None:
        """The other side may answer a frame of ours with two."""
        self._credit = min(CREDIT, self._credit + 2)

    def look(self, data: memoryview, now: float) -> None:
        """These bytes came next, at the moment `now` in seconds."""
        at = 0
        while at < data.nbytes:
            if self._left:
                step = min(self._left, data.nbytes - at)
                self._left -= step
            else:
                step = min(_HEAD.size - len(self._head), data.nbytes - at)
                self._head += data[at : at + step]
                if len(self._head) == _HEAD.size:
                    self._check(now)
                    self._head.clear()
            at += step

    def _check(self, now: float) -> None:
        high, low, kind, flags, _ = _HEAD.unpack(self._head)
        length = self._left = high << 8 | low
        if length > _MOST_BYTES.get(kind, CONTROL_BYTES):
            raise Http2Error(f"an HTTP/2 frame of {length} bytes", ErrorCodes.FRAME_SIZE_ERROR)
        if kind in (_HEADERS, _CONTINUATION):
            self._check_block(length, is_first=kind == _HEADERS, is_last=bool(flags & _END_HEADERS))
        if kind == _DATA and length >= SMALL_BYTES:
            self._credit = min(CREDIT, self._credit + 1)  # a proxy may send the rest of a piece apart
            return
        if self._credit:
            self._credit -= 1
        elif self._bucket.pay(1, now):
            raise Http2Error("too many HTTP/2 frames", ErrorCodes.ENHANCE_YOUR_CALM)

    def _check_block(self, length: int, *, is_first: bool, is_last: bool) -> None:
        self._block_bytes = length if is_first else self._block_bytes + length
        self._blocks_bytes += length
        self._blocks += is_last
        if self._block_bytes > BLOCK_BYTES:
            raise Http2Error(f"headers of more than {BLOCK_BYTES} bytes", ErrorCodes.ENHANCE_YOUR_CALM)
        if self._blocks > BLOCKS or self._blocks_bytes > BLOCKS_BYTES:
            raise Http2Error("too many streams", ErrorCodes.ENHANCE_YOUR_CALM)


class _Messages:
    """The bytes of messages, without what gRPC puts in front of each."""

    def __init__(self) -> None:
        self._prefix = bytearray()
        self._left = 0
        self.parts: deque[memoryview] = deque()

    def take(self, data: memoryview) -> int:
        """These bytes came; returns how many of them are of no message. Raises Http2Error."""
        between = 0
        while data.nbytes:
            if self._left:
                part = data[: self._left]
                self._left -= part.nbytes
                self.parts.append(part)
            else:
                part = data[: PREFIX.size - len(self._prefix)]
                between += part.nbytes
                self._prefix += part
                if len(self._prefix) == PREFIX.size:
                    self._begin()
            data = data[part.nbytes :]
        return between

    def _begin(self) -> None:
        is_packed, self._left = PREFIX.unpack(self._prefix)
        self._prefix.clear()
        if is_packed:
            raise Http2Error("a compressed message: send without grpc-encoding")
        if self._left > MESSAGE_BYTES:
            words = f"a message of {self._left} bytes, the limit is {MESSAGE_BYTES}: send pieces"
            raise Http2Error(words, ErrorCodes.ENHANCE_YOUR_CALM)

    def read(self, into: memoryview) -> int:
        """Move bytes that are there; returns how many."""
        got = 0
        while self.parts and got < into.nbytes:
            part = self.parts.popleft()
            size = min(part.nbytes, into.nbytes - got)
            into[got : got + size] = part[:size]
            if size < part.nbytes:
                self.parts.appendleft(part[size:])
            got += size
        return got


def connection_of(*, is_client: bool) -> H2Connection:
    """A connection that has said what it takes."""
    config = H2Configuration(client_side=is_client, header_encoding=None)
    connection = H2Connection(config)
    values = {
        SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES,
        _MOST_STREAMS: STREAMS,
        SettingCodes.MAX_HEADER_LIST_SIZE: LIST_BYTES,
        SettingCodes.ENABLE_PUSH: 0,
    }
    connection.local_settings = Settings(client=is_client, initial_values=values)
    connection.max_inbound_frame_size = FRAME_BYTES
    connection.decoder.max_header_list_size = LIST_BYTES
    connection.initiate_connection()
    connection.local_settings = Settings(client=is_client, initial_values=values | {_MOST_STREAMS: EARLY_STREAMS})
    return connection


class Exchange(ABC):
    """One end of a connection with one stream. Not for two threads at once.

    `owed` are bytes that have to be sent before anything else. After an error nothing can be read.
    """

    def __init__(self, *, is_client: bool) -> None:
        self.h2 = connection_of(is_client=is_client)
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
        self._heads = _Heads(0 if is_client else len(PREFACE))
        self._messages = _Messages()
        self._granted, self._held, self._worth = FIRST_WINDOW, 0, 0
        self._sending_left = 0
        self._is_heard = self._is_closed = self._has_data = False

    # --- what is sent

    @property
    def room(self) -> int:
        """How many bytes the other side takes now."""
        return max(0, self.h2.local_flow_control_window(self.stream)) if self.stream and not self.is_over else 0

    @property
    def has_room(self) -> bool:
        """Whether it takes anything: what a message begins with, and a byte of it."""
        return self.room > PREFIX.size

    def pack(self, parts: Sequence[memoryview]) -> list[tuple[memoryview, bool]]:
        """Frames with the first bytes of `parts`, as far as there is room: pieces of frames, and whether each is of
        `parts`. Those who call have to go on with what was not packed, until all of it is.
        """
        found: list[tuple[memoryview, bool]] = []
        left = deque(part for part in parts if part.nbytes)
        total = sum(part.nbytes for part in left)
        for _ in range(FRAMES_AHEAD):
            room = min(self.room, self.h2.max_outbound_frame_size, FRAME_BYTES)
            if not total or not self.has_room:
                break
            prefix = b""
            if not self._sending_left:
                self._sending_left = min(total, PIECE_BYTES)
                prefix = PREFIX.pack(0, self._sending_left)
            size = min(self._sending_left, room - len(prefix), total)
            self._sending_left -= size
            total -= size
            self._settle()
            self.h2.send_data(self.stream, prefix + b"".join(_first(left, size)))
            frame = memoryview(self.h2.data_to_send())
            found += [(frame[: frame.nbytes - size], False), (frame[frame.nbytes - size :], True)]
            if size >= SMALL_BYTES:
                self._heads.sent_one()
        return found

    def _settle(self) -> None:
        """What h2 wants to say joins what is owed."""
        self.owed += self.h2.data_to_send()

    def go_away(self, error: Http2Error) -> None:
        """Owe the other side the reason why this connection ends."""
        self.is_over = True
        if not self._is_closed:
            self.close(error.reason, str(error).encode()[:DEBUG_BYTES])

    def close(self, reason: ErrorCodes, words: bytes | None = None) -> None:
        """No other stream is taken, and what else comes is not read."""
        self._is_closed = True
        self.h2.close_connection(reason, words, self.stream)
        self._settle()

    @abstractmethod
    def farewell(self, why: Error | None) -> None:
        """Owe the other side the end of the stream."""

    # --- what comes

    def feed(self, data: memoryview, now: float) -> None:
        """Take what came, at the moment `now` in seconds. Raises ProtocolError, mostly as Http2Error, and ConnectError.

        No more comes than was given room, so what is kept here is limited.
        """
        if self._has_failed() or self._is_closed or not data.nbytes:  # what else comes is nobody's
            return
        if not self._is_heard:
            self._begin(data)
            self._is_heard = True
        self._heads.look(data, now)
        try:
            events = self.h2.receive_data(bytes(data))
        except H2ProtocolError as error:
            self._is_closed = True  # as it has said
            raise Http2Error(f"not HTTP/2 as it should be: {error}"[:200], ErrorCodes(error.error_code)) from None
        finally:
            self._settle()
        try:
            for event in events:
                if self._has_failed():
                    return
                _TAKES.get(type(event), Exchange._ignore)(self, event)
        except H2ProtocolError:  # what came behind it has ended the stream already
            self._is_closed = self.is_over = self.is_ended = True
            raise PeerClosedError("the other side ended the stream at once") from None
        self._settle()
        if len(self.owed) > OWED_BYTES:
            raise Http2Error("too much to answer", ErrorCodes.ENHANCE_YOUR_CALM)

    def _has_failed(self) -> bool:
        return self.failure is not None

    @property
    def has_bytes(self) -> bool:
        """Whether bytes of messages are there."""
        return bool(self._messages.parts)

    def read(self, into: memoryview) -> int:
        """Move bytes of messages; returns how many, 0 where there are none yet."""
        got = self._messages.read(into)
        self._worth += got
        self._consumed(got)
        return got

    def _consumed(self, size: int) -> None:
        """So many bytes are not held any more: so many more may come."""
        self._held -= size
        most = WINDOW if self._worth > WORTH_BYTES else FIRST_WINDOW
        missing = most - self._granted - self._held
        if missing >= most // 4 and not (self.is_ended or self._is_closed):
            self._granted += missing
            self.h2.increment_flow_control_window(missing)
            self.h2.increment_flow_control_window(missing, self.stream)
            self._settle()

    def _begin(self, data: memoryview) -> None:  # noqa: B027
        """Look at the first bytes that came. Raises what they mean where they are no HTTP/2."""

    def _ignore(self, event: Event) -> None:  # noqa: B027
        """Whatever else there is."""

    def _on_data(self, event: Any) -> None:
        size = event.flow_controlled_length
        if event.stream_id != self.stream:
            if size:
                self.h2.increment_flow_control_window(size)
            return
        self._has_data = True
        self._granted -= size
        self._held += size
        between = self._messages.take(memoryview(event.data))
        self._consumed(between + size - len(event.data))

    def _on_headers(self, event: Any) -> None:
        headers = [(bytes(name), bytes(value)) for name, value in event.headers]
        self._take_headers(event.stream_id, headers, is_end=event.stream_ended is not None)

    def _on_end(self, event: Any) -> None:
        if event.stream_id == self.stream:
            self._end()

    def _end(self) -> None:
        """The other side sends no more on the stream. In the middle of a message that is for those to notice who
        read it."""
        self.is_ended = True

    def _on_reset(self, event: Any) -> None:
        if event.stream_id == self.stream and not self.is_over:
            self.is_over = self.is_ended = True
            self._reset_by(event.error_code)

    def _on_go_away(self, event: Any) -> None:
        """The connection ends. h2 takes it for the end of its streams too, whether or not theirs is to go on."""
        was_over, self._is_closed = self.is_ended, True
        self.is_over = self.is_ended = True
        if not was_over:
            words, was_taken = event.additional_data or b"", event.last_stream_id >= self.stream
            self._left_by(event.error_code, words, was_taken=was_taken)

    @abstractmethod
    def _take_headers(self, stream: int, headers: Headers, *, is_end: bool) -> None:
        """A list of headers has come."""

    def _reset_by(self, reason: int) -> None:  # noqa: B027
        """The other side has ended the stream at once."""

    def _left_by(self, reason: int, words: bytes, *, was_taken: bool) -> None:  # noqa: B027
        """The other side has ended the connection; whether it had looked at the stream."""


def _first(parts: "deque[memoryview]", size: int) -> list[memoryview]:
    """Take the first bytes out of a queue."""
    found = []
    while size:
        part = parts.popleft()
        if part.nbytes > size:
            parts.appendleft(part[size:])
            part = part[:size]
        found.append(part)
        size -= part.nbytes
    return found


_TAKES: dict[type[Event], Callable[[Exchange, Any], None]] = {
    DataReceived: Exchange._on_data,
    RequestReceived: Exchange._on_headers,
    ResponseReceived: Exchange._on_headers,
    TrailersReceived: Exchange._on_headers,
    StreamEnded: Exchange._on_end,
    StreamReset: Exchange._on_reset,
    ConnectionTerminated: Exchange._on_go_away,
}
