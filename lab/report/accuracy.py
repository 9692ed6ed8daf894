"""Accuracy: predictions against measurements, and transfers against bytes over rate. Pure."""

from collections.abc import Iterable, Sequence
from statistics import mean, median

from edgecloud.lab.baselines.registry import AUTO, POINT
from edgecloud.lab.report.document import BAD, NOTE, Entry, Table, milliseconds, percent, show_percent, size, text
from edgecloud.lab.report.rows import STAGES, Row
from edgecloud.lab.report.words import Words
from edgecloud.utils.units import parse_link

LARGE_BYTES, CLOSE = 100_000, 0.05
"""The bar of the transfer check: how close to bytes over rate, from this size on."""
WITHIN = (0.1, 0.2)
"""How close predictions should be."""
LEAST_PART_S = 1e-3


# --- predicted against measured


def predicted_rows(rows: Iterable[Row]) -> list[Row]:
    """Those that say what had been predicted, of fixed points and of our own choice."""
    return [row for row in rows if row.is_measured and row.who in (POINT, AUTO) and row.predicted.get("total")]


def prediction_table(rows: Sequence[Row], w: Words) -> Table:
    """How far predictions are off, for the total and for each stage."""
    table_rows: list[tuple[Entry, ...]] = []
    for name in STAGES:
        errors = [(row.predicted[name] / row.stages[name].median - 1, row) for row in rows if _is_long(row, name)]
        if not errors:
            continue
        sizes = [abs(error) for error, _ in errors]
        worst, at = max(errors, key=lambda pair: abs(pair[0]))
        lines = tuple(line for _, row in errors for line in row.lines)
        table_rows.append(
            (
                text(w(name)),
                Entry(str(len(errors)), len(errors), lines, is_number=True),
                percent(median(error for error, _ in errors), lines),
                percent(mean(sizes), lines, sign=False),
                *(percent(sum(size <= bar for size in sizes) / len(sizes), lines, sign=False) for bar in WITHIN),
                percent(worst, at.lines),
                text(w("at_cut", cell=w.cell(at.cell), cut=w.cut(at)), NOTE, lines=at.lines),
            )
        )
    head = w.head("stage", "count", "median_error", "mean_error", "within_10", "within_20", "worst", "where")
    return Table("predicted", w("predicted_table"), head, tuple(table_rows), (w("predicted_note"),))


def _is_long(row: Row, name: str) -> bool:
    """Errors of parts shorter than a millisecond say nothing; what counts in the end is the whole, however short."""
    return name in row.predicted and (name == "total" or row.stages[name].median >= LEAST_PART_S)


# --- transfers against bytes over rate


def transfer_table(rows: Iterable[Row], w: Words) -> tuple[Table, str]:
    """Measured transfer beside bytes over the link's rate for large payloads, and the figures as a sentence."""
    table_rows: list[tuple[Entry, ...]] = []
    plain: list[float] = []
    full: list[float] = []
    for row in rows:
        if not row.is_measured or row.payload_bytes < LARGE_BYTES or row.cell.trace or row.ran_here:
            continue
        up, down, rtt_s = parse_link(row.cell.link)
        ideal_s = row.payload_bytes / up
        full_s = ideal_s + rtt_s + row.received_bytes / down
        took_s = row.stages["transfer"].median
        plain.append(took_s / ideal_s - 1)
        full.append(took_s / full_s - 1)
        table_rows.append(
            (
                text(row.cell.model),
                text(w.cpu(row.cell.cpu)),
                text(w.link(row.cell)),
                text(w.cut_of(row)),
                size(row.payload_bytes, row.lines),
                milliseconds(took_s, row.lines),
                milliseconds(ideal_s, row.lines),
                percent(plain[-1], row.lines, BAD if abs(plain[-1]) > CLOSE else ""),
                milliseconds(full_s, row.lines),
                percent(full[-1], row.lines),
            )
        )
    head = w.head("model", "cpu", "link", "cut", "sent", "transfer", "ideal", "deviation", "ideal_full", "deviation")
    table = Table("transfer", w("transfer_title"), head, tuple(table_rows), (w("transfer_note"),))
    if not plain:
        return table, w("transfer_none")
    return table, w.join(
        w("transfer_line", of=len(plain), worst=show_percent(max(plain, key=abs)), **_closeness(plain)),
        w("transfer_full_line", **_closeness(full)),
    )


def _closeness(deviations: Sequence[float]) -> dict[str, object]:
    sizes = [abs(value) for value in deviations]
    return {"mean": show_percent(mean(sizes), sign=False), "within": sum(size <= CLOSE for size in sizes)}
