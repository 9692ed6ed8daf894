"""Specs of experiments: what is taken, and what is refused in one line."""

import tomllib
from pathlib import Path

import pytest

from edgecloud.lab import spec
from edgecloud.lab.grid import Want, flags_for, is_spread, places, wants
from edgecloud.lab.testbed import LinkSpec
from edgecloud.utils.errors import UsageError
from tests.conftest import ROOT

LEAST = 'models = ["le_net"]\nlinks = ["5mbit"]\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return path


def test_a_spec_that_is_written_down_is_the_same_spec(tmp_path: Path) -> None:
    text = (
        'models = ["le_net", "alex_net"]\ncpu = [0.3, "none"]\npoints = [0, 8, "13:pixels"]\nobjectives = ["energy"]\n'
        "accuracy_budget = 0.01\n"
        'codec_files = ["my.codec", "/its.codec"]\n'
        'links = ["5mbit,20ms", { name = "LTE", link = "5.85mbit,0ms,13.76mbit", radio = "4g" }]\n'
    )
    found = spec.read(written(tmp_path, text))
    assert found.cpu == (0.3, None)
    assert found.accuracy_budget == 0.01
    assert found.codec_files == (str(tmp_path.resolve() / "my.codec"), "/its.codec")
    assert found.codec_file_flags() == ("--codec-file", found.codec_files[0], "--codec-file", "/its.codec")
    assert found.points == "0,8,13:pixels"
    assert found.links[1] == LinkSpec("LTE", "5.85mbit,0ms,13.76mbit", "4g")
    assert spec.of(tomllib.loads(found.to_toml())) == found


@pytest.mark.parametrize("name", ["student", "board", "paper"])
def test_the_specs_that_are_shipped_can_be_read(name: str) -> None:
    found = spec.read(ROOT / "lab/specs" / f"{name}.toml")
    assert len(places(found)) == {"student": 12, "board": 12, "paper": 96}[name]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LEAST + "modes = 1", "unknown key 'modes'"),
        ('links = ["5mbit"]', "models is missing"),
        ('models = ["le_net"]\nlinks = ["5"]', "'5' is not a rate"),
        ('models = ["le_net"]\nlinks = []', "links is empty"),
        ('models = ["le_net"]\nlinks = ["5mbit", "5mbit"]', "twice"),
        ('models = ["le_net"]\nlinks = [{ name = "a" }]', "lacks the key link"),
        ('models = ["le_net"]\nlinks = [{ link = "5mbit", speed = 1 }]', "unknown key 'speed'"),
        (LEAST + "cpu = [0]", "cpu 0 is not a share"),
        (LEAST + "cpu = [1.5]", "cpu 1.5 is not a share"),
        (LEAST + 'cpu = ["half"]', "cpu 'half' is not a share"),
        (LEAST + "repeat = 0", "repeat must be at least 1"),
        (LEAST + "accuracy_budget = 1.5", "accuracy_budget 1.5 is not a share of answers"),
        (LEAST + 'accuracy_budget = "1%"', "accuracy_budget must be a number"),
        (LEAST + "repeat = 2.5", "repeat must be a whole number"),
        (LEAST + 'objectives = ["throughput"]', "no objective 'throughput'"),
        (LEAST + 'baselines = ["me"]', "no baseline 'me'"),
        (LEAST + "baselines = []", "nothing to measure"),
        (LEAST + 'traces = ["none.csv"]', "no file"),
        ("models = [", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        spec.read(written(tmp_path, text))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("5mbit,7mbit,10mbit", ["5mbit", "7mbit", "10mbit"]),
        ("5mbit,20ms", ["5mbit,20ms"]),
        ("5mbit,20ms,30mbit", ["5mbit,20ms,30mbit"]),
        ("5mbit,20ms;7mbit", ["5mbit,20ms", "7mbit"]),
    ],
)
def test_links_of_a_flag(text: str, shapes: list[str]) -> None:
    assert [link.shape for link in spec.links_of(text)] == shapes


def test_what_is_measured_in_a_cell() -> None:
    found = spec.of(
        {"models": ["le_net"], "links": ["5mbit"], "points": "0-1,12:zstd", "baselines": ["auto", "all-edge"]}
    )
    asked = [Want("auto", "auto"), Want("all-edge", ""), *(Want("point", t) for t in ("0:raw", "1:raw", "12:zstd"))]
    assert wants(found, 13, "latency") == asked
    everything = spec.of({"models": ["le_net"], "links": ["5mbit"], "points": "all,auto", "baselines": []})
    assert [want.asked for want in wants(everything, 13, "latency")] == ["auto", *(f"{n}:raw" for n in range(13))]


def test_repeats_that_lie_far_apart_are_flagged() -> None:
    close, far = [0.100, 0.110, 0.105], [0.100, 0.130, 0.105]
    assert not is_spread(close)
    assert not is_spread([0.0010, 0.0017])  # less than a millisecond apart
    assert is_spread(far)
    assert flags_for(close, 1, is_fallback=False) == ()
    assert flags_for(far, 1, is_fallback=True) == ("fallback", "superseded")
    assert flags_for(far, 3, is_fallback=False) == ("unstable",)
