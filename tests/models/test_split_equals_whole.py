"""The first promise: the same answer as the whole network, wherever it is cut."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.models.split import segment, split
from edgecloud.models.torch_network import TorchNetwork
from tests.conftest import THOROUGH, many
from tests.halves import run_split

EVERY_POINT = ["le_net", "alex_net", "mobile_net", "efficientnet_lite0", "vgg_net"]
SAMPLED = [
    "resnet18", "googlenet", "densenet121", "inception_v3", "efficientnet_b0", "shufflenet_v2_x1_0", "vit_b_32",
]  # fmt: skip
CUTS = many(6, 10)
MANY_POINTS = 30


def assert_equal(network: TorchNetwork, head: frozenset[int], expected: torch.Tensor) -> None:
    """rtol 1e-4 and the same top-1."""
    traced = network.traced
    (got,) = run_split(*split(traced, head), network.example.tensor, traced.graph.outputs)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert got.argmax() == expected.argmax()


def whole(network: TorchNetwork) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = network.loaded.model(network.example.tensor)
    return answer


@pytest.mark.parametrize("name", EVERY_POINT)
def test_split_equals_whole_at_every_point(name: str, network: Callable[[str], TorchNetwork]) -> None:
    """From point to point each piece goes on with what the one before has made; and head and tail are run at every
    point, of deep networks at every eighth unless `make slow` wants all."""
    subject = network(name)
    traced, graph, expected = subject.traced, subject.traced.graph, whole(subject)
    step = 8 if len(graph.points) > MANY_POINTS and not THOROUGH else 1
    done: frozenset[int] = frozenset()
    values: dict[int, torch.Tensor] = {INPUT: subject.example.tensor}
    for point in graph.points:
        head = graph.head_at(point.number)
        piece = segment(traced, head - done)
        with torch.inference_mode():
            made = piece.module(*(values[number] for number in piece.inputs))
        values |= zip(piece.outputs, made, strict=True)
        done = head
        if point.number % step == 0 or point is graph.points[-1]:
            assert_equal(subject, head, expected)
    np.testing.assert_allclose(values[graph.outputs[0]], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def random_cut(graph: LayerGraph, rng: random.Random) -> frozenset[int]:
    """Some layers and all that they need: hardly ever a prefix of program order."""
    head, todo = {0}, rng.sample(range(1, len(graph.layers) - 1), rng.randrange(1, 4))
    while todo:
        number = todo.pop()
        if number not in head:
            head.add(number)
            todo += graph.layers[number].inputs
    return frozenset(head)


@pytest.mark.parametrize("name", SAMPLED)
def test_split_equals_whole_at_cuts_of_several_tensors(name: str, network: Callable[[str], TorchNetwork]) -> None:
    subject = network(f"torchvision:{name}")
    graph, rng, expected = subject.traced.graph, random.Random(name), whole(subject)
    prefixes = [frozenset(range(n + 1)) for n in np.linspace(0, len(graph.layers) - 1, CUTS // 2).astype(int)]
    cuts = prefixes + [random_cut(graph, rng) for _ in range(CUTS)]
    for head in cuts:
        assert_equal(subject, head, expected)
    assert max(len(graph.boundary(head)) for head in cuts) > 1
    assert len(set(cuts)) >= CUTS
