"""Learned codecs from files, and which of them serve a network."""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from edgecloud.models.network import Network
from edgecloud.net import learned_file
from edgecloud.net.learned_file import BadFileError, LearnedCodec
from edgecloud.net.sides import SidedCodec
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)


def read(path: Path) -> LearnedCodec:
    """The codec of a file, with everything in it checked. Raises UsageError."""
    require_file(path)
    try:
        about = path.stat()
        if about.st_size > learned_file.MAX_FILE_BYTES:
            raise BadFileError(f"it has more than {learned_file.MAX_FILE_BYTES >> 20} MiB")
        return _read(path, about.st_mtime_ns, about.st_size)
    except OSError as error:
        raise UsageError(f"cannot read the codec {path}: {error.strerror}") from None
    except BadFileError as error:
        raise UsageError(f"{path} cannot be used as a learned codec: {printable(str(error), 300)}") from None


@lru_cache(maxsize=8)
def _read(path: Path, _changed_ns: int, _bytes: int) -> LearnedCodec:
    """Once, as long as the file does not change: every plan asks for it."""
    codec = learned_file.read(path.read_bytes())
    _names[codec.side.wire_name] = codec.name
    return codec


def read_all(paths: Iterable[Path]) -> tuple[LearnedCodec, ...]:
    """Those of several files, each once. Raises UsageError, also where two of them have one name."""
    codecs: dict[str, LearnedCodec] = {}
    for path in paths:
        codec = read(path)
        other = codecs.setdefault(codec.name, codec)
        if other.side.digest != codec.side.digest:
            raise UsageError(f"{path}: another file has a codec of the same name, {codec.name}")
    return tuple(codecs.values())


def serving(network: Network, codecs: Sequence[LearnedCodec]) -> tuple[LearnedCodec, ...]:
    """Those that were trained for this network with these weights. The others are told."""
    return serving_digests(network.graph.name, network.graph.digest, network.weights.digest, codecs)


def serving_digests(name: str, graph: str, weights: str, codecs: Sequence[LearnedCodec]) -> tuple[LearnedCodec, ...]:
    """The same for a network that is known by its name and the digests of its graph and its weights."""
    served = tuple(each for each in codecs if (each.about.graph, each.about.weights) == (graph, weights))
    for each in codecs:
        if each not in served:
            tell(f"{each.name} was trained for another network or other weights than those of {name}: not used")
    return served


def within(codecs: Sequence[LearnedCodec], budget: float) -> tuple[LearnedCodec, ...]:
    """Those that changed at most a share `budget` of the answers. The others are told."""
    if not budget:
        for each in codecs:
            tell(f"{each.name} may change answers: not used without --accuracy-budget")
        return ()
    for each in codecs:
        about = each.about
        if about.loss > budget:
            changed = f"{each.name} changed {about.changed} of {about.pictures} answers ({about.loss:.2%})"
            tell(f"{changed}: not used with --accuracy-budget {budget:.2%}")
    return tuple(each for each in codecs if each.about.loss <= budget)


@lru_cache(maxsize=256)
def tell(text: str) -> None:
    """Warn, once: every plan comes by here."""
    log.warning("%s", printable(text, 300))


def by_wire_name(paths: Iterable[Path]) -> dict[str, SidedCodec]:
    """What a cloud decodes with. Raises UsageError."""
    return {each.side.wire_name: each for each in read_all(paths)}


def with_names(codecs: Sequence[str]) -> list[str]:
    """What a cloud announces, and of codecs that were read here from files the names that plans have for them."""
    return [*codecs, *(_names[codec] for codec in codecs if codec in _names)]


_names: dict[str, str] = {}
"""By the name on the wire, which has the digest of the file in it. Only grows, by what a user names."""
