"""Learned codecs in experiments: both sides of a cell are given their files."""

from pathlib import Path

import pytest

import edgecloud as ec
from edgecloud.lab.__main__ import main as lab
from edgecloud.lab.records import SPEC, read
from edgecloud.lab.spec import read as read_spec
from tests.conftest import call
from tests.library.test_learned import NAME, POINT, write

CELL = 'models = "le_net"\nlinks = "0.2mbit,2ms"\ncpu = 0.5\nrepeat = 1\nwarm_up = 0\n'
LEAST = ("--model", "le_net", "--cpu", "0.5", "--link", "0.2mbit,2ms", "--repeat", "1", "--mode", "emulated")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(ec.load("le_net"), tmp_path_factory.mktemp("codecs") / "tiny.codec", changed=1)


def test_a_learned_codec_is_measured_in_a_cell(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    spec = tmp_path / "spec.toml"
    spec.write_text(f'codec_files = ["{file}"]\npoints = [{POINT}, "{POINT}:{NAME}"]\nbaselines = []\n{CELL}')
    done = call(lab, ["run", str(spec), "--mode", "emulated", "--out", str(folder)], capsys)
    assert done.code == 0, done.stderr
    records = read(folder)[1]
    sent = {each.codec: each.measured["payload_bytes"] for each in records}
    assert set(sent) == {"raw", NAME}
    assert 0 < sent[NAME] < sent["raw"] / 50
    assert all(each.completed_by == "split" and each.matches for each in records)
    assert read_spec(folder / SPEC).codec_files == (str(file),)


def test_files_that_are_missing_or_wrong_are_told_first(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.codec").write_bytes(file.read_bytes()[:-1])
    out = ("--points", "0", "--out", str(tmp_path / "out"))
    for words, says in [
        (("--codec", NAME), f"{NAME} is in none of the files: give its file with --codec-file"),
        (("--baselines", ""), "is an empty list"),
        (("--codec-file", str(tmp_path / "none")), "none"),
        (("--codec-file", str(tmp_path / "broken.codec")), "cannot be used as a learned codec"),
    ]:
        run = call(lab, ["run", *LEAST, *words, *out], capsys)
        assert run.code == 2
        assert says in run.stderr
    assert not (tmp_path / "out").exists()
