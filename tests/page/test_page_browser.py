"""The live page in a real browser, of a real edge and a real cloud: what it shows is what was measured."""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import edgecloud as ec
from edgecloud.client.config import DeviceConfig
from edgecloud.client.edge import Answered
from edgecloud.net.metrics import Spent
from edgecloud.page.app import Page
from edgecloud.page.cloud import CloudView
from edgecloud.page.edge import EdgeView
from edgecloud.server.cloud import Cloud
from edgecloud.server.cloud_config import CloudConfig
from tests.browser import Tab, find_browser, running_browser
from tests.conftest import LONG_S, THREADS, running_cloud, until
from tests.page.test_trace import check_format, slices

PHONE, DESK = 390, 1400
COUNT = 20
CloudPage = tuple[str, str, CloudView]
"""Where the page is, where the cloud is, and what the page shows."""
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed")
    with running_browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


class Watched:
    """An edge with its page."""

    def __init__(self, edge: ec.Edge) -> None:
        self.edge, self.client = edge, edge.client
        self.view = EdgeView(edge.client)
        self.page = Page(self.view, "127.0.0.1")
        self.url = self.page.open(0)
        self.answers: list[Answered] = []

    def infer(self, count: int = 1) -> Answered:
        """So many inferences; the last one."""
        for _ in range(count):
            self.answers.append(self.client.infer(self.client.prepared.edge.network.example.array))
        return self.answers[-1]

    def close(self) -> None:
        self.page.close()


@contextmanager
def watched(cache: Path, port: int) -> Iterator[Watched]:
    place, link = f"127.0.0.1:{port}", ec.Link("50mbit", rtt="5ms")
    made = ec.Edge("le_net", place, link=link, cache_dir=cache, threads=int(THREADS), timeout="20s")
    with made as edge, closing(Watched(edge)) as found:
        yield found


@pytest.fixture(scope="module")
def edge(cache: Path) -> Iterator[Watched]:
    with running_cloud(cache, "--models", "le_net") as cloud, watched(cache, cloud.port) as found:
        yield found


def shows(tab: Tab, condition: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Wait until an expression in the page is true."""

    def is_so() -> bool:
        meanwhile()
        return bool(tab.ask(condition))

    until(is_so)


def with_language(url: str, language: str) -> str:
    address, sharp, token = url.partition("#")
    return f"{address}?lang={language}{sharp}{token}"


def opened(tab: Tab, url: str, width: int, *, dark: bool = False) -> None:
    """Anew, whatever is open: the same address with another # would only be another place in the page."""
    tab.open("about:blank", width)
    tab.complaints.clear()
    tab.requests.clear()
    tab.open(url, width, dark=dark)
    shows(tab, "document.getElementById('status').className === '' && state !== null")


def assert_undisturbed(tab: Tab, url: str) -> None:
    """No error on the console, and nothing that left this host and port."""
    assert tab.complaints == []
    host = url.partition("://")[2].partition("/")[0]
    assert {request.partition("://")[2].partition("/")[0] for request in tab.requests} == {host}
    assert not [request for request in tab.requests if "token" in request]


@pytest.mark.parametrize(("language", "words"), [("en", "Last requests"), ("zh", "最近的请求")])
def test_an_edges_page_shows_what_was_measured(tab: Tab, edge: Watched, language: str, words: str) -> None:
    opened(tab, with_language(edge.url, language), DESK)
    edge.infer(COUNT)
    shows(tab, f"rows.length && rows[rows.length - 1].number === {len(edge.answers)}")
    found: list[dict[str, Any]] = tab.ask(f"rows.slice(-{COUNT})")
    for row, answered in zip(found, edge.answers[-COUNT:], strict=True):
        times = answered.measured
        assert row["total_s"] == times.total_s
        assert row["completed_by"] == answered.completed_by
        assert row["payload_bytes"] == times.payload_bytes
        told = {name: seconds for name, _, seconds in row["stages"]}
        measured = {name: times.to_json()[f"{name}_s"] for name in ("edge", "encode", "queue", "cloud")}
        measured["transfer"] = times.transfer_s
        assert told == {name: seconds for name, seconds in measured.items() if seconds > 0}
    assert tab.ask("document.getElementById('h-waterfall').textContent") == words
    shows(tab, "document.querySelectorAll('#requests tbody tr').length === rows.length")
    assert tab.ask("document.querySelector('#requests tbody td').textContent") == str(len(edge.answers))
    assert tab.ask("document.querySelectorAll('#waterfall rect.fill-edge').length") >= COUNT
    assert tab.ask("state.points.length") == len(edge.edge.net.graph.points)
    assert tab.ask("document.querySelectorAll('#cuts .strong').length") == 2
    assert tab.ask("document.querySelectorAll('#map circle.now').length") == 1
    shows(tab, "document.querySelectorAll('#top .share').length === 5")
    shows(tab, "!document.getElementById('picture').hidden && document.getElementById('picture').width > 20")
    assert tab.ask("document.documentElement.scrollWidth") <= DESK
    assert_undisturbed(tab, edge.url)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(tab: Tab, edge: Watched, dark: bool) -> None:
    edge.infer()
    opened(tab, edge.url, PHONE, dark=dark)
    shows(tab, "document.querySelectorAll('#waterfall svg').length === 1")
    assert tab.ask("document.documentElement.scrollWidth") <= PHONE
    paper = tab.ask("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(paper) < 380) == dark
    assert_undisturbed(tab, edge.url)


def test_the_best_cut_of_the_map_is_the_least_of_the_bars(tab: Tab, edge: Watched) -> None:
    opened(tab, edge.url, DESK)
    shows(tab, "document.getElementById('map').dataset.best !== undefined")
    least = "state.points.reduce((a, b) => b.total_s < a.total_s ? b : a)"
    assert tab.ask(f"Math.abs(state.points[bestNow()].total_s / {least}.total_s - 1) < 1e-6")


def test_a_cut_is_pinned_and_released_with_the_token(tab: Tab, edge: Watched) -> None:
    opened(tab, edge.url.partition("#")[0], DESK)
    tab.ask("sessionStorage.clear()")
    opened(tab, edge.url.partition("#")[0], DESK)
    shows(tab, "document.querySelector('#pin button').disabled")
    opened(tab, edge.url, DESK)
    for point in (3, 0):
        shows(tab, "!document.querySelector('#pin button').disabled")
        tab.ask(f"document.getElementById('point').value = '{point}'; document.querySelector('#pin button').click()")
        shows(tab, f"state.plan.pinned === {point}")
        answered = edge.infer(2)
        assert len(answered.parts) == 2
        shows(tab, f"rows.length && rows[rows.length - 1].number === {len(edge.answers)}")
        shows(tab, f"rows[rows.length - 1].point === {point}")
    tab.ask("document.getElementById('release').click()")
    shows(tab, "state.plan.pinned === null")
    assert edge.client.runner.pinned is None
    assert_undisturbed(tab, edge.url)


def test_the_trace_adds_up_to_what_was_measured(edge: Watched) -> None:
    edge.infer(2)
    with urllib.request.urlopen(edge.url.partition("#")[0] + "trace.json", timeout=LONG_S) as reply:
        document = json.load(reply)
    check_format(document)
    totals = {e["args"]["number"]: e["dur"] * 1e-6 for e in slices(document) if e["cat"] == "request"}
    assert totals == pytest.approx({n: a.measured.total_s for n, a in enumerate(edge.answers, 1)}, abs=3e-9)


def test_the_page_survives_the_death_and_the_return_of_the_cloud(tab: Tab, cache: Path) -> None:
    with ExitStack() as stack:
        cloud = stack.enter_context(running_cloud(cache, "--models", "le_net"))
        found = stack.enter_context(watched(cache, cloud.port))
        found.client.runner.pin(0)
        found.infer()
        opened(tab, found.url, DESK)
        shows(tab, "rows.length === 1 && state.cloud.is_connected")
        cloud.kill()
        assert found.infer().completed_by == "fallback"
        shows(
            tab,
            "!state.cloud.is_connected && document.querySelector('.banner strong').textContent.includes('No cloud')",
        )
        shows(tab, "rows[rows.length - 1].completed_by === 'fallback'")
        stack.enter_context(running_cloud(cache, "-p", str(cloud.port), "--models", "le_net"))
        until(lambda: found.infer().completed_by == "cloud")
        shows(tab, "state.cloud.is_connected && rows[rows.length - 1].completed_by === 'cloud'")
        assert_undisturbed(tab, found.url)


@pytest.fixture(scope="module")
def cloud_page(cache: Path) -> Iterator[CloudPage]:
    """A cloud of this process with its page."""
    view, net = CloudView("cpu"), ec.load("le_net")
    config = CloudConfig(port=0, device=DeviceConfig(cache_dir=cache, threads=int(THREADS)))
    cloud = Cloud(config, view, loaded=[(net.entry, net.made_for("cpu"))])
    host, port = cloud.server.open()
    thread = threading.Thread(target=cloud.server.serve)
    thread.start()
    with closing(Page(view, "127.0.0.1")) as page:
        yield page.open(0), f"{host}:{port}", view
    cloud.server.stop()
    thread.join()
    cloud.close()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_clouds_page_shows_its_edges(tab: Tab, cloud_page: CloudPage, cache: Path, language: str) -> None:
    url, address, view = cloud_page
    assert "token" not in url
    before = view.state()["count"]
    with ec.Edge("le_net", address, point=3, link=ec.Link("50mbit"), cache_dir=cache) as edge:
        for _ in range(COUNT):
            edge.client.infer(edge.client.prepared.edge.network.example.array)
        opened(tab, with_language(url, language), DESK)
        shows(tab, f"state.count === {before + COUNT} && document.querySelectorAll('#edges tbody tr').length === 1")
        cells = tab.ask("[...document.querySelectorAll('#edges tbody td')].map(each => each.textContent)")
        assert cells[1:3] == ["le_net", "3"]
        assert cells[4] == str(COUNT)
        assert tab.ask("state.memory.networks.le_net") > 0
        assert tab.ask("document.querySelectorAll('#waterfall rect.fill-cloud').length") >= COUNT
        assert tab.ask("document.documentElement.scrollWidth") <= DESK
        assert_undisturbed(tab, url)


def test_scripts_in_names_are_shown_as_text(tab: Tab, cloud_page: CloudPage) -> None:
    url, _, view = cloud_page
    view.answered(SCRIPT, Spent(0.0, 0.0, 0.1, 0.1, SCRIPT), {})
    view.refused("BUSY", SCRIPT)
    opened(tab, url, DESK)
    shows(tab, "document.getElementById('banners').textContent.includes('onerror') && rows.length > 0")
    shows(tab, "[...document.querySelectorAll('td')].some(each => each.textContent.includes('onerror'))")
    assert SCRIPT in tab.ask("document.getElementById('banners').textContent")
    assert tab.ask("document.querySelectorAll('body script, body img').length") == 0
    assert_undisturbed(tab, url)
