"""Reports of experiments in which something is missing: what is there is said, and what is not is never made up."""

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import pytest

from edgecloud.lab.records import CellRecord
from edgecloud.lab.report import why
from edgecloud.lab.report.accuracy import prediction_table
from edgecloud.lab.report.build import build
from edgecloud.lab.report.charts import bars_chart
from edgecloud.lab.report.compare import compared_of, energy_table, headline_table
from edgecloud.lab.report.document import Chart, Document, Table
from edgecloud.lab.report.grid import Grid, grids_of
from edgecloud.lab.report.rows import number, rows_of
from edgecloud.lab.report.svg import log_ticks
from edgecloud.lab.report.tables import best_table
from edgecloud.lab.report.words import Words
from edgecloud.utils.units import parse_rate
from tests import made_records
from tests.made_records import ENVIRONMENT, LAYERS, cell_of, record, stages

W = Words("en")
LAST = len(LAYERS) - 1
CELLS = [cell_of(0.5, link) for link in ("5mbit,5ms", "20mbit,5ms")]


def grids(records: Iterable[CellRecord]) -> tuple[Grid, ...]:
    return grids_of(rows_of(number(records)), lambda link: parse_rate(link.split(",")[0]))


def document(records: Iterable[CellRecord]) -> Document:
    return build(ENVIRONMENT, tuple(records), W)


def ours(records: Iterable[CellRecord]) -> dict[str, str]:
    """Our own figures beside the paper's, by their names."""
    table = headline_table(compared_of(grids(records)), W, "how")
    return {row[0].text: row[2].text for row in table.rows}


def without_joules(records: Iterable[CellRecord]) -> list[CellRecord]:
    return [replace(each, energy=None) for each in records]


def test_where_every_fixed_cut_fell_back_there_is_no_best_one_and_no_map_of_it() -> None:
    lost = [replace(each, completed_by="fallback") for each in made_records.grid(CELLS, baselines=False)]
    (found,) = grids(lost)
    assert why.answer(found, W) == [W("why_nothing")]
    assert {row[2].text for row in best_table(found, W).rows} == {W("not_measured")}
    section = document(lost).sections[0]
    assert W("why_nothing") in section.paragraphs
    assert not any(isinstance(block, Table) and block.is_heat_map for block in section.blocks)


def test_cuts_that_another_objective_measured_are_used_and_drawn_once() -> None:
    saving = replace(CELLS[0], objective="energy")
    made = [*made_records.grid(CELLS[:1], baselines=False), *(record(saving, 2, n, who="auto") for n in range(3))]
    latency, energy = document(made).sections[:2]
    assert [sum(isinstance(block, Chart) for block in section.blocks) for section in (latency, energy)] == [1, 0]
    (_, found) = grids(made)
    best = found.results[0].best
    assert best is not None
    assert best.cell == CELLS[0]


def test_missing_choices_are_named_with_who_made_them() -> None:
    lost = [
        replace(each, completed_by="fallback") if each.who == "all-cloud" else each for each in made_records.grid(CELLS)
    ]
    (warning,) = [line for line in document(lost).warnings if "Not measured" in line]
    assert f"0 ({W.who('all-cloud')})" in warning


def test_predictions_of_stages_that_take_no_time_are_left_out() -> None:
    here = [record(cell, LAST, n) for cell in CELLS for n in range(3)]
    rows = grids(here)[0].results
    table = prediction_table([row for result in rows for row in result.rows], W)
    assert [row[0].text for row in table.rows] == [W("total"), W("local")]


def test_a_cell_without_joules_has_no_row_among_them() -> None:
    with_joules, without = CELLS
    (found,) = grids([*made_records.grid([with_joules]), *without_joules(made_records.grid([without]))])
    table = energy_table(found, W)
    assert table is not None
    assert [row[1].text for row in table.rows] == [with_joules.link_name]
    assert energy_table(grids(without_joules(made_records.grid(CELLS)))[0], W) is None


def test_figures_that_need_what_was_not_measured_are_not_given() -> None:
    """Without joules no saving, without all on the cloud no speedup, and a cloud with nothing to do no throughput."""
    unmeasured = W("not_measured")
    cells = [cell_of(0.5, "5mbit", model) for model in ("alex_net", "le_net")]
    whole = list(made_records.grid(cells, baselines=False))
    found = ours(without_joules(whole))
    assert found[W("paper_mean_speedup")] != unmeasured
    assert found[W("paper_mean_saving")] == found[W("paper_most_saving")] == unmeasured
    found = ours(each for each in whole if each.point != 0)
    assert {found[W(f"paper_{name}")] for name in ("mean_speedup", "mean_saving", "throughput")} == {unmeasured}
    assert found[W("paper_found")] != unmeasured
    found = ours(made_records.grid(cells, auto=LAST, baselines=False))
    assert found[W("paper_throughput")] == unmeasured
    assert found[W("paper_mean_speedup")] == f"{mean(cloud_over_edge(cell.link) for cell in cells):.2f} ×"


def cloud_over_edge(link: str) -> float:
    cell = cell_of(0.5, link)
    return stages(cell, 0)["total_s"] / stages(cell, LAST)["total_s"]


@pytest.mark.parametrize("count", [3, 14, 15, 40])
def test_numbers_under_bars_have_room_and_the_best_one_has_its_own(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (LAYERS[0], *((f"conv{n}", 600_000 // n, 0.01) for n in range(1, count)))
    monkeypatch.setattr(made_records, "LAYERS", layers)
    (found,) = grids(made_records.grid(CELLS[:1], auto=1, baselines=False))
    best = found.results[0].best
    assert best is not None
    (panel,) = bars_chart(found, W).panels
    numbered = r'<text x="([0-9.]+)"[^>]* class="tick[^"]*" text-anchor="middle">([0-9]+)<'
    under = {int(text): float(x) for x, text in re.findall(numbered, panel.svg)}
    assert best.point in under
    assert len(under) == count if count <= 14 else 3 < len(under) < count
    assert all(b - a > 21.9 for a, b in pairwise(sorted(under.values())))


def test_a_range_too_narrow_for_three_round_numbers_has_those_that_it_has() -> None:
    assert log_ticks(300.0, 301.0) == [300.0]
    assert log_ticks(301.0, 302.0) == []
