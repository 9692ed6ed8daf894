"""A gateway and its workers: the same answers as without, whatever becomes of a worker, and nobody else gets in."""

import gc
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from edgecloud.engine import identity
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.codec import Encoded
from edgecloud.net.connection import Connection, Frame, connect
from edgecloud.net.messages import Error, Hello, Infer, Probe, Ready, Result, State, Status, from_header
from edgecloud.server import health
from edgecloud.server.relay import Pending, Relayed
from edgecloud.utils.errors import AppError, ConnectError, MismatchError
from tests import bundles
from tests.conftest import LONG_S, until
from tests.fleets import LOCAL, SECRET, Fleetlet, Scripted, caller, fleetlet, hello_of, soon
from tests.net.test_sides import cut, request_of
from tests.server import test_accepting as accepting

READY = Ready([0.0] * 13, [0.0] * 13, 0.0, "cpu", ["raw"], 64 << 20, "measured")
SLOWER = Ready([1.0] * 13, [0.0] * 13, 0.0, "cpu", ["raw"], 64 << 20, "measured")


@pytest.fixture
def le_net(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network("le_net")


@pytest.fixture
def fleet(cache: Path) -> Iterator[Fleetlet]:
    with fleetlet(cache) as made:
        yield made


def die(_worker: Scripted, _connection: Connection, _frame: Frame) -> bool:
    """Be gone in the middle of a request."""
    return False


def wait(_worker: Scripted, _connection: Connection, _frame: Frame) -> bool:
    """Answer nothing."""
    return True


# --- the same answers


def test_every_edge_gets_its_own_answers_from_workers(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    workers = [fleet.worker(name, le_net) for name in ("a", "b")]
    port = fleet.open()
    wrong: list[str] = []

    def edge(number: int) -> None:
        with caller(port, le_net) as each:
            xs = {each.ask(x): x for x in (each.x * (1 + number + n / 10) for n in range(4))}
            for _ in range(4):
                result, got = each.hear()
                if not np.allclose(got, each.expected(xs[result.id]), rtol=1e-4, atol=1e-4):
                    wrong.append(f"{number}: {result.id}")

    threads = [threading.Thread(target=edge, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert fleet.gateway is not None
    rows = {str(row["name"]): row for row in fleet.gateway.fleet.rows()}
    assert {name: row["in_flight"] for name, row in rows.items()} == {"a": 0, "b": 0}
    until(lambda: all(worker.server.count == 1 for worker in workers))  # who asks how it is, and no edge's


def test_the_queue_of_an_answer_is_all_that_was_no_computing(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    fleet.worker("a", le_net)
    with caller(fleet.open(), le_net) as edge:
        result = edge.answered()
    assert result.id == 1
    assert 0 < result.queue_s < 10
    assert 0 < result.cloud_s < 10


def test_a_gateway_keeps_no_tensor_of_a_request_that_is_answered(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    """Not until Python looks for cycles: of 200 KB each a hundred could be held by then."""
    fleet.worker("a", le_net)
    gc.collect()
    gc.disable()
    try:
        with caller(fleet.open(), le_net) as edge:
            for _ in range(3):
                edge.answered()
            until(lambda: not [each for each in gc.get_objects() if type(each) in (Pending, Relayed)])
    finally:
        gc.enable()


def test_what_an_edge_means_wrongly_is_told_as_without_workers(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    fleet.worker("a", le_net)
    port = fleet.open()
    with caller(port, le_net, greets=False) as edge:
        edge.connection.send(Hello("nope", "", "", [], ""), soon())
        with pytest.raises(MismatchError, match="UNKNOWN_MODEL"):
            edge.connection.receive(soon()).read(Ready)
    with caller(port, le_net) as edge:
        edge.connection.send(Infer(7, [[1, 99]], 5.0), soon(), [edge.x])
        error = from_header(Error, edge.connection.receive(soon()).header)
        assert (error.code, error.id) == ("BAD_REQUEST", 7)
        assert "has layers 1 to 12" in error.text
        edge.answered()


def test_requests_of_a_network_that_was_not_named_are_refused(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    fleet.worker("a", le_net)
    with caller(fleet.open(), le_net) as edge:
        edge.connection.send(Infer(3, [[1, 13]], 5.0, "other"), soon(), [edge.x])
        assert from_header(Error, edge.connection.receive(soon()).header).code == "BAD_REQUEST"
        edge.answered()


# --- workers that are lost


@pytest.mark.parametrize("act", [die], ids=["dies"])
def test_a_request_whose_worker_is_lost_is_answered_by_another(
    act: Callable[[Scripted, Connection, Frame], bool], fleet: Fleetlet, le_net: TorchNetwork
) -> None:
    bad = fleet.scripted("bad", act, READY)
    port = fleet.open()
    with caller(port, le_net) as edge:
        fleet.worker("good", le_net)
        known = fleet.once_well(2)
        result = edge.answered()
        assert result.id == 1
        assert len(bad.requests()) == 1
        assert known.load_now().repeats == 1
        edge.answered()


def test_what_a_worker_that_leaves_has_not_begun_is_answered_by_the_one_that_stays(
    fleet: Fleetlet, le_net: TorchNetwork
) -> None:
    """The one that left counted as one that could be asked, and the edge was told BUSY."""

    def leave(_: Scripted, connection: Connection, frame: Frame) -> bool:
        assert fleet.gateway is not None
        known = fleet.gateway.fleet
        fleet.forget("leaving")
        until(lambda: known.well == 1)
        connection.send(Error("BUSY", "the cloud is stopping", frame.read(Infer).id), soon())
        return True

    leaving = fleet.scripted("leaving", leave, READY)
    port = fleet.open()
    with caller(port, le_net) as edge:
        fleet.worker("staying", le_net)
        fleet.once_well(2)
        assert edge.answered().id == 1
        assert len(leaving.requests()) == 1


def test_a_worker_that_hangs_costs_no_answer_and_its_late_one_is_dropped(
    fleet: Fleetlet, le_net: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecloud.server.fleet.QUIET_S", 0.3)
    monkeypatch.setattr("edgecloud.server.fleet.ASK_S", 0.1)

    def hang(worker: Scripted, connection: Connection, frame: Frame) -> bool:
        worker.is_silent = True
        until(lambda: not worker.is_silent)
        connection.send(Result(frame.read(Infer).id, 0.0, 0.0), soon(), [np.zeros((1, 10), np.float32)])
        return True

    bad = fleet.scripted("bad", hang, READY)
    with caller(fleet.open(), le_net) as edge:
        fleet.worker("good", le_net)
        known = fleet.once_well(2)
        edge.answered()
        assert known.well == 1
        bad.is_silent = False
        until(lambda: known.well == 2)  # it answers STATUS again
        bad.act = die
        for _ in range(3):
            edge.answered()


def test_where_every_worker_is_late_they_are_asked_all_the_same(
    fleet: Fleetlet, le_net: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the machine then."""
    monkeypatch.setattr("edgecloud.server.fleet.QUIET_S", 0.2)
    monkeypatch.setattr("edgecloud.server.fleet.ASK_S", 0.1)

    def answer(_worker: Scripted, connection: Connection, frame: Frame) -> bool:
        connection.send(Result(frame.read(Infer).id, 0.0, 0.0), soon(), [np.zeros((1, 10), np.float32)])
        return True

    late = fleet.scripted("late", answer, READY)
    with caller(fleet.open(), le_net) as edge:
        late.is_busy = True
        assert fleet.gateway is not None
        known = fleet.gateway.fleet
        until(lambda: [row["state"] for row in known.rows()] == ["silent"])
        edge.ask()
        assert edge.hear()[0].id == 1
        assert known.well == 1
        late.is_busy = False


def test_a_request_that_ends_two_workers_is_refused_and_the_third_lives(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    bad = [fleet.scripted(name, die, READY) for name in ("bad1", "bad2")]
    with caller(fleet.open(), le_net) as edge:
        fleet.scripted("good", wait, SLOWER)
        known = fleet.once_well(3)
        edge.ask()
        with pytest.raises(AppError, match="2 workers ended while they had this request"):
            edge.hear()
        assert [len(each.requests()) for each in bad] == [1, 1]
        assert known.well >= 1


def test_what_only_silent_workers_have_ends_with_its_deadline(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    fleet.scripted("a", wait, READY)
    with caller(fleet.open(), le_net) as edge:
        edge.ask(deadline_s=0.5)
        with pytest.raises(AppError, match="DEADLINE"):
            edge.hear()


# --- none at all


def test_without_a_worker_edges_are_told_when_to_come_back(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    port = fleet.open()
    for _ in range(2):
        with caller(port, le_net, greets=False) as edge, pytest.raises(ConnectError, match="no worker is running") as e:
            edge.greet()
        assert e.value.retry_after_s == fleet.placement.waking_s
    found = health.ask(LOCAL, port, "", None).state
    assert found is not None
    assert (found.gateway, found.workers, found.wanted) == (True, 0, 0)
    assert (found.queue_s, found.queued_s) == (fleet.placement.waking_s, 1.0)
    fleet.worker("a", le_net)
    assert fleet.gateway is not None
    until(lambda: fleet.gateway is not None and fleet.gateway.fleet.well == 1)
    with caller(port, le_net) as edge:
        edge.answered()
        fleet.forget("a")
        until(lambda: fleet.gateway is not None and fleet.gateway.fleet.well == 0)
        edge.ask()
        with pytest.raises(ConnectError, match="try again later"):
            edge.hear()
        assert edge.connection.sock.fileno() >= 0


# --- who gets in


def test_nothing_of_a_clients_token_reaches_a_worker(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    spy = fleet.scripted("spy", wait, READY)
    port = fleet.open(token="the secret of the edges")
    with caller(port, le_net, greets=False) as edge, pytest.raises(ConnectError, match="TOKEN"):
        edge.greet("something else")
    with caller(port, le_net, greets=False) as edge:
        edge.greet("the secret of the edges")
        edge.ask()
        until(spy.requests)
    said = repr([frame.header for frame in spy.heard])
    assert SECRET in said
    assert "the secret of the edges" not in said
    assert "something else" not in said


@pytest.mark.parametrize("kind", ["file", "tcp"])
def test_a_stranger_who_reaches_a_worker_gets_nothing(kind: str, fleet: Fleetlet, le_net: TorchNetwork) -> None:
    worker = fleet.worker("a", le_net, host=LOCAL if kind == "tcp" else f"unix:{fleet.folder}/a")
    host, port = worker.server.addresses[0]
    with caller(fleet.open(), le_net) as edge:
        for first, code in (
            (hello_of(le_net), "TOKEN"),
            (hello_of(le_net, "not the secret"), "TOKEN"),
            (Status(), "TOKEN"),
            (Infer(1, [[1, 13]], 5.0), "PROTOCOL"),
            (Probe(1, 4 << 20), "PROTOCOL"),
        ):
            with closing(connect(host, port, 5.0)) as stranger:
                stranger.send(first, soon())
                assert from_header(Error, stranger.receive(soon()).header).code == code
        edge.answered()
    with closing(connect(host, port, 5.0)) as known:
        known.send(Status(SECRET), soon())
        assert known.receive(soon()).read(State).draining is False


def test_garbage_at_a_worker_ends_its_own_conversation_only(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    worker = fleet.worker("a", le_net)
    rng = random.Random(3)
    with caller(fleet.open(), le_net) as edge:
        for _ in range(100):
            with closing(connect(*worker.server.addresses[0], 5.0)) as stranger, suppress(OSError):
                stranger.sock.sendall(rng.randbytes(rng.randrange(1, 300)))
                stranger.sock.shutdown(1)
                while stranger.sock.recv(65536):
                    pass
        edge.answered()


# --- what belongs to a connection


def test_the_data_of_codecs_go_along_to_a_worker_that_has_not_seen_them(fleet: Fleetlet, le_net: TorchNetwork) -> None:
    fleet.worker("a", le_net)
    tail, one, packed = cut(le_net)
    data = np.frombuffer(one.side.data, np.uint8)
    with caller(fleet.open(), le_net) as edge:
        edge.connection.send(request_of(tail, f"ec6:{one.side.digest}"), soon(), [packed, data])
        _, first = edge.hear()
        fleet.worker("b", le_net)
        assert fleet.gateway is not None
        known = fleet.gateway.fleet
        fleet.forget("a")
        until(lambda: [row["name"] for row in known.rows() if row["state"] == "up"] == ["b"])
        edge.connection.send(request_of(tail), soon(), [packed])
        _, second = edge.hear()
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_bytes_that_no_worker_can_unpack_end_the_edges_conversation_alone(
    fleet: Fleetlet, le_net: TorchNetwork
) -> None:
    fleet.worker("a", le_net)
    fleet.worker("b", le_net)
    port = fleet.open()
    assert fleet.gateway is not None
    tail, one, packed = cut(le_net)
    cut_off = bytes(len(packed.parts[0]))
    wrong = Encoded("float32", packed.shape, "ec6", (memoryview(cut_off),), one)
    with caller(port, le_net) as good, caller(port, le_net) as bad:
        data = np.frombuffer(one.side.data, np.uint8)
        bad.connection.send(request_of(tail, f"ec6:{one.side.digest}"), soon(), [wrong, data])
        with pytest.raises(AppError, match="PROTOCOL"):
            bad.hear()
        good.answered()
    now = fleet.gateway.fleet.load_now()
    assert (now.workers, now.lost, now.repeats) == (2, 0, 0)


def test_who_was_there_when_a_worker_died_is_tried_alone_and_only_the_culprit_is_refused(
    fleet: Fleetlet, le_net: TorchNetwork
) -> None:
    """Three requests are with the worker that dies; one of them ends the next one too."""
    poison = np.full_like(np.asarray(le_net.example.tensor), 77.0)

    others_are_there = threading.Event()

    def gather(worker: Scripted, _connection: Connection, _frame: Frame) -> bool:
        if len(worker.requests()) < 3:
            return True
        others_are_there.wait(LONG_S)
        worker.close()
        return False

    def ends_of_poison(worker: Scripted, connection: Connection, frame: Frame) -> bool:
        if frame.arrays()[0].flat[0] == 77.0:
            worker.close()
            return False
        x = frame.arrays()[0]
        answer = np.zeros((1, 10), np.float32) + x.flat[0]
        connection.send(Result(frame.read(Infer).id, 0.0, 0.0), soon(), [answer])
        return True

    first = fleet.scripted("first", gather, READY)
    port = fleet.open()
    with caller(port, le_net) as one, caller(port, le_net) as two, caller(port, le_net) as three:
        for edge, x in ((one, poison), (two, poison * 0 + 2), (three, poison * 0 + 3)):
            edge.ask(x)
        until(lambda: len(first.requests()) == 3)
        for name in ("second", "third"):
            fleet.scripted(name, ends_of_poison, READY)
        fleet.once_well(3)
        others_are_there.set()
        with pytest.raises(AppError, match="2 workers ended"):
            one.hear()
        for edge, value in ((two, 2.0), (three, 3.0)):
            assert edge.hear()[1].flat[0] == value


def test_networks_that_edges_send_run_beside_the_gateway_also_without_a_worker(
    fleet: Fleetlet, le_net: TorchNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecloud.engine.child_executor.MEASURE_S", 0.1)
    sent, own = bundles.pair(tmp_path / "chain.bundle", bundles.Chain(), (1, 3, 16, 16))
    graph, x = sent.graph, sent.example.array
    expected = own.whole(x)[0]
    fleet.worker("a", le_net)
    port = fleet.open(accepts_networks=True, network_store=tmp_path / "store")
    with caller(port, le_net) as edge:
        error = accepting.refused(port, identity.hello_of(sent))
        assert (error.code, error.accepts > 0) == ("UNKNOWN_MODEL", True)
        assert accepting.ship(port, accepting.parcel_of(sent)).progress.state == "ready"  # type: ignore[union-attr]
        for _ in range(2):
            with closing(accepting.greet(port, identity.hello_of(sent), len(graph.layers))) as connection:
                got = accepting.ask(connection, graph, graph.everything - {0}, [x])
            np.testing.assert_allclose(got[0], expected, rtol=1e-3, atol=1e-4)
            if fleet.placement.at:
                edge.answered()
            fleet.placement.at.clear()
            until(lambda: fleet.gateway is not None and fleet.gateway.fleet.well == 0)
