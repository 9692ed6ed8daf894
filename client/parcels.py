"""What an edge sends where a cloud does not have its network: the bundle, and its own answer to the example in it.

A network of torch has to be exported first, which a program of its own does (`deployment.py export`), behind everything
else and into the cache folder, where it stays for the next start. A module that only this process knows is exported by
it.
"""

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edgecloud.models import bundle_cache, bundle_network, custom_model
from edgecloud.models.bundle import outline_of
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.network import DEFAULT, GIVEN, IMAGENET, Network
from edgecloud.models.registry import Entry
from edgecloud.net.tensors import Array
from edgecloud.utils.commands import command_of
from edgecloud.utils.environment import without_settings
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.niceness import put_behind
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

LOOK_S = 0.1
EXPORT_S = 3600.0
END_S = 2.0

IsLeaving = Callable[[], bool]


@dataclass(frozen=True)
class Parcel:
    """A bundle that is ready to be sent."""

    path: Path
    digest: str
    """SHA-256 of its header."""
    head_bytes: int
    bytes: int
    proof: tuple[Array, ...]
    """The edge's own answer to the example in it."""


MakeParcel = Callable[[IsLeaving], Parcel]
"""Raises AppError for a network that cannot be sent, or where this program is leaving."""


def maker_of(
    entry: Entry, network: Network, computing: AbstractContextManager[object], cache_dir: Path, weights: str
) -> MakeParcel:
    """What makes the parcel of a network, when it is first asked for. `computing` is held while it is run."""

    def make(is_leaving: IsLeaving) -> Parcel:
        kept = network if isinstance(network, BundleNetwork) else bundle_cache.find(cache_dir, network)
        if kept is None:
            if entry.name.startswith(GIVEN) or entry.is_resized:  # which another program would not know
                _export_here(entry, network, cache_dir, computing)
            else:
                _export(entry, network, cache_dir, weights, is_leaving)
            kept = bundle_cache.find(cache_dir, network)
        if kept is None:
            raise UsageError(f"{network.graph.name} was exported as another network: use the same --weights")
        own = bundle_network.read(kept.bundle.path)  # with the example that is in it
        with computing:
            proof = network.whole(own.example.fed)
        found = outline_of(kept.bundle.path)
        return Parcel(kept.bundle.path, found.digest, found.head_bytes, found.bytes, tuple(proof))

    return make


def _export(entry: Entry, network: Network, cache_dir: Path, weights: str, is_leaving: IsLeaving) -> None:
    """Let another program export a network. Raises UsageError where that cannot be."""
    command = ["deployment.py", "export", "-t", _called(entry), "--cache-dir", str(cache_dir.resolve())]
    if weights != DEFAULT:
        command += ["--weights", weights if weights == IMAGENET else str(Path(weights).resolve())]
    log.warning("exporting %s, to send it to the cloud", network.graph.name)
    process = subprocess.Popen(
        command_of(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        env=without_settings(os.environ),
        start_new_session=True,
    )
    with contextlib.suppress(OSError):
        put_behind(process.pid)
    end, words = time.monotonic() + EXPORT_S, ""
    try:
        while process.poll() is None:
            if is_leaving() or time.monotonic() > end:
                raise AppError(f"{network.graph.name} was not exported yet")
            with contextlib.suppress(subprocess.TimeoutExpired):
                words = process.communicate(timeout=LOOK_S)[1]
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    if process.returncode:
        reason = ([line for line in words.splitlines() if line.strip()] or ["no output"])[-1]
        raise UsageError(f"{network.graph.name} cannot be sent: {printable(reason.strip(), 200)}")


def _export_here(entry: Entry, network: Network, cache_dir: Path, computing: AbstractContextManager[object]) -> None:
    """Export a module that no other program knows. Nothing is computed meanwhile: what torch does to follow a network
    holds for the whole process. Raises UsageError where that cannot be."""
    from edgecloud.engine import bundling  # needs torch, which is here

    log.warning("exporting %s, to send it to the cloud; answers wait for that", network.graph.name)
    path = bundle_cache.place_of(cache_dir, network.graph.name)
    with computing:
        bundling.write(entry, network, path, lambda *_: None)


def _called(entry: Entry) -> str:
    """What `-t` calls it."""
    if entry.built is not None:
        place = custom_model.where(entry.name)
        function = custom_model.FUNCTION if place is None else place.function
        return f"{entry.built.path.resolve()}:{function}"
    return entry.name
