"""Which back-ends can compute a network on one side, and what `--backend` comes to. No torch.

`auto` takes, for each segment, what is fastest here (engine.auto_executor), where there is more than one that can.
"""

from dataclasses import dataclass
from pathlib import Path

from edgecloud.engine.auto_executor import AutoExecutor, Candidate
from edgecloud.engine.executor import AUTO, ONNXRUNTIME, OPENVINO, TORCH, CpuShare, Executor, make_executor
from edgecloud.models import bundle_cache
from edgecloud.models.bundle_network import BundleNetwork, is_in_torch
from edgecloud.models.network import Network
from edgecloud.models.onnx_session import OPTIONS as ONNXRUNTIME_OPTIONS
from edgecloud.models.openvino_session import OPTIONS as OPENVINO_OPTIONS
from edgecloud.utils.extras import TORCH as LIBRARIES
from edgecloud.utils.extras import is_there, version_of
from edgecloud.utils.inference_utils import CPU

AS_SAID = "as --backend says"
NO_BUNDLE = "onnxruntime needs a bundle: deployment.py export makes one"


@dataclass(frozen=True)
class Chosen:
    """What computes a network, and why, as far as that is known before anything has run."""

    executor: Executor
    why: str


@dataclass(frozen=True)
class Candidates:
    """Back-ends that can run a network, the usual one first, and why there are no others."""

    found: tuple[Candidate, ...]
    missing: tuple[str, ...]


def choose(
    network: Network,
    device: str,
    share: CpuShare | None,
    wanted: str,
    cache_dir: Path | None,
    *,
    is_behind: bool = False,
) -> Chosen:
    """What computes a network on a device. Nothing is measured for it yet.

    Raises UsageError, and AppError for a back-end that is not installed.
    """
    if wanted != AUTO:
        given = network if wanted == TORCH or device != CPU else _bundle_of(network, cache_dir) or network
        return Chosen(make_executor(given, device, share, wanted, is_behind=is_behind), AS_SAID)
    candidates = candidates_of(network, device, cache_dir)
    if len(candidates.found) > 1 and cache_dir is not None:
        auto = AutoExecutor(network.graph, candidates.found, share, cache_dir, is_behind=is_behind)
        return Chosen(auto, "")
    first = candidates.found[0]
    executor = make_executor(first.network, device, share, first.backend, is_behind=is_behind)
    return Chosen(executor, "; ".join(candidates.missing) or "nothing else can compute it here")


def candidates_of(network: Network, device: str, cache_dir: Path | None) -> Candidates:
    """What can run a network on a device. Imports nothing."""
    if device != CPU:
        return Candidates((Candidate(TORCH, network, ""),), (f"nothing else computes on {device}",))
    ours = None if isinstance(network, BundleNetwork) else Candidate(TORCH, network, version_of("torch"))
    bundle = _bundle_of(network, cache_dir)
    found, missing = ([], [NO_BUNDLE]) if bundle is None else _of_bundle(bundle)
    if ours is not None:
        return Candidates((ours, *found), tuple(missing))
    if isinstance(network, BundleNetwork) and is_in_torch(network):
        found.append(Candidate(TORCH, network, version_of("torch"), is_heavy=True))
    else:
        missing.append(f"torch {'does not know this network by name' if is_there(*LIBRARIES) else 'is not installed'}")
    return Candidates(tuple(found) or (Candidate(ONNXRUNTIME, network, ""),), tuple(missing))


def _of_bundle(bundle: BundleNetwork) -> tuple[list[Candidate], list[str]]:
    """The runtimes that are installed. OpenVINO is optional, so nothing is said where it is missing."""
    found: list[Candidate] = []
    if is_there("onnxruntime"):
        found.append(Candidate(ONNXRUNTIME, bundle, f"{version_of('onnxruntime')} ({ONNXRUNTIME_OPTIONS})"))
    if is_there("openvino", "onnxruntime"):  # with which it is compared
        found.append(Candidate(OPENVINO, bundle, f"{version_of('openvino')} ({OPENVINO_OPTIONS})"))
    return found, [] if is_there("onnxruntime") else ["onnxruntime is not installed"]


def _bundle_of(network: Network, cache_dir: Path | None) -> BundleNetwork | None:
    if isinstance(network, BundleNetwork):
        return network
    return None if cache_dir is None else bundle_cache.find(cache_dir, network)
