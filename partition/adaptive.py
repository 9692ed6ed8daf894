"""Which way to run a network, inference after inference, while predictions turn out wrong and machines change. Pure.

A *way* is a placement with its codecs, and with the chunks in which its boundary leaves. All ways share the factors of
partition.drift: each stage that was measured corrects every way that has the same kinds of work in it. From that follow
the predicted seconds of every way, and how sure it is that one takes less than the one that is running.

steady      the running way is left only for one that is clearly better: by MARGIN, and by SURE standard deviations of
            their difference
exploring   a way is tried where the seconds that what it shows would save in the inferences that are left (the
            knowledge gradient: Frazier, Powell and Dayanik, 2009) are more than what trying costs. What all tries
            cost is bounded (Budget)
guarded     partition.guard compares what the running way really took with what either end really took; it needs no
            prediction to be right
intervals   80 % of totals are to be in them: their width follows how many were (Gibbs and Candès, 2021)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecloud.partition.cost import StageTimes, pipelined
from edgecloud.partition.drift import FIRST_NOISE, TICK_S, Floats, SideFactors, quadratic

IN_ONE_PIECE = " in one piece"  # behind the name of a way: the same, but nothing overlaps
MARGIN = 0.02  # of the running way's seconds
SURE = 1.5  # standard deviations: from there another way is taken for better ...
AGAIN = 3.0  # ... for a better one that was left before, on the same machines: near ties are no swing
FRESH = 0.75  # ... just after a change, when nothing speaks for the running way any more
LIKELY = 0.5  # ... and from there it is tried
HORIZON = 60  # inferences that a try is for, where there is no end
FIRST_TRIES = 3.0  # inferences of the running way that all tries may cost together, at first ...
BUDGET, MOST_TRIES = 0.01, 0.4  # ... and saved up by each further inference, up to that: 2 % of twenty
WORST_TRY = 1.5  # times the running way's seconds: no try is expected to take longer
LINK_SD = 0.1  # of what is predicted of the link, as a logarithm, before it was used
PLAN_SD = 0.02  # of the total of a way, whatever is known of its kinds: no model is exact
LOW_TO_HIGH = 0.8
Z = 1.2816  # of a normal distribution, for that
ADAPTING = 0.05
NUDGE = 0.05  # of a stage, to see whether it is hidden
LEAST_WIDTH, MOST_WIDTH = 0.3, 5.0


@dataclass(frozen=True, eq=False)
class Shares:
    """How the stages of several ways overlap: what of each stage belongs to each chunk of the boundary."""

    of: Floats
    """Shape (chunks, 5, ways): of computing and packing on the edge, sending, unpacking and computing on the cloud.
    Chunks that a way does not have, and ways in which nothing overlaps, have 0 everywhere."""
    by_rows: NDArray[np.bool_]
    """Of every way, whether the cloud computes by rows."""

    def hidden_s(self, stages: Floats, waiting_s: Floats) -> Floats:
        """What is hidden of every way, where its stages take so long, shape (5, ways), and the cloud lets it wait."""
        seconds = self.of * stages
        chunks = [(one[0], one[1], one[2], one[3], one[4]) for one in seconds]
        whole = pipelined(chunks, np.maximum)
        rowwise = pipelined(chunks, np.maximum, waiting_s, is_by_rows=True) - waiting_s  # while other chunks come
        in_turn = seconds.sum(axis=(0, 1))
        last = seconds[:, 4].sum(axis=0)  # of computing that has to wait for the last chunk
        return np.asarray(np.maximum(0.0, in_turn - np.where(self.by_rows, rowwise, whole + last)))

    def seen(self, stages: Floats, waiting_s: Floats) -> Floats:
        """Of one second more of each stage, what the total of every way takes more: 0 where it is hidden, 1 where not.
        Shape (5, ways)."""
        hidden_s, found = self.hidden_s(stages, waiting_s), np.ones_like(stages)
        for number, stage in enumerate(stages):
            longer = stages.copy()
            longer[number] *= 1 + NUDGE
            more = NUDGE * stage
            saved = np.divide(
                self.hidden_s(longer, waiting_s) - hidden_s, more, out=np.zeros_like(stage), where=more > 0
            )
            found[number] = np.clip(1 - saved, 0.0, 1.0)
        return found


@dataclass(frozen=True, eq=False)
class Ways:
    """Predicted seconds of several ways (rows) by kind of work (columns) on either side and on the link.

    `waiting_s` are those of the cloud's queue, which nothing is learnt of.
    """

    edge: Floats
    link: Floats
    cloud: Floats
    waiting_s: Floats
    shares: Shares | None = None
    """How their stages overlap; None: they do not."""

    def __len__(self) -> int:
        return len(self.edge)


@dataclass(frozen=True, eq=False)
class Believed:
    """What is believed of the edge, the link and the cloud."""

    edge: SideFactors
    link: SideFactors
    cloud: SideFactors

    @property
    def sides(self) -> tuple[SideFactors, SideFactors, SideFactors]:
        """All three."""
        return self.edge, self.link, self.cloud

    @property
    def changes(self) -> int:
        """Alarms so far."""
        return sum(side.changes for side in self.sides)

    @property
    def suspicion(self) -> float:
        """How likely it is that one of them has changed, from 0 to 1."""
        return max(side.suspicion for side in self.sides)

    @property
    def suspect(self) -> int:
        """The side that has changed most likely: 0 is the edge, 1 the link, 2 the cloud."""
        return max(range(3), key=lambda side: self.sides[side].suspicion)

    @property
    def if_unchanged(self) -> "Believed":
        """If all that was far off lately was chance."""
        return Believed(*(side.if_unchanged for side in self.sides))

    @property
    def if_changed(self) -> "Believed":
        """If none of that was."""
        return Believed(*(side.if_changed if side.suspicion else side for side in self.sides))

    def later(self, seconds: float) -> "Believed":
        """So many seconds have passed."""
        return Believed(self.edge.later(seconds), self.link.later(seconds), self.cloud.later(seconds))

    def totals(self, ways: Ways) -> "Totals":
        """The seconds of every way."""
        tables = (ways.edge, ways.link, ways.cloud)
        slopes = tuple(side.slopes(table) for side, table in zip(self.sides, tables, strict=True))
        stages = np.column_stack([slope[:, -1] for slope in slopes])
        seconds = stages.sum(axis=1) + ways.waiting_s
        if ways.shares is None:
            return Totals(stages, seconds, slopes, slopes, self)
        edge, link, cloud = slopes
        computing, there = edge[:, :-2].sum(axis=1), cloud[:, :-2].sum(axis=1)
        parts = np.array([computing, edge[:, -2], link[:, 0], cloud[:, -2], there])
        shares, waiting_s = ways.shares, ways.waiting_s
        seen, hidden_s = shares.seen(parts, waiting_s), shares.hidden_s(parts, waiting_s)
        rest = np.ones(len(ways))
        factors = (
            [*[seen[0]] * (edge.shape[1] - 2), seen[1]],
            [seen[2], *[rest] * (link.shape[1] - 2)],
            [*[seen[4]] * (cloud.shape[1] - 2), seen[3]],
        )
        visible = [slope[:, :-1] * np.column_stack(each) for slope, each in zip(slopes, factors, strict=True)]
        of_total = tuple(np.column_stack([each, each.sum(axis=1)]) for each in visible)
        return Totals(stages, seconds - hidden_s, of_total, slopes, self)


@dataclass(frozen=True, eq=False)
class Totals:
    """Seconds of every way as they are believed to be."""

    stages: Floats
    """Of the edge, the link and the cloud."""
    seconds: Floats
    slopes: tuple[Floats, ...]
    """Of the totals, for each logarithm of a factor: what is hidden of a stage is not in them."""
    shown: tuple[Floats, ...]
    """Of the stages, which are measured whether hidden or not."""
    believed: Believed

    def sd_of_difference(self, other: int) -> Floats:
        """Standard deviation of every way's seconds minus those of one of them: what they share cancels out."""
        variance = np.zeros(len(self.seconds))
        for slope, side in zip(self.slopes, self.believed.sides, strict=True):
            variance += quadratic(slope - slope[other], side.estimate.cov)
        return np.asarray(np.sqrt(variance), dtype=np.float64)

    def shown_by(self, running: int) -> Floats:
        """For each way that might run next (rows), how far that would move what the ways (columns) save.

        Standard deviations in seconds, relative to the running way.
        """
        moved = np.zeros((len(self.seconds), len(self.seconds)))
        sides = zip(self.slopes, self.shown, self.believed.sides, strict=True)
        for number, (slope, stage, side) in enumerate(sides):
            stage_s = np.maximum(self.stages[:, number], TICK_S)
            rows = stage / stage_s[:, None]
            known = quadratic(rows, side.estimate.cov)
            shown: Floats = rows @ side.estimate.cov @ (slope - slope[running]).T
            moved += shown**2 / (known + side.noise**2 + (TICK_S / stage_s) ** 2)[:, None]
        return np.asarray(np.sqrt(moved), dtype=np.float64)

    def sd_of_total(self, way: int) -> float:
        """Standard deviation of the logarithm of one measured total: what is not known, and noise."""
        variance = (PLAN_SD * float(self.seconds[way])) ** 2
        for slope, side in zip(self.slopes, self.believed.sides, strict=True):
            row = slope[way]
            variance += float(row @ side.estimate.cov @ row) + (side.noise * float(row[-1])) ** 2
        return math.sqrt(variance) / float(self.seconds[way])


@dataclass(frozen=True)
class Pick:
    """The way of the next inference. `is_try`: to find out, and not because it is the best one known."""

    way: int
    is_try: bool = False


@dataclass(frozen=True)
class Budget:
    """What tries may cost, in inferences of the running way: much at first, later as much as is saved up."""

    tries: float = FIRST_TRIES

    def allows(self, cost: float) -> bool:
        """Whether a try that is expected to cost so much may be made."""
        return cost <= self.tries

    def after(self, lost: float = 0.0) -> "Budget":
        """One more inference, and how much longer it took than the running way would have."""
        return Budget(min(max(MOST_TRIES, self.tries), self.tries + BUDGET) - max(0.0, lost))


def steady(
    totals: Totals, running: int, allowed: Sequence[bool] | None = None, sure: Sequence[float] | None = None
) -> int:
    """The best way if it is surely better than the running one, else that one.

    `sure` says of every way by how many standard deviations it has to be; SURE where nothing is said.
    """
    seconds = totals.seconds if allowed is None else np.where(allowed, totals.seconds, math.inf)
    best = int(np.argmin(seconds))
    saved_s = float(totals.seconds[running] - seconds[best])
    sds = SURE if sure is None else sure[best]
    needed_s = max(MARGIN * float(totals.seconds[running]), sds * float(totals.sd_of_difference(running)[best]))
    return best if saved_s > needed_s else running


def leaning(totals: Totals, running: int, allowed: Sequence[bool], most_s: float = math.inf) -> int | None:
    """A way that is likely to be better, though that is not sure; None where none is.

    To try it is expected to save time, and soon shows whether the running way is to be left.
    """
    seconds = np.where(allowed, totals.seconds, math.inf)
    best = int(np.argmin(seconds))
    saved_s, running_s = float(totals.seconds[running] - seconds[best]), float(totals.seconds[running])
    needed_s = max(2 * MARGIN * running_s, LIKELY * float(totals.sd_of_difference(running)[best]))
    return best if saved_s > needed_s and seconds[best] <= most_s else None


def detour(
    unchanged: Totals, changed: Totals, suspicion: float, running: int, allowed: Sequence[bool], most_s: float
) -> int | None:
    """The way that is to be run meanwhile, where what was seen may be a change and may be a burst; None where none is.

    What it saves if that is a change, and what it costs if it is none, are weighed by how likely that is.
    """
    seconds = np.where(allowed, changed.seconds, math.inf)
    best = int(np.argmin(seconds))
    if best == running or max(seconds[best], unchanged.seconds[best]) > most_s:
        return None
    saved_s = float(changed.seconds[running] - seconds[best])
    cost_s = float(unchanged.seconds[best] - unchanged.seconds[running])
    is_worth_it = suspicion * saved_s > (1 - suspicion) * cost_s and saved_s > MARGIN * changed.seconds[running]
    return best if is_worth_it else None


def improvement(gain_s: Floats, sd_s: Floats) -> Floats:
    """Expected seconds saved by taking what saves `gain_s`, known to `sd_s`, only where it then proves to save any."""
    score = gain_s / np.maximum(sd_s, 1e-12)
    density = np.exp(-0.5 * score**2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (score + 0.044715 * score**3)))  # to 3e-4
    return np.asarray(np.maximum(gain_s * below + sd_s * density, 0.0), dtype=np.float64)


def worth_trying(totals: Totals, running: int, left: int, budget: Budget, most_s: float = math.inf) -> int | None:
    """The way that is most worth a try in the next of so many inferences that are left; None where none is.

    None that is expected to take longer than `most_s` is tried.

    What a try of one way would save is what the best of all ways would, once it is known what the try shows.
    """
    running_s = float(totals.seconds[running])
    gain_s = running_s - totals.seconds
    if improvement(gain_s, totals.sd_of_difference(running)).max() < MARGIN / 4 * running_s:
        return None  # whatever a try shows, it saves nothing
    saved = improvement(gain_s[None, :], totals.shown_by(running)).max(axis=1)
    more = saved - saved[running]  # to run what is running shows something too, and costs nothing
    value = min(left - 1, HORIZON) * more + np.minimum(gain_s, 0.0)
    value[running] = -math.inf
    value[more < MARGIN / 4 * running_s] = -math.inf
    value[totals.seconds > min(WORST_TRY * running_s, most_s)] = -math.inf
    best = int(np.argmax(value))
    if value[best] <= 0 or not budget.allows(-float(gain_s[best]) / running_s):
        return None
    return best


@dataclass(frozen=True)
class Width:
    """How wide intervals have to be, relative to the standard deviation that is believed."""

    times: float = 1.0

    def after(self, score: float) -> "Width":
        """A total was so many believed standard deviations off (of its logarithm)."""
        is_outside = abs(score) > Z * self.times
        step = LOW_TO_HIGH if is_outside else LOW_TO_HIGH - 1
        return Width(min(MOST_WIDTH, max(LEAST_WIDTH, self.times * math.exp(ADAPTING * step))))

    def around(self, seconds: float, sd: float) -> tuple[float, float]:
        """Low and high of an 80 % interval."""
        factor = math.exp(Z * self.times * sd)
        return seconds / factor, seconds * factor


def first_interval(predicted: StageTimes, edge_sd: float, cloud_sd: float) -> tuple[float, float]:
    """The same before anything was measured: by how much, as logarithms, the seconds of either side may be wrong."""
    sides = (
        (predicted.edge_s + predicted.encode_s, edge_sd),
        (predicted.transfer_s + predicted.queue_s, LINK_SD),
        (predicted.cloud_s + predicted.decode_s, cloud_sd),
    )
    total_s = max(predicted.total_s, TICK_S)
    variance = sum(seconds**2 * (sd**2 + FIRST_NOISE**2) for seconds, sd in sides) + TICK_S**2
    return Width().around(predicted.total_s, math.sqrt(variance) / total_s)
