"""Files that come with the program are found from any folder, and never in place of one of the user's."""

from pathlib import Path

import pytest

from edgecloud.lab import spec, traces
from edgecloud.utils.resources import or_shipped, shipped


def test_files_of_ours_are_found_by_their_packages() -> None:
    for package, names in (
        ("models.zoo", ("le_net.safetensors",)),
        ("predictor", ("power", "raspberry_pi_4.toml")),
        ("lab.report", ("page.css",)),
    ):
        assert shipped(package, *names).is_file()


def test_what_documents_name_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert spec.read(Path("lab/specs/student.toml")).models == ("alex_net",)
    given = {"models": ["le_net"], "links": ["5mbit"], "traces": ["lab/links/train.csv"]}
    [trace] = spec.of(given, tmp_path).traces
    assert traces.read(Path(trace)).rate_at(0.0) > 0


def test_a_file_of_the_users_comes_first_and_others_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("lab/specs/student.toml")
    for path in (
        Path("lab/specs/none.toml"),
        Path("student.toml"),
        Path("lab/../lab/specs/x.toml"),
        Path("lab/en.toml"),
    ):
        assert or_shipped(path) == path
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert or_shipped(own) == own
