"""Latency against the edge's energy."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from edgecloud.tools.pictures.style import (
    BEST,
    DARK,
    GREY,
    LEAST,
    MOST_FLAGS,
    SMALL,
    STAR,
    Flag,
    Floats,
    add_title,
    check_format,
    cut_label,
    decision_label,
    legend_right,
    new_figure,
    raise_flags,
    save,
    shown,
)
from edgecloud.tools.whatif import Planned

HANDLES = (
    Line2D([], [], color=BEST, lw=3, label="lowest energy for the latency"),
    Line2D([], [], color="black", marker="o", ms=5, lw=0, label="cuts on the front"),
    Line2D([], [], color=GREY, marker="o", ms=3.5, lw=0, label="other single-tensor cuts"),
    Line2D([], [], label="this plan", **STAR),
)


def front_picture(planned: Planned, path: Path) -> None:
    """Latency against the edge's energy: the cuts that no other beats in both."""
    check_format(path)
    figure = new_figure(8.0, 4.6)
    axes = figure.add_axes((0.09, 0.11, 0.7, 0.66))
    lines = _draw(axes, planned)
    watts = ", ".join(shown(each) for each in (planned.config.power, planned.config.radio) if each)
    add_title(axes, planned, "Latency and energy: the Pareto-optimal cuts", lines)
    if watts:
        axes.text(1.02, 0.02, f"edge power:\n{watts}", transform=axes.transAxes, fontsize=SMALL, color=DARK)
    save(figure, path)


class _Tradeoff(NamedTuple):
    seconds: float
    joules: float


def _draw(axes: Axes, planned: Planned) -> int:
    """Returns how many lines of labels are above it."""
    power = planned.power.weights
    chosen = _Tradeoff(planned.decision.predicted.total_s, planned.energy_j)
    best = [_Tradeoff(point.predicted.total_s, point.energy_j) for point in planned.front]
    others = [_Tradeoff(c.predicted.total_s, power.value(c.predicted)) for c in planned.decision.candidates]
    visible = [*best, chosen, *(_nearest(others, chosen) if len(best) < 3 else ())]
    seconds, time_unit = (1e3, "ms") if max(each.seconds for each in visible) < 1 else (1.0, "s")
    joules, energy_unit = (1e3, "mJ") if max(each.joules for each in visible) < 1 else (1.0, "J")

    def scaled(points: Sequence[_Tradeoff]) -> Floats:
        return np.array(points).reshape(-1, 2) * (seconds, joules)

    (left, low), (right, high) = _around(scaled(visible))
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.set(xlabel=f"predicted latency, {time_unit}", ylabel=f"predicted edge energy, {energy_unit}")
    axes.ticklabel_format(useOffset=False)
    axes.grid(lw=0.4, alpha=0.5)
    line = scaled(best)
    axes.step([line[0, 0], *line[:, 0], right], [high, *line[:, 1], line[-1, 1]], where="post", color=BEST, lw=3)
    axes.plot(*scaled(others).T, "o", color=GREY, markersize=3.5, zorder=2)
    axes.plot(*line.T, "o", color="black", markersize=5, zorder=4)
    axes.plot(*scaled([chosen]).T, **STAR)
    legend_right(axes, HANDLES)
    places = scaled([*best, chosen]).tolist()
    return raise_flags(axes, [Flag(places[n][0], places[n][1], text) for n, text in _labels(planned).items()])


def _nearest(others: Iterable[_Tradeoff], chosen: _Tradeoff) -> list[_Tradeoff]:
    """Some to compare with, where the front says little."""

    def times_worse(point: _Tradeoff) -> float:
        return max(one / max(other, LEAST) for one, other in zip(point, chosen, strict=True))

    return sorted(others, key=times_worse)[:6]


def _around(places: Floats) -> tuple[Floats, Floats]:
    """The lower left and the upper right corner of what shows all of some places."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.where(high > low, 0.12 * (high - low), np.where(high > 0, 0.3 * high, 1.0))
    return low - room, high + room


def _labels(planned: Planned) -> dict[int, str]:
    """For numbers of the front, and the one after them for a plan that is not on it, what to write there."""
    front, graph, decision = planned.front, planned.graph, planned.decision
    last = len(front) - 1
    names = [cut_label(graph, point.head) for point in front]
    if not last:
        names[0] = f"fastest and lowest energy: {names[0]}"
    else:
        names[0], names[-1] = f"fastest: {names[0]}", f"lowest energy: {names[-1]}"
    flags = {*range(0, last, 1 + len(front) // MOST_FLAGS), last}
    own = next((n for n, each in enumerate(front) if decision.is_cut and each.head == decision.head), None)
    if own is None:
        return {n: names[n] for n in flags} | {last + 1: f"this plan: {decision_label(planned)}"}
    names[own] += " (this plan)"
    return {n: names[n] for n in flags | {own}}
