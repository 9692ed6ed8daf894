"""Fixed points that can still be optimal in a cell: those that a lower bound does not exclude.

Pure, but for `floor_of`, which reads a power profile.

An inference that is cut at a point computes the head, then sends the boundary. Heads grow from point to point, so
it takes no less than

    edge seconds of any earlier point, as measured + bytes that cross / upload rate

and, by the same reasoning, no fewer joules than these seconds times the watts of computing and of sending. Where that
is more than the least that any fixed point took, the point need not be measured: it is beaten. So a link of 1 mbit is
searched whole in minutes instead of hours.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from edgecloud.lab.baselines.registry import AUTO, POINT
from edgecloud.lab.grid import FALLBACK, Key, Place, Want, missing
from edgecloud.lab.records import Cell, CellRecord
from edgecloud.lab.spec import OBJECTIVES, Spec
from edgecloud.lab.token_bucket import burst_bytes
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import parse_link

CROSSING = "boundary_bytes"
"""The key in the plan of `auto` under which a record has the boundary size of each point."""
SURE = 0.9
"""Of a bound: what the noise of a measured head, and bytes that are packed anew, may take away from it."""


@dataclass(frozen=True)
class Floor:
    """What an inference costs at least, in seconds or joules."""

    crossing: Sequence[int]
    """Bytes that cross at each point, packed as the edge would."""
    up_bytes_per_s: float
    compute_w: float = 1.0
    """Joules for each second of the head; 1 where seconds are judged."""
    transmit_w: float = 1.0

    def at(self, point: int, head_s: float) -> float:
        """At a point whose head takes no less than `head_s` seconds."""
        # the rest leaves an idle link at once
        queued_bytes = max(0, self.crossing[point] - burst_bytes(self.up_bytes_per_s))
        return self.compute_w * head_s + self.transmit_w * queued_bytes / self.up_bytes_per_s

    def beaten(self, heads_s: Mapping[int, float], best: float) -> frozenset[int]:
        """Points that cost more than `best` in any case; `heads_s` are measured seconds of the edge, by point."""
        points, head_s = set(), 0.0
        for point in range(len(self.crossing)):
            if point in heads_s:  # no head takes longer than a later one: one that met a busy moment rules out nothing
                head_s = max(head_s, min(seconds for later, seconds in heads_s.items() if later >= point))
            if SURE * self.at(point, head_s) > best:
                points.add(point)
        return frozenset(points)


def floor_of(cell: Cell, objective: str, crossing: Sequence[int]) -> Floor | None:
    """The floor of a cell by the shape of its link; None where a trace changes its rate, or nothing is known.

    Reads the power profile where joules are judged; records may be from another machine, which has it.
    """
    if cell.trace is not None or objective not in OBJECTIVES:
        return None
    up_bytes_per_s, _, _ = parse_link(cell.link)
    if objective == "latency":
        return Floor(crossing, up_bytes_per_s)
    from edgecloud.client.power import PowerChoice

    try:
        power = PowerChoice.of(cell.power, cell.radio)
    except UsageError:
        return None
    return Floor(crossing, up_bytes_per_s, power.profile.compute_w, power.radio.transmit_w(up_bytes_per_s))


def value_of(record: CellRecord, objective: str) -> float | None:
    """What is least under an objective: seconds, or joules of the edge, None where none were modelled."""
    return record.total_j if objective == "energy" else record.total_s


def next_contender(place: Place, spec: Spec, done: Mapping[Key, list[CellRecord]]) -> Want | None:
    """The first fixed point of a cell that is still to be measured; None where no other one can be the best.

    `done` has to hold the automatic choice, whose plan has the boundary sizes; raises UsageError where it does not.
    Under several objectives a point is only beaten if it is under each.
    """
    if place.cell.objective != spec.objectives[0]:
        return None  # the same inferences are measured in the cell of that one
    groups = [group for group in done.values() if group and group[0].cell.is_like(place.cell)]
    crossing = next((sizes for group in groups if (sizes := group[0].plan.get(CROSSING))), None)
    if crossing is None:
        raise UsageError("records lack boundary sizes: use points all, or another --out")
    rivals = [group for group in groups if _is_rival(group[0], place.cell, spec.codec)]
    beaten = frozenset.intersection(*(_beaten(place.cell, name, crossing, groups, rivals) for name in spec.objectives))
    likely = next((group[0].point for group in groups if group[0].who == AUTO), None)
    order = sorted(range(len(crossing)), key=lambda point: point != likely)  # a good one first: it rules others out
    candidates = (Want(POINT, f"{point}:{spec.codec}") for point in order if point not in beaten)
    return next(missing(place, candidates, done, spec.repeat), None)


def _is_rival(record: CellRecord, cell: Cell, codec: str) -> bool:
    is_own = record.who != AUTO or record.cell == cell
    return is_own and is_rival(record.who, record.point, record.asked, {codec}, ran_here=record.ran_here)


def is_rival(who: str, point: int | None, asked: str, codecs: Collection[str], *, ran_here: bool) -> bool:
    """Whether a measurement is as good as that of a fixed point, where these are packed by `codecs`."""
    if point is None:
        return False
    packing = "auto" if who == AUTO else asked.rpartition(":")[2]
    return who == POINT or packing in codecs or ran_here  # which packs nothing


def _beaten(
    cell: Cell,
    objective: str,
    crossing: Sequence[int],
    groups: Sequence[list[CellRecord]],
    rivals: Sequence[list[CellRecord]],
) -> frozenset[int]:
    floor = floor_of(cell, objective, crossing)
    good = [group for group in groups if _is_good(group)]
    values = [[v for r in group if (v := value_of(r, objective)) is not None] for group in rivals if _is_good(group)]
    best = min((median(numbers) for numbers in values if numbers), default=None)
    if floor is None or best is None:
        return frozenset()
    return floor.beaten(heads_of((r.point, float(r.measured["edge_s"])) for group in good for r in group), best)


def _is_good(group: Sequence[CellRecord]) -> bool:
    return not any(FALLBACK in record.flags or record.matches is False for record in group)


def heads_of(samples: Iterable[tuple[int | None, float]]) -> dict[int, float]:
    """The least seconds that the edge was seen to need at each point."""
    heads: dict[int, float] = {}
    for point, edge_s in samples:
        if point is not None:
            heads[point] = min(edge_s, heads.get(point, edge_s))
    return heads
