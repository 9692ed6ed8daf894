"""How the baselines choose in a cell. Light: a rule imports what it needs on use. Pure.

Each is told what the edge found out in the same cell, and answers what `edge_api.py --points` takes: a point with a
codec such as `22:raw`, or for a cut of several tensors `head=LAYER+LAYER:raw` with all layers of the edge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecloud.lab.choices import AUTO_RAW, FIXED, PUBLISHED


@dataclass(frozen=True)
class Situation:
    """What a rule may look at."""

    model: str
    points: int
    """How many there are: the last one, everything on the edge, is one less."""
    document: Mapping[str, Any]
    """What `edge_api.py --json` printed for `auto` in this cell: its link, its candidates with predicted times."""
    cache_dir: Path
    """Where both sides keep their measured times (predictor.store)."""
    cpu: float | None


Rule = Callable[[Situation], str]


def _fixed(point: int, codec: str) -> Rule:
    return lambda situation: f"{point % situation.points}:{codec}"


def _published(name: str) -> Rule:
    def choose(situation: Situation) -> str:
        from edgecloud.lab import chooser  # and with it the solver

        rate = float(situation.document["link"]["up_bytes_per_s"])
        return chooser.chosen(name, situation.model, rate, situation.cache_dir, situation.cpu)

    return choose


RULES: dict[str, Rule] = {
    AUTO_RAW: lambda _: "auto:raw",  # the edge's own choice among what the points are, tensors as they are
    **{name: _fixed(point, codec) for name, (point, codec) in FIXED.items()},
    **{name: _published(name) for name in PUBLISHED},
}
"""By the name that stands in the lab's records."""
