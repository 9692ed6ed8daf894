"""python -m lab page: the cells of a grid in the browser, while it is measured or afterwards."""

import argparse
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecloud.cli import arguments, live, script
from edgecloud.lab.grid import places, summary
from edgecloud.lab.records import RECORDS, SPEC, CellRecord, read
from edgecloud.lab.show import cell_text
from edgecloud.lab.spec import read as read_spec
from edgecloud.page.rows import Mark, Row
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import format_seconds

COLUMNS = ("cell", "best", "layer", "total", "auto", "auto_total", "records")
STUCK_S = 300.0
"""Without a new record, from there a banner says so."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="output directory of `lab run`")
    parser.add_argument(
        "--page",
        type=arguments.page_place,
        default="0",
        metavar="[HOST:]PORT",
        help="where the page is; 0 chooses a port",
    )
    parser.add_argument("--page-token-file", type=Path, metavar="FILE", help="file with the token of the page")


def main(options: argparse.Namespace) -> int:
    """Serve the page until SIGTERM or Ctrl-C."""
    if not options.folder.is_dir():
        raise UsageError(f"no directory {options.folder}")
    view, stopped = GridView(options.folder), threading.Event()
    view.state()  # what is wrong with the folder is said now
    with live.shown(options, lambda: view):
        script.on_stop_signals(stopped.set)
        stopped.wait()
    return 0


class GridView:
    """Reads a folder anew when something was written to it."""

    program = "lab"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cells = [place.cell for place in places(read_spec(folder / SPEC))] if (folder / SPEC).exists() else []
        self._stamp: tuple[int, int] | None = None
        self._state: dict[str, Any] = {}
        self.actions: Mapping[str, Callable[[Any], None]] = {}

    def rows(self, after: int, most: int) -> Sequence[Row]:
        """A grid has no requests of its own."""
        return []

    def marks(self) -> Sequence[Mark]:
        """Nor changes."""
        return []

    def picture(self) -> bytes | None:
        """There is none."""
        return None

    def state(self) -> dict[str, Any]:
        """The table of `lab run`, as far as it is. Raises UsageError for a folder without results."""
        path = self._folder / RECORDS
        about = path.stat() if path.exists() else None
        stamp = None if about is None else (about.st_mtime_ns, about.st_size)
        if stamp != self._stamp or not self._state:
            self._stamp, self._state = stamp, self._read()
        quiet_s = 0.0 if about is None else time.time() - about.st_mtime
        is_over = self._state["done"] >= self._state["total"]
        stuck = [] if quiet_s < STUCK_S or is_over else [{"code": "stopped", "age": 60 * round(quiet_s / 60)}]
        return self._state | {"banners": stuck}

    def _read(self) -> dict[str, Any]:
        _, records = read(self._folder)
        cells = list(dict.fromkeys(record.cell for record in records))
        return {
            "program": self.program,
            "name": self._folder.resolve().name,
            "done": max(0, len(cells) - 1) if len(cells) < len(self._cells) else len(cells),
            "total": max(len(cells), len(self._cells)),
            "left_s": None,
            "current": cell_text(cells[-1]) if cells else "",
            "columns": COLUMNS,
            "cells": _table(records),
        }


def _table(records: Sequence[CellRecord]) -> list[list[str]]:
    """A row for every cell, the last one first; of a cell without points only how much there is."""
    counts: dict[str, int] = {}
    cells = {record.cell.key: record.cell for record in records}
    for record in records:
        counts[record.cell.key] = counts.get(record.cell.key, 0) + 1
    bests = {best.cell.key: best for best in summary(records)}
    rows = []
    for key, cell in reversed(cells.items()):
        best, row = bests.get(key), [cell_text(cell)]
        if best is not None:
            auto_s = "-" if best.auto_s is None else format_seconds(best.auto_s)
            auto = "-" if best.auto_point is None else str(best.auto_point)
            row += [str(best.point), best.layer, format_seconds(best.total_s), auto, auto_s]
        rows.append([*row, *["-"] * (len(COLUMNS) - 1 - len(row)), str(counts[key])])
    return rows
