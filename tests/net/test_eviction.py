"""When all places are taken: who has said no HELLO makes room for who comes, and who has said it keeps its place."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection
from edgecloud.net.messages import Error, Probe, Probed, from_header
from edgecloud.net.penalties import Policy
from edgecloud.net.server import STAY_S, Peer, Server
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, PeerClosedError
from tests.conftest import LONG_S, running_cloud, until
from tests.server.test_hostile import assert_serves, greet, hello_of, raw_socket
from tests.serving import running

PLACES = 4


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds, "the test")


def converse(peer: Peer) -> None:
    """The first probe agrees; each is answered."""
    while True:
        frame = peer.connection.receive(soon())
        peer.has_agreed = True
        peer.connection.send(Probed(frame.read(Probe).id), soon())


@contextmanager
def serving(policy: Policy | None = None) -> Iterator[Server]:
    server = Server("127.0.0.1", 0, converse, max_connections=PLACES, policy=policy or Policy())
    with running(server):
        yield server


def come(server: Server, source: str = "127.0.0.1") -> socket.socket:
    """A connection that says nothing, and is let in."""
    port = server.addresses[0][1]
    return socket.create_connection(("127.0.0.1", port), timeout=LONG_S, source_address=(source, 0))


def probe(sock: socket.socket) -> str:
    """PROBED, or why not. Not closed: whoever asked stays."""
    connection = Connection(sock)
    try:
        connection.send(Probe(1, 0), soon())
        frame = connection.receive(soon())
    except PeerClosedError:
        return "CLOSED"
    return from_header(Error, frame.header).code if frame.kind is Error.TYPE else frame.kind.name


def told(sock: socket.socket) -> str:
    """The code of the refusal that comes on its own."""
    return from_header(Error, Connection(sock).receive(soon()).header).code


def test_the_oldest_who_said_nothing_makes_room_and_is_told() -> None:
    with serving() as server, ExitStack() as stack:
        silent = []
        for number in range(PLACES):
            silent.append(stack.enter_context(closing(come(server))))
            until(lambda number=number: server.count == number + 1)  # type: ignore[misc]
        time.sleep(2 * STAY_S)
        good = stack.enter_context(closing(come(server)))
        assert probe(good) == "PROBED"
        assert told(silent[0]) == "BUSY"
        assert probe(silent[1]) == "PROBED"
        assert server.count == PLACES


def test_who_has_agreed_keeps_its_place() -> None:
    with serving() as server, ExitStack() as stack:
        known = [stack.enter_context(closing(come(server))) for _ in range(PLACES)]
        assert [probe(sock) for sock in known] == ["PROBED"] * PLACES
        time.sleep(2 * STAY_S)
        assert told(stack.enter_context(closing(come(server)))) == "BUSY"
        assert [probe(sock) for sock in known] == ["PROBED"] * PLACES


def test_a_crowd_makes_room_before_a_single_one_who_is_older() -> None:
    with serving() as server, ExitStack() as stack:
        single = stack.enter_context(closing(come(server, "127.0.0.3")))
        until(lambda: server.count == 1)
        crowd = [stack.enter_context(closing(come(server, "127.0.0.2"))) for _ in range(PLACES - 1)]
        until(lambda: server.count == PLACES)
        time.sleep(2 * STAY_S)
        assert probe(stack.enter_context(closing(come(server)))) == "PROBED"
        until(lambda: server.count == PLACES)  # the one that has to leave is told by its own thread
        assert probe(single) == "PROBED"
        assert sum(probe(sock) == "PROBED" for sock in crowd) == PLACES - 2


def test_places_of_sources_are_counted_rightly_after_evictions() -> None:
    with serving(Policy(spares_loopback=False, most_connections=PLACES)) as server, ExitStack() as stack:
        for _ in range(3 * PLACES):  # more than one source may have, had the evicted ones been counted
            stack.enter_context(closing(come(server, "127.0.0.2")))
            time.sleep(1.5 * STAY_S / PLACES)
        stack.close()
        until(lambda: server.count == 0)
        assert not server._door._open


def test_a_good_edge_gets_in_while_a_crowd_takes_every_place(
    cache: Path, network: Callable[[str], TorchNetwork]
) -> None:
    """A real cloud; without eviction it would be BUSY until --hello-timeout, which is longer than anybody waits here.
    A cloud on a busy machine lets the last of the crowd in late, and each may stay for a moment."""
    subject = network("le_net")

    def is_served() -> bool:
        try:
            assert_serves(cloud, subject)
        except AppError:
            return False
        return True

    with running_cloud(cache, "--max-connections", "8", "--hello-timeout", "10min") as cloud, ExitStack() as stack:
        greet(cloud, hello_of(subject)).close()
        for _ in range(16):  # twice as many as there are places
            sock = stack.enter_context(raw_socket(cloud))
            sock.sendall(b"ECCI\x01\x01")
        for _ in range(3):
            until(is_served)
