"""Networks that mean harm, written by hand: what each is, its bytes, and a word of why it is refused."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecloud.models.onnx_graph import model_message
from edgecloud.models.protobuf import bytes_field, varint_field

SIDE = 4
HUGE = 1 << 40
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
Nodes = Sequence[onnx.NodeProto]


def graph_of(nodes: Nodes, tensors: Sequence[onnx.TensorProto] = (), outputs: Sequence[str] = ("y",)) -> Any:
    """A graph with the input x of 1 x 3 x 4 x 4."""
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(list(nodes), "g", [X], made, list(tensors))


def model(nodes: Nodes, tensors: Sequence[onnx.TensorProto] = (), outputs: Sequence[str] = ("y",), **more: Any) -> Any:
    """A model of opset 20."""
    opsets = [helper.make_opsetid("", more.pop("opset", 20)), *more.pop("opsets", ())]
    return helper.make_model(graph_of(nodes, tensors, outputs), opset_imports=opsets, ir_version=10, **more)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **more: Any) -> onnx.NodeProto:
    """One node."""
    return helper.make_node(op, list(inputs), list(outputs), **more)


def wholes(name: str, *numbers: int) -> onnx.TensorProto:
    """A constant of int64."""
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def floats(name: str, *shape: int, value: float = 1.0) -> onnx.TensorProto:
    """A constant of float32."""
    return numpy_helper.from_array(np.full(shape, value, np.float32), name)


RELU = node("Relu", ["x"])
W = floats("w", 5, 3, 3, 3)


def _lying(**fields: Any) -> Any:
    tensor: Any = floats("w", 2, 2)
    for name, value in fields.items():
        tensor.ClearField(name)
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return model([node("MatMul", ["x", "w"])], [tensor])


def _external(**where: str) -> Any:
    tensor = floats("w", 2, 2)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)
    return model([node("MatMul", ["x", "w"])], [tensor])


def _function() -> Any:
    made = helper.make_function("f", "Gate", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 20)])
    calls = node("Gate", ["x"], domain="f")
    return model([calls], functions=[made], opsets=[helper.make_opsetid("f", 1)])


def _branch(op: str) -> Any:
    inner = helper.make_graph([node("Relu", ["x"], ["z"])], "inner", [], [X])
    name = "then_branch" if op == "If" else "body"
    return model([node(op, ["x"], **{name: inner})])


def _sparse() -> Any:
    made = model([RELU])
    values, places = floats("s", 1), wholes("i", 0)
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1 << 20]))
    return made


def _raw(graph: bytes, *more: bytes) -> bytes:
    return model_message(10, 20, graph) + b"".join(more)


def _million() -> bytes:
    one = bytes_field(1, bytes_field(1, "x") + bytes_field(2, "y") + bytes_field(4, "Relu"))
    return _raw(one * 1_000_000)


def _million_initialisers() -> bytes:
    one = bytes_field(5, varint_field(1, 1) + varint_field(2, 1) + bytes_field(8, "w") + bytes_field(9, b"\0" * 4))
    return _raw(one * 1_000_000)


def _doubling(count: int, op: str = "Concat") -> Any:
    """Each node makes twice what the one before made."""
    names = ["x", *(f"t{place}" for place in range(count - 1)), "y"]
    nodes = [node(op, [a, a], [b], axis=1) for a, b in pairwise(names)]
    return model(nodes)


def _deep() -> bytes:
    """Messages in messages."""
    inside = b""
    for _ in range(20_000):
        inside = bytes_field(7, inside)
    return _raw(bytes_field(1, bytes_field(5, bytes_field(6, inside))))


def _many_axes() -> Any:
    return model([node("Reshape", ["x", "s"])], [wholes("s", *[1] * 40, 48)])


def _attribute_twice() -> Any:
    made = node("Softmax", ["x"], axis=1)
    made.attribute.append(helper.make_attribute("axis", 2))
    return model([made])


def _two_typed() -> Any:
    made = node("Softmax", ["x"], axis=1)
    made.attribute[0].f = 2.0
    return model([made])


def _output_twice() -> Any:
    return model([RELU], outputs=["y", "y"])


def _no_number(value: float) -> Any:
    return model([node("LeakyRelu", ["x"], alpha=value)])


def _strings() -> Any:
    values: Any = [b"x"]
    text = helper.make_tensor("t", TensorProto.STRING, [1], values)
    return model([node("Identity", ["t"])], [text])


def _input_of_text() -> Any:
    made = model([RELU])
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    return made


def _negative_input() -> Any:
    return model([node("Reshape", ["x", "s"])], [wholes("s", -2, 24)])


def _two_graphs() -> bytes:
    return _raw(model([RELU]).graph.SerializeToString(), bytes_field(7, model([RELU]).graph.SerializeToString()))


def _bomb(kind: str, *constants: onnx.TensorProto, inputs: Sequence[str], **attributes: Any) -> Any:
    return model([node(kind, inputs, **attributes)], list(constants))


Make = Callable[[], Any]
HOSTILE: dict[str, tuple[Make, str]] = {
    "a contributed operator": (lambda: model([node("Gelu", ["x"], domain="com.microsoft")]), "com.microsoft"),
    "an operator of another domain": (lambda: model([node("Run", ["x"], domain="evil")]), "evil"),
    "an operator that nobody knows": (lambda: model([node("Exec", ["x"])]), "not taken"),
    "a function": (_function, "functions"),
    "If": (lambda: _branch("If"), "a graph"),
    "Loop": (lambda: _branch("Loop"), "a graph"),
    "Scan": (lambda: _branch("Scan"), "a graph"),
    "SequenceMap": (lambda: _branch("SequenceMap"), "a graph"),
    "a graph in an innocent node": (lambda: _branch("Relu"), "a graph"),
    "numbers in another file": (lambda: _external(location="/etc/passwd"), "another file"),
    "numbers above the folder": (lambda: _external(location="../../secret", offset="0", length="16"), "another file"),
    "numbers at an address": (lambda: _external(location="*/_ORT_MEM_ADDR_/*", offset="4096", length="16"), "another"),
    "numbers elsewhere": (lambda: _external(), "elsewhere"),
    "a sparse tensor": (_sparse, "sparse"),
    "text": (_strings, "text"),
    "an input of text": (_input_of_text, "text"),
    "text in an attribute": (lambda: model([node("Constant", [], value_string="x")]), "value_string"),
    "fewer numbers than said": (lambda: _lying(raw_data=b"\0" * 8), "8 bytes"),
    "more numbers than said": (lambda: _lying(raw_data=b"\0" * 400), "400 bytes"),
    "a shape of terabytes": (lambda: _lying(dims=[1 << 20, 1 << 20]), "bytes"),
    "a side below 0": (lambda: _lying(dims=[-4, -1]), "below 0"),
    "a side that overflows": (lambda: _lying(dims=[1 << 62, 4]), "too long"),
    "a product that wraps to 4": (lambda: _lying(dims=[(1 << 31) - 1, (1 << 31) - 1, 4, 1]), "too long"),
    "too many axes": (lambda: _lying(dims=[1] * 40), "axes"),
    "a type of 4 bits": (lambda: _lying(data_type=TensorProto.INT4), "int4"),
    "a type that nobody knows": (lambda: _lying(data_type=99), "99"),
    "numbers said twice": (lambda: _lying(float_data=[1.0] * 4), "twice"),
    "a bomb by Expand": (lambda: _bomb("Expand", wholes("s", HUGE, 1, 1, 1), inputs=["x", "s"]), "bytes|too long"),
    "a bomb by Tile": (lambda: _bomb("Tile", wholes("r", 1 << 16, 1, 1 << 8, 1), inputs=["x", "r"]), "bytes"),
    "a bomb by Tile that overflows": (
        lambda: _bomb("Tile", wholes("r", 1 << 62, 1 << 62, 4, 4), inputs=["x", "r"]),
        "too long",
    ),
    "a bomb by Resize": (
        lambda: _bomb("Resize", wholes("s", 1, 3, 1 << 20, 1 << 20), inputs=["x", "", "", "s"]),
        "bytes",
    ),
    "a bomb by scales": (
        lambda: model(
            [node("Resize", ["x", "", "s"])], [numpy_helper.from_array(np.array([1, 1, 1e6, 1e6], np.float32), "s")]
        ),
        "bytes",
    ),
    "scales without end": (
        lambda: model(
            [node("Resize", ["x", "", "s"])], [numpy_helper.from_array(np.array([1, 1, np.inf, 1], np.float32), "s")]
        ),
        "scales",
    ),
    "a bomb by Upsample": (
        lambda: model([node("Upsample", ["x"], scales=[1.0, 1.0, 1e6, 1e6])], opset=8),
        "bytes",
    ),
    "a bomb by ConstantOfShape": (lambda: _bomb("ConstantOfShape", wholes("s", HUGE), inputs=["s"]), "bytes|too long"),
    "ConstantOfShape below 0": (lambda: _bomb("ConstantOfShape", wholes("s", -1, 4), inputs=["s"]), "below 0"),
    "a bomb by Pad": (
        lambda: _bomb("Pad", wholes("p", 0, 0, 0, 0, 0, 0, 1 << 16, 1 << 16), inputs=["x", "p"]),
        "bytes",
    ),
    "Pad below 0": (lambda: _bomb("Pad", wholes("p", 0, 0, -9, 0, 0, 0, 0, 0), inputs=["x", "p"]), "below 0"),
    "a bomb by Range": (
        lambda: _bomb(
            "Range",
            *(numpy_helper.from_array(np.array(n), c) for c, n in zip("abc", (0, HUGE, 1), strict=True)),
            inputs=["a", "b", "c"],
        ),
        "bytes|too long",
    ),
    "Range without end": (
        lambda: _bomb(
            "Range",
            *(numpy_helper.from_array(np.array(n), c) for c, n in zip("abc", (0, 9, 0), strict=True)),
            inputs=["a", "b", "c"],
        ),
        "for ever",
    ),
    "a bomb by OneHot": (
        lambda: model(
            [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("OneHot", ["i", "d", "v"])],
            [wholes("d", 1 << 28), floats("v", 2)],
        ),
        "bytes",
    ),
    "a bomb by ConvTranspose": (
        lambda: _bomb("ConvTranspose", floats("w", 3, 1, 3, 3), inputs=["x", "w"], strides=[1 << 20, 1 << 20]),
        "bytes",
    ),
    "a bomb by output_shape": (
        lambda: _bomb("ConvTranspose", floats("w", 3, 1, 3, 3), inputs=["x", "w"], output_shape=[1 << 20, 1 << 20]),
        "bytes",
    ),
    "a bomb inside a ConvTranspose": (
        lambda: model(
            [
                node("Expand", ["x", "s"], ["a"]),
                node("Slice", ["a", "from", "to", "axis"], ["b"]),
                node("ConvTranspose", ["b", "w"]),
            ],
            [
                wholes("s", 1, 3, 4, 4),
                wholes("from", 0),
                wholes("to", 3),
                wholes("axis", 2),
                floats("w", 3, 8, 1500, 1500),
            ],
        ),
        "while it runs",
    ),
    "a bomb inside an Einsum": (
        lambda: model([node("Einsum", ["a", "a", "a"], equation="i,j,k->i")], [floats("a", 1 << 10)]),
        "while it runs",
    ),
    "a bomb by EyeLike and MatMul": (
        lambda: model(
            [
                node("Expand", ["x", "s"], ["a"]),
                node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2]),
                node("MatMul", ["b", "a"]),
            ],
            [
                wholes("s", 1, 3, 4, 1 << 20),
            ],
        ),
        "do not fit|bytes",
    ),
    "a bomb by broadcasting": (
        lambda: model([node("Add", ["a", "b"])], [floats("a", 1 << 16, 1), floats("b", 1, 1 << 16)]),
        "bytes",
    ),
    "a bomb by Gather": (
        lambda: model(
            [
                node("ConstantOfShape", ["n"], ["i"], value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
                node("ConstantOfShape", ["s"], ["d"]),
                node("Gather", ["d", "i"]),
            ],
            [wholes("s", 1, 1 << 20), wholes("n", 1 << 20)],
        ),
        "bytes",
    ),
    "a bomb in 40 doublings": (lambda: _doubling(40), "bytes"),
    "many outputs that are small": (
        lambda: model([node("ConstantOfShape", ["s"], [f"y{n}"]) for n in range(300)], [wholes("s", 1 << 25)], ["y0"]),
        "more than",
    ),
    "work for days": (
        lambda: model(
            [node("ConstantOfShape", ["s"], ["a"]), node("MatMul", ["a", "a"], ["y"])], [wholes("s", 15_000, 15_000)]
        ),
        "operations",
    ),
    "a size from the input": (
        lambda: model([node("Cast", ["x"], ["s"], to=TensorProto.INT64), node("Expand", ["x", "s"])]),
        "depends on the values",
    ),
    "a reshape from the input": (
        lambda: model([node("NonZero", ["x"], ["n"]), node("Reshape", ["x", "n"])]),
        "depends on the values",
    ),
    "a million nodes": (_million, "more than 20000 nodes"),
    "a million initialisers": (_million_initialisers, "more than 20000 initialisers"),
    "messages 20,000 deep": (_deep, "a graph"),
    "a circle": (lambda: model([node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), RELU]), "circle"),
    "a node that reads itself": (lambda: model([node("Add", ["x", "y"])]), "circle"),
    "nodes out of order": (lambda: model([node("Relu", ["a"]), node("Relu", ["x"], ["a"])]), "not in order"),
    "one name made twice": (lambda: model([RELU, RELU]), "there already"),
    "a node that makes the input": (lambda: model([node("Relu", ["x"], ["x"]), RELU]), "there already"),
    "a node that makes a weight": (lambda: model([node("Relu", ["x"], ["w"])], [W], ["w"]), "there already"),
    "one node makes a name twice": (
        lambda: model([node("Split", ["x"], ["y", "y"], axis=2, num_outputs=2)]),
        "already",
    ),
    "an initialiser twice": (lambda: model([RELU], [W, W]), "twice"),
    "an output twice": (_output_twice, "one name"),
    "an output that nobody makes": (lambda: model([RELU], outputs=["z"]), "nothing makes"),
    "an attribute twice": (_attribute_twice, "twice"),
    "an attribute of two types": (_two_typed, "another type"),
    "an attribute that is not a number": (lambda: _no_number(float("nan")), "finite"),
    "an attribute that is infinite": (lambda: _no_number(float("inf")), "finite"),
    "a list with one NaN": (lambda: model([node("Constant", [], value_floats=[1.0, float("nan")])]), "finite"),
    "an attribute that is not known": (lambda: model([node("Relu", ["x"], path="/etc/passwd")]), "not known"),
    "an axis that is not there": (lambda: model([node("Concat", ["x", "x"], axis=9)]), "no axis"),
    "a convolution of no group": (lambda: model([node("Conv", ["x", "w"], group=0)], [W]), "do not fit"),
    "a convolution of no stride": (lambda: model([node("Conv", ["x", "w"], strides=[0, 1])], [W]), "too small"),
    "a convolution with pads below 0": (lambda: model([node("Conv", ["x", "w"], pads=[-1, 0, 0, 0])], [W]), "small"),
    "a kernel larger than the picture": (lambda: model([node("Conv", ["x", "w"], dilations=[9, 9])], [W]), "larger"),
    "a kernel that is not the weights'": (
        lambda: model([node("Conv", ["x", "w"], kernel_shape=[9, 9])], [W]),
        "kernel",
    ),
    "a kernel of sides below 0": (lambda: model([node("MaxPool", ["x"], kernel_shape=[-3, 3])]), "too small"),
    "a place outside of a table": (
        lambda: model([node("Gather", ["x", "i"], axis=1)], [wholes("i", 1 << 33)]),
        "outside",
    ),
    "a place far before a table": (lambda: model([node("Gather", ["x", "i"], axis=1)], [wholes("i", -9)]), "outside"),
    "a reshape to other sizes": (lambda: model([node("Reshape", ["x", "s"])], [wholes("s", 7, -1)]), "do not fit"),
    "a reshape below 0": (_negative_input, "below 0"),
    "a reshape to 41 axes": (_many_axes, "axes"),
    "a permutation that is none": (lambda: model([node("Transpose", ["x"], perm=[0, 0, 1, 1])]), "every axis"),
    "more than there are": (lambda: model([node("TopK", ["x", "k"], ["y", "z"])], [wholes("k", 1 << 40)]), "more than"),
    "parts that are more than the whole": (
        lambda: model([node("Split", ["x", "s"], ["y", "z"], axis=2)], [wholes("s", 1 << 30, 4)]),
        "parts",
    ),
    "random numbers": (lambda: model([node("RandomNormalLike", ["x"])]), "random"),
    "an old opset": (lambda: model([RELU], opset=3), "opset"),
    "an opset of tomorrow": (lambda: model([RELU], opset=99), "opset"),
    "training": (
        lambda: model([node("Dropout", ["x", "", "t"])], [numpy_helper.from_array(np.array(True), "t")]),
        "train",
    ),
    "two graphs": (_two_graphs, "twice"),
    "an unknown field": (lambda: _raw(model([RELU]).graph.SerializeToString(), varint_field(77, 1)), "unknown field"),
    "no graph": (lambda: varint_field(1, 10) + varint_field(5, 1), "no graph"),
    "nothing": (lambda: b"", "no graph"),
    "half of a model": (lambda: model([RELU]).SerializeToString()[:-9], "damaged"),
}


def written(name: str) -> bytes:
    """One of them as bytes."""
    made = HOSTILE[name][0]()
    return made if isinstance(made, bytes) else bytes(made.SerializeToString())


def hostile() -> dict[str, tuple[bytes, str]]:
    """All of them as bytes."""
    return {name: (written(name), word) for name, (_, word) in HOSTILE.items()}
