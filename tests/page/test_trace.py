"""The downloaded trace has the fields that importers read, and adds up to what was measured."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.page.rows import Mark, Row, stages_of
from edgecloud.page.trace import trace
from edgecloud.partition.cost import StageTimes

SECONDS = st.floats(0, 100, allow_nan=False)
TIMES = st.builds(StageTimes, edge_s=SECONDS, encode_s=SECONDS, queue_s=SECONDS, cloud_s=SECONDS, link_s=SECONDS)


def row(number: int, began_s: float, times: StageTimes) -> Row:
    return Row(number, "net", began_s, times.total_s, stages_of(times), stages_of(times), {"by": "split"})


def slices(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in document["traceEvents"] if event["ph"] == "X"]


def check_format(document: dict[str, Any]) -> None:
    """As the JSON importer of ui.perfetto.dev wants it, and the document of the format."""
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        assert event["ph"] in ("X", "M", "i")
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert event["ts"] >= 0
            assert isinstance(event["cat"], str)
        assert event["ph"] != "i" or event["s"] in ("g", "p", "t")
        assert event["ph"] != "X" or event["dur"] >= 0
    json.loads(json.dumps(document, allow_nan=False))


@given(st.lists(st.tuples(SECONDS, TIMES), max_size=12))
def test_every_request_is_a_slice_with_its_stages_inside_and_none_crosses_another(
    given_rows: list[tuple[float, StageTimes]],
) -> None:
    document = trace("edge", [row(n, at, times) for n, (at, times) in enumerate(given_rows, 1)])
    check_format(document)
    by_line: dict[int, list[dict[str, Any]]] = {}
    for event in slices(document):
        if event["cat"] == "request":
            by_line.setdefault(event["tid"], []).append(event)
    for requests in by_line.values():
        for one, later in pairwise(sorted(requests, key=lambda event: event["ts"])):
            assert one["ts"] + one["dur"] <= later["ts"] + 1e-3
    requests = [event for event in slices(document) if event["cat"] == "request"]
    assert len(requests) == len(given_rows)
    for number, (_, times) in enumerate(given_rows, 1):
        found = next(event for event in requests if event["args"]["number"] == number)
        assert found["dur"] * 1e-6 == pytest.approx(times.total_s, abs=3e-9)
        assert found["args"]["total_s"] == times.total_s
        told = sum(found["args"].get(f"{name}_s", 0.0) for name in ("edge", "encode", "transfer", "queue", "cloud"))
        assert told == pytest.approx(times.total_s, abs=1e-9)


def test_stages_of_a_request_add_up_to_it() -> None:
    times = StageTimes(edge_s=0.1, encode_s=0.01, queue_s=0.002, decode_s=0.003, cloud_s=0.05, link_s=0.2)
    document = trace("edge", [row(7, 1.5, times)])
    stages = {event["name"]: event["dur"] * 1e-6 for event in slices(document) if event["cat"] == "stage"}
    assert stages == pytest.approx({"edge": 0.1, "encode": 0.01, "transfer": 0.2, "queue": 0.002, "cloud": 0.053})


def test_stages_that_overlap_are_on_lines_below_each_other() -> None:
    times = StageTimes(edge_s=0.1, encode_s=0.04, cloud_s=0.05, link_s=0.2, hidden_s=0.06)
    document = trace("edge", [row(1, 0.0, times), row(2, 1.0, times)])
    check_format(document)
    found = [event for event in slices(document) if event["cat"] == "stage"]
    by_line: dict[int, list[dict[str, Any]]] = {}
    for event in found:
        by_line.setdefault(event["tid"], []).append(event)
    for stages in by_line.values():
        for one, later in pairwise(sorted(stages, key=lambda event: event["ts"])):
            assert one["ts"] + one["dur"] <= later["ts"] + 1e-3
    assert len(by_line) == 2
    assert sum(event["dur"] for event in found) * 1e-6 == pytest.approx(2 * times.stages_s)
    requests = [event for event in slices(document) if event["cat"] == "request"]
    assert all(each["args"]["hidden_s"] == pytest.approx(0.06) for each in requests)
    assert all(each["args"]["predicted_s"] == pytest.approx(times.total_s) for each in requests)
    names = {event["tid"]: event["args"]["name"] for event in document["traceEvents"] if event["name"] == "thread_name"}
    assert set(by_line) <= set(names)


def test_a_change_of_plan_is_a_mark() -> None:
    (mark,) = [e for e in trace("edge", [], [Mark(2.0, "plan", "moved to point 3")])["traceEvents"] if e["ph"] == "i"]
    assert (mark["ts"], mark["name"], mark["s"]) == (2e6, "moved to point 3", "p")
    told = Mark(2.0, "plan", "moved", {"to": 3}).to_json()
    assert told == {"at_s": 2.0, "kind": "plan", "text": "moved", "to": 3}
