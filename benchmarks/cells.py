"""Wrong predictions in real cells: how far the cut that runs is from the best one, after fifteen inferences.

    python -m benchmarks.cells                    twelve cells, about six minutes on a quiet machine
    python -m benchmarks.cells --cells 0,1,2      some of them; what was measured before is kept

The real programs: cloud_api.py, lab.relay as the link, edge_api.py --emulate-cpu. Both read profiles whose seconds are
wrong on purpose: every kind of layer on either side has a factor of its own, from 0.3 to 3 (seeded), and the programs
are not told that. The link is chosen so that all on the edge and all on the cloud really take about as long, within a
factor of two: elsewhere an end wins whatever is predicted.

The cut that runs after fifteen inferences of forty is then compared with all others. An edge whose cuts are forced
(--points) runs every point once, in random order (at most sixteen, and none whose upload alone takes longer than all on
the edge); those within 1.25 x of the best, both ends and the one that ran are
run again in turns, and medians count. `noise` is by how much the medians of the even and of the odd turns differ, for
the best point. The best of several noisy medians is too low rather than too high, so the ratio is overstated.
"""

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.clouds import running_cloud
from benchmarks.fingerprint import RESULTS, fingerprint, write_table
from edgecloud.client.subprocesses import emulated_link
from edgecloud.models.graph import LayerGraph
from edgecloud.models.graph_json import parse
from edgecloud.predictor import store
from edgecloud.predictor.profile import SCHEMA
from edgecloud.predictor.store import StoredProfile, default_folder
from edgecloud.utils.commands import ROOT

MODELS = ("alex_net", "mobile_net", "efficientnet_lite0", "vgg_net")
CELLS = 12
LEAST, MOST = 0.3, 3.0
SOON, INFERENCES = 15, 40
RIGHT = 1.05
CLOSE, TURNS = 1.25, 6
MOST_POINTS = 16  # of a network with more, evenly spread ones and those that the edge ran
EDGE_S = (0.15, 0.4)  # of all on the edge
MOST_SHARE = 0.6
PICTURE = 0.13  # of the raw bytes, packed
ANSWER_S = 300.0
RECORDS = RESULTS / "worlds_real.jsonl"


@dataclass(frozen=True)
class Cell:
    """A network on an edge with so much of a core, behind a link, with the factors of both sides' profiles."""

    number: int
    model: str
    share: float
    link: str
    edge: Mapping[str, float]
    cloud: Mapping[str, float]


@dataclass(frozen=True)
class Found:
    """What one cell showed: totals in seconds by point."""

    cell: int
    model: str
    share: float
    link: str
    first: int | None
    """The point that was planned; None: a cut that several tensors cross ..."""
    after: int | None
    """... and the one that ran after fifteen inferences."""
    moves: int
    tries: int
    totals: Mapping[str, Sequence[float]]
    at: str = ""

    def total_s(self, point: int) -> float:
        """Its median."""
        return median(self.totals[str(point)])

    @property
    def best(self) -> int:
        """The point with the least median, of those that were run in turns."""
        return min((int(name) for name, runs in self.totals.items() if len(runs) > 1), key=self.total_s)

    def ratio(self, point: int | None) -> float:
        """How much longer one takes than the best."""
        return math.inf if point is None else self.total_s(point) / self.total_s(self.best)

    @property
    def noise(self) -> float:
        """By how much two halves of the turns differ, for the best."""
        runs = self.totals[str(self.best)]
        even, odd = median(runs[::2]), median(runs[1::2])
        return max(even, odd) / min(even, odd) - 1


# --- profiles that are wrong


def cell_of(number: int, edge: StoredProfile, model: str) -> Cell:
    """Drawn with its number as the seed."""
    rng = random.Random(number)
    graph, whole_s = graph_of(edge), sum(edge.profile.seconds)
    edge_s = math.exp(rng.uniform(*map(math.log, EDGE_S)))
    share = min(MOST_SHARE, whole_s / edge_s)
    edge_s, rtt_s = whole_s / share, rng.choice((0.005, 0.01, 0.03))
    want_s = edge_s * 2 ** rng.uniform(-1, 1)
    rest_s = max(0.05 * edge_s, want_s - whole_s - rtt_s)
    rate = 8e-6 * PICTURE * graph.layers[0].out_bytes / rest_s
    kinds = sorted({layer.kind for layer in graph.layers})
    factors = [{kind: math.exp(rng.uniform(math.log(LEAST), math.log(MOST))) for kind in kinds} for _ in range(2)]
    return Cell(number, model, round(share, 3), f"{rate:.2f}mbit,{1e3 * rtt_s:g}ms", *factors)


def graph_of(stored: StoredProfile) -> LayerGraph:
    """That of a profile."""
    return parse(stored.graph, "the profile")[0]


def kept(folder: Path, model: str, clock: str) -> StoredProfile | None:
    """The newest profile of a network on one thread, in time of the processor (`work`) or elapsed (`wall`)."""
    for path in store.profile_paths(folder, model):
        if json.loads(path.read_text())["key"]["schema"] == SCHEMA:
            stored = store.read(path)
            key = stored.profile.key
            if (key.threads, key.backend, key.clock) == (1, "torch", clock):
                return stored
    return None


def measured(folder: Path, model: str) -> tuple[StoredProfile, StoredProfile]:
    """What both sides take, measured by the programs themselves where it was not yet."""
    if kept(folder, model, "work") is None or kept(folder, model, "wall") is None:
        with running_cloud(folder, "--threads", "1") as cloud:
            command = edge_command(Cell(0, model, 0.5, "", {}, {}), ("127.0.0.1", cloud.port), folder)
            subprocess.run([*command, "--repeat", "1"], cwd=ROOT, check=True, capture_output=True, timeout=ANSWER_S)
    edge, cloud_side = kept(folder, model, "work"), kept(folder, model, "wall")
    if edge is None or cloud_side is None:
        raise SystemExit(f"{model} was not measured")
    return edge, cloud_side


def write_wrong(stored: StoredProfile, factors: Mapping[str, float], folder: Path) -> None:
    """The same profile with every kind of layer wrong by its factor."""
    graph, profile = graph_of(stored), stored.profile
    by = np.array([factors[layer.kind] for layer in graph.layers])
    passes = tuple(tuple((by * np.array(row)).tolist()) for row in profile.passes)
    before, after = np.array(profile.seconds), by * np.array(profile.seconds)
    tails = {
        layer: tuple(s - float(before[layer + 1 :].sum()) + float(after[layer + 1 :].sum()) for s in runs)
        for layer, runs in profile.tails.items()
    }
    store.save(folder, replace(profile, passes=passes, tails=tails), graph)


# --- the programs


def edge_command(cell: Cell, address: tuple[str, int], folder: Path) -> list[str]:
    """The real edge."""
    return [
        *(sys.executable, "edge_api.py", "-t", cell.model, "-i", address[0], "-p", str(address[1])),
        *("--emulate-cpu", str(cell.share), "--threads", "1", "--times", "measured", "--json"),
        *("--cache-dir", str(folder)),
    ]


@contextmanager
def forced_edge(cell: Cell, address: tuple[str, int], folder: Path) -> Iterator["Forced"]:
    """An edge that runs the points that it is told."""
    command = [*edge_command(cell, address, folder), "--points", "-", "--repeat", "1", "--warm-up", "0"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Forced(process)
    finally:
        process.kill()
        process.communicate()


class Forced:
    """A running edge_api.py --points -."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, point: int) -> float:
        """One inference; seconds in all."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{point}\n")
        self._process.stdin.flush()
        document = json.loads(self._process.stdout.readline())
        if "error" in document:
            raise SystemExit(f"point {point}: {document['error']}")
        return float(document["measured"]["repeats"][0]["total_s"])


def adapted(cell: Cell, address: tuple[str, int], folder: Path) -> dict[str, Any]:
    """The document of an edge that was not told anything."""
    command = [*edge_command(cell, address, folder), "--repeat", str(INFERENCES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the edge ended with {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def points_of(document: Mapping[str, Any], seen: Sequence[int], edge_s: float) -> list[int]:
    """Those that are measured: not those whose upload alone takes longer than all on the edge does."""
    last, rate = len(document["candidates"]) - 1, document["link"]["up_bytes_per_s"]
    short = [each["point"] for each in document["candidates"] if each["boundary_bytes"] / rate < CLOSE * edge_s]
    spread = np.linspace(0, len(short) - 1, min(MOST_POINTS, len(short))).round().astype(int).tolist()
    return sorted({0, last, *(short[number] for number in spread), *seen})


def measure(cell: Cell, sides: tuple[StoredProfile, StoredProfile], kept_folder: Path) -> Found:
    """Run a cell: the edge that adapts, then all points."""
    with TemporaryDirectory() as name:
        folders = Path(name) / "edge", Path(name) / "cloud"
        for folder, stored, factors in zip(folders, sides, (cell.edge, cell.cloud), strict=True):
            for part in ("speed", "packing"):
                if (kept_folder / part).is_dir():
                    shutil.copytree(kept_folder / part, folder / part)
            write_wrong(stored, factors, folder)
        with (
            running_cloud(folders[1], "--threads", "1") as cloud,
            emulated_link("127.0.0.1", cloud.port, cell.link) as relay,
        ):
            address = relay.address()
            document = adapted(cell, address, folders[0])
            moves = document["plan"]["moves"]
            first = moves[0]["from"] if moves else document["plan"]["point"]
            soon = [move["to"] for move in moves if move["at"] <= SOON]
            after = soon[-1] if soon else first
            seen = [point for point in (first, after) if point is not None]
            with forced_edge(cell, address, folders[0]) as forced:
                points = points_of(document, seen, sum(sides[0].profile.seconds) / cell.share)
                totals = in_turns(forced, points, seen, random.Random(cell.number))
    at = fingerprint()["date"]
    about = cell.number, cell.model, cell.share, cell.link
    return Found(*about, first, after, len(moves), document["plan"]["tries"], totals, at)


def in_turns(forced: Forced, points: list[int], seen: Sequence[int], rng: random.Random) -> dict[str, list[float]]:
    """All points once, after one that wakes both sides up; then the close ones in turns, each time in another order."""
    for point in points:
        forced.run(point)  # what a point runs for the first time is made ready
    rng.shuffle(points)
    once = {point: forced.run(point) for point in points}
    limit = CLOSE * min(once.values())
    close = [point for point in points if once[point] <= limit or point in seen or point in (0, max(points))]
    turns: dict[int, list[float]] = {point: [] for point in close}
    for _ in range(TURNS):
        rng.shuffle(close)
        for point in close:
            turns[point].append(forced.run(point))
    return {str(point): turns.get(point) or [total_s] for point, total_s in sorted(once.items())}


# --- the table


def row(found: Found) -> list[str]:
    """Of one cell."""
    ratio = found.ratio(found.after)
    ends = [found.total_s(point) for point in (0, max(map(int, found.totals)))]
    return [
        str(found.cell),
        found.model,
        f"{found.share:g}",
        found.link,
        f"{1e3 * ends[1]:.0f}, {1e3 * ends[0]:.0f}",
        f"{found.first} ({found.ratio(found.first):.2f})",
        f"{found.after} ({ratio:.2f})",
        f"{found.best} ({1e3 * found.total_s(found.best):.0f} ms)",
        f"{found.noise:.0%}",
        f"{found.moves}, {found.tries}",
        "yes" if ratio <= RIGHT else "within noise" if ratio <= RIGHT + found.noise else "no",
    ]


HEAD = [
    "cell",
    "network",
    "cores",
    "link",
    "edge, cloud alone (ms)",
    "first (x best)",
    "16th (x best)",
    "best",
    "noise",
]
HEAD += ["moves, tries", "within 1.05"]


def load() -> dict[int, Found]:
    """What was measured, by cell."""
    if not RECORDS.is_file():
        return {}
    rows = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    return {each["cell"]: Found(**each) for each in rows}


def main() -> None:
    """Run cells; write the table of all that there are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", default=",".join(map(str, range(CELLS))), help="numbers, or nothing: only the table")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="of measured profiles")
    options = parser.parse_args()
    for number in (int(text) for text in options.cells.split(",") if text):
        model = MODELS[number % len(MODELS)]
        sides = measured(options.folder, model)
        found = load() | {number: measure(cell_of(number, sides[0], model), sides, options.folder)}
        RECORDS.write_text("".join(f"{json.dumps(asdict(each))}\n" for _, each in sorted(found.items())))
        print(*row(found[number]), sep=" | ", flush=True)
    every = [found for _, found in sorted(load().items())]
    right = sum(found.ratio(found.after) <= RIGHT for found in every)
    notes = [
        f"Within 1.05 of the best point: {right} of {len(every)} (first plan: "
        f"{sum(found.ratio(found.first) <= RIGHT for found in every)}). What the words mean: `benchmarks/cells.py`.",
    ]
    write_table("worlds_real", "Wrong predictions in real cells", HEAD, [row(found) for found in every], notes)


if __name__ == "__main__":
    main()
