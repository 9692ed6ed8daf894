"""Measures pieces of random networks until the budget is used up, whatever it is that runs them. No torch.

The measuring adapts: after each round a quick model is tried on networks that it has not seen. Blocks that hold the
kinds it gets wrong are drawn more often, and some networks start where a badly predicted layer stood (nn-Meter, Zhang
et al., MobiSys 2021, section 4.3, samples around what it predicts badly in the same spirit). A back-end says how a
design is built, run and timed: predictor.collect, predictor.kernels.
"""

import math
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import median
from typing import ClassVar, Generic, TypeVar

import numpy as np

from edgecloud.models.specs import base_kind
from edgecloud.predictor.blocks import BLOCKS_WITH
from edgecloud.predictor.dataset import Row, Whole
from edgecloud.predictor.design import draw
from edgecloud.predictor.draft import Bounds, Design, Shape
from edgecloud.predictor.features import Described, table
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import MOVED, NO_PACE, Mix, Pace, Run, medians, moved, quiet_of, steadied
from edgecloud.utils.extras import is_there

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
class Focus:
    """Where to look closer: how often to draw blocks, and the input shapes of layers that were predicted badly."""

    weights: Mapping[str, float] = field(default_factory=dict)
    starts: tuple[Shape, ...] = ()


SLOWEST = ("conv", "dw_conv", "linear", "local", "maxpool")
"""Kinds that take most of the time of the networks that have them: worth starting where one was predicted badly."""


@dataclass(frozen=True)
class Subject:
    """A random network that is ready to be measured, and what its pieces took at first."""

    layers: tuple[Described, ...]
    """What is timed: layers, or pieces of several."""
    mixes: tuple[Mix, ...]
    first_s: tuple[float, ...] = ()
    since: int = 0
    """The number of the network."""


S = TypeVar("S", bound=Subject)


class Collector(ABC, Generic[S]):
    """Draws networks, measures their layers, and learns where to look closer."""

    has_rare: ClassVar[bool] = True
    """Whether it measures layers that few networks have."""
    reads: ClassVar[int] = 1
    """Of the reference work, of which one reading is made."""
    retries: ClassVar[int] = RETRIES
    """How often a network is measured again that was met in a moment when the speed moved."""

    def __init__(self, gauge: Gauge, seed: int, pool_bytes: int, rate: float) -> None:
        """`pool_bytes` are those of the weights that are there, `rate` multiply-adds in a second."""
        self._gauge, self._clock = gauge, gauge.clock
        self._rng = Random(seed)
        self._pool_bytes, self._rate = pool_bytes, rate
        self._pace: Pace | None = None
        self._waiting: deque[S] = deque()
        self._count = 0
        self._focus = Focus()

    @abstractmethod
    def _prepare(self, design: Design, name: str) -> S:
        """Build it."""

    @abstractmethod
    def _runs(self, subject: S) -> list[Run]:
        """Some passes of it, each with the seconds of every piece, between readings of the reference work."""

    @abstractmethod
    def _whole(self, name: str, subject: S, passes: Sequence[Sequence[float]]) -> Whole:
        """The same network in one piece, and after a rest."""

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
        design = self._draw(has_rare=self.has_rare and collected.networks % RARE_EVERY == RARE_EVERY - 1)
        name = f"n{collected.networks:05d}"
        subject = self._prepare(design, name)
        passes = self._passes(subject)
        if collected.networks % EVERY_WHOLE == 0:
            collected.wholes.append(self._whole(name, subject, passes))
        collected.again += self._measure_again()
        rows = zip(subject.layers, zip(*passes, strict=True), strict=True)
        collected.add([Row(layer, name, raw) for layer, raw in rows if any(raw)])
        if collected.networks % EVERY_AGAIN == 0:
            self._waiting.append(replace(subject, first_s=medians(passes), since=collected.networks))
        self._count = collected.networks

    def _measure_again(self) -> list[tuple[str, float, float]]:
        """A network that was measured a while ago, once more: what two measurements differ by is the noise of all."""
        if not self._waiting or self._count - self._waiting[0].since < AGAIN_AFTER:
            return []
        before = self._waiting.popleft()
        kinds = [layer.spec.kind for layer in before.layers]
        pairs = zip(kinds, before.first_s, medians(self._passes(before)), strict=True)
        return [(kind, first_s, later_s) for kind, first_s, later_s in pairs if first_s and later_s]

    def _draw(self, *, has_rare: bool) -> Design:
        rng = self._rng
        largest = min(MAX_MACS, max(2 * MIN_MACS, self._rate * PASS_S))
        bounds = Bounds(
            macs=round(_log_uniform(rng, MIN_MACS, largest)),
            weight_bytes=round(min(_log_uniform(rng, MIN_WEIGHTS, MAX_WEIGHTS), self._pool_bytes * 0.9)),
            steps=round(_log_uniform(rng, MIN_STEPS, MAX_STEPS)),
            weights=self._focus.weights,
            has_rare=has_rare,
        )
        near_bad = self._focus.starts and rng.random() < NEAR_BAD
        return draw(rng, bounds, rng.choice(self._focus.starts) if near_bad else None)

    def _passes(self, subject: S) -> list[tuple[float, ...]]:
        """Seconds of its layers, pass by pass, as the machine takes them at the pace that they are relative to.

        While the speed stays; a network met in a moment when it moved is measured again.
        """
        best: tuple[float, list[Run]] = (math.inf, [])
        for _ in range(1 + self.retries):
            runs = self._runs(subject)
            unsteady = median(moved(each.before, each.after) for each in runs)
            best = min(best, (unsteady, runs), key=lambda pair: pair[0])
            if unsteady <= MOVED and self._is_steady():
                break
        return [self._quietly(each, subject.mixes) for each in steadied(best[1])]

    def _is_steady(self) -> bool:
        """Whether the device is as fast as usual, where the reference work cannot tell."""
        return True

    def _read_around(self, run: Callable[[], tuple[float, ...]], before: Pace | None = None) -> Run:
        reference = self._gauge.reference
        if reference is None:
            return Run(run(), NO_PACE, NO_PACE)
        before = before or reference.read(self.reads)
        seconds = run()
        return Run(seconds, before, reference.read(self.reads))

    def _quietly(self, run: Run, mixes: Sequence[Mix]) -> tuple[float, ...]:
        return run.seconds if self._pace is None else run.quietly(self._pace, mixes)


def look_closer(collected: Collected, rng: Random) -> Focus:
    """Compare a quick model with networks that it has not seen, and say where it was wrong.

    Where scikit-learn is not installed, as on an edge without torch, everything is drawn as often as at first.
    """
    if not is_there("sklearn"):
        return Focus()
    from edgecloud.predictor.regressors import quick_errors

    weights: dict[str, float] = {}
    starts: list[Shape] = []
    shares: dict[str, float] = {}
    for kind, rows in collected.rows.items():
        errors = quick_errors(table([r.layer for r in rows]), [r.seconds for r in rows], [r.network for r in rows])
        if errors is None:
            continue
        shares[kind] = float(np.mean(errors > 0.2))
        if base_kind(kind) in SLOWEST:
            bad = [row.layer.spec.in_shape for row, error in zip(rows, errors, strict=True) if error > 0.2]
            starts += rng.sample(bad, min(len(bad), 40))
    usual = float(np.mean(list(shares.values()))) if shares else 0.0
    for kind, share in shares.items():
        for block in BLOCKS_WITH.get(base_kind(kind), ()):
            weights[block] = max(weights.get(block, 0.0), min(3.0, max(0.5, share / max(usual, 1e-6))))
    return Focus(weights, tuple(starts))


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def pool_bytes() -> int:
    """A quarter of the free memory at most, so that small devices can be measured too."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not everywhere
        free = 1 << 30
    return max(MIN_WEIGHTS * 2, min(POOL_BYTES, free // 4))
