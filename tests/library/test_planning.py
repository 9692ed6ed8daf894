"""ec.plan: the plan of deployment.py plan, from numbers as callers have them, and words for what is wrong with them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgecloud as ec
from edgecloud import deployment
from edgecloud.partition.decide import Goal
from edgecloud.tools import whatif
from edgecloud.tools.whatif import PlanConfig
from edgecloud.utils.units import parse_rate
from tests.conftest import ROOT, call, many

TABLE: list[dict[str, Any]] = [
    {"id": "input", "inputs": [], "out_bytes": 602_112, "edge_s": 0, "cloud_s": 0},
    {"id": "conv1", "inputs": ["input"], "out_bytes": 774_400, "edge_s": 0.10, "cloud_s": 0.005},
    {"id": "pool1", "inputs": ("conv1",), "out_bytes": 46_656, "edge_s": 0.02, "cloud_s": 0.001},
    {"id": "fc", "inputs": ["pool1"], "out_bytes": 4_000, "edge_s": 0.40, "cloud_s": 0.020},
]
LINK = ec.Link("5mbit", rtt="20ms")
SECONDS = [row["edge_s"] for row in TABLE]

BLOCKED = """
import runpy, socket, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is blocked")

def no_socket(*_arguments, **_more):
    raise AssertionError("a socket")

sys.meta_path.insert(0, Blocked())
socket.socket = no_socket
sys.path.insert(0, ".")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_a_plan_needs_neither_torch_nor_a_socket() -> None:
    command = [sys.executable, "-c", BLOCKED, "examples/plan_from_table.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[:2]] == [
        ["200kbit", "point", "4:"],
        ["5mbit", "point", "2:"],
    ]


def test_a_plan_has_its_gain_and_lossy_codecs_only_within_the_budget() -> None:
    packed = {"codec": "ec4", "bytes": 5_000, "encode_s": 0.001, "decode_s": 0.001, "loss": 0.01}
    table = [row | ({"packed": [packed]} if row["id"] == "pool1" else {}) for row in TABLE]
    without, within = (ec.plan(table, link=LINK, accuracy_budget=share) for share in (0.0, 0.01))
    assert (without.codecs, within.codecs) == ({"pool1": "raw"}, {"pool1": "ec4"})
    for plan in (without, within):
        assert plan.gain is not None
        assert plan.gain == pytest.approx(sum(SECONDS) / plan.predicted.total_s), "all on the edge is the better end"
    assert ec.plan(table, link=ec.Link("1kbit")).gain == 1.0
    for share in (1.5, -0.1, True, "1%"):
        with pytest.raises(ec.UsageError, match="accuracy_budget is a share"):
            ec.plan(table, link=LINK, accuracy_budget=share)  # type: ignore[arg-type]


seconds = st.floats(0, 2).map(lambda value: round(value, 6))


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Layers that read one or two of those before them."""
    rows: list[dict[str, Any]] = [{"id": "in", "inputs": [], "out_bytes": draw(st.integers(1, 10**6))}]
    for number in range(draw(st.integers(1, 6))):
        names = [row["id"] for row in rows]
        reads = sorted({names[-1], draw(st.sampled_from(names))})
        rows.append({"id": f"l{number}", "inputs": reads, "out_bytes": draw(st.integers(1, 10**6))})
    return [row | {"edge_s": draw(seconds) if n else 0, "cloud_s": draw(seconds)} for n, row in enumerate(rows)]


@settings(max_examples=many(25, 200))
@given(tables(), st.sampled_from(["50kbit", "3mbit", "1gbit"]), st.sampled_from(["latency", "energy", "throughput"]))
def test_it_is_the_plan_of_the_command_line(
    tmp_path_factory: pytest.TempPathFactory, table: list[dict[str, Any]], rate: str, objective: str
) -> None:
    path = tmp_path_factory.mktemp("plans") / "graph.json"
    path.write_text(json.dumps({"layers": table}))
    up = parse_rate(rate)
    found = whatif.plan(PlanConfig(None, path, tmp_path_factory.getbasetemp(), up, rtt_s=0.02, goal=Goal(objective)))
    plan = ec.plan(table, link=ec.Link(rate, rtt="20ms"), goal=objective)
    assert plan.decision == found.decision
    assert plan.predicted.total_s == pytest.approx(found.decision.predicted.total_s)
    assert plan.energy_j == found.energy_j
    assert ec.plan(path, link=ec.Link(rate, rtt="20ms"), goal=ec.Goal(objective)).decision == plan.decision


def test_times_are_taken_in_every_form() -> None:
    bare = [{name: value for name, value in row.items() if name not in ("edge_s", "cloud_s")} for row in TABLE]
    wanted = ec.plan(TABLE, link=LINK)
    clouds = [row["cloud_s"] for row in TABLE]
    by_id = {row["id"]: row["edge_s"] for row in TABLE[1:]}
    forms: list[Any] = [SECONDS, tuple(SECONDS), np.array(SECONDS), by_id]
    for edge in forms:
        found = ec.plan(bare, edge, clouds, LINK)
        assert (found.edge, found.predicted) == (wanted.edge, wanted.predicted)
    assert TABLE[2]["inputs"] == ("conv1",)  # nothing of the caller's is changed
    assert "edge_s" not in bare[1]


def test_a_plan_says_what_runs_where() -> None:
    plan = ec.plan(TABLE, link=LINK)
    assert (plan.point, plan.edge, plan.cloud, plan.boundary) == (2, ("conv1", "pool1"), ("fc",), ("pool1",))
    assert plan.codecs == {"pool1": "raw"}
    stages = plan.predicted
    assert stages.total_s == pytest.approx(0.12 + 46_656 / 625e3 + 0.02 + 4_000 / 625e3 + 0.02)
    assert (stages.payload_bytes, stages.received_bytes) == (46_656, 4_000)
    assert len(plan.alternatives) == 4
    assert min(each.total_s for each in plan.alternatives) == pytest.approx(stages.total_s)
    with pytest.raises(AttributeError):
        plan.point = 1  # type: ignore[misc]


def test_links_are_read_as_everywhere() -> None:
    link = ec.Link("5mbit", rtt="20ms", down="2MB/s")
    assert (link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s) == (625_000, 2_000_000, 0.02)
    assert ec.Link(625_000, rtt=0.02, down=2e6) == link
    assert eval(repr(link), {"Link": ec.Link}) == link


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ec.Link("5"), "a rate"),
        (lambda: ec.Link(0), "a rate"),
        (lambda: ec.Link(float("nan")), "a rate"),
        (lambda: ec.Link(True), "a rate"),
        (lambda: ec.Link("5mbit", rtt="20"), "without a unit"),
        (lambda: ec.Link("5mbit", rtt=-1), "a time"),
        (lambda: ec.Goal("fast"), "no objective 'fast'"),
        (lambda: ec.Goal("auto"), "rate_per_s"),
        (lambda: ec.Goal(max_cost=1.0), "price_per_s"),
        (lambda: ec.plan(TABLE), "plan needs a link"),
        (lambda: ec.plan(TABLE, link=LINK, goal="fast"), "no objective 'fast'"),
        (lambda: ec.plan(TABLE, link=LINK, goal="{x}"), "'{x}'"),
        (lambda: ec.plan(TABLE, link=LINK, load=0), "load"),
        (lambda: ec.plan(TABLE, SECONDS[1:], link=LINK), "4 layers with its input, 3 values of edge_s were given"),
        (lambda: ec.plan(TABLE, ["a"] * 4, link=LINK), "seconds are numbers"),  # type: ignore[list-item]
        (lambda: ec.plan(TABLE, [float("nan")] * 4, link=LINK), "a number of at least 0"),
        (lambda: ec.plan(TABLE, {"conv9": 1.0}, link=LINK), "no layer 'conv9'"),
        (lambda: ec.plan(TABLE, {"conv1": 1.0}, link=LINK), "layer 'pool1' are missing"),
        (lambda: ec.plan([{"id": "in", "inputs": [], "out_bytes": 1}], link=LINK), "give plan the edge_times"),
        (lambda: ec.plan([], link=LINK), "a graph"),
        (lambda: ec.plan([{"id": "in", "inputs": []}], [0], [0], LINK), "has no out_bytes"),
        (lambda: ec.plan("nothing.json", link=LINK), "nothing.json"),
        (lambda: ec.plan("le_net", SECONDS, link=LINK), "ec.load('le_net')"),
        (lambda: ec.plan("le_net", link=LINK, cache_dir="/nowhere"), "edge_times and cloud_times"),
        (lambda: ec.plan(TABLE, link=LINK, codec="zip"), "no codec 'zip'"),
        (lambda: ec.plan(TABLE, link=LINK, power="sun"), "sun"),
    ],
)
def test_what_is_wrong_is_told_without_flags(make: Any, words: str) -> None:
    with pytest.raises(ec.UsageError) as raised:
        make()
    assert words in str(raised.value)
    assert "--" not in str(raised.value)


def test_a_network_is_planned_from_its_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What deployment.py profile shows is what the library measured."""
    measured = ec.profile("le_net", cache_dir=tmp_path)
    assert measured.key.threads == 1
    net = ec.load("le_net")
    plan = ec.plan(net, measured, measured, ec.Link("1kbit"), cache_dir=tmp_path)
    assert (plan.point, plan.cloud, plan.network) == (12, (), "le_net")
    assert plan.predicted.edge_s == pytest.approx(sum(measured.seconds))
    near = ec.plan(net, [1000 * each for each in measured.seconds], measured, ec.Link("5mbit"), cache_dir=tmp_path)
    assert near.point == 0
    assert near.predicted.payload_bytes < 4 * 28 * 28  # packed, as an edge would
    shown = call(
        deployment.main, ["profile", "-t", "le_net", "--threads", "1", "--cache-dir", str(tmp_path), "--json"], capsys
    )
    assert shown.document["total_s"] == pytest.approx(sum(measured.seconds))
