"""Two hosts on one Linux machine: network namespaces joined by a cable that `tc tbf` shapes. Needs root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.keeper import MARK
from utils.errors import AppError

EDGE_ADDRESS, CLOUD_ADDRESS = "10.99.0.1", "10.99.0.2"
BURST, LATENCY = "16kb", "400ms"


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
        for line in _lines(edge, cloud, rate):
            done = subprocess.run(line.split(), check=False, capture_output=True, text=True)
            if done.returncode:
                raise AppError(f"{line}: {done.stderr.strip()}")
        execute = ("ip", "netns", "exec")
        yield Hosts((*execute, edge), (*execute, cloud))
    finally:
        for name in (edge, cloud):  # the cable goes with them
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _lines(edge: str, cloud: str, rate: str) -> list[str]:
    return [
        f"ip netns add {edge}",
        f"ip netns add {cloud}",
        f"ip link add ecci0 netns {edge} type veth peer name ecci1 netns {cloud}",
        f"ip -n {edge} addr add {EDGE_ADDRESS}/24 dev ecci0",
        f"ip -n {cloud} addr add {CLOUD_ADDRESS}/24 dev ecci1",
        f"ip -n {edge} link set ecci0 up",
        f"ip -n {cloud} link set ecci1 up",
        f"tc -n {edge} qdisc add dev ecci0 root tbf rate {rate} burst {BURST} latency {LATENCY}",
    ]
