"""What all plots of a plan share: colors, files, titles, names of cuts, labels and axes."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from edgecloud.models.graph import LayerGraph
from edgecloud.tools.whatif import Planned
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced, writing
from edgecloud.utils.plots import STAGE_COLOURS
from edgecloud.utils.units import format_bytes, format_rate, format_seconds, printable

Floats = NDArray[np.floating[Any]]
Place = tuple[float, float]

FORMATS = (".png", ".svg")
DPI = 110
SMALL, LINE = 8.0, 12.0  # points: of letters, and from one line of labels to the next
EDGE, LINK, CLOUD = (STAGE_COLOURS[stage] for stage in ("edge", "link", "cloud"))
GREY, DARK, BEST = "0.65", "0.3", "gold"
STAR: dict[str, Any] = {"marker": "*", "ms": 15, "lw": 0, "color": "crimson", "mec": "white", "zorder": 9}
LEAST = 1e-6  # seconds or joules: a logarithm needs more than nothing
MOST_FLAGS, MOST_NAMED = 14, 60


def paler(colour: str, share: float) -> str:
    """A colour mixed with white."""
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


# --- files


def check_format(path: Path) -> None:
    """Before anything is drawn: a wrong name is not worth seconds. Raises UsageError."""
    if path.suffix.lower() not in FORMATS:
        actual = f"not {path.suffix}" if path.suffix else "and this file has none"
        raise UsageError(f"cannot draw {path}: the suffix must be {' or '.join(FORMATS)}, {actual}")


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that pyplot does not know: nobody has to close it, whatever goes wrong on the way."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write it, in the format that the name tells. Raises UsageError where that cannot be written."""
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None  # the same plan gives the same file
    with writing(path), replaced(path) as temporary, rc_context({"svg.hashsalt": "plan"}):
        figure.savefig(temporary, format=kind, bbox_inches="tight", pad_inches=0.12, metadata=metadata)


# --- titles and names


def add_title(axes: Axes, planned: Planned, what: str, lines: int = 0) -> None:
    """What is seen, and of which network on which link, above so many lines of labels."""
    link, cloud, name = planned.problem.link, planned.problem.cloud, shown(planned.graph.name, 60)
    up, down, rtt = format_rate(link.up_bytes_per_s), format_rate(link.down_bytes_per_s), format_seconds(link.rtt_s)
    where = f"{up} up, {down} down, {rtt} round trip"
    busy = f", cloud load {cloud.load:g}" if cloud.load != 1 else ""
    subtitle = f"{name}  |  {where}{busy}  |  {_goal(planned)}: {decision_label(planned)}"
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    above = LINE * lines
    axes.annotate(what, (0, 1), (0, above + 23), fontsize=11, weight="bold", **style)
    axes.annotate(subtitle, (0, 1), (0, above + 8), fontsize=SMALL, color=DARK, **style)


def _goal(planned: Planned) -> str:
    goal = planned.config.goal
    wishes = {
        "latency": "lowest latency",
        "energy": "lowest energy",
        "weighted": f"lowest latency + {goal.seconds_per_joule or 0:g} s per joule",
        "throughput": "highest throughput",
    }
    limit = "" if goal.max_cost is None else f" at cost of at most {goal.max_cost:g}"
    return wishes.get(planned.decision.objective, planned.decision.objective) + limit


def shown(text: str, length: int = 24) -> str:
    """A name from a document that anybody may have written, its end, which tells layers apart, in printable letters."""
    text = printable(text, len(text))
    text = text if len(text) <= length else "…" + text[1 - length :]
    return text.replace("$", r"\$")  # or matplotlib would take it for a formula


def layer_name(graph: LayerGraph, number: int) -> str:
    """The id of a layer."""
    return shown(graph.layers[number].id)


def cut_label(graph: LayerGraph, head: frozenset[int]) -> str:
    """Where a cut is, in a few words."""
    if head == graph.everything:
        return "all on the edge"
    if head == graph.only_inputs:
        return "all on the cloud"
    boundary = graph.boundary(head)
    after = f"after {layer_name(graph, boundary[-1])}"
    return after if len(boundary) == 1 else f"{len(boundary)} tensors, {after}"


def decision_label(planned: Planned) -> str:
    """The same of a plan, which may go back and forth."""
    decision = planned.decision
    return cut_label(planned.graph, decision.head) if decision.is_cut else f"{len(decision.parts)} alternating parts"


def crossing_of(planned: Planned) -> frozenset[int]:
    """Layers whose outputs the link carries, either way, before the answer."""
    graph, head = planned.graph, planned.decision.head
    back = {s for number in head for s in graph.layers[number].inputs if s not in head}
    return frozenset(back).union(planned.decision.boundary(graph))


def crossing_label(graph: LayerGraph, crossing: frozenset[int]) -> str:
    """How many tensors that are, and their bytes."""
    size = format_bytes(graph.bytes_of(crossing))
    return f"transfer: {size}" if len(crossing) == 1 else f"{len(crossing)} tensors sent: {size}"


@cache
def width_points(text: str) -> float:
    """How wide a text of small letters is, in points."""
    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=SMALL), ismath=False)[0])


# --- labels and axes


class Flag(NamedTuple):
    """A label for a place in the picture."""

    x: float
    y: float
    text: str


def raise_flags(axes: Axes, flags: Iterable[Flag]) -> int:
    """Labels above the axes, each on a pole; returns how many lines they take.

    A label begins at its pole and lies higher than those that begin under it, so that none covers a label or a pole.
    """
    heights: list[tuple[float, int]] = []  # poles to the right, and the lines of their labels
    axes_points = to_points(axes, axes.get_window_extent().height)
    for flag in sorted(flags, key=lambda flag: -flag.x):
        left = to_points(axes, float(axes.transData.transform((flag.x, flag.y))[0]))
        right = left + width_points(flag.text) + 8
        line = 1 + max((line for x, line in heights if x < right), default=-1)
        heights.append((left, line))
        axes.annotate(
            flag.text,
            (flag.x, flag.y),
            (flag.x, 1 + (5 + LINE * line) / axes_points),
            textcoords=axes.get_xaxis_transform(),
            fontsize=SMALL,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0), "shrinkA": 0, "shrinkB": 0, "lw": 0.6, "color": GREY},
            bbox={"boxstyle": "square,pad=0.12", "fc": "none", "ec": "none"},
            annotation_clip=False,
        )
    return 1 + max((line for _, line in heights), default=-1)


def to_points(axes: Axes, pixels: float) -> float:
    """The unit that letters are measured in, 72 to the inch."""
    return pixels * 72 / axes.figure.dpi


def log_ticks(axis: Axis, show: Callable[[float], str]) -> None:
    """Ticks that people can read, for a logarithmic axis whose limits are set."""
    low, high = axis.get_view_interval()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(np.arange(1, 10, 0.25))):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    axis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 12]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def legend_right(axes: Axes, handles: Sequence[Artist]) -> None:
    """Beside the data, which it cannot hide."""
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=SMALL, frameon=False)
