"""Bad input to the scripts: a clear line, the right exit code, and the cloud still serving."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgecloud import cloud_api, edge_api, tasks_edge_api
from tests.conftest import (
    ROOT,
    CallEdge,
    CloudProcess,
    Finished,
    at,
    call,
    running_cloud,
)


def assert_refused(run: Finished, code: int, *words: str) -> None:
    assert run.code == code, (run.code, run.stdout, run.stderr)
    lines = run.stderr.strip().splitlines()
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in lines[-1], run.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-t", "nope"), 2, ("unknown network 'nope'", "alex_net")),
        (("-t", "torchvision:nope"), 2, ("unknown network",)),
        ((), 2, ("--type",)),
        (("-t", "le_net", "--point", "13"), 2, ("no point 13", "to 12")),
        (("-t", "le_net", "--point", "-1"), 2, ("--point",)),
        (("-t", "le_net", "--point", "x"), 2, ("--point",)),
        (("-t", "le_net", "--repeat", "0"), 2, ("--repeat",)),
        (("-t", "le_net", "--bandwidth", "5"), 2, ("--bandwidth", "mbit")),
        (("-t", "le_net", "--bandwidth", "0mbit"), 2, ("above zero",)),
        (("-t", "le_net", "--emulate-cpu", "0"), 2, ("--emulate-cpu", "above 0")),
        (("-t", "le_net", "--emulate-cpu", "nan"), 2, ("--emulate-cpu",)),
        (("-t", "le_net", "--emulate-link", "fast"), 2, ("rate",)),
        (("-t", "le_net", "--timeout", "0"), 2, ("--timeout",)),
        (("-t", "le_net", "-p", "70000"), 2, ("--port",)),
        (("-t", "le_net", "-d", "cuda:9"), 2, ("CUDA",)),
        (("-t", "le_net", "-d", "abacus"), 2, ("abacus",)),
        (("-t", "le_net", "--image", "none.png"), 2, ("none.png",)),
        (("-t", "le_net", "--image", "README.md"), 2, ("README.md", "is not an image")),
        (("-t", "le_net", "--input", "README.md"), 2, ("README.md",)),
        (("-t", "le_net", "-i", "a..b", "--point", "0"), 3, ("no cloud at",)),
        (("-t", "le_net", "--input", "a.npy", "--image", "b.png"), 2, ("--image", "cannot be combined")),
        (("-t", "le_net", "--weights", "none.safetensors"), 2, ("none.safetensors",)),
        (("-t", "alex_net", "--weights", "models/zoo/le_net.safetensors"), 4, ("alex_net", "le_net.safetensors")),
        (("-t", "le_net", "--weights", "imagenet"), 2, ("no ImageNet weights",)),
        (("-t", "le_net", "-i", "127.0.0.1", "-p", "1"), 3, ("no cloud at 127.0.0.1:1",)),
        (("-t", "le_net", "-i", "no.such.host.invalid"), 3, ("no cloud at",)),
        (("-t", "le_net", "--unknown"), 2, ("--unknown",)),
        (("-t", "le_net", "--point", "3", "--method", "mincut"), 2, ("--point", "--method")),
        (("-t", "le_net", "--objective", "auto"), 2, ("--rate",)),
        (("-t", "le_net", "--codec", "nope"), 2, ("no codec 'nope'", "int8+zstd")),
        (("-t", "le_net", "--accuracy-budget", "5"), 2, ("--accuracy-budget", "100%")),
        (("-t", "le_net", "--max-cost", "1"), 2, ("--cloud-price",)),
        (("-t", "le_net", "--max-cost", "nan", "--cloud-price", "1"), 2, ("--max-cost",)),
        (("-t", "le_net", "--token-file", "none"), 2, ("token file",)),
    ],
)
def test_bad_arguments_of_the_edge(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(call(edge_api.main, ["--cache-dir", str(cache), *arguments], capsys), code, *words)


def test_with_json_a_wrong_flag_is_a_document_too(edge: CallEdge) -> None:
    run = edge("-t", "le_net", "--json", "--point", "x")
    assert run.code == 2
    assert "--point" in run.document["error"]["message"]


def test_with_json_an_error_is_a_document_too(edge: CallEdge) -> None:
    run = edge("-t", "le_net", "--json", "-i", "127.0.0.1", "-p", "1")
    assert run.code == 3
    assert run.document["error"]["code"] == "CANNOT_CONNECT"
    assert "no cloud" in run.document["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-i", "0.0.0.0"), 2, ("--token-file", "--insecure")),
        (("-i", "no.such.host.invalid"), 2, ("cannot listen", "no such address")),
        (("-d", "cuda:9"), 2, ("CUDA",)),
        (("--weights", "le_net=none.pt", "-p", "0"), 2, ("none.pt",)),
        (("--weights", "alex_net=models/zoo/le_net.safetensors", "-p", "0"), 4, ("alex_net",)),
        (("--weights", "nope=x.pt", "-p", "0"), 2, ("unknown network",)),
        (("--weights", "=x"), 2, ("MODEL=SOURCE",)),
        (("--max-payload", "64"), 2, ("--max-payload",)),
        (("--max-payload", "64B"), 2, ("at least 64 KiB",)),
        (("--max-queue", "0"), 2, ("--max-queue",)),
    ],
)
def test_bad_arguments_of_the_cloud(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(call(cloud_api.main, ["--cache-dir", str(cache), *arguments], capsys), code, *words)


def test_a_port_that_is_taken(cache: Path, cloud: CloudProcess, capsys: pytest.CaptureFixture[str]) -> None:
    run = call(cloud_api.main, ["--cache-dir", str(cache), "-p", str(cloud.port)], capsys)
    assert_refused(run, 3, f"cannot listen on 127.0.0.1:{cloud.port}")


def test_a_server_of_another_protocol_is_no_cloud(edge: CallEdge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        place = ("-i", "127.0.0.1", "-p", str(listener.getsockname()[1]))
        run = edge(*place, "-t", "le_net", "--fallback", "off")
        thread.join()
    assert_refused(run, 1, "not this protocol")


def test_a_silent_server_ends_at_the_timeout(edge: CallEdge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = ("-i", "127.0.0.1", "-p", str(listener.getsockname()[1]))
        run = edge(*place, "-t", "le_net", "--ready-timeout", "1s", "--fallback", "off")
    assert_refused(run, 5, "--ready-timeout")


@pytest.mark.parametrize("fault", [("--cut-at", "3000"), ("--freeze-at", "3000")])
def test_a_link_that_dies_under_an_inference_is_a_clear_end(
    fault: tuple[str, str], cloud: CloudProcess, edge: CallEdge
) -> None:
    relay = subprocess.Popen(
        [sys.executable, "-m", "edgecloud.lab.relay", "--to", "127.0.0.1", str(cloud.port), "--link", "10mbit", *fault],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert relay.stdout is not None
        port = relay.stdout.readline().strip().rpartition(":")[2]
        flags = ("-t", "le_net", "--point", "0", "--codec", "raw", "--bandwidth", "10mbit", "--fallback", "off")
        timeout = "60s" if fault[0] == "--cut-at" else "2s"
        run = edge("-i", "127.0.0.1", "-p", port, *flags, "--timeout", timeout)
    finally:
        relay.kill()
        relay.communicate()
    if fault[0] == "--cut-at":
        assert_refused(run, 1, "connection")
    else:
        assert_refused(run, 5, "--timeout")


WIDE = """
from torch import nn
INPUT_SHAPE = (3, 96, 96)
def build():
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 23 * 23, 10))
"""
"""A network whose input takes 111 kB, and everything else less than 17."""


def test_a_cloud_with_a_smaller_limit_still_serves(
    cache: Path, edge: CallEdge, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wide = tmp_path / "wide.py"
    wide.write_text(WIDE)
    with running_cloud(cache, "--max-payload", "100kB", "--network", str(wide)) as small:
        run = edge(*at(small), "-t", str(wide), "--codec", "raw", "--json", "--verify")
        assert run.code == 0, run.stderr
        assert run.document["measured"]["payload_bytes"] <= 100_000
        all_there = ("-t", str(wide), "--point", "0")
        assert_refused(edge(*at(small), *all_there, "--fallback", "off"), 1, "the limit is 100000")
        run = edge(*at(small), *all_there, "--json", "--verify")
        assert (run.code, run.document["completed_by"], run.document["verify"]["matches"]) == (0, "fallback", True)
        assert "the limit is 100000" in run.document["measured"]["repeats"][0]["fallback"]["reason"]
        flags = ["--cache-dir", str(cache), *at(small), "-t", str(wide), "--tasks", "2", "--verify", "--json"]
        tasks = call(tasks_edge_api.main, flags, capsys)
        assert (tasks.code, tasks.document["summary"]["wrong"]) == (0, 0)
        assert tasks.document["summary"]["connects"] == 1


def test_nobody_behind_an_emulated_link_is_the_same_error(edge: CallEdge) -> None:
    assert_refused(edge("-p", "1", "-t", "le_net", "--emulate-link", "5mbit"), 3, "no cloud at 127.0.0.1:1")
