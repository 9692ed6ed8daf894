"""What the lab keeps: whole lines, and of one environment only."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgecloud.lab import records
from edgecloud.lab.records import RECORDS, Cell, CellRecord, Environment
from edgecloud.utils.errors import MismatchError, UsageError
from tests.conftest import ROOT

ENVIRONMENT = Environment("emulated", "it was asked for", {"cpu": "a", "cores": 4}, {"torch": "2"}, 1, "cubic", "now")
CELL = Cell("le_net", 0.3, "5mbit,20ms", "5mbit")


def record(total_s: float = 0.5, repeat: int = 0) -> CellRecord:
    return CellRecord(
        environment=ENVIRONMENT.key,
        at="2026-11-21T13:00:00+00:00",
        cell=CELL,
        who="point",
        point=3,
        layer="features.2",
        codec="raw",
        repeat=repeat,
        plan={"asked": "3:raw", "points": 13},
        link_seen=None,
        measured={"total_s": total_s},
        energy=None,
        result_top=4,
        completed_by="split",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records.write_environment(tmp_path, ENVIRONMENT)
    return tmp_path


def append(folder: Path, record: CellRecord) -> None:
    """One record, as a lab does that goes on with a folder."""
    with records.open_records(folder) as writer:
        writer.append(record)


def test_what_was_appended_is_read_back(folder: Path) -> None:
    written = [record(0.5), replace(record(0.25, 1), flags=("unstable",), cell=replace(CELL, cpu=None))]
    for one in written:
        append(folder, one)
    assert records.read(folder) == (ENVIRONMENT, tuple(written))


def test_half_a_line_of_a_crash_is_passed_over_and_then_cut_off(folder: Path) -> None:
    append(folder, record())
    with (folder / RECORDS).open("ab") as file:
        file.write(json.dumps(record().to_json()).encode()[:-20])
    assert len(records.read(folder)[1]) == 1
    append(folder, record(0.7, 1))
    assert [one.total_s for one in records.read(folder)[1]] == [0.5, 0.7]


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"schema": 9}', '{"schema": 1, "cell": {}}', "nonsense"])
def test_a_damaged_line_in_the_middle_is_named(folder: Path, line: str) -> None:
    append(folder, record())
    (folder / RECORDS).write_text(f"{line}\n{(folder / RECORDS).read_text()}")
    with pytest.raises(UsageError, match="line 1"):
        records.read(folder)


def test_warnings_of_the_machine_are_kept_once_and_make_no_other_environment(folder: Path) -> None:
    cores, load = ({"name": name, "found": "2", "to_do": ""} for name in ("cores", "other work"))
    for warnings in ((cores,), (cores, load), (), ({**load, "found": "9"},)):
        records.write_environment(folder, replace(ENVIRONMENT, warnings=warnings))
    found = records.read_environment(folder)
    assert found.warnings == (cores, load)
    assert found.key == ENVIRONMENT.key
    append(folder, record())
    assert records.read(folder)[0] == found


@pytest.mark.parametrize("warnings", [None, 3, ["x"], [{"name": "cores"}]])
def test_damaged_warnings_are_named(folder: Path, warnings: object) -> None:
    document = json.loads((folder / records.ENVIRONMENT).read_text()) | {"warnings": warnings}
    (folder / records.ENVIRONMENT).write_text(json.dumps(document))
    with pytest.raises(UsageError, match="is damaged"):
        records.read_environment(folder)


def test_another_device_is_refused_by_name(folder: Path) -> None:
    records.write_environment(folder, replace(ENVIRONMENT, why_mode="another reason", started="later"))
    with pytest.raises(MismatchError, match=r"host\.cores: 4 recorded, 8 now") as refused:
        records.write_environment(folder, replace(ENVIRONMENT, host={"cpu": "a", "cores": 8}))
    assert refused.value.exit_code == 4


def test_no_results_and_records_of_another_environment(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results"):
        records.read(tmp_path / "nothing")
    append(folder, replace(record(), environment="another"))
    with pytest.raises(UsageError, match="another environment"):
        records.read(folder)


def test_a_full_disk_is_one_line_and_what_is_there_stays_whole(folder: Path) -> None:
    """The limit of a file's size stands in for the disk's."""
    append(folder, record())
    size = (folder / RECORDS).stat().st_size
    code = (
        "import signal, sys\nfrom pathlib import Path\nfrom dataclasses import replace\nfrom lab import records\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfolder = Path(sys.argv[1])\n"
        "old = records.read(folder)[1][0]\n"
        "try:\n  with records.open_records(folder) as writer:\n"
        "    [writer.append(replace(old, repeat=n)) for n in range(9)]\n"
        "except records.AppError as error:\n    sys.exit(f'{error.exit_code} {error}')\n"
    )
    limit = int(size * 2.5)
    no_coverage = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=no_coverage,  # which could not write its own file either
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert run.stderr.startswith("1 cannot write")
    assert len(run.stderr.splitlines()) == 1
    assert len(records.read(folder)[1]) == 2
    assert (folder / RECORDS).read_bytes().endswith(b"\n")
