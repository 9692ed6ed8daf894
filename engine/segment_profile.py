"""Profiles of back-ends that join layers, so that no layer has a time of its own: heads and tails are measured.

The whole first, then heads and tails of as many cuts as there are seconds for; the rest is told from them
(predictor.segments). The runs are those of any profile: each after a rest, between readings of the reference work, and
again where it was held up (predictor.watch).
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

from edgecloud.engine.executor import Segment
from edgecloud.models.network import Network, fed_layers
from edgecloud.models.specs import UnknownLayerError
from edgecloud.net.tensors import Array
from edgecloud.predictor import segments
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import HEAVY, Pace, Run
from edgecloud.predictor.profile import Profile, ProfileKey, Progress
from edgecloud.predictor.segments import CutTimes
from edgecloud.predictor.watch import Watch

REST_S = 0.05
RUNS = 3
WHOLE_RUNS = 7
BUDGET_S = 8.0
"""Seconds that measuring a network should take."""
MOST_S = 12.0
"""After which no further cut is measured, on a machine that is slower than it looked."""
MIN_POINTS, MAX_POINTS = 4, 16
SETUP_S = 0.1  # of making a session, about

Make = Callable[[frozenset[int]], Segment]
Runs = dict[int, list[Run]]


def measure(
    network: Network,
    make: Make,
    gauge: Gauge,
    key: ProfileKey,
    progress: Progress,
    *,
    tails: bool,
    is_behind: bool = False,
    budget_s: float = BUDGET_S,
) -> Profile:
    """Time the segments that `make` gives, for about so long; the profile's one pass is fitted to them."""
    graph = network.graph
    given = fed_layers(graph, network.example.fed)
    timer = _Timer(make, Watch(gauge, is_behind=is_behind))
    work = work_of(network)
    whole = timer.run(graph.everything, given, WHOLE_RUNS)[0]
    count = _affordable(min(run.seconds[0] for run in whole), budget_s, tails=tails)
    points = segments.chosen(graph, work, count)
    heads: Runs = {len(graph.points) - 1: whole}
    rests: Runs = {0: whole} if tails else {}
    until = time.perf_counter() + MOST_S
    for count, number in enumerate(segments.spread(points)):
        if count >= MIN_POINTS and time.perf_counter() > until:
            break  # what was measured so far is spread over the network
        progress((count + 1) / (len(points) + 1))
        head = graph.head_at(number)
        heads[number], crossing = timer.run(head, given, RUNS)
        if tails:
            rests[number] = timer.run(graph.everything - head, crossing, RUNS)[0]
    quiet = timer.watch.readings.quiet()
    times = CutTimes(_quietly(heads, quiet, gauge), _quietly(rests, quiet, gauge))
    seconds, left = segments.fitted(graph, work, times)
    progress(1.0)
    return Profile(key, (seconds,), {layer: (s,) for layer, s in left.items()}, quiet)


def work_of(network: Network) -> tuple[float, ...]:
    """How much there is to do in every layer of a network, in no unit."""
    try:
        return segments.work_of(network.graph, network.specs())
    except UnknownLayerError:
        return segments.work_of(network.graph, None)


def _affordable(whole_s: float, budget_s: float, *, tails: bool) -> int:
    runs = RUNS + 1
    one_s = SETUP_S + runs * (REST_S + whole_s) + (SETUP_S + runs * REST_S if tails else 0.0)
    return max(MIN_POINTS, min(MAX_POINTS, int(budget_s / one_s)))


def _quietly(runs: Runs, quiet: Pace | None, gauge: Gauge) -> dict[int, tuple[float, ...]]:
    """Seconds on the quiet machine, by the reference work before and after."""
    if quiet is None:
        return {number: tuple(run.seconds[0] for run in each) for number, each in runs.items()}
    mix = HEAVY.in_all if gauge.is_elapsed else HEAVY
    return {number: tuple(run.quietly(quiet, [mix])[0] for run in each) for number, each in runs.items()}


class _Timer:
    """Runs segments after a rest."""

    def __init__(self, make: Make, watch: Watch) -> None:
        self._make, self.watch = make, watch

    def run(self, layers: frozenset[int], given: Mapping[int, Array], runs: int) -> tuple[list[Run], dict[int, Array]]:
        """Some runs of a segment, after one that is not timed, and what came out of it."""
        segment = self._make(layers)
        arrays = [given[number] for number in segment.inputs]
        results = segment(arrays)
        once = partial(self._time, segment, arrays)
        times = [self.watch.run(once, lambda seconds: (seconds,), REST_S) for _ in range(runs)]
        return times, dict(zip(segment.outputs, results, strict=True))

    def _time(self, segment: Segment, arrays: list[Array]) -> float:
        time.sleep(REST_S)
        begin = self.watch.gauge.clock()
        segment(arrays)
        return self.watch.gauge.clock() - begin
