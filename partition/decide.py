"""From an objective to a placement: selects the search, and reports its name and whether it is exact.

objective   partition.objectives has them
method      chain       cuts of one tensor, all tried
            mincut      all cuts of the graph, where stages are added up
            dsh         DADS's approximation, for throughput
            auto        chain where the graph is one, else all cuts

With a limit on what the cloud may cost, placements may go back and forth between the two (partition.placement).

Where stages may overlap (Problem.chunking) the points stay exact, since each is predicted with its best chunks; all
cuts are bounded and refined (partition.overlapped_cut); placements are found as if nothing overlapped, which is more
than they take, and compared with the points; and the bottleneck stage, of inferences that follow each other, has
nothing to hide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from edgecloud.models.graph import LayerGraph
from edgecloud.partition import chain, overlapped_cut
from edgecloud.partition.chain import Candidate
from edgecloud.partition.chunking import overlapped
from edgecloud.partition.cost import (
    LATENCY,
    Part,
    Power,
    Problem,
    StageTimes,
    StageWeights,
    cost_of,
    is_heavy,
    parts_of,
)
from edgecloud.partition.gain import Gain, Packing, ends_of
from edgecloud.partition.mincut import CutSolver
from edgecloud.partition.objectives import METHOD, METHODS, OBJECTIVE, OBJECTIVES, Search
from edgecloud.partition.overlap import Overlap
from edgecloud.partition.packing import RAW, Allowed
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import printable


class Clash(Enum):
    """Contradictions in a goal, in words of the fields of Goal; `cli.goals` has those of the flags."""

    WEIGHTED_ALONE = "objective 'weighted' requires seconds_per_joule"
    AUTO_ALONE = "objective 'auto' requires rate_per_s"
    JOULES_UNWANTED = "seconds_per_joule requires objective 'weighted'"
    COST_WITH_OTHERS = "max_cost requires objective 'latency', 'energy' or 'weighted', and method 'auto'"
    COST_WITHOUT_PRICE = "max_cost requires price_per_s"
    DSH_UNWANTED = "method 'dsh' requires objective 'throughput'"
    MINCUT_UNWANTED = "objective 'throughput' cannot be combined with method 'mincut': use 'auto', 'chain' or 'dsh'"


class GoalError(UsageError):
    """Wishes that contradict each other. `clash` says which ones, `goal` what was wished."""

    def __init__(self, clash: Clash, goal: "Goal") -> None:
        super().__init__(clash.value)
        self.clash, self.goal = clash, goal


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a plan. Immutable.

    `objective` is what is minimized: `latency` (seconds), `energy` (joules of the edge), `weighted` (seconds, and
    `seconds_per_joule` for each joule), `throughput` (the bottleneck stage), or `auto`: latency while that sustains
    `rate_per_s` inferences a second, else throughput. `method` is the search: `auto`, `chain`, `mincut` or `dsh`. With
    `max_cost` an inference costs at most that, at `price_per_s` for a second of the cloud's work.

    Raises UsageError for wishes that contradict each other.

    >>> import edgecloud as ec
    >>> ec.Goal("weighted", seconds_per_joule=0.5).objective
    'weighted'
    >>> ec.Goal("weighted")
    Traceback (most recent call last):
    edgecloud.partition.decide.GoalError: objective 'weighted' ... seconds_per_joule
    """

    objective: str = OBJECTIVE
    method: str = METHOD
    seconds_per_joule: float | None = None
    rate_per_s: float | None = None
    max_cost: float | None = None
    price_per_s: float | None = None
    """Of the cloud's work."""

    def __post_init__(self) -> None:
        for name, value, choices in (("objective", self.objective, OBJECTIVES), ("method", self.method, METHODS)):
            if value not in choices:
                raise UsageError(f"no {name} {printable(str(value), 40)!r}: choose {', '.join(choices)}")
        is_costly, is_stage = self.max_cost is not None, self.objective in ("throughput", "auto")
        clashes = {
            Clash.WEIGHTED_ALONE: self.objective == "weighted" and self.seconds_per_joule is None,
            Clash.AUTO_ALONE: self.objective == "auto" and self.rate_per_s is None,
            Clash.JOULES_UNWANTED: self.seconds_per_joule is not None and self.objective != "weighted",
            Clash.COST_WITH_OTHERS: is_costly and (is_stage or self.method != "auto"),
            Clash.COST_WITHOUT_PRICE: is_costly and self.price_per_s is None,
            Clash.DSH_UNWANTED: self.method == "dsh" and self.objective != "throughput",
            Clash.MINCUT_UNWANTED: self.method == "mincut" and self.objective == "throughput",
        }
        for clash, is_there in clashes.items():
            if is_there:
                raise GoalError(clash, self)

    @property
    def takes_lossy(self) -> bool:
        """Whether lossy codecs may be used: only points are calibrated, and not under a limit of cost."""
        return self.max_cost is None and self.method in ("auto", "chain")

    @property
    def price(self) -> float:
        """Of a second of the cloud, 0 where none was told."""
        return self.price_per_s or 0.0

    def weights(self, power: Power) -> StageWeights:
        """What a second of each stage counts, where stages are added up: 1, or watts, or seconds for the joules too."""
        weigh = OBJECTIVES[self.objective].weigh
        return LATENCY if weigh is None else weigh(power, self.seconds_per_joule or 0.0)


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one frame can carry."""

    max_bytes: int
    max_tensors: int

    def fits(self, graph: LayerGraph, part: Part) -> bool:
        """Whether a part's tensors fit into a frame, both ways."""
        if part.place == "edge":
            return True
        crossing = (graph.inputs_of(part.layers), graph.outputs_of(part.layers))
        return all(
            len(tensors) <= self.max_tensors and graph.bytes_of(tensors) <= self.max_bytes for tensors in crossing
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What runs where, how that was found, and what it was chosen from."""

    objective: str
    method: str
    parts: tuple[Part, ...]
    predicted: StageTimes
    candidates: tuple[Candidate, ...]
    """All points, to compare with."""
    cost: float = 0.0
    is_optimal: bool = True
    gap: float = 0.0
    """How far from the best this may be, as a share."""
    keeps_up: bool | None = None
    """Whether the stages sustain the rate that was asked for."""
    codecs: Mapping[int, str] = field(default_factory=dict)
    """How the output of each layer that goes up is packed; what is not named travels as it is."""
    gain: Gain | None = None
    """Over the better of both ends, each with its own codec; None where there is no cloud to compare with."""
    overlap: Overlap | None = None
    """How the boundary leaves in chunks; None: in one piece."""

    @property
    def is_of_stage(self) -> bool:
        """Whether the bottleneck stage is minimized, and no sum of stages."""
        return OBJECTIVES[self.objective].search is Search.STAGE

    @property
    def is_cut(self) -> bool:
        """Whether it is a head and perhaps a tail, and does not go back and forth."""
        return self.parts[0].place == "edge" and len(self.parts) <= 2

    @property
    def codec(self) -> str:
        """The codecs of what goes up, each once; raw where nothing is packed."""
        return ",".join(dict.fromkeys(self.codecs.values())) or RAW

    def packed_as(self, problem: Problem) -> "Decision":
        """The same with the codecs of a problem for what goes up."""
        if problem.packed is None:
            return self
        crossing = self.boundary(problem.graph)
        return replace(self, codecs={layer: problem.packed[layer].codec for layer in crossing})

    @property
    def head(self) -> frozenset[int]:
        """All layers on the edge."""
        return frozenset().union(*(part.layers for part in self.parts if part.place == "edge"))

    def boundary(self, graph: LayerGraph) -> tuple[int, ...]:
        """The layers whose outputs go up."""
        cloud = [graph.inputs_of(part.layers) for part in self.parts if part.place == "cloud"]
        return tuple(sorted({number for layers in cloud for number in layers}))

    def point(self, graph: LayerGraph) -> int | None:
        """Its number, where it is a cut that one tensor crosses."""
        if not self.is_cut:
            return None
        last = max(self.head)
        number = next((p.number for p in graph.points if p.layer == last), None)
        return number if number is not None and graph.head_at(number) == self.head else None


@dataclass(frozen=True, slots=True)
class _Search:
    """One decision's inputs."""

    problem: Problem
    goal: Goal
    power: Power
    room: FrameLimits | None
    solver: CutSolver | None
    candidates: tuple[Candidate, ...]

    def decision(self, method: str, parts: tuple[Part, ...], *, is_optimal: bool, gap: float = 0.0) -> Decision:
        sent = overlapped(self.problem, parts, self.weights)
        predicted, cost = sent.predicted, cost_of(self.problem, parts, self.goal.price)
        rate = self.goal.rate_per_s
        keeps_up = None if rate is None else not is_heavy(predicted, rate)
        fields = (self.goal.objective, method, parts)
        decision = Decision(*fields, predicted, self.candidates, cost, is_optimal, gap, keeps_up, overlap=sent.overlap)
        return decision.packed_as(self.problem)

    @property
    def weights(self) -> StageWeights:
        """What a second of each stage counts, where stages are added up."""
        return self.goal.weights(self.power)

    def cut(self, method: str, head: frozenset[int], *, is_optimal: bool, gap: float = 0.0) -> Decision:
        return self.decision(method, parts_of(self.problem.graph, head), is_optimal=is_optimal, gap=gap)

    def fitting(self) -> list[Candidate]:
        """The points that one frame can carry; all on the edge is always one."""
        graph, room = self.problem.graph, self.room
        if room is None:
            return list(self.candidates)
        parts = [parts_of(graph, graph.head_at(candidate.point.number)) for candidate in self.candidates]
        return [
            c
            for c, cut_parts in zip(self.candidates, parts, strict=True)
            if all(room.fits(graph, p) for p in cut_parts)
        ]


NO_POWER = Power(0.0, 0.0, 0.0, 0.0)


def load_solvers(graph: LayerGraph, goal: Goal) -> None:
    """Import what `decide` will need for this graph: for those who measure how long it takes."""
    if goal.max_cost is not None:
        from edgecloud.partition import placement  # noqa: F401
    if OBJECTIVES[goal.objective].search is not Search.SUM and not graph.is_chain:
        from edgecloud.partition import bottleneck  # noqa: F401


def decide(
    problem: Problem,
    goal: Goal,
    power: Power = NO_POWER,
    room: FrameLimits | None = None,
    solver: CutSolver | None = None,
    allowed: Allowed | None = None,
) -> Decision:
    """Choose what runs where, and how it travels; `room` keeps away from cuts that no frame can carry.

    All cuts are searched with lossless codecs, points with the lossy ones that are allowed, and the better one wins.
    `solver` is the graph's own, for those who decide often. Raises UsageError where nothing is cheap enough.
    """
    weights = goal.weights(power)
    if OBJECTIVES[goal.objective].search is Search.STAGE:
        problem = replace(problem, chunking=None)
    exact = problem if allowed is None else allowed.exact(problem, weights)
    lossless_decision = _search(_Search(exact, goal, power, room, solver, chain.scan(exact, weights)))
    if allowed is None or not allowed.lossy or not goal.takes_lossy:
        return with_gain(lossless_decision, [(exact, lossless_decision.candidates)], goal, power, room)
    lossy, points = allowed.with_lossy(problem, weights), replace(goal, method="chain")
    lossy_decision = _search(_Search(lossy, points, power, room, solver, chain.scan(lossy, weights)))
    decision = min((lossless_decision, lossy_decision), key=lambda decision: _rank(decision, weights))
    packings = [(exact, lossless_decision.candidates), (lossy, lossy_decision.candidates)]
    every_point = replace(decision, candidates=lossy_decision.candidates)  # whichever won: what each of them would take
    return with_gain(every_point, packings, goal, power, room)


def with_gain(
    decision: Decision,
    packings: Sequence[Packing],
    goal: Goal,
    power: Power = NO_POWER,
    room: FrameLimits | None = None,
) -> Decision:
    """The same with its gain over the better end. All on the cloud has the best of some packings of the problem.

    It is no end where no frame carries the input, or where it costs more than the goal allows.
    """
    problem, weights = packings[0][0], goal.weights(power)
    graph = problem.graph
    cloud = () if room is None and goal.max_cost is None else parts_of(graph, graph.only_inputs)
    has_room = room is None or all(room.fits(graph, part) for part in cloud)
    is_cheap = goal.max_cost is None or cost_of(problem, cloud, goal.price) <= goal.max_cost

    def value(predicted: StageTimes) -> float:
        return predicted.longest_s if decision.is_of_stage else weights.value(predicted)

    ends = ends_of(packings, value, has_cloud=has_room and is_cheap)
    return replace(decision, gain=Gain(value(decision.predicted), ends))


def _search(search: _Search) -> Decision:
    decision = _SEARCHES[OBJECTIVES[search.goal.objective].search](search)
    if search.room is not None and not all(search.room.fits(search.problem.graph, part) for part in decision.parts):
        return _best_that_fits(search, decision)
    return decision


def _rank(decision: Decision, weights: StageWeights) -> tuple[bool, bool, float]:
    """The smaller the better: what sustains the rate, of that what is light enough for latency, of that the least."""
    value = decision.predicted.longest_s if decision.is_of_stage else weights.value(decision.predicted)
    return decision.keeps_up is False, decision.is_of_stage, value


def _least_sum(search: _Search) -> Decision:
    """Latency, energy, or both weighted."""
    if search.goal.max_cost is not None:
        return _cheap_enough(search, search.goal.max_cost)
    return _SUM_METHODS[search.goal.method](search)


def _cheap_enough(search: _Search, max_cost: float) -> Decision:
    from edgecloud.partition import placement  # as what follows here: few goals need it

    problem, goal = search.problem, search.goal
    best_placement = placement.best(problem, goal.weights(search.power), goal.price, max_cost)
    is_optimal = best_placement.is_optimal and problem.graph.is_chain  # blocks of a graph stay in one place
    if problem.chunking is None:
        return search.decision("placement", best_placement.parts, is_optimal=is_optimal)
    heads = [problem.graph.head_at(candidate.point.number) for candidate in search.fitting()]
    ways = [best_placement.parts, *(parts_of(problem.graph, head) for head in heads)]
    decisions = [search.decision("placement", parts, is_optimal=False) for parts in ways]
    cheap = [decision for decision in decisions if decision.cost <= max_cost]
    return min(cheap, key=lambda decision: search.weights.value(decision.predicted))


def _point_of_least_sum(search: _Search) -> Decision:
    return _least_point(search, lambda candidate: search.weights.value(candidate.predicted))


def _cut_of_least_sum(search: _Search) -> Decision:
    problem, solver = search.problem, search.solver or CutSolver(search.problem.graph)
    if problem.chunking is None:
        return search.cut("mincut", solver.best(solver.terms(problem, search.weights)), is_optimal=True)
    graph = problem.graph
    points = [(graph.head_at(c.point.number), search.weights.value(c.predicted)) for c in search.candidates]
    cut = overlapped_cut.best(problem, search.weights, solver, points)
    return search.cut("mincut", cut.head, is_optimal=cut.is_optimal, gap=cut.gap)


def _least_sum_of_any(search: _Search) -> Decision:
    return (_point_of_least_sum if search.problem.graph.is_chain else _cut_of_least_sum)(search)


_SUM_METHODS: dict[str, Callable[[_Search], Decision]] = {
    "auto": _least_sum_of_any,
    "chain": _point_of_least_sum,
    "mincut": _cut_of_least_sum,
}


def _shortest_stage(search: _Search) -> Decision:
    """The cut with the minimum bottleneck stage."""
    return _STAGE_METHODS[search.goal.method](search)


def _point_of_shortest_stage(search: _Search) -> Decision:
    return _least_point(search, lambda candidate: candidate.predicted.longest_s)


def _cut_by_dsh(search: _Search) -> Decision:
    from edgecloud.partition import bottleneck

    cut = bottleneck.dsh(_as_sent(search.problem))
    return search.cut(cut.method, cut.head, is_optimal=False)


def _shortest_stage_of_any(search: _Search) -> Decision:
    if search.problem.graph.is_chain:
        return _point_of_shortest_stage(search)
    from edgecloud.partition import bottleneck

    cut = bottleneck.exact(_as_sent(search.problem))
    is_optimal = cut.is_optimal and search.problem.packed is None
    return search.cut(cut.method, cut.head, is_optimal=is_optimal, gap=cut.gap)


_STAGE_METHODS: dict[str, Callable[[_Search], Decision]] = {
    "auto": _shortest_stage_of_any,
    "chain": _point_of_shortest_stage,
    "dsh": _cut_by_dsh,
}


def _as_sent(problem: Problem) -> Problem:
    """Packed tensors as small ones that take no time to pack: the searches for the bottleneck stage know no other."""
    if problem.packed is None:
        return problem
    graph, result = problem.graph, problem.result_bytes
    sizes = zip(graph.layers, problem.packed, strict=True)
    layers = tuple(replace(layer, out_bytes=packed.bytes) for layer, packed in sizes)
    return replace(problem, graph=replace(graph, layers=layers), answer_bytes=result, packed=None)


def _by_rate(search: _Search) -> Decision:
    """Least latency if that sustains the rate, else the minimum bottleneck stage."""
    light = _least_sum(replace(search, goal=replace(search.goal, objective="latency")))
    if light.keeps_up:
        return light
    method = "auto" if search.goal.method == "mincut" else search.goal.method
    problem = replace(search.problem, chunking=None)
    search = replace(search, problem=problem, candidates=chain.scan(problem))
    return _shortest_stage(replace(search, goal=replace(search.goal, objective="throughput", method=method)))


_SEARCHES: dict[Search, Callable[[_Search], Decision]] = {
    Search.SUM: _least_sum,
    Search.STAGE: _shortest_stage,
    Search.RATE: _by_rate,
}


def _least_point(search: _Search, value: Callable[[Candidate], float]) -> Decision:
    best = min(search.fitting(), key=lambda c: (value(c), c.predicted.total_s, c.boundary_bytes))
    graph = search.problem.graph
    return search.cut("chain", graph.head_at(best.point.number), is_optimal=graph.is_chain)


def _best_that_fits(search: _Search, oversized: Decision) -> Decision:
    """The best point that a frame can carry, which is not known to be the best cut that it can."""
    graph, limit = search.problem.graph, search.goal.max_cost
    search = replace(search, goal=replace(search.goal, objective=oversized.objective, method="auto"))
    weights = search.goal.weights(search.power)

    def value(decision: Decision) -> tuple[bool, bool, bool, float]:
        return limit is not None and decision.cost > limit, *_rank(decision, weights)

    points = [graph.head_at(candidate.point.number) for candidate in search.fitting()]
    return min((search.cut("chain", head, is_optimal=False) for head in points), key=value)
