"""`deployment.py export`: a network of torch becomes a bundle, and every cut of it is compared with the network."""

from pathlib import Path
from typing import Any

from edgecloud.engine import bundling
from edgecloud.engine.bundling import Show, Written
from edgecloud.models import bundle, bundle_cache, registry
from edgecloud.utils.errors import UsageError


def export(name: str, weights: str, path: Path, progress: Show) -> Written:
    """Write a bundle of a network. Nothing is left of one whose cuts give other answers than the network.

    Raises UsageError for a network that cannot be exported, NotCertifiedError where a cut is not the same.
    """
    if not bundle.is_bundle(path.name):
        raise UsageError(f"{path}: the name of a bundle ends in {bundle.SUFFIX}")
    if registry.file_of_data(name):
        raise UsageError(f"{name} is data already: use it as it is, with -t")
    progress("loading the network", 0.0)
    entry = registry.resolve_trusted(name)
    return bundling.write(entry, entry.network(weights), path, progress)


def kept_path(name: str, folder: Path) -> Path:
    """Where the bundle of a network is kept for `--backend auto`, whose folder is made. Raises UsageError."""
    return bundle_cache.place_of(folder, registry.resolve_trusted(name).name)


def to_json(written: Written) -> dict[str, Any]:
    """What `--json` prints."""
    content = written.content
    return {
        "bundle": str(written.path),
        "bytes": written.bytes,
        "seconds": round(written.seconds, 3),
        "network": content.identity.name,
        "weights": content.identity.weights,
        "graph": content.graph.digest,
        "layers": len(content.graph.layers) - 1,
        "points": len(content.graph.points),
        "is_batched": content.is_batched,
        "certificates": [
            {
                "point": each.point,
                "batch": each.batch,
                "largest_difference": each.largest_difference,
                "same_top": each.is_same_top,
            }
            for each in content.certificates
        ],
    }


def to_lines(written: Written) -> list[str]:
    """What is printed otherwise."""
    content, worst = written.content, written.worst
    cuts = len({each.point for each in content.certificates})
    layers, megabytes = len(content.graph.layers) - 1, written.bytes / 1e6
    return [
        f"{written.path}: {content.identity.name}, {layers} layers, {megabytes:.3g} MB, {written.seconds:.1f} s",
        f"weights: {content.identity.origin}",
        f"verify: {cuts} cuts match the full model in torch "
        f"(largest difference {worst.largest_difference:.3g} of {worst.largest:.3g})",
        f"use: edge_api.py -t {written.path}, with or without torch",
    ]
