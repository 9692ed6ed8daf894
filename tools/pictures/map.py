"""Plot of the cost of cuts over the upload rate, and of the best cut over rate and cloud load."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D

from edgecloud.models.graph import LayerGraph
from edgecloud.partition import chain
from edgecloud.partition.cost import Problem
from edgecloud.partition.decision_map import DecisionMap
from edgecloud.partition.packing import RAW
from edgecloud.tools.pictures.style import (
    BEST,
    CLOUD,
    DARK,
    EDGE,
    GREY,
    LEAST,
    MOST_FLAGS,
    SMALL,
    STAR,
    Flag,
    Floats,
    Place,
    add_title,
    check_format,
    cut_label,
    legend_right,
    log_ticks,
    new_figure,
    paler,
    raise_flags,
    save,
    to_points,
    width_points,
)
from edgecloud.tools.pictures.view import PER_MBIT, LayerRun, View
from edgecloud.tools.whatif import Planned
from edgecloud.utils.units import format_rate

RATES, LOADS, LOADS_TIMES_LAYERS = 81, 40, 40_000
MOST_CURVES = 200
MOST_TALL = 100.0  # times the best: more is cut off
SHARES = LinearSegmentedColormap.from_list("shares", [paler(CLOUD, 0.7), "whitesmoke", paler(EDGE, 0.7)])


def map_picture(planned: Planned, path: Path) -> None:
    """What every point costs over the upload rate with the best cut's, and the best cut over rate and cloud's load."""
    check_format(path)
    view = View.of(planned)
    figure = new_figure(9.0, 4.4 if view.map is None else 7.6)
    if view.map is None:
        top = figure.add_axes((0.09, 0.16, 0.66, 0.66))
        figure.text(0.09, 0.01, why_no_map(planned), fontsize=SMALL, color=DARK)
    else:
        top = figure.add_axes((0.09, 0.5, 0.66, 0.36))
        _draw_loads(figure.add_axes((0.09, 0.08, 0.66, 0.3)), planned, view)
    lines = _draw_rates(top, planned, view)
    add_title(top, planned, f"{view.scale.name.capitalize()} by upload rate", lines)
    save(figure, path)


def why_no_map(planned: Planned) -> str:
    """Why there is none."""
    if planned.decision.is_of_stage:
        return "No map of best cuts: the bottleneck stage is not a sum of stages, so each rate needs its own search."
    return "No map of best cuts: with a cost limit, each rate needs its own search."


def _set_axes(axes: Axes, view: View, bottom: float, top: float, show: Callable[[float], str]) -> None:
    """Of both panels: the upload rate, and something else that is logarithmic."""
    axes.set(xscale="log", yscale="log", xlim=(view.low / PER_MBIT, view.high / PER_MBIT), ylim=(bottom, top))
    log_ticks(axes.xaxis, "{:g}".format)
    log_ticks(axes.yaxis, show)
    axes.set_xlabel("upload rate, mbit/s")


# --- the upper panel


def _draw_rates(axes: Axes, planned: Planned, view: View) -> int:
    """What cuts cost; returns how many lines of labels are above it."""
    runs = [] if view.map is None else view.runs(view.map)
    mbit = np.geomspace(view.low, view.high, RATES) / PER_MBIT
    curves = _curves(planned.problem, view, mbit * PER_MBIT)
    best = np.array([run.value(run.end) for run in runs]) if runs else curves.min(axis=0)
    own = planned.problem.link.up_bytes_per_s / PER_MBIT
    chosen = max(view.scale.value(planned.decision.predicted, planned.problem.link), LEAST)
    bottom, ends = min(best.min(), chosen), curves[[0, -1]].max()
    _set_axes(axes, view, bottom / 1.5, max(1.5 * min(ends, MOST_TALL * bottom), 2 * chosen), view.scale.show)
    axes.set_ylabel(view.scale.name)
    axes.grid(lw=0.4, alpha=0.5)

    others = curves[1:-1][:: 1 + len(curves) // MOST_CURVES]
    axes.add_collection(LineCollection([np.column_stack([mbit, c]) for c in others], colors=GREY, lw=0.5, zorder=2))
    axes.plot(mbit, curves[-1], color=EDGE, lw=1.5, zorder=4)
    axes.plot(mbit, curves[0], color=CLOUD, lw=1.5, zorder=4)
    _draw_best(axes, runs)
    axes.plot([own], [chosen], **STAR)
    label = f"this plan: {view.scale.show(chosen)}"
    legend_right(axes, _rate_handles(bool(len(others)), runs, label))
    widest = sorted(runs, key=lambda run: -run.decades)[:MOST_FLAGS]
    flags = [Flag(run.middle, float(run.value(run.middle)), _run_label(planned.graph, run, runs)) for run in widest]
    return raise_flags(axes, flags)


def _curves(problem: Problem, view: View, rates: Floats) -> Floats:
    """What every point costs, a row each, at every rate."""
    columns = []
    for rate in rates.tolist():
        there = view.at(problem, rate)
        columns.append([view.scale.value(c.predicted, there.link) for c in chain.scan(there)])
    curves: Floats = np.maximum(np.array(columns).T, LEAST)
    return curves


def _draw_best(axes: Axes, runs: Sequence[LayerRun]) -> None:
    """What the best cut costs, and where it changes."""
    for run in runs:
        inside = np.geomspace(run.begin, run.end, RATES)
        axes.plot(inside, run.value(inside), color=BEST, lw=5, alpha=0.9, zorder=3, solid_capstyle="butt")
    for run in runs[1:]:
        axes.plot([run.begin] * 2, run.value(run.begin) * np.array([1 / 1.15, 1.15]), color="black", lw=1.2, zorder=5)


def _run_label(graph: LayerGraph, run: LayerRun, runs: Sequence[LayerRun]) -> str:
    begin = "" if run == runs[0] else f" from {format_rate(run.begin * PER_MBIT)}"
    packed = "" if run.region.codec == RAW else f" [{run.region.codec}]"
    return cut_label(graph, run.region.head) + packed + begin


def _rate_handles(has_others: bool, runs: Sequence[LayerRun], plan_label: str) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], color=CLOUD, label="all on the cloud")]
    handles.append(Line2D([], [], color=EDGE, label="all on the edge"))
    if has_others:
        handles.append(Line2D([], [], color=GREY, lw=0.8, label="other single-tensor cuts"))
    if runs:
        handles.append(Line2D([], [], color=BEST, lw=5, label="best cut"))
    if len(runs) > 1:
        handles.append(Line2D([], [], color="black", marker="|", lw=0, markersize=8, label="best cut changes"))
    return [*handles, Line2D([], [], label=plan_label, **STAR)]


# --- the lower panel


class _Row(NamedTuple):
    """The best cuts over the upload rate, for loads of the cloud between two."""

    low: float
    high: float
    runs: tuple[LayerRun, ...]


def _draw_loads(axes: Axes, planned: Planned, view: View) -> None:
    """One map for each load, drawn as rows."""
    problem, own = planned.problem, planned.problem.cloud.load
    rows = _rows(problem, view)
    boxes = [(run, row) for row in rows for run in row.runs]
    shapes = [[(r.begin, b.low), (r.end, b.low), (r.end, b.high), (r.begin, b.high)] for r, b in boxes]
    image = PolyCollection(shapes, cmap=SHARES, edgecolors="face", lw=0.4, antialiased=False)
    image.set_array([share_on_edge(planned.graph, run.region.head) for run, _ in boxes])
    image.set_clim(0, 1)
    axes.add_collection(image)
    axes.add_collection(LineCollection(list(_borders(rows)), colors="black", lw=0.9, capstyle="projecting"))
    _set_axes(axes, view, rows[0].low, rows[-1].high, "{:g}".format)
    axes.set_ylabel("cloud load\n(slowdown)")
    axes.set_title("Best cut, and its share of layers on the edge", fontsize=10, loc="left")
    axes.plot([problem.link.up_bytes_per_s / PER_MBIT], [own], clip_on=False, **STAR)
    _label_areas(axes, planned.graph, rows)
    axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0.0, 0.02, 1.0)), label="share of layers on the edge")


def _rows(problem: Problem, view: View) -> list[_Row]:
    """From an idle cloud, or the plan's own where that is less loaded, to a busy one; fewer rows for large graphs."""
    own = problem.cloud.load
    count = max(LOADS // 5, min(LOADS, LOADS_TIMES_LAYERS // len(problem.graph.layers)))
    edges = np.geomspace(max(min(1.0, own), 0.01), max(20.0, 1.1 * own), count + 1)
    rows = []
    for low, high in pairwise(edges.tolist()):
        cloud = replace(problem.cloud, load=float(np.sqrt(low * high)))
        decisions = DecisionMap.of(replace(problem, cloud=cloud), view.link_at, view.weights_at, allowed=view.allowed)
        rows.append(_Row(low, high, tuple(view.runs(decisions))))
    return rows


def share_on_edge(graph: LayerGraph, head: frozenset[int]) -> float:
    """Of the layers of a cut; the input, which is always there, is not counted."""
    return 1.0 if head == graph.everything else (len(head) - 1) / (len(graph.layers) - 1)


def _borders(rows: Sequence[_Row]) -> Iterator[list[Place]]:
    """Where one cut borders on another: within a row, and between two."""
    for row in rows:
        for before, run in pairwise(row.runs):
            if before.region.head != run.region.head:  # or only its codec changes
                yield [(run.begin, row.low), (run.begin, row.high)]
    for below, above in pairwise(rows):
        for one, other in product(below.runs, above.runs):
            begin, end = max(one.begin, other.begin), min(one.end, other.end)
            if begin < end and one.region.head != other.region.head:
                yield [(begin, above.low), (end, above.low)]


def _label_areas(axes: Axes, graph: LayerGraph, rows: Sequence[_Row]) -> None:
    """Name every cut once, in the middle of the rows where the name fits."""
    low, high = axes.get_xlim()
    points_per_decade = to_points(axes, axes.get_window_extent().width) / np.log10(high / low)
    places: dict[frozenset[int], list[Place]] = defaultdict(list)
    for below, row, above in zip(rows, rows[1:], rows[2:], strict=False):
        for run in row.runs:
            room = min(_decades_common(run, each) for each in (below, above)) * points_per_decade
            if width_points(cut_label(graph, run.region.head)) < 0.9 * room:
                places[run.region.head].append((run.middle, float(np.sqrt(row.low * row.high))))
    for head, spots in places.items():
        axes.text(*spots[len(spots) // 2], cut_label(graph, head), fontsize=SMALL, ha="center", va="center")


def _decades_common(run: LayerRun, row: _Row) -> float:
    """How much of a run the same cut has in a neighbouring row."""
    same = [each for each in row.runs if each.region.head == run.region.head]
    return max((np.log10(min(run.end, e.end) / max(run.begin, e.begin)) for e in same), default=0.0)
