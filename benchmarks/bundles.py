"""What benchmarks of bundles share: their flags, and bundles that are made once and kept in the cache folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgecloud.models import bundle_network
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.predictor.store import default_folder
from edgecloud.tools import export


def parser_of(doc: str | None, networks: Sequence[str]) -> argparse.ArgumentParser:
    """The flags that all of them have."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", default=networks, metavar="NETWORK")
    parser.add_argument("--bundles", type=Path, default=default_folder() / "benchmarks", metavar="DIR")
    return parser


def path_of(name: str, folder: Path) -> Path:
    """The bundle of a network, made now if it is not there, which takes up to a minute."""
    path = folder / f"{name.rpartition(':')[2]}.bundle"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        export.export(name, "default", path, lambda _what, _done: None)
    return path


def bundled(name: str, folder: Path) -> BundleNetwork:
    """The same as a network."""
    return bundle_network.read(path_of(name, folder))
