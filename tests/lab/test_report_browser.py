"""The report in a real browser: no complaints, nothing from outside, everything visible, on a phone too."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgecloud.lab.report import LANGUAGES, html
from edgecloud.lab.report.build import build
from edgecloud.lab.report.words import Words
from tests import made_records
from tests.browser import Tab, find_browser, running_browser
from tests.made_records import ENVIRONMENT, cell_of, grid

PHONE, DESK = 390, 1280
POINTS = 23
VISIBLE = """
[...document.querySelectorAll("table, svg")].filter(e => !e.closest("details:not([open])")).map(e => {
  const box = e.getBoundingClientRect();
  return [e.tagName.toLowerCase(), box.width, box.height, box.left];
})
"""
# bars and their labels that stick out of their drawing, or text so small that nobody reads it
OUTSIDE = """
[...document.querySelectorAll("svg")].flatMap(svg => {
  const outer = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("rect, text, circle")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.left < outer.left - 1 || box.right > outer.right + 1 || box.top < outer.top - 1
      || box.bottom > outer.bottom + 1 || (e.tagName == "text" && box.height < 9);
  }).map(e => e.outerHTML);
})
"""
OVERLAPS = """
[...document.querySelectorAll("svg")].flatMap(svg => {
  const boxes = [...svg.querySelectorAll("text.tick")].map(e => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], n) => boxes.slice(n + 1).filter(([b, q]) =>
    p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom).map(([b]) => a + " " + b));
})
"""
LUMINANCES = """
["color", "backgroundColor"].map(name => {
  const [r, g, b] = getComputedStyle(document.body)[name].match(/[0-9.]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
})
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed")
    with running_browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The student's grid in both languages: 4 devices, 3 links, 23 cuts; some is missing, and some went wrong."""
    rng = random.Random(7)
    layers = tuple((f"features.{n}", rng.randrange(4_000, 750_000), rng.uniform(0.001, 0.03)) for n in range(POINTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_records, "LAYERS", (("input", 602_112, 0.0), *layers[1:]))
        cells = [cell_of(cpu, f"{rate}mbit,5ms") for cpu in (0.3, 0.5, 0.6, 0.7) for rate in (5, 7, 10)]
        cells += [replace(cell, model="le_net") for cell in cells[:3]]
        records = [r for r in grid(cells) if r.cell != cells[11] and not (r.cell == cells[4] and r.point == 6)]
        records = [replace(r, completed_by="fallback") if r.cell == cells[7] and r.point == 3 else r for r in records]
    folder = tmp_path_factory.mktemp("report")
    found = {language: folder / f"{language}.html" for language in LANGUAGES}
    for language, path in found.items():
        path.write_text(html.to_html(build(ENVIRONMENT, records, Words(language))), encoding="utf-8")
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_seen_whole_on_a_desk_and_on_a_phone(tab: Tab, pages: dict[str, Path], language: str) -> None:
    page = pages[language]
    tab.requests.clear()
    for width in (DESK, PHONE):
        tab.open(page, width)
        assert tab.ask("window.innerWidth") == width
        assert tab.ask("document.documentElement.scrollWidth") <= width, "tables scroll in their own boxes"
        seen = tab.ask(VISIBLE)
        assert sum(kind == "svg" for kind, *_ in seen) == 12 + 3 + 1
        assert sum(kind == "table" for kind, *_ in seen) > 8
        assert all(wide > 100 and high > 50 and left >= 0 for _, wide, high, left in seen)
        assert tab.ask(OUTSIDE) == []
        assert tab.ask(OVERLAPS) == []
    assert tab.complaints == []
    assert set(tab.requests) == {page.as_uri()}, "one file, and nothing from outside"


def test_numbers_lead_to_their_records(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["en"], DESK)
    tab.ask("document.querySelector('#table tbody a').click()")
    assert tab.ask("location.hash") == "#r1"
    assert tab.ask("document.querySelector('#r1').cells.length") > 10


def test_it_is_dark_where_everything_is(tab: Tab, pages: dict[str, Path]) -> None:
    for dark in (False, True):
        tab.open(pages["en"], DESK, dark=dark)
        ink, paper = tab.ask(LUMINANCES)
        assert (ink > paper) == dark
        assert abs(ink - paper) > 0.7
