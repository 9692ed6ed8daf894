"""Answers have to be taken; and what does not fit is refused before it is decoded."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
import zstandard

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import plain_pickle, tensors
from edgecloud.net.connection import Connection, SlowError
from edgecloud.net.frames import FrameType, Limits, pack_prefix
from edgecloud.net.messages import Probed
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import DeadlineError
from tests.conftest import CloudProcess
from tests.server.test_hostile import greet, hello_of, soon

WAIT_S = 60.0


@contextmanager
def sender(min_taken_per_s: float) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection that sends, and a reader with a small window."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        with closing(Connection(accepted, min_taken_per_s=min_taken_per_s)) as connection:
            yield connection, reader


def reads(reader: socket.socket, bytes_: int, every_s: float, stop: threading.Event) -> None:
    """As slowly as that."""
    while not stop.wait(every_s):
        reader.recv(bytes_)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecloud.net.connection.PATIENCE_S", 0.3)


PAYLOAD = [np.zeros(1 << 20, np.uint8)]


def test_who_takes_nothing_is_let_go_long_before_the_deadline() -> None:
    with sender(1000.0) as (connection, _), pytest.raises(SlowError, match="reads slower than 1000 bytes/s") as caught:
        connection.send(Probed(1), Deadline.after(WAIT_S, "the test"), PAYLOAD)
    assert caught.value.code == "DEADLINE"


def test_who_takes_a_byte_now_and_then_is_let_go_too() -> None:
    stop = threading.Event()
    with sender(100_000.0) as (connection, reader):
        thread = threading.Thread(target=reads, args=(reader, 16, 0.02, stop))
        thread.start()
        try:
            with pytest.raises(SlowError):
                connection.send(Probed(1), Deadline.after(WAIT_S, "the test"), PAYLOAD)
        finally:
            stop.set()
            thread.join()


def test_who_is_slow_but_fast_enough_gets_all_of_it() -> None:
    stop = threading.Event()
    with sender(1000.0) as (connection, reader):
        thread = threading.Thread(target=reads, args=(reader, 1 << 14, 0.01, stop))
        thread.start()
        began = time.monotonic()
        connection.send(Probed(1), Deadline.after(WAIT_S, "the test"), PAYLOAD)
        stop.set()
        thread.join()
    assert time.monotonic() - began > 0.3  # longer than the patience: the rate was looked at


def test_an_edge_has_its_own_deadline_for_sending_and_no_rate() -> None:
    with sender(0.0) as (connection, _), pytest.raises(DeadlineError):
        connection.send(Probed(1), Deadline.after(1.0, "the test"), PAYLOAD)


def test_what_is_read_is_not_decoded_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    squeezed = zstandard.compress(bytes(1 << 20))
    header = {"tensors": [("uint8", (1 << 20,), "zstd", 0)], "buffers": [len(squeezed)]}
    with monkeypatch.context() as patched:
        patched.setattr(zstandard, "ZstdDecompressor", None)
        (found,) = tensors.read(header, memoryview(squeezed), Limits())
    assert (found.dtype, found.shape, found.nbytes) == ("uint8", (1 << 20,), 1 << 20)
    assert not found.decode().any()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the cloud from /proc")
def test_a_tensor_that_no_layer_reads_is_refused_before_it_is_unfolded(
    cloud: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    squeezed = zstandard.compress(bytes(48 << 20))
    fields = {"id": 1, "layers": [[1, 13]], "deadline_s": 30.0}
    tensor = {"tensors": [("uint8", (48 << 20,), "zstd", 0)], "buffers": [len(squeezed)]}
    header = plain_pickle.dumps(fields | tensor)
    data = pack_prefix(FrameType.INFER, len(header), len(squeezed)) + header + squeezed
    with closing(greet(cloud, hello_of(network("le_net")))) as edge:
        before = cloud.rss_bytes
        edge.sock.sendall(data)
        assert edge.receive(soon()).header["code"] == "BAD_REQUEST"
        assert cloud.rss_bytes - before < 20 << 20
