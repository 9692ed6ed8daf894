"""Measured layers as rows, in a directory of CSV files, one per kind, or in a workbook.

A row keeps every raw time. It also says where it was measured, so that nothing mixes the times of two devices, and
which network it was part of, so that no layer is tested with what a neighbour of it taught.

The published data sets of Tjyy-1223/Neurosurgeon (`conv_lat.csv` and its like) are read too; see `_PUBLISHED`.
"""

import csv
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edgecloud.models.specs import JOINED_KINDS, KINDS, LayerSpec
from edgecloud.predictor.features import Context, Described
from edgecloud.predictor.profile import Machine as Machine
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced
from edgecloud.utils.sheets import read_workbook
from edgecloud.utils.tables import Lines, Table, csv_lines, read_text, table_of

MAX_ROWS = 400_000
MAX_FILE_BYTES = 256 << 20
NOT_ROWS = ("kinds", "about")  # sheets of our own workbooks
TYPICAL = 0.5  # the quantile that stands for a layer: times are relative to the machine's speed, and off either way


@dataclass(frozen=True)
class Row:
    """One layer of one measured network."""

    layer: Described
    network: str
    raw_s: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median of the raw times."""
        return float(np.quantile(self.raw_s, TYPICAL))


@dataclass(frozen=True)
class Dataset:
    """Rows by kind. `machine` is None for data of unknown origin, which can be compared but not used."""

    rows: dict[str, tuple[Row, ...]]
    machine: Machine | None
    source: str

    @property
    def count(self) -> int:
        """Rows of all kinds."""
        return sum(map(len, self.rows.values()))


# --- one row as cells


_SPEC = tuple(field.name for field in fields(LayerSpec))
_CONTEXT = tuple(field.name for field in fields(Context))
_MACHINE = tuple(field.name for field in fields(Machine))
COLUMNS = ("network", *_SPEC, *_CONTEXT, "seconds", "raw_s", *_MACHINE)
_TUPLES = ("in_shape", "out_shape", "kernel", "stride")
_TEXTS = ("kind", "variant", "before_kind", "network", "device", "torch", "backend")


def to_cells(row: Row, machine: Machine) -> list[str | int | float]:
    """A row in the order of COLUMNS: shapes as 1x64x55x55, raw times with semicolons."""
    values: dict[str, Any] = {name: getattr(row.layer.spec, name) for name in _SPEC}
    values |= {name: getattr(row.layer.context, name) for name in _CONTEXT} | vars(machine)
    values |= {"network": row.network, "seconds": round(row.seconds, 9)}
    values |= {name: "x".join(map(str, values[name])) for name in _TUPLES}
    values["is_in_place"] = int(values["is_in_place"])
    values["raw_s"] = ";".join(f"{seconds:.4g}" for seconds in row.raw_s)
    return [values[name] for name in COLUMNS]


def write(folder: Path, rows: Mapping[str, Sequence[Row]], machine: Machine) -> None:
    """One CSV for each kind, each written under a temporary name and renamed. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, kind_rows in rows.items():
        with replaced(folder / f"{kind}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(to_cells(row, machine) for row in kind_rows)


# --- reading


Cells = dict[str, str]


def read(path: Path) -> Dataset:
    """Read a folder of .csv files, or an .xlsx or .xls workbook with a sheet for each kind.

    Raises UsageError for what is missing, damaged, too large, or of two devices.
    """
    tables = _read_folder(path) if path.is_dir() else read_workbook(path, MAX_ROWS)
    rows: dict[str, list[Row]] = {}
    machines: set[Machine | None] = set()
    for name, lines in tables.items():
        if name in NOT_ROWS:
            continue
        table = table_of(f"{path} {name}", lines, _columns_of(name))
        parse = _format_of(name, table, path)
        for number, cells in table.rows:
            row, machine = parse(cells, f"{path} {name}, line {number}")
            rows.setdefault(row.layer.spec.kind, []).append(row)
            machines.add(machine)
    if not rows:
        raise UsageError(f"{path} contains no measured layers: run deployment.py profile")
    if len(machines) > 1:
        named = " and ".join(sorted(str(machine) for machine in machines)[:2])
        raise UsageError(f"{path} mixes times of different devices: {named}")
    return Dataset({kind: tuple(rows[kind]) for kind in sorted(rows)}, machines.pop(), str(path))


def _read_folder(folder: Path) -> dict[str, Lines]:
    tables: dict[str, Lines] = {}
    left = MAX_ROWS
    for path in sorted(folder.glob("*.csv")):
        if path.name == WHOLE:
            continue
        tables[path.stem] = read_csv(path, left, _columns_of(path.stem))
        left -= len(tables[path.stem])
    if not tables:
        raise UsageError(f"no .csv file in {folder}")
    return tables


def read_csv(path: Path, limit: int, columns: Collection[str]) -> Lines:
    """The lines of a CSV file with such columns. Raises UsageError for one that is none or too long."""
    lines = csv_lines(path, read_text(path, MAX_FILE_BYTES), columns, limit)
    if len(lines) < 2:
        raise UsageError(f"{path} is empty: expected a header and rows of values")
    return lines


def _columns_of(name: str) -> set[str]:
    """Columns that a table of this name may have: our own, and those of the published format."""
    published = _PUBLISHED.get(name.removesuffix("_lat"))
    return {*COLUMNS, *(published.columns if published is not None else ()), "latency"}


_Parse = Callable[[Cells, str], tuple[Row, Machine | None]]


def _format_of(name: str, table: Table, path: Path) -> _Parse:
    head = set(table.columns)
    published = _PUBLISHED.get(name.removesuffix("_lat"))
    required: set[str] = set(COLUMNS)
    parse: _Parse = _parse_own
    if published is not None and "latency" in head and "raw_s" not in head:
        required = {*published.columns, "latency"}
        parse = published.parse
    if missing := sorted(required - head):
        raise UsageError(f"{path} {name}: the column {missing[0]!r} is missing")
    return parse


def _parse_own(cells: Cells, where: str) -> tuple[Row, Machine]:
    def value(name: str) -> Any:
        text = cells.get(name, "")
        if name in _TEXTS:
            return text
        if name in _TUPLES:
            return tuple(_whole(part, name, where) for part in text.split("x"))
        return _whole(text, name, where)

    raw = tuple(_positive(part, "raw_s", where) for part in cells.get("raw_s", "").split(";"))
    spec = LayerSpec(**{name: value(name) for name in _SPEC})
    context = Context(**{name: value(name) for name in _CONTEXT})
    machine = Machine(**{name: value(name) for name in _MACHINE})
    if spec.kind not in (*KINDS, *JOINED_KINDS):
        raise UsageError(f"{where}: unknown layer kind {spec.kind[:40]!r}")
    return Row(Described(_checked(spec, where), context), cells.get("network", ""), raw), machine


def _checked(spec: LayerSpec, where: str) -> LayerSpec:
    if min(*spec.in_shape, *spec.out_shape, *spec.kernel, *spec.stride, spec.groups) < 1:
        raise UsageError(f"{where}: a dimension is below 1")
    return spec


def _whole(text: str, name: str, where: str) -> int:
    number = _number(text, name, where)
    if not number.is_integer() or not 0 <= number <= 1e15:
        raise UsageError(f"{where}: {name} is {text[:40]!r}, expected a whole number")
    return int(number)


def _positive(text: str, name: str, where: str) -> float:
    number = _number(text, name, where)
    if number < 0:
        raise UsageError(f"{where}: {name} is {text[:40]!r}, expected a time of at least 0")
    return max(number, 1e-9)


def _number(text: str, name: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        cure = ", with a decimal point" if re.fullmatch(r"\s*-?[0-9]+,[0-9]+\s*", text) else ""
        raise UsageError(f"{where}: {name} is {text[:40]!r}, expected a number{cure}") from None
    if not math.isfinite(number):
        raise UsageError(f"{where}: {name} is {text[:40]!r}, expected a finite number")
    return number


# --- the published format: one CSV for each kind, hyper-parameters of single layers and milliseconds


@dataclass(frozen=True)
class _Published:
    columns: tuple[str, ...]
    describe: Callable[[dict[str, float]], LayerSpec]

    def parse(self, cells: Cells, where: str) -> tuple[Row, None]:
        numbers = {name: self._value(cells, name, where) for name in self.columns}
        seconds = _positive(cells.get("latency", ""), "latency", where) / 1e3
        try:
            spec = self.describe(numbers)
        except ZeroDivisionError:
            raise UsageError(f"{where}: a size is 0") from None
        return Row(Described(_checked(spec, where), Context()), where, (seconds,)), None  # each row by itself

    @staticmethod
    def _value(cells: Cells, name: str, where: str) -> float:
        read = _positive if name == "FLOPs" else _whole  # their operations are not always whole
        return read(cells.get(name, ""), name, where)


def _picture(channels: int, side: int) -> tuple[int, ...]:
    return (1, channels, side, side)


def _spec(
    kind: str,
    variant: str,
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    macs: int,
    weights: int = 0,
    **more: Any,
) -> LayerSpec:
    return LayerSpec(
        kind,
        variant,
        in_shape,
        out_shape,
        1,
        macs,
        4 * math.prod(in_shape),
        4 * math.prod(out_shape),
        4 * weights,
        **more,
    )


def _published_conv(n: dict[str, float], *, depthwise: bool = False) -> LayerSpec:
    """The padding is not in the file: the operations fit one that keeps the side where the stride is 1.

    Those of the depthwise file count a 1x1 convolution behind it.
    """
    cin, kernel, stride = int(n["Cin"]), int(n["kernel"]), int(n["stride"])
    cout = int(n.get("Cout", cin))
    weights = cin * (kernel**2 + cin) if depthwise else kernel**2 * cin * cout
    out_shape = _picture(cout, -(-int(n["HW"]) // stride))
    more: dict[str, Any] = {"kernel": (kernel, kernel), "stride": (stride, stride), "groups": cin if depthwise else 1}
    kind = "dw_conv" if depthwise else "conv"
    return _spec(kind, "conv2d", _picture(cin, int(n["HW"])), out_shape, round(n["FLOPs"] / 2), weights, **more)


def _published_pool(m: dict[str, float]) -> LayerSpec:
    n = {name: int(value) for name, value in m.items()}
    side = max(1, (n["HW"] - n["kernel"]) // n["stride"] + 1)
    square: dict[str, Any] = {"kernel": (n["kernel"], n["kernel"]), "stride": (n["stride"], n["stride"])}
    macs = n["Cin"] * side**2 * n["kernel"] ** 2
    return _spec("maxpool", "maxpool2d", _picture(n["Cin"], n["HW"]), _picture(n["Cin"], side), macs, **square)


def _published_average(m: dict[str, float]) -> LayerSpec:
    n = {name: int(value) for name, value in m.items()}
    step = -(-n["HW"] // n["output"])
    out_shape, macs = _picture(n["Cin"], n["output"]), n["Cin"] * n["HW"] ** 2
    window: dict[str, Any] = {"kernel": (step, step), "stride": (step, step)}
    return _spec("avgpool", "adaptiveavgpool2d", _picture(n["Cin"], n["HW"]), out_shape, macs, **window)


def _published_linear(m: dict[str, float]) -> LayerSpec:
    n = {name: int(value) for name, value in m.items()}
    weights = n["in_features"] * n["out_features"]
    return _spec("linear", "linear", (1, n["in_features"]), (1, n["out_features"]), weights, weights)


def _published_norm(m: dict[str, float]) -> LayerSpec:
    n = {name: int(value) for name, value in m.items()}
    shape = _picture(n["Cin"], n["HW"])
    return _spec("batchnorm", "batchnorm2d", shape, shape, math.prod(shape), 4 * n["Cin"])


_PUBLISHED = {
    "conv": _Published(("HW", "kernel", "stride", "Cin", "Cout", "FLOPs"), _published_conv),
    "dw_conv": _Published(("HW", "kernel", "stride", "Cin", "FLOPs"), lambda n: _published_conv(n, depthwise=True)),
    "linear": _Published(("in_features", "out_features"), _published_linear),
    "maxpool": _Published(("HW", "kernel", "stride", "Cin"), _published_pool),
    "avgpool": _Published(("HW", "output", "Cin"), _published_average),
    "batchnorm": _Published(("HW", "Cin"), _published_norm),
}


# --- whole passes, beside the layers: how a sum of layers and a network differ


WHOLE = "whole.csv"


@dataclass(frozen=True)
class Whole:
    """One network measured as a whole: the sum of its layers in one pass, and the same after a rest.

    `alone` has, for some of its layers, the kind, seconds in place, and seconds of the layer run by itself again and
    again.
    """

    network: str
    pass_s: float
    rested_s: float
    alone: tuple[tuple[str, float, float], ...] = ()


def write_whole(folder: Path, rows: Iterable[Whole]) -> None:
    """Beside the kinds' files. Raises OSError."""
    with replaced(folder / WHOLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("network", "pass_s", "rested_s", "alone"))
        for row in rows:
            alone = ";".join(f"{kind}:{placed:.6g}:{alone:.6g}" for kind, placed, alone in row.alone)
            writer.writerow((row.network, f"{row.pass_s:.6g}", f"{row.rested_s:.6g}", alone))


def read_whole(folder: Path) -> tuple[Whole, ...]:
    """What `write_whole` wrote; nothing where there is no such file, as in a workbook or a published data set.

    Raises UsageError for a file that is damaged.
    """
    path = folder / WHOLE
    if not path.is_file():
        return ()
    (_, head), *lines = read_csv(path, MAX_ROWS, ("network", "pass_s", "rested_s", "alone"))
    if head != ["network", "pass_s", "rested_s", "alone"]:
        raise UsageError(f"{path} must have the columns network, pass_s, rested_s, alone")
    rows = []
    for number, line in lines:
        where = f"{path}, line {number}"
        if len(line) != len(head):
            raise UsageError(f"{where}: expected {len(head)} values")
        alone = tuple(_alone(part, where) for part in line[3].split(";") if part)
        rows.append(Whole(line[0], _positive(line[1], "pass_s", where), _positive(line[2], "rested_s", where), alone))
    return tuple(rows)


def _alone(text: str, where: str) -> tuple[str, float, float]:
    parts = text.split(":")
    if len(parts) != 3:
        raise UsageError(f"{where}: {text[:40]!r} is not kind:seconds:seconds")
    return parts[0], _positive(parts[1], "alone", where), _positive(parts[2], "alone", where)
