"""The lab's records: one JSON line per measurement, and the environment that all of them share.

Lines are only ever appended, each one flushed and synced before the next measurement. A crash can leave half a line at
the end; `open_records` cuts it off, and `read` passes over it.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgecloud.utils.errors import AppError, MismatchError, UsageError
from edgecloud.utils.files import write_atomically

SCHEMA = 1
EDGE = "edge"
"""`completed_by` of an inference that needed no cloud."""
SPEC, ENVIRONMENT, RECORDS, LOGS = "spec.toml", "environment.json", "records.jsonl", "logs"
MAX_LINE = 16 << 20
NOT_COMPARED = ("why_mode", "started", "schema", "warnings")
"""Fields of an environment that may differ between measurements in one table."""


@dataclass(frozen=True)
class Cell:
    """What is the same for all measurements that are compared with each other."""

    model: str
    cpu: float | None
    """Share of one core that the edge has; None is without a limit."""
    link: str
    """UP[,RTT[,DOWN]], as --emulate-link takes it."""
    link_name: str
    trace: str | None = None
    """Name of the trace that is replayed on the link; None where the link stays as it is."""
    objective: str = "latency"
    radio: str = "wifi"
    power: str = "raspberry_pi_4"

    @property
    def key(self) -> str:
        """The same text for the same cell, for names and look-ups."""
        return json.dumps(asdict(self), sort_keys=True)

    def is_like(self, other: "Cell") -> bool:
        """Whether both are the same but for their objectives."""
        return replace(self, objective=other.objective) == other

    @property
    def slug(self) -> str:
        """A short name that serves as a file's."""
        cpu = "full" if self.cpu is None else f"{self.cpu:g}"
        words = [self.model, f"cpu{cpu}", self.link_name, self.trace or "", self.objective]
        plain = "_".join("".join(c if c.isalnum() or c in ".-" else "-" for c in word) for word in words if word)
        return f"{plain}-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class CellRecord:
    """One inference of one cell. All durations in seconds, sizes in bytes."""

    environment: str
    """The key of the environment that it was measured in."""
    at: str
    """When, ISO 8601 with a time zone."""
    cell: Cell
    who: str
    """`point` for a point that the spec names, `auto` for the edge's own choice, or a baseline by name."""
    point: int | None
    """None where several tensors cross."""
    layer: str
    codec: str
    repeat: int
    plan: Mapping[str, Any]
    """The edge's `plan`, with what was predicted."""
    link_seen: Mapping[str, Any] | None
    """The edge's `link`; None where it had no cloud."""
    measured: Mapping[str, float]
    energy: Mapping[str, Any] | None
    result_top: int | None
    """Index of the first answer."""
    completed_by: str
    matches: bool | None = None
    """Whether the answer was the whole network's; None where that was not checked."""
    attempt: int = 0
    """0, or how often this was measured before because the times were too far apart."""
    flags: tuple[str, ...] = ()

    @property
    def total_s(self) -> float:
        """From the input to the answer, on the edge's clock."""
        return float(self.measured["total_s"])

    @property
    def total_j(self) -> float | None:
        """Joules of the edge, modelled from the measured stages; None where they were not."""
        stages = (self.energy or {}).get("measured_stages") or {}
        return None if stages.get("total_j") is None else float(stages["total_j"])

    @property
    def asked(self) -> str:
        """What the edge was asked for; "" where an old record does not say."""
        return str(self.plan.get("asked", ""))

    @property
    def ran_here(self) -> bool:
        """Whether everything ran on the edge, as was wanted."""
        return self.completed_by == EDGE

    def to_json(self) -> dict[str, Any]:
        """The line."""
        return {"schema": SCHEMA, **asdict(self), "flags": list(self.flags)}

    @classmethod
    def from_json(cls, document: Any) -> "CellRecord":
        """A line back. Raises ValueError where it is none."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"not a record of schema {SCHEMA}")
        names = {each.name for each in fields(cls)}
        try:
            values = {name: value for name, value in document.items() if name in names}
            cell = Cell(**{each.name: values["cell"][each.name] for each in fields(Cell)})
            record = cls(**(values | {"cell": cell, "flags": tuple(values.get("flags", ()))}))
            if not math.isfinite(record.total_s):
                raise ValueError("a time is not finite")
        except (KeyError, TypeError) as error:
            raise ValueError(f"a field is missing or wrong: {error}") from None
        return record


@dataclass(frozen=True)
class Environment:
    """Where and with what the measurements of one folder were made."""

    mode: str
    """`hosts` or `emulated`."""
    why_mode: str
    host: Mapping[str, Any]
    versions: Mapping[str, str]
    threads: int
    congestion_control: str
    started: str
    cpu_period_s: float | None = None
    """Of the quota, in hosts mode."""
    warnings: tuple[Mapping[str, str], ...] = ()
    """What `lab doctor` warned of while it was measured: name, found, to_do."""
    schema: int = field(default=SCHEMA)

    @property
    def comparable(self) -> dict[str, Any]:
        """What must be the same for two measurements to stand in one table."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_COMPARED}

    @property
    def key(self) -> str:
        """A digest of that."""
        return hashlib.sha256(json.dumps(self.comparable, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: "Environment") -> list[str]:
        """What is not the same, as lines to read: `host.kernel: 6.1 there, 6.2 here`."""
        mine, yours = _flat(self.comparable), _flat(other.comparable)
        names = sorted(mine.keys() | yours.keys())
        return [f"{n}: {mine.get(n)} recorded, {yours.get(n)} now" for n in names if mine.get(n) != yours.get(n)]

    def to_json(self) -> dict[str, Any]:
        """environment.json."""
        return {**asdict(self), "warnings": [dict(each) for each in self.warnings], "key": self.key}

    @classmethod
    def from_json(cls, document: Any) -> "Environment":
        """environment.json back. Raises ValueError where it is none."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"not an environment of schema {SCHEMA}")
        try:
            values = {each.name: document[each.name] for each in fields(cls) if each.name != "warnings"}
            return cls(**values, warnings=_warnings(document.get("warnings", ())))
        except (KeyError, TypeError) as error:
            raise ValueError(f"a field is missing or wrong: {error}") from None


def _warnings(entries: Any) -> tuple[Mapping[str, str], ...]:
    """Those of a document; older ones have none."""
    return tuple({name: str(each[name]) for name in ("name", "found", "to_do")} for each in entries)


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in document.items():
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return values


class Writer:
    """Appends records to a folder's file, one line at a time, each safe on the disk before `append` returns."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORDS
        try:
            _cut_torn_line(self._path)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}") from None

    def append(self, record: CellRecord) -> None:
        """Raises AppError where the disk does not take it; what could not be written whole is taken back."""
        line = json.dumps(record.to_json(), allow_nan=False).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                os.write(self._descriptor, line[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise AppError(
                f"cannot write {self._path}: {error.strerror}; earlier records are kept, run again to resume"
            ) from None

    def close(self) -> None:
        """No more records."""
        os.close(self._descriptor)


@contextlib.contextmanager
def open_records(folder: Path) -> Iterator[Writer]:
    """A writer for a folder; a torn last line is cut off. Raises UsageError where nothing can be written there."""
    writer = Writer(folder)
    try:
        yield writer
    finally:
        writer.close()


def _cut_torn_line(path: Path) -> None:
    """Take back the half line that a crash left."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - MAX_LINE))
        tail = file.read()
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            file.truncate(end - len(tail) + whole)


def write_environment(folder: Path, environment: Environment) -> None:
    """Write environment.json, or check the one that is there.

    Raises MismatchError where the folder holds measurements of another device or mode.
    """
    path = folder / ENVIRONMENT
    if path.exists():
        before = read_environment(folder)
        different = before.differences(environment)
        if different:
            raise MismatchError(
                f"{folder} contains measurements of another environment ({'; '.join(different)}): use another --out"
            )
        names = {each["name"] for each in before.warnings}
        fresh = tuple(each for each in environment.warnings if each["name"] not in names)
        if not fresh:
            return
        environment = replace(before, warnings=(*before.warnings, *fresh))
    write_atomically(path, json.dumps(environment.to_json(), indent=1) + "\n")


def read_environment(folder: Path) -> Environment:
    """The environment of a folder. Raises UsageError where there is none that can be read."""
    path = folder / ENVIRONMENT
    try:
        return Environment.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(f"{folder} contains no results of `lab run`: no {ENVIRONMENT}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error})") from None


def read(folder: Path) -> tuple[Environment, tuple[CellRecord, ...]]:
    """Everything that was measured into a folder, in order; half a line at the end is passed over.

    Raises UsageError where the folder has no results, or a line is damaged.
    """
    environment, path = read_environment(folder), folder / RECORDS
    records: list[CellRecord] = []
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            records.append(CellRecord.from_json(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
        if records[-1].environment != environment.key:
            raise UsageError(f"{path}, line {number}: recorded in another environment than {ENVIRONMENT}")
    return environment, tuple(records)
