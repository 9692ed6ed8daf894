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
        lines += [[section.title], *([paragraph] for paragraph in section.paragraphs), []]
        for block in section.blocks:
            if isinstance(block, Table) and block is not document.table:
                lines += [[block.title], list(block.head), *([e.cell for e in row] for row in block.rows)]
                lines += [*([note] for note in block.notes), []]
    width = max((len(line) for line in lines), default=1)
    return Sheet(
        "summary", [document.title, *[""] * (width - 1)], [[*line, *[""] * (width - len(line))] for line in lines]
    )
