"""Inference tasks: random or read from a file, with arrival times. Files are data."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecloud.utils.errors import UsageError
from edgecloud.utils.sheets import read_workbook
from edgecloud.utils.tables import HEAD_LINES, Lines, Table, csv_lines, read_text, table_of

COLUMNS = ("model", "input", "priority", "deadline_ms")
MAX_FILE_BYTES, MAX_TASKS = 64 << 20, 1_000_000
MAX_PRIORITY = 1_000_000


@dataclass(frozen=True, slots=True)
class Task:
    """One inference that is to be done."""

    id: int
    """Of a file: its line."""
    model: str
    input: str = ""
    """A picture, .wav, .npy or .npz file, or `text:` and a sentence; empty: the network's sample."""
    priority: int = 0
    """Larger ones go first."""
    deadline_s: float | None = None
    """After its arrival."""
    arrival_s: float = 0.0
    """After the start; 0 for all tasks of a closed queue."""

    @property
    def due_s(self) -> float:
        """The deadline in seconds after the start; infinite where there is none."""
        return float("inf") if self.deadline_s is None else self.arrival_s + self.deadline_s

    @property
    def urgency(self) -> tuple[int, float]:
        """What smaller values of go first: priority, then deadline."""
        return -self.priority, self.due_s


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line of a file that is no task."""

    line: int
    text: str


def draw(count: int, seed: int, models: Sequence[str], inputs: Callable[[str], Sequence[str]]) -> list[Task]:
    """A reproducible mix: each task has a random network, and one of the inputs that serve for it."""
    rng = random.Random(seed)
    tasks = []
    for number in range(1, count + 1):
        model = rng.choice(models)
        tasks.append(Task(number, model, rng.choice(inputs(model))))
    return tasks


def arriving(tasks: Sequence[Task], rate_per_s: float, seed: int) -> list[Task]:
    """The same tasks as a Poisson process: the time between two arrivals is exponential with mean 1 / rate."""
    rng = random.Random(seed ^ 0x5EED)
    now, arrivals = 0.0, []
    for task in tasks:
        now += rng.expovariate(rate_per_s)
        arrivals.append(replace(task, arrival_s=now))
    return arrivals


def read_file(path: Path) -> tuple[list[Task], list[RejectedLine]]:
    """Tasks of a table (.csv, .tsv, .xlsx or .xls) with named columns, or a .jsonl, one object for each line.

    What is wrong is told by line; blank lines are skipped. An input is looked for where the program runs, then beside
    the table. Raises UsageError where nothing in it can be read.
    """
    tasks, problems = [], []
    for line, row in _READERS.get(path.suffix.lower(), _csv_rows)(path):
        try:
            tasks.append(_placed(_task(line, row), path.parent))
        except ValueError as error:
            problems.append(RejectedLine(line, str(error)))
        if len(tasks) > MAX_TASKS:
            raise UsageError(f"{path} contains more than {MAX_TASKS} tasks")
    if not tasks and not problems:
        raise UsageError(f"{path} contains no tasks: expected one line per task, with {', '.join(COLUMNS)}")
    return tasks, problems


_Rows = Sequence[tuple[int, Any]]


def _csv_rows(path: Path) -> _Rows:
    lines = csv_lines(path, read_text(path, MAX_FILE_BYTES), COLUMNS, MAX_TASKS + HEAD_LINES)
    return _table(str(path), lines).rows if lines else ()


def _workbook_rows(path: Path) -> _Rows:
    sheets = read_workbook(path, MAX_TASKS + HEAD_LINES)
    named = [name for name, lines in sheets.items() if _has_columns(lines)] or list(sheets)[:1]
    if len(named) > 1:
        raise UsageError(f"{path} contains tasks in two sheets, {named[0]!r} and {named[1]!r}: remove one of them")
    return _table(f"{path}, sheet {named[0]!r}", sheets[named[0]]).rows if named else ()


def _table(where: str, lines: Lines) -> Table:
    table = table_of(where, lines, COLUMNS, needed="model")
    if "model" not in table.columns:
        raise UsageError(f"{where}: expected a header with the columns {', '.join(COLUMNS)}")
    return table


def _has_columns(lines: Lines) -> bool:
    return any(cell.strip().lower() == "model" for _, cells in lines[:HEAD_LINES] for cell in cells)


def _json_rows(path: Path) -> _Rows:
    text = read_text(path, MAX_FILE_BYTES)
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


_READERS: dict[str, Callable[[Path], _Rows]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json_rows),
    **dict.fromkeys((".xlsx", ".xls"), _workbook_rows),
}
"""By the ending of the name; a table in text is told by none."""


def _task(line: int, row: Any) -> Task:
    """Raises ValueError with what is wrong."""
    if isinstance(row, str):
        row = _object(row)
    unknown = [str(name) for name in row if name not in COLUMNS]
    if unknown:
        raise ValueError(f"no column {unknown[0]!r}: choose {', '.join(COLUMNS)}")
    values = {name: "" if row.get(name) is None else row[name] for name in COLUMNS}
    model, source = values["model"], values["input"]
    if not isinstance(model, str) or not model.strip() or not isinstance(source, str):
        raise ValueError("model must be the name of a network, and input a file name")
    deadline_ms = _number(values["deadline_ms"], "deadline_ms")
    priority = _number(values["priority"], "priority")
    if priority is not None and (priority % 1 or abs(priority) > MAX_PRIORITY):
        raise ValueError(f"priority {values['priority']!r} is not a whole number up to {MAX_PRIORITY}")
    seconds = None if deadline_ms is None else deadline_ms / 1e3
    return Task(line, model.strip(), source.strip(), int(priority or 0), seconds)


def _placed(task: Task, folder: Path) -> Task:
    """A file that is not where the program runs may lie beside the table that names it."""
    try:
        is_beside = bool(task.input) and not Path(task.input).exists() and (folder / task.input).is_file()
    except (OSError, ValueError):  # no name of a file, a sentence say
        return task
    return replace(task, input=str(folder / task.input)) if is_beside else task


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not a JSON object") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _number(value: Any, name: str) -> float | None:
    if value == "":
        return None
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < 1e12:  # also NaN
        raise ValueError(f"{name} {value!r} is not a number")
    return number
