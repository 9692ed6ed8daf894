"""Asking a cloud how it is, and how it ends: real processes with requests in hand."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Error, Probe, Probed, State, Status, from_header
from edgecloud.server import health
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ConnectError, PeerClosedError
from tests.conftest import LONG_S, CloudProcess, run_script, running_cloud, until
from tests.server.test_hostile import greet, hello_of

LOCAL = "127.0.0.1"


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds, "the test")


@contextmanager
def busy(cloud: CloudProcess, subject: TorchNetwork) -> Iterator[Connection]:
    """A connection whose request is in hand for as long as nothing is read: its answer is larger than all buffers."""
    with closing(greet(cloud, hello_of(subject))) as edge:
        for number in range(1, 9):
            edge.send(Probe(number, 4 << 20), soon())
        edge.sock.settimeout(LONG_S)
        edge.sock.recv(1, socket.MSG_PEEK)  # the first answer has begun to come
        yield edge


def says_that_it_stops(cloud: CloudProcess) -> bool:
    """Whether it has noticed a signal."""
    found = health.ask(LOCAL, cloud.port, "", None)
    return not found.is_healthy and found.reason == "the cloud is stopping"


@pytest.fixture
def subject(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network("le_net")


def test_a_healthy_cloud_says_so_in_one_line_and_in_one_document(cloud: CloudProcess) -> None:
    line = run_script("cloud_api.py", "--health", f"{LOCAL}:{cloud.port}")
    assert (line.code, len(line.stdout.splitlines()), line.stderr) == (0, 1, "")
    assert line.stdout.startswith("healthy")
    document = run_script("tasks_cloud_api.py", "--health", f"{LOCAL}:{cloud.port}", "--json").document
    assert document["healthy"] is True
    assert {"load", "queue_s", "waiting", "max_queue", "connections", "draining"} <= document.keys()


def test_asking_loads_no_torch() -> None:
    code = (
        "import sys, cloud_api; code = cloud_api.main(['--health', '127.0.0.1:1']);"
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    assert run_script("-c", code).code == 3


def test_a_full_cloud_says_that_it_is_busy(cache: Path, subject: TorchNetwork) -> None:
    with running_cloud(cache, "--max-connections", "1") as cloud, closing(greet(cloud, hello_of(subject))):
        done = run_script("cloud_api.py", "--health", f"{LOCAL}:{cloud.port}")
    assert (done.code, done.stdout) == (3, "")
    assert "the cloud is busy (BUSY): all 1 connections are in use" in done.stderr


def test_nobody_there_is_code_3(cloud: CloudProcess) -> None:
    done = run_script("cloud_api.py", "--health", f"{LOCAL}:1", "--json")
    assert (done.code, done.document["error"]["code"]) == (3, "CANNOT_CONNECT")
    assert run_script("cloud_api.py", "--health", "nonsense").code == 2


def test_before_hello_only_status_is_answered(cloud: CloudProcess) -> None:
    with closing(connect(LOCAL, cloud.port, 5.0)) as connection:
        for _ in range(3):
            connection.send(Status(), soon())
            assert connection.receive(soon()).read(State).draining is False
        connection.send(Probe(1, 0), soon())
        assert from_header(Error, connection.receive(soon()).header).code == "PROTOCOL"


def test_what_is_no_cloud_is_unhealthy_and_code_1() -> None:
    with socket.create_server((LOCAL, 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                while sock.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        done = run_script("cloud_api.py", "--health", f"{LOCAL}:{listener.getsockname()[1]}")
        thread.join()
    assert (done.code, done.stdout.startswith("unhealthy: not this protocol")) == (1, True)


def test_a_stopping_cloud_finishes_what_is_in_hand_and_says_that_it_is_stopping(
    cache: Path, subject: TorchNetwork
) -> None:
    with running_cloud(cache) as cloud, busy(cloud, subject) as edge:
        cloud.stop()
        until(lambda: says_that_it_stops(cloud))
        assert health.ask(LOCAL, cloud.port, "", None).state is not None
        with pytest.raises(ConnectError, match="stopping"):
            greet(cloud, hello_of(subject))
        done = run_script("cloud_api.py", "--health", f"{LOCAL}:{cloud.port}")
        assert (done.code, done.stdout.startswith("unhealthy: the cloud is stopping")) == (1, True)
        assert edge.receive(soon()).read(Probed) == Probed(1)  # the answer, not the end
        with contextlib.suppress(PeerClosedError):
            while edge.receive(soon()).read(Probed):  # and those that were in hand with it
                pass
        assert cloud.process.wait(timeout=LONG_S) == 0


def test_a_drain_ends_when_its_time_is_over(cache: Path, subject: TorchNetwork) -> None:
    with running_cloud(cache, "--drain-timeout", "700ms") as cloud, busy(cloud, subject):
        started = time.monotonic()
        cloud.stop()
        assert cloud.process.wait(timeout=LONG_S) == 0
        assert time.monotonic() - started > 0.6


def test_a_second_sigterm_ends_at_once(cache: Path, subject: TorchNetwork) -> None:
    with running_cloud(cache, "--drain-timeout", "60min", ends_with=-signal.SIGTERM) as cloud, busy(cloud, subject):
        cloud.stop()
        until(lambda: says_that_it_stops(cloud))
        assert cloud.process.poll() is None
        cloud.process.terminate()
        cloud.process.wait(timeout=LONG_S)
