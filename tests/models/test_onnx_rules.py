"""What ONNX model is refused before a runtime sees it, and what is known of one that passes."""

import os
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgecloud.models import onnx_model, onnx_rules
from edgecloud.models.onnx_rules import Info, Limits, OnnxError
from tests import hostile_onnx
from tests.conftest import many
from tests.fuzz import onnx_models
from tests.hostile_onnx import HOSTILE, floats, node, wholes

X = {"x": Info("float32", (1, 3, 4, 4))}
LIMITS = Limits()


def test_every_network_that_means_harm_is_refused_in_one_line_that_says_why() -> None:
    found = hostile_onnx.hostile()
    assert len(found) >= 40
    for name, (raw, word) in found.items():
        began = time.monotonic()
        with pytest.raises(OnnxError) as caught:
            onnx_rules.check(memoryview(raw), X, LIMITS)
        assert re.search(word, str(caught.value)), (name, str(caught.value))
        assert "\n" not in str(caught.value), name
        assert len(str(caught.value)) < 400, name
        assert time.monotonic() - began < 10, name


def test_they_are_refused_where_python_leaves_assertions_out() -> None:
    code = (
        "from tests import hostile_onnx as h\nfrom edgecloud.models import onnx_rules as r\n"
        "x = {'x': r.Info('float32', (1, 3, 4, 4))}\npassed = []\n"
        "for name, (raw, _) in h.hostile().items():\n"
        "    try:\n        r.check(memoryview(raw), x)\n        passed.append(name)\n"
        "    except r.OnnxError:\n        pass\n"
        "print(len(h.HOSTILE), passed)"
    )
    root = Path(onnx_rules.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-O", "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == f"{len(HOSTILE)} []", done.stderr


def model(
    nodes: list[Any], tensors: list[Any], inputs: Mapping[str, tuple[str, tuple[int, ...]]], outs: list[str]
) -> Any:
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    given = [helper.make_tensor_value_info(name, kinds[dtype], shape) for name, (dtype, shape) in inputs.items()]
    made = [helper.make_empty_tensor_value_info(name) for name in outs]
    graph = helper.make_graph(nodes, "g", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def scales(*numbers: float) -> Any:
    return numpy_helper.from_array(np.array(numbers, np.float32), "s")


def conv(*shape: int, **more: Any) -> tuple[Any, list[Any]]:
    return node("Conv", ["x", "w"], **more), [floats("w", *shape)]


Inputs = dict[str, tuple[str, tuple[int, ...]]]
PICTURE: Inputs = {"x": ("float32", (2, 6, 9, 11))}
ROWS: Inputs = {"x": ("float32", (5, 2, 7))}
AGREEING: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    "conv": (*conv(4, 6, 3, 3, pads=[1, 0, 1, 2], strides=[2, 3]), PICTURE),
    "conv of groups": (*conv(6, 1, 3, 3, group=6, dilations=[2, 1]), PICTURE),
    "conv that pads itself": (*conv(4, 6, 4, 3, auto_pad="SAME_UPPER", strides=[2, 2]), PICTURE),
    "conv without pads": (*conv(4, 6, 4, 3, auto_pad="VALID"), PICTURE),
    "transposed conv": (
        node("ConvTranspose", ["x", "w"], strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0]),
        [floats("w", 6, 2, 3, 3)],
        PICTURE,
    ),
    "transposed conv of groups": (node("ConvTranspose", ["x", "w"], group=3), [floats("w", 6, 2, 2, 2)], PICTURE),
    "max pool": (node("MaxPool", ["x"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]), [], PICTURE),
    "max pool that rounds up": (node("MaxPool", ["x"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), [], PICTURE),
    "max pool with places": (node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2]), [], PICTURE),
    "average pool": (
        node("AveragePool", ["x"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1]),
        [],
        PICTURE,
    ),
    "resize by scales": (node("Resize", ["x", "", "s"], mode="linear"), [scales(1, 1, 1.7, 0.4)], PICTURE),
    "resize to sizes": (node("Resize", ["x", "", "", "s"]), [wholes("s", 2, 6, 20, 3)], PICTURE),
    "resize that keeps the ratio": (
        node("Resize", ["x", "", "", "s"], axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
        [wholes("s", 20, 30)],
        PICTURE,
    ),
    "pad": (node("Pad", ["x", "p"]), [wholes("p", 0, 0, 1, 2, 0, 0, 3, -1)], PICTURE),
    "pad by reflection": (node("Pad", ["x", "p"], mode="reflect"), [wholes("p", 0, 0, 1, 2, 0, 0, 3, 4)], PICTURE),
    "slice backwards": (
        node("Slice", ["x", "a", "b", "c", "d"]),
        [wholes("a", -1, 1), wholes("b", -100, 100), wholes("c", 2, 3), wholes("d", -2, 3)],
        PICTURE,
    ),
    "split unevenly": (node("Split", ["x"], ["y", "z"], axis=3, num_outputs=2), [], PICTURE),
    "split": (node("Split", ["x", "s"], ["y", "z"], axis=1), [wholes("s", 2, 4)], PICTURE),
    "reshape": (node("Reshape", ["x", "s"]), [wholes("s", 0, -1, 11)], PICTURE),
    "flatten": (node("Flatten", ["x"], axis=-1), [], PICTURE),
    "transpose": (node("Transpose", ["x"], perm=[3, 0, 2, 1]), [], PICTURE),
    "squeeze": (node("Squeeze", ["x"]), [], {"x": ("float32", (1, 3, 1))}),
    "unsqueeze": (node("Unsqueeze", ["x", "a"]), [wholes("a", -1, 0)], PICTURE),
    "reduce": (node("ReduceMean", ["x", "a"], keepdims=0), [wholes("a", -1, 1)], PICTURE),
    "reduce all": (node("ReduceSum", ["x"]), [], PICTURE),
    "argmax": (node("ArgMax", ["x"], axis=2, keepdims=0), [], PICTURE),
    "top k": (node("TopK", ["x", "k"], ["y", "i"], axis=2), [wholes("k", 3)], PICTURE),
    "gather": (node("Gather", ["x", "i"], axis=1), [wholes("i", 1, -1, 0)], PICTURE),
    "expand": (node("Expand", ["x", "s"]), [wholes("s", 3, 1, 1, 1, 1)], PICTURE),
    "tile": (node("Tile", ["x", "r"]), [wholes("r", 1, 2, 3, 1)], PICTURE),
    "broadcast": (node("Add", ["x", "w"]), [floats("w", 3, 2, 1, 1, 11)], PICTURE),
    "matmul": (node("MatMul", ["x", "w"]), [floats("w", 4, 1, 7, 3)], ROWS),
    "matmul with a vector": (node("MatMul", ["x", "w"]), [floats("w", 7)], ROWS),
    "gemm": (node("Gemm", ["x", "w", "b"], transB=1), [floats("w", 4, 7), floats("b", 4)], {"x": ("float32", (3, 7))}),
    "einsum": (node("Einsum", ["x", "w"], equation="abc,cd->bda"), [floats("w", 7, 3)], ROWS),
    "lstm": (
        node("LSTM", ["x", "w", "r"], ["y", "h", "c"], hidden_size=3, direction="bidirectional"),
        [floats("w", 2, 12, 7), floats("r", 2, 12, 3)],
        ROWS,
    ),
    "gru": (node("GRU", ["x", "w", "r"], ["y"], hidden_size=3), [floats("w", 1, 9, 7), floats("r", 1, 9, 3)], ROWS),
    "rnn": (
        node("RNN", ["x", "w", "r"], ["y", "h"], hidden_size=3, activations=["Relu"]),
        [floats("w", 1, 3, 7), floats("r", 1, 3, 3)],
        ROWS,
    ),
    "depth to space": (node("DepthToSpace", ["x"], blocksize=2), [], {"x": ("float32", (1, 8, 3, 4))}),
    "one hot": (node("OneHot", ["x", "d", "v"]), [wholes("d", 4), floats("v", 2)], {"x": ("int64", (2, 3))}),
    "layer norm": (node("LayerNormalization", ["x", "w"], axis=-1), [floats("w", 7)], ROWS),
    "grid sample": (node("GridSample", ["x", "g"]), [floats("g", 2, 5, 4, 2)], PICTURE),
    "cast": (node("Cast", ["x"], to=TensorProto.INT64), [], PICTURE),
    "equal": (node("Equal", ["x", "w"]), [floats("w", 11)], PICTURE),
    "quantise": (node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]), [], PICTURE),
}


@pytest.mark.parametrize("case", AGREEING)
def test_what_a_node_makes_is_as_large_as_in_onnx_runtime(case: str) -> None:
    import onnxruntime

    op, tensors, inputs = AGREEING[case]
    made = model([op], tensors, inputs, list(op.output))
    infos = {name: Info(dtype, shape) for name, (dtype, shape) in inputs.items()}
    checked = onnx_rules.check(memoryview(made.SerializeToString()), infos, LIMITS)
    feeds = {name: np.zeros(shape, dtype) for name, (dtype, shape) in inputs.items()}
    answers = onnxruntime.InferenceSession(made.SerializeToString()).run(list(op.output), feeds)
    found = [(checked.infos[name].dtype, checked.infos[name].shape) for name in op.output]
    assert found == [(str(answer.dtype), answer.shape) for answer in answers]
    assert checked.total_bytes >= sum(answer.nbytes for answer in answers)


def test_a_shape_that_is_worked_out_from_other_shapes_is_known() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "two"], ["h"]),
        node("Mul", ["h", "two"], ["twice"]),
        node("Concat", ["ones", "twice", "h"], ["shape"], axis=0),
        node("Expand", ["row", "shape"], ["y"]),
    ]
    made = model(nodes, [wholes("two", 2), wholes("ones", 1, 3), floats("row", 1)], PICTURE, ["y"])
    infos = {"x": Info("float32", (2, 6, 9, 11))}
    checked = onnx_rules.check(memoryview(made.SerializeToString()), infos, LIMITS)
    assert checked.infos["y"].shape == (1, 3, 18, 9)
    shape = checked.infos["shape"].value
    assert shape is not None
    assert shape.tolist() == [1, 3, 18, 9]


@pytest.mark.parametrize(
    ("op", "a", "b"),
    [
        ("Mul", 1 << 40, 1 << 40),  # overflows in a runtime
        ("Add", (1 << 63) - 1, 1),
        ("Div", 1, 0),
        ("Div", -7, 2),  # rounded down or towards 0
        ("Mod", -7, 2),
    ],
)
def test_a_number_that_runtimes_may_see_otherwise_is_not_known(op: str, a: int, b: int) -> None:
    made = model(
        [node(op, ["a", "b"], ["n"]), node("ConstantOfShape", ["n"])], [wholes("a", a), wholes("b", b)], {}, ["y"]
    )
    with pytest.raises(OnnxError, match="depends on the values"):
        onnx_rules.check(memoryview(made.SerializeToString()), {}, LIMITS)


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.float32("nan"), "int64"), (np.float32(1e30), "int64"), (np.int64(300), "uint8")]
)
def test_a_cast_that_runtimes_do_in_two_ways_is_not_known(value: Any, dtype: str) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nodes = [node("Cast", ["a"], ["n"], to=code), node("Range", ["z", "n", "o"])]
        tensors = [
            numpy_helper.from_array(np.array(v, d), n)
            for n, v, d in (("a", value, None), ("z", 0, dtype), ("o", 1, dtype))
        ]
        made = model(nodes, tensors, {}, ["y"])
        with pytest.raises(OnnxError, match="depends on the values"):
            onnx_rules.check(memoryview(made.SerializeToString()), {}, LIMITS)


def test_what_depends_on_values_is_bounded_by_its_largest_size() -> None:
    made = model([node("NonZero", ["x"], ["n"]), node("Transpose", ["n"])], [], PICTURE, ["y"])
    checked = onnx_rules.check(memoryview(made.SerializeToString()), {"x": Info("float32", (2, 6, 9, 11))}, LIMITS)
    assert (checked.infos["y"].shape, checked.infos["y"].is_exact) == ((2 * 6 * 9 * 11, 4), False)


def test_weights_that_are_handed_in_have_to_be_as_the_model_says() -> None:
    weight = floats("w", 11, 2)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    raw = memoryview(model([node("MatMul", ["x", "w"])], [weight], PICTURE, ["y"]).SerializeToString())
    infos = {"x": Info("float32", (2, 6, 9, 11))}
    checked = onnx_rules.check(raw, infos, LIMITS, {"w": ("float32", (11, 2))})
    assert checked.infos["y"].shape == (2, 6, 9, 2)
    for elsewhere in ({}, {"w": ("float32", (2, 11))}, {"w": ("float16", (11, 2))}):
        with pytest.raises(OnnxError, match="'w'"):
            onnx_rules.check(raw, infos, LIMITS, elsewhere)


def test_the_numbers_of_a_constant_are_read_from_any_field() -> None:
    for dtype, code in (
        ("int32", 6),
        ("int8", 3),
        ("bool", 9),
        ("float16", 10),
        ("float64", 11),
        ("uint32", 12),
        ("uint8", 2),
    ):
        array = np.array([0, 1, 1, 0] if dtype == "bool" else [0, 1, 2, 3], dtype)
        values = array.view(np.uint16) if dtype == "float16" else array
        tensor = onnx.TensorProto(name="w", dims=[4], data_type=code)
        field = {"float64": "double_data", "uint32": "uint64_data"}.get(dtype, "int32_data")
        getattr(tensor, field).extend(values.astype(float if dtype == "float64" else int).tolist())
        raw = model([node("Identity", ["w"])], [tensor], {}, ["y"]).SerializeToString()
        read = onnx_rules.check(memoryview(raw), {}, LIMITS).infos["w"]
        assert read.value is not None
        assert read.dtype == dtype
        np.testing.assert_array_equal(read.value, array)


@settings(max_examples=many(150, 3000))
@given(seed=st.integers(0, 1 << 62))
def test_a_model_that_was_broken_is_refused_or_known_to_stay_within_the_limits(seed: int) -> None:
    onnx_models.accepts(onnx_models.mutant(random.Random(seed)))


@settings(max_examples=many(50, 1000))
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_or_known_to_stay_within_the_limits(data: bytes) -> None:
    onnx_models.accepts(data)


def test_the_models_that_are_broken_would_pass() -> None:
    assert all(onnx_models.accepts(raw) for raw in onnx_models.seeds())


@pytest.mark.slow
def test_what_is_known_of_the_cases_of_the_onnx_package_is_true() -> None:
    """Every operator as onnx itself tests it: what passes makes tensors of just these types and shapes."""
    from onnx.backend.test.case.node import collect_testcases

    limits = Limits(opsets=(1, 99), ir_versions=(1, 99))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    compared = 0
    for case in cases:
        if case.model is None or case.data_sets is None:
            continue
        raw = memoryview(case.model.SerializeToString())
        for fed, answers in case.data_sets:
            try:
                read = onnx_model.read(raw, limits)
                arrays = [np.asarray(each) for each in fed]
                given = {
                    each.name: Info(str(array.dtype), array.shape, array)
                    for each, array in zip(read.inputs, arrays, strict=False)
                }
                infos = onnx_rules.walk(read, given, limits).infos
            except OnnxError:
                continue
            for each, answer in zip(read.outputs, map(np.asarray, answers), strict=True):
                info = infos[each.name]
                fits = info.shape == answer.shape or (not info.is_exact and info.elements >= answer.size)
                assert fits, (case.name, info, answer.shape)
                assert info.dtype == str(answer.dtype), (case.name, info, answer.dtype)
                if info.value is not None:
                    np.testing.assert_array_equal(info.value, answer)
                compared += 1
    assert compared > 1300
