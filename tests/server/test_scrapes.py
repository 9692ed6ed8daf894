"""The port for scrapes: whoever holds its places has a few seconds, and takes nothing from edges."""

import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import site
from edgecloud.net.endpoints import listen, name_of
from edgecloud.net.http import HEAD_BYTES
from edgecloud.net.site import Site
from edgecloud.server.prometheus import PAGES_PER_S, RULES, scrapes
from tests.conftest import LONG_S, running_cloud, until
from tests.server.test_hostile import assert_serves, greet, hello_of

TEXT = b"edgecloud_load 1.0\n" * 2000
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def shown(make: Callable[[], bytes] = lambda: TEXT) -> Iterator[tuple[int, Site]]:
    """A page on loopback, and its port."""
    listeners = listen("127.0.0.1", 0, site.BACKLOG)
    port = name_of(listeners[0])[1]
    found = scrapes(listeners, make)
    found.start()
    try:
        yield port, found
    finally:
        found.stop()


def come(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=LONG_S)


def said(port: int, *parts: bytes) -> bytes:
    """All that comes back until the end."""
    with come(port) as sock:
        for part in parts:
            sock.sendall(part)
        return rest(sock)


def rest(sock: socket.socket) -> bytes:
    found = b""
    while got := sock.recv(1 << 16):
        found += got
    return found


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with shown() as (number, _):
        yield number


def test_a_get_and_a_head_are_answered(port: int) -> None:
    for path in ("/metrics", "/", "/metrics?name[]=x"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LONG_S) as found:
            assert (found.status, found.read()) == (200, TEXT)
    head = said(port, b"HEAD / HTTP/1.0\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(TEXT)}".encode() in head
    assert head.endswith(b"\r\n\r\n")


def test_a_request_may_come_in_pieces(port: int) -> None:
    assert said(port, *(bytes([one]) for one in GET)).endswith(TEXT)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789", b"405"),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"400"),
        (b"GET / x HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 2 * HEAD_BYTES, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * HEAD_BYTES, b"431"),
        (b"\x16\x03\x01" + b"\0" * 3 * HEAD_BYTES, b"431"),
    ],
)
def test_everything_else_is_refused_by_number(port: int, asked: bytes, status: bytes) -> None:
    with come(port) as sock:
        sock.sendall(asked)
        assert sock.recv(4096).split(b" ")[1] == status


@given(data=st.binary(max_size=300))
def test_any_bytes_leave_it_standing(port: int, data: bytes) -> None:
    with come(port) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        rest(sock)
    assert said(port, GET).endswith(TEXT)


def test_who_has_half_asked_has_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "STAY_S", 0.3)
    with shown() as (port, _), come(port) as sock:
        sock.sendall(HALF)
        assert b" 408 " in rest(sock)


def test_who_does_not_take_its_answer_has_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "STAY_S", 0.3)
    with shown(lambda: bytes(64 << 20)) as (port, found), closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.sendall(GET)
        sock.recv(1)
        until(lambda: not found._visitors)
        monkeypatch.setattr(site, "STAY_S", LONG_S)
        with shown() as (other, _):
            assert said(other, GET).endswith(TEXT)


def test_a_crowd_that_only_half_asks_keeps_nobody_out_and_has_its_places_and_no_more() -> None:
    with shown() as (port, found), ExitStack() as stack:
        before = threading.active_count()
        for _ in range(10 * RULES.places):
            stack.enter_context(come(port)).sendall(HALF)
        for _ in range(3):
            assert said(port, GET).endswith(TEXT)
        assert len(found._visitors) <= RULES.places
        assert threading.active_count() == before


def test_a_page_that_cannot_be_made_is_an_error_and_not_the_end() -> None:
    is_broken = [True]

    def make() -> bytes:
        if is_broken and is_broken.pop():
            raise ValueError("broken")
        return TEXT

    with shown(make) as (port, _):
        assert b" 500 " in said(port, GET)
        assert said(port, GET).endswith(TEXT)


def test_a_flood_of_scrapes_gets_the_latest_page_again() -> None:
    made = []

    def make() -> bytes:
        made.append(time.monotonic())
        return TEXT

    with shown(make) as (port, _):
        began = time.monotonic()
        for _ in range(100):
            assert said(port, GET).endswith(TEXT)
        seconds = time.monotonic() - began
    most = PAGES_PER_S * (2.0 + seconds) + 1
    assert len(made) <= most


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot limit another process")
def test_half_open_scrapes_do_not_stop_a_cloud(cache: Path, network: Callable[[str], TorchNetwork]) -> None:
    """300 of them, and a cloud that may have 256 descriptors in all: it goes on, and so do its figures."""
    subject = network("le_net")
    with running_cloud(cache, "--metrics-port", "0") as cloud, ExitStack() as stack:
        held = cloud.descriptors
        resource.prlimit(cloud.process.pid, resource.RLIMIT_NOFILE, (256, 256))
        edge = stack.enter_context(closing(greet(cloud, hello_of(subject))))
        port = int(cloud.metrics_url.rpartition(":")[2].partition("/")[0])
        crowd = [stack.enter_context(come(port)) for _ in range(300)]
        for sock in crowd:
            sock.sendall(HALF)
        for _ in range(3):
            assert_serves(cloud, subject)
            assert cloud.figures()["edgecloud_open_connections"] >= 1
        assert cloud.descriptors <= held + RULES.places + 16
        del edge
        for sock in crowd:
            sock.close()
        assert cloud.figures()["edgecloud_connections_total"] >= 4
