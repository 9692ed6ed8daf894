"""Measures single layers on this machine for predictors: deployment.py profile --role."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecloud.engine.executor import ONNXRUNTIME, TORCH
from edgecloud.engine.times import for_backend
from edgecloud.models.specs import JOINED_KINDS, KINDS
from edgecloud.predictor import dataset
from edgecloud.predictor.collecting import Collected, Collector
from edgecloud.predictor.dataset import COLUMNS, Dataset, Machine, to_cells
from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import Pace, noise_by_kind, within
from edgecloud.predictor.quality import FEWEST_ROWS, enough_s
from edgecloud.predictor.store import default_folder
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import write_atomically, writing
from edgecloud.utils.inference_utils import (
    CPU,
    device_name,
    find_device,
    keep_freed_memory,
    set_threads,
    usual_threads,
    wall_clock,
)
from edgecloud.utils.names import is_checkout
from edgecloud.utils.progress import Show

if TYPE_CHECKING:
    import torch

ABOUT = "about.json"
SAVE_EVERY_S = 10.0
SAME = 0.2  # the difference that is told
MOST_AGAIN = 5_000  # layers measured twice that are kept


@dataclass(frozen=True)
class SurveyConfig:
    """What is measured, for how long, and where the rows go."""

    role: str
    device: str
    threads: int | None
    budget_s: float
    folder: Path
    is_fresh: bool = False
    backend: str = TORCH


@dataclass(frozen=True)
class Survey:
    """Where a survey stands when it ends."""

    machine: Machine
    folder: Path
    collected: Collected

    @property
    def kinds(self) -> dict[str, int]:
        """Rows of each kind."""
        return {kind: len(rows) for kind, rows in sorted(self.collected.rows.items())}

    @property
    def missing(self) -> dict[str, int]:
        """Kinds that have too few rows to fit anything, with their rows."""
        kinds = self.kinds
        return {kind: kinds.get(kind, 0) for kind in sorted(self.drawn) if kinds.get(kind, 0) < FEWEST_ROWS}

    @property
    def drawn(self) -> frozenset[str]:
        """Kinds that its random networks have."""
        return _BENCHES[self.machine.backend].drawn()

    @property
    def enough_s(self) -> float | None:
        """The seconds of measuring that would do; None where no kind is missing."""
        return enough_s(self.kinds, self.drawn, FEWEST_ROWS, self.collected.spent_s)

    @property
    def noise(self) -> Mapping[str, float]:
        """By kind, the P90 of the differences of layers that were measured twice, as a share."""
        return noise_by_kind(self.collected.again)

    @property
    def noise_text(self) -> str:
        """How well a second measurement predicts the first, for people; "" where nothing was measured twice."""
        again = self.collected.again
        if not again:
            return ""
        agree = within(((first_s, second_s) for _, first_s, second_s in again), SAME)
        return f"noise: {agree:.0%} of {len(again)} layers measured twice agree within {SAME:.0%}"

    @property
    def threads(self) -> str:
        """How many, for people."""
        return f"{self.machine.threads} thread{'' if self.machine.threads == 1 else 's'}"


def budget_s(surveys: Sequence[Survey]) -> float | None:
    """The --budget in seconds, which all of these share evenly, that would do; None where no kind is missing."""
    needed = [each.enough_s for each in surveys if each.enough_s is not None]
    return max(needed) * len(surveys) if needed else None


def is_beside(role: str, threads: int) -> bool:
    """Whether rows and predictors are kept beside the role's usual ones: those of one thread of a larger edge."""
    return role == "edge" and threads == 1 and usual_threads() > 1


def datasets() -> Path:
    """Where the rows of all roles are: in a checkout predictor/dataset, installed the cache folder's dataset.

    Nothing is ever written into an installation. Raises UsageError for a user who has no home.
    """
    return Path(dataset.__file__).with_name("dataset") if is_checkout() else default_folder() / "dataset"


def folder_of(role: str, threads: int, backend: str = TORCH) -> Path:
    """Where the rows of a role are: `edge`, `edge-1t`, `edge-onnxruntime`."""
    folder = for_backend(datasets() / role, backend)
    return folder.with_name(f"{folder.name}-{threads}t") if is_beside(role, threads) else folder


def one_thread_survey() -> Path:
    """The rows of an edge of one thread, as the lab's is; the usual ones where there are no others."""
    one = folder_of("edge", 1)
    return one if one.exists() else datasets() / "edge"


def thread_counts(role: str, device: str, threads: int | None) -> tuple[int, ...]:
    """For how many threads times are needed: what was asked for, else all of this machine, and for an edge one as well.

    An emulated edge, one under a small quota and the lab's run one thread. The first number is what is usual here.
    """
    whole = threads or usual_threads()
    is_cpu = device == CPU or find_device(device).type == CPU
    return (whole, 1) if role == "edge" and threads is None and is_cpu and whole > 1 else (whole,)


@dataclass(frozen=True)
class _Bench:
    """How one back-end is surveyed."""

    machine: Callable[[str, int | None], Machine]
    """What times measured on this machine depend on, of a device and a number of threads, which is set."""
    collector: Callable[[SurveyConfig, Machine, int], Collector[Any]]
    """Of a survey on a machine, with a seed."""
    drawn: Callable[[], frozenset[str]]
    """Kinds of pieces that it measures."""


def this_machine(device: str, threads: int | None, backend: str = TORCH) -> Machine:
    """What times measured on this machine depend on. Raises UsageError for a missing device, and for a back-end that
    cannot be surveyed."""
    if backend not in _BENCHES:
        raise UsageError(
            f"there are no predictors for --backend {backend}: its networks are measured, in seconds "
            "(deployment.py profile -t FILE.bundle)"
        )
    return _BENCHES[backend].machine(device, threads)


def _torch_machine(device: str, threads: int | None) -> Machine:
    torch_device = find_device(device)
    import torch

    return Machine(f"{torch_device} {device_name(torch_device)}", set_threads(threads), torch.__version__, TORCH)


def _torch_collector(config: SurveyConfig, machine: Machine, seed: int) -> Collector[Any]:
    from edgecloud.predictor import collect

    device = find_device(config.device)
    return collect.Collector(device, _gauge_of(device, config.folder, machine), seed)


def _torch_drawn() -> frozenset[str]:
    from edgecloud.predictor.blocks import DRAWN

    return DRAWN


def _onnxruntime_machine(device: str, threads: int | None) -> Machine:
    from edgecloud.engine.onnxruntime_executor import machine_of

    if device != CPU:
        raise UsageError(f"--backend {ONNXRUNTIME} computes on the processor: use -d cpu")
    return machine_of(set_threads(threads))


def _onnxruntime_collector(config: SurveyConfig, machine: Machine, seed: int) -> Collector[Any]:
    from edgecloud.predictor import kernels

    gauge = Gauge.of(time.perf_counter, machine.threads, config.folder, asdict(machine), is_work=False)
    return kernels.Collector(machine.threads, gauge, seed)


def _onnxruntime_drawn() -> frozenset[str]:
    from edgecloud.predictor.kernels import KINDS_DRAWN

    return KINDS_DRAWN


_BENCHES = {
    TORCH: _Bench(_torch_machine, _torch_collector, _torch_drawn),
    ONNXRUNTIME: _Bench(_onnxruntime_machine, _onnxruntime_collector, _onnxruntime_drawn),
}


def survey(config: SurveyConfig, progress: Show) -> Survey:
    """Measure until the budget is spent, going on where an earlier call stopped. Interrupted, it keeps what it has.

    Raises UsageError where the folder holds rows of another machine, or cannot be written.
    """
    machine = this_machine(config.device, config.threads, config.backend)
    keep_freed_memory()
    collected = Collected() if config.is_fresh else _kept(config.folder, machine)
    if config.is_fresh:
        _clear(config.folder)
    saved_s = time.monotonic()

    def on_rows(now: Collected) -> None:
        nonlocal saved_s
        rows = sum(map(len, now.rows.values()))
        progress(f"measuring layers, {rows} so far", min(1.0, now.spent_s / config.budget_s))
        if time.monotonic() - saved_s > SAVE_EVERY_S:
            _save(config.folder, now, machine)
            saved_s = time.monotonic()

    progress("measuring layers", 0.0)
    if collected.spent_s < config.budget_s:
        try:
            collector = _BENCHES[config.backend].collector(config, machine, collected.networks)
            collector.run(collected, config.budget_s, on_rows)
        finally:
            _save(config.folder, collected, machine)
    return Survey(machine, config.folder, collected)


def _gauge_of(device: "torch.device", folder: Path, machine: Machine) -> Gauge:
    if device.type != "cpu":
        return Gauge(wall_clock(device), is_elapsed=True)
    return Gauge.of(wall_clock(device), machine.threads, folder, asdict(machine), is_work=False)


def _kept(folder: Path, machine: Machine) -> Collected:
    """What an earlier call measured; nothing where there was none."""
    if not (folder / ABOUT).is_file():
        return Collected()
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if "pace" not in about:
            raise UsageError(
                f"{folder} contains times of an earlier version: use --fresh to replace them, or another --output"
            )
        networks, spent_s = int(about["networks"]), float(about["spent_s"])
        pace = None if about["pace"] is None else Pace.read(about["pace"])
        again = [(str(kind), float(first_s), float(second_s)) for kind, first_s, second_s in about["again"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / ABOUT} is damaged ({error}): use --fresh to measure everything again") from None
    data = dataset.read(folder)
    if data.machine != machine:
        raise UsageError(
            f"{folder} contains times of another machine ({data.machine}, this is {machine}): "
            "use --fresh to replace them, or another --output"
        )
    rows = {kind: list(kept) for kind, kept in data.rows.items()}
    return Collected(rows, list(dataset.read_whole(folder)), networks, spent_s, pace, again)


def pace_of(folder: Path) -> Pace | None:
    """What the rows of a folder are relative to; None where it does not say, or is damaged, or is not a folder."""
    try:
        return Pace.read(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["pace"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def again_of(folder: Path) -> list[tuple[str, float, float]]:
    """Kinds of layers of a folder that were measured twice, with both times; empty where it does not say."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return [(str(kind), float(first_s), float(second_s)) for kind, first_s, second_s in about["again"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _clear(folder: Path) -> None:
    """Forget an earlier survey; files that it did not write stay."""
    names = {ABOUT, dataset.WHOLE, *(f"{kind}.csv" for kind in (*KINDS, *JOINED_KINDS))}
    for path in folder.glob("*"):
        if path.name in names:
            path.unlink()


def _save(folder: Path, collected: Collected, machine: Machine) -> None:
    if not collected.rows:
        return
    about = asdict(machine) | {"networks": collected.networks, "spent_s": round(collected.spent_s, 3)}
    about["pace"] = None if collected.pace is None else asdict(collected.pace)
    about["again"] = collected.again[-MOST_AGAIN:]
    try:
        dataset.write(folder, collected.rows, machine)
        dataset.write_whole(folder, collected.wholes)
        write_atomically(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from None


def write_excel(data: Dataset, path: Path) -> None:
    """A data set as a workbook: a sheet for each kind, and one with a chart of how the kinds compare.

    Raises UsageError for another suffix than .xlsx, or where it cannot be written.
    """
    from edgecloud.utils.excel_utils import Sheet, check_name, write_workbook

    check_name(path)
    machine = data.machine or Machine("unknown", 0, "unknown", "unknown")
    summary: list[list[str | int | float]] = [
        [kind, len(rows), sum(row.seconds for row in rows) / len(rows), max(row.seconds for row in rows)]
        for kind, rows in data.rows.items()
    ]
    sheets = [Sheet("kinds", ("kind", "rows", "mean_s", "slowest_s"), summary, ("kind", "mean_s"))]
    for kind, rows in data.rows.items():
        sheets.append(Sheet(kind, COLUMNS, [to_cells(row, machine) for row in rows]))
    notes = {name: str(value) for name, value in asdict(machine).items()} | {"source": data.source}
    with writing(path):
        write_workbook(path, sheets, notes)


def to_json(result: Survey, budget: float | None) -> dict[str, Any]:
    """The document of `deployment.py profile --role ROLE --json`; `budget` is the one that would do for all."""
    return {
        "measured_on": asdict(result.machine),
        "folder": str(result.folder),
        "networks": result.collected.networks,
        "spent_s": result.collected.spent_s,
        "kinds": result.kinds,
        "missing": result.missing,
        "enough_s": budget,
        "noise": {"twice": len(result.collected.again), "p90_by_kind": result.noise},
    }
