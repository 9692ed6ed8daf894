"""ONNX Runtime as a back-end: runs segments of a bundle on the processor."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from edgecloud.engine.executor import ONNXRUNTIME, BaseExecutor, CpuShare, Segment
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.network import Network
from edgecloud.models.onnx_session import OPTIONS, OnnxPart, runtime
from edgecloud.models.specs import UnknownLayerError
from edgecloud.net.tensors import Array
from edgecloud.predictor import segments
from edgecloud.predictor.gauge import Gauge, Readings
from edgecloud.predictor.pace import HEAVY, Run
from edgecloud.predictor.profile import Machine, Profile, ProfileKey, Progress
from edgecloud.predictor.segments import CutTimes
from edgecloud.utils.errors import UsageError
from edgecloud.utils.inference_utils import CPU, keep_freed_memory, processor_name, threads_in_force

REST_S = 0.05
RUNS = 3
WHOLE_RUNS = 7
BUDGET_S = 8.0
"""Seconds that measuring a network should take."""
MOST_S = 12.0
"""After which no further cut is measured, on a machine that is slower than it looked."""
MIN_POINTS, MAX_POINTS = 4, 16
SETUP_S = 0.1  # of making a session, about
LEAST_KEPT, KEPT_BYTES = 3, 64 << 20


def machine_of(threads: int) -> Machine:
    """What times that this runtime takes here depend on. Raises MissingLibraryError without it."""
    about = f"{runtime().__version__} ({OPTIONS})"
    return Machine(f"{CPU} {processor_name()}", threads, about, ONNXRUNTIME)


class OnnxRuntimeExecutor(BaseExecutor):
    """Runs segments of a bundle, each in a session of its own that holds no other layer's weights."""

    backend = ONNXRUNTIME

    def __init__(
        self, network: Network, device: str, share: CpuShare | None = None, *, is_behind: bool = False
    ) -> None:
        """Raises UsageError for another device than the processor, and for a network that is no bundle."""
        if not isinstance(network, BundleNetwork):
            raise UsageError(
                f"{network.graph.name} is no bundle, and onnxruntime runs bundles: make one with "
                f"deployment.py export -t {network.graph.name} -o FILE.bundle, or use --backend torch"
            )
        if device != CPU:
            raise UsageError(
                f"--backend onnxruntime computes on the processor: use -d cpu, or --backend torch -d {device}"
            )
        keep_freed_memory()
        runtime()
        self._bundle = network.bundle
        self._most_bytes = max(KEPT_BYTES, 2 * network.bundle.parameter_bytes)
        self._threads = 1 if share is not None else threads_in_force()
        super().__init__(network, share, time.perf_counter, is_behind=is_behind)

    @property
    def machine(self) -> Machine:
        """What measured times of this executor depend on."""
        return machine_of(self._threads)

    def load(self, layers: frozenset[int]) -> Segment:
        """Make or find a segment. What was not used for longest goes where there are too many weights: a runtime copies
        those that it joins, and each session may have threads of its own."""
        segment = super().load(layers)
        while len(self._segments) > LEAST_KEPT and self._held_bytes() > self._most_bytes:
            self._segments.popitem(last=False)
        return segment

    def _held_bytes(self) -> int:
        return sum(segment.weight_bytes for segment in self._segments.values() if isinstance(segment, OnnxPart))

    def _make(self, layers: frozenset[int]) -> Segment:
        return OnnxPart(self._bundle, layers, self._threads)

    def _measure(self, gauge: Gauge, key: ProfileKey, progress: Progress, *, tails: bool) -> Profile:
        return _Measuring(self._network, self._make, gauge, progress, tails=tails).profile(key)


class _Measuring:
    """Times the whole, and heads and tails of as many cuts as there are seconds for."""

    def __init__(
        self,
        network: Network,
        make: Callable[[frozenset[int]], Segment],
        gauge: Gauge,
        progress: Progress,
        *,
        tails: bool,
    ) -> None:
        self._network, self._graph, self._make = network, network.graph, make
        self._gauge, self._progress, self._has_tails = gauge, progress, tails
        self._readings = Readings(gauge)
        self._quiet = self._readings.quiet()
        try:
            self._work = segments.work_of(self._graph, network.specs())
        except UnknownLayerError:
            self._work = segments.work_of(self._graph, None)

    def profile(self, key: ProfileKey) -> Profile:
        """The profile, whose one pass is fitted to what was measured."""
        graph = self._graph
        last = len(graph.points) - 1
        whole = self._run(graph.everything, {0: self._network.example.array}, WHOLE_RUNS)[0]
        points = segments.chosen(graph, self._work, self._affordable(min(whole)))
        heads, tails = {last: whole}, {0: whole} if self._has_tails else {}
        until = time.perf_counter() + MOST_S
        for count, number in enumerate(segments.spread(points)):
            if count >= MIN_POINTS and time.perf_counter() > until:
                break  # what was measured so far is spread over the network
            self._progress((count + 1) / (len(points) + 1))
            head = graph.head_at(number)
            heads[number], crossing = self._run(head, {0: self._network.example.array}, RUNS)
            if self._has_tails:
                tails[number] = self._run(graph.everything - head, crossing, RUNS)[0]
        seconds, left = segments.fitted(graph, self._work, CutTimes(heads, tails))
        self._progress(1.0)
        return Profile(key, (seconds,), {layer: (s,) for layer, s in left.items()}, self._quiet)

    def _affordable(self, whole_s: float) -> int:
        runs = RUNS + 1
        one_s = SETUP_S + runs * (REST_S + whole_s) + (SETUP_S + runs * REST_S if self._has_tails else 0.0)
        return max(MIN_POINTS, min(MAX_POINTS, int(BUDGET_S / one_s)))

    def _run(
        self, layers: frozenset[int], given: Mapping[int, Array], runs: int
    ) -> tuple[tuple[float, ...], dict[int, Array]]:
        """Seconds of some runs, each after a rest, and what came out of the last."""
        segment = self._make(layers)
        arrays = [given[number] for number in segment.inputs]
        results = segment(arrays)
        times = tuple(self._time(partial(segment, arrays)) for _ in range(runs))
        return times, dict(zip(segment.outputs, results, strict=True))

    def _time(self, run: Callable[[], object]) -> float:
        """Seconds on the quiet machine, by the reference work before and after."""
        time.sleep(REST_S)
        before = self._readings.read()
        begin = self._gauge.clock()
        run()
        seconds = self._gauge.clock() - begin
        if self._quiet is None:
            return seconds
        mix = HEAVY.in_all if self._gauge.is_elapsed else HEAVY
        return Run((seconds,), before, self._readings.read()).quietly(self._quiet, [mix])[0]
