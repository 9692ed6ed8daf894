"""A report as a workbook: the table, a summary, and all records."""

from pathlib import Path

from lab.report.document import Document, Table
from utils.excel_utils import Cell, Sheet, write_workbook


def write(path: Path, document: Document) -> None:
    """Write the .xlsx. Raises OSError."""
    sheets = [
        Sheet("table", document.table.head, [[entry.cell for entry in row] for row in document.table.rows]),
        _summary(document),
        Sheet("raw", document.raw.head, document.raw.rows),
    ]
    notes = dict(document.facts) | {"!" * number: told for number, told in enumerate(document.warnings, start=1)}
    write_workbook(path, sheets, {"": document.title} | notes)


def _summary(document: Document) -> Sheet:
    """What every section says, and its tables, under each other."""
    lines: list[list[Cell]] = []
    for section in document.sections:
        lines.append([section.title])
        lines += [[paragraph] for paragraph in section.paragraphs]
        lines.append([])
        for block in section.blocks:
            if isinstance(block, Table) and block is not document.table:
                lines += _lines(block)
    width = max((len(line) for line in lines), default=1)
    rows = [[*line, *[""] * (width - len(line))] for line in lines]
    return Sheet("summary", [document.title, *[""] * (width - 1)], rows)


def _lines(table: Table) -> list[list[Cell]]:
    rows: list[list[Cell]] = [[entry.cell for entry in row] for row in table.rows]
    notes: list[list[Cell]] = [[note] for note in table.notes]
    return [[table.title], list(table.head), *rows, *notes, []]
