"""Reads untrusted workbooks within limits, as lines of text with their numbers."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgecloud.utils import extras
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.tables import Lines

MAX_BYTES, MAX_UNPACKED_BYTES = 64 << 20, 512 << 20
MAX_COLUMNS = 200
NEEDED = {".xlsx": ("openpyxl", "defusedxml"), ".xls": ("xlrd",)}
Sheets = dict[str, Lines]


def read_workbook(path: Path, max_rows: int) -> Sheets:
    """The sheets of an .xlsx or .xls by name, without empty ones.

    Raises UsageError for a file that is not what its name says, is too large, or plays tricks with XML.
    """
    require_file(path)
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"{path}: larger than the workbook limit of {MAX_BYTES >> 20} MiB")
    readers = {".xlsx": _read_xlsx, ".xls": _read_xls}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise UsageError(f"{path}: expected a directory of .csv files, or an .xlsx or .xls file")
    extras.require(*NEEDED[suffix])
    try:
        sheets = readers[suffix](path, max_rows)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  damaged workbooks make both libraries raise a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise UsageError(f"cannot read {path} as {path.suffix}: {reason}") from None
    return {name: lines for name, lines in sheets.items() if len(lines) > 1}


def _read_xlsx(path: Path, max_rows: int) -> Sheets:
    from openpyxl import DEFUSEDXML, load_workbook

    if not DEFUSEDXML:  # it is installed, and disabled
        raise UsageError("reading workbooks requires defusedxml, which is disabled: unset OPENPYXL_DEFUSEDXML")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is not an .xlsx file (an .xls file must keep its suffix)")
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise UsageError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
    book = load_workbook(path, read_only=True, data_only=True)
    try:
        return {
            sheet.title: _lines(path, sheet.iter_rows(values_only=True, max_col=MAX_COLUMNS), max_rows)
            for sheet in book.worksheets
        }
    finally:
        book.close()


def _read_xls(path: Path, max_rows: int) -> Sheets:
    import xlrd

    with xlrd.open_workbook(str(path), on_demand=True) as book:
        return {
            sheet.name: _lines(path, (sheet.row_values(number) for number in range(sheet.nrows)), max_rows)
            for sheet in book.sheets()
        }


def _lines(path: Path, rows: Iterable[Iterable[Any]], max_rows: int) -> Lines:
    lines: Lines = []
    for number, row in enumerate(rows, start=1):
        cells = ["" if cell is None else str(cell).strip() for cell in row]
        if any(cells):
            lines.append((number, cells))
        if len(lines) > max_rows:
            raise UsageError(f"{path}: more than the limit of {max_rows} rows")
    return lines
