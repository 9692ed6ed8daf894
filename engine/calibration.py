"""Accuracy of lossy codecs at each cut: deployment.py calibrate.

The tensor after each point that could be worth sending is packed and unpacked, and the rest of the network runs on what
comes out. A lossy codec is used only where that was tried on pictures, and only if few enough answers changed.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecloud.engine.executor import AUTO, Executor, make_executor
from edgecloud.models import inputs, registry
from edgecloud.models.graph import INPUT, LayerGraph, Point
from edgecloud.models.network import Network
from edgecloud.models.registry import Entry
from edgecloud.net import codec
from edgecloud.net.tensors import Array
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import write_atomically, writing
from edgecloud.utils.inference_utils import check_device, set_threads
from edgecloud.utils.progress import Show
from edgecloud.utils.units import printable

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

SCHEMA = 1
ROUNDINGS = ("fp16", "int8", "int6", "int4")
"""From the finest to the coarsest; what zstandard does to their bytes changes no value."""
OF_INPUT = ("jpeg",)
"""Tried on the input too: they carry pictures only, and only some clouds take them."""
HOPELESS = 0.2  # share of changed answers from which coarser roundings are not tried
MAX_PICTURES = 500
MAX_FILE_BYTES = 4 << 20
CROPS = 50


@dataclass(frozen=True)
class Tried:
    """One rounding of the tensor after one layer, on many pictures."""

    layer: str
    codec: str
    pictures: int
    changed: int
    """How many answers have another top-1 than the whole network's."""
    wrong: int | None
    """How many are not the label, where labels are known ..."""
    wrong_whole: int | None
    """... and how many of the whole network's are not."""
    max_error: float
    """Of a value, relative to the largest of its tensor."""

    @property
    def loss(self) -> float:
        """What accuracy it costs: measured where labels are known, else the share of answers that changed."""
        if self.wrong is None or self.wrong_whole is None:
            return self.changed / self.pictures
        return max(0, self.wrong - self.wrong_whole) / self.pictures


@dataclass(frozen=True)
class Calibration:
    """What was tried for one network with its weights."""

    model: str
    graph: str
    weights: str
    source: str
    tried: tuple[Tried, ...]

    def within(self, budget: float) -> dict[str, list[str]]:
        """By layer the roundings that cost at most `budget` of accuracy, a share from 0 to 1."""
        codecs: dict[str, list[str]] = {}
        for each in self.tried:
            if each.loss <= budget:
                codecs.setdefault(each.layer, []).append(each.codec)
        return codecs


def points_worth_sending(graph: LayerGraph) -> list[Point]:
    """Points whose tensor is smaller than those of all points before: from any other one it is better to go back."""
    points: list[Point] = []
    for point in graph.points[:-1]:
        size = graph.layers[point.layer].out_bytes
        if not points or size < graph.layers[points[-1].layer].out_bytes:
            points.append(point)
    return points


def calibrate(
    model: str,
    source: str,
    device: str,
    threads: int | None,
    pictures: Path | None,
    progress: Show,
    backend: str = AUTO,
) -> Calibration:
    """Try every rounding at every point worth sending. Raises UsageError for pictures that are none."""
    entry = registry.resolve_trusted(model)
    if entry.takes != inputs.PICTURE:
        raise UsageError(f"{entry.name} does not take images: only image networks can be calibrated")
    set_threads(threads)
    check_device(device)
    network = entry.network(source)
    executor = make_executor(network, device, backend=backend)
    samples = read_samples(entry, pictures)
    tried = _try_all(executor, samples, progress)
    return Calibration(entry.name, network.graph.digest, network.weights.digest, samples.source, tried)


@dataclass(frozen=True)
class Samples:
    """Inputs of a network, with their classes where those are known."""

    source: str
    tensors: Sequence[Array]
    labels: Sequence[int] | None = None


def read_samples(entry: Entry, folder: Path | None) -> Samples:
    """The user's pictures, else held-out digits or crops of photographs. Raises UsageError where there are none."""
    if folder is None:
        return _OWN_SAMPLES.get(entry.sample, _crops)(entry)
    if not folder.is_dir():
        raise UsageError(f"no directory {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in inputs.PICTURES)[:MAX_PICTURES]
    if not paths:
        raise UsageError(f"no images in {folder}")
    return Samples(str(folder), [inputs.from_image(path, entry.preprocess).array for path in paths])


def _digits(entry: Entry) -> Samples:
    from edgecloud.models.zoo.digits import (  # and with it scikit-learn, which takes a second
        digit_pictures,
        split_digits,
    )

    (digits, classes), (_, held_out) = digit_pictures(), split_digits()
    tensors = [entry.preprocess(digits[number]) for number in held_out]
    return Samples("held-out digits", tensors, [classes[number] for number in held_out])


def _crops(entry: Entry) -> Samples:
    pictures = [crop for path in inputs.samples(entry.sample) for crop in inputs.crops(path, CROPS)]
    tensors = [entry.preprocess(crop) for crop in pictures]
    return Samples(f"{len(tensors)} crops of sample images", tensors)


_OWN_SAMPLES: dict[str, Callable[[Entry], Samples]] = {"digit": _digits}
"""By what a network's samples are, where there is something better than crops of them."""


def _try_all(executor: Executor, samples: Samples, progress: Show) -> tuple[Tried, ...]:
    graph = executor.network.graph
    points = points_worth_sending(graph)
    counts = _Counts(samples.labels)
    for number, tensor in enumerate(samples.tensors):
        progress("measuring lossy codecs", number / len(samples.tensors))
        crossing, answer = _whole(executor, tensor, points)
        counts.whole(number, answer)
        for point in points:
            for rounding in counts.hopeful(point.layer, number):
                rounded = _rounded(crossing[point.layer], rounding)
                if rounded is None:
                    continue
                changed = _rest(executor, point, rounded)
                error = float(np.abs(rounded - crossing[point.layer]).max() / max(1e-30, np.abs(rounded).max()))
                counts.add_sample(number, point.layer, rounding, changed, error)
    return counts.tried(graph, len(samples.tensors))


def _whole(executor: Executor, tensor: Array, points: Sequence[Point]) -> tuple[dict[int, Array], Array]:
    """The tensors after some points, and the answer."""
    graph, values, begin = executor.network.graph, {INPUT: tensor}, 0
    for end in [*(point.layer for point in points[1:]), len(graph.layers) - 1]:
        segment = executor.load(frozenset(range(begin + 1, end + 1)))
        ran = executor.run(segment, [values[number] for number in segment.inputs])
        values |= zip(segment.outputs, ran.arrays, strict=True)
        begin = end
    return values, values[graph.outputs[0]]


def _rest(executor: Executor, point: Point, tensor: Array) -> Array:
    graph = executor.network.graph
    segment = executor.load(frozenset(range(point.layer + 1, len(graph.layers))))
    ran = executor.run(segment, [tensor])
    return dict(zip(segment.outputs, ran.arrays, strict=True))[graph.outputs[0]]


def _rounded(tensor: Array, rounding: str) -> Array | None:
    """What comes out on the other side; None where the codec does not take such a tensor."""
    try:
        return codec.decode(codec.encode(tensor, rounding))
    except codec.CodecError:
        return None


class _Counts:
    """What was seen so far, by layer and rounding."""

    def __init__(self, labels: Sequence[int] | None) -> None:
        self._labels = labels
        self._answers: dict[int, int] = {}
        self._changed: dict[tuple[int, str], int] = {}
        self._wrong: dict[tuple[int, str], int] = {}
        self._errors: dict[tuple[int, str], float] = {}
        self._pictures: dict[tuple[int, str], int] = {}

    def whole(self, number: int, answer: Array) -> None:
        """The whole network's answer to one picture."""
        self._answers[number] = int(answer.argmax())

    def hopeful(self, layer: int, number: int) -> Iterator[str]:
        """The roundings that are worth trying on the next picture, the finest first."""
        yield from OF_INPUT if layer == INPUT else ()
        for rounding in ROUNDINGS:
            if number >= 10 and self._changed.get((layer, rounding), 0) > HOPELESS * number:
                return  # coarser ones change more
            yield rounding

    def add_sample(self, number: int, layer: int, rounding: str, answer: Array, error: float) -> None:
        """What the rounded tensor gave."""
        key, label = (layer, rounding), int(answer.argmax())
        self._pictures[key] = self._pictures.get(key, 0) + 1
        self._changed[key] = self._changed.get(key, 0) + (label != self._answers[number])
        self._errors[key] = max(self._errors.get(key, 0.0), error)
        if self._labels is not None:
            self._wrong[key] = self._wrong.get(key, 0) + (label != self._labels[number])

    def tried(self, graph: LayerGraph, pictures: int) -> tuple[Tried, ...]:
        """All that was tried on every picture."""
        wrong = None
        if self._labels is not None:
            wrong = sum(answer != self._labels[number] for number, answer in self._answers.items())
        return tuple(
            Tried(
                graph.layers[layer].id,
                rounding,
                count,
                self._changed[layer, rounding],
                None if wrong is None else self._wrong[layer, rounding],
                wrong,
                self._errors[layer, rounding],
            )
            for (layer, rounding), count in sorted(self._pictures.items(), key=lambda item: item[0][0])
            if count == pictures
        )


# --- kept on disk, for edge_api.py


def path_of(folder: Path, model: str, graph: str, weights_digest: str) -> Path:
    """Where the calibration of a network with its weights is kept."""
    digest = hashlib.sha256(f"{graph} {weights_digest} {SCHEMA}".encode()).hexdigest()[:16]
    return folder / "calibrations" / f"{model.replace(':', '-')}-{digest}.json"


def keep(folder: Path, calibration: Calibration) -> Path:
    """Write it. Raises UsageError where it cannot be written."""
    path = path_of(folder, calibration.model, calibration.graph, calibration.weights)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"schema": SCHEMA} | asdict(calibration), indent=1))
    return path


def find(folder: Path, network: Network) -> Calibration | None:
    """The one that is kept for a network, or None. One that is damaged counts as none, and is told.

    Raises UsageError where the file cannot be read.
    """
    graph = network.graph
    path = path_of(folder, graph.name, graph.digest, network.weights.digest)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read the calibration {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("the calibration %s is damaged (%s), ignored: run deployment.py calibrate again", path, error)
        return None


def _parsed(document: Any) -> Calibration:
    if document["schema"] != SCHEMA:
        raise ValueError("it has another version")
    tried = tuple(_parsed_row(row) for row in document["tried"])
    model, graph, weights_digest, source = (str(document[name]) for name in ("model", "graph", "weights", "source"))
    return Calibration(model, graph, weights_digest, source, tried)


def _parsed_row(row: Any) -> Tried:
    each = Tried(**row)
    if each.codec not in (*ROUNDINGS, *OF_INPUT) or not each.pictures > 0 or not 0 <= each.changed <= each.pictures:
        raise ValueError("a row has invalid values")
    if not math.isfinite(each.max_error):
        raise ValueError("an error is not a number")
    return each


def to_table(calibration: Calibration) -> "Table":
    """The table for people."""
    from rich.table import Table

    title = f"{calibration.model} on {calibration.source}"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in ("after", "codec", "images", "answers changed", "accuracy loss", "max error"):
        table.add_column(name, justify="left" if name in ("after", "codec") else "right", no_wrap=True)
    for each in calibration.tried:
        numbers = (str(each.pictures), str(each.changed), f"{each.loss:.2%}", f"{each.max_error:.2%}")
        table.add_row(printable(each.layer, 60), each.codec, *numbers)
    return table


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The document of `deployment.py calibrate --json`."""
    rows = [asdict(each) | {"loss": each.loss} for each in calibration.tried]
    return asdict(calibration) | {"tried": rows}
