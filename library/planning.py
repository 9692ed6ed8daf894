"""Planning from numbers: no socket, no torch. The same plan as `deployment.py plan` makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from edgecloud.engine.packing_store import AUTO
from edgecloud.library.settings import cache_of
from edgecloud.library.wording import wording
from edgecloud.models import graph_json
from edgecloud.models.graph import LayerGraph
from edgecloud.partition import cost
from edgecloud.partition.cost import StageTimes as StageTimes
from edgecloud.partition.decide import Decision
from edgecloud.partition.decide import Goal as Goal
from edgecloud.partition.objectives import OBJECTIVES
from edgecloud.predictor import store
from edgecloud.predictor.profile import Profile
from edgecloud.predictor.quota import Quota
from edgecloud.utils import defaults
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import format_bytes, format_rate, format_seconds, parse_duration, parse_rate, parse_wait

if TYPE_CHECKING:
    from edgecloud.library.network import Network
    from edgecloud.tools.plan_bytes import Counted
    from edgecloud.tools.whatif import PlanConfig, Source

Seconds: TypeAlias = "Profile | Sequence[float] | Mapping[str, float] | str | Path"
"""The times of one side: a profile, or the file of one; seconds of every layer in order, or by the layer's id."""
Layers: TypeAlias = "Network | Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path"
"""What is planned: a network, a table of its layers, or a file of either."""


class Link(cost.Link):
    """A link between edge and cloud: its rates and its round trip.

    `up` and `down` are texts with a unit, `"5mbit"` (bits) or `"2MB/s"` (bytes), or numbers of bytes a second; `down`
    is `up` where it is left out. `rtt` is a text such as `"20ms"`, or a number of seconds. docs/units.md has the units.
    The attributes `up_bytes_per_s`, `down_bytes_per_s` and `rtt_s` hold what was read. Immutable.

    Raises UsageError for a text that is no rate or no time, for a rate that is not above 0, and for a negative time.

    >>> import edgecloud as ec
    >>> link = ec.Link("5mbit", rtt="20ms")
    >>> link.up_bytes_per_s, link.rtt_s
    (625000.0, 0.02)
    """

    __slots__ = ()

    def __init__(self, up: str | float, *, rtt: str | float = 0.0, down: str | float | None = None) -> None:
        up_bytes_per_s = _rate(up)
        super().__init__(up_bytes_per_s, up_bytes_per_s if down is None else _rate(down), _seconds(rtt))

    def __repr__(self) -> str:
        rates = [format_rate(each).replace(" ", "") for each in (self.up_bytes_per_s, self.down_bytes_per_s)]
        return f"Link({rates[0]!r}, rtt={format_seconds(self.rtt_s).replace(' ', '')!r}, down={rates[1]!r})"

    @property
    def plain(self) -> cost.Link:
        """What the formula takes."""
        return cost.Link(self.up_bytes_per_s, self.down_bytes_per_s, self.rtt_s)


def _rate(value: str | float) -> float:
    if isinstance(value, str):
        return parse_rate(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UsageError(f"{value!r} is not a rate: give a text such as '5mbit', or bytes a second above 0")
    return float(value)


def _seconds(value: str | float) -> float:
    if isinstance(value, str):
        return parse_wait(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise UsageError(f"{value!r} is not a time: give a text such as '20ms', or seconds of at least 0")
    return float(value)


def duration_s(value: str | float) -> float:
    """A time that is waited at most: a text such as `"60s"`, or seconds above 0. Raises UsageError."""
    seconds = parse_duration(value) if isinstance(value, str) else _seconds(value)
    if not seconds > 0:
        raise UsageError(f"{value!r} is not a time to wait: give more than 0 seconds")
    return seconds


def goal_of(objective: str | Goal) -> Goal:
    """A goal by its name, or the one that was given. Raises UsageError."""
    if isinstance(objective, Goal):
        return objective
    if objective not in OBJECTIVES:
        raise UsageError(f"no objective {objective!r}: choose {', '.join(OBJECTIVES)}")
    return Goal(objective)


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where, how it travels, and what that is predicted to take. Immutable.

    `edge` and `cloud` are ids of layers; `boundary` are those whose outputs go up, and `codecs` says how each is packed
    (`raw` is as it is). `point` is the number of the cut where one tensor crosses it: 0 is everything on the cloud, the
    last one everything on the edge; None for another cut, and for layers that go back and forth. `alternatives` are the
    predicted seconds of every point, in order. `is_optimal` says that no cut at all is better. `gain` is what the
    better of both ends takes, each with its own codec, divided by what this takes; 1 where it is an end.

    >>> import edgecloud as ec
    >>> table = [{"id": "input", "inputs": [], "out_bytes": 600_000},
    ...          {"id": "conv", "inputs": ["input"], "out_bytes": 50_000},
    ...          {"id": "fc", "inputs": ["conv"], "out_bytes": 4_000}]
    >>> plan = ec.plan(table, [0, 0.1, 0.9], [0, 0.01, 0.02], ec.Link("5mbit", rtt="20ms"))
    >>> plan.edge, plan.cloud, plan.boundary, plan.point
    (('conv',), ('fc',), ('conv',), 1)
    >>> print(plan)
    point 1: 1 layer on the edge, 1 on the cloud, 50 kB sent, 226 ms predicted (latency)
    >>> round(plan.gain, 2)
    4.42
    """

    network: str
    objective: str
    method: str
    point: int | None
    edge: tuple[str, ...]
    cloud: tuple[str, ...]
    boundary: tuple[str, ...]
    codecs: Mapping[str, str]
    predicted: StageTimes
    alternatives: tuple[StageTimes, ...]
    is_optimal: bool = True
    failure: str = ""
    """Why a cloud that was wanted has no part in it."""
    energy_j: float | None = None
    """Joules of the edge, modelled; None where nobody asked."""
    gain: float | None = None
    """Over the better end, in what is minimized; None without a cloud."""
    decision: Decision = field(repr=False, kw_only=True)
    """The same with layers as numbers, as the packages inside have it."""

    @classmethod
    def of(
        cls,
        graph: LayerGraph,
        decision: Decision,
        energy_j: float | None = None,
        failure: str = "",
    ) -> Self:
        """From a decision for a graph."""
        boundary, head = decision.boundary(graph), decision.head
        return cls(
            network=graph.name,
            objective=decision.objective,
            method=decision.method,
            point=decision.point(graph),
            edge=_ids(graph, head - graph.only_inputs),
            cloud=_ids(graph, graph.everything - head - graph.only_inputs),
            boundary=_ids(graph, boundary),
            codecs={graph.layers[layer].id: decision.codecs.get(layer, "raw") for layer in boundary},
            predicted=decision.predicted,
            alternatives=tuple(each.predicted for each in decision.candidates),
            is_optimal=decision.is_optimal,
            failure=failure,
            energy_j=energy_j,
            gain=None if decision.gain is None else decision.gain.over,
            decision=decision,
        )

    def __str__(self) -> str:
        cut = "a cut" if self.point is None else f"point {self.point}"
        layers = (
            f"{len(self.edge)} layer{'' if len(self.edge) == 1 else 's'} on the edge, {len(self.cloud)} on the cloud"
        )
        sent = f", {format_bytes(self.predicted.payload_bytes)} sent" if self.cloud else ""
        return f"{cut}: {layers}{sent}, {format_seconds(self.predicted.total_s)} predicted ({self.objective})"


def _ids(graph: LayerGraph, numbers: Sequence[int] | frozenset[int]) -> tuple[str, ...]:
    return tuple(graph.layers[number].id for number in sorted(numbers))


def plan(
    net: Layers,
    edge_times: "Seconds | None" = None,
    cloud_times: "Seconds | None" = None,
    link: Link | None = None,
    goal: Goal | str = "latency",
    *,
    load: float = 1.0,
    queue: str | float = 0.0,
    codec: str = AUTO,
    accuracy_budget: float = defaults.Codec.ACCURACY_BUDGET,
    power: str = defaults.Edge.POWER,
    radio: str = defaults.Edge.RADIO,
    overlap: Literal["auto", "off"] = defaults.Edge.OVERLAP,
    cache_dir: str | Path | None = None,
) -> Plan:
    """Say where a network is best cut, from times and a link. Runs nothing, opens no socket, and needs no torch.

    `net` is a loaded network; or a table of its layers, a row with `id`, `inputs` (ids) and `out_bytes` for each, the
    input first; or a document `{"layers": [...]}` or a file of one (docs/planning.md); or the name of a network, or its
    FILE.py, that was profiled on this machine.

    `edge_times` and `cloud_times` are seconds of every layer on either side, the input's first, or by id; or a profile.
    They may be left out where the rows hold `edge_s` and `cloud_s`, and for a name. The cloud is `load` times slower
    than that, after a wait of `queue` seconds. `goal` says what is to be least: a `Goal`, or the name of an objective.
    `codec` is `auto` (what takes least), `raw` or a codec by name, of those whose sizes the rows, or the cache of a
    profiled network, hold; `accuracy_budget` is the share of answers that lossy ones may change, as a calibration of a
    network, or `loss` in the rows, says. `power` and `radio` are what the edge's energy is modelled with. Tensors whose
    shape is known may leave in chunks (docs/overlap.md), unless `overlap` is `"off"`.

    Raises UsageError for times that are missing or not one for each layer, and for invalid numbers, layers or names.

    >>> import edgecloud as ec
    >>> table = [{"id": "input", "inputs": [], "out_bytes": 600_000, "edge_s": 0, "cloud_s": 0},
    ...          {"id": "conv", "inputs": ["input"], "out_bytes": 50_000, "edge_s": 0.1, "cloud_s": 0.01},
    ...          {"id": "fc", "inputs": ["conv"], "out_bytes": 4_000, "edge_s": 0.9, "cloud_s": 0.02}]
    >>> [ec.plan(table, link=ec.Link(rate)).point for rate in ("100kbit", "5mbit", "1gbit")]
    [2, 1, 0]
    """
    if not isinstance(link, cost.Link):
        raise UsageError("plan needs a link: ec.Link('5mbit', rtt='20ms'), say")
    if not 0 < load < float("inf"):
        raise UsageError(f"load is how many times slower the cloud is than when idle, above 0, not {load!r}")
    from edgecloud.tools import whatif  # an edge imports this module too, and does without

    with wording():
        config = whatif.PlanConfig(
            model=None,
            graph_file=None,
            cache_dir=cache_of(cache_dir),
            up_bytes_per_s=link.up_bytes_per_s,
            down_bytes_per_s=link.down_bytes_per_s,
            rtt_s=link.rtt_s,
            load=load,
            queue_s=_seconds(queue),
            goal=goal_of(goal),
            power=power,
            radio=radio,
            codec=codec,
            overlap=overlap,
            accuracy_budget=_budget(accuracy_budget),
        )
        source, counted = _source(net, edge_times, cloud_times, config)
        planned = whatif.decided(source, config, counted=counted)
        return Plan.of(planned.graph, planned.decision, planned.energy_j)


def _budget(share: float) -> float:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise UsageError(f"accuracy_budget is a share of answers from 0 to 1, such as 0.01, not {share!r}")
    return float(share)


# --- what it is planned from


def _source(
    net: Layers, edge: "Seconds | None", cloud: "Seconds | None", config: "PlanConfig"
) -> "tuple[Source, Counted | None]":
    """A document with the times of both sides, and of a loaded network how it travels."""
    from edgecloud.tools import whatif

    counted: Counted | None = None
    if isinstance(net, str | Path):
        if Path(net).suffix.lower() != ".json":
            return whatif.source_of(_with_files(config, str(net), edge, cloud)), None
        name, document = str(net), whatif.read_json(Path(net))
    elif isinstance(net, Mapping | Sequence):
        name, document = "table", _document(net)
    else:
        name, document, counted = net.name, graph_json.to_document(net.graph), net.counted(config)
    graph_json.parse(document, name)
    rows: list[dict[str, Any]] = [dict(row) for row in document["layers"]]
    for side, times in (("edge", edge), ("cloud", cloud)):
        if times is not None:
            _fill(rows, side, times, name)
        elif not any(f"{side}_s" in row for row in rows):
            raise UsageError(f"{name} has no {side}_s: give plan the {side}_times, seconds of every layer")
    return whatif.Source(document | {"layers": rows}, name), counted


def _with_files(config: "PlanConfig", name: str, edge: "Seconds | None", cloud: "Seconds | None") -> "PlanConfig":
    """For a network by its name: its times are kept in files."""
    times = [each for each in (edge, cloud) if each is not None]
    if not all(isinstance(each, str | Path) for each in times):
        raise UsageError(f"times of {name} belong to its layers: give plan ec.load({name!r}), or files of profiles")
    files = [None if each is None else Path(str(each)) for each in (edge, cloud)]
    return replace(config, model=name, edge_times=files[0], cloud_times=files[1])


def _document(net: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """A table as the document that a file of it would be."""
    document = dict(net) if isinstance(net, Mapping) else {"layers": list(net)}
    if isinstance(document.get("layers"), Sequence) and not isinstance(document["layers"], str):
        document["layers"] = [_row(row) for row in document["layers"]]
    return document


def _row(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return row  # and is refused
    return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}


def _fill(rows: list[dict[str, Any]], side: str, times: Seconds, name: str) -> None:
    """Write the times of a side into the rows. Raises UsageError where they are not one for each."""
    if isinstance(times, str | Path):
        times = store.read(Path(times)).profile
    if isinstance(times, Profile):
        quota = Quota.of_clock(times.key.clock) if side == "edge" else None
        seconds: Sequence[float] = times.seconds if quota is None else quota.layers_s(times.seconds)
        if side == "cloud":
            _write(rows, "start_s", times.start_s, name)
    elif isinstance(times, Mapping):
        unknown = times.keys() - {row["id"] for row in rows}
        if unknown:
            raise UsageError(f"{side}_times: {name} has no layer {str(min(unknown, key=str))[:100]!r}")
        missing = [row["id"] for row in rows[1:] if row["id"] not in times]
        if missing:
            raise UsageError(f"{side}_times: the seconds of layer {missing[0]!r} are missing")
        seconds = [times.get(row["id"], 0.0) for row in rows]
    else:
        seconds = times
    _write(rows, f"{side}_s", seconds, name)


def _write(rows: list[dict[str, Any]], field_name: str, seconds: Sequence[float], name: str) -> None:
    try:
        values = [float(each) for each in seconds]
    except (TypeError, ValueError):
        raise UsageError(f"{field_name} of {name}: seconds are numbers, one for each layer") from None
    if len(values) != len(rows):
        raise UsageError(
            f"{name} has {len(rows)} layers with its input, {len(values)} values of {field_name} were given"
        )
    for row, each in zip(rows, values, strict=True):
        row[field_name] = each
