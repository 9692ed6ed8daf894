"""Every network of the registry and every classification network of torchvision, exported as a bundle.

    python -m benchmarks.exports [--seconds S] [--each S] [--again] [NETWORK ...]

Each is written by `deployment.py export`'s own function, which compares both halves of every cut, run by ONNX Runtime,
with the network in torch. Then some cuts of the bundle that was written are run again, on another input, and compared
with the module itself, in plain torch: in ONNX Runtime, and, where it is installed, in OpenVINO. Rows are kept in
benchmarks/results/exports.jsonl, so that a run goes on where another one ended, the smallest networks first; bundles
are not kept. Each has a process of its own: one that takes longer than `--each`, or needs more memory than there is, is
a row with its reason, and is only tried again with `--again`.

Weights are those of seed 0. With them some deep networks are so sensitive that torch's own answer in float32 is far
from that in float64. Export refuses these and says so: with them nothing can be compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.fingerprint import RESULTS, write_table
from edgecloud.engine import certificates
from edgecloud.engine.executor import ONNXRUNTIME, OPENVINO, make_executor
from edgecloud.models import bundle_network, registry, weights
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.network import Array
from edgecloud.tools import export
from edgecloud.utils.errors import AppError
from edgecloud.utils.extras import is_there
from edgecloud.utils.files import write_atomically

ROWS = RESULTS / "exports.jsonl"
CLOSE, AGAIN = 1e-4, 3
EACH_S = 1800.0
TIMES_OF_WEIGHTS = 5
"""So many copies of its weights are in memory while a network is exported, at most."""


@dataclass(frozen=True)
class Row:
    """What became of one network."""

    name: str
    reason: str = ""
    """Why it was not exported."""
    layers: int = 0
    cuts: int = 0
    is_batched: bool = False
    megabytes: float = 0.0
    seconds: float = 0.0
    certified: float = 0.0
    """The largest difference of any cut from torch, as a share of the largest number of the answer ..."""
    again: float = 0.0
    """... and of some cuts on another input."""
    same_top: bool = True
    openvino: float | None = None
    """The same as `again` in OpenVINO; None where that is not installed or did not run it."""
    openvino_reason: str = ""
    """Why OpenVINO did not run it."""


def names() -> tuple[str, ...]:
    """Of all that are to be exported."""
    return (*registry.NAMES, *(f"{registry.TORCHVISION}{name}" for name in registry.torchvision_names()))


def row_of(name: str) -> Row:
    """Export a network and compare it."""
    needed, free = TIMES_OF_WEIGHTS * registry.lookup(name).parameter_bytes, free_bytes()
    if needed > free:
        return Row(name, f"left out: about {needed / 1e9:.0f} GB of memory are needed, {free / 1e9:.0f} GB are free")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.bundle"
        try:
            written = export.export(name, "default", path, lambda _what, _done: None)
        except AppError as error:
            return Row(name, str(error))
        again, same_top, openvino, openvino_reason = compared_again(name, path)
    content = written.content
    return Row(
        name=name,
        layers=len(content.graph.layers) - 1,
        cuts=len({each.point for each in content.certificates}),
        is_batched=content.is_batched,
        megabytes=written.bytes / 1e6,
        seconds=written.seconds,
        certified=written.worst.largest_difference / max(written.worst.largest, 1e-30),
        again=again,
        same_top=same_top and all(each.is_same_top for each in content.certificates),
        openvino=openvino,
        openvino_reason=openvino_reason,
    )


def compared_again(name: str, path: Path) -> tuple[float, bool, float | None, str]:
    """How far some cuts are from the module in plain torch, on another input than was exported with: in ONNX Runtime,
    whether they have the same top-1 in all, in OpenVINO, and why not there."""
    network = bundle_network.read(path)
    x = np.ascontiguousarray(network.example.array[..., ::-1]) * np.float32(0.7)
    with torch.no_grad():
        expected = weights.load(registry.built_in(name)).model(torch.from_numpy(x.copy())).numpy()
    again, same_top = compared_in(ONNXRUNTIME, network, x, expected)
    if not is_there(OPENVINO):
        return again, same_top, None, ""
    try:
        openvino, same_top_there = compared_in(OPENVINO, network, x, expected)
    except AppError as error:
        return again, same_top, None, str(error)
    return again, same_top and same_top_there, openvino, ""


def compared_in(backend: str, network: BundleNetwork, x: Array, expected: Array) -> tuple[float, bool]:
    """The largest difference, as a share of the largest number, and whether the top-1 is the same."""
    executor = make_executor(network, "cpu", backend=backend)
    last = len(network.graph.points) - 1
    worst, same_top = 0.0, True
    for point in sorted({last * number // AGAIN for number in range(AGAIN + 1)}):
        (answer,) = certificates.run(executor, network.graph.head_at(point), x)
        worst = max(worst, float(np.abs(answer - expected).max() / np.abs(expected).max()))
        same_top &= bool((answer.argmax(-1) == expected.argmax(-1)).all())
    return worst, same_top


def free_bytes() -> float:
    """Memory that is free, as Linux says it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def cells(row: Row) -> list[str]:
    """One row of the table."""
    if row.reason:
        return [row.name, "", "", "", "", "", "", row.reason]
    in_openvino = "-" if row.openvino is None else f"{row.openvino:.1e}"
    differences = (f"{row.certified:.1e}", f"{row.again:.1e}", in_openvino)
    batches = "any" if row.is_batched else "1"
    sizes = (str(row.layers), str(row.cuts), batches, f"{row.megabytes:.3g} MB", f"{row.seconds:.0f} s")
    remark = row.openvino_reason if row.same_top else "ANOTHER TOP-1"
    return [row.name, *sizes, " / ".join(differences), remark]


def rows_in(path: Path) -> dict[str, Row]:
    """What is known already, by the names of the networks."""
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {row.name: row for row in rows}


def keep(path: Path, rows: Mapping[str, Row]) -> None:
    """One line for each network, in the order of their names."""
    write_atomically(path, "".join(json.dumps(asdict(rows[name])) + "\n" for name in sorted(rows)))


def in_its_own_process(name: str, each_s: float) -> Row:
    """The row of one network, whatever becomes of the process that makes it."""
    command = [sys.executable, "-m", "benchmarks.exports", "--alone", name]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=each_s, check=False, text=True)
    except subprocess.TimeoutExpired:
        return Row(name, f"not done within {each_s:.0f} s")
    if done.returncode:
        return Row(name, f"ended with code {done.returncode}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def smallest_first(chosen: Sequence[str]) -> list[str]:
    """By the parameters that they have."""
    return sorted(chosen, key=lambda name: registry.lookup(name).parameter_bytes)


def write_up(rows: Mapping[str, Row]) -> bool:
    """Write benchmarks/results/exports.md; whether all answers are right."""
    exported = [row for row in rows.values() if not row.reason]
    in_openvino = [row for row in exported if row.openvino is not None]
    is_good = all(row.same_top and max(row.certified, row.again, row.openvino or 0.0) <= CLOSE for row in exported)
    differs = "differs by, every cut / again / again in OpenVINO"
    head = ["network", "layers", "cuts", "batch", "bundle", "export took", differs, ""]
    notes = [
        f"{len(exported)} of {len(names())} networks exported, {len(rows) - len(exported)} not, and the others not "
        f"tried. Differences are shares of the largest number of the answer, of every cut when it was exported, and of "
        f"{AGAIN + 1} cuts on another input, in ONNX Runtime and, of {len(in_openvino)} networks, in OpenVINO; at most "
        f"{CLOSE:g} and the same top-1 is the target: {'met' if is_good else 'MISSED'}. Times are those of a busy "
        "machine.",
    ]
    write_table("exports", "Exports", head, [cells(rows[name]) for name in sorted(rows)], notes)
    return is_good


def main(argv: Sequence[str] | None = None) -> int:
    """Export what is not exported yet, and write benchmarks/results/exports.md; 1 where an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="*", default=names(), metavar="NETWORK")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="begin no other one after so long")
    parser.add_argument("--each", type=float, default=EACH_S, metavar="S", help="end one that takes longer")
    parser.add_argument("--again", action="store_true", help="also those that are known already")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.alone:
        print(json.dumps(asdict(row_of(options.networks[0]))))
        return 0
    began = time.monotonic()
    for name in smallest_first(options.networks):
        if (name in rows_in(ROWS) and not options.again) or time.monotonic() - began > options.seconds:
            continue
        row = in_its_own_process(name, options.each)
        keep(ROWS, rows_in(ROWS) | {name: row})
        print(" | ".join(cells(row)), file=sys.stderr, flush=True)
    return int(not write_up(rows_in(ROWS)))


if __name__ == "__main__":
    sys.exit(main())
