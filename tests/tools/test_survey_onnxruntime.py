"""Predictors of ONNX Runtime: deployment.py profile, fit and evaluate --backend, and what an edge does with them."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edgecloud import deployment
from edgecloud.engine.executor import ONNXRUNTIME, TORCH, Executor, make_executor
from edgecloud.engine.onnxruntime_executor import machine_of
from edgecloud.engine.times import Times, for_backend, predictors_path, units_of
from edgecloud.models import bundle_network
from edgecloud.models.specs import JOINED_KINDS, LayerSpec
from edgecloud.predictor import dataset, latency
from edgecloud.predictor.dataset import Dataset, Row
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds
from edgecloud.predictor.joined import joined
from edgecloud.predictor.kernels import KINDS_DRAWN
from edgecloud.predictor.onnx_design import Pool, write
from edgecloud.predictor.profile import Progress
from edgecloud.predictor.train import KindFit, fit_all
from edgecloud.tools import evaluation, survey
from edgecloud.utils.errors import MismatchError, UsageError
from edgecloud.utils.inference_utils import set_threads
from tests import bundles
from tests.conftest import LONG_S, until
from tests.missing import call_without_torch, run_without

NETWORKS = 40
SLOWER = 3.0  # than the law of torch's rows


def lawful_s(spec: LayerSpec) -> float:
    """A time that a regression can find out."""
    return 1e-5 + 1e-10 * (spec.macs + spec.in_bytes + spec.out_bytes + spec.weight_bytes)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "chain.bundle"
    bundles.write(path, *bundles.traced_of(bundles.Chain(), (1, 3, 32, 32), "chain"))
    return path


@pytest.fixture(scope="module")
def executor(bundle: Path) -> Executor:
    return make_executor(bundle_network.read(bundle), "cpu", backend=ONNXRUNTIME)


@pytest.fixture(scope="module")
def rows(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of random networks, of the kinds that the bundle has, with times by a law."""
    wanted = {each.spec.kind for each in units_of(executor.network, ONNXRUNTIME).described}
    found: dict[str, list[Row]] = {}
    pool = Pool(16 << 20)
    for seed in range(NETWORKS):
        written = write(draw(Random(seed), Bounds(10**8, 8 << 20, 60)), pool)
        for layer in joined(written.inputs, written.specs, (len(written.specs),)).described:
            if layer.spec.kind in wanted:
                row = Row(layer, f"n{seed}", (lawful_s(layer.spec),) * 3)
                found.setdefault(layer.spec.kind, []).append(row)
    assert set(found) == wanted
    folder = tmp_path_factory.mktemp("rows") / "edge-onnxruntime"
    dataset.write(folder, found, executor.machine)
    return folder


def fitted(data: Dataset, progress: Progress = lambda _: None) -> list[KindFit]:
    """By one regressor alone, since all of them take half a minute."""
    return fit_all(data, progress, ("roofline_trees",))


@pytest.fixture(scope="module")
def cache(rows: Path) -> Path:
    """A cache directory with predictors of ONNX Runtime."""
    folder = rows.parent / "cache"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "fit_all", fitted)
        flags = ["fit", "--backend", ONNXRUNTIME, "--dataset", str(rows), "--cache-dir", str(folder), "--json"]
        assert deployment.main(flags) == 0
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert deployment.main([*map(str, arguments), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_pieces_are_measured_in_random_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget_s = 0.0
    document: dict[str, Any] = {}

    def is_some() -> bool:
        nonlocal budget_s, document
        budget_s += 1.0
        flags = ("--backend", ONNXRUNTIME, "--threads", 1, "--budget", f"{budget_s}s", "--output", tmp_path / "d")
        document = run(capsys, "profile", *flags)
        return int(document["kinds"].get("conv+bn+act", 0)) >= 3

    until(is_some, LONG_S)
    found = dataset.read(tmp_path / "d")
    assert set(found.rows) <= KINDS_DRAWN
    assert set(found.rows) & set(JOINED_KINDS)
    assert found.machine == machine_of(1)
    assert all(row.seconds > 0 for rows in found.rows.values() for row in rows)
    assert all(whole.pass_s > 0 and whole.rested_s > 0 for whole in dataset.read_whole(tmp_path / "d"))
    assert set(document["missing"]) <= KINDS_DRAWN
    flags = ["profile", "--threads", "1", "--budget", "60s", "--output", str(tmp_path / "d")]
    assert deployment.main([*flags, "--backend", TORCH]) == 2
    assert "contains times of another machine" in capsys.readouterr().err


def test_evaluate_tells_every_kind_and_whole_networks_and_their_noise(
    rows: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "fit_all", fitted)
    flags = ("--backend", ONNXRUNTIME, "--dataset", rows, "--cache-dir", tmp_path, "--networks", bundle)
    document = run(capsys, "evaluate", *flags)
    assert document["kinds"]["conv+bn+act"]["within_20"] > 0.8
    (network,) = document["networks"].values()
    assert min(network["predicted_s"], network["measured_s"], network["again_s"]) > 0
    assert {part["part"] for part in network["parts"]} == {"head", "tail"}
    assert 0 <= document["noise_within_10"] <= 1


def test_a_network_that_was_never_run_is_predicted(executor: Executor, cache: Path) -> None:
    units = units_of(executor.network, ONNXRUNTIME)
    found = Times("auto", predictors_path(cache, "edge"), cache).find(executor, lambda _: None, tails=True)
    assert found.times.source == "predicted"
    assert "onnxruntime" in found.why
    law_s = sum(lawful_s(each.spec) for each in units.described)
    assert sum(found.times.seconds) == pytest.approx(law_s, rel=0.35)
    assert len(found.times.seconds) == len(found.times.start_s) == len(executor.network.graph.layers)
    within = next(layers for layers in units.layers if len(layers) > 1)
    assert found.times.seconds[within[1]] == 0
    assert found.times.start_s[within[0]] > 0
    assert found.teacher is not None
    before = sum(found.quiet.seconds)
    for _ in range(3):
        found.teacher.learn(executor.network.graph.everything, 1.5 * law_s)
    assert sum(found.quiet.seconds) > 1.1 * before


def test_predictors_of_another_back_end_are_never_used_unsaid(executor: Executor, cache: Path, tmp_path: Path) -> None:
    own, torchs = for_backend(predictors_path(cache, "edge"), ONNXRUNTIME), predictors_path(tmp_path, "edge")
    assert own.is_file()
    assert not predictors_path(cache, "edge").exists()
    found = latency.load(own)
    assert found.machine is not None
    latency.save(replace(found, machine=replace(found.machine, backend=TORCH)), torchs)
    times = Times("auto", torchs, tmp_path)
    why = times._may_predict(executor, tails=False)
    threads = executor.machine.threads
    wanted = f"{threads} thread{'' if threads == 1 else 's'}"
    assert why == f"no predictors for {wanted} in onnxruntime (those of torch are not used)"
    with pytest.raises(UsageError, match=r"no predictors at .*edge-onnxruntime\.skops"):
        replace(times, policy="predicted").find(executor, lambda _: None, tails=False)
    with pytest.raises(MismatchError, match=r"for another machine .* torch .* onnxruntime"):
        replace(times, policy="predicted", is_named=True).find(executor, lambda _: None, tails=False)
    named = Times("predicted", own, tmp_path, is_named=True).find(executor, lambda _: None, tails=False)
    assert named.times.source == "predicted"


def test_rows_of_another_back_end_are_not_fitted_as_its_own(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "fit_all", fitted)
    assert deployment.main(["fit", "--backend", TORCH, "--dataset", str(rows)]) == 2
    assert "are of onnxruntime, not of torch" in capsys.readouterr().err


def test_back_ends_have_data_sets_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgecloud.utils.inference_utils._at_start", lambda: 2)
    assert survey.folder_of("edge", 2, ONNXRUNTIME) == survey.datasets() / "edge-onnxruntime"
    assert survey.folder_of("edge", 1, ONNXRUNTIME) == survey.datasets() / "edge-onnxruntime-1t"
    monkeypatch.setattr(survey, "datasets", lambda: tmp_path)
    threads = set_threads(None)
    with pytest.raises(UsageError, match="computes on the processor"):
        survey.this_machine("cuda", threads, ONNXRUNTIME)
    with pytest.raises(UsageError, match="no predictors for --backend openvino"):
        survey.this_machine("cpu", threads, "openvino")


def test_no_data_set_of_a_back_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(survey, "datasets", lambda: tmp_path)
    assert deployment.main(["fit", "--backend", ONNXRUNTIME]) == 2
    assert "run deployment.py profile --role edge --backend onnxruntime" in capsys.readouterr().err


def test_an_edge_without_torch_measures_and_says_what_fitting_needs(tmp_path: Path) -> None:
    """The rows can be fitted elsewhere: deployment.py fit --dataset."""
    flags = ("profile", "--threads", "1", "--budget", "0.2s", "--output", str(tmp_path / "d"), "--json")
    ended = call_without_torch("deployment", *flags)
    assert (ended.code, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["measured_on"]["backend"] == ONNXRUNTIME
    assert dataset.read(tmp_path / "d").count > 0
    ended = call_without_torch("deployment", "fit", "--dataset", str(tmp_path / "d"))
    assert ended.code == 1
    assert "needs scikit-learn" in ended.stderr


def test_predictors_are_fitted_and_used_without_torch(rows: Path, bundle: Path, tmp_path: Path) -> None:
    code = """
from edgecloud import deployment
from edgecloud.predictor.train import fit_all
from edgecloud.tools import evaluation
evaluation.fit_all = lambda data, progress: fit_all(data, progress, ("roofline_trees",))
rows, bundle, cache = sys.argv[1:]
flags = ["evaluate", "--dataset", rows, "--cache-dir", cache, "--json"]
for networks in (bundle, "some"):
    assert deployment.main([*flags, "--networks", networks]) == 0
"""
    ended = run_without(("torch", "torchvision", "onnx"), code, str(rows), str(bundle), str(tmp_path))
    assert (ended.code, ended.stderr) == (0, "")
    one, none = map(json.loads, ended.stdout.splitlines())
    (network,) = one["networks"].values()
    assert network["predicted_s"] > 0
    assert none["networks"] == {}
