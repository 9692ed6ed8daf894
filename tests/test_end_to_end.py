"""The scripts as a user runs them: real processes, real sockets, the whole of stdout."""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import cloud_api
import deployment
import edge_api
from models import registry
from models.graph import LayerGraph
from models.zoo.le_net import LeNet
from net.link import LinkEstimate
from partition.cost import Part
from partition.decide import Goal, decide
from runtime.children import Child
from runtime.edge import Edge
from runtime.executor import Network, TorchExecutor
from runtime.single import problem_of
from runtime.times import measured
from tests.conftest import (
    LONG_S,
    ROOT,
    THREADS,
    CloudProcess,
    Finished,
    children_of,
    is_running,
    processes_with,
    run_edge,
    run_script,
    running_cloud,
    until,
)
from tests.test_split_equals_whole import random_cut, whole

STAGES = ("edge_s", "transfer_s", "cloud_s", "total_s")


CallEdge = Callable[..., Finished]


@pytest.fixture
def edge(cache: Path, capsys: pytest.CaptureFixture[str]) -> CallEdge:
    """edge_api.py in this process, which is quicker than starting another one."""

    def run(*arguments: str) -> Finished:
        return call(edge_api.main, ["--cache-dir", str(cache), "--threads", THREADS, *arguments], capsys)

    return run


def at(cloud: CloudProcess) -> tuple[str, ...]:
    return ("-i", "127.0.0.1", "-p", str(cloud.port))


def test_le_net_reads_its_digit_split_over_the_network(cloud: CloudProcess, cache: Path) -> None:
    run = run_edge(cache, *at(cloud), "-t", "le_net", "--point", "3", "--repeat", "3", "--verify", "--json")
    assert run.code == 0, run.stderr
    got = run.document
    assert got["completed_by"] == "split"
    assert got["verify"] == {"matches": True, "max_abs_diff": pytest.approx(0, abs=1e-5)}
    assert got["result"]["top"][0]["label"] == "2"
    assert got["result"]["top"][0]["probability"] > 0.9
    assert got["result"]["shape"] == [1, 10]
    assert got["plan"]["point"] == 3
    assert got["plan"]["layer"] == "features.2"
    assert (got["plan"]["head"], got["plan"]["tail"]) == (3, 9)
    assert got["plan"]["method"] == "given"
    assert got["link"]["source"] == "probe"
    assert len(got["candidates"]) == 13
    assert len(got["measured"]["repeats"]) == 3
    assert got["measured"]["payload_bytes"] == 6 * 14 * 14 * 4


def test_the_document_has_every_promised_key(cloud: CloudProcess, edge: CallEdge) -> None:
    got = edge(*at(cloud), "-t", "le_net", "--json", "--compare", "--verify").document
    assert {
        "model",
        "weights",
        "input",
        "link",
        "plan",
        "candidates",
        "measured",
        "result",
        "verify",
        "completed_by",
    } <= set(got)
    assert {"up_bytes_per_s", "down_bytes_per_s", "rtt_s", "source"} == set(got["link"])
    assert {"point", "layer", "head", "tail", "objective", "codec", "method", "decision_s", "predicted"} <= set(
        got["plan"]
    )
    assert {"boundary", "segments", "optimal", "gap", "cost", "keeps_up"} <= set(got["plan"])
    assert {"point", "layer", "boundary_bytes", *STAGES} <= set(got["candidates"][0])
    assert set(STAGES) <= set(got["plan"]["predicted"])
    measured = {"edge_s", "encode_s", "transfer_s", "queue_s", "cloud_s", "total_s", "payload_bytes", "raw_bytes"}
    assert measured | {"repeats"} <= set(got["measured"])
    for run in got["measured"]["repeats"]:
        parts = run["edge_s"] + run["encode_s"] + run["transfer_s"] + run["queue_s"] + run["cloud_s"]
        assert parts == pytest.approx(run["total_s"])
    assert got["model"] == "le_net"
    assert got["weights"].startswith("sha256:")
    assert got["plan"]["predicted"]["total_s"] == min(c["total_s"] for c in got["candidates"])
    assert set(got["compare"]) == {"cloud", "edge"}


@pytest.mark.parametrize(("point", "by"), [("0", "cloud"), ("12", "edge")])
def test_both_ends(point: str, by: str, cloud: CloudProcess, edge: CallEdge) -> None:
    got = edge(*at(cloud), "-t", "le_net", "--point", point, "--verify", "--json").document
    assert got["completed_by"] == by
    assert got["verify"]["matches"]


def test_all_on_the_edge_needs_no_cloud(edge: CallEdge) -> None:
    for where in (("-i", "127.0.0.1", "-p", "1"), ()):
        run = edge(*where, "-t", "le_net", "--point", "12", "--verify", "--json")
        assert run.code == 0, run.stderr
        assert run.document["completed_by"] == "edge"
        assert run.document["link"]["source"] == "none"
        assert [c["point"] for c in run.document["candidates"]] == [12]
        assert run.document["measured"]["payload_bytes"] == 0


def test_without_an_address_a_cloud_is_started_and_stopped(cache: Path) -> None:
    run = run_edge(cache, "-t", "le_net", "--point", "2", "--verify", "--emulate-link", "20mbit,10ms", "--json")
    assert run.code == 0, run.stderr
    assert run.document["verify"]["matches"]
    assert 1 / 3 < run.document["link"]["up_bytes_per_s"] / 2.5e6 < 3  # the loopback without it is far above that
    assert run.document["measured"]["transfer_s"] > 0.010
    own = [pid for pid in processes_with("until-stdin-closes") if pid in processes_with(cache)]
    assert not own


def test_the_text_shows_cut_reasons_stages_and_answer(
    cloud: CloudProcess, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = ("--emulate-link", "2mbit,10ms", "--emulate-cpu", "0.05")
    flags = ("--cache-dir", str(cache), *at(cloud), "-t", "le_net", "--verify", "--compare", "--repeat", "2")
    run = call(edge_api.main, [*flags, *link], capsys)
    assert run.code == 0, run.stderr
    for words in (
        "round trip",
        "point",
        "crosses",
        "predicted",
        "measured",
        "all on the cloud",
        "all on the edge",
        "answer",
        "equals the whole network",
    ):
        assert words in run.stdout, words
    assert "classifier" in run.stdout
    assert run.stderr == ""


def test_an_untrained_network_says_so(cloud: CloudProcess, edge: CallEdge) -> None:
    run = edge(*at(cloud), "-t", "mobilenet", "--point", "73")
    assert "untrained" in run.stdout


@pytest.mark.parametrize("bandwidth", ["5mbit", "1gbit"])
def test_a_given_bandwidth_is_taken_and_not_measured(bandwidth: str, cloud: CloudProcess, edge: CallEdge) -> None:
    got = edge(*at(cloud), "-t", "le_net", "--bandwidth", bandwidth, "--json").document
    assert got["link"]["source"] == "given"
    assert got["link"]["up_bytes_per_s"] == {"5mbit": 625_000, "1gbit": 125_000_000}[bandwidth]


# --- inputs and weights


def test_a_picture_and_an_array_of_the_users(cloud: CloudProcess, edge: CallEdge, tmp_path: Path) -> None:
    digit = Image.open(ROOT / "models" / "zoo" / "digit.png")
    digit.save(tmp_path / "mine.bmp")
    np.save(
        tmp_path / "mine.npy", np.asarray(digit.resize((28, 28), Image.Resampling.BILINEAR), np.float32)[None] / 255
    )
    for flag, name in (("--image", "mine.bmp"), ("--input", "mine.npy")):
        run = edge(*at(cloud), "-t", "le_net", flag, str(tmp_path / name), "--point", "5", "--json", "--verify")
        assert run.document["result"]["top"][0]["label"] == "2"
        assert run.document["input"].endswith(name)


def test_both_sides_with_the_same_file_of_weights(cache: Path, edge: CallEdge, tmp_path: Path) -> None:
    torch.manual_seed(5)
    path = tmp_path / "w.safetensors"
    save_file(LeNet().state_dict(), path)
    flags = ("-t", "le_net", "--point", "3", "--verify", "--json", "--weights", str(path))
    with running_cloud(cache, "--weights", f"le_net={path}") as cloud:
        run = edge(*at(cloud), *flags)
        assert run.code == 0, run.stderr
        assert run.document["verify"]["matches"]
        assert run.document["weights_origin"] == f"file {path}"
        other = edge(*at(cloud), "-t", "le_net", "--point", "3")
        assert other.code == 4
        assert "weights differ" in other.stderr


def test_a_decision_runs_nothing(
    connected: Callable[[str], Edge], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = connected("le_net")
    edge_s = measured(edge.executor, cache).seconds

    def run(*_: object) -> None:
        raise AssertionError("a decision ran the network")

    monkeypatch.setattr(TorchExecutor, "run", run)
    monkeypatch.setattr(torch.fx.GraphModule, "__call__", run)
    link = LinkEstimate(1e6, 1e6, 0.01, "given")
    assert len(decide(problem_of(edge, edge_s, link, edge.status(10.0)), Goal()).candidates) == 13


# --- any graph, several tensors, over a real socket


@pytest.fixture
def connected(cloud: CloudProcess, network: Callable[[str], Network]) -> Iterator[Callable[[str], Edge]]:
    """Edges in this process, connected to the real cloud."""
    made: list[Edge] = []

    def build(name: str) -> Edge:
        subject = network(name)
        edge = Edge(registry.find(name), subject, TorchExecutor(subject, torch.device("cpu")))
        edge.greet("127.0.0.1", cloud.port, "", 120.0)
        made.append(edge)
        return edge

    yield build
    for edge in made:
        edge.close()


@pytest.mark.parametrize("name", ["alex_net", "torchvision:resnet18", "torchvision:shufflenet_v2_x0_5"])
def test_split_equals_whole_over_a_real_socket(name: str, connected: Callable[[str], Edge]) -> None:
    edge = connected(name)
    graph: LayerGraph = edge.graph
    expected = whole(edge.network)
    rng = random.Random(6)
    for head in [random_cut(graph, rng) for _ in range(6)]:
        answered = edge.infer(np.asarray(edge.network.example.tensor), head, 60.0)
        np.testing.assert_allclose(answered.outputs[0], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert answered.outputs[0].argmax() == expected.argmax()
        assert answered.measured.payload_bytes == graph.bytes_of(graph.boundary(head))


@pytest.mark.parametrize("name", ["alex_net", "torchvision:resnet18"])
def test_parts_that_go_back_and_forth_give_the_whole_networks_answer(
    name: str, connected: Callable[[str], Edge]
) -> None:
    """The edge goes on from what comes back, and the cloud from what comes again."""
    edge = connected(name)
    x, expected, rng = np.asarray(edge.network.example.tensor), whole(edge.network), random.Random(8)
    for _ in range(5):
        parts = random_parts(edge.graph, rng)
        answered = edge.infer_parts(x, parts, 60.0)
        np.testing.assert_allclose(answered.outputs[0], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        sent = sum(edge.graph.bytes_of(edge.graph.inputs_of(p.layers)) for p in parts if p.place == "cloud")
        assert answered.measured.payload_bytes == sent
        assert (x == np.asarray(edge.network.example.tensor)).all()


def random_parts(graph: LayerGraph, rng: random.Random) -> list[Part]:
    """Four parts or more, cut at points."""
    inner = sorted(rng.sample([point.layer for point in graph.points[:-1]], 4))
    ends = [*inner, len(graph.layers) - 1]
    parts = [Part("edge", frozenset(range(ends[0] + 1)))]
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        parts.append(Part("edge" if number % 2 else "cloud", frozenset(range(begin + 1, end + 1))))
    return parts


@pytest.mark.parametrize(
    ("flags", "objective", "method"),
    [
        (("--objective", "energy"), "energy", "chain"),
        (("--objective", "weighted", "--seconds-per-joule", "0.5", "--method", "mincut"), "weighted", "mincut"),
        (("--objective", "throughput"), "throughput", "chain"),
        (("--objective", "auto", "--rate", "0.01"), "latency", "chain"),
        (("--max-cost", "1e-5", "--cloud-price", "1"), "latency", "placement"),
    ],
)
def test_every_objective_runs_and_gives_the_same_answer(
    flags: tuple[str, ...], objective: str, method: str, cloud: CloudProcess, edge: CallEdge
) -> None:
    run = edge(*at(cloud), "-t", "le_net", *flags, "--verify", "--json")
    assert run.code == 0, run.stderr
    plan = run.document["plan"]
    assert run.document["verify"]["matches"]
    assert (plan["objective"], plan["method"], plan["optimal"]) == (objective, method, True)
    layers = [layer for part in plan["segments"] for layer in part["layers"]]
    assert len(layers) == len(set(layers)) == 13
    if method == "placement":
        assert plan["cost"] <= 1e-5


SLOW = ("--emulate-link", "100kbit,1ms", "--bandwidth", "100kbit")
"""So slow that the codec with the fewest bytes is the fastest, however long this machine takes for packing."""


def test_what_travels_is_packed_and_the_answer_is_the_same(cloud: CloudProcess, edge: CallEdge) -> None:
    slow = (*at(cloud), "-t", "le_net", "--point", "0", *SLOW, "--verify", "--json")
    raw = edge(*slow, "--codec", "raw").document
    auto = edge(*slow).document
    assert (raw["plan"]["codec"], auto["plan"]["codec"]) == ("raw", "pixels+zstd")
    assert raw["measured"]["payload_bytes"] == raw["measured"]["raw_bytes"] == auto["measured"]["raw_bytes"] == 3136
    assert auto["measured"]["payload_bytes"] < 3136 / 4
    assert auto["verify"] == {"matches": True, "max_abs_diff": 0.0}
    assert auto["plan"]["predicted"]["encode_s"] > 0
    assert auto["candidates"][0]["boundary_bytes"] == auto["measured"]["payload_bytes"]


@pytest.mark.parametrize("name", ["fp16", "int8", "int8+zstd", "int4c+zstd"])
def test_a_lossy_codec_that_is_asked_for_gives_the_same_top_1(name: str, cloud: CloudProcess, edge: CallEdge) -> None:
    got = edge(*at(cloud), "-t", "le_net", "--point", "6", "--codec", name, "--verify", "--json").document
    assert got["plan"]["codec"] == name
    assert got["measured"]["payload_bytes"] < got["measured"]["raw_bytes"]
    assert got["verify"]["matches"]
    assert got["verify"]["max_abs_diff"] > 0


def test_lossy_codecs_are_chosen_only_where_they_were_calibrated(
    cloud: CloudProcess,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if (cache / "profiles").is_dir():
        shutil.copytree(cache / "profiles", tmp_path / "profiles")  # layers that were measured need not be again
    command = ["--cache-dir", str(tmp_path), "--threads", THREADS, *at(cloud), "-t", "le_net", "--point", "6", "--json"]
    slow = [*command, *SLOW, "--verify", "--accuracy-budget", "1%"]
    without = call(edge_api.main, slow, capsys)
    assert without.document["plan"]["codec"] in ("raw", "zstd")
    assert "deployment.py calibrate -t le_net" in caplog.text
    assert deployment.main(["calibrate", "-t", "le_net", "--cache-dir", str(tmp_path), "--threads", THREADS]) == 0
    capsys.readouterr()
    found = call(edge_api.main, slow, capsys).document
    assert found["plan"]["codec"].startswith("int")
    assert found["verify"]["matches"]
    assert found["measured"]["payload_bytes"] < found["measured"]["raw_bytes"] / 4
    strict = call(edge_api.main, [*command, *SLOW], capsys).document
    assert strict["plan"]["codec"] in ("raw", "zstd")


def test_one_connection_carries_many_inferences(connected: Callable[[str], Edge], cloud: CloudProcess) -> None:
    edge = connected("le_net")
    x, head = np.asarray(edge.network.example.tensor), edge.graph.head_at(3)
    edge.infer(x, head, 30.0)  # with the first answer comes the thread that sends answers
    threads, descriptors = cloud.threads, cloud.descriptors
    answers = [edge.infer(x, head, 30.0).outputs[0] for _ in range(200)]
    assert all((answer == answers[0]).all() for answer in answers)
    assert (cloud.threads, cloud.descriptors) == (threads, descriptors)


# --- bad input: a clear line, the right exit code, and the cloud still serving


def call(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Finished:
    """A script's main, in this process: starting another one for every wrong argument would take minutes."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    return Finished(subprocess.CompletedProcess(arguments, code, *capsys.readouterr()))


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
        (("-t", "le_net", "--image", "README.md"), 2, ("README.md", "not a picture")),
        (("-t", "le_net", "--input", "README.md"), 2, ("README.md",)),
        (("-t", "le_net", "-i", "a..b", "--point", "0"), 3, ("no cloud at",)),
        (("-t", "le_net", "--input", "a.npy", "--image", "b.png"), 2, ("not both",)),
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


def test_without_a_stderr_stdout_is_still_one_document(cache: Path) -> None:
    command = f"{sys.executable} edge_api.py --cache-dir {cache} --json"
    for wrong, words, redirect in (
        ("-t nope", "unknown network", "2>&-"),
        ("-t le_net --point x", "--point", "2>/dev/full"),
        ("-t le_net --point x", "--point", "2>&-"),
    ):
        run = subprocess.run(["bash", "-c", f"{command} {wrong} {redirect}"], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 2
        assert words in json.loads(run.stdout)["error"]["message"]


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
        (("-i", "no.such.host.invalid"), 2, ("no address",)),
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
        run = edge("-i", "127.0.0.1", "-p", str(listener.getsockname()[1]), "-t", "le_net")
        thread.join()
    assert_refused(run, 1, "not this protocol")


def test_a_silent_server_ends_at_the_timeout(edge: CallEdge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = ("-i", "127.0.0.1", "-p", str(listener.getsockname()[1]))
        run = edge(*place, "-t", "le_net", "--ready-timeout", "1s")
    assert_refused(run, 5, "--ready-timeout")


@pytest.mark.parametrize("fault", [("--cut-at", "3000"), ("--freeze-at", "3000")])
def test_a_link_that_dies_under_an_inference_is_a_clear_end(
    fault: tuple[str, str], cloud: CloudProcess, edge: CallEdge
) -> None:
    relay = subprocess.Popen(
        [sys.executable, "-m", "lab.relay", "--to", "127.0.0.1", str(cloud.port), "--link", "10mbit", *fault],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert relay.stdout is not None
        port = relay.stdout.readline().strip().rpartition(":")[2]
        flags = ("-t", "le_net", "--point", "0", "--codec", "raw", "--bandwidth", "10mbit", "--fallback", "off")
        run = edge("-i", "127.0.0.1", "-p", port, *flags, "--timeout", "2s")
    finally:
        relay.kill()
        relay.communicate()
    if fault[0] == "--cut-at":
        assert_refused(run, 1, "connection")
    else:
        assert_refused(run, 5, "--timeout")


def maps_torch(pid: int) -> bool:
    """Whether a process is loading torch, or has."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("moment", ["while it loads torch", "once its cloud and its link run"])
def test_ctrl_c_ends_with_130_and_leaves_no_process(moment: str, tmp_path: Path) -> None:
    command = [sys.executable, "edge_api.py", "--cache-dir", str(tmp_path), "--threads", THREADS, "-t", "le_net"]
    process = subprocess.Popen(
        [*command, "--repeat", "100000", "--emulate-link", "10mbit"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if moment == "while it loads torch":
        until(lambda: maps_torch(process.pid))
    else:
        until(lambda: len(children_of(process.pid)) == 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    until(lambda: not processes_with(tmp_path))


def test_a_child_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.children.STOP_S", 0.3)
    code = "import sys, time; print('listening on 127.0.0.1:1', flush=True); time.sleep(60)"
    child = Child(["-c", code])
    assert child.address() == ("127.0.0.1", 1)
    child.stop()
    assert child._process.returncode is not None


def test_a_cloud_with_a_smaller_limit_still_serves(cache: Path, edge: CallEdge) -> None:
    with running_cloud(cache, "--max-payload", "100kB") as small:
        run = edge(*at(small), "-t", "mobile_net", "--codec", "raw", "--json", "--verify")
        assert run.code == 0, run.stderr
        assert run.document["measured"]["payload_bytes"] <= 100_000
        assert_refused(edge(*at(small), "-t", "mobile_net", "--point", "0"), 1, "the limit is 100000")


def test_nobody_behind_an_emulated_link_is_the_same_error(edge: CallEdge) -> None:
    assert_refused(edge("-p", "1", "-t", "le_net", "--emulate-link", "5mbit"), 3, "no cloud at 127.0.0.1:1")


def test_output_that_nobody_takes_is_no_traceback(cloud: CloudProcess, cache: Path) -> None:
    command = f"{sys.executable} edge_api.py --cache-dir {cache} -p {cloud.port} -t le_net --point 3"
    for redirect, code in (("| head -1; exit ${PIPESTATUS[0]}", 0), ("--json > /dev/full", 1)):
        run = subprocess.run(["bash", "-c", f"{command} {redirect}"], cwd=ROOT, capture_output=True, text=True)
        assert (run.returncode, "Traceback" in run.stderr) == (code, False), run.stderr


def test_children_end_with_an_edge_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "edge_api.py", "--cache-dir", str(tmp_path), "-t", "le_net"]
    process = subprocess.Popen(
        [*command, "--repeat", "100000", "--emulate-link", "10mbit"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: len(children_of(process.pid)) == 2)
    children = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(map(is_running, children)))


@pytest.mark.parametrize("script", ["edge_api.py", "cloud_api.py", "tasks_edge_api.py", "tasks_cloud_api.py"])
def test_help_and_version_load_no_torch(script: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = [{script!r}, sys.argv[1]]\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end: print('torch' in sys.modules, end.code)"
    )
    for flag, words in (("--help", "--port"), ("--version", "0.1.0")):
        run = run_script("-c", code, flag)
        assert words in run.stdout
        assert run.stdout.splitlines()[-1] == "False 0"
