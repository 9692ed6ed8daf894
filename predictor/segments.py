"""Times of heads and tails where a runtime joins layers, so that no layer has a time of its own. Pure.

Some cuts are measured; what lies between them follows the work of the layers there, scaled so that the measured ones
come out right. The result is a profile like any other: its layers add up to the heads, and what a tail takes beyond its
layers is its start. So a tail is as it was measured, and not what is left of the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

from edgecloud.models.graph import LayerGraph
from edgecloud.models.specs import LayerSpec

MADE_OF_NOTHING = {"view", "batchnorm", "activation"}
"""Kinds that a runtime usually computes while it computes another layer."""


@dataclass(frozen=True)
class CutTimes:
    """Seconds of the head and of the tail at some points, each measured several times. The whole is a head."""

    heads: Mapping[int, tuple[float, ...]]
    tails: Mapping[int, tuple[float, ...]]


def chosen(graph: LayerGraph, work: Sequence[float], count: int) -> list[int]:
    """At most so many points to measure, by their numbers: evenly spread over the work, and without both ends."""
    inner = range(1, len(graph.points) - 1)
    if count >= len(inner):
        return list(inner)
    done = [sum(work[: graph.points[number].layer + 1]) for number in inner]
    targets = [done[-1] * (step + 0.5) / count for step in range(count)] if done else []
    found = {min(range(len(done)), key=lambda place: abs(done[place] - target)) for target in targets}
    return [inner[place] for place in sorted(found)]


def spread(points: Sequence[int]) -> list[int]:
    """The same points in another order: whatever part of it comes first is spread over all of them."""
    return [*points[::4], *points[2::4], *points[1::2]]


def work_of(graph: LayerGraph, specs: Sequence[LayerSpec] | None) -> tuple[float, ...]:
    """How much there is to do in every layer, in no unit: only shares count, and only between measured cuts."""
    if specs is None:
        return tuple(1.0 + layer.out_bytes if layer.inputs else 0.0 for layer in graph.layers)
    return (0.0, *(_work(spec) for spec in specs))


def _work(spec: LayerSpec) -> float:
    """About nanoseconds on one core."""
    if spec.kind in MADE_OF_NOTHING:
        return 0.02 * spec.out_bytes
    macs = spec.macs * (0.2 if spec.kind == "dw_conv" else 0.03)
    return macs + 0.05 * (spec.in_bytes + spec.out_bytes) + 0.1 * spec.weight_bytes + 200


def fitted(graph: LayerGraph, work: Sequence[float], times: CutTimes) -> tuple[tuple[float, ...], dict[int, float]]:
    """Seconds of every layer, and of the tail after the layer of every inner point that can be told.

    The heads must hold the last point, which is the whole.
    """
    seconds = _between(graph, work, {number: median(each) for number, each in times.heads.items()})
    if not times.tails:
        return seconds, {}
    whole_s = sum(seconds)
    left = {number: median(each) for number, each in times.tails.items()}
    last = len(graph.points) - 1
    undone = {number: max(0.0, left.get(0, whole_s) - s) for number, s in left.items()} | {last: left.get(0, whole_s)}
    done = list(accumulate(_between(graph, work, undone)))
    layers = [point.layer for point in graph.points[1:-1]]
    return seconds, {layer: max(0.0, done[-1] - done[layer]) for layer in layers}


def _between(graph: LayerGraph, work: Sequence[float], known: Mapping[int, float]) -> tuple[float, ...]:
    """Seconds of every layer, so that their sums are what is known at points, none below zero."""
    seconds = [0.0] * len(graph.layers)
    measured = ((graph.points[number].layer, known[number]) for number in sorted(known) if number)
    places = [(graph.inputs[-1], 0.0), *measured]
    highest = 0.0
    for (begin, _), (end, until_s) in pairwise(places):
        span = range(begin + 1, end + 1)
        total = sum(work[number] for number in span)
        added, highest = max(0.0, until_s - highest), max(highest, until_s)
        for number in span:
            seconds[number] = added * (work[number] / total if total else 1 / len(span))
    return tuple(seconds)


def best_of(
    times: Sequence[tuple[Sequence[float], Sequence[float]]], layers: Sequence[int], *, tails: bool
) -> tuple[tuple[float, ...], dict[int, float]]:
    """Of several profiles, seconds of layers and starts of tails, the best of all heads, or with `tails` of all tails.

    `layers` are those of the inner points, for which the tail that begins after each is given as well. Where a head is
    best with one of them and the tail behind it with another, only the one or the other can be right: an edge needs
    heads, a cloud tails.
    """
    done = [list(accumulate(seconds)) for seconds, _ in times]
    left = {
        layer: min(sums[-1] - sums[layer] + starts[layer] for sums, (_, starts) in zip(done, times, strict=True))
        for layer in layers
    }
    if tails:
        rest = [min(sums[-1] - sums[layer] for sums in done) for layer in range(len(done[0]))]
        return (0.0, *(max(0.0, before - after) for before, after in pairwise(rest))), left
    heads = [min(sums[layer] for sums in done) for layer in range(len(done[0]))]
    return (0.0, *(max(0.0, after - before) for before, after in pairwise(heads))), {}


def checked(graph: LayerGraph, work: Sequence[float], times: CutTimes) -> float:
    """The median error of a head that is left out and told from the others, as a share of it; 0 where none can be."""
    errors = []
    last = len(graph.points) - 1
    for number, measured in times.heads.items():
        if number == last:
            continue
        others = {other: each for other, each in times.heads.items() if other != number}
        seconds, _ = fitted(graph, work, CutTimes(others, {}))
        head_s = sum(seconds[: graph.points[number].layer + 1])
        errors.append(abs(head_s / median(measured) - 1) if median(measured) else 0.0)
    return median(errors) if errors else 0.0
