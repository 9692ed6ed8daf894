"""The CPU limit of this process: the quota of its control group, in version 1 or 2.

This is what a CPU limit of Docker (`--cpus 0.5`) or Kubernetes is. A group gets `quota` of processor time in each
`period`, 100 ms where nobody says otherwise; when that is used up, it stands still until the next period begins.
"""

import math
from dataclasses import dataclass
from pathlib import Path

MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """A quota: `cores` is its share of one core, 1.5 for one and a half of them, given out every `period_s` seconds."""

    cores: float
    period_s: float


def cpu_limit(root: Path = Path("/")) -> CpuLimit | None:
    """The tightest quota of this process's group and of those that enclose it; None where there is none.

    `root` is where /proc and /sys are looked for.
    """
    limits = [limit for folder in _folders(root) if (limit := _limit_of(folder)) is not None]
    return min(limits, key=lambda limit: limit.cores, default=None)


def _folders(root: Path) -> list[Path]:
    """The group's folder and all above it, of every hierarchy that can limit processors."""
    folders: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpu" in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / name for name in (controllers, "cpu", "cpu,cpuacct")]
        elif number == "0" and not controllers:
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        else:
            continue
        # in a container the path is often that of the host, while only the own group is mounted: the top counts too
        steps = [step for step in path.split("/") if step and step != ".."]
        for top in dict.fromkeys(tops):
            folders += [top.joinpath(*steps[:count]) for count in range(len(steps), -1, -1)]
    return folders


def _limit_of(folder: Path) -> CpuLimit | None:
    both = _read(folder / "cpu.max").split()  # version 2: "30000 100000" or "max 100000"
    if not both:
        both = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota_us, period_us = (float(text) for text in both)
    except ValueError:
        return None
    is_limit = quota_us > 0 and period_us > 0 and math.isfinite(quota_us / period_us)
    return CpuLimit(quota_us / period_us, period_us / 1e6) if is_limit else None


def _read(path: Path) -> str:
    """The text of a small file, empty where there is none."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(MAX_TEXT)
    except OSError:
        return ""
