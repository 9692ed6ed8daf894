"""The measurements that an experiment needs, those that exist, and their results. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from edgecloud.lab.baselines.registry import AUTO, AUTO_RAW, CONTENDERS, OF_THE_OBJECTIVE, POINT
from edgecloud.lab.records import Cell, CellRecord
from edgecloud.lab.regret import MeasuredCut, Regret, regret
from edgecloud.lab.spec import Spec
from edgecloud.lab.testbed import LinkSpec

SPREAD = 0.15
"""Of the totals of one point, over their median, above which they are measured again ..."""
LEAST_SPREAD_S = 0.001
"""... unless they lie as close together as this."""
MOST_ATTEMPTS = 3
LEAST_POINTS = 3
"""Fixed points that a best one is the best of: with both ends alone nobody knows what a choice in between is worth."""
SUPERSEDED, UNSTABLE, FALLBACK = "superseded", "unstable", "fallback"
"""Flags of records: measured again because the times were too far apart; the last attempt was no better; the cloud did
not answer."""


@dataclass(frozen=True)
class Place:
    """A cell with the link that it is measured on."""

    cell: Cell
    link: LinkSpec


@dataclass(frozen=True)
class Want:
    """One group of repeats."""

    who: str
    asked: str
    """What `edge_api.py --points` is asked; "" for a baseline that has not chosen yet."""


def places(spec: Spec) -> list[Place]:
    """All cells of an experiment, in the order in which they are measured."""
    all_places = []
    rates: list[Path | None] = [Path(name) for name in spec.traces]
    for model, share, link, trace, objective in product(
        spec.models, spec.cpu, spec.links, rates or [None], spec.objectives
    ):
        name = None if trace is None else trace.stem
        cell = Cell(model, share, link.shape, link.name, name, objective, link.radio, spec.power)
        all_places.append(Place(cell, LinkSpec(link.name, link.shape, link.radio, trace)))
    return all_places


def wants(spec: Spec, points: int, objective: str) -> list[Want]:
    """What is measured in a cell of a network with so many points: the edge's own choice first, baselines next.

    Whose cut does not depend on the objective is measured under the first one alone. The points of `contenders` are
    not among them: which they are is only known once these are measured.
    """
    names = [name for name in spec.baselines if name != AUTO]
    points_text = "" if spec.points == CONTENDERS else spec.points
    parts = [part.strip() for part in points_text.split(",") if part.strip()]
    is_auto = AUTO in spec.baselines or AUTO in parts
    point_texts = [number for part in parts if part != AUTO for number in _written_out(part, points, spec.codec)]
    measurements = [Want(AUTO, AUTO)] if is_auto else []
    measurements += [*(Want(name, "") for name in names), *(Want(POINT, text) for text in dict.fromkeys(point_texts))]
    return [want for want in measurements if want.who in OF_THE_OBJECTIVE or objective == spec.objectives[0]]


def _written_out(part: str, points: int, codec: str) -> Iterator[str]:
    """One entry of a list of points, each with its codec; what is wrong with it the edge will say."""
    name, colon, own = part.partition(":")
    ending = f":{own}" if colon else f":{codec}"
    first, dash, last = name.partition("-")
    if name == "all":
        yield from (f"{number}{ending}" for number in range(points))
    elif dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < points:
        yield from (f"{number}{ending}" for number in range(int(first), int(last) + 1))
    else:
        yield f"{name}{ending}"


Key = tuple[str, str, str]


def key_of(cell: Cell, who: str, asked: str) -> Key:
    """What the repeats of one group have in common; of a baseline whatever it chose."""
    return cell.key, who, asked if who == POINT else ""


def groups(records: Iterable[CellRecord]) -> dict[Key, list[CellRecord]]:
    """The records of the last attempt of every group."""
    by_key: dict[Key, list[CellRecord]] = {}
    for record in records:
        group = by_key.setdefault(key_of(record.cell, record.who, record.asked), [])
        if group and record.attempt > group[0].attempt:
            group.clear()
        if not group or record.attempt == group[0].attempt:
            group.append(record)
    return by_key


def next_attempt(group: Sequence[CellRecord], repeat: int) -> int | None:
    """Which attempt at a group is to be made next, None where what there is will do."""
    if not group:
        return 0
    is_done = len(group) >= repeat and SUPERSEDED not in group[0].flags
    return None if is_done else group[0].attempt + 1


def missing(
    place: Place, candidates: Iterable[Want], done: Mapping[Key, Sequence[CellRecord]], repeat: int
) -> Iterator[Want]:
    """What is not there yet."""
    for want in candidates:
        if next_attempt(done.get(key_of(place.cell, want.who, want.asked), []), repeat) is not None:
            yield want


def is_spread(totals_s: Sequence[float]) -> bool:
    """Whether repeats are too far apart to say much."""
    apart = max(totals_s) - min(totals_s)
    return apart > max(LEAST_SPREAD_S, SPREAD * median(totals_s))


def flags_for(totals_s: Sequence[float], tries: int, *, is_fallback: bool) -> tuple[str, ...]:
    """Those of an attempt; `tries` is how many were made in this run, this one included."""
    flags = (FALLBACK,) if is_fallback else ()
    if not is_spread(totals_s):
        return flags
    return (*flags, SUPERSEDED if tries < MOST_ATTEMPTS else UNSTABLE)


@dataclass(frozen=True)
class Best:
    """What was found in one cell, in seconds; None where it was not measured."""

    cell: Cell
    point: int | None
    layer: str
    total_s: float
    auto_point: int | None
    auto_s: float | None
    """Of the edge's own choice as it was measured; of `auto-raw` where only that was run."""
    own_regret: Regret | None
    """That choice against the best point."""
    is_unstable: bool
    known_points: int
    """How many fixed points were measured, or cannot be the best."""

    @property
    def regret(self) -> Regret | None:
        """Of the edge's own choice (lab.regret); None where too few points were measured to call one the best."""
        return None if self.known_points < LEAST_POINTS else self.own_regret


def summary(records: Iterable[CellRecord], *, is_exhaustive: bool = False) -> list[Best]:
    """The best point and the edge's choice, by time, for every cell that has points: those of the first objective.

    `is_exhaustive` says that points without a record cannot be the best (lab.pruning).
    """
    by_key = groups(records)
    cells: dict[str, list[list[CellRecord]]] = {}
    for (cell, _, _), group in by_key.items():
        cells.setdefault(cell, []).append(group)
    return [best for group in cells.values() if (best := _best(group, is_exhaustive)) is not None]


def _best(cell_groups: Sequence[list[CellRecord]], is_exhaustive: bool) -> Best | None:
    right = [group for group in cell_groups if not any(record.matches is False for record in group)]
    totals = [(median(record.total_s for record in group), group) for group in right]
    points = [pair for pair in totals if pair[1][0].who == POINT]
    if not points:
        return None
    total_s, group = min(points, key=lambda pair: pair[0])
    autos = {other[0].who: (s, other) for s, other in totals if other[0].who in (AUTO, AUTO_RAW)}
    first = group[0]
    known_points = int(first.plan.get("points", len(points))) if is_exhaustive else len(points)
    is_unstable = any(UNSTABLE in record.flags for group in cell_groups for record in group)
    if not autos:
        return Best(first.cell, first.point, first.layer, total_s, None, None, None, is_unstable, known_points)
    auto_s, auto = autos.get(AUTO) or autos[AUTO_RAW]
    own_regret = regret(_run(auto), [_run(other) for _, other in points], [_run(other) for _, other in totals])
    return Best(
        first.cell, first.point, first.layer, total_s, auto[0].point, auto_s, own_regret, is_unstable, known_points
    )


def _run(group: Sequence[CellRecord]) -> MeasuredCut:
    """The repeats of one cut for lab.regret."""
    first = group[0]
    return MeasuredCut.of((first.point, "" if first.ran_here else first.codec), [record.total_s for record in group])


def agreement(
    mine: Sequence[Best], theirs: Sequence[Best], close: float = 0.10
) -> Mapping[str, tuple[Best, Best, bool]]:
    """Cells that two runs share: the same best point, or totals of the best that are within `close` of each other."""
    others = {best.cell.key: best for best in theirs}
    return {
        best.cell.key: (best, other, best.point == other.point or abs(other.total_s / best.total_s - 1) <= close)
        for best in mine
        if (other := others.get(best.cell.key)) is not None
    }
