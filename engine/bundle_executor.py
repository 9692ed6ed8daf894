"""What back-ends that run bundles on the processor share: segments with weights of their own, and their profiles."""

import time
from abc import abstractmethod
from functools import partial

from edgecloud.engine import segment_profile
from edgecloud.engine.executor import BaseExecutor, CpuShare, Segment
from edgecloud.models.bundle import Bundle
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.bundle_part import BundlePart
from edgecloud.models.network import Network
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.profile import Machine, Profile, ProfileKey, Progress
from edgecloud.utils.errors import UsageError
from edgecloud.utils.inference_utils import CPU, keep_freed_memory, processor_name, threads_in_force

LEAST_KEPT, KEPT_BYTES = 3, 64 << 20


class BundleExecutor(BaseExecutor):
    """A back-end adds `backend`, `about` and `_part`."""

    def __init__(
        self, network: Network, device: str, share: CpuShare | None = None, *, is_behind: bool = False
    ) -> None:
        """Raises UsageError for another device than the processor, and for a network that is no bundle."""
        if not isinstance(network, BundleNetwork):
            raise UsageError(
                f"{network.graph.name} is no bundle, and {self.backend} runs bundles: make one with "
                f"deployment.py export -t {network.graph.name} -o FILE.bundle, or use --backend torch"
            )
        if device != CPU:
            raise UsageError(
                f"--backend {self.backend} computes on the processor: use -d cpu, or --backend torch -d {device}"
            )
        keep_freed_memory()
        self._bundle = network.bundle
        self._most_bytes = max(KEPT_BYTES, 2 * network.bundle.parameter_bytes)
        self._threads = 1 if share is not None else threads_in_force()
        super().__init__(network, share, time.perf_counter, is_behind=is_behind)

    @property
    @abstractmethod
    def about(self) -> str:
        """The version of the runtime and what it was told, for the keys of profiles."""

    @abstractmethod
    def _part(self, bundle: Bundle, layers: frozenset[int], threads: int) -> BundlePart:
        """Some layers, ready to run."""

    @property
    def machine(self) -> Machine:
        """What measured times of this executor depend on."""
        return Machine(f"{CPU} {processor_name()}", self._threads, self.about, self.backend)

    def load(self, layers: frozenset[int]) -> Segment:
        """Make or find a segment. What was not used for longest goes where there are too many weights: a runtime copies
        those that it joins, and each session may have threads of its own."""
        segment = super().load(layers)
        while len(self._segments) > LEAST_KEPT and self._held_bytes() > self._most_bytes:
            self._segments.popitem(last=False)
        return segment

    def _held_bytes(self) -> int:
        return sum(segment.weight_bytes for segment in self._segments.values() if isinstance(segment, BundlePart))

    def _make(self, layers: frozenset[int]) -> Segment:
        return self._part(self._bundle, layers, self._threads)

    def _measure(self, gauge: Gauge, key: ProfileKey, progress: Progress, *, tails: bool) -> Profile:
        make = partial(self._part, self._bundle, threads=self._threads)
        return segment_profile.measure(
            self._network, make, gauge, key, progress, tails=tails, is_behind=self._is_behind
        )
