"""Boundaries that leave in chunks: real sockets, a real cloud, and the caller's own module in torch as the oracle."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import edgecloud as ec
from benchmarks.frame_proxy import FrameProxy, Line, Place, Said, close, silence
from edgecloud.client.chunks import fitted, stages_of
from edgecloud.client.config import CloudConfig, EdgeConfig
from edgecloud.client.connection_manager import ConnectionConfig
from edgecloud.client.edge import Answered, Edge
from edgecloud.client.resilient import ResilientClient
from edgecloud.engine import tables
from edgecloud.engine.by_rows import HeadStream
from edgecloud.engine.executor import BaseExecutor, Ran
from edgecloud.net import entropy
from edgecloud.net.codec import CODECS, OPTIONAL, is_lossless
from edgecloud.net.frames import FrameType
from edgecloud.net.tensors import Array
from edgecloud.net.tls import client_tls
from edgecloud.partition.cost import parts_of
from edgecloud.partition.overlap import Overlap, Slices
from tests import branches, certificates
from tests.branches import heads, overlap_of
from tests.conftest import LONG_S
from tests.models.test_graph import random_graph

MODULE, X = branches.module(), branches.picture()
with torch.inference_mode():
    EXPECTED = MODULE(X).numpy()


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    with branches.small_blocks():
        yield


@pytest.fixture(scope="module")
def net() -> ec.Network:
    return ec.load(MODULE, X)


@pytest.fixture(scope="module")
def port(net: ec.Network) -> Iterator[int]:
    """Of a cloud that serves it."""
    with ec.Cloud(networks=[net]) as cloud:
        yield int(cloud.address.rpartition(":")[2])


@pytest.fixture
def alone(net: ec.Network) -> Iterator[Edge]:
    with closing(Edge.around(EdgeConfig(net.name), net.entry, net.made_for("cpu"))) as edge:
        yield edge


@pytest.fixture
def edge(alone: Edge, port: int) -> Edge:
    alone.connect("127.0.0.1", port, "", LONG_S)
    return alone


def ask(edge: Edge, head: frozenset[int], overlap: Overlap | None, codec: str = "raw") -> Answered:
    codecs = dict.fromkeys(edge.graph.boundary(head), codec)
    return edge.infer_parts(X.numpy(), parts_of(edge.graph, head), LONG_S, codecs, overlap)


def assert_right(answered: Answered, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(answered.outputs[0], EXPECTED, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("count", "axis"), [(2, 1), (2, 3), (5, 2), (24, 2)])
def test_every_cut_in_chunks_gives_the_answer_of_the_module(edge: Edge, count: int, axis: int) -> None:
    for head in heads(edge.graph):
        chunked, whole = ask(edge, head, overlap_of(edge.graph, head, count, axis)), ask(edge, head, None)
        assert_right(chunked)
        assert chunked.completed_by == whole.completed_by
        for name in ("payload_bytes", "raw_bytes", "received_bytes"):
            assert getattr(chunked.measured, name) == getattr(whole.measured, name)
        assert chunked.measured.hidden_s >= 0 == whole.measured.hidden_s
        assert chunked.measured.total_s == pytest.approx(chunked.measured.stages_s - chunked.measured.hidden_s)


@pytest.mark.parametrize("codec", ["raw", "zstd"])
@pytest.mark.parametrize(("head_rows", "tail_rows"), [(False, True), (True, False), (True, True)])
def test_by_rows_every_cut_gives_the_answer_of_the_module(
    edge: Edge, codec: str, head_rows: bool, tail_rows: bool
) -> None:
    for head in heads(edge.graph):
        counts = count_layers(edge)
        overlap = overlap_of(edge.graph, head, 4, head_rows=head_rows, tail_rows=tail_rows)
        for until in (None, None, *([max(head) + 2] if tail_rows else [])):
            assert_right(ask(edge, head, replace(overlap, until=until), codec))
        assert set(counts.values()) <= {3 if tail_rows else 2}


@pytest.mark.parametrize("codec", sorted(set(CODECS) - set(OPTIONAL)))
def test_every_codec_carries_slices_or_the_tensor_leaves_in_one_piece(edge: Edge, codec: str) -> None:
    for head in (heads(edge.graph)[0], heads(edge.graph)[-1]):
        answered = ask(edge, head, overlap_of(edge.graph, head, 3), codec)
        assert_right(answered, 1e-4 if is_lossless(codec) else 0.1 if "4" in codec else 0.02)


def test_tables_travel_once_in_front_of_slices(edge: Edge) -> None:
    head = edge.graph.head_at(1)
    (layer,) = edge.graph.boundary(head)
    with torch.inference_mode():
        made = MODULE.stem(X).numpy()  # type: ignore[operator]
    edge.sided[layer, "ec6"] = entropy.parse(tables.find([made], 6).side)
    first, second = (ask(edge, head, overlap_of(edge.graph, head, 4), "ec6") for _ in range(2))
    assert_right(first, 0.05)
    assert np.array_equal(first.outputs[0], second.outputs[0])
    assert first.measured.payload_bytes < made.nbytes / 3


def test_chunks_travel_in_tls(net: ec.Network, tmp_path: Path) -> None:
    found = certificates.make(tmp_path, "cloud")
    config = EdgeConfig(net.name, cloud=CloudConfig(tls=client_tls(found.cert, None, None, "127.0.0.1")))
    with (
        ec.Cloud(networks=[net], tls_cert=found.cert, tls_key=found.key) as cloud,
        closing(Edge.around(config, net.entry, net.made_for("cpu"))) as edge,
    ):
        edge.connect("127.0.0.1", int(cloud.address.rpartition(":")[2]), "", LONG_S)
        for head in heads(edge.graph):
            assert_right(ask(edge, head, overlap_of(edge.graph, head, 4, tail_rows=True)))


def test_the_connection_tells_how_long_stages_took_and_what_was_hidden(edge: Edge) -> None:
    """What each took is measured as if there were no others; what they are longer by than the whole is hidden."""
    head = edge.graph.head_at(1)
    times = ask(edge, head, overlap_of(edge.graph, head, 4)).measured
    assert min(times.edge_s, times.encode_s, times.link_s, times.decode_s, times.cloud_s) > 0


# --- what a cloud may be


def frames_of(rewritten: dict[str, Any]) -> Any:
    """Makes a cloud of READY without what is taken away, as an older one."""

    def rewrite(kind: FrameType, header: dict[str, Any], payload: bytes) -> Said:
        if kind is FrameType.READY:
            header = {name: value for name, value in header.items() if name not in rewritten} | {
                name: value for name, value in rewritten.items() if value is not None
            }
        return kind, header, payload

    return rewrite


@pytest.mark.parametrize("chunks", [None, 3])
def test_an_older_cloud_or_one_that_takes_fewer_gets_one_frame(alone: Edge, port: int, chunks: int | None) -> None:
    with closing(
        FrameProxy(("127.0.0.1", port), [(Place(FrameType.CHUNK), close)], frames_of({"chunks": chunks}))
    ) as link:
        alone.connect("127.0.0.1", link.port, "", LONG_S)
        for head in heads(alone.graph):
            assert_right(ask(alone, head, overlap_of(alone.graph, head, 4)))
        assert not link.is_over  # no chunk has passed


# --- what may happen on the way


def resilient(edge: Edge, port: int) -> ResilientClient:
    graph = edge.graph
    manager = edge.use(ConnectionConfig(("127.0.0.1", port), ready_s=LONG_S, timeout_s=LONG_S))
    manager.connect()
    return ResilientClient(edge, manager, LONG_S, [0.0] * len(graph.layers), {})


def count_layers(edge: Edge) -> Counter[int]:
    """How often each layer has run here."""
    counts: Counter[int] = Counter()

    def count(layers: frozenset[int], _ran: Ran) -> None:
        counts.update(layers)

    edge.on_ran = count
    return counts


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_connection_lost_within_a_boundary_costs_no_answer_and_no_layer_runs_twice(
    alone: Edge, port: int, number: int, share: float
) -> None:
    head = heads(alone.graph)[-1]
    with closing(FrameProxy(("127.0.0.1", port), [(Place(FrameType.CHUNK, number, share), close)])) as link:
        client, counts = resilient(alone, link.port), count_layers(alone)
        answered = client.infer(X.numpy(), parts_of(alone.graph, head), {}, 0.0, overlap_of(alone.graph, head, 3))
        assert link.is_over
    assert_right(answered)
    assert (answered.completed_by, answered.requests) == ("split", 2)
    assert counts == Counter(dict.fromkeys(head, 1))


def test_rows_are_not_made_twice_where_the_connection_is_lost(alone: Edge, port: int) -> None:
    head = alone.graph.head_at(4)
    overlap = overlap_of(alone.graph, head, 4, head_rows=True, tail_rows=True)
    plan = alone.head_plan(head, overlap)
    assert plan is not None
    steps, begun = Counter[int](), []

    class Counted(HeadStream):
        def next(self) -> tuple[Array, float]:
            steps[self._done] += 1
            return super().next()

    assert isinstance(alone.executor, BaseExecutor)
    host, rows = alone.executor, alone.executor.rows
    assert rows is not None
    alone.executor.head_by_rows = lambda plan: begun.append(Counted(host, rows, plan)) or begun[-1]  # type: ignore
    with closing(FrameProxy(("127.0.0.1", port), [(Place(FrameType.CHUNK, 2, 0.5), close)])) as link:
        client = resilient(alone, link.port)
        answered = client.infer(X.numpy(), parts_of(alone.graph, head), {}, 0.0, overlap)
        assert link.is_over
    assert_right(answered)
    assert (answered.completed_by, answered.requests, len(begun)) == ("split", 2, 1)
    assert steps == Counter(range(len(plan.steps)))


def test_rows_that_were_made_are_completed_here_where_the_cloud_is_gone(alone: Edge, port: int) -> None:
    head = alone.graph.head_at(4)
    overlap = overlap_of(alone.graph, head, 4, head_rows=True, tail_rows=True)

    def refuse(proxy: FrameProxy, line: Line) -> None:
        proxy.refuse()
        line.close()

    with closing(FrameProxy(("127.0.0.1", port), [(Place(FrameType.CHUNK, 2), refuse)])) as link:
        answered = resilient(alone, link.port).infer(X.numpy(), parts_of(alone.graph, head), {}, 0.0, overlap)
    assert_right(answered)
    assert answered.completed_by == "fallback"


def test_a_cloud_that_falls_silent_within_a_boundary_costs_no_answer(alone: Edge, port: int) -> None:
    head = heads(alone.graph)[-1]
    with closing(FrameProxy(("127.0.0.1", port), [(Place(FrameType.CHUNK, 4), silence)])) as link:
        manager = alone.use(ConnectionConfig(("127.0.0.1", link.port), ready_s=LONG_S, timeout_s=0.5))
        manager.connect()
        counts = count_layers(alone)
        client = ResilientClient(alone, manager, 0.5, [0.0] * len(alone.graph.layers), {})
        answered = client.infer(X.numpy(), parts_of(alone.graph, head), {}, 0.0, overlap_of(alone.graph, head, 3))
    assert_right(answered)
    assert answered.completed_by == "fallback"
    assert counts == Counter(dict.fromkeys(alone.graph.everything, 1))


def test_an_interrupt_within_a_boundary_ends_the_connection_and_the_next_one_answers(edge: Edge) -> None:
    head = heads(edge.graph)[-1]
    counts = count_layers(edge)
    stop = edge.on_ran

    def interrupt(layers: frozenset[int], ran: Ran) -> None:
        assert stop is not None
        stop(layers, ran)
        if len(counts) == len(head):
            raise KeyboardInterrupt

    edge.on_ran = interrupt
    with pytest.raises(KeyboardInterrupt):
        ask(edge, head, overlap_of(edge.graph, head, 3))
    edge.on_ran = None
    assert edge.cloud is not None
    assert not edge.cloud.is_connected
    assert_right(ask(edge, head, overlap_of(edge.graph, head, 3)))


def test_the_link_is_measured_again_after_a_boundary_has_left_in_chunks(edge: Edge) -> None:
    head = heads(edge.graph)[-1]
    assert_right(ask(edge, head, overlap_of(edge.graph, head, 3)))
    assert edge.cloud is not None
    assert edge.cloud.measure().up_bytes_per_s > 0
    assert_right(ask(edge, head, overlap_of(edge.graph, head, 3)))


def test_many_may_ask_at_once(edge: Edge) -> None:
    graph = edge.graph
    ways = [(head, overlap_of(graph, head, count)) for head in heads(graph)[:3] for count in (2, 5)]
    answers: list[Answered] = []
    threads = [threading.Thread(target=lambda way=way: answers.append(ask(edge, *way))) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert len(answers) == len(ways)
    for answered in answers:
        assert_right(answered)


# --- what is decided


@given(st.integers(0, 10_000), st.data())
def test_stages_are_the_head_each_layer_once_and_each_reads_what_is_there(seed: int, data: st.DataObject) -> None:
    graph = random_graph(random.Random(seed), 12)
    head = data.draw(st.sampled_from([graph.head_at(point.number) for point in graph.points])) | graph.only_inputs
    boundary = [number for number in graph.boundary(head) if number in head]
    order = data.draw(st.permutations(range(len(boundary))))
    overlap = Overlap(tuple(Slices(boundary[n], 1, (2, 4)) for n in order)) if order else None
    stages, done = stages_of(graph, head, overlap), set(graph.inputs)
    assert sorted(number for stage in stages for number in stage) == sorted(head)
    for stage in stages:
        assert set(graph.inputs_of(stage)) <= done | set(graph.inputs)
        done |= stage
    assert not order or boundary[order[0]] in stages[0]


def test_what_does_not_fit_leaves_in_one_frame(alone: Edge) -> None:
    graph = alone.graph
    head = heads(graph)[-1]
    crossing, good = graph.boundary(head), overlap_of(graph, head, 3)
    assert fitted(good, graph, crossing, {}, {}, 6) == good
    assert fitted(good, graph, crossing, {}, {}, 5) is None
    assert fitted(None, graph, crossing, {}, {}, 64) is None
    assert fitted(good, graph, crossing[:1], {}, {}, 64) is None
    one = Overlap((Slices(crossing[0], 2, (24,)),))
    assert fitted(one, graph, crossing[:1], {}, {}, 64) is None  # a single chunk is a frame
    longer = Overlap((Slices(crossing[0], 2, (12, 25)),))
    assert fitted(longer, graph, crossing[:1], {}, {}, 64) is None
    deeper = Overlap((Slices(crossing[0], 4, (12, 24)),))
    assert fitted(deeper, graph, crossing[:1], {}, {}, 64) is None
    mixed = fitted(good, graph, crossing, {crossing[0]: "jpeg"}, {}, 64)
    assert mixed is not None
    assert [len(each) for each in mixed.slices] == [1, 3]
