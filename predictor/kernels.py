"""Measures pieces of random networks in ONNX Runtime, in their network. No torch.

The runtime's own profile says how long every node of its optimised graph took. A node is told by its name, which is
that of the tensor that it makes; what it puts in order before (ReorderInput, ReorderOutput) has no name, and counts for
the node that follows. Writing the profile makes nodes slower, small ones by most of their time. So passes without one
follow, and the nodes together take what those take: up to some microseconds come off each, the rest off all alike.

All of it is relative to the speed of the machine as heads and tails are that this runtime's back-end measures. Small
pieces feel no more of a slowdown than large ones: little is called between them.
"""

import json
import re
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgecloud.models import onnx_graph
from edgecloud.models.bundle_part import Array
from edgecloud.models.onnx_session import session_of
from edgecloud.predictor import collecting
from edgecloud.predictor.blocks import DRAWN
from edgecloud.predictor.collecting import (
    ENOUGH_S,
    MAX_PASSES,
    MIN_PASSES,
    REST_S,
    RESTED_PASSES,
    Subject,
    pool_bytes,
)
from edgecloud.predictor.dataset import Whole
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds, Design, Shape, Step
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.joined import JOINED, Units, joined
from edgecloud.predictor.onnx_design import Pool, write
from edgecloud.predictor.pace import HEAVY, MOVED, READ_TIMES, Mix, Run, blend, moved
from edgecloud.utils.inference_utils import Clock

WARM_UP, PLAIN = 2, 3
SMALL, SMALL_NETWORKS, SMALL_PASSES = Bounds(10**6, 64 << 10, 40), 8, 16
LEAST_SHARE = 0.2  # of what the profile says of a node
HALF_S = 0.5e-6
"""The profile drops parts of a microsecond."""
HELD_UP = 0.9  # of its time a pass should have had the processor
MAX_EVENTS_BYTES = 64 << 20
NOT_DRAWN = ("local", "lrn")
"""Layers that are not written as ONNX here: networks that have them are measured."""
KINDS_DRAWN = frozenset(JOINED.get(kind, kind) for kind in DRAWN if kind not in NOT_DRAWN)
_NAME = re.compile(r"(?<![\w.])t(\d+)(?![\d])")
_SUFFIX = "_kernel_time"


@dataclass(frozen=True, kw_only=True)
class _Kernels(Subject):
    model: bytes
    weights: Mapping[str, Array]
    x: Array
    units: Units


Pass = Mapping[int, Sequence[float]]
"""One run in the runtime's profile: seconds of the nodes of every layer."""


class Collector(collecting.Collector[_Kernels]):
    """Networks of ONNX Runtime, on some threads."""

    has_rare = False
    reads = READ_TIMES
    retries = 0  # another session takes longer than passes that are left out

    def __init__(self, threads: int, gauge: Gauge, seed: int) -> None:
        self._threads = threads
        self._numbers = np.random.default_rng(seed)
        self._pool = Pool(pool_bytes())
        self._most_excess_s = _most_excess_s(threads, gauge.clock)
        super().__init__(gauge, seed, self._pool.bytes, _rate(threads))

    def _prepare(self, design: Design, name: str) -> _Kernels:
        written = write(design, self._pool)
        part = onnx_graph.take(written.graph, [written.x], [written.y])
        weights = {weight: written.weights[weight] for weight in part.weights}
        units = joined(written.inputs, written.specs, (len(written.specs),))
        mixes = (HEAVY.in_all if self._gauge.is_elapsed else HEAVY,) * len(units.described)
        x = _smooth(design.input_shape, self._numbers)
        return _Kernels(units.described, mixes, model=part.model, weights=weights, x=x, units=units)

    def _runs(self, subject: _Kernels) -> list[Run]:
        with TemporaryDirectory() as folder:
            session = session_of(subject.model, subject.weights, self._threads, str(Path(folder) / "profile"))
            feeds = {session.get_inputs()[0].name: subject.x}

            def run() -> tuple[float, float]:
                began, clock_began = time.perf_counter(), self._clock()
                session.run(None, feeds)
                return self._clock() - clock_began, time.perf_counter() - began

            for _ in range(WARM_UP):
                run()
            runs: list[Run] = []
            started = time.perf_counter()
            while len(runs) < MIN_PASSES or (len(runs) < MAX_PASSES and time.perf_counter() - started < ENOUGH_S):
                runs.append(self._read_around(run, runs[-1].after if runs else None))
            path = Path(session.end_profiling())
            passes = read_profile(path)[WARM_UP:]
            plain = [self._read_around(run) for _ in range(PLAIN)]
        return self._without_profile(subject, runs, passes, plain)

    def _without_profile(
        self, subject: _Kernels, runs: Sequence[Run], passes: Sequence[Pass], plain: Sequence[Run]
    ) -> list[Run]:
        """The pieces in every pass, so that together they take what the passes without a profile take."""
        nodes = median(sum(map(len, one.values())) for one in passes)
        found = _pieces(subject.units, runs, passes, 0.0)
        feels = blend(found[0].seconds, subject.mixes)
        plain_s = median(self._quietly(replace(run, seconds=run.seconds[:1]), [feels])[0] for run in plain)
        excess_s = (self._together_s(found, subject.mixes) - plain_s) / max(1, nodes)
        found = _pieces(subject.units, runs, passes, min(self._most_excess_s, max(0.0, excess_s)))
        by = plain_s / max(self._together_s(found, subject.mixes), 1e-9)
        return [replace(run, seconds=tuple(by * s for s in run.seconds)) for run in found]

    def _together_s(self, runs: Sequence[Run], mixes: Sequence[Mix]) -> float:
        return median(sum(self._quietly(run, mixes)) for run in runs)

    def _whole(self, name: str, subject: _Kernels, passes: Sequence[Sequence[float]]) -> Whole:
        session = session_of(subject.model, subject.weights, self._threads)
        feeds = {session.get_inputs()[0].name: subject.x}
        placed = [median(times) for times in zip(*passes, strict=True)]
        feels = blend(placed, subject.mixes)

        def plain_pass() -> tuple[float]:
            began = self._clock()
            session.run(None, feeds)
            return (self._clock() - began,)

        def rested_pass() -> tuple[float]:
            time.sleep(REST_S)
            return plain_pass()

        plain_pass(), plain_pass()
        plain = [self._quietly(self._read_around(plain_pass), [feels])[0] for _ in range(PLAIN)]
        rested = [self._quietly(self._read_around(rested_pass), [feels])[0] for _ in range(RESTED_PASSES)]
        return Whole(name, median(plain), median(rested))


def _pieces(units: Units, runs: Sequence[Run], passes: Sequence[Pass], excess_s: float) -> list[Run]:
    """Seconds of units in every pass, in time of the gauge's clock: the profile tells elapsed time.

    Each node is said to take `excess_s` too long. Passes that waited for the processor, or around which the speed
    moved, are left out where there are others.
    """
    place = {number: at for at, numbers in enumerate(units.layers) for number in numbers}
    found: list[tuple[float, Run]] = []
    for run, one in zip(runs, passes, strict=True):
        clock_s, elapsed_s = run.seconds
        had = min(1.0, clock_s / max(elapsed_s, 1e-9))
        seconds = [0.0] * len(units.layers)
        for number, nodes in one.items():
            if number in place:
                seconds[place[number]] += had * sum(max(LEAST_SHARE * s, s - excess_s) for s in nodes)
        found.append((had, replace(run, seconds=tuple(seconds))))
    kept = [run for had, run in found if had >= HELD_UP] or [max(found, key=lambda pair: pair[0])[1]]
    return [run for run in kept if moved(run.before, run.after) <= MOVED] or kept


def read_profile(path: Path) -> list[Pass]:
    """What the runtime wrote of the runs of a session, whose nodes are named as `predictor.onnx_design` names them.

    Raises ValueError for what is no such profile.
    """
    if path.stat().st_size > MAX_EVENTS_BYTES:
        raise ValueError("the profile of onnxruntime is too large")
    events = json.loads(path.read_bytes())
    runs = sorted((int(each["ts"]), int(each["dur"])) for each in events if each.get("name") == "model_run")
    nodes = [each for each in events if each.get("cat") == "Node" and str(each["name"]).endswith(_SUFFIX)]
    begins = [begin for begin, _ in runs]
    by_run: list[list[dict[str, Any]]] = [[] for _ in runs]
    for node in sorted(nodes, key=lambda each: int(each["ts"])):
        at = bisect_right(begins, int(node["ts"])) - 1
        if at >= 0:
            by_run[at].append(node)
    return [_pass(each) for each in by_run]


def _pass(nodes: Sequence[dict[str, Any]]) -> Pass:
    seconds: dict[int, list[float]] = {}
    waiting: list[float] = []
    last = 0
    for node in nodes:
        found = _NAME.search(str(node["name"]))
        waiting.append(1e-6 * int(node["dur"]) + HALF_S)
        if found is not None:
            last = int(found.group(1))
            seconds.setdefault(last, []).extend(waiting)
            waiting = []
    if last:
        seconds[last].extend(waiting)
    return seconds


def _most_excess_s(threads: int, clock: Clock) -> float:
    """By how much longer small nodes take in a profile than without, with what passes between them; at least 0."""
    found = []
    pool = Pool(1 << 20)
    for seed in range(SMALL_NETWORKS):
        written = write(draw(Random(seed), SMALL), pool)
        part = onnx_graph.take(written.graph, [written.x], [written.y])
        feeds = {"input": np.ones(written.x.shape, np.float32)}
        weights = {name: written.weights[name] for name in part.weights}
        with TemporaryDirectory() as folder:
            session = session_of(part.model, weights, threads, str(Path(folder) / "profile"))
            for _ in range(SMALL_PASSES):
                session.run(None, feeds)
            passes = read_profile(Path(session.end_profiling()))[SMALL_PASSES // 4 :]
        plain = []
        for _ in range(SMALL_PASSES):
            began = clock()
            session.run(None, feeds)
            plain.append(clock() - began)
        profiled_s = median(sum(map(sum, each.values())) for each in passes)
        found.append((profiled_s - median(plain)) / max(1, sum(map(len, passes[0].values()))))
    return max(0.0, median(found))


def _rate(threads: int) -> float:
    """Multiply-adds in a second, roughly: how large networks may be."""
    pool = Pool(1 << 20)
    sizes = {"in_channels": 64, "out_channels": 64, "kernel_size": (3, 3), "stride": 1, "padding": (1, 1), "groups": 1}
    written = write(
        Design((1, 64, 28, 28), (Step("Conv2d", (0,), tuple({**sizes, "bias": True}.items())),), 0, 0), pool
    )
    part = onnx_graph.take(written.graph, [written.x], [written.y])
    session = session_of(part.model, {name: written.weights[name] for name in part.weights}, threads)
    x = np.ones((1, 64, 28, 28), np.float32)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        session.run(None, {"input": x})
        times.append(time.perf_counter() - began)
    return written.specs[0].macs / median(times)


def _smooth(shape: Shape, numbers: np.random.Generator) -> Array:
    """Numbers that change slowly from pixel to pixel, as in pictures: finding a maximum among them is quicker."""
    x = numbers.standard_normal(shape, dtype=np.float32)
    if len(shape) != 4:
        return x
    coarse = numbers.standard_normal((*shape[:2], *(side // 8 + 1 for side in shape[2:])), dtype=np.float32)
    fine = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, : shape[2], : shape[3]]
    return np.ascontiguousarray(fine + np.float32(0.1) * x)
