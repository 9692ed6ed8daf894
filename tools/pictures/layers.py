"""Time and output size of each layer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from edgecloud.models.graph import to_ranges
from edgecloud.tools.pictures.style import (
    CLOUD,
    EDGE,
    GREY,
    LINK,
    MOST_NAMED,
    Floats,
    add_title,
    check_format,
    crossing_label,
    crossing_of,
    layer_name,
    legend_right,
    log_ticks,
    new_figure,
    paler,
    save,
)
from edgecloud.tools.whatif import Planned
from edgecloud.utils.units import format_bytes, format_seconds

PALE_LINK = paler(LINK, 0.4)
ZERO: dict[str, Any] = {"marker": "v", "ms": 4, "lw": 0, "mfc": "white"}
SHADE = 0.12
MOST_TICKS = 45
TINY = 6.5  # points of letters


def layers_picture(planned: Planned, path: Path) -> None:
    """Seconds of every layer on either side and bytes of its output, as in Neurosurgeon's figures 4 and 5."""
    check_format(path)
    size = len(planned.graph.layers)
    figure = new_figure(min(max(6.0, 0.3 * size), 15.0), 6.0)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"hspace": 0.08})
    _draw_seconds(top, planned)
    _draw_bytes(bottom, planned)
    for axes in (top, bottom):
        _shade_cloud(axes, planned)
        axes.set_xlim(-0.6, size - 0.4)
        axes.grid(axis="y", lw=0.4, alpha=0.5)
        axes.set_axisbelow(True)
    step = -(-size // MOST_TICKS)
    named = range(0, size, step)
    bottom.set_xticks(named, [layer_name(planned.graph, each) for each in named], rotation=90, fontsize=TINY)
    bottom.set_xlabel("layers, in execution order" + (f" (1 in {step} labeled)" if step > 1 else ""))
    add_title(top, planned, "Time and output size of each layer")
    save(figure, path)


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
    axes.set_ylabel("layer time")
    handles: list[Artist] = [
        Patch(color=EDGE, label="on the edge"),
        Patch(color=CLOUD, label=_cloud_name(planned)),
    ]
    if planned.decision.head != planned.graph.everything:
        handles.append(Patch(color=CLOUD, alpha=SHADE, label="layers on the cloud"))
        handles.append(Line2D([], [], color=LINK, lw=1.4, ls="--", label="cut"))
    if _mark_zeros(axes, places - shift, edge_s, EDGE) | _mark_zeros(axes, places + shift, cloud_s, CLOUD):
        handles.append(Line2D([], [], color=GREY, label="zero time", **ZERO))
    legend_right(axes, handles)


def _cloud_name(planned: Planned) -> str:
    load = planned.problem.cloud.load
    return "on the cloud" + (f", load {load:g}" if load != 1 else "")


def _draw_bytes(axes: Axes, planned: Planned) -> None:
    graph, crossing = planned.graph, crossing_of(planned)
    places = np.arange(float(len(graph.layers)))
    sizes = np.array([layer.out_bytes for layer in graph.layers], dtype=np.float64)
    colours = [LINK if number in crossing else PALE_LINK for number in range(len(graph.layers))]
    _bars(axes, places, sizes, 0.84 if len(places) <= MOST_NAMED else 1.0, colours)
    _log_height(axes, sizes, format_bytes)
    axes.set_ylabel("output tensor")
    handles: list[Artist] = [Patch(color=PALE_LINK, label="output size")]
    if crossing:
        handles.append(Patch(color=LINK, label=crossing_label(graph, crossing)))
    if _mark_zeros(axes, places, sizes, LINK):
        handles.append(Line2D([], [], color=GREY, label="zero bytes", **ZERO))
    legend_right(axes, handles)


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
    log_ticks(axes.yaxis, show)


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
