"""Bundles in the cache folder, one for each network by its name: what `auto` finds beside a torch module."""

import logging
from pathlib import Path

from edgecloud.models import bundle_network
from edgecloud.models.bundle import SUFFIX
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.network import Network
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import writing

log = logging.getLogger(__name__)


def path_of(folder: Path, name: str) -> Path:
    """Where the bundle of a network is kept."""
    return folder / "bundles" / f"{name.replace(':', '-').replace('/', '-')}{SUFFIX}"


def place_of(folder: Path, name: str) -> Path:
    """The same for one that is to be written: its folder is made. Raises UsageError."""
    path = path_of(folder, name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def find(folder: Path, network: Network) -> BundleNetwork | None:
    """The kept bundle of a network with the same weights and the same graph, if there is one; of a damaged one it is
    said that it is not used."""
    path = path_of(folder, network.graph.name)
    if not path.is_file():
        return None
    try:
        kept = bundle_network.read(path, network.example)
    except UsageError as error:
        log.warning("%s: not used", error)
        return None
    same = (kept.weights.digest, kept.graph.digest) == (network.weights.digest, network.graph.digest)
    return kept if same else None
