"""Several back-ends as one: each segment is run by the one that is fastest for it on this machine. No torch.

What is known is kept on disk (predictor.compared). Where nothing is, it is measured: the whole network, by turns, in a
second or two, when its profile is measured anyway; and where that says little about a segment, the segment itself,
while it is used, at a cost of at most 2 % of its time (engine.contest). A back-end that cannot run the network, or a
segment, is left out, and that is said.
"""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from statistics import median

from edgecloud.engine.by_rows import HeadStream, TailStream
from edgecloud.engine.contest import WORTH, Contest
from edgecloud.engine.cpu_share import CpuShare, Until
from edgecloud.engine.executor import AUTO, SEGMENTS_KEPT, Executor, Ran, Segment, make_executor
from edgecloud.models.graph import LayerGraph
from edgecloud.models.network import Network
from edgecloud.models.rows import Piece, RowOps, RowPlan
from edgecloud.net.tensors import Array
from edgecloud.predictor import compared, segments, store
from edgecloud.predictor.compared import Compared, ComparedKey, Table
from edgecloud.predictor.profile import Machine, Profile, ProfileKey, Progress
from edgecloud.predictor.reference import has_fine_work_clock
from edgecloud.utils.cpu_limit import cpu_limit
from edgecloud.utils.errors import AppError
from edgecloud.utils.inference_utils import CPU, Clock, processor_name, threads_in_force, work_clock
from edgecloud.utils.units import format_seconds

log = logging.getLogger(__name__)

CLOSE = 1.5
"""Back-ends that need no more than so many times the best one's seconds for the whole network may be better for a part
of it: their heads and tails are measured as well."""
NEAR = 1.25
"""A segment is run by turns where its times, told from profiles, are no further apart than that."""
HEAVY_WORTH = 0.9
"""As contest.WORTH, of what takes seconds to load, by times that are told from profiles."""
ROUNDS, LEAST_ROUNDS, ROUNDS_S, REST_S = 7, 2, 1.5, 0.05
SETUP_S = 0.3
"""Of making a segment that was not made before, about, until that is known."""


@dataclass(frozen=True)
class Candidate:
    """A back-end, and the network as it takes it."""

    backend: str
    network: Network
    version: str
    """With the options that times depend on."""
    is_heavy: bool = False
    """Whether it takes long to make: it is not made for a trial while inferences run."""


@dataclass(frozen=True)
class Choice:
    """A back-end by name, and why it was taken."""

    backend: str
    why: str


@dataclass(frozen=True)
class AutoSegment:
    """Some layers, whatever runs them."""

    owner: "AutoExecutor"
    layers: frozenset[int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def runs(self) -> int:
        """How often it has run, with the back-end that runs it now."""
        return self.owner.best_segment(self.layers).runs

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it with what is best for it, as far as that is known."""
        return self.owner.best_segment(self.layers)(arrays)


class AutoExecutor:
    """An `engine.executor.Executor` that has several, on the processor. One thread at a time computes."""

    def __init__(
        self,
        graph: LayerGraph,
        candidates: Sequence[Candidate],
        share: CpuShare | None,
        cache_dir: Path,
        *,
        is_behind: bool = False,
    ) -> None:
        """The first of the candidates is used where nothing is known of any. Nothing is made yet."""
        self._graph, self._share, self._folder, self._is_behind = graph, share, cache_dir, is_behind
        self._candidates = {each.backend: each for each in candidates}
        self._members: dict[str, Executor] = {}
        self._out: set[str] = set()
        self._is_limited, self._clock = False, "wall" if share is None else "work"
        self._lead_name = ""
        self._known: Table = {}
        self._known_of: tuple[int, str] | None = None
        """For which threads and clock that is."""
        self._settled: dict[frozenset[int], str] = {}
        """Of segments of which nothing is open the back-end, until anything changes."""
        self._contests: OrderedDict[frozenset[int], Contest] = OrderedDict()
        self._setup_s: dict[str, float] = {}

    # --- the back-ends

    @property
    def _names(self) -> tuple[str, ...]:
        """Back-ends that can be taken, the usual one first."""
        return tuple(name for name in self._candidates if name not in self._out)

    @property
    def lead(self) -> Executor:
        """What runs segments of which nothing is known: the fastest for the whole network, or the usual one.

        Raises AppError where none can be made.
        """
        error = AppError(f"nothing can compute {self._graph.name} here")
        while names := self._names:
            name = self._lead_name or self._fastest(self._graph.everything) or names[0]
            try:
                made = self._member(name)
            except AppError as failed:
                error = failed
                continue
            self._lead_name = name
            return made
        raise error

    def _member(self, backend: str) -> Executor:
        """Raises AppError where it cannot be made; from then on it is left out."""
        if backend not in self._members:
            network = self._candidates[backend].network
            try:
                made = make_executor(network, CPU, self._share, backend, is_behind=self._is_behind)
            except AppError as error:
                self._leave_out(backend, error)
                raise
            if self._is_limited:
                made.look_for_limit()
            self._members[backend] = made
        return self._members[backend]

    def _leave_out(self, backend: str, error: Exception) -> None:
        log.info("%s is left out: %s", backend, error)
        self._out.add(backend)
        self._members.pop(backend, None)
        self._settled.clear()
        if self._lead_name == backend:
            self._lead_name = ""

    # --- what is known

    @property
    def _threads(self) -> int:
        return 1 if self._share is not None else threads_in_force()

    @property
    def _key(self) -> ComparedKey:
        weights = next(iter(self._candidates.values())).network.weights.digest
        versions = {name: each.version for name, each in self._candidates.items()}
        about = (self._graph.name, self._graph.digest, weights, f"{CPU} {processor_name()}")
        return ComparedKey(*about, self._threads, self._clock, versions)

    @property
    def _table(self) -> Table:
        now = (self._threads, self._clock)
        if self._known_of != now:
            self._known_of, self._known = now, compared.load(self._folder, self._key)
            self._settled.clear()
            whole = self._known.get(compared.name_of(self._graph.everything))
            if whole is not None and len(whole.left_out) < len(self._candidates):
                self._out |= set(whole.left_out)
        return self._known

    def _entry(self, layers: frozenset[int]) -> Compared | None:
        return self._table.get(compared.name_of(layers))

    def _note(self, layers: frozenset[int], entry: Compared) -> None:
        self._table.pop(compared.name_of(layers), None)  # the newest last
        self._table[compared.name_of(layers)] = entry
        self._settled.clear()

    def _keep(self) -> None:
        compared.save(self._folder, self._key, self._table)

    def _fastest(self, layers: frozenset[int]) -> str | None:
        entry = self._entry(layers)
        if entry is None:
            return None
        names = [name for name in self._names if self._is_at_hand(name)]
        best = entry.fastest(names, WORTH)
        for name in self._names:  # what takes seconds to load has to be worth that
            if name not in names and best is not None and name in entry.seconds:
                best = entry.fastest((best, name), WORTH if entry.is_measured else HEAVY_WORTH)
        return best or entry.fastest(self._names, WORTH)

    def best(self, layers: frozenset[int]) -> str:
        """The back-end that is the best for a segment, as far as that is known."""
        contest = self._contests.get(layers)
        if contest is not None:
            return contest.winner
        return (self._fastest(layers) if layers != self._graph.only_inputs else None) or self.lead.machine.backend

    def choice(self, layers: frozenset[int]) -> Choice:
        """What runs a segment, and why."""
        backend = self.best(layers)
        contest, entry = self._contests.get(layers), self._entry(layers)
        whole = self._entry(self._graph.everything)
        if contest is not None and len(seconds := contest.seconds()) > 1:
            return Choice(backend, f"measured while it runs: {_told(seconds)}, and tried on")
        if entry is not None and layers != self._graph.only_inputs:
            what = "measured" if entry.is_measured else "told from measured heads and tails"
            return Choice(backend, f"{what}: {_told(entry.seconds)}")
        if whole is not None and len(whole.seconds) > 1:
            return Choice(backend, f"measured for the whole network: {_told(whole.seconds)}")
        others = [name for name in self._candidates if name != backend]
        if all(name in self._out for name in others):
            return Choice(backend, f"{' and '.join(others)} cannot run it here")
        return Choice(backend, f"{' and '.join(others)} will be tried while it runs")

    # --- segments

    def load(self, layers: frozenset[int]) -> AutoSegment:
        """Make the segment ready with what is best for it. Raises what the last back-end raises that cannot."""
        while True:
            name = self.best(layers)
            try:
                made = self._member(name).load(layers)
            except AppError as error:
                self._give_up(name, layers, error)
                continue
            return AutoSegment(self, layers, made.inputs, made.outputs)

    def _give_up(self, name: str, layers: frozenset[int], error: AppError) -> None:
        """A back-end cannot run a segment: it is left out. Raises `error` where there is no other one."""
        self._contests.pop(layers, None)
        self._leave_out(name, error)
        if not self._names:
            raise error

    def best_segment(self, layers: frozenset[int]) -> Segment:
        """The segment as the back-end has it that is best for it."""
        return self._member(self.best(layers)).load(layers)

    def has(self, layers: frozenset[int]) -> bool:
        """Whether the segment is ready with what is best for it."""
        name = self.best(layers)
        return name in self._members and self._members[name].has(layers)

    def forget(self, layers: frozenset[int]) -> None:
        """Let the segment go, in all of them."""
        self._contests.pop(layers, None)
        for member in self._members.values():
            member.forget(layers)

    def run(self, segment: Segment, arrays: Sequence[Array]) -> Ran:
        """Run a segment with what is best for it, or with another one whose turn it is to be tried."""
        if not isinstance(segment, AutoSegment):
            raise TypeError("a segment of another executor")
        layers = segment.layers
        if (settled := self._settled.get(layers)) is not None:
            return self._run_by(settled, layers, arrays)
        if not self._is_usual(segment, arrays):
            return self._run_by(self.best(layers), layers, arrays)
        contest = self._contest(layers)
        if contest is None:
            if len(self._settled) >= SEGMENTS_KEPT:
                self._settled.clear()
            self._settled[layers] = self.best(layers)
            return self._run_by(self._settled[layers], layers, arrays)
        name = contest.next({rival: self._setup_of(rival, layers, contest) for rival in contest.rivals})
        if name != contest.base and (ran := self._tried(name, layers, arrays)) is not None:
            return ran
        ran = self._run_by(contest.base, layers, arrays)
        if not ran.is_first and (now := self._contests.get(layers)) is not None:
            self._record(layers, now.ran(contest.base, ran.seconds))
        return ran

    def _run_by(self, name: str, layers: frozenset[int], arrays: Sequence[Array]) -> Ran:
        member = self._member(name)
        return member.run(member.load(layers), arrays)

    def row_ops(self, layers: frozenset[int]) -> RowOps | None:
        """What can be computed by rows with what is best for these layers."""
        return self._member(self.best(layers)).row_ops(layers)

    def tail_rows(self, layers: frozenset[int], pieces: Sequence[Piece], until: int | None = None) -> RowPlan | None:
        """How a tail would run by rows with what is best for it, if that can."""
        return self._member(self.best(layers)).tail_rows(layers, pieces, until)

    def head_rows(self, layers: frozenset[int], pieces: Sequence[Piece]) -> RowPlan | None:
        """How a head would run by rows with what is best for it, if that can."""
        return self._member(self.best(layers)).head_rows(layers, pieces)

    def tail_by_rows(self, plan: RowPlan) -> TailStream:
        """One run of a tail by rows, with the back-end that the plan is for."""
        return self._member(plan.backend).tail_by_rows(plan)

    def head_by_rows(self, plan: RowPlan) -> HeadStream:
        """One run of a head by rows, with the back-end that the plan is for."""
        return self._member(plan.backend).head_by_rows(plan)

    def _is_usual(self, segment: AutoSegment, arrays: Sequence[Array]) -> bool:
        """Whether it computes something, for one input: what several take at once is another question."""
        first = segment.inputs[0]
        return segment.layers != self._graph.only_inputs and arrays[0].shape == self._graph.layers[first].out_shape

    def _contest(self, layers: frozenset[int]) -> Contest | None:
        """Of a segment of which too little is known; None where it is decided."""
        if layers not in self._contests:
            base, entry = self.best(layers), self._entry(layers)
            rivals = [name for name in self._names if name != base and self._is_at_hand(name)]
            if not rivals or self._is_decided(entry, (base, *rivals)):
                return None
            self._contests[layers] = Contest(base, tuple(rivals), self._guesses(layers, base))
            if len(self._contests) > SEGMENTS_KEPT:
                self._contests.popitem(last=False)
        self._contests.move_to_end(layers)
        return self._contests[layers]

    def _is_at_hand(self, name: str) -> bool:
        return name in self._members or not self._candidates[name].is_heavy

    @staticmethod
    def _is_decided(entry: Compared | None, names: Sequence[str]) -> bool:
        if entry is None or not all(name in entry.seconds or name in entry.left_out for name in names):
            return False
        return entry.is_measured or entry.apart(names) > NEAR

    def _guesses(self, layers: frozenset[int], base: str) -> dict[str, float]:
        """How long the others may take beside the base: as for this segment, else as for the whole network."""
        guesses: dict[str, float] = {}
        for entry in (self._entry(self._graph.everything), self._entry(layers)):
            if entry is not None and entry.seconds.get(base):
                guesses |= {name: s / entry.seconds[base] for name, s in entry.seconds.items()}
        return guesses

    def _setup_of(self, rival: str, layers: frozenset[int], contest: Contest) -> float:
        member = self._members.get(rival)
        if member is not None and member.has(layers):
            return 0.0
        return self._setup_s.get(rival, SETUP_S) + contest.typical_s

    def _tried(self, name: str, layers: frozenset[int], arrays: Sequence[Array]) -> Ran | None:
        """A turn of a rival; None where it cannot run this, which it is not asked again."""
        contest, began = self._contests[layers], time.perf_counter()
        try:
            member = self._member(name)
            segment = member.load(layers)
            self._setup_s[name] = max(self._setup_s.get(name, 0.0), loaded_s := time.perf_counter() - began)
            ran = member.run(segment, arrays)
        except (AppError, RuntimeError, MemoryError) as error:
            log.info("%s does not run layers %s: %s", name, compared.name_of(layers), error)
            self._record(layers, contest.without(name).paid(time.perf_counter() - began))
            return None
        if ran.is_first:
            contest = contest.paid(loaded_s + ran.seconds - contest.typical_s)
        else:
            contest = contest.ran(name, ran.seconds)
        self._record(layers, contest)
        return ran

    def _record(self, layers: frozenset[int], contest: Contest) -> None:
        """Take note of a run. Once it is decided it is kept, and what has lost is let go."""
        if contest.open or not contest.base_s:
            self._contests[layers] = contest
            return
        self._contests.pop(layers, None)
        seconds = contest.seconds()
        left_out = tuple(name for name in self._names if name not in seconds and self._is_at_hand(name))
        self._note(layers, Compared(seconds, left_out=left_out))
        self._keep()
        best = contest.winner
        log.info("layers %s are computed by %s: %s", compared.name_of(layers), best, _told(seconds))
        for name, member in self._members.items():
            if name != best:
                member.forget(layers)

    # --- profiles

    def profile(
        self, folder: Path, progress: Progress = lambda _: None, *, tails: bool, is_fresh: bool = False
    ) -> Profile:
        """Seconds of every layer, such that heads (with `tails`: tails) are those of what is best for each."""
        if is_fresh or not self._is_compared:
            self._compare_whole()
        names = self._close
        if len(names) == 1:
            return self.lead.profile(folder, progress, tails=tails, is_fresh=is_fresh)
        kept = None if is_fresh else self.kept_profile(folder, tails=tails)
        if kept is not None:
            return kept
        profiles: dict[str, Profile] = {}
        for place, name in enumerate(names):
            share = partial(_part_of, progress, place, len(names))
            profiles[name] = self._member(name).profile(folder, share, tails=tails, is_fresh=is_fresh)
        self._tell(profiles, tails=tails)
        lead = profiles[names[0]]
        times = [(each.seconds, each.start_s) for each in profiles.values()]
        seconds, left = segments.best_of(times, self._points, tails=tails)
        best = Profile(self._profile_key, (seconds,), {layer: (s,) for layer, s in left.items()}, lead.pace)
        store.save(folder, best, self._graph)
        return best

    def kept_profile(self, folder: Path, *, tails: bool) -> Profile | None:
        """The same if all of it was measured before, else None."""
        if not self._is_compared:
            return None
        if len(self._close) == 1:
            return self.lead.kept_profile(folder, tails=tails)
        profile = store.load(folder, self._profile_key, len(self._graph.layers))
        return profile if profile is None or profile.tails or not tails else None

    @property
    def _points(self) -> list[int]:
        return [point.layer for point in self._graph.points[1:-1]]

    @property
    def _profile_key(self) -> ProfileKey:
        """Of what is the best of several."""
        key = self._key
        versions = ", ".join(f"{name} {key.backends[name]}" for name in self._close)
        about = (key.model, key.graph, key.weights, key.device, key.threads)
        return ProfileKey(*about, backend=AUTO, clock=self._clock, torch=versions)

    @property
    def _is_compared(self) -> bool:
        whole = self._entry(self._graph.everything)
        return whole is not None and whole.is_measured and all(name in whole.seconds for name in self._names)

    @property
    def _close(self) -> tuple[str, ...]:
        """The best for the whole network, and those that may be better for a part of it."""
        lead, whole = self.lead.machine.backend, self._entry(self._graph.everything)
        known = {} if whole is None else whole.seconds
        most_s = CLOSE * known.get(lead, 0.0)
        return (lead, *(name for name in self._names if name != lead and known.get(name, math.inf) <= most_s))

    def _compare_whole(self) -> None:
        """Run the network by turns in each of them, and keep what it takes. What could not run it before may now."""
        self._table.clear()
        self._out.clear()
        everything = self._graph.everything
        ready: dict[str, Callable[[], object]] = {}
        for name in self._names:
            try:
                member = self._member(name)
                segment, arrays = member.load(everything), list(member.network.example.arrays)
                member.warm_up(segment, arrays)
            except (AppError, RuntimeError, MemoryError) as error:
                self._leave_out(name, error)
            else:
                ready[name] = partial(member.warm_up, segment, arrays)
        if not ready:
            raise AppError(f"nothing can compute {self._graph.name} here")
        is_work = self._threads == 1 and has_fine_work_clock()
        seconds = _by_turns(ready, work_clock if is_work else time.perf_counter)
        self._note(everything, Compared(seconds, left_out=tuple(sorted(self._out))))
        self._keep()
        self._lead_name = ""
        log.info("%s: %s", self._graph.name, _told(seconds))
        close = self._close
        for name in [name for name in self._members if name not in close]:
            if self._candidates[name].is_heavy:
                del self._members[name]
            else:
                self._members[name].forget(everything)

    def _tell(self, profiles: Mapping[str, Profile], *, tails: bool) -> None:
        """Note what the heads and tails of all points take, by the profiles."""
        sums = {name: list(accumulate(each.seconds)) for name, each in profiles.items()}
        starts = {name: each.start_s for name, each in profiles.items()}
        for layer in self._points:
            head = frozenset(range(layer + 1))
            told = {head: {name: done[layer] for name, done in sums.items()}}
            if tails:
                told[self._graph.everything - head] = {
                    name: done[-1] - done[layer] + starts[name][layer] for name, done in sums.items()
                }
            for layers, seconds in told.items():
                entry = self._entry(layers)
                if entry is None or not entry.is_measured:
                    self._note(layers, Compared(seconds, is_measured=False))
        self._keep()

    # --- like the lead

    @property
    def network(self) -> Network:
        """The network as the lead has it."""
        return self.lead.network

    @property
    def machine(self) -> Machine:
        """Of the lead."""
        return self.lead.machine

    @property
    def share(self) -> float:
        """Of a core, that is there in the long run."""
        return self.lead.share

    def warm_up(self, segment: Segment, arrays: Sequence[Array]) -> None:
        """Run a segment once, at full speed."""
        segment(arrays)

    def slow_down(self, started: float, work_s: float) -> float:
        """Let other work of this device last as long as on the emulated one."""
        return self.lead.slow_down(started, work_s)

    def ahead(self) -> AbstractContextManager[Until]:
        """Inside, work of this thread is not waited for on an emulated device."""
        return self.lead.ahead()

    def as_felt(self, seconds: Sequence[float]) -> tuple[float, ...]:
        """Seconds of work of each layer as they add up here."""
        return self.lead.as_felt(seconds)

    def look_for_limit(self) -> None:
        """Take note of the processor time that the system allows this process now."""
        self._lead_name = ""
        self._is_limited = True
        limit = cpu_limit() if self._share is None else None
        self._clock = ("wall" if self._share is None else "work") if limit is None else f"quota {limit.cores:.3g}"
        for member in self._members.values():
            member.look_for_limit()

    def rest(self) -> None:
        """Wait until a quota is whole again."""
        self.lead.rest()


def _told(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {format_seconds(s)}" for name, s in sorted(seconds.items(), key=itemgetter(1)))


def _part_of(progress: Progress, place: int, parts: int, done: float) -> None:
    progress((place + done) / parts)


def _by_turns(runs: Mapping[str, Callable[[], object]], clock: Clock) -> dict[str, float]:
    """Seconds of each, in the middle of the faster half: each comes first in turn, and after a rest."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names, until = list(runs), time.perf_counter() + ROUNDS_S
    for count in range(ROUNDS):
        if count >= LEAST_ROUNDS and time.perf_counter() > until:
            break
        place = count % len(names)
        for name in names[place:] + names[:place]:
            time.sleep(REST_S)
            began = clock()
            runs[name]()
            times[name].append(clock() - began)
    return {name: median(sorted(each)[: (len(each) + 1) // 2]) for name, each in times.items()}
