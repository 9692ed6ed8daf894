"""What one call of tasks_edge_api.py is told."""

from dataclasses import dataclass
from pathlib import Path

from edgecloud.client.config import ClientConfig
from edgecloud.utils import defaults


@dataclass(frozen=True)
class TasksConfig(ClientConfig):
    """What it is to do; with `fallback` off a task fails that the cloud does not answer."""

    models: tuple[str, ...] = defaults.Tasks.MODELS
    """Networks of a random mix; custom models are listed here too if tasks of a file are for them."""
    tasks: int = defaults.Tasks.COUNT
    seed: int = defaults.Tasks.SEED
    tasks_file: Path | None = None
    is_resumed: bool = False
    image_dir: Path | None = None
    rate_per_s: float | None = None
    """Arrivals; None: all tasks are there at the start."""
    is_serial: bool = False
    interval_s: float = defaults.Tasks.INTERVAL_S
    """How often the link is looked at."""
    verify: bool = False
