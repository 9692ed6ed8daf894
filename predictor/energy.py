"""Power of a device for compute, transmission and idle: profiles in YAML, and energy meters.

The formula that turns them into joules is in `partition.cost`. A profile's numbers are a model; a meter's are measured;
what shows one says which.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.resources import shipped

log = logging.getLogger(__name__)

SHIPPED = shipped("predictor", "power")
MAX_FILE_BYTES = 64 << 10
MAX_W = 10_000.0
DEFAULT_PROFILE, DEFAULT_RADIO = "raspberry_pi_4", "wifi"
POWERCAP, HWMON = Path("/sys/class/powercap"), Path("/sys/class/hwmon")


@dataclass(frozen=True)
class Radio:
    """Milliwatts of a radio: alpha * Mbit/s + beta (JointDNN, equation 21)."""

    alpha_up_mw_per_mbps: float
    alpha_down_mw_per_mbps: float
    beta_mw: float

    def transmit_w(self, up_bytes_per_s: float) -> float:
        """Watts while sending at this rate."""
        return (self.alpha_up_mw_per_mbps * up_bytes_per_s * 8e-6 + self.beta_mw) / 1e3

    def receive_w(self, down_bytes_per_s: float) -> float:
        """Watts while receiving at this rate."""
        return (self.alpha_down_mw_per_mbps * down_bytes_per_s * 8e-6 + self.beta_mw) / 1e3


@dataclass(frozen=True)
class PowerProfile:
    """Watts of one device, computing and idle, and its radios by name."""

    name: str
    compute_w: float
    idle_w: float
    radios: dict[str, Radio]

    def radio(self, name: str) -> Radio:
        """Raises UsageError for a radio that the profile does not have."""
        if name not in self.radios:
            raise UsageError(f"the power profile {self.name} has no radio {name!r}: choose {', '.join(self.radios)}")
        return self.radios[name]


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the program."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml") if path.stem != "jointdnn")


def load_profile(name: str) -> PowerProfile:
    """A profile by name, or from a .yaml file. Raises UsageError that says what is wrong with it."""
    path = SHIPPED / f"{name}.yaml" if name in shipped_profiles() else Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"no power profile {name[:60]!r}: choose {', '.join(shipped_profiles())}, or a .yaml file")
    document = _read(path)
    radios = document.get("radios", "jointdnn")
    if radios == "jointdnn":
        radios = _read(SHIPPED / "jointdnn.yaml")
    if not isinstance(radios, dict) or not radios:
        raise UsageError(f"{path}: radios must be a table of radios, or jointdnn")
    return PowerProfile(
        name=str(document.get("name", path.stem))[:60],
        compute_w=_watts(document, "compute_w", path),
        idle_w=_watts(document, "idle_w", path),
        radios={str(radio): _radio(values, path) for radio, values in radios.items()},
    )


class _Loader(yaml.SafeLoader):
    """Plain data only, and no aliases: a few bytes of them expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


def _read(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} is too large for a power profile")
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML ({str(error).splitlines()[0][:100]})") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: a power profile must be a table with compute_w and idle_w")
    return document


def _radio(values: Any, path: Path) -> Radio:
    if not isinstance(values, dict):
        raise UsageError(
            f"{path}: a radio must be a table with alpha_up_mw_per_mbps, alpha_down_mw_per_mbps and beta_mw"
        )
    names = ("alpha_up_mw_per_mbps", "alpha_down_mw_per_mbps", "beta_mw")
    return Radio(*(_watts(values, name, path, MAX_W * 1e3) for name in names))


def _watts(values: dict[str, Any], name: str, path: Path, most: float = MAX_W) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageError(f"{path}: {name} must be a number of at least 0, not {str(value)[:40]!r}")
    if value > most:
        raise UsageError(f"{path}: {name} is {value:g}, which is implausibly high")
    return float(value)


# --- meters


@dataclass(frozen=True)
class Meter:
    """A counter of joules that the machine keeps itself."""

    name: str
    read_j: Callable[[], float]
    wraps_j: float = math.inf

    def used_j(self, before_j: float) -> float:
        """Joules since the counter stood at `before_j`; it starts again at its end."""
        used = self.read_j() - before_j
        return used if used >= 0 else used + self.wraps_j


def find_meter(powercap: Path = POWERCAP, hwmon: Path = HWMON) -> Meter | None:
    """The processor's own counter (RAPL), or an energy counter of the board; None where none can be read."""
    rapl = [(path, "energy_uj") for path in sorted(powercap.glob("*-rapl:[0-9]*")) if path.name.count(":") == 1]
    board = [(path, "energy1_input") for path in sorted(hwmon.glob("*"))]
    for folder, counter in (*rapl, *board):
        try:
            _microjoules(folder / counter)
            most = folder / "max_energy_range_uj"
            wraps_j = _microjoules(most) if most.is_file() else math.inf
            name = (folder / "name").read_text().strip() if (folder / "name").is_file() else folder.name
        except (OSError, ValueError) as error:
            log.info("no meter at %s: %s", folder, error)
            continue
        return Meter(f"{folder.name} {name}", partial(_microjoules, folder / counter), wraps_j)
    return None


def _microjoules(path: Path) -> float:
    return int(path.read_text()) / 1e6
