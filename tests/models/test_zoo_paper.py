"""The networks of the papers: their layers as the papers count them, and the first promise, bit for bit."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from edgecloud.models import registry, weights
from edgecloud.models.specs import KINDS, describe
from edgecloud.models.split import split
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import trace
from edgecloud.models.zoo.digits import digit_pictures, split_digits
from edgecloud.models.zoo.local import LocallyConnected2d
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds
from edgecloud.predictor.synthetic import Parameters, build
from tests.conftest import THOROUGH
from tests.halves import run_split

NETWORKS = ("deepface", "mnist", "kaldi", "senna_pos", "senna_ner", "senna_chk", "cifar_alexnet", "cifar_vgg16")
IN_THE_ANSWER = ("Softmax", "Argmax")  # layers of the authors' definitions that we leave to engine.answers
SENNA = ("Linear", "Hardtanh", "Linear")
PAPERS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    # layers that are counted; ours that the definition has none of; the definition
    "deepface": (
        10,
        ("ReLU", "Flatten"),
        ("Conv2d", "MaxPool2d", "Conv2d", *3 * ("LocallyConnected2d",), "Linear", "Linear", *IN_THE_ANSWER),
    ),
    "mnist": (9, ("Flatten",), (*2 * ("Conv2d", "MaxPool2d"), "Linear", "ReLU", "Linear", *IN_THE_ANSWER)),
    "kaldi": (13, (), (*6 * ("Linear", "Sigmoid"), "Linear")),
    "senna_pos": (3, (), SENNA),
    "senna_ner": (3, (), SENNA),
    "senna_chk": (3, (), SENNA),
    "cifar_alexnet": (
        13,
        ("ReLU", "Flatten"),
        (*2 * ("Conv2d", "LocalResponseNorm", "MaxPool2d"), *3 * ("Conv2d",), "MaxPool2d", *3 * ("Linear",)),
    ),
    "cifar_vgg16": (
        34,
        ("ReLU", "Flatten"),
        tuple(
            kind
            for convolutions in (2, 2, 3, 3, 3)
            for kind in (*convolutions * ("Conv2d", "BatchNorm2d"), "MaxPool2d")
        )
        + 3 * ("Linear",),
    ),
}
"""Neurosurgeon's table 3 with its authors' Caffe definitions, and the cost-capped system's pair."""


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_counted_as_in_the_paper(name: str, network: Callable[[str], TorchNetwork]) -> None:
    count, ours, definition = PAPERS[name]
    layers = network(name).traced.graph.layers[1:]
    kinds = [layer.kind for layer in layers if layer.kind not in ours]
    left = [kind for kind in definition if kind not in IN_THE_ANSWER]
    assert kinds == left
    assert len(definition) == count


def test_deep_face_has_the_sizes_of_its_figure(network: Callable[[str], TorchNetwork]) -> None:
    shapes = {layer.id: layer.out_shape[1:] for layer in network("deepface").traced.graph.layers}
    expected = {
        "C1": (32, 142, 142), "M2": (32, 71, 71), "C3": (16, 63, 63), "L4": (16, 55, 55), "L5": (16, 25, 25),
        "L6": (16, 21, 21), "F7": (4096,), "F8": (4030,),
    }  # fmt: skip
    assert {name: shapes[name] for name in expected} == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_split_equals_whole_bit_for_bit_at_points_all_along(name: str, network: Callable[[str], TorchNetwork]) -> None:
    subject = network(name)
    traced, x = subject.traced, subject.example.tensor
    assert traced.capture == "fx"
    assert traced.graph.is_chain
    with torch.inference_mode():
        expected = subject.loaded.model(x).numpy()
    assert expected.std() > 0.1  # a network whose numbers fade away would be equal to anything
    every = 1 if THOROUGH else max(1, len(traced.graph.points) // 8)
    for point in {*traced.graph.points[::every], traced.graph.points[-1]}:
        (got,) = run_split(*split(traced, traced.graph.head_at(point.number)), x, traced.graph.outputs)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_entry_says_the_truth(name: str, network: Callable[[str], TorchNetwork]) -> None:
    entry, subject = registry.lookup(name), network(name)
    assert entry.parameter_bytes == 4 * sum(parameter.numel() for parameter in subject.loaded.model.parameters())
    assert subject.example.tensor.shape == (1, *entry.input_shape)
    assert subject.example.tensor.dtype == torch.float32
    outputs = subject.traced.graph.layers[-1].out_shape
    assert not entry.labels or len(entry.labels) == outputs[-1]
    assert {spec.kind for spec in describe(subject.traced)} <= set(KINDS)


def test_weights_are_the_same_on_every_machine() -> None:
    """Drawn by a generator whose stream is specified, or shipped."""
    pinned = {
        "senna_pos": "sha256:aaeb001cfe2eb5ed",
        "cifar_alexnet": "sha256:facc5f42ba54787a",
        "mnist": "sha256:89b7eaac14c67aa6",
    }
    for name, digest in pinned.items():
        assert weights.load(registry.lookup(name)).digest[:23] == digest, name


def test_mnist_reads_digits_that_it_never_saw(network: Callable[[str], TorchNetwork]) -> None:
    pictures, classes = digit_pictures()
    _, held_out = split_digits()
    entry, model = registry.lookup("mnist"), network("mnist").loaded.model
    batch = torch.from_numpy(np.concatenate([entry.preprocess(pictures[n]) for n in held_out]))
    with torch.inference_mode():
        found = model(batch).argmax(1).tolist()
    right = sum(answer == classes[n] for answer, n in zip(found, held_out, strict=True))
    assert right / len(held_out) >= 0.99


# --- locally connected layers


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2), (5, 3)])
def test_locally_connected_is_a_sum_for_every_place(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = LocallyConnected2d((3, 9, 8), 4, kernel, stride)
    x = torch.randn(2, 3, 9, 8)
    filters, height, width = layer.out_shape
    banks = layer.weight.view(height, width, filters, 3, kernel, kernel)
    with torch.no_grad():
        got = layer(x)
        for row, column in np.ndindex(height, width):
            patch = x[:, :, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
            expected = torch.einsum("bchw,fchw->bf", patch, banks[row, column]) + layer.bias[:, row, column]
            torch.testing.assert_close(got[:, :, row, column], expected)
    assert got.shape == (2, *layer.out_shape)
    assert got.is_contiguous()


def test_with_equal_weights_everywhere_it_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer, conv = LocallyConnected2d((3, 9, 8), 4, 3, 2), nn.Conv2d(3, 4, 3, stride=2)
    x = torch.randn(1, 3, 9, 8)
    filters, height, width = layer.out_shape
    with torch.no_grad():
        layer.weight.copy_(conv.weight.reshape(filters, -1).repeat(height * width, 1))
        assert conv.bias is not None
        layer.bias.copy_(conv.bias[:, None, None].expand(layer.out_shape))
        torch.testing.assert_close(layer(x), conv(x))


def test_a_locally_connected_layer_is_described_for_predictors(network: Callable[[str], TorchNetwork]) -> None:
    specs = {spec.out_shape: spec for spec in describe(network("deepface").traced) if spec.kind == "local"}
    l5 = specs[1, 16, 25, 25]
    assert (l5.kernel, l5.stride) == ((7, 7), (2, 2))
    assert l5.macs == 16 * 25 * 25 * 16 * 7 * 7
    assert l5.weight_bytes == 4 * (l5.macs + 16 * 25 * 25)


def test_random_networks_hold_the_new_kinds_within_their_bounds() -> None:
    rng, bounds, seen = Random(0), Bounds(10**8, 20 << 20, has_rare=True), set()
    parameters = Parameters(24 << 20, torch.device("cpu"))
    for _ in range(12):
        design = draw(rng, bounds, (1, 16, 28, 28))
        traced = trace(build(design, parameters), torch.rand(design.input_shape), "drawn", is_checked=False)
        specs = describe(traced)
        seen |= {spec.kind for spec in specs}
        made = [spec for spec in specs if spec.kind == "local"]
        assert sum(spec.macs for spec in made) <= bounds.macs
        assert sum(spec.weight_bytes for spec in made) <= 1.2 * bounds.weight_bytes  # biases are not reckoned
        assert [s.out_shape for s in specs][-1] == tuple(traced.module(torch.rand(design.input_shape)).shape)
    assert {"local", "lrn"} <= seen
