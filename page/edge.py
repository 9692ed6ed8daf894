"""What the page of an edge shows: its requests, its plan and all others, its link, and how fast both sides are."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from edgecloud.client.edge import Answered
from edgecloud.client.edge_client import EdgeClient
from edgecloud.client.frames import Shown
from edgecloud.client.outcome import Plan
from edgecloud.engine.answers import names_classes, rank, rank_rows
from edgecloud.models.inputs import Input
from edgecloud.net.link import LinkEstimate
from edgecloud.page.pictures import png_of
from edgecloud.page.record import Record
from edgecloud.page.rows import Mark, Row, Stage, stages_of
from edgecloud.partition.chain import Candidate
from edgecloud.partition.cost import Link, Part, Power, StageTimes, energy_of
from edgecloud.partition.timeline import spans
from edgecloud.utils.errors import UsageError

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often link and speed are written down, while inferences run."""
RECENT = 20
"""Inferences that a banner is about."""
SLOW, WORSE = 0.6, 1.1
"""Of the speed of the quiet machine, and of the best cut's seconds: from there a banner says so."""
ROWS_SHOWN = 28
MOST_CUTS = 1000
"""That are remembered, with what does not change of them."""


@dataclass(frozen=True, slots=True)
class _Ran:
    """One inference as it is kept: without its tensors."""

    began: float
    answered: Answered
    plan: Plan
    source: str
    rates: Link | None
    is_pinned: bool
    age_s: float | None


@dataclass(frozen=True, slots=True)
class _Moment:
    """Link and speed at a moment."""

    at_s: float
    link: LinkEstimate | None
    edge: float
    cloud: float | None

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        found = {"up_bytes_per_s": None, "down_bytes_per_s": None, "rtt_s": None, "source": "none"}
        speeds = {"at_s": self.at_s, "edge_speed": self.edge, "cloud_speed": self.cloud}
        return (found if self.link is None else asdict(self.link)) | speeds


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is always the same of inferences that ran in the same parts."""

    point: int | None
    crossing: tuple[int, ...]
    """The layers whose outputs go to the cloud."""


class EdgeView:
    """Watches an open client. Inferences may run in any thread."""

    program = "edge"

    def __init__(self, client: EdgeClient) -> None:
        self._client, self._prepared = client, client.prepared
        self._edge = client.prepared.edge
        self._graph = self._edge.graph
        self._began = time.perf_counter()
        self._runs: Record[_Ran] = Record()
        self._changes: Record[Mark] = Record()
        self._moments: Record[Mapping[str, Any]] = Record(200)  # made into JSON once, and shown 200 times
        self._cuts: dict[tuple[Part, ...], _Cut] = {}
        self._expected: tuple[StageTimes | None, tuple[Stage, ...]] = (None, ())
        self._completed: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._input: Input = self._edge.network.example
        self._arrived: float | None = None
        self._answer: tuple[Input, Answered] | None = None
        self._plan = client.plan
        self._picture: tuple[Input | None, bytes | None] = (None, None)
        self._frames: dict[str, Any] | None = None
        self.actions: Mapping[str, Callable[[Any], None]] = {"pin": self._pin}
        self._look(self._began)
        client.runner.watcher = self._on_answer

    def show(self, shown: Shown) -> None:
        """The next inference is about this frame."""
        about = {"number": shown.frame.number, "rate_per_s": shown.rate_per_s, "dropped": shown.dropped}
        self._input, self._arrived, self._frames = shown.what, shown.frame.at, about

    # --- by the threads that run inferences

    def _on_answer(self, began: float, answered: Answered, plan: Plan) -> None:
        """An answer is worth more than the page: what goes wrong here is logged once, and the page stands still."""
        try:
            self._note(began, answered, plan)
        except Exception:
            log.exception("! page: internal error")
            self._client.runner.watcher = None

    def _note(self, began: float, answered: Answered, plan: Plan) -> None:
        now, runner = time.perf_counter(), self._client.runner
        self._answer = (self._input, answered)
        self._completed[answered.completed_by] += 1
        self._bytes["raw"] += answered.measured.raw_bytes
        self._bytes["sent"] += answered.measured.payload_bytes
        if plan is not self._plan:
            self._note_plan(plan, now)
        if now - self._looked_at > LOOK_S:
            self._look(now)
        link = self._moment.link
        rates = None if link is None else Link(link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s)
        age_s = None if self._arrived is None else now - self._arrived
        is_pinned = runner.pinned is not None
        self._runs.add(_Ran(began, replace(answered, outputs=()), plan, self._input.source, rates, is_pinned, age_s))

    def _note_plan(self, plan: Plan, now: float) -> None:
        before, after = self._point_of(self._plan.decision.parts), self._point_of(plan.decision.parts)
        self._plan = plan
        if before != after:
            text = str(plan.moves[-1]) if plan.moves else f"point {before} to {after}"
            self._changes.add(Mark(now - self._began, "plan", text, {"from": before, "to": after}))

    def _look(self, now: float) -> None:
        self._looked_at = now
        cloud = self._edge.cloud
        link = (None if cloud is None else cloud.conditions().link) or self._client.link
        there = None if cloud is None else cloud.speed
        self._moment = _Moment(now - self._began, link, self._prepared.timing.meter.now().value, there)
        self._moments.add(self._moment.to_json())

    # --- by the page's thread

    def rows(self, after: int, most: int) -> Sequence[Row]:
        """The last inferences after a number."""
        return [self._row(number, ran) for number, ran in self._runs.since(after, most)]

    def marks(self) -> Sequence[Mark]:
        """Changes of the plan, and the link and speeds as they were looked at."""
        moments = (Mark(each["at_s"], "link", "link and speed", each) for _, each in self._moments.since(0))
        return [*(mark for _, mark in self._changes.since(0)), *moments]

    def picture(self) -> bytes | None:
        """The input of the last inferences, as the network sees it."""
        shown = self._input
        if self._picture[0] is not shown:
            self._picture = (shown, png_of(shown.array))
        return self._picture[1]

    def state(self) -> dict[str, Any]:
        """Everything else."""
        runner, plan = self._client.runner, self._client.plan
        candidates = runner.forecast()
        network = self._edge.network
        return {
            "program": self.program,
            "network": self._graph.name,
            "weights": network.weights.origin,
            "input": self._input_json(),
            "answer": self._answer_json(),
            "plan": self._plan_json(plan, candidates),
            "points": [self._point_json(each) for each in candidates],
            "link": self._moment.to_json(),
            "trail": [each for _, each in self._moments.since(0)],
            "cloud": self._cloud_json(),
            "speed": {"edge": self._moment.edge, "cloud": self._moment.cloud},
            "count": self._runs.count,
            "completed_by": dict(self._completed),
            "bytes": {"raw": self._bytes["raw"], "sent": self._bytes["sent"]},
            "changes": [mark.to_json() for _, mark in self._changes.since(0, 20)],
            "power": {"profile": self._prepared.power.profile.name, "radio": self._prepared.power.radio_name},
            "frames": self._frames,
            "banners": [*self._banners(plan, candidates)],
        }

    def _pin(self, body: Any) -> None:
        point = body.get("point") if isinstance(body, dict) else "?"
        if point is not None and (not isinstance(point, int) or isinstance(point, bool)):
            raise UsageError('give {"point": K}, or null to release it')
        runner = self._client.runner
        runner.pin(point)
        text = "released" if point is None else f"pinned to point {point}"
        self._changes.add(Mark(time.perf_counter() - self._began, "pin", text, {"to": point}))

    def _point_of(self, parts: tuple[Part, ...]) -> int | None:
        return replace(self._plan.decision, parts=parts).point(self._graph)

    def _row(self, number: int, ran: _Ran) -> Row:
        answered, times = ran.answered, ran.answered.measured
        cut = self._cut_of(answered.parts)
        predicted = self._predicted(ran, cut.point)
        fallback = answered.fallback
        about = {
            "point": cut.point,
            "completed_by": answered.completed_by,
            "codec": ",".join(dict.fromkeys(answered.codecs.get(n, "raw") for n in cut.crossing)),
            "raw_bytes": times.raw_bytes,
            "payload_bytes": times.payload_bytes,
            "received_bytes": times.received_bytes,
            "energy_j": self._energy_j(ran),
            "input": ran.source,
            "is_pinned": ran.is_pinned,
            "age_s": ran.age_s,
            "why": "" if fallback is None else fallback.reason,
        }
        stages = stages_of(times)
        began_s = max(0.0, ran.began - self._began)
        if predicted is not self._expected[0]:  # nearly always that of the inference before
            self._expected = (predicted, () if predicted is None else stages_of(predicted))
        return Row(number, self._graph.name, began_s, times.total_s, stages, self._expected[1], about)

    def _cut_of(self, parts: tuple[Part, ...]) -> _Cut:
        cut = self._cuts.get(parts)
        if cut is None:
            crossing = {n for part in parts if part.place == "cloud" for n in self._graph.inputs_of(part.layers)}
            cut = _Cut(self._point_of(parts) if parts else None, tuple(sorted(crossing)))
            if len(self._cuts) >= MOST_CUTS:
                self._cuts.clear()
            self._cuts[parts] = cut
        return cut

    def _predicted(self, ran: _Ran, point: int | None) -> StageTimes | None:
        decision = ran.plan.decision
        if ran.answered.parts in ((), decision.parts):
            return decision.predicted
        return next((each.predicted for each in decision.candidates if each.point.number == point), None)

    def _energy_j(self, ran: _Ran) -> float:
        """Modelled, of the measured stages; without a link nothing is sent."""
        choice, rates = self._prepared.power, ran.rates
        power = Power(choice.profile.compute_w, choice.profile.idle_w, 0, 0) if rates is None else choice.at(rates)
        is_local = all(part.place == "edge" for part in ran.answered.parts)
        return energy_of(ran.answered.measured, rates or Link(1.0, 1.0, 0.0), power, is_local=is_local).total_j

    def _input_json(self) -> dict[str, Any]:
        shown = self._input
        return {"source": shown.source, "truth": shown.truth, "rows": list(shown.rows[:ROWS_SHOWN])}

    def _answer_json(self) -> dict[str, Any] | None:
        latest = self._answer
        if latest is None:
            return None
        of, answered = latest
        outputs, labels = answered.outputs, self._edge.entry.labels
        shapes = [{"dtype": str(output.dtype), "shape": list(output.shape)} for output in outputs[:10]]
        if not names_classes(outputs, labels, of.rows):
            return {"top": [], "rows": [], "outputs": shapes}
        rows = rank_rows(outputs[0], labels, of.rows)
        named = [{"row": name} | asdict(ranked) for name, ranked in islice(rows, ROWS_SHOWN)]
        return {"top": [asdict(ranked) for ranked in rank(outputs[0], labels)], "rows": named, "outputs": shapes}

    def _plan_json(self, plan: Plan, candidates: Sequence[Candidate]) -> dict[str, Any]:
        decision, pinned = plan.decision, self._client.runner.pinned
        point = self._point_of(decision.parts)
        interval = plan.interval
        best = min(candidates, key=lambda each: each.predicted.total_s).point.number
        return {
            "point": point,
            "pinned": None if pinned is None else self._point_of(pinned.parts),
            "best": best,
            "last": len(self._graph.points) - 1,
            "method": decision.method,
            "objective": decision.objective,
            "codec": decision.codec,
            "total_s": decision.predicted.total_s,
            "interval": None if interval is None else [interval.low_s, interval.high_s],
            "gain": None if decision.gain is None else decision.gain.over,
            "tries": plan.tries,
            "failure": plan.failure,
        }

    def _point_json(self, each: Candidate) -> dict[str, Any]:
        times = each.predicted
        return {
            "point": each.point.number,
            "layer": self._graph.layers[each.point.layer].id,
            "edge_s": times.edge_s,
            "encode_s": times.encode_s,
            "up_bytes": times.payload_bytes,
            "upload_s": times.upload_s,
            "rtt_s": times.rtt_s,
            "download_s": times.download_s,
            "queue_s": times.queue_s,
            "cloud_s": times.cloud_s + times.decode_s,
            "hidden_s": times.hidden_s,
            "total_s": times.total_s,
            "stages": [list(span) for span in spans(times)],
        }

    def _cloud_json(self) -> dict[str, Any] | None:
        cloud, ready = self._edge.cloud, self._edge.ready
        if cloud is None:
            return None
        told, state = self._client.config.cloud, cloud.state
        place = (told.more and cloud.place) or f"{told.host}:{told.port}"
        return {
            "place": place if told.own is None else "",
            "is_connected": cloud.is_connected and not cloud.is_left_alone,
            "why": cloud.why,
            "device": "" if ready is None else ready.device,
            "reconnects": self._client.runner.reconnects,
            "load": None if state is None else state.load,
            "queue_s": None if state is None else state.queue_s,
        }

    def _banners(self, plan: Plan, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        """What is wrong, as codes with numbers: the page has the words."""
        found: list[dict[str, Any]] = []
        cloud = self._cloud_json()
        if cloud is not None and not cloud["is_connected"]:
            found.append({"code": "no_cloud", "place": cloud["place"], "why": cloud["why"] or plan.failure})
        recent = [ran.answered for _, ran in self._runs.since(0, RECENT)]
        fallbacks = [each for each in recent if each.fallback is not None]
        if fallbacks and fallbacks[-1].fallback is not None:
            why = fallbacks[-1].fallback.reason
            found.append({"code": "fallback", "count": len(fallbacks), "of": len(recent), "why": why})
        pinned = self._client.runner.pinned
        if pinned is not None:
            point = self._point_of(pinned.parts)
            seconds = {each.point.number: each.predicted.total_s for each in candidates}
            ratio = seconds[point] / min(seconds.values()) if point in seconds else 1.0
            found.append({"code": "pinned" if ratio < WORSE else "pinned_slow", "point": point, "ratio": ratio})
        if self._moment.edge < SLOW:
            found.append({"code": "slow_edge", "speed": self._moment.edge})
        if self._moment.cloud is not None and self._moment.cloud < SLOW:
            found.append({"code": "slow_cloud", "speed": self._moment.cloud})
        return found
