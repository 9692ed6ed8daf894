"""deployment.py plan: from a file of numbers or from kept profiles, without torch and without a socket."""

import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecloud import deployment, edge_api
from edgecloud.cli import plan_report
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import graph_json
from edgecloud.models.graph import LayerGraph
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import learned_file
from edgecloud.net.convolutions import Geometry
from edgecloud.partition.cost import Part, Power, predict
from edgecloud.predictor import store
from edgecloud.predictor.quota import Quota
from edgecloud.tools.whatif import PlanConfig, plan, problem_of, to_document
from edgecloud.utils.errors import UsageError
from tests import learned
from tests.conftest import ROOT, THREADS, CloudProcess, at, call
from tests.models.test_graph import random_graph
from tests.partition.test_chain import random_problem

LINK = ("--bandwidth", "5mbit", "--rtt", "20ms")


def example() -> dict[str, Any]:
    """The file of docs/planning.md."""
    text = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text.split("```json\n", 1)[1].split("```", 1)[0])
    return document


def with_packed(loss: float) -> list[dict[str, Any]]:
    """The layers of the example, the tensor after pool1 also in a tenth of its bytes for some accuracy."""
    packed = {"codec": "ec4", "bytes": 20_000, "loss": loss}
    return [row | ({"packed": [packed]} if row["id"] == "pool1" else {}) for row in example()["layers"]]


@pytest.fixture
def graph_file(tmp_path: Path) -> Callable[..., Path]:
    """Write the example, changed."""

    def write(text: str | None = None, **change: Any) -> Path:
        path = tmp_path / "graph.json"
        path.write_text(json.dumps(example() | change) if text is None else text, encoding="utf-8")
        return path

    return write


def run(*arguments: object) -> int:
    """The script's main, in this process."""
    try:
        return deployment.main(["plan", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def document_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What --json prints."""
    assert run(*arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_plan_of_the_example(graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = document_of(capsys, "--graph", graph_file(), *LINK)
    rows = {row["id"]: row for row in example()["layers"]}
    upload_s = rows["pool1"]["out_bytes"] / 625_000
    expected = rows["conv1"]["edge_s"] + rows["pool1"]["edge_s"] + 0.02 + upload_s
    expected += rows["conv2"]["cloud_s"] + rows["fc"]["cloud_s"] + example()["result_bytes"] / 625_000
    assert found["predicted"]["total_s"] == pytest.approx(expected)
    assert (found["objective"], found["method"], found["optimal"]) == ("latency", "chain", True)
    assert (found["head"], found["boundary"], found["point"]) == (["input", "conv1", "pool1"], ["pool1"], 2)
    assert found["segments"] == [
        {"place": "edge", "layers": ["input", "conv1", "pool1"]},
        {"place": "cloud", "layers": ["conv2", "fc"]},
    ]
    assert found["decision_s"] > 0
    assert found["energy_j"] > 0
    assert [region["from_bytes_per_s"] for region in found["map"]] == sorted(
        region["from_bytes_per_s"] for region in found["map"]
    )


def test_load_queue_download_and_a_slower_edge_count(
    graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = graph_file()
    more = ("--load", "3", "--queue", "10ms", "--download", "1mbit", "--emulate-cpu", "0.5")
    found = document_of(capsys, "--graph", path, *LINK, *more)
    point = found["candidates"][2]
    rows = {row["id"]: row for row in example()["layers"]}
    assert point["edge_s"] == pytest.approx(2 * (rows["conv1"]["edge_s"] + rows["pool1"]["edge_s"]))
    assert point["cloud_s"] == pytest.approx(3 * (rows["conv2"]["cloud_s"] + rows["fc"]["cloud_s"]))
    assert point["queue_s"] == pytest.approx(0.01)
    assert point["download_s"] == pytest.approx(example()["result_bytes"] / 125_000)


def test_a_limit_of_cost_gives_parts_in_order(
    graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = document_of(capsys, "--graph", graph_file(), *LINK, "--max-cost", "0.03", "--cloud-price", "1")
    assert found["method"] == "placement"
    assert found["cost"] <= 0.03
    assert [layer for part in found["segments"] for layer in part["layers"]] == [r["id"] for r in example()["layers"]]
    assert all(a["place"] != b["place"] for a, b in itertools.pairwise(found["segments"]))


def test_a_rate_says_whether_it_is_kept_up_with(
    graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    slow = document_of(capsys, "--graph", graph_file(), *LINK, "--objective", "auto", "--rate", "0.1")
    assert (slow["objective"], slow["keeps_up"]) == ("latency", True)
    fast = document_of(capsys, "--graph", graph_file(), *LINK, "--objective", "auto", "--rate", "1000")
    assert (fast["objective"], fast["keeps_up"]) == ("throughput", False)


@pytest.mark.parametrize("objective", ["latency", "energy", "throughput"])
def test_a_plan_reads_well(objective: str, graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--graph", graph_file(), *LINK, "--objective", objective) == 0
    text = capsys.readouterr().out
    for word in ("graph, 4 layers", "link: ", "cut: ", "reason: ", "predicted time"):
        assert word in text


def test_planning_loads_neither_torch_nor_a_socket(graph_file: Callable[..., Path]) -> None:
    code = (
        "import deployment; code = deployment.main(sys.argv[1:]); "
        "sys.exit(code or 7 * bool({'torch', 'edgecloud.net.connection', 'matplotlib'} & sys.modules.keys()))"
    )
    deny = "import socket; socket.socket.__init__ = lambda *a, **k: sys.exit(9); "
    arguments = ["plan", "--graph", str(graph_file()), *LINK, "--json"]
    done = subprocess.run([sys.executable, "-c", "import sys; " + deny + code, *arguments], cwd=ROOT)
    assert done.returncode == 0


def test_lossy_sizes_of_a_file_are_for_budgets_that_allow_them(
    graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, exported = graph_file(layers=with_packed(0.01)), tmp_path / "again.json"
    slow = ("--bandwidth", "500kbit", "--rtt", "20ms")
    without, within = (document_of(capsys, "--graph", path, *slow, *more) for more in ((), ("--accuracy-budget", "1%")))
    assert (without["codec"], within["codec"], within["packed_bytes"]) == ("raw", "ec4", 20_000)
    assert without["gain"] == 1.0
    assert without["pays"]["accuracy"] == {
        "budget": 0.01,
        "gain": pytest.approx(within["gain"]),
        "point": 2,
        "layer": "pool1",
        "codec": "ec4",
        "value": pytest.approx(within["predicted"]["total_s"]),
    }
    assert within["pays"]["accuracy"] is None or within["pays"]["accuracy"]["budget"] > 0.01
    region = next(each for each in within["map"] if each["codec"] == "ec4")
    assert region["gain"] >= within["gain"] > 1.2
    assert all(each["gain"] >= 1 - 1e-9 for each in within["map"])
    assert run("--graph", path, *slow, "--accuracy-budget", "1%", "--export", exported) == 0
    capsys.readouterr()
    again = document_of(capsys, "--graph", exported, *slow, "--accuracy-budget", "1%")
    assert again["predicted"] == pytest.approx(within["predicted"])
    assert document_of(capsys, "--graph", exported, *slow)["codec"] == "raw"


def test_where_an_end_is_best_the_plan_says_why_and_what_would_change_that(
    graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--graph", graph_file(layers=with_packed(0.01)), "--bandwidth", "500kbit", "--rtt", "20ms") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "splitting does not pay here, because the best cut, after pool1 as raw, takes" in told
    assert re.search(r"it would pay on a link (between|above) .*, or with --accuracy-budget 1% \(\d\.\d\d x\)", told)


def test_kept_profiles_are_planned_from(
    network: Callable[[str], TorchNetwork], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    subject = network("le_net")
    TorchExecutor(subject, torch.device("cpu")).profile(tmp_path, tails=True)
    where = ("-t", "le_net", "--cache-dir", tmp_path)
    found = document_of(capsys, *where, *LINK, "--emulate-cpu", "0.001", "--codec", "raw")
    assert (found["packing"], found["codec"], found["packing_source"]) == ("raw", "raw", "--codec raw")
    graph = subject.traced.graph
    assert [c["layer"] for c in found["candidates"]] == [graph.layers[p.layer].id for p in graph.points]
    assert [c["boundary_bytes"] for c in found["candidates"][:-1]] == [
        graph.layers[p.layer].out_bytes for p in graph.points[:-1]
    ]
    exported = tmp_path / "le_net.json"
    for codec, packing in (("raw", "raw"), ("auto", "given")):
        found = document_of(capsys, *where, *LINK, "--emulate-cpu", "0.001", "--codec", codec)
        assert run(*where, *LINK, "--emulate-cpu", "0.001", "--codec", codec, "--export", exported) == 0
        capsys.readouterr()
        again = document_of(capsys, "--graph", exported, *LINK)
        assert again["predicted"] == pytest.approx(found["predicted"])
        assert again["head"] == found["head"]
        assert (again["packing"], again["codec"]) == (packing, found["codec"])


@pytest.fixture
def _own_threads() -> Iterator[None]:
    """An emulated edge sets one thread for this whole process."""
    yield
    import torch

    torch.set_num_threads(int(THREADS))


@pytest.mark.usefixtures("_own_threads")
def test_a_plan_is_that_of_the_edge(
    cloud: CloudProcess, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same network, times, link and codecs: the same cut and the same seconds."""
    share = ("--emulate-cpu", "0.02")
    where = ("-t", "le_net", "--cache-dir", str(tmp_path), *share)
    asked = ("--bandwidth", "1mbit", "--point", "3", "--json")
    edge = call(edge_api.main, [*at(cloud), *where, *asked], capsys)
    assert edge.code == 0, edge.stderr
    printed = edge.document
    of_cloud = [path for path in store.profile_paths(cache, "le_net") if store.read(path).profile.tails]
    more = ("--rtt", f"{printed['link']['rtt_s'] * 1e3}ms", "--bandwidth", "1mbit", "--cloud-times", of_cloud[0])
    found = document_of(capsys, *where, *more)
    assert found["packing"] == "measured"
    assert Path(found["packing_source"]).parent == tmp_path / "packing"
    assert found["times"]["edge"]["threads"] == 1
    slower = printed["candidates"][-1]["edge_s"] / found["candidates"][-1]["edge_s"]  # the edge looked at its speed
    for mine, theirs in zip(found["candidates"], printed["candidates"], strict=True):
        assert theirs["edge_s"] == pytest.approx(slower * mine["edge_s"])
        same = ("point", "layer", "boundary_bytes", "encode_s", "upload_s", "download_s", "rtt_s")
        assert {name: mine[name] for name in same} == {
            name: pytest.approx(theirs[name]) if name.endswith("_s") else theirs[name] for name in same
        }
    best = min(printed["candidates"], key=lambda each: each["total_s"])
    assert found["point"] == best["point"]
    assert found["codec"] in ("zstd", "pixels", "pixels+zstd")  # whichever this machine packs fast enough for
    busy_s = best["cloud_s"] + best["queue_s"]  # a cloud that is busy now has told so, and nobody told the plan
    edge_s = found["predicted"]["edge_s"]
    assert found["predicted"]["total_s"] + (slower - 1) * edge_s == pytest.approx(best["total_s"], abs=busy_s)
    raw = document_of(capsys, *where, *more, "--codec", "raw")
    assert raw["predicted"]["total_s"] > 1.2 * found["predicted"]["total_s"], "which is what it was contradicted by"
    assert run(*where, *more) == 0
    shown = capsys.readouterr().out
    assert "packed, as measured on the edge" in shown
    assert re.search(r"3.14 kB sent as \d+ B of|3.14 kB sent as [0-9.]+ kB of", shown)


def test_what_packing_costs_is_measured_where_it_never_was_or_counted_raw(
    network: Callable[[str], TorchNetwork], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    subject = network("le_net")
    TorchExecutor(subject, torch.device("cpu")).profile(tmp_path, tails=True)
    where = ("-t", "le_net", "--cache-dir", tmp_path, *LINK)
    found = document_of(capsys, *where)
    assert found["packing"] == "measured"
    assert Path(found["packing_source"]).is_file()
    assert found["candidates"][0]["boundary_bytes"] < 1000 < 4 * 28 * 28
    (profile,) = store.profile_paths(tmp_path, "le_net")
    other = json.loads(profile.read_text())
    other["key"]["weights"] = "sha256:others"
    profile.write_text(json.dumps(other))
    found = document_of(capsys, *where)
    assert (found["packing"], found["codec"]) == ("raw", "raw")
    assert "is for other weights" in found["packing_source"]
    assert found["candidates"][0]["boundary_bytes"] == 4 * 28 * 28


def test_a_learned_codec_is_planned_with_within_its_budget(
    network: Callable[[str], TorchNetwork],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    graph_file: Callable[..., Path],
) -> None:
    """One that has few bytes for the output of a layer, and changed 1 of 200 answers."""
    import torch

    subject = network("le_net")
    TorchExecutor(subject, torch.device("cpu")).profile(tmp_path, tails=True)
    graph = subject.graph
    point = next(p for p in graph.points if graph.layers[p.layer].id == "features.2")
    layer = graph.layers[point.layer]
    steps = (((Geometry(1), 4),), ((Geometry(1), layer.out_bytes // 4),))
    about = learned.about_of(layer.out_shape, steps, is_flat=True)
    about = replace(about, model="le_net", graph=graph.digest, weights=subject.weights.digest, layer=layer.id)
    file = tmp_path / "tiny.codec"
    file.write_bytes(learned_file.write(about, learned.weights_of(about, steps)))
    where = ("-t", "le_net", "--cache-dir", tmp_path, "--bandwidth", "20kbit", "--codec-file", file)
    within = document_of(capsys, *where, "--accuracy-budget", "1%")["candidates"][point.number]
    beyond = document_of(capsys, *where, "--accuracy-budget", "0.1%")["candidates"][point.number]
    assert 0 < within["boundary_bytes"] < beyond["boundary_bytes"] / 4
    assert run("--graph", graph_file(), *LINK, "--codec-file", file) == 2
    assert "--codec-file is for networks by name (-t)" in capsys.readouterr().err


def test_planning_from_what_was_measured_loads_no_torch(
    network: Callable[[str], TorchNetwork], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    TorchExecutor(network("le_net"), torch.device("cpu")).profile(tmp_path, tails=True)
    flags = ["plan", "-t", "le_net", "--cache-dir", str(tmp_path), *LINK, "--json"]
    first = document_of(capsys, *flags[1:-1])
    code = "import sys; from edgecloud import deployment; code = deployment.main(sys.argv[1:]); "
    code += "sys.exit(code or 7 * ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predicted"] == first["predicted"]


def test_the_profiles_that_an_edge_and_a_cloud_would_have_are_taken(
    network: Callable[[str], TorchNetwork], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is newest: of an emulated edge, at full speed, under a quota, of a cloud."""
    import torch

    first = TorchExecutor(network("le_net"), torch.device("cpu")).profile(tmp_path, tails=True)
    (path,) = store.profile_paths(tmp_path, "le_net")
    kept = json.loads(path.read_text())

    def put(name: str, *, threads: int, clock: str, times: float) -> None:
        key = kept["key"] | {"threads": threads, "clock": clock}
        passes = [[s * times for s in row] for row in kept["passes"]]
        path.with_name(f"le_net-{name}.json").write_text(json.dumps(kept | {"key": key, "passes": passes, "tails": {}}))

    def edge_of(*flags: str) -> dict[str, Any]:
        return document_of(capsys, "-t", "le_net", "--cache-dir", tmp_path, *LINK, "--codec", "raw", *flags)

    put("wall", threads=2, clock="wall", times=3.0)
    put("emulated", threads=1, clock="work", times=5.0)
    whole_s = sum(first.seconds)
    found = edge_of("--emulate-cpu", "0.5")
    assert found["times"]["edge"] | {"threads": 1, "clock": "work"} == found["times"]["edge"]
    assert found["candidates"][-1]["edge_s"] == pytest.approx(2 * 5 * whole_s, rel=1e-3)
    assert found["candidates"][0]["cloud_s"] == pytest.approx(whole_s, rel=1e-3, abs=1e-4), "of the one with tails"
    found = edge_of()
    assert found["times"]["edge"]["clock"] == "wall"
    path.unlink()
    path.with_name("le_net-wall.json").unlink()
    put("quota", threads=2, clock="work, 0.5 of 100 ms", times=1000.0)
    found = edge_of()
    assert found["times"]["edge"]["clock"] == "work, 0.5 of 100 ms"
    assert found["candidates"][-1]["edge_s"] == pytest.approx(Quota(0.5, 0.1).elapsed_s(1000 * whole_s), rel=1e-3)
    path.with_name("le_net-quota.json").write_text("{")
    assert edge_of()["times"]["edge"]["clock"] == "work"


# --- packed sizes in a file


def test_packed_sizes_of_a_file_are_counted(
    graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ways = [{"codec": "small", "bytes": 6250, "encode_s": 0.01, "decode_s": 0.002}, {"bytes": 62_500}]
    path = graph_file(layers=changed(0, packed=ways))
    found = document_of(capsys, "--graph", path, *LINK)
    assert (found["point"], found["codec"], found["packing"]) == (0, "small", "given")
    assert (found["boundary_bytes"], found["packed_bytes"]) == (602_112, 6250)
    predicted = found["predicted"]
    assert (predicted["upload_s"], predicted["encode_s"]) == (pytest.approx(0.01), pytest.approx(0.01))
    assert document_of(capsys, "--graph", path, *LINK, "--codec", "packed")["candidates"][0]["boundary_bytes"] == 62_500
    raw = document_of(capsys, "--graph", path, *LINK, "--codec", "raw")
    assert (raw["packing"], raw["codec"], raw["point"]) == ("raw", "raw", 2)
    path = graph_file(layers=changed(0, packed=ways[:1]))
    slow = document_of(capsys, "--graph", path, *LINK, "--emulate-cpu", "0.1")
    assert slow["candidates"][0]["encode_s"] == pytest.approx(0.1)
    none = document_of(capsys, "--graph", graph_file(), *LINK)
    assert (none["packing"], none["packing_source"]) == ("raw", f"{path} has no packed sizes")
    assert run("--graph", graph_file(), *LINK, "--codec", "zstd") == 2
    assert "no codec 'zstd' in" in capsys.readouterr().err


def test_the_map_is_the_plan_of_every_rate(graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Also where another codec is best, though it is the same cut."""
    small = {"codec": "small", "bytes": 6250, "encode_s": 0.5, "decode_s": 0.002}
    path = graph_file(layers=changed(0, packed=[small, {"codec": "quick", "bytes": 62_500, "encode_s": 0.001}]))
    regions = document_of(capsys, "--graph", path, *LINK)["map"]
    assert {region["codec"] for region in regions} >= {"small", "quick", "raw"}
    for rate in (2e3, 2e4, 2e5, 2e6, 2e7, 2e9):
        found = document_of(capsys, "--graph", path, "--bandwidth", f"{8 * rate:.0f}bit", "--rtt", "20ms")
        region = [each for each in regions if each["from_bytes_per_s"] <= rate][-1]
        assert (region["boundary"], region["codec"]) == (found["boundary"], found["codec"]), rate


def test_profiles_of_different_networks_are_not_mixed(
    network: Callable[[str], TorchNetwork], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    for name in ("le_net", "alex_net"):
        TorchExecutor(network(name), torch.device("cpu")).profile(tmp_path / name, tails=False)
    (other,) = store.profile_paths(tmp_path / "alex_net", "alex_net")
    where = ("-t", "le_net", "--cache-dir", tmp_path / "le_net", "--cloud-times", other)
    assert run(*where, *LINK) == 2
    assert "different networks" in capsys.readouterr().err


def test_a_graph_survives_its_document() -> None:
    rng = random.Random(1)
    for _ in range(100):
        problem = random_problem(rng, random_graph(rng, rng.randrange(2, 12)))
        document = json.loads(json.dumps(to_document(problem)))
        graph, _ = graph_json.parse(document, problem.graph.name)
        assert graph == problem.graph
        config = PlanConfig(None, Path("g.json"), Path(), problem.link.up_bytes_per_s)
        assert problem_of(document, "g", config).edge_s == pytest.approx(problem.edge_s)


def test_layers_may_come_in_any_order_and_what_nobody_needs_is_dropped() -> None:
    def row(name: str, *inputs: str) -> dict[str, Any]:
        return {"id": name, "inputs": list(inputs), "out_bytes": 1}

    document = {"layers": [row("in"), row("c", "b"), row("b", "a", "in"), row("dead", "b"), row("a", "in")]}
    graph, rows = graph_json.parse(document | {"outputs": ["c"]}, "g")
    assert [layer.id for layer in graph.layers] == ["in", "a", "b", "c"]
    assert [each["id"] for each in rows] == ["in", "a", "b", "c"]
    assert graph.layers[2].inputs == (1, 0)
    assert graph_json.parse(document, "g")[0].layers[-1].id == "a"  # the last of the file, and all that it needs


def changed(number: int, **fields: Any) -> list[dict[str, Any]]:
    """The example's layers, one of them changed; a field that is None is left out."""
    layers: list[dict[str, Any]] = example()["layers"]
    layers[number] = {name: value for name, value in (layers[number] | fields).items() if value is not None}
    return layers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": []}, ("layers",)),
        ({"layers": "x"}, ("layers",)),
        ({"layers": [1]}, ("layer number 0 has no id",)),
        ({"layers": changed(1, id="")}, ("layer number 1",)),
        ({"layers": changed(2, id="conv1")}, ("duplicate layer id", "'conv1'")),
        ({"layers": changed(2, inputs=["nope"])}, ("'pool1'", "unknown layer 'nope'")),
        ({"layers": changed(2, inputs="conv1")}, ("'pool1'", "must be a list of layer ids")),
        ({"layers": changed(2, inputs=None)}, ("'pool1'", "no inputs")),
        ({"layers": changed(2, inputs=[])}, ("'pool1'", "has no inputs")),
        ({"layers": changed(0, inputs=["fc"])}, ("'input'", "must be the input")),
        ({"layers": changed(1, inputs=["conv2"])}, ("the layers form a cycle", "conv1")),
        ({"layers": changed(1, inputs=["conv1"])}, ("the layers form a cycle", "conv1")),
        ({"layers": changed(2, out_bytes=None)}, ("'pool1'", "no out_bytes")),
        ({"layers": changed(2, out_bytes=1.5)}, ("'pool1'", "whole number")),
        ({"layers": changed(2, out_bytes=-1)}, ("'pool1'", "out_bytes", "at least 0")),
        ({"layers": changed(2, edge_s=None)}, ("'pool1'", "no edge_s")),
        ({"layers": changed(2, edge_s=-0.1)}, ("'pool1'", "edge_s", "at least 0")),
        ({"layers": changed(2, edge_s=float("nan"))}, ("'pool1'", "edge_s", "nan")),
        ({"layers": changed(2, cloud_s=float("inf"))}, ("'pool1'", "cloud_s", "inf")),
        ({"layers": changed(2, cloud_s="1")}, ("'pool1'", "cloud_s")),
        ({"layers": changed(2, cloud_s=True)}, ("'pool1'", "cloud_s")),
        ({"layers": changed(2, cloud_s=10**400)}, ("'pool1'", "cloud_s")),
        ({"layers": changed(2, start_s=-1)}, ("'pool1'", "start_s")),
        ({"layers": changed(2, packed=3)}, ("'pool1'", "packed must be a list")),
        ({"layers": changed(2, packed=[7])}, ("'pool1'", "packed must be a list")),
        ({"layers": changed(2, packed=[{"bytes": 1}] * 33)}, ("'pool1'", "packed must be a list")),
        ({"layers": changed(2, packed=[{}])}, ("'pool1'", "packed has no bytes")),
        ({"layers": changed(2, packed=[{"bytes": 1.5}])}, ("'pool1'", "whole number")),
        ({"layers": changed(2, packed=[{"bytes": 1, "codec": ""}])}, ("'pool1'", "codec must be a name")),
        ({"layers": changed(2, packed=[{"bytes": 1, "codec": "raw"}])}, ("'pool1'", "codec must be a name")),
        ({"layers": changed(2, packed=[{"bytes": 1, "encode_s": -1}])}, ("'pool1'", "encode_s")),
        ({"outputs": ["nope"]}, ("outputs", "unknown layer 'nope'")),
        ({"outputs": []}, ("outputs",)),
        ({"outputs": "fc"}, ("outputs",)),
        ({"result_bytes": -1}, ("result_bytes",)),
    ],
)
def test_a_bad_file_is_one_clear_line(
    change: dict[str, Any], words: tuple[str, ...], graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--graph", graph_file(**change), *LINK) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for word in words:
        assert word in error, error


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\ud800", '{"layers": {}}', "1" * 5000])
def test_a_file_that_is_no_graph_is_one_clear_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "graph.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert run("--graph", path, *LINK) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--bandwidth", "0mbit"), "above zero"),
        (("--bandwidth", "5"), "rate"),
        ((), "--bandwidth"),
        ((*LINK, "--load", "0"), "above zero"),
        ((*LINK, "--load", "nan"), "not a number"),
        ((*LINK, "--rtt", "-1ms"), "--rtt"),
        ((*LINK, "--max-cost", "-1", "--cloud-price", "1"), "cost"),
        ((*LINK, "--max-cost", "1"), "--cloud-price"),
        ((*LINK, "--cloud-price", "-1"), "below zero"),
        ((*LINK, "--objective", "auto"), "--rate"),
        ((*LINK, "--objective", "auto", "--rate", "0"), "above zero"),
        ((*LINK, "--objective", "weighted"), "--seconds-per-joule"),
        ((*LINK, "--method", "dsh"), "throughput"),
        ((*LINK, "--radio", "5g"), "no radio"),
        ((*LINK, "--codec", "nope"), "no codec 'nope'"),
        ((*LINK, "--accuracy-budget", "nope"), "--accuracy-budget"),
        ((*LINK, "--power", "nope"), "power profile"),
        ((*LINK, "-t", "alex_net"), "either"),
        ((*LINK, "--edge-times", "x.json"), "--graph"),
        ((*LINK, "--map", "x.gif"), "x.gif"),
        ((*LINK, "--map", "/nowhere/x.png"), "/nowhere/x.png"),
        ((*LINK, "--export", "/nowhere/x.json"), "/nowhere/x.json"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    arguments: tuple[str, ...], word: str, graph_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--graph", graph_file(), *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert word in error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "either -t MODEL or --graph"),
        (("-t", "alex_net"), "deployment.py profile -t alex_net"),
        (("--graph", "/nowhere.json"), "no file"),
        (("--graph", "/dev/zero"), "not a file"),
        (("-t", "alex_net", "--edge-times", "/nowhere.json"), "no file"),
    ],
)
def test_what_is_not_there_is_one_clear_line(
    arguments: tuple[str, ...], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, *LINK, "--cache-dir", tmp_path) == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"key": 1}', '{"key": {}, "graph": {"layers": []}, "passes": [], "tails": {}}'],
)
def test_a_profile_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not a profile"):
        store.read(path)


def test_the_json_of_parts_is_that_of_the_decision(graph_file: Callable[..., Path]) -> None:
    config = PlanConfig(None, graph_file(), Path(), 625_000, power="raspberry_pi_4", radio="wifi")
    planned = plan(config)
    document = plan_report.to_json(planned)
    numbers = {layer.id: number for number, layer in enumerate(planned.graph.layers)}
    parts = [Part(p["place"], frozenset(numbers[i] for i in p["layers"])) for p in document["segments"]]
    assert predict(planned.problem, parts) == planned.decision.predicted
    assert isinstance(planned.graph, LayerGraph)
    assert isinstance(planned.power, Power)
