"""The page of a grid follows its folder: cells come, and a grid that stands still is said to."""

import os
import time
from pathlib import Path

import pytest

from edgecloud.lab.live import COLUMNS, STUCK_S, GridView, main
from edgecloud.lab.records import RECORDS, SPEC, open_records, write_environment
from edgecloud.net.http import Request
from edgecloud.page.app import Page
from edgecloud.utils.errors import UsageError
from tests.made_records import ENVIRONMENT, cell_of, grid

SPEC_TEXT = 'models = ["le_net"]\nlinks = ["5mbit", "7mbit", "9mbit"]\ncpu = [0.5]\npoints = "all"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_environment(tmp_path, ENVIRONMENT)
    (tmp_path / SPEC).write_text(SPEC_TEXT)
    return tmp_path


def test_cells_come_as_they_are_measured(folder: Path) -> None:
    view = GridView(folder)
    assert view.state() | {"name": ""} == view.state() | {"name": "", "done": 0, "total": 3, "cells": []}
    for number, rate in enumerate((5, 7, 9), 1):
        records = list(grid([cell_of(0.5, f"{rate}mbit,5ms")]))
        with open_records(folder) as writer:
            for record in records:
                writer.append(record)
        state = view.state()
        assert len(state["cells"]) == number
        assert f"{rate}mbit" in state["cells"][0][0]
        assert [len(row) for row in state["cells"]] == [len(COLUMNS)] * number
        assert state["done"] == (number - 1 if number < 3 else 3)
        assert state["cells"][0][-1] == str(len(records))
    assert state["banners"] == []


def test_a_grid_that_stands_still_is_said_to(folder: Path) -> None:
    view = GridView(folder)
    with open_records(folder) as writer:
        writer.append(next(iter(grid([cell_of(0.5, "5mbit,5ms")]))))
    before = time.time() - 2 * STUCK_S
    os.utime(folder / RECORDS, (before, before))
    (banner,) = view.state()["banners"]
    assert (banner["code"], banner["age"]) == ("stopped", 2 * STUCK_S)


def test_it_is_a_view_of_a_page(folder: Path) -> None:
    reply = Page(GridView(folder), "127.0.0.1").answer(Request("GET", "/state.json", {"host": "localhost"}))
    assert reply.status == 200
    assert b'"program":"lab"' in reply.body


def test_a_folder_without_a_grid_is_a_line(tmp_path: Path) -> None:
    import argparse

    with pytest.raises(UsageError, match="no directory"):
        main(argparse.Namespace(folder=tmp_path / "none"))
    with pytest.raises(UsageError):
        main(argparse.Namespace(folder=tmp_path))
