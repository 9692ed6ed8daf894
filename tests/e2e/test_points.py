"""edge_api.py --points: several cuts in one call, each what a call of its own would give."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgecloud.client.points import parse
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.utils.errors import UsageError
from tests.conftest import LONG_S, ROOT, THREADS, CallEdge, CloudProcess, Finished, at

LINK = ("--emulate-link", "50mbit,4ms")


Ask = Callable[..., Finished]


@pytest.fixture
def ask(cloud: CloudProcess, edge: CallEdge) -> Ask:
    return partial(edge, "-t", "le_net", *at(cloud), *LINK)


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_point_is_a_document_with_the_right_answer(ask: Ask) -> None:
    got = ask("--points", "all,auto,0:pixels", "--repeat", "2", "--verify", "--json")
    assert got.code == 0, got.stderr
    found = documents(got.stdout)
    assert [each["asked"] for each in found] == [*map(str, range(13)), "auto", "0:pixels"]
    assert [each["plan"]["point"] for each in found[:13]] == list(range(13))
    assert all(each["verify"]["matches"] and len(each["measured"]["repeats"]) == 2 for each in found)
    assert found[-2]["plan"]["method"] == "chain"
    assert len({each["result"]["top"][0]["index"] for each in found}) == 1
    assert found[-1]["plan"]["codec"] == "pixels"
    assert [each["completed_by"] for each in (found[0], found[6], found[12])] == ["cloud", "split", "edge"]


def test_lists_come_from_standard_input_too_and_heads_by_their_layers(cloud: CloudProcess, cache: Path) -> None:
    command = [sys.executable, "edge_api.py", "-t", "le_net", "-p", str(cloud.port), *LINK, "--cache-dir", str(cache)]
    lines = "2-3\n\nhead=features.0+features.1:raw\n"
    got = subprocess.run(
        [*command, "--threads", THREADS, "--points", "-", "--json", "--codec", "raw"],
        cwd=ROOT, input=lines, capture_output=True, text=True, timeout=LONG_S,
    )  # fmt: skip
    assert got.returncode == 0, got.stderr
    ready, second, third, head = documents(got.stdout)
    assert ready == {"ready": "le_net", "points": 13}
    assert (second["plan"]["point"], third["plan"]["point"]) == (2, 3)
    assert head["plan"]["point"] == 2
    assert head["measured"]["payload_bytes"] == second["measured"]["payload_bytes"]


def test_people_get_a_line_for_each(ask: Ask) -> None:
    got = ask("--points", "0,12")
    assert [line.split()[0] for line in got.stdout.splitlines()] == ["0", "12"]


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("13", "has no point 13"),
        ("0-13", "has no point 13"),
        ("5-2", "'5-2' is not a point"),
        ("first", "'first' is not a point"),
        (",", "contains no point"),
        ("0:zip", "no codec 'zip'"),
        ("head=features.9", "has no layer 'features.9'"),
        ("head=features.3", "not what it reads"),
    ],
)
def test_what_is_no_point_is_refused(network: Callable[[str], TorchNetwork], points: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(points, network("le_net").traced.graph)
    assert says in str(refused.value)


def test_that_is_said_in_one_line_before_anything_runs(ask: Ask) -> None:
    got = ask("--points", "0,13")
    assert (got.code, got.stdout) == (2, "")
    assert "has no point 13" in got.stderr
    assert len(got.stderr.splitlines()) == 1


def test_points_go_with_no_other_wish_for_a_cut(edge: CallEdge) -> None:
    got = edge("-t", "le_net", "--points", "all", "--point", "3")
    assert got.code == 2
    assert "--points cannot be combined with --point" in got.stderr
