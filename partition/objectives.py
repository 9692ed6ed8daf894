"""What can be least, by name. Nothing of the search is imported, for the flags of the programs read the names.

latency     least end-to-end time (Neurosurgeon on chains, DADS's DSL on graphs)
energy      least joules of the edge (Neurosurgeon)
weighted    least latency + seconds for a joule * joules
throughput  shortest longest stage (DADS's heavy mode)
auto        latency while it keeps up with the rate of inferences, else throughput (DADS, Algorithm 3)
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecloud.partition.cost import Power, StageWeights


class Search(Enum):
    """How the least is found (partition.decide)."""

    SUM = "of a weighted sum of stages"
    STAGE = "of the longest stage"
    RATE = "of the sum, or where that does not keep up of the longest stage"


@dataclass(frozen=True)
class Objective:
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
    "latency": Objective("least predicted total", "predicted latency"),
    "energy": Objective("least joules here", "predicted energy of the edge", "J", weigh=lambda power, _: power.weights),
    "weighted": Objective("least time and energy together", "predicted latency and weighted energy", weigh=_both),
    "throughput": Objective("shortest longest stage", "longest stage", search=Search.STAGE),
    "auto": Objective("what keeps up with the rate", "predicted latency", search=Search.RATE),
}
METHODS = ("auto", "chain", "mincut", "dsh")
"""How the least is searched for; partition.decide says what each does."""
