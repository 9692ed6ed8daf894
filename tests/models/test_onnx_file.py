"""FILE.onnx as a network: any cut gives what ONNX Runtime makes of the file as it is, or one line says why not."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgecloud.engine import certificates
from edgecloud.engine.executor import make_executor
from edgecloud.models import onnx_file, onnx_network, registry
from edgecloud.models.graph import LayerGraph
from edgecloud.models.onnx_network import OnnxNetwork
from edgecloud.utils.errors import UsageError
from tests import onnx_drawn, onnx_files
from tests.conftest import many
from tests.hostile_onnx import node

IS_BATCHED = {
    "pictures": True,
    "fixed": False,
    "words": True,
    "stacked": True,
    "sounds": False,
    "scales": True,
    "tokens": True,
    "rows": False,
    "passed": True,
}


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_OWN", {})


def loaded(path: Path, sizes: str = "") -> OnnxNetwork:
    name = f"{path}:{sizes}" if sizes else str(path)
    network = registry.resolve_trusted(name, path.parent / "cache").network()
    assert isinstance(network, OnnxNetwork)
    return network


def cuts_of(graph: LayerGraph, count: int) -> list[frozenset[int]]:
    """All points, and some cuts that several tensors cross."""
    rng, cuts = random.Random(5), [graph.head_at(point.number) for point in graph.points]
    for _ in range(count):
        head = set(graph.inputs)
        for number, layer in enumerate(graph.layers):
            if number not in head and set(layer.inputs) <= head and rng.random() < 0.8:
                head.add(number)
        cuts.append(frozenset(head))
    return cuts


def bare(path: Path, fed: Any) -> list[Any]:
    """What anybody gets who runs the file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = fed if isinstance(fed, tuple) else (fed,)
    answers: list[Any] = session.run(None, {each.name: a for each, a in zip(session.get_inputs(), arrays, strict=True)})
    return answers


def other(network: OnnxNetwork, seed: int) -> Any:
    """An input that is not the example."""
    arrays = tuple(onnx_file.example_of(each.shape, each.dtype, seed) for each in network.bundle.inputs)
    return arrays if len(arrays) > 1 else arrays[0]


def joined(several: Sequence[Any]) -> Any:
    """Several inputs at once."""
    return (
        tuple(map(np.concatenate, zip(*several, strict=True)))
        if isinstance(several[0], tuple)
        else np.concatenate(several)
    )


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    assert [each.shape for each in found] == [each.shape for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", onnx_files.FILES)
def test_any_cut_gives_what_the_file_gives_and_so_does_any_batch(name: str, tmp_path: Path) -> None:
    path = onnx_files.write(tmp_path / f"{name}.onnx", onnx_files.FILES[name]())
    network = loaded(path)
    executor = make_executor(network, "cpu", backend="onnxruntime")
    xs = [other(network, seed) for seed in range(17)]
    singles = [bare(path, x) for x in xs]
    assert_same(network.whole(xs[1]), singles[1])
    cuts = cuts_of(network.graph, 12)
    for cut in cuts:
        assert_same(certificates.run(executor, cut, xs[1]), singles[1])
    assert network.bundle.content.is_batched == IS_BATCHED[name]
    for count in (1, 2, 3, 4, 15, 16, 17) if network.bundle.content.is_batched else ():
        expected = [np.concatenate(rows) for rows in zip(*singles[:count], strict=True)]
        for cut in (cuts[0], cuts[len(network.graph.points) // 2], cuts[-1], cuts[-2]):
            assert_same(certificates.run(executor, cut, joined(xs[:count])), expected)


def test_the_layers_are_the_nodes_but_for_what_does_not_depend_on_the_input(tmp_path: Path) -> None:
    network = loaded(onnx_files.write(tmp_path / "p.onnx", onnx_files.pictures()))
    named = [(layer.id, layer.kind, layer.out_shape) for layer in network.graph.layers]
    assert named == [
        ("x", "input", (1, 3, 8, 8)),
        ("c1", "Conv", (1, 8, 8, 8)),
        ("r1", "Relu", (1, 8, 8, 8)),
        ("p1", "MaxPool", (1, 8, 4, 4)),
        ("c2", "Conv", (1, 8, 4, 4)),
        ("a", "Add", (1, 8, 4, 4)),
        ("r2", "Relu", (1, 8, 4, 4)),
        ("flat", "Reshape", (1, 128)),
        ("y", "MatMul", (1, 10)),
    ]
    specs = network.specs()
    assert [spec.kind for spec in specs[:3]] == ["conv", "activation", "maxpool"]
    assert specs[0].macs == 8 * 8 * 8 * 27
    assert specs[-1].macs == 1280
    assert specs[-1].weight_bytes == 5120


def test_both_sides_name_it_by_its_file_and_digest(tmp_path: Path) -> None:
    first, again = (
        onnx_files.write(tmp_path / n / "net.onnx", onnx_files.pictures()) for n in _folders(tmp_path, "ab")
    )
    changed = onnx_files.pictures()
    changed.graph.node[-1].name = "renamed"
    other = onnx_files.write(tmp_path / "net.onnx", changed)
    networks = [loaded(path) for path in (first, again)]
    with pytest.raises(UsageError, match=r"two files are named net\.onnx: rename one"):
        loaded(other)
    registry._OWN.clear()
    networks.append(loaded(other))
    assert {network.graph.name for network in networks} == {"net.onnx"}
    assert networks[0].weights.digest == networks[1].weights.digest != networks[2].weights.digest
    assert networks[0].weights.origin == "file net.onnx"
    with pytest.raises(UsageError, match=r"--network FILE\.onnx"):
        registry.lookup("other.onnx")


def test_inputs_and_outputs_keep_their_names_and_types(tmp_path: Path) -> None:
    network = loaded(onnx_files.write(tmp_path / "tokens.onnx", onnx_files.tokens()))
    named = [(each.name, each.dtype, each.shape) for each in network.bundle.inputs]
    assert named == [("ids", "int64", (1, 6)), ("mask", "int64", (1, 6)), ("flag", "bool", (1, 1))]
    assert (network.call.names, network.answer.names) == (("ids", "mask", "flag"), ("y", "z"))
    with pytest.raises(UsageError, match="3 inputs"):
        loaded(tmp_path / "tokens.onnx", "1x6")
    with pytest.raises(UsageError, match="'mask' is N x 6, which 1 x 9 does not fit"):
        loaded(tmp_path / "tokens.onnx", "mask=1x9")


def _folders(parent: Path, names: str) -> list[str]:
    for name in names:
        (parent / name).mkdir()
    return list(names)


def test_a_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_files.write(tmp_path / "net.onnx", onnx_files.pictures())
    first = loaded(path)
    with monkeypatch.context() as patched:
        patched.setattr(onnx_network, "_made", lambda *_: pytest.fail("converted again"))
        assert loaded(path).graph == first.graph
    kept = first.bundle.path
    kept.write_bytes(kept.read_bytes()[:-100])
    assert loaded(path).graph == first.graph  # a damaged one is made again


def test_the_sizes_of_an_input_that_takes_any_are_given_behind_the_name(tmp_path: Path) -> None:
    made = onnx_files.model(
        [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["y"])], onnx_files.Drawn(), ["N", 3, "H", "W"]
    )
    path = onnx_files.write(tmp_path / "any.onnx", made)
    with pytest.raises(UsageError, match=r"'x' is N x 3 x H x W: say its sizes .*any.onnx:x=1x3x224x224"):
        loaded(path)
    one, other = loaded(path, "1x3x10x12"), loaded(path, "x=1x3x8x8")
    assert (one.graph.layers[0].out_shape, other.graph.layers[0].out_shape) == ((1, 3, 10, 12), (1, 3, 8, 8))
    assert one.graph.name == "any.onnx:1x3x10x12"
    assert_same(one.whole(one.example.array), bare(path, one.example.array))
    for sizes, word in (
        ("1x4x8x8", r"does not fit"),
        ("1x3x8", "does not fit"),
        ("y=1x3x8x8", "no input 'y'"),
        ("big", "are no sizes"),
        ("1x3x-8x8", "are no sizes"),
    ):
        with pytest.raises(UsageError, match=word):
            loaded(path, sizes)


def _of(*nodes: Any, outputs: Sequence[str] = ("y",), shape: Sequence[int | str] = (1, 4), **more: Any) -> Any:
    return onnx_files.model(nodes, onnx_files.Drawn(), shape, outputs, **more)


def _elsewhere() -> Any:
    made = onnx_files.pictures()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return made


def _uint32() -> Any:
    made = _of(node("Cast", ["x"], to=TensorProto.FLOAT))
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT32
    return made


def _loop() -> Any:
    body = helper.make_graph([node("Relu", ["a"], ["b"])], "body", [], [])
    return _of(node("Loop", ["x"], body=body))


REFUSED = {
    "numbers in another file": (_elsewhere, r"another file: write it as one file with onnx.save_model\("),
    "control flow": (_loop, r"\(Loop\): .*a graph: export the network without control flow"),
    "a contributed operator": (lambda: _of(node("FusedConv", ["x"], domain="com.microsoft")), "'com.microsoft'"),
    "an operator that is not taken": (lambda: _of(node("TfIdfVectorizer", ["x"])), "TfIdfVectorizer"),
    "random numbers": (lambda: _of(node("RandomNormalLike", ["x"])), "random"),
    "a size that the values say": (
        lambda: _of(node("NonZero", ["x"])),
        r"\(NonZero\): the size .* depends on the values",
    ),
    "an answer that is always the same": (
        lambda: _of(node("Constant", [], value_floats=[1.0])),
        "'y' does not depend on its input",
    ),
    "an answer that is a shape": (lambda: _of(node("Shape", ["x"])), "'y'"),
    "an input that does not travel": (lambda: _uint32(), "'x' is uint32, which cannot travel"),
    "a type that does not travel": (lambda: _of(node("Cast", ["x"], to=TensorProto.UINT32)), "uint32.*cannot travel"),
    "an old opset": (lambda: _of(node("Relu", ["x"]), opset=5), "version_converter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused_in_one_line_that_says_what_can_be_done(name: str, tmp_path: Path) -> None:
    make, word = REFUSED[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(UsageError, match=word) as caught:
        loaded(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.glob("cache/bundles/*.bundle"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(60), b"no model", bytes(1000)])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"net\.onnx"):
        loaded(path)
    with pytest.raises(UsageError, match="no file"):
        loaded(tmp_path / "none.onnx")


def test_a_file_of_the_onnx_package_runs_at_every_cut(tmp_path: Path) -> None:
    """squeezenet as onnx ships it, but for its weights, which would all be the same number."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    made = onnx.load_model(str(folder / "light_squeezenet.onnx"))
    for number, one in enumerate(each for each in made.graph.node if each.op_type == "ConstantOfShape"):
        shape = next(each for each in made.graph.initializer if each.name == one.input[0])
        sides = onnx.numpy_helper.to_array(shape)
        drawn = np.random.default_rng(number).standard_normal(sides).astype(np.float32) / np.sqrt(np.prod(sides[1:]))
        made.graph.initializer.append(onnx.numpy_helper.from_array(drawn.astype(np.float32), one.output[0]))
    kept = [each for each in made.graph.node if each.op_type != "ConstantOfShape"]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    path = onnx_files.write(tmp_path / "squeezenet.onnx", made)
    network = loaded(path)
    executor = make_executor(network, "cpu", backend="onnxruntime")
    expected = bare(path, network.example.array)
    assert np.ptp(expected[0]) > 1e-6
    for cut in cuts_of(network.graph, 2)[::4]:
        assert_same(certificates.run(executor, cut, network.example.array), expected)


@settings(max_examples=many(12, 400))
@given(seed=st.integers(0, 1 << 40))
def test_any_cut_of_a_network_that_was_drawn_gives_what_the_file_gives(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    registry._OWN.clear()
    path = onnx_files.write(tmp_path_factory.mktemp("drawn") / "drawn.onnx", onnx_drawn.drawn(seed))
    network = loaded(path)
    executor = make_executor(network, "cpu", backend="onnxruntime")
    xs = [other(network, number) for number in range(3)]
    singles = [bare(path, x) for x in xs]
    for cut in cuts_of(network.graph, 3):
        assert_same(certificates.run(executor, cut, xs[1]), singles[1])
        if network.bundle.content.is_batched and all(
            network.graph.layers[number].out_shape[:1] == (1,) for number in network.graph.boundary(cut)
        ):
            expected = [np.concatenate(rows) for rows in zip(*singles, strict=True)]
            assert_same(certificates.run(executor, cut, joined(xs)), expected)
