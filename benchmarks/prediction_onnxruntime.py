"""How good are predictions of ONNX Runtime? Held-out pieces, and networks that were never measured, with their noise.

    python -m benchmarks.prediction_onnxruntime --measure [--dataset DIR] [--bundles DIR] [--cuts N] [NETWORK ...]
    python -m benchmarks.prediction_onnxruntime [--dataset DIR] [--bundles DIR] [NETWORK ...]

Expects rows of this machine (deployment.py profile --backend onnxruntime --threads 1). The first call, which wants a
quiet machine, measures the networks; the second fits, predicts and compares. The predictors for whole networks are
fitted without any piece that occurs in one of those networks, so that none of their shapes was seen. Every network,
head and tail is measured twice, in turns: how far the second measurement is from the first is the noise, and no
prediction can be better.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from benchmarks.bundles import bundled
from benchmarks.fingerprint import write_table
from benchmarks.prediction import HEAD, kind_rows
from edgecloud.engine.executor import ONNXRUNTIME, make_executor
from edgecloud.engine.times import units_of
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.predictor import segments
from edgecloud.predictor.dataset import Dataset, read, read_whole
from edgecloud.predictor.latency import Predictors, combine
from edgecloud.predictor.pace import within
from edgecloud.predictor.store import default_folder
from edgecloud.predictor.train import fit_all
from edgecloud.tools.evaluation import MANY_NETWORKS, MeasuredPart, PartTimes, SegmentTimer, beside, fit, short
from edgecloud.tools.survey import ABOUT, SAME, folder_of, pace_of
from edgecloud.utils.inference_utils import keep_freed_memory, set_threads

NETWORKS = (*MANY_NETWORKS, "torchvision:efficientnet_b0", "efficientnet_lite0")
LIMIT = 0.1
MEASURED = "networks.json"


def without(dataset: Dataset, networks: Sequence[BundleNetwork]) -> Dataset:
    """The data set without any piece that one of the networks has."""
    seen = {unit.spec for network in networks for unit in units_of(network, ONNXRUNTIME).described}
    kept = {kind: tuple(row for row in rows if row.layer.spec not in seen) for kind, rows in dataset.rows.items()}
    return replace(dataset, rows=kept)


def measure(networks: Mapping[str, BundleNetwork], folder: Path, cuts: int) -> None:
    """Every network, and heads and tails of some cuts, evenly spread over the work; kept beside the rows."""
    keep_freed_memory()
    found = {}
    for name, network in networks.items():
        print(name, file=sys.stderr, flush=True)
        executor = make_executor(network, "cpu", backend=ONNXRUNTIME)
        points = segments.chosen(network.graph, segments.work_of(network.graph, network.specs()), cuts)
        timer = SegmentTimer(executor, pace_of(folder), default_folder())
        found[name] = [asdict(part) for part in timer.measured(points)]
        (folder / MEASURED).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def compared(name: str, network: BundleNetwork, predictors: Predictors, folder: Path) -> tuple[PartTimes, ...]:
    """The whole, heads and tails of a network, predicted and measured."""
    rows = json.loads((folder / MEASURED).read_text(encoding="utf-8"))[name]
    return beside([MeasuredPart(**row) for row in rows], predictors.network(units_of(network, ONNXRUNTIME)))


def again(twice: Sequence[tuple[str, float, float]], kind: str = "") -> str:
    """How many pieces of a kind, or of all, agree with a second measurement, some networks later."""
    pairs = [(first_s, again_s) for found, first_s, again_s in twice if kind in ("", found)]
    return f"{within(pairs, SAME):.0%} of {len(pairs)}" if pairs else "-"


def row_of(name: str, parts: Sequence[PartTimes]) -> list[str]:
    """One network in the table."""
    whole, others = parts[0], parts[1:]
    return [
        short(name),
        f"{1e3 * whole.predicted_s:.2f} ms",
        f"{1e3 * whole.measured_s:.2f} ms",
        f"{whole.error:+.1%}",
        f"{whole.noise or 0.0:+.1%}",
        _close(part.error for part in others if part.part == "head"),
        _close(part.error for part in others if part.part == "tail"),
        _close(part.noise or 0.0 for part in others),
        f"{median(abs(part.error) for part in parts):.1%}",
    ]


def _close(errors: Iterable[float]) -> str:
    found = [abs(each) <= LIMIT for each in errors]
    return f"{sum(found)} of {len(found)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/prediction_onnxruntime*.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--dataset", type=Path, default=None, metavar="DIR")
    parser.add_argument("--bundles", type=Path, default=Path("bundles"), metavar="DIR")
    parser.add_argument("--cuts", type=int, default=5, metavar="N")
    parser.add_argument("--measure", action="store_true", help="measure the networks")
    options = parser.parse_args(argv)
    set_threads(1)
    folder = options.dataset or folder_of("edge", 1, ONNXRUNTIME)
    networks = {name: bundled(name, options.bundles) for name in options.networks}
    if options.measure:
        measure(networks, folder, options.cuts)
        return 0
    found = fit(folder, lambda _what, _done: None)
    counts = {kind: len(rows) for kind, rows in found.dataset.rows.items()}
    notes = [
        f"{found.dataset.machine}. Fitted in {found.fit_s:.1f} s.",
        "A fifth of the networks was held out; columns after MAPE are within ±20 % in the cross-validation.",
    ]
    title = "Pieces of held-out networks in ONNX Runtime"
    twice = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["again"]
    rows = [[*row, again(twice, row[0])] for row in kind_rows(found.fits, counts)]
    head = [*HEAD, f"second ±{SAME:.0%}"]
    notes.append(f"Pieces that were measured twice and agree within ±{SAME:.0%}: {again(twice)}.")
    write_table("prediction_onnxruntime_layers", title, head, rows, notes)
    data = without(read(folder), list(networks.values()))
    predictors = combine(fit_all(data), data.machine, read_whole(folder), pace_of(folder))
    parts = {name: compared(name, network, predictors, folder) for name, network in networks.items()}
    every = [part for those in parts.values() for part in those]
    notes = [
        f"{sum(abs(part.error) <= LIMIT for part in every) / len(every):.0%} of the parts within ±10 %; second "
        f"measurements of the same: {sum(abs(part.noise or 0.0) <= LIMIT for part in every) / len(every):.0%}.",
        "Heads, tails and second measurements: within ±10 %. Cuts are evenly spread over the work.",
    ]
    head = ["network", "predicted", "measured", "error", "second", "heads", "tails", "second", "median error"]
    title = "Networks none of whose pieces were measured, in ONNX Runtime"
    write_table("prediction_onnxruntime_networks", title, head, [row_of(*pair) for pair in parts.items()], notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
