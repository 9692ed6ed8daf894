"""OpenVINO as a back-end, where it is installed (pip install openvino): it is optional."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecloud.engine import bundling, certificates
from edgecloud.engine.answers import is_close
from edgecloud.engine.backend_choice import choose
from edgecloud.engine.certificates import NotCertifiedError
from edgecloud.engine.executor import AUTO, OPENVINO, CpuShare, make_executor
from edgecloud.models import bundle_network, given_module, openvino_session
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.onnx_session import OnnxPart
from edgecloud.models.torch_arrays import to_array
from edgecloud.models.torch_network import TorchNetwork, prepare
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.extras import is_there
from tests import bundles

needs_it = pytest.mark.skipif(not is_there("openvino"), reason="openvino is not installed")


@pytest.fixture(scope="module", params=[bundles.Chain, bundles.Branches])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BundleNetwork, TorchNetwork]:
    """A bundle, and what it was made of."""
    return bundles.pair(tmp_path_factory.mktemp("bundles") / "x.bundle", request.param())


@needs_it
def test_every_cut_gives_the_answer_of_the_network_in_torch(pair: tuple[BundleNetwork, TorchNetwork]) -> None:
    ours, theirs = pair
    executor = make_executor(ours, "cpu", CpuShare(1.0), OPENVINO)
    assert executor.machine.threads == 1
    assert "f32" in executor.machine.torch
    x = ours.example.array
    expected = [np.array(array) for array in theirs.whole(x)]
    for point in ours.graph.points:
        assert is_close(certificates.run(executor, ours.graph.head_at(point.number), x), expected)


class Words(nn.Module):
    """Two inputs of whole numbers, the second of which may be flags; answers of two types."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner = nn.Embedding(40, 8), nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        hidden = self.inner(self.words(ids) * mask[..., None].to(torch.float32)).relu()
        return hidden.sum(1), hidden.argmax(-1), ids


IDS, MASK = torch.tensor([[3, 9, 27, 1, 0, 39]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
F = torch.linspace(-1, 1, 16).reshape(1, 2, 8)
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {
    "two inputs": (Words, (IDS, MASK)),
    "flags": (Words, (IDS, MASK.bool())),
    "int32": (Words, (IDS.int(), MASK.int())),
    "layers with several outputs": (bundles.States, (torch.rand(1, 5, 4),)),
    "float64": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double(), (F.double(),)),
    "a fixed batch": (bundles.FixedShape, (torch.rand(1, 3, 4),)),
    "nothing is computed": (lambda: nn.Sequential(nn.Identity(), nn.Dropout(0.1)), (F,)),
}


@needs_it
@pytest.mark.parametrize("name", OTHERS)
def test_every_cut_of_other_networks_gives_their_answer(name: str, tmp_path: Path) -> None:
    made, fed = OTHERS[name]
    torch.manual_seed(0)
    module = made().eval()
    with torch.no_grad():
        answer = module(*fed)
    expected = [np.array(to_array(each)) for each in (answer if isinstance(answer, tuple) else (answer,))]
    entry, loaded = given_module.read(module, fed, "mine")
    network = prepare(loaded, entry.default_input(), entry.name, entry.call)
    bundling.write(entry, network, tmp_path / "mine.bundle", lambda *_: None)
    ours = bundle_network.read(tmp_path / "mine.bundle")
    auto = choose(ours, "cpu", CpuShare(1.0), AUTO, tmp_path).executor
    for executor in (make_executor(ours, "cpu", CpuShare(1.0), OPENVINO), auto):
        for point in ours.graph.points:
            given = certificates.run(executor, ours.graph.head_at(point.number), ours.example.fed)
            assert [each.dtype for each in given] == [each.dtype for each in expected]
            assert is_close(given, expected), point


@needs_it
def test_several_inputs_at_once(pair: tuple[BundleNetwork, TorchNetwork]) -> None:
    ours, theirs = pair
    executor = make_executor(ours, "cpu", CpuShare(1.0), OPENVINO)
    for count in (5, 1, 2):
        several = [ours.example.array * np.float32(1 - 0.4 * number) for number in range(count)]
        together = certificates.run(executor, ours.graph.head_at(1), np.concatenate(several))
        for number, x in enumerate(several):
            expected = [np.array(array) for array in theirs.whole(x)]
            assert is_close([array[number : number + 1] for array in together], expected)


@needs_it
def test_answers_stay_as_they_were_given(pair: tuple[BundleNetwork, TorchNetwork]) -> None:
    ours, _ = pair
    executor = make_executor(ours, "cpu", CpuShare(1.0), OPENVINO)
    segment = executor.load(ours.graph.everything)
    first = executor.run(segment, [ours.example.array]).arrays
    kept = [array.copy() for array in first]
    executor.run(segment, [ours.example.array * np.float32(0.5)])
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


@needs_it
def test_a_profile_is_measured_from_heads_and_tails(pair: tuple[BundleNetwork, TorchNetwork], tmp_path: Path) -> None:
    executor = make_executor(pair[0], "cpu", CpuShare(1.0), OPENVINO)
    profile = executor.profile(tmp_path, tails=True)
    assert profile.key.backend == OPENVINO
    assert sum(profile.seconds) > 0
    assert executor.kept_profile(tmp_path, tails=True) == executor.profile(tmp_path, tails=True)


@needs_it
def test_what_it_computes_otherwise_is_not_used(
    pair: tuple[BundleNetwork, TorchNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OnnxPart.__call__
    monkeypatch.setattr(OnnxPart, "__call__", lambda part, arrays: [1.01 * array for array in right(part, arrays)])
    with pytest.raises(NotCertifiedError, match="use onnxruntime"):
        make_executor(pair[0], "cpu", CpuShare(1.0), OPENVINO).load(pair[0].graph.head_at(1))


def test_where_it_cannot_be_used_one_line_says_why(pair: tuple[BundleNetwork, TorchNetwork]) -> None:
    ours, theirs = pair
    with pytest.raises(UsageError, match="runs bundles: make one with"):
        make_executor(theirs, "cpu", backend=OPENVINO)
    with pytest.raises(UsageError, match="--backend openvino computes on the processor"):
        make_executor(ours, "cuda", backend=OPENVINO)
    if not is_there("openvino"):
        openvino_session.core.cache_clear()
        with pytest.raises(AppError, match="pip install openvino"):
            make_executor(ours, "cpu", backend=OPENVINO)
