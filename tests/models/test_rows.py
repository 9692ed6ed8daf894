"""Which rows depend on which: against torch, where a row of NaN shows in all that was computed from it."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.models.rows import Piece, RowOp, RowPlan, Window, head_plan, seconds_of, tail_plan

Case = tuple[nn.Module, Window, int]
"""A layer over rows, how it looks at them, and how many rows it makes."""


@st.composite
def cases(draw: Callable[..., Any], size: int | None = None) -> Case:
    """A convolution, a pooling or a pad, of tensors (1, 1, rows)."""
    rows = size or draw(st.integers(1, 24))
    kernel, stride = draw(st.integers(1, min(4, rows))), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 2)) if 2 * (kernel - 1) < rows else 1
    reach = (kernel - 1) * dilation + 1
    kind = draw(st.sampled_from(("conv", "max", "avg", "pad")))
    module: nn.Module
    if kind == "pad":
        reach, stride, padding = 1, 1, draw(st.integers(0, 5))
        module = nn.ConstantPad1d((padding, draw(st.integers(0, 5))), 0.0)
    elif kind == "conv":
        padding = draw(st.integers(0, reach - 1))
        module = nn.Conv1d(1, 1, kernel, stride, padding, dilation)
        nn.init.ones_(module.weight)
    else:
        padding, is_ceil = draw(st.integers(0, kernel // 2)), bool(draw(st.booleans()))
        if kind == "max":
            module = nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=is_ceil)
        else:
            reach, module = kernel, nn.AvgPool1d(kernel, stride, padding, is_ceil, bool(draw(st.booleans())))
    made = module(torch.zeros(1, 1, rows)).shape[2]
    return module, Window(rows, reach, stride, padding), made


def read_by(module: nn.Module, rows: int) -> list[set[int]]:
    """For each row of the output the rows of the input that it depends on."""
    reads: list[set[int]] = []
    for row in range(rows):
        x = torch.zeros(1, 1, rows)
        x[0, 0, row] = torch.nan
        spoilt = module(x)[0, 0].isnan()
        reads = reads or [set() for _ in spoilt]
        for place in spoilt.nonzero().flatten().tolist():
            reads[place].add(row)
    return reads


@given(cases())
def test_a_window_reads_what_torch_reads(case: Case) -> None:
    module, window, made = case
    reads, has_holes = read_by(module, window.size), getattr(module, "dilation", 1) in (2, (2,))
    assert len(reads) == made
    for row, theirs in enumerate(reads):
        if theirs:
            ours = window.read(row, row + 1)
            assert theirs <= set(range(ours.start, ours.stop))
            assert has_holes or (ours.start, ours.stop) == (min(theirs), max(theirs) + 1)
        else:  # padding alone: it is made with the first row that is not, or with the last one
            assert isinstance(module, nn.ConstantPad1d)
            reads[row] = {0} if row < window.before else {window.size - 1}
    for rows in range(window.size + 1):
        ready = next((row for row, theirs in enumerate(reads) if max(theirs, default=0) >= rows), made)
        assert window.ready(rows, made) == ready or (has_holes and window.ready(rows, made) < ready)
    for rows in range(1, made + 1):
        needed = max(max(theirs, default=0) for theirs in reads[:rows]) + 1
        assert window.needs(rows) == needed or (has_holes and window.needs(rows) > needed)


# --- plans of drawn graphs: every row is made once, of rows that are there


@st.composite
def drawn(draw: Callable[..., Any]) -> tuple[LayerGraph, dict[int, RowOp]]:
    """A graph over rows: windows, sums of two layers, sums with one row of another one, and layers that are none."""
    layers = [Layer("input", "input", (), 4, (1, 1, draw(st.integers(2, 24))))]
    ops: dict[int, RowOp] = {}
    for number in range(1, draw(st.integers(2, 10))):
        source = draw(st.integers(max(0, number - 3), number - 1))
        rows = layers[source].out_shape[2]
        others = [n for n, each in enumerate(layers) if n != source and each.out_shape[2] in (1, rows)]
        kind = draw(st.sampled_from(("window", "window", "sum", "whole")))
        inputs: tuple[int, ...] = (source,)
        if kind == "sum" and others:
            other = draw(st.sampled_from(others))
            inputs, size = (source, other), layers[other].out_shape[2]
            ops[number] = RowOp((Window(rows), Window(size, reads_all=size != rows)), rows)
        elif kind == "whole":
            rows = draw(st.integers(1, 3))
        else:
            _, window, rows = draw(cases(rows))
            ops[number] = RowOp((window,), rows, least=draw(st.integers(1, 4)))
        layers.append(Layer(f"layer{number}", kind, inputs, 4, (1, 1, rows)))
    return LayerGraph("drawn", tuple(layers), (len(layers) - 1,)), ops


class Followed:
    """Follows a plan with sets of rows in place of tensors."""

    def __init__(self, graph: LayerGraph, plan: RowPlan) -> None:
        self.graph, self.plan = graph, plan
        self.there: dict[int, set[int]] = {}
        self.made: dict[int, list[int]] = {}

    def whole(self, layers: frozenset[int]) -> None:
        for source in self.graph.inputs_of(layers):
            assert len(self.there[source]) == self.graph.layers[source].out_shape[2]
        for number in layers:
            self.there[number] = set(range(self.graph.layers[number].out_shape[2]))
            self.made.setdefault(number, []).extend(sorted(self.there[number]))

    def step(self, number: int) -> None:
        step = self.plan.steps[number]
        if step.piece.layer not in self.plan.layers:
            self.there.setdefault(step.piece.layer, set()).update(range(step.piece.start, step.piece.stop))
        for each in step.made:
            for source, reads in zip(self.graph.layers[each.layer].inputs, each.reads, strict=True):
                assert set(range(reads.start, reads.stop)) <= self.there[source]
            rows = range(each.start, each.stop)
            self.there.setdefault(each.layer, set()).update(rows)
            self.made.setdefault(each.layer, []).extend(rows)
        self.forget({each.layer: set(range(each.start, each.stop)) for each in step.kept})
        self.whole(step.whole)

    def forget(self, kept: dict[int, set[int]]) -> None:
        by_rows = {*self.plan.region, *(piece.layer for piece in self.plan.pieces)} - self.plan.full
        for number in by_rows & self.there.keys():
            assert kept.get(number, set()) <= self.there[number]
            if number not in self.plan.first:
                self.there[number] = kept.get(number, set())


def pieces_of(graph: LayerGraph, tensors: Sequence[int], cuts: Sequence[int], turn: int) -> list[Piece]:
    """Each of them in chunks, in the order of their ends, or one after the other."""
    pieces = []
    for number in tensors:
        rows = graph.layers[number].out_shape[2]
        ends = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
        pieces += [Piece(number, start, stop) for start, stop in pairwise(ends)]
    return sorted(pieces, key=lambda each: each.stop) if turn else pieces


CUTS = st.lists(st.integers(1, 23), max_size=5)


@given(drawn(), CUTS, st.integers(0, 9), st.booleans(), st.sampled_from((0.0, 0.25, 0.6)))
def test_a_tail_makes_every_row_once(
    graph_and_ops: tuple[LayerGraph, dict[int, RowOp]], cuts: list[int], at: int, turn: bool, least: float
) -> None:
    graph, ops = graph_and_ops
    head = graph.head_at(at % (len(graph.points) - 1))
    tail = graph.everything - head
    plan = tail_plan(graph, ops, tail, pieces_of(graph, graph.inputs_of(tail), cuts, turn), least)
    if plan is None:
        return
    followed = Followed(graph, plan)
    for number in range(len(plan.steps)):
        followed.step(number)
    followed.whole(plan.rest)
    assert followed.made == {n: list(range(graph.layers[n].out_shape[2])) for n in tail}
    assert all(n in plan.full or n in plan.rest or any(n in step.whole for step in plan.steps) for n in graph.outputs)
    assert seconds_of(plan, [1.0] * len(graph.layers)).total == pytest.approx(len(tail))


@given(drawn(), CUTS, st.integers(0, 9), st.booleans(), st.sampled_from((0.0, 0.25, 0.6)))
def test_a_head_makes_what_leaves_and_no_row_twice(
    graph_and_ops: tuple[LayerGraph, dict[int, RowOp]], cuts: list[int], at: int, turn: bool, least: float
) -> None:
    graph, ops = graph_and_ops
    point = at % (len(graph.points) - 1)
    head = graph.head_at(point)
    plan = head_plan(graph, ops, head, pieces_of(graph, graph.boundary(head), cuts, turn), least)
    if plan is None:
        return
    followed = Followed(graph, plan)
    followed.there[0] = set(range(graph.layers[0].out_shape[2]))
    followed.whole(plan.first - graph.only_inputs)
    for number, piece in enumerate(plan.pieces):
        followed.step(number)
        assert set(range(piece.start, piece.stop)) <= followed.there[piece.layer]
    for number in head - graph.only_inputs:
        rows = followed.made.get(number, [])
        assert rows == list(range(len(rows)))
        if number in graph.boundary(head) or number in plan.first:
            assert len(rows) == graph.layers[number].out_shape[2]


def test_chunks_that_are_not_the_boundary_are_refused() -> None:
    graph = LayerGraph("g", (Layer("input", "input", (), 4, (1, 1, 6)), Layer("a", "a", (0,), 4, (1, 1, 6))), (1,))
    ops = {1: RowOp((Window(6),), 6)}
    for wrong in ([], [Piece(0, 0, 5)], [Piece(0, 0, 3), Piece(0, 4, 6)], [Piece(1, 0, 6)], [Piece(0, 0, 9)]):
        with pytest.raises(ValueError, match="chunk"):
            tail_plan(graph, ops, {1}, wrong)
    with pytest.raises(ValueError, match="another axis"):
        tail_plan(graph, ops, {1}, [Piece(0, 0, 3), Piece(0, 3, 6, axis=1)])


def test_a_deep_layer_stays_whole_where_it_would_begin_late() -> None:
    """Of ten rows the second layer has none before the last chunk."""
    layers = [Layer("input", "input", (), 4, (1, 1, 10))]
    layers += [Layer(f"conv{n}", "conv", (n - 1,), 4, (1, 1, 10)) for n in (1, 2)]
    graph = LayerGraph("g", tuple(layers), (2,))
    ops = {1: RowOp((Window(10, 5, 1, 2),), 10), 2: RowOp((Window(10, 9, 1, 4),), 10)}
    plan = tail_plan(graph, ops, {1, 2}, [Piece(0, 0, 6), Piece(0, 6, 10)])
    assert plan is not None
    assert plan.region == (1,)
    assert (plan.rest, plan.full) == (frozenset({2}), frozenset({1}))
    seconds = seconds_of(plan, [0, 10, 5], step_s=1, call_s=0.5)
    assert (seconds.before, seconds.steps, seconds.after) == (0, (5.5, 7.5), 5)
