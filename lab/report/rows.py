"""Aggregated measurements: a row for each cut, or way of choosing, of each cell. Pure.

Medians and spreads are over the repeats of the last attempt. What the edge had to finish without the cloud is counted,
and is in no median.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgecloud.lab.baselines.registry import POINT
from edgecloud.lab.grid import FALLBACK, UNSTABLE
from edgecloud.lab.pruning import CROSSING
from edgecloud.lab.records import EDGE, Cell, CellRecord

Parts = Callable[[Mapping[str, Any]], float]
STAGES: dict[str, Parts] = {
    "total": lambda times: times["total_s"],
    "local": lambda times: times["edge_s"] + times.get("encode_s", 0.0),
    "transfer": lambda times: times["transfer_s"],
    "cloud": lambda times: times.get("queue_s", 0.0) + times["cloud_s"],
}
"""What the student's table calls the stages, from the names of `measured` and `predicted`; seconds."""
PARTS = tuple(name for name in STAGES if name != "total")


@dataclass(frozen=True)
class Numbered:
    """A record and its line in records.jsonl, from 1."""

    line: int
    record: CellRecord


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """The repeats of one cut, or of one way of choosing, in one cell."""

    cell: Cell
    who: str
    point: int | None
    layer: str
    codec: str
    asked: str
    """What the edge was asked for; "" where the record does not say."""
    points: int | None
    """How many points the network has, where the record says so."""
    lines: tuple[int, ...]
    """Of the records that the numbers are from; of those that failed where all did."""
    stages: Mapping[str, Spread]
    """By the names of STAGES, in seconds; empty where nothing was measured."""
    predicted: Mapping[str, float]
    """The same, of the plan; without what it does not have."""
    payload_bytes: int
    raw_bytes: int
    received_bytes: int
    energy_j: Spread | None
    """Modelled for the edge, from the measured stages."""
    completed_by: frozenset[str]
    fallbacks: int
    edge_s: float | None
    """The least seconds of the head."""
    crossing: tuple[int, ...]
    """Bytes that would cross at each point, where the record says so."""
    wrong: int
    """Of the measured ones, how many gave another answer than the whole network does."""
    is_unstable: bool

    @property
    def is_measured(self) -> bool:
        """Whether there is a number."""
        return bool(self.stages)

    @property
    def ran_here(self) -> bool:
        """Whether everything ran on the edge, as was wanted, every time."""
        return self.completed_by == {EDGE}

    @property
    def total_s(self) -> float:
        """Median of the wall clock; only where it was measured."""
        return self.stages["total"].median

    @property
    def repeats(self) -> int:
        """How many measurements the medians are of."""
        return len(self.lines) if self.is_measured else 0


def number(records: Iterable[CellRecord]) -> tuple[Numbered, ...]:
    """`lab.records.read` gives every line, in order."""
    return tuple(Numbered(line, record) for line, record in enumerate(records, start=1))


def _key(record: CellRecord) -> tuple[Any, ...]:
    if record.who != POINT:
        return record.cell, record.who
    cut = record.asked or (record.point, record.layer, record.codec)
    return record.cell, record.who, cut  # how it was packed may differ from attempt to attempt


def rows_of(records: Iterable[Numbered]) -> tuple[Row, ...]:
    """One row for each cell and cut, or way of choosing, in the order of their first records."""
    groups: dict[tuple[Any, ...], list[Numbered]] = {}
    for each in records:
        groups.setdefault(_key(each.record), []).append(each)
    return tuple(_row(group) for group in groups.values())


def _row(group: Sequence[Numbered]) -> Row:
    attempt = max(each.record.attempt for each in group)
    latest = [each for each in group if each.record.attempt == attempt]
    fallbacks = [each for each in latest if each.record.completed_by == FALLBACK]
    good = [each for each in latest if each not in fallbacks]
    last, measured = (good or latest)[-1].record, [each.record.measured for each in good]
    joules = [j for each in good if (j := each.record.total_j) is not None]
    return Row(
        cell=last.cell,
        who=last.who,
        point=last.point,
        layer=last.layer,
        codec=last.codec,
        asked=last.asked,
        points=last.plan.get("points"),
        lines=tuple(each.line for each in good or latest),
        stages={name: Spread.of([part(times) for times in measured]) for name, part in STAGES.items() if measured},
        predicted=_predicted(last),
        payload_bytes=int(last.measured.get("payload_bytes", 0)),
        raw_bytes=int(last.measured.get("raw_bytes", 0)),
        received_bytes=int(last.measured.get("received_bytes", 0)),
        energy_j=Spread.of(joules) if joules else None,
        completed_by=frozenset(each.record.completed_by for each in good),
        fallbacks=len(fallbacks),
        edge_s=min((float(times["edge_s"]) for times in measured), default=None),
        crossing=tuple(last.plan.get(CROSSING, ())),
        wrong=sum(each.record.matches is False for each in good),
        is_unstable=any(UNSTABLE in each.record.flags for each in latest),
    )


def _predicted(record: CellRecord) -> dict[str, float]:
    stages = record.plan.get("predicted") or {}
    values: dict[str, float] = {}
    for name, part in STAGES.items():
        try:
            values[name] = float(part(stages))
        except (KeyError, TypeError):
            continue
    return values
