"""The first promise: the same answer as the whole network, wherever it is cut."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.graph import LayerGraph
from models.split import run_split, split
from runtime.executor import Network

EVERY_POINT = ["le_net", "alex_net", "mobile_net", "vgg_net"]
SAMPLED = [
    "resnet18", "googlenet", "densenet121", "inception_v3", "efficientnet_b0", "shufflenet_v2_x1_0", "vit_b_16",
]  # fmt: skip
CUTS = 10


def assert_equal(network: Network, head: frozenset[int], expected: torch.Tensor) -> None:
    """rtol 1e-4 and the same top-1."""
    traced = network.traced
    (got,) = run_split(*split(traced, head), network.example.tensor, traced.graph.outputs)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert got.argmax() == expected.argmax()


def whole(network: Network) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = network.loaded.model(network.example.tensor)
    return answer


@pytest.mark.parametrize("name", EVERY_POINT)
def test_split_equals_whole_at_every_point(name: str, network: Callable[[str], Network]) -> None:
    subject = network(name)
    expected = whole(subject)
    for point in subject.traced.graph.points:
        assert_equal(subject, subject.traced.graph.head_at(point.number), expected)


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
def test_split_equals_whole_at_cuts_of_several_tensors(name: str, network: Callable[[str], Network]) -> None:
    subject = network(f"torchvision:{name}")
    graph, rng, expected = subject.traced.graph, random.Random(name), whole(subject)
    prefixes = [frozenset(range(n + 1)) for n in np.linspace(0, len(graph.layers) - 1, CUTS // 2).astype(int)]
    cuts = prefixes + [random_cut(graph, rng) for _ in range(CUTS)]
    for head in cuts:
        assert_equal(subject, head, expected)
    assert max(len(graph.boundary(head)) for head in cuts) > 1
    assert len(set(cuts)) >= CUTS
