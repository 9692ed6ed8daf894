"""Measured profiles on disk, one file per key. Damaged ones are set aside and measured again."""

import contextlib
import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecloud.models.graph import LayerGraph
from edgecloud.models.graph_json import to_document
from edgecloud.predictor.pace import Pace
from edgecloud.predictor.profile import SCHEMA, Profile, ProfileKey
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file, write_atomically
from edgecloud.utils.folders import default_folder as default_folder

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 << 20


def path_of(folder: Path, key: ProfileKey) -> Path:
    """The file of a key: readable, and different for every key."""
    digest = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()[:16]
    return folder / "profiles" / f"{key.model.replace(':', '-')}-{digest}.json"


def load(folder: Path, key: ProfileKey, layers: int) -> Profile | None:
    """The stored profile of a key, or None. A file that is damaged or of another key is moved aside, and said so.

    Raises UsageError for a file that is there and cannot be read.
    """
    path = path_of(folder, key)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        return _checked(document, key, layers)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read the profile {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        aside = path.with_suffix(".bad")
        with contextlib.suppress(OSError):  # a folder that cannot be written; it is measured again all the same
            path.replace(aside)
        log.warning("the profile %s is damaged (%s): moved to %s and measured again", path, error, aside.name)
        return None


def _checked(document: Any, key: ProfileKey, layers: int) -> Profile:
    if not isinstance(document, dict) or document.get("key") != asdict(key):
        raise ValueError("it is the profile of another network")
    passes = document.get("passes")
    if not isinstance(passes, list) or not passes:
        raise ValueError("it contains no passes")
    for row in passes:
        if not isinstance(row, list) or len(row) != layers:
            raise ValueError(f"a pass does not have {layers} layers")
    tails = document.get("tails")
    if not isinstance(tails, dict) or not all(isinstance(row, list) and row for row in tails.values()):
        raise ValueError("it contains no tails")
    pace, first = document.get("pace", ""), document.get("first")
    if type(first) is not int or not 0 <= first < len(passes):
        raise ValueError("it does not say which passes were first")
    return Profile(
        key,
        tuple(map(_seconds, passes)),
        {_layer(name, layers): _seconds(tails[name]) for name in tails},
        None if pace is None else Pace.read(pace),
        first,
    )


def _seconds(row: list[Any]) -> tuple[float, ...]:
    if not all(isinstance(s, int | float) and math.isfinite(s) and s >= 0 for s in row):
        raise ValueError("a time is not a number of seconds")
    return tuple(float(s) for s in row)


def _layer(name: str, layers: int) -> int:
    if not 0 < int(name) < layers:
        raise ValueError(f"no layer {name}")
    return int(name)


@dataclass(frozen=True)
class StoredProfile:
    """A profile that was read without its network, with the document of its graph (models.graph_json)."""

    profile: Profile
    graph: dict[str, Any]


def profile_paths(folder: Path, model: str) -> list[Path]:
    """The files of all profiles of a network, the newest first."""
    paths = (folder / "profiles").glob(f"{model.replace(':', '-')}-*.json")
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def read(path: Path) -> StoredProfile:
    """Any profile, whatever its key. Raises UsageError where the file is none, or of another version."""
    require_file(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        key = ProfileKey(**document["key"])
        if key.schema != SCHEMA or not isinstance(document["graph"], dict):
            raise ValueError("it has another version")
        return StoredProfile(_checked(document, key, len(document["graph"]["layers"])), document["graph"])
    except OSError as error:
        raise UsageError(f"cannot read the profile {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path} is not a profile of deployment.py profile -t ({error})") from None


def save(folder: Path, profile: Profile, graph: LayerGraph) -> None:
    """Write a profile under a temporary name, then rename it. A full disk costs the cache, not the run.

    The graph goes with it for those who plan without the network.
    """
    path = path_of(folder, profile.key)
    passes = [[round(s, 12) for s in row] for row in profile.passes]
    tails = {str(layer): [round(s, 12) for s in row] for layer, row in profile.tails.items()}
    about = {"pace": None if profile.pace is None else asdict(profile.pace), "first": profile.first}
    document = {"key": asdict(profile.key), "passes": passes, "tails": tails, **about, "graph": to_document(graph)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(document))
    except OSError as error:
        log.warning("cannot save the profile %s (%s): it will be measured again next time", path, error.strerror)
