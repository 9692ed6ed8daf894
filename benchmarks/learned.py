"""Learned codecs beside the best untrained one at the same accuracy: benchmarks/results/learned.md.

    python -m benchmarks.learned [--cells le_net:3,mnist:2] [--folder DIR] [--threads N]

For each cut a codec is trained (`deployment.py bottleneck`, its seed 0) and measured on pictures that neither training
nor choosing saw: le_net and mnist on the 450 held-out digits, with their labels; efficientnet_lite0 on strips of
photographs. Untrained codecs are measured on the same pictures at the same cut, and the smallest of those that are
right as often as the learned one, or up to 0.3 points less, is what it is compared with. Trained codecs stay in the
folder, and are used again.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from edgecloud.engine import learned
from edgecloud.engine.tables import find
from edgecloud.models import inputs, registry
from edgecloud.models.inputs import Numbers
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import codec
from edgecloud.net.codec import CODECS, CodecError, decode
from edgecloud.net.entropy import BITS_OF, EntropyCodec
from edgecloud.net.learned_file import LearnedCodec
from edgecloud.tools import bottleneck, views
from edgecloud.tools.bottleneck import BottleneckConfig, Cut
from edgecloud.tools.views import Views
from edgecloud.utils.inference_utils import set_threads
from edgecloud.utils.units import format_bytes

CELLS = "le_net:3,le_net:6,le_net:9,mnist:2,mnist:4,mnist:7,efficientnet_lite0:-"
BUDGETS = {"efficientnet_lite0": 0.02}
BUDGET = 0.005
CALIBRATED = 100
"""Views from which tables are found, as `deployment.py calibrate` takes them."""
SAME = 0.003
"""Of the accuracy: 0.3 points."""
ROUNDS = 15
"""Of training, at most."""
LARGE_ROUNDS = 3
LARGE = 4096
"""Numbers of a tensor from which on only some of the untrained codecs are tried, and few rounds are trained: each
answer takes long."""
SOME = ("int8+zstd", "int4+zstd", "int4c+zstd")
UNTRAINED = tuple(name for name in CODECS if name not in ("jpeg", "pixels", "pixels+zstd"))


@dataclass(frozen=True)
class Measured:
    """One codec on all pictures."""

    name: str
    bytes: float
    right: float
    """Share of answers that are the label, or without labels the whole network's."""
    same: float
    """Share of answers that are the whole network's."""


def photographs(folder: Path) -> Path:
    """A folder of those that lie in packages."""
    folder.mkdir(exist_ok=True)
    paths = [*inputs.samples("photo"), *inputs.samples("face")]
    spec = find_spec("matplotlib")
    more = (
        []
        if spec is None or spec.origin is None
        else [Path(spec.origin).parent / "mpl-data/sample_data/grace_hopper.jpg"]
    )
    for path in (*paths, *filter(Path.is_file, more)):
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    return folder


def pictures_for(model: str, folder: Path) -> Path | None:
    """Where the pictures for a network are; None for digits, which come along."""
    return None if registry.lookup(model).sample == "digit" else photographs(folder / "photographs")


class Cell:
    """One cut with its pictures."""

    def __init__(self, model: str, number: int | None, pictures: Path | None) -> None:
        entry = registry.lookup(model)
        network = entry.network()
        assert isinstance(network, TorchNetwork)
        self.cut = Cut.of(network, bottleneck.chosen_point(network, number))
        self.shown: Views = views.read(entry, pictures, 0, lambda _: None)
        with torch.no_grad():
            self._tensors = [self.cut.before(view) for view in self.shown.measure]
            self._whole = [int(self.cut.after(tensor).argmax()) for tensor in self._tensors]

    @property
    def truth(self) -> Sequence[int]:
        """What an answer should be."""
        return self._whole if self.shown.labels is None else self.shown.labels

    @property
    def is_large(self) -> bool:
        """Whether its tensor is."""
        return math.prod(self.cut.shape) > LARGE

    def whole(self) -> float:
        """How often the network itself is right."""
        return mean(a == b for a, b in zip(self._whole, self.truth, strict=True))

    def untrained(self) -> Iterable[Measured]:
        """Every codec that takes such tensors; those with tables have them from the views that are trained on."""
        with torch.no_grad():
            seen = [self.cut.before(view).numpy() for view in self.shown.train[:CALIBRATED]]
        for name, bits in BITS_OF.items():
            coded = EntropyCodec((tables := find(seen, bits)).side, tables)
            packed = [codec.encode(tensor.numpy(), name, coded) for tensor in self._tensors]
            yield self._measured(name, [one.nbytes for one in packed], map(decode, packed))
        for name in SOME if self.is_large else UNTRAINED:
            try:
                packed = [CODECS[name].encode(tensor.numpy()) for tensor in self._tensors]
            except CodecError:
                continue
            yield self._measured(name, [one.nbytes for one in packed], map(decode, packed))

    def learned(self, one: LearnedCodec) -> Measured:
        """The trained one."""
        packed = [one.encode(tensor.numpy()) for tensor in self._tensors]
        came = (one.decode("float32", self.cut.shape, memoryview(each)) for each in packed)
        return self._measured(one.name, list(map(len, packed)), came)

    def _measured(self, name: str, sizes: Sequence[int], came: Iterable[Numbers]) -> Measured:
        with torch.no_grad():
            answers = [int(self.cut.after(torch.from_numpy(np.array(one))).argmax()) for one in came]
        right = mean(a == b for a, b in zip(answers, self.truth, strict=True))
        return Measured(name, mean(sizes), right, mean(a == b for a, b in zip(answers, self._whole, strict=True)))


def codec_of(cell: Cell, model: str, folder: Path, threads: int | None) -> LearnedCodec:
    """The codec that was trained before, or now."""
    number = cell.cut.point.number
    path = folder / f"{model}-{number}.codec"
    if not path.is_file():
        budget = BUDGETS.get(model, BUDGET)
        pictures = pictures_for(model, folder)
        rounds = LARGE_ROUNDS if cell.is_large else ROUNDS
        config = BottleneckConfig(
            model, path, pictures=pictures, point=number, budget=budget, threads=threads, max_rounds=rounds
        )
        trained = bottleneck.bottleneck(config, lambda _what, _done: None)
        print("\n".join(bottleneck.to_lines(trained, budget)), flush=True)
    return learned.read(path)


def row_of(text: str, folder: Path, threads: int | None) -> list[str]:
    """One cut."""
    model, _, number = text.partition(":")
    cell = Cell(model, None if number in ("", "-") else int(number), pictures_for(model, folder))
    ours, others = cell.learned(codec_of(cell, model, folder, threads)), list(cell.untrained())
    best = min((each for each in others if each.right >= ours.right - SAME), key=lambda each: each.bytes)
    layer = cell.cut.network.graph.layers[cell.cut.point.layer]
    row = [model, f"{cell.cut.point.number} ({layer.id})", format_bytes(layer.out_bytes), best.name]
    row += [format_bytes(round(best.bytes)), f"{best.right:.2%}", format_bytes(round(ours.bytes)), f"{ours.right:.2%}"]
    row += [f"{cell.whole():.2%}", f"{ours.same:.2%} of {len(cell.truth)}", f"{best.bytes / ours.bytes:.1f}"]
    print(" | ".join(row), flush=True)
    return row


def main() -> int:
    """Train, measure and write benchmarks/results/learned.md."""
    parser = argparse.ArgumentParser(description="learned codecs beside untrained ones")
    parser.add_argument("--cells", default=CELLS)
    parser.add_argument("--folder", type=Path, default=Path("learned-codecs"))
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    set_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[list[str]] = []
    for cell in options.cells.split(","):
        rows.append(row_of(cell, options.folder, options.threads))
        write(rows)
    return 0


def write(rows: list[list[str]]) -> None:
    """The table so far: a row takes minutes."""
    head = ["network", "point (after)", "raw", "best untrained", "its bytes", "right", "learned", "right "]
    notes = [
        "Right: answers that are the label of a held-out digit; of photographs without labels, those that are",
        "the full model's. The untrained codec is the smallest at most 0.3 points worse.",
    ]
    write_table("learned", "Learned codecs", [*head, "full model", "same top-1", "times smaller"], rows, notes)


if __name__ == "__main__":
    sys.exit(main())
