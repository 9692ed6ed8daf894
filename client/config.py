"""What every edge is told, whether it runs one inference or many tasks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgecloud.client.fallback import Mode
from edgecloud.engine.device_config import DeviceConfig as DeviceConfig  # shared with the cloud
from edgecloud.partition.cost import Link
from edgecloud.partition.decide import Goal
from edgecloud.utils import defaults
from edgecloud.utils.errors import UsageError

if TYPE_CHECKING:
    from edgecloud.net.tls import ClientTls


Ship = Literal["background", "wait", "off"]
Overlapping = Literal["auto", "off"]
TransportName = Literal["tcp", "grpc"]


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """Where the cloud is, how it is trusted, and how long it is waited for, in seconds."""

    host: str = defaults.HOST
    port: int = defaults.PORT
    more: tuple[tuple[str, int], ...] = ()
    """Further clouds: whenever the edge connects it takes the one with the least queued seconds."""
    token: str = ""
    tls: "ClientTls | None" = None
    transport: TransportName = defaults.Cloud.TRANSPORT
    """What frames travel in: TCP itself, or a stream of gRPC."""
    own: tuple[str, ...] | None = None
    """Start a cloud on loopback with these arguments, and use that one."""
    fallback: Mode = defaults.Cloud.FALLBACK
    """Finish inferences here that the cloud does not answer; `always`: also where no cloud has come yet."""
    ship: Ship = defaults.Cloud.SHIP
    """A network that the cloud does not have and takes is sent: in the `background`, while this edge answers, or that
    is waited for (`wait`), or it is not (`off`). Without a fallback it is always waited for."""
    timeout_s: float = defaults.Cloud.TIMEOUT_S
    ready_s: float = defaults.Cloud.READY_S

    @property
    def hosts(self) -> tuple[str, ...]:
        """Of all clouds."""
        return (self.host, *(host for host, _ in self.more))

    @property
    def is_shipping_awaited(self) -> bool:
        """Whether nothing runs before the cloud has the network."""
        return self.ship == "wait" or self.fallback == "off"

    @property
    def first_s(self) -> float:
        """How long the first handshake may take. With a fallback no inference waits longer than `timeout_s` for a
        cloud, except for one of our own, which was started for it."""
        is_waited_for = self.fallback == "off" or self.own is not None
        return self.ready_s if is_waited_for else min(self.ready_s, self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """What is known of the link, what is done to it, and where it is written down. Rates in bytes per second."""

    up_bytes_per_s: float | None = None
    """Believed of both ways at the start, instead of a probe; None: the link is probed."""
    given: Link | None = None
    """Believed altogether, its round trip too."""
    shape: str | None = None
    """The emulated link, written UP[,RTT[,DOWN]]."""
    record: Path | None = None
    """Write down what the link is like: a trace for the lab."""


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """How tensors may be packed."""

    name: str = defaults.Codec.NAME
    """A codec, or auto: the best lossless one, and lossy ones within the budget."""
    accuracy_budget: float = defaults.Codec.ACCURACY_BUDGET
    """Share of answers that lossy codecs may change, as calibrated."""
    files: tuple[Path, ...] = ()
    """Learned codecs (deployment.py bottleneck), which the cloud has to have too."""


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """All of it."""

    device: DeviceConfig = field(default_factory=DeviceConfig)
    cloud: CloudConfig = field(default_factory=CloudConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    weights: str = defaults.Edge.WEIGHTS
    cpu_share: float | None = None
    """The emulated share of a core."""

    def __post_init__(self) -> None:
        """Refuse what an emulated share does not go with. Raises UsageError."""
        share, device = self.cpu_share, self.device
        if share is None:
            return
        if not 0 < share <= 1:
            raise UsageError(f"--emulate-cpu is a share of one core, above 0 and at most 1, not {share!r}")
        if (device.threads or 1) != 1:
            raise UsageError("--emulate-cpu cannot be combined with --threads: it emulates a share of one core")
        if device.name != "cpu":
            raise UsageError("--emulate-cpu requires -d cpu")


@dataclass(frozen=True)
class EdgeConfig(ClientConfig):
    """What one call of edge_api.py is to do."""

    model: str
    image: Path | None = None
    audio: Path | None = None
    text: str | None = None
    array: Path | None = None
    point: int | None = None
    goal: Goal = field(default_factory=Goal)
    repeat: int = defaults.Edge.REPEAT
    warm_up: int = defaults.Edge.WARM_UP
    verify: bool = False
    compare: bool = False
    power: str = defaults.Edge.POWER
    radio: str = defaults.Edge.RADIO
    overlap: Overlapping = defaults.Edge.OVERLAP
    """Whether a boundary may leave in chunks, so that the stages of one inference overlap, or each waits for the one
    before."""
