from pathlib import Path

import pytest

from edgecloud.engine import backend_choice
from edgecloud.engine.auto_executor import AutoExecutor
from edgecloud.engine.backend_choice import candidates_of, choose
from edgecloud.engine.executor import AUTO, ONNXRUNTIME, OPENVINO, TORCH, CpuShare
from edgecloud.models import bundle_cache, bundle_network
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.utils.extras import is_there
from tests import bundles

SHARE = CpuShare(0.5)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> BundleNetwork:
    """A bundle that goes by the name of a network that torch has, too."""
    path = tmp_path_factory.mktemp("bundles") / "x.bundle"
    bundles.write(path, *bundles.traced_of(bundles.FixedShape(), (1, 3, 4), "le_net"))
    return bundle_network.read(path)


def _names(network: BundleNetwork | TorchNetwork, device: str = "cpu", cache_dir: Path | None = None) -> list[str]:
    return [each.backend for each in candidates_of(network, device, cache_dir).found if each.backend != OPENVINO]


def test_a_bundle_may_be_run_by_all_that_are_installed(network: BundleNetwork, tmp_path: Path) -> None:
    assert _names(network) == [ONNXRUNTIME, TORCH]
    assert isinstance(choose(network, "cpu", SHARE, AUTO, tmp_path).executor, AutoExecutor)
    found = [each.backend for each in candidates_of(network, "cpu", None).found]
    assert (OPENVINO in found) == is_there("openvino")


def test_openvino_is_not_taken_without_what_it_is_compared_with(
    network: BundleNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"openvino", "torch", "torchvision"}
    monkeypatch.setattr(backend_choice, "is_there", lambda *names: there.issuperset(names))
    monkeypatch.setattr(backend_choice, "version_of", lambda _name: "1")
    candidates = candidates_of(network, "cpu", None)
    assert [each.backend for each in candidates.found] == [TORCH]
    assert candidates.missing == ("onnxruntime is not installed",)
    there.add("onnxruntime")
    assert [each.backend for each in candidates_of(network, "cpu", None).found] == [ONNXRUNTIME, OPENVINO, TORCH]


def test_what_the_user_says_is_taken(network: BundleNetwork, tmp_path: Path) -> None:
    chosen = choose(network, "cpu", SHARE, ONNXRUNTIME, tmp_path)
    assert chosen.executor.machine.backend == ONNXRUNTIME
    assert chosen.why == "as --backend says"
    assert _names(network, "cuda") == [TORCH]


def test_a_network_of_torch_is_run_by_torch_until_a_bundle_of_it_is_kept(tmp_path: Path) -> None:
    traced, x = bundles.traced_of(bundles.FixedShape(), (1, 3, 4), "net:a")
    ours = bundles.in_torch(traced, x)
    chosen = choose(ours, "cpu", SHARE, AUTO, tmp_path)
    assert chosen.executor.machine.backend == TORCH
    assert chosen.why == "onnxruntime needs a bundle: deployment.py export makes one"
    path = bundle_cache.path_of(tmp_path, "net:a")
    path.parent.mkdir()
    bundles.write(path, traced, x)
    assert _names(ours, cache_dir=tmp_path) == [TORCH, ONNXRUNTIME]
    assert choose(ours, "cpu", SHARE, ONNXRUNTIME, tmp_path).executor.machine.backend == ONNXRUNTIME
    assert _names(bundles.in_torch(traced, x, "sha256:1"), cache_dir=tmp_path) == [TORCH]  # of other weights
    path.write_bytes(path.read_bytes()[:-40])
    assert _names(ours, cache_dir=tmp_path) == [TORCH]
