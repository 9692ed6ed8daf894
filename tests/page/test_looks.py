"""How often a page looks at its program: seldom enough that it stays cheap, and once for all who look."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgecloud.net.http import Request
from edgecloud.page import app
from edgecloud.page.app import LIVE_ROWS, ROWS_S, SHARE, STATE_S, Page
from edgecloud.page.rows import Mark, Row

EVENTS = Request("GET", "/events", {"host": "127.0.0.1"})


@dataclass
class Program:
    """Its view, and the clocks that the page sees: looking takes what it costs, of a core and of time."""

    state_costs_s: float = 0.001
    rows_cost_s: float = 0.001
    now: float = 100.0
    used_s: float = 0.0
    count: int = 0
    looks: int = 0
    program: str = "edge"
    actions: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.used_s

    def state(self) -> dict[str, Any]:
        self.looks += 1
        self.used_s += self.state_costs_s
        return {"looks": self.looks}

    def rows(self, after: int, most: int) -> Sequence[Row]:
        self.used_s += self.rows_cost_s
        first = max(after, self.count - most)
        return [Row(number, "le_net", 0.0, 0.1, ()) for number in range(first + 1, self.count + 1)]

    def marks(self) -> Sequence[Mark]:
        return []

    def picture(self) -> bytes | None:
        return None


def opened(program: Program, monkeypatch: pytest.MonkeyPatch, pages: int = 1) -> list[Callable[[], bytes | None]]:
    """What each page asks for its next frame; every one has had the first."""
    monkeypatch.setattr(app, "time", program)
    page = Page(program, "127.0.0.1")
    streams = [page.answer(EVENTS).frames for _ in range(pages)]
    frames = [stream for stream in streams if stream is not None]
    assert [frame() is not None for frame in frames] == [True] * pages
    return frames


def told(frame: bytes | None) -> dict[str, Any]:
    assert frame is not None
    document: dict[str, Any] = json.loads(frame.partition(b"data: ")[2])
    return document


def test_a_look_that_costs_little_is_taken_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    (frame,) = opened(program, monkeypatch)
    program.now += STATE_S / 2
    assert frame() is None
    program.now += STATE_S / 2
    assert told(frame())["state"] == {"looks": 2}


@pytest.mark.parametrize("costs_s", [0.01, 0.1])
def test_a_look_that_costs_much_is_taken_so_seldom_that_it_has_its_share(
    monkeypatch: pytest.MonkeyPatch, costs_s: float
) -> None:
    program = Program(state_costs_s=costs_s)
    (frame,) = opened(program, monkeypatch)
    ends = program.now + 1000
    while program.now < ends:
        program.now += 0.05
        frame()
    assert 0.9 * SHARE <= program.looks * costs_s / 1000 <= 1.1 * SHARE


def test_requests_that_cost_much_come_later_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(rows_cost_s=2.0 * SHARE, state_costs_s=0.0)
    first, second = opened(program, monkeypatch, 2)
    numbers = []
    for _ in range(9):  # the first rows cost, so that these come two seconds after them
        program.now += ROWS_S
        program.count += 1
        numbers += [row["number"] for row in told(first() or b"data: " + b'{"rows":[]}')["rows"]]
    assert numbers == []
    program.now += ROWS_S
    found = told(first())
    assert [row["number"] for row in found["rows"]] == list(range(1, 10))
    assert told(second()) == found


def test_of_many_requests_the_last_ones_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(count=7)
    (frame,) = opened(program, monkeypatch)
    program.now, program.count = program.now + STATE_S, 500
    assert [row["number"] for row in told(frame())["rows"]] == list(range(501 - LIVE_ROWS, 501))


def test_a_frame_is_made_once_for_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    frames = opened(program, monkeypatch, 20)
    program.now, program.count = program.now + STATE_S, 3
    found = [frame() for frame in frames]
    assert len({id(frame) for frame in found}) == 1
    assert (told(found[0])["state"], program.looks) == ({"looks": 2}, 2)
    assert [frame() for frame in frames] == [None] * 20
