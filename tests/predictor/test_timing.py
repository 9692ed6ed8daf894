"""Measuring a network on a machine whose speed changes: what is kept is what it takes when it is quiet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import Traced
from edgecloud.predictor import reference, timing, watch
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import HEAVY, LIGHT, Pace, mix_of
from edgecloud.predictor.profile import Profile, ProfileKey
from edgecloud.predictor.reference import Quiet, Reference
from edgecloud.predictor.timing import measure, mixes_of
from edgecloud.utils.inference_utils import work_clock
from tests import bundles

KEY = ProfileKey("m", "g", "w", "cpu x", 1, "torch", "work", "2")
EACH_S = 1e-3
QUIET = Pace(3e-4, 5e-4)
QUIET_FOR_S, PERIOD_S = 0.03, 0.7
SLOWER = (3.0, 2.0, 4.0)
"""By how much, period after period, from the first pass on. A run and the readings around it fit into a period."""


class Machine:
    """One whose time passes by what is computed on it alone, and that is slower in some periods than in others.

    A layer takes `EACH_S` on it when it is quiet, and the reference work what `QUIET` says.
    """

    def __init__(self, *, drifts: bool) -> None:
        self.now_s = 0.0
        self._drifts = drifts
        self.__name__ = "machine"  # torch.fx names nodes by it

    def __call__(self) -> float:
        """It is a clock, too."""
        return self.now_s

    def slower(self) -> float:
        """Than when it is quiet."""
        if not self._drifts or self.now_s < QUIET_FOR_S:
            return 1.0
        return SLOWER[int((self.now_s - QUIET_FOR_S) / PERIOD_S) % len(SLOWER)]

    def work(self, quiet_s: float, power: float = 1.0) -> None:
        """Something that slows down by a power of what the reference work does."""
        self.now_s += quiet_s * self.slower() ** power

    def rest(self, seconds: float) -> None:
        """What `time.sleep` does."""
        self.now_s += seconds

    def pieces(self) -> type:
        """The reference work, on this machine."""

        class Work:
            def compute(self) -> None:
                machine.work(QUIET.compute_s)

            def memory(self) -> None:
                machine.work(QUIET.memory_s)

        machine = self
        return Work

    def runs(self, traced: Traced, *, is_elapsed: bool) -> None:
        """Layers of a network are computed on it from now on."""

        def ran(layer: nn.Module, _x: Any, _y: Any) -> None:
            mix = mix_of(sum(tensor.nbytes for tensor in layer.parameters()))
            mix = mix.in_all if is_elapsed else mix
            self.work(EACH_S, mix.compute + mix.memory)

        for layer in traced.module.modules():
            if not list(layer.children()):
                layer.register_forward_hook(ran)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def some_layers() -> tuple[Traced, torch.Tensor]:
    """Two light layers and three with many weights, by turns."""
    layers = (nn.Linear(64, 5000), nn.ReLU(), nn.Linear(5000, 64), nn.Tanh(), nn.Linear(64, 5000))
    return bundles.traced_of(nn.Sequential(*layers), (1, 64))


def measured_on(machine: Machine, folder: Path, patched: pytest.MonkeyPatch, *, is_elapsed: bool) -> Profile:
    traced, x = some_layers()
    machine.runs(traced, is_elapsed=is_elapsed)
    machine.now_s = 0.0
    its_time = SimpleNamespace(perf_counter=machine, sleep=machine.rest)
    for module in (reference, timing, watch):
        patched.setattr(module, "time", its_time)
    patched.setattr(watch, "waited_s", lambda: 0.0)
    patched.setattr(reference, "_Work", machine.pieces())
    gauge = Gauge(machine, is_elapsed=is_elapsed, reference=Reference(1, machine), quiet=Quiet(folder, {}))
    with one_thread():
        return measure(traced, (x,), gauge, KEY, lambda _: None, tails=True)


@pytest.mark.parametrize("drifts", [False, True])
@pytest.mark.parametrize("is_elapsed", [False, True])
def test_what_is_kept_is_relative_to_the_speed_of_that_moment(
    drifts: bool, is_elapsed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly what a layer takes on the quiet machine; without the scaling it is two to eight times as much."""
    machine = Machine(drifts=drifts)
    found = measured_on(machine, tmp_path, monkeypatch, is_elapsed=is_elapsed)
    assert machine.now_s > 2 * PERIOD_S, "it was never at another speed"
    assert found.seconds == pytest.approx((0.0, *[EACH_S] * 5))
    assert found.pace is not None
    assert astuple(found.pace) == pytest.approx(astuple(QUIET))
    assert found.noise is not None
    assert found.noise.whole == pytest.approx(0.0, abs=1e-9)
    assert len(found.tails) >= 3
    together = 1e-9 if is_elapsed or not drifts else 0.1  # the layers of a tail have one mix in all
    for layer, times in found.tails.items():
        assert times == pytest.approx([EACH_S * (5 - layer)] * len(times), rel=together)


def test_tails_are_measured_beside_it(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    told: list[float] = []
    gauge = Gauge.of(work_clock, 1, tmp_path, {"device": "x"}, is_work=True)
    subject = network("le_net")
    with one_thread():
        found = measure(subject.traced, subject.example.tensors, gauge, KEY, told.append, tails=True)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert found.pace is not None
    assert 0 < found.first < len(found.passes)
    assert found.noise is not None
    assert len(found.tails) >= 3
    assert all(s > 0 for times in found.tails.values() for s in times)


def test_a_layer_without_weights_is_a_light_one(tmp_path: Path) -> None:
    gauge = Gauge.of(work_clock, 1, tmp_path, {}, is_work=True)
    assert mixes_of(gauge, some_layers()[0]) == (LIGHT, HEAVY, LIGHT, HEAVY, LIGHT, HEAVY)
