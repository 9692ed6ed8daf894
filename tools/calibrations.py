"""Make the calibrations that come along with the trained networks.

    python -m edgecloud.tools.calibrations efficientnet_lite0 --image-dir PHOTOGRAPHS
    python -m edgecloud.tools.calibrations le_net mnist

Tables are found with crops of the left half of each photograph and tried on crops of the right half, so no pixel serves
both; those of the two networks for digits with the digits that these were trained on, and tried on every other one of
those that were held out. The sample photographs are always among the photographs. What counts is the agreement with the
whole network, with digits too. `python -m benchmarks.agreement` tries the result on pictures that are not among these.
"""

import argparse
import sys
from pathlib import Path

from edgecloud.engine import calibration
from edgecloud.engine.calibration import SHIPPED, Calibration, Samples
from edgecloud.engine.executor import make_executor
from edgecloud.models import inputs, registry
from edgecloud.models.registry import Entry
from edgecloud.utils import output
from edgecloud.utils.inference_utils import set_threads
from edgecloud.utils.resources import shipped

TRIED, FIT = 40, 10
"""Crops of each photograph."""
LARGEST_LOSS = 0.05  # rows and tables of coarser codings would only take room


def samples_of(entry: Entry, folder: Path | None) -> Samples:
    """Digits for the networks that read them, else crops of photographs."""
    if entry.sample != "photo":
        digits = calibration.read_samples(entry, None)
        return Samples(f"every other one of the {digits.source}", digits.tensors[::2], fit=digits.fit)
    more = [] if folder is None else sorted(path for path in folder.iterdir() if path.suffix in inputs.PICTURES)
    paths = [*inputs.samples(entry.sample), *more]
    tried, fit = (
        [entry.preprocess(crop) for path in paths for crop in inputs.crops(path, count, part=part)]
        for count, part in ((TRIED, (0.5, 1.0)), (FIT, (0.0, 0.5)))
    )
    names = ", ".join(path.stem for path in paths)
    return Samples(f"{len(tried)} crops of {len(paths)} photographs ({names})", tried, fit=fit)


def without_the_worst(found: Calibration) -> Calibration:
    """The same with what somebody may want."""
    rows = tuple(each for each in found.tried if each.loss <= LARGEST_LOSS)
    wanted = {(each.layer, each.codec) for each in rows}
    sides = tuple(each for each in found.sides if (each.layer, each.codec) in wanted)
    return Calibration(found.model, found.graph, found.weights, found.source, rows, sides)


def main() -> int:
    """Write them into models/zoo/calibrations."""
    parser = argparse.ArgumentParser(description="make the calibrations that come along")
    parser.add_argument("models", nargs="*", default=SHIPPED, metavar="MODEL")
    parser.add_argument("--image-dir", type=Path, metavar="DIR", help="more photographs")
    options = parser.parse_args()
    set_threads(1)
    for name in options.models:
        entry = registry.lookup(name)
        executor = make_executor(entry.network(), "cpu")
        found = calibration.calibrate_on(executor, samples_of(entry, options.image_dir), lambda *_: None)
        path = shipped("models.zoo", "calibrations", f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(calibration.to_text(without_the_worst(found)) + "\n", encoding="utf-8")
        output.say(f"{path.name}: {path.stat().st_size} bytes, {found.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
