"""python -m lab run through the real programs: it measures, goes on where it stopped, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab_kills import half_lines, killed, left_of, processes, start
from edgecloud.lab import doctor, hosts
from edgecloud.lab.__main__ import main as lab
from edgecloud.lab.grid import groups
from edgecloud.lab.programs import program
from edgecloud.lab.reaper import open_reaper
from edgecloud.lab.records import ENVIRONMENT, RECORDS, SPEC, read
from edgecloud.utils.errors import AppError
from tests.conftest import LONG_S, call, run_script, until

LEAST = ("--model", "le_net", "--cpu", "0.5", "--link", "50mbit,4ms", "--points", "0,12", "--repeat", "2")
SMALL = (*LEAST, "--baselines", "auto,all-cloud-8bit")
HOSTS = [pytest.mark.skipif(bool(hosts.cannot()), reason=hosts.cannot()), pytest.mark.slow]
MODES = ["emulated", pytest.param("hosts", marks=HOSTS)]


def lines(folder: Path) -> int:
    path = folder / RECORDS
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module", params=MODES)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed in the middle, and then went on to its end."""
    mode: str = request.param
    folder, mark = tmp_path_factory.mktemp(mode) / "out", f"test-{os.getpid()}-{mode}"
    run = start(folder, mode, mark, SMALL)
    until(lambda: lines(folder) or run.poll() is not None)  # in the middle of a cell, with everything running
    assert len(processes(mark)) >= 4, "the lab, its reaper, a cloud and an edge"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    until(lambda: not left_of(run.pid, mark))
    assert half_lines(folder) == 0
    before = lines(folder)
    again = run_script("-m", "lab", "run", "--resume", str(folder), timeout_s=2 * LONG_S)
    assert again.code == 0, again.stderr
    assert "best point" in again.stdout
    assert lines(folder) > before
    environment = read(folder)[0]
    assert environment.mode == mode
    warned = {line.split(": ")[2] for line in again.stderr.splitlines() if line.startswith("lab: warning: ")}
    assert warned <= {each["name"] for each in environment.warnings}, "what is warned of is written down"
    return folder


def test_killed_and_resumed_it_has_measured_everything_once(measured: Path) -> None:
    found = groups(read(measured)[1])
    assert all([record.repeat for record in kept] == [0, 1] for kept in found.values())
    asked = {(kept[0].who, kept[0].point, kept[0].codec) for kept in found.values()}
    assert asked >= {("point", 0, "raw"), ("point", 12, "raw"), ("all-cloud-8bit", 0, "pixels")}
    assert {who for who, _, _ in asked} == {"auto", "point", "all-cloud-8bit"}
    assert all(record.matches for kept in found.values() for record in kept)


def test_the_edge_knew_its_share(measured: Path) -> None:
    profiles = [json.loads(path.read_text()) for path in (measured / "cache/profiles").glob("*.json")]
    clock = {"emulated": "work", "hosts": "work, 0.5 of 5 ms"}[read(measured)[0].mode]
    assert sorted(profile["key"]["clock"] for profile in profiles) == ["wall", clock]  # the cloud's, and the edge's


def test_it_is_not_measured_twice_and_another_device_is_refused(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, records = read(measured)
    assert call(lab, ["run", "--resume", str(measured)], capsys).code == 0
    assert read(measured)[1] == records
    path = measured / ENVIRONMENT
    was = path.read_text()
    path.write_text(was.replace('"threads": 1', '"threads": 2'))
    other = call(lab, ["run", "--resume", str(measured)], capsys)
    path.write_text(was)
    assert other.code == 4
    assert "threads: 2 recorded, 1 now" in other.stderr


def test_interrupted_it_ends_in_order(tmp_path: Path) -> None:
    folder, mark = tmp_path / "out", f"test-{os.getpid()}-term"
    run = start(folder, "emulated", mark)
    until(lambda: len(processes(mark)) >= 3)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=2 * LONG_S)
    assert run.returncode == 130
    assert left_of(run.pid, mark) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "alex", "--link", "5mbit"), "alex"),
        (("--model", "le_net", "--link", "5"), "'5' is not a rate"),
        (("--model", "le_net", "--link", "5mbit", "--cpu", "0"), "cpu 0 is not a share"),
        (("--model", "le_net", "--link", "5mbit", "--mode", "moon"), "no mode 'moon'"),
        (("--model", "le_net", "--link", "5mbit", "--codec", "zip"), "no codec 'zip'"),
        (("--model", "le_net"), "use SPEC.toml"),
        (("nothing.toml",), "no file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    got = call(lab, ["run", *arguments, "--out", str(folder)], capsys)
    assert got.code == 2, got.stderr
    assert says in got.stderr
    assert len([line for line in got.stderr.splitlines() if "mode " not in line or says in line]) == 1
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_hosts_without_tc(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    got = call(lab, ["run", *SMALL, "--mode", "hosts", "--out", str(tmp_path / "out")], capsys)
    assert got.code == 2
    assert "iproute2" in got.stderr
    assert len(got.stderr.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs to be no root")
def test_hosts_without_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = call(lab, ["run", *SMALL, "--mode", "hosts", "--out", str(tmp_path / "out")], capsys)
    assert got.code == 2
    assert "need root" in got.stderr


def test_what_makes_numbers_worse_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "ENOUGH_CORES", 10_000)
    monkeypatch.setattr("os.getloadavg", lambda: (8.5, 8.5, 8.5))
    found = {each.name: each for each in doctor.warnings("emulated", tmp_path / "not-yet")}
    assert found.keys() >= {"cores", "other work"}
    assert doctor.warning_line(found["other work"]) == "other work: load 8.50 -> stop other programs while you measure"
    monkeypatch.setattr(doctor, "ENOUGH_CORES", 0)
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 8.5, 8.5))
    assert not {"cores", "other work"} & {each.name for each in doctor.warnings("emulated", tmp_path)}


def test_the_doctor_says_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    got = call(lab, ["doctor", "--json"], capsys)
    assert got.code == 0, got.stderr
    document = got.document
    assert "emulated" in document["modes"]
    assert ("hosts" in document["modes"]) == (not hosts.cannot())
    assert {"cores", "clock", "torch", "free disk"} <= {check["name"] for check in document["checks"]}
    assert all(check["to_do"] for check in document["checks"] if check["state"] == "missing")


def test_a_reaper_ends_what_it_was_told_of() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    with open_reaper() as held:
        held.note_process(sleeper.pid)
        with pytest.raises(AppError, match="false"):
            held.order(run=["false"])
        assert sleeper.poll() is None
    assert sleeper.wait(LONG_S) == -signal.SIGKILL


def test_no_command_and_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("-m", "lab").code == 2
    got = call(lab, ["dance"], capsys)
    assert got.code == 2
    assert "choose run" in got.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_kills_at_random_moments(mode: str, tmp_path: Path) -> None:
    for number in range(20):
        assert killed(tmp_path / "out", mode, 0.3 + 0.7 * number, f"{os.getpid()}-{number}") == []
        assert half_lines(tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / ENVIRONMENT).read_text())["mode"] == mode
    assert (tmp_path / "out" / SPEC).exists()


def test_settings_of_the_lab_are_not_those_of_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EDGE_CLOUD_PORT would be the port of every cloud of the lab, too."""
    monkeypatch.setenv("EDGE_CLOUD_PORT", "9999")
    monkeypatch.setenv("EDGE_CLOUD_TOKEN", "a good secret")
    code = "import os; print(*sorted(name for name in os.environ if name.startswith('EDGE_CLOUD_')))"
    with open_reaper() as kept, program(["-c", code], tmp_path / "log", kept) as running:
        assert running.line(LONG_S) == "EDGE_CLOUD_TOKEN\n"
