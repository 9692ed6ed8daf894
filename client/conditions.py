"""What a decision depends on besides the network: the current link and cloud. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import Ready, Result, State

CHANGED_RATE, CHANGED_LOAD = 0.15, 0.25  # relative changes from which a plan is made anew


def slowdown(told: Ready | Result | State) -> float:
    """How much longer the cloud takes now than when nothing else runs there, at least 1.

    Its load is what its own runs showed lately, its speed what a look at the whole machine showed: two views of one
    thing, so the larger counts, and never their product.
    """
    return max(told.load, 1 / told.speed)


@dataclass(frozen=True)
class Conditions:
    """What a decision depends on. Without a cloud everything runs on the edge."""

    link: LinkEstimate | None = None
    ready: Mapping[str, Ready] | None = None
    load: float = 1.0
    queue_s: float = 0.0
    max_payload: int = 0
    edge_speed: float = 1.0
    """The speed of this machine relative to when it is idle."""

    @property
    def has_cloud(self) -> bool:
        """Whether there is somebody to send to."""
        return self.link is not None and self.ready is not None

    def differs(self, other: "Conditions") -> bool:
        """Whether a plan for the other would be another one, as far as that can be told without making it."""
        if self.link is None or other.link is None or self.ready is None or other.ready is None:
            return self.has_cloud != other.has_cloud
        pairs = (
            (self.link.up_bytes_per_s, other.link.up_bytes_per_s, CHANGED_RATE),
            (self.link.down_bytes_per_s, other.link.down_bytes_per_s, CHANGED_RATE),
            (self.load, other.load, CHANGED_LOAD),
            (self.edge_speed, other.edge_speed, CHANGED_LOAD),
        )
        return any(abs(a - b) > share * min(a, b) for a, b, share in pairs)
