"""What a plan gains over both ends, and what would have to change for a cut to pay: for people, and as JSON. Pure."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.decide import Decision
from edgecloud.partition.decision_map import FASTEST, SLOWEST
from edgecloud.partition.gain import FASTER, SLOWER, End, Gain, Prospects, Rival, Window
from edgecloud.partition.objectives import OBJECTIVES
from edgecloud.utils.names import typed
from edgecloud.utils.units import format_rate, format_seconds, printable

ENDS = {"cloud": "all on the cloud", "edge": "all on the edge"}
NAME = 60


def _joules(value: float) -> str:
    return f"{value:.3g} J"


_SHOW: dict[str, Callable[[float], str]] = {"s": format_seconds, "J": _joules}


class Now(NamedTuple):
    """What is varied in prospects, as it is: the upload rate, and the edge's share of a core where that is known."""

    up_bytes_per_s: float
    share: float | None = None


def gain_lines(graph: LayerGraph, decision: Decision, found: Prospects | None, now: Now) -> list[str]:
    """What is gained, or why nothing is and what would change that."""
    gain = decision.gain
    if gain is None:
        return []
    show = _SHOW[OBJECTIVES[decision.objective].unit]
    if decision.method != "given" and _is_end(graph, decision):
        lines = [f"gain:   none: splitting does not pay here, because {_why_not(graph, gain, found, show)}"]
        return lines if found is None or found.rival is None else [*lines, f"        {_what_changes_it(found, now)}"]
    better, other = gain.better, [end for end in gain.ends if end is not gain.better]
    beside = "".join(f"; {_end_text(end, show)}" for end in other)
    return [f"gain:   {times(gain.over)} over the better end, {_end_text(better, show)}{beside}"]


def times(gain: float) -> str:
    """A gain as people read it."""
    return "no limit" if math.isinf(gain) else f"{gain:.2f} x"


def _is_end(graph: LayerGraph, decision: Decision) -> bool:
    return decision.is_cut and decision.point(graph) in (0, len(graph.points) - 1)


def _end_text(end: End, show: Callable[[float], str]) -> str:
    codec = f", {printable(end.codec, 20)}" if end.codec else ""
    return f"{ENDS[end.place]} ({show(end.value)}{codec})"


def _why_not(graph: LayerGraph, gain: Gain, found: Prospects | None, show: Callable[[float], str]) -> str:
    end = ENDS[gain.better.place]
    if found is None:
        return f"no cut takes less than {end}"
    if found.rival is None:
        return "there is no cut between the ends that can be sent"
    parts = [(found.on_edge, "the edge"), (found.elsewhere, "the link and the cloud")]
    more = " and ".join(f"{show(value)} more on {where}" for value, where in parts if value > 0) or "as much"
    saved = "".join(f", and saves only {show(-value)} on {where}" for value, where in parts if value < 0)
    return f"the best cut, {rival_text(graph, found.rival)}, takes {more} than {end}{saved}"


def rival_text(graph: LayerGraph, rival: Rival) -> str:
    """A cut in a few words."""
    return f"after {printable(graph.layers[rival.point.layer].id, NAME)} as {printable(rival.codec, 20)}"


def _what_changes_it(found: Prospects, now: Now) -> str:
    ways = []
    if found.rates:
        window = _nearest(found.rates, now.up_bytes_per_s)
        ways.append(f"on a link {_span(window, format_rate, (SLOWEST, FASTEST))}")
    if found.speeds:
        ways.append(_edge_text(_nearest(found.speeds, 1.0), now.share))
    if found.budget is not None:
        ways.append(typed(f"with --accuracy-budget {100 * found.budget.share:.3g}% ({times(found.budget.gain)})"))
    if not ways:
        budget = f", and no accuracy budget up to {100 * max(found.tried):.3g}%," if found.tried else ""
        return f"no other link or edge{budget} would change that"
    return f"it would pay {', or '.join(ways)}"


def _nearest(windows: Sequence[Window], place: float) -> Window:
    """The one that holds a place, or the one with the fewest times to go to it."""
    return min(windows, key=lambda window: max(window.low / place, place / window.high))


def _edge_text(window: Window, share: float | None) -> str:
    limits = (SLOWER, FASTER)
    if share is not None and window.low * share <= 1:
        top = min(window.high * share, 1.0) if window.high < FASTER else math.inf
        of_core = Window(window.low * share, top, window.best * share, window.gain)
        return f"with an edge share {_span(of_core, '{:.2g}'.format, (SLOWER * share, 1.0))}"
    return f"on an edge {_span(window, '{:.2g} times as fast'.format, limits)}"


def _span(window: Window, show: Callable[[float], str], limits: tuple[float, float]) -> str:
    """From where to where; what is at a limit is open."""
    gain = f" (up to {times(window.gain)})"
    is_open = window.low <= limits[0] * 1.001, window.high >= limits[1] * 0.999
    if all(is_open):
        return f"of any kind{gain}"
    if is_open[0]:
        return f"below {show(window.high)}{gain}"
    if is_open[1]:
        return f"above {show(window.low)}{gain}"
    return f"between {show(window.low)} and {show(window.high)}{gain}"


# --- for programs


def gain_json(graph: LayerGraph, decision: Decision, found: Prospects | None) -> dict[str, Any]:
    """`gain`, `ends` and `pays` of a plan; docs/json.md has the keys."""
    gain = decision.gain
    ends = None if gain is None else {end.place: _end_json(end) for end in gain.ends}
    return {"gain": None if gain is None else finite(gain.over), "ends": ends, "pays": _pays_json(graph, found)}


def _end_json(end: End) -> dict[str, Any]:
    return {"codec": end.codec or None, "value": end.value, "total_s": end.predicted.total_s}


def _pays_json(graph: LayerGraph, found: Prospects | None) -> dict[str, Any] | None:
    if found is None or found.rival is None:
        return None
    budget = found.budget
    wider = None if budget is None else {"budget": budget.share, "gain": finite(budget.gain)}
    return {
        "cut": _rival_json(graph, found.rival),
        "rates": [_window_json(window, "_bytes_per_s") for window in found.rates],
        "speeds": [_window_json(window, "") for window in found.speeds],
        "accuracy": None if budget is None or wider is None else wider | _rival_json(graph, budget.rival),
    }


def _rival_json(graph: LayerGraph, rival: Rival) -> dict[str, Any]:
    layer = graph.layers[rival.point.layer].id
    return {"point": rival.point.number, "layer": layer, "codec": rival.codec, "value": rival.value}


def _window_json(window: Window, unit: str) -> dict[str, Any]:
    places = {"from": window.low, "to": window.high, "best": window.best}
    return {f"{name}{unit}": place for name, place in places.items()} | {"gain": finite(window.gain)}


def finite(gain: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(gain) else gain
