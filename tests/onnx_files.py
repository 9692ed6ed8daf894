"""Files that others might have made: small networks in ONNX with random numbers, as exporters write them."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile_onnx import node, wholes

KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


class Drawn:
    """Weights from a seed."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)
        self.tensors: list[Any] = []

    def __call__(self, name: str, *shape: int) -> str:
        scale = max(1, math.prod(shape[1:])) ** -0.5
        array = (self._rng.standard_normal(shape) * scale).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def wholes(self, name: str, *numbers: int) -> str:
        """A constant of int64."""
        self.tensors.append(wholes(name, *numbers))
        return name


Sides = Sequence[int | str]


def model(
    nodes: Sequence[Any], drawn: Drawn, shape: Sides, outputs: Sequence[str] = ("y",), opset: int = 17, **more: Any
) -> Any:
    """A model of one input x, or of several, `inputs`: types and shapes by their names."""
    inputs = more.pop("inputs", {"x": ("float32", shape)})
    given = [helper.make_tensor_value_info(name, KINDS[dtype], sides) for name, (dtype, sides) in inputs.items()]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", given, made, drawn.tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)


def pictures(batch: int | str = "N", *, is_flattened_by_shape: bool = True) -> Any:
    """A sum over a branch, and a flattening that reads its own shape, as torch used to write it."""
    w = Drawn()
    end = (
        [
            node("Shape", ["r2"], ["s"]),
            node("Gather", ["s", w.wholes("i", 0)], ["n"]),
            node("Concat", ["n", w.wholes("rest", -1)], ["to"], axis=0),
            node("Reshape", ["r2", "to"], ["flat"]),
        ]
        if is_flattened_by_shape
        else [node("Reshape", ["r2", w.wholes("to", 1, 128)], ["flat"])]
    )
    nodes = [
        node("Conv", ["x", w("w1", 8, 3, 3, 3), w("b1", 8)], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Identity", ["p1"], ["same"]),
        node("Conv", ["same", w("w2", 8, 8, 3, 3)], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "p1"], ["a"]),
        node("Relu", ["a"], ["r2"]),
        *end,
        node("Transpose", [w("w3", 10, 128)], ["w3t"], perm=[1, 0]),
        node("MatMul", ["flat", "w3t"], ["y"]),
    ]
    return model(nodes, w, [batch, 3, 8, 8])


def words() -> Any:
    """Attention with a class token that is repeated for every input, heads, and layers in several parts."""
    w = Drawn()
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", w.wholes("zero", 0)], ["n"]),
        node("Concat", ["n", w.wholes("one", 1), w.wholes("wide", 8)], ["class_shape"], axis=0),
        node("Expand", [w("class", 1, 1, 8), "class_shape"], ["classes"]),
        node("Concat", ["classes", "x"], ["all"], axis=1),
        node("LayerNormalization", ["all", w("g", 8), w("b", 8)], ["normal"]),
        node("MatMul", ["normal", w("qkv", 8, 24)], ["mixed"]),
        node("Split", ["mixed", w.wholes("parts", 8, 8, 8)], ["q", "k", "v"], axis=2),
        *(
            each
            for name in "qkv"
            for each in (
                node("Concat", ["n", w.wholes(f"heads_{name}", 6, 2, 4)], [f"{name}_shape"], axis=0),
                node("Reshape", [name, f"{name}_shape"], [f"{name}_r"]),
                node("Transpose", [f"{name}_r"], [f"{name}_t"], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
            )
        ),
        node("MatMul", ["q_t", "k_t"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v_t"], ["seen"]),
        node("Transpose", ["seen"], ["back"], perm=[0, 2, 1, 3]),
        node("Concat", ["n", w.wholes("joined", -1, 8)], ["back_shape"], axis=0),
        node("Reshape", ["back", "back_shape"], ["merged"]),
        node("Add", ["merged", "all"], ["sum"]),
        node("Gather", ["sum", "first"], ["y"], axis=1),
        node("ReduceMean", ["shares"], ["z"], axes=[2, 3], keepdims=0),
    ]
    w.tensors.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    return model(nodes, w, ["batch", 5, 8], ["y", "z"])


def stacked() -> Any:
    """Queries, keys and values in one tensor whose second axis counts inputs, as vision transformers do."""
    w = Drawn()
    parts = [
        each
        for number, name in enumerate("qkv")
        for each in (
            node(
                "Slice",
                [
                    "turned",
                    w.wholes(f"{name}_from", number),
                    w.wholes(f"{name}_to", number + 1),
                    w.wholes(f"{name}_axis", 0),
                ],
                [f"{name}_all"],
            ),
            node("Squeeze", [f"{name}_all", w.wholes(f"{name}_zero", 0)], [name]),
        )
    ]
    nodes = [
        node("MatMul", ["x", w("qkv", 8, 24)], ["mixed"]),
        node("Reshape", ["mixed", w.wholes("five", -1, 5, 3, 2, 4)], ["five_axes"]),
        node("Transpose", ["five_axes"], ["turned"], perm=[2, 0, 3, 1, 4]),
        *parts,
        node("Transpose", ["k"], ["k_t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "k_t"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["seen"]),
        node("Transpose", ["seen"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", w.wholes("joined", -1, 5, 8)], ["merged"]),
        node("Add", ["merged", "x"], ["y"]),
    ]
    return model(nodes, w, ["N", 5, 8])


def sounds() -> Any:
    """A recurrent layer whose sequence and state are both read; inputs are joined along the second axis."""
    w = Drawn()
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", w("w", 1, 12, 6), w("r", 1, 12, 3)], ["h", "last", "cell"], hidden_size=3),
        node("Squeeze", ["h", w.wholes("one", 1)], ["q"]),
        node("ReduceMax", ["q"], ["most"], axes=[0], keepdims=0),
        node("Squeeze", ["last", w.wholes("zero", 0)], ["end"]),
        node("Sub", ["most", "end"], ["y"]),
        node("Squeeze", ["cell", "zero"], ["z"]),
    ]
    return model(nodes, w, [1, 7, 6], ["y", "z"])


def scales() -> Any:
    """Three answers of other sizes from pyramids, as detectors have, with constants in nodes."""
    w = Drawn()
    factor = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))
    nodes = [
        node("Constant", [], ["factor"], value=factor),
        node("Conv", ["x", w("w1", 4, 3, 3, 3)], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("HardSigmoid", ["a"], ["a_gate"], alpha=0.2),
        node("Mul", ["a", "a_gate"], ["a_on"]),
        node("Conv", ["a_on", w("w2", 4, 4, 3, 3)], ["b"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Clip", ["b", "low", "high"], ["b_on"]),
        node("Resize", ["b_on", "", "factor"], ["up"], mode="nearest"),
        node("Concat", ["up", "a_on"], ["c"], axis=1),
        node("Conv", ["c", w("w3", 6, 8, 1, 1)], ["small"]),
        node("Conv", ["b_on", w("w4", 6, 4, 1, 1)], ["large"]),
        node("Sigmoid", ["small"], ["y"]),
        node("Sigmoid", ["large"], ["z"]),
        node("GlobalAveragePool", ["c"], ["whole"]),
    ]
    for name, number in (("low", 0.0), ("high", 6.0)):
        w.tensors.append(numpy_helper.from_array(np.array(number, np.float32), name))
    return model(nodes, w, ["N", 3, 16, 16], ["y", "z", "whole"], opset=13)


def tokens() -> Any:
    """Token ids, a mask and a flag for each row: three inputs of other types, of which the last is only read late."""
    w = Drawn()
    w.tensors.append(numpy_helper.from_array(np.array(-1e9, np.float32), "never"))
    w.tensors.append(numpy_helper.from_array(np.array(0, np.int64), "none"))
    nodes = [
        node("Gather", [w("table", 4, 8), "ids"], ["embedded"]),
        node("MatMul", ["embedded", w("k", 8, 8)], ["keys"]),
        node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["embedded", "turned"], ["scores"]),
        node("Unsqueeze", ["mask", w.wholes("one", 1)], ["mask_wide"]),
        node("Equal", ["mask_wide", "none"], ["is_hidden"]),
        node("Where", ["is_hidden", "never", "scores"], ["masked"]),
        node("Softmax", ["masked"], ["shares"], axis=-1),
        node("MatMul", ["shares", "embedded"], ["seen"]),
        node("ReduceMax", ["seen"], ["best"], axes=[1], keepdims=0),
        node("Where", ["flag", "best", w("other", 1, 8)], ["y"]),
        node("ArgMax", ["best"], ["z"], axis=1, keepdims=1),
    ]
    inputs = {"ids": ("int64", ["N", 6]), "mask": ("int64", ["N", 6]), "flag": ("bool", ["N", 1])}
    made = model(nodes, w, [], ["y", "z"], inputs=inputs)
    made.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    return made


def rows() -> Any:
    """Three at once, always."""
    w = Drawn()
    nodes = [
        node("Gemm", ["x", w("w", 4, 5)], ["a"]),
        node("Tanh", ["a"], ["b"]),
        node("Softmax", ["b"], ["y"], axis=0),
    ]
    return model(nodes, w, [3, 4])


def passed() -> Any:
    """An answer that is the input, one that is an inner tensor that is read on, and one tensor under two names."""
    w = Drawn()
    nodes = [
        node("Identity", ["x"], ["y"]),
        node("Gemm", ["x", w("w", 4, 4)], ["inner"]),
        node("Identity", ["inner"], ["again"]),
        node("Relu", ["inner"], ["z"]),
    ]
    return model(nodes, w, ["N", 4], ["y", "inner", "again", "z"])


FILES: dict[str, Callable[[], Any]] = {
    "pictures": pictures,
    "fixed": lambda: pictures(1, is_flattened_by_shape=False),
    "words": words,
    "stacked": stacked,
    "sounds": sounds,
    "scales": scales,
    "tokens": tokens,
    "rows": rows,
    "passed": passed,
}


def write(path: Path, made: Any) -> Path:
    """A file."""
    onnx.save_model(made, str(path))
    return path
