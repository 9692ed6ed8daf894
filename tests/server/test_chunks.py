"""Requests whose tensors come in chunks: a real cloud, and everything that a client may do with them."""

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

import edgecloud as ec
from benchmarks.hostile.attacks import encode
from edgecloud.engine.identity import hello_of
from edgecloud.engine.worker import BusyError
from edgecloud.models.graph import LayerGraph
from edgecloud.net.connection import Connection, Frame, connect
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import (
    Chunk,
    Error,
    Infer,
    Message,
    Probe,
    Probed,
    Ready,
    Result,
    State,
    Status,
    from_header,
)
from edgecloud.net.tensors import Array, Encoded
from edgecloud.server.arriving import MAX_ARRIVING
from edgecloud.server.requests import MAX_CHUNKS
from edgecloud.server.row_tail import RowTail
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError, ProtocolError
from tests import branches
from tests.conftest import LONG_S

MODULE, X = branches.module(), branches.picture()
with torch.inference_mode():
    STEM = MODULE.stem(X).relu()  # type: ignore[operator]
    EXPECTED = MODULE(X).numpy()
TENSOR = STEM.numpy()
ENDS = (8, 16, 24)


def soon(seconds: float = LONG_S) -> Deadline:
    return Deadline.after(seconds, "the test")


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    with branches.small_blocks():
        yield


@pytest.fixture(scope="module")
def net() -> ec.Network:
    return ec.load(MODULE, X)


@pytest.fixture(scope="module")
def served(net: ec.Network) -> Iterator[ec.Cloud]:
    with ec.Cloud(networks=[net]) as cloud:
        yield cloud


@pytest.fixture
def cloud(net: ec.Network, served: ec.Cloud) -> Iterator[Connection]:
    """A connection on which the network was agreed on."""
    with closing(greeted(net, served)) as connection:
        yield connection


def greeted(net: ec.Network, served: ec.Cloud) -> Connection:
    connection = connect("127.0.0.1", int(served.address.rpartition(":")[2]), LONG_S)
    connection.send(hello_of(net.made_for("cpu"), ""), soon())
    assert connection.receive(soon()).read(Ready).chunks == MAX_CHUNKS
    return connection


@pytest.fixture
def tail(net: ec.Network) -> list[list[int]]:
    """The layers after the stem."""
    graph = net.graph
    return [[1 + stem_of(graph), len(graph.layers)]]


def stem_of(graph: LayerGraph) -> int:
    return next(n for n, layer in enumerate(graph.layers) if n > 1 and layer.out_shape == TENSOR.shape)


Sent = tuple[Message, Sequence[Array | Encoded]]


def train(tail: list[list[int]], number: int = 1, deadline_s: float = LONG_S) -> list[Sent]:
    """A good request in three chunks."""
    starts = (0, *ENDS[:-1])
    return [
        (Infer(number, tail, deadline_s, cuts=((2, *ENDS),)), []),
        *((Chunk(number, 0, start), [TENSOR[:, :, start:end]]) for start, end in zip(starts, ENDS, strict=True)),
    ]


def send(cloud: Connection, *sent: Sent) -> None:
    for message, arrays in sent:
        cloud.send(message, soon(), arrays)


def answer(cloud: Connection) -> Frame:
    return cloud.receive(soon())


def refusal(cloud: Connection) -> Error:
    frame = answer(cloud)
    assert frame.kind is FrameType.ERROR
    return from_header(Error, frame.header)


def assert_answers(cloud: Connection, tail: list[list[int]], number: int) -> None:
    """It takes a good request on the same connection: the stream is in step, and there is room."""
    send(cloud, *train(tail, number))
    assert_right(answer(cloud), number)


def assert_right(frame: Frame, number: int) -> None:
    assert frame.read(Result).id == number
    np.testing.assert_allclose(frame.arrays()[0], EXPECTED, rtol=1e-4, atol=1e-4)


def test_anything_may_come_between_chunks(cloud: Connection, tail: list[list[int]]) -> None:
    first, *rest = train(tail)
    other, *chunks = train(tail, 2)
    send(cloud, first, rest[0], (Status(), []), other, chunks[0], rest[1], (Probe(7, 10), []), chunks[1], rest[2])
    assert answer(cloud).read(State).connections == 1
    assert answer(cloud).read(Probed).id == 7
    assert_right(answer(cloud), 1)
    send(cloud, (Infer(3, tail, LONG_S), [TENSOR]))
    assert_right(answer(cloud), 3)
    send(cloud, chunks[2])
    assert_right(answer(cloud), 2)


def test_the_answer_tells_the_stages_apart(cloud: Connection, tail: list[list[int]]) -> None:
    first, *rest = train(tail)
    send(cloud, first, rest[0])
    time.sleep(0.2)  # nothing is on its way
    send(cloud, *rest[1:])
    result = answer(cloud).read(Result)
    assert 0.15 < result.idle_s <= result.received_s < LONG_S
    assert result.cloud_s < result.rest_s
    assert result.decode_s > 0


ROWS = TENSOR[:, :, 8:16]


@pytest.mark.parametrize(
    "wrong",
    [
        (Chunk(1, 0, 0), [TENSOR[:, :, :8]]),  # twice
        (Chunk(1, 0, 16), [TENSOR[:, :, 16:]]),  # not next
        (Chunk(1, 0, 8), [TENSOR[:, :, 8:17]]),
        (Chunk(1, 0, 8), [TENSOR[:, :, 8:9]]),
        (Chunk(1, 0, 8), [TENSOR[:, 8:]]) if TENSOR.shape[1] > 8 else (Chunk(1, 0, 8), [TENSOR[:, :1, 8:16]]),
        (Chunk(1, 0, 8), [np.ascontiguousarray(ROWS.reshape(1, 8, 160))]),
        (Chunk(1, 0, 8), [ROWS.astype(np.float64)]),
        (Chunk(1, 1, 0), [ROWS]),
        (Chunk(1, 0, 8), []),
        (Chunk(1, 0, 8), [ROWS, ROWS]),
        (Chunk(1, 0, (1 << 63) - 1), [ROWS]),
    ],
)
def test_a_wrong_chunk_abandons_its_request_and_nothing_else(
    wrong: Sent, cloud: Connection, tail: list[list[int]]
) -> None:
    first, *rest = train(tail)
    other, *chunks = train(tail, 2)
    send(cloud, other, chunks[0], first, rest[0], wrong, rest[1], chunks[1])
    error = refusal(cloud)
    assert (error.code, error.id) == ("BAD_REQUEST", 1)
    send(cloud, chunks[2])
    assert_right(answer(cloud), 2)
    assert_answers(cloud, tail, 3)


def test_more_chunks_than_announced_are_refused_one_by_one(cloud: Connection, tail: list[list[int]]) -> None:
    send(cloud, *train(tail), (Chunk(1, 0, 24), [ROWS]), (Chunk(99, 0, 0), [ROWS]))
    frames = [answer(cloud) for _ in range(3)]
    errors = [from_header(Error, frame.header) for frame in frames if frame.kind is FrameType.ERROR]
    assert [(error.code, error.id) for error in errors] == [("BAD_REQUEST", 1), ("BAD_REQUEST", 99)]
    assert_answers(cloud, tail, 3)


@pytest.mark.parametrize(
    ("cuts", "rows", "arrays"),
    [
        (((2, 8, 25),), (), []),
        (((2, 8, 16),), (), []),
        (((4, 8, 24),), (), []),
        (((1 << 62, 8, 24),), (), []),
        (((2, 8, 24), (2, 8, 24)), (), []),
        (((2, 8, 24),), (), [TENSOR]),
        (((2, 8, 24),), (0,), []),
        (((2, 8, 24),), (0, 1), []),
        (((3, *range(1, 21)), (2, 24)), (), []),
    ],
)
def test_what_the_network_does_not_read_is_refused_before_memory_is_taken(
    cuts: tuple[tuple[int, ...], ...],
    rows: tuple[int, ...],
    arrays: list[Array],
    cloud: Connection,
    tail: list[list[int]],
) -> None:
    send(cloud, (Infer(1, tail, LONG_S, cuts=cuts, rows=rows), arrays), (Chunk(1, 0, 0), [ROWS]))
    error = refusal(cloud)
    assert (error.code, error.id) == ("BAD_REQUEST", 1)
    assert_answers(cloud, tail, 2)  # and the chunk that was on its way is dropped


def test_too_many_chunks_are_refused(cloud: Connection, net: ec.Network) -> None:
    layers = [[1, len(net.graph.layers)]]
    shape = net.graph.layers[0].out_shape
    assert shape == (1, 3, 24, 20)
    few = Infer(1, layers, LONG_S, cuts=((2, *range(1, 25)),))
    send(cloud, (few, []), *((Chunk(1, 0, n), [X.numpy()[:, :, n : n + 1]]) for n in range(24)))
    assert_right(answer(cloud), 1)


def test_only_a_few_requests_come_in_chunks_at_once(cloud: Connection, tail: list[list[int]]) -> None:
    trains = [train(tail, number) for number in range(1, MAX_ARRIVING + 2)]
    send(cloud, *(each[0] for each in trains))
    error = refusal(cloud)
    assert (error.code, error.id) == ("BAD_REQUEST", MAX_ARRIVING + 1)
    send(cloud, *trains[-1][1:], *(sent for each in trains[:-1] for sent in each[1:]))
    for number in range(1, MAX_ARRIVING + 1):
        assert_right(answer(cloud), number)
    assert_answers(cloud, tail, 99)


def test_an_id_that_is_coming_is_refused_and_its_chunks_still_count(cloud: Connection, tail: list[list[int]]) -> None:
    first, *chunks = train(tail)
    send(cloud, first, first, *chunks)
    error = refusal(cloud)
    assert (error.code, error.id) == ("BAD_REQUEST", 1)
    assert_right(answer(cloud), 1)


def test_a_client_that_stops_between_chunks_is_told_so_and_gives_its_place_back(
    cloud: Connection, tail: list[list[int]]
) -> None:
    for turn in range(2):  # the second time there is room again
        for number in range(1, MAX_ARRIVING + 1):
            first, *chunks = train(tail, 10 * turn + number, deadline_s=0.3)
            send(cloud, first, chunks[0])
        errors = [refusal(cloud) for _ in range(MAX_ARRIVING)]
        assert {error.code for error in errors} == {"DEADLINE"}
        assert sorted(error.id for error in errors) == [10 * turn + number for number in range(1, MAX_ARRIVING + 1)]
    send(cloud, train(tail, 11)[2], train(tail, 11)[3])  # too late: dropped
    assert_answers(cloud, tail, 99)


def test_a_client_that_ends_its_sending_direction_between_chunks_hears_so(
    cloud: Connection, tail: list[list[int]]
) -> None:
    send(cloud, *train(tail)[:-1])
    cloud.sock.shutdown(1)
    assert "before all chunks had come" in refusal(cloud).text


@pytest.mark.parametrize("step", [37])
def test_a_connection_cut_within_any_chunk_costs_the_cloud_nothing(
    net: ec.Network, served: ec.Cloud, tail: list[list[int]], step: int
) -> None:
    """Every byte: benchmarks/chunk_cuts.py."""
    data = b"".join(encode(message, arrays) for message, arrays in train(tail))
    for end in range(0, len(data), len(data) // step):
        with closing(greeted(net, served)) as connection:
            connection.sock.sendall(data[:end])
    with closing(greeted(net, served)) as connection:
        assert_answers(connection, tail, 5)


# --- by rows


@pytest.fixture
def joined(net: ec.Network) -> list[Sent]:
    """A request of the layers that join both branches, whose tensors come by turns, for rows."""
    graph = net.graph
    head = branches.heads(graph)[-1]
    with torch.inference_mode():
        made = {n.out_shape: n for n in (graph.layers[number] for number in graph.boundary(head))}
        branch = [MODULE.left(STEM).relu().numpy(), MODULE.right(STEM).relu().numpy()]  # type: ignore[operator]
    tensors = [next(each for each in branch if each.shape == shape) for shape in made]
    order = (0, 1, 0, 1, 1, 0)
    infer = Infer(1, [[min(graph.everything - head), len(graph.layers)]], LONG_S, cuts=((2, *ENDS),) * 2, rows=order)
    sent: list[Sent] = [(infer, [])]
    for place, tensor in enumerate(order):
        start = (0, *ENDS)[order[:place].count(tensor)]
        sent.append((Chunk(1, tensor, start), [tensors[tensor][:, :, start : start + 8]]))
    return sent


@pytest.mark.parametrize("until", [1, 6, 10**12])
def test_a_tail_by_rows_up_to_any_number_answers_as_the_whole_network(
    until: int, cloud: Connection, joined: list[Sent]
) -> None:
    (infer, arrays), *chunks = joined
    assert isinstance(infer, Infer)
    send(cloud, (replace(infer, until=until), arrays), *chunks)
    assert_right(answer(cloud), 1)


def test_a_tail_by_rows_answers_as_the_whole_network(cloud: Connection, joined: list[Sent]) -> None:
    for _ in range(2):
        send(cloud, *joined)
        assert_right(answer(cloud), 1)


def test_a_tail_by_rows_begins_before_the_last_chunk(
    cloud: Connection, joined: list[Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: queue.Queue[int] = queue.Queue()
    feed = RowTail.feed

    def noted(tail: RowTail, array: Array) -> None:
        feed(tail, array)
        fed.put(array.shape[1])

    monkeypatch.setattr(RowTail, "feed", noted)
    send(cloud, *joined[:3])
    assert [fed.get(timeout=LONG_S) for _ in range(2)] == [6, 4]
    send(cloud, *joined[3:])
    assert_right(answer(cloud), 1)


def test_rows_in_another_order_abandon_their_request_and_nothing_else(
    cloud: Connection, tail: list[list[int]], joined: list[Sent]
) -> None:
    infer, first, second, third, *rest = joined
    send(cloud, infer, first, third, second, *rest)
    error = refusal(cloud)
    assert (error.code, error.id) == ("BAD_REQUEST", 1)
    assert "the next chunk is one of tensor 1" in error.text
    assert_answers(cloud, tail, 2)


@pytest.mark.parametrize("error", [BusyError("full", 0.5), DeadlineError("late"), ProtocolError("no")])
def test_a_tail_by_rows_that_fails_is_refused_once_and_its_chunks_are_dropped(
    error: AppError, cloud: Connection, tail: list[list[int]], joined: list[Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_tail: RowTail, _array: Array) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(RowTail, "feed", fail)
        send(cloud, *joined[:3])
        assert (told := refusal(cloud)).code == error.code
        assert told.id == 1
    send(cloud, *joined[3:])
    assert_answers(cloud, tail, 2)


def test_a_client_that_leaves_between_rows_costs_nothing(
    net: ec.Network, served: ec.Cloud, tail: list[list[int]], joined: list[Sent]
) -> None:
    for count in range(1, len(joined) + 1):
        with closing(greeted(net, served)) as connection:
            send(connection, *joined[:count])
    with closing(greeted(net, served)) as connection:
        send(connection, *joined)
        assert_right(answer(connection), 1)
        assert_answers(connection, tail, 2)
