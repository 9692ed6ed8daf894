"""Experiments without root, on any system: a relay as the link, and --emulate-cpu as the slower edge."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgecloud.lab.programs import address_of, program
from edgecloud.lab.reaper import Reaper
from edgecloud.lab.testbed import LinkSpec, cores

START_S = 60.0


class EmulatedTestbed:
    """Everything on loopback."""

    on_edge: tuple[str, ...] = ()
    on_cloud: tuple[str, ...] = ()
    cloud_host = "127.0.0.1"
    cpu_period_s: float | None = None

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper

    @contextmanager
    def link(self, link: LinkSpec, cloud: tuple[str, int], log: Path) -> Iterator[tuple[str, int]]:
        """A relay."""
        with relay(link, cloud, log, self._reaper) as address:
            yield address

    def edge_arguments(self, cpu: float | None) -> list[str]:
        """The emulation stretches the time of layers."""
        return [] if cpu is None else ["--emulate-cpu", f"{cpu:g}"]

    def limit(self, pid: int, cpu: float | None) -> None:
        """The edge does that itself."""

    def prefer(self, pid: int) -> None:
        """Nothing that needs no root would help."""


@contextmanager
def relay(
    link: LinkSpec, to: tuple[str, int], log: Path, reaper: Reaper, prefix: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """A relay of that shape in front of an address, on the loopback of the host that `prefix` leads to."""
    trace = [] if link.trace is None else ["--trace", str(link.trace.resolve())]
    command = [
        "-m",
        "edgecloud.lab.relay",
        "--to",
        to[0],
        str(to[1]),
        "--link",
        link.shape,
        "--exit-on-stdin-eof",
        *trace,
    ]
    with program(command, log, reaper, prefix=prefix, cores=cores().cloud) as process:
        yield address_of(process, START_S)


@contextmanager
def opened(reaper: Reaper) -> Iterator[EmulatedTestbed]:
    """Nothing has to be made."""
    yield EmulatedTestbed(reaper)
