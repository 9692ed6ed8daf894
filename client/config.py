"""What every edge is told, whether it runs one inference or many tasks; each default is here and nowhere else."""

from dataclasses import dataclass
from pathlib import Path

from edgecloud.client.fallback import Mode
from edgecloud.models import weights
from edgecloud.net.tls import ClientTls
from edgecloud.partition.cost import Link


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What computes here, with which weights, and where it keeps what it has measured."""

    device: str = "cpu"
    threads: int | None = None
    weights: str = weights.DEFAULT
    cpu_share: float | None = None
    """The emulated share of a core."""
    cache_dir: Path = Path()
    times: str = "auto"
    predictors: Path | None = None
    """None: where deployment.py fit puts those of an edge."""


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """Where the cloud is, how it is trusted, and how long it is waited for, in seconds."""

    host: str = "127.0.0.1"
    port: int = 9999
    token: str = ""
    tls: ClientTls | None = None
    own_cloud: tuple[str, ...] | None = None
    """Start a cloud on loopback with these arguments, and use that one."""
    fallback: Mode = "on"
    """Finish inferences here that the cloud does not answer; `always`: also where no cloud has come yet."""
    timeout_s: float = 60.0
    ready_s: float = 300.0

    @property
    def first_s(self) -> float:
        """How long the first handshake may take: with a fallback no inference waits longer than `timeout_s` for a
        cloud, or only for one of our own, which was started for it."""
        is_waited_for = self.fallback == "off" or self.own_cloud is not None
        return self.ready_s if is_waited_for else min(self.ready_s, self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """What is known of the link, what is done to it, and where it is written down. Rates in bytes per second."""

    up_bytes_per_s: float | None = None
    """Believed of both ways at the start, instead of a probe; None: the link is probed."""
    link: Link | None = None
    """Believed altogether, its round trip too."""
    link_shape: str | None = None
    """The emulated link, written UP[,RTT[,DOWN]]."""
    record: Path | None = None
    """Write down what the link is like: a trace for the lab."""


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """How tensors may be packed."""

    codec: str = "auto"
    """A codec by name, or auto: the best lossless one, and lossy ones within the budget."""
    accuracy_budget: float = 0.0
    """Share of answers that lossy codecs may change, as calibrated."""


@dataclass(frozen=True, kw_only=True)
class ClientConfig(DeviceConfig, CloudConfig, LinkConfig, CodecConfig):
    """All of it."""
