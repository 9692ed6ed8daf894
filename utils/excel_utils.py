"""Workbooks: a table and a chart of one of its columns, for people who look at numbers in a spreadsheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.chart import BarChart, Reference
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.worksheet import Worksheet

from utils.errors import UsageError
from utils.files import replaced

Cell = str | int | float
WIDTH_ROWS = 200


@dataclass(frozen=True)
class Sheet:
    """A table, and perhaps a bar chart of column `chart[1]` over column `chart[0]`."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    chart: tuple[str, str] | None = None


def check_name(path: Path) -> None:
    """Raises UsageError for a name that a spreadsheet would not open."""
    if path.suffix.lower() != ".xlsx":
        raise UsageError(f"{path}: a workbook's name ends in .xlsx")


def write_workbook(path: Path, sheets: Sequence[Sheet], notes: dict[str, str]) -> None:
    """Write an .xlsx with these sheets and one of notes, called `about`. Raises OSError."""
    book = Workbook()
    book.remove(book.worksheets[0])
    for sheet in sheets:
        _fill(book.create_sheet(sheet.title[:31]), sheet)
    about = book.create_sheet("about")
    for number, (key, value) in enumerate(notes.items(), start=1):
        about.append([_harmless(key), _harmless(value)])
        _forbid_formulas(about, number, (key, value))
    about.column_dimensions["A"].width = about.column_dimensions["B"].width = 40
    with replaced(path) as temporary:
        book.save(temporary)


def _fill(page: Worksheet, sheet: Sheet) -> None:
    for number, row in enumerate((sheet.head, *sheet.rows), start=1):
        page.append([_harmless(value) for value in row])
        _forbid_formulas(page, number, row)
    for number, name in enumerate(sheet.head, start=1):
        page.cell(1, number).font = Font(bold=True)
        widest = max(len(str(cell)) for cell in (name, *(row[number - 1] for row in sheet.rows[:WIDTH_ROWS])))
        page.column_dimensions[get_column_letter(number)].width = min(40, widest + 2)
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
    return chart
