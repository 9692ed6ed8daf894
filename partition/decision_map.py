"""All bandwidths at which the best cut changes, computed once, so that a running edge only looks it up.

With everything else fixed, what a cut costs is a straight line in one over the upload rate, and the best cuts are the
lower envelope of these lines. For a chain the lowest line anywhere is found by trying every point, for a graph by a
minimum cut (parametric cuts; CAS, IMWUT 2021, keeps a graph of such states). That is without overlap: with it a cut
takes no more than its line, so the map is an upper bound everywhere, and near its borders another cut may be better.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from edgecloud.models.graph import LayerGraph
from edgecloud.partition import chain
from edgecloud.partition.cost import LATENCY, Link, Packed, Problem, StageTimes, StageWeights, parts_of, predict
from edgecloud.partition.envelope import Line, envelope
from edgecloud.partition.gain import gain_at, most_gained
from edgecloud.partition.mincut import CutSolver
from edgecloud.partition.packing import RAW, Allowed

SLOWEST, FASTEST = 125.0, 12.5e9  # bytes per second: 1 kbit to 100 gbit
WeightsAt = Callable[[Link], StageWeights]


def follow(link: Link) -> Callable[[float], Link]:
    """Links of any upload rate whose download keeps its ratio to it."""
    ratio = link.down_bytes_per_s / link.up_bytes_per_s
    return lambda rate: Link(rate, rate * ratio, link.rtt_s)


def keep_download(link: Link) -> Callable[[float], Link]:
    """Links of any upload rate with the same download."""
    return lambda rate: Link(rate, link.down_bytes_per_s, link.rtt_s)


@dataclass(frozen=True, slots=True)
class Region:
    """The cut that is best from an upload rate on, in bytes per second, up to where the next region begins."""

    from_bytes_per_s: float
    head: frozenset[int]
    line: Line
    """Its value over 1 / upload rate."""
    codec: str = RAW
    """How the boundary is packed there."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """A cut, and how each tensor that crosses it travels; nothing where the problem says that itself."""

    head: frozenset[int]
    ways: tuple[tuple[int, Packed], ...] = ()

    def of(self, problem: Problem) -> Problem:
        """The problem with these ways."""
        if not self.ways:
            return problem
        packed = [Packed(RAW, layer.out_bytes) for layer in problem.graph.layers]
        for layer, way in self.ways:
            packed[layer] = way
        return replace(problem, packed=packed)

    @property
    def codec(self) -> str:
        return ",".join(dict.fromkeys(way.codec for _, way in self.ways)) or RAW


@dataclass(frozen=True)
class DecisionMap:
    """The best cut of every upload rate, slowest first. Outside of what was searched the nearest region holds."""

    graph: LayerGraph
    regions: tuple[Region, ...]
    begins: tuple[float, ...]
    ends: tuple[Line, ...] = ()
    """What all on the edge takes, and all on the cloud with each way to send the input, over 1 / upload rate."""
    fastest: float = FASTEST

    @classmethod
    def of(
        cls,
        problem: Problem,
        link_at: Callable[[float], Link] | None = None,
        weights_at: WeightsAt = lambda _: LATENCY,
        between: tuple[float, float] = (SLOWEST, FASTEST),
        allowed: Allowed | None = None,
    ) -> "DecisionMap":
        """Search all upload rates between two, in bytes per second.

        `link_at` is the link of a rate; its download has to be fixed or in proportion. `weights_at` must weigh every
        stage but the upload and the download the same whatever the link: 1 for latency, watts of a radio that are
        linear in the rate for energy. With `allowed` each rate has its own best codecs, lossy ones where a single
        tensor crosses, and a region ends where they change too. Raises ValueError as `best_cut` does.
        """
        problem = replace(problem, chunking=None)
        graph, at = problem.graph, link_at or follow(problem.link)
        solver = None if graph.is_chain else CutSolver(graph)

        def lowest(x: float) -> _Cut:
            link = at(1 / x)
            there, weights = replace(problem, link=link), weights_at(link)
            if allowed is None:
                return _Cut(best_cut(there, weights, solver))
            exact = allowed.exact(there, weights)
            found = [(exact, best_cut(exact, weights, solver))]
            if allowed.lossy:
                points = allowed.with_lossy(there, weights)
                found.append((points, best_cut(points, weights, None)))
            packed, head = min(found, key=lambda pair: weights.value(_predicted(pair[0], pair[1], link)))
            return _Cut(head, tuple((n, packed.packed[n]) for n in graph.boundary(head)) if packed.packed else ())

        def line_of(cut: _Cut) -> Line:
            xs, sent = (1 / between[1], 1 / between[0]), cut.of(problem)
            values = [weights_at(at(1 / x)).value(_predicted(sent, cut.head, at(1 / x))) for x in xs]
            slope = (values[1] - values[0]) / (xs[1] - xs[0])
            return Line(values[0] - slope * xs[0], slope)

        pieces = envelope(lowest, line_of, 1 / between[1], 1 / between[0])
        ends = [*(1 / piece.begin for piece in pieces[1:]), between[0]]
        spans = zip(pieces, ends, strict=True)
        regions = [Region(end, piece.item.head, piece.line, piece.item.codec) for piece, end in spans][::-1]
        ways: list[tuple[tuple[int, Packed], ...]] = [()]
        if allowed is not None:
            ways = _ways_of_inputs(graph, allowed)
        whole = [_Cut(graph.everything), *(_Cut(graph.only_inputs, way) for way in ways)]
        begins = tuple(region.from_bytes_per_s for region in regions)
        return cls(graph, tuple(regions), begins, tuple(map(line_of, whole)), between[1])

    def lookup(self, up_bytes_per_s: float) -> frozenset[int]:
        """The best cut at an upload rate. Takes about a microsecond."""
        return self.region_at(up_bytes_per_s).head

    def region_at(self, up_bytes_per_s: float) -> Region:
        """The region of an upload rate."""
        return self.regions[max(0, bisect_right(self.begins, up_bytes_per_s) - 1)]

    def gain_at(self, up_bytes_per_s: float) -> float:
        """What the best cut gains over the better end at an upload rate; 1 where it is an end."""
        return gain_at(1 / up_bytes_per_s, self.region_at(up_bytes_per_s).line, self.ends)

    def gains(self) -> Iterator[tuple[float, float]]:
        """For every region the most that its cut gains over the better end, and the upload rate of that."""
        for region, (begin, end) in zip(self.regions, pairwise((*self.begins, self.fastest)), strict=True):
            gain, x = most_gained(region.line, self.ends, 1 / end, 1 / begin)
            yield gain, 1 / x


def _ways_of_inputs(graph: LayerGraph, allowed: Allowed) -> list[tuple[tuple[int, Packed], ...]]:
    """How the inputs may travel; several of them with the same codec, but for those that do not take it."""
    crossing = graph.crossing_at(0)
    if len(crossing) == 1:
        return [((crossing[0], way),) for way in allowed.alone(crossing[0])]
    by_codec = [{way.codec: way for way in allowed.lossless[number]} for number in crossing]
    codecs = dict.fromkeys(codec for ways in by_codec for codec in ways)
    first = [next(iter(ways.values())) for ways in by_codec]
    each = list(zip(crossing, by_codec, first, strict=True))
    return [tuple((number, ways.get(codec, way)) for number, ways, way in each) for codec in codecs]


def best_cut(problem: Problem, weights: StageWeights, solver: CutSolver | None) -> frozenset[int]:
    """The cut with the least weighted sum of stages: of all cuts where there is a solver, else of all points.

    Raises ValueError where a solver is asked and a term is negative or not a number.
    """
    if solver is not None:
        return solver.best(solver.terms(problem, weights))
    return problem.graph.head_at(chain.best(chain.scan(problem), weights).point.number)


def _predicted(problem: Problem, head: frozenset[int], link: Link) -> StageTimes:
    return predict(replace(problem, link=link), parts_of(problem.graph, head))
