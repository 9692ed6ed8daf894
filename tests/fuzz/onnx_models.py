"""Good ONNX models, broken ones, and what holds for both: a model is refused, or it is known how much it will take.

    python -m tests.fuzz.onnx_models --mutants 10000

Checks that many mutants, and runs those that pass in ONNX Runtime, in a child process with limits: what they make has
to be as large as was said before. A crash of the runtime costs that child alone, and is counted.
"""

import argparse
import multiprocessing
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from edgecloud.models import onnx_rules
from edgecloud.models.onnx_rules import Checked, Info, Limits, OnnxError
from tests.fuzz.targets import mutate
from tests.hostile_onnx import SIDE, floats, model, node, wholes

LIMITS = Limits(tensor_bytes=16 << 20, total_bytes=64 << 20, weight_bytes=16 << 20, operations=1e9)
INPUTS = {"x": Info("float32", (1, 3, SIDE, SIDE))}
MOST_MEMORY, MOST_S = 4 << 30, 20.0


def _pictures() -> Any:
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "b", "b", "b", "b"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["p", "", "s"], ["u"], mode="linear"),
        node("Concat", ["u", "x"], ["c"], axis=1),
        node("GlobalAveragePool", ["c"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "m"], ["y"]),
    ]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
    return model(nodes, [floats("w", 5, 3, 3, 3), floats("b", 5), floats("m", 8, 4), scales])


def _shapes() -> Any:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "i"], ["side"]),
        node("Concat", ["one", "side", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["r", "t"], ["m"]),
        node("Softmax", ["m"], ["p"], axis=-1),
        node("Split", ["p"], ["left", "right"], axis=-1, num_outputs=2),
        node("Tile", ["left", "times"], ["w"]),
        node("Expand", ["right", "as"], ["e"]),
        node("Add", ["w", "e"], ["y"]),
    ]
    small = [wholes("i", 1), wholes("one", 1), wholes("rest", -1), wholes("times", 2, 1, 1), wholes("as", 2, 3, 2)]
    nodes[8] = node("Slice", ["left", "zero", "one"], ["w"])
    return model(nodes, [*small[:3], small[4], wholes("zero", 0)])


def _words() -> Any:
    nodes = [
        node("Reshape", ["x", "s"], ["a"]),
        node("LSTM", ["a", "w", "r"], ["h", "", ""], hidden_size=2),
        node("Squeeze", ["h", "one"], ["q"]),
        node("LayerNormalization", ["q", "g"], ["n"]),
        node("Pad", ["n", "p"], ["d"]),
        node("TopK", ["d", "k"], ["y", "places"]),
    ]
    small = [wholes("s", 6, 1, 8), wholes("one", 1), wholes("p", 0, 0, 1, 0, 0, 2), wholes("k", 2)]
    return model(nodes, [*small, floats("w", 1, 8, 8), floats("r", 1, 8, 2), floats("g", 2)])


@cache
def seeds() -> tuple[bytes, ...]:
    """Small models that pass."""
    return tuple(make().SerializeToString() for make in (_pictures, _shapes, _words))


def accepts(data: bytes) -> bool:
    """Bytes are a model of which it is known that it stays within the limits, or refused."""
    try:
        checked = onnx_rules.check(memoryview(data), INPUTS, LIMITS)
    except OnnxError:
        return False
    _assert_within(checked)
    return True


def _assert_within(checked: Checked) -> None:
    assert checked.total_bytes <= LIMITS.total_bytes
    assert checked.operations <= LIMITS.operations
    for name, info in checked.infos.items():
        assert info.bytes <= LIMITS.tensor_bytes, name
        assert all(isinstance(side, int) and side >= 0 for side in info.shape), name
        assert info.value is None or (info.value.shape, str(info.value.dtype)) == (info.shape, info.dtype), name


NUMBERS = (0, 1, 2, 3, 4, 7, 16, 255, 4096, 1 << 16, 1 << 31, 1 << 40, (1 << 63) - 1, -1, -2, -(1 << 63))
FLOATS = (0.0, -1.0, 0.5, 2.0, 1e9, 1e38, float("inf"), float("nan"))


def mutant(rng: random.Random) -> bytes:
    """A model with bytes broken, or with its parts changed as somebody would who knows the format."""
    data = rng.choice(seeds())
    if rng.random() < 0.3:
        return mutate(rng, [data])
    made = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_CHANGES)(rng, made.graph)
    raw: bytes = made.SerializeToString()
    return raw


def _change_attribute(rng: random.Random, graph: Any) -> None:
    attributes = [each for one in graph.node for each in one.attribute]
    if not attributes:
        return
    one = rng.choice(attributes)
    if one.type == onnx.AttributeProto.INT:
        one.i = rng.choice(NUMBERS)
    elif one.type == onnx.AttributeProto.FLOAT:
        one.f = rng.choice(FLOATS)
    elif one.ints:
        one.ints[rng.randrange(len(one.ints))] = rng.choice(NUMBERS)


def _change_number(rng: random.Random, graph: Any) -> None:
    constants = [each for each in graph.initializer if each.data_type == TensorProto.INT64]
    if constants:
        one = rng.choice(constants)
        numbers = np.frombuffer(one.raw_data, np.int64).copy()
        if len(numbers):
            numbers[rng.randrange(len(numbers))] = rng.choice(NUMBERS)
        one.raw_data = numbers.tobytes()


def _change_shape(rng: random.Random, graph: Any) -> None:
    if graph.initializer:
        one = rng.choice(graph.initializer)
        if one.dims:
            one.dims[rng.randrange(len(one.dims))] = rng.choice(NUMBERS)


def _swap_names(rng: random.Random, graph: Any) -> None:
    names = [
        *(each.name for each in graph.initializer),
        *(name for each in graph.node for name in each.output),
        "x",
        "",
    ]
    one = rng.choice(graph.node)
    if one.input:
        one.input[rng.randrange(len(one.input))] = rng.choice(names)


def _swap_operator(rng: random.Random, graph: Any) -> None:
    rng.choice(graph.node).op_type = rng.choice(_OPERATORS)


def _move_node(rng: random.Random, graph: Any) -> None:
    a, b = (rng.randrange(len(graph.node)) for _ in range(2))
    held = onnx.NodeProto()
    held.CopyFrom(graph.node[a])
    graph.node[a].CopyFrom(graph.node[b])
    graph.node[b].CopyFrom(held)


def _drop(rng: random.Random, graph: Any) -> None:
    part = rng.choice((graph.node, graph.initializer))
    if len(part) > 1:
        del part[rng.randrange(len(part))]


_CHANGES = (_change_attribute, _change_number, _change_shape, _swap_names, _swap_operator, _move_node, _drop)
_OPERATORS = (
    *("Relu", "Add", "MatMul", "Concat", "Expand", "Tile", "Reshape", "Resize", "Pad", "ConstantOfShape", "Range"),
    *(
        "Gather",
        "Slice",
        "Split",
        "Shape",
        "NonZero",
        "Where",
        "Cast",
        "TopK",
        "ConvTranspose",
        "Transpose",
        "Unsqueeze",
    ),
    *("ReduceSum", "CumSum", "GatherND", "ScatterND", "Trilu", "OneHot", "Loop", "If", "RandomNormal"),
)


# --- running those that pass


def _child(pipe: Any) -> None:
    import onnxruntime

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    onnxruntime.set_default_logger_severity(4)
    while True:
        raw, names = pipe.recv()
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
            feeds = {each.name: np.ones(INPUTS["x"].shape, np.float32) for each in session.get_inputs()}
            results = session.run(names, feeds)
            pipe.send([(str(each.dtype), each.shape) for each in results])
        except Exception as error:  # noqa: BLE001  whatever a runtime says
            pipe.send(f"{type(error).__name__}")


class Runner:
    """A child that runs models, and another one where that has died."""

    def __init__(self) -> None:
        self.died = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, raw: bytes, names: Sequence[str]) -> Any:
        """Types and shapes of the outputs, or the word for what it died of."""
        try:
            self._pipe.send((raw, names))
            if self._pipe.poll(MOST_S + 40):
                return self._pipe.recv()
            word = "took too long"
        except (EOFError, OSError):
            word = "crashed"
        self.died += 1
        self._process.kill()
        self._process.join()
        self._start()
        return word

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()


def _mutants(count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for _ in range(count):
        yield mutant(rng)


def _compare(infos: Mapping[str, Info], names: Sequence[str], found: Any, raw: bytes) -> str:
    if isinstance(found, str):
        return f"the runtime: {found}"
    for name, (dtype, shape) in zip(names, found, strict=True):
        info = infos[name]
        fits = (
            shape == info.shape if info.is_exact else len(shape) == len(info.shape) and np.prod(shape) <= info.elements
        )
        assert fits, (name, dtype, shape, info, raw.hex())
        assert np.dtype(dtype).itemsize <= np.dtype(info.dtype).itemsize, (name, dtype, info, raw.hex())
    return "ran, as large as was said"


def main() -> int:
    """Check, run and count."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.onnx_models")
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    worst_s, good, runner, began = 0.0, set(seeds()), Runner(), time.monotonic()
    for raw in _mutants(options.mutants, options.seed):
        started = time.perf_counter()
        try:
            checked = onnx_rules.check(memoryview(raw), INPUTS, LIMITS)
        except OnnxError:
            counts["refused"] += 1
            continue
        finally:
            worst_s = max(worst_s, time.perf_counter() - started)
        _assert_within(checked)
        if raw in good:
            counts["unchanged"] += 1
            continue
        names = list(dict.fromkeys(name for op in checked.model.ops for name in op.outputs if name))
        full = onnx.load_from_string(raw)
        del full.graph.output[:]
        full.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        counts[_compare(checked.infos, names, runner.run(full.SerializeToString(), names), raw)] += 1
    runner.close()
    took_s = time.monotonic() - began
    print(
        f"{options.mutants} mutants in {took_s:.0f} s, worst check {worst_s * 1e3:.1f} ms, {runner.died} children lost"
    )
    for word, count in counts.most_common():
        print(f"  {count:6d} {word}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
