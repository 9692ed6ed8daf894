"""What one network is to do with its cloud: the plan, made from times, link and load. Nothing is run for it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from edgecloud.client.conditions import slowdown
from edgecloud.client.config import EdgeConfig
from edgecloud.client.connection_manager import ConnectionManager
from edgecloud.client.edge import Edge
from edgecloud.client.outcome import Plan
from edgecloud.client.power import PowerChoice
from edgecloud.engine import calibration
from edgecloud.engine.executor import ONNXRUNTIME, TORCH
from edgecloud.engine.overlapping import NO_ROWS, chunking_of
from edgecloud.engine.packing import AUTO, CodecPolicy, check_taken, codec_policy_of, packing_of
from edgecloud.engine.times import FoundTimes
from edgecloud.models.graph import Point
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import State
from edgecloud.net.tensors import Array
from edgecloud.partition import chain
from edgecloud.partition.chunking import overlapped
from edgecloud.partition.cost import Chunking, CloudTimes, Link, Part, Problem, StageWeights, parts_of
from edgecloud.partition.decide import Decision, FrameLimits, decide, load_solvers, with_gain
from edgecloud.partition.decision_map import FASTEST, SLOWEST, follow
from edgecloud.partition.gain import BUDGETS, PAYS, Prospects, Setting, prospects
from edgecloud.partition.packing import Allowed
from edgecloud.utils.errors import AppError, ProtocolError
from edgecloud.utils.inference_utils import CPU
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Prepared:
    """What every inference of one call starts from: the network, the cloud, and the times of the layers."""

    edge: Edge
    power: PowerChoice
    timing: FoundTimes
    whole: Callable[[], list[Array]]
    """What the full model answers, run locally, once."""


def gone_on(error: AppError) -> str:
    """Say that the edge goes on alone; returns why."""
    why = printable(str(error), 200)
    log.warning("running everything on the edge: %s", why)
    return why


def plan_with_cloud(edge: Edge, link: LinkEstimate, state: State, prepared: Prepared, config: EdgeConfig) -> Plan:
    """What to do with a cloud that is there."""
    edge_s = prepared.timing.look().seconds
    plan = plan_of(edge, problem_of(edge, edge_s, link, state), config, prepared.power)
    return fitting(edge, plan, edge_s, config)


def fitting(edge: Edge, plan: Plan, edge_s: Sequence[float], config: EdgeConfig) -> Plan:
    """The plan, or all on the edge where this cloud never takes what it sends. Raises ProtocolError without a
    fallback."""
    try:
        check_sizes(edge, plan.decision.parts)
    except ProtocolError as error:
        if config.cloud.fallback == "off":
            raise
        return replace(alone(edge, edge_s), failure=gone_on(error))
    return plan


def alone(edge: Edge, edge_s: Sequence[float]) -> Plan:
    """Without a cloud there is nothing to choose."""
    alone = chain.all_edge(edge.graph, edge_s)
    parts = parts_of(edge.graph, edge.graph.everything)
    return Plan(Decision("latency", "given", parts, alone.predicted, (alone,), is_optimal=False), 0.0)


def plan_of(
    edge: Edge, problem: Problem, config: EdgeConfig, power: PowerChoice, head: frozenset[int] | None = None
) -> Plan:
    """Choose what runs where, or take the point, or the head, that was given. Runs nothing."""
    assert edge.cloud is not None  # or there would be no problem
    allowed, watts = allowed_of(edge, config), power.at(problem.link)
    if config.point is None and head is None:
        load_solvers(edge.graph, config.goal)
    started, weights = time.perf_counter(), config.goal.weights(watts)
    problem = replace(problem, chunking=chunking_for(edge, config))
    exact = allowed.exact(problem, weights)
    points = allowed.with_lossy(problem, weights) if allowed.lossy else None
    room = room_of(edge.cloud)
    if config.point is not None:
        decision = _fixed_decision(points or exact, edge.graph.head_at(config.point))
    elif head is not None:
        decision = _fixed_decision(exact, head)
    else:
        decision = decide(problem, config.goal, watts, room, allowed=allowed)
    decision_s = time.perf_counter() - started
    if decision.gain is None:
        packings = [(each, chain.scan(each, weights)) for each in (exact, points) if each is not None]
        decision = with_gain(decision, packings, config.goal, watts, room)
    of_inputs = {number: (points or exact).crossing((number,)).codec for number in edge.graph.inputs}
    return Plan(
        decision, decision_s, exact, codecs={**of_inputs, **decision.codecs}, points_problem=points, allowed=allowed
    )


def chunking_for(edge: Edge, config: EdgeConfig) -> Chunking | None:
    """What it costs to let stages overlap; None where they are not to, or where this cloud takes no chunks. The
    bottleneck stage, of inferences that follow each other, has nothing to gain."""
    if config.overlap == "off" or edge.ready is None or config.goal.objective == "throughput":
        return None
    head_rows, tail_rows = edge.row_shares
    runs_rows = edge.ready.device.startswith(CPU) and edge.ready.backend in ("", TORCH, ONNXRUNTIME)
    shares = edge.executor.share, edge.ready.share
    return chunking_of(edge.ready.chunks, *shares, head_rows, tail_rows if runs_rows else NO_ROWS)


def room_of(cloud: ConnectionManager) -> FrameLimits:
    """What one frame to this cloud can carry."""
    limits = cloud.limits
    return FrameLimits(limits.payload_bytes, limits.tensors)


def allowed_of(edge: Edge, config: EdgeConfig) -> Allowed:
    """How tensors may travel; measured on this input where that is not known yet."""
    codec, folder = config.codec, config.device.cache_dir
    policy = codec_policy_of(edge.network, edge.entry.takes, codec.name, codec.accuracy_budget, folder, codec.files)
    if edge.ready is not None:
        check_taken(codec.name, edge.ready.codecs)
        policy = policy.at(edge.ready.codecs)
    edge.sided = policy.sided_by_number(edge.graph)
    packing = packing_of(edge.network, policy, folder)
    return policy.allowed(edge.graph, packing, edge.executor.share)


def lossless_decision(edge: Edge, plan: Plan, config: EdgeConfig) -> Decision | None:
    """What would be decided without lossy codecs; None where this plan could not have any either."""
    problem, allowed = plan.problem, plan.allowed
    if edge.cloud is None or problem is None or allowed is None or not allowed.lossy or plan.decision.method == "given":
        return None
    watts = PowerChoice.of(config.power, config.radio).at(problem.link)
    return decide(problem, config.goal, watts, room_of(edge.cloud), allowed=Allowed(allowed.lossless, {}))


def prospects_of(edge: Edge, plan: Plan, config: EdgeConfig, power: PowerChoice) -> Prospects | None:
    """Where a cut would pay, as the plan's own numbers say; None where it was not chosen by a sum of stages."""
    decision, problem, allowed = plan.decision, plan.problem, plan.allowed
    is_given = decision.method == "given" or config.goal.max_cost is not None
    if edge.cloud is None or problem is None or allowed is None or decision.is_of_stage or is_given:
        return None
    room, goal = room_of(edge.cloud), config.goal

    def weights_at(link: Link) -> StageWeights:
        return goal.weights(power.at(link))

    def fits(point: Point) -> bool:
        return all(room.fits(edge.graph, part) for part in parts_of(edge.graph, edge.graph.head_at(point.number)))

    ways = allowed if goal.takes_lossy else Allowed(allowed.lossless, {})
    setting = Setting(problem, ways, weights_at, follow(problem.link), fits)
    is_paid = decision.gain is not None and decision.gain.over >= PAYS
    return prospects(setting, (SLOWEST, FASTEST), () if is_paid else _wider(edge, config))


def _wider(edge: Edge, config: EdgeConfig) -> Iterator[tuple[float, Allowed]]:
    """What larger accuracy budgets allow, as far as a calibration says; nothing without one, or for a given codec."""
    if config.codec.name != AUTO or edge.ready is None:
        return
    folder = config.device.cache_dir
    kept = calibration.find(folder, edge.network)
    for budget in BUDGETS if kept is not None else ():
        if budget > config.codec.accuracy_budget:
            policy = replace(CodecPolicy.of(AUTO, kept, budget), known=frozenset(edge.ready.codecs))
            yield budget, policy.allowed(edge.graph, packing_of(edge.network, policy, folder), edge.executor.share)


def problem_of(edge: Edge, edge_s: Sequence[float], link: LinkEstimate, state: State) -> Problem:
    """What a decision is made from: the times of both sides, the link, and how busy the cloud is.

    `edge_s` are the seconds of every layer here at its present speed. Raises ValueError where no cloud was connected.
    """
    ready = edge.ready
    if ready is None:
        raise ValueError("no cloud was connected")
    cloud = CloudTimes(ready.seconds, ready.start_s, slowdown(state), state.queue_s)
    return Problem(edge.graph, edge_s, cloud, Link(link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s))


def _fixed_decision(problem: Problem, head: frozenset[int]) -> Decision:
    """The cut that the user wants."""
    parts, candidates = parts_of(problem.graph, head), chain.scan(problem)
    sent, about = overlapped(problem, parts), ("latency", "given", parts)
    decision = Decision(*about, sent.predicted, candidates, is_optimal=False, overlap=sent.overlap)
    return decision.packed_as(problem)


def check_sizes(edge: Edge, parts: Parts) -> None:
    """Refuse what the cloud would never take. Raises ProtocolError."""
    if edge.cloud is None:
        return
    limit = edge.cloud.limits.payload_bytes
    for part in (part for part in parts if part.place == "cloud"):
        boundary_bytes = edge.graph.bytes_of(edge.graph.inputs_of(part.layers))
        if boundary_bytes > limit:
            raise ProtocolError(f"cannot send {boundary_bytes} bytes, the limit is {limit}")
