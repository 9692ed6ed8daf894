"""Cuts for a stream of tasks: the bottleneck stage counts, because stages of different tasks overlap. Pure.

    throughput = 1 / max(edge seconds of the head + packing, packed bytes / upload, unpacking + load * cloud seconds)

DADS (Hu et al., INFOCOM 2019) chooses a cut by its latency under light load and by its bottleneck stage under heavy
load. The round trip, the wait in the cloud's queue and the download of the answer delay a task, but occupy none of the
three stages, so they do not count towards the throughput.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgecloud.partition.cost import StageTimes


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds that one task occupies the edge, the link and the cloud, in this order, and what delays its own end only.

    All on the edge has 0 everywhere but in `edge_s`.
    """

    edge_s: float
    link_s: float
    cloud_s: float
    delay_s: float = 0.0

    @property
    def longest_s(self) -> float:
        """Seconds of the bottleneck: 1 / `longest_s` tasks a second are the most that these stages sustain."""
        return max(self.edge_s, self.link_s, self.cloud_s)

    @property
    def total_s(self) -> float:
        """Seconds from start to answer of a task that waits for no other: its latency."""
        return self.edge_s + self.link_s + self.cloud_s + self.delay_s


def stages_of(predicted: StageTimes) -> Stages:
    """The stages of one cut, as a stream of tasks sees them: packing is the edge's work, and unpacking the cloud's."""
    delay_s = predicted.rtt_s + predicted.download_s + predicted.queue_s
    edge_s, cloud_s = predicted.edge_s + predicted.encode_s, predicted.decode_s + predicted.cloud_s
    return Stages(edge_s, predicted.upload_s, cloud_s, delay_s)


def best(options: Sequence[Stages]) -> int:
    """Number of the option with the minimum bottleneck stage; of equal ones the one with the least latency.

    DADS minimises the same under heavy load (DSH, approximately, over all cuts of a graph); among the points of a
    network trying each is exact. Raises ValueError where there is no option.
    """
    if not options:
        raise ValueError("no option to choose from")
    return min(range(len(options)), key=lambda number: (options[number].longest_s, options[number].total_s))


def mean(mix: Sequence[Stages], weights: Sequence[float]) -> Stages:
    """Stages of the average task of a mix; `weights` are in proportion to how often each network is asked for.

    Raises ValueError unless there is one weight of at least 0 for each network, and one above 0.
    """
    if len(mix) != len(weights) or not all(weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError("give every network of the mix a weight of at least 0, and one of them more than 0")
    shares = [weight / sum(weights) for weight in weights]
    return Stages(
        sum(share * stages.edge_s for share, stages in zip(shares, mix, strict=True)),
        sum(share * stages.link_s for share, stages in zip(shares, mix, strict=True)),
        sum(share * stages.cloud_s for share, stages in zip(shares, mix, strict=True)),
        sum(share * stages.delay_s for share, stages in zip(shares, mix, strict=True)),
    )


def is_light(mix: Sequence[Stages], weights: Sequence[float], rate_per_s: float) -> bool:
    """Whether the option chosen for each network sustains `rate_per_s` tasks per second, all networks together.

    DADS, Algorithm 3: the load is light while no stage of the average task takes as long as the time between two
    tasks; then cuts of least latency will do, else take those of `best`. Raises ValueError for weights `mean` refuses.
    """
    return mean(mix, weights).longest_s * rate_per_s < 1
