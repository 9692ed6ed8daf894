"""Four pictures of a plan: where the best cut changes, what each layer costs, the cut graph, latency against energy.

Everything that is drawn is predicted; nothing runs. Each picture is a PNG or an SVG, by the name of its file.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, islice, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.path import Path as Outline
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from models.graph import INPUT, LayerGraph, to_ranges
from partition import chain
from partition.cost import LATENCY, Link, Prediction, Problem, StageWeights
from partition.decision_map import FASTEST, SLOWEST, DecisionMap, Region, follow, keep_download
from runtime.power import PowerChoice
from runtime.whatif import Planned
from utils.errors import UsageError
from utils.files import replaced
from utils.plots import STAGE_COLOURS
from utils.units import format_bytes, format_rate, format_seconds, printable

Floats = NDArray[np.floating[Any]]
Place = tuple[float, float]

FORMATS = (".png", ".svg")
DPI = 110
SMALL, TINY = 8.0, 6.5  # points of letters
EDGE, LINK, CLOUD = (STAGE_COLOURS[stage] for stage in ("edge", "link", "cloud"))
GREY, DARK, BEST = "0.65", "0.3", "gold"
STAR: dict[str, Any] = {"marker": "*", "ms": 15, "lw": 0, "color": "crimson", "mec": "white", "zorder": 9}
ZERO: dict[str, Any] = {"marker": "v", "ms": 4, "lw": 0, "mfc": "white"}
SHADE = 0.12
LEAST = 1e-6  # seconds or joules: a logarithm needs more than nothing
PER_MBIT = 1e6 / 8  # bytes per second
RATES, LOADS, LOADS_TIMES_LAYERS = 81, 40, 40_000
MOST_CURVES, MOST_FLAGS, MOST_TICKS, MOST_NAMED = 200, 14, 45, 60
MOST_LANES = 1000
NARROWEST, WIDEST_NAMED, LONGEST = 6.5, 12.0, 60.0  # inches; the narrowest holds the words above and below
MOST_TALL = 100.0  # times the best: dearer is cut off


def _paler(colour: str, share: float) -> str:
    """A colour mixed with white."""
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


PALE_LINK = _paler(LINK, 0.4)
SHARES = LinearSegmentedColormap.from_list("shares", [_paler(CLOUD, 0.7), "whitesmoke", _paler(EDGE, 0.7)])
FRONT_HANDLES = (
    Line2D([], [], color=BEST, lw=3, label="least energy in that time"),
    Line2D([], [], color="black", marker="o", ms=5, lw=0, label="cuts on the front"),
    Line2D([], [], color=GREY, marker="o", ms=3.5, lw=0, label="other cuts of one tensor"),
    Line2D([], [], label="this plan", **STAR),
)


def map_picture(planned: Planned, path: Path) -> None:
    """What every point costs over the upload rate with the best cut's, and the best cut over rate and cloud's load."""
    _check_format(path)
    view = _View.of(planned)
    figure = _figure(9.0, 4.4 if view.map is None else 7.6)
    if view.map is None:
        top = figure.add_axes((0.09, 0.16, 0.66, 0.66))
        figure.text(0.09, 0.01, _why_no_map(planned), fontsize=SMALL, color=DARK)
    else:
        top = figure.add_axes((0.09, 0.5, 0.66, 0.36))
        _draw_loads(figure.add_axes((0.09, 0.08, 0.66, 0.3)), planned, view)
    lines = _draw_rates(top, planned, view)
    _title(top, planned, f"{view.scale.name.capitalize()} over the upload rate", 12 * lines)
    _save(figure, path)


def layers_picture(planned: Planned, path: Path) -> None:
    """Seconds of every layer on either side and bytes of its output, as in Neurosurgeon's figures 4 and 5."""
    _check_format(path)
    size = len(planned.graph.layers)
    width = min(max(6.0, 0.3 * size), 15.0)
    figure = _figure(width, 6.0)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"hspace": 0.08})
    _draw_seconds(top, planned)
    _draw_bytes(bottom, planned)
    for axes in (top, bottom):
        _shade_cloud(axes, planned)
        axes.set_xlim(-0.6, size - 0.4)
        axes.grid(axis="y", lw=0.4, alpha=0.5)
        axes.set_axisbelow(True)
    step = -(-size // MOST_TICKS)
    shown = range(0, size, step)
    bottom.set_xticks(shown, [_name(planned.graph, each) for each in shown], rotation=90, fontsize=TINY)
    bottom.set_xlabel("layers, in the order of the program" + (f" (one in {step} is named)" if step > 1 else ""))
    _title(top, planned, "What each layer costs, and what would cross after it")
    _save(figure, path)


def graph_picture(planned: Planned, path: Path) -> None:
    """The graph of layers, coloured by where each one runs, with the tensors that cross the link and their sizes."""
    _check_format(path)
    drawing = _GraphDrawing(planned)
    left, right, bottom, top = drawing.extent
    shrunk = min(1.0, LONGEST / max(right - left, top - bottom))  # or there would be too many pixels
    figure = _figure((right - left) * shrunk, (top - bottom) * shrunk)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    drawing.draw(axes)
    wraps = ", column by column" if drawing.columns > 1 else ""
    _title(axes, planned, f"What runs where: the graph, read from top to bottom{wraps}", 12)
    _save(figure, path)


def front_picture(planned: Planned, path: Path) -> None:
    """Latency against the edge's energy: the cuts that no other beats in both."""
    _check_format(path)
    figure = _figure(8.0, 4.6)
    axes = figure.add_axes((0.09, 0.11, 0.7, 0.66))
    lines = _draw_front(axes, planned)
    watts = ", ".join(_shown(each) for each in (planned.config.power, planned.config.radio) if each)
    _title(axes, planned, "Latency against energy: the cuts that no other beats in both", 12 * lines)
    if watts:
        axes.text(1.02, 0.02, f"watts of the edge:\n{watts}", transform=axes.transAxes, fontsize=SMALL, color=DARK)
    _save(figure, path)


PICTURES: Mapping[str, Callable[[Planned, Path], None]] = {
    "map": map_picture,
    "layers": layers_picture,
    "graph": graph_picture,
    "front": front_picture,
}


def draw_all(planned: Planned, folder: Path, suffix: str = ".png") -> list[Path]:
    """Draw them all into a folder, which is made if need be. Raises UsageError where that cannot be written."""
    paths = [folder / f"{name}{suffix}" for name in PICTURES]
    _check_format(paths[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from None
    for draw, path in zip(PICTURES.values(), paths, strict=True):
        draw(planned, path)
    return paths


# --- files, titles and names


def _check_format(path: Path) -> None:
    """Before anything is drawn: a wrong name is not worth seconds."""
    if path.suffix.lower() not in FORMATS:
        found = f"not {path.suffix}" if path.suffix else "and this has no suffix"
        raise UsageError(f"cannot draw {path}: a picture is {' or '.join(FORMATS)}, {found}")


def _figure(width: float, height: float) -> Figure:
    """A figure that pyplot does not know: nobody has to close it, whatever goes wrong on the way."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None  # the same plan gives the same file
    try:
        with replaced(path) as temporary, rc_context({"svg.hashsalt": "plan"}):
            figure.savefig(temporary, format=kind, bbox_inches="tight", pad_inches=0.12, metadata=metadata)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _title(axes: Axes, planned: Planned, what: str, above: float = 0.0) -> None:
    """What is seen, and of which network on which link; `above` leaves room for labels, in points."""
    link, cloud, name = planned.problem.link, planned.problem.cloud, _shown(planned.graph.name, 60)
    up, down, rtt = format_rate(link.up_bytes_per_s), format_rate(link.down_bytes_per_s), format_seconds(link.rtt_s)
    where = f"{up} up, {down} down, {rtt} round trip"
    busy = f", cloud {cloud.load:g} times slower than idle" if cloud.load != 1 else ""
    told = f"{name}  |  {where}{busy}  |  {_goal(planned)}: {_decision_label(planned)}"
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(what, (0, 1), (0, above + 23), fontsize=11, weight="bold", **style)
    axes.annotate(told, (0, 1), (0, above + 8), fontsize=SMALL, color=DARK, **style)


def _goal(planned: Planned) -> str:
    goal = planned.config.goal
    wishes = {
        "latency": "least latency",
        "energy": "least energy",
        "weighted": f"least latency + {goal.seconds_per_joule or 0:g} s per joule",
        "throughput": "most inferences a second",
    }
    limit = "" if goal.max_cost is None else f" at a cost of at most {goal.max_cost:g}"
    return wishes.get(planned.decision.objective, planned.decision.objective) + limit


def _shown(text: str, length: int = 24) -> str:
    """A name from a document that anybody may have written, its end, which tells layers apart, in printable letters."""
    text = printable(text, len(text))
    text = text if len(text) <= length else "…" + text[1 - length :]
    return text.replace("$", r"\$")  # or matplotlib would take it for a formula


def _name(graph: LayerGraph, number: int) -> str:
    return _shown(graph.layers[number].id)


def _cut_label(graph: LayerGraph, head: frozenset[int]) -> str:
    if head == graph.everything:
        return "all on the edge"
    if head == {INPUT}:
        return "all on the cloud"
    crossing = graph.boundary(head)
    after = f"after {_name(graph, crossing[-1])}"
    return after if len(crossing) == 1 else f"{len(crossing)} tensors, after {_name(graph, crossing[-1])}"


def _decision_label(planned: Planned) -> str:
    decision = planned.decision
    return _cut_label(planned.graph, decision.head) if decision.is_cut else f"{len(decision.parts)} parts in turn"


@cache
def _width_points(text: str, size: float) -> float:
    """How wide a text is."""
    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0])


class _Flag(NamedTuple):
    """A label for a place in the picture."""

    x: float
    y: float
    text: str


def _raise_flags(axes: Axes, flags: Iterable[_Flag]) -> int:
    """Labels above the axes, each on a pole; returns how many lines they take.

    A label begins at its pole and lies higher than those that begin under it, so that none covers a label or a pole.
    """
    heights: list[tuple[float, int]] = []  # poles to the right, and the lines of their labels
    axes_points = axes.get_window_extent().height * 72 / axes.figure.dpi
    for flag in sorted(flags, key=lambda flag: -flag.x):
        left = float(axes.transData.transform((flag.x, flag.y))[0]) * 72 / axes.figure.dpi
        right = left + _width_points(flag.text, SMALL) + 8
        line = 1 + max((line for x, line in heights if x < right), default=-1)
        heights.append((left, line))
        axes.annotate(
            flag.text,
            (flag.x, flag.y),
            (flag.x, 1 + (5 + 12 * line) / axes_points),
            textcoords=axes.get_xaxis_transform(),
            fontsize=SMALL,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0), "shrinkA": 0, "shrinkB": 0, "lw": 0.6, "color": GREY},
            bbox={"boxstyle": "square,pad=0.12", "fc": "none", "ec": "none"},
            annotation_clip=False,
        )
    return 1 + max((line for _, line in heights), default=-1)


def _log_ticks(axis: Axis, low: float, high: float, show: Callable[[float], str]) -> None:
    """A logarithmic axis from `low` to `high` whose ticks people can read."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(np.arange(1, 10, 0.25))):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    axis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 12]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


# --- the map


@dataclass(frozen=True)
class _Scale:
    """What is minimised: its name, and how it is told and found."""

    name: str
    show: Callable[[float], str]
    value: Callable[[Prediction, Link], float]


@dataclass(frozen=True)
class _View:
    """What both panels of the map share."""

    scale: _Scale
    link_at: Callable[[float], Link]
    weights_at: Callable[[Link], StageWeights]
    map: DecisionMap | None
    low: float
    high: float
    """The rates that are shown, in bytes per second."""

    @classmethod
    def of(cls, planned: Planned) -> "_View":
        """The rates around where the best cut changes, and around the plan's own."""
        link, config = planned.problem.link, planned.config
        link_at = (follow if config.down_bytes_per_s is None else keep_download)(link)
        found = None if planned.decision.objective == "throughput" else planned.map
        begins = found.begins[1:] if found else ()
        times = 4.0 if begins else 16.0
        rates, own = (*begins, link.up_bytes_per_s), link.up_bytes_per_s
        low = min(max(min(rates) / times, SLOWEST), own / 2)
        high = max(min(max(rates) * times, FASTEST), own * 2)
        weights_at = _weights_at(planned)
        return cls(_scale(planned, weights_at), link_at, weights_at, found, low, high)


def _weights_at(planned: Planned) -> Callable[[Link], StageWeights]:
    goal = planned.config.goal
    if goal.weights(planned.power) == LATENCY:
        return lambda _: LATENCY
    choice = PowerChoice.of(planned.config.power, planned.config.radio)  # a radio's watts depend on the rate
    return lambda link: goal.weights(choice.at(link))


def _scale(planned: Planned, weights_at: Callable[[Link], StageWeights]) -> _Scale:
    def value(predicted: Prediction, link: Link) -> float:
        return weights_at(link).value(predicted)

    names = {"energy": "predicted energy of the edge", "weighted": "predicted latency and weighted energy"}
    objective = planned.decision.objective
    if objective == "throughput":
        return _Scale("longest stage", format_seconds, lambda predicted, _: predicted.longest_s)
    show = _joules if objective == "energy" else format_seconds
    return _Scale(names.get(objective, "predicted latency"), show, value)


def _joules(value: float) -> str:
    return f"{value:.3g} J" if value >= 1 else f"{value * 1e3:.3g} mJ"


def _why_no_map(planned: Planned) -> str:
    if planned.decision.objective == "throughput":
        return "There is no map of best cuts: the longest stage is no sum of stages, so each rate needs a search."
    return "There is no map of best cuts: with a limit of cost, each rate needs a search of its own."


def _runs(found: DecisionMap, view: _View) -> Iterator["_Run"]:
    """The regions of a map that are in view."""
    for region, (begin, end) in zip(found.regions, pairwise((0.0, *found.begins[1:], np.inf)), strict=True):
        begin, end = max(begin, view.low), min(end, view.high)
        if begin < end:
            yield _Run(begin / PER_MBIT, end / PER_MBIT, region)


class _Run(NamedTuple):
    """Upload rates in mbit per second over which one cut is best."""

    begin: float
    end: float
    region: Region

    @property
    def middle(self) -> float:
        """As it looks on a logarithmic axis."""
        return float(np.sqrt(self.begin * self.end))

    @property
    def decades(self) -> float:
        """How wide it looks."""
        return float(np.log10(self.end / self.begin))

    def value(self, mbit: Any) -> Any:
        """What the cut costs there."""
        line = self.region.line
        return np.maximum(line.intercept + line.slope / (np.asarray(mbit) * PER_MBIT), LEAST)


def _draw_rates(axes: Axes, planned: Planned, view: _View) -> int:
    """The upper panel; returns how many lines of labels are above it."""
    runs = [] if view.map is None else list(_runs(view.map, view))
    mbit = np.geomspace(view.low, view.high, RATES) / PER_MBIT
    curves = _curves(planned.problem, view, mbit * PER_MBIT)
    best = np.array([run.value(run.end) for run in runs]) if runs else curves.min(axis=0)
    own = planned.problem.link.up_bytes_per_s / PER_MBIT
    chosen = max(view.scale.value(planned.decision.predicted, planned.problem.link), LEAST)
    bottom, ends = min(best.min(), chosen), curves[[0, -1]].max()
    axes.set(xscale="log", yscale="log", xlim=(mbit[0], mbit[-1]))
    axes.set_ylim(bottom / 1.5, max(1.5 * min(ends, MOST_TALL * bottom), 2 * chosen))
    _log_ticks(axes.xaxis, *axes.get_xlim(), "{:g}".format)
    _log_ticks(axes.yaxis, *axes.get_ylim(), view.scale.show)
    axes.grid(lw=0.4, alpha=0.5)
    axes.set(xlabel="upload rate, mbit/s", ylabel=view.scale.name)

    others = curves[1:-1][:: 1 + len(curves) // MOST_CURVES]
    axes.add_collection(LineCollection([np.column_stack([mbit, c]) for c in others], colors=GREY, lw=0.5, zorder=2))
    for run in runs:
        inside = np.geomspace(run.begin, run.end, RATES)
        axes.plot(inside, run.value(inside), color=BEST, lw=5, alpha=0.9, zorder=3, solid_capstyle="butt")
    axes.plot(mbit, curves[-1], color=EDGE, lw=1.5, zorder=4)
    axes.plot(mbit, curves[0], color=CLOUD, lw=1.5, zorder=4)
    for run in runs[1:]:
        axes.plot([run.begin] * 2, run.value(run.begin) * np.array([1 / 1.15, 1.15]), color="black", lw=1.2, zorder=5)
    axes.plot([own], [chosen], **STAR)
    told = f"this plan: {view.scale.show(chosen)}"
    _legend_right(axes, _rate_handles(bool(len(others)), runs, told))
    widest = sorted(runs, key=lambda run: -run.decades)[:MOST_FLAGS]
    flags = [_Flag(run.middle, float(run.value(run.middle)), _run_label(planned.graph, run, runs)) for run in widest]
    return _raise_flags(axes, flags)


def _curves(problem: Problem, view: _View, rates: Floats) -> Floats:
    """What every point costs, a row each, at every rate."""
    columns = []
    for rate in rates.tolist():
        link = view.link_at(rate)
        columns.append([view.scale.value(c.predicted, link) for c in chain.scan(replace(problem, link=link))])
    curves: Floats = np.maximum(np.array(columns).T, LEAST)
    return curves


def _run_label(graph: LayerGraph, run: _Run, runs: Sequence[_Run]) -> str:
    begin = "" if run == runs[0] else f" from {format_rate(run.begin * PER_MBIT)}"
    return _cut_label(graph, run.region.head) + begin


def _rate_handles(has_others: bool, runs: Sequence[_Run], told: str) -> list[Artist]:
    found: list[Artist] = [Line2D([], [], color=CLOUD, label="all on the cloud")]
    found.append(Line2D([], [], color=EDGE, label="all on the edge"))
    if has_others:
        found.append(Line2D([], [], color=GREY, lw=0.8, label="cuts between, of one tensor"))
    if runs:
        found.append(Line2D([], [], color=BEST, lw=5, label="the best cut"))
    if len(runs) > 1:
        found.append(Line2D([], [], color="black", marker="|", lw=0, markersize=8, label="the best cut changes"))
    return [*found, Line2D([], [], label=told, **STAR)]


def _legend_right(axes: Axes, handles: Sequence[Artist]) -> None:
    """Beside the data, which it cannot hide."""
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=SMALL, frameon=False)


def _draw_loads(axes: Axes, planned: Planned, view: _View) -> None:
    """The lower panel: one map for each load, drawn as rows."""
    problem, own = planned.problem, planned.problem.cloud.load
    loads = max(LOADS // 5, min(LOADS, LOADS_TIMES_LAYERS // len(planned.graph.layers)))
    edges = np.geomspace(max(min(1.0, own), 0.01), max(20.0, 1.1 * own), loads + 1)
    rows = []
    for low, high in pairwise(edges.tolist()):
        cloud = replace(problem.cloud, load=float(np.sqrt(low * high)))
        found = DecisionMap.of(replace(problem, cloud=cloud), view.link_at, view.weights_at)
        rows.append(_Row(low, high, tuple(_runs(found, view))))
    boxes = [(run, row) for row in rows for run in row.runs]
    shapes = [[(r.begin, b.low), (r.end, b.low), (r.end, b.high), (r.begin, b.high)] for r, b in boxes]
    image = PolyCollection(shapes, cmap=SHARES, edgecolors="face", lw=0.4, antialiased=False)
    image.set_array([_share(planned.graph, run.region.head) for run, _ in boxes])
    image.set_clim(0, 1)
    axes.add_collection(image)
    axes.add_collection(LineCollection(list(_borders(rows)), colors="black", lw=0.9, capstyle="projecting"))
    axes.set(xscale="log", yscale="log", xlim=(view.low / PER_MBIT, view.high / PER_MBIT), ylim=(edges[0], edges[-1]))
    _log_ticks(axes.xaxis, *axes.get_xlim(), "{:g}".format)
    _log_ticks(axes.yaxis, *axes.get_ylim(), "{:g}".format)
    axes.set(xlabel="upload rate, mbit/s", ylabel="load of the cloud\n(times slower than idle)")
    axes.set_title("The best cut, and the share of layers that it keeps on the edge", fontsize=10, loc="left")
    axes.plot([problem.link.up_bytes_per_s / PER_MBIT], [own], clip_on=False, **STAR)
    _label_areas(axes, planned.graph, rows)
    axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0.0, 0.02, 1.0)), label="share of layers on the edge")


class _Row(NamedTuple):
    """The best cuts over the upload rate, for loads of the cloud between two."""

    low: float
    high: float
    runs: tuple[_Run, ...]


def _share(graph: LayerGraph, head: frozenset[int]) -> float:
    """Of the layers on the edge; the input, which is always there, is not counted."""
    return 1.0 if head == graph.everything else (len(head) - 1) / (len(graph.layers) - 1)


def _borders(rows: Sequence[_Row]) -> Iterator[list[Place]]:
    """Where one cut borders on another: within a row, and between two."""
    for row in rows:
        for run in row.runs[1:]:
            yield [(run.begin, row.low), (run.begin, row.high)]
    for below, above in pairwise(rows):
        for one, other in product(below.runs, above.runs):
            begin, end = max(one.begin, other.begin), min(one.end, other.end)
            if begin < end and one.region.head != other.region.head:
                yield [(begin, above.low), (end, above.low)]


def _label_areas(axes: Axes, graph: LayerGraph, rows: Sequence[_Row]) -> None:
    """Name every cut where its area is widest, if the name fits there."""
    extent, low, high = axes.get_window_extent(), *axes.get_xlim()
    points_per_decade = extent.width * 72 / DPI / np.log10(high / low)
    places: dict[frozenset[int], list[Place]] = defaultdict(list)
    for below, row, above in zip(rows, rows[1:], rows[2:], strict=False):
        for run in row.runs:
            room = min(_decades_common(run, each) for each in (below, above)) * points_per_decade
            if _width_points(_cut_label(graph, run.region.head), SMALL) < 0.9 * room:
                places[run.region.head].append((run.middle, float(np.sqrt(row.low * row.high))))
    for head, found in places.items():
        axes.text(*found[len(found) // 2], _cut_label(graph, head), fontsize=SMALL, ha="center", va="center")


def _decades_common(run: _Run, row: _Row) -> float:
    """How much of a run the same cut has in a neighbouring row."""
    same = [each for each in row.runs if each.region.head == run.region.head]
    return max((np.log10(min(run.end, e.end) / max(run.begin, e.begin)) for e in same), default=0.0)


# --- the layers


def _draw_seconds(axes: Axes, planned: Planned) -> None:
    problem, places = planned.problem, np.arange(float(len(planned.graph.layers)))
    edge_s, cloud_s = np.asarray(problem.edge_s), np.asarray(problem.cloud.seconds) * problem.cloud.load
    if len(places) <= MOST_NAMED:
        shift = 0.21
        _bars(axes, places - shift, edge_s, 0.42, [EDGE] * len(places))
        _bars(axes, places + shift, cloud_s, 0.42, [CLOUD] * len(places))
    else:  # one before the other, the shorter in front
        shift, is_slower = 0.0, edge_s > cloud_s
        _bars(axes, places, np.maximum(edge_s, cloud_s), 1.0, np.where(is_slower, EDGE, CLOUD).tolist())
        _bars(axes, places, np.minimum(edge_s, cloud_s), 1.0, np.where(is_slower, CLOUD, EDGE).tolist())
    _log_height(axes, np.concatenate([edge_s, cloud_s]), format_seconds)
    axes.set_ylabel("time of the layer")
    handles: list[Artist] = [
        Patch(color=EDGE, label="on the edge"),
        Patch(color=CLOUD, label=_cloud_name(planned)),
    ]
    if planned.decision.head != planned.graph.everything:
        handles.append(Patch(color=CLOUD, alpha=SHADE, label="layers left to the cloud"))
        handles.append(Line2D([], [], color=LINK, lw=1.4, ls="--", label="the cut"))
    if _mark_zeros(axes, places - shift, edge_s, EDGE) | _mark_zeros(axes, places + shift, cloud_s, CLOUD):
        handles.append(Line2D([], [], color=GREY, label="takes no time", **ZERO))
    _legend_right(axes, handles)


def _cloud_name(planned: Planned) -> str:
    load = planned.problem.cloud.load
    return "on the cloud" + (f", load {load:g}" if load != 1 else "")


def _draw_bytes(axes: Axes, planned: Planned) -> None:
    graph, crossing = planned.graph, _crossing(planned)
    places = np.arange(float(len(graph.layers)))
    sizes = np.array([layer.out_bytes for layer in graph.layers], dtype=np.float64)
    colours = [LINK if number in crossing else PALE_LINK for number in range(len(graph.layers))]
    _bars(axes, places, sizes, 0.84 if len(places) <= MOST_NAMED else 1.0, colours)
    _log_height(axes, sizes, format_bytes)
    axes.set_ylabel("output tensor")
    handles: list[Artist] = [Patch(color=PALE_LINK, label="bytes of the output")]
    if crossing:
        handles.append(Patch(color=LINK, label=_crossing_label(graph, crossing)))
    if _mark_zeros(axes, places, sizes, LINK):
        handles.append(Line2D([], [], color=GREY, label="no bytes", **ZERO))
    _legend_right(axes, handles)


def _bars(axes: Axes, places: Floats, heights: Floats, width: float, colours: Sequence[str]) -> None:
    """What axes.bar draws, hundreds of times as fast, and with no bottom, which a logarithmic axis has not."""
    nothing, half = 1e-30, width / 2
    tops = [(x - half, x + half, max(height, nothing)) for x, height in zip(places, heights, strict=True)]
    shapes = [[(a, nothing), (a, top), (b, top), (b, nothing)] for a, b, top in tops]
    axes.add_collection(PolyCollection(shapes, facecolors=colours, antialiased=False), autolim=False)


def _log_height(axes: Axes, values: Floats, show: Callable[[float], str]) -> None:
    some = values[values > 0] if (values > 0).any() else np.ones(1)
    axes.set_yscale("log")
    axes.set_ylim(some.min() / 3, some.max() * 2)
    _log_ticks(axes.yaxis, *axes.get_ylim(), show)


def _mark_zeros(axes: Axes, places: Floats, values: Floats, colour: str) -> bool:
    """Nothing is no height on a logarithmic axis, but it is not unknown either."""
    zeros = places[values <= 0]
    axes.plot(zeros, np.full(len(zeros), 0.025), color=colour, transform=axes.get_xaxis_transform(), **ZERO)
    return bool(len(zeros))


def _shade_cloud(axes: Axes, planned: Planned) -> None:
    """Show which layers the edge does not run."""
    for begin, end in to_ranges(planned.graph.everything - planned.decision.head):
        axes.axvspan(begin - 0.5, end - 0.5, color=CLOUD, alpha=SHADE, lw=0, zorder=0)
        axes.axvline(begin - 0.5, color=LINK, lw=1.4, ls="--", zorder=1)


def _crossing(planned: Planned) -> frozenset[int]:
    """Layers whose outputs the link carries, either way, before the answer."""
    graph, head = planned.graph, planned.decision.head
    back = {s for number in head for s in graph.layers[number].inputs if s not in head}
    return frozenset(back).union(planned.decision.boundary(graph))


def _crossing_label(graph: LayerGraph, crossing: frozenset[int]) -> str:
    size = format_bytes(graph.bytes_of(crossing))
    return f"crosses the link: {size}" if len(crossing) == 1 else f"{len(crossing)} tensors cross: {size}"


# --- the front


def _draw_front(axes: Axes, planned: Planned) -> int:
    """Returns how many lines of labels are above it."""
    front, power = planned.front, planned.power.weights
    chosen = _Tradeoff(planned.decision.predicted.total_s, planned.energy_j)
    best = [_Tradeoff(found.predicted.total_s, found.energy_j) for found in front]
    others = [_Tradeoff(c.predicted.total_s, power.value(c.predicted)) for c in planned.decision.candidates]
    seen = [*best, chosen, *(_nearest(others, chosen) if len(best) < 3 else ())]
    seconds, time_unit = (1e3, "ms") if max(p.seconds for p in seen) < 1 else (1.0, "s")
    joules, energy_unit = (1e3, "mJ") if max(p.joules for p in seen) < 1 else (1.0, "J")

    def scaled(found: Sequence[_Tradeoff]) -> Floats:
        return np.array(found).reshape(-1, 2) * (seconds, joules)

    (left, low), (right, high) = _around(scaled(seen))
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.set(xlabel=f"predicted latency, {time_unit}", ylabel=f"predicted energy of the edge, {energy_unit}")
    axes.ticklabel_format(useOffset=False)
    axes.grid(lw=0.4, alpha=0.5)
    line = scaled(best)
    axes.step([line[0, 0], *line[:, 0], right], [high, *line[:, 1], line[-1, 1]], where="post", color=BEST, lw=3)
    axes.plot(*scaled(others).T, "o", color=GREY, markersize=3.5, zorder=2)
    axes.plot(*line.T, "o", color="black", markersize=5, zorder=4)
    axes.plot(*scaled([chosen]).T, **STAR)
    _legend_right(axes, FRONT_HANDLES)
    places = scaled([*best, chosen])
    flags = [
        _Flag(float(places[number, 0]), float(places[number, 1]), text)
        for number, text in _front_labels(planned).items()
    ]
    return _raise_flags(axes, flags)


class _Tradeoff(NamedTuple):
    seconds: float
    joules: float


def _nearest(others: Iterable[_Tradeoff], chosen: _Tradeoff) -> list[_Tradeoff]:
    """Some to compare with, where the front says little."""

    def times_worse(found: _Tradeoff) -> float:
        return max(one / max(other, LEAST) for one, other in zip(found, chosen, strict=True))

    return sorted(others, key=times_worse)[:6]


def _around(places: Floats) -> tuple[Floats, Floats]:
    """The lower left and the upper right corner of what shows all of some places."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.where(high > low, 0.12 * (high - low), np.where(high > 0, 0.3 * high, 1.0))
    return low - room, high + room


def _front_labels(planned: Planned) -> dict[int, str]:
    """For numbers of the front, and the one after them for a plan that is not on it, what to write there."""
    front, graph, decision = planned.front, planned.graph, planned.decision
    last = len(front) - 1
    names = [_cut_label(graph, found.head) for found in front]
    if not last:
        names[0] = f"fastest and thriftiest: {names[0]}"
    else:
        names[0], names[-1] = f"fastest: {names[0]}", f"thriftiest: {names[-1]}"
    shown = {*range(0, last, 1 + len(front) // MOST_FLAGS), last}
    found = next((n for n, each in enumerate(front) if decision.is_cut and each.head == decision.head), None)
    if found is None:
        return {n: names[n] for n in shown} | {last + 1: f"this plan: {_decision_label(planned)}"}
    return {n: names[n] + (" (this plan)" if n == found else "") for n in shown | {found}}


# --- the graph


def _depths(graph: LayerGraph) -> list[int]:
    """Longest way from the input to every layer: the row that it is drawn in."""
    depths: list[int] = []
    for layer in graph.layers:
        depths.append(max((depths[source] + 1 for source in layer.inputs), default=0))
    return depths


def _lanes(graph: LayerGraph, depths: Sequence[int]) -> list[int]:
    """Where every layer stands in its row, 0 in the middle: a branch stays in its lane until it ends."""
    points = {point.layer for point in graph.points}
    until = [max((depths[reader] for reader in readers), default=0) for readers in graph.readers]
    lanes = [0] * len(graph.layers)
    tails: dict[int, int] = {}
    free_from: dict[int, int] = defaultdict(int)
    for number in sorted(range(len(graph.layers)), key=lambda each: (depths[each], each)):
        inputs = graph.layers[number].inputs
        mine = [source for source in inputs if tails[lanes[source]] == source]
        if number in points and depths[tails.get(0, INPUT)] < depths[number]:
            lane = 0
        elif mine:
            lane = lanes[max(mine, key=lambda source: (depths[source], -abs(lanes[source])))]
        else:
            begin = lanes[inputs[0]] if inputs else 0
            tried = islice(_outwards(begin), MOST_LANES)
            lane = next((each for each in tried if free_from[each] <= depths[number]), begin)
        lanes[number] = lane
        tails[lane] = number
        free_from[lane] = max(until[number], depths[number] + 1)
    return lanes


def _outwards(middle: int) -> Iterator[int]:
    yield middle
    for step in count(1):
        yield middle + step
        yield middle - step


def _column_begins(graph: LayerGraph, depths: Sequence[int], columns: int) -> list[int]:
    """The rows that columns begin with: about as many rows each, and few tensors from one column to the next."""
    rows = max(depths) + 1
    crossing = np.zeros(rows + 1, dtype=np.int64)
    for number, readers in enumerate(graph.readers):
        if readers:
            crossing[depths[number] + 1] += 1
            crossing[max(depths[reader] for reader in readers) + 1] -= 1
    crossing = crossing.cumsum()
    begins = [0]
    for column in range(1, columns):
        ideal, around = column * rows / columns, 0.22 * rows / columns
        tried = range(max(begins[-1] + 1, int(ideal - around)), min(rows, int(ideal + around) + 2))
        begins.append(min(tried, key=lambda row: (crossing[row], abs(row - ideal))))
    return begins


CURVE = (Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4)


class _GraphDrawing:
    """Where everything in the picture of a graph goes, in inches; downwards is negative."""

    def __init__(self, planned: Planned) -> None:
        graph = planned.graph
        self._planned, self._graph, self._head = planned, graph, planned.decision.head
        self._crossing = _crossing(planned)
        self._rows = _depths(graph)
        self._lanes = _lanes(graph, self._rows)
        wide = 0.16 + max(_width_points(_name(graph, number), SMALL) for number in range(len(graph.layers))) / 72
        is_narrow = (max(self._lanes) - min(self._lanes)) * wide < WIDEST_NAMED
        self._is_named = is_narrow and len(graph.layers) <= MOST_NAMED
        self._box = wide if self._is_named else 0.07
        self._dx, self._dy = (wide + 0.16, 0.36) if self._is_named else (0.24, 0.13)
        self._taken: dict[int, list[int]] = defaultdict(list)
        for row, lane in sorted(zip(self._rows, self._lanes, strict=True)):
            self._taken[lane].append(row)
        begins = _column_begins(graph, self._rows, self._columns_wanted())
        self._columns = [bisect_right(begins, row) - 1 for row in self._rows]
        self._begins = [*begins, max(self._rows) + 1]
        self._labels = self._label_texts()
        self._set_columns()

    @property
    def columns(self) -> int:
        """How many there are, side by side."""
        return len(self._begins) - 1

    def _columns_wanted(self) -> int:
        """As many as make the picture somewhat wider than high."""
        rows = max(self._rows) + 1
        height, width = rows * self._dy, (max(self._lanes) - min(self._lanes) + 1) * self._dx + 0.7
        return max(1, min(round(float(np.sqrt(1.5 * height / width))), rows // 7))

    def _label_texts(self) -> dict[int, str]:
        """What is written beside layers: what crosses and its size, and where dots have no names, both ends."""
        graph = self._graph
        ends = set() if self._is_named else {INPUT, *graph.outputs}
        sizes = {number: "  " + format_bytes(graph.layers[number].out_bytes) for number in self._crossing}
        return {number: _name(graph, number) + sizes.get(number, "") for number in ends | self._crossing}

    def _set_columns(self) -> None:
        """From left to right: lines that pass by layers, layers, labels, and the way to the next column."""
        left, self._middles, self._label_xs, self._gutters = 0.0, [], [], []
        for column in range(self.columns):
            members = [number for number, found in enumerate(self._columns) if found == column]
            lanes = [self._lanes[number] for number in members]
            reaches = [
                self._reach(s, n) for n in members for s in self._graph.layers[n].inputs if self._passes_by(s, n)
            ]
            left += max(reaches, default=0.0)
            self._middles.append(left - min(lanes) * self._dx + self._box / 2)
            left += (max(lanes) - min(lanes)) * self._dx + self._box + 0.12
            self._label_xs.append(left)
            texts = [self._labels[number] for number in members if number in self._labels]
            left += max((_width_points(text, SMALL) / 72 for text in texts), default=0.0) + 0.1
            self._gutters.append(left)
            left += 0.2
        rows = max(end - begin for begin, end in pairwise(self._begins))
        beside = max(0.1, (NARROWEST - left) / 2)
        self.extent = (-beside, left + beside, -rows * self._dy - 0.1, 0.3)

    def _place(self, number: int) -> Place:
        column = self._columns[number]
        x = self._middles[column] + self._lanes[number] * self._dx
        return x, -(self._rows[number] - self._begins[column]) * self._dy

    def draw(self, axes: Axes) -> None:
        """Lines, layers, labels and what they mean."""
        (self._draw_boxes if self._is_named else self._draw_dots)(axes)
        for column in range(self.columns):
            self._draw_labels(axes, [n for n in self._labels if self._columns[n] == column])
        self._draw_legend(axes, has_faint=self._draw_lines(axes))

    # lines

    def _draw_lines(self, axes: Axes) -> bool:
        """Those on the edge, on the cloud, and across the link. Returns whether some, far ones, are faint."""
        paths: dict[tuple[str, bool], list[Outline]] = defaultdict(list)
        for number, layer in enumerate(self._graph.layers):
            for source in dict.fromkeys(layer.inputs):
                sides = {source in self._head, number in self._head}
                colour = LINK if len(sides) > 1 else self._colour(number)
                path = self._line(source, number)
                is_far = self._columns[source] != self._columns[number] and len(path) == len(CURVE)
                paths[colour, is_far].append(path)
        width = 1.0 if self._is_named else 0.6
        for (colour, is_far), found in paths.items():
            factor, alpha = (2.0, 1.0) if colour == LINK else (1.0, 0.7)
            lines = PathCollection(found, facecolors="none", edgecolors=colour, linewidths=factor * width)
            lines.set(alpha=0.2 if is_far else alpha, zorder=factor)
            axes.add_collection(lines)
        return any(is_far for _, is_far in paths)

    def _line(self, source: int, target: int) -> Outline:
        begin, end = self._place(source), self._place(target)
        if self._columns[source] != self._columns[target]:
            return self._line_across(source, target)
        if self._rows[target] == self._rows[source] + 1:
            return Outline([begin, end])
        if self._is_clear(source, source, target):
            return Outline([begin, (begin[0], end[1] + self._dy), end])
        if self._is_clear(target, source, target):
            return Outline([begin, (end[0], begin[1] - self._dy), end])
        out = 4 / 3 * self._reach(source, target)  # a Bézier curve goes three quarters of the way
        begin, end = ((x - self._box / 2, y) for x, y in (begin, end))
        return _curve(begin, (begin[0] - out, begin[1]), (end[0] - out, end[1]), end)

    def _line_across(self, source: int, target: int) -> Outline:
        """To another column: around the end of this one where that way is free, else straight through."""
        (x0, y0), (x1, y1) = self._place(source), self._place(target)
        column = self._columns[source]
        begin = self._begins[column + 1]
        is_free = self._is_clear(source, source, None, begin) and self._is_clear(target, None, target, begin)
        if self._columns[target] != column + 1 or not is_free:
            out = (x1 - x0) / 2
            return _curve((x0, y0), (x0 + out, y0), (x1 - out, y1), (x1, y1))
        below, above, gutter = -(begin - self._begins[column] - 0.4) * self._dy, 0.6 * self._dy, self._gutters[column]
        return Outline([(x0, y0), (x0, below), (gutter, below), (gutter, above), (x1, above), (x1, y1)])

    def _is_clear(self, lane_of: int, after: int | None, before: int | None, column_begin: int = 0) -> bool:
        """Whether no layer stands in a layer's lane between two rows, or between one and the end of its column."""
        rows = self._taken[self._lanes[lane_of]]
        begin = column_begin - 1 if after is None else self._rows[after]
        end = column_begin if before is None else self._rows[before]
        place = bisect_right(rows, begin)
        return place == len(rows) or rows[place] >= end

    def _passes_by(self, source: int, target: int) -> bool:
        """Whether the line between two layers has to go around those between them."""
        is_far = self._columns[source] == self._columns[target] and self._rows[target] > self._rows[source] + 1
        return is_far and not (self._is_clear(source, source, target) or self._is_clear(target, source, target))

    def _reach(self, source: int, target: int) -> float:
        """How far to the left such a line goes."""
        rows = self._rows[target] - self._rows[source]
        return float(min(0.1 + 0.25 * rows * self._dy, 0.2 + 0.1 * np.sqrt(rows)))

    # layers

    def _colour(self, number: int) -> str:
        return EDGE if number in self._head else CLOUD

    def _draw_dots(self, axes: Axes) -> None:
        numbers = range(len(self._graph.layers))
        places = np.array([self._place(number) for number in numbers])
        colours = [self._colour(number) for number in numbers]
        rings = [LINK if number in self._crossing else colour for number, colour in enumerate(colours)]
        sizes = [60 if number in self._crossing else 18 for number in numbers]
        axes.scatter(places[:, 0], places[:, 1], s=sizes, c=colours, edgecolors=rings, linewidths=2, zorder=5)

    def _draw_boxes(self, axes: Axes) -> None:
        for number in range(len(self._graph.layers)):
            (x, y), colour = self._place(number), self._colour(number)
            ring = LINK if number in self._crossing else colour
            style: dict[str, Any] = {
                "boxstyle": "round,pad=0,rounding_size=0.05",
                "lw": 2 if ring == LINK else 1,
                "zorder": 5,
            }
            corner = (x - self._box / 2, y - 0.1)
            axes.add_patch(FancyBboxPatch(corner, self._box, 0.2, fc=_paler(colour, 0.35), ec=ring, **style))
            axes.text(x, y, _name(self._graph, number), fontsize=SMALL, ha="center", va="center", zorder=6)

    # words

    def _draw_labels(self, axes: Axes, numbers: Sequence[int]) -> None:
        """Beside one column, each as near to its layer as those above it let it."""
        free = np.inf
        for number in sorted(numbers, key=lambda each: (self._rows[each], self._lanes[each])):
            x, y = self._place(number)
            left = self._label_xs[self._columns[number]]
            free = min(y, free)
            colour = LINK if number in self._crossing else GREY
            axes.plot([x, left - 0.03], [y, free], color=colour, lw=0.6, zorder=3)
            behind = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75}
            axes.text(left, free, self._labels[number], fontsize=SMALL, va="center", zorder=6, bbox=behind)
            free -= 0.14

    def _draw_legend(self, axes: Axes, *, has_faint: bool) -> None:
        predicted, edge = self._planned.decision.predicted, len(self._head) - 1
        cloud = len(self._graph.layers) - 1 - edge
        crossing = _crossing_label(self._graph, self._crossing) if self._crossing else "nothing crosses the link"
        handles: list[Artist] = [
            Patch(color=EDGE, label=f"edge: {edge} layers, {format_seconds(predicted.edge_s)}"),
            Patch(color=LINK, label=crossing),
            Patch(color=CLOUD, label=f"cloud: {cloud} layers, {format_seconds(predicted.cloud_s)}"),
        ]
        if has_faint:
            handles.append(Line2D([], [], color=GREY, lw=0.6, label="faint: read in another column"))
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "ncols": len(handles)}
        axes.legend(handles=handles, fontsize=SMALL, frameon=False, **place)


def _curve(*places: Place) -> Outline:
    """A cubic Bézier curve."""
    return Outline(list(places), CURVE)
