"""One request as the page shows it, of an edge, a cloud or a queue of tasks. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecloud.partition.cost import StageTimes
from edgecloud.partition.timeline import spans


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a request: when it began, in seconds after the request did, and how long it took."""

    name: str
    begin_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """One request that has ended."""

    number: int
    name: str
    began_s: float
    """After the program's page began."""
    total_s: float
    stages: tuple[Stage, ...]
    predicted: tuple[Stage, ...] = ()
    """Of what was to run; nothing where nobody predicted it."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and texts of any origin: the page shows them as text."""

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        return {
            "number": self.number,
            "name": self.name,
            "began_s": self.began_s,
            "total_s": self.total_s,
            "stages": [[stage.name, stage.begin_s, stage.seconds] for stage in self.stages],
            "predicted": [[stage.name, stage.begin_s, stage.seconds] for stage in self.predicted],
            **self.about,
        }


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that changed at a moment: a plan, a link, a speed."""

    at_s: float
    kind: str
    text: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        return {"at_s": self.at_s, "kind": self.kind, "text": self.text, **self.about}


def stages_of(times: StageTimes) -> tuple[Stage, ...]:
    """When each one ran, those of no length left out: one after the other, or overlapping (partition.timeline)."""
    return tuple(Stage(*span) for span in spans(times))


def in_turn(stages: Iterable[tuple[str, float]]) -> tuple[Stage, ...]:
    """Pairs of a name and seconds, one after the other from the beginning."""
    found: list[Stage] = []
    at_s = 0.0
    for name, seconds in stages:
        if seconds > 0:
            found.append(Stage(name, at_s, seconds))
            at_s += seconds
    return tuple(found)
