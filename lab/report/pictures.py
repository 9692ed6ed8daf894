"""The report's figures as PNG files, from the same numbers as its charts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from edgecloud.lab.report.document import BEST, Document, Entry, Table
from edgecloud.lab.report.svg import log_ticks
from edgecloud.lab.report.workbook import COLOURS, PARTS
from edgecloud.utils.files import replaced

DPI, MOST_PIXELS = 130, 12_000
FAMILIES = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "PingFang SC", "Microsoft YaHei"),
    *(
        "WenQuanYi Micro Hei",
        "WenQuanYi Zen Hei",
        "SimHei",
        "Hiragino Sans GB",
        "Noto Sans CJK JP",
        "Droid Sans Fallback",
    ),
)
"""Fonts with Chinese letters, the better ones first."""
SAME_SCALE = 4.0
Words = dict[str, str]


@dataclass(frozen=True)
class Panel:
    """The fixed cuts of one cell: rows of the student's table."""

    group: tuple[str, ...]
    cpu: str
    link: str
    rows: tuple[tuple[Entry, ...], ...]


@cache
def chinese_font() -> str | None:
    """A font with Chinese letters that is installed here."""
    fonts = {each.name for each in font_manager.fontManager.ttflist}
    return next((name for name in FAMILIES if name in fonts), None)


def draw(folder: Path, document: Document) -> list[Path]:
    """Write them; returns their names. Raises OSError."""
    fonts = [font for font in (chinese_font() if document.language == "zh" else None, "DejaVu Sans") if font]
    paths = []
    with rc_context({"font.family": fonts, "axes.unicode_minus": False, "font.size": 9}):
        for name, figure in _figures(document):
            path = folder / f"{name}.png"
            FigureCanvasAgg(figure)
            dpi = min(DPI, MOST_PIXELS / max(figure.get_size_inches()))
            with replaced(path) as temporary:
                figure.savefig(temporary, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.12)
            paths.append(path)
    return paths


def _figures(document: Document) -> Iterator[tuple[str, Figure]]:
    panels = list(_panels(document.table))
    for number, group in enumerate(dict.fromkeys(panel.group for panel in panels), start=1):
        group_panels = [panel for panel in panels if panel.group == group]
        yield f"cuts-{number}-{_plain(group[0])}", _cuts(group_panels, document)
    maps = [block for section in document.sections for block in section.blocks if isinstance(block, Table)]
    for table in maps:
        if table.is_heat_map and table.rows:
            yield table.id, _heat_map(table)
    if document.predicted.rows:
        yield "predicted", _scatter(document.predicted, document.words)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)[:60]


def _shown(text: str) -> str:
    """A name that anybody may have given: matplotlib would take two dollars for a formula."""
    return text.replace("$", r"\$")


# --- every cut of every cell


def _panels(table: Table) -> Iterator[Panel]:
    cut, total = table.column("cut"), table.column("total")
    goal = [table.column("objective")] if "objective" in table.keys else []
    for begin, end in table.groups():
        rows = tuple(row for row in table.rows[begin:end] if isinstance(row[cut].value, int))
        rows = tuple(row for row in rows if isinstance(row[total].value, float))
        if rows:
            group = tuple(rows[0][column].text for column in (0, *goal))
            yield Panel(group, rows[0][1].text, rows[0][2].text, rows)


def _cuts(panels: Sequence[Panel], document: Document) -> Figure:
    """A panel for each cell: devices down, links across."""
    table, w = document.table, document.words
    cpus, links = (list(dict.fromkeys(values)) for values in zip(*((p.cpu, p.link) for p in panels), strict=True))
    figure = Figure(figsize=(1 + 3.8 * len(links), 1 + 2.5 * len(cpus)), layout="constrained")
    grid = figure.subplots(len(cpus), len(links), squeeze=False)
    tallest = [max(_stack(row, table) for row in panel.rows) for panel in panels]
    is_same = max(tallest) <= SAME_SCALE * min(tallest)
    by_place = {(panel.cpu, panel.link): panel for panel in panels}
    for row, cpu in enumerate(cpus):
        for column, link in enumerate(links):
            axes: Axes = grid[row][column]
            panel = by_place.get((cpu, link))
            if panel is None:
                axes.set_axis_off()
                continue
            _bars(axes, panel, document)
            axes.set_title(_shown(f"{table.head[1]} {cpu}{w['comma']}{link}"), fontsize=9, loc="left", weight="bold")
            axes.set_ylim(top=1.1 * (max(tallest) if is_same else max(_stack(each, table) for each in panel.rows)))
            axes.set_ylabel(w["axis_total"] if column == 0 else "")
            axes.set_xlabel(w["axis_cut"] if row == len(cpus) - 1 else "")
    shapes = [Patch(color=f"#{COLOURS[name]}") for name in PARTS]
    names = [table.head[table.column(name)] for name in PARTS]
    figure.suptitle(_shown(f"{w['comma'].join(panels[0].group)}{w['colon']}{w['bars_title']}"), fontsize=11)
    figure.legend(shapes, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _stack(row: Sequence[Entry], table: Table) -> float:
    return sum(float(row[table.column(name)].value or 0.0) for name in PARTS)


def _bars(axes: Axes, panel: Panel, document: Document) -> None:
    table, places = document.table, range(len(panel.rows))
    base = [0.0] * len(panel.rows)
    for name in PARTS:
        heights = [float(row[table.column(name)].value or 0.0) for row in panel.rows]
        axes.bar(places, heights, bottom=base, color=f"#{COLOURS[name]}", width=0.8, lw=0)
        base = [below + height for below, height in zip(base, heights, strict=True)]
    cut = table.column("cut")
    for place, row in enumerate(panel.rows):
        if row[cut].mark == BEST:
            label = f"★ {row[table.column('total')].text} ms"
            axes.annotate(label, (place, base[place]), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    every = max(1, len(panel.rows) // 12)
    axes.set_xticks(list(places)[::every], [row[cut].text for row in panel.rows][::every], fontsize=7)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", lw=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# --- heat maps, and predictions


def _heat_map(table: Table) -> Figure:
    rows, columns = len(table.rows), len(table.head) - 1
    figure = Figure(figsize=(1.4 + 1.5 * columns, 1.2 + 0.5 * rows), layout="constrained")
    axes = figure.subplots()
    shares = [[entry.share or 0.0 for entry in row[1:]] for row in table.rows]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for row, entries in enumerate(table.rows):
        for column, entry in enumerate(entries[1:]):
            axes.text(column, row, _shown(entry.text), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(columns), [_shown(name) for name in table.head[1:]])
    axes.set_yticks(range(rows), [_shown(row[0].text) for row in table.rows])
    axes.tick_params(length=0)
    axes.set_ylabel(table.head[0].partition("\\")[0].strip())
    axes.set_title(table.title, fontsize=10, loc="left")
    return figure


def _scatter(table: Table, w: Words) -> Figure:
    measured, predicted = (
        [float(row[table.column(key)].value or 0.0) for row in table.rows] for key in ("measured", "predicted")
    )
    low, high = min(*measured, *predicted) / 1.25, max(*measured, *predicted) * 1.25
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between([low, high], [low / 1.1, high / 1.1], [low * 1.1, high * 1.1], color="0.9", lw=0, label="±10 %")
    axes.plot([low, high], [low, high], color="grey", lw=0.8)
    axes.scatter(measured, predicted, s=14, alpha=0.55, lw=0, color=f"#{COLOURS['cloud']}")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel=w["axis_measured"], ylabel=w["axis_predicted"])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(log_ticks(low, high)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(lw=0.4, alpha=0.5)
    axes.set_title(w["scatter_title"], fontsize=10, loc="left")
    axes.legend(loc="upper left", frameon=False)
    return figure
