"""Records of the lab as its programs would write them, by a formula that a test can work out again."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgecloud.lab.records import Cell, CellRecord, Environment, open_records, write_environment
from edgecloud.utils.units import parse_link

ENVIRONMENT = Environment(
    mode="emulated",
    why_mode="network namespaces need root",
    host={"cpu": "Cortex-A55", "cores": 4, "kernel": "6.1"},
    versions={"python": "3.11", "torch": "2.13.0"},
    threads=1,
    congestion_control="cubic",
    started="2026-11-21T13:00:00+00:00",
)
# bytes after each layer, and seconds of the layer on a whole core: sizes of AlexNet's first layers, then small ones
LAYERS: tuple[tuple[str, int, float], ...] = (
    ("input", 602_112, 0.0),
    ("conv1", 746_496, 0.02),
    ("pool1", 173_056, 0.01),
    ("conv2", 110_592, 0.06),
    ("conv3", 36_864, 0.09),
    ("fc", 4_000, 0.05),
)
CLOUD_FASTER, WATTS, SENDING_WATTS = 20.0, 6.0, 2.5
NOISE = (0.0, -0.01, 0.02)


def cell_of(cpu: float | None, link: str, model: str = "alex_net", objective: str = "latency") -> Cell:
    """A cell whose link is called by its rate."""
    return Cell(model, cpu, link, link.split(",")[0], objective=objective)


def stages(cell: Cell, point: int, sent: int | None = None) -> dict[str, float]:
    """Seconds of a cut, without noise."""
    up, down, rtt_s = parse_link(cell.link)
    edge_s = sum(seconds for _, _, seconds in LAYERS[: point + 1]) / (cell.cpu or 1.0)
    if point == len(LAYERS) - 1:
        return {"edge_s": edge_s, "encode_s": 0.0, "transfer_s": 0.0, "queue_s": 0.0, "cloud_s": 0.0, "total_s": edge_s}
    sent = LAYERS[point][1] if sent is None else sent
    transfer_s = sent / up + rtt_s + LAYERS[-1][1] / down
    cloud_s = sum(seconds for _, _, seconds in LAYERS[point + 1 :]) / CLOUD_FASTER
    total_s = edge_s + 0.001 + transfer_s + 0.0005 + cloud_s
    return {
        "edge_s": edge_s,
        "encode_s": 0.001,
        "transfer_s": transfer_s,
        "queue_s": 0.0005,
        "cloud_s": cloud_s,
        "total_s": total_s,
    }


def record(
    cell: Cell,
    point: int,
    repeat: int = 0,
    who: str = "point",
    codec: str = "raw",
    sent: int | None = None,
    **changes: object,
) -> CellRecord:
    """One inference; `changes` are fields of the record."""
    last, predicted = len(LAYERS) - 1, stages(cell, point, sent)
    times = {name: seconds * (1 + NOISE[repeat % len(NOISE)]) for name, seconds in predicted.items()}
    crossing = 0 if point == last else LAYERS[point][1] if sent is None else sent
    joules = times["edge_s"] * WATTS + times["transfer_s"] * SENDING_WATTS
    fields: dict[str, object] = {
        "environment": ENVIRONMENT.key,
        "at": f"2026-11-21T13:00:{repeat:02}+00:00",
        "cell": cell,
        "who": who,
        "point": point,
        "layer": LAYERS[point][0],
        "codec": codec,
        "repeat": repeat,
        "plan": {"point": point, "predicted": predicted, "boundary": [LAYERS[point][0]]},
        "link_seen": {"up_bytes_per_s": 1.0, "down_bytes_per_s": 1.0, "rtt_s": 0.0, "source": "given"},
        "measured": times | {"payload_bytes": crossing, "raw_bytes": crossing, "received_bytes": LAYERS[-1][1]},
        "energy": {"source": "modelled", "measured_stages": {"total_j": joules}},
        "result_top": 417,
        "completed_by": "edge" if point == last else "cloud" if point == 0 else "split",
        "matches": True,
    }
    return CellRecord(**(fields | changes))  # type: ignore[arg-type]


def grid(cells: Sequence[Cell], auto: int = 3, baselines: bool = True) -> Iterator[CellRecord]:
    """Every point of these cells three times, what was chosen, and what others would have."""
    rivals = {"all-edge": len(LAYERS) - 1, "all-cloud": 0, "neurosurgeon": 1} if baselines else {}
    for cell in cells:
        yield from (record(cell, point, repeat) for point in range(len(LAYERS)) for repeat in range(3))
        yield from (record(cell, auto, repeat, who="auto") for repeat in range(3))
        yield from (record(cell, point, repeat, who=who) for who, point in rivals.items() for repeat in range(3))


def write(folder: Path, records: Sequence[CellRecord]) -> Path:
    """A folder as `lab run` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_environment(folder, ENVIRONMENT)
    with open_records(folder) as writer:
        for each in records:
            writer.append(each)
    return folder
