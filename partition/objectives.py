"""The objectives, by name. Nothing of the search is imported, for the flags of the programs read the names.

latency     lowest end-to-end time (Neurosurgeon on chains, DADS's DSL on graphs)
energy      lowest energy of the edge (Neurosurgeon)
weighted    lowest latency + seconds per joule * joules
throughput  minimum bottleneck stage (DADS's heavy mode)
auto        latency while it sustains the rate of inferences, else throughput (DADS, Algorithm 3)
"""

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edgecloud.partition.cost import Power, StageWeights


class Search(Enum):
    """How the least is found (partition.decide)."""

    SUM = "of a weighted sum of stages"
    STAGE = "of the bottleneck stage"
    RATE = "of the sum, or of the bottleneck stage if the sum does not sustain the rate"


class Objective(NamedTuple):
    """One thing that can be least."""

    wish: str
    """As people are told why a cut was chosen."""
    label: str
    """What the axis of a picture calls it."""
    unit: str = "s"
    """Of the value: s or J."""
    search: Search = Search.SUM
    weigh: "Callable[[Power, float], StageWeights] | None" = None
    """Of a sum: what a second of each stage counts, from the watts and the seconds that a joule is worth. None: 1."""


def _both(power: "Power", seconds_per_joule: float) -> "StageWeights":
    from edgecloud.partition.cost import LATENCY

    return LATENCY.plus(power.weights, seconds_per_joule)


OBJECTIVES = {
    "latency": Objective("lowest predicted latency", "predicted latency"),
    "energy": Objective("lowest edge energy", "predicted edge energy", "J", weigh=lambda power, _: power.weights),
    "weighted": Objective("lowest weighted latency and energy", "predicted latency and weighted energy", weigh=_both),
    "throughput": Objective("minimum bottleneck stage", "bottleneck stage", search=Search.STAGE),
    "auto": Objective("lowest latency that sustains the rate,", "predicted latency", search=Search.RATE),
}
OBJECTIVE, METHOD = "latency", "auto"
"""The objective unless another one is given."""
METHODS = ("auto", "chain", "mincut", "dsh")
"""How the least is searched for; partition.decide says what each does."""
