"""How good are predictions? Held-out layers, networks that were never measured, and how long it takes.

    python -m benchmarks.prediction [--dataset DIR] [--published DIR]

Expects rows of this machine (deployment.py profile --threads 1). The predictors for whole networks are fitted without
any layer that occurs in one of those networks, so that none of their shapes was seen. With --published, the same table
for a directory of the published data set, compared with plain linear regression on its features.

Beside each error is the noise: how far a second measurement of the same layers, or of the same network, later, was from
the first. No prediction can be closer than that.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.fingerprint import write_table
from edgecloud.engine.times import layers_of
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import prepare
from edgecloud.predictor.dataset import Dataset, read, read_whole
from edgecloud.predictor.latency import combine
from edgecloud.predictor.pace import within
from edgecloud.predictor.store import default_folder
from edgecloud.predictor.train import KindFit, fit_all
from edgecloud.tools.evaluation import MANY_NETWORKS, Evaluation, evaluate_networks, fit, short
from edgecloud.tools.survey import again_of, one_thread_survey, pace_of
from edgecloud.utils.inference_utils import find_device

REPEATS = 7


def without(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The data set without any layer that one of the networks has."""
    seen = set()
    for name in names:
        entry = registry.lookup(name)
        network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
        seen |= {layer.spec for layer in layers_of(TorchExecutor(network, find_device("cpu")))}
    kept = {kind: tuple(row for row in rows if row.layer.spec not in seen) for kind, rows in dataset.rows.items()}
    return replace(dataset, rows=kept)


Twice = Sequence[tuple[str, float, float]]
"""Kinds of layers that were measured twice, with both times in seconds."""


def noise_of(kind: str, twice: Twice) -> str:
    """How many layers of a kind agree with themselves within 20 %, of how many."""
    pairs = [pair for found, *pair in twice if found == kind]
    return f"{within([(a, b) for a, b in pairs], 0.2):.0%} of {len(pairs)}" if pairs else "-"


def kind_rows(fits: Sequence[KindFit], rows: dict[str, int], twice: Twice = ()) -> list[list[str]]:
    """A row for each kind."""
    return [
        [
            found.kind,
            str(rows[found.kind]),
            found.chosen,
            *(f"{share:.0%}" for share in (found.score.within_10, found.score.within_20)),
            noise_of(found.kind, twice),
            f"{found.score.mape:.0%}",
            *(f"{found.candidates[form].within_20:.0%}" for form in ("published", "linear", "logarithmic", "trees")),
        ]
        for found in fits
    ]


HEAD = [
    "kind",
    "rows",
    "chosen",
    "±10 %",
    "±20 %",
    "noise: again ±20 %",
    "MAPE",
    "published ±20 %",
    "linear",
    "logarithmic",
    "trees",
]


def networks_of(dataset: Dataset, folder: Path, cache_dir: Path) -> Evaluation:
    """Fit without the networks' own layers, then measure them."""
    fitted = without(dataset, MANY_NETWORKS)
    fits = tuple(fit_all(fitted))
    predictors = combine(fits, dataset.machine, read_whole(folder), pace_of(folder))
    evaluation = Evaluation(fitted, fits, predictors, (), 0.0, "")
    return evaluate_networks(
        evaluation, MANY_NETWORKS, "cpu", None, cache_dir, lambda what, _: print(what, file=sys.stderr)
    )


def predict_s(evaluation: Evaluation) -> float:
    """The slowest network's table, median of some repeats."""
    slowest = 0.0
    for name in MANY_NETWORKS:
        entry = registry.lookup(name)
        network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
        layers = layers_of(TorchExecutor(network, find_device("cpu")))
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            evaluation.predictors.network(layers)
            times.append(time.perf_counter() - began)
        slowest = max(slowest, median(times))
    return slowest


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/prediction*.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", type=Path, default=one_thread_survey())
    parser.add_argument("--published", type=Path, help="a directory of the published data set")
    options = parser.parse_args(argv)
    if options.published is not None:
        found = fit(options.published, lambda _what, _done: None)
        counts = {kind: len(rows) for kind, rows in found.dataset.rows.items()}
        notes = [
            f"Fitted in {found.fit_s:.1f} s. A fifth of the rows was held out; columns after MAPE are within ±20 %."
        ]
        write_table("prediction_published", "The published data set", HEAD, kind_rows(found.fits, counts), notes)
        return 0
    found = fit(options.dataset, lambda _what, _done: None)
    counts = {kind: len(rows) for kind, rows in found.dataset.rows.items()}
    table_s = predict_s(found)
    tested = sum(each.score.rows for each in found.fits)
    whole = sum(each.score.rows * each.score.within_20 for each in found.fits) / tested
    twice = [(a, b) for _, a, b in again_of(options.dataset)]
    notes = [
        f"{found.dataset.machine}. Fitted in {found.fit_s:.1f} s. The slowest network's table: {1e3 * table_s:.1f} ms.",
        f"All kinds: {whole:.0%} of {tested} layers within ±20 %; {within(twice, 0.2):.0%} of {len(twice)} layers that "
        "were measured again, some networks later, agree with themselves so well.",
        "A fifth of the networks was held out; columns after MAPE are within ±20 % in the cross-validation.",
    ]
    write_table(
        "prediction_layers",
        "Layers of held-out networks",
        HEAD,
        kind_rows(found.fits, counts, again_of(options.dataset)),
        notes,
    )
    unseen = networks_of(read(options.dataset), options.dataset, default_folder())
    rows = [
        [
            short(network.name),
            f"{1e3 * network.whole.predicted_s:.1f} ms",
            f"{1e3 * network.whole.measured_s:.1f} ms",
            f"{network.whole.error:+.1%}",
            f"{network.noise:.1%}",
            " ".join(f"{part.error:+.0%}" for part in network.parts[1:] if part.part == "head"),
            " ".join(f"{part.error:+.0%}" for part in network.parts[1:] if part.part == "tail"),
            f"{network.known} of {network.layers}",
        ]
        for network in unseen.networks
    ]
    notes = [
        f"{unseen.parts_within_10:.0%} of the parts within ±10 %. Cut at a quarter, half, three quarters of the time."
    ]
    head = ["network", "predicted", "measured", "error", "noise", "heads", "tails", "layers seen"]
    write_table("prediction_networks", "Networks none of whose layers were measured", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
