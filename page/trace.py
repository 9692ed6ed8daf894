"""Requests as a file in the Chrome trace format, which ui.perfetto.dev and chrome://tracing open. Pure.

Moments and durations are microseconds with three decimals, as the format wants them. Requests that overlap are on
lines of their own; a stage lies within its request, and where it overlaps another stage, on a line below.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from edgecloud.page.rows import Mark, Row

PROCESS = 1
FIRST_LINE = 1
NEAR = 2
"""Nanoseconds by which rounding may let two stages overlap."""
BELOW = 100
"""From a line to the one below it with stages that overlap those of its requests."""


def trace(program: str, rows: Sequence[Row], marks: Iterable[Mark] = ()) -> dict[str, Any]:
    """The document: a slice for every request with one for each of its stages inside, and a mark for each change."""
    events: list[dict[str, Any]] = [_named("process_name", PROCESS, 0, program)]
    ends: list[int] = []
    below: list[int] = []
    """Of every line, how many more there are for stages that overlap."""
    for row in sorted(rows, key=lambda each: each.began_s):
        begin, end = _ns(row.began_s), _ns(row.began_s + row.total_s)
        line = next((number for number, free in enumerate(ends) if free <= begin), len(ends))
        if line == len(ends):
            ends.append(0)
            events.append(_named("thread_name", PROCESS, line + FIRST_LINE, f"requests {line + 1}"))
            below.append(0)
        ends[line] = end
        found = _slices(row, begin, end, line + FIRST_LINE)
        used = max((each["tid"] - line - FIRST_LINE) // BELOW for each in found)
        for lane in range(below[line], used):
            number = line + FIRST_LINE + (lane + 1) * BELOW
            events.append(_named("thread_name", PROCESS, number, f"requests {line + 1}, overlapping"))
        below[line] = max(below[line], used)
        events += found
    events += [_mark(each) for each in marks]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"program": program}}


def _slices(row: Row, begin: int, end: int, line: int) -> list[dict[str, Any]]:
    args = {"number": row.number, "total_s": row.total_s, **row.about}
    args |= {f"{stage.name}_s": stage.seconds for stage in row.stages}
    hidden_s = sum(stage.seconds for stage in row.stages) - row.total_s
    if hidden_s > NEAR * 1e-9:
        args["hidden_s"] = hidden_s
    if row.predicted:
        args["predicted_s"] = max(stage.begin_s + stage.seconds for stage in row.predicted)
    found = [_slice(f"{row.name} {row.number}", "request", begin, end, line, args)]
    lanes = [begin]
    for stage in row.stages:  # rounded to nanoseconds none may reach out of the request, or into the next
        first = min(end, max(begin, _ns(row.began_s + stage.begin_s)))
        last = min(end, max(first, _ns(row.began_s + stage.begin_s + stage.seconds)))
        lane = next((number for number, free in enumerate(lanes) if free <= first + NEAR), len(lanes))
        if lane == len(lanes):
            lanes.append(begin)
        first = max(first, lanes[lane])
        lanes[lane] = last = max(first, last)
        found.append(_slice(stage.name, "stage", first, last, line + lane * BELOW, {"seconds": stage.seconds}))
    return found


def _slice(name: str, kind: str, begin: int, end: int, line: int, args: dict[str, Any]) -> dict[str, Any]:
    moment = {"ts": begin / 1000, "dur": (end - begin) / 1000, "pid": PROCESS, "tid": line}
    return {"name": name, "cat": kind, "ph": "X", **moment, "args": args}


def _mark(mark: Mark) -> dict[str, Any]:
    moment = {"ts": _ns(mark.at_s) / 1000, "pid": PROCESS, "tid": 0}
    return {"name": mark.text, "cat": mark.kind, "ph": "i", "s": "p", **moment, "args": dict(mark.about)}


def _named(kind: str, process: int, line: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": line, "args": {"name": name}}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
