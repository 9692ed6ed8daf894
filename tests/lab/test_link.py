"""python -m lab link: what the probe sees, beside iperf3, whatever that says."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from edgecloud.client.subprocesses import emulated_link
from edgecloud.lab import link
from edgecloud.lab.__main__ import main as lab
from edgecloud.lab.link import IperfError
from tests.conftest import CloudProcess, call, run_script


def test_it_sees_the_rates_of_the_link_and_says_what_is_missing(
    cloud: CloudProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    with emulated_link("127.0.0.1", cloud.port, "5mbit,10ms,50mbit") as relay:
        where = f"127.0.0.1:{relay.address()[1]}"
        # nobody listens on port 1, and iperf3 need not be there at all
        done = call(lab, ["link", where, "--repeat", "2", "--iperf-port", "1", "--json"], capsys)
        assert done.code == 0, done.stderr
        found = done.document
        shown = run_script("-m", "lab", "link", where, "--repeat", "1", "--no-iperf")
    # a busy machine makes it less, but the one is not taken for the other, or for loopback
    assert 1 / 7 < found["up_bytes_per_s"]["median"] * 8e-6 / 5 < 3
    assert 1 / 7 < found["down_bytes_per_s"]["median"] * 8e-6 / 50 < 3
    assert found["rtt_s"]["median"] >= 0.01
    assert len(found["probes"]) == 2
    assert found["iperf3"] is None
    assert "iperf3" in found["iperf3_missing"]
    assert shown.code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == ["upload", "download", "round", "iperf3"]


def test_nobody_there_and_bad_arguments_have_their_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["127.0.0.1:1"], 3), (["127.0.0.1"], 2), (["127.0.0.1:1", "-t", "no_net"], 2)):
        done = call(lab, ["link", *arguments, "--json"], capsys)
        assert (done.code, done.stderr.count("\n")) == (code, 1)
        assert "error" in done.document


def test_the_middle_the_ends_and_the_spread() -> None:
    assert link.summary([4.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 4.0, "spread": 1.5}


def said(rate: object, mean_rtt: object = None) -> bytes:
    sender = {} if mean_rtt is None else {"mean_rtt": mean_rtt}
    return json.dumps({"end": {"sum_received": {"bits_per_second": rate}, "streams": [{"sender": sender}]}}).encode()


def test_what_iperf3_says_is_read() -> None:
    assert link.parse(said(8e6, 20_000)) == (1e6, 0.02)
    assert link.parse(said(8e6)) == (1e6, None)
    with pytest.raises(IperfError, match=r"iperf3: 'no\\x1b\[1mroute'"):
        link.parse(json.dumps({"error": "no\x1b[1mroute"}).encode())
    with pytest.raises(IperfError, match="too long"):
        link.parse(b" " * (link.MOST_JSON_BYTES + 1))


WRONG = [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"end": {"sum_received": 3}}', b'{"end": null}', b'"error"']


@pytest.mark.parametrize(
    "output", [*WRONG, said(0), said(-1), said("8"), said(float("nan")), said(1e300), said(True), said(8e6, -3)]
)
def test_what_is_no_measurement_is_one_line(output: bytes) -> None:
    with pytest.raises(IperfError) as found:
        link.parse(output)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("script", "words"), [("exec yes", "too long"), ("exec sleep 60", "timed out"), ("exit 1", "timed out")]
)
def test_an_iperf3_that_misbehaves_is_ended(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "iperf3"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(link, "IPERF_SPARE_S", -0.5)
    with pytest.raises(IperfError, match=words):
        link.iperf("127.0.0.1", 1, 1)


def test_no_iperf3_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IperfError, match="not installed"):
        link.iperf("127.0.0.1", 1, 1)


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_a_real_iperf3_is_understood() -> None:
    port = 47_000 + time.time_ns() % 1000
    with subprocess.Popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(50):  # until it listens
                try:
                    found = link.iperf("127.0.0.1", port, 1)
                    break
                except IperfError:
                    time.sleep(0.1)
        finally:
            server.kill()
    assert found.up_bytes_per_s > 1e6
    assert found.down_bytes_per_s > 1e6
    assert found.rtt_s is not None
    assert found.rtt_s > 0
