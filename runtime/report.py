"""An outcome, as JSON for programs and as text for people. The JSON keys are a contract: see README.md."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from models.graph import LayerGraph
from partition.chain import Candidate
from partition.cost import Prediction
from runtime.edge import Measured
from runtime.single import Outcome, Runs
from utils.units import format_bytes, format_rate, format_seconds, printable

BAR = 32
SHOWN = 30
BEST_SHOWN = 12
STAGES = (("edge_s", "green", "█"), ("transfer_s", "yellow", "▒"), ("cloud_s", "blue", "▓"))
NO_LINK = {"up_bytes_per_s": None, "down_bytes_per_s": None, "rtt_s": None, "source": "none"}


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The document of `edge_api.py --json`."""
    document: dict[str, Any] = {
        "model": outcome.graph.name,
        "weights": outcome.weights,
        "weights_origin": outcome.origin,
        "input": outcome.source,
        "link": NO_LINK if outcome.link is None else asdict(outcome.link),
        "plan": _plan(outcome),
        "candidates": [_candidate(outcome.graph, c) for c in outcome.plan.candidates],
        "measured": _measured(outcome.runs.typical) | {"repeats": [_measured(run) for run in outcome.runs.repeats]},
        "result": {"top": [asdict(ranked) for ranked in outcome.top], "shape": list(outcome.shape)},
        "completed_by": completed_by(outcome),
        "times": asdict(outcome.times),
        "corrections": outcome.corrections,
        "energy": outcome.energy.to_json(),
    }
    if outcome.verified is not None:
        document["verify"] = asdict(outcome.verified)
    if outcome.compared:
        names = ("cloud", "edge")
        document["compare"] = {
            name: _measured(runs.typical) | {"point": runs.point}
            for name, runs in zip(names, outcome.compared, strict=True)
        }
    return document


def completed_by(outcome: Outcome) -> str:
    """`edge` or `cloud` where one of them ran every layer, else `split`."""
    last = len(outcome.graph.points) - 1
    return {0: "cloud", last: "edge"}.get(outcome.runs.point, "split")


def _plan(outcome: Outcome) -> dict[str, Any]:
    point = outcome.plan.chosen.point
    head = point.layer  # layers on the edge, the input not counted
    return {
        "point": point.number,
        "layer": outcome.graph.layers[point.layer].id,
        "head": head,
        "tail": len(outcome.graph.layers) - 1 - head,
        "objective": "latency",
        "codec": "raw",
        "method": outcome.plan.method,
        "decision_s": outcome.plan.decision_s,
        "predicted": _predicted(outcome.plan.chosen.predicted),
    }


def _predicted(predicted: Prediction) -> dict[str, float]:
    return predicted.to_json()


def _candidate(graph: LayerGraph, candidate: Candidate) -> dict[str, Any]:
    return {
        "point": candidate.point.number,
        "layer": graph.layers[candidate.point.layer].id,
        "boundary_bytes": candidate.boundary_bytes,
    } | _predicted(candidate.predicted)


def _measured(run: Measured) -> dict[str, Any]:
    return asdict(run) | {"transfer_s": run.transfer_s}


# --- for people


def show(outcome: Outcome, console: Console) -> None:
    """Print the report."""
    console.print(_headline(outcome), highlight=False)
    if outcome.link is not None:
        console.print(_candidates(outcome))
        console.print(_legend(), highlight=False)
    console.print(_stages(outcome))
    if outcome.compared:
        console.print(_comparison(outcome))
    console.print(_answer(outcome), highlight=False)


def _headline(outcome: Outcome) -> Group:
    plan, graph, link = outcome.plan, outcome.graph, outcome.link
    point = plan.chosen.point
    lines = [f"{graph.name}, weights {outcome.origin}, input {outcome.source}"]
    if link is not None:
        lines.append(
            f"link   up {format_rate(link.up_bytes_per_s)}, down {format_rate(link.down_bytes_per_s)}, "
            f"round trip {format_seconds(link.rtt_s)} ({link.source})"
        )
        lines.append(f"cloud  {printable(outcome.cloud_device or '', 100)}")
    where = {"edge": "everything here", "cloud": "everything on the cloud"}.get(
        completed_by(outcome),
        f"{point.layer} layers here, {len(graph.layers) - 1 - point.layer} on the cloud, "
        f"{format_bytes(plan.chosen.boundary_bytes)} cross",
    )
    after = graph.layers[point.layer].id
    lines.append(f"cut    point {point.number} of {len(graph.points) - 1}, after {after}: {where}")
    chosen = f"least predicted total of {len(plan.candidates)} points, chosen in {format_seconds(plan.decision_s)}"
    lines.append(f"why    {'the point was given' if plan.method == 'given' else chosen}")
    times = outcome.times
    within = f" (9 of 10 within ±{times.edge_factor - 1:.0%})" if times.edge == "predicted" else ""
    there = f", {printable(times.cloud, 20)} on the cloud" if times.cloud else ""
    lines.append(f"times  {times.edge} here{within}{there}")
    used = outcome.energy
    lines.append(
        f"energy {used.measured_stages.total_j:.3g} J modelled for a {used.profile} on {used.radio} "
        f"({used.measured_stages.edge_j:.3g} computing, {used.measured_stages.transmit_j:.3g} sending, "
        f"{used.measured_stages.idle_j:.3g} waiting)"
    )
    if used.meter is not None:
        lines.append(f"meter  {used.meter['all_runs_j']:.3g} J measured by {used.meter['meter']} over all runs")
    return Group(*(Text(line) for line in lines))


def _candidates(outcome: Outcome) -> Table:
    shown = _shown(outcome.plan.candidates, outcome.plan.chosen)
    table = Table(box=None, pad_edge=False, title=_title(outcome, shown), title_justify="left")
    for name in ("", "point", "after", "crosses", "total", "predicted"):
        table.add_column(name, justify="right" if name in ("point", "crosses", "total") else "left", no_wrap=True)
    longest = max(c.predicted.total_s for c in shown)
    for candidate in shown:
        is_chosen = candidate is outcome.plan.chosen
        table.add_row(
            "→" if is_chosen else "",
            str(candidate.point.number),
            outcome.graph.layers[candidate.point.layer].id,
            format_bytes(candidate.boundary_bytes) if candidate.boundary_bytes else "-",
            format_seconds(candidate.predicted.total_s),
            _bar(candidate.predicted, longest),
            style="bold" if is_chosen else "",
        )
    return table


def _shown(candidates: tuple[Candidate, ...], chosen: Candidate) -> list[Candidate]:
    """All candidates, or of many the ends, the chosen one and the best."""
    if len(candidates) <= SHOWN:
        return list(candidates)
    best = sorted(candidates, key=lambda c: c.predicted.total_s)[:BEST_SHOWN]
    numbers = {c.point.number for c in (candidates[0], candidates[-1], chosen, *best)}
    return [c for c in candidates if c.point.number in numbers]


def _title(outcome: Outcome, shown: list[Candidate]) -> str:
    count = len(outcome.plan.candidates)
    return "" if len(shown) == count else f"\nthe ends and the best of {count} points (--json has them all)"


def _bar(predicted: Prediction, longest: float) -> Text:
    bar = Text()
    for name, color, block in STAGES:
        bar.append(block * round(BAR * getattr(predicted, name) / longest), style=color)
    return bar


def _legend() -> Text:
    text = Text("predicted time: ")
    for name, color, block in STAGES:
        text.append(f"{block * 2} {name.removesuffix('_s')}  ", style=color)
    return text


def _stages(outcome: Outcome) -> Table:
    predicted, typical = outcome.plan.chosen.predicted, outcome.runs.typical
    repeats = outcome.runs.repeats
    table = Table(box=None, pad_edge=False, title="\npredicted and measured", title_justify="left")
    table.add_column("stage")
    for name in ("predicted", "measured") + (("spread",) if len(repeats) > 1 else ()):
        table.add_column(name, justify="right")
    for stage in ("edge_s", "encode_s", "transfer_s", "queue_s", "cloud_s", "total_s"):
        row = [stage.removesuffix("_s")]
        row.append(format_seconds(getattr(predicted, stage)) if hasattr(predicted, stage) else "-")
        row.append(format_seconds(getattr(typical, stage)))
        if len(repeats) > 1:
            row.append(_spread(getattr(run, stage) for run in repeats))
        table.add_row(*row, style="bold" if stage == "total_s" else "")
    return table


def _spread(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{format_seconds(found[0])} .. {format_seconds(found[-1])}"


def _comparison(outcome: Outcome) -> Table:
    total_s = outcome.runs.typical.total_s
    table = Table(box=None, pad_edge=False, title="\nbeside both ends, measured", title_justify="left")
    for name in ("", "total", "against this cut"):
        table.add_column(name, justify="left" if not name else "right")
    rows: list[tuple[str, Runs]] = [("this cut", outcome.runs)]
    rows += zip(("all on the cloud", "all on the edge"), outcome.compared, strict=True)
    for name, runs in rows:
        table.add_row(name, format_seconds(runs.typical.total_s), f"{runs.typical.total_s / total_s:.2f} x")
    return table


def _answer(outcome: Outcome) -> Group:
    lines = ["", "answer"]
    lines += [f"  {ranked.probability:7.2%}  {ranked.label}" for ranked in outcome.top]
    if not outcome.is_trained:
        lines.append("  (untrained weights: the labels mean nothing; --weights imagenet or FILE gives real ones)")
    if outcome.verified is not None:
        same = "equals" if outcome.verified.matches else "DIFFERS FROM"
        difference = outcome.verified.max_abs_diff
        lines.append(f"verify {same} the whole network run here (largest difference {difference:.3g})")
    return Group(*(Text(line) for line in lines))
