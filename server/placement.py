"""Placements: what starts the workers of a gateway, and says where they are. No torch.

A placement is a class with the methods of `Placement`, and a row in `PLACEMENTS`, which imports it when asked for.
It only starts, names and replaces processes; what passes between a gateway and its workers is none of its business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgecloud.utils import defaults

LOCAL, RAY, ADDRESSES, DNS = "local", "ray", "addresses", "dns"


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """Where a worker answers. One that was started again has another name, where the placement knows of that."""

    name: str
    host: str
    """An address or a host name, or `unix:PATH` for a socket on this machine."""
    port: int
    token: str = field(repr=False)
    """What a gateway has to say there."""


@dataclass(frozen=True)
class Setup:
    """What a placement starts workers with."""

    arguments: tuple[str, ...] = ()
    """Flags for `cloud_api.py --worker` that make it serve what the gateway is to serve. Where it listens (-i, -p), its
    device (-d), its threads (--threads) and its token (in the environment, never as an argument) are not among them."""
    device: str = "cpu"
    threads: int | None = None
    """As they were asked for; None leaves it to the placement."""
    token: str = field(default="", repr=False)
    """Of workers that somebody else has started; "" where none was given."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What a placement of its own kind needs besides, by flag: `{"ray-address": ...}`."""
    drain_s: float = defaults.Server.DRAIN_S
    """How long a worker that is not needed any more may finish what it has."""


class Placement(Protocol):
    """Starts and watches workers. Its methods may be called from any thread."""

    @property
    def wanted(self) -> int:
        """How many workers there should be."""

    @property
    def waking_s(self) -> float:
        """Seconds until a new one usually answers."""

    def start(self) -> None:
        """Begin; does not wait for workers. Raises AppError for what cannot work at all."""

    def addresses(self) -> Sequence[WorkerAddress]:
        """The workers that should exist now, whether they answer yet or not. Asked every second or so: cheap."""

    def lost(self, name: str) -> None:
        """The gateway could not use this one any more, since it died or hangs: end and replace it."""

    def close(self, seconds: float) -> None:
        """End them all, in at most so many seconds."""


Maker = Callable[[str, Setup], Placement]
"""Makes a placement of what was written after its name. Raises UsageError."""


def _local(text: str, setup: Setup) -> Placement:
    from edgecloud.server.local_placement import LocalPlacement

    return LocalPlacement(int(text), setup)


def _ray(text: str, setup: Setup) -> Placement:
    from edgecloud.server.ray_placement import RayPlacement

    return RayPlacement(text, setup)


def _addresses(text: str, setup: Setup) -> Placement:
    from edgecloud.server.address_placement import AddressPlacement

    return AddressPlacement(text, setup)


def _dns(text: str, setup: Setup) -> Placement:
    from edgecloud.server.address_placement import DnsPlacement

    return DnsPlacement(text, setup)


PLACEMENTS: dict[str, Maker] = {LOCAL: _local, RAY: _ray, ADDRESSES: _addresses, DNS: _dns}
"""By the kind that `cli.arguments.workers` finds in the text of --workers."""


def make_placement(kind: str, text: str, setup: Setup) -> Placement:
    """What `--workers` asks for. Raises UsageError."""
    return PLACEMENTS[kind](text, setup)
