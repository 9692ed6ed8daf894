"""Carrying out a plan, inference after inference, with the cloud that there is, or with one that comes later."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgecloud.client.adapting import Adapter, Turn, interval_of, is_adaptable
from edgecloud.client.config import EdgeConfig
from edgecloud.client.connection_manager import ConnectionManager
from edgecloud.client.edge import Answered, Fallback
from edgecloud.client.late import LateEdge
from edgecloud.client.outcome import Plan, Way
from edgecloud.client.planning import Parts, Prepared, check_sizes, plan_with_cloud
from edgecloud.client.resilient import ResilientClient
from edgecloud.models.network import Fed
from edgecloud.net.link import LinkEstimate
from edgecloud.partition.chain import Candidate
from edgecloud.partition.cost import parts_of, predict
from edgecloud.partition.overlap import Overlap
from edgecloud.utils.errors import ProtocolError, UsageError

Watcher = Callable[[float, Answered, Plan], None]
"""Is told of every inference: when it began, by time.perf_counter, what came of it, and the plan that it was for."""


class Runner:
    """Runs the network as planned. Several threads may call `infer`; they take turns in computing.

    `ways` are further ones in which it may be asked to run the network. Where `is_late` the cloud was not there when
    the plan was made: it is looked for, and once it comes there is another plan.
    """

    def __init__(
        self,
        prepared: Prepared,
        plan: Plan,
        link: LinkEstimate | None,
        config: EdgeConfig,
        ways: Sequence[Way] = (),
        *,
        is_late: bool = False,
        is_adaptive: bool = True,
    ) -> None:
        self._plan, self.link = replace(plan, interval=interval_of(prepared, plan)), link
        self.ways = tuple(ways)
        self._prepared, self._config, self._late = prepared, config, None
        self._adapter: Adapter | None = None
        self.watcher: Watcher | None = None
        self.pinned: Way | None = None
        """How inferences run that are to run as planned, where somebody has said so while it runs: see `pin`."""
        self._is_adaptive = is_adaptive
        self._cloud, self._resilient = prepared.edge.cloud, None
        self._reconnects_before = 0
        if self._cloud is not None and is_late:
            self._late = LateEdge(prepared.edge, self._cloud, self._begin)
        elif self._cloud is not None and config.cloud.fallback != "off" and plan.problem is not None:
            self._resilient = self._resilient_of(self._cloud, plan, (plan.decision.parts, *(w.parts for w in ways)))
        self._adapt(self._plan)
        self._count_from_now()

    @property
    def plan(self) -> Plan:
        """What is carried out now; another one once a cloud has come, or once another cut has proved better."""
        return self._plan if self._adapter is None else self._adapter.plan

    @property
    def reconnects(self) -> int:
        """Connections after the one that it began with."""
        if self._cloud is None or self.plan.problem is None or self._config.cloud.fallback == "off":
            return 0
        return self._cloud.reconnects - self._reconnects_before

    def infer(self, x: Fed, way: Way | None = None, left: int | None = None) -> Answered:
        """Run the network on `x`, shape (1, ...), as planned or in one of the ways that were wanted.

        `left` inferences are left, this one included, where that is known: another cut is tried only where it pays.
        Raises AppError for what a cloud or a link can do, where there is no fallback.
        """
        if self.watcher is None:
            return self._carry_out(x, way or self.pinned, left)
        began = time.perf_counter()
        answered = self._carry_out(x, way or self.pinned, left)
        self.watcher(began, answered, self.plan)
        return answered

    def pin(self, point: int | None) -> None:
        """Cut at a point from now on, whatever is predicted; None: as planned again. From any thread.

        Raises UsageError for a point that there is not, or that needs a cloud where none has come, and ProtocolError
        for one whose tensor this cloud does not take.
        """
        if point is None:
            self.pinned = None
            return
        edge, plan = self._prepared.edge, self.plan
        parts, problem = parts_of(edge.graph, edge.graph.head_at(point)), plan.points_problem or plan.problem
        if len(parts) > 1 and problem is None:
            raise UsageError("no cloud is connected: only the last point runs without one")
        check_sizes(edge, parts)
        bare = replace(plan.decision, parts=parts, codecs={})
        codecs = bare.codecs if problem is None else bare.packed_as(problem).codecs
        sent = next((each.overlap for each in self.forecast() if each.point.number == point), None)
        self.pinned = Way.of(edge.graph, parts, codecs, sent)

    def forecast(self) -> tuple[Candidate, ...]:
        """All points as they are predicted to be now, with what was learnt; as planned where nothing is learnt."""
        return self._plan.decision.candidates if self._adapter is None else self._adapter.forecast()

    def _carry_out(self, x: Fed, way: Way | None, left: int | None) -> Answered:
        adapter, parts = self._adapter, None if way is None else way.parts
        if adapter is None:
            parts = parts or self._plan.decision.parts
            codecs = self._plan.codecs if way is None else {**self._plan.codecs, **dict(way.codecs)}
            sent = self._plan.decision.overlap if way is None else way.overlap
            return replace(self._infer(x, parts, None, codecs, sent), parts=parts, codecs=codecs)
        turn, answered = adapter.begin(left, parts), None
        sent = None if way is None else way.overlap
        try:
            answered = self._infer(
                x, turn.parts if turn is not None else parts or self.plan.decision.parts, turn, overlap=sent
            )
        finally:
            adapter.end(turn, answered)
        used = adapter.plan.codecs if turn is None else turn.codecs
        return replace(answered, parts=parts or self.plan.decision.parts if turn is None else turn.parts, codecs=used)

    def _infer(
        self,
        x: Fed,
        parts: Parts,
        turn: Turn | None,
        codecs: Mapping[int, str] | None = None,
        overlap: Overlap | None = None,
    ) -> Answered:
        if self._late is not None and self._resilient is None:
            return self._late.infer(x, parts)
        codecs, overlap = (codecs, overlap) if turn is None else (turn.codecs, turn.overlap)
        if self._resilient is not None:
            return self._resilient.infer(x, parts, codecs, None if turn is None else turn.waiting_s, overlap)
        plan = self._plan
        answered = self._prepared.edge.infer_parts(
            x, parts, self._config.cloud.timeout_s, plan.codecs if codecs is None else codecs, overlap
        )
        if not plan.failure:
            return answered
        return replace(answered, completed_by="fallback", fallback=Fallback(plan.failure, 0.0))

    def _adapt(self, plan: Plan) -> None:
        """From now on what is measured corrects the plan, where there is anything to choose."""
        if self._is_adaptive and is_adaptable(plan, self._config):
            self._adapter = Adapter(self._prepared, plan, self._config)

    def _begin(self) -> tuple[Parts, ResilientClient]:
        """A plan for the cloud that has come. Raises AppError where that is of no use."""
        assert self._cloud is not None  # it has come
        link, state = self._cloud.link_and_state
        plan = plan_with_cloud(self._prepared.edge, link, state, self._prepared, self._config)
        if plan.failure:
            raise ProtocolError(plan.failure)
        parts = plan.decision.parts
        resilient = self._resilient_of(self._cloud, plan, [parts])
        plan = replace(plan, interval=interval_of(self._prepared, plan))
        self._plan, self.link, self._resilient = plan, link, resilient
        self._adapt(plan)
        self._count_from_now()
        return parts, resilient

    def _count_from_now(self) -> None:
        self._reconnects_before = 0 if self._cloud is None else self._cloud.reconnects

    def _resilient_of(self, cloud: ConnectionManager, plan: Plan, ways: Sequence[Parts]) -> ResilientClient:
        assert plan.problem is not None  # there is a cloud
        waiting_s = {parts: predict(plan.problem, parts).waiting_s for parts in ways}
        predicted = plan.decision.predicted  # what it sends may be packed better
        waiting_s[plan.decision.parts] = predicted.waiting_s + predicted.hidden_s  # as if nothing overlapped
        edge_s = self._prepared.timing.current.seconds
        timeout_s = self._config.cloud.timeout_s
        return ResilientClient(self._prepared.edge, cloud, timeout_s, edge_s, waiting_s, plan.codecs)
