"""Where a network's times come from: measured on this machine, or predicted from layers measured before.

measured    the network is measured here, once, and the times kept
predicted   nothing of it is run; needs predictors that were fitted on this machine
auto        measured times that are kept, else predictors of this machine, else the network is measured
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.graph import INPUT
from models.specs import describe
from models.trace import Traced
from predictor import correct
from predictor.features import Described, in_context
from predictor.profile import Progress
from runtime.executor import Executor
from utils.errors import MismatchError, UsageError

if TYPE_CHECKING:
    from predictor.latency import Predictors

log = logging.getLogger(__name__)

KEEP_EVERY = 20


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of a network's layers on one machine, and of starting a tail after each of them."""

    seconds: tuple[float, ...]
    start_s: tuple[float, ...]
    source: str
    """`measured` or `predicted`."""
    factor: float = 1.0
    """A bound that 9 of 10 errors of predicted sums stay below; 1 for measured times."""


@dataclass(frozen=True)
class Times:
    """How one program finds times: its policy, and where predictors are."""

    policy: str
    predictors: Path
    cache_dir: Path

    def find(self, executor: Executor, progress: Progress, *, tails: bool) -> "Found":
        """The times of a network, and with `tails` of starting one after each layer, as the policy says.

        Raises UsageError and MismatchError where they must be predicted and cannot be.
        """
        found = _POLICIES[self.policy](self, executor, tails)
        return found or Found(measured(executor, self.cache_dir, progress, tails=tails))

    def _never_predict(self, executor: Executor, tails: bool) -> "Found | None":
        """The network is to be measured."""
        return None

    def _must_predict(self, executor: Executor, tails: bool) -> "Found | None":
        return self._predicted(executor)

    def _may_predict(self, executor: Executor, tails: bool) -> "Found | None":
        """Where nothing was measured yet, and there are predictors that serve."""
        is_kept = executor.kept_profile(self.cache_dir, tails=tails) is not None
        if is_kept or not self.predictors.is_file():
            return None
        try:
            return self._predicted(executor)
        except (UsageError, MismatchError) as error:
            log.warning("%s: the network is measured instead", error)
            return None

    def _predicted(self, executor: Executor) -> "Found":
        if not self.predictors.is_file():
            raise UsageError(
                f"there are no predictors at {self.predictors}: run deployment.py profile and deployment.py fit, "
                "or give --times measured"
            )
        from predictor import latency  # and with it scikit-learn, which takes a second

        predictors = latency.load(self.predictors, executor.machine)
        digest = hashlib.sha256(self.predictors.read_bytes()).hexdigest()[:16]
        teacher = Teacher(predictors, layers_of(executor), self.cache_dir / "corrections" / f"{digest}.json", executor)
        return Found(teacher.times(), teacher)


_POLICIES: dict[str, Callable[[Times, Executor, bool], "Found | None"]] = {
    "measured": Times._never_predict,
    "predicted": Times._must_predict,
    "auto": Times._may_predict,
}
"""By their names in --times: what is predicted, or None where the network is to be measured."""


def measured(
    executor: Executor, cache_dir: Path, progress: Progress = lambda _: None, *, tails: bool = False
) -> LayerTimes:
    """Times that are measured, now or before."""
    profile = executor.profile(cache_dir, progress, tails=tails)
    return _felt(LayerTimes(profile.seconds, profile.start_s, "measured"), executor)


class Teacher:
    """Predicts one network, and learns from what its stages really took. What is learnt is kept."""

    def __init__(self, predictors: "Predictors", layers: tuple[Described, ...], path: Path, executor: Executor) -> None:
        self._predictors, self._layers, self._path, self._executor = predictors, layers, path, executor
        self.corrections = correct.load(path)
        self._seconds = predictors.layers(layers)[0]
        self._unkept = 0

    def times(self) -> LayerTimes:
        """Predicted with what was learnt so far."""
        predicted = self._predictors.network(self._layers, self.corrections.factors)
        factor = self._predictors.whole_factor
        return _felt(LayerTimes(predicted.seconds, predicted.start_s, "predicted", factor), self._executor)

    def learn(self, layers: frozenset[int], measured_s: float) -> None:
        """Take the seconds of a stage, head or tail, that ran these layers."""
        by_kind: dict[str, float] = {}
        for number in sorted(layers - {INPUT}):
            kind = self._layers[number - 1].spec.kind
            by_kind[kind] = by_kind.get(kind, 0.0) + float(self._seconds[number - 1])
        fixed_s = self._predictors.start.extra_s(sum(by_kind.values()))
        self.corrections = self.corrections.learn(by_kind, fixed_s, measured_s * self._executor.share)
        self._unkept += 1
        if self._unkept >= KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        """Write what was learnt."""
        if self._unkept:
            correct.save(self._path, self.corrections)
        self._unkept = 0


@dataclass(frozen=True)
class Found:
    """Times, and where they were predicted who may learn from the real ones."""

    times: LayerTimes
    teacher: Teacher | None = None

    @property
    def current(self) -> LayerTimes:
        """The times with what was learnt since."""
        return self.times if self.teacher is None else self.teacher.times()


def layers_of(executor: Executor) -> tuple[Described, ...]:
    """The layers of an executor's network as predictors see them. Raises UnknownLayerError."""
    return described(executor.traced)


def described(traced: Traced) -> tuple[Described, ...]:
    """The same of a network that nothing runs yet."""
    return in_context(describe(traced), [layer.inputs for layer in traced.graph.layers[1:]])


def _felt(times: LayerTimes, executor: Executor) -> LayerTimes:
    """The same on a processor of which only a share is there."""
    starts = tuple(s / executor.share for s in times.start_s)
    return replace(times, seconds=executor.as_felt(times.seconds), start_s=starts)


def predictors_path(cache_dir: Path, role: str) -> Path:
    """Where the predictors of an edge or a cloud are kept unless told otherwise."""
    return cache_dir / "predictors" / f"{role}.skops"
