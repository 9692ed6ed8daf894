"""Cells with wrong profiles: what is drawn, what is written, and what the table says."""

import math
from pathlib import Path

import pytest

from benchmarks import cells
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.models.graph_json import to_document
from edgecloud.predictor import store
from edgecloud.predictor.profile import Profile, ProfileKey
from edgecloud.predictor.store import StoredProfile

KEY = ProfileKey("a", "g", "w", "cpu", 1, "torch", "wall", "2")
KINDS = ("conv", "relu", "linear")


def stored() -> StoredProfile:
    layers = [Layer("input", "input", (), 600_000)]
    layers += [Layer(f"l{n}", kind, (n - 1,), 1000) for n, kind in enumerate(KINDS, 1)]
    profile = Profile(KEY, ((0.0, 0.03, 0.01, 0.02), (0.0, 0.05, 0.01, 0.02)), {1: (0.034, 0.036)}, None, 1)
    return StoredProfile(profile, to_document(LayerGraph("a", tuple(layers), (3,))))


def test_every_kind_of_a_profile_is_wrong_by_its_factor_and_starting_a_tail_is_not(tmp_path: Path) -> None:
    right, factors = stored(), {"input": 1.0, "conv": 3.0, "relu": 0.5, "linear": 0.3}
    cells.write_wrong(right, factors, tmp_path)
    found = store.load(tmp_path, KEY, 4)
    assert found is not None
    assert found.seconds == pytest.approx((0.0, 3 * 0.04, 0.5 * 0.01, 0.3 * 0.02))
    assert found.start_s == pytest.approx(right.profile.start_s)
    assert found.start_s[1] == pytest.approx(0.005)
    kept = cells.kept(tmp_path, "a", "wall")
    assert kept is not None
    assert kept.profile == found
    assert cells.kept(tmp_path, "a", "work") is None


@pytest.mark.parametrize("number", range(8))
def test_in_a_cell_both_ends_take_about_as_long_and_predictions_are_wrong(number: int) -> None:
    right = stored()
    cell = cells.cell_of(number, right, "a")
    assert cell == cells.cell_of(number, right, "a")
    assert cell.edge != cell.cloud
    for factors in (cell.edge, cell.cloud):
        assert set(factors) == {"input", *KINDS}
        assert all(cells.LEAST <= factor <= cells.MOST for factor in factors.values())
    rate, rtt = cell.link.split(",")
    edge_s = sum(right.profile.seconds) / cell.share
    upload_s = 8 * cells.PICTURE * 600_000 / (1e6 * float(rate.removesuffix("mbit")))
    cloud_s = upload_s + 1e-3 * float(rtt.removesuffix("ms")) + sum(right.profile.seconds)
    assert 0.4 < cloud_s / edge_s < 2.2


def found(**totals: list[float]) -> cells.Found:
    runs = {name.removeprefix("p"): values for name, values in totals.items()}
    return cells.Found(1, "a", 0.2, "1mbit,10ms", 0, 2, 1, 3, runs)


def test_the_best_is_one_that_was_run_in_turns_and_noise_is_that_of_its_halves() -> None:
    one = found(p0=[0.2, 0.2, 0.2, 0.2], p1=[0.05], p2=[0.1, 0.11, 0.1, 0.11], p3=[0.3, 0.3])
    assert one.best == 2
    assert one.ratio(0) == pytest.approx(0.2 / 0.105)
    assert one.ratio(2) == 1
    assert one.noise == pytest.approx(0.1)
    assert math.isinf(one.ratio(None))
    assert cells.row(one)[-1] == "yes"


def test_what_is_off_by_less_than_the_noise_is_said_to_be() -> None:
    near = found(p0=[0.1, 0.11, 0.1, 0.11], p2=[0.115, 0.115], p3=[0.3, 0.3])
    assert cells.row(near)[-1] == "within noise"
    far = found(p0=[0.1, 0.1, 0.1, 0.1], p2=[0.12, 0.12], p3=[0.3, 0.3])
    assert cells.row(far)[-1] == "no"
