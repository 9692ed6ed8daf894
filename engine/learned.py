"""Learned codecs from files, and which of them serve a network."""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from edgecloud.models.network import Network
from edgecloud.net import learned_file
from edgecloud.net.codec import Codec
from edgecloud.net.learned_file import BadFileError, LearnedCodec
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
    return learned_file.read(path.read_bytes())


def read_all(paths: Iterable[Path]) -> tuple[LearnedCodec, ...]:
    """Those of several files, each once. Raises UsageError, also where two of them have one name."""
    codecs: dict[str, LearnedCodec] = {}
    for path in paths:
        codec = read(path)
        other = codecs.setdefault(codec.name, codec)
        if other.digest != codec.digest:
            raise UsageError(f"{path}: another file has a codec of the same name, {codec.name}")
    return tuple(codecs.values())


def serving(network: Network, codecs: Sequence[LearnedCodec]) -> dict[str, list[LearnedCodec]]:
    """By the names of layers, those that were trained for this network with these weights. The others are told."""
    by_layer: dict[str, list[LearnedCodec]] = {}
    graph, weights = network.graph, network.weights.digest
    for codec in codecs:
        about = codec.about
        if (about.graph, about.weights) == (graph.digest, weights):
            by_layer.setdefault(about.layer, []).append(codec)
        else:
            log.warning(
                "%s was trained for another network or other weights than those of %s: it is not used",
                printable(codec.name, 60),
                graph.name,
            )
    return by_layer


def by_wire_name(paths: Iterable[Path]) -> dict[str, Codec]:
    """What a cloud decodes with. Raises UsageError."""
    return {each.codec.name: each.codec for each in read_all(paths)}
