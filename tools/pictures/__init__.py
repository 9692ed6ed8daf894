"""Five plots of a plan: the decision map, where a cut pays, layer times and sizes, the cut graph, latency and energy.

Everything that is drawn is predicted; nothing runs. Each picture is a PNG or an SVG, by the name of its file.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from edgecloud.tools.pictures.front import front_picture
from edgecloud.tools.pictures.gain import gain_picture
from edgecloud.tools.pictures.graph import graph_picture
from edgecloud.tools.pictures.layers import layers_picture
from edgecloud.tools.pictures.map import map_picture
from edgecloud.tools.pictures.style import check_format
from edgecloud.tools.whatif import Planned
from edgecloud.utils.errors import UsageError

__all__ = ["PICTURES", "draw_all", "front_picture", "gain_picture", "graph_picture", "layers_picture", "map_picture"]

PICTURES: Mapping[str, Callable[[Planned, Path], None]] = {
    "map": map_picture,
    "gain": gain_picture,
    "layers": layers_picture,
    "graph": graph_picture,
    "front": front_picture,
}


def draw_all(planned: Planned, folder: Path, suffix: str = ".png") -> list[Path]:
    """Draw them all into a folder, which is made if need be. Raises UsageError where that cannot be written."""
    paths = [folder / f"{name}{suffix}" for name in PICTURES]
    check_format(paths[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from None
    for draw, path in zip(PICTURES.values(), paths, strict=True):
        draw(planned, path)
    return paths
