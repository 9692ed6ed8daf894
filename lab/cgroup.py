"""A control group with a CPU quota, in version 1 or 2 of Linux's control groups. Needs root."""

import os
from dataclasses import dataclass
from pathlib import Path

from edgecloud.lab.reaper import MARK, Reaper
from edgecloud.utils.errors import AppError

PERIOD_S = 0.005
"""Of a quota. The kernel's usual 100 ms are longer than a whole inference on a fast machine, which would then not be
slowed down at all; on the boards that the lab stands for an inference takes many periods."""
LEAST_QUOTA_S = 0.001  # the kernel takes no less
WEIGHT = {1: ("cpu.shares", "262144"), 2: ("cpu.weight", "10000")}
"""Of the group beside all other work of the machine, the most there is: what the quota allows, it is to get."""


@dataclass(frozen=True)
class Controller:
    """Where groups can be made."""

    version: int
    top: Path


def find(root: Path = Path("/"), name: str = "cpu") -> Controller | None:
    """A controller, `cpu` that of processor time; None where there is none that can be written."""
    for line in _read(root / "proc/mounts").splitlines():
        _, place, kind, options, *_ = [*line.split(), "", "", "", ""]
        top = root / place.lstrip("/")
        if kind == "cgroup" and name in options.split(",") and _is_writable(top):
            return Controller(1, top)
        if kind == "cgroup2" and name in _read(top / "cgroup.controllers").split() and _is_writable(top):
            return Controller(2, top)
    return None


def _is_writable(top: Path) -> bool:
    return os.access(top, os.W_OK)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class Group:
    """One group, made and removed by a reaper."""

    def __init__(self, controller: Controller, reaper: Reaper, name: str = "edge") -> None:
        """Make it. Raises AppError where the system does not let us."""
        self._controller, self._reaper = controller, reaper
        self._path = controller.top / f"{MARK}{os.getpid()}-{name}"
        if controller.version == 2 and "cpu" not in _read(controller.top / "cgroup.subtree_control").split():
            reaper.order(write=[str(controller.top / "cgroup.subtree_control"), "+cpu"])
        reaper.order(undo=("cgroup", str(self._path)), mkdir=str(self._path))
        self._write(*WEIGHT[controller.version])

    def limit(self, share: float | None) -> None:
        """Set the quota to a share of one core; None is without."""
        period_us, quota_us = quota(share)
        if self._controller.version == 2:
            self._write("cpu.max", f"{'max' if quota_us is None else quota_us} {period_us}")
            return
        self._write("cpu.cfs_quota_us", "-1")  # or the new period might be too short for the old quota
        self._write("cpu.cfs_period_us", str(period_us))
        if quota_us is not None:
            self._write("cpu.cfs_quota_us", str(quota_us))

    def take(self, pid: int) -> None:
        """Put a process in."""
        self._write("cgroup.procs", str(pid))

    def _write(self, name: str, text: str) -> None:
        try:
            self._reaper.order(write=[str(self._path / name), text])
        except AppError as error:
            raise AppError(f"cannot set {name} of the control group to {text}: {error}") from None


def quota(share: float | None) -> tuple[int, int | None]:
    """The period and the quota for a share of one core, in microseconds, as the kernel takes them."""
    period_s = PERIOD_S if share is None else max(PERIOD_S, LEAST_QUOTA_S / share)
    return round(period_s * 1e6), None if share is None else max(1000, round(share * period_s * 1e6))
