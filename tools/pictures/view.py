"""What both panels of the map share: the objective, the rates, and the best cuts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from edgecloud.client.power import PowerChoice
from edgecloud.partition.cost import LATENCY, Link, Problem, StageTimes, StageWeights
from edgecloud.partition.decision_map import FASTEST, SLOWEST, DecisionMap, Region, follow, keep_download
from edgecloud.partition.objectives import OBJECTIVES
from edgecloud.partition.packing import Allowed
from edgecloud.tools.pictures.style import LEAST
from edgecloud.tools.whatif import Planned
from edgecloud.utils.units import format_seconds

PER_MBIT = 1e6 / 8  # bytes per second


@dataclass(frozen=True)
class Scale:
    """What is minimised: its name, and how it is told and found."""

    name: str
    show: Callable[[float], str]
    value: Callable[[StageTimes, Link], float]


class LayerRun(NamedTuple):
    """Upload rates in mbit per second over which one cut is best."""

    begin: float
    end: float
    region: Region

    @property
    def middle(self) -> float:
        """The mbit per second in the middle, on a logarithmic axis."""
        return float(np.sqrt(self.begin * self.end))

    @property
    def decades(self) -> float:
        """How wide it looks there."""
        return float(np.log10(self.end / self.begin))

    def value(self, mbit: Any) -> Any:
        """What the cut costs there."""
        line = self.region.line
        return np.maximum(line.intercept + line.slope / (np.asarray(mbit) * PER_MBIT), LEAST)


@dataclass(frozen=True)
class View:
    """A plan's map over the upload rate."""

    scale: Scale
    link_at: Callable[[float], Link]
    weights_at: Callable[[Link], StageWeights]
    map: DecisionMap | None
    low: float
    high: float
    """The rates that are shown, in bytes per second."""
    allowed: Allowed | None = None
    """How tensors may travel, of which each rate has its best."""

    @classmethod
    def of(cls, planned: Planned) -> "View":
        """The rates around where the best cut changes, and around the plan's own."""
        link, config = planned.problem.link, planned.config
        link_at = (follow if config.down_bytes_per_s is None else keep_download)(link)
        decisions = None if planned.decision.is_of_stage else planned.map
        begins = decisions.begins[1:] if decisions else ()
        times = 4.0 if begins else 16.0
        rates, own = (*begins, link.up_bytes_per_s), link.up_bytes_per_s
        low = min(max(min(rates) / times, SLOWEST), own / 2)
        high = max(min(max(rates) * times, FASTEST), own * 2)
        weights_at = _weights_at(planned)
        return cls(_scale(planned, weights_at), link_at, weights_at, decisions, low, high, planned.counted.allowed)

    def at(self, problem: Problem, rate: float) -> Problem:
        """The problem at another upload rate, packed as is best there for points."""
        link = self.link_at(rate)
        there = replace(problem, link=link)
        return there if self.allowed is None else self.allowed.with_lossy(there, self.weights_at(link))

    def runs(self, decisions: DecisionMap) -> list[LayerRun]:
        """The regions of a map that are shown."""
        runs = []
        for region, (begin, end) in zip(decisions.regions, pairwise((0.0, *decisions.begins[1:], np.inf)), strict=True):
            begin, end = max(begin, self.low), min(end, self.high)
            if begin < end:
                runs.append(LayerRun(begin / PER_MBIT, end / PER_MBIT, region))
        return runs


def _weights_at(planned: Planned) -> Callable[[Link], StageWeights]:
    goal = planned.config.goal
    if goal.weights(planned.power) == LATENCY:
        return lambda _: LATENCY
    choice = PowerChoice.of(planned.config.power, planned.config.radio)  # a radio's watts depend on the rate
    return lambda link: goal.weights(choice.at(link))


def _joules(value: float) -> str:
    return f"{value:.3g} J" if value >= 1 else f"{value * 1e3:.3g} mJ"


_UNITS: dict[str, Callable[[float], str]] = {"s": format_seconds, "J": _joules}


def _scale(planned: Planned, weights_at: Callable[[Link], StageWeights]) -> Scale:
    objective = OBJECTIVES[planned.decision.objective]

    def value(predicted: StageTimes, link: Link) -> float:
        return predicted.longest_s if planned.decision.is_of_stage else weights_at(link).value(predicted)

    return Scale(objective.label, _UNITS[objective.unit], value)
