"""One call of edge_api.py: prepare, decide, measure, verify. Returns plain values; cli.report shows them."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from edgecloud.client.edge import Answered, Edge, EdgeConfig, Fallback, GreetedCloud, Measured, read_input, state_of
from edgecloud.client.energy_report import EnergyInputs, EnergyReport, Metered
from edgecloud.client.fallback import first_wait_s, is_covered
from edgecloud.client.late import LateEdge
from edgecloud.client.link_record import LinkRecord
from edgecloud.client.outcome import Outcome, Plan, Runs, Sources, Verified
from edgecloud.client.power import PowerChoice
from edgecloud.client.reconnector import blaming
from edgecloud.client.resilient import Address, Lookout, Met, Reconnector, ResilientClient
from edgecloud.client.subprocesses import CloudAccess
from edgecloud.engine.answers import (
    NETWORK_NOT_FINITE,
    NOT_FINITE,
    is_finite,
    is_same_top,
    matches,
    max_abs_diff,
    rank,
    rank_rows,
    whole_answer,
)
from edgecloud.engine.packing import check_taken, is_lossless, packing_of, wanted_of
from edgecloud.engine.times import Found, Times, predictors_path
from edgecloud.models import registry
from edgecloud.models.graph import INPUT
from edgecloud.net.link import LinkEstimate, Prober
from edgecloud.net.messages import State
from edgecloud.net.tensors import RAW, Array
from edgecloud.partition import chain
from edgecloud.partition.cost import CloudTimes, Link, Part, Prediction, Problem, parts_of, predict
from edgecloud.partition.decide import Decision, FrameLimits, decide
from edgecloud.partition.packing import Allowed
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, ProtocolError
from edgecloud.utils.progress import Show
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Prepared:
    """What every inference of one call starts from: the network, the cloud that was greeted, and the layers' times."""

    edge: Edge
    address: tuple[str, int] | None
    power: PowerChoice
    found: Found
    whole: Callable[[], list[Array]]
    """What the whole network answers, run here in one piece, once."""
    record: LinkRecord


def run(config: EdgeConfig, progress: Show) -> Outcome:
    """Do what the configuration says. Raises AppError for everything that can go wrong for an outside reason."""
    with ExitStack() as stack:
        entered = enter(stack, config, progress, is_awaited=config.fallback != "always")
        prepared = prepared_with(entered, config, progress)
        link, plan, lookout = _plan(entered, prepared, config, progress)
        entered.record.probed(link)
        return carry_out(prepared, link, plan, config, progress, lookout)


@dataclass(frozen=True)
class Entered:
    """An edge with its network built, its cloud greeted where it needs one, and who writes down what its link does."""

    edge: Edge
    address: tuple[str, int] | None
    record: LinkRecord
    failure: str = ""
    """Why there is no cloud, where one was wanted and the edge goes on alone."""
    greeter: Reconnector | None = None
    """Where the cloud is not waited for: who greets it."""


def enter(
    stack: ExitStack, config: EdgeConfig, progress: Show, *, is_awaited: bool = True, ready_s: float | None = None
) -> Entered:
    """Build the network and greet the cloud where one is needed; `stack` ends both.

    The cloud may take `ready_s` seconds, else as long as `greeting_s` says; where it is not awaited the greeting only
    begins. Raises AppError.
    """
    entry = registry.resolve_trusted(config.model)
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
    last = len(edge.graph.points) - 1
    if config.point == last and not config.compare:
        return Entered(edge, None, record)
    progress("waiting for the cloud", 0.0)
    try:
        address = cloud.address(is_checked=config.fallback != "always")
    except AppError as error:
        if config.fallback != "always":
            raise _hinted(error, edge) from None
        return Entered(edge, None, record, _gone_on(error))
    if not is_awaited:
        greeter = greeter_of(edge, address, config)
        stack.callback(greeter.close)
        greeter.start()
        return Entered(edge, address, record, "", greeter)
    return Entered(edge, address, record, _greet(edge, address, config, ready_s or greeting_s(config)))


def greeting_s(config: EdgeConfig) -> float:
    """How long the first greeting may take: with a fallback no inference waits longer than `timeout_s` for a cloud, or
    only for one of our own, which was started for it."""
    is_waited_for = config.fallback == "off" or config.own_cloud is not None
    return config.ready_s if is_waited_for else min(config.ready_s, config.timeout_s)


def greeter_of(edge: Edge, address: tuple[str, int], config: EdgeConfig) -> Reconnector:
    """Greets the cloud and measures the link, in a thread of its own."""

    def survey(cloud: GreetedCloud) -> Met:
        return Met(cloud, probe(cloud, config, lambda *_: None), state_of(cloud, config.timeout_s))

    return Reconnector(edge, Address(*address, config.token), config.ready_s, survey)


def _greet(edge: Edge, address: tuple[str, int], config: EdgeConfig, ready_s: float) -> str:
    """Greet the cloud; returns why the edge goes on alone, or nothing. Raises AppError where it does not."""
    try:
        edge.greet(*address, config.token, ready_s)
    except AppError as error:
        if not is_covered(error, config.fallback):
            raise _hinted(error, edge) from None
        return _gone_on(blaming(error, "--timeout") if ready_s < config.ready_s else error)
    return ""


def _hinted(error: AppError, edge: Edge) -> AppError:
    """With what needs no cloud, where there is none."""
    if not isinstance(error, ConnectError):
        return error
    last = len(edge.graph.points) - 1
    return ConnectError(f"{error}; --point {last} runs all of {edge.graph.name} on the edge without a cloud")


def _gone_on(error: AppError) -> str:
    """Say that the edge goes on alone; returns why."""
    why = printable(str(error), 200)
    log.warning("running everything on the edge: %s", why)
    return why


def prepared_with(entered: Entered, config: EdgeConfig, progress: Show) -> Prepared:
    """Find the times of the layers, measured or predicted."""
    edge = entered.edge
    times = Times(config.times, config.predictors or predictors_path(config.cache_dir, "edge"), config.cache_dir)
    found = times.find(edge.executor, lambda done: progress("measuring the layers", done), tails=False)
    network = edge.network
    whole = cache(lambda: whole_answer(network.loaded.model, network.example.tensor))
    return Prepared(edge, entered.address, PowerChoice.of(config.power, config.radio), found, whole, entered.record)


def carry_out(
    prepared: Prepared,
    link: LinkEstimate | None,
    plan: Plan,
    config: EdgeConfig,
    progress: Show,
    lookout: Lookout | None = None,
) -> Outcome:
    """Run the network as planned, the warm-up and the repeats, and say what came of it.

    `lookout` is for a cloud that was not there when it was planned. Raises AppError for an answer that is no number,
    and without a fallback for what a cloud or a link can do.
    """
    edge, found = prepared.edge, prepared.found
    both = _ends(edge, plan, config)
    metered = Metered()
    if lookout is None:
        ran = _run(prepared, plan, link, (plan.decision.parts, *both), config, progress)
    else:
        ran = _run_late(prepared, plan, lookout, config, progress)
    metered.stop()
    chosen = ran.runs[ran.plan.decision.parts]
    compared = tuple(ran.runs[end] for end in both)
    learnt = _learn(found, ran.runs)
    used = _energy(prepared.power, ran.link, ran.plan, chosen, metered)
    outcome = _outcome(prepared, ran.link, ran.plan, chosen, compared, learnt, used, verify=config.verify)
    return replace(outcome, reconnects=ran.reconnects)


def _plan(
    entered: Entered, prepared: Prepared, config: EdgeConfig, progress: Show
) -> tuple[LinkEstimate | None, Plan, Lookout | None]:
    """Measure the link and decide. Where there is no cloud, or it is lost over it, everything runs here, unless that is
    not wanted: then somebody looks out for the cloud, where it has an address."""
    edge, edge_s = entered.edge, prepared.found.times.seconds
    if entered.address is None:
        return None, replace(alone(edge, edge_s), failure=entered.failure), None
    why, greeter = entered.failure, entered.greeter
    try:
        met = None if why else _met(entered, sum(edge_s), config, progress)
        if met is not None:
            return met.link, _planned(edge, met, prepared, config), None
        why = why or "no answer yet"
    except AppError as error:
        if not is_covered(error, config.fallback):
            raise
        edge.close()
        why = _gone_on(error)
    lookout = Lookout(greeter or greeter_of(edge, entered.address, config), why)
    return None, replace(alone(edge, edge_s), failure=why), lookout


def _met(entered: Entered, here_s: float, config: EdgeConfig, progress: Show) -> Met | None:
    """The cloud with its link measured; None where it is not there yet, and not waited for. Raises AppError."""
    edge, greeter = entered.edge, entered.greeter
    if greeter is None:
        assert edge.cloud is not None  # it was greeted, or there would be a failure
        until = Deadline.after(config.timeout_s, "link probe (--timeout)")
        link = probe(edge.cloud, config, progress)
        return Met(edge.cloud, link, edge.status(until.remaining()))
    greeter.wait(first_wait_s(here_s, config.timeout_s))
    if greeter.has_greeted:
        progress("probing the link", 0.0)
        greeter.wait(config.timeout_s)
    found = greeter.take()
    if isinstance(found, Met):
        edge.take(found.cloud)
        return found
    if found is not None:
        raise found
    return None


def _planned(edge: Edge, met: Met, prepared: Prepared, config: EdgeConfig) -> Plan:
    """What to do with a cloud that was met."""
    assert met.link is not None
    assert met.state is not None
    problem = problem_of(edge, prepared.found.times.seconds, met.link, met.state)
    plan = plan_of(edge, problem, config, prepared.power)
    return fitting(edge, plan, prepared.found.times.seconds, config)


def fitting(edge: Edge, plan: Plan, edge_s: Sequence[float], config: EdgeConfig) -> Plan:
    """The plan, or all here where this cloud never takes what it sends. Raises ProtocolError without a fallback."""
    try:
        check_sizes(edge, plan.decision.parts)
    except ProtocolError as error:
        if config.fallback == "off":
            raise
        return replace(alone(edge, edge_s), failure=_gone_on(error))
    return plan


def probe(cloud: GreetedCloud, config: EdgeConfig, progress: Show) -> LinkEstimate:
    """Measure the link, or only its round trip where the rate is given. Raises AppError where the cloud is lost."""
    progress("probing the link", 0.0)
    prober = Prober(cloud.connection, Deadline.after(config.timeout_s, "link probe (--timeout)"))
    return prober.estimate(config.up_bytes_per_s)


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
    allowed, watts, limits = _allowed(edge, config), power.at(problem.link), edge.cloud.connection.limits
    started = time.perf_counter()
    if config.point is not None:
        packed = allowed.with_lossy(problem, config.goal.weights(watts))
        decision = _given(packed, edge.graph.head_at(config.point))
    elif head is not None:
        decision = _given(allowed.exact(problem, config.goal.weights(watts)), head)
    else:
        room = FrameLimits(limits.payload_bytes, limits.tensors)
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

    `edge_s` are the seconds of every layer here. Raises ValueError where no cloud connected.
    """
    if edge.cloud is None:
        raise ValueError("no cloud connected")
    ready = edge.cloud.ready
    cloud = CloudTimes(ready.seconds, ready.start_s, state.load, state.queue_s)
    return Problem(edge.graph, edge_s, cloud, Link(link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s))


def _given(problem: Problem, head: frozenset[int]) -> Decision:
    """The cut that the user wants."""
    parts, candidates = parts_of(problem.graph, head), chain.scan(problem)
    return Decision("latency", "given", parts, predict(problem, parts), candidates, is_optimal=False).packed_as(problem)


@dataclass(frozen=True)
class _Ran:
    """What ran, by what it should be, the chosen parts first; and what was planned in the end, where a cloud came."""

    plan: Plan
    link: LinkEstimate | None
    runs: dict[Parts, Runs]
    reconnects: int = 0


def _run(
    prepared: Prepared,
    plan: Plan,
    link: LinkEstimate | None,
    wanted: Sequence[Parts],
    config: EdgeConfig,
    progress: Show,
) -> _Ran:
    """Run the network in some ways with the cloud that there is, or with none."""
    edge, address, edge_s = prepared.edge, prepared.address, prepared.found.times.seconds
    if config.fallback == "off" or address is None or plan.problem is None:
        runs = _repeat(lambda x, parts: edge.infer_parts(x, parts, config.timeout_s), edge, wanted, config, progress)
        return _Ran(plan, link, {parts: _marked(found, plan.failure) for parts, found in runs.items()})
    steady = _steady(edge, Address(*address, config.token), plan, edge_s, wanted, config)
    try:
        runs = _repeat(steady.infer, edge, wanted, config, progress)
        return _Ran(plan, link, runs, steady.reconnects)
    finally:
        steady.close()


def _steady(
    edge: Edge, where: Address, plan: Plan, edge_s: Sequence[float], wanted: Sequence[Parts], config: EdgeConfig
) -> ResilientClient:
    assert plan.problem is not None  # there is a cloud
    waiting_s = {parts: predict(plan.problem, parts).waiting_s for parts in wanted}
    waiting_s[plan.decision.parts] = plan.decision.predicted.waiting_s  # what it sends may be packed better
    return ResilientClient(edge, where, config.timeout_s, edge_s, waiting_s, plan.problem.link.rtt_s)


def _run_late(prepared: Prepared, plan: Plan, lookout: Lookout, config: EdgeConfig, progress: Show) -> _Ran:
    """Run the network here until the cloud comes, then as is planned with it."""
    edge, edge_s = prepared.edge, prepared.found.times.seconds
    assert prepared.address is not None  # somebody looks out for it
    where = Address(*prepared.address, config.token)
    made: list[tuple[Plan, LinkEstimate | None]] = [(plan, None)]

    def begin(met: Met) -> tuple[Parts, ResilientClient]:
        found = _planned(edge, met, prepared, config)
        if found.failure:
            raise ProtocolError(found.failure)
        steady = _steady(edge, where, found, edge_s, [found.decision.parts], config)
        prepared.record.probed(met.link)
        made.append((found, met.link))
        return found.decision.parts, steady

    late = LateEdge(edge, lookout, begin)
    try:
        runs = _repeat(late.infer, edge, [plan.decision.parts], config, progress)
    finally:
        late.close()
    ran, link = made[-1]
    answers = runs[plan.decision.parts].answers
    return _Ran(ran, link, {ran.decision.parts: Runs(ran.decision.parts, answers)}, late.reconnects)


def check_sizes(edge: Edge, parts: Parts) -> None:
    """Refuse what the cloud would never take. Raises ProtocolError."""
    if edge.cloud is None:
        return
    limit = edge.cloud.connection.limits.payload_bytes
    for part in (part for part in parts if part.place == "cloud"):
        boundary_bytes = edge.graph.bytes_of(edge.graph.inputs_of(part.layers))
        if boundary_bytes > limit:
            raise ProtocolError(f"cannot send {boundary_bytes} bytes, the limit is {limit}")


def _ends(edge: Edge, plan: Plan, config: EdgeConfig) -> tuple[Parts, ...]:
    """All on the cloud and all here, where they are to be compared and there is a cloud that takes the input."""
    if not config.compare or plan.failure:
        return ()
    last = len(edge.graph.points) - 1
    both = tuple(parts_of(edge.graph, edge.graph.head_at(end)) for end in (0, last))
    try:
        check_sizes(edge, both[0])
    except ProtocolError as error:
        if config.fallback == "off":
            raise
        log.warning("skipping the comparison: %s", error)
        return ()
    return both


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


def _stages(times: Prediction | Measured, sent_bytes: int, received_bytes: int, *, is_local: bool) -> EnergyInputs:
    """What the joules of an inference depend on; packing is computing too."""
    busy_s = times.edge_s + times.encode_s
    return EnergyInputs(busy_s, 0.0 if is_local else times.total_s - busy_s, sent_bytes, received_bytes)


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
    if not is_finite([answer]):
        raise _not_finite(runs.answers[-1], prepared.whole()[0])
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


def _not_finite(answered: Answered, whole: Array) -> AppError:
    """Whose fault an answer with NaN or infinity is."""
    if answered.completed_by in ("split", "cloud") and is_finite([whole]):
        return ProtocolError(NOT_FINITE)
    return AppError(NETWORK_NOT_FINITE)


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
