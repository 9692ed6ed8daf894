"""The graphs of our own bundles may be run, and make what their layers say; one that lies is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgecloud.models import bundle, bundle_rules
from edgecloud.models.bundle import Bundle
from edgecloud.models.graph import LayerGraph
from edgecloud.models.onnx_rules import Limits, OnnxError
from tests import bundles


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundles") / "branches.bundle"
    bundles.write(path, *bundles.traced_of(bundles.Branches(), (1, 3, 8, 8)))
    return bundle.read(path)


def test_a_bundle_of_ours_passes_with_any_batch(made: Bundle) -> None:
    one, many = (bundle_rules.check(made, Limits(), batch) for batch in (1, 17))
    assert many.total_bytes > 16 * one.total_bytes
    assert 0 < one.operations < many.operations


def test_a_batch_that_a_network_cannot_take_is_refused(tmp_path: Path) -> None:
    bundles.write(tmp_path / "fixed.bundle", *bundles.traced_of(bundles.FixedShape(), (1, 3, 2, 2)))
    fixed = bundle.read(tmp_path / "fixed.bundle")
    bundle_rules.check(fixed)
    with pytest.raises(OnnxError, match="do not fit"):
        bundle_rules.check(fixed, batch=2)


def test_a_bundle_whose_layers_say_something_else_is_refused(made: Bundle) -> None:
    layers = list(made.graph.layers)
    for number, lie in (
        (1, {"out_shape": (1, 8, 9, 8)}),
        (2, {"out_dtype": "uint8"}),
        (3, {"out_shape": (8, 1, 8, 8)}),
    ):
        lying = [*layers[:number], replace(layers[number], **lie), *layers[number + 1 :]]
        content = replace(made.content, graph=LayerGraph("lie", tuple(lying), made.graph.outputs))
        other = Bundle(made.path, content, made.model, made.onnx, made._weights, made._file)
        with pytest.raises(OnnxError, match=f"its layer '{layers[number].id}' is said to make"):
            bundle_rules.check(other)


def test_a_bundle_that_takes_too_much_is_refused(made: Bundle) -> None:
    with pytest.raises(OnnxError, match="bytes"):
        bundle_rules.check(made, Limits(tensor_bytes=1000))
    with pytest.raises(OnnxError, match="operations"):
        bundle_rules.check(made, Limits(operations=1000))
