"""What an edge may ask of a network: checked against ranges, sizes and tensors written out, before anything runs."""

import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.models.marks import CHARS, first_other, spread
from edgecloud.models.marks import MOST as MOST_MARKS
from edgecloud.net.frames import Limits
from edgecloud.net.messages import MAX_ERROR_TEXT, Hello, Infer
from edgecloud.net.tensors import describe, read
from edgecloud.server.requests import RequestError, check_layers, check_same, check_tensors, point_of
from edgecloud.utils.errors import MismatchError
from tests.models.test_graph import chain, random_graph

MOST = 13
GRAPH = chain([5, 3, 9, 14, 4, 2])
SIZE = len(GRAPH.layers)


def test_the_point_of_a_tail_is_that_of_its_cut() -> None:
    for graph in (GRAPH, random_graph(random.Random(3), 12)):
        for point in graph.points[:-1]:
            assert point_of(graph, graph.everything - graph.head_at(point.number)) == point.number
    assert point_of(GRAPH, frozenset({2, 3})) is None, "a part of it in the middle"
    branched = LayerGraph("b", tuple(Layer(str(n), "x", i, 4) for n, i in enumerate(((), (0,), (0,), (1, 2)))), (3,))
    assert point_of(branched, frozenset({2, 3})) is None, "two tensors cross"


def test_ranges_are_taken_where_they_rise_within_the_network_and_what_they_make_is_not_too_large() -> None:
    """Every list of up to two ranges, told by the layers that it names, one after the other."""
    every = list(itertools.product(range(SIZE + 2), repeat=2))
    told: Counter[str] = Counter()
    for ranges in ((), *((one,) for one in every), *itertools.product(every, repeat=2)):
        listed = [number for start, stop in ranges for number in range(start, stop)]
        is_rising = all(a < b for a, b in itertools.pairwise(itertools.chain.from_iterable(ranges)))
        if not ranges or not is_rising or listed[-1] >= SIZE:
            words = "layer ranges must be ascending"
        elif listed[0] == 0:
            words = "the input cannot be an output"
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
            with pytest.raises(RequestError, match=f"read {len(arrays)} tensors, got {len(count)}"):
                check(count)


def shaped(rng: random.Random, graph: LayerGraph) -> LayerGraph:
    def one(layer: Layer) -> Layer:
        shape = (1, rng.randrange(2, 6))
        return replace(layer, out_shape=shape, out_dtype="float32", out_bytes=4 * shape[1])

    return replace(graph, layers=tuple(map(one, graph.layers)))


TENSORS = ("a.bias", "a.weight", "b.weight")
MINE = Hello("le_net", "sha256:w", "sha256:g", ["raw"], "", "2.13.0", "", "aaaaaabbbbbbcccccc")
OWN = replace(MINE, model="net.py", code="sha256:f11e")
OTHER = "sha256:\n\x1b"
DIFFERENT = {
    "graph": (MINE, {"graph": OTHER}, r"^le_net: the graph differs: use .*--weights"),
    "old peer": (
        MINE,
        {"weights": OTHER, "torch": "", "tensors": ""},
        r"^le_net: the weights differ \(cloud .*--weights",
    ),
    "tensor": (
        MINE,
        {"weights": OTHER, "tensors": "aaaaaaXbbbbbXccccc"},
        r"the weights differ, first in a\.weight: use",
    ),
    "torch": (
        MINE,
        {"weights": OTHER, "tensors": "X", "torch": "2.1"},
        r"first in a\.bias; torch differs \(cloud 2\.13\.0, ",
    ),
    "more": (
        MINE,
        {"weights": OTHER, "tensors": MINE.tensors + "dddddd"},
        "first in tensors that only the other side has",
    ),
    "code": (
        OWN,
        {"weights": OTHER, "code": OTHER},
        r"^net\.py: the code differs: use the same file on both sides$",
    ),
    "drawn": (
        OWN,
        {"weights": OTHER, "tensors": "X"},
        r"first in a\.bias: save its weights once, and use --weights FILE on",
    ),
    "baked": (
        OWN,
        {"graph": OTHER},
        r"^net\.py: the graph differs: everything that its file imports or reads must be the same",
    ),
}
"""By name: ours, what another side says instead, and the refusal."""


def changed(hello: Hello, **fields: Any) -> Hello:
    return replace(hello, **fields)


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_network_of_the_same_name_is_a_mismatch_that_says_what_differs(name: str) -> None:
    mine, changes, told = DIFFERENT[name]
    check_same(replace(mine, token="t", codecs=[], torch="", tensors="", code=""), mine, TENSORS)
    with pytest.raises(MismatchError, match=told) as caught:
        check_same(changed(mine, **changes), mine, TENSORS)
    assert len(str(caught.value)) <= MAX_ERROR_TEXT
    assert str(caught.value).isprintable()


def test_a_refusal_fits_whatever_differs_and_however_long_the_names_are() -> None:
    mine = replace(OWN, model="m" * 200 + ".py", torch="2" * 90, code="sha256:" + "c" * 64)
    theirs = replace(mine, weights="w" * 500, graph="\x00" * 500, torch="\x00" * 500, code="\x00" * 500, tensors="x")
    with pytest.raises(MismatchError, match=r"the same file on both sides$") as caught:
        check_same(theirs, mine, ["n" * 400, *TENSORS])
    assert len(str(caught.value)) <= MAX_ERROR_TEXT


@given(count=st.integers(1, 700), first=st.integers(0, 699))
def test_the_first_tensor_that_differs_is_in_the_run_that_is_named(count: int, first: int) -> None:
    names = [f"t{number:03}" for number in range(count)]
    ours = [f"{number:064x}"[::-1] for number in range(count)]
    theirs = [digest if number < first else "f" * 64 for number, digest in enumerate(ours)]
    marks = spread(ours)
    assert len(marks) <= MOST_MARKS * CHARS
    found = first_other(spread(theirs), marks, names)
    if first >= count:
        assert found == ""
    else:
        low, _, high = found.partition(" .. ")
        assert low <= names[first] <= (high or low)
        assert int((high or low)[1:]) - int(low[1:]) < count / MOST_MARKS + 1
