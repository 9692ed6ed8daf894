"""What a program that computes is told of its device; each default is here and nowhere else. Pure."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What computes, and where the times of its layers come from and are kept."""

    name: str = "cpu"
    threads: int | None = None
    """For one layer; None: all cores."""
    cache_dir: Path = Path()
    times: str = "auto"
    predictors: Path | None = None
    """None: where deployment.py fit puts those of this side."""
