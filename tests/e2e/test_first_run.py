"""The scripts as a user runs them: real processes, real sockets, the whole of stdout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgecloud import edge_api
from edgecloud.engine import calibration
from edgecloud.engine.calibration import Calibration, Tried
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.zoo.le_net import LeNet
from tests.conftest import (
    ROOT,
    CallEdge,
    CloudProcess,
    at,
    call,
    processes_with,
    run_edge,
    running_cloud,
)

STAGES = ("edge_s", "transfer_s", "cloud_s", "total_s")


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
    assert {"boundary", "segments", "optimal", "gap", "cost", "keeps_up", "gain", "ends", "pays"} <= set(got["plan"])
    assert {"point", "layer", "boundary_bytes", *STAGES} <= set(got["candidates"][0])
    assert {"hidden_s", *STAGES} <= set(got["plan"]["predicted"])
    assert got["plan"]["overlap"] is None or got["plan"]["overlap"]["slices"]
    predicted = got["plan"]["predicted"]
    assert predicted["low_s"] < predicted["total_s"] < predicted["high_s"]
    assert (got["plan"]["moves"], got["plan"]["tries"]) == ([], 0), "a plan that is compared with both ends stays"
    assert {run["point"] for run in got["measured"]["repeats"]} == {got["plan"]["point"]}
    measured = {"edge_s", "encode_s", "transfer_s", "queue_s", "cloud_s", "total_s", "payload_bytes", "raw_bytes"}
    assert measured | {"repeats"} <= set(got["measured"])
    for run in got["measured"]["repeats"]:
        parts = run["edge_s"] + run["encode_s"] + run["transfer_s"] + run["queue_s"] + run["cloud_s"]
        assert parts == pytest.approx(run["total_s"] + run["hidden_s"])
    assert got["model"] == "le_net"
    assert got["weights"].startswith("sha256:")
    assert got["plan"]["predicted"]["total_s"] == min(c["total_s"] for c in got["candidates"])
    assert set(got["compare"]) == {"cloud", "edge"}
    ends = [each["total_s"] for each in got["compare"].values()]
    assert got["measured"]["gain"] == pytest.approx(min(ends) / got["measured"]["total_s"])
    assert got["plan"]["gain"] == pytest.approx(
        min(end["value"] for end in got["plan"]["ends"].values()) / got["plan"]["predicted"]["total_s"]
    )


def test_the_best_lossless_plan_is_measured_beside_one_with_a_budget(
    cloud: CloudProcess, tmp_path: Path, network: Callable[[str], TorchNetwork], capsys: pytest.CaptureFixture[str]
) -> None:
    subject = network("le_net")
    graph = subject.graph
    rows = tuple(Tried(graph.layers[point.layer].id, "int4", 100, 0, None, None, 0.1) for point in graph.points[1:-1])
    calibration.keep(tmp_path, Calibration("le_net", graph.digest, subject.weights.digest, "here", rows))
    where = ("--cache-dir", str(tmp_path), *at(cloud), "-t", "le_net", "--emulate-cpu", "0.02", "--threads", "1")
    flags = ("--bandwidth", "50kbit", "--accuracy-budget", "1%", "--compare", "--verify", "--json")
    got = call(edge_api.main, [*where, *flags], capsys).document
    assert got["plan"]["gain"] >= 1
    assert got["result"]["truth"] == "2"
    assert set(got["compare"]) == {"cloud", "edge", "lossless"}
    assert (got["compare"]["lossless"]["codec"] or "raw").split("+")[0] in ("raw", "zstd", "pixels")
    ends = [got["compare"][name]["total_s"] for name in ("cloud", "edge")]
    assert got["measured"]["gain"] == pytest.approx(min(ends) / got["measured"]["total_s"])
    assert got["verify"]["matches"]


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
    assert 1 / 7 < run.document["link"]["up_bytes_per_s"] / 2.5e6 < 3  # the loopback without it is far above that
    assert run.document["measured"]["transfer_s"] > 0.010
    own = [pid for pid in processes_with("exit-on-stdin-eof") if pid in processes_with(cache)]
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
        "transfer size",
        "predicted",
        "measured",
        "all on the cloud",
        "all on the edge",
        "gain:",
        "measured gain over the better end",
        "answer",
        "true label: 2, as answered",
        "matches the full model run locally",
    ):
        assert words in run.stdout, words
    assert "classifier" in run.stdout
    assert run.stderr == ""


def test_an_untrained_network_says_so(cloud: CloudProcess, edge: CallEdge) -> None:
    run = edge(*at(cloud), "-t", "mobilenet", "--point", "73")
    assert "untrained weights: the labels are meaningless; use --weights imagenet or FILE" in run.stdout
    run = edge(*at(cloud), "-t", "senna_chk", "--point", "1")
    assert "untrained weights: the labels are meaningless; use --weights FILE" in run.stdout  # nobody publishes any


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
