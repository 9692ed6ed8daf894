"""Who else chooses a cut in the lab: baselines, each by name. Light: what a rule needs is imported when it is asked.

A new one is a row in `FIXED`; or a function in lab/baselines.py, and its name in `PUBLISHED`. Each is told what the
edge found out in the same cell, and answers what `edge_api.py --points` takes: a point with a codec such as `22:raw`,
or for a cut of several tensors `head=LAYER+LAYER:raw` with all layers of the edge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UsageError

POINT, AUTO, AUTO_RAW = "point", "auto", "auto-raw"
OF_THE_OBJECTIVE = (AUTO, AUTO_RAW)
"""Who chooses by the objective; what all others do is the same under each, and measured once."""
CONTENDERS = "contenders"
"""In place of `all` points: those that can be the best (lab.contenders)."""
RAW, PIXELS, JPEG = "raw", "pixels", "jpeg"
ALL_EDGE, ALL_CLOUD = "all-edge", "all-cloud"
FIXED = {
    ALL_EDGE: (-1, RAW),
    ALL_CLOUD: (0, RAW),
    "all-cloud-8bit": (0, PIXELS),
    "all-cloud-jpeg": (0, JPEG),
}
"""The same point everywhere, -1 being the last one, and its codec."""
PUBLISHED = ("neurosurgeon", "dads")
"""Rules of lab.baselines that need the times of both sides."""
CLOUD_FLAGS = {"all-cloud-jpeg": "--allow-jpeg"}
"""What the lab's cloud has to be told where one of them is asked for."""


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
        from lab import chooser  # and with it the solver

        rate = float(situation.document["link"]["up_bytes_per_s"])
        return chooser.chosen(name, situation.model, rate, situation.cache_dir, situation.cpu)

    return choose


CHOICES: dict[str, Rule] = {
    AUTO_RAW: lambda _: "auto:raw",  # the edge's own choice among what the points are, tensors as they are
    **{name: _fixed(point, codec) for name, (point, codec) in FIXED.items()},
    **{name: _published(name) for name in PUBLISHED},
}
"""By the name that stands in the lab's records."""


def check(names: tuple[str, ...]) -> None:
    """Raises UsageError for a name that nobody answers to."""
    known = (AUTO, *CHOICES)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"no baseline {unknown[:40]!r}: choose {', '.join(known)}")
