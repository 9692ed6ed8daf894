"""The server's door: who is turned away, how, and what the log says of it. Loopback is penalised here."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgecloud.cli.cloud_flags import build_parser
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, connect
from edgecloud.net.frames import pack_prefix
from edgecloud.net.messages import Error, Hello, Infer, Probe, Probed, from_header
from edgecloud.net.penalties import Policy
from edgecloud.net.server import Peer, Server
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, PeerClosedError
from edgecloud.utils.flood_log import LINES_A_SECOND, FloodLog
from tests.conftest import LONG_S, running_cloud, until
from tests.server.test_hostile import greet, hello_of
from tests.serving import running

STRICT = Policy(garbage_s=300, silence_s=500, least_s=500, most_connections=3, spares_loopback=False)


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline.after(seconds, "the test")


def answer_probes(peer: Peer, hello_s: float = 60.0) -> None:
    """A whole conversation."""
    while True:
        frame = peer.connection.receive(Deadline.after(hello_s, "no HELLO received"))
        peer.connection.send(Probed(frame.read(Probe).id), soon())
        peer.is_known = True


@contextmanager
def serving(policy: Policy, hello_s: float = 60.0) -> Iterator[int]:
    """A server in a thread; gives its port."""
    server = Server("127.0.0.1", 0, lambda peer: answer_probes(peer, hello_s), policy=policy)
    with running(server) as port:
        yield port


@pytest.fixture
def skip(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the server's clock jump: penalties are long here, so that no slow machine outlives one."""
    ahead = [0.0]
    clock = SimpleNamespace(**vars(time) | {"monotonic": lambda: time.monotonic() + ahead[0]})
    monkeypatch.setattr("edgecloud.net.server.time", clock)

    def jump(seconds: float) -> None:
        ahead[0] += seconds

    return jump


def say(port: int, data: bytes) -> Error:
    """Send something and read the refusal."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as raw:
        raw.sendall(data)
        return from_header(Error, Connection(raw).receive(soon()).header)


def probe(port: int) -> None:
    """What a good edge does."""
    connection = connect("127.0.0.1", port, 60.0)
    try:
        connection.send(Probe(1, 0), soon())
        connection.receive(soon()).read(Probed)
    finally:
        connection.close()


def is_let_in(port: int) -> bool:
    """Whether there is room for one more."""
    try:
        probe(port)
    except AppError:
        return False
    return True


def test_garbage_is_turned_away_at_the_door_until_the_penalty_is_over(skip: Callable[[float], None]) -> None:
    with serving(STRICT) as port:
        assert [say(port, bytes(40)).code for _ in range(2)] == ["BAD_MAGIC"] * 2
        denial = say(port, b"")  # told without having said anything
        assert (denial.code, 0 < denial.retry_after_s <= 600) == ("PENALTY", True)
        with pytest.raises(ConnectError, match=r"the cloud refused \(PENALTY\)"):
            probe(port)
        skip(denial.retry_after_s)
        probe(port)


def test_a_flood_of_who_is_turned_away_holds_nobody_up_and_takes_no_threads(skip: Callable[[float], None]) -> None:
    with serving(STRICT) as port:
        for _ in range(2):
            say(port, bytes(40))
        before = threading.active_count()
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as raw:
                assert b"PENALTY" in raw.recv(4096)
            assert threading.active_count() <= before
        skip(601)
        probe(port)


def test_silence_is_a_fault_and_leaving_is_none() -> None:
    with serving(replace(STRICT, most_connections=64), hello_s=1.0) as port:
        for _ in range(8):
            socket.create_connection(("127.0.0.1", port)).close()
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(b"ECCI")
        probe(port)
        assert say(port, b"").code == "DEADLINE"
        assert say(port, b"").code == "PENALTY"


def test_loopback_is_spared_unless_it_is_wanted() -> None:
    with serving(Policy(garbage_s=100, most_connections=1)) as port:
        assert [say(port, bytes(40)).code for _ in range(5)] == ["BAD_MAGIC"] * 5
        probe(port)


def test_one_source_has_no_more_connections_than_it_may() -> None:
    with serving(STRICT) as port:
        held = [connect("127.0.0.1", port, 60.0) for _ in range(3)]
        for connection in held:
            connection.send(Probe(1, 0), soon())
            connection.receive(soon()).read(Probed)
        with pytest.raises(ConnectError, match="--max-per-source"):
            probe(port)
        held.pop().close()
        until(lambda: is_let_in(port))
        for connection in held:
            connection.close()


def test_a_flood_of_refusals_is_counted_and_not_written(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    told = "! %d further refusals not logged"
    refusals = FloodLog(logging.getLogger("edgecloud.net.server"), logging.WARNING, told, lambda: now[0])
    with caplog.at_level(logging.WARNING, "edgecloud.net.server"):
        for number in range(1000):
            refusals.tell("refusal %d", number)
        assert len(caplog.records) == LINES_A_SECOND
        now[0] += 1.0
        refusals.tell("refusal %d", 1000)
    assert [record.getMessage() for record in caplog.records[-2:]] == [
        f"! {1000 - LINES_A_SECOND} further refusals not logged",
        "refusal 1000",
    ]


def test_guessing_tokens_ends_at_the_door(cache: Path, network: Callable[[str], TorchNetwork]) -> None:
    hello = hello_of(network("le_net"), "wrong guess")
    with running_cloud(cache, "--penalise-loopback", EDGE_CLOUD_TOKEN="a good secret") as cloud:
        seen: list[str] = []
        while len(seen) < 50 and "PENALTY" not in seen:
            connection = connect("127.0.0.1", cloud.port, 5.0)
            try:
                connection.send(hello, soon())
                seen.append(from_header(Error, connection.receive(soon()).header).code)
            except (ConnectError, PeerClosedError) as error:
                seen.append("PENALTY" if "PENALTY" in str(error) else str(error))
            connection.close()
        assert 3 <= seen.index("PENALTY") < 50  # the more, the longer the guesses take: the first are forgotten by then
        assert set(seen) == {"TOKEN", "PENALTY"}


LIMITS = {
    "--max-payload": "64MiB",
    "--max-header": "64KiB",
    "--max-tensors": 64,
    "--max-network-bytes": "4GiB",
    "--max-connections": 64,
    "--max-per-source": 16,
    "--max-penalty": "10min",
    "--max-queue": 32,
    "--hello-timeout": "10s",
    "--idle-timeout": "10min",
    "--timeout": "120s",
    "--drain-timeout": "30s",
    "--min-rate": "1kB",
    "--max-control-rate": 50,
    "--load-budget": "10min",
}


def test_every_limit_is_a_flag_with_its_default_in_the_help() -> None:
    words = " ".join(build_parser("cloud_api.py", "", 1).format_help().split())
    for flag, default in LIMITS.items():
        described = words[words.rindex(f"{flag} ") :]
        assert f"(default: {default})" in described.partition(" --")[0], flag


def test_limits_that_were_given_are_kept(cache: Path, network: Callable[[str], TorchNetwork]) -> None:
    subject = network("le_net")
    flags = ("--max-header", "4KiB", "--max-tensors", "1", "--max-payload", "64KiB", "--idle-timeout", "2s")
    with running_cloud(cache, *flags) as cloud:
        assert say(cloud.port, pack_prefix(Hello.TYPE, 4097, 0)).code == "TOO_LARGE"
        assert say(cloud.port, pack_prefix(Infer.TYPE, 10, (64 << 10) + 1)).code == "TOO_LARGE"
        edge = greet(cloud, hello_of(subject))
        with pytest.raises(AppError, match="idle for"):
            edge.receive(soon()).read(Probed)
        edge.close()
        edge = greet(cloud, hello_of(subject))
        edge.send(Infer(1, [[1, 2]], 1.0), soon(), [np.zeros(1, np.uint8)] * 2)
        with pytest.raises(AppError, match="2 tensors, the limit is 1"):
            edge.receive(soon()).read(Probed)
        edge.close()
