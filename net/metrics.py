"""Metrics hooks of a cloud; server.prometheus implements them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the seconds of one answered request went."""

    queue_s: float
    decode_s: float
    compute_s: float
    """Of the batch that it was computed in."""
    whole_s: float
    """From its first byte to when the kernel had taken the answer."""
    peer: str = ""
    """The connection that it came over ..."""
    point: int | None = None
    """... and where its network was cut; None where several tensors crossed."""
    received_s: float = 0.0
    """From its first byte to its last."""
    up_bytes_per_s: float = 0.0
    """The rate of those bytes; 0 where they were too few to tell."""
    batch: int = 1
    """Requests that were computed with it, this one included."""


@dataclass(frozen=True, slots=True)
class FleetLoad:
    """How the workers of a gateway are together, at one moment."""

    workers: int
    """That may be asked now ..."""
    wanted: int
    """... of those that there should be."""
    load: float
    speed: float
    waiting: int
    """Requests that wait for others, as far as it is known here."""
    queue_s: float
    """What requests waited lately; while there is no worker, until one usually answers."""
    queued_s: float
    """Predicted seconds of all requests that are not answered."""
    lost: int
    """Workers that died or hung ..."""
    repeats: int
    """... and requests that others got for that."""


@dataclass(frozen=True)
class Gauges:
    """What can be looked at in any moment."""

    connections: Callable[[], float]
    waiting: Callable[[], float]
    load: Callable[[], float]
    speed: Callable[[], float]
    """Of the machine now, beside itself when it is quiet."""
    sent: Callable[[], float] = lambda: 0.0
    """Networks that edges sent and that run now ..."""
    store_bytes: Callable[[], float] = lambda: 0.0
    """... and the bytes of all that are kept."""
    queue_s: Callable[[], float] = lambda: 0.0
    """Predicted seconds that a new request waits."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """By flag."""
    peers: Callable[[], Sequence[str]] = tuple
    """The open connections, as `Spent.peer` names them."""
    networks: Callable[[], Mapping[str, int]] = dict
    """What is loaded, with the bytes of its parameters."""
    blocked: Callable[[], Mapping[str, float]] = dict
    """Sources that are turned away, and for how many seconds more."""
    fleet: "Callable[[], FleetLoad] | None" = None
    """Of a gateway: how its workers are together ..."""
    workers: Callable[[], Sequence[Mapping[str, object]]] = list
    """... and each of them, for people."""


class Metrics(Protocol):
    """Is told what happens, in any thread."""

    def connected(self) -> None:
        """A connection was let in."""

    def refused(self, code: str, peer: str = "") -> None:
        """A connection or a request was refused."""

    def received(self, model: str, payload: Mapping[str, int]) -> None:
        """A request for a network is complete and is queued; `payload` is bytes by codec."""

    def answered(self, model: str, spent: Spent, payload: Mapping[str, int]) -> None:
        """An answer has left."""

    def watch(self, gauges: Gauges) -> None:
        """From now on these can be looked at."""


class NoMetrics:
    """Keeps nothing."""

    def connected(self) -> None:
        """Nothing."""

    def refused(self, code: str, peer: str = "") -> None:
        """Nothing."""

    def received(self, model: str, payload: Mapping[str, int]) -> None:
        """Nothing."""

    def answered(self, model: str, spent: Spent, payload: Mapping[str, int]) -> None:
        """Nothing."""

    def watch(self, gauges: Gauges) -> None:
        """Nothing."""


class Several:
    """Tells all of them."""

    def __init__(self, metrics: Sequence[Metrics]) -> None:
        self._all = tuple(metrics)

    def connected(self) -> None:
        """A connection was let in."""
        for one in self._all:
            one.connected()

    def refused(self, code: str, peer: str = "") -> None:
        """A connection or a request was refused."""
        for one in self._all:
            one.refused(code, peer)

    def received(self, model: str, payload: Mapping[str, int]) -> None:
        """A request is complete and is queued."""
        for one in self._all:
            one.received(model, payload)

    def answered(self, model: str, spent: Spent, payload: Mapping[str, int]) -> None:
        """An answer has left."""
        for one in self._all:
            one.answered(model, spent, payload)

    def watch(self, gauges: Gauges) -> None:
        """From now on these can be looked at."""
        for one in self._all:
            one.watch(gauges)


def bytes_by_codec(header: Mapping[str, Any]) -> dict[str, int]:
    """How many bytes each codec has in the payload of a frame whose tensors were read."""
    sizes: dict[str, int] = {}
    for _, _, codec, buffer in header.get("tensors", []):
        kind = codec.partition("@")[0]  # without the digest of a side, of which there are any number
        sizes[kind] = sizes.get(kind, 0) + header["buffers"][buffer]
    return sizes
