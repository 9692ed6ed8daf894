"""Accuracy of lossy codecs at each cut: deployment.py calibrate.

The tensor after each point that could be worth sending is packed and unpacked, and the rest of the network runs on what
comes out. A lossy codec is used only where that was tried on pictures, and only if few enough answers changed.
"""

import base64
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from edgecloud.engine import tables
from edgecloud.engine.executor import AUTO, Executor, make_executor
from edgecloud.models import inputs, registry
from edgecloud.models.graph import INPUT, LayerGraph, Point
from edgecloud.models.network import Network
from edgecloud.models.registry import Entry
from edgecloud.net import codec, entropy
from edgecloud.net.sides import MAX_BYTES, Side, SidedCodec
from edgecloud.net.tensors import Array
from edgecloud.utils.errors import AppError, ProtocolError, UsageError
from edgecloud.utils.files import write_atomically, writing
from edgecloud.utils.inference_utils import check_device, set_threads
from edgecloud.utils.progress import Show
from edgecloud.utils.resources import shipped
from edgecloud.utils.units import printable

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

SCHEMA = 1
ROUNDINGS = ("fp16", "int8", "int6", "int4")
"""From the finest to the coarsest; what zstandard does to their bytes changes no value."""
CODED = tuple(reversed(entropy.NAMES))
"""The same with entropy coding, not of the input."""
OF_INPUT = ("jpeg",)
"""Tried on the input too: they carry pictures only, and only some clouds take them."""
HOPELESS = 0.2  # share of changed answers from which coarser roundings are not tried
SURE, SPARE = 0.25, 2  # after this share of the pictures, those finer than the coarsest that changed no answer and
# these many next to it are not tried any more: they take more bytes, and change no less
SHIPPED = ("efficientnet_lite0", "le_net", "mnist")
"""Networks with trained weights, with which a calibration comes along (tools.calibrations)."""
MAX_PICTURES = 500
MAX_FILE_BYTES = 4 << 20
CROPS = 50
FIT, LEAST_FIT = 48, 4  # pictures that tables are found with, at most and at least
FIT_BYTES = 64 << 20  # of the tensors after one layer
FIT_EVERY = 3  # of a user's pictures one in so many is for the tables, and the others are for the trial


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
class CodedTable:
    """What an entropy-coded codec knows of the tensor after one layer."""

    layer: str
    codec: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Calibration:
    """What was tried for one network with its weights."""

    model: str
    graph: str
    weights: str
    source: str
    tried: tuple[Tried, ...]
    sides: tuple[CodedTable, ...] = ()
    """Of the entropy-coded ones that were tried."""

    @cached_property
    def sided(self) -> dict[tuple[str, str], SidedCodec]:
        """By layer and codec. Raises ProtocolError where one is damaged."""
        return {(each.layer, each.codec): codec.KINDS[each.codec](Side(each.codec, each.data)) for each in self.sides}

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
    if len(entry.input_specs) > 1:
        raise UsageError(f"{entry.name} has several inputs: only networks of one image can be calibrated")
    network = entry.network(source)
    executor = make_executor(network, device, backend=backend)
    return calibrate_on(executor, read_samples(entry, pictures), progress)


def calibrate_on(executor: Executor, samples: "Samples", progress: Show) -> Calibration:
    """Try every rounding at every point worth sending of the executor's network, on these samples."""
    network = executor.network
    tried, sides = _try_all(executor, samples, progress)
    return Calibration(network.graph.name, network.graph.digest, network.weights.digest, samples.source, tried, sides)


@dataclass(frozen=True)
class Samples:
    """Inputs of a network, with their classes where those are known."""

    source: str
    tensors: Sequence[Array]
    labels: Sequence[int] | None = None
    fit: Sequence[Array] = ()
    """Inputs of other pictures, with which tables are found; the trial is on those that no table has seen."""


def read_samples(entry: Entry, folder: Path | None) -> Samples:
    """The user's pictures, else held-out digits or crops of photographs. Raises UsageError where there are none."""
    if folder is None:
        return _OWN_SAMPLES.get(entry.sample, _crops)(entry)
    if not folder.is_dir():
        raise UsageError(f"no directory {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in inputs.PICTURES)[:MAX_PICTURES]
    if not paths:
        raise UsageError(f"no images in {folder}")
    fit = paths[::FIT_EVERY][:FIT] if len(paths) >= LEAST_FIT * FIT_EVERY else []
    if not fit:
        log.warning("%d images are too few for entropy coding, which wants %d", len(paths), LEAST_FIT * FIT_EVERY)
    of_fit, others = (
        [inputs.from_image(path, entry.preprocess).array for path in some]
        for some in (fit, [path for path in paths if path not in set(fit)])
    )
    return Samples(str(folder), others, fit=of_fit)


def _digits(entry: Entry) -> Samples:
    from edgecloud.models.zoo.digits import (  # and with it scikit-learn, which takes a second
        digit_pictures,
        split_digits,
    )

    (digits, classes), (trained, held_out) = digit_pictures(), split_digits()
    tensors = [entry.preprocess(digits[number]) for number in held_out]
    fit = [entry.preprocess(digits[number]) for number in trained[:: max(1, len(trained) // FIT)]]
    return Samples("held-out digits", tensors, [classes[number] for number in held_out], fit)


def _crops(entry: Entry) -> Samples:
    """Tables are found with crops of the left halves, and tried on crops of the right ones."""
    paths = inputs.samples(entry.sample)
    tensors = [entry.preprocess(crop) for path in paths for crop in inputs.crops(path, CROPS, part=(0.5, 1.0))]
    fit = [entry.preprocess(crop) for path in paths for crop in inputs.crops(path, FIT // len(paths), part=(0.0, 0.5))]
    return Samples(f"{len(tensors)} crops of sample images", tensors, fit=fit)


_OWN_SAMPLES: dict[str, Callable[[Entry], Samples]] = {"digit": _digits}
"""By what a network's samples are, where there is something better than crops of them."""


def _try_all(executor: Executor, samples: Samples, progress: Show) -> tuple[tuple[Tried, ...], tuple[CodedTable, ...]]:
    graph = executor.network.graph
    points = points_worth_sending(graph)
    found = _find_tables(executor, samples.fit, points, lambda done: progress("finding tables", done))
    coded = {point.layer: [name for layer, name in found if layer == point.layer] for point in points}
    counts = _Counts(len(samples.tensors), samples.labels, coded)
    for number, tensor in enumerate(samples.tensors):
        progress("measuring lossy codecs", number / len(samples.tensors))
        crossing, answer = whole(executor, tensor, points)
        counts.whole(number, answer)
        for point in points:
            for rounding in counts.hopeful(point.layer, number):
                rounded = _rounded(crossing[point.layer], rounding, found.get((point.layer, rounding)))
                if rounded is None:
                    continue
                changed = rest(executor, point, rounded)
                error = float(np.abs(rounded - crossing[point.layer]).max() / max(1e-30, np.abs(rounded).max()))
                counts.add_sample(number, point.layer, rounding, changed, error)
    tried = counts.tried(graph, len(samples.tensors))
    rows = {(each.layer, each.codec) for each in tried}
    sides = [CodedTable(graph.layers[layer].id, name, each.side.data) for (layer, name), each in found.items()]
    return tried, tuple(each for each in sides if (each.layer, each.codec) in rows)


def _find_tables(
    executor: Executor, fit: Sequence[Array], points: Sequence[Point], progress: Callable[[float], None]
) -> dict[tuple[int, str], SidedCodec]:
    """The entropy-coded codecs for the tensor after each point, the finest first."""
    graph = executor.network.graph
    of_layer: dict[int, list[Array]] = {point.layer: [] for point in points if point.layer != INPUT}
    for number, tensor in enumerate(fit):
        progress(number / len(fit))
        crossing, _ = whole(executor, tensor, points)
        for layer, seen in of_layer.items():
            if len(seen) * graph.layers[layer].out_bytes < FIT_BYTES:
                seen.append(crossing[layer])
    found: dict[tuple[int, str], SidedCodec] = {}
    for layer, seen in of_layer.items():
        if not seen or seen[0].dtype != np.float32 or not all(np.isfinite(each).all() for each in seen):
            continue
        for name in CODED:
            try:
                found[layer, name] = entropy.parse(tables.find(seen, entropy.BITS_OF[name]).side)
            except AppError as error:  # of too many channels, or numbers too large
                log.warning("no %s after %s: %s", name, graph.layers[layer].id, error)
    return found


def whole(executor: Executor, tensor: Array, points: Sequence[Point]) -> tuple[dict[int, Array], Array]:
    """The tensors after some points, and the answer."""
    graph, values, begin = executor.network.graph, {INPUT: tensor}, 0
    for end in [*(point.layer for point in points[1:]), len(graph.layers) - 1]:
        segment = executor.load(frozenset(range(begin + 1, end + 1)))
        ran = executor.run(segment, [values[number] for number in segment.inputs])
        values |= zip(segment.outputs, ran.arrays, strict=True)
        begin = end
    return values, values[graph.outputs[0]]


def rest(executor: Executor, point: Point, tensor: Array) -> Array:
    graph = executor.network.graph
    segment = executor.load(frozenset(range(point.layer + 1, len(graph.layers))))
    ran = executor.run(segment, [tensor])
    return dict(zip(segment.outputs, ran.arrays, strict=True))[graph.outputs[0]]


def _rounded(tensor: Array, rounding: str, sided: SidedCodec | None) -> Array | None:
    """What comes out on the other side; None where the codec does not take such a tensor."""
    try:
        return codec.decode(codec.encode(tensor, rounding, sided))
    except codec.CodecError:
        return None


class _Counts:
    """What was seen so far, by layer and rounding."""

    def __init__(self, count: int, labels: Sequence[int] | None, coded: Mapping[int, Sequence[str]]) -> None:
        self._count, self._labels, self._coded = count, labels, coded
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
        yield from self._not_hopeless(layer, number, ROUNDINGS)
        coded = [name for name in self._coded.get(layer, ()) if self._pictures.get((layer, name), 0) == number]
        if number >= SURE * self._count:
            sure = [place for place, name in enumerate(coded) if not self._changed.get((layer, name), 1)]
            coded = coded[max(0, max(sure, default=0) - SPARE) :]
        yield from self._not_hopeless(layer, number, coded)

    def _not_hopeless(self, layer: int, number: int, roundings: Sequence[str]) -> Iterator[str]:
        for rounding in roundings:
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
        write_atomically(path, to_text(calibration))
    return path


def to_text(calibration: Calibration) -> str:
    """As it is kept."""
    sides = [
        [each.layer, each.codec, base64.b64encode(zstandard.compress(each.data, 19)).decode()]
        for each in calibration.sides
    ]
    document = {"schema": SCHEMA} | asdict(replace(calibration, sides=())) | {"sides": sides}
    return json.dumps(document, indent=1)


def find(folder: Path, network: Network) -> Calibration | None:
    """The one that is kept for a network, else the one that comes along with it, or None. One that is damaged counts as
    none, and is told.

    Raises UsageError where the file cannot be read.
    """
    return find_of(folder, network.graph.name, network.graph.digest, network.weights.digest)


def find_of(folder: Path, model: str, graph: str, weights_digest: str) -> Calibration | None:
    """The same for a network that is known by its name and the digests of its graph and its weights."""
    return _read(path_of(folder, model, graph, weights_digest)) or _coming_along(model, graph, weights_digest)


def _coming_along(model: str, graph: str, weights_digest: str) -> Calibration | None:
    found = _read(shipped("models.zoo", "calibrations", f"{model}.json")) if model in SHIPPED else None
    return found if found is not None and (found.graph, found.weights) == (graph, weights_digest) else None


def why_none(model: str) -> str:
    """Why there is no calibration for a network that takes pictures, and what to do."""
    cure = f"run deployment.py calibrate -t {model}"
    return f"the one that comes along is for other weights: {cure}" if model in SHIPPED else cure


def _read(path: Path) -> Calibration | None:
    try:
        about = path.stat()
        if about.st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        return _parsed_file(path, (about.st_mtime_ns, about.st_size, about.st_ino))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read the calibration {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError, ProtocolError) as error:
        log.warning("the calibration %s is damaged (%s), ignored: run deployment.py calibrate again", path, error)
        return None


@lru_cache(maxsize=8)
def _parsed_file(path: Path, about: tuple[int, int, int]) -> Calibration:
    """Plans are made anew while a program runs; a file is read once, unless it was changed."""
    return _parsed(json.loads(path.read_text(encoding="utf-8")))


def _parsed(document: Any) -> Calibration:
    if document["schema"] != SCHEMA:
        raise ValueError("it has another version")
    tried = tuple(_parsed_row(row) for row in document["tried"])
    model, graph, weights_digest, source = (str(document[name]) for name in ("model", "graph", "weights", "source"))
    sides = tuple(_parsed_side(*row) for row in document.get("sides", ()))
    found = Calibration(model, graph, weights_digest, source, tried, sides)
    _ = found.sided  # every one is read, so that a damaged one is met here
    return found


def _parsed_side(layer: str, name: str, text: str) -> CodedTable:
    if name not in CODED:
        raise ValueError("tables of an unknown codec")
    try:
        data = zstandard.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
    except zstandard.ZstdError:
        raise ValueError("damaged tables") from None
    return CodedTable(str(layer), name, data)


def _parsed_row(row: Any) -> Tried:
    each = Tried(**row)
    if (
        each.codec not in (*ROUNDINGS, *CODED, *OF_INPUT)
        or not each.pictures > 0
        or not 0 <= each.changed <= each.pictures
    ):
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
    sides = [{"after": each.layer, "codec": each.codec, "bytes": len(each.data)} for each in calibration.sides]
    return asdict(replace(calibration, sides=())) | {"tried": rows, "sides": sides}
