"""Point x codec: bytes, time, error, and how often the answer stays the same on at least 100 pictures.

    python -m benchmarks.accuracy [--models le_net,alex_net]

The pictures are those of `deployment.py calibrate`: le_net has 450 held-out digits and their labels, the others 100
crops of photographs; only le_net is trained. Bytes are the mean of every fifth picture, raw and packed with zstd; times
are those of a whole tensor, on one thread. Lossless codecs need no trial and are listed for comparison.
"""

import argparse
import sys

from benchmarks.fingerprint import write_table
from edgecloud.engine import calibration, packing
from edgecloud.engine.packing import AUTO, CodecPolicy
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import inputs, registry, weights
from edgecloud.models.graph import INPUT, Point
from edgecloud.models.torch_network import prepare
from edgecloud.net.codec import KINDS, encode, kind_of
from edgecloud.net.tensors import RAW, Array
from edgecloud.predictor.store import default_folder
from edgecloud.utils.inference_utils import find_device
from edgecloud.utils.units import format_bytes

EVERY = 5  # pictures that are packed
MODELS = ("le_net", "alex_net", "vgg_net", "mobile_net", "torchvision:resnet18", "torchvision:googlenet")


def rows_of(name: str) -> list[list[str]]:
    """One network: calibrated, then packed."""
    found = calibration.calibrate(name, "default", "cpu", None, None, lambda _what, _done: None)
    calibration.keep(default_folder(), found)
    entry = registry.lookup(name)
    network = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
    graph, wanted = network.traced.graph, CodecPolicy.of(AUTO, found, 1.0)
    packed = packing.packing_of(network, wanted, default_folder())
    pictures = calibration.read_samples(entry, None).tensors[::EVERY]
    executor = TorchExecutor(network, find_device("cpu"))
    rows = []
    for point in calibration.points_worth_sending(graph):
        layer = graph.layers[point.layer]
        tensors = [_at(executor, point, picture) for picture in pictures]
        lossless = ("pixels", RAW) if point.layer == INPUT else (RAW,)
        tried = [each for each in found.tried if each.layer == layer.id]
        for codec, each in [*((name, None) for name in lossless), *((each.codec, each) for each in tried)]:
            under = "zstd" if codec == RAW else codec if kind_of(codec) in KINDS else f"{codec}+zstd"
            sizes = [encode(tensor, under, found.sided.get((layer.id, codec))).nbytes for tensor in tensors]
            size, ms = sum(sizes) / len(sizes), 1e3 * layer.out_bytes * sum(packed.rates[under])
            row = [name.removeprefix("torchvision:"), layer.id, codec, format_bytes(layer.out_bytes)]
            row += [format_bytes(round(size)), f"{layer.out_bytes / size:.1f}", f"{ms:.2f}", *_loss(each)]
            rows.append(row)
            print(" | ".join(row), flush=True)
    return rows


def _at(executor: TorchExecutor, point: Point, picture: Array) -> Array:
    """The tensor after a point."""
    if point.layer == INPUT:
        return picture
    part = executor.load(executor.traced.graph.head_at(point.number))
    return dict(zip(part.outputs, executor.run(part, [picture]).arrays, strict=True))[point.layer]


def _loss(tried: calibration.Tried | None) -> list[str]:
    """Largest error, agreement and accuracy; trivial for lossless codecs."""
    if tried is None:
        return ["0", "all", "-"]
    agrees = f"{1 - tried.changed / tried.pictures:.1%} of {tried.pictures}"
    return [f"{tried.max_error:.2%}", agrees, _accuracy(tried)]


def _accuracy(tried: calibration.Tried) -> str:
    if tried.wrong is None or tried.wrong_whole is None:
        return "-"
    return f"{1 - tried.wrong / tried.pictures:.2%} ({1 - tried.wrong_whole / tried.pictures:.2%} full model)"


def main() -> int:
    """Measure and write benchmarks/results/accuracy.md."""
    parser = argparse.ArgumentParser(description="accuracy loss by codec")
    parser.add_argument("--models", default=",".join(MODELS))
    rows = [row for name in parser.parse_args().models.split(",") for row in rows_of(name)]
    head = ["network", "after", "codec", "raw", "with zstd", "ratio", "encode + decode, ms", "largest error"]
    notes = [
        "Points whose tensor is smaller than at every earlier point. Errors are relative to the tensor's largest",
        "number. Lossy codecs that changed more than a fifth of the first answers were abandoned and have no row.",
    ]
    write_table("accuracy", "Accuracy loss by codec", [*head, "same top-1", "accuracy"], rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
