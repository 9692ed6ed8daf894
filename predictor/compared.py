"""What several back-ends took for the same segments, measured by turns and kept on disk beside the profiles.

One file for each network, device, number of threads, clock, and set of back-ends with their versions and options: where
any of that changes, it is measured again.
"""

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgecloud.utils.files import write_atomically

log = logging.getLogger(__name__)

SCHEMA = 1
MAX_FILE_BYTES = 4 << 20
KEPT = 512
"""Segments in one file; the oldest go."""


@dataclass(frozen=True)
class ComparedKey:
    """What the times depend on. `backends` are versions and options by name."""

    model: str
    graph: str
    weights: str
    device: str
    threads: int
    clock: str
    backends: Mapping[str, str]
    schema: int = SCHEMA

    @property
    def file_name(self) -> str:
        """Readable, and different for every key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.model.replace(':', '-')}-{digest}.json"


@dataclass(frozen=True)
class Compared:
    """Seconds of one segment by back-end."""

    seconds: Mapping[str, float]
    is_measured: bool = True
    """Whether this very segment was run by turns; else it is told from profiles."""
    left_out: tuple[str, ...] = ()
    """Back-ends that could not run it."""

    def fastest(self, names: Sequence[str], worth: float) -> str | None:
        """Of some back-ends; the first of them unless another one needs less than a share `worth` of its time. None
        where nothing is known of any."""
        known = [name for name in names if name in self.seconds]
        if not known:
            return None
        best = min(known, key=self.seconds.__getitem__)
        return best if self.seconds[best] < worth * self.seconds[known[0]] else known[0]

    def apart(self, names: Sequence[str]) -> float:
        """By which factor the second best of some back-ends is slower than the best; 1 where that is unknown."""
        first, second, *_ = [*sorted(self.seconds[name] for name in names if name in self.seconds), 0.0, 0.0]
        return second / first if first > 0 and second > 0 else 1.0


Table = dict[str, Compared]
"""By the name of the segment."""


@lru_cache(4096)
def name_of(layers: frozenset[int]) -> str:
    """Of a segment: its first and its last layer, and a digest where it is no range."""
    numbers = sorted(layers)
    name = f"{numbers[0]}-{numbers[-1]}"
    if len(numbers) == numbers[-1] - numbers[0] + 1:
        return name
    return f"{name}-{hashlib.sha256(repr(numbers).encode()).hexdigest()[:12]}"


def load(folder: Path, key: ComparedKey) -> Table:
    """What is kept; nothing where there is nothing, or where the file is damaged, which is logged."""
    path = folder / "compared" / key.file_name
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("key") != asdict(key):
            raise ValueError("it is of another network")
        segments = document.get("segments")
        if not isinstance(segments, dict) or len(segments) > KEPT:
            raise ValueError("it contains no segments")
        return {name: _compared(row, key) for name, row in segments.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("ignoring kept times of back-ends %s (%s)", path, error)
        return {}


def _compared(row: Any, key: ComparedKey) -> Compared:
    if not isinstance(row, dict) or not isinstance(row.get("seconds"), dict):
        raise ValueError("a segment has no seconds")
    seconds = row["seconds"]
    if not seconds.keys() <= key.backends.keys():
        raise ValueError("a segment has another back-end")
    if not all(type(s) in (int, float) and math.isfinite(s) and s >= 0 for s in seconds.values()):
        raise ValueError("a time is not a number of seconds")
    left_out = row.get("left_out")
    if not isinstance(left_out, list) or not all(name in key.backends for name in left_out):
        raise ValueError("a back-end that was left out is another one")
    return Compared({name: float(s) for name, s in seconds.items()}, row.get("is_measured") is True, tuple(left_out))


def save(folder: Path, key: ComparedKey, table: Table) -> None:
    """Write it under a temporary name, then rename it. A full disk costs the memory of it, not the run."""
    newest = dict(list(table.items())[-KEPT:])
    document = {"key": asdict(key), "segments": {name: asdict(each) for name, each in newest.items()}}
    path = folder / "compared" / key.file_name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(document))
    except OSError as error:
        log.warning("cannot save %s (%s): it will be measured again", path, error.strerror)
        with contextlib.suppress(OSError):
            path.unlink()
