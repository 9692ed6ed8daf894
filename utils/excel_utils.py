"""Workbooks: a table and a chart of one of its columns, for people who look at numbers in a spreadsheet."""

from collections.abc import Sequence
from pathlib import Path

from openpyxl import Workbook
from openpyxl.chart import BarChart, Reference
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.worksheet import Worksheet

from utils.files import replaced

Cell = str | int | float


def write_workbook(
    path: Path,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    chart: tuple[str, str],
    notes: dict[str, str],
) -> None:
    """Write an .xlsx with a sheet of rows, a bar chart of column `chart[1]` over `chart[0]`, and a sheet of notes."""
    book = Workbook()
    book.remove(book.worksheets[0])
    sheet = book.create_sheet(title[:31])
    sheet.append(list(head))
    for row in rows:
        sheet.append(list(row))
    for number, name in enumerate(head, start=1):
        sheet.cell(1, number).font = Font(bold=True)
        widest = max(len(str(cell)) for cell in (name, *(row[number - 1] for row in rows)))
        sheet.column_dimensions[get_column_letter(number)].width = min(40, widest + 2)
    sheet.freeze_panes = "A2"
    sheet.add_chart(_bars(sheet, head, len(rows), *chart), f"{get_column_letter(len(head) + 2)}2")
    about = book.create_sheet("about")
    for key, value in notes.items():
        about.append([key, value])
    about.column_dimensions["A"].width = about.column_dimensions["B"].width = 40
    with replaced(path) as temporary:
        book.save(temporary)


def _bars(sheet: Worksheet, head: Sequence[str], rows: int, over: str, of: str) -> BarChart:
    chart = BarChart()
    chart.title, chart.height, chart.width = of, 12, max(16, rows // 2)
    column, names = head.index(of) + 1, head.index(over) + 1
    chart.add_data(Reference(sheet, min_col=column, min_row=1, max_row=rows + 1), titles_from_data=True)
    chart.set_categories(Reference(sheet, min_col=names, min_row=2, max_row=rows + 1))
    chart.legend = None
    return chart
