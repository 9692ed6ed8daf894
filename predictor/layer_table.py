"""A measured network as a table, one row for each layer. Pure."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from math import prod

from edgecloud.models.graph import LayerGraph
from edgecloud.predictor.profile import Profile


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer. Times are medians over the passes in seconds, sizes are of its output."""

    index: int
    layer: str
    kind: str
    seconds: float
    fastest_s: float
    slowest_s: float
    output_shape: tuple[int, ...]
    count: int
    """Elements of the output."""
    out_bytes: int
    accumulated_s: float
    """Seconds of this layer and all before it."""


COLUMNS = tuple(field.name for field in fields(LayerRow))


def layer_table(graph: LayerGraph, profile: Profile) -> tuple[LayerRow, ...]:
    """Join a graph with its times; the input is row 0 and takes no time."""
    by_layer = list(zip(*profile.passes, strict=True))
    rows = zip(graph.layers, profile.seconds, by_layer, accumulate(profile.seconds), strict=True)
    return tuple(
        LayerRow(
            index=index,
            layer=layer.id,
            kind=layer.kind,
            seconds=seconds,
            fastest_s=min(times),
            slowest_s=max(times),
            output_shape=layer.out_shape,
            count=prod(layer.out_shape),
            out_bytes=layer.out_bytes,
            accumulated_s=accumulated_s,
        )
        for index, (layer, seconds, times, accumulated_s) in enumerate(rows)
    )


def cells(row: LayerRow) -> list[str | int | float]:
    """The row as a spreadsheet takes it: the shape as text such as 1x64x55x55."""
    return ["x".join(map(str, value)) if isinstance(value, tuple) else value for value in astuple(row)]


def to_csv(rows: Sequence[LayerRow]) -> str:
    """The table as CSV with a line of names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(cells, rows))
    return text.getvalue()
