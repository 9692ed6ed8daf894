"""Graphs that are none, and the rare ends of small pure functions, each refused by name."""

import pytest

from edgecloud.models import graph_json
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.models.graph_json import MAX_LAYERS
from edgecloud.utils.errors import UsageError


def rows(count: int) -> list[dict[str, object]]:
    """A chain."""
    return [{"id": f"l{n}", "inputs": [f"l{n - 1}"] if n else [], "out_bytes": 1} for n in range(count)]


def test_a_layer_that_reads_nothing_is_no_layer() -> None:
    with pytest.raises(ValueError, match="layer c has no inputs, only the first layers may"):
        LayerGraph("g", (Layer("a", "input", (), 1), Layer("b", "k", (0,), 1), Layer("c", "k", (), 1)), (1,))


def test_several_inputs_come_first_in_a_document() -> None:
    document = [*rows(3), {"id": "late", "inputs": [], "out_bytes": 1}]
    with pytest.raises(UsageError, match="layer 'late' has no inputs, which only the first layers may"):
        graph_json.parse({"layers": document}, "g")
    inputs: list[object] = [{"id": name, "inputs": [], "out_bytes": 1} for name in ("a", "b", "unread")]
    last = {"id": "sum", "inputs": ["a", "b"], "out_bytes": 1}
    found, _ = graph_json.parse({"layers": [*inputs, last], "outputs": ["sum", "sum", "a"]}, "g")
    assert (found.inputs, found.outputs, found.crossing_at(0)) == ((0, 1, 2), (3, 3, 0), (0, 1))
    assert graph_json.parse(graph_json.to_document(found), "g")[0] == found


def test_a_graph_has_so_many_layers_and_no_more() -> None:
    with pytest.raises(UsageError, match=f"at most {MAX_LAYERS} layers"):
        graph_json.parse({"layers": rows(MAX_LAYERS + 1)}, "g")


def test_a_shape_is_a_list_of_whole_numbers() -> None:
    document = rows(3)
    document[1]["out_shape"] = [1, "x"]
    with pytest.raises(UsageError, match="out_shape must be a list of whole numbers"):
        graph_json.parse({"layers": document}, "g")
