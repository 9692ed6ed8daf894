"""The power profile and radio of a plan."""

from dataclasses import dataclass

from edgecloud.partition.cost import Link, Power
from edgecloud.predictor.energy import PowerProfile, Radio, load_profile


@dataclass(frozen=True)
class PowerChoice:
    """The power profile of this device, and the radio it sends with."""

    profile: PowerProfile
    radio_name: str
    radio: Radio

    @classmethod
    def of(cls, profile: str, radio: str) -> "PowerChoice":
        """Raises UsageError where there is no such profile or radio."""
        power_profile = load_profile(profile)
        return cls(power_profile, radio, power_profile.radio(radio))

    def at(self, link: Link) -> Power:
        """Watts on this link."""
        return Power(
            self.profile.compute_w,
            self.profile.idle_w,
            self.radio.transmit_w(link.up_bytes_per_s),
            self.radio.receive_w(link.down_bytes_per_s),
        )
