"""The numbers behind the charts of the workbook and of the PNG files, as tables. Pure."""

from collections.abc import Sequence

from edgecloud.lab.report.document import Entry, Table, milliseconds, text
from edgecloud.lab.report.grid import CellResult, Grid
from edgecloud.lab.report.rows import Row
from edgecloud.lab.report.words import Words


def best_times(grids: Sequence[Grid], w: Words) -> Table:
    """The best cut, the automatic choice and both ends of each cell that has any of them."""
    has_goals = len({grid.objective for grid in grids}) > 1
    rows: list[tuple[Entry, ...]] = []
    for grid in grids:
        goal = [text(w.objective(grid.objective))] if has_goals else []
        for result in grid.results:
            where = (text(grid.model), text(w.cpu(result.cell.cpu)), text(w.link(result.cell)), *goal)
            rows.append((*where, *_times(result, w)))
    keys = ("model", "cpu", "link", *(["objective"] if has_goals else []), "best_cut", "best_ms", "auto")
    keys += ("auto_ms", "edge_ms", "cloud_ms")
    return Table("best", w("best_times"), w.head(*keys), tuple(rows), keys=keys)


def _times(result: CellResult, w: Words) -> list[Entry]:
    best, auto = result.best, result.choice
    return [
        text("–") if best is None else Entry(w.cut(best), best.point, best.lines),
        _total(best),
        text("–") if auto is None else Entry(w.packed(auto), None, auto.lines),
        *(_total(row) for row in (auto, result.all_edge, result.all_cloud)),
    ]


def _total(row: Row | None) -> Entry:
    return milliseconds(None) if row is None else milliseconds(row.total_s, row.lines)


def predicted_times(rows: Sequence[Row], w: Words) -> Table:
    """What had been predicted beside what was measured, for the rows of `predicted_rows`."""
    table_rows = [
        (
            text(row.cell.model),
            text(w.cpu(row.cell.cpu)),
            text(w.link(row.cell)),
            Entry(w.cut_of(row), None, row.lines),
            milliseconds(row.total_s, row.lines),
            milliseconds(row.predicted["total"], row.lines),
        )
        for row in sorted(rows, key=lambda row: row.total_s)
    ]
    keys = ("model", "cpu", "link", "cut", "measured", "predicted")
    return Table("predicted-times", w("scatter_title"), w.head(*keys), tuple(table_rows), keys=keys)
