"""What the page of a cloud shows: its edges, its queue and batches, its memory, and who is refused."""

import resource
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecloud.net.metrics import Gauges, Spent
from edgecloud.page.record import Record
from edgecloud.page.rows import Mark, Row, in_turn

MOST_EDGES = 200
"""Connections that are remembered: the one that was served least recently goes first."""
LAST = 200
"""Answers of an edge that its percentiles are of."""
RECENT_S = 60.0
"""Refusals that a banner is about."""
FULL, LOADED, SLOW = 0.8, 2.0, 0.6
"""Of the places there are, of the load of an idle machine, and of a quiet one's speed: from there a banner says so."""
SHOWN = 3


@dataclass
class _Edge:
    """What was served over one connection."""

    network: str = ""
    point: int | None = None
    rate: float = 0.0
    count: int = 0
    refusals: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))
    batches: deque[int] = field(default_factory=lambda: deque(maxlen=LAST))


@dataclass(frozen=True, slots=True)
class _Served:
    at: float
    model: str
    spent: Spent


@dataclass(frozen=True, slots=True)
class _Refused:
    at: float
    code: str
    peer: str


class CloudView:
    """Is told as `net.metrics.Metrics` what happens, in any thread; the page looks at it."""

    program = "cloud"

    def __init__(self, device: str) -> None:
        self._device, self._began = device, time.perf_counter()
        self._served: Record[_Served] = Record()
        self._refused: Record[_Refused] = Record()
        self._codes: Counter[str] = Counter()
        self._batches: Counter[int] = Counter()
        self._edges: OrderedDict[str, _Edge] = OrderedDict()
        self._gauges: Gauges | None = None
        self._lock = threading.Lock()
        self.actions: Mapping[str, Callable[[Any], None]] = {}

    # --- by the threads of the cloud

    def connected(self) -> None:
        """A connection was let in."""

    def received(self, model: str, payload: Mapping[str, int]) -> None:
        """A request is complete and is queued."""

    def refused(self, code: str, peer: str = "") -> None:
        """A connection or a request was refused."""
        self._refused.add(_Refused(time.perf_counter(), code, peer))
        with self._lock:
            self._codes[code] += 1
            if peer in self._edges:
                self._edges[peer].refusals += 1

    def answered(self, model: str, spent: Spent, payload: Mapping[str, int]) -> None:
        """An answer has left."""
        self._served.add(_Served(time.perf_counter(), model, spent))
        with self._lock:
            edge = self._edges.pop(spent.peer, None) or _Edge()
            self._edges[spent.peer] = edge  # the last one
            if len(self._edges) > MOST_EDGES:
                self._edges.popitem(last=False)
            edge.network, edge.point, edge.rate = model, spent.point, spent.up_bytes_per_s or edge.rate
            edge.count += 1
            edge.seconds.append(spent.whole_s)
            edge.batches.append(spent.batch)
            self._batches[spent.batch] += 1

    def watch(self, gauges: Gauges) -> None:
        """From now on these can be looked at."""
        self._gauges = gauges

    # --- by the page's thread

    def rows(self, after: int, most: int) -> Sequence[Row]:
        """The last answers after a number."""
        return [self._row(number, served) for number, served in self._served.since(after, most)]

    def marks(self) -> Sequence[Mark]:
        """Refusals."""
        refused = (each for _, each in self._refused.since(0))
        return [Mark(each.at - self._began, "refusal", each.code, {"peer": each.peer}) for each in refused]

    def picture(self) -> bytes | None:
        """There is none."""
        return None

    def state(self) -> dict[str, Any]:
        """Everything else."""
        gauges = self._gauges
        if gauges is None:
            raise ValueError("the cloud has not begun")
        blocked, peers = dict(gauges.blocked()), gauges.peers()
        found = {
            "program": self.program,
            "name": "",
            "device": self._device,
            "connections": int(gauges.connections()),
            "limits": dict(gauges.limits),
            "load": gauges.load(),
            "speed": gauges.speed(),
            "queue": {"waiting": int(gauges.waiting()), "queue_s": gauges.queue_s()},
            "memory": {"rss_bytes": rss_bytes(), "networks": dict(gauges.networks())},
            "blocked": blocked,
            "count": self._served.count,
            "workers": [dict(row) for row in gauges.workers()],
        }
        with self._lock:
            found["edges"] = [_edge_json(peer, self._edges.get(peer) or _Edge()) for peer in peers]
            found["batches"] = {str(size): count for size, count in sorted(self._batches.items())}
            found["refusals"] = dict(self._codes)
        return found | {"banners": [*self._banners(found), *self._refusal_banners()]}

    def _row(self, number: int, served: _Served) -> Row:
        spent = served.spent
        known = [("receive", spent.received_s), ("decode", spent.decode_s), ("queue", spent.queue_s)]
        known.append(("cloud", spent.compute_s))
        sent_s = max(0.0, spent.whole_s - sum(seconds for _, seconds in known))
        about = {"peer": spent.peer, "point": spent.point, "batch": spent.batch, "completed_by": "cloud"}
        began_s = max(0.0, served.at - spent.whole_s - self._began)
        return Row(number, served.model, began_s, spent.whole_s, in_turn((*known, ("send", sent_s))), (), about)

    def _banners(self, found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What is wrong, as codes with numbers: the page has the words."""
        limits, waiting = found["limits"], found["queue"]["waiting"]
        if waiting >= FULL * limits["max_queue"]:
            yield {"code": "queue_full", "waiting": waiting, "most": limits["max_queue"]}
        if found["connections"] >= FULL * limits["max_connections"]:
            yield {"code": "connections_full", "open": found["connections"], "most": limits["max_connections"]}
        if found["load"] >= LOADED:
            yield {"code": "loaded", "load": found["load"]}
        if found["speed"] < SLOW:
            yield {"code": "slow_cloud", "speed": found["speed"]}
        if found["blocked"]:
            yield {"code": "blocked", "count": len(found["blocked"]), "who": _some(list(found["blocked"]))}

    def _refusal_banners(self) -> Iterator[dict[str, Any]]:
        since = time.perf_counter() - RECENT_S
        recent = [each for _, each in self._refused.since(0) if each.at > since]
        for code, count in Counter(each.code for each in recent).most_common(SHOWN):
            who = _some(list(dict.fromkeys(each.peer for each in recent if each.code == code)))
            yield {"code": "refused", "count": count, "code_of": code, "who": who}


def _edge_json(peer: str, edge: _Edge) -> dict[str, Any]:
    ordered = sorted(edge.seconds)
    return {
        "peer": peer,
        "network": edge.network,
        "point": edge.point,
        "rate": edge.rate,
        "count": edge.count,
        "p50_s": quantile(ordered, 0.5),
        "p95_s": quantile(ordered, 0.95),
        "batch": sum(edge.batches) / len(edge.batches) if edge.batches else 0,
        "refusals": edge.refusals,
    }


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The least value that this share of the ordered values does not exceed; None of none."""
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)] if ordered else None


def _some(names: Sequence[str]) -> str:
    left = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" +{left}" if left > 0 else "")


def rss_bytes() -> int:
    """Resident memory of this process; where the system does not say, the most that it was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * resource.getpagesize()
