"""Do predictions hold where the machine drifts? A survey and profiles under a noisy neighbour, beside the quiet device.

    python -m benchmarks.survey_drift [--budget 100] [--networks 12] [--runs 5] [--seed 1] [--quiet]
                                      [--folder DIR --seconds 560]

One thread. Layers of random networks are measured, and the networks themselves, while benchmarks.neighbour comes and
goes (with --quiet: without it). Then it is off, and heads, tails and whole networks run as an edge runs them. Before
each the present speed is looked for as before a decision. What was predicted from the survey, and what was measured
under the neighbour, both divided by that speed, is put beside the time that the part takes. The noise of the machine
is what two such times of one part differ by.

It takes six to ten minutes. With --folder all that was measured is kept there, and the same call goes on where it was;
with --seconds it begins no network that would not be done by then.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from benchmarks.neighbour import Neighbour
from benchmarks.prediction import noise_of as noise_of_kind
from edgecloud.engine.executor import Executor, make_executor
from edgecloud.engine.speed import Speed, pace_of
from edgecloud.engine.times import LayerTimes, Times, layers_of
from edgecloud.models import registry
from edgecloud.models.split import split
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.tensors import Array
from edgecloud.predictor.pace import HEAVY, apart, within
from edgecloud.tools.evaluation import CUTS, MANY_NETWORKS, Evaluation, fit, short
from edgecloud.tools.survey import Survey, SurveyConfig, survey
from edgecloud.utils.inference_utils import keep_freed_memory, set_threads

TWELVE = (*MANY_NETWORKS, "torchvision:vgg11", "torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0")
REST_S = 0.1
LEAST_KIND_ROWS = 5
HEAD = ["kind", "rows", "tested", "±20 %", "noise: again ±20 %", "chosen"]


@dataclass(frozen=True)
class Part:
    """A whole network, a head or a tail: what is said of it, and ratios of that to what it took at the same speed."""

    network: str
    name: str
    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    took_s: tuple[float, ...]


def sums_of(times: LayerTimes, layers: frozenset[int], entry: int) -> float:
    """Seconds of a segment that begins after a layer."""
    return sum(times.seconds[number] for number in layers) + times.start_s[entry]


def parts_of(executor: Executor, times: LayerTimes, x: Array) -> list[tuple[str, frozenset[int], int, list[Array]]]:
    """The whole, and heads and tails cut at shares of the time, each with the arrays that it reads."""
    assert isinstance(executor.network, TorchNetwork)
    graph, traced = executor.network.graph, executor.network.traced
    found = [("whole", graph.everything, 0, [x])]
    done = np.cumsum(times.seconds)
    inner = [point.layer for point in graph.points[1:-1]]
    layers = [min(inner, key=lambda la: abs(float(done[la]) - share * float(done[-1]))) for share in CUTS]
    for layer in dict.fromkeys(layers):
        head, tail = split(traced, range(layer + 1))
        with torch.inference_mode():
            crossing = dict(zip(head.outputs, head.module(torch.from_numpy(x)), strict=True))
        found.append((f"head {layer}", frozenset(range(layer + 1)), 0, [x]))
        boundary = [np.asarray(crossing[number]) for number in tail.inputs]
        found.append((f"tail {layer}", graph.everything - frozenset(range(layer + 1)), layer, boundary))
    return found


def run_parts(
    name: str, executor: Executor, evaluation: Evaluation, cache: Path, under: LayerTimes, runs: int
) -> list[Part]:
    """Run every part, each after a look at the speed, and compare."""
    meter = Times("measured", cache, cache).meter(executor)
    forecast, quiet = evaluation.predictors.network(layers_of(executor)), pace_of(cache, executor.machine)
    predicted = LayerTimes(forecast.seconds, forecast.start_s, "predicted")
    if quiet is not None and evaluation.predictors.pace is not None:  # both relative to the same quiet machine
        predicted = predicted.at(Speed(HEAVY.slowdown(evaluation.predictors.pace, quiet)))
    parts = []
    for part, layers, entry, arrays in parts_of(executor, under, np.asarray(_example(name))):
        segment = executor.load(layers)
        executor.run(segment, arrays)
        said = [sums_of(times, layers, entry) for times in (predicted, under)]
        ratios: list[list[float]] = [[], []]
        took = []
        for _ in range(runs):
            speed = meter.look(said[1]).value
            time.sleep(REST_S)
            seconds = executor.run(segment, arrays).seconds
            meter.record(seconds, said[1])
            took.append(seconds * speed)
            for each, said_s in zip(ratios, said, strict=True):
                each.append(said_s / speed / seconds)
        parts.append(Part(short(name), part, tuple(ratios[0]), tuple(ratios[1]), tuple(took)))
    return parts


def _example(name: str) -> Array:
    return registry.resolve_trusted(name).network().example.array


def _executor(name: str) -> Executor:
    return make_executor(registry.resolve_trusted(name).network(), "cpu")


def noise_of(part: Part) -> float:
    """What half of the runs of a part differ by from the other half, at the same speed."""
    return apart(median(part.took_s[::2]), median(part.took_s[1::2]))


def shares(parts: Sequence[Part]) -> tuple[float, float, float]:
    """Parts within 10 %: predicted, measured, and two measurements of each other."""
    predicted = within([(median(part.predicted), 1.0) for part in parts], 0.1)
    measured = within([(median(part.measured), 1.0) for part in parts], 0.1)
    return predicted, measured, within([(1.0, 1.0 + noise_of(part)) for part in parts], 0.1)


def middle(parts: Sequence[Part], what: str) -> float:
    """The median error, signed: what all parts are off by alike."""
    return float(median(median(getattr(part, what)) for part in parts)) - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/survey_drift.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.survey_drift", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--budget", type=float, default=100.0, help="seconds of measuring layers")
    parser.add_argument("--networks", type=int, default=len(TWELVE), help="how many of the twelve")
    parser.add_argument("--runs", type=int, default=5, help="of every part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="without the neighbour")
    parser.add_argument("--folder", type=Path, help="where to keep what was measured (default: nowhere)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing that would end later")
    options = parser.parse_args(argv)
    set_threads(1)
    keep_freed_memory()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measured = measure(options, folder, time.monotonic() + options.seconds)
    if measured is None:
        print(f"there is more to do: the same command goes on in {folder}", file=sys.stderr)
        return 1
    report(options, *measured)
    return 0


def measure(options: argparse.Namespace, folder: Path, until: float) -> tuple[Evaluation, Survey, list[Part]] | None:
    """What was asked for; None where there was no time for all of it. `until` is a moment of time.monotonic."""
    names, path = TWELVE[: options.networks], folder / "parts.jsonl"
    parts = read(path)
    missing = [name for name in names if all(part.network != short(name) for part in parts)]
    with Neighbour(options.seed) as neighbour:
        with nullcontext() if options.quiet else neighbour.busy():
            config = SurveyConfig("edge", "cpu", 1, options.budget, folder / "rows")
            surveyed = survey(config, lambda what, _: print(what, file=sys.stderr))
            times = Times("measured", folder, folder)
            found = {
                name: times.find(_executor(name), lambda _: None, tails=True).times for name in in_time(missing, until)
            }
        if len(found) < len(missing):
            return None
        evaluation = fit(folder / "rows", lambda _what, _done: None)
        for name in in_time(missing, until):
            new = run_parts(name, _executor(name), evaluation, folder, found[name], options.runs)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(part)) + "\n" for part in new)
    parts = read(path)
    is_whole = {part.network for part in parts} >= set(map(short, names))
    return (evaluation, surveyed, parts) if is_whole else None


def in_time(names: Iterable[str], until: float) -> Iterator[str]:
    """As long as what took longest so far would end in time."""
    longest_s = 0.0
    for name in names:
        began = time.monotonic()
        if began + longest_s > until:
            return
        print(name, file=sys.stderr)
        yield name
        longest_s = max(longest_s, time.monotonic() - began)


def read(path: Path) -> list[Part]:
    """The parts that were run so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    documents: list[dict[str, Any]] = [json.loads(line) for line in lines]
    lists = ("predicted", "measured", "took_s")
    return [Part(**{**found, **{name: tuple(found[name]) for name in lists}}) for found in documents]


def report(options: argparse.Namespace, evaluation: Evaluation, surveyed: Survey, parts: Sequence[Part]) -> None:
    """Two tables."""
    suffix = "_quiet" if options.quiet else ""
    fits = [found for found in evaluation.fits if found.score.rows >= LEAST_KIND_ROWS]
    twice = surveyed.collected.again
    rows = [
        [
            found.kind,
            str(len(evaluation.dataset.rows[found.kind])),
            str(found.score.rows),
            f"{found.score.within_20:.0%}",
            noise_of_kind(found.kind, twice),
            found.chosen,
        ]
        for found in fits
    ]
    tested = sum(found.score.rows for found in fits)
    whole = sum(found.score.rows * found.score.within_20 for found in fits) / max(1, tested)
    noise = surveyed.noise_text or "nothing was measured twice"
    notes = [f"All kinds: {whole:.0%} of {tested} layers within ±20 %; {noise}."]
    title = "Layers of networks set aside, measured " + ("in quiet" if options.quiet else "beside a noisy neighbour")
    write_table(f"survey_drift_layers{suffix}", title, HEAD, rows, notes)
    rows = [
        [
            part.network,
            part.name,
            f"{1e3 * median(part.took_s):.1f} ms",
            f"{median(part.predicted) - 1:+.0%}",
            f"{median(part.measured) - 1:+.0%}",
            f"{noise_of(part):.0%}",
        ]
        for part in parts
    ]
    predicted, measured, agree = shares(parts)
    notes = [
        f"Within ±10 % at the speed of the moment: {predicted:.0%} of the parts predicted, {measured:.0%} measured; "
        f"{agree:.0%} of the parts agree with themselves so well.",
        f"Off by {middle(parts, 'predicted'):+.0%} predicted and {middle(parts, 'measured'):+.0%} measured (medians).",
    ]
    head = ["network", "part", "took, as if quiet", "predicted", "measured", "noise"]
    write_table(f"survey_drift{suffix}", title.replace("Layers", "Parts"), head, rows, notes)


if __name__ == "__main__":
    sys.exit(main())
