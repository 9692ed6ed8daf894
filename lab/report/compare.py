"""Baselines against the automatic choice, energy, and the paper's comparison of networks. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean, mean, median

from edgecloud.lab.baselines.registry import AUTO, POINT
from edgecloud.lab.report.document import (
    BAD,
    BEST,
    NOTE,
    Entry,
    Table,
    joules,
    milliseconds,
    percent,
    show_percent,
    text,
    times,
)
from edgecloud.lab.report.grid import CellResult, Grid
from edgecloud.lab.report.rows import Row
from edgecloud.lab.report.tables import grid_id, regret_of
from edgecloud.lab.report.words import Words

TO_EXPLAIN = {"all-cloud-8bit", "all-cloud-jpeg", "neurosurgeon", "dads"}
# Kang et al., ASPLOS 2017: abstract, and sections 6.1 and 6.2 for the last two
PAPER = {
    "mean_speedup": "3.1 ×",
    "median_speedup": "–",
    "most_speedup": "40.7 ×",
    "mean_saving": "59.5 %",
    "most_saving": "94.7 %",
    "throughput": "1.5 ×",
    "found": "44 / 48",
    "found_energy": "44 / 48",
}


# --- baselines


def rivals_in(results: Iterable[CellResult]) -> list[str]:
    """Names of the baselines that were recorded, in the order of their first record."""
    return list(dict.fromkeys(row.who for result in results for row in result.rows if row.who not in (POINT, AUTO)))


def baseline_table(grid: Grid, w: Words) -> Table | None:
    """For each cell: what each way of choosing took, as a ratio to the automatic choice. None without baselines."""
    names = rivals_in(grid.results)
    if not names:
        return None
    rows = [_against(result, names, w) for result in grid.results]
    ratios = {name: [value for r in grid.results if (value := _ratio(r, r.by(name))) is not None] for name in names}
    summary = [
        times(geometric_mean(ratios[name]), _of(grid, name), NOTE) if ratios[name] else times(None) for name in names
    ]
    contests = [_contest(result, names) for result in grid.results]
    wins = sum(
        each.is_sure and _is_autos(result, result.by(each.first))
        for result, each in zip(grid.results, contests, strict=True)
    )
    equal = sum(not each.is_sure for each in contests if each.first)
    rows.append(
        (
            text(w("geometric_mean"), NOTE),
            *[text("")] * 3,
            *summary,
            text(""),
            text(w("auto_wins", wins=f"{wins}/{len(contests)}", equal=equal), NOTE),
        )
    )
    head = (*w.head("cpu", "link", "chosen", "auto_value"), *(w.who(name) for name in names), w("noise"), w("winner"))
    notes = [w("baseline_note", objective=w.objective(grid.objective))]
    notes += [w("baseline_names")] if TO_EXPLAIN.intersection(names) else []
    return Table(f"baselines-{grid_id(grid)}", w("baseline_title"), head, tuple(rows), tuple(notes))


def _of(grid: Grid, name: str) -> tuple[int, ...]:
    """The records of a baseline and of the automatic choice, in all cells."""
    rows = (row for result in grid.results for row in (result.by(name), result.auto) if row is not None)
    return tuple(sorted({line for row in rows for line in row.lines}))


def _against(result: CellResult, names: Sequence[str], w: Words) -> tuple[Entry, ...]:
    auto, contest = result.auto, _contest(result, names)
    winner = contest.first if contest.is_sure else ""
    entries = [text(w.cpu(result.cell.cpu)), text(w.link(result.cell)), _chosen(auto, w), _value(result, auto)]
    for name in names:
        row, ratio = result.by(name), _ratio(result, result.by(name))
        if row is None:
            entries.append(text(w("not_measured"), BAD))
        elif ratio is None:
            entries.append(_value(result, row))
        else:
            lines = (*row.lines, *(auto.lines if auto else ()))
            mark = f" {w('wrong_mark')}" if row.wrong else ""
            entries.append(times(ratio, lines, BEST if winner == name else BAD if mark else "", after=mark))
    label = w.who(winner) if winner else w("no_winner" if contest.first else "not_measured")
    if winner != AUTO and _is_autos(result, result.by(winner)):
        label = w("same_cut", who=label)
    noise = percent(contest.noise if contest.first else None, sign=False)
    return (*entries, noise, text(label, BEST if winner == AUTO else ""))


def _is_autos(result: CellResult, row: Row | None) -> bool:
    """Whether a row is the automatic choice, or has its cut and codec."""
    auto = result.auto
    return auto is not None and row is not None and (row.point, row.codec) == (auto.point, auto.codec)


def _value(result: CellResult, row: Row | None) -> Entry:
    value, lines = result.value(row), row.lines if row else ()
    return joules(value, lines) if result.cell.objective == "energy" else milliseconds(value, lines)


def _ratio(result: CellResult, row: Row | None) -> float | None:
    value, auto = result.value(row), result.value(result.auto)
    return None if value is None or not auto else value / auto


@dataclass(frozen=True)
class _Contest:
    """Who has least in a cell, and whether that is more than chance."""

    first: str
    """"" where nothing was measured."""
    noise: float
    """How far apart two measurements of the first, or of the next one with another cut, lie, as a share."""
    is_sure: bool
    """Whether the next one with another cut has more than the noise more."""


def _contest(result: CellResult, names: Iterable[str]) -> _Contest:
    rows = [(who, row) for who in (AUTO, *names) if (row := result.by(who)) is not None and not row.wrong]
    ranked = sorted(
        ((value, who, row) for who, row in rows if (value := result.value(row)) is not None), key=lambda each: each[0]
    )
    if not ranked:
        return _Contest("", 0.0, is_sure=False)
    least, first, winner = ranked[0]
    cut = (winner.point, winner.codec)
    others = ((value, row) for value, _, row in ranked if (row.point, row.codec) != cut)
    value, other = next(others, (float("inf"), winner))
    noise = result.noise(winner, other)
    return _Contest(first, noise, is_sure=value > (1 + noise) * least)


# --- energy


def energy_table(grid: Grid, w: Words) -> Table | None:
    """Modelled joules of the edge: the cut with the least, both ends, and the fastest cut. None without joules."""
    rows: list[tuple[Entry, ...]] = []
    for result in grid.results:
        measured_rows = [row for row in result.points if row.is_measured and row.energy_j is not None]
        if not measured_rows:
            continue
        least = min(measured_rows, key=_joules)
        fastest = min(measured_rows, key=lambda row: row.total_s)
        rows.append(
            (
                text(w.cpu(result.cell.cpu)),
                text(w.link(result.cell)),
                text(f"{w.cut(least)} ★", BEST, lines=least.lines),
                text(least.layer, lines=least.lines),
                *(_spent(row) for row in (least, result.all_edge, result.all_cloud)),
                text(w.cut(fastest), lines=fastest.lines),
                _spent(fastest),
                _spent(result.auto),
            )
        )
    if not rows:
        return None
    head = w.head("cpu", "link", "least_cut", "layer", "least_j", "edge_j", "cloud_j", "fastest_cut", "its_j", "auto_j")
    return Table(f"energy-{grid_id(grid)}", w("energy_title"), head, tuple(rows), (w("energy_note", power=grid.power),))


def _joules(row: Row) -> float:
    return float("inf") if row.energy_j is None else row.energy_j.median


def _spent(row: Row | None) -> Entry:
    return joules(None) if row is None or row.energy_j is None else joules(row.energy_j.median, row.lines)


# --- the paper's comparison


@dataclass(frozen=True)
class Compared:
    """One network on one device and link: both ends, and what was chosen for time and for energy."""

    cell: CellResult
    """Under the objective latency, or else the first one."""
    chosen: Row | None
    frugal: Row | None
    """Chosen for energy; where nothing was, what was chosen for time."""
    by_energy: CellResult | None = None
    """The same under the objective energy, if that was run."""

    @property
    def speedup(self) -> float | None:
        """Time of all on the cloud over that of the chosen cut."""
        cloud = self.cell.all_cloud
        return None if cloud is None or self.chosen is None else cloud.total_s / self.chosen.total_s

    @property
    def saving(self) -> float | None:
        """Share of the joules of all on the cloud that is saved."""
        cloud = self.cell.all_cloud
        if cloud is None or cloud.energy_j is None or self.frugal is None or self.frugal.energy_j is None:
            return None
        return 1 - self.frugal.energy_j.median / cloud.energy_j.median


def compared_of(grids: Sequence[Grid]) -> list[Compared]:
    """Every network, device and link once, whatever the objectives of its cells."""
    groups: dict[tuple[object, ...], list[CellResult]] = {}
    for grid in grids:
        for (cpu, place), result in grid.cells.items():
            groups.setdefault((grid.model, grid.power, cpu, place), []).append(result)
    comparisons = []
    for results in groups.values():
        by = {result.cell.objective: result for result in results}
        base = by.get("latency", results[0])
        by_energy = by.get("energy")
        comparisons.append(Compared(base, base.auto, by_energy.auto if by_energy else base.auto, by_energy))
    return sorted(comparisons, key=lambda each: each.cell.cell.model)


def paper_table(comparisons: Sequence[Compared], w: Words) -> Table:
    """Time and energy of all on the edge, all on the cloud, and the chosen cut; speedup and saving."""
    rows: list[tuple[Entry, ...]] = []
    firsts: set[int] = set()
    for each in comparisons:
        cell, edge, cloud = each.cell.cell, each.cell.all_edge, each.cell.all_cloud
        if not rows or rows[-1][0].text != cell.model:
            firsts.add(len(rows))
        speedup_lines = tuple(line for row in (cloud, each.chosen) if row for line in row.lines)
        saving_lines = tuple(line for row in (cloud, each.frugal) if row for line in row.lines)
        rows.append(
            (
                text(cell.model),
                text(w.cpu(cell.cpu)),
                text(w.link(cell)),
                *(milliseconds(row.total_s if row else None, row.lines if row else ()) for row in (edge, cloud)),
                _chosen(each.chosen, w),
                milliseconds(each.chosen.total_s if each.chosen else None, each.chosen.lines if each.chosen else ()),
                times(each.speedup, speedup_lines, BEST if (each.speedup or 0) > 1.005 else ""),
                _spent(edge),
                _spent(cloud),
                _chosen(each.frugal, w),
                _spent(each.frugal),
                percent(each.saving, saving_lines, sign=False),
            )
        )
    head = w.head("model", "cpu", "link", "edge_ms", "cloud_ms", "chosen", "chosen_ms", "speedup")
    head += w.head("edge_j", "cloud_j", "frugal", "frugal_j", "saving")
    return Table("paper", w("paper_title"), head, tuple(rows), (w("paper_note"),), firsts=frozenset(firsts))


def _chosen(row: Row | None, w: Words) -> Entry:
    return text("–", NOTE) if row is None else text(w.packed(row), lines=row.lines, hint=row.layer)


def headline_table(comparisons: Sequence[Compared], w: Words, how: str) -> Table:
    """The paper's own figures beside these; `how` says what the times are."""
    speedups = [(value, each) for each in comparisons if (value := each.speedup) is not None]
    savings = [(value, each) for each in comparisons if (value := each.saving) is not None]
    rows: dict[str, tuple[Entry, ...]] = {}
    if speedups:
        average, (most, at) = mean(value for value, _ in speedups), max(speedups, key=lambda pair: pair[0])
        lines = _lines(each for _, each in speedups)
        rows["mean_speedup"] = _ours(Entry(f"{average:.2f} ×", average, lines), how)
        middle = median(value for value, _ in speedups)
        rows["median_speedup"] = _ours(Entry(f"{middle:.2f} ×", middle, lines), how)
        rows["most_speedup"] = _ours(Entry(f"{most:.2f} ×", most, _lines([at])), _at(at, w, how))
    if savings:
        average, (most, at) = mean(value for value, _ in savings), max(savings, key=lambda pair: pair[0])
        lines, modelled = _lines(each for _, each in savings), w("how_modelled")
        rows["mean_saving"] = _ours(Entry(show_percent(average, sign=False), average, lines), modelled)
        rows["most_saving"] = _ours(Entry(show_percent(most, sign=False), most, _lines([at])), _at(at, w, modelled))
    if (gain := cloud_gain(comparisons)) is not None:
        rows["throughput"] = _ours(Entry(f"{gain:.2f} ×", gain, _lines(comparisons)), w("how_throughput"))
    in_joules = [each.by_energy for each in comparisons if each.by_energy is not None]
    for name, cells, basis in (
        ("found", [each.cell for each in comparisons], how),
        ("found_energy", in_joules, w("how_modelled")),
    ):
        if (regrets := regret_of(cells)) is not None:
            count = w("found_of", found=regrets.summary.not_worse, of=regrets.summary.cells)
            line_numbers = {line for cell in cells for row in cell.everything for line in row.lines}
            rows[name] = _ours(Entry(count, None, tuple(sorted(line_numbers))), basis)
    missing = _ours(text(w("not_measured"), BAD), "")
    table_rows = tuple((text(w(f"paper_{key}")), text(paper), *rows.get(key, missing)) for key, paper in PAPER.items())
    return Table("headline", w("headline_title"), w.head("figure", "in_paper", "here", "how"), table_rows)


def _ours(here: Entry, how: str) -> tuple[Entry, ...]:
    return (replace(here, is_number=True), text(how, NOTE))


def _lines(comparisons: Iterable[Compared]) -> tuple[int, ...]:
    """Of all records that a comparison of these rests on."""
    rows = (row for each in comparisons for row in (each.cell.all_cloud, each.chosen, each.frugal) if row is not None)
    return tuple(sorted({line for row in rows for line in row.lines}))


def cloud_gain(comparisons: Iterable[Compared]) -> float | None:
    """Cloud seconds of one inference of everything, all on the cloud, over those of the chosen cuts."""
    pairs = [
        (each.cell.all_cloud.stages["cloud"].median, each.chosen.stages["cloud"].median)
        for each in comparisons
        if each.cell.all_cloud is not None and each.chosen is not None
    ]
    chosen_s = sum(chosen for _, chosen in pairs)
    return sum(cloud for cloud, _ in pairs) / chosen_s if chosen_s > 0 else None


def _at(each: Compared, w: Words, how: str) -> str:
    cell = each.cell.cell
    return f"{cell.model}, {w.link(cell)}; {how}"
