"""One line for every frame that was answered. The JSON keys are a contract: see docs/json.md."""

import json
import time
from dataclasses import asdict, replace

from edgecloud.cli.report import times_of
from edgecloud.client.edge import Answered
from edgecloud.client.frames import Shown
from edgecloud.engine.answers import names_classes, rank
from edgecloud.library.edge import Edge
from edgecloud.utils.units import format_seconds, readable


def line(edge: Edge, shown: Shown, answered: Answered, *, as_json: bool) -> str:
    """What came of a frame that was answered just now."""
    age_s = time.perf_counter() - shown.frame.at
    frame, graph = shown.frame, edge.net.graph
    outputs, labels = answered.outputs, edge.net.entry.labels
    top = rank(outputs[0], labels) if names_classes(outputs, labels, ()) else ()
    point = replace(edge.client.plan.decision, parts=answered.parts).point(graph) if answered.parts else None
    if as_json:
        about = {"frame": frame.number, "name": frame.name, "age_s": age_s, "rate_per_s": shown.rate_per_s}
        about |= {"dropped": shown.dropped, "top": [asdict(ranked) for ranked in top]}
        fallback = None if answered.fallback is None else asdict(answered.fallback)
        about |= {"completed_by": answered.completed_by, "fallback": fallback, "point": point}
        return json.dumps(about | times_of(answered.measured))
    answer = f"{readable(top[0].label, 40)} {top[0].probability:.1%}" if top else "answered"
    place = "several tensors" if point is None else f"point {point}"
    total = format_seconds(answered.measured.total_s)
    rate = f"{format_seconds(age_s)} old, {shown.rate_per_s:.1f}/s, {shown.dropped} dropped"
    return f"{frame.number:>6}  {readable(frame.name, 40)}: {answer}, {total}, {rate}, {place}"
