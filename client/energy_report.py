"""The energy of an inference: modeled from a power profile, and measured if the machine has a meter."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from edgecloud.client.power import PowerChoice
from edgecloud.net.link import LinkEstimate
from edgecloud.partition.cost import Energy, Link, Power, StageTimes, energy_of
from edgecloud.predictor.energy import find_meter


class Metered:
    """Joules of the whole device between now and `stop`, where it counts them."""

    def __init__(self) -> None:
        self._meter = find_meter()
        self._before_j = 0.0 if self._meter is None else self._meter.read_j()
        self._began = time.monotonic()
        self.document: dict[str, Any] | None = None

    def stop(self) -> None:
        """Read the meter again."""
        if self._meter is not None:
            used_j, lasted_s = self._meter.used_j(self._before_j), time.monotonic() - self._began
            self.document = {
                "meter": self._meter.name,
                "source": "measured",
                "all_runs_j": used_j,
                "all_runs_s": lasted_s,
            }


@dataclass(frozen=True)
class EnergyReport:
    """Joules of one inference: of the plan's predicted stages, of the measured stages, and the meter's."""

    profile: str
    radio: str
    predicted: Energy
    measured_stages: Energy
    meter: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        choice: PowerChoice,
        link: LinkEstimate | None,
        predicted: StageTimes,
        measured: StageTimes,
        metered: Metered,
        *,
        is_local: bool,
    ) -> "EnergyReport":
        """Apply the formula to predicted and to measured stages; both are modelled, only the meter measures joules.

        `is_local`: all of it ran here.
        """
        rates = Link(1.0, 1.0, 0.0) if link is None else Link(link.up_bytes_per_s, link.down_bytes_per_s, link.rtt_s)
        power = choice.at(rates) if link is not None else Power(choice.profile.compute_w, choice.profile.idle_w, 0, 0)
        plan_energy, run_energy = (energy_of(times, rates, power, is_local=is_local) for times in (predicted, measured))
        return cls(choice.profile.name, choice.radio_name, plan_energy, run_energy, metered.document)

    def to_json(self) -> dict[str, Any]:
        """The `energy` of the JSON document."""
        return {
            "source": "modelled",
            "profile": self.profile,
            "radio": self.radio,
            "predicted": _joules(self.predicted),
            "measured_stages": _joules(self.measured_stages),
            "meter": self.meter,
        }


def _joules(energy: Energy) -> dict[str, float]:
    return asdict(energy) | {"total_j": energy.total_j}
