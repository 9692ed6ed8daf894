"""Two hosts on one Linux machine: network namespaces joined by a veth pair shaped by `tc tbf`. Needs root."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgecloud.lab import cgroup, traces
from edgecloud.lab.emulated import relay
from edgecloud.lab.reaper import MARK, Reaper, sweep
from edgecloud.lab.testbed import LinkSpec
from edgecloud.lab.token_bucket import MTU, tbf
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import parse_link

EDGE_ADDRESS, CLOUD_ADDRESS = "10.99.0.1", "10.99.0.2"
EDGE_CABLE, CLOUD_CABLE = "ecci0", "ecci1"
BURST, LATENCY = "16kb", "400ms"
"""Of `shaped_hosts`, as docs/emulation.md and deploy/ shape a link: what the edge's estimator has to see through."""


@dataclass(frozen=True)
class Hosts:
    """The commands that run something on either host, to be put before it."""

    on_edge: tuple[str, ...]
    on_cloud: tuple[str, ...]
    cloud_address: str = CLOUD_ADDRESS


def missing() -> str:
    """Why this machine cannot have such hosts, or "" where nothing speaks against it."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    return "" if shutil.which("ip") and shutil.which("tc") else "ip and tc (iproute2) are not installed"


@contextmanager
def shaped_hosts(rate: str) -> Iterator[Hosts]:
    """Two hosts; what the edge sends is shaped to `rate`, written as tc writes it. Raises AppError where it fails."""
    mark = f"{MARK}{os.getpid()}"
    edge, cloud = f"{mark}-edge", f"{mark}-cloud"
    try:
        hosts = [f"ip netns add {name}" for name in (edge, cloud)]
        shape = f"tc -n {edge} qdisc add dev {EDGE_CABLE} root tbf rate {rate} burst {BURST} latency {LATENCY}"
        for line in (*hosts, *_cable(edge, cloud), shape):
            process = subprocess.run(line.split(), check=False, capture_output=True, text=True)
            if process.returncode:
                raise AppError(f"{line}: {process.stderr.strip()}")
        execute = ("ip", "netns", "exec")
        yield Hosts((*execute, edge), (*execute, cloud))
    finally:
        for name in (edge, cloud):  # the cable goes with them
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _cable(edge: str, cloud: str) -> list[str]:
    """What joins two namespaces that are there; nothing shapes it yet."""
    return [
        f"ip link add {EDGE_CABLE} netns {edge} type veth peer name {CLOUD_CABLE} netns {cloud}",
        f"ip -n {edge} addr add {EDGE_ADDRESS}/24 dev {EDGE_CABLE}",
        f"ip -n {cloud} addr add {CLOUD_ADDRESS}/24 dev {CLOUD_CABLE}",
        f"ip -n {edge} link set {EDGE_CABLE} up",
        f"ip -n {cloud} link set {CLOUD_CABLE} up",
    ]


# --- as a place for the lab's experiments


NAMESPACES = Path("/run/netns")
NO_RATE = "100gbit"


class HostsTestbed:
    """Two namespaces with a cable between them, and a control group for the edge."""

    def __init__(self, reaper: Reaper) -> None:
        controller = cgroup.find()
        assert controller is not None  # or `cannot` had said so
        mark = f"{MARK}{os.getpid()}"
        self._edge, self._cloud, self._reaper = f"{mark}-edge", f"{mark}-cloud", reaper
        # not `ip netns exec`, which hides /sys/fs/cgroup: the edge could not read its quota
        self.on_edge: tuple[str, ...] = ("nsenter", f"--net={NAMESPACES / self._edge}", "--")
        self.on_cloud: tuple[str, ...] = ("nsenter", f"--net={NAMESPACES / self._cloud}", "--")
        self.cloud_host = CLOUD_ADDRESS
        self.cpu_period_s: float | None = cgroup.PERIOD_S
        for name in (self._edge, self._cloud):
            reaper.order(undo=("netns", name), run=["ip", "netns", "add", name])
            reaper.order(run=["ip", "-n", name, "link", "set", "lo", "up"])
        for line in _cable(self._edge, self._cloud):
            reaper.order(run=line.split())
        for name, cable in ((self._edge, EDGE_CABLE), (self._cloud, CLOUD_CABLE)):
            reaper.order(run=["ip", "-n", name, "link", "set", cable, "mtu", str(MTU)])
        self._group, self._other = (cgroup.Group(controller, reaper, side) for side in ("edge", "cloud"))
        self.has_netem = _has_netem(reaper, self._cloud)

    @contextmanager
    def link(self, link: LinkSpec, cloud: tuple[str, int], log: Path) -> Iterator[tuple[str, int]]:
        """Shape both ends, the upload at the edge's and the download at the cloud's.

        Half of the round trip is added at each end by netem; a kernel without it has a relay on the edge's side add
        all of it, in front of the shaped cable.
        """
        up, down, rtt_s = parse_link(link.shape)
        with ExitStack() as stack:
            if link.trace is None:
                delay_s = rtt_s / 2 if self.has_netem else 0.0
                self._shape(self._edge, EDGE_CABLE, tbf(up), delay_s)
                self._shape(self._cloud, CLOUD_CABLE, tbf(down), delay_s)
            else:
                stack.enter_context(self._replayed(traces.read(link.trace)))
            if not rtt_s or (self.has_netem and link.trace is None):
                yield cloud
                return
            delay_link = replace(link, shape=f"{NO_RATE},{rtt_s:.9f}s", trace=None)
            yield stack.enter_context(relay(delay_link, cloud, log, self._reaper, self.on_edge))

    def _shape(self, host: str, cable: str, bucket: Sequence[str], delay_s: float, verb: str = "replace") -> None:
        tc = ["tc", "-n", host, "qdisc", verb, "dev", cable]
        if not delay_s:
            self._reaper.order(run=[*tc, "root", *bucket])
            return
        wait = ["netem", "delay", f"{delay_s * 1e6:.0f}us", "limit", "10000"]
        self._reaper.order(run=[*tc, "root", "handle", "1:", *wait])
        self._reaper.order(run=[*tc, "parent", "1:1", "handle", "2:", *bucket])

    @contextmanager
    def _replayed(self, trace: traces.Trace) -> Iterator[None]:
        """Change both rates as a trace says, beginning now."""
        stop, ends = threading.Event(), ((self._edge, EDGE_CABLE), (self._cloud, CLOUD_CABLE))
        for host, cable in ends:
            self._shape(host, cable, tbf(trace.rate_at(0.0)), 0.0)

        def change(bytes_per_s: float) -> None:
            for host, cable in ends:
                self._shape(host, cable, tbf(bytes_per_s), 0.0, "change")

        thread = threading.Thread(target=lambda: traces.replay(trace, change, stop), name="replays", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def edge_arguments(self, cpu: float | None) -> list[str]:
        """The quota is the kernel's: the edge finds it by itself."""
        return []

    def limit(self, pid: int, cpu: float | None) -> None:
        """A group's quota, from now on."""
        self._group.limit(cpu)
        self._group.take(pid)

    def prefer(self, pid: int) -> None:
        """A group without a quota, but before other work of this machine."""
        self._other.take(pid)


def cannot() -> str:
    """Why this machine cannot have a `HostsTestbed`, with what to do about it, or ""."""
    if problem := missing():
        return f"{problem}: {'use sudo, or --mode emulated' if 'root' in problem else 'apt install iproute2'}"
    if shutil.which("nsenter") is None:
        return "nsenter (util-linux) is not installed: apt install util-linux"
    if cgroup.find() is None:
        return "no control group of processor time can be made here: --mode emulated needs none"
    probe = f"{MARK}{os.getpid()}-probe"
    process = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], check=False, capture_output=True)
    return f"no network namespace can be made: {process.stderr.strip()}" if process.returncode else ""


def _has_netem(reaper: Reaper, host: str) -> bool:
    """Whether the kernel has it: try it."""
    try:
        reaper.order(run=["tc", "-n", host, "qdisc", "add", "dev", CLOUD_CABLE, "root", "netem", "delay", "1ms"])
    except AppError:
        return False
    return True


@contextmanager
def opened(reaper: Reaper) -> Iterator[HostsTestbed]:
    """The hosts; the reaper removes them."""
    group = cgroup.find()
    sweep(() if group is None else (group.top,))
    yield HostsTestbed(reaper)
