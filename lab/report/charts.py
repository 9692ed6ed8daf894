"""Charts: stacked bars for each cell, and predicted over measured. Pure: rows in, SVG as text out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import log

from edgecloud.lab.report.document import Chart, Panel, data_lines, show_ms
from edgecloud.lab.report.grid import CellResult, Grid
from edgecloud.lab.report.rows import PARTS, Row
from edgecloud.lab.report.svg import drawing, letters, line, log_ticks, tag, ticks
from edgecloud.lab.report.tables import grid_id
from edgecloud.lab.report.words import Words

SAME_SCALE = 4.0
"""Cells share an axis unless the slowest bar of one is this many times that of another."""


@dataclass(frozen=True)
class Frame:
    """Where the data of a panel is, in the units of its viewBox."""

    width: float = 360.0
    height: float = 236.0
    left: float = 38.0
    right: float = 6.0
    top: float = 24.0
    bottom: float = 42.0

    @property
    def base(self) -> float:
        """The y of zero."""
        return self.height - self.bottom

    @property
    def inner(self) -> float:
        """Width of the data."""
        return self.width - self.left - self.right


FRAME = Frame()
SQUARE = Frame(width=440, height=420, left=58, right=14, top=14, bottom=46)


# --- stacked bars


def bars_chart(grid: Grid, w: Words) -> Chart:
    """Local, transfer and cloud of every fixed point: a panel for each cell, devices down and links across."""
    tallest = [_tallest(result) for result in grid.results]
    tallest = [value for value in tallest if value > 0]
    is_same = bool(tallest) and max(tallest) / min(tallest) <= SAME_SCALE
    panels = []
    for cpu in grid.cpus:
        for place in grid.places:
            title = w("panel", cpu=w.cpu(cpu), link=w.link(place))
            result = grid.at(cpu, place)
            if result is None or not result.ranked:
                panels.append(Panel(title, _nothing(title, w)))
            else:
                panels.append(
                    Panel(title, _bars(grid, result, max(tallest) if is_same else _tallest(result), title, w))
                )
    notes = (w("bars_note"), w("bars_same" if is_same else "bars_own"))
    keys = tuple((name, w(name)) for name in PARTS)
    return Chart(f"bars-{grid_id(grid)}", w("bars_title"), tuple(panels), len(grid.places), keys, notes)


def _tallest(result: CellResult) -> float:
    """Seconds of the slowest cut, by its median: one slow repeat would make all bars small."""
    return max((row.total_s for row in result.ranked), default=0.0)


def _nothing(title: str, w: Words) -> str:
    middle = letters(w("not_measured"), FRAME.width / 2, FRAME.height / 2, class_="missing", text_anchor="middle")
    return drawing(FRAME.width, FRAME.height, title, middle)


def _bars(grid: Grid, result: CellResult, high_s: float, title: str, w: Words) -> str:
    scale, unit = (1.0, "s") if high_s >= 2 else (1e3, "ms")
    marks = ticks(high_s * scale)
    top_s = marks[-1] / scale
    rows = {(row.point, row.layer, row.codec): row for row in result.points}
    points, best = grid.points, result.best
    starred = None if best is None else points.index((best.point, best.layer, best.codec))
    width, label_numbers = FRAME.inner / len(points), _labelled(len(points), starred)

    def y_of(seconds: float) -> float:
        return FRAME.base - (FRAME.base - FRAME.top) * seconds / top_s

    pieces = [_grid_line(mark, y_of(mark / scale)) for mark in marks]
    pieces.append(letters(unit, FRAME.left - 5, FRAME.top - 10, class_="tick", text_anchor="end"))
    for number, key in enumerate(points):
        x, row = FRAME.left + width * number, rows.get(key)
        is_there = row is not None and row.is_measured
        pieces.append(
            _bar(row, (x, width), y_of, w) if row is not None and is_there else _gap(x + width / 2, key[0], w)
        )
        kind = "tick strong" if number == starred else "tick"
        if number in label_numbers:
            pieces.append(_under(w.point(key[0]), x + width / 2, 12, kind))
        if result.auto is not None and key[0] is not None and result.auto.point == key[0]:
            pieces.append(_under("▲", x + width / 2, 23, "auto"))
    if best is not None and starred is not None:
        star_y = y_of(sum(best.stages[name].median for name in PARTS)) - 4
        pieces.append(_under("★", FRAME.left + width * (starred + 0.5), star_y - FRAME.base, "star"))
        label = f"★ {w.cut(best)}: {show_ms(best.total_s)}"
        pieces.append(letters(label, FRAME.width - FRAME.right, FRAME.top - 10, class_="star", text_anchor="end"))
    pieces.append(line(FRAME.left, FRAME.base, FRAME.width - FRAME.right, FRAME.base, "axis"))
    pieces.append(letters(w("axis_cut"), FRAME.left + FRAME.inner / 2, FRAME.height - 5, class_="axis-name"))
    return drawing(FRAME.width, FRAME.height, w("bars_alt", title=title), "".join(pieces))


def _labelled(points: int, starred: int | None) -> set[int]:
    """Which bars have their number under them: as many as fit, the best one among them."""
    every = max(1, -(-22 * points // int(FRAME.inner)))
    if starred is None:
        return set(range(0, points, every))
    return {n for n in range(0, points, every) if not 0 < abs(n - starred) < every} | {starred}


def _under(words: str, x: float, below: float, kind: str) -> str:
    """Something centred on a bar, so far below the axis."""
    return letters(words, x, FRAME.base + below, class_=kind, text_anchor="middle")


def _grid_line(mark: float, y: float) -> str:
    label = letters(f"{mark:g}", FRAME.left - 5, y + 3.5, class_="tick", text_anchor="end")
    return line(FRAME.left, y, FRAME.width - FRAME.right, y, "grid") + label


def _bar(row: Row, span: tuple[float, float], y_of: Callable[[float], float], w: Words) -> str:
    (x, width), reached = span, 0.0
    parts = [f"{w(name)} {show_ms(row.stages[name].median)}" for name in PARTS]
    title = f"{w('cut')} {w.cut(row)} {row.layer}: {show_ms(row.total_s)} ({', '.join(parts)})"
    pieces = [tag("title", escape(title))]
    for name in PARTS:
        begin, reached = reached, reached + row.stages[name].median
        height = y_of(begin) - y_of(reached)
        pieces.append(
            tag("rect", x=x + width * 0.1, y=y_of(reached), width=width * 0.8, height=height, class_=f"fill-{name}")
        )
    total, middle = row.stages["total"], x + width / 2
    pieces.append(line(middle, y_of(total.low), middle, max(2.0, y_of(total.high)), "whisker"))
    return tag("g", "".join(pieces), data_records=data_lines(row.lines))


def _gap(x: float, point: int | None, w: Words) -> str:
    title = f"{w('cut')} {w.point(point)}: {w('not_measured')}"
    return tag("g", tag("title", escape(title)) + _under("×", x, -4, "missing"))


# --- predicted over measured


def scatter_chart(rows: Sequence[Row], w: Words) -> Chart:
    """Predicted total over measured total, both logarithmic, with the diagonal and lines 10 % off."""
    both = [value * 1e3 for row in rows for value in (row.total_s, row.predicted["total"])]
    low, high = min(both) / 1.25, max(both) * 1.25
    alt = w("scatter_title")
    content = _scatter_axes(low, high, w) + "".join(_dot(row, low, high, w) for row in rows)
    keys = tuple((f"dot-{who}", w(f"dots_{who}")) for who in dict.fromkeys(row.who for row in rows))
    panel = Panel("", drawing(SQUARE.width, SQUARE.height, alt, content))
    return Chart("scatter", alt, (panel,), 1, keys, (w("scatter_note"),))


def _at(value: float, low: float, high: float) -> float:
    """0 to 1 on a logarithmic axis."""
    return log(value / low) / log(high / low)


def _xy(x: float, y: float, low: float, high: float) -> tuple[float, float]:
    return (
        SQUARE.left + SQUARE.inner * _at(x, low, high),
        SQUARE.base - (SQUARE.base - SQUARE.top) * _at(y, low, high),
    )


def _scatter_axes(low: float, high: float, w: Words) -> str:
    pieces = []
    for mark in log_ticks(low, high):
        x, y = _xy(mark, mark, low, high)
        pieces += [line(x, SQUARE.top, x, SQUARE.base, "grid"), line(SQUARE.left, y, SQUARE.width - 14, y, "grid")]
        pieces.append(letters(f"{mark:g}", x, SQUARE.base + 14, class_="tick", text_anchor="middle"))
        pieces.append(letters(f"{mark:g}", SQUARE.left - 6, y + 4, class_="tick", text_anchor="end"))
    for factor, kind in ((1.0, "diagonal"), (1.1, "band"), (0.9, "band")):
        first, last = max(low, low / factor), min(high, high / factor)
        pieces.append(line(*_xy(first, first * factor, low, high), *_xy(last, last * factor, low, high), kind))
    middle = (SQUARE.top + SQUARE.base) / 2
    pieces.append(letters(w("axis_measured"), SQUARE.left + SQUARE.inner / 2, SQUARE.height - 8, class_="axis-name"))
    rotation = f"rotate(-90 14 {middle:g})"
    pieces.append(letters(w("axis_predicted"), 14, middle, class_="axis-name", transform=rotation))
    return "".join(pieces)


def _dot(row: Row, low: float, high: float, w: Words) -> str:
    x, y = _xy(row.total_s * 1e3, row.predicted["total"] * 1e3, low, high)
    title = w(
        "dot",
        cell=w.cell(row.cell),
        cut=w.cut(row),
        measured=show_ms(row.total_s),
        predicted=show_ms(row.predicted["total"]),
    )
    kind, lines = f"dot dot-{row.who}", data_lines(row.lines)
    return tag("circle", tag("title", escape(title)), cx=x, cy=y, r=4.0, class_=kind, data_records=lines)
