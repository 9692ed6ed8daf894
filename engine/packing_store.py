"""Codec costs on disk, by network. No torch.

`engine.packing` measures and writes them; `deployment.py plan` reads them, so that it plans with what the edge knows.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.partition.cost import Packed
from edgecloud.partition.packing import RAW
from edgecloud.utils.files import write_atomically

log = logging.getLogger(__name__)

SCHEMA = 2
"""Raised, too, when a codec gets faster: what was measured before is measured again."""
MAX_FILE_BYTES = 16 << 20
LOSSLESS = ("zstd",)
OF_INPUT = ("pixels", "pixels+zstd")
AUTO = "auto"

Sizes = Mapping[tuple[int, str], int]
"""Bytes of a layer's output, by layer and codec; what a codec does not take is missing."""


def lossless(codec: str, layer: int) -> tuple[str, ...]:
    """What `--codec` allows for the output of a layer, without a calibration."""
    if codec != AUTO:
        return (codec,)
    return (RAW, *LOSSLESS, *OF_INPUT) if layer == INPUT else (RAW, *LOSSLESS)


@dataclass(frozen=True)
class CodecCosts:
    """Sizes, and for each codec the seconds of packing and unpacking a byte of the tensor as it is."""

    sizes: Sizes
    rates: Mapping[str, tuple[float, float]]

    def joined(self, other: "CodecCosts") -> "CodecCosts":
        """Both; where they differ, the other one."""
        return CodecCosts({**self.sizes, **other.sizes}, {**self.rates, **other.rates})

    def renamed(self, names: Mapping[tuple[int, str], tuple[int, str]]) -> "CodecCosts":
        """The same with other keys for some sizes."""
        return CodecCosts({names.get(key, key): size for key, size in self.sizes.items()}, self.rates)

    def ways(self, graph: LayerGraph, layer: int, codecs: Iterable[str], share: float) -> list[Packed]:
        """How the output of a layer may travel, from a device of which only a share is there."""
        whole = graph.layers[layer].out_bytes
        ways = []
        for name in codecs:
            if name == RAW:
                ways.append(Packed(RAW, whole))
            elif (layer, name) in self.sizes:
                encode_s, decode_s = (rate * whole for rate in self.rates.get(name, (0.0, 0.0)))
                ways.append(Packed(name, self.sizes[layer, name], encode_s / share, decode_s))
        return ways


NOTHING = CodecCosts({}, {})


@dataclass(frozen=True)
class KeptPacking:
    """What was measured of a network, and what was tried: codecs that a tensor does not take have no size."""

    packing: CodecCosts = NOTHING
    tried: frozenset[tuple[int, str]] = frozenset()
    of_input: CodecCosts = field(default=NOTHING)
    """Of the input that was run last: pictures differ, so an edge measures its own anew."""
    of_input_tried: frozenset[tuple[int, str]] = frozenset()

    @property
    def joined(self) -> CodecCosts:
        """Of the input and of all layers, as an edge reckons with them."""
        return self.of_input.joined(self.packing)

    def with_input(self, of_input: CodecCosts, tried: Iterable[tuple[int, str]]) -> "KeptPacking":
        """The same with what was now measured on an input; codecs that were not tried on it keep what they had."""
        now = frozenset(tried)
        before = CodecCosts(
            {key: size for key, size in self.of_input.sizes.items() if key not in now}, self.of_input.rates
        )
        return replace(self, of_input=before.joined(of_input), of_input_tried=self.of_input_tried | now)

    def knows(self, needed: Iterable[tuple[int, str]]) -> bool:
        """Whether all of that was tried."""
        return set(needed) <= self.tried | self.of_input_tried


def path_of(folder: Path, name: str, graph: str, weights: str) -> Path:
    """The file of a network in a cache folder, by its name and the digests of its graph and its weights."""
    text = f"{graph} {weights} {SCHEMA}"
    return folder / "packing" / f"{name.replace(':', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read(path: Path) -> KeptPacking:
    """What was measured before; nothing where there is no such file, or a damaged one."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return KeptPacking()
        document = json.loads(path.read_text(encoding="utf-8"))
        packing, tried = _packing(document)
        of_input, of_input_tried = _packing(document["input"]) if "input" in document else (NOTHING, frozenset())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return KeptPacking()  # it is measured again
    return KeptPacking(packing, tried, of_input, of_input_tried)


def _packing(document: Any) -> tuple[CodecCosts, frozenset[tuple[int, str]]]:
    """Raises ValueError and what else reading a document of another form raises."""
    sizes = {(int(number), str(name)): int(size) for number, name, size in document["sizes"]}
    rates = {str(name): (float(e), float(d)) for name, (e, d) in document["rates"].items()}
    tried = frozenset((int(number), str(name)) for number, name in document["tried"])
    numbers = [*sizes.values(), *(rate for pair in rates.values() for rate in pair)]
    if not all(0 <= number < math.inf for number in numbers):
        raise ValueError("invalid size or rate")
    return CodecCosts(sizes, rates), tried


def write(path: Path, kept: KeptPacking) -> None:
    """A full disk costs what was measured, not the run."""
    document = _document(kept.packing, kept.tried) | {"input": _document(kept.of_input, kept.of_input_tried)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(document))
    except OSError as error:
        log.warning("cannot save %s (%s): it will be measured again next time", path, error.strerror)


def _document(packing: CodecCosts, tried: Iterable[tuple[int, str]]) -> dict[str, Any]:
    sizes = [[number, name, size] for (number, name), size in packing.sizes.items()]
    return {"sizes": sizes, "rates": dict(packing.rates), "tried": sorted(tried)}
