"""The outcome of many tasks, as JSON, tables and a workbook. The JSON keys are a contract: see docs/tasks.md."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

import numpy as np
from rich.table import Table

from edgecloud.cli.report import speeds_json
from edgecloud.tasks.bound import STAGES
from edgecloud.tasks.pipeline import TaskRecord, stages_of
from edgecloud.tasks.task_runner import TasksOutcome, TasksRun
from edgecloud.utils.files import write_atomically, writing
from edgecloud.utils.progress import DETAIL
from edgecloud.utils.units import format_bytes, format_rate, format_seconds, middle_cut, printable

T = TypeVar("T")
LONGEST_NAME, LEAST_NAME = 24, 8
REST = 53
"""Columns of a task's line behind the name of its network."""
COLUMNS = (
    *("id", "model", "input", "priority", "deadline_s", "point", "codec", "objective", "completed_by", "arrival_s"),
    *("started_s", "head_done_s", "sent_s", "done_s", "edge_s", "encode_s", "link_s", "queue_s", "cloud_s", "total_s"),
    *("latency_s", "batch", "payload_bytes", "raw_bytes", "tries", "late", "top", "matches", "max_abs_diff", "error"),
)


def is_good(outcome: TasksOutcome) -> bool:
    """Whether every task was done, and none wrong."""
    figures = summary(outcome)
    return not (figures["failed"] or figures["wrong"] or outcome.problems)


def row(record: TaskRecord) -> dict[str, Any]:
    """One task."""
    task, choice, times = record.task, record.choice, record.times
    values: dict[str, Any] = {
        "id": task.id,
        "model": task.model,
        "input": task.input,
        "priority": task.priority,
        "deadline_s": task.deadline_s,
        "point": None if choice is None else choice.point,
        "codec": record.codec or None,
        "objective": None if choice is None else choice.objective,
        "completed_by": record.completed_by or None,
        "arrival_s": task.arrival_s,
        "edge_s": times.edge_s,
        "encode_s": times.encode_s,
        "link_s": times.upload_s,
        "queue_s": times.queue_s,
        "cloud_s": times.tail_s,
        "payload_bytes": times.payload_bytes,
        "raw_bytes": times.raw_bytes,
        "late": record.is_late,
        "error": record.error or None,
    }
    return {name: values[name] if name in values else getattr(record, name) for name in COLUMNS}


def summary(outcome: TasksOutcome) -> dict[str, Any]:
    """The figures of the whole run: how its tasks ended, how fast it was, what latencies they had, what it sent.

    Names end in units; docs/tasks.md says what each one is.
    """
    done = [record for record in outcome.records if record.completed_by]
    return _ends(outcome, done) | _pace(outcome, done) | _percentiles(outcome, done) | _traffic(outcome, done)


def _ends(outcome: TasksOutcome, done: Sequence[TaskRecord]) -> dict[str, Any]:
    checked = [record.matches for record in done if record.matches is not None]
    differences = [record.max_abs_diff for record in done if record.max_abs_diff is not None]
    endless = next((record for record in done if record.difference), None)
    return {
        "completed": len(done),
        "failed": len(outcome.records) - len(done),
        "wrong": checked.count(False) if checked else None,
        "max_abs_diff": max(differences, default=None) if endless is None else None,
        "max_abs_diff_reason": None if endless is None else f"task {endless.task.id}: {endless.difference}",
        "late": sum(record.is_late for record in done),
        "refused": len(outcome.problems),
        "left": outcome.left,
        "skipped": outcome.skipped,
        "interrupted": outcome.is_interrupted,
    }


def _pace(outcome: TasksOutcome, done: Sequence[TaskRecord]) -> dict[str, Any]:
    """How fast it was, and how fast it could have been at most: see docs/tasks.md."""
    each = [stages_of(record) for record in done]
    edge_s, link_s, cloud_s = (sum(getattr(one, name) for one in each) for name in STAGES)
    longest_s, wall_s = max(edge_s, link_s, cloud_s), outcome.wall_s
    return {
        "wall_s": wall_s,
        "throughput_per_s": len(done) / wall_s if wall_s else 0.0,
        "bound_fraction": outcome.bound_s / wall_s if outcome.bound_s and wall_s else 0.0,
        "stages": {"edge_s": edge_s, "link_s": link_s, "cloud_s": cloud_s},
        "balance": (edge_s + link_s + cloud_s) / longest_s if longest_s else 0.0,
        "objective": outcome.objective,
        "planned_s": outcome.planned_s,
        "bound_s": outcome.bound_s,
        "planned_bound_s": outcome.planned_bound_s,
    }


def _percentiles(outcome: TasksOutcome, done: Sequence[TaskRecord]) -> dict[str, float | None]:
    """Of `latency_s` for arrivals, of `total_s` for a closed queue, where tasks wait for each other from the start."""
    times = [record.total_s if outcome.objective == "makespan" else record.latency_s for record in done]
    return {f"p{share}_s": float(np.percentile(times, share)) if times else None for share in (50, 95, 99)}


def _traffic(outcome: TasksOutcome, done: Sequence[TaskRecord]) -> dict[str, Any]:
    points = _by_model((record.task.model, record.choice.point) for record in done if record.choice is not None)
    codecs = _by_model((record.task.model, record.codec) for record in done if record.codec)
    return {
        "bytes_sent": outcome.sent_bytes,
        "raw_bytes": sum(record.times.raw_bytes for record in done),
        "cuts": {model: {str(point): counts[point] for point in sorted(counts)} for model, counts in points.items()},
        "codecs": {model: dict(counts) for model, counts in codecs.items()},
        "completed_by": dict(Counter(record.completed_by for record in done)),
        "moves": [asdict(move) for move in outcome.moves],
        "probes": outcome.probes,
        "probe_bytes": outcome.probe_bytes,
        "connects": outcome.connects,
        "cloud": {"address": outcome.cloud_place, "moved": outcome.moved} if outcome.cloud_place else None,
        "cloud_error": outcome.cloud_error or None,
    }


def _by_model(pairs: Iterable[tuple[str, T]]) -> dict[str, Counter[T]]:
    """How often each network got what."""
    counts: dict[str, Counter[T]] = {}
    for model, what in pairs:
        counts.setdefault(model, Counter())[what] += 1
    return counts


def to_json(outcome: TasksOutcome) -> dict[str, Any]:
    """The document of `tasks_edge_api.py --json`."""
    return {
        "summary": summary(outcome),
        "link": asdict(outcome.first_link) | {"history": [list(pair) for pair in outcome.history]},
        "times": speeds_json(outcome.edge_speed, outcome.cloud_speed),
        "tasks": [row(record) for record in outcome.records],
        "problems": [asdict(problem) for problem in outcome.problems],
    }


def line(record: TaskRecord, columns: int = 120) -> str:
    """One task for people, as it ends; in so many columns, of which a long name of a network gets what is left."""
    task = record.task
    when = f"{record.done_s:7.2f} s {task.id:>4} "
    if not record.completed_by or record.choice is None:
        error = f"{task.model} failed: {printable(record.error, 200)}"
        return fill(when + error, columns - 1, subsequent_indent=" " * len(when), break_on_hyphens=False)
    sent = f"{format_bytes(record.times.payload_bytes)} {record.codec}" if record.times.payload_bytes else "-"
    late = " late" if record.is_late else ""
    rest = f" point {record.choice.point:<3} {sent:<20} {format_seconds(record.total_s):>7} {record.completed_by}{late}"
    room = max(LEAST_NAME, min(LONGEST_NAME, columns - 1 - len(when) - REST))
    return f"{when}{middle_cut(task.model, room):<{room}}{rest}"


def progress_line(call: TasksRun, record: TaskRecord) -> str:
    """How far a call is, and what its link is like, when a task has ended."""
    conditions = None if call.cloud is None else call.cloud.conditions()
    link = None if conditions is None else conditions.link
    now = "no cloud" if link is None else format_rate(link.up_bytes_per_s)
    at = "" if record.choice is None else f", {record.task.model} at point {record.choice.point}"
    return f"{call.done} of {call.total} tasks{DETAIL}{now}{at}"


def summary_table(outcome: TasksOutcome) -> Table:
    """The figures for people."""
    figures = summary(outcome)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    wrong = "" if figures["wrong"] is None else f", {figures['wrong']} wrong"
    if figures["max_abs_diff"] is not None:
        wrong += f" (largest difference {figures['max_abs_diff']:.3g})"
    if figures["max_abs_diff_reason"]:
        wrong += f" ({figures['max_abs_diff_reason']})"
    more = "".join(f", {figures[name]} {name}" for name in ("late", "refused", "left", "skipped") if figures[name])
    table.add_row("tasks", f"{figures['completed']} done, {figures['failed']} failed{wrong}{more}")
    if not figures["completed"]:
        return table
    stages = figures["stages"]
    table.add_row("time", f"{format_seconds(figures['wall_s'])}, {figures['throughput_per_s']:.2f} tasks/s")
    table.add_row(
        "stages",
        f"edge {format_seconds(stages['edge_s'])}, link {format_seconds(stages['link_s'])}, "
        f"cloud {format_seconds(stages['cloud_s'])}; balance {figures['balance']:.2f} of 3",
    )
    if figures["bound_s"]:
        least = format_seconds(figures["bound_s"])
        table.add_row(
            "bound", f"{figures['bound_fraction']:.0%} of the maximum throughput: at least {least} in any order"
        )
    if figures["planned_s"]:
        planned, bound = format_seconds(figures["planned_s"]), format_seconds(figures["planned_bound_s"])
        table.add_row("planned", f"{planned}; lower bound over all cuts and orders {bound}")
    of = "from start to answer" if outcome.objective == "makespan" else "from arrival to answer"
    times = ", ".join(f"{name[:-2]} {format_seconds(figures[name])}" for name in ("p50_s", "p95_s", "p99_s"))
    table.add_row("latency", f"{times} ({of})")
    table.add_row("link", _link(outcome))
    table.add_row("cuts", "; ".join(f"{model} at {_counts(cuts)}" for model, cuts in figures["cuts"].items()))
    if figures["codecs"]:
        codecs = "; ".join(f"{model} as {_counts(names)}" for model, names in figures["codecs"].items())
        table.add_row("packed", f"{format_bytes(figures['raw_bytes'])} uncompressed; {codecs}")
    by = ", ".join(f"{count} {name}" for name, count in figures["completed_by"].items())
    table.add_row("completed by", by + (f"; connected {figures['connects']} times" if figures["connects"] > 1 else ""))
    for reason, count in Counter(r.error for r in outcome.records if r.completed_by == "fallback").most_common(SAID):
        table.add_row("fallback", f"{count} completed on the edge: {printable(reason, 200)}")
    if outcome.cloud_error:
        table.add_row("cloud", f"unreachable: {outcome.cloud_error}")
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _link(outcome: TasksOutcome) -> str:
    rates = [rate for _, rate in outcome.history] or [outcome.first_link.up_bytes_per_s]
    moves = f", {len(outcome.moves)} cut changes" if outcome.moves else ""
    ends = f"initially {format_rate(rates[0])}, {format_rate(min(rates))} to {format_rate(max(rates))}"
    return f"{ends}; {format_bytes(outcome.sent_bytes)} sent, {outcome.probes} probes{moves}"


def problem_lines(outcome: TasksOutcome) -> list[str]:
    """What was refused, a line each."""
    return [
        f"line {problem.line}: {printable(problem.text, 300)}" if problem.line else printable(problem.text, 300)
        for problem in outcome.problems
    ]


def write_files(outcome: TasksOutcome, csv_path: Path | None, excel: Path | None, plot: Path | None) -> None:
    """Those files that were asked for. Raises UsageError where one cannot be written.

    Nothing is written where no task ran, as may be with --resume: what an earlier call wrote is worth more.
    """
    for path, write in ((csv_path, write_csv), (excel, write_excel), (plot, write_plot)):
        if path is not None and outcome.records:
            write(outcome, path)


def write_csv(outcome: TasksOutcome, path: Path) -> None:
    """One line for each task. Raises UsageError where it cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row(record) for record in outcome.records)
    with writing(path):
        write_atomically(path, text.getvalue())


def write_excel(outcome: TasksOutcome, path: Path) -> None:
    """The same as a workbook, with the figures of the whole run. Raises UsageError where it cannot be written."""
    from edgecloud.utils.excel_utils import Sheet, write_workbook

    rows = [[_cell(value) for value in row(record).values()] for record in outcome.records]
    notes = {name: str(value) for name, value in summary(outcome).items()}
    with writing(path):
        write_workbook(path, [Sheet("tasks", COLUMNS, rows, chart=("id", "total_s"))], notes)


def _cell(value: Any) -> str | int | float:
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else str(value or "")


def write_plot(outcome: TasksOutcome, path: Path) -> None:
    """A waterfall of the first tasks. Raises UsageError where it cannot be written."""
    from edgecloud.utils.plots import Bar, Strip, waterfall

    done = sorted((record for record in outcome.records if record.completed_by), key=lambda record: record.started_s)
    strips = [
        Strip(
            printable(f"{record.task.id} {record.task.model}", 40),
            tuple(Bar(*bar) for bar in _bars(record)),
            _cut_and_time(record),
        )
        for record in done[:SHOWN]
    ]
    title = f"the first {len(strips)} of {len(done)} tasks" if len(done) > len(strips) else f"{len(done)} tasks"
    with writing(path):
        waterfall(path, strips, title)


def _cut_and_time(record: TaskRecord) -> str:
    """`point 8: 23.1 kB, 402 ms`, `all on the edge, 12 ms`: where a task was cut, what was sent, how long it took."""
    if record.completed_by == "edge" or record.choice is None:
        where = "all on the edge"
    elif record.choice.point == 0:
        where = f"all on the cloud: {format_bytes(record.times.payload_bytes)}"
    else:
        where = f"point {record.choice.point}: {format_bytes(record.times.payload_bytes)}"
    again = ", completed on the edge" if record.completed_by == "fallback" else ""
    return f"{where}, {format_seconds(record.total_s)}{again}"


SHOWN, SAID = 40, 3


def _bars(record: TaskRecord) -> list[tuple[str, float, float]]:
    """Stage, begin and length. When a task reached the cloud is known only from behind: its clock is another one."""
    times = record.times
    bars = [("edge", record.started_s, record.head_done_s - record.started_s + times.encode_s)]
    if record.completed_by in ("split", "cloud"):
        cloud_at = record.done_s - times.tail_s
        arrived_at = cloud_at - times.queue_s
        link_at = max(record.head_done_s + times.encode_s, arrived_at - times.upload_s)
        bars.append(("link", link_at, times.upload_s))
        bars.append(("cloud", cloud_at, times.tail_s))
    elif record.completed_by == "fallback":
        rest_s = times.edge_s - (record.head_done_s - record.started_s)
        bars.append(("fallback", record.done_s - rest_s, rest_s))
    return bars
