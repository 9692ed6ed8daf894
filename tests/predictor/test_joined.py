"""Which layers are one unit: as ONNX Runtime really joins them, and the same for a design as for its torch network."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from edgecloud.models import onnx_graph
from edgecloud.models.onnx_session import session_of
from edgecloud.models.specs import describe
from edgecloud.models.trace import trace
from edgecloud.predictor import kernels
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds, Design, Step
from edgecloud.predictor.joined import Units, joined
from edgecloud.predictor.onnx_design import OPERATIONS, Pool, Written, write
from edgecloud.predictor.synthetic import Parameters, build

SMALL = Bounds(2 * 10**7, 8 << 20, 40)
POOL = Pool(16 << 20)


def drawn(count: int) -> list[Design]:
    return [draw(Random(seed), SMALL) for seed in range(count)]


def units_of(written: Written) -> Units:
    return joined(written.inputs, written.specs, (len(written.specs),))


def conv(source: int, channels: int = 16, groups: int = 1) -> Step:
    sizes = {"in_channels": channels, "out_channels": channels, "kernel_size": (3, 3), "stride": 1, "padding": (1, 1)}
    return Step("Conv2d", (source,), tuple({**sizes, "groups": groups, "bias": False}.items()))


def norm(source: int) -> Step:
    return Step("BatchNorm2d", (source,))


def relu(source: int) -> Step:
    return Step("ReLU", (source,))


def of(*steps: Step, channels: int = 16) -> Units:
    return units_of(write(Design((1, channels, 8, 8), steps, 0, 0), POOL))


def test_what_is_behind_a_convolution_is_computed_with_it() -> None:
    units = of(conv(0), norm(1), relu(2), conv(3, groups=16), norm(4), Step("ReLU6", (5,)), conv(6), norm(7))
    assert units.layers == ((1, 2, 3), (4, 5, 6), (7, 8))
    assert [each.spec.kind for each in units.described] == ["conv+bn+act", "dw_conv+bn+act", "conv+bn+act"]
    assert [each.spec.variant for each in units.described] == ["conv2d+relu", "conv2d+relu6", "conv2d"]
    residual = of(conv(0), relu(1), conv(2), norm(3), Step("add", (4, 2)), relu(5))
    assert residual.layers == ((1, 2), (3, 4, 5, 6))
    whole = residual.described[1].spec
    assert (whole.variant, whole.inputs, whole.in_bytes) == ("conv2d+add+relu", 2, 2 * 4 * 16 * 64)


def test_what_others_read_is_not_computed_away() -> None:
    read_twice = of(conv(0), Step("ReLU", (1,)), Step("add", (1, 2)))
    assert read_twice.layers == ((1,), (2,), (3,))
    after = of(conv(0), Step("ReLU", (1,)), Step("add", (2, 0)), Step("ReLU", (3,)))
    assert after.layers == ((1, 2), (3,), (4,))
    nothing = of(conv(0), Step("Dropout", (1,)), Step("ReLU", (2,)), Step("contiguous", (3,)))
    assert nothing.layers == ((1, 3),)


def test_a_tail_that_begins_within_a_unit_computes_the_rest() -> None:
    units = of(conv(0), Step("BatchNorm2d", (1,)), Step("ReLU", (2,)))
    assert sorted(units.rest) == [1, 2]
    assert [each.spec.kind for each in units.rest[1]] == ["batchnorm+act", "activation"]
    assert [each.spec.kind for each in units.rest[2]] == ["activation"]
    assert units.by_layer([0.5]) == [0.0, 0.5, 0.0, 0.0]


def test_units_are_the_kernels_of_the_runtime(tmp_path: Path) -> None:
    """On another processor than those of the rules a few may be joined otherwise, which does no harm."""
    alone = count = 0
    for number, design in enumerate(drawn(8)):
        written = write(design, POOL)
        part = onnx_graph.take(written.graph, [written.x], [written.y])
        weights = {name: written.weights[name] for name in part.weights}
        session = session_of(part.model, weights, 1, str(tmp_path / f"p{number}"))
        session.run(None, {"input": np.zeros(design.input_shape, np.float32)})
        (ran,) = kernels.read_profile(Path(session.end_profiling()))
        units = units_of(written)
        assert set(ran) <= {layer for layers in units.layers for layer in layers}
        made = [sum(layer in ran for layer in layers) for layers in units.layers]
        assert all(made)
        alone, count = alone + sum(each == 1 for each in made), count + len(made)
    assert alone >= 0.9 * count


def test_a_design_is_the_same_network_in_torch_and_in_onnx() -> None:
    parameters = Parameters(16 << 20, torch.device("cpu"))
    for design in drawn(6):
        x = torch.zeros(design.input_shape)
        traced = trace(build(design, parameters), x, "same", is_checked=False)
        reads = [layer.inputs for layer in traced.graph.layers[1:]]
        there = joined(reads, describe(traced), traced.graph.outputs)
        here = units_of(write(design, POOL))
        assert [each.spec for each in there.described] == [each.spec for each in here.described]
        assert there.layers == here.layers


def test_every_operation_of_a_design_can_be_written() -> None:
    ops = {step.op for seed in range(150) for step in draw(Random(seed), replace(SMALL, steps=60)).steps}
    assert ops <= set(OPERATIONS)


def test_a_damaged_profile_of_the_runtime(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps([{"name": "model_run", "ts": 5, "dur": 9, "cat": "Session"}]))
    (empty,) = kernels.read_profile(path)
    assert not empty
    path.write_text("[{")
    with pytest.raises(ValueError, match="Expecting"):
        kernels.read_profile(path)
