"""Measures layers of random networks in torch, every one by itself, in its network."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from torch.nn import functional

from edgecloud.models.graph import INPUT
from edgecloud.models.specs import describe
from edgecloud.models.split import segment
from edgecloud.models.trace import Traced, trace
from edgecloud.predictor import collecting
from edgecloud.predictor.collecting import (
    ALONE_LAYERS,
    ALONE_RUNS,
    ENOUGH_S,
    MAX_PASSES,
    MIN_PASSES,
    REST_S,
    RESTED_PASSES,
    UNSTEADY,
    Subject,
    pool_bytes,
)
from edgecloud.predictor.dataset import TYPICAL, Whole
from edgecloud.predictor.draft import Design, Shape
from edgecloud.predictor.features import in_context
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import Run, blend
from edgecloud.predictor.synthetic import Parameters, build
from edgecloud.predictor.timing import mixes_of, with_clock
from edgecloud.utils.inference_utils import Clock


@dataclass(frozen=True, kw_only=True)
class _Traced(Subject):
    traced: Traced
    x: torch.Tensor


class Collector(collecting.Collector[_Traced]):
    """Networks of torch."""

    def __init__(self, device: torch.device, gauge: Gauge, seed: int) -> None:
        self._device = device
        self._noise = torch.Generator().manual_seed(seed)
        self._pool = Parameters(pool_bytes(), device)
        self._reference = _Reference(device, gauge.clock)
        super().__init__(gauge, seed, self._pool.bytes, 1e9 / max(1e-6, self._reference.macs_1e9_s()))

    def _prepare(self, design: Design, name: str) -> _Traced:
        traced = trace(build(design, self._pool), _smooth(design.input_shape, self._noise), name, is_checked=False)
        traced.module.to(self._device)
        x = _smooth(design.input_shape, self._noise).to(self._device)
        layers = in_context(describe(traced), [layer.inputs for layer in traced.graph.layers[1:]])
        return _Traced(layers, mixes_of(self._gauge, traced)[1:], traced=traced, x=x)

    def _runs(self, subject: _Traced) -> list[Run]:
        module = with_clock(subject.traced, self._clock)

        def run() -> tuple[float, ...]:
            return _stamps(module(subject.x)[1])

        with torch.inference_mode():
            run(), run()
            runs: list[Run] = []
            began = time.perf_counter()
            while len(runs) < MIN_PASSES or (len(runs) < MAX_PASSES and time.perf_counter() - began < ENOUGH_S):
                runs.append(self._read_around(run, runs[-1].after if runs else None))
        return runs

    def _is_steady(self) -> bool:
        return self._pace is not None or self._reference.is_steady()

    def _whole(self, name: str, subject: _Traced, passes: Sequence[Sequence[float]]) -> Whole:
        with torch.inference_mode():
            return self._in_one_piece(name, subject, passes)

    def _in_one_piece(self, name: str, subject: _Traced, passes: Sequence[Sequence[float]]) -> Whole:
        traced, x = subject.traced, subject.x
        placed = [float(np.quantile(times, TYPICAL)) for times in zip(*passes, strict=True)]
        feels = blend(placed, subject.mixes)

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
            for kind, seconds in [self._alone(subject, number)]
        )
        return Whole(name, median(sum(times) for times in passes), median(rested), alone)

    def _alone(self, subject: _Traced, number: int) -> tuple[str, float]:
        """One layer, run again and again on the same input, as layers are usually measured."""
        traced, x = subject.traced, subject.x
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

        seconds = self._quietly(self._read_around(run_often), [subject.mixes[number - 1]])[0]
        return subject.layers[number - 1].spec.kind, seconds


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


def _stamps(stamps: Sequence[float]) -> tuple[float, ...]:
    return tuple(max(0.0, end - begin) for begin, end in pairwise(stamps))


def _smooth(shape: Shape, noise: torch.Generator) -> torch.Tensor:
    """Numbers that change slowly from pixel to pixel, as in pictures: finding a maximum among them is quicker."""
    if len(shape) != 4:
        return torch.randn(shape, generator=noise)
    coarse = torch.randn((1, shape[1], *(side // 8 + 2 for side in shape[2:])), generator=noise)
    fine = functional.interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=False)
    return fine + 0.1 * torch.randn(shape, generator=noise)
