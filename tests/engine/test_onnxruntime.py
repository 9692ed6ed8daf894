import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecloud.engine import bundle_executor, certificates
from edgecloud.engine.answers import is_close
from edgecloud.engine.executor import AUTO, ONNXRUNTIME, TORCH, CpuShare, Executor, make_executor, usual
from edgecloud.engine.onnxruntime_executor import OnnxRuntimeExecutor
from edgecloud.models.bundle import Certificate
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.network import Array, Fed
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import MissingLibraryError
from tests import bundles

Pair = tuple[BundleNetwork, TorchNetwork]


@pytest.fixture(scope="module", params=[bundles.Chain, bundles.Branches])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A bundle, and what it was made of."""
    return bundles.pair(tmp_path_factory.mktemp("bundles") / "x.bundle", request.param())


def _whole(network: TorchNetwork, x: Array) -> list[Array]:
    return [np.array(array) for array in network.whole(x)]


def test_every_cut_gives_the_answer_of_the_network_in_torch(pair: Pair) -> None:
    ours, theirs = pair
    executor = OnnxRuntimeExecutor(ours, "cpu")
    x = ours.example.array
    expected = _whole(theirs, x)
    assert is_close(ours.whole(x), expected)
    for point in ours.graph.points:
        assert is_close(certificates.run(executor, ours.graph.head_at(point.number), x), expected)


def test_inputs_stay_as_they_are_and_may_be_read_only(pair: Pair) -> None:
    ours, _ = pair
    executor = OnnxRuntimeExecutor(ours, "cpu")
    x = ours.example.array.copy()
    x.flags.writeable = False
    before = x.copy()
    segment = executor.load(ours.graph.everything)
    first = [np.array(array) for array in executor.run(segment, [x]).arrays]
    again = executor.run(segment, [x]).arrays
    assert np.array_equal(x, before)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert segment.runs == 2


def test_several_inputs_at_once(pair: Pair) -> None:
    ours, theirs = pair
    executor = OnnxRuntimeExecutor(ours, "cpu")
    several = [ours.example.array * np.float32(scale) for scale in (1, 0.5, -1, 0, 2)]
    head = ours.graph.head_at(1)
    together = certificates.run(executor, head, np.concatenate(several))
    for number, x in enumerate(several):
        assert is_close([array[number : number + 1] for array in together], _whole(theirs, x))


def test_each_output_is_that_of_torch(pair: Pair) -> None:
    ours, theirs = pair
    x = ours.example.array
    kept: dict[int, Array] = {}
    ours.each_output(x, kept.__setitem__)
    expected: dict[int, Array] = {}
    theirs.each_output(x, lambda number, array: expected.__setitem__(number, np.array(array)))
    assert sorted(kept) == list(range(len(ours.graph.layers)))
    assert all(is_close([kept[number]], [array]) for number, array in expected.items())


def test_certificates_say_how_far_each_cut_is_off(pair: Pair) -> None:
    ours, theirs = pair
    executor = OnnxRuntimeExecutor(ours, "cpu")
    done: list[float] = []
    certified = certificates.certify(executor, theirs.whole, is_batched=True, progress=done.append)
    assert [each.point for each in certified] == [*range(len(ours.graph.points)), 0]
    assert [each.batch for each in certified] == [*[1] * len(ours.graph.points), 3]
    assert done[-1] == 1
    assert all(each.is_same_top and each.largest > 0 for each in certified)
    with pytest.raises(certificates.NotCertifiedError, match="cut at point 0"):
        certificates.certify(
            executor, lambda x: [array * 1.01 for array in theirs.whole(x)], is_batched=False, progress=done.append
        )


def test_a_cut_of_a_network_that_rounds_much_is_as_near_to_float64_as_the_network_is(tmp_path: Path) -> None:
    ours, theirs = bundles.pair(tmp_path / "x.bundle", bundles.Branches())
    executor = OnnxRuntimeExecutor(ours, "cpu")

    def moved(by: float) -> Callable[[Fed], list[Array]]:
        return lambda x: [array + np.float32(by * np.abs(array).max()) for array in theirs.whole(x)]

    def certified(whole: float, exact: Callable[[Fed], list[Array] | None]) -> tuple[Certificate, ...]:
        return certificates.certify(executor, moved(whole), is_batched=True, progress=lambda _: None, exact=exact)

    assert len(certified(2.5e-5, moved(1e-5))) == len(ours.graph.points) + 1
    assert certified(2.2e-5, theirs.in_float64)[0].largest_difference > 0
    for whole, exact in ((5e-5, moved(4.8e-5)), (5e-5, moved(5e-5)), (5e-5, lambda _: None), (2e-4, moved(1.9e-4))):
        with pytest.raises(certificates.NotCertifiedError, match="cut at point 0"):
            certified(whole, exact)
    with pytest.raises(certificates.NotCertifiedError, match="float32 is not precise enough"):
        certified(5e-5, moved(1e-5))


def test_a_head_holds_only_its_own_weights(pair: Pair) -> None:
    ours, _ = pair
    head, whole = (ours.bundle.part(layers) for layers in (ours.graph.head_at(1), ours.graph.everything))
    assert head.nodes < whole.nodes
    assert set(head.weights) <= set(whole.weights)
    tail = ours.bundle.part(ours.graph.everything - ours.graph.head_at(1))
    assert not set(tail.weights) & set(head.weights)


def test_segments_go_where_they_hold_too_much(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair
    monkeypatch.setattr(bundle_executor, "KEPT_BYTES", 1)
    executor = OnnxRuntimeExecutor(ours, "cpu")
    cuts = [frozenset(range(number, len(ours.graph.layers))) for number in range(len(ours.graph.layers))]
    for layers in cuts:
        executor.load(layers)
        assert executor.has(layers)
    kept = [layers for layers in cuts if executor.has(layers)]
    assert executor._held_bytes() <= executor._most_bytes or len(kept) == bundle_executor.LEAST_KEPT
    assert kept == cuts[-len(kept) :]


def test_an_emulated_share_makes_it_longer_by_that(pair: Pair) -> None:
    ours, _ = pair
    slow = OnnxRuntimeExecutor(ours, "cpu", CpuShare(0.02))
    assert slow.machine.threads == 1
    assert slow.share == 0.02
    segment = slow.load(ours.graph.everything)
    slow.warm_up(segment, [ours.example.array])
    work = [slow.run(segment, [ours.example.array]).seconds * 0.02 for _ in range(3)]
    fast = OnnxRuntimeExecutor(ours, "cpu")
    assert min(work) > 0
    assert fast.share == 1


def test_a_profile_is_kept_by_all_that_it_depends_on(pair: Pair, tmp_path: Path) -> None:
    ours, _ = pair
    executor = OnnxRuntimeExecutor(ours, "cpu")
    assert executor.kept_profile(tmp_path, tails=True) is None
    done: list[float] = []
    profile = executor.profile(tmp_path, done.append, tails=True)
    assert done[-1] == 1
    assert len(profile.seconds) == len(ours.graph.layers)
    assert all(s >= 0 for s in profile.seconds)
    assert sum(profile.seconds) > 0
    assert all(s >= 0 for s in profile.start_s)
    assert profile.key.backend == "onnxruntime"
    assert "1." in profile.key.torch
    assert "shared arena, no spinning" in profile.key.torch
    assert executor.kept_profile(tmp_path, tails=True) == executor.profile(tmp_path, tails=True)


def test_auto_takes_onnxruntime_for_a_bundle_on_the_processor_only(pair: Pair) -> None:
    ours, theirs = pair
    assert usual(ours, "cpu") == ONNXRUNTIME
    assert usual(ours, "cuda") == TORCH
    assert usual(theirs, "cpu") == TORCH
    executor: Executor = make_executor(ours, "cpu", backend=AUTO)
    assert executor.machine.backend == ONNXRUNTIME


def test_what_it_cannot_run_is_said_with_what_to_do(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    with pytest.raises(UsageError, match=r"deployment\.py export -t"):
        make_executor(theirs, "cpu", backend=ONNXRUNTIME)
    with pytest.raises(UsageError, match="use -d cpu, or --backend torch -d cuda"):
        make_executor(ours, "cuda", backend=ONNXRUNTIME)
    with pytest.raises(UsageError, match="is not a built-in network"):
        make_executor(ours, "cpu", backend=TORCH)
    with pytest.raises(UsageError, match="backend is one of auto, torch, onnxruntime, openvino, not 'tvm'"):
        make_executor(ours, "cpu", backend="tvm")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibraryError, match="needs onnxruntime"):
        make_executor(ours, "cpu", backend=ONNXRUNTIME)


def test_torch_is_left_with_its_own_threads(pair: Pair) -> None:
    before = torch.get_num_threads()
    OnnxRuntimeExecutor(pair[0], "cpu", CpuShare(0.5))
    assert torch.get_num_threads() == before
