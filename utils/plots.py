"""Plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced
from edgecloud.utils.units import format_seconds

CLOSE, LOOSE = 1.1, 1.2


def check_name(path: Path) -> None:
    """Raises UsageError for a suffix that is no format of pictures that can be written everywhere."""
    needs_tex = {"pgf"}
    if path.suffix.lower().removeprefix(".") not in set(Figure().canvas.get_supported_filetypes()) - needs_tex:
        raise UsageError(f"{path}: the suffix must be .png, .svg or .pdf")


def scatter(
    path: Path, measured_ms: NDArray[np.float64], predicted_ms: NDArray[np.float64], title: str, note: str
) -> None:
    """Predicted over measured milliseconds, both logarithmic, with bands of 10 and 20 %. Raises OSError."""
    figure, axes = plt.subplots(figsize=(5.5, 5.5), dpi=120)
    both = np.concatenate([measured_ms, predicted_ms])
    line = np.array([both.min() * 0.7, both.max() * 1.4])
    axes.fill_between(line, line / LOOSE, line * LOOSE, color="tab:green", alpha=0.12, label="±20 %", lw=0)
    axes.fill_between(line, line / CLOSE, line * CLOSE, color="tab:green", alpha=0.22, label="±10 %", lw=0)
    axes.plot(line, line, color="grey", lw=0.8)
    axes.scatter(measured_ms, predicted_ms, s=9, alpha=0.5, lw=0, color="tab:blue")
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line, xlabel="measured, ms", ylabel="predicted, ms")
    axes.set_title(title, fontsize=10)
    axes.text(0.98, 0.02, note, transform=axes.transAxes, ha="right", fontsize=7, color="grey")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    _save(figure, path)


class Bar(NamedTuple):
    """A stage of a task, in seconds since the start."""

    stage: str
    begin_s: float
    length_s: float


STAGE_COLOURS = {"edge": "tab:green", "link": "tab:orange", "cloud": "tab:blue", "fallback": "tab:red"}


class Strip(NamedTuple):
    """A row of a waterfall: whose it is, its stages in their order, and what is told at its right end."""

    name: str
    bars: Sequence[Bar]
    note: str = ""


LEAST_WIDTH = 1 / 200
"""Of the picture: a stage that is shorter is drawn as wide as this, or nobody would see it beside the long ones."""


def waterfall(path: Path, strips: Sequence[Strip], title: str) -> None:
    """A row for each task, a bar for each stage: what overlaps ran at the same time. Raises OSError."""
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.24 * max(len(strips), 4)), dpi=110)
    least_s = LEAST_WIDTH * max((bar.begin_s + bar.length_s for strip in strips for bar in strip.bars), default=1.0)
    for place, strip in enumerate(strips):
        for bar in seen(strip.bars, least_s):
            axes.barh(place, bar.length_s, left=bar.begin_s, height=0.7, color=STAGE_COLOURS[bar.stage], lw=0)
    axes.set_yticks(range(len(strips)), [_plain(strip.name) for strip in strips], fontsize=7)
    axes.margins(y=0.01)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the start")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="x", lw=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(strips)), [_plain(strip.note) for strip in strips], fontsize=7)
    right.tick_params(length=0)
    used = {bar.stage for strip in strips for bar in strip.bars}
    shapes = [Patch(color=colour) for stage, colour in STAGE_COLOURS.items() if stage in used]
    names = [stage for stage in STAGE_COLOURS if stage in used]
    axes.legend(
        shapes, names, fontsize=8, frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0
    )
    if any(bar.length_s < least_s for strip in strips for bar in strip.bars):
        note = f"stages shorter than {format_seconds(least_s)} are drawn with that length"
        style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
        axes.annotate(note, (1, 0), (0, -24), fontsize=7, color="grey", **style)
    _save(figure, path)


def seen(bars: Sequence[Bar], least_s: float) -> list[Bar]:
    """The same in their order, none shorter than can be seen, none hidden by the one after it."""
    drawn: list[Bar] = []
    for bar in bars:
        begin_s = max(bar.begin_s, drawn[-1].begin_s + least_s) if drawn else bar.begin_s
        drawn.append(Bar(bar.stage, begin_s, max(bar.length_s - (begin_s - bar.begin_s), least_s)))
    return drawn


def _plain(text: str) -> str:
    """A name that anybody may have given: matplotlib would take two dollars for a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    try:
        with replaced(path) as temporary:
            figure.savefig(temporary)
    finally:
        plt.close(figure)
