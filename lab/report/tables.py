"""Tables of cuts: the student's with all of them, the best ones, and heat maps. Pure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from edgecloud.lab.baselines.registry import POINT
from edgecloud.lab.regret import Regret, Summary, Verdict
from edgecloud.lab.report.document import (
    BAD,
    BEST,
    NOTE,
    Entry,
    Table,
    milliseconds,
    percent,
    records_entry,
    show_joules,
    show_ms,
    show_percent,
    size,
    text,
    times,
)
from edgecloud.lab.report.grid import CellResult, Grid
from edgecloud.lab.report.rows import STAGES, Row
from edgecloud.lab.report.words import Words

# --- the student's table


def student_table(grids: Sequence[Grid], w: Words) -> Table:
    """Every cut of every cell: milliseconds, medians of the repeats. What is missing is said to be."""
    rows: list[tuple[Entry, ...]] = []
    firsts: set[int] = set()
    has_goals = len({grid.objective for grid in grids}) > 1
    for grid in grids:
        goal = [text(w.objective(grid.objective))] if has_goals else []
        for cpu in grid.cpus:
            for place in grid.places:
                firsts.add(len(rows))
                where = (text(grid.model), Entry(w.cpu(cpu), cpu), text(w.link(place)), *goal)
                rows += [(*where, *cells) for cells in _cell_rows(grid, grid.at(cpu, place), w)]
    keys: tuple[str, ...] = ("model", "cpu", "link", *(["objective"] if has_goals else []), "cut", "mark", "layer")
    keys += ("sent", "total", "least", "most", "local", "transfer", "cloud", "repeats", "lines")
    notes = (w("student_note"), w("student_marks"))
    return Table("table", w("student_title"), w.head(*keys), tuple(rows), notes, firsts=frozenset(firsts), keys=keys)


def _cell_rows(grid: Grid, result: CellResult | None, w: Words) -> list[tuple[Entry, ...]]:
    if result is None:
        return [_missing(text(""), "", w("no_record"), w)]
    table_rows: list[tuple[Entry, ...]] = []
    has_own = any(row.who == POINT for row in result.rows)  # or they stand in another objective's grid
    for point, layer, codec in grid.points if has_own else ():
        row = next((r for r in result.points if (r.point, r.layer, r.codec) == (point, layer, codec)), None)
        cut = w.point(point)
        table_rows.append(
            _measured(row, result, w) if row is not None else _missing(Entry(cut, point), layer, w("no_record"), w)
        )
    table_rows += [_measured(row, result, w) for row in result.rows if row.who != POINT]
    return table_rows


def _measured(row: Row, result: CellResult, w: Words) -> tuple[Entry, ...]:
    cut = w.cut(row) if row.who == POINT else w("whose_cut", who=w.who(row.who), cut=w.cut(row))
    number = row.point if row.who == POINT else None
    if not row.is_measured:
        return _missing(Entry(cut, number), row.layer, why_missing(row, w), w, row.lines)
    mark = BEST if row is result.best else ""
    total = row.stages["total"]
    star = "★" if mark else w("wrong_mark") if row.wrong else ""
    flag = f" {w('unstable_mark')}" if row.is_unstable else ""
    return (
        Entry(cut, number, mark=mark),
        text(star, BAD if row.wrong else mark, w("wrong_answers", n=row.wrong) if row.wrong else ""),
        text(f"{row.layer} [{row.codec}]" if row.codec != "raw" else row.layer, mark),
        size(row.payload_bytes, row.lines),
        milliseconds(total.median, row.lines, mark),
        milliseconds(total.low, row.lines, NOTE),
        milliseconds(total.high, row.lines, NOTE),
        *(milliseconds(row.stages[name].median, row.lines, hint=_range(row, name)) for name in list(STAGES)[1:]),
        Entry(f"{row.repeats}{flag}", row.repeats, row.lines, BAD if flag else "", is_number=True),
        records_entry(row.lines),
    )


def _range(row: Row, name: str) -> str:
    stage = row.stages[name]
    return f"{show_ms(stage.low)} – {show_ms(stage.high)}"


def _missing(cut: Entry, layer: str, why: str, w: Words, lines: Iterable[int] = ()) -> tuple[Entry, ...]:
    lines = tuple(lines)
    nothing = Entry("–", "", mark=NOTE, is_number=True)
    entry = Entry(w("not_measured"), w("not_measured_why", why=why), lines, BAD, hint=why, is_number=True)
    end = (*[nothing] * 5, Entry("0", 0, lines, NOTE, is_number=True), records_entry(lines))
    return (cut, text(""), text(layer), nothing, entry, *end)


def why_missing(row: Row, w: Words) -> str:
    """What became of the repeats of a row without numbers."""
    return w("fell_back", n=row.fallbacks)


# --- the best cut of each cell


def best_table(grid: Grid, w: Words) -> Table:
    """The best fixed point, the automatic choice, and its regret beside the noise, for each cell."""
    rows: list[tuple[Entry, ...]] = []
    for cpu in grid.cpus:
        for place in grid.places:
            result = grid.at(cpu, place)
            where = (text(w.cpu(cpu)), text(w.link(place)))
            rows.append(
                (*where, *(_best_cells(result, w) if result else [text(w("not_measured"), BAD), *[percent(None)] * 8]))
            )
    head = w.head("cpu", "link", "best_cut", "layer", "best_total", "runner_up", "auto", "auto_total")
    head += w.head("regret", "noise", "verdict")
    beaten = sum(len(result.beaten) for result in grid.results)
    notes = (w("best_note"), *([w("beaten_note", n=beaten)] if beaten else []))
    return Table(f"best-{grid_id(grid)}", w("best_title"), head, tuple(rows), notes)


def _best_cells(result: CellResult, w: Words) -> list[Entry]:
    best, auto = result.best, result.choice
    lines = best.lines if best else ()
    few = w("too_few", n=result.known, least=result.least_points)
    note = w("not_measured_why", why=few) if result.ranked else w("not_measured")
    cells = [text(note, BAD), *[text("–", NOTE)] * 3]
    if best is not None:
        runner = result.runner_up
        note = "–" if runner is None else w("runner", cut=w.cut(runner), percent=_behind(result, runner))
        tie = f" {w('tie')}" if result.is_tie else ""
        cells = [
            text(f"{w.cut(best)} ★", BEST, lines=lines),
            text(best.layer, lines=lines),
            milliseconds(best.total_s, lines, BEST),
            text(note + tie, NOTE, lines=runner.lines if runner else ()),
        ]
    if auto is None:
        return [*cells, text(w("not_measured"), BAD), *[percent(None)] * 4]
    both = (*lines, *auto.lines)
    return [
        *cells,
        text(w.packed(auto), lines=auto.lines, hint=auto.layer),
        milliseconds(auto.total_s, auto.lines),
        *_regret_cells(result.regret, both, w),
    ]


def _regret_cells(regret: Regret | None, lines: tuple[int, ...], w: Words) -> list[Entry]:
    """Regret, noise, and what comes of comparing them."""
    if regret is None:
        return [percent(None)] * 3
    verdict = w(f"verdict_{regret.verdict}", less=show_percent(-regret.difference, sign=False))
    mark = BAD if regret.verdict is Verdict.WORSE else NOTE if regret.verdict is Verdict.EQUAL else BEST
    numbers = [percent(regret.share, lines), percent(regret.noise, lines, NOTE, sign=False)]
    return [*numbers, text(verdict, mark, lines=lines)]


def _behind(result: CellResult, row: Row) -> str:
    value, best = result.value(row), result.value(result.best)
    return show_percent(value / best - 1) if value is not None and best else "–"


@dataclass(frozen=True)
class Judged:
    """How good the automatic choice is over some cells."""

    summary: Summary
    worst_at: CellResult


def regret_of(results: Iterable[CellResult]) -> Judged | None:
    """None where no cell has both a best point and an automatic choice."""
    pairs = [(regret, result) for result in results if (regret := result.regret) is not None]
    summary = Summary.of([regret for regret, _ in pairs])
    if summary is None:
        return None
    return Judged(summary, max(pairs, key=lambda pair: pair[0].share)[1])


def regret_line(regrets: Judged | None, w: Words) -> str:
    """Regret as sentences; every number in them is of the table of best cuts."""
    if regrets is None:
        return w("regret_none")
    of, where = regrets.summary, w.setting(regrets.worst_at.cell)
    percents = {name: show_percent(getattr(of, name), sign=False) for name in ("mean", "worst", "worst_noise", "noise")}
    sentence = w("regret_found", of=of.cells, better=of.better, equal=of.equal, worse=of.worse)
    if of.worst == 0:
        return w.join(sentence, w("regret_zero", noise=percents["noise"]))
    return w.join(sentence, w("regret_line", where=where, **percents))


# --- heat maps


def heat_tables(grid: Grid, w: Words) -> list[Table]:
    """The best cut, its gain over all on the edge, and over all on the cloud: devices down, links across."""
    last = max((point or 0 for point, _, _ in grid.points), default=0) or 1

    def cut(result: CellResult) -> Entry:
        best = result.best
        if best is None:
            return text(w("not_measured"), BAD)
        value = result.value(best)
        cost = w("heat_joules", value=show_joules(value or 0)) if grid.objective == "energy" else show_ms(best.total_s)
        share = (best.point or 0) / last
        return Entry(f"{w.cut(best)} · {cost}", None, best.lines, share=share, hint=best.layer)

    def gain(result: CellResult, other: Row | None) -> Entry:
        value = result.gain_over(other)
        if value is None or result.best is None or other is None:
            return text(w("not_measured"), BAD)
        return times(value, (*result.best.lines, *other.lines), share=_heat(value))

    kinds: dict[str, tuple[str, Callable[[CellResult], Entry]]] = {
        "cut": (w("heat_cut"), cut),
        "edge": (w("heat_edge"), lambda result: gain(result, result.all_edge)),
        "cloud": (w("heat_cloud"), lambda result: gain(result, result.all_cloud)),
    }
    return [_heat_table(grid, name, title, entry, w) for name, (title, entry) in kinds.items()]


def gain_table(grid: Grid, w: Words) -> Table | None:
    """What is gained over the better end; None where that is known of no cell."""

    def gain(result: CellResult) -> Entry:
        if result.gain is None:
            return text(w("not_measured"), BAD)
        value, chosen, end = result.gain
        hint = f"{w.who(end.who)} [{end.codec}]"
        return replace(times(value, (*chosen.lines, *end.lines), share=_heat(value)), hint=hint)

    has_any = any(result.gain is not None for result in grid.results)
    return _heat_table(grid, "gain", w("heat_gain"), gain, w) if has_any else None


def _heat_table(grid: Grid, name: str, title: str, entry: Callable[[CellResult], Entry], w: Words) -> Table:
    head = (w("cpu_and_link"), *(w.link(place) for place in grid.places))
    rows = [(text(w.cpu(cpu)), *_across(grid, cpu, entry, w)) for cpu in grid.cpus]
    return Table(f"heat-{name}-{grid_id(grid)}", title, head, tuple(rows), is_heat_map=True)


def _heat(gain: float) -> float:
    """How strongly a gain is coloured."""
    return min(1.0, math.log(max(gain, 1.0)) / math.log(4))


def _across(grid: Grid, cpu: float | None, entry: Callable[[CellResult], Entry], w: Words) -> list[Entry]:
    results = [grid.at(cpu, place) for place in grid.places]
    return [text(w("not_measured"), BAD) if result is None else entry(result) for result in results]


def grid_id(grid: Grid) -> str:
    """For anchors."""
    plain = "".join(c if c.isalnum() else "-" for c in f"{grid.model}-{grid.objective}-{grid.power}")
    return plain.strip("-")
