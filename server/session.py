"""The cloud's end of one conversation: the agreed networks, and answers sent while requests arrive.

The thread of the connection receives. Answers of what the worker computes leave from a second thread, which starts with
the first of them, so that neither a slow edge nor a large answer holds the worker up.
"""

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from edgecloud.engine.worker import BusyError
from edgecloud.net.codec import KINDS
from edgecloud.net.connection import Frame
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Error, Hello, Message, Move, Result
from edgecloud.net.pacing import TINY_BYTES, Bucket, Spending, price, spending_of
from edgecloud.net.server import Peer, Server
from edgecloud.net.sides import Held, UnknownSideError
from edgecloud.net.sources import Account
from edgecloud.net.tensors import Array, Encoded, Passing
from edgecloud.server.arriving import Arrivals
from edgecloud.server.requests import RequestError
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError, ProtocolError
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

IN_FLIGHT = 8  # requests of one connection that are not answered yet; further ones stay on the link
HELD_BYTES = 32 << 20  # of requests and answers that one connection may have outstanding, if it has more than one
NO_FAULT = frozenset({"BUSY", "DEADLINE"})  # refusals of requests that were right, and came in a bad moment
MAX_NETWORKS = 64  # that one connection may name
WRITER_END_S = 5.0
FULL_S = 0.1  # when there may be room again
LOG_EVERY_S = 1.0


class Answered(Protocol):
    """What was computed: a `Ran`, or the answer of a worker."""

    @property
    def arrays(self) -> Sequence[Array | Encoded] | Passing:
        """The tensors."""


R = TypeVar("R", bound=Answered)
C = TypeVar("C", bound=Answered, covariant=True)


class Awaited(Protocol[C]):
    """A Future, as far as it is needed of one: the answer and the seconds that it waited, or why there is none."""

    def add_done_callback(self, tell: Callable[[Any], object], /) -> None:
        """Have this called when there is one, by the thread that gives it."""

    def result(self) -> tuple[C, float]:
        """Raises why there is none."""


ToResult = Callable[[R, float], Result]
OnAnswer = Callable[[R, float, int], None]
"""Is told of an answer that has left: what was computed, its queued seconds, and the bytes of its payload."""


@dataclass(frozen=True, eq=False)
class _Outstanding:
    """A request whose answer is not sent."""

    request_id: int
    future: Awaited[Any]
    to_result: ToResult[Any]
    held_bytes: int
    on_answer: OnAnswer[Any]


class Session:
    """One conversation. `begin` to `end` is a frame in hand of the thread that receives."""

    def __init__(self, peer: Peer, request_s: float, server: Server, small_per_s: float) -> None:
        self.peer = peer
        self.agreed: dict[str, Hello] = {}
        self.sides = Held(KINDS)
        """Data of codecs that came on this connection."""
        self.failure: AppError | None = None
        """Why it has to end, where another thread found that."""
        self.arrivals = Arrivals()
        """Requests that are coming in chunks."""
        self._latest = ""
        self._request_s, self._server = request_s, server
        self._lock = threading.Lock()
        self._pending = 0
        self._account = peer.account
        self._answered = self._account.changed
        self._is_closed = False
        self._outstanding, self._held_bytes = 0, 0
        self._queue: queue.SimpleQueue[_Outstanding | Move | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._told_at = float("-inf")
        self._bucket = Bucket(small_per_s)  # of this connection alone, beside that of its source
        self._owes_until = 0.0

    def agree(self, hello: Hello) -> None:
        """Keep names and digests only, or no network could ever leave memory."""
        self.peer.is_known = self.peer.has_agreed = True
        self.peer.moves, self.peer.used_at = hello.moves, time.monotonic()
        self.agreed.pop(hello.model, None)
        if len(self.agreed) >= MAX_NETWORKS:
            del self.agreed[next(iter(self.agreed))]
        self.agreed[hello.model] = hello
        self._latest = hello.model

    def trust(self) -> None:
        """The other side is a gateway: it counts what each of its sources has outstanding, and this connection is one
        edge's."""
        if not self.peer.is_trusted:
            self.peer.is_known = self.peer.has_agreed = self.peer.is_trusted = True
            self._account = Account()
            self._answered = self._account.changed

    def fail(self, error: AppError) -> None:
        """End the conversation with this error, from another thread than the one that receives."""
        self.failure = self.failure or error
        self._hang_up(socket.SHUT_RD)

    def hello(self, model: str) -> Hello:
        """What was agreed on for a network; "" is the latest. Raises RequestError."""
        name = model or self._latest
        if name not in self.agreed:
            raise RequestError(f"no HELLO named {name[:64]!a}")
        return self.agreed[name]

    # --- of the thread that receives

    def take(self, frame: Frame) -> None:
        """A frame has come: pay for it, wait where that is not possible yet, and have it in hand from then on.

        A client with an agreed handshake has it in hand at once, so that a stop does not lose it. Raises
        PeerClosedError for an unauthenticated client whose place was given to another.
        """
        if self.agreed:
            self.begin()
        spending = spending_of(frame.kind)
        is_tiny = frame.kind is FrameType.CHUNK and frame.payload.nbytes < TINY_BYTES
        tokens = price(frame.header_bytes, is_computed=spending is Spending.COMPUTED and not is_tiny)
        if tokens and spending is Spending.COMPUTED:
            self._owe(self._own(tokens))
        self._server.take_turn(self.peer, spending, tokens, self._owes_until - time.monotonic())
        if not self.agreed:
            self.begin()

    def await_turn(self, spending: Spending) -> None:
        """Pay for a message that belongs to what is in hand, and wait where that is not possible yet. Raises BusyError
        where the cloud is stopping."""
        self._server.take_turn(self.peer, spending, 1)
        if self._server.is_stopping:
            raise BusyError("the cloud is stopping", 1.0)

    def begin(self) -> None:
        """Something is in hand."""
        with self._lock:
            self._pending += 1
            self.peer.is_working = True

    def end(self) -> None:
        """It is answered, or handed on."""
        with self._lock:
            self._pending -= 1
            self.peer.is_working = self._pending > 0

    def charge(self, tokens: float) -> None:
        """Let what a request causes beside its computing be paid for; the wait is before the next frame."""
        self._owe(self._own(tokens))
        self._owe(self._server.pay(self.peer, Spending.SMALL, tokens))

    def _own(self, tokens: float) -> float:
        """Pay from what this connection has; returns the seconds until it owes nothing."""
        if self.peer.is_trusted:
            return 0.0
        with self._lock:
            return self._bucket.pay(tokens, time.monotonic())

    def _owe(self, seconds: float) -> None:
        with self._lock:
            self._owes_until = max(self._owes_until, time.monotonic() + seconds)

    def _pay_refusal(self, code: str) -> None:
        """At once, or leaving would be cheaper than staying; the wait is before the next frame."""
        if code in NO_FAULT:
            self._owe(self._own(1))
        self._owe(self._server.pay(self.peer, Spending.COMPUTED if code in NO_FAULT else Spending.SMALL, 1))

    def send(self, message: Message, arrays: Sequence[Array | Encoded] | Passing = ()) -> int:
        """Answer at once; returns the bytes of the payload. Raises what `Connection.send` does."""
        return self.peer.connection.send(message, Deadline.after(self._request_s, "an answer"), arrays)

    def refuse(self, request_id: int, error: AppError) -> None:
        """Say why a request is not carried out; a flood of refusals is logged once a second."""
        self._pay_refusal(error.code)
        self._server.metrics.refused(error.code, self.peer.name)
        level = logging.WARNING if time.monotonic() - self._told_at > LOG_EVERY_S else logging.DEBUG
        self._told_at = time.monotonic() if level == logging.WARNING else self._told_at
        log.log(level, "! %s refused, %s: %s", self.peer.name, error.code, printable(str(error), 300))
        self.send(Error.of(error, request_id))

    def answer_later(
        self,
        request_id: int,
        future: Awaited[R],
        to_result: ToResult[R],
        held_bytes: int,
        on_answer: OnAnswer[R],
        may_send: Callable[[], bool] = lambda: False,
    ) -> None:
        """Answer when `future` is done. Waits where too many answers are outstanding, or too many bytes with them.

        Where the thread that ends the future `may_send`, since it is there for this edge alone, it answers by itself.
        Raises DeadlineError where the other side does not take them; BusyError where requests are coming in chunks, for
        whose answers it would wait for ever, since the thread that receives them waits.
        """

        def has_room() -> bool:
            few = self._outstanding < IN_FLIGHT and self._held_bytes + held_bytes <= HELD_BYTES
            return (few or not self._outstanding) and self._account.has_room(held_bytes)

        with self._answered:
            if len(self.arrivals) and not has_room():
                raise BusyError("too much is outstanding beside what is coming in chunks", FULL_S)
            if not self._answered.wait_for(has_room, self._request_s):
                raise DeadlineError("the peer does not read its answers")
            self._outstanding += 1
            self._held_bytes += held_bytes
            self._account.take(held_bytes)
        self._begin_to_write()
        self.begin()

        def hand_on(done: Awaited[Any]) -> None:
            request = _Outstanding(request_id, done, to_result, held_bytes, on_answer)
            if may_send():
                self._settle(request)
            else:
                self._queue.put(request)

        future.add_done_callback(hand_on)

    def _begin_to_write(self) -> None:
        with self._lock:
            if self._writer is None:
                self.peer.connection.allow_duplex()
                self._writer = threading.Thread(target=self._write, name=f"answers {self.peer.name}", daemon=True)
                self._writer.start()

    def move(self, move: Move) -> None:
        """Ask an edge that understands it to connect anew, behind the answers that wait to leave. From any thread.

        Raises AppError where there are no more file descriptors.
        """
        self._begin_to_write()
        self._queue.put(move)

    def finish(self) -> None:
        """Wait until everything is answered."""
        with self._answered:
            self._answered.wait_for(lambda: not self._outstanding, self._request_s)

    def close(self) -> None:
        """End the other thread, before the process may end: it may still be freeing tensors."""
        self._queue.put(None)
        if self._writer is not None:
            self._writer.join(WRITER_END_S)
        with self._answered:  # nobody waits for what is left
            self._is_closed = True
            self._account.give_back(self._outstanding, self._held_bytes)

    # --- of the thread that answers

    def _write(self) -> None:
        while (request := self._queue.get()) is not None:
            if isinstance(request, Move):
                self._tell(request)
                continue
            held_bytes = request.held_bytes
            self._finish(request)
            del request  # and with it the tensors, before there is room for others
            self._make_room(held_bytes)

    def _settle(self, request: "_Outstanding") -> None:
        """Answer in the thread that has the answer."""
        self._finish(request)
        self._make_room(request.held_bytes)

    def _make_room(self, held_bytes: int) -> None:
        with self._answered:
            self._outstanding -= 1
            self._held_bytes -= held_bytes
            if not self._is_closed:
                self._account.give_back(1, held_bytes)
        self.peer.used_at = time.monotonic()
        self.end()
        if self._server.is_stopping and not self.peer.is_working and not self.peer.moves:
            self._hang_up(socket.SHUT_RD)

    def _tell(self, move: Move) -> None:
        try:
            self.send(move)
        except AppError as error:
            log.info("! %s: %s", self.peer.name, printable(str(error), 300))
            self._hang_up(socket.SHUT_RDWR)

    def _finish(self, request: "_Outstanding") -> None:
        try:
            self._send_result(request)
        except AppError as error:  # the edge has gone or takes nothing: whoever receives ends the conversation
            log.info("! %s: %s", self.peer.name, printable(str(error), 300))
            self._hang_up(socket.SHUT_RDWR)
        except Exception:
            log.exception("! %s: internal error", self.peer.name)
            self.peer.connection.refuse(Error("INTERNAL", "the cloud failed on this request"), 1.0)

    def _send_result(self, request: "_Outstanding") -> None:
        request_id = request.request_id
        try:
            ran, queue_s = request.future.result()
        except (RequestError, UnknownSideError, BusyError, DeadlineError, ProtocolError) as error:
            self.refuse(request_id, error)
        except CancelledError:  # the edge has left, or we are leaving
            if self._server.is_stopping:
                self.refuse(request_id, BusyError("the cloud is stopping"))
        else:
            request.on_answer(ran, queue_s, self.send(request.to_result(ran, queue_s), ran.arrays))

    def _hang_up(self, how: int) -> None:
        """Wake up the thread that receives: nothing more will come that could be answered."""
        with contextlib.suppress(OSError):
            self.peer.connection.sock.shutdown(how)
