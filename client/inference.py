"""From a configuration to measured inferences: prepare, decide, measure, verify. cli.report shows what came of it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial

from edgecloud.client.config import EdgeConfig
from edgecloud.client.connection_manager import ConnectionManager, connection_of
from edgecloud.client.edge import Answered, Edge, read_input
from edgecloud.client.energy_report import EnergyReport, Metered
from edgecloud.client.fallback import first_wait_s, is_covered
from edgecloud.client.handshake import blaming
from edgecloud.client.outcome import Compared, Outcome, Plan, Runs, Sources, Verified, Way
from edgecloud.client.planning import (
    Prepared,
    alone,
    check_sizes,
    gone_on,
    lossless_decision,
    plan_with_cloud,
    prospects_of,
)
from edgecloud.client.power import PowerChoice
from edgecloud.client.runner import Runner
from edgecloud.client.shipping import shipping_of
from edgecloud.client.subprocesses import CloudAccess
from edgecloud.engine.answers import (
    NETWORK_NOT_FINITE,
    NOT_FINITE,
    is_finite,
    is_same_top,
    matches,
    max_abs_diff,
    names_classes,
    rank,
    rank_rows,
)
from edgecloud.engine.packing import is_lossless
from edgecloud.engine.times import Times
from edgecloud.models import registry
from edgecloud.net.frames import BadMagicError
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import State
from edgecloud.net.recorder import Recorder
from edgecloud.net.tensors import RAW, Array
from edgecloud.partition.cost import parts_of
from edgecloud.utils.errors import AppError, ConnectError, MismatchError, ProtocolError
from edgecloud.utils.progress import Show

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entered:
    """An edge with its network built, and its cloud connected where it needs one."""

    edge: Edge
    failure: str = ""
    """Why there is no cloud, where one was wanted and the edge goes on alone."""
    is_awaited: bool = True
    """Whether the connection is there by now, or only begun."""


def enter(
    stack: ExitStack,
    config: EdgeConfig,
    progress: Show,
    edge: Edge | None = None,
    *,
    is_awaited: bool = True,
    ready_s: float | None = None,
) -> Entered:
    """Build the network, unless there is an `edge` that has it, and connect to the cloud where one is needed.

    `stack` ends both. The cloud may take `ready_s` seconds, else as long as `first_s` of the configuration says; where
    it is not awaited the handshake only begins. Raises AppError.
    """
    build = _building(config) if edge is None else lambda: edge
    PowerChoice.of(config.power, config.radio)  # refuses what there is not before anything long begins
    recorder = None if config.link.record is None else stack.enter_context(Recorder(config.link.record))
    cloud = CloudAccess.of(stack, config, "cloud_api.py")
    if config.point is None:
        cloud.start()  # it loads while we do
    progress("loading the network", 0.0)
    built = build()
    stack.callback(built.close)
    return _reach(built, cloud, config, progress, recorder, is_awaited=is_awaited, ready_s=ready_s)


def _building(config: EdgeConfig) -> Callable[[], Edge]:
    """What builds the network that is named, once its input has been read. Raises UsageError for what there is not."""
    entry = registry.resolve_trusted(config.model, config.device.cache_dir)
    return partial(Edge.build, config, entry, read_input(config, entry))


def _reach(
    edge: Edge,
    cloud: CloudAccess,
    config: EdgeConfig,
    progress: Show,
    recorder: Recorder | None,
    *,
    is_awaited: bool,
    ready_s: float | None,
) -> Entered:
    if config.point is not None:
        edge.graph.head_at(config.point)  # raises for a point that there is not
    last = len(edge.graph.points) - 1
    if config.point == last and not config.compare:
        return Entered(edge)
    progress("waiting for the cloud", 0.0)
    try:
        address = cloud.address(is_checked=config.cloud.fallback != "always")
    except AppError as error:
        if config.cloud.fallback != "always":
            raise _hinted(error, edge) from None
        return Entered(edge, gone_on(error))
    shipping = shipping_of(config, address, [(edge.entry, edge.network)], edge.computing)
    manager = edge.use(
        connection_of(config, address, recorder, shipping=shipping, more=cloud.more()), config.cloud.token
    )
    if not is_awaited:
        manager.open_in_background()
        return Entered(edge, is_awaited=False)
    return Entered(edge, _connect(edge, manager, config, ready_s or config.cloud.first_s))


def _connect(edge: Edge, manager: ConnectionManager, config: EdgeConfig, ready_s: float) -> str:
    """Connect to the cloud; returns why the edge goes on alone, or nothing. Raises AppError where it does not."""
    try:
        manager.connect(ready_s)
    except AppError as error:
        if isinstance(error, BadMagicError):
            error.args = (f"{error} (from {config.cloud.host}:{config.cloud.port}: check -i and -p)",)
        if not is_covered(error, config.cloud.fallback):
            raise _hinted(error, edge) from None
        return gone_on(blaming(error, "--timeout") if ready_s < config.cloud.ready_s else error)
    return ""


def _hinted(error: AppError, edge: Edge) -> AppError:
    """With what needs no cloud, where there is none, or what a graph for inputs of other sizes needs."""
    if isinstance(error, MismatchError) and edge.entry.is_resized:
        return MismatchError(f"{error}; inputs of this size need a graph of their own")
    if not isinstance(error, ConnectError):
        return error
    last = len(edge.graph.points) - 1
    return ConnectError(f"{error}; --point {last} runs all of {edge.graph.name} on the edge without a cloud")


def prepared_with(entered: Entered, config: EdgeConfig, progress: Show) -> Prepared:
    """Find the times of the layers, measured or predicted."""
    edge = entered.edge
    times = Times.of(config.device, "edge")
    timing = times.find(edge.executor, lambda done: progress("measuring the layers", done), tails=False)
    edge.on_ran = timing.ran
    network = edge.network
    whole = cache(lambda: network.whole(network.example.fed))
    return Prepared(edge, PowerChoice.of(config.power, config.radio), timing, whole)


def measure(prepared: Prepared, runner: Runner, config: EdgeConfig, progress: Show) -> Outcome:
    """Run the network as planned, and in what it is compared with, the warm-up and the repeats: what came of it.

    Raises AppError for an answer that is not a number, and without a fallback for what a cloud or a link can do.
    """
    edge, timing, plan = prepared.edge, prepared.timing, runner.plan
    planned = Way.of(edge.graph, plan.decision.parts, plan.codecs, plan.decision.overlap)
    metered = Metered()
    answers = _repeat(runner, edge, (planned, *runner.ways), config, progress)
    metered.stop()
    final_plan = runner.plan  # another one, where the cloud has come
    runs_of = {way: Runs(edge.graph, way.parts, ran) for way, ran in answers.items()}
    runs_of[planned] = plan_runs = Runs(edge.graph, final_plan.decision.parts, answers[planned])
    compared = tuple(Compared(name, way, runs_of[way]) for name, way in zip(COMPARED, runner.ways, strict=False))
    corrections = timing.keep()
    energy = _energy(prepared.power, runner.link, final_plan, plan_runs, metered)
    outcome = _outcome(
        prepared, runner.link, final_plan, plan_runs, compared, corrections, energy, verify=config.verify
    )
    found = prospects_of(edge, final_plan, config, prepared.power)
    shipping = None if edge.cloud is None else edge.cloud.shipped
    outcome = replace(outcome, reconnects=runner.reconnects, prospects=found, shipping=shipping)
    if edge.cloud is not None:
        outcome = replace(
            outcome, moved=edge.cloud.moved, cloud_place=edge.cloud.place, is_chosen=bool(config.cloud.more)
        )
    return replace(outcome, cpu_share=config.cpu_share)


def first_plan(
    entered: Entered, prepared: Prepared, config: EdgeConfig, progress: Show
) -> tuple[LinkEstimate | None, Plan, bool]:
    """Measure the link and decide. Where there is no cloud, or it is lost over it, everything runs on the edge, unless
    that is not wanted; the last value says whether the cloud is looked for then, since it has an address."""
    edge, timing = entered.edge, prepared.timing
    edge_s = (timing.look() if edge.cloud is None else timing.current).seconds  # else just before the decision
    if edge.cloud is None:
        return None, replace(alone(edge, edge_s), failure=entered.failure), False
    why = entered.failure
    try:
        met = None if why else _met(edge.cloud, entered, sum(edge_s), config, progress)
        if met is not None:
            return met[0], plan_with_cloud(edge, *met, prepared, config), False
        why = why or "no answer yet"
    except AppError as error:
        if not is_covered(error, config.cloud.fallback):
            raise
        why = gone_on(error) if entered.is_awaited else edge.cloud.why
        edge.cloud.hang_up(error)
    edge.cloud.give_up(why)
    return None, replace(alone(edge, edge_s), failure=why), True


Met = tuple[LinkEstimate, State]
"""What a plan needs to know of a cloud that is connected: its link, and how busy it is."""


def _met(manager: ConnectionManager, entered: Entered, here_s: float, config: EdgeConfig, progress: Show) -> Met | None:
    """The link and the load of the cloud; None where it is not there yet, and not waited for. Raises AppError."""
    if entered.is_awaited:
        progress("probing the link", 0.0)
        link = manager.measure()
        return link, manager.ask_state(config.cloud.timeout_s)
    manager.wait(first_wait_s(here_s, config.cloud.timeout_s))
    if manager.has_connected:
        progress("probing the link", 0.0)
        manager.wait(config.cloud.timeout_s)
    if manager.error is not None:
        raise manager.error
    return manager.link_and_state if manager.is_connected else None


COMPARED = ("cloud", "edge", "lossless")
"""What the ways of `compared_ways` are called."""


def compared_ways(edge: Edge, plan: Plan, config: EdgeConfig) -> tuple[Way, ...]:
    """All on the cloud and all on the edge, if they are to be compared and a cloud takes the input; and the plan that
    is best without lossy codecs, where this one might have them."""
    if not config.compare or plan.failure:
        return ()
    last = len(edge.graph.points) - 1
    both = tuple(parts_of(edge.graph, edge.graph.head_at(end)) for end in (0, last))
    lossless = lossless_decision(edge, plan, config)
    others = () if lossless is None else (Way.of(edge.graph, lossless.parts, lossless.codecs, lossless.overlap),)
    try:
        check_sizes(edge, both[0])
    except ProtocolError as error:
        if config.cloud.fallback == "off":
            raise
        log.warning("skipping the comparison: %s", error)
        return ()
    chunks = (plan.decision.candidates[0].overlap, None)
    ends = (Way.of(edge.graph, parts, plan.codecs, sent) for parts, sent in zip(both, chunks, strict=True))
    return (*ends, *others)


def _repeat(
    runner: Runner, edge: Edge, ways: Sequence[Way], config: EdgeConfig, progress: Show
) -> dict[Way, tuple[Answered, ...]]:
    """Run the network as planned, which is the first of the ways, and in the others, in turns: a machine that gets
    slower gets slower for all of them."""
    x = edge.network.example.fed
    rounds = config.warm_up + config.repeat
    answers: dict[Way, list[Answered]] = {way: [] for way in ways}
    for done in range(rounds):
        for way, repeats in answers.items():
            progress("running", done / rounds)
            edge.executor.rest()
            repeats.append(runner.infer(x, None if way == ways[0] else way, rounds - done))
    return {way: tuple(repeats[config.warm_up :]) for way, repeats in answers.items()}


def _energy(power: PowerChoice, link: LinkEstimate | None, plan: Plan, runs: Runs, metered: Metered) -> EnergyReport:
    is_local = all(part.place == "edge" for part in runs.parts)
    return EnergyReport.of(power, link, plan.decision.predicted, runs.typical, metered, is_local=is_local)


def _outcome(
    prepared: Prepared,
    link: LinkEstimate | None,
    plan: Plan,
    runs: Runs,
    compared: tuple[Compared, ...],
    corrections: dict[str, float],
    energy: EnergyReport,
    *,
    verify: bool,
) -> Outcome:
    edge, times, every = prepared.edge, prepared.timing.times, (runs, *(each.runs for each in compared))
    weights = edge.network.weights
    outputs = runs.answers[-1].outputs
    answer, labels, rows = outputs[0], edge.entry.labels, edge.network.example.rows
    is_ranked = names_classes(outputs, labels, rows)
    if not is_finite([answer]):
        raise _not_finite(runs.answers[-1], prepared.whole()[0])
    return Outcome(
        graph=edge.graph,
        weights=weights.digest,
        origin=weights.origin,
        kept=edge.network.kept,
        is_trained=weights.trained,
        has_imagenet=edge.entry.imagenet is not None,
        source=edge.network.example.source,
        output_names=edge.network.answer.names,
        link=link,
        cloud_device=None if edge.ready is None else edge.ready.device,
        backends=(edge.backend(plan.decision.head), edge.cloud_backend),
        plan=plan,
        runs=runs,
        top=rank(answer, labels) if is_ranked else (),
        rows=rank_rows(answer, labels, rows) if is_ranked else (),
        verified=verify_against_whole(edge, every, prepared.whole()) if verify else None,
        times=Sources(
            times.source,
            times.factor,
            edge.ready.times if edge.ready else None,
            prepared.timing.why,
            prepared.timing.meter.now(),
            None if edge.cloud is None else edge.cloud.speed,
        ),
        corrections=corrections,
        energy=energy,
        compared=compared,
        truth=edge.network.example.truth if weights.trained else "",
    )


def _not_finite(answered: Answered, whole: Array) -> AppError:
    """Whose fault an answer with NaN or infinity is."""
    if answered.completed_by in ("split", "cloud") and is_finite([whole]):
        return ProtocolError(NOT_FINITE)
    return AppError(NETWORK_NOT_FINITE)


def verify_against_whole(edge: Edge, runs: Sequence[Runs], expected: Sequence[Array]) -> Verified:
    """Compare every answer with what the whole network gives, run in one piece: the top-1 if packing is lossy."""
    answers = [answer.outputs for group in runs for answer in group.answers]
    return Verified(
        all(_same(edge, answer)(answer.outputs, expected) for group in runs for answer in group.answers),
        max(max_abs_diff(outputs, expected) for outputs in answers),
    )


def _same(edge: Edge, answer: Answered) -> Callable[[Sequence[Array], Sequence[Array]], bool]:
    """How it is compared with the whole network's: by its top-1 only where something was rounded on its way."""
    crossing = {n for part in answer.parts if part.place == "cloud" for n in edge.graph.inputs_of(part.layers)}
    return matches if is_lossless(answer.codecs.get(number, RAW) for number in crossing) else is_same_top
