"""Measured rows on disk: what is written is read again, and what is wrong is named."""

import csv
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from openpyxl import Workbook, load_workbook

from edgecloud.models.specs import LayerSpec
from edgecloud.predictor.dataset import COLUMNS, Machine, Row, Whole, read, read_whole, to_cells, write, write_whole
from edgecloud.predictor.features import Context, Described
from edgecloud.tools.survey import write_excel
from edgecloud.utils.errors import UsageError
from tests.conftest import ROOT

HERE = Machine("cpu Test 3000", 1, "2.13.0")
PUBLISHED = ROOT.parent / "shared" / "data" / "layer_latency" / "edge"


def rows(count: int, kind: str = "conv") -> tuple[Row, ...]:
    """Rows whose times follow their work, with some noise."""
    rng = np.random.default_rng(count)
    found = []
    for number in range(count):
        side, cin, cout = int(rng.integers(4, 60)), int(rng.integers(1, 200)), int(rng.integers(1, 200))
        macs = side * side * cin * cout * 9
        spec = LayerSpec(
            kind, "conv2d", (1, cin, side, side), (1, cout, side, side), 1, macs, 4 * cin * side**2, 4 * cout * side**2,
            4 * cin * cout * 9, (3, 3), (1, 1), 1, bool(number % 2), 0,
        )  # fmt: skip
        seconds = 2e-5 + 3e-11 * macs
        raw = tuple(round(seconds * float(noise), 9) for noise in rng.uniform(0.98, 1.02, 3))
        place = Context(10, 20, 30, 40, 50, "batchnorm", 60, 70, 80, 9)
        found.append(Row(Described(spec, place), f"n{number // 5}", raw))
    return tuple(found)


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    convs, others = rows(20), rows(5, "dw_conv")
    write(tmp_path, {"conv": convs, "dw_conv": others}, HERE)
    wholes = (Whole("n0", 0.01, 0.012, (("conv", 0.001, 0.0009),)), Whole("n1", 0.02, 0.021))
    write_whole(tmp_path, wholes)
    found = read(tmp_path)
    assert found.machine == HERE
    assert found.count == 25
    assert [row.layer for row in found.rows["conv"]] == [row.layer for row in convs]
    assert [row.seconds for row in found.rows["conv"]] == pytest.approx([row.seconds for row in convs], rel=1e-3)
    assert found.rows["dw_conv"][0].network == "n0"
    assert read_whole(tmp_path) == wholes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conv.csv", "dw_conv.csv", "whole.csv"]


def test_a_workbook_says_the_same(tmp_path: Path) -> None:
    write(tmp_path, {"conv": rows(20)}, HERE)
    write_excel(read(tmp_path), tmp_path / "all.xlsx")
    book = load_workbook(tmp_path / "all.xlsx")
    assert book.sheetnames == ["kinds", "conv", "about"]
    with zipfile.ZipFile(tmp_path / "all.xlsx") as parts:
        assert "xl/charts/chart1.xml" in parts.namelist()
    assert read(tmp_path / "all.xlsx").rows == read(tmp_path).rows


def biff2(lines: list[list[object]]) -> bytes:
    """The oldest .xls there is: records of numbers and labels, which xlrd still reads."""

    def record(kind: int, data: bytes) -> bytes:
        return struct.pack("<HH", kind, len(data)) + data

    parts = [record(0x0009, struct.pack("<HH", 2, 0x10))]
    for y, line in enumerate(lines):
        for x, value in enumerate(line):
            head = struct.pack("<HH3s", y, x, b"\0\0\0")
            if isinstance(value, int | float):
                parts.append(record(0x0003, head + struct.pack("<d", float(value))))
            else:
                text = str(value).encode("latin-1")
                parts.append(record(0x0004, head + bytes([len(text)]) + text))
    return b"".join([*parts, record(0x000A, b"")])


def test_an_old_xls_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"conv": rows(6)}, HERE)
    lines: list[list[object]] = [list(COLUMNS)]
    lines += [list(to_cells(row, HERE)) for row in rows(6)]
    (tmp_path / "old.xls").write_bytes(biff2(lines))
    assert read(tmp_path / "old.xls").rows == read(tmp_path).rows
    (tmp_path / "renamed.xlsx").write_bytes(biff2(lines))
    with pytest.raises(UsageError, match=r"renamed\.xlsx is not an \.xlsx"):
        read(tmp_path / "renamed.xlsx")


def spoil(folder: Path, column: str, text: str, line: int = 3) -> None:
    """Put a text into one cell of conv.csv."""
    with (folder / "conv.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    lines[line][lines[0].index(column)] = text
    with (folder / "conv.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)


@pytest.mark.parametrize(
    ("column", "text", "words"),
    [
        ("macs", "many", "line 4: macs is 'many', expected a number"),
        ("macs", "1.5", "expected a whole number"),
        ("macs", "nan", "expected a finite number"),
        ("macs", "1e300", "expected a whole number"),
        ("raw_s", "0.1;x", "raw_s is 'x'"),
        ("raw_s", "-1", "expected a time of at least 0"),
        ("in_shape", "1x0x2x2", "a dimension is below 1"),
        ("kind", "=cmd()", "unknown layer kind '=cmd()'"),
        ("device", "cpu Other", "mixes times of different devices"),
        ("variant", "x" * 5000, "a cell is longer"),
    ],
)
def test_a_wrong_cell_is_named(column: str, text: str, words: str, tmp_path: Path) -> None:
    write(tmp_path, {"conv": rows(6)}, HERE)
    spoil(tmp_path, column, text)
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def expect(words: str, path: Path = tmp_path) -> None:
        with pytest.raises(UsageError, match=words):
            read(path)

    expect("no .csv file")
    (tmp_path / "conv.csv").write_text("")
    expect("is empty")
    (tmp_path / "conv.csv").write_text("network,kind\nn0,conv\n")
    expect("the column 'backend' is missing")
    (tmp_path / "conv.csv").write_bytes(b"\xff\xfe\0" * 50)
    expect("is not UTF-8|is empty|is missing")
    (tmp_path / "conv.csv").write_text("a\n" * (1 << 20))  # a million rows
    expect("more than the limit of 400000 rows")
    (tmp_path / "conv_lat.csv").write_text("HW,kernel,stride,Cin,FLOPs,latency\n1,1,1,1,1,1\n")
    (tmp_path / "conv.csv").unlink()
    expect("the column 'Cout' is missing")
    (tmp_path / "t.ods").write_text("")
    expect("or an .xlsx or .xls file", tmp_path / "t.ods")
    expect("no file", tmp_path / "none.xlsx")
    monkeypatch.setattr("edgecloud.utils.sheets.MAX_BYTES", 10)
    (tmp_path / "large.xlsx").write_bytes(b"x" * 11)
    expect("larger than the workbook limit", tmp_path / "large.xlsx")


def test_a_workbook_with_tricks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Workbook()
    book.active.append(["a"])  # type: ignore[union-attr]
    book.save(tmp_path / "good.xlsx")
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(8)
    )
    with zipfile.ZipFile(tmp_path / "good.xlsx") as good, zipfile.ZipFile(tmp_path / "bomb.xlsx", "w") as bad:
        for entry in good.namelist():
            data = good.read(entry)
            if entry.endswith("sheet1.xml"):
                data = (bomb + "]><worksheet><sheetData>&i;</sheetData></worksheet>").encode()
            bad.writestr(entry, data)
    with pytest.raises(UsageError, match=r"cannot read .*bomb\.xlsx|contains no measured"):
        read(tmp_path / "bomb.xlsx")
    with zipfile.ZipFile(tmp_path / "huge.xlsx", "w", zipfile.ZIP_DEFLATED) as huge:
        huge.writestr("xl/a", b"\0" * 2000)
    monkeypatch.setattr("edgecloud.utils.sheets.MAX_UNPACKED_BYTES", 1999)
    with pytest.raises(UsageError, match="unpacks to more than"):
        read(tmp_path / "huge.xlsx")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published data set is not on this machine")
def test_the_published_data_set_is_read() -> None:
    found = read(PUBLISHED)
    counts = {kind: len(kept) for kind, kept in found.rows.items()}
    assert counts == {
        "avgpool": 2555, "batchnorm": 2050, "conv": 12051, "dw_conv": 1450, "linear": 3025, "maxpool": 3045,
    }  # fmt: skip
    assert found.machine is None
    first = found.rows["conv"][0]
    assert (first.layer.spec.macs, first.layer.spec.out_shape) == (451584, (1, 3, 224, 224))
    assert first.seconds == pytest.approx(0.173e-3)
