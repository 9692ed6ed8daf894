"""The page's server under attack: what is refused, what is limited, and that everybody else is still served."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.net import site
from edgecloud.net.http import BODY_BYTES, HEAD_BYTES, STATUSES, BadRequestError, Reply, parse, to_bytes
from edgecloud.net.metrics import Gauges, Spent
from edgecloud.page import app
from edgecloud.page.app import FILES, RULES, Page
from edgecloud.page.cloud import CloudView
from edgecloud.utils.errors import UsageError

LONG_S = 120.0
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TOKEN = "right-token-0123"


def view() -> CloudView:
    found = CloudView("cpu")
    limits = {"max_queue": 32, "max_connections": 64, "max_batch": 1}
    found.watch(Gauges(lambda: 1, lambda: 0, lambda: 1.0, lambda: 1.0, limits=limits, peers=lambda: ("10.0.0.7:1",)))
    found.answered(SCRIPT, Spent(0.01, 0.02, 0.03, 0.1, "10.0.0.7:1", 3, 0.02, 1e6, 2), {"raw": 40})
    return found


@contextmanager
def served(
    host: str = "127.0.0.1", watched: CloudView | None = None, actions: bool = True
) -> Iterator[tuple[int, Page]]:
    watched = watched or view()
    done: list[object] = []
    if actions:
        watched.actions = {"pin": done.append}
    page = Page(watched, host, TOKEN)
    url = page.open(0)
    try:
        yield int(url.split(":")[2].partition("/")[0]), page
    finally:
        page.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served() as (found, _):
        yield found


@pytest.fixture(scope="module")
def open_port() -> Iterator[int]:
    """A page that other machines reach."""
    with served("0.0.0.0") as (found, _):
        yield found


def ask(port: int, path: str = "/", method: str = "GET", body: str | None = None, **fields: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_S)
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    for _ in range(600):  # the rate is limited for all visitors together
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 429:
            break
        time.sleep(0.1)
    connection.close()
    return answer.status, text


def said(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), LONG_S) as sock:
        sock.sendall(data)
        answer = b""
        while got := sock.recv(65536):
            answer += got
    return answer


@pytest.mark.parametrize("path", FILES)
def test_every_reply_forbids_what_is_not_its_own(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_S)
    connection.request("GET", path)
    reply = connection.getresponse()
    assert reply.status == 200
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in reply.headers
    text = reply.read().decode()
    assert not any(
        word in text for word in ("innerHTML", "insertAdjacent", "document.write", "eval(", "onclick=", "style=")
    )
    connection.close()


def test_the_page_is_small_and_asks_nobody_else(port: int) -> None:
    texts = [ask(port, path)[1] for path in FILES]
    assert sum(len(text.encode()) for text in texts) <= 150_000
    for text in texts:
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")


@pytest.mark.parametrize("fields", [{"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}])
@pytest.mark.parametrize("path", ["/events", "/state.json", "/trace.json", "/picture.png"])
def test_another_website_reads_nothing(port: int, path: str, fields: dict[str, str]) -> None:
    assert ask(port, path, **fields)[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1", "", "a b"])
def test_a_name_that_was_made_to_lead_here_reads_nothing(port: int, host: str) -> None:
    assert ask(port, "/state.json", Host=host)[0] in (400, 421)
    assert ask(port, "/", Host=host)[0] in (400, 421)


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "right token"])
def test_a_wrong_token_changes_nothing_and_from_elsewhere_reads_nothing(port: int, open_port: int, token: str) -> None:
    fields = {"Authorization": f"Bearer {token}"} if token else {}
    for each in (port, open_port):
        kind = {"Content_Type": "application/json"}
        assert ask(each, "/pin", "POST", '{"point": 1}', **kind, **fields)[0] == 401
    for path in ("/state.json", "/events", "/trace.json", "/picture.png"):
        assert ask(open_port, path, **fields)[0] == 401
        assert ask(open_port, f"{path}?token={TOKEN}", **fields)[0] == 401, "never in an address"
    assert ask(open_port, "/")[0] == 200


def test_the_right_token_opens(port: int, open_port: int) -> None:
    fields = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(open_port, "/state.json", **fields)[0] == 200
    assert ask(port, "/pin", "POST", '{"point": 1}', Content_Type="application/json", **fields)[0] == 204
    assert ask(port, "/pin", "POST", '{"point": 1}', Content_Type="text/plain", **fields)[0] == 415
    assert ask(port, "/pin", "POST", "{", Content_Type="application/json", **fields)[0] == 400
    assert ask(port, "/other", "POST", "1", Content_Type="application/json", **fields)[0] == 404


def test_an_action_that_cannot_be_says_why() -> None:
    watched = view()

    def refuse(_: object) -> None:
        raise UsageError("no such point")

    with served(watched=watched, actions=False) as (port, _):
        watched.actions = {"pin": refuse}
        fields = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
        assert ask(port, "/pin", "POST", "1", **fields) == (400, "no such point")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\nX: y\r\n\r\n", 400),
        (b"GET /\r\nX: y HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /a%0d%0aSet-Cookie:x=y HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"DELETE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"POST /pin HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"POST /pin HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"POST /pin HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * HEAD_BYTES, 431),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 8 + b"\r\n\r\n", 400),
    ],
)
def test_what_is_no_plain_request_is_refused(port: int, data: bytes, status: int) -> None:
    answer = said(port, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Set-Cookie" not in answer
    assert ask(port)[0] == 200


@given(
    st.binary(max_size=300)
    | st.tuples(st.sampled_from(RULES.methods), st.binary(max_size=200)).map(
        lambda pair: pair[0].encode() + b" /" + pair[1] + b"\r\n\r\n"
    )
)
def test_any_bytes_are_a_request_or_refused_or_wait_for_more(data: bytes) -> None:
    try:
        request = parse(data)
    except BadRequestError as error:
        request, status = None, error.reply.status
    else:
        status = 200
    assert status in STATUSES
    assert request is None or (request.method in RULES.methods and "host" in request.fields)
    assert request is None or len(request.body) <= BODY_BYTES


@given(st.sampled_from(sorted(STATUSES)), st.binary(max_size=50))
def test_a_reply_has_one_head_and_the_length_of_its_body(status: int, body: bytes) -> None:
    head, _, rest = to_bytes(Reply(status, body)).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(rest)}".encode() in head
    assert all(b": " in line for line in head.split(b"\r\n")[1:])


def events(sock: socket.socket) -> Iterator[dict[str, object]]:
    """The frames of a stream."""
    data = b""
    while got := sock.recv(65536):
        data += got
        *frames, data = data.split(b"\n\n")
        for frame in frames:
            if b"data: " in frame:
                yield json.loads(frame.partition(b"data: ")[2])


def stream(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), LONG_S)
    sock.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return sock


def test_a_stream_brings_all_first_and_then_what_is_new() -> None:
    watched = view()
    with served(watched=watched) as (port, _), closing(stream(port)) as sock:
        frames = events(sock)
        first = next(frames)
        assert [row["number"] for row in first["rows"]] == [1]  # type: ignore[attr-defined]
        watched.answered("le_net", Spent(0.0, 0.0, 0.5, 0.5, "10.0.0.7:1"), {})
        rows = next(frame["rows"] for frame in frames if frame["rows"])
        assert [row["number"] for row in rows] == [2]  # type: ignore[attr-defined]


def test_five_hundred_connections_keep_nobody_out() -> None:
    with served() as (port, page), ExitStack() as stack:
        before = threading.active_count()
        watching = stack.enter_context(closing(stream(port)))
        frames = events(watching)
        next(frames)
        for number in range(500):
            sock = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), LONG_S)))
            if number % 2:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert ask(port, "/state.json")[0] == 200
        assert threading.active_count() == before
        assert page._site is not None
        assert len(page._site._visitors) <= RULES.places + RULES.streams
        page._view.answered("le_net", Spent(0.0, 0.0, 0.5, 0.5), {})  # type: ignore[attr-defined]
        assert any(frame["rows"] for frame in frames)


def test_slow_readers_hold_nobody_up_and_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "SLOW_S", 0.5)
    monkeypatch.setattr(site, "SENT_AHEAD_BYTES", 4096)
    watched = view()
    with served(watched=watched) as (port, page), ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(closing(socket.socket()))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        end = time.monotonic() + LONG_S
        found = page._site
        assert found is not None
        while found.streams < 8 or any(one.frames is not None for one in list(found._visitors)):
            watched.answered("x" * 2000, Spent(0.0, 0.0, 0.5, 0.5, "10.0.0.7:1"), {})
            assert ask(port, "/page.css")[0] == 200
            assert time.monotonic() < end
            if not found.streams:
                break
            time.sleep(0.05)


def test_there_are_only_so_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "RULES", replace(RULES, streams=2))
    with served() as (port, _), ExitStack() as stack:
        for _ in range(2):
            next(events(stack.enter_context(closing(stream(port)))))
        assert ask(port, "/events")[0] == 503


def test_a_view_that_fails_is_an_error_and_not_the_end() -> None:
    watched = CloudView("cpu")  # has no gauges yet
    with served(watched=watched) as (port, _):
        assert ask(port, "/state.json")[0] == 500
        watched.watch(
            Gauges(lambda: 1, lambda: 0, lambda: 1.0, lambda: 1.0, limits={"max_queue": 1, "max_connections": 9})
        )
        assert ask(port, "/state.json")[0] == 200


def test_traces_are_not_made_without_end(port: int) -> None:
    statuses = [said(port, b"GET /trace.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").split()[1] for _ in range(12)]
    assert b"429" in statuses


def test_who_takes_an_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "STAY_S", 0.4)
    monkeypatch.setattr(site, "SENT_AHEAD_BYTES", 4096)
    with served() as (port, page), closing(socket.socket()) as sock:
        body = b"x" * 200_000
        page._files["/page.css"] = (body, "text/css")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"GET /page.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        began, answer = time.monotonic(), b""
        while got := sock.recv(8192):
            answer += got
            time.sleep(0.03)
        assert answer.endswith(body)
        assert time.monotonic() - began > 0.4


def test_a_script_in_a_name_travels_as_data(port: int) -> None:
    status, text = ask(port, "/state.json")
    assert status == 200
    assert SCRIPT in json.dumps(json.loads(text))
    assert json.loads(text)["rows"][0]["name"] == SCRIPT
