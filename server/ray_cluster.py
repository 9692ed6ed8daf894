"""How many workers Ray's nodes have room for, what each is given, and when it is started again. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgecloud.utils.errors import UsageError

CPU, GPU = "CPU", "GPU"
ALMOST = 1e-6
"""Ray counts in ten-thousandths: 3 x 0.3333 of a core are one."""


MOST = 1024


@dataclass(frozen=True)
class Share:
    """What one worker is given of a node."""

    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """As many as it has cores: more would only wait for them."""
        return max(1, int(self.cpus + ALMOST))

    def fits_into(self, resources: Mapping[str, float]) -> int:
        """How many workers a node with these resources has room for."""
        counts = [
            int(resources.get(name, 0.0) / wanted + ALMOST)
            for name, wanted in ((CPU, self.cpus), (GPU, self.gpus))
            if wanted > 0
        ]
        return min(counts, default=0)


def share_of(cpus: str, gpus: str, *, threads: int | None, is_on_gpu: bool) -> Share:
    """What was asked for: texts of flags, "" where nothing was. By default as many cores as threads, or one, and a GPU
    where the device is one. Raises UsageError."""
    given = Share(
        _amount("--ray-cpus", cpus, float(threads or 1)), _amount("--ray-gpus", gpus, 1.0 if is_on_gpu else 0.0)
    )
    if not given.cpus and not given.gpus:
        raise UsageError("--ray-cpus 0: a worker needs a share of a core or of a GPU")
    return given


def _amount(flag: str, text: str, default: float) -> float:
    if not text:
        return default
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0.0 <= amount <= MOST or (amount > 1.0 and amount != int(amount)):
        raise UsageError(f"{flag} {text}: give a whole number, or a part of 1 such as 0.5")
    return amount


def count_of(text: str) -> int | None:
    """How many workers `ray:N` wants; None for `ray`, as many as there is room for. Raises UsageError."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= MOST):
        raise UsageError(f"--workers ray:{text}: give a number of workers from 1 to {MOST}, or --workers ray")
    return int(text)


def room(nodes: Iterable[Mapping[str, object]], share: Share) -> int:
    """How many workers the living nodes have room for, as `ray.nodes()` lists them; at least one, which makes Ray's own
    autoscaler start a node where there is none yet."""
    total = 0
    for node in nodes:
        resources = node.get("Resources")
        if node.get("Alive") and isinstance(resources, Mapping):
            total += share.fits_into(resources)
    return max(1, total)


def pause_s(failures: int) -> float:
    """How long to wait before a worker that failed so many times in a row is started again: 1 s, 2 s, up to 30 s."""
    return float(min(30.0, 2.0 ** (max(0, min(failures, 10)) - 1))) if failures else 0.0


def surplus(waiting: Iterable[int], serving: Iterable[int], wanted: int) -> list[int]:
    """Which of the workers, by number, are too many: first those that do not serve yet, the highest number first."""
    kept = sorted(serving), sorted(waiting)
    too_many = len(kept[0]) + len(kept[1]) - wanted
    order = [*reversed(kept[1]), *reversed(kept[0])]
    return order[: max(0, too_many)]
