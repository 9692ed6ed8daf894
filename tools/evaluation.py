"""Fits and evaluates predictors, for layers and for full networks: deployment.py fit, evaluate."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from edgecloud.engine.executor import TORCH, Executor, make_executor
from edgecloud.engine.times import units_of
from edgecloud.models import bundle, bundle_network, registry
from edgecloud.models.graph import INPUT
from edgecloud.models.network import Array, Network
from edgecloud.predictor import dataset, latency
from edgecloud.predictor.dataset import Dataset, Machine
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.latency import Predictors, combine
from edgecloud.predictor.pace import HEAVY, NO_PACE, READ_TIMES, Pace, Run
from edgecloud.predictor.profile import Profile
from edgecloud.predictor.quality import MOST_KIND, MOST_WHOLE, Fitness, p90
from edgecloud.predictor.regressors import FORMS
from edgecloud.predictor.train import KindFit, fit_all, fitness
from edgecloud.tools.survey import pace_of, this_machine
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import require_torch
from edgecloud.utils.files import writing
from edgecloud.utils.inference_utils import keep_freed_memory
from edgecloud.utils.progress import Show
from edgecloud.utils.units import format_seconds

NETWORKS = ("alex_net", "mobile_net", "torchvision:resnet18", "torchvision:squeezenet1_1")
MANY_NETWORKS = (
    *("alex_net", "vgg_net", "mobile_net", "torchvision:resnet18", "torchvision:resnet50", "torchvision:googlenet"),
    *("torchvision:densenet121", "torchvision:squeezenet1_1", "torchvision:shufflenet_v2_x1_0"),
)
REST_S, SEGMENT_RUNS = 0.05, 5
MOST_BYTES = 1 << 30
CUTS = (0.25, 0.5, 0.75)  # of the time of a pass: where heads end and tails begin


@dataclass(frozen=True)
class PartTimes:
    """A whole network, or its head or tail at one layer: predicted and measured seconds."""

    part: str
    after: str
    predicted_s: float
    measured_s: float
    again_s: float | None = None
    """Measured once more, in turns with the first time; None where it was not."""

    @property
    def error(self) -> float:
        """Signed, as a share of what was measured."""
        return self.predicted_s / self.measured_s - 1

    @property
    def noise(self) -> float | None:
        """How far off the second measurement is, signed, as a share of the first."""
        return None if self.again_s is None else self.again_s / self.measured_s - 1


@dataclass(frozen=True)
class NetworkResult:
    """One network that was measured after it had been predicted."""

    name: str
    parts: tuple[PartTimes, ...]
    known: int
    layers: int
    """How many of its layers have a twin among the measured ones."""
    predict_s: float
    noise: float = 0.0
    """How far a second measurement of the whole network, later, was from the first; 0 where there was none."""

    @property
    def whole(self) -> PartTimes:
        """All of it."""
        return self.parts[0]


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found out."""

    dataset: Dataset
    fits: tuple[KindFit, ...]
    predictors: Predictors
    networks: tuple[NetworkResult, ...]
    fit_s: float
    why_no_networks: str

    @property
    def fitness(self) -> Fitness:
        """Whether the predictors are fit for use."""
        return fitness(self.fits)

    @property
    def parts_within_10(self) -> float:
        """Share of heads, tails and whole networks that are within 10 %."""
        parts = [part for network in self.networks for part in network.parts]
        return sum(abs(part.error) <= 0.1 for part in parts) / len(parts) if parts else 0.0

    @property
    def noise_within_10(self) -> float | None:
        """The same of second measurements as predictions of the first: no predictor can do better. None without any."""
        noise = [part.noise for network in self.networks for part in network.parts if part.noise is not None]
        return sum(abs(each) <= 0.1 for each in noise) / len(noise) if noise else None


def fit(source: Path, progress: Show) -> Evaluation:
    """Fit a data set. Raises UsageError for one that is missing, damaged, or too small."""
    progress("reading the data set", 0.0)
    data = dataset.read(source)
    wholes = dataset.read_whole(source) if source.is_dir() else ()
    began = time.perf_counter()
    fits = tuple(fit_all(data, lambda done: progress("fitting", done)))
    fit_s = time.perf_counter() - began
    return Evaluation(data, fits, combine(fits, data.machine, wholes, pace_of(source)), (), fit_s, "none requested")


def keep(evaluation: Evaluation, path: Path) -> None:
    """Save the predictors. Raises UsageError where that fails; an old file is then as it was."""
    if evaluation.dataset.machine is None:
        raise UsageError(
            f"{evaluation.dataset.source} does not name the machine of its times: it can only be evaluated, with "
            "deployment.py evaluate --dataset"
        )
    with writing(path):
        latency.save(evaluation.predictors, path)


def evaluate_networks(
    evaluation: Evaluation, names: Sequence[str], device: str, threads: int | None, cache_dir: Path, progress: Show
) -> Evaluation:
    """Predict networks, then measure them, where the data set is of this machine."""
    machine = evaluation.dataset.machine
    backend = TORCH if machine is None else machine.backend
    here = this_machine(device, machine.threads if machine is not None and threads is None else threads, backend)
    if machine != here:
        why = f"the data set is from another machine ({machine or 'unknown'})"
        return _with_networks(evaluation, (), why)
    keep_freed_memory()
    specs = {row.layer.spec for rows in evaluation.dataset.rows.values() for row in rows}
    results = []
    for number, name in enumerate(names):
        progress(f"measuring {name}", number / len(names))
        network = network_for(name, backend, cache_dir, progress)
        units = units_of(network, backend)
        began = time.perf_counter()
        predicted = evaluation.predictors.network(units)
        predict_s = time.perf_counter() - began
        executor = make_executor(network, device, backend=backend)
        if backend == TORCH:
            profile = executor.profile(cache_dir, tails=True, is_fresh=True).at(evaluation.predictors.pace)
            parts = _parts([layer.id for layer in network.graph.layers], predicted, profile)
            noise = 0.0 if profile.noise is None else profile.noise.whole
        else:
            parts = SegmentTimer(executor, evaluation.predictors.pace, cache_dir).parts(predicted)
            noise = abs(parts[0].noise or 0.0)
        twins = sum(unit.spec in specs for unit in units.described)
        results.append(NetworkResult(network.graph.name, parts, twins, len(units.described), predict_s, noise))
    return _with_networks(evaluation, tuple(results), "")


def network_for(name: str, backend: str, cache_dir: Path, progress: Show) -> Network:
    """A network that a back-end runs: where that takes bundles, the one that is named, or a new one of the name's.

    New ones are kept in the cache directory. Raises UsageError for an unknown name, MissingTorchError where torch is
    needed to make a bundle.
    """
    if backend == TORCH or registry.file_of_data(name):
        return registry.resolve_trusted(name).network()
    path = cache_dir / "bundles" / f"{name.replace(':', '-')}{bundle.SUFFIX}"
    if not path.is_file():
        require_torch(f"a bundle of {name}")
        from edgecloud.tools import export

        path.parent.mkdir(parents=True, exist_ok=True)
        export.export(name, "default", path, progress)
    return bundle_network.read(path)


@dataclass(frozen=True)
class MeasuredPart:
    """A whole network, or its head or tail at a layer, by its number and its name, measured twice."""

    part: str
    layer: int
    after: str
    first_s: float
    again_s: float


def beside(measured: Sequence[MeasuredPart], predicted: latency.PredictedTimes) -> tuple[PartTimes, ...]:
    """What was measured beside what is predicted, as a plan adds it up."""
    done = list(accumulate(predicted.seconds))
    forecast: dict[str, Callable[[int], float]] = {
        "whole": lambda _layer: done[-1],
        "head": lambda layer: done[layer],
        "tail": lambda layer: done[-1] - done[layer] + predicted.start_s[layer],
    }
    return tuple(
        PartTimes(each.part, each.after, forecast[each.part](each.layer), each.first_s, each.again_s)
        for each in measured
    )


class SegmentTimer:
    """Times a network, and heads and tails of it, each twice in turns, as the machine takes them at a pace."""

    def __init__(self, executor: Executor, pace: Pace | None, folder: Path) -> None:
        machine = executor.machine
        self._executor, self._pace = executor, pace
        self._gauge = Gauge.of(time.perf_counter, machine.threads, folder, asdict(machine), is_work=False)
        self._values: dict[int, Array] = {}

    def parts(self, predicted: latency.PredictedTimes) -> tuple[PartTimes, ...]:
        """The whole, and heads and tails at shares of the predicted time, predicted and measured."""
        graph, done = self._executor.network.graph, list(accumulate(predicted.seconds))
        inner = graph.points[1:-1]
        found = [min(inner, key=lambda point: abs(done[point.layer] - share * done[-1])) for share in CUTS if inner]
        return beside(self.measured(sorted({point.number for point in found})), predicted)

    def measured(self, points: Sequence[int]) -> list[MeasuredPart]:
        """The whole, and heads and tails at some points of the graph by their numbers."""
        graph, example = self._executor.network.graph, self._executor.network.example.fed
        layers = {graph.points[number].layer for number in points}

        def take(number: int, array: Array) -> None:
            if number in {*graph.inputs, *layers}:
                self._values[number] = array.copy()

        self._executor.network.each_output(example, take)
        wanted = [("whole", INPUT, graph.everything)]
        for number in points:
            layer, head = graph.points[number].layer, graph.head_at(number)
            wanted += [("head", layer, head), ("tail", layer, graph.everything - head)]
        times = self._in_turns([layers for _, _, layers in wanted])
        return [
            MeasuredPart(part, layer, graph.layers[layer].id if layer else "", *pair)
            for (part, layer, _), pair in zip(wanted, times, strict=True)
        ]

    def _in_turns(self, wanted: Sequence[frozenset[int]]) -> list[tuple[float, float]]:
        """Seconds of segments, twice; those that are measured in turns hold no more than MOST_BYTES together."""
        found: list[tuple[float, float]] = []
        ready: list[Callable[[], object]] = []
        held = 0
        for layers in wanted:
            segment = self._executor.load(layers)
            size = getattr(segment, "weight_bytes", 0)
            if ready and held + size > MOST_BYTES:
                found += self._timed(ready)
                ready, held = [], 0
            ready.append(partial(segment, [self._values[number] for number in segment.inputs]))
            held += size
        return found + self._timed(ready)

    def _timed(self, runs: Sequence[Callable[[], object]]) -> list[tuple[float, float]]:
        found: list[tuple[list[float], list[float]]] = [([], []) for _ in runs]
        for run in runs:
            run(), run()
        for turn in range(2 * SEGMENT_RUNS):
            for run, times in zip(runs, found, strict=True):
                times[turn % 2].append(self._time(run))
        return [(median(first), median(again)) for first, again in found]

    def _time(self, run: Callable[[], object]) -> float:
        """Seconds of a run after a rest, as it is after a wait for the link."""
        reference = self._gauge.reference
        before = reference.read(READ_TIMES) if reference is not None else NO_PACE
        time.sleep(REST_S)
        began = self._gauge.clock()
        run()
        seconds = self._gauge.clock() - began
        if reference is None or self._pace is None:
            return seconds
        mix = HEAVY.in_all if self._gauge.is_elapsed else HEAVY
        return Run((seconds,), before, reference.read(READ_TIMES)).quietly(self._pace, [mix])[0]


def without_networks(evaluation: Evaluation, why: str) -> Evaluation:
    """The same, with the reason why no networks were measured."""
    return _with_networks(evaluation, (), why)


def _with_networks(evaluation: Evaluation, networks: tuple[NetworkResult, ...], why: str) -> Evaluation:
    before = evaluation
    return Evaluation(before.dataset, before.fits, before.predictors, networks, before.fit_s, why)


def _parts(ids: Sequence[str], predicted: latency.PredictedTimes, profile: Profile) -> tuple[PartTimes, ...]:
    """The whole, then heads, sums of layers of its passes, and tails, run by themselves, cut at shares of the time."""
    forecast, times = list(accumulate(predicted.seconds)), list(accumulate(profile.seconds))
    parts = [PartTimes("whole", "", forecast[-1], times[-1])]
    layers = [min(profile.tails, key=lambda la: abs(times[la] - share * times[-1])) for share in CUTS if profile.tails]
    for layer in dict.fromkeys(layers):
        tail_s = forecast[-1] - forecast[layer] + predicted.start_s[layer]
        parts.append(PartTimes("head", ids[layer], forecast[layer], times[layer]))
        parts.append(PartTimes("tail", ids[layer], tail_s, median(profile.tails[layer])))
    return tuple(parts)


# --- for people and programs


def short(name: str) -> str:
    """torchvision:resnet18 is resnet18."""
    return name.removeprefix(registry.TORCHVISION)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The document of `deployment.py evaluate --json`."""
    machine = evaluation.dataset.machine
    return {
        "dataset": evaluation.dataset.source,
        "measured_on": None if machine is None else asdict(machine),
        "fit_s": evaluation.fit_s,
        "kinds": {
            fitted.kind: asdict(fitted.score)
            | {
                "chosen": fitted.chosen,
                "p90_factor": fitted.factor,
                "all_rows": len(evaluation.dataset.rows[fitted.kind]),
            }
            | {"candidates": {form: asdict(score) for form, score in fitted.candidates.items()}}
            for fitted in evaluation.fits
        },
        "networks": {
            short(network.name): {
                "predicted_s": network.whole.predicted_s,
                "measured_s": network.whole.measured_s,
                "error": network.whole.error,
                "again_s": network.whole.again_s,
                "parts": [asdict(part) | {"error": part.error, "noise": part.noise} for part in network.parts[1:]],
                "known_layers": network.known,
                "layers": network.layers,
                "predict_s": network.predict_s,
                "noise": network.noise,
            }
            for network in evaluation.networks
        },
        "parts_within_10": evaluation.parts_within_10,
        "noise_within_10": evaluation.noise_within_10,
        "fitness": {
            "is_fit": not evaluation.fitness.why_not,
            "why_not": evaluation.fitness.why_not,
            "p90_factor": evaluation.fitness.factor,
            "most": MOST_WHOLE,
            "networks": evaluation.fitness.networks,
        },
        "gap": {"start": asdict(evaluation.predictors.start), "alone_over_in_place": dict(evaluation.predictors.alone)},
    }


def kinds_table(evaluation: Evaluation) -> Table:
    """How good each kind's regression is on networks that were set aside."""
    machine = evaluation.dataset.machine
    title = f"{evaluation.dataset.source}, {machine or 'machine unknown'}; layers of held-out networks"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("kind")
    for name in ("rows", "tested", "±5 %", "±10 %", "±20 %", "MAPE", "P90"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("chosen", no_wrap=True)
    for fitted in evaluation.fits:
        score = fitted.score
        cells = [str(len(evaluation.dataset.rows[fitted.kind])), str(score.rows)]
        cells += [f"{share:.0%}" for share in (score.within_5, score.within_10, score.within_20, score.mape)]
        table.add_row(fitted.kind, *cells, p90(fitted.factor), fitted.chosen)
    return table


def forms_table(evaluation: Evaluation) -> Table:
    """Every form beside the others, by kind."""
    title = "all regressors: layers within ±20 % in cross-validation"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("kind")
    for form in FORMS:
        table.add_column(form.replace("roofline_", "roof+"), justify="right", no_wrap=True)
    for fitted in evaluation.fits:
        table.add_row(fitted.kind, *(f"{fitted.candidates[form].within_20:.0%}" for form in FORMS))
    return table


def networks_table(evaluation: Evaluation) -> Table:
    """Predicted beside measured."""
    noise = evaluation.noise_within_10
    told = "" if noise is None else f"; of second measurements of the same {noise:.0%}"
    title = f"\nfull networks, {evaluation.parts_within_10:.0%} of the parts within ±10 %{told}"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("network")
    for name in ("predicted", "measured", "error", "noise", "heads and tails", "known layers"):
        table.add_column(name, justify="right", no_wrap=True)
    for network in evaluation.networks:
        parts = " ".join(f"{part.error:+.0%}" for part in network.parts[1:])
        whole = network.whole
        known_layers = f"{network.known} of {network.layers}"
        times = (format_seconds(whole.predicted_s), format_seconds(whole.measured_s), f"{whole.error:+.1%}")
        table.add_row(short(network.name), *times, f"{network.noise:.1%}", parts, known_layers)
    return table


def fitness_lines(evaluation: Evaluation) -> list[str]:
    """How good it is for networks that were never measured, and which kinds are too bad to be predicted."""
    quality = evaluation.fitness
    lines = [f"whole: P90 error {p90(quality.factor)} for held-out networks (limit {p90(MOST_WHOLE)})"]
    weak = [fitted.kind for fitted in evaluation.fits if not fitted.factor <= MOST_KIND]
    if weak:
        lines.append(
            f"weak:  {', '.join(weak)}: P90 error above {p90(MOST_KIND)}; networks dominated by them are measured"
        )
    return lines


def gap_lines(evaluation: Evaluation) -> list[str]:
    """How a sum of layers and a network differ."""
    start, alone = evaluation.predictors.start, evaluation.predictors.alone
    lines = [f"start: a pass after an idle period takes up to {format_seconds(start.most_s)} longer"]
    if alone:
        ratios = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in alone.items())
        lines.append(f"alone: time of a layer run repeatedly by itself, relative to the layer in its network: {ratios}")
    return lines


def draw(evaluation: Evaluation, folder: Path) -> list[Path]:
    """A scatter plot for each kind, predicted over measured. Raises UsageError where it cannot be written."""
    from edgecloud.utils.plots import scatter

    machine: Machine | None = evaluation.dataset.machine
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for fitted in evaluation.fits:
            path = folder / f"{fitted.kind}.png"
            title = f"{fitted.kind}: {fitted.score.within_20:.0%} of {fitted.score.rows} within ±20 %, {fitted.chosen}"
            scatter(
                path,
                fitted.measured * 1e3,
                fitted.predicted * 1e3,
                title,
                str(machine or evaluation.dataset.source),
            )
            paths.append(path)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from None
    return paths
