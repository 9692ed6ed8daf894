"""Inference tasks: drawn at random, or read from a file; and when they arrive. Files are read, nothing is run."""

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.errors import UsageError
from utils.files import require_file

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
    """A picture, .wav or .npy file, or `text:` and a sentence; empty: the network's sample."""
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
class Problem:
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
    now, found = 0.0, []
    for task in tasks:
        now += rng.expovariate(rate_per_s)
        found.append(replace(task, arrival_s=now))
    return found


def read_file(path: Path) -> tuple[list[Task], list[Problem]]:
    """Tasks of a .csv with a head line, or a .jsonl, one object for each line. What is wrong is told by line.

    Raises UsageError where nothing in it can be read.
    """
    require_file(path)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None
    rows = _json_rows(text) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv_rows(path, text)
    tasks, problems = [], []
    for line, row in rows:
        try:
            tasks.append(_task(line, row))
        except ValueError as error:
            problems.append(Problem(line, str(error)))
        if len(tasks) > MAX_TASKS:
            raise UsageError(f"{path} holds more than {MAX_TASKS} tasks")
    if not tasks and not problems:
        raise UsageError(f"{path} holds no tasks: give a line for each, with {', '.join(COLUMNS)}")
    return tasks, problems


def _csv_rows(path: Path, text: str) -> list[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text), restkey="", strict=False)
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        if names and "model" not in names:
            raise UsageError(f"{path}: the first line has to name the columns: {', '.join(COLUMNS)}")
        reader.fieldnames = names
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}") from None


def _json_rows(text: str) -> list[tuple[int, Any]]:
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _task(line: int, row: Any) -> Task:
    """Raises ValueError with what is wrong."""
    if isinstance(row, str):
        row = _object(row)
    unknown = [str(name) for name in row if name not in COLUMNS]
    if unknown:
        raise ValueError(f"no column {unknown[0]!r}: there are {', '.join(COLUMNS)}")
    values = {name: "" if row.get(name) is None else row[name] for name in COLUMNS}
    model, source = values["model"], values["input"]
    if not isinstance(model, str) or not model.strip() or not isinstance(source, str):
        raise ValueError("model has to be the name of a network, and input of a file")
    deadline_ms = _number(values["deadline_ms"], "deadline_ms")
    priority = _number(values["priority"], "priority")
    if priority is not None and (priority % 1 or abs(priority) > MAX_PRIORITY):
        raise ValueError(f"priority {values['priority']!r} is not a whole number up to {MAX_PRIORITY}")
    seconds = None if deadline_ms is None else deadline_ms / 1e3
    return Task(line, model.strip(), source.strip(), int(priority or 0), seconds)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not a JSON object") from None
    if not isinstance(found, dict):
        raise ValueError("is not a JSON object")
    return found


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
