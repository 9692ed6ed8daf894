"""Which back-end computes a network on one side, and why. No torch.

`auto` takes what runs the network and was measured fastest on this machine, for the same numbers of threads. Nothing is
measured for it alone: what `deployment.py profile --backend NAME` or an inference has measured is remembered.
"""

from dataclasses import dataclass
from pathlib import Path

from edgecloud.engine.executor import AUTO, ONNXRUNTIME, TORCH, CpuShare, candidates
from edgecloud.models.network import Network
from edgecloud.predictor import store
from edgecloud.predictor.profile import ProfileKey
from edgecloud.utils.errors import UsageError
from edgecloud.utils.inference_utils import CPU, threads_in_force
from edgecloud.utils.units import format_seconds

WORTH = 0.97
"""Another back-end than the first is only taken where it needs less than this share of the time."""


@dataclass(frozen=True)
class Choice:
    """A back-end by name, and why it was taken."""

    backend: str
    why: str


def choose(network: Network, device: str, share: CpuShare | None, wanted: str, cache_dir: Path | None) -> Choice:
    """What computes a network on a device."""
    if wanted != AUTO:
        return Choice(wanted, "as --backend says")
    names = candidates(network, device)
    if len(names) == 1:
        return Choice(names[0], _REASONS[names[0]] if device == CPU else f"nothing else computes on {device}")
    times = {} if cache_dir is None else _whole_s(network, names, 1 if share is not None else None, cache_dir)
    if len(times) < len(names):
        return Choice(names[0], "the network is a bundle, and no other back-end was measured")
    best = min(times, key=times.__getitem__)
    taken = best if times[best] < WORTH * times[names[0]] else names[0]
    told = ", ".join(f"{name} {format_seconds(times[name])}" for name in names)
    return Choice(taken, f"measured: {told}")


_REASONS = {
    TORCH: "onnxruntime needs a bundle: deployment.py export makes one",
    ONNXRUNTIME: "the network is a bundle, and torch cannot run it here",
}


def _whole_s(network: Network, names: tuple[str, ...], threads: int | None, folder: Path) -> dict[str, float]:
    """Seconds of the whole network by back-end, as the newest profiles of this machine say."""
    times: dict[str, float] = {}
    for path in store.profile_paths(folder, network.graph.name):
        try:
            profile = store.read(path).profile
        except UsageError:  # said when it is used
            continue
        if profile.key.backend in names and profile.key.backend not in times and _fits(profile.key, network, threads):
            times[profile.key.backend] = sum(profile.seconds)
    return times


def _fits(key: ProfileKey, network: Network, threads: int | None) -> bool:
    same = (key.graph, key.weights) == (network.graph.digest, network.weights.digest)
    return same and key.threads == (threads or threads_in_force()) and key.device.startswith(f"{CPU} ")
