"""The health check: one short conversation, for Docker, Kubernetes and people; without torch."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from edgecloud.net.connection import connect
from edgecloud.net.messages import State, Status
from edgecloud.net.tls import ClientTls
from edgecloud.utils import defaults
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError
from edgecloud.utils.units import format_seconds

ANSWER_S = 3.0


@dataclass(frozen=True)
class Health:
    """What a cloud said, or why it said nothing."""

    state: State | None
    reason: str
    took_s: float

    @property
    def is_healthy(self) -> bool:
        """Whether it answers and goes on answering."""
        return self.state is not None and not self.state.draining


def ask(host: str, port: int, token: str, tls: ClientTls | None, transport: str = defaults.Cloud.TRANSPORT) -> Health:
    """Connect and ask. Raises ConnectError where nobody is there, or does not let us in."""
    started = time.perf_counter()
    state, reason = None, ""
    connection = connect(host, port, ANSWER_S, tls=tls, transport=transport)
    deadline = Deadline.after(ANSWER_S, f"no answer within {ANSWER_S:g} s")
    try:
        connection.send(Status(token), deadline)
        state = connection.receive(deadline).read(State)
        reason = "the cloud is stopping" if state.draining else ""
    except ConnectError:
        raise
    except AppError as error:  # there is something, but no cloud in good health
        reason = str(error)
    finally:
        connection.close()
    return Health(state, reason, time.perf_counter() - started)


def to_line(health: Health) -> str:
    """For people."""
    state = health.state
    if state is None:
        return f"unhealthy: {health.reason}"
    word = "healthy" if health.is_healthy else f"unhealthy: {health.reason}"
    busy = f"load {state.load:.2f}, {state.waiting} of {state.max_queue} queued, {_others(state)} connections"
    count, kept = len(state.sent.split()), state.store_bytes / 1e6
    sent = f", {count} networks of edges run ({kept:.3g} MB kept)" if kept else ""
    return f"{word}; {busy}{_workers(state)}{sent}, response time {format_seconds(health.took_s)}"


def to_json(health: Health) -> dict[str, Any]:
    """For machines."""
    fields: dict[str, Any] = {}
    if health.state is not None:
        fields = asdict(health.state) | {"connections": _others(health.state), "sent": health.state.sent.split()}
    return {"healthy": health.is_healthy, "reason": health.reason, "took_s": health.took_s, **fields}


def _workers(state: State) -> str:
    """Of a gateway."""
    if not state.gateway:
        return ""
    lost = f" ({state.lost} lost, {state.repeats} requests repeated)" if state.lost or state.repeats else ""
    return f", {state.workers} of {state.wanted} workers{lost}, {format_seconds(state.queued_s)} queued"


def _others(state: State) -> int:
    """Connections without our own."""
    return max(0, state.connections - 1)
