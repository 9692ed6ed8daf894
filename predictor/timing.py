"""Times the layers of one network on this device, in the network.

A layer alone costs something else than a layer inside its network: caches are cold or warm, memory is fresh or
reused. So the clock is read between the layers of whole forward passes on a real input, in the same steps
that later run, and the sum of a pass's layers is that pass.

Between two inferences a device waits for the link. A processor that has rested starts slowly (a first convolution
takes up to twice as long, and waking sleeping threads can cost milliseconds), so every pass is measured after a rest.
Such a pass tells what a head takes, which always starts with the first layer. A tail starts in the middle, and pays
for the start there: for some tails that extra is measured, and between them it is interpolated.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from typing import TypeVar

import torch
from torch import fx

from edgecloud.models.graph import LayerGraph
from edgecloud.models.split import split
from edgecloud.models.steps import Steps
from edgecloud.models.trace import Traced
from edgecloud.predictor.profile import Profile, ProfileKey, Progress
from edgecloud.utils.inference_utils import Clock, waited_s

R = TypeVar("R")
WARM_UP_PASSES = 2
MIN_PASSES, MAX_PASSES = 5, 15
ENOUGH_S = 1.5  # of measured work
REST_S = 0.1
MIN_STARTS, MAX_STARTS, START_PASSES = 3, 10, 3
STARTS_ENOUGH_S = 4.0  # of work that measuring tails should cost
HELD_UP, TRIES = 0.05, 4  # how much of its time a run may have waited for a processor; how often it is run
PATIENCE_S = 5.0  # for runs that are repeated


def measure(
    traced: Traced,
    x: torch.Tensor,
    clock: Clock,
    key: ProfileKey,
    progress: Progress,
    *,
    tails: bool,
    is_behind: bool = False,
) -> Profile:
    """Time the layers of a network on the input `x`, shape (1, ...), already on the device of the network.

    At least five passes, until 1.5 seconds of work are measured; with `tails`, three to ten tails of it as well. One
    that `is_behind` others, who take the processor away, is run again, and the passes that were held up least count.
    """
    patience = _Patience(PATIENCE_S if is_behind else 0.0)
    share = 0.5 if tails else 1.0
    with torch.inference_mode():
        passes = _measure_passes(traced, x, clock, patience, lambda done: progress(done * share))
        starts = _start_layers(traced.graph, median(map(sum, passes))) if tails else []
        tail_times = _measure_tails(traced, x, clock, starts, patience, lambda done: progress(share + done * share))
    return Profile(key, passes, tail_times)


class _Patience:
    """Runs again what was held up by others, as long as there are seconds left for that."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    def again(self, run: Callable[[], R]) -> R:
        """The first run that hardly waited for a processor, or of some the one that waited least."""
        runs: list[tuple[float, R]] = []
        while True:
            before, began = waited_s(), time.perf_counter()
            result = run()
            took_s = time.perf_counter() - began
            runs.append((waited_s() - before, result))
            self._left_s -= took_s if len(runs) > 1 else 0.0
            if runs[-1][0] <= HELD_UP * took_s or len(runs) >= TRIES or self._left_s < took_s:
                return min(runs, key=lambda pair: pair[0])[1]


def _measure_passes(
    traced: Traced, x: torch.Tensor, clock: Clock, patience: _Patience, progress: Progress
) -> tuple[tuple[float, ...], ...]:
    module = with_clock(traced, clock)
    for _ in range(WARM_UP_PASSES):
        module(x)
    passes: list[tuple[float, ...]] = []
    spent = 0.0
    while len(passes) < MIN_PASSES or (spent < ENOUGH_S and len(passes) < MAX_PASSES):
        time.sleep(REST_S)
        _, stamps = patience.again(lambda: module(x))
        passes.append((0.0, *(max(0.0, end - begin) for begin, end in pairwise(stamps))))
        spent += sum(passes[-1])
        progress(min(len(passes) / MIN_PASSES, max(spent / ENOUGH_S, len(passes) / MAX_PASSES), 1.0))
    return tuple(passes)


def with_clock(traced: Traced, clock: Clock) -> Steps:
    """The network with the clock read before the first layer and after each one: makes (answers, stamps)."""
    last_of_layer = {group[-1] for group in traced.nodes[1:]}
    ticking = fx.Graph()
    source = traced.nodes[0][0]
    nodes: list[fx.Node] = []
    stamps: list[fx.Node] = []
    for node in traced.module.graph.nodes:
        if node.op not in ("placeholder", "output"):
            nodes.append(node)
        if node is source or node in last_of_layer:
            stamps.append(ticking.call_function(clock))
            nodes.append(stamps[-1])
    answers = tuple(traced.nodes[number][-1] for number in traced.graph.outputs)
    return Steps(traced.module, [source], nodes, (answers, stamps))


def _measure_tails(
    traced: Traced, x: torch.Tensor, clock: Clock, starts: list[int], patience: _Patience, progress: Progress
) -> dict[int, tuple[float, ...]]:
    times: dict[int, tuple[float, ...]] = {}
    for count, layer in enumerate(starts):
        head, tail = split(traced, range(layer + 1))
        boundary = dict(zip(head.outputs, head.module(x), strict=True))
        crossing = [boundary[number] for number in tail.inputs]
        times[layer] = tuple(
            patience.again(partial(_time_tail, tail.module, crossing, clock)) for _ in range(START_PASSES)
        )
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
