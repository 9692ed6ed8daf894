"""The one place where an edge connects to a cloud and says hello, and checks of what it hears."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecloud.client.fallback import busy_pause_s
from edgecloud.engine.learned import with_names
from edgecloud.models.graph import LayerGraph
from edgecloud.net.connection import CONNECT_S, Connection, connect
from edgecloud.net.messages import Error, Hello, Ready
from edgecloud.net.refusals import refusal
from edgecloud.net.tensors import Array
from edgecloud.utils import addresses, defaults
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.dtypes import name_of
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, HandshakeLostError, ProtocolError

if TYPE_CHECKING:
    from edgecloud.net.tls import ClientTls

NOT_ASKED = "unexpected answer from the cloud"
BUSY = "BUSY"
READY_FLAG = "--ready-timeout"
NAP_S = 0.1  # how soon it is noticed that nobody waits any more

OnConnection = Callable[[Connection], None]
"""Is given a connection as soon as there is one, so that another thread can close it."""


class RefusedError(AppError):
    """The cloud refused, and said why; the exit code is that of what it means here."""

    def __init__(self, error: Error) -> None:
        meaning = refusal(error)
        super().__init__(str(meaning))
        self.error = error
        self.code, self.exit_code = meaning.code, meaning.exit_code
        self.refusal, self.retry_after_s = meaning.refusal, meaning.retry_after_s


def is_nobody(error: AppError) -> bool:
    """Whether nothing took the connection."""
    is_told = bool(error.refusal) or isinstance(error, HandshakeLostError)
    return isinstance(error, ConnectError) and not is_told


def blaming(error: AppError, flag: str) -> AppError:
    """The same error, naming the flag by which that time was really limited where a cloud was not ready in time."""
    return DeadlineError(str(error).replace(READY_FLAG, flag)) if isinstance(error, DeadlineError) else error


def handshake(
    address: tuple[str, int],
    hellos: Sequence[Hello],
    layers: Mapping[str, int],
    ready_s: float,
    on_connection: OnConnection = lambda _: None,
    tls: "ClientTls | None" = None,
    is_given_up: Callable[[], bool] = lambda: False,
    transport: str = defaults.Cloud.TRANSPORT,
) -> tuple[Connection, dict[str, Ready]]:
    """Connect and agree on networks; the cloud may have to load and measure them first, for `ready_s` seconds.

    `layers` are the numbers of layers of each; with `tls` the cloud has to prove who it is. A cloud that says BUSY,
    since it loads the network or too many others are there, is asked again on a new connection when it said, within
    `ready_s` seconds in all, unless that `is_given_up`.
    Raises AppError: ConnectError, MismatchError and DeadlineError, what the cloud refuses with (the last BUSY where
    there is no time for another try), and ProtocolError where it answers something else.
    """
    end = time.monotonic() + ready_s
    left_s = ready_s
    busy: AppError | None = None
    while True:
        try:
            return _once(address, hellos, layers, left_s, on_connection, tls, transport)
        except AppError as error:
            if busy is not None and (is_nobody(error) or isinstance(error, DeadlineError)):  # it was there
                raise busy from None
            busy, again_at = error, time.monotonic() + busy_pause_s(error.retry_after_s)
            if error.refusal != BUSY or again_at >= end or is_given_up():
                raise
        while (pause_s := again_at - time.monotonic()) > 0 and not is_given_up():
            time.sleep(min(pause_s, NAP_S))
        left_s = max(end - time.monotonic(), NAP_S)


def _once(
    address: tuple[str, int],
    hellos: Sequence[Hello],
    layers: Mapping[str, int],
    ready_s: float,
    on_connection: OnConnection,
    tls: "ClientTls | None",
    transport: str,
) -> tuple[Connection, dict[str, Ready]]:
    connection = connect(*address, min(CONNECT_S, ready_s), tls=tls, transport=transport)
    late = f"the cloud at {addresses.show(*address)} was not ready within {ready_s:g} s ({READY_FLAG})"
    deadline = Deadline.after(ready_s, late)
    ready = {}
    try:
        on_connection(connection)
        for hello in hellos:
            connection.send(hello, deadline)
            try:
                answer = connection.receive(deadline).read(Ready)
            except AppError as error:
                error.model = hello.model
                raise
            ready[hello.model] = answer = replace(answer, codecs=with_names(answer.codecs))
            if {len(answer.seconds), len(answer.start_s)} != {layers[hello.model]}:
                raise ProtocolError(f"the cloud's times do not match {hello.model}")
    except AppError:
        connection.close()
        raise
    sendable = min([connection.limits.payload_bytes, *(answer.max_payload for answer in ready.values())])
    connection.limits = replace(connection.limits, payload_bytes=sendable)
    return connection, ready


def are_outputs(arrays: Sequence[Array], graph: LayerGraph, tail: frozenset[int]) -> bool:
    """Whether arrays have the shapes and dtypes of what a tail makes, in order."""
    expected = [graph.layers[number] for number in graph.outputs_of(tail)]
    return [(a.shape, name_of(a.dtype)) for a in arrays] == [(e.out_shape, e.out_dtype) for e in expected]
