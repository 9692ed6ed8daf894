"""Which of several back-ends runs a segment soonest, found out while it runs. Pure.

One back-end, the base, is what the segment runs with as long as nothing is known. Others, the rivals, take a turn now
and then, each right after a run of the base: what is compared is the ratio of the two, so a machine that drifts
deceives nobody. A turn is two runs, of which the second counts: the first finds the caches full of the base's weights.
It may only cost what the budget still has: LOSS of the seconds that the segment has run for. A rival that is better
costs nothing, so it is found soon; one that is much worse is left after a few turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

WORTH = 0.98
"""Another back-end than the base is only taken where it needs less than this share of its time."""
LOSS = 0.02
"""Of the seconds of a segment, that trying others may cost."""
ENOUGH = 5
"""Turns of a rival after which it is decided ..."""
FEW, CLEAR = 2, 1.25
"""... or this many, where in each it took so many times as long."""
GUESS = 1.5
"""What a rival of which nothing is known is expected to take, beside the base."""
RUNS = 2
"""Of one turn ..."""
HOPELESS = 2.5
"""... of which the first is enough where it took so many times as long: no cache makes that good."""
BASE_RUNS = 3
"""Of which the middle one is what the base takes lately."""


@dataclass(frozen=True)
class Contest:
    """One segment. Ratios are seconds of a rival beside those of the base; durations are seconds."""

    base: str
    rivals: tuple[str, ...]
    guesses: Mapping[str, float] = field(default_factory=dict)
    """Ratios that are expected, before anything was run."""
    ratios: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    base_s: tuple[float, ...] = ()
    spent_s: float = 0.0
    lost_s: float = 0.0
    is_rivals_turn: bool = False
    """Whether the base ran last."""
    begun: str = ""
    """The rival of whose turn the first run is done."""

    def ratio(self, rival: str) -> float:
        """As far as it is known."""
        found = self.ratios.get(rival, ())
        return median(found) if found else self.guesses.get(rival, GUESS)

    @property
    def typical_s(self) -> float:
        """Of the base, lately; 0 before it has run."""
        return median(self.base_s) if self.base_s else 0.0

    @property
    def open(self) -> tuple[str, ...]:
        """Rivals of which too little is known, the one with the fewest turns first."""
        rest = [rival for rival in self.rivals if not self._is_known(rival)]
        return tuple(sorted(rest, key=lambda rival: len(self.ratios.get(rival, ()))))

    def _is_known(self, rival: str) -> bool:
        found = self.ratios.get(rival, ())
        return len(found) >= ENOUGH or (len(found) >= FEW and min(found) > CLEAR)

    @property
    def winner(self) -> str:
        """What has proved better than the base, by the middle of its turns; else the base."""
        proved = [rival for rival in self.rivals if self._is_known(rival) and self.ratio(rival) < WORTH]
        return min(proved, key=self.ratio, default=self.base)

    def next(self, setup_s: Mapping[str, float]) -> str:
        """What is to run now. `setup_s` is what a rival costs before its turn, where that is more than nothing."""
        waiting = self.open
        if not waiting:
            return self.winner
        if self.begun in waiting:
            return self.begun
        if not self.is_rivals_turn:
            return self.base
        rival = waiting[0]
        cost_s = setup_s.get(rival, 0.0) + RUNS * max(0.0, self.ratio(rival) - 1) * self.typical_s
        return rival if self.lost_s + cost_s <= LOSS * self.spent_s else self.base

    def ran(self, name: str, seconds: float) -> "Contest":
        """A back-end has run the segment, not for the first time. What is decided stays so."""
        if not self.open:
            return self
        spent_s = self.spent_s + seconds
        if name == self.base:
            latest = (*self.base_s, seconds)[-BASE_RUNS:]
            return replace(self, base_s=latest, spent_s=spent_s, is_rivals_turn=True)
        after = replace(self, spent_s=spent_s, lost_s=self.lost_s + max(0.0, seconds - self.typical_s))
        if not self.base_s:
            return replace(after, begun=name)
        ratio = seconds / self.base_s[-1]  # the one just before, as fast or slow as the machine is now
        if self.begun != name and ratio < HOPELESS:
            return replace(after, begun=name)
        found = (*self.ratios.get(name, ()), ratio)
        return replace(after, ratios={**self.ratios, name: found}, is_rivals_turn=False, begun="")

    def paid(self, seconds: float) -> "Contest":
        """So much was lost besides: a rival was made ready, or ran for the first time."""
        return replace(self, lost_s=self.lost_s + max(0.0, seconds), spent_s=self.spent_s + max(0.0, seconds))

    def without(self, rival: str) -> "Contest":
        """A rival that cannot run this segment."""
        return replace(self, rivals=tuple(each for each in self.rivals if each != rival), begun="")

    def seconds(self) -> dict[str, float]:
        """What every one of them takes, as far as it was measured."""
        if not self.base_s:
            return {}
        known = {rival: self.typical_s * self.ratio(rival) for rival in self.rivals if self.ratios.get(rival)}
        return {self.base: self.typical_s} | known
