"""What a program that computes is told of its device. Pure."""

from dataclasses import dataclass
from pathlib import Path

from edgecloud.utils import defaults


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What computes, and where the times of its layers come from and are kept."""

    name: str = defaults.Device.NAME
    threads: int | None = None
    """For one layer; None: all cores."""
    backend: str = defaults.Device.BACKEND
    """What computes the layers: torch, onnxruntime, openvino, or auto: for each segment the fastest."""
    cache_dir: Path = Path()
    times: str = defaults.Device.TIMES
    predictors: Path | None = None
    """None: where deployment.py fit puts those of this side."""
