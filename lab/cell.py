"""Measures one cell: runs the real edge cut by cut and converts its output into records."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgecloud.lab.baselines import registry
from edgecloud.lab.baselines.inputs import CellInfo
from edgecloud.lab.baselines.registry import AUTO
from edgecloud.lab.grid import FALLBACK, Place, Want, flags_for, next_attempt
from edgecloud.lab.programs import Program, program
from edgecloud.lab.pruning import CROSSING
from edgecloud.lab.reaper import Reaper
from edgecloud.lab.records import CellRecord
from edgecloud.lab.spec import Spec
from edgecloud.lab.testbed import Testbed, cores
from edgecloud.utils.errors import AppError

READY_S = 600.0  # for the edge to build its network, and the cloud to measure it
ANSWER_S = 600.0  # for all repeats of one cut
TIMES = (
    "edge_s",
    "encode_s",
    "transfer_s",
    "queue_s",
    "cloud_s",
    "total_s",
    "payload_bytes",
    "raw_bytes",
    "received_bytes",
)


class NoChoice(AppError):
    """A baseline that cannot choose here; all others can be measured."""


@dataclass
class CellEdge:
    """A running edge of one cell."""

    place: Place
    points: int
    spec: Spec
    cache_dir: Path
    program: Program
    _auto: dict[str, Any] | None = field(default=None, init=False)

    def document(self, want: Want) -> tuple[str, dict[str, Any]]:
        """Have something measured; returns what was asked, and what the edge printed."""
        text = want.asked or self._chosen(want.who)
        self.program.say(text)
        document = read_document(self.program.line(ANSWER_S))
        if want.who == AUTO:
            self._auto = document
        return text, document

    def _chosen(self, who: str) -> str:
        """The choice of a baseline, which may look at what the edge found out."""
        if self._auto is None:
            self.document(Want(AUTO, AUTO))
        assert self._auto is not None  # set by that
        cell = self.place.cell
        try:
            about = (cell.model, self.points, self._auto, self.cache_dir, cell.cpu, self.spec.accuracy_budget)
            return registry.points_text(who, CellInfo(*about))
        except AppError as error:
            raise NoChoice(f"{who} cannot choose: {error}") from error


def read_document(line: str) -> dict[str, Any]:
    """One line of the edge. Raises AppError where it is an error, or nothing that can be read."""
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise AppError(f"edge_api.py printed {line[:80]!r} instead of JSON")
    if "error" in document:
        raise AppError(str(document["error"].get("message", "it failed")))
    return document


@contextmanager
def edge(
    place: Place, spec: Spec, testbed: Testbed, address: tuple[str, int], folder: Path, reaper: Reaper
) -> Iterator[CellEdge]:
    """Start the edge of a cell, wait until its network is built, and give it its share of a core."""
    cell, cache_dir = place.cell, folder / "cache"
    command = [
        *("edge_api.py", "-t", cell.model, "-i", address[0], "-p", str(address[1]), "--points", "-", "--json"),
        *("--overlap", "off"),  # the report stacks the stages, and published ways to cut know no overlap
        *(
            "--repeat",
            str(spec.repeat),
            "--warm-up",
            str(spec.warm_up),
            "--threads",
            "1",
            "--objective",
            cell.objective,
        ),
        *("--power", cell.power, "--radio", cell.radio, "--cache-dir", str(cache_dir), "--times", "measured"),
        *testbed.edge_arguments(cell.cpu),
        *(["--accuracy-budget", f"{100 * spec.accuracy_budget:g}%"] if spec.accuracy_budget else []),
        *spec.codec_file_flags(),
        *(["--verify"] if spec.verify else []),
    ]
    log = folder / "logs" / f"{cell.slug}.edge.log"
    with program(command, log, reaper, prefix=testbed.on_edge, cores=cores().edge, threads=1) as edge_program:
        ready = read_document(edge_program.line(READY_S))
        testbed.limit(edge_program.pid, cell.cpu)
        yield CellEdge(place, int(ready["points"]), spec, cache_dir, edge_program)


def measure(
    cell_edge: CellEdge, want: Want, before: list[CellRecord], environment: str, keep: Callable[[CellRecord], None]
) -> list[CellRecord]:
    """Measure one group, again where its times are too far apart; every record is kept at once. Returns the last."""
    attempt, tries = next_attempt(before, cell_edge.spec.repeat) or 0, 0
    while True:
        text, document = cell_edge.document(want)
        tries += 1
        records = records_of(document, cell_edge.place, want, text, environment, attempt, tries, cell_edge.points)
        for record in records:
            keep(record)
        if next_attempt(records, cell_edge.spec.repeat) is None:
            return records
        attempt += 1


def records_of(
    document: dict[str, Any],
    place: Place,
    want: Want,
    text: str,
    environment: str,
    attempt: int,
    tries: int,
    points: int,
) -> list[CellRecord]:
    """The repeats that one document holds."""
    plan, repeats = document["plan"] | {"asked": text, "points": points}, document["measured"]["repeats"]
    if want.who == AUTO:
        plan |= {CROSSING: crossing(document, points)}
    is_fallback = any(run["completed_by"] == FALLBACK for run in repeats)
    flags = flags_for([run["total_s"] for run in repeats], tries, is_fallback=is_fallback)
    verify, top = document.get("verify"), document["result"]["top"]
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return [
        CellRecord(
            environment=environment,
            at=now,
            cell=place.cell,
            who=want.who,
            point=plan["point"],
            layer=plan["layer"] or ",".join(plan["boundary"]),
            codec=plan["codec"],
            repeat=number,
            plan=plan,
            link_seen=document["link"] if document["link"]["up_bytes_per_s"] else None,
            measured={name: run[name] for name in TIMES},
            energy=document.get("energy"),
            result_top=top[0]["index"] if top else None,
            completed_by=run["completed_by"],
            matches=None if verify is None else bool(verify["matches"]),
            attempt=attempt,
            flags=flags,
        )
        for number, run in enumerate(repeats)
    ]


def crossing(document: dict[str, Any], points: int) -> list[int]:
    """Bytes that the edge would send at each point, as it would pack them."""
    sizes = {each["point"]: int(each["boundary_bytes"]) for each in document["candidates"]}
    return [sizes.get(point, 0) for point in range(points)]
