"""A back-end for networks that somebody sent: segments run in a child process (engine.child), in ONNX Runtime there."""

import time
import weakref
from collections.abc import Sequence

from edgecloud.engine import segment_profile
from edgecloud.engine.bundle_executor import KEPT_BYTES, LEAST_KEPT
from edgecloud.engine.child_process import ChildError, ChildProcess
from edgecloud.engine.executor import ONNXRUNTIME, BaseExecutor, Segment
from edgecloud.engine.onnxruntime_executor import machine_of
from edgecloud.models.graph import LayerGraph
from edgecloud.models.network import Network
from edgecloud.net.tensors import Array
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.profile import Machine, Profile, ProfileKey, Progress
from edgecloud.utils.dtypes import name_of
from edgecloud.utils.inference_utils import threads_in_force

MEASURE_S = 3.0
"""For measuring a network: an edge waits for it."""


class ChildSegment:
    """One `engine.executor.Segment`, which is in the child."""

    def __init__(self, child: ChildProcess, graph: LayerGraph, layers: frozenset[int], seconds: float) -> None:
        own = tuple(number for number in graph.inputs if number in layers)
        self.inputs, self.outputs = own + graph.inputs_of(layers), graph.outputs_of(layers)
        self.runs = 0
        self._child, self._seconds = child, seconds
        self._made = [(graph.layers[number].out_shape, graph.layers[number].out_dtype) for number in self.outputs]
        self._most_bytes = graph.bytes_of(self.outputs)
        self._number, self.weight_bytes = child.load(layers)
        weakref.finalize(self, child.forget, self._number)

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it. Raises ChildError, also for an answer of other shapes than the network's layers make."""
        self.runs += 1
        results = self._child.run(self._number, arrays, self._most_bytes, self._seconds)
        if [(array.shape, name_of(array.dtype)) for array in results] != self._made:
            raise ChildError("the network made tensors of other shapes than it said")
        return results


class ChildExecutor(BaseExecutor):
    """Runs segments of one network in its child, each within `run_s` seconds."""

    backend = ONNXRUNTIME

    def __init__(self, network: Network, child: ChildProcess, run_s: float, parameter_bytes: int) -> None:
        super().__init__(network, None, time.perf_counter, is_behind=True)
        self.child, self.run_s = child, run_s
        self._threads = threads_in_force()
        self._most_bytes = max(KEPT_BYTES, 2 * parameter_bytes)

    @property
    def machine(self) -> Machine:
        """What measured times of this executor depend on."""
        return machine_of(self._threads)

    def load(self, layers: frozenset[int]) -> Segment:
        """Make or find a segment. What was not used for longest goes where there are too many weights."""
        segment = super().load(layers)
        while len(self._segments) > LEAST_KEPT and self._held_bytes() > self._most_bytes:
            self._segments.popitem(last=False)
        return segment

    def _held_bytes(self) -> int:
        return sum(segment.weight_bytes for segment in self._segments.values() if isinstance(segment, ChildSegment))

    def _make(self, layers: frozenset[int]) -> Segment:
        return ChildSegment(self.child, self.network.graph, layers, self.run_s)

    def _measure(self, gauge: Gauge, key: ProfileKey, progress: Progress, *, tails: bool) -> Profile:
        return segment_profile.measure(
            self._network, self._make, gauge, key, progress, tails=tails, is_behind=True, budget_s=MEASURE_S
        )
