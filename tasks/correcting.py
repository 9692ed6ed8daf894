"""Predicted seconds of networks, corrected by what their stages took: per side and kind of layer.

As for one network (partition.drift): each network has a factor per kind of layer on the edge and on the cloud, and one
for each side as a whole. What a stage took beyond its prediction moves those that are uncertain most, one slow task
changes little, and some in a row are a change. The link has its own estimate (net.estimator), which tasks feed.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.drift import Floats, SideFactors, Stage
from edgecloud.partition.ways import Kinds

EDGE_SD, CLOUD_SD = 0.2, 0.3  # of predicted seconds, as logarithms, before anything ran
COLD_SD = 0.3  # more, of what runs for the first time
CHANGED = 0.25  # of the logarithm of a factor: from there it is worth while to plan anew


@dataclass(frozen=True, eq=False)
class Side:
    """One network on one side."""

    kinds: Kinds
    rows: Floats
    """Predicted seconds of every layer, in the column of its kind."""
    factors: SideFactors
    seen: frozenset[frozenset[int]] = frozenset()
    """Stages that have run."""

    @classmethod
    def of(cls, graph: LayerGraph, seconds: Sequence[float], sd: float) -> "Side":
        """Nothing has run yet."""
        kinds = Kinds.of_layers(graph, seconds)
        return cls(kinds, kinds.rows(seconds), SideFactors.start([sd] * kinds.count))

    def after(self, layers: Collection[int], seconds: float, slowdown: float, passed_s: float) -> "Side":
        """A stage of these layers took so long, while the whole side is known to be so much slower than predicted."""
        stage = frozenset(layers)
        predicted = slowdown * self.rows[sorted(stage)].sum(axis=0)
        told = Stage(predicted, seconds, 0.0 if stage in self.seen else COLD_SD)
        return replace(self, factors=self.factors.later(passed_s).after(told), seen=self.seen | {stage})

    def corrected(self, seconds: Sequence[float]) -> list[float]:
        """The seconds of all layers, each by the factor of its kind."""
        factors = self.factors.factors[list(self.kinds.of)]
        return [s * float(factor) for s, factor in zip(seconds, factors, strict=True)]


class Corrections:
    """What is known of every network by now. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sides: dict[tuple[str, str], Side] = {}
        self._at: dict[tuple[str, str], float] = {}

    def note(self, model: str, side: str, graph: LayerGraph, seconds: Sequence[float], ran: "MeasuredStage") -> None:
        """A stage of a network ran on the `edge` or the `cloud`, where its layers are predicted to take `seconds`."""
        key = model, side
        with self._lock:
            known = self._sides.get(key) or Side.of(graph, seconds, EDGE_SD if side == "edge" else CLOUD_SD)
            passed_s = max(0.0, ran.at_s - self._at.get(key, ran.at_s))
            self._sides[key] = known.after(ran.layers, ran.seconds, ran.slowdown, passed_s)
            self._at[key] = ran.at_s

    def of(self, model: str, side: str, seconds: Sequence[float]) -> Sequence[float]:
        """The predicted seconds of the layers, corrected."""
        with self._lock:
            known = self._sides.get((model, side))
        return seconds if known is None else known.corrected(seconds)

    def factors(self) -> Mapping[tuple[str, str], Floats]:
        """Of every network and side that ran."""
        with self._lock:
            return {key: side.factors.factors for key, side in self._sides.items()}


@dataclass(frozen=True)
class MeasuredStage:
    """A stage that was measured, at so many seconds after the start."""

    layers: Collection[int]
    seconds: float
    at_s: float
    slowdown: float = 1.0
    """How much slower the whole side is known to be than what its layers are predicted to take."""


def differ(now: Mapping[tuple[str, str], Floats], then: Mapping[tuple[str, str], Floats]) -> bool:
    """Whether a plan that was made with other factors should be made anew."""
    for key, factors in now.items():
        before = then.get(key, np.ones_like(factors))
        if float(np.abs(np.log(factors / before)).max()) > CHANGED:
            return True
    return False
