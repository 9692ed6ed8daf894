"""The pure graph: points, boundaries and cuts, checked against brute force on random graphs."""

import itertools
import random

import pytest

from edgecloud.models.graph import Layer, LayerGraph, to_ranges
from edgecloud.utils.errors import UsageError


def chain(sizes: list[int]) -> LayerGraph:
    layers = [Layer(f"l{n}", "k", (n - 1,) if n else (), size) for n, size in enumerate(sizes)]
    return LayerGraph("chain", tuple(layers), (len(sizes) - 1,))


def random_graph(rng: random.Random, count: int, inputs: int = 1) -> LayerGraph:
    """Every layer is read by someone, except the last."""
    reads: list[set[int]] = [set() for _ in range(inputs)] + [{rng.randrange(n)} for n in range(inputs, count)]
    for n in range(inputs, count):
        reads[n] |= {rng.randrange(n) for _ in range(rng.randrange(2))}
    for n in range(count - 1):
        if not any(n in reads[m] for m in range(n + 1, count)):
            reads[rng.randrange(max(n + 1, inputs), count)].add(n)
    layers = [
        Layer(f"l{n}", "k" if n >= inputs else "input", tuple(sorted(reads[n])), rng.randrange(1, 9))
        for n in range(count)
    ]
    return LayerGraph("random", tuple(layers), (count - 1,))


def all_cuts(graph: LayerGraph) -> list[frozenset[int]]:
    """Every set that holds the inputs and is closed under what layers read."""
    found = []
    others = range(len(graph.inputs), len(graph.layers))
    for size in range(len(graph.layers)):
        for chosen in itertools.combinations(others, size):
            head = frozenset(chosen) | graph.only_inputs
            if all(source in head for number in head for source in graph.layers[number].inputs):
                found.append(head)
    return found


def test_a_chain_has_a_point_after_every_layer() -> None:
    graph = chain([10, 20, 5])
    assert [(p.number, p.layer) for p in graph.points] == [(0, 0), (1, 1), (2, 2)]
    assert graph.head_at(0) == {0}
    assert graph.head_at(2) == graph.everything


def test_points_are_all_cuts_that_one_tensor_crosses() -> None:
    rng = random.Random(1)
    for _ in range(300):
        inputs = rng.choice([1, 1, 2, 3])
        graph = random_graph(rng, rng.randrange(inputs + 1, inputs + 8), inputs)
        expected = {head for head in all_cuts(graph) if len(graph.boundary(head)) <= 1} | {graph.only_inputs}
        assert {graph.head_at(p.number) for p in graph.points} == expected
        for point in graph.points:
            assert graph.crossing_at(point.number) == graph.boundary(graph.head_at(point.number))


def test_a_tensor_with_two_readers_crosses_once() -> None:
    layers = (
        Layer("in", "input", (), 8),
        Layer("a", "k", (0,), 4),
        Layer("b", "k", (0,), 4),
        Layer("c", "add", (1, 2), 4),
    )
    graph = LayerGraph("fork", layers, (3,))
    assert graph.boundary({0}) == (0,)
    assert graph.boundary({0, 1}) == (0, 1)
    assert [p.layer for p in graph.points] == [0, 3]


def test_segments_know_what_they_read_and_make() -> None:
    graph = chain([1, 2, 3, 4])
    assert graph.inputs_of({2, 3}) == (1,)
    assert graph.outputs_of({1, 2}) == (2,)
    assert graph.outputs_of({3}) == (3,)
    assert graph.bytes_of((1, 2)) == 5
    assert graph.result_bytes == 4


@pytest.mark.parametrize("head", [[1], [0, 2], [0, 7], []])
def test_a_set_that_is_not_closed_is_no_cut(head: list[int]) -> None:
    with pytest.raises(ValueError, match="chain"):
        chain([1, 1, 1]).check_cut(head)


@pytest.mark.parametrize("point", [-1, 3])
def test_a_point_out_of_range_names_the_range(point: int) -> None:
    with pytest.raises(UsageError, match=r"0 .* to 2"):
        chain([1, 1, 1]).head_at(point)


def test_graphs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="input"):
        LayerGraph("g", (), ())
    with pytest.raises(ValueError, match="does not precede"):
        LayerGraph("g", (Layer("i", "input", (), 1), Layer("a", "k", (1,), 1)), (1,))
    with pytest.raises(ValueError, match="outputs"):
        LayerGraph("g", (Layer("i", "input", (), 1),), (4,))


def test_the_digest_depends_on_the_layers_and_not_on_the_name() -> None:
    assert chain([1, 2]).digest == LayerGraph("other", chain([1, 2]).layers, (1,)).digest
    renamed = (chain([1, 2]).layers[0], Layer("x", "k", (0,), 2))
    assert chain([1, 2]).digest != LayerGraph("chain", renamed, (1,)).digest


def test_ranges_are_half_open_and_sorted() -> None:
    assert to_ranges([5, 0, 1, 2, 7, 6]) == [[0, 3], [5, 8]]
    assert to_ranges([]) == []
