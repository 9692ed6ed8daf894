"""How far a network is that an edge sends to its cloud. Pure."""

from dataclasses import dataclass

from edgecloud.utils.units import format_seconds


@dataclass(frozen=True)
class Progress:
    """How far a network is."""

    model: str
    bytes: int = 0
    have: int = 0
    """Of them on the cloud, or never needed ..."""
    sent: int = 0
    """... and what this process has sent."""
    seconds: float = 0.0
    """Since the first piece left."""
    state: str = "preparing"
    """`preparing`, `sending`, `starting` (there), `ready` or `refused`."""
    why: str = ""

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest may take; None where that cannot be told."""
        if not self.sent or not self.seconds:
            return None
        return (self.bytes - self.have) * self.seconds / self.sent

    def text(self) -> str:
        """For people."""
        if self.state == "refused":
            return f"the cloud does not take {self.model}: {self.why}"
        if self.state != "sending":
            return f"{self.model} is being {_DOING.get(self.state, self.state)}"
        share = 100 * self.have // max(1, self.bytes)
        left = "" if self.left_s is None else f", {format_seconds(self.left_s)} left"
        return f"{self.model} is being sent to the cloud: {share} % of {self.bytes / 1e6:.3g} MB{left}"


_DOING = {"preparing": "made ready to be sent", "starting": "checked and measured by the cloud", "ready": "served"}
