"""One call of edge_api.py: get ready, decide, measure, check. Returns plain values; runtime.report shows them."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from models import registry
from models.graph import INPUT
from net.link import LinkEstimate, Prober
from net.messages import State
from net.tensors import RAW, Array
from partition import chain
from partition.cost import CloudTimes, Link, Part, Prediction, Problem, parts_of, predict
from partition.decide import Decision, Room, decide
from partition.packing import Allowed
from runtime.answers import is_same_top, matches, max_abs_diff, rank, rank_rows, whole_answer
from runtime.children import CloudAccess
from runtime.edge import Answered, Edge, EdgeConfig, Fallback, GreetedCloud, Measured, read_input
from runtime.joules import EnergyReport, Metered, Stages
from runtime.link_record import LinkRecord
from runtime.outcome import Outcome, Plan, Runs, Sources, Verified
from runtime.packing import check_taken, is_lossless, packing_of, wanted_of
from runtime.power import PowerChoice
from runtime.steady import Address, SteadyEdge
from runtime.times import Found, Times, predictors_path
from utils.deadline import Deadline
from utils.errors import AppError, ConnectError, ProtocolError
from utils.progress import Show
from utils.units import printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What every inference of one call starts from: the network, the cloud that was greeted, and the layers' times."""

    edge: Edge
    address: tuple[str, int] | None
    power: PowerChoice
    found: Found
    whole: Callable[[], list[Array]]
    """What the whole network answers, run here in one piece, once."""


def run(config: EdgeConfig, progress: Show) -> Outcome:
    """Do what the configuration says. Raises AppError for everything that can go wrong for an outside reason."""
    with ExitStack() as stack:
        entered = enter(stack, config, progress)
        prepared = prepared_with(entered, config, progress)
        link, plan = _plan(entered.edge, prepared.found.times.seconds, config, prepared.power, progress)
        entered.record.probed(link)
        return carry_out(prepared, link, plan, config, progress)


@dataclass(frozen=True)
class Entered:
    """An edge with its network built, its cloud greeted where it needs one, and who writes down what its link does."""

    edge: Edge
    address: tuple[str, int] | None
    record: LinkRecord


def enter(stack: ExitStack, config: EdgeConfig, progress: Show) -> Entered:
    """Build the network and greet the cloud where one is needed; `stack` ends both. Raises AppError."""
    entry = registry.given(config.model)
    record = stack.enter_context(LinkRecord(config.record))
    PowerChoice.of(config.power, config.radio)  # refuses what there is not before anything long begins
    example = read_input(config, entry)
    cloud = CloudAccess(stack, (config.host, config.port), config.own_cloud, "cloud_api.py", config.link_shape)
    if config.point is None:
        cloud.start()  # it loads while we do
    progress("loading the network", 0.0)
    edge = Edge.build(config, entry, example)
    stack.callback(edge.close)
    if config.point is not None:
        edge.graph.head_at(config.point)  # raises for a point that there is not
    edge.heard = record.heard
    return Entered(edge, _greet(edge, cloud, config, progress), record)


def prepared_with(entered: Entered, config: EdgeConfig, progress: Show) -> Prepared:
    """Find the times of the layers, measured or predicted."""
    edge = entered.edge
    times = Times(config.times, config.predictors or predictors_path(config.cache_dir, "edge"), config.cache_dir)
    found = times.find(edge.executor, lambda done: progress("measuring the layers", done), tails=False)
    network = edge.network
    whole = cache(lambda: whole_answer(network.loaded.model, network.example.tensor))
    return Prepared(edge, entered.address, PowerChoice.of(config.power, config.radio), found, whole)


def carry_out(prepared: Prepared, link: LinkEstimate | None, plan: Plan, config: EdgeConfig, progress: Show) -> Outcome:
    """Run the network as planned, the warm-up and the repeats, and say what came of it.

    Raises AppError for an answer that is no number, and without a fallback for what a cloud or a link can do.
    """
    edge, found = prepared.edge, prepared.found
    chosen, ends = plan.decision.parts, (0, len(edge.graph.points) - 1)
    is_compared = config.compare and not plan.failure
    both = tuple(parts_of(edge.graph, edge.graph.head_at(end)) for end in ends if is_compared)
    metered = Metered()
    wanted = (chosen, *both)
    runs, reconnects = _run(edge, prepared.address, wanted, plan, found.times.seconds, config, progress)
    metered.stop()
    compared = tuple(runs[end] for end in both)
    learnt = _learn(found, runs)
    used = _energy(prepared.power, link, plan, runs[chosen], metered)
    outcome = _outcome(prepared, link, plan, runs[chosen], compared, learnt, used, verify=config.verify)
    return replace(outcome, reconnects=reconnects)


def _greet(edge: Edge, cloud: CloudAccess, config: EdgeConfig, progress: Show) -> tuple[str, int] | None:
    """Greet the cloud where one is needed; returns its address."""
    last = len(edge.graph.points) - 1
    if config.point == last and not config.compare:
        return None
    progress("waiting for the cloud", 0.0)
    try:
        address = cloud.address()
        edge.greet(*address, config.token, config.ready_s)
    except ConnectError as error:
        raise ConnectError(f"{error}; --point {last} runs all of {edge.graph.name} here and needs no cloud") from None
    return address


def _plan(
    edge: Edge, edge_s: Sequence[float], config: EdgeConfig, power: PowerChoice, progress: Show
) -> tuple[LinkEstimate | None, Plan]:
    """Measure the link and decide; where the cloud is lost over it everything runs here, unless that is not wanted."""
    if edge.cloud is None:
        return None, _alone(edge, edge_s)
    try:
        link = probe(edge.cloud, config, progress)
        state = edge.status(config.timeout_s)
    except AppError as error:
        if not config.fallback:
            raise
        edge.close()
        why = printable(str(error), 200)
        log.warning("everything runs here: the cloud was lost while its link was measured: %s", why)
        return None, replace(_alone(edge, edge_s), failure=why)
    return link, plan_of(edge, problem_of(edge, edge_s, link, state), config, power)


def probe(cloud: GreetedCloud, config: EdgeConfig, progress: Show) -> LinkEstimate:
    """Measure the link, or only its round trip where the rate is given. Raises AppError where the cloud is lost."""
    progress("probing the link", 0.0)
    prober = Prober(cloud.connection, Deadline.after(config.timeout_s, "the probe of the link (--timeout)"))
    return prober.estimate(config.up_bytes_per_s)


def _alone(edge: Edge, edge_s: Sequence[float]) -> Plan:
    """Without a cloud there is nothing to choose."""
    alone = chain.all_edge(edge.graph, edge_s)
    parts = parts_of(edge.graph, edge.graph.everything)
    return Plan(Decision("latency", "given", parts, alone.predicted, (alone,), is_optimal=False), 0.0)


def plan_of(
    edge: Edge, problem: Problem, config: EdgeConfig, power: PowerChoice, head: frozenset[int] | None = None
) -> Plan:
    """Choose what runs where, or take the point, or the head, that was given. Runs nothing."""
    assert edge.cloud is not None  # or there would be no problem
    allowed, watts, limits = _allowed(edge, config), power.at(problem.link), edge.cloud.connection.limits
    started = time.perf_counter()
    if config.point is not None:
        packed = allowed.with_lossy(problem, config.goal.weights(watts))
        decision = _given(packed, edge.graph.head_at(config.point))
    elif head is not None:
        decision = _given(allowed.exact(problem, config.goal.weights(watts)), head)
    else:
        room = Room(limits.payload_bytes, limits.tensors)
        decision = decide(problem, config.goal, watts, room, allowed=allowed)
    decision_s = time.perf_counter() - started
    exact = allowed.exact(problem, config.goal.weights(watts))
    edge.codecs = {INPUT: exact.crossing((INPUT,)).codec, **decision.codecs}
    return Plan(decision, decision_s, exact)


def _allowed(edge: Edge, config: EdgeConfig) -> Allowed:
    """How tensors may travel; measured on this input where that is not known yet."""
    wanted = wanted_of(edge.network, edge.entry.takes, config.codec, config.accuracy_budget, config.cache_dir)
    if edge.ready is not None:
        check_taken(config.codec, edge.ready.codecs)
        wanted = replace(wanted, known=frozenset(edge.ready.codecs))
    packing = packing_of(edge.network, wanted, config.cache_dir)
    return wanted.allowed(edge.graph, packing, edge.executor.share)


def problem_of(edge: Edge, edge_s: Sequence[float], link: LinkEstimate, state: State) -> Problem:
    """What a decision is made from: the times of both sides, the link, and how busy the cloud is.

    `edge_s` are the seconds of every layer here. Raises ValueError where no cloud was greeted.
    """
    if edge.cloud is None:
        raise ValueError("no cloud was greeted")
    ready = edge.cloud.ready
    cloud = CloudTimes(ready.seconds, ready.start_s, state.load, state.queue_s)
    return Problem(edge.graph, edge_s, cloud, Link(link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s))


def _given(problem: Problem, head: frozenset[int]) -> Decision:
    """The cut that the user wants."""
    parts, candidates = parts_of(problem.graph, head), chain.scan(problem)
    return Decision("latency", "given", parts, predict(problem, parts), candidates, is_optimal=False).packed_as(problem)


Parts = tuple[Part, ...]


def _run(
    edge: Edge,
    address: tuple[str, int] | None,
    wanted: Sequence[Parts],
    plan: Plan,
    edge_s: Sequence[float],
    config: EdgeConfig,
    progress: Show,
) -> tuple[dict[Parts, Runs], int]:
    """Run the network in some ways; also returns how many connections were made after the first one."""
    _check_sizes(edge, wanted)
    if not config.fallback or address is None or plan.problem is None:
        runs = _repeat(lambda x, parts: edge.infer_parts(x, parts, config.timeout_s), edge, wanted, config, progress)
        return {parts: _marked(found, plan.failure) for parts, found in runs.items()}, 0
    waiting_s = {parts: predict(plan.problem, parts).waiting_s for parts in wanted}
    waiting_s[plan.decision.parts] = plan.decision.predicted.waiting_s  # what it sends may be packed better
    where = Address(*address, config.token)
    steady = SteadyEdge(edge, where, config.timeout_s, edge_s, waiting_s, plan.problem.link.rtt_s)
    try:
        return _repeat(steady.infer, edge, wanted, config, progress), steady.reconnects
    finally:
        steady.close()


def _check_sizes(edge: Edge, wanted: Sequence[Parts]) -> None:
    """Refuse what the cloud would never take: that is no fault to fall back from."""
    if edge.cloud is None:
        return
    limit = edge.cloud.connection.limits.payload_bytes
    for part in (part for parts in wanted for part in parts if part.place == "cloud"):
        boundary_bytes = edge.graph.bytes_of(edge.graph.inputs_of(part.layers))
        if boundary_bytes > limit:
            raise ProtocolError(f"{boundary_bytes} bytes are to be sent, the limit is {limit}")


def _marked(runs: Runs, failure: str) -> Runs:
    """Inferences that ran here because the cloud was lost before they began."""
    if not failure:
        return runs
    fallback = Fallback(failure, 0.0)
    marked = (replace(answer, completed_by="fallback", fallback=fallback) for answer in runs.answers)
    return replace(runs, answers=tuple(marked))


def _repeat(
    infer: Callable[[Array, Parts], Answered],
    edge: Edge,
    wanted: Sequence[Parts],
    config: EdgeConfig,
    progress: Show,
) -> dict[Parts, Runs]:
    """Run the network in some ways in turns, so that a machine that gets slower gets slower for all of them."""
    x = np.asarray(edge.network.example.tensor)
    rounds = config.warm_up + config.repeat
    answers: dict[Parts, list[Answered]] = {parts: [] for parts in wanted}
    for done in range(rounds):
        for parts, found in answers.items():
            progress("running", done / rounds)
            edge.executor.rest()
            found.append(infer(x, parts))
    return {parts: Runs(parts, tuple(found[config.warm_up :])) for parts, found in answers.items()}


def _learn(found: Found, runs: dict[Parts, Runs]) -> dict[str, float]:
    """Let the predictor see what every head took."""
    if found.teacher is None:
        return {}
    for parts, repeated in runs.items():
        head = frozenset().union(*(part.layers for part in parts if part.place == "edge"))
        for run in repeated.answers if len(head) > 1 and len(parts) <= 2 else ():
            if run.fallback is None:  # else more ran here than the head
                found.teacher.learn(head, run.measured.edge_s)
    found.teacher.keep()
    return dict(found.teacher.corrections.factors)


def _energy(power: PowerChoice, link: LinkEstimate | None, plan: Plan, runs: Runs, metered: Metered) -> EnergyReport:
    predicted, typical = plan.decision.predicted, runs.typical
    is_local = all(part.place == "edge" for part in runs.parts)
    sent = planned = (typical.payload_bytes, typical.received_bytes)
    if link is not None:
        up, down = predicted.upload_s * link.up_bytes_per_s, predicted.download_s * link.down_bytes_per_s
        planned = (round(up), round(down))
    stages = (_stages(predicted, *planned, is_local=is_local), _stages(typical, *sent, is_local=is_local))
    return EnergyReport.of(power, link, *stages, metered)


def _stages(times: Prediction | Measured, sent_bytes: int, received_bytes: int, *, is_local: bool) -> Stages:
    """What the joules of an inference depend on; packing is computing too."""
    busy_s = times.edge_s + times.encode_s
    return Stages(busy_s, 0.0 if is_local else times.total_s - busy_s, sent_bytes, received_bytes)


def _outcome(
    prepared: Prepared,
    link: LinkEstimate | None,
    plan: Plan,
    runs: Runs,
    compared: tuple[Runs, ...],
    corrections: dict[str, float],
    used: EnergyReport,
    *,
    verify: bool,
) -> Outcome:
    edge, times = prepared.edge, prepared.found.times
    loaded = edge.network.loaded
    answer = runs.answers[-1].outputs[0]
    if not np.isfinite(answer).all():
        raise AppError("the answer holds NaN or infinity: look at the weights and the input")
    return Outcome(
        graph=edge.graph,
        weights=loaded.digest,
        origin=loaded.origin,
        is_trained=loaded.trained,
        has_imagenet=edge.entry.imagenet is not None,
        source=edge.network.example.source,
        link=link,
        cloud_device=None if edge.ready is None else edge.ready.device,
        plan=plan,
        runs=runs,
        top=rank(answer, edge.entry.labels),
        rows=rank_rows(answer, edge.entry.labels, edge.network.example.rows),
        shape=tuple(answer.shape),
        verified=verify_against_whole(edge, (runs, *compared), prepared.whole()) if verify else None,
        times=Sources(times.source, times.factor, edge.ready.times if edge.ready else None, prepared.found.why),
        corrections=corrections,
        energy=used,
        compared=compared,
    )


def verify_against_whole(edge: Edge, runs: Sequence[Runs], expected: Sequence[Array]) -> Verified:
    """Compare every answer with what the whole network gives, run in one piece: the top-1 if packing is lossy."""
    answers = [answer.outputs for found in runs for answer in found.answers]
    return Verified(
        all(_same(edge, found.parts)(answer.outputs, expected) for found in runs for answer in found.answers),
        max(max_abs_diff(outputs, expected) for outputs in answers),
    )


def _same(edge: Edge, parts: Parts) -> Callable[[Sequence[Array], Sequence[Array]], bool]:
    """How answers are compared with the whole network's: by their top-1 only where something was rounded on its way."""
    crossing = {n for part in parts if part.place == "cloud" for n in edge.graph.inputs_of(part.layers)}
    return matches if is_lossless(edge.codecs.get(number, RAW) for number in crossing) else is_same_top
