"""Factors between predicted and measured seconds of one side, with their uncertainty. Pure.

What is predicted of a stage is a sum over kinds of work (layers of a kind, packing, the upload). Every kind has a
factor that the prediction is wrong by, and the side as a whole has one more, its drift: how much slower it is now than
it was. All of them are kept as logarithms, with their covariance, and every stage that was measured corrects them by
an extended Kalman step: what was uncertain moves most.

A machine that changes is told from one slow moment by two-sided CUSUM on the standardised residuals (Page, 1954): one
outlier counts for little and is forgotten, some in a row raise the alarm. Then the drift becomes uncertain, and is
estimated anew from what was measured since the change. Factors of kinds stay: they belong to the network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HUBER = 2.5  # standard deviations; what is further away moves the factors no more than that
CLIPPED = 4.0  # one residual counts no more than this for a change ...
SLACK = 1.0  # ... this much less than it is ...
BURSTS, GOES_ON = 0.01, 0.2  # of inferences one in a hundred is slow by chance, and the next one then with this chance
FIRST_PACE_S = 0.5  # of an inference, before one has ended
BEGINNING = 4  # inferences on a side after which it is known what is usual there
CHANGES_S = 100.0  # a machine becomes another one about so often
SURE_ODDS = 25.0  # how much likelier a change has to be than a burst, to be one
LEAST_ALARM, MOST_ALARM = 4.5, 17.5  # of the sum, for that
SUSPICIOUS = 2.5  # from this sum on something may have changed: one inference that is far off is enough
MOST_LOOKS = 6  # inferences after which that is no outlier any more, but what is measured
LITTLE = 0.25  # of the seconds of the stage that was far off: one that is predicted to take less says nothing of that
MOST_SKIPPED = 3  # inferences on other sides that count as if they had been slow, where the next one here is
CHANGE_SD = 0.6  # of the logarithm of the drift after an alarm: up to twice as slow or fast is nothing special
DOUBT_SD = 0.2  # of another side's, then
WALK_SD = 0.015  # by which the logarithm of the drift walks from one inference to the next, and in a second ...
YOUNG_SD, YOUNG = (
    0.15,
    4.0,
)  # ... and that much more just after a change, less by half every so many of those
MOST_WALK_SD = 0.3  # altogether, where nothing is measured
RETURNING = 40.0  # inferences, and seconds, in which half of a drift is gone where nothing is measured
FIRST_DRIFT_SD = 0.03
FIRST_NOISE, LEAST_NOISE, MOST_NOISE = 0.08, 0.03, 0.4
LEARNING = 0.08  # of the noise, from each residual
TICK_S = 0.0003  # clocks, threads that wake up: no stage is known better
LEAST_FACTOR, MOST_FACTOR = 1e-3, 1e3


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage that was measured: seconds that were predicted for each kind, and those that it took."""

    predicted: Floats
    measured_s: float
    extra_sd: float = 0.0
    """Beyond the noise of the side, as a logarithm: of a first run, say."""

    @property
    def is_usable(self) -> bool:
        """Whether there is anything to learn from it."""
        predicted_s = float(self.predicted.sum())
        return 0 < self.measured_s < math.inf and 0 < predicted_s < math.inf


@dataclass(frozen=True, eq=False)
class Estimate:
    """Logarithms of the factors of all kinds, the drift last, and their covariance."""

    mean: Floats
    cov: Floats

    def step(self, stage: Stage, noise: float, huber: float) -> tuple["Estimate", float, float]:
        """After a stage; also its residual in standard deviations, and the share of the noise in them."""
        weighed = stage.predicted * np.exp(self.mean[:-1] + self.mean[-1])
        predicted_s = float(weighed.sum())
        slope = np.append(weighed / predicted_s, 1.0)
        spread = self.cov @ slope
        known, tick = float(slope @ spread), TICK_S / predicted_s
        variance = known + noise**2 + stage.extra_sd**2 + tick**2
        residual = math.log(stage.measured_s / predicted_s)
        score = residual / math.sqrt(variance)
        damped = variance * max(1.0, abs(score) / huber)
        mean = self.mean + spread * (residual / damped)
        cov = self.cov - np.outer(spread, spread) / damped
        return Estimate(mean, (cov + cov.T) / 2), score, noise**2 / variance

    def with_drift(self, more: float) -> "Estimate":
        """The same with so much more variance of the drift."""
        cov = self.cov.copy()
        cov[-1, -1] += more
        return Estimate(self.mean, cov)


@dataclass(frozen=True, eq=False)
class SideFactors:
    """What is believed of one side. Immutable: every method returns another one."""

    estimate: Estimate
    noise: float = FIRST_NOISE
    """Standard deviation of the logarithm of one measured stage."""
    changes: int = 0
    """Alarms so far."""
    age: float = math.inf
    """Inferences, and seconds, since the last one."""
    _anchor: Estimate | None = None
    """As it was before the stages that may be of a changed machine."""
    _since: tuple[Stage, ...] = ()
    _up: float = 0.0
    _down: float = 0.0
    _skipped: int = 0
    """Inferences that did not run on this side since the last one that did, while something may have changed."""
    _looks: int = 0
    """Inferences that ran on this side since something may have changed."""
    _count: int = 0
    """Inferences that ran on this side so far, up to BEGINNING."""
    _pace_s: float = FIRST_PACE_S
    """Between two inferences, about."""

    @classmethod
    def start(cls, kind_sds: Sequence[float], noise: float = FIRST_NOISE) -> "SideFactors":
        """Nothing was measured: factors are 1, uncertain by these standard deviations of their logarithms."""
        variances = np.append(np.square(np.asarray(kind_sds, dtype=float)), FIRST_DRIFT_SD**2)
        return cls(Estimate(np.zeros(len(variances)), np.diag(variances)), noise)

    @property
    def factors(self) -> Floats:
        """By which the predicted seconds of each kind are to be multiplied now."""
        mean = self.estimate.mean
        return np.asarray(np.clip(np.exp(mean[:-1] + mean[-1]), LEAST_FACTOR, MOST_FACTOR), dtype=np.float64)

    @property
    def drift(self) -> float:
        """How much slower the side is now than it was."""
        return float(np.exp(self.estimate.mean[-1]))

    def slopes(self, predicted: Floats) -> Floats:
        """Of rows of predicted seconds (ways, kinds): seconds for each logarithm (ways, kinds + 1)."""
        weighed = predicted * self.factors
        return np.column_stack([weighed, weighed.sum(axis=1)])

    def later(self, seconds: float) -> "SideFactors":
        """Another inference begins, so many seconds after the last one: the drift is less certain.

        As far as it is uncertain it also returns to what it was at first: who slows a machine down leaves one day, and
        a side that is not used shows nothing.
        """
        passed = 1.0 + max(0.0, seconds)
        room = MOST_WALK_SD**2 - float(self.estimate.cov[-1, -1])
        walked = (WALK_SD**2 + YOUNG_SD**2 * 0.5 ** (self.age / YOUNG)) * passed
        estimate = self.estimate.with_drift(min(walked, room)) if room > 0 else self.estimate
        uncertain = min(1.0, float(estimate.cov[-1, -1]) / MOST_WALK_SD**2)
        mean = estimate.mean.copy()
        mean[-1] *= 0.5 ** (uncertain * passed / RETURNING)
        pace_s = math.sqrt(self._pace_s * min(max(seconds, 1e-4), 1e3))
        return replace(self, estimate=Estimate(mean, estimate.cov), age=self.age + passed, _pace_s=pace_s)

    def doubted(self) -> "SideFactors":
        """Another side has become another machine: what slowed one down may have come from here, or gone here."""
        room = MOST_WALK_SD**2 - float(self.estimate.cov[-1, -1])
        return replace(self, estimate=self.estimate.with_drift(min(DOUBT_SD**2, max(0.0, room))))

    def told(self, ratio: float) -> "SideFactors":
        """It says of itself that it takes so much longer than when it ran last. That may be so, or not at all."""
        half = 0.5 * math.log(ratio)
        estimate = self.estimate.with_drift(half**2)
        mean = estimate.mean.copy()
        mean[-1] += half
        return replace(self, estimate=Estimate(mean, estimate.cov))

    # --- whether it has changed

    def _evidence(self, odds: float) -> float:
        """The sum that makes a change so much likelier than a burst. Who infers more often meets more bursts in a
        minute, and no more changes."""
        first = self._pace_s / CHANGES_S / BURSTS  # after one inference that was far off
        more = math.log(odds / first) / math.log(1 / GOES_ON)
        return (CLIPPED - SLACK) * (1 + more)

    @property
    def _alarm(self) -> float:
        """What the sum has to be above; at first, when it is likelier that the prediction is wrong, that of two."""
        if self._count < BEGINNING:
            return LEAST_ALARM
        return min(MOST_ALARM, max(LEAST_ALARM, self._evidence(SURE_ODDS) - SLACK))

    @property
    def suspicion(self) -> float:
        """How likely it is that it has changed, from 0 to 1; 0 while nothing was far off, or long after that."""
        most = max(self._up, self._down)
        if most < SUSPICIOUS or self._skipped > MOST_SKIPPED or self._looks > MOST_LOOKS:
            return 0.0
        odds = math.pow(GOES_ON, (self._evidence(1.0) - most) / (CLIPPED - SLACK))
        return odds / (1 + odds)

    @property
    def missing(self) -> int:
        """Inferences that are still to be skipped or slow before a slow one raises the alarm."""
        each = CLIPPED - SLACK
        return min(MOST_SKIPPED, math.floor((self._alarm - max(self._up, self._down)) / each)) - self._skipped

    @property
    def if_unchanged(self) -> "SideFactors":
        """What is believed if all that was far off was chance."""
        return self if self._anchor is None else replace(self, estimate=self._anchor)

    @property
    def if_changed(self) -> "SideFactors":
        """What is believed if it was none."""
        return self if self._anchor is None else self._changed(self._anchor, self._since)

    def after(self, *stages: Stage) -> "SideFactors":
        """What is believed once an inference was measured: its stages on this side, the one that says most first.

        For a change one inference counts once: what slowed one stage of it slowed the others, too.
        """
        side = self
        usable = [stage for stage in stages if stage.is_usable]
        if not usable and self._anchor is not None:
            return replace(self, _skipped=self._skipped + 1)
        for number, stage in enumerate(usable):
            side = side._after(stage, counts=number == 0)
        return replace(side, _count=side._count + 1) if usable and side._count < BEGINNING else side

    def _after(self, stage: Stage, *, counts: bool) -> "SideFactors":
        estimate, score, noise_share = self.estimate.step(stage, self.noise, HUBER)
        if not counts:
            since = (*self._since, stage) if self._since else ()
            return replace(self, estimate=estimate, _since=since)
        if self._since and stage.predicted.sum() < LITTLE * self._since[0].predicted.sum():
            return replace(self, estimate=estimate, _skipped=self._skipped + 1)
        noise = self._noise_after(score, noise_share)
        if self._anchor is not None and self.suspicion > 0:
            _, score, _ = self._anchor.step(stage, self.noise, HUBER)  # as if what was far off had been chance
        counted = max(-CLIPPED, min(CLIPPED, score))
        if self._is_still_off(score):
            counted *= 1 + min(MOST_SKIPPED, self._skipped)  # it was no burst: that would have ended meanwhile
        up, down = max(0.0, self._up + counted - SLACK), max(0.0, self._down - counted - SLACK)
        if up <= 0 and down <= 0:
            return self._settled(estimate, noise)
        since = (*self._since, stage)[-12:]
        if max(up, down) > self._alarm:
            return self._changed(self._anchor or self.estimate, since)
        anchor, looks = self._anchor or self.estimate, self._looks + (max(up, down) >= SUSPICIOUS)
        return replace(
            self,
            estimate=estimate,
            noise=noise,
            _anchor=anchor,
            _since=since,
            _up=up,
            _down=down,
            _skipped=0,
            _looks=looks,
        )

    def _settled(self, estimate: Estimate, noise: float) -> "SideFactors":
        """Nothing is far off any more."""
        return SideFactors(estimate, noise, self.changes, self.age, _count=self._count, _pace_s=self._pace_s)

    def _is_still_off(self, score: float) -> bool:
        """Whether a residual is as far off, and to the same side, as what was seen before."""
        return (score > SUSPICIOUS and self._up >= SUSPICIOUS) or (score < -SUSPICIOUS and self._down >= SUSPICIOUS)

    def _noise_after(self, score: float, share: float) -> float:
        """Follows the size of the residuals, as far as noise is what they come from."""
        grown = self.noise * math.exp(LEARNING * share * (min(score**2, HUBER**2) - 1) / 2)
        return min(MOST_NOISE, max(LEAST_NOISE, grown))

    def _changed(self, anchor: Estimate, since: Sequence[Stage]) -> "SideFactors":
        """Another machine, as it were: its drift is what was measured since."""
        estimate = anchor.with_drift(CHANGE_SD**2)
        for stage in since:
            estimate, *_ = estimate.step(stage, self.noise, math.inf)
        return SideFactors(estimate, self.noise, self.changes + 1, 0.0, _count=self._count, _pace_s=self._pace_s)


def quadratic(rows: Floats, cov: Floats) -> Floats:
    """Variance of every row of slopes."""
    result: Any = np.einsum("ij,jk,ik->i", rows, cov, rows)
    return np.asarray(np.maximum(result, 0.0), dtype=np.float64)
