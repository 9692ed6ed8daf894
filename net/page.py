"""The metrics page over HTTP, with its own limits, so that its clients take no resources from edges.

One thread serves all visitors, in turns, and never waits for one of them. A visitor has a few seconds to ask and to
take the answer; where all places are taken, the one that has been there longest without asking makes room.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgecloud.net.pacing import Bucket

log = logging.getLogger(__name__)

BACKLOG = 128
PLACES = 16
HEAD_BYTES = 8 << 10  # of a request
STAY_S = 5.0  # from coming to having asked, and from then to having taken the answer
LEAVE_S, DROPPED_BYTES = 1.0, 64 << 10  # for what a visitor still sends after that
ACCEPTS_PER_S = 500.0
PAGES_PER_S = 10.0  # that are made anew; a visitor beyond that gets the latest once more
READ_BYTES = 4 << 10
NO_DESCRIPTORS_S = 0.1
METHODS = ("GET", "HEAD")


@dataclass(eq=False)
class _Visitor:
    sock: socket.socket
    until: float
    request: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None
    """What is still to be sent, once it has asked."""
    is_leaving: bool = False
    dropped: int = 0


class Page:
    """Answers every GET with what `make` gives: one text of one content type."""

    def __init__(self, listeners: Sequence[socket.socket], make: Callable[[], bytes], content_type: str) -> None:
        self._listeners, self._make, self._type = listeners, make, content_type
        self._visitors: dict[_Visitor, None] = {}  # in the order of their coming
        self._selector = selectors.DefaultSelector()
        self._wake, self._wakeup = socket.socketpair()
        self._is_stopping = False
        self._accepts, self._pages = Bucket(ACCEPTS_PER_S), Bucket(PAGES_PER_S)
        self._latest = b""
        for sock in (*listeners, self._wakeup):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def start(self) -> threading.Thread:
        """Serve in a thread of its own, which does not keep the process alive."""
        thread = threading.Thread(target=self.serve, name="page", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self._is_stopping = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def serve(self) -> None:
        """Answer until stopped."""
        while not self._is_stopping:
            for key, _ in self._selector.select(self._wait_s()):
                if key.fileobj in self._listeners:
                    self._accept(key.fileobj)  # type: ignore[arg-type]  # a socket of ours
                elif isinstance(key.data, _Visitor) and key.data in self._visitors:
                    self._serve_visitor(key.data)
            now = time.monotonic()
            for visitor in [one for one in self._visitors if one.until <= now]:
                self._time_is_over(visitor)
        for visitor in list(self._visitors):
            self._close(visitor)
        self._selector.close()
        for sock in (*self._listeners, self._wake, self._wakeup):
            sock.close()

    def _wait_s(self) -> float | None:
        if not self._visitors:
            return None
        return max(0.0, min(visitor.until for visitor in self._visitors) - time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("cannot accept a metrics connection: %s", error)
            time.sleep(NO_DESCRIPTORS_S)
            return
        if len(self._visitors) >= PLACES:
            self._close(next((one for one in self._visitors if one.answer is None), next(iter(self._visitors))))
        sock.setblocking(False)
        now = time.monotonic()
        visitor = _Visitor(sock, now + STAY_S)
        self._visitors[visitor] = None
        self._selector.register(sock, selectors.EVENT_READ, visitor)
        time.sleep(self._accepts.pay(1, now))  # the others wait to be accepted

    def _serve_visitor(self, visitor: _Visitor) -> None:
        try:
            if visitor.is_leaving:
                self._drop(visitor)
            elif visitor.answer is None:
                self._listen_to(visitor)
            else:
                self._send(visitor, visitor.answer)
        except BlockingIOError:
            return
        except OSError:
            self._close(visitor)

    def _listen_to(self, visitor: _Visitor) -> None:
        got = visitor.sock.recv(READ_BYTES)
        visitor.request += got
        if not got:
            self._close(visitor)
        elif b"\r\n\r\n" in visitor.request or b"\n\n" in visitor.request:
            self._answer(visitor, self._answer_to(bytes(visitor.request)))
        elif len(visitor.request) > HEAD_BYTES:
            self._answer(visitor, reply("431 Request Header Fields Too Large"))

    def _answer_to(self, request: bytes) -> bytes:
        words = request.split(b"\n", 1)[0].decode("latin-1").split()
        if len(request) > HEAD_BYTES + READ_BYTES or len(words) != 3 or not words[2].startswith("HTTP/1."):
            return reply("400 Bad Request")
        if words[0] not in METHODS:
            return reply("405 Method Not Allowed", more=f"Allow: {', '.join(METHODS)}\r\n")
        try:
            page = self._page()
        except Exception:
            log.exception("! metrics: internal error")
            return reply("500 Internal Server Error")
        return reply("200 OK", page, self._type, has_body=words[0] != "HEAD")

    def _page(self) -> bytes:
        now = time.monotonic()
        if self._pages.pay(1, now) and self._latest:
            self._pages.pay(-1, now)
        else:
            self._latest = self._make()
        return self._latest

    def _answer(self, visitor: _Visitor, answer: bytes) -> None:
        visitor.until = time.monotonic() + STAY_S
        visitor.answer = memoryview(answer)
        self._selector.modify(visitor.sock, selectors.EVENT_WRITE, visitor)
        self._send(visitor, visitor.answer)

    def _send(self, visitor: _Visitor, answer: memoryview) -> None:
        visitor.answer = answer[visitor.sock.send(answer) :]
        if not visitor.answer:  # closing with unread bytes would reset the connection, and lose what is on its way
            visitor.sock.shutdown(socket.SHUT_WR)
            visitor.is_leaving, visitor.until = True, time.monotonic() + LEAVE_S
            self._selector.modify(visitor.sock, selectors.EVENT_READ, visitor)

    def _drop(self, visitor: _Visitor) -> None:
        got = len(visitor.sock.recv(READ_BYTES))
        visitor.dropped += got
        if not got or visitor.dropped > DROPPED_BYTES:
            self._close(visitor)

    def _time_is_over(self, visitor: _Visitor) -> None:
        if visitor.answer is None:
            with contextlib.suppress(OSError):
                visitor.sock.send(reply("408 Request Timeout"))
        self._close(visitor)

    def _close(self, visitor: _Visitor) -> None:
        del self._visitors[visitor]
        self._selector.unregister(visitor.sock)
        visitor.sock.close()


def reply(
    status: str, body: bytes = b"", content_type: str = "text/plain", *, more: str = "", has_body: bool = True
) -> bytes:
    """The bytes of an answer, after which the connection ends; without a body its status stands there."""
    body = body or f"{status}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}"
    return head.encode() + b"Connection: close\r\n\r\n" + (body if has_body else b"")
