"""Reports of the lab: every number against the records that it names, and what is missing said to be missing."""

import argparse
import itertools
import json
import re
import string
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import geometric_mean, mean, median

import openpyxl
import pytest
from PIL import Image

from edgecloud.cli import script
from edgecloud.lab import report
from edgecloud.lab.records import RECORDS, Cell, CellRecord
from edgecloud.lab.report import html, markdown, pictures, why, workbook
from edgecloud.lab.report.accuracy import transfer_table
from edgecloud.lab.report.build import build
from edgecloud.lab.report.compare import baseline_table, compared_of, headline_table, paper_table
from edgecloud.lab.report.document import BAD, Document, Entry, Table, data_lines, show_joules, show_lines, show_percent
from edgecloud.lab.report.grid import Grid, grids_of
from edgecloud.lab.report.rows import number, rows_of
from edgecloud.lab.report.svg import log_ticks, ticks
from edgecloud.lab.report.tables import best_table, gain_table, heat_tables, regret_line, regret_of
from edgecloud.lab.report.words import Words
from edgecloud.lab.texts import choose
from edgecloud.utils.units import parse_rate
from tests.made_records import ENVIRONMENT, LAYERS, NOISE, cell_of, grid, record, stages, write

W = Words("en")
LAST = len(LAYERS) - 1
CELLS = [cell_of(cpu, link) for cpu in (0.3, 0.7) for link in ("5mbit,5ms", "20mbit,5ms")]
RECORDED = tuple(grid(CELLS))
NASTY = '<script>alert("x")</script>'
FORMULA = '=HYPERLINK("http://example.org","x")'


def grids(records: Iterable[CellRecord], expected: Iterable[Cell] = ()) -> tuple[Grid, ...]:
    return grids_of(rows_of(number(records)), lambda link: parse_rate(link.split(",")[0]), expected)


def document(records: Sequence[CellRecord], language: str = "en", expected: Sequence[Cell] = ()) -> Document:
    return build(ENVIRONMENT, records, Words(language), expected)


def tables(found: Document) -> list[Table]:
    return [block for section in found.sections for block in section.blocks if isinstance(block, Table)]


def column(table: Table, name: str) -> list[Entry]:
    place = table.head.index(W(name))
    return [row[place] for row in table.rows]


def best_point(cell: Cell) -> int:
    return min(range(LAST + 1), key=lambda point: stages(cell, point)["total_s"])


# --- numbers


def test_every_number_of_the_student_table_is_the_median_of_the_records_that_it_names() -> None:
    parts: dict[str, Callable[[Mapping[str, float]], float]] = {
        "total": lambda m: m["total_s"],
        "local": lambda m: m["edge_s"] + m["encode_s"],
        "transfer": lambda m: m["transfer_s"],
        "cloud": lambda m: m["queue_s"] + m["cloud_s"],
    }
    table = document(RECORDED).table
    assert len(table.rows) == len(CELLS) * (LAST + 1 + len({"auto", "all-edge", "all-cloud", "neurosurgeon"}))
    seen: set[int] = set()
    for name, part in parts.items():
        for entry in column(table, name):
            values = [part(RECORDED[line - 1].measured) for line in entry.lines]
            assert entry.value == pytest.approx(median(values) * 1e3, abs=1e-4)
            assert len(values) == 3
            seen |= set(entry.lines)
    assert seen == set(range(1, len(RECORDED) + 1))
    lows, highs = (column(table, name) for name in ("least", "most"))
    for low, high in zip(lows, highs, strict=True):
        totals = [RECORDED[line - 1].total_s * 1e3 for line in low.lines]
        assert (low.value, high.value) == pytest.approx((min(totals), max(totals)), abs=1e-4)


def test_the_best_cut_is_the_least_of_all_and_marked_in_every_table() -> None:
    (found,) = grids(RECORDED)
    for result in found.results:
        assert result.best is not None
        assert result.best.point == best_point(result.cell)
    table = document(RECORDED).table
    pairs = zip(column(table, "cut"), column(table, "mark"), strict=True)
    assert [cut.value for cut, mark in pairs if mark.text == "★"] == [best_point(cell) for cell in CELLS]
    starred = [f"{best_point(cell)} ★" for cell in CELLS]
    assert [e.text for e in column(best_table(found, W), "best_cut")] == starred
    assert len({best_point(cell) for cell in CELLS}) > 1, "these cells say nothing about where the best cut moves"


def test_regret_is_the_time_of_the_choice_over_the_best() -> None:
    (found,) = grids(RECORDED)
    expected = {cell: stages(cell, 3)["total_s"] / stages(cell, best_point(cell))["total_s"] - 1 for cell in CELLS}
    for result in found.results:
        assert result.regret is not None
        assert result.regret.share == pytest.approx(expected[result.cell], abs=1e-9)
        assert result.regret.noise == pytest.approx(max(NOISE) - min(NOISE))
    judged = regret_of(found.results)
    assert judged is not None
    summary = judged.summary
    assert summary.mean == pytest.approx(mean(expected.values()))
    assert summary.worst == pytest.approx(max(expected.values()))
    assert summary.not_worse == sum(value == 0 for value in expected.values())
    assert summary.cells == len(CELLS)


def test_every_figure_of_the_headline_is_of_its_own_table() -> None:
    slower = [
        replace(r, measured={**r.measured, "total_s": r.total_s * 1.5}) if r.who == "auto" else r for r in RECORDED
    ]
    for records in (RECORDED, slower):
        (found,) = grids(records)
        table, judged = best_table(found, W), regret_of(found.results)
        assert judged is not None
        shares = [float(entry.value or 0) for entry in column(table, "regret")]
        noises = [float(entry.value or 0) for entry in column(table, "noise")]
        verdicts = [entry.text for entry in column(table, "verdict")]
        assert judged.summary.mean == pytest.approx(mean(shares), abs=1e-4)
        assert judged.summary.worst == pytest.approx(max(shares), abs=1e-4)
        assert judged.summary.noise == pytest.approx(median(noises), abs=1e-4)
        assert judged.summary.equal == verdicts.count(W("verdict_equal"))
        assert judged.summary.worse == verdicts.count(W("verdict_worse"))
        assert [share > noise for share, noise in zip(shares, noises, strict=True)] == [v == "worse" for v in verdicts]
        line = regret_line(judged, W)
        assert show_percent(max(shares), sign=False) in line
        assert f"equal within the noise in {judged.summary.equal}" in line


def test_the_lowest_of_the_headline_is_the_lowest_of_the_table() -> None:
    """The choice may pack, and be lower than every fixed cut: then the headline says so."""
    fast = [replace(r, measured={**r.measured, "total_s": 0.01}) if r.who == "auto" else r for r in RECORDED]
    (found,) = grids(fast)
    said = why.answer(found, W)[0]
    assert "Lower than every fixed cut is auto on cpu" in said
    assert "10.0 ms" in said
    assert "within the noise" not in said
    cell = CELLS[0]
    near = [
        replace(r, measured={**r.measured, "total_s": r.total_s * 0.99}) if r.who == "auto" else r
        for r in grid([cell], auto=best_point(cell))
    ]
    assert "which is within the noise" in why.answer(grids(near)[0], W)[0]
    assert "Lower than" not in why.answer(grids(grid([cell], auto=best_point(cell)))[0], W)[0]


def test_a_choice_that_beats_every_fixed_cut_has_no_regret_and_says_by_how_much() -> None:
    cell = CELLS[0]
    made = [*grid([cell], baselines=False)]
    packed = [
        replace(r, codec="zstd", measured={**r.measured, "total_s": 0.01}) if r.who == "auto" else r for r in made
    ]
    (result,) = grids(packed)[0].results
    assert result.regret is not None
    assert (result.regret.share, result.regret.verdict) == (0, "better")
    assert result.regret.difference < -0.5
    assert "less" in column(best_table(grids(packed)[0], W), "verdict")[0].text


def test_only_the_last_attempt_counts() -> None:
    slow = [
        replace(record(CELLS[0], 0, n), measured={**record(CELLS[0], 0).measured, "total_s": 9.0}) for n in range(3)
    ]
    again = [replace(record(CELLS[0], 0, n), attempt=1, flags=("unstable",)) for n in range(3)]
    (row,) = rows_of(number([*slow, *again]))
    assert row.lines == (4, 5, 6)
    assert row.total_s < 2
    assert row.is_unstable
    assert "Unstable" in document([*slow, *again]).warnings[0]


def test_ties_are_called_ties() -> None:
    near = [replace(r, measured={**r.measured, "total_s": 1 + 0.1 * r.repeat}) for r in grid(CELLS[:1])]
    (result,) = grids(near)[0].results
    assert result.is_tie
    assert W("tie") in column(best_table(grids(near)[0], W), "runner_up")[0].text


def test_heat_maps_say_the_gain_over_both_ends() -> None:
    (found,) = grids(RECORDED)
    _, over_edge, over_cloud = heat_tables(found, W)
    for table, end in ((over_edge, LAST), (over_cloud, 0)):
        values = [entry.value for row in table.rows for entry in row[1:]]
        totals = [(stages(cell, end)["total_s"], stages(cell, best_point(cell))["total_s"]) for cell in CELLS]
        assert values == pytest.approx([other / best for other, best in totals], abs=1e-4)


def test_a_heat_map_says_the_gain_over_the_better_end_each_with_its_best_codec() -> None:
    """All on the cloud in pixels beats raw; a JPEG counts where a baseline has seen to the budget, and if right."""
    cell = CELLS[0]
    auto_s, here_s = stages(cell, 3)["total_s"], stages(cell, LAST)["total_s"]
    more = [record(cell, 0, n, who="all-cloud-8bit", codec="pixels", sent=150_000) for n in range(3)]
    over_budget = [record(cell, 0, n, who="all-cloud-jpeg", codec="jpeg", sent=15_000) for n in range(3)]
    within = [record(cell, 0, n, who="all-cloud-in-budget", codec="jpeg", sent=15_000) for n in range(3)]
    wrong = [replace(each, matches=False) for each in within]
    for others, sent in ((), None), (more, 150_000), ([*more, *over_budget], 150_000), ([*more, *within], 15_000):
        (found,) = grids([*grid([cell]), *others])
        table = gain_table(found, W)
        assert table is not None
        better_s = min(here_s, stages(cell, 0, sent)["total_s"])
        assert table.rows[0][1].value == pytest.approx(better_s / auto_s, abs=1e-3)
    with_wrong, with_none = (grids([*grid([cell]), *more, *each])[0].results[0].gain for each in (wrong, []))
    assert with_wrong is not None
    assert with_none is not None
    assert with_wrong[0] == with_none[0]
    without_auto = [each for each in grid([cell]) if each.who == "point"]
    (found,) = grids(without_auto)
    assert found.results[0].gain is not None
    assert found.results[0].gain[1] is found.results[0].best
    assert gain_table(grids(each for each in without_auto if each.point)[0], W) is None, "one end is not known"


def test_transfers_are_compared_with_bytes_over_the_configured_rate() -> None:
    table, line = transfer_table(rows_of(number(r for r in RECORDED if r.who == "point")), W)
    large = [(cell, point) for cell in CELLS for point in range(LAST) if LAYERS[point][1] >= 100_000]
    assert len(table.rows) == len(large)
    for row, (cell, point) in zip(table.rows, large, strict=True):
        ideal_s = LAYERS[point][1] / parse_rate(cell.link.split(",")[0])
        deviation = row[7]
        assert deviation.value == pytest.approx(stages(cell, point)["transfer_s"] / ideal_s - 1, abs=1e-4)
        assert (deviation.mark == BAD) == (abs(float(deviation.value or 0)) > 0.05)
        assert row[9].value == pytest.approx(0, abs=1e-4), "with round trip and answer the formula is exact"
    assert f"Of {len(large)} cuts" in line
    assert f"it is 0.0 % on average, and {len(large)} are within 5 %" in line
    assert transfer_table([], W)[1] == W("transfer_none")


def test_baselines_are_ratios_to_auto_and_a_wrong_answer_does_not_win() -> None:
    cell = CELLS[0]
    wrong = [record(cell, 0, n, who="all-cloud-jpeg", codec="jpeg", sent=4000, matches=False) for n in range(3)]
    (found,) = grids([*grid([cell]), *wrong])
    table = baseline_table(found, W)
    assert table is not None
    auto_s = stages(cell, 3)["total_s"]
    by_name = dict(zip(table.head, table.rows[0], strict=True))
    assert by_name[W.who("all-edge")].value == pytest.approx(stages(cell, LAST)["total_s"] / auto_s, abs=1e-4)
    jpeg = by_name[W.who("all-cloud-jpeg")]
    assert jpeg.value is not None
    assert float(jpeg.value) < 1
    assert "≠" in jpeg.text
    assert by_name[W("winner")].text == W.who("auto")
    neurosurgeon = table.rows[-1][table.head.index(W.who("neurosurgeon"))]
    assert neurosurgeon.value == pytest.approx(geometric_mean([stages(cell, 1)["total_s"] / auto_s]), abs=1e-4)


def test_nobody_wins_within_the_noise() -> None:
    """Two cuts that are closer to each other than two measurements of one of them."""
    cell = CELLS[0]
    as_auto = stages(cell, 3)["total_s"] / stages(cell, 1)["total_s"]

    def rivals(by: float) -> list[CellRecord]:
        return [
            replace(r, measured={**r.measured, "total_s": r.measured["total_s"] * as_auto * by})
            if r.who == "neurosurgeon"
            else r
            for r in grid([cell])
            if r.who in ("auto", "neurosurgeon")
        ]

    for by, label in (
        (1.01, W("no_winner")),
        (0.99, W("no_winner")),
        (1.2, W.who("auto")),
        (0.8, W.who("neurosurgeon")),
    ):
        table = baseline_table(grids(rivals(by))[0], W)
        assert table is not None
        by_name = dict(zip(table.head, table.rows[0], strict=True))
        assert by_name[W("winner")].text == label
        assert float(by_name[W("noise")].value or 0) == pytest.approx(0.03, abs=0.005)
        sure = label != W("no_winner")
        assert f"equal within the noise: {0 if sure else 1}" in table.rows[-1][-1].text


def test_a_baseline_with_the_cut_of_auto_is_told_to_have_it() -> None:
    cell = CELLS[1]
    lucky = [
        replace(r, measured={**r.measured, "total_s": 0.97 * r.total_s}) if r.who == "all-cloud" else r
        for r in grid([cell], auto=0)
    ]
    table = baseline_table(grids(lucky)[0], W)
    assert table is not None
    assert table.rows[0][-1].text == W("same_cut", who=W.who("all-cloud"))


def test_the_papers_figures_stand_beside_ours() -> None:
    links = ("1.1mbit", "5.85mbit", "18.88mbit")
    made = [cell_of(0.5, link, model) for model in ("alex_net", "le_net") for link in links]
    saving = [replace(cell, objective="energy") for cell in made]
    chosen = [record(cell, LAST, n, who="auto") for cell in saving for n in range(3)]
    found = compared_of(grids([*grid(made, baselines=False), *chosen]))
    assert len(found) == len(made)
    speedups = [stages(cell, 0)["total_s"] / stages(cell, 3)["total_s"] for cell in made]
    table = headline_table(found, W, "how")
    ours = {row[0].text: row[2] for row in table.rows}
    assert ours[W("paper_mean_speedup")].value == pytest.approx(mean(speedups))
    assert ours[W("paper_most_speedup")].value == pytest.approx(max(speedups))
    assert [row[1].text for row in table.rows] == [
        "3.1 ×",
        "–",
        "40.7 ×",
        "59.5 %",
        "94.7 %",
        "1.5 ×",
        "44 / 48",
        "44 / 48",
    ]
    assert [each.frugal.point for each in found if each.frugal] == [LAST] * len(made)
    detail = paper_table(found, W)
    spent = {name: column(detail, name)[0] for name in ("edge_j", "cloud_j", "frugal_j", "saving")}
    assert spent["edge_j"].value == spent["frugal_j"].value
    expected = 1 - float(spent["frugal_j"].value or 0) / float(spent["cloud_j"].value or 0)
    assert spent["saving"].value == pytest.approx(expected, abs=1e-4)
    assert document([*grid(made, baselines=False)]).sections[0].id == "networks"


def test_ends_alone_say_nothing_about_the_best_cut() -> None:
    made = [cell_of(0.5, "5mbit", model) for model in ("alex_net", "le_net")]
    ends = [r for r in grid(made, baselines=False) if r.who == "auto" or r.point in (0, LAST)]
    table = headline_table(compared_of(grids(ends)), W, "how")
    ours = {row[0].text: row[2].text for row in table.rows}
    assert ours[W("paper_found")] == W("not_measured")
    assert ours[W("paper_mean_speedup")].endswith("×")


# --- where is it lowest, and why


def test_the_answer_names_the_lowest_setting_and_where_the_best_cut_goes() -> None:
    (found,) = grids(RECORDED)
    told = " ".join(why.answer(found, W))
    lowest = min(CELLS, key=lambda cell: stages(cell, best_point(cell))["total_s"])
    assert W.setting(lowest) in told
    assert f"cut {best_point(lowest)} (" in told
    for cpu in (0.3, 0.7):
        moves = " → ".join(str(best_point(cell)) for cell in CELLS if cell.cpu == cpu)
        assert f"cpu {cpu}: {moves}" in told
    assert "746 kB, 1.24 times the input" in told


@pytest.mark.parametrize(
    ("cpu", "link", "expected"),
    [(0.001, "100mbit", "Sending everything is best"), (1.0, "10kbit", "Sending nothing is best")],
)
def test_the_answer_explains_both_ends(cpu: float, link: str, expected: str) -> None:
    assert expected in " ".join(why.answer(grids(grid([cell_of(cpu, link)]))[0], W))


def test_an_experiment_in_energy_is_judged_by_joules() -> None:
    cells = [replace(cell, objective="energy") for cell in CELLS]
    (found,) = grids(grid(cells))
    for result in found.results:
        joules = {row.point: row.energy_j.median for row in result.points if row.energy_j is not None}
        assert result.best is not None
        assert result.best.point == min(joules, key=lambda point: joules[point])
    assert " J" in why.answer(found, W)[0]


# --- what is not there


def test_a_cut_that_always_fell_back_is_not_measured_and_never_zero() -> None:
    lost = [replace(r, completed_by="fallback") if r.point == 2 and r.who == "point" else r for r in grid(CELLS[:1])]
    found = document(lost)
    row = found.table.rows[2]
    assert row[7].text == W("not_measured")
    assert W("fell_back", n=3) in row[7].hint
    assert not any(entry.value == 0 and entry.text != "0" for entry in row)
    assert any("cpu 0.3 on 5mbit: 2" in warning for warning in found.warnings)
    for text in (html.to_html(found), markdown.to_markdown(found)):
        assert W("not_measured") in text


def test_cells_and_cuts_that_are_missing_are_named() -> None:
    partly = [r for r in RECORDED if r.cell != CELLS[1] and not (r.cell == CELLS[2] and r.point == 1)]
    never = cell_of(0.9, "5mbit,5ms")
    found = document(partly, expected=[*CELLS, never])
    (warning,) = [line for line in found.warnings if "Not measured" in line]
    for part in ("cpu 0.3 on 20mbit: everything", "cpu 0.7 on 5mbit: 1;", "cpu 0.9 on 5mbit: everything"):
        assert part in warning
    heat = next(table for table in tables(found) if table.is_heat_map)
    assert [[W("not_measured") in entry.text for entry in row[1:]] for row in heat.rows] == [
        [False, True],
        [False, False],
        [True, True],
    ]
    assert "?" in " ".join(found.sections[0].paragraphs), "the way of the best cut has a hole"


def test_less_than_half_of_the_cuts_have_no_best() -> None:
    least = -(-(LAST + 1) // 2)
    for kept in (least, least - 1):
        partly = [r for r in RECORDED if r.cell != CELLS[3] or r.who != "point" or (r.point or 0) < kept]
        result = grids(partly)[0].results[3]
        assert (result.best is not None) == (kept == least)
        assert (result.regret is not None) == (kept == least)
        found = document(partly)
        assert (f"{kept} cuts, at least {least}" in html.to_html(found)) == (kept < least)
        (warning,) = found.warnings
        assert f"cpu 0.7 on 20mbit: {kept}–{LAST}." in warning


def test_cells_of_the_spec_without_any_record_are_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "lab", RECORDED)
    links = 'links = [{ name = "5mbit", link = "5mbit,5ms" }, { name = "20mbit", link = "20mbit,5ms" }]'
    (folder / "spec.toml").write_text(f'models = ["alex_net"]\ncpu = [0.3, 0.7, 0.9]\n{links}\npoints = "all"\n')
    assert run(folder) == 0
    text = (folder / "report.md").read_text()
    assert "cpu 0.9 on 5mbit: everything; alex\\_net, cpu 0.9 on 20mbit: everything." in text


def test_a_wrong_answer_is_marked_and_never_best() -> None:
    cell = CELLS[0]
    bad = [replace(r, matches=False) if r.point == best_point(cell) and r.who == "point" else r for r in grid([cell])]
    (result,) = grids(bad)[0].results
    assert result.best is not None
    assert result.best.point != best_point(cell)
    assert any("≠" in entry.text for entry in column(document(bad).table, "mark"))


def test_only_the_automatic_choice_is_a_report_too() -> None:
    found = document([record(cell, 3, n, who="auto") for cell in CELLS for n in range(3)])
    assert W("why_nothing") in found.sections[0].paragraphs
    assert len(found.table.rows) == len(CELLS)
    assert found.sections[0].blocks == ()
    assert W("best_title") not in html.to_html(found)


@pytest.mark.parametrize("plan", [{}, {"points": LAST + 1}])
def test_one_or_two_cuts_of_many_say_nothing_about_the_best(plan: dict[str, int]) -> None:
    for points in ((0,), (0, LAST)):
        fixed = [record(CELLS[0], point, n, plan=plan) for point in points for n in range(3)]
        (found,) = grids([*fixed, *(record(CELLS[0], LAST, n, who="auto", plan=plan) for n in range(3))])
        assert why.answer(found, W) == [W("why_nothing")]
        assert regret_of(found.results) is None
        for name in ("best_cut", "noise", "regret", "verdict"):
            (entry,) = column(best_table(found, W), name)
            assert entry.text == "–" or W("too_few", n=len(points), least=3) in entry.text
        assert all(W("not_measured") in table.rows[0][1].text for table in heat_tables(found, W))


def test_a_network_of_one_cut_has_a_best_one_and_nothing_to_compare_it_with() -> None:
    for point in (0, LAST):
        (found,) = grids(record(CELLS[0], point, n, plan={"points": 1}) for n in range(3))
        told = why.answer(found, W)
        assert W.setting(CELLS[0]) in told[0]
        assert not any("next best" in line for line in told)
        assert [W("not_measured") in row[1].text for row in (table.rows[0] for table in heat_tables(found, W))] == [
            False,
            point != LAST,
            point != 0,
        ]
    assert W("predicted_none") in document([record(CELLS[0], 0, plan={})]).sections[2].paragraphs


def test_a_best_cut_that_stays_is_said_to_stay() -> None:
    cells = [cell_of(0.5, link) for link in ("5mbit", "5.1mbit")]
    assert W("why_stays") in " ".join(why.answer(grids(grid(cells))[0], W))


def test_throughput_is_judged_by_the_longest_stage() -> None:
    cell = replace(CELLS[0], objective="throughput")
    (result,) = grids(grid([cell]))[0].results

    def longest(point: int) -> float:
        found = stages(cell, point)
        return max(found["edge_s"] + found["encode_s"], found["transfer_s"], found["queue_s"] + found["cloud_s"])

    assert result.best is not None
    assert result.best.point == min(range(LAST + 1), key=longest)


def test_baselines_without_auto_are_shown_as_they_are() -> None:
    only = [r for r in grid(CELLS[:2]) if r.who != "auto" and not (r.who == "neurosurgeon" and r.cell == CELLS[1])]
    table = baseline_table(grids(only)[0], W)
    assert table is not None
    first, second, _ = table.rows
    place = table.head.index(W.who("neurosurgeon"))
    assert first[2].text == "–"
    assert first[place].value == pytest.approx(stages(CELLS[0], 1)["total_s"] * 1e3, abs=1e-3)
    assert second[place].text == W("not_measured")
    assert baseline_table(grids(grid(CELLS, baselines=False))[0], W) is None


def test_links_of_one_name_are_told_apart_and_traces_are_named() -> None:
    cells = [Cell("alex_net", 0.5, link, "home") for link in ("5mbit", "9mbit")]
    cells.append(Cell("alex_net", 0.5, "5mbit", "train", trace="train"))
    text = markdown.to_markdown(document([*grid(cells)]))
    for name in ("home (5mbit)", "home (9mbit)", "train, trace train"):
        assert f"| {name} |" in text


# --- languages


def test_both_languages_have_the_same_texts_with_the_same_blanks() -> None:
    texts = {
        language: tomllib.loads((Path(report.__file__).parent / f"{language}.toml").read_text(encoding="utf-8"))
        for language in report.LANGUAGES
    }

    def blanks(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    assert texts["en"].keys() == texts["zh"].keys()
    for key, text in texts["en"].items():
        assert blanks(text) == blanks(texts["zh"][key]), key


def test_one_of_a_thing_is_not_told_as_many() -> None:
    lost = [replace(r, completed_by="fallback") if r.point == 2 and r.repeat else r for r in grid(CELLS[:1])]
    wrong = [replace(r, matches=False) if r.point == 1 and r.who == "point" else r for r in lost]
    found = document(wrong)
    said = [*found.warnings, *(told for _, told in found.facts), *(p for s in found.sections for p in s.paragraphs)]
    assert "30 records in 1 cell;" in " ".join(said)
    assert "The one cell of alex_net is cpu 0.3 on 5mbit" in " ".join(said)
    assert not re.search(r"(?<![\d.])1 (cell|record|row|cut|device|link|network|inference|thread)s\b", " ".join(said))


def test_cells_of_two_objectives_are_told_apart() -> None:
    choices = [record(replace(CELLS[0], objective="energy"), LAST, n, who="auto") for n in range(3)]
    goals = column(document([*grid(CELLS[:1]), *choices]).table, "objective")
    assert {goal.text for goal in goals} == {W.objective("latency"), W.objective("energy")}
    assert W("objective") not in document(RECORDED).table.head


def test_many_networks_are_counted_in_the_title() -> None:
    names = [f"net{number}" for number in range(4)]
    made = [record(cell_of(0.5, "5mbit", name), 0) for name in names]
    assert document(made).title == "Where to cut 4 networks"
    assert document(made[:2]).title == "Where to cut net0, net1"


def test_end_to_end_errors_are_counted_however_short() -> None:
    short = [replace(r, measured={k: v / 1e4 for k, v in r.measured.items()}) for r in grid(CELLS[:1])]
    table = next(table for table in tables(document(short)) if table.id == "predicted")
    assert [entry.text for entry in column(table, "stage")] == [W("total")]
    assert column(table, "count")[0].value == LAST + 2


def test_what_the_doctor_warned_of_stands_in_the_environment() -> None:
    warned = ({"name": "cores", "found": "2", "to_do": "x"}, {"name": "dust", "found": "much", "to_do": "wipe"})
    environment = replace(ENVIRONMENT, warnings=warned)
    facts = dict(build(environment, RECORDED, W).facts)
    assert facts[W("fact_doctor")] == "cores: 2; edge and cloud interfere with each other; dust: much -> wipe"
    assert W("fact_doctor") not in dict(document(RECORDED).facts)
    zh = Words("zh")
    told = dict(build(environment, RECORDED, zh).facts)[zh("fact_doctor")]
    assert "处理器核数：2" in told


def test_every_text_is_used() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(report.__file__).parent.glob("*.py"))
    built = re.compile(r"(who|objective|fact|paper|part|why|heat|dots|axis|mode|host|version|by|flag|verdict|doctor)_")
    keys = tomllib.loads((Path(report.__file__).parent / "en.toml").read_text(encoding="utf-8"))
    assert [key for key in keys if not re.search(f"[\"']{key}[\"']", sources) and not built.match(key)] == []


def test_a_chinese_report_is_chinese() -> None:
    found = document(RECORDED, "zh")
    said = [*found.warnings, *(text for s in found.sections for text in (s.title, *s.paragraphs))]
    said += [note for table in tables(found) for note in (table.title, *table.notes)]
    assert all(re.search(r"[\u4e00-\u9fff]", text) for text in said)
    assert '<html lang="zh">' in html.to_html(found)


# --- files


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.records: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if value is not None:
                {"id": self.ids, "href": self.links, "src": self.links, "data-records": self.records}.get(
                    name, []
                ).append(value)


def test_the_page_is_whole_and_every_record_that_it_names_is_in_it() -> None:
    text = html.to_html(document(RECORDED))
    page = Page(text)
    assert page.tags["svg"] == len(CELLS) + 1
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links), "it leads nowhere but to itself"
    assert len(page.records) > 200
    known = {int(name[1:]) for name in page.ids if re.fullmatch(r"r\d+", name)}
    assert known == set(range(1, len(RECORDED) + 1))
    for each in page.records:
        for first, _, last in (part.partition("-") for part in each.split(",")):
            assert {int(first), int(last or first)} <= known
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", text)


def test_names_that_look_like_markup_or_formulas_stay_text(tmp_path: Path) -> None:
    nasty = replace(cell_of(0.5, "5mbit"), model=NASTY, link_name=FORMULA)
    found = document([replace(r, layer=FORMULA, codec=NASTY + "\x07|*") for r in grid([nasty])])
    page = Page(html.to_html(found))
    assert not page.tags["script"]
    assert "\\<script\\>" in markdown.to_markdown(found)
    workbook.write(tmp_path / "report.xlsx", found)
    book = openpyxl.load_workbook(tmp_path / "report.xlsx")
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert any(cell.value == FORMULA for cell in cells)
    assert not [cell.coordinate for cell in cells if cell.data_type == "f"]


def test_the_workbook_has_numbers_and_every_value_of_every_record(tmp_path: Path) -> None:
    folder = write(tmp_path / "lab", RECORDED)
    assert run(folder) == 0
    book = openpyxl.load_workbook(folder / "report.xlsx")
    assert book.sheetnames == ["table", "summary", "charts", "best", "predicted", "raw", "about"]
    head, *rows = book["raw"].iter_rows(values_only=True)
    lines = (folder / RECORDS).read_text().splitlines()
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        shown = dict(zip(head, row, strict=True))
        for name, value in flat(json.loads(line)):
            told = json.dumps(value) if isinstance(value, list) else value
            expected = pytest.approx(told, rel=1e-12) if isinstance(told, float) else told
            assert shown[name] == (expected if told != "" else None), name
    table = list(book["table"].iter_rows(values_only=True))
    total = table[0].index(f"{W('total')} (ms)")
    assert table[1][total] == pytest.approx(median(r.total_s for r in RECORDED[:3]) * 1e3, abs=1e-4)
    assert any(row[0] == W("best_title") for row in book["summary"].iter_rows(values_only=True))


def flat(value: object, name: str = "") -> Iterable[tuple[str, object]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from flat(each, f"{name}.{key}" if name else key)
    else:
        yield name, value


def test_markdown_has_the_table_of_the_student() -> None:
    text = markdown.to_markdown(document(RECORDED))
    rows = [line for line in text.splitlines() if line.startswith("| alex\\_net | 0.3 | 5mbit |")]
    assert len(rows) >= LAST + 2
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows[: LAST + 2]}
    assert widths == {len(document(RECORDED).table.head) + 1}


# --- the command


def run(folder: Path, *flags: str) -> int:
    parser = script.Parser("lab report", "")
    report.add_flags(parser)
    options: argparse.Namespace = parser.parse_args([str(folder), *flags])
    return script.run("lab report", lambda: report.main(options), options)


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "lab", RECORDED)
    assert run(folder, "--out", str(tmp_path / "whole")) == 0
    with (folder / RECORDS).open("a") as file:
        file.write('{"schema": 1, "environ')
    assert run(folder, "--out", str(tmp_path / "torn")) == 0
    whole, torn = ((tmp_path / name / "report.html").read_text() for name in ("whole", "torn"))
    assert whole == torn


def test_what_is_no_result_of_the_lab_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "nowhere") == 2
    assert "no directory" in capsys.readouterr().err
    assert run(tmp_path) == 2
    assert "contains no results of `lab run`" in capsys.readouterr().err
    folder = write(tmp_path / "lab", RECORDED[:2])
    with (folder / RECORDS).open("a") as file:
        file.write('{"schema": 99}\n')
    assert run(folder) == 2
    told = capsys.readouterr().err
    assert "line 3" in told
    assert len(told.splitlines()) == 1
    assert not list(folder.glob("report*"))


def test_a_folder_without_records_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write(tmp_path / "lab", [])) == 1
    assert "This directory has no records yet" in capsys.readouterr().out
    assert "This directory has no records yet" in (tmp_path / "lab" / "report.html").read_text()


def test_a_place_that_takes_no_files_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "lab", RECORDED[:3])
    (tmp_path / "file").write_text("")
    assert run(folder, "--out", str(tmp_path / "file")) == 1
    assert f"cannot write the report to {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_damaged_spec_is_told_and_the_report_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "lab", RECORDED)
    (folder / "spec.toml").write_text("models = ")
    assert run(folder) == 0
    assert "spec.toml is not TOML" in capsys.readouterr().out


# --- small things


@pytest.mark.parametrize("highest", [0.0, 0.37, 1.0, 7.0, 99.9, 1234.0])
def test_ticks_reach_the_highest_value_in_few_round_steps(highest: float) -> None:
    found = ticks(highest)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert found[0] == 0
    assert found[-1] >= highest
    assert len(steps) == 1
    assert len(found) <= 6 + 1


@pytest.mark.parametrize(("low", "high"), [(1.0, 1e5), (300.0, 420.0), (90.0, 1100.0)])
def test_logarithmic_ticks_are_at_least_three_and_inside(low: float, high: float) -> None:
    found = log_ticks(low, high)
    assert len(found) >= 3
    assert all(low <= tick <= high for tick in found)


def test_numbers_as_people_read_them() -> None:
    assert show_lines([3, 4, 5, 9]) == "3–5, 9"
    assert data_lines([9, 3, 4, 5]) == "3-5,9"
    assert [show_joules(value) for value in (20.06, 1.0, 0.02691)] == ["20.1", "1.00", "0.0269"]
    assert [show_percent(value) for value in (0.031, -0.5, 0.0001)] == ["+3.1 %", "-50.0 %", "0.0 %"]


# --- what the workbook and the pictures draw


def test_every_number_of_the_workbook_has_its_unit_and_is_shown_in_it(tmp_path: Path) -> None:
    workbook.write(tmp_path / "report.xlsx", document(RECORDED))
    book = openpyxl.load_workbook(tmp_path / "report.xlsx")
    heads = [cell.value for cell in book["table"][1]]
    assert {"sent (bytes)", "end-to-end (ms)", "min (ms)", "max (ms)", "local (ms)", "transfer (ms)", "cloud (ms)"} <= {
        *heads
    }
    assert {cell.number_format for cell in book["table"][2][heads.index("sent (bytes)") :][:2]} == {"#,##0", "0.0"}
    deviations = [
        cell
        for row in book["summary"].iter_rows()
        for cell in row
        if isinstance(cell.value, float) and cell.number_format == "0.0%"
    ]
    assert deviations, "shares are shown as percent"


@pytest.mark.parametrize("language", report.LANGUAGES)
def test_the_charts_of_the_workbook_are_of_the_right_rows(tmp_path: Path, language: str) -> None:
    found = document(RECORDED, language)
    w = Words(language)
    workbook.write(tmp_path / "report.xlsx", found)
    book = openpyxl.load_workbook(tmp_path / "report.xlsx")
    keys = ("table", "summary", "charts", "best", "predicted", "raw", "about")
    assert book.sheetnames == [w(f"sheet_{key}") for key in keys]
    charts = vars(book[w("sheet_charts")])["_charts"]
    cells = len({r.cell for r in RECORDED})
    assert len(charts) == 2 + cells
    for chart in charts:
        assert not chart.x_axis.delete
        assert not chart.y_axis.delete, "or a spreadsheet hides the axis"
        assert "ms" in "".join(run.t for run in chart.y_axis.title.tx.rich.p[0].r), "a unit"
    table = list(book[w("sheet_table")].iter_rows(values_only=True))
    for chart in charts[2:]:
        assert [len(referred(book, series.val.numRef.f)) for series in chart.series] == [LAST + 1] * 3
        assert referred(book, chart.series[0].cat.numRef.f) == list(range(LAST + 1))
        first = int(chart.series[0].val.numRef.f.rpartition("$")[2]) - LAST - 1
        title = chart.title.tx.rich.p[0].r[0].t
        assert all(str(word) in title for word in table[first][:3])


def referred(book: openpyxl.Workbook, reference: str) -> list[object]:
    """The values of `'sheet'!$A$2:$A$7`."""
    name, _, cells = reference.rpartition("!")
    found = book[name.strip("'")][cells.replace("$", "")]
    return [row[0].value for row in found]


@pytest.mark.parametrize("language", report.LANGUAGES)
def test_every_picture_is_saved_as_png_in_either_language(
    tmp_path: Path, language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "lab", RECORDED)
    choose(language)
    try:
        assert run(folder, "--png", str(tmp_path / "png")) == 0
    finally:
        choose("en")
    told = capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert [name.partition("-")[0] for name in names] == ["cuts", "heat", "heat", "heat", "heat", "predicted.png"]
    assert all(str(tmp_path / "png" / name) in told for name in names)
    for name in names:
        with Image.open(tmp_path / "png" / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 150
            assert len(picture.convert("L").getcolors() or ()) > 5, "something is drawn"
    with Image.open(tmp_path / "png" / names[0]) as picture:
        seen = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
    assert {tuple(bytes.fromhex(colour)) for colour in workbook.COLOURS.values()} <= seen
    assert ("no font with Chinese letters" in told) == (language == "zh" and pictures.chinese_font() is None) or (
        "没有中文字体" in told
    )


def test_names_of_anybody_are_drawn_as_they_are_and_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    nasty = replace(cell_of(0.5, "5mbit"), model="../$\\no{$", link_name="$x_{$")
    paths = pictures.draw(tmp_path, document([replace(r, layer="$a^$") for r in grid([nasty])]))
    assert paths
    assert all(path.parent == tmp_path and path.exists() for path in paths)
    assert pictures.draw(tmp_path / "none", document([])) == []


def test_a_place_that_takes_no_pictures_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "lab", RECORDED[:30])
    (tmp_path / "file").write_text("")
    assert run(folder, "--png", str(tmp_path / "file")) == 1
    assert f"cannot write the figures to {tmp_path / 'file'}" in capsys.readouterr().err


def test_the_report_in_chinese_has_no_english_sentence() -> None:
    """But for names: of networks, layers, programs, files, units and packages."""
    found = document(RECORDED, "zh")
    said = [found.title, *found.warnings, *itertools.chain.from_iterable(found.facts), *found.words.values()]
    for section in found.sections:
        said += [section.title, *section.paragraphs]
        for block in section.blocks:
            said += [block.title, *block.notes]
            if isinstance(block, Table):
                said += block.head
    english = re.compile(r"\b(the|of|on|and|is|are|cloud|edge|local|cores|memory|needs|measured|cell|cut|link)\b")
    for text in said:
        assert not english.search(re.sub(r"`[^`]*`|[\w.-]+\.(?:jsonl|xlsx|html|md)", "", text)), text
