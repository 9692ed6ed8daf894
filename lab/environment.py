"""The description of a machine that is stored with its measurements."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from edgecloud.cli.script import VERSION
from edgecloud.lab.records import Environment

PACKAGES = ("torch", "torchvision", "numpy")
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def environment(
    mode: str, why: str, cpu_period_s: float | None, cloud_threads: int, warnings: Sequence[Mapping[str, str]] = ()
) -> Environment:
    """Of this machine, now; `warnings` are those of `lab doctor`."""
    import torch

    from edgecloud.utils.inference_utils import device_name

    host = {
        "cpu": device_name(torch.device("cpu")),
        "cores": os.cpu_count() or 1,
        "machine": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "memory_gb": memory_gb(),
        "cloud_threads": cloud_threads,
    }
    versions = {"python": platform.python_version(), "project": VERSION}
    versions |= {name: version for name in PACKAGES if (version := version_of(name)) is not None}
    start = datetime.now(UTC).isoformat(timespec="seconds")
    cc = congestion_control()
    return Environment(mode, why, host, versions, 1, cc, start, cpu_period_s, tuple(warnings))


def version_of(package: str) -> str | None:
    """Of an installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memory_gb() -> int | None:
    """Of the machine, rounded."""
    if not hasattr(os, "sysconf") or sys.platform == "win32":
        return None
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (OSError, ValueError):
        return None


def congestion_control() -> str:
    """What TCP uses here."""
    try:
        return CONGESTION.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
