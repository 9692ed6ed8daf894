"""Times one network on this device, without a cloud: deployment.py profile."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from edgecloud.engine.backend_choice import choose
from edgecloud.engine.executor import AUTO
from edgecloud.models.network import Network
from edgecloud.predictor.layer_table import COLUMNS, LayerRow, cells, layer_table, to_csv
from edgecloud.predictor.profile import Profile, Progress
from edgecloud.utils.files import write_atomically, writing
from edgecloud.utils.inference_utils import check_device, set_threads
from edgecloud.utils.units import format_bytes, format_seconds


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network's layers with their times."""

    model: str
    origin: str
    source: str
    profile: Profile
    rows: tuple[LayerRow, ...]
    kept: Mapping[str, str]
    """Modules that could not be captured inside and are one layer each, with the reason."""


def described(network: Network, profile: Profile) -> MeasuredNetwork:
    """A network with its layers beside the times that were measured of them."""
    graph = network.graph
    return MeasuredNetwork(
        graph.name,
        network.weights.origin,
        network.example.source,
        profile,
        layer_table(graph, profile),
        network.kept,
    )


def measured(
    network: Network,
    device: str,
    threads: int | None,
    cache_dir: Path,
    progress: Progress = lambda _: None,
    *,
    tails: bool,
    is_fresh: bool,
    backend: str = AUTO,
) -> Profile:
    """Time the layers of a network that is loaded, or take the times from the cache. Raises UsageError."""
    check_device(device)
    set_threads(threads)
    executor = choose(network, device, None, backend, cache_dir).executor
    return executor.profile(cache_dir, progress, tails=tails, is_fresh=is_fresh)


def noise_text(profile: Profile) -> str:
    """How well a second measurement, later, predicts the first; "" where there was none."""
    return "" if profile.noise is None else str(profile.noise)


def notes(measured: MeasuredNetwork) -> dict[str, str]:
    """What the times depend on."""
    key = {name: str(value) for name, value in asdict(measured.profile.key).items()}
    return key | {
        "weights_origin": measured.origin,
        "input": measured.source,
        "passes": str(len(measured.profile.passes)),
        "noise": noise_text(measured.profile),
    }


def to_json(measured: MeasuredNetwork) -> dict[str, Any]:
    """The document of `deployment.py profile --json`."""
    return {
        "model": measured.model,
        "kept": dict(measured.kept),
        "measured_on": notes(measured),
        "layers": [asdict(row) for row in measured.rows],
        "total_s": measured.rows[-1].accumulated_s,
        "noise": None if measured.profile.noise is None else asdict(measured.profile.noise),
        "passes": [list(row) for row in measured.profile.passes],
    }


def write_csv(measured: MeasuredNetwork, path: Path) -> None:
    """The table as CSV. Raises UsageError where it cannot be written."""
    with writing(path):
        write_atomically(path, to_csv(measured.rows))


def write_excel(measured: MeasuredNetwork, path: Path) -> None:
    """The table as a workbook with a chart. Raises UsageError where it cannot be written."""
    from edgecloud.utils.excel_utils import Sheet, check_name, write_workbook

    check_name(path)
    rows = [cells(row) for row in measured.rows]
    sheet = Sheet(measured.model.replace(":", " "), COLUMNS, rows, ("layer", "seconds"))
    with writing(path):
        write_workbook(path, [sheet], notes(measured))


def to_table(measured: MeasuredNetwork) -> Table:
    """The table for people."""
    key = measured.profile.key
    title = f"{measured.model}, weights {measured.origin}, {key.device}, {key.threads} threads"
    if measured.profile.noise is not None:
        title += f"\nnoise: a second measurement differs by {noise_text(measured.profile)}"
    title += "".join(f"\nkept: {name} is one layer ({why})" for name, why in measured.kept.items())
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in ("", "layer", "kind", "time", "spread", "output", "elements", "size", "accumulated"):
        table.add_column(name, justify="left" if name in ("layer", "kind") else "right", no_wrap=True)
    for row in measured.rows:
        table.add_row(
            str(row.index),
            row.layer,
            row.kind,
            format_seconds(row.seconds),
            f"{format_seconds(row.fastest_s)} .. {format_seconds(row.slowest_s)}",
            "x".join(map(str, row.output_shape)),
            str(row.count),
            format_bytes(row.out_bytes),
            format_seconds(row.accumulated_s),
        )
    return table
