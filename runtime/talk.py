"""What every edge says to a cloud before it asks anything, and checks of what it hears."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from models.graph import LayerGraph
from net.connection import CONNECT_S, Connection, connect
from net.frames import FrameType
from net.messages import Error, Hello, Ready, from_header
from net.refusals import refusal
from net.tensors import Array
from net.tls import ClientTls
from utils import addresses
from utils.deadline import Deadline
from utils.errors import AppError, ProtocolError

LEAST_PAUSE_S = 0.1
NOT_ASKED = "the cloud answered something that was not asked"


class RefusedError(AppError):
    """The cloud refused, and said why; the exit code is that of what it means here."""

    def __init__(self, error: Error) -> None:
        meaning = refusal(error)
        super().__init__(str(meaning))
        self.error = error
        self.code, self.exit_code = meaning.code, meaning.exit_code


def greet(
    address: tuple[str, int],
    hellos: Sequence[Hello],
    layers: Mapping[str, int],
    ready_s: float,
    opened: Callable[[Connection], None] = lambda _: None,
    tls: ClientTls | None = None,
) -> tuple[Connection, dict[str, Ready]]:
    """Connect and agree on networks; the cloud may have to load and measure them first, for `ready_s` seconds.

    `layers` are the numbers of layers of each; `opened` is given the connection, for another thread to close it.
    With `tls` the cloud has to prove who it is. A cloud that is busy, and says for how long, is greeted again as long
    as there is time.
    Raises AppError: ConnectError, MismatchError and DeadlineError, what the cloud refuses with, and ProtocolError where
    it answers something else.
    """
    late = f"the cloud at {addresses.show(*address)} was not ready within {ready_s:g} s (--ready-timeout)"
    deadline = Deadline.after(ready_s, late)
    while True:
        try:
            return _greet(address, hellos, layers, deadline, opened, tls)
        except _BusyError as error:
            if deadline.remaining() <= error.retry_after_s:
                raise refusal(error.error) from None
            time.sleep(error.retry_after_s)


class _BusyError(AppError):
    """The cloud has no time for this network now, but says when it may have."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.text)
        self.error = error
        self.retry_after_s = max(LEAST_PAUSE_S, error.retry_after_s) * random.uniform(1.0, 1.5)


def _greet(
    address: tuple[str, int],
    hellos: Sequence[Hello],
    layers: Mapping[str, int],
    deadline: Deadline,
    opened: Callable[[Connection], None],
    tls: ClientTls | None,
) -> tuple[Connection, dict[str, Ready]]:
    connection = connect(*address, min(CONNECT_S, deadline.remaining()), tls=tls)
    ready = {}
    try:
        opened(connection)
        for hello in hellos:
            connection.send(hello, deadline)
            frame = connection.receive(deadline)
            if frame.kind is FrameType.ERROR:
                error = from_header(Error, frame.header)
                raise _BusyError(error) if error.code == "BUSY" and error.retry_after_s else refusal(error)
            ready[hello.model] = found = frame.read(Ready)
            if {len(found.seconds), len(found.start_s)} != {layers[hello.model]}:
                raise ProtocolError(f"the cloud's times are not those of {hello.model}")
    except AppError:
        connection.close()
        raise
    sendable = min([connection.limits.payload_bytes, *(found.max_payload for found in ready.values())])
    connection.limits = replace(connection.limits, payload_bytes=sendable)
    return connection, ready


def are_outputs(arrays: Sequence[Array], graph: LayerGraph, tail: frozenset[int]) -> bool:
    """Whether arrays have the shapes and dtypes of what a tail makes, in order."""
    expected = [graph.layers[number] for number in graph.outputs_of(tail)]
    return [(a.shape, a.dtype.name) for a in arrays] == [(e.out_shape, e.out_dtype) for e in expected]
