"""Measures layers of random networks until the budget is used up.

The measuring adapts: after each round a quick model is tried on networks that it has not seen. Blocks that hold the
kinds it gets wrong are drawn more often, and some networks start where a badly predicted layer stood (nn-Meter, Zhang
et al., MobiSys 2021, section 4.3, samples around what it predicts badly in the same spirit).
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from statistics import median

import numpy as np
import torch
from torch.nn import functional

from edgecloud.models.graph import INPUT
from edgecloud.models.specs import describe
from edgecloud.models.split import segment
from edgecloud.models.trace import Traced, trace
from edgecloud.predictor.blocks import BLOCKS_WITH
from edgecloud.predictor.dataset import TYPICAL, Row, Whole
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds, Design, Shape
from edgecloud.predictor.features import in_context, table
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import MOVED, NO_PACE, Mix, Pace, Run, blend, medians, moved, quiet_of, steadied
from edgecloud.predictor.regressors import quick_errors
from edgecloud.predictor.synthetic import Parameters, build
from edgecloud.predictor.timing import mixes_of, with_clock
from edgecloud.utils.inference_utils import Clock

MIN_PASSES, MAX_PASSES, ENOUGH_S = 3, 11, 0.05
UNSTEADY, RETRIES = 1.1, 2
UNIT_S = 0.1  # of looking at the machine before anything is measured
EVERY_AGAIN, AGAIN_AFTER = 8, 5  # of so many networks one is measured again, after so many others
ROUND_S = 12.0
EVERY_WHOLE, ALONE_LAYERS, ALONE_RUNS = 20, 8, 5
REST_S, RESTED_PASSES = 0.1, 3
PASS_S = 0.08  # what one pass of the largest networks should take
MIN_MACS, MAX_MACS = 2e7, 4e9
MIN_WEIGHTS, MAX_WEIGHTS = 20 << 20, 450 << 20
POOL_BYTES = 512 << 20
NEAR_BAD = 0.25  # share of networks that start where a badly predicted layer stood
MIN_STEPS, MAX_STEPS = 10, 160
RARE_EVERY = 4  # of so many networks one may hold blocks that few real ones have


@dataclass
class Collected:
    """All that was measured so far."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    wholes: list[Whole] = field(default_factory=list)
    networks: int = 0
    spent_s: float = 0.0
    pace: Pace | None = None
    """What the reference work takes on the machine whose times these are; None on an accelerator."""
    again: list[tuple[str, float, float]] = field(default_factory=list)
    """Kinds of layers that were measured a second time, some networks later, with both times."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take the layers of one more network."""
        for row in rows:
            self.rows.setdefault(row.layer.spec.kind, []).append(row)
        self.networks += 1


@dataclass(frozen=True)
class _Measured:
    """A random network that was built, and what its layers took at first."""

    traced: Traced
    x: torch.Tensor
    kinds: Sequence[str]
    mixes: Sequence[Mix]
    first_s: tuple[float, ...] = ()
    since: int = 0
    """The number of the network."""


@dataclass(frozen=True)
class Focus:
    """Where to look closer: how often to draw blocks, and the input shapes of layers that were predicted badly."""

    weights: Mapping[str, float] = field(default_factory=dict)
    starts: tuple[Shape, ...] = ()


SLOWEST = ("conv", "dw_conv", "linear", "local", "maxpool")
"""Kinds that take most of the time of the networks that have them: worth starting where one was predicted badly."""


class Collector:
    """Draws networks, measures their layers, and learns where to look closer."""

    def __init__(self, device: torch.device, gauge: Gauge, seed: int) -> None:
        self._device, self._clock, self._gauge = device, gauge.clock, gauge
        self._rng = Random(seed)
        self._noise = torch.Generator().manual_seed(seed)
        self._pool = Parameters(_pool_bytes(), device)
        self._reference = _Reference(device, gauge.clock)
        self._pace: Pace | None = None
        self._waiting: deque[_Measured] = deque()
        self._count = 0
        self._rate = 1e9 / max(1e-6, self._reference.macs_1e9_s())
        self._focus = Focus()

    def run(self, collected: Collected, budget_s: float, on_network: Callable[[Collected], None]) -> None:
        """Measure until `collected.spent_s` reaches the budget. `on_network` is called after every network."""
        began, before = time.perf_counter(), collected.spent_s
        next_round = ROUND_S
        if collected.pace is None and self._gauge.reference is not None:
            collected.pace = quiet_of(self._gauge.reference.read_for(UNIT_S))
        self._pace = collected.pace
        while collected.spent_s < budget_s:
            self._one(collected)
            collected.spent_s = before + time.perf_counter() - began
            if collected.spent_s > next_round:
                self._focus = look_closer(collected, self._rng)
                next_round = collected.spent_s + ROUND_S
            on_network(collected)

    def _one(self, collected: Collected) -> None:
        design = self._draw(has_rare=collected.networks % RARE_EVERY == RARE_EVERY - 1)
        name = f"n{collected.networks:05d}"
        traced = trace(build(design, self._pool), _smooth(design.input_shape, self._noise), name, is_checked=False)
        traced.module.to(self._device)
        x = _smooth(design.input_shape, self._noise).to(self._device)
        specs = describe(traced)
        layers = in_context(specs, [layer.inputs for layer in traced.graph.layers[1:]])
        measured = _Measured(traced, x, [spec.kind for spec in specs], mixes_of(self._gauge, traced)[1:])
        with torch.inference_mode():
            passes = self._passes(measured)
            if collected.networks % EVERY_WHOLE == 0:
                collected.wholes.append(self._whole(name, measured, passes))
            collected.again += self._measure_again()
        collected.add([Row(la, name, raw) for la, raw in zip(layers, zip(*passes, strict=True), strict=True)])
        if collected.networks % EVERY_AGAIN == 0:
            self._waiting.append(replace(measured, first_s=medians(passes), since=collected.networks))
        self._count = collected.networks

    def _measure_again(self) -> list[tuple[str, float, float]]:
        """A network that was measured a while ago, once more: what two measurements differ by is the noise of all."""
        if not self._waiting or self._count - self._waiting[0].since < AGAIN_AFTER:
            return []
        before = self._waiting.popleft()
        return list(zip(before.kinds, before.first_s, medians(self._passes(before)), strict=True))

    def _passes(self, measured: "_Measured") -> list[tuple[float, ...]]:
        """Seconds of its layers, pass by pass, as the machine takes them at the pace that they are relative to."""
        module = with_clock(measured.traced, self._clock)
        return self._steady(lambda: _stamps(module(measured.x)[1]), measured.mixes)

    def _draw(self, *, has_rare: bool) -> Design:
        rng = self._rng
        largest = min(MAX_MACS, max(2 * MIN_MACS, self._rate * PASS_S))
        bounds = Bounds(
            macs=round(_log_uniform(rng, MIN_MACS, largest)),
            weight_bytes=round(min(_log_uniform(rng, MIN_WEIGHTS, MAX_WEIGHTS), self._pool.bytes * 0.9)),
            steps=round(_log_uniform(rng, MIN_STEPS, MAX_STEPS)),
            weights=self._focus.weights,
            has_rare=has_rare,
        )
        near_bad = self._focus.starts and rng.random() < NEAR_BAD
        return draw(rng, bounds, rng.choice(self._focus.starts) if near_bad else None)

    def _steady(self, run: Callable[[], tuple[float, ...]], mixes: Sequence[Mix]) -> list[tuple[float, ...]]:
        """Passes while the speed stays; a network met in a moment when it moved is measured again."""
        run(), run()
        best: tuple[float, list[Run]] = (math.inf, [])
        for _ in range(1 + RETRIES):
            runs: list[Run] = []
            began = time.perf_counter()
            while len(runs) < MIN_PASSES or (len(runs) < MAX_PASSES and time.perf_counter() - began < ENOUGH_S):
                runs.append(self._read_around(run, runs[-1].after if runs else None))
            unsteady = median(moved(each.before, each.after) for each in runs)
            best = min(best, (unsteady, runs), key=lambda pair: pair[0])
            if unsteady <= MOVED and (self._pace is not None or self._reference.is_steady()):
                break
        return [self._quietly(each, mixes) for each in steadied(best[1])]

    def _read_around(self, run: Callable[[], tuple[float, ...]], before: Pace | None = None) -> Run:
        reference = self._gauge.reference
        if reference is None:
            return Run(run(), NO_PACE, NO_PACE)
        before = before or reference.read()
        seconds = run()
        return Run(seconds, before, reference.read())

    def _quietly(self, run: Run, mixes: Sequence[Mix]) -> tuple[float, ...]:
        return run.seconds if self._pace is None else run.quietly(self._pace, mixes)

    def _whole(self, name: str, measured: "_Measured", passes: Sequence[Sequence[float]]) -> Whole:
        traced, x = measured.traced, measured.x
        placed = [float(np.quantile(times, TYPICAL)) for times in zip(*passes, strict=True)]
        feels = blend(placed, measured.mixes)

        def rested_pass() -> tuple[float]:
            time.sleep(REST_S)
            began = self._clock()
            traced.module(x)
            return (self._clock() - began,)

        rested = [self._quietly(self._read_around(rested_pass), [feels])[0] for _ in range(RESTED_PASSES)]
        plain = [n for n in range(1, len(placed) + 1) if not traced.strided & set(traced.graph.layers[n].inputs)]
        numbers = self._rng.sample(plain, min(ALONE_LAYERS, len(plain)))
        alone = tuple(
            (kind, placed[number - 1], seconds)
            for number in sorted(numbers)
            for kind, seconds in [self._alone(measured, number)]
        )
        return Whole(name, median(sum(times) for times in passes), median(rested), alone)

    def _alone(self, measured: "_Measured", number: int) -> tuple[str, float]:
        """One layer, run again and again on the same input, as layers are usually measured."""
        traced, x = measured.traced, measured.x
        reads = traced.graph.layers[number].inputs
        inputs = [x if read == INPUT else torch.randn(traced.graph.layers[read].out_shape).to(x) for read in reads]
        part = segment(traced, frozenset({number})).module

        def run_often() -> tuple[float, ...]:
            times = []
            for _ in range(1 + ALONE_RUNS):
                began = self._clock()
                part(*inputs)
                times.append(self._clock() - began)
            return (float(np.quantile(times[1:], TYPICAL)),)

        seconds = self._quietly(self._read_around(run_often), [measured.mixes[number - 1]])[0]
        return measured.kinds[number - 1], seconds


class _Reference:
    """A fixed piece of work for the device itself: how large networks may be, and for an accelerator, whose times are
    relative to nothing, whether it is as fast as usual right now."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self._clock = clock
        self._conv = torch.nn.Conv2d(64, 64, 3, padding=1).to(device).eval()
        self._x = torch.randn(1, 64, 28, 28).to(device)
        self._many = torch.randn(1 << 20).to(device)
        self._times = [self._time() for _ in range(10)]

    def _time(self) -> float:
        with torch.inference_mode():
            self._conv(self._x)
            began = self._clock()
            self._conv(self._x)
            self._many.add(1.0)
            self._conv(self._x)
            return self._clock() - began

    def macs_1e9_s(self) -> float:
        """Seconds for 10^9 multiply-adds, roughly."""
        macs = 2 * 64 * 64 * 9 * 28 * 28
        return median(self._times) * 1e9 / macs

    def is_steady(self) -> bool:
        """Not slower than usual, the usual being the median of the last minute or so."""
        now = self._time()
        usual = median(self._times[-60:])
        self._times.append(now)
        return now < UNSTEADY * usual


def look_closer(collected: Collected, rng: Random) -> Focus:
    """Compare a quick model with networks that it has not seen, and say where it was wrong. Pure but for `rng`."""
    weights: dict[str, float] = {}
    starts: list[Shape] = []
    shares: dict[str, float] = {}
    for kind, rows in collected.rows.items():
        errors = quick_errors(table([r.layer for r in rows]), [r.seconds for r in rows], [r.network for r in rows])
        if errors is None:
            continue
        shares[kind] = float(np.mean(errors > 0.2))
        if kind in SLOWEST:
            bad = [row.layer.spec.in_shape for row, error in zip(rows, errors, strict=True) if error > 0.2]
            starts += rng.sample(bad, min(len(bad), 40))
    usual = float(np.mean(list(shares.values()))) if shares else 0.0
    for kind, share in shares.items():
        for block in BLOCKS_WITH.get(kind, ()):
            weights[block] = max(weights.get(block, 0.0), min(3.0, max(0.5, share / max(usual, 1e-6))))
    return Focus(weights, tuple(starts))


def _stamps(stamps: Sequence[float]) -> tuple[float, ...]:
    return tuple(max(0.0, end - begin) for begin, end in pairwise(stamps))


def _smooth(shape: Shape, noise: torch.Generator) -> torch.Tensor:
    """Numbers that change slowly from pixel to pixel, as in pictures: finding a maximum among them is quicker."""
    if len(shape) != 4:
        return torch.randn(shape, generator=noise)
    coarse = torch.randn((1, shape[1], *(side // 8 + 2 for side in shape[2:])), generator=noise)
    fine = functional.interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=False)
    return fine + 0.1 * torch.randn(shape, generator=noise)


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _pool_bytes() -> int:
    """A quarter of the free memory at most, so that small devices can be measured too."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not everywhere
        free = 1 << 30
    return max(MIN_WEIGHTS * 2, min(POOL_BYTES, free // 4))
