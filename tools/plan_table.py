"""A decision next to its alternatives, as a table. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.chain import Candidate
from edgecloud.partition.cost import Part, StageTimes
from edgecloud.partition.decide import Decision
from edgecloud.partition.gain import Gain
from edgecloud.partition.objectives import OBJECTIVES
from edgecloud.partition.overlap import Overlap
from edgecloud.partition.packing import RAW
from edgecloud.partition.timeline import spans
from edgecloud.utils.later import later
from edgecloud.utils.units import format_bytes, format_seconds, middle_cut, printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text
else:  # only what is for people needs them
    Table, Text = (later("rich.table", "Table"), later("rich.text", "Text"))

BAR = 32
SHOWN = 30
BEST_SHOWN = 12
NAME, LEAST_NAME = 60, 8
BESIDE_NAME, GAIN = 42, 8
"""Columns of the table beside the names and the bars, and of the gain, where that is of the time."""
MOST_GAIN = 999.0
STAGES = (
    *(("edge_s", "green", "█"), ("encode_s", "magenta", "▚"), ("transfer_s", "yellow", "▒"), ("queue_s", "red", "░")),
    ("cloud_s", "blue", "▓"),
)
"""As in every JSON document: unpacking is in the cloud's seconds, and all of them are the total and what is hidden."""


def candidates_table(
    graph: LayerGraph, decision: Decision, up_bytes_per_s: float | None = None, width: int = 200
) -> Table:
    """Every point, or of many the best ones, and what was decided; where `width` columns are not enough for names and
    bars, both get shorter."""
    gain = decision.gain if decision.objective == "latency" else None
    beside = BESIDE_NAME + (0 if gain is None else GAIN)
    bar = min(BAR, max(width - beside - 2 * LEAST_NAME, 8))
    most = max(LEAST_NAME, min(NAME, width - beside - bar))
    chosen = decision.point(graph)
    rows = _shown(decision.candidates, chosen)
    table = Table(box=None, pad_edge=False, title=_title(len(decision.candidates), len(rows)), title_justify="left")
    for name in ("", "point", "after", "transfer size", "total", *([] if gain is None else ["gain"]), "predicted"):
        is_number = name in ("point", "transfer size", "total", "gain")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    longest = max(predicted.total_s for predicted in (*(c.predicted for c in rows), decision.predicted))
    if chosen is None:
        boundary_bytes = graph.bytes_of(decision.boundary(graph)) if up_bytes_per_s is None else None
        if up_bytes_per_s is not None:
            boundary_bytes = round(decision.predicted.upload_s * up_bytes_per_s)  # as packed, like those of the points
        names = ("→", "-", middle_cut(short_name(graph, decision), most))
        _add(table, names, boundary_bytes or 0, decision.predicted, gain, longest, bar)
    for candidate in rows:
        number, layer = candidate.point.number, graph.name_at(candidate.point.number)
        names = ("→" if number == chosen else "", str(number), middle_cut(printable(layer, NAME), most))
        _add(table, names, candidate.boundary_bytes, candidate.predicted, gain, longest, bar)
    return table


def _add(
    table: Table,
    names: tuple[str, str, str],
    boundary_bytes: int,
    predicted: StageTimes,
    gain: Gain | None,
    longest: float,
    bar: int,
) -> None:
    style = "bold" if names[0] else ""
    size = format_bytes(boundary_bytes) if boundary_bytes else "-"
    over = [] if gain is None else [f"{min(gain.of(predicted.total_s), MOST_GAIN):.2f} x"]
    table.add_row(*names, size, format_seconds(predicted.total_s), *over, _bar(predicted, longest, bar), style=style)


def _shown(candidates: Sequence[Candidate], chosen: int | None) -> list[Candidate]:
    """All candidates, or of many the ends, the chosen one and the best."""
    if len(candidates) <= SHOWN:
        return list(candidates)
    best = sorted(candidates, key=lambda c: c.predicted.total_s)[:BEST_SHOWN]
    numbers = {c.point.number for c in (candidates[0], candidates[-1], *best)} | {chosen}
    return [c for c in candidates if c.point.number in numbers]


def _title(count: int, shown: int) -> str:
    return "" if shown == count else f"\nboth ends and the best of {count} points (all: --json)"


def _bar(predicted: StageTimes, longest: float, most: int) -> Text:
    bar, seconds = Text(), predicted.to_json()
    if predicted.hidden_s <= 0:
        for name, color, block in STAGES:
            bar.append(block * (round(most * seconds[name] / longest) if longest else 0), style=color)
        return bar
    look = {name.removesuffix("_s"): (color, block) for name, color, block in STAGES}
    cells: dict[int, str] = {}
    for span in sorted(spans(predicted), key=lambda each: each.seconds):  # where stages overlap the longer one is seen
        first, last = (round(most * at_s / longest) for at_s in (span.begin_s, span.begin_s + span.seconds))
        cells |= dict.fromkeys(range(first, last), span.name)
    for _, name in sorted(cells.items()):
        color, block = look[name]
        bar.append(block, style=color)
    return bar


def legend() -> Text:
    """What the blocks of the bars mean."""
    text = Text("predicted time: ")
    for name, color, block in STAGES:
        text.append(f"{block * 2} {name.removesuffix('_s')}  ", style=color)
    return text


def short_name(graph: LayerGraph, decision: Decision) -> str:
    """Where a decision cuts, in a few words."""
    boundary = decision.boundary(graph)
    if not boundary:
        return "all on the edge"
    if not decision.is_cut:
        return f"{len(decision.parts)} alternating parts"
    after = printable(graph.layers[max(boundary)].id, NAME)
    return after if len(boundary) == 1 else f"{len(boundary)} tensors, the last {after}"


def cut_line(graph: LayerGraph, decision: Decision, up_bytes_per_s: float | None = None) -> str:
    """Where a decision cuts, how many layers run on either side, and what is sent; packed, if the rate is given."""
    here, there = len(decision.head) - 1, len(graph.layers) - len(decision.head)
    boundary = decision.boundary(graph)
    layers = f"{here} layers on the edge, {there} on the cloud"
    if not boundary:
        return "all layers on the edge, nothing is sent"
    size = f"{format_bytes(graph.bytes_of(boundary))} sent"
    if up_bytes_per_s is not None and decision.codec != RAW:
        size += f" as {format_bytes(decision.predicted.upload_s * up_bytes_per_s)} of {decision.codec}"
    if not decision.is_cut:
        return f"{len(decision.parts)} parts: {layers}, {size}"
    point = decision.point(graph)
    if point is None:
        return f"{len(boundary)} tensors, the last {_id(graph, max(boundary))}: {layers}, {size}"
    return f"point {point} of {len(graph.points) - 1}, after {_id(graph, boundary[0])}: {layers}, {size}"


def part_line(graph: LayerGraph, part: Part) -> str:
    """One part of a placement."""
    first, last = min(part.layers), max(part.layers)
    span = _id(graph, first) if first == last else f"{_id(graph, first)} to {_id(graph, last)}"
    return f"{part.place:<6} {span}"


def part_json(graph: LayerGraph, part: Part) -> dict[str, Any]:
    """The same for programs."""
    return {"place": part.place, "layers": [graph.layers[number].id for number in sorted(part.layers)]}


def overlap_json(graph: LayerGraph, overlap: Overlap | None) -> dict[str, Any] | None:
    """How a boundary leaves in chunks, for programs."""
    return None if overlap is None else overlap.to_json(lambda number: graph.layers[number].id)


def overlap_line(graph: LayerGraph, decision: Decision) -> str:
    """The same for people, and what that saves; "" where nothing overlaps."""
    overlap = decision.overlap
    if overlap is None:
        return ""
    tensors = [f"{len(each)} of {_id(graph, each.layer)}" for each in overlap.slices]
    by_rows = [side for side, is_so in (("head", overlap.head_rows), ("tail", overlap.tail_rows)) if is_so]
    rows = f", {' and '.join(by_rows)} by rows" if by_rows else ""
    saved = f"{format_seconds(decision.predicted.hidden_s)} of the stages hidden behind others"
    return f"{overlap.count} chunks ({', '.join(tensors)}){rows}: {saved}"


def candidate_json(graph: LayerGraph, candidate: Candidate) -> dict[str, Any]:
    """One point for programs: where it cuts, the bytes that cross there, and the predicted seconds of its stages."""
    place = {"point": candidate.point.number, "layer": graph.name_at(candidate.point.number)}
    return place | {"boundary_bytes": candidate.boundary_bytes} | candidate.predicted.to_json()


_OF = {
    "chain": "{points} cut points",
    "mincut": "all cuts (minimum cut)",
    "walk": "all cuts",
    "milp": "all cuts (integer program)",
    "dsh": "the cuts of DADS's grid search",
    "placement": "all placements within the cost limit",
    "given": "the given point",
}
"""What each method searches, for people; another one goes by its name."""


def why_line(decision: Decision) -> str:
    """What was minimised over what, and whether there can be anything better."""
    least = OBJECTIVES[decision.objective].wish
    of = _OF.get(decision.method, decision.method).format(points=len(decision.candidates))
    if decision.is_optimal or decision.method in ("chain", "dsh", "given", "placement"):
        return f"{least} of {of}"
    return f"{least} of {of}, at most {decision.gap:.1%} above the optimum"


def _id(graph: LayerGraph, number: int) -> str:
    return printable(graph.layers[number].id, NAME)
