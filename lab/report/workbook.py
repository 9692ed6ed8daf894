"""A report as a workbook: the table, a summary, charts with their data, and all records."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgecloud.lab.report.document import BYTES, JOULES, MS, SHARE, TIMES, Document, Entry, Table
from edgecloud.utils.excel_utils import BARS, DOTS, STACKED, Cell, Plot, Sheet, write_workbook

PARTS = ("local", "transfer", "cloud")
COLOURS = {"local": "009E73", "transfer": "E69F00", "cloud": "2F7FC1"}
FORMATS = {MS: "0.0", JOULES: "0.000", TIMES: "0.00", SHARE: "0.0%", BYTES: "#,##0"}
MOST_CHARTS = 60
"""Of cells: a workbook with hundreds of charts opens in minutes."""


def write(path: Path, document: Document) -> None:
    """Write the .xlsx. Raises OSError."""
    w, plots = document.words, list(_plots(document))
    sheets = [
        _sheet(w["sheet_table"], document.table),
        _summary(document),
        *([Sheet(w["sheet_charts"], (), (), plots=tuple(plots))] if plots else []),
        *([_sheet(w["sheet_best"], document.best)] if document.best.rows else []),
        *([_sheet(w["sheet_predicted"], document.predicted)] if document.predicted.rows else []),
        Sheet(w["sheet_raw"], document.raw.head, document.raw.rows),
    ]
    notes = dict(document.facts) | {"!" * number: warning for number, warning in enumerate(document.warnings, start=1)}
    notes |= {w["sheet_raw"]: w["raw_units"]}
    write_workbook(path, sheets, {"": document.title} | notes, about=w["sheet_about"])


def heads(table: Table) -> list[str]:
    """The head of a table, with the units of its numbers."""
    return [_with_unit(name, [row[column] for row in table.rows]) for column, name in enumerate(table.head)]


def _with_unit(name: str, entries: Sequence[Entry]) -> str:
    units = {entry.unit for entry in entries if entry.unit}
    unit = units.pop() if len(units) == 1 else ""
    return f"{name} ({unit})" if unit and f"({unit})" not in name else name


def _sheet(title: str, table: Table) -> Sheet:
    rows = [[entry.cell for entry in row] for row in table.rows]
    formats = [[FORMATS.get(entry.unit, "") for entry in row] for row in table.rows]
    return Sheet(title, heads(table), rows, formats=formats)


def _summary(document: Document) -> Sheet:
    """What every section says, and its tables, under each other."""
    lines: list[list[Cell]] = []
    formats: list[list[str]] = []
    for section in document.sections:
        lines.append([section.title])
        lines += [[paragraph] for paragraph in section.paragraphs]
        lines.append([])
        for block in section.blocks:
            if isinstance(block, Table) and block is not document.table:
                formats += [[]] * (len(lines) - len(formats))
                lines += [[block.title], list(heads(block))]
                formats += [[], [], *([FORMATS.get(entry.unit, "") for entry in row] for row in block.rows)]
                lines += [[entry.cell for entry in row] for row in block.rows]
                lines += [[note] for note in block.notes]
                lines.append([])
    width = max((len(line) for line in lines), default=1)
    rows = [[*line, *[""] * (width - len(line))] for line in lines]
    head = [document.title, *[""] * (width - 1)]
    return Sheet(document.words["sheet_summary"], head, rows, formats=formats)


# --- charts


def _plots(document: Document) -> Iterator[Plot]:
    """The best cuts compared with both ends, predicted over measured, and the cuts of each cell."""
    w = document.words
    if document.best.rows:
        yield _best(document.best, w)
    if document.predicted.rows:
        measured, predicted = (document.predicted.column(key) for key in ("measured", "predicted"))
        yield Plot(
            kind=DOTS,
            sheet=w["sheet_predicted"],
            title=w["scatter_title"],
            axes=(w["axis_measured"], w["axis_predicted"]),
            names=measured,
            values=(predicted, measured),
            rows=(0, len(document.predicted.rows)),
        )
    for first, end in _cells(document.table)[:MOST_CHARTS]:
        yield _cuts(document.table, first, end, w)


def _best(table: Table, w: dict[str, str]) -> Plot:
    return Plot(
        kind=BARS,
        sheet=w["sheet_best"],
        title=w["best_times"],
        axes=(w["cell_name"], w["axis_total"]),
        names=(0, table.column("best_cut") - 1),
        values=tuple(table.column(key) for key in ("best_ms", "auto_ms", "edge_ms", "cloud_ms")),
        rows=(0, len(table.rows)),
        columns=2,
    )


def _cells(table: Table) -> list[tuple[int, int]]:
    """The rows of the fixed cuts of every cell that has any."""
    cut, ranges = table.column("cut"), []
    for begin, end in table.groups():
        fixed = [row for row in range(begin, end) if isinstance(table.rows[row][cut].value, int)]
        if fixed:
            ranges.append((fixed[0], fixed[-1] + 1))
    return ranges


def _cuts(table: Table, first: int, end: int, w: dict[str, str]) -> Plot:
    model, cpu, link = (entry.text for entry in table.rows[first][:3])
    return Plot(
        kind=STACKED,
        sheet=w["sheet_table"],
        title=f"{model}{w['colon']}{table.head[1]} {cpu}{w['comma']}{link}",
        axes=(w["axis_cut"], w["axis_total"]),
        names=table.column("cut"),
        values=tuple(table.column(name) for name in PARTS),
        rows=(first, end),
        colours=tuple(COLOURS.values()),
    )
