"""What times are measured with: a clock, and the reference work that is read with the same clock. Without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecloud.models.specs import LayerSpec
from edgecloud.predictor.pace import AT_START_S, HEAVY, LIGHT, NO_PACE, READ_TIMES, Mix, Pace, mix_of
from edgecloud.predictor.reference import Quiet, Reference, has_fine_work_clock
from edgecloud.utils.inference_utils import Clock, work_clock


@dataclass(frozen=True)
class Gauge:
    """The clock of the layers, and the reference work on as many threads."""

    clock: Clock
    is_elapsed: bool
    """Whether the clock goes on while others have the processor."""
    reference: Reference | None = None
    """None on an accelerator: what the processor does says nothing about that."""
    quiet: Quiet | None = None

    @classmethod
    def of(cls, clock: Clock, threads: int, folder: Path, machine: Mapping[str, Any], *, is_work: bool) -> "Gauge":
        """For the processor, whose quiet speed is kept in `folder`. `is_work`: in time of the processor, in any case.

        One thread is measured so wherever it can be: on a quiet machine that is the elapsed time, which `clock` tells,
        and on another one it is not the others' time.
        """
        threads = 1 if is_work else threads
        is_work = is_work or (threads == 1 and has_fine_work_clock())
        clock = work_clock if is_work else clock
        return cls(clock, not is_work, Reference(threads, clock), Quiet(folder, machine))

    def mixes(self, specs: Sequence[LayerSpec] | None, layers: int) -> tuple[Mix, ...]:
        """What every one of so many layers feels of a slowdown, the input first; `specs` leave the input out.

        None: they are of kinds that nobody knows, and count as heavy ones.
        """
        found = [HEAVY] * (layers - 1) if specs is None else [mix_of(spec.weight_bytes) for spec in specs]
        return tuple(mix.in_all if self.is_elapsed else mix for mix in (LIGHT, *found))


class Readings:
    """The reference work as it was read while something is measured."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._all = [] if gauge.reference is None else gauge.reference.read_for(AT_START_S)

    @property
    def last(self) -> Pace:
        """The newest one."""
        return self._all[-1] if self._all else NO_PACE

    def read(self) -> Pace:
        """Another one."""
        if self._gauge.reference is not None:
            self._all.append(self._gauge.reference.read(READ_TIMES))
        return self.last

    def quiet(self) -> Pace | None:
        """What the reference work takes on the quiet machine, by all that was read; None where there is none."""
        quiet = self._gauge.quiet
        return quiet.record(self._all) if quiet is not None and self._all else None
