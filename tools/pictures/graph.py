"""Plot of the graph of layers, colored by side, with the boundary tensors."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.path import Path as Outline

from edgecloud.tools.pictures.layout import Layout
from edgecloud.tools.pictures.style import (
    CLOUD,
    EDGE,
    GREY,
    LINK,
    SMALL,
    add_title,
    check_format,
    crossing_label,
    crossing_of,
    layer_name,
    new_figure,
    paler,
    save,
)
from edgecloud.tools.whatif import Planned
from edgecloud.utils.units import format_seconds

LONGEST = 60.0  # inches


def graph_picture(planned: Planned, path: Path) -> None:
    """The graph of layers, coloured by where each one runs, with the tensors that cross the link and their sizes."""
    check_format(path)
    drawing = _Drawing(planned)
    left, right, bottom, top = drawing.layout.extent
    shrunk = min(1.0, LONGEST / max(right - left, top - bottom))  # or there would be too many pixels
    figure = new_figure((right - left) * shrunk, (top - bottom) * shrunk)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    drawing.draw(axes)
    wraps = ", column by column" if drawing.layout.columns > 1 else ""
    add_title(axes, planned, f"Placement of the layers, from top to bottom{wraps}", 1)
    save(figure, path)


class _Drawing:
    """Lines, layers, labels and what they mean."""

    def __init__(self, planned: Planned) -> None:
        self._planned, self._graph, self._head = planned, planned.graph, planned.decision.head
        self._crossing = crossing_of(planned)
        self.layout = Layout(self._graph, self._crossing)

    def draw(self, axes: Axes) -> None:
        """All of it."""
        (self._draw_boxes if self.layout.is_named else self._draw_dots)(axes)
        for column in range(self.layout.columns):
            self._draw_labels(axes, column)
        self._draw_legend(axes, has_faint=self._draw_lines(axes))

    def _draw_lines(self, axes: Axes) -> bool:
        """Those on the edge, on the cloud, and across the link. Returns whether some, far ones, are faint."""
        paths: dict[tuple[str, bool], list[Outline]] = defaultdict(list)
        for number, layer in enumerate(self._graph.layers):
            for source in dict.fromkeys(layer.inputs):
                is_crossing = (source in self._head) != (number in self._head)
                path = self.layout.line(source, number)
                is_straight_through = path.codes is not None and not self.layout.is_within_column(source, number)
                paths[LINK if is_crossing else self._colour(number), is_straight_through].append(path)
        width = 1.0 if self.layout.is_named else 0.6
        for (colour, is_faint), outlines in paths.items():
            factor, alpha = (2.0, 1.0) if colour == LINK else (1.0, 0.7)
            lines = PathCollection(outlines, facecolors="none", edgecolors=colour, linewidths=factor * width)
            lines.set(alpha=0.2 if is_faint else alpha, zorder=factor)
            axes.add_collection(lines)
        return any(is_faint for _, is_faint in paths)

    def _colour(self, number: int) -> str:
        return EDGE if number in self._head else CLOUD

    def _draw_dots(self, axes: Axes) -> None:
        numbers = range(len(self._graph.layers))
        xs, ys = zip(*map(self.layout.place, numbers), strict=True)
        colours = [self._colour(number) for number in numbers]
        rings = [LINK if number in self._crossing else colour for number, colour in enumerate(colours)]
        sizes = [60 if number in self._crossing else 18 for number in numbers]
        axes.scatter(xs, ys, s=sizes, c=colours, edgecolors=rings, linewidths=2, zorder=5)

    def _draw_boxes(self, axes: Axes) -> None:
        width, style = self.layout.box, "round,pad=0,rounding_size=0.05"
        for number in range(len(self._graph.layers)):
            (x, y), colour = self.layout.place(number), self._colour(number)
            ring, line = (LINK, 2) if number in self._crossing else (colour, 1)
            corner, inside = (x - width / 2, y - 0.1), paler(colour, 0.35)
            axes.add_patch(FancyBboxPatch(corner, width, 0.2, style, fc=inside, ec=ring, lw=line, zorder=5))
            axes.text(x, y, layer_name(self._graph, number), fontsize=SMALL, ha="center", va="center", zorder=6)

    def _draw_labels(self, axes: Axes, column: int) -> None:
        """Beside one column, each as near to its layer as those above it let it."""
        left, free = self.layout.label_xs[column], np.inf
        behind = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75}
        for number in self.layout.labels_of(column):
            x, y = self.layout.place(number)
            free = min(y, free)
            colour = LINK if number in self._crossing else GREY
            axes.plot([x, left - 0.03], [y, free], color=colour, lw=0.6, zorder=3)
            axes.text(left, free, self.layout.labels[number], fontsize=SMALL, va="center", zorder=6, bbox=behind)
            free -= 0.14

    def _draw_legend(self, axes: Axes, *, has_faint: bool) -> None:
        predicted, edge = self._planned.decision.predicted, len(self._head) - 1
        cloud = len(self._graph.layers) - 1 - edge
        crossing = crossing_label(self._graph, self._crossing) if self._crossing else "nothing is sent"
        handles: list[Artist] = [
            Patch(color=EDGE, label=f"edge: {edge} layers, {format_seconds(predicted.edge_s)}"),
            Patch(color=LINK, label=crossing),
            Patch(color=CLOUD, label=f"cloud: {cloud} layers, {format_seconds(predicted.cloud_s)}"),
        ]
        if has_faint:
            handles.append(Line2D([], [], color=GREY, lw=0.6, label="faint: connects to another column"))
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "ncols": len(handles)}
        axes.legend(handles=handles, fontsize=SMALL, frameon=False, **place)
