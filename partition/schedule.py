"""Cuts and order for a closed queue of tasks, so that the last one ends early. Pure.

A task passes EDGE (its head), LINK (its boundary) and CLOUD (its tail), each of which serves one task at a time, and
all three in the same order of tasks: a permutation flow shop with three machines. Every task has options, the points
of its network, so cuts and order are chosen together. JPS (Duan & Wu, ICPP 2021) does that for an edge and a link:
Johnson's rule (Johnson, 1954) orders the tasks, and two neighbouring cuts mixed are enough for identical networks.

Here a linear program mixes the cuts over all three stages and bounds the makespan from below, Johnson's rule orders
the rounded mix, and iterated greedy (Ruiz & Stützle, EJOR 2007) repairs what rounding lost. All times are seconds.

Where edge and cloud are one machine, their stages overlap only as far as there are cores for both (`Sharing`): all of
their work together takes at least its core-seconds divided by the cores.

A delay moves the end of its own task only. A round trip really comes before the tail, but where it is the same for all
tasks it moves all tails alike, and the makespan is the same.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecloud.partition.throughput import Stages

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)
Ints = NDArray[np.intp]

# Times that differ by less than this, relatively, differ by rounding only.
_ROUNDING = 1e-9
# A makespan this near to the bound is not worth a search: of few jobs, and of many, where the search takes as long as a
# task and predictions are not better than that.
_NEAR, _NEAR_OF_MANY, _MANY = 1e-4, 5e-3, 16
# The search ends after this many kicks without a better makespan, or after this much work; a unit is about a
# microsecond, counted and not measured, so that the same input gives the same schedule on every machine.
_KICKS = 100
_WORK = 100_000
# Jobs that a kick takes out.
_KICKED = 4


@dataclass(frozen=True, slots=True)
class Job:
    """A task: the stages of each of its options. Raises ValueError without options, and for seconds that are none."""

    options: tuple[Stages, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("a job needs at least one option")
        for option in self.options:
            least_s = min(option.edge_s, option.link_s, option.cloud_s, option.delay_s)
            if not (least_s >= 0 and math.isfinite(option.total_s)):
                raise ValueError(f"seconds must be finite and at least 0: {option}")


@dataclass(frozen=True)
class Sharing:
    """A machine that is both edge and cloud: its cores, and how many of them a second of each stage occupies.

    Raises ValueError for a machine without cores and for a stage that occupies less than nothing.
    """

    cores: float
    edge: float = 1.0
    cloud: float = 1.0

    def __post_init__(self) -> None:
        if not (self.cores > 0 and self.edge >= 0 and self.cloud >= 0):
            raise ValueError(f"not a number of cores: {self}")

    def occupied_s(self, edge_s: Number, cloud_s: Number) -> Number:
        """Seconds of the whole machine that a task's stages take; a stage takes no more than all of it."""
        return min(self.edge / self.cores, 1.0) * edge_s + min(self.cloud / self.cores, 1.0) * cloud_s


APART = Sharing(math.inf)
"""Edge and cloud are two machines."""


@dataclass(frozen=True)
class Schedule:
    """What to run, and when it is predicted to end.

    `order` holds job numbers in the order in which they start, `chosen` the option number of each job, by job number.
    `makespan_s` is the predicted end of the last job; no choice of options and no order makes it less than `bound_s`.
    """

    order: tuple[int, ...]
    chosen: tuple[int, ...]
    makespan_s: float
    bound_s: float


@dataclass(frozen=True)
class _Kind:
    """Identical jobs, by number, and the options worth choosing.

    `seconds` has a row for each option, whose number in the job is in `options`, and a column for each of the four
    times; `leaves` says which of them leave the edge.
    """

    jobs: tuple[int, ...]
    options: tuple[int, ...]
    seconds: Floats
    leaves: NDArray[np.bool_]
    rows: tuple[Stages, ...]


@dataclass(frozen=True)
class _State:
    """A schedule in the search: its makespan, the order of the jobs, and the row of its kind that each job takes."""

    makespan_s: float
    order: list[int]
    rows: list[int]


def makespan(stages: Sequence[Stages]) -> float:
    """Seconds until the last of these tasks, in the order in which they start, has its answer; 0 for none.

    The recursion of a permutation flow shop. A task with nothing to upload or to compute waits for its turn there all
    the same, which changes the makespan only where it has a delay.
    """
    edge = link = cloud = end = 0.0
    for task in stages:
        edge += task.edge_s
        link = max(edge, link) + task.link_s
        cloud = max(link, cloud) + task.cloud_s
        end = max(end, cloud + task.delay_s)
    return end


def johnson(stages: Sequence[Stages]) -> tuple[int, ...]:
    """Numbers of tasks with fixed options, in the order in which to start them.

    Johnson's rule (1954) on several pairs of imaginary machines; the least makespan wins, the first of equal ones.
    Exact for edge and link alone, and without delays also where no link time is longer than the least edge time or
    none longer than the least cloud time (his special case); else a heuristic, CDS (Campbell, Dudek & Smith, 1970).
    Where delays are longer than all else, those with the longest should start first (Jackson's rule, 1955).
    """
    pairs = (
        [(task.edge_s, task.link_s) for task in stages],
        [(task.edge_s, task.cloud_s) for task in stages],
        [(task.edge_s + task.link_s, task.link_s + task.cloud_s) for task in stages],
        [(task.edge_s + task.link_s, task.link_s + task.cloud_s + task.delay_s) for task in stages],
    )
    longest_delay_first = tuple(sorted(range(len(stages)), key=lambda number: -stages[number].delay_s))
    orders = dict.fromkeys([*(_two_machines(pair) for pair in pairs), longest_delay_first])
    return min(orders, key=lambda order: makespan([stages[number] for number in order]))


def _two_machines(times: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Johnson's rule: those shorter on the first machine by rising first time, then the others by falling second."""

    def turn(number: int) -> tuple[bool, float]:
        first, second = times[number]
        return (False, first) if first <= second else (True, -second)

    return tuple(sorted(range(len(times)), key=turn))


def occupied_s(stages: Sequence[Stages], sharing: Sharing) -> float:
    """Seconds that a shared machine needs at least for these tasks, however they overlap; 0 for two machines."""
    if sharing == APART:
        return 0.0
    return sum((sharing.occupied_s(task.edge_s, task.cloud_s) for task in stages), 0.0)


def lower_bound(jobs: Sequence[Job], sharing: Sharing = APART) -> float:
    """Seconds that no choice of options and no order of the jobs can beat; 0 for no jobs.

    About as tight as the jobs are many: what it leaves out is what the first and the last few of them wait. Raises
    ArithmeticError where the solver fails.
    """
    return _relax(_kinds(jobs), sharing)[0]


def plan(jobs: Sequence[Job], groups: Sequence[int] | None = None, sharing: Sharing = APART) -> Schedule:
    """Choose an option for every job and an order, so that the last job ends early.

    `groups` has a number for each job: jobs with a higher one start before all with a lower one. Options are chosen
    for all groups together; `bound_s` takes no account of groups. The same input gives the same schedule. Raises
    ValueError unless there is one group number for each job, and ArithmeticError where the solver fails.
    """
    turns = [0] * len(jobs) if groups is None else [-group for group in groups]
    if len(turns) != len(jobs):
        raise ValueError(f"{len(jobs)} jobs, but {len(turns)} group numbers")
    kinds = _kinds(jobs)
    bound_s, shares = _relax(kinds, sharing)
    search = _Search(kinds, turns, sharing)
    best = search.run([_rounded(kinds, shares), *_simple(kinds)], bound_s)
    chosen = tuple(kind.options[row] for kind, row in zip(search.kinds, best.rows, strict=True))
    makespan_s = search.length_s([jobs[number].options[chosen[number]] for number in best.order])
    return Schedule(tuple(best.order), chosen, makespan_s, min(bound_s, makespan_s))


def _kinds(jobs: Sequence[Job]) -> list[_Kind]:
    """Identical jobs together. Options go that take longer alone than all jobs do one after the other."""
    members: dict[tuple[Stages, ...], list[int]] = {}
    for number, job in enumerate(jobs):
        members.setdefault(job.options, []).append(number)
    in_turn_s = sum(len(same) * min(o.total_s for o in options) for options, same in members.items())
    return [_kind(options, same, in_turn_s * (1 + _ROUNDING)) for options, same in members.items()]


def _kind(options: Sequence[Stages], jobs: Sequence[int], longest_s: float) -> _Kind:
    seconds = np.array([(o.edge_s, o.link_s, o.cloud_s, o.delay_s) for o in options])
    indices = np.flatnonzero(seconds.sum(axis=1) <= longest_s)
    indices = indices[_front(seconds[indices])]
    leaves: NDArray[np.bool_] = seconds[indices, 1:].sum(axis=1) > 0
    numbers = indices.tolist()
    return _Kind(tuple(jobs), tuple(numbers), seconds[indices], leaves, tuple(options[number] for number in numbers))


def _front(seconds: Floats) -> Ints:
    """Rows that no other row equals or undercuts in every column: the Pareto front, with the first of equal rows."""
    no_worse = (seconds[:, None] <= seconds).all(axis=2)
    earlier = np.triu(np.ones_like(no_worse), 1)
    return np.flatnonzero(~(no_worse & (earlier | ~no_worse.T)).any(axis=0))


def _relax(kinds: Sequence[_Kind], sharing: Sharing) -> tuple[float, list[Floats]]:
    """A lower bound, and for each kind how many of its jobs take each row in the relaxation (fractions too).

    Either no job leaves the edge, or one is the first to leave it and one the last, which `_leaving` makes use of.
    """
    if not kinds:
        return 0.0, []
    stay_s, stay = _staying(kinds)
    leave_s, leave = _leaving(kinds, sharing) if any(kind.leaves.any() for kind in kinds) else (math.inf, stay)
    least_s = max(float(kind.seconds.sum(axis=1).min()) for kind in kinds)
    return max(least_s, min(stay_s, leave_s)) * (1 - _ROUNDING), leave if leave_s < stay_s else stay


def _staying(kinds: Sequence[_Kind]) -> tuple[float, list[Floats]]:
    """The makespan with every job on the edge, infinite where one cannot stay there. Returns what `_relax` does."""
    stay_s = sum(len(kind.jobs) * float(kind.seconds[~kind.leaves, 0].min(initial=math.inf)) for kind in kinds)
    return stay_s, [np.where(kind.leaves, 0.0, float(len(kind.jobs))) for kind in kinds]


def _leaving(kinds: Sequence[_Kind], sharing: Sharing) -> tuple[float, list[Floats]]:
    """The linear program for schedules in which a job leaves the edge. Returns what `_relax` does.

    Unknowns: x, how many jobs of a kind take a row; f and w, which row of which kind the first and the last job have
    that leave the edge (f <= x, w <= x, each adds up to 1); T, the makespan. No upload begins before the head of the
    first leaver is over, and none ends after the tail of the last one begins, and so on, hence

        T >= sum edge                          T >= sum edge of those that leave + (link + cloud + delay) of w
        T >= edge of f + sum link + (cloud + delay) of w
        T >= (edge + link) of f + sum cloud + delay of w
        T >= mean total of the jobs of a kind, for each kind
        T >= mean of (edge + link + cloud - m) of the jobs of a kind + sum m, m = min(edge, cloud), for each kind
        T >= sum (cores that edge and cloud occupy, times their seconds) / cores of the machine that they share

    the last but one because every other job adds its head before a job or its tail after it (McMahon & Burton, 1967).
    The bound is that of weak duality: any multipliers give one, so no tolerance of the solver can make it false.
    """
    from scipy.optimize import linprog  # for those who need it, as below

    seconds = np.vstack([kind.seconds for kind in kinds])
    owner = np.repeat(np.arange(len(kinds)), [len(kind.seconds) for kind in kinds])
    counts = np.array([len(kind.jobs) for kind in kinds], dtype=float)
    leaves = np.flatnonzero(np.concatenate([kind.leaves for kind in kinds]))
    scale_s = max(float(kind.seconds.sum(axis=1).min()) for kind in kinds) or 1.0
    rows, sums = _program(seconds / scale_s, owner, counts, leaves, sharing)
    objective = np.zeros(rows.shape[1])
    objective[-1] = 1.0
    solution = linprog(objective, rows, np.zeros(rows.shape[0]), sums, np.concatenate([counts, [1.0, 1.0]]))
    if not solution.success:
        raise ArithmeticError(f"no lower bound: {solution.message}")
    prices = np.maximum(-solution.ineqlin.marginals, 0.0)
    prices /= prices[: 5 + 2 * len(kinds)].sum()  # so that T has no price of its own
    costs = (prices @ rows)[:-1]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    least = np.minimum.reduceat(costs, [*starts, len(seconds), len(seconds) + len(leaves)])
    bound_s = float(least @ np.concatenate([counts, [1.0, 1.0]])) * scale_s
    return bound_s, np.split(np.maximum(solution.x[: len(seconds)], 0.0), starts[1:])


def _program(
    seconds: Floats, owner: Ints, counts: Floats, leaves: Ints, sharing: Sharing
) -> "tuple[csr_array, csr_array]":
    """Left sides of `_leaving`: inequalities, which are at most 0, those with T first, and equations.

    The columns are x, f, w and T.
    """
    from scipy.sparse import csr_array, vstack

    edge_s, link_s, cloud_s, delay_s = seconds.T
    options, width = np.arange(len(seconds)), len(seconds) + 2 * len(leaves) + 1
    ends = np.arange(len(seconds), width - 1)
    first, last = np.split(ends, 2)
    shorter_s = np.minimum(edge_s, cloud_s)
    times = np.zeros((5 + 2 * len(counts), width))
    times[0, options] = edge_s
    times[1, leaves], times[1, last] = edge_s[leaves], (link_s + cloud_s + delay_s)[leaves]
    times[2, options], times[2, first], times[2, last] = link_s, edge_s[leaves], (cloud_s + delay_s)[leaves]
    times[3, options], times[3, first], times[3, last] = cloud_s, (edge_s + link_s)[leaves], delay_s[leaves]
    times[4 + owner, options] = seconds.sum(axis=1) / counts[owner]
    times[4 + len(counts) : -1, options] = shorter_s
    times[4 + len(counts) + owner, options] += (edge_s + link_s + cloud_s - shorter_s) / counts[owner]
    times[-1, options] = sharing.occupied_s(edge_s, cloud_s)
    times[:, -1] = -1.0
    columns = np.concatenate([ends, np.tile(leaves, 2)])
    chosen = csr_array(
        (np.repeat([1.0, -1.0], len(ends)), (np.tile(np.arange(len(ends)), 2), columns)), shape=(len(ends), width)
    )
    sums = np.zeros((len(counts) + 2, width))
    sums[owner, options] = sums[-2, first] = sums[-1, last] = 1.0
    return vstack([csr_array(times), chosen], format="csr"), csr_array(sums)


def _rounded(kinds: Sequence[_Kind], shares: Sequence[Floats]) -> list[int]:
    """A row for each job: the whole parts of the shares, and what is left goes to the largest fractions."""
    rows: dict[int, int] = {}
    for kind, share in zip(kinds, shares, strict=True):
        counts = np.floor(share + 1e-6).astype(int)
        left = len(kind.jobs) - counts.sum()
        counts[np.argsort(counts - share, kind="stable")[:left]] += 1
        rows.update(zip(kind.jobs, np.repeat(np.arange(len(counts)), counts).tolist(), strict=True))
    return [rows[number] for number in range(len(rows))]


def _simple(kinds: Sequence[_Kind]) -> list[list[int]]:
    """Other rows to start from: the least latency for every job, and the minimum bottleneck stage."""
    latency = {job: int(kind.seconds.sum(axis=1).argmin()) for kind in kinds for job in kind.jobs}
    longest = {job: int(kind.seconds[:, :3].max(axis=1).argmin()) for kind in kinds for job in kind.jobs}
    return [[rows[number] for number in range(len(rows))] for rows in (latency, longest)]


class _Search:
    """Iterated greedy: take jobs out of the order and put each back with the option and at the place that is best.

    `turns` has a number for each job; jobs with a lower one start first. The search counts its work as it goes.
    """

    def __init__(self, kinds: Sequence[_Kind], turns: Sequence[int], sharing: Sharing) -> None:
        by_job = {job: kind for kind in kinds for job in kind.jobs}
        self.kinds = [by_job[number] for number in range(len(turns))]
        self._turns, self._sharing = turns, sharing
        self._work = 0.0

    def length_s(self, stages: Sequence[Stages]) -> float:
        """The makespan of an order, at least what a shared machine needs for all of it."""
        return max(makespan(stages), occupied_s(stages, self._sharing))

    def run(self, starts: Sequence[list[int]], bound_s: float) -> _State:
        """The best schedule found from the rows of some starts; stops early near the bound."""
        different = [list(rows) for rows in dict.fromkeys(map(tuple, starts))]
        # The most promising first, for with many jobs there may be no work left for the others.
        states = sorted(map(self._ordered, different), key=lambda state: state.makespan_s)
        near_s = bound_s * (1 + (_NEAR if len(self.kinds) < _MANY else _NEAR_OF_MANY))
        best = self._descend(states[0], near_s)
        for other in states[1:]:
            if best.makespan_s > near_s:
                best = min(best, self._descend(other, near_s), key=lambda state: state.makespan_s)
        # A seed of its own keeps the search deterministic; nothing here is a secret.
        rng, state, kicks = random.Random(0), best, 0
        while best.makespan_s > near_s and kicks < _KICKS and self._work < _WORK:
            kicks += 1
            candidate = self._descend(self._kick(state, rng), near_s)
            if candidate.makespan_s < best.makespan_s * (1 - _ROUNDING):
                best, kicks = candidate, 0
            if candidate.makespan_s <= state.makespan_s * (1 + _ROUNDING):
                state = candidate
        return best

    def _ordered(self, rows: list[int]) -> _State:
        """Johnson's order of every group, one group after the other."""
        order: list[int] = []
        for turn in sorted(set(self._turns)):
            group = [number for number, its in enumerate(self._turns) if its == turn]
            order += [group[place] for place in johnson(self._stages(group, rows))]
        return _State(self.length_s(self._stages(order, rows)), order, rows)

    def _stages(self, order: Sequence[int], rows: Sequence[int]) -> list[Stages]:
        return [self.kinds[number].rows[rows[number]] for number in order]

    def _descend(self, state: _State, near_s: float) -> _State:
        """Move one job at a time, its option and its place, while that helps and the bound is not near."""
        stuck = False
        while not stuck and state.makespan_s > near_s:
            stuck = True
            for job in self._critical(state):
                if self._work >= _WORK:
                    break
                candidate = self._put(state.rows, [other for other in state.order if other != job], job)
                if candidate.makespan_s < state.makespan_s * (1 - _ROUNDING):
                    state, stuck = candidate, False
                    break
        return state

    def _critical(self, state: _State) -> list[int]:
        """Jobs without which the others would end earlier, earliest first; moving any other job cannot help."""
        stages = self._stages(state.order, state.rows)
        heads, tails = _heads(stages)[:, :-1], _tails(stages)[:, 1:]
        others = np.maximum((heads[:3] + tails).max(axis=0, initial=0.0), heads[3])
        occupied = np.array([self._sharing.occupied_s(task.edge_s, task.cloud_s) for task in stages])
        others = np.maximum(others, occupied.sum() - occupied)
        self._work += 40 + 2 * len(stages)
        kinds = [(id(self.kinds[job]), state.rows[job], self._turns[job]) for job in state.order]
        return [
            state.order[place]
            for place in others.argsort(kind="stable").tolist()
            if others[place] < state.makespan_s * (1 - _ROUNDING)
            # Of neighbours that are alike, moving one is moving any.
            and (place == 0 or kinds[place] != kinds[place - 1])
        ]

    def _kick(self, state: _State, rng: random.Random) -> _State:
        """Take out a few jobs and put them back one by one, every other time the first of them at random."""
        jobs = rng.sample(state.order, min(len(state.order), _KICKED))
        rest = [job for job in state.order if job not in jobs]
        if rng.random() < 0.5:
            job = jobs.pop(0)
            place, row = rng.randint(*self._places(rest, job)), rng.randrange(len(self.kinds[job].rows))
            rest, rows = _with(rest, state.rows, job, place, row)
            state = _State(self.length_s(self._stages(rest, rows)), rest, rows)
        for job in jobs:
            state = self._put(state.rows, rest, job)
            rest = state.order
        return state

    def _places(self, rest: list[int], job: int) -> tuple[int, int]:
        """The first and the last place among others that the groups allow."""
        turn, turn_of = self._turns[job], self._turns.__getitem__
        return bisect_left(rest, turn, key=turn_of), bisect_right(rest, turn, key=turn_of)

    def _put(self, rows: list[int], rest: list[int], job: int) -> _State:
        """`rest` with a job added where and how the makespan is least, of equal ones at the first place."""
        low, high = self._places(rest, job)
        stages = self._stages(rest, rows)
        heads, tails = _heads(stages)[:, low : high + 1, None], _tails(stages)[:, low : high + 1, None]
        edge_s, link_s, cloud_s, delay_s = self.kinds[job].seconds.T
        edge = heads[0] + edge_s
        link = np.maximum(edge, heads[1]) + link_s
        cloud = np.maximum(link, heads[2]) + cloud_s
        ends = np.maximum(np.maximum(edge + tails[0], link + tails[1]), cloud + np.maximum(tails[2], delay_s))
        ends = np.maximum(ends, heads[3])
        ends = np.maximum(ends, occupied_s(stages, self._sharing) + self._sharing.occupied_s(edge_s, cloud_s))
        self._work += 40 + 2 * len(rest) + 0.02 * ends.size
        place, row = divmod(int(ends.argmin()), ends.shape[1])
        return _State(float(ends[place, row]), *_with(rest, rows, job, low + place, row))


def _with(order: list[int], rows: list[int], job: int, place: int, row: int) -> tuple[list[int], list[int]]:
    """An order with a job added at a place, and the rows with its row changed."""
    return [*order[:place], job, *order[place:]], [*rows[:job], row, *rows[job + 1 :]]


def _heads(stages: Sequence[Stages]) -> Floats:
    """For every place between tasks: when edge, link and cloud are done with those before it, and their latest end.

    With `_tails`, Taillard's way (EJOR 1990) to try all places for one more task without starting over for each.
    """
    edge = link = cloud = end = 0.0
    heads = [(edge, link, cloud, end)]
    for task in stages:
        edge += task.edge_s
        link = max(edge, link) + task.link_s
        cloud = max(link, cloud) + task.cloud_s
        end = max(end, cloud + task.delay_s)
        heads.append((edge, link, cloud, end))
    return np.array(heads).T


def _tails(stages: Sequence[Stages]) -> Floats:
    """For every place: seconds until the last end once edge, link or cloud may begin with the tasks after it."""
    edge = link = cloud = 0.0
    tails = [(edge, link, cloud)]
    for task in reversed(stages):
        cloud = task.cloud_s + max(cloud, task.delay_s)
        link = task.link_s + max(link, cloud)
        edge = task.edge_s + max(edge, link)
        tails.append((edge, link, cloud))
    return np.array(tails[::-1]).T
