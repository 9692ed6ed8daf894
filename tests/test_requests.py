"""What an edge may ask of a network: checked against ranges, sizes and tensors written out, before anything runs."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from models.graph import Layer, LayerGraph
from net.frames import Limits
from net.messages import Hello, Infer
from net.tensors import describe, read
from runtime.requests import check_layers, check_same, check_tensors
from runtime.session import RequestError
from tests.test_graph import chain, random_graph
from utils.errors import MismatchError

MOST = 13
GRAPH = chain([5, 3, 9, 14, 4, 2])
SIZE = len(GRAPH.layers)


def test_ranges_are_taken_where_they_rise_within_the_network_and_what_they_make_is_not_too_large() -> None:
    """Every list of up to two ranges, told by the layers that it names, one after the other."""
    every = list(itertools.product(range(SIZE + 2), repeat=2))
    told: Counter[str] = Counter()
    for ranges in ((), *((one,) for one in every), *itertools.product(every, repeat=2)):
        listed = [number for start, stop in ranges for number in range(start, stop)]
        is_rising = all(a < b for a, b in itertools.pairwise(itertools.chain.from_iterable(ranges)))
        if not ranges or not is_rising or listed[-1] >= SIZE:
            words = "ranges of layers rise"
        elif listed[0] == 0:
            words = "the input stays"
        elif GRAPH.bytes_of(GRAPH.outputs_of(listed)) > MOST:
            words = "--max-payload"
        else:
            words = ""
        told[words] += 1
        request = Infer(1, [list(pair) for pair in ranges], 1.0)
        if not words:
            assert check_layers(request, GRAPH, MOST) == frozenset(listed)
            continue
        with pytest.raises(RequestError, match=words):
            check_layers(request, GRAPH, MOST)
    assert min(told.values()) > 5


def test_tensors_are_those_that_the_layers_read_in_order_and_no_others() -> None:
    rng, limits = random.Random(1), Limits()
    for _ in range(60):
        graph = shaped(rng, random_graph(rng, rng.randrange(3, 9)))
        layers = frozenset(range(rng.randrange(1, len(graph.layers)), len(graph.layers)))
        arrays = [np.zeros(graph.layers[n].out_shape, graph.layers[n].out_dtype) for n in graph.inputs_of(layers)]

        def check(arrays: list[np.ndarray], graph: LayerGraph = graph, layers: frozenset[int] = layers) -> None:
            header, parts = describe(arrays)
            check_tensors(read(header, memoryview(b"".join(parts)), limits), layers, graph)

        check(arrays)
        wrong = rng.randrange(len(arrays))
        name = graph.layers[graph.inputs_of(layers)[wrong]].id
        for other in (arrays[wrong].astype(np.float64), arrays[wrong][..., :1]):
            with pytest.raises(RequestError, match=f"^layer {name} makes "):
                check([*arrays[:wrong], other, *arrays[wrong + 1 :]])
        for count in (arrays[1:], [*arrays, arrays[0]]):
            with pytest.raises(RequestError, match=f"read {len(arrays)} tensors, {len(count)} came"):
                check(count)


def shaped(rng: random.Random, graph: LayerGraph) -> LayerGraph:
    def one(layer: Layer) -> Layer:
        shape = (1, rng.randrange(2, 6))
        return replace(layer, out_shape=shape, out_dtype="float32", out_bytes=4 * shape[1])

    return replace(graph, layers=tuple(map(one, graph.layers)))


@pytest.mark.parametrize("what", ["weights", "graph"])
def test_another_network_of_the_same_name_is_a_mismatch_that_says_what_differs(what: str) -> None:
    mine = Hello("le_net", "sha256:w", "sha256:g", ["raw"], "")
    check_same(replace(mine, token="t", codecs=[]), mine)
    other = "sha256:\n\x1b"
    theirs = replace(mine, weights=other) if what == "weights" else replace(mine, graph=other)
    with pytest.raises(MismatchError, match=f"^le_net: the {what} differ .*--weights"):
        check_same(theirs, mine)
