"""What one call of tasks_edge_api.py is told; each default is here and nowhere else."""

from dataclasses import dataclass
from pathlib import Path

from edgecloud.client.config import ClientConfig


@dataclass(frozen=True)
class TasksConfig(ClientConfig):
    """What it is to do; with `fallback` off a task fails that the cloud does not answer."""

    models: tuple[str, ...] = ("alex_net", "vgg_net", "mobile_net", "le_net")
    """Networks of a random mix; files of one's own are named here too if tasks of a file are for them."""
    tasks: int = 40
    seed: int = 1
    tasks_file: Path | None = None
    is_resumed: bool = False
    image_dir: Path | None = None
    rate_per_s: float | None = None
    """Arrivals; None: all tasks are there at the start."""
    is_serial: bool = False
    interval_s: float = 1.0
    """How often the link is looked at."""
    verify: bool = False
