from pathlib import Path

import pytest

from edgecloud.engine import backend_choice
from edgecloud.engine.backend_choice import choose
from edgecloud.engine.executor import AUTO, ONNXRUNTIME, TORCH, CpuShare
from edgecloud.models import bundle_network
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.predictor import store
from edgecloud.predictor.profile import Profile, ProfileKey
from edgecloud.utils.inference_utils import set_threads
from tests import bundles


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> BundleNetwork:
    """A bundle that goes by the name of a network that torch has, too."""
    path = tmp_path_factory.mktemp("bundles") / "x.bundle"
    bundles.write(path, *bundles.traced_of(bundles.FixedShape(), (1, 3, 4), "le_net"))
    return bundle_network.read(path)


def _keep(
    folder: Path, network: BundleNetwork, backend: str, seconds: float, threads: int = 1, weights: str = ""
) -> None:
    key = ProfileKey(
        model="le_net",
        graph=network.graph.digest,
        weights=weights or network.weights.digest,
        device="cpu x",
        threads=threads,
        backend=backend,
        clock="wall",
        torch="1",
    )
    layers = len(network.graph.layers)
    store.save(folder, Profile(key, ((0.0, *[seconds / (layers - 1)] * (layers - 1)),), {}), network.graph)


def test_the_faster_one_is_taken_once_both_were_measured(network: BundleNetwork, tmp_path: Path) -> None:
    share = CpuShare(0.5)
    assert choose(network, "cpu", share, AUTO, tmp_path).backend == ONNXRUNTIME
    _keep(tmp_path, network, ONNXRUNTIME, 0.020)
    assert "no other back-end was measured" in choose(network, "cpu", share, AUTO, tmp_path).why
    _keep(tmp_path, network, TORCH, 0.010, threads=7)
    _keep(tmp_path, network, TORCH, 0.010, weights="sha256:other")
    assert choose(network, "cpu", share, AUTO, tmp_path).backend == ONNXRUNTIME
    _keep(tmp_path, network, TORCH, 0.010)
    assert choose(network, "cpu", share, AUTO, tmp_path) == backend_choice.Choice(
        TORCH, "measured: onnxruntime 20 ms, torch 10 ms"
    )


def test_a_difference_that_may_be_noise_changes_nothing(network: BundleNetwork, tmp_path: Path) -> None:
    set_threads(1)
    _keep(tmp_path, network, ONNXRUNTIME, 0.0200)
    _keep(tmp_path, network, TORCH, 0.0198)
    assert choose(network, "cpu", None, AUTO, tmp_path).backend == ONNXRUNTIME


def test_what_the_user_says_is_taken(network: BundleNetwork, tmp_path: Path) -> None:
    assert choose(network, "cpu", None, TORCH, tmp_path).backend == TORCH
    assert choose(network, "cuda", None, AUTO, tmp_path).backend == TORCH
