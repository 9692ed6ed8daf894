"""The load budget of a source: seconds that are restored over time. Pure: the caller passes the time."""

from dataclasses import dataclass, field

WINDOW_S = 3600.0
MAX_SOURCES = 4096


@dataclass
class LoadBudget:
    """Each source may cause `seconds_each` of loading in an hour. Not for two threads at once."""

    seconds_each: float
    _spent: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By source, the seconds that are not forgiven yet, and the moment of that."""

    def wait_s(self, source: str | None, now: float) -> float:
        """Seconds until this source may cause a load again, 0 for now; `source` is None for one that is exempt."""
        over = self._debt_s(source, now) - self.seconds_each
        return 0.0 if source is None or over < 0 else max(1.0, over * WINDOW_S / max(self.seconds_each, 1e-9))

    def spend(self, source: str | None, seconds: float, now: float) -> None:
        """A load that this source caused has taken so long."""
        if source is None:
            return
        if source not in self._spent and len(self._spent) >= MAX_SOURCES:
            del self._spent[min(self._spent, key=lambda one: self._debt_s(one, now))]
        self._spent[source] = (self._debt_s(source, now) + seconds, now)

    def _debt_s(self, source: str | None, now: float) -> float:
        spent, at = self._spent.get(source or "", (0.0, now))
        return max(0.0, spent - (now - at) * self.seconds_each / WINDOW_S)
