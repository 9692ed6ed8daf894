"""Writes workbooks: tables, and charts of their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.chart import BarChart, Reference, ScatterChart, Series
from openpyxl.chart.legend import Legend
from openpyxl.chart.shapes import GraphicalProperties
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.worksheet import Worksheet

from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced

Cell = str | int | float
WIDTH_ROWS = 200
BARS, STACKED, DOTS = "bars", "stacked", "dots"
"""Kinds of charts: bars beside each other, above each other, and dots of which the last column is a line."""
CHART_COLUMNS, CHART_ROWS = 9, 17
"""Of the sheet, under one chart of the usual size."""
CHART_CM = (15, 8)
DOT_COLOUR = "2F7FC1"


@dataclass(frozen=True)
class Plot:
    """A chart of columns of a sheet, perhaps on another one. Columns and rows count from 0, without the head."""

    kind: str
    sheet: str
    title: str
    axes: tuple[str, str]
    """Names of x and y, with their units."""
    names: int | tuple[int, int]
    """The column of x, or the first and the last one of the names under the bars."""
    values: tuple[int, ...]
    rows: tuple[int, int]
    """The first one, and the one after the last."""
    colours: tuple[str, ...] = ()
    """Of the columns, RRGGBB."""
    columns: int = 1
    """How many charts of the usual size it is wide."""


@dataclass(frozen=True)
class Sheet:
    """A table, and perhaps a bar chart of column `chart[1]` over column `chart[0]`, or charts in rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    chart: tuple[str, str] | None = None
    plots: tuple[Plot, ...] = ()
    formats: Sequence[Sequence[str]] = ()
    """How the numbers of each row are shown; "" for as they are."""


def check_name(path: Path) -> None:
    """Raises UsageError for a name that a spreadsheet would not open."""
    if path.suffix.lower() != ".xlsx":
        raise UsageError(f"{path}: the suffix must be .xlsx")


def write_workbook(path: Path, sheets: Sequence[Sheet], notes: dict[str, str], about: str = "about") -> None:
    """Write an .xlsx with these sheets and one of notes, called `about`. Raises OSError."""
    book = Workbook()
    book.remove(book.worksheets[0])
    for sheet in sheets:
        _fill(book.create_sheet(sheet.title[:31]), sheet)
    for sheet in sheets:
        _draw(book[sheet.title[:31]], sheet.plots, book)
    page = book.create_sheet(about[:31])
    for number, (key, value) in enumerate(notes.items(), start=1):
        page.append([_harmless(key), _harmless(value)])
        _forbid_formulas(page, number, (key, value))
    page.column_dimensions["A"].width = page.column_dimensions["B"].width = 40
    with replaced(path) as temporary:
        book.save(temporary)


def _fill(page: Worksheet, sheet: Sheet) -> None:
    if not sheet.head:
        return
    for number, row in enumerate((sheet.head, *sheet.rows), start=1):
        page.append([_harmless(value) for value in row])
        _forbid_formulas(page, number, row)
    for number, name in enumerate(sheet.head, start=1):
        page.cell(1, number).font = Font(bold=True)
        widest = max(len(str(cell)) for cell in (name, *(row[number - 1] for row in sheet.rows[:WIDTH_ROWS])))
        page.column_dimensions[get_column_letter(number)].width = min(40, widest + 2)
    for number, formats in enumerate(sheet.formats, start=2):
        for column, form in enumerate(formats, start=1):
            if form:
                page.cell(number, column).number_format = form
    page.freeze_panes = "A2"
    if sheet.chart is not None:
        page.add_chart(
            _bars(page, sheet.head, len(sheet.rows), *sheet.chart), f"{get_column_letter(len(sheet.head) + 2)}2"
        )


def _harmless(value: Cell) -> Cell:
    """Text without the control characters that a workbook cannot hold."""
    return ILLEGAL_CHARACTERS_RE.sub("?", value) if isinstance(value, str) else value


def _forbid_formulas(page: Worksheet, number: int, row: Sequence[Cell]) -> None:
    """Text that begins like a formula stays text: names of networks and files may be anybody's."""
    for column, value in enumerate(row, start=1):
        if isinstance(value, str) and value.startswith("="):
            page.cell(number, column).data_type = "s"
            page.cell(number, column).quotePrefix = True


def _bars(sheet: Worksheet, head: Sequence[str], rows: int, over: str, of: str) -> BarChart:
    chart = BarChart()
    chart.title, chart.height, chart.width = of, 12, max(16, rows // 2)
    column, names = head.index(of) + 1, head.index(over) + 1
    chart.add_data(Reference(sheet, min_col=column, min_row=1, max_row=rows + 1), titles_from_data=True)
    chart.set_categories(Reference(sheet, min_col=names, min_row=2, max_row=rows + 1))
    chart.legend = None
    _show_axes(chart, over, of)
    return chart


def _draw(page: Worksheet, plots: Sequence[Plot], book: Workbook) -> None:
    """Charts from the left to the right, three usual ones in a row."""
    row, column = 1, 0
    for plot in plots:
        if column + plot.columns > 3:
            row, column = row + CHART_ROWS, 0
        chart = _chart(book[plot.sheet[:31]], plot)
        page.add_chart(chart, f"{get_column_letter(1 + column * CHART_COLUMNS)}{row}")
        column += plot.columns


def _chart(of: Worksheet, plot: Plot) -> BarChart | ScatterChart:
    first, last = plot.rows[0] + 2, plot.rows[1] + 1
    chart = _dots(of, plot, first, last) if plot.kind == DOTS else _columns(of, plot, first, last)
    chart.title, chart.legend = plot.title, Legend()
    chart.width, chart.height = CHART_CM[0] * plot.columns, CHART_CM[1]
    chart.legend.position = "b"
    for number, colour in enumerate(plot.colours):
        chart.series[number].graphicalProperties.solidFill = colour
    _show_axes(chart, *plot.axes)
    return chart


def _columns(of: Worksheet, plot: Plot, first: int, last: int) -> BarChart:
    chart = BarChart()
    names = plot.names if isinstance(plot.names, tuple) else (plot.names, plot.names)
    for column in plot.values:
        series = Series(
            Reference(of, min_col=column + 1, min_row=first, max_row=last), title=str(of.cell(1, column + 1).value)
        )
        chart.series.append(series)
    chart.set_categories(Reference(of, min_col=names[0] + 1, max_col=names[1] + 1, min_row=first, max_row=last))
    chart.gapWidth = 40
    if plot.kind == STACKED:
        chart.grouping, chart.overlap = "stacked", 100
    return chart


def _dots(of: Worksheet, plot: Plot, first: int, last: int) -> ScatterChart:
    """The first columns as dots over x, the last one as a line without any."""
    chart = ScatterChart()
    chart.style, chart.scatterStyle = 13, "lineMarker"
    assert isinstance(plot.names, int)
    over = Reference(of, min_col=plot.names + 1, min_row=first, max_row=last)
    for column in plot.values:
        values = Reference(of, min_col=column + 1, min_row=first, max_row=last)
        series = Series(values, over, title=str(of.cell(1, column + 1).value))
        if column == plot.values[-1]:
            series.marker.symbol = "none"
            series.graphicalProperties.line.width = 9525
        else:
            series.marker.symbol, series.marker.size = "circle", 5
            series.marker.graphicalProperties = GraphicalProperties(solidFill=DOT_COLOUR)
            series.marker.graphicalProperties.line.solidFill = DOT_COLOUR
            series.graphicalProperties.line.noFill = True
        chart.series.append(series)
    for axis in (chart.x_axis, chart.y_axis):
        axis.scaling.logBase = 10
    return chart


def _show_axes(chart: BarChart | ScatterChart, x: str, y: str) -> None:
    """With their names and numbers: spreadsheets hide both by default."""
    for axis, name in ((chart.x_axis, x), (chart.y_axis, y)):
        axis.title, axis.delete = name, False
    for axis in (chart.y_axis, chart.x_axis)[: 2 if isinstance(chart, ScatterChart) else 1]:
        axis.number_format, axis.numFmt.sourceLinked = "General", False
