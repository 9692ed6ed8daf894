"""The codec of each tensor: the best allowed one for a link.

A tensor is packed on the edge, sent, and unpacked on the cloud; which codec takes least depends on the link, so it is
chosen anew for each decision, before the cut: what one tensor costs does not depend on which others cross.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from edgecloud.partition.cost import Link, Packed, Problem, StageWeights

RAW = "raw"
Options = Sequence[Sequence[Packed]]
"""For every layer the ways in which its output may travel, at least one."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The ways of sending every tensor that give the whole network's answer, and those that nearly do."""

    lossless: Options
    lossy: Mapping[int, Sequence[Packed]]
    """By layer, and only where its output crosses alone: it was checked there how often the answer stays the same."""

    def alone(self, layer: int, codecs: Collection[str] | None = None) -> Sequence[Packed]:
        """The ways of sending the output of a layer that crosses alone, of those that a cloud knows; maybe none.

        None: of all that there are."""
        ways = (*self.lossless[layer], *self.lossy.get(layer, ()))
        return [packed for packed in ways if codecs is None or packed.codec in codecs]

    def exact(self, problem: Problem, weights: StageWeights) -> Problem:
        """The problem with the best lossless codec for each tensor."""
        return replace(problem, packed=best(self.lossless, problem.link, weights))

    def with_lossy(self, problem: Problem, weights: StageWeights) -> Problem:
        """The same with the lossy ones too; only points may be chosen from it."""
        every = [[*ways, *self.lossy.get(layer, ())] for layer, ways in enumerate(self.lossless)]
        return replace(problem, packed=best(every, problem.link, weights))

    def at_speed(self, speed: float) -> "Allowed":
        """The same from an edge that packs so many times as fast."""

        def faster(ways: Sequence[Packed]) -> list[Packed]:
            return [replace(way, encode_s=way.encode_s / speed) for way in ways]

        return Allowed([faster(ways) for ways in self.lossless], {n: faster(ways) for n, ways in self.lossy.items()})


def best(options: Options, link: Link, weights: StageWeights) -> tuple[Packed, ...]:
    """For every tensor the way that adds least to the weighted sum; of equal ones the first."""
    rate = link.up_bytes_per_s
    return tuple(min(ways, key=lambda packed: weights.crossing(packed, rate)) for ways in options)
