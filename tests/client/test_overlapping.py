"""Plans of real edges with a real cloud: chunks where they are predicted to save time, and never where they are off."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgecloud as ec
from edgecloud.client.planning import chunking_for
from edgecloud.engine.overlapping import BLOCKS, MOST, PIECES, RowsOf, chunking_of, further_chunk
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import registry
from edgecloud.models.rows import Piece
from edgecloud.models.specs import UnknownLayerError
from edgecloud.partition.chunking import axis_of
from edgecloud.partition.decide import Goal
from edgecloud.tools.plan_table import overlap_json, overlap_line
from tests import branches

torch.manual_seed(0)
MODULE = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8192, 9))
X = torch.rand(1, 3, 128, 128)
SLOW: dict[str, Any] = {"emulate_cpu": 0.02, "link": ec.Link("8mbit", rtt="2ms"), "codec": "zstd"}
"""Packing takes about as long as sending."""


@pytest.fixture(scope="module")
def net() -> ec.Network:
    return ec.load(MODULE.eval(), X)


@pytest.fixture(scope="module")
def address(net: ec.Network) -> Iterator[str]:
    with ec.Cloud(networks=[net]) as cloud:
        yield cloud.address


def test_a_plan_overlaps_and_its_answer_is_the_same(net: ec.Network, address: str) -> None:
    with torch.inference_mode():
        expected = MODULE(X).numpy()
    with ec.Edge(net, cloud=address, point=0, **SLOW) as edge:
        plan = edge.client.plan
        overlap, predicted = plan.decision.overlap, plan.decision.predicted
        assert overlap is not None
        assert overlap.count > 1
        assert predicted.hidden_s > 0.02 * predicted.total_s
        for answer in (edge(X), *edge.map([X] * 3)):
            np.testing.assert_allclose(answer.outputs[0], expected, rtol=1e-4, atol=1e-5)
            times = answer.times
            assert times.total_s == pytest.approx(times.stages_s - times.hidden_s)
            assert times.hidden_s >= 0
        shown = overlap_json(net.graph, overlap)
        assert shown is not None
        assert shown["slices"] == [{"layer": "input", "axis": 2, "ends": list(overlap.slices[0].ends)}]
        assert f"{overlap.count} chunks" in overlap_line(net.graph, plan.decision)


def test_nothing_overlaps_where_it_is_off_or_the_cloud_takes_no_chunks(net: ec.Network, address: str) -> None:
    with ec.Edge(net, cloud=address, point=0, overlap="off", **SLOW) as edge:
        assert edge.client.plan.decision.overlap is None
        assert edge(X).times.hidden_s == 0
        inner, config = edge.client.prepared.edge, replace(edge.client.config, overlap="auto")
        chunking = chunking_for(inner, config)
        assert chunking is not None
        assert chunking.most == MOST
        assert chunking_for(inner, replace(config, goal=Goal("throughput"))) is None
    for most in (0, 1):
        assert chunking_of(most) is None
    with pytest.raises(ec.UsageError, match="overlap is one of auto, off"):
        ec.Edge(net, cloud=None, overlap="on")  # type: ignore[arg-type]


def test_a_free_plan_compares_ends_that_overlap_too(net: ec.Network, address: str) -> None:
    with ec.Edge(net, cloud=address, **SLOW) as edge:
        decision = edge.client.plan.decision
        assert decision.gain is not None
        cloud = next(end for end in decision.gain.ends if end.place == "cloud")
        assert cloud.predicted.hidden_s > 0
        assert cloud.value == pytest.approx(cloud.predicted.stages_s - cloud.predicted.hidden_s)
        answers = [edge(X) for _ in range(6)]
        assert all(answer.completed_by != "fallback" for answer in answers)
        assert edge.client.runner.forecast()[0].predicted.total_s > 0
        edge.client.runner.pin(0)
        assert edge.client.runner.pinned is not None
        assert edge.client.runner.pinned.overlap is not None


def test_codecs_that_carry_no_slices_leave_in_one_piece() -> None:
    shape = (1, 3, 64, 64)
    assert further_chunk("zstd", shape) is not None
    assert further_chunk("ec4", shape) is not None
    assert further_chunk("jpeg", shape) is None
    assert further_chunk("learned:x", shape) is None
    assert further_chunk("raw", (1, 3)) is None


def test_what_can_be_computed_of_the_first_rows(net: ec.Network, address: str) -> None:
    with ec.Edge(net, cloud=address, point=0, **SLOW) as edge:
        executor = edge.client.prepared.edge.executor
        tails, heads = RowsOf.of_tails(executor), RowsOf.of_heads(executor)
        shares = tails[(0,)]
        assert shares.size == 128
        assert shares.layers[:3] == (1, 2, 3)
        assert all(0.2 < share <= 0.5 for share in shares.shares[64])
        assert (3,) in heads  # the last convolution's rows can leave one by one
        assert (len(net.graph.layers) - 1,) not in heads
        assert set(tails) <= {(point.layer,) for point in net.graph.points}


def test_what_can_be_computed_once_one_of_several_tensors_is_there() -> None:
    with branches.small_blocks():
        net = ec.load(branches.module(), branches.picture())
        executor = TorchExecutor(net.made_for("cpu"), "cpu")
        graph = executor.network.graph
        (left, right) = (number for number, layer in enumerate(graph.layers) if layer.id in ("left", "right"))
        shares = RowsOf.of_tails(executor)[left, right]
        assert shares.size == 2 * 24
        done = dict(zip(shares.layers, shares.shares[24], strict=True))
        (acting,) = graph.readers[left]
        (joining,) = graph.readers[acting]
        assert done[acting] == 1
        assert done.get(joining, 0) == 0
        with pytest.raises(KeyError):
            RowsOf.of_heads(executor)[left, right]
        with pytest.raises(KeyError):
            RowsOf.of_tails(executor)[left, left]


def test_calls_take_longer_where_only_a_share_of_a_core_is_there(net: ec.Network, address: str) -> None:
    with ec.Edge(net, cloud=address, point=0, **SLOW) as edge:
        inner, config = edge.client.prepared.edge, edge.client.config
        assert inner.ready is not None
        assert inner.ready.share == 1
        chunking = chunking_for(inner, config)
        assert chunking is not None
        assert (chunking.cloud_blocks, chunking.edge_blocks) == (1, 1 / SLOW["emulate_cpu"])
    slower = chunking_of(MOST, cloud_share=0.25)
    assert slower is not None
    assert (slower.cloud_blocks, slower.edge_blocks) == (4, 1)


def test_blocks_read_weights_again_and_are_no_more_than_there_are_rows_for() -> None:
    network = registry.built_in("le_net").network()
    shares = RowsOf.of_tails(TorchExecutor(network, "cpu"))[0,]
    call_s, bytes_per_s = BLOCKS["torch"]
    for layer, blocks, block_s in zip(shares.layers, shares.blocks, shares.block_s, strict=True):
        rows, spec = network.graph.layers[layer].out_shape[2], network.specs()[layer - 1]
        assert 1 <= blocks <= rows
        assert block_s == pytest.approx(call_s + spec.weight_bytes / bytes_per_s)
    kinds = {network.specs()[layer - 1].weight_bytes > 0 for layer in shares.layers}
    assert kinds == {True, False}


@pytest.mark.parametrize("name", ["le_net", "mobile_net", "googlenet"])
def test_shares_are_what_the_steps_of_a_plan_compute(name: str) -> None:
    """At the ends of chunks; a plan has every block, shares come from counts of rows alone."""
    executor = TorchExecutor(registry.resolve_trusted(name).network(), "cpu")
    graph, compared = executor.network.graph, 0
    tails, heads = RowsOf.of_tails(executor), RowsOf.of_heads(executor)
    for (layer,) in [*tails, *heads]:
        shape = graph.layers[layer].out_shape
        axis = axis_of(shape)
        assert axis is not None
        ends = sorted({round(shape[axis] * part) for part in PIECES} - {0})
        pieces = [Piece(layer, start, stop, axis) for start, stop in pairwise((0, *ends))]
        head = graph.only_inputs | graph.needed_by(layer)
        sides = (
            (tails, executor.tail_rows(graph.everything - head, pieces)),
            (heads, executor.head_rows(head, pieces)),
        )
        for found, plan in sides:
            assert (plan is not None) == ((layer,) in found)
            if plan is None:
                continue
            shares = found[(layer,)]
            done = dict.fromkeys((*plan.region, *(each for step in plan.steps for each in step.whole)), 0.0)
            assert set(done) == set(shares.layers)
            for step, end in zip(plan.steps, ends, strict=True):
                done |= {made.layer: made.stop / plan.rows[made.layer] for made in step.made}
                done |= dict.fromkeys(step.whole, 1.0)
                told = dict(zip(shares.layers, shares.shares[end], strict=True))
                assert told == pytest.approx(dict.fromkeys(told, 1.0) if end == ends[-1] else done)
            blocks = Counter(made.layer for step in plan.steps for made in step.made)
            assert shares.blocks == tuple(blocks[each] or 1 for each in shares.layers)
            compared += 1
    assert compared > 2


def test_weights_count_where_another_layer_is_unknown() -> None:
    module = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Softshrink())
    network = ec.load(module.eval(), torch.rand(1, 3, 32, 32)).made_for("cpu")
    with pytest.raises(UnknownLayerError):
        network.specs()
    shares = RowsOf.of_tails(TorchExecutor(network, "cpu"))[0,]
    call_s, bytes_per_s = BLOCKS["torch"]
    sizes = [0, *(sum(4 * each.numel() for each in layer.parameters()) for layer in module)]
    assert network.weight_bytes() == tuple(sizes)
    assert shares.block_s == pytest.approx([call_s + sizes[layer] / bytes_per_s for layer in shares.layers])
