"""Graphs as JSON documents: checked when read, written for saved profiles. Pure.

    {"layers": [{"id", "inputs": [ids], "out_bytes", ...}, ...], "outputs": [ids]}

The first layers, with no inputs of their own, are the inputs of the network. The others may come in any order that has
no cycle; outputs default to the last layer; what no output needs is dropped, but for the inputs.
"""

import math
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from typing import Any

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import printable

MAX_LAYERS = 20_000
MAX_NAME = 200
MAX_NUMBER = 1e18

Row = Mapping[str, Any]


def parse(document: Any, name: str) -> tuple[LayerGraph, list[Row]]:
    """A graph, with the row of the document that each of its layers comes from. Raises UsageError with `name` in it."""
    if not isinstance(document, dict) or not isinstance(document.get("layers"), list) or not document["layers"]:
        raise UsageError(f'{name}: a graph must be {{"layers": [{{"id", "inputs", "out_bytes", ...}}, ...]}}')
    if len(document["layers"]) > MAX_LAYERS:
        raise UsageError(f"{name}: a graph has at most {MAX_LAYERS} layers")
    rows = {_id(row, number, name): row for number, row in enumerate(document["layers"])}
    if len(rows) < len(document["layers"]):
        ids = [row["id"] for row in document["layers"]]
        twice = next(each for each in ids if ids.count(each) > 1)
        raise UsageError(f"{name}: duplicate layer id {twice!r}")
    reads = {each: _inputs(row, rows, name) for each, row in rows.items()}
    outputs = _names(document.get("outputs", list(rows)[-1:]), f"{name}: outputs", rows)
    inputs = list(takewhile(lambda each: not reads[each], rows))
    if not inputs:
        raise UsageError(f"{name}: layer {next(iter(rows))!r} must be the input, which has no inputs")
    for each in list(rows)[len(inputs) :]:
        if not reads[each]:
            raise UsageError(f"{name}: layer {each!r} has no inputs, which only the first layers may")
    order = _in_order(reads, (*inputs, *outputs), name)
    numbers = {each: number for number, each in enumerate(order)}
    layers = tuple(_layer(each, rows[each], [numbers[read] for read in reads[each]], name) for each in order)
    graph = LayerGraph(printable(name, MAX_NAME), layers, tuple(numbers[out] for out in outputs))
    return graph, [rows[each] for each in order]


def to_document(graph: LayerGraph) -> dict[str, Any]:
    """What `parse` reads."""
    layers = [
        {
            "id": layer.id,
            "kind": layer.kind,
            "inputs": [graph.layers[number].id for number in layer.inputs],
            "out_bytes": layer.out_bytes,
            "out_shape": list(layer.out_shape),
            "out_dtype": layer.out_dtype,
        }
        for layer in graph.layers
    ]
    return {"layers": layers, "outputs": [graph.layers[number].id for number in graph.outputs]}


def number_of(row: Row, field: str, where: str) -> float:
    """A field that is a number of at least 0. Raises UsageError that names the layer and the field."""
    value = row.get(field)
    if field not in row:
        raise UsageError(f"{where} has no {field}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_NUMBER:
        shown = value if isinstance(value, float) and not math.isfinite(value) else printable(repr(value), 40)
        raise UsageError(f"{where}: {field} must be a number of at least 0, not {shown}")
    return float(value)


def where_of(name: str, row: Row) -> str:
    """How an error names a layer."""
    return f"{name}: layer {row['id']!r}"


def _id(row: Any, number: int, name: str) -> str:
    identifier = row.get("id") if isinstance(row, dict) else None
    if not isinstance(identifier, str) or not 0 < len(identifier) <= MAX_NAME:
        raise UsageError(f"{name}: layer number {number} has no id of 1 to {MAX_NAME} characters")
    return identifier


def _inputs(row: Row, rows: Mapping[str, Row], name: str) -> list[str]:
    if "inputs" not in row:
        raise UsageError(f"{where_of(name, row)} has no inputs (the first layer has [])")
    return list(dict.fromkeys(_names(row["inputs"], f"{where_of(name, row)}: inputs", rows, is_needed=False)))


def _names(ids: Any, what: str, rows: Mapping[str, Row], *, is_needed: bool = True) -> list[str]:
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids) or (is_needed and not ids):
        raise UsageError(f"{what} must be a list of layer ids")
    for each in ids:
        if each not in rows:
            raise UsageError(f"{what}: unknown layer {printable(each, MAX_NAME)!r}")
    return ids


def _in_order(reads: Mapping[str, Sequence[str]], outputs: Sequence[str], name: str) -> list[str]:
    """The layers that the outputs need, each after what it reads, and otherwise in the order of the document."""
    places = {each: place for place, each in enumerate(reads)}
    needed, waiting = set(outputs), list(outputs)
    while waiting:
        fresh = set(reads[waiting.pop()]) - needed
        needed |= fresh
        waiting += fresh
    try:
        TopologicalSorter(reads).prepare()
    except CycleError as error:
        circle = " -> ".join(repr(each) for each in error.args[1][:8])
        raise UsageError(f"{name}: the layers form a cycle: {circle}") from None
    sorter = TopologicalSorter({each: inputs for each, inputs in reads.items() if each in needed})
    sorter.prepare()
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=places.__getitem__, reverse=True)
        order.append(ready.pop())
        sorter.done(order[-1])
    return order


def _layer(each: str, row: Row, inputs: Sequence[int], name: str) -> Layer:
    out_bytes = number_of(row, "out_bytes", where_of(name, row))
    if out_bytes != int(out_bytes):
        raise UsageError(f"{where_of(name, row)}: out_bytes must be a whole number, not {out_bytes!r}")
    shape = row.get("out_shape", [])
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        raise UsageError(f"{where_of(name, row)}: out_shape must be a list of whole numbers")
    kind = "input" if not inputs else str(row.get("kind", "layer"))[:MAX_NAME]
    return Layer(each, kind, tuple(inputs), int(out_bytes), tuple(shape), str(row.get("out_dtype", "float32"))[:40])
