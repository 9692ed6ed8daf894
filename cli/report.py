"""The outcome of edge_api.py, as JSON and as text. The JSON keys are a contract: see docs/json.md."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edgecloud.cli import answer_file
from edgecloud.client.edge import Answered, Fallback
from edgecloud.client.outcome import Compared, Outcome, PlanMove, Runs, Sources
from edgecloud.engine.answers import told_difference
from edgecloud.engine.speed import Speed
from edgecloud.partition.cost import StageTimes
from edgecloud.partition.packing import RAW
from edgecloud.tools.plan_gain import ENDS, Now, gain_json, gain_lines
from edgecloud.tools.plan_table import (
    STAGES,
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
from edgecloud.utils.later import later
from edgecloud.utils.units import format_rate, format_seconds, printable, readable

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text
else:  # only what is for people needs them
    Console, Group, Table, Text = (
        later("rich.console", "Console"),
        later("rich.console", "Group"),
        later("rich.table", "Table"),
        later("rich.text", "Text"),
    )

NO_LINK = {"up_bytes_per_s": None, "down_bytes_per_s": None, "rtt_s": None, "source": "none"}
FALLBACKS_SHOWN, ROWS_SHOWN, OUTPUTS_SHOWN = 5, 28, 10


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The document of `edge_api.py --json`."""
    document: dict[str, Any] = {
        "model": outcome.graph.name,
        "weights": outcome.weights,
        "weights_origin": outcome.origin,
        "input": outcome.source,
        "kept": dict(outcome.kept),
        "link": NO_LINK if outcome.link is None else asdict(outcome.link),
        "plan": _plan(outcome) | gain_json(outcome.graph, outcome.plan.decision, outcome.prospects),
        "candidates": [candidate_json(outcome.graph, c) for c in outcome.plan.decision.candidates],
        "measured": times_of(outcome.runs.typical)
        | {"repeats": [_answered(outcome, run) for run in outcome.runs.answers]},
        "result": _result(outcome),
        "completed_by": outcome.runs.completed_by,
        "reconnects": outcome.reconnects,
        "cloud": {"address": outcome.cloud_place, "moved": outcome.moved} if outcome.cloud_place else None,
        "times": _times_json(outcome.times),
        "corrections": outcome.corrections,
        "energy": outcome.energy.to_json(),
    }
    if outcome.shipping is not None:
        sent = outcome.shipping
        document["shipping"] = {"state": sent.state, "bytes": sent.bytes, "have": sent.have, "sent": sent.sent}
        document["shipping"] |= {"seconds": sent.seconds, "left_s": sent.left_s, "why": sent.why}
    if outcome.verified is not None:
        difference, reason = told_difference(outcome.verified.max_abs_diff)
        document["verify"] = {"matches": outcome.verified.matches, "max_abs_diff": difference}
        document["verify"] |= {"max_abs_diff_reason": reason} if reason else {}
    if outcome.compared:
        document["compare"] = {each.name: _compared(outcome, each) for each in outcome.compared}
        document["measured"]["gain"] = outcome.measured_gain
    return document


def _compared(outcome: Outcome, each: Compared) -> dict[str, Any]:
    point = replace(outcome.plan.decision, parts=each.way.parts).point(outcome.graph)
    about = {"point": point, "codec": each.way.codec or None, "completed_by": each.runs.completed_by}
    return times_of(each.runs.typical) | about


def _result(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {"top": [asdict(ranked) for ranked in outcome.top]}
    document |= {
        "shape": list(outcome.outputs[0].shape),
        "outputs": answer_file.describe(outcome.outputs, outcome.output_names),
    }
    if outcome.truth:
        document["truth"] = outcome.truth
    if outcome.rows:
        document["rows"] = [{"row": name} | asdict(ranked) for name, ranked in outcome.rows]
    return document


def _plan(outcome: Outcome) -> dict[str, Any]:
    decision, graph, (here, there) = outcome.plan.decision, outcome.graph, outcome.backends
    point = decision.point(graph)
    return {
        "point": point,
        "layer": None if point is None else graph.name_at(point),
        "head": len(decision.head) - 1,  # layers on the edge, the input not counted
        "tail": len(graph.layers) - len(decision.head),
        "boundary": [graph.layers[number].id for number in decision.boundary(graph)],
        "segments": [part_json(graph, part) for part in decision.parts],
        "objective": decision.objective,
        "codec": decision.codec,
        "method": decision.method,
        "optimal": decision.is_optimal,
        "gap": decision.gap,
        "cost": decision.cost,
        "backend": {"edge": here.backend, "cloud": None if there is None else there.backend},
        "backend_reason": {"edge": here.why, "cloud": None if there is None else there.why},
        "keeps_up": decision.keeps_up,
        "decision_s": outcome.plan.decision_s,
        "overlap": overlap_json(graph, decision.overlap),
        "predicted": decision.predicted.to_json() | _interval(outcome),
        "moves": [_move(move) for move in outcome.plan.moves],
        "tries": outcome.plan.tries,
    }


def _interval(outcome: Outcome) -> dict[str, float]:
    interval = outcome.plan.interval
    return {} if interval is None else {"low_s": interval.low_s, "high_s": interval.high_s}


def _move(move: PlanMove) -> dict[str, Any]:
    told = {"at": move.at, "from": move.before, "to": move.after, "why": move.why, "ratio": move.ratio}
    return told if move.in_one_piece is None else told | {"in_one_piece": move.in_one_piece}


MEASURED = ("edge_s", "encode_s", "queue_s", "cloud_s", "total_s", "transfer_s", "hidden_s")
SIZES = ("payload_bytes", "raw_bytes", "received_bytes")


def _times_json(times: Sources) -> dict[str, Any]:
    """Where the times come from, and how fast both sides are now."""
    told = {name: getattr(times, name) for name in ("edge", "edge_factor", "cloud", "edge_why")}
    return told | speeds_json(times.edge_speed, times.cloud_speed)


def speeds_json(edge: Speed, cloud: float | None) -> dict[str, Any]:
    """How fast both sides are now beside themselves when they are quiet, and how sure the edge's is."""
    return {"speed": {"edge": edge.value, "cloud": cloud}, "speed_sd": {"edge": edge.sd}}


def speed_text(times: Sources) -> str:
    """How fast both sides are now, for people."""
    edge = times.edge_speed
    there = "" if times.cloud_speed is None else f", cloud {times.cloud_speed:.0%}"
    return f"edge {edge.value:.0%} ± {edge.sd:.0%}{there} of what they are when quiet"


def times_of(run: StageTimes) -> dict[str, Any]:
    """What is measured of the link is one number: its parts are only predicted."""
    times = run.to_json()
    return {name: times[name] for name in MEASURED} | {name: getattr(run, name) for name in SIZES}


def _answered(outcome: Outcome, answer: Answered) -> dict[str, Any]:
    fallback = None if answer.fallback is None else asdict(answer.fallback)
    point = replace(outcome.plan.decision, parts=answer.parts or outcome.runs.parts).point(outcome.graph)
    about = {"completed_by": answer.completed_by, "requests": answer.requests, "fallback": fallback, "point": point}
    return times_of(answer.measured) | about


def point_line(request: str, outcome: Outcome, *, as_json: bool) -> str:
    """One of several cuts, in a line: its whole document with the `request`, or its times for people."""
    if as_json:
        return json.dumps({"asked": request} | to_json(outcome))
    graph, decision, run = outcome.graph, outcome.plan.decision, outcome.runs.typical
    point = decision.point(graph)
    place = f"{len(decision.boundary(graph))} tensors" if point is None else graph.name_at(point)
    number = "-" if point is None else str(point)
    stages = run.to_json()
    times = ", ".join(f"{name.removesuffix('_s')} {format_seconds(stages[name])}" for name, *_ in STAGES)
    total = f"{format_seconds(run.total_s)} (predicted {format_seconds(decision.predicted.total_s)})"
    by = "" if outcome.runs.completed_by != "fallback" else "  fallback"
    return f"{request:>6}  point {number:>3} {place:<20} {decision.codec:<12} total {total}: {times}{by}"


# --- for people


def show(outcome: Outcome, console: Console) -> None:
    """Print the report."""
    console.print(_headline(outcome), highlight=False)
    if outcome.link is not None:
        rate = outcome.link.up_bytes_per_s
        console.print(candidates_table(outcome.graph, outcome.plan.decision, rate, console.width))
        console.print(legend(), highlight=False)
    console.print(_stages(outcome))
    console.print(_fallbacks(outcome.runs), highlight=False, end="")
    if outcome.compared:
        console.print(_comparison(outcome))
    console.print(_answer(outcome), highlight=False)


def _with_lines(outcome: Outcome) -> list[str]:
    """What computes on both sides, and why."""
    here, there = outcome.backends
    line = f"with:   {here.backend} on the edge ({here.why})"
    if there is None:
        return [line]
    told = f"{printable(there.backend, 40)} on the cloud"
    if there.why in ("", here.why):
        return [f"{line}, {told}"]
    return [line, f"        {told} ({printable(there.why, 160)})"]


def _where(outcome: Outcome) -> str:
    """Which of several clouds it is, and whether it was another one before."""
    moved = f", moved {outcome.moved} x" if outcome.moved else ""
    return f" at {outcome.cloud_place}{moved}" if outcome.is_chosen or moved else ""


def _headline(outcome: Outcome) -> Group:
    plan, graph, link = outcome.plan, outcome.graph, outcome.link
    lines = [f"{graph.name}, weights {outcome.origin}, input {outcome.source}"]
    lines += [f"kept:   {name} is one layer ({why})" for name, why in outcome.kept.items()]
    if link is not None:
        lines.append(
            f"link:   up {format_rate(link.up_bytes_per_s)}, down {format_rate(link.down_bytes_per_s)}, "
            f"round trip {format_seconds(link.rtt_s)} ({link.source})"
        )
        lines.append(f"cloud:  {printable(outcome.cloud_device or '', 80)}{_where(outcome)}")
    lines += _with_lines(outcome)
    decision = plan.decision
    lines.append(f"cut:    {cut_line(graph, decision, None if link is None else link.up_bytes_per_s)}")
    lines += [f"        {part_line(graph, part)}" for part in (() if decision.is_cut else decision.parts)]
    sent = overlap_line(graph, decision)
    lines += [f"chunks: {sent}"] if sent else []
    chosen_reason = f"{why_line(decision)}, chosen in {format_seconds(plan.decision_s)}"
    fixed_reason = "no cloud to decide with" if plan.failure else "point set by the user"
    lines.append(f"reason: {fixed_reason if decision.method == 'given' else chosen_reason}")
    if link is not None:
        lines += gain_lines(graph, decision, outcome.prospects, Now(link.up_bytes_per_s, outcome.cpu_share))
    lines += [f"moved:  {move}" for move in plan.moves]
    if decision.keeps_up is False:
        lines.append("rate:   the bottleneck stage is too slow for --rate: use a lower rate")
    times = outcome.times
    within = f" ({times.edge_why})" if times.edge_why else ""
    there = f", {printable(times.cloud, 20)} on the cloud" if times.cloud else ""
    lines.append(f"times:  {times.edge} on the edge{within}{there}")
    lines.append(f"speed:  {speed_text(times)}")
    energy = outcome.energy
    lines.append(
        f"energy: {energy.measured_stages.total_j:.3g} J, modeled for {energy.profile} with {energy.radio} "
        f"({energy.measured_stages.edge_j:.3g} compute, {energy.measured_stages.transmit_j:.3g} transmission, "
        f"{energy.measured_stages.idle_j:.3g} idle)"
    )
    if energy.meter is not None:
        lines.append(f"meter:  {energy.meter['all_runs_j']:.3g} J over all runs, measured by {energy.meter['meter']}")
    return Group(*(Text(line) for line in lines))


def _stages(outcome: Outcome) -> Table:
    predicted, typical = outcome.plan.decision.predicted.to_json(), outcome.runs.typical.to_json()
    repeats = [run.to_json() for run in outcome.runs.repeats]
    table = Table(box=None, pad_edge=False, title="\npredicted and measured", title_justify="left")
    table.add_column("stage")
    for name in ("predicted", "measured") + (("spread",) if len(repeats) > 1 else ()):
        table.add_column(name, justify="right")
    for stage in (*(name for name, *_ in STAGES), "hidden_s", "total_s"):
        if stage == "hidden_s" and not any(run[stage] for run in (predicted, *repeats)):
            continue
        row = [stage.removesuffix("_s")]
        row.append(format_seconds(predicted[stage]))
        row.append(format_seconds(typical[stage]))
        if len(repeats) > 1:
            row.append(_spread(run[stage] for run in repeats))
        table.add_row(*row, style="bold" if stage == "total_s" else "")
    interval = outcome.plan.interval
    if interval is not None:
        table.add_row("80 % of totals", f"{format_seconds(interval.low_s)} .. {format_seconds(interval.high_s)}")
    return table


def _fallbacks(runs: Runs) -> Text:
    """When the edge completed inferences, and why; nothing if it did not."""
    fallbacks = [(number, run.fallback) for number, run in enumerate(runs.answers, 1) if run.fallback is not None]
    if not fallbacks:
        return Text()
    lines = [f"\n{len(fallbacks)} of {len(runs.answers)} inferences were completed on the edge instead of the cloud"]
    groups = [list(group) for _, group in groupby(fallbacks, key=lambda pair: (pair[1].reason, pair[1].after_s > 0))]
    lines += [f"  {_fallback_line(group)}" for group in groups[:FALLBACKS_SHOWN]]
    if len(groups) > FALLBACKS_SHOWN:
        lines.append(f"  ... and {len(groups) - FALLBACKS_SHOWN} more (see --json)")
    return Text("\n".join([*lines, ""]))


def _fallback_line(group: list[tuple[int, Fallback]]) -> str:
    (first, fallback), (last, _) = group[0], group[-1]
    which = f"{first}" if first == last else f"{first} to {last}"
    when = f"after {format_seconds(fallback.after_s)}" if fallback.after_s > 0 else "from the start"
    return f"{which}: {when}, {fallback.reason}"


def _spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{format_seconds(ordered[0])} .. {format_seconds(ordered[-1])}"


def _output_line(output: dict[str, Any]) -> str:
    return f"  {output['name']}: {output['dtype']}, shape {' x '.join(map(str, output['shape'])) or 'of one number'}"


def _comparison(outcome: Outcome) -> Table:
    total_s = outcome.runs.typical.total_s
    table = Table(box=None, pad_edge=False, title="\nmeasured baselines", title_justify="left")
    for name in ("", "total", "relative to the chosen cut"):
        table.add_column(name, justify="left" if not name else "right")
    rows: list[tuple[str, Runs]] = [("chosen cut", outcome.runs)]
    rows += ((_compared_name(outcome, each), each.runs) for each in outcome.compared)
    for name, runs in rows:
        table.add_row(name, format_seconds(runs.typical.total_s), f"{runs.typical.total_s / total_s:.2f} x")
    if outcome.measured_gain is not None:
        table.caption = f"measured gain over the better end: {outcome.measured_gain:.2f} x"
        table.caption_justify = "left"
    return table


def _compared_name(outcome: Outcome, each: Compared) -> str:
    """What it is, and how it travels."""
    codec = f", {printable(each.way.codec, 30)}" if each.way.codec not in ("", RAW) else ""
    if each.name in ENDS:
        return f"{ENDS[each.name]}{codec}"
    decision = replace(outcome.plan.decision, parts=each.way.parts)
    point, last = decision.point(outcome.graph), len(outcome.graph.points) - 1
    where = "several tensors" if point is None else {0: ENDS["cloud"], last: ENDS["edge"]}.get(point, f"point {point}")
    return f"lossless plan: {where}{codec}"


def _answer(outcome: Outcome) -> Group:
    of_row = f" for the first row, {readable(outcome.rows[0][0], 40)}" if outcome.rows else ""
    lines = ["", f"answer{of_row}"]
    lines += [f"  {ranked.probability:7.2%}  {ranked.label}" for ranked in outcome.top]
    if not outcome.top:
        lines += [
            _output_line(each) for each in answer_file.describe(outcome.outputs, outcome.output_names)[:OUTPUTS_SHOWN]
        ]
        left = len(outcome.outputs) - OUTPUTS_SHOWN
        lines += [f"  and {left} more (see --json)"] if left > 0 else []
        lines.append("  (--output FILE writes the numbers)")
    if outcome.rows:
        rows = [f"{readable(name, 40)} {ranked.label}" for name, ranked in outcome.rows[:ROWS_SHOWN]]
        left = len(outcome.rows) - len(rows)
        more = f" and {left} more (see --json)" if left else ""
        lines.append(f"  best of each row: {', '.join(rows)}{more}")
    if outcome.truth and outcome.top:
        is_right = outcome.top[0].label == outcome.truth
        lines.append(f"  true label: {outcome.truth}{', as answered' if is_right else ''}")
    if not outcome.is_trained and outcome.top:
        sources = "imagenet or FILE" if outcome.has_imagenet else "FILE"
        lines.append(f"  (untrained weights: the labels are meaningless; use --weights {sources})")
    if outcome.verified is not None:
        same = "matches" if outcome.verified.matches else "DIFFERS FROM"
        difference, reason = told_difference(outcome.verified.max_abs_diff)
        detail = reason if difference is None else f"largest difference {difference:.3g}"
        lines.append(f"verify: {same} the full model run locally ({detail})")
    return Group(*(Text(line) for line in lines))
