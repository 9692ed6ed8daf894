"""Executors: load a segment, run arrays through it, and time it. No torch.

A back-end is a class with the methods of `Executor`, best made from `BaseExecutor`, and a row in `BACKENDS`, which
imports it when it is asked for. Its name is part of the key of every profile, since it changes every time.
"""

import random
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias, TypeVar

from edgecloud.engine.by_rows import HeadStream, RowBackend, TailStream
from edgecloud.engine.cpu_share import CpuShare, Until
from edgecloud.engine.segment import Ran, Segment
from edgecloud.models.graph import LayerGraph
from edgecloud.models.network import Network
from edgecloud.models.rows import Ops, Piece, RowOps, RowPlan, head_plan, tail_plan
from edgecloud.net.tensors import Array
from edgecloud.predictor import store
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.profile import Machine, Profile, ProfileKey, Progress
from edgecloud.predictor.quota import Quota
from edgecloud.utils.cpu_limit import cpu_limit
from edgecloud.utils.errors import UsageError
from edgecloud.utils.inference_utils import CPU, Clock, work_clock

__all__ = [
    "AUTO",
    "BACKENDS",
    "ONNXRUNTIME",
    "OPENVINO",
    "SEGMENTS_KEPT",
    "TORCH",
    "BaseExecutor",
    "CpuShare",
    "Executor",
    "Ran",
    "Segment",
    "make_executor",
    "usual",
]
SEGMENTS_KEPT = 128
Result = TypeVar("Result")
Planner: TypeAlias = Callable[[LayerGraph, Ops, frozenset[int], Sequence[Piece]], RowPlan | None]


class Executor(Protocol):
    """Runs segments of one network on one device.

    Arrays are numpy's, of the shapes in the graph, or with more than one input in the first axis. Moments and durations
    are seconds of time.perf_counter.
    """

    @property
    def network(self) -> Network:
        """The network whose segments it runs."""

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

    def row_ops(self, layers: frozenset[int]) -> RowOps | None:
        """What can be computed by rows in the segment of these layers; None where it cannot run so. Loads nothing."""

    def tail_rows(self, layers: frozenset[int], pieces: Sequence[Piece], until: int | None = None) -> RowPlan | None:
        """How a tail would run by rows, up to a layer, while its inputs come in these chunks; None where that gains
        nothing, or cannot be done. Nothing is loaded. Raises ValueError where the chunks are not all of the inputs."""

    def head_rows(self, layers: frozenset[int], pieces: Sequence[Piece]) -> RowPlan | None:
        """The same of a head whose outputs leave in these chunks."""

    def tail_by_rows(self, plan: RowPlan) -> TailStream:
        """Make a tail ready that runs by rows, for one run; the plan is one of `tail_rows`."""

    def head_by_rows(self, plan: RowPlan) -> HeadStream:
        """Make a head ready that runs by rows, for one run; the plan is one of `head_rows`."""

    def forget(self, layers: frozenset[int]) -> None:
        """Let the segment of these layers go; where it is wanted all the same it is made again."""

    def warm_up(self, segment: Segment, arrays: Sequence[Array]) -> None:
        """Run a segment once, at full speed: what a back-end does only the first time is then done."""

    def slow_down(self, started: float, work_s: float) -> float:
        """Let other work of this device, which began at `started`, last as long as on the emulated one; returns how
        long that was."""

    def ahead(self) -> AbstractContextManager[Until]:
        """Inside, work of this thread is not waited for on an emulated device; gives what says until when it lasts."""

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


class BaseExecutor(ABC):
    """What all back-ends share: segments that are kept, clocks, emulated and real shares of a processor, profiles.

    A back-end adds `backend`, `machine`, `_make` and `_measure`. `clock` is read when its device has finished what it
    was given; `is_processor` says that this device is the processor, which quotas are for.
    """

    backend: ClassVar[str]

    def __init__(
        self,
        network: Network,
        share: CpuShare | None,
        clock: Clock,
        *,
        is_processor: bool = True,
        is_behind: bool = False,
    ) -> None:
        """One that `is_behind` others measures with patience: they take the processor away."""
        self._network = network
        self._share = share
        self._clock = clock
        self._is_processor = is_processor
        self._is_behind = is_behind
        self._quota: Quota | None = None
        self._segments: OrderedDict[frozenset[int], Segment] = OrderedDict()

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """What measured times of this executor depend on."""

    @abstractmethod
    def _make(self, layers: frozenset[int]) -> Segment:
        """Build the segment of these layers."""

    @abstractmethod
    def _measure(self, gauge: Gauge, key: ProfileKey, progress: Progress, *, tails: bool) -> Profile:
        """Time the layers now."""

    @property
    def network(self) -> Network:
        """The network whose segments it runs."""
        return self._network

    def load(self, layers: frozenset[int]) -> Segment:
        """Build or find a segment; the least recently used one goes when there are too many."""
        if layers not in self._segments:
            self._segments[layers] = self._make(layers)
            if len(self._segments) > SEGMENTS_KEPT:
                self._segments.popitem(last=False)
        self._segments.move_to_end(layers)
        return self._segments[layers]

    def has(self, layers: frozenset[int]) -> bool:
        """Whether the segment of these layers is ready."""
        return layers in self._segments

    def forget(self, layers: frozenset[int]) -> None:
        """Let a segment go that is not wanted any more."""
        self._segments.pop(layers, None)

    def run(self, segment: Segment, arrays: Sequence[Array]) -> Ran:
        """Run a segment; the outputs may share memory with the inputs, which stay as they are."""
        is_first = segment.runs == 0
        results, seconds = self.timed(lambda: segment(arrays))
        return Ran(results, seconds, is_first=is_first, backend=self.backend)

    def timed(self, call: Callable[[], Result]) -> tuple[Result, float]:
        """What a call of this device's work returns, and the seconds that it took, on the emulated processor if any."""
        started, work_started = self._clock(), work_clock()
        result = call()
        if self._share is not None:
            return result, self._share.stretch(started, work_clock() - work_started)
        return result, self._clock() - started

    @property
    def rows(self) -> RowBackend | None:
        """What runs segments by rows; None where this back-end does not."""
        return None

    def row_ops(self, layers: frozenset[int]) -> RowOps | None:
        """What it can compute by rows, of every segment the same."""
        return None if self.rows is None else RowOps(self.backend, self.rows.ops)

    def tail_rows(self, layers: frozenset[int], pieces: Sequence[Piece], until: int | None = None) -> RowPlan | None:
        """How a tail would run by rows, up to a layer, while its inputs come in these chunks; None where that gains
        nothing."""
        return self._planned(partial(tail_plan, until=until), layers, pieces)

    def head_rows(self, layers: frozenset[int], pieces: Sequence[Piece]) -> RowPlan | None:
        """How a head would run by rows so that its outputs leave in these chunks; None where that gains nothing."""
        return self._planned(head_plan, layers, pieces)

    def _planned(self, plan: Planner, layers: frozenset[int], pieces: Sequence[Piece]) -> RowPlan | None:
        rows = self.rows
        planned = None if rows is None else plan(self._network.graph, rows.ops, layers, pieces)
        if rows is None or planned is None:
            return None
        planned = replace(planned, backend=self.backend)
        return planned if rows.takes(planned) else None

    def tail_by_rows(self, plan: RowPlan) -> TailStream:
        """One run of a tail by rows. Raises UsageError for a plan that is not this back-end's."""
        return TailStream(self, self._rows(plan), plan)

    def head_by_rows(self, plan: RowPlan) -> HeadStream:
        """One run of a head by rows. Raises UsageError for a plan that is not this back-end's."""
        return HeadStream(self, self._rows(plan), plan)

    def _rows(self, plan: RowPlan) -> RowBackend:
        if self.rows is None or plan.backend != self.backend:
            raise UsageError(f"{self.backend} does not run {self._network.graph.name} by rows as {plan.backend} would")
        return self.rows

    def slow_down(self, started: float, work_s: float) -> float:
        """Let other work of this device, which began at `started`, last as long as on the emulated one; returns how
        long that was."""
        return time.perf_counter() - started if self._share is None else self._share.stretch(started, work_s)

    def ahead(self) -> AbstractContextManager[Until]:
        """Inside, work of this thread is not waited for on an emulated device; gives what says until when it lasts."""
        return nullcontext(time.perf_counter) if self._share is None else self._share.ahead()

    def warm_up(self, segment: Segment, arrays: Sequence[Array]) -> None:
        """Run a segment once, at full speed: what a back-end does only the first time is then done."""
        segment(arrays)

    def profile(
        self, folder: Path, progress: Progress = lambda _: None, *, tails: bool, is_fresh: bool = False
    ) -> Profile:
        """In seconds of work: an emulated share is not in them, so one profile serves every share.

        `is_fresh` measures again even where the times are known.
        """
        key = self._key()
        profile = None if is_fresh else store.load(folder, key, len(self._network.graph.layers))
        if profile is None or (tails and not profile.tails):
            is_work = self._share is not None or self._quota is not None
            profile = self._measure(self._gauge(folder, is_work=is_work), key, progress, tails=tails)
            store.save(folder, profile, self._network.graph)
        return profile

    def _gauge(self, folder: Path, *, is_work: bool) -> Gauge:
        if not self._is_processor:
            return Gauge(self._clock, is_elapsed=True)
        return Gauge.of(self._clock, self.machine.threads, folder, asdict(self.machine), is_work=is_work)

    def kept_profile(self, folder: Path, *, tails: bool) -> Profile | None:
        """The same if it was measured before, else None; nothing is run."""
        profile = store.load(folder, self._key(), len(self._network.graph.layers))
        return profile if profile is None or profile.tails or not tails else None

    def _key(self) -> ProfileKey:
        machine, graph = self.machine, self._network.graph
        return ProfileKey(
            model=graph.name,
            graph=graph.digest,
            weights=self._network.weights.digest,
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
        limit = cpu_limit() if self._is_processor and self._share is None else None
        share = 1.0 if limit is None else limit.cores / self.machine.threads
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
    def share(self) -> float:
        """Of a core, that is there in the long run, emulated or allowed; 1 where nothing limits it."""
        if self._quota is not None:
            return self._quota.share
        return 1.0 if self._share is None else self._share.share


AUTO, TORCH, ONNXRUNTIME, OPENVINO = "auto", "torch", "onnxruntime", "openvino"


class Maker(Protocol):
    """Makes an executor for a network and the name of a device."""

    def __call__(self, network: Network, device: str, share: CpuShare | None, *, is_behind: bool) -> Executor:
        """Raises UsageError where the back-end cannot run that."""


def _torch(network: Network, device: str, share: CpuShare | None, *, is_behind: bool) -> Executor:
    from edgecloud.engine.torch_executor import TorchExecutor

    return TorchExecutor(_in_torch(network), device, share, is_behind=is_behind)


def _in_torch(network: Network) -> Network:
    """The network itself, or the one that a bundle was made of."""
    from edgecloud.models.bundle_network import BundleNetwork, in_torch

    return in_torch(network) if isinstance(network, BundleNetwork) else network


def _onnxruntime(network: Network, device: str, share: CpuShare | None, *, is_behind: bool) -> Executor:
    from edgecloud.engine.onnxruntime_executor import OnnxRuntimeExecutor

    return OnnxRuntimeExecutor(network, device, share, is_behind=is_behind)


def _openvino(network: Network, device: str, share: CpuShare | None, *, is_behind: bool) -> Executor:
    from edgecloud.engine.openvino_executor import OpenVinoExecutor

    return OpenVinoExecutor(network, device, share, is_behind=is_behind)


BACKENDS: dict[str, Maker] = {TORCH: _torch, ONNXRUNTIME: _onnxruntime, OPENVINO: _openvino}
"""Imported by who asks."""


def make_executor(
    network: Network,
    device: str,
    share: CpuShare | None = None,
    backend: str = AUTO,
    *,
    is_behind: bool = False,
) -> Executor:
    """What runs the segments of a network on a device, slowed down to a share of a core where one is given.

    `auto` is what the network was made for: engine.backend_choice compares. With `is_behind` it measures with patience,
    in a process that others take the processor away from.
    """
    if backend == AUTO:
        backend = usual(network, device)
    if backend not in BACKENDS:
        raise UsageError(f"backend is one of {', '.join((AUTO, *BACKENDS))}, not {backend!r}")
    return BACKENDS[backend](network, device, share, is_behind=is_behind)


def usual(network: Network, device: str) -> str:
    """The back-end that a network was made for: ONNX Runtime of a bundle, on the processor."""
    from edgecloud.models.bundle_network import BundleNetwork

    return ONNXRUNTIME if isinstance(network, BundleNetwork) and device == CPU else TORCH
