"""The page of one program: its files, its events, its trace, and what may be done, each only for those who may.

On loopback everybody of this machine may look; a page that other machines reach asks for its token. What changes
something always needs the token. It travels in a header, which no other website can send here, and stands in the
printed address behind the # sign, which browsers do not send.
"""

import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgecloud.net.endpoints import listen, name_of
from edgecloud.net.http import METHODS, Reply, Request, event
from edgecloud.net.pacing import Bucket
from edgecloud.net.security import is_loopback
from edgecloud.net.site import BACKLOG, Rules, Site
from edgecloud.page.rows import Mark, Row
from edgecloud.page.trace import trace
from edgecloud.utils import addresses
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.resources import shipped

log = logging.getLogger(__name__)

FIRST_ROWS, LIVE_ROWS = 50, 20
"""Requests that the first frame brings, and every other one: of a fast program the last ones."""
STATE_S, ROWS_S = 1.0, 0.2
"""How often everything that is no request is looked at, and the requests, however many pages are open ..."""
SHARE = 0.004
"""... and so seldom that either takes no more of a core: on a slow device a look costs more, so there are fewer."""
TRACES_PER_S, TRACES_S = 0.5, 4.0
"""How many traces are made a second, and for how many seconds' worth at once: one of 1,000 requests takes a while."""
TOKEN_BYTES = 16
RULES = Rules("live page", methods=(*METHODS, "POST"))
JSON = "application/json"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class View(Protocol):
    """What a page shows. Its methods are called by the page's thread and must not wait."""

    program: str
    actions: Mapping[str, Callable[[Any], None]]
    """What may be done, by name; each takes what came and raises AppError where it cannot be."""

    def state(self) -> dict[str, Any]:
        """Everything that is no request."""

    def rows(self, after: int, most: int) -> Sequence[Row]:
        """The last requests after a number, oldest first."""

    def marks(self) -> Sequence[Mark]:
        """Changes of plan, link and speed."""

    def picture(self) -> bytes | None:
        """What is answered, as a PNG; None where it is something else."""


@dataclass(frozen=True)
class Door:
    """Decides who sees what, and who may change it."""

    host: str
    """As it was given."""
    token: str
    is_open: bool
    """Whether looking needs no token."""

    def denial(self, request: Request, *, is_change: bool, is_file: bool) -> int:
        """The status of a refusal, or 0. The page's own files hold nothing: they need no token."""
        fields = request.fields
        if not self._is_ours(fields["host"]):  # a name of somebody else's that leads here: its pages shall read nothing
            return 421
        if is_file:
            return 0
        if fields.get("origin", f"http://{fields['host']}") not in (
            f"{s}://{fields['host']}" for s in ("http", "https")
        ):
            return 403
        if fields.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403
        given = fields.get("authorization", "").removeprefix("Bearer ")
        is_right = hmac.compare_digest(given.encode("latin-1"), self.token.encode())
        return 0 if is_right or (self.is_open and not is_change) else 401

    def _is_ours(self, host: str) -> bool:
        """An address in numbers, localhost, or the name that it listens on; whatever the port, for those in between."""
        try:
            name = addresses.parse(host).host
        except UsageError:
            return False
        if addresses.is_here(name) or name == self.host:
            return True
        try:
            addresses.ip_of(name)
        except ValueError:
            return False
        return True


class Page:
    """A page that is served from `open` on, until `close`."""

    def __init__(self, view: View, host: str, token: str = "") -> None:
        """Raises UsageError for a host that does not exist."""
        self._view = view
        self._door = Door(host, token or secrets.token_urlsafe(TOKEN_BYTES), is_loopback(host))
        self._files = {
            path: (shipped("page", "static", name).read_bytes(), kind) for path, (name, kind) in FILES.items()
        }
        self._state, self._state_due = "", float("-inf")
        self._rows, self._rows_due = (-1, "", 0), float("-inf")
        self._frame: tuple[tuple[str, str], bytes] = (("", ""), b"")
        self._traces = Bucket(TRACES_PER_S, TRACES_S)
        self._site: Site | None = None

    def open(self, port: int) -> str:
        """Listen, and serve in a thread; returns the address for a browser, with the token where one is of use.

        Raises ConnectError.
        """
        listeners = listen(self._door.host, port, BACKLOG, "--page")
        self._site = Site(listeners, self.answer, RULES)
        self._site.start()
        token = "" if self._door.is_open and not self._view.actions else f"#token={self._door.token}"
        return f"http://{addresses.show(*name_of(listeners[0]))}/{token}"

    @property
    def thread_id(self) -> int | None:
        """Of the thread that serves it, for a measurement."""
        return None if self._site is None else self._site.thread_id

    def close(self) -> None:
        """End it."""
        if self._site is not None:
            self._site.stop()

    def answer(self, request: Request) -> Reply:
        """The reply to a request."""
        path, is_change = request.path, request.method == "POST"
        denied = self._door.denial(request, is_change=is_change, is_file=path in self._files and not is_change)
        if denied:
            return Reply(denied)
        if is_change:
            return self._act(path.removeprefix("/"), request)
        if path in self._files:
            body, kind = self._files[path]
            return Reply(200, body, kind)
        return self._read(path)

    def _read(self, path: str) -> Reply:
        if path == "/events":
            return Reply(frames=self._frames())
        if path == "/state.json":
            return Reply(200, f'{{"state":{self._state_now()},"rows":{self._rows_after(0)[0]}}}'.encode(), JSON)
        if path == "/trace.json":
            now = time.monotonic()
            if self._traces.pay(1, now):
                self._traces.pay(-1, now)
                return Reply(429)
            document = trace(self._view.program, self._view.rows(0, 1000), self._view.marks())
            return Reply(200, _dump(document).encode(), JSON)
        if path == "/picture.png":
            picture = self._view.picture()
            return Reply(204) if picture is None else Reply(200, picture, "image/png")
        return Reply(404)

    def _act(self, name: str, request: Request) -> Reply:
        act = self._view.actions.get(name)
        if act is None:
            return Reply(404)
        if request.fields.get("content-type", "").partition(";")[0] != JSON:
            return Reply(415)
        try:
            act(json.loads(request.body))
        except AppError as error:
            return Reply(400, str(error).encode())
        except (ValueError, RecursionError):
            return Reply(400)
        self._state_due = float("-inf")
        return Reply(204)

    def _frames(self) -> Callable[[], bytes | None]:
        """What one stream sends: all of it first, and then what is new."""
        told, number = "", 0

        def next_frame() -> bytes | None:
            nonlocal told, number
            state = self._state_now()
            rows, last = self._rows_after(number)
            if state == told and last == number:
                return None
            new = "null" if state == told else state
            told, number = state, last
            return self._frame_of(new, rows)

        return next_frame

    def _frame_of(self, state: str, rows: str) -> bytes:
        """Made once for all pages that get the same."""
        if self._frame[0] != (state, rows):
            self._frame = ((state, rows), event("update", f'{{"state":{state},"rows":{rows}}}'))
        return self._frame[1]

    def _state_now(self) -> str:
        now = time.monotonic()
        if now >= self._state_due:
            began_s = time.thread_time()
            self._state = _dump(self._view.state())
            self._state_due = _next_look(now, began_s, STATE_S)
        return self._state

    def _rows_after(self, number: int) -> tuple[str, int]:
        """As JSON, with the number of the last one; pages that were told as much get the same."""
        now, (told, _, last) = time.monotonic(), self._rows
        if now < self._rows_due and number == last:
            return "[]", number
        if number != told or now >= self._rows_due:
            began_s = time.thread_time()
            rows = self._view.rows(number, LIVE_ROWS if number else FIRST_ROWS)
            text, last = _dump([row.to_json() for row in rows]), rows[-1].number if rows else number
            self._rows = (number, text, last)
            self._rows_due = _next_look(now, began_s, ROWS_S)
        return self._rows[1:]


def _next_look(now: float, began_s: float, least_s: float) -> float:
    """When to look again: after `least_s`, or so much later that the look, begun at `began_s` of this thread's
    processor time, was no more than SHARE of a core."""
    return now + max(least_s, (time.thread_time() - began_s) / SHARE)


def _dump(document: Any) -> str:
    """JSON that has no NaN or infinity: browsers refuse those."""
    try:
        return json.dumps(document, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(document), separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    is_odd = isinstance(value, float) and not abs(value) < float("inf")
    return None if is_odd else value
