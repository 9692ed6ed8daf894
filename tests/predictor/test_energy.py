"""Joules: the published radios, the formula, power profiles in YAML, and meters."""

from pathlib import Path

import pytest

from edgecloud.partition.cost import Link, Power, energy
from edgecloud.predictor.energy import find_meter, load_profile, shipped_profiles
from edgecloud.utils.errors import UsageError


def test_the_radios_are_the_published_ones() -> None:
    """JointDNN, Table 3: uplink watts at its own rates, and joules for a million bytes."""
    radios = load_profile("raspberry_pi_4").radios
    for name, mbps, watts, joules in (
        ("3g", 1.1, 1.7738, 12.9),
        ("4g", 5.85, 3.8526, 5.27),
        ("wifi", 18.88, 5.4791, 2.32),
    ):
        rate = mbps * 1e6 / 8
        assert radios[name].transmit_w(rate) == pytest.approx(watts, abs=1e-4)
        assert radios[name].transmit_w(rate) * 1e6 / rate == pytest.approx(joules, abs=0.01)
    assert radios["wifi"].receive_w(54.97e6 / 8) == pytest.approx((137.01 * 54.97 + 132.86) / 1e3)


def test_the_formula() -> None:
    link, power = Link(1000.0, 2000.0, 0.1), Power(5.0, 2.0, 3.0, 1.0)
    found = energy(0.5, 1.5, 1000, 500, link, power)
    assert (found.edge_j, found.transmit_j, found.receive_j, found.idle_j) == (2.5, 3.0, 0.25, 3.0)
    assert found.total_j == 8.75
    alone = energy(0.5, 0.0, 0, 0, link, power)
    assert (alone.edge_j, alone.total_j) == (2.5, 2.5)


def test_shipped_profiles_are_complete() -> None:
    assert shipped_profiles() == ["jetson_tk1", "raspberry_pi_4"]
    for name in shipped_profiles():
        found = load_profile(name)
        assert found.compute_w > found.idle_w > 0
        assert set(found.radios) == {"3g", "4g", "wifi"}


def test_ones_own_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "compute_w: 3\nidle_w: 1\nradios:\n  lan: {alpha_up_mw_per_mbps: 0, alpha_down_mw_per_mbps: 0, beta_mw: 500}\n"
    )
    found = load_profile(str(path))
    assert (found.name, found.radio("lan").transmit_w(1e6)) == ("mine", 0.5)
    with pytest.raises(UsageError, match="has no radio 'wifi': choose lan"):
        found.radio("wifi")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("compute_w: fast\nidle_w: 1", "compute_w must be a number"),
        ("compute_w: 1", "idle_w must be a number of at least 0, not 'None'"),
        ("compute_w: -1\nidle_w: 1", "must be a number of at least 0"),
        ("compute_w: .nan\nidle_w: 1", "compute_w must be a number"),
        ("compute_w: 1.0e+9\nidle_w: 1", "which is implausibly high"),
        ("compute_w: true\nidle_w: 1", "compute_w must be a number"),
        ("- 1", "a power profile must be a table"),
        ("a: [", "is not YAML"),
        ("a: &x [1]\nb: *x", "aliases are not supported"),
        ('!!python/object/apply:os.system ["touch canary"]', "is not YAML"),
        ("compute_w: 1\nidle_w: 1\nradios: [3g]", "radios must be a table"),
        ("compute_w: 1\nidle_w: 1\nradios: {x: 1}", "a radio must be a table"),
    ],
)
def test_a_wrong_profile_is_named(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        load_profile("p.yaml")
    assert not (tmp_path / "canary").exists()


def test_a_profile_that_there_is_not() -> None:
    with pytest.raises(UsageError, match=r"no power profile 'toaster': choose jetson_tk1, raspberry_pi_4"):
        load_profile("toaster")
    with pytest.raises(UsageError, match="no file"):
        load_profile("/none.yaml")


def test_the_processors_own_counter_is_read_and_may_wrap(tmp_path: Path) -> None:
    package = tmp_path / "powercap" / "intel-rapl:0"
    package.mkdir(parents=True)
    (tmp_path / "powercap" / "intel-rapl:0:0").mkdir()
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text("9000000\n")
    (package / "max_energy_range_uj").write_text("10000000\n")
    meter = find_meter(tmp_path / "powercap", tmp_path / "none")
    assert meter is not None
    assert meter.name == "intel-rapl:0 package-0"
    before = meter.read_j()
    assert before == 9.0
    (package / "energy_uj").write_text("500000\n")
    assert meter.used_j(before) == pytest.approx(1.5)
    (package / "energy_uj").write_text("nonsense")
    assert find_meter(tmp_path / "powercap", tmp_path / "none") is None
    assert find_meter(tmp_path / "none", tmp_path / "none") is None


def test_a_boards_counter(tmp_path: Path) -> None:
    board = tmp_path / "hwmon0"
    board.mkdir()
    (board / "energy1_input").write_text("1500000")
    meter = find_meter(tmp_path / "none", tmp_path)
    assert meter is not None
    assert meter.read_j() == 1.5
