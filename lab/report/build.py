"""Builds the whole report from records, before it is written. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from edgecloud.lab.baselines.registry import POINT
from edgecloud.lab.pruning import floor_of
from edgecloud.lab.records import Cell, CellRecord, Environment
from edgecloud.lab.report.accuracy import WITHIN, predicted_rows, prediction_table, transfer_table
from edgecloud.lab.report.charts import bars_chart, scatter_chart
from edgecloud.lab.report.compare import baseline_table, compared_of, energy_table, headline_table, paper_table
from edgecloud.lab.report.document import (
    NOTE,
    Chart,
    Document,
    Entry,
    Raw,
    Section,
    Table,
    milliseconds,
    show_lines,
    show_percent,
    text,
)
from edgecloud.lab.report.grid import CellResult, Grid, grids_of
from edgecloud.lab.report.rows import Numbered, Row, number, rows_of
from edgecloud.lab.report.series import best_times, predicted_times
from edgecloud.lab.report.tables import (
    best_table,
    gain_table,
    grid_id,
    heat_tables,
    regret_line,
    regret_of,
    student_table,
)
from edgecloud.lab.report.why import answer
from edgecloud.lab.report.words import Words
from edgecloud.utils.units import parse_rate

MOST_NAMED, MOST_IN_TITLE = 6, 3
FLAT_FIRST = ("line", "cell.model", "cell.cpu", "cell.link", "who", "point", "layer", "codec", "repeat")
OF_FORMS = (
    *("contents", "page_foot", "see_html", "raw_title", "raw_note", "raw_units", "lines", "sheet_table", "cell_name"),
    *("sheet_summary", "sheet_charts", "sheet_best", "sheet_predicted", "sheet_raw", "sheet_about", "best_times"),
    *("axis_cut", "axis_total", "axis_measured", "axis_predicted", "scatter_title", "bars_title", "comma", "colon"),
)
"""Texts that HTML, workbook, Markdown and PNG need themselves."""
RAW_TIMES = ("total_s", "edge_s", "encode_s", "transfer_s", "queue_s", "cloud_s")


def build(environment: Environment, records: Sequence[CellRecord], w: Words, expected: Sequence[Cell] = ()) -> Document:
    """The report of a folder, in one language; without records it says so. `expected` are all cells of its spec."""
    numbered = number(records)
    rows = rows_of(numbered)
    w = w.naming((*(row.cell for row in rows), *expected))
    grids = grids_of(rows, lambda link: parse_rate(link.split(",")[0]), expected if records else (), floor_of)
    table = student_table(grids, w)
    models = list(dict.fromkeys(grid.model for grid in grids))
    sections = [
        *([paper_section(grids, environment, w)] if len(models) > 1 else []),
        *(grid_section(grid, w) for grid in grids),
        Section("all-cuts", w("student_section"), (), (table,)),
        predicted_section(rows, w),
        transfer_section(rows, w),
    ]
    return Document(
        title=title(models, w),
        language=w.language,
        facts=facts(environment, numbered, rows, w),
        warnings=warnings(rows, grids, w),
        sections=tuple(sections) if records else (),
        table=table,
        raw=flat(numbered),
        raw_table=raw_table(numbered, w),
        best=best_times(grids, w),
        predicted=predicted_times(predicted_rows(rows), w),
        words={key: w(key) for key in OF_FORMS} | {"raw_open": w("raw_open", n=len(records))},
    )


# --- the head


def title(models: Sequence[str], w: Words) -> str:
    """Names of networks, or how many there are where the names would fill the page."""
    if len(models) > MOST_IN_TITLE:
        return w("title_many", n=len(models))
    return w("title", models=", ".join(models) if models else "?")


def facts(environment: Environment, records: Sequence[Numbered], rows: Sequence[Row], w: Words) -> tuple[Any, ...]:
    """What was run, where, and what is measured, modelled or emulated, as pairs of texts."""
    cells, mode = {row.cell for row in rows}, environment.mode
    named_cells = [row.cell for row in rows if w.link(row.cell) != row.cell.link]
    times = sorted(each.record.at for each in records)
    used = {line for row in rows if row.is_measured for line in row.lines}
    powers = ", ".join(sorted({row.cell.power for row in rows if row.energy_j is not None}))
    has_limits = any(cell.cpu is not None for cell in cells)
    threads = w("threads", n=environment.threads, cc=environment.congestion_control)
    pairs = {
        "networks": ", ".join(dict.fromkeys(row.cell.model for row in rows)),
        "mode": w("mode_told", mode=w.named("mode", mode) or mode, why=w.translated(environment.why_mode)),
        "device": w("list_separator").join((_listed("host", environment.host, w), threads)),
        "versions": _listed("version", environment.versions, w),
        "when": w("when_line", first=_minute(times[0]), last=_minute(times[-1])) if times else environment.started,
        "count": w("count_line", records=len(records), cells=len(cells), used=len(used)),
        "times": w("times_measured"),
        "links": w("list_separator").join(dict.fromkeys(w.link_shape(c) for c in named_cells)),
        "link": w("link_hosts" if mode == "hosts" else "link_emulated"),
        "cpu": w(("cpu_hosts" if mode == "hosts" else "cpu_emulated") if has_limits else "cpu_none"),
        "energy": w("energy_modelled", power=powers) if powers else w("energy_none"),
        "doctor": w("list_separator").join(w.doctor(each) for each in environment.warnings),
    }
    return tuple((w(f"fact_{name}"), value) for name, value in pairs.items() if value)


def _listed(kind: str, values: Mapping[str, Any], w: Words) -> str:
    """What a machine is or has; what there is no word for by its name."""
    texts = (w.named(kind, name, n=value) or f"{name.replace('_', ' ')} {value}" for name, value in values.items())
    return w("comma").join(texts)


def _minute(at: str) -> str:
    """`2026-11-21 13:00 UTC` of a record's time."""
    return f"{at[:16].replace('T', ' ')}{' UTC' if at.endswith('+00:00') else ''}"


def warnings(rows: Sequence[Row], grids: Sequence[Grid], w: Words) -> tuple[str, ...]:
    """What a reader has to know before believing a table."""
    if not rows:
        return (w("warn_none"),)
    messages: list[str] = []
    unstable = [row for row in rows if row.is_unstable]
    if unstable:
        messages.append(
            w("warn_unstable", n=len(unstable), of=len(rows), which=_named((_whose(row, w) for row in unstable), w))
        )
    missing = list(holes(rows, grids, w))
    if missing:
        messages.append(w("warn_missing", which=_named(missing, w)))
    fallbacks, wrong = sum(row.fallbacks for row in rows), [row for row in rows if row.wrong]
    if fallbacks:
        messages.append(w("warn_fallbacks", n=fallbacks))
    if wrong:
        messages.append(w("warn_wrong", n=len(wrong), which=_named((_whose(row, w) for row in wrong), w)))
    return tuple(messages)


Hole = tuple[str, int | str]
"""A cell in words, and a cut of it by its number or in words."""


def holes(rows: Iterable[Row], grids: Iterable[Grid], w: Words) -> Iterable[Hole]:
    """Rows without a number, and cells and cuts that the rest of their grid has."""
    for row in rows:
        if not row.is_measured:
            yield _whose(row, w)
    for grid in grids:
        for cpu in grid.cpus:
            for place in grid.places:
                setting = w("setting", cpu=w.cpu(cpu), link=w.link(place))
                cell = w("cell", model=grid.model, setting=setting)
                yield from ((cell, cut) for cut in _cuts_missing(grid, grid.at(cpu, place), w))


def _cuts_missing(grid: Grid, result: CellResult | None, w: Words) -> Iterable[int | str]:
    if result is None:
        return [w("everything")]
    keys = {_key(row) for row in result.points}
    points = {_key(row): row.point for each in grid.results for row in each.points}
    missing = (point for key, point in points.items() if key not in keys and point not in result.beaten)
    return [w.point(None) if point is None else point for point in missing]


def _key(row: Row) -> object:
    """What makes a fixed point the same one in another cell, where the edge may have packed it another way."""
    return row.asked or (row.point, row.layer, row.codec)


def _whose(row: Row, w: Words) -> Hole:
    number = row.point if row.who == POINT else None
    return w.cell(row.cell), w.cut_of(row) if number is None else number


def _named(holes: Iterable[Hole], w: Words) -> str:
    """Cells with their cuts, the first few: `alex_net, cpu 0.3 on 5mbit: 2–22`."""
    cuts_by_cell: dict[str, list[int | str]] = {}
    for cell, cut in holes:
        cuts_by_cell.setdefault(cell, []).append(cut)
    phrases = []
    for cell, cuts in cuts_by_cell.items():
        numbers = show_lines(cut for cut in cuts if isinstance(cut, int))
        words = [cut for cut in cuts if isinstance(cut, str)]
        phrases.append(w("cuts_of", cell=cell, cuts=w("comma").join(filter(None, (numbers, *words)))))
    listing = w("list_separator").join(phrases[:MOST_NAMED])
    return listing if len(phrases) <= MOST_NAMED else w("and_more", shown=listing, n=len(phrases) - MOST_NAMED)


# --- sections


def grid_section(grid: Grid, w: Words) -> Section:
    """One network under one objective: the answer, the best cuts, and the pictures; or who wins, without fixed cuts."""
    goal = w("grid_title", model=grid.model, objective=w.objective(grid.objective))
    if not grid.points:
        tables = tuple(table for table in (baseline_table(grid, w), gain_table(grid, w)) if table is not None)
        return Section(f"grid-{grid_id(grid)}", goal, (w("why_nothing"),), tables)
    blocks: list[Table | Chart] = [best_table(grid, w)]
    if any(result.ranked for result in grid.results):
        blocks += heat_tables(grid, w)
    gains = gain_table(grid, w)
    blocks += [] if gains is None else [gains]
    if any(row.who == POINT for result in grid.results for row in result.rows):
        blocks.append(bars_chart(grid, w))  # or they are another objective's, and drawn there
    blocks += [table for table in (baseline_table(grid, w), energy_table(grid, w)) if table is not None]
    paragraphs = (*answer(grid, w), regret_line(regret_of(grid.results), w))
    return Section(f"grid-{grid_id(grid)}", f"{w('why_title')} {goal}", paragraphs, tuple(blocks))


def paper_section(grids: Sequence[Grid], environment: Environment, w: Words) -> Section:
    """All networks beside each other, and beside the paper."""
    comparisons = compared_of(grids)
    how = w("how_hosts" if environment.mode == "hosts" else "how_emulated")
    blocks = (headline_table(comparisons, w, how), paper_table(comparisons, w))
    return Section("networks", w("paper_section"), (w("paper_source"),), blocks)


def predicted_section(rows: Sequence[Row], w: Words) -> Section:
    """Predicted against measured."""
    usable = predicted_rows(rows)
    if not usable:
        return Section("predictions", w("predicted_title"), (w("predicted_none"),))
    errors = [abs(row.predicted["total"] / row.total_s - 1) for row in usable]
    within = sum(error <= WITHIN[0] for error in errors)
    sentence = w("predicted_line", within=within, of=len(errors), mean=show_percent(mean(errors), sign=False))
    blocks = (scatter_chart(usable, w), prediction_table(usable, w))
    return Section("predictions", w("predicted_title"), (sentence,), blocks)


def transfer_section(rows: Sequence[Row], w: Words) -> Section:
    """Transfers against bytes over rate."""
    table, sentence = transfer_table(rows, w)
    return Section("transfers", w("transfer_section"), (sentence,), (table,) if table.rows else ())


# --- the records themselves


def raw_table(records: Sequence[Numbered], w: Words) -> Table:
    """The records with the columns that tables are made of."""
    head = w.head("lines", "at", "model", "cpu", "link", "who", "cut", "codec", "attempt", "repeat")
    head += w.head("total", "local", "encode", "transfer", "queue", "cloud", "completed_by", "flags")
    return Table("raw", w("raw_title"), head, tuple(_raw_row(each, w) for each in records), (w("raw_note"),))


def _raw_row(each: Numbered, w: Words) -> tuple[Entry, ...]:
    record, line = each.record, (each.line,)
    flags = (*record.flags, *(("wrong",) if record.matches is False else ()))
    labels = (record.at, record.cell.model, w.cpu(record.cell.cpu), w.link(record.cell), w.who(record.who))
    return (
        Entry(str(each.line), each.line, line, is_number=True),
        *(text(word) for word in (*labels, w.point(record.point), record.codec)),
        *(Entry(str(value), value, is_number=True) for value in (record.attempt, record.repeat)),
        *(milliseconds(record.measured.get(name), line) for name in RAW_TIMES),
        text(w.named("by", record.completed_by) or record.completed_by),
        text(w("comma").join(w.named("flag", flag) or flag for flag in flags), NOTE),
    )


def flat(records: Sequence[Numbered]) -> Raw:
    """Every value of every record, by dotted names; lists as JSON."""
    documents = [{"line": each.line} | _flat(each.record.to_json()) for each in records]
    names = dict.fromkeys(FLAT_FIRST if documents else ())
    for each in documents:
        names |= dict.fromkeys(each)
    return Raw(tuple(names), tuple(tuple(each.get(name, "") for name in names) for each in documents))


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = _scalar(value)
    return values


def _scalar(value: Any) -> float | str:
    if value is None:
        return ""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, ensure_ascii=False)
