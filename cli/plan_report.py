"""A plan of deployment.py, as JSON and as text. docs/planning.md has the keys, a contract."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.decision_map import DecisionMap, Region
from edgecloud.partition.gain import PAYS
from edgecloud.partition.packing import RAW
from edgecloud.partition.pareto import Tradeoff
from edgecloud.predictor.profile import ProfileKey
from edgecloud.tools.plan_gain import Now, finite, gain_json, gain_lines, times
from edgecloud.tools.plan_table import (
    candidate_json,
    candidates_table,
    cut_line,
    legend,
    overlap_json,
    overlap_line,
    part_json,
    part_line,
    why_line,
)
from edgecloud.tools.whatif import Planned, Source
from edgecloud.utils.names import typed
from edgecloud.utils.units import format_bytes, format_rate, format_seconds


def to_json(plan: Planned) -> dict[str, Any]:
    """The document of `deployment.py plan --json`."""
    graph, decision, link = plan.graph, plan.decision, plan.problem.link
    boundary, source = decision.boundary(graph), plan.source
    document: dict[str, Any] = {
        "model": graph.name,
        "objective": decision.objective,
        "method": decision.method,
        "point": decision.point(graph),
        "head": _ids(graph, decision.head),
        "boundary": _ids(graph, boundary),
        "boundary_bytes": graph.bytes_of(boundary),
        "packed_bytes": decision.predicted.payload_bytes,
        "codec": decision.codec,
        "packing": plan.counted.packing,
        "packing_source": plan.counted.source,
        "times": None if source is None or source.edge is None else _times(source),
        "segments": [part_json(graph, part) for part in decision.parts],
        "overlap": overlap_json(graph, decision.overlap),
        "predicted": decision.predicted.to_json() | {"longest_s": decision.predicted.longest_s},
        "energy_j": plan.energy_j,
        "cost": decision.cost,
        "decision_s": plan.decision_s,
        "optimal": decision.is_optimal,
        "gap": decision.gap,
        "link": asdict(link),
        "load": plan.problem.cloud.load,
        "candidates": [candidate_json(graph, candidate) for candidate in decision.candidates],
        "front": [_tradeoff(graph, tradeoff) for tradeoff in plan.front],
        "map": None if plan.map is None else _regions(plan.map),
    } | gain_json(graph, decision, plan.prospects)
    if decision.keeps_up is not None:
        document |= {"rate_per_s": plan.config.goal.rate_per_s, "keeps_up": decision.keeps_up}
    return document


def _times(source: Source) -> dict[str, Any]:
    """Which profiles a plan is from."""
    sides = {"edge": source.edge, "cloud": source.cloud}
    keys = {side: times.profile.key for side, times in sides.items() if times is not None}
    return {side: {"device": key.device, "threads": key.threads, "clock": key.clock} for side, key in keys.items()}


def _ids(graph: LayerGraph, numbers: Iterable[int]) -> list[str]:
    return [graph.layers[number].id for number in sorted(numbers)]


def _tradeoff(graph: LayerGraph, tradeoff: Tradeoff) -> dict[str, Any]:
    return {"head": _ids(graph, tradeoff.head), "total_s": tradeoff.predicted.total_s, "energy_j": tradeoff.energy_j}


def _regions(decisions: DecisionMap) -> list[dict[str, Any]]:
    pairs = zip(decisions.regions, decisions.gains(), strict=True)
    return [_region(decisions.graph, region) | _most(*most) for region, most in pairs]


def _region(graph: LayerGraph, region: Region) -> dict[str, Any]:
    boundary = _ids(graph, graph.boundary(region.head))
    where = {"from_bytes_per_s": region.from_bytes_per_s, "boundary": boundary, "head_layers": len(region.head)}
    return where | {"codec": region.codec}


def _most(gain: float, at_bytes_per_s: float) -> dict[str, Any]:
    return {"gain": finite(gain), "gain_at_bytes_per_s": at_bytes_per_s}


def show(plan: Planned, console: Console) -> None:
    """Print the plan."""
    console.print(_headline(plan), highlight=False)
    console.print(candidates_table(plan.graph, plan.decision, _rate(plan), console.width), highlight=False)
    console.print(legend(), highlight=False)
    if plan.map is not None:
        console.print(_map_table(plan), highlight=False)
    if plan.config.goal.objective in ("energy", "weighted"):
        console.print(_front_table(plan), highlight=False)


def _rate(plan: Planned) -> float | None:
    """The transfer size if the boundary is packed: computed from its upload seconds."""
    return None if plan.counted.allowed is None else plan.problem.link.up_bytes_per_s


_PACKING = {
    "measured": "packed, as measured on the edge ({source})",
    "given": "packed, as listed in {source}",
    "raw": "unpacked: {source}",
}


def _bytes_line(plan: Planned) -> str:
    counted = plan.counted
    return f"bytes:  {_PACKING[counted.packing].format(source=counted.source or 'packed sizes unknown')}"


def _times_lines(plan: Planned) -> list[str]:
    """Whose times these are, and a warning where an emulated edge would not have them."""
    source = plan.source
    if source is None or source.edge is None or source.cloud is None:
        return []
    edge, cloud = source.edge.profile.key, source.cloud.profile.key
    lines = [f"times:  edge on {_threads(edge)}, cloud on {_threads(cloud)}"]
    if plan.config.cpu_share < 1 and edge.threads > 1:
        lines.append(typed("        an emulated edge runs 1 thread: use deployment.py profile --threads 1"))
    return lines


def _threads(key: ProfileKey) -> str:
    return f"{key.threads} thread{'' if key.threads == 1 else 's'} of {key.device} ({key.clock})"


def _headline(plan: Planned) -> Group:
    graph, decision, link = plan.graph, plan.decision, plan.problem.link
    predicted, decision_s = decision.predicted, format_seconds(plan.decision_s)
    up, down, rtt = format_rate(link.up_bytes_per_s), format_rate(link.down_bytes_per_s), format_seconds(link.rtt_s)
    lines = [
        f"{graph.name}, {len(graph.layers) - 1} layers, {len(graph.points)} cut points",
        f"link:   up {up}, down {down}, round trip {rtt}; cloud load {plan.problem.cloud.load:g}",
        *_times_lines(plan),
        _bytes_line(plan),
        f"cut:    {cut_line(graph, decision, _rate(plan))}",
        *(f"        {part_line(graph, part)}" for part in (decision.parts if not decision.is_cut else ())),
        *([f"chunks: {sent}"] if (sent := overlap_line(graph, decision)) else []),
        f"reason: {why_line(decision)}, found in {decision_s}",
        *gain_lines(graph, decision, plan.prospects, Now(link.up_bytes_per_s, _share(plan))),
        f"time:   {format_seconds(predicted.total_s)}; bottleneck stage {format_seconds(predicted.longest_s)}",
        f"energy: {plan.energy_j:.3g} J on the edge ({plan.config.power}, {plan.config.radio})",
    ]
    if plan.config.goal.price_per_s is not None:
        lines.append(f"cost:   {decision.cost:.4g} at {plan.config.goal.price_per_s:g} per second of cloud compute")
    if decision.keeps_up is not None:
        rate, most = plan.config.goal.rate_per_s, 1 / predicted.longest_s if predicted.longest_s else float("inf")
        verdict = "sustains" if decision.keeps_up else "is below"
        lines.append(f"rate:   {most:.3g} per second, {verdict} the requested {rate:g}")
    return Group(*(Text(line) for line in lines))


def _share(plan: Planned) -> float | None:
    """The edge's share of a core, where the plan was given one."""
    return plan.config.cpu_share if plan.config.cpu_share < 1 else None


def _map_table(plan: Planned) -> Table:
    """Where the best cut changes, and what it gains."""
    graph, cut_map = plan.graph, plan.map
    table = Table(box=None, pad_edge=False, title="\nbest cut by upload rate", title_justify="left")
    for name in ("from", "transfer size", "edge layers", "gain", "at", "cut after"):
        table.add_column(name, justify="left" if name == "cut after" else "right", no_wrap=True)
    pairs = () if cut_map is None else zip(cut_map.regions, cut_map.gains(), strict=True)
    for number, (region, (gain, rate)) in enumerate(pairs):
        boundary = graph.boundary(region.head)
        names = ", ".join(graph.layers[each].id for each in boundary[-3:])
        more = f" and {len(boundary) - 3} more" if len(boundary) > 3 else ""
        table.add_row(
            format_rate(region.from_bytes_per_s) if number else "0",
            format_bytes(graph.bytes_of(boundary)) if boundary else "-",
            str(len(region.head) - 1),
            *((times(gain), format_rate(rate)) if gain >= PAYS else ("-", "")),
            Text(
                names + more + ("" if region.codec == RAW else f" [{region.codec}]") if boundary else "all on the edge"
            ),
        )
    return table


def _front_table(plan: Planned) -> Table:
    """What more time buys in energy."""
    table = Table(box=None, pad_edge=False, title="\nlatency against energy", title_justify="left")
    for name in ("total", "joules", "edge layers"):
        table.add_column(name, justify="right")
    for tradeoff in plan.front:
        table.add_row(
            format_seconds(tradeoff.predicted.total_s), f"{tradeoff.energy_j:.3g}", str(len(tradeoff.head) - 1)
        )
    return table
