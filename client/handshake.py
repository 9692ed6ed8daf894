"""The handshake of every edge with a cloud, and checks of the answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgecloud.models.graph import LayerGraph
from edgecloud.net.connection import CONNECT_S, Connection, connect
from edgecloud.net.messages import Error, Hello, Ready
from edgecloud.net.refusals import refusal
from edgecloud.net.tensors import Array
from edgecloud.net.tls import ClientTls
from edgecloud.utils import addresses
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ProtocolError

NOT_ASKED = "unexpected answer from the cloud"


class RefusedError(AppError):
    """The cloud refused, and said why; the exit code is that of what it means here."""

    def __init__(self, error: Error) -> None:
        meaning = refusal(error)
        super().__init__(str(meaning))
        self.error = error
        self.code, self.exit_code = meaning.code, meaning.exit_code
        self.refusal, self.retry_after_s = meaning.refusal, meaning.retry_after_s


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
    With `tls` the cloud has to prove who it is.
    Raises AppError: ConnectError, MismatchError and DeadlineError, what the cloud refuses with, and ProtocolError where
    it answers something else.
    """
    connection = connect(*address, min(CONNECT_S, ready_s), tls=tls)
    late = f"the cloud at {addresses.show(*address)} was not ready within {ready_s:g} s (--ready-timeout)"
    deadline = Deadline.after(ready_s, late)
    ready = {}
    try:
        opened(connection)
        for hello in hellos:
            connection.send(hello, deadline)
            ready[hello.model] = found = connection.receive(deadline).read(Ready)
            if {len(found.seconds), len(found.start_s)} != {layers[hello.model]}:
                raise ProtocolError(f"the cloud's times do not match {hello.model}")
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
