"""The two ends of a call of gRPC that carries frames: `Caller` is the edge's, `Service` the cloud's. Pure.

docs/frames.proto is what other clients are made from. What each end says of an other side that is something
else, or does not take the call, is one line that names what to do.
"""

from enum import IntEnum
from urllib.parse import quote_from_bytes, unquote_to_bytes

from edgecloud.net import hpack, plain_pickle
from edgecloud.net.frames import MAGIC, BadMagicError, pack_prefix
from edgecloud.net.http2 import (
    FIRST_WINDOW,
    FRAME_BYTES,
    PREFACE,
    PREFIX,
    WORD,
    Exchange,
    Flag,
    Head,
    Http2Error,
    Kind,
    Reason,
    Setting,
    go_away,
    pack,
    settings,
)
from edgecloud.net.messages import Error, to_header
from edgecloud.utils.errors import AppError, ConnectError, PeerClosedError, ProtocolError
from edgecloud.utils.units import printable

PATH = "/edgecloud.Frames/Exchange"
HEALTH_PATH = "/grpc.health.v1.Health/Check"
CONTENT_TYPE = b"application/grpc"
TLS_FIRST = (b"\x15", b"\x16")  # of an alert, and of a handshake
TEXT = 200  # characters of what others say that are shown


class Status(IntEnum):
    """Of gRPC, as a stream ends."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


STATUS_OF = {
    "BUSY": Status.RESOURCE_EXHAUSTED,
    "PENALTY": Status.RESOURCE_EXHAUSTED,
    "DEADLINE": Status.DEADLINE_EXCEEDED,
    "TOKEN": Status.UNAUTHENTICATED,
    "UNKNOWN_MODEL": Status.NOT_FOUND,
    "MISMATCH": Status.FAILED_PRECONDITION,
    "VERSION": Status.FAILED_PRECONDITION,
    "INTERNAL": Status.INTERNAL,
}
"""By the code of an ERROR; everything else that a cloud refuses was not as it should be."""
_NOBODY = (502, 503, 504)
_NOT_LET_IN = (401, 403)


class TransportError(ProtocolError):
    """One side speaks gRPC, and the other one does not."""

    code = "TRANSPORT"


def refusal(error: Error) -> bytes:
    """A refusal for a client that has not been heard yet: GOAWAY, with words for people and behind them the ERROR."""
    header = plain_pickle.dumps(to_header(error))
    words = f"{error.code}: {error.text}\n".encode() + pack_prefix(Error.TYPE, len(header), 0) + header
    return settings([]) + go_away(Reason.ENHANCE_YOUR_CALM, words)


class Service(Exchange):
    """The cloud's end: takes one call of PATH. A call of HEALTH_PATH is answered and ends it, all others are refused.

    `is_serving` is what the health check says.
    """

    def __init__(self, *, is_serving: bool = True) -> None:
        super().__init__()
        self._is_serving = is_serving
        self._preface = 0
        self._refused = 0
        self.is_health_check = False
        """Whether that was all."""
        self.owed += settings(
            [
                (Setting.MAX_CONCURRENT_STREAMS, 1),
                (Setting.INITIAL_WINDOW_SIZE, FIRST_WINDOW),
                (Setting.MAX_FRAME_SIZE, FRAME_BYTES),
                (Setting.MAX_HEADER_LIST_SIZE, hpack.LIST_BYTES),
            ]
        )

    def _begin(self, data: memoryview) -> int:
        part = bytes(data[: len(PREFACE) - self._preface])
        expected = PREFACE[self._preface : self._preface + len(part)]
        if part != expected:
            if not self._preface and part[:1] == MAGIC[:1]:
                raise TransportError("this port speaks gRPC: use --transport grpc, or the port of -p")
            if not self._preface and part[:1] in TLS_FIRST:
                raise BadMagicError("TLS handshake on a plaintext port: start the cloud with --tls-cert and --tls-key")
            raise Http2Error("not gRPC: the first bytes are not those of HTTP/2")
        self._preface += len(part)
        self._is_heard = self._preface == len(PREFACE)
        return len(part)

    def _take_headers(self, stream: int, headers: list[hpack.Header], *, is_end: bool) -> None:
        if not stream % 2 or stream < self.stream:
            raise Http2Error("a stream with a number that is not a client's")
        if stream == self.stream:  # trailers, which say nothing here
            if not is_end:
                raise Http2Error("headers in the middle of a stream")
            self._end()
            return
        if self.stream:
            self._refused = max(self._refused, stream)
            self.owed += pack(Kind.RST_STREAM, 0, stream, WORD.pack(Reason.REFUSED_STREAM))
            return
        self.stream = stream
        found = dict(headers)
        path = found.get(b":path", b"")
        if not found.get(b"content-type", b"").startswith(CONTENT_TYPE) or found.get(b":method") != b"POST":
            self._refuse([(b":status", b"415")], "not a call of gRPC")
        elif path == HEALTH_PATH.encode():
            self._tell_health()
        elif path != PATH.encode():
            self._refuse(_OK + status(Status.UNIMPLEMENTED, f"no such method, only {PATH}"), "a call of another method")
        else:
            self.owed += pack(Kind.HEADERS, Flag.END_HEADERS, stream, hpack.encode(_OK))
            self.is_open, self.is_ended = True, is_end

    def _refuse(self, headers: list[hpack.Header], text: str) -> None:
        flags = Flag.END_HEADERS | Flag.END_STREAM
        self.owed += pack(Kind.HEADERS, flags, self.stream, hpack.encode(headers))
        self.owed += go_away(Reason.NO_ERROR, last=self.stream)
        self.failure, self.is_over = ProtocolError(text), True

    def _tell_health(self) -> None:
        answer = b"\x08\x01" if self._is_serving else b"\x08\x02"
        self.owed += pack(Kind.HEADERS, Flag.END_HEADERS, self.stream, hpack.encode(_OK))
        if self.room >= PREFIX.size + len(answer):
            self.owed += pack(Kind.DATA, 0, self.stream, PREFIX.pack(0, len(answer)) + answer)
        self.is_health_check = True
        self.farewell(None)

    def farewell(self, why: Error | None) -> None:
        """Trailers, and that no other stream will be taken."""
        if self.is_over:
            return
        self.is_over = True
        words = status(Status.OK) if why is None else status(_status_of(why), f"{why.code}: {why.text}")
        flags = Flag.END_HEADERS | Flag.END_STREAM
        self.owed += pack(Kind.HEADERS, flags, self.stream, hpack.encode(words))
        self.owed += go_away(Reason.NO_ERROR, last=self.stream)

    def _is_refused(self, stream: int) -> bool:
        return 0 < stream <= self._refused or self.is_over


def _status_of(error: Error) -> Status:
    return STATUS_OF.get(error.code, Status.INVALID_ARGUMENT)


_OK: list[hpack.Header] = [(b":status", b"200"), (b"content-type", CONTENT_TYPE)]


def status(code: Status, text: str = "") -> list[hpack.Header]:
    """Trailers of gRPC."""
    words = [(b"grpc-message", quote_from_bytes(text.encode(), safe=" :/,.'()-").encode())] if text else []
    return [(b"grpc-status", str(int(code)).encode()), *words]


class Caller(Exchange):
    """The edge's end: makes one call of PATH. `authority` is the name of the cloud, HOST:PORT."""

    def __init__(self, authority: str, *, is_secure: bool) -> None:
        super().__init__()
        self.stream, self.is_open = 1, True
        self._status: int | None = None
        self._has_data = False
        self.owed += PREFACE + settings(
            [
                (Setting.ENABLE_PUSH, 0),
                (Setting.INITIAL_WINDOW_SIZE, FIRST_WINDOW),
                (Setting.MAX_FRAME_SIZE, FRAME_BYTES),
                (Setting.MAX_HEADER_LIST_SIZE, hpack.LIST_BYTES),
            ]
        )
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"https" if is_secure else b"http"),
            (b":path", PATH.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", CONTENT_TYPE),
            (b"user-agent", b"edge-cloud-inference"),
        ]
        self.owed += pack(Kind.HEADERS, Flag.END_HEADERS, self.stream, hpack.encode(headers))

    def _begin(self, data: memoryview) -> int:
        first = data[0]
        if first == MAGIC[0]:
            raise ConnectError("this port takes frames without gRPC: use --transport tcp, or the port of --grpc-port")
        if data[:1] in TLS_FIRST:
            raise ConnectError("this cloud requires TLS: use --tls-ca FILE")
        if first:  # of a frame of a megabyte or more
            raise ConnectError(
                "the server there does not speak HTTP/2: use the port of --grpc-port, or --transport tcp"
            )
        self._is_heard = True
        return 0

    def _begin_data(self, frame: Head) -> None:
        super()._begin_data(frame)
        if self._status is None:
            raise Http2Error("data before headers")
        self._has_data = True

    def _take_headers(self, stream: int, headers: list[hpack.Header], *, is_end: bool) -> None:
        if stream != self.stream:
            raise Http2Error("headers of a stream that nobody opened")
        found = dict(headers)
        if self._status is None:
            self._status = _number(found.get(b":status", b""))
            if 100 <= self._status < 200:
                self._status = None
                return
            if self._status != 200 or not found.get(b"content-type", b"").startswith(CONTENT_TYPE):
                self._fail(_meaning(self._status, found))
                return
        elif not is_end:
            raise Http2Error("headers in the middle of a stream")
        if is_end:
            self.is_over = True
            self._end()
            code = _number(found.get(b"grpc-status", b""))
            if code:
                self._fail(self._meaning_of(code, _text(unquote_to_bytes(found.get(b"grpc-message", b"")))))

    def _fail(self, error: AppError) -> None:
        self.is_ended = self.is_over = True
        self.failure = self.failure or error

    def _meaning_of(self, code: int, text: str) -> AppError:
        """Of a status of gRPC, where no ERROR came."""
        name = Status(code).name if code in Status.__members__.values() else str(code)
        said = f"{name}: {text}" if text else name
        if self._has_data:
            return PeerClosedError(f"the stream was ended ({said})")
        if code == Status.UNIMPLEMENTED:
            return ConnectError(f"no service {PATH} there ({said}): use the port of --grpc-port")
        if code == Status.UNAVAILABLE:
            return ConnectError(f"what answers there reaches no cloud ({said})")
        return ConnectError(f"the server there did not take the call ({said})")

    def _reset_by(self, reason: int) -> None:
        name = Reason(reason).name if reason in Reason.__members__.values() else str(reason)
        kind = PeerClosedError if self._has_data else ConnectError
        self._fail(kind(f"the other side has reset the stream ({name})"))

    def _left_by(self, reason: int, words: bytes) -> None:
        said, _, self.last_words = words.partition(b"\n")
        if not self.last_words.startswith(MAGIC):
            self.last_words = b""
            name = Reason(reason).name if reason in Reason.__members__.values() else str(reason)
            text = _text(said)
            self._fail(ConnectError(f"the server there ended the connection ({f'{name}: {text}' if text else name})"))
        self.is_ended = self.is_over = True

    def farewell(self, why: Error | None) -> None:
        """This side sends no more."""
        del why
        if not self.is_over:
            self.owed += pack(Kind.DATA, Flag.END_STREAM, self.stream)


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 4 else 0


def _text(data: bytes) -> str:
    return printable(data.decode(errors="replace"), TEXT)


def _meaning(code: int, headers: dict[bytes, bytes]) -> AppError:
    """Of an answer of HTTP that is none of gRPC."""
    if code in _NOBODY:
        return ConnectError(f"the proxy there reaches no cloud (HTTP {code})")
    if code in _NOT_LET_IN:
        return ConnectError(f"the server there does not let this edge in (HTTP {code})")
    kind = _text(headers.get(b"content-type", b"no content-type"))
    return ConnectError(f"the server there speaks HTTP, but no gRPC (HTTP {code}, {kind}): use the port of --grpc-port")
