"""The one cost formula. Every search calls it, and the measured times are compared with it.

    latency = edge seconds of the head + rtt + boundary bytes / upload
              + queue wait + load * cloud seconds of the tail + result bytes / download

All on the edge pays no link at all and needs no cloud. Neurosurgeon (Kang et al., ASPLOS 2017, Algorithm 1) leaves
out the round trip, the queue and the way back.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """A link: bytes per second each way, and the round-trip time in seconds."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float


@dataclass(frozen=True, slots=True)
class CloudTimes:
    """What a cloud needs: seconds of every layer when idle, and how busy it is.

    `start_s[k]` is what a tail that begins after layer k takes beyond the sum of its layers. The cloud is `load` times
    slower than when idle, after a wait of `queue_s` seconds.
    """

    seconds: Sequence[float]
    start_s: Sequence[float]
    load: float = 1.0
    queue_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted seconds of every stage of one inference."""

    edge_s: float
    transfer_s: float
    cloud_s: float
    queue_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Predicted end-to-end latency in seconds."""
        return self.edge_s + self.transfer_s + self.queue_s + self.cloud_s


def latency(
    edge_s: float,
    boundary_bytes: int,
    tail_s: float,
    result_bytes: int,
    link: Link,
    load: float = 1.0,
    queue_s: float = 0.0,
) -> Prediction:
    """Predict the stages of an inference: `edge_s` of the head, `tail_s` of the tail on an idle cloud."""
    transfer_s = link.rtt_s + boundary_bytes / link.up_bytes_per_s + result_bytes / link.down_bytes_per_s
    return Prediction(edge_s, transfer_s, load * tail_s, queue_s)


def all_on_edge(edge_s: float) -> Prediction:
    """The same for the cut without a tail, which pays no link and needs no cloud."""
    return Prediction(edge_s, 0.0, 0.0)
