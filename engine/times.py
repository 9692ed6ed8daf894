"""The source of a network's layer times: measured on this machine, or predicted.

measured    the network is measured on this machine, once, and the times cached
predicted   nothing of it is run; needs predictors that were fitted on this machine
auto        measured times that are kept, else predictors of this machine, else the network is measured; it is measured
            too where a kind of layer that matters in it is predicted badly (predictor.quality.MOST_KIND)
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edgecloud.engine.device_config import DeviceConfig
from edgecloud.engine.executor import ONNXRUNTIME, TORCH, Executor, Ran
from edgecloud.engine.speed import Speed, SpeedMeter, meter_of, pace_of
from edgecloud.models.network import Network
from edgecloud.predictor import correct
from edgecloud.predictor.features import Described, in_context
from edgecloud.predictor.joined import Units, joined
from edgecloud.predictor.pace import HEAVY, Pace
from edgecloud.predictor.profile import Machine, Progress
from edgecloud.predictor.quality import MOST_KIND, p90
from edgecloud.utils.errors import MismatchError, UsageError
from edgecloud.utils.extras import MissingLibraryError, require

if TYPE_CHECKING:
    from edgecloud.predictor.latency import Predictors

log = logging.getLogger(__name__)

KEEP_EVERY = 20
NEVER_QUIET = 1.25
"""A profile is measured again where the machine was seen so much faster since: it was never quiet while measured."""


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of a network's layers on one machine, and of starting a tail after each of them."""

    seconds: tuple[float, ...]
    start_s: tuple[float, ...]
    source: str
    """`measured` or `predicted`."""
    factor: float = 1.0
    """The P90 error of predicted sums, as a factor; 1 for measured times."""

    def at(self, speed: Speed) -> "LayerTimes":
        """Those of the quiet machine as they are at a speed."""
        seconds, start_s = (tuple(s / speed.value for s in each) for each in (self.seconds, self.start_s))
        return replace(self, seconds=seconds, start_s=start_s)


@dataclass(frozen=True)
class Times:
    """How one program finds times: its policy, and where predictors are."""

    policy: str
    predictors: Path
    cache_dir: Path
    is_named: bool = False
    """Whether the user has named the file of predictors."""
    meters: dict[tuple[Machine, bool], SpeedMeter] = field(default_factory=dict, compare=False, repr=False)
    """Of the machine: one for all its networks."""

    def meter(self, executor: Executor) -> SpeedMeter:
        """Who knows the present speed of the machine of an executor."""
        key = (executor.machine, executor.share < 1)
        if key not in self.meters:
            self.meters[key] = meter_of(self.cache_dir, executor.machine, executor.share)
        return self.meters[key]

    @classmethod
    def of(cls, device: DeviceConfig, side: str) -> Self:
        """As a program is told that runs on this `side`."""
        usual = predictors_path(device.cache_dir, side)
        return cls(device.times, device.predictors or usual, device.cache_dir, device.predictors is not None)

    def find(self, executor: Executor, progress: Progress, *, tails: bool) -> "FoundTimes":
        """The times of a network, and with `tails` of starting one after each layer, as the policy says.

        Raises UsageError and MismatchError where they must be predicted and cannot be.
        """
        outcome = _POLICIES[self.policy](self, executor, tails)
        if isinstance(outcome, FoundTimes):
            return outcome
        times = measured(executor, self.cache_dir, progress, tails=tails)
        return FoundTimes(times, why=outcome, meter=self.meter(executor))

    def _never_predict(self, executor: Executor, tails: bool) -> "FoundTimes | str":
        """The network is to be measured."""
        return ""

    def _must_predict(self, executor: Executor, tails: bool) -> "FoundTimes | str":
        times = self._predicted(executor)
        if times.weak:
            log.warning("%s; use --times auto to measure the network", told_of(times.weak))
        return times

    def _may_predict(self, executor: Executor, tails: bool) -> "FoundTimes | str":
        """Where nothing was measured yet, and there are predictors that serve; else why not."""
        if executor.kept_profile(self.cache_dir, tails=tails) is not None:
            return ""
        backend, threads = executor.machine.backend, executor.machine.threads
        if backend not in UNITS:
            return f"{backend} joins layers, so heads and tails are measured"
        wanted = f"with {threads} thread{'' if threads == 1 else 's'}" + ("" if backend == TORCH else f" in {backend}")
        path = self._path(executor)
        if not path.is_file():
            others = [other for other in UNITS if other != backend and for_backend(self.predictors, other).is_file()]
            unused = f" (those of {' and '.join(others)} are not used)" if others else ""
            return f"no predictors for {wanted.removeprefix('with ')}{unused}"
        try:
            times = self._predicted(executor)
        except (UsageError, MismatchError, MissingLibraryError) as error:
            log.warning("%s: measuring the network instead", error)
            return f"no predictors for this machine {wanted}"
        if times.weak:
            log.warning("%s: measuring the network instead", told_of(times.weak))
            return told_of(times.weak)
        return times

    def _path(self, executor: Executor) -> Path:
        """The predictors of this back-end, and of this number of threads if there are any, else those of all.

        A file that the user has named is taken where none is beside it: it says itself what it is of.
        """
        usual = for_backend(self.predictors, executor.machine.backend)
        own = for_threads(usual, executor.machine.threads)
        if own.is_file():
            return own
        return usual if usual.is_file() or not self.is_named else self.predictors

    def _predicted(self, executor: Executor) -> "FoundTimes":
        path = self._path(executor)
        if not path.is_file():
            raise UsageError(
                f"no predictors at {path}: run deployment.py profile and deployment.py fit, or use --times measured"
            )
        require("sklearn", "skops")
        from edgecloud.predictor import latency  # and with it scikit-learn, which takes a second

        predictors, units = latency.load(path, executor.machine), units_of(executor.network, executor.machine.backend)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        kept = self.cache_dir / "corrections" / f"{digest}.json"
        teacher = OnlineCorrector(predictors, units, kept, executor, pace_of(self.cache_dir, executor.machine))
        weak = predictors.weak(units.described)
        why = f"predictors of {predictors.machine}, P90 error {p90(predictors.whole_factor)}"
        return FoundTimes(teacher.times(), teacher, why, weak, self.meter(executor))


_POLICIES: dict[str, Callable[[Times, Executor, bool], "FoundTimes | str"]] = {
    "measured": Times._never_predict,
    "predicted": Times._must_predict,
    "auto": Times._may_predict,
}
"""By their names in --times: what is predicted, or why the network is to be measured."""
POLICIES = tuple(_POLICIES)


def told_of(weak: Mapping[str, float]) -> str:
    """Kinds that are predicted badly."""
    kinds = ", ".join(f"{kind} {p90(factor)}" for kind, factor in sorted(weak.items()))
    return f"the P90 error of predictions is above {p90(MOST_KIND)} for {kinds}"


def measured(
    executor: Executor, cache_dir: Path, progress: Progress = lambda _: None, *, tails: bool = False
) -> LayerTimes:
    """Times that are measured, now or before."""
    profile, quiet = executor.profile(cache_dir, progress, tails=tails), pace_of(cache_dir, executor.machine)
    if profile.pace is not None and quiet is not None and HEAVY.slowdown(profile.pace, quiet) > NEVER_QUIET:
        profile, quiet = executor.profile(cache_dir, progress, tails=tails, is_fresh=True), None
    profile = profile.at(quiet)
    return _felt(LayerTimes(profile.seconds, profile.start_s, "measured"), executor)


class OnlineCorrector:
    """Predicts one network, and learns from what its stages really took. What is learnt is kept."""

    def __init__(
        self,
        predictors: "Predictors",
        units: Units,
        path: Path,
        executor: Executor,
        quiet: Pace | None = None,
    ) -> None:
        """`quiet` is what the reference work takes on this machine by now."""
        self._predictors, self._units, self._path, self._executor = predictors, units, path, executor
        self.corrections = correct.load(path)
        self._seconds = predictors.layers(units.described)[0]
        self._by = 1.0
        """What those seconds are multiplied by: the machine may have been seen faster since they were fitted."""
        if quiet is not None and predictors.pace is not None:
            self._by = HEAVY.slowdown(quiet, predictors.pace)
        self._unkept = 0

    def times(self) -> LayerTimes:
        """Predicted with what was learnt so far."""
        predicted = self._predictors.network(self._units, self.corrections.factors)
        factor = self._predictors.whole_factor
        seconds, start_s = (tuple(s * self._by for s in each) for each in (predicted.seconds, predicted.start_s))
        return _felt(LayerTimes(seconds, start_s, "predicted", factor), self._executor)

    def learn(self, layers: frozenset[int], measured_s: float) -> None:
        """Take the seconds that a stage, head or tail, that ran these layers takes on the quiet machine."""
        by_kind: dict[str, float] = {}
        for numbers, unit, unit_s in zip(self._units.layers, self._units.described, self._seconds, strict=True):
            if numbers[0] in layers:
                by_kind[unit.spec.kind] = by_kind.get(unit.spec.kind, 0.0) + float(unit_s)
        fixed_s = self._predictors.start.extra_s(sum(by_kind.values()))
        self.corrections = self.corrections.learn(by_kind, fixed_s, measured_s * self._executor.share / self._by)
        self._unkept += 1
        if self._unkept >= KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        """Write what was learnt."""
        if self._unkept:
            correct.save(self._path, self.corrections)
        self._unkept = 0


@dataclass(frozen=True)
class FoundTimes:
    """Times, and where they were predicted who may learn from the real ones."""

    times: LayerTimes
    teacher: OnlineCorrector | None = None
    why: str = ""
    """Which predictors these are from, or why none were used; "" where nothing is to be told."""
    weak: Mapping[str, float] = field(default_factory=dict)
    """Kinds of layers that are predicted worse than they should be, with the factor of each."""
    meter: SpeedMeter = field(default_factory=SpeedMeter)
    """Who knows how fast the machine is just now."""

    @property
    def quiet(self) -> LayerTimes:
        """Those of the quiet machine, with what was learnt since."""
        return self.times if self.teacher is None else self.teacher.times()

    @property
    def current(self) -> LayerTimes:
        """The same at the present speed, as far as that is known; nothing is run."""
        return self.quiet.at(self.meter.now())

    def look(self) -> LayerTimes:
        """The same; if the present speed is not known well, it is measured first, by the thread that computes."""
        quiet = self.quiet
        return quiet.at(self.meter.look(sum(quiet.seconds)))

    def ran(self, layers: frozenset[int], ran: Ran) -> None:
        """A stage of these layers has run, on whichever side. What runs for the first time says nothing of later runs,
        nor do several requests at once say what one takes.

        Measured times tell how fast the machine is by it. Predicted ones may be wrong themselves: the speed is then
        known from probes alone, and what is left is what the predictions learn from.
        """
        if ran.is_first or ran.batch > 1 or not any(self.times.seconds[number] for number in layers):
            return
        if self.teacher is not None:
            self.teacher.learn(layers, ran.seconds * self.meter.now().value)
            return
        self.meter.record(ran.seconds, self.quiet_s(layers))

    def quiet_s(self, layers: frozenset[int]) -> float:
        """What the quiet machine takes for a stage, as it was found at first: its layers, and the start where it begins
        behind others."""
        start_s = self.times.start_s[max(0, min(layers) - 1)]
        return sum(self.times.seconds[number] for number in layers) + start_s

    def keep(self) -> dict[str, float]:
        """Keep what was learnt; returns what predictions are multiplied by from now on, by kind."""
        if self.teacher is None:
            return {}
        self.teacher.keep()
        return dict(self.teacher.corrections.factors)


def layers_of(executor: Executor) -> tuple[Described, ...]:
    """The layers of an executor's network as predictors see them. Raises UnknownLayerError."""
    return described(executor.network)


def described(network: Network) -> tuple[Described, ...]:
    """The same of a network that nothing runs yet."""
    return in_context(network.specs(), [layer.inputs for layer in network.graph.layers[1:]])


def _joined(network: Network) -> Units:
    graph = network.graph
    return joined([layer.inputs for layer in graph.layers[1:]], network.specs(), graph.outputs)


UNITS: dict[str, Callable[[Network], Units]] = {
    TORCH: lambda network: Units.single(described(network)),
    ONNXRUNTIME: _joined,
}
"""By back-end: what of a network has a time of its own. Only back-ends that are here can be predicted."""


def units_of(network: Network, backend: str) -> Units:
    """What of a network has a time of its own in a back-end. Raises UnknownLayerError for a layer of no known kind, and
    UsageError for a back-end that has no predictors."""
    if backend not in UNITS:
        raise UsageError(f"there are no predictors for --backend {backend}: its networks are measured")
    return UNITS[backend](network)


def _felt(times: LayerTimes, executor: Executor) -> LayerTimes:
    """The same on a processor of which only a share is there."""
    starts = tuple(s / executor.share for s in times.start_s)
    return replace(times, seconds=executor.as_felt(times.seconds), start_s=starts)


def predictors_path(cache_dir: Path, role: str) -> Path:
    """Where the predictors of an edge or a cloud are kept unless told otherwise."""
    return cache_dir / "predictors" / f"{role}.skops"


def for_backend(path: Path, backend: str) -> Path:
    """Beside a file of predictors of torch the one of a back-end: `edge-onnxruntime.skops` beside `edge.skops`."""
    return path if backend == TORCH else path.with_name(f"{path.stem}-{backend}{path.suffix}")


def for_threads(path: Path, threads: int) -> Path:
    """Beside a file of predictors the one for so many threads: `edge-1t.skops` beside `edge.skops`."""
    return path.with_name(f"{path.stem}-{threads}t{path.suffix}")
