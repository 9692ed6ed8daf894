"""Times the layers of one network on this device, in the network.

A layer alone costs something else than a layer inside its network: caches are cold or warm, memory is fresh or
reused. So the clock is read between the layers of whole forward passes on a real input, in the same steps
that later run, and the sum of a pass's layers is that pass.

Between two inferences a device waits for the link. A processor that has rested starts slowly (a first convolution
takes up to twice as long, and waking sleeping threads can cost milliseconds), so every pass is measured after a rest.
Such a pass tells what a head takes, which always starts with the first layer. A tail starts in the middle, and pays
for the start there: for some tails that extra is measured, and between them it is interpolated.

The machine may be slower now than it was or will be. After every run the reference work is timed with the clock of the
layers, and what is kept is what the quiet machine takes (predictor.pace). A run around which the speed moved, or in
which others had the processor, is run again (predictor.watch). Half of the passes come last, after the tails: how well
they predict the first half is the noise of the profile.
"""

import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from torch import fx

from edgecloud.models.graph import LayerGraph
from edgecloud.models.specs import UnknownLayerError, describe
from edgecloud.models.split import split
from edgecloud.models.steps import Steps
from edgecloud.models.trace import Traced
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import Mix, Pace, Run, blend, medians
from edgecloud.predictor.profile import Profile, ProfileKey, Progress
from edgecloud.predictor.watch import Watch
from edgecloud.utils.inference_utils import Clock

WARM_UP_PASSES = 2
MIN_PASSES, MAX_PASSES = 3, 6  # of each half
ENOUGH_S = 0.75  # of measured work, of each half
REST_S = 0.1
MIN_STARTS, MAX_STARTS, START_PASSES = 3, 10, 3
STARTS_ENOUGH_S = 4.0  # of work that measuring tails should cost


def measure(
    traced: Traced,
    x: Sequence[torch.Tensor],
    gauge: Gauge,
    key: ProfileKey,
    progress: Progress,
    *,
    tails: bool,
    is_behind: bool = False,
) -> Profile:
    """Time the layers of a network on the inputs `x`, already on the device of the network.

    Six to twelve passes, until 1.5 seconds of work are measured; with `tails`, three to ten tails of it as well. One
    that `is_behind` others, who take the processor away, has more patience for running again what was held up.
    """
    watch = Watch(gauge, is_behind=is_behind)
    half = 0.25 if tails else 0.5
    with torch.inference_mode():
        first = _measure_passes(traced, x, watch, lambda done: progress(done * half))
        starts = _start_layers(traced.graph, median(sum(run.seconds) for run in first)) if tails else []
        tail_runs = _measure_tails(traced, x, watch, starts, lambda done: progress(half + done * (1 - 2 * half)))
        later = _measure_passes(traced, x, watch, lambda done: progress(1 - half + done * half))
    if gauge.is_elapsed:
        first, later = faster_half(first), faster_half(later)
    return quiet_profile(key, first, later, tail_runs, watch.readings.quiet(), mixes_of(gauge, traced))


def mixes_of(gauge: Gauge, traced: Traced) -> tuple[Mix, ...]:
    """What every layer of a network feels of a slowdown, the input first."""
    try:
        specs = describe(traced)
    except UnknownLayerError:
        specs = None
    return gauge.mixes(specs, len(traced.graph.layers))


def faster_half(runs: list[Run]) -> list[Run]:
    """In elapsed time: while one thread has no processor all others wait, and a layer takes many times as long."""
    return sorted(runs, key=lambda run: sum(run.seconds))[: (len(runs) + 1) // 2]


def quiet_profile(
    key: ProfileKey,
    first: list[Run],
    later: list[Run],
    tails: dict[int, list[Run]],
    quiet: Pace | None,
    mixes: tuple[Mix, ...],
) -> Profile:
    """What was measured, as the quiet machine takes it."""
    if quiet is None:
        passes = tuple(run.seconds for run in (*first, *later))
        plain = {layer: tuple(run.seconds[0] for run in runs) for layer, runs in tails.items()}
        return Profile(key, passes, plain, None, len(first))
    passes = tuple(run.quietly(quiet, mixes) for run in (*first, *later))
    seconds = medians(passes)
    tail_times = {
        layer: tuple(run.quietly(quiet, [blend(seconds[layer + 1 :], mixes[layer + 1 :])])[0] for run in runs)
        for layer, runs in tails.items()
    }
    return Profile(key, passes, tail_times, quiet, len(first))


def _measure_passes(traced: Traced, x: Sequence[torch.Tensor], watch: Watch, progress: Progress) -> list[Run]:
    module = with_clock(traced, watch.gauge.clock)
    for _ in range(WARM_UP_PASSES):
        module(*x)

    def one_pass() -> list[float]:
        time.sleep(REST_S)
        stamps: list[float] = module(*x)[1]
        return stamps

    passes: list[Run] = []
    of_inputs = (0.0,) * len(traced.graph.inputs)
    spent = 0.0
    while len(passes) < MIN_PASSES or (spent < ENOUGH_S and len(passes) < MAX_PASSES):
        passes.append(watch.run(one_pass, lambda stamps: (*of_inputs, *_between(stamps)), REST_S))
        spent += sum(passes[-1].seconds)
        progress(min(len(passes) / MIN_PASSES, max(spent / ENOUGH_S, len(passes) / MAX_PASSES), 1.0))
    return passes


def _between(stamps: list[float]) -> list[float]:
    return [max(0.0, end - begin) for begin, end in pairwise(stamps)]


def with_clock(traced: Traced, clock: Clock) -> Steps:
    """The network with the clock read before the first layer and after each one: makes (answers, stamps)."""
    last_of_layer = {group[-1] for group in traced.nodes[len(traced.graph.inputs) :]}
    ticking = fx.Graph()
    sources = [traced.nodes[number][0] for number in traced.graph.inputs]
    nodes: list[fx.Node] = []
    stamps: list[fx.Node] = []
    for node in traced.module.graph.nodes:
        if node.op not in ("placeholder", "output"):
            nodes.append(node)
        if node is sources[-1] or node in last_of_layer:
            stamps.append(ticking.call_function(clock))
            nodes.append(stamps[-1])
    answers = tuple(traced.nodes[number][-1] for number in traced.graph.outputs)
    return Steps(traced.module, sources, nodes, (answers, stamps))


def _measure_tails(
    traced: Traced, x: Sequence[torch.Tensor], watch: Watch, starts: list[int], progress: Progress
) -> dict[int, list[Run]]:
    times: dict[int, list[Run]] = {}
    for count, layer in enumerate(starts):
        head, tail = split(traced, range(layer + 1))
        boundary = dict(zip(head.outputs, head.module(*x), strict=True))
        crossing = [boundary[number] for number in tail.inputs]
        time_tail = partial(_time_tail, tail.module, crossing, watch.gauge.clock)
        times[layer] = [watch.run(time_tail, lambda seconds: (seconds,), REST_S) for _ in range(START_PASSES)]
        progress((count + 1) / len(starts))
    return times


def _time_tail(module: Steps, crossing: list[torch.Tensor], clock: Clock) -> float:
    mine = [tensor.clone() for tensor in crossing]  # a tail may work in place on what it is given
    time.sleep(REST_S)
    begin = clock()
    module(*mine)
    return clock() - begin


def _start_layers(graph: LayerGraph, pass_s: float) -> list[int]:
    """Layers of some points, evenly spread, without the ends; the fewer the longer a pass takes."""
    inner = [point.layer for point in graph.points[1:-1]]
    affordable = int(STARTS_ENOUGH_S / (START_PASSES * pass_s / 2))  # a tail is half a pass on average
    count = min(len(inner), max(MIN_STARTS, min(MAX_STARTS, affordable)))
    return [inner[round(step * (len(inner) - 1) / max(1, count - 1))] for step in range(count)]
