"""Testbeds: two ways to run an edge, a cloud and a slow link on one machine, behind one interface.

hosts      two network namespaces, a cable shaped by tc, and a control group's quota of processor time; root on Linux
emulated   a relay and --emulate-cpu; any system
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgecloud.lab.reaper import Reaper
from edgecloud.utils.errors import UsageError

AUTO = "auto"


@dataclass(frozen=True)
class LinkSpec:
    """A link as a spec gives it."""

    name: str
    shape: str
    """UP[,RTT[,DOWN]]."""
    radio: str = "wifi"
    trace: Path | None = None
    """Rates over time, which stand in for those of the shape."""


@dataclass(frozen=True)
class Cores:
    """Which processors run what, so that neither side disturbs the other; empty where there are too few to choose."""

    edge: frozenset[int]
    cloud: frozenset[int]

    @classmethod
    def of(cls, available: Sequence[int]) -> "Cores":
        """The last one for the edge, the others for the cloud."""
        if len(available) < 2:
            return cls(frozenset(), frozenset())
        return cls(frozenset(available[-1:]), frozenset(available[:-1]))


def cores() -> Cores:
    """Of this machine."""
    return Cores.of(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [])


class Testbed(Protocol):
    """One place for experiments, ready for use."""

    on_edge: tuple[str, ...]
    """What is put before a command of the edge ..."""
    on_cloud: tuple[str, ...]
    """... and of the cloud."""
    cloud_host: str
    """Where the cloud is to listen."""
    cpu_period_s: float | None

    def link(self, link: LinkSpec, cloud: tuple[str, int], log: Path) -> AbstractContextManager[tuple[str, int]]:
        """Shape the link for as long as the context lasts; gives the address that the edge connects to."""

    def edge_arguments(self, cpu: float | None) -> list[str]:
        """What edge_api.py needs to be told of its processor."""

    def limit(self, pid: int, cpu: float | None) -> None:
        """Give the edge's process its share of a core, once it is warm."""

    def prefer(self, pid: int) -> None:
        """See to it that other work of this machine disturbs the cloud's process as little as possible."""


@dataclass(frozen=True)
class Mode:
    """One way, by name."""

    name: str
    missing: Callable[[], str]
    """Why this machine cannot do it, with what to do about that; "" where it can."""
    open: Callable[[Reaper], AbstractContextManager[Testbed]]


def choose(mode_name: str, modes: Sequence[Mode]) -> tuple[Mode, str]:
    """The mode that is wanted, or of those that are possible the first, and why.

    Raises UsageError where the machine does not support the mode.
    """
    named_mode = next((mode for mode in modes if mode.name == mode_name), None)
    if named_mode is not None:
        if problem := named_mode.missing():
            raise UsageError(f"--mode {mode_name}: {problem}")
        return named_mode, "it was asked for"
    if mode_name != AUTO:
        raise UsageError(f"no mode {mode_name[:40]!r}: choose {', '.join((AUTO, *(mode.name for mode in modes)))}")
    reasons: list[str] = []
    for mode in modes:
        problem = mode.missing()
        if not problem:
            return mode, "; ".join(reasons) or "this machine can"
        reasons.append(f"no {mode.name}: {problem}")
    raise UsageError("; ".join(reasons))
