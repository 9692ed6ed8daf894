"""Tables as spreadsheets write them: tasks files and data sets, in every dialect, with titles, blanks and workbooks."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from edgecloud.predictor.dataset import read as read_dataset
from edgecloud.tasks.tasks import RejectedLine, Task, read_file
from edgecloud.utils.errors import UsageError
from edgecloud.utils.tables import table_of

NAMES = ("model", "input", "priority", "deadline_ms")
INPUTS = st.sampled_from(["", "one.png", "a b.png", "text:Ada left , London .", 'say "one".png', "数字.png"])
ROWS = st.lists(
    st.tuples(st.sampled_from(["le_net", "alex_net"]), INPUTS, st.sampled_from(["", "1", "-2"]), st.just("")),
    max_size=4,
)


def expected(rows: list[tuple[str, str, str, str]]) -> list[tuple[str, str, int]]:
    return [(model, source, int(priority or 0)) for model, source, priority, _ in rows]


@settings(max_examples=100, deadline=None)
@given(
    rows=ROWS.filter(len),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030", "gbk", "utf-32"]),
    end=st.sampled_from(["\n", "\r\n"]),
    says_separator=st.booleans(),
    title=st.sampled_from([None, "Tasks of Monday, 2026", "任务清单"]),
    blank=st.integers(0, 3),
    nameless=st.integers(0, 3),
    capitals=st.booleans(),
)
def test_a_table_of_tasks_is_read_in_every_dialect(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str, str]],
    separator: str,
    encoding: str,
    end: str,
    says_separator: bool,
    title: str | None,
    blank: int,
    nameless: int,
    capitals: bool,
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    if says_separator:
        text.write(f"sep={separator}{end}")
    if title is not None:
        writer.writerow([title, "", "", ""])
    writer.writerow([*(f" {name.upper()}" if capitals else name for name in NAMES), *[""] * nameless])
    for row in rows:
        writer.writerow([*row, *[""] * nameless])
        for _ in range(blank):
            writer.writerow([""] * 4)
    path = tmp_path_factory.getbasetemp() / "drawn.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    tasks, problems = read_file(path)
    assert problems == []
    assert [(task.model, task.input, task.priority) for task in tasks] == expected(rows)
    first = 2 + says_separator + (title is not None)
    assert tasks[0].id == first  # a task is its line in the file


@pytest.mark.parametrize(
    ("text", "tasks", "problems"),
    [
        ("model,input,priority,deadline_ms\nle_net,,1,\n,,,\n,,,\n\n\n", [2], []),
        ("model,input,,\nle_net,,,\n", [2], []),
        ("model,input\nle_net,,,,more\nle_net,\n", [3], [2]),
        ("model,deadline (ms)\nle_net,1500\n", [2], []),
        ("notes\nof,two lines\nmodel,input\nle_net,\n", [4], []),
        ("model\nle_net\n", [2], []),
    ],
)
def test_what_is_blank_is_skipped_and_what_is_wrong_told_by_its_line(
    text: str, tasks: list[int], problems: list[int], tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    found, wrong = read_file(tmp_path / "t.csv")
    assert ([task.id for task in found], [problem.line for problem in wrong]) == (tasks, problems)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"model,input,model\nle_net,,mnist\n", "duplicate columns 'model'"),
        ("t.csv", b"Model,input,model \nle_net,,mnist\n", "duplicate columns 'model'"),
        ("t.csv", b"PK\x03\x04", "is not UTF-8"),
        ("t.csv", b"\xff\xfe\x00", "is not UTF-8"),
        ("t.csv", b"model,input\nle_net,\xff\xff.png\n", "is not UTF-8"),
        ("t.csv", b"<html>", "an HTML page"),
        ("t.csv", b"network,input\nle_net,\n", "expected a header with the columns model, input"),
        ("t.jsonl", b"\xff\xfe\x00", "is not UTF-8"),
        ("t.xlsx", b"model,input\n", "is not an .xlsx"),
    ],
)
def test_what_is_no_table_of_tasks_is_told_in_one_line(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=told) as caught:
        read_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def workbook(path: Path, **sheets: list[list[object]]) -> Path:
    book = Workbook()
    book.remove(book.worksheets[0])
    for title, rows in sheets.items():
        page = book.create_sheet(title)
        for row in rows:
            page.append(row)
    book.save(path)
    return path


def test_a_workbook_is_a_tasks_file(tmp_path: Path) -> None:
    rows: list[list[object]] = [["Monday"], [], ["Model", "input", "priority", "deadline_ms"]]
    rows += [["le_net", None, 1, 1500.5], [None, None], ["alex_net", "a.png", None, None], ["le_net", None, 1.5]]
    path = workbook(tmp_path / "t.xlsx", about=[["who", "when"], ["me", 2026]], tasks=rows)
    tasks, problems = read_file(path)
    assert tasks == [Task(4, "le_net", "", 1, 1.5005), Task(6, "alex_net", "a.png")]
    assert problems == [RejectedLine(7, "priority '1.5' is not a whole number up to 1000000")]
    path.rename(tmp_path / "t.csv")
    with pytest.raises(UsageError, match=r"an Excel workbook: rename it to end in \.xlsx"):
        read_file(tmp_path / "t.csv")


def test_a_workbook_with_two_sheets_of_tasks_or_none_is_refused(tmp_path: Path) -> None:
    rows: list[list[object]] = [["model"], ["le_net"]]
    with pytest.raises(UsageError, match="two sheets, 'a' and 'b'"):
        read_file(workbook(tmp_path / "two.xlsx", a=rows, b=rows))
    with pytest.raises(UsageError, match="sheet 'a': expected a header with the columns"):
        read_file(workbook(tmp_path / "none.xlsx", a=[["network"], ["le_net"]]))


# --- data sets


LINEAR: list[list[object]] = [["in_features", "out_features", "latency"], [64, 10, 0.25], [128, 10, 0.5]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk"])
def test_a_data_set_is_read_in_every_dialect(separator: str, encoding: str, tmp_path: Path) -> None:
    head = [" In_Features ", "out_features", "Latency (ms)", ""]
    lines = [["测量"], head, *[[*map(str, row), ""] for row in LINEAR[1:]], ["", "", "", ""]]
    text = "\r\n".join(separator.join(cells) for cells in lines)
    (tmp_path / "linear_lat.csv").write_bytes(text.encode(encoding))
    found = read_dataset(tmp_path)
    assert [row.seconds for row in found.rows["linear"]] == pytest.approx([0.25e-3, 0.5e-3])


def test_a_title_above_the_columns_of_a_workbook_is_skipped(tmp_path: Path) -> None:
    path = workbook(tmp_path / "d.xlsx", linear=[["Linear layers, measured 2026", None, None], [], *LINEAR])
    assert read_dataset(path).count == 2
    path.rename(tmp_path / "D.XLSX")
    assert read_dataset(tmp_path / "D.XLSX").count == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("in_features,out_features,latency,latency\n64,10,1,2\n", "duplicate columns 'latency'"),
        ("in_features,out_features,latency (s)\n64,10,1\n", "'latency \\(s\\)' must have the unit ms"),
        (
            "in_features;out_features;latency\n64;10;0,25\n",
            "latency is '0,25', expected a number, with a decimal point",
        ),
        ("in_features,out_features,latency\n64,10\n", "line 2: latency is '', expected a number"),
        ("in_features,latency\n64,10\n", "the column 'out_features' is missing"),
    ],
)
def test_what_is_wrong_in_a_data_set_is_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "linear_lat.csv").write_text(text)
    with pytest.raises(UsageError, match=told):
        read_dataset(tmp_path)


def test_a_short_row_of_our_own_format_is_told(tmp_path: Path) -> None:
    from edgecloud.predictor.dataset import COLUMNS

    (tmp_path / "conv.csv").write_text(",".join(COLUMNS) + "\nn0,conv\n")
    with pytest.raises(UsageError, match="line 2: raw_s is ''"):
        read_dataset(tmp_path)


def test_no_lines_are_an_empty_table() -> None:
    assert table_of("nothing", [], NAMES).rows == ()


def test_an_input_may_lie_beside_the_table_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "t.csv").write_text(f"model,input\nle_net,one.png\nle_net,two.png\nsenna_pos,text:{'x' * 900}\n")
    for path in (tmp_path / "one.png", tmp_path / "two.png", elsewhere / "two.png"):
        path.write_bytes(b"")
    monkeypatch.chdir(elsewhere)
    tasks, problems = read_file(tmp_path / "t.csv")
    assert not problems
    assert [task.input for task in tasks] == [str(tmp_path / "one.png"), "two.png", "text:" + "x" * 900]
