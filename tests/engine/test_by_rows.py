"""Tails that run while their inputs come, and heads whose outputs leave in chunks, give what they give whole."""

import random
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgecloud.engine import bundle_rows
from edgecloud.engine.answers import is_close
from edgecloud.engine.by_rows import pieces_of as pieces_of_overlap
from edgecloud.engine.executor import CpuShare
from edgecloud.engine.onnxruntime_executor import OnnxRuntimeExecutor
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import onnx_rows, torch_rows
from edgecloud.models.rows import Piece, RowPlan
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.partition.overlap import Overlap, Slices
from edgecloud.utils.errors import UsageError
from tests.bundles import in_torch, pair, traced_of
from tests.conftest import THOROUGH, many
from tests.engine.rows import Compared, chunk_of, pieces_of, values_of

LARGE = ["alex_net", "mobile_net", "efficientnet_lite0"]
TORCHVISION = ["resnet18", "googlenet", "shufflenet_v2_x1_0"]
if THOROUGH:
    LARGE += ["vgg_net", "deepface"]
    TORCHVISION += ["densenet121", "inception_v3", "convnext_tiny", "efficientnet_b0", "swin_t", "regnet_x_400mf"]
SMALL = ("le_net", "mnist", "cifar_alexnet", "cifar_vgg16")


def compared(network: TorchNetwork) -> Compared:
    return Compared(TorchExecutor(network, "cpu"), values_of(network, network.example.arrays))


def drawn_cut(subject: Compared, rng: random.Random) -> frozenset[int]:
    """Some layers and all that they need."""
    graph = subject.graph
    cut = set(graph.inputs)
    for number in range(len(cut), len(graph.layers)):
        if cut.issuperset(graph.layers[number].inputs) and rng.random() < 0.93:
            cut.add(number)
    return frozenset(cut)


@pytest.mark.parametrize("name", [*SMALL, *LARGE, *(f"torchvision:{name}" for name in TORCHVISION)])
def test_networks_by_rows_equal_themselves_whole(name: str, network: Callable[[str], TorchNetwork]) -> None:
    """At a point that lies early, at a drawn one, and at a drawn cut, with drawn ends of chunks."""
    subject, rng = compared(network(name)), random.Random(name)
    graph = subject.graph
    (expected,) = network(name).whole(network(name).example.arrays)
    assert is_close([subject.values[graph.outputs[0]]], [expected])
    early = rng.randrange(1, max(2, len(graph.points) // 4))
    plans = [subject.tail(graph.head_at(early), seed=1), subject.head(graph.head_at(early), seed=2)]
    assert any(plan is not None and plan.region for plan in plans)
    drawn = rng.randrange(len(graph.points) - 1)
    subject.tail(graph.head_at(drawn), seed=3)
    subject.head(graph.head_at(drawn), seed=4)
    cut = drawn_cut(subject, rng)
    subject.tail(cut, seed=5)
    subject.head(cut, seed=6)


# --- small networks with what is hard


class Windows(nn.Module):
    """Every kind of window and border, in-place layers behind each other, branches, and rows that move."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 4, (5, 3), padding="same")
        self.dilated = nn.Conv2d(4, 4, 3, stride=(2, 1), padding=(3, 2), dilation=(2, 2), groups=2)
        self.norm, self.nothing, self.act = nn.BatchNorm2d(4), nn.Identity(), nn.ReLU(inplace=True)
        self.left = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.right = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.lrn, self.across = nn.LocalResponseNorm(3), nn.Softmax(dim=1)
        self.tokens = nn.LayerNorm(8)
        self.deep = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Hardswish(inplace=True), nn.AvgPool2d((2, 1), (1, 2)))
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.act(self.nothing(self.norm(self.dilated(self.same(x)))))
        x = torch.cat([self.left(x), self.right(x) * self.scale], 1)
        y = self.tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.lrn(x) + self.across(y)
        x += functional.relu(y)
        a, b = x.view(-1, 2, 4, x.shape[2], x.shape[3]).transpose(1, 2).reshape(x.shape).chunk(2, dim=1)
        x = self.deep(torch.cat((b, a * torch.sigmoid(a.mean((2, 3), keepdim=True))), 1))
        return self.last(x.mean((2, 3))), x


class Waves(nn.Module):
    """Rows of sound."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2, 4, 5, 2, padding=2), nn.ELU(inplace=True), nn.MaxPool1d(2), nn.Conv1d(4, 2, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> Any:
        return functional.avg_pool1d(self.layers(x), 3, 1, 1).flatten(1).sum(1)


class Volumes(nn.Module):
    """Rows of a volume are its planes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2))

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x).sum((3, 4))


class Padded(nn.Module):
    """Pads of each form, of rows and of what has none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.more = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(6, 2, 3)
        self.zeros, self.halves = nn.ZeroPad2d((1, 0, 0, 1)), nn.ConstantPad2d((0, 1, 5, 4), 0.5)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.pad(self.conv(self.zeros(x)), (0, 0, 2, 0, 1, 1), value=-1.0)
        return functional.relu(self.more(self.halves(x)))


class Looping(nn.Module):
    """torch.fx cannot follow it, so it comes from torch.export."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> Any:
        for _ in range(x.shape[1] - 1):
            x = functional.hardtanh(self.norm(self.conv(x)))
        return functional.max_pool2d(x, 2)


MADE = {"windows": (Windows, (3, 23, 9)), "waves": (Waves, (2, 41)), "volumes": (Volumes, (1, 9, 6, 6)),
        "padded": (Padded, (3, 17, 8)),
        "looping": (Looping, (3, 14, 8))}  # fmt: skip


def in_small_blocks(subject: Compared) -> Compared:
    """Such that blocks of a single row are computed, which otherwise wait for more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_rows, "LEAST_PLACES", 1)
        patch.setattr(onnx_rows, "LEAST_PLACES", 1)
        assert subject.executor.rows.ops  # type: ignore[attr-defined]  # found out now
    return subject


@pytest.fixture(scope="module")
def made() -> Callable[[str], Compared]:
    """Of the small networks, each built once."""
    kept: dict[str, Compared] = {}

    def get(name: str) -> Compared:
        if name not in kept:
            build, shape = MADE[name]
            torch.manual_seed(3)
            kept[name] = in_small_blocks(compared(in_torch(*traced_of(build(), (1, *shape)))))
        return kept[name]

    return get


def at_some_cut(subject: Compared, seed: int) -> None:
    """Both ends of a cut that is drawn."""
    rng = random.Random(seed)
    graph = subject.graph
    head = drawn_cut(subject, rng) if rng.random() < 0.5 else graph.head_at(rng.randrange(len(graph.points) - 1))
    if head != graph.everything:
        subject.tail(head, seed=seed)
        subject.head(head, seed=seed)


@pytest.mark.parametrize("name", MADE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_small_networks_at_any_cut_with_any_ends(name: str, made: Callable[[str], Compared], seed: int) -> None:
    at_some_cut(made(name), seed)


# --- the same in ONNX Runtime


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Compared]:
    """Of bundles of the small networks, each made once."""
    pytest.importorskip("onnxscript")
    kept: dict[str, Compared] = {}

    def get(name: str) -> Compared:
        if name not in kept:
            build, shape = MADE[name]
            torch.manual_seed(3)
            network, _ = pair(tmp_path_factory.mktemp("rows") / f"{name}.bundle", build(), (1, *shape))
            values = values_of(network, network.example.arrays)
            kept[name] = in_small_blocks(Compared(OnnxRuntimeExecutor(network, "cpu"), values))
        return kept[name]

    return get


@pytest.mark.parametrize("name", MADE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=many(25, 200))
@given(seed=st.integers(0, 1 << 30))
@example(seed=945)  # a tensor of one row, made and read whole in one step
def test_bundles_at_any_cut_with_any_ends(name: str, bundled: Callable[[str], Compared], seed: int) -> None:
    at_some_cut(bundled(name), seed)


def test_steps_of_the_same_geometry_share_a_session(bundled: Callable[[str], Compared]) -> None:
    """The first and the last have a border."""
    subject = bundled("looping")
    ends = [0, 4, 6, 8, 10, 14]
    plan = subject.tail(frozenset({0}), [Piece(0, *each) for each in pairwise(ends)])
    assert plan is not None
    rows = subject.executor.rows  # type: ignore[attr-defined]
    sessions = [step.session for step in rows._plans[plan].steps]
    assert sessions[1] is sessions[2] is sessions[3]
    assert len({id(session) for session in sessions}) == 3


def test_few_sessions_are_kept_whatever_ends_are_asked_for(
    bundled: Callable[[str], Compared], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = bundled("waves")
    monkeypatch.setattr(bundle_rows, "KEPT_SESSIONS", 5)
    rows = subject.executor.rows  # type: ignore[attr-defined]
    for end in range(10, 30):
        subject.tail(frozenset({0}), [Piece(0, 0, end), Piece(0, end, 41)])
    assert len(rows._sessions) <= 5
    assert 1 <= len(rows._plans) <= 5


def test_few_plans_are_kept_that_share_their_sessions(bundled: Callable[[str], Compared]) -> None:
    """Chunks of two and of three rows in another order: the same few geometries each time."""
    subject = bundled("looping")
    rows, rng = subject.executor.rows, random.Random(0)  # type: ignore[attr-defined]
    sizes = [2, 2, 3, 3, 4]
    for _ in range(3 * bundle_rows.KEPT_PLANS):
        rng.shuffle(sizes)
        ends = [0, *accumulate(sizes)]
        subject.tail(frozenset({0}), [Piece(0, *each) for each in pairwise(ends)])
    assert len(rows._plans) <= bundle_rows.KEPT_PLANS


def test_a_plan_whose_sessions_would_hold_too_much_is_none(
    bundled: Callable[[str], Compared], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = bundled("windows")
    executor, rng = subject.executor, random.Random(0)
    tail = subject.graph.everything - {0}
    pieces = pieces_of(subject.graph, (0,), rng, most=6)
    while len(pieces) < 3:
        pieces = pieces_of(subject.graph, (0,), rng, most=6)
    assert executor.tail_rows(tail, pieces) is not None
    monkeypatch.setattr(bundle_rows, "HELD_BYTES", 0)
    monkeypatch.setattr(bundle_rows, "HELD_TIMES", 1000)
    assert executor.tail_rows(tail, pieces) is None


@pytest.mark.parametrize(
    ("pooling", "columns", "is_by_rows"),
    [
        (nn.MaxPool2d(2, 2, 1, ceil_mode=True), 9, False),
        (nn.AvgPool2d(1, 2, ceil_mode=True), 8, False),
        (nn.MaxPool2d(1, 2, ceil_mode=True), 8, False),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), 9, True),
        (nn.MaxPool2d(2, 2, ceil_mode=True), 9, True),
    ],
)
def test_a_pooling_that_rounds_up_is_by_rows_where_the_runtime_agrees_on_its_shape(
    pooling: nn.Module, columns: int, is_by_rows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime infers a last window that begins in the padding, and does not compute it."""
    monkeypatch.setattr(onnx_rows, "LEAST_PLACES", 1)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pooling, nn.Conv2d(4, 4, 3, padding=1)).eval()
    ours, _ = pair(tmp_path / "x.bundle", module, (1, 3, 32, columns))
    subject = Compared(OnnxRuntimeExecutor(ours, "cpu"), values_of(ours, ours.example.arrays))
    ops = subject.executor.rows.ops  # type: ignore[attr-defined]
    assert (2 in ops) == is_by_rows
    plan = subject.tail(frozenset({0}), [Piece(0, 0, 10), Piece(0, 10, 20), Piece(0, 20, 32)])
    assert plan is not None


WHOLE = {"windows": 4, "waves": 2, "volumes": 1, "padded": 0, "looping": 0}


@pytest.mark.parametrize(("name", "most"), WHOLE.items())
def test_what_looks_at_windows_is_by_rows(
    name: str, most: int, made: Callable[[str], Compared], bundled: Callable[[str], Compared]
) -> None:
    """All but so many layers: an answer, a mean, a sum."""
    for subject in (made(name), bundled(name)):
        ops = subject.executor.rows.ops  # type: ignore[attr-defined]
        whole = [layer.id for number, layer in enumerate(subject.graph.layers) if layer.inputs and number not in ops]
        assert len(whole) <= most, whole


@pytest.mark.parametrize("kind", ["made", "bundled"])
def test_several_inputs_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    subject = request.getfixturevalue(kind)("waves")
    x = np.random.default_rng(1).random((3, 2, 41), np.float32)
    several = Compared(subject.executor, values_of(subject.executor.network, x))
    assert several.tail(frozenset({0}), [Piece(0, 0, 19), Piece(0, 19, 30), Piece(0, 30, 41)]) is not None
    assert several.head(frozenset(range(4)), [Piece(3, 0, 4), Piece(3, 4, 10)]) is not None


def test_a_module_that_does_more_is_computed_whole() -> None:
    """Of one of the user's own, torch.fx looks inside."""

    class More(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  as torch calls it
            return super().forward(input).flip(2)

    plain = nn.Conv2d(3, 3, 3)
    hooked = nn.Conv2d(3, 3, 3)
    hooked.register_forward_hook(lambda module, args, out: out.flip(2))
    changed = nn.ReLU()
    changed.forward = lambda input: input.flip(2)  # type: ignore[method-assign]  # noqa: A006
    mirrored = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
    layers = nn.Sequential(plain, hooked, changed, mirrored, More(3, 3, 3), nn.Upsample(scale_factor=2))
    subject = in_small_blocks(compared(in_torch(*traced_of(layers, (1, 3, 16, 8)))))
    assert [subject.graph.layers[number].kind for number in subject.executor.rows.ops] == ["Conv2d", "conv2d"]  # type: ignore[attr-defined]
    assert subject.tail(frozenset({0}), seed=1) is not None


def test_nothing_is_gained_from_one_chunk_or_along_another_axis(made: Callable[[str], Compared]) -> None:
    subject = made("windows")
    tail = subject.graph.everything - {0}
    assert subject.executor.tail_rows(tail, [Piece(0, 0, 23)]) is None
    assert subject.executor.tail_rows(tail, [Piece(0, 0, 4, 3), Piece(0, 4, 9, 3)]) is None


def test_a_convolution_waits_for_a_block_that_is_worth_a_call() -> None:
    """Of 40 rows of 8 places, in chunks of four: blocks of twelve rows, and what is left."""
    layers = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())
    subject = compared(in_torch(*traced_of(layers, (1, 2, 40, 8))))
    pieces = [Piece(0, start, start + 4) for start in range(0, 40, 4)]
    plan = subject.tail(frozenset({0}), pieces)
    assert plan is not None
    assert blocks_of(plan, 1) == [(0, 15), (15, 27), (27, 40)]
    plan = subject.head(frozenset({0, 1}), [Piece(1, each.start, each.stop) for each in pieces])
    assert plan is not None
    assert blocks_of(plan, 1) == [(0, 12), (12, 24), (24, 36), (36, 40)]


def blocks_of(plan: RowPlan, layer: int) -> list[tuple[int, int]]:
    """The rows that are computed at once."""
    return [(each.start, each.stop) for step in plan.steps for each in step.made if each.layer == layer]


def test_wrong_chunks_are_refused(made: Callable[[str], Compared]) -> None:
    subject = made("waves")
    plan = subject.executor.tail_rows(subject.graph.everything - {0}, [Piece(0, 0, 20), Piece(0, 20, 41)])
    assert plan is not None
    stream = subject.executor.tail_by_rows(plan)
    with pytest.raises(ValueError, match="shape"):
        stream.feed(subject.values[0])
    stream.feed(chunk_of(plan.pieces[0], subject.values))
    with pytest.raises(ValueError, match="1 of 2 chunks"):
        stream.finish()


def test_seconds_are_those_of_the_emulated_processor(made: Callable[[str], Compared]) -> None:
    network = made("waves").executor.network
    executor = TorchExecutor(network, "cpu", CpuShare(0.05))
    subject = in_small_blocks(Compared(executor, made("waves").values))
    pieces = pieces_of_overlap(Overlap((Slices(0, 2, (20, 41)),), tail_rows=True))
    plan = executor.tail_rows(subject.graph.everything - {0}, pieces)
    assert plan is not None
    firsts = []
    for _ in range(2):
        stream = executor.tail_by_rows(plan)
        fed = [stream.feed(chunk_of(piece, subject.values)) for piece in pieces]
        ran = stream.finish()
        assert min(fed) > 0
        assert ran.seconds == pytest.approx(stream.seconds)
        assert ran.backend == "torch"
        firsts.append(ran.is_first)
    assert firsts == [True, False]


def test_a_back_end_without_rows_says_so(monkeypatch: pytest.MonkeyPatch, made: Callable[[str], Compared]) -> None:
    executor = made("waves").executor
    plan = executor.tail_rows(made("waves").graph.everything - {0}, [Piece(0, 0, 20), Piece(0, 20, 41)])
    assert plan is not None
    monkeypatch.setattr(TorchExecutor, "rows", None)
    assert executor.tail_rows(plan.layers, plan.pieces) is None
    with pytest.raises(UsageError, match="as torch would"):
        executor.tail_by_rows(plan)
