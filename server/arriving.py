"""Requests whose tensors come in chunks: what has come of them, each chunk checked before anything is decoded.

The tensors are as large as the network says, and counted as held from the INFER on; their memory is touched as chunks
come. A request is abandoned by its first wrong chunk, and by its deadline; what is then still on its way is dropped, no
more than was announced.
"""

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from edgecloud.engine.segment import Ran
from edgecloud.models.graph import Layer
from edgecloud.net.connection import Frame
from edgecloud.net.encodings import DTYPES
from edgecloud.net.messages import Chunk
from edgecloud.net.metrics import bytes_by_codec
from edgecloud.net.sides import Held, UnknownSideError
from edgecloud.net.tensors import Array, Described
from edgecloud.net.trains import Train
from edgecloud.server.requests import MAX_CHUNKS, RequestError
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError

MAX_ARRIVING = 4
"""Requests of one connection of which chunks are missing."""
REMEMBERED = 16  # requests that were refused, whose chunks may still be on their way


def is_in_step(error: AppError) -> bool:
    """Whether the stream goes on with the next frame."""
    return isinstance(error, RequestError | UnknownSideError | DeadlineError)


class RowTail(Protocol):
    """A tail that runs by rows, for one request."""

    def feed(self, array: Array) -> None:
        """Compute what the next chunk makes possible."""

    def finish(self) -> Ran:
        """Compute the rest."""


class Sink(Protocol):
    """Where slices go, in the thread that receives; those of a tensor come in order."""

    def put(self, tensor: int, index: int, array: Array) -> None:
        """Slice `index` of a tensor."""

    def complete(self) -> None:
        """All slices have been put."""

    def abandon(self) -> None:
        """No more will come."""


class Whole:
    """Puts slices together; `then` gets the whole tensors."""

    def __init__(self, layers: Sequence[Layer], cuts: Sequence[Sequence[int]], then: Callable[[list[Array]], None]):
        self._cuts, self._then = cuts, then
        self._tensors: list[Array] = [
            np.empty(layer.out_shape if len(cut) > 2 else 0, DTYPES[layer.out_dtype])
            for layer, cut in zip(layers, cuts, strict=True)
        ]

    def put(self, tensor: int, index: int, array: Array) -> None:
        """Into its place; the only one is the tensor."""
        axis, *ends = self._cuts[tensor]
        if len(ends) == 1:
            self._tensors[tensor] = array
            return
        start = ends[index - 1] if index else 0
        self._tensors[tensor][(slice(None),) * axis + (slice(start, ends[index]),)] = array

    def complete(self) -> None:
        """They are whole."""
        self._then(self._tensors)

    def abandon(self) -> None:
        """Nothing was begun."""


class ByRows:
    """Feeds slices to a tail that runs by rows, in the worker's thread: each time all that have come by then.

    `submit` queues work and returns what has its result and how long it waited. `future` gets what the tail made, and
    how long all work waited.
    """

    def __init__(
        self,
        tail: RowTail,
        submit: Callable[[Callable[[], Ran | None]], "Future[tuple[Ran | None, float]]"],
        future: "Future[Any]",
    ) -> None:
        self._tail, self._submit, self._future = tail, submit, future
        self._lock = threading.Lock()
        self._waiting: deque[Array] = deque()
        self._is_whole = self._is_over = self._is_queued = False
        self._queue_s = 0.0

    def put(self, tensor: int, index: int, array: Array) -> None:
        """In the order of the tail's plan."""
        del tensor, index
        with self._lock:
            self._waiting.append(array)
        self._go_on()

    def complete(self) -> None:
        """The tail may end."""
        with self._lock:
            self._is_whole = True
        self._go_on()

    def abandon(self) -> None:
        """What waits is not computed."""
        with self._lock:
            self._is_over = True
            self._waiting.clear()

    def _go_on(self) -> None:
        with self._lock:
            if self._is_queued or self._is_over:
                return
            self._is_queued = True
        self._submit(self._work).add_done_callback(self._worked)

    def _work(self) -> Ran | None:
        """Compute what can be: the answer at the end, None before."""
        while True:
            with self._lock:
                if not self._waiting and (self._is_over or not self._is_whole):
                    self._is_queued = False
                    return None
                array = self._waiting.popleft() if self._waiting else None
            if array is None:
                return self._tail.finish()
            self._tail.feed(array)

    def _worked(self, done: "Future[tuple[Ran | None, float]]") -> None:
        if done.cancelled():
            self._future.cancel()
            return
        error = done.exception()
        ran, waited_s = (None, 0.0) if error is not None else done.result()
        self._queue_s += waited_s
        if (error is None and ran is None) or self._future.done():  # it goes on, or came too late
            return
        if self._future.set_running_or_notify_cancel():
            if error is not None:
                self._future.set_exception(error)
            else:
                self._future.set_result((ran, self._queue_s))


@dataclass(eq=False)
class Arriving:
    """One request, from its INFER to its last chunk."""

    request_id: int
    label: str
    """Of its network, in what is counted."""
    layers: Sequence[Layer]
    """Whose outputs come ..."""
    cuts: Sequence[Sequence[int]]
    """... and how each is cut: the axis, then the ends of the slices."""
    deadline: Deadline
    sink: Sink
    future: "Future[Any]"
    """What its answer waits for."""
    order: Sequence[int] = ()
    """Of every chunk its tensor, where they have to come like that."""
    train: Train = field(default_factory=Train)
    decode_s: float = 0.0
    bytes_by_codec: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._taken = [0] * len(self.cuts)
        self.missing = sum(len(cut) - 1 for cut in self.cuts)

    def take(self, chunk: Chunk, frame: Frame, sides: Held) -> None:
        """The next chunk. Raises RequestError where it is not, UnknownSideError, DeadlineError, and ProtocolError for
        bytes that are no tensor."""
        self.missing -= 1  # of those that are on their way, right or wrong
        self.deadline.remaining()
        described = frame.described()
        if chunk.tensor >= len(self.cuts) or len(described) != 1:
            raise RequestError(f"a chunk is one of {len(self.cuts)} tensors")
        if self.order and self.order[sum(self._taken)] != chunk.tensor:
            raise RequestError(f"the next chunk is one of tensor {self.order[sum(self._taken)]}, not {chunk.tensor}")
        index = self._taken[chunk.tensor]
        self._check(chunk, described[0], index)
        self.train.take(frame)
        self.bytes_by_codec.update(bytes_by_codec(frame.header))
        began = time.perf_counter()
        self.sink.put(chunk.tensor, index, described[0].bound(sides).decode())
        self.decode_s += time.perf_counter() - began
        self._taken[chunk.tensor] += 1

    def _check(self, chunk: Chunk, one: Described, index: int) -> None:
        """Whether this is slice `index` of its tensor."""
        layer, (axis, *ends) = self.layers[chunk.tensor], self.cuts[chunk.tensor]
        if index == len(ends):
            raise RequestError(f"tensor {chunk.tensor} has {len(ends)} chunks, got another one")
        start = ends[index - 1] if index else 0
        if chunk.start != start:
            raise RequestError(f"the next chunk of tensor {chunk.tensor} begins at {start}, not at {chunk.start}")
        shape = (*layer.out_shape[:axis], ends[index] - start, *layer.out_shape[axis + 1 :])
        if one.shape != shape or one.dtype != layer.out_dtype:
            raise RequestError(f"this chunk is {layer.out_dtype} {shape}, got {one.dtype} {one.shape}")

    def abandon(self, error: AppError) -> None:
        """It is answered with this error."""
        self.sink.abandon()
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Arrivals:
    """Those of one connection. Of the thread that receives."""

    def __init__(self) -> None:
        self._arriving: dict[int, Arriving] = {}
        self._dropped: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arriving)

    def check_room(self, request_id: int) -> None:
        """Whether another request may begin to come. Raises RequestError."""
        if request_id in self._arriving:
            raise RequestError("this request is coming in chunks already")
        if len(self._arriving) >= MAX_ARRIVING:
            raise RequestError(f"{MAX_ARRIVING} requests are coming in chunks already")

    def begin(self, arriving: Arriving) -> None:
        """Its chunks may come."""
        self._dropped.pop(arriving.request_id, None)
        self._arriving[arriving.request_id] = arriving

    def take(self, chunk: Chunk, frame: Frame, sides: Held) -> Arriving | None:
        """A chunk has come; returns its request where that is complete now.

        Raises RequestError for one of a request that was not announced, and ProtocolError for bytes that are no tensor.
        """
        if chunk.id not in self._arriving:
            self._drop(chunk.id)
            return None
        arriving = self._arriving[chunk.id]
        if arriving.future.done():  # computing by rows has failed
            del self._arriving[chunk.id]
            self.expect_dropped(chunk.id, arriving.missing - 1)
            return None
        try:
            arriving.take(chunk, frame, sides)
        except AppError as error:
            if not is_in_step(error):
                raise
            self._abandon(arriving, error)
            return None
        if arriving.missing:
            return None
        del self._arriving[chunk.id]
        return arriving

    def _drop(self, request_id: int) -> None:
        """A chunk of a request that was refused, or abandoned, meanwhile."""
        left = self._dropped.get(request_id, 0)
        if not left:
            raise RequestError(f"no request {request_id} is coming in chunks")
        self._dropped[request_id] = left - 1

    def expect_dropped(self, request_id: int, chunks: int) -> None:
        """So many chunks of a request may be on their way that was refused."""
        if not chunks:
            return
        self._dropped[request_id] = min(chunks, MAX_CHUNKS)
        self._dropped.move_to_end(request_id)
        while len(self._dropped) > REMEMBERED:
            self._dropped.popitem(last=False)

    def _abandon(self, arriving: Arriving, error: AppError) -> None:
        del self._arriving[arriving.request_id]
        self.expect_dropped(arriving.request_id, arriving.missing)
        arriving.abandon(error)

    def until(self, idle: Deadline) -> Deadline:
        """How long the next frame may be waited for."""
        return min([idle, *(arriving.deadline for arriving in self._arriving.values())], key=lambda each: each.at)

    def expire(self) -> None:
        """Abandon those whose deadline has passed."""
        now = time.monotonic()
        self._abandon_all(
            (each, each.deadline.passed()) for each in list(self._arriving.values()) if each.deadline.at <= now
        )

    def abandon(self, error: AppError) -> None:
        """Abandon all of them."""
        self._abandon_all((each, error) for each in list(self._arriving.values()))

    def leave(self) -> None:
        """Nobody waits for their answers any more."""
        for arriving in self._arriving.values():
            arriving.sink.abandon()
            arriving.future.cancel()
        self._arriving.clear()

    def _abandon_all(self, those: Iterable[tuple[Arriving, AppError]]) -> None:
        for arriving, error in those:
            self._abandon(arriving, error)
