"""A report before it is HTML, a workbook or Markdown: text, tables with links to records, and figures.

Pure.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from edgecloud.utils.units import format_bytes

BEST, BAD, NOTE = "best", "bad", "note"
"""Marks: what is best; what is missing or wrong; what is less important."""
MS, JOULES, TIMES, SHARE, BYTES = "ms", "J", "×", "%", "bytes"
"""Units; a share is 0.031 in a workbook, and shown as 3.1 %."""


@dataclass(frozen=True)
class Entry:
    """One cell of a table."""

    text: str
    value: float | str | None = None
    """What a workbook gets; None for the text."""
    lines: tuple[int, ...] = ()
    """The lines of records.jsonl that it is from."""
    mark: str = ""
    share: float | None = None
    """0 to 1: how strongly it is coloured in a heat map."""
    hint: str = ""
    is_number: bool = False
    is_link: bool = False
    """Whether it leads to the first of its records."""
    unit: str = ""
    """Of the number that a workbook gets."""

    @property
    def cell(self) -> float | str:
        """For a workbook."""
        return self.text if self.value is None else self.value


@dataclass(frozen=True)
class Table:
    """Rows of entries. `notes` say how to read it."""

    id: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    is_heat_map: bool = False
    firsts: frozenset[int] = frozenset()
    """Rows that a group begins with."""
    keys: tuple[str, ...] = ()
    """What the columns are, in no language, where somebody looks for one."""

    def column(self, key: str) -> int:
        """Where it is."""
        return self.keys.index(key)

    def groups(self) -> list[tuple[int, int]]:
        """The rows of each group: the first one, and the one after the last."""
        return list(pairwise([*sorted(self.firsts), len(self.rows)]))


@dataclass(frozen=True)
class Panel:
    """One drawing, as the text of an <svg> element."""

    title: str
    svg: str


@dataclass(frozen=True)
class Chart:
    """Drawings that belong together, `columns` beside each other where there is room. `alt` says what is seen."""

    id: str
    title: str
    panels: tuple[Panel, ...]
    columns: int
    keys: tuple[tuple[str, str], ...] = ()
    """Of the legend: class of the colour, and name."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading, and what stands under it, in order."""

    id: str
    title: str
    paragraphs: tuple[str, ...] = ()
    blocks: tuple[Table | Chart, ...] = ()


@dataclass(frozen=True)
class Raw:
    """All records, flat: every name that any of them has is a column."""

    head: tuple[str, ...]
    rows: tuple[tuple[float | str, ...], ...]


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    language: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    table: Table
    """The student's table, which has a sheet of its own."""
    raw: Raw
    raw_table: Table
    """The records once more, few columns, for the HTML file's links."""
    best: Table
    """Times of the best cut, of the automatic choice and of both ends, a row for each cell."""
    predicted: Table
    """Every end-to-end time that was measured, and what had been predicted."""
    words: dict[str, str] = field(default_factory=dict)
    """The few words that the forms themselves need."""


def text(words: str, mark: str = "", hint: str = "", lines: Iterable[int] = ()) -> Entry:
    """An entry that is not a number."""
    return Entry(words, mark=mark, hint=hint, lines=tuple(lines))


def milliseconds(seconds: float | None, lines: Iterable[int] = (), mark: str = "", hint: str = "") -> Entry:
    """Seconds, shown and given as milliseconds."""
    if seconds is None:
        return Entry("–", "", mark=mark or NOTE, is_number=True)
    label, value = f"{_plain(seconds * 1e3)}", round(seconds * 1e3, 4)
    return Entry(label, value, tuple(lines), mark, hint=hint, is_number=True, unit=MS)


def joules(value: float | None, lines: Iterable[int] = (), mark: str = "") -> Entry:
    """Joules, three digits."""
    if value is None:
        return Entry("–", "", mark=NOTE, is_number=True)
    return Entry(show_joules(value), round(value, 6), tuple(lines), mark, is_number=True, unit=JOULES)


def times(
    value: float | None, lines: Iterable[int] = (), mark: str = "", share: float | None = None, after: str = ""
) -> Entry:
    """A ratio, such as `1.38 ×`, and what is to be said of it."""
    if value is None:
        return Entry("–", "", mark=mark or NOTE, is_number=True)
    return Entry(f"{value:.2f} ×{after}", round(value, 4), tuple(lines), mark, share, is_number=True, unit=TIMES)


def size(count: int, lines: Iterable[int] = ()) -> Entry:
    """Bytes."""
    return Entry(format_bytes(count), count, tuple(lines), is_number=True, unit=BYTES)


def percent(value: float | None, lines: Iterable[int] = (), mark: str = "", sign: bool = True) -> Entry:
    """A share, such as `+3.1 %`; a workbook gets 0.031."""
    if value is None:
        return Entry("–", "", mark=NOTE, is_number=True)
    return Entry(show_percent(value, sign), round(value, 5), tuple(lines), mark, is_number=True, unit=SHARE)


def show_percent(value: float, sign: bool = True) -> str:
    """A share, with its sign or without a plus."""
    return f"{value * 100:{'+' if sign else ''}.1f} %" if abs(value) >= 0.0005 else "0.0 %"


def show_share(value: float) -> str:
    """A share for a sentence: `64 %`."""
    return f"{value * 100:.0f} %"


def show_joules(value: float) -> str:
    """Three digits: `20.1`, `1.00`, `0.0269`."""
    digits = 2 if value <= 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def show_lines(lines: Iterable[int]) -> str:
    """Line numbers for people, runs joined: `3–5, 9`."""
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in _runs(lines))


def data_lines(lines: Iterable[int]) -> str:
    """Line numbers for programs: `3-5,9`."""
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in _runs(lines))


def records_entry(lines: Iterable[int]) -> Entry:
    """The lines themselves, as a link to them."""
    lines = tuple(lines)
    return Entry(show_lines(lines), None, lines, NOTE, is_link=True)


def _runs(lines: Iterable[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for line in sorted(set(lines)):
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return runs


def _plain(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def show_ms(seconds: float) -> str:
    """For a sentence: `1287 ms`."""
    value = seconds * 1e3
    if abs(value) < 0.005:
        return "0 ms"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"
