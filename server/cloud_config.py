"""The configuration of a cloud, from the flags of cloud_api.py."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from edgecloud.net.frames import Limits
from edgecloud.net.penalties import Policy


@dataclass(frozen=True)
class CloudConfig:
    """How a cloud is run. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 9999
    device: str = "cpu"
    threads: int | None = None
    weights: dict[str, str] = field(default_factory=dict)
    """Per network, or for all others under "": default, imagenet, or a file."""
    models: tuple[str, ...] = ()
    """The networks that are served, `all` among them for every one that there is; none means the registry's own."""
    networks: tuple[str, ...] = ()
    """Custom models, FILE.py[:FUNCTION], that are served as well."""
    cache_dir: Path = Path()
    times: str = "auto"
    predictors: Path | None = None
    """None: where deployment.py fit puts those of a cloud."""
    token: str = ""
    tls: ssl.SSLContext | None = None
    limits: Limits = field(default_factory=Limits)
    min_bytes_per_s: float = 1000.0
    policy: Policy = field(default_factory=Policy)
    small_per_s: float = 50.0
    """Control requests per second and source; see net.pacing."""
    max_connections: int = 64
    max_queue: int = 32
    max_batch: int = 1
    """Requests of one network and one cut that are computed together."""
    batch_wait_s: float = 0.0
    """How long a request waits for others to go with it."""
    max_network_bytes: int = 4 << 30
    load_budget_s: float = 600.0
    """Seconds of loading that one source may cause in an hour."""
    hello_s: float = 10.0
    idle_s: float = 600.0
    request_s: float = 120.0
    drain_s: float = 30.0
