"""Every network of the registry and every classification network of torchvision, exported as a bundle.

    python -m benchmarks.exports [--folder DIR] [--seconds S] [NETWORK ...]

Each is written by `deployment.py export`'s own function, which compares both halves of every cut, run by ONNX Runtime,
with the network in torch. Then three cuts of the bundle that was written are run again, on another input, and compared
with the module itself, in plain torch. Results are kept in DIR, so that a run goes on where another one ended; the
bundles are not. A network that needs more memory than is free is left out, and said so.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from edgecloud.engine import certificates
from edgecloud.engine.executor import make_executor
from edgecloud.models import bundle_network, registry, weights
from edgecloud.tools import export
from edgecloud.utils.errors import AppError

CLOSE, AGAIN = 1e-4, 3
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
        again, same_top = compared_again(name, path)
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
    )


def compared_again(name: str, path: Path) -> tuple[float, bool]:
    """How far some cuts are from the module in plain torch, on another input than was exported with."""
    network = bundle_network.read(path)
    executor = make_executor(network, "cpu", backend="onnxruntime")
    x = np.ascontiguousarray(network.example.array[..., ::-1]) * np.float32(0.7)
    with torch.no_grad():
        expected = weights.load(registry.built_in(name)).model(torch.from_numpy(x.copy())).numpy()
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
    differences = (f"{row.certified:.1e}", f"{row.again:.1e}")
    batches = "any" if row.is_batched else "1"
    sizes = (str(row.layers), str(row.cuts), batches, f"{row.megabytes:.3g} MB", f"{row.seconds:.0f} s")
    return [row.name, *sizes, " / ".join(differences), "" if row.same_top else "ANOTHER TOP-1"]


def main(argv: Sequence[str] | None = None) -> int:
    """Export what is not exported yet, and write benchmarks/results/exports.md; 1 where an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="*", default=names(), metavar="NETWORK")
    parser.add_argument("--folder", type=Path, default=Path("exports"), metavar="DIR")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="begin no other one after so long")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for name in options.networks:
        file = options.folder / f"{name.replace(':', '_')}.json"
        if file.is_file() or time.monotonic() - began > options.seconds:
            continue
        row = row_of(name)
        file.write_text(json.dumps(asdict(row)))
        print(" | ".join(cells(row)), file=sys.stderr, flush=True)
    rows = [Row(**json.loads(file.read_text())) for file in sorted(options.folder.glob("*.json"))]
    exported = [row for row in rows if not row.reason]
    is_good = all(row.same_top and max(row.certified, row.again) <= CLOSE for row in exported)
    head = ["network", "layers", "cuts", "batch", "bundle", "export took", "differs by, every cut / again", ""]
    notes = [
        f"{len(exported)} of {len(names())} networks exported. Differences are shares of the largest number of the "
        f"answer, of every cut when it was exported, and of {AGAIN + 1} cuts on another input; at most {CLOSE:g} and "
        f"the same top-1 is the target: {'met' if is_good else 'MISSED'}.",
    ]
    write_table("exports", "Exports", head, [cells(row) for row in rows], notes)
    return int(not is_good)


if __name__ == "__main__":
    sys.exit(main())
