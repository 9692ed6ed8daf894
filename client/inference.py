"""One call of edge_api.py: prepare, decide, measure, verify. Returns plain values; cli.report shows them."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from edgecloud.client.connection_manager import ConnectionManager, connection_of
from edgecloud.client.edge import Answered, Edge, EdgeConfig, read_input
from edgecloud.client.energy_report import EnergyReport, Metered
from edgecloud.client.fallback import first_wait_s, is_covered
from edgecloud.client.handshake import blaming
from edgecloud.client.outcome import Outcome, Plan, Runs, Sources, Verified
from edgecloud.client.planning import Parts, Prepared, alone, check_sizes, gone_on, plan_with_cloud
from edgecloud.client.power import PowerChoice
from edgecloud.client.runner import Runner
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
from edgecloud.engine.packing import is_lossless
from edgecloud.engine.times import Found, Times, predictors_path
from edgecloud.models import registry
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import State
from edgecloud.net.recorder import Recorder
from edgecloud.net.tensors import RAW, Array
from edgecloud.partition.cost import parts_of
from edgecloud.utils.errors import AppError, ConnectError, ProtocolError
from edgecloud.utils.progress import Show

log = logging.getLogger(__name__)


def run(config: EdgeConfig, progress: Show) -> Outcome:
    """Do what the configuration says. Raises AppError for everything that can go wrong for an outside reason."""
    with ExitStack() as stack:
        entered = enter(stack, config, progress, is_awaited=config.fallback != "always")
        prepared = prepared_with(entered, config, progress)
        link, plan, is_late = first_plan(entered, prepared, config, progress)
        return carry_out(prepared, link, plan, config, progress, is_late=is_late)


@dataclass(frozen=True)
class Entered:
    """An edge with its network built, and its cloud connected where it needs one."""

    edge: Edge
    failure: str = ""
    """Why there is no cloud, where one was wanted and the edge goes on alone."""
    is_awaited: bool = True
    """Whether the connection is there by now, or only begun."""


def enter(
    stack: ExitStack, config: EdgeConfig, progress: Show, *, is_awaited: bool = True, ready_s: float | None = None
) -> Entered:
    """Build the network and greet the cloud where one is needed; `stack` ends both.

    The cloud may take `ready_s` seconds, else as long as `first_s` of the configuration says; where it is not awaited
    the greeting only begins. Raises AppError.
    """
    entry = registry.resolve_trusted(config.model)
    recorder = None if config.record is None else stack.enter_context(Recorder(config.record))
    PowerChoice.of(config.power, config.radio)  # refuses what there is not before anything long begins
    example = read_input(config, entry)
    cloud = CloudAccess(stack, (config.host, config.port), config.own_cloud, "cloud_api.py", config.link_shape)
    if config.point is None:
        cloud.start()  # it loads while we do
    progress("loading the network", 0.0)
    edge = Edge.build(config, entry, example)
    stack.callback(edge.close)
    return reach(edge, cloud, config, progress, recorder, is_awaited=is_awaited, ready_s=ready_s)


def reach(
    edge: Edge,
    cloud: CloudAccess,
    config: EdgeConfig,
    progress: Show,
    recorder: Recorder | None = None,
    *,
    is_awaited: bool = True,
    ready_s: float | None = None,
) -> Entered:
    """Connect to the cloud where one is needed, as `enter` does. Raises AppError."""
    if config.point is not None:
        edge.graph.head_at(config.point)  # raises for a point that there is not
    last = len(edge.graph.points) - 1
    if config.point == last and not config.compare:
        return Entered(edge)
    progress("waiting for the cloud", 0.0)
    try:
        address = cloud.address(is_checked=config.fallback != "always")
    except AppError as error:
        if config.fallback != "always":
            raise _hinted(error, edge) from None
        return Entered(edge, gone_on(error))
    manager = edge.use(connection_of(config, address, recorder), config.token)
    if not is_awaited:
        manager.open_in_background()
        return Entered(edge, is_awaited=False)
    return Entered(edge, _connect(edge, manager, config, ready_s or config.first_s))


def _connect(edge: Edge, manager: ConnectionManager, config: EdgeConfig, ready_s: float) -> str:
    """Connect to the cloud; returns why the edge goes on alone, or nothing. Raises AppError where it does not."""
    try:
        manager.connect(ready_s)
    except AppError as error:
        if not is_covered(error, config.fallback):
            raise _hinted(error, edge) from None
        return gone_on(blaming(error, "--timeout") if ready_s < config.ready_s else error)
    return ""


def _hinted(error: AppError, edge: Edge) -> AppError:
    """With what needs no cloud, where there is none."""
    if not isinstance(error, ConnectError):
        return error
    last = len(edge.graph.points) - 1
    return ConnectError(f"{error}; --point {last} runs all of {edge.graph.name} on the edge without a cloud")


def prepared_with(entered: Entered, config: EdgeConfig, progress: Show) -> Prepared:
    """Find the times of the layers, measured or predicted."""
    edge = entered.edge
    times = Times(config.times, config.predictors or predictors_path(config.cache_dir, "edge"), config.cache_dir)
    timing = times.find(edge.executor, lambda done: progress("measuring the layers", done), tails=False)
    edge.on_ran = timing.ran if timing.teacher is None else None  # what learns does so at the end: _learn
    network = edge.network
    whole = cache(lambda: whole_answer(network.loaded.model, network.example.tensor))
    return Prepared(edge, PowerChoice.of(config.power, config.radio), timing, whole)


def carry_out(
    prepared: Prepared,
    link: LinkEstimate | None,
    plan: Plan,
    config: EdgeConfig,
    progress: Show,
    *,
    is_late: bool = False,
) -> Outcome:
    """Run the network as planned, the warm-up and the repeats, and say what came of it.

    `is_late`: the cloud was not there when it was planned, and is looked for. Raises AppError for an answer that is no
    number, and without a fallback for what a cloud or a link can do.
    """
    edge, timing = prepared.edge, prepared.timing
    both = _ends(edge, plan, config)
    runner = Runner(prepared, plan, link, config, both, is_late=is_late)
    metered = Metered()
    runs = _repeat(runner, edge, (plan.decision.parts, *both), config, progress)
    metered.stop()
    final_plan = runner.plan  # another one, where the cloud has come
    runs = {
        final_plan.decision.parts if parts == plan.decision.parts else parts: answers for parts, answers in runs.items()
    }
    runs_of = {parts: Runs(parts, answers) for parts, answers in runs.items()}
    plan_runs, compared = runs_of[final_plan.decision.parts], tuple(runs_of[end] for end in both)
    corrections = _learn(timing, runs_of)
    energy = _energy(prepared.power, runner.link, final_plan, plan_runs, metered)
    outcome = _outcome(
        prepared, runner.link, final_plan, plan_runs, compared, corrections, energy, verify=config.verify
    )
    return replace(outcome, reconnects=runner.reconnects)


def first_plan(
    entered: Entered, prepared: Prepared, config: EdgeConfig, progress: Show
) -> tuple[LinkEstimate | None, Plan, bool]:
    """Measure the link and decide. Where there is no cloud, or it is lost over it, everything runs here, unless that is
    not wanted; the last value says whether the cloud is looked for then, since it has an address."""
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
        if not is_covered(error, config.fallback):
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
        return link, manager.ask_state(config.timeout_s)
    manager.wait(first_wait_s(here_s, config.timeout_s))
    if manager.has_greeted:
        progress("probing the link", 0.0)
        manager.wait(config.timeout_s)
    if manager.error is not None:
        raise manager.error
    return manager.link_and_state if manager.is_connected else None


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


def _repeat(
    runner: Runner, edge: Edge, ways: Sequence[Parts], config: EdgeConfig, progress: Show
) -> dict[Parts, tuple[Answered, ...]]:
    """Run the network in some ways in turns, so that a machine that gets slower gets slower for all of them."""
    x = np.asarray(edge.network.example.tensor)
    rounds = config.warm_up + config.repeat
    answers: dict[Parts, list[Answered]] = {parts: [] for parts in ways}
    for done in range(rounds):
        for parts, repeats in answers.items():
            progress("running", done / rounds)
            edge.executor.rest()
            repeats.append(runner.infer(x, parts))
    return {parts: tuple(repeats[config.warm_up :]) for parts, repeats in answers.items()}


def _learn(timing: Found, runs: dict[Parts, Runs]) -> dict[str, float]:
    """Let the predictor see what every head took."""
    if timing.teacher is None:
        return {}
    for parts, repeated in runs.items():
        head = frozenset().union(*(part.layers for part in parts if part.place == "edge"))
        for run in repeated.answers if len(head) > 1 and len(parts) <= 2 else ():
            if run.fallback is None:  # else more ran here than the head
                timing.ran(head, run.measured.edge_s)
    timing.teacher.keep()
    return dict(timing.teacher.corrections.factors)


def _energy(power: PowerChoice, link: LinkEstimate | None, plan: Plan, runs: Runs, metered: Metered) -> EnergyReport:
    is_local = all(part.place == "edge" for part in runs.parts)
    return EnergyReport.of(power, link, plan.decision.predicted, runs.typical, metered, is_local=is_local)


def _outcome(
    prepared: Prepared,
    link: LinkEstimate | None,
    plan: Plan,
    runs: Runs,
    compared: tuple[Runs, ...],
    corrections: dict[str, float],
    energy: EnergyReport,
    *,
    verify: bool,
) -> Outcome:
    edge, times = prepared.edge, prepared.timing.times
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
        verified=verify_against_whole(edge, plan, (runs, *compared), prepared.whole()) if verify else None,
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
    )


def _not_finite(answered: Answered, whole: Array) -> AppError:
    """Whose fault an answer with NaN or infinity is."""
    if answered.completed_by in ("split", "cloud") and is_finite([whole]):
        return ProtocolError(NOT_FINITE)
    return AppError(NETWORK_NOT_FINITE)


def verify_against_whole(edge: Edge, plan: Plan, runs: Sequence[Runs], expected: Sequence[Array]) -> Verified:
    """Compare every answer with what the whole network gives, run in one piece: the top-1 if packing is lossy."""
    answers = [answer.outputs for group in runs for answer in group.answers]
    return Verified(
        all(_same(edge, plan, group.parts)(answer.outputs, expected) for group in runs for answer in group.answers),
        max(max_abs_diff(outputs, expected) for outputs in answers),
    )


def _same(edge: Edge, plan: Plan, parts: Parts) -> Callable[[Sequence[Array], Sequence[Array]], bool]:
    """How answers are compared with the whole network's: by their top-1 only where something was rounded on its way."""
    crossing = {n for part in parts if part.place == "cloud" for n in edge.graph.inputs_of(part.layers)}
    return matches if is_lossless(plan.codecs.get(number, RAW) for number in crossing) else is_same_top
