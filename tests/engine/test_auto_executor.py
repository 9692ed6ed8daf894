"""Several back-ends as one, with real ones: which of them runs a segment, and what is remembered of it."""

import logging
from pathlib import Path

import numpy as np
import pytest

from edgecloud.engine import auto_executor, certificates
from edgecloud.engine.answers import is_close
from edgecloud.engine.auto_executor import AutoExecutor, Candidate
from edgecloud.engine.contest import WORTH
from edgecloud.engine.executor import AUTO, ONNXRUNTIME, TORCH, CpuShare
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.rows import Piece
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.predictor import compared
from edgecloud.predictor.compared import Compared
from tests import bundles

SHARE = CpuShare(1.0)  # one thread
Pair = tuple[BundleNetwork, TorchNetwork]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A bundle, and what it was made of."""
    return bundles.pair(tmp_path_factory.mktemp("bundles") / "x.bundle", bundles.Branches())


def _auto(pair: Pair, folder: Path, *, is_heavy: bool = False) -> AutoExecutor:
    ours, theirs = pair
    candidates = (Candidate(ONNXRUNTIME, ours, "1"), Candidate(TORCH, theirs, "2", is_heavy=is_heavy))
    return AutoExecutor(ours.graph, candidates, SHARE, folder)


def _know(auto: AutoExecutor, entries: dict[frozenset[int], Compared]) -> None:
    """As it would be after these had been measured, by another process."""
    compared.save(auto._folder, auto._key, {compared.name_of(layers): entry for layers, entry in entries.items()})


def test_each_segment_is_run_by_what_was_fastest_for_it(pair: Pair, tmp_path: Path) -> None:
    graph, x = pair[0].graph, pair[0].example.array
    head = graph.head_at(1)
    tail = graph.everything - head
    _know(
        _auto(pair, tmp_path),
        {
            graph.everything: Compared({ONNXRUNTIME: 0.02, TORCH: 0.03}),
            head: Compared({ONNXRUNTIME: 0.012, TORCH: 0.008}),
            tail: Compared({ONNXRUNTIME: 0.00800, TORCH: 0.00799}),  # which may be noise
        },
    )
    auto = _auto(pair, tmp_path)
    assert auto.run(auto.load(graph.everything), [x]).backend == ONNXRUNTIME
    ran = auto.run(segment := auto.load(head), [x])
    assert ran.backend == TORCH
    values = dict(zip(segment.outputs, ran.arrays, strict=True))
    rest = auto.load(tail)
    assert auto.run(rest, [values[number] for number in rest.inputs]).backend == ONNXRUNTIME
    assert auto.choice(head) == auto_executor.Choice(TORCH, "measured: torch 8 ms, onnxruntime 12 ms")
    assert auto.machine.backend == ONNXRUNTIME


def test_every_cut_gives_the_same_answer_with_either(pair: Pair, tmp_path: Path) -> None:
    """Whichever runs which part of it: the tensors that cross are the same."""
    ours, theirs = pair
    graph, x = ours.graph, ours.example.array
    expected = [np.array(array) for array in theirs.whole(x)]
    halves = {graph.head_at(point.number) for point in graph.points}
    for first, second in ((1.0, 2.0), (2.0, 1.0)):
        folder = tmp_path / str(first)
        times = {head: Compared({ONNXRUNTIME: first, TORCH: second}) for head in halves}
        tails = {graph.everything - head: Compared({ONNXRUNTIME: second, TORCH: first}) for head in halves}
        _know(_auto(pair, folder), {layers: each for layers, each in {**tails, **times}.items() if layers})
        auto = _auto(pair, folder)
        for head in halves:
            assert is_close(certificates.run(auto, head, x), expected)


def test_a_plan_by_rows_is_run_by_the_back_end_that_made_it(pair: Pair, tmp_path: Path) -> None:
    """Also once another one is faster for the segment: their blocks differ."""
    ours, theirs = pair
    graph, x = ours.graph, ours.example.array
    expected, tail, rows = theirs.whole(x), graph.everything - graph.only_inputs, x.shape[2]
    pieces = [Piece(0, 0, rows // 2), Piece(0, rows // 2, rows)]
    auto = _auto(pair, tmp_path)
    plans = []
    for seconds in ({ONNXRUNTIME: 0.02, TORCH: 0.03}, {ONNXRUNTIME: 0.03, TORCH: 0.02}):
        auto._note(tail, Compared(seconds))
        plans.append(auto.tail_rows(tail, pieces))
    for plan, backend in zip(plans, (ONNXRUNTIME, TORCH), strict=True):
        assert plan is not None
        stream = auto.tail_by_rows(plan)
        for piece in pieces:
            stream.feed(x[:, :, piece.start : piece.stop])
        ran = stream.finish()
        assert (plan.backend, ran.backend) == (backend, backend)
        answers = dict(zip(graph.outputs_of(tail), ran.arrays, strict=True))
        assert is_close([answers[number] for number in graph.outputs], expected)


def test_what_a_profile_finds_is_remembered(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = pair[0].graph
    auto = _auto(pair, tmp_path)
    assert auto.kept_profile(tmp_path, tails=True) is None
    assert auto.choice(graph.everything).why == "torch will be tried while it runs"
    done: list[float] = []
    profile = auto.profile(tmp_path, done.append, tails=True)
    assert done == sorted(done)
    whole = auto._entry(graph.everything)
    assert whole is not None
    assert set(whole.seconds) == {ONNXRUNTIME, TORCH}
    assert auto.machine.backend == whole.fastest((ONNXRUNTIME, TORCH), WORTH)
    caplog.set_level(logging.INFO)
    again = _auto(pair, tmp_path)
    assert again.machine == auto.machine
    kept = again.kept_profile(tmp_path, tails=True)
    assert kept is not None
    assert kept.seconds == pytest.approx(profile.seconds, abs=1e-9)
    assert again.profile(tmp_path, tails=True).seconds == kept.seconds
    assert not caplog.records  # nothing was measured


def test_close_ones_are_profiled_both_and_each_head_has_the_better_time(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_executor, "CLOSE", 1e9)
    graph = pair[0].graph
    auto = _auto(pair, tmp_path)
    profile = auto.profile(tmp_path, tails=False)
    assert profile.key.backend == AUTO
    each = [auto._members[name].kept_profile(tmp_path, tails=False) for name in (ONNXRUNTIME, TORCH)]
    for point in graph.points:
        best = min(sum(one.seconds[: point.layer + 1]) for one in each if one is not None)
        assert sum(profile.seconds[: point.layer + 1]) == pytest.approx(best, abs=1e-9)
    head = graph.head_at(1)
    assert auto.choice(head).why.startswith("told from measured heads and tails: ")
    assert _auto(pair, tmp_path).kept_profile(tmp_path, tails=False) == auto.kept_profile(tmp_path, tails=False)


def test_a_segment_is_tried_while_it_runs_and_the_result_is_kept(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecloud.engine.contest.LOSS", 1e9)  # these layers take microseconds
    graph, x = pair[0].graph, pair[0].example.array
    head = graph.head_at(2)
    auto = _auto(pair, tmp_path)
    segment = auto.load(head)
    used = [auto.run(segment, [x]).backend for _ in range(60)]
    assert used[0] == ONNXRUNTIME
    assert TORCH in used
    entry = _auto(pair, tmp_path)._entry(head)
    assert entry is not None
    assert entry.is_measured
    assert used[-1] == entry.fastest((ONNXRUNTIME, TORCH), WORTH) == auto.choice(head).backend
    assert auto.choice(head).why.startswith("measured: ")
    loser = next(name for name in (ONNXRUNTIME, TORCH) if name != used[-1])
    assert not auto._members[loser].has(head)


def test_several_inputs_at_once_and_heavy_ones_decide_nothing(pair: Pair, tmp_path: Path) -> None:
    graph, x = pair[0].graph, pair[0].example.array
    auto = _auto(pair, tmp_path)
    auto.run(auto.load(graph.everything), [np.concatenate([x, x])])
    assert not auto._contests
    heavy = _auto(pair, tmp_path, is_heavy=True)
    heavy.run(heavy.load(graph.everything), [x])
    assert not heavy._contests
    assert TORCH not in heavy._members


def test_what_cannot_be_made_is_left_out_and_said(pair: Pair, tmp_path: Path) -> None:
    """Torch has no network of that name, so it cannot run the bundle."""
    ours, _ = pair
    candidates = (Candidate(TORCH, ours, "2"), Candidate(ONNXRUNTIME, ours, "1"))
    auto = AutoExecutor(ours.graph, candidates, SHARE, tmp_path)
    assert auto.run(auto.load(ours.graph.everything), [ours.example.array]).backend == ONNXRUNTIME
    assert auto.choice(ours.graph.everything).why == "torch cannot run it here"
    auto.profile(tmp_path, tails=False)
    again = AutoExecutor(ours.graph, candidates, SHARE, tmp_path)
    assert again.kept_profile(tmp_path, tails=False) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', "[" * 100_000])
def test_a_damaged_file_counts_as_nothing(
    pair: Pair, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    auto = _auto(pair, tmp_path)
    _know(auto, {pair[0].graph.everything: Compared({TORCH: 1.0})})
    (path,) = (tmp_path / "compared").iterdir()
    path.write_text(text)
    assert compared.load(tmp_path, auto._key) == {}
    assert "ignoring kept times of back-ends" in caplog.text


def test_other_versions_are_measured_anew(pair: Pair, tmp_path: Path) -> None:
    auto = _auto(pair, tmp_path)
    _know(auto, {pair[0].graph.everything: Compared({TORCH: 1.0})})
    ours, theirs = pair
    newer = (Candidate(ONNXRUNTIME, ours, "1.1"), Candidate(TORCH, theirs, "2"))
    assert AutoExecutor(ours.graph, newer, SHARE, tmp_path)._entry(ours.graph.everything) is None


def test_what_is_heavy_is_only_made_where_it_is_worth_that(pair: Pair, tmp_path: Path) -> None:
    graph, x = pair[0].graph, pair[0].example.array
    head = graph.head_at(1)
    for seconds, is_measured, taken in ((0.95, False, ONNXRUNTIME), (0.95, True, TORCH), (0.8, False, TORCH)):
        folder = tmp_path / f"{seconds} {is_measured}"
        _know(_auto(pair, folder), {head: Compared({ONNXRUNTIME: 1.0, TORCH: seconds}, is_measured)})
        auto = _auto(pair, folder, is_heavy=True)
        assert auto.run(auto.load(head), [x]).backend == taken
