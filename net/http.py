"""HTTP requests and replies of the live page and of the port for scrapes, as data. Pure.

Nothing of a request ever stands in a reply's head. A request that is not plain is refused: no folded lines, no line
that ends with one character, no second Host or length, no chunks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

HEAD_BYTES = 8 << 10
BODY_BYTES = 1 << 10
METHODS = ("GET", "HEAD")
ONCE = ("host", "content-length", "authorization", "origin")
_FIRST = re.compile(r"([A-Z]{1,10}) (/[\x21-\x7e]{0,1000}) HTTP/1\.[01]")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,80}):[ \t]*([\x20-\x7e\t\x80-\xff]*)")
STATUSES = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
MORE = {401: "WWW-Authenticate: Bearer\r\n", 503: "Retry-After: 5\r\n"}
SAFE = (
    "Content-Security-Policy: default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cache-Control: no-store\r\n"
)
"""In every reply."""


class BadRequestError(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, allowed: Sequence[str] = ()) -> None:
        super().__init__(STATUSES[status])
        self.reply = Reply(status, allowed=tuple(allowed))


@dataclass(frozen=True)
class Request:
    """What was asked. The names of `fields` are in small letters."""

    method: str
    path: str
    """Without what follows a question mark."""
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """What is answered; a reply with `frames` is a stream of events, whose next frame each call gives."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    frames: Callable[[], bytes | None] | None = None
    allowed: tuple[str, ...] = ()
    """With 405: the methods that there are."""


def parse(data: bytes, methods: Sequence[str] = METHODS) -> Request | None:
    """The request that these bytes are; None where more has to come. Raises BadRequestError, also for a method that is
    not one of `methods`."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        if len(data) > HEAD_BYTES:
            raise BadRequestError(431)
        return None
    if len(head) > HEAD_BYTES:
        raise BadRequestError(431)
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _FIRST.fullmatch(first)
    if match is None:
        raise BadRequestError(400)
    if match[1] not in methods:
        raise BadRequestError(405, methods)
    fields = _fields(lines)
    length = _length(fields)
    if len(body) < length:
        return None
    return Request(match[1], match[2].partition("?")[0], fields, body[:length])


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadRequestError(400)
        name = match[1].lower()
        if name in ONCE and name in fields:
            raise BadRequestError(400)
        fields[name] = match[2].strip(" \t")
    if "host" not in fields:
        raise BadRequestError(400)
    return fields


def _length(fields: Mapping[str, str]) -> int:
    if "transfer-encoding" in fields:
        raise BadRequestError(501)
    text = fields.get("content-length", "0")
    if not (text.isascii() and text.isdecimal()):
        raise BadRequestError(400)
    if len(text) > 6 or int(text) > BODY_BYTES:
        raise BadRequestError(413)
    return int(text)


def to_bytes(reply: Reply, *, has_body: bool = True) -> bytes:
    """What is sent, after which the connection ends, unless it is a stream. Without a body its status stands there."""
    name = STATUSES[reply.status]
    more = f"Allow: {', '.join(reply.allowed)}\r\n" if reply.allowed else MORE.get(reply.status, "")
    head = f"HTTP/1.1 {reply.status} {name}\r\n{SAFE}{more}Connection: close\r\n"
    if reply.frames is not None:
        return f"{head}Content-Type: text/event-stream\r\n\r\n".encode()
    body = reply.body or (b"" if reply.status == 204 else f"{reply.status} {name}\n".encode())
    head += f"Content-Type: {reply.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (body if has_body else b"")


def event(name: str, text: str) -> bytes:
    """One frame of a stream; `text` is JSON in one line."""
    return f"event: {name}\ndata: {text}\n\n".encode()
