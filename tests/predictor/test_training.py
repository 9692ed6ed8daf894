"""Regressions: how they are chosen, what they promise, and the files that hold them."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.models.specs import UnknownLayerError
from edgecloud.predictor import correct, latency
from edgecloud.predictor.correct import Corrections
from edgecloud.predictor.dataset import Dataset, Machine, Row, Whole
from edgecloud.predictor.features import Described, table
from edgecloud.predictor.latency import Predictors, Start, combine
from edgecloud.predictor.quality import MOST_KIND, Fitness, enough_s
from edgecloud.predictor.regressors import FORMS, LEAST_S, MOST_S, fit
from edgecloud.predictor.train import Score, fit_all, fit_kind, fitness
from edgecloud.utils.errors import AppError, MismatchError, UsageError
from tests.predictor.test_dataset import HERE, rows

WHOLES = [Whole(f"n{n}", s, s + 1e-3, (("conv", 1e-3, 8e-4),)) for n, s in enumerate((0.005, 0.02, 0.1))]


@pytest.fixture(scope="module")
def predictors() -> Predictors:
    kinds = {"conv": rows(300), "dw_conv": rows(120, "dw_conv")}
    return combine(fit_all(Dataset(kinds, HERE, "made up")), HERE, WHOLES)


@pytest.fixture(scope="module")
def layers() -> list[Described]:
    return [row.layer for row in rows(50)]


def test_the_best_form_is_chosen_and_all_are_reported() -> None:
    found = fit_kind("conv", rows(300))
    assert set(found.candidates) == set(FORMS) >= {"linear", "logarithmic", "trees", "roofline_boosted", "published"}
    assert found.chosen == "roofline_trees"  # the times were made of work and a constant
    assert found.score.within_20 > 0.95
    assert found.candidates["published"].within_20 < found.score.within_20
    assert found.score.rows < 100 < 300


def test_no_network_is_on_both_sides() -> None:
    """The times here depend on nothing but the network: who has seen a copy of a row knows it, who has not is lost."""
    chance = np.random.default_rng(0).lognormal(size=80)
    copies = [Row(row.layer, f"n{n}", (float(s),)) for n, (row, s) in enumerate(zip(rows(80), chance, strict=True))] * 3
    assert fit_kind("conv", copies).score.within_20 < 0.4


@pytest.mark.parametrize("form", FORMS)
def test_a_handful_of_rows_leads_to_no_time_beyond_all_measure(form: str, layers: list[Described]) -> None:
    """On a machine so slow that a few rows are all that it has, of which noise made one 10 million times as slow."""
    known = table(layers[:3])
    seconds = fit(form, "conv", known, np.array([1e-6, 10.0, 1e-6])).seconds(table(layers))
    assert ((seconds >= LEAST_S) & (seconds <= MOST_S)).all()


def test_a_kind_that_hardly_more_than_one_network_has_is_fitted() -> None:
    """Without that network there would be a single row to learn from."""
    networks = ["n1", "n0", *14 * ["n4"]]  # n1 is set aside, and the others are of two folds
    found = fit_kind("conv", [replace(row, network=name) for row, name in zip(rows(16), networks, strict=True)])
    assert len(found.candidates) == len(FORMS)
    assert found.score.rows == 1
    assert all(factor < 100 for factor in found.spread.factors)  # each row was guessed by those that had not seen it


@pytest.mark.parametrize("form", FORMS)
def test_predictions_are_never_negative(form: str) -> None:
    known = rows(100)
    fitted = fit(form, "conv", table([row.layer for row in known]), np.array([row.seconds for row in known]))
    rng = np.random.default_rng(0)
    strange = table([row.layer for row in known]) * rng.uniform(0, 2, (100, 1))
    seconds = fitted.seconds(strange)
    assert (seconds > 0).all()
    assert np.isfinite(seconds).all()


def test_scores_count_what_is_close() -> None:
    score = Score.of(np.array([1.0, 1.08, 1.15, 3.0]), np.ones(4))
    assert (score.rows, score.within_5, score.within_10, score.within_20) == (4, 0.25, 0.5, 0.75)
    assert score.mape == pytest.approx((0.08 + 0.15 + 2) / 4)


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(UsageError, match="no layer kind has 12 rows"):
        fit_all(Dataset({"conv": rows(5)}, HERE, "made up"))


def test_a_network_costs_its_layers_and_its_start(predictors: Predictors, layers: list[Described]) -> None:
    alone, factors = predictors.layers(layers)
    times = predictors.network(layers)
    assert times.seconds[0] == 0.0
    assert sum(times.seconds) == pytest.approx(sum(alone) + predictors.start.extra_s(sum(alone)))
    assert predictors.start.most_s == pytest.approx(1e-3, rel=0.05)
    tail_s = sum(alone[10:])
    assert sum(times.seconds[11:]) + times.start_s[10] == pytest.approx(tail_s + predictors.start.extra_s(tail_s))
    assert (factors >= 1).all()
    assert predictors.whole_factor >= 1
    assert predictors.alone == {"conv": pytest.approx(0.8)}


def test_an_unknown_kind_is_an_error_and_never_zero(predictors: Predictors) -> None:
    with pytest.raises(UnknownLayerError, match="no predictor for linear layers"):
        predictors.network([row.layer for row in rows(3, "linear")])


def test_nine_of_ten_errors_are_below_the_factor(predictors: Predictors) -> None:
    unseen = rows(301)[:200]
    seconds, factors = predictors.layers([row.layer for row in unseen])
    measured = np.array([row.seconds for row in unseen])
    off = np.maximum(seconds / measured, measured / seconds)
    assert np.mean(off <= factors) > 0.75


def test_a_kind_that_is_predicted_badly_is_weak_where_it_matters(
    predictors: Predictors, layers: list[Described]
) -> None:
    assert set(predictors.errors) == {"conv", "dw_conv"}
    assert all(1 <= factor < MOST_KIND for factor in predictors.errors.values())
    least = min(layers, key=lambda layer: layer.spec.macs)
    small = [replace(least, spec=replace(least.spec, kind="dw_conv"))]
    assert predictors.weak([*layers, *small]) == {}
    bad = replace(predictors, errors={"conv": 1.2, "dw_conv": 1.9})
    assert bad.weak(small) == {"dw_conv": 1.9}
    assert bad.weak([*layers, *small]) == {}, "one layer of fifty"
    worse = replace(predictors, errors={"conv": 1.2, "dw_conv": 1e6})
    assert worse.weak([*layers, *small]) == {"dw_conv": 1e6}, "it may take as long as all others"
    older = replace(predictors, errors={}, whole_factor=1.6)
    assert older.weak(layers) == {"conv": 1.6}, "files of before say only how far off whole networks are"
    assert replace(older, errors={"conv": float("nan")}).weak(layers).keys() <= {"conv"}


@pytest.mark.parametrize(
    ("networks", "factor", "why"),
    [(4, 1.1, "only 4 networks"), (5, 2.0, ""), (50, 2.01, "101 %"), (50, 55.59, "5459 %"), (50, float("nan"), "nan")],
)
def test_what_is_fit_for_use_is_a_stated_bound(networks: int, factor: float, why: str) -> None:
    found = Fitness(networks, factor).why_not
    assert why in found
    assert bool(found) == bool(why)


def test_the_fitness_is_that_of_whole_networks_that_were_held_out() -> None:
    lawful = [fit_kind("conv", rows(120))]
    assert fitness(lawful).why_not == ""
    assert fitness(lawful).networks < 24, "those of the test are not among them"
    assert fitness(lawful).factor == pytest.approx(lawful[0].factor)
    chance = np.random.default_rng(3)
    wild = [replace(row, raw_s=(float(chance.lognormal(-8, 3)),)) for row in rows(120)]
    assert "P90 error" in fitness([fit_kind("conv", wild, ("trees",))]).why_not


@given(
    rows=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 40)),
    spent_s=st.floats(0.5, 500),
    wanted=st.sets(st.sampled_from("abcd"), min_size=1),
)
def test_the_budget_that_would_do_is_more_than_was_spent(
    rows: dict[str, int], spent_s: float, wanted: set[str]
) -> None:
    found = enough_s(rows, wanted, 12, spent_s)
    least = min(rows.get(kind, 0) for kind in wanted)
    assert (found is None) == (least >= 12)
    if found is not None:
        assert found > spent_s
        assert max(1, least) * found / spent_s >= 12, "as they came so far there are enough by then"


def test_starts_are_fitted_robustly() -> None:
    assert Start.fit([]) == Start(0.0, 1e-3)
    assert Start.fit([Whole("n", 0.01, 0.009)]).most_s == 0.0
    truth = Start(2e-3, 1e-2)
    made = [Whole(f"n{n}", s, s + truth.extra_s(s)) for n, s in enumerate((1e-3, 5e-3, 1e-2, 5e-2, 0.2))]
    found = Start.fit([*made, Whole("bad", 0.05, 1.0)])
    assert found.most_s == pytest.approx(2e-3)
    assert found.scale_s == 1e-2


# --- files


@pytest.fixture(scope="module")
def saved(predictors: Predictors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "edge.skops"
    latency.save(predictors, path)
    return path


def test_what_is_saved_predicts_the_same(saved: Path, predictors: Predictors, layers: list[Described]) -> None:
    again = latency.load(saved, HERE)
    assert again.network(layers) == predictors.network(layers)
    assert (again.machine, again.alone, again.whole_factor) == (HERE, predictors.alone, predictors.whole_factor)


def test_other_machines_features_and_versions_are_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictors: Predictors
) -> None:
    with pytest.raises(MismatchError, match="is for another machine"):
        latency.load(saved, Machine("cpu Other", 1, "2.13.0"))
    with pytest.raises(MismatchError, match="another machine"):
        latency.load(saved, Machine(HERE.device, 4, HERE.torch))
    monkeypatch.setattr(latency, "FEATURE_HASH", "sha256:other")
    with pytest.raises(MismatchError, match="with other features"):
        latency.load(saved)
    monkeypatch.setattr(latency, "SCHEMA", 99)
    with pytest.raises(MismatchError, match="schema 1, expected 99"):
        latency.load(saved)
    with pytest.raises(UsageError, match="no file"):
        latency.load(tmp_path / "none.skops")


def test_a_truncated_file_is_an_error_at_any_length(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    cut = tmp_path / "cut.skops"
    for length in np.linspace(0, len(whole) - 1, 100).astype(int):
        cut.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="is damaged or contains no predictors"):
            latency.load(cut)
    middle = len(whole) // 2
    cut.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with pytest.raises(UsageError):
        latency.load(cut)


class Gadget:
    """What a stranger's file might hold."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, document in enumerate([{"schema": 1, "kinds": Gadget()}, {"f": os.system}, [1], {"schema": 1}]):
        path = tmp_path / f"{number}.skops"
        path.write_bytes(skops.io.dumps(document))
        with pytest.raises(AppError) as caught:
            latency.load(path)
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(tmp_path / "huge.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * 2000)
    monkeypatch.setattr(latency, "MAX_UNPACKED_BYTES", 1999)
    with pytest.raises(UsageError, match="its unpacked size is too large"):
        latency.load(tmp_path / "huge.skops")
    assert not (tmp_path / "canary").exists()


def test_a_full_disk_leaves_the_old_file(saved: Path, predictors: Predictors, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        latency.save(predictors, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


# --- learning from real inferences


def test_corrections_approach_the_truth_and_stay_bounded() -> None:
    found = Corrections()
    stage = {"conv": 0.08, "linear": 0.02}
    for _ in range(30):
        found = found.learn(stage, 0.001, 0.001 + 1.4 * 0.08 + 1.1 * 0.02)
    total = sum(seconds * found.factors[kind] for kind, seconds in stage.items())
    assert total == pytest.approx(1.4 * 0.08 + 1.1 * 0.02, rel=1e-3)
    assert found.factors["conv"] > found.factors["linear"] > 1
    first = Corrections().learn(stage, 0.0, 0.2)
    assert sum(s * first.factors[k] for k, s in stage.items()) == pytest.approx(0.1 + correct.DAMPING * 0.1)
    for wild in (1e9, 1e-12):
        for _ in range(50):
            found = found.learn(stage, 0.0, wild)
        assert all(correct.LEAST <= factor <= correct.MOST for factor in found.factors.values())


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_teaches_nothing(seconds: float) -> None:
    assert Corrections().learn({"conv": 1.0}, 0.0, seconds) == Corrections()
    assert Corrections().learn({}, 0.0, 1.0) == Corrections()


def test_corrections_are_kept_and_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "c" / "x.json"
    assert correct.load(path) == Corrections()
    kept = Corrections({"conv": 1.25}, 7)
    correct.save(path, kept)
    assert correct.load(path) == kept
    for text in ("", "[]", "{}", '{"schema":1,"factors":{"conv":99},"seen":1}', '{"schema":2,"factors":{},"seen":1}'):
        path.write_text(text)
        assert correct.load(path) == Corrections()
