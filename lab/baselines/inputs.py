"""What a baseline gets, and what it answers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from edgecloud.models.graph import LayerGraph

RAW, PIXELS, PACKED_PIXELS, JPEG = "raw", "pixels", "pixels+zstd", "jpeg"


class Needs(Enum):
    """The times without which a baseline cannot choose."""

    NOTHING = "nothing"
    MEASURED = "measured"
    REGRESSED = "regressed"
    CALIBRATED = "calibrated"
    """Which lossy codecs the input may have: nothing where none was calibrated."""


@dataclass(frozen=True)
class CellInfo:
    """A cell of an experiment, and what its edge found out there."""

    model: str
    points: int
    """How many there are: the last one, everything on the edge, is one less."""
    document: Mapping[str, Any]
    """What `edge_api.py --json` printed for `auto` in this cell: its link, its candidates with predicted times."""
    cache_dir: Path
    """Where both sides keep their measured times (predictor.store)."""
    cpu: float | None
    """The edge's share of a core; None is all of it."""
    accuracy_budget: float = 0.0
    """The share of answers that lossy codecs may change."""

    @property
    def up_bytes_per_s(self) -> float:
        """The upload rate that the edge measured."""
        return float(self.document["link"]["up_bytes_per_s"])


@dataclass(frozen=True)
class Sides:
    """Seconds of every layer, the input (0) included, on the edge and on an idle cloud."""

    edge_s: Sequence[float]
    cloud_s: Sequence[float]


@dataclass(frozen=True)
class BaselineInputs:
    """What a method may know of a network and a link."""

    graph: LayerGraph
    up_bytes_per_s: float
    measured: Sides | None = None
    """Measured layer by layer: what DADS has."""
    regressed: Sides | None = None
    """From regressions of a survey of other networks: what Neurosurgeon has."""
    load: float = 1.0
    """How many times slower than idle the cloud is: Neurosurgeon's K. The paper has a regression for each level of
    load; here the one of the idle cloud is multiplied."""
    of_input: frozenset[str] = frozenset()
    """Lossy codecs that the input may have within the accuracy budget."""


@dataclass(frozen=True)
class Choice:
    """A cut, its codec, and the seconds that the baseline expects, where it expects any."""

    who: str
    head: frozenset[int]
    point: int | None
    """None where the boundary has several tensors."""
    codec: str = RAW
    expected_s: float | None = None

    def points_text(self, graph: LayerGraph) -> str:
        """The cut for `edge_api.py --points`: `22:raw`, or `head=LAYER+LAYER:raw` with all layers of the head."""
        if self.point is not None:
            return f"{self.point}:{self.codec}"
        names = "+".join(graph.layers[number].id for number in sorted(self.head - graph.only_inputs))
        return f"head={names}:{self.codec}"
