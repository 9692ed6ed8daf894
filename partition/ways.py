"""The ways of running a network, with their predicted seconds by kind of work, for partition.steering. Pure.

Kinds of layers that hardly matter share one factor: fewer factors are learnt sooner.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgecloud.models.graph import LayerGraph
from edgecloud.partition import chain
from edgecloud.partition.adaptive import IN_ONE_PIECE, LINK_SD, Believed, Shares, Ways
from edgecloud.partition.chunking import Overlapped, overlapped
from edgecloud.partition.cost import Part, Problem, StageTimes, parts_of, predict
from edgecloud.partition.drift import Floats, SideFactors, Stage
from edgecloud.partition.overlap import Overlap

MATTERS = 0.03  # of all seconds of a side: a kind with less has no factor of its own
PACKING_SD = 0.7  # short times, of other data: a packing's first measurement says most
CHUNKS_SD = 0.7  # of what further blocks of rows take: that depends on caches, too
PACKING_NOISE = 0.1  # packing is short, and depends on what is packed


@dataclass(frozen=True, eq=False)
class Kinds:
    """The kind of every layer on one side, as a number of a column; layers that hardly matter are in the last one."""

    of: tuple[int, ...]
    count: int

    @classmethod
    def of_layers(cls, graph: LayerGraph, seconds: Sequence[float]) -> "Kinds":
        """By what they take on this side."""
        sums: dict[str, float] = {}
        for layer, layer_s in zip(graph.layers, seconds, strict=True):
            sums[layer.kind] = sums.get(layer.kind, 0.0) + layer_s
        enough = MATTERS * sum(sums.values())
        columns = {kind: number for number, kind in enumerate(kind for kind, s in sorted(sums.items()) if s > enough)}
        return cls(tuple(columns.get(layer.kind, len(columns)) for layer in graph.layers), len(columns) + 1)

    def rows(self, seconds: Sequence[float]) -> Floats:
        """Seconds of every layer in the column of its kind: (layers, kinds)."""
        table = np.zeros((len(self.of), self.count))
        table[np.arange(len(self.of)), list(self.of)] = seconds
        return table


@dataclass(frozen=True, eq=False)
class Table:
    """All ways of a problem. `edge` and `cloud` hold seconds by kind on an idle cloud, then what chunks take more to
    compute, and packing last."""

    names: tuple[str, ...]
    parts: tuple[tuple[Part, ...], ...]
    codecs: tuple[Mapping[int, str], ...]
    edge: Floats
    cloud: Floats
    up_bytes: Floats
    down_bytes: Floats
    ends: tuple[str, ...]
    """The names of all on the cloud and all on the edge, where they are among them."""
    kinds: tuple[Kinds, Kinds] = field(repr=False)
    whole_s: float
    """Seconds of all layers on the edge, as they are in `edge`."""
    overlaps: tuple[Overlap | None, ...] = ()
    """How the boundary of each way leaves in chunks."""
    shares: Shares | None = None
    """How their stages overlap; None where none does."""

    def name_of(self, parts: Sequence[Part]) -> str | None:
        """The name of a way; None where it is none of them."""
        return next((name for name, each in zip(self.names, self.parts, strict=True) if each == tuple(parts)), None)

    def at(self, problem: Problem) -> Ways:
        """With the link of a problem, the load and queue of its cloud, and the speed that its edge has by now."""
        link, cloud = problem.link, problem.cloud
        is_sent = (self.down_bytes > 0).astype(float)
        transfer = np.column_stack(
            [self.up_bytes / link.up_bytes_per_s, is_sent * link.rtt_s + self.down_bytes / link.down_bytes_per_s]
        )
        loaded = self.cloud.copy()
        loaded[:, :-1] *= cloud.load  # unpacking is measured in a thread of its own
        edge = self.edge.copy()
        if self.whole_s > 0:
            edge[:, :-1] *= sum(problem.edge_s) / self.whole_s
        return Ways(edge, transfer, loaded, is_sent * cloud.queue_s, self.shares)


def table_of(
    exact: Problem, points: Problem, others: Iterable[frozenset[int]] = (), fits: Sequence[bool] = ()
) -> Table:
    """The points, with the packing of one problem, and other cuts, with that of another; of these the best chunks.

    `fits` says of every point whether a frame can carry it; all of them where it is empty.
    """
    graph, others = exact.graph, tuple(others)
    kinds = Kinds.of_layers(graph, exact.edge_s), Kinds.of_layers(graph, exact.cloud.seconds)
    rows = kinds[0].rows(exact.edge_s), kinds[1].rows(exact.cloud.seconds)
    cuts = [
        (str(point.number), graph.head_at(point.number), points)
        for point in graph.points
        if not fits or fits[point.number]
    ]
    known = {head for _, head, _ in cuts}
    cuts += [(_name(head), head, exact) for head in dict.fromkeys(others) if head not in known]
    known_points = {graph.head_at(each.point.number): each.sent for each in chain.scan(points)}
    sent = [
        known_points[head] if head in known_points else overlapped(exact, parts_of(graph, head)) for _, head, _ in cuts
    ]
    for (name, head, problem), each in list(zip(cuts, sent, strict=True)):
        if each.overlap is not None:
            cuts.append((f"{name}{IN_ONE_PIECE}", head, problem))
            sent.append(Overlapped(predict(problem, parts_of(graph, head))))
    lines = [_Line.of(problem, head, rows, each) for (_, head, problem), each in zip(cuts, sent, strict=True)]
    names = tuple(name for name, *_ in cuts)
    ends = ("0", f"0{IN_ONE_PIECE}", str(len(graph.points) - 1))
    return Table(
        names,
        tuple(line.parts for line in lines),
        tuple(line.codecs for line in lines),
        np.array([line.edge for line in lines]),
        np.array([line.cloud for line in lines]),
        np.array([line.up_bytes for line in lines], dtype=float),
        np.array([line.down_bytes for line in lines], dtype=float),
        tuple(end for end in ends if end in names),
        kinds,
        float(sum(exact.edge_s)),
        tuple(line.sent.overlap for line in lines),
        _shares([line.sent for line in lines]),
    )


def point_of(name: str) -> int | None:
    """The point that a way cuts at; None where several tensors cross."""
    plain = name.removesuffix(IN_ONE_PIECE)
    return int(plain) if plain.isdecimal() else None


def _shares(sent: Sequence[Overlapped]) -> Shares | None:
    longest = max(len(each.shares) for each in sent)
    if not longest:
        return None
    table = np.zeros((longest, 5, len(sent)))
    for number, each in enumerate(sent):
        if each.shares:
            table[: len(each.shares), :, number] = each.shares
    return Shares(table, np.array([each.overlap is not None and each.overlap.tail_rows for each in sent]))


def _name(head: frozenset[int]) -> str:
    digest = hashlib.sha256(",".join(map(str, sorted(head))).encode()).hexdigest()
    return f"cut {digest[:8]}"


@dataclass(frozen=True, eq=False)
class _Line:
    parts: tuple[Part, ...]
    codecs: Mapping[int, str]
    edge: Floats
    cloud: Floats
    up_bytes: int = 0
    down_bytes: int = 0
    sent: Overlapped = field(default_factory=lambda: Overlapped(StageTimes()))

    @classmethod
    def of(cls, problem: Problem, head: frozenset[int], rows: tuple[Floats, Floats], sent: Overlapped) -> "_Line":
        graph, parts = problem.graph, parts_of(problem.graph, head)
        edge = np.concatenate([rows[0][sorted(head)].sum(axis=0), [0.0, 0.0]])
        cloud = np.zeros(rows[1].shape[1] + 2)
        if len(parts) == 1:
            return cls(parts, {}, edge, cloud)
        tail = parts[-1].layers
        crossing = graph.inputs_of(tail)
        packed = problem.crossing(crossing)
        cloud[:-2] = rows[1][sorted(tail)].sum(axis=0)
        cloud[-3] += problem.cloud.start_s[graph.points[graph.entry(head)].layer]
        edge[-1], cloud[-1] = sent.predicted.encode_s, sent.predicted.decode_s
        up_bytes = packed.bytes
        if sent.overlap is not None:  # every further chunk has a frame of its own
            up_bytes = round(sent.predicted.upload_s * problem.link.up_bytes_per_s)
            edge[-2] = max(0.0, sent.predicted.edge_s - float(edge[:-1].sum()))
            cloud[-2] = max(0.0, sent.predicted.cloud_s / problem.cloud.load - float(cloud[:-1].sum()))
        codecs = {} if problem.packed is None else {layer: problem.packed[layer].codec for layer in crossing}
        return cls(parts, codecs, edge, cloud, up_bytes, max(1, problem.result_bytes), sent)


def first_belief(table: Table, edge_sd: float, cloud_sd: float) -> Believed:
    """Before anything was measured: by how much, as logarithms, the seconds of either side may be wrong."""
    edge, cloud = (
        [sd] * kinds.count + [CHUNKS_SD, PACKING_SD] for sd, kinds in zip((edge_sd, cloud_sd), table.kinds, strict=True)
    )
    return Believed(SideFactors.start(edge), SideFactors.start([LINK_SD, LINK_SD]), SideFactors.start(cloud))


def corrected(problem: Problem, table: Table, believed: Believed) -> Problem:
    """The problem as it is believed to be: every second multiplied by its factor."""
    edge, link, cloud = (side.factors for side in believed.sides)
    edge_s = [s * edge[kind] for s, kind in zip(problem.edge_s, table.kinds[0].of, strict=True)]
    cloud_s = [s * cloud[kind] for s, kind in zip(problem.cloud.seconds, table.kinds[1].of, strict=True)]
    start_s = [s * cloud[-3] for s in problem.cloud.start_s]
    chunking = problem.chunking
    if chunking is not None:
        chunking = replace(
            chunking,
            edge_blocks=chunking.edge_blocks * edge[-2],
            cloud_blocks=chunking.cloud_blocks * cloud[-2],
            rest_s=chunking.rest_s * cloud[-2],
        )
    up, rest = float(link[0]), float(link[1])
    rates = replace(
        problem.link,
        up_bytes_per_s=problem.link.up_bytes_per_s / up,
        down_bytes_per_s=problem.link.down_bytes_per_s / rest,
        rtt_s=problem.link.rtt_s * rest,
    )
    cloud_times = replace(problem.cloud, seconds=cloud_s, start_s=start_s)
    return replace(problem, edge_s=edge_s, cloud=cloud_times, link=rates, chunking=chunking)


def stages_of(predicted: Floats, computing_s: float, packing_s: float, extra_sd: float) -> tuple[Stage, ...]:
    """What one side of one inference shows: computing, and packing, each if there is any."""
    computing, packing = predicted.copy(), np.zeros_like(predicted)
    computing[-1], packing[-1] = 0.0, predicted[-1]
    stages = (Stage(computing, computing_s, extra_sd), Stage(packing, packing_s, extra_sd + PACKING_NOISE))
    return tuple(stage for stage in stages if stage.is_usable)
