"""OpenVINO as a back-end, where it is installed (pip install openvino): it is optional."""

from pathlib import Path

import numpy as np
import pytest

from edgecloud.engine import certificates
from edgecloud.engine.answers import is_close
from edgecloud.engine.certificates import NotCertifiedError
from edgecloud.engine.executor import OPENVINO, CpuShare, make_executor
from edgecloud.models import openvino_session
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.onnx_session import OnnxPart
from edgecloud.models.torch_network import TorchNetwork
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
        openvino_session._core.cache_clear()
        with pytest.raises(AppError, match="pip install openvino"):
            make_executor(ours, "cpu", backend=OPENVINO)
