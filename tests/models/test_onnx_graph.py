"""What is refused in an ONNX graph, and what is read of any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.models import onnx_graph, protobuf
from edgecloud.models.onnx_graph import Value
from edgecloud.models.protobuf import WireError, bytes_field, varint_field


def node(op: str, inputs: list[str], outputs: list[str], *more: bytes) -> bytes:
    names = [*(bytes_field(1, name) for name in inputs), *(bytes_field(2, name) for name in outputs)]
    return bytes_field(1, b"".join([*names, bytes_field(4, op), *more]))


def tensor(name: str, raw: bytes = b"\0\0\0\0", *more: bytes) -> bytes:
    return b"".join([varint_field(1, 1), varint_field(2, 1), bytes_field(8, name), bytes_field(9, raw), *more])


def model(*graph: bytes) -> memoryview:
    return memoryview(onnx_graph.model_message(10, 20, b"".join(graph)))


CHAIN = (
    node("Relu", ["x"], ["a"]),
    bytes_field(5, tensor("one")),
    bytes_field(5, onnx_graph.weight_message("w", "float32", (2, 3))),
    node("Add", ["a", "one"], ["b"]),
    node("MatMul", ["b", "w"], ["c"]),
)


def value(name: str) -> Value:
    return Value(name, "float32", (1, 2), is_batched=True)


def test_a_segment_is_what_its_outputs_need_up_to_its_inputs() -> None:
    graph = onnx_graph.parse(model(*CHAIN))
    head, tail = (onnx_graph.take(graph, [value(i)], [value(o)]) for i, o in (("x", "b"), ("b", "c")))
    assert (head.nodes, head.weights, tail.nodes, tail.weights) == (2, (), 1, ("w",))
    again = onnx_graph.parse(memoryview(head.model))
    assert [each.op for each in again.nodes] == ["Relu", "Add"]
    assert set(again.constants) == {"one"}
    with pytest.raises(WireError, match="needs 'x', which nothing makes"):
        onnx_graph.take(graph, [value("c")], [value("b")])


def test_a_tensor_that_is_given_is_not_made_too() -> None:
    split = onnx_graph.parse(model(node("Split", ["x"], ["left", "right"]), node("Add", ["left", "right"], ["sum"])))
    part = onnx_graph.take(split, [value("x"), value("left")], [value("sum")])
    made = onnx_graph.parse(memoryview(part.model)).made_by
    assert "left" not in made
    assert "right" in made


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ([node("If", ["x"], ["a"], bytes_field(5, bytes_field(1, "then") + bytes_field(6, b"")))], "graph of its own"),
        ([node("Loop", ["x"], ["a"], bytes_field(5, bytes_field(11, b"")))], "graph of its own"),
        ([node("Gelu", ["x"], ["a"], bytes_field(7, "com.microsoft"))], "operators of 'com.microsoft'"),
        ([bytes_field(5, tensor("w", b"", bytes_field(13, bytes_field(1, "location"))))], "in another file"),
        (
            [node("Constant", [], ["a"], bytes_field(5, bytes_field(5, tensor("v", b"", varint_field(14, 1)))))],
            "numbers from another file",
        ),
        ([bytes_field(15, b"")], "sparse"),
        ([bytes_field(5, tensor("w")), bytes_field(5, tensor("w"))], "twice"),
        ([node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["a"])], "makes 'a' twice"),
        ([node("Relu", ["b"], ["a"]), node("Relu", ["x"], ["b"])], "not in order"),
        ([node("Relu", ["a"], ["a"])], "not in order"),
        ([bytes_field(5, varint_field(1, 1 << 62) + bytes_field(8, "w"))], "too large"),
        ([bytes_field(5, b"".join([varint_field(1, 1)] * 40))], "too large"),
    ],
)
def test_what_nobody_needs_is_refused(graph: list[bytes], expected: str) -> None:
    with pytest.raises(WireError, match=expected):
        onnx_graph.parse(model(*graph))


def test_functions_other_domains_and_no_graph_are_refused() -> None:
    good = bytes(model(*CHAIN))
    foreign = bytes_field(8, bytes_field(1, "com.microsoft") + varint_field(2, 1))
    for raw, expected in [
        (good + bytes_field(25, b""), "functions"),
        (good + foreign, r"operators of 'com\.microsoft'"),
        (good + bytes_field(7, b""), "two graphs"),
        (b"", "no ONNX graph"),
    ]:
        with pytest.raises(WireError, match=expected):
            onnx_graph.parse(memoryview(raw))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        parts = list(protobuf.fields(memoryview(raw)))
    except WireError:
        return
    assert sum(len(value) for _, value in parts if not isinstance(value, int)) <= len(raw)


@given(st.data())
def test_a_damaged_model_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(model(*CHAIN))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        graph = onnx_graph.parse(memoryview(bytes(raw)))
        onnx_graph.take(graph, [value("x")], [value("c")])
    except WireError:
        return
    assert graph.nodes


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 1 << 20), st.binary(max_size=300))
def test_what_is_written_is_read(whole: int, field: int, raw: bytes) -> None:
    message = memoryview(protobuf.varint_field(field, whole) + protobuf.bytes_field(field, raw))
    assert list(protobuf.fields(message)) == [(field, whole), (field, memoryview(raw))]
