"""Eager torch as a back-end. Segments share the parameters of the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from edgecloud.engine.executor import SEGMENTS_KEPT, BaseExecutor, CpuShare
from edgecloud.models import split
from edgecloud.models.network import Network
from edgecloud.models.rows import RowPlan
from edgecloud.models.torch_arrays import to_array, to_tensor
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.torch_rows import TorchRowRun, row_layers
from edgecloud.models.trace import Traced
from edgecloud.net.tensors import Array
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.profile import Machine, Profile, ProfileKey, Progress
from edgecloud.predictor.timing import measure
from edgecloud.utils.errors import UsageError
from edgecloud.utils.inference_utils import (
    device_name,
    find_device,
    keep_freed_memory,
    prepare_device,
    tell_torch,
    wall_clock,
)


@dataclass(frozen=True)
class TorchSegment:
    """One `engine.executor.Segment`: a part of the captured graph on a device."""

    part: split.Segment
    device: torch.device

    @property
    def inputs(self) -> tuple[int, ...]:
        """The layers whose outputs it takes."""
        return self.part.inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        """The layers whose outputs it returns."""
        return self.part.outputs

    @property
    def runs(self) -> int:
        """How often it has run."""
        return self.part.module.runs

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it; the inputs stay as they are."""
        with torch.inference_mode():
            outputs = self.part.module(*self._tensors(arrays))
            return [to_array(tensor) for tensor in outputs]

    def _tensors(self, arrays: Sequence[Array]) -> Iterator[torch.Tensor]:
        """Of what the segment writes into a copy: the caller may need it again, if the cloud does not answer, say."""
        for number, array in zip(self.part.inputs, arrays, strict=True):
            here = to_tensor(array)
            there = here.to(self.device)
            yield there.clone() if there is here and number in self.part.overwritten else there


class TorchRows:
    """One `engine.by_rows.RowBackend`. Nothing is made ready: rows are computed with the network's own parameters."""

    def __init__(self, traced: Traced) -> None:
        self._traced, self._layers = traced, row_layers(traced)
        self._ran: set[int] = set()
        """Hashes of plans, which are large."""
        self.ops = {number: layer.op for number, layer in self._layers.items()}

    def takes(self, plan: RowPlan) -> bool:
        """Any: nothing is made ready."""
        del plan
        return True

    def start(self, plan: RowPlan) -> tuple[TorchRowRun, bool]:
        """A run of a plan, and whether it is the first one."""
        about = hash(plan)
        is_first = about not in self._ran
        if len(self._ran) >= SEGMENTS_KEPT:
            self._ran.clear()
        self._ran.add(about)
        return TorchRowRun(self._traced, self._layers, plan), is_first


class TorchExecutor(BaseExecutor):
    """Runs segments of a network that was captured from a torch module."""

    backend = "torch"

    def __init__(
        self, network: Network, device: torch.device | str, share: CpuShare | None = None, *, is_behind: bool = False
    ) -> None:
        """One that `is_behind` others measures with patience. Raises UsageError for a device that is absent, and for a
        network that is no torch module."""
        if not isinstance(network, TorchNetwork):
            raise UsageError(f"{network.graph.name} is no network of torch: use another --backend")
        tell_torch()
        keep_freed_memory()
        self._device = find_device(str(device))
        prepare_device(self._device)
        is_processor = self._device.type == "cpu"
        super().__init__(network, share, wall_clock(self._device), is_processor=is_processor, is_behind=is_behind)
        self.traced = network.traced
        self.traced.module.to(self._device)

    @property
    def machine(self) -> Machine:
        """What measured times of this executor depend on."""
        device = f"{self._device} {device_name(self._device)}"
        return Machine(device, torch.get_num_threads(), torch.__version__, self.backend)

    @property
    def rows(self) -> "TorchRows | None":
        """What runs segments by rows: on the processor."""
        return self._by_rows if self._is_processor else None

    @cached_property
    def _by_rows(self) -> "TorchRows":
        return TorchRows(self.traced)

    def _make(self, layers: frozenset[int]) -> TorchSegment:
        return TorchSegment(split.segment(self.traced, layers), self._device)

    def _measure(self, gauge: Gauge, key: ProfileKey, progress: Progress, *, tails: bool) -> Profile:
        tensors = [each.to(self._device) for each in self._network.example.tensors]
        return measure(self.traced, tensors, gauge, key, progress, tails=tails, is_behind=self._is_behind)
