"""The one cost formula. Every search calls it, and the measured times are compared with it.

    latency = edge seconds of the head + rtt + boundary bytes / upload
              + queue wait + load * cloud seconds of the tail + result bytes / download

All on the edge pays no link at all and needs no cloud. Neurosurgeon (Kang et al., ASPLOS 2017, Algorithm 1) leaves
out the round trip, the queue and the way back.

    energy  = compute power * edge seconds + transmit power * sending seconds + receive power * receiving seconds
              + idle power * the rest of the time

Neurosurgeon's second objective. Power is that of the edge device; the cloud's is somebody else's.
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


@dataclass(frozen=True, slots=True)
class Power:
    """Watts of the edge while it computes, waits, sends and receives; a radio's watts come on top of being idle."""

    compute_w: float
    idle_w: float
    transmit_w: float
    receive_w: float


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of the edge in one inference, by what it does."""

    edge_j: float
    transmit_j: float
    receive_j: float
    idle_j: float

    @property
    def total_j(self) -> float:
        """All of it."""
        return self.edge_j + self.transmit_j + self.receive_j + self.idle_j


def energy(edge_s: float, waiting_s: float, sent_bytes: int, received_bytes: int, link: Link, power: Power) -> Energy:
    """Joules of an inference whose head takes `edge_s` and whose answer is waited for `waiting_s` from then on.

    All on the edge waits for nothing and sends nothing.
    """
    if waiting_s <= 0:
        return Energy(power.compute_w * edge_s, 0.0, 0.0, 0.0)
    sending_s, receiving_s = sent_bytes / link.up_bytes_per_s, received_bytes / link.down_bytes_per_s
    return Energy(
        power.compute_w * edge_s, power.transmit_w * sending_s, power.receive_w * receiving_s, power.idle_w * waiting_s
    )


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
