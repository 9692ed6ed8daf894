"""What a cloud is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.engine.device_config import DeviceConfig
from edgecloud.net.frames import Limits
from edgecloud.net.penalties import Policy
from edgecloud.utils import defaults

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class CloudConfig:
    """How a cloud is run. Sizes in bytes, times in seconds."""

    host: str = defaults.HOST
    port: int = defaults.PORT
    grpc_port: int | None = None
    """Also listen for gRPC; None: not."""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    weights: dict[str, str] = field(default_factory=dict)
    """Per network, or for all others under "": default, imagenet, or a file."""
    models: tuple[str, ...] = ()
    """The networks that are served, `all` among them for every one that there is; none means the registry's own."""
    networks: tuple[str, ...] = ()
    """Custom models, FILE.py[:FUNCTION], that are served as well."""
    token: str = ""
    tls: "ssl.SSLContext | None" = None
    limits: Limits = field(default_factory=Limits)
    min_bytes_per_s: float = defaults.Server.MIN_BYTES_PER_S
    policy: Policy = field(default_factory=Policy)
    small_per_s: float = defaults.Server.SMALL_PER_S
    """Control requests per second and source; see net.pacing."""
    max_connections: int = defaults.Server.CONNECTIONS
    max_queue: int = defaults.Server.QUEUE
    max_batch: int = defaults.Server.BATCH
    """Requests of one network and one cut that are computed together."""
    batch_wait_s: float = defaults.Server.BATCH_WAIT_S
    """How long a request waits for others to go with it."""
    accepts_networks: bool = False
    """Whether networks are taken from edges that authenticated, or that are on loopback."""
    network_store: Path | None = None
    """Where they are kept; None: until the cloud ends."""
    max_store_bytes: int = defaults.Server.STORE_BYTES
    authenticates: bool = False
    """Whether every client has proved who it is before it is heard, by a certificate."""
    max_network_bytes: int = defaults.Server.NETWORK_BYTES
    load_budget_s: float = defaults.Server.LOAD_BUDGET_S
    """Seconds of loading that one source may cause in an hour."""
    hello_s: float = defaults.Server.HELLO_S
    idle_s: float = defaults.Server.IDLE_S
    request_s: float = defaults.Server.REQUEST_S
    drain_s: float = defaults.Server.DRAIN_S
    codec_files: tuple[Path, ...] = ()
    """Of the learned codecs in `limits`, for workers."""
    workers: tuple[str, str] | None = None
    """It is a gateway: the kind of its placement (server.placement), and what was written after that."""
    worker_token: str = field(default="", repr=False)
    """Of workers that somebody else has started."""
    worker_options: Mapping[str, str] = field(default_factory=dict)
    """Of a placement of one kind, by flag."""
    is_worker: bool = False
    """Its clients are gateways, which have been strict with theirs: it is not, once they have proved who they are."""
    connection_age_s: float = defaults.Server.CONNECTION_AGE_S
    """After how long, a fifth more or less, an edge is asked to choose its cloud again; 0: never."""
    cpu_share: float | None = None
    """The emulated share of a core, in computing layers; None: all that there is."""
