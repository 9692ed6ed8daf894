"""Overlapping stages: the recursion against a simulation, and the chunks that are chosen against all there are."""

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition import chain, overlapped_cut
from edgecloud.partition.chunking import LEAST_S, LEAST_SHARE, Overlapped, axis_of, most_hidden, overlapped
from edgecloud.partition.cost import (
    LATENCY,
    Chunking,
    CloudTimes,
    Crossing,
    Link,
    Packed,
    Power,
    Problem,
    energy_of,
    parts_of,
    pipelined,
    predict,
)
from edgecloud.partition.decide import Goal, decide
from edgecloud.partition.decision_map import DecisionMap
from edgecloud.partition.mincut import CutSolver
from edgecloud.partition.overlap import RowShares
from edgecloud.partition.pareto import front
from tests.conftest import many
from tests.models.test_graph import all_cuts, random_graph

SECONDS = st.floats(0, 10)
CHUNKS = st.lists(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS), min_size=1, max_size=12)
EDGE, LINK, SESSION, COMPUTE = range(4)


def simulated(chunks: Sequence[tuple[float, ...]], queue_s: float, rest_s: float, *, is_by_rows: bool) -> float:
    """Events in the order in which they happen, at servers with queues: no formula.

    The edge's processor does the jobs that it is given one after the other; what leaves a server joins the queue of the
    next one. Somebody else holds the compute thread until `queue_s` after the first job has come for it.
    """
    jobs = [
        [(EDGE, head), (EDGE, encode), (LINK, upload), (SESSION, decode)] + ([(COMPUTE, rows)] if is_by_rows else [])
        for head, encode, upload, decode, rows in chunks
    ]
    if not is_by_rows:
        jobs[-1].append((COMPUTE, 0.0))
    queues: list[list[tuple[int, int]]] = [[], [], [], []]
    events: list[tuple[float, int, int, int, int]] = []
    blocked_until: float | None = None
    is_busy, ticket, now = [False] * 4, itertools.count(), 0.0
    queues[EDGE] = [(number, step) for number in range(len(jobs)) for step in (0, 1)]

    def begin(server: int) -> None:
        nonlocal blocked_until
        if is_busy[server] or not queues[server]:
            return
        if server == COMPUTE and blocked_until is None:
            blocked_until = now + queue_s
            is_busy[server] = True
            heapq.heappush(events, (blocked_until, next(ticket), server, -1, -1))
            return
        number, step = queues[server].pop(0)
        is_busy[server] = True
        heapq.heappush(events, (now + jobs[number][step][1], next(ticket), server, number, step))

    begin(EDGE)
    while events:
        now, _, server, number, step = heapq.heappop(events)
        is_busy[server] = False
        if number >= 0 and step + 1 < len(jobs[number]) and (step > 0):
            after = jobs[number][step + 1][0]
            queues[after].append((number, step + 1))
            begin(after)
        begin(server)
    return now + rest_s


@given(CHUNKS, SECONDS, st.booleans())
def test_the_recursion_is_what_a_simulation_of_events_gives(
    chunks: list[tuple[float, float, float, float, float]], queue_s: float, is_by_rows: bool
) -> None:
    mine = pipelined(chunks, max, queue_s, is_by_rows=is_by_rows)
    assert mine == pytest.approx(simulated(chunks, queue_s, 0.0, is_by_rows=is_by_rows))
    arrays = [tuple(np.array([seconds, 2 * seconds]) for seconds in chunk) for chunk in chunks]
    both = pipelined(arrays, np.maximum, queue_s, is_by_rows=is_by_rows)  # type: ignore[arg-type]
    assert both[0] == mine


@given(CHUNKS)
def test_one_after_the_other_is_an_upper_bound_and_the_longest_stage_a_lower_one(
    chunks: list[tuple[float, float, float, float, float]],
) -> None:
    done_s = pipelined(chunks, max, is_by_rows=True)
    sums = [sum(chunk[stage] for chunk in chunks) for stage in range(5)]
    assert max(sums[0] + sums[1], *sums[2:]) <= done_s * (1 + 1e-12)
    assert done_s <= sum(sums) * (1 + 1e-12)


# --- the chunks that are chosen


def pictures(rng: random.Random, count: int, rows: int) -> LayerGraph:
    """A chain whose tensors have so many rows."""
    layers = [Layer("in", "input", (), 4 * 3 * rows * rows, (1, 3, rows, rows))]
    for number in range(1, count):
        channels = rng.randrange(1, 9)
        shape = (1, channels, rows, rows)
        layers.append(Layer(f"l{number}", "conv", (number - 1,), 4 * channels * rows * rows, shape))
    return LayerGraph("pictures", tuple(layers), (count - 1,))


def shares(rng: random.Random, layers: Sequence[int], rows: int) -> RowShares:
    """Layers that lag behind the first rows by a few, as convolutions do."""
    lags = sorted(rng.randrange(max(1, rows // 2)) for _ in layers)
    table = [tuple(max(0.0, row - lag) / (rows - lag) for lag in lags) for row in range(rows)]
    own = random.Random(sum(lags))
    blocks, block_s = tuple(own.randrange(1, 9) for _ in lags), tuple(own.uniform(0, 8e-3) for _ in lags)
    return RowShares(tuple(layers), (*table, (1.0,) * len(lags)), blocks, block_s)


def drawn(rng: random.Random, rows: int, count: int = 5) -> Problem:
    """Stages that are comparable, and chunks that cost a little."""
    graph = pictures(rng, count, rows)
    seconds = [[0.0, *(rng.uniform(0.001, 0.2) for _ in range(count - 1))] for _ in range(2)]
    packed = [Packed("zstd", layer.out_bytes // 2, rng.uniform(0, 0.3), rng.uniform(0, 0.3)) for layer in graph.layers]
    link = Link(graph.layers[0].out_bytes / rng.uniform(0.1, 1), 1e5, 0.02)
    ends = {point.layer: point for point in graph.points[:-1]}
    by_rows: dict[Crossing, RowShares] = {
        (layer,): shares(rng, range(layer + 1, rng.randrange(layer + 1, count) + 1), rows)
        for layer in ends
        if rng.random() < 0.6
    }
    made: dict[Crossing, RowShares] = {
        (layer,): shares(rng, range(rng.randrange(1, layer + 1), layer + 1), rows)
        for layer in ends
        if layer and rng.random() < 0.4
    }
    edge_s, cloud_s, edge_blocks, cloud_blocks = (rng.uniform(0, most) for most in (0.01, 0.01, 2, 2))
    rest_s = cloud_blocks * 1e-3
    chunking = Chunking(
        edge_s, cloud_s, edge_blocks, cloud_blocks, rest_s, 16, lambda codec, _: Packed(codec, 60), made, by_rows
    )
    cloud = CloudTimes(seconds[1], [0.001] * count, rng.choice([1.0, 2.0]), rng.choice([0.0, 0.05]))
    return Problem(graph, seconds[0], cloud, link, packed=packed, chunking=chunking)


def fixed(of: RowShares, seconds: Sequence[float], slower: float) -> list[float]:
    """Of each layer the seconds of one block, however small."""
    return [min(slower * block_s, seconds[n]) for n, block_s in zip(of.layers, of.block_s, strict=True)]


def done(of: RowShares, seconds: Sequence[float], slower: float, row: int) -> float:
    each = zip(of.layers, of.shares[row], fixed(of, seconds, slower), strict=True)
    return sum(share * (seconds[n] - one) for n, share, one in each)


def told(
    problem: Problem,
    layer: int,
    ends: Sequence[int],
    *,
    head_rows: bool,
    tail_rows: bool,
    until: int | None = None,
    is_simulated: bool = True,
) -> float:
    """The total of one way to cut a boundary, written out from the costs, by simulation or by the recursion."""
    graph, chunking, cloud, link = problem.graph, problem.chunking, problem.cloud, problem.link
    assert chunking is not None
    assert problem.packed is not None
    packed, rows = problem.packed[layer], graph.layers[layer].out_shape[2]
    head_s, tail_s = sum(problem.edge_s[: layer + 1]), sum(cloud.seconds[layer + 1 :]) + cloud.start_s[layer]

    chunks, begin = [], 0
    made, fed = chunking.head_rows.get((layer,)), chunking.tail_rows.get((layer,))
    if fed is not None and until is not None:
        kept = [place for place, number in enumerate(fed.layers) if number <= until]
        layers, blocks = (tuple(each[place] for place in kept) for each in (fed.layers, fed.blocks))
        block_s = tuple(fed.block_s[place] for place in kept)
        fed = RowShares(layers, tuple(tuple(row[place] for place in kept) for row in fed.shares), blocks, block_s)
    for number, end in enumerate(ends):
        share, more = (end - begin) / rows, number > 0
        head = head_s if not more else 0.0
        if head_rows and made is not None:
            of_edge = made, problem.edge_s, chunking.edge_blocks
            before = head_s - done(*of_edge, rows) if not more else 0.0
            head = before + done(*of_edge, end) - done(*of_edge, begin)
            head += more * chunking.edge_blocks * further_blocks_s(made, len(ends) - 1)
        computed = 0.0
        if tail_rows and fed is not None:
            of_cloud = fed, cloud.seconds, chunking.cloud_blocks
            computed = done(*of_cloud, end) - done(*of_cloud, begin)
            if number == len(ends) - 1:
                computed += sum(fixed(*of_cloud))
            else:
                computed += chunking.cloud_blocks * further_blocks_s(fed, len(ends) - 1) + chunking.rest_s
            computed *= cloud.load
        chunks.append(
            (
                head,
                share * packed.encode_s + more * chunking.edge_s,
                (share * packed.bytes + more * 60) / link.up_bytes_per_s,
                share * packed.decode_s + more * chunking.cloud_s,
                computed,
            )
        )
        begin = end
    if tail_rows and fed is not None:
        tail_s -= done(fed, cloud.seconds, chunking.cloud_blocks, rows)
        tail_s -= sum(fixed(fed, cloud.seconds, chunking.cloud_blocks))
    rest_s = cloud.load * tail_s
    rest_s += link.rtt_s + problem.result_bytes / link.down_bytes_per_s
    if is_simulated:
        return simulated(chunks, cloud.queue_s, rest_s, is_by_rows=tail_rows)
    return pipelined(chunks, max, cloud.queue_s, is_by_rows=tail_rows) + rest_s


def further_blocks_s(rows: RowShares, further: int) -> float:
    """What the blocks of each of so many further chunks take: no layer has more than it can have."""
    if not further:
        return 0.0
    most = zip(rows.blocks, rows.block_s, strict=True)
    return sum(seconds * min(further, blocks - 1) for blocks, seconds in most) / further


def by_brute_force(problem: Problem, layer: int) -> float:
    """The best of all ends, in one piece included."""
    rows = problem.graph.layers[layer].out_shape[2]
    assert problem.chunking is not None
    fed = problem.chunking.tail_rows.get((layer,))
    rowwise = [
        (head_rows, tail_rows, until)
        for head_rows in {False, (layer,) in problem.chunking.head_rows}
        for tail_rows in {False, fed is not None}
        for until in (fed.layers if fed is not None and tail_rows else (None,))
    ]
    return min(
        told(problem, layer, (*inner, rows), head_rows=head_rows, tail_rows=tail_rows, until=until, is_simulated=False)
        for count in range(rows)
        for inner in itertools.combinations(range(1, rows), count)
        for head_rows, tail_rows, until in rowwise
    )


def at(problem: Problem, number: int) -> Overlapped:
    return overlapped(problem, parts_of(problem.graph, problem.graph.head_at(number)))


def test_the_prediction_is_what_a_simulation_of_the_chosen_chunks_gives() -> None:
    rng, overlapping, limited = random.Random(1), 0, 0
    for _ in range(60):
        problem = drawn(rng, rng.choice([4, 9, 56]))
        for point in problem.graph.points[:-1]:
            found = at(problem, point.number)
            if found.overlap is None:
                continue
            overlapping += 1
            chosen = found.overlap
            (slices,) = chosen.slices
            assert slices.layer == point.layer
            assert slices.axis == 2
            by_rows = {"head_rows": chosen.head_rows, "tail_rows": chosen.tail_rows}
            total = told(problem, point.layer, slices.ends, **by_rows, until=chosen.until)
            limited += chosen.until is not None
            assert found.predicted.total_s == pytest.approx(total)
            assert found.predicted.hidden_s > 0
    assert overlapping > 100
    assert limited > 5


@pytest.mark.parametrize(("rows", "problems", "most"), [(7, 8, 1 + 1e-9), (11, 3, 1.02)])
def test_chunks_are_near_the_best_of_all_and_never_worse_than_one(rows: int, problems: int, most: float) -> None:
    """Of a short axis all ends are tried; of a longer one it is no more than 2 % off, and mostly nothing."""
    rng, ratios = random.Random(2), []
    for _ in range(problems):
        problem = drawn(rng, rows)
        for point in problem.graph.points[:-1]:
            best_s, mine_s = by_brute_force(problem, point.layer), at(problem, point.number).predicted.total_s
            in_turn_s = predict(problem, parts_of(problem.graph, problem.graph.head_at(point.number))).total_s
            assert best_s * (1 - 1e-9) <= mine_s <= in_turn_s * (1 + 1e-12)
            if best_s < in_turn_s - max(LEAST_SHARE * in_turn_s, LEAST_S):
                ratios.append(mine_s / best_s)
            else:
                assert mine_s == pytest.approx(in_turn_s)
    assert len(ratios) > 2 * problems
    assert max(ratios) < most
    assert sorted(ratios)[len(ratios) // 2] < 1.001


def test_no_cut_is_below_its_bound() -> None:
    rng = random.Random(3)
    for _ in range(40):
        problem = drawn(rng, 14)
        for point in problem.graph.points[:-1]:
            head = problem.graph.head_at(point.number)
            in_turn = predict(problem, parts_of(problem.graph, head))
            assert at(problem, point.number).predicted.total_s >= in_turn.total_s - most_hidden(problem, head, in_turn)


def test_without_chunks_nothing_changes() -> None:
    """A problem that says nothing of chunks, chunks that cost too much, or one at most."""
    problem = drawn(random.Random(4), 56)
    assert problem.chunking is not None
    plain = chain.scan(replace(problem, chunking=None))
    dear = replace(problem.chunking, edge_s=9.0)
    for chunking in (dear, replace(problem.chunking, most=1)):
        assert chain.scan(replace(problem, chunking=chunking)) == plain
    assert [c.predicted.hidden_s for c in plain] == [0.0] * len(plain)


def test_a_gain_below_what_predictions_can_tell_is_none() -> None:
    """64 KiB on 100 mbit: packing takes 0.2 of 8 ms."""
    layers = (Layer("in", "input", (), 1 << 16, (1, 16, 32, 32)), Layer("a", "k", (0,), 40, (1, 10)))
    problem = Problem(
        LayerGraph("small", layers, (1,)),
        [0, 1.0],
        CloudTimes([0, 0.001], [0, 0]),
        Link(12.5e6, 12.5e6, 0.001),
        packed=[Packed("zstd", 1 << 16, 1e-4, 1e-4), Packed("raw", 40)],
        chunking=Chunking(),
    )
    assert at(problem, 0).overlap is None


def test_several_tensors_leave_one_after_the_other_and_no_chunk_is_of_two() -> None:
    shape = (1, 4, 16, 16)
    layers = (
        Layer("in", "input", (), 4096, shape),
        Layer("a", "k", (0,), 4096, shape),
        Layer("b", "k", (0,), 4096, shape),
        Layer("c", "k", (1, 2), 40, (1, 10)),
    )
    packed = [Packed("zstd", 4096, 0.1, 0.1)] * 3 + [Packed("raw", 40)]
    cloud = CloudTimes([0, 1, 1, 0.01], [0] * 4)
    problem = Problem(LayerGraph("two", layers, (3,)), [0, 0.01, 0.01, 9], cloud, Link(20480, 1e6, 0.01), packed=packed)
    problem = replace(problem, chunking=Chunking(1e-3, 1e-3))
    found = overlapped(problem, parts_of(problem.graph, frozenset({0, 1, 2})))
    assert found.overlap is not None
    assert [each.layer for each in found.overlap.slices] == [1, 2]
    assert all(each.size == 16 and len(each) > 1 for each in found.overlap.slices)
    in_turn = predict(problem, parts_of(problem.graph, frozenset({0, 1, 2})))
    assert found.predicted.total_s < 0.72 * in_turn.total_s
    uncut = replace(problem, chunking=Chunking(1e-3, 1e-3, more=lambda *_: None))
    whole = overlapped(uncut, parts_of(problem.graph, frozenset({0, 1, 2})))
    assert whole.overlap is not None
    assert [each.ends for each in whole.overlap.slices] == [(16,), (16,)]
    assert found.predicted.total_s < whole.predicted.total_s < in_turn.total_s
    assert overlapped(uncut, parts_of(problem.graph, frozenset({0}))).overlap is None


def test_a_branch_of_the_tail_runs_while_the_other_tensor_comes() -> None:
    shape = (1, 4, 16, 16)
    layers = (
        Layer("in", "input", (), 4096, shape),
        Layer("a", "k", (0,), 4096, shape),
        Layer("b", "k", (0,), 4096, shape),
        Layer("long", "k", (1,), 4096, shape),
        Layer("both", "k", (3, 2), 40, (1, 10)),
    )
    head = frozenset({0, 1, 2})
    packed = [Packed("zstd", 4096, 0.1, 0.1)] * 4 + [Packed("raw", 40)]
    cloud = CloudTimes([0, 1, 1, 0.2, 0.05], [0] * 5, queue_s=0.03)
    link = Link(20480, 1e6, 0.01)
    problem = Problem(LayerGraph("two", layers, (4,)), [0, 0.01, 0.02, 9, 9], cloud, link, packed=packed)
    rows = RowShares((3,), (*(16 * ((0.0,),)), *(17 * ((1.0,),))), block_s=(1e-3,))
    whole = Chunking(1e-3, 1e-3, more=lambda *_: None)
    crossing: Crossing = (1, 2)
    plain, branching = whole, replace(whole, tail_rows={crossing: rows})
    before = overlapped(replace(problem, chunking=plain), parts_of(problem.graph, head))
    found = overlapped(replace(problem, chunking=branching), parts_of(problem.graph, head))
    assert found.overlap is not None
    assert found.overlap.tail_rows
    rest_s = 0.05 + link.rtt_s + problem.result_bytes / link.down_bytes_per_s
    chunks = [(0.01, 0.1, 0.2, 0.1, 0.2), (0.02, 0.101, 0.2, 0.101, 1e-3)]
    assert found.predicted.total_s == pytest.approx(simulated(chunks, 0.03, rest_s, is_by_rows=True))
    assert before.predicted.total_s - found.predicted.total_s == pytest.approx(0.2)
    rough = overlapped(replace(problem, chunking=branching), parts_of(problem.graph, head), is_rough=True)
    assert rough.predicted == before.predicted


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1, 3, 224, 224), 2),
        ((1, 256, 1, 1), 1),
        ((1, 4096), 1),
        ((1, 7), None),
        ((64,), None),
        ((), None),
        ((1, 2, 768), 2),
        ((1, 197, 768), 1),
        ((8, 3, 4, 4), 2),
    ],
)
def test_where_a_tensor_is_cut(shape: tuple[int, ...], axis: int | None) -> None:
    assert axis_of(shape) == axis


def test_hidden_seconds_save_the_edge_its_idle_watts_and_no_more() -> None:
    power, problem = Power(6.0, 2.0, 5.0, 1.0), drawn(random.Random(5), 56)
    for candidate in chain.scan(problem)[:-1]:
        times = candidate.predicted
        joules = power.weights.value(times)
        assert energy_of(times, problem.link, power, is_local=False).total_j == pytest.approx(joules, rel=1e-2)
        assert joules == pytest.approx(power.weights.value(replace(times, hidden_s=0.0)) - 2.0 * times.hidden_s)


def test_stages_and_hidden_seconds_make_the_total() -> None:
    for candidate in chain.scan(drawn(random.Random(6), 28)):
        times = candidate.predicted
        assert times.total_s == pytest.approx(times.stages_s - times.hidden_s)
        assert LATENCY.value(times) == pytest.approx(times.total_s)
        assert times.waiting_s == times.total_s - times.edge_s
        assert times.to_json()["hidden_s"] == times.hidden_s
        assert times.plus(times).hidden_s == 2 * times.hidden_s
    longer = times.lasting(times.total_s + 1)
    assert [longer.total_s, longer.link_s] == pytest.approx([times.total_s + 1, 1])
    shorter = replace(times, edge_s=3.0).lasting(2.0)
    assert [shorter.total_s, shorter.hidden_s, shorter.edge_s] == pytest.approx([2.0, 1.0, 3.0])


# --- searches over all cuts


def branching(rng: random.Random, count: int) -> Problem:
    """Any graph, with tensors that can be cut, and packing that is worth hiding."""
    graph = random_graph(rng, count)
    sizes = [rng.randrange(1, 9) for _ in graph.layers]
    layers = [
        replace(layer, out_bytes=256 * size, out_shape=(1, size, 8, 8))
        for layer, size in zip(graph.layers, sizes, strict=True)
    ]
    graph = replace(graph, layers=tuple(layers))
    packed = [Packed("z", layer.out_bytes, rng.uniform(0, 0.6), rng.uniform(0, 0.6)) for layer in layers]
    seconds = [[0.0, *(rng.random() for _ in layers[1:])] for _ in range(2)]
    cloud = CloudTimes(seconds[1], [rng.random() * 0.1 for _ in layers], rng.uniform(0.2, 1.5), rng.random() * 0.1)
    link = Link(rng.uniform(1e3, 1e4), 1e6, 0.01)
    chunking = Chunking(rng.uniform(0, 0.02), rng.uniform(0, 0.02))
    return Problem(graph, seconds[0], cloud, link, packed=packed, chunking=chunking)


POWER = Power(6.4, 2.7, 5.5, 1.2)


def in_one_go(problem: Problem, head: frozenset[int]) -> Problem:
    """The same where all of a head is needed before its first tensor is there: the inputs take all of its time."""
    edge_s = [0.0] * len(problem.edge_s)
    edge_s[0] = sum(problem.edge_s[layer] for layer in head)
    return replace(problem, edge_s=edge_s)


def test_the_best_cut_of_a_graph_with_overlap_is_that_of_brute_force() -> None:
    rng, is_other = random.Random(7), 0
    for number in range(many(50, 800)):
        problem = branching(rng, rng.randrange(3, 8))
        weights = (LATENCY, POWER.weights)[number % 2]
        every = {head: overlapped_cut.value_of(problem, head, weights) for head in all_cuts(problem.graph)}
        bounds = [overlapped_cut.value_of(in_one_go(problem, head), head, weights) for head in every]
        goal = Goal("energy" if number % 2 else "latency", "mincut")
        decision = decide(problem, goal, POWER)
        value = weights.value(decision.predicted)
        assert decision.is_optimal
        assert value == pytest.approx(every[decision.head])
        assert value <= min(bounds) * (1 + 1e-9)
        assert value == pytest.approx(min(every.values()), rel=0.1)
        assert (decision.overlap is None) == (decision.predicted.hidden_s == 0)
        solver = CutSolver(problem.graph)
        is_other += solver.best(solver.terms(problem, weights)) != decision.head
    assert is_other  # the minimum cut alone would have been wrong


def test_a_walk_that_takes_too_long_says_how_far_off_it_may_be() -> None:
    rng, gaps = random.Random(8), []
    for _ in range(15):
        problem = branching(rng, 6)
        cut = overlapped_cut.best(problem, LATENCY, CutSolver(problem.graph), [], steps=3)
        least = min(overlapped_cut.value_of(problem, head, LATENCY) for head in all_cuts(problem.graph))
        assert cut.is_optimal or least >= (1 - cut.gap) * cut.value * (1 - 1e-9)
        assert not cut.is_optimal or cut.value == pytest.approx(least)
        gaps.append(cut.gap)
    assert any(gaps)


def test_points_under_every_objective() -> None:
    """Latency, energy and both weighted hide what they can; the bottleneck stage has nothing to hide."""
    rng = random.Random(9)
    for _ in range(5):
        problem = drawn(rng, 14)
        plain = replace(problem, chunking=None)
        for goal in (Goal("latency"), Goal("energy"), Goal("weighted", seconds_per_joule=0.3)):
            weights = goal.weights(POWER)
            decision = decide(problem, goal, POWER)
            heads = [problem.graph.head_at(point.number) for point in problem.graph.points]
            every = [overlapped(problem, parts_of(problem.graph, head), weights).predicted for head in heads]
            assert weights.value(decision.predicted) == pytest.approx(min(map(weights.value, every)))
            assert decision.gain is not None
            ends = [weights.value(every[0]), weights.value(every[-1])]
            assert decision.gain.better.value == pytest.approx(min(ends), rel=0.02)  # ends have good chunks, too
        throughput = decide(problem, Goal("throughput"), POWER)
        assert throughput.overlap is None
        assert throughput.predicted == decide(plain, Goal("throughput"), POWER).predicted


def test_a_limit_of_cost_holds_with_overlap() -> None:
    rng = random.Random(10)
    for _ in range(30):
        problem = drawn(rng, 14)
        goal = Goal(max_cost=rng.uniform(0, 0.5), price_per_s=1.0)
        decision = decide(problem, goal)
        assert goal.max_cost is not None
        assert decision.cost <= goal.max_cost
        assert decision.predicted.total_s <= decide(replace(problem, chunking=None), goal).predicted.total_s + 1e-9


def test_other_searches_look_at_the_same_without_overlap() -> None:
    """The decision map, and where a cut pays, are what they were: bounds."""
    problem = drawn(random.Random(11), 14)
    problem = replace(problem, edge_s=[20 * seconds for seconds in problem.edge_s])
    plain = replace(problem, chunking=None)
    assert DecisionMap.of(problem).regions == DecisionMap.of(plain).regions
    assert any(each.predicted.hidden_s > 0 for each in front(problem, POWER))
