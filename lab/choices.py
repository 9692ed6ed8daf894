"""Who else chooses a cut in the lab: baselines, each by name. A new one is a function and a row in `CHOICES`.

A choice is told what the edge found out in the same cell, and answers what `edge_api.py --points` takes: a point with a
codec such as `22:raw`, or for a cut of several tensors `head=LAYER+LAYER:raw` with all layers of the edge.
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


@dataclass(frozen=True)
class Situation:
    """What a choice may look at."""

    model: str
    points: int
    """How many there are: the last one, everything on the edge, is one less."""
    document: Mapping[str, Any]
    """What `edge_api.py --json` printed for `auto` in this cell: its link, its candidates with predicted times."""
    cache_dir: Path
    """Where both sides keep their measured times (predictor.store)."""
    cpu: float | None


Choice = Callable[[Situation], str]


def all_edge(situation: Situation) -> str:
    """Everything here."""
    return f"{situation.points - 1}:raw"


def published(name: str) -> Choice:
    """One of lab.baselines that needs the times of both sides."""

    def choose(situation: Situation) -> str:
        from lab import chooser  # and with it the solver

        rate = float(situation.document["link"]["up_bytes_per_s"])
        return chooser.chosen(name, situation.model, rate, situation.cache_dir, situation.cpu)

    return choose


CHOICES: dict[str, Choice] = {
    AUTO_RAW: lambda _: "auto:raw",  # the edge's own choice among what the points are, tensors as they are
    "all-edge": all_edge,
    "all-cloud": lambda _: "0:raw",
    "all-cloud-8bit": lambda _: "0:pixels",
    "all-cloud-jpeg": lambda _: "0:jpeg",  # lab.run starts its cloud with --allow-jpeg
    "neurosurgeon": published("neurosurgeon"),
    "dads": published("dads"),
}
CLOUD_FLAGS = {"all-cloud-jpeg": "--allow-jpeg"}
"""What the lab's cloud has to be told where one of them is asked for."""


def check(names: tuple[str, ...]) -> None:
    """Raises UsageError for a name that nobody answers to."""
    known = (AUTO, *CHOICES)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"no baseline {unknown[:40]!r}: choose {', '.join(known)}")
