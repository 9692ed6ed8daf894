"""Tables from spreadsheets: detects the encoding, the separator and the header."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.sniffing import what_is

Lines = list[tuple[int, list[str]]]
"""Lines with something in them: the number in the file, and the cells, without spaces around them."""
MAX_CELL = 4_000
HEAD_LINES = 20
"""The columns are named within so many; a title may stand above."""
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f]")
"""What no text has in it."""
_SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Table:
    """Named columns, and rows by their line in the file: of each the cells by column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_text(path: Path, max_bytes: int) -> str:
    """A text file in UTF-8, UTF-16 or UTF-32, else in GB18030 (GBK), as Chinese Windows writes it.

    Raises UsageError for one that is missing, larger, or no text.
    """
    require_file(path)
    if path.stat().st_size > max_bytes:
        raise UsageError(f"{path} is larger than {max_bytes >> 20} MiB")
    try:
        data, kind = path.read_bytes(), what_is(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    if kind is not None:
        raise UsageError(f"{path} is {kind}")
    for name in _encodings(data):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        if not _CONTROL.search(text):
            return text
    raise UsageError(f"{path} is not UTF-8, UTF-16 or GB18030 (GBK) text: save it as UTF-8")


def _encodings(data: bytes) -> tuple[str, ...]:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is not None:
        return (encoding,)
    if b"\0" in data:  # every second byte of Latin letters in UTF-16
        is_little = data[1::2].count(0) > data[::2].count(0)
        return ("utf-16-le",) if is_little else ("utf-16-be",)
    return ("utf-8", "gb18030")


def csv_lines(path: Path, text: str, names: Collection[str], limit: int) -> Lines:
    """The lines of a table in a text, separated by what makes the most known names of it, or by what `sep=` says.

    Raises UsageError for more than `limit` lines, and for cells that are too long.
    """
    separator, skipped = _declared_separator(text)
    if separator is None:
        head = "\n".join(text.splitlines()[: 2 * HEAD_LINES])
        plain = {_plain(name) for name in names}
        separator = max(_SEPARATORS, key=lambda each: _names_in(_parsed(path, head, each, limit), plain))
    return list(_parsed(path, text, separator, limit, skipped))


def _declared_separator(text: str) -> tuple[str | None, int]:
    """The separator that a first line `sep=;` names, and whether there is such a line: 1 or 0."""
    first = text[:20].splitlines()[0] if text.strip() else ""
    match = re.fullmatch(r'"?sep=(.)"?[,;\t]*', first.lstrip("\ufeff"), re.IGNORECASE)
    return (match[1], 1) if match is not None else (None, 0)


def _names_in(lines: Iterator[tuple[int, list[str]]], names: Collection[str]) -> int:
    most = 0
    try:
        for _, cells in lines:
            most = max(most, sum(_plain(cell) in names for cell in cells))
    except UsageError:  # a quotation that is cut off where the beginning of the file ends
        pass
    return most


def _parsed(path: Path, text: str, separator: str, limit: int, skipped: int = 0) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    count = 0
    try:
        for line in reader:
            if reader.line_num <= skipped or not any(cell.strip() for cell in line):
                continue
            if any(len(cell) > MAX_CELL for cell in line):
                raise UsageError(f"{path}, line {reader.line_num}: a cell is longer than {MAX_CELL} characters")
            count += 1
            if count > limit:
                raise UsageError(f"{path}: more than the limit of {limit} rows")
            yield reader.line_num, [cell.strip() for cell in line]
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}") from None


def table_of(where: str, lines: Lines, names: Collection[str], needed: str | None = None) -> Table:
    """Find the line that names the columns: the first with `needed`, else the one with the most known names.

    Titles and merged cells above it are left out, and so are columns without a name and a value. Names are the known
    ones however they are written: `Latency (ms)` is `latency` where that is in ms. Raises UsageError for two columns of
    one name, and for a known one in another unit.
    """
    proper = {_plain(name): name for name in names}
    heads = [[_proper(cell, proper) for cell in cells] for _, cells in lines[:HEAD_LINES]]
    place = max(range(len(heads)), key=lambda row: _score(heads[row], names, needed), default=0)
    if not heads:
        return Table((), ())
    columns = heads[place]
    named = [name for name in columns if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{where} has duplicate columns {twice[:40]!r}: rename one of them")
    wrong = next((name for name in columns if _unit_of(name, proper)), None)
    if wrong is not None:
        raise UsageError(f"{where}: the column {wrong[:40]!r} must have the unit {_unit_of(wrong, proper)}")
    rows = []
    for number, cells in lines[place + 1 :]:
        padded = [*columns, *[""] * (len(cells) - len(columns))]
        row = {name: cell for name, cell in zip(padded, cells, strict=False) if name or cell}
        rows.append((number, row))
    return Table(tuple(named), tuple(rows))


def _score(head: list[str], names: Collection[str], needed: str | None) -> int:
    return int(needed in head) if needed is not None else len(set(head) & set(names))


_BRACKETS = re.compile(r"(?P<base>.*?)\s*[(\[]\s*(?P<unit>[^()\[\]]*?)\s*[)\]]", re.DOTALL)
UNITS = {"latency": "ms", "seconds": "s", "raw_s": "s"}
"""Of columns whose names do not end in it."""


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _proper(name: str, proper: dict[str, str]) -> str:
    """A known name as it is known; another one as it is."""
    plain = _plain(name)
    split = _BRACKETS.fullmatch(plain)
    if plain in proper or split is None:
        return proper.get(plain, name.strip())
    if f"{split['base']}_{split['unit']}" in proper:  # `deadline (ms)`
        return proper[f"{split['base']}_{split['unit']}"]
    if split["base"] in proper and UNITS.get(proper[split["base"]]) == split["unit"]:
        return proper[split["base"]]
    return name.strip()


def _unit_of(name: str, proper: dict[str, str]) -> str | None:
    """The unit that a column should have had, where its name says another one."""
    split = _BRACKETS.fullmatch(_plain(name))
    return UNITS.get(proper.get(split["base"], "")) if split is not None else None
