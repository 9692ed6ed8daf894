"""Measuring the layers of one network on this device, in place.

A layer alone costs something else than a layer inside its network: caches are cold or warm, memory is fresh or
reused. So the clock is read between the layers of whole forward passes on a real input, in the same compiled graph
that later runs, and the sum of a pass's layers is that pass.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import fx

from models.trace import Traced
from utils.inference_utils import Clock

WARM_UP_PASSES = 2
MIN_PASSES, MAX_PASSES = 5, 40
ENOUGH_S = 1.5
SCHEMA = 1

Progress = Callable[[float], None]
"""Is told the share of the work that is done, 0 to 1."""


@dataclass(frozen=True)
class ProfileKey:
    """What a measured time depends on. Times with different keys are never mixed."""

    model: str
    graph: str
    weights: str
    device: str
    threads: int
    backend: str
    clock: str
    torch: str
    schema: int = SCHEMA


@dataclass(frozen=True)
class Profile:
    """Every measured second of every layer, in passes; the first of each pass is the input and costs nothing."""

    key: ProfileKey
    passes: tuple[tuple[float, ...], ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """Median seconds of every layer."""
        return tuple(median(times) for times in zip(*self.passes, strict=True))


def measure(
    traced: Traced, x: torch.Tensor, clock: Clock, key: ProfileKey, progress: Progress = lambda _: None
) -> Profile:
    """Time the layers of a network on the input `x`, shape (1, ...), already on the device of the network.

    At least five passes, until 1.5 seconds of work are measured.
    """
    module = _with_clock(traced, clock)
    passes: list[tuple[float, ...]] = []
    with torch.inference_mode():
        for _ in range(WARM_UP_PASSES):
            module(x.clone())
        spent = 0.0
        while len(passes) < MIN_PASSES or (spent < ENOUGH_S and len(passes) < MAX_PASSES):
            _, stamps = module(x.clone())
            passes.append((0.0, *(max(0.0, end - begin) for begin, end in zip(stamps, stamps[1:], strict=False))))
            spent += sum(passes[-1])
            progress(min(1.0, max(spent / ENOUGH_S, len(passes) / MAX_PASSES), len(passes) / MIN_PASSES))
    return Profile(key, tuple(passes))


def _with_clock(traced: Traced, clock: Clock) -> fx.GraphModule:
    """The network's graph with the clock read before the first layer and after each one."""
    last_of_layer = {group[-1] for group in traced.nodes[1:]}
    graph, here, stamps = fx.Graph(), {}, []
    for node in traced.module.graph.nodes:
        if node.op == "output":
            continue
        here[node] = graph.node_copy(node, here.__getitem__)
        if node is traced.nodes[0][0] or node in last_of_layer:
            stamps.append(graph.call_function(clock))
    answers: Any = tuple(here[traced.nodes[number][-1]] for number in traced.graph.outputs)
    graph.output((answers, stamps))
    return fx.GraphModule(traced.module, graph, "Timed")


def work_clock() -> float:
    """Seconds of work of this thread: what a slower device would take longer for. Waiting does not count."""
    return time.thread_time()
