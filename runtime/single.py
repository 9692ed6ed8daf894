"""One call of edge_api.py: get ready, decide, measure, check. Returns plain values; runtime.report shows them."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median_low

import numpy as np

from models import registry
from models.graph import LayerGraph
from net.link import LinkEstimate, Prober
from net.messages import State
from net.tensors import Array
from partition import chain
from partition.chain import Candidate
from partition.cost import CloudTimes, Link, Part, Problem, parts_of
from partition.decide import Decision, Room, decide
from runtime.answers import matches, whole_answer
from runtime.children import CloudAccess
from runtime.edge import Answered, Edge, EdgeConfig, Measured, read_input
from runtime.joules import EnergyReport, Metered, Stages
from runtime.power import PowerChoice
from runtime.times import Found, Times, predictors_path
from utils.deadline import Deadline
from utils.errors import AppError

TOP = 5

Progress = Callable[[str, float], None]
"""Is told what is being done, and the share of it that is done."""


@dataclass(frozen=True)
class Plan:
    """What runs where, and how long it took to decide that."""

    decision: Decision
    decision_s: float


@dataclass(frozen=True)
class Runs:
    """Repeated inferences with the same parts, the warm-up left out."""

    parts: tuple[Part, ...]
    answers: tuple[Answered, ...]

    @property
    def repeats(self) -> tuple[Measured, ...]:
        """The times of every inference."""
        return tuple(answer.measured for answer in self.answers)

    @property
    def typical(self) -> Measured:
        """The inference with the median total."""
        middle = median_low(run.total_s for run in self.repeats)
        return next(run for run in self.repeats if run.total_s == middle)


@dataclass(frozen=True)
class Verified:
    """The split answer beside that of the whole network, run here in one piece."""

    matches: bool
    max_abs_diff: float


@dataclass(frozen=True)
class Ranked:
    """One class of the answer."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Sources:
    """Whether the plan is made from `measured` or from `predicted` times, and how far off the edge's may be."""

    edge: str
    edge_factor: float
    """9 of 10 errors are below this factor; 1 where they were measured."""
    cloud: str | None


@dataclass(frozen=True)
class Outcome:
    """Everything that one call found out."""

    graph: LayerGraph
    weights: str
    origin: str
    is_trained: bool
    source: str
    link: LinkEstimate | None
    cloud_device: str | None
    plan: Plan
    runs: Runs
    top: tuple[Ranked, ...]
    shape: tuple[int, ...]
    verified: Verified | None
    times: Sources
    corrections: dict[str, float]
    """By kind, what predictions are multiplied by from now on; empty where nothing was predicted."""
    energy: EnergyReport
    compared: tuple[Runs, ...]
    """All on the cloud, then all on the edge, where a comparison was asked for."""


def run(config: EdgeConfig, progress: Progress) -> Outcome:
    """Do what the configuration says. Raises AppError for everything that can go wrong for an outside reason."""
    with ExitStack() as stack:
        entry = registry.find(config.model)
        power = PowerChoice.of(config.power, config.radio)
        example = read_input(config, entry)
        cloud = CloudAccess(stack, (config.host, config.port), config.own_cloud, "cloud_api.py", config.link_shape)
        if config.point is None:
            cloud.start()  # it loads while we do
        progress("loading the network", 0.0)
        edge = Edge.build(config, entry, example)
        stack.callback(edge.close)
        if config.point is not None:
            edge.graph.head_at(config.point)  # raises for a point that there is not
        if config.compare or config.point != len(edge.graph.points) - 1:
            progress("waiting for the cloud", 0.0)
            edge.greet(*cloud.address(), config.token, config.ready_s)
        link = _link(edge, config, progress)
        times = Times(config.times, config.predictors or predictors_path(config.cache_dir, "edge"), config.cache_dir)
        found = times.find(edge.executor, lambda done: progress("measuring the layers", done), tails=False)
        plan = _decide(edge, found.times.seconds, link, config, power)
        chosen, ends = plan.decision.parts, (0, len(edge.graph.points) - 1)
        both = tuple(parts_of(edge.graph, edge.graph.head_at(end)) for end in ends) if config.compare else ()
        metered = Metered()
        runs = _repeat(edge, (chosen, *both), config, progress)
        metered.stop()
        compared = tuple(runs[end] for end in both)
        learnt = _learn(found, runs)
        used = _energy(power, link, plan, runs[chosen], metered)
        sources = Sources(
            found.times.source, found.times.factor, None if edge.cloud is None else edge.cloud.ready.times
        )
        return _outcome(edge, link, plan, runs[chosen], compared, sources, learnt, used, verify=config.verify)


def _link(edge: Edge, config: EdgeConfig, progress: Progress) -> LinkEstimate | None:
    if edge.cloud is None:
        return None
    progress("probing the link", 0.0)
    prober = Prober(edge.cloud.connection, Deadline.after(config.timeout_s, "the probe of the link (--timeout)"))
    if config.bandwidth is not None:
        return LinkEstimate(config.bandwidth, config.bandwidth, prober.round_trip(), "given")
    return prober.estimate()


def _decide(
    edge: Edge, edge_s: Sequence[float], link: LinkEstimate | None, config: EdgeConfig, power: PowerChoice
) -> Plan:
    """Choose what runs where, or take the point that was given. Runs nothing."""
    if edge.cloud is None or link is None:
        alone = chain.all_edge(edge.graph, edge_s)
        return Plan(_given(edge.graph, alone, (alone,)), 0.0)
    problem = problem_of(edge, edge_s, link, edge.status(config.timeout_s))
    started = time.perf_counter()
    if config.point is not None:
        candidates = chain.scan(problem)
        decision = _given(edge.graph, candidates[config.point], candidates)
    else:
        limits = edge.cloud.connection.limits
        decision = decide(problem, config.goal, power.at(problem.link), Room(limits.payload_bytes, limits.tensors))
    return Plan(decision, time.perf_counter() - started)


def problem_of(edge: Edge, edge_s: Sequence[float], link: LinkEstimate, state: State) -> Problem:
    """What a decision is made from: the times of both sides, the link, and how busy the cloud is."""
    if edge.cloud is None:
        raise ValueError("no cloud was greeted")
    ready = edge.cloud.ready
    cloud = CloudTimes(ready.seconds, ready.start_s, state.load, state.queue_s)
    return Problem(edge.graph, edge_s, cloud, Link(link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s))


def _given(graph: LayerGraph, wanted: Candidate, candidates: tuple[Candidate, ...]) -> Decision:
    """The point that the user wants."""
    parts = parts_of(graph, graph.head_at(wanted.point.number))
    return Decision("latency", "given", parts, wanted.predicted, candidates, is_optimal=False)


Parts = tuple[Part, ...]


def _repeat(edge: Edge, wanted: Sequence[Parts], config: EdgeConfig, progress: Progress) -> dict[Parts, Runs]:
    """Run the network in some ways in turns, so that a machine that gets slower gets slower for all of them."""
    x = np.asarray(edge.network.example.tensor)
    rounds = config.warm_up + config.repeat
    answers: dict[Parts, list[Answered]] = {parts: [] for parts in wanted}
    for done in range(rounds):
        for parts, found in answers.items():
            progress("running", done / rounds)
            found.append(edge.infer_parts(x, parts, config.timeout_s))
    return {parts: Runs(parts, tuple(found[config.warm_up :])) for parts, found in answers.items()}


def _learn(found: Found, runs: dict[Parts, Runs]) -> dict[str, float]:
    """Let the predictor see what every head took."""
    if found.teacher is None:
        return {}
    for parts, repeated in runs.items():
        head = frozenset().union(*(part.layers for part in parts if part.place == "edge"))
        for run in repeated.repeats if len(head) > 1 and len(parts) <= 2 else ():
            found.teacher.learn(head, run.edge_s)
    found.teacher.keep()
    return dict(found.teacher.corrections.factors)


def _energy(power: PowerChoice, link: LinkEstimate | None, plan: Plan, runs: Runs, metered: Metered) -> EnergyReport:
    predicted, typical = plan.decision.predicted, runs.typical
    sent, received = typical.payload_bytes, typical.received_bytes
    is_local = all(part.place == "edge" for part in runs.parts)
    return EnergyReport.of(
        power,
        link,
        Stages(predicted.edge_s, 0.0 if is_local else predicted.waiting_s, sent, received),
        Stages(typical.edge_s, 0.0 if is_local else typical.total_s - typical.edge_s, sent, received),
        metered,
    )


def _outcome(
    edge: Edge,
    link: LinkEstimate | None,
    plan: Plan,
    runs: Runs,
    compared: tuple[Runs, ...],
    times: Sources,
    corrections: dict[str, float],
    used: EnergyReport,
    *,
    verify: bool,
) -> Outcome:
    loaded = edge.network.loaded
    answer = runs.answers[-1].outputs[0]
    if not np.isfinite(answer).all():
        raise AppError("the answer holds NaN or infinity: look at the weights and the input")
    return Outcome(
        graph=edge.graph,
        weights=loaded.digest,
        origin=loaded.origin,
        is_trained=loaded.trained,
        source=edge.network.example.source,
        link=link,
        cloud_device=None if edge.cloud is None else edge.cloud.ready.device,
        plan=plan,
        runs=runs,
        top=rank(answer, edge.entry.labels),
        shape=tuple(answer.shape),
        verified=verify_against_whole(edge, (runs, *compared)) if verify else None,
        times=times,
        corrections=corrections,
        energy=used,
        compared=compared,
    )


def rank(logits: Array, labels: tuple[str, ...]) -> tuple[Ranked, ...]:
    """The five classes with the largest softmax of `logits`, shape (1, classes)."""
    scores = logits.reshape(-1).astype(np.float64)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:TOP]
    return tuple(Ranked(int(i), labels[i] if i < len(labels) else str(i), float(shares[i])) for i in best)


def verify_against_whole(edge: Edge, runs: Sequence[Runs]) -> Verified:
    """Run the network here in one piece, and compare every answer with what it gives."""
    expected = whole_answer(edge.network.loaded.model, edge.network.example.tensor)
    answers = [answer.outputs for found in runs for answer in found.answers]
    pairs = [pair for outputs in answers for pair in zip(outputs, expected, strict=True)]
    return Verified(
        all(matches(outputs, expected) for outputs in answers),
        max(float(np.abs(a - b).max()) for a, b in pairs),
    )
