"""Requests whose tensors come in chunks: what has come of them, each chunk checked before anything is decoded.

The tensors are as large as the network says, and counted as held from the INFER on; their memory is touched as chunks
come. A request is abandoned by its first wrong chunk, and by its deadline; what is then still on its way is dropped, no
more than was announced.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

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
        if self.future.set_running_or_notify_cancel():
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
