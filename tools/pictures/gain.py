"""Plot of where a cut pays, and how much: its gain over the better end, by upload rate and speed of the edge."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from edgecloud.partition.decision_map import FASTEST, SLOWEST, DecisionMap, Region
from edgecloud.partition.gain import PAYS
from edgecloud.tools.pictures.map import why_no_map
from edgecloud.tools.pictures.style import (
    CLOUD,
    DARK,
    EDGE,
    SMALL,
    STAR,
    Floats,
    add_title,
    check_format,
    cut_label,
    log_ticks,
    new_figure,
    paler,
    save,
)
from edgecloud.tools.pictures.view import PER_MBIT
from edgecloud.tools.whatif import Planned, map_of, setting_of
from edgecloud.utils.units import format_rate

RATES, ROWS, ROWS_TIMES_LAYERS = 97, 40, 5_000
TIMES = 16.0  # around the plan's own link, and around its edge
LEVELS = (PAYS, 1.2, 1.5, 2.0, 3.0)
LEAST_TOP = 1.5  # of the colours: what hardly pays is pale
CUT, ON_CLOUD, ON_EDGE = 0, 1, 2
GAINS = LinearSegmentedColormap.from_list("gains", ["white", "khaki", "orange", "firebrick"])
AREAS = LinearSegmentedColormap.from_list("areas", ["white", paler(CLOUD, 0.25), paler(EDGE, 0.25)])


class Surface(NamedTuple):
    """Rows of edges, columns of upload rates: what the best cut gains there, and which area it is in."""

    rates: Floats
    """Bytes per second."""
    speeds: Floats
    """How many times as fast as the plan's edge."""
    gains: Floats
    areas: Floats
    regions: tuple[tuple[Region, ...], ...]
    """The best cut of each place."""


def gain_picture(planned: Planned, path: Path) -> None:
    """Where a cut pays, by upload rate and edge, and how much; both ends where none does."""
    check_format(path)
    figure = new_figure(9.0, 5.0)
    axes = figure.add_axes((0.09, 0.12, 0.68, 0.7))
    if planned.map is None:
        axes.set_axis_off()
        axes.text(0, 0.5, why_no_map(planned), fontsize=SMALL, color=DARK)
        add_title(axes, planned, "Where a cut pays")
    else:
        _draw(axes, planned, surface_of(planned))
        add_title(axes, planned, "Where a cut pays: how many times as fast as the better end")
    save(figure, path)


def surface_of(planned: Planned) -> Surface:
    """From a map for each row."""
    setting, own, graph = setting_of(planned), planned.problem.link.up_bytes_per_s, planned.graph
    rates = np.geomspace(max(own / TIMES, SLOWEST), min(own * TIMES, FASTEST), RATES)
    share = planned.config.cpu_share
    speeds = np.geomspace(1 / TIMES, min(TIMES, 1 / share) if share < 1 else TIMES, _rows_of(len(graph.layers)))
    maps = [map_of(setting.at_speed(speed)) for speed in speeds.tolist()]
    regions = tuple(tuple(each.region_at(rate) for rate in rates.tolist()) for each in maps)
    gains = np.array([[_gain(each, rate) for rate in rates.tolist()] for each in maps])
    areas = np.array([[_area(planned, region) for region in row] for row in regions], dtype=float)
    return Surface(rates, speeds, gains, areas, regions)


def _rows_of(layers: int) -> int:
    """Fewer for large graphs, whose maps take longer."""
    return max(ROWS // 2, min(ROWS, ROWS_TIMES_LAYERS // layers))


def _gain(decisions: DecisionMap, rate: float) -> float:
    return max(1.0, decisions.gain_at(rate))


def _area(planned: Planned, region: Region) -> int:
    return {planned.graph.only_inputs: ON_CLOUD, planned.graph.everything: ON_EDGE}.get(region.head, CUT)


def _draw(axes: Axes, planned: Planned, surface: Surface) -> None:
    share = planned.config.cpu_share
    x, y = surface.rates / PER_MBIT, surface.speeds * (share if share < 1 else 1.0)
    is_cut = surface.gains > 1.0 + 1e-9
    axes.pcolormesh(x, y, surface.areas, cmap=AREAS, vmin=CUT, vmax=ON_EDGE, shading="nearest", rasterized=True)
    shown = np.ma.masked_where(~is_cut, surface.gains)
    top = max(LEAST_TOP, float(min(surface.gains.max(), LEVELS[-1])))
    image = axes.pcolormesh(x, y, shown, cmap=GAINS, vmin=1.0, vmax=top, shading="nearest", rasterized=True)
    levels = [level for level in LEVELS if level < surface.gains.max()]
    if levels:
        lines = axes.contour(x, y, surface.gains, levels=levels, colors="black", linewidths=0.8)
        axes.clabel(lines, fmt=lambda level: f"{level:g} x", fontsize=SMALL)
    axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    log_ticks(axes.xaxis, "{:g}".format)
    log_ticks(axes.yaxis, "{:g}".format)
    axes.set_xlabel("upload rate, mbit/s")
    axes.set_ylabel("edge: share of a core" if share < 1 else "edge: times as fast")
    _name_areas(axes, surface, x, y)
    axes.plot([planned.problem.link.up_bytes_per_s / PER_MBIT], [share if share < 1 else 1.0], **STAR)
    axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0.0, 0.02, 1.0)), label="gain over the better end")
    axes.text(0, -0.16, _most_line(planned, surface), fontsize=SMALL, color=DARK, transform=axes.transAxes, va="top")


def _name_areas(axes: Axes, surface: Surface, x: Floats, y: Floats) -> None:
    for area, name in ((ON_CLOUD, "all on the cloud"), (ON_EDGE, "all on the edge")):
        places = np.argwhere(surface.areas == area)
        if len(places) > 0.02 * surface.areas.size:
            row, column = np.median(places, axis=0).astype(int)
            axes.text(x[column], y[row], name, fontsize=SMALL, ha="center", va="center")


def _most_line(planned: Planned, surface: Surface) -> str:
    """Where most is gained."""
    row, column = np.unravel_index(int(surface.gains.argmax()), surface.gains.shape)
    gain = float(surface.gains[row, column])
    if gain < PAYS:
        return f"No cut pays here: the most that one gains is {gain:.2f} x."
    region, share = surface.regions[row][column], planned.config.cpu_share
    speed = float(surface.speeds[row])
    edge = f"{speed * share:.2g} of a core" if share < 1 else f"an edge {speed:.2g} times as fast"
    cut = f"{cut_label(planned.graph, region.head)} [{region.codec}]"
    return f"Most: {gain:.2f} x at {format_rate(float(surface.rates[column]))} and {edge}, {cut}."
