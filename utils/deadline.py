"""One time budget for several steps."""

import time
from dataclasses import dataclass

from edgecloud.utils.errors import DeadlineError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on this host's monotonic clock. `what` is named when it passes."""

    at: float
    what: str

    @classmethod
    def after(cls, seconds: float, what: str) -> "Deadline":
        """The moment `seconds` from now."""
        return cls(time.monotonic() + seconds, what)

    def remaining(self) -> float:
        """Seconds left. Raises DeadlineError when there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.passed()
        return left

    def passed(self) -> DeadlineError:
        """The error that says so."""
        return DeadlineError(f"timed out: {self.what}")
