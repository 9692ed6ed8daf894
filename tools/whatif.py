"""Planning without running: `deployment.py plan`. No socket, and no torch unless codecs were never measured.

The times come from kept profiles of a network, or from a file that anybody can write (docs/planning.md).
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgecloud.client.config import EdgeConfig, Overlapping
from edgecloud.client.power import PowerChoice
from edgecloud.engine.overlapping import MOST, chunking_of
from edgecloud.engine.packing_store import AUTO
from edgecloud.models import bundle, custom_model, graph_json, onnx_file
from edgecloud.models.graph import LayerGraph
from edgecloud.partition.cost import CloudTimes, Link, Packed, Power, Problem, StageWeights
from edgecloud.partition.decide import Decision, Goal, decide, load_solvers
from edgecloud.partition.decision_map import FASTEST, SLOWEST, DecisionMap, follow, keep_download
from edgecloud.partition.gain import Prospects, Setting, prospects
from edgecloud.partition.packing import RAW, Allowed
from edgecloud.partition.pareto import Tradeoff, front
from edgecloud.predictor import store
from edgecloud.predictor.profile import Profile
from edgecloud.predictor.quota import Quota
from edgecloud.predictor.store import StoredProfile
from edgecloud.tools import plan_bytes
from edgecloud.tools.plan_bytes import Counted, Packing
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file, write_atomically, writing
from edgecloud.utils.progress import Show

log = logging.getLogger(__name__)

WALL, EMULATED = "wall", "work"
"""Clocks of profiles: of a device at full speed, and of one whose slower speed is emulated."""
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class PlanConfig:
    """One call of deployment.py plan. Rates in bytes per second, times in seconds."""

    model: str | None
    graph_file: Path | None
    cache_dir: Path
    up_bytes_per_s: float
    down_bytes_per_s: float | None = None
    rtt_s: float = 0.0
    load: float = 1.0
    queue_s: float = 0.0
    edge_times: Path | None = None
    """A profile of the edge; None takes the newest that is kept."""
    cloud_times: Path | None = None
    cpu_share: float = 1.0
    """How much of the profiled device the edge has."""
    goal: Goal = field(default_factory=Goal)
    power: str = EdgeConfig.power
    radio: str = EdgeConfig.radio
    codec: str = AUTO
    """As on the edge: one by name, raw, or auto: the best lossless one, and lossy ones within the budget."""
    accuracy_budget: float = 0.0
    """Share of answers that lossy codecs may change, as calibrated."""
    has_jpeg: bool = False
    """Whether the cloud takes JPEG."""
    codec_files: tuple[Path, ...] = ()
    """Of learned codecs, which the cloud has as well."""
    overlap: Overlapping = EdgeConfig.overlap
    """Whether stages may overlap; the cloud is thought to take chunks."""

    @property
    def packing(self) -> Packing:
        """What it says of codecs."""
        return Packing(self.codec, self.accuracy_budget, self.has_jpeg, self.codec_files)


@dataclass(frozen=True)
class Source:
    """What a plan is made from: a document of a graph with its times, and for -t the profiles that it is of."""

    document: Any
    name: str
    edge: StoredProfile | None = None
    cloud: StoredProfile | None = None


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made from."""

    config: PlanConfig
    problem: Problem
    decision: Decision
    decision_s: float
    power: Power
    map: DecisionMap | None
    """None where the objective is no sum of stages, or a limit of cost has to be kept."""
    front: tuple[Tradeoff, ...]
    counted: Counted = field(default_factory=Counted)
    """Which bytes were counted."""
    source: Source | None = None
    prospects: Prospects | None = None
    """Where a cut would pay; None where there is no map."""

    @property
    def points(self) -> Problem:
        """The problem with the packing that points may have, lossy where that is allowed."""
        allowed = self.counted.allowed
        if allowed is None:
            return self.problem
        return allowed.with_lossy(self.problem, self.config.goal.weights(self.power))

    @property
    def graph(self) -> LayerGraph:
        """The layers."""
        return self.problem.graph

    @property
    def energy_j(self) -> float:
        """Joules of the edge in one inference."""
        return self.power.weights.value(self.decision.predicted)


def plan(config: PlanConfig, progress: Show = lambda _text, _done: None) -> Planned:
    """Read the times, decide, and find where the decision changes. Raises UsageError for what is wrong."""
    planned = decided(source_of(config), config, progress)
    setting = setting_of(planned)
    tradeoffs = front(planned.problem, planned.power, planned.points)
    if config.goal.max_cost is not None or config.goal.objective == "throughput":
        return replace(planned, front=tradeoffs)
    is_sum = not planned.decision.is_of_stage
    found = prospects(setting, (SLOWEST, FASTEST), planned.counted.wider) if is_sum else None
    return replace(planned, map=map_of(setting), front=tradeoffs, prospects=found)


def map_of(setting: Setting) -> DecisionMap:
    """Where the best cut changes."""
    return DecisionMap.of(setting.problem, setting.link_at, setting.weights_at, allowed=setting.allowed)


def setting_of(planned: Planned) -> Setting:
    """What other links and edges are judged by."""
    config, problem, allowed = planned.config, planned.problem, planned.counted.allowed
    choice = PowerChoice.of(config.power, config.radio)
    link_at = (follow if config.down_bytes_per_s is None else keep_download)(problem.link)

    def weights_at(link: Link) -> StageWeights:
        return config.goal.weights(choice.at(link))

    if allowed is None:
        allowed = Allowed([[Packed(RAW, layer.out_bytes)] for layer in problem.graph.layers], {})
    elif not config.goal.takes_lossy:
        allowed = Allowed(allowed.lossless, {})
    return Setting(problem, allowed, weights_at, link_at)


def decided(
    source: Source,
    config: PlanConfig,
    progress: Show = lambda _text, _done: None,
    counted: Counted | None = None,
) -> Planned:
    """The decision alone, from a document with its times; `counted` says how boundaries are packed, if that is known.

    Raises UsageError for what is wrong.
    """
    choice = PowerChoice.of(config.power, config.radio)
    problem = problem_of(source.document, source.name, config, source.edge)
    if counted is None:
        counted = _counted(problem.graph, source, config, progress)
    if config.overlap == "auto":
        share = config.cpu_share if source.edge is None else _share(source.edge, config)
        problem = replace(problem, chunking=chunking_of(MOST, share))
    power = choice.at(problem.link)
    load_solvers(problem.graph, config.goal)
    started = time.perf_counter()
    decision = decide(problem, config.goal, power, allowed=counted.allowed)
    decision_s = time.perf_counter() - started
    if counted.allowed is not None:
        problem = counted.allowed.exact(problem, config.goal.weights(power))
    return Planned(config, problem, decision, decision_s, power, None, (), counted, source)


def _counted(graph: LayerGraph, source: Source, config: PlanConfig, progress: Show) -> Counted:
    """How boundaries are packed."""
    if source.edge is None:
        _, rows = graph_json.parse(source.document, source.name)
        return plan_bytes.of_file(graph, rows, source.name, config.packing, config.cpu_share)
    where = (source.edge.profile.key, config.cache_dir, config.packing, _share(source.edge, config))
    return plan_bytes.of_edge(graph, str(config.model), *where, progress)


def _share(edge: StoredProfile, config: PlanConfig) -> float:
    """How much of a core the edge has, in the long run."""
    quota = Quota.of_clock(edge.profile.key.clock)
    return config.cpu_share if quota is None else quota.share * config.cpu_share


def source_of(config: PlanConfig) -> Source:
    """The document of the graph with its times, and where it is from. Raises UsageError."""
    if (config.model is None) == (config.graph_file is None):
        raise UsageError("plan requires either -t MODEL or --graph FILE")
    if config.graph_file is not None:
        if config.edge_times or config.cloud_times:
            raise UsageError(
                "--graph cannot be combined with --edge-times or --cloud-times: the file contains its own times"
            )
        return Source(read_json(config.graph_file), str(config.graph_file))
    model = _name_of(str(config.model))
    edge = _kept(config.edge_times, config, model, _of_an_emulated_edge if config.cpu_share < 1 else _of_an_edge)
    cloud = _kept(config.cloud_times, config, model, _of_a_cloud)
    return Source(_joined(edge, cloud), model, edge, cloud)


def _name_of(model: str) -> str:
    """What a network is called that -t names: of a file, the network in it."""
    if bundle.is_bundle(model):
        return bundle.read(Path(model)).graph.name
    onnx = onnx_file.where(model)
    if onnx is not None:
        return onnx.name
    place = custom_model.where(model)
    return model if place is None else place.name


def _kept(path: Path | None, config: PlanConfig, model: str, rank: Callable[[Profile], int]) -> StoredProfile:
    """The profile of a file, or of all that are kept the newest one of the least rank."""
    if path is not None:
        return store.read(path)
    names = (model, f"torchvision:{model}")
    paths = [file for name in names for file in store.profile_paths(config.cache_dir, name)]
    readable = [kept for file in paths if (kept := _readable(file)) is not None]
    if not readable:
        raise UsageError(
            f"no saved times of {model} in {config.cache_dir}: run deployment.py profile -t {model} first, "
            "or use --edge-times and --cloud-times"
        )
    return min(readable, key=lambda kept: rank(kept.profile))


def _readable(path: Path) -> StoredProfile | None:
    try:
        return store.read(path)
    except UsageError as error:
        log.warning("%s: ignored", error)
        return None


def _of_an_edge(profile: Profile) -> int:
    """Times that an edge at full speed, or under the system's own quota, has measured come first."""
    return profile.key.clock == EMULATED


def _of_an_emulated_edge(profile: Profile) -> int:
    """An emulated edge runs one thread and counts its work."""
    return 0 if profile.key.clock == EMULATED else 1 if profile.key.threads == 1 else 2


def _of_a_cloud(profile: Profile) -> int:
    """Only a cloud measures what starting in the middle takes; an emulated edge is none."""
    return 0 if profile.tails else 1 if profile.key.clock == WALL else 2


def _joined(edge: StoredProfile, cloud: StoredProfile) -> dict[str, Any]:
    """One document with the times of both sides. Raises UsageError where they are of different networks."""
    if edge.profile.key.graph != cloud.profile.key.graph:
        raise UsageError(
            f"the profiles belong to different networks, {edge.profile.key.model} and {cloud.profile.key.model}"
        )
    times = zip(edge.profile.seconds, cloud.profile.seconds, cloud.profile.start_s, strict=True)
    rows = [
        row | {"edge_s": edge_s, "cloud_s": cloud_s, "start_s": start_s}
        for row, (edge_s, cloud_s, start_s) in zip(edge.graph["layers"], times, strict=True)
    ]
    return edge.graph | {"layers": rows}


def read_json(path: Path) -> Any:
    """A file of a graph, as it is written. Raises UsageError where it is none."""
    require_file(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} is too large for a graph: the limit is {MAX_FILE_BYTES >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({str(error)[:100]})") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def problem_of(document: Any, name: str, config: PlanConfig, edge: StoredProfile | None = None) -> Problem:
    """The graph, the times of a document, and the link and the cloud's load of the configuration. Raises UsageError.

    `edge` is the profile that the edge's times are of: work under a quota takes longer than it says.
    """
    graph, rows = graph_json.parse(document, name)
    graph = replace(graph, name=config.model or Path(name).stem)

    def column(field_name: str, default: float | None = None) -> list[float]:
        values = []
        for number, row in enumerate(rows):
            is_free = field_name not in row and (number in graph.only_inputs or default is not None)
            where = graph_json.where_of(name, row)
            values.append(default or 0.0 if is_free else graph_json.number_of(row, field_name, where))
        return values

    quota = None if edge is None else Quota.of_clock(edge.profile.key.clock)
    work_s = column("edge_s")
    edge_s = [seconds / config.cpu_share for seconds in (work_s if quota is None else quota.layers_s(work_s))]
    cloud = CloudTimes(column("cloud_s"), column("start_s", 0.0), config.load, config.queue_s)
    down = config.up_bytes_per_s if config.down_bytes_per_s is None else config.down_bytes_per_s
    answer = None
    if "result_bytes" in document:
        answer = int(graph_json.number_of(document, "result_bytes", name))
    return Problem(graph, edge_s, cloud, Link(config.up_bytes_per_s, down, config.rtt_s), answer)


def export(planned: Planned, path: Path) -> None:
    """Write a file for --graph. Raises UsageError where it cannot be written."""
    with writing(path):
        document = to_document(planned.problem, planned.counted.allowed, planned.config.accuracy_budget)
        write_atomically(path, json.dumps(document, indent=1))


def to_document(problem: Problem, allowed: Allowed | None = None, budget: float = 0.0) -> dict[str, Any]:
    """What --graph reads: a graph with its times and how it may be packed, to change and to plan from again."""
    document = graph_json.to_document(problem.graph)
    times = zip(problem.edge_s, problem.cloud.seconds, problem.cloud.start_s, strict=True)
    rows = [
        row | {"edge_s": edge_s, "cloud_s": cloud_s, "start_s": start_s}
        for row, (edge_s, cloud_s, start_s) in zip(document["layers"], times, strict=True)
    ]
    if allowed is not None:
        packed = plan_bytes.to_rows(allowed, budget)
        rows = [row | ({plan_bytes.FIELD: ways} if ways else {}) for row, ways in zip(rows, packed, strict=True)]
    return document | {"layers": rows, "result_bytes": problem.result_bytes}
