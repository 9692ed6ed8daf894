"""The cells of benchmarks.overlap: which are asked for, and what is made of their runs."""

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.overlap import GRID, README, Cell, Side, read, wanted_of


def side(total_s: float, transfer_s: float, chunks: int = 0) -> Side:
    """Three runs of the same stages."""
    stages = {"edge_s": 0.01, "encode_s": 0.05, "transfer_s": transfer_s, "queue_s": 0.0, "cloud_s": 0.1}
    run = stages | {"hidden_s": sum(stages.values()) - total_s, "total_s": total_s}
    return Side(0, "zstd", chunks, "", run, [run] * 3)


def cell(on_s: float, chunks: int) -> Cell:
    return Cell(*README[0], True, side(on_s, 0.17, chunks), side(0.33, 0.17))


def test_cells_are_chosen_by_network_link_and_cloud() -> None:
    none = {"model": None, "link": None, "cloud": None}
    assert wanted_of({"cells": "all", **none}) == [*README, *GRID]
    assert wanted_of({"cells": "grid", **none, "cloud": "0.3", "model": "resnet18,vgg_net"}) == [
        each for each in GRID if each[3] == 0.3 and each[0] in ("resnet18", "vgg_net")
    ]


def test_a_cell_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = cell(0.2, 6)
    path = tmp_path / "cells.jsonl"
    path.write_text(json.dumps(asdict(written) | {"machine": {}}) + "\n")
    assert read(path) == {written.key: written}
    assert read(tmp_path / "none.jsonl") == {}


def test_what_a_cell_gains() -> None:
    found = cell(0.2, 6)
    assert found.faster.ratio.value == 0.33 / 0.2
    assert found.is_balanced  # 0.15 of the link, and 0.1 of the cloud
    assert round(found.over_longest, 3) == round(0.2 / 0.17, 3)
    assert not found.is_one
    assert cell(0.33, 0).is_one
