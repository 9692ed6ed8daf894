"""Budgets belong to a source: coming again buys nothing, and neighbours of another kind or place are not held up."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile.attacks import encode
from benchmarks.reconnecting import Clients
from edgecloud.engine.device_config import DeviceConfig
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Infer, Ready, Result, State, Status
from edgecloud.net.pacing import BUDGETS, Bucket, Purses, Spending, spending_of
from edgecloud.net.penalties import Policy, payer_of
from edgecloud.net.server import STAY_S, Server
from edgecloud.net.sources import HELD_BYTES, REQUESTS, Account, Sources
from edgecloud.server.cloud import Cloud
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.utils.errors import AppError
from tests.conftest import LONG_S, until
from tests.server.test_hostile import hello_of, soon
from tests.serving import running

HERE, THERE = "192.0.2.7", "192.0.2.8"
PER_S = 20.0

# --- pure, by a clock that the test holds


def served(purses: Purses, clients: int, seconds: float, source: str = HERE) -> int:
    """Answers that clients get who each come, pay, wait, are answered, and come again at once."""
    due = [0.0] * clients
    count = 0
    while (now := min(due)) < seconds:
        wait_s = purses.pay(source, Spending.SMALL, 1, now)
        due[due.index(now)] = now + wait_s + 1e-6
        count += now + wait_s < seconds
    return count


@pytest.mark.parametrize("clients", [1, 16, 1000])
def test_many_that_come_again_get_what_one_gets(clients: int) -> None:
    alone = served(Purses(50.0), 1, 10.0)
    assert alone == pytest.approx(50 * 10 + 100, abs=2)
    assert served(Purses(50.0), clients, 10.0) <= 1.01 * alone


@given(
    st.floats(0.5, 500),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 40), st.sampled_from(Spending)), max_size=80),
)
def test_no_source_is_ahead_of_its_budget(per_s: float, events: list[tuple[float, int, Spending]]) -> None:
    """Whoever waits as it is told has spent, at that moment, no more than a burst and what came since."""
    purses, now = Purses(per_s), 0.0
    spent = dict.fromkeys(Spending, 0)
    for pause, tokens, kind in events:
        now += pause
        wait_s = purses.pay(HERE, kind, tokens, now)
        spent[kind] += tokens
        rate = per_s * BUDGETS[kind].times
        assert spent[kind] <= rate * (BUDGETS[kind].burst_s + now + wait_s) * (1 + 1e-9) + 1e-6


def test_other_sources_and_other_kinds_have_their_own() -> None:
    purses = Purses(50.0)
    for _ in range(1000):
        purses.pay(HERE, Spending.SMALL, 1, 0.0)
    assert purses.pay(HERE, Spending.SMALL, 1, 0.0) > 10
    assert purses.pay(THERE, Spending.SMALL, 1, 0.0) == 0
    for kind in set(Spending) - {Spending.SMALL}:
        assert purses.pay(HERE, kind, 1, 0.0) == 0


def test_sixteen_edges_behind_one_address_may_greet_and_probe_their_link_at_once() -> None:
    purses = Purses(50.0)
    for kind, tokens in ((Spending.CONNECTION, 1), (Spending.HANDSHAKE, 1), (Spending.HELLO, 1), (Spending.PROBE, 84)):
        assert sum(purses.pay(HERE, kind, tokens, 0.0) for _ in range(16)) == 0


def test_sources_that_are_remembered_are_bounded_and_who_was_heard_of_lately_is_kept() -> None:
    purses = Purses(50.0, most_sources=100)
    for number in range(50_000):
        purses.pay(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", Spending.SMALL, 1, 0.0)
        purses.pay(HERE, Spending.SMALL, 1, 0.0)
        assert len(purses._purses) <= 100
    assert purses.pay(HERE, Spending.SMALL, 1, 0.0) > 900


def test_what_is_given_back_is_there_again_and_no_more_than_a_burst() -> None:
    bucket = Bucket(10.0)
    bucket.pay(25, 0.0)
    assert bucket.pay(-25, 0.0) == 0
    bucket.pay(-1000, 0.0)
    assert bucket.pay(21, 0.0) == pytest.approx(0.1)


def test_frames_are_paid_from_the_budget_of_their_kind() -> None:
    assert spending_of(FrameType.HELLO) is Spending.HELLO
    assert spending_of(FrameType.PROBE) is Spending.PROBE
    assert spending_of(FrameType.INFER) is Spending.COMPUTED
    assert spending_of(FrameType.CHUNK) is Spending.COMPUTED
    others = set(FrameType) - {FrameType.HELLO, FrameType.PROBE, FrameType.INFER, FrameType.CHUNK}
    assert {spending_of(kind) for kind in others} == {Spending.SMALL}


def test_loopback_is_one_payer_and_so_is_a_64_of_ipv6() -> None:
    assert {payer_of(text) for text in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")} == {"loopback"}
    assert payer_of("2001:db8::1") == payer_of("2001:db8::2") != payer_of("2001:db8:0:1::1")
    assert payer_of(HERE) == payer_of(f"::ffff:{HERE}") == HERE


def test_what_a_source_has_outstanding_is_bounded_in_number_and_bytes() -> None:
    account = Account()
    with account.changed:
        assert account.has_room(10 * HELD_BYTES)  # alone it may be of any size
        for _ in range(REQUESTS):
            assert account.has_room(1)
            account.take(1)
        assert not account.has_room(1)
        account.give_back(REQUESTS, REQUESTS)
        account.take(HELD_BYTES)
        assert not account.has_room(1)
        account.give_back(1, HELD_BYTES)
        assert account.has_room(1)


def test_accounts_are_shared_by_the_connections_of_a_source_and_end_with_the_last() -> None:
    sources = Sources(50.0)
    one, two, other = sources.enter(HERE), sources.enter(HERE), sources.enter(THERE)
    assert one is two is not other
    sources.leave(HERE)
    assert sources.enter(HERE) is one
    for _ in range(2):
        sources.leave(HERE)
    sources.leave(THERE)
    assert not sources._accounts


# --- the door


def come(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=LONG_S)


def test_the_last_of_those_who_wait_makes_room_and_what_it_paid_is_given_back() -> None:
    """One place less than who come; the budget is spent for a minute, so that all wait."""

    def owed_s() -> float:
        return server._sources.pay("loopback", Spending.SMALL, 0)

    server = Server("127.0.0.1", 0, lambda peer: server.take_turn(peer, Spending.SMALL, 1), max_connections=3)
    server.small_per_s = 1.0
    with running(server) as port, ExitStack() as stack:
        began = time.monotonic()
        server._sources.pay("loopback", Spending.SMALL, 62)  # 2 at once
        paid = time.monotonic()
        waiting = []
        for number in range(1, 4):
            waiting.append(stack.enter_context(come(port)))
            until(lambda number=number: sum(peer.turn_at > 0 for peer in server._peers) == number)  # type: ignore[misc]
        time.sleep(2 * STAY_S)
        waiting.append(stack.enter_context(come(port)))
        assert b"BUSY" in waiting[2].recv(4096)
        until(lambda: sum(peer.turn_at > 0 for peer in server._peers) == 3)
        asked = time.monotonic()
        owed = owed_s()
        assert asked - paid <= 63.01 - owed, "what it paid is not given back: it is 64"
        assert time.monotonic() - began >= 62.99 - owed
        places = {peer.name for peer in server._peers}
        assert places == {f"127.0.0.1:{waiting[number].getsockname()[1]}" for number in (0, 1, 3)}


def test_too_many_connections_a_second_of_one_source_are_turned_away_without_a_thread() -> None:
    server = Server("127.0.0.1", 0, lambda peer: None, policy=Policy(), small_per_s=1.0)
    with running(server) as port:

        def are_turned_away() -> bool:
            """Some of 60 that come before any of them is heard out: 20 at once may, and ten a second."""
            said = []
            with ExitStack() as stack:
                for sock in [stack.enter_context(come(port)) for _ in range(60)]:
                    with suppress(ConnectionError):
                        said.append(b"BUSY" in sock.recv(4096))
            return any(said)

        until(are_turned_away)
        until(lambda: server._flood_of("loopback") is None)  # it ends by itself
        assert server._flood_of(HERE) is None


# --- a real cloud


@pytest.fixture(scope="module")
def cloud(cache: Path) -> Iterator[Cloud]:
    """In this process, which has loaded torch anyway."""
    made = Cloud(CloudConfig(port=0, device=DeviceConfig(threads=1, cache_dir=cache), small_per_s=PER_S))
    with running(made.server):
        yield made
    made.close()


def port_of(cloud: Cloud) -> int:
    return cloud.server.addresses[0][1]


def greeted(cloud: Cloud, network: TorchNetwork) -> Connection:
    """A connection that has agreed; where there is no place it comes again, as it is told."""
    end = time.monotonic() + LONG_S
    while True:
        connection = connect("127.0.0.1", port_of(cloud), LONG_S)
        try:
            connection.send(hello_of(network), soon())
            connection.receive(soon()).read(Ready)
        except AppError:
            connection.close()
            if time.monotonic() > end:
                raise
            continue
        return connection


def test_who_comes_again_for_every_status_gets_the_budget_of_one_and_keeps_no_edge_out(
    cloud: Cloud, network: Callable[[str], TorchNetwork]
) -> None:
    le_net = network("le_net")
    x = np.asarray(le_net.example.tensor)
    greeted(cloud, le_net).close()  # it is loaded and measured
    crowd = Clients(port_of(cloud), stay=False)
    began = time.monotonic()
    thread = threading.Thread(target=crowd.run, args=(150, 4.0))
    thread.start()
    until(lambda: crowd.counts["STATE"] > 10)
    with closing(greeted(cloud, le_net)) as edge:  # HELLO has a budget of its own
        for number in range(1, 11):
            edge.send(Infer(number, [[1, 13]], 60.0), soon(), [x])
            edge.receive(soon()).read(Result)
    thread.join()
    seconds = time.monotonic() - began
    assert crowd.counts["STATE"] <= 1.1 * PER_S * (2.0 + seconds)
    with closing(greeted(cloud, le_net)) as late:  # and it goes on
        late.send(Status(), soon())
        late.receive(soon()).read(State)


def test_who_leaves_with_requests_in_hand_leaves_nothing_outstanding(
    cloud: Cloud, network: Callable[[str], TorchNetwork]
) -> None:
    le_net = network("le_net")
    request = encode(Infer(1, [[1, 13]], 60.0), [np.asarray(le_net.example.tensor)])
    linger = struct.pack("ii", 1, 0)
    with closing(greeted(cloud, le_net)) as edge:
        account = next(iter(cloud.server._peers)).account
        for _ in range(12):  # 96 requests, more than may be outstanding
            with closing(greeted(cloud, le_net)) as other:
                other.sock.sendall(request * 8)
                other.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        until(lambda: account.connections == 1)
        until(lambda: account._requests == account._bytes == 0)
        edge.sock.sendall(request)
        edge.receive(soon()).read(Result)
