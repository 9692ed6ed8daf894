"""The next task and its cut, from the current link and cloud load. Pure.

A closed queue is planned as a whole, cuts and order together, so that the last task ends early (partition.schedule).
Open arrivals are cut one by one: for the least latency while the stages sustain the rate, else for the minimum
bottleneck stage (DADS, Algorithm 3). A plan is kept until conditions have really changed, or what tasks took has shown
that their seconds are predicted wrong (tasks.correcting).
"""

import heapq
import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from edgecloud.client.conditions import Conditions
from edgecloud.models.graph import LayerGraph
from edgecloud.net.estimator import should_move
from edgecloud.partition import chain, schedule, throughput
from edgecloud.partition.cost import CloudTimes, Link, Packed, Problem, joined
from edgecloud.partition.packing import RAW, Allowed
from edgecloud.partition.schedule import APART, Sharing
from edgecloud.partition.throughput import Stages
from edgecloud.tasks.bound import Options
from edgecloud.tasks.correcting import Corrections, MeasuredStage, differ
from edgecloud.tasks.tasks import Task

PLAN_EVERY_S = 0.5
HORIZON = 200
MOVE_MARGIN = 0.10


@dataclass(frozen=True)
class Profiled:
    """What is known of a network here: its graph, the seconds of its layers, and how their outputs may travel."""

    graph: LayerGraph
    seconds: Sequence[float]
    allowed: Allowed | None = None
    """None: as they are."""

    def ways(self, point: int, codecs: Collection[str]) -> Sequence[Packed]:
        """How the boundary of a point may travel to a cloud that knows some codecs; several inputs with one for all."""
        crossing = self.graph.crossing_at(point)
        each = [{way.codec: way for way in self._ways(layer, codecs)} for layer in crossing]
        common = [codec for codec in each[0] if all(codec in ways for ways in each)] if each else []
        raw = Packed(RAW, self.graph.bytes_of(crossing))
        return [joined([ways[codec] for ways in each]) for codec in common] or [raw]

    def _ways(self, layer: int, codecs: Collection[str]) -> Sequence[Packed]:
        packings = () if self.allowed is None else self.allowed.alone(layer, codecs)
        return packings or (Packed(RAW, self.graph.layers[layer].out_bytes),)


class Option(NamedTuple):
    """A point with its layer, a codec for its boundary, and the stages of a task that is cut and packed so."""

    point: int
    layer: int
    codec: str
    stages: Stages
    told: Stages | None = None
    """As they were predicted, where they are corrected."""


@dataclass(frozen=True)
class TaskPlan:
    """A point and a codec for a task, with the predicted seconds of its stages."""

    point: int
    layer: int
    codec: str
    stages: Stages
    objective: str
    told: Stages | None = None
    """As they were predicted, where they are corrected."""

    @classmethod
    def of(cls, option: Option, objective: str) -> "TaskPlan":
        """An option that was chosen."""
        return cls(option.point, option.layer, option.codec, option.stages, objective, option.told)

    @property
    def predicted(self) -> Stages:
        """Its stages before anything was corrected: what a bound is made from."""
        return self.told or self.stages

    @property
    def is_local(self) -> bool:
        """Whether the task needs no cloud."""
        return self.stages.link_s == self.stages.cloud_s == self.stages.delay_s == 0

    @property
    def is_feeding(self) -> bool:
        """Whether it gives the link and the cloud more work than they do while its head runs."""
        return self.stages.edge_s < self.stages.link_s + self.stages.cloud_s


@dataclass(frozen=True)
class Move:
    """A cut that was moved, in seconds after the start."""

    at_s: float
    model: str
    before: int
    after: int


@dataclass(frozen=True)
class Line:
    """How much waits for the link and the cloud."""

    has_room: bool = True
    """Whether another boundary may wait for the link."""
    may_grow: bool = True
    """Whether it may where there is no room, rather than that the edge stands idle, or the cloud."""
    backlog_s: float = math.inf
    """Seconds until the link and the cloud have done what they were given."""


def next_of(choices: Sequence[TaskPlan], line: Line, turn: int | None = None) -> int | None:
    """Which of these, the first one first, is to start now; None: to wait is better.

    Nothing is sent while the edge computes one task for long, and a link and a cloud that run out of work then stand
    idle. So one goes first that ends before that. Where only longer ones are left, the cloud is given work first, and
    more than usual may wait for the link; then comes the long one. Where there is room, only the first `turn` may go
    before their turn.
    """
    numbers = range(len(choices))
    can_start = [number for number in numbers if choices[number].is_local or line.has_room]
    in_turn = can_start[:turn] if line.has_room else can_start
    quick = (number for number in in_turn if choices[number].stages.edge_s <= line.backlog_s)
    if (first := next(quick, None)) is not None:
        return first
    feeding = [n for n in numbers[: turn if line.has_room else None] if choices[n].is_feeding]
    draining = [n for n in numbers if not choices[n].is_feeding and (line.may_grow or n in can_start)]
    if draining and not line.has_room and line.may_grow and choices[draining[0]].stages.edge_s <= line.backlog_s:
        return draining[0]
    if draining and feeding and (line.has_room or line.may_grow):
        return feeding[0]
    return next(iter(can_start or draining), None)


ALL = Line()
"""Nothing has to wait."""


class Planner(Protocol):
    """Gives out tasks in the order in which they should start."""

    objective: str
    """`makespan`: the least time for all tasks; else what each cut is chosen for, `latency` or `throughput`."""
    moves: list[Move]
    bound_s: float | None
    """Of a plan for all tasks: no choice and no order could be done sooner, if the predictions are right."""
    makespan_s: float | None
    """The predicted seconds of that plan. Both are None where tasks are cut one by one."""
    options: Options
    """Of every network, in all plans so far."""

    def refresh(self, now_s: float, conditions: Conditions, backlog_s: float = 0.0) -> None:
        """Take note of the conditions; the link and the cloud have work for `backlog_s`."""

    def ran(self, model: str, side: str, ran: MeasuredStage) -> None:
        """A stage of a task was measured, on the `edge` or the `cloud`; in any thread."""

    def take(self, now_s: float, line: Line) -> tuple[Task, TaskPlan] | None:
        """The next task that is there, with its cut, which is then under way; None where none should start yet."""

    def next_arrival_s(self) -> float | None:
        """Seconds after the start when another task comes; None where none will."""

    @property
    def left(self) -> int:
        """Tasks that were not given out."""


def options_of(profile: Profiled, conditions: Conditions) -> list[Option]:
    """Every point that can be used now with every codec that may be used there.

    All of them, and not only the codec of least latency: whether the edge or the link has time to spare is for the
    plan of all tasks to say.
    """
    graph, edge_s = profile.graph, [seconds / conditions.edge_speed for seconds in profile.seconds]
    if conditions.link is None or conditions.ready is None:
        last = graph.points[-1]
        return [Option(last.number, last.layer, RAW, Stages(sum(edge_s), 0.0, 0.0))]
    ready, estimate = conditions.ready[graph.name], conditions.link
    link = Link(estimate.up_bytes_per_s, estimate.down_bytes_per_s, estimate.rtt_s)
    cloud = CloudTimes(ready.seconds, ready.start_s, conditions.load, conditions.queue_s)
    *cuts, alone = chain.scan(Problem(graph, edge_s, cloud, link))
    ways = (
        (c.point, packed.codec, c.predicted.sent_as(packed, link))
        for c in cuts
        if c.boundary_bytes <= conditions.max_payload  # as it is: so the cloud counts it
        for packed in profile.ways(c.point.number, ready.codecs)
    )
    every = (*ways, (alone.point, RAW, alone.predicted))
    return [Option(point.number, point.layer, codec, throughput.stages_of(times)) for point, codec, times in every]


class _Learning:
    """What both queues learn from stages that ran."""

    def __init__(self, profiles: Mapping[str, Profiled]) -> None:
        self._profiles = profiles
        self._corrections = Corrections()
        self._now: Conditions | None = None
        """The conditions when they were looked at last."""

    def ran(self, model: str, side: str, ran: MeasuredStage) -> None:
        """A stage of a task was measured, on the `edge` or the `cloud`; in any thread."""
        profile, now = self._profiles[model], self._now
        if now is None:
            return
        if side == "edge":
            self._corrections.note(
                model, side, profile.graph, profile.seconds, replace(ran, slowdown=1 / now.edge_speed)
            )
        elif now.ready is not None:
            seconds = now.ready[model].seconds
            self._corrections.note(model, side, profile.graph, seconds, replace(ran, slowdown=now.load))

    def _options_of(self, model: str, conditions: Conditions) -> list[Option]:
        """The options of a network, with what was learnt of it."""
        profile = self._profiles[model]
        plain = options_of(profile, conditions)
        better = replace(profile, seconds=self._corrections.of(model, "edge", profile.seconds))
        if conditions.ready is not None:
            ready = conditions.ready[model]
            there = replace(ready, seconds=list(self._corrections.of(model, "cloud", ready.seconds)))
            conditions = replace(conditions, ready={**conditions.ready, model: there})
        pairs = zip(options_of(better, conditions), plain, strict=True)
        return [option._replace(told=before.stages) for option, before in pairs]


def best_of(options: Sequence[Option], objective: str) -> Option:
    """The one of least latency, or with the minimum bottleneck stage."""
    if objective == "latency":
        return min(options, key=lambda option: option.stages.total_s)
    return options[throughput.best([option.stages for option in options])]


def _note(seen: Options, options: Mapping[str, Sequence[Option]]) -> None:
    for model, each in options.items():
        seen.note(model, (((option.point, option.codec), option.told or option.stages) for option in each))


class ClosedQueue(_Learning):
    """All tasks are there: cuts and order for the least makespan, priorities and deadlines first.

    Of a long queue the most urgent `HORIZON` tasks are planned, and more when most of them are done.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        profiles: Mapping[str, Profiled],
        *,
        is_serial: bool = False,
        sharing: Sharing = APART,
    ) -> None:
        super().__init__(profiles)
        self._is_serial, self._sharing = is_serial, sharing
        self._later = deque(sorted(tasks, key=lambda task: task.urgency))
        self._count, self._factors = len(tasks), self._corrections.factors()
        self._near: list[Task] = []
        self._order: deque[tuple[Task, TaskPlan]] = deque()
        self._conditions: Conditions | None = None
        self._planned_at = float("-inf")
        self.objective = "makespan"
        self.moves: list[Move] = []
        self.bound_s: float | None = None
        self.makespan_s: float | None = None
        self.options = Options()

    @property
    def left(self) -> int:
        """Tasks that were not given out."""
        return len(self._near) + len(self._later)

    def refresh(self, now_s: float, conditions: Conditions, backlog_s: float = 0.0) -> None:
        """Plan again where conditions have changed, where little of the plan is left, or where one side has no work."""
        self._now = conditions
        if self.left and self._is_due(now_s, conditions, backlog_s):
            self._factors = self._corrections.factors()
            self._conditions, self._planned_at = conditions, now_s
            self._plan(conditions, backlog_s)

    def _is_due(self, now_s: float, conditions: Conditions, backlog_s: float) -> bool:
        before = self._conditions
        if before is None or before.has_cloud != conditions.has_cloud:
            return True
        if self._later and len(self._near) < HORIZON // 4:
            return True
        if now_s - self._planned_at < PLAN_EVERY_S:
            return False
        if conditions.differs(before) or differ(self._corrections.factors(), self._factors):
            return True
        return conditions.has_cloud and self._is_one_sided(backlog_s)

    def _is_one_sided(self, backlog_s: float) -> bool:
        """Whether the edge has nothing left to compute and the cloud has, or the cloud nothing for as long as the edge:
        then the seconds were not as predicted."""
        if self._is_serial:
            return False
        kinds = {choice.is_feeding for _, choice in self._order}
        edge_s = sum(choice.stages.edge_s for _, choice in self._order)
        return (kinds == {True} and backlog_s > 0) or (kinds == {False} and backlog_s < edge_s)

    def _plan(self, conditions: Conditions, backlog_s: float) -> None:
        is_whole = self._count == len(self._later) <= HORIZON
        while self._later and len(self._near) < HORIZON:
            self._near.append(self._later.popleft())
        options = {model: self._options_of(model, conditions) for model in self._profiles}
        _note(self.options, options)
        if self._is_serial:
            self._plan_serially(options, is_whole=is_whole)
            return
        stages = {model: tuple(option.stages for option in each) for model, each in options.items()}
        jobs = [schedule.Job(stages[task.model]) for task in self._near]
        ranks = {urgency: -rank for rank, urgency in enumerate(sorted({task.urgency for task in self._near}))}
        # What the cloud still has to do is like a task that comes before all others.
        first = [schedule.Job((Stages(0.0, 0.0, backlog_s),))] if backlog_s > 0 else []
        groups = [*[1] * len(first), *(ranks[task.urgency] for task in self._near)]
        plan = schedule.plan([*first, *jobs], groups, self._sharing)
        if is_whole and not first:
            self.bound_s, self.makespan_s = plan.bound_s, plan.makespan_s
        self._order.clear()
        for job in plan.order:
            if job >= len(first):
                task = self._near[job - len(first)]
                self._order.append((task, TaskPlan.of(options[task.model][plan.chosen[job]], "makespan")))

    def _plan_serially(self, options: Mapping[str, Sequence[Option]], *, is_whole: bool) -> None:
        """One after the other: the least latency of each is the least time of all."""
        choices = {model: TaskPlan.of(best_of(each, "latency"), "latency") for model, each in options.items()}
        self._order = deque((task, choices[task.model]) for task in self._near)
        if is_whole:
            self.bound_s = self.makespan_s = sum(choice.stages.total_s for _, choice in self._order)

    def take(self, now_s: float, line: Line = ALL) -> tuple[Task, TaskPlan] | None:
        """The next task of the plan."""
        del now_s
        order = list(self._order)
        turn = sum(task.urgency == order[0][0].urgency for task, _ in order) if order else 0
        number = next_of([choice for _, choice in order], line, turn)
        if number is None:
            return None
        del self._order[number]
        self._near.remove(order[number][0])
        return order[number]

    def next_arrival_s(self) -> float | None:
        """None: they are all there."""
        return None


class OpenQueue(_Learning):
    """Tasks arrive over time: each is cut when it starts; the most urgent one that has arrived is next."""

    def __init__(self, tasks: Sequence[Task], profiles: Mapping[str, Profiled], rate_per_s: float) -> None:
        self._coming = deque(sorted(tasks, key=lambda task: task.arrival_s))
        super().__init__(profiles)
        self._rate_per_s, self._factors = rate_per_s, self._corrections.factors()
        models = [task.model for task in tasks]
        self._weights = {model: models.count(model) for model in dict.fromkeys(models)}
        self._arrived: dict[str, list[tuple[tuple[int, float], float, int, Task]]] = {
            name: [] for name in self._weights
        }
        """For each network a heap, the most urgent task first."""
        self._choices: dict[str, TaskPlan] = {}
        self._conditions: Conditions | None = None
        self._now_s = 0.0
        self.objective = "latency"
        self.moves: list[Move] = []
        self.bound_s: float | None = None
        self.makespan_s: float | None = None
        self.options = Options()

    @property
    def left(self) -> int:
        """Tasks that were not given out."""
        return len(self._coming) + sum(map(len, self._arrived.values()))

    def refresh(self, now_s: float, conditions: Conditions, backlog_s: float = 0.0) -> None:
        """Choose a cut for each network; one in use is left only for one that is clearly better."""
        del backlog_s
        self._now, factors = conditions, self._corrections.factors()
        if conditions == self._conditions and not differ(factors, self._factors):
            return
        self._factors = factors
        self._now_s, self._conditions = now_s, conditions
        options = {model: self._options_of(model, conditions) for model in self._weights}
        _note(self.options, options)
        fastest = [best_of(options[model], "latency").stages for model in self._weights]
        counts = list(self._weights.values())
        self.objective = "latency" if throughput.is_light(fastest, counts, self._rate_per_s) else "throughput"
        for model, model_options in options.items():
            self._settle(model, model_options)

    def _settle(self, model: str, options: Sequence[Option]) -> None:
        """The codec follows the link at once: to change it costs nothing."""
        best, old = TaskPlan.of(best_of(options, self.objective), self.objective), self._choices.get(model)
        here = [option for option in options if old is not None and option.point == old.point]
        current = best_of(here, self.objective) if here else None
        if old is None or current is None or self._is_worth(current.stages, best):
            if old is not None and old.point != best.point:
                self.moves.append(Move(self._now_s, model, old.point, best.point))
            self._choices[model] = best
        else:
            self._choices[model] = TaskPlan.of(current, self.objective)

    def _is_worth(self, current: Stages, best: TaskPlan) -> bool:
        if best.objective == "latency":
            return should_move(current.total_s, best.stages.total_s, MOVE_MARGIN)
        return should_move(current.longest_s, best.stages.longest_s, MOVE_MARGIN)

    def take(self, now_s: float, line: Line = ALL) -> tuple[Task, TaskPlan] | None:
        """The most urgent task that has arrived."""
        while self._coming and self._coming[0].arrival_s <= now_s:
            task = self._coming.popleft()
            heapq.heappush(self._arrived[task.model], (task.urgency, task.arrival_s, task.id, task))
        heaps = sorted((heap for heap in self._arrived.values() if heap), key=lambda heap: heap[0])
        number = next_of([self._choices[heap[0][-1].model] for heap in heaps], line, 1)
        if number is None:
            return None
        task = heapq.heappop(heaps[number])[-1]
        return task, self._choices[task.model]

    def next_arrival_s(self) -> float | None:
        """When the next one comes."""
        return self._coming[0].arrival_s if self._coming else None
