"""What layers compute, and the random networks whose layers are measured."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import nn

from edgecloud.models.specs import KINDS, UnknownLayerError, describe
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import trace
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds
from edgecloud.predictor.features import FEATURES, in_context, linear_part, table
from edgecloud.predictor.synthetic import Parameters, build


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return Parameters(64 << 20, torch.device("cpu"))


def test_alex_net_has_the_published_work(network: Callable[[str], TorchNetwork]) -> None:
    specs = describe(network("alex_net").traced)
    convs = [spec for spec in specs if spec.kind == "conv"]
    by_hand = [64 * 55**2 * 363, 192 * 27**2 * 1600, 384 * 13**2 * 1728, 256 * 13**2 * 3456, 256 * 13**2 * 2304]
    assert [spec.macs for spec in convs] == by_hand
    assert (convs[0].kernel, convs[0].stride, convs[0].in_shape) == ((11, 11), (4, 4), (1, 3, 224, 224))
    linears = [spec for spec in specs if spec.kind == "linear"]
    assert [round(spec.macs / 1e6, 1) for spec in linears] == [37.7, 16.8, 4.1]
    assert linears[0].weight_bytes == 4 * (9216 * 4096 + 4096)
    assert {spec.kind for spec in specs} == {"conv", "activation", "maxpool", "avgpool", "view", "linear"}
    assert all(spec.is_in_place for spec in specs if spec.kind == "activation")


def test_depthwise_grouped_and_strided_layers(network: Callable[[str], TorchNetwork]) -> None:
    specs = describe(network("mobile_net").traced)
    depthwise = [spec for spec in specs if spec.kind == "dw_conv"]
    assert len(depthwise) == 17
    assert depthwise[0].macs == 32 * 112 * 112 * 9
    assert sum(spec.macs for spec in specs if spec.kind in ("conv", "dw_conv", "linear")) == pytest.approx(
        300e6, rel=0.02
    )


@pytest.mark.parametrize(
    "name", ["torchvision:shufflenet_v2_x0_5", "torchvision:vit_b_32", "torchvision:regnet_y_400mf"]
)
def test_layers_of_other_families_are_known(name: str, network: Callable[[str], TorchNetwork]) -> None:
    traced = network(name).traced
    specs = describe(traced)
    assert {spec.kind for spec in specs} <= set(KINDS)
    features = table(in_context(specs, [layer.inputs for layer in traced.graph.layers[1:]]))
    assert features.shape == (len(specs), len(FEATURES))
    assert (linear_part(features) >= -1e-9).all()


def test_an_unknown_layer_is_an_error_that_names_it() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softsign()), torch.randn(1, 1, 8, 8), "mine")
    with pytest.raises(UnknownLayerError, match=r"mine: .*Softsign \(1\)"):
        describe(traced)


def test_designed_networks_are_what_torch_builds(parameters: Parameters) -> None:
    seen: set[str] = set()
    for seed in range(40):
        bounds = Bounds(macs=10**8, weight_bytes=8 << 20, steps=40)
        design = draw(Random(seed), bounds)
        assert design.macs <= 2 * bounds.macs
        x = torch.randn(design.input_shape)
        traced = trace(build(design, parameters), x, "n", is_checked=False)
        assert traced.capture == "fx"
        specs = describe(traced)
        work = sum(spec.macs for spec in specs if spec.kind in ("conv", "dw_conv", "linear", "local", "attention"))
        assert work == pytest.approx(design.macs, rel=0.02)
        assert traced.graph.layers[-1].out_shape == tuple(build(design, parameters)(x).shape)
        seen |= {spec.kind for spec in specs}
    assert seen >= {
        "conv",
        "dw_conv",
        "linear",
        "maxpool",
        "avgpool",
        "batchnorm",
        "elementwise",
        "concat",
        "copy",
        "view",
    }


def test_the_place_of_a_layer_is_in_its_features() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first: torch.Tensor = self.a(x)
            added: torch.Tensor = first + self.b(torch.relu(first))
            return added

    traced = trace(Skip(), torch.randn(1, 4, 8, 8), "skip")
    layers = in_context(describe(traced), [layer.inputs for layer in traced.graph.layers[1:]])
    conv, relu, other, add = layers
    size, weights = 4 * 4 * 64, 4 * (16 + 4)
    assert (conv.context.before_kind, relu.context.before_kind, add.context.before_kind) == ("input", "conv", "conv")
    assert relu.context.reuse_bytes == 0
    assert add.context.reuse_bytes == 2 * size + weights  # relu's output, b's weights, and b's output
    assert {la.context.pass_weight_bytes for la in layers} == {2 * weights}
    assert other.context.peak_bytes == size
