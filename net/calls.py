"""The two ends of a call of gRPC that carries frames: `Caller` is the edge's, `Service` the cloud's. Pure.

docs/frames.proto is what other clients are made from. What each end says of an other side that is something
else, or does not take the call, is one line that names what to do.
"""

from enum import IntEnum
from urllib.parse import quote_from_bytes, unquote_to_bytes

from h2.errors import ErrorCodes

from edgecloud.net import plain_pickle
from edgecloud.net.frames import MAGIC, TLS_FIRST, pack_prefix, unexpected_tls
from edgecloud.net.http2 import PREFACE, PREFIX, Exchange, Headers, Http2Error, connection_of
from edgecloud.net.messages import Error, to_header
from edgecloud.utils.errors import AppError, ConnectError, PeerClosedError, ProtocolError
from edgecloud.utils.units import printable

PATH = "/edgecloud.Frames/Exchange"
HEALTH_PATH = "/grpc.health.v1.Health/Check"
CONTENT_TYPE = b"application/grpc"
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
    connection = connection_of(is_client=False)
    connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, words, 0)
    return bytes(connection.data_to_send())


class Service(Exchange):
    """The cloud's end: takes one call of PATH. A call of HEALTH_PATH is answered and ends it, all others are refused.

    `is_serving` is what the health check says.
    """

    def __init__(self, *, is_serving: bool = True) -> None:
        super().__init__(is_client=False)
        self._is_serving = is_serving
        self.is_health_check = False
        """Whether that was all."""
        self._settle()

    def _begin(self, data: memoryview) -> None:
        first = data[:1]
        if first == MAGIC[:1]:
            raise TransportError("this port speaks gRPC: use --transport grpc, or the port of -p")
        if first in TLS_FIRST:
            raise unexpected_tls()
        if data[: len(PREFACE)] != PREFACE[: data.nbytes]:
            raise Http2Error("not gRPC: the first bytes are not those of HTTP/2")

    def _take_headers(self, stream: int, headers: Headers, *, is_end: bool) -> None:
        if stream == self.stream:  # trailers, which say nothing here
            return
        if self.stream:
            self.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
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
            self.h2.send_headers(stream, _OK)
            self.is_open, self.is_ended = True, is_end

    def _refuse(self, headers: Headers, text: str) -> None:
        self.h2.send_headers(self.stream, headers, end_stream=True)
        self.close(ErrorCodes.NO_ERROR)
        self.failure, self.is_over = ProtocolError(text), True

    def _tell_health(self) -> None:
        answer = b"\x08\x01" if self._is_serving else b"\x08\x02"
        self.h2.send_headers(self.stream, _OK)
        if self.room >= PREFIX.size + len(answer):
            self.h2.send_data(self.stream, PREFIX.pack(0, len(answer)) + answer)
        self.is_health_check = True
        self.farewell(None)

    def farewell(self, why: Error | None) -> None:
        """Trailers, and that no other stream will be taken."""
        if self.is_over:
            return
        self.is_over = True
        words = status(Status.OK) if why is None else status(_status_of(why), f"{why.code}: {why.text}")
        self.h2.send_headers(self.stream, words, end_stream=True)
        self.close(ErrorCodes.NO_ERROR)


def _status_of(error: Error) -> Status:
    return STATUS_OF.get(error.code, Status.INVALID_ARGUMENT)


_OK: Headers = [(b":status", b"200"), (b"content-type", CONTENT_TYPE)]


def status(code: Status, text: str = "") -> Headers:
    """Trailers of gRPC."""
    words = [(b"grpc-message", quote_from_bytes(text.encode(), safe=" :/,.'()-").encode())] if text else []
    return [(b"grpc-status", str(int(code)).encode()), *words]


class Caller(Exchange):
    """The edge's end: makes one call of PATH. `authority` is the name of the cloud, HOST:PORT."""

    def __init__(self, authority: str, *, is_secure: bool) -> None:
        super().__init__(is_client=True)
        self.stream, self.is_open = 1, True
        self._status: int | None = None
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"https" if is_secure else b"http"),
            (b":path", PATH.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", CONTENT_TYPE),
            (b"user-agent", b"edge-cloud-inference"),
        ]
        self.h2.send_headers(self.stream, headers)
        self._settle()

    def _begin(self, data: memoryview) -> None:
        first = data[0]
        if first == MAGIC[0]:
            raise ConnectError("this port takes frames without gRPC: use --transport tcp, or the port of --grpc-port")
        if data[:1] in TLS_FIRST:
            raise ConnectError("this cloud requires TLS: use --tls-ca FILE")
        if first:  # of a frame of a megabyte or more
            raise ConnectError(
                "the server there does not speak HTTP/2: use the port of --grpc-port, or --transport tcp"
            )

    def _take_headers(self, stream: int, headers: Headers, *, is_end: bool) -> None:
        found = dict(headers)
        if self._status is None:
            self._status = _number(found.get(b":status", b""))
            if self._status != 200 or not found.get(b"content-type", b"").startswith(CONTENT_TYPE):
                self._fail(_meaning(self._status, found))
                return
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
        name = _name(reason)
        kind = PeerClosedError if self._has_data else ConnectError
        self._fail(kind(f"the other side has reset the stream ({name})"))

    def _left_by(self, reason: int, words: bytes, *, was_taken: bool) -> None:
        said, _, self.last_words = words.partition(b"\n")
        if was_taken or not self.last_words.startswith(MAGIC):
            self.last_words = b""
            text = _text(said)
            told = f"{_name(reason)}: {text}" if text else _name(reason)
            kind = PeerClosedError if was_taken else ConnectError
            self._fail(kind(f"the server there ended the connection ({told})"))

    def farewell(self, why: Error | None) -> None:
        """This side sends no more."""
        del why
        if not self.is_over:
            self.h2.end_stream(self.stream)
            self._settle()


def _name(reason: int) -> str:
    return ErrorCodes(reason).name if reason in ErrorCodes.__members__.values() else str(int(reason))


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
