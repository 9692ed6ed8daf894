"""Point x codec: bytes, time, error, and how often the answer stays the same on at least 100 pictures.

    python -m benchmarks.accuracy [--models le_net,alex_net]

The pictures are those of `deployment.py calibrate`: le_net has 450 held-out digits and their labels, the others 100
crops of photographs; only le_net is trained. Bytes are those of one sample picture, with and without zstd; times are
those of the whole tensor, on one thread.
"""

import argparse
import sys

from benchmarks.fingerprint import write_table
from models import inputs, registry, weights
from predictor.store import default_folder
from runtime import calibration, packing
from runtime.executor import prepare
from runtime.packing import AUTO, Wanted
from utils.units import format_bytes

MODELS = ("le_net", "alex_net", "vgg_net", "mobile_net", "torchvision:resnet18", "torchvision:googlenet")


def rows_of(name: str) -> list[list[str]]:
    """One network: calibrated, then packed."""
    found = calibration.calibrate(name, "default", "cpu", None, None, lambda _what, _done: None)
    calibration.keep(default_folder(), found)
    entry = registry.find(name)
    network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
    graph, wanted = network.traced.graph, Wanted.of(AUTO, found, 1.0)
    packed = packing.packing_of(network, wanted, default_folder())
    numbers = {layer.id: number for number, layer in enumerate(graph.layers)}
    rows = []
    for tried in found.tried:
        number = numbers[tried.layer]
        raw, size = graph.layers[number].out_bytes, packed.sizes[number, f"{tried.codec}+zstd"]
        ms = 1e3 * raw * sum(packed.rates[f"{tried.codec}+zstd"])
        row = [name.removeprefix("torchvision:"), tried.layer, tried.codec, format_bytes(raw), format_bytes(size)]
        row += [f"{raw / size:.1f}", f"{ms:.2f}", f"{tried.max_error:.2%}"]
        row += [f"{1 - tried.changed / tried.pictures:.1%} of {tried.pictures}", _accuracy(tried)]
        rows.append(row)
        print(" | ".join(row), flush=True)
    return rows


def _accuracy(tried: calibration.Tried) -> str:
    if tried.wrong is None or tried.wrong_whole is None:
        return "-"
    return f"{1 - tried.wrong / tried.pictures:.2%} ({1 - tried.wrong_whole / tried.pictures:.2%} whole)"


def main() -> int:
    """Measure and write benchmarks/results/accuracy.md."""
    parser = argparse.ArgumentParser(description="what packing costs in accuracy")
    parser.add_argument("--models", default=",".join(MODELS))
    rows = [row for name in parser.parse_args().models.split(",") for row in rows_of(name)]
    head = ["network", "after", "codec", "raw", "with zstd", "x fewer", "encode + decode, ms", "largest error"]
    notes = [
        "Points whose tensor is smaller than all before. An error is a share of the tensor's largest number. Roundings",
        "that changed more than a fifth of the first answers were given up, and have no row.",
    ]
    write_table("accuracy", "What packing costs in accuracy", [*head, "same top-1", "accuracy"], rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
