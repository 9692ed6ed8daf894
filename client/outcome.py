"""The outcome of one call of edge_api.py as plain values: the plan, the runs, the comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from edgecloud.client.edge import Answered, ran_by
from edgecloud.client.energy_report import EnergyReport
from edgecloud.client.progress import Progress
from edgecloud.engine.answers import Ranked
from edgecloud.engine.auto_executor import Choice
from edgecloud.engine.speed import QUIET, Speed
from edgecloud.models.graph import LayerGraph
from edgecloud.net.link import LinkEstimate
from edgecloud.net.tensors import Array
from edgecloud.partition.cost import Part, Problem, StageTimes
from edgecloud.partition.decide import Decision
from edgecloud.partition.gain import Prospects
from edgecloud.partition.overlap import Overlap
from edgecloud.partition.packing import RAW, Allowed


@dataclass(frozen=True)
class Interval:
    """80 % of totals are expected between these seconds."""

    low_s: float
    high_s: float


@dataclass(frozen=True)
class PlanMove:
    """The plan went to another cut while it ran. Points are None for cuts that several tensors cross."""

    at: int
    """After so many inferences, the warm-up among them."""
    before: int | None
    after: int | None
    last: int
    """The point that is all on the edge."""
    why: str
    """`prediction`, as corrected by what was measured, or `guard`: the cut really took longer than an end."""
    ratio: float
    """How much longer."""
    in_one_piece: bool | None = None
    """Where the cut stays: whether its stages do not overlap any more; None for another cut."""

    def __str__(self) -> str:
        verb = "took" if self.why == "guard" else "is expected to take"
        before, after = self._place(self.before), self._place(self.after)
        if self.in_one_piece is not None:
            before, after = ("chunks", "one piece") if self.in_one_piece else ("one piece", "chunks")
        return (
            f"changed from {before} to {after} after {self.at} inferences: the first {verb} {self.ratio:.2f} x as long"
        )

    def _place(self, point: int | None) -> str:
        if point is None:
            return "a cut of several tensors"
        ends = {0: "all on the cloud", self.last: "all on the edge"}
        return ends.get(point, f"point {point}")


@dataclass(frozen=True)
class Plan:
    """What runs where, and how long it took to decide that."""

    decision: Decision
    decision_s: float
    problem: Problem | None = None
    """What it was made from; None where there is no cloud."""
    failure: str = ""
    """Why a connected cloud is not used."""
    codecs: Mapping[int, str] = field(default_factory=dict)
    """How the output of each layer is packed when it goes up, and the input where all of it is to run on the cloud.
    What is not named travels as it is."""
    points_problem: Problem | None = None
    """The same with the packing that points may have, lossy where that is allowed; None: the same packing."""
    allowed: Allowed | None = None
    """In what ways tensors might travel; None where there is no cloud."""
    interval: Interval | None = None
    """Where its total is expected."""
    moves: tuple[PlanMove, ...] = ()
    """Cuts that were left for this one since the first inference."""
    tries: int = 0
    """Inferences that ran another cut, to see what it takes."""


@dataclass(frozen=True)
class Runs:
    """Repeated inferences as planned, the warm-up left out. `parts` are those of the plan in the end."""

    graph: LayerGraph
    parts: tuple[Part, ...]
    answers: tuple[Answered, ...]

    @property
    def repeats(self) -> tuple[StageTimes, ...]:
        """The times of every inference."""
        return tuple(answer.measured for answer in self.answers)

    @property
    def completed_by(self) -> str:
        """Who ran every layer, or `fallback` if the edge completed any inference instead."""
        places = {answer.completed_by for answer in self.answers}
        return "fallback" if "fallback" in places else ran_by(self.graph, self.parts)

    @property
    def typical(self) -> StageTimes:
        """The inference with the median total, of those that ran these parts if there are any."""
        runs = [answer.measured for answer in self.answers if answer.parts == self.parts] or self.repeats
        middle = median_low(run.total_s for run in runs)
        return next(run for run in runs if run.total_s == middle)


@dataclass(frozen=True)
class Way:
    """One way to run the network: what runs where, and how the output of each layer that goes up is packed."""

    parts: tuple[Part, ...]
    codecs: tuple[tuple[int, str], ...] = ()
    """By layer; empty where nothing goes up."""
    overlap: Overlap | None = None
    """How the boundary leaves in chunks; None: in one piece."""

    @classmethod
    def of(
        cls, graph: LayerGraph, parts: tuple[Part, ...], codecs: Mapping[int, str], overlap: Overlap | None = None
    ) -> "Way":
        """With the codecs of the boundary; tensors that they do not name travel as they are."""
        crossing = {n for part in parts if part.place == "cloud" for n in graph.inputs_of(part.layers)}
        return cls(parts, tuple((n, codecs.get(n, RAW)) for n in sorted(crossing)), overlap)

    @property
    def codec(self) -> str:
        """All its codecs, each once; "" where nothing goes up."""
        return ",".join(dict.fromkeys(name for _, name in self.codecs))


@dataclass(frozen=True)
class Compared:
    """What the plan was measured beside: `cloud` and `edge`, all of it on one side, and `lossless`, the plan that is
    best without lossy codecs, where the plan might have them."""

    name: str
    way: Way
    runs: Runs


@dataclass(frozen=True)
class Verified:
    """The split answer compared with that of the full model, run locally."""

    matches: bool
    max_abs_diff: float


@dataclass(frozen=True)
class Sources:
    """Whether the plan is made from `measured` or from `predicted` times, and how far off the edge's may be."""

    edge: str
    edge_factor: float
    """The P90 error, as a factor; 1 if times were measured."""
    cloud: str | None
    edge_why: str = ""
    """Which predictors the edge's are from, or why there were none that could be used; "" where it was not asked."""
    edge_speed: Speed = QUIET
    """How fast this machine is now beside itself when it is quiet, and how sure that is ..."""
    cloud_speed: float | None = None
    """... and the cloud's, as it said last; None without one, or where it does not say."""


@dataclass(frozen=True)
class Outcome:
    """Everything that one call found out."""

    graph: LayerGraph
    weights: str
    origin: str
    is_trained: bool
    has_imagenet: bool
    """Whether there are published weights for it."""
    source: str
    link: LinkEstimate | None
    cloud_device: str | None
    backends: tuple[Choice, Choice | None]
    """What computes on the edge, and on the cloud: None where there is none, or it does not say."""
    plan: Plan
    runs: Runs
    top: tuple[Ranked, ...]
    """Of the first row, where the answer has several; empty where it does not name classes."""
    rows: tuple[tuple[str, Ranked], ...]
    """Where the answer has several rows, the best class of each."""
    verified: Verified | None
    times: Sources
    corrections: dict[str, float]
    """By kind, what predictions are multiplied by from now on; empty where nothing was predicted."""
    energy: EnergyReport
    compared: tuple[Compared, ...]
    """Where a comparison was asked for."""
    truth: str = ""
    """The true label of the input, where it is known and the network was trained for it."""
    reconnects: int = 0
    """Connections to the cloud after the first one, where it was lost ..."""
    moved: int = 0
    """... and where a cloud asked for that."""
    cloud_place: str = ""
    """Where the cloud is that was used last: address in numbers and port; "" for none ..."""
    is_chosen: bool = False
    """... and whether it is one of several that were named."""
    prospects: Prospects | None = None
    """Where a cut would pay; None where that is not looked for."""
    cpu_share: float | None = None
    """The emulated share of a core."""
    shipping: Progress | None = None
    """How far the network is that is sent to the cloud, or was; None where none was sent."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Modules that could not be captured inside and are one layer each, with the reason."""

    output_names: tuple[str, ...] = ()
    """What each output is called in the network's answer (`models.form`)."""

    @property
    def outputs(self) -> Sequence[Array]:
        """The answer of the last inference, as the plan ran it."""
        return self.runs.answers[-1].outputs

    @property
    def measured_gain(self) -> float | None:
        """How many times what the plan took the better end took; None where the ends were not measured."""
        ends = [each.runs.typical.total_s for each in self.compared if each.name != "lossless"]
        return min(ends) / self.runs.typical.total_s if ends else None
