"""Digests of networks that were loaded before, to refuse mismatches without loading.

An edge with other weights, or another version of a network, is so refused before anything is loaded. What is kept is
good for as long as nothing changes that the digests depend on: all of that is in the key.
"""

import hashlib
import importlib.metadata
import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgecloud.models import weights
from edgecloud.models.registry import Entry
from edgecloud.net.messages import Hello
from edgecloud.utils.files import write_atomically

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20
LIBRARIES = ("torch", "torchvision", "numpy", "safetensors")


@dataclass(frozen=True)
class Known:
    """What an edge has to say to get a network, apart from the token, and the names of the tensors in its weights."""

    hello: Hello
    names: tuple[str, ...]


@dataclass
class KnownDigests:
    """By network, in memory and as one small file each in a folder."""

    folder: Path
    _by_key: dict[str, Known] = field(default_factory=dict)
    """By their keys, as text."""

    def find(self, entry: Entry, source: str) -> Known | None:
        """What an edge has to say to get this network with the weights of `source`; None where that is not known.

        It never is for a custom model, whose file may read others that no key contains.
        """
        if entry.code:
            return None
        key = _key(entry, source)
        if key not in self._by_key and (digests := self._read(entry.name, key)) is not None:
            self._by_key[key] = digests
        return self._by_key.get(key)

    def keep(self, entry: Entry, source: str, digests: Known) -> None:
        """Remember it. A folder that cannot be written costs the next cloud a load, not this one."""
        key = _key(entry, source)
        if entry.code or self._by_key.get(key) == digests:
            return
        self._by_key[key] = digests
        path = self._path(entry.name, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"key": key, **asdict(digests)}))
        except OSError as error:
            log.warning("cannot save the digests %s: %s", path, error.strerror)

    def _path(self, name: str, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return self.folder / "digests" / f"{name.replace(':', '-')}-{digest}.json"

    def _read(self, name: str, key: str) -> Known | None:
        """What a file says; one that cannot be trusted is as good as none."""
        path = self._path(name, key)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                return None
            document: Any = json.loads(path.read_text(encoding="utf-8"))
            digests = Known(Hello(**document["hello"]), tuple(document["names"]))
            return digests if document["key"] == key else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None


def _key(entry: Entry, source: str) -> str:
    """All that the digests depend on."""
    return json.dumps([entry.name, entry.code, _file(source), _versions(), _our_files()])


def _file(source: str) -> list[Any]:
    """Where weights come from, and of a file when it was written and how long it is."""
    if source in (weights.DEFAULT, weights.IMAGENET):
        return [source]
    try:
        status = Path(source).stat()
    except OSError:
        return [source]
    return [str(Path(source).resolve()), status.st_size, status.st_mtime_ns]


@cache
def _versions() -> list[str]:
    return [importlib.metadata.version(name) for name in LIBRARIES]


@cache
def _our_files() -> str:
    """Of the code that builds networks, and the weights that lie beside it."""
    sha = hashlib.sha256()
    folder = Path(weights.__file__).parent
    for path in sorted(path for kind in ("*.py", "*.safetensors") for path in folder.rglob(kind)):
        sha.update(str(path.relative_to(folder)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()
