"""Calibrations that come along, on pictures that they have not seen: agreement, bytes and entropy at every point.

    python -m benchmarks.agreement --image-dir DIR [--models efficientnet_lite0,le_net,mnist] [--budget 1%]

For every point that was calibrated: the entropy-coded codecs within the budget, int8+zstd and int4+zstd, on at least
200 crops of photographs (one of the zoo, one of matplotlib's and those of DIR, none of which made a calibration), or on
the 225 digits that neither training nor calibration saw. Agreement is the share of crops with the class of the whole
network. Entropy is of order 0, of the codes of each channel over all crops: the least without a context.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory

from benchmarks.fingerprint import write_table
from edgecloud.engine import calibration
from edgecloud.engine.calibration import SHIPPED
from edgecloud.engine.executor import make_executor
from edgecloud.models import inputs, registry
from edgecloud.models.graph import INPUT
from edgecloud.net import codec, entropy
from edgecloud.net.encodings import Array
from edgecloud.net.entropy import EntropyCodec
from edgecloud.utils.inference_utils import set_threads
from edgecloud.utils.resources import shipped
from edgecloud.utils.units import format_bytes

CROPS = 216  # in all
PLAIN = ("int8", "int4")
ENTROPY_CROPS = 40  # whose codes are kept for the entropy


@dataclass
class Seen:
    """One codec after one layer, on all crops."""

    sizes: list[int] = field(default_factory=list)
    same: int = 0
    some: list[Array] = field(default_factory=list)

    @property
    def nbytes(self) -> float:
        """Mean of what travels."""
        return sum(self.sizes) / len(self.sizes)

    @property
    def agreement(self) -> float:
        """Share of the crops with the class of the whole network."""
        return self.same / len(self.sizes)


def pictures(entry: registry.Entry, folder: Path | None) -> list[Array]:
    """Those that no calibration saw."""
    if entry.sample != "photo":
        return list(calibration.read_samples(entry, None).tensors[1::2])
    import matplotlib

    paths = [shipped("models.zoo", "face.jpg"), Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")]
    paths += [] if folder is None else sorted(p for p in folder.iterdir() if p.suffix in inputs.PICTURES)
    count = -(-CROPS // len(paths))
    return [entry.preprocess(crop) for path in paths for crop in inputs.crops(path, count)]


def rows_of(name: str, folder: Path | None, budget: float) -> tuple[list[list[str]], list[str]]:
    """Its rows, and what is said below."""
    entry = registry.lookup(name)
    executor = make_executor(entry.network(), "cpu")
    with TemporaryDirectory() as empty:
        kept = calibration.find(Path(empty), executor.network)
    assert kept is not None, f"no calibration of {name} comes along"
    graph, within = executor.network.graph, kept.within(budget)
    points = calibration.points_worth_sending(graph)
    tried = pictures(entry, folder)
    seen: dict[tuple[int, str], Seen] = {}
    for number, picture in enumerate(tried):
        crossing, answer = calibration.whole(executor, picture, points)
        for point in points:
            if point.layer == INPUT:
                continue
            layer = graph.layers[point.layer].id
            coded = [each.codec for each in kept.sides if each.layer == layer]
            for one in (*PLAIN, *coded):
                row = seen.setdefault((point.layer, one), Seen())
                array = crossing[point.layer]
                sided = kept.sided.get((layer, one))
                packed = codec.encode(array, one, sided)
                row.sizes.append((packed if sided is not None else codec.encode(array, f"{one}+zstd")).nbytes)
                row.same += int(calibration.rest(executor, point, codec.decode(packed)).argmax() == answer.argmax())
                if number % max(1, len(tried) // ENTROPY_CROPS) == 0:
                    row.some.append(array)
        print(f"{name}: {number + 1} of {len(tried)}", end="\r", file=sys.stderr)
    rows = []
    for (number, one), each in seen.items():
        layer = graph.layers[number].id
        sided = kept.sided.get((layer, one))
        least = "-"
        if isinstance(sided, EntropyCodec):
            coded_bytes = sum(len(sided.encode(array)) for array in each.some)
            least = f"{coded_bytes / entropy.order_0_bytes(sided, each.some) - 1:+.1%}"
        is_used = "yes" if one in within.get(layer, ()) else ""
        shown = one if sided is not None else f"{one}+zstd"
        rows.append(
            [
                name,
                layer,
                shown,
                is_used,
                format_bytes(round(each.nbytes)),
                least,
                f"{each.agreement:.1%}",
                f"{len(each.sizes)}",
            ]
        )
    return rows, _notes(name, seen, {point.layer for point in points if point.layer != INPUT})


def _notes(name: str, seen: dict[tuple[int, str], Seen], layers: set[int]) -> list[str]:
    notes = []
    for plain in PLAIN:
        ratios = []
        for layer in sorted(layers):
            mine = [each for (at, one), each in seen.items() if at == layer and one in entropy.NAMES]
            good = [each.nbytes for each in mine if each.agreement >= seen[layer, plain].agreement]
            if good:
                ratios.append(min(good) / seen[layer, plain].nbytes)
        text = f"{geometric_mean(ratios) - 1:+.0%} at {len(ratios)} of {len(layers)} points" if ratios else "none"
        notes.append(f"{name}: bytes of the smallest ecN that agrees as often, beside {plain}+zstd: {text}.")
    return notes


def main() -> int:
    """Measure and write benchmarks/results/agreement.md."""
    parser = argparse.ArgumentParser(description="calibrations that come along, on other pictures")
    parser.add_argument("--models", default=",".join(SHIPPED))
    parser.add_argument("--image-dir", type=Path)
    parser.add_argument("--budget", default="1%")
    options = parser.parse_args()
    set_threads(1)
    budget = float(options.budget.rstrip("%")) / 100
    found = [rows_of(name, options.image_dir, budget) for name in options.models.split(",")]
    head = ["network", "after", "codec", f"within {options.budget}", "bytes", "over entropy", "same class", "crops"]
    rows = [row for each, _ in found for row in each]
    wrong = [row for row in rows if row[3] and float(row[6].rstrip("%")) < 100 - 100 * budget]
    notes = [
        *(note for _, each in found for note in each),
        "",
        f"Within the budget by calibration, not here: {len(wrong)} rows.",
    ]
    write_table("agreement", "Calibrations on pictures that they have not seen", head, rows, notes)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
