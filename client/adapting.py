"""Keeping the plan of an edge right while it runs: what each inference took corrects what is predicted.

partition.steering decides; here its ways are made from the plan's problem, and answers become what it is told.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgecloud.client.conditions import slowdown
from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import Answered, Edge
from edgecloud.client.outcome import Interval, Plan, PlanMove
from edgecloud.client.planning import Parts, Prepared, plan_of, room_of
from edgecloud.partition import chain
from edgecloud.partition.adaptive import IN_ONE_PIECE, Pick, Ways, first_interval
from edgecloud.partition.chunking import overlapped
from edgecloud.partition.cost import Problem, StageTimes, parts_of
from edgecloud.partition.decide import with_gain
from edgecloud.partition.drift import Stage
from edgecloud.partition.overlap import Overlap
from edgecloud.partition.steering import Measurement, Move, Steering
from edgecloud.partition.ways import Table, corrected, first_belief, point_of, stages_of, table_of
from edgecloud.utils.errors import AppError

log = logging.getLogger(__name__)

MEASURED_SD = 0.2  # of measured layer times, as a logarithm: by what later ones differ where machines drift
PREDICTED_SD = 0.3  # of a cloud's that are predicted, which does not say how well
P90_SDS = 1.645
COLD_SD = 0.3  # more, of what runs for the first time
REPLAN_RATE, REPLAN_FACTOR = 0.25, 0.15  # relative changes of the link, and of a factor, from which cuts are searched
REPLAN_S = 1.0  # and how often at most
DECIDING_SHARE = 0.02  # of the time, for deciding and learning
MOST_REST_S = 0.2  # between two decisions: one that took very long was held up by something else
NEWS = 0.2  # of the logarithm of the slowdown that a cloud tells: from there it is news
STREAM = 1000  # inferences that are left, where nobody says
DEADLINE_SHARE = 0.5  # of the time-out: nothing is tried that may take longer


@dataclass(frozen=True)
class Turn:
    """One inference that begins: how it is to run."""

    parts: Parts
    codecs: Mapping[int, str]
    waiting_s: float
    name: str = field(repr=False)
    table: Table = field(repr=False)
    ways: Ways = field(repr=False)
    overlap: Overlap | None = None
    """How the boundary leaves in chunks."""
    is_try: bool = False
    is_alone: bool = True
    is_cold: bool = False
    is_learnt_from: bool = True


def is_adaptable(plan: Plan, config: EdgeConfig) -> bool:
    """Whether there is anything to choose: a cloud, no forced cut, and the least latency wanted."""
    is_free = plan.decision.method != "given" and not plan.failure
    return is_free and plan.problem is not None and config.goal.objective == "latency" and config.goal.max_cost is None


class Adapter:
    """Says how the next inference is to run, and learns from those that ended. For several threads."""

    def __init__(self, prepared: Prepared, plan: Plan, config: EdgeConfig) -> None:
        if plan.problem is None:
            raise ValueError("a plan without a cloud has nothing to adapt")
        self._prepared, self._config, self.plan = prepared, config, plan
        self._lock = threading.Lock()
        self._problem = replace(plan.problem, packed=None)
        """As it was predicted, with the link of now."""
        self._table = self._table_of(plan)
        self._packed_by = plan
        """Whose problems have the packing of the ways."""
        self._ways = self._table.at(self._problem)
        belief = first_belief(self._table, *_sds(prepared))
        running = self._table.name_of(plan.decision.parts)
        if running is None:
            raise ValueError("the plan is none of the ways")
        self._steering = Steering(belief, running, self._table.ends)
        self._searched_at, self._searched_link = time.monotonic(), self._problem.link.up_bytes_per_s
        self._searched_factors = self._factors()
        self._learnt_at = time.monotonic()
        cloud = prepared.edge.cloud
        self._heard, self._slow = None if cloud is None else cloud.state, self._problem.cloud.load
        """What the cloud said last, and how much slower than when it is idle it was then, or when it ran last."""
        self._usual: Turn | None = None
        """How the running cut runs, while nothing is decided; None: it is decided ..."""
        self._decides_at = 0.0
        """... which is due again at this moment."""
        self._under_way = 0
        self._was_shared = False
        self._seen: set[str] = set()
        self._told = 0

    @property
    def moves(self) -> tuple[PlanMove, ...]:
        """Where the plan went, and why."""
        return self.plan.moves

    # --- one inference

    def begin(self, left: int | None, parts: Parts | None = None) -> Turn | None:
        """How the next inference is to run, of which `left` are left; or `parts`, if they are one of the ways."""
        with self._lock:
            self._under_way += 1
            self._was_shared |= self._under_way > 1
            try:
                return self._next(left, parts)
            except BaseException:  # an interrupt: nothing will end
                self._under_way -= 1
                raise

    def _next(self, left: int | None, parts: Parts | None) -> Turn | None:
        started = time.monotonic()
        if parts is None and self._usual is not None and started < self._decides_at:
            return self._usual
        self._look()
        if parts is not None:
            name = self._table.name_of(parts)
            return None if name is None else self._turn(self._table.names.index(name), is_try=False)
        is_alone = self._under_way == 1
        left = (left or STREAM) if is_alone and self._has_cloud else 1
        pick = self._steering.pick(self._table.names, self._ways, left, self._most_s)
        self._follow()
        turn = self._turn(pick.way, is_try=pick.is_try)
        self._rest(turn, time.monotonic() - started)
        return turn

    def _rest(self, turn: Turn, took_s: float) -> None:
        """Networks that take about as long as a decision are not decided about each time."""
        rest_s = 2 * took_s / DECIDING_SHARE  # what is learnt takes as long again
        self._decides_at = time.monotonic() + min(rest_s, MOST_REST_S)
        is_usual = not turn.is_try and turn.name == self._steering.running
        self._usual = replace(turn, is_learnt_from=False) if is_usual else None

    @property
    def _has_cloud(self) -> bool:
        """Whether there is somebody to try something with."""
        cloud = self._prepared.edge.cloud
        return cloud is not None and not cloud.is_left_alone

    @property
    def _is_all_here(self) -> bool:
        """Whether the running cut asks nothing of the cloud, whose answers would say how busy it is."""
        return all(part.place == "edge" for part in self.plan.decision.parts)

    @property
    def _most_s(self) -> float:
        return DEADLINE_SHARE * self._config.cloud.timeout_s

    def _turn(self, way: int, *, is_try: bool) -> Turn:
        table = self._table
        parts = table.parts[way]
        codecs = {**self.plan.codecs, **table.codecs[way]}
        totals = self._steering.believed.totals(self._ways)
        waiting_s = float(totals.stages[way, 1:].sum() + self._ways.waiting_s[way])  # as if nothing overlapped
        name = table.names[way]
        is_cold, is_alone = name not in self._seen, not self._was_shared
        self._seen.add(name)
        sent = table.overlaps[way]
        return Turn(parts, codecs, waiting_s, name, table, self._ways, sent, is_try, is_alone, is_cold)

    def end(self, turn: Turn | None, answered: Answered | None) -> None:
        """The inference has ended; None: it failed, and nothing is learnt of it."""
        with self._lock:
            is_alone = not self._was_shared
            self._under_way -= 1
            if not self._under_way:
                self._was_shared = False
            if answered is None or answered.fallback is not None:
                self._usual = None
            elif turn is not None and turn.is_learnt_from:
                self._learn(turn, answered, is_whole=is_alone and turn.is_alone and not turn.is_cold)

    def _learn(self, turn: Turn, answered: Answered, *, is_whole: bool) -> None:
        """What an inference took that ran as it was told."""
        now = time.monotonic()
        elapsed_s, self._learnt_at = now - self._learnt_at, now
        names = turn.table.names
        if self._steering.running in names:  # else other ways were found meanwhile
            measured = measurement_of(turn, answered.measured, elapsed_s, is_whole=is_whole)
            self._steering.record(names, turn.ways, Pick(names.index(turn.name), turn.is_try), measured)
            cloud = self._prepared.edge.cloud
            if answered.requests and cloud is not None:
                self._slow = cloud.conditions().load
            self._follow()

    # --- other conditions, another plan

    def _look(self) -> None:
        """Take note of what the link and the cloud are like now, and search for cuts where much has changed."""
        cloud = self._prepared.edge.cloud
        if cloud is not None and cloud.is_left_alone:
            cloud.look()  # a plan for the edge alone would never ask for it
        elif cloud is not None and self._is_all_here:
            cloud.ask_meanwhile()
        conditions = None if cloud is None else cloud.conditions()
        if conditions is not None and conditions.link is not None:
            link = conditions.link
            rates = replace(
                self._problem.link,
                up_bytes_per_s=link.up_bytes_per_s,
                down_bytes_per_s=link.down_bytes_per_s,
                rtt_s=link.rtt_s,
            )
            busy = replace(self._problem.cloud, queue_s=conditions.queue_s)
            self._problem = replace(self._problem, link=rates, cloud=busy)
        self._hear()
        self._ways = self._table.at(self._problem)
        if self._is_search_due():
            self._search()

    def _hear(self) -> None:
        """What a cloud says of itself that is not used.

        How fast both sides are is told by what runs on them. The load and the speed that a side knows of itself are
        not: they come from the same runs, so what a profile is wrong by would count twice, and no more once it rests.
        """
        cloud = self._prepared.edge.cloud
        state = None if cloud is None else cloud.state
        if state is None or state is self._heard:
            return
        self._heard, before, self._slow = state, self._slow, slowdown(state)
        if abs(math.log(self._slow / before)) > NEWS:
            self._steering.tell_cloud(self._slow / before)

    def _is_search_due(self) -> bool:
        if time.monotonic() - self._searched_at < REPLAN_S:
            return False
        rate, before = self._problem.link.up_bytes_per_s, self._searched_link
        is_other_link = abs(rate - before) > REPLAN_RATE * min(rate, before)
        factors = zip(self._factors(), self._searched_factors, strict=True)
        return is_other_link or any(abs(math.log(now / then)) > REPLAN_FACTOR for now, then in factors)

    def _factors(self) -> list[float]:
        return [float(factor) for side in self._steering.believed.sides for factor in side.factors]

    def _search(self) -> None:
        """Search all cuts, with their packing for this link, as the problem is believed to be now."""
        self._searched_at, self._searched_link = time.monotonic(), self._problem.link.up_bytes_per_s
        self._searched_factors = self._factors()
        problem = corrected(self._problem, self._table, self._steering.believed)
        try:
            plan = plan_of(self._prepared.edge, problem, self._config, self._prepared.power)
        except AppError as error:
            log.info("no other plan: %s", error)
            return
        running = self._table.parts[self._table.names.index(self._steering.running)]
        table = self._table_of(plan, running)
        plain = self._steering.running.removesuffix(IN_ONE_PIECE)
        if self._steering.running not in table.names and plain in table.names:
            self._steering.rename(plain)  # no chunks are predicted to gain anything any more
        if self._steering.running not in table.names:
            return  # another cloud, perhaps, that does not take what is sent: client.resilient sees to that
        self._table, self._usual, self._packed_by = table, None, plan
        self._ways = self._table.at(self._problem)
        self._seen &= set(self._table.names)

    def _table_of(self, plan: Plan, *others: Parts) -> Table:
        """The ways of a plan's problem, with the seconds that were predicted."""
        assert plan.problem is not None  # it was planned with a cloud
        exact = replace(self._problem, packed=plan.problem.packed)
        points = replace(self._problem, packed=(plan.points_problem or plan.problem).packed)
        heads = [_head(parts) for parts in (plan.decision.parts, *others)]
        return table_of(exact, points, heads, _fits(self._prepared.edge, points))

    def _follow(self) -> None:
        """Make the plan what the steering has come to, and say so."""
        moves = self._steering.moves
        if len(moves) == self._told:
            if self.plan.tries != self._steering.tries:
                self.plan = replace(self.plan, tries=self._steering.tries)
            return
        table, edge = self._table, self._prepared.edge
        self._usual = None
        told = tuple(_told(edge, move) for move in moves[self._told :])
        self._told = len(moves)
        for move, plain in zip(moves[-len(told) :], told, strict=True):
            level = logging.WARNING if move.why == "guard" else logging.INFO
            log.log(level, "%s", plain)
        if self._steering.running not in table.names:
            return
        way = table.names.index(self._steering.running)
        problem = corrected(self._problem, table, self._steering.believed)
        exact, points = self._packed_by.problem, self._packed_by.points_problem
        is_point, is_whole = point_of(table.names[way]) is not None, table.overlaps[way] is None
        packed_by = points if points is not None and is_point else exact
        packed = replace(problem, packed=None if packed_by is None else packed_by.packed)
        if is_whole:
            packed = replace(packed, chunking=None)
        sent = overlapped(packed, table.parts[way])
        decision = replace(
            self.plan.decision,
            parts=table.parts[way],
            predicted=sent.predicted,
            overlap=sent.overlap,
            candidates=chain.scan(packed),
            codecs=table.codecs[way],
            is_optimal=False,
        )
        problems = [replace(problem, packed=each.packed) for each in (exact, points) if each is not None]
        decision = with_gain(decision, [(each, chain.scan(each)) for each in problems], self._config.goal)
        codecs = {**self.plan.codecs, **table.codecs[way]}
        self.plan = replace(
            self.plan,
            decision=decision,
            codecs=codecs,
            interval=self._interval(),
            moves=(*self.plan.moves, *told),
            tries=self._steering.tries,
        )

    def forecast(self) -> tuple[chain.Candidate, ...]:
        """All points as they are believed to be now."""
        with self._lock:
            problem, packed_by = corrected(self._problem, self._table, self._steering.believed), self._packed_by
        packed = packed_by.points_problem or packed_by.problem
        return chain.scan(replace(problem, packed=None if packed is None else packed.packed))

    def _interval(self) -> Interval:
        low_s, _, high_s = self._steering.interval(self._table.names, self._ways, self._steering.running)
        return Interval(low_s, high_s)


def interval_of(prepared: Prepared, plan: Plan) -> Interval:
    """Where 80 % of the totals of a plan are expected, before anything was run."""
    edge_sd, cloud_sd = _sds(prepared)
    return Interval(*first_interval(plan.decision.predicted, edge_sd, cloud_sd))


def _sds(prepared: Prepared) -> tuple[float, float]:
    """By how much, as logarithms, the seconds of the edge and of the cloud may be wrong.

    The P90 error of the edge's is known as a factor; it is 1 where they were measured.
    """
    ready, factor = prepared.edge.ready, prepared.timing.times.factor
    edge_sd = max(MEASURED_SD, math.log(factor) / P90_SDS)
    return edge_sd, PREDICTED_SD if ready is not None and ready.times == "predicted" else MEASURED_SD


def _head(parts: Parts) -> frozenset[int]:
    return frozenset().union(*(part.layers for part in parts if part.place == "edge"))


def _fits(edge: Edge, problem: Problem) -> list[bool]:
    """Of every point whether one frame of this cloud can carry it."""
    if edge.cloud is None:
        return []
    graph, room = edge.graph, room_of(edge.cloud)
    heads = [graph.head_at(point.number) for point in graph.points]
    return [all(room.fits(graph, part) for part in parts_of(graph, head)) for head in heads]


def measurement_of(turn: Turn, times: StageTimes, elapsed_s: float, *, is_whole: bool) -> Measurement:
    """What an inference shows: of one that waited for others only what was computed."""
    way, extra = turn.table.names.index(turn.name), COLD_SD if turn.is_cold else 0.0
    edge = stages_of(turn.ways.edge[way], times.edge_s, times.encode_s, extra)
    cloud = stages_of(turn.ways.cloud[way], times.cloud_s, times.decode_s, extra)
    link = (Stage(turn.ways.link[way], times.transfer_s, extra),) if turn.is_alone and turn.ways.link[way].any() else ()
    return Measurement(edge, link, cloud, times.total_s, elapsed_s, is_whole)


def _told(edge: Edge, move: Move) -> PlanMove:
    """A move by the points of the cuts; a cut that several tensors cross has none."""
    last = len(edge.graph.points) - 1
    is_same = move.before.removesuffix(IN_ONE_PIECE) == move.after.removesuffix(IN_ONE_PIECE)
    is_whole = is_same and move.after.endswith(IN_ONE_PIECE)
    before, after = point_of(move.before), point_of(move.after)
    return PlanMove(move.at, before, after, last, move.why, move.ratio, is_whole if is_same else None)
