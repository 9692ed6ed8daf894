"""From measuring layers to deciding with predictions: deployment.py profile, fit, evaluate, and --times predicted."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from edgecloud import deployment, edge_api
from edgecloud.engine.times import for_threads
from edgecloud.models.specs import KINDS, LayerSpec
from edgecloud.predictor import collecting, dataset, latency
from edgecloud.predictor.dataset import Row
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds
from edgecloud.predictor.features import in_context
from edgecloud.predictor.onnx_design import Pool, write
from edgecloud.predictor.quality import FEWEST_ROWS, MOST_KIND, MOST_WHOLE
from edgecloud.predictor.regressors import FORMS
from edgecloud.predictor.train import fit_kind
from edgecloud.tools import evaluation, survey
from tests.conftest import LONG_S, ROOT, THREADS, CloudProcess, Finished, call, running_cloud, until
from tests.predictor.test_dataset import PUBLISHED

USUAL = {"conv", "dw_conv", "linear", "batchnorm", "activation", "maxpool", "avgpool", "concat", "view"}
OF_LE_NET = {"conv", "linear", "activation", "maxpool", "avgpool", "view"}
ENOUGH = 12  # rows, for a regression
NETWORKS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers measured on this machine, a few, on one thread: two wait for each other beside others."""
    found = tmp_path_factory.mktemp("survey") / "edge"
    budget_s = 0.0

    def is_some() -> bool:
        nonlocal budget_s
        budget_s += 1.0
        arguments = ["profile", "--threads", "1", "--budget", f"{budget_s}s", "--output", str(found)]
        assert deployment.main(arguments) == 0
        return bool(dataset.read_whole(found))

    until(is_some)
    return found


@pytest.fixture(scope="module")
def plenty(folder: Path) -> Path:
    """The same with more layers, of random networks that were drawn alike and not measured, which would take long."""
    machine = dataset.read(folder).machine
    assert machine is not None
    found: dict[str, list[Row]] = {}
    pool = Pool(16 << 20)
    for seed in range(NETWORKS):
        written = write(draw(Random(seed), Bounds(10**8, 8 << 20, 60)), pool)
        for layer in in_context(written.specs, written.inputs):
            kept = found.setdefault(layer.spec.kind, [])
            if len(kept) < 3 * ENOUGH:  # each takes its time to fit
                kept.append(Row(layer, f"n{seed}", (lawful_s(layer.spec, seed),) * 3))
    found = {kind: found[kind] for kind in USUAL}
    assert min(map(len, found.values())) >= ENOUGH
    to = folder.parent / "plenty"
    shutil.copytree(folder, to)
    dataset.write(to, found, machine)
    return to


def made_up(folder: Path, to: Path, seconds: Callable[[LayerSpec, int], float]) -> Path:
    """The same layers with other times: what this machine measures in a test, under whatever load, is chance."""
    found = dataset.read(folder)
    assert found.machine is not None
    rows = {
        kind: [replace(row, raw_s=(seconds(row.layer.spec, n),) * 3) for n, row in enumerate(kept)]
        for kind, kept in found.rows.items()
    }
    dataset.write(to, rows, replace(found.machine, threads=int(THREADS)))
    return to


def only(folder: Path, to: Path, kinds: Collection[str]) -> Path:
    """The data set with the rows of some kinds alone: each takes seconds to fit, and one is fitted like another."""
    shutil.copytree(folder, to)
    for path in to.glob("*.csv"):
        if path.stem in KINDS and path.stem not in kinds:
            path.unlink()
    return to


def lawful_s(spec: LayerSpec, _number: int) -> float:
    """A time that a regression can find out."""
    return 1e-5 + 1e-10 * (spec.macs + spec.in_bytes + spec.out_bytes + spec.weight_bytes)


@pytest.fixture(scope="module")
def fitted(plenty: Path) -> Path:
    """A cache folder with predictors for both roles.

    Their errors are said to be small: of a few seconds of measuring nobody knows how large they are.
    """
    cache, rows = plenty.parent / "cache", made_up(plenty, plenty.parent / "lawful", lawful_s)
    fit = ["fit", "--role", "edge", "--dataset", str(rows), "--cache-dir", str(cache), "--force"]
    assert deployment.main(fit) == 0
    found = latency.load(cache / "predictors" / "edge.skops")
    assert set(found.errors) == set(found.kinds)
    latency.save(replace(found, errors=dict.fromkeys(found.kinds, 1.1)), cache / "predictors" / "edge.skops")
    shutil.copy(cache / "predictors" / "edge.skops", cache / "predictors" / "cloud.skops")
    return cache


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """deployment.py with --json."""
    capsys.readouterr()
    assert deployment.main([*map(str, arguments), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_rows_say_what_was_measured_and_where(folder: Path) -> None:
    found = dataset.read(folder)
    assert set(found.rows) <= set(KINDS)
    assert found.machine is not None
    assert found.machine.threads == 1
    assert all(row.seconds > 0 and len(row.raw_s) >= 3 for rows in found.rows.values() for row in rows)
    wholes = dataset.read_whole(folder)
    assert wholes
    assert all(whole.pass_s > 0 and whole.rested_s > 0 and whole.alone for whole in wholes)


def test_measuring_goes_on_where_it_stopped(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def measure(budget: float, *more: str) -> dict[str, Any]:
        flags = ("--threads", THREADS, "--budget", f"{budget}s", "--output", tmp_path / "d", *more)
        return run(capsys, "profile", *flags)

    first = measure(0.5)
    rows = dataset.read(tmp_path / "d").rows
    again = measure(0.5)
    assert (again["kinds"], again["networks"]) == (first["kinds"], first["networks"])  # the budget is spent
    more = measure(first["spent_s"] + 0.5)
    assert more["networks"] > first["networks"]
    for kind, kept in rows.items():
        assert dataset.read(tmp_path / "d").rows[kind][: len(kept)] == kept
    measure(0.1, "--fresh")
    fresh = dataset.read(tmp_path / "d").rows
    assert fresh
    assert all(now[0] != rows[kind][0] for kind, now in fresh.items() if kind in rows)
    excel = tmp_path / "d.xlsx"
    measure(0.1, "--excel", str(excel))
    assert dataset.read(excel).rows == fresh


def test_an_interrupted_survey_keeps_what_it_has(tmp_path: Path) -> None:
    code = (
        "import sys; from edgecloud import deployment; import edgecloud.tools.survey;"
        "edgecloud.tools.survey.SAVE_EVERY_S = 0.1;"  # which tells us that it has begun
        "sys.exit(deployment.main(sys.argv[1:]))"
    )
    flags = ["profile", "--threads", THREADS, "--budget", "10min", "--output", str(tmp_path / "d")]
    process = subprocess.Popen([sys.executable, "-c", code, *flags], cwd=ROOT, stderr=subprocess.PIPE)
    until((tmp_path / "d" / "about.json").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONG_S)
    assert process.returncode == 130
    assert dataset.read(tmp_path / "d").count > 0
    assert json.loads((tmp_path / "d" / "about.json").read_text())["networks"] > 0
    assert not [path for path in (tmp_path / "d").iterdir() if path.name.startswith(".")]


def test_rows_of_another_machine_are_not_mixed_in(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_text(path.read_text().replace(",cpu ", ",cpu Other "))
    flags = ["profile", "--threads", "1", "--budget", "60s", "--output", str(other)]
    assert deployment.main(flags) == 2
    assert "contains times of another machine" in capsys.readouterr().err
    about = json.loads((folder / "about.json").read_text())
    assert set(about["pace"]) == {"compute_s", "memory_s"}
    (other / "about.json").write_text(json.dumps({name: about[name] for name in about if name != "pace"}))
    assert deployment.main(flags) == 2
    assert "contains times of an earlier version: use --fresh" in capsys.readouterr().err
    (other / "about.json").write_text("{")
    assert deployment.main(flags) == 2
    assert "use --fresh to measure everything again" in capsys.readouterr().err


def test_evaluate_tells_how_good_every_kind_is(
    plenty: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = only(plenty, tmp_path / "rows", OF_LE_NET)
    flags = ("--dataset", rows, "--cache-dir", tmp_path, "--plots", tmp_path / "plots", "--networks", "le_net")
    document = run(capsys, "evaluate", *flags)
    conv = document["kinds"]["conv"]
    assert set(conv) >= {"rows", "within_5", "within_10", "within_20", "mape", "chosen"}
    assert set(conv["candidates"]) == set(FORMS)
    assert conv["within_5"] <= conv["within_10"] <= conv["within_20"] <= 1
    assert conv["chosen"] in FORMS
    network = document["networks"]["le_net"]
    assert min(network["predicted_s"], network["measured_s"]) > 0
    assert network["error"] == pytest.approx(network["predicted_s"] / network["measured_s"] - 1)
    assert {part["part"] for part in network["parts"]} == {"head", "tail"}
    assert document["gap"]["start"]["most_s"] >= 0
    assert all(share > 0 for share in document["gap"]["alone_over_in_place"].values())
    picture = (tmp_path / "plots" / "conv.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_predictors_that_are_not_fit_for_use_are_not_installed(
    plenty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where other programs ran while it was measured: then the older ones stay."""
    chance = np.random.default_rng(1)
    all_rows = made_up(plenty, tmp_path / "all", lambda _spec, _number: float(chance.lognormal(-8, 3)))
    rows = only(all_rows, tmp_path / "rows", ("conv", "linear"))
    installed = tmp_path / "predictors" / "edge.skops"
    installed.parent.mkdir()
    installed.write_bytes(b"older")
    flags = ["fit", "--dataset", str(rows), "--cache-dir", str(tmp_path), "--json"]
    capsys.readouterr()
    assert deployment.main(flags) == 1
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["installed"], document["fitness"]["is_fit"]) == (None, False)
    assert document["fitness"]["p90_factor"] > document["fitness"]["most"] == MOST_WHOLE
    assert document["fitness"]["why_not"] in shown.err
    assert f"{installed} is unchanged" in shown.err
    assert "deployment.py profile --fresh" in shown.err
    assert installed.read_bytes() == b"older"
    assert deployment.main([*flags[:-1], "--force"]) == 0
    shown = capsys.readouterr()
    assert f"saved: {installed}" in shown.out
    assert "weak:  conv" in shown.out
    assert latency.load(installed).errors["conv"] > MOST_KIND


def test_a_survey_that_lacks_kinds_names_the_budget_that_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["profile", "--threads", THREADS, "--budget", "0.5s", "--output", str(tmp_path / "d")]
    document = run(capsys, *flags)
    assert document["missing"]
    assert all(rows < ENOUGH for rows in document["missing"].values())
    assert document["enough_s"] > document["spent_s"]
    assert deployment.main(flags) == 0
    few, budget = capsys.readouterr().out.splitlines()[-2:]
    assert few.startswith(f"too few samples to predict with {THREADS} threads: ")
    assert budget == f"budget used up: --budget {document['enough_s']:.0f}s would be enough"


def test_a_survey_tells_its_own_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks are measured a second time, later; here each, and soon."""
    monkeypatch.setattr(collecting, "EVERY_AGAIN", 1)
    monkeypatch.setattr(collecting, "AGAIN_AFTER", 0)
    budget_s = 0.0
    noise: dict[str, Any] = {}
    flags: list[str] = []

    def was_measured_twice() -> bool:
        nonlocal budget_s, noise, flags
        budget_s += 1.0
        flags = ["profile", "--threads", THREADS, "--budget", f"{budget_s}s", "--output", str(tmp_path / "d")]
        noise = run(capsys, *flags)["noise"]
        return bool(noise["twice"]) and max(map(len, dataset.read(tmp_path / "d").rows.values())) >= FEWEST_ROWS

    until(was_measured_twice)
    assert all(share >= 0 for share in noise["p90_by_kind"].values())
    assert deployment.main(flags) == 0  # nothing more is measured
    assert f"of {noise['twice']} layers measured twice agree within 20%" in capsys.readouterr().out
    assert evaluation.fit(tmp_path / "d", lambda _what, _done: None).predictors.pace == survey.pace_of(tmp_path / "d")
    assert survey.pace_of(tmp_path / "none") is None


def test_an_edge_is_measured_for_all_threads_and_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulated edge, one under a small quota and the lab's run one thread."""
    monkeypatch.setattr("edgecloud.utils.inference_utils._at_start", lambda: 2)
    capsys.readouterr()
    try:
        assert deployment.main(["profile", "--budget", "1s", "--output", str(tmp_path / "d"), "--json"]) == 0
    finally:
        torch.set_num_threads(int(THREADS))
    document = json.loads(capsys.readouterr().out)
    both = [document, *document["also"]]
    assert [each["measured_on"]["threads"] for each in both] == [2, 1]
    assert [Path(each["folder"]).name for each in both] == ["d", "d-1t"]
    assert all(each["networks"] for each in both)
    assert survey.folder_of("edge", 2) == survey.datasets() / "edge"
    assert survey.folder_of("edge", 1) == survey.datasets() / "edge-1t"
    assert survey.folder_of("cloud", 1) == survey.datasets() / "cloud"
    monkeypatch.setattr("edgecloud.utils.inference_utils._at_start", lambda: 1)
    assert survey.folder_of("edge", 1) == survey.datasets() / "edge"
    assert survey.thread_counts("edge", "cpu", None) == (1,)
    cloud = ["profile", "--role", "cloud", "--budget", "0.1s", "--output", str(tmp_path / "c"), "--json"]
    assert deployment.main(cloud) == 0
    assert json.loads(capsys.readouterr().out)["also"] == []


def test_people_get_tables(plenty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = only(plenty, tmp_path / "rows", ("conv", "batchnorm"))
    assert deployment.main(["evaluate", "--dataset", str(rows), "--networks", "none"]) == 0
    shown = capsys.readouterr().out
    for words in ("±20 %", "roof+trees", "batchnorm", "after an idle period"):
        assert words in shown


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_a_data_set_that_is_none(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deployment.main([command, "--dataset", str(tmp_path / "none")]) == 2
    assert "run deployment.py profile --role edge" in capsys.readouterr().err
    with (tmp_path / "conv.csv").open("w") as file:
        csv.writer(file).writerows([["a", "b"], [1, 2]])
    assert deployment.main([command, "--dataset", str(tmp_path)]) == 2
    assert "is missing" in capsys.readouterr().err


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published data set is not on this machine")
def test_the_published_data_set_can_be_compared_but_not_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    linear = dataset.read(PUBLISHED).rows["linear"]
    found = fit_kind("linear", linear)
    assert found.score.within_20 > 0.9
    assert found.candidates["published"].within_20 < 0.7
    (tmp_path / "linear_lat.csv").write_text((PUBLISHED / "linear_lat.csv").read_text())
    assert deployment.main(["fit", "--dataset", str(tmp_path), "--cache-dir", str(tmp_path)]) == 2
    assert "does not name the machine" in capsys.readouterr().err


# --- deciding


@pytest.fixture
def edge_in(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """edge_api.py in this process, with its cache in a folder."""

    def run(folder: Path, *arguments: str) -> Finished:
        capsys.readouterr()
        return call(edge_api.main, ["--cache-dir", str(folder), "--threads", THREADS, *arguments], capsys)

    return run


def test_an_edge_decides_from_predictions_and_learns(
    fitted: Path, cloud: CloudProcess, edge_in: Callable[..., Finished]
) -> None:
    first = edge_in(
        fitted, "-p", str(cloud.port), "-t", "le_net", "--times", "predicted", "--repeat", "3", "--verify", "--json"
    )
    assert first.code == 0, first.stderr
    document = first.document
    assert document["times"]["edge"] == "predicted"
    assert document["times"]["edge_factor"] > 1
    assert document["verify"]["matches"]
    assert document["plan"]["predicted"]["total_s"] > 0
    assert 0.01 <= document["times"]["speed"]["edge"] <= 10
    assert 0.01 <= document["times"]["speed"]["cloud"] <= 10
    assert document["times"]["speed_sd"]["edge"] > 0
    assert all(0.5 <= factor <= 2 for factor in document["corrections"].values())
    if document["plan"]["head"]:
        assert document["corrections"]
        (kept,) = (fitted / "corrections").iterdir()
        assert json.loads(kept.read_text())["seen"] >= 3


def test_auto_takes_what_there_is(fitted: Path, cloud: CloudProcess, edge_in: Callable[..., Finished]) -> None:
    def source() -> str:
        edge = edge_in(fitted, "-p", str(cloud.port), "-t", "le_net", "--point", "12", "--json")
        assert edge.code == 0, edge.stderr
        found: str = edge.document["times"]["edge"]
        return found

    for path in (fitted / "profiles").glob("le_net*"):
        path.unlink()
    assert source() == "predicted"
    shown = edge_in(fitted, "-p", str(cloud.port), "-t", "le_net", "--point", "12")
    assert "times:  predicted on the edge (predictors of cpu " in shown.stdout
    flags = ["--cache-dir", str(fitted), "--threads", THREADS]
    assert deployment.main(["profile", "-t", "le_net", *flags]) == 0
    assert source() == "measured"


def test_auto_measures_where_a_kind_is_predicted_badly(
    fitted: Path,
    tmp_path: Path,
    cloud: CloudProcess,
    edge_in: Callable[..., Finished],
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = latency.load(fitted / "predictors" / "edge.skops")
    path = tmp_path / "predictors" / "edge.skops"
    latency.save(replace(good, errors={**good.errors, "conv": 5.0}), path)
    flags = ("-p", str(cloud.port), "-t", "le_net", "--point", "12", "--json")
    times = edge_in(tmp_path, *flags).document["times"]
    told = "the P90 error of predictions is above 50 % for conv 400 %"
    assert (times["edge"], times["edge_why"]) == ("measured", told)
    assert f"{told}: measuring the network instead" in caplog.text
    caplog.clear()
    times = edge_in(tmp_path, *flags, "--times", "predicted").document["times"]
    assert times["edge"] == "predicted"
    assert f"{told}; use --times auto to measure" in caplog.text


def test_the_predictors_of_as_many_threads_are_taken(
    fitted: Path, tmp_path: Path, cloud: CloudProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of one thread lie beside those of all; where there are none for an emulated edge that is said."""
    good = latency.load(fitted / "predictors" / "edge.skops")
    assert good.machine is not None
    path = tmp_path / "predictors" / "edge.skops"

    def edge_of_one_thread(folder: Path) -> dict[str, Any]:
        capsys.readouterr()
        found = call(edge_api.main, ["--cache-dir", str(folder), *flags], capsys)
        assert found.code == 0, found.stderr
        times: dict[str, Any] = found.document["times"]
        return times

    flags = ("-p", str(cloud.port), "-t", "le_net", "--point", "12", "--emulate-cpu", "0.5", "--json")
    try:
        times = edge_of_one_thread(tmp_path / "none")
        assert (times["edge"], times["edge_why"]) == ("measured", "no predictors for 1 thread")
        latency.save(good, path)
        times = edge_of_one_thread(tmp_path)
        assert (times["edge"], times["edge_why"]) == ("measured", "no predictors for this machine with 1 thread")
        for kept in (tmp_path / "profiles").iterdir():
            kept.unlink()
        latency.save(replace(good, machine=replace(good.machine, threads=1)), for_threads(path, 1))
        times = edge_of_one_thread(tmp_path)
        assert times["edge"] == "predicted"
        assert ", 1 threads" in times["edge_why"]
    finally:
        torch.set_num_threads(int(THREADS))


def test_a_cloud_may_predict_too(fitted: Path, edge_in: Callable[..., Finished]) -> None:
    with running_cloud(fitted, "--times", "predicted") as cloud:
        flags = ("-t", "le_net", "--point", "3", "--repeat", "25", "--json", "--timeout", f"{LONG_S}s")
        edge = edge_in(fitted, "-p", str(cloud.port), *flags)
        assert edge.code == 0, edge.stderr
        assert edge.document["times"]["cloud"] == "predicted"
        assert edge.document["measured"]["cloud_s"] > 0
    assert len(list((fitted / "corrections").iterdir())) >= 1


def test_predictions_that_cannot_be_made(
    fitted: Path, tmp_path: Path, cloud: CloudProcess, edge_in: Callable[..., Finished]
) -> None:
    predicted = ("-p", str(cloud.port), "-t", "le_net", "--times", "predicted")
    none = edge_in(tmp_path, *predicted, "--point", "12")
    assert (none.code, "run deployment.py profile and deployment.py fit" in none.stderr) == (2, True)
    predictors = str(fitted / "predictors" / "edge.skops")
    other = edge_in(tmp_path, *predicted, "--predictors", predictors, "--threads", "1")
    torch.set_num_threads(int(THREADS))
    assert (other.code, "is for another machine" in other.stderr) == (4, True)


def test_damaged_predictors_do_not_stop_auto(
    tmp_path: Path, cloud: CloudProcess, edge_in: Callable[..., Finished], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = tmp_path / "x.skops"
    damaged.write_bytes(os.urandom(500))
    flags = ("-p", str(cloud.port), "-t", "le_net", "--point", "12", "--json")
    found = edge_in(tmp_path, *flags, "--predictors", str(damaged))
    assert (found.code, found.document["times"]["edge"]) == (0, "measured")
    assert "is damaged" in caplog.text
    assert "measuring the network instead" in caplog.text


def test_energy_is_in_the_document(cache: Path, cloud: CloudProcess, edge_in: Callable[..., Finished]) -> None:
    flags = ("-p", str(cloud.port), "-t", "le_net", "--point", "3", "--radio", "4g", "--power", "jetson_tk1", "--json")
    found = edge_in(cache, *flags).document
    energy = found["energy"]
    assert (energy["source"], energy["profile"], energy["radio"]) == ("modelled", "jetson_tk1", "4g")
    joules, measured = energy["measured_stages"], found["measured"]
    busy_s = measured["edge_s"] + measured["encode_s"]  # the codec that pays depends on the machine
    assert joules["edge_j"] == pytest.approx(8.0 * busy_s)
    assert joules["idle_j"] == pytest.approx(3.0 * (measured["total_s"] - busy_s))
    assert joules["transmit_j"] > 0
    assert joules["total_j"] == pytest.approx(sum(joules[name] for name in joules if name != "total_j"))
