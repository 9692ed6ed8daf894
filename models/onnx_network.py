"""A network that is a FILE.onnx: a bundle that is made of it and kept, and the file itself for the whole answer.

The first use of a file reads it, finds its layers, and compares what they give with what ONNX Runtime makes of the file
as it is. What was made is kept in the cache folder by the digest of the file, and used from then on.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgecloud.models import bundle, onnx_file
from edgecloud.models.bundle import Bundle
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.inputs import Input
from edgecloud.models.network import Array, Fed, arrays_of
from edgecloud.models.onnx_file import Converted, Where
from edgecloud.models.onnx_session import OnnxPart, runtime
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import writing
from edgecloud.utils.folders import default_folder

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Of the largest number: what a runtime that joins other layers may differ by."""


@dataclass(frozen=True, eq=False)
class OnnxNetwork(BundleNetwork):
    """One `models.network.Network`. Its layers are those of the bundle, its whole answer is that of the file."""

    file: Path

    def whole(self, x: Fed) -> list[Array]:
        """The answer of the file as it is, in ONNX Runtime."""
        return self._session(x)

    @cached_property
    def _session(self) -> "Untouched":
        return Untouched(self.file)


class Untouched:
    """A file in ONNX Runtime, as anybody would run it."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where the runtime cannot load it."""
        library = runtime()
        try:
            self._session = library.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class of their own that could be imported
            raise UsageError(f"{path}: onnxruntime cannot run it: {_line(error)}") from error
        self._names = [each.name for each in self._session.get_inputs()]

    def __call__(self, x: Fed) -> list[Array]:
        """Its answer."""
        answers: list[Array] = self._session.run(None, dict(zip(self._names, arrays_of(x), strict=True)))
        return answers


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def opened(place: Where, folder: Path | None = None) -> Bundle:
    """The bundle of a file: the kept one, or a new one. Raises UsageError for a file that cannot be run or cut."""
    raw = onnx_file.contents(place.path)
    digest = hashlib.sha256(raw)
    digest.update(f"{place.name} {onnx_file.VERSION}".encode())
    folder = (folder or default_folder()) / "bundles"
    kept = folder / f"{place.path.name}-{digest.hexdigest()[:24]}{bundle.SUFFIX}"
    if kept.is_file():
        try:
            return bundle.read(kept)
        except UsageError as error:
            log.warning("%s: made again", error)
    with writing(kept):
        folder.mkdir(parents=True, exist_ok=True)
    return _made(raw, place, kept)


def _made(raw: memoryview, place: Where, kept: Path) -> Bundle:
    converted = onnx_file.convert(raw, place)
    whole = Untouched(place.path)
    _write(kept, converted)
    if converted.content.is_batched and not _takes_batches(bundle.read(kept), whole):
        log.info("%s: takes one input at a time", place.name)
        converted = onnx_file.convert(raw, place, may_batch=False)
        _write(kept, converted)
    made = bundle.read(kept)
    if not _is_same(_run(made, converted.fed), whole(converted.fed)):
        kept.unlink()
        raise UsageError(f"{place.path}: its layers give another answer than the file as it is, so it cannot be cut")
    return made


def _write(path: Path, converted: Converted) -> None:
    bundle.write(path, converted.content, converted.model, converted.weights, converted.fed)


def _run(made: Bundle, x: Fed) -> list[Array]:
    part = OnnxPart(made, made.graph.everything, 1)
    answers = dict(zip(part.outputs, part(arrays_of(x)), strict=True))
    return [answers[number] for number in made.graph.outputs]


def _takes_batches(made: Bundle, whole: Untouched) -> bool:
    """Whether several different inputs at once get the answer that the file gives to each alone."""
    several = [
        tuple(onnx_file.example_of(each.shape, each.dtype, seed) for each in made.inputs)
        for seed in range(max(onnx_file.BATCHES))
    ]
    try:
        together = _run(made, tuple(map(np.concatenate, zip(*several, strict=True))))
    except Exception as error:  # noqa: BLE001  whatever the runtime makes of it
        log.info("not several at once: %s", _line(error))
        return False
    return all(_is_same([rows[[place]] for rows in together], whole(x)) for place, x in enumerate(several))


def _is_same(found: Sequence[Array], expected: Sequence[Array]) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape and _difference(a, b) <= TOLERANCE for a, b in zip(found, expected, strict=True)
    )


def _difference(a: Array, b: Array) -> float:
    """The largest, in parts of the largest finite number."""
    wide = [each.astype(np.float64) for each in (a, b)]
    is_same = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    size = np.abs(wide[1], where=np.isfinite(wide[1]), out=np.zeros(b.shape)).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        apart = np.abs(wide[0] - wide[1]).max(initial=0.0, where=~is_same)
    return float(np.nan_to_num(apart, nan=np.inf) / max(float(size), 1e-30))


def read(place: Where, made: Bundle, example: Input | None = None) -> OnnxNetwork:
    """A bundle of a file as a network, with the example in it unless another is given."""
    form = made.content.input
    return OnnxNetwork(made, example or Input(made.fed, form.source, form.rows), place.path)
