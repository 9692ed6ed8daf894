"""Executors: load a segment, run arrays through it, and time it.

Torch is the first back-end; another one is a class with the methods of `Executor` and a row in `BACKENDS`. A back-end's
name is part of the key of every profile, since it changes every time.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from edgecloud.models import split
from edgecloud.models.inputs import Input
from edgecloud.models.split import Segment
from edgecloud.models.trace import Traced, trace
from edgecloud.models.weights import Loaded
from edgecloud.net.tensors import Array
from edgecloud.predictor import store
from edgecloud.predictor.dataset import Machine
from edgecloud.predictor.profile import Profile, ProfileKey, Progress
from edgecloud.predictor.quota import Quota
from edgecloud.predictor.reference import work_clock
from edgecloud.predictor.timing import Gauge, measure
from edgecloud.utils.cpu_limit import cpu_limit
from edgecloud.utils.inference_utils import device_name, keep_freed_memory, prepare_device, wall_clock

SEGMENTS_KEPT = 128


@dataclass(frozen=True)
class Network:
    """A network that is ready to be cut: its parameters, its graph, and a real input to measure it with."""

    loaded: Loaded
    traced: Traced
    example: Input


def prepare(loaded: Loaded, example: Input, name: str) -> Network:
    """Capture the graph of a network."""
    return Network(loaded, trace(loaded.model, example.tensor, name, is_own=bool(loaded.code)), example)


@dataclass(frozen=True)
class Ran:
    """The outputs of a segment and the seconds that it took, alone or in a batch of several requests."""

    arrays: list[Array]
    seconds: float
    batch: int = 1


class Executor(Protocol):
    """Runs segments of one network on one device.

    Arrays are numpy's, of the shapes in the graph, or with more than one input in the first axis. Moments and durations
    are seconds of time.perf_counter.
    """

    @property
    def traced(self) -> Traced:
        """The network, as it was captured."""

    @property
    def machine(self) -> Machine:
        """What measured times depend on, the name of the back-end among it."""

    @property
    def share(self) -> float:
        """Of a core, that is there in the long run, emulated or allowed; 1 where nothing limits it."""

    def load(self, layers: frozenset[int]) -> Segment:
        """Make the segment of these layers ready; the same layers again cost nothing."""

    def has(self, layers: frozenset[int]) -> bool:
        """Whether the segment of these layers is ready. May be asked by any thread."""

    def run(self, segment: Segment, arrays: Sequence[Array]) -> Ran:
        """Run a segment on the arrays of its inputs, in their order; the outputs may share memory with them."""

    def warm_up(self, segment: Segment, arrays: Sequence[Array]) -> None:
        """Run a segment once, at full speed: what a back-end does only the first time is then done."""

    def slow_down(self, started: float, work_s: float) -> None:
        """Let other work of this device, which began at `started`, last as long as on the emulated one."""

    def profile(
        self, folder: Path, progress: Progress = lambda _: None, *, tails: bool, is_fresh: bool = False
    ) -> Profile:
        """Seconds of work of every layer on this device, and of tails if they are wanted; cached in `folder`.

        An emulated share is not in them, so one profile serves every share. `is_fresh` measures again even where the
        times are known.
        """

    def kept_profile(self, folder: Path, *, tails: bool) -> Profile | None:
        """The same if it was measured before, else None; nothing is run."""

    def as_felt(self, seconds: Sequence[float]) -> tuple[float, ...]:
        """Seconds of work of each layer as they add up on the processor that there is, or that is emulated."""

    def look_for_limit(self) -> None:
        """Take note of the processor time that the system allows this process now, shared by its threads."""

    def rest(self) -> None:
        """Wait until a quota is whole again, as it is after a wait for the link, and for any moment of its period."""


@dataclass(frozen=True)
class CpuShare:
    """A slower processor, emulated: work that takes t seconds of one core lasts t / share.

    What is stretched is the processor time of the calling thread, so one thread must do all the work. Like a cgroup
    quota it slows computing alone; unlike one it does not run in bursts, and does not slow the network stack.
    """

    share: float

    def stretch(self, started: float, work_s: float) -> None:
        """Wait until `work_s` seconds of work, begun at `started`, have lasted as long as on the slower processor."""
        remaining = started + work_s / self.share - time.perf_counter()
        if remaining > 0:
            time.sleep(remaining)


class TorchExecutor:
    """Eager torch. Segments share the parameters of the network."""

    backend = "torch"

    def __init__(
        self,
        network: Network,
        device: torch.device,
        cpu_share: CpuShare | None = None,
        *,
        is_behind: bool = False,
    ) -> None:
        """One that `is_behind` others measures with patience: they take the processor away."""
        self._is_behind = is_behind
        keep_freed_memory()
        prepare_device(device)
        self._network = network
        self.traced = network.traced
        self.traced.module.to(device)
        self._device = device
        self._share = cpu_share
        self._quota: Quota | None = None
        self._clock = wall_clock(device)
        self._segments: OrderedDict[frozenset[int], Segment] = OrderedDict()

    def load(self, layers: frozenset[int]) -> Segment:
        """Build or find a segment; the least recently used one goes when there are too many."""
        if layers not in self._segments:
            self._segments[layers] = split.segment(self.traced, layers)
            if len(self._segments) > SEGMENTS_KEPT:
                self._segments.popitem(last=False)
        self._segments.move_to_end(layers)
        return self._segments[layers]

    def has(self, layers: frozenset[int]) -> bool:
        """Whether the segment of these layers is ready."""
        return layers in self._segments

    def run(self, segment: Segment, arrays: Sequence[Array]) -> Ran:
        """Run a segment; the outputs may share memory with the inputs, which stay as they are."""
        started, work_started = self._clock(), work_clock()
        with torch.inference_mode():
            outputs = segment.module(*self._inputs(segment, arrays))
            results = [np.asarray(tensor.cpu()) for tensor in outputs]
        if self._share is not None:
            self._share.stretch(started, work_clock() - work_started)
        return Ran(results, self._clock() - started)

    def slow_down(self, started: float, work_s: float) -> None:
        """Let other work of this device, which began at `started`, last as long as on the emulated one."""
        if self._share is not None:
            self._share.stretch(started, work_s)

    def warm_up(self, segment: Segment, arrays: Sequence[Array]) -> None:
        """Run a segment once, at full speed: what a back-end does only the first time is then done."""
        with torch.inference_mode():
            segment.module(*self._inputs(segment, arrays))

    def _inputs(self, segment: Segment, arrays: Sequence[Array]) -> Iterator[torch.Tensor]:
        """Of what the segment writes into a copy: the caller may need it again, if the cloud does not answer, say."""
        for number, array in zip(segment.inputs, arrays, strict=True):
            here = torch.from_numpy(array)
            there = here.to(self._device)
            yield there.clone() if there is here and number in segment.overwritten else there

    def profile(
        self, folder: Path, progress: Progress = lambda _: None, *, tails: bool, is_fresh: bool = False
    ) -> Profile:
        """In seconds of work: an emulated share is not in them, so one profile serves every share.

        `is_fresh` measures again even where the times are known.
        """
        key = self._key()
        profile = None if is_fresh else store.load(folder, key, len(self.traced.graph.layers))
        if profile is None or (tails and not profile.tails):
            is_work = self._share is not None or self._quota is not None
            gauge = Gauge.of(self._device, folder, asdict(self.machine), is_work=is_work)
            x = self._network.example.tensor.to(self._device)
            profile = measure(self.traced, x, gauge, key, progress, tails=tails, is_behind=self._is_behind)
            store.save(folder, profile, self.traced.graph)
        return profile

    def kept_profile(self, folder: Path, *, tails: bool) -> Profile | None:
        """The same if it was measured before, else None; nothing is run."""
        profile = store.load(folder, self._key(), len(self.traced.graph.layers))
        return profile if profile is None or profile.tails or not tails else None

    def _key(self) -> ProfileKey:
        machine = self.machine
        return ProfileKey(
            model=self.traced.graph.name,
            graph=self.traced.graph.digest,
            weights=self._network.loaded.digest,
            device=machine.device,
            threads=machine.threads,
            backend=machine.backend,
            clock=self._clock_name,
            torch=machine.torch,
        )

    @property
    def _clock_name(self) -> str:
        if self._quota is not None:
            return self._quota.clock
        return "wall" if self._share is None else "work"

    def look_for_limit(self) -> None:
        """Take note of the processor time that the system allows this process now, shared by its threads."""
        limit = cpu_limit() if self._device.type == "cpu" and self._share is None else None
        share = 1.0 if limit is None else limit.cores / torch.get_num_threads()
        self._quota = Quota(share, limit.period_s) if limit is not None and share < 1 else None

    def rest(self) -> None:
        """Wait until a quota is whole again, as it is after a wait for the link, and for any moment of its period."""
        if self._quota is not None:
            time.sleep(self._quota.period_s * random.uniform(2, 3))

    def as_felt(self, seconds: Sequence[float]) -> tuple[float, ...]:
        """Seconds of work of each layer as they add up on the processor that there is, or that is emulated."""
        if self._quota is not None:
            return self._quota.layers_s(seconds)
        return tuple(s / self.share for s in seconds)

    @property
    def machine(self) -> Machine:
        """What measured times of this executor depend on."""
        device = f"{self._device} {device_name(self._device)}"
        return Machine(device, torch.get_num_threads(), torch.__version__, self.backend)

    @property
    def share(self) -> float:
        """Of a core, that is there in the long run, emulated or allowed; 1 where nothing limits it."""
        if self._quota is not None:
            return self._quota.share
        return 1.0 if self._share is None else self._share.share


DEFAULT_BACKEND = TorchExecutor.backend
BACKENDS: dict[str, Callable[..., Executor]] = {DEFAULT_BACKEND: TorchExecutor}
"""Made with a network, a device and a CpuShare or None, and `is_behind` by name."""


def make_executor(
    network: Network,
    device: torch.device,
    share: CpuShare | None = None,
    backend: str = DEFAULT_BACKEND,
    *,
    is_behind: bool = False,
) -> Executor:
    """What runs the segments of a network on a device, slowed down to a share of a core where one is given.

    With `is_behind` it measures with patience, in a process that others take the processor away from.
    """
    return BACKENDS[backend](network, device, share, is_behind=is_behind)
